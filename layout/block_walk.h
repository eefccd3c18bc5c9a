/*
 * block_walk.h - which blocks of a written nodes.blk a search can get to: reachability over lists
 * that are on disk, with two bits of memory a block.
 *
 * A block is reached when it holds the entry node, or when a list of any record of a reached block
 * names a node of it: whoever reads one record of a block has read them all. Every reached block is
 * read once and verified on the way, so a walk that reaches all blocks has checked every checksum
 * and list.
 */
#ifndef NIGHTJAR_LAYOUT_BLOCK_WALK_H
#define NIGHTJAR_LAYOUT_BLOCK_WALK_H

#include <stdint.h>

#include "common/error.h"
#include "layout/block.h"

enum { BLOCK_WALK_BUFFER_BYTES = 4 << 20 }; /* of the whole team */

struct block_walk_params {
    int fd;                                /* of nodes.blk, readable, O_DIRECT or not; borrowed */
    const char *path;                      /* for messages */
    const struct block_geometry *geometry; /* passes block_geometry_check() */
    uint64_t block_count;                  /* * nodes_per_block >= geometry->node_limit */
    uint32_t entry;                        /* a node below node_limit */

    /* Bit b % 64 of word b / 64 is set when block b was reached; [block_walk_words(block_count)],
     * the caller's; written on success only. NULL: not wanted. */
    uint64_t *reached;

    /* Called by the thread that called block_walk(), every BLOCK_WALK_BUFFER_BYTES of blocks at
     * most, with the count of blocks read so far (ascending, at most block_count). Anything but
     * STATUS_OK ends the walk with it. NULL: nobody is told. */
    enum status (*on_progress)(void *context, uint64_t blocks_read, struct error *err);
    void *context;
};

struct block_walk_result {
    uint64_t reached_blocks; /* 1..block_count */
    uint64_t passes;         /* over the file, with something to read */
};

/* Words of a bitmap with a bit a block. */
uint64_t block_walk_words(uint64_t block_count);

/* Most bytes block_walk() holds at a time, params->reached aside. */
uint64_t block_walk_memory_bytes(uint64_t block_count);

/* Walks from the entry's block. A block that does not verify is STATUS_CORRUPT and named
 * ("PATH: block 17: checksum mismatch"), the lowest of those read at a time; a file that ends too
 * early is STATUS_CORRUPT too. Uses the caller's OpenMP team; result and message are the same at
 * any size of it. *result is written on success only. Blocks, allocates
 * block_walk_memory_bytes(). */
NODISCARD enum status block_walk(const struct block_walk_params *params,
                                 struct block_walk_result *result, struct error *err);

#endif
