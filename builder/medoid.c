/*
 * medoid.c - see medoid.h.
 */
#include "builder/medoid.h"

#include <math.h>

#include "builder/graph_internal.h"
#include "common/cpu.h"
#include "common/memory.h"

/* Centroid in double over fixed slices, so that the sum does not depend on the team. */
static enum status centroid_compute(const struct vector_set *set, float *centroid,
                                    struct error *err)
{
    enum { SLICE_ROWS = 4096 };
    uint32_t slices = (set->count + SLICE_ROWS - 1) / SLICE_ROWS;
    uint32_t dim = set->dim;
    void *memory = NULL;
    enum status status =
        bulk_alloc(slices, dim * sizeof(double), "centroid partial sums", &memory, err);
    if (status)
        return status;
    double *sums = memory;
#pragma omp parallel for schedule(dynamic, 1)
    for (uint32_t slice = 0; slice < slices; slice++) {
        double *sum = sums + (size_t)slice * dim;
        uint32_t end = MIN(set->count, (slice + 1) * SLICE_ROWS);
        float row[VECTOR_DIM_MAX];
        for (uint32_t i = slice * SLICE_ROWS; i < end; i++) {
            element_vector_to_f32(set->type, vector_set_row(set, i), dim, row);
            for (uint32_t d = 0; d < dim; d++)
                sum[d] += (double)row[d];
        }
    }
    for (uint32_t d = 0; d < dim; d++) {
        double total = 0.0;
        for (uint32_t slice = 0; slice < slices; slice++)
            total += sums[(size_t)slice * dim + d];
        centroid[d] = (float)(total / set->count);
    }
    bulk_free(memory, slices, dim * sizeof(double));
    return STATUS_OK;
}

enum status medoid_find(const struct vector_set *set, uint32_t *medoid, struct error *err)
{
    float centroid[VECTOR_DIM_MAX];
    enum status status = centroid_compute(set, centroid, err);
    if (status)
        return status;
    const struct distance_kernels *f32 = distance_kernels_get(ELEMENT_F32, cpu_features());
    struct candidate best = {INFINITY, UINT32_MAX};
#pragma omp parallel
    {
        struct candidate mine = {INFINITY, UINT32_MAX};
        float row[VECTOR_DIM_MAX];
#pragma omp for schedule(static)
        for (uint32_t i = 0; i < set->count; i++) {
            element_vector_to_f32(set->type, vector_set_row(set, i), set->dim, row);
            struct candidate c = {f32->l2sq(centroid, row, set->dim), i};
            if (candidate_less(c, mine))
                mine = c;
        }
#pragma omp critical
        if (candidate_less(mine, best))
            best = mine;
    }
    *medoid = best.id == UINT32_MAX ? 0 : best.id;
    return STATUS_OK;
}
