/*
 * pack_assign.c - which rows share a block: restreaming linear deterministic greedy, then swaps.
 *
 * Each row, in stream order, goes to the block with the most edges from and to it, weighted by the
 * room left there (Stanton and Kliot, KDD'12). Later rounds stream again with the previous round's
 * blocks standing in for rows not yet seen (Nishimura and Ugander, KDD'13). At last, pairs of rows
 * change places where that puts more edges inside blocks.
 *
 * Departure: rows go in small batches. The edges of a batch are counted against the blocks as they
 * stood before it, by all threads; then its rows are placed one after another by one thread. The
 * size of a batch depends on n alone, so the result does not depend on the team.
 */
#include <string.h>

#include "builder/pack_internal.h"
#include "common/memory.h"
#include "common/random.h"

#define NO_BLOCK UINT32_MAX

enum {
    IN_EDGES_MAX = 256, /* in-edges counted a row: hubs have more, none of them telling */
    TALLY_SLOTS = 1024, /* over twice the edges counted */
    BATCH_MAX = 16384,
    BATCH_MIN = 64,
    BATCHES_MIN = 64,
    SWAP_BLOCKS = 2, /* best blocks a row tries to move to */
};

static enum status u32_array(uint32_t **out, size_t count, const char *what, struct error *err)
{
    void *memory = NULL;
    enum status status = bulk_alloc(count, sizeof(uint32_t), what, &memory, err);
    *out = memory;
    return status;
}

/* True if `position` is a row of the shard; then *row is it. */
ALWAYS_INLINE bool row_at(const struct pack_work *work, uint32_t position, uint32_t *row)
{
    *row = position - work->first;
    return *row < work->graph->count;
}

/* Counts the in-edges of row r at starts[r + 1]; returns how many there are. */
static uint64_t in_edges_count(const struct pack_work *work, uint64_t *starts)
{
    const struct graph *graph = work->graph;
    uint64_t count = 0;
    for (uint32_t row = 0; row < graph->count; row++) {
        const uint32_t *ids = graph_neighbors(graph, row);
        for (uint32_t i = 0; i < graph_degree(graph, row); i++) {
            uint32_t target;
            if (row_at(work, ids[i], &target)) {
                starts[target + 1]++;
                count++;
            }
        }
    }
    return count;
}

static void in_edges_fill(struct pack_work *work)
{
    const struct graph *graph = work->graph;
    uint64_t *starts = work->in_starts;
    for (uint32_t row = 0; row < graph->count; row++)
        starts[row + 1] += starts[row];
    for (uint32_t row = 0; row < graph->count; row++) {
        const uint32_t *ids = graph_neighbors(graph, row);
        for (uint32_t i = 0; i < graph_degree(graph, row); i++) {
            uint32_t target;
            if (row_at(work, ids[i], &target))
                work->in_rows[starts[target]++] = row;
        }
    }
    /* Filling moved each start to the next one's place: shift them back. */
    memmove(starts + 1, starts, graph->count * sizeof(*starts));
    starts[0] = 0;
}

/* A seeded shuffle. Breadth-first and other orders that follow the graph do worse: they fill the
 * blocks of a region with its first comers (share of block-mates that are neighbours, 100 K SIFT,
 * 16 nodes a block, 8 rounds: 0.23 breadth-first, 0.30 shuffled). */
static void order_fill(struct pack_work *work, uint64_t seed)
{
    uint32_t count = work->graph->count;
    for (uint32_t i = 0; i < count; i++)
        work->order[i] = i;
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t j = (uint32_t)random_below(seed, i, (uint64_t)i + 1);
        uint32_t swapped = work->order[i];
        work->order[i] = work->order[j];
        work->order[j] = swapped;
    }
}

