/*
 * codec_opq_train.c - finds an OPQ's transform and trains the PQ behind it.
 *
 * The turn is that of OPQ-P (Ge, He, Ke, Sun, CVPR 2013): principal axes, dealt to the subspaces so
 * that the products of their variances are alike. Departure: axes whose variance is below the water
 * level of reverse water-filling (Cover, Thomas, 10.3.3) for the bits there are are dropped, as an
 * optimal code of that many bits spends none on them. Where variances fall off steeply that is most
 * of them, and what is left has fewer dimensions a subspace.
 *
 * Threads: as training of PQ; the bytes depend on no team.
 */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec_choose.h"
#include "common/codec_opq_internal.h"
#include "common/eigen.h"
#include "common/kmeans.h"
#include "common/memory.h"

enum {
    COVARIANCE_ROWS_MAX = 65536,
    COVARIANCE_CHUNK = 1024, /* rows held at a time */
    COVARIANCE_SUM = 256,    /* of them summed in f32 before they are added in f64 */
    COVARIANCE_TILE = 64,    /* columns of a strip at a time */
    WINDOW_DIMS = 64,
    /* Transformed values that are trained on: 256 MB. Below 1024 kept dimensions all rows of the
     * largest sample useful. */
    TRAIN_VALUES_MAX = 1 << 26,
    TRAIN_ROWS_MIN = 4096,
};

/* Rows of the sample, evenly spaced: a prefix may be all alike where the input is sorted. */
struct row_set {
    const struct codec_params *params;
    const uint8_t *rows;
    size_t row_bytes;
    const struct codec_view *views; /* of all rows, while the transform is sought */
    size_t total;
    size_t count;
};

static size_t row_index(const struct row_set *set, size_t i)
{
    return (size_t)((unsigned __int128)i * set->total / set->count);
}

static const uint8_t *row_at(const struct row_set *set, size_t i)
{
    return set->rows + row_index(set, i) * set->row_bytes;
}

/* Coordinates [first, first + count) of row `i`. */
static void row_load(const struct row_set *set, size_t i, size_t first, size_t count, float *out)
{
    codec_view_load(set->params, row_at(set, i), &set->views[row_index(set, i)], first, count, out);
}

/* ---- moments ---- */

/* Fills opq->mean; returns the largest value seen. */
static float mean_compute(struct codec_opq *opq, const struct row_set *set)
{
    float largest = 0;
#pragma omp parallel for schedule(dynamic, 1) reduction(max : largest)
    for (size_t first = 0; first < opq->dims; first += WINDOW_DIMS) {
        const size_t dims = MIN((size_t)WINDOW_DIMS, opq->dims - first);
        double sum[WINDOW_DIMS] = {0};
        float values[WINDOW_DIMS];
        for (size_t i = 0; i < set->count; i++) {
            row_load(set, i, first, dims, values);
            for (size_t d = 0; d < dims; d++) {
                sum[d] += (double)values[d];
                largest = fmaxf(largest, fabsf(values[d]));
            }
        }
        for (size_t d = 0; d < dims; d++)
            opq->mean[first + d] = (float)(sum[d] / (double)set->count);
    }
    return largest;
}

/* The sum of outer products, built up from chunks of rows that lie in two layouts. */
struct covariance {
    const struct codec_opq *opq;
    size_t dims, groups;
    float scale;    /* a power of two, so that squares neither overflow nor vanish */
    float *strips;  /* [groups][COVARIANCE_CHUNK][16] */
    float *columns; /* [groups * 16][COVARIANCE_CHUNK] */
    double *matrix; /* dims x dims; on and below the diagonal */
};

static void chunk_put(const struct covariance *c, size_t i, const float *centred)
{
    for (size_t d = 0; d < c->groups * CODEC_LANES; d++) {
        float value = d < c->dims && centred ? centred[d] : 0.0f;
        c->strips[(d / CODEC_LANES * COVARIANCE_CHUNK + i) * CODEC_LANES + d % CODEC_LANES] = value;
        c->columns[d * COVARIANCE_CHUNK + i] = value;
    }
}

