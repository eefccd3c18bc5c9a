/*
 * codec_opq_avx2.c - OPQ kernels for AVX2 and FMA: two registers hold one dimension of a group of
 * 16. Contracts are in codec_opq_internal.h.
 */
#include <immintrin.h>

#include "common/codec_opq_internal.h"

enum { HALF = CODEC_LANES / 2 };

ALWAYS_INLINE void products_four(const struct codec_pq_tile *tile, const float *row, float *out)
{
    const size_t stride = tile->stride;
    __m256 low0, low1, low2, low3, high0, high1, high2, high3;
    low0 = low1 = low2 = low3 = high0 = high1 = high2 = high3 = _mm256_setzero_ps();
    if (!tile->fresh) {
        low0 = _mm256_load_ps(out);
        high0 = _mm256_load_ps(out + 8);
        low1 = _mm256_load_ps(out + 16);
        high1 = _mm256_load_ps(out + 24);
        low2 = _mm256_load_ps(out + 32);
        high2 = _mm256_load_ps(out + 40);
        low3 = _mm256_load_ps(out + 48);
        high3 = _mm256_load_ps(out + 56);
    }
    for (size_t d = 0; d < tile->dims; d++, row++) {
        __m256 low = _mm256_load_ps(tile->points + d * CODEC_LANES);
        __m256 high = _mm256_load_ps(tile->points + d * CODEC_LANES + HALF);
        __m256 value = _mm256_broadcast_ss(row);
        low0 = _mm256_fmadd_ps(low, value, low0);
        high0 = _mm256_fmadd_ps(high, value, high0);
        value = _mm256_broadcast_ss(row + stride);
        low1 = _mm256_fmadd_ps(low, value, low1);
        high1 = _mm256_fmadd_ps(high, value, high1);
        value = _mm256_broadcast_ss(row + 2 * stride);
        low2 = _mm256_fmadd_ps(low, value, low2);
        high2 = _mm256_fmadd_ps(high, value, high2);
        value = _mm256_broadcast_ss(row + 3 * stride);
        low3 = _mm256_fmadd_ps(low, value, low3);
        high3 = _mm256_fmadd_ps(high, value, high3);
    }
    _mm256_store_ps(out, low0);
    _mm256_store_ps(out + 8, high0);
    _mm256_store_ps(out + 16, low1);
    _mm256_store_ps(out + 24, high1);
    _mm256_store_ps(out + 32, low2);
    _mm256_store_ps(out + 40, high2);
    _mm256_store_ps(out + 48, low3);
    _mm256_store_ps(out + 56, high3);
}

static void products(const struct codec_pq_tile *tile)
{
    size_t j = 0;
    for (; j + 4 <= tile->count; j += 4) {
        products_four(tile, tile->centroids + j * tile->stride, tile->distances + j * CODEC_LANES);
    }
    for (; j < tile->count; j++) {
        const float *row = tile->centroids + j * tile->stride;
        float *out = tile->distances + j * CODEC_LANES;
        __m256 low = tile->fresh ? _mm256_setzero_ps() : _mm256_load_ps(out);
        __m256 high = tile->fresh ? _mm256_setzero_ps() : _mm256_load_ps(out + HALF);
        for (size_t d = 0; d < tile->dims; d++) {
            const float *point = tile->points + d * CODEC_LANES;
            __m256 value = _mm256_broadcast_ss(row + d);
            low = _mm256_fmadd_ps(_mm256_load_ps(point), value, low);
            high = _mm256_fmadd_ps(_mm256_load_ps(point + HALF), value, high);
        }
        _mm256_store_ps(out, low);
        _mm256_store_ps(out + HALF, high);
    }
}

static void group_products(const float *vector, size_t dims, const float *points, size_t groups,
                           float *out)
{
    const size_t step = dims * CODEC_LANES;
    size_t g = 0;
    for (; g + 2 <= groups; g += 2, points += 2 * step, out += 2 * CODEC_LANES) {
        __m256 low0, high0, low1, high1;
        low0 = high0 = low1 = high1 = _mm256_setzero_ps();
        for (size_t d = 0; d < dims; d++) {
            const float *p = points + d * CODEC_LANES;
            __m256 value = _mm256_broadcast_ss(vector + d);
            low0 = _mm256_fmadd_ps(_mm256_load_ps(p), value, low0);
            high0 = _mm256_fmadd_ps(_mm256_load_ps(p + HALF), value, high0);
            low1 = _mm256_fmadd_ps(_mm256_load_ps(p + step), value, low1);
            high1 = _mm256_fmadd_ps(_mm256_load_ps(p + step + HALF), value, high1);
        }
        _mm256_store_ps(out, low0);
        _mm256_store_ps(out + 8, high0);
        _mm256_store_ps(out + 16, low1);
        _mm256_store_ps(out + 24, high1);
    }
    for (; g < groups; g++, points += step, out += CODEC_LANES) {
        __m256 low = _mm256_setzero_ps(), high = low;
        for (size_t d = 0; d < dims; d++) {
            __m256 value = _mm256_broadcast_ss(vector + d);
            low = _mm256_fmadd_ps(_mm256_load_ps(points + d * CODEC_LANES), value, low);
            high = _mm256_fmadd_ps(_mm256_load_ps(points + d * CODEC_LANES + HALF), value, high);
        }
        _mm256_store_ps(out, low);
        _mm256_store_ps(out + HALF, high);
    }
}

const struct codec_opq_kernels codec_opq_kernels_avx2 = {
    .products = products,
    .group_products = group_products,
};
