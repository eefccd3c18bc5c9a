/*
 * merge.h - the merge stage: one neighbour list for each row, from those of all shards it is in.
 *
 * Shard by shard over the rows it owns. A row that no other shard borrowed keeps its list. The
 * others get the union of their lists, brought down to R by RobustPrune with true distances
 * (DiskANN takes a random subset). Edges of the shard's spanning tree always stay. Besides, the own
 * row nearest to the root of each child shard (partition_info.parents) gets an edge to that root;
 * so every row is reachable from the root of shard 0: by induction over shards, each over its tree.
 *
 * File of the piece {BUILD_STAGE_MERGE, s}: `lists`, a list (shard.h) for each own row, in order,
 * in positions; edges of the tree and to roots are its kept ones, the rest are in order of
 * distance.
 *
 * In RAM: the shard's rows and their halo (shard_graph.h). Lists stream.
 */
#ifndef NIGHTJAR_BUILDER_MERGE_H
#define NIGHTJAR_BUILDER_MERGE_H

#include <stdint.h>

#include "builder/shard.h"
#include "common/error.h"

/* What is held for each shard that may lend. */
enum { MERGE_LENDER_BYTES = 32 << 10 };

struct merge_params {
    uint32_t degree;
    float alpha;
};

/* What the piece's record tells. */
struct merge_info {
    uint64_t edges;       /* of own rows */
    uint64_t inner_edges; /* of them, to own rows */
    uint64_t pruned_rows; /* that had several lists */
    uint32_t degree_max;
    uint32_t reserved;
};

/* Merges and commits the piece, with the caller's OpenMP team. Progress in own rows. */
NODISCARD enum status merge_run(const struct shard_plan *plan, uint32_t shard,
                                const struct merge_params *params,
                                const struct build_monitor *monitor,
                                struct build_stage_record *cost, struct error *err);

/* Lists of the rows at work. */
uint64_t merge_batch_bytes(uint32_t degree);

/* Reads a merged list into ids[capacity], as shard_list_read(); checks positions. */
NODISCARD enum status merge_list_read(const struct shard_plan *plan, struct work_input *input,
                                      uint32_t *ids, uint32_t capacity, uint32_t *degree,
                                      uint32_t *kept, struct error *err);

#endif
