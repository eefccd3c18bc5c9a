/*
 * distance_avx2.c - kernels for AVX2 with FMA and F16C, for every element type.
 *
 * Integers are widened to 16 bits; vpmaddwd then multiplies and adds pairs into 32-bit lanes
 * exactly. Floats, and i8s as such, keep the 32 lanes of distance.h in four registers a row; a
 * missing tail element leaves its lane as it was by a blend, since adding 0 * 0 would turn a lane
 * of -0 into +0.
 *
 * AVX2 has no masked byte loads: a partial register of bytes is assembled by loads that overlap
 * inside the row, so nothing past it is touched. Compiles to nothing elsewhere than x86-64. Pure
 * functions.
 */
#include <string.h>

#include "common/distance_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>

enum { INTEGER_STEP = 16, FLOAT_STEP = DISTANCE_LANES, OCTET = 8 }; /* elements */

/* The first `count` < 16 bytes, zeroes behind them. */
ALWAYS_INLINE __m128i load_partial(const unsigned char *bytes, size_t count)
{
    uint64_t low = 0, high = 0;
    if (count >= 8) {
        memcpy(&low, bytes, 8);
        memcpy(&high, bytes + count - 8, 8);
        /* Bring the bytes from 8 on to the front; two shifts, as one by 64 is undefined. */
        high = high >> (4 * (16 - count)) >> (4 * (16 - count));
    } else if (count >= 4) {
        uint32_t head, end;
        memcpy(&head, bytes, 4);
        memcpy(&end, bytes + count - 4, 4);
        low = head | (uint64_t)end << (8 * (count - 4));
    } else if (count > 0) {
        /* 1 to 3: the first, middle and last byte may coincide. */
        low = bytes[0] | (uint64_t)bytes[count / 2] << (8 * (count / 2)) |
              (uint64_t)bytes[count - 1] << (8 * (count - 1));
    }
    return _mm_set_epi64x((int64_t)high, (int64_t)low);
}

ALWAYS_INLINE __m256i widen(bool is_signed, __m128i bytes)
{
    return is_signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
}

ALWAYS_INLINE __m256i integer_step(bool dot, __m256i sum, __m256i x, __m256i y)
{
    __m256i difference = _mm256_sub_epi16(x, y);
    __m256i product = dot ? _mm256_madd_epi16(x, y) : _mm256_madd_epi16(difference, difference);
    return _mm256_add_epi32(sum, product);
}

/* Sums of `n` (1 or 4) rows; is_signed, dot and n are constants at every call. */
ALWAYS_INLINE void integer_accumulate(bool is_signed, bool dot, struct distance_query query,
                                      const unsigned char *const *rows, __m256i *sums, size_t n)
{
    DISTANCE_UNROLL
    for (size_t r = 0; r < n; r++)
        sums[r] = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + INTEGER_STEP <= query.dim; i += INTEGER_STEP) {
        __m256i x = widen(is_signed, _mm_loadu_si128((const void *)(query.elements + i)));
        DISTANCE_UNROLL
        for (size_t r = 0; r < n; r++) {
            __m256i y = widen(is_signed, _mm_loadu_si128((const void *)(rows[r] + i)));
            sums[r] = integer_step(dot, sums[r], x, y);
        }
    }
    if (i < query.dim) {
        size_t count = query.dim - i;
        __m256i x = widen(is_signed, load_partial(query.elements + i, count));
        for (size_t r = 0; r < n; r++) {
            __m256i y = widen(is_signed, load_partial(rows[r] + i, count));
            sums[r] = integer_step(dot, sums[r], x, y);
        }
    }
}

ALWAYS_INLINE void integer_group(bool is_signed, bool dot, struct distance_query query,
                                 const unsigned char *const *rows, float *out)
{
    __m256i v[DISTANCE_GROUP];
    integer_accumulate(is_signed, dot, query, rows, v, DISTANCE_GROUP);
    __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m128i folded = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    _mm_storeu_ps(out, _mm_cvtepi32_ps(folded));
}

ALWAYS_INLINE float integer_single(bool is_signed, bool dot, struct distance_query query,
                                   const unsigned char *row)
{
    __m256i sum;
    integer_accumulate(is_signed, dot, query, &row, &sum, 1);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return (float)_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_srli_epi64(two, 32)));
}

/* The 32 lanes of one row, 8 a member. Members and not an array: clang 14 keeps an array of these
 * in memory, at half the speed. */
struct lanes {
    __m256 a, b, c, d;
};

