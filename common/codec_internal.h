/*
 * codec_internal.h - what the codec's own files share: the interface a kind implements, codec.bin,
 * and the PQ kernels that each instruction set fills in. Included by codec*.c, kmeans.c and tests.
 *
 * codec.bin, version 1 (little-endian):
 *
 *   offset size
 *        0    4  magic         "NJCD"
 *        4    4  u32 version   1
 *        8    4  u32 kind      enum codec_kind: 1 = PQ, 2 = OPQ, 3 = scalar
 *       12    4  u32 metric    enum metric: 1 = l2, 2 = ip, 3 = cosine
 *       16    4  u32 element   enum element_type: 1 = u8, 2 = i8, 3 = f16, 4 = f32,
 *                               6 = bf16, 7 = i8s: that of the vectors stored
 *       20    4  u32 dim       1..8192
 *       24    4  u32 code_bytes  PQ, OPQ: 1..dim; scalar: see codec_scalar_internal.h
 *       28    4  f32 norm_max  ip: M, the largest norm, finite and >= 0; else 0
 *       32    8  u64 seed      of the training
 *       40   24  reserved      zeros
 *       64       body, to the end of the file
 *
 * The PQ body is 256 * D f32 (1024 * D bytes), every one finite, D = dim + 1 for ip, else dim:
 * S = code_bytes subspaces one after the other, each 256 centroids of sub_dim(m) consecutive
 * values. Subspace m covers dimensions [first(m), first(m) + sub_dim(m)):
 *
 *   sub_dim(m) = D / S + (m < D % S ? 1 : 0)
 *   first(m)   = m * (D / S) + min(m, D % S)
 *
 * so its centroids start at byte 64 + 1024 * first(m). Byte m of a code is the centroid's number in
 * subspace m. For cosine, centroids live among normalised vectors. For ip they live among vectors
 * x with one more coordinate, sqrt(M^2 - |x|^2) (Bachrach et al., RecSys'14): with the query scaled
 * to q' = q * M / |q|, |q' - x|^2 = 2 M^2 - 2 q'.x there, and what a code gets wrong weighs only as
 * much as the query is far. Summing -q.c instead errs by the residual times all of |q|: on 1 M SIFT
 * recall@10 at L = 30 was 0.83 so, where l2 has 0.95.
 *
 * The OPQ body and codes are in codec_opq_internal.h, the scalar ones in codec_scalar_internal.h.
 *
 * "Lanes" layout, used for whatever SIMD walks: vectors in groups of 16, each group [dim][16], so
 * one 64-byte load takes the same dimension of 16 vectors. It exists in memory only.
 */
#ifndef NIGHTJAR_COMMON_CODEC_INTERNAL_H
#define NIGHTJAR_COMMON_CODEC_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/codec.h"
#include "common/compiler.h"

/* ---- codec.bin ---- */

enum { CODEC_FILE_VERSION = 1 };

struct codec_file_header {
    uint8_t magic[4];
    uint32_t version;
    uint32_t kind;
    uint32_t metric;
    uint32_t element;
    uint32_t dim;
    uint32_t code_bytes;
    float norm_max;
    uint64_t seed;
    uint8_t reserved1[24];
};

_Static_assert(sizeof(struct codec_file_header) == 64, "codec.bin header is 64 bytes");
_Static_assert(offsetof(struct codec_file_header, magic) == 0, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, version) == 4, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, kind) == 8, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, metric) == 12, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, element) == 16, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, dim) == 20, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, code_bytes) == 24, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, norm_max) == 28, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, seed) == 32, "codec.bin offset");
_Static_assert(offsetof(struct codec_file_header, reserved1) == 40, "codec.bin offset");

/* ---- kinds ---- */

/* What a codec kind implements; the meaning of each call is its namesake's in codec.h. `params` and
 * `features` reach train() and read() checked. */
