/*
 * shard_write.h - the write stage: a shard's codes and blocks, put where they belong in the
 * generation.
 *
 * The bytes of the piece {BUILD_STAGE_WRITE, s} are in the generation, synced before the piece is
 * recorded, and its record has what they should be. Its one file is the shard's keys, for the stage
 * after it (key_index.h). Shards may be written in any order and by several processes.
 */
#ifndef NIGHTJAR_BUILDER_SHARD_WRITE_H
#define NIGHTJAR_BUILDER_SHARD_WRITE_H

#include <stdint.h>

#include "builder/shard.h"
#include "builder/shard_pack.h"
#include "common/codec.h"
#include "common/error.h"
#include "layout/generation.h"

enum { SHARD_WRITE_BUFFER_BYTES = 4 << 20 }; /* there are two */

/* What all shards share; immutable. */
struct shard_write_context {
    const struct shard_plan *plan;
    const struct shard_layout *layout;
    const uint32_t *node_of_position;
    const struct codec *codec;
    struct generation_writer *writer; /* thread-safe for distinct ranges */
};

/* What the piece's record tells. */
struct shard_write_info {
    uint64_t trimmed;
    uint64_t stored_edges;
    struct digest128 nodes_digest; /* XXH3-128 of the shard's part of nodes.blk */
    struct digest128 codes_digest; /* and of codes.bin */
};

/* Writes and commits, with the caller's OpenMP team. Progress in blocks. */
NODISCARD enum status shard_write_run(const struct shard_write_context *context, uint32_t shard,
                                      const struct build_monitor *monitor,
                                      struct build_stage_record *cost, struct error *err);

#endif
