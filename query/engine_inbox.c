/*
 * engine_inbox.c - see engine_inbox.h.
 */
#include "query/engine_inbox.h"

static uint32_t lane_of(uint32_t flow)
{
    return flow % INBOX_LANES;
}

void inbox_init(struct inbox *inbox)
{
    *inbox = (struct inbox){0};
    pthread_mutex_init(&inbox->lock, NULL);
}

void inbox_fini(struct inbox *inbox)
{
    pthread_mutex_destroy(&inbox->lock);
}

/* ---- with the lock held ---- */

static void count_add(struct inbox *inbox, uint32_t by)
{
    uint32_t count = atomic_load_explicit(&inbox->count, memory_order_relaxed);
    atomic_store_explicit(&inbox->count, count + by, memory_order_relaxed);
}

static void lane_append(struct inbox *inbox, struct search_query *query)
{
    uint32_t number = lane_of(query->flow);
    struct inbox_lane *lane = &inbox->lanes[number];
    query->newer = NULL;
    query->older = lane->newest;
    if (lane->newest)
        lane->newest->newer = query;
    else
        lane->oldest = query;
    lane->newest = query;
    lane->count++;
    inbox->waiting |= UINT64_C(1) << number;
    count_add(inbox, 1);
}

static struct search_query *lane_remove(struct inbox *inbox, struct search_query *query)
{
    uint32_t number = lane_of(query->flow);
    struct inbox_lane *lane = &inbox->lanes[number];
    if (query->older)
        query->older->newer = query->newer;
    else
        lane->oldest = query->newer;
    if (query->newer)
        query->newer->older = query->older;
    else
        lane->newest = query->older;
    if (--lane->count == 0)
        inbox->waiting &= ~(UINT64_C(1) << number);
    count_add(inbox, UINT32_MAX);
    return query;
}

/* The first lane that is not empty from `from` on, in a circle; there is one. */
static uint32_t lane_next(const struct inbox *inbox, uint32_t from)
{
    uint64_t behind = inbox->waiting & (UINT64_MAX << from);
    return (uint32_t)__builtin_ctzll(behind ? behind : inbox->waiting);
}

static uint32_t lane_longest(const struct inbox *inbox)
{
    uint32_t longest = 0;
    for (uint32_t i = 1; i < INBOX_LANES; i++)
        if (inbox->lanes[i].count > inbox->lanes[longest].count)
            longest = i;
    return longest;
}

/* ---- any thread ---- */

void inbox_push(struct inbox *inbox, struct search_query *query)
{
    pthread_mutex_lock(&inbox->lock);
    lane_append(inbox, query);
    pthread_mutex_unlock(&inbox->lock);
}

struct search_query *inbox_take(struct inbox *inbox)
{
    struct search_query *query = NULL;
    pthread_mutex_lock(&inbox->lock);
    if (inbox->waiting) {
        uint32_t lane = lane_next(inbox, inbox->turn);
        inbox->turn = (lane + 1) % INBOX_LANES;
        query = lane_remove(inbox, inbox->lanes[lane].oldest);
    }
    pthread_mutex_unlock(&inbox->lock);
    return query;
}

struct search_query *inbox_take_late(struct inbox *inbox, uint64_t now_ns)
{
    struct search_query *query = NULL;
    pthread_mutex_lock(&inbox->lock);
    for (uint64_t left = inbox->waiting; left && !query; left &= left - 1) {
        struct search_query *oldest = inbox->lanes[__builtin_ctzll(left)].oldest;
        if (engine_query_late(oldest, now_ns))
            query = lane_remove(inbox, oldest);
    }
    pthread_mutex_unlock(&inbox->lock);
    return query;
}

struct search_query *inbox_replace(struct inbox *inbox, struct search_query *query)
{
    struct search_query *replaced = NULL;
    pthread_mutex_lock(&inbox->lock);
    const struct inbox_lane *longest = &inbox->lanes[lane_longest(inbox)];
    if (inbox->lanes[lane_of(query->flow)].count + 1 < longest->count) {
        replaced = lane_remove(inbox, longest->newest);
        lane_append(inbox, query);
    }
    pthread_mutex_unlock(&inbox->lock);
    return replaced;
}

uint32_t inbox_ahead(struct inbox *inbox, uint32_t flow)
{
    uint32_t ahead = 0;
    pthread_mutex_lock(&inbox->lock);
    uint32_t turns = inbox->lanes[lane_of(flow)].count;
    for (uint64_t left = inbox->waiting; left; left &= left - 1) {
        uint32_t number = (uint32_t)__builtin_ctzll(left);
        uint32_t count = inbox->lanes[number].count;
        /* Each other lane has a turn for each of this one's, and may have one more before it. */
        ahead += number == lane_of(flow) || count <= turns ? count : turns + 1;
    }
    pthread_mutex_unlock(&inbox->lock);
    return ahead;
}
