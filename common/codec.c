/*
 * codec.c - what is common to all codecs: checking parameters, choosing the kind, and the header of
 * codec.bin.
 *
 * Threads: a trained codec is immutable, so every call but codec_destroy() may run beside any
 * other.
 */
#include "common/codec.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec_internal.h"
#include "common/cpu.h"
#include "common/memory.h"

static const uint8_t file_magic[4] = {'N', 'J', 'C', 'D'};

static const char auto_name[] = "auto"; /* a kind that no codec is of */

/* By kind; NULL for one that this build does not know. */
static const struct codec_ops *const kinds[] = {
    [CODEC_PQ] = &codec_pq_ops,
    [CODEC_OPQ] = &codec_opq_ops,
    [CODEC_SCALAR] = &codec_scalar_ops,
};

static const struct codec_ops *ops_of(uint32_t kind)
{
    return kind < ARRAY_LENGTH(kinds) ? kinds[kind] : NULL;
}

const char *codec_kind_name(enum codec_kind kind)
{
    const struct codec_ops *ops = ops_of((uint32_t)kind);
    return ops ? ops->name : kind == CODEC_AUTO ? auto_name : "none";
}

enum codec_kind codec_kind_parse(const char *name)
{
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++) {
        if (kinds[kind] && strcmp(name, kinds[kind]->name) == 0)
            return (enum codec_kind)kind;
    }
    return strcmp(name, auto_name) == 0 ? CODEC_AUTO : CODEC_NONE;
}

/* Ranges of everything but the kind, which is known; a fault has the given status, as it may come
 * from a caller or from a file. */
static enum status params_check(const struct codec_params *params, enum status fault,
                                struct error *err)
{
    if (params->metric != METRIC_L2 && params->metric != METRIC_IP &&
        params->metric != METRIC_COSINE) {
        return error_set(err, fault, "codec: metric %u is none of l2, ip, cosine",
                         (unsigned)params->metric);
    }
    if (!element_is_stored(params->type)) {
        return error_set(err, fault,
                         "codec: element type %u is none of u8, i8, f16, f32, bf16, i8s",
                         (unsigned)params->type);
    }
    if (params->dim < 1 || params->dim > VECTOR_DIM_MAX) {
        return error_set(err, fault, "codec: dimension %" PRIu32 " is not in 1..%d", params->dim,
                         VECTOR_DIM_MAX);
    }
    return ops_of((uint32_t)params->kind)->code_bytes_check(params, fault, err);
}

enum status codec_code_bytes_check(const struct codec_params *params, struct error *err)
{
    const struct codec_ops *ops = ops_of((uint32_t)params->kind);
    if (!ops) {
        return error_set(err, STATUS_UNSUPPORTED, "codec kind %u is unknown",
                         (unsigned)params->kind);
    }
    return ops->code_bytes_check(params, STATUS_INVALID, err);
}

enum status codec_train_check(const struct codec_params *params, const void *rows, size_t count,
                              struct error *err)
{
    if (!ops_of((uint32_t)params->kind))
        return error_set(err, STATUS_INVALID, "codec: kind %u is unknown", (unsigned)params->kind);
    enum status status = params_check(params, STATUS_INVALID, err);
    if (status != STATUS_OK)
        return status;
    const size_t row_bytes = element_vector_bytes(params->type, params->dim);
    size_t bytes, bad;
    if (count < 1 || !size_mul(count, row_bytes, &bytes)) {
        return error_set(err, STATUS_INVALID, "codec: cannot train on a sample of %zu rows", count);
    }
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = (const uint8_t *)rows + i * row_bytes;
        if (!element_vector_all_finite(params->type, row, params->dim, &bad))
            return error_set(err, STATUS_INVALID,
                             "codec: training row %zu is not finite at dimension %zu", i, bad);
    }
    return STATUS_OK;
}

enum status codec_train_with(const struct codec_params *params, unsigned features, const void *rows,
                             size_t count, struct codec **out, struct error *err)
{
    enum status status = codec_train_check(params, rows, count, err);
    return status == STATUS_OK
               ? ops_of((uint32_t)params->kind)->train(params, features, rows, count, out, err)
               : status;
}

enum status codec_train(const struct codec_params *params, const void *rows, size_t count,
                        struct codec **out, struct error *err)
{
    return codec_train_with(params, cpu_features(), rows, count, out, err);
}

void codec_destroy(struct codec *codec)
{
    if (codec)
        codec->ops->destroy(codec);
}

struct codec_params codec_params_of(const struct codec *codec)
{
    return codec->params;
}

void codec_encode(const struct codec *codec, const void *rows, size_t count, uint8_t *codes)
{
    codec->ops->encode(codec, rows, count, codes);
}

