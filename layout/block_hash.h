/*
 * block_hash.h - XXH3-64 with a seed, as fast as this CPU can.
 *
 * Every block read is hashed before it is believed, so this is on the path of every query. The
 * distribution's libxxhash is built for SSE2: 230 ns for a 4 KB block on an AMD Zen 4 core. The
 * same source inlined for AVX2 gives the same value in 100 ns. AVX-512 was no faster there, so
 * there is no third variant. block_hash.c chooses by cpu_features().
 */
#ifndef NIGHTJAR_LAYOUT_BLOCK_HASH_H
#define NIGHTJAR_LAYOUT_BLOCK_HASH_H

#include <stddef.h>
#include <stdint.h>

/* XXH3_64bits_withSeed(data, bytes, seed). Thread-safe; no allocation; reads nothing outside data.
 */
typedef uint64_t (*block_hash_fn)(const void *data, size_t bytes, uint64_t seed);

uint64_t block_hash_baseline(const void *data, size_t bytes, uint64_t seed);
uint64_t block_hash_avx2(const void *data, size_t bytes, uint64_t seed);

/* The fastest of them within `features`, a subset of cpu_features(). */
block_hash_fn block_hash_get(unsigned features);

#endif
