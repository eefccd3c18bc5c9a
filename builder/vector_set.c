/*
 * vector_set.c - see vector_set.h. Owns the rows and the per-row scalars of a build; filled and
 * prepared by one thread (which may use a team), then read by all.
 */
#include "builder/vector_set.h"

#include <math.h>
#include <string.h>

#include "common/cpu.h"
#include "common/memory.h"

/* Rows of at least a cache line start on one; shorter ones on a 16-byte boundary. */
static size_t row_stride(size_t packed_bytes)
{
    return size_align(packed_bytes, packed_bytes >= 48 ? 64 : 16);
}

enum status vector_set_create(struct vector_set *set, uint32_t count, uint32_t dim,
                              enum element_type type, enum metric metric, struct error *err)
{
    void *rows = NULL;
    size_t stride_bytes = row_stride(element_vector_bytes(type, dim));
    enum status status = bulk_alloc(count, stride_bytes, "vectors", &rows, err);
    if (status)
        return status;
    *set = (struct vector_set){
        .rows = rows,
        .stride_bytes = stride_bytes,
        .count = count,
        .capacity = count,
        .dim = dim,
        .type = type,
        .metric = metric,
        .kernels = distance_kernels_get(type, cpu_features()),
    };
    return STATUS_OK;
}

enum status vector_set_prepare(struct vector_set *set, float norm_max, struct error *err)
{
    set->norm_max = norm_max;
    if (set->metric == METRIC_L2 && norm_max > 0.0f)
        return STATUS_OK;
    void *norms = NULL;
    enum status status = bulk_alloc(set->capacity, sizeof(float), "vector norms", &norms, err);
    if (status)
        return status;
    float *norm2 = norms;
    float norm2_max = 0.0f;
#pragma omp parallel for schedule(static) reduction(max : norm2_max)
    for (uint32_t i = 0; i < set->count; i++) {
        const void *row = vector_set_row(set, i);
        norm2[i] = set->kernels->dot(row, row, set->dim);
        norm2_max = MAX(norm2_max, norm2[i]);
    }
    if (norm_max > 0.0f)
        norm2_max = norm_max * norm_max;
    else
        set->norm_max = sqrtf(norm2_max);
    if (set->metric == METRIC_L2) {
        bulk_free(norms, set->capacity, sizeof(float));
        return STATUS_OK;
    }
#pragma omp parallel for schedule(static)
    for (uint32_t i = 0; i < set->count; i++) {
        if (set->metric == METRIC_COSINE)
            norm2[i] = norm2[i] > 0.0f ? 1.0f / sqrtf(norm2[i]) : 0.0f;
        else
            norm2[i] = sqrtf(MAX(0.0f, norm2_max - norm2[i]));
    }
    set->row_scalar = norm2;
    return STATUS_OK;
}

void vector_set_destroy(struct vector_set *set)
{
    if (set->rows)
        bulk_free(set->rows, set->capacity, set->stride_bytes);
    if (set->row_scalar)
        bulk_free(set->row_scalar, set->capacity, sizeof(float));
    memset(set, 0, sizeof(*set));
}

/* Rounding of the norms, their product and the subtractions, relative to the squared norm: for
 * equal rows at most five units of 2^-24. */
#define ROUNDING 0x1.0p-21f

/* Turns a dot product of rows a and b into the build distance. What rounding alone could leave
 * counts as zero: the prune rule tells duplicates by it, and a list full of them leads nowhere. */
static float dot_to_distance(const struct vector_set *set, uint32_t a, uint32_t b, float dot)
{
    float product = set->row_scalar[a] * set->row_scalar[b];
    if (set->metric == METRIC_COSINE) {
        float distance = 1.0f - dot * product;
        return distance > ROUNDING ? distance : 0.0f;
    }
    float norm2_max = set->norm_max * set->norm_max;
    float half = norm2_max - dot - product;
    return half > ROUNDING * norm2_max ? 2.0f * half : 0.0f;
}

float vector_set_pair(const struct vector_set *set, uint32_t a, uint32_t b)
{
    const void *row_a = vector_set_row(set, a);
    const void *row_b = vector_set_row(set, b);
    if (set->metric == METRIC_L2)
        return set->kernels->l2sq(row_a, row_b, set->dim);
    return dot_to_distance(set, a, b, set->kernels->dot(row_a, row_b, set->dim));
}

void vector_set_gather(const struct vector_set *set, uint32_t from, const uint32_t *ids,
                       size_t count, float *out)
{
    const void *row = vector_set_row(set, from);
    if (set->metric == METRIC_L2) {
        set->kernels->l2sq_gather(row, set->rows, set->stride_bytes, ids, count, set->dim, out);
        return;
    }
    set->kernels->dot_gather(row, set->rows, set->stride_bytes, ids, count, set->dim, out);
    for (size_t i = 0; i < count; i++)
        out[i] = dot_to_distance(set, from, ids[i], out[i]);
}
