/*
 * engine.c - the calls of others: start and end, submission, statistics. Workers are in
 * engine_worker.c.
 *
 * A submitted query goes to the inbox of the least loaded worker, if it can be done in time, and if
 * there is room, or another flow has more than its share of it. Thread rules: engine_internal.h.
 */
#include "query/engine.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "query/engine_internal.h"

enum {
    SLOTS_DEFAULT = 64,
    QUEUE_DEFAULT = 4096,
    READ_TIMEOUT_DEFAULT_MS = 1000,
    THREADS_MAX = 1024,
    SLOTS_MAX = 1024,
    /* reads in flight a worker beyond one for each slot */
    EXTRA_BUFFERS = ENGINE_READS_DEFAULT - SLOTS_DEFAULT,
};

/* ---- submission ---- */

/* The least loaded of up to eight workers, starting somewhere else each time. */
static struct worker *worker_choose(struct engine *engine)
{
    uint32_t threads = engine->params.threads;
    uint32_t start = atomic_fetch_add_explicit(&engine->rotation, 1, memory_order_relaxed);
    struct worker *best = NULL;
    uint32_t best_load = UINT32_MAX;
    for (uint32_t i = 0; i < MIN(threads, 8u); i++) {
        struct worker *w = &engine->workers[(start + i) % threads];
        uint32_t load = atomic_load_explicit(&w->load, memory_order_relaxed);
        if (load < best_load) {
            best = w;
            best_load = load;
        }
    }
    return best;
}

/* Whether those before it, at the pace they go now, leave the query too little time. */
static bool wait_is_vain(struct worker *w, const struct search_query *query)
{
    uint32_t load = atomic_load_explicit(&w->load, memory_order_relaxed);
    if (query->deadline_ns == 0 || load <= w->engine->concurrency)
        return false;
    uint64_t wait_ns = engine_pace_wait_ns(&w->pace, inbox_ahead(&w->inbox, query->flow));
    uint64_t service_ns = engine_pace_service_ns(&w->pace, query_list(query));
    return wait_ns > 0 && query->submitted_ns + wait_ns + service_ns > query->deadline_ns;
}

/* Takes one of the places that all inboxes have together. */
static bool place_take(struct engine *engine)
{
    uint32_t taken = atomic_fetch_add_explicit(&engine->queued, 1, memory_order_relaxed);
    if (taken < engine->params.queue_limit)
        return true;
    atomic_fetch_sub_explicit(&engine->queued, 1, memory_order_relaxed);
    return false;
}

enum status engine_submit(struct engine *engine, struct search_query *query)
{
    struct worker *w = worker_choose(engine);
    struct search_query *replaced = NULL;
    uint64_t now_ns = clock_monotonic_ns();
    query->submitted_ns = now_ns;
    bool accepted = !wait_is_vain(w, query);
    /* Before a worker can answer it, so that none ends meanwhile. */
    atomic_fetch_add_explicit(&engine->unanswered, 1, memory_order_relaxed);
    if (accepted && place_take(engine)) {
        atomic_fetch_add_explicit(&w->load, 1, memory_order_relaxed);
        inbox_push(&w->inbox, query);
    } else if (accepted) {
        replaced = inbox_replace(&w->inbox, query); /* place and load pass from one to the other */
        accepted = replaced != NULL;
    }
    if (!accepted || replaced)
        atomic_fetch_add_explicit(&engine->refused, 1, memory_order_relaxed);
    if (!accepted) {
        query_answered(engine);
        return STATUS_BUSY;
    }
    /* The query may be done by now, and its memory be gone. */
    if (!pthread_equal(pthread_self(), w->thread))
        block_io_wake(w->io);
    if (replaced)
        query_complete_unstarted(engine, replaced, STATUS_BUSY, now_ns);
    return STATUS_OK;
}

/* ---- start and end ---- */

static uint32_t cpus_allowed(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
        return 1;
    return (uint32_t)CPU_COUNT(&allowed);
}

