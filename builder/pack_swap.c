/*
 * pack_swap.c - at last, pairs of rows change places where that puts more weight inside blocks.
 *
 * A row asks for a swap where another block draws it more than its own. With whom is seen from the
 * edges of its whole block, weighed once for all of its rows: what a row elsewhere would gain by
 * coming is what they weigh less what draws it where it is.
 *
 * As in pack_assign.c: all threads look for the swaps of a batch of blocks, as these stand before
 * it; one thread makes them, each if it still gains.
 */
#include <string.h>

#include "builder/pack_internal.h"

#define NO_ROW UINT32_MAX

enum {
    BLOCKS_TRIED = 3, /* that a row would rather be in */
    DRAWN_SLOTS = 8192,
    DRAWN_MAX = DRAWN_SLOTS * 3 / 4,
};

/* ---- what a block draws ---- */

/* Weight of a block's edges by the row outside that they join: an open-addressing table, one a
 * thread. What is beyond its room is not seen: swaps are weighed again before they are made. */
struct drawn {
    uint32_t row[DRAWN_SLOTS];
    int32_t weight[DRAWN_SLOTS];
    uint16_t used[DRAWN_MAX]; /* slots in use */
    uint32_t used_count;
};

static void drawn_init(struct drawn *d)
{
    memset(d->row, 0xff, sizeof(d->row));
    d->used_count = 0;
}

/* The slot of `row`, or an empty one. */
static uint32_t drawn_slot(const struct drawn *d, uint32_t row)
{
    uint32_t slot = (row * 0x9e3779b1u) >> 19;
    while (d->row[slot] != row && d->row[slot] != NO_ROW)
        slot = (slot + 1) % DRAWN_SLOTS;
    return slot;
}

static int32_t drawn_weight(const struct drawn *d, uint32_t row)
{
    uint32_t slot = drawn_slot(d, row);
    return d->row[slot] == row ? d->weight[slot] : 0;
}

static void drawn_add(struct drawn *d, uint32_t row, int32_t weight)
{
    uint32_t slot = drawn_slot(d, row);
    if (d->row[slot] == NO_ROW) {
        if (d->used_count == DRAWN_MAX)
            return;
        d->row[slot] = row;
        d->weight[slot] = 0;
        d->used[d->used_count++] = (uint16_t)slot;
    }
    d->weight[slot] += weight;
}

static void drawn_clear(struct drawn *d)
{
    for (uint32_t u = 0; u < d->used_count; u++)
        d->row[d->used[u]] = NO_ROW;
    d->used_count = 0;
}

/* Adds `times` the edges of `row`. */
static void drawn_add_row(struct drawn *d, const struct pack_work *work, uint32_t row,
                          int32_t times)
{
    struct pack_edge edges[PACK_EDGES_MAX];
    uint32_t degree = pack_edges_of(work, row, edges);
    for (uint32_t i = 0; i < degree; i++)
        drawn_add(d, edges[i].row, times * (int32_t)edges[i].weight);
}

/* ---- proposals ---- */

ALWAYS_INLINE uint32_t *members_of(const struct pack_work *work, uint32_t block)
{
    return work->scratch + (size_t)block * work->capacity;
}

/* The blocks that draw a row more than its own come first. */
static bool would_leave(const struct pack_work *work, uint32_t row,
                        const struct pack_choice *choice)
{
    return choice->count > 0 && choice->block[0] != work->block_of_row[row] &&
           (int32_t)choice->weight[0] > work->own[row];
}

/* The best partner of `row`. */
static uint32_t partner_find(const struct pack_work *work, uint32_t row,
                             const struct pack_choice *choice, const struct drawn *d)
{
    uint32_t partner = NO_ROW;
    int32_t best_gain = 0;
    for (uint32_t i = 0; i < MIN(choice->count, (uint32_t)BLOCKS_TRIED); i++) {
        int32_t drawn = (int32_t)choice->weight[i] - work->own[row];
        const uint32_t *members = members_of(work, choice->block[i]);
        if (drawn <= 0 || choice->block[i] == work->block_of_row[row])
            break;
        for (uint32_t m = 0; m < work->load[choice->block[i]]; m++) {
            int32_t gain = drawn + drawn_weight(d, members[m]) - work->own[members[m]];
            if (gain > best_gain) {
                best_gain = gain;
                partner = members[m];
            }
        }
    }
    return partner;
}

