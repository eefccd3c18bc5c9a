/*
 * distance_avx512.c - kernels for AVX-512 F, BW, DQ, VL, for every element type.
 *
 * Integers are widened to 16 bits; vpmaddwd then multiplies and adds pairs into 32-bit lanes
 * exactly. Tails are masked loads, which neither touch nor fault on the bytes past the row.
 *
 * Floats, and i8s as such, keep the 32 lanes of distance.h in two registers a row. A missing tail
 * element must leave its lane alone, so the tail's multiply-add is masked too: adding 0 * 0 would
 * turn a lane of -0 into +0. Compiles to nothing elsewhere than x86-64. Pure functions.
 */
#include "common/distance_internal.h"

#if defined(__x86_64__)

enum { INTEGER_STEP = 64, FLOAT_STEP = DISTANCE_LANES }; /* elements */

/* 64 bytes widened to 16 bits: those at even and at odd addresses. Two shifts or masks do what
 * vpmovzx/vpmovsx would, without its lane-crossing shuffle (and clang 14 turns a difference of two
 * vpmovzx into something five times slower). The order of elements does not matter to a sum. */
struct halves {
    __m512i even, odd;
};

ALWAYS_INLINE struct halves halves_of(bool is_signed, __m512i bytes)
{
    if (is_signed)
        return (struct halves){_mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8),
                               _mm512_srai_epi16(bytes, 8)};
    return (struct halves){_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)),
                           _mm512_srli_epi16(bytes, 8)};
}

ALWAYS_INLINE __m512i integer_half_step(bool dot, __m512i sum, __m512i x, __m512i y)
{
    __m512i difference = _mm512_sub_epi16(x, y);
    __m512i product = dot ? _mm512_madd_epi16(x, y) : _mm512_madd_epi16(difference, difference);
    return _mm512_add_epi32(sum, product);
}

ALWAYS_INLINE __m512i integer_step(bool dot, __m512i sum, struct halves x, struct halves y)
{
    return integer_half_step(dot, integer_half_step(dot, sum, x.even, y.even), x.odd, y.odd);
}

/* Sums of `n` (1 or 4) rows; is_signed, dot and n are constants at every call. */
ALWAYS_INLINE void integer_accumulate(bool is_signed, bool dot, struct distance_query query,
                                      const unsigned char *const *rows, __m512i *sums, size_t n)
{
    DISTANCE_UNROLL
    for (size_t r = 0; r < n; r++)
        sums[r] = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + INTEGER_STEP <= query.dim; i += INTEGER_STEP) {
        struct halves x = halves_of(is_signed, _mm512_loadu_si512(query.elements + i));
        DISTANCE_UNROLL
        for (size_t r = 0; r < n; r++) {
            struct halves y = halves_of(is_signed, _mm512_loadu_si512(rows[r] + i));
            sums[r] = integer_step(dot, sums[r], x, y);
        }
    }
    if (i < query.dim) {
        __mmask64 mask = distance_tail_avx512(query.dim - i);
        struct halves x = halves_of(is_signed, _mm512_maskz_loadu_epi8(mask, query.elements + i));
        DISTANCE_UNROLL
        for (size_t r = 0; r < n; r++) {
            struct halves y = halves_of(is_signed, _mm512_maskz_loadu_epi8(mask, rows[r] + i));
            sums[r] = integer_step(dot, sums[r], x, y);
        }
    }
}

ALWAYS_INLINE void integer_group(bool is_signed, bool dot, struct distance_query query,
                                 const unsigned char *const *rows, float *out)
{
    __m512i sums[DISTANCE_GROUP];
    integer_accumulate(is_signed, dot, query, rows, sums, DISTANCE_GROUP);
    _mm_storeu_ps(out, _mm_cvtepi32_ps(distance_sums_avx512(sums)));
}

ALWAYS_INLINE float integer_single(bool is_signed, bool dot, struct distance_query query,
                                   const unsigned char *row)
{
    __m512i sum;
    integer_accumulate(is_signed, dot, query, &row, &sum, 1);
    return (float)_mm512_reduce_add_epi32(sum);
}

