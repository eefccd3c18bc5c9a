/*
 * tile_avx2.c - tiles with AVX2: eight rows an instruction.
 *
 * Products of unsigned and signed bytes overflow where AVX2 adds two of them in 16 bits. So the
 * even and the odd bytes of a chunk are widened to 16 bits, and multiplied and added in pairs to 32
 * bits. A query holds, for each chunk, its even pair and its odd pair.
 *
 * Pure functions but for what they fill in.
 */
#include "builder/tile_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>

enum { EIGHTH = 8 /* rows in one register */, PARTS = TILE_PANEL_ROWS / EIGHTH, QUERIES = 2 };

ALWAYS_INLINE __m256i low_bytes(__m256i bytes)
{
    return _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
}

ALWAYS_INLINE __m256i high_bytes(__m256i bytes)
{
    return _mm256_srli_epi16(bytes, 8);
}

static void fill(struct tile *tile, uint32_t panel, const uint8_t *const rows[TILE_PANEL_ROWS],
                 size_t stride_bytes, uint8_t flip)
{
    (void)stride_bytes;
    tile_fill_chunks(tile, panel, rows, flip, 0);
    const __m256i one = _mm256_set1_epi16(1);
    for (uint32_t part = 0; part < PARTS; part++) {
        const uint8_t *column = tile_panel(tile, panel) + part * sizeof(__m256i);
        __m256i square = _mm256_setzero_si256();
        __m256i sum = _mm256_setzero_si256();
        for (uint32_t c = 0; c < tile->chunks; c++, column += TILE_COLUMN_BYTES) {
            __m256i bytes = _mm256_load_si256((const void *)column);
            __m256i even = low_bytes(bytes);
            __m256i odd = high_bytes(bytes);
            square = _mm256_add_epi32(square, _mm256_madd_epi16(even, even));
            square = _mm256_add_epi32(square, _mm256_madd_epi16(odd, odd));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(even, odd), one));
        }
        size_t row = panel * TILE_PANEL_ROWS + part * EIGHTH;
        _mm256_storeu_si256((void *)(tile->squares + row), square);
        _mm256_storeu_si256((void *)(tile->biases + row),
                            _mm256_sub_epi32(square, _mm256_slli_epi32(sum, 8)));
    }
    tile_fill_far(tile, panel, rows);
}

static void ask(struct tile *tile, uint32_t slot, const uint8_t *row, uint8_t flip)
{
    int16_t *query = (void *)tile_query(tile, slot);
    for (uint32_t c = 0; c < tile->chunks; c++, row += TILE_CHUNK_BYTES, query += TILE_CHUNK_BYTES)
        for (uint32_t b = 0; b < TILE_CHUNK_BYTES; b++) /* bytes 0 2 1 3 */
            query[b / 2 + b % 2 * 2] = (int16_t)((row[b] ^ flip) - 128);
}

ALWAYS_INLINE __m256i query_pair(const uint8_t *query, uint32_t chunk, uint32_t odd)
{
    return _mm256_set1_epi32(((const int32_t *)(const void *)query)[chunk * 2 + odd]);
}

/* Sums of u s for `n` queries, a constant at every call, and half a panel: rows from `part` on. */
ALWAYS_INLINE void half_sums(const struct tile *tile, uint32_t panel, uint32_t part, uint32_t slot,
                             size_t n, __m256i sums[QUERIES][2])
{
    const uint8_t *column = tile_panel(tile, panel) + part * sizeof(__m256i);
#pragma GCC unroll 2
    for (size_t q = 0; q < n; q++)
        sums[q][0] = sums[q][1] = _mm256_setzero_si256();
    for (uint32_t c = 0; c < tile->chunks; c++, column += TILE_COLUMN_BYTES) {
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++) {
            __m256i bytes = _mm256_load_si256((const void *)(column + half * sizeof(__m256i)));
            __m256i even = low_bytes(bytes);
            __m256i odd = high_bytes(bytes);
#pragma GCC unroll 2
            for (size_t q = 0; q < n; q++) {
                const uint8_t *query = tile_query(tile, slot + (uint32_t)q);
                __m256i product = _mm256_add_epi32(_mm256_madd_epi16(even, query_pair(query, c, 0)),
                                                   _mm256_madd_epi16(odd, query_pair(query, c, 1)));
                sums[q][half] = _mm256_add_epi32(sums[q][half], product);
            }
        }
    }
}

