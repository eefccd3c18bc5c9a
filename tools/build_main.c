/*
 * build_main.c - nightjar-build: command line, signals and summary around build.h.
 *
 * SIGINT, SIGTERM and SIGHUP ask the build to stop; finished pieces stay for another run and the
 * program exits with 1. SIGPIPE and SIGXFSZ are ignored so that a closed terminal or a file size
 * limit comes back as an error of write(2).
 */
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/build.h"
#include "builder/build_plan.h"
#include "builder/work.h"
#include "common/args.h"
#include "tools/calibrate.h"

#define PROGRAM "nightjar-build"

/* Set by signal handlers: a lock-free atomic is all they may touch. */
static atomic_int stop_requested;

static void on_stop_signal(int signal_number)
{
    (void)signal_number;
    atomic_store_explicit(&stop_requested, 1, memory_order_relaxed);
}

static void signals_install(void)
{
    struct sigaction stop = {.sa_handler = on_stop_signal, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    sigemptyset(&stop.sa_mask);
    sigemptyset(&ignore.sa_mask);
    (void)sigaction(SIGINT, &stop, NULL);
    (void)sigaction(SIGTERM, &stop, NULL);
    (void)sigaction(SIGHUP, &stop, NULL);
    (void)sigaction(SIGPIPE, &ignore, NULL);
    (void)sigaction(SIGXFSZ, &ignore, NULL);
}

struct options {
    struct build_params params;
    const char *metric;
    const char *store;
    const char *codec;
    const char *graph;
    const char *stage;
    const char *type;
    uint64_t count;
    uint32_t dim;
    bool type_given;
    uint32_t shard;
    bool shard_given;
    const char *numa;
    const char *calibrate;
    bool plan;
    bool json;
};

static enum args_result usage(struct error *err, const char *text)
{
    (void)error_set(err, STATUS_INVALID, "%s", text);
    return ARGS_USAGE;
}

/* "i8" stands for i8 with a scale a vector: what else can be stored of floats. */
static enum element_type store_parse(const char *word)
{
    return strcmp(word, "same") == 0 ? ELEMENT_NONE
           : strcmp(word, "i8") == 0 ? ELEMENT_I8S
                                     : element_parse(word);
}

/* What no single option can tell. */
static enum args_result options_check(struct options *o, struct error *err)
{
    struct build_params *p = &o->params;
    bool made_up = o->count != 0 || o->dim != 0 || o->type_given;

    if (o->plan && p->input == NULL && (o->count == 0 || o->dim == 0))
        return usage(err, "--plan needs --input, or --count and --dim");
    if (made_up && (!o->plan || p->input != NULL))
        return usage(err, "--count, --dim and --type are for --plan without --input");
    if (!o->plan && p->input == NULL)
        return usage(err, "--input is required");
    if (!o->plan && p->output == NULL)
        return usage(err, "--output is required");
    if (p->block_bytes % BLOCK_PAGE_BYTES != 0) {
        (void)error_set(err, STATUS_INVALID, "--block-bytes %u: a multiple of %d is wanted",
                        p->block_bytes, BLOCK_PAGE_BYTES);
        return ARGS_USAGE;
    }
    if (o->shard_given && o->stage == NULL)
        return usage(err, "--shard is for --stage");
    p->metric = metric_parse(o->metric);
    p->store = store_parse(o->store);
    p->codec = codec_kind_parse(o->codec);
    graph_kind_parse(o->graph, &p->graph); /* one of the choices */
    if (p->codec != CODEC_SCALAR && p->code_bytes == 0)
        p->code_bytes = 32;
    p->numa = strcmp(o->numa, "on") == 0;
    p->calibrate = strcmp(o->calibrate, "on") == 0 ? calibrate_run : NULL;
    if (p->calibrate == NULL && p->tune_queries != NULL)
        return usage(err, "--tune-queries needs --calibrate on");
    p->one_stage = o->stage != NULL;
    p->shard = o->shard_given ? o->shard : WORK_WHOLE;
    for (unsigned stage = 0; p->one_stage && stage < BUILD_STAGE_COUNT; stage++)
        if (strcmp(o->stage, build_stage_name((enum build_stage)stage)) == 0)
            p->stage = (enum build_stage)stage;
    return ARGS_RUN;
}

static enum args_result options_parse(int argc, char **argv, struct options *o, struct error *err)
{
    struct build_params *p = &o->params;
    const struct args_option table[] = {
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &p->input,
         .value_name = "FILE",
         .help = "vectors to index (.u8bin .i8bin .fbin .f16bin .bvecs .fvecs .npy)"},
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &p->output,
         .value_name = "DIR",
         .help = "generation directory to create"},
        {.name = "metric",
         .kind = ARGS_STRING,
         .target = &o->metric,
         .choices = "l2|ip|cosine",
         .help = "distance"},
        {.name = "store",
         .kind = ARGS_STRING,
         .target = &o->store,
         .choices = "same|f16|bf16|i8",
         .help = "what f32 (or, as bf16 and i8, f16) vectors are stored as; queries stay as the "
                 "input is"},
        {.name = "keys",
         .kind = ARGS_STRING,
         .target = &p->keys,
         .value_name = "FILE",
         .help = "u64 key of each vector (.u64bin); else its row number"},
        {.name = "attributes",
         .kind = ARGS_STRING,
         .target = &p->attributes,
         .value_name = "FILE",
         .help = "values to filter by, a CSV line for each vector below one of NAME:TYPE, "
                 "type u64, i64 or labels (a|b)"},
        {.name = "degree",
         .kind = ARGS_U32,
         .target = &p->degree,
         .value_name = "R",
         .help = "most neighbours a node keeps",
         .min = BUILD_DEGREE_MIN,
         .max = BUILD_DEGREE_MAX},
        {.name = "graph",
         .kind = ARGS_STRING,
         .target = &o->graph,
         .choices = "pipnn|vamana",
         .help = "how a node's neighbours are found"},
        {.name = "build-list",
         .kind = ARGS_U32,
         .target = &p->build_list,
         .value_name = "L",
         .help = "vamana: candidates kept while a node is inserted",
         .min = 1,
         .max = BUILD_LIST_MAX},
        {.name = "alpha",
         .kind = ARGS_DOUBLE,
         .target = &p->alpha,
         .help = "how much nearer a neighbour must be to stand for another",
         .min = 1,
         .max = BUILD_ALPHA_MAX},
        {.name = "codec",
         .kind = ARGS_STRING,
         .target = &o->codec,
         .choices = "auto|pq|opq|scalar",
         .help = "how vectors are compressed; auto: pq or opq, what finds most on a sample"},
        {.name = "code-bytes",
         .kind = ARGS_U32,
         .target = &p->code_bytes,
         .value_name = "BYTES",
         .help = "compressed size of a vector: pq at most its dimension, else 32; scalar 1, 2 or 4 "
                 "bits a dimension and 2 bytes, else 4 bits",
         .min = 1,
         .max = VECTOR_DIM_MAX},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &p->memory_bytes,
         .value_name = "BYTES",
         .help = "most memory the build may take (4G); else what the machine has",
         .min = 1},
        {.name = "shards",
         .kind = ARGS_U32,
         .target = &p->shards,
         .value_name = "N",
         .help = "parts the input is built in; else as few as the memory allows",
         .min = 1,
         .max = PARTITION_SHARDS_MAX},
        {.name = "replication",
         .kind = ARGS_DOUBLE,
         .target = &p->replication,
         .value_name = "MEAN",
         .help = "shards a vector is built in, on average and at most, where there are several",
         .min = 1,
         .max = BUILD_REPLICATION_MAX},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &p->threads,
         .value_name = "N",
         .help = "threads; else one a CPU",
         .min = 1,
         .max = BUILD_THREADS_MAX},
        {.name = "numa",
         .kind = ARGS_STRING,
         .target = &o->numa,
         .choices = "on|off",
         .help = "build a shard in the memory and on the CPUs of one NUMA node"},
        {.name = "seed",
         .kind = ARGS_U64,
         .target = &p->seed,
         .help = "seed of all random choices"},
        {.name = "block-bytes",
         .kind = ARGS_U32,
         .target = &p->block_bytes,
         .value_name = "BYTES",
         .help = "size of a block, a multiple of 4096; else what one record needs",
         .min = 4096,
         .max = BLOCK_BYTES_MAX},
        {.name = "navigation",
         .kind = ARGS_DOUBLE,
         .target = &p->navigation_share,
         .value_name = "SHARE",
         .help = "share of the nodes in the navigation graph",
         .max = 1},
        {.name = "calibrate",
         .kind = ARGS_STRING,
         .target = &o->calibrate,
         .choices = "on|off",
         .help = "measure what searches find, without which nobody can ask for a recall: a tenth "
                 "of the time"},
        {.name = "tune-queries",
         .kind = ARGS_STRING,
         .target = &p->tune_queries,
         .value_name = "FILE",
         .help =
             "queries like those to come, where they are unlike the vectors: recall targets are "
             "met on them"},
        {.name = "work",
         .kind = ARGS_STRING,
         .target = &p->work,
         .value_name = "DIR",
         .help = "directory for finished pieces; else OUTPUT.work"},
        {.name = "keep-work",
         .kind = ARGS_FLAG,
         .target = &p->keep_work,
         .help = "do not remove it"},
        {.name = "stage",
         .kind = ARGS_STRING,
         .target = &o->stage,
         .choices =
             "ingest|train|sample|partition|graph|merge|geometry|pack|navigation|write|keys|check",
         .help = "run this stage alone; those before it must be finished"},
        {.name = "shard",
         .kind = ARGS_U32,
         .target = &o->shard,
         .given = &o->shard_given,
         .value_name = "S",
         .help = "of a graph, merge, pack or write stage only this shard, from 0",
         .max = PARTITION_SHARDS_MAX - 1},
        {.name = "plan",
         .kind = ARGS_FLAG,
         .target = &o->plan,
         .help = "print shards, memory, disk and time of each stage and exit; writes nothing"},
        {.name = "count",
         .kind = ARGS_U64,
         .target = &o->count,
         .help = "with --plan and no input: vectors there will be (1e9)"},
        {.name = "dim",
         .kind = ARGS_U32,
         .target = &o->dim,
         .help = "likewise their dimension",
         .max = VECTOR_DIM_MAX},
        {.name = "type",
         .kind = ARGS_STRING,
         .target = &o->type,
         .choices = "u8|i8|f16|f32",
         .help = "likewise their element type",
         .given = &o->type_given},
        {.name = "json", .kind = ARGS_FLAG, .target = &o->json, .help = "print one JSON object"},
        {.name = "quiet", .kind = ARGS_FLAG, .target = &p->quiet, .help = "no progress on stderr"},
    };
    const struct args_spec spec = {
        .program = PROGRAM,
        .summary = "builds an index generation from a file of vectors",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog =
            "A generation is written whole or not at all. The same input, parameters, number "
            "of shards\nand seed give the same bytes at any --threads. A build that was "
            "killed or ran out of disk\ngoes on where it stopped when the same command is run "
            "again.",
    };
    enum args_result result = args_parse(&spec, argc, argv, NULL, err);
    return result == ARGS_RUN ? options_check(o, err) : result;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

