/*
 * shard.h - what the stages that work on one shard at a time share: the partition as they see it,
 * and a shard's rows in RAM.
 *
 * Rows are named by position (partition.h). Inside a shard they have local ids: the rows it owns
 * first, by position, then those it borrows, by position.
 */
#ifndef NIGHTJAR_BUILDER_SHARD_H
#define NIGHTJAR_BUILDER_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/partition.h"
#include "builder/vector_set.h"
#include "builder/work.h"
#include "common/error.h"
#include "common/vector_file.h"

/* The partition of a build and where its pieces are. Immutable; shared by all lanes. */
struct shard_plan {
    struct work *work;
    struct vector_shape shape;
    enum metric metric;
    float norm_max; /* of the whole input */
    bool keys;      /* records have one */
    uint32_t shard_count;
    uint32_t starts[PARTITION_SHARDS_MAX + 1]; /* shard s owns positions starts[s]..starts[s+1] */
    uint32_t borrowed_counts[PARTITION_SHARDS_MAX];
    uint32_t parents[PARTITION_SHARDS_MAX]; /* as in partition_info */
};

/* `plan` has its work, shape, metric, norm_max and keys set; the rest follows from `info`. */
void shard_plan_init(struct shard_plan *plan, const struct partition_info *info);

ALWAYS_INLINE uint32_t shard_own_count(const struct shard_plan *plan, uint32_t shard)
{
    return plan->starts[shard + 1] - plan->starts[shard];
}

/* A shard's rows. */
struct shard_rows {
    const struct shard_plan *plan;
    uint32_t shard;
    uint32_t own_count;
    uint32_t borrowed_count;
    struct vector_set set; /* local ids, then `spare` rows for the caller */
    uint32_t *borrowed;    /* [borrowed_count] positions, ascending */
};

/* Loads the shard's rows into a new set with `spare` more rows, zero. The caller calls
 * vector_set_prepare() once it has filled those, and shard_rows_destroy() in the end. */
NODISCARD enum status shard_rows_load(const struct shard_plan *plan, uint32_t shard, uint32_t spare,
                                      struct shard_rows *rows, struct error *err);
void shard_rows_destroy(struct shard_rows *rows);

/* Position of a local id; id < own_count + borrowed_count. */
ALWAYS_INLINE uint32_t shard_position(const struct shard_rows *rows, uint32_t id)
{
    return id < rows->own_count ? rows->plan->starts[rows->shard] + id
                                : rows->borrowed[id - rows->own_count];
}

/* Local id of a position the shard owns or borrows, else UINT32_MAX. */
uint32_t shard_local(const struct shard_rows *rows, uint32_t position);

/* The rows a shard owns, for its blocks: packed vectors and keys in order of position. */
struct shard_own {
    uint32_t count;
    size_t row_bytes;
    uint8_t *vectors; /* [count * row_bytes] */
    uint64_t *keys;   /* [count]: the caller's, else the row */
};
NODISCARD enum status shard_own_load(const struct shard_plan *plan, uint32_t shard,
                                     struct shard_own *own, struct error *err);
void shard_own_destroy(struct shard_own *own);

/* The rows of the input that a shard owns, in order of position, into rows[shard_own_count()].
 * Reads past their vectors. STATUS_CORRUPT also where one is not below shape.count. */
NODISCARD enum status shard_own_rows_read(const struct shard_plan *plan, uint32_t shard,
                                          uint32_t *rows, struct error *err);

/* A neighbour list in a piece: one u32 head, then `degree` u32 ids, of which the first `kept` are
 * edges of the spanning tree. */
ALWAYS_INLINE uint32_t list_head(uint32_t degree, uint32_t kept)
{
    return degree | kept << 16;
}
ALWAYS_INLINE uint32_t list_head_degree(uint32_t head)
{
    return head & 0xffff;
}
ALWAYS_INLINE uint32_t list_head_kept(uint32_t head)
{
    return head >> 16;
}

/* Reads one list into ids[capacity]. A degree beyond `capacity` or more kept edges than edges is
 * STATUS_CORRUPT, and the piece is forgotten. */
NODISCARD enum status shard_list_read(struct work_input *input, uint32_t *ids, uint32_t capacity,
                                      uint32_t *degree, uint32_t *kept, struct error *err);

#endif
