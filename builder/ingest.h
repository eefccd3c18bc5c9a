/*
 * ingest.h - stage 1: the input in RAM, checked, with its digest and its duplicates counted.
 */
#ifndef NIGHTJAR_BUILDER_INGEST_H
#define NIGHTJAR_BUILDER_INGEST_H

#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/vector_set.h"
#include "common/error.h"
#include "common/vector_file.h"
#include "layout/manifest.h"

/* More rows than this and a u32 could not name "no row" beside every row. */
#define INGEST_ROWS_MAX ((uint64_t)UINT32_MAX - 1)

struct ingest_result {
    struct vector_set set;         /* prepared */
    uint64_t *keys;                /* [set.count], malloc'd; NULL: the key is the row */
    struct digest128 input_digest; /* XXH3-128 of the packed rows in order, then the keys */
    uint64_t duplicate_vectors;    /* rows whose bytes equal those of an earlier row */
};

/* The shape can be indexed: an element type with distances and a row count within u32. */
NODISCARD enum status ingest_shape_check(const char *path, const struct vector_shape *shape,
                                         struct error *err);

/* Bytes ingest holds beside rows and keys, at their most. */
uint64_t ingest_scratch_bytes(uint64_t count);

/* Reads every row of `file` with the caller's OpenMP team and checks it; a bad row is reported as
 * by vector_rows_check(), the lowest one at any thread count. `keys_path` may be NULL. On success
 * *result is the caller's to ingest_result_destroy(); on failure it is empty. */
NODISCARD enum status ingest_run(const struct vector_file *file, enum metric metric,
                                 const char *keys_path, const struct build_monitor *monitor,
                                 struct ingest_result *result, struct error *err);
void ingest_result_destroy(struct ingest_result *result);

#endif
