/*
 * codec_opq_kernels.c - the scalar kernels of OPQ, reference for the other instruction sets, and
 * the choice among them.
 */
#include <math.h>

#include "common/codec_opq_internal.h"
#include "common/cpu.h"

static void products(const struct codec_pq_tile *tile)
{
    for (size_t j = 0; j < tile->count; j++) {
        const float *row = tile->centroids + j * tile->stride;
        float *out = tile->distances + j * CODEC_LANES;
        for (size_t lane = 0; lane < CODEC_LANES; lane++) {
            float sum = tile->fresh ? 0.0f : out[lane];
            for (size_t d = 0; d < tile->dims; d++)
                sum = fmaf(tile->points[d * CODEC_LANES + lane], row[d], sum);
            out[lane] = sum;
        }
    }
}

static void group_products(const float *vector, size_t dims, const float *points, size_t groups,
                           float *out)
{
    for (size_t g = 0; g < groups; g++) {
        const float *group = points + g * dims * CODEC_LANES;
        for (size_t lane = 0; lane < CODEC_LANES; lane++) {
            float sum = 0.0f;
            for (size_t d = 0; d < dims; d++)
                sum = fmaf(group[d * CODEC_LANES + lane], vector[d], sum);
            out[g * CODEC_LANES + lane] = sum;
        }
    }
}

static const struct codec_opq_kernels kernels_scalar = {
    .products = products,
    .group_products = group_products,
};

const struct codec_opq_kernels *codec_opq_kernels_get(unsigned features)
{
    if (features & CPU_AVX512)
        return &codec_opq_kernels_avx512;
    if (features & CPU_AVX2)
        return &codec_opq_kernels_avx2;
    return &kernels_scalar;
}
