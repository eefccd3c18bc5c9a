/*
 * promising.h - candidates by inner product: for each row, rows that a query in its direction looks
 * for. Under ip these are long rows, far away in the space of the reduction (vector_set.h), where
 * what is near a row never tells of them.
 */
#ifndef NIGHTJAR_BUILDER_PROMISING_H
#define NIGHTJAR_BUILDER_PROMISING_H

#include <stdatomic.h>
#include <stdint.h>

#include "builder/reservoir.h"
#include "builder/vector_set.h"
#include "common/error.h"

struct promising {
    const struct vector_set *set;
    struct reservoirs reservoirs; /* by inner product; capacity 0: the metric needs none */
    atomic_flag *locks;           /* of reservoirs */
};

/* Empty reservoirs for the rows of a prepared set whose lists have `degree` places; under another
 * metric than ip no row ever has a candidate. On failure the caller's to promising_destroy() all
 * the same. */
NODISCARD enum status promising_create(struct promising *p, const struct vector_set *set,
                                       uint32_t degree, struct error *err);
void promising_destroy(struct promising *p);

/* Offers each of ids[count], rows of one direction and at most CARVE_LEAF_MAX, those of largest
 * inner product with it among the longest of them. Any number of threads may call at the same time;
 * what rows have in the end depends on no order. */
void promising_offer(struct promising *p, const uint32_t *ids, uint32_t count);

/* Moves the candidates of `row` to ids[reservoirs.capacity]; returns how many. */
uint32_t promising_take(struct promising *p, uint32_t row, uint32_t *ids);

/* Bytes for `count` rows. */
uint64_t promising_bytes(enum metric metric, uint64_t count, uint32_t degree);

#endif