/* Adds the products of columns 16 g.. with `count` columns from `first` on. */
static void tile_add(const struct covariance *c, size_t g, size_t first, size_t count)
{
    ALIGNED(64) float out[COVARIANCE_TILE * CODEC_LANES];
    for (size_t row = 0; row < COVARIANCE_CHUNK; row += COVARIANCE_SUM) {
        const struct codec_pq_tile tile = {
            .points = c->strips + (g * COVARIANCE_CHUNK + row) * CODEC_LANES,
            .centroids = c->columns + first * COVARIANCE_CHUNK + row,
            .dims = COVARIANCE_SUM,
            .stride = COVARIANCE_CHUNK,
            .count = count,
            .distances = out,
            .fresh = true,
        };
        c->opq->kernels->products(&tile);
        for (size_t j = 0; j < count; j++) {
            double *sums = c->matrix + (first + j) * c->dims + g * CODEC_LANES;
            const size_t lanes = MIN((size_t)CODEC_LANES, first + j + 1 - g * CODEC_LANES);
            for (size_t lane = 0; lane < lanes; lane++)
                sums[lane] += (double)out[j * CODEC_LANES + lane];
        }
    }
}

static void chunk_load(const struct covariance *c, const struct row_set *set, size_t first)
{
    const size_t count = MIN((size_t)COVARIANCE_CHUNK, set->count - first);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < COVARIANCE_CHUNK; i++) {
        float values[VECTOR_DIM_MAX + 1];
        if (i < count) {
            row_load(set, first + i, 0, c->dims, values);
            for (size_t d = 0; d < c->dims; d++)
                values[d] = values[d] * c->scale - c->opq->mean[d] * c->scale;
        }
        chunk_put(c, i, i < count ? values : NULL);
    }
}

/* Twice the largest value bounds a centred one; to 2^-20 of it squares count. */
static float covariance_scale(float largest)
{
    int exponent = 0;
    (void)frexpf(largest, &exponent);
    return ldexpf(1.0f, MIN(-exponent, 120));
}

static enum status covariance_compute(const struct codec_opq *opq, const struct row_set *set,
                                      float largest, double *matrix, struct error *err)
{
    struct covariance c = {
        .opq = opq,
        .dims = opq->dims,
        .groups = (opq->dims + (size_t)CODEC_LANES - 1) / CODEC_LANES,
        .scale = covariance_scale(largest),
        .matrix = matrix,
    };
    const size_t floats = c.groups * CODEC_LANES * COVARIANCE_CHUNK;
    void *memory = NULL;
    enum status status = bulk_alloc(2 * floats, sizeof(float), "covariance", &memory, err);
    if (status != STATUS_OK)
        return status;
    c.strips = memory;
    c.columns = c.strips + floats;
    for (size_t first = 0; first < set->count; first += COVARIANCE_CHUNK) {
        chunk_load(&c, set, first);
#pragma omp parallel for schedule(dynamic, 1)
        for (size_t g = 0; g < c.groups; g++)
            for (size_t d = g * CODEC_LANES; d < c.dims; d += COVARIANCE_TILE)
                tile_add(&c, g, d, MIN((size_t)COVARIANCE_TILE, c.dims - d));
    }
    for (size_t r = 0; r < c.dims; r++)
        for (size_t d = 0; d < r; d++)
            matrix[d * c.dims + r] = matrix[r * c.dims + d];
    bulk_free(memory, 2 * floats, sizeof(float));
    return STATUS_OK;
}

/* ---- axes ---- */

double codec_opq_log2(double value)
{
    int exponent;
    double m = frexp(value, &exponent);
    if (m < 0.70710678118654752) {
        m *= 2;
        exponent--;
    }
    /* log m = 2 artanh(s); |s| < 0.172, so that the first term left out is below 2^-60. */
    const double s = (m - 1) / (m + 1), square = s * s;
    double sum = 0;
    for (int i = 23; i >= 1; i -= 2)
        sum = sum * square + 1.0 / i;
    return exponent + 2 * s * sum * 1.44269504088896340736;
}

/* log2 of each variance; those that rounding alone may have made are taken as 2^-60 of the first.
 */
static void spectrum_log(const double *values, size_t n, double *logs)
{
    const double least = values[0] * 0x1p-60;
    for (size_t i = 0; i < n; i++)
        logs[i] = values[0] > DBL_MIN ? codec_opq_log2(fmax(values[i], fmax(least, DBL_MIN))) : 0;
}

/* How many variances, of descending logarithms, lie above the water level for `bits`; *level is its
 * logarithm. With k of them above it, coding at that level takes sum(log v - level) / 2 bits. */
static uint32_t water_fill(const double *logs, uint32_t n, double bits, double *level)
{
    double sum = 0;
    uint32_t k = 0;
    while (k < n && (k == 0 || sum + logs[k] - (k + 1) * logs[k] < 2 * bits))
        sum += logs[k++];
    *level = (sum - 2 * bits) / k;
    return k;
}

/* axis_of[i]: the axis that becomes dimension i. In order of variance, each axis goes to the
 * subspace with the least log-variance above `level` so far that has room. */
