/*
 * groundtruth.c - owns the exact search of every query over every base row.
 *
 * The base is read in chunks that two buffers hold: while one is searched, one thread of the team
 * reads the next into the other. A task is a group of queries against a part of the chunk; within a
 * task the rows go by in tiles that stay in the first-level cache while every query of the group
 * scores them, so memory is read once a group and not once a query.
 *
 * Each query keeps the best k as a heap with the worst on top, ordered by (distance, row): a total
 * order, so the result does not depend on which task came first. With fewer queries than keep the
 * team busy a chunk is split into parts with heaps of their own, merged at the end.
 *
 * Thread rules: groundtruth_compute() may be called from one thread at a time per output; tasks
 * touch only the heaps of their own (part, query).
 */
#include "tools/groundtruth.h"

#include <assert.h>
#include <omp.h>
#include <stdlib.h>

#include "common/distance.h"
#include "common/memory.h"

enum {
    TILE_BYTES = 24 * 1024, /* leaves a 32 KB L1 room for the query and the distances */
    TILE_ROWS_MAX = 1024,
    GROUP_QUERIES_MAX = 256,
    GROUP_QUERIES_MIN = 8,
    CHUNK_BYTES_MAX = 64 << 20,
    CHUNK_BYTES_MIN = 256 << 10,
    CHUNK_BUFFERS = 2,
};

struct chunk {
    uint8_t *rows;
    uint64_t first;
    uint64_t count;
};

struct run {
    const struct groundtruth_params *params;
    struct distance distance;
    struct vector_file *base;
    struct vector_shape shape; /* of the base */
    size_t row_bytes;
    uint8_t *queries;
    size_t queries_bytes;
    uint32_t query_count;
    float *scales; /* distance_query_scale() of each query */
    uint32_t threads;
    uint32_t parts;
    uint32_t group; /* queries of a task */
    size_t heap_count;
    uint32_t *sizes; /* heap h = part * query_count + query: ids and distances at h * k */
    uint32_t *ids;
    float *distances;
    uint64_t chunk_rows;
    struct chunk chunks[CHUNK_BUFFERS];
};

ALWAYS_INLINE bool is_worse(float distance_a, uint32_t id_a, float distance_b, uint32_t id_b)
{
    return distance_a > distance_b || (distance_a == distance_b && id_a > id_b);
}

/* Restores the heap below `hole`, where (distance, id) belongs. */
static void heap_sink(float *distances, uint32_t *ids, uint32_t size, float distance, uint32_t id)
{
    uint32_t hole = 0;
    for (;;) {
        uint32_t child = 2 * hole + 1;
        if (child >= size)
            break;
        if (child + 1 < size &&
            is_worse(distances[child + 1], ids[child + 1], distances[child], ids[child]))
            child++;
        if (!is_worse(distances[child], ids[child], distance, id))
            break;
        distances[hole] = distances[child];
        ids[hole] = ids[child];
        hole = child;
    }
    distances[hole] = distance;
    ids[hole] = id;
}

static void heap_push(const struct run *run, size_t heap, float distance, uint32_t id)
{
    uint32_t k = run->params->k;
    float *distances = run->distances + heap * k;
    uint32_t *ids = run->ids + heap * k;
    uint32_t size = run->sizes[heap];
    if (size == k) {
        if (is_worse(distances[0], ids[0], distance, id))
            heap_sink(distances, ids, size, distance, id);
        return;
    }
    uint32_t hole = size;
    run->sizes[heap] = size + 1;
    while (hole > 0) {
        uint32_t parent = (hole - 1) / 2;
        if (!is_worse(distance, id, distances[parent], ids[parent]))
            break;
        distances[hole] = distances[parent];
        ids[hole] = ids[parent];
        hole = parent;
    }
    distances[hole] = distance;
    ids[hole] = id;
}

/* Best first, in place. */
static void heap_sort(float *distances, uint32_t *ids, uint32_t size)
{
    while (size > 1) {
        size--;
        float distance = distances[size];
        uint32_t id = ids[size];
        distances[size] = distances[0];
        ids[size] = ids[0];
        heap_sink(distances, ids, size, distance, id);
    }
}

/* Scores one tile for one query. Most rows lose to the heap's worst; those are skipped eight at a
 * time. */
static void tile_score(const struct run *run, size_t heap, uint32_t query, const uint8_t *rows,
                       uint64_t first, uint32_t count)
{
    float out[TILE_ROWS_MAX];
    distance_rows(&run->distance, run->queries + query * run->row_bytes, run->scales[query], rows,
                  run->row_bytes, count, out);
    const float *worst = run->distances + heap * run->params->k;
    uint32_t i = 0;
    while (i < count && run->sizes[heap] < run->params->k) {
        heap_push(run, heap, out[i], (uint32_t)(first + i));
        i++;
    }
    for (; i + 8 <= count; i += 8) {
        int near = 0;
        for (uint32_t lane = 0; lane < 8; lane++)
            near |= out[i + lane] <= *worst;
        if (near == 0)
            continue;
        for (uint32_t lane = 0; lane < 8; lane++)
            if (out[i + lane] <= *worst)
                heap_push(run, heap, out[i + lane], (uint32_t)(first + i + lane));
    }
    for (; i < count; i++)
        if (out[i] <= *worst)
            heap_push(run, heap, out[i], (uint32_t)(first + i));
}

