/*
 * codec.h - compressed vectors for in-memory distance estimates.
 *
 * A codec is trained once on a sample, encodes every vector to code_bytes, and at query time turns
 * a query into a table from which distances to codes are estimated. It is an interface: product
 * quantization (codec_pq.c; Jegou, Douze, Schmid, TPAMI 2011) is the first kind, the same of
 * vectors turned to their principal axes (codec_opq.c; after Ge et al., CVPR 2013) the second,
 * scalar quantization of a randomly rotated vector (codec_scalar.c; after Gao et al., SIGMOD 2024
 * and 2025) the third.
 *
 * Estimates follow the metric's definition in element.h: squared L2, minus inner product, or
 * 1 - cosine (codec input is normalised inside the codec for cosine, so callers pass vectors as
 * stored). Results are bit-identical at any thread count and instruction set.
 *
 * A trained codec is immutable and may be shared by any number of threads.
 */
#ifndef NIGHTJAR_COMMON_CODEC_H
#define NIGHTJAR_COMMON_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "common/element.h"
#include "common/error.h"

enum codec_kind {
    CODEC_NONE = 0,
    CODEC_PQ = 1,     /* code_bytes subspaces (split as evenly as dim allows), 256 centroids each */
    CODEC_OPQ = 2,    /* PQ of vectors turned to principal axes, and/or with a byte that corrects */
    CODEC_SCALAR = 3, /* 1, 2 or 4 bits a dimension and a factor a vector */
    CODEC_AUTO = 255, /* never of a codec: asks codec_choose.h for the kind that suits */
};

/* "pq", "opq", "scalar", "auto"; "none" for anything else. Static storage. */
const char *codec_kind_name(enum codec_kind kind);

/* Its inverse; CODEC_NONE for any other word. */
enum codec_kind codec_kind_parse(const char *name);

struct codec;

struct codec_params {
    enum codec_kind kind;
    enum metric metric;
    enum element_type type;
    uint32_t dim;
    uint32_t code_bytes; /* see codec_code_bytes_check() */
    uint64_t seed;
    float norm_max; /* METRIC_IP: the largest |x| to be encoded; training raises it to its sample's.
                     * Other metrics: ignored, and 0 in codec_params_of() */
};

/* Whether params->kind has codes of params->code_bytes for params->dim and params->metric, which
 * are valid: PQ and OPQ any from 1 to dim, scalar those of codec_scalar_code_bytes(). If not,
 * STATUS_INVALID and what would do; STATUS_UNSUPPORTED for a kind that this build does not know. */
NODISCARD enum status codec_code_bytes_check(const struct codec_params *params, struct error *err);

/* Size of a scalar code at `bits` (1, 2 or 4) a dimension: the bits, rounded up to bytes, and 2.
 * Inner product has one more dimension. Where few dimensions make sizes coincide, the most bits
 * are meant. */
uint32_t codec_scalar_code_bytes(uint32_t dim, enum metric metric, uint32_t bits);

/* Trains on `count` >= 1 packed rows of params->type (a sample the caller drew; 256 to 262,144 rows
 * are useful). PQ: k-means++ seeding, Lloyd iterations, empty clusters reseeded; fewer than 256
 * distinct rows are fine. Scalar: mean and spread. Uses OpenMP with the current thread count. On
 * success *out is the caller's. */
NODISCARD enum status codec_train(const struct codec_params *params, const void *rows, size_t count,
                                  struct codec **out, struct error *err);
void codec_destroy(struct codec *codec);

struct codec_params codec_params_of(const struct codec *codec);

/* Encodes `count` packed rows of the codec's element type into codes (count * code_bytes).
 * Single-threaded; thread-safe, so the caller parallelises over row ranges. No allocation. */
void codec_encode(const struct codec *codec, const void *rows, size_t count, uint8_t *codes);

/* Size of a query table; table memory is the caller's, 64-byte aligned. */
size_t codec_table_bytes(const struct codec *codec);

/* Fills `table` for a query of the codec's element type. No allocation; thread-safe. */
void codec_table_build(const struct codec *codec, const void *query, void *table);

/* Likewise for a query of another element type: a codec of stored vectors, asked in f32. */
void codec_table_build_from(const struct codec *codec, enum element_type type, const void *query,
                            void *table);

/* out[i] = estimated distance from the table's query to codes + ids[i] * code_bytes, prefetching
 * ahead. ids in any order. No allocation. */
void codec_table_gather(const struct codec *codec, const void *table, const uint8_t *codes,
                        const uint32_t *ids, size_t count, float *out);

/* Serialised form (codec.bin): self-describing, versioned, little-endian, described in
 * layout/FORMAT.md. codec_serialize mallocs *bytes (caller frees). codec_deserialize trusts
 * nothing: every length and value is checked before use. */
NODISCARD enum status codec_serialize(const struct codec *codec, uint8_t **bytes, size_t *length,
                                      struct error *err);
NODISCARD enum status codec_deserialize(const uint8_t *bytes, size_t length, struct codec **out,
                                        struct error *err);

#endif
