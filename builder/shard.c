/*
 * shard.c - see shard.h. Loading streams through one buffer; borrowed rows come in order of row and
 * are put in order of position where they lie. One thread a shard.
 */
#include "builder/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "common/sorted.h"
#include "layout/block.h"

static const struct work_piece partition_piece = {BUILD_STAGE_PARTITION, WORK_WHOLE};

void shard_plan_init(struct shard_plan *plan, const struct partition_info *info)
{
    plan->shard_count = info->shard_count;
    plan->starts[0] = 0;
    for (uint32_t s = 0; s < info->shard_count; s++) {
        plan->starts[s + 1] = plan->starts[s] + (uint32_t)info->own_counts[s];
        plan->borrowed_counts[s] = (uint32_t)info->borrowed_counts[s];
        plan->parents[s] = info->parents[s];
    }
}

static enum status part_open(const struct shard_plan *plan, const char *kind, uint32_t shard,
                             struct work_input **input, struct error *err)
{
    char part[32];
    snprintf(part, sizeof(part), "%s-%u", kind, shard);
    return work_input_open(plan->work, partition_piece, part, 0, 0, input, err);
}

static size_t packed_bytes(const struct shard_plan *plan)
{
    return element_vector_bytes(plan->shape.type, plan->shape.dim);
}

/* ---- own rows ---- */

/* One own record: the vector to `vector`, the key or row to *key. */
static enum status own_record_read(const struct shard_plan *plan, struct work_input *input,
                                   void *vector, uint64_t *key, struct error *err)
{
    uint32_t row;
    enum status status = work_input_read(input, &row, sizeof(row), err);
    *key = row;
    if (status == STATUS_OK && plan->keys)
        status = work_input_read(input, key, sizeof(*key), err);
    return status == STATUS_OK ? work_input_read(input, vector, packed_bytes(plan), err) : status;
}

static enum status own_rows_read(const struct shard_plan *plan, struct shard_rows *rows,
                                 struct error *err)
{
    struct work_input *input = NULL;
    enum status status = part_open(plan, "own", rows->shard, &input, err);
    for (uint32_t i = 0; status == STATUS_OK && i < rows->own_count; i++) {
        uint64_t key;
        status = own_record_read(plan, input, rows->set.rows + (size_t)i * rows->set.stride_bytes,
                                 &key, err);
    }
    work_input_close(input);
    return status;
}

enum status shard_own_load(const struct shard_plan *plan, uint32_t shard, struct shard_own *own,
                           struct error *err)
{
    struct work_input *input = NULL;
    void *vectors = NULL;
    void *keys = NULL;
    *own =
        (struct shard_own){.count = shard_own_count(plan, shard), .row_bytes = packed_bytes(plan)};
    enum status status = bulk_alloc(own->count, own->row_bytes, "vectors", &vectors, err);
    own->vectors = vectors;
    if (status == STATUS_OK)
        status = bulk_alloc(own->count, sizeof(uint64_t), "keys", &keys, err);
    own->keys = keys;
    if (status == STATUS_OK)
        status = part_open(plan, "own", shard, &input, err);
    for (uint32_t i = 0; status == STATUS_OK && i < own->count; i++)
        status = own_record_read(plan, input, own->vectors + (size_t)i * own->row_bytes,
                                 &own->keys[i], err);
    work_input_close(input);
    if (status != STATUS_OK)
        shard_own_destroy(own);
    return status;
}

void shard_own_destroy(struct shard_own *own)
{
    bulk_free(own->vectors, own->count, own->row_bytes);
    bulk_free(own->keys, own->count, sizeof(uint64_t));
    memset(own, 0, sizeof(*own));
}

enum status shard_own_rows_read(const struct shard_plan *plan, uint32_t shard, uint32_t *rows,
                                struct error *err)
{
    const size_t rest = packed_bytes(plan) + (plan->keys ? sizeof(uint64_t) : 0);
    struct work_input *input = NULL;
    uint8_t *skipped = malloc(rest);
    if (skipped == NULL)
        return error_set(err, STATUS_NO_MEMORY, "shard %u: out of memory", shard);
    enum status status = part_open(plan, "own", shard, &input, err);
    for (uint32_t i = 0; status == STATUS_OK && i < shard_own_count(plan, shard); i++) {
        status = work_input_read(input, &rows[i], sizeof(rows[i]), err);
        if (status == STATUS_OK)
            status = work_input_read(input, skipped, rest, err);
        if (status == STATUS_OK && rows[i] >= plan->shape.count)
            status = work_input_discard(input, "names a row that is not there", err);
    }
    work_input_close(input);
    free(skipped);
    return status;
}

/* ---- borrowed rows ---- */

struct arrival {
    uint32_t position;
    uint32_t order; /* in which it came */
};

static int arrival_compare(const void *a, const void *b)
{
    const struct arrival *x = a;
    const struct arrival *y = b;
    return (x->position > y->position) - (x->position < y->position);
}