struct codec_ops {
    const char *name; /* in manifests and on command lines */
    /* Whether params->code_bytes suits the other parameters, which are checked. */
    enum status (*code_bytes_check)(const struct codec_params *params, enum status fault,
                                    struct error *err);
    enum status (*train)(const struct codec_params *params, unsigned features, const void *rows,
                         size_t count, struct codec **out, struct error *err);
    void (*destroy)(struct codec *codec);
    void (*encode)(const struct codec *codec, const void *rows, size_t count, uint8_t *codes);
    size_t (*table_bytes)(const struct codec *codec);
    /* `as_given` is codec->params but for the type, which is the query's. */
    void (*table_build)(const struct codec *codec, const struct codec_params *as_given,
                        const void *query, void *table);
    void (*table_gather)(const struct codec *codec, const void *table, const uint8_t *codes,
                         const uint32_t *ids, size_t count, float *out);
    /* Body of codec.bin: its exact size, writing it, and reading it (length already equal to
     * body_bytes(params); values not yet checked). */
    size_t (*body_bytes)(const struct codec_params *params);
    void (*body_write)(const struct codec *codec, uint8_t *body);
    enum status (*body_read)(const struct codec_params *params, unsigned features,
                             const uint8_t *body, struct codec **out, struct error *err);
    /* In the place of body_bytes() for kinds whose body depends on more than params: its size in
     * this codec, and adding to *total what the start of a body of `length` bytes says. Else NULL.
     */
    size_t (*body_bytes_of)(const struct codec *codec);
    enum status (*body_claim)(const struct codec_params *params, const uint8_t *body, size_t length,
                              size_t *total, struct error *err);
};

/* First member of every kind's own struct. */
struct codec {
    const struct codec_ops *ops;
    struct codec_params params;
};

extern const struct codec_ops codec_pq_ops;
extern const struct codec_ops codec_opq_ops;
extern const struct codec_ops codec_scalar_ops;

/* What codec_train() refuses. */
NODISCARD enum status codec_train_check(const struct codec_params *params, const void *rows,
                                        size_t count, struct error *err);

/* codec_train() and codec_deserialize() limited to `features`, a subset of cpu_features(): the hook
 * by which tests walk the instruction sets. */
NODISCARD enum status codec_train_with(const struct codec_params *params, unsigned features,
                                       const void *rows, size_t count, struct codec **out,
                                       struct error *err);
NODISCARD enum status codec_deserialize_with(const uint8_t *bytes, size_t length, unsigned features,
                                             struct codec **out, struct error *err);

/* ---- what a codec sees of a vector ---- */

/* Dimensions that are quantized: ip has one of its own. */
ALWAYS_INLINE uint32_t codec_view_dims(const struct codec_params *params)
{
    return params->dim + (params->metric == METRIC_IP ? 1u : 0u);
}

/* |row| in double. Summation order is fixed. */
double codec_view_norm(const struct codec_params *params, const void *row);

/* What the codec makes of a vector: its elements times `scale`, then, under ip, `extra`. */
struct codec_view {
    double scale; /* 1 leaves elements exact */
    float extra;
};

/* The view under which a row is trained on and encoded. */
struct codec_view codec_view_of_row(const struct codec_params *params, const void *row);

/* Coordinates [first, first + count) of a vector in `view`; first + count <= codec_view_dims(). */
void codec_view_load(const struct codec_params *params, const void *row,
                     const struct codec_view *view, size_t first, size_t count, float *out);

/* The views of a training sample; under ip raises params->norm_max to the sample's largest norm,
 * else sets it to 0. *out is the caller's. */
NODISCARD enum status codec_views_create(struct codec_params *params, const void *rows,
                                         size_t count, struct codec_view **out, struct error *err);
void codec_views_destroy(struct codec_view *views, size_t count);

/* How a query is seen, and how squared distances to it become estimates: distance * scale + offset.
 */
struct codec_query_view {
    struct codec_view view;
    float scale, offset;
};

struct codec_query_view codec_view_of_query(const struct codec_params *params, const void *query);

/* ---- kernels ---- */

/* Asks for the cache lines of a code. `bytes` of one that is known to lie in one line may be given
 * as 1. */
ALWAYS_INLINE void codec_prefetch(const uint8_t *code, size_t bytes)
{
    PREFETCH(code);
    if (bytes == 1)
        return;
    for (size_t i = 64; i < bytes; i += 64)
        PREFETCH(code + i);
    PREFETCH(code + bytes - 1);
}

enum {
    CODEC_LANES = 16,          /* vectors a group */
    CODEC_PQ_CENTROIDS = 256,  /* a code byte names one */
    CODEC_PQ_PARTIAL_SUMS = 8, /* of an estimate; see codec_pq_kernels.gather */
};

/* Sixteen points against some centroids. */
struct codec_pq_tile {
    const float *points;    /* one group in lanes layout: `dims` x 16, 64-byte aligned */
    const float *centroids; /* row j at centroids + j * stride */
    size_t dims;            /* dimensions of this tile (a part of the vectors, or all) */
    size_t stride;          /* floats between centroids */
    size_t count;           /* centroids */
    float *distances;       /* count x 16, 64-byte aligned */
    bool fresh;             /* distances start at 0; else they go on from what is there */
};

