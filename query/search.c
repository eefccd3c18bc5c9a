/*
 * search.c - see search.h. Here: a search's life, its entry points, what is read next, and when to
 * stop.
 *
 * Departures from DiskANN's search: entry points come from a navigation graph; there are no rounds
 * (a block is acted on when it lands); every record of a block is scored and those that rank are
 * expanded (as Starling, SIGMOD'24); the stop rule is relative to the k-th exact distance.
 *
 * Why a node is never read twice although `seen` forgets: whatever is popped from the frontier is
 * looked up in `blocks`, which does not forget.
 */
#include "query/search.h"

#include <math.h>
#include <stdlib.h>

#include "common/memory.h"
#include "query/search_internal.h"

enum {
    SEEN_SLOTS = 1 << 12,
    SEEN_SLOTS_MAX = 1 << 16,
    SEEN_PER_LIST = 16,   /* of a long search list */
    NAVIGATION_LIST = 24, /* candidates kept on the navigation graph */
    NAVIGATION_SEEN = 1 << 10,
    READS_PER_LIST = 4, /* blocks a query may read, as a multiple of L: a bound, not a target */
    READS_EXTRA = 64,
    /* And L more for a scan after a traversal. */
    BLOCKS_MAX = (READS_PER_LIST + 1) * ENGINE_SEARCH_LIST_MAX + READS_EXTRA,
};

/* Codes are no exact distances: within a radius, candidates up to so many times it are read where
 * the query does not name a ratio. */
static const float reach_default = 1.2f;

enum status search_scratch_init(struct search_scratch *s, struct error *err)
{
    size_t nodes = SEARCH_BATCH + BLOCK_DEGREE_MAX + BLOCK_NODES_MAX + 1;
    s->ids = calloc(nodes, sizeof(*s->ids));
    s->distances = calloc(nodes, sizeof(*s->distances));
    s->exact = calloc(BLOCK_NODES_MAX, sizeof(*s->exact));
    if (s->ids && s->distances && s->exact)
        return STATUS_OK;
    search_scratch_fini(s);
    return error_set(err, STATUS_NO_MEMORY, "search scratch: out of memory");
}

void search_scratch_fini(struct search_scratch *s)
{
    free(s->ids);
    free(s->distances);
    free(s->exact);
    *s = (struct search_scratch){0};
}

static uint32_t blocks_slots(uint32_t limit)
{
    uint32_t slots = 256;
    while (slots < 2 * limit)
        slots *= 2;
    return slots;
}

static uint32_t seen_slots(uint32_t list)
{
    uint32_t slots = SEEN_SLOTS;
    while (slots < SEEN_PER_LIST * list && slots < SEEN_SLOTS_MAX)
        slots *= 2;
    return slots;
}

static bool frontier_alloc(struct frontier *f)
{
    f->entries = calloc(ENGINE_SEARCH_LIST_MAX + 1, sizeof(*f->entries));
    f->states = calloc(ENGINE_SEARCH_LIST_MAX + 1, sizeof(*f->states));
    return f->entries && f->states;
}

static uint32_t blocks_slots_max(void)
{
    return blocks_slots(BLOCKS_MAX);
}

/* The sets are for the longest lists. Most searches touch a small part of them, so they are pages
 * of their own: a heap would hand out some that were used, and clear them all. */
static enum status sets_alloc(struct search *s, struct error *err)
{
    void *seen = NULL, *blocks = NULL;
    enum status status = bulk_alloc(SEEN_SLOTS_MAX, sizeof(*s->seen), "search slot", &seen, err);
    if (status == STATUS_OK)
        status = bulk_alloc(blocks_slots_max(), sizeof(*s->blocks), "search slot", &blocks, err);
    s->seen = seen;
    s->blocks = blocks;
    return status;
}

enum status search_init(struct search *s, const struct index *index, struct search_scratch *scratch,
                        struct error *err)
{
    *s = (struct search){.index = index, .scratch = scratch};
    size_t table_bytes = size_align(codec_table_bytes(index->codec), 64);
    bool frontiers = frontier_alloc(&s->frontier) && frontier_alloc(&s->filter.passage);
    s->table = aligned_alloc(64, table_bytes);
    enum status status = query_vector_init(&s->converted, index->manifest, err);
    if (status == STATUS_OK)
        status = sets_alloc(s, err);
    if (status == STATUS_OK && frontiers && s->table)
        return STATUS_OK;
    search_fini(s);
    return status == STATUS_OK ? error_set(err, STATUS_NO_MEMORY, "search slot: out of memory")
                               : status;
}

void search_fini(struct search *s)
{
    query_vector_fini(&s->converted);
    free(s->table);
    free(s->frontier.entries);
    free(s->frontier.states);
    free(s->filter.passage.entries);
    free(s->filter.passage.states);
    if (s->seen)
        bulk_free(s->seen, SEEN_SLOTS_MAX, sizeof(*s->seen));
    if (s->blocks)
        bulk_free(s->blocks, blocks_slots_max(), sizeof(*s->blocks));
    *s = (struct search){0};
}

