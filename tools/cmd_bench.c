/*
 * cmd_bench.c - `nightjar bench`: recall, throughput, latency and work per query over a ladder of
 * search lists and stop ratios; parsing and reporting. The loops that drive the queries are in
 * cmd_bench_local.c and cmd_bench_socket.c.
 */
#include "tools/cmd_bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "query/client.h"
#include "tools/top.h"

enum {
    RATIOS_MAX = 32,
    CONCURRENCY_MAX = 4096,
};

struct options {
    struct cmd_search_options common;
    const char *groundtruth;
    const char *io;
    const char *ratio_text;
    struct args_u32_list search_lists;
    double ratios[RATIOS_MAX];
    uint32_t ratio_count;
    uint32_t concurrency;
    double rate;
    double duration_s;
    double warmup_s;
    bool json;
};

/* The system under test and what every point of the curve shares. */
struct bench {
    const struct options *options;
    struct cmd_local local;     /* --index */
    struct bench_socket socket; /* --socket */
    struct cmd_target target;
    struct cmd_queries queries;
    struct ground_truth truth;
    struct range_truth within; /* in its place, with a radius */
    struct recall_answers answers;
    uint32_t threads; /* of the engine, wherever it is; 0: a daemon that does not tell */
    bool warned;      /* that hits are no rows */
};

void bench_result_merge(struct bench_result *to, const struct bench_result *from)
{
    latency_merge(&to->latency, &from->latency);
    to->chosen = from->chosen;
    to->sums.reads += from->sums.reads;
    to->sums.shared_reads += from->sums.shared_reads;
    to->sums.cache_hits += from->sums.cache_hits;
    to->sums.cpu_ns += from->sums.cpu_ns;
    to->sums.degraded += from->sums.degraded;
    to->sums.hops += from->sums.hops;
    to->sums.code_distances += from->sums.code_distances;
    to->sums.exact_distances += from->sums.exact_distances;
}

bool bench_wants(const struct bench_plan *plan, uint64_t number, uint64_t end_ns, uint64_t now_ns)
{
    return (plan->answers != NULL && number < plan->queries->count) || now_ns < end_ns;
}

/* ---- reporting ---- */

/* One point, ready to print. */
struct point {
    uint32_t search_list;
    double ratio; /* 0: none */
    double recall;
    double seconds;
    const struct bench_result *result;
};

static double per_query(const struct point *point, uint64_t sum)
{
    return (double)sum / (double)point->result->latency.count;
}

static double per_second(const struct point *point, uint64_t sum)
{
    return (double)sum / point->seconds;
}

/* A daemon does not tell which reads queries shared. */
static uint64_t device_reads(const struct bench_sums *sums)
{
    return sums->reads - sums->shared_reads;
}

static void print_table_head(const struct bench *bench)
{
    printf("%5s %6s %7s %9s %9s %9s %9s %9s %7s %7s %7s %9s", "L", "ratio", "recall", "qps",
           "mean_us", "p50_us", "p99_us", "p99.9_us", "reads", "cached", "cpu_us", "reads/s");
    if (bench->local.engine != NULL)
        printf(" %7s %6s %7s %7s", "shared", "hops", "codes", "exact");
    printf("\n");
}

static void print_table_row(const struct bench *bench, const struct point *point)
{
    const struct bench_result *result = point->result;
    char ratio[16] = "-";
    if (point->ratio != 0)
        snprintf(ratio, sizeof(ratio), "%.3f", point->ratio);
    printf("%5u %6s %7.4f %9.1f %9.1f %9.1f %9.1f %9.1f %7.2f %7.2f %7.1f %9.0f",
           point->search_list, ratio, point->recall, per_second(point, result->latency.count),
           latency_mean_us(&result->latency), latency_quantile_us(&result->latency, 0.5),
           latency_quantile_us(&result->latency, 0.99),
           latency_quantile_us(&result->latency, 0.999), per_query(point, result->sums.reads),
           per_query(point, result->sums.cache_hits), per_query(point, result->sums.cpu_ns) / 1000,
           per_second(point, device_reads(&result->sums)));
    if (bench->local.engine != NULL)
        printf(" %7.2f %6.1f %7.1f %7.1f", per_query(point, result->sums.shared_reads),
               per_query(point, result->sums.hops), per_query(point, result->sums.code_distances),
               per_query(point, result->sums.exact_distances));
    if (result->sums.degraded > 0)
        printf("  %" PRIu64 " degraded", result->sums.degraded);
    printf("\n");
    fflush(stdout);
}

