/*
 * pack_internal.h - shared by the files that make up pack.h: assignment to blocks and lists.
 */
#ifndef NIGHTJAR_BUILDER_PACK_INTERNAL_H
#define NIGHTJAR_BUILDER_PACK_INTERNAL_H

#include "builder/pack.h"

enum { PACK_CHOICES = 12 };

/* The blocks a row is most drawn to, most first; and whom it would change places with. */
struct pack_choice {
    uint32_t count;
    uint32_t partner;
    uint32_t block[PACK_CHOICES];
    uint32_t weight[PACK_CHOICES];
};

/* What assignment needs: O(n + near edges) arrays, made once for all rounds and capacities. Edges
 * to rows of other shards do not count. */
struct pack_work {
    const struct graph *graph;
    const uint8_t *kept;         /* as in pack_input */
    uint32_t first;              /* position of row 0 */
    uint64_t *in_starts;         /* [count + 1] into in_rows and in_weights */
    uint32_t *in_rows;           /* rows that have a row among their nearest */
    uint8_t *in_weights;         /* of those edges */
    uint64_t edge_count;         /* of in_rows */
    uint32_t *order;             /* the stream: rows, shuffled */
    uint32_t *block_of_row;      /* [count] */
    uint32_t *load;              /* [count]: records in each block */
    uint32_t *member;            /* rows by block, for swaps: block * capacity + place */
    struct pack_choice *choices; /* of a batch of rows */
};

/* Weight of edge `rank` < PACK_NEAR of a list whose first `kept` edges must stay, 1..100. */
uint32_t pack_edge_weight(uint32_t rank, uint32_t kept);

NODISCARD enum status pack_work_init(struct pack_work *work, const struct pack_input *input,
                                     uint64_t seed, struct error *err);
void pack_work_fini(struct pack_work *work);

/* Forgets any assignment. */
void pack_assign_start(struct pack_work *work);

/* Greedy rounds into blocks of at most `capacity` rows, going on from the assignment there is. */
void pack_assign_rounds(struct pack_work *work, uint32_t capacity, uint32_t block_count,
                        int rounds);

/* Swaps pairs of rows where that puts more weight inside blocks. */
void pack_assign_swaps(struct pack_work *work, uint32_t capacity, uint32_t block_count, int passes);

/* rank[b]: the number that block b of the assignment gets among all `block_count`, such that blocks
 * that point to one another get near numbers. */
NODISCARD enum status pack_blocks_rank(const struct pack_work *work, uint32_t block_count,
                                       uint64_t seed, uint32_t *rank, struct error *err);

/* Mean over rows of (out-neighbours among block-mates / block-mates); work->load as the rounds or
 * swaps left it. */
double pack_mate_share(const struct pack_work *work);

/* The global node that `position` is expected to become before all shards have an order: as if
 * other shards' positions were nodes. No two positions share one. */
uint32_t pack_node_expected(const struct pack_input *input, const struct pack_order *order,
                            uint32_t position);

/* Ascending; lists are short. */
void pack_ids_sort(uint32_t *ids, uint32_t count);

#endif
