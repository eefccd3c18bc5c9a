/*
 * block.h - the block: the unit of disk I/O, holding nodes_per_block records in columns.
 *
 *   offset 0   u64 checksum      XXH3-64 of bytes [8, block_bytes), seeded by (generation id, block
 * number) 8   u16 record_count  1..nodes_per_block 10   u8  adjacency     enum block_adjacency 11
 * u8  flags         0 12   u32 reserved      0 16   vectors           record_count * vector_bytes,
 * back to back keys              u64[record_count] list offsets      u16[record_count + 1], bytes
 * from the block's start neighbour lists zeros             to block_bytes; the last
 * BLOCK_TAIL_BYTES belong to no list
 *
 * A neighbour list holds node ids ascending, without ids of its own block: block-mates are implicit
 * neighbours, since whoever reads one record of a block has read them all. Plain lists are u32[];
 * a gap-coded list is u8 degree, 2-bit width selectors (4 a byte, low bits first), then the gaps
 * (first id, then id[i] - id[i-1] - 1) in gap_width[selector] bits each, LSB first. The four
 * widths are fixed per generation, chosen from the histogram of its gaps.
 *
 * node = block * nodes_per_block + slot. All functions are pure and thread-safe; none allocates.
 */
#ifndef NIGHTJAR_LAYOUT_BLOCK_H
#define NIGHTJAR_LAYOUT_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/compiler.h"
#include "common/error.h"

enum {
    BLOCK_PAGE_BYTES = 4096,
    BLOCK_BYTES_MAX = 61440, /* list offsets are u16 */
    BLOCK_HEADER_BYTES = 16,
    BLOCK_TAIL_BYTES = 8, /* lets the gap decoder load 8 bytes at any list position */
    BLOCK_DEGREE_MAX = 255,
    BLOCK_NODES_MAX = 1024,
    BLOCK_GAP_WIDTHS = 4,
};

enum block_adjacency {
    BLOCK_ADJACENCY_PLAIN = 0,
    BLOCK_ADJACENCY_GAPS = 1,
};

/* Fixed for a generation; part of its manifest. */
struct block_geometry {
    uint32_t block_bytes;     /* multiple of BLOCK_PAGE_BYTES, <= BLOCK_BYTES_MAX */
    uint32_t nodes_per_block; /* 1..BLOCK_NODES_MAX */
    uint32_t vector_bytes;    /* dim * element bytes */
    uint32_t node_limit;      /* every node id is below this; block_count * nodes_per_block */
    uint8_t adjacency;        /* enum block_adjacency */
    uint8_t gap_width[BLOCK_GAP_WIDTHS]; /* ascending, 1..32, the last covers node_limit - 1 */
    uint64_t generation_seed;            /* low 64 bits of the generation id */
};

/* Names the first field that is out of range, or that contradicts another: STATUS_INVALID. Every
 * other function here relies on a geometry that passes. */
NODISCARD enum status block_geometry_check(const struct block_geometry *geometry,
                                           struct error *err);

/* Bytes left for neighbour lists when `record_count` records share a block; negative if they do
 * not even fit without lists. */
int64_t block_list_budget(const struct block_geometry *geometry, uint32_t record_count);

/* Encoded size of one list. ids ascending, distinct, < node_limit, degree <= BLOCK_DEGREE_MAX. */
size_t block_list_bytes(const struct block_geometry *geometry, const uint32_t *ids,
                        uint32_t degree);

/* Chooses the four widths that minimise total bits for a histogram: histogram[b] gaps need exactly
 * b bits (b = 0 counts zero gaps), the last width being wide enough for node_limit - 1. */
void block_gap_widths_choose(const uint64_t histogram[33], uint32_t node_limit,
                             uint8_t gap_width[BLOCK_GAP_WIDTHS]);

/* One record handed to the encoder. */
struct block_record {
    uint64_t key;
    const void *vector;  /* vector_bytes */
    const uint32_t *ids; /* ascending, distinct, none in this block, all < node_limit */
    uint32_t degree;
};