static void print_json(const struct bench *bench, const struct point *point)
{
    const struct options *options = bench->options;
    const struct bench_result *result = point->result;
    const struct bench_sums *sums = &result->sums;
    printf("{\"search_list\":%u,\"recall\":%.6f,\"qps\":%.2f,\"mean_us\":%.2f,\"p50_us\":%.2f,"
           "\"p99_us\":%.2f,\"reads_per_query\":%.4f,\"cache_hits_per_query\":%.4f,"
           "\"cpu_us_per_query\":%.2f,\"threads\":%u,\"concurrency\":%u",
           point->search_list, point->recall, per_second(point, result->latency.count),
           latency_mean_us(&result->latency), latency_quantile_us(&result->latency, 0.5),
           latency_quantile_us(&result->latency, 0.99), per_query(point, sums->reads),
           per_query(point, sums->cache_hits), per_query(point, sums->cpu_ns) / 1000,
           bench->threads, options->concurrency);
    printf(",\"k\":%u,\"search_ratio\":%g,\"beam_width\":%u,\"rate\":%g,\"p999_us\":%.2f,"
           "\"reads_per_second\":%.1f,\"queries\":%" PRIu64 ",\"seconds\":%.3f,"
           "\"degraded\":%" PRIu64,
           options->common.k, point->ratio, options->common.beam_width, options->rate,
           latency_quantile_us(&result->latency, 0.999), per_second(point, device_reads(sums)),
           result->latency.count, point->seconds, sums->degraded);
    if (options->common.has_recall)
        printf(",\"recall_target\":%g,\"expected_recall\":%.6f", options->common.recall,
               (double)result->chosen.expected_recall);
    if (options->common.filter != NULL)
        printf(",\"match_estimate\":%" PRIu64, result->chosen.match_estimate);
    if (bench->local.engine != NULL) {
        struct index_memory memory = index_memory_of(bench->local.index);
        printf(",\"shared_reads_per_query\":%.4f,\"hops_per_query\":%.3f,\"code_distances_per_"
               "query\":%.2f,"
               "\"exact_distances_per_query\":%.2f,\"scalar_bits\":%u,\"code_bytes\":%u,"
               "\"codes_bytes\":%" PRIu64 ",\"navigation_bytes\":%" PRIu64
               ",\"attributes_bytes\":%" PRIu64 ",\"lists_bytes\":%" PRIu64
               ",\"cache_bytes\":%" PRIu64 ",\"cached_blocks\":%" PRIu64 ",\"resident\":%s",
               per_query(point, sums->shared_reads), per_query(point, sums->hops),
               per_query(point, sums->code_distances), per_query(point, sums->exact_distances),
               memory.scalar_bits, memory.code_bytes, memory.codes_bytes, memory.navigation_bytes,
               memory.attributes_bytes, memory.lists_bytes, memory.cache_bytes,
               memory.cached_blocks, memory.resident ? "true" : "false");
    }
    printf("}\n");
    fflush(stdout);
}

/* "33.5 MiB codes (4 bits a dimension, made at start), ..." */
static void print_memory(const struct index_memory *memory)
{
    printf("pinned: %.1f MiB codes (", (double)memory->codes_bytes / 0x1p20);
    if (memory->scalar_bits > 0)
        printf("%u bits a dimension, made at start", memory->scalar_bits);
    else
        printf("%u bytes a vector", memory->code_bytes);
    printf("), %.1f MiB navigation, ", (double)memory->navigation_bytes / 0x1p20);
    if (memory->attributes_bytes > 0)
        printf("%.1f MiB attributes, ", (double)memory->attributes_bytes / 0x1p20);
    if (memory->lists_bytes > 0)
        printf("%.1f MiB lists, ", (double)memory->lists_bytes / 0x1p20);
    printf("%.1f MiB cache (%" PRIu64 " blocks with %" PRIu64 " vectors%s)\n",
           (double)memory->cache_bytes / 0x1p20, memory->cached_blocks, memory->cached_nodes,
           memory->resident ? ": all of them, no reads" : "");
}

