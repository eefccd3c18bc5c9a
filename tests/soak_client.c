/*
 * soak_client.c - `make soak`: asks a daemon queries without pause while generations are swapped
 * under it, holds every answer against the generation that it names (answer_check.h), and compares
 * latencies during swaps with those outside them.
 *
 * When swaps are under way is told by a file of events, which whoever publishes writes:
 *
 *   begin SECONDS                  since the epoch; something is about to be published
 *   end SECONDS NAME               it is all over; from now on NAME is live
 *
 * and, without one, by STATS, which misses what comes before and after the daemon's part. With the
 * file, an answer that was asked for after an end and before the next begin must come from NAME.
 *
 * Threads: one a connection, and the main thread, which watches the daemon's STATS. Each has its
 * own memory; latencies are kept one by one until the end, when it is known what they ran into.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/args.h"
#include "common/clock.h"
#include "tests/answer_check.h"
#include "tests/daemon_facts.h"
#include "tools/latency.h"

enum {
    CONNECTIONS_MAX = 256,
    COMPLAINTS_MAX = 10, /* lines on stderr; all are counted */
    FAILURES_MAX = 100,  /* then a connection gives up */
    TICK_NS = 10000,     /* of an asked.end */
    LATENCY_US_MAX = (1 << 28) - 1,
};

struct options {
    const char *socket, *queries, *events;
    uint32_t connections, k, search_list, poll_ms, swaps;
    double duration_s, warmup_s, search_ratio;
    bool allow_busy, json;
};

#define SWAPS_WAIT_NS UINT64_C(300000000000) /* far more than some swaps take */

/* An answer, in 8 bytes: there are millions. */
struct asked {
    uint32_t end; /* ticks since the start */
    uint32_t latency_us : 28;
    uint32_t generation : 4;
};

struct counts {
    uint64_t failed, wrong, degraded, busy;
};

struct soak {
    struct options options;
    struct answer_check check;
    uint64_t start_ns, end_ns;
    atomic_bool stop; /* set by the main thread; read, relaxed, before each query */
    atomic_uint complaints;
};

struct connection {
    struct soak *soak;
    uint32_t number;
    bool started;
    pthread_t thread;
    struct client *client;
    struct asked *asked;
    size_t asked_count, asked_capacity;
    struct answer_tally tallies[ANSWER_GENERATIONS_MAX];
    struct counts counts;
};

/* What the daemon said of itself at a time. */
struct sample {
    uint64_t time_ns;
    struct daemon_facts facts;
};
struct samples {
    struct sample *items;
    size_t count, capacity;
};

/* A time in which a generation was published, opened, and the one before freed. */
struct interval {
    uint64_t begin_ns, end_ns;
    uint32_t live; /* after it; ANSWER_NO_GENERATION: not known */
};
struct intervals {
    struct interval *items;
    size_t count, capacity;
};

struct class
{
    struct latency latency;
    uint64_t max_us;
};
struct report {
    struct class outside, swap;
    struct answer_tally tallies[ANSWER_GENERATIONS_MAX];
    struct counts counts;
    uint64_t stale; /* from a generation that had been replaced */
    uint64_t swaps, refused;
    uint64_t warm_bytes, end_bytes, max_bytes;
};

/* Room for one more item. */
static void *grown(void *items, size_t count, size_t *capacity, size_t item_bytes)
{
    if (count < *capacity)
        return items;
    *capacity = *capacity ? 2 * *capacity : 1024;
    void *more = realloc(items, *capacity * item_bytes);
    if (!more) {
        fprintf(stderr, "soak_client: no memory for what was measured\n");
        exit(1);
    }
    return more;
}

/* ---- asking ---- */

static void complain(struct soak *soak, const char *what, uint32_t connection, const char *text)
{
    if (atomic_fetch_add(&soak->complaints, 1) < COMPLAINTS_MAX)
        fprintf(stderr, "soak_client: %s: connection %u after %.3f s: %s\n", what, connection,
                (double)(clock_monotonic_ns() - soak->start_ns) * 1e-9, text);
}

