/*
 * codec_pq_avx512.c - PQ kernels for AVX-512: one register holds one dimension of a group of 16.
 * Contracts and the rule of equal bits are in codec_internal.h.
 *
 * Sixteen points in lanes meet one centroid as a broadcast operand, so the nearest needs no
 * horizontal step. Eight centroids (or four groups) at a time hide the latency of the additions.
 */
#include <immintrin.h>

#include "common/codec_internal.h"

ALWAYS_INLINE __m512 add_square(__m512 sum, __m512 point, const float *value)
{
    __m512 difference = _mm512_sub_ps(point, _mm512_set1_ps(*value));
    return _mm512_fmadd_ps(difference, difference, sum);
}

ALWAYS_INLINE void accumulate_eight(const struct codec_pq_tile *tile, const float *c, float *out)
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
    for (size_t d = 0; d < tile->dims; d++, c++) {
        __m512 point = _mm512_load_ps(tile->points + d * CODEC_LANES);
        s0 = add_square(s0, point, c);
        s1 = add_square(s1, point, c + stride);
        s2 = add_square(s2, point, c + 2 * stride);
        s3 = add_square(s3, point, c + 3 * stride);
        s4 = add_square(s4, point, c + 4 * stride);
        s5 = add_square(s5, point, c + 5 * stride);
        s6 = add_square(s6, point, c + 6 * stride);
        s7 = add_square(s7, point, c + 7 * stride);
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

static void accumulate(const struct codec_pq_tile *tile)
{
    size_t j = 0;
    for (; j + 8 <= tile->count; j += 8) {
        accumulate_eight(tile, tile->centroids + j * tile->stride,
                         tile->distances + j * CODEC_LANES);
    }
    for (; j < tile->count; j++) {
        const float *c = tile->centroids + j * tile->stride;
        float *out = tile->distances + j * CODEC_LANES;
        __m512 sum = tile->fresh ? _mm512_setzero_ps() : _mm512_load_ps(out);
        for (size_t d = 0; d < tile->dims; d++)
            sum = add_square(sum, _mm512_load_ps(tile->points + d * CODEC_LANES), c + d);
        _mm512_store_ps(out, sum);
    }
}

static void argmin(const float *distances, size_t count, uint32_t first, float *best,
                   uint32_t *labels)
{
    __m512 nearest = _mm512_load_ps(best);
    __m512i label = _mm512_load_si512(labels);
    __m512i index = _mm512_set1_epi32((int)first);
    const __m512i one = _mm512_set1_epi32(1);
    for (size_t j = 0; j < count; j++) {
        __m512 distance = _mm512_load_ps(distances + j * CODEC_LANES);
        __mmask16 below = _mm512_cmp_ps_mask(distance, nearest, _CMP_LT_OQ);
        nearest = _mm512_min_ps(distance, nearest);
        label = _mm512_mask_mov_epi32(label, below, index);
        index = _mm512_add_epi32(index, one);
    }
    _mm512_store_ps(best, nearest);
    _mm512_store_si512(labels, label);
}

static void group_l2(const float *vector, size_t dims, const float *points, size_t groups,
                     float scale, float *out)
{
    const size_t step = dims * CODEC_LANES;
    const __m512 factor = _mm512_set1_ps(scale);
    size_t g = 0;
    for (; g + 4 <= groups; g += 4, points += 4 * step, out += 4 * CODEC_LANES) {
        __m512 s0, s1, s2, s3;
        s0 = s1 = s2 = s3 = _mm512_setzero_ps();
        for (size_t d = 0; d < dims; d++) {
            const float *p = points + d * CODEC_LANES;
            s0 = add_square(s0, _mm512_load_ps(p), vector + d);
            s1 = add_square(s1, _mm512_load_ps(p + step), vector + d);
            s2 = add_square(s2, _mm512_load_ps(p + 2 * step), vector + d);
            s3 = add_square(s3, _mm512_load_ps(p + 3 * step), vector + d);
        }
        _mm512_store_ps(out, _mm512_mul_ps(s0, factor));
        _mm512_store_ps(out + 16, _mm512_mul_ps(s1, factor));
        _mm512_store_ps(out + 32, _mm512_mul_ps(s2, factor));
        _mm512_store_ps(out + 48, _mm512_mul_ps(s3, factor));
    }
    for (; g < groups; g++, points += step, out += CODEC_LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t d = 0; d < dims; d++)
            sum = add_square(sum, _mm512_load_ps(points + d * CODEC_LANES), vector + d);
        _mm512_store_ps(out, _mm512_mul_ps(sum, factor));
    }
}

static void seed(const float *vector, size_t dims, const float *points, size_t groups, bool update,
                 float *nearest, float *lane_sums)
{
    const size_t step = dims * CODEC_LANES;
    __m512 total = _mm512_setzero_ps();
    size_t g = 0;
    for (; g + 4 <= groups; g += 4, points += 4 * step, nearest += 4 * CODEC_LANES) {
        __m512 s0, s1, s2, s3;
        s0 = s1 = s2 = s3 = _mm512_setzero_ps();
        for (size_t d = 0; d < dims; d++) {
            const float *p = points + d * CODEC_LANES;
            s0 = add_square(s0, _mm512_load_ps(p), vector + d);
            s1 = add_square(s1, _mm512_load_ps(p + step), vector + d);
            s2 = add_square(s2, _mm512_load_ps(p + 2 * step), vector + d);
            s3 = add_square(s3, _mm512_load_ps(p + 3 * step), vector + d);
        }
        s0 = _mm512_min_ps(s0, _mm512_load_ps(nearest));
        s1 = _mm512_min_ps(s1, _mm512_load_ps(nearest + 16));
        s2 = _mm512_min_ps(s2, _mm512_load_ps(nearest + 32));
        s3 = _mm512_min_ps(s3, _mm512_load_ps(nearest + 48));
        total = _mm512_add_ps(_mm512_add_ps(total, s0), s1);
        total = _mm512_add_ps(_mm512_add_ps(total, s2), s3);
        if (update) {
            _mm512_store_ps(nearest, s0);
            _mm512_store_ps(nearest + 16, s1);
            _mm512_store_ps(nearest + 32, s2);
            _mm512_store_ps(nearest + 48, s3);
        }
    }
    for (; g < groups; g++, points += step, nearest += CODEC_LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t d = 0; d < dims; d++)
            sum = add_square(sum, _mm512_load_ps(points + d * CODEC_LANES), vector + d);
        sum = _mm512_min_ps(sum, _mm512_load_ps(nearest));
        total = _mm512_add_ps(total, sum);
        if (update)
            _mm512_store_ps(nearest, sum);
    }
    _mm512_store_ps(lane_sums, total);
}

const struct codec_pq_kernels codec_pq_kernels_avx512 = {
    .accumulate = accumulate,
    .argmin = argmin,
    .group_l2 = group_l2,
    .seed = seed,
    .gather = codec_pq_gather,
};
