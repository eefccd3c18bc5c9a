/*
 * engine_worker.c - a worker's thread: queries, reads and the clock.
 *
 * Each worker owns a block_io, a pool of read buffers and `slots` searches; it alone touches them.
 * It takes queries from its inbox while it has free slots, asks block_io for the blocks they want
 * (a fetch: also for a page of keys.bin), and acts on each as it lands.
 *
 * Queries that want one block at a time share its read, and of the free buffers the one that is
 * free longest is used next, until when a block is found in it: the queries of a batch are often
 * near one another.
 *
 * What a device does late is met by a tick, a few milliseconds apart, while queries run: a read
 * that took too long is given up, a query past its deadline is answered. Then the buffer of a read
 * in flight is an orphan, unless another query shares it and takes it over: it returns to the pool
 * when the kernel is done with it. Each slot can always have one read but for these; when they hold
 * all buffers, a query that needs one is parked, and answered without its blocks after as long as
 * it would wait for a read.
 *
 * A worker may stand still itself (a stopped process, a paused machine, swapping). That is no fault
 * of the device: what has landed meanwhile is never given up, and a tick that is much too late
 * gives up nothing.
 */
#include <assert.h>
#include <sched.h>

#include "common/clock.h"
#include "query/engine_internal.h"

enum {
    COMPLETIONS = 2,   /* handled before the reads they lead to are submitted: see worker_run() */
    WIDTH_TARGET = 12, /* reads in flight a worker aims for when it may choose the width */
    WIDTH_CHOSEN_MAX = 6,
    WIDTH_CHOSEN_MIN = 1,
    STARTED_ALWAYS = 4, /* queries, whatever their deadlines */
    GIVEN_UP_MAX = 2,   /* reads a query waits for in vain: then the device hangs, not a block */
    SHARED_WHILE_YOUNG = 4, /* this part of the read timeout */
    PAUSED_PARTS = 32,      /* of a search in a row, while others wait for their turn */
    TICK_LATE = 4,          /* a tick later than this part of it: the worker stood still */
};

/* One writer, so a store after a load loses nothing. */
static void count(atomic_uint_fast64_t *counter, uint64_t by)
{
    uint64_t before = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, before + by, memory_order_relaxed);
}

static uint32_t active_count(const struct worker *w)
{
    return w->engine->params.slots_per_thread - w->free_count;
}

static uint32_t waiting_count(const struct worker *w)
{
    return atomic_load_explicit(&w->inbox.count, memory_order_relaxed);
}

/* ---- what a slot runs ---- */

static bool slot_fetches(const struct slot *slot)
{
    return slot->search.query->kind == SEARCH_FETCH;
}

static void slot_start(struct slot *slot, struct search_query *query)
{
    if (query->kind == SEARCH_FETCH)
        fetch_start(&slot->fetch, &slot->search, query);
    else
        search_start(&slot->search, query);
}

/* The number of the block, or page, to read next; or SEARCH_NO_BLOCK. */
static uint32_t slot_next_read(struct slot *slot, uint32_t width)
{
    return slot_fetches(slot) ? fetch_next_read(&slot->fetch)
                              : search_next_read(&slot->search, width);
}

static void slot_failed(struct slot *slot)
{
    if (slot_fetches(slot))
        fetch_failed(&slot->fetch);
    else
        search_block_failed(&slot->search);
}

/* What slot_next_read() gave last will not be read. */
static void slot_skipped(struct slot *slot)
{
    if (slot_fetches(slot)) {
        slot->search.stats.reads--;
        fetch_failed(&slot->fetch);
    } else {
        search_block_skipped(&slot->search);
    }
}

static enum status slot_end_status(const struct slot *slot)
{
    if (slot->search.late)
        return STATUS_TIMEOUT;
    return slot_fetches(slot) ? slot->fetch.status : STATUS_OK;
}

/* ---- reads ---- */

