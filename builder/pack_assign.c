/*
 * pack_assign.c - restreaming linear deterministic greedy: blocks form anew around the rows that
 * sit best in them.
 *
 * Each row in turn goes to the block that draws it most, by weight times the room left there
 * (Stanton and Kliot, KDD'12); the last round's blocks stand in for rows that have not had their
 * turn (Nishimura and Ugander, KDD'13).
 *
 * Departures: the rows that their blocks draw most go first, so that those are the core of a block
 * which belong there, and what is taken elsewhere is what hardly mattered. And rows go in small
 * batches: the edges of a batch are weighed against the blocks as they stood before it, by all
 * threads; then its rows are placed one after another by one thread. The size of a batch depends on
 * n alone, so the result does not depend on the team.
 */
#include <string.h>

#include "builder/pack_internal.h"

#define NO_BLOCK UINT32_MAX

enum {
    BATCH_MIN = 64,
    BATCHES_MIN = 64,
    PREFETCH_ROWS = 4,
};

/* ---- weighing blocks ---- */

void pack_tally_init(struct pack_tally *t)
{
    memset(t->block, 0xff, sizeof(t->block));
    t->used_count = 0;
}

static void tally_add(struct pack_tally *t, uint32_t block, uint32_t weight)
{
    uint32_t slot = (block * 0x9e3779b1u) >> 22;
    while (t->block[slot] != block && t->block[slot] != NO_BLOCK)
        slot = (slot + 1) % PACK_TALLY_SLOTS;
    if (t->block[slot] == NO_BLOCK) {
        t->block[slot] = block;
        t->weight[slot] = 0;
        t->used[t->used_count++] = (uint16_t)slot;
    }
    t->weight[slot] += weight;
}

static void choice_add(struct pack_choice *choice, uint32_t block, uint32_t weight)
{
    uint32_t place = choice->count;
    while (place > 0 && (choice->weight[place - 1] < weight ||
                         (choice->weight[place - 1] == weight && choice->block[place - 1] > block)))
        place--;
    if (place == PACK_CHOICES)
        return;
    choice->count = MIN(choice->count + 1, (uint32_t)PACK_CHOICES);
    for (uint32_t i = choice->count - 1; i > place; i--) {
        choice->block[i] = choice->block[i - 1];
        choice->weight[i] = choice->weight[i - 1];
    }
    choice->block[place] = block;
    choice->weight[place] = weight;
}

void pack_tally_row(struct pack_tally *t, const struct pack_work *work, uint32_t row,
                    struct pack_choice *choice)
{
    struct pack_edge edges[PACK_EDGES_MAX];
    uint32_t degree = pack_edges_of(work, row, edges);
    for (uint32_t i = 0; i < degree; i++)
        tally_add(t, work->block_of_row[edges[i].row], edges[i].weight);
    choice->count = 0;
    for (uint32_t u = 0; u < t->used_count; u++) {
        uint32_t slot = t->used[u];
        choice_add(choice, t->block[slot], t->weight[slot]);
        t->block[slot] = NO_BLOCK;
    }
    t->used_count = 0;
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
            uint32_t bin = BINS - 1 - MIN((uint32_t)work->own[row] / BIN_WEIGHT, BINS - 1u);
            if (pass == 0)
                starts[bin + 1]++;
            else
                order[starts[bin]++] = row;
        }
        for (uint32_t bin = 0; pass == 0 && bin < BINS; bin++)
            starts[bin + 1] += starts[bin];
    }
}

/* Fills work->choices for `count` rows, all threads. */
static void choices_fill(struct pack_work *work, const uint32_t *rows, uint32_t count)
{
#pragma omp parallel
    {
        struct pack_tally t;
        pack_tally_init(&t);
#pragma omp for schedule(dynamic, 64)
        for (uint32_t i = 0; i < count; i++) {
            pack_edges_prefetch(work, rows[MIN(i + PREFETCH_ROWS, count - 1)],
                                rows[MIN(i + 2 * PREFETCH_ROWS, count - 1)]);
            pack_tally_row(&t, work, rows[i], &work->choices[i]);
        }
    }
}

static uint32_t best_block(const struct pack_work *work, const struct pack_choice *choice)
{
    uint32_t best = NO_BLOCK;
    uint64_t best_score = 0;
    for (uint32_t i = 0; i < choice->count; i++) {
        uint32_t block = choice->block[i];
        uint64_t score = (uint64_t)choice->weight[i] * (work->capacity - work->load[block]);
        if (score > best_score) {
            best = block;
            best_score = score;
        }
    }
    return best;
}

static uint32_t batch_size(uint32_t count)
{
    return MIN(MAX(count / BATCHES_MIN, (uint32_t)BATCH_MIN), (uint32_t)PACK_BATCH_ROWS);
}

void pack_assign_rounds(struct pack_work *work, int rounds)
{
    uint32_t count = work->graph->count;
    uint32_t batch = batch_size(count);
    uint32_t *order = work->scratch;
    for (int round = 0; round < rounds; round++) {
        uint32_t room = 0; /* no block before it has room */
        pack_own_fill(work);
        order_fill(work, order);
        memset(work->load, 0, work->block_count * sizeof(*work->load));
        for (uint32_t first = 0; first < count; first += batch) {
            uint32_t rows = MIN(batch, count - first);
            choices_fill(work, order + first, rows);
            for (uint32_t i = 0; i < rows; i++) {
                uint32_t block = best_block(work, &work->choices[i]);
                while (work->load[room] == work->capacity)
                    room++;
                if (block == NO_BLOCK)
                    block = room;
                work->load[block]++;
                work->block_of_row[order[first + i]] = block;
            }
        }
    }
}
