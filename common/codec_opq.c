/*
 * codec_opq.c - PQ of transformed vectors: transform, encoding, query tables and the body of
 * codec.bin. What it computes is in codec_opq_internal.h, how the transform is found in
 * codec_opq_train.c.
 *
 * Everything that PQ does is done by an inner PQ codec over the transformed values. A correction is
 * one more row of the table and one more byte of the code, so estimates come from PQ's gather.
 *
 * Threads: everything here is pure over its arguments. Encoding and tables take up to a megabyte
 * of stack, of which only what the dimension needs is touched.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec_opq_internal.h"
#include "common/kmeans.h"
#include "common/memory.h"

enum {
    LEVELS = 256,
    TILE_ROWS = 64, /* of the turn, computed before they are spread to their rows */
};

/* ---- lifetime ---- */

static size_t kept_groups(const struct codec_opq *opq)
{
    return (opq->kept + (size_t)CODEC_LANES - 1) / CODEC_LANES;
}

void codec_opq_destroy(struct codec *codec)
{
    struct codec_opq *opq = (struct codec_opq *)codec;
    codec_destroy(opq->inner);
    if (opq->turn)
        bulk_free(opq->turn, (size_t)opq->kept * opq->dims, sizeof(float));
    if (opq->lanes)
        bulk_free(opq->lanes, kept_groups(opq) * CODEC_LANES * opq->dims, sizeof(float));
    free(opq->norms);
    free(opq->mean);
    free(opq);
}

enum status codec_opq_create(const struct codec_params *params, uint32_t variant, uint32_t kept,
                             unsigned features, struct codec_opq **out, struct error *err)
{
    struct codec_opq *opq = calloc(1, sizeof(*opq));
    if (!opq) {
        (void)error_set(err, STATUS_NO_MEMORY, "codec: cannot allocate %zu bytes", sizeof(*opq));
        return STATUS_NO_MEMORY;
    }
    *opq = (struct codec_opq){
        .base = {&codec_opq_ops, *params},
        .kernels = codec_opq_kernels_get(features),
        .variant = variant,
        .dims = codec_view_dims(params),
        .kept = kept,
    };
    enum status status = STATUS_OK;
    size_t entries = (size_t)codec_opq_subspaces(opq) * CODEC_PQ_CENTROIDS;
    opq->mean = calloc(opq->dims, sizeof(float));
    opq->norms = calloc(entries, sizeof(double));
    if (!opq->mean || !opq->norms)
        status = error_set(err, STATUS_NO_MEMORY, "codec: cannot allocate mean and norms");
    if (status == STATUS_OK && variant & CODEC_OPQ_TURN) {
        void *turn = NULL, *lanes = NULL;
        status = bulk_alloc((size_t)kept * opq->dims, sizeof(float), "codec turn", &turn, err);
        opq->turn = turn;
        if (status == STATUS_OK)
            status = bulk_alloc(kept_groups(opq) * CODEC_LANES * opq->dims, sizeof(float),
                                "codec turn", &lanes, err);
        opq->lanes = lanes;
    }
    if (status != STATUS_OK)
        codec_opq_destroy(&opq->base);
    else
        *out = opq;
    return status;
}

void codec_opq_finish(struct codec_opq *opq)
{
    const struct codec_pq *pq = (const struct codec_pq *)opq->inner;
    const struct codec_params *params = &pq->base.params;
    if (opq->turn)
        for (size_t k = 0; k < opq->kept; k++)
            kmeans_lanes_put(opq->lanes, opq->dims, k, 0, opq->turn + k * opq->dims, opq->dims);
    for (uint32_t m = 0; m < params->code_bytes; m++) {
        const size_t dims = codec_pq_sub_dim(params, m);
        const float *value = pq->centroids + (size_t)codec_pq_first(params, m) * CODEC_PQ_CENTROIDS;
        for (size_t j = 0; j < CODEC_PQ_CENTROIDS; j++) {
            double sum = 0;
            for (size_t d = 0; d < dims; d++, value++)
                sum += (double)*value * (double)*value;
            opq->norms[(size_t)m * CODEC_PQ_CENTROIDS + j] = sum;
        }
    }
}

/* ---- transform ---- */