static enum status reconnect(struct connection *self, struct error *err)
{
    client_close(self->client);
    self->client = NULL;
    enum status status = client_connect(self->soak->options.socket, &self->client, err);
    return status == STATUS_OK ? client_require(self->client, CLIENT_ORIGIN, err) : status;
}

static void take_answer(struct connection *self, uint64_t query, uint64_t began_ns,
                        const struct client_answer *answer)
{
    struct soak *soak = self->soak;
    uint64_t now_ns = clock_monotonic_ns();
    uint32_t generation = ANSWER_NO_GENERATION;
    struct error err;
    const struct answer_hits hits = {query,
                                     {answer->generation_low, answer->generation_high},
                                     answer->results[0].hit_count,
                                     answer->hits};
    if (answer_check_hits(&soak->check, &hits, self->tallies, &generation, &err) != STATUS_OK) {
        self->counts.wrong++;
        complain(soak, "wrong", self->number, err.text);
    }
    if (answer->results[0].flags & 1u) {
        self->counts.degraded++;
        complain(soak, "degraded", self->number, "a block could not be read");
    }
    self->asked =
        grown(self->asked, self->asked_count, &self->asked_capacity, sizeof(*self->asked));
    uint64_t latency_us = (now_ns - began_ns) / 1000;
    self->asked[self->asked_count++] = (struct asked){
        .end = (uint32_t)((now_ns - soak->start_ns) / TICK_NS),
        .latency_us = (uint32_t)MIN(latency_us, (uint64_t)LATENCY_US_MAX) & LATENCY_US_MAX,
        .generation = generation & 15u,
    };
}

static void *ask(void *context)
{
    struct connection *self = context;
    struct soak *soak = self->soak;
    const struct options *options = &soak->options;
    struct error err;
    for (uint64_t query = self->number; self->counts.failed < FAILURES_MAX &&
                                        !atomic_load_explicit(&soak->stop, memory_order_relaxed);
         query += options->connections) {
        const struct client_search search = {
            .vectors = answer_check_query(&soak->check, query),
            .query_count = 1,
            .k = options->k,
            .search_list = options->search_list,
            .search_ratio = (float)options->search_ratio,
            .origin = true,
        };
        struct client_answer answer;
        uint64_t began_ns = clock_monotonic_ns();
        enum status status = client_search(self->client, &search, &answer, &err);
        if (status == STATUS_OK) {
            take_answer(self, query, began_ns, &answer);
        } else if (status == STATUS_BUSY && options->allow_busy) {
            self->counts.busy++;
        } else {
            self->counts.failed++;
            complain(soak, "failed", self->number, err.text);
            if (reconnect(self, &err) != STATUS_OK) {
                complain(soak, "failed", self->number, err.text);
                break;
            }
        }
    }
    return NULL;
}

/* ---- watching ---- */

/* Whether the time is over, and the swaps that were wanted have been, unless they never come. */
static bool is_over(const struct soak *soak, const struct samples *samples)
{
    const struct sample *first = &samples->items[0], *last = &samples->items[samples->count - 1];
    bool swapped = last->facts.swaps - first->facts.swaps >= soak->options.swaps;
    return last->time_ns >= soak->end_ns + (swapped ? 0 : SWAPS_WAIT_NS);
}

static enum status watch(const struct soak *soak, struct client *client, struct samples *samples,
                         struct error *err)
{
    const struct timespec pause = {.tv_nsec = (long)(soak->options.poll_ms * 1000000)};
    for (;;) {
        struct sample sample = {.time_ns = clock_monotonic_ns()};
        enum status status = daemon_facts_get(client, &sample.facts, err);
        if (status != STATUS_OK)
            return status;
        samples->items = grown(samples->items, samples->count, &samples->capacity, sizeof(sample));
        samples->items[samples->count++] = sample;
        if (is_over(soak, samples))
            return STATUS_OK;
        nanosleep(&pause, NULL);
    }
}

/* ---- when swaps were ---- */

static void add_interval(struct intervals *self, uint64_t begin_ns, uint64_t end_ns, uint32_t live)
{
    self->items = grown(self->items, self->count, &self->capacity, sizeof(*self->items));
    self->items[self->count++] = (struct interval){begin_ns, end_ns, live};
}

