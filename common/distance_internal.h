/*
 * distance_internal.h - what the per-ISA kernel files share: their tables, and the loops that turn
 * a kernel over one or four rows into the batch functions of distance.h.
 *
 * Everything here is inlined into its caller, because each ISA file must compile it with its own
 * flags; a shared out-of-line copy could run wide instructions on a narrow machine.
 *
 * Four rows at a time: a query chunk is then loaded once for four rows, four independent chains of
 * accumulators hide the latency of the multiply-add, and the horizontal sums become one transpose.
 */
#ifndef NIGHTJAR_COMMON_DISTANCE_INTERNAL_H
#define NIGHTJAR_COMMON_DISTANCE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/compiler.h"
#include "common/distance.h"
#include "common/element.h"

/* Places in the tables: both vectors of one type; then an f32 query and rows of a type. VNNI has
 * nothing to offer but to the first two. */
enum distance_slot {
    DISTANCE_U8,
    DISTANCE_I8,
    DISTANCE_F16,
    DISTANCE_F32,
    DISTANCE_BF16,
    DISTANCE_I8S,
    DISTANCE_F32_F16,
    DISTANCE_F32_BF16,
    DISTANCE_F32_I8S,
    DISTANCE_TYPES,
    DISTANCE_INTEGER_TYPES = DISTANCE_I8 + 1,
};

extern const struct distance_kernels distance_scalar_kernels[DISTANCE_TYPES];
#if defined(__x86_64__)
extern const struct distance_kernels distance_avx2_kernels[DISTANCE_TYPES];
extern const struct distance_kernels distance_avx512_kernels[DISTANCE_TYPES];
extern const struct distance_kernels distance_vnni_kernels[DISTANCE_INTEGER_TYPES];
#endif

enum {
    DISTANCE_LANES = 32, /* accumulators of floats; part of the results' definition */
    DISTANCE_GROUP = 4,  /* rows a kernel takes at once */
    CACHE_LINE_BYTES = 64,
    /* How a gather prefetches: measured on Zen 4, 4 to 12 rows ahead are alike, and of a long row
     * the head is enough: the hardware sees a stream there, and fetching all of it was slower.
     * Consecutive rows are one stream; prefetching them gained nothing. */
    PREFETCH_ROWS = 8,
    PREFETCH_ROW_BYTES = 256,
    /* Consecutive rows from this length on are taken one at a time: four at once are four streams
     * in one page, which the hardware prefetcher follows at half to a fifth of the speed (768-byte
     * rows from memory: 24 ns against 70 to 130). In the cache it costs 5 to 50 %. */
    STREAM_ROW_BYTES = 512,
};

/* Ask for four or two copies of a loop body over rows, so that each accumulator lives in a
 * register. The number must be the loop's own: asked for four copies of two, clang 14 unrolls too
 * late to take the accumulators out of memory. */
#define DISTANCE_UNROLL   _Pragma("GCC unroll 4")
#define DISTANCE_UNROLL_2 _Pragma("GCC unroll 2")

/* A kernel's parts are in line in the loops over rows. Not so under sanitizers, whose compilers
 * would take minutes over what they make of that. */
#if SANITIZED
#define DISTANCE_PART static NOINLINE
#else
#define DISTANCE_PART ALWAYS_INLINE
#endif

/* A query as kernels take it. `bias` is whatever a kernel wants computed once per query. */
struct distance_query {
    const unsigned char *elements;
    size_t dim;
    int32_t bias;
};

typedef int32_t (*distance_bias_fn)(const void *query, size_t dim);
typedef void (*distance_group_fn)(struct distance_query query,
                                  const unsigned char *const rows[DISTANCE_GROUP], float *out);
typedef float (*distance_single_fn)(struct distance_query query, const unsigned char *row);

/* The three kernels that make one (type, operation) at one ISA. `bias` may be NULL. */
struct distance_parts {
    distance_bias_fn bias;
    distance_group_fn group;
    distance_single_fn single;
    enum element_type row_type;
};

