/*
 * convert_truth.c - exact answers from one format to another: DiskANN's and big-ann-benchmarks'
 * files, ids and distances as vector files, and answers within a radius.
 *
 * All of them pass through rows of one length, which every format but the last has. One thread.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/file_io.h"
#include "common/range_truth.h"
#include "common/vector_file.h"
#include "common/vector_format.h"
#include "tools/convert.h"

static enum status write_ids(const struct convert_options *options,
                             const struct ground_truth *truth, struct error *err)
{
    struct vector_shape ids = {truth->query_count, truth->k, ELEMENT_I32};
    struct vector_writer *writer;
    enum status status = vector_writer_open(options->output, ids, &writer, err);
    if (status != STATUS_OK)
        return status;
    status = vector_writer_append(writer, truth->ids, ids.count, err);
    if (status == STATUS_OK)
        return vector_writer_finish(writer, err);
    vector_writer_abort(writer);
    return status;
}

/* All but the last step, after which the file has its name. */
static enum status begin_distances(const struct convert_options *options,
                                   const struct ground_truth *truth, struct vector_writer **out,
                                   struct error *err)
{
    struct vector_shape distances = {truth->query_count, truth->k, ELEMENT_F32};
    if (truth->distances == NULL)
        return error_set(err, STATUS_INVALID, "%s: has no distances for --distances-output",
                         options->input);
    enum status status = vector_writer_open(options->distances_output, distances, out, err);
    return status == STATUS_OK
               ? vector_writer_append(*out, truth->distances, truth->query_count, err)
               : status;
}

/* DiskANN's layout. Ids that came without distances get infinite ones, which no hit can tie with.
 */
static enum status write_truth(const struct convert_options *options,
                               const struct ground_truth *truth, struct error *err)
{
    struct ground_truth whole = *truth;
    float *unknown = NULL;
    if (whole.distances == NULL) {
        size_t entries = (size_t)truth->query_count * truth->k;
        unknown = malloc(entries * sizeof(float));
        if (unknown == NULL)
            return error_set(err, STATUS_NO_MEMORY, "no memory for %zu distances", entries);
        for (size_t i = 0; i < entries; i++)
            unknown[i] = INFINITY;
        whole.distances = unknown;
    }
    enum status status = ground_truth_write(options->output, &whole, err);
    free(unknown);
    return status;
}

static enum status write_range(const struct convert_options *options,
                               const struct ground_truth *truth, struct error *err)
{
    struct range_truth range;
    enum status status = range_truth_from_rows(options->input, truth, &range, err);
    if (status != STATUS_OK)
        return status;
    status = range_truth_write(options->output, &range, err);
    range_truth_free(&range);
    return status;
}

/* Distances from a vector file of their own, one for each id. Of an absent neighbour any is taken:
 * who writes -1 for an id has the largest number there is beside it. */
static enum status add_distances(const char *path, struct ground_truth *truth, struct error *err)
{
    struct vector_shape shape;
    void *rows;
    enum status status = vector_file_load(path, UINT64_MAX, &shape, &rows, err);
    if (status != STATUS_OK)
        return status;
    if (shape.type != ELEMENT_F32 || shape.count != truth->query_count || shape.dim != truth->k) {
        free(rows);
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu64 " rows of %" PRIu32 " %s, wanted distances of %" PRIu32
                         " queries and %" PRIu32 " neighbours",
                         path, shape.count, shape.dim, element_name(shape.type), truth->query_count,
                         truth->k);
    }
    free(truth->distances);
    truth->distances = rows;
    size_t entries = (size_t)truth->query_count * truth->k;
    for (size_t i = 0; i < entries; i++) {
        if (truth->ids[i] == GROUND_TRUTH_ABSENT)
            truth->distances[i] = INFINITY;
        else if (isnan(truth->distances[i]))
            return error_set(err, STATUS_INVALID,
                             "%s: query %zu has a NaN distance at position %zu", path, i / truth->k,
                             i % truth->k);
    }
    return STATUS_OK;
}

static enum status read_rows(const struct convert_options *options, struct ground_truth *out,
                             struct error *err)
{
    if (options->from != CONVERT_RANGE)
        return ground_truth_read(options->input, out, err);
    struct range_truth range;
    enum status status = range_truth_read(options->input, &range, err);
    if (status != STATUS_OK)
        return status;
    status = range_truth_to_rows(options->input, &range, out, err);
    range_truth_free(&range);
    return status;
}

static enum status write_output(const struct convert_options *options,
                                const struct ground_truth *truth, struct error *err)
{
    if (options->to == CONVERT_RANGE)
        return write_range(options, truth, err);
    return vector_format_is_known(options->output) ? write_ids(options, truth, err)
                                                   : write_truth(options, truth, err);
}

/* The two files belong together: half of what was asked for is not left behind. */
static enum status write_part(const struct convert_options *options,
                              const struct ground_truth *truth, uint64_t count, struct error *err)
{
    size_t first = (size_t)options->offset * truth->k;
    const struct ground_truth part = {
        .query_count = (uint32_t)count,
        .k = truth->k,
        .ids = truth->ids + first,
        .distances = truth->distances != NULL ? truth->distances + first : NULL,
    };
    struct vector_writer *distances = NULL;
    enum status status = STATUS_OK;
    if (options->distances_output != NULL)
        status = begin_distances(options, &part, &distances, err);
    if (status == STATUS_OK)
        status = write_output(options, &part, err);
    if (status != STATUS_OK || distances == NULL) {
        vector_writer_abort(distances);
        return status;
    }
    status = vector_writer_finish(distances, err);
    if (status != STATUS_OK)
        unlink(options->output);
    return status;
}

enum status convert_truth(const struct convert_options *options, struct error *err)
{
    struct ground_truth truth = {0};
    uint64_t count = 0;
    if (options->type != ELEMENT_NONE || options->scale != 0)
        return error_set(err, STATUS_INVALID,
                         "%s: ground truth: --type and --scale are for vectors", options->input);
    enum status status = read_rows(options, &truth, err);
    if (status == STATUS_OK && options->distances != NULL)
        status = add_distances(options->distances, &truth, err);
    if (status == STATUS_OK)
        status = convert_rows_left(options, truth.query_count, &count, err);
    if (status == STATUS_OK)
        status = write_part(options, &truth, count, err);
    ground_truth_free(&truth);
    return status;
}
