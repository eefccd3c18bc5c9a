/*
 * codec_opq_internal.h - what the files of the OPQ codec share: its kernels, a trained codec, and
 * training one variant. Included by codec_opq*.c, codec_choose.c and tests.
 *
 * A vector x, as codecs see it (codec_view: D coordinates), is centred on the sample's mean mu,
 * turned and cut to y = R (x - mu), K coordinates, and y is coded by a PQ that knows nothing of
 * this. R has orthonormal rows, so distances between y's are distances between x's less what lies
 * outside R's span; there every reconstruction is the mean, which makes that part the same number
 * for all codes of a query.
 *
 * The body of codec.bin (little-endian), D = codec_view_dims(params):
 *
 *   offset size
 *        0    4  u32 variant    CODEC_OPQ_* flags
 *        4    4  u32 kept       K: S..D with CODEC_OPQ_TURN, else D
 *        8    4  f32 low        correction of level 0, finite; 0 without CODEC_OPQ_CORRECT
 *       12    4  f32 step       between levels, finite and >= 0, likewise
 *       16  4 D  f32 mean       mu, finite
 *            4 K D  f32 turn    with CODEC_OPQ_TURN: R, row after row; finite, each row of length 1
 *                               within 1e-3
 *            1024 K  f32        centroids, as the body of a PQ of dim K and code_bytes S
 *
 * S = code_bytes, less one with CODEC_OPQ_CORRECT, whose byte is a code's last: it stands for
 * h = low + byte * step, the nearest to (|x - mu|^2 - |c - mu|^2) / 2 with c the reconstruction,
 * and is added to the squared distance between query and c. Of what coding does to a distance from
 * q, |q - x|^2 - |q - c|^2 = |x - mu|^2 - |c - mu|^2 - 2 (q - mu).(x - c), the first two terms are
 * known when x is coded; half of them is right for a query as far along x's direction as one that
 * is near it is on average, while all of them suits a random query.
 */
#ifndef NIGHTJAR_COMMON_CODEC_OPQ_INTERNAL_H
#define NIGHTJAR_COMMON_CODEC_OPQ_INTERNAL_H

#include "common/codec_internal.h"

enum codec_opq_variant {
    CODEC_OPQ_TURN = 1u << 0,    /* to principal axes, those below the water level dropped */
    CODEC_OPQ_CORRECT = 1u << 1, /* a byte of the code corrects distances */
    CODEC_OPQ_VARIANTS = 1u << 2,
};

struct codec_opq_file_header {
    uint32_t variant;
    uint32_t kept;
    float low;
    float step;
};

_Static_assert(sizeof(struct codec_opq_file_header) == 16, "codec.bin opq header is 16 bytes");
_Static_assert(offsetof(struct codec_opq_file_header, kept) == 4, "codec.bin opq offset");
_Static_assert(offsetof(struct codec_opq_file_header, low) == 8, "codec.bin opq offset");
_Static_assert(offsetof(struct codec_opq_file_header, step) == 12, "codec.bin opq offset");

/* ---- kernels ---- */

/* As codec_pq_kernels: every level gives the same bits, each output accumulating over its
 * dimensions in order with one fused multiply-add each. */
struct codec_opq_kernels {
    /* The tile's points times its `centroids`, here rows of a matrix: distances are products. */
    void (*products)(const struct codec_pq_tile *tile);

    /* out[16 * g + lane] = vector . point, for `groups` groups of points in lanes layout. */
    void (*group_products)(const float *vector, size_t dims, const float *points, size_t groups,
                           float *out);
};

/* The best kernels within `features`. Static storage. */
const struct codec_opq_kernels *codec_opq_kernels_get(unsigned features);

extern const struct codec_opq_kernels codec_opq_kernels_avx2;
extern const struct codec_opq_kernels codec_opq_kernels_avx512;

/* ---- a trained OPQ ---- */

struct codec_opq {
    struct codec base;
    const struct codec_opq_kernels *kernels;
    struct codec *inner; /* a PQ: f32, l2, dim = kept */
    uint32_t variant;
    uint32_t dims; /* D */
    uint32_t kept; /* K */
    float low, step;
    float *mean;   /* D */
    float *turn;   /* K x D; NULL: x - mu as it is */
    float *lanes;  /* the same, groups of 16 rows in lanes layout */
    double *norms; /* [S][256]: squared lengths of centroids */
};

ALWAYS_INLINE uint32_t codec_opq_subspaces(const struct codec_opq *opq)
{
    return opq->base.params.code_bytes - (opq->variant & CODEC_OPQ_CORRECT ? 1u : 0u);
}

/* One without an inner codec: room for mean and turn. */
NODISCARD enum status codec_opq_create(const struct codec_params *params, uint32_t variant,
                                       uint32_t kept, unsigned features, struct codec_opq **out,
                                       struct error *err);
void codec_opq_destroy(struct codec *codec);

/* Fills lanes and norms when mean, turn and inner are in place. */
void codec_opq_finish(struct codec_opq *opq);

/* What codes are made of: up to 16 rows, centred and turned. */
struct codec_opq_batch {
    ALIGNED(64) float centred[CODEC_LANES * (VECTOR_DIM_MAX + 1)]; /* rows of D */
    ALIGNED(64) float turned[CODEC_LANES * (VECTOR_DIM_MAX + 1)];  /* rows of K */
};

/* Transforms `count` <= 16 rows; returns where the results are, row after row of K. */
const float *codec_opq_transform(const struct codec_opq *opq, const void *const *rows, size_t count,
                                 struct codec_opq_batch *batch);

/* The correction of row `i` of the batch, of which `code` is what the inner codec made. */
double codec_opq_correction(const struct codec_opq *opq, const struct codec_opq_batch *batch,
                            size_t i, const uint8_t *code);

/* codec_train() of one variant with a given effort. Variants that do not fit (a correction with one
 * byte) lose what does not. */
NODISCARD enum status codec_opq_train(const struct codec_params *params,
                                      const struct codec_effort *effort, uint32_t variant,
                                      const void *rows, size_t count, struct codec **out,
                                      struct error *err);

/* The variant of a plain codec_train(): what it can afford without measuring. */
uint32_t codec_opq_variant_default(const struct codec_params *params);

/* Logarithm of a positive, normal value: the same bits everywhere, which libm does not promise. */
double codec_opq_log2(double value);

#endif
