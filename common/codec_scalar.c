/*
 * codec_scalar.c - scalar quantization of rotated vectors: training, encoding, query tables and the
 * body of codec.bin.
 *
 * After extended RaBitQ (Gao et al., SIGMOD 2025): a random rotation makes all coordinates alike,
 * so that one grid serves them, scaled for each vector. Departures: the grid's scale is searched
 * among some and then refined instead of enumerated exactly; a code holds the least squares factor,
 * <x', y> / <y, y>, instead of the one that makes estimates unbiased, as it ranks as well and is
 * the only factor needed, and what that makes too small is made up for on the average; queries are
 * rounded to nearest, not at random.
 *
 * Threads: training uses OpenMP, and its bytes do not depend on the number of threads. The rest is
 * pure.
 */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec_rotation.h"
#include "common/codec_scalar_internal.h"

enum {
    DIMS_MAX = VECTOR_DIM_MAX + 1,
    LANES = 16, /* partial sums; what a compiler makes of them does not change them */
    PADDED_MAX = (DIMS_MAX + LANES - 1) / LANES * LANES,
    TRAIN_TILE_DIMS = 64,
    TRAIN_TILES_MAX = (DIMS_MAX + TRAIN_TILE_DIMS - 1) / TRAIN_TILE_DIMS,
    GRID_SCALES = 24,
    REFINEMENTS = 2,
    QUERY_MAX = 127,
    NORMAL_DIMS_MIN = 16,
};

static const float F16_MAX = 65504.0f;

/* Keeps the square of the unit, and with it every constant of a table, a normal f32. */
static const float UNIT_MIN = 1e-18f;
static const float UNIT_MAX = 1e18f;

/* Below this root mean square a vector is zero: f / unit would be, too. */
static const float RMS_MIN = 1e-30f;

/* <x', y>^2 / (<x', x'> <y, y>) for normal coordinates, which a rotation of some dimensions makes
 * all but normal. An estimate by least squares leans toward |q'|^2 by what is missing to 1, alike
 * for all codes. Order does not mind; ratios of estimates to exact distances do. */
static double kept_share(uint32_t bits, uint32_t dims)
{
    static const double of_normal[5] = {[1] = 0.6366, [2] = 0.8845, [4] = 0.9902};
    return dims >= NORMAL_DIMS_MIN ? of_normal[bits] : 1;
}

struct codec_scalar {
    struct codec base;
    const struct codec_scalar_kernels *kernels;
    uint32_t dims;
    uint32_t bits;
    float unit; /* of factors: the training sample's root mean square of x' */
    float *mean;
    struct codec_rotation rotation;
};

/* ---- sizes ---- */

uint32_t codec_scalar_code_bytes(uint32_t dim, enum metric metric, uint32_t bits)
{
    const struct codec_params params = {.metric = metric, .dim = dim};
    return (uint32_t)codec_scalar_bytes(codec_view_dims(&params), bits) + CODEC_SCALAR_FACTOR_BYTES;
}

/* 4, 2 or 1; 0 for a size that no number of bits has. */
static uint32_t bits_of_params(const struct codec_params *params)
{
    for (uint32_t bits = 4; bits > 0; bits /= 2) {
        if (codec_scalar_code_bytes(params->dim, params->metric, bits) == params->code_bytes)
            return bits;
    }
    return 0;
}

static enum status scalar_code_bytes_check(const struct codec_params *params, enum status fault,
                                           struct error *err)
{
    if (bits_of_params(params) > 0)
        return STATUS_OK;
    return error_set(err, fault,
                     "codec: code_bytes is %" PRIu32 ", scalar takes %" PRIu32 ", %" PRIu32
                     " or %" PRIu32 " (1, 2 or 4 bits a dimension) for %" PRIu32
                     " dimensions under %s",
                     params->code_bytes, codec_scalar_code_bytes(params->dim, params->metric, 1),
                     codec_scalar_code_bytes(params->dim, params->metric, 2),
                     codec_scalar_code_bytes(params->dim, params->metric, 4), params->dim,
                     metric_name(params->metric));
}

/* ---- lifetime ---- */

static void scalar_destroy(struct codec *codec)
{
    struct codec_scalar *scalar = (struct codec_scalar *)codec;
    codec_rotation_fini(&scalar->rotation);
    free(scalar->mean);
    free(scalar);
}

