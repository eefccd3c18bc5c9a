/*
 * codec_scalar_internal.h - the scalar codec: what its codes and its part of codec.bin hold, and
 * the kernels that each instruction set fills in. Included by codec_scalar*.c and tests.
 *
 * A vector x of D dimensions (codec_view_dims()) is centred and rotated, x' = P (x - mean), and
 * each coordinate of x' becomes one of 2^b odd integers y = 2u - M, M = 2^b - 1, b = 1, 2 or 4. The
 * code says x' ~ f y with f = <x', y> / <y, y>, the least squares factor. With a query rotated
 * likewise
 *
 *   |q' - x'|^2 ~ |q'|^2 - 2 f <y, q'> + f^2 <y, y>
 *
 * and both products are integers once q' is rounded to signed bytes.
 *
 * A code is ceil(D b / 8) bytes of u, then f / unit as IEEE binary16. Dimensions come in chunks of
 * 128, the last of which has what remains. A chunk of t dimensions is n = ceil(t b / 8) bytes:
 * dimension d of it is in byte d mod n, bits b * (d / n) to b * (d / n) + b - 1. Bits of the last
 * byte(s) that no dimension has are zeros. So a whole chunk of 4 bits has dimensions 0 to 63 in the
 * low halves of 64 bytes and 64 to 127 in the high ones: masks and shifts of a register are all
 * that unpacking takes. The code of x' = 0, or of anything so near to the mean that f / unit is 0,
 * is zeros.
 *
 * Body of codec.bin: f32 unit, from 1e-18 to 1e18; D f32 mean, every one finite.
 *
 * P is a product of rounds, each signs and a Walsh-Hadamard transform (codec_rotation.h): nothing
 * of it is stored, as the signs follow from the seed.
 */
#ifndef NIGHTJAR_COMMON_CODEC_SCALAR_INTERNAL_H
#define NIGHTJAR_COMMON_CODEC_SCALAR_INTERNAL_H

#include "common/codec_internal.h"

enum {
    CODEC_SCALAR_CHUNK = 128,     /* dimensions */
    CODEC_SCALAR_FACTOR_BYTES = 2 /* at the end of a code */
};

/* What a query's table starts with; the kernels need nothing else. */
struct codec_scalar_table {
    /* An estimate is max(0, (base - linear * (f * dot)) + square * ((f * f) * norm)) + offset, each
     * operation rounded to f32, where f is the code's binary16, dot = <y, query> and norm = <y, y>,
     * both exact. */
    float base, linear, square, offset;
    int32_t dot_base;  /* -M * sum of query: dot = 2 <u, query> + dot_base */
    int32_t norm_base; /* D * M^2: norm = 4 <u, u - M> + norm_base */
    uint32_t code_bytes;
    uint32_t chunks; /* whole ones */
    uint32_t tail;   /* bytes of the last chunk if it is none, else 0 */
    uint32_t reserved[7];
    /* CODEC_SCALAR_CHUNK bytes a chunk. A whole chunk of b bits has 16 b bytes; the query's value
     * for the bits [b k, b k + b) of byte i is at k * 16 b + i, in the last chunk too. Zeros where
     * there is no dimension. */
    ALIGNED(64) int8_t query[];
};

_Static_assert(offsetof(struct codec_scalar_table, query) == 64, "aligned loads of the query");

/* codec_table_gather() for 1, 2 and 4 bits. */
typedef void codec_scalar_gather_fn(const struct codec_scalar_table *table, const uint8_t *codes,
                                    const uint32_t *ids, size_t count, float *out);

struct codec_scalar_kernels {
    codec_scalar_gather_fn *gather[5]; /* by bits; NULL at 0 and 3 */
};

/* The best kernels within `features`. Static storage. */
const struct codec_scalar_kernels *codec_scalar_kernels_get(unsigned features);

extern const struct codec_scalar_kernels codec_scalar_kernels_avx2;
extern const struct codec_scalar_kernels codec_scalar_kernels_vnni;

ALWAYS_INLINE size_t codec_scalar_bytes(size_t dims, uint32_t bits)
{
    return (dims * bits + 7) / 8;
}

#endif
