/*
 * tune_queries.c - see tune_queries.h. No state; one thread calls.
 */
#include "builder/tune_queries.h"

#include <stdlib.h>
#include <xxhash.h>

#include "common/memory.h"
#include "layout/digest.h"

static enum status shape_check(const char *path, const struct vector_shape *found,
                               const struct vector_shape *wanted, struct error *err)
{
    if (found->dim != wanted->dim || found->type != wanted->type)
        return error_set(err, STATUS_INVALID, "%s: queries of %u %s, the input has %u %s", path,
                         found->dim, element_name(found->type), wanted->dim,
                         element_name(wanted->type));
    if (found->count == 0)
        return error_set(err, STATUS_INVALID, "%s: has no queries", path);
    return STATUS_OK;
}

/* Row i of `count` taken from `all`. */
static enum status rows_read(const struct vector_file *file, const char *path, enum metric metric,
                             struct tune_queries *queries, struct error *err)
{
    const struct vector_shape shape = vector_file_shape(file);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < queries->count; i++) {
        const uint64_t row = shape.count * i / queries->count;
        uint8_t *to = queries->rows + i * queries->row_bytes;
        status = vector_file_read(file, row, 1, to, err);
        if (status == STATUS_OK)
            status = vector_rows_check(path, &shape, metric, row, 1, to, queries->row_bytes, err);
    }
    return status;
}

enum status tune_queries_load(const char *path, const struct vector_file *input, enum metric metric,
                              struct tune_queries *out, struct error *err)
{
    const struct vector_shape given = vector_file_shape_given(input);
    const enum element_type stored = vector_file_shape(input).type;
    struct tune_queries queries = {.row_bytes = element_vector_bytes(stored, given.dim)};
    struct vector_file *file = NULL;
    enum status status = vector_file_open(path, &file, err);
    if (status != STATUS_OK)
        return status;
    const struct vector_shape found = vector_file_shape(file);
    status = shape_check(path, &found, &given, err);
    if (status == STATUS_OK)
        status = vector_file_store_as(file, stored, err);
    if (status == STATUS_OK) {
        queries.count = (uint32_t)MIN(found.count, (uint64_t)TUNE_QUERIES_MAX);
        queries.rows = malloc(queries.count * queries.row_bytes);
        if (queries.rows == NULL)
            status = error_set(err, STATUS_NO_MEMORY, "%s: no memory for %u queries", path,
                               queries.count);
    }
    if (status == STATUS_OK)
        status = rows_read(file, path, metric, &queries, err);
    vector_file_close(file);
    if (status != STATUS_OK) {
        tune_queries_free(&queries);
        return status;
    }
    queries.digest = digest_of(XXH3_128bits(queries.rows, queries.count * queries.row_bytes));
    *out = queries;
    return STATUS_OK;
}

void tune_queries_free(struct tune_queries *queries)
{
    free(queries->rows);
    *queries = (struct tune_queries){0};
}
