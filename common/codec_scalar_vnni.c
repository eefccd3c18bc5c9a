/*
 * codec_scalar_vnni.c - estimates from scalar codes with AVX-512 VNNI: eight codes at a time, as
 * summing 16 registers across costs little more than summing one.
 *
 * Pure.
 */
#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "common/codec_scalar_internal.h"

enum {
    GROUP = 8,         /* codes at a time */
    GATHER_AHEAD = 24, /* 24 codes of 3 ns cover most of the latency of DRAM */
    SUMS = 2 * GROUP,  /* what the float part takes: GROUP dots, GROUP norms */
};

/* The chunk's bits, once for each of those shifts that one register holds. */
ALWAYS_INLINE __m512i spread(const uint8_t *code, size_t bytes, int bits)
{
    const __mmask64 mask = bytes < 64 ? (UINT64_C(1) << bytes) - 1 : ~UINT64_C(0);
    const bool whole = bytes == (size_t)bits * 16;
    if (bits == 4)
        return whole ? _mm512_loadu_si512(code) : _mm512_maskz_loadu_epi8(mask, code);
    if (bits == 2) {
        const __m256i half = whole ? _mm256_loadu_si256((const void *)code)
                                   : _mm256_maskz_loadu_epi8((__mmask32)mask, code);
        return _mm512_broadcast_i64x4(half);
    }
    const __m128i quarter =
        whole ? _mm_loadu_si128((const void *)code) : _mm_maskz_loadu_epi8((__mmask16)mask, code);
    return _mm512_broadcast_i32x4(quarter);
}

/* How far the parts of a register are shifted to get the first 64 values of a chunk; the others are
 * 4 bits on. */
ALWAYS_INLINE __m512i first_shifts(int bits)
{
    if (bits == 4)
        return _mm512_setzero_si512();
    if (bits == 2)
        return _mm512_set_epi64(2, 2, 2, 2, 0, 0, 0, 0);
    return _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0);
}

struct sums {
    __m512i dot, norm; /* <u, query>, <u, u - M> */
};

ALWAYS_INLINE struct sums add_chunk(struct sums sums, const uint8_t *code, size_t bytes,
                                    const int8_t *query, int bits)
{
    const __m512i top = _mm512_set1_epi8((char)((1 << bits) - 1));
    const __m512i loaded = spread(code, bytes, bits);
    const __m512i shifted = bits == 4 ? loaded : _mm512_srlv_epi64(loaded, first_shifts(bits));
    const __m512i low = _mm512_and_si512(shifted, top);
    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(shifted, 4), top);
    sums.dot = _mm512_dpbusd_epi32(sums.dot, low, _mm512_load_si512(query));
    sums.dot = _mm512_dpbusd_epi32(sums.dot, high, _mm512_load_si512(query + 64));
    if (bits > 1) { /* u (u - 1) is 0 */
        sums.norm = _mm512_dpbusd_epi32(sums.norm, low, _mm512_sub_epi8(low, top));
        sums.norm = _mm512_dpbusd_epi32(sums.norm, high, _mm512_sub_epi8(high, top));
    }
    return sums;
}

ALWAYS_INLINE struct sums sum_code(const struct codec_scalar_table *table, const uint8_t *code,
                                   int bits, bool one_chunk)
{
    const size_t chunk_bytes = (size_t)bits * 16;
    const int8_t *query = table->query;
    struct sums sums = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    if (one_chunk)
        return add_chunk(sums, code, chunk_bytes, query, bits);
    for (uint32_t c = 0; c < table->chunks; c++) {
        sums = add_chunk(sums, code, chunk_bytes, query, bits);
        code += chunk_bytes;
        query += CODEC_SCALAR_CHUNK;
    }
    return table->tail > 0 ? add_chunk(sums, code, table->tail, query, bits) : sums;
}

