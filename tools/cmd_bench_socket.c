/*
 * cmd_bench_socket.c - owns the closed loop of `nightjar bench --socket`: a thread a connection,
 * that sends a query for each answer it gets. A thread waits in the kernel for its answer, so the
 * client takes as little of the CPU from the daemon as a blocking client can.
 *
 * Thread rules: OpenMP makes the threads. A connection and its lane are one thread's; lanes share
 * only the atomics of struct run.
 */
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "query/client.h"
#include "tools/cmd_bench.h"

struct run {
    const struct bench_plan *plan;
    const char *path;
    uint64_t end_ns;
    _Atomic uint64_t next;
    atomic_bool failed;
};

struct flight {
    uint64_t request_id;
    uint64_t number;
    uint64_t start_ns;
};

/* One connection's share of the work. */
struct lane {
    struct run *run;
    struct client *client;
    struct flight *flights; /* window */
    uint32_t window;
    uint32_t in_flight;
    bool finished; /* nothing more is to be sent */
    enum status status;
    struct error error;
    struct bench_result result;
};

static enum status lane_send(struct lane *lane)
{
    struct run *run = lane->run;
    const struct bench_plan *plan = run->plan;
    struct flight *flight = &lane->flights[lane->in_flight];
    flight->number = atomic_fetch_add_explicit(&run->next, 1, memory_order_relaxed);
    flight->start_ns = clock_monotonic_ns();
    if (atomic_load_explicit(&run->failed, memory_order_relaxed) ||
        !bench_wants(plan, flight->number, run->end_ns, flight->start_ns)) {
        lane->finished = true;
        return STATUS_OK;
    }
    const struct client_search search = {
        .vectors = plan->queries->rows +
                   (size_t)(flight->number % plan->queries->count) * plan->queries->row_bytes,
        .query_count = 1,
        .k = plan->common->k,
        .search_list = plan->search_list,
        .beam_width = plan->common->beam_width,
        .search_ratio = plan->search_ratio,
        .filter = plan->common->filter,
        .within_radius = plan->common->within_radius,
        .radius = (float)plan->common->radius,
        .recall_target = (float)plan->common->recall,
    };
    enum status status =
        client_send_search(lane->client, &search, &flight->request_id, &lane->error);
    if (status == STATUS_OK)
        lane->in_flight++;
    return status;
}

static void lane_keep(struct lane *lane, uint64_t number, const struct client_answer *answer)
{
    struct recall_answers *answers = lane->run->plan->answers;
    if (answers == NULL || number >= answers->query_count)
        return;
    size_t at = (size_t)number * answers->k;
    uint32_t count = MIN(answer->results[0].hit_count, answers->k);
    answers->counts[number] = count;
    for (uint32_t i = 0; i < count; i++) {
        answers->keys[at + i] = answer->hits[i].key;
        answers->distances[at + i] = answer->hits[i].distance;
    }
}

static enum status lane_receive(struct lane *lane)
{
    struct client_answer answer;
    enum status status = client_receive(lane->client, &answer, &lane->error);
    if (status != STATUS_OK)
        return status;
    uint64_t now_ns = clock_monotonic_ns();
    const char *path = lane->run->path;
    uint32_t at = 0;
    while (at < lane->in_flight && lane->flights[at].request_id != answer.request_id)
        at++;
    if (at == lane->in_flight)
        return error_set(&lane->error, STATUS_CORRUPT, "%s: an answer to request %llu, never sent",
                         path, (unsigned long long)answer.request_id);
    if (answer.status != STATUS_OK)
        return error_set(&lane->error, answer.status, "%s: a query failed: %s: %s", path,
                         status_name(answer.status),
                         answer.message != NULL ? answer.message : "no reason given");
    if (answer.query_count != 1 || answer.k != lane->run->plan->common->k)
        return error_set(&lane->error, STATUS_CORRUPT, "%s: an answer of %u queries with k %u",
                         path, answer.query_count, answer.k);
    struct bench_sums *sums = &lane->result.sums;
    latency_record(&lane->result.latency, now_ns - lane->flights[at].start_ns);
    sums->reads += answer.results[0].reads;
    sums->cache_hits += answer.results[0].cache_hits;
    sums->cpu_ns += answer.results[0].cpu_us * UINT64_C(1000);
    sums->degraded += (answer.results[0].flags & SEARCH_DEGRADED) != 0;
    lane->result.chosen = answer.chosen;
    lane_keep(lane, lane->flights[at].number, &answer);
    lane->flights[at] = lane->flights[--lane->in_flight];
    return STATUS_OK;
}

