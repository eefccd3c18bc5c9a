/*
 * partition_train.c - what is settled before the pass over the file: centroids, weights, closure.
 *
 * All of it comes from a seeded sample, which is all of the input that is in RAM here. The closure
 * distance is a quantile of the sample's distances to borders, so that the rows below it are as
 * many as the mean replication allows, whatever the data: a fixed ratio (SPANN has 1.1) would
 * borrow nothing in clusters far apart and everything in high dimensions.
 *
 * Threads: the caller's team. Sample rows are read at random, so all threads wait for the disk
 * together.
 */
#include <omp.h>
#include <stdlib.h>

#include "builder/partition_internal.h"
#include "builder/row_sample.h"
#include "common/cpu.h"
#include "common/kmeans.h"
#include "common/memory.h"

enum {
    SAMPLE_BYTES = 64 << 20,
    SAMPLE_PER_SHARD = 64,
    SAMPLE_ROWS_MAX = 65536,
    ITERATIONS_MAX = 25,
    TRIALS = 8,
};
_Static_assert(SAMPLE_PER_SHARD *PARTITION_SHARDS_MAX <= SAMPLE_ROWS_MAX,
               "every shard gets its part of the sample");

static const double STOP_GAIN = 1e-4;

/* Tells the sample's random stream from others drawn from the same seed. */
#define PARTITION_SAMPLE_STREAM 0x5eafa11b0ad5eedbu

/* What one thread works with. */
struct scratch {
    uint8_t *row;
    float *vector;    /* [dim] */
    float *distances; /* [shard_count] */
};

struct training {
    const struct vector_file *file;
    const struct partition_params *params;
    const struct build_monitor *monitor;
    struct partition_cells *cells;
    size_t row_bytes;
    uint32_t count;              /* rows of the sample */
    struct kmeans_points points; /* the sample in the space */
    uint8_t *memory;             /* scratch_bytes a thread */
    size_t scratch_bytes;
    uint32_t thread_count;
};

static uint32_t sample_rows(const struct vector_shape *shape, uint32_t shard_count)
{
    uint64_t rows = SAMPLE_BYTES / (sizeof(float) * shape->dim);
    rows = MAX(rows, (uint64_t)SAMPLE_PER_SHARD * shard_count);
    return (uint32_t)MIN(MIN(rows, (uint64_t)SAMPLE_ROWS_MAX), shape->count);
}

/* Shards besides the nearest that a row's scores are of. */
static uint32_t borrowers_of(uint32_t shard_count)
{
    return MIN((uint32_t)PARTITION_BORROWERS_MAX, shard_count - 1);
}

static size_t scratch_bytes_of(size_t row_bytes, size_t dim, size_t shard_count)
{
    return size_align(row_bytes, 64) + size_align((dim + 1) * sizeof(float), 64) +
           size_align(shard_count * sizeof(float), 64);
}

static struct scratch scratch_mine(const struct training *t)
{
    uint8_t *mine = t->memory + (size_t)omp_get_thread_num() * t->scratch_bytes;
    uint8_t *vector = mine + size_align(t->row_bytes, 64);
    uint8_t *distances = vector + size_align((t->cells->dim + (size_t)1) * sizeof(float), 64);
    return (struct scratch){mine, (float *)(void *)vector, (float *)(void *)distances};
}

/* ---- sample ---- */

static void point_get(const struct kmeans_points *points, size_t index, float *vector)
{
    const float *lane =
        points->lanes + index / KMEANS_LANES * points->dim * KMEANS_LANES + index % KMEANS_LANES;
    for (size_t d = 0; d < points->dim; d++)
        vector[d] = lane[d * KMEANS_LANES];
}

static enum status sample_read(struct training *t, struct error *err)
{
    struct partition_fault fault = {.at = UINT64_MAX};
    uint32_t total = (uint32_t)vector_file_shape(t->file).count;

    enum status status = kmeans_points_init(&t->points, t->count, t->cells->dim, err);
    if (status != STATUS_OK)
        return status;
    uint32_t *rows = malloc(t->count * sizeof(*rows));
    if (rows == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a sample of %u rows", t->count);
    row_sample(t->params->seed ^ PARTITION_SAMPLE_STREAM, total, t->count, rows);
#pragma omp parallel for schedule(dynamic, 16)
    for (uint32_t i = 0; i < t->count; i++) {
        struct scratch mine = scratch_mine(t);
        struct error error;
        if (build_monitor_cancelled(t->monitor))
            continue;
        if (vector_file_read(t->file, rows[i], 1, mine.row, &error) != STATUS_OK) {
            partition_fault_note(&fault, i, &error);
            continue;
        }
        partition_vector(t->cells, mine.row, mine.vector);
        kmeans_points_put(&t->points, i, mine.vector);
    }
    free(rows);
    status = build_monitor_check(t->monitor, err);
    return status == STATUS_OK ? partition_fault_status(&fault, err) : status;
}

/* ---- centroids and weights ---- */

static enum status centroids_train(struct training *t, struct error *err)
{
    struct kmeans_params params = {
        .centroid_count = t->cells->shard_count,
        .iterations_max = ITERATIONS_MAX,
        .trials = TRIALS,
        .stop_gain = STOP_GAIN,
        .seed = t->params->seed ^ PARTITION_SAMPLE_STREAM,
        .features = cpu_features(),
    };
    enum status status = kmeans_train(&t->points, &params, t->cells->centroids, NULL, err);
    return status == STATUS_OK ? build_monitor_check(t->monitor, err) : status;
}

static enum status weights_train(struct training *t, struct error *err)
{
    const uint32_t shards = t->cells->shard_count;
    struct partition_balance_input input = {NULL, t->count, shards, t->monitor};
    void *memory = NULL;

