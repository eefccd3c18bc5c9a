/*
 * query_sample.c - see query_sample.h.
 *
 * Rows are read in pieces, each by the thread that compares it, so that reading and comparing
 * overlap and no thread waits for another but at the end of a chunk, where it is asked whether to
 * stop.
 */
#include "builder/query_sample.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/nearest.h"
#include "builder/row_sample.h"
#include "common/memory.h"
#include "layout/sample.h"

enum {
    PIECE_BYTES = 256 << 10, /* within an L2 */
    CHUNK_PIECES = 64,       /* for each thread: some tenths of a second of work */
};

/* Tells the sample's random stream from others drawn from the same seed. */
#define QUERY_SAMPLE_STREAM 0x5a3b1e0f9e51e5c7u

static const struct work_piece piece = {BUILD_STAGE_SAMPLE, WORK_WHOLE};

struct query_sample_info query_sample_shape(uint64_t count)
{
    return (struct query_sample_info){
        .count = (uint32_t)MAX((uint64_t)1, MIN(count / 2, (uint64_t)QUERY_SAMPLE_MAX)),
        .k = (uint32_t)MIN(count - 1, (uint64_t)QUERY_SAMPLE_NEIGHBORS),
    };
}

uint64_t query_sample_seed(uint64_t seed)
{
    return seed ^ QUERY_SAMPLE_STREAM;
}

uint64_t query_sample_bytes(const struct vector_shape *shape)
{
    const struct query_sample_info info = query_sample_shape(shape->count);
    return sample_bytes(info.count, info.k,
                        (uint32_t)element_vector_bytes(shape->type, shape->dim));
}

/* ---- the run ---- */

struct run {
    const struct query_sample_params *params;
    struct vector_shape shape;
    struct query_sample_info info;
    size_t stride;
    uint32_t threads;
    uint32_t piece_rows;
    struct key_file *keys; /* NULL: key = row */
    struct nearest *nearest;
    struct nearest *tune; /* of the queries to tune to; NULL: there are none */
    uint8_t *tune_rows;   /* [tune->count], stride apart */
    uint8_t *queries;     /* [info.count], stride apart */
    uint64_t *query_keys; /* [info.count] */
    uint8_t *buffers;     /* a piece for each thread */
    uint64_t *key_buffers;
    /* of the present chunk; guarded by the critical section query_sample_fault */
    uint64_t bad_piece; /* UINT64_MAX: none */
    struct error bad_error;
};

static uint32_t piece_rows_of(size_t piece_bytes, size_t stride, uint64_t count)
{
    const size_t rows = (piece_bytes != 0 ? piece_bytes : (size_t)PIECE_BYTES) / stride;
    return (uint32_t)MIN(MAX(rows, (size_t)1), count);
}

uint32_t query_sample_tune_k(uint64_t count)
{
    return (uint32_t)MIN(count, (uint64_t)QUERY_SAMPLE_NEIGHBORS);
}

static struct nearest_params nearest_params_of(const struct vector_shape *shape, enum metric metric,
                                               uint32_t threads)
{
    const struct query_sample_info info = query_sample_shape(shape->count);
    return (struct nearest_params){
        .type = shape->type,
        .metric = metric,
        .dim = shape->dim,
        .k = info.k,
        .threads = threads,
        .queries = {.stride_bytes = nearest_stride_bytes(shape->type, shape->dim),
                    .count = info.count},
    };
}

static struct nearest_params tune_params_of(const struct vector_shape *shape, enum metric metric,
                                            uint32_t threads, uint32_t count)
{
    struct nearest_params params = nearest_params_of(shape, metric, threads);
    params.k = query_sample_tune_k(shape->count);
    params.queries.count = count;
    params.foreign = true;
    return params;
}

