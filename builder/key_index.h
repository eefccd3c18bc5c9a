/*
 * key_index.h - keys.bin of a generation: each shard leaves its keys sorted, a stage of its own
 * merges them.
 *
 * File of the pieces {BUILD_STAGE_WRITE, s}: `keys`, a record of u64 key and u32 node for each row
 * the shard owns, ascending by key. So memory is bounded by a shard's, and what the merge holds is
 * a buffer for each run and the first key of each page.
 */
#ifndef NIGHTJAR_BUILDER_KEY_INDEX_H
#define NIGHTJAR_BUILDER_KEY_INDEX_H

#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/shard.h"
#include "builder/work.h"
#include "common/error.h"
#include "layout/generation.h"

enum { KEY_INDEX_RECORD_BYTES = 12 }; /* of a run */
#define KEY_INDEX_PART "keys"

/* Sorts keys[count], whose nodes are nodes[count], and appends the run to `out`. A key that comes
 * twice is STATUS_INVALID: the ingest stage has refused it. Holds 12 bytes a row. Uses the caller's
 * OpenMP team; the bytes do not depend on it. */
NODISCARD enum status key_index_run_write(const uint64_t *keys, const uint32_t *nodes,
                                          uint32_t count, struct work_output *out,
                                          struct error *err);

/* What the piece {BUILD_STAGE_KEYS, WORK_WHOLE} tells. */
struct key_index_info {
    uint64_t bytes; /* of keys.bin */
    struct digest128 digest;
};

/* Most bytes that key_index_merge() holds. */
uint64_t key_index_memory_bytes(uint64_t rows, uint32_t shards);

struct key_index_params {
    const struct shard_plan *plan;
    uint64_t generation_seed;
    uint32_t node_limit;
    struct generation_writer *writer;
};

/* Merges the runs of all shards into keys.bin, syncs it, and commits the piece. One thread's work;
 * progress in rows. A run that is not what key_index_run_write() writes is STATUS_CORRUPT, and its
 * piece is forgotten. */
NODISCARD enum status key_index_merge(const struct key_index_params *params,
                                      const struct build_monitor *monitor,
                                      struct build_stage_record *cost, struct error *err);

#endif