/* The first three levels of the tree: 16 + 16, 8 + 8, 4 + 4. */
ALWAYS_INLINE __m128 lanes_fold(struct lanes lanes)
{
    __m256 by_16_low = _mm256_add_ps(lanes.a, lanes.c);
    __m256 by_16_high = _mm256_add_ps(lanes.b, lanes.d);
    __m256 by_8 = _mm256_add_ps(by_16_low, by_16_high);
    return _mm_add_ps(_mm256_castps256_ps128(by_8), _mm256_extractf128_ps(by_8, 1));
}

/* Eight elements from the upper halves of f32, or as whole numbers times the vector's scale. */
ALWAYS_INLINE __m256 widen_bf16(__m128i elements)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(elements), 16));
}

ALWAYS_INLINE __m256 widen_i8s(__m128i elements, __m256 scale)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(elements)), scale);
}

/* Elements that lie from `from` on; `scale` is that of an i8s vector. */
ALWAYS_INLINE __m256 load_octet(enum element_type type, __m256 scale, const unsigned char *from)
{
    if (type == ELEMENT_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)from));
    if (type == ELEMENT_BF16)
        return widen_bf16(_mm_loadu_si128((const void *)from));
    if (type == ELEMENT_I8S)
        return widen_i8s(_mm_loadl_epi64((const void *)from), scale);
    return _mm256_loadu_ps((const void *)from);
}