/* The types that a kernel in floats compares. */
struct distance_types {
    enum element_type query, row;
};

/* As element_bytes() and element_vector_bytes(), for constants. */
ALWAYS_INLINE size_t distance_element_bytes(enum element_type type)
{
    return type == ELEMENT_F32 ? 4 : type == ELEMENT_F16 || type == ELEMENT_BF16 ? 2 : 1;
}

ALWAYS_INLINE size_t distance_vector_bytes(enum element_type type, size_t dim)
{
    return dim * distance_element_bytes(type) + (type == ELEMENT_I8S ? sizeof(float) : 0);
}

/* The scale behind an i8s vector's elements; of no use for other types. */
ALWAYS_INLINE float distance_scale(enum element_type type, const unsigned char *vector, size_t dim)
{
    float scale = 1;
    if (type == ELEMENT_I8S)
        memcpy(&scale, vector + dim, sizeof(scale));
    return scale;
}

struct distance_batch {
    const void *query;
    const unsigned char *base;
    size_t stride_bytes;
    const uint32_t *ids; /* of a gather; unused by consecutive rows */
    size_t count;
    size_t dim;
    float *out;
};

ALWAYS_INLINE void distance_prefetch_row(const unsigned char *row, size_t row_bytes)
{
    for (size_t at = 0; at < row_bytes; at += CACHE_LINE_BYTES)
        PREFETCH(row + at);
    PREFETCH(row + row_bytes - 1); /* the extra line of a row that is not line-aligned */
}

ALWAYS_INLINE const unsigned char *distance_batch_row(const struct distance_batch *batch,
                                                      bool gather, size_t i)
{
    return batch->base + (gather ? (size_t)batch->ids[i] : i) * batch->stride_bytes;
}

/* `gather` and `parts` are compile-time constants at every call, so this becomes one tight loop. */
ALWAYS_INLINE void distance_batch_run(struct distance_batch batch, bool gather,
                                      struct distance_parts parts)
{
    struct distance_query query = {batch.query, batch.dim, 0};
    if (parts.bias)
        query.bias = parts.bias(batch.query, batch.dim);
    size_t row_bytes = distance_vector_bytes(parts.row_type, batch.dim);
    size_t fetch_bytes = MIN(row_bytes, (size_t)PREFETCH_ROW_BYTES);
    bool fetch = gather && row_bytes > 0;
    bool by_group = gather || row_bytes < STREAM_ROW_BYTES;

    for (size_t i = 0; fetch && i < MIN(batch.count, (size_t)PREFETCH_ROWS); i++)
        distance_prefetch_row(distance_batch_row(&batch, gather, i), fetch_bytes);
    size_t i = 0;
    for (; by_group && i + DISTANCE_GROUP <= batch.count; i += DISTANCE_GROUP) {
        const unsigned char *rows[DISTANCE_GROUP];
        DISTANCE_UNROLL
        for (size_t r = 0; r < DISTANCE_GROUP; r++) {
            rows[r] = distance_batch_row(&batch, gather, i + r);
            if (fetch && i + r + PREFETCH_ROWS < batch.count)
                distance_prefetch_row(distance_batch_row(&batch, gather, i + r + PREFETCH_ROWS),
                                      fetch_bytes);
        }
        parts.group(query, rows, batch.out + i);
    }
    for (; i < batch.count; i++)
        batch.out[i] = parts.single(query, distance_batch_row(&batch, gather, i));
}

ALWAYS_INLINE float distance_pair_run(const void *a, const void *b, size_t dim,
                                      struct distance_parts parts)
{
    struct distance_query query = {a, dim, 0};
    if (parts.bias)
        query.bias = parts.bias(a, dim);
    return parts.single(query, b);
}

