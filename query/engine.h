/*
 * engine.h - the search engine: worker threads, each with its own block_io and many queries in
 * flight as state machines. Used by the daemon and, in process, by the nightjar command.
 */
#ifndef NIGHTJAR_QUERY_ENGINE_H
#define NIGHTJAR_QUERY_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/compiler.h"
#include "common/error.h"
#include "query/block_io.h"
#include "query/histogram.h"
#include "query/index.h"

enum {
    ENGINE_SEARCH_LIST_MAX = 4096, /* largest L */
    ENGINE_K_MAX = 4096,           /* largest k; k <= L */
    ENGINE_BEAM_WIDTH_MAX = 64,
    ENGINE_READS_DEFAULT = 192, /* reads in flight, and read buffers, of a worker */
};

struct search_hit {
    uint64_t key;
    float distance; /* exact, by the metric's definition in element.h */
    uint32_t node;
};

struct search_stats {
    uint32_t reads;        /* blocks read from disk, retries included */
    uint32_t shared_reads; /* of these, blocks that were in a read buffer, or came to one, for
                            * another query: the device read reads - shared_reads */
    uint32_t cache_hits;   /* blocks found in the cache; resident: candidates scored */
    uint32_t hops;         /* nodes expanded */
    uint32_t exact_distances;
    uint32_t code_distances;
    uint32_t failed_blocks; /* skipped: a retry failed too, a read took too long, or there was no
                             * buffer for it */
    uint32_t filter_plan;   /* enum search_filter_plan */
    uint64_t read_bytes;    /* of those reads, shared ones included */
    uint64_t queue_ns;      /* submit to start */
    uint64_t cpu_ns;        /* time the worker spent on this query; the rest it waited for reads,
                             * or for the worker's other queries */
    uint64_t total_ns;      /* submit to completion */
};

/* How a filter was met; the numbers are on the wire. */
enum search_filter_plan {
    SEARCH_FILTER_NONE = 0,      /* there was none */
    SEARCH_FILTER_SCAN = 1,      /* all that match were listed and estimated */
    SEARCH_FILTER_TRAVERSAL = 2, /* the graph was traversed */
    SEARCH_FILTER_EMPTY = 3,     /* nothing matches */
};

enum search_flags {
    SEARCH_DEGRADED = 1u << 0,  /* a block could not be read: the answer may miss neighbours */
    SEARCH_TRUNCATED = 1u << 1, /* within the radius there are more than k */
};

/* Where the page before ended: hits at or before it, by (distance, key), are left out. */
struct search_after {
    bool set;
    uint32_t rank; /* hits on all pages before; the search list must hold rank + k */
    float distance;
    uint64_t key;
};

/* What is asked. */
enum search_query_kind {
    SEARCH_NEAREST = 0,
    SEARCH_FETCH, /* the vector that has a key */
};

/* A query, owned by the caller and untouched by it between engine_submit() and complete(). */
struct search_query {
    /* in */
    const void *vector;          /* dim elements of the index's query type */
    bool vector_is_f32;          /* or of f32: what an index that stores another type compares with;
                                  * vectors of its sample go back to it exactly so */
    uint32_t k;                  /* 1..ENGINE_K_MAX, <= vector_count; within a radius the most hits
                                  * wanted, else <= search_list */
    uint32_t search_list;        /* L, 1..ENGINE_SEARCH_LIST_MAX */
    uint32_t beam_width;         /* W; 0: the engine chooses by load */
    float search_ratio;          /* stop early beyond this ratio; 0: never (L alone decides) */
    const struct filter *filter; /* hits match it; NULL: no filter. Borrowed until complete() */
    bool within_radius;          /* hits are all within `radius`, the nearest k if there are more */
    float radius;                /* a distance of the metric; what lies on it is within */
    struct search_after after;
    bool excludes; /* as if excluded_node were not in the index: neither a hit nor on the way */
    uint32_t excluded_node;
    uint64_t deadline_ns;    /* CLOCK_MONOTONIC; 0: none. Passed: completes with STATUS_TIMEOUT */
    uint32_t flow;           /* whose it is: queries of different flows take turns; 0 is fine */
    struct search_hit *hits; /* room for k */
    /* On a worker's thread, or within an engine_submit() of anyone whose query took this one's
     * place; must not block. May submit. So engine_submit() is not called with a lock held that
     * any complete() takes. */
    void (*complete)(struct search_query *query);
    void *user;
    /* SEARCH_FETCH, in place of all above but deadline_ns and flow. No more than two reads. */
    enum search_query_kind kind;
    uint64_t key;
    void *fetched; /* room for `dim` f32; NULL: only whether it is there. Written only if it is
                    * found: as queries are given, or, where what is stored is of another type, as
                    * f32, and vector_is_f32 is set */
    bool found;    /* out; false unless `status` is OK */
    uint32_t node; /* out; of the key, UINT32_MAX: not found */
    /* out, set before complete() */
    enum status status; /* OK; TIMEOUT: hits are what was found till then; BUSY: it was queued, but
                         * made room for another flow, or had too little time left to be started;
                         * IO (of a fetch): a page or block could not be read, or is damaged */
    uint32_t hit_count; /* min(k, what was found), ascending distance, ties by lower key */
    uint32_t flags;     /* enum search_flags */
    struct search_stats stats;
    /* the engine's own */
    uint64_t submitted_ns;
    struct search_query *newer, *older; /* of the same lane of the inbox */
};

