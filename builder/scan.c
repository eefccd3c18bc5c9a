/*
 * scan.c - one pass over rows and keys in bounded memory.
 *
 * Rows stream through two buffers. While one thread digests the chunk before, which must be done in
 * order, the rest of the OpenMP team fills the other buffer in pieces: each thread reads a piece
 * and checks, measures and hashes its rows while they are warm. All that is reported is the same at
 * any thread count: every piece of a chunk is finished, so the lowest bad row of the lowest bad
 * chunk wins.
 *
 * Duplicates are counted by sorting one 64-bit hash a row in place, the only memory that grows with
 * the rows. Comparing the rows themselves would take random reads of an input that is not in RAM.
 */
#include "builder/scan.h"

#include <inttypes.h>
#include <math.h>
#include <xxhash.h>

#include "builder/scan_internal.h"
#include "common/cpu.h"
#include "common/distance.h"
#include "common/file_io.h"
#include "common/memory.h"
#include "common/u64_sort.h"
#include "layout/digest.h"

enum {
    CHUNK_BYTES = 16 << 20,  /* a wish to stop is heard within it: 0.2 s of a slow disk */
    PIECE_BYTES = 256 << 10, /* fits L2, and gives 64 threads one each */
};

struct scan {
    const struct scan_params *params;
    const struct build_monitor *monitor;
    const struct distance_kernels *kernels; /* of rows as they are stored */
    struct vector_shape shape;              /* of rows as they are given */
    enum element_type stored;
    size_t row_bytes;
    uint64_t chunk_rows;
    uint64_t piece_rows;
    size_t buffer_bytes;
    uint8_t *buffers[2]; /* chunk c is in buffers[c % 2] */
    uint64_t *hashes;    /* [shape.count] */
    XXH3_state_t *digest;
    float norm2_max;
    /* of the present chunk; guarded by the critical section scan_fault */
    uint64_t bad_piece; /* UINT64_MAX: none */
    struct error bad_error;
};

enum status scan_shape_check(const char *path, const struct vector_shape *shape, struct error *err)
{
    if (shape->type == ELEMENT_I32) {
        return error_set(err, STATUS_INVALID,
                         "%s: i32 elements are ids, not vectors; u8, i8, f16 or f32 is wanted",
                         file_label(path));
    }
    if (shape->count < 1 || shape->count > SCAN_ROWS_MAX) {
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu64 " vectors; one index holds 1 to %" PRIu64, file_label(path),
                         shape->count, SCAN_ROWS_MAX);
    }
    if (shape->dim < 1 || shape->dim > VECTOR_DIM_MAX) {
        return error_set(err, STATUS_INVALID, "%s: dimension %u is outside 1..%d", file_label(path),
                         shape->dim, VECTOR_DIM_MAX);
    }
    return STATUS_OK;
}

static uint64_t rows_within(size_t bytes, const struct vector_shape *shape)
{
    uint64_t rows = bytes / element_vector_bytes(shape->type, shape->dim);
    return MAX((uint64_t)1, MIN(rows, shape->count));
}

/* Of one buffer; keys pass through it too. */
static size_t buffer_bytes_of(size_t chunk_bytes, const struct vector_shape *shape)
{
    size_t row_bytes = element_vector_bytes(shape->type, shape->dim);
    return MAX((size_t)rows_within(chunk_bytes, shape) * row_bytes, sizeof(uint64_t));
}

uint64_t scan_memory_bytes(const struct vector_shape *shape)
{
    struct vector_shape given = *shape; /* what is stored as floats or i8s may be read as f32 */
    if (shape->type != ELEMENT_U8 && shape->type != ELEMENT_I8)
        given.type = ELEMENT_F32;
    /* Checking keys takes as much as hashes do, before them. */
    return shape->count * sizeof(uint64_t) + 2 * (uint64_t)buffer_bytes_of(CHUNK_BYTES, &given);
}

/* ---- rows ---- */

/* Distances are f32 and reach four times the largest squared norm: beyond f32's range every
 * comparison of the build would be one of infinities. Only f32 elements can get there. The square
 * of the root, because that is what distances are computed with. */
static bool norm_usable(float norm2)
{
    float norm = sqrtf(norm2);
    return isfinite(4.0f * norm * norm);
}

/* Puts the row as it will be stored into `stored`, which also tells whether it can be. */
static enum status row_convert(const struct scan *scan, uint64_t index, const uint8_t *row,
                               uint8_t *stored, struct error *err)
{
    const struct vector_file *file = scan->params->file;
    struct vector_shape shape = scan->shape;
    shape.type = scan->stored;
    enum status status = vector_file_convert(file, index, row, stored, err);
    if (status != STATUS_OK || scan->params->metric != METRIC_COSINE)
        return status;
    if (vector_rows_check(vector_file_path(file), &shape, METRIC_COSINE, index, 1, stored,
                          scan->row_bytes, NULL) == STATUS_OK)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID,
                     "%s: row %" PRIu64
                     " is a zero vector as %s, which has no direction under cosine",
                     file_label(vector_file_path(file)), index, element_name(scan->stored));
}

