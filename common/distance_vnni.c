/*
 * distance_vnni.c - u8 and i8 kernels for AVX-512 with VNNI.
 *
 * vpdpbusd adds four products of an unsigned and a signed byte into each 32-bit lane: 64 products
 * an instruction and no widening. Both element types become the same pair of views: u, the element
 * moved to 0..255, and s = u - 128, which is u ^ 0x80 read as signed (for i8, s is the element as
 * stored). With query q and row x:
 *
 *   group l2sq:  sum (xu - qu)^2 = sum xu xs - 128 sum xu - 2 sum xu qs + [sum qu^2]
 *   one l2sq:    sum d^2         = sum d (d - 128) + 128 sum d          where d = |xu - qu|
 *   u8 dot:      sum q x         = sum qu xs + [128 sum qu]
 *   i8 dot:      sum q x         = sum xu qs - [128 sum qs]
 *
 * Every sum is a vpdpbusd (-128 is a valid signed byte); the bracketed ones belong to the query and
 * are computed once a batch, as its bias. Lanes wrap modulo 2^32 on the way, harmlessly: the
 * results are below 2^31. The group formula needs 4 instructions per 64 bytes and beats differences
 * by vpdpwssd (6) and d (6) by 12 % at 128 dimensions on Zen 4; one row alone would not pay for the
 * bias.
 *
 * A masked tail reads u = 0, which makes every product vanish. Compiles to nothing elsewhere than
 * x86-64. Pure functions.
 */
#include "common/distance_internal.h"

#if defined(__x86_64__)

enum { STEP = 64 }; /* bytes */

/* The two views of 64 elements. */
struct views {
    __m512i u, s;
};

ALWAYS_INLINE __m512i all_minus_128(void)
{
    return _mm512_set1_epi8(-128);
}

ALWAYS_INLINE struct views views_of(bool is_signed, __m512i stored)
{
    __m512i flipped = _mm512_xor_si512(stored, all_minus_128());
    return is_signed ? (struct views){.u = flipped, .s = stored}
                     : (struct views){.u = stored, .s = flipped};
}

ALWAYS_INLINE __m512i load(const unsigned char *elements)
{
    return _mm512_loadu_si512(elements);
}

/* The last elements; the missing ones are stored values whose u is 0. */
ALWAYS_INLINE __m512i load_tail(bool is_signed, __mmask64 mask, const unsigned char *elements)
{
    __m512i missing = is_signed ? all_minus_128() : _mm512_setzero_si512();
    return _mm512_mask_loadu_epi8(missing, mask, elements);
}

/* Lane sums of u * s and -128 * u; their difference is the sum of u * u. */
struct squares {
    __m512i product, linear;
};

ALWAYS_INLINE struct squares squares_step(struct squares sums, __m512i u)
{
    __m512i s = _mm512_xor_si512(u, all_minus_128());
    sums.product = _mm512_dpbusd_epi32(sums.product, u, s);
    sums.linear = _mm512_dpbusd_epi32(sums.linear, u, all_minus_128());
    return sums;
}

ALWAYS_INLINE __m512i difference_of(bool is_signed, __m512i x, __m512i y)
{
    if (is_signed)
        return _mm512_sub_epi8(_mm512_max_epi8(x, y), _mm512_min_epi8(x, y));
    return _mm512_sub_epi8(_mm512_max_epu8(x, y), _mm512_min_epu8(x, y));
}

ALWAYS_INLINE int32_t l2sq_one(bool is_signed, struct distance_query query,
                               const unsigned char *row)
{
    struct squares sums = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    size_t i = 0;
    for (; i + STEP <= query.dim; i += STEP)
        sums =
            squares_step(sums, difference_of(is_signed, load(query.elements + i), load(row + i)));
    if (i < query.dim) {
        __mmask64 mask = distance_tail_avx512(query.dim - i);
        sums = squares_step(sums,
                            difference_of(is_signed, load_tail(is_signed, mask, query.elements + i),
                                          load_tail(is_signed, mask, row + i)));
    }
    return _mm512_reduce_add_epi32(_mm512_sub_epi32(sums.product, sums.linear));
}

/* Sum over the query's elements of u * u and of -128 * u. */
struct query_sums {
    int32_t squares, linear;
};

ALWAYS_INLINE struct query_sums query_sums_of(bool is_signed, const unsigned char *query,
                                              size_t dim)
{
    struct squares sums = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    size_t i = 0;
    for (; i + STEP <= dim; i += STEP)
        sums = squares_step(sums, views_of(is_signed, load(query + i)).u);
    if (i < dim) {
        __mmask64 mask = distance_tail_avx512(dim - i);
        sums = squares_step(sums, views_of(is_signed, load_tail(is_signed, mask, query + i)).u);
    }
    return (struct query_sums){
        .squares = _mm512_reduce_add_epi32(_mm512_sub_epi32(sums.product, sums.linear)),
        .linear = _mm512_reduce_add_epi32(sums.linear),
    };
}