/* Differences and sums of huge values may overflow; what is coded stays finite. */
ALWAYS_INLINE float clamped(float value)
{
    return value < FLT_MAX ? (value > -FLT_MAX ? value : -FLT_MAX) : FLT_MAX;
}

/* vector := vector - mean. */
static void centre(const struct codec_opq *opq, float *vector)
{
    for (size_t d = 0; d < opq->dims; d++)
        vector[d] = clamped(vector[d] - opq->mean[d]);
}

static void batch_turn(const struct codec_opq *opq, size_t count, struct codec_opq_batch *batch)
{
    ALIGNED(64) float lanes[CODEC_LANES * (VECTOR_DIM_MAX + 1)];
    ALIGNED(64) float out[TILE_ROWS * CODEC_LANES];
    const size_t dims = opq->dims, kept = opq->kept;
    /* Lanes without a row are computed and dropped; zeros keep them defined. */
    if (count < CODEC_LANES)
        memset(lanes, 0, dims * CODEC_LANES * sizeof(float));
    for (size_t i = 0; i < count; i++)
        kmeans_lanes_put(lanes, dims, i, 0, batch->centred + i * dims, dims);
    for (size_t k = 0; k < kept; k += TILE_ROWS) {
        const struct codec_pq_tile tile = {
            .points = lanes,
            .centroids = opq->turn + k * dims,
            .dims = dims,
            .stride = dims,
            .count = MIN((size_t)TILE_ROWS, kept - k),
            .distances = out,
            .fresh = true,
        };
        opq->kernels->products(&tile);
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < tile.count; j++)
                batch->turned[i * kept + k + j] = clamped(out[j * CODEC_LANES + i]);
    }
}

const float *codec_opq_transform(const struct codec_opq *opq, const void *const *rows, size_t count,
                                 struct codec_opq_batch *batch)
{
    const struct codec_params *params = &opq->base.params;
    for (size_t i = 0; i < count; i++) {
        const struct codec_view view = codec_view_of_row(params, rows[i]);
        float *centred = batch->centred + i * opq->dims;
        codec_view_load(params, rows[i], &view, 0, opq->dims, centred);
        centre(opq, centred);
    }
    if (!opq->turn)
        return batch->centred;
    batch_turn(opq, count, batch);
    return batch->turned;
}

/* ---- encoding ---- */

