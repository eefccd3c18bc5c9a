/*
 * codec_opq_avx512.c - OPQ kernels for AVX-512. Contracts are in codec_opq_internal.h, the layout's
 * reasons in codec_pq_avx512.c.
 */
#include <immintrin.h>

#include "common/codec_opq_internal.h"

ALWAYS_INLINE __m512 add_product(__m512 sum, __m512 point, const float *value)
{
    return _mm512_fmadd_ps(point, _mm512_set1_ps(*value), sum);
}

ALWAYS_INLINE void products_eight(const struct codec_pq_tile *tile, const float *row, float *out)
{
    const size_t stride = tile->stride;
    __m512 s0, s1, s2, s3, s4, s5, s6, s7;
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = _mm512_setzero_ps();
    if (!tile->fresh) {
        s0 = _mm512_load_ps(out);
        s1 = _mm512_load_ps(out + 16);
        s2 = _mm512_load_ps(out + 32);
        s3 = _mm512_load_ps(out + 48);
        s4 = _mm512_load_ps(out + 64);
        s5 = _mm512_load_ps(out + 80);
        s6 = _mm512_load_ps(out + 96);
        s7 = _mm512_load_ps(out + 112);
    }
    for (size_t d = 0; d < tile->dims; d++, row++) {
        __m512 point = _mm512_load_ps(tile->points + d * CODEC_LANES);
        s0 = add_product(s0, point, row);
        s1 = add_product(s1, point, row + stride);
        s2 = add_product(s2, point, row + 2 * stride);
        s3 = add_product(s3, point, row + 3 * stride);
        s4 = add_product(s4, point, row + 4 * stride);
        s5 = add_product(s5, point, row + 5 * stride);
        s6 = add_product(s6, point, row + 6 * stride);
        s7 = add_product(s7, point, row + 7 * stride);
    }
    _mm512_store_ps(out, s0);
    _mm512_store_ps(out + 16, s1);
    _mm512_store_ps(out + 32, s2);
    _mm512_store_ps(out + 48, s3);
    _mm512_store_ps(out + 64, s4);
    _mm512_store_ps(out + 80, s5);
    _mm512_store_ps(out + 96, s6);
    _mm512_store_ps(out + 112, s7);
}

static void products(const struct codec_pq_tile *tile)
{
    size_t j = 0;
    for (; j + 8 <= tile->count; j += 8) {
        products_eight(tile, tile->centroids + j * tile->stride, tile->distances + j * CODEC_LANES);
    }
    for (; j < tile->count; j++) {
        const float *row = tile->centroids + j * tile->stride;
        float *out = tile->distances + j * CODEC_LANES;
        __m512 sum = tile->fresh ? _mm512_setzero_ps() : _mm512_load_ps(out);
        for (size_t d = 0; d < tile->dims; d++)
            sum = add_product(sum, _mm512_load_ps(tile->points + d * CODEC_LANES), row + d);
        _mm512_store_ps(out, sum);
    }
}

static void group_products(const float *vector, size_t dims, const float *points, size_t groups,
                           float *out)
{
    const size_t step = dims * CODEC_LANES;
    size_t g = 0;
    for (; g + 4 <= groups; g += 4, points += 4 * step, out += 4 * CODEC_LANES) {
        __m512 s0, s1, s2, s3;
        s0 = s1 = s2 = s3 = _mm512_setzero_ps();
        for (size_t d = 0; d < dims; d++) {
            const float *p = points + d * CODEC_LANES;
            s0 = add_product(s0, _mm512_load_ps(p), vector + d);
            s1 = add_product(s1, _mm512_load_ps(p + step), vector + d);
            s2 = add_product(s2, _mm512_load_ps(p + 2 * step), vector + d);
            s3 = add_product(s3, _mm512_load_ps(p + 3 * step), vector + d);
        }
        _mm512_store_ps(out, s0);
        _mm512_store_ps(out + 16, s1);
        _mm512_store_ps(out + 32, s2);
        _mm512_store_ps(out + 48, s3);
    }
    for (; g < groups; g++, points += step, out += CODEC_LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t d = 0; d < dims; d++)
            sum = add_product(sum, _mm512_load_ps(points + d * CODEC_LANES), vector + d);
        _mm512_store_ps(out, sum);
    }
}

const struct codec_opq_kernels codec_opq_kernels_avx512 = {
    .products = products,
    .group_products = group_products,
};
