/*
 * codec_scalar_avx2.c - estimates from scalar codes with AVX2: four codes at a time, as summing 8
 * registers across costs little more than summing one.
 *
 * Products are summed in 16 bits first: 15 * 127 twice is 3810, and the four of a chunk fit.
 *
 * Pure.
 */
#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "common/codec_scalar_internal.h"

enum {
    GROUP = 4,         /* codes at a time */
    GATHER_AHEAD = 16, /* 16 codes of 5 ns cover most of the latency of DRAM */
    SUMS = 2 * GROUP,  /* what the float part takes: GROUP dots, GROUP norms */
    PARTS = 4,         /* registers of a chunk's values */
};

/* The PARTS x 32 values of a whole chunk, in the order of the query. */
ALWAYS_INLINE void unpack_chunk(const uint8_t *code, int bits, __m256i u[PARTS])
{
    const __m256i top = _mm256_set1_epi8((char)((1 << bits) - 1));
    if (bits == 4) {
        for (int i = 0; i < 2; i++) {
            const __m256i bytes = _mm256_loadu_si256((const void *)(code + 32 * i));
            u[i] = _mm256_and_si256(bytes, top);
            u[2 + i] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), top);
        }
    } else if (bits == 2) {
        const __m256i bytes = _mm256_loadu_si256((const void *)code);
        for (int i = 0; i < PARTS; i++)
            u[i] = _mm256_and_si256(_mm256_srli_epi16(bytes, 2 * i), top);
    } else {
        const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)code));
        const __m256i pairs = _mm256_srlv_epi32(bytes, _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0));
        for (int i = 0; i < PARTS; i++)
            u[i] = _mm256_and_si256(_mm256_srli_epi16(pairs, 2 * i), top);
    }
}

struct sums {
    __m256i dot, norm; /* <u, query>, <u, u - M> */
};

ALWAYS_INLINE struct sums add_chunk(struct sums sums, const uint8_t *code, const int8_t *query,
                                    int bits)
{
    const __m256i top = _mm256_set1_epi8((char)((1 << bits) - 1));
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i u[PARTS], dot = _mm256_setzero_si256(), norm = dot;
    unpack_chunk(code, bits, u);
    for (int i = 0; i < PARTS; i++) {
        const __m256i part = _mm256_load_si256((const void *)(query + 32 * i));
        dot = _mm256_add_epi16(dot, _mm256_maddubs_epi16(u[i], part));
        if (bits > 1) /* u (u - 1) is 0 */
            norm = _mm256_add_epi16(norm, _mm256_maddubs_epi16(u[i], _mm256_sub_epi8(u[i], top)));
    }
    sums.dot = _mm256_add_epi32(sums.dot, _mm256_madd_epi16(dot, ones));
    if (bits > 1)
        sums.norm = _mm256_add_epi32(sums.norm, _mm256_madd_epi16(norm, ones));
    return sums;
}

ALWAYS_INLINE struct sums sum_code(const struct codec_scalar_table *table, const uint8_t *code,
                                   int bits, bool one_chunk)
{
    const size_t chunk_bytes = (size_t)bits * 16;
    const int8_t *query = table->query;
    struct sums sums = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    if (one_chunk)
        return add_chunk(sums, code, query, bits);
    for (uint32_t c = 0; c < table->chunks; c++) {
        sums = add_chunk(sums, code, query, bits);
        code += chunk_bytes;
        query += CODEC_SCALAR_CHUNK;
    }
    if (table->tail == 0)
        return sums;
    uint8_t filled[64] = {0};
    memcpy(filled, code, table->tail);
    return add_chunk(sums, filled, query, bits);
}

ALWAYS_INLINE __m256i add_unpacked_32(__m256i a, __m256i b)
{
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}

ALWAYS_INLINE __m256i add_unpacked_64(__m256i a, __m256i b)
{
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

/* Lane i of the result is the sum of all lanes of sums[i]. */
ALWAYS_INLINE __m256i sum_across(const __m256i sums[SUMS])
{
    const __m256i low =
        add_unpacked_64(add_unpacked_32(sums[0], sums[1]), add_unpacked_32(sums[2], sums[3]));
    const __m256i high =
        add_unpacked_64(add_unpacked_32(sums[4], sums[5]), add_unpacked_32(sums[6], sums[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                            _mm256_permute2x128_si256(low, high, 0x31));
}

ALWAYS_INLINE __m128 load_factors(const uint8_t *const codes[GROUP], size_t offset)
{
    uint16_t halves[GROUP];
    for (int i = 0; i < GROUP; i++)
        memcpy(&halves[i], codes[i] + offset, sizeof(halves[i]));
    return _mm_cvtph_ps(_mm_set_epi16(0, 0, 0, 0, (short)halves[3], (short)halves[2],
                                      (short)halves[1], (short)halves[0]));
}

ALWAYS_INLINE __m128 estimate_group(const struct codec_scalar_table *table,
                                    const uint8_t *const codes[GROUP], int bits, bool one_chunk)
{
    __m256i sums[SUMS];
#pragma GCC unroll 4
    for (int i = 0; i < GROUP; i++) {
        const struct sums code = sum_code(table, codes[i], bits, one_chunk);
        sums[i] = code.dot;
        sums[GROUP + i] = code.norm;
    }
    const __m256i totals = sum_across(sums);
    const __m128i dots = _mm_add_epi32(_mm_slli_epi32(_mm256_castsi256_si128(totals), 1),
                                       _mm_set1_epi32(table->dot_base));
    const __m128i norms = _mm_add_epi32(_mm_slli_epi32(_mm256_extracti128_si256(totals, 1), 2),
                                        _mm_set1_epi32(table->norm_base));
    const __m128 factor = load_factors(codes, table->code_bytes - CODEC_SCALAR_FACTOR_BYTES);
    const __m128 linear =
        _mm_mul_ps(_mm_set1_ps(table->linear), _mm_mul_ps(factor, _mm_cvtepi32_ps(dots)));
    const __m128 square = _mm_mul_ps(
        _mm_set1_ps(table->square), _mm_mul_ps(_mm_mul_ps(factor, factor), _mm_cvtepi32_ps(norms)));
    const __m128 distance = _mm_add_ps(_mm_sub_ps(_mm_set1_ps(table->base), linear), square);
    /* Of a NaN and 0 the second is taken. */
    return _mm_add_ps(_mm_max_ps(distance, _mm_setzero_ps()), _mm_set1_ps(table->offset));
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
        _mm_storeu_ps(out + done, estimate_group(table, group, bits, one_chunk));
    }
    if (done == count)
        return;
    /* The last group is filled up with its first code. */
    float last[GROUP];
    for (size_t i = 0; i < GROUP; i++)
        group[i] = codes + (size_t)ids[done + i < count ? done + i : done] * bytes;
    _mm_storeu_ps(last, estimate_group(table, group, bits, one_chunk));
    memcpy(out + done, last, (count - done) * sizeof(*out));
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

const struct codec_scalar_kernels codec_scalar_kernels_avx2 = {
    .gather = {[1] = gather_1, [2] = gather_2, [4] = gather_4},
};
#endif