enum { TYPES_BYTES = 32 };

/* "f32", or "f32 stored as f16". */
static const char *types_name(enum element_type given, enum element_type stored, char *text)
{
    if (given == stored)
        return element_name(given);
    snprintf(text, TYPES_BYTES, "%s stored as %s", element_name(given), element_name(stored));
    return text;
}

static void summary_print_json(const struct build_summary *summary)
{
    const struct manifest *m = &summary->manifest;
    const struct build_report *r = &summary->report;

    printf("{\"generation_id\": \"%016llx%016llx\", \"vectors\": %llu, \"dim\": %u, ",
           (unsigned long long)m->generation_id.high, (unsigned long long)m->generation_id.low,
           (unsigned long long)m->vector_count, m->dim);
    printf("\"type\": \"%s\", \"query_type\": \"%s\", \"metric\": \"%s\", ", element_name(m->type),
           element_name(m->query_type), metric_name(m->metric));
    printf("\"seconds\": %.3f, \"cpu_seconds\": %.3f, ", r->total.wall_s, r->total.cpu_s);
    printf("\"threads\": %u, \"points_per_second_core\": %.1f, \"peak_rss_bytes\": %llu, ",
           r->threads, r->points_per_second_core, (unsigned long long)r->total.peak_rss_bytes);
    printf("\"disk_bytes\": %llu, \"block_bytes\": %u, \"blocks\": %llu, \"nodes_per_block\": %u, ",
           (unsigned long long)summary->disk_bytes, m->geometry.block_bytes,
           (unsigned long long)m->block_count, m->geometry.nodes_per_block);
    printf("\"block_mate_share\": %.4f, \"mean_degree\": %.3f, \"trimmed_edges\": %llu, ",
           m->block_mate_share, m->mean_degree, (unsigned long long)m->trimmed_edges);
    printf("\"repaired_nodes\": %llu, \"duplicate_vectors\": %llu, ",
           (unsigned long long)m->repaired_nodes, (unsigned long long)m->duplicate_vectors);
    printf("\"shards\": %u, \"replication\": %.4f, \"reached_nodes\": %llu, ", m->shard_count,
           r->replication, (unsigned long long)r->reached_nodes);
    printf("\"lid\": %.2f, \"recall_curves\": %u}\n", m->lid, m->curve_count);
}