/* False when it is there already. */
static bool blocks_add(struct search *s, uint32_t block)
{
    uint32_t i = search_spread(block) & s->blocks_mask;
    for (; s->blocks[i] != SEARCH_NO_BLOCK; i = (i + 1) & s->blocks_mask)
        if (s->blocks[i] == block)
            return false;
    s->blocks[i] = block;
    s->blocks_count++;
    return true;
}

/* ---- entry points ---- */

/* Greedy search of the navigation graph by code distance; the best NAVIGATION_LIST become the first
 * candidates. Ids inside are places in navigation.nodes. */
static void find_entries(struct search *s)
{
    const struct index *index = s->index;
    const struct navigation *nav = &index->navigation;
    uint64_t entries[NAVIGATION_LIST + 1];
    uint8_t states[NAVIGATION_LIST + 1];
    uint32_t seen[NAVIGATION_SEEN];
    struct frontier f = {.entries = entries, .states = states};
    frontier_reset(&f, NAVIGATION_LIST);
    memset(seen, 0xff, sizeof(seen));

    uint32_t *ids = s->scratch->ids;
    float *distances = s->scratch->distances;
    ids[0] = nav->entry;
    uint32_t fresh = 1;
    seen_add(seen, NAVIGATION_SEEN - 1, nav->entry);
    for (;;) {
        codec_table_gather(index->codec, s->table, index->navigation_codes, ids, fresh, distances);
        s->stats.code_distances += fresh;
        for (uint32_t i = 0; i < fresh; i++)
            frontier_insert(&f, frontier_entry(distances[i], ids[i]), FRONTIER_NEW);
        uint32_t next = frontier_next(&f);
        if (next == FRONTIER_NONE)
            break;
        f.states[next] = FRONTIER_DONE;
        const uint32_t *row = nav->neighbors + (size_t)frontier_node(f.entries[next]) * nav->degree;
        fresh = 0;
        for (uint32_t i = 0; i < nav->degree && row[i] != NAVIGATION_NONE; i++)
            if (seen_add(seen, NAVIGATION_SEEN - 1, row[i]))
                ids[fresh++] = row[i];
    }
    for (uint32_t i = 0; i < f.size; i++) {
        uint32_t node = nav->nodes[frontier_node(f.entries[i])];
        seen_add(s->seen, s->seen_mask, node);
        search_offer_one(s, frontier_distance(f.entries[i]), node);
    }
}

/* The ratio test compares like with like only where zero means "the same vector". Minus the inner
 * product does not: adding (|q|^2 + M^2) / 2, M the largest norm stored, makes it half the squared
 * L2 distance of the reduction the graph was built with. */
static float ratio_offset(const struct search *s)
{
    const struct distance *d = &s->index->distance;
    if (d->metric != METRIC_IP)
        return 0.0f;
    float norm_max = (float)s->index->manifest->norm_max;
    return 0.5f * (distance_query_squared(d, s->vector) + norm_max * norm_max);
}

/* How long the lists are, and how far the search goes. */
static void limits_set(struct search *s)
{
    const struct search_query *query = s->query;
    uint32_t capacity = query->search_list;
    s->list = query->search_list;
    s->reach = -INFINITY;
    s->nearest = INFINITY;
    if (query->within_radius) {
        float ratio = query->search_ratio > 0.0f ? query->search_ratio : reach_default;
        s->reach = ratio * (query->radius + s->ratio_offset) - s->ratio_offset;
        capacity = ENGINE_SEARCH_LIST_MAX;
    }
    s->blocks_count = 0;
    s->blocks_limit = READS_PER_LIST * capacity + READS_EXTRA;
    s->blocks_mask = blocks_slots(s->blocks_limit + (query->filter ? s->list : 0)) - 1;
    s->seen_mask = seen_slots(capacity) - 1;
    memset(s->blocks, 0xff, ((size_t)s->blocks_mask + 1) * sizeof(*s->blocks));
    memset(s->seen, 0xff, ((size_t)s->seen_mask + 1) * sizeof(*s->seen));
    frontier_reset(&s->frontier, capacity);
}

void search_start(struct search *s, struct search_query *query)
{
    bool compares = query->search_ratio > 0.0f || query->within_radius;
    s->query = query;
    s->vector = query_vector_load(&s->converted, query);
    s->stats = (struct search_stats){0};
    s->flags = 0;
    s->late = false;
    s->in_flight = 0;
    query->hit_count = 0;
    s->query_scale = distance_query_scale(&s->index->distance, s->vector);
    s->ratio_offset = compares ? ratio_offset(s) : 0.0f;
    limits_set(s);
    codec_table_build_from(s->index->codec, s->index->distance.query_type, s->vector, s->table);
    search_filter_start(s);
    if (s->filter.scan_due || s->stats.filter_plan == SEARCH_FILTER_EMPTY)
        return;
    find_entries(s);
    if (s->filter.filter)
        search_filter_enter(s);
}

/* ---- stop ---- */

