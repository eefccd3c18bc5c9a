/*
 * partition.c - one pass over the input that writes each row to the shard that owns it and to those
 * that borrow it.
 *
 * Rows stream through two chunks. While one thread hands out the rows of the chunk before, which
 * must be done in order, the rest of the OpenMP team reads the next and finds out which shards are
 * near its rows. What a row may choose among depends on which shards were full when its chunk was
 * begun, and what it gets on the rows before it: so the outcome is the same for any team.
 *
 * Counts are exact whatever the data: a row whose nearest shard is full goes to the next one with
 * room, and the last rows go to the shards that still lack some, if those lack as many. A shard
 * that fills up while rows wait in a chunk may leave one of them without any of the shards it
 * chose; it is then looked up again.
 *
 * Departure from SPANN: borrowing stops at the mean replication, which is kept from the first row
 * on, so that it is spread over the file; and at each shard's room.
 */
#include "builder/partition.h"

#include <assert.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "builder/partition_internal.h"
#include "builder/row_sample.h"
#include "common/memory.h"

enum {
    CHUNK_BYTES = 8 << 20,
    CHUNK_ROWS_MAX = 65536, /* short rows: choices and keys are held too */
    BATCH_BYTES = 64 << 10, /* what one thread reads at a time */
    OUTPUTS_BYTES = 32 << 20,
    OUTPUT_BYTES_MIN = 4096,
    OUTPUT_OVERHEAD_BYTES = 2048, /* handle, checksum state, list of sections */
    BORROW_AHEAD = 1024,          /* rows that may be borrowed before their share is due */
    OWN_HEAD_BYTES = sizeof(uint32_t) + sizeof(uint64_t),
    BORROWED_HEAD_BYTES = 2 * sizeof(uint32_t),
};

static const struct work_piece PIECE = {BUILD_STAGE_PARTITION, WORK_WHOLE};

struct chunk {
    uint64_t first;
    uint32_t count; /* 0: empty */
    uint8_t *rows;
    uint64_t *keys; /* NULL without a key file */
    struct partition_choice *choices;
};

/* Rows of a sample, and how many of them came by. */
struct sampled {
    uint32_t *rows; /* ascending; NULL: none */
    uint32_t count;
    uint32_t met;
};

struct pass {
    const struct vector_file *file;
    const struct partition_params *params;
    struct work *work;
    const struct build_monitor *monitor;
    struct vector_shape shape;
    size_t row_bytes;
    struct key_file *keys; /* NULL without */
    struct partition_cells cells;
    struct partition_info *info;
    uint32_t thread_count;
    struct work_output **outputs; /* own-0.., borrowed-0.., sample, queries */
    size_t output_count;

    struct chunk chunks[2]; /* chunk c is in chunks[c % 2] */
    uint32_t chunk_rows;
    uint32_t batch_rows;
    bool *full;      /* [shard_count] owns all it may; kept by the thread that hands out */
    bool *full_then; /* the same when the present chunk was begun */
    bool any_full_then;
    uint8_t *scratch; /* scratch_bytes for each thread: a vector, then distances */
    size_t scratch_bytes;
    uint8_t *memory; /* holds all arrays above but the outputs */
    size_t memory_bytes;
    struct partition_fault fault; /* of reading; `at` is the row where a batch began */

    /* of the thread that hands out */
    uint64_t own_limit;    /* rows a shard may own: own_max, and in the end own_min */
    uint64_t lacking;      /* rows that shards need to own at least own_min, summed */
    uint64_t borrowed;     /* so far */
    struct sampled sample; /* of the navigation graph */
    struct sampled queries;
};

size_t partition_own_record_bytes(const struct vector_shape *shape, bool keys)
{
    return sizeof(uint32_t) + (keys ? sizeof(uint64_t) : 0) +
           element_vector_bytes(shape->type, shape->dim);
}

size_t partition_borrowed_record_bytes(const struct vector_shape *shape)
{
    return BORROWED_HEAD_BYTES + element_vector_bytes(shape->type, shape->dim);
}

/* ---- reading and choosing: any thread ---- */

