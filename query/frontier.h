/*
 * frontier.h - the candidate list of a beam search: the best L nodes by code distance, ascending.
 *
 * An entry is one u64: the distance as an order-preserving u32 above, the node id below. So
 * ordering, tie-breaking and recognising a node met again are one integer comparison, and a node
 * has the same entry however often it is scored (code distances are deterministic). Inline because
 * the search spends its CPU here; one query's, no locks.
 */
#ifndef NIGHTJAR_QUERY_FRONTIER_H
#define NIGHTJAR_QUERY_FRONTIER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/compiler.h"

enum frontier_state {
    FRONTIER_NEW = 0,      /* nothing done yet */
    FRONTIER_EXPANDED = 1, /* its neighbours were offered, its vector not seen */
    FRONTIER_DONE = 2,     /* its block was read, is being read, or was given up */
};

#define FRONTIER_NONE UINT32_MAX

struct frontier {
    uint64_t *entries; /* [capacity + 1] */
    uint8_t *states;   /* [capacity + 1] */
    uint32_t size;
    uint32_t capacity; /* L */
    uint32_t cursor;   /* no entry before it is FRONTIER_NEW */
    uint32_t unread;   /* every entry before it is FRONTIER_DONE */
};

ALWAYS_INLINE uint32_t frontier_order(float distance)
{
    uint32_t bits;
    memcpy(&bits, &distance, sizeof(bits));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

ALWAYS_INLINE float frontier_distance(uint64_t entry)
{
    uint32_t order = (uint32_t)(entry >> 32);
    uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
    float distance;
    memcpy(&distance, &bits, sizeof(distance));
    return distance;
}

ALWAYS_INLINE uint64_t frontier_entry(float distance, uint32_t node)
{
    return (uint64_t)frontier_order(distance) << 32 | node;
}

ALWAYS_INLINE uint32_t frontier_node(uint64_t entry)
{
    return (uint32_t)entry;
}

ALWAYS_INLINE void frontier_reset(struct frontier *f, uint32_t capacity)
{
    f->size = 0;
    f->capacity = capacity;
    f->cursor = 0;
    f->unread = 0;
}

/* An entry at or above this cannot enter. */
ALWAYS_INLINE uint64_t frontier_bound(const struct frontier *f)
{
    return f->size < f->capacity ? UINT64_MAX : f->entries[f->capacity - 1] + 1;
}

/* Inserts the entry with `state`, or, where it is there already, raises its state to `state`.
 * Returns its place, or FRONTIER_NONE when it does not rank. */
static inline uint32_t frontier_insert(struct frontier *f, uint64_t entry, uint8_t state)
{
    if (entry >= frontier_bound(f))
        return FRONTIER_NONE;
    uint32_t low = 0;
    uint32_t span = f->size;
    while (span > 0) {
        uint32_t half = span / 2;
        bool right = f->entries[low + half] < entry;
        low = right ? low + half + 1 : low;
        span = right ? span - half - 1 : half;
    }
    if (low < f->size && f->entries[low] == entry) {
        if (state > f->states[low])
            f->states[low] = state;
        return low;
    }
    uint32_t moved = f->size - low;
    if (f->size == f->capacity)
        moved--;
    else
        f->size++;
    memmove(&f->entries[low + 1], &f->entries[low], moved * sizeof(f->entries[0]));
    memmove(&f->states[low + 1], &f->states[low], moved);
    f->entries[low] = entry;
    f->states[low] = state;
    /* Everything from low on moved up by one; what enters may be what a cursor looks for. */
    if (low < f->cursor)
        f->cursor = state == FRONTIER_NEW ? low : f->cursor + 1;
    if (low < f->unread)
        f->unread = state != FRONTIER_DONE ? low : f->unread + 1;
    return low;
}

/* Place of the best FRONTIER_NEW entry, or FRONTIER_NONE. */
ALWAYS_INLINE uint32_t frontier_next(struct frontier *f)
{
    while (f->cursor < f->size && f->states[f->cursor] != FRONTIER_NEW)
        f->cursor++;
    return f->cursor < f->size ? f->cursor : FRONTIER_NONE;
}

/* Place of the best entry whose vector was not seen, or FRONTIER_NONE. */
ALWAYS_INLINE uint32_t frontier_next_unread(struct frontier *f)
{
    while (f->unread < f->size && f->states[f->unread] == FRONTIER_DONE)
        f->unread++;
    return f->unread < f->size ? f->unread : FRONTIER_NONE;
}

#endif