/* What of the swaps STATS showed: one more sample on each side belongs to them. */
static void intervals_of_samples(const struct samples *samples, struct intervals *out)
{
    for (size_t i = 1; i < samples->count; i++) {
        const struct sample *before = &samples->items[i - 1], *now = &samples->items[i];
        if (!before->facts.loading && !now->facts.loading &&
            before->facts.swaps == now->facts.swaps)
            continue;
        if (out->count > 0 && out->items[out->count - 1].end_ns >= before->time_ns)
            out->items[out->count - 1].end_ns = now->time_ns;
        else
            add_interval(out, before->time_ns, now->time_ns, ANSWER_NO_GENERATION);
    }
}

/* Events are in time since the epoch, as that is what a shell can tell. */
static uint64_t monotonic_of(double epoch_s)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double ago_s = (double)now.tv_sec - epoch_s + (double)now.tv_nsec * 1e-9;
    return clock_monotonic_ns() - (uint64_t)MAX(ago_s * 1e9, 0.0);
}

static uint32_t generation_named(const struct answer_check *check, const char *name)
{
    size_t bytes = strlen(name);
    for (uint32_t g = 0; g < check->generation_count; g++)
        if (strncmp(check->generations[g].name, name, bytes) == 0 &&
            check->generations[g].name[bytes] == '=')
            return g;
    return ANSWER_NO_GENERATION;
}

static enum status intervals_of_events(const char *path, const struct answer_check *check,
                                       struct intervals *out, struct error *err)
{
    char line[512], name[256];
    double seconds;
    FILE *file = fopen(path, "r");
    enum status status = STATUS_OK;
    if (!file)
        return error_set(err, STATUS_NOT_FOUND, "%s: cannot be read", path);
    while (status == STATUS_OK && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "begin %lf", &seconds) == 1) {
            add_interval(out, monotonic_of(seconds), UINT64_MAX, ANSWER_NO_GENERATION);
        } else if (sscanf(line, "end %lf %255s", &seconds, name) == 2 && out->count > 0) {
            out->items[out->count - 1].end_ns = monotonic_of(seconds);
            out->items[out->count - 1].live = generation_named(check, name);
        } else {
            status = error_set(err, STATUS_INVALID, "%s: not an event: %.100s", path, line);
        }
    }
    fclose(file);
    return status;
}

/* ---- the report ---- */

static void class_add(struct class *self, uint64_t latency_us)
{
    latency_record(&self->latency, latency_us * 1000);
    self->max_us = MAX(self->max_us, latency_us);
}

/* Sorts a connection's latencies into classes. They are in order of time, as intervals are. */
static void report_add(struct report *self, const struct connection *connection,
                       const struct intervals *intervals)
{
    size_t at = 0;
    for (size_t i = 0; i < connection->asked_count; i++) {
        const struct asked *asked = &connection->asked[i];
        uint64_t end_ns = connection->soak->start_ns + (uint64_t)asked->end * TICK_NS;
        uint64_t begin_ns = end_ns - (uint64_t)asked->latency_us * 1000;
        while (at < intervals->count && intervals->items[at].end_ns < begin_ns)
            at++;
        bool during = at < intervals->count && intervals->items[at].begin_ns <= end_ns + TICK_NS;
        class_add(during ? &self->swap : &self->outside, asked->latency_us);
        if (!during && at > 0 && intervals->items[at - 1].live != ANSWER_NO_GENERATION &&
            intervals->items[at - 1].live != asked->generation)
            self->stale++;
    }
    for (uint32_t g = 0; g < ANSWER_GENERATIONS_MAX; g++) {
        self->tallies[g].answers += connection->tallies[g].answers;
        self->tallies[g].right += connection->tallies[g].right;
    }
    self->counts.failed += connection->counts.failed;
    self->counts.wrong += connection->counts.wrong;
    self->counts.degraded += connection->counts.degraded;
    self->counts.busy += connection->counts.busy;
}

static bool is_during(const struct intervals *intervals, uint64_t time_ns)
{
    for (size_t i = 0; i < intervals->count; i++)
        if (intervals->items[i].begin_ns <= time_ns && time_ns <= intervals->items[i].end_ns)
            return true;
    return false;
}