static void row_choose(const struct pass *p, const uint8_t *row, const bool *full,
                       struct partition_choice *choice)
{
    uint8_t *mine = p->scratch + (size_t)omp_get_thread_num() * p->scratch_bytes;
    float *vector = (float *)(void *)mine;
    float *distances = vector + size_align(p->cells.dim, 16);

    partition_vector(&p->cells, row, vector);
    partition_choose(&p->cells, vector, full, distances, choice);
}

/* Rows [at, at + count) of the chunk. */
static enum status batch_read(struct pass *p, struct chunk *chunk, uint32_t at, uint32_t count,
                              struct error *err)
{
    uint8_t *rows = chunk->rows + at * p->row_bytes;
    enum status status = vector_file_read(p->file, chunk->first + at, count, rows, err);
    if (status == STATUS_OK && p->keys != NULL)
        status = key_file_read_range(p->keys, chunk->first + at, count, chunk->keys + at, err);
    if (status != STATUS_OK || p->cells.shard_count == 1)
        return status;
    const bool *full = p->any_full_then ? p->full_then : NULL;
    for (uint32_t i = 0; i < count; i++)
        row_choose(p, rows + i * p->row_bytes, full, &chunk->choices[at + i]);
    return STATUS_OK;
}

/* ---- handing out: one thread, in order of rows ---- */

/* Once there are only as many rows left as shards lack, each goes to one that lacks some. */
static void limit_update(struct pass *p, uint64_t rows_left)
{
    if (rows_left > p->lacking || p->own_limit == p->params->own_min)
        return;
    p->own_limit = p->params->own_min;
    for (uint32_t s = 0; s < p->cells.shard_count; s++)
        p->full[s] = p->info->own_counts[s] >= p->own_limit;
}

/* A shard with room, the nearest there is. */
static uint32_t owner_find(struct pass *p, const uint8_t *row,
                           const struct partition_choice *choice)
{
    struct partition_choice again;

    for (uint32_t i = 0; i < PARTITION_NEAR && choice->open[i] != PARTITION_NONE; i++)
        if (!p->full[choice->open[i]])
            return choice->open[i];
    row_choose(p, row, p->full, &again);
    assert(again.open[0] != PARTITION_NONE); /* own_max * shard_count >= rows */
    return again.open[0];
}

static enum status own_append(struct pass *p, uint32_t owner, uint32_t row, const uint64_t *key,
                              const uint8_t *vector, struct error *err)
{
    uint8_t head[OWN_HEAD_BYTES];
    size_t head_bytes = sizeof(row);

    memcpy(head, &row, sizeof(row));
    if (key != NULL) {
        memcpy(head + sizeof(row), key, sizeof(*key));
        head_bytes += sizeof(*key);
    }
    enum status status = work_output_append(p->outputs[owner], head, head_bytes, err);
    return status == STATUS_OK ? work_output_append(p->outputs[owner], vector, p->row_bytes, err)
                               : status;
}

static enum status place_append(const struct pass *p, struct work_output *output,
                                const uint32_t place[2], const uint8_t *vector, struct error *err)
{
    enum status status = work_output_append(output, place, BORROWED_HEAD_BYTES, err);
    return status == STATUS_OK ? work_output_append(output, vector, p->row_bytes, err) : status;
}

/* Rows that may have been borrowed when `placed` rows are handed out. */
static uint64_t borrow_limit(const struct pass *p, uint64_t placed)
{
    double each = p->params->replication - 1.0;
    return MIN((uint64_t)(each * (double)p->shape.count),
               (uint64_t)(each * (double)placed) + BORROW_AHEAD);
}

/* `place`: owner and index. `limit`: of p->borrowed. */
static enum status row_lend(struct pass *p, const struct partition_choice *choice,
                            const uint32_t place[2], uint64_t limit, const uint8_t *vector,
                            struct error *err)
{
    uint64_t *counts = p->info->borrowed_counts;
    struct work_output **outputs = p->outputs + p->cells.shard_count;
    uint32_t lent = 0;
    enum status status = STATUS_OK;