/* Moves row arrivals[i].order to place i, for all i, along the cycles of the permutation. */
static void rows_permute(uint8_t *rows, size_t stride, struct arrival *arrivals, uint32_t count,
                         uint8_t *spare)
{
    for (uint32_t start = 0; start < count; start++) {
        uint32_t place = start;
        if (arrivals[place].order == place)
            continue;
        memcpy(spare, rows + place * stride, stride);
        while (arrivals[place].order != start) {
            uint32_t from = arrivals[place].order;
            memcpy(rows + place * stride, rows + from * stride, stride);
            arrivals[place].order = place;
            place = from;
        }
        memcpy(rows + place * stride, spare, stride);
        arrivals[place].order = place;
    }
}

static enum status arrivals_read(struct shard_rows *rows, struct arrival *arrivals,
                                 struct error *err)
{
    const struct shard_plan *plan = rows->plan;
    uint8_t *to = rows->set.rows + (size_t)rows->own_count * rows->set.stride_bytes;
    struct work_input *input = NULL;
    enum status status = part_open(plan, "borrowed", rows->shard, &input, err);
    for (uint32_t i = 0; status == STATUS_OK && i < rows->borrowed_count; i++) {
        uint32_t place[2]; /* owner, index */
        status = work_input_read(input, place, sizeof(place), err);
        if (status == STATUS_OK)
            status = work_input_read(input, to + (size_t)i * rows->set.stride_bytes,
                                     packed_bytes(plan), err);
        if (status == STATUS_OK &&
            (place[0] >= plan->shard_count || place[1] >= shard_own_count(plan, place[0])))
            status = work_input_discard(input, "names a row that is not there", err);
        if (status == STATUS_OK)
            arrivals[i] = (struct arrival){plan->starts[place[0]] + place[1], i};
    }
    work_input_close(input);
    return status;
}

static enum status borrowed_rows_read(struct shard_rows *rows, struct error *err)
{
    uint32_t count = rows->borrowed_count;
    size_t stride = rows->set.stride_bytes;
    void *arrivals = NULL;
    void *positions = NULL;
    uint8_t *spare = malloc(stride);
    if (spare == NULL)
        return error_set(err, STATUS_NO_MEMORY, "shard %u: out of memory", rows->shard);
    enum status status = bulk_alloc(count, sizeof(struct arrival), "borrowed rows", &arrivals, err);
    if (status == STATUS_OK)
        status = bulk_alloc(count, sizeof(uint32_t), "borrowed rows", &positions, err);
    rows->borrowed = positions;
    if (status == STATUS_OK)
        status = arrivals_read(rows, arrivals, err);
    if (status == STATUS_OK) {
        struct arrival *sorted = arrivals;
        qsort(sorted, count, sizeof(*sorted), arrival_compare);
        for (uint32_t i = 0; i < count; i++)
            rows->borrowed[i] = sorted[i].position;
        rows_permute(rows->set.rows + rows->own_count * stride, stride, sorted, count, spare);
    }
    bulk_free(arrivals, count, sizeof(struct arrival));
    free(spare);
    return status;
}

/* ---- both ---- */

enum status shard_rows_load(const struct shard_plan *plan, uint32_t shard, uint32_t spare,
                            struct shard_rows *rows, struct error *err)
{
    struct shard_rows loaded = {
        .plan = plan,
        .shard = shard,
        .own_count = shard_own_count(plan, shard),
        .borrowed_count = plan->borrowed_counts[shard],
    };
    enum status status =
        vector_set_create(&loaded.set, loaded.own_count + loaded.borrowed_count + spare,
                          plan->shape.dim, plan->shape.type, plan->metric, err);
    if (status == STATUS_OK)
        status = own_rows_read(plan, &loaded, err);
    if (status == STATUS_OK)
        status = borrowed_rows_read(&loaded, err);
    if (status == STATUS_OK)
        *rows = loaded;
    else
        shard_rows_destroy(&loaded);
    return status;
}

void shard_rows_destroy(struct shard_rows *rows)
{
    bulk_free(rows->borrowed, rows->borrowed_count, sizeof(uint32_t));
    vector_set_destroy(&rows->set);
    memset(rows, 0, sizeof(*rows));
}

uint32_t shard_local(const struct shard_rows *rows, uint32_t position)
{
    uint32_t start = rows->plan->starts[rows->shard];
    if (position - start < rows->own_count)
        return position - start;
    uint32_t place = sorted_find(rows->borrowed, rows->borrowed_count, position);
    return place != SORTED_NONE ? rows->own_count + place : UINT32_MAX;
}

enum status shard_list_read(struct work_input *input, uint32_t *ids, uint32_t capacity,
                            uint32_t *degree, uint32_t *kept, struct error *err)
{
    uint32_t head = 0;
    enum status status = work_input_read(input, &head, sizeof(head), err);
    if (status != STATUS_OK)
        return status;
    *degree = list_head_degree(head);
    *kept = list_head_kept(head);
    if (*degree > capacity || *kept > *degree)
        return work_input_discard(input, "has a list of an impossible length", err);
    return work_input_read(input, ids, *degree * sizeof(*ids), err);
}
