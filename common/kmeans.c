/*
 * kmeans.c - k-means++ seeding and Lloyd iterations over points in lanes layout.
 *
 * Sums are made reproducible by what they are, not by who computes them: inertia is added up in
 * chunks of fixed size and the chunks in order, and a centroid's coordinate is added up over all
 * points in order, by one thread, in double. Threads share chunks in the first case and dimensions
 * in the second, so no partial sums of k * dim values are needed.
 *
 * Departure from k-means++: each step draws several candidates and keeps the one that lowers the
 * inertia most ("greedy" k-means++). The kernels are those of codec_internal.h.
 *
 * Threads: kmeans_train() and kmeans_assign() start OpenMP teams of their own and share nothing
 * between calls.
 */
#include "common/kmeans.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/codec_internal.h"
#include "common/memory.h"
#include "common/random.h"

_Static_assert((int)KMEANS_LANES == (int)CODEC_LANES, "points use the kernels' layout");

enum {
    CHUNK_GROUPS = 64, /* groups whose sums are added first: 1024 points */
    TILE_CENTROIDS = 256,
    /* Differences to square before a team pays: some 10 us, when waking one costs a few, and on a
     * busy machine waiting for one costs a time slice. */
    TEAM_WORK_MIN = 1 << 18,
};

struct trainer {
    const struct kmeans_points *points;
    const struct kmeans_params *params;
    const struct codec_pq_kernels *kernels;
    float *centroids;
    size_t chunk_count;
    float *nearest;     /* group_count * 16: squared distance to the nearest centroid */
    uint32_t *labels;   /* group_count * 16 */
    double *chunk_sums; /* chunk_count: of `nearest` */
    double *trial_sums; /* trials * chunk_count */
    float *candidates;  /* trials * dim */
    double *sums;       /* dim * k: coordinates of the points of each centroid */
    uint64_t *sizes;    /* k: points of each centroid */
    double *inertias;   /* k */
    uint8_t *work;      /* holds all of the above but the centroids */
    size_t work_bytes;
    bool work_overflow;
};

enum status kmeans_points_init(struct kmeans_points *points, size_t count, uint32_t dim,
                               struct error *err)
{
    *points = (struct kmeans_points){0};
    size_t group_count = count / CODEC_LANES + (count % CODEC_LANES != 0);
    size_t vectors, floats;
    void *lanes;
    if (!size_mul(group_count, CODEC_LANES, &vectors) || !size_mul(vectors, dim, &floats)) {
        return error_set(err, STATUS_NO_MEMORY, "k-means: %zu points of dimension %u overflow",
                         count, (unsigned)dim);
    }
    enum status status = bulk_alloc(floats, sizeof(float), "k-means points", &lanes, err);
    if (status != STATUS_OK)
        return status;
    *points = (struct kmeans_points){lanes, count, group_count, dim};
    return STATUS_OK;
}

void kmeans_points_fini(struct kmeans_points *points)
{
    if (points->lanes)
        bulk_free(points->lanes, points->group_count * CODEC_LANES * points->dim, sizeof(float));
    *points = (struct kmeans_points){0};
}

static void point_copy(const struct kmeans_points *points, size_t index, float *out)
{
    const float *lane =
        points->lanes + index / CODEC_LANES * points->dim * CODEC_LANES + index % CODEC_LANES;
    for (size_t d = 0; d < points->dim; d++)
        out[d] = lane[d * CODEC_LANES];
}

/* Whether to share out a pass that looks at every point `times`. */
static bool team_pays(const struct kmeans_points *points, size_t times)
{
    return points->group_count * CODEC_LANES * points->dim >= TEAM_WORK_MIN / times;
}

/* Sixteen floats as one double, always in the same order. */
static double lanes_fold(const float *lanes)
{
    double sum = 0;
    for (size_t i = 0; i < CODEC_LANES; i++)
        sum += (double)lanes[i];
    return sum;
}

static double chunks_fold(const double *chunks, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += chunks[i];
    return sum;
}

/* What the inertia would be with each of the candidates added (update: with the first one, which
 * then is in `nearest` and chunk_sums). */