enum status pack_work_init(struct pack_work *work, const struct pack_input *input, uint64_t seed,
                           struct error *err)
{
    size_t count = input->graph->count;
    *work = (struct pack_work){.graph = input->graph, .first = input->first};
    void *starts = NULL;
    void *choices = NULL;
    enum status status = bulk_alloc(count + 1, sizeof(uint64_t), "in-edge starts", &starts, err);
    work->in_starts = starts;
    if (!status)
        work->edge_count = in_edges_count(work, starts);
    if (!status)
        status = bulk_alloc(BATCH_MAX, sizeof(struct pack_choice), "block choices", &choices, err);
    work->choices = choices;
    if (!status)
        status = u32_array(&work->in_rows, work->edge_count, "in-edges", err);
    if (!status)
        status = u32_array(&work->order, count, "stream order", err);
    if (!status)
        status = u32_array(&work->block_of_row, count, "blocks of rows", err);
    if (!status)
        status = u32_array(&work->load, count, "block loads", err);
    if (!status)
        status = u32_array(&work->member, 2 * count, "block members", err);
    if (status)
        return status;
    in_edges_fill(work);
    order_fill(work, seed);
    return STATUS_OK;
}

void pack_work_fini(struct pack_work *work)
{
    if (!work->graph)
        return;
    size_t count = work->graph->count;
    uint32_t *arrays[] = {work->order, work->block_of_row, work->load};
    for (size_t i = 0; i < ARRAY_LENGTH(arrays); i++)
        if (arrays[i])
            bulk_free(arrays[i], count, sizeof(uint32_t));
    if (work->member)
        bulk_free(work->member, 2 * count, sizeof(uint32_t));
    if (work->in_rows)
        bulk_free(work->in_rows, work->edge_count, sizeof(uint32_t));
    if (work->in_starts)
        bulk_free(work->in_starts, count + 1, sizeof(uint64_t));
    if (work->choices)
        bulk_free(work->choices, BATCH_MAX, sizeof(struct pack_choice));
    memset(work, 0, sizeof(*work));
}

/* ---- counting edges ---- */

/* Edges by block: a small open-addressing table. */
struct tally {
    uint32_t block[TALLY_SLOTS];
    uint16_t edges[TALLY_SLOTS];
    uint16_t used[BLOCK_DEGREE_MAX + IN_EDGES_MAX]; /* slots in use */
    uint32_t used_count;
};

static void tally_add(struct tally *t, uint32_t block)
{
    if (block == NO_BLOCK)
        return;
    uint32_t slot = (block * 0x9e3779b1u) >> 22;
    while (t->block[slot] != block && t->block[slot] != NO_BLOCK)
        slot = (slot + 1) % TALLY_SLOTS;
    if (t->block[slot] == NO_BLOCK) {
        t->block[slot] = block;
        t->edges[slot] = 0;
        t->used[t->used_count++] = (uint16_t)slot;
    }
    t->edges[slot]++;
}

static void tally_row(const struct pack_work *work, uint32_t row, struct tally *t)
{
    memset(t->block, 0xff, sizeof(t->block));
    t->used_count = 0;
    const uint32_t *out = graph_neighbors(work->graph, row);
    uint32_t out_count = graph_degree(work->graph, row);
    for (uint32_t i = 0; i < out_count; i++) {
        uint32_t target;
        if (row_at(work, out[i], &target))
            tally_add(t, work->block_of_row[target]);
    }
    const uint32_t *in = work->in_rows + work->in_starts[row];
    uint64_t in_count = work->in_starts[row + 1] - work->in_starts[row];
    for (uint64_t i = 0; i < MIN(in_count, (uint64_t)IN_EDGES_MAX); i++)
        tally_add(t, work->block_of_row[in[i]]);
}

/* The blocks with the most edges, most first, ties by lower number. */
static void choice_fill(const struct tally *t, struct pack_choice *choice)
{
    choice->count = 0;
    for (uint32_t u = 0; u < t->used_count; u++) {
        uint32_t block = t->block[t->used[u]];
        uint32_t edges = t->edges[t->used[u]];
        uint32_t place = choice->count;
        while (place > 0 &&
               (choice->edges[place - 1] < edges ||
                (choice->edges[place - 1] == edges && choice->block[place - 1] > block)))
            place--;
        if (place == PACK_CHOICES)
            continue;
        if (choice->count < PACK_CHOICES)
            choice->count++;
        for (uint32_t i = choice->count - 1; i > place; i--) {
            choice->block[i] = choice->block[i - 1];
            choice->edges[i] = choice->edges[i - 1];
        }
        choice->block[place] = block;
        choice->edges[place] = edges;
    }
}

static uint32_t batch_size(uint32_t count)
{
    return MIN(MAX(count / BATCHES_MIN, (uint32_t)BATCH_MIN), (uint32_t)BATCH_MAX);
}