static void print_setting(const struct bench *bench)
{
    const struct options *options = bench->options;
    printf("%s: %" PRIu64 " %s vectors of %u dimensions, metric %s, %u queries, recall@%u, "
           "concurrency %u\n",
           bench->target.name, bench->target.vector_count, element_name(bench->target.type),
           bench->target.dim, metric_name(bench->target.metric), bench->queries.count,
           options->common.k, options->concurrency);
    if (bench->local.engine == NULL)
        return;
    struct index_memory memory = index_memory_of(bench->local.index);
    struct engine_stats stats;
    engine_stats_get(bench->local.engine, &stats);
    print_memory(&memory);
    printf("engine: %u threads, %s\n", stats.threads, stats.io);
}

/* ---- running ---- */

/* The daemon's worker threads, from its statistics; 0 when they do not say. */
static uint32_t daemon_threads(struct client *client)
{
    char *json = NULL;
    struct top_sample *sample = NULL;
    double threads = 0;
    struct error ignored;
    if (client_stats(client, CLIENT_STATS_JSON, &json, &ignored) == STATUS_OK &&
        top_sample_create(json, 0, &sample, &ignored) == STATUS_OK)
        threads = top_sample_number(sample, "engine", "threads");
    top_sample_destroy(sample);
    free(json);
    return threads > 0 && threads <= UINT32_MAX ? (uint32_t)threads : 0;
}

static enum status bench_connect(struct bench *bench, struct error *err)
{
    const struct options *options = bench->options;
    enum status status;
    if (options->common.socket != NULL) {
        status = bench_socket_open(&options->common, options->concurrency, &bench->socket, err);
        if (status != STATUS_OK)
            return status;
        struct client_index_info info = client_index(bench->socket.clients[0]);
        bench->target = (struct cmd_target){options->common.socket, info.vector_count, info.dim,
                                            info.type, info.metric};
        bench->threads = daemon_threads(bench->socket.clients[0]);
        return STATUS_OK;
    }
    struct cmd_local_params params = {.path = options->common.index,
                                      .memory = options->common.memory,
                                      .threads = options->common.threads,
                                      .in_flight = options->concurrency};
    if (strcmp(options->io, "uring") == 0)
        params.io_kind = BLOCK_IO_URING;
    else if (strcmp(options->io, "pool") == 0)
        params.io_kind = BLOCK_IO_POOL;
    status = cmd_local_open(&params, &bench->local, err);
    if (status != STATUS_OK)
        return status;
    bench->target = cmd_local_target(&bench->local);
    struct engine_stats stats;
    engine_stats_get(bench->local.engine, &stats);
    bench->threads = stats.threads;
    return STATUS_OK;
}

/* Exact answers of the kind that is asked for. */
static enum status truth_open(struct bench *bench, struct error *err)
{
    const char *path = bench->options->groundtruth;
    const uint64_t vectors = bench->target.vector_count;
    if (bench->options->common.within_radius) {
        enum status status = range_truth_read(path, &bench->within, err);
        return status == STATUS_OK
                   ? recall_range_check(path, &bench->within, &bench->answers, vectors, err)
                   : status;
    }
    enum status status = ground_truth_read(path, &bench->truth, err);
    return status == STATUS_OK
               ? recall_truth_check(path, &bench->truth, &bench->answers, vectors, err)
               : status;
}

static enum status bench_open(struct bench *bench, struct error *err)
{
    const struct options *options = bench->options;
    enum status status = bench_connect(bench, err);
    if (status != STATUS_OK)
        return status;
    status = cmd_target_check(&bench->target, options->common.k, err);
    if (status != STATUS_OK)
        return status;
    status = cmd_queries_load(options->common.queries, 0, &bench->target, &bench->queries, err);
    if (status != STATUS_OK)
        return status;
    status = recall_answers_create(&bench->answers, bench->queries.count, options->common.k, err);
    return status == STATUS_OK ? truth_open(bench, err) : status;
}

