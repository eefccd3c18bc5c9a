/*
 * query_vector.c - see query_vector.h.
 */
#include "query/query_vector.h"

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

const void *query_vector_load(struct query_vector *self, const void *query)
{
    if (!self->converted)
        return query;
    element_vector_to_f32(self->given, query, self->dim, self->converted);
    return self->converted;
}

bool query_vector_has_direction(const struct distance *distance, enum element_type given,
                                const void *query)
{
    float converted[VECTOR_DIM_MAX];
    if (given == distance->query_type)
        return distance_query_scale(distance, query) != 0;
    element_vector_to_f32(given, query, distance->dim, converted);
    return distance_query_scale(distance, converted) != 0;
}