static void axes_deal(const struct codec_params *inner, const double *logs, double level,
                      uint32_t *axis_of)
{
    double load[VECTOR_DIM_MAX] = {0};
    uint32_t filled[VECTOR_DIM_MAX] = {0};
    assert(inner->code_bytes > 0);
    for (uint32_t axis = 0; axis < inner->dim; axis++) {
        uint32_t best = 0;
        for (uint32_t m = 0; m < inner->code_bytes; m++)
            if (filled[m] < codec_pq_sub_dim(inner, m) &&
                (filled[best] == codec_pq_sub_dim(inner, best) || load[m] < load[best]))
                best = m;
        axis_of[codec_pq_first(inner, best) + filled[best]++] = axis;
        load[best] += fmax(logs[axis] - level, 0);
    }
}

static struct codec_params inner_params(const struct codec_params *params, uint32_t variant,
                                        uint32_t kept)
{
    return (struct codec_params){
        .kind = CODEC_PQ,
        .metric = METRIC_L2,
        .type = ELEMENT_F32,
        .dim = kept,
        .code_bytes = params->code_bytes - (variant & CODEC_OPQ_CORRECT ? 1 : 0),
        .seed = params->seed,
    };
}

/* Makes *opq, which has mean and all dimensions, one that is turned by axes of its covariance. */
static enum status turn_find(struct codec_opq **opq, const struct row_set *set, float largest,
                             unsigned features, struct error *err)
{
    struct codec_opq *plain = *opq, *turned = NULL;
    const uint32_t dims = plain->dims, variant = plain->variant | CODEC_OPQ_TURN;
    void *memory = NULL;
    double *values = malloc(2 * dims * sizeof(double));
    uint32_t *axis_of = calloc(dims, sizeof(uint32_t));
    if (!values || !axis_of) {
        free(axis_of);
        free(values);
        (void)error_set(err, STATUS_NO_MEMORY, "codec: cannot allocate %u axes", dims);
        return STATUS_NO_MEMORY;
    }
    enum status status =
        bulk_alloc((size_t)dims * dims, sizeof(double), "covariance", &memory, err);
    double *matrix = memory;
    if (status == STATUS_OK)
        status = covariance_compute(plain, set, largest, matrix, err);
    if (status == STATUS_OK)
        status = eigen_symmetric(matrix, dims, values, err);
    if (status == STATUS_OK) {
        double level, *logs = values + dims;
        const uint32_t subspaces = codec_opq_subspaces(plain);
        spectrum_log(values, dims, logs);
        uint32_t kept = MAX(water_fill(logs, dims, 8.0 * subspaces, &level), subspaces);
        const struct codec_params inner = inner_params(set->params, variant, kept);
        axes_deal(&inner, logs, level, axis_of);
        status = codec_opq_create(set->params, variant, kept, features, &turned, err);
    }
    if (status == STATUS_OK) {
        memcpy(turned->mean, plain->mean, dims * sizeof(float));
        for (size_t k = 0; k < turned->kept; k++)
            for (size_t d = 0; d < dims; d++)
                turned->turn[k * dims + d] = (float)matrix[(size_t)axis_of[k] * dims + d];
        codec_opq_destroy(&plain->base);
        *opq = turned;
    }
    if (memory)
        bulk_free(memory, (size_t)dims * dims, sizeof(double));
    free(axis_of);
    free(values);
    return status;
}

/* Mean and turn. */
static enum status transform_find(struct codec_opq **opq, uint32_t variant, struct row_set set,
                                  unsigned features, struct error *err)
{
    set.count = MIN(set.total, (size_t)COVARIANCE_ROWS_MAX);
    float largest = mean_compute(*opq, &set);
    return variant & CODEC_OPQ_TURN ? turn_find(opq, &set, largest, features, err) : STATUS_OK;
}

/* ---- training ---- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The levels reach over all but a thousandth of the corrections at either end: one far outlier
 * would take the resolution of all. */
static void levels_choose(struct codec_opq *opq, double *corrections, size_t count)
{
    qsort(corrections, count, sizeof(*corrections), compare_doubles);
    const double bound = (double)FLT_MAX / 4;
    const double low = corrections[count / 1000];
    const double high = corrections[count - 1 - count / 1000];
    opq->low = (float)fmin(fmax(low, -bound), bound);
    opq->step = (float)((fmin(fmax(high, -bound), bound) - (double)opq->low) / 255);
    opq->step = opq->step > 0 ? opq->step : 0;
}

/* What training holds of the rows. */
struct trained_rows {
    float *values;       /* count x kept */
    double *corrections; /* count */
};