static void task_run(const struct run *run, const struct chunk *chunk, uint32_t part,
                     uint32_t first_query)
{
    uint64_t begin = chunk->count * part / run->parts;
    uint64_t end = chunk->count * (part + 1) / run->parts;
    uint32_t end_query = MIN(first_query + run->group, run->query_count);
    uint64_t tile_rows = MAX(1, MIN(TILE_ROWS_MAX, TILE_BYTES / run->row_bytes));
    for (uint64_t row = begin; row < end; row += tile_rows) {
        uint32_t count = (uint32_t)MIN(tile_rows, end - row);
        const uint8_t *rows = chunk->rows + row * run->row_bytes;
        for (uint32_t query = first_query; query < end_query; query++)
            tile_score(run, (size_t)part * run->query_count + query, query, rows,
                       chunk->first + row, count);
    }
}

static enum status chunk_read(const struct run *run, struct chunk *chunk, uint64_t first,
                              struct error *err)
{
    chunk->first = first;
    chunk->count = MIN(run->chunk_rows, run->shape.count - first);
    if (chunk->count == 0)
        return STATUS_OK;
    enum status status = vector_file_read(run->base, first, chunk->count, chunk->rows, err);
    if (status != STATUS_OK)
        return status;
    return vector_rows_check(run->params->base, &run->shape, run->params->metric, first,
                             chunk->count, chunk->rows, run->row_bytes, err);
}

static enum status search_chunks(struct run *run, struct error *err)
{
    enum status status = chunk_read(run, &run->chunks[0], 0, err);
    uint32_t groups = (run->query_count + run->group - 1) / run->group;
    int64_t tasks = (int64_t)groups * run->parts;
    uint32_t current = 0;
    while (status == STATUS_OK && run->chunks[current].count > 0) {
        const struct chunk *chunk = &run->chunks[current];
        struct chunk *next = &run->chunks[1 - current];
        enum status read_status = STATUS_OK;
        /* Item 0 reads ahead; being first it starts first. */
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)run->threads)
        for (int64_t item = 0; item <= tasks; item++) {
            if (item == 0)
                read_status = chunk_read(run, next, chunk->first + chunk->count, err);
            else
                task_run(run, chunk, (uint32_t)((item - 1) / groups),
                         (uint32_t)((item - 1) % groups) * run->group);
        }
        status = read_status;
        progress_update(run->params->progress, chunk->first + chunk->count);
        current = 1 - current;
    }
    return status;
}

/* Folds the heaps of the other parts into part 0's and orders them. */
static void merge_parts(struct run *run)
{
    uint32_t k = run->params->k;
#pragma omp parallel for schedule(static) num_threads((int)run->threads)
    for (uint32_t query = 0; query < run->query_count; query++) {
        for (uint32_t part = 1; part < run->parts; part++) {
            size_t heap = (size_t)part * run->query_count + query;
            for (uint32_t i = 0; i < run->sizes[heap]; i++)
                heap_push(run, query, run->distances[heap * k + i], run->ids[heap * k + i]);
        }
        assert(run->sizes[query] == k);
        heap_sort(run->distances + (size_t)query * k, run->ids + (size_t)query * k, k);
    }
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
    if (params->k < 1 || params->k > GROUNDTRUTH_K_MAX)
        return error_set(err, STATUS_INVALID, "k is %u, wanted 1 to %d", params->k,
                         GROUNDTRUTH_K_MAX);
    if (params->k > base->count)
        return error_set(err, STATUS_INVALID, "k is %u, but %s has only %llu rows", params->k,
                         params->base, (unsigned long long)base->count);
    return STATUS_OK;
}

/* Divides the work and the memory: heaps and queries are fixed, chunks take what is left. */
static enum status run_plan(struct run *run, struct error *err)
{
    const struct groundtruth_params *params = run->params;
    run->threads = params->threads != 0 ? params->threads : (uint32_t)omp_get_max_threads();
    uint32_t group = run->query_count / (4 * run->threads);
    run->group = MIN(GROUP_QUERIES_MAX, MAX(GROUP_QUERIES_MIN, group));
    uint32_t groups = (run->query_count + run->group - 1) / run->group;
    run->parts = groups >= 2 * run->threads ? 1 : run->threads;

