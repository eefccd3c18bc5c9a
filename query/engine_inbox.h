/*
 * engine_inbox.h - the queries that wait for one worker, in lanes that take turns.
 *
 * A query's flow says whose it is; flows share INBOX_LANES lanes by remainder. Each lane is first
 * come, first served; lanes are served round-robin, a query a turn. So a flow that floods the inbox
 * waits behind itself, and one that comes with a single query waits for a query of each other lane.
 *
 * Lanes are linked through the queries: nothing is allocated. Any thread; the lock is held for a
 * few pointers, or for a pass over the lanes.
 */
#ifndef NIGHTJAR_QUERY_ENGINE_INBOX_H
#define NIGHTJAR_QUERY_ENGINE_INBOX_H

#include <pthread.h>
#include <stdatomic.h>

#include "query/engine.h"

enum { INBOX_LANES = 64 };

struct inbox_lane {
    struct search_query *oldest, *newest;
    uint32_t count;
};

struct inbox {
    pthread_mutex_t lock; /* guards all but count's readers */
    struct inbox_lane lanes[INBOX_LANES];
    uint64_t waiting;  /* bit per lane that is not empty */
    uint32_t turn;     /* the lane to look at first */
    atomic_uint count; /* relaxed; a hint to those without the lock */
};

void inbox_init(struct inbox *inbox);
void inbox_fini(struct inbox *inbox);

void inbox_push(struct inbox *inbox, struct search_query *query);

/* The next in turn; NULL: empty. */
struct search_query *inbox_take(struct inbox *inbox);

/* The oldest query of a lane whose deadline lies before `now_ns`, or NULL. Queries behind the
 * oldest of their lane are not looked at: they came later, and most have later deadlines. */
struct search_query *inbox_take_late(struct inbox *inbox, uint64_t now_ns);

/* Puts `query` in the place of the newest one of the longest lane, which is returned. NULL, and
 * nothing is done, when that would leave the query's lane the longer of the two. */
struct search_query *inbox_replace(struct inbox *inbox, struct search_query *query);

/* How many queries would have their turn before one that came now. */
uint32_t inbox_ahead(struct inbox *inbox, uint32_t flow);

#endif