ALWAYS_INLINE __m512i add_unpacked_32(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

ALWAYS_INLINE __m512i add_unpacked_64(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Lane i of the result is the sum of all lanes of sums[i]: the columns of a transposed matrix,
 * added while it is transposed. */
ALWAYS_INLINE __m512i sum_across(const __m512i sums[SUMS])
{
    __m512i quads[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        quads[i] = add_unpacked_64(add_unpacked_32(sums[4 * i], sums[4 * i + 1]),
                                   add_unpacked_32(sums[4 * i + 2], sums[4 * i + 3]));
    const __m512i low = _mm512_add_epi32(_mm512_shuffle_i32x4(quads[0], quads[1], 0x44),
                                         _mm512_shuffle_i32x4(quads[0], quads[1], 0xee));
    const __m512i high = _mm512_add_epi32(_mm512_shuffle_i32x4(quads[2], quads[3], 0x44),
                                          _mm512_shuffle_i32x4(quads[2], quads[3], 0xee));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(low, high, 0x88),
                            _mm512_shuffle_i32x4(low, high, 0xdd));
}

ALWAYS_INLINE __m256 load_factors(const uint8_t *const codes[GROUP], size_t offset)
{
    uint16_t halves[GROUP];
    for (int i = 0; i < GROUP; i++)
        memcpy(&halves[i], codes[i] + offset, sizeof(halves[i]));
    return _mm256_cvtph_ps(_mm_set_epi16((short)halves[7], (short)halves[6], (short)halves[5],
                                         (short)halves[4], (short)halves[3], (short)halves[2],
                                         (short)halves[1], (short)halves[0]));
}

ALWAYS_INLINE __m256 estimate_group(const struct codec_scalar_table *table,
                                    const uint8_t *const codes[GROUP], int bits, bool one_chunk)
{
    __m512i sums[SUMS];
#pragma GCC unroll 8
    for (int i = 0; i < GROUP; i++) {
        const struct sums code = sum_code(table, codes[i], bits, one_chunk);
        sums[i] = code.dot;
        sums[GROUP + i] = code.norm;
    }
    const __m512i totals = sum_across(sums);
    const __m256i dots = _mm256_add_epi32(_mm256_slli_epi32(_mm512_castsi512_si256(totals), 1),
                                          _mm256_set1_epi32(table->dot_base));
    const __m256i norms =
        _mm256_add_epi32(_mm256_slli_epi32(_mm512_extracti64x4_epi64(totals, 1), 2),
                         _mm256_set1_epi32(table->norm_base));
    const __m256 factor = load_factors(codes, table->code_bytes - CODEC_SCALAR_FACTOR_BYTES);
    const __m256 linear = _mm256_mul_ps(_mm256_set1_ps(table->linear),
                                        _mm256_mul_ps(factor, _mm256_cvtepi32_ps(dots)));
    const __m256 square =
        _mm256_mul_ps(_mm256_set1_ps(table->square),
                      _mm256_mul_ps(_mm256_mul_ps(factor, factor), _mm256_cvtepi32_ps(norms)));
    const __m256 distance =
        _mm256_add_ps(_mm256_sub_ps(_mm256_set1_ps(table->base), linear), square);
    /* Of a NaN and 0 the second is taken. */
    return _mm256_add_ps(_mm256_max_ps(distance, _mm256_setzero_ps()),
                         _mm256_set1_ps(table->offset));
}

ALWAYS_INLINE void gather(const struct codec_scalar_table *table, int bits, bool one_chunk,
                          const uint8_t *codes, const uint32_t *ids, size_t count, float *out)
{
    const size_t bytes = table->code_bytes;
    const uint8_t *group[GROUP];
    for (size_t i = 0; i < count && i < GATHER_AHEAD; i++)
        codec_prefetch(codes + (size_t)ids[i] * bytes, bytes);
    size_t done = 0;
    for (; done + GROUP <= count; done += GROUP) {
        for (size_t i = done + GATHER_AHEAD; i < MIN(count, done + GATHER_AHEAD + GROUP); i++)
            codec_prefetch(codes + (size_t)ids[i] * bytes, bytes);
        for (size_t i = 0; i < GROUP; i++)
            group[i] = codes + (size_t)ids[done + i] * bytes;
        _mm256_storeu_ps(out + done, estimate_group(table, group, bits, one_chunk));
    }
    if (done == count)
        return;
    /* The last group is filled up with its first code. */
    const __mmask8 rest = (__mmask8)((1u << (count - done)) - 1);
    for (size_t i = 0; i < GROUP; i++)
        group[i] = codes + (size_t)ids[done + i < count ? done + i : done] * bytes;
    _mm256_mask_storeu_ps(out + done, rest, estimate_group(table, group, bits, one_chunk));
}

#define DEFINE_GATHER(bits)                                                                        \
    static void gather_##bits(const struct codec_scalar_table *table, const uint8_t *codes,        \
                              const uint32_t *ids, size_t count, float *out)                       \
    {                                                                                              \
        if (table->chunks == 1 && table->tail == 0)                                                \
            gather(table, bits, true, codes, ids, count, out);                                     \
        else                                                                                       \
            gather(table, bits, false, codes, ids, count, out);                                    \
    }

DEFINE_GATHER(1)
DEFINE_GATHER(2)
DEFINE_GATHER(4)

const struct codec_scalar_kernels codec_scalar_kernels_vnni = {
    .gather = {[1] = gather_1, [2] = gather_2, [4] = gather_4},
};
#endif
