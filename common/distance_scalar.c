/*
 * distance_scalar.c - the reference kernels: the definition, in portable C, of what every other
 * table must return bit for bit.
 *
 * Written for reading, not for speed; it serves machines without AVX2. Must be compiled with
 * -ffp-contract=off: the only fused operations are the ones spelled fmaf. Pure functions.
 */
#include <math.h>

#include "common/distance_internal.h"

/* Integer sums are exact: 8192 * 255 * 255 < 2^31. They are rounded once, by the conversion. */
_Static_assert((int64_t)VECTOR_DIM_MAX * 255 * 255 <= INT32_MAX, "integer sums fit 32 bits");

static float u8_l2sq_pair(const void *a, const void *b, size_t dim)
{
    const uint8_t *x = a, *y = b;
    int32_t sum = 0;
    for (size_t i = 0; i < dim; i++) {
        int32_t difference = x[i] - y[i];
        sum += difference * difference;
    }
    return (float)sum;
}

static float u8_dot_pair(const void *a, const void *b, size_t dim)
{
    const uint8_t *x = a, *y = b;
    int32_t sum = 0;
    for (size_t i = 0; i < dim; i++)
        sum += x[i] * y[i];
    return (float)sum;
}

static float i8_l2sq_pair(const void *a, const void *b, size_t dim)
{
    const int8_t *x = a, *y = b;
    int32_t sum = 0;
    for (size_t i = 0; i < dim; i++) {
        int32_t difference = x[i] - y[i];
        sum += difference * difference;
    }
    return (float)sum;
}

static float i8_dot_pair(const void *a, const void *b, size_t dim)
{
    const int8_t *x = a, *y = b;
    int32_t sum = 0;
    for (size_t i = 0; i < dim; i++)
        sum += x[i] * y[i];
    return (float)sum;
}

/* Adds lanes 16 apart, then 8, 4, 2, 1 apart: the order in which wide registers fold in halves. */
static float lanes_sum(float lanes[DISTANCE_LANES])
{
    for (size_t apart = DISTANCE_LANES / 2; apart > 0; apart /= 2)
        for (size_t i = 0; i < apart; i++)
            lanes[i] += lanes[i + apart];
    return lanes[0];
}

/* One pass over vectors as f32. */
ALWAYS_INLINE float lanes_accumulate(struct distance_types types, bool dot, const void *a,
                                     const void *b, size_t dim)
{
    float lanes[DISTANCE_LANES] = {0};
    for (size_t at = 0; at < dim; at += DISTANCE_LANES) {
        float x[DISTANCE_LANES], y[DISTANCE_LANES];
        struct element_part part = {dim, at, MIN(dim - at, (size_t)DISTANCE_LANES)};
        element_vector_part_to_f32(types.query, a, part, x);
        element_vector_part_to_f32(types.row, b, part, y);
        for (size_t i = 0; i < part.count; i++) {
            float difference = x[i] - y[i];
            lanes[i] = dot ? fmaf(x[i], y[i], lanes[i]) : fmaf(difference, difference, lanes[i]);
        }
    }
    return lanes_sum(lanes);
}

/* NAME_rows and NAME_gather as their definition in distance.h reads. */
#define SCALAR_DEFINE(NAME)                                                                        \
    static void NAME##_rows(const void *query, const void *rows, size_t stride_bytes,              \
                            size_t count, size_t dim, float *out)                                  \
    {                                                                                              \
        const unsigned char *base = rows;                                                          \
        for (size_t i = 0; i < count; i++)                                                         \
            out[i] = NAME##_pair(query, base + i * stride_bytes, dim);                             \
    }                                                                                              \
    static void NAME##_gather(const void *query, const void *base, size_t stride_bytes,            \
                              const uint32_t *ids, size_t count, size_t dim, float *out)           \
    {                                                                                              \
        const unsigned char *rows = base;                                                          \
        for (size_t i = 0; i < count; i++)                                                         \
            out[i] = NAME##_pair(query, rows + ids[i] * stride_bytes, dim);                        \
    }

SCALAR_DEFINE(u8_l2sq)
SCALAR_DEFINE(u8_dot)
SCALAR_DEFINE(i8_l2sq)
SCALAR_DEFINE(i8_dot)

#define SCALAR_DEFINE_FLOATS(NAME, query_type, row_type)                                           \
    static float NAME##_l2sq_pair(const void *a, const void *b, size_t dim)                        \
    {                                                                                              \
        return lanes_accumulate((struct distance_types){query_type, row_type}, false, a, b, dim);  \
    }                                                                                              \
    static float NAME##_dot_pair(const void *a, const void *b, size_t dim)                         \
    {                                                                                              \
        return lanes_accumulate((struct distance_types){query_type, row_type}, true, a, b, dim);   \
    }                                                                                              \
    SCALAR_DEFINE(NAME##_l2sq)                                                                     \
    SCALAR_DEFINE(NAME##_dot)

DISTANCE_DEFINE_FLOATS(SCALAR_DEFINE_FLOATS)

const struct distance_kernels distance_scalar_kernels[DISTANCE_TYPES] = DISTANCE_TABLE;
