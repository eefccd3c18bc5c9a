/*
 * codec_pq.c - product quantization: training, encoding and the body of codec.bin.
 *
 * A vector is cut into code_bytes subspaces; each part is replaced by the nearest of 256 centroids
 * that k-means found for that subspace (Jegou, Douze, Schmid, TPAMI 2011). Departures: subspaces
 * may differ by one in dimension, so any code size works; cosine trains on and encodes normalised
 * vectors; for inner products centroids are still trained for least squares, as the common codebook
 * must serve every query.
 *
 * Threads: training runs one subspace a thread, or all threads on one subspace when there are fewer
 * subspaces than threads; either way the bytes are the same. Encoding is pure.
 */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec_internal.h"
#include "common/kmeans.h"
#include "common/memory.h"
#include "common/random.h"

enum {
    TRAIN_ITERATIONS_MAX = 25,
    TRAIN_TRIALS = 4,
    TILE_DIMS = 256, /* dimensions converted at a time, which bounds the stack */
};

/* Iterations that gain less than this cost more than they bring. */
static const double train_stop_gain = 5e-4;

/* ---- lifetime ---- */

static void pq_destroy(struct codec *codec)
{
    struct codec_pq *pq = (struct codec_pq *)codec;
    if (pq->centroids)
        bulk_free(pq->centroids, pq->floats, sizeof(float));
    if (pq->lanes)
        bulk_free(pq->lanes, pq->floats, sizeof(float));
    free(pq);
}

/* A PQ with room for its centroids. */
static enum status pq_create(const struct codec_params *params, unsigned features,
                             struct codec_pq **out, struct error *err)
{
    struct codec_pq *pq = calloc(1, sizeof(*pq));
    if (!pq) {
        (void)error_set(err, STATUS_NO_MEMORY, "codec: cannot allocate %zu bytes", sizeof(*pq));
        return STATUS_NO_MEMORY;
    }
    *pq = (struct codec_pq){
        .base = {&codec_pq_ops, *params},
        .kernels = codec_pq_kernels_get(features),
        .floats = (size_t)codec_view_dims(params) * CODEC_PQ_CENTROIDS,
    };
    void *centroids = NULL, *lanes = NULL;
    enum status status = bulk_alloc(pq->floats, sizeof(float), "codec centroids", &centroids, err);
    if (status == STATUS_OK)
        status = bulk_alloc(pq->floats, sizeof(float), "codec centroids", &lanes, err);
    pq->centroids = centroids;
    pq->lanes = lanes;
    if (status != STATUS_OK)
        pq_destroy(&pq->base);
    else
        *out = pq;
    return status;
}

/* Fills the lanes from the finished centroids. */
static void pq_finish(struct codec_pq *pq)
{
    const struct codec_params *params = &pq->base.params;
    for (uint32_t m = 0; m < params->code_bytes; m++) {
        size_t dims = codec_pq_sub_dim(params, m);
        size_t base = (size_t)codec_pq_first(params, m) * CODEC_PQ_CENTROIDS;
        for (size_t j = 0; j < CODEC_PQ_CENTROIDS; j++) {
            kmeans_lanes_put(pq->lanes + base, dims, j, 0, pq->centroids + base + j * dims, dims);
        }
    }
}

/* ---- training ---- */

struct training {
    struct codec_pq *pq;
    const uint8_t *rows;
    size_t row_bytes;
    size_t count;
    const struct codec_view *views; /* of each row */
    struct codec_effort effort;
};

static enum status train_subspace(const struct training *training, uint32_t subspace,
                                  struct error *err)
{
    const struct codec_params *params = &training->pq->base.params;
    size_t first = codec_pq_first(params, subspace);
    uint32_t dims = codec_pq_sub_dim(params, subspace);
    struct kmeans_points points;
    enum status status = kmeans_points_init(&points, training->count, dims, err);
    if (status != STATUS_OK)
        return status;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < training->count; i++) {
        float values[TILE_DIMS];
        for (size_t d = 0; d < dims; d += TILE_DIMS) {
            size_t some = MIN((size_t)TILE_DIMS, dims - d);
            codec_view_load(params, training->rows + i * training->row_bytes, &training->views[i],
                            first + d, some, values);
            kmeans_lanes_put(points.lanes, dims, i, d, values, some);
        }
    }
    struct kmeans_params kmeans = {
        .centroid_count = CODEC_PQ_CENTROIDS,
        .iterations_max = training->effort.iterations_max,
        .trials = training->effort.trials,
        .stop_gain = train_stop_gain,
        .seed = random_at(params->seed, subspace),
        .features = training->effort.features,
    };
    status = kmeans_train(&points, &kmeans, training->pq->centroids + first * CODEC_PQ_CENTROIDS,
                          NULL, err);
    kmeans_points_fini(&points);
    return status;
}