/* Their rows as they are compared, the heaps, and what comes out. */
static uint64_t tune_memory_bytes(const struct vector_shape *shape, enum metric metric,
                                  uint32_t threads, uint32_t count)
{
    if (count == 0)
        return 0;
    const struct nearest_params params = tune_params_of(shape, metric, threads, count);
    return nearest_memory_bytes(&params) +
           count * (params.queries.stride_bytes +
                    (uint64_t)params.k * (sizeof(uint64_t) + sizeof(float)));
}

uint64_t query_sample_memory_bytes(const struct vector_shape *shape, enum metric metric,
                                   uint32_t threads, uint32_t tune_count)
{
    const struct nearest_params params = nearest_params_of(shape, metric, threads);
    const uint64_t stride = params.queries.stride_bytes;
    const uint64_t rows = piece_rows_of(0, stride, shape->count);
    const uint64_t queries = params.queries.count * (stride + sizeof(uint64_t));
    /* The truth is first by itself, then in the image. */
    return nearest_memory_bytes(&params) + queries + 2 * query_sample_bytes(shape) +
           threads * rows * (stride + sizeof(uint64_t)) +
           tune_memory_bytes(shape, metric, threads, tune_count);
}

static enum status keys_read(const struct run *run, uint64_t first, uint64_t count, uint64_t *keys,
                             struct error *err)
{
    if (run->keys != NULL)
        return key_file_read_range(run->keys, first, count, keys, err);
    for (uint64_t i = 0; i < count; i++)
        keys[i] = first + i;
    return STATUS_OK;
}

static enum status queries_read(struct run *run, struct error *err)
{
    const uint32_t count = run->info.count;
    uint32_t *rows = malloc(count * sizeof(*rows));
    if (rows == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a sample of %u rows", count);
    row_sample(query_sample_seed(run->params->seed), (uint32_t)run->shape.count, count, rows);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++) {
        status = vector_file_read_strided(run->params->file, rows[i], 1,
                                          run->queries + i * run->stride, run->stride, err);
        if (status == STATUS_OK)
            status = keys_read(run, rows[i], 1, &run->query_keys[i], err);
    }
    free(rows);
    return status;
}

static enum status tune_create(struct run *run, struct error *err)
{
    const struct tune_queries *tune = run->params->tune;
    void *memory = NULL;
    if (tune == NULL || tune->count == 0)
        return STATUS_OK;
    enum status status = bulk_alloc(tune->count, run->stride, "queries to tune to", &memory, err);
    if (status != STATUS_OK)
        return status;
    run->tune_rows = memory; /* zeros between rows */
    for (uint32_t i = 0; i < tune->count; i++)
        memcpy(run->tune_rows + i * run->stride, tune->rows + i * tune->row_bytes, tune->row_bytes);
    struct nearest_params params =
        tune_params_of(&run->shape, run->params->metric, run->threads, tune->count);
    params.queries.rows = run->tune_rows;
    return nearest_create(&params, &run->tune, err);
}