    size_t heaps, entries, fixed;
    if (!size_mul(run->parts, run->query_count, &heaps) || !size_mul(heaps, params->k, &entries) ||
        !size_mul(entries, sizeof(float) + sizeof(uint32_t), &fixed) ||
        !size_add(fixed, heaps * sizeof(uint32_t) + run->query_count * sizeof(float), &fixed) ||
        !size_add(fixed, run->queries_bytes, &fixed))
        return error_set(err, STATUS_INVALID, "%s: %u queries with k %u exceed the address space",
                         params->queries, run->query_count, params->k);
    run->heap_count = heaps;

    uint64_t least = MAX((uint64_t)CHUNK_BYTES_MIN, run->row_bytes);
    uint64_t chunk_bytes = MAX((uint64_t)CHUNK_BYTES_MAX, run->row_bytes);
    if (params->memory_bytes != 0) {
        uint64_t need = fixed + CHUNK_BUFFERS * least;
        if (params->memory_bytes < need)
            return error_set(err, STATUS_NO_MEMORY,
                             "a memory budget of %llu bytes is too small for %u queries with k %u: "
                             "at least %llu bytes are needed",
                             (unsigned long long)params->memory_bytes, run->query_count, params->k,
                             (unsigned long long)need);
        chunk_bytes = MIN(chunk_bytes, (params->memory_bytes - fixed) / CHUNK_BUFFERS);
    }
    run->chunk_rows = MIN(run->shape.count, chunk_bytes / run->row_bytes);
    return STATUS_OK;
}

static enum status run_allocate(struct run *run, struct error *err)
{
    size_t entries = run->heap_count * run->params->k;
    run->scales = malloc(run->query_count * sizeof(float));
    run->sizes = calloc(run->heap_count, sizeof(uint32_t));
    run->ids = malloc(entries * sizeof(uint32_t));
    run->distances = malloc(entries * sizeof(float));
    if (run->scales == NULL || run->sizes == NULL || run->ids == NULL || run->distances == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %zu neighbours", entries);
    for (uint32_t query = 0; query < run->query_count; query++)
        run->scales[query] =
            distance_query_scale(&run->distance, run->queries + query * run->row_bytes);
    for (uint32_t i = 0; i < CHUNK_BUFFERS; i++) {
        void *rows;
        enum status status = bulk_alloc(run->chunk_rows, run->row_bytes, "base rows", &rows, err);
        if (status != STATUS_OK)
            return status;
        run->chunks[i].rows = rows;
    }
    return STATUS_OK;
}

static enum status run_open(struct run *run, struct error *err)
{
    const struct groundtruth_params *params = run->params;
    struct vector_shape queries;
    void *rows;
    enum status status = vector_file_open(params->base, &run->base, err);
    if (status != STATUS_OK)
        return status;
    run->shape = vector_file_shape(run->base);
    uint64_t limit = params->memory_bytes != 0 ? params->memory_bytes : SIZE_MAX;
    status = vector_file_load(params->queries, limit, &queries, &rows, err);
    if (status != STATUS_OK)
        return status;
    run->queries = rows;
    status = shapes_check(params, &run->shape, &queries, err);
    if (status != STATUS_OK)
        return status;
    run->row_bytes = element_vector_bytes(run->shape.type, run->shape.dim);
    run->query_count = (uint32_t)queries.count;
    run->queries_bytes = run->query_count * run->row_bytes;
    distance_init(&run->distance, run->shape.type, params->metric, run->shape.dim);
    return vector_rows_check(params->queries, &queries, params->metric, 0, queries.count,
                             run->queries, run->row_bytes, err);
}

static void run_close(struct run *run)
{
    for (uint32_t i = 0; i < CHUNK_BUFFERS; i++)
        if (run->chunks[i].rows != NULL)
            bulk_free(run->chunks[i].rows, run->chunk_rows, run->row_bytes);
    free(run->distances);
    free(run->ids);
    free(run->sizes);
    free(run->scales);
    free(run->queries);
    if (run->base != NULL)
        vector_file_close(run->base);
}

enum status groundtruth_compute(const struct groundtruth_params *params, struct ground_truth *out,
                                struct error *err)
{
    struct run run = {.params = params};
    *out = (struct ground_truth){0};
    enum status status = run_open(&run, err);
    if (status == STATUS_OK)
        status = run_plan(&run, err);
    if (status == STATUS_OK)
        status = run_allocate(&run, err);
    if (status != STATUS_OK)
        goto out;

    progress_begin(params->progress, "groundtruth", run.shape.count, "rows");
    status = search_chunks(&run, err);
    if (status != STATUS_OK)
        goto out;
    merge_parts(&run);
    /* Part 0's heaps are the first query_count * k entries: exactly the result. */
    out->query_count = run.query_count;
    out->k = params->k;
    out->ids = run.ids;
    out->distances = run.distances;
    run.ids = NULL;
    run.distances = NULL;
out:
    progress_end(params->progress);
    run_close(&run);
    return status;
}
