/*
 * cmd_groundtruth.c - `nightjar groundtruth`: exact neighbours of a query file, to a file.
 */
#include <string.h>
#include <unistd.h>

#include "common/vector_file.h"
#include "tools/cmd.h"
#include "tools/groundtruth.h"

enum cmd_outcome cmd_groundtruth(int argc, char **argv, struct error *err)
{
    struct groundtruth_params params = {.k = 100, .memory_bytes = UINT64_C(1) << 30};
    const char *output = NULL;
    const char *metric = "l2";
    const struct args_option table[] = {
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &params.base,
         .value_name = "BASE",
         .help = "vectors to search; may exceed memory",
         .required = true},
        {.name = "queries",
         .kind = ARGS_STRING,
         .target = &params.queries,
         .value_name = "Q",
         .help = "queries of the same dimension and element type",
         .required = true},
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &output,
         .value_name = "GT",
         .help = "file of ids and distances to write",
         .required = true},
        {.short_name = 'k',
         .kind = ARGS_U32,
         .target = &params.k,
         .value_name = "K",
         .help = "neighbours of each query",
         .min = 1,
         .max = GROUNDTRUTH_K_MAX},
        {.name = "metric",
         .kind = ARGS_STRING,
         .target = &metric,
         .choices = "l2|ip|cosine",
         .help = "distance"},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &params.threads,
         .value_name = "N",
         .help = "threads; default: one a CPU",
         .min = 1,
         .max = CMD_THREADS_MAX},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &params.memory_bytes,
         .value_name = "M",
         .help = "bound on the memory used"},
    };
    const struct args_spec spec = {
        .program = "nightjar groundtruth",
        .summary = "Compute the exact nearest neighbours of queries by brute force.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "The file is laid out as DiskANN's: u32 queries, u32 k, u32 ids, f32 distances\n"
                  "(squared for l2, negated for ip, 1 - cosine); equal distances by lower id.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;

    struct progress progress;
    struct ground_truth truth;
    progress_init(&progress, !isatty(STDERR_FILENO));
    params.metric = metric_parse(metric);
    params.progress = &progress;
    enum status status = groundtruth_compute(&params, &truth, err);
    if (status != STATUS_OK)
        return CMD_FAILED;
    status = ground_truth_write(output, &truth, err);
    ground_truth_free(&truth);
    return cmd_outcome_of(status);
}
