/*
 * groundtruth_scan.c - owns the pass of every query by every base row.
 *
 * The base is read in chunks that two buffers hold: while one is searched, one thread of the team
 * reads the next into the other. A task is a group of queries against a part of the chunk; within a
 * task the rows go by in tiles that stay in the first-level cache while every query of the group
 * scores them, so memory is read once a group and not once a query. With fewer queries than keep
 * the team busy a chunk is split into parts, for which the taker keeps lists of their own.
 *
 * A filter that is the same for all queries is asked while a chunk is read: rows that do not match
 * are not compared.
 *
 * Thread rules: tasks touch only the heaps of their own (part, query).
 */
#include "tools/groundtruth_internal.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

enum {
    TILE_BYTES = 24 * 1024, /* leaves a 32 KB L1 room for the query and the distances */
    TILE_ROWS_MAX = 1024,
    GROUP_QUERIES_MAX = 256,
    GROUP_QUERIES_MIN = 8,
    CHUNK_BYTES_MAX = 64 << 20,
    CHUNK_BYTES_MIN = 256 << 10,
};

static void task_run(const struct groundtruth_scan *scan, const struct chunk *chunk, uint32_t part,
                     uint32_t first_query)
{
    float out[TILE_ROWS_MAX];
    uint64_t begin = chunk->count * part / scan->parts;
    uint64_t end = chunk->count * (part + 1) / scan->parts;
    uint32_t end_query = MIN(first_query + scan->group, scan->query_count);
    uint64_t tile_rows = MAX(1, MIN(TILE_ROWS_MAX, TILE_BYTES / scan->row_bytes));
    for (uint64_t row = begin; row < end; row += tile_rows) {
        uint32_t count = (uint32_t)MIN(tile_rows, end - row);
        const uint8_t *rows = chunk->rows + row * scan->row_bytes;
        const struct tile tile = {
            .distances = out,
            .ids = chunk->ids != NULL ? chunk->ids + row : NULL,
            .first = (uint32_t)(chunk->first + row),
            .count = count,
        };
        for (uint32_t query = first_query; query < end_query; query++) {
            distance_rows(&scan->distance, scan->queries + query * scan->row_bytes,
                          scan->scales[query], rows, scan->row_bytes, count, out);
            scan->take(scan->taker, (size_t)part * scan->query_count + query, query, &tile);
        }
    }
}

/* Moves the rows that match to the front. */
static void chunk_filter(const struct groundtruth_scan *scan, struct chunk *chunk)
{
    const struct groundtruth_filter *filter = scan->params->filter;
    uint64_t left = 0;
    for (uint64_t i = 0; i < chunk->read; i++) {
        uint32_t id = (uint32_t)(chunk->first + i);
        if (!filter->match(filter->context, 0, id))
            continue;
        if (left != i)
            memcpy(chunk->rows + left * scan->row_bytes, chunk->rows + i * scan->row_bytes,
                   scan->row_bytes);
        chunk->ids[left++] = id;
    }
    chunk->count = left;
}

static enum status chunk_read(const struct groundtruth_scan *scan, struct chunk *chunk,
                              uint64_t first, struct error *err)
{
    const struct groundtruth_params *params = scan->params;
    chunk->first = first;
    chunk->read = chunk->count = MIN(scan->chunk_rows, scan->shape.count - first);
    if (chunk->read == 0)
        return STATUS_OK;
    enum status status = vector_file_read(scan->base, first, chunk->read, chunk->rows, err);
    if (status == STATUS_OK)
        status = vector_rows_check(params->base, &scan->shape, params->metric, first, chunk->read,
                                   chunk->rows, scan->row_bytes, err);
    if (status == STATUS_OK && chunk->ids != NULL)
        chunk_filter(scan, chunk);
    return status;
}

enum status groundtruth_scan_run(struct groundtruth_scan *scan, struct error *err)
{
    progress_begin(scan->params->progress, "groundtruth", scan->shape.count, "rows");
    enum status status = chunk_read(scan, &scan->chunks[0], 0, err);
    uint32_t groups = (scan->query_count + scan->group - 1) / scan->group;
    int64_t tasks = (int64_t)groups * scan->parts;
    uint32_t current = 0;
    while (status == STATUS_OK && scan->chunks[current].read > 0 &&
           !atomic_load_explicit(&scan->stop, memory_order_relaxed)) {
        const struct chunk *chunk = &scan->chunks[current];
        struct chunk *next = &scan->chunks[1 - current];
        enum status read_status = STATUS_OK;
        /* Item 0 reads ahead; being first it starts first. */
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)scan->threads)
        for (int64_t item = 0; item <= tasks; item++) {
            if (item == 0)
                read_status = chunk_read(scan, next, chunk->first + chunk->read, err);
            else
                task_run(scan, chunk, (uint32_t)((item - 1) / groups),
                         (uint32_t)((item - 1) % groups) * scan->group);
        }
        status = read_status;
        progress_update(scan->params->progress, chunk->first + chunk->read);
        current = 1 - current;
    }
    progress_end(scan->params->progress);
    return status;
}

