/*
 * scan.h - stage 1: one pass over the input that checks it, digests it and counts its duplicates.
 *
 * Memory does not hold the rows, only 8 bytes of each: an input may be larger than RAM.
 */
#ifndef NIGHTJAR_BUILDER_SCAN_H
#define NIGHTJAR_BUILDER_SCAN_H

#include <stdint.h>

#include "builder/build_monitor.h"
#include "common/element.h"
#include "common/error.h"
#include "common/vector_file.h"
#include "layout/manifest.h"

/* More rows than this and a u32 could not name "no row" beside every row. */
#define SCAN_ROWS_MAX ((uint64_t)UINT32_MAX - 1)

struct scan_result {
    struct digest128
        input_digest; /* XXH3-128 of the packed rows as given in order, then the keys */
    /* Rows whose bytes equal those of an earlier row. Told by 64-bit hashes, so two distinct rows
     * that share one count too: at a billion rows the odds of that are 3 %, of a count one too
     * high. */
    uint64_t duplicate_vectors;
    float norm_max; /* largest |x| of what is stored */
};

/* The shape can be indexed: an element type with distances and a row count within u32. */
NODISCARD enum status scan_shape_check(const char *path, const struct vector_shape *shape,
                                       struct error *err);

/* Most bytes that scan_run() holds at a time, with or without keys. */
uint64_t scan_memory_bytes(const struct vector_shape *shape);

/* Reads the rows of `file` as given, once and in order, with the caller's OpenMP team, and checks
 * each: finite also as it will be stored (vector_file_store_as()), likewise a direction under
 * cosine, squared norm within a quarter of f32's range; else STATUS_INVALID naming the lowest bad
 * row, at any thread count. `keys_path` (may be NULL) is a .u64bin of as many keys as rows, none
 * repeated; it is checked first. Progress in rows. A wish to stop is heard between chunks, but not
 * while hashes or keys are sorted. *result is written on success only. */
NODISCARD enum status scan_run(const struct vector_file *file, enum metric metric,
                               const char *keys_path, const struct build_monitor *monitor,
                               struct scan_result *result, struct error *err);

#endif