static void seed_pass(struct trainer *t, const float *vectors, uint32_t count, bool update)
{
    const struct kmeans_points *points = t->points;
#pragma omp parallel for schedule(static) if (team_pays(points, count))
    for (size_t chunk = 0; chunk < t->chunk_count; chunk++) {
        size_t first = chunk * CHUNK_GROUPS;
        size_t groups = MIN((size_t)CHUNK_GROUPS, points->group_count - first);
        ALIGNED(64) float lane_sums[CODEC_LANES];
        for (uint32_t i = 0; i < count; i++) {
            t->kernels->seed(vectors + (size_t)i * points->dim, points->dim,
                             points->lanes + first * points->dim * CODEC_LANES, groups, update,
                             t->nearest + first * CODEC_LANES, lane_sums);
            (update ? t->chunk_sums : t->trial_sums + i * t->chunk_count)[chunk] =
                lanes_fold(lane_sums);
        }
    }
}

/* The point where the running sum of `nearest` passes share * total: a draw with probability in
 * proportion to the squared distance. Points at distance 0 are never drawn. */
static size_t seed_draw(const struct trainer *t, double total, double share)
{
    double rest = share * total;
    size_t chunk = 0, last_chunk = 0;
    for (; chunk < t->chunk_count; chunk++) {
        if (t->chunk_sums[chunk] <= 0)
            continue;
        last_chunk = chunk;
        if (rest < t->chunk_sums[chunk])
            break;
        rest -= t->chunk_sums[chunk];
    }
    size_t first = last_chunk * CHUNK_GROUPS * CODEC_LANES;
    size_t end = MIN(first + CHUNK_GROUPS * CODEC_LANES, t->points->count);
    size_t drawn = first;
    for (size_t i = first; i < end; i++) {
        if (t->nearest[i] <= 0)
            continue;
        drawn = i;
        rest -= (double)t->nearest[i];
        if (rest < 0)
            break;
    }
    return drawn;
}

/* Chooses centroid number `seeds` among some candidates. */
static size_t seed_choose(struct trainer *t, uint32_t seeds, double total)
{
    const struct kmeans_params *params = t->params;
    size_t drawn[KMEANS_TRIALS_MAX] = {0};
    for (uint32_t i = 0; i < params->trials; i++) {
        uint64_t number = (uint64_t)seeds * KMEANS_TRIALS_MAX + i;
        /* A total that overflowed cannot be divided into shares: then any point will do. */
        drawn[i] = isfinite(total) ? seed_draw(t, total, random_unit(params->seed, number))
                                   : (size_t)random_below(params->seed, number, t->points->count);
        point_copy(t->points, drawn[i], t->candidates + (size_t)i * t->points->dim);
    }
    if (params->trials == 1)
        return drawn[0];
    seed_pass(t, t->candidates, params->trials, false);
    uint32_t best = 0;
    double least = INFINITY;
    for (uint32_t i = 0; i < params->trials; i++) {
        double sum = chunks_fold(t->trial_sums + i * t->chunk_count, t->chunk_count);
        if (sum < least) {
            least = sum;
            best = i;
        }
    }
    return drawn[best];
}

/* Fills all k centroids; returns how many are distinct. */
static uint32_t seed_all(struct trainer *t)
{
    const struct kmeans_points *points = t->points;
    const uint32_t k = t->params->centroid_count;
    for (size_t i = 0; i < points->count; i++)
        t->nearest[i] = FLT_MAX;

    uint32_t seeds = 0;
    size_t index = (size_t)random_below(t->params->seed, 0, points->count);
    for (;;) {
        float *centroid = t->centroids + (size_t)seeds * points->dim;
        point_copy(points, index, centroid);
        seeds++;
        if (seeds == k)
            return seeds;
        seed_pass(t, centroid, 1, true);
        double total = chunks_fold(t->chunk_sums, t->chunk_count);
        if (total <= 0)
            break;
        index = seed_choose(t, seeds, total);
    }
    for (size_t i = seeds; i < k; i++) {
        memcpy(t->centroids + i * points->dim, t->centroids + i % seeds * points->dim,
               points->dim * sizeof(float));
    }
    return seeds;
}

