/*
 * kmeans.h - k-means over f32 vectors: codebooks now, partitions of the input too.
 *
 * Greedy k-means++ seeding (Arthur & Vassilvitskii, SODA'07, with several candidates a step), then
 * Lloyd iterations until the gain is small. Squared L2. Uses OpenMP with the current thread count;
 * called inside a parallel region it runs on the calling thread. Results are bit-identical at any
 * thread count and instruction set.
 */
#ifndef NIGHTJAR_COMMON_KMEANS_H
#define NIGHTJAR_COMMON_KMEANS_H

#include <stddef.h>
#include <stdint.h>

#include "common/compiler.h"
#include "common/error.h"

enum {
    KMEANS_LANES = 16,      /* points a group */
    KMEANS_TRIALS_MAX = 16, /* candidates for each seed */
};

/* Points in the order that SIMD walks: groups of 16, each group [dim][16]; value d of point i is
 * lanes[(i / 16 * dim + d) * 16 + i % 16]. The last group is padded with zeros. */
struct kmeans_points {
    float *lanes; /* group_count * dim * 16, 64-byte aligned */
    size_t count; /* >= 1 */
    size_t group_count;
    uint32_t dim; /* >= 1 */
};

/* Allocates room for `count` points (4 * count * dim bytes), all zero; kmeans_points_put() fills
 * it. STATUS_NO_MEMORY leaves *points empty. */
NODISCARD enum status kmeans_points_init(struct kmeans_points *points, size_t count, uint32_t dim,
                                         struct error *err);
void kmeans_points_fini(struct kmeans_points *points);

/* Stores values[0..count) as dimensions first.. of a vector, in lanes that hold `dim` dimensions.
 */
ALWAYS_INLINE void kmeans_lanes_put(float *lanes, size_t dim, size_t index, size_t first,
                                    const float *values, size_t count)
{
    float *out = lanes + (index / KMEANS_LANES * dim + first) * KMEANS_LANES + index % KMEANS_LANES;
    for (size_t d = 0; d < count; d++)
        out[d * KMEANS_LANES] = values[d];
}

/* Stores all `dim` finite values of point `index`. Distinct points may be stored by distinct
 * threads at once. */
ALWAYS_INLINE void kmeans_points_put(struct kmeans_points *points, size_t index,
                                     const float *values)
{
    kmeans_lanes_put(points->lanes, points->dim, index, 0, values, points->dim);
}

struct kmeans_params {
    uint32_t centroid_count; /* k >= 1; may exceed the number of points */
    uint32_t iterations_max; /* Lloyd iterations; 0 leaves the seeds */
    uint32_t trials;         /* candidates a seed, 1..KMEANS_TRIALS_MAX; more seed better */
    double stop_gain;        /* ends when an iteration lowers the inertia by at most this share */
    uint64_t seed;
    unsigned features; /* instruction sets allowed: cpu_features() outside tests */
};

struct kmeans_stats {
    double inertia;      /* sum of squared distances to the nearest centroid, at the last look */
    uint32_t iterations; /* Lloyd iterations done */
    uint32_t seeds;      /* distinct starting points found, <= k */
};

/* Fills centroids (k * dim, row after row, the caller's). A centroid that loses all its points is
 * moved to the farthest point of the cluster with the largest inertia. Fewer distinct points than
 * k: the rest repeat the found ones, so all centroids are finite always. *stats may be NULL.
 * Allocates about 8 bytes a point and 8 * k * dim; frees them before it returns. */
NODISCARD enum status kmeans_train(const struct kmeans_points *points,
                                   const struct kmeans_params *params, float *centroids,
                                   struct kmeans_stats *stats, struct error *err);

/* Nearest centroid of every point: labels[count] and, unless NULL, squared distances[count]. Ties
 * go to the lower index. No allocation. */
void kmeans_assign(const struct kmeans_points *points, const float *centroids,
                   uint32_t centroid_count, unsigned features, uint32_t *labels, float *distances);

#endif
