/*
 * partition.h - the input cut into shards that fit the memory budget.
 *
 * k-means on a sample gives one centroid a shard. Each row is *owned* by one shard, and *borrowed*
 * by up to PARTITION_BORROWERS_MAX others whose border it lies near (closure assignment, as SPANN,
 * NeurIPS'21), so that the shards' graphs hang together after the merge. Counts are exact: no shard
 * owns, borrows or lends more rows than it may, or owns fewer than it must.
 *
 * A row's *position* is its place among all owned rows: those of shard 0 first, ascending by row,
 * then those of shard 1, ... Every later stage names rows by position; shard s owns positions
 * own_starts[s] .. own_starts[s + 1]. With one shard, position = row.
 *
 * Files of the piece {BUILD_STAGE_PARTITION, WORK_WHOLE}, all little-endian and packed:
 *   own-S       one record an owned row, ascending: u32 row, u64 key (only with a key file), vector
 *   borrowed-S  one record a borrowed row, ascending by row: u32 owner shard, u32 index among the
 *               rows that shard owns, vector
 *   sample      the navigation sample, ascending by row: u32 owner, u32 index, vector
 *   queries     rows of the query sample, ascending: u32 owner, u32 index
 */
#ifndef NIGHTJAR_BUILDER_PARTITION_H
#define NIGHTJAR_BUILDER_PARTITION_H

#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/work.h"
#include "common/element.h"
#include "common/error.h"
#include "common/vector_file.h"

enum {
    PARTITION_SHARDS_MAX = 1000,
    PARTITION_BORROWERS_MAX = 3, /* shards that borrow one row */
};

struct partition_params {
    enum metric metric;
    const char *keys;      /* .u64bin, already checked (count, no repeats), or NULL */
    uint32_t shard_count;  /* 1..PARTITION_SHARDS_MAX, <= rows */
    uint64_t own_max;      /* rows one shard may own; own_max * shard_count >= rows */
    uint64_t own_min;      /* rows it must own; own_min * shard_count <= rows */
    uint64_t borrowed_max; /* rows one shard may borrow */
    uint64_t lent_max;     /* times rows of one shard may be borrowed */
    double replication;    /* mean shards a row is in, at most: 1..PARTITION_BORROWERS_MAX + 1 */
    uint32_t sample_count; /* rows of the navigation sample, <= rows */
    uint64_t sample_seed;  /* of row_sample() for it */
    uint32_t query_count;  /* rows of the query sample, <= rows */
    uint64_t query_seed;   /* of row_sample() for it */
    uint64_t seed;
};

/* What the piece's record tells. */
struct partition_info {
    uint32_t shard_count;
    uint32_t reserved; /* 0 */
    uint64_t row_count;
    /* In partition space (partition_internal.h): a shard borrows rows at most so far from its
     * border with their nearest shard. 0: none, as good as. */
    double closure_distance;
    uint64_t own_counts[PARTITION_SHARDS_MAX];
    uint64_t borrowed_counts[PARTITION_SHARDS_MAX];
    uint64_t lent_counts[PARTITION_SHARDS_MAX];
    /* The shard whose border the stitch to shard s starts from: the one of 0..s-1 with the nearest
     * centroid; parents[0] = 0. */
    uint32_t parents[PARTITION_SHARDS_MAX];
};

/* Bytes of an own-S and a borrowed-S (and sample) record. */
size_t partition_own_record_bytes(const struct vector_shape *shape, bool keys);
size_t partition_borrowed_record_bytes(const struct vector_shape *shape);

/* Most bytes partition_run() holds at a time, for build_size.c; less the row numbers of the
 * samples, which are u32. */
uint64_t partition_memory_bytes(const struct vector_shape *shape, uint32_t shard_count,
                                uint32_t threads);

/* Reads a sample of `file`, then its rows once in order, with the caller's OpenMP team, and commits
 * the piece. Progress in rows handed out. The outcome depends on input and params only, not on the
 * team. A wish to stop is heard between chunks of 8 MiB and between the steps of training, but not
 * within k-means. *info is written on success only; all of *cost but what written_bytes had before
 * is measured here. */
NODISCARD enum status partition_run(const struct vector_file *file,
                                    const struct partition_params *params, struct work *work,
                                    const struct build_monitor *monitor,
                                    struct partition_info *info, struct build_stage_record *cost,
                                    struct error *err);

#endif