/* All but unit and mean. */
static enum status scalar_create(const struct codec_params *params, unsigned features,
                                 struct codec_scalar **out, struct error *err)
{
    const uint32_t dims = codec_view_dims(params);
    struct codec_scalar *scalar = calloc(1, sizeof(*scalar));
    float *mean = calloc(dims, sizeof(*mean));
    if (!scalar || !mean) {
        free(scalar);
        free(mean);
        return error_set(err, STATUS_NO_MEMORY, "codec: cannot allocate %zu bytes",
                         dims * sizeof(*mean));
    }
    *scalar = (struct codec_scalar){
        .base = {&codec_scalar_ops, *params},
        .kernels = codec_scalar_kernels_get(features),
        .dims = dims,
        .bits = bits_of_params(params),
        .mean = mean,
    };
    enum status status = codec_rotation_init(&scalar->rotation, dims, params->seed, err);
    if (status != STATUS_OK)
        scalar_destroy(&scalar->base);
    else
        *out = scalar;
    return status;
}

/* ---- training ---- */

struct training {
    struct codec_scalar *scalar;
    const uint8_t *rows;
    size_t row_bytes;
    size_t count;
    const struct codec_view *views; /* of each row */
};

/* Means of some dimensions, and the sum of squared distances from them. */
static double train_tile(const struct training *training, size_t first)
{
    struct codec_scalar *scalar = training->scalar;
    const struct codec_params *params = &scalar->base.params;
    const size_t dims = MIN((size_t)TRAIN_TILE_DIMS, scalar->dims - first);
    float *mean = scalar->mean + first, values[TRAIN_TILE_DIMS];
    double sums[TRAIN_TILE_DIMS] = {0};
    for (size_t i = 0; i < training->count; i++) {
        codec_view_load(params, training->rows + i * training->row_bytes, &training->views[i],
                        first, dims, values);
        for (size_t d = 0; d < dims; d++)
            sums[d] += (double)values[d];
    }
    for (size_t d = 0; d < dims; d++) {
        mean[d] = (float)(sums[d] / (double)training->count);
        sums[d] = 0;
    }
    for (size_t i = 0; i < training->count; i++) {
        codec_view_load(params, training->rows + i * training->row_bytes, &training->views[i],
                        first, dims, values);
        for (size_t d = 0; d < dims; d++)
            sums[d] +=
                ((double)values[d] - (double)mean[d]) * ((double)values[d] - (double)mean[d]);
    }
    double total = 0;
    for (size_t d = 0; d < dims; d++)
        total += sums[d];
    return total;
}

/* The rotation keeps lengths, so the unit can be had without it. */
static void train_unit(struct codec_scalar *scalar, double spread, size_t count)
{
    double unit = sqrt(spread / (double)count / scalar->dims);
    scalar->unit = unit > 0 ? (float)fmin(fmax(unit, (double)UNIT_MIN), (double)UNIT_MAX) : 1.0f;
}

static enum status scalar_train(const struct codec_params *asked, unsigned features,
                                const void *rows, size_t count, struct codec **out,
                                struct error *err)
{
    struct codec_scalar *scalar = NULL;
    enum status status = scalar_create(asked, features, &scalar, err);
    if (status != STATUS_OK)
        return status;
    struct codec_params *params = &scalar->base.params;
    struct codec_view *views = NULL;
    status = codec_views_create(params, rows, count, &views, err);
    if (status != STATUS_OK) {
        scalar_destroy(&scalar->base);
        return status;
    }
    const struct training training = {
        .scalar = scalar,
        .rows = rows,
        .row_bytes = element_vector_bytes(params->type, params->dim),
        .count = count,
        .views = views,
    };
    double spreads[TRAIN_TILES_MAX], spread = 0;
    const size_t tiles = (scalar->dims + TRAIN_TILE_DIMS - 1) / TRAIN_TILE_DIMS;
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t tile = 0; tile < tiles; tile++)
        spreads[tile] = train_tile(&training, tile * TRAIN_TILE_DIMS);
    for (size_t tile = 0; tile < tiles; tile++)
        spread += spreads[tile];
    train_unit(scalar, spread, count);
    codec_views_destroy(views, count);
    *out = &scalar->base;
    return STATUS_OK;
}

/* ---- encoding ---- */

