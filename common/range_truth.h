/*
 * range_truth.h - exact answers within a radius: for each query as many as there are.
 *
 *   u32 queries, u32 total, u32 counts[queries], u32 ids[total], f32 distances[total]
 *
 * as big-ann-benchmarks has it; DiskANN's files end after the ids. The suffix does not matter.
 */
#ifndef NIGHTJAR_COMMON_RANGE_TRUTH_H
#define NIGHTJAR_COMMON_RANGE_TRUTH_H

#include <stdint.h>

#include "common/error.h"
#include "common/vector_file.h"

/* Query q has entries at[q] to at[q + 1]. Arrays are malloc'd; range_truth_free() releases and
 * zeroes. */
struct range_truth {
    uint32_t query_count; /* >= 1 */
    uint64_t *at;         /* [query_count + 1]; at[query_count] <= UINT32_MAX */
    uint32_t *ids;
    float *distances; /* NULL: not known */
};

/* Allocates at[], ids[] and, if wanted, distances[] for `total` entries; at[] is zeroed. */
NODISCARD enum status range_truth_create(struct range_truth *self, uint32_t query_count,
                                         uint64_t total, bool distances, struct error *err);
void range_truth_free(struct range_truth *self);

/* A file whose counts, total and size do not agree, or with a NaN for a distance, is
 * STATUS_CORRUPT. */
NODISCARD enum status range_truth_read(const char *path, struct range_truth *out,
                                       struct error *err);
/* Atomically, as vector_writer does. */
NODISCARD enum status range_truth_write(const char *path, const struct range_truth *truth,
                                        struct error *err);

/* The same as rows of one length, the most that a query has (at least 1): what is missing is
 * GROUND_TRUTH_ABSENT. STATUS_INVALID where that is more than a ground truth can have. */
NODISCARD enum status range_truth_to_rows(const char *path, const struct range_truth *truth,
                                          struct ground_truth *out, struct error *err);
/* Back: absent entries are left out. `path` is for errors. */
NODISCARD enum status range_truth_from_rows(const char *path, const struct ground_truth *truth,
                                            struct range_truth *out, struct error *err);

#endif