static void read_link(struct worker *w, uint32_t number, uint64_t now_ns)
{
    struct read *read = &w->reads[number];
    read->submitted_ns = now_ns;
    read->older = w->newest_read;
    read->newer = READ_NONE;
    if (w->newest_read != READ_NONE)
        w->reads[w->newest_read].newer = number;
    else
        w->oldest_read = number;
    w->newest_read = number;
}

static void read_unlink(struct worker *w, uint32_t number)
{
    const struct read *read = &w->reads[number];
    if (read->older != READ_NONE)
        w->reads[read->older].newer = read->newer;
    else
        w->oldest_read = read->newer;
    if (read->newer != READ_NONE)
        w->reads[read->newer].older = read->older;
    else
        w->newest_read = read->older;
}

static uint32_t free_read_take(struct worker *w)
{
    uint32_t number = w->free_reads[w->free_read_first];
    w->free_read_first = (w->free_read_first + 1) % w->engine->buffer_count;
    w->free_read_count--;
    return number;
}

static void free_read_put(struct worker *w, uint32_t number)
{
    uint32_t place = (w->free_read_first + w->free_read_count++) % w->engine->buffer_count;
    w->free_reads[place] = number;
}

/* Where the buffer of a block is noted: of two blocks that share the place, the later one's. */
static uint32_t *read_of_place(const struct worker *w, uint32_t block)
{
    return &w->read_of[block * 0x9e3779b1u >> (32 - READ_OF_BITS)];
}

static uint8_t *read_buffer(const struct worker *w, uint64_t number)
{
    return w->buffers + number * w->engine->buffer_bytes;
}

/* No page is longer than a block, so each buffer is good for either. */
static uint32_t read_bytes(const struct worker *w, const struct read *read)
{
    return read->page ? KEYS_PAGE_BYTES : (uint32_t)w->engine->buffer_bytes;
}

static void read_submit(struct worker *w, uint32_t number, uint64_t now_ns)
{
    const struct index *index = w->engine->index;
    const struct read *read = &w->reads[number];
    uint32_t bytes = read_bytes(w, read);
    int fd = read->page ? index->keys_fd : index->nodes_fd;
    bool queued = block_io_read(w->io, fd, (uint64_t)read->number * bytes, read_buffer(w, number),
                                bytes, number);
    /* The ring is as deep as there are buffers, and each buffer has at most one read. */
    assert(queued);
    (void)queued;
    w->slots[read->slot].search.stats.read_bytes += bytes;
    read_link(w, number, now_ns);
}

static void show_reads_in_flight(struct worker *w)
{
    atomic_store_explicit(&w->reads_in_flight, w->engine->buffer_count - w->free_read_count,
                          memory_order_relaxed);
}

/* Reads what the slot wants, block or page `wanted`. */
static void read_start(struct worker *w, uint32_t slot, uint32_t wanted, uint64_t now_ns)
{
    uint32_t number = free_read_take(w);
    bool page = slot_fetches(&w->slots[slot]) && fetch_reads_page(&w->slots[slot].fetch);
    w->reads[number] =
        (struct read){.slot = slot, .number = wanted, .page = page, .first_waiter = SLOT_NONE};
    if (!page)
        *read_of_place(w, wanted) = number;
    show_reads_in_flight(w);
    read_submit(w, number, now_ns);
}

/* ---- shared reads ---- */

/* Whether the slot may wait for a read in flight of another. Not where that failed or was given up;
 * nor where it is late, so that a read that is stuck harms few; nor in more than one; nor when the
 * slot waits for the device no more. */
static bool may_join(const struct worker *w, const struct slot *slot, const struct read *read,
                     uint64_t now_ns)
{
    return read->slot != SLOT_NONE && slot->waits_for == READ_NONE &&
           slot->given_up < GIVEN_UP_MAX &&
           now_ns < read->submitted_ns + w->read_timeout_ns / SHARED_WHILE_YOUNG;
}

