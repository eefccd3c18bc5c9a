/*
 * range_truth.c - owns the file of exact answers within a radius. Everything its header and counts
 * claim is compared with the file's size before an entry is read. Any thread.
 */
#include "common/range_truth.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file_io.h"
#include "common/vector_format.h"

enum { HEADER_BYTES = 8 };

enum status range_truth_create(struct range_truth *self, uint32_t query_count, uint64_t total,
                               bool distances, struct error *err)
{
    size_t entries = (size_t)MAX(total, 1); /* so that an empty array is not NULL */
    *self = (struct range_truth){.query_count = query_count};
    self->at = calloc((size_t)query_count + 1, sizeof(*self->at));
    self->ids = malloc(entries * sizeof(*self->ids));
    if (distances)
        self->distances = malloc(entries * sizeof(*self->distances));
    if (self->at != NULL && self->ids != NULL && (!distances || self->distances != NULL))
        return STATUS_OK;
    range_truth_free(self);
    error_set(err, STATUS_NO_MEMORY, "no memory for %" PRIu64 " neighbours", total);
    return STATUS_NO_MEMORY;
}

void range_truth_free(struct range_truth *self)
{
    free(self->distances);
    free(self->ids);
    free(self->at);
    *self = (struct range_truth){0};
}

/* *distances: whether the size says that there are some. */
static enum status check_size(const char *path, uint64_t file_bytes, const uint32_t header[2],
                              bool *distances, struct error *err)
{
    if (header[0] == 0)
        return error_set(err, STATUS_INVALID, "%s: header says 0 queries, wanted at least one",
                         file_label(path));
    uint64_t without = HEADER_BYTES + ((uint64_t)header[0] + header[1]) * sizeof(uint32_t);
    uint64_t with = without + (uint64_t)header[1] * sizeof(float);
    *distances = file_bytes == with;
    if (file_bytes == with || file_bytes == without)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "%s: %" PRIu64 " bytes, but its header (%" PRIu32 " queries, %" PRIu32
                     " neighbours) implies %" PRIu64 ", or %" PRIu64 " without distances: %s",
                     file_label(path), file_bytes, header[0], header[1], with, without,
                     file_bytes < with ? "truncated" : "too long");
}

static enum status read_counts(int fd, const char *path, uint32_t total, struct range_truth *truth,
                               struct error *err)
{
    size_t bytes = truth->query_count * sizeof(uint32_t);
    uint32_t *counts = malloc(bytes);
    if (counts == NULL)
        return error_set(err, STATUS_NO_MEMORY, "%s: cannot allocate %zu bytes", file_label(path),
                         bytes);
    enum status status = file_read_at(fd, path, counts, bytes, HEADER_BYTES, err);
    for (uint32_t q = 0; q < truth->query_count && status == STATUS_OK; q++)
        truth->at[q + 1] = truth->at[q] + counts[q];
    free(counts);
    if (status == STATUS_OK && truth->at[truth->query_count] != total)
        return error_set(err, STATUS_CORRUPT,
                         "%s: its queries have %" PRIu64 " neighbours, its header says %" PRIu32,
                         file_label(path), truth->at[truth->query_count], total);
    return status;
}

static enum status read_entries(int fd, const char *path, struct range_truth *truth,
                                struct error *err)
{
    uint64_t total = truth->at[truth->query_count];
    size_t bytes = (size_t)total * sizeof(uint32_t);
    uint64_t offset = HEADER_BYTES + (uint64_t)truth->query_count * sizeof(uint32_t);
    enum status status = file_read_at(fd, path, truth->ids, bytes, offset, err);
    if (status != STATUS_OK || truth->distances == NULL)
        return status;
    status = file_read_at(fd, path, truth->distances, bytes, offset + bytes, err);
    if (status != STATUS_OK)
        return status;
    for (uint64_t i = 0; i < total; i++)
        if (isnan(truth->distances[i]))
            return error_set(err, STATUS_CORRUPT, "%s: neighbour %" PRIu64 " has a NaN distance",
                             file_label(path), i);
    return STATUS_OK;
}

enum status range_truth_read(const char *path, struct range_truth *out, struct error *err)
{
    int fd = -1;
    uint64_t file_bytes;
    uint32_t header[2];
    bool distances = false;
    struct range_truth truth = {0};
    enum status status = file_open_input(path, &fd, &file_bytes, err);
    if (status != STATUS_OK)
        return status;
    if (file_bytes < HEADER_BYTES)
        status = error_set(err, STATUS_CORRUPT, "%s: %" PRIu64 " bytes, wanted a header of %d",
                           file_label(path), file_bytes, HEADER_BYTES);
    if (status == STATUS_OK)
        status = file_read_at(fd, path, header, sizeof(header), 0, err);
    if (status == STATUS_OK)
        status = check_size(path, file_bytes, header, &distances, err);
    if (status == STATUS_OK)
        status = range_truth_create(&truth, header[0], header[1], distances, err);
    if (status == STATUS_OK)
        status = read_counts(fd, path, header[1], &truth, err);
    if (status == STATUS_OK)
        status = read_entries(fd, path, &truth, err);
    close(fd);
    if (status == STATUS_OK)
        *out = truth;
    else
        range_truth_free(&truth);
    return status;
}