/* Transforms up to 16 rows from `first` on; returns how many and sets *transformed to them. */
static size_t group_transform(const struct codec_opq *opq, const struct row_set *set, size_t first,
                              struct codec_opq_batch *batch, const float **transformed)
{
    const void *rows[CODEC_LANES];
    const size_t count = MIN((size_t)CODEC_LANES, set->count - first);
    for (size_t i = 0; i < count; i++)
        rows[i] = row_at(set, first + i);
    *transformed = codec_opq_transform(opq, rows, count, batch);
    return count;
}

static void rows_transform(const struct codec_opq *opq, const struct row_set *set, float *values)
{
#pragma omp parallel for schedule(static)
    for (size_t first = 0; first < set->count; first += CODEC_LANES) {
        struct codec_opq_batch batch;
        const float *transformed;
        size_t count = group_transform(opq, set, first, &batch, &transformed);
        memcpy(values + first * opq->kept, transformed, count * opq->kept * sizeof(float));
    }
}

static void rows_correct(struct codec_opq *opq, const struct row_set *set,
                         const struct trained_rows *rows)
{
    const size_t subspaces = codec_opq_subspaces(opq);
#pragma omp parallel for schedule(static)
    for (size_t first = 0; first < set->count; first += CODEC_LANES) {
        struct codec_opq_batch batch;
        uint8_t codes[CODEC_LANES * VECTOR_DIM_MAX];
        const float *transformed;
        size_t count = group_transform(opq, set, first, &batch, &transformed);
        codec_encode(opq->inner, transformed, count, codes);
        for (size_t i = 0; i < count; i++)
            rows->corrections[first + i] =
                codec_opq_correction(opq, &batch, i, codes + i * subspaces);
    }
    levels_choose(opq, rows->corrections, set->count);
}

static enum status inner_train(struct codec_opq *opq, const struct codec_effort *effort,
                               struct row_set set, struct error *err)
{
    const struct codec_params inner = inner_params(&opq->base.params, opq->variant, opq->kept);
    struct trained_rows rows = {0};
    void *memory = NULL;
    const size_t most = (size_t)TRAIN_VALUES_MAX / opq->kept;
    set.count = MIN(set.total, MAX(most, (size_t)TRAIN_ROWS_MIN));
    enum status status =
        bulk_alloc(set.count * opq->kept, sizeof(float), "transformed sample", &memory, err);
    if (status != STATUS_OK)
        return status;
    rows.values = memory;
    rows.corrections = malloc(set.count * sizeof(double));
    if (!rows.corrections)
        status = error_set(err, STATUS_NO_MEMORY, "codec: cannot allocate corrections");
    if (status == STATUS_OK) {
        rows_transform(opq, &set, rows.values);
        status = codec_pq_train(&inner, effort, rows.values, set.count, &opq->inner, err);
    }
    if (status == STATUS_OK) {
        codec_opq_finish(opq);
        if (opq->variant & CODEC_OPQ_CORRECT)
            rows_correct(opq, &set, &rows);
    }
    free(rows.corrections);
    bulk_free(memory, set.count * opq->kept, sizeof(float));
    return status;
}

enum status codec_opq_train(const struct codec_params *asked, const struct codec_effort *effort,
                            uint32_t variant, const void *rows, size_t count, struct codec **out,
                            struct error *err)
{
    struct codec_params params = *asked;
    struct codec_opq *opq = NULL;
    struct codec_view *views = NULL;
    enum status status = codec_views_create(&params, rows, count, &views, err);
    if (status != STATUS_OK)
        return status;
    if (params.code_bytes < 2)
        variant &= ~(uint32_t)CODEC_OPQ_CORRECT;
    const struct row_set set = {
        .params = &params,
        .rows = rows,
        .row_bytes = element_vector_bytes(params.type, params.dim),
        .views = views,
        .total = count,
        .count = count,
    };
    status = codec_opq_create(&params, variant & CODEC_OPQ_CORRECT, codec_view_dims(&params),
                              effort->features, &opq, err);
    if (status == STATUS_OK)
        status = transform_find(&opq, variant, set, effort->features, err);
    codec_views_destroy(views, count);
    if (status == STATUS_OK)
        status = inner_train(opq, effort, set, err);
    if (status == STATUS_OK) {
        *out = &opq->base;
        opq = NULL;
    }
    if (opq)
        codec_opq_destroy(&opq->base);
    return status;
}

uint32_t codec_opq_variant_default(const struct codec_params *params)
{
    return codec_view_dims(params) <= CODEC_TURN_DIM_MAX ? CODEC_OPQ_TURN : CODEC_OPQ_CORRECT;
}
