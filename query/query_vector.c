/*
 * query_vector.c - see query_vector.h.
 */
#include "query/query_vector.h"

#include <math.h>
#include <stdlib.h>

enum status query_vector_init(struct query_vector *self, const struct manifest *manifest,
                              struct error *err)
{
    *self = (struct query_vector){.given = manifest->query_type, .dim = manifest->dim};
    if (element_compared_as(manifest->query_type, manifest->type) == manifest->query_type)
        return STATUS_OK;
    self->converted = calloc(manifest->dim, sizeof(*self->converted));
    return self->converted ? STATUS_OK
                           : error_set(err, STATUS_NO_MEMORY, "query in f32: out of memory");
}

void query_vector_fini(struct query_vector *self)
{
    free(self->converted);
    *self = (struct query_vector){0};
}

const void *query_vector_load(struct query_vector *self, const struct search_query *query)
{
    if (!self->converted || query->vector_is_f32)
        return query->vector;
    element_vector_to_f32(self->given, query->vector, self->dim, self->converted);
    return self->converted;
}

static bool has_direction(const struct distance *distance, enum element_type given,
                          const void *vector)
{
    float converted[VECTOR_DIM_MAX];
    if (given == distance->query_type)
        return distance_query_scale(distance, vector) != 0;
    element_vector_to_f32(given, vector, distance->dim, converted);
    return distance_query_scale(distance, converted) != 0;
}

/* As a build refuses rows: then no distance to one of those, and nothing that a search computes on
 * the way, is beyond f32. Cosine computes in double where it must. */
static bool is_too_long(const struct distance *distance, enum element_type given,
                        const void *vector)
{
    if (distance->metric == METRIC_COSINE || given != ELEMENT_F32)
        return false;
    const float norm = sqrtf(distance_query_squared(distance, vector));
    return !isfinite(4.0f * norm * norm);
}

enum status query_vector_check(const struct manifest *manifest, const struct distance *distance,
                               const struct search_query *query, struct error *err)
{
    const enum element_type given = query->vector_is_f32 ? ELEMENT_F32 : manifest->query_type;
    size_t bad;
    if (query->vector_is_f32 && distance->query_type != ELEMENT_F32)
        return error_set(err, STATUS_INVALID, "query is f32, the index compares %s",
                         element_name(distance->query_type));
    if (!element_all_finite(given, query->vector, manifest->dim, &bad))
        return error_set(err, STATUS_INVALID, "query has a NaN or infinity at dimension %zu", bad);
    if (is_too_long(distance, given, query->vector))
        return error_set(err, STATUS_INVALID,
                         "query is too long a vector: four times its squared norm exceeds f32");
    if (manifest->metric == METRIC_COSINE && !has_direction(distance, given, query->vector))
        return error_set(err, STATUS_INVALID,
                         "query is a zero vector, which has no direction under cosine");
    return STATUS_OK;
}
