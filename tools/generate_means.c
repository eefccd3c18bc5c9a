/*
 * generate_means.c - owns the choice of pairs of generate_means.h, and their means.
 *
 * Thread rules: none; one thread, since the reads are few. One call a file at a time.
 */
#include "tools/generate_means.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/memory.h"
#include "common/random.h"
#include "common/vector_file.h"
#include "common/vector_format.h"

enum { BATCH_BYTES = 4 << 20 };

/* Purpose of random numbers: above those of generate.h and generate_attributes.h, whose files may
 * be made with the same seed. */
enum { PURPOSE_PAIR = 201 };

struct making {
    const struct generate_means_params *params;
    struct vector_file *base;
    struct vector_shape shape; /* of the base */
    struct vector_writer *writer;
    uint64_t batch; /* queries */
    uint8_t *rows;  /* batch of them */
    uint8_t *row;   /* of the base */
    float *mean;
    float *other;
};

static enum status row_read(const struct making *self, uint64_t number, float *values,
                            struct error *err)
{
    enum status status = vector_file_read(self->base, number, 1, self->row, err);
    if (status == STATUS_OK)
        status = vector_rows_check(self->params->base, &self->shape, METRIC_L2, number, 1,
                                   self->row, vector_row_bytes(&self->shape), err);
    if (status == STATUS_OK)
        element_to_f32(self->shape.type, self->row, self->shape.dim, values);
    return status;
}

static enum status query_make(const struct making *self, uint64_t number, void *out,
                              struct error *err)
{
    const uint64_t seed = random_at(self->params->seed, PURPOSE_PAIR);
    uint64_t one = random_below(seed, 2 * number, self->shape.count);
    uint64_t two = random_below(seed, 2 * number + 1, self->shape.count - 1);
    two += two >= one;
    enum status status = row_read(self, one, self->mean, err);
    if (status == STATUS_OK)
        status = row_read(self, two, self->other, err);
    if (status != STATUS_OK)
        return status;
    /* The sum of two large floats is beyond f32. */
    for (uint32_t d = 0; d < self->shape.dim; d++)
        self->mean[d] = (float)(((double)self->mean[d] + (double)self->other[d]) / 2);
    element_from_f32(self->shape.type, self->mean, self->shape.dim, out);
    return STATUS_OK;
}

static enum status making_open(struct making *self, struct error *err)
{
    const struct generate_means_params *params = self->params;
    enum status status = vector_file_open(params->base, &self->base, err);
    if (status != STATUS_OK)
        return status;
    self->shape = vector_file_shape(self->base);
    if (!element_is_input(self->shape.type) || self->shape.count < 2)
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu64 " rows of %s, wanted at least 2 vectors", params->base,
                         self->shape.count, element_name(self->shape.type));
    size_t row_bytes = vector_row_bytes(&self->shape);
    self->batch = MAX(1, MIN(params->count, BATCH_BYTES / row_bytes));
    self->rows = malloc(self->batch * row_bytes);
    self->row = malloc(row_bytes);
    self->mean = malloc(self->shape.dim * sizeof(float));
    self->other = malloc(self->shape.dim * sizeof(float));
    if (self->rows == NULL || self->row == NULL || self->mean == NULL || self->other == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for means of %s", params->base);
    const struct vector_shape shape = {params->count, self->shape.dim, self->shape.type};
    return vector_writer_open(params->output, shape, &self->writer, err);
}

static enum status queries_write(const struct making *self, struct error *err)
{
    const struct generate_means_params *params = self->params;
    size_t row_bytes = vector_row_bytes(&self->shape);
    enum status status = STATUS_OK;
    progress_begin(params->progress, "means", params->count, "queries");
    for (uint64_t first = 0; status == STATUS_OK && first < params->count; first += self->batch) {
        uint64_t count = MIN(self->batch, params->count - first);
        for (uint64_t i = 0; status == STATUS_OK && i < count; i++)
            status = query_make(self, first + i, self->rows + i * row_bytes, err);
        if (status == STATUS_OK)
            status = vector_writer_append(self->writer, self->rows, count, err);
        progress_update(params->progress, first + count);
    }
    progress_end(params->progress);
    return status;
}

enum status generate_means(const struct generate_means_params *params, struct error *err)
{
    struct making self = {.params = params};
    enum status status = making_open(&self, err);
    if (status == STATUS_OK)
        status = queries_write(&self, err);
    if (status == STATUS_OK) {
        status = vector_writer_finish(self.writer, err);
        if (status == STATUS_OK)
            self.writer = NULL;
    }
    vector_writer_abort(self.writer);
    free(self.other);
    free(self.mean);
    free(self.row);
    free(self.rows);
    vector_file_close(self.base);
    return status;
}
