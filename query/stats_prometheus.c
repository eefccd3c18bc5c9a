/*
 * stats_prometheus.c - see stats.h: Prometheus' text exposition format, version 0.0.4. Pure: no
 * state.
 *
 * Units are base units, as that format wants them: seconds and bytes. Times are counted in
 * nanoseconds and printed in full, so that no counter ever seems to stand still or go back.
 */
#include "query/stats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Upper bounds of a histogram's buckets. A bucket of histogram.h that lies across a bound counts by
 * its middle, as it does in a percentile: a bound is off by 1/32 at most. */
static const uint64_t bounds_us[] = {100,     250,     500,     1000,    2500,   5000,
                                     10000,   25000,   50000,   100000,  250000, 500000,
                                     1000000, 2500000, 5000000, 10000000};

#define SECONDS           "%" PRIu64 ".%09" PRIu64
#define SECONDS_OF_NS(ns) (ns) / 1000000000, (ns) % 1000000000

struct number {
    const char *name; /* without "nightjar_" */
    const char *help;
    uint64_t value;
};

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP nightjar_%s %s\n# TYPE nightjar_%s %s\n", name, help, name, type);
}

static void numbers(FILE *out, const char *type, const struct number *all, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        head(out, all[i].name, type, all[i].help);
        fprintf(out, "nightjar_%s %" PRIu64 "\n", all[i].name, all[i].value);
    }
}

static void seconds(FILE *out, const char *type, const struct number *all, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        head(out, all[i].name, type, all[i].help);
        fprintf(out, "nightjar_%s " SECONDS "\n", all[i].name, SECONDS_OF_NS(all[i].value));
    }
}

/* A label's value: the format knows three escapes, and takes any other byte as it is. */
static void label(FILE *out, const char *name, const char *value)
{
    fprintf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\n')
            fputs("\\n", out);
        else if (*value == '"' || *value == '\\')
            fprintf(out, "\\%c", *value);
        else
            fputc(*value, out);
    }
    fputc('"', out);
}

static uint64_t bucket_middle_ns(uint32_t bucket)
{
    uint64_t floor_ns = histogram_bucket_floor_ns(bucket);
    return floor_ns + (histogram_bucket_floor_ns(bucket + 1) - floor_ns) / 2;
}

