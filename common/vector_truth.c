/*
 * vector_truth.c - key files and ground truth: the ids that go with vectors. An open key file is
 * immutable; functions share nothing; any thread.
 *
 * Keys are looked through for repeats by sorting them in place (u64_sort.h), 8 bytes a key and no
 * more. Sorting forgets rows, so those of a repeated key are found by reading the file once more.
 */
#include "common/vector_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file_io.h"
#include "common/memory.h"
#include "common/u64_sort.h"
#include "common/vector_format.h"

enum {
    TRUTH_HEADER_BYTES = 8,
    KEYS_PER_READ = 1 << 19, /* 4 MB: sequential disk speed, and a stop is soon heard */
};

/* Opens `path` and reads the two u32 every layout here starts with. */
static enum status open_with_header(const char *path, int *fd, uint64_t *file_bytes,
                                    uint32_t header[2], struct error *err)
{
    int opened;
    uint64_t bytes;
    enum status status = file_open_input(path, &opened, &bytes, err);
    if (status != STATUS_OK)
        return status;
    if (bytes < TRUTH_HEADER_BYTES)
        status = error_set(err, STATUS_CORRUPT, "%s: %" PRIu64 " bytes, wanted a header of %d",
                           file_label(path), bytes, TRUTH_HEADER_BYTES);
    else
        status = file_read_at(opened, path, header, TRUTH_HEADER_BYTES, 0, err);
    if (status != STATUS_OK) {
        close(opened);
        return status;
    }
    *fd = opened;
    *file_bytes = bytes;
    return STATUS_OK;
}

static enum status check_key_file(const char *path, uint64_t file_bytes, const uint32_t header[2],
                                  uint64_t expected_count, struct error *err)
{
    uint64_t implied = TRUTH_HEADER_BYTES + (uint64_t)header[0] * sizeof(uint64_t);
    if (header[1] != 1)
        return error_set(err, STATUS_CORRUPT, "%s: %" PRIu32 " keys a row, wanted 1",
                         file_label(path), header[1]);
    if (file_bytes != implied)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu64 " bytes, but its header (%" PRIu32 " keys) implies %" PRIu64
                         ": %s",
                         file_label(path), file_bytes, header[0], implied,
                         file_bytes < implied ? "truncated" : "too long");
    if (header[0] != expected_count || expected_count == 0)
        return error_set(err, STATUS_INVALID, "%s: %" PRIu32 " keys for %" PRIu64 " vectors",
                         file_label(path), header[0], expected_count);
    return STATUS_OK;
}

static enum status check_key_name(const char *path, struct error *err)
{
    if (file_has_suffix(path, ".u64bin"))
        return STATUS_OK;
    return error_set(err, STATUS_INVALID, "%s: not a key file by its name; wanted .u64bin",
                     file_label(path));
}

struct key_file {
    int fd;
    char *path;
    uint64_t count;
};

enum status key_file_open(const char *path, uint64_t expected_count, struct key_file **out,
                          struct error *err)
{
    int fd = -1;
    uint64_t file_bytes;
    uint32_t header[2];
    struct key_file *file = NULL;
    char *copy = NULL;
    enum status status = check_key_name(path, err);
    if (status == STATUS_OK)
        status = open_with_header(path, &fd, &file_bytes, header, err);
    if (status != STATUS_OK)
        return status;
    status = check_key_file(path, file_bytes, header, expected_count, err);
    if (status != STATUS_OK)
        goto out;
    file = calloc(1, sizeof(*file));
    copy = strdup(path);
    if (!file || !copy) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
        goto out;
    }
    *file = (struct key_file){.fd = fd, .path = copy, .count = header[0]};
    *out = file;
    return STATUS_OK;
out:
    free(copy);
    free(file);
    close(fd);
    return status;
}

void key_file_close(struct key_file *file)
{
    if (!file)
        return;
    close(file->fd);
    free(file->path);
    free(file);
}

enum status key_file_read_range(const struct key_file *file, uint64_t first, uint64_t count,
                                uint64_t *keys, struct error *err)
{
    if (first > file->count || count > file->count - first)
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu64 " keys from row %" PRIu64 " asked for, it has %" PRIu64,
                         file_label(file->path), count, first, file->count);
    return file_read_at(file->fd, file->path, keys, (size_t)count * sizeof(*keys),
                        TRUTH_HEADER_BYTES + first * sizeof(*keys), err);
}

