/*
 * engine.c - worker threads and the queues in front of them.
 *
 * Each worker owns a block_io, a pool of read buffers and `slots` searches; it alone touches them.
 * A submitted query goes to the inbox of the least loaded worker. The worker takes queries while it
 * has free slots, asks block_io for the blocks they want, and acts on each block as it lands.
 *
 * Locks: worker.lock guards the inbox ring. Everything else crossing threads is an atomic: counters
 * (relaxed, one writer each), worker.load (relaxed: a hint), queued (relaxed: a limit, exact
 * because one fetch_add decides).
 */
#include "query/engine.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "query/search.h"

enum {
    SLOTS_DEFAULT = 64,
    QUEUE_DEFAULT = 4096,
    THREADS_MAX = 1024,
    SLOTS_MAX = 1024,
    EXTRA_BUFFERS = ENGINE_READS_DEFAULT - SLOTS_DEFAULT, /* a worker's, beyond one for each slot */
    COMPLETIONS = 2,   /* handled before the reads they lead to are submitted: see worker_run() */
    WIDTH_TARGET = 12, /* reads in flight a worker aims for when it may choose the width */
    WIDTH_CHOSEN_MAX = 6,
    WIDTH_CHOSEN_MIN = 1,
};

struct counters {
    atomic_uint_fast64_t queries, timeouts, degraded;
    atomic_uint_fast64_t reads, read_retries, failed_blocks, cache_hits;
    atomic_uint_fast64_t code_distances, exact_distances, busy_ns;
};

/* A read buffer and what it is being read for. */
struct read {
    uint32_t slot;
    uint32_t block;
    bool retried;
};

struct worker {
    struct engine *engine;
    pthread_t thread;
    uint32_t number;
    bool started;

    pthread_mutex_t lock;        /* guards inbox_* */
    struct search_query **inbox; /* ring of engine->queue_limit */
    uint32_t inbox_head, inbox_count;
    atomic_uint load; /* queries in inbox and slots */

    struct block_io *io;
    atomic_bool stopping;
    struct search *slots;
    uint32_t *free_slots;
    uint32_t free_count;
    uint8_t *buffers;
    struct read *reads; /* [buffer_count], beside buffers */
    uint32_t *free_reads;
    uint32_t free_read_count;
    struct search_scratch scratch;
    struct counters counters;
    char io_description[192];
};

struct engine {
    struct index *index;
    struct engine_params params;
    uint32_t buffer_count; /* a worker's */
    size_t buffer_bytes;
    struct worker *workers;
    atomic_uint queued;   /* in all inboxes */
    atomic_uint rotation; /* where the search for a worker starts */
    /* start-up: workers report, engine_create() waits */
    pthread_mutex_t start_lock; /* guards ready, start_status, start_error */
    pthread_cond_t start_changed;
    uint32_t started, ready;
    enum status start_status;
    struct error start_error;
};

