/*
 * nearest.h - the exact k nearest rows of each of some hundred queries, among rows that stream by.
 *
 * Distances are those a search returns (common/distance.h), nearest is by (distance, key): a total
 * order, so the outcome depends neither on the order of the rows nor on the thread that saw them.
 */
#ifndef NIGHTJAR_BUILDER_NEAREST_H
#define NIGHTJAR_BUILDER_NEAREST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/element.h"
#include "common/error.h"

/* Rows, stride_bytes apart, that is nearest_stride_bytes() or any larger multiple of it, with zeros
 * between them. */
struct nearest_rows {
    const uint8_t *rows;
    size_t stride_bytes;
    const uint64_t *keys; /* NULL: first_key, first_key + 1, ... */
    uint64_t first_key;
    uint32_t count;
};

struct nearest_params {
    enum element_type type;
    enum metric metric;
    uint32_t dim;
    uint32_t k;       /* may be 0 */
    uint32_t threads; /* that offer rows */
    /* Borrowed. A row with a query's own key is not among its nearest, unless queries are foreign:
     * none of the rows, with no keys. */
    struct nearest_rows queries;
    bool foreign;
};

struct nearest;

/* From one row to the next, so that whole lines can be read. */
size_t nearest_stride_bytes(enum element_type type, uint32_t dim);

/* Most bytes that one takes, beside the queries. */
uint64_t nearest_memory_bytes(const struct nearest_params *params);

/* On success *out is the caller's. */
NODISCARD enum status nearest_create(const struct nearest_params *params, struct nearest **out,
                                     struct error *err);
/* NULL is fine. */
void nearest_destroy(struct nearest *nearest);

/* Compares all queries with `rows`, each row of which is offered once, to whichever thread. Threads
 * with distinct numbers below params->threads may call at a time. Cannot fail. */
void nearest_offer(struct nearest *nearest, uint32_t thread, const struct nearest_rows *rows);

/* Query q's nearest go to keys[q * k] and distances[q * k], nearest first. Once, when all is
 * offered; uses the caller's OpenMP team. STATUS_INVALID: some query has met fewer than k other
 * rows. */
NODISCARD enum status nearest_finish(struct nearest *nearest, uint64_t *keys, float *distances,
                                     struct error *err);

#endif