/* Trains every subspace; of several failures the first subspace's is reported. */
static enum status train_all(const struct training *training, struct error *err)
{
    const uint32_t subspaces = training->pq->base.params.code_bytes;
    uint32_t failed = UINT32_MAX;
    struct error fault = {.status = STATUS_OK};
    /* Nested teams are off by default, so with this one inactive kmeans_train() has the threads. */
#pragma omp parallel for schedule(dynamic, 1) if (subspaces >= (uint32_t)omp_get_max_threads())
    for (uint32_t m = 0; m < subspaces; m++) {
        struct error local;
        if (train_subspace(training, m, &local) != STATUS_OK) {
#pragma omp critical(codec_pq_train_fault)
            if (m < failed) {
                failed = m;
                fault = local;
            }
        }
    }
    if (fault.status != STATUS_OK && err)
        *err = fault;
    return fault.status;
}

enum status codec_pq_train(const struct codec_params *asked, const struct codec_effort *effort,
                           const void *rows, size_t count, struct codec **out, struct error *err)
{
    struct codec_pq *pq = NULL;
    enum status status = pq_create(asked, effort->features, &pq, err);
    if (status != STATUS_OK)
        return status;
    struct codec_params *params = &pq->base.params;
    struct training training = {
        .pq = pq,
        .rows = rows,
        .row_bytes = element_vector_bytes(params->type, params->dim),
        .count = count,
        .effort = *effort,
    };
    if (effort->iterations_max == 0)
        training.effort.iterations_max = TRAIN_ITERATIONS_MAX;
    if (effort->trials == 0)
        training.effort.trials = TRAIN_TRIALS;
    struct codec_view *views = NULL;
    status = codec_views_create(params, rows, count, &views, err);
    if (status != STATUS_OK)
        goto out;
    training.views = views;
    status = train_all(&training, err);
    if (status != STATUS_OK)
        goto out;
    pq_finish(pq);
    *out = &pq->base;
    pq = NULL;
out:
    codec_views_destroy(views, count);
    if (pq)
        pq_destroy(&pq->base);
    return status;
}

static enum status pq_train(const struct codec_params *params, unsigned features, const void *rows,
                            size_t count, struct codec **out, struct error *err)
{
    const struct codec_effort effort = {.features = features};
    return codec_pq_train(params, &effort, rows, count, out, err);
}

/* ---- encoding ---- */

/* Up to 16 rows, of which a window of dimensions is converted at a time. */
struct encoder {
    const struct codec_params *params;
    const uint8_t *rows;
    size_t row_bytes;
    size_t count;
    struct codec_view views[CODEC_LANES];
    size_t window_first, window_end;
    ALIGNED(64) float window[TILE_DIMS * CODEC_LANES];
    ALIGNED(64) float distances[CODEC_PQ_CENTROIDS * CODEC_LANES];
};

static void encoder_move_window(struct encoder *encoder, size_t first)
{
    float values[TILE_DIMS];
    size_t count = MIN((size_t)TILE_DIMS, codec_view_dims(encoder->params) - first);
    for (size_t i = 0; i < encoder->count; i++) {
        codec_view_load(encoder->params, encoder->rows + i * encoder->row_bytes, &encoder->views[i],
                        first, count, values);
        kmeans_lanes_put(encoder->window, count, i, 0, values, count);
    }
    encoder->window_first = first;
    encoder->window_end = first + count;
}