/* Labels and distances of the points of one group. */
static void group_assign(const struct kmeans_points *points, const struct codec_pq_kernels *kernels,
                         const float *centroids, uint32_t k, size_t group, float *best,
                         uint32_t *labels)
{
    ALIGNED(64) float distances[TILE_CENTROIDS * CODEC_LANES];
    for (size_t lane = 0; lane < CODEC_LANES; lane++) {
        best[lane] = INFINITY;
        labels[lane] = 0;
    }
    for (uint32_t first = 0; first < k; first += TILE_CENTROIDS) {
        struct codec_pq_tile tile = {
            .points = points->lanes + group * points->dim * CODEC_LANES,
            .centroids = centroids + (size_t)first * points->dim,
            .dims = points->dim,
            .stride = points->dim,
            .count = MIN((uint32_t)TILE_CENTROIDS, k - first),
            .distances = distances,
            .fresh = true,
        };
        kernels->accumulate(&tile);
        kernels->argmin(distances, tile.count, first, best, labels);
    }
}

void kmeans_assign(const struct kmeans_points *points, const float *centroids,
                   uint32_t centroid_count, unsigned features, uint32_t *labels, float *distances)
{
    const struct codec_pq_kernels *kernels = codec_pq_kernels_get(features);
#pragma omp parallel for schedule(static) if (team_pays(points, centroid_count))
    for (size_t group = 0; group < points->group_count; group++) {
        ALIGNED(64) float best[CODEC_LANES];
        ALIGNED(64) uint32_t nearest[CODEC_LANES];
        group_assign(points, kernels, centroids, centroid_count, group, best, nearest);
        size_t first = group * CODEC_LANES;
        size_t count = MIN((size_t)CODEC_LANES, points->count - first);
        memcpy(labels + first, nearest, count * sizeof(*labels));
        if (distances)
            memcpy(distances + first, best, count * sizeof(*distances));
    }
}

/* Labels every point; returns the inertia. */
static double lloyd_assign(struct trainer *t)
{
    const struct kmeans_points *points = t->points;
#pragma omp parallel for schedule(static) if (team_pays(points, t->params->centroid_count))
    for (size_t chunk = 0; chunk < t->chunk_count; chunk++) {
        size_t first = chunk * CHUNK_GROUPS;
        size_t end = MIN(first + CHUNK_GROUPS, points->group_count);
        for (size_t group = first; group < end; group++) {
            group_assign(points, t->kernels, t->centroids, t->params->centroid_count, group,
                         t->nearest + group * CODEC_LANES, t->labels + group * CODEC_LANES);
        }
        double sum = 0;
        for (size_t i = first * CODEC_LANES; i < MIN(end * CODEC_LANES, points->count); i++)
            sum += (double)t->nearest[i];
        t->chunk_sums[chunk] = sum;
    }
    return chunks_fold(t->chunk_sums, t->chunk_count);
}

/* Moves every empty centroid to the farthest point of the cluster with the largest inertia, which
 * is then taken to have lost half of it. */
static void lloyd_fill_empty(struct trainer *t)
{
    const struct kmeans_points *points = t->points;
    const uint32_t k = t->params->centroid_count;
    bool counted = false;
    for (uint32_t empty = 0; empty < k; empty++) {
        if (t->sizes[empty] != 0)
            continue;
        if (!counted) {
            counted = true;
            memset(t->inertias, 0, k * sizeof(*t->inertias));
            for (size_t i = 0; i < points->count; i++)
                t->inertias[t->labels[i]] += (double)t->nearest[i];
        }
        uint32_t largest = 0;
        for (uint32_t j = 1; j < k; j++) {
            if (t->inertias[j] > t->inertias[largest])
                largest = j;
        }
        if (t->inertias[largest] <= 0)
            return;
        size_t farthest = SIZE_MAX;
        for (size_t i = 0; i < points->count; i++) {
            if (t->labels[i] == largest &&
                (farthest == SIZE_MAX || t->nearest[i] > t->nearest[farthest]))
                farthest = i;
        }
        point_copy(points, farthest, t->centroids + (size_t)empty * points->dim);
        t->inertias[largest] /= 2;
        t->nearest[farthest] = 0;
    }
}