/* Memory where it is at rest, with one generation; and the most. */
static void report_memory(struct report *self, const struct samples *samples,
                          const struct intervals *intervals, uint64_t warm_ns)
{
    for (size_t i = 0; i < samples->count; i++) {
        const struct sample *sample = &samples->items[i];
        self->max_bytes = MAX(self->max_bytes, sample->facts.resident_bytes);
        if (is_during(intervals, sample->time_ns))
            continue;
        if (sample->time_ns <= warm_ns || self->warm_bytes == 0)
            self->warm_bytes = sample->facts.resident_bytes;
        self->end_bytes = sample->facts.resident_bytes;
    }
    self->swaps = samples->items[samples->count - 1].facts.swaps - samples->items[0].facts.swaps;
    self->refused =
        samples->items[samples->count - 1].facts.refused - samples->items[0].facts.refused;
}

static double p99_ratio(const struct report *report)
{
    double outside_us = latency_quantile_us(&report->outside.latency, 0.99);
    return outside_us > 0 ? latency_quantile_us(&report->swap.latency, 0.99) / outside_us : 0;
}

static int name_bytes(const struct answer_check *check, uint32_t generation)
{
    return (int)strcspn(check->generations[generation].name, "=");
}

static void print_class(const char *name, const struct class *class)
{
    printf("%-8s %10" PRIu64 " %9.0f %9.0f %9.0f %9" PRIu64 "\n", name, class->latency.count,
           latency_quantile_us(&class->latency, 0.5), latency_quantile_us(&class->latency, 0.99),
           latency_quantile_us(&class->latency, 0.999), class->max_us);
}

static void print_text(const struct soak *soak, const struct report *report, double seconds)
{
    printf("%-8s %10s %9s %9s %9s %9s\n", "", "answers", "p50_us", "p99_us", "p99.9_us", "max_us");
    print_class("outside", &report->outside);
    print_class("swap", &report->swap);
    printf("p99 during swaps is %.2f times that outside; %.0f answers a second\n",
           p99_ratio(report),
           (double)(report->outside.latency.count + report->swap.latency.count) / seconds);
    for (uint32_t g = 0; g < soak->check.generation_count; g++) {
        double recall = answer_check_recall(&soak->check, g, &report->tallies[g]);
        printf("%.*s: %" PRIu64 " answers", name_bytes(&soak->check, g),
               soak->check.generations[g].name, report->tallies[g].answers);
        if (recall >= 0)
            printf(", recall@%u %.4f", soak->options.k, recall);
        printf("\n");
    }
    printf("%" PRIu64 " swaps, %" PRIu64 " refused\n", report->swaps, report->refused);
    printf("daemon: %.1f MiB after warm-up, %.1f MiB at the end, %.1f MiB at most\n",
           (double)report->warm_bytes / 0x1p20, (double)report->end_bytes / 0x1p20,
           (double)report->max_bytes / 0x1p20);
    printf("%" PRIu64 " failed, %" PRIu64 " wrong, %" PRIu64 " stale, %" PRIu64
           " degraded, %" PRIu64 " busy\n",
           report->counts.failed, report->counts.wrong, report->stale, report->counts.degraded,
           report->counts.busy);
}

static void print_json_class(const char *name, const struct class *class)
{
    printf("\"%s\":{\"answers\":%" PRIu64 ",\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,"
           "\"max_us\":%" PRIu64 "},",
           name, class->latency.count, latency_quantile_us(&class->latency, 0.5),
           latency_quantile_us(&class->latency, 0.99), latency_quantile_us(&class->latency, 0.999),
           class->max_us);
}