static enum status run_create(struct run *run, const struct query_sample_params *params,
                              struct error *err)
{
    void *memory = NULL;
    *run = (struct run){
        .params = params,
        .shape = vector_file_shape(params->file),
        .threads = (uint32_t)omp_get_max_threads(),
    };
    run->info = query_sample_shape(run->shape.count);
    run->stride = nearest_stride_bytes(run->shape.type, run->shape.dim);
    run->piece_rows = piece_rows_of(params->piece_bytes, run->stride, run->shape.count);
    enum status status = STATUS_OK;
    if (params->keys != NULL)
        status = key_file_open(params->keys, run->shape.count, &run->keys, err);
    if (status == STATUS_OK)
        status = bulk_alloc(run->info.count, run->stride, "sample queries", &memory, err);
    if (status != STATUS_OK)
        return status;
    run->queries = memory;
    const size_t rows = (size_t)run->threads * run->piece_rows;
    status = bulk_alloc(rows, run->stride, "buffers of rows", &memory, err);
    if (status != STATUS_OK)
        return status;
    run->buffers = memory;
    run->key_buffers = malloc(rows * sizeof(uint64_t));
    run->query_keys = malloc(run->info.count * sizeof(uint64_t));
    if (run->key_buffers == NULL || run->query_keys == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the keys of a sample");
    status = queries_read(run, err);
    if (status != STATUS_OK)
        return status;
    struct nearest_params nearest = nearest_params_of(&run->shape, params->metric, run->threads);
    nearest.queries.rows = run->queries;
    nearest.queries.keys = run->query_keys;
    status = nearest_create(&nearest, &run->nearest, err);
    return status == STATUS_OK ? tune_create(run, err) : status;
}

static void run_destroy(struct run *run)
{
    nearest_destroy(run->nearest);
    nearest_destroy(run->tune);
    if (run->tune_rows != NULL)
        bulk_free(run->tune_rows, run->params->tune->count, run->stride);
    bulk_free(run->queries, run->info.count, run->stride);
    bulk_free(run->buffers, (size_t)run->threads * run->piece_rows, run->stride);
    free(run->key_buffers);
    free(run->query_keys);
    key_file_close(run->keys);
}

/* ---- the pass ---- */

static enum status piece_offer(const struct run *run, uint64_t number, struct error *err)
{
    const uint32_t thread = (uint32_t)omp_get_thread_num();
    const size_t own = (size_t)thread * run->piece_rows;
    const uint64_t first = number * run->piece_rows;
    uint8_t *buffer = run->buffers + own * run->stride;
    const struct nearest_rows rows = {
        .rows = buffer,
        .stride_bytes = run->stride,
        .keys = run->key_buffers + own,
        .count = (uint32_t)MIN((uint64_t)run->piece_rows, run->shape.count - first),
    };
    enum status status =
        vector_file_read_strided(run->params->file, first, rows.count, buffer, run->stride, err);
    if (status == STATUS_OK)
        status = keys_read(run, first, rows.count, run->key_buffers + own, err);
    if (status != STATUS_OK)
        return status;
    nearest_offer(run->nearest, thread, &rows);
    if (run->tune != NULL)
        nearest_offer(run->tune, thread, &rows);
    return STATUS_OK;
}

/* All pieces of a chunk are finished, so the first bad one is the same at any thread count. */
static enum status chunk_offer(struct run *run, uint64_t begin, uint64_t end, struct error *err)
{
    run->bad_piece = UINT64_MAX;
#pragma omp parallel for schedule(dynamic, 1)
    for (uint64_t number = begin; number < end; number++) {
        struct error error;
        if (piece_offer(run, number, &error) == STATUS_OK)
            continue;
#pragma omp critical(query_sample_fault)
        if (number < run->bad_piece) {
            run->bad_piece = number;
            run->bad_error = error;
        }
    }
    if (run->bad_piece == UINT64_MAX)
        return STATUS_OK;
    if (err != NULL)
        *err = run->bad_error;
    return run->bad_error.status;
}

static enum status rows_offer(struct run *run, const struct build_monitor *monitor,
                              struct error *err)
{
    const uint64_t pieces = (run->shape.count + run->piece_rows - 1) / run->piece_rows;
    const uint64_t chunk = (uint64_t)CHUNK_PIECES * run->threads;
    enum status status = STATUS_OK;
    for (uint64_t begin = 0; status == STATUS_OK && begin < pieces; begin += chunk) {
        const uint64_t end = MIN(begin + chunk, pieces);
        status = build_monitor_check(monitor, err);
        if (status == STATUS_OK)
            status = chunk_offer(run, begin, end, err);
        build_monitor_update(monitor, MIN(end * run->piece_rows, run->shape.count));
    }
    return status;
}

/* ---- the piece ---- */

/* The queries packed, as the format has them. */
static void queries_pack(struct run *run)
{
    const size_t row_bytes = element_vector_bytes(run->shape.type, run->shape.dim);
    for (uint32_t i = 1; i < run->info.count; i++)
        memmove(run->queries + i * row_bytes, run->queries + i * run->stride, row_bytes);
}

/* The file image, malloc'd, the caller's. The queries are of no use for searching after. */
static enum status image_make(struct run *run, uint8_t **image, struct error *err)
{
    const size_t entries = (size_t)run->info.count * run->info.k;
    uint32_t *nodes = calloc(run->info.count, sizeof(*nodes));
    uint64_t *keys = malloc((entries + 1) * sizeof(*keys));
    float *distances = malloc((entries + 1) * sizeof(*distances));
    uint8_t *bytes = malloc(query_sample_bytes(&run->shape));
    enum status status = STATUS_OK;
    if (nodes == NULL || keys == NULL || distances == NULL || bytes == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a sample of %u queries",
                           run->info.count);
    if (status == STATUS_OK)
        status = nearest_finish(run->nearest, keys, distances, err);
    if (status == STATUS_OK) {
        queries_pack(run);
        const struct sample sample = {
            .count = run->info.count,
            .k = run->info.k,
            .dim = run->shape.dim,
            .type = run->shape.type,
            .metric = run->params->metric,
            .own_keys = run->query_keys,
            .own_nodes = nodes,
            .truth_keys = keys,
            .truth_distances = distances,
            .vectors = run->queries,
        };
        sample_encode(&sample, bytes);
        *image = bytes;
        bytes = NULL;
    }
    free(nodes);
    free(keys);
    free(distances);
    free(bytes);
    return status;
}

/* Writes the truth of the queries to tune to. */
static enum status tune_write(const struct run *run, struct work_output *out, struct error *err)
{
    const size_t entries = (size_t)run->params->tune->count * query_sample_tune_k(run->shape.count);
    uint64_t *keys = malloc(entries * sizeof(*keys));
    float *distances = malloc(entries * sizeof(*distances));
    enum status status = STATUS_OK;
    if (keys == NULL || distances == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for %zu neighbours", entries);
    if (status == STATUS_OK)
        status = nearest_finish(run->tune, keys, distances, err);
    if (status == STATUS_OK)
        status = work_output_append(out, keys, entries * sizeof(*keys), err);
    if (status == STATUS_OK)
        status = work_output_append(out, distances, entries * sizeof(*distances), err);
    free(distances);
    free(keys);
    return status;
}

static enum status piece_commit(const struct run *run, const uint8_t *image, struct work *work,
                                struct build_stage_record *cost, struct error *err)
{
    struct work_output *outputs[2] = {NULL, NULL};
    const size_t count = run->tune != NULL ? 2 : 1;
    enum status status = work_output_open(work, piece, QUERY_SAMPLE_PART, 0, &outputs[0], err);
    if (status == STATUS_OK)
        status = work_output_append(outputs[0], image, query_sample_bytes(&run->shape), err);
    if (status == STATUS_OK && count == 2)
        status = work_output_open(work, piece, QUERY_SAMPLE_TUNE_PART, 0, &outputs[1], err);
    if (status == STATUS_OK && count == 2)
        status = tune_write(run, outputs[1], err);
    if (status == STATUS_OK)
        status = work_piece_commit(work, piece, outputs, count, &run->info, sizeof(run->info), cost,
                                   err);
    work_output_abort(outputs[0]);
    work_output_abort(outputs[1]);
    return status;
}

enum status query_sample_run(const struct query_sample_params *params, struct work *work,
                             const struct build_monitor *monitor, struct build_stage_record *cost,
                             struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct run run = {0};
    uint8_t *image = NULL;
    enum status status = run_create(&run, params, err);
    if (status == STATUS_OK)
        status = rows_offer(&run, monitor, err);
    if (status == STATUS_OK)
        status = image_make(&run, &image, err);
    build_clock_measure(&clock, cost);
    if (status == STATUS_OK)
        status = piece_commit(&run, image, work, cost, err);
    free(image);
    run_destroy(&run);
    return status;
}
