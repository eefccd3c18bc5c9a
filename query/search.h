/*
 * search.h - one query as a state machine over block reads. Internal to the engine: a slot belongs
 * to one worker thread and never blocks.
 *
 *   search_start(), then search_next_read() until it gives no block; search_block() for each read
 * that lands, and search_next_read() again; done when there is no block to read, none in flight,
 * and no pause.
 *
 * Entry points come from the navigation graph. Then the best candidates' blocks are read, up to
 * `width` at a time; each block is acted on as it lands (search_block): every record is scored
 * exactly, records that rank among the best L by code distance are expanded, their neighbours
 * estimated from codes. The search ends when the best L have been read, or when the next
 * candidate's code distance exceeds search_ratio times the exact distance of the k-th hit.
 *
 * Where neighbour lists are in memory the best L are expanded by codes alone first, and then only
 * read; where all blocks are, their vectors are scored one by one, and there is nothing to read.
 *
 * With a filter, the best L are those that match. Either all that match are listed and estimated
 * (a scan, when they are few), or the graph is traversed with a second list of candidates that do
 * not match but lead on. What a filter lets through is decided before a read is spent.
 *
 * Within a radius, candidates beyond the best L are read too while their code distance is near
 * enough for them to lie within it.
 */
#ifndef NIGHTJAR_QUERY_SEARCH_H
#define NIGHTJAR_QUERY_SEARCH_H

#include "query/engine.h"
#include "query/filter.h"
#include "query/frontier.h"
#include "query/index_internal.h"
#include "query/query_vector.h"

/* Scratch of a worker thread, shared by its slots: nothing in it survives a call. */
struct search_scratch {
    uint32_t *ids;
    float *distances;
    float *exact; /* [BLOCK_NODES_MAX] */
};

NODISCARD enum status search_scratch_init(struct search_scratch *scratch, struct error *err);
void search_scratch_fini(struct search_scratch *scratch);

/* What a filter adds to a search. */
struct search_filter {
    const struct filter *filter;          /* NULL: everything matches; the rest is not used */
    struct frontier passage;              /* candidates that do not match */
    uint32_t ways[ENGINE_BEAM_WIDTH_MAX]; /* blocks being read for the sake of those */
    uint32_t way_count;
    uint32_t gain;  /* by the block at hand: candidates that match and are among the best k */
    int32_t credit; /* for further such blocks, in hundredths of one */
    bool scan_due;  /* the frontier is to be filled by a scan, or is being */
    bool scanned;   /* by one that has begun, or is over: nothing is to be expanded */
    struct filter_scan scan; /* where it is, if it has begun */
};

struct search {
    struct search_query *query; /* NULL: the slot is free */
    const struct index *index;
    struct search_scratch *scratch;
    struct query_vector converted;
    const void *vector; /* the query as it is compared */
    void *table;        /* codec query table */
    struct frontier frontier;
    uint32_t list;  /* L: so many of the frontier are worth it wherever they are */
    float reach;    /* code distance up to which all others are: within a radius; else -INFINITY */
    float nearest;  /* exact distance of the nearest record seen, but an excluded one; within a
                       radius only */
    uint32_t *seen; /* scored nodes; forgets on collision */
    uint32_t seen_mask;
    uint32_t *blocks; /* blocks asked for; exact, open addressing */
    uint32_t blocks_mask;
    uint32_t blocks_count, blocks_limit;
    uint32_t in_flight;
    float query_scale;  /* distance_query_scale() */
    float ratio_offset; /* makes distances non-negative for the ratio test */
    struct search_filter filter;
    struct search_stats stats;
    uint32_t flags;
    bool late; /* past its deadline in the midst of a long stretch without reads: over */
};

/* Allocates a slot's memory for any query of `index`. */
NODISCARD enum status search_init(struct search *search, const struct index *index,
                                  struct search_scratch *scratch, struct error *err);
void search_fini(struct search *search);

/* Binds a query to a free slot and finds its entry points. */
void search_start(struct search *search, struct search_query *query);

enum { SEARCH_NO_BLOCK = UINT32_MAX };

/* The next block to read while fewer than `width` reads are in flight, counting it as in flight; or
 * SEARCH_NO_BLOCK. Cached blocks are acted on inside, without a read. The search is over when this
 * gives SEARCH_NO_BLOCK with nothing in flight, but where search_pauses(): the hits are then final
 * in query->hits. While expanding from memory it looks at the query's deadline now and then, and
 * sets `late`. */
uint32_t search_next_read(struct search *search, uint32_t width);

/* Whether the search has paused in the midst of a scan, so that others are not kept waiting by it:
 * search_next_read() goes on with it. Nothing is in flight then. */
ALWAYS_INLINE bool search_pauses(const struct search *search)
{
    return search->filter.filter && search->filter.scan_due && !search->late;
}

/* A read has landed: `view` is the verified block. */
void search_block(struct search *search, const struct block_view *view);

/* A read has failed for good: the answer is degraded. */
void search_block_failed(struct search *search);

/* The block that search_next_read() gave last will not be read: the answer is degraded. */
void search_block_skipped(struct search *search);

#endif
