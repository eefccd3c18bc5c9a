/*
 * cmd_convert.c - `nightjar convert`: the command line, and which conversion it asks for.
 */
#include <string.h>

#include "common/file_io.h"
#include "common/vector_format.h"
#include "tools/cmd.h"
#include "tools/convert.h"

/* As given, before names and words are looked at. */
struct command_line {
    struct convert_options options;
    const char *from;
    const char *to;
    const char *type;
    const char *metric;
    bool scaled;
};

static bool parse_options(struct command_line *line, int argc, char **argv,
                          enum cmd_outcome *outcome, struct error *err)
{
    struct convert_options *options = &line->options;
    const struct args_option table[] = {
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &options->input,
         .value_name = "FILE",
         .help = "file to read",
         .required = true},
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &options->output,
         .value_name = "FILE",
         .help = "file to write",
         .required = true},
        {.name = "from",
         .kind = ARGS_STRING,
         .target = &line->from,
         .choices = "hnswlib|diskann|range",
         .help = "what the input is, where its name does not say so"},
        {.name = "to",
         .kind = ARGS_STRING,
         .target = &line->to,
         .choices = "diskann|range",
         .help = "what to write, where the output's name does not say so"},
        {.name = "type",
         .kind = ARGS_STRING,
         .target = &line->type,
         .choices = "u8|i8|f16|f32|i32",
         .help = "element type; default: what the output's name says, or the input's. With "
                 "--from hnswlib (default: f32) or diskann: the input's"},
        {.name = "scale",
         .kind = ARGS_DOUBLE,
         .target = &options->scale,
         .value_name = "X",
         .help = "multiply by X and round to the type",
         .given = &line->scaled},
        {.name = "offset",
         .kind = ARGS_U64,
         .target = &options->offset,
         .value_name = "N",
         .help = "skip the first N rows"},
        {.name = "limit",
         .kind = ARGS_U64,
         .target = &options->limit,
         .value_name = "N",
         .help = "at most N rows",
         .min = 1},
        {.name = "keys-output",
         .kind = ARGS_STRING,
         .target = &options->keys_output,
         .value_name = "FILE",
         .help = "hnswlib: the labels, as a key file for nightjar-build --keys"},
        {.name = "dim",
         .kind = ARGS_U32,
         .target = &options->dim,
         .value_name = "D",
         .help = "hnswlib: refuse an index of another dimension",
         .min = 1,
         .max = VECTOR_DIM_MAX},
        {.name = "metric",
         .kind = ARGS_STRING,
         .target = &line->metric,
         .choices = "l2|ip|cosine",
         .help = "hnswlib: refuse vectors that cannot be indexed under it"},
        {.name = "distances",
         .kind = ARGS_STRING,
         .target = &options->distances,
         .value_name = "FILE",
         .help = "ground truth: distances of the ids, .fvecs or .fbin"},
        {.name = "distances-output",
         .kind = ARGS_STRING,
         .target = &options->distances_output,
         .value_name = "FILE",
         .help = "ground truth: write distances there too, .fvecs or .fbin"},
    };
    const struct args_spec spec = {
        .program = "nightjar convert",
        .summary =
            "Change the format or element type of a vector file or ground truth, or take the "
            "vectors out of an hnswlib index.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog =
            "The format follows from the name: .u8bin .i8bin .f16bin .fbin .ibin, .bvecs\n"
            ".fvecs .ivecs, .npy. Any other name is ground truth (u32 queries, u32 k, ids,\n"
            "distances); made of ids alone its distances are infinite. --from and --to name\n"
            "what no name tells: diskann is a data file (u32 rows, u32 dimension, rows), range\n"
            "answers within a radius (u32 queries, u32 total, counts, ids, distances).\n"
            "\n"
            "  convert --input base.fbin --output base.npy\n"
            "  convert --from hnswlib --input index.bin --dim 128 --output base.fbin \\\n"
            "          --keys-output keys.u64bin\n"
            "  convert --from diskann --type u8 --input data.bin --output base.u8bin\n"
            "  convert --input base.fbin --to diskann --output data.bin\n"
            "  convert --input truth.bin --output ids.ivecs --distances-output distances.fvecs\n"
            "  convert --input ids.ivecs --distances distances.fvecs --output truth.bin\n"
            "  convert --from range --input range.bin --output ids.ivecs",
    };
    return cmd_parse(&spec, argc, argv, NULL, outcome, err);
}