static void summary_print(const struct options *o, const struct build_summary *summary)
{
    const struct manifest *m = &summary->manifest;
    const struct build_report *r = &summary->report;
    char types[TYPES_BYTES];

    printf("%s: generation %016llx%016llx\n", o->params.output,
           (unsigned long long)m->generation_id.high, (unsigned long long)m->generation_id.low);
    printf("  vectors  %llu x %u %s, %s, %llu duplicates\n", (unsigned long long)m->vector_count,
           m->dim, types_name(m->query_type, m->type, types), metric_name(m->metric),
           (unsigned long long)m->duplicate_vectors);
    printf("  shards   %u, a vector is built in %.3f on average\n", m->shard_count, r->replication);
    printf("  graph    degree %u, mean %.1f; %llu nodes repaired; %llu of %llu nodes reached\n",
           m->degree, m->mean_degree, (unsigned long long)m->repaired_nodes,
           (unsigned long long)r->reached_nodes, (unsigned long long)m->vector_count);
    char codec[CODEC_CHOICE_TEXT_BYTES];
    codec_choice_describe(&r->codec, codec);
    /* A generation that an earlier run finished has left no record of the choice. */
    printf("  codec    %s\n", r->codec.kind != CODEC_NONE ? codec : codec_kind_name(m->codec_kind));
    printf("  blocks   %llu of %u bytes, %u nodes each; %.3f of block-mates are neighbours; "
           "%llu edges trimmed\n",
           (unsigned long long)m->block_count, m->geometry.block_bytes, m->geometry.nodes_per_block,
           m->block_mate_share, (unsigned long long)m->trimmed_edges);
    printf("  disk     %.1f MiB, of it codes %.1f MiB\n", mib(summary->disk_bytes),
           mib(m->files[GENERATION_CODES].bytes));
    printf("  took     %.1f s, %.1f CPU s on %u threads, %.0f points/s/core, peak RSS %.1f MiB\n",
           r->total.wall_s, r->total.cpu_s, r->threads, r->points_per_second_core,
           mib(r->total.peak_rss_bytes));
}