/* Acts on the block without a read of the slot's own, where it is in a buffer, or on its way there
 * for another slot; false when it has to be read. */
static bool read_share(struct worker *w, uint32_t number, uint32_t block, uint64_t now_ns)
{
    struct slot *slot = &w->slots[number];
    uint32_t known = *read_of_place(w, block);
    if (known == READ_NONE || w->engine->params.own_reads || w->reads[known].number != block ||
        w->reads[known].page)
        return false;
    struct read *read = &w->reads[known];
    if (!read->kept && !may_join(w, slot, read, now_ns))
        return false;
    slot->search.stats.shared_reads++;
    slot->search.stats.read_bytes += w->engine->buffer_bytes;
    if (read->kept) {
        struct block_view view;
        block_view_trusted(&w->engine->index->geometry, block, read_buffer(w, known), &view);
        search_block(&slot->search, &view);
        return true;
    }
    slot->waits_for = known;
    slot->next_waiter = read->first_waiter;
    read->first_waiter = number;
    return true;
}

/* The slot has no share in a read of another any more. */
static void share_drop(struct worker *w, uint32_t number)
{
    struct slot *slot = &w->slots[number];
    uint32_t *at = &w->reads[slot->waits_for].first_waiter;
    while (*at != number)
        at = &w->slots[*at].next_waiter;
    *at = slot->next_waiter;
    slot->waits_for = READ_NONE;
}

/* Takes the slots that share the read off it, as a list by next_waiter. The read's own is not in
 * it: that one may be in the list of another read. */
static uint32_t shares_take(struct worker *w, struct read *read)
{
    uint32_t first = read->first_waiter;
    for (uint32_t i = first; i != SLOT_NONE; i = w->slots[i].next_waiter)
        w->slots[i].waits_for = READ_NONE;
    read->first_waiter = SLOT_NONE;
    return first;
}

/* Nobody waits for it any more. */
static void read_orphan(struct worker *w, uint32_t number)
{
    read_unlink(w, number);
    w->reads[number].slot = SLOT_NONE;
    block_io_cancel(w->io, number);
}

/* The read is another slot's from now on, where one has a share in it. */
static bool read_pass_on(struct worker *w, uint32_t number)
{
    struct read *read = &w->reads[number];
    uint32_t heir = read->first_waiter;
    if (heir == SLOT_NONE)
        return false;
    share_drop(w, heir);
    read->slot = heir; /* to whom it still counts as shared: who asked for it has counted it */
    return true;
}

/* ---- parked queries ---- */

static void slot_park(struct worker *w, struct slot *slot, uint32_t block, uint64_t now_ns)
{
    slot->parked_block = block;
    slot->parked_ns = now_ns;
    w->parked_count++;
}

static uint32_t slot_unpark(struct worker *w, struct slot *slot)
{
    uint32_t block = slot->parked_block;
    slot->parked_block = SEARCH_NO_BLOCK;
    w->parked_count--;
    return block;
}

/* A buffer is free: whoever waits longest has it. */
static void unpark_one(struct worker *w, uint64_t now_ns)
{
    uint32_t first = SLOT_NONE;
    for (uint32_t i = 0; i < w->engine->params.slots_per_thread; i++) {
        const struct slot *slot = &w->slots[i];
        if (slot->parked_block == SEARCH_NO_BLOCK)
            continue;
        if (first == SLOT_NONE || slot->parked_ns < w->slots[first].parked_ns)
            first = i;
    }
    assert(first != SLOT_NONE);
    read_start(w, first, slot_unpark(w, &w->slots[first]), now_ns);
}

static void buffer_return(struct worker *w, uint32_t number, uint64_t now_ns)
{
    free_read_put(w, number);
    show_reads_in_flight(w);
    if (UNLIKELY(w->parked_count > 0))
        unpark_one(w, now_ns);
}

/* ---- a worker's queries ---- */

static void load_drop(struct worker *w)
{
    atomic_fetch_sub_explicit(&w->load, 1, memory_order_relaxed);
}

