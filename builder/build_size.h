/*
 * build_size.h - how much memory and disk a build will take, and how many shards a budget asks for,
 * from the input's shape alone.
 *
 * build_run() refuses with it before it reads a row, and --plan prints it. The memory figures are
 * upper bounds that mirror what each stage allocates; a stage that changes its arrays changes its
 * line here (tests compare the bound with the peak RSS of real builds).
 */
#ifndef NIGHTJAR_BUILDER_BUILD_SIZE_H
#define NIGHTJAR_BUILDER_BUILD_SIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/build.h"
#include "common/vector_file.h"

struct build_size {
    uint32_t shard_count;
    double replication;        /* at most; 1 with one shard */
    uint64_t own_min, own_max; /* rows one shard owns */
    uint64_t borrowed_max;     /* rows it borrows */
    uint64_t lent_max;         /* times it lends one */
    uint64_t fixed_bytes;      /* program, threads and their scratch, whatever the count */
    uint64_t
        shared_bytes[BUILD_STAGE_COUNT]; /* held once while the stage runs, beside fixed_bytes */
    uint64_t shard_bytes[BUILD_STAGE_COUNT]; /* held for each shard at work; 0: no shards */
    uint64_t memory_bytes;                   /* most at any time, one shard at work at a time */
    enum build_stage memory_stage;           /* when that is */
    uint64_t scratch_bytes;                  /* of the work directory, at most */
    uint64_t stage_disk_bytes[BUILD_STAGE_COUNT]; /* written to the generation, estimated */
    uint64_t block_bytes, nodes_per_block;        /* estimated */
    uint64_t disk_bytes;
    uint64_t disk_least_bytes; /* vectors, keys, codes and keys.bin alone: it cannot be less */
};

/* Makes params->code_bytes definite for the input: lowered to the dimension, or chosen where it is
 * 0. STATUS_INVALID if the codec has no such codes. */
NODISCARD enum status build_code_bytes_resolve(struct build_params *params,
                                               const struct vector_shape *shape, struct error *err);

/* Pure arithmetic for a number of shards. `params` within build.h's ranges and with its thread
 * count resolved (not 0); `shape` as scan_shape_check() accepts it; 1 <= shards <=
 * build_shards_max(). */
void build_size_compute(const struct build_params *params, const struct vector_shape *shape,
                        uint32_t shards, struct build_size *size);

/* Resident memory of a stage, with so many shards at work. */
uint64_t build_size_stage_bytes(const struct build_size *size, enum build_stage stage,
                                uint32_t lanes);

/* The most of any stage. */
uint64_t build_size_peak_bytes(const struct build_size *size, uint32_t lanes);

/* Most shards that so many rows can be cut into: a shard needs some rows for every other. */
uint32_t build_shards_max(uint64_t rows);

/* The fewest shards with which the build takes at most limit_bytes, with `lanes` (0 counts as 1) of
 * them at work at a time, or one if there is but one, into *size. False if no number does: then
 * *size is of the number that takes the least. */
bool build_size_choose(const struct build_params *params, const struct vector_shape *shape,
                       uint64_t limit_bytes, uint32_t lanes, struct build_size *size);

/* STATUS_INVALID if params->shards is more than build_shards_max(). */
NODISCARD enum status build_shards_check(const struct build_params *params,
                                         const struct vector_shape *shape, struct error *err);

/* What the number of shards is settled by, beside the parameters. */
struct build_size_request {
    uint64_t limit_bytes;
    uint32_t lanes;   /* shards to be at work at a time; 0 counts as 1 */
    uint32_t earlier; /* shards that an earlier run of the build settled on; 0: none */
};

/* The shards a build is cut into: params->shards (which passed build_shards_check()) if that is
 * given; else those of the earlier run if they still fit; else build_size_choose()'s. False if they
 * do not fit: then *size is of what was asked for, or of the number that takes the least. */
bool build_size_settle(const struct build_params *params, const struct vector_shape *shape,
                       const struct build_size_request *request, struct build_size *size);

#endif