static void count(atomic_uint_fast64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/* ---- a worker's queries ---- */

static void finish_query(struct worker *w, uint32_t slot, enum status status)
{
    struct search *s = &w->slots[slot];
    struct search_query *query = s->query;
    struct counters *c = &w->counters;
    uint64_t now_ns = clock_monotonic_ns();
    query->status = status;
    query->flags = s->flags;
    query->stats = s->stats;
    query->stats.read_bytes = (uint64_t)s->stats.reads * w->engine->buffer_bytes;
    query->stats.total_ns = now_ns - query->submitted_ns;
    count(&c->queries, 1);
    count(&c->timeouts, status == STATUS_TIMEOUT);
    count(&c->degraded, (s->flags & SEARCH_DEGRADED) != 0);
    count(&c->reads, s->stats.reads);
    count(&c->failed_blocks, s->stats.failed_blocks);
    count(&c->cache_hits, s->stats.cache_hits);
    count(&c->code_distances, s->stats.code_distances);
    count(&c->exact_distances, s->stats.exact_distances);
    count(&c->busy_ns, s->stats.cpu_ns);
    s->query = NULL;
    w->free_slots[w->free_count++] = slot;
    atomic_fetch_sub_explicit(&w->load, 1, memory_order_relaxed);
    query->complete(query);
}

static uint32_t active_count(const struct worker *w)
{
    return w->engine->params.slots_per_thread - w->free_count;
}

/* Reads a query may have in flight now: what it asked for, or a share of what keeps the device
 * busy: many for a lone query (latency), few when there are others to fill the queue (fewer wasted
 * reads). */
static uint32_t width_now(const struct worker *w, const struct search *s)
{
    if (s->query->beam_width)
        return s->query->beam_width;
    uint32_t active = MAX(1u, active_count(w));
    uint32_t width = WIDTH_TARGET / active;
    return MIN(MAX(width, (uint32_t)WIDTH_CHOSEN_MIN), (uint32_t)WIDTH_CHOSEN_MAX);
}

static void submit_read(struct worker *w, uint32_t read_number)
{
    struct read *read = &w->reads[read_number];
    size_t bytes = w->engine->buffer_bytes;
    bool queued = block_io_read(w->io, w->engine->index->nodes_fd, (uint64_t)read->block * bytes,
                                w->buffers + read_number * bytes, (uint32_t)bytes, read_number);
    /* The ring is as deep as there are buffers, and each buffer has at most one read. */
    assert(queued);
    (void)queued;
}

/* Keeps a query moving: more reads, or its end. `since_ns` is when the worker turned to it. */
static void advance(struct worker *w, uint32_t slot, uint64_t since_ns)
{
    struct search *s = &w->slots[slot];
    uint32_t width = width_now(w, s);
    /* Each slot can always have one read; more only out of the extra buffers. */
    while (s->in_flight < width &&
           (s->in_flight == 0 || w->free_read_count > w->engine->params.slots_per_thread)) {
        uint32_t block = search_next_read(s, width);
        if (block == SEARCH_NO_BLOCK)
            break;
        uint32_t read_number = w->free_reads[--w->free_read_count];
        w->reads[read_number] = (struct read){.slot = slot, .block = block};
        submit_read(w, read_number);
    }
    uint64_t now_ns = clock_monotonic_ns();
    s->stats.cpu_ns += now_ns - since_ns;
    if (s->in_flight == 0)
        finish_query(w, slot, STATUS_OK);
}

static bool past_deadline(const struct search_query *query, uint64_t now_ns)
{
    return query->deadline_ns != 0 && now_ns > query->deadline_ns;
}

static void start_query(struct worker *w, struct search_query *query)
{
    uint32_t slot = w->free_slots[--w->free_count];
    struct search *s = &w->slots[slot];
    uint64_t now_ns = clock_monotonic_ns();
    if (past_deadline(query, now_ns)) {
        s->query = query;
        s->stats = (struct search_stats){.queue_ns = now_ns - query->submitted_ns};
        s->flags = 0;
        query->hit_count = 0;
        finish_query(w, slot, STATUS_TIMEOUT);
        return;
    }
    search_start(s, query);
    s->stats.queue_ns = now_ns - query->submitted_ns;
    advance(w, slot, now_ns);
}

/* ---- completions ---- */

/* Whether the buffer holds the block asked for. */
static bool block_arrived(struct worker *w, const struct block_completion *done,
                          struct block_view *view)
{
    const struct read *read = &w->reads[done->tag];
    if (done->result != (int)w->engine->buffer_bytes)
        return false;
    return block_open(&w->engine->index->geometry, read->block,
                      w->buffers + done->tag * w->engine->buffer_bytes, view) == BLOCK_OK;
}

static void complete_read(struct worker *w, const struct block_completion *done)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint32_t read_number = (uint32_t)done->tag;
    struct read *read = &w->reads[read_number];
    uint32_t slot = read->slot;
    struct search *s = &w->slots[slot];
    struct block_view view;
    bool late = past_deadline(s->query, now_ns);
    bool arrived = block_arrived(w, done, &view);
    if (!arrived && !read->retried && !late) {
        read->retried = true;
        s->stats.reads++;
        count(&w->counters.read_retries, 1);
        submit_read(w, read_number);
        return;
    }
    if (!arrived)
        search_block_failed(s);
    else if (late)
        s->in_flight--;
    else
        search_block(s, &view);
    w->free_reads[w->free_read_count++] = read_number;
    if (!late)
        advance(w, slot, now_ns);
    else if (s->in_flight == 0)
        finish_query(w, slot, STATUS_TIMEOUT);
}

/* ---- inbox ---- */

static struct search_query *inbox_take(struct worker *w)
{
    struct search_query *query = NULL;
    pthread_mutex_lock(&w->lock);
    if (w->inbox_count > 0) {
        query = w->inbox[w->inbox_head];
        w->inbox_head = (w->inbox_head + 1) % w->engine->params.queue_limit;
        w->inbox_count--;
    }
    pthread_mutex_unlock(&w->lock);
    if (query)
        atomic_fetch_sub_explicit(&w->engine->queued, 1, memory_order_relaxed);
    return query;
}

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