static enum status params_check(struct engine_params *p, struct error *err)
{
    if (p->threads == 0)
        p->threads = cpus_allowed();
    if (p->slots_per_thread == 0)
        p->slots_per_thread = SLOTS_DEFAULT;
    if (p->queue_limit == 0)
        p->queue_limit = QUEUE_DEFAULT;
    if (p->read_timeout_ms == 0)
        p->read_timeout_ms = READ_TIMEOUT_DEFAULT_MS;
    if (p->threads > THREADS_MAX)
        return error_set(err, STATUS_INVALID, "engine: %u threads, at most %d", p->threads,
                         THREADS_MAX);
    if (p->slots_per_thread > SLOTS_MAX)
        return error_set(err, STATUS_INVALID, "engine: %u queries in flight a thread, at most %d",
                         p->slots_per_thread, SLOTS_MAX);
    return STATUS_OK;
}

/* Until every started worker has reported, whether it can run or not. */
static void workers_wait_ready(struct engine *engine)
{
    pthread_mutex_lock(&engine->start_lock);
    while (engine->ready < engine->started)
        pthread_cond_wait(&engine->start_changed, &engine->start_lock);
    pthread_mutex_unlock(&engine->start_lock);
}

static enum status workers_start(struct engine *engine, struct error *err)
{
    for (uint32_t i = 0; i < engine->params.threads; i++) {
        struct worker *w = &engine->workers[i];
        w->engine = engine;
        w->number = i;
        inbox_init(&w->inbox);
        int failed = pthread_create(&w->thread, NULL, worker_main, w);
        if (failed)
            return error_set_os(err, failed, "engine: thread %u", i);
        w->started = true;
        engine->started++;
    }
    workers_wait_ready(engine);
    if (engine->start_status && err)
        *err = engine->start_error;
    return engine->start_status;
}

enum status engine_create(const struct engine_params *params, struct index *index,
                          struct engine **out, struct error *err)
{
    struct engine_params checked = *params;
    enum status status = params_check(&checked, err);
    if (status)
        return status;
    struct engine *engine = calloc(1, sizeof(*engine));
    if (!engine)
        return error_set(err, STATUS_NO_MEMORY, "engine: out of memory");
    engine->params = checked;
    engine->index = index_retain(index);
    engine->buffer_count = checked.slots_per_thread + EXTRA_BUFFERS;
    engine->buffer_bytes = index->geometry.block_bytes;
    /* Without reads a query ends before the next is begun. */
    engine->concurrency = index->memory.resident ? 1 : checked.slots_per_thread;
    pthread_mutex_init(&engine->start_lock, NULL);
    pthread_cond_init(&engine->start_changed, NULL);
    engine->workers = calloc(checked.threads, sizeof(*engine->workers));
    if (!engine->workers)
        status = error_set(err, STATUS_NO_MEMORY, "engine: out of memory for %u workers",
                           checked.threads);
    else
        status = workers_start(engine, err);
    if (status) {
        engine_destroy(engine);
        return status;
    }
    *out = engine;
    return STATUS_OK;
}

/* All are told before one is waited for: none ends before the last query of all is answered. */
static void workers_stop(struct engine *engine)
{
    for (uint32_t i = 0; i < engine->started; i++) {
        struct worker *w = &engine->workers[i];
        atomic_store_explicit(&w->stopping, true, memory_order_release);
        /* A worker that failed to start has no io and is on its way out by itself. */
        if (w->io)
            block_io_wake(w->io);
    }
    for (uint32_t i = 0; i < engine->started; i++)
        pthread_join(engine->workers[i].thread, NULL);
}

void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    workers_wait_ready(engine);
    workers_stop(engine);
    /* Only now: the complete() of one worker's query may have submitted another to any worker. */
    for (uint32_t i = 0; engine->workers && i < engine->params.threads; i++) {
        struct worker *w = &engine->workers[i];
        if (!w->engine)
            continue;
        if (w->started)
            worker_fini(w);
        inbox_fini(&w->inbox);
    }
    free(engine->workers);
    pthread_cond_destroy(&engine->start_changed);
    pthread_mutex_destroy(&engine->start_lock);
    index_release(engine->index);
    free(engine);
}

