/*
 * build_main.c - nightjar-build: command line, signals and summary around build.h.
 *
 * SIGINT, SIGTERM and SIGHUP ask the build to stop; it undoes what it wrote and the program exits
 * with 1. SIGPIPE and SIGXFSZ are ignored so that a closed terminal or a file size limit comes
 * back as an error of write(2), which is undone the same way.
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
#include "common/args.h"

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
    bool plan;
    bool json;
};

static enum args_result options_parse(int argc, char **argv, struct options *o, struct error *err)
{
    struct build_params *p = &o->params;
    const struct args_option table[] = {
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &p->input,
         .value_name = "FILE",
         .help = "vectors to index (.u8bin .i8bin .fbin .f16bin .bvecs .fvecs .npy)",
         .required = true},
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
        {.name = "keys",
         .kind = ARGS_STRING,
         .target = &p->keys,
         .value_name = "FILE",
         .help = "u64 key of each vector (.u64bin); else its row number"},
        {.name = "degree",
         .kind = ARGS_U32,
         .target = &p->degree,
         .value_name = "R",
         .help = "most neighbours a node keeps",
         .min = BUILD_DEGREE_MIN,
         .max = BUILD_DEGREE_MAX},
        {.name = "build-list",
         .kind = ARGS_U32,
         .target = &p->build_list,
         .value_name = "L",
         .help = "candidates kept while a node is inserted",
         .min = 1,
         .max = BUILD_LIST_MAX},
        {.name = "alpha",
         .kind = ARGS_DOUBLE,
         .target = &p->alpha,
         .help = "how much nearer a neighbour must be to stand for another",
         .min = 1,
         .max = BUILD_ALPHA_MAX},
        {.name = "code-bytes",
         .kind = ARGS_U32,
         .target = &p->code_bytes,
         .value_name = "BYTES",
         .help = "compressed size of a vector, at most its dimension",
         .min = 1,
         .max = VECTOR_DIM_MAX},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &p->memory_bytes,
         .value_name = "BYTES",
         .help = "most memory the build may take (4G); else what the machine has",
         .min = 1},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &p->threads,
         .value_name = "N",
         .help = "threads; else one a CPU",
         .min = 1,
         .max = BUILD_THREADS_MAX},
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
        {.name = "plan",
         .kind = ARGS_FLAG,
         .target = &o->plan,
         .help = "print memory, disk and time of each stage and exit; writes nothing"},
        {.name = "json", .kind = ARGS_FLAG, .target = &o->json, .help = "print one JSON object"},
        {.name = "quiet", .kind = ARGS_FLAG, .target = &p->quiet, .help = "no progress on stderr"},
    };
    const struct args_spec spec = {
        .program = PROGRAM,
        .summary = "builds an index generation from a file of vectors",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "A generation is written whole or not at all, and the same input, parameters and "
                  "seed give\nthe same bytes at any --threads.",
    };
    enum args_result result = args_parse(&spec, argc, argv, NULL, err);
    if (result == ARGS_RUN && p->output == NULL && !o->plan) {
        (void)error_set(err, STATUS_INVALID, "--output is required");
        return ARGS_USAGE;
    }
    if (result == ARGS_RUN && p->block_bytes % BLOCK_PAGE_BYTES != 0) {
        (void)error_set(err, STATUS_INVALID, "--block-bytes %u: a multiple of %d is wanted",
                        p->block_bytes, BLOCK_PAGE_BYTES);
        return ARGS_USAGE;
    }
    p->metric = metric_parse(o->metric);
    return result;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static void summary_print_json(const struct build_summary *summary)
{
    const struct manifest *m = &summary->manifest;
    const struct build_report *r = &summary->report;

    printf("{\"generation_id\": \"%016llx%016llx\", \"vectors\": %llu, \"dim\": %u, ",
           (unsigned long long)m->generation_id.high, (unsigned long long)m->generation_id.low,
           (unsigned long long)m->vector_count, m->dim);
    printf("\"type\": \"%s\", \"metric\": \"%s\", \"seconds\": %.3f, \"cpu_seconds\": %.3f, ",
           element_name(m->type), metric_name(m->metric), r->total.wall_s, r->total.cpu_s);
    printf("\"threads\": %u, \"points_per_second_core\": %.1f, \"peak_rss_bytes\": %llu, ",
           r->threads, r->points_per_second_core, (unsigned long long)r->total.peak_rss_bytes);
    printf("\"disk_bytes\": %llu, \"block_bytes\": %u, \"blocks\": %llu, \"nodes_per_block\": %u, ",
           (unsigned long long)summary->disk_bytes, m->geometry.block_bytes,
           (unsigned long long)m->block_count, m->geometry.nodes_per_block);
    printf("\"block_mate_share\": %.4f, \"mean_degree\": %.3f, \"trimmed_edges\": %llu, ",
           m->block_mate_share, m->mean_degree, (unsigned long long)m->trimmed_edges);
    printf("\"repaired_nodes\": %llu, \"duplicate_vectors\": %llu}\n",
           (unsigned long long)m->repaired_nodes, (unsigned long long)m->duplicate_vectors);
}

static void summary_print(const struct options *o, const struct build_summary *summary)
{
    const struct manifest *m = &summary->manifest;
    const struct build_report *r = &summary->report;

    printf("%s: generation %016llx%016llx\n", o->params.output,
           (unsigned long long)m->generation_id.high, (unsigned long long)m->generation_id.low);
    printf("  vectors  %llu x %u %s, %s, %llu duplicates\n", (unsigned long long)m->vector_count,
           m->dim, element_name(m->type), metric_name(m->metric),
           (unsigned long long)m->duplicate_vectors);
    printf("  graph    degree %u, mean %.1f; %llu nodes repaired\n", m->degree, m->mean_degree,
           (unsigned long long)m->repaired_nodes);
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
    printf("{\"vectors\": %llu, \"dim\": %u, \"type\": \"%s\", \"threads\": %u, ",
           (unsigned long long)plan->shape.count, plan->shape.dim, element_name(plan->shape.type),
           plan->threads);
    printf("\"memory_bytes\": %llu, \"disk_bytes\": %llu, \"seconds\": %.1f, \"stages\": {",
           (unsigned long long)plan->size.memory_bytes, (unsigned long long)plan->size.disk_bytes,
           plan->total_s);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        printf("%s\"%s\": {\"memory_bytes\": %llu, \"disk_bytes\": %llu, \"seconds\": %.1f}",
               stage > 0 ? ", " : "", build_stage_name((enum build_stage)stage),
               (unsigned long long)plan->size.stage_memory_bytes[stage],
               (unsigned long long)plan->size.stage_disk_bytes[stage], plan->stage_s[stage]);
    }
    printf("}}\n");
}

static void plan_print(const struct options *o, const struct build_plan *plan)
{
    printf("%s: %llu x %u %s, %u threads; times scaled from %u rows\n", o->params.input,
           (unsigned long long)plan->shape.count, plan->shape.dim, element_name(plan->shape.type),
           plan->threads, plan->calibration_rows);
    printf("  %-11s %12s %12s %10s\n", "stage", "memory MiB", "disk MiB", "seconds");
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        printf("  %-11s %12.1f %12.1f %10.1f\n", build_stage_name((enum build_stage)stage),
               mib(plan->size.stage_memory_bytes[stage]), mib(plan->size.stage_disk_bytes[stage]),
               plan->stage_s[stage]);
    }
    printf("  %-11s %12.1f %12.1f %10.1f\n", "build", mib(plan->size.memory_bytes),
           mib(plan->size.disk_bytes), plan->total_s);
}

static enum status run(const struct options *o, struct error *err)
{
    if (o->plan) {
        struct build_plan plan;
        enum status status = build_plan_make(&o->params, &plan, err);
        if (status != STATUS_OK)
            return status;
        if (o->json)
            plan_print_json(&plan);
        else
            plan_print(o, &plan);
    } else {
        struct build_summary summary;
        enum status status = build_run_summary(&o->params, &summary, err);
        if (status != STATUS_OK)
            return status;
        if (o->json)
            summary_print_json(&summary);
        else
            summary_print(o, &summary);
    }
    if (fflush(stdout) != 0)
        return error_set(err, STATUS_IO, "standard output: cannot write the summary");
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
                   .codec = CODEC_PQ,
                   .code_bytes = 32,
                   .seed = 1,
                   .navigation_share = 0.01,
                   .cancel = &stop_requested},
        .metric = "l2",
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
    if (run(&options, &err) != STATUS_OK) {
        fprintf(stderr, PROGRAM ": %s\n", err.text);
        return 1;
    }
    return 0;
}