enum status engine_submit(struct engine *engine, struct search_query *query)
{
    uint32_t limit = engine->params.queue_limit;
    if (atomic_fetch_add_explicit(&engine->queued, 1, memory_order_relaxed) >= limit) {
        atomic_fetch_sub_explicit(&engine->queued, 1, memory_order_relaxed);
        return STATUS_BUSY;
    }
    query->submitted_ns = clock_monotonic_ns();
    struct worker *w = worker_choose(engine);
    atomic_fetch_add_explicit(&w->load, 1, memory_order_relaxed);
    pthread_mutex_lock(&w->lock);
    /* Never full: each inbox alone holds as many as all may hold together. */
    w->inbox[(w->inbox_head + w->inbox_count) % limit] = query;
    w->inbox_count++;
    pthread_mutex_unlock(&w->lock);
    if (!pthread_equal(pthread_self(), w->thread))
        block_io_wake(w->io);
    return STATUS_OK;
}

/* ---- worker thread ---- */

static void pin_to(uint32_t number)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
        return;
    uint32_t available = (uint32_t)CPU_COUNT(&allowed);
    uint32_t wanted = number % available;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || wanted-- > 0)
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        /* Best effort: an unpinned worker is slower, not wrong. */
        (void)pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
        return;
    }
}

/* Everything the worker allocates, on its own thread so that first touch is local. */
static enum status worker_init(struct worker *w, struct error *err)
{
    struct engine *engine = w->engine;
    uint32_t slots = engine->params.slots_per_thread;
    w->slots = calloc(slots, sizeof(*w->slots));
    w->free_slots = calloc(slots, sizeof(*w->free_slots));
    w->reads = calloc(engine->buffer_count, sizeof(*w->reads));
    w->free_reads = calloc(engine->buffer_count, sizeof(*w->free_reads));
    if (!w->slots || !w->free_slots || !w->reads || !w->free_reads)
        return error_set(err, STATUS_NO_MEMORY, "engine: out of memory for %u slots", slots);
    enum status status = search_scratch_init(&w->scratch, err);
    for (uint32_t i = 0; i < slots && !status; i++) {
        status = search_init(&w->slots[i], engine->index, &w->scratch, err);
        w->free_slots[w->free_count++] = slots - 1 - i;
    }
    void *buffers = NULL;
    if (!status)
        status =
            bulk_alloc(engine->buffer_count, engine->buffer_bytes, "read buffers", &buffers, err);
    w->buffers = buffers;
    if (status)
        return status;
    for (uint32_t i = 0; i < engine->buffer_count; i++)
        w->free_reads[w->free_read_count++] = engine->buffer_count - 1 - i;
    struct block_io_params io = {
        .kind = engine->params.io_kind,
        .depth = engine->buffer_count,
        .buffers = w->buffers,
        .buffers_bytes = engine->buffer_count * engine->buffer_bytes,
        .file = engine->index->nodes_fd,
        .faults = engine->params.faults,
    };
    status = block_io_create(&io, &w->io, err);
    if (!status)
        strncpy(w->io_description, block_io_description(w->io), sizeof(w->io_description) - 1);
    return status;
}

static void worker_fini(struct worker *w)
{
    struct engine *engine = w->engine;
    block_io_destroy(w->io);
    w->io = NULL;
    for (uint32_t i = 0; w->slots && i < engine->params.slots_per_thread; i++)
        search_fini(&w->slots[i]);
    search_scratch_fini(&w->scratch);
    if (w->buffers)
        bulk_free(w->buffers, engine->buffer_count, engine->buffer_bytes);
    free(w->slots);
    free(w->free_slots);
    free(w->reads);
    free(w->free_reads);
}

static void worker_report(struct worker *w, enum status status, const struct error *err)
{
    struct engine *engine = w->engine;
    pthread_mutex_lock(&engine->start_lock);
    engine->ready++;
    if (status && !engine->start_status) {
        engine->start_status = status;
        engine->start_error = *err;
    }
    pthread_cond_signal(&engine->start_changed);
    pthread_mutex_unlock(&engine->start_lock);
}

/* Few completions are handled between polls, because a poll submits: a read that waits for its
 * neighbours to be handled leaves the device idle meanwhile. 64 queries in flight, 2 threads, reads
 * a second as a share of fio's at the same depth: 2 at a time 0.92, 8 0.87, 64 0.74. */
static void worker_run(struct worker *w)
{
    struct block_completion done[COMPLETIONS];
    for (;;) {
        /* Acquire pairs with engine_destroy()'s release: every submit came before it. So this load
         * comes before the look into the inbox: an inbox found empty after it stays empty. */
        bool stopping = atomic_load_explicit(&w->stopping, memory_order_acquire);
        bool inbox_empty = false;
        while (w->free_count > 0) {
            struct search_query *query = inbox_take(w);
            if (!query) {
                inbox_empty = true;
                break;
            }
            start_query(w, query);
        }
        if (stopping && inbox_empty && active_count(w) == 0)
            break;
        size_t n = block_io_poll(w->io, true, UINT64_MAX, done, COMPLETIONS);
        for (size_t i = 0; i < n; i++)
            complete_read(w, &done[i]);
    }
}

