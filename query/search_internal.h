/*
 * search_internal.h - what the files of a search share: the sets that it keeps, and the steps that
 * one file takes for another. Internal to search*.c.
 */
#ifndef NIGHTJAR_QUERY_SEARCH_INTERNAL_H
#define NIGHTJAR_QUERY_SEARCH_INTERNAL_H

#include "query/filter.h"
#include "query/search.h"

enum {
    SEARCH_BATCH = 1024, /* nodes estimated in one go */
};

/* ---- sets ---- */

ALWAYS_INLINE uint32_t search_spread(uint32_t x)
{
    return (x * 0x9e3779b1u) >> 12 ^ x;
}

/* False when it is there already, as far as the set remembers. */
ALWAYS_INLINE bool seen_add(uint32_t *seen, uint32_t mask, uint32_t id)
{
    uint32_t *slot = &seen[search_spread(id) & mask];
    if (*slot == id)
        return false;
    *slot = id;
    return true;
}

ALWAYS_INLINE bool blocks_contain(const struct search *s, uint32_t block)
{
    for (uint32_t i = search_spread(block) & s->blocks_mask;; i = (i + 1) & s->blocks_mask) {
        if (s->blocks[i] == block)
            return true;
        if (s->blocks[i] == SEARCH_NO_BLOCK)
            return false;
    }
}

/* ---- search.c ---- */

/* Nothing as far as this is worth a read any more. */
bool search_past(const struct search *s, float code_distance);

/* Whether an entry at this place of the frontier is among those to expand and to read. */
ALWAYS_INLINE bool search_ranks(const struct search *s, uint32_t place, uint64_t entry)
{
    return place < s->list || frontier_distance(entry) <= s->reach;
}

ALWAYS_INLINE bool search_excludes(const struct search *s, uint32_t node)
{
    return s->query->excludes && node == s->query->excluded_node;
}

/* An entry at or above this would not rank. */
ALWAYS_INLINE uint64_t search_bound(const struct search *s)
{
    const struct frontier *f = &s->frontier;
    uint64_t bound = frontier_bound(f);
    if (LIKELY(f->capacity == s->list) || f->size < s->list)
        return bound;
    uint64_t ranked = f->entries[s->list - 1] + 1;
    uint64_t reached = frontier_entry(s->reach, UINT32_MAX);
    return MIN(bound, MAX(ranked, reached));
}

/* ---- search_block.c ---- */

/* Acts on a block: hits, and what its records lead to. */
void search_consider(struct search *s, const struct block_view *view);

/* Adds a scored record to the hits, if it is one. */
void search_hit(struct search *s, float exact, uint64_t key, uint32_t node);

/* Adds the neighbours of `slot` that were not met before to scratch->ids from `count` on; returns
 * how many there are then. */
uint32_t search_gather(struct search *s, const struct block_view *view, uint32_t slot,
                       uint32_t count);

/* Estimates scratch->ids[0 .. count) and offers them to the frontier. */
void search_offer(struct search *s, uint32_t count);

/* Offers a node whose code distance is known. */
void search_offer_one(struct search *s, float distance, uint32_t node);

/* ---- search_memory.c ---- */

/* Offers the neighbours of all that ranks, until nothing new does: a search by codes alone. */
void search_expand(struct search *s);

/* Scores the candidate in a cached block: a search without reads. */
void search_score(struct search *s, uint32_t node);

/* ---- search_filter.c; all but the first are for searches with a filter ---- */

/* Chooses how the query's filter is met, before there are candidates. */
void search_filter_start(struct search *s);

/* Offers some that match as entry points: they may lie where nothing near the query leads to. */
void search_filter_enter(struct search *s);

/* Fills the frontier with the best of all that match, or goes on to: a part at a time. While parts
 * are left, the scan stays due. May set s->late. */
void search_filter_scan(struct search *s);

/* Place of the candidate in `passage` whose block is to be read before the next of the frontier,
 * or FRONTIER_NONE. */
uint32_t search_filter_passage(struct search *s);

/* That block is being read for it. */
void search_filter_passed(struct search *s, uint32_t block);

/* A block was acted on; its gain tells whether more of those that do not match are worth a read. */
void search_filter_gained(struct search *s, uint32_t block);

/* Nothing is left to read: whether there is to be a scan, because hits are missing. */
bool search_filter_goes_on(struct search *s);

#endif
