/*
 * cmd_codes.c - `nightjar codes`: how well codes of several kinds and sizes tell near from far.
 *
 * For each codec and code size: trains on a sample as nightjar-build does, encodes every row while
 * the input streams by, and ranks all rows by code distance for each query. What a search then has
 * to read from disk to find the true ten is at least as many blocks as the rank at which they come.
 *
 * Thread rules: called from the main thread; teams share rows, then queries.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "builder/encode.h"
#include "common/clock.h"
#include "common/codec_choose.h"
#include "common/cpu.h"
#include "common/distance.h"
#include "common/memory.h"
#include "common/vector_file.h"
#include "tools/cmd.h"
#include "tools/recall.h"

enum {
    NEIGHBOURS = 10,
    CUT_MAX = 40,
    CUTS = 5,
    CODECS_MAX = 8,
    BATCH_ROWS = 64, /* encoded at a time by one thread */
    CHUNK_BYTES = 64 << 20,
    SCAN_ROWS = 2048, /* estimated at a time */
};

static const uint32_t cuts[CUTS] = {10, 14, 20, 28, CUT_MAX};

struct codes_options {
    const char *input, *queries, *groundtruth, *metric, *codecs;
    struct args_u32_list code_bytes;
    uint32_t threads, query_count;
    uint64_t seed;
    bool json;
};

struct codes_run {
    const struct codes_options *options;
    enum metric metric;
    enum codec_kind kinds[CODECS_MAX];
    size_t kind_count;
    struct vector_file *file;
    struct vector_shape shape;
    struct cmd_queries queries;
    struct ground_truth truth;
    float norm_max;
    uint8_t *codes;
    size_t codes_bytes;
    bool first; /* no result is printed yet */
};

struct codes_result {
    const char *name;
    struct codec_choice choice;
    uint32_t code_bytes;
    double estimate_ns; /* of one thread */
    double train_s, encode_s;
    uint64_t found[CUTS];
};

/* ---- one codec ---- */

/* Passes all rows by `each`, in batches, by many threads. */
struct row_pass {
    const struct codes_run *run;
    const struct codec *codec;
    uint8_t *codes;
    float norm_max;
};

static void batch_encode(struct row_pass *pass, const uint8_t *rows, uint64_t first, size_t count)
{
    codec_encode(pass->codec, rows, count,
                 pass->codes + first * codec_params_of(pass->codec).code_bytes);
}

/* Encodes, or without a codec finds the largest squared norm of, rows first.. of the input. */
static void chunk_pass(struct row_pass *pass, const uint8_t *rows, uint64_t first, size_t count)
{
    const struct vector_shape *shape = &pass->run->shape;
    const size_t row_bytes = element_vector_bytes(shape->type, shape->dim);
    const struct distance_kernels *kernels = distance_kernels_get(shape->type, cpu_features());
    float largest = pass->norm_max;
#pragma omp parallel for schedule(dynamic, 4) reduction(max : largest)
    for (size_t row = 0; row < count; row += BATCH_ROWS) {
        const size_t some = MIN((size_t)BATCH_ROWS, count - row);
        const uint8_t *batch = rows + row * row_bytes;
        if (pass->codec != NULL) {
            batch_encode(pass, batch, first + row, some);
            continue;
        }
        for (size_t i = 0; i < some; i++) {
            const uint8_t *vector = batch + i * row_bytes;
            largest = MAX(largest, kernels->dot(vector, vector, shape->dim));
        }
    }
    pass->norm_max = largest;
}

static enum status rows_pass(struct row_pass *pass, struct error *err)
{
    const struct codes_run *run = pass->run;
    const struct vector_shape *shape = &run->shape;
    const size_t row_bytes = element_vector_bytes(shape->type, shape->dim);
    const uint64_t chunk = MIN(shape->count, (uint64_t)CHUNK_BYTES / row_bytes);
    void *rows = NULL;
    enum status status = bulk_alloc(chunk, row_bytes, "input chunk", &rows, err);
    if (status != STATUS_OK)
        return status;
    for (uint64_t first = 0; status == STATUS_OK && first < shape->count; first += chunk) {
        const uint64_t count = MIN(chunk, shape->count - first);
        status = vector_file_read(run->file, first, count, rows, err);
        if (status == STATUS_OK && pass->codec == NULL)
            status = vector_rows_check(run->options->input, shape, run->metric, first, count, rows,
                                       row_bytes, err);
        if (status == STATUS_OK)
            chunk_pass(pass, rows, first, (size_t)count);
    }
    bulk_free(rows, chunk, row_bytes);
    return status;
}

