/*
 * block_hash_avx2.c - XXH3 inlined from its header, which picks its vector unit from the compiler's
 * flags. Stateless, thread-safe.
 */
#include <immintrin.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "layout/block_hash.h"

uint64_t block_hash_avx2(const void *data, size_t bytes, uint64_t seed)
{
    uint64_t hash = XXH3_64bits_withSeed(data, bytes, seed);
    /* gcc leaves the upper halves dirty here (the header's optimisation pragmas switch that pass
     * off), which makes SSE code after it, libxxhash's own for one, up to three times slower. */
    _mm256_zeroupper();
    return hash;
}