/* Asks for the adjacency of a row that will be counted soon: rows come in random order. */
static void adjacency_prefetch(const struct pack_work *work, uint32_t row)
{
    enum { LINE_IDS = 16, LINES = 6 };
    const uint32_t *out = graph_neighbors(work->graph, row);
    const uint32_t *in = work->in_rows + work->in_starts[row];
    for (uint32_t line = 0; line < LINES; line++) {
        PREFETCH(out + line * LINE_IDS);
        PREFETCH(in + line * LINE_IDS);
    }
}

/* Fills work->choices for the rows order[first .. first + count), all threads. */
static void choices_fill(struct pack_work *work, uint32_t first, uint32_t count)
{
#pragma omp parallel for schedule(dynamic, 32)
    for (uint32_t i = 0; i < count; i++) {
        struct tally t;
        adjacency_prefetch(work, work->order[first + MIN(i + 2, count - 1)]);
        tally_row(work, work->order[first + i], &t);
        choice_fill(&t, &work->choices[i]);
    }
}

/* ---- greedy rounds ---- */

static uint32_t best_block(const struct pack_work *work, const struct pack_choice *choice,
                           uint32_t capacity)
{
    uint32_t best = NO_BLOCK;
    uint64_t best_score = 0;
    for (uint32_t i = 0; i < choice->count; i++) {
        uint32_t block = choice->block[i];
        uint64_t score = (uint64_t)choice->edges[i] * (capacity - work->load[block]);
        if (score > best_score) {
            best = block;
            best_score = score;
        }
    }
    return best;
}

void pack_assign_start(struct pack_work *work)
{
    memset(work->block_of_row, 0xff, (size_t)work->graph->count * sizeof(uint32_t));
}

void pack_assign_rounds(struct pack_work *work, uint32_t capacity, uint32_t block_count, int rounds)
{
    uint32_t count = work->graph->count;
    uint32_t batch = batch_size(count);
    for (int round = 0; round < rounds; round++) {
        memset(work->load, 0, (size_t)block_count * sizeof(uint32_t));
        uint32_t empty = 0; /* no block before it is empty */
        uint32_t room = 0;  /* no block before it has room */
        for (uint32_t first = 0; first < count; first += batch) {
            uint32_t rows = MIN(batch, count - first);
            choices_fill(work, first, rows);
            for (uint32_t i = 0; i < rows; i++) {
                uint32_t block = best_block(work, &work->choices[i], capacity);
                if (block == NO_BLOCK) {
                    while (empty < block_count && work->load[empty] > 0)
                        empty++;
                    while (work->load[room] == capacity)
                        room++;
                    block = empty < block_count ? empty : room;
                }
                work->load[block]++;
                work->block_of_row[work->order[first + i]] = block;
            }
        }
    }
}

/* ---- swaps ---- */

/* Edges between `row` and the rows of `block`, both ways. */
static int edges_to_block(const struct pack_work *work, uint32_t row, uint32_t block)
{
    int edges = 0;
    const uint32_t *out = graph_neighbors(work->graph, row);
    uint32_t out_count = graph_degree(work->graph, row);
    for (uint32_t i = 0; i < out_count; i++) {
        uint32_t target;
        edges += row_at(work, out[i], &target) && work->block_of_row[target] == block;
    }
    const uint32_t *in = work->in_rows + work->in_starts[row];
    uint64_t in_count = work->in_starts[row + 1] - work->in_starts[row];
    for (uint64_t i = 0; i < MIN(in_count, (uint64_t)IN_EDGES_MAX); i++)
        edges += work->block_of_row[in[i]] == block;
    return edges;
}

static int edges_between(const struct pack_work *work, uint32_t a, uint32_t b)
{
    int edges = 0;
    const uint32_t *ids = graph_neighbors(work->graph, a);
    for (uint32_t i = 0; i < graph_degree(work->graph, a); i++)
        edges += ids[i] - work->first == b;
    ids = graph_neighbors(work->graph, b);
    for (uint32_t i = 0; i < graph_degree(work->graph, b); i++)
        edges += ids[i] - work->first == a;
    return edges;
}