bool search_past(const struct search *s, float code_distance)
{
    const struct search_query *query = s->query;
    if (query->within_radius) {
        bool near =
            query->search_ratio <= 0.0f ||
            code_distance + s->ratio_offset <= query->search_ratio * (s->nearest + s->ratio_offset);
        return !near && code_distance > s->reach;
    }
    if (query->search_ratio <= 0.0f || query->hit_count < query->k)
        return false;
    float kth = query->hits[query->k - 1].distance + s->ratio_offset;
    return code_distance + s->ratio_offset > query->search_ratio * kth;
}

/* ---- what next ---- */

/* A candidate that does not match, to be read before those that do: now counted as read. */
static bool next_passage(struct search *s, uint32_t *node)
{
    const struct search_filter *filter = &s->filter;
    if (!filter->filter || filter->scan_due || filter->scanned || index_lists_in_memory(s->index))
        return false;
    uint32_t place = search_filter_passage(s);
    if (place == FRONTIER_NONE)
        return false;
    struct frontier *passage = &s->filter.passage;
    passage->states[place] = FRONTIER_DONE;
    *node = frontier_node(passage->entries[place]);
    return true;
}

/* The best candidate whose vector was not seen, now counted as seen; false when none is worth it.
 */
static bool next_candidate(struct search *s, uint32_t *node)
{
    struct frontier *f = &s->frontier;
    bool in_memory = index_lists_in_memory(s->index);
    if (s->filter.scan_due)
        search_filter_scan(s);
    if (in_memory && !s->filter.scanned)
        search_expand(s);
    if (s->late || s->filter.scan_due)
        return false;
    uint32_t place = in_memory ? frontier_next_unread(f) : frontier_next(f);
    if (place == FRONTIER_NONE || !search_ranks(s, place, f->entries[place]) ||
        search_past(s, frontier_distance(f->entries[place])))
        return false;
    f->states[place] = FRONTIER_DONE;
    *node = frontier_node(f->entries[place]);
    return true;
}

/* The next block worth having that was not asked for yet, now asked for. */
static uint32_t next_block(struct search *s)
{
    uint32_t node;
    while (s->blocks_count < s->blocks_limit) {
        bool passage = next_passage(s, &node);
        if (!passage && !next_candidate(s, &node))
            break;
        uint32_t block = index_block_of(s->index, node);
        if (!blocks_add(s, block))
            continue;
        if (passage)
            search_filter_passed(s, block);
        return block;
    }
    return SEARCH_NO_BLOCK;
}

/* Everything is in memory: candidates are scored one by one, best first. */
static void finish_resident(struct search *s)
{
    uint32_t node;
    do {
        while (next_candidate(s, &node))
            search_score(s, node);
    } while (s->filter.filter && search_filter_goes_on(s));
}

/* As search_next_read(), as long as the graph leads on. */
static uint32_t next_read(struct search *s, uint32_t width)
{
    while (s->in_flight < width) {
        uint32_t block = next_block(s);
        if (block == SEARCH_NO_BLOCK)
            return SEARCH_NO_BLOCK;
        const void *cached = index_cached_block(s->index, block);
        if (!cached) {
            s->in_flight++;
            s->stats.reads++;
            return block;
        }
        struct block_view view;
        block_view_trusted(&s->index->geometry, block, cached, &view);
        s->stats.cache_hits++;
        search_consider(s, &view);
    }
    return SEARCH_NO_BLOCK;
}

/* Within a radius: there may be more than what was looked at, since the search ended before the end
 * of the frontier, or since that was full of candidates within, and had no room for others. */
static void note_truncation(struct search *s)
{
    struct frontier *f = &s->frontier;
    uint32_t place = index_lists_in_memory(s->index) ? frontier_next_unread(f) : frontier_next(f);
    if (place == FRONTIER_NONE && f->size == f->capacity)
        place = f->size - 1;
    if (place != FRONTIER_NONE && frontier_distance(f->entries[place]) <= s->query->radius)
        s->flags |= SEARCH_TRUNCATED;
}

uint32_t search_next_read(struct search *s, uint32_t width)
{
    if (s->index->memory.resident) {
        finish_resident(s);
    } else {
        uint32_t block = next_read(s, width);
        if (block == SEARCH_NO_BLOCK && s->in_flight == 0 && s->filter.filter &&
            search_filter_goes_on(s))
            block = next_read(s, width);
        if (block != SEARCH_NO_BLOCK)
            return block;
    }
    if (s->in_flight == 0 && s->query->within_radius && !search_pauses(s))
        note_truncation(s);
    return SEARCH_NO_BLOCK;
}

/* ---- reads that ended ---- */

void search_block(struct search *s, const struct block_view *view)
{
    s->in_flight--;
    search_consider(s, view);
}

void search_block_failed(struct search *s)
{
    s->in_flight--;
    s->stats.failed_blocks++;
    s->flags |= SEARCH_DEGRADED;
}

void search_block_skipped(struct search *s)
{
    s->stats.reads--;
    search_block_failed(s);
}
