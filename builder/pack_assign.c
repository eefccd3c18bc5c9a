/*
 * pack_assign.c - which rows share a block: restreaming linear deterministic greedy, then swaps.
 *
 * Each row, in stream order, goes to the block it is most drawn to, weighted by the room left there
 * (Stanton and Kliot, KDD'12). Later rounds stream again with the previous round's blocks standing
 * in for rows not yet seen (Nishimura and Ugander, KDD'13). At last, pairs of rows change places
 * where that puts more weight inside blocks.
 *
 * What draws a row is the weight of its edges to and from the rows of a block. Only the nearest
 * edges of a list count, the nearer the more: a query's answers are near one another, so the far
 * edges, which are there to be walked along, tell little about which rows one query wants.
 *
 * Departure: rows go in small batches. The edges of a batch are weighed against the blocks as they
 * stood before it, by all threads; then its rows are placed one after another by one thread. The
 * size of a batch depends on n alone, so the result does not depend on the team.
 */
#include <omp.h>
#include <string.h>

#include "builder/pack_internal.h"
#include "common/memory.h"
#include "common/random.h"

#define NO_BLOCK UINT32_MAX

enum {
    IN_EDGES_MAX = 256, /* in-edges weighed a row: hubs have more, none of them telling */
    TALLY_SLOTS = 1024, /* over twice the edges weighed */
    BATCH_MAX = 16384,
    BATCH_MIN = 64,
    BATCHES_MIN = 64,
    SWAP_BLOCKS = 2, /* best blocks a row tries to move to */
    PREFETCH_ROWS = 4,
    LINE_WORDS = 16, /* of a cache line */
};

static enum status u32_array(uint32_t **out, size_t count, const char *what, struct error *err)
{
    void *memory = NULL;
    enum status status = bulk_alloc(count, sizeof(uint32_t), what, &memory, err);
    *out = memory;
    return status;
}

/* ---- edges ---- */

uint32_t pack_edge_weight(uint32_t rank, uint32_t kept)
{
    /* 100 * (1 + rank)^-0.35 */
    static const uint8_t weights[PACK_NEAR] = {100, 78, 68, 62, 57, 53, 51, 48, 46, 45, 43,
                                               42,  41, 40, 39, 38, 37, 36, 36, 35, 34, 34,
                                               33,  33, 32, 32, 32, 31, 31, 30, 30, 30};
    /* Edges that must stay stand in front whatever their length: taken for middling near ones. */
    enum { KEPT_RANK = 4 };
    return weights[rank < kept ? KEPT_RANK : rank - kept];
}

/* True if `position` is a row of the shard; then *row is it. */
ALWAYS_INLINE bool row_at(const struct pack_work *work, uint32_t position, uint32_t *row)
{
    *row = position - work->first;
    return *row < work->graph->count;
}

ALWAYS_INLINE uint32_t near_count(const struct pack_work *work, uint32_t row)
{
    return MIN(graph_degree(work->graph, row), (uint32_t)PACK_NEAR);
}

ALWAYS_INLINE uint32_t kept_count(const struct pack_work *work, uint32_t row)
{
    return work->kept != NULL ? work->kept[row] : 0;
}

/* A thread's share of the targets. Each thread reads all lists, which costs little beside the
 * scattered writes, and sees its targets' edges in order of source. */
static void targets_share(uint32_t count, uint32_t *first, uint32_t *end)
{
    uint64_t thread = (uint64_t)omp_get_thread_num();
    uint64_t threads = (uint64_t)omp_get_num_threads();
    *first = (uint32_t)(count * thread / threads);
    *end = (uint32_t)(count * (thread + 1) / threads);
}

/* Counts the in-edges of row r at in_starts[r + 1]. */
static void in_edges_count(struct pack_work *work)
{
    const struct graph *graph = work->graph;
#pragma omp parallel
    {
        uint32_t first, end;
        targets_share(graph->count, &first, &end);
        for (uint32_t row = 0; row < graph->count; row++) {
            const uint32_t *ids = graph_neighbors(graph, row);
            uint32_t count = near_count(work, row);
            for (uint32_t i = 0; i < count; i++) {
                uint32_t target = ids[i] - work->first;
                if (target - first < end - first)
                    work->in_starts[target + 1]++;
            }
        }
    }
    for (uint32_t row = 0; row < graph->count; row++)
        work->in_starts[row + 1] += work->in_starts[row];
    work->edge_count = work->in_starts[graph->count];
}

