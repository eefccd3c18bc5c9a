/*
 * vector_writer.c - writes vector files row by row; see vector_file.h for the promise of atomicity.
 *
 * The header is written at open, because the shape is known by then; so the file is written front
 * to back once. One thread per writer.
 */
#include "common/vector_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/file_io.h"
#include "common/vector_format.h"

struct vector_writer {
    struct file_output output;
    struct vector_layout layout;
    uint64_t appended;
};

static enum status check_suits(const char *path, const struct vector_format *format,
                               const struct vector_shape *shape, struct error *err)
{
    if (!element_is_input(shape->type) && shape->type != ELEMENT_I32)
        return error_set(err, STATUS_INVALID, "%s: rows have no element type", file_label(path));
    if (format->type != ELEMENT_NONE && format->type != shape->type)
        return error_set(err, STATUS_INVALID, "%s: %s holds %s, the rows are %s", file_label(path),
                         format->suffix, element_name(format->type), element_name(shape->type));
    if (format->container == VECTOR_BIN && shape->count > UINT32_MAX)
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu64 " rows, %s holds at most %" PRIu32 " (.npy holds more)",
                         file_label(path), shape->count, format->suffix, UINT32_MAX);
    return STATUS_OK;
}

static enum status write_header(struct vector_writer *writer, enum vector_container container,
                                struct error *err)
{
    const struct vector_shape *shape = &writer->layout.shape;
    if (container == VECTOR_NPY) {
        uint8_t header[VECTOR_NPY_WRITTEN_BYTES];
        vector_npy_format(shape, header);
        return file_output_write(&writer->output, header, sizeof(header), err);
    }
    if (container == VECTOR_BIN) {
        uint32_t header[2] = {(uint32_t)shape->count, shape->dim};
        return file_output_write(&writer->output, header, sizeof(header), err);
    }
    return STATUS_OK;
}

static enum status writer_open(const char *path, const struct vector_format *format,
                               struct vector_shape shape, struct vector_writer **out,
                               struct error *err)
{
    enum status status = check_suits(path, format, &shape, err);
    if (status != STATUS_OK)
        return status;
    struct vector_layout layout = {
        .shape = shape,
        .data_offset = format->container == VECTOR_NPY   ? VECTOR_NPY_WRITTEN_BYTES
                       : format->container == VECTOR_BIN ? 8
                                                         : 0,
        .prefix_bytes = format->container == VECTOR_VECS ? 4 : 0,
    };
    status = vector_layout_check(path, &layout, err);
    if (status != STATUS_OK)
        return status;
    struct vector_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    writer->layout = layout;
    status = file_output_open(&writer->output, path, layout.file_bytes, err);
    if (status == STATUS_OK)
        status = write_header(writer, format->container, err);
    if (status != STATUS_OK) {
        vector_writer_abort(writer);
        return status;
    }
    *out = writer;
    return STATUS_OK;
}

enum status vector_writer_open(const char *path, struct vector_shape shape,
                               struct vector_writer **out, struct error *err)
{
    const struct vector_format *format;
    enum status status = vector_format_of(path, &format, err);
    return status == STATUS_OK ? writer_open(path, format, shape, out, err) : status;
}

enum status vector_writer_open_bin(const char *path, struct vector_shape shape,
                                   struct vector_writer **out, struct error *err)
{
    const struct vector_format format = {"this layout", VECTOR_BIN, shape.type};
    return writer_open(path, &format, shape, out, err);
}

enum status vector_writer_append(struct vector_writer *writer, const void *rows, uint64_t count,
                                 struct error *err)
{
    const struct vector_shape *shape = &writer->layout.shape;
    size_t row_bytes = vector_row_bytes(shape);
    if (count > shape->count - writer->appended)
        return error_set(err, STATUS_INVALID, "%s: more than the %" PRIu64 " rows announced",
                         file_label(writer->output.path), shape->count);
    enum status status = STATUS_OK;
    if (writer->layout.prefix_bytes == 0) {
        status = file_output_write(&writer->output, rows, (size_t)count * row_bytes, err);
    } else {
        const uint8_t *row = rows;
        for (uint64_t i = 0; i < count && status == STATUS_OK; i++, row += row_bytes) {
            status = file_output_write(&writer->output, &shape->dim, sizeof(shape->dim), err);
            if (status == STATUS_OK)
                status = file_output_write(&writer->output, row, row_bytes, err);
        }
    }
    if (status == STATUS_OK)
        writer->appended += count;
    return status;
}

enum status vector_writer_finish(struct vector_writer *writer, struct error *err)
{
    enum status status = STATUS_OK;
    if (writer->appended != writer->layout.shape.count)
        status = error_set(
            err, STATUS_INVALID, "%s: %" PRIu64 " rows written, %" PRIu64 " announced",
            file_label(writer->output.path), writer->appended, writer->layout.shape.count);
    if (status == STATUS_OK)
        status = file_output_commit(&writer->output, err);
    vector_writer_abort(writer); /* of what is committed nothing is left to remove */
    return status;
}

void vector_writer_abort(struct vector_writer *writer)
{
    if (!writer)
        return;
    file_output_abort(&writer->output);
    free(writer);
}