/* The rows nearest so far, ascending by (distance, row). */
struct nearest {
    uint32_t count;
    float distances[CUT_MAX];
    uint32_t rows[CUT_MAX];
};

static void nearest_add(struct nearest *nearest, float distance, uint32_t row)
{
    uint32_t at = nearest->count;
    if (at < CUT_MAX)
        nearest->count++;
    else if (distance < nearest->distances[at - 1])
        at--;
    else
        return;
    for (; at > 0 && distance < nearest->distances[at - 1]; at--) {
        nearest->distances[at] = nearest->distances[at - 1];
        nearest->rows[at] = nearest->rows[at - 1];
    }
    nearest->distances[at] = distance;
    nearest->rows[at] = row;
}

/* Ranks all rows for a query; returns the time that estimates took. */
static uint64_t query_rank(const struct codes_run *run, const struct codec *codec,
                           const void *table, struct nearest *nearest)
{
    uint32_t rows[SCAN_ROWS];
    float distances[SCAN_ROWS];
    uint64_t ns = 0;
    nearest->count = 0;
    for (uint64_t first = 0; first < run->shape.count; first += SCAN_ROWS) {
        const size_t count = (size_t)MIN((uint64_t)SCAN_ROWS, run->shape.count - first);
        for (size_t i = 0; i < count; i++)
            rows[i] = (uint32_t)(first + i);
        const uint64_t before = clock_monotonic_ns();
        codec_table_gather(codec, table, run->codes, rows, count, distances);
        ns += clock_monotonic_ns() - before;
        for (size_t i = 0; i < count; i++)
            nearest_add(nearest, distances[i], rows[i]);
    }
    return ns;
}

static void ranks_count(const uint32_t *truth, const struct nearest *nearest, uint64_t found[CUTS])
{
    for (uint32_t at = 0; at < nearest->count; at++) {
        bool true_one = false;
        for (uint32_t i = 0; i < NEIGHBOURS; i++)
            true_one = true_one || truth[i] == nearest->rows[at];
        for (size_t cut = 0; cut < CUTS; cut++)
            found[cut] += true_one && at < cuts[cut];
    }
}

static enum status queries_rank(const struct codes_run *run, const struct codec *codec,
                                struct codes_result *result, struct error *err)
{
    const size_t table_bytes = size_align(codec_table_bytes(codec), 64);
    uint64_t found[CUTS] = {0};
    uint64_t ns = 0;
    bool failed = false;
#pragma omp parallel reduction(+ : found, ns) reduction(|| : failed)
    {
        void *table = aligned_alloc(64, table_bytes);
        failed = table == NULL;
#pragma omp for schedule(dynamic, 1)
        for (uint32_t q = 0; q < run->queries.count; q++) {
            struct nearest nearest;
            if (table == NULL)
                continue;
            codec_table_build(codec, run->queries.rows + q * run->queries.row_bytes, table);
            ns += query_rank(run, codec, table, &nearest);
            ranks_count(run->truth.ids + (size_t)q * run->truth.k, &nearest, found);
        }
        free(table);
    }
    if (failed)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a codec's tables");
    memcpy(result->found, found, sizeof(found));
    result->estimate_ns = (double)ns / ((double)run->queries.count * (double)run->shape.count);
    return STATUS_OK;
}

/* ---- output ---- */

static void result_print(struct codes_run *run, const struct codes_result *r)
{
    const double wanted = (double)run->queries.count * NEIGHBOURS;
    if (run->options->json) {
        printf("%s\n  {\"codec\": \"%s\", \"code_bytes\": %u, \"estimate_ns\": %.2f, "
               "\"train_s\": %.2f, \"encode_s\": %.2f",
               run->first ? "[" : ",", r->name, r->code_bytes, r->estimate_ns, r->train_s,
               r->encode_s);
        for (size_t i = 0; i < CUTS; i++)
            printf(", \"recall%d_at_%u\": %.4f", NEIGHBOURS, cuts[i], (double)r->found[i] / wanted);
        printf("}");
    } else {
        if (run->first)
            printf("%-20s %5s %8s %8s %9s %7s %7s %7s %7s %7s\n", "codec", "bytes", "train s",
                   "encode s", "ns/code", "@10", "@14", "@20", "@28", "@40");
        printf("%-20s %5u %8.1f %8.1f %9.1f", r->name, r->code_bytes, r->train_s, r->encode_s,
               r->estimate_ns);
        for (size_t i = 0; i < CUTS; i++)
            printf(" %7.4f", (double)r->found[i] / wanted);
        printf("\n");
        fflush(stdout);
    }
    run->first = false;
}

