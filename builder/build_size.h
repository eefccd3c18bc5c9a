/*
 * build_size.h - how much memory and disk a build will take, from its shape alone.
 *
 * build_run() refuses with it before it reads a row, and --plan prints it. The memory figures are
 * upper bounds that mirror what each stage allocates; a stage that changes its arrays changes its
 * line here (tests compare the bound with the peak RSS of a real build).
 */
#ifndef NIGHTJAR_BUILDER_BUILD_SIZE_H
#define NIGHTJAR_BUILDER_BUILD_SIZE_H

#include <stdint.h>

#include "builder/build.h"
#include "common/vector_file.h"

struct build_size {
    uint64_t stage_memory_bytes[BUILD_STAGE_COUNT]; /* resident while the stage runs, at most */
    uint64_t memory_bytes;                          /* the largest of them */
    enum build_stage memory_stage;                  /* the one it is of */
    uint64_t rows_bytes;  /* of it: vectors, norms and keys, which stay throughout */
    uint64_t fixed_bytes; /* of it: program, threads and their scratch, whatever the count */
    uint64_t stage_disk_bytes[BUILD_STAGE_COUNT]; /* written by the stage, estimated */
    uint64_t disk_bytes;
    uint64_t disk_least_bytes; /* vectors, keys and codes alone: it cannot be less */
};

/* Pure arithmetic. `params` within build.h's ranges and with its thread count resolved (not 0);
 * `shape` as ingest_shape_check() accepts it. */
void build_size_compute(const struct build_params *params, const struct vector_shape *shape,
                        struct build_size *size);

#endif
