/*
 * cmd_generate.c - `nightjar generate`: synthetic vectors and queries, to files.
 */
#include <string.h>
#include <unistd.h>

#include "common/vector_file.h"
#include "tools/cmd.h"
#include "tools/generate.h"

struct options {
    const char *output;
    const char *queries_output;
    const char *type;
    const char *distribution;
    uint64_t count;
    uint64_t query_count;
    uint32_t threads;
    struct generate_params params;
};

static enum status write_files(const struct options *options, struct error *err)
{
    struct progress progress;
    struct generator *generator;
    progress_init(&progress, !isatty(STDERR_FILENO));
    enum status status = generator_create(&options->params, &generator, err);
    if (status != STATUS_OK)
        return status;
    struct generate_output output = {.path = options->output,
                                     .stream = GENERATE_BASE,
                                     .count = options->count,
                                     .threads = options->threads,
                                     .progress = &progress};
    status = generate_file(generator, &output, err);
    if (status == STATUS_OK && options->queries_output != NULL) {
        output.path = options->queries_output;
        output.stream = GENERATE_QUERIES;
        output.count = options->query_count;
        status = generate_file(generator, &output, err);
        /* The two belong together: half of the request is not left behind. */
        if (status != STATUS_OK)
            unlink(options->output);
    }
    generator_destroy(generator);
    return status;
}

/* True: *options is filled as far as the command line goes. False: *outcome is what to return. */
static bool parse_options(struct options *options, int argc, char **argv, enum cmd_outcome *outcome,
                          struct error *err)
{
    struct generate_params *params = &options->params;
    const struct args_option table[] = {
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &options->output,
         .value_name = "FILE",
         .help = "vector file to write; its suffix must suit the type",
         .required = true},
        {.name = "count",
         .kind = ARGS_U64,
         .target = &options->count,
         .value_name = "N",
         .help = "vectors",
         .required = true,
         .min = 1,
         .max = 4294967295.0},
        {.name = "dim",
         .kind = ARGS_U32,
         .target = &params->dim,
         .value_name = "D",
         .help = "dimensions",
         .required = true,
         .min = 1,
         .max = VECTOR_DIM_MAX},
        {.name = "type",
         .kind = ARGS_STRING,
         .target = &options->type,
         .choices = "u8|i8|f16|f32",
         .help = "element type"},
        {.name = "seed",
         .kind = ARGS_U64,
         .target = &params->seed,
         .value_name = "S",
         .help = "another seed, other vectors"},
        {.name = "distribution",
         .kind = ARGS_STRING,
         .target = &options->distribution,
         .choices = "clustered|uniform",
         .help = "overlapping clusters, or the hard extreme"},
        {.name = "clusters",
         .kind = ARGS_U32,
         .target = &params->clusters,
         .value_name = "C",
         .help = "clusters; default: the square root of the count",
         .min = 1,
         .max = GENERATE_CLUSTERS_MAX},
        {.name = "intrinsic-dim",
         .kind = ARGS_U32,
         .target = &params->intrinsic_dim,
         .value_name = "I",
         .help = "dimensions a cluster extends in",
         .min = 1,
         .max = GENERATE_INTRINSIC_DIM_MAX},
        {.name = "queries-output",
         .kind = ARGS_STRING,
         .target = &options->queries_output,
         .value_name = "FILE",
         .help = "also write queries of the same distribution"},
        {.name = "query-count",
         .kind = ARGS_U64,
         .target = &options->query_count,
         .value_name = "M",
         .help = "how many",
         .min = 1,
         .max = 4294967295.0},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &options->threads,
         .value_name = "N",
         .help = "threads; default: one a CPU; the files do not depend on it",
         .min = 1,
         .max = CMD_THREADS_MAX},
    };
    const struct args_spec spec = {
        .program = "nightjar generate",
        .summary = "Make synthetic vectors about as hard to search as real descriptors.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
    };
    return cmd_parse(&spec, argc, argv, NULL, outcome, err);
}

enum cmd_outcome cmd_generate(int argc, char **argv, struct error *err)
{
    struct options options = {.type = "u8",
                              .distribution = "clustered",
                              .query_count = 10000,
                              .params = {.seed = 1, .intrinsic_dim = 16}};
    struct generate_params *params = &options.params;
    enum cmd_outcome outcome;
    if (!parse_options(&options, argc, argv, &outcome, err))
        return outcome;
    params->type = element_parse(options.type);
    params->distribution =
        strcmp(options.distribution, "uniform") == 0 ? GENERATE_UNIFORM : GENERATE_CLUSTERED;
    if (params->clusters == 0)
        params->clusters = generate_default_clusters(options.count);
    if (options.queries_output != NULL && strcmp(options.queries_output, options.output) == 0)
        return cmd_usage(err, "--queries-output %s: the same file as --output",
                         options.queries_output);
    return cmd_outcome_of(write_files(&options, err));
}
