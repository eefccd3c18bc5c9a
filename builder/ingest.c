/*
 * ingest.c - reading, checking, digesting and deduplicating the input.
 *
 * Rows are read by pread straight to where they stay, in chunks shared out over the OpenMP team, so
 * the page cache and not this process holds the file. Every chunk is checked where it landed, while
 * it is warm. All that is reported is the same at any thread count: chunks below a bad one are
 * always finished, so the lowest bad row wins.
 */
#include "builder/ingest.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/memory.h"

/* Long enough for sequential disk speed, short enough to share out. */
enum { INGEST_CHUNK_BYTES = 4 << 20 };

static size_t row_bytes_of(const struct vector_set *set)
{
    return (size_t)set->dim * element_bytes(set->type);
}

enum status ingest_shape_check(const char *path, const struct vector_shape *shape,
                               struct error *err)
{
    if (shape->type == ELEMENT_I32) {
        return error_set(err, STATUS_INVALID,
                         "%s: i32 elements are ids, not vectors; u8, i8, f16 or f32 is wanted",
                         path);
    }
    if (shape->count < 1 || shape->count > INGEST_ROWS_MAX) {
        return error_set(err, STATUS_INVALID, "%s: %llu vectors; one index holds 1 to %llu", path,
                         (unsigned long long)shape->count, (unsigned long long)INGEST_ROWS_MAX);
    }
    if (shape->dim < 1 || shape->dim > VECTOR_DIM_MAX) {
        return error_set(err, STATUS_INVALID, "%s: dimension %u is outside 1..%d", path, shape->dim,
                         VECTOR_DIM_MAX);
    }
    return STATUS_OK;
}

uint64_t ingest_scratch_bytes(uint64_t count)
{
    /* One u64 a row for duplicates, and as much again for qsort's merge buffer. */
    return 16 * count;
}

/* ---- rows ---- */

/* One pass of the team over the file. */
struct read_job {
    const struct vector_file *file;
    const struct build_monitor *monitor;
    struct vector_set *set;
    uint64_t chunk_rows;
    uint64_t chunk_count;
    /* guarded by the critical section ingest_fault */
    uint64_t bad_chunk; /* chunk_count: none */
    struct error bad_error;
    uint64_t rows_done;
};

static enum status chunk_read(const struct read_job *job, uint64_t chunk, struct error *err)
{
    const struct vector_set *set = job->set;
    uint64_t first = chunk * job->chunk_rows;
    uint64_t count = MIN(job->chunk_rows, set->count - first);
    uint8_t *rows = set->rows + (size_t)first * set->stride_bytes;
    struct vector_shape shape = vector_file_shape(job->file);

    enum status status =
        vector_file_read_strided(job->file, first, count, rows, set->stride_bytes, err);
    if (status == STATUS_OK) {
        status = vector_rows_check(vector_file_path(job->file), &shape, set->metric, first, count,
                                   rows, set->stride_bytes, err);
    }
    return status;
}

/* True while chunks at or after `chunk` may still matter. */
static bool chunk_wanted(struct read_job *job, uint64_t chunk)
{
    uint64_t bad;

#pragma omp critical(ingest_fault)
    bad = job->bad_chunk;
    return chunk < bad && !build_monitor_cancelled(job->monitor);
}

static enum status rows_read(struct read_job *job, struct error *err)
{
    job->bad_chunk = job->chunk_count;
    job->rows_done = 0;

#pragma omp parallel for schedule(dynamic, 1)
    for (uint64_t chunk = 0; chunk < job->chunk_count; chunk++) {
        struct error chunk_error;
        if (!chunk_wanted(job, chunk))
            continue;
        enum status status = chunk_read(job, chunk, &chunk_error);
        uint64_t rows_done;
#pragma omp critical(ingest_fault)
        {
            if (status != STATUS_OK && chunk < job->bad_chunk) {
                job->bad_chunk = chunk;
                job->bad_error = chunk_error;
            }
            job->rows_done += MIN(job->chunk_rows, job->set->count - chunk * job->chunk_rows);
            rows_done = job->rows_done;
        }
        if (omp_get_thread_num() == 0) /* the thread that runs the stages */
            progress_update(job->monitor->progress, rows_done);
    }

    enum status status = build_monitor_check(job->monitor, err);
    if (status == STATUS_OK && job->bad_chunk < job->chunk_count) {
        status = job->bad_error.status;
        if (err != NULL)
            *err = job->bad_error;
    }
    return status;
}

/* Distances are f32 and reach four times the largest squared norm: beyond f32's range every
 * comparison of the build would be one of infinities. Only f32 elements can get there. */
static enum status norms_check(const char *path, const struct vector_set *set, struct error *err)
{
    if (isfinite(4.0f * set->norm_max * set->norm_max))
        return STATUS_OK;
    uint32_t row = 0;
    while (row + 1 < set->count &&
           isfinite(4.0f * set->kernels->dot(vector_set_row(set, row), vector_set_row(set, row),
                                             set->dim)))
        row++;
    return error_set(err, STATUS_INVALID,
                     "%s: row %u is too long a vector: four times its squared norm exceeds f32",
                     path, row);
}

/* ---- digest ---- */

