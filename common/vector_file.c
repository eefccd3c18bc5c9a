/*
 * vector_file.c - opens vector files strictly and reads their rows.
 *
 * Everything a header claims is compared with the file's size before a row is read, and a row is
 * read with pread into the caller's memory. An open file is immutable, so any number of threads
 * read through it; nothing is allocated after vector_file_open().
 */
#include "common/vector_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/file_io.h"
#include "common/memory.h"
#include "common/vector_format.h"

enum {
    IOVECS_MAX = 1024, /* the kernel's UIO_MAXIOV */
    ROWS_PER_CALL = IOVECS_MAX / 2,
    CONVERT_BYTES = 64 << 10, /* of rows that are read to be converted; any row fits */
};
_Static_assert(CONVERT_BYTES >= VECTOR_DIM_MAX * 4, "one row at least");

struct vector_file {
    int fd;
    char *path;
    struct vector_layout layout;
    enum element_type stored; /* what rows are read as */
};

static enum status parse_npy(int fd, const char *path, uint64_t file_bytes,
                             struct vector_layout *layout, struct error *err)
{
    uint8_t preamble[VECTOR_NPY_PREAMBLE_BYTES];
    if (file_bytes < sizeof(preamble))
        return error_set(err, STATUS_CORRUPT, "%s: %" PRIu64 " bytes, too short for an .npy header",
                         file_label(path), file_bytes);
    enum status status = file_read_at(fd, path, preamble, sizeof(preamble), 0, err);
    if (status != STATUS_OK)
        return status;
    size_t start, length;
    status = vector_npy_preamble(path, preamble, &start, &length, err);
    if (status != STATUS_OK)
        return status;
    if (start + length > file_bytes)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu64 " bytes, its .npy header alone claims %zu: truncated",
                         file_label(path), file_bytes, start + length);
    char *text = malloc(length + 1);
    if (!text)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    *layout = (struct vector_layout){.data_offset = start + length};
    status = file_read_at(fd, path, text, length, start, err);
    if (status == STATUS_OK)
        status = vector_npy_parse(path, text, length, &layout->shape, err);
    free(text);
    return status == STATUS_OK ? vector_layout_check(path, layout, err) : status;
}

static enum status parse_header(int fd, const char *path, const struct vector_format *format,
                                uint64_t file_bytes, struct vector_layout *layout,
                                struct error *err)
{
    if (format->container == VECTOR_NPY)
        return parse_npy(fd, path, file_bytes, layout, err);

    uint8_t header[8] = {0};
    enum status status =
        file_read_at(fd, path, header, MIN((size_t)file_bytes, sizeof(header)), 0, err);
    if (status != STATUS_OK)
        return status;
    if (format->container == VECTOR_BIN)
        return vector_bin_parse(path, format, header, file_bytes, layout, err);
    return vector_vecs_parse(path, format, header, file_bytes, layout, err);
}

static enum status check_size(const char *path, uint64_t file_bytes,
                              const struct vector_layout *layout, struct error *err)
{
    if (file_bytes == layout->file_bytes)
        return STATUS_OK;
    const struct vector_shape *shape = &layout->shape;
    return error_set(err, STATUS_CORRUPT,
                     "%s: %" PRIu64 " bytes, but its header (%" PRIu64 " rows of %" PRIu32
                     " %s) implies %" PRIu64 ": %s",
                     file_label(path), file_bytes, shape->count, shape->dim,
                     element_name(shape->type), layout->file_bytes,
                     file_bytes < layout->file_bytes ? "truncated" : "too long");
}

static enum status open_format(const char *path, const struct vector_format *format,
                               struct vector_file **out, struct error *err)
{
    uint64_t file_bytes = 0;
    struct vector_file *file = NULL;
    int fd = -1;
    enum status status = file_open_input(path, &fd, &file_bytes, err);
    if (status != STATUS_OK)
        return status;
    if (file_bytes == 0) {
        status = error_set(err, STATUS_CORRUPT, "%s: is empty, wanted a %s file", file_label(path),
                           format->suffix);
        goto out;
    }
    struct vector_layout layout;
    status = parse_header(fd, path, format, file_bytes, &layout, err);
    if (status == STATUS_OK)
        status = check_size(path, file_bytes, &layout, err);
    if (status != STATUS_OK)
        goto out;
    file = calloc(1, sizeof(*file));
    char *copy = strdup(path);
    if (!file || !copy) {
        free(copy);
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
        goto out;
    }
    *file =
        (struct vector_file){.fd = fd, .path = copy, .layout = layout, .stored = layout.shape.type};
    *out = file;
    return STATUS_OK;
out:
    free(file);
    close(fd);
    return status;
}