/* All keys, with an ear for the wish to stop. */
static enum status read_keys(const struct key_file *file, const atomic_int *cancel, uint64_t *keys,
                             struct error *err)
{
    enum status status = STATUS_OK;
    for (uint64_t first = 0; first < file->count && status == STATUS_OK; first += KEYS_PER_READ) {
        if (cancel && atomic_load_explicit(cancel, memory_order_relaxed) != 0)
            return error_set(err, STATUS_CANCELLED, "%s: interrupted while its keys were checked",
                             file_label(file->path));
        uint64_t count = MIN((uint64_t)KEYS_PER_READ, file->count - first);
        status = key_file_read_range(file, first, count, keys + first, err);
    }
    return status;
}

/* The error of a repeated key, with its first two rows out of `keys`, which are in file order. */
static enum status report_repeated(const struct key_file *file, uint64_t key, const uint64_t *keys,
                                   struct error *err)
{
    uint64_t rows[2];
    int found = 0;
    for (uint64_t row = 0; row < file->count && found < 2; row++)
        if (keys[row] == key)
            rows[found++] = row;
    if (found < 2)
        return error_set(err, STATUS_CORRUPT, "%s: changed while it was read",
                         file_label(file->path));
    return error_set(err, STATUS_INVALID,
                     "%s: key %" PRIu64 " is repeated: rows %" PRIu64 " and %" PRIu64,
                     file_label(file->path), key, rows[0], rows[1]);
}

enum status key_file_check(const struct key_file *file, const atomic_int *cancel, struct error *err)
{
    void *memory;
    enum status status =
        bulk_alloc((size_t)file->count, sizeof(uint64_t), "keys to check", &memory, err);
    if (status != STATUS_OK)
        return status;
    uint64_t *keys = memory;
    status = read_keys(file, cancel, keys, err);
    if (status != STATUS_OK)
        goto out;
    u64_sort(keys, (size_t)file->count);
    uint64_t i = 1;
    while (i < file->count && keys[i - 1] != keys[i])
        i++;
    if (i == file->count)
        goto out;
    uint64_t repeated = keys[i];
    status = read_keys(file, cancel, keys, err);
    if (status == STATUS_OK)
        status = report_repeated(file, repeated, keys, err);
out:
    bulk_free(memory, (size_t)file->count, sizeof(*keys));
    return status;
}

/* A header and up to two arrays, all or nothing. */
static enum status write_whole(const char *path, const uint32_t header[2],
                               const void *const data[2], const size_t bytes[2], struct error *err)
{
    struct file_output output;
    enum status status =
        file_output_open(&output, path, TRUTH_HEADER_BYTES + (uint64_t)bytes[0] + bytes[1], err);
    if (status != STATUS_OK)
        return status;
    status = file_output_write(&output, header, TRUTH_HEADER_BYTES, err);
    for (int i = 0; i < 2 && status == STATUS_OK; i++)
        status = file_output_write(&output, data[i], bytes[i], err);
    if (status == STATUS_OK)
        status = file_output_commit(&output, err);
    if (status != STATUS_OK)
        file_output_abort(&output);
    return status;
}

struct key_writer {
    struct file_output output;
    uint64_t count;
    uint64_t appended;
};

enum status key_writer_open(const char *path, uint64_t count, struct key_writer **out,
                            struct error *err)
{
    enum status status = check_key_name(path, err);
    if (status != STATUS_OK)
        return status;
    if (count == 0 || count > UINT32_MAX)
        return error_set(err, STATUS_INVALID, "%s: %" PRIu64 " keys, wanted 1 to %" PRIu32,
                         file_label(path), count, UINT32_MAX);
    struct key_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    const uint32_t header[2] = {(uint32_t)count, 1};
    writer->count = count;
    status =
        file_output_open(&writer->output, path, TRUTH_HEADER_BYTES + count * sizeof(uint64_t), err);
    if (status == STATUS_OK)
        status = file_output_write(&writer->output, header, sizeof(header), err);
    if (status != STATUS_OK) {
        key_writer_abort(writer);
        return status;
    }
    *out = writer;
    return STATUS_OK;
}

