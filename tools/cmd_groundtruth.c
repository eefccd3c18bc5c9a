/*
 * cmd_groundtruth.c - `nightjar groundtruth`: exact answers to a query file, to a file.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/range_truth.h"
#include "common/vector_file.h"
#include "tools/cmd.h"
#include "tools/filter_set.h"
#include "tools/groundtruth.h"

struct options {
    struct groundtruth_params params;
    struct groundtruth_range range;
    const char *output;
    const char *metric;
    const char *attributes;
    const char *filter;
    const char *filters;
    double radius;
    bool radius_given, k_given, cap_given;
};

static bool parse_options(struct options *options, int argc, char **argv, enum cmd_outcome *outcome,
                          struct error *err)
{
    struct groundtruth_params *params = &options->params;
    const struct args_option table[] = {
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &params->base,
         .value_name = "BASE",
         .help = "vectors to search; may exceed memory",
         .required = true},
        {.name = "queries",
         .kind = ARGS_STRING,
         .target = &params->queries,
         .value_name = "Q",
         .help = "queries of the same dimension and element type",
         .required = true},
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &options->output,
         .value_name = "GT",
         .help = "file of ids and distances to write",
         .required = true},
        {.short_name = 'k',
         .kind = ARGS_U32,
         .target = &params->k,
         .value_name = "K",
         .help = "neighbours of each query",
         .min = 1,
         .max = GROUNDTRUTH_K_MAX,
         .given = &options->k_given},
        {.name = "metric",
         .kind = ARGS_STRING,
         .target = &options->metric,
         .choices = "l2|ip|cosine",
         .help = "distance"},
        {.name = "attributes",
         .kind = ARGS_STRING,
         .target = &options->attributes,
         .value_name = "CSV",
         .help = "what nightjar-build --attributes takes, to filter by; held in memory, beside "
                 "--memory"},
        {.name = "filter",
         .kind = ARGS_STRING,
         .target = &options->filter,
         .value_name = "TEXT",
         .help = "only rows that match, for all queries: 'year >= 2015 and lang = \"en\"'"},
        {.name = "filters",
         .kind = ARGS_STRING,
         .target = &options->filters,
         .value_name = "FILE",
         .help = "the same with a line for each query; an empty one is all rows"},
        {.name = "radius",
         .kind = ARGS_DOUBLE,
         .target = &options->radius,
         .value_name = "R",
         .help = "all rows within this distance, in place of the k nearest",
         .min = -INFINITY,
         .given = &options->radius_given},
        {.name = "cap",
         .kind = ARGS_U32,
         .target = &options->range.cap,
         .value_name = "N",
         .help = "with --radius: at most the N nearest of a query",
         .min = 1,
         .given = &options->cap_given},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &params->threads,
         .value_name = "N",
         .help = "threads; default: one a CPU",
         .min = 1,
         .max = CMD_THREADS_MAX},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &params->memory_bytes,
         .value_name = "M",
         .help = "bound on the memory used"},
    };
    const struct args_spec spec = {
        .program = "nightjar groundtruth",
        .summary = "Compute the exact nearest neighbours of queries, or all within a radius, by "
                   "brute force.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog =
            "The file is laid out as DiskANN's: u32 queries, u32 k, u32 ids, f32 distances\n"
            "(squared for l2, negated for ip, 1 - cosine); equal distances by lower id. Where\n"
            "fewer than k match, ids 0xffffffff at an infinite distance follow. With --radius:\n"
            "u32 queries, u32 total, u32 counts, u32 ids, f32 distances.",
    };
    return cmd_parse(&spec, argc, argv, NULL, outcome, err);
}

static enum cmd_outcome check_options(const struct options *options, struct error *err)
{
    bool filtered = options->filter != NULL || options->filters != NULL;
    if (options->filter != NULL && options->filters != NULL)
        return cmd_usage(err, "--filter and --filters: one of them is wanted");
    if (filtered && options->attributes == NULL)
        return cmd_usage(err, "--filter: --attributes is needed, for its columns");
    if (!filtered && options->attributes != NULL)
        return cmd_usage(err, "--attributes: --filter or --filters is needed");
    if (options->radius_given && options->k_given)
        return cmd_usage(err, "-k and --radius: one of them is wanted (--cap bounds a radius)");
    if (options->cap_given && !options->radius_given)
        return cmd_usage(err, "--cap is for --radius");
    return CMD_OK;
}

/* Rows of the base and of the queries, which the attributes and filters must have too. */
static enum status count_rows(const char *path, uint64_t *count, struct error *err)
{
    struct vector_file *file;
    enum status status = vector_file_open(path, &file, err);
    if (status != STATUS_OK)
        return status;
    *count = vector_file_shape(file).count;
    vector_file_close(file);
    return STATUS_OK;
}

static enum status open_filters(const struct options *options, struct filter_set **out,
                                struct error *err)
{
    struct filter_set_params params = {
        .attributes = options->attributes,
        .text = options->filter,
        .path = options->filters,
    };
    enum status status = count_rows(options->params.base, &params.rows, err);
    if (status == STATUS_OK)
        status = count_rows(options->params.queries, &params.query_count, err);
    return status == STATUS_OK ? filter_set_open(&params, out, err) : status;
}

static enum status write_nearest(const struct options *options, struct error *err)
{
    struct ground_truth truth;
    enum status status = groundtruth_compute(&options->params, &truth, err);
    if (status != STATUS_OK)
        return status;
    status = ground_truth_write(options->output, &truth, err);
    ground_truth_free(&truth);
    return status;
}

static enum status write_within(const struct options *options, struct error *err)
{
    struct range_truth truth;
    uint64_t cut = 0;
    enum status status = groundtruth_within(&options->params, &options->range, &truth, &cut, err);
    if (status != STATUS_OK)
        return status;
    status = range_truth_write(options->output, &truth, err);
    if (status == STATUS_OK)
        printf("%" PRIu64 " within the radius of %" PRIu32 " queries", truth.at[truth.query_count],
               truth.query_count);
    if (status == STATUS_OK && options->range.cap != 0)
        printf("; %" PRIu64 " have more than %" PRIu32, cut, options->range.cap);
    if (status == STATUS_OK)
        putchar('\n');
    range_truth_free(&truth);
    return status;
}

enum cmd_outcome cmd_groundtruth(int argc, char **argv, struct error *err)
{
    struct options options = {.params = {.k = 100, .memory_bytes = UINT64_C(1) << 30},
                              .metric = "l2"};
    enum cmd_outcome outcome;
    if (!parse_options(&options, argc, argv, &outcome, err))
        return outcome;
    outcome = check_options(&options, err);
    if (outcome != CMD_OK)
        return outcome;

    struct progress progress;
    struct filter_set *filters = NULL;
    progress_init(&progress, !isatty(STDERR_FILENO));
    options.params.metric = metric_parse(options.metric);
    options.params.progress = &progress;
    options.range.radius = (float)options.radius;
    enum status status = STATUS_OK;
    if (options.attributes != NULL)
        status = open_filters(&options, &filters, err);
    if (status == STATUS_OK && filters != NULL)
        options.params.filter = filter_set_view(filters);
    if (status == STATUS_OK)
        status = options.radius_given ? write_within(&options, err) : write_nearest(&options, err);
    filter_set_free(filters);
    return cmd_outcome_of(status);
}