/* Defines NAME_pair, NAME_rows and NAME_gather from NAME_group, NAME_single and `bias_function`. */
#define DISTANCE_DEFINE(NAME, bias_function, type)                                                 \
    static const struct distance_parts NAME##_parts = {bias_function, NAME##_group, NAME##_single, \
                                                       type};                                      \
    static float NAME##_pair(const void *a, const void *b, size_t dim)                             \
    {                                                                                              \
        return distance_pair_run(a, b, dim, NAME##_parts);                                         \
    }                                                                                              \
    static void NAME##_rows(const void *query, const void *rows, size_t stride_bytes,              \
                            size_t count, size_t dim, float *out)                                  \
    {                                                                                              \
        struct distance_batch batch = {query, rows, stride_bytes, NULL, count, dim, out};          \
        distance_batch_run(batch, false, NAME##_parts);                                            \
    }                                                                                              \
    static void NAME##_gather(const void *query, const void *base, size_t stride_bytes,            \
                              const uint32_t *ids, size_t count, size_t dim, float *out)           \
    {                                                                                              \
        struct distance_batch batch = {query, base, stride_bytes, ids, count, dim, out};           \
        distance_batch_run(batch, true, NAME##_parts);                                             \
    }

#if defined(__AVX512F__)
#include <immintrin.h>

/* {sum(v[0]), sum(v[1]), sum(v[2]), sum(v[3])} of 32-bit lanes: a transpose, so that four sums cost
 * little more than one. */
ALWAYS_INLINE __m128i distance_sums_avx512(const __m512i v[DISTANCE_GROUP])
{
    __m512i ab =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i cd =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    __m512i abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* Mask of the first `count` < 64 bytes of a register. */
ALWAYS_INLINE __mmask64 distance_tail_avx512(size_t count)
{
    return ((__mmask64)1 << count) - 1;
}
#endif

#define DISTANCE_KERNELS(type)                                                                     \
    {                                                                                              \
        .l2sq = type##_l2sq_pair, .dot = type##_dot_pair, .l2sq_rows = type##_l2sq_rows,           \
        .dot_rows = type##_dot_rows, .l2sq_gather = type##_l2sq_gather,                            \
        .dot_gather = type##_dot_gather                                                            \
    }

/* A whole table, and its definitions by FLOATS(name, query type, row type). */
#define DISTANCE_TABLE                                                                             \
    {                                                                                              \
        [DISTANCE_U8] = DISTANCE_KERNELS(u8), [DISTANCE_I8] = DISTANCE_KERNELS(i8),                \
        [DISTANCE_F16] = DISTANCE_KERNELS(f16), [DISTANCE_F32] = DISTANCE_KERNELS(f32),            \
        [DISTANCE_BF16] = DISTANCE_KERNELS(bf16), [DISTANCE_I8S] = DISTANCE_KERNELS(i8s),          \
        [DISTANCE_F32_F16] = DISTANCE_KERNELS(f32_f16),                                            \
        [DISTANCE_F32_BF16] = DISTANCE_KERNELS(f32_bf16),                                          \
        [DISTANCE_F32_I8S] = DISTANCE_KERNELS(f32_i8s)                                             \
    }

#define DISTANCE_DEFINE_FLOATS(FLOATS)                                                             \
    FLOATS(f16, ELEMENT_F16, ELEMENT_F16)                                                          \
    FLOATS(f32, ELEMENT_F32, ELEMENT_F32)                                                          \
    FLOATS(bf16, ELEMENT_BF16, ELEMENT_BF16)                                                       \
    FLOATS(i8s, ELEMENT_I8S, ELEMENT_I8S)                                                          \
    FLOATS(f32_f16, ELEMENT_F32, ELEMENT_F16)                                                      \
    FLOATS(f32_bf16, ELEMENT_F32, ELEMENT_BF16)                                                    \
    FLOATS(f32_i8s, ELEMENT_F32, ELEMENT_I8S)

#endif
