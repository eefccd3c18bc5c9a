/*
 * pack.h - numbering: which nodes share a block, and lists that fit in it.
 *
 * Linear deterministic greedy (LDG; Stanton and Kliot, KDD'12, as used by Starling, SIGMOD'24) over
 * in- and out-edges, several rounds; then neighbour lists are rewritten in node ids, sorted, less
 * the implicit block-mates, and trimmed where a block would overflow.
 */
#ifndef NIGHTJAR_BUILDER_PACK_H
#define NIGHTJAR_BUILDER_PACK_H

#include <stdint.h>

#include "builder/graph.h"
#include "common/error.h"
#include "layout/block.h"

struct pack_params {
    uint32_t dim_bytes;       /* vector bytes of a record */
    uint32_t block_bytes;     /* 0: the smallest multiple of 4096 that holds one record */
    uint8_t adjacency;        /* enum block_adjacency */
    uint32_t nodes_per_block; /* 0: chosen */
    uint32_t entry;           /* row whose block every block must be reachable from */
    uint64_t seed;
    uint64_t generation_seed; /* for the geometry */
};

struct pack_result {
    struct block_geometry geometry;
    uint64_t block_count;
    uint32_t row_count;
    uint32_t *row_of_node; /* [node_limit]; UINT32_MAX: no record there (last slots of a block) */
    uint32_t *node_of_row; /* [count] */
    uint32_t entry_node;   /* of params->entry */
    struct graph
        lists; /* lists.slots of node id (count = node_limit): ascending node ids to store */
    double mean_degree;
    double block_mate_share; /* mean share of a node's block-mates that are its out-neighbours */
    uint64_t trimmed_edges;
};

/* Consumes nothing of `graph`. The result is the caller's to pack_result_destroy(). Deterministic
 * at any thread count. */
NODISCARD enum status pack_graph(const struct graph *graph, const struct pack_params *params,
                                 struct pack_result *result, struct error *err);
void pack_result_destroy(struct pack_result *result);

/* Names the first invariant that a packing of `graph` breaks: geometry in range; rows and recorded
 * nodes one to one, no block empty; lists ascending, of recorded nodes in other blocks, all edges
 * of the graph; each block's lists fit; edges between blocks are stored or counted as trimmed;
 * every block reachable from the entry's over the lists. For tests and debugging. */
NODISCARD enum status pack_result_check(const struct graph *graph, const struct pack_result *result,
                                        struct error *err);

#endif
