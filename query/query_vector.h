/*
 * query_vector.h - a query as it is compared with what an index stores.
 *
 * Queries come in the type that the index was built from. Where it stores that type they are
 * compared as they are, else in f32: so a query is never rounded to what vectors were rounded to.
 * One slot's, and so one thread's; query_vector_has_direction() may be called by any.
 */
#ifndef NIGHTJAR_QUERY_QUERY_VECTOR_H
#define NIGHTJAR_QUERY_QUERY_VECTOR_H

#include <stdbool.h>

#include "common/distance.h"
#include "common/error.h"
#include "layout/manifest.h"

struct query_vector {
    enum element_type given;
    uint32_t dim;
    float *converted; /* [dim]; NULL: queries are compared as they are */
};

/* Allocates room for the queries of an index. */
NODISCARD enum status query_vector_init(struct query_vector *self, const struct manifest *manifest,
                                        struct error *err);
void query_vector_fini(struct query_vector *self);

/* `query` as distance_init_query() wants it: itself, or converted, until the next call. */
const void *query_vector_load(struct query_vector *self, const void *query);

/* False for a zero vector. `distance` is that of an index under cosine, `given` the queries' type.
 */
bool query_vector_has_direction(const struct distance *distance, enum element_type given,
                                const void *query);

#endif
