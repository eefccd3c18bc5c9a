/*
 * cmd_bench_local.c - owns the loops of `nightjar bench --index`: the closed one, `concurrency`
 * slots, each with one query in flight, refilled from the completion callback; and the open one,
 * where queries come at their own times and completions give slots back.
 *
 * Thread rules: a slot belongs to whoever holds its query: the submitting thread until the first
 * engine_submit(), then the worker that completes it, which the engine orders after the submission.
 * Slots share only the atomics of struct run.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/clock.h"
#include "common/random.h"
#include "tools/cmd_bench.h"

#define ARRIVAL_SEED 0xa441fa15u

struct run {
    struct engine *engine;
    const struct bench_plan *plan;
    struct question question;
    uint64_t end_ns;
    _Atomic uint64_t next;    /* number of the next query */
    _Atomic uint32_t active;  /* slots with a query in flight, and one for the submitting thread */
    _Atomic uint32_t failure; /* enum status of the first query that failed */
    sem_t idle;               /* posted when active falls to 0 */
    /* with a rate */
    pthread_mutex_t lock; /* guards free_* */
    struct slot *slots;
    uint32_t *free_slots; /* their numbers */
    uint32_t free_count;
    sem_t free; /* counts free_count */
};

struct slot {
    struct search_query query;
    struct run *run;
    uint64_t number;
    uint64_t start_ns;
    struct bench_result result;
};

static void run_release(struct run *run)
{
    /* acq_rel: the last slot to finish sees, and hands to the waiter, what all others recorded. */
    if (atomic_fetch_sub_explicit(&run->active, 1, memory_order_acq_rel) == 1)
        sem_post(&run->idle);
}

static void run_fail(struct run *run, enum status status)
{
    uint32_t none = STATUS_OK;
    atomic_compare_exchange_strong_explicit(&run->failure, &none, (uint32_t)status,
                                            memory_order_relaxed, memory_order_relaxed);
}

/* Starts the slot's next query; when there is none, gives the slot up. */
static void slot_next(struct slot *slot, uint64_t now_ns)
{
    struct run *run = slot->run;
    const struct bench_plan *plan = run->plan;
    slot->number = atomic_fetch_add_explicit(&run->next, 1, memory_order_relaxed);
    slot->start_ns = now_ns;
    bool failed = atomic_load_explicit(&run->failure, memory_order_relaxed) != STATUS_OK;
    if (failed || !bench_wants(plan, slot->number, run->end_ns, now_ns)) {
        run_release(run);
        return;
    }
    slot->query.vector = plan->queries->rows +
                         (size_t)(slot->number % plan->queries->count) * plan->queries->row_bytes;
    enum status status = engine_submit(run->engine, &slot->query);
    if (status != STATUS_OK) {
        run_fail(run, status);
        run_release(run);
    }
}

/* ---- with a rate ---- */

static void slot_release(struct slot *slot)
{
    struct run *run = slot->run;
    pthread_mutex_lock(&run->lock);
    run->free_slots[run->free_count++] = (uint32_t)(slot - run->slots);
    pthread_mutex_unlock(&run->lock);
    sem_post(&run->free);
}

static struct slot *slot_take(struct run *run)
{
    while (sem_wait(&run->free) != 0)
        continue; /* EINTR */
    pthread_mutex_lock(&run->lock);
    struct slot *slot = &run->slots[run->free_slots[--run->free_count]];
    pthread_mutex_unlock(&run->lock);
    return slot;
}