    enum status status = bulk_alloc((size_t)shards * t->count, sizeof(float),
                                    "distances of a sample to the centroids", &memory, err);
    if (status != STATUS_OK)
        return status;
    float *distances = memory;
    /* Chunks of 16 rows: then a cache line of the result is written by one thread. */
#pragma omp parallel for schedule(dynamic, 16)
    for (uint32_t i = 0; i < t->count; i++) {
        struct scratch mine = scratch_mine(t);
        point_get(&t->points, i, mine.vector);
        partition_distances(t->cells, mine.vector, mine.distances);
        for (uint32_t shard = 0; shard < shards; shard++)
            distances[(size_t)shard * t->count + i] = mine.distances[shard];
    }
    input.distances = distances;
    status = partition_balance(&input, t->cells->weights, err);
    bulk_free(memory, (size_t)shards * t->count, sizeof(float));
    return status;
}

/* ---- closure ---- */

static enum status closure_train(struct training *t, double *closure_distance, struct error *err)
{
    const size_t borrowers = borrowers_of(t->cells->shard_count);
    const size_t count = t->count * borrowers;
    double wanted = (t->params->replication - 1.0) * t->count;

    if (wanted < 1.0) {
        *closure_distance = 0;
        return STATUS_OK;
    }
    int32_t *keys = malloc(count * sizeof(*keys));
    if (keys == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the scores of %u rows", t->count);
#pragma omp parallel for schedule(static)
    for (uint32_t i = 0; i < t->count; i++) {
        struct scratch mine = scratch_mine(t);
        struct partition_choice choice;
        point_get(&t->points, i, mine.vector);
        partition_choose(t->cells, mine.vector, NULL, mine.distances, &choice);
        for (size_t j = 0; j < borrowers; j++)
            keys[i * borrowers + j] = partition_order_key(choice.scores[j + 1]);
    }
    size_t below = MIN((size_t)wanted, count);
    *closure_distance = (double)partition_kth_largest(keys, count, count - below + 1);
    free(keys);
    return STATUS_OK;
}

/* ---- the whole ---- */

enum status partition_train(const struct vector_file *file, const struct partition_params *params,
                            const struct build_monitor *monitor, struct partition_cells *cells,
                            double *closure_distance, struct error *err)
{
    struct vector_shape shape = vector_file_shape(file);
    struct training t = {
        .file = file,
        .params = params,
        .monitor = monitor,
        .cells = cells,
        .row_bytes = element_vector_bytes(shape.type, shape.dim),
        .count = sample_rows(&shape, cells->shard_count),
        .thread_count = (uint32_t)omp_get_max_threads(),
    };
    void *memory = NULL;

    t.scratch_bytes = scratch_bytes_of(t.row_bytes, shape.dim, cells->shard_count);
    enum status status =
        bulk_alloc(t.thread_count, t.scratch_bytes, "partition training", &memory, err);
    if (status != STATUS_OK)
        return status;
    t.memory = memory;
    status = sample_read(&t, err);
    if (status == STATUS_OK)
        status = centroids_train(&t, err);
    if (status == STATUS_OK)
        status = weights_train(&t, err);
    if (status == STATUS_OK)
        status = closure_train(&t, closure_distance, err);
    kmeans_points_fini(&t.points);
    bulk_free(memory, t.thread_count, t.scratch_bytes);
    return status;
}

uint64_t partition_train_bytes(const struct vector_shape *shape, uint32_t shard_count,
                               uint32_t threads)
{
    uint64_t rows = sample_rows(shape, shard_count);
    uint64_t dim = shape->dim;
    uint64_t row_bytes = element_vector_bytes(shape->type, shape->dim);
    uint64_t points = size_align(rows, KMEANS_LANES) * dim * sizeof(float);
    /* Labels, distances and sums of chunks; candidates; coordinate sums of the centroids. */
    uint64_t kmeans =
        rows * 16 + TRIALS * dim * sizeof(float) + shard_count * (dim * sizeof(double) + 16);
    uint64_t balance = (uint64_t)shard_count * rows * sizeof(float) +
                       partition_balance_bytes((uint32_t)rows, shard_count, threads);
    uint64_t closure = rows * borrowers_of(shard_count) * sizeof(int32_t);

    return points + rows * sizeof(uint32_t) +
           threads * scratch_bytes_of(row_bytes, shape->dim, shard_count) +
           MAX(MAX(kmeans, balance), closure);
}