static void plan_print_json(const struct build_plan *plan)
{
    const struct build_size *size = &plan->size;
    printf("{\"vectors\": %llu, \"dim\": %u, \"type\": \"%s\", \"query_type\": \"%s\", ",
           (unsigned long long)plan->shape.count, plan->shape.dim, element_name(plan->shape.type),
           element_name(plan->given));
    printf("\"block_bytes\": %llu, \"nodes_per_block\": %llu, \"threads\": %u, ",
           (unsigned long long)size->block_bytes, (unsigned long long)size->nodes_per_block,
           plan->threads);
    printf("\"fits\": %s, \"limit_bytes\": %llu, \"shards\": %u, \"replication\": %.3f, "
           "\"lanes\": %u, ",
           plan->fits ? "true" : "false", (unsigned long long)plan->limit_bytes, size->shard_count,
           size->replication, plan->lanes);
    if (plan->attributes.file_bytes != 0)
        printf("\"attributes\": {\"file_bytes\": %llu, \"number_columns\": %u, "
               "\"label_columns\": %u}, ",
               (unsigned long long)plan->attributes.file_bytes, plan->attributes.number_columns,
               plan->attributes.label_columns);
    printf("\"memory_bytes\": %llu, \"scratch_bytes\": %llu, \"disk_bytes\": %llu, "
           "\"seconds\": %.1f, \"stages\": {",
           (unsigned long long)build_size_peak_bytes(size, plan->lanes),
           (unsigned long long)size->scratch_bytes, (unsigned long long)size->disk_bytes,
           plan->total_s);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        printf(
            "%s\"%s\": {\"memory_bytes\": %llu, \"disk_bytes\": %llu, \"seconds\": %.1f}",
            stage > 0 ? ", " : "", build_stage_name((enum build_stage)stage),
            (unsigned long long)build_size_stage_bytes(size, (enum build_stage)stage, plan->lanes),
            (unsigned long long)size->stage_disk_bytes[stage], plan->stage_s[stage]);
    }
    printf("}}\n");
}