/* Whether the query is past its deadline. */
ALWAYS_INLINE bool engine_query_late(const struct search_query *query, uint64_t now_ns)
{
    return query->deadline_ns != 0 && now_ns > query->deadline_ns;
}

struct engine_params {
    uint32_t threads;          /* 0: one a CPU this process may use */
    bool pin;                  /* pin each worker to a CPU */
    uint32_t slots_per_thread; /* queries in flight a worker; 0: default (64) */
    uint32_t queue_limit;      /* queries waiting, all workers; 0: default (4096) */
    uint32_t read_timeout_ms;  /* a read that takes longer is given up; 0: default (1000) */
    bool own_reads; /* queries share no reads, and no buffer keeps its block: to measure, or where a
                     * test wants a read for each */
    enum block_io_kind io_kind;
    const struct block_io_faults *faults; /* borrowed, outlives the engine; NULL */
};

struct engine;

/* Starts workers over `index` (a reference is taken). */
NODISCARD enum status engine_create(const struct engine_params *params, struct index *index,
                                    struct engine **out, struct error *err);
/* Completes everything submitted, also by a complete() meanwhile, stops the workers, frees. No
 * other engine_submit() may run beside it. Reads that were given up are cancelled; one that the
 * kernel neither completes nor cancels is waited for without limit, after all queries were
 * answered, since its buffer cannot be freed. */
void engine_destroy(struct engine *engine);

/* Of a search, checks k, L, W, ratio and that the vector has finite distances against the index:
 * STATUS_INVALID with the reason. A vector of NULL is one to come. Does not submit. */
NODISCARD enum status engine_query_check(const struct engine *engine,
                                         const struct search_query *query, struct error *err);

/* Queues a checked query; complete() will be called exactly once. STATUS_BUSY: complete() will not
 * be called, because the queue is full, or those before it will take so long that the deadline
 * cannot be met (never while the worker has a slot for it). When the queue is full and another flow
 * has more queries waiting than this one, the newest of those makes room: it completes with
 * STATUS_BUSY, on this thread, before this returns. Any thread, never blocks. */
NODISCARD enum status engine_submit(struct engine *engine, struct search_query *query);

/* Submits all, again while the engine is busy, and waits for all (in submission order at most
 * `window` in flight; 0: no limit but the queue's). For tools and tests. */
void engine_search_all(struct engine *engine, struct search_query *queries, size_t count,
                       uint32_t window);

struct engine_stats {
    /* counters */
    uint64_t queries; /* answered: OK, TIMEOUT or IO */
    uint64_t fetches; /* of these, those by key */
    uint64_t timeouts, degraded;
    uint64_t busy; /* answered BUSY: refused at submission, replaced in the queue, or not started */
    uint64_t reads, shared_reads, read_retries, read_timeouts, failed_blocks, cache_hits;
    uint64_t code_distances, exact_distances;
    uint64_t busy_ns;                     /* worker CPU spent on queries */
    struct histogram_counts latency;      /* submit to completion, of searches that are OK */
    struct histogram_counts read_latency; /* of reads that were not given up */
    /* as it is now */
    uint32_t queued, in_flight; /* queries */
    uint32_t reads_in_flight;   /* with those given up whose buffer the kernel still has */
    uint32_t threads;
    char io[192]; /* block_io_description() of the first worker */
};
/* Any thread. */
void engine_stats_get(const struct engine *engine, struct engine_stats *out);
/* Sets counters to 0. While nothing is in flight or submitted, that is, by whoever has the engine
 * to himself. */
void engine_stats_clear(struct engine *engine);
/* Adds counters and histograms, as of an engine that another has replaced; the rest stays. */
void engine_stats_add(struct engine_stats *into, const struct engine_stats *from);
struct index *engine_index(const struct engine *engine);

#endif