/* Nearest centroids of the rows' parts in one subspace. */
static void encode_subspace(struct encoder *encoder, const struct codec_pq *pq, uint32_t subspace,
                            uint32_t *labels)
{
    const size_t first = codec_pq_first(encoder->params, subspace);
    const size_t dims = codec_pq_sub_dim(encoder->params, subspace);
    ALIGNED(64) float best[CODEC_LANES];
    for (size_t lane = 0; lane < CODEC_LANES; lane++) {
        best[lane] = INFINITY;
        labels[lane] = 0;
    }
    for (size_t d = 0; d < dims;) {
        if (first + d >= encoder->window_end)
            encoder_move_window(encoder, first + d);
        struct codec_pq_tile tile = {
            .points = encoder->window + (first + d - encoder->window_first) * CODEC_LANES,
            .centroids = pq->centroids + first * CODEC_PQ_CENTROIDS + d,
            .dims = MIN(dims - d, encoder->window_end - (first + d)),
            .stride = dims,
            .count = CODEC_PQ_CENTROIDS,
            .distances = encoder->distances,
            .fresh = d == 0,
        };
        pq->kernels->accumulate(&tile);
        d += tile.dims;
    }
    pq->kernels->argmin(encoder->distances, CODEC_PQ_CENTROIDS, 0, best, labels);
}

static void pq_encode(const struct codec *codec, const void *rows, size_t count, uint8_t *codes)
{
    const struct codec_pq *pq = (const struct codec_pq *)codec;
    const struct codec_params *params = &codec->params;
    struct encoder encoder;
    encoder.params = params;
    encoder.row_bytes = element_vector_bytes(params->type, params->dim);
    /* Lanes without a row are computed and dropped; zeros keep them defined. */
    memset(encoder.window, 0, sizeof(encoder.window));
    for (size_t row = 0; row < count; row += CODEC_LANES) {
        encoder.rows = (const uint8_t *)rows + row * encoder.row_bytes;
        encoder.count = MIN((size_t)CODEC_LANES, count - row);
        encoder.window_first = encoder.window_end = 0;
        for (size_t i = 0; i < encoder.count; i++) {
            encoder.views[i] = codec_view_of_row(params, encoder.rows + i * encoder.row_bytes);
        }
        for (uint32_t m = 0; m < params->code_bytes; m++) {
            ALIGNED(64) uint32_t labels[CODEC_LANES];
            encode_subspace(&encoder, pq, m, labels);
            for (size_t i = 0; i < encoder.count; i++)
                codes[(row + i) * params->code_bytes + m] = (uint8_t)labels[i];
        }
    }
}

/* ---- codec.bin ---- */

static size_t pq_body_bytes(const struct codec_params *params)
{
    return (size_t)codec_view_dims(params) * CODEC_PQ_CENTROIDS * sizeof(float);
}

static void pq_body_write(const struct codec *codec, uint8_t *body)
{
    const struct codec_pq *pq = (const struct codec_pq *)codec;
    memcpy(body, pq->centroids, pq->floats * sizeof(float));
}

static enum status pq_body_read(const struct codec_params *params, unsigned features,
                                const uint8_t *body, struct codec **out, struct error *err)
{
    struct codec_pq *pq;
    size_t bad;
    if (!element_all_finite(ELEMENT_F32, body, (size_t)codec_view_dims(params) * CODEC_PQ_CENTROIDS,
                            &bad)) {
        return error_set(err, STATUS_CORRUPT, "codec: centroid value %zu of %zu is not finite", bad,
                         (size_t)codec_view_dims(params) * CODEC_PQ_CENTROIDS);
    }
    enum status status = pq_create(params, features, &pq, err);
    if (status != STATUS_OK)
        return status;
    memcpy(pq->centroids, body, pq->floats * sizeof(float));
    pq_finish(pq);
    *out = &pq->base;
    return STATUS_OK;
}

enum status codec_pq_code_bytes_check(const struct codec_params *params, enum status fault,
                                      struct error *err)
{
    if (params->code_bytes >= 1 && params->code_bytes <= params->dim)
        return STATUS_OK;
    return error_set(err, fault,
                     "codec: code_bytes is %" PRIu32 ", %s takes 1..%" PRIu32 ", the dimension",
                     params->code_bytes, codec_kind_name(params->kind), params->dim);
}

const struct codec_ops codec_pq_ops = {
    .name = "pq",
    .code_bytes_check = codec_pq_code_bytes_check,
    .train = pq_train,
    .destroy = pq_destroy,
    .encode = pq_encode,
    .table_bytes = codec_pq_table_bytes,
    .table_build = codec_pq_table_build,
    .table_gather = codec_pq_table_gather,
    .body_bytes = pq_body_bytes,
    .body_write = pq_body_write,
    .body_read = pq_body_read,
};
