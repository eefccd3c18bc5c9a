/*
 * tile_vnni.c - tiles with AVX-512 VNNI: 16 rows and 64 products an instruction.
 *
 * Eight queries against one panel keep 16 sums in registers; the query's four bytes are broadcast
 * from memory by the instruction itself, so that a chunk costs two loads and 16 multiplications.
 *
 * Pure functions but for what they fill in.
 */
#include "builder/tile_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>

enum { HALF = 16 /* rows of a panel in one register */, STEP_CHUNKS = 16 /* of 64 bytes */ };

ALWAYS_INLINE __m512i all_minus_128(void)
{
    return _mm512_set1_epi8(-128);
}

/* Columns of 16 rows, 64 bytes of each: chunk c of all of them goes to out + c * stride. */
ALWAYS_INLINE void transpose(const uint8_t *const rows[HALF], size_t offset, __m512i flip,
                             uint8_t *out)
{
    __m512i a[HALF];
    __m512i b[HALF];
#pragma GCC unroll 16
    for (int i = 0; i < HALF; i++)
        a[i] = rows[i] ? _mm512_xor_si512(flip, _mm512_loadu_si512(rows[i] + offset))
                       : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < HALF; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < HALF; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    /* a[4 g + j] has column j + 4 l of rows 4 g .. 4 g + 3 in its 128-bit lane l. */
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        b[j] = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
        b[4 + j] = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
        b[8 + j] = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
        b[12 + j] = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        uint8_t *column = out + j * TILE_COLUMN_BYTES;
        _mm512_store_si512(column, _mm512_shuffle_i32x4(b[j], b[8 + j], 0x88));
        _mm512_store_si512(column + 4 * TILE_COLUMN_BYTES,
                           _mm512_shuffle_i32x4(b[4 + j], b[12 + j], 0x88));
        _mm512_store_si512(column + 8 * TILE_COLUMN_BYTES,
                           _mm512_shuffle_i32x4(b[j], b[8 + j], 0xdd));
        _mm512_store_si512(column + 12 * TILE_COLUMN_BYTES,
                           _mm512_shuffle_i32x4(b[4 + j], b[12 + j], 0xdd));
    }
}

/* |x|^2 = sum u (u - 128) + 128 sum u, of 16 rows; and the bias. */
static void sums_fill(struct tile *tile, uint32_t panel, uint32_t half)
{
    const uint8_t *column = tile_panel(tile, panel) + half * 64;
    __m512i product = _mm512_setzero_si512();
    __m512i linear = _mm512_setzero_si512();
    for (uint32_t c = 0; c < tile->chunks; c++, column += TILE_COLUMN_BYTES) {
        __m512i u = _mm512_load_si512(column);
        product = _mm512_dpbusd_epi32(product, u, _mm512_xor_si512(u, all_minus_128()));
        linear = _mm512_dpbusd_epi32(linear, u, _mm512_set1_epi8(1));
    }
    __m512i square = _mm512_add_epi32(product, _mm512_slli_epi32(linear, 7));
    size_t row = panel * TILE_PANEL_ROWS + half * HALF;
    _mm512_storeu_si512(tile->squares + row, square);
    _mm512_storeu_si512(tile->biases + row, _mm512_sub_epi32(square, _mm512_slli_epi32(linear, 8)));
}

static void fill(struct tile *tile, uint32_t panel, const uint8_t *const rows[TILE_PANEL_ROWS],
                 size_t stride_bytes, uint8_t flip)
{
    /* Whole lines of a row may be read, even where it ends before. */
    uint32_t transposed = stride_bytes % 64 == 0 ? tile->chunks : 0;
    __m512i flips = _mm512_set1_epi8((char)flip);
    for (uint32_t c = 0; c < transposed; c += STEP_CHUNKS)
        for (uint32_t half = 0; half < 2; half++)
            transpose(rows + half * HALF, (size_t)c * TILE_CHUNK_BYTES, flips,
                      tile_panel(tile, panel) + (size_t)c * TILE_COLUMN_BYTES + half * 64);
    if (transposed == 0)
        tile_fill_chunks(tile, panel, rows, flip, 0);
    sums_fill(tile, panel, 0);
    sums_fill(tile, panel, 1);
    tile_fill_far(tile, panel, rows);
}

static void ask(struct tile *tile, uint32_t slot, const uint8_t *row, uint8_t flip)
{
    uint8_t *query = tile_query(tile, slot);
    size_t bytes = (size_t)tile->chunks * TILE_CHUNK_BYTES;
    __m512i flips = _mm512_set1_epi8((char)(flip ^ 0x80));
    for (size_t i = 0; i < bytes; i += 64) {
        __mmask64 mask = bytes - i >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (bytes - i)) - 1;
        __m512i loaded = _mm512_maskz_loadu_epi8(mask, row + i);
        _mm512_mask_storeu_epi8(query + i, mask, _mm512_xor_si512(loaded, flips));
    }
}