static void print_json(const struct soak *soak, const struct report *report, double seconds)
{
    printf("{\"seconds\":%.3f,\"connections\":%u,\"search_list\":%u,\"search_ratio\":%g,", seconds,
           soak->options.connections, soak->options.search_list, soak->options.search_ratio);
    print_json_class("outside", &report->outside);
    print_json_class("swap", &report->swap);
    printf("\"p99_ratio\":%.4f,\"generations\":[", p99_ratio(report));
    for (uint32_t g = 0; g < soak->check.generation_count; g++)
        printf("%s{\"name\":\"%.*s\",\"answers\":%" PRIu64 ",\"recall\":%.6f}", g ? "," : "",
               name_bytes(&soak->check, g), soak->check.generations[g].name,
               report->tallies[g].answers,
               answer_check_recall(&soak->check, g, &report->tallies[g]));
    printf("],\"swaps\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"warm_resident_bytes\":%" PRIu64
           ",\"end_resident_bytes\":%" PRIu64 ",\"max_resident_bytes\":%" PRIu64
           ",\"failed\":%" PRIu64 ",\"wrong\":%" PRIu64 ",\"stale\":%" PRIu64
           ",\"degraded\":%" PRIu64 ",\"busy\":%" PRIu64 "}\n",
           report->swaps, report->refused, report->warm_bytes, report->end_bytes, report->max_bytes,
           report->counts.failed, report->counts.wrong, report->stale, report->counts.degraded,
           report->counts.busy);
}

/* ---- the run ---- */

/* Connects first, so that the clock starts when all can ask. */
static enum status connections_open(struct soak *soak, struct connection *connections,
                                    struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t c = 0; status == STATUS_OK && c < soak->options.connections; c++) {
        connections[c] = (struct connection){.soak = soak, .number = c};
        status = reconnect(&connections[c], err);
    }
    return status;
}

static enum status measure(struct soak *soak, struct connection *connections,
                           struct samples *samples, struct error *err)
{
    struct client *watcher = NULL;
    enum status status = connections_open(soak, connections, err);
    if (status == STATUS_OK)
        status = client_connect(soak->options.socket, &watcher, err);
    if (status != STATUS_OK)
        return status;
    soak->start_ns = clock_monotonic_ns();
    soak->end_ns = soak->start_ns + (uint64_t)(soak->options.duration_s * 1e9);
    for (uint32_t c = 0; status == STATUS_OK && c < soak->options.connections; c++) {
        int failed = pthread_create(&connections[c].thread, NULL, ask, &connections[c]);
        if (failed)
            status = error_set_os(err, failed, "cannot start a thread");
        connections[c].started = !failed;
    }
    if (status == STATUS_OK)
        status = watch(soak, watcher, samples, err);
    atomic_store(&soak->stop, true);
    soak->end_ns = clock_monotonic_ns();
    for (uint32_t c = 0; c < soak->options.connections; c++)
        if (connections[c].started)
            pthread_join(connections[c].thread, NULL);
    client_close(watcher);
    return status;
}

static enum status judge(struct soak *soak, const struct connection *connections,
                         const struct samples *samples, struct error *err)
{
    struct report *report = calloc(1, sizeof(*report));
    struct intervals intervals = {0};
    enum status status = STATUS_OK;
    if (!report)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a report");
    if (soak->options.events)
        status = intervals_of_events(soak->options.events, &soak->check, &intervals, err);
    else
        intervals_of_samples(samples, &intervals);
    if (status == STATUS_OK) {
        for (uint32_t c = 0; c < soak->options.connections; c++)
            report_add(report, &connections[c], &intervals);
        report_memory(report, samples, &intervals,
                      soak->start_ns + (uint64_t)(soak->options.warmup_s * 1e9));
        (soak->options.json ? print_json : print_text)(
            soak, report, (double)(soak->end_ns - soak->start_ns) * 1e-9);
        const struct counts *counts = &report->counts;
        if (counts->failed + counts->wrong + counts->degraded + report->stale > 0)
            status = error_set(err, STATUS_CORRUPT, "not every answer was right");
        else if (report->outside.latency.count + report->swap.latency.count == 0)
            status = error_set(err, STATUS_CORRUPT, "nothing was answered");
    }
    free(intervals.items);
    free(report);
    return status;
}

