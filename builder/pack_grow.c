/*
 * pack_grow.c - a first assignment: blocks are grown one after another.
 *
 * A block takes, one by one, the free row that its rows draw most; the free row that a full block
 * draws most is the first of the next. So blocks come in an order that follows the graph. Where no
 * free row is drawn, the first free one is taken.
 *
 * One thread: each step depends on the last, and takes a microsecond.
 */
#include <string.h>

#include "builder/pack_internal.h"

#define NO_ROW UINT32_MAX
#define PLACED 0x80000000u /* beside it, the block: its low bits will do */

struct growth {
    struct pack_work *work;
    uint32_t *place;   /* [count]: one more than a drawn row's index below; 0: a free row that is
                          not drawn; PLACED and the block of others */
    uint32_t *rows;    /* [count]: free rows that the block at hand draws */
    uint32_t *weights; /* beside rows; 0: taken meanwhile */
    uint32_t count;    /* of rows */
};

static void row_place(struct growth *g, uint32_t row, uint32_t block)
{
    struct pack_work *work = g->work;
    struct pack_edge edges[PACK_EDGES_MAX];
    uint32_t degree = pack_edges_of(work, row, edges);
    uint32_t own = PLACED | block;
    g->place[row] = own;
    work->block_of_row[row] = block;
    work->drawn[row] = 0;
    work->load[block]++;
    for (uint32_t i = 0; i < degree; i++)
        PREFETCH(g->place + edges[i].row);
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t other = edges[i].row;
        uint32_t place = g->place[other];
        if (place == own) {
            work->drawn[row] += edges[i].weight;
            work->drawn[other] += edges[i].weight;
        }
        if (place & PLACED)
            continue;
        if (place == 0) {
            g->rows[g->count] = other;
            g->weights[g->count] = 0;
            g->place[other] = place = ++g->count;
        }
        g->weights[place - 1] += edges[i].weight;
    }
}

/* The row most drawn, taken out; or NO_ROW. */
static uint32_t drawn_take(struct growth *g)
{
    uint32_t best = 0;
    uint32_t most = 0;
    for (uint32_t i = 0; i < g->count; i++)
        if (g->weights[i] > most) {
            most = g->weights[i];
            best = i;
        }
    if (most == 0)
        return NO_ROW;
    g->weights[best] = 0;
    return g->rows[best];
}

static void drawn_clear(struct growth *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        if (g->weights[i] > 0)
            g->place[g->rows[i]] = 0;
    g->count = 0;
}

void pack_grow(struct pack_work *work, uint32_t capacity)
{
    uint32_t count = work->graph->count;
    struct growth g = {.work = work,
                       .place = work->scratch,
                       .rows = work->scratch + count,
                       .weights = work->scratch + 2 * (size_t)count};
    uint32_t free_row = 0; /* none before it is free */
    work->capacity = capacity;
    work->block_count = (count + capacity - 1) / capacity;
    memset(g.place, 0, count * sizeof(*g.place));
    memset(work->load, 0, work->block_count * sizeof(*work->load));
    for (uint32_t taken = 0; taken < count; taken++) {
        uint32_t row = drawn_take(&g);
        if (taken % capacity == 0)
            drawn_clear(&g);
        while (row == NO_ROW) {
            if (!(g.place[free_row] & PLACED))
                row = free_row;
            free_row++;
        }
        row_place(&g, row, taken / capacity);
    }
}