    for (uint32_t i = 0; i < PARTITION_NEAR && status == STATUS_OK; i++) {
        uint32_t shard = choice->near[i];
        if (lent == PARTITION_BORROWERS_MAX || p->borrowed >= limit || shard == PARTITION_NONE ||
            p->info->lent_counts[place[0]] >= p->params->lent_max)
            break;
        if (shard == place[0] || counts[shard] >= p->params->borrowed_max ||
            !((double)choice->scores[i] <= p->info->closure_distance))
            continue;
        status = place_append(p, outputs[shard], place, vector, err);
        counts[shard]++;
        p->info->lent_counts[place[0]]++;
        p->borrowed++;
        lent++;
    }
    return status;
}

/* Whether the row, which comes after all asked for before, is of the sample. */
static bool sampled_has(struct sampled *sampled, uint32_t row)
{
    if (sampled->met == sampled->count || sampled->rows[sampled->met] != row)
        return false;
    sampled->met++;
    return true;
}

static enum status row_place(struct pass *p, const struct chunk *chunk, uint32_t i,
                             struct error *err)
{
    const uint8_t *vector = chunk->rows + i * p->row_bytes;
    uint64_t *counts = p->info->own_counts;
    uint32_t row = (uint32_t)(chunk->first + i);
    bool single = p->cells.shard_count == 1;

    limit_update(p, p->shape.count - row);
    uint32_t owner = single ? 0 : owner_find(p, vector, &chunk->choices[i]);
    const uint32_t place[2] = {owner, (uint32_t)counts[owner]};
    p->lacking -= counts[owner] < p->params->own_min;
    counts[owner]++;
    p->full[owner] = counts[owner] >= p->own_limit;
    enum status status =
        own_append(p, owner, row, chunk->keys ? &chunk->keys[i] : NULL, vector, err);
    if (status == STATUS_OK && !single)
        status =
            row_lend(p, &chunk->choices[i], place, borrow_limit(p, (uint64_t)row + 1), vector, err);
    if (status == STATUS_OK && sampled_has(&p->sample, row))
        status = place_append(p, p->outputs[p->output_count - 2], place, vector, err);
    if (status == STATUS_OK && sampled_has(&p->queries, row))
        status = work_output_append(p->outputs[p->output_count - 1], place, sizeof(place), err);
    return status;
}

static enum status chunk_place(struct pass *p, const struct chunk *chunk, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < chunk->count && status == STATUS_OK; i++)
        status = row_place(p, chunk, i, err);
    return status;
}

/* ---- the pass ---- */

/* Fills `next` while `ready` is handed out. */
static enum status chunk_step(struct pass *p, const struct chunk *ready, struct chunk *next,
                              struct error *err)
{
    uint32_t batches = (next->count + p->batch_rows - 1) / p->batch_rows;
    enum status placed = STATUS_OK;
    struct error place_error;

    p->any_full_then = memchr(p->full, 1, p->cells.shard_count * sizeof(bool)) != NULL;
    memcpy(p->full_then, p->full, p->cells.shard_count * sizeof(bool));
    /* Handing out is the first item: it takes longest. */
#pragma omp parallel for schedule(dynamic, 1)
    for (uint32_t item = 0; item <= batches; item++) {
        struct error error;
        if (item == 0) {
            placed = chunk_place(p, ready, &place_error);
            continue;
        }
        uint32_t at = (item - 1) * p->batch_rows;
        uint32_t count = MIN(p->batch_rows, next->count - at);
        if (batch_read(p, next, at, count, &error) != STATUS_OK)
            partition_fault_note(&p->fault, next->first + at, &error);
    }
    if (placed == STATUS_OK)
        return partition_fault_status(&p->fault, err);
    if (err != NULL)
        *err = place_error;
    return placed;
}

static enum status rows_run(struct pass *p, struct error *err)
{
    uint64_t count = p->shape.count;
    uint64_t begun = 0;
    enum status status = STATUS_OK;

    for (uint32_t turn = 0; status == STATUS_OK; turn++) {
        struct chunk *next = &p->chunks[turn % 2];
        const struct chunk *ready = &p->chunks[(turn + 1) % 2];
        next->first = begun;
        next->count = (uint32_t)MIN(count - begun, (uint64_t)p->chunk_rows);
        begun += next->count;
        if (next->count == 0 && ready->count == 0)
            break;
        status = build_monitor_check(p->monitor, err);
        if (status == STATUS_OK)
            status = chunk_step(p, ready, next, err);
        if (status == STATUS_OK)
            build_monitor_update(p->monitor, ready->first + ready->count);
    }
    return status;
}

