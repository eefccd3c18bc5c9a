/*
 * engine_internal.h - what engine.c (the calls of others) and engine_worker.c (a worker's thread)
 * share.
 *
 * Locks: the inbox has its own; engine.start_lock guards the report of workers that start.
 * Everything else that crosses threads is an atomic: counters (relaxed, one writer each but where
 * said), worker.load (relaxed: a hint), queued (relaxed: a limit, exact because one fetch_add
 * decides), unanswered (see query_answered()), pace (relaxed: hints).
 */
#ifndef NIGHTJAR_QUERY_ENGINE_INTERNAL_H
#define NIGHTJAR_QUERY_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "query/engine.h"
#include "query/engine_inbox.h"
#include "query/engine_pace.h"
#include "query/fetch.h"
#include "query/search.h"

#define SLOT_NONE UINT32_MAX
#define READ_NONE UINT32_MAX

enum { READ_OF_BITS = 10, READ_OF_SLOTS = 1 << READ_OF_BITS };

struct engine_counters {
    atomic_uint_fast64_t queries, fetches, timeouts, degraded, busy;
    atomic_uint_fast64_t reads, shared_reads, read_retries, read_timeouts, failed_blocks,
        cache_hits;
    atomic_uint_fast64_t code_distances, exact_distances, busy_ns;
    struct histogram latency, read_latency;
};

/* A read buffer and what it is being read for. Reads that someone waits for are linked in order of
 * submission, so that those that take too long are found first. */
struct read {
    uint32_t slot;   /* SLOT_NONE: given up; the buffer is the kernel's until the read completes */
    uint32_t number; /* of a block, or of a page of keys.bin */
    bool page;       /* which of the two */
    bool retried;
    bool kept;             /* the buffer is free, and has the verified block still */
    uint32_t first_waiter; /* slots that want the same block; SLOT_NONE */
    uint32_t older, newer; /* READ_NONE at the ends */
    uint64_t submitted_ns;
};

/* Room for one running query: a search, or a fetch over the search's memory. */
struct slot {
    struct search search;
    struct fetch fetch;
    uint64_t started_ns;
    bool paused;           /* its search has work to do without waiting for a read */
    uint32_t parked_block; /* or page, wanted while no buffer is free; SEARCH_NO_BLOCK: none */
    uint64_t parked_ns;    /* since when */
    uint32_t given_up;     /* its reads that took too long */
    uint32_t waits_for;    /* a read of another slot that it has a share in; READ_NONE */
    uint32_t next_waiter;  /* of that read; SLOT_NONE */
};

struct worker {
    struct engine *engine;
    pthread_t thread;
    uint32_t number;
    bool started;

    struct inbox inbox;
    atomic_uint load; /* queries in inbox and slots */
    struct engine_pace pace;

    struct block_io *io;
    atomic_bool stopping;
    struct slot *slots;
    uint32_t *free_slots;
    uint32_t free_count;
    uint32_t parked_count; /* slots with a parked block */
    uint32_t paused_count; /* slots whose search pauses */
    uint32_t paused_turn;  /* the slot that goes on next, or the first paused one behind it */
    uint32_t paused_parts; /* that this one has had in a row */
    uint8_t *buffers;
    struct read *reads;   /* [buffer_count], beside buffers */
    uint32_t *free_reads; /* [buffer_count], a ring: longest free first */
    uint32_t free_read_first, free_read_count;
    uint32_t *read_of; /* [READ_OF_SLOTS] by block: the buffer it came or comes to, or READ_NONE */
    uint32_t oldest_read, newest_read; /* READ_NONE: none is waited for */
    atomic_uint reads_in_flight;
    uint64_t now_ns; /* the last look at the clock */
    uint64_t read_timeout_ns, tick_ns, next_tick_ns;
    struct search_scratch scratch;
    struct engine_counters counters;
    char io_description[192];
};

struct engine {
    struct index *index;
    struct engine_params params;
    uint32_t buffer_count; /* a worker's */
    size_t buffer_bytes;
    uint32_t concurrency; /* queries that a worker has use for at once */
    struct worker *workers;
    atomic_uint queued;           /* in all inboxes */
    atomic_uint unanswered;       /* submitted, their complete() not over: which may submit more */
    atomic_uint rotation;         /* where the search for a worker starts */
    atomic_uint_fast64_t refused; /* busy, as told on submitters' threads: many writers */
    /* start-up: workers report, engine_create() waits */
    pthread_mutex_t start_lock; /* guards ready, start_status, start_error */
    pthread_cond_t start_changed;
    uint32_t started, ready;
    enum status start_status;
    struct error start_error;
};

/* What the time of a query to come grows with: L; 0 for a fetch, which takes that of two reads.
 * Within a radius it is the least that there will be. */
ALWAYS_INLINE uint32_t query_list(const struct search_query *query)
{
    return query->kind == SEARCH_FETCH ? 0 : query->search_list;
}

/* What the time of a search that is over grew with, in the same measure: within a radius what was
 * read, for there L is a floor and hundreds of times as much no rarity. 0: nothing that tells of
 * other queries, as where a scan looked at all that match a filter. */
ALWAYS_INLINE uint32_t search_work(const struct search *search)
{
    const struct search_query *query = search->query;
    if (search->filter.filter && search->filter.scanned)
        return 0;
    uint32_t read = search->stats.reads + search->stats.cache_hits;
    return query->within_radius ? MAX(query->search_list, read) : query->search_list;
}

/* The thread of a worker: makes what it needs, reports, serves until it is told to stop and all is
 * answered, by the other workers too. Afterwards no read is in flight. */
void *worker_main(void *worker);

/* All that the worker allocates. */
enum status worker_init(struct worker *worker, struct error *err);

/* Once the thread has ended. */
void worker_fini(struct worker *worker);

/* The query's complete() has returned, or it was not accepted. Release pairs with the acquire of a
 * worker that finds none left and ends: what complete() submitted was counted before. */
ALWAYS_INLINE void query_answered(struct engine *engine)
{
    atomic_fetch_sub_explicit(&engine->unanswered, 1, memory_order_release);
}

/* Completes a query that was never started. */
void query_complete_unstarted(struct engine *engine, struct search_query *query, enum status status,
                              uint64_t now_ns);

#endif
