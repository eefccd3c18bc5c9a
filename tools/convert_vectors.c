/*
 * convert_vectors.c - vector files from one format or element type to another, streaming.
 *
 * A change of type goes through binary32, which holds every element type but i32 exactly, and is
 * refused where a value would not survive it, unless --scale says that rounding is wanted.
 *
 * Thread rules: one thread.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "common/vector_file.h"
#include "common/vector_format.h"
#include "tools/convert.h"

enum { BATCH_BYTES = 4 << 20 };

struct conversion {
    const struct convert_options *options;
    struct vector_file *file;
    struct vector_shape from;
    struct vector_shape to;
    struct vector_writer *writer;
    uint64_t batch; /* rows */
    void *source;
    float *values; /* one row */
    float *check;  /* one row, converted back */
    void *target;
};

enum status convert_rows_left(const struct convert_options *options, uint64_t count, uint64_t *left,
                              struct error *err)
{
    if (options->offset >= count)
        return error_set(err, STATUS_INVALID,
                         "%s: --offset %" PRIu64 ", but it has %" PRIu64 " rows", options->input,
                         options->offset, count);
    *left = count - options->offset;
    if (options->limit != 0)
        *left = MIN(*left, options->limit);
    return STATUS_OK;
}

/* Largest error that --scale's rounding to `type` can make; beyond it a value was out of range. */
static bool is_rounding(enum element_type type, float wanted, float stored)
{
    float error = fabsf(stored - wanted);
    if (type == ELEMENT_U8 || type == ELEMENT_I8)
        return error <= 0.5f;
    return isfinite(stored) && error <= fmaxf(fabsf(wanted) * 0x1p-11f, 0x1p-25f);
}

static enum status row_convert(const struct conversion *self, uint64_t row, const void *source,
                               void *target, struct error *err)
{
    const struct convert_options *options = self->options;
    uint32_t dim = self->from.dim;
    element_to_f32(self->from.type, source, dim, self->values);
    if (options->scale != 0)
        for (uint32_t d = 0; d < dim; d++)
            self->values[d] = (float)((double)self->values[d] * options->scale);
    element_from_f32(self->to.type, self->values, dim, target);
    element_to_f32(self->to.type, target, dim, self->check);
    for (uint32_t d = 0; d < dim; d++) {
        float wanted = self->values[d], stored = self->check[d];
        if (stored == wanted || (options->scale != 0 && is_rounding(self->to.type, wanted, stored)))
            continue;
        return error_set(err, STATUS_INVALID, "%s: row %" PRIu64 " has %.9g at dimension %u: %s %s",
                         options->input, row, (double)wanted, d,
                         options->scale != 0 ? "out of range for" : "without --scale, not exact in",
                         element_name(self->to.type));
    }
    return STATUS_OK;
}

static enum status batch_convert(const struct conversion *self, uint64_t first, uint64_t count,
                                 struct error *err)
{
    enum status status = vector_file_read(self->file, first, count, self->source, err);
    if (status != STATUS_OK)
        return status;
    if (self->target == NULL)
        return vector_writer_append(self->writer, self->source, count, err);
    size_t from_bytes = vector_row_bytes(&self->from), to_bytes = vector_row_bytes(&self->to);
    for (uint64_t i = 0; status == STATUS_OK && i < count; i++)
        status = row_convert(self, first + i, (const uint8_t *)self->source + i * from_bytes,
                             (uint8_t *)self->target + i * to_bytes, err);
    return status != STATUS_OK ? status
                               : vector_writer_append(self->writer, self->target, count, err);
}

/* The element type to write: --type, unless that says what the input is; or what the output's name
 * says, or the input's. */
static enum status choose_type(struct conversion *self, struct error *err)
{
    const struct convert_options *options = self->options;
    const struct vector_format *format = NULL;
    if (options->to == CONVERT_BY_NAME) {
        enum status status = vector_format_of(options->output, &format, err);
        if (status != STATUS_OK)
            return status;
    }
    if (options->type != ELEMENT_NONE && options->from != CONVERT_DISKANN)
        self->to.type = options->type;
    else if (format != NULL && format->type != ELEMENT_NONE)
        self->to.type = format->type;
    bool ids = self->from.type == ELEMENT_I32;
    if (ids != (self->to.type == ELEMENT_I32) || (ids && options->scale != 0))
        return error_set(err, STATUS_INVALID,
                         "%s: %s elements cannot become %s: i32 holds ids, "
                         "not vectors",
                         options->input, element_name(self->from.type),
                         element_name(self->to.type));
    return STATUS_OK;
}

static enum status open_input(struct conversion *self, struct error *err)
{
    const struct convert_options *options = self->options;
    enum status status = options->from == CONVERT_DISKANN
                             ? vector_file_open_as(options->input, options->type, &self->file, err)
                             : vector_file_open(options->input, &self->file, err);
    if (status == STATUS_OK)
        self->from = self->to = vector_file_shape(self->file);
    return status;
}

static enum status open_output(struct conversion *self, struct error *err)
{
    const struct convert_options *options = self->options;
    return options->to == CONVERT_DISKANN
               ? vector_writer_open_bin(options->output, self->to, &self->writer, err)
               : vector_writer_open(options->output, self->to, &self->writer, err);
}

static enum status conversion_allocate(struct conversion *self, struct error *err)
{
    size_t from_bytes = vector_row_bytes(&self->from), to_bytes = vector_row_bytes(&self->to);
    bool same = self->from.type == self->to.type && self->options->scale == 0;
    self->batch = MAX(1, BATCH_BYTES / MAX(from_bytes, to_bytes));
    self->source = malloc(self->batch * from_bytes);
    self->values = malloc(self->from.dim * sizeof(float));
    self->check = malloc(self->from.dim * sizeof(float));
    if (!same)
        self->target = malloc(self->batch * to_bytes);
    if (self->source == NULL || self->values == NULL || self->check == NULL ||
        (!same && self->target == NULL))
        return error_set(err, STATUS_NO_MEMORY, "no memory to convert %s", self->options->input);
    return STATUS_OK;
}

enum status convert_vectors(const struct convert_options *options, struct error *err)
{
    struct conversion self = {.options = options};
    enum status status = open_input(&self, err);
    if (status != STATUS_OK)
        return status;
    status = convert_rows_left(options, self.from.count, &self.to.count, err);
    if (status == STATUS_OK)
        status = choose_type(&self, err);
    if (status == STATUS_OK)
        status = conversion_allocate(&self, err);
    if (status == STATUS_OK)
        status = open_output(&self, err);
    if (status != STATUS_OK)
        goto out;
    for (uint64_t done = 0; status == STATUS_OK && done < self.to.count; done += self.batch)
        status = batch_convert(&self, options->offset + done, MIN(self.batch, self.to.count - done),
                               err);
    if (status == STATUS_OK)
        status = vector_writer_finish(self.writer, err);
    else
        vector_writer_abort(self.writer);
out:
    free(self.target);
    free(self.check);
    free(self.values);
    free(self.source);
    vector_file_close(self.file);
    return status;
}