void query_complete_unstarted(struct engine *engine, struct search_query *query, enum status status,
                              uint64_t now_ns)
{
    uint64_t waited_ns = now_ns - query->submitted_ns;
    query->status = status;
    query->flags = 0;
    query->hit_count = 0;
    query->found = false;
    query->node = UINT32_MAX;
    query->stats = (struct search_stats){.queue_ns = waited_ns, .total_ns = waited_ns};
    query->complete(query);
    query_answered(engine);
}

/* What is still in flight for the query is nobody's from now on. */
static void slot_abandon(struct worker *w, uint32_t number)
{
    struct slot *slot = &w->slots[number];
    if (slot->parked_block != SEARCH_NO_BLOCK)
        (void)slot_unpark(w, slot);
    if (slot->waits_for != READ_NONE)
        share_drop(w, number);
    uint32_t next;
    for (uint32_t read = w->oldest_read; read != READ_NONE; read = next) {
        next = w->reads[read].newer;
        if (w->reads[read].slot == number && !read_pass_on(w, read))
            read_orphan(w, read);
    }
}

static void slot_set_paused(struct worker *w, struct slot *slot, bool paused)
{
    w->paused_count += (uint32_t)paused - (uint32_t)slot->paused;
    slot->paused = paused;
}

static void count_query(struct worker *w, const struct search_query *query)
{
    struct engine_counters *c = &w->counters;
    const struct search_stats *stats = &query->stats;
    count(&c->queries, 1);
    count(&c->fetches, query->kind == SEARCH_FETCH);
    count(&c->timeouts, query->status == STATUS_TIMEOUT);
    count(&c->degraded, (query->flags & SEARCH_DEGRADED) != 0);
    count(&c->reads, stats->reads);
    count(&c->shared_reads, stats->shared_reads);
    count(&c->failed_blocks, stats->failed_blocks);
    count(&c->cache_hits, stats->cache_hits);
    count(&c->code_distances, stats->code_distances);
    count(&c->exact_distances, stats->exact_distances);
    count(&c->busy_ns, stats->cpu_ns);
    if (query->status == STATUS_OK && query->kind != SEARCH_FETCH)
        histogram_record(&c->latency, stats->total_ns);
}

