/*
 * top.c - see top.h. Owns the layout of the screen. Pure but for the stream it prints to.
 */
#include "tools/top.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct top_sample {
    cJSON *root;
    uint64_t taken_ns;
};

enum status top_sample_create(const char *json, uint64_t taken_ns, struct top_sample **out,
                              struct error *err)
{
    struct top_sample *sample = calloc(1, sizeof(*sample));
    if (!sample)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    sample->taken_ns = taken_ns;
    sample->root = cJSON_Parse(json);
    if (!cJSON_IsObject(sample->root)) {
        top_sample_destroy(sample);
        return error_set(err, STATUS_CORRUPT, "the daemon's statistics are no JSON object");
    }
    *out = sample;
    return STATUS_OK;
}

void top_sample_destroy(struct top_sample *sample)
{
    if (!sample)
        return;
    cJSON_Delete(sample->root);
    free(sample);
}

/* ---- values ---- */

static const cJSON *item(const struct top_sample *sample, const char *section, const char *key)
{
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(sample->root, section);
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static double number(const struct top_sample *sample, const char *section, const char *key)
{
    const cJSON *found = item(sample, section, key);
    return cJSON_IsNumber(found) ? found->valuedouble : 0;
}

double top_sample_number(const struct top_sample *sample, const char *section, const char *key)
{
    return number(sample, section, key);
}

static const char *text(const struct top_sample *sample, const char *section, const char *key)
{
    const cJSON *found = item(sample, section, key);
    return cJSON_IsString(found) ? found->valuestring : "";
}

static bool truth(const struct top_sample *sample, const char *section, const char *key)
{
    return cJSON_IsTrue(item(sample, section, key));
}

/* Two looks, and the seconds between them. */
struct span {
    const struct top_sample *before; /* NULL: the daemon's start */
    const struct top_sample *now;
    double seconds;
};

/* How much a counter grew. */
static double growth(const struct span *span, const char *section, const char *key)
{
    double now = number(span->now, section, key);
    return span->before ? now - number(span->before, section, key) : now;
}

static double rate(const struct span *span, const char *section, const char *key)
{
    return span->seconds > 0 ? growth(span, section, key) / span->seconds : 0;
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* ---- latency between the two looks ---- */

static const cJSON *buckets_of(const struct top_sample *sample, const char *name)
{
    if (!sample)
        return NULL;
    return cJSON_GetObjectItemCaseSensitive(item(sample, "engine", name), "buckets");
}

static double pair_value(const cJSON *pair, int place)
{
    const cJSON *value = cJSON_GetArrayItem(pair, place);
    return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

/* Of the pairs in `before`, which ascend as those of `now` do, the count of this bucket. */
static double count_before(const cJSON **at, double floor_ns)
{
    while (*at && pair_value(*at, 0) < floor_ns)
        *at = (*at)->next;
    return *at && pair_value(*at, 0) == floor_ns ? pair_value(*at, 1) : 0;
}

/* Microseconds that `share` of what was counted meanwhile did not exceed, by the floor of its
 * bucket; 0 for nothing. */
static double quantile_us(const struct span *span, const char *name, double share)
{
    const cJSON *now = buckets_of(span->now, name), *before = buckets_of(span->before, name);
    const cJSON *pair, *at = before ? before->child : NULL;
    double total = 0, seen = 0;
    cJSON_ArrayForEach(pair, now) total +=
        pair_value(pair, 1) - count_before(&at, pair_value(pair, 0));
    at = before ? before->child : NULL;
    cJSON_ArrayForEach(pair, now)
    {
        seen += pair_value(pair, 1) - count_before(&at, pair_value(pair, 0));
        if (total > 0 && seen >= share * total)
            return pair_value(pair, 0) / 1000;
    }
    return 0;
}

/* ---- the screen ---- */

static void print_duration(FILE *out, double ms)
{
    double s = ms / 1000;
    if (s < 120)
        fprintf(out, "%.0f s", s);
    else if (s < 7200)
        fprintf(out, "%.0f min", s / 60);
    else if (s < 172800)
        fprintf(out, "%.1f h", s / 3600);
    else
        fprintf(out, "%.1f d", s / 86400);
}

static void print_head(FILE *out, const struct top_sample *now)
{
    fprintf(out, "%.60s  %.0f %s vectors of %.0f, %s\n", text(now, "index", "name"),
            number(now, "index", "vector_count"), text(now, "index", "type"),
            number(now, "index", "dim"), text(now, "index", "metric"));
    fprintf(out, "up ");
    print_duration(out, number(now, "server", "uptime_ms"));
    fprintf(out, ", this generation live ");
    print_duration(out, number(now, "swap", "live_ms"));
    fprintf(out, "; %.0f swaps (%s), %.0f refused%s%s\n", number(now, "swap", "swaps"),
            text(now, "swap", "mode"), number(now, "swap", "refused"),
            truth(now, "swap", "loading") ? "; OPENING THE NEXT" : "",
            truth(now, "swap", "fallback") ? "; FALLBACK" : "");
    const char *reason = text(now, "swap", "refused_reason");
    if (*reason)
        fprintf(out, "refused %.32s: %.60s\n", text(now, "swap", "refused_name"), reason);
}

static void print_quantiles(FILE *out, const struct span *span, const char *name)
{
    fprintf(out, "p50 %.0f  p90 %.0f  p99 %.0f  p99.9 %.0f us\n", quantile_us(span, name, 0.5),
            quantile_us(span, name, 0.9), quantile_us(span, name, 0.99),
            quantile_us(span, name, 0.999));
}

static void print_engine(FILE *out, const struct span *span)
{
    const struct top_sample *now = span->now;
    double queries = growth(span, "engine", "queries");
    double threads = number(now, "engine", "threads");
    fprintf(out, "\nqueries    %.0f/s  busy %.1f/s  timeouts %.1f/s  degraded %.1f/s\n",
            rate(span, "engine", "queries"), rate(span, "engine", "busy"),
            rate(span, "engine", "timeouts"), rate(span, "engine", "degraded"));
    fprintf(out, "  latency  ");
    print_quantiles(out, span, "latency");
    fprintf(out, "  waiting  %.0f, running %.0f, reads in flight %.0f\n",
            number(now, "engine", "queued"), number(now, "engine", "in_flight"),
            number(now, "engine", "reads_in_flight"));
    fprintf(out, "  a query  %.1f reads, %.1f from memory, %.0f us of a worker\n",
            ratio(growth(span, "engine", "reads"), queries),
            ratio(growth(span, "engine", "cache_hits"), queries),
            ratio(growth(span, "engine", "busy_ns"), queries) / 1000);
    fprintf(out, "  workers  %.0f, busy %.0f %%\n", threads,
            ratio(rate(span, "engine", "busy_ns"), threads) / 1e7);
    fprintf(out, "\nreads      %.0f/s  retried %.1f/s  timed out %.1f/s  blocks lost %.1f/s\n",
            rate(span, "engine", "reads") - rate(span, "engine", "shared_reads"),
            rate(span, "engine", "read_retries"), rate(span, "engine", "read_timeouts"),
            rate(span, "engine", "failed_blocks"));
    fprintf(out, "  latency  ");
    print_quantiles(out, span, "read_latency");
    fprintf(out, "  through  %.90s\n", text(now, "engine", "io"));
}

static double mib(const struct top_sample *now, const char *section, const char *key)
{
    return number(now, section, key) / (1 << 20);
}

static void print_memory(FILE *out, const struct top_sample *now)
{
    fprintf(out, "\nmemory     %.1f MiB resident, at most %.1f\n",
            mib(now, "process", "resident_bytes"), mib(now, "process", "peak_resident_bytes"));
    fprintf(out, "  tier     codes %.1f, navigation %.1f, lists %.1f, blocks %.1f MiB (%.0f)%s\n",
            mib(now, "memory", "codes_bytes"), mib(now, "memory", "navigation_bytes"),
            mib(now, "memory", "lists_bytes"), mib(now, "memory", "cache_bytes"),
            number(now, "memory", "cached_blocks"),
            truth(now, "memory", "resident") ? ", resident" : "");
}

static void print_server(FILE *out, const struct span *span)
{
    const struct top_sample *now = span->now;
    fprintf(out, "\nclients    %.0f, requests in flight %.0f, unread answers %.1f MiB\n",
            number(now, "server", "connections"), number(now, "server", "requests_in_flight"),
            mib(now, "server", "output_bytes"));
    fprintf(out, "  came     %.1f/s  refused %.1f/s  denied %.1f/s  cut off %.1f/s\n",
            rate(span, "server", "connections_accepted"),
            rate(span, "server", "connections_refused"), rate(span, "server", "connections_denied"),
            rate(span, "server", "connections_broken"));
    fprintf(out, "  traffic  in %.2f MB/s, out %.2f MB/s\n", rate(span, "server", "bytes_in") / 1e6,
            rate(span, "server", "bytes_out") / 1e6);
    const cJSON *error, *errors = item(now, "server", "errors");
    fprintf(out, "  errors  ");
    cJSON_ArrayForEach(error, errors) if (error->valuedouble > 0)
        fprintf(out, " %s %.0f", error->string, error->valuedouble);
    fprintf(out, "\n");
}

void top_print(FILE *out, const struct top_sample *before, const struct top_sample *now)
{
    struct span span = {.now = now, .seconds = number(now, "server", "uptime_ms") / 1000};
    bool same =
        before && number(before, "server", "uptime_ms") <= number(now, "server", "uptime_ms");
    if (same && now->taken_ns > before->taken_ns) {
        span.before = before;
        span.seconds = (double)(now->taken_ns - before->taken_ns) / 1e9;
    }
    print_head(out, now);
    print_engine(out, &span);
    print_memory(out, now);
    print_server(out, &span);
}
