/*
 * convert_hnswlib.c - an index that hnswlib saved becomes a vector file and a key file, streaming.
 *
 * Thread rules: one thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/vector_format.h"
#include "tools/convert.h"
#include "tools/hnswlib_file.h"

enum { BATCH_BYTES = 4 << 20 };

struct import {
    struct hnswlib_file *file;
    struct vector_writer *rows_writer;
    struct key_writer *keys_writer;
    void *rows;
    uint64_t *keys;
    uint64_t batch;
};

static enum status import_open(const struct convert_options *options, struct import *self,
                               struct error *err)
{
    enum element_type type = options->type != ELEMENT_NONE ? options->type : ELEMENT_F32;
    enum status status = hnswlib_file_open(options->input, type, options->dim, &self->file, err);
    if (status != STATUS_OK)
        return status;
    struct vector_shape shape = hnswlib_file_shape(self->file);
    self->batch = MAX(1, BATCH_BYTES / vector_row_bytes(&shape));
    self->rows = malloc(self->batch * vector_row_bytes(&shape));
    self->keys = malloc(self->batch * sizeof(*self->keys));
    if (self->rows == NULL || self->keys == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to convert %s", options->input);
    status = vector_writer_open(options->output, shape, &self->rows_writer, err);
    if (status == STATUS_OK)
        status = key_writer_open(options->keys_output, shape.count, &self->keys_writer, err);
    return status;
}

static enum status import_rows(const struct convert_options *options, struct import *self,
                               struct error *err)
{
    for (;;) {
        uint64_t count = 0;
        enum status status = hnswlib_file_next(self->file, options->metric, self->batch, self->rows,
                                               self->keys, &count, err);
        if (status != STATUS_OK || count == 0)
            return status;
        status = vector_writer_append(self->rows_writer, self->rows, count, err);
        if (status == STATUS_OK)
            status = key_writer_append(self->keys_writer, self->keys, count, err);
        if (status != STATUS_OK)
            return status;
    }
}

/* The two belong together: half of what was asked for is not left behind. */
static enum status import_finish(const struct convert_options *options, struct import *self,
                                 struct error *err)
{
    enum status status = vector_writer_finish(self->rows_writer, err);
    self->rows_writer = NULL;
    if (status != STATUS_OK)
        return status;
    status = key_writer_finish(self->keys_writer, err);
    self->keys_writer = NULL;
    if (status != STATUS_OK)
        unlink(options->output);
    return status;
}

enum status convert_hnswlib(const struct convert_options *options, struct error *err)
{
    struct import self = {0};
    enum status status = import_open(options, &self, err);
    if (status == STATUS_OK)
        status = import_rows(options, &self, err);
    if (status == STATUS_OK)
        status = import_finish(options, &self, err);
    if (status == STATUS_OK) {
        struct vector_shape shape = hnswlib_file_shape(self.file);
        printf("%" PRIu64 " vectors of %" PRIu32 " %s; %" PRIu64 " deleted ones left out\n",
               shape.count, shape.dim, element_name(shape.type), hnswlib_file_deleted(self.file));
    }
    key_writer_abort(self.keys_writer);
    vector_writer_abort(self.rows_writer);
    free(self.keys);
    free(self.rows);
    hnswlib_file_close(self.file);
    return status;
}
