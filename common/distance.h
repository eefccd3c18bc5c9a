/*
 * distance.h - SIMD distance kernels for every element type, and the metrics made of them.
 *
 * One file per instruction set (distance_scalar.c, distance_avx2.c, distance_avx512.c,
 * distance_vnni.c) fills a table; the scalar one is the reference. All tables give bit-identical
 * results: kernels of u8 and i8 are exact; all others accumulate with fused multiply-add into 32
 * lanes (lane i takes elements i, i + 32, ...; a missing tail element leaves its lane unchanged)
 * and reduce them in one fixed tree (16+16, 8+8, 4+4, 2+2, 1+1). Elements enter as f32: f16 and
 * bf16 exactly, those of an i8s vector each multiplied by its scale and rounded once, before
 * anything else. So a query in f32 and the same rows give the bits that rows and query as f32
 * would. And a build gives the same bytes on any x86-64 machine.
 *
 * Kernels cannot fail, do not allocate, are thread-safe, and take unaligned pointers. `dim` is
 * at most VECTOR_DIM_MAX (integer sums are exact up to there; 0 gives 0). They never read past a
 * vector's element_vector_bytes().
 */
#ifndef NIGHTJAR_COMMON_DISTANCE_H
#define NIGHTJAR_COMMON_DISTANCE_H

#include <stddef.h>
#include <stdint.h>

#include "common/element.h"

/* Distance or dot product of two vectors of `dim` elements. */
typedef float (*distance_pair_fn)(const void *a, const void *b, size_t dim);

/* out[i] = kernel(query, rows + i * stride_bytes) for i < count. */
typedef void (*distance_rows_fn)(const void *query, const void *rows, size_t stride_bytes,
                                 size_t count, size_t dim, float *out);

/* out[i] = kernel(query, base + ids[i] * stride_bytes): a gather, prefetching ahead. */
typedef void (*distance_gather_fn)(const void *query, const void *base, size_t stride_bytes,
                                   const uint32_t *ids, size_t count, size_t dim, float *out);

/* Kernels of one element type at one instruction-set level. */
struct distance_kernels {
    distance_pair_fn l2sq;
    distance_pair_fn dot;
    distance_rows_fn l2sq_rows;
    distance_rows_fn dot_rows;
    distance_gather_fn l2sq_gather;
    distance_gather_fn dot_gather;
};

/* The best kernels for two vectors of `type`, one that is stored (element_is_stored()), within
 * `features` (a subset of cpu_features(); pass cpu_features() itself outside tests). Static
 * storage, never NULL. */
const struct distance_kernels *distance_kernels_get(enum element_type type, unsigned features);

/* Likewise for a query in f32 and rows of `row_type`, one of F16, BF16, I8S and F32. */
const struct distance_kernels *distance_kernels_from_f32(enum element_type row_type,
                                                         unsigned features);

/* Distances under a metric, from one query to stored rows. Plain value: copy freely. */
struct distance {
    const struct distance_kernels *kernels;       /* a query and rows */
    const struct distance_kernels *row_kernels;   /* rows alone */
    const struct distance_kernels *query_kernels; /* queries alone */
    enum element_type type;                       /* of rows */
    enum element_type query_type;
    enum metric metric;
    uint32_t dim;
};

/* Of queries and rows of one type. */
void distance_init(struct distance *self, enum element_type type, enum metric metric, uint32_t dim);

/* Of queries that were given as `given` and are compared as element_compared_as() says: in f32
 * where the rows are of another type (F16, BF16 or I8S). */
void distance_init_query(struct distance *self, enum element_type given, enum element_type type,
                         enum metric metric, uint32_t dim);

/* |query|^2. */
float distance_query_squared(const struct distance *self, const void *query);

/* What distance_rows() needs to know of the query beside its elements: 1/|q| for cosine (0 for a
 * zero vector), else 0. Compute once per query. */
float distance_query_scale(const struct distance *self, const void *query);

/* out[i] = distance of `query` to row i by the metric's definition in element.h (a zero vector has
 * cosine 0, distance 1). */
void distance_rows(const struct distance *self, const void *query, float query_scale,
                   const void *rows, size_t stride_bytes, size_t count, float *out);

#endif