/* Four bytes of a query, in every lane. */
ALWAYS_INLINE __m512i query_chunk(const uint8_t *query, uint32_t chunk)
{
    return _mm512_set1_epi32(((const int32_t *)(const void *)query)[chunk]);
}

/* Scores of `n` queries, 1 or 8 and a constant at every call, for one panel. */
ALWAYS_INLINE void panel_scores(const struct tile *tile, uint32_t panel, int32_t *scores, size_t n)
{
    const uint8_t *column = tile_panel(tile, panel);
    size_t width = tile_width(tile);
    __m512i low[TILE_QUERIES_MAX];
    __m512i high[TILE_QUERIES_MAX];
#pragma GCC unroll 8
    for (size_t q = 0; q < n; q++)
        low[q] = high[q] = _mm512_setzero_si512();
    for (uint32_t c = 0; c < tile->chunks; c++, column += TILE_COLUMN_BYTES) {
        __m512i x = _mm512_load_si512(column);
        __m512i y = _mm512_load_si512(column + 64);
#pragma GCC unroll 8
        for (size_t q = 0; q < n; q++) {
            __m512i s = query_chunk(tile_query(tile, (uint32_t)q), c);
            low[q] = _mm512_dpbusd_epi32(low[q], x, s);
            high[q] = _mm512_dpbusd_epi32(high[q], y, s);
        }
    }
    __m512i bias_low = _mm512_loadu_si512(tile->biases + panel * TILE_PANEL_ROWS);
    __m512i bias_high = _mm512_loadu_si512(tile->biases + panel * TILE_PANEL_ROWS + HALF);
#pragma GCC unroll 8
    for (size_t q = 0; q < n; q++) {
        int32_t *out = scores + q * width + panel * TILE_PANEL_ROWS;
        _mm512_store_si512(out, _mm512_sub_epi32(bias_low, _mm512_slli_epi32(low[q], 1)));
        _mm512_store_si512(out + HALF, _mm512_sub_epi32(bias_high, _mm512_slli_epi32(high[q], 1)));
    }
}

static void scores_compute(const struct tile *tile, uint32_t count, int32_t *scores)
{
    if (count == TILE_QUERIES_MAX) {
        for (uint32_t panel = 0; panel < tile->panels; panel++)
            panel_scores(tile, panel, scores, TILE_QUERIES_MAX);
        return;
    }
    struct tile one = *tile; /* the last few queries of many: one at a time */
    for (uint32_t q = 0; q < count; q++, one.queries += tile->query_bytes)
        for (uint32_t panel = 0; panel < tile->panels; panel++)
            panel_scores(&one, panel, scores + (size_t)q * tile_width(tile), 1);
}

