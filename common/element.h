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

/* "u8", "i8", "f16", "f32", "i32"; "l2", "ip", "cosine". Unknown values give "unknown". */
const char *element_name(enum element_type type);
const char *metric_name(enum metric metric);

/* Inverse of the above; *_NONE for any other word. */
enum element_type element_parse(const char *name);
enum metric metric_parse(const char *name);

/* Bytes of one element: 1, 1, 2, 4, 4; 0 for ELEMENT_NONE. */
size_t element_bytes(enum element_type type);

/* Converts `count` elements to f32. Exact for every type but i32. src and dst do not overlap; src
 * needs no alignment. Thread-safe, no allocation. */
void element_to_f32(enum element_type type, const void *src, size_t count, float *dst);

/* Converts `count` f32 values to `type`, rounding to nearest even; u8/i8 saturate. */
void element_from_f32(enum element_type type, const float *src, size_t count, void *dst);

/* True when all `count` elements are finite (always for integers). Otherwise *bad (may be NULL)
 * is the index of the first NaN or infinity. */
bool element_all_finite(enum element_type type, const void *src, size_t count, size_t *bad);

#endif
