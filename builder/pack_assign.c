/*
 * pack_assign.c - restreaming greedy: blocks form anew around the rows that sit best in them.
 *
 * Each row in turn goes to the block that draws it most, as far as there is room (linear
 * deterministic greedy: Stanton and Kliot, KDD'12); the last round's blocks stand in for rows that
 * have not had their turn (Nishimura and Ugander, KDD'13).
 *
 * Departures. The rows that were drawn most in the last round go first, so that a block is filled
 * by its core. Only the two blocks that draw a row most count; one that finds both full goes
 * wherever there is room at the end of the round, so that it takes no place in a third block from
 * rows that belong there. Weight falls with load to a half, not to nothing. Each of these is worth
 * several rounds: docs/EXPERIMENTS.md.
 *
 * Rows go in small batches: the edges of a batch are weighed against the blocks as they stood
 * before it, by all threads; then its rows are placed one after another by one thread. The size of
 * a batch depends on n alone, so the result does not depend on the team.
 */
#include <string.h>

#include "builder/pack_internal.h"

#define NO_BLOCK UINT32_MAX

enum {
    TALLY_SLOTS = 1024, /* over twice PACK_EDGES_MAX */
    BATCH_MIN = 1024,
    BATCHES_MIN = 16,
    PREFETCH_ROWS = 4,
};

/* ---- weighing blocks ---- */

/* Weight by block: a small open-addressing table, one a thread, empty between rows. */
struct tally {
    uint32_t block[TALLY_SLOTS];
    uint32_t weight[TALLY_SLOTS];
    uint16_t used[PACK_EDGES_MAX]; /* slots in use */
    uint32_t used_count;
};

static void tally_init(struct tally *t)
{
    memset(t->block, 0xff, sizeof(t->block));
    t->used_count = 0;
}

static void tally_add(struct tally *t, uint32_t block, uint32_t weight)
{
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

static void tally_row(struct tally *t, const struct pack_work *work, uint32_t row)
{
    struct pack_edge edges[PACK_EDGES_MAX];
    uint32_t blocks[PACK_EDGES_MAX];
    uint32_t degree = pack_edges_of(work, row, edges);
    /* First all look-ups, which miss the cache, then the branches that hang on them. */
    for (uint32_t i = 0; i < degree; i++)
        blocks[i] = work->block_of_row[edges[i].row];
    for (uint32_t i = 0; i < degree; i++)
        tally_add(t, blocks[i], edges[i].weight);
}

/* The blocks of most weight among those with room, most first; empties the table. */
static void tally_choose(struct tally *t, const struct pack_work *work, struct pack_choice *choice)
{
    struct pack_choice c = {.block = {NO_BLOCK, NO_BLOCK}};
    for (uint32_t u = 0; u < t->used_count; u++) {
        uint32_t block = t->block[t->used[u]];
        uint32_t weight = t->weight[t->used[u]];
        t->block[t->used[u]] = NO_BLOCK;
        if (weight <= c.weight[1] || work->load[block] == work->capacity)
            continue;
        if (weight > c.weight[0])
            c = (struct pack_choice){{block, c.block[0]}, {weight, c.weight[0]}};
        else
            c = (struct pack_choice){{c.block[0], block}, {c.weight[0], weight}};
    }
    t->used_count = 0;
    *choice = c;
}

/* Fills work->choices for `count` rows, all threads. */
static void choices_fill(struct pack_work *work, const uint32_t *rows, uint32_t count)
{
#pragma omp parallel
    {
        struct tally t;
        tally_init(&t);
#pragma omp for schedule(dynamic, 64)
        for (uint32_t i = 0; i < count; i++) {
            pack_edges_prefetch(work, rows[MIN(i + PREFETCH_ROWS, count - 1)],
                                rows[MIN(i + 2 * PREFETCH_ROWS, count - 1)]);
            tally_row(&t, work, rows[i]);
            tally_choose(&t, work, &work->choices[i]);
        }
    }
}

/* ---- rounds ---- */

/* Rows by what draws them to their blocks, most first. */
static void order_fill(const struct pack_work *work, uint32_t *order)
{
    enum { BINS = 4096, BIN_WEIGHT = 4 };
    uint32_t starts[BINS + 1] = {0};
    uint32_t count = work->graph->count;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t row = 0; row < count; row++) {
            uint32_t bin = BINS - 1 - MIN(work->drawn[row] / BIN_WEIGHT, BINS - 1u);
            if (pass == 0)
                starts[bin + 1]++;
            else
                order[starts[bin]++] = row;
        }
        for (uint32_t bin = 0; pass == 0 && bin < BINS; bin++)
            starts[bin + 1] += starts[bin];
    }
}

static void row_place(struct pack_work *work, uint32_t row, uint32_t block, uint32_t weight)
{
    work->load[block]++;
    work->block_of_row[row] = block;
    work->drawn[row] = weight;
}

/* The choice a row takes; PACK_CHOICES where both have filled up. */
static uint32_t choice_best(const struct pack_work *work, const struct pack_choice *choice)
{
    uint32_t best = PACK_CHOICES;
    uint64_t best_score = 0;
    for (uint32_t i = 0; i < PACK_CHOICES && choice->block[i] != NO_BLOCK; i++) {
        uint32_t load = work->load[choice->block[i]];
        uint64_t score = (uint64_t)choice->weight[i] * (2 * work->capacity - load);
        if (load < work->capacity && score > best_score) {
            best = i;
            best_score = score;
        }
    }
    return best;
}

/* Places rows[0 .. count) in the blocks that draw them; those that find no room there become
 * rows[0 .. returned). */
static uint32_t rows_place(struct pack_work *work, uint32_t *rows, uint32_t count)
{
    uint32_t batch = MIN(MAX(count / BATCHES_MIN, (uint32_t)BATCH_MIN), (uint32_t)PACK_BATCH_ROWS);
    uint32_t left = 0;
    for (uint32_t first = 0; first < count; first += batch) {
        uint32_t end = MIN(first + batch, count);
        choices_fill(work, rows + first, end - first);
        for (uint32_t i = first; i < end; i++) {
            const struct pack_choice *choice = &work->choices[i - first];
            uint32_t best = choice_best(work, choice);
            if (best == PACK_CHOICES)
                rows[left++] = rows[i];
            else
                row_place(work, rows[i], choice->block[best], choice->weight[best]);
        }
    }
    return left;
}

/* Places rows wherever there is room. */
static void rows_place_anywhere(struct pack_work *work, const uint32_t *rows, uint32_t count)
{
    uint32_t room = 0; /* no block before it has room */
    for (uint32_t i = 0; i < count; i++) {
        while (work->load[room] == work->capacity)
            room++;
        row_place(work, rows[i], room, 0);
    }
}

void pack_assign_rounds(struct pack_work *work, int rounds)
{
    uint32_t *rows = work->scratch;
    for (int round = 0; round < rounds; round++) {
        order_fill(work, rows);
        memset(work->load, 0, work->block_count * sizeof(*work->load));
        uint32_t left = rows_place(work, rows, work->graph->count);
        left = rows_place(work, rows, left); /* blocks that were third have room yet */
        rows_place_anywhere(work, rows, left);
    }
}
