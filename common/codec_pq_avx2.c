/*
 * codec_pq_avx2.c - PQ kernels for AVX2 and FMA: two registers hold one dimension of a group of 16.
 * Contracts and the rule of equal bits are in codec_internal.h; codec_pq_avx512.c says why the data
 * is laid out so.
 */
#include <immintrin.h>

#include "common/codec_internal.h"

enum { HALF = CODEC_LANES / 2 };

ALWAYS_INLINE __m256 add_square(__m256 sum, __m256 point, __m256 value)
{
    __m256 difference = _mm256_sub_ps(point, value);
    return _mm256_fmadd_ps(difference, difference, sum);
}

ALWAYS_INLINE void accumulate_four(const struct codec_pq_tile *tile, const float *c, float *out)
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
    for (size_t d = 0; d < tile->dims; d++, c++) {
        __m256 low = _mm256_load_ps(tile->points + d * CODEC_LANES);
        __m256 high = _mm256_load_ps(tile->points + d * CODEC_LANES + HALF);
        __m256 value = _mm256_broadcast_ss(c);
        low0 = add_square(low0, low, value);
        high0 = add_square(high0, high, value);
        value = _mm256_broadcast_ss(c + stride);
        low1 = add_square(low1, low, value);
        high1 = add_square(high1, high, value);
        value = _mm256_broadcast_ss(c + 2 * stride);
        low2 = add_square(low2, low, value);
        high2 = add_square(high2, high, value);
        value = _mm256_broadcast_ss(c + 3 * stride);
        low3 = add_square(low3, low, value);
        high3 = add_square(high3, high, value);
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

static void accumulate(const struct codec_pq_tile *tile)
{
    size_t j = 0;
    for (; j + 4 <= tile->count; j += 4) {
        accumulate_four(tile, tile->centroids + j * tile->stride,
                        tile->distances + j * CODEC_LANES);
    }
    for (; j < tile->count; j++) {
        const float *c = tile->centroids + j * tile->stride;
        float *out = tile->distances + j * CODEC_LANES;
        __m256 low = tile->fresh ? _mm256_setzero_ps() : _mm256_load_ps(out);
        __m256 high = tile->fresh ? _mm256_setzero_ps() : _mm256_load_ps(out + HALF);
        for (size_t d = 0; d < tile->dims; d++) {
            const float *p = tile->points + d * CODEC_LANES;
            __m256 value = _mm256_broadcast_ss(c + d);
            low = add_square(low, _mm256_load_ps(p), value);
            high = add_square(high, _mm256_load_ps(p + HALF), value);
        }
        _mm256_store_ps(out, low);
        _mm256_store_ps(out + HALF, high);
    }
}

static void argmin(const float *distances, size_t count, uint32_t first, float *best,
                   uint32_t *labels)
{
    for (size_t half = 0; half < CODEC_LANES; half += HALF) {
        __m256 nearest = _mm256_load_ps(best + half);
        __m256i label = _mm256_load_si256((const __m256i *)(const void *)(labels + half));
        __m256i index = _mm256_set1_epi32((int)first);
        const __m256i one = _mm256_set1_epi32(1);
        for (size_t j = 0; j < count; j++) {
            __m256 distance = _mm256_load_ps(distances + j * CODEC_LANES + half);
            __m256 below = _mm256_cmp_ps(distance, nearest, _CMP_LT_OQ);
            nearest = _mm256_min_ps(distance, nearest);
            label = _mm256_blendv_epi8(label, index, _mm256_castps_si256(below));
            index = _mm256_add_epi32(index, one);
        }
        _mm256_store_ps(best + half, nearest);
        _mm256_store_si256((__m256i *)(void *)(labels + half), label);
    }
}

/* |vector - point|^2 for half a group. */
ALWAYS_INLINE __m256 half_l2(const float *vector, size_t dims, const float *points)
{
    __m256 sum = _mm256_setzero_ps();
    for (size_t d = 0; d < dims; d++) {
        sum = add_square(sum, _mm256_load_ps(points + d * CODEC_LANES),
                         _mm256_broadcast_ss(vector + d));
    }
    return sum;
}

static void group_l2(const float *vector, size_t dims, const float *points, size_t groups,
                     float scale, float *out)
{
    const size_t step = dims * CODEC_LANES;
    const __m256 factor = _mm256_set1_ps(scale);
    size_t g = 0;
    for (; g + 2 <= groups; g += 2, points += 2 * step, out += 2 * CODEC_LANES) {
        __m256 s0, s1, s2, s3;
        s0 = s1 = s2 = s3 = _mm256_setzero_ps();
        for (size_t d = 0; d < dims; d++) {
            const float *p = points + d * CODEC_LANES;
            __m256 value = _mm256_broadcast_ss(vector + d);
            s0 = add_square(s0, _mm256_load_ps(p), value);
            s1 = add_square(s1, _mm256_load_ps(p + HALF), value);
            s2 = add_square(s2, _mm256_load_ps(p + step), value);
            s3 = add_square(s3, _mm256_load_ps(p + step + HALF), value);
        }
        _mm256_store_ps(out, _mm256_mul_ps(s0, factor));
        _mm256_store_ps(out + 8, _mm256_mul_ps(s1, factor));
        _mm256_store_ps(out + 16, _mm256_mul_ps(s2, factor));
        _mm256_store_ps(out + 24, _mm256_mul_ps(s3, factor));
    }
    for (; g < groups; g++, points += step, out += CODEC_LANES) {
        _mm256_store_ps(out, _mm256_mul_ps(half_l2(vector, dims, points), factor));
        _mm256_store_ps(out + HALF, _mm256_mul_ps(half_l2(vector, dims, points + HALF), factor));
    }
}

static void seed(const float *vector, size_t dims, const float *points, size_t groups, bool update,
                 float *nearest, float *lane_sums)
{
    __m256 total_low = _mm256_setzero_ps(), total_high = _mm256_setzero_ps();
    for (size_t g = 0; g < groups; g++, points += dims * CODEC_LANES, nearest += CODEC_LANES) {
        __m256 low = _mm256_min_ps(half_l2(vector, dims, points), _mm256_load_ps(nearest));
        __m256 high =
            _mm256_min_ps(half_l2(vector, dims, points + HALF), _mm256_load_ps(nearest + HALF));
        total_low = _mm256_add_ps(total_low, low);
        total_high = _mm256_add_ps(total_high, high);
        if (update) {
            _mm256_store_ps(nearest, low);
            _mm256_store_ps(nearest + HALF, high);
        }
    }
    _mm256_store_ps(lane_sums, total_low);
    _mm256_store_ps(lane_sums + HALF, total_high);
}

const struct codec_pq_kernels codec_pq_kernels_avx2 = {
    .accumulate = accumulate,
    .argmin = argmin,
    .group_l2 = group_l2,
    .seed = seed,
    .gather = codec_pq_gather,
};