static enum status soak_run(struct soak *soak, const struct args_positionals *generations,
                            struct error *err)
{
    struct connection *connections = calloc(soak->options.connections, sizeof(*connections));
    struct samples samples = {0};
    if (!connections)
        return error_set(err, STATUS_NO_MEMORY, "no memory for connections");
    enum status status =
        answer_check_create(&soak->check, soak->options.queries, soak->options.k, err);
    for (size_t i = 0; status == STATUS_OK && i < generations->count; i++)
        status = answer_check_add(&soak->check, generations->items[i], err);
    if (status == STATUS_OK)
        status = measure(soak, connections, &samples, err);
    if (status == STATUS_OK)
        status = judge(soak, connections, &samples, err);
    for (uint32_t c = 0; c < soak->options.connections; c++) {
        client_close(connections[c].client);
        free(connections[c].asked);
    }
    free(connections);
    free(samples.items);
    answer_check_destroy(&soak->check);
    return status;
}

/* ---- options ---- */

static enum args_result parse(struct options *options, int argc, char **argv,
                              struct args_positionals *generations, struct error *err)
{
    const struct args_option table[] = {
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &options->socket,
         .value_name = "PATH",
         .help = "of the daemon",
         .required = true},
        {.name = "queries",
         .kind = ARGS_STRING,
         .target = &options->queries,
         .value_name = "FILE",
         .help = "what to ask, over and over",
         .required = true},
        {.name = "events",
         .kind = ARGS_STRING,
         .target = &options->events,
         .value_name = "FILE",
         .help = "when something was published (default: what STATS shows of it)"},
        {.name = "connections",
         .kind = ARGS_U32,
         .target = &options->connections,
         .min = 1,
         .max = CONNECTIONS_MAX,
         .help = "each with one query at a time"},
        {.name = "duration",
         .kind = ARGS_DOUBLE,
         .target = &options->duration_s,
         .value_name = "S",
         .min = 0.01,
         .max = 40000,
         .help = "seconds"},
        {.name = "swaps",
         .kind = ARGS_U32,
         .target = &options->swaps,
         .help = "go on until there were so many, too"},
        {.name = "warmup",
         .kind = ARGS_DOUBLE,
         .target = &options->warmup_s,
         .value_name = "S",
         .max = 40000,
         .help = "seconds after which memory is looked at for the first time"},
        {.name = "poll-ms",
         .kind = ARGS_U32,
         .target = &options->poll_ms,
         .min = 1,
         .max = 999,
         .help = "between two looks at STATS"},
        {.short_name = 'k',
         .kind = ARGS_U32,
         .target = &options->k,
         .min = 1,
         .max = ANSWER_K_MAX,
         .help = "hits a query"},
        {.name = "search-list",
         .kind = ARGS_U32,
         .target = &options->search_list,
         .min = 1,
         .help = "candidates kept"},
        {.name = "search-ratio",
         .kind = ARGS_DOUBLE,
         .target = &options->search_ratio,
         .help = "stop early beyond it, 0: never"},
        {.name = "allow-busy",
         .kind = ARGS_FLAG,
         .target = &options->allow_busy,
         .help = "BUSY is no failure, as with nightjard --swap replace"},
        {.name = "json", .kind = ARGS_FLAG, .target = &options->json, .help = "one object"},
    };
    const struct args_spec spec = {
        .program = "soak_client",
        .summary = "Ask a daemon without pause, and check every answer.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .positional_name = "DIR=BASE[,KEYS.u64bin][,TRUTH]...",
        .positional_min = 1,
        .positional_max = ANSWER_GENERATIONS_MAX,
        .epilog = "Each generation that may answer is named with the files it was built of.\n"
                  "Exit status 1: an answer failed, was wrong, stale or degraded.",
    };
    return args_parse(&spec, argc, argv, generations, err);
}

int main(int argc, char **argv)
{
    struct soak soak = {
        .options = {.connections = 16,
                    .k = 10,
                    .search_list = 60,
                    .search_ratio = 1.06,
                    .duration_s = 30,
                    .warmup_s = 2,
                    .poll_ms = 20},
    };
    struct args_positionals generations;
    struct error err;
    switch (parse(&soak.options, argc, argv, &generations, &err)) {
    case ARGS_RUN:
        break;
    case ARGS_DONE:
        return 0;
    case ARGS_USAGE:
        fprintf(stderr, "soak_client: %s\n", err.text);
        return 2;
    }
    if (soak_run(&soak, &generations, &err) == STATUS_OK)
        return 0;
    fprintf(stderr, "soak_client: %s\n", err.text);
    return 1;
}
