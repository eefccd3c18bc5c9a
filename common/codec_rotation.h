/*
 * codec_rotation.h - a random orthogonal transform that takes n log n steps and no memory but
 * signs.
 *
 * Rounds of random signs and a normalised Walsh-Hadamard transform (Ailon and Chazelle, STOC 2006).
 * A transform needs a power of two: where the dimension n is none, rounds alternate between the
 * first and the last p coordinates, p the largest power of two below n; as 2p > n they overlap and
 * mix.
 *
 * A rotation is immutable once made. The same bits on every machine: single f32 operations in a
 * fixed order.
 */
#ifndef NIGHTJAR_COMMON_CODEC_ROTATION_H
#define NIGHTJAR_COMMON_CODEC_ROTATION_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct codec_rotation {
    uint32_t dims;
    uint32_t power;  /* p */
    uint32_t rounds; /* 3 where p == dims, else 4 */
    float *signs;    /* rounds x p of +-1 / sqrt(p) */
};

NODISCARD enum status codec_rotation_init(struct codec_rotation *rotation, uint32_t dims,
                                          uint64_t seed, struct error *err);
void codec_rotation_fini(struct codec_rotation *rotation);

/* Replaces values[dims] by their image. No allocation; thread-safe. */
void codec_rotation_apply(const struct codec_rotation *rotation, float *values);

#endif
