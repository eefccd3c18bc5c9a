/*
 * pack_internal.h - shared by the files that make up pack.h: assignment to blocks and lists.
 */
#ifndef NIGHTJAR_BUILDER_PACK_INTERNAL_H
#define NIGHTJAR_BUILDER_PACK_INTERNAL_H

#include "builder/pack.h"

/* ---- edges (pack_edges.c) ---- */

enum {
    PACK_IN_EDGES_MAX = 256, /* in-edges weighed a row: hubs have more, none of them telling */
    PACK_EDGES_MAX = PACK_NEAR + PACK_IN_EDGES_MAX,
};

/* The blocks with room that draw a row most, most first. */
enum { PACK_CHOICES = 2, PACK_BATCH_ROWS = 65536 };

struct pack_choice {
    uint32_t block[PACK_CHOICES]; /* UINT32_MAX: none */
    uint32_t weight[PACK_CHOICES];
};

/* What assignment needs: O(n + near edges) arrays, made once for all capacities. Edges to rows of
 * other shards do not count. */
struct pack_work {
    const struct graph *graph;
    const uint8_t *kept;    /* as in pack_input */
    uint32_t first;         /* position of row 0 */
    uint32_t capacity;      /* most rows of a block, as assigned */
    uint32_t block_count;   /* as few as hold all rows */
    uint64_t *in_starts;    /* [count + 1] into in_rows and in_weights */
    uint32_t *in_rows;      /* rows that have a row among their nearest */
    uint8_t *in_weights;    /* of those edges */
    uint64_t edge_count;    /* of in_rows */
    uint32_t *block_of_row; /* [count] */
    uint32_t *load;         /* [count]: rows in each block */
    uint32_t *drawn; /* [count]: weight of a row's edges to and from the rows of its block, as they
                        stood when it came */
    uint32_t *scratch;           /* [3 * count]: of the step at hand */
    struct pack_choice *choices; /* [PACK_BATCH_ROWS] */
};

NODISCARD enum status pack_work_init(struct pack_work *work, const struct pack_input *input,
                                     struct error *err);
void pack_work_fini(struct pack_work *work);

/* Weight of edge `rank` < PACK_NEAR of a list whose first `kept` edges must stay, 1..100. */
ALWAYS_INLINE uint32_t pack_edge_weight(uint32_t rank, uint32_t kept)
{
    /* 100 * (1 + rank)^-0.35 */
    static const uint8_t weights[PACK_NEAR] = {100, 78, 68, 62, 57, 53, 51, 48, 46, 45, 43,
                                               42,  41, 40, 39, 38, 37, 36, 36, 35, 34, 34,
                                               33,  33, 32, 32, 32, 31, 31, 30, 30, 30};
    /* Edges that must stay stand in front whatever their length: taken for middling near ones. */
    enum { KEPT_RANK = 4 };
    return weights[rank < kept ? KEPT_RANK : rank - kept];
}

/* An edge of a row, in either direction. */
struct pack_edge {
    uint32_t row; /* at its other end */
    uint32_t weight;
};

/* The edges that draw a row: its near ones, then those that lead to it. A row at the other end of
 * two comes twice. Returns how many. */
ALWAYS_INLINE uint32_t pack_edges_of(const struct pack_work *work, uint32_t row,
                                     struct pack_edge edges[PACK_EDGES_MAX])
{
    const uint32_t *out = graph_neighbors(work->graph, row);
    uint32_t out_count = MIN(graph_degree(work->graph, row), (uint32_t)PACK_NEAR);
    uint32_t kept = work->kept != NULL ? work->kept[row] : 0;
    uint64_t in_end =
        MIN(work->in_starts[row + 1], work->in_starts[row] + (uint64_t)PACK_IN_EDGES_MAX);
    uint32_t count = 0;
    for (uint32_t i = 0; i < out_count; i++) {
        uint32_t other = out[i] - work->first;
        if (other < work->graph->count)
            edges[count++] = (struct pack_edge){other, pack_edge_weight(i, kept)};
    }
    for (uint64_t i = work->in_starts[row]; i < in_end; i++)
        edges[count++] = (struct pack_edge){work->in_rows[i], work->in_weights[i]};
    return count;
}

/* Asks ahead for what pack_edges_of() reads: `soon` its edges, `later` where they are. */
ALWAYS_INLINE void pack_edges_prefetch(const struct pack_work *work, uint32_t soon, uint32_t later)
{
    enum { LINE_WORDS = 16, WORDS = 1 + PACK_NEAR }; /* of a cache line; degree and ids */
    const uint32_t *out = graph_neighbors(work->graph, later) - 1;
    const uint32_t *in = work->in_rows + work->in_starts[soon];
    PREFETCH(work->in_starts + later);
    for (uint32_t word = 0; word < WORDS; word += LINE_WORDS)
        PREFETCH(out + word);
    PREFETCH(work->in_weights + work->in_starts[soon]);
    for (uint32_t word = 0; word < PACK_NEAR; word += LINE_WORDS)
        PREFETCH(in + word);
}

/* ---- assignment ---- */

/* Grows blocks of `capacity` rows one after another, but the last of what rows are left
 * (pack_grow.c). */
void pack_grow(struct pack_work *work, uint32_t capacity);

/* Refines that: lets every row go to the block that draws it most, again and again
 * (pack_assign.c). */
void pack_assign_rounds(struct pack_work *work, int rounds);

/* Mean over rows of (out-neighbours among block-mates / block-mates). */
double pack_mate_share(const struct pack_work *work);

/* ---- numbering ---- */

/* rank[b]: the number that block b of the assignment gets among all, such that blocks that point to
 * one another get near numbers. */
NODISCARD enum status pack_blocks_rank(const struct pack_work *work, uint32_t *rank,
                                       struct error *err);

/* The global node that `position` is expected to become before all shards have an order: as if
 * other shards' positions were nodes. No two positions share one. */
uint32_t pack_node_expected(const struct pack_input *input, const struct pack_order *order,
                            uint32_t position);

/* Ascending; lists are short. */
void pack_ids_sort(uint32_t *ids, uint32_t count);

#endif
