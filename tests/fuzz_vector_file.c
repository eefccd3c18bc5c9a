/*
 * fuzz_vector_file.c - any bytes under any vector, key or ground-truth file name: refused or read,
 * no more.
 *
 * The first byte chooses the name, the rest is the file, held in a memfd. The name is a symlink to
 * it in a directory made once, since the format follows from the suffix.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/range_truth.h"
#include "common/vector_file.h"

enum { NAMES = 12, ROWS_BYTES_MAX = 1 << 20, ROWS_QUERIES_MAX = 64 };

static const char *const suffixes[NAMES] = {
    ".u8bin", ".i8bin", ".f16bin", ".fbin", ".ibin",   ".bvecs",
    ".fvecs", ".ivecs", ".npy",    ".npy",  ".u64bin", ".truth",
};

static char directory[64];
static char names[NAMES][96];
static int content_fd = -1;

static void require(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz_vector_file: %s\n", what);
        abort();
    }
}

static void remove_names(void)
{
    for (int i = 0; i < NAMES; i++)
        unlink(names[i]);
    rmdir(directory);
}

static void make_names(void)
{
    char target[64];
    snprintf(directory, sizeof(directory), "/tmp/fuzz_vector_file.XXXXXX");
    content_fd = memfd_create("fuzz", MFD_CLOEXEC);
    require(content_fd >= 0 && mkdtemp(directory), "no place for the file");
    snprintf(target, sizeof(target), "/proc/self/fd/%d", content_fd);
    for (int i = 0; i < NAMES; i++) {
        snprintf(names[i], sizeof(names[i]), "%s/%d%s", directory, i, suffixes[i]);
        require(symlink(target, names[i]) == 0, "no symlink");
    }
    atexit(remove_names);
}

static void check_error(enum status status, const struct error *err)
{
    require(status == err->status, "the status is not the error's");
    require(err->text[0] != '\0' && !strchr(err->text, '\n'), "the error is not one line");
}

static void read_vectors(const char *path, size_t file_bytes)
{
    struct error err = {STATUS_OK, ""};
    struct vector_file *file;
    enum status status = vector_file_open(path, &file, &err);
    if (status != STATUS_OK) {
        check_error(status, &err);
        return;
    }
    struct vector_shape shape = vector_file_shape(file);
    size_t row = shape.dim * element_bytes(shape.type);
    require(shape.count > 0 && row > 0 && shape.count * row <= file_bytes,
            "a shape beyond the file");
    void *rows = malloc(shape.count * (row + 3));
    require(rows != NULL, "out of memory");
    status = vector_file_read_strided(file, 0, shape.count, rows, row + 3, &err);
    if (status != STATUS_OK)
        check_error(status, &err);
    else if (vector_rows_check(path, &shape, METRIC_COSINE, 0, shape.count, rows, row + 3, &err) !=
             STATUS_OK)
        check_error(err.status, &err);
    status = vector_file_read(file, shape.count / 2, shape.count - shape.count / 2, rows, &err);
    if (status != STATUS_OK)
        check_error(status, &err);
    free(rows);
    vector_file_close(file);
}

static void read_keys(const char *path, const uint8_t *bytes, size_t count)
{
    struct error err = {STATUS_OK, ""};
    struct key_file *file;
    uint32_t expected = 1;
    if (count >= sizeof(expected)) /* so that not only the count is ever refused */
        memcpy(&expected, bytes, sizeof(expected));
    enum status status = key_file_open(path, expected, &file, &err);
    if (status != STATUS_OK) {
        check_error(status, &err);
        return;
    }
    status = key_file_check(file, NULL, &err);
    if (status != STATUS_OK)
        check_error(status, &err);
    key_file_close(file);
}

static void read_truth(const char *path)
{
    struct error err = {STATUS_OK, ""};
    struct ground_truth truth;
    enum status status = ground_truth_read(path, &truth, &err);
    if (status != STATUS_OK)
        check_error(status, &err);
    else
        ground_truth_free(&truth);
}

static void read_range(const char *path, size_t file_bytes)
{
    struct error err = {STATUS_OK, ""};
    struct range_truth truth;
    struct ground_truth rows;
    enum status status = range_truth_read(path, &truth, &err);
    if (status != STATUS_OK) {
        check_error(status, &err);
        return;
    }
    require(truth.at[truth.query_count] * sizeof(uint32_t) <= file_bytes,
            "neighbours beyond the file");
    /* Rows may be far larger than the file: one query with all of it, the others with nothing. */
    if (truth.query_count <= ROWS_QUERIES_MAX) {
        status = range_truth_to_rows(path, &truth, &rows, &err);
        if (status == STATUS_OK)
            ground_truth_free(&rows);
        else
            check_error(status, &err);
    }
    range_truth_free(&truth);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (content_fd < 0)
        make_names();
    if (size == 0 || size > ROWS_BYTES_MAX)
        return 0;
    const char *path = names[data[0] % NAMES];
    const char *suffix = suffixes[data[0] % NAMES];
    data++;
    size--;
    require(ftruncate(content_fd, 0) == 0 && pwrite(content_fd, data, size, 0) == (ssize_t)size,
            "the file was not written");
    if (strcmp(suffix, ".u64bin") == 0) {
        read_keys(path, data, size);
        return 0;
    }
    if (strcmp(suffix, ".truth") != 0)
        read_vectors(path, size);
    else
        read_range(path, size);
    read_truth(path);
    return 0;
}
