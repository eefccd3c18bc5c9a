/*
 * pack.h - numbering: which nodes share a block, and lists that fit in it.
 *
 * Blocks are grown along near edges, then refined by restreaming linear deterministic greedy (LDG;
 * Stanton and Kliot, KDD'12, as used by Starling, SIGMOD'24), one shard at a time; then neighbour
 * lists are rewritten in node ids, sorted, less the implicit block-mates, and trimmed where a block
 * would overflow.
 *
 * Two steps, as a list can only be rewritten once every shard has numbered its rows: pack_choose()
 * or pack_order_make() make the order of a shard's rows; pack_lists_*() make its lists.
 *
 * A shard's nodes are numbered from its first block on: local node = local block * nodes_per_block
 * + slot. All functions are deterministic at any thread count.
 */
#ifndef NIGHTJAR_BUILDER_PACK_H
#define NIGHTJAR_BUILDER_PACK_H

#include <stdint.h>

#include "builder/graph.h"
#include "common/error.h"
#include "layout/block.h"

enum { PACK_NEAR = 32 }; /* first edges of a list, which decide who shares a block */

/* A shard's merged graph. */
struct pack_input {
    const struct graph *graph; /* a list of positions for each of its rows, kept ones first, the
                                  rest in order of distance */
    const uint8_t *kept; /* [graph->count]: the first of a list that must not go; NULL: none */
    uint32_t first;      /* position of its row 0 */
    uint32_t total;      /* rows of all shards */
};

struct pack_params {
    uint32_t dim_bytes;       /* vector bytes of a record */
    uint32_t block_bytes;     /* 0: the smallest multiple of 4096 that holds one record */
    uint8_t adjacency;        /* enum block_adjacency */
    uint32_t nodes_per_block; /* 0: chosen */
    uint64_t generation_seed; /* for the geometry */
};

/* Where a shard's rows go. */
struct pack_order {
    uint32_t row_count;
    uint32_t block_count;
    uint32_t nodes_per_block; /* of the numbering; a block may have fewer records */
    uint32_t *node_of_row;    /* [row_count] local nodes */
    double mate_share;        /* mean share of a row's block-mates that are its out-neighbours */
    uint64_t
        gaps[33]; /* how many gaps of its lists need so many bits, from a sample, as expected */
};

/* Chooses block size and nodes per block such that about 5 % of all edges at most must be trimmed
 * (estimated before the order is final), and orders the rows by it. geometry->node_limit and
 * gap_width are estimates (right if the shard is all there is). STATUS_INVALID where a record fits
 * no block that is allowed. *order is the caller's to pack_order_destroy(). */
NODISCARD enum status pack_choose(const struct pack_input *input, const struct pack_params *params,
                                  struct block_geometry *geometry, struct pack_order *order,
                                  struct error *err);

/* Orders the rows for a geometry chosen by another shard. */
NODISCARD enum status pack_order_make(const struct pack_input *input,
                                      const struct pack_params *params,
                                      const struct block_geometry *geometry,
                                      struct pack_order *order, struct error *err);
void pack_order_destroy(struct pack_order *order);

/* The lists of a shard in node ids. */
struct pack_lists {
    struct block_geometry geometry; /* final */
    uint32_t first_node;            /* of the shard: a multiple of nodes_per_block */
    uint32_t block_count;
    struct graph graph;    /* [block_count * nodes_per_block] local nodes; ids are global */
    uint8_t *kept;         /* beside graph: the first of a list that must not go */
    uint32_t *row_of_node; /* beside graph; UINT32_MAX: no record there (last slots of a block) */
    uint64_t outside;      /* edges to other blocks; set, as is trimmed, by pack_lists_trim() */
    uint64_t trimmed;      /* of them, taken out again */
};

/* Empty lists of up to `degree_max` ids for `order`'s rows. */
NODISCARD enum status pack_lists_create(const struct block_geometry *geometry, uint32_t first_node,
                                        const struct pack_order *order, uint32_t degree_max,
                                        struct pack_lists *lists, struct error *err);
/* Puts the list of the row at local node `node`: global node ids, kept ones first, the rest in
 * order of distance. Block-mates fall out. */
void pack_lists_put(struct pack_lists *lists, uint32_t node, const uint32_t *ids, uint32_t degree,
                    uint32_t kept);

#define PACK_TRIM_IMPOSSIBLE UINT64_MAX

/* Takes edges out until every block's lists fit: first those that a block-mate has too, then any
 * other but the kept ones, farthest first; then sorts all lists. lists->trimmed is
 * PACK_TRIM_IMPOSSIBLE where some block's kept edges alone do not fit. */
NODISCARD enum status pack_lists_trim(struct pack_lists *lists, struct error *err);
void pack_lists_destroy(struct pack_lists *lists);

/* Names the first invariant that trimmed lists break: geometry in range; records first in their
 * blocks, no block empty; lists ascending, of ids in other blocks below node_limit, all edges of
 * `input`'s lists as node_of_position[] numbers them, kept ones present or shared by a block-mate;
 * each block's lists fit; edges add up. For tests and debugging. */
NODISCARD enum status pack_lists_check(const struct pack_input *input,
                                       const uint32_t *node_of_position,
                                       const struct pack_lists *lists, struct error *err);

#endif