/* Checks one row, hashes it and returns the squared norm of what will be stored of it through
 * *norm2. */
static enum status row_scan(const struct scan *scan, uint64_t index, const uint8_t *row,
                            float *norm2, struct error *err)
{
    const char *path = vector_file_path(scan->params->file);
    uint8_t converted[VECTOR_DIM_MAX * 2]; /* what is stored in place of other types is smaller */
    const uint8_t *stored = row;

    enum status status = vector_rows_check(path, &scan->shape, scan->params->metric, index, 1, row,
                                           scan->row_bytes, err);
    if (status == STATUS_OK && scan->stored != scan->shape.type) {
        status = row_convert(scan, index, row, converted, err);
        stored = converted;
    }
    if (status != STATUS_OK)
        return status;
    *norm2 = scan->kernels->dot(stored, stored, scan->shape.dim);
    if (!norm_usable(*norm2)) {
        return error_set(err, STATUS_INVALID,
                         "%s: row %" PRIu64
                         " is too long a vector: four times its squared norm exceeds f32",
                         file_label(path), index);
    }
    scan->hashes[index] = XXH3_64bits(row, scan->row_bytes);
    return STATUS_OK;
}

/* Rows [first, first + count) into `rows`, up to the first bad one. */
static enum status piece_scan(const struct scan *scan, uint64_t first, uint64_t count,
                              uint8_t *rows, float *norm2_max, struct error *err)
{
    enum status status = vector_file_read_given(scan->params->file, first, count, rows, err);
    /* A row before the one that cannot be read may be bad: then that one is to be named. */
    if (status != STATUS_OK && count > 1) {
        status = STATUS_OK;
        for (uint64_t i = 0; i < count && status == STATUS_OK; i++)
            status = piece_scan(scan, first + i, 1, rows + i * scan->row_bytes, norm2_max, err);
        return status;
    }
    for (uint64_t i = 0; i < count && status == STATUS_OK; i++) {
        float norm2 = 0.0f;
        status = row_scan(scan, first + i, rows + i * scan->row_bytes, &norm2, err);
        *norm2_max = MAX(*norm2_max, norm2);
    }
    return status;
}

/* Rows of chunk `chunk`; 0 for the one after the last. */
static uint64_t rows_of_chunk(const struct scan *scan, uint64_t chunk)
{
    return MIN(scan->chunk_rows,
               scan->shape.count - MIN(chunk * scan->chunk_rows, scan->shape.count));
}

static void piece_run(struct scan *scan, uint64_t chunk, uint64_t piece, float *norm2_max)
{
    struct error error;
    uint64_t at = piece * scan->piece_rows;
    uint64_t count = MIN(scan->piece_rows, rows_of_chunk(scan, chunk) - at);
    uint8_t *rows = scan->buffers[chunk % 2] + (size_t)at * scan->row_bytes;

    if (piece_scan(scan, chunk * scan->chunk_rows + at, count, rows, norm2_max, &error) ==
        STATUS_OK)
        return;
#pragma omp critical(scan_fault)
    if (piece < scan->bad_piece) {
        scan->bad_piece = piece;
        scan->bad_error = error;
    }
}

/* Scans chunk `chunk` while the one before is digested. */
static enum status chunk_scan(struct scan *scan, uint64_t chunk, struct error *err)
{
    uint64_t pieces = (rows_of_chunk(scan, chunk) + scan->piece_rows - 1) / scan->piece_rows;
    float norm2_max = scan->norm2_max;

    scan->bad_piece = UINT64_MAX;
    /* Digesting is the first item handed out: it takes longest. */
#pragma omp parallel for schedule(dynamic, 1) reduction(max : norm2_max)
    for (uint64_t item = 0; item <= pieces; item++) {
        if (item > 0)
            piece_run(scan, chunk, item - 1, &norm2_max);
        else if (chunk > 0)
            (void)XXH3_128bits_update(scan->digest, scan->buffers[(chunk - 1) % 2],
                                      (size_t)rows_of_chunk(scan, chunk - 1) * scan->row_bytes);
    }
    scan->norm2_max = norm2_max;
    if (scan->bad_piece == UINT64_MAX)
        return STATUS_OK;
    if (err != NULL)
        *err = scan->bad_error;
    return scan->bad_error.status;
}

static enum status rows_scan(struct scan *scan, struct error *err)
{
    uint64_t chunk_count = (scan->shape.count + scan->chunk_rows - 1) / scan->chunk_rows;
    enum status status = STATUS_OK;