static void wait_until(uint64_t due_ns)
{
    const struct timespec due = {.tv_sec = (time_t)(due_ns / 1000000000u),
                                 .tv_nsec = (long)(due_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
        continue;
}

/* Submits queries when they are due until none is wanted, and waits for all. */
static void run_paced(struct run *run)
{
    const struct bench_plan *plan = run->plan;
    bool failed = false;
    double due_ns = (double)clock_monotonic_ns();
    /* Timers are late by 50 us by default. Best effort: it only blurs the arrivals. */
    (void)prctl(PR_SET_TIMERSLACK, 1UL);
    for (uint64_t n = 0; !failed && bench_wants(plan, n, run->end_ns, (uint64_t)due_ns); n++) {
        due_ns += -log(1 - random_unit(ARRIVAL_SEED, n)) / plan->rate * 1e9;
        wait_until((uint64_t)due_ns);
        struct slot *slot = slot_take(run);
        slot->number = n;
        slot->start_ns = (uint64_t)due_ns;
        slot->query.vector =
            plan->queries->rows + (size_t)(n % plan->queries->count) * plan->queries->row_bytes;
        enum status status = engine_submit(run->engine, &slot->query);
        if (status != STATUS_OK) {
            run_fail(run, status);
            slot_release(slot);
        }
        failed = atomic_load_explicit(&run->failure, memory_order_relaxed) != STATUS_OK;
    }
    for (uint32_t i = 0; i < plan->concurrency; i++)
        (void)slot_take(run);
}

/* ---- a query ---- */

static void slot_record(struct slot *slot, uint64_t now_ns)
{
    const struct search_query *query = &slot->query;
    struct bench_sums *sums = &slot->result.sums;
    latency_record(&slot->result.latency, now_ns - slot->start_ns);
    sums->reads += query->stats.reads;
    sums->shared_reads += query->stats.shared_reads;
    sums->cache_hits += query->stats.cache_hits;
    sums->cpu_ns += query->stats.cpu_ns;
    sums->degraded += (query->flags & SEARCH_DEGRADED) != 0;
    sums->hops += query->stats.hops;
    sums->code_distances += query->stats.code_distances;
    sums->exact_distances += query->stats.exact_distances;

    struct recall_answers *answers = slot->run->plan->answers;
    if (answers == NULL || slot->number >= answers->query_count)
        return;
    size_t at = (size_t)slot->number * answers->k;
    answers->counts[slot->number] = query->hit_count;
    for (uint32_t i = 0; i < query->hit_count; i++) {
        answers->keys[at + i] = query->hits[i].key;
        answers->distances[at + i] = query->hits[i].distance;
    }
}

static void slot_complete(struct search_query *query)
{
    struct slot *slot = query->user;
    uint64_t now_ns = clock_monotonic_ns();
    if (query->status == STATUS_OK)
        slot_record(slot, now_ns);
    else
        run_fail(slot->run, query->status);
    if (slot->run->plan->rate > 0)
        slot_release(slot);
    else
        slot_next(slot, now_ns);
}

static void slot_init(struct slot *slot, struct run *run, struct search_hit *hits)
{
    const struct bench_plan *plan = run->plan;
    slot->run = run;
    slot->query = run->question.common;
    slot->query.vector = plan->queries->rows;
    slot->query.hits = hits;
    slot->query.complete = slot_complete;
    slot->query.user = slot;
}

static enum status question_open(struct run *run, struct error *err)
{
    const struct bench_plan *plan = run->plan;
    run->question = cmd_question(plan->common, plan->search_list, plan->search_ratio);
    return question_prepare(&run->question, engine_index(run->engine), err);
}

/* Starts every slot once and waits until none has anything left to do. */
static void run_closed(struct run *run, struct slot *slots)
{
    uint32_t count = run->plan->concurrency;
    atomic_store_explicit(&run->active, count + 1, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++)
        slot_next(&slots[i], clock_monotonic_ns());
    run_release(run);
    while (sem_wait(&run->idle) != 0)
        continue; /* EINTR */
}

enum status bench_local_run(struct engine *engine, const struct bench_plan *plan,
                            struct bench_result *result, struct error *err)
{
    struct run run = {.engine = engine, .plan = plan};
    const uint32_t k = plan->common->k;
    struct slot *slots = calloc(plan->concurrency, sizeof(*slots));
    struct search_hit *hits = calloc((size_t)plan->concurrency * k, sizeof(*hits));
    enum status status = STATUS_OK;
    memset(result, 0, sizeof(*result));
    sem_init(&run.idle, 0, 0);
    sem_init(&run.free, 0, 0);
    pthread_mutex_init(&run.lock, NULL);
    run.slots = slots;
    run.free_slots = calloc(plan->concurrency, sizeof(*run.free_slots));
    if (slots == NULL || hits == NULL || run.free_slots == NULL) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for %u queries in flight",
                           plan->concurrency);
        goto out;
    }
    status = question_open(&run, err);
    if (status != STATUS_OK)
        goto out;
    for (uint32_t i = 0; i < plan->concurrency; i++)
        slot_init(&slots[i], &run, hits + (size_t)i * k);
    status = engine_query_check(engine, &slots[0].query, err);
    if (status != STATUS_OK)
        goto out;

    uint64_t start_ns = clock_monotonic_ns();
    run.end_ns = start_ns + plan->min_ns;
    if (plan->rate > 0) {
        for (uint32_t i = 0; i < plan->concurrency; i++)
            slot_release(&slots[i]);
        run_paced(&run);
    } else {
        run_closed(&run, slots);
    }
    result->elapsed_ns = clock_monotonic_ns() - start_ns;
    for (uint32_t i = 0; i < plan->concurrency; i++)
        bench_result_merge(result, &slots[i].result);
    result->chosen = cmd_chosen(&run.question);
    enum status failure = (enum status)atomic_load_explicit(&run.failure, memory_order_relaxed);
    if (failure != STATUS_OK)
        status = error_set(err, failure, "a query failed: %s", status_name(failure));
out:
    question_fini(&run.question);
    sem_destroy(&run.idle);
    sem_destroy(&run.free);
    pthread_mutex_destroy(&run.lock);
    free(run.free_slots);
    free(hits);
    free(slots);
    return status;
}