static void *worker_main(void *argument)
{
    struct worker *w = argument;
    struct error err = {0};
    if (w->engine->params.pin)
        pin_to(w->number);
    enum status status = worker_init(w, &err);
    worker_report(w, status, &err);
    if (!status)
        worker_run(w);
    return NULL;
}

/* ---- engine ---- */

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
        pthread_mutex_init(&w->lock, NULL);
        w->inbox = calloc(engine->params.queue_limit, sizeof(struct search_query *));
        if (!w->inbox)
            return error_set(err, STATUS_NO_MEMORY, "engine: out of memory for a queue of %u",
                             engine->params.queue_limit);
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

void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    workers_wait_ready(engine);
    for (uint32_t i = 0; engine->workers && i < engine->params.threads; i++) {
        struct worker *w = &engine->workers[i];
        if (!w->engine)
            continue;
        if (w->started) {
            atomic_store_explicit(&w->stopping, true, memory_order_release);
            /* A worker that failed to start has no io and is on its way out by itself. */
            if (w->io)
                block_io_wake(w->io);
            pthread_join(w->thread, NULL);
            worker_fini(w);
        }
        free(w->inbox);
        pthread_mutex_destroy(&w->lock);
    }
    free(engine->workers);
    pthread_cond_destroy(&engine->start_changed);
    pthread_mutex_destroy(&engine->start_lock);
    index_release(engine->index);
    free(engine);
}

enum status engine_query_check(const struct engine *engine, const struct search_query *query,
                               struct error *err)
{
    const struct manifest *m = engine->index->manifest;
    if (query->k == 0 || query->k > ENGINE_K_MAX)
        return error_set(err, STATUS_INVALID, "k is %u, not in 1..%d", query->k, ENGINE_K_MAX);
    if (query->k > m->vector_count)
        return error_set(err, STATUS_INVALID, "k is %u, but the index holds %llu vectors", query->k,
                         (unsigned long long)m->vector_count);
    if (query->search_list > ENGINE_SEARCH_LIST_MAX)
        return error_set(err, STATUS_INVALID, "search list is %u, at most %d", query->search_list,
                         ENGINE_SEARCH_LIST_MAX);
    if (query->k > query->search_list)
        return error_set(err, STATUS_INVALID, "k is %u, above the search list of %u", query->k,
                         query->search_list);
    if (query->beam_width > ENGINE_BEAM_WIDTH_MAX)
        return error_set(err, STATUS_INVALID, "beam width is %u, at most %d", query->beam_width,
                         ENGINE_BEAM_WIDTH_MAX);
    if (!(query->search_ratio >= 0.0f) || isinf(query->search_ratio))
        return error_set(err, STATUS_INVALID, "search ratio is not a number >= 0");
    size_t bad;
    if (!element_all_finite(m->type, query->vector, m->dim, &bad))
        return error_set(err, STATUS_INVALID, "query has a NaN or infinity at dimension %zu", bad);
    if (m->metric == METRIC_COSINE &&
        distance_query_scale(&engine->index->distance, query->vector) == 0.0f)
        return error_set(err, STATUS_INVALID,
                         "query is a zero vector, which has no direction under cosine");
    return STATUS_OK;
}

void engine_stats_get(const struct engine *engine, struct engine_stats *out)
{
    *out = (struct engine_stats){.threads = engine->params.threads};
    out->queued = atomic_load_explicit(&engine->queued, memory_order_relaxed);
    uint32_t load = 0;
    for (uint32_t i = 0; i < engine->params.threads; i++) {
        const struct worker *w = &engine->workers[i];
        const struct counters *c = &w->counters;
        load += atomic_load_explicit(&w->load, memory_order_relaxed);
        out->queries += atomic_load_explicit(&c->queries, memory_order_relaxed);
        out->timeouts += atomic_load_explicit(&c->timeouts, memory_order_relaxed);
        out->degraded += atomic_load_explicit(&c->degraded, memory_order_relaxed);
        out->reads += atomic_load_explicit(&c->reads, memory_order_relaxed);
        out->read_retries += atomic_load_explicit(&c->read_retries, memory_order_relaxed);
        out->failed_blocks += atomic_load_explicit(&c->failed_blocks, memory_order_relaxed);
        out->cache_hits += atomic_load_explicit(&c->cache_hits, memory_order_relaxed);
        out->code_distances += atomic_load_explicit(&c->code_distances, memory_order_relaxed);
        out->exact_distances += atomic_load_explicit(&c->exact_distances, memory_order_relaxed);
        out->busy_ns += atomic_load_explicit(&c->busy_ns, memory_order_relaxed);
    }
    out->in_flight = load > out->queued ? load - out->queued : 0;
    memcpy(out->io, engine->workers[0].io_description, sizeof(out->io));
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