static enum status codec_measure(struct codes_run *run, enum codec_kind kind, uint32_t code_bytes,
                                 struct error *err)
{
    const struct codec_params params = {
        .kind = kind,
        .metric = run->metric,
        .type = run->shape.type,
        .dim = run->shape.dim,
        .code_bytes = code_bytes,
        .seed = run->options->seed,
        .norm_max = run->norm_max,
    };
    struct codes_result result = {.code_bytes = code_bytes};
    struct codec *codec = NULL;
    uint64_t begin = clock_monotonic_ns();
    enum status status = encode_train(run->file, &params, &result.choice, &codec, err);
    if (status != STATUS_OK)
        return status;
    char name[32];
    snprintf(name, sizeof(name), "%s%s", kind == CODEC_AUTO ? "auto: " : "",
             result.choice.queries > 0 ? codec_candidate_name(result.choice.candidate)
                                       : codec_kind_name((enum codec_kind)result.choice.kind));
    result.name = name;
    result.train_s = (double)(clock_monotonic_ns() - begin) * 1e-9;
    begin = clock_monotonic_ns();
    struct row_pass pass = {.run = run, .codec = codec, .codes = run->codes};
    status = rows_pass(&pass, err);
    result.encode_s = (double)(clock_monotonic_ns() - begin) * 1e-9;
    if (status == STATUS_OK)
        status = queries_rank(run, codec, &result, err);
    if (status == STATUS_OK)
        result_print(run, &result);
    codec_destroy(codec);
    return status;
}

/* ---- the run ---- */

static enum status inputs_open(struct codes_run *run, struct error *err)
{
    const struct codes_options *options = run->options;
    enum status status = vector_file_open(options->input, &run->file, err);
    if (status != STATUS_OK)
        return status;
    run->shape = vector_file_shape(run->file);
    if (run->shape.count > UINT32_MAX || run->shape.type == ELEMENT_I32)
        return error_set(err, STATUS_INVALID, "%s: wanted fewer than 2^32 u8, i8, f16 or f32 rows",
                         options->input);
    const struct cmd_target target = {
        .name = options->input,
        .vector_count = run->shape.count,
        .dim = run->shape.dim,
        .type = run->shape.type,
        .metric = run->metric,
    };
    status = cmd_queries_load(options->queries, options->query_count, &target, &run->queries, err);
    if (status == STATUS_OK)
        status = ground_truth_read(options->groundtruth, &run->truth, err);
    if (status != STATUS_OK)
        return status;
    if (run->truth.query_count < run->queries.count || run->truth.k < NEIGHBOURS)
        return error_set(err, STATUS_INVALID,
                         "%s: %u neighbours of %u queries, wanted %d of %u at least",
                         options->groundtruth, run->truth.k, run->truth.query_count, NEIGHBOURS,
                         run->queries.count);
    status = recall_truth_complete(options->groundtruth, &run->truth, NEIGHBOURS, err);
    if (status != STATUS_OK)
        return status;
    uint32_t most = 0;
    for (size_t i = 0; i < options->code_bytes.count; i++)
        most = MAX(most, MIN(options->code_bytes.items[i], run->shape.dim));
    for (size_t c = 0; c < run->kind_count; c++)
        if (run->kinds[c] == CODEC_SCALAR)
            most = MAX(most, codec_scalar_code_bytes(run->shape.dim, run->metric, 4));
    void *codes = NULL;
    status = bulk_alloc(run->shape.count, most, "codes", &codes, err);
    run->codes = codes;
    run->codes_bytes = most;
    return status;
}

/* Scalar codes have sizes of their own, which coincide where there are few dimensions. */
static enum status scalar_measure(struct codes_run *run, struct error *err)
{
    enum status status = STATUS_OK;
    uint32_t before = 0;
    for (uint32_t bits = 1; status == STATUS_OK && bits <= 4; bits *= 2) {
        const uint32_t bytes = codec_scalar_code_bytes(run->shape.dim, run->metric, bits);
        if (bytes != before)
            status = codec_measure(run, CODEC_SCALAR, bytes, err);
        before = bytes;
    }
    return status;
}

