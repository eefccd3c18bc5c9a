/*
 * block_hash.c - the baseline hash and the choice between the variants. Stateless, thread-safe.
 */
#include "layout/block_hash.h"

#include <xxhash.h>

#include "common/cpu.h"

uint64_t block_hash_baseline(const void *data, size_t bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, bytes, seed);
}

block_hash_fn block_hash_get(unsigned features)
{
    return features & CPU_AVX2 ? block_hash_avx2 : block_hash_baseline;
}
