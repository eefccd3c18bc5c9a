/*
 * index_plan.h - how a memory budget is spent. Arithmetic on a manifest alone: nothing is read, so
 * a plan can be printed for an index of any size.
 *
 * What saves most reads for a byte comes first (docs/ARCHITECTURE.md, "Memory tier"):
 *   1. codes and navigation graph: there is no search without them; attributes, where there are
 *      some: no filter without; the first keys of keys.bin's pages, some 24 bytes for a thousand
 *      vectors;
 *   2. neighbour lists of all nodes, where they are small beside the vectors;
 *   3. finer codes in place of those, made from the vectors when the index is opened;
 *   4. whole blocks in the order of the hot list, up to all of them ("resident").
 */
#ifndef NIGHTJAR_QUERY_INDEX_PLAN_H
#define NIGHTJAR_QUERY_INDEX_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/manifest.h"

struct index_plan {
    uint32_t scalar_bits; /* bits a dimension of codes made at open; 0: the generation's codes */
    uint32_t code_bytes;  /* of the codes in memory */
    bool lists;           /* neighbour lists apart from their blocks */
    bool resident;        /* every block */
    uint64_t cached_blocks;
    /* what these take */
    uint64_t codes_bytes; /* with the codec */
    uint64_t navigation_bytes;
    uint64_t attributes_bytes;
    uint64_t keys_bytes;  /* the first key of each page of keys.bin */
    uint64_t lists_bytes; /* at most: lists differ in length */
    uint64_t cache_bytes; /* blocks, and the table that finds them */
};

/* Spends `budget` bytes; 0 stands for what there must be alone. STATUS_NO_MEMORY with the least
 * that would do when the budget does not pay for those. */
NODISCARD enum status index_plan_make(const struct manifest *manifest, uint64_t budget,
                                      struct index_plan *out, struct error *err);

/* The plan of index_options.plain. */
void index_plan_make_plain(const struct manifest *manifest, uint64_t budget,
                           struct index_plan *out);

/* A budget from which on the tier holds something that it does not below. */
struct index_step {
    uint64_t budget;
    struct index_plan plan;
};

enum { INDEX_STEPS_MAX = 12 };

/* The steps of `manifest`, ascending, from the least budget to the one that makes it resident;
 * returns how many there are. */
uint32_t index_plan_steps(const struct manifest *manifest,
                          struct index_step steps[INDEX_STEPS_MAX]);

#endif