enum status range_truth_write(const char *path, const struct range_truth *truth, struct error *err)
{
    uint64_t total = truth->at[truth->query_count];
    if (truth->query_count == 0 || total > UINT32_MAX)
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu32 " queries with %" PRIu64
                         " neighbours, wanted at least one query and at most %" PRIu32,
                         file_label(path), truth->query_count, total, UINT32_MAX);
    size_t bytes = (size_t)total * sizeof(uint32_t);
    struct file_output output;
    const uint32_t header[2] = {truth->query_count, (uint32_t)total};
    enum status status =
        file_output_open(&output, path,
                         HEADER_BYTES + (uint64_t)truth->query_count * sizeof(uint32_t) + bytes +
                             (truth->distances != NULL ? bytes : 0),
                         err);
    if (status != STATUS_OK)
        return status;
    status = file_output_write(&output, header, sizeof(header), err);
    for (uint32_t q = 0; q < truth->query_count && status == STATUS_OK; q++) {
        uint32_t count = (uint32_t)(truth->at[q + 1] - truth->at[q]);
        status = file_output_write(&output, &count, sizeof(count), err);
    }
    if (status == STATUS_OK)
        status = file_output_write(&output, truth->ids, bytes, err);
    if (status == STATUS_OK && truth->distances != NULL)
        status = file_output_write(&output, truth->distances, bytes, err);
    if (status == STATUS_OK)
        status = file_output_commit(&output, err);
    if (status != STATUS_OK)
        file_output_abort(&output);
    return status;
}

enum status range_truth_to_rows(const char *path, const struct range_truth *truth,
                                struct ground_truth *out, struct error *err)
{
    uint64_t most = 1;
    for (uint32_t q = 0; q < truth->query_count; q++)
        most = MAX(most, truth->at[q + 1] - truth->at[q]);
    if (most > VECTOR_IDS_DIM_MAX)
        return error_set(err, STATUS_INVALID,
                         "%s: a query has %" PRIu64 " neighbours: rows have at most %d",
                         file_label(path), most, VECTOR_IDS_DIM_MAX);
    size_t entries = (size_t)truth->query_count * most;
    struct ground_truth rows = {.query_count = truth->query_count,
                                .k = (uint32_t)most,
                                .ids = malloc(entries * sizeof(uint32_t))};
    if (truth->distances != NULL)
        rows.distances = malloc(entries * sizeof(float));
    if (rows.ids == NULL || (truth->distances != NULL && rows.distances == NULL)) {
        ground_truth_free(&rows);
        return error_set(err, STATUS_NO_MEMORY, "%s: no memory for %zu neighbours",
                         file_label(path), entries);
    }
    for (uint32_t q = 0; q < truth->query_count; q++)
        for (uint64_t i = 0; i < most; i++) {
            uint64_t from = truth->at[q] + i;
            size_t to = (size_t)(q * most + i);
            bool exists = from < truth->at[q + 1];
            rows.ids[to] = exists ? truth->ids[from] : GROUND_TRUTH_ABSENT;
            if (rows.distances != NULL)
                rows.distances[to] = exists ? truth->distances[from] : INFINITY;
        }
    *out = rows;
    return STATUS_OK;
}

enum status range_truth_from_rows(const char *path, const struct ground_truth *truth,
                                  struct range_truth *out, struct error *err)
{
    uint64_t total = 0;
    for (uint32_t q = 0; q < truth->query_count; q++)
        total += ground_truth_existing(truth, q, truth->k);
    if (total > UINT32_MAX)
        return error_set(err, STATUS_INVALID, "%s: %" PRIu64 " neighbours, wanted at most %" PRIu32,
                         file_label(path), total, UINT32_MAX);
    struct range_truth range;
    enum status status =
        range_truth_create(&range, truth->query_count, total, truth->distances != NULL, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t q = 0; q < truth->query_count; q++) {
        size_t from = (size_t)q * truth->k;
        uint64_t to = range.at[q];
        uint32_t count = ground_truth_existing(truth, q, truth->k);
        memcpy(range.ids + to, truth->ids + from, count * sizeof(uint32_t));
        if (range.distances != NULL)
            memcpy(range.distances + to, truth->distances + from, count * sizeof(float));
        range.at[q + 1] = to + count;
    }
    *out = range;
    return STATUS_OK;
}