enum status vector_file_open(const char *path, struct vector_file **out, struct error *err)
{
    /* The name first: a wrong suffix is the likelier mistake than a file that does not exist. */
    const struct vector_format *format;
    enum status status = vector_format_of(path, &format, err);
    return status == STATUS_OK ? open_format(path, format, out, err) : status;
}

enum status vector_file_open_as(const char *path, enum element_type type, struct vector_file **out,
                                struct error *err)
{
    const struct vector_format format = {"vector", VECTOR_BIN, type};
    return open_format(path, &format, out, err);
}

void vector_file_close(struct vector_file *file)
{
    if (!file)
        return;
    close(file->fd);
    free(file->path);
    free(file);
}

enum status vector_file_store_as(struct vector_file *file, enum element_type type,
                                 struct error *err)
{
    const enum element_type given = file->layout.shape.type;
    if (!element_may_store(given, type))
        return error_set(err, STATUS_INVALID,
                         "%s: %s vectors cannot be stored as %s; f32 can as f16, bf16 and i8, f16 "
                         "as bf16 and i8",
                         file_label(file->path), element_name(given), element_name(type));
    file->stored = type;
    return STATUS_OK;
}

struct vector_shape vector_file_shape(const struct vector_file *file)
{
    struct vector_shape shape = file->layout.shape;
    shape.type = file->stored;
    return shape;
}

struct vector_shape vector_file_shape_given(const struct vector_file *file)
{
    return file->layout.shape;
}

const char *vector_file_path(const struct vector_file *file)
{
    return file->path;
}

static enum status check_prefix(const struct vector_file *file, uint64_t row, uint32_t dim,
                                struct error *err)
{
    if (dim == file->layout.shape.dim)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "%s: row %" PRIu64 " has dimension %" PRIu32 ", the first row has %" PRIu32,
                     file_label(file->path), row, dim, file->layout.shape.dim);
}

/* One row, with as many reads as it takes: what a short vectored read falls back to. */
static enum status read_row(const struct vector_file *file, uint64_t row, void *dst,
                            struct error *err)
{
    size_t row_bytes = vector_row_bytes(&file->layout.shape);
    uint32_t prefix = file->layout.prefix_bytes;
    uint64_t offset = file->layout.data_offset + row * (prefix + row_bytes);
    if (prefix > 0) {
        uint32_t dim;
        enum status status = file_read_at(file->fd, file->path, &dim, sizeof(dim), offset, err);
        if (status == STATUS_OK)
            status = check_prefix(file, row, dim, err);
        if (status != STATUS_OK)
            return status;
    }
    return file_read_at(file->fd, file->path, dst, row_bytes, offset + prefix, err);
}

/* Reads up to ROWS_PER_CALL rows with one system call that puts prefixes and rows where they
 * belong; returns how many whole rows came (0: the caller reads one by itself, which also names
 * errors). */
static uint64_t read_batch(const struct vector_file *file, uint64_t first, uint64_t count,
                           uint8_t *rows, size_t stride_bytes, uint32_t *dims)
{
    struct iovec parts[IOVECS_MAX];
    size_t row_bytes = vector_row_bytes(&file->layout.shape);
    uint32_t prefix = file->layout.prefix_bytes;
    int used = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (prefix > 0)
            parts[used++] = (struct iovec){&dims[i], prefix};
        parts[used++] = (struct iovec){rows + i * stride_bytes, row_bytes};
    }
    uint64_t offset = file->layout.data_offset + first * (prefix + row_bytes);
    ssize_t got;
    do {
        got = preadv(file->fd, parts, used, (off_t)offset);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? 0 : (uint64_t)got / (prefix + row_bytes);
}

