/*
 * generate_attributes.c - owns the made-up columns of generate_attributes.h.
 *
 * Distances are sums in double in the order of the dimensions, not those of the kernels, which may
 * differ in the last bit from one instruction set to another.
 *
 * Thread rules: starts an OpenMP team; one call a file at a time.
 */
#include "tools/generate_attributes.h"

#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/file_io.h"
#include "common/memory.h"
#include "common/random.h"
#include "common/u64_sort.h"
#include "common/vector_file.h"
#include "common/vector_format.h"

enum {
    BATCH_BYTES = 16 << 20,
    ROW_TAGS_MAX = 4,
    LINE_BYTES_MAX = 64, /* two numbers of 6 digits, four tags of 8 characters */
};

/* Purposes of random numbers: each has a seed of its own. Those of generate.h's vectors are below,
 * which may be made with the same seed. */
enum purpose {
    PURPOSE_CENTER = 101,
    PURPOSE_UNIFORM,
    PURPOSE_TAG_COUNT,
    PURPOSE_TAG,
};

struct making {
    const struct generate_attributes_params *params;
    struct vector_file *base;
    struct vector_shape shape;
    uint64_t batch; /* rows */
    void *rows;
    float *center;
    uint64_t *keys;     /* distance's bits, row: sorted they are the ranks */
    uint32_t *close;    /* column c */
    double *cumulative; /* tags: share of draws that are among the first */
};

static uint64_t purpose_seed(const struct making *self, enum purpose purpose)
{
    return random_at(self->params->seed, purpose);
}

/* ---- c ---- */

/* A u64 that is ordered as (distance, row): bits of a float that is not negative are. */
static uint64_t rank_key(const struct making *self, const uint8_t *row, uint64_t number)
{
    double sum = 0;
    for (uint32_t d = 0; d < self->shape.dim; d++) {
        float value;
        element_to_f32(self->shape.type, row + d * element_bytes(self->shape.type), 1, &value);
        double difference = (double)value - (double)self->center[d];
        sum += difference * difference;
    }
    float distance = (float)sum;
    uint32_t bits;
    memcpy(&bits, &distance, sizeof(bits));
    return (uint64_t)bits << 32 | number;
}

static enum status center_read(const struct making *self, struct error *err)
{
    uint64_t row = random_below(purpose_seed(self, PURPOSE_CENTER), 0, self->shape.count);
    enum status status = vector_file_read(self->base, row, 1, self->rows, err);
    if (status == STATUS_OK)
        status = vector_rows_check(self->params->base, &self->shape, METRIC_L2, row, 1, self->rows,
                                   vector_row_bytes(&self->shape), err);
    if (status == STATUS_OK)
        element_to_f32(self->shape.type, self->rows, self->shape.dim, self->center);
    return status;
}

static enum status ranks_make(const struct making *self, struct error *err)
{
    const struct generate_attributes_params *params = self->params;
    int threads = params->threads != 0 ? (int)params->threads : omp_get_max_threads();
    size_t row_bytes = vector_row_bytes(&self->shape);
    uint64_t total = self->shape.count;
    enum status status = center_read(self, err);
    for (uint64_t first = 0; status == STATUS_OK && first < total; first += self->batch) {
        uint64_t count = MIN(self->batch, total - first);
        status = vector_file_read(self->base, first, count, self->rows, err);
        if (status == STATUS_OK)
            status = vector_rows_check(params->base, &self->shape, METRIC_L2, first, count,
                                       self->rows, row_bytes, err);
        if (status != STATUS_OK)
            break;
#pragma omp parallel for schedule(static) num_threads(threads)
        for (uint64_t i = 0; i < count; i++)
            self->keys[first + i] =
                rank_key(self, (const uint8_t *)self->rows + i * row_bytes, first + i);
        progress_update(params->progress, first + count);
    }
    if (status != STATUS_OK)
        return status;
    u64_sort(self->keys, (size_t)total);
    for (uint64_t rank = 0; rank < total; rank++)
        self->close[(uint32_t)self->keys[rank]] = (uint32_t)(rank * GENERATE_NUMBERS / total);
    return STATUS_OK;
}

/* ---- tags ---- */

static void tags_draw(const struct making *self)
{
    double total = 0;
    for (uint32_t tag = 0; tag < self->params->tags; tag++) {
        total += 1 / ((double)tag + 1);
        self->cumulative[tag] = total;
    }
    for (uint32_t tag = 0; tag < self->params->tags; tag++)
        self->cumulative[tag] /= total;
}

