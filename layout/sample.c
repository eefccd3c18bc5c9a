/*
 * sample.c - encoding and checking sample.bin. Pure functions, thread-safe; the decoder points into
 * the caller's bytes, and only sample_queries_create() allocates.
 *
 * The widest arrays come first, so that nodes alone need padding.
 */
#include "layout/sample.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    SAMPLE_MAGIC = 0x4d534a4e, /* "NJSM" */
    SAMPLE_VERSION = 2,
    SAMPLE_HEADER_BYTES = 64,
    SAMPLE_RESERVED = 9, /* words */
};

struct sample_header {
    uint32_t magic;
    uint32_t version;
    uint32_t count;
    uint32_t k;
    uint32_t dim;
    uint32_t type;
    uint32_t metric;
    uint32_t reserved[SAMPLE_RESERVED];
};
_Static_assert(sizeof(struct sample_header) == SAMPLE_HEADER_BYTES, "header size");
_Static_assert(offsetof(struct sample_header, magic) == 0, "header layout");
_Static_assert(offsetof(struct sample_header, version) == 4, "header layout");
_Static_assert(offsetof(struct sample_header, count) == 8, "header layout");
_Static_assert(offsetof(struct sample_header, k) == 12, "header layout");
_Static_assert(offsetof(struct sample_header, dim) == 16, "header layout");
_Static_assert(offsetof(struct sample_header, type) == 20, "header layout");
_Static_assert(offsetof(struct sample_header, metric) == 24, "header layout");
_Static_assert(offsetof(struct sample_header, reserved) == 28, "header layout");

/* Own nodes with the zeros behind them, so that what follows is aligned whatever the count. */
static size_t nodes_bytes(uint32_t count)
{
    return ((size_t)count + 1) / 2 * sizeof(uint64_t);
}

/* What a query takes beside its vector and node: its key, and key and distance of each neighbour.
 */
static uint64_t query_bytes(uint32_t k)
{
    return sizeof(uint64_t) + (uint64_t)k * (sizeof(uint64_t) + sizeof(float));
}

uint64_t sample_bytes(uint32_t count, uint32_t k, uint32_t vector_bytes)
{
    assert(count <= SAMPLE_COUNT_MAX && k <= SAMPLE_K_MAX);
    return SAMPLE_HEADER_BYTES + nodes_bytes(count) + count * (query_bytes(k) + vector_bytes);
}

/* The arrays behind the header of a file of this shape. */
static void arrays_place(struct sample *sample, const uint8_t *bytes)
{
    const size_t entries = (size_t)sample->count * sample->k;
    const uint8_t *keys = bytes + SAMPLE_HEADER_BYTES;
    const uint8_t *truth_keys = keys + sample->count * sizeof(uint64_t);
    const uint8_t *nodes = truth_keys + entries * sizeof(uint64_t);
    const uint8_t *distances = nodes + nodes_bytes(sample->count);
    sample->own_keys = (const void *)keys;
    sample->own_nodes = (const void *)nodes;
    sample->truth_keys = (const void *)truth_keys;
    sample->truth_distances = (const void *)distances;
    sample->vectors = distances + entries * sizeof(float);
}

static uint8_t *put(uint8_t *to, const void *data, size_t bytes)
{
    if (bytes > 0) /* k may be 0, and the arrays NULL then */
        memcpy(to, data, bytes);
    return to + bytes;
}

void sample_encode(const struct sample *sample, void *bytes)
{
    const struct sample_header header = {
        .magic = SAMPLE_MAGIC,
        .version = SAMPLE_VERSION,
        .count = sample->count,
        .k = sample->k,
        .dim = sample->dim,
        .type = (uint32_t)sample->type,
        .metric = (uint32_t)sample->metric,
    };
    const size_t count = sample->count;
    const size_t entries = count * sample->k;
    uint8_t *to = put(bytes, &header, sizeof(header));
    to = put(to, sample->own_keys, count * sizeof(uint64_t));
    to = put(to, sample->truth_keys, entries * sizeof(uint64_t));
    to = put(to, sample->own_nodes, count * sizeof(uint32_t));
    const uint32_t no_node = 0;
    if (count % 2 != 0)
        to = put(to, &no_node, sizeof(no_node));
    to = put(to, sample->truth_distances, entries * sizeof(float));
    (void)put(to, sample->vectors, count * element_vector_bytes(sample->type, sample->dim));
}

/* ---- reading ---- */

static bool metric_valid(uint32_t metric)
{
    return metric == METRIC_L2 || metric == METRIC_IP || metric == METRIC_COSINE;
}

static enum status range_check(const char *name, uint32_t value, uint32_t low, uint32_t high,
                               struct error *err)
{
    if (value >= low && value <= high)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT, "sample: %s is %u, must be %u..%u", name, value, low,
                     high);
}

