/*
 * fuzz_hnswlib_file.c - any bytes as an hnswlib index: refused or read to the end, no more.
 *
 * The first byte chooses the element type, the rest is the file, held in a memfd.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/hnswlib_file.h"

enum { BATCH = 3 };

static char path[64];
static int content_fd = -1;

static void require(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz_hnswlib_file: %s\n", what);
        abort();
    }
}

static void check_error(enum status status, const struct error *err)
{
    require(status == err->status, "the status is not the error's");
    require(err->text[0] != '\0' && !strchr(err->text, '\n'), "the error is not one line");
}

static void read_all(struct hnswlib_file *file, size_t file_bytes)
{
    struct error err = {STATUS_OK, ""};
    struct vector_shape shape = hnswlib_file_shape(file);
    size_t row_bytes = shape.dim * element_bytes(shape.type);
    uint64_t keys[BATCH], count, total = 0;
    require(shape.count > 0 && row_bytes > 0 && shape.count * row_bytes <= file_bytes,
            "a shape beyond the file");
    void *rows = malloc(BATCH * row_bytes);
    require(rows != NULL, "out of memory");
    enum status status;
    do {
        status = hnswlib_file_next(file, METRIC_NONE, BATCH, rows, keys, &count, &err);
        if (status == STATUS_OK)
            total += count;
    } while (status == STATUS_OK && count > 0);
    if (status != STATUS_OK)
        check_error(status, &err);
    else
        require(total == shape.count, "not as many rows as announced");
    free(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum element_type types[] = {ELEMENT_F32, ELEMENT_U8, ELEMENT_I8};
    if (content_fd < 0) {
        content_fd = memfd_create("fuzz", MFD_CLOEXEC);
        require(content_fd >= 0, "no place for the file");
        snprintf(path, sizeof(path), "/proc/self/fd/%d", content_fd);
    }
    if (size == 0)
        return 0;
    enum element_type type = types[data[0] % ARRAY_LENGTH(types)];
    data++;
    size--;
    require(ftruncate(content_fd, 0) == 0 && pwrite(content_fd, data, size, 0) == (ssize_t)size,
            "the file was not written");
    struct error err = {STATUS_OK, ""};
    struct hnswlib_file *file = NULL;
    enum status status = hnswlib_file_open(path, type, 0, &file, &err);
    if (status == STATUS_OK)
        read_all(file, size);
    else
        check_error(status, &err);
    hnswlib_file_close(file);
    return 0;
}