size_t codec_table_bytes(const struct codec *codec)
{
    return codec->ops->table_bytes(codec);
}

void codec_table_build(const struct codec *codec, const void *query, void *table)
{
    codec->ops->table_build(codec, &codec->params, query, table);
}

void codec_table_build_from(const struct codec *codec, enum element_type type, const void *query,
                            void *table)
{
    struct codec_params as_given = codec->params;
    as_given.type = type;
    codec->ops->table_build(codec, &as_given, query, table);
}

void codec_table_gather(const struct codec *codec, const void *table, const uint8_t *codes,
                        const uint32_t *ids, size_t count, float *out)
{
    codec->ops->table_gather(codec, table, codes, ids, count, out);
}

enum status codec_serialize(const struct codec *codec, uint8_t **bytes, size_t *length,
                            struct error *err)
{
    const struct codec_params *params = &codec->params;
    struct codec_file_header header = {
        .version = CODEC_FILE_VERSION,
        .kind = (uint32_t)params->kind,
        .metric = (uint32_t)params->metric,
        .element = (uint32_t)params->type,
        .dim = params->dim,
        .code_bytes = params->code_bytes,
        .norm_max = params->norm_max,
        .seed = params->seed,
    };
    memcpy(header.magic, file_magic, sizeof(header.magic));
    size_t body = codec->ops->body_bytes_of ? codec->ops->body_bytes_of(codec)
                                            : codec->ops->body_bytes(params);
    size_t total = sizeof(header) + body;
    uint8_t *buffer = malloc(total);
    if (!buffer)
        return error_set(err, STATUS_NO_MEMORY, "codec: cannot allocate %zu bytes", total);
    memcpy(buffer, &header, sizeof(header));
    codec->ops->body_write(codec, buffer + sizeof(header));
    *bytes = buffer;
    *length = total;
    return STATUS_OK;
}

/* Everything of a header but the body's length. */
static enum status header_check(const struct codec_file_header *header, struct codec_params *params,
                                struct error *err)
{
    static const uint8_t zeros[sizeof(header->reserved1)];
    if (memcmp(header->magic, file_magic, sizeof(file_magic)) != 0)
        return error_set(err, STATUS_CORRUPT, "codec: bad magic, this is not a codec.bin");
    if (header->version != CODEC_FILE_VERSION) {
        return error_set(err, STATUS_UNSUPPORTED,
                         "codec: format version %" PRIu32 ", this build reads %d", header->version,
                         CODEC_FILE_VERSION);
    }
    if (!ops_of(header->kind)) {
        return error_set(err, STATUS_UNSUPPORTED, "codec: kind %" PRIu32 " is unknown",
                         header->kind);
    }
    if (memcmp(header->reserved1, zeros, sizeof(zeros)) != 0)
        return error_set(err, STATUS_CORRUPT, "codec: reserved header bytes are not zero");
    bool ip = header->metric == METRIC_IP;
    if (!(header->norm_max >= 0.0f) || isinf(header->norm_max) || (!ip && header->norm_max != 0.0f))
        return error_set(err, STATUS_CORRUPT, "codec: the largest norm is %g",
                         (double)header->norm_max);
    *params = (struct codec_params){
        .kind = (enum codec_kind)header->kind,
        .metric = (enum metric)header->metric,
        .type = (enum element_type)header->element,
        .dim = header->dim,
        .code_bytes = header->code_bytes,
        .seed = header->seed,
        .norm_max = header->norm_max,
    };
    return params_check(params, STATUS_CORRUPT, err);
}

enum status codec_deserialize_with(const uint8_t *bytes, size_t length, unsigned features,
                                   struct codec **out, struct error *err)
{
    struct codec_file_header header;
    struct codec_params params;
    if (length < sizeof(header)) {
        return error_set(err, STATUS_CORRUPT, "codec: %zu bytes, the header alone takes %zu",
                         length, sizeof(header));
    }
    memcpy(&header, bytes, sizeof(header));
    enum status status = header_check(&header, &params, err);
    if (status != STATUS_OK)
        return status;
    const struct codec_ops *ops = ops_of(header.kind);
    size_t wanted = sizeof(header);
    if (ops->body_claim)
        status =
            ops->body_claim(&params, bytes + sizeof(header), length - sizeof(header), &wanted, err);
    else
        wanted += ops->body_bytes(&params);
    if (status != STATUS_OK)
        return status;
    if (length != wanted) {
        return error_set(err, STATUS_CORRUPT, "codec: %zu bytes, its header says %zu", length,
                         wanted);
    }
    return ops->body_read(&params, features, bytes + sizeof(header), out, err);
}

enum status codec_deserialize(const uint8_t *bytes, size_t length, struct codec **out,
                              struct error *err)
{
    return codec_deserialize_with(bytes, length, cpu_features(), out, err);
}
