/*
 * index_scan.h - one pass over nodes.blk when an index is opened: fills the cache, makes finer
 * codes from the vectors, keeps the lists. Internal to query/index*.c.
 */
#ifndef NIGHTJAR_QUERY_INDEX_SCAN_H
#define NIGHTJAR_QUERY_INDEX_SCAN_H

#include "query/index_internal.h"

/* Fills, from blocks that are read (O_DIRECT where the file has it) and verified:
 *   index->cache     blocks that index_cached_block() knows a place for, if there is a cache
 *   index->codes     every node's, with index->codec, if `encode`
 *   index->lists     every block's, if index->lists is there
 * With neither codes nor lists only cached blocks are read. Uses `threads` threads, up to 16; 0:
 * one for each CPU the process may run on. STATUS_CORRUPT or STATUS_IO name the lowest block at
 * fault.
 */
NODISCARD enum status index_scan(struct index *index, bool encode, uint32_t threads,
                                 struct error *err);

/* Trains a codec on rows of blocks spread evenly over the file, fails if none of these can be read.
 * That others are at fault is for index_scan() to say. *out is the caller's. */
NODISCARD enum status index_codec_train(struct index *index, const struct codec_params *params,
                                        struct codec **out, struct error *err);

void index_lists_free(struct index *index);

#endif