static enum status read_scattered(const struct vector_file *file, uint64_t first, uint64_t count,
                                  uint8_t *rows, size_t stride_bytes, struct error *err)
{
    uint32_t dims[ROWS_PER_CALL];
    while (count > 0) {
        uint64_t batch = MIN(count, (uint64_t)ROWS_PER_CALL);
        uint64_t whole = read_batch(file, first, batch, rows, stride_bytes, dims);
        enum status status = STATUS_OK;
        if (file->layout.prefix_bytes > 0)
            for (uint64_t i = 0; i < whole && status == STATUS_OK; i++)
                status = check_prefix(file, first + i, dims[i], err);
        if (whole == 0) {
            status = read_row(file, first, rows, err);
            whole = 1;
        }
        if (status != STATUS_OK)
            return status;
        first += whole;
        count -= whole;
        rows += whole * stride_bytes;
    }
    return STATUS_OK;
}

/* The range and the stride have been checked. */
static enum status read_given(const struct vector_file *file, uint64_t first, uint64_t count,
                              void *rows, size_t stride_bytes, struct error *err)
{
    const struct vector_layout *layout = &file->layout;
    size_t row_bytes = vector_row_bytes(&layout->shape);
    if (layout->prefix_bytes == 0 && stride_bytes == row_bytes)
        return file_read_at(file->fd, file->path, rows, (size_t)count * row_bytes,
                            layout->data_offset + first * row_bytes, err);

    enum status status = read_scattered(file, first, count, rows, stride_bytes, err);
    if (status != STATUS_OK || stride_bytes == row_bytes)
        return status;
    uint8_t *gap = (uint8_t *)rows + row_bytes;
    for (uint64_t i = 0; i < count; i++, gap += stride_bytes)
        memset(gap, 0, stride_bytes - row_bytes);
    return STATUS_OK;
}

/* bf16 rounds what is nearly f16's maximum to 65536, beyond it; so such a value becomes the largest
 * bf16 that f16 holds, and what is stored can be given back as it was given. No other value is
 * changed by more than the rounding that follows. */
static void limit_to_f16(float *values, uint32_t dim)
{
    const float most = 65280;
    for (uint32_t i = 0; i < dim; i++)
        values[i] = fminf(fmaxf(values[i], -most), most);
}

enum status vector_file_convert(const struct vector_file *file, uint64_t index, const void *given,
                                void *row, struct error *err)
{
    const enum element_type type = file->layout.shape.type;
    const uint32_t dim = file->layout.shape.dim;
    float values[VECTOR_DIM_MAX];
    size_t bad;
    element_vector_to_f32(type, given, dim, values);
    if (!element_all_finite(ELEMENT_F32, values, dim, &bad))
        return error_set(err, STATUS_INVALID, "%s: row %" PRIu64 " has %s at dimension %zu",
                         file_label(file->path), index,
                         values[bad] != values[bad] ? "a NaN" : "an infinity", bad);
    if (type == ELEMENT_F16 && file->stored == ELEMENT_BF16)
        limit_to_f16(values, dim);
    element_vector_from_f32(file->stored, values, dim, row);
    if (!element_vector_all_finite(file->stored, row, dim, &bad))
        return error_set(
            err, STATUS_INVALID, "%s: row %" PRIu64 " has %.9g at dimension %zu, beyond %s",
            file_label(file->path), index, (double)values[bad], bad, element_name(file->stored));
    return STATUS_OK;
}

static enum status read_converted(const struct vector_file *file, uint64_t first, uint64_t count,
                                  uint8_t *rows, size_t stride_bytes, struct error *err)
{
    uint8_t given[CONVERT_BYTES];
    size_t given_bytes = vector_row_bytes(&file->layout.shape);
    size_t row_bytes = element_vector_bytes(file->stored, file->layout.shape.dim);
    enum status status = STATUS_OK;
    while (count > 0 && status == STATUS_OK) {
        uint64_t batch = MIN(count, (uint64_t)(sizeof(given) / given_bytes));
        status = read_given(file, first, batch, given, given_bytes, err);
        for (uint64_t i = 0; i < batch && status == STATUS_OK; i++, rows += stride_bytes) {
            status = vector_file_convert(file, first + i, given + i * given_bytes, rows, err);
            memset(rows + row_bytes, 0, stride_bytes - row_bytes);
        }
        first += batch;
        count -= batch;
    }
    return status;
}

static enum status range_check(const struct vector_file *file, uint64_t first, uint64_t count,
                               struct error *err)
{
    const uint64_t rows = file->layout.shape.count;
    if (first <= rows && count <= rows - first)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID,
                     "%s: rows %" PRIu64 " to %" PRIu64 " asked for, it has %" PRIu64,
                     file_label(file->path), first, first + count, rows);
}