static void finish_query(struct worker *w, uint32_t number, enum status status)
{
    struct slot *slot = &w->slots[number];
    struct search *s = &slot->search;
    struct search_query *query = s->query;
    uint64_t now_ns = clock_monotonic_ns();
    w->now_ns = now_ns;
    slot_set_paused(w, slot, false);
    if (s->in_flight > 0)
        slot_abandon(w, number);
    query->status = status;
    query->flags = s->flags;
    query->stats = s->stats;
    query->stats.total_ns = now_ns - query->submitted_ns;
    count_query(w, query);
    uint32_t work = slot_fetches(slot) ? 0 : search_work(s);
    if (work > 0)
        engine_pace_took(&w->pace, now_ns - slot->started_ns, work, status != STATUS_OK);
    engine_pace_completed(&w->pace, now_ns, waiting_count(w) > 0);
    s->query = NULL;
    w->free_slots[w->free_count++] = number;
    load_drop(w);
    query->complete(query);
    query_answered(w->engine);
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

/* Each slot can have one read; more only out of the extra buffers. */
static bool may_read(const struct worker *w, const struct search *s, uint32_t width)
{
    return s->in_flight < width &&
           (s->in_flight == 0 || w->free_read_count > w->engine->params.slots_per_thread);
}

/* The newest `started` reads are submitted by the next poll, not when they were chosen. */
static void stamp_reads(struct worker *w, uint32_t started, uint64_t now_ns)
{
    for (uint32_t read = w->newest_read; started > 0; started--, read = w->reads[read].older)
        w->reads[read].submitted_ns = now_ns;
}

/* Keeps a query moving: more reads, or its end. `since_ns` is when the worker turned to it. */
static void advance(struct worker *w, uint32_t number, uint64_t since_ns)
{
    struct slot *slot = &w->slots[number];
    struct search *s = &slot->search;
    uint32_t width = width_now(w, s);
    uint32_t started = 0;
    while (may_read(w, s, width)) {
        uint32_t block = slot_next_read(slot, width);
        if (block == SEARCH_NO_BLOCK)
            break;
        if (!slot_fetches(slot) && read_share(w, number, block, since_ns))
            continue;
        if (UNLIKELY(slot->given_up >= GIVEN_UP_MAX)) {
            slot_skipped(slot);
        } else if (UNLIKELY(w->free_read_count == 0)) {
            slot_park(w, slot, block, since_ns);
        } else {
            read_start(w, number, block, since_ns);
            started++;
        }
    }
    uint64_t now_ns = clock_monotonic_ns();
    w->now_ns = now_ns;
    stamp_reads(w, started, now_ns);
    s->stats.cpu_ns += now_ns - since_ns;
    slot_set_paused(w, slot, !slot_fetches(slot) && search_pauses(s));
    if (s->in_flight == 0 && !slot->paused)
        finish_query(w, number, slot_end_status(slot));
}

/* Whether the query would probably be too late, and others have use for what would be spent on it.
 * A few are started in any case: their end tells how long queries take now. */
static bool start_is_vain(const struct worker *w, const struct search_query *query, uint64_t now_ns)
{
    return query->deadline_ns != 0 && active_count(w) + waiting_count(w) >= STARTED_ALWAYS &&
           now_ns + engine_pace_service_ns(&w->pace, query_list(query)) > query->deadline_ns;
}

static void start_query(struct worker *w, struct search_query *query)
{
    uint64_t now_ns = clock_monotonic_ns();
    bool late = engine_query_late(query, now_ns);
    if (late || start_is_vain(w, query, now_ns)) {
        count(&w->counters.queries, late);
        count(&w->counters.fetches, late && query->kind == SEARCH_FETCH);
        count(&w->counters.timeouts, late);
        count(&w->counters.busy, !late);
        load_drop(w);
        query_complete_unstarted(w->engine, query, late ? STATUS_TIMEOUT : STATUS_BUSY, now_ns);
        return;
    }
    uint32_t number = w->free_slots[--w->free_count];
    struct slot *slot = &w->slots[number];
    slot->started_ns = now_ns;
    slot->given_up = 0;
    slot_start(slot, query);
    slot->search.stats.queue_ns = now_ns - query->submitted_ns;
    advance(w, number, now_ns);
}

static struct search_query *inbox_next(struct worker *w)
{
    struct search_query *query = inbox_take(&w->inbox);
    if (query)
        atomic_fetch_sub_explicit(&w->engine->queued, 1, memory_order_relaxed);
    return query;
}

/* ---- completions ---- */

/* What a read brought. */
union arrival {
    struct block_view block;
    struct keys_page page;
};

/* Whether the buffer holds the block or page asked for. */
static bool read_arrived(struct worker *w, const struct block_completion *done,
                         union arrival *arrival)
{
    const struct index *index = w->engine->index;
    const struct read *read = &w->reads[done->tag];
    const uint8_t *buffer = read_buffer(w, done->tag);
    if (done->result != (int)read_bytes(w, read))
        return false;
    if (read->page)
        return keys_page_open(&index->keys, read->number, buffer, &arrival->page) == KEYS_OK;
    return block_open(&index->geometry, read->number, buffer, &arrival->block) == BLOCK_OK;
}

static void slot_arrived(struct slot *slot, const struct read *read, const union arrival *arrival)
{
    if (read->page)
        fetch_page(&slot->fetch, &arrival->page);
    else if (slot_fetches(slot))
        fetch_block(&slot->fetch, &arrival->block);
    else
        search_block(&slot->search, &arrival->block);
}

/* What a read brought, or that it failed, to a slot that waited for it. Not more: what the slot
 * wants next may take the buffer. */
static void slot_receive(struct worker *w, struct slot *slot, const struct read *read,
                         const union arrival *arrival)
{
    if (!arrival)
        slot_failed(slot);
    else if (engine_query_late(slot->search.query, w->now_ns))
        slot->search.in_flight--;
    else
        slot_arrived(slot, read, arrival);
}

static void slot_go_on(struct worker *w, uint32_t number, uint64_t now_ns)
{
    if (engine_query_late(w->slots[number].search.query, now_ns))
        finish_query(w, number, STATUS_TIMEOUT);
    else
        advance(w, number, now_ns);
}

static void complete_read(struct worker *w, const struct block_completion *done)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint32_t number = (uint32_t)done->tag;
    struct read *read = &w->reads[number];
    w->now_ns = now_ns;
    if (UNLIKELY(read->slot == SLOT_NONE)) {
        buffer_return(w, number, now_ns);
        return;
    }
    const struct search *s = &w->slots[read->slot].search;
    union arrival arrival;
    bool arrived = read_arrived(w, done, &arrival);
    bool wanted = read->first_waiter != SLOT_NONE || !engine_query_late(s->query, now_ns);
    histogram_record(&w->counters.read_latency, now_ns - read->submitted_ns);
    read_unlink(w, number);
    if (!arrived && !read->retried && wanted) {
        read->retried = true;
        w->slots[read->slot].search.stats.reads++;
        count(&w->counters.read_retries, 1);
        read_submit(w, number, now_ns);
        return;
    }
    uint32_t own = read->slot;
    uint32_t others = shares_take(w, read);
    slot_receive(w, &w->slots[own], read, arrived ? &arrival : NULL);
    for (uint32_t i = others; i != SLOT_NONE; i = w->slots[i].next_waiter)
        slot_receive(w, &w->slots[i], read, arrived ? &arrival : NULL);
    read->slot = SLOT_NONE;
    read->kept = arrived && !read->page;
    buffer_return(w, number, now_ns);
    slot_go_on(w, own, now_ns);
    for (uint32_t i = others, next; i != SLOT_NONE; i = next) {
        next = w->slots[i].next_waiter;
        slot_go_on(w, i, w->now_ns);
    }
}