/* Edges moved inside blocks if rows a and b changed places. */
static int swap_gain(const struct pack_work *work, uint32_t a, uint32_t b)
{
    uint32_t block_a = work->block_of_row[a];
    uint32_t block_b = work->block_of_row[b];
    return edges_to_block(work, a, block_b) - edges_to_block(work, a, block_a) +
           edges_to_block(work, b, block_a) - edges_to_block(work, b, block_b) -
           2 * edges_between(work, a, b);
}

/* The best partner of `row` among the blocks it has most edges to, in choice->partner. */
static void partner_find(const struct pack_work *work, uint32_t row, uint32_t capacity,
                         struct pack_choice *choice)
{
    uint32_t own = work->block_of_row[row];
    int own_edges = 0;
    for (uint32_t i = 0; i < choice->count; i++)
        if (choice->block[i] == own)
            own_edges = (int)choice->edges[i];
    choice->partner = NO_BLOCK;
    int best_gain = 0;
    uint32_t tried = 0;
    for (uint32_t i = 0; i < choice->count && tried < SWAP_BLOCKS; i++) {
        uint32_t block = choice->block[i];
        if (block == own)
            continue;
        if ((int)choice->edges[i] <= own_edges)
            break;
        tried++;
        const uint32_t *members = work->member + (size_t)block * capacity;
        for (uint32_t m = 0; m < work->load[block]; m++) {
            int gain = (int)choice->edges[i] - own_edges + edges_to_block(work, members[m], own) -
                       edges_to_block(work, members[m], block) -
                       2 * edges_between(work, row, members[m]);
            if (gain > best_gain) {
                best_gain = gain;
                choice->partner = members[m];
            }
        }
    }
}

static void members_fill(struct pack_work *work, uint32_t capacity, uint32_t block_count)
{
    memset(work->load, 0, (size_t)block_count * sizeof(uint32_t));
    for (uint32_t row = 0; row < work->graph->count; row++) {
        uint32_t block = work->block_of_row[row];
        work->member[(size_t)block * capacity + work->load[block]++] = row;
    }
}

static void members_swap(struct pack_work *work, uint32_t a, uint32_t b, uint32_t capacity)
{
    uint32_t block_a = work->block_of_row[a];
    uint32_t block_b = work->block_of_row[b];
    uint32_t *place_a = work->member + (size_t)block_a * capacity;
    uint32_t *place_b = work->member + (size_t)block_b * capacity;
    while (*place_a != a)
        place_a++;
    while (*place_b != b)
        place_b++;
    *place_a = b;
    *place_b = a;
    work->block_of_row[a] = block_b;
    work->block_of_row[b] = block_a;
}

void pack_assign_swaps(struct pack_work *work, uint32_t capacity, uint32_t block_count, int passes)
{
    uint32_t count = work->graph->count;
    uint32_t batch = batch_size(count);
    members_fill(work, capacity, block_count);
    for (int pass = 0; pass < passes; pass++) {
        for (uint32_t first = 0; first < count; first += batch) {
            uint32_t rows = MIN(batch, count - first);
            choices_fill(work, first, rows);
#pragma omp parallel for schedule(dynamic, 32)
            for (uint32_t i = 0; i < rows; i++)
                partner_find(work, work->order[first + i], capacity, &work->choices[i]);
            /* A swap earlier in the batch may have taken the gain away: ask again. */
            for (uint32_t i = 0; i < rows; i++) {
                uint32_t row = work->order[first + i];
                uint32_t partner = work->choices[i].partner;
                if (partner != NO_BLOCK && work->block_of_row[row] != work->block_of_row[partner] &&
                    swap_gain(work, row, partner) > 0)
                    members_swap(work, row, partner, capacity);
            }
        }
    }
}

double pack_mate_share(const struct pack_work *work)
{
    const struct graph *graph = work->graph;
    uint64_t sharing = 0;
    double total = 0.0;
    for (uint32_t row = 0; row < graph->count; row++) {
        uint32_t block = work->block_of_row[row];
        if (work->load[block] < 2)
            continue;
        const uint32_t *ids = graph_neighbors(graph, row);
        uint32_t mates = 0;
        for (uint32_t i = 0; i < graph_degree(graph, row); i++) {
            uint32_t target;
            mates += row_at(work, ids[i], &target) && work->block_of_row[target] == block;
        }
        total += (double)mates / (work->load[block] - 1);
        sharing++;
    }
    return sharing ? total / (double)sharing : 0.0;
}
