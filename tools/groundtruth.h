/*
 * groundtruth.h - exact nearest neighbours by brute force: what recall is measured against.
 */
#ifndef NIGHTJAR_TOOLS_GROUNDTRUTH_H
#define NIGHTJAR_TOOLS_GROUNDTRUTH_H

#include <stdint.h>

#include "common/element.h"
#include "common/error.h"
#include "common/progress.h"
#include "common/vector_file.h"

enum { GROUNDTRUTH_K_MAX = 10000 };

struct groundtruth_params {
    const char *base;    /* vector file; streamed, so it may exceed RAM */
    const char *queries; /* vector file of the same dimension and element type */
    uint32_t k;          /* 1..GROUNDTRUTH_K_MAX, <= rows of base */
    enum metric metric;
    uint32_t threads;          /* 0: OpenMP's choice */
    uint64_t memory_bytes;     /* bound of everything allocated here; 0: none */
    struct progress *progress; /* borrowed; NULL: silent */
};

/* Fills *out with the k nearest rows of every query: ascending distance (element.h's definition),
 * equal distances by lower row. The same result at any thread count. The caller releases *out with
 * ground_truth_free(); on failure it is empty. STATUS_INVALID for a shape, type or k that does not
 * fit or a row that is not finite (or is zero under cosine); STATUS_NO_MEMORY when memory_bytes is
 * too small, naming what would do. Starts an OpenMP team and does I/O. */
NODISCARD enum status groundtruth_compute(const struct groundtruth_params *params,
                                          struct ground_truth *out, struct error *err);

#endif