/* ---- the clock ---- */

static void slot_give_up(struct worker *w, uint32_t number, uint64_t now_ns)
{
    struct slot *slot = &w->slots[number];
    slot->given_up++;
    slot_failed(slot);
    advance(w, number, now_ns);
}

static void read_give_up(struct worker *w, uint32_t read, uint64_t now_ns)
{
    uint32_t own = w->reads[read].slot;
    uint32_t others = shares_take(w, &w->reads[read]);
    read_orphan(w, read);
    count(&w->counters.read_timeouts, 1);
    slot_give_up(w, own, now_ns);
    for (uint32_t i = others, next; i != SLOT_NONE; i = next) {
        next = w->slots[i].next_waiter;
        slot_give_up(w, i, now_ns);
    }
}

/* What a tick itself begins is later than its `now_ns`. */
static bool took_too_long(const struct worker *w, uint64_t since_ns, uint64_t now_ns)
{
    return since_ns + w->read_timeout_ns <= now_ns;
}

static void slot_tick(struct worker *w, uint32_t number, uint64_t now_ns, bool gives_up)
{
    struct slot *slot = &w->slots[number];
    if (!slot->search.query)
        return;
    if (engine_query_late(slot->search.query, now_ns)) {
        finish_query(w, number, STATUS_TIMEOUT);
    } else if (gives_up && slot->parked_block != SEARCH_NO_BLOCK &&
               took_too_long(w, slot->parked_ns, now_ns)) {
        (void)slot_unpark(w, slot);
        slot_skipped(slot);
        slot->given_up = GIVEN_UP_MAX;
        advance(w, number, now_ns);
    }
}