/* Writes a whole block (block_bytes, checksum included) for block `block_number`. The records must
 * fit (asserted: the packer has computed sizes with block_list_bytes). */
void block_encode(const struct block_geometry *geometry, uint64_t block_number,
                  const struct block_record *records, uint32_t record_count, void *block);

/* The checksum that belongs into the first 8 bytes of `block`: XXH3-64 of the rest, seeded by
 * random_at(generation_seed, block_number). */
uint64_t block_checksum(const struct block_geometry *geometry, uint64_t block_number,
                        const void *block);

/* A block that passed block_open(). Points into the caller's buffer. */
struct block_view {
    const struct block_geometry *geometry;
    const uint8_t *bytes;
    const uint8_t *vectors; /* record_count * vector_bytes */
    const uint8_t *keys;    /* unaligned u64s: block_key() */
    const uint8_t *offsets; /* unaligned u16s */
    uint32_t first_node;    /* node id of slot 0 */
    uint32_t record_count;
};

enum block_fault {
    BLOCK_OK = 0,
    BLOCK_FAULT_CHECKSUM, /* torn, stale, misplaced or flipped */
    BLOCK_FAULT_HEADER,   /* record count, adjacency, flags or reserved out of range */
    BLOCK_FAULT_OFFSETS,  /* list offsets not ascending or out of the block */
    BLOCK_FAULT_LIST,     /* a list breaks its format or has ids out of order or range */
    BLOCK_FAULT_PADDING,  /* non-zero bytes after the lists (block_check only) */
};
const char *block_fault_name(enum block_fault fault);

/* Verifies checksum, header and offsets of block `block_number` and fills *view (untouched on a
 * fault). Lists are checked as they are decoded. Hot path: ~0.12 us a 4 KB block. */
NODISCARD enum block_fault block_open(const struct block_geometry *geometry, uint64_t block_number,
                                      const void *block, struct block_view *view);

/* Fills *view of a block that passed block_open() before and has stayed in memory since (the
 * cache): no checks, no checksum. */
void block_view_trusted(const struct block_geometry *geometry, uint64_t block_number,
                        const void *block, struct block_view *view);

/* As block_open(), then every list decoded and checked (no id of the block itself, nothing but the
 * encoding that block_encode() would choose), and the padding. For verify and tests. */
NODISCARD enum block_fault block_check(const struct block_geometry *geometry, uint64_t block_number,
                                       const void *block);

uint64_t block_key(const struct block_view *view, uint32_t slot);

ALWAYS_INLINE const void *block_vector(const struct block_view *view, uint32_t slot)
{
    return view->vectors + (size_t)slot * view->geometry->vector_bytes;
}

/* Decodes the list of `slot` into ids[BLOCK_DEGREE_MAX + 1] and returns its degree. A list that
 * breaks its format or names a node >= node_limit yields 0 neighbours and sets *fault (else
 * untouched). */
uint32_t block_neighbors(const struct block_view *view, uint32_t slot, uint32_t *ids,
                         enum block_fault *fault);

/* Ask for the memory that block_neighbors() will read: first the offset, later, when that has
 * arrived, the list itself. */
ALWAYS_INLINE void block_offset_prefetch(const struct block_view *view, uint32_t slot)
{
    PREFETCH(view->offsets + (size_t)slot * sizeof(uint16_t));
}
void block_list_prefetch(const struct block_view *view, uint32_t slot);

/* ---- lists apart from their block: for those who keep all lists in memory, but not the vectors */

enum { BLOCK_LISTS_EXTRA_BYTES = 4 + BLOCK_TAIL_BYTES }; /* beside offsets and lists, at most */

/* Bytes of a verified block's lists when they stand alone. */
size_t block_lists_bytes(const struct block_view *view);

/* Writes them to lists[block_lists_bytes()]. The form is for memory only and not described. */
void block_lists_put(const struct block_view *view, void *lists);

/* Fills a view over what block_lists_put() wrote: good for block_neighbors(), first_node and
 * record_count; it has no vectors and no keys (NULL). */
void block_lists_view(const struct block_geometry *geometry, uint64_t block_number,
                      const void *lists, struct block_view *view);

#endif