/* x' of a vector that stands in out[scalar->dims] as it is seen. */
static void rotate(const struct codec_scalar *scalar, float *out)
{
    for (size_t d = 0; d < scalar->dims; d++)
        out[d] -= scalar->mean[d];
    codec_rotation_apply(&scalar->rotation, out);
}

ALWAYS_INLINE double lanes_sum(const float lanes[LANES])
{
    double sum = 0;
    for (size_t l = 0; l < LANES; l++)
        sum += (double)lanes[l];
    return sum;
}

/* |x'| by coordinate, filled up with zeros to a multiple of LANES. */
struct magnitudes {
    size_t dims, padded;
    float top; /* largest level: a magnitude of level m stands as 2m + 1 */
    float values[PADDED_MAX];
};

/* How a grid fits: magnitudes times `inverse`, rounded down, are levels. */
struct fit {
    float inverse;
    double dot, norm; /* <x', y>, <y, y> */
};

static struct fit fit_grid(const struct magnitudes *x, float inverse)
{
    float dots[LANES] = {0}, norms[LANES] = {0};
    const float top = x->top;
    for (size_t d = 0; d < x->padded; d += LANES) {
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) {
            float value = x->values[d + l], level = value * inverse;
            level = level < top ? level : top;
            float y = (float)(int32_t)level;
            y = y + y + 1.0f;
            dots[l] += value * y;
            norms[l] += y * y; /* exact: integers below 2^24 */
        }
    }
    /* Every filler is a 1. */
    return (struct fit){inverse, lanes_sum(dots), lanes_sum(norms) - (double)(x->padded - x->dims)};
}

ALWAYS_INLINE bool fits_better(const struct fit *a, const struct fit *b)
{
    return a->dot * a->dot * b->norm > b->dot * b->dot * a->norm;
}

/* The scale that leaves the least of x', among those around what suits normal coordinates. The
 * optimal steps for these are 1.0 and 0.335 times the deviation at 2 and 4 bits (Max, 1960). */
static struct fit fit_best(const struct magnitudes *x, uint32_t bits, float rms)
{
    static const float grid_ratio = 1.049f; /* 3 = 1.049^23 */
    float inverse = (bits == 2 ? 0.58f : 1.72f) / rms;
    struct fit best = fit_grid(x, inverse);
    if (bits == 1)
        return best;
    for (int i = 1; i < GRID_SCALES; i++) {
        inverse *= grid_ratio;
        struct fit fit = fit_grid(x, inverse);
        if (fits_better(&fit, &best))
            best = fit;
    }
    /* As in Lloyd's algorithm: the factor that suits the levels, levels that suit the factor. */
    for (int i = 0; i < REFINEMENTS; i++) {
        struct fit fit = fit_grid(x, (float)(0.5 * best.norm / best.dot));
        if (!fits_better(&fit, &best))
            break;
        best = fit;
    }
    return best;
}

/* Bits of one chunk of `dims` dimensions; see codec_scalar_internal.h. */
static void pack_chunk(const uint8_t *levels, size_t dims, uint32_t bits, uint8_t *code)
{
    const size_t bytes = codec_scalar_bytes(dims, bits);
    memset(code, 0, bytes);
    for (size_t first = 0, shift = 0; first < dims; first += bytes, shift += bits) {
        const size_t count = MIN(bytes, dims - first);
        for (size_t i = 0; i < count; i++)
            code[i] = (uint8_t)(code[i] | levels[first + i] << shift);
    }
}

/* The code of x' for the levels of `fit`. */
static void pack(const struct codec_scalar *scalar, const float *rotated,
                 const struct magnitudes *x, float inverse, uint8_t *code)
{
    const float top = x->top;
    const int32_t half = 1 << (scalar->bits - 1);
    uint8_t levels[DIMS_MAX];
    for (size_t d = 0; d < scalar->dims; d++) {
        float level = x->values[d] * inverse;
        level = level < top ? level : top;
        int32_t above = half + (int32_t)level; /* u of x' >= 0; the other side is its mirror */
        levels[d] = (uint8_t)(rotated[d] < 0 ? 2 * half - 1 - above : above);
    }
    for (size_t d = 0; d < scalar->dims; d += CODEC_SCALAR_CHUNK) {
        size_t count = MIN((size_t)CODEC_SCALAR_CHUNK, scalar->dims - d);
        pack_chunk(levels + d, count, scalar->bits, code);
        code += codec_scalar_bytes(count, scalar->bits);
    }
}