static void plan_print(const struct options *o, const struct build_plan *plan)
{
    const struct build_size *size = &plan->size;
    char types[TYPES_BYTES];
    printf("%s: %llu x %u %s, %u threads; times scaled from %u rows\n",
           o->params.input != NULL ? o->params.input : "made-up vectors",
           (unsigned long long)plan->shape.count, plan->shape.dim,
           types_name(plan->given, plan->shape.type, types), plan->threads, plan->calibration_rows);
    printf(
        "  %u shard%s of at most %llu own and %llu borrowed vectors, replication %.2f; %u at work "
        "at a time\n",
        size->shard_count, size->shard_count == 1 ? "" : "s", (unsigned long long)size->own_max,
        (unsigned long long)size->borrowed_max, size->replication, plan->lanes);
    printf("  blocks of some %llu bytes, %llu node%s each\n", (unsigned long long)size->block_bytes,
           (unsigned long long)size->nodes_per_block, size->nodes_per_block == 1 ? "" : "s");
    printf("  %-11s %12s %12s %10s\n", "stage", "memory MiB", "disk MiB", "seconds");
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        printf("  %-11s %12.1f %12.1f %10.1f\n", build_stage_name((enum build_stage)stage),
               mib(build_size_stage_bytes(size, (enum build_stage)stage, plan->lanes)),
               mib(size->stage_disk_bytes[stage]), plan->stage_s[stage]);
    }
    printf("  %-11s %12.1f %12.1f %10.1f\n", "build", mib(build_size_peak_bytes(size, plan->lanes)),
           mib(size->disk_bytes), plan->total_s);
    if (plan->attributes.file_bytes != 0)
        printf("  attributes  %u columns of numbers, %u of labels, a file of %.1f MiB: in the "
               "stages ingest and navigation\n",
               plan->attributes.number_columns, plan->attributes.label_columns,
               mib(plan->attributes.file_bytes));
    printf("  scratch     %.1f MiB in the work directory, at most\n", mib(size->scratch_bytes));
    if (!plan->fits)
        printf("  it does not fit %.1f MiB: that is the smallest budget that would do\n",
               mib(plan->limit_bytes));
}

static enum status plan_run(const struct options *o, struct error *err)
{
    struct vector_shape shape = {.count = o->count, .dim = o->dim, .type = element_parse(o->type)};
    struct build_plan plan;
    enum status status = build_plan_make(&o->params, &shape, &plan, err);
    if (status != STATUS_OK)
        return status;
    if (o->json)
        plan_print_json(&plan);
    else
        plan_print(o, &plan);
    return STATUS_OK;
}

static enum status run(const struct options *o, struct error *err)
{
    struct build_summary summary = {0};
    enum status status = o->plan ? plan_run(o, err) : build_run(&o->params, &summary, err);
    if (status != STATUS_OK) {
        fprintf(stderr, PROGRAM ": %s\n", err->text);
        if (summary.kept)
            fprintf(stderr,
                    PROGRAM ": finished work is kept in %s: the same command goes on from there\n",
                    summary.work_path);
        return status;
    }
    if (summary.finished && o->json)
        summary_print_json(&summary);
    else if (summary.finished)
        summary_print(o, &summary);
    char warning[CALIBRATE_WARNING_BYTES];
    if (summary.finished && calibrate_warning(&summary.manifest, warning))
        fprintf(stderr, PROGRAM ": warning: %s: %s\n", o->params.output, warning);
    if (fflush(stdout) != 0) {
        fputs(PROGRAM ": standard output: cannot write the summary\n", stderr);
        return STATUS_IO;
    }
    return STATUS_OK;
}

/* OpenMP's threads spin at barriers by default, which starves the others when another process wants
 * the CPUs too: a busy machine then packs 30 times slower. Sleeping costs nothing measurable. The
 * runtime reads its policy before main(), hence the second start. */
static void wait_passively(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") != NULL)
        return;
    if (setenv("OMP_WAIT_POLICY", "passive", 1) == 0)
        (void)execv("/proc/self/exe", argv); /* where it fails: build all the same */
}

int main(int argc, char **argv)
{
    wait_passively(argv);
    struct options options = {
        .params = {.degree = 64,
                   .build_list = 100,
                   .alpha = 1.2,
                   .seed = 1,
                   .replication = 1.8,
                   .navigation_share = 0.01,
                   .cancel = &stop_requested},
        .metric = "l2",
        .store = "same",
        .codec = "auto",
        .graph = "pipnn",
        .type = "u8",
        .numa = "on",
        .calibrate = "on",
    };
    struct error err;

    switch (options_parse(argc, argv, &options, &err)) {
    case ARGS_DONE:
        return 0;
    case ARGS_USAGE:
        fprintf(stderr, PROGRAM ": %s\n", err.text);
        return 2;
    case ARGS_RUN:
        break;
    }
    signals_install();
    return run(&options, &err) == STATUS_OK ? 0 : 1;
}