/* Sums over one row: of the row alone, and with the query. */
struct row_sums {
    __m512i own, cross;
};

ALWAYS_INLINE struct row_sums row_step(bool is_signed, bool dot, struct row_sums sums,
                                       struct views query, struct views row)
{
    if (!dot) {
        sums.own = _mm512_dpbusd_epi32(sums.own, row.u, row.s);
        sums.own = _mm512_dpbusd_epi32(sums.own, row.u, all_minus_128());
    }
    if (dot && !is_signed)
        sums.cross = _mm512_dpbusd_epi32(sums.cross, query.u, row.s);
    else
        sums.cross = _mm512_dpbusd_epi32(sums.cross, row.u, query.s);
    return sums;
}

/* Totals of `n` (1 or 4) rows less the bias; is_signed, dot and n are constants at every call. */
ALWAYS_INLINE void accumulate(bool is_signed, bool dot, struct distance_query query,
                              const unsigned char *const *rows, __m512i *totals, size_t n)
{
    struct row_sums sums[DISTANCE_GROUP];
    DISTANCE_UNROLL
    for (size_t r = 0; r < n; r++)
        sums[r].own = sums[r].cross = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + STEP <= query.dim; i += STEP) {
        struct views q = views_of(is_signed, load(query.elements + i));
        DISTANCE_UNROLL
        for (size_t r = 0; r < n; r++)
            sums[r] = row_step(is_signed, dot, sums[r], q, views_of(is_signed, load(rows[r] + i)));
    }
    if (i < query.dim) {
        __mmask64 mask = distance_tail_avx512(query.dim - i);
        struct views q = views_of(is_signed, load_tail(is_signed, mask, query.elements + i));
        DISTANCE_UNROLL
        for (size_t r = 0; r < n; r++) {
            __m512i stored = load_tail(is_signed, mask, rows[r] + i);
            sums[r] = row_step(is_signed, dot, sums[r], q, views_of(is_signed, stored));
        }
    }
    DISTANCE_UNROLL
    for (size_t r = 0; r < n; r++) {
        __m512i twice = _mm512_add_epi32(sums[r].cross, sums[r].cross);
        totals[r] = dot ? sums[r].cross : _mm512_sub_epi32(sums[r].own, twice);
    }
}

ALWAYS_INLINE void group(bool is_signed, bool dot, struct distance_query query,
                         const unsigned char *const *rows, float *out)
{
    __m512i totals[DISTANCE_GROUP];
    accumulate(is_signed, dot, query, rows, totals, DISTANCE_GROUP);
    __m128i sums = _mm_add_epi32(distance_sums_avx512(totals), _mm_set1_epi32(query.bias));
    _mm_storeu_ps(out, _mm_cvtepi32_ps(sums));
}

ALWAYS_INLINE float single(bool is_signed, bool dot, struct distance_query query,
                           const unsigned char *row)
{
    if (!dot)
        return (float)l2sq_one(is_signed, query, row);
    __m512i total;
    accumulate(is_signed, dot, query, &row, &total, 1);
    return (float)(_mm512_reduce_add_epi32(total) + query.bias);
}

/* The bracketed terms above. 128 sum qs = 128 sum qu - 128^2 dim. */
ALWAYS_INLINE int32_t bias(bool is_signed, bool dot, const void *query, size_t dim)
{
    struct query_sums sums = query_sums_of(is_signed, query, dim);
    if (!dot)
        return sums.squares;
    return is_signed ? sums.linear + 128 * 128 * (int32_t)dim : -sums.linear;
}

#define VNNI_DEFINE(NAME, is_signed, dot)                                                          \
    ALWAYS_INLINE int32_t NAME##_bias(const void *query, size_t dim)                               \
    {                                                                                              \
        return bias(is_signed, dot, query, dim);                                                   \
    }                                                                                              \
    DISTANCE_PART void NAME##_group(struct distance_query query,                                   \
                                    const unsigned char *const rows[DISTANCE_GROUP], float *out)   \
    {                                                                                              \
        group(is_signed, dot, query, rows, out);                                                   \
    }                                                                                              \
    DISTANCE_PART float NAME##_single(struct distance_query query, const unsigned char *row)       \
    {                                                                                              \
        return single(is_signed, dot, query, row);                                                 \
    }                                                                                              \
    DISTANCE_DEFINE(NAME, NAME##_bias, (is_signed) ? ELEMENT_I8 : ELEMENT_U8)

VNNI_DEFINE(u8_l2sq, false, false)
VNNI_DEFINE(u8_dot, false, true)
VNNI_DEFINE(i8_l2sq, true, false)
VNNI_DEFINE(i8_dot, true, true)

const struct distance_kernels distance_vnni_kernels[DISTANCE_INTEGER_TYPES] = {
    [DISTANCE_U8] = DISTANCE_KERNELS(u8),
    [DISTANCE_I8] = DISTANCE_KERNELS(i8),
};

#endif
