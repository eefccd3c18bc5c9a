/*
 * keys.h - keys.bin: which node has a key. The file is pages of 4096 bytes, each with a checksum of
 * its own, so that a reader holds little of it and reads the page it needs.
 *
 * Key pages come first: all keys of the index, ascending, with their nodes. Directory pages follow:
 * the first key of each key page. Every page is full but the last of its kind; what is not used is
 * zero.
 *
 *   0 u64 checksum   8 u32 count   12 u32 zero
 *   key page:        16 u64 keys[340]   2736 u32 nodes[340]
 *   directory page:  16 u64 first keys[510]
 *
 * A lookup takes one page where all first keys are in memory (8 bytes for 340 vectors), and finds
 * it by bisection. All functions are pure and thread-safe; none allocates.
 */
#ifndef NIGHTJAR_LAYOUT_KEYS_H
#define NIGHTJAR_LAYOUT_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/compiler.h"
#include "layout/manifest.h"

enum {
    KEYS_PAGE_BYTES = 4096,
    KEYS_PAGE_KEYS = 340,   /* keys on a key page */
    KEYS_PAGE_FIRSTS = 510, /* first keys on a directory page */
};

/* What a generation's other files say of this one. */
struct keys_shape {
    uint64_t count;           /* vectors, 1..UINT32_MAX */
    uint64_t generation_seed; /* low half of the generation id */
    uint32_t node_limit;
};
struct keys_shape keys_shape_of(const struct manifest *manifest);

/* Key pages, which have the numbers from 0; directory pages, which have those after. */
ALWAYS_INLINE uint32_t keys_pages(uint64_t count)
{
    return (uint32_t)((count + KEYS_PAGE_KEYS - 1) / KEYS_PAGE_KEYS);
}
ALWAYS_INLINE uint32_t keys_directory_pages(uint64_t count)
{
    return (keys_pages(count) + KEYS_PAGE_FIRSTS - 1) / KEYS_PAGE_FIRSTS;
}
/* Length of the file. */
ALWAYS_INLINE uint64_t keys_bytes(uint64_t count)
{
    return ((uint64_t)keys_pages(count) + keys_directory_pages(count)) * KEYS_PAGE_BYTES;
}

/* How many keys page `page` < keys_pages() has. */
uint32_t keys_page_count(const struct keys_shape *shape, uint32_t page);
/* How many first keys directory page `page` < keys_directory_pages() has. */
uint32_t keys_directory_count(const struct keys_shape *shape, uint32_t page);

/* Writes key page `page` into bytes[KEYS_PAGE_BYTES]: its keys_page_count() keys, ascending, and
 * their nodes. */
void keys_page_encode(const struct keys_shape *shape, uint32_t page, const uint64_t *keys,
                      const uint32_t *nodes, void *bytes);

/* Writes directory page `page`: the first keys of the keys_directory_count() key pages from
 * page * KEYS_PAGE_FIRSTS on. */
void keys_directory_encode(const struct keys_shape *shape, uint32_t page, const uint64_t *firsts,
                           void *bytes);

enum keys_fault {
    KEYS_OK = 0,
    KEYS_FAULT_CHECKSUM, /* torn, stale, misplaced or flipped */
    KEYS_FAULT_HEADER,   /* another count than its place gives it, or reserved bytes set */
    KEYS_FAULT_ORDER,    /* keys do not ascend */
    KEYS_FAULT_NODE,     /* a node beyond node_limit */
    KEYS_FAULT_PADDING,  /* unused bytes set */
    KEYS_FAULT_FIRSTS,   /* a directory page has other first keys than the pages; verify only */
};
const char *keys_fault_name(enum keys_fault fault);

/* A key page that passed keys_page_open(). Points into the caller's buffer. */
struct keys_page {
    const uint64_t *keys;
    const uint32_t *nodes;
    uint32_t count; /* 1..KEYS_PAGE_KEYS */
};

/* Verifies key page `page` whole (`bytes` 8-byte aligned) and fills *view, untouched on a fault.
 * 0.4 us. */
NODISCARD enum keys_fault keys_page_open(const struct keys_shape *shape, uint32_t page,
                                         const void *bytes, struct keys_page *view);

/* Verifies directory page `page` whole and copies its first keys to firsts[keys_directory_count()],
 * untouched on a fault. */
NODISCARD enum keys_fault keys_directory_open(const struct keys_shape *shape, uint32_t page,
                                              const void *bytes, uint64_t *firsts);

/* The node of `key`; false: not on the page. */
bool keys_page_find(const struct keys_page *page, uint64_t key, uint32_t *node);

/* Which of `count` ascending first keys' pages would have `key`: the last that is not above it.
 * False: it is below all. */
bool keys_find_page(const uint64_t *firsts, uint32_t count, uint64_t key, uint32_t *page);

#endif