static double squared_length(const float *vector, size_t dims)
{
    double sum[4] = {0}; /* four, as one chain of additions is latency-bound */
    for (size_t d = 0; d < dims; d++)
        sum[d % 4] += (double)vector[d] * (double)vector[d];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

double codec_opq_correction(const struct codec_opq *opq, const struct codec_opq_batch *batch,
                            size_t i, const uint8_t *code)
{
    double coded = 0;
    for (uint32_t m = 0; m < codec_opq_subspaces(opq); m++)
        coded += opq->norms[(size_t)m * CODEC_PQ_CENTROIDS + code[m]];
    return 0.5 * (squared_length(batch->centred + i * opq->dims, opq->dims) - coded);
}

static uint8_t level_of(const struct codec_opq *opq, double correction)
{
    double level = opq->step > 0 ? (correction - (double)opq->low) / (double)opq->step : 0;
    if (!(level > 0))
        return 0;
    return level < LEVELS - 1 ? (uint8_t)rint(level) : LEVELS - 1;
}

static void opq_encode(const struct codec *codec, const void *rows, size_t count, uint8_t *codes)
{
    const struct codec_opq *opq = (const struct codec_opq *)codec;
    const struct codec_params *params = &codec->params;
    const size_t row_bytes = element_vector_bytes(params->type, params->dim);
    const size_t subspaces = codec_opq_subspaces(opq);
    struct codec_opq_batch batch;
    uint8_t inner[CODEC_LANES * VECTOR_DIM_MAX];
    for (size_t row = 0; row < count; row += CODEC_LANES) {
        const size_t some = MIN((size_t)CODEC_LANES, count - row);
        const void *of[CODEC_LANES];
        for (size_t i = 0; i < some; i++)
            of[i] = (const uint8_t *)rows + (row + i) * row_bytes;
        const float *transformed = codec_opq_transform(opq, of, some, &batch);
        codec_encode(opq->inner, transformed, some, inner);
        for (size_t i = 0; i < some; i++) {
            uint8_t *code = codes + (row + i) * params->code_bytes;
            memcpy(code, inner + i * subspaces, subspaces);
            if (opq->variant & CODEC_OPQ_CORRECT)
                code[subspaces] = level_of(opq, codec_opq_correction(opq, &batch, i, code));
        }
    }
}

/* ---- query tables ---- */

/* The query's transform; returns what its squared distance to every reconstruction has besides. */
static double query_transform(const struct codec_opq *opq, float *vector, float *transformed)
{
    centre(opq, vector);
    if (!opq->turn) {
        memcpy(transformed, vector, opq->dims * sizeof(float));
        return 0;
    }
    opq->kernels->group_products(vector, opq->dims, opq->lanes, kept_groups(opq), transformed);
    for (size_t k = 0; k < opq->kept; k++)
        transformed[k] = clamped(transformed[k]);
    if (opq->kept == opq->dims)
        return 0;
    double rest = squared_length(vector, opq->dims) - squared_length(transformed, opq->kept);
    return rest > 0 ? rest : 0;
}

static void opq_table_build(const struct codec *codec, const struct codec_params *as_given,
                            const void *query, void *table)
{
    const struct codec_opq *opq = (const struct codec_opq *)codec;
    const struct codec_query_view seen = codec_view_of_query(as_given, query);
    float vector[VECTOR_DIM_MAX + 1];
    ALIGNED(64) float transformed[VECTOR_DIM_MAX + CODEC_LANES];
    codec_view_load(as_given, query, &seen.view, 0, opq->dims, vector);
    double rest = query_transform(opq, vector, transformed);
    float *out = table;
    codec_pq_table_fill((const struct codec_pq *)opq->inner, transformed, seen.scale,
                        seen.offset + (float)(rest * (double)seen.scale), out);
    if (opq->variant & CODEC_OPQ_CORRECT) {
        out += (size_t)codec_opq_subspaces(opq) * CODEC_PQ_CENTROIDS;
        for (size_t j = 0; j < LEVELS; j++)
            out[j] = (opq->low + (float)j * opq->step) * seen.scale;
    }
}

static void opq_table_gather(const struct codec *codec, const void *table, const uint8_t *codes,
                             const uint32_t *ids, size_t count, float *out)
{
    codec_pq_gather(table, codec->params.code_bytes, codes, ids, count, out);
}

/* ---- codec.bin ---- */

static size_t body_floats(uint32_t variant, uint32_t dims, uint32_t kept)
{
    size_t turn = variant & CODEC_OPQ_TURN ? (size_t)kept * dims : 0;
    return dims + turn + (size_t)kept * CODEC_PQ_CENTROIDS;
}

static size_t opq_body_bytes_of(const struct codec *codec)
{
    const struct codec_opq *opq = (const struct codec_opq *)codec;
    return sizeof(struct codec_opq_file_header) +
           body_floats(opq->variant, opq->dims, opq->kept) * sizeof(float);
}

static enum status header_check(const struct codec_params *params,
                                const struct codec_opq_file_header *header, struct error *err)
{
    const uint32_t dims = codec_view_dims(params);
    if (header->variant >= CODEC_OPQ_VARIANTS)
        return error_set(err, STATUS_UNSUPPORTED, "codec: opq variant %u is unknown",
                         header->variant);
    const bool correct = header->variant & CODEC_OPQ_CORRECT;
    if (correct && params->code_bytes < 2)
        return error_set(err, STATUS_CORRUPT, "codec: a correction with one code byte");
    const uint32_t least =
        header->variant & CODEC_OPQ_TURN ? params->code_bytes - (correct ? 1 : 0) : dims;
    if (header->kept < least || header->kept > dims)
        return error_set(err, STATUS_CORRUPT, "codec: %u kept dimensions are not in %u..%u",
                         header->kept, least, dims);
    /* The levels fit f32, and so do the estimates' sums. */
    const float last = header->low + (float)(LEVELS - 1) * header->step;
    if (!isfinite(header->low) || !(header->step >= 0) || !isfinite(last) ||
        (!correct && (header->low != 0 || header->step != 0)))
        return error_set(err, STATUS_CORRUPT, "codec: corrections from %g in steps of %g",
                         (double)header->low, (double)header->step);
    return STATUS_OK;
}

static enum status opq_body_claim(const struct codec_params *params, const uint8_t *body,
                                  size_t length, size_t *total, struct error *err)
{
    struct codec_opq_file_header header;
    if (length < sizeof(header))
        return error_set(err, STATUS_CORRUPT, "codec: %zu bytes of body, opq has %zu at least",
                         length, sizeof(header));
    memcpy(&header, body, sizeof(header));
    enum status status = header_check(params, &header, err);
    if (status == STATUS_OK)
        *total += sizeof(header) +
                  body_floats(header.variant, codec_view_dims(params), header.kept) * sizeof(float);
    return status;
}

static void opq_body_write(const struct codec *codec, uint8_t *body)
{
    const struct codec_opq *opq = (const struct codec_opq *)codec;
    const struct codec_opq_file_header header = {opq->variant, opq->kept, opq->low, opq->step};
    memcpy(body, &header, sizeof(header));
    body += sizeof(header);
    memcpy(body, opq->mean, opq->dims * sizeof(float));
    body += opq->dims * sizeof(float);
    if (opq->turn) {
        memcpy(body, opq->turn, (size_t)opq->kept * opq->dims * sizeof(float));
        body += (size_t)opq->kept * opq->dims * sizeof(float);
    }
    codec_pq_ops.body_write(opq->inner, body);
}

/* Rows of another length would make estimates of something else than distances. */
static enum status turn_check(const struct codec_opq *opq, struct error *err)
{
    for (size_t k = 0; opq->turn && k < opq->kept; k++) {
        double length = squared_length(opq->turn + k * opq->dims, opq->dims);
        if (!(length > 0.998 && length < 1.002))
            return error_set(err, STATUS_CORRUPT, "codec: axis %zu has squared length %g", k,
                             length);
    }
    return STATUS_OK;
}

static struct codec_params inner_params(const struct codec_opq *opq)
{
    return (struct codec_params){
        .kind = CODEC_PQ,
        .metric = METRIC_L2,
        .type = ELEMENT_F32,
        .dim = opq->kept,
        .code_bytes = codec_opq_subspaces(opq),
        .seed = opq->base.params.seed,
    };
}

static enum status opq_body_read(const struct codec_params *params, unsigned features,
                                 const uint8_t *body, struct codec **out, struct error *err)
{
    struct codec_opq_file_header header;
    struct codec_opq *opq = NULL;
    size_t bad;
    memcpy(&header, body, sizeof(header));
    body += sizeof(header);
    enum status status = codec_opq_create(params, header.variant, header.kept, features, &opq, err);
    if (status != STATUS_OK)
        return status;
    opq->low = header.low;
    opq->step = header.step;
    memcpy(opq->mean, body, opq->dims * sizeof(float));
    body += opq->dims * sizeof(float);
    if (!element_all_finite(ELEMENT_F32, opq->mean, opq->dims, &bad))
        status =
            error_set(err, STATUS_CORRUPT, "codec: the mean is not finite at dimension %zu", bad);
    if (opq->turn) {
        memcpy(opq->turn, body, (size_t)opq->kept * opq->dims * sizeof(float));
        body += (size_t)opq->kept * opq->dims * sizeof(float);
    }
    const struct codec_params inner = inner_params(opq);
    if (status == STATUS_OK)
        status = turn_check(opq, err);
    if (status == STATUS_OK)
        status = codec_pq_ops.body_read(&inner, features, body, &opq->inner, err);
    if (status == STATUS_OK) {
        codec_opq_finish(opq);
        *out = &opq->base;
        opq = NULL;
    }
    if (opq)
        codec_opq_destroy(&opq->base);
    return status;
}

static enum status opq_train(const struct codec_params *params, unsigned features, const void *rows,
                             size_t count, struct codec **out, struct error *err)
{
    const struct codec_effort effort = {.features = features};
    return codec_opq_train(params, &effort, codec_opq_variant_default(params), rows, count, out,
                           err);
}

const struct codec_ops codec_opq_ops = {
    .name = "opq",
    .code_bytes_check = codec_pq_code_bytes_check,
    .train = opq_train,
    .destroy = codec_opq_destroy,
    .encode = opq_encode,
    .table_bytes = codec_pq_table_bytes,
    .table_build = opq_table_build,
    .table_gather = opq_table_gather,
    .body_bytes_of = opq_body_bytes_of,
    .body_claim = opq_body_claim,
    .body_write = opq_body_write,
    .body_read = opq_body_read,
};