static enum convert_format format_parse(const char *word)
{
    if (word == NULL)
        return CONVERT_BY_NAME;
    if (strcmp(word, "hnswlib") == 0)
        return CONVERT_HNSWLIB;
    return strcmp(word, "diskann") == 0 ? CONVERT_DISKANN : CONVERT_RANGE;
}

/* Whether the two ends are ground truth. Ids are vectors only on the way to vectors. */
static bool is_truth(const struct convert_options *options)
{
    if (options->from == CONVERT_DISKANN || options->to == CONVERT_DISKANN)
        return false;
    bool ids =
        file_has_suffix(options->input, ".ivecs") || file_has_suffix(options->input, ".ibin");
    return options->from == CONVERT_RANGE || options->to == CONVERT_RANGE ||
           options->distances != NULL || options->distances_output != NULL ||
           !vector_format_is_known(options->input) ||
           (ids && !vector_format_is_known(options->output));
}

static enum cmd_outcome check_files(const struct convert_options *options, struct error *err)
{
    const char *paths[] = {options->input, options->distances, options->output,
                           options->keys_output, options->distances_output};
    const char *names[] = {"--input", "--distances", "--output", "--keys-output",
                           "--distances-output"};
    for (size_t i = 0; i < ARRAY_LENGTH(paths); i++)
        for (size_t j = MAX(i + 1, 2); j < ARRAY_LENGTH(paths); j++)
            if (paths[i] != NULL && paths[j] != NULL && strcmp(paths[i], paths[j]) == 0)
                return cmd_usage(err, "%s %s: the same file as %s", names[j], paths[j], names[i]);
    return CMD_OK;
}

/* What does not go together. */
static enum cmd_outcome check_options(const struct convert_options *options, struct error *err)
{
    bool hnswlib = options->from == CONVERT_HNSWLIB;
    if (hnswlib && options->keys_output == NULL)
        return cmd_usage(err, "--from hnswlib: --keys-output is needed, for its labels");
    if (hnswlib && (options->scale != 0 || options->offset != 0 || options->limit != 0 ||
                    options->to != CONVERT_BY_NAME))
        return cmd_usage(err, "--from hnswlib: not with --to, --scale, --offset or --limit");
    if (!hnswlib &&
        (options->keys_output != NULL || options->dim != 0 || options->metric != METRIC_NONE))
        return cmd_usage(err, "--keys-output, --dim and --metric are for --from hnswlib");
    if (options->from == CONVERT_DISKANN && options->type == ELEMENT_NONE)
        return cmd_usage(err, "--from diskann: --type is needed, the file does not tell it");
    if ((hnswlib || !is_truth(options)) &&
        (options->distances != NULL || options->distances_output != NULL))
        return cmd_usage(err, "--distances and --distances-output are for ground truth");
    if ((options->from == CONVERT_DISKANN && options->to == CONVERT_RANGE) ||
        (options->from == CONVERT_RANGE && options->to == CONVERT_DISKANN))
        return cmd_usage(err, "--from and --to: one is vectors, the other ground truth");
    return check_files(options, err);
}

enum cmd_outcome cmd_convert(int argc, char **argv, struct error *err)
{
    struct command_line line = {.from = NULL};
    struct convert_options *options = &line.options;
    enum cmd_outcome outcome;
    if (!parse_options(&line, argc, argv, &outcome, err))
        return outcome;
    options->from = format_parse(line.from);
    options->to = format_parse(line.to);
    options->type = line.type != NULL ? element_parse(line.type) : ELEMENT_NONE;
    options->metric = line.metric != NULL ? metric_parse(line.metric) : METRIC_NONE;
    if (line.scaled && options->scale == 0)
        return cmd_usage(err, "--scale: wanted more than 0");
    outcome = check_options(options, err);
    if (outcome != CMD_OK)
        return outcome;
    if (options->from == CONVERT_HNSWLIB)
        return cmd_outcome_of(convert_hnswlib(options, err));
    return cmd_outcome_of(is_truth(options) ? convert_truth(options, err)
                                            : convert_vectors(options, err));
}
