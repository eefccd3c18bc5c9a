/*
 * fetch.h - a query for one vector by its key, as a state machine over reads. Internal to the
 * engine: it lives in the slot of a worker, beside the search that the slot may run instead, and
 * never blocks.
 *
 *   fetch_start(), then fetch_next_read() until it gives nothing to read; fetch_page() or
 * fetch_block() for a read that lands, and fetch_next_read() again; done when there is nothing to
 * read and nothing in flight.
 *
 * At most two reads, one after the other: the page of keys.bin that would have the key, and the
 * block of its node unless that is in memory or only the key's existence was asked. The page is
 * acted on where it landed and not kept: few keys in a row are of one page.
 *
 * There is no partial answer: a read that fails for good is the end, with STATUS_IO.
 */
#ifndef NIGHTJAR_QUERY_FETCH_H
#define NIGHTJAR_QUERY_FETCH_H

#include "layout/keys.h"
#include "query/search.h"

enum fetch_state {
    FETCH_PAGE,  /* the key page is to be read, or being read */
    FETCH_BLOCK, /* the block */
    FETCH_DONE,
};

struct fetch {
    struct search *search; /* of the same slot: query, stats and in_flight are kept there */
    enum fetch_state state;
    uint32_t page; /* of keys.bin: the one that would have the key */
    uint32_t node; /* of the key, from FETCH_BLOCK on */
    enum status status;
};

/* Binds a query to the free slot that `search` is of. */
void fetch_start(struct fetch *fetch, struct search *search, struct search_query *query);

/* The page or block to read next, counting it as in flight; or SEARCH_NO_BLOCK. A cached block is
 * acted on inside. */
uint32_t fetch_next_read(struct fetch *fetch);

/* Whether what fetch_next_read() gave last is a page of keys.bin. */
ALWAYS_INLINE bool fetch_reads_page(const struct fetch *fetch)
{
    return fetch->state == FETCH_PAGE;
}

/* The read has landed: a verified page, or a verified block. */
void fetch_page(struct fetch *fetch, const struct keys_page *page);
void fetch_block(struct fetch *fetch, const struct block_view *view);

/* The read has failed for good. */
void fetch_failed(struct fetch *fetch);

#endif
