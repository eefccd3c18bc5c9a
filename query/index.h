/*
 * index.h - a generation opened for search: the memory tier.
 *
 * Owns what a search reads without I/O: codes, codec, navigation graph and the block cache (hot
 * blocks, or all of them: "resident"); and what finds the page of keys.bin that has a key.
 * Immutable after index_open(); shared by all workers under a reference count.
 */
#ifndef NIGHTJAR_QUERY_INDEX_H
#define NIGHTJAR_QUERY_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "common/codec.h"
#include "common/distance.h"
#include "common/error.h"
#include "layout/attributes.h"
#include "layout/generation.h"
#include "layout/navigation.h"

struct index_options {
    uint64_t memory_bytes; /* budget of the memory tier; 0: only what there must be, no cache */
    uint32_t threads;      /* that read blocks meanwhile; 0: one for each CPU, up to 16 */
    /* Searches as with the least budget, whatever the budget: the generation's own codes (mapped),
     * lists in blocks, as many blocks cached as the budget pays for beside codes and navigation.
     * What a search finds and asks for is then the same at any budget. */
    bool plain;
    /* The manifest of a generation that has none on disk yet; NULL: it has. Copied. */
    const struct manifest *unfinished;
};

/* How the budget was spent; see index_plan.h for how that is decided. */
struct index_memory {
    uint32_t scalar_bits; /* a dimension, of codes made at open; 0: the generation's own codes */
    uint32_t code_bytes;  /* of the codes in memory */
    uint64_t codes_bytes; /* codes, codec */
    uint64_t navigation_bytes;
    uint64_t attributes_bytes; /* 0: the generation has none */
    uint64_t keys_bytes;       /* first keys of keys.bin's pages */
    uint64_t lists_bytes;      /* neighbour lists kept apart from blocks; 0: none */
    uint64_t cache_bytes;      /* cached blocks and the table that finds them */
    uint64_t cached_blocks;
    uint64_t cached_nodes; /* records in cached blocks */
    uint64_t hot_nodes;    /* length of the prefix of hot.bin that is pinned */
    bool resident;         /* every block is cached: no reads at all */
};

struct index;

/* Whether index_open() can be expected to succeed, as far as that shows without the memory that it
 * takes: the generation opens, the files that would be loaded have their digests, the budget
 * suffices. */
NODISCARD enum status index_probe(const char *path, uint64_t memory_bytes, struct error *err);

/* Opens the generation at `path`, loads and verifies codec, navigation, attributes, codes and first
 * keys, and spends the rest of the budget: finer codes made from the vectors, lists, cached blocks
 * (all from blocks read with O_DIRECT and verified, by several threads). A budget too small for
 * what there must be is STATUS_NO_MEMORY naming the smallest that would do. The caller holds one
 * reference. */
NODISCARD enum status index_open(const char *path, const struct index_options *options,
                                 struct index **out, struct error *err);
struct index *index_retain(struct index *index);
void index_release(struct index *index);

const struct manifest *index_manifest(const struct index *index);
const char *index_path(const struct index *index);
struct index_memory index_memory_of(const struct index *index);
/* As long as the index; column_count 0 where the generation has none. */
const struct attributes *index_attributes(const struct index *index);

#endif