static void in_edges_fill(struct pack_work *work)
{
    const struct graph *graph = work->graph;
    uint64_t *starts = work->in_starts;
#pragma omp parallel
    {
        uint32_t first, end;
        targets_share(graph->count, &first, &end);
        for (uint32_t row = 0; row < graph->count; row++) {
            const uint32_t *ids = graph_neighbors(graph, row);
            uint32_t count = near_count(work, row);
            uint32_t kept = kept_count(work, row);
            for (uint32_t i = 0; i < count; i++) {
                uint32_t target = ids[i] - work->first;
                if (target - first >= end - first)
                    continue;
                uint64_t place = starts[target]++;
                work->in_rows[place] = row;
                work->in_weights[place] = (uint8_t)pack_edge_weight(i, kept);
            }
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
    *work = (struct pack_work){.graph = input->graph, .kept = input->kept, .first = input->first};
    void *starts = NULL;
    void *weights = NULL;
    void *choices = NULL;
    enum status status = bulk_alloc(count + 1, sizeof(uint64_t), "in-edge starts", &starts, err);
    work->in_starts = starts;
    if (!status)
        in_edges_count(work);
    if (!status)
        status = bulk_alloc(BATCH_MAX, sizeof(struct pack_choice), "block choices", &choices, err);
    work->choices = choices;
    if (!status)
        status = u32_array(&work->in_rows, work->edge_count, "in-edges", err);
    if (!status)
        status = bulk_alloc(work->edge_count, sizeof(uint8_t), "in-edge weights", &weights, err);
    work->in_weights = weights;
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
    if (work->in_weights)
        bulk_free(work->in_weights, work->edge_count, sizeof(uint8_t));
    if (work->in_starts)
        bulk_free(work->in_starts, count + 1, sizeof(uint64_t));
    if (work->choices)
        bulk_free(work->choices, BATCH_MAX, sizeof(struct pack_choice));
    memset(work, 0, sizeof(*work));
}

/* ---- weighing blocks ---- */

/* Weight by block: a small open-addressing table, one a thread, empty between rows. */
struct tally {
    uint32_t block[TALLY_SLOTS];
    uint32_t weight[TALLY_SLOTS];
    uint16_t used[PACK_NEAR + IN_EDGES_MAX]; /* slots in use */
    uint32_t used_count;
};

static void tally_clear(struct tally *t)
{
    for (uint32_t u = 0; u < t->used_count; u++)
        t->block[t->used[u]] = NO_BLOCK;
    t->used_count = 0;
}

static void tally_add(struct tally *t, uint32_t block, uint32_t weight)
{
    if (block == NO_BLOCK)
        return;
    uint32_t slot = (block * 0x9e3779b1u) >> 22;
    while (t->block[slot] != block && t->block[slot] != NO_BLOCK)
        slot = (slot + 1) % TALLY_SLOTS;
    if (t->block[slot] == NO_BLOCK) {
        t->block[slot] = block;
        t->weight[slot] = 0;
        t->used[t->used_count++] = (uint16_t)slot;
    }
    t->weight[slot] += weight;
}

ALWAYS_INLINE uint64_t in_edges_end(const struct pack_work *work, uint32_t row)
{
    return MIN(work->in_starts[row + 1], work->in_starts[row] + IN_EDGES_MAX);
}

static void tally_row(const struct pack_work *work, uint32_t row, struct tally *t)
{
    const uint32_t *out = graph_neighbors(work->graph, row);
    uint32_t out_count = near_count(work, row);
    uint32_t kept = kept_count(work, row);
    for (uint32_t i = 0; i < out_count; i++) {
        uint32_t target;
        if (row_at(work, out[i], &target))
            tally_add(t, work->block_of_row[target], pack_edge_weight(i, kept));
    }
    uint64_t in_end = in_edges_end(work, row);
    for (uint64_t i = work->in_starts[row]; i < in_end; i++)
        tally_add(t, work->block_of_row[work->in_rows[i]], work->in_weights[i]);
}

/* The blocks of most weight, most first, ties by lower number. */
static void choice_fill(const struct tally *t, struct pack_choice *choice)
{
    choice->count = 0;
    for (uint32_t u = 0; u < t->used_count; u++) {
        uint32_t block = t->block[t->used[u]];
        uint32_t weight = t->weight[t->used[u]];
        uint32_t place = choice->count;
        while (place > 0 &&
               (choice->weight[place - 1] < weight ||
                (choice->weight[place - 1] == weight && choice->block[place - 1] > block)))
            place--;
        if (place == PACK_CHOICES)
            continue;
        if (choice->count < PACK_CHOICES)
            choice->count++;
        for (uint32_t i = choice->count - 1; i > place; i--) {
            choice->block[i] = choice->block[i - 1];
            choice->weight[i] = choice->weight[i - 1];
        }
        choice->block[place] = block;
        choice->weight[place] = weight;
    }
}

static uint32_t batch_size(uint32_t count)
{
    return MIN(MAX(count / BATCHES_MIN, (uint32_t)BATCH_MIN), (uint32_t)BATCH_MAX);
}

/* Rows come in random order, so what a row takes is asked for ahead: first where its edges are,
 * then the edges. */
static void row_prefetch(const struct pack_work *work, uint32_t row)
{
    enum { WORDS = 1 + PACK_NEAR }; /* degree and ids */
    const uint32_t *out = graph_neighbors(work->graph, row) - 1;
    PREFETCH(work->in_starts + row);
    for (uint32_t word = 0; word < WORDS; word += LINE_WORDS)
        PREFETCH(out + word);
}

static void in_edges_prefetch(const struct pack_work *work, uint32_t row)
{
    const uint32_t *in = work->in_rows + work->in_starts[row];
    PREFETCH(work->in_weights + work->in_starts[row]);
    for (uint32_t word = 0; word < PACK_NEAR; word += LINE_WORDS)
        PREFETCH(in + word);
}

/* Fills work->choices for the rows order[first .. first + count), all threads. */
static void choices_fill(struct pack_work *work, uint32_t first, uint32_t count)
{
#pragma omp parallel
    {
        struct tally t = {.used_count = 0};
        memset(t.block, 0xff, sizeof(t.block));
#pragma omp for schedule(dynamic, 32)
        for (uint32_t i = 0; i < count; i++) {
            row_prefetch(work, work->order[first + MIN(i + 2 * PREFETCH_ROWS, count - 1)]);
            in_edges_prefetch(work, work->order[first + MIN(i + PREFETCH_ROWS, count - 1)]);
            tally_row(work, work->order[first + i], &t);
            choice_fill(&t, &work->choices[i]);
            tally_clear(&t);
        }
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
        uint64_t score = (uint64_t)choice->weight[i] * (capacity - work->load[block]);
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

/* What a row's own edges say of a move to another block whose row `leaving` makes room. */
struct pull {
    int32_t gain;    /* weight that comes inside, less what goes; without edges to `leaving` */
    int32_t between; /* weight of the edges between the row and `leaving` */
};

ALWAYS_INLINE void pull_add(struct pull *pull, uint32_t block, uint32_t from, uint32_t to,
                            bool leaving, int32_t weight)
{
    pull->gain += block == to ? weight : 0;
    pull->gain -= block == from ? weight : 0;
    pull->between += leaving ? weight : 0;
}

static struct pull pull_of(const struct pack_work *work, uint32_t row, uint32_t to,
                           uint32_t leaving)
{
    struct pull pull = {0, 0};
    uint32_t from = work->block_of_row[row];
    const uint32_t *out = graph_neighbors(work->graph, row);
    uint32_t out_count = near_count(work, row);
    uint32_t kept = kept_count(work, row);
    for (uint32_t i = 0; i < out_count; i++) {
        uint32_t target;
        if (row_at(work, out[i], &target))
            pull_add(&pull, work->block_of_row[target], from, to, target == leaving,
                     (int32_t)pack_edge_weight(i, kept));
    }
    uint64_t in_end = in_edges_end(work, row);
    for (uint64_t i = work->in_starts[row]; i < in_end; i++)
        pull_add(&pull, work->block_of_row[work->in_rows[i]], from, to, work->in_rows[i] == leaving,
                 work->in_weights[i]);
    pull.gain -= pull.between;
    return pull;
}

/* Weight moved inside blocks if rows a and b changed places. */
static int32_t swap_gain(const struct pack_work *work, uint32_t a, uint32_t b)
{
    return pull_of(work, a, work->block_of_row[b], b).gain +
           pull_of(work, b, work->block_of_row[a], a).gain;
}

/* The best partner of `row` among the blocks it is most drawn to, in choice->partner. */
static void partner_find(const struct pack_work *work, uint32_t row, uint32_t capacity,
                         struct pack_choice *choice)
{
    uint32_t own = work->block_of_row[row];
    int32_t own_weight = 0;
    for (uint32_t i = 0; i < choice->count; i++)
        if (choice->block[i] == own)
            own_weight = (int32_t)choice->weight[i];
    choice->partner = NO_BLOCK;
    int32_t best_gain = 0;
    uint32_t tried = 0;
    for (uint32_t i = 0; i < choice->count && tried < SWAP_BLOCKS; i++) {
        uint32_t block = choice->block[i];
        int32_t drawn = (int32_t)choice->weight[i] - own_weight;
        if (block == own)
            continue;
        if (drawn <= 0)
            break;
        tried++;
        const uint32_t *members = work->member + (size_t)block * capacity;
        for (uint32_t m = 0; m < work->load[block]; m++) {
            struct pull pull = pull_of(work, members[m], own, row);
            int32_t gain = drawn - pull.between + pull.gain;
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