static enum status codecs_measure(struct codes_run *run, struct error *err)
{
    const struct args_u32_list *sizes = &run->options->code_bytes;
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < sizes->count; i++)
        for (size_t c = 0; status == STATUS_OK && c < run->kind_count; c++)
            if (run->kinds[c] != CODEC_SCALAR)
                status =
                    codec_measure(run, run->kinds[c], MIN(sizes->items[i], run->shape.dim), err);
    for (size_t c = 0; status == STATUS_OK && c < run->kind_count; c++)
        if (run->kinds[c] == CODEC_SCALAR)
            status = scalar_measure(run, err);
    return status;
}

static enum status codes_measure(struct codes_run *run, struct error *err)
{
    struct row_pass pass = {.run = run};
    enum status status = inputs_open(run, err);
    if (status == STATUS_OK)
        status = rows_pass(&pass, err); /* checks every row, too */
    run->norm_max = sqrtf(pass.norm_max) * (1 + 0x1p-20f);
    if (status == STATUS_OK)
        status = codecs_measure(run, err);
    if (status == STATUS_OK && run->options->json)
        printf("\n]\n");
    return status;
}

/* Splits the list of --codec. */
static bool codecs_parse(struct codes_run *run, struct error *err)
{
    const char *at = run->options->codecs;
    for (;;) {
        char word[16];
        const size_t length = strcspn(at, ",");
        snprintf(word, sizeof(word), "%.*s", (int)MIN(length, sizeof(word) - 1), at);
        const enum codec_kind kind = codec_kind_parse(word);
        if (kind == CODEC_NONE || length >= sizeof(word) || run->kind_count == CODECS_MAX) {
            (void)cmd_usage(err, "--codec %s: wanted a list of up to %d of pq, opq, scalar, auto",
                            run->options->codecs, CODECS_MAX);
            return false;
        }
        run->kinds[run->kind_count++] = kind;
        if (at[length] == '\0')
            return true;
        at += length + 1;
    }
}

enum cmd_outcome cmd_codes(int argc, char **argv, struct error *err)
{
    struct codes_options options = {
        .metric = "l2",
        .codecs = "pq,opq,auto",
        .code_bytes = {.count = 1, .items = {32}},
        .query_count = 1000,
        .seed = 1,
    };
    const struct args_option table[] = {
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &options.input,
         .value_name = "BASE",
         .help = "vectors; may exceed memory, their codes may not",
         .required = true},
        {.name = "queries",
         .kind = ARGS_STRING,
         .target = &options.queries,
         .value_name = "Q",
         .help = "queries of the same dimension and element type",
         .required = true},
        {.name = "groundtruth",
         .kind = ARGS_STRING,
         .target = &options.groundtruth,
         .value_name = "GT",
         .help = "their exact neighbours, of 'nightjar groundtruth'",
         .required = true},
        {.name = "metric",
         .kind = ARGS_STRING,
         .target = &options.metric,
         .choices = "l2|ip|cosine",
         .help = "distance"},
        {.name = "codec",
         .kind = ARGS_STRING,
         .target = &options.codecs,
         .value_name = "LIST",
         .help = "kinds to compare: pq, opq, auto; scalar, at its own sizes"},
        {.name = "code-bytes",
         .kind = ARGS_U32_LIST,
         .target = &options.code_bytes,
         .value_name = "LIST",
         .help = "sizes to compare",
         .min = 1,
         .max = VECTOR_DIM_MAX},
        {.name = "query-count",
         .kind = ARGS_U32,
         .target = &options.query_count,
         .value_name = "N",
         .help = "how many of the queries to use",
         .min = 1},
        {.name = "seed",
         .kind = ARGS_U64,
         .target = &options.seed,
         .help = "seed of the sample and of training"},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &options.threads,
         .value_name = "N",
         .help = "threads; default: one a CPU",
         .min = 1,
         .max = CMD_THREADS_MAX},
        {.name = "json", .kind = ARGS_FLAG, .target = &options.json, .help = "one array"},
    };
    const struct args_spec spec = {
        .program = "nightjar codes",
        .summary = "Compare codecs and code sizes on your vectors, before an index is built.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "Columns @N: share of the true 10 nearest among the first N by code distance.\n"
                  "A search with list L finds about what column @L says, and no more.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    struct codes_run run = {
        .options = &options, .metric = metric_parse(options.metric), .first = true};
    if (!codecs_parse(&run, err))
        return CMD_USAGE;
    if (options.threads > 0)
        omp_set_num_threads((int)options.threads);
    enum status status = codes_measure(&run, err);
    if (run.codes != NULL)
        bulk_free(run.codes, run.shape.count, run.codes_bytes);
    ground_truth_free(&run.truth);
    cmd_queries_free(&run.queries);
    vector_file_close(run.file);
    return cmd_outcome_of(status);
}