/* Sets the partners of the block's rows. */
static void block_propose(const struct pack_work *work, uint32_t block, struct pack_tally *t,
                          struct drawn *d, struct pack_choice *choices)
{
    const uint32_t *rows = members_of(work, block);
    uint32_t count = work->load[block];
    bool leaving = false;
    for (uint32_t i = 0; i < count; i++) {
        pack_tally_row(t, work, rows[i], &choices[i]);
        choices[i].row = rows[i];
        choices[i].partner = NO_ROW;
        leaving = leaving || would_leave(work, rows[i], &choices[i]);
    }
    if (!leaving)
        return;
    for (uint32_t i = 0; i < count; i++)
        drawn_add_row(d, work, rows[i], 1);
    for (uint32_t i = 0; i < count; i++) {
        if (!would_leave(work, rows[i], &choices[i]))
            continue;
        /* An edge between the two stays outside: it is in the sums of both. */
        drawn_add_row(d, work, rows[i], -2);
        choices[i].partner = partner_find(work, rows[i], &choices[i], d);
        drawn_add_row(d, work, rows[i], 2);
    }
    drawn_clear(d);
}

static void batch_propose(const struct pack_work *work, uint32_t first, uint32_t stride)
{
#pragma omp parallel
    {
        struct pack_tally t;
        struct drawn d;
        pack_tally_init(&t);
        drawn_init(&d);
#pragma omp for schedule(dynamic, 16)
        for (uint32_t block = first; block < work->block_count; block += stride)
            block_propose(work, block, &t, &d,
                          work->choices + (size_t)(block / stride) * work->capacity);
    }
}

/* ---- swaps ---- */

/* Weight that comes inside, less what goes, when `row` moves to block `to`, whose row `leaving`
 * makes room. */
static int32_t move_gain(const struct pack_work *work, uint32_t row, uint32_t to, uint32_t leaving)
{
    struct pack_edge edges[PACK_EDGES_MAX];
    uint32_t degree = pack_edges_of(work, row, edges);
    uint32_t from = work->block_of_row[row];
    int32_t gain = 0;
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t block = work->block_of_row[edges[i].row];
        if (block == to && edges[i].row != leaving)
            gain += (int32_t)edges[i].weight;
        else if (block == from)
            gain -= (int32_t)edges[i].weight;
    }
    return gain;
}

/* Moves `row`, keeping count of what draws it and the rows it joins or leaves. */
static void row_move(struct pack_work *work, uint32_t row, uint32_t to)
{
    struct pack_edge edges[PACK_EDGES_MAX];
    uint32_t degree = pack_edges_of(work, row, edges);
    uint32_t from = work->block_of_row[row];
    work->own[row] = 0;
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t block = work->block_of_row[edges[i].row];
        int32_t weight = (int32_t)edges[i].weight;
        work->own[edges[i].row] += block == to ? weight : block == from ? -weight : 0;
        work->own[row] += block == to ? weight : 0;
    }
    work->block_of_row[row] = to;
}

static void member_replace(const struct pack_work *work, uint32_t block, uint32_t row, uint32_t by)
{
    uint32_t *member = members_of(work, block);
    while (*member != row)
        member++;
    *member = by;
}

/* Swaps two rows if that still gains. */
static void swap_try(struct pack_work *work, uint32_t a, uint32_t b)
{
    uint32_t block_a = work->block_of_row[a];
    uint32_t block_b = work->block_of_row[b];
    if (block_a == block_b || move_gain(work, a, block_b, b) + move_gain(work, b, block_a, a) <= 0)
        return;
    member_replace(work, block_a, a, b);
    member_replace(work, block_b, b, a);
    row_move(work, a, block_b);
    row_move(work, b, block_a);
}

static void members_fill(struct pack_work *work)
{
    memset(work->load, 0, work->block_count * sizeof(*work->load));
    for (uint32_t row = 0; row < work->graph->count; row++) {
        uint32_t block = work->block_of_row[row];
        members_of(work, block)[work->load[block]++] = row;
    }
}

void pack_swap_passes(struct pack_work *work, int passes)
{
    uint32_t batch = MAX(PACK_BATCH_ROWS / work->capacity, 1u);
    uint32_t stride = (work->block_count + batch - 1) / batch;
    members_fill(work);
    pack_own_fill(work);
    for (int pass = 0; pass < passes; pass++)
        for (uint32_t first = 0; first < stride; first++) {
            batch_propose(work, first, stride);
            for (uint32_t block = first; block < work->block_count; block += stride) {
                const struct pack_choice *choices =
                    work->choices + (size_t)(block / stride) * work->capacity;
                for (uint32_t i = 0; i < work->load[block]; i++)
                    if (choices[i].partner != NO_ROW)
                        swap_try(work, choices[i].row, choices[i].partner);
            }
        }
}
