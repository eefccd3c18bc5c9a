/*
 * index_internal.h - the memory tier's fields, for the search state machine's hot path only.
 */
#ifndef NIGHTJAR_QUERY_INDEX_INTERNAL_H
#define NIGHTJAR_QUERY_INDEX_INTERNAL_H

#include <stdatomic.h>

#include "layout/keys.h"
#include "query/index.h"

#define INDEX_NOT_CACHED UINT32_MAX

struct index {
    atomic_uint references;
    struct generation *generation;
    const struct manifest *manifest;
    struct block_geometry geometry;
    uint64_t block_divisor; /* node -> block without a division: index_block_of() */
    int nodes_fd;

    int keys_fd;
    struct keys_shape keys;
    uint64_t *key_firsts; /* [keys_pages(keys.count)]: the first key of each page */
    struct distance distance;

    struct codec *codec;
    uint8_t *codes; /* node_limit * code_bytes */
    size_t codes_bytes;
    const void *codes_mapped; /* where they are the file's own pages; `codes` is the same */
    uint32_t code_bytes;      /* of codes in memory, which may be finer than the generation's */

    void *navigation_file;
    size_t navigation_file_bytes;
    struct navigation navigation;
    uint8_t *navigation_codes; /* codes of navigation.nodes, side by side */

    void *attributes_file; /* NULL: there is none */
    size_t attributes_file_bytes;
    struct attributes attributes;

    const uint8_t **lists;      /* [block_count] from block_lists_put(), or NULL: in blocks only */
    struct index_arena *arenas; /* where they lie */

    uint8_t *cache; /* cached blocks */
    uint64_t cache_blocks;
    uint32_t
        *cache_slot; /* [block_count]: place in cache, or INDEX_NOT_CACHED; NULL: all or none */
    atomic_uint_fast64_t cached_nodes; /* counted while the cache is filled */
    struct index_memory memory;
};

/* floor(node / nodes_per_block), exact for 32-bit operands (Lemire, Kaser, Kurz 2019: one multiply
 * by ceil(2^64 / d)); d = 1 has divisor 0 and is answered as such. */
ALWAYS_INLINE uint32_t index_block_of(const struct index *index, uint32_t node)
{
    if (index->block_divisor == 0)
        return node;
    return (uint32_t)(((unsigned __int128)index->block_divisor * node) >> 64);
}

/* Where the cache has the block, or NULL. */
ALWAYS_INLINE uint8_t *index_cache_place(const struct index *index, uint32_t block)
{
    size_t slot = block;
    if (!index->memory.resident) {
        if (!index->cache_slot || index->cache_slot[block] == INDEX_NOT_CACHED)
            return NULL;
        slot = index->cache_slot[block];
    }
    return index->cache + slot * index->geometry.block_bytes;
}

/* The block in memory, or NULL when it has to be read. */
ALWAYS_INLINE const void *index_cached_block(const struct index *index, uint32_t block)
{
    return index_cache_place(index, block);
}

/* Whether a node's neighbours are known without a read. */
ALWAYS_INLINE bool index_lists_in_memory(const struct index *index)
{
    return index->lists || index->memory.resident;
}

#endif