/* The 32 lanes of one row. */
struct lanes {
    __m512 low, high;
};

/* The first two levels of the tree: 16 + 16, 8 + 8, and the third, 4 + 4. */
ALWAYS_INLINE __m128 lanes_fold(struct lanes lanes)
{
    __m512 by_16 = _mm512_add_ps(lanes.low, lanes.high);
    __m256 by_8 = _mm256_add_ps(_mm512_castps512_ps256(by_16), _mm512_extractf32x8_ps(by_16, 1));
    return _mm_add_ps(_mm256_castps256_ps128(by_8), _mm256_extractf128_ps(by_8, 1));
}

/* 16 elements from the upper halves of f32, or as whole numbers times the vector's scale. */
ALWAYS_INLINE __m512 widen_bf16(__m256i elements)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(elements), 16));
}

ALWAYS_INLINE __m512 widen_i8s(__m128i elements, __m512 scale)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(elements)), scale);
}

/* `scale` is that of an i8s vector. */
ALWAYS_INLINE __m512 load_16(enum element_type type, __m512 scale, const unsigned char *elements,
                             size_t i)
{
    const unsigned char *from = elements + i * distance_element_bytes(type);
    if (type == ELEMENT_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)from));
    if (type == ELEMENT_BF16)
        return widen_bf16(_mm256_loadu_si256((const void *)from));
    if (type == ELEMENT_I8S)
        return widen_i8s(_mm_loadu_si128((const void *)from), scale);
    return _mm512_loadu_ps(from);
}

ALWAYS_INLINE __m512 load_tail(enum element_type type, __m512 scale, __mmask16 mask,
                               const unsigned char *from)
{
    if (type == ELEMENT_F16)
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
    if (type == ELEMENT_BF16)
        return widen_bf16(_mm256_maskz_loadu_epi16(mask, from));
    if (type == ELEMENT_I8S)
        return widen_i8s(_mm_maskz_loadu_epi8(mask, from), scale);
    return _mm512_maskz_loadu_ps(mask, from);
}

ALWAYS_INLINE __m512 float_step(bool dot, __m512 sum, __m512 x, __m512 y)
{
    __m512 difference = _mm512_sub_ps(x, y);
    return dot ? _mm512_fmadd_ps(x, y, sum) : _mm512_fmadd_ps(difference, difference, sum);
}

ALWAYS_INLINE __m512 float_step_tail(bool dot, __mmask16 mask, __m512 sum, __m512 x, __m512 y)
{
    __m512 difference = _mm512_sub_ps(x, y);
    return dot ? _mm512_mask3_fmadd_ps(x, y, sum, mask)
               : _mm512_mask3_fmadd_ps(difference, difference, sum, mask);
}

ALWAYS_INLINE __m512 scale_of(enum element_type type, const unsigned char *vector, size_t dim)
{
    return _mm512_set1_ps(distance_scale(type, vector, dim));
}

ALWAYS_INLINE struct lanes lanes_load_tail(enum element_type type, __m512 scale, __mmask64 mask,
                                           const unsigned char *elements, size_t i)
{
    const size_t bytes = distance_element_bytes(type);
    const __mmask16 low = (__mmask16)mask, high = (__mmask16)(mask >> 16);
    return (struct lanes){load_tail(type, scale, low, elements + i * bytes),
                          load_tail(type, scale, high, elements + (i + 16) * bytes)};
}