static enum status input_digest(const struct vector_set *set, const uint64_t *keys,
                                struct digest128 *digest, struct error *err)
{
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL || XXH3_128bits_reset(state) != XXH_OK) {
        XXH3_freeState(state);
        return error_set(err, STATUS_NO_MEMORY, "no memory for the input's digest");
    }
    size_t row_bytes = row_bytes_of(set);
    if (set->stride_bytes == row_bytes)
        (void)XXH3_128bits_update(state, set->rows, (size_t)set->count * row_bytes);
    else
        for (uint32_t row = 0; row < set->count; row++)
            (void)XXH3_128bits_update(state, vector_set_row(set, row), row_bytes);
    if (keys != NULL)
        (void)XXH3_128bits_update(state, keys, (size_t)set->count * sizeof(*keys));
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    digest->low = hash.low64;
    digest->high = hash.high64;
    return STATUS_OK;
}

/* ---- duplicates ---- */

static int u64_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Rows of one run (equal hash prefix, ascending rows) that equal an earlier row of it. Distinct
 * rows are moved to the front of the run, so a run of equal vectors costs one comparison each. */
static uint64_t run_duplicates(const struct vector_set *set, uint64_t *run, size_t length,
                               uint64_t row_mask)
{
    size_t row_bytes = row_bytes_of(set);
    size_t distinct = 1;
    uint64_t duplicates = 0;

    for (size_t i = 1; i < length; i++) {
        const void *row = vector_set_row(set, (uint32_t)(run[i] & row_mask));
        size_t j = 0;
        while (j < distinct &&
               memcmp(row, vector_set_row(set, (uint32_t)(run[j] & row_mask)), row_bytes) != 0)
            j++;
        if (j < distinct)
            duplicates++;
        else
            run[distinct++] = run[i];
    }
    return duplicates;
}

/* Exact: rows are sorted by as much of their hash as fits beside the row number in a u64, and rows
 * whose hash agrees are compared byte by byte. */
static enum status duplicates_count(const struct vector_set *set, uint64_t *duplicates,
                                    struct error *err)
{
    size_t row_bytes = row_bytes_of(set);
    uint64_t row_mask = 1;
    void *memory = NULL;

    while (row_mask < set->count)
        row_mask = row_mask << 1 | 1;
    enum status status =
        bulk_alloc(set->count, sizeof(uint64_t), "hashes of the rows", &memory, err);
    if (status != STATUS_OK)
        return status;
    uint64_t *items = memory;
#pragma omp parallel for schedule(static)
    for (uint32_t row = 0; row < set->count; row++) {
        uint64_t hash = XXH3_64bits(vector_set_row(set, row), row_bytes);
        items[row] = (hash & ~row_mask) | row;
    }
    qsort(items, set->count, sizeof(*items), u64_compare);

    uint64_t found = 0;
    for (size_t i = 0; i < set->count;) {
        size_t end = i + 1;
        while (end < set->count && ((items[end] ^ items[i]) & ~row_mask) == 0)
            end++;
        found += run_duplicates(set, items + i, end - i, row_mask);
        i = end;
    }
    bulk_free(items, set->count, sizeof(*items));
    *duplicates = found;
    return STATUS_OK;
}

/* ---- the stage ---- */

enum status ingest_run(const struct vector_file *file, enum metric metric, const char *keys_path,
                       const struct build_monitor *monitor, struct ingest_result *result,
                       struct error *err)
{
    struct vector_shape shape = vector_file_shape(file);
    struct ingest_result made = {0};

    enum status status = ingest_shape_check(vector_file_path(file), &shape, err);
    if (status != STATUS_OK)
        goto out;
    if (keys_path != NULL) { /* first: a bad key file is found before minutes of reading */
        status = key_file_read(keys_path, shape.count, &made.keys, err);
        if (status != STATUS_OK)
            goto out;
    }
    status =
        vector_set_create(&made.set, (uint32_t)shape.count, shape.dim, shape.type, metric, err);
    if (status != STATUS_OK)
        goto out;
    struct read_job job = {
        .file = file,
        .monitor = monitor,
        .set = &made.set,
        .chunk_rows = MAX((uint64_t)1, INGEST_CHUNK_BYTES / row_bytes_of(&made.set)),
    };
    job.chunk_count = (shape.count + job.chunk_rows - 1) / job.chunk_rows;
    status = rows_read(&job, err);
    if (status != STATUS_OK)
        goto out;
    status = vector_set_prepare(&made.set, err);
    if (status != STATUS_OK)
        goto out;
    status = norms_check(vector_file_path(file), &made.set, err);
    if (status != STATUS_OK)
        goto out;
    status = input_digest(&made.set, made.keys, &made.input_digest, err);
    if (status != STATUS_OK)
        goto out;
    status = duplicates_count(&made.set, &made.duplicate_vectors, err);
    if (status != STATUS_OK)
        goto out;
    status = build_monitor_check(monitor, err);
out:
    if (status != STATUS_OK) {
        ingest_result_destroy(&made);
        memset(&made, 0, sizeof(made));
    }
    *result = made;
    return status;
}

void ingest_result_destroy(struct ingest_result *result)
{
    vector_set_destroy(&result->set);
    free(result->keys);
    result->keys = NULL;
}