    for (uint64_t chunk = 0; chunk <= chunk_count && status == STATUS_OK; chunk++) {
        status = build_monitor_check(scan->monitor, err);
        if (status == STATUS_OK)
            status = chunk_scan(scan, chunk, err);
        progress_update(scan->monitor->progress,
                        MIN((chunk + 1) * scan->chunk_rows, scan->shape.count));
    }
    return status;
}

/* ---- keys ---- */

static enum status keys_digest(struct scan *scan, const struct key_file *keys, struct error *err)
{
    uint64_t *buffer = (uint64_t *)(void *)scan->buffers[0];
    uint64_t chunk = scan->buffer_bytes / sizeof(*buffer);
    enum status status = STATUS_OK;

    for (uint64_t first = 0; first < scan->shape.count && status == STATUS_OK; first += chunk) {
        uint64_t count = MIN(chunk, scan->shape.count - first);
        status = build_monitor_check(scan->monitor, err);
        if (status == STATUS_OK)
            status = key_file_read_range(keys, first, count, buffer, err);
        if (status == STATUS_OK)
            (void)XXH3_128bits_update(scan->digest, buffer, (size_t)count * sizeof(*buffer));
    }
    return status;
}

/* ---- the stage ---- */

static enum status scan_create(struct scan *scan, const struct scan_params *params,
                               const struct build_monitor *monitor, struct error *err)
{
    struct vector_shape shape = vector_file_shape_given(params->file);
    enum element_type stored = vector_file_shape(params->file).type;
    void *memory = NULL;

    *scan = (struct scan){
        .params = params,
        .monitor = monitor,
        .kernels = distance_kernels_get(stored, cpu_features()),
        .shape = shape,
        .stored = stored,
        .row_bytes = element_vector_bytes(shape.type, shape.dim),
        .chunk_rows = rows_within(params->chunk_bytes, &shape),
        .piece_rows = rows_within(params->piece_bytes, &shape),
        .buffer_bytes = buffer_bytes_of(params->chunk_bytes, &shape),
    };
    scan->digest = XXH3_createState();
    if (scan->digest == NULL || XXH3_128bits_reset(scan->digest) != XXH_OK)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the input's digest");
    enum status status =
        bulk_alloc((size_t)shape.count, sizeof(uint64_t), "hashes of the rows", &memory, err);
    if (status != STATUS_OK)
        return status;
    scan->hashes = memory;
    for (int i = 0; i < 2; i++) {
        status = bulk_alloc(scan->buffer_bytes, 1, "buffer of rows", &memory, err);
        if (status != STATUS_OK)
            return status;
        scan->buffers[i] = memory;
    }
    return STATUS_OK;
}

static void scan_destroy(struct scan *scan)
{
    for (int i = 0; i < 2; i++)
        bulk_free(scan->buffers[i], scan->buffer_bytes, 1);
    bulk_free(scan->hashes, (size_t)scan->shape.count, sizeof(uint64_t));
    XXH3_freeState(scan->digest);
}

static void result_take(struct scan *scan, struct scan_result *result)
{
    size_t count = (size_t)scan->shape.count;

    u64_sort(scan->hashes, count);
    *result = (struct scan_result){
        .input_digest = digest_of(XXH3_128bits_digest(scan->digest)),
        .duplicate_vectors = count - u64_sort_distinct(scan->hashes, count),
        .norm_max = sqrtf(scan->norm2_max),
    };
}

enum status scan_run_chunked(const struct scan_params *params, const struct build_monitor *monitor,
                             struct scan_result *result, struct error *err)
{
    struct vector_shape shape = vector_file_shape(params->file);
    struct key_file *keys = NULL;
    struct scan scan = {0};
    struct scan_result made;

    enum status status = scan_shape_check(vector_file_path(params->file), &shape, err);
    if (status != STATUS_OK)
        return status;
    if (params->keys_path != NULL) { /* first: a bad key file is found before hours of reading */
        status = key_file_open(params->keys_path, shape.count, &keys, err);
        if (status == STATUS_OK)
            status = key_file_check(keys, monitor->cancel, err);
        if (status != STATUS_OK)
            goto out;
    }
    status = scan_create(&scan, params, monitor, err);
    if (status == STATUS_OK)
        status = rows_scan(&scan, err);
    if (status == STATUS_OK && keys != NULL)
        status = keys_digest(&scan, keys, err);
    if (status != STATUS_OK)
        goto out;
    result_take(&scan, &made);
    status = build_monitor_check(monitor, err);
    if (status == STATUS_OK)
        *result = made;
out:
    scan_destroy(&scan);
    key_file_close(keys);
    return status;
}

enum status scan_run(const struct vector_file *file, enum metric metric, const char *keys_path,
                     const struct build_monitor *monitor, struct scan_result *result,
                     struct error *err)
{
    struct scan_params params = {
        .file = file,
        .metric = metric,
        .keys_path = keys_path,
        .chunk_bytes = CHUNK_BYTES,
        .piece_bytes = PIECE_BYTES,
    };
    return scan_run_chunked(&params, monitor, result, err);
}
