/*
 * cmd_convert.c - `nightjar convert`: vector files and ground truth from one format or element type
 * to another, streaming.
 *
 * A change of type goes through binary32, which holds every element type but i32 exactly, and is
 * refused where a value would not survive it, unless --scale says that rounding is wanted.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/file_io.h"
#include "common/vector_file.h"
#include "common/vector_format.h"
#include "tools/cmd.h"

enum { BATCH_BYTES = 4 << 20 };

struct options {
    const char *input;
    const char *output;
    const char *type;
    uint64_t limit;
    uint64_t offset;
    double scale; /* 0: values must be exact */
};

struct conversion {
    const struct options *options;
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

static bool is_vector_path(const char *path)
{
    const struct vector_format *format;
    struct error ignored;
    return vector_format_of(path, &format, &ignored) == STATUS_OK;
}

/* The rows that --offset and --limit leave of `count`. */
static enum status rows_left(const struct options *options, uint64_t count, uint64_t *left,
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

/* ---- vectors ---- */

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
    const struct options *options = self->options;
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

/* The element type to write: --type, or what the output's name says, or the input's. */
static enum status choose_type(struct conversion *self, struct error *err)
{
    const struct options *options = self->options;
    const struct vector_format *format;
    enum status status = vector_format_of(options->output, &format, err);
    if (status != STATUS_OK)
        return status;
    self->to.type = options->type != NULL          ? element_parse(options->type)
                    : format->type != ELEMENT_NONE ? format->type
                                                   : self->from.type;
    bool ids = self->from.type == ELEMENT_I32;
    if (ids != (self->to.type == ELEMENT_I32) || (ids && options->scale != 0))
        return error_set(err, STATUS_INVALID,
                         "%s: %s elements cannot become %s: i32 holds ids, "
                         "not vectors",
                         options->input, element_name(self->from.type),
                         element_name(self->to.type));
    return STATUS_OK;
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

static enum status convert_vectors(const struct options *options, struct error *err)
{
    struct conversion self = {.options = options};
    enum status status = vector_file_open(options->input, &self.file, err);
    if (status != STATUS_OK)
        return status;
    self.from = self.to = vector_file_shape(self.file);
    status = rows_left(options, self.from.count, &self.to.count, err);
    if (status == STATUS_OK)
        status = choose_type(&self, err);
    if (status == STATUS_OK)
        status = conversion_allocate(&self, err);
    if (status == STATUS_OK)
        status = vector_writer_open(options->output, self.to, &self.writer, err);
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

/* ---- ground truth ---- */

/* Ids to a vector format of i32. */
static enum status write_ids(const struct options *options, const struct ground_truth *truth,
                             uint64_t count, struct error *err)
{
    struct vector_shape shape = {count, truth->k, ELEMENT_I32};
    struct vector_writer *writer;
    enum status status = vector_writer_open(options->output, shape, &writer, err);
    if (status != STATUS_OK)
        return status;
    status = vector_writer_append(writer, truth->ids + options->offset * truth->k, count, err);
    if (status == STATUS_OK)
        return vector_writer_finish(writer, err);
    vector_writer_abort(writer);
    return status;
}

/* DiskANN's layout. Ids that came without distances get infinite ones, which no hit can tie with.
 */
static enum status write_truth(const struct options *options, const struct ground_truth *truth,
                               uint64_t count, struct error *err)
{
    size_t first = options->offset * truth->k;
    float *unknown = NULL;
    struct ground_truth part = {.query_count = (uint32_t)count,
                                .k = truth->k,
                                .ids = truth->ids + first,
                                .distances =
                                    truth->distances != NULL ? truth->distances + first : NULL};
    if (part.distances == NULL) {
        size_t entries = count * truth->k;
        unknown = malloc(entries * sizeof(float));
        if (unknown == NULL)
            return error_set(err, STATUS_NO_MEMORY, "no memory for %zu distances", entries);
        for (size_t i = 0; i < entries; i++)
            unknown[i] = INFINITY;
        part.distances = unknown;
    }
    enum status status = ground_truth_write(options->output, &part, err);
    free(unknown);
    return status;
}

static enum status convert_truth(const struct options *options, struct error *err)
{
    struct ground_truth truth;
    uint64_t count = 0;
    enum status status = ground_truth_read(options->input, &truth, err);
    if (status != STATUS_OK)
        return status;
    if (options->type != NULL || options->scale != 0)
        status = error_set(err, STATUS_INVALID,
                           "%s: ground truth: --type and --scale are for vectors", options->input);
    if (status == STATUS_OK)
        status = rows_left(options, truth.query_count, &count, err);
    if (status == STATUS_OK)
        status = is_vector_path(options->output) ? write_ids(options, &truth, count, err)
                                                 : write_truth(options, &truth, count, err);
    ground_truth_free(&truth);
    return status;
}

enum cmd_outcome cmd_convert(int argc, char **argv, struct error *err)
{
    struct options options = {0};
    const struct args_option table[] = {
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &options.input,
         .value_name = "FILE",
         .help = "file to read",
         .required = true},
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &options.output,
         .value_name = "FILE",
         .help = "file to write",
         .required = true},
        {.name = "type",
         .kind = ARGS_STRING,
         .target = &options.type,
         .choices = "u8|i8|f16|f32|i32",
         .help = "element type; default: what the output's name says, or the input's"},
        {.name = "scale",
         .kind = ARGS_DOUBLE,
         .target = &options.scale,
         .value_name = "X",
         .help = "multiply by X and round to the type"},
        {.name = "offset",
         .kind = ARGS_U64,
         .target = &options.offset,
         .value_name = "N",
         .help = "skip the first N rows"},
        {.name = "limit",
         .kind = ARGS_U64,
         .target = &options.limit,
         .value_name = "N",
         .help = "at most N rows",
         .min = 1},
    };
    const struct args_spec spec = {
        .program = "nightjar convert",
        .summary = "Change the format or element type of a vector file or ground truth.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "The format follows from the name: .u8bin .i8bin .f16bin .fbin .ibin, .bvecs\n"
                  ".fvecs .ivecs, .npy. Any other name is ground truth (u32 queries, u32 k, ids,\n"
                  "distances); made of ids alone its distances are infinite.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    if (strcmp(options.input, options.output) == 0)
        return cmd_usage(err, "--output %s: the same file as --input", options.output);
    bool ids = file_has_suffix(options.input, ".ivecs") || file_has_suffix(options.input, ".ibin");
    bool truth = !is_vector_path(options.input) || (ids && !is_vector_path(options.output));
    return cmd_outcome_of(truth ? convert_truth(&options, err) : convert_vectors(&options, err));
}