/* f / unit as binary16: saturated, and 0 for what is no number. */
static uint16_t factor_of(const struct codec_scalar *scalar, const struct fit *fit)
{
    float factor = (float)(fit->dot / fit->norm / (double)scalar->unit);
    uint16_t half = 0;
    if (!(factor > 0))
        return half;
    factor = MIN(factor, F16_MAX);
    element_from_f32(ELEMENT_F16, &factor, 1, &half);
    return half;
}

static void encode_row(const struct codec_scalar *scalar, const void *row, uint8_t *code)
{
    const size_t code_bytes = scalar->base.params.code_bytes;
    const struct codec_view view = codec_view_of_row(&scalar->base.params, row);
    float rotated[DIMS_MAX], squares[LANES] = {0};
    struct magnitudes x;
    codec_view_load(&scalar->base.params, row, &view, 0, scalar->dims, rotated);
    rotate(scalar, rotated);
    x.dims = scalar->dims;
    x.padded = (x.dims + LANES - 1) / LANES * LANES;
    x.top = (float)((1 << (scalar->bits - 1)) - 1);
    for (size_t d = 0; d < x.dims; d++)
        x.values[d] = fabsf(rotated[d]);
    memset(x.values + x.dims, 0, (x.padded - x.dims) * sizeof(float));
    for (size_t d = 0; d < x.padded; d += LANES) {
        for (size_t l = 0; l < LANES; l++)
            squares[l] += x.values[d + l] * x.values[d + l];
    }
    memset(code, 0, code_bytes);
    const float rms = (float)sqrt(lanes_sum(squares) / (double)x.dims);
    if (!(rms >= RMS_MIN))
        return;
    const struct fit fit = fit_best(&x, scalar->bits, rms);
    const uint16_t factor = factor_of(scalar, &fit);
    if (factor == 0)
        return;
    pack(scalar, rotated, &x, fit.inverse, code);
    memcpy(code + code_bytes - CODEC_SCALAR_FACTOR_BYTES, &factor, sizeof(factor));
}

static void scalar_encode(const struct codec *codec, const void *rows, size_t count, uint8_t *codes)
{
    const struct codec_params *params = &codec->params;
    const size_t row_bytes = element_vector_bytes(params->type, params->dim);
    for (size_t i = 0; i < count; i++) {
        encode_row((const struct codec_scalar *)codec, (const uint8_t *)rows + i * row_bytes,
                   codes + i * params->code_bytes);
    }
}

/* ---- query tables ---- */

static size_t scalar_table_bytes(const struct codec *codec)
{
    const struct codec_scalar *scalar = (const struct codec_scalar *)codec;
    size_t chunks = (scalar->dims + CODEC_SCALAR_CHUNK - 1) / CODEC_SCALAR_CHUNK;
    return sizeof(struct codec_scalar_table) + chunks * CODEC_SCALAR_CHUNK;
}

/* To nearest, and within QUERY_MAX what rounding errors, infinities or NaN have put beyond. */
ALWAYS_INLINE int32_t round_value(float value)
{
    value = value < QUERY_MAX ? value : QUERY_MAX;
    value = value > -QUERY_MAX ? value : -QUERY_MAX;
    return (int32_t)(value < 0 ? value - 0.5f : value + 0.5f);
}

/* Rounds a chunk of the query to bytes, in the order of a code's bits; the sum of what it wrote. */
static int32_t put_chunk(const float *values, size_t dims, uint32_t bits, float inverse,
                         int8_t *query)
{
    const size_t bytes = codec_scalar_bytes(dims, bits);
    int32_t sum = 0;
    memset(query, 0, CODEC_SCALAR_CHUNK);
    for (size_t first = 0; first < dims; first += bytes) {
        const size_t count = MIN(bytes, dims - first);
        for (size_t i = 0; i < count; i++) {
            int32_t rounded = round_value(values[first + i] * inverse);
            query[i] = (int8_t)rounded;
            sum += rounded;
        }
        query += codec_scalar_bytes(CODEC_SCALAR_CHUNK, bits);
    }
    return sum;
}