static enum status shapes_check(const struct groundtruth_params *params,
                                const struct vector_shape *base, const struct vector_shape *queries,
                                struct error *err)
{
    if (base->type == ELEMENT_I32)
        return error_set(err, STATUS_INVALID, "%s: i32 elements are ids, not vectors",
                         params->base);
    if (base->dim != queries->dim || base->type != queries->type)
        return error_set(err, STATUS_INVALID, "%s: %s vectors of %u dimensions, %s has %s of %u",
                         params->queries, element_name(queries->type), queries->dim, params->base,
                         element_name(base->type), base->dim);
    if (base->count > UINT32_MAX)
        return error_set(err, STATUS_INVALID, "%s: %llu rows, ground truth ids hold at most %u",
                         params->base, (unsigned long long)base->count, UINT32_MAX);
    if (queries->count > UINT32_MAX)
        return error_set(err, STATUS_INVALID, "%s: %llu queries, ground truth holds at most %u",
                         params->queries, (unsigned long long)queries->count, UINT32_MAX);
    return STATUS_OK;
}

/* Enough parts of each chunk for all threads, with lists for each. */
static enum status scan_divide(struct groundtruth_scan *scan, struct error *err)
{
    const struct groundtruth_params *params = scan->params;
    scan->threads = params->threads != 0 ? params->threads : (uint32_t)omp_get_max_threads();
    uint32_t group = scan->query_count / (4 * scan->threads);
    scan->group = MIN(GROUP_QUERIES_MAX, MAX(GROUP_QUERIES_MIN, group));
    uint32_t groups = (scan->query_count + scan->group - 1) / scan->group;
    scan->parts = groups >= 2 * scan->threads ? 1 : scan->threads;
    if (!size_mul(scan->parts, scan->query_count, &scan->heap_count))
        return error_set(err, STATUS_INVALID, "%s: %u queries exceed the address space",
                         params->queries, scan->query_count);
    scan->scales = malloc(scan->query_count * sizeof(float));
    if (scan->scales == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", scan->query_count);
    for (uint32_t query = 0; query < scan->query_count; query++)
        scan->scales[query] =
            distance_query_scale(&scan->distance, scan->queries + query * scan->row_bytes);
    return STATUS_OK;
}

enum status groundtruth_scan_open(struct groundtruth_scan *scan, struct error *err)
{
    const struct groundtruth_params *params = scan->params;
    struct vector_shape queries;
    void *rows;
    enum status status = vector_file_open(params->base, &scan->base, err);
    if (status != STATUS_OK)
        return status;
    scan->shape = vector_file_shape(scan->base);
    uint64_t limit = params->memory_bytes != 0 ? params->memory_bytes : SIZE_MAX;
    status = vector_file_load(params->queries, limit, &queries, &rows, err);
    if (status != STATUS_OK)
        return status;
    scan->queries = rows;
    status = shapes_check(params, &scan->shape, &queries, err);
    if (status != STATUS_OK)
        return status;
    scan->row_bytes = element_vector_bytes(scan->shape.type, scan->shape.dim);
    scan->query_count = (uint32_t)queries.count;
    scan->queries_bytes = scan->query_count * scan->row_bytes;
    distance_init(&scan->distance, scan->shape.type, params->metric, scan->shape.dim);
    status = vector_rows_check(params->queries, &queries, params->metric, 0, queries.count,
                               scan->queries, scan->row_bytes, err);
    return status == STATUS_OK ? scan_divide(scan, err) : status;
}

enum status groundtruth_scan_allocate(struct groundtruth_scan *scan, size_t fixed, uint64_t *least,
                                      struct error *err)
{
    const struct groundtruth_params *params = scan->params;
    bool filtered = params->filter != NULL && params->filter->same_for_all;
    size_t stored = scan->row_bytes + (filtered ? sizeof(uint32_t) : 0);
    uint64_t own = scan->queries_bytes + scan->query_count * sizeof(float);
    uint64_t chunk_bytes = MAX((uint64_t)CHUNK_BYTES_MAX, stored);
    *least = 0;
    if (params->memory_bytes != 0) {
        uint64_t need = fixed + own + GROUNDTRUTH_CHUNKS * MAX((uint64_t)CHUNK_BYTES_MIN, stored);
        if (params->memory_bytes < need) {
            *least = need;
            return STATUS_NO_MEMORY;
        }
        chunk_bytes = MIN(chunk_bytes, (params->memory_bytes - fixed - own) / GROUNDTRUTH_CHUNKS);
    }
    scan->chunk_rows = MIN(scan->shape.count, chunk_bytes / stored);
    scan->held_bytes = own + GROUNDTRUTH_CHUNKS * scan->chunk_rows * stored;
    for (uint32_t i = 0; i < GROUNDTRUTH_CHUNKS; i++) {
        void *memory;
        enum status status =
            bulk_alloc(scan->chunk_rows, scan->row_bytes, "base rows", &memory, err);
        if (status != STATUS_OK)
            return status;
        scan->chunks[i].rows = memory;
        if (!filtered)
            continue;
        status = bulk_alloc(scan->chunk_rows, sizeof(uint32_t), "rows that match", &memory, err);
        if (status != STATUS_OK)
            return status;
        scan->chunks[i].ids = memory;
    }
    return STATUS_OK;
}

void groundtruth_scan_close(struct groundtruth_scan *scan)
{
    for (uint32_t i = 0; i < GROUNDTRUTH_CHUNKS; i++) {
        struct chunk *chunk = &scan->chunks[i];
        if (chunk->rows != NULL)
            bulk_free(chunk->rows, scan->chunk_rows, scan->row_bytes);
        if (chunk->ids != NULL)
            bulk_free(chunk->ids, scan->chunk_rows, sizeof(uint32_t));
    }
    free(scan->scales);
    free(scan->queries);
    if (scan->base != NULL)
        vector_file_close(scan->base);
}