static uint32_t occluded(const struct tile *tile, uint32_t panel, int32_t square, float alpha,
                         const float *limits)
{
    const uint8_t *column = tile_panel(tile, panel);
    const uint8_t *query = tile_query(tile, 0);
    /* Even and odd chunks apart: four chains hide the latency of the multiplication. */
    __m512i low[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    __m512i high[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    uint32_t c = 0;
    for (; c + 2 <= tile->chunks; c += 2, column += 2 * TILE_COLUMN_BYTES)
#pragma GCC unroll 2
        for (uint32_t i = 0; i < 2; i++) {
            const uint8_t *at = column + (size_t)i * TILE_COLUMN_BYTES;
            __m512i s = query_chunk(query, c + i);
            low[i] = _mm512_dpbusd_epi32(low[i], _mm512_load_si512(at), s);
            high[i] = _mm512_dpbusd_epi32(high[i], _mm512_load_si512(at + 64), s);
        }
    if (c < tile->chunks) {
        __m512i s = query_chunk(query, c);
        low[0] = _mm512_dpbusd_epi32(low[0], _mm512_load_si512(column), s);
        high[0] = _mm512_dpbusd_epi32(high[0], _mm512_load_si512(column + 64), s);
    }
    uint32_t mask = 0;
    for (uint32_t half = 0; half < 2; half++) {
        __m512i sum = half ? _mm512_add_epi32(high[0], high[1]) : _mm512_add_epi32(low[0], low[1]);
        __m512i bias =
            _mm512_loadu_si512(tile->biases + panel * TILE_PANEL_ROWS + (size_t)half * HALF);
        __m512i distance = _mm512_add_epi32(_mm512_set1_epi32(square),
                                            _mm512_sub_epi32(bias, _mm512_slli_epi32(sum, 1)));
        __m512 scaled = _mm512_mul_ps(_mm512_set1_ps(alpha), _mm512_cvtepi32_ps(distance));
        __m512 limit = _mm512_load_ps(limits + (size_t)half * HALF);
        mask |= (uint32_t)_mm512_cmp_ps_mask(scaled, limit, _CMP_LE_OQ) << half * HALF;
    }
    return mask;
}

ALWAYS_INLINE __m512i lowest_of(const int32_t *scores, uint32_t width)
{
    __m512i least = _mm512_load_si512(scores);
    for (uint32_t i = HALF; i < width; i += HALF)
        least = _mm512_min_epi32(least, _mm512_load_si512(scores + i));
    return least;
}

static void lowest(const int32_t *scores, uint32_t width, int32_t *out)
{
    _mm512_store_si512(out, lowest_of(scores, width));
}

/* The k-th least of `values`, 1 <= k <= 16: the most of those that fewer than k are less than. */
ALWAYS_INLINE int32_t kth_least(__m512i values, uint32_t k)
{
    const __m512i one = _mm512_set1_epi32(1);
    __m512i less = _mm512_setzero_si512();
#define COUNT(n)                                                                                   \
    less = _mm512_mask_add_epi32(                                                                  \
        less, _mm512_cmplt_epi32_mask(_mm512_alignr_epi32(values, values, n), values), less, one)
    COUNT(1);
    COUNT(2);
    COUNT(3);
    COUNT(4);
    COUNT(5);
    COUNT(6);
    COUNT(7);
    COUNT(8);
    COUNT(9);
    COUNT(10);
    COUNT(11);
    COUNT(12);
    COUNT(13);
    COUNT(14);
    COUNT(15);
#undef COUNT
    __mmask16 among = _mm512_cmplt_epi32_mask(less, _mm512_set1_epi32((int)k));
    return _mm512_mask_reduce_max_epi32(among, values);
}

/* The first up to HALF places within `most`; more than HALF is returned if there are more. */
ALWAYS_INLINE uint32_t places_within(const int32_t *scores, uint32_t width, int32_t most,
                                     uint32_t skip, int32_t *found_scores, int32_t *found_places)
{
    const __m512i limit = _mm512_set1_epi32(most);
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t found = 0;
    for (uint32_t i = 0; i < width && found <= HALF; i += HALF) {
        __m512i here = _mm512_load_si512(scores + i);
        __mmask16 mask = _mm512_cmple_epi32_mask(here, limit);
        if (mask != 0) {
            mask &= (__mmask16)~_mm512_cmpeq_epi32_mask(places, _mm512_set1_epi32((int)skip));
            _mm512_storeu_si512(found_scores + found, _mm512_maskz_compress_epi32(mask, here));
            _mm512_storeu_si512(found_places + found, _mm512_maskz_compress_epi32(mask, places));
            found += (uint32_t)_mm_popcnt_u32(mask);
        }
        places = _mm512_add_epi32(places, _mm512_set1_epi32(HALF));
    }
    return found;
}

static uint32_t within(const int32_t *scores, int32_t most)
{
    return _mm512_cmple_epi32_mask(_mm512_load_si512(scores), _mm512_set1_epi32(most));
}

static uint32_t select_best(const int32_t *scores, uint32_t width, uint32_t k, uint32_t skip,
                            uint32_t *best)
{
    int32_t scores_found[2 * HALF + 1];
    int32_t places_found[2 * HALF + 1];
    uint32_t wanted = k + (skip != TILE_NONE);
    if (wanted > HALF)
        return tile_select_with(lowest, within, scores, width, k, skip, best);
    int32_t most = MIN(kth_least(lowest_of(scores, width), wanted), TILE_FAR - 1);
    uint32_t found = places_within(scores, width, most, skip, scores_found, places_found);
    if (found > HALF) /* many at one distance */
        return tile_select_with(lowest, within, scores, width, k, skip, best);
    __mmask16 mask = (__mmask16)((1u << found) - 1);
    if (found > k) {
        __m512i values = _mm512_mask_loadu_epi32(_mm512_set1_epi32(INT32_MAX), mask, scores_found);
        __m512i limit = _mm512_set1_epi32(kth_least(values, k));
        __mmask16 less = _mm512_cmplt_epi32_mask(values, limit);
        uint32_t equal = _mm512_cmpeq_epi32_mask(values, limit);
        for (uint32_t spare = k - (uint32_t)_mm_popcnt_u32(less); spare > 0; spare--) {
            less |= (__mmask16)(equal & -equal); /* the first ones */
            equal &= equal - 1;
        }
        mask = less;
        found = k;
    }
    __m512i places = _mm512_maskz_compress_epi32(mask, _mm512_loadu_si512(places_found));
    _mm512_mask_storeu_epi32(best, (__mmask16)((1u << found) - 1), places);
    return found;
}

const struct tile_kernels tile_vnni_kernels = {
    .fill = fill,
    .ask = ask,
    .scores = scores_compute,
    .select = select_best,
    .occluded = occluded,
};

#endif