/* What may be asked beside the k nearest of a vector. */
static enum status query_check_limits(const struct manifest *m, const struct search_query *query,
                                      struct error *err)
{
    const struct search_after *after = &query->after;
    if (query->within_radius && !isfinite(query->radius))
        return error_set(err, STATUS_INVALID, "radius is not a finite number");
    /* Of cosine, a vector's distance to itself may be: 1 - cosine is rounded. */
    if (query->within_radius && query->radius < 0.0f && m->metric == METRIC_L2)
        return error_set(err, STATUS_INVALID, "radius is %g, but no l2 distance is below 0",
                         (double)query->radius);
    if (after->set && isnan(after->distance))
        return error_set(err, STATUS_INVALID, "the page before ends at a distance that is NaN");
    if (after->set && (uint64_t)after->rank + query->k > query->search_list)
        return error_set(err, STATUS_INVALID,
                         "the page ends at hit %llu, beyond the search list of %u",
                         (unsigned long long)after->rank + query->k, query->search_list);
    if (query->excludes && query->excluded_node >= m->geometry.node_limit)
        return error_set(err, STATUS_INVALID, "the excluded node %u is none of the %u",
                         query->excluded_node, m->geometry.node_limit);
    return STATUS_OK;
}

static enum status query_check_vector(const struct engine *engine, const struct search_query *query,
                                      struct error *err)
{
    const struct manifest *m = engine->index->manifest;
    return query_vector_check(m, &engine->index->distance, query, err);
}

enum status engine_query_check(const struct engine *engine, const struct search_query *query,
                               struct error *err)
{
    const struct manifest *m = engine->index->manifest;
    if (query->kind == SEARCH_FETCH)
        return STATUS_OK; /* any key may be asked for */
    if (query->k == 0 || query->k > ENGINE_K_MAX)
        return error_set(err, STATUS_INVALID, "k is %u, not in 1..%d", query->k, ENGINE_K_MAX);
    if (query->k > m->vector_count)
        return error_set(err, STATUS_INVALID, "k is %u, but the index holds %llu vectors", query->k,
                         (unsigned long long)m->vector_count);
    if (query->search_list > ENGINE_SEARCH_LIST_MAX)
        return error_set(err, STATUS_INVALID, "search list is %u, at most %d", query->search_list,
                         ENGINE_SEARCH_LIST_MAX);
    if (query->k > query->search_list && !query->within_radius)
        return error_set(err, STATUS_INVALID, "k is %u, above the search list of %u", query->k,
                         query->search_list);
    if (query->search_list == 0)
        return error_set(err, STATUS_INVALID, "search list is 0");
    if (query->beam_width > ENGINE_BEAM_WIDTH_MAX)
        return error_set(err, STATUS_INVALID, "beam width is %u, at most %d", query->beam_width,
                         ENGINE_BEAM_WIDTH_MAX);
    if (!(query->search_ratio >= 0.0f) || isinf(query->search_ratio))
        return error_set(err, STATUS_INVALID, "search ratio is not a number >= 0");
    enum status status = query_check_limits(m, query, err);
    return status == STATUS_OK && query->vector ? query_check_vector(engine, query, err) : status;
}

/* ---- statistics ---- */