static void bench_close(struct bench *bench)
{
    recall_answers_destroy(&bench->answers);
    ground_truth_free(&bench->truth);
    range_truth_free(&bench->within);
    cmd_queries_free(&bench->queries);
    bench_socket_close(&bench->socket);
    cmd_local_close(&bench->local);
}

static enum status plan_run(struct bench *bench, const struct bench_plan *plan,
                            struct bench_result *result, struct error *err)
{
    return bench->local.engine != NULL ? bench_local_run(bench->local.engine, plan, result, err)
                                       : bench_socket_run(&bench->socket, plan, result, err);
}

/* Once: keys of a caller's are not the rows that ground truth has. */
static void keys_warn(struct bench *bench)
{
    if (bench->warned || recall_answers_are_rows(&bench->answers, bench->target.vector_count))
        return;
    bench->warned = true;
    fprintf(stderr,
            "nightjar: warning: %s: built with --keys: its hits are keys, the ground truth has "
            "rows, and recall says nothing\n",
            bench->target.name);
}

static enum status point_run(struct bench *bench, uint32_t search_list, double ratio,
                             struct error *err)
{
    const struct options *options = bench->options;
    struct bench_result result;
    struct bench_plan plan = {
        .queries = &bench->queries,
        .common = &options->common,
        .search_list = search_list,
        .search_ratio = (float)ratio,
        .concurrency = options->concurrency,
        .rate = options->rate,
        .min_ns = (uint64_t)(options->warmup_s * 1e9),
    };
    enum status status = STATUS_OK;
    if (plan.min_ns > 0)
        status = plan_run(bench, &plan, &result, err);
    if (status != STATUS_OK)
        return status;
    plan.min_ns = (uint64_t)(options->duration_s * 1e9);
    plan.answers = &bench->answers;
    status = plan_run(bench, &plan, &result, err);
    if (status != STATUS_OK)
        return status;

    keys_warn(bench);
    if (options->common.has_recall) {
        search_list = result.chosen.search_list;
        ratio = (double)result.chosen.search_ratio;
    }
    const double recall = options->common.within_radius
                              ? recall_measure_range(&bench->answers, &bench->within)
                              : recall_measure(&bench->answers, &bench->truth);
    const struct point point = {search_list, ratio, recall, (double)result.elapsed_ns * 1e-9,
                                &result};
    if (options->json)
        print_json(bench, &point);
    else
        print_table_row(bench, &point);
    return STATUS_OK;
}

static enum status bench_run(const struct options *options, struct error *err)
{
    struct bench bench = {.options = options};
    enum status status = bench_open(&bench, err);
    if (status == STATUS_OK && !options->json) {
        print_setting(&bench);
        print_table_head(&bench);
    }
    for (uint32_t r = 0; r < options->ratio_count; r++)
        for (uint32_t l = 0; status == STATUS_OK && l < options->search_lists.count; l++)
            status = point_run(&bench, options->search_lists.items[l], options->ratios[r], err);
    bench_close(&bench);
    return status;
}

/* ---- options ---- */

/* "1.05,1.1" into options->ratios; "0" is no early stop. */
static enum cmd_outcome parse_ratios(struct options *options, struct error *err)
{
    const char *text = options->ratio_text;
    for (;;) {
        char *end = NULL;
        if (options->ratio_count == RATIOS_MAX)
            return cmd_usage(err, "--search-ratio: more than %d ratios", RATIOS_MAX);
        double ratio = *text >= '0' && *text <= '9' ? strtod(text, &end) : -1;
        if (ratio < 0 || end == NULL || (*end != ',' && *end != '\0'))
            return cmd_usage(err, "--search-ratio: '%.100s' is not a list of decimal numbers",
                             options->ratio_text);
        options->ratios[options->ratio_count++] = ratio;
        if (*end == '\0')
            return CMD_OK;
        text = end + 1;
    }
}

