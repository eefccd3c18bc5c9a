/*
 * vector_truth.c - key files and ground truth: the ids that go with vectors. Functions share
 * nothing; any thread.
 *
 * Duplicate keys are found by sorting a copy in place with an MSD radix sort (American flag sort:
 * McIlroy, Bostic, McIlroy, 1993): it needs no second buffer, which qsort() takes, and its worst
 * case is eight passes whatever the keys.
 */
#include "common/vector_file.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file_io.h"
#include "common/memory.h"
#include "common/vector_format.h"

enum {
    TRUTH_HEADER_BYTES = 8,
    RADIX = 256,
    INSERTION_SORT_MAX = 48, /* below this a counting pass costs more than it saves */
};

static void insertion_sort(uint64_t *keys, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        uint64_t key = keys[i];
        size_t j = i;
        for (; j > 0 && keys[j - 1] > key; j--)
            keys[j] = keys[j - 1];
        keys[j] = key;
    }
}

/* Sorts by the byte at `shift` and those below it; recursion is at most eight deep. */
static void radix_sort(uint64_t *keys, size_t count, unsigned shift)
{
    if (count <= INSERTION_SORT_MAX) {
        insertion_sort(keys, count);
        return;
    }
    size_t next[RADIX] = {0}, end[RADIX];
    for (size_t i = 0; i < count; i++)
        next[keys[i] >> shift & 0xff]++;
    size_t sum = 0;
    for (int b = 0; b < RADIX; b++) {
        size_t size = next[b];
        next[b] = sum;
        sum += size;
        end[b] = sum;
    }
    for (int b = 0; b < RADIX; b++) {
        while (next[b] < end[b]) {
            uint64_t key = keys[next[b]];
            unsigned home;
            while ((home = (unsigned)(key >> shift & 0xff)) != (unsigned)b) {
                uint64_t displaced = keys[next[home]];
                keys[next[home]++] = key;
                key = displaced;
            }
            keys[next[b]++] = key;
        }
    }
    if (shift == 0)
        return;
    for (int b = 0; b < RADIX; b++) {
        size_t start = b > 0 ? end[b - 1] : 0;
        radix_sort(keys + start, end[b] - start, shift - 8);
    }
}

static bool strictly_ascending(const uint64_t *keys, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (keys[i - 1] >= keys[i])
            return false;
    return true;
}

/* The smallest repeated key is the one named, with its first two rows. */
static enum status check_distinct(const char *path, const uint64_t *keys, size_t count,
                                  struct error *err)
{
    if (strictly_ascending(keys, count))
        return STATUS_OK;
    void *memory;
    enum status status = bulk_alloc(count, sizeof(*keys), "sorted keys", &memory, err);
    if (status != STATUS_OK)
        return status;
    uint64_t *sorted = memory;
    memcpy(sorted, keys, count * sizeof(*keys));
    radix_sort(sorted, count, 56);
    for (size_t i = 1; i < count && status == STATUS_OK; i++) {
        if (sorted[i - 1] != sorted[i])
            continue;
        uint64_t key = sorted[i];
        size_t rows[2], found = 0;
        for (size_t row = 0; found < 2; row++)
            if (keys[row] == key)
                rows[found++] = row;
        status = error_set(err, STATUS_INVALID, "%s: key %" PRIu64 " is repeated: rows %zu and %zu",
                           file_label(path), key, rows[0], rows[1]);
    }
    bulk_free(memory, count, sizeof(*keys));
    return status;
}

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

enum status key_file_read(const char *path, uint64_t expected_count, uint64_t **keys,
                          struct error *err)
{
    int fd = -1;
    uint64_t file_bytes;
    uint32_t header[2];
    enum status status = check_key_name(path, err);
    if (status == STATUS_OK)
        status = open_with_header(path, &fd, &file_bytes, header, err);
    if (status != STATUS_OK)
        return status;
    uint64_t *read = NULL;
    status = check_key_file(path, file_bytes, header, expected_count, err);
    if (status != STATUS_OK)
        goto out;
    size_t bytes = (size_t)header[0] * sizeof(*read);
    read = malloc(bytes);
    if (!read) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: cannot allocate %zu bytes for its keys",
                           file_label(path), bytes);
        goto out;
    }
    status = file_read_at(fd, path, read, bytes, TRUTH_HEADER_BYTES, err);
    if (status == STATUS_OK)
        status = check_distinct(path, read, header[0], err);
    if (status == STATUS_OK) {
        *keys = read;
        read = NULL;
    }
out:
    free(read);
    close(fd);
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

enum status key_file_write(const char *path, const uint64_t *keys, uint64_t count,
                           struct error *err)
{
    enum status status = check_key_name(path, err);
    if (status != STATUS_OK)
        return status;
    if (count == 0 || count > UINT32_MAX)
        return error_set(err, STATUS_INVALID, "%s: %" PRIu64 " keys, wanted 1 to %" PRIu32,
                         file_label(path), count, UINT32_MAX);
    const uint32_t header[2] = {(uint32_t)count, 1};
    const void *const data[2] = {keys, NULL};
    const size_t bytes[2] = {(size_t)count * sizeof(*keys), 0};
    return write_whole(path, header, data, bytes, err);
}

static enum status check_ids(const char *path, const struct ground_truth *truth, struct error *err)
{
    size_t count = (size_t)truth->query_count * truth->k;
    for (size_t i = 0; i < count; i++)
        if (truth->ids[i] > INT32_MAX)
            return error_set(err, STATUS_CORRUPT,
                             "%s: query %zu has the negative id %" PRId32 " at position %zu",
                             file_label(path), i / truth->k, (int32_t)truth->ids[i], i % truth->k);
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