static enum status header_check(const struct sample_header *header, size_t length,
                                struct error *err)
{
    if (header->magic != SAMPLE_MAGIC)
        return error_set(err, STATUS_CORRUPT, "sample: magic is 0x%08x, want 0x%08x", header->magic,
                         (unsigned)SAMPLE_MAGIC);
    if (header->version != SAMPLE_VERSION)
        return error_set(err, STATUS_UNSUPPORTED, "sample: version %u, this build reads %d",
                         header->version, SAMPLE_VERSION);
    enum status status = range_check("count", header->count, 1, SAMPLE_COUNT_MAX, err);
    if (status == STATUS_OK)
        status = range_check("k", header->k, 0, SAMPLE_K_MAX, err);
    if (status == STATUS_OK)
        status = range_check("dim", header->dim, 1, VECTOR_DIM_MAX, err);
    if (status != STATUS_OK)
        return status;
    if (!element_is_stored((enum element_type)header->type))
        return error_set(err, STATUS_CORRUPT, "sample: element type is %u, which is none",
                         header->type);
    if (!metric_valid(header->metric))
        return error_set(err, STATUS_CORRUPT, "sample: metric is %u, which is none",
                         header->metric);
    for (int i = 0; i < SAMPLE_RESERVED; i++)
        if (header->reserved[i] != 0)
            return error_set(err, STATUS_CORRUPT, "sample: reserved bytes are not zero");
    const size_t vector_bytes = element_vector_bytes((enum element_type)header->type, header->dim);
    const uint64_t wanted = sample_bytes(header->count, header->k, (uint32_t)vector_bytes);
    if (length != wanted)
        return error_set(err, STATUS_CORRUPT,
                         "sample: %zu bytes, %u queries of %zu bytes with %u neighbours take "
                         "%" PRIu64,
                         length, header->count, vector_bytes, header->k, wanted);
    return STATUS_OK;
}

/* True if neighbour i - 1 comes before neighbour i. */
static bool ascends(const struct sample_query *query, uint32_t i)
{
    const float *distances = query->truth_distances;
    return distances[i - 1] < distances[i] ||
           (distances[i - 1] == distances[i] && query->truth_keys[i - 1] < query->truth_keys[i]);
}

static enum status query_check(const struct sample *sample, uint32_t number, struct error *err)
{
    const struct sample_query query = sample_query_at(sample, number);
    if (!element_vector_all_finite(sample->type, query.vector, sample->dim, NULL))
        return error_set(err, STATUS_CORRUPT, "sample: the vector of query %u is not finite",
                         number);
    for (uint32_t i = 0; i < sample->k; i++) {
        if (!isfinite(query.truth_distances[i]))
            return error_set(err, STATUS_CORRUPT,
                             "sample: the distance of neighbour %u of query %u is not finite", i,
                             number);
        if (i > 0 && !ascends(&query, i))
            return error_set(err, STATUS_CORRUPT,
                             "sample: neighbour %u of query %u is not behind the one before it", i,
                             number);
        if (query.truth_keys[i] == query.own_key)
            return error_set(err, STATUS_CORRUPT,
                             "sample: neighbour %u of query %u is the query itself", i, number);
    }
    return STATUS_OK;
}

enum status sample_nodes_check(const struct sample *sample, uint32_t node_limit, struct error *err)
{
    for (uint32_t i = 0; i < sample->count; i++)
        if (sample->own_nodes[i] >= node_limit)
            return error_set(err, STATUS_CORRUPT,
                             "sample: the node of query %u is %u, there are %u", i,
                             sample->own_nodes[i], node_limit);
    return STATUS_OK;
}

enum status sample_check(const struct sample *sample, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < sample->count; i++)
        status = query_check(sample, i, err);
    return status;
}

enum status sample_decode(const void *bytes, size_t length, struct sample *out, struct error *err)
{
    assert((uintptr_t)bytes % sizeof(uint64_t) == 0);
    struct sample_header header;
    if (length < sizeof(header))
        return error_set(err, STATUS_CORRUPT, "sample: %zu bytes, its header alone has %zu", length,
                         sizeof(header));
    memcpy(&header, bytes, sizeof(header));
    enum status status = header_check(&header, length, err);
    if (status != STATUS_OK)
        return status;
    struct sample sample = {
        .count = header.count,
        .k = header.k,
        .dim = header.dim,
        .type = (enum element_type)header.type,
        .metric = (enum metric)header.metric,
    };
    arrays_place(&sample, bytes);
    /* The odd query's padding. */
    if (sample.count % 2 != 0 && sample.own_nodes[sample.count] != 0)
        return error_set(err, STATUS_CORRUPT, "sample: reserved bytes are not zero");
    status = sample_check(&sample, err);
    if (status == STATUS_OK)
        *out = sample;
    return status;
}

/* ---- as queries ---- */

enum status sample_queries_create(const struct sample *sample, enum element_type query_type,
                                  uint8_t **out, struct error *err)
{
    const enum element_type type = element_compared_as(query_type, sample->type);
    const size_t from_bytes = element_vector_bytes(sample->type, sample->dim);
    const size_t to_bytes = element_vector_bytes(type, sample->dim);
    void *queries = calloc(sample->count, to_bytes);
    if (!queries)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", sample->count);
    *out = queries;
    for (size_t i = 0; i < sample->count; i++) {
        const uint8_t *vector = sample->vectors + i * from_bytes;
        if (type == sample->type)
            memcpy(*out + i * to_bytes, vector, to_bytes);
        else
            element_vector_to_f32(sample->type, vector, sample->dim,
                                  (float *)queries + i * sample->dim);
    }
    return STATUS_OK;
}
