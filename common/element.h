/*
 * element.h - element types and metrics: their names, sizes and conversions.
 *
 * Numeric values are written to manifests and frames: never renumber.
 */
#ifndef NIGHTJAR_COMMON_ELEMENT_H
#define NIGHTJAR_COMMON_ELEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/compiler.h"

enum element_type {
    ELEMENT_NONE = 0,
    ELEMENT_U8 = 1,
    ELEMENT_I8 = 2,
    ELEMENT_F16 = 3, /* IEEE binary16, held as uint16_t */
    ELEMENT_F32 = 4,
    ELEMENT_I32 = 5, /* ids and ground truth only; never a vector to index */
    /* What only an index stores; no file of vectors has them and no query is given in them. */
    ELEMENT_BF16 = 6, /* the upper half of an f32, held as uint16_t */
    ELEMENT_I8S = 7,  /* int8, and behind a vector's elements an f32 that scales them all */
};

/*
 * Every distance in Nightjar is "smaller is nearer":
 *   METRIC_L2      squared Euclidean distance
 *   METRIC_IP      minus the inner product
 *   METRIC_COSINE  1 - cosine of the angle; vectors are stored as given, not normalised
 */
enum metric {
    METRIC_NONE = 0,
    METRIC_L2 = 1,
    METRIC_IP = 2,
    METRIC_COSINE = 3,
};

enum { VECTOR_DIM_MAX = 8192 };

/* "u8", "i8", "f16", "f32", "i32", "bf16", "i8s"; "l2", "ip", "cosine". Unknown values give
 * "unknown". */
const char *element_name(enum element_type type);
const char *metric_name(enum metric metric);

/* Inverse of the above; *_NONE for any other word. */
enum element_type element_parse(const char *name);
enum metric metric_parse(const char *name);

/* Bytes of one element: 1, 1, 2, 4, 4, 2, 1; 0 for ELEMENT_NONE. Of a vector's bytes tells
 * element_vector_bytes(). */
size_t element_bytes(enum element_type type);

/* Types that files of vectors to index and queries have: u8, i8, f16, f32. */
bool element_is_input(enum element_type type);

/* Types that an index may store: those, bf16 and i8s. */
bool element_is_stored(enum element_type type);

/* Whether vectors given as `from` may be stored as `to`: what is smaller and has signs and
 * fractions, f16, bf16 and i8s of f32, bf16 and i8s of f16; and any input as it is. */
bool element_may_store(enum element_type from, enum element_type to);

/* What a query is compared as with stored vectors: itself where the types are equal, else f32. */
ALWAYS_INLINE enum element_type element_compared_as(enum element_type query,
                                                    enum element_type stored)
{
    return query == stored ? stored : ELEMENT_F32;
}

/* Converts `count` elements to f32. Exact for every type but i32; of i8s, the elements without
 * their vector's scale. src and dst do not overlap; src
 * needs no alignment. Thread-safe, no allocation. */
void element_to_f32(enum element_type type, const void *src, size_t count, float *dst);

/* Converts `count` f32 values to `type`, rounding to nearest even; u8/i8 saturate. */
void element_from_f32(enum element_type type, const float *src, size_t count, void *dst);

/* True when all `count` elements are finite (always for integers). Otherwise *bad (may be NULL)
 * is the index of the first NaN or infinity. */
bool element_all_finite(enum element_type type, const void *src, size_t count, size_t *bad);

/*
 * Vectors of `dim` elements. They are their elements one after the other, but for i8s: `dim` int8,
 * then an f32 s, unaligned; coordinate d is the f32 product of s and element d. Vectors need no
 * alignment. Thread-safe, no allocation.
 */

/* Bytes of a vector. */
size_t element_vector_bytes(enum element_type type, size_t dim);

/* The coordinates as f32: exact for f16 and bf16, the definition for i8s. */
void element_vector_to_f32(enum element_type type, const void *vector, size_t dim, float *dst);

/* Coordinates [first, first + count) of a vector of `dim` >= first + count. */
struct element_part {
    size_t dim, first, count;
};
void element_vector_part_to_f32(enum element_type type, const void *vector,
                                struct element_part part, float *dst);

/* A vector of finite coordinates in `type`. Rounds to nearest even; i8s takes max|x| / 127 as its
 * scale (0 for a zero vector) and the multiples of it that are nearest. Whether values overflowed
 * is for element_vector_all_finite() to tell. */
void element_vector_from_f32(enum element_type type, const float *src, size_t dim, void *vector);

/* True when all coordinates are finite. Otherwise *bad (may be NULL) is the first that is not. */
bool element_vector_all_finite(enum element_type type, const void *vector, size_t dim, size_t *bad);

#endif
