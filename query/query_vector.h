/*
 * query_vector.h - a query as it is compared with what an index stores.
 *
 * Queries come in the type that the index was built from. Where it stores that type they are
 * compared as they are, else in f32: so a query is never rounded to what vectors were rounded to.
 * A stored vector is asked for in f32 itself (search_query.vector_is_f32), as f16 may not hold it.
 * One slot's, and so one thread's; query_vector_check() may be called by any.
 */
#ifndef NIGHTJAR_QUERY_QUERY_VECTOR_H
#define NIGHTJAR_QUERY_QUERY_VECTOR_H

#include "common/distance.h"
#include "common/error.h"
#include "layout/manifest.h"
#include "query/engine.h"

struct query_vector {
    enum element_type given;
    uint32_t dim;
    float *converted; /* [dim]; NULL: queries are compared as they are */
};

/* Allocates room for the queries of an index. */
NODISCARD enum status query_vector_init(struct query_vector *self, const struct manifest *manifest,
                                        struct error *err);
void query_vector_fini(struct query_vector *self);

/* The query's vector as distance_init_query() wants it: itself, or converted, until the next call.
 */
const void *query_vector_load(struct query_vector *self, const struct search_query *query);

/* STATUS_INVALID: the vector is not finite, or so long that distances to it are not, or has no
 * direction under cosine, or is f32 for an index that compares no f32. */
NODISCARD enum status query_vector_check(const struct manifest *manifest,
                                         const struct distance *distance,
                                         const struct search_query *query, struct error *err);

#endif