ALWAYS_INLINE void float_accumulate(struct distance_types types, bool dot,
                                    struct distance_query query, const unsigned char *const *rows,
                                    struct lanes *sums, size_t n)
{
    const __m512 query_scale = scale_of(types.query, query.elements, query.dim);
    __m512 scales[DISTANCE_GROUP];
    DISTANCE_UNROLL
    for (size_t r = 0; r < n; r++) {
        sums[r].low = sums[r].high = _mm512_setzero_ps();
        scales[r] = scale_of(types.row, rows[r], query.dim);
    }
    size_t i = 0;
    for (; i + FLOAT_STEP <= query.dim; i += FLOAT_STEP) {
        __m512 low = load_16(types.query, query_scale, query.elements, i);
        __m512 high = load_16(types.query, query_scale, query.elements, i + 16);
        DISTANCE_UNROLL
        for (size_t r = 0; r < n; r++) {
            __m512 row_low = load_16(types.row, scales[r], rows[r], i);
            __m512 row_high = load_16(types.row, scales[r], rows[r], i + 16);
            sums[r].low = float_step(dot, sums[r].low, low, row_low);
            sums[r].high = float_step(dot, sums[r].high, high, row_high);
        }
    }
    if (i < query.dim) {
        __mmask64 mask = distance_tail_avx512(query.dim - i);
        __mmask16 low = (__mmask16)mask, high = (__mmask16)(mask >> 16);
        struct lanes q = lanes_load_tail(types.query, query_scale, mask, query.elements, i);
        DISTANCE_UNROLL
        for (size_t r = 0; r < n; r++) {
            struct lanes row = lanes_load_tail(types.row, scales[r], mask, rows[r], i);
            sums[r].low = float_step_tail(dot, low, sums[r].low, q.low, row.low);
            sums[r].high = float_step_tail(dot, high, sums[r].high, q.high, row.high);
        }
    }
}

/* The last two levels, 2 + 2 and 1 + 1, for four rows at once by transposing them. */
ALWAYS_INLINE void float_group(struct distance_types types, bool dot, struct distance_query query,
                               const unsigned char *const *rows, float *out)
{
    struct lanes sums[DISTANCE_GROUP];
    float_accumulate(types, dot, query, rows, sums, DISTANCE_GROUP);
    __m128 a = lanes_fold(sums[0]), b = lanes_fold(sums[1]);
    __m128 c = lanes_fold(sums[2]), d = lanes_fold(sums[3]);
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)));
}

ALWAYS_INLINE float float_single(struct distance_types types, bool dot, struct distance_query query,
                                 const unsigned char *row)
{
    struct lanes sum;
    float_accumulate(types, dot, query, &row, &sum, 1);
    __m128 by_4 = lanes_fold(sum);
    __m128 by_2 = _mm_add_ps(by_4, _mm_movehl_ps(by_4, by_4));
    return _mm_cvtss_f32(_mm_add_ss(by_2, _mm_movehdup_ps(by_2)));
}

#define AVX512_DEFINE(NAME, family, flag, dot, type)                                               \
    DISTANCE_PART void NAME##_group(struct distance_query query,                                   \
                                    const unsigned char *const rows[DISTANCE_GROUP], float *out)   \
    {                                                                                              \
        family##_group(flag, dot, query, rows, out);                                               \
    }                                                                                              \
    DISTANCE_PART float NAME##_single(struct distance_query query, const unsigned char *row)       \
    {                                                                                              \
        return family##_single(flag, dot, query, row);                                             \
    }                                                                                              \
    DISTANCE_DEFINE(NAME, NULL, type)

AVX512_DEFINE(u8_l2sq, integer, false, false, ELEMENT_U8)
AVX512_DEFINE(u8_dot, integer, false, true, ELEMENT_U8)
AVX512_DEFINE(i8_l2sq, integer, true, false, ELEMENT_I8)
AVX512_DEFINE(i8_dot, integer, true, true, ELEMENT_I8)

#define AVX512_DEFINE_FLOATS(NAME, query_type, row_type)                                           \
    static const struct distance_types NAME##_types = {query_type, row_type};                      \
    AVX512_DEFINE(NAME##_l2sq, float, NAME##_types, false, row_type)                               \
    AVX512_DEFINE(NAME##_dot, float, NAME##_types, true, row_type)

DISTANCE_DEFINE_FLOATS(AVX512_DEFINE_FLOATS)

const struct distance_kernels distance_avx512_kernels[DISTANCE_TYPES] = DISTANCE_TABLE;

#endif