static void lane_run(struct lane *lane)
{
    enum status status = STATUS_OK;
    while (status == STATUS_OK) {
        while (status == STATUS_OK && !lane->finished && lane->in_flight < lane->window)
            status = lane_send(lane);
        if (status != STATUS_OK || lane->in_flight == 0)
            break;
        status = lane_receive(lane);
    }
    lane->status = status;
    if (status != STATUS_OK)
        atomic_store_explicit(&lane->run->failed, true, memory_order_relaxed);
}

static enum status lanes_run(struct run *run, struct lane *lanes, uint32_t count,
                             struct bench_result *result, struct error *err)
{
    uint64_t start_ns = clock_monotonic_ns();
    uint32_t threads = 0;
    run->end_ns = start_ns + run->plan->min_ns;
#pragma omp parallel num_threads((int)count)
    {
#pragma omp single
        threads = (uint32_t)omp_get_num_threads();
        if (threads == count)
            lane_run(&lanes[omp_get_thread_num()]);
    }
    result->elapsed_ns = clock_monotonic_ns() - start_ns;
    if (threads != count)
        return error_set(err, STATUS_UNSUPPORTED,
                         "concurrency %u needs that many threads, OpenMP gave %u "
                         "(is OMP_THREAD_LIMIT set?)",
                         count, threads);
    for (uint32_t i = 0; i < count; i++) {
        if (lanes[i].status != STATUS_OK) {
            *err = lanes[i].error;
            return lanes[i].status;
        }
        bench_result_merge(result, &lanes[i].result);
    }
    return STATUS_OK;
}

enum status bench_socket_open(const struct cmd_search_options *common, uint32_t concurrency,
                              struct bench_socket *out, struct error *err)
{
    uint32_t wanted = MIN(concurrency, BENCH_CONNECTIONS_MAX);
    *out = (struct bench_socket){.path = common->socket};
    for (; out->count < wanted; out->count++) {
        enum status status = client_connect(common->socket, &out->clients[out->count], err);
        if (status != STATUS_OK) {
            bench_socket_close(out);
            return status;
        }
    }
    if (!cmd_search_options_extended(common))
        return STATUS_OK;
    enum status status = client_require(out->clients[0], CLIENT_EXTENDED, err);
    if (status != STATUS_OK)
        bench_socket_close(out);
    return status;
}

void bench_socket_close(struct bench_socket *self)
{
    for (uint32_t i = 0; i < self->count; i++)
        client_close(self->clients[i]);
    self->count = 0;
}

enum status bench_socket_run(struct bench_socket *self, const struct bench_plan *plan,
                             struct bench_result *result, struct error *err)
{
    struct run run = {.plan = plan, .path = self->path};
    struct lane *lanes = calloc(self->count, sizeof(*lanes));
    struct flight *flights = calloc(plan->concurrency, sizeof(*flights));
    enum status status;
    memset(result, 0, sizeof(*result));
    if (lanes == NULL || flights == NULL) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for %u queries in flight",
                           plan->concurrency);
        goto out;
    }
    uint32_t given = 0;
    for (uint32_t i = 0; i < self->count; i++) {
        uint32_t end = (uint32_t)((uint64_t)plan->concurrency * (i + 1) / self->count);
        lanes[i].run = &run;
        lanes[i].client = self->clients[i];
        lanes[i].flights = flights + given;
        lanes[i].window = end - given;
        given = end;
    }
    status = lanes_run(&run, lanes, self->count, result, err);
out:
    free(flights);
    free(lanes);
    return status;
}
