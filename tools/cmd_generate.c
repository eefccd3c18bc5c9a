/*
 * cmd_generate.c - `nightjar generate`: synthetic vectors and queries, and attributes and hard
 * queries of vectors that are there, to files.
 */
#include <string.h>
#include <unistd.h>

#include "common/vector_file.h"
#include "tools/cmd.h"
#include "tools/generate.h"
#include "tools/generate_attributes.h"
#include "tools/generate_means.h"

struct options {
    const char *output;
    const char *queries_output;
    const char *input;
    const char *attributes;
    uint32_t tags;
    const char *type;
    const char *distribution;
    uint64_t count;
    uint64_t query_count;
    uint32_t threads;
    struct generate_params params;
};

static enum status write_vectors(const struct options *options, struct progress *progress,
                                 struct error *err)
{
    struct generator *generator;
    enum status status = generator_create(&options->params, &generator, err);
    if (status != STATUS_OK)
        return status;
    struct generate_output output = {.path = options->output,
                                     .stream = GENERATE_BASE,
                                     .count = options->count,
                                     .threads = options->threads,
                                     .progress = progress};
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

static enum status write_means(const struct options *options, struct progress *progress,
                               struct error *err)
{
    const struct generate_means_params params = {
        .base = options->input,
        .output = options->queries_output,
        .count = options->query_count,
        .seed = options->params.seed,
        .progress = progress,
    };
    return generate_means(&params, err);
}

static enum status write_attributes(const struct options *options, struct progress *progress,
                                    struct error *err)
{
    const struct generate_attributes_params params = {
        .base = options->input != NULL ? options->input : options->output,
        .output = options->attributes,
        .seed = options->params.seed,
        .tags = options->tags,
        .threads = options->threads,
        .progress = progress,
    };
    return generate_attributes(&params, err);
}

static enum status write_files(const struct options *options, struct error *err)
{
    struct progress progress;
    progress_init(&progress, !isatty(STDERR_FILENO));
    enum status status = STATUS_OK;
    if (options->input == NULL)
        status = write_vectors(options, &progress, err);
    else if (options->queries_output != NULL)
        status = write_means(options, &progress, err);
    if (status == STATUS_OK && options->attributes != NULL)
        status = write_attributes(options, &progress, err);
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
         .help = "vector file to write; its suffix must suit the type (required, as are --count "
                 "and --dim, unless there is --input)"},
        {.name = "count",
         .kind = ARGS_U64,
         .target = &options->count,
         .value_name = "N",
         .help = "vectors",
         .min = 1,
         .max = 4294967295.0},
        {.name = "dim",
         .kind = ARGS_U32,
         .target = &params->dim,
         .value_name = "D",
         .help = "dimensions",
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
        {.name = "lengths",
         .kind = ARGS_DOUBLE,
         .target = &params->lengths,
         .value_name = "SIGMA",
         .help = "f32: multiply each vector, not queries, by exp(SIGMA * a normal number)",
         .max = GENERATE_LENGTHS_MAX},
        {.name = "queries-output",
         .kind = ARGS_STRING,
         .target = &options->queries_output,
         .value_name = "FILE",
         .help = "also write queries of the same distribution; with --input: means of two "
                 "random vectors of it, which are harder"},
        {.name = "query-count",
         .kind = ARGS_U64,
         .target = &options->query_count,
         .value_name = "M",
         .help = "how many",
         .min = 1,
         .max = 4294967295.0},
        {.name = "attributes",
         .kind = ARGS_STRING,
         .target = &options->attributes,
         .value_name = "CSV",
         .help = "also write attributes, one row a vector, for nightjar-build --attributes"},
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &options->input,
         .value_name = "BASE",
         .help = "make no vectors, but --attributes or --queries-output of those in this file"},
        {.name = "tags",
         .kind = ARGS_U32,
         .target = &options->tags,
         .value_name = "T",
         .help = "different labels in the attributes",
         .min = 1,
         .max = GENERATE_TAGS_MAX},
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
        .epilog =
            "Attributes are three columns: u, a number below 1000000 that has nothing to do with\n"
            "the vector; c, one by the rank of its distance to one of the vectors; tags, 1 to 4\n"
            "labels t0, t1, ... of falling frequency. So 'u < 10000' and 'c < 10000' leave 1 %.\n"
            "\n"
            "  generate --output base.u8bin --count 100000 --dim 128 --attributes base.csv\n"
            "  generate --input base.fbin --attributes base.csv\n"
            "  generate --input base.fbin --queries-output hard.fbin --query-count 1000",
    };
    return cmd_parse(&spec, argc, argv, NULL, outcome, err);
}

/* Which files are wanted. */
static enum cmd_outcome check_options(const struct options *options, struct error *err)
{
    if (options->input != NULL && options->attributes == NULL && options->queries_output == NULL)
        return cmd_usage(err, "--input: --attributes or --queries-output is needed");
    if (options->input != NULL && (options->output != NULL || options->params.lengths > 0))
        return cmd_usage(err, "--input: not with --output or --lengths");
    if (options->input == NULL &&
        (options->output == NULL || options->count == 0 || options->params.dim == 0))
        return cmd_usage(err, "%s: missing, and it is required (see --help)",
                         options->output == NULL ? "--output"
                         : options->count == 0   ? "--count"
                                                 : "--dim");
    const char *base = options->input != NULL ? options->input : options->output;
    if (options->attributes != NULL && strcmp(options->attributes, base) == 0)
        return cmd_usage(err, "--attributes %s: the same file as the vectors'",
                         options->attributes);
    if (options->queries_output != NULL && strcmp(options->queries_output, base) == 0)
        return cmd_usage(err, "--queries-output %s: the same file as the vectors'",
                         options->queries_output);
    if (options->queries_output != NULL && options->attributes != NULL &&
        strcmp(options->queries_output, options->attributes) == 0)
        return cmd_usage(err, "--attributes %s: the same file as --queries-output",
                         options->attributes);
    return CMD_OK;
}

enum cmd_outcome cmd_generate(int argc, char **argv, struct error *err)
{
    struct options options = {.type = "u8",
                              .distribution = "clustered",
                              .query_count = 10000,
                              .tags = 1000,
                              .params = {.seed = 1, .intrinsic_dim = 16}};
    struct generate_params *params = &options.params;
    enum cmd_outcome outcome;
    if (!parse_options(&options, argc, argv, &outcome, err))
        return outcome;
    outcome = check_options(&options, err);
    if (outcome != CMD_OK)
        return outcome;
    params->type = element_parse(options.type);
    params->distribution =
        strcmp(options.distribution, "uniform") == 0 ? GENERATE_UNIFORM : GENERATE_CLUSTERED;
    if (params->clusters == 0)
        params->clusters = generate_default_clusters(options.count);
    return cmd_outcome_of(write_files(&options, err));
}
