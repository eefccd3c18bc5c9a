/*
 * sample.h - sample.bin: some of the vectors as queries, each with its exact nearest others, so
 * that the recall of a generation can be measured without any other file.
 *
 * A query is a vector of the index itself. Its truth leaves it out, and so does who searches for
 * it: its node is told, which a search can pass by (search_query.excludes), so that the query is
 * one that the index does not have. Truth is by the index's metric, distances are those a search
 * returns, ordered by (distance, key).
 *
 *   0 u32 magic 'NJSM'   4 u32 version (2)   8 u32 count   12 u32 k   16 u32 dim
 *   20 u32 element type   24 u32 metric   28 u32[9] zero
 *   64 u64 own keys[count]   u64 truth keys[count * k]   u32 own nodes[count], zeros up to a
 *   multiple of 8 bytes   f32 truth distances[count * k]   vectors[count], dim elements each
 */
#ifndef NIGHTJAR_LAYOUT_SAMPLE_H
#define NIGHTJAR_LAYOUT_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "common/compiler.h"
#include "common/element.h"
#include "common/error.h"

enum {
    SAMPLE_COUNT_MAX = 65536,
    SAMPLE_K_MAX = 1023,
};

/* All arrays are packed; query i's part of the truth starts at i * k. */
struct sample {
    uint32_t count; /* queries, 1..SAMPLE_COUNT_MAX */
    uint32_t k;     /* neighbours of each, 0..SAMPLE_K_MAX; 0 where a lone vector has none */
    uint32_t dim;
    enum element_type type;
    enum metric metric;
    const uint64_t *own_keys;     /* [count] */
    const uint32_t *own_nodes;    /* [count]; below node_limit: who knows that checks it */
    const uint64_t *truth_keys;   /* [count * k] */
    const float *truth_distances; /* [count * k] */
    const uint8_t *vectors;       /* [count * element_vector_bytes(type, dim)] */
};

/* One query of a sample. */
struct sample_query {
    uint64_t own_key;
    uint32_t own_node;
    const void *vector;
    const uint64_t *truth_keys;   /* [k], nearest first; never own_key */
    const float *truth_distances; /* [k] */
};

/* Length of sample.bin; `vector_bytes` of one vector. Within the limits above it does not wrap. */
uint64_t sample_bytes(uint32_t count, uint32_t k, uint32_t vector_bytes);

/* Writes the file image into bytes[sample_bytes(...)]. `sample` passes sample_check(). */
void sample_encode(const struct sample *sample, void *bytes);

/* Checks all but what only the other files can tell: magic, version, ranges, the length to the byte
 * and sample_check(). Points *out into `bytes` (8-byte aligned, which must outlive it).
 * STATUS_UNSUPPORTED: another version; STATUS_CORRUPT: anything else. Written on success only.
 * Allocates nothing. */
NODISCARD enum status sample_decode(const void *bytes, size_t length, struct sample *out,
                                    struct error *err);

/* Names the first query whose vector or distances are not finite, whose truth is not strictly
 * ascending by (distance, key), or has the query itself in it. STATUS_CORRUPT. */
NODISCARD enum status sample_check(const struct sample *sample, struct error *err);

/* Names the first query whose node is none of `node_limit`. STATUS_CORRUPT. */
NODISCARD enum status sample_nodes_check(const struct sample *sample, uint32_t node_limit,
                                         struct error *err);

/* The vectors of all queries, packed, as they are compared by an index that takes queries of
 * `query_type`: of element_compared_as(query_type, sample->type), which holds them exactly. *out is
 * malloc'd, the caller's. */
NODISCARD enum status sample_queries_create(const struct sample *sample,
                                            enum element_type query_type, uint8_t **out,
                                            struct error *err);

/* Query i < count: pointers into the sample. */
ALWAYS_INLINE struct sample_query sample_query_at(const struct sample *sample, uint32_t i)
{
    size_t first = (size_t)i * sample->k;
    return (struct sample_query){
        .own_key = sample->own_keys[i],
        .own_node = sample->own_nodes[i],
        .vector = sample->vectors + i * element_vector_bytes(sample->type, sample->dim),
        .truth_keys = sample->truth_keys + first,
        .truth_distances = sample->truth_distances + first,
    };
}

#endif