static void histogram(FILE *out, const char *name, const char *help,
                      const struct histogram_counts *counts)
{
    uint64_t below = 0;
    uint32_t bucket = 0;
    head(out, name, "histogram", help);
    for (size_t i = 0; i < ARRAY_LENGTH(bounds_us); i++) {
        uint64_t bound_ns = bounds_us[i] * 1000;
        while (bucket < HISTOGRAM_BUCKETS - 1 && bucket_middle_ns(bucket) <= bound_ns)
            below += counts->buckets[bucket++];
        fprintf(out, "nightjar_%s_bucket{le=\"%.9g\"} %" PRIu64 "\n", name,
                (double)bounds_us[i] / 1e6, below);
    }
    fprintf(out, "nightjar_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, counts->count);
    fprintf(out, "nightjar_%s_sum " SECONDS "\n", name, SECONDS_OF_NS(counts->sum_ns));
    fprintf(out, "nightjar_%s_count %" PRIu64 "\n", name, counts->count);
}

static void put_generation(FILE *out, const struct stats *stats)
{
    const struct manifest *manifest = stats->manifest;
    const struct serving_stats *serving = &stats->serving;
    const struct number counters[] = {
        {"swaps_total", "Generations that went live since the start.", serving->swaps},
        {"generations_refused_total", "Generations that were to go live and did not.",
         serving->refused},
    };
    const struct number gauges[] = {
        {"vectors", "Vectors in the live generation.", manifest->vector_count},
        {"loading", "1 while the next generation is being opened.", serving->loading},
        {"fallback", "1 when current was at fault at the start and another is served.",
         serving->fallback},
        {"generation_memory_limit_bytes", "Memory that one generation may take.",
         serving->memory_bytes},
    };
    const struct number times[] = {
        {"generation_age_seconds", "Time since the live generation went live.", serving->live_ns},
        {"generation_load_seconds", "Time it took to open the live generation.", serving->load_ns},
    };
    char id[33];
    snprintf(id, sizeof(id), "%016" PRIx64 "%016" PRIx64, manifest->generation_id.high,
             manifest->generation_id.low);
    head(out, "generation_info", "gauge", "The live generation, in labels.");
    fputs("nightjar_generation_info{", out);
    label(out, "name", stats->name);
    fputc(',', out);
    label(out, "id", id);
    fputc(',', out);
    label(out, "type", element_name(manifest->type));
    fputc(',', out);
    label(out, "metric", metric_name(manifest->metric));
    fputs("} 1\n", out);
    numbers(out, "counter", counters, ARRAY_LENGTH(counters));
    numbers(out, "gauge", gauges, ARRAY_LENGTH(gauges));
    seconds(out, "gauge", times, ARRAY_LENGTH(times));
}

static void put_memory(FILE *out, const struct stats *stats)
{
    const struct index_memory *memory = &stats->memory;
    const struct number tiers[] = {
        {"codes", NULL, memory->codes_bytes},
        {"navigation", NULL, memory->navigation_bytes},
        {"attributes", NULL, memory->attributes_bytes},
        {"keys", NULL, memory->keys_bytes},
        {"lists", NULL, memory->lists_bytes},
        {"cache", NULL, memory->cache_bytes},
    };
    const struct number gauges[] = {
        {"cached_blocks", "Blocks in memory.", memory->cached_blocks},
        {"resident", "1 when all blocks are in memory.", memory->resident},
        {"resident_bytes", "Memory of the process.", stats->resident_bytes},
        {"peak_resident_bytes", "The most it was.", stats->peak_resident_bytes},
    };
    head(out, "memory_bytes", "gauge", "Memory of the live generation, by what it holds.");
    for (size_t i = 0; i < ARRAY_LENGTH(tiers); i++)
        fprintf(out, "nightjar_memory_bytes{tier=\"%s\"} %" PRIu64 "\n", tiers[i].name,
                tiers[i].value);
    numbers(out, "gauge", gauges, ARRAY_LENGTH(gauges));
}

static void put_engine(FILE *out, const struct engine_stats *engine)
{
    const struct number counters[] = {
        {"queries_total", "Queries answered, in time or not.", engine->queries},
        {"queries_fetch_total", "Of these, those for a vector by its key.", engine->fetches},
        {"queries_busy_total", "Queries refused because too many waited.", engine->busy},
        {"queries_timeout_total", "Queries not done in time.", engine->timeouts},
        {"queries_degraded_total", "Answers that may miss neighbours, a block being unreadable.",
         engine->degraded},
        {"reads_total", "Blocks asked of the disk, retries included.", engine->reads},
        {"shared_reads_total", "Of these, those that came with another query's read.",
         engine->shared_reads},
        {"read_retries_total", "Reads tried again.", engine->read_retries},
        {"read_timeouts_total", "Reads given up.", engine->read_timeouts},
        {"failed_blocks_total", "Blocks that could not be read.", engine->failed_blocks},
        {"cache_hits_total", "Blocks found in memory.", engine->cache_hits},
    };
    const struct number busy = {"worker_busy_seconds_total",
                                "CPU time that workers spent on queries.", engine->busy_ns};
    const struct number gauges[] = {
        {"queries_queued", "Queries that wait for a worker.", engine->queued},
        {"queries_in_flight", "Queries in work.", engine->in_flight},
        {"reads_in_flight", "Reads under way.", engine->reads_in_flight},
        {"workers", "Search threads.", engine->threads},
    };
    numbers(out, "counter", counters, ARRAY_LENGTH(counters));
    head(out, "distances_total", "counter", "Distances computed, by what from.");
    fprintf(out, "nightjar_distances_total{kind=\"code\"} %" PRIu64 "\n", engine->code_distances);
    fprintf(out, "nightjar_distances_total{kind=\"exact\"} %" PRIu64 "\n", engine->exact_distances);
    seconds(out, "counter", &busy, 1);
    numbers(out, "gauge", gauges, ARRAY_LENGTH(gauges));
    histogram(out, "query_duration_seconds", "Submission to completion of queries done in time.",
              &engine->latency);
    histogram(out, "read_duration_seconds", "Reads of blocks that were not given up.",
              &engine->read_latency);
}

static void put_server(FILE *out, const struct server_stats *server)
{
    const struct number counters[] = {
        {"connections_accepted_total", "Connections accepted.", server->connections_accepted},
        {"connections_refused_total", "Connections over the limit.", server->connections_refused},
        {"connections_denied_total", "Connections of users that are not let in.",
         server->connections_denied},
        {"connections_broken_total", "Connections closed for a fault of the client's.",
         server->connections_broken},
        {"accept_failures_total", "Failures to accept a connection.", server->accept_failures},
        {"requests_total", "Frames received.", server->requests},
        {"submitted_queries_total", "Queries that frames brought to the engine.", server->queries},
        {"pauses_total", "Times a connection was not read, its window being full.", server->pauses},
        {"received_bytes_total", "Bytes received from clients.", server->bytes_in},
        {"sent_bytes_total", "Bytes sent to clients.", server->bytes_out},
    };
    const struct number gauges[] = {
        {"connections", "Clients connected.", server->connections},
        {"requests_in_flight", "Searches received and not answered.", server->requests_in_flight},
        {"output_bytes", "Answers that sockets did not take yet.", server->output_bytes},
    };
    const struct number uptime = {"uptime_seconds", "Time since the start.", server->uptime_ns};
    numbers(out, "counter", counters, ARRAY_LENGTH(counters));
    numbers(out, "gauge", gauges, ARRAY_LENGTH(gauges));
    head(out, "errors_total", "counter", "Requests answered with an error, by status.");
    for (size_t i = STATUS_OK + 1; i < SERVER_STATUS_COUNT; i++)
        fprintf(out, "nightjar_errors_total{status=\"%s\"} %" PRIu64 "\n",
                status_name((enum status)i), server->errors[i]);
    seconds(out, "gauge", &uptime, 1);
}

static void put_http(FILE *out, const struct http_stats *http)
{
    const struct number counters[] = {
        {"http_requests_total", "HTTP requests.", http->requests},
        {"http_errors_total", "HTTP requests answered with a status of 400 or more.", http->errors},
    };
    numbers(out, "counter", counters, ARRAY_LENGTH(counters));
}

enum status stats_prometheus_format(const struct stats *stats, char **text, struct error *err)
{
    char *bytes = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&bytes, &length);
    if (!out)
        return error_set(err, STATUS_NO_MEMORY, "no memory for statistics");
    put_generation(out, stats);
    put_memory(out, stats);
    put_engine(out, &stats->serving.engine);
    put_server(out, &stats->server);
    put_http(out, &stats->http);
    bool complete = !ferror(out);
    if (fclose(out) != 0 || !complete) {
        free(bytes);
        return error_set(err, STATUS_NO_MEMORY, "no memory for statistics");
    }
    *text = bytes;
    return STATUS_OK;
}