static uint64_t counted(const atomic_uint_fast64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void counters_read(const struct engine_counters *c, struct engine_stats *into)
{
    into->queries += counted(&c->queries);
    into->fetches += counted(&c->fetches);
    into->timeouts += counted(&c->timeouts);
    into->degraded += counted(&c->degraded);
    into->busy += counted(&c->busy);
    into->reads += counted(&c->reads);
    into->shared_reads += counted(&c->shared_reads);
    into->read_retries += counted(&c->read_retries);
    into->read_timeouts += counted(&c->read_timeouts);
    into->failed_blocks += counted(&c->failed_blocks);
    into->cache_hits += counted(&c->cache_hits);
    into->code_distances += counted(&c->code_distances);
    into->exact_distances += counted(&c->exact_distances);
    into->busy_ns += counted(&c->busy_ns);
    histogram_read(&c->latency, &into->latency);
    histogram_read(&c->read_latency, &into->read_latency);
}

void engine_stats_get(const struct engine *engine, struct engine_stats *out)
{
    *out = (struct engine_stats){.threads = engine->params.threads};
    out->queued = atomic_load_explicit(&engine->queued, memory_order_relaxed);
    out->busy = counted(&engine->refused);
    uint32_t load = 0;
    for (uint32_t i = 0; i < engine->params.threads; i++) {
        const struct worker *w = &engine->workers[i];
        load += atomic_load_explicit(&w->load, memory_order_relaxed);
        out->reads_in_flight += atomic_load_explicit(&w->reads_in_flight, memory_order_relaxed);
        counters_read(&w->counters, out);
    }
    out->in_flight = load > out->queued ? load - out->queued : 0;
    memcpy(out->io, engine->workers[0].io_description, sizeof(out->io));
}

void engine_stats_clear(struct engine *engine)
{
    _Static_assert(sizeof(struct engine_counters) % sizeof(atomic_uint_fast64_t) == 0,
                   "nothing but counters");
    for (uint32_t i = 0; i < engine->params.threads; i++) {
        atomic_uint_fast64_t *counters = (void *)&engine->workers[i].counters;
        for (size_t c = 0; c < sizeof(struct engine_counters) / sizeof(*counters); c++)
            atomic_store_explicit(&counters[c], 0, memory_order_relaxed);
    }
    atomic_store_explicit(&engine->refused, 0, memory_order_relaxed);
}

void engine_stats_add(struct engine_stats *into, const struct engine_stats *from)
{
    into->queries += from->queries;
    into->fetches += from->fetches;
    into->timeouts += from->timeouts;
    into->degraded += from->degraded;
    into->busy += from->busy;
    into->reads += from->reads;
    into->shared_reads += from->shared_reads;
    into->read_retries += from->read_retries;
    into->read_timeouts += from->read_timeouts;
    into->failed_blocks += from->failed_blocks;
    into->cache_hits += from->cache_hits;
    into->code_distances += from->code_distances;
    into->exact_distances += from->exact_distances;
    into->busy_ns += from->busy_ns;
    histogram_counts_add(&into->latency, &from->latency);
    histogram_counts_add(&into->read_latency, &from->read_latency);
}

struct index *engine_index(const struct engine *engine)
{
    return engine->index;
}

/* ---- many queries, one call ---- */

struct batch {
    uint32_t window;
    pthread_mutex_t lock; /* guards in_flight */
    pthread_cond_t changed;
    uint32_t in_flight;
};

static void batch_complete(struct search_query *query)
{
    struct batch *batch = query->user;
    pthread_mutex_lock(&batch->lock);
    batch->in_flight--;
    pthread_cond_signal(&batch->changed);
    pthread_mutex_unlock(&batch->lock);
}

void engine_search_all(struct engine *engine, struct search_query *queries, size_t query_count,
                       uint32_t window)
{
    struct batch batch = {.window = window ? window : UINT32_MAX};
    pthread_mutex_init(&batch.lock, NULL);
    pthread_cond_init(&batch.changed, NULL);
    pthread_mutex_lock(&batch.lock);
    for (size_t i = 0; i < query_count; i++) {
        queries[i].complete = batch_complete;
        queries[i].user = &batch;
        while (batch.in_flight >= batch.window)
            pthread_cond_wait(&batch.changed, &batch.lock);
        batch.in_flight++;
        pthread_mutex_unlock(&batch.lock);
        while (engine_submit(engine, &queries[i]) == STATUS_BUSY)
            sched_yield();
        pthread_mutex_lock(&batch.lock);
    }
    while (batch.in_flight > 0)
        pthread_cond_wait(&batch.changed, &batch.lock);
    pthread_mutex_unlock(&batch.lock);
    pthread_cond_destroy(&batch.changed);
    pthread_mutex_destroy(&batch.lock);
}