enum status vector_file_read_strided(const struct vector_file *file, uint64_t first, uint64_t count,
                                     void *rows, size_t stride_bytes, struct error *err)
{
    size_t row_bytes = element_vector_bytes(file->stored, file->layout.shape.dim);
    enum status status = range_check(file, first, count, err);
    if (status != STATUS_OK)
        return status;
    if (stride_bytes < row_bytes)
        return error_set(err, STATUS_INVALID, "%s: stride %zu is below the row's %zu bytes",
                         file_label(file->path), stride_bytes, row_bytes);
    if (file->stored == file->layout.shape.type)
        return read_given(file, first, count, rows, stride_bytes, err);
    return read_converted(file, first, count, rows, stride_bytes, err);
}

enum status vector_file_read(const struct vector_file *file, uint64_t first, uint64_t count,
                             void *rows, struct error *err)
{
    size_t row_bytes = element_vector_bytes(file->stored, file->layout.shape.dim);
    return vector_file_read_strided(file, first, count, rows, row_bytes, err);
}

enum status vector_file_read_given(const struct vector_file *file, uint64_t first, uint64_t count,
                                   void *rows, struct error *err)
{
    enum status status = range_check(file, first, count, err);
    return status == STATUS_OK
               ? read_given(file, first, count, rows, vector_row_bytes(&file->layout.shape), err)
               : status;
}

enum status vector_file_load(const char *path, uint64_t max_bytes, struct vector_shape *shape,
                             void **rows, struct error *err)
{
    struct vector_file *file;
    void *memory = NULL;
    enum status status = vector_file_open(path, &file, err);
    if (status != STATUS_OK)
        return status;
    struct vector_shape found = vector_file_shape(file);
    size_t bytes;
    if (!size_mul(found.count, vector_row_bytes(&found), &bytes) || bytes > max_bytes) {
        status = error_set(err, STATUS_INVALID,
                           "%s: %" PRIu64 " rows of %" PRIu32 " %s are more than the %" PRIu64
                           " bytes allowed here",
                           file_label(path), found.count, found.dim, element_name(found.type),
                           max_bytes);
        goto out;
    }
    memory = malloc(bytes);
    if (!memory) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: cannot allocate %zu bytes for its rows",
                           file_label(path), bytes);
        goto out;
    }
    status = vector_file_read(file, 0, found.count, memory, err);
    if (status == STATUS_OK) {
        *shape = found;
        *rows = memory;
        memory = NULL;
    }
out:
    free(memory);
    vector_file_close(file);
    return status;
}

static bool is_nan(const struct vector_shape *shape, const uint8_t *row, size_t dimension)
{
    float value;
    element_vector_part_to_f32(shape->type, row, (struct element_part){shape->dim, dimension, 1},
                               &value);
    return value != value;
}

/* Both zeros count: -0.0 has no direction either. An i8s vector's scale says nothing more. */
static bool is_zero_row(const struct vector_shape *shape, const uint8_t *row)
{
    size_t width = element_bytes(shape->type);
    size_t bytes = shape->dim * width;
    uint8_t any = 0;
    if (shape->type == ELEMENT_F16 || shape->type == ELEMENT_BF16 || shape->type == ELEMENT_F32) {
        for (size_t i = 0; i < bytes && !any; i++)
            any = i % width == width - 1 ? row[i] & 0x7f : row[i];
    } else {
        for (size_t i = 0; i < bytes && !any; i++)
            any = row[i];
    }
    return !any;
}

enum status vector_rows_check(const char *path, const struct vector_shape *shape,
                              enum metric metric, uint64_t first_row, uint64_t count,
                              const void *rows, size_t stride_bytes, struct error *err)
{
    const uint8_t *row = rows;
    for (uint64_t i = 0; i < count; i++, row += stride_bytes) {
        size_t bad;
        if (!element_vector_all_finite(shape->type, row, shape->dim, &bad))
            return error_set(err, STATUS_INVALID, "%s: row %" PRIu64 " has %s at dimension %zu",
                             file_label(path), first_row + i,
                             is_nan(shape, row, bad) ? "a NaN" : "an infinity", bad);
        if (metric == METRIC_COSINE && is_zero_row(shape, row))
            return error_set(err, STATUS_INVALID,
                             "%s: row %" PRIu64 " is a zero vector, which has no direction under "
                             "cosine",
                             file_label(path), first_row + i);
    }
    return STATUS_OK;
}