enum status key_writer_append(struct key_writer *writer, const uint64_t *keys, uint64_t count,
                              struct error *err)
{
    if (count > writer->count - writer->appended)
        return error_set(err, STATUS_INVALID, "%s: more than the %" PRIu64 " keys announced",
                         file_label(writer->output.path), writer->count);
    enum status status =
        file_output_write(&writer->output, keys, (size_t)count * sizeof(*keys), err);
    if (status == STATUS_OK)
        writer->appended += count;
    return status;
}

enum status key_writer_finish(struct key_writer *writer, struct error *err)
{
    enum status status = STATUS_OK;
    if (writer->appended != writer->count)
        status =
            error_set(err, STATUS_INVALID, "%s: %" PRIu64 " keys written, %" PRIu64 " announced",
                      file_label(writer->output.path), writer->appended, writer->count);
    if (status == STATUS_OK)
        status = file_output_commit(&writer->output, err);
    key_writer_abort(writer); /* of what is committed nothing is left to remove */
    return status;
}

void key_writer_abort(struct key_writer *writer)
{
    if (!writer)
        return;
    file_output_abort(&writer->output);
    free(writer);
}

uint32_t ground_truth_existing(const struct ground_truth *truth, uint32_t query, uint32_t k)
{
    const uint32_t *ids = truth->ids + (size_t)query * truth->k;
    uint32_t low = 0;
    while (low < k) { /* absent ones are last */
        uint32_t middle = low + (k - low) / 2;
        if (ids[middle] == GROUND_TRUTH_ABSENT)
            k = middle;
        else
            low = middle + 1;
    }
    return low;
}

static enum status check_ids(const char *path, const struct ground_truth *truth, struct error *err)
{
    size_t count = (size_t)truth->query_count * truth->k;
    for (size_t i = 0; i < count; i++)
        if (truth->ids[i] > INT32_MAX && truth->ids[i] != GROUND_TRUTH_ABSENT)
            return error_set(err, STATUS_CORRUPT,
                             "%s: query %zu has the negative id %" PRId32 " at position %zu",
                             file_label(path), i / truth->k, (int32_t)truth->ids[i], i % truth->k);
    return STATUS_OK;
}

/* Absent neighbours are the last ones of a query, and infinitely far. */
static enum status check_absent(const char *path, const struct ground_truth *truth,
                                struct error *err)
{
    size_t count = (size_t)truth->query_count * truth->k;
    for (size_t i = 0; i < count; i++) {
        bool absent = truth->ids[i] == GROUND_TRUTH_ABSENT;
        if (!absent && i % truth->k != 0 && truth->ids[i - 1] == GROUND_TRUTH_ABSENT)
            return error_set(err, STATUS_CORRUPT,
                             "%s: query %zu has a neighbour at position %zu, after an absent one",
                             file_label(path), i / truth->k, i % truth->k);
        if (absent && truth->distances && truth->distances[i] != INFINITY)
            return error_set(err, STATUS_CORRUPT,
                             "%s: query %zu has no neighbour at position %zu, but distance %g",
                             file_label(path), i / truth->k, i % truth->k,
                             (double)truth->distances[i]);
    }
    return STATUS_OK;
}

/* Ids alone, as i32 rows (.ivecs, .ibin). */
static enum status read_ids(const char *path, struct ground_truth *out, struct error *err)
{
    struct vector_shape shape;
    void *rows;
    enum status status = vector_file_load(path, UINT64_MAX, &shape, &rows, err);
    if (status != STATUS_OK)
        return status;
    if (shape.count > UINT32_MAX) {
        free(rows);
        return error_set(err, STATUS_INVALID, "%s: %" PRIu64 " queries, wanted at most %" PRIu32,
                         file_label(path), shape.count, UINT32_MAX);
    }
    struct ground_truth truth = {.query_count = (uint32_t)shape.count, .k = shape.dim, .ids = rows};
    status = check_ids(path, &truth, err);
    if (status == STATUS_OK)
        status = check_absent(path, &truth, err);
    if (status == STATUS_OK)
        *out = truth;
    else
        free(rows);
    return status;
}