static void scalar_table_build(const struct codec *codec, const struct codec_params *as_given,
                               const void *query, void *out)
{
    const struct codec_scalar *scalar = (const struct codec_scalar *)codec;
    const struct codec_query_view seen = codec_view_of_query(as_given, query);
    struct codec_scalar_table *table = out;
    const int32_t top = (1 << scalar->bits) - 1;
    float values[DIMS_MAX], largest = 0;
    double squared = 0;
    codec_view_load(as_given, query, &seen.view, 0, scalar->dims, values);
    rotate(scalar, values);
    for (size_t d = 0; d < scalar->dims; d++) {
        largest = fmaxf(largest, fabsf(values[d]));
        squared += (double)values[d] * (double)values[d];
    }
    const float inverse = largest >= RMS_MIN ? QUERY_MAX / largest : 0;
    int32_t sum = 0;
    for (size_t d = 0; d < scalar->dims; d += CODEC_SCALAR_CHUNK)
        sum += put_chunk(values + d, MIN((size_t)CODEC_SCALAR_CHUNK, scalar->dims - d),
                         scalar->bits, inverse, table->query + d);
    /* What is not in |q'|^2 is divided by the part of |x'|^2 that codes keep. */
    const double unit = (double)scalar->unit, scale = (double)seen.scale;
    const double raised = scale / kept_share(scalar->bits, scalar->dims);
    const size_t tail = scalar->dims % CODEC_SCALAR_CHUNK;
    table->base = (float)(squared * scale);
    table->linear = (float)(2 * (double)largest / QUERY_MAX * unit * raised);
    table->square = (float)(unit * unit * raised);
    table->offset = seen.offset;
    table->dot_base = -top * sum;
    table->norm_base = (int32_t)scalar->dims * top * top;
    table->code_bytes = codec->params.code_bytes;
    table->chunks = scalar->dims / CODEC_SCALAR_CHUNK;
    table->tail = (uint32_t)codec_scalar_bytes(tail, scalar->bits);
    memset(table->reserved, 0, sizeof(table->reserved));
}

static void scalar_table_gather(const struct codec *codec, const void *table, const uint8_t *codes,
                                const uint32_t *ids, size_t count, float *out)
{
    const struct codec_scalar *scalar = (const struct codec_scalar *)codec;
    scalar->kernels->gather[scalar->bits](table, codes, ids, count, out);
}

/* ---- codec.bin ---- */

static size_t scalar_body_bytes(const struct codec_params *params)
{
    return (1 + (size_t)codec_view_dims(params)) * sizeof(float);
}

static void scalar_body_write(const struct codec *codec, uint8_t *body)
{
    const struct codec_scalar *scalar = (const struct codec_scalar *)codec;
    memcpy(body, &scalar->unit, sizeof(scalar->unit));
    memcpy(body + sizeof(scalar->unit), scalar->mean, scalar->dims * sizeof(float));
}

static enum status scalar_body_read(const struct codec_params *params, unsigned features,
                                    const uint8_t *body, struct codec **out, struct error *err)
{
    const uint8_t *mean = body + sizeof(float);
    struct codec_scalar *scalar = NULL;
    float unit;
    size_t bad;
    memcpy(&unit, body, sizeof(unit));
    if (!(unit >= UNIT_MIN && unit <= UNIT_MAX)) {
        return error_set(err, STATUS_CORRUPT, "codec: unit %g is not in %g..%g", (double)unit,
                         (double)UNIT_MIN, (double)UNIT_MAX);
    }
    if (!element_all_finite(ELEMENT_F32, mean, codec_view_dims(params), &bad))
        return error_set(err, STATUS_CORRUPT, "codec: mean of dimension %zu is not finite", bad);
    enum status status = scalar_create(params, features, &scalar, err);
    if (status != STATUS_OK)
        return status;
    scalar->unit = unit;
    memcpy(scalar->mean, mean, scalar->dims * sizeof(float));
    *out = &scalar->base;
    return STATUS_OK;
}

const struct codec_ops codec_scalar_ops = {
    .name = "scalar",
    .code_bytes_check = scalar_code_bytes_check,
    .train = scalar_train,
    .destroy = scalar_destroy,
    .encode = scalar_encode,
    .table_bytes = scalar_table_bytes,
    .table_build = scalar_table_build,
    .table_gather = scalar_table_gather,
    .body_bytes = scalar_body_bytes,
    .body_write = scalar_body_write,
    .body_read = scalar_body_read,
};