/*
 * Every level gives the same bits: each output accumulates over its dimensions in order with one
 * fused multiply-add each, and comparisons take the lower index of equals. Pointers into lanes
 * layout and tables are 64-byte aligned. Inputs are finite; overflow to infinity is harmless.
 */
struct codec_pq_kernels {
    /* Squared distances of the tile's points to its centroids. */
    void (*accumulate)(const struct codec_pq_tile *tile);

    /* Merges centroids first..first + count - 1 into the nearest so far of 16 points: where
     * distances (count x 16) are below best[16], best and label take them. */
    void (*argmin)(const float *distances, size_t count, uint32_t first, float *best,
                   uint32_t *labels);

    /* out[16 * g + lane] = scale * |vector - point|^2 for `groups` groups of points in lanes
     * layout. */
    void (*group_l2)(const float *vector, size_t dims, const float *points, size_t groups,
                     float scale, float *out);

    /* k-means++: m = min(nearest[i], |vector - point i|^2); lane_sums[lane] = sum of m over the
     * groups in order; with `update`, nearest[i] = m. */
    void (*seed)(const float *vector, size_t dims, const float *points, size_t groups, bool update,
                 float *nearest, float *lane_sums);

    /* codec_table_gather() on a table of code_bytes x 256 floats. Partial sum j takes the subspaces
     * j, j + 8, ... in order; the eight are added as ((0+4)+(2+6)) + ((1+5)+(3+7)). */
    void (*gather)(const float *table, size_t code_bytes, const uint8_t *codes, const uint32_t *ids,
                   size_t count, float *out);
};

/* The best kernels within `features`. Static storage. */
const struct codec_pq_kernels *codec_pq_kernels_get(unsigned features);

extern const struct codec_pq_kernels codec_pq_kernels_avx2;
extern const struct codec_pq_kernels codec_pq_kernels_avx512;

/* gather() with scalar loads, which every level uses: see codec_pq_table.c for the measurement. */
void codec_pq_gather(const float *table, size_t code_bytes, const uint8_t *codes,
                     const uint32_t *ids, size_t count, float *out);

/* ---- a trained PQ ---- */

struct codec_pq {
    struct codec base;
    const struct codec_pq_kernels *kernels;
    float *centroids; /* as the body of codec.bin */
    float *lanes;     /* the same subspace after subspace, each 16 groups in lanes layout */
    size_t floats;    /* 256 * codec_view_dims(): the length of each */
};

ALWAYS_INLINE uint32_t codec_pq_first(const struct codec_params *params, uint32_t subspace)
{
    uint32_t dims = codec_view_dims(params);
    return subspace * (dims / params->code_bytes) + MIN(subspace, dims % params->code_bytes);
}

ALWAYS_INLINE uint32_t codec_pq_sub_dim(const struct codec_params *params, uint32_t subspace)
{
    uint32_t dims = codec_view_dims(params);
    return dims / params->code_bytes + (subspace < dims % params->code_bytes ? 1u : 0u);
}

/* PQ's sizes, which are those of every kind made of it. */
enum status codec_pq_code_bytes_check(const struct codec_params *params, enum status fault,
                                      struct error *err);

/* How long training may take, and with which instruction sets. */
struct codec_effort {
    unsigned features;
    uint32_t iterations_max; /* of k-means; 0: as codec_train() */
    uint32_t trials;         /* candidates a seed; 0: likewise */
};

/* codec_train() of a PQ with a given effort; params unchecked, so that another codec's inner one
 * may have VECTOR_DIM_MAX + 1 dimensions. */
NODISCARD enum status codec_pq_train(const struct codec_params *params,
                                     const struct codec_effort *effort, const void *rows,
                                     size_t count, struct codec **out, struct error *err);

/* The table of a query that is seen as vector[codec_view_dims()]. */
void codec_pq_table_fill(const struct codec_pq *pq, const float *vector, float scale, float offset,
                         float *table);

size_t codec_pq_table_bytes(const struct codec *codec);
void codec_pq_table_build(const struct codec *codec, const struct codec_params *as_given,
                          const void *query, void *table);
void codec_pq_table_gather(const struct codec *codec, const void *table, const uint8_t *codes,
                           const uint32_t *ids, size_t count, float *out);

#endif