static enum cmd_outcome check_options(struct options *options, struct error *err)
{
    enum cmd_outcome outcome = parse_ratios(options, err);
    if (outcome == CMD_OK && options->common.queries == NULL)
        return cmd_usage(err, "wanted --queries");
    /* One line, of a list to be chosen. */
    if (options->common.has_recall && options->search_lists.count == 0)
        options->search_lists = (struct args_u32_list){.count = 1};
    if (outcome == CMD_OK && options->search_lists.count == 0)
        return cmd_usage(err, "wanted either --search-list or --recall");
    if (outcome == CMD_OK && options->rate > 0 && options->common.socket != NULL)
        return cmd_usage(err, "--rate needs --index");
    for (uint32_t r = 0; outcome == CMD_OK && r < options->ratio_count; r++)
        for (uint32_t l = 0; outcome == CMD_OK && l < options->search_lists.count; l++)
            outcome = cmd_search_options_check(&options->common, options->search_lists.items[l],
                                               options->ratios[r], err);
    return outcome;
}

enum cmd_outcome cmd_bench(int argc, char **argv, struct error *err)
{
    struct options options = {.io = "auto", .ratio_text = "0", .concurrency = 1, .duration_s = 3};
    struct args_option table[CMD_SEARCH_OPTIONS + 9] = {
        [CMD_SEARCH_OPTIONS] = {.name = "groundtruth",
                                .kind = ARGS_STRING,
                                .target = &options.groundtruth,
                                .value_name = "T",
                                .help = "exact neighbours of the queries, as rows; with "
                                        "--radius, what groundtruth --radius writes",
                                .required = true},
        {.name = "search-list",
         .kind = ARGS_U32_LIST,
         .target = &options.search_lists,
         .value_name = "L,L...",
         .help = "candidates the search keeps: one line each",
         .min = 1,
         .max = ENGINE_SEARCH_LIST_MAX},
        {.name = "search-ratio",
         .kind = ARGS_STRING,
         .target = &options.ratio_text,
         .value_name = "T,T...",
         .help = "stop early beyond this ratio, 0: never"},
        {.name = "concurrency",
         .kind = ARGS_U32,
         .target = &options.concurrency,
         .value_name = "C",
         .help = "queries in flight",
         .min = 1,
         .max = CONCURRENCY_MAX},
        {.name = "rate",
         .kind = ARGS_DOUBLE,
         .target = &options.rate,
         .value_name = "QPS",
         .help = "with --index: queries arrive at random, so many a second, at most C in flight; "
                 "default: each as another completes",
         .min = 0,
         .max = 1e9},
        {.name = "duration",
         .kind = ARGS_DOUBLE,
         .target = &options.duration_s,
         .value_name = "S",
         .help = "least seconds a line; each query runs at least once",
         .min = 0,
         .max = 86400},
        {.name = "warmup",
         .kind = ARGS_DOUBLE,
         .target = &options.warmup_s,
         .value_name = "S",
         .help = "seconds not measured, before each line",
         .min = 0,
         .max = 86400},
        {.name = "io",
         .kind = ARGS_STRING,
         .target = &options.io,
         .choices = "auto|uring|pool",
         .help = "with --index: how blocks are read"},
        {.name = "json", .kind = ARGS_FLAG, .target = &options.json, .help = "one object a line"},
    };
    cmd_search_options_init(&options.common, table);
    const struct args_spec spec = {
        .program = "nightjar bench",
        .summary = "Measure recall, throughput and latency of a daemon or an index.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "Latencies run from submission to completion; with --rate, from when a query\n"
                  "was due. cpu_us is the time a worker spent on the query. A hit as near as\n"
                  "the k-th true neighbour counts as right. With --filter the ground truth is\n"
                  "that of the vectors that match. It has rows: of an index that was built with\n"
                  "--keys, whose hits are keys, no recall can be measured.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    outcome = check_options(&options, err);
    return outcome != CMD_OK ? outcome : cmd_outcome_of(bench_run(&options, err));
}