/* ---- what it is given ---- */

static size_t output_buffer_bytes(uint32_t shard_count)
{
    assert(shard_count >= 1);
    size_t bytes = OUTPUTS_BYTES / (2 * (size_t)shard_count) / OUTPUT_BYTES_MIN * OUTPUT_BYTES_MIN;
    return MAX((size_t)OUTPUT_BYTES_MIN, MIN(bytes, (size_t)WORK_BUFFER_BYTES));
}

static enum status outputs_open(struct pass *p, struct error *err)
{
    uint32_t shards = p->cells.shard_count;
    size_t buffer_bytes = output_buffer_bytes(shards);

    p->output_count = 2 * (size_t)shards + 2;
    p->outputs = calloc(p->output_count, sizeof(struct work_output *));
    if (p->outputs == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %zu outputs", p->output_count);
    for (size_t i = 0; i < p->output_count; i++) {
        char part[32] = "sample";
        if (i == p->output_count - 1) {
            (void)snprintf(part, sizeof(part), "queries");
        } else if (i < 2 * (size_t)shards) {
            (void)snprintf(part, sizeof(part), "%s-%u", i < shards ? "own" : "borrowed",
                           (unsigned)(i % shards));
        }
        enum status status =
            work_output_open(p->work, PIECE, part, buffer_bytes, &p->outputs[i], err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static void *carve(struct pass *p, size_t count, size_t item_bytes)
{
    void *part = p->memory ? p->memory + p->memory_bytes : NULL;
    p->memory_bytes += size_align(count * item_bytes, 64);
    return part;
}

/* Adds up sizes, and hands out parts of the memory once there is some. Needs shape, thread_count,
 * cells.shard_count and .dim. */
static void pass_layout(struct pass *p, bool keys)
{
    size_t shards = p->cells.shard_count;
    p->row_bytes = element_vector_bytes(p->shape.type, p->shape.dim);
    p->chunk_rows =
        (uint32_t)MAX((size_t)1, MIN(CHUNK_BYTES / p->row_bytes, (size_t)CHUNK_ROWS_MAX));
    p->chunk_rows = (uint32_t)MIN((uint64_t)p->chunk_rows, p->shape.count);
    p->batch_rows =
        (uint32_t)MAX((size_t)1, MIN(BATCH_BYTES / p->row_bytes, (size_t)p->chunk_rows));
    p->memory_bytes = 0;
    for (unsigned i = 0; i < ARRAY_LENGTH(p->chunks); i++) {
        struct chunk *chunk = &p->chunks[i];
        chunk->rows = carve(p, p->chunk_rows, p->row_bytes);
        chunk->choices = carve(p, p->chunk_rows, sizeof(*chunk->choices));
        chunk->keys = keys ? carve(p, p->chunk_rows, sizeof(*chunk->keys)) : NULL;
    }
    p->full = carve(p, shards, sizeof(*p->full));
    p->full_then = carve(p, shards, sizeof(*p->full_then));
    p->scratch_bytes = (size_align(p->cells.dim, 16) + size_align(shards, 16)) * sizeof(float);
    p->scratch = carve(p, p->thread_count, p->scratch_bytes);
}

static enum status sampled_init(struct sampled *sampled, const struct pass *p, uint64_t seed,
                                uint32_t count, struct error *err)
{
    if (count == 0)
        return STATUS_OK;
    sampled->rows = malloc(count * sizeof(*sampled->rows));
    if (sampled->rows == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a sample of %u rows", count);
    sampled->count = count;
    row_sample(seed, (uint32_t)p->shape.count, count, sampled->rows);
    return STATUS_OK;
}

static enum status pass_init(struct pass *p, struct error *err)
{
    const struct partition_params *params = p->params;
    void *memory = NULL;

    pass_layout(p, p->keys != NULL);
    enum status status = bulk_alloc(p->memory_bytes, 1, "chunks of the input", &memory, err);
    if (status != STATUS_OK)
        return status;
    p->memory = memory;
    pass_layout(p, p->keys != NULL);
    p->fault.at = UINT64_MAX;
    status = sampled_init(&p->sample, p, params->sample_seed, params->sample_count, err);
    if (status == STATUS_OK)
        status = sampled_init(&p->queries, p, params->query_seed, params->query_count, err);
    return status == STATUS_OK ? outputs_open(p, err) : status;
}

static void pass_fini(struct pass *p)
{
    for (size_t i = 0; p->outputs != NULL && i < p->output_count; i++)
        work_output_abort(p->outputs[i]);
    free(p->outputs);
    free(p->sample.rows);
    free(p->queries.rows);
    if (p->memory)
        bulk_free(p->memory, p->memory_bytes, 1);
    partition_cells_fini(&p->cells);
    key_file_close(p->keys);
}

/* The nearest centroid among the shards before each. */
static void parents_find(const struct partition_cells *cells, uint32_t *parents)
{
    parents[0] = 0;
    for (uint32_t shard = 1; shard < cells->shard_count; shard++) {
        float least = partition_gap(cells, shard, 0);
        parents[shard] = 0;
        for (uint32_t other = 1; other < shard; other++) {
            float gap = partition_gap(cells, shard, other);
            if (gap < least) {
                least = gap;
                parents[shard] = other;
            }
        }
    }
}

uint64_t partition_memory_bytes(const struct vector_shape *shape, uint32_t shard_count,
                                uint32_t threads)
{
    struct pass p = {
        .shape = *shape,
        .thread_count = threads,
        .cells = {.shard_count = shard_count, .dim = shape->dim},
    };
    pass_layout(&p, true);
    uint64_t outputs = (2 * (uint64_t)shard_count + 2) *
                       (output_buffer_bytes(shard_count) + OUTPUT_OVERHEAD_BYTES);
    uint64_t cells =
        shard_count > 1 ? shard_count * ((uint64_t)p.cells.dim + 1) * sizeof(float) : 0;
    uint64_t training = shard_count > 1 ? partition_train_bytes(shape, shard_count, threads) : 0;

    return sizeof(struct partition_info) + cells + MAX(training, p.memory_bytes + outputs);
}

enum status partition_run(const struct vector_file *file, const struct partition_params *params,
                          struct work *work, const struct build_monitor *monitor,
                          struct partition_info *info, struct build_stage_record *cost,
                          struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct pass p = {
        .file = file,
        .params = params,
        .work = work,
        .monitor = monitor,
        .shape = vector_file_shape(file),
        .thread_count = (uint32_t)omp_get_max_threads(),
    };
    uint64_t shards = params->shard_count;
    assert(shards >= 1 && shards <= PARTITION_SHARDS_MAX && shards <= p.shape.count);
    assert(params->own_max >= (p.shape.count + shards - 1) / shards);
    assert(params->own_min <= p.shape.count / shards);
    p.own_limit = params->own_max;
    p.lacking = params->own_min * shards;
    assert(params->replication >= 1.0 && params->sample_count <= p.shape.count);
    assert(params->query_count <= p.shape.count);

    enum status status = STATUS_NO_MEMORY;
    p.info = calloc(1, sizeof(*p.info));
    if (p.info == NULL) {
        error_set(err, STATUS_NO_MEMORY, "no memory for the partition");
        goto out;
    }
    p.info->shard_count = params->shard_count;
    p.info->row_count = p.shape.count;
    if (params->keys != NULL) {
        status = key_file_open(params->keys, p.shape.count, &p.keys, err);
        if (status != STATUS_OK)
            goto out;
    }
    status = partition_cells_init(&p.cells, &p.shape, params, err);
    if (status == STATUS_OK && shards > 1)
        status = partition_train(file, params, monitor, &p.cells, &p.info->closure_distance, err);
    if (status == STATUS_OK)
        status = pass_init(&p, err);
    if (status == STATUS_OK)
        status = rows_run(&p, err);
    if (status != STATUS_OK)
        goto out;
    parents_find(&p.cells, p.info->parents);
    build_clock_measure(&clock, cost);
    status = work_piece_commit(work, PIECE, p.outputs, p.output_count, p.info, sizeof(*p.info),
                               cost, err);
    if (status == STATUS_OK)
        *info = *p.info;
out:
    pass_fini(&p);
    free(p.info);
    return status;
}