/* All ones in the first `count` < 8 lanes. */
ALWAYS_INLINE __m256i octet_mask(size_t count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

ALWAYS_INLINE __m256 load_octet_tail(enum element_type type, __m256 scale,
                                     const unsigned char *from, size_t count)
{
    if (type == ELEMENT_F16)
        return _mm256_cvtph_ps(load_partial(from, 2 * count));
    if (type == ELEMENT_BF16)
        return widen_bf16(load_partial(from, 2 * count));
    if (type == ELEMENT_I8S)
        return widen_i8s(load_partial(from, count), scale);
    return _mm256_maskload_ps((const void *)from, octet_mask(count));
}

ALWAYS_INLINE __m256 float_step(bool dot, __m256 sum, __m256 x, __m256 y)
{
    __m256 difference = _mm256_sub_ps(x, y);
    return dot ? _mm256_fmadd_ps(x, y, sum) : _mm256_fmadd_ps(difference, difference, sum);
}

/* 32 elements of a vector from the i-th on. */
ALWAYS_INLINE struct lanes lanes_load(enum element_type type, __m256 scale,
                                      const unsigned char *elements, size_t i)
{
    const size_t octet = OCTET * distance_element_bytes(type);
    const unsigned char *from = elements + i * distance_element_bytes(type);
    return (struct lanes){
        load_octet(type, scale, from),
        load_octet(type, scale, from + octet),
        load_octet(type, scale, from + 2 * octet),
        load_octet(type, scale, from + 3 * octet),
    };
}

ALWAYS_INLINE struct lanes lanes_step(bool dot, struct lanes sums, struct lanes query,
                                      struct lanes row)
{
    sums.a = float_step(dot, sums.a, query.a, row.a);
    sums.b = float_step(dot, sums.b, query.b, row.b);
    sums.c = float_step(dot, sums.c, query.c, row.c);
    sums.d = float_step(dot, sums.d, query.d, row.d);
    return sums;
}

/* A query and a row, with the scales of those that are i8s. */
struct float_pair {
    const unsigned char *query, *row;
    __m256 query_scale, row_scale;
    size_t dim;
};

/* Adds elements [i, i + 8), which exist. */
ALWAYS_INLINE __m256 octet_step(struct distance_types types, bool dot, __m256 sum,
                                const struct float_pair *pair, size_t i)
{
    const unsigned char *query = pair->query + i * distance_element_bytes(types.query);
    const unsigned char *row = pair->row + i * distance_element_bytes(types.row);
    return float_step(dot, sum, load_octet(types.query, pair->query_scale, query),
                      load_octet(types.row, pair->row_scale, row));
}

ALWAYS_INLINE __m256 octet_blend(bool dot, __m256i mask, __m256 sum, __m256 x, __m256 y)
{
    return _mm256_blendv_ps(sum, float_step(dot, sum, x, y), _mm256_castsi256_ps(mask));
}

/* Up to three octets and a part of one. That is loaded in one place, whichever lanes it is for: its
 * code is long, and is in line eleven times in each kernel. */
ALWAYS_INLINE struct lanes lanes_tail(struct distance_types types, bool dot, struct lanes sums,
                                      const struct float_pair *pair)
{
    const size_t octets = pair->dim % FLOAT_STEP / OCTET, rest = pair->dim % OCTET;
    const size_t i = pair->dim - pair->dim % FLOAT_STEP, end = pair->dim - rest;
    if (octets > 0)
        sums.a = octet_step(types, dot, sums.a, pair, i);
    if (octets > 1)
        sums.b = octet_step(types, dot, sums.b, pair, i + OCTET);
    if (octets > 2)
        sums.c = octet_step(types, dot, sums.c, pair, i + 2 * OCTET);
    if (rest == 0)
        return sums;
    const __m256i mask = octet_mask(rest);
    const __m256 x = load_octet_tail(types.query, pair->query_scale,
                                     pair->query + end * distance_element_bytes(types.query), rest);
    const __m256 y = load_octet_tail(types.row, pair->row_scale,
                                     pair->row + end * distance_element_bytes(types.row), rest);
    if (octets == 0)
        sums.a = octet_blend(dot, mask, sums.a, x, y);
    else if (octets == 1)
        sums.b = octet_blend(dot, mask, sums.b, x, y);
    else if (octets == 2)
        sums.c = octet_blend(dot, mask, sums.c, x, y);
    else
        sums.d = octet_blend(dot, mask, sums.d, x, y);
    return sums;
}

/* Lanes of `n` (1 or 2) rows: two rows take 8 of the 16 registers, four would spill. */
ALWAYS_INLINE void float_accumulate(struct distance_types types, bool dot,
                                    struct distance_query query, const unsigned char *const *rows,
                                    struct lanes *sums, size_t n)
{
    struct float_pair pairs[2];
    DISTANCE_UNROLL_2
    for (size_t r = 0; r < n; r++) {
        sums[r].a = sums[r].b = sums[r].c = sums[r].d = _mm256_setzero_ps();
        pairs[r] = (struct float_pair){
            .query = query.elements,
            .row = rows[r],
            .query_scale = _mm256_set1_ps(distance_scale(types.query, query.elements, query.dim)),
            .row_scale = _mm256_set1_ps(distance_scale(types.row, rows[r], query.dim)),
            .dim = query.dim,
        };
    }
    for (size_t i = 0; i + FLOAT_STEP <= query.dim; i += FLOAT_STEP) {
        struct lanes q = lanes_load(types.query, pairs[0].query_scale, query.elements, i);
        DISTANCE_UNROLL_2
        for (size_t r = 0; r < n; r++)
            sums[r] =
                lanes_step(dot, sums[r], q, lanes_load(types.row, pairs[r].row_scale, rows[r], i));
    }
    if (query.dim % FLOAT_STEP == 0)
        return;
    DISTANCE_UNROLL_2
    for (size_t r = 0; r < n; r++)
        sums[r] = lanes_tail(types, dot, sums[r], &pairs[r]);
}

/* The last two levels, 2 + 2 and 1 + 1, for four rows at once by transposing them. */
ALWAYS_INLINE void float_group(struct distance_types types, bool dot, struct distance_query query,
                               const unsigned char *const *rows, float *out)
{
    struct lanes sums[2];
    float_accumulate(types, dot, query, rows, sums, 2);
    __m128 a = lanes_fold(sums[0]), b = lanes_fold(sums[1]);
    float_accumulate(types, dot, query, rows + 2, sums, 2);
    __m128 c = lanes_fold(sums[0]), d = lanes_fold(sums[1]);
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

#define AVX2_DEFINE(NAME, family, flag, dot, type)                                                 \
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

AVX2_DEFINE(u8_l2sq, integer, false, false, ELEMENT_U8)
AVX2_DEFINE(u8_dot, integer, false, true, ELEMENT_U8)
AVX2_DEFINE(i8_l2sq, integer, true, false, ELEMENT_I8)
AVX2_DEFINE(i8_dot, integer, true, true, ELEMENT_I8)

#define AVX2_DEFINE_FLOATS(NAME, query_type, row_type)                                             \
    static const struct distance_types NAME##_types = {query_type, row_type};                      \
    AVX2_DEFINE(NAME##_l2sq, float, NAME##_types, false, row_type)                                 \
    AVX2_DEFINE(NAME##_dot, float, NAME##_types, true, row_type)

DISTANCE_DEFINE_FLOATS(AVX2_DEFINE_FLOATS)

const struct distance_kernels distance_avx2_kernels[DISTANCE_TYPES] = DISTANCE_TABLE;

#endif
