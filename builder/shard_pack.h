/*
 * shard_pack.h - the pack stage: an order for each shard's rows, and from all of them the layout of
 * the index.
 *
 * One shard, the reference, chooses block size and nodes per block for all: the one whose mean
 * degree is nearest to that of all rows. The others are ordered by its choice.
 *
 * File of the pieces {BUILD_STAGE_GEOMETRY, WORK_WHOLE} (the reference's) and {BUILD_STAGE_PACK,
 * s}: `order`, u32 local node of each own row.
 */
#ifndef NIGHTJAR_BUILDER_SHARD_PACK_H
#define NIGHTJAR_BUILDER_SHARD_PACK_H

#include <stdint.h>

#include "builder/pack.h"
#include "builder/shard.h"
#include "common/error.h"

/* A shard's merged lists in RAM. */
struct shard_lists {
    struct graph graph; /* positions */
    uint8_t *kept;      /* [graph.count] */
};
/* Loads them; degree_max as merge_info has it. The caller's to shard_lists_destroy(). */
NODISCARD enum status shard_lists_load(const struct shard_plan *plan, uint32_t shard,
                                       struct shard_lists *lists, struct error *err);
void shard_lists_destroy(struct shard_lists *lists);

/* Chooses the geometry on the reference shard, once all are merged, and commits the piece. Both use
 * the caller's OpenMP team. params->nodes_per_block and block_bytes are those asked for. */
NODISCARD enum status shard_geometry_run(const struct shard_plan *plan,
                                         const struct pack_params *params,
                                         const struct build_monitor *monitor,
                                         struct build_stage_record *cost, struct error *err);

/* Orders the rows of `shard` and commits the piece. Progress in rows. */
NODISCARD enum status shard_pack_run(const struct shard_plan *plan, uint32_t shard,
                                     const struct pack_params *params,
                                     const struct build_monitor *monitor,
                                     struct build_stage_record *cost, struct error *err);

/* Where everything goes, once all shards have an order. */
struct shard_layout {
    struct block_geometry geometry;
    uint64_t block_count;
    uint32_t first_block[PARTITION_SHARDS_MAX + 1]; /* of each shard */
    double mate_share;                              /* mean over all rows */
};
NODISCARD enum status shard_layout_load(const struct shard_plan *plan,
                                        const struct pack_params *params,
                                        struct shard_layout *layout, struct error *err);

/* Node of every position: bulk_alloc'd [rows], the caller's. The one array of a sharded build that
 * grows with all rows. */
NODISCARD enum status shard_nodes_load(const struct shard_plan *plan,
                                       const struct shard_layout *layout, uint32_t **nodes,
                                       struct error *err);

#endif