ALWAYS_INLINE __m256i score(const struct tile *tile, uint32_t panel, uint32_t part, __m256i sum)
{
    const int32_t *bias = tile->biases + panel * TILE_PANEL_ROWS + part * EIGHTH;
    return _mm256_sub_epi32(_mm256_loadu_si256((const void *)bias), _mm256_slli_epi32(sum, 1));
}

ALWAYS_INLINE void panel_scores(const struct tile *tile, uint32_t panel, uint32_t slot,
                                int32_t *scores, size_t n)
{
    __m256i sums[QUERIES][2];
    for (uint32_t part = 0; part < PARTS; part += 2) {
        half_sums(tile, panel, part, slot, n, sums);
#pragma GCC unroll 2
        for (size_t q = 0; q < n; q++)
            for (uint32_t half = 0; half < 2; half++)
                _mm256_store_si256((void *)(scores + (slot + q) * tile_width(tile) +
                                            panel * TILE_PANEL_ROWS + (part + half) * EIGHTH),
                                   score(tile, panel, part + half, sums[q][half]));
    }
}

static void scores_compute(const struct tile *tile, uint32_t count, int32_t *scores)
{
    for (uint32_t panel = 0; panel < tile->panels; panel++) {
        uint32_t slot = 0;
        for (; slot + QUERIES <= count; slot += QUERIES)
            panel_scores(tile, panel, slot, scores, QUERIES);
        if (slot < count)
            panel_scores(tile, panel, slot, scores, 1);
    }
}

static uint32_t occluded(const struct tile *tile, uint32_t panel, int32_t square, float alpha,
                         const float *limits)
{
    uint32_t mask = 0;
    for (uint32_t part = 0; part < PARTS; part += 2) {
        __m256i sums[QUERIES][2];
        half_sums(tile, panel, part, 0, 1, sums);
        for (uint32_t half = 0; half < 2; half++) {
            __m256i distance = _mm256_add_epi32(_mm256_set1_epi32(square),
                                                score(tile, panel, part + half, sums[0][half]));
            __m256 scaled = _mm256_mul_ps(_mm256_set1_ps(alpha), _mm256_cvtepi32_ps(distance));
            __m256 limit = _mm256_load_ps(limits + (size_t)(part + half) * EIGHTH);
            uint32_t within =
                (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(scaled, limit, _CMP_LE_OQ));
            mask |= within << (part + half) * EIGHTH;
        }
    }
    return mask;
}

static void lowest(const int32_t *scores, uint32_t width, int32_t *out)
{
    __m256i a = _mm256_load_si256((const void *)scores);
    __m256i b = _mm256_load_si256((const void *)(scores + EIGHTH));
    for (uint32_t i = TILE_SELECT_LANES; i < width; i += TILE_SELECT_LANES) {
        a = _mm256_min_epi32(a, _mm256_load_si256((const void *)(scores + i)));
        b = _mm256_min_epi32(b, _mm256_load_si256((const void *)(scores + i + EIGHTH)));
    }
    _mm256_store_si256((void *)out, a);
    _mm256_store_si256((void *)(out + EIGHTH), b);
}

/* A bit for each score that is more. */
ALWAYS_INLINE uint32_t beyond(const int32_t *scores, __m256i most)
{
    __m256i more = _mm256_cmpgt_epi32(_mm256_load_si256((const void *)scores), most);
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(more));
}

static uint32_t within(const int32_t *scores, int32_t most)
{
    __m256i limit = _mm256_set1_epi32(most);
    return ~(beyond(scores, limit) | beyond(scores + EIGHTH, limit) << EIGHTH) & 0xffff;
}

static uint32_t select_best(const int32_t *scores, uint32_t width, uint32_t k, uint32_t skip,
                            uint32_t *best)
{
    return tile_select_with(lowest, within, scores, width, k, skip, best);
}

const struct tile_kernels tile_avx2_kernels = {
    .fill = fill,
    .ask = ask,
    .scores = scores_compute,
    .select = select_best,
    .occluded = occluded,
};

#endif
