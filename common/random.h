/*
 * random.h - seeded random numbers that any thread can compute for any position.
 *
 * random_at(seed, i) is a hash of (seed, i) (SplitMix64's finaliser, Steele et al., OOPSLA'14): no
 * state to share, so parallel stages stay deterministic. Not for cryptography.
 */
#ifndef NIGHTJAR_COMMON_RANDOM_H
#define NIGHTJAR_COMMON_RANDOM_H

#include <stdint.h>

#include "common/compiler.h"

ALWAYS_INLINE uint64_t random_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The i-th number of stream `seed`, uniform over u64. */
ALWAYS_INLINE uint64_t random_at(uint64_t seed, uint64_t i)
{
    return random_mix(random_mix(seed + 0x9e3779b97f4a7c15u) + (i + 1) * 0x9e3779b97f4a7c15u);
}

/* Uniform in [0, bound), bound >= 1; bias below 2^-32 for bound < 2^32. */
ALWAYS_INLINE uint64_t random_below(uint64_t seed, uint64_t i, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)random_at(seed, i) * bound) >> 64);
}

/* Uniform in [0, 1) with 53 bits. */
ALWAYS_INLINE double random_unit(uint64_t seed, uint64_t i)
{
    return (double)(random_at(seed, i) >> 11) * 0x1.0p-53;
}

#endif