static enum status check_truth_file(const char *path, uint64_t file_bytes, const uint32_t header[2],
                                    struct error *err)
{
    if (header[0] == 0 || header[1] == 0 || header[1] > VECTOR_IDS_DIM_MAX)
        return error_set(err, STATUS_INVALID,
                         "%s: header says %" PRIu32 " queries and k = %" PRIu32
                         ", wanted at least one query and k from 1 to %d",
                         file_label(path), header[0], header[1], VECTOR_IDS_DIM_MAX);
    uint64_t implied = TRUTH_HEADER_BYTES + (uint64_t)header[0] * header[1] * 8;
    if (file_bytes == implied)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "%s: %" PRIu64 " bytes, but its header (%" PRIu32 " queries, k = %" PRIu32
                     ", ids and distances) implies %" PRIu64 ": %s",
                     file_label(path), file_bytes, header[0], header[1], implied,
                     file_bytes < implied ? "truncated" : "too long");
}

static enum status check_distances(const char *path, const struct ground_truth *truth,
                                   struct error *err)
{
    size_t count = (size_t)truth->query_count * truth->k;
    for (size_t i = 0; i < count; i++)
        if (truth->distances[i] != truth->distances[i])
            return error_set(err, STATUS_CORRUPT,
                             "%s: query %zu has a NaN distance at position %zu", file_label(path),
                             i / truth->k, i % truth->k);
    return STATUS_OK;
}

/* *ids_alone is set, and nothing read, when an .ibin's size says that it holds no distances. */
static enum status read_truth(const char *path, struct ground_truth *out, bool *ids_alone,
                              struct error *err)
{
    int fd;
    uint64_t file_bytes;
    uint32_t header[2];
    struct ground_truth truth = {0};
    enum status status = open_with_header(path, &fd, &file_bytes, header, err);
    if (status != STATUS_OK)
        return status;
    if (file_has_suffix(path, ".ibin") && header[1] <= VECTOR_IDS_DIM_MAX &&
        file_bytes == TRUTH_HEADER_BYTES + (uint64_t)header[0] * header[1] * 4) {
        *ids_alone = true;
        goto out;
    }
    status = check_truth_file(path, file_bytes, header, err);
    if (status != STATUS_OK)
        goto out;
    size_t bytes = (size_t)header[0] * header[1] * sizeof(uint32_t);
    truth = (struct ground_truth){
        .query_count = header[0], .k = header[1], .ids = malloc(bytes), .distances = malloc(bytes)};
    if (!truth.ids || !truth.distances) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: cannot allocate %zu bytes", file_label(path),
                           2 * bytes);
        goto out;
    }
    status = file_read_at(fd, path, truth.ids, bytes, TRUTH_HEADER_BYTES, err);
    if (status == STATUS_OK)
        status = file_read_at(fd, path, truth.distances, bytes, TRUTH_HEADER_BYTES + bytes, err);
    if (status == STATUS_OK)
        status = check_distances(path, &truth, err);
    if (status == STATUS_OK)
        status = check_absent(path, &truth, err);
    if (status == STATUS_OK) {
        *out = truth;
        truth = (struct ground_truth){0};
    }
out:
    ground_truth_free(&truth);
    close(fd);
    return status;
}

enum status ground_truth_read(const char *path, struct ground_truth *out, struct error *err)
{
    if (file_has_suffix(path, ".ivecs"))
        return read_ids(path, out, err);
    bool ids_alone = false;
    enum status status = read_truth(path, out, &ids_alone, err);
    if (status == STATUS_OK && ids_alone)
        return read_ids(path, out, err);
    return status;
}

enum status ground_truth_write(const char *path, const struct ground_truth *truth,
                               struct error *err)
{
    if (truth->query_count == 0 || truth->k == 0 || truth->k > VECTOR_IDS_DIM_MAX ||
        !truth->distances)
        return error_set(err, STATUS_INVALID,
                         "%s: ground truth of %" PRIu32 " queries, k = %" PRIu32
                         ", %s distances: wanted queries, k from 1 to %d, and distances",
                         file_label(path), truth->query_count, truth->k,
                         truth->distances ? "with" : "without", VECTOR_IDS_DIM_MAX);
    const uint32_t header[2] = {truth->query_count, truth->k};
    const void *const data[2] = {truth->ids, truth->distances};
    const size_t array = (size_t)truth->query_count * truth->k * sizeof(uint32_t);
    const size_t bytes[2] = {array, array};
    return write_whole(path, header, data, bytes, err);
}

void ground_truth_free(struct ground_truth *truth)
{
    free(truth->ids);
    free(truth->distances);
    *truth = (struct ground_truth){0};
}
