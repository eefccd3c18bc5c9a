/*
 * vector_set.h - the vectors being indexed, in RAM, and the distances the graph is built with.
 *
 * The graph needs a true dissimilarity (non-negative, zero to itself), so:
 *   l2      squared L2
 *   cosine  1 - cos, from the dot product and each row's 1/|x|
 *   ip      squared L2 after the reduction of Bachrach et al. (RecSys'14): one extra coordinate
 *           sqrt(M^2 - |x|^2) with M the largest norm, so that nearest there is largest inner
 * product Immutable after creation; shared by all threads.
 */
#ifndef NIGHTJAR_BUILDER_VECTOR_SET_H
#define NIGHTJAR_BUILDER_VECTOR_SET_H

#include <stddef.h>
#include <stdint.h>

#include "common/distance.h"
#include "common/element.h"
#include "common/error.h"

struct vector_set {
    uint8_t *rows;       /* row i at rows + i * stride_bytes */
    size_t stride_bytes; /* element bytes * dim, rounded up to a divisor-friendly multiple */
    uint32_t count;
    uint32_t capacity; /* rows allocated; the owner may lower count */
    uint32_t dim;
    enum element_type type;
    enum metric metric;
    float *row_scalar; /* cosine: 1/|x|; ip: sqrt(M^2 - |x|^2); l2: NULL */
    float norm_max;    /* M */
    const struct distance_kernels *kernels;
};

/* Allocates rows (zeroed) for `count` vectors; the caller fills them, then calls
 * vector_set_prepare(). */
NODISCARD enum status vector_set_create(struct vector_set *set, uint32_t count, uint32_t dim,
                                        enum element_type type, enum metric metric,
                                        struct error *err);
/* Computes row_scalar (in parallel). `norm_max` is the largest |x| of the whole input, of which the
 * set may be a part; 0: the set is all there is, and its own is found. */
NODISCARD enum status vector_set_prepare(struct vector_set *set, float norm_max, struct error *err);
void vector_set_destroy(struct vector_set *set);

ALWAYS_INLINE const void *vector_set_row(const struct vector_set *set, uint32_t row)
{
    return set->rows + (size_t)row * set->stride_bytes;
}

/* Build distance between two rows. */
float vector_set_pair(const struct vector_set *set, uint32_t a, uint32_t b);

/* out[i] = build distance of row `from` to row ids[i]. */
void vector_set_gather(const struct vector_set *set, uint32_t from, const uint32_t *ids,
                       size_t count, float *out);

#endif