static uint32_t tag_pick(const struct making *self, double where)
{
    uint32_t low = 0, high = self->params->tags - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (self->cumulative[middle] > where)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Different tags of a row, in the order drawn; returns how many. */
static uint32_t row_tags(const struct making *self, uint64_t row, uint32_t tags[ROW_TAGS_MAX])
{
    uint64_t seed = purpose_seed(self, PURPOSE_TAG);
    uint64_t draws = 1 + random_below(purpose_seed(self, PURPOSE_TAG_COUNT), row, ROW_TAGS_MAX);
    uint32_t count = 0;
    for (uint64_t i = 0; i < draws; i++) {
        uint32_t tag = tag_pick(self, random_unit(seed, row * ROW_TAGS_MAX + i)), j = 0;
        while (j < count && tags[j] != tag)
            j++;
        if (j == count)
            tags[count++] = tag;
    }
    return count;
}

/* ---- the file ---- */

static enum status row_write(const struct making *self, struct file_output *output, uint64_t row,
                             struct error *err)
{
    char line[LINE_BYTES_MAX];
    uint32_t tags[ROW_TAGS_MAX] = {0};
    uint64_t uniform = random_below(purpose_seed(self, PURPOSE_UNIFORM), row, GENERATE_NUMBERS);
    uint32_t count = row_tags(self, row, tags);
    int length =
        snprintf(line, sizeof(line), "%" PRIu64 ",%" PRIu32 ",", uniform, self->close[row]);
    for (uint32_t i = 0; i < count; i++)
        length += snprintf(line + length, sizeof(line) - (size_t)length, "%st%" PRIu32,
                           i == 0 ? "" : "|", tags[i]);
    line[length++] = '\n';
    return file_output_write(output, line, (size_t)length, err);
}

static enum status file_write(const struct making *self, struct error *err)
{
    static const char header[] = "u:u64,c:u64,tags:labels\n";
    struct file_output output;
    enum status status = file_output_open(&output, self->params->output, 0, err);
    if (status != STATUS_OK)
        return status;
    status = file_output_write(&output, header, sizeof(header) - 1, err);
    for (uint64_t row = 0; status == STATUS_OK && row < self->shape.count; row++)
        status = row_write(self, &output, row, err);
    if (status == STATUS_OK)
        status = file_output_commit(&output, err);
    if (status != STATUS_OK)
        file_output_abort(&output);
    return status;
}

static enum status making_open(struct making *self, struct error *err)
{
    const struct generate_attributes_params *params = self->params;
    void *memory;
    if (params->tags < 1 || params->tags > GENERATE_TAGS_MAX)
        return error_set(err, STATUS_INVALID, "%u tags, wanted 1 to %d", params->tags,
                         GENERATE_TAGS_MAX);
    enum status status = vector_file_open(params->base, &self->base, err);
    if (status != STATUS_OK)
        return status;
    self->shape = vector_file_shape(self->base);
    if (self->shape.type == ELEMENT_I32 || self->shape.count > UINT32_MAX)
        return error_set(
            err, STATUS_INVALID, "%s: %" PRIu64 " rows of %s, wanted at most %" PRIu32 " vectors",
            params->base, self->shape.count, element_name(self->shape.type), UINT32_MAX);
    self->batch = MAX(1, BATCH_BYTES / vector_row_bytes(&self->shape));
    self->rows = malloc(self->batch * vector_row_bytes(&self->shape));
    self->center = malloc(self->shape.dim * sizeof(float));
    self->cumulative = malloc(params->tags * sizeof(double));
    if (self->rows == NULL || self->center == NULL || self->cumulative == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for attributes of %s", params->base);
    status = bulk_alloc(self->shape.count, sizeof(uint64_t), "ranks", &memory, err);
    if (status != STATUS_OK)
        return status;
    self->keys = memory;
    status = bulk_alloc(self->shape.count, sizeof(uint32_t), "a column", &memory, err);
    if (status == STATUS_OK)
        self->close = memory;
    return status;
}

enum status generate_attributes(const struct generate_attributes_params *params, struct error *err)
{
    struct making self = {.params = params};
    enum status status = making_open(&self, err);
    if (status == STATUS_OK) {
        progress_begin(params->progress, "attributes", self.shape.count, "rows");
        tags_draw(&self);
        status = ranks_make(&self, err);
        progress_end(params->progress);
    }
    if (status == STATUS_OK)
        status = file_write(&self, err);
    if (self.close != NULL)
        bulk_free(self.close, self.shape.count, sizeof(uint32_t));
    if (self.keys != NULL)
        bulk_free(self.keys, self.shape.count, sizeof(uint64_t));
    free(self.cumulative);
    free(self.center);
    free(self.rows);
    vector_file_close(self.base);
    return status;
}