/* Moves every centroid to the mean of its points. */
static void lloyd_update(struct trainer *t)
{
    const struct kmeans_points *points = t->points;
    const size_t k = t->params->centroid_count, dim = points->dim;
    memset(t->sizes, 0, k * sizeof(*t->sizes));
    for (size_t i = 0; i < points->count; i++)
        t->sizes[t->labels[i]]++;

#pragma omp parallel for schedule(static) if (team_pays(points, 1))
    for (size_t d = 0; d < dim; d++) {
        double *sums = t->sums + d * k;
        memset(sums, 0, k * sizeof(*sums));
        const float *value = points->lanes + d * CODEC_LANES;
        for (size_t i = 0; i < points->count; i++)
            sums[t->labels[i]] +=
                (double)value[i / CODEC_LANES * dim * CODEC_LANES + i % CODEC_LANES];
        for (size_t j = 0; j < k; j++) {
            if (t->sizes[j] != 0)
                t->centroids[j * dim + d] = (float)(sums[j] / (double)t->sizes[j]);
        }
    }
    lloyd_fill_empty(t);
}

/* Cuts `count` items off the work space, or only adds them up while there is none yet. */
static void *carve(struct trainer *t, size_t count, size_t item_bytes)
{
    size_t bytes, end;
    if (!size_mul(count, item_bytes, &bytes) || !size_add(bytes, 63, &bytes) ||
        !size_add(t->work_bytes, bytes & ~(size_t)63, &end)) {
        t->work_overflow = true;
        return NULL;
    }
    void *part = t->work ? t->work + t->work_bytes : NULL;
    t->work_bytes = end;
    return part;
}

static void trainer_layout(struct trainer *t)
{
    size_t k = t->params->centroid_count, dim = t->points->dim, trials = t->params->trials;
    size_t padded = t->points->group_count * CODEC_LANES;
    t->work_bytes = 0;
    t->nearest = carve(t, padded, sizeof(*t->nearest));
    t->labels = carve(t, padded, sizeof(*t->labels));
    t->chunk_sums = carve(t, t->chunk_count, sizeof(double));
    t->trial_sums = carve(t, t->chunk_count * trials, sizeof(double));
    t->candidates = carve(t, trials * dim, sizeof(float));
    t->sums = carve(t, k, dim * sizeof(double));
    t->sizes = carve(t, k, sizeof(*t->sizes));
    t->inertias = carve(t, k, sizeof(double));
}

static enum status trainer_init(struct trainer *t, struct error *err)
{
    trainer_layout(t);
    if (t->work_overflow)
        return error_set(err, STATUS_NO_MEMORY, "k-means: the work space's size overflows");
    void *work;
    enum status status = bulk_alloc(t->work_bytes, 1, "k-means work space", &work, err);
    if (status != STATUS_OK)
        return status;
    t->work = work;
    trainer_layout(t);
    return STATUS_OK;
}

enum status kmeans_train(const struct kmeans_points *points, const struct kmeans_params *params,
                         float *centroids, struct kmeans_stats *stats, struct error *err)
{
    assert(points->count >= 1 && points->dim >= 1 && params->centroid_count >= 1);
    assert(params->trials >= 1 && params->trials <= KMEANS_TRIALS_MAX);
    struct trainer t = {
        .points = points,
        .params = params,
        .kernels = codec_pq_kernels_get(params->features),
        .centroids = centroids,
        .chunk_count = (points->group_count + CHUNK_GROUPS - 1) / CHUNK_GROUPS,
    };
    enum status status = trainer_init(&t, err);
    if (status != STATUS_OK)
        return status;

    struct kmeans_stats found = {.seeds = seed_all(&t)};
    for (;;) {
        double inertia = lloyd_assign(&t);
        bool settled =
            found.iterations > 0 && found.inertia - inertia <= params->stop_gain * found.inertia;
        found.inertia = inertia;
        if (settled || inertia <= 0 || found.iterations == params->iterations_max)
            break;
        lloyd_update(&t);
        found.iterations++;
    }
    if (stats)
        *stats = found;
    bulk_free(t.work, t.work_bytes, 1);
    return STATUS_OK;
}
