/*
 * groundtruth.h - exact answers by brute force, the k nearest or all within a radius, of all rows
 * or of those that a filter leaves: what recall is measured against.
 */
#ifndef NIGHTJAR_TOOLS_GROUNDTRUTH_H
#define NIGHTJAR_TOOLS_GROUNDTRUTH_H

#include <stdint.h>

#include "common/element.h"
#include "common/error.h"
#include "common/progress.h"
#include "common/range_truth.h"
#include "common/vector_file.h"

enum { GROUNDTRUTH_K_MAX = 10000 };

/* Which rows may be answers. match() is called by several threads at once. */
struct groundtruth_filter {
    bool (*match)(const void *context, uint32_t query, uint32_t row);
    const void *context;
    bool same_for_all; /* match() does not look at the query: what does not match is not compared */
};

struct groundtruth_params {
    const char *base;    /* vector file; streamed, so it may exceed RAM */
    const char *queries; /* vector file of the same dimension and element type */
    uint32_t k;          /* 1..GROUNDTRUTH_K_MAX, <= rows of base */
    enum metric metric;
    uint32_t threads;                        /* 0: OpenMP's choice */
    uint64_t memory_bytes;                   /* bound of everything allocated here; 0: none */
    struct progress *progress;               /* borrowed; NULL: silent */
    const struct groundtruth_filter *filter; /* borrowed; NULL: all rows */
};

/* Fills *out with the k nearest rows of every query: ascending distance (element.h's definition),
 * equal distances by lower row; absent ones where a filter leaves fewer. The same result at any
 * thread count. The caller releases *out with
 * ground_truth_free(); on failure it is empty. STATUS_INVALID for a shape, type or k that does not
 * fit or a row that is not finite (or is zero under cosine); STATUS_NO_MEMORY when memory_bytes is
 * too small, naming what would do. Starts an OpenMP team and does I/O. */
NODISCARD enum status groundtruth_compute(const struct groundtruth_params *params,
                                          struct ground_truth *out, struct error *err);

struct groundtruth_range {
    float radius; /* a distance of the metric; rows at just that distance are within */
    uint32_t cap; /* at most so many of a query, the nearest; 0: all */
};

/* Fills *out with all rows within the radius of every query, in the same order; params->k does not
 * matter. *cut (may be NULL): queries that have more than the cap. STATUS_NO_MEMORY when the
 * answers do not fit memory_bytes. The caller releases *out with range_truth_free(). */
NODISCARD enum status groundtruth_within(const struct groundtruth_params *params,
                                         const struct groundtruth_range *range,
                                         struct range_truth *out, uint64_t *cut, struct error *err);

#endif