/* Queries that cannot be started, because all slots wait for the device, are answered in time. */
static void inbox_tick(struct worker *w, uint64_t now_ns)
{
    struct search_query *query;
    while ((query = inbox_take_late(&w->inbox, now_ns)) != NULL) {
        atomic_fetch_sub_explicit(&w->engine->queued, 1, memory_order_relaxed);
        start_query(w, query); /* which it is too late for */
    }
}

static bool oldest_took_too_long(const struct worker *w, uint64_t now_ns)
{
    return w->oldest_read != READ_NONE &&
           took_too_long(w, w->reads[w->oldest_read].submitted_ns, now_ns);
}

/* Acts on all that has landed: no more than there are buffers. What is read for it since may land
 * later. */
static void take_landed(struct worker *w)
{
    struct block_completion done[COMPLETIONS];
    size_t n, taken = 0;
    do {
        n = block_io_poll(w->io, false, 0, done, COMPLETIONS);
        for (size_t i = 0; i < n; i++)
            complete_read(w, &done[i]);
        taken += n;
    } while (n > 0 && taken < w->engine->buffer_count);
}

static uint32_t slot_behind(const struct worker *w, uint32_t number)
{
    return number + 1 < w->engine->params.slots_per_thread ? number + 1 : 0;
}

/* One part of one search, after what has landed for others. A search keeps its turn until it is
 * over, since at a turn a part all would end late; but not for long where others pause. */
static void paused_go_on(struct worker *w)
{
    take_landed(w);
    uint32_t number = w->paused_turn;
    assert(w->paused_count > 0); /* none has a read that could have ended it */
    while (!w->slots[number].paused)
        number = slot_behind(w, number);
    w->paused_parts = number == w->paused_turn ? w->paused_parts + 1 : 1;
    advance(w, number, clock_monotonic_ns());
    bool keeps = w->slots[number].paused && w->paused_parts < PAUSED_PARTS;
    w->paused_turn = keeps ? number : slot_behind(w, number);
    w->paused_parts = keeps ? w->paused_parts : 0;
}

static void tick(struct worker *w, uint64_t now_ns)
{
    bool gives_up = now_ns <= w->next_tick_ns + w->read_timeout_ns / TICK_LATE;
    w->next_tick_ns = now_ns + w->tick_ns;
    if (w->parked_count > 0 || oldest_took_too_long(w, now_ns))
        take_landed(w);
    while (gives_up && oldest_took_too_long(w, now_ns))
        read_give_up(w, w->oldest_read, now_ns);
    for (uint32_t i = 0; i < w->engine->params.slots_per_thread; i++)
        slot_tick(w, i, now_ns, gives_up);
    if (w->free_count == 0)
        inbox_tick(w, now_ns);
}

/* ---- the thread ---- */

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
        /* Acquire pairs with engine_destroy()'s release: every submit but those of a complete()
         * came before it. So none unanswered after this load means that none will come. */
        bool stopping = atomic_load_explicit(&w->stopping, memory_order_acquire);
        if (stopping && atomic_load_explicit(&w->engine->unanswered, memory_order_acquire) == 0)
            break;
        struct search_query *query;
        while (w->free_count > 0 && (query = inbox_next(w)) != NULL)
            start_query(w, query);
        /* Nobody tells a worker that the last query of another is answered. */
        bool looks = stopping || active_count(w) > 0;
        bool waits = w->paused_count == 0;
        size_t n = block_io_poll(w->io, waits, looks ? w->tick_ns : UINT64_MAX, done, COMPLETIONS);
        for (size_t i = 0; i < n; i++)
            complete_read(w, &done[i]);
        if (n == 0)
            w->now_ns = clock_monotonic_ns();
        if (!waits)
            paused_go_on(w);
        if (w->now_ns >= w->next_tick_ns)
            tick(w, w->now_ns);
    }
    /* Here, because a ring takes requests from its own thread only. */
    block_io_drain(w->io);
}

void *worker_main(void *argument)
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
