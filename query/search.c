/*
 * search.c - see search.h.
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

#include "common/clock.h"
#include "common/memory.h"

enum {
    SEEN_SLOTS = 1 << 12,
    NAVIGATION_LIST = 24, /* candidates kept on the navigation graph */
    NAVIGATION_SEEN = 1 << 10,
    BATCH_IDS = 1024,   /* neighbours estimated in one go */
    READS_PER_LIST = 4, /* blocks a query may read, as a multiple of L: a bound, not a target */
    READS_EXTRA = 64,
    EXPAND_BATCH = 4, /* lists fetched side by side when they are in memory */
    LATE_STEPS = 16,  /* such batches between two looks at the clock: some 0.1 ms */
};

/* With a stop ratio, records are expanded also when their exact distance is within so many times
 * the k-th hit's: they may lead to hits though their codes do not rank. On 1 M SIFT (ratio 1.06, L
 * 100) recall@10 rises from 0.932 to 0.947 for 2 % more reads and 1.8 times the estimates. */
static const float expand_ratio = 1.5f;

enum status search_scratch_init(struct search_scratch *s, struct error *err)
{
    s->ids = calloc(BATCH_IDS + BLOCK_DEGREE_MAX + BLOCK_NODES_MAX + 1, sizeof(*s->ids));
    s->distances =
        calloc(BATCH_IDS + BLOCK_DEGREE_MAX + BLOCK_NODES_MAX + 1, sizeof(*s->distances));
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

static uint32_t blocks_slots(uint32_t list)
{
    uint32_t limit = READS_PER_LIST * list + READS_EXTRA;
    uint32_t slots = 256;
    while (slots < 2 * limit)
        slots *= 2;
    return slots;
}

enum status search_init(struct search *s, const struct index *index, struct search_scratch *scratch,
                        struct error *err)
{
    *s = (struct search){.index = index, .scratch = scratch};
    size_t table_bytes = size_align(codec_table_bytes(index->codec), 64);
    s->table = aligned_alloc(64, table_bytes);
    s->frontier.entries = calloc(ENGINE_SEARCH_LIST_MAX + 1, sizeof(*s->frontier.entries));
    s->frontier.states = calloc(ENGINE_SEARCH_LIST_MAX + 1, sizeof(*s->frontier.states));
    s->seen = calloc(SEEN_SLOTS, sizeof(*s->seen));
    s->blocks = calloc(blocks_slots(ENGINE_SEARCH_LIST_MAX), sizeof(*s->blocks));
    enum status status = query_vector_init(&s->converted, index->manifest, err);
    if (status == STATUS_OK && s->table && s->frontier.entries && s->frontier.states && s->seen &&
        s->blocks)
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
    free(s->seen);
    free(s->blocks);
    *s = (struct search){0};
}

/* ---- sets ---- */

ALWAYS_INLINE uint32_t spread(uint32_t x)
{
    return (x * 0x9e3779b1u) >> 12 ^ x;
}

ALWAYS_INLINE bool seen_add(uint32_t *seen, uint32_t mask, uint32_t id)
{
    uint32_t *slot = &seen[spread(id) & mask];
    if (*slot == id)
        return false;
    *slot = id;
    return true;
}

static bool blocks_contain(const struct search *s, uint32_t block)
{
    for (uint32_t i = spread(block) & s->blocks_mask;; i = (i + 1) & s->blocks_mask) {
        if (s->blocks[i] == block)
            return true;
        if (s->blocks[i] == SEARCH_NO_BLOCK)
            return false;
    }
}

/* False when it is there already. */
static bool blocks_add(struct search *s, uint32_t block)
{
    uint32_t i = spread(block) & s->blocks_mask;
    for (; s->blocks[i] != SEARCH_NO_BLOCK; i = (i + 1) & s->blocks_mask)
        if (s->blocks[i] == block)
            return false;
    s->blocks[i] = block;
    s->blocks_count++;
    return true;
}

/* ---- entry points ---- */

ALWAYS_INLINE bool is_excluded(const struct search_query *query, uint32_t node)
{
    return query->excludes && node == query->excluded_node;
}

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
        if (is_excluded(s->query, node))
            continue;
        float distance = frontier_distance(f.entries[i]);
        seen_add(s->seen, SEEN_SLOTS - 1, node);
        frontier_insert(&s->frontier, frontier_entry(distance, node), FRONTIER_NEW);
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

void search_start(struct search *s, struct search_query *query)
{
    s->query = query;
    s->stats = (struct search_stats){0};
    s->flags = 0;
    s->late = false;
    s->in_flight = 0;
    s->blocks_count = 0;
    s->blocks_limit = READS_PER_LIST * query->search_list + READS_EXTRA;
    s->blocks_mask = blocks_slots(query->search_list) - 1;
    memset(s->blocks, 0xff, ((size_t)s->blocks_mask + 1) * sizeof(*s->blocks));
    memset(s->seen, 0xff, SEEN_SLOTS * sizeof(*s->seen));
    frontier_reset(&s->frontier, query->search_list);
    query->hit_count = 0;
    s->vector = query_vector_load(&s->converted, query);
    s->query_scale = distance_query_scale(&s->index->distance, s->vector);
    s->ratio_offset = query->search_ratio > 0.0f ? ratio_offset(s) : 0.0f;
    codec_table_build_from(s->index->codec, s->index->distance.query_type, s->vector, s->table);
    find_entries(s);
}

/* ---- a block in memory ---- */

/* Keeps the best k by (distance, key) in query->hits. */
static void hit_add(struct search_query *query, float distance, uint64_t key, uint32_t node)
{
    struct search_hit *hits = query->hits;
    uint32_t i = query->hit_count;
    if (i == query->k) {
        const struct search_hit *last = &hits[i - 1];
        if (distance > last->distance || (distance == last->distance && key > last->key))
            return;
        i--;
    } else {
        query->hit_count++;
    }
    for (; i > 0 && (hits[i - 1].distance > distance ||
                     (hits[i - 1].distance == distance && hits[i - 1].key > key));
         i--)
        hits[i] = hits[i - 1];
    hits[i] = (struct search_hit){.key = key, .distance = distance, .node = node};
}

static void score_records(struct search *s, const struct block_view *view)
{
    struct search_query *query = s->query;
    float *exact = s->scratch->exact;
    distance_rows(&s->index->distance, s->vector, s->query_scale, view->vectors,
                  view->geometry->vector_bytes, view->record_count, exact);
    s->stats.exact_distances += view->record_count;
    for (uint32_t slot = 0; slot < view->record_count; slot++)
        if (!is_excluded(query, view->first_node + slot) &&
            (query->hit_count < query->k || exact[slot] <= query->hits[query->k - 1].distance))
            hit_add(query, exact[slot], block_key(view, slot), view->first_node + slot);
}

/* Estimates scratch->ids[0 .. count) and offers them to the frontier. */
static void offer(struct search *s, uint32_t count)
{
    const uint32_t *ids = s->scratch->ids;
    const float *distances = s->scratch->distances;
    const struct index *index = s->index;
    codec_table_gather(index->codec, s->table, index->codes, ids, count, s->scratch->distances);
    s->stats.code_distances += count;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t entry = frontier_entry(distances[i], ids[i]);
        if (entry >= frontier_bound(&s->frontier) || is_excluded(s->query, ids[i]))
            continue;
        /* A block already asked for has had, or will have, all its records considered. */
        if (blocks_contain(s, index_block_of(index, ids[i])))
            continue;
        frontier_insert(&s->frontier, entry, FRONTIER_NEW);
    }
}

/* What exact distance makes a record worth expanding although its code does not rank. */
static float expand_bound(const struct search *s)
{
    const struct search_query *query = s->query;
    if (query->search_ratio <= 0.0f || query->hit_count < query->k)
        return -INFINITY;
    float kth = query->hits[query->k - 1].distance + s->ratio_offset;
    return expand_ratio * kth - s->ratio_offset;
}

/* Marks the block's records done in the frontier, by code distance as everything there, and returns
 * in expand[] the slots to expand. */
static uint32_t rank_records(struct search *s, const struct block_view *view, uint16_t *expand)
{
    uint32_t *ids = s->scratch->ids;
    float *distances = s->scratch->distances;
    const float *exact = s->scratch->exact;
    for (uint32_t slot = 0; slot < view->record_count; slot++)
        ids[slot] = view->first_node + slot;
    codec_table_gather(s->index->codec, s->table, s->index->codes, ids, view->record_count,
                       distances);
    s->stats.code_distances += view->record_count;
    float bound = expand_bound(s);
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < view->record_count; slot++) {
        if (is_excluded(s->query, ids[slot]))
            continue;
        uint64_t entry = frontier_entry(distances[slot], ids[slot]);
        bool ranks = frontier_insert(&s->frontier, entry, FRONTIER_DONE) != FRONTIER_NONE;
        if (ranks || exact[slot] <= bound)
            expand[count++] = (uint16_t)slot;
    }
    return count;
}

/* Adds the neighbours of `slot` that were not met before to scratch->ids from `count` on; returns
 * how many there are then. */
static uint32_t list_gather(struct search *s, const struct block_view *view, uint32_t slot,
                            uint32_t count)
{
    enum block_fault fault = BLOCK_OK;
    uint32_t listed[BLOCK_DEGREE_MAX + 1];
    uint32_t degree = block_neighbors(view, slot, listed, &fault);
    if (fault)
        s->flags |= SEARCH_DEGRADED;
    uint32_t *ids = s->scratch->ids;
    for (uint32_t j = 0; j < degree; j++) {
        ids[count] = listed[j];
        count += seen_add(s->seen, SEEN_SLOTS - 1, listed[j]);
    }
    return count;
}

static void consider_block(struct search *s, const struct block_view *view)
{
    uint16_t expand[BLOCK_NODES_MAX];
    score_records(s, view);
    uint32_t expand_count = rank_records(s, view, expand);
    if (index_lists_in_memory(s->index))
        return; /* what ranks is, or will be, expanded from memory */
    s->stats.hops += expand_count;
    uint32_t count = 0;
    for (uint32_t i = 0; i < expand_count; i++) {
        count = list_gather(s, view, expand[i], count);
        if (count >= BATCH_IDS || i + 1 == expand_count) {
            offer(s, count);
            count = 0;
        }
    }
}

void search_block(struct search *s, const struct block_view *view)
{
    s->in_flight--;
    consider_block(s, view);
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

/* ---- stop ---- */

/* The stop rule: nothing from here on is worth a read. */
static bool past_ratio(const struct search *s, float code_distance)
{
    const struct search_query *query = s->query;
    if (query->search_ratio <= 0.0f || query->hit_count < query->k)
        return false;
    float kth = query->hits[query->k - 1].distance + s->ratio_offset;
    return code_distance + s->ratio_offset > query->search_ratio * kth;
}

/* ---- lists in memory ---- */

/* The lists of the node's block, and where the node's is. */
struct list_place {
    struct block_view view;
    uint32_t block, slot;
};

static const void *lists_of(const struct index *index, uint32_t block)
{
    return index->lists ? (const void *)index->lists[block] : index_cached_block(index, block);
}

static void list_open(const struct index *index, struct list_place *place)
{
    const void *lists = lists_of(index, place->block);
    if (index->lists)
        block_lists_view(&index->geometry, place->block, lists, &place->view);
    else
        block_view_trusted(&index->geometry, place->block, lists, &place->view);
}

/* Whether the block has the node that a list, or the navigation graph, names: below node_limit it
 * is, but a block that is not full has places without one. */
static bool slot_exists(struct search *s, const struct block_view *view, uint32_t slot)
{
    if (LIKELY(slot < view->record_count))
        return true;
    s->flags |= SEARCH_DEGRADED;
    return false;
}

/* Takes up to EXPAND_BATCH of the best nodes not expanded yet. */
static uint32_t expand_take(struct search *s, struct list_place *places)
{
    uint32_t count = 0, at;
    while (count < EXPAND_BATCH && (at = frontier_next(&s->frontier)) != FRONTIER_NONE) {
        s->frontier.states[at] = FRONTIER_EXPANDED;
        uint32_t node = frontier_node(s->frontier.entries[at]);
        uint32_t block = index_block_of(s->index, node);
        places[count].block = block;
        places[count].slot = node - block * s->index->geometry.nodes_per_block;
        PREFETCH(lists_of(s->index, block));
        count++;
    }
    return count;
}

static bool past_deadline(const struct search *s)
{
    return s->query->deadline_ns != 0 && clock_monotonic_ns() > s->query->deadline_ns;
}

/* Offers the neighbours of all that ranks, until nothing new does: a search by codes alone. A list
 * is three loads that wait for one another (block, offset, list), so some are fetched side by side.
 */
static void expand_from_memory(struct search *s)
{
    struct list_place places[EXPAND_BATCH];
    uint32_t taken, steps = 0;
    while ((taken = expand_take(s, places)) > 0) {
        if (++steps % LATE_STEPS == 0 && past_deadline(s)) {
            s->late = true;
            return;
        }
        uint32_t found = 0;
        for (uint32_t i = 0; i < taken; i++) {
            list_open(s->index, &places[i]);
            if (!slot_exists(s, &places[i].view, places[i].slot))
                continue;
            block_offset_prefetch(&places[i].view, places[i].slot);
            places[found++] = places[i];
        }
        for (uint32_t i = 0; i < found; i++)
            block_list_prefetch(&places[i].view, places[i].slot);
        uint32_t count = 0;
        for (uint32_t i = 0; i < found; i++) {
            const struct block_view *view = &places[i].view;
            count = list_gather(s, view, places[i].slot, count);
            for (uint32_t slot = 0; slot < view->record_count; slot++) { /* block-mates */
                s->scratch->ids[count] = view->first_node + slot;
                count += seen_add(s->seen, SEEN_SLOTS - 1, view->first_node + slot);
            }
            if (count >= BATCH_IDS || i + 1 == found) {
                offer(s, count);
                count = 0;
            }
        }
        s->stats.hops += found;
    }
}

/* ---- what next ---- */

/* The best candidate whose vector was not seen, now counted as seen; false when none is worth it.
 */
static bool next_candidate(struct search *s, uint32_t *node)
{
    struct frontier *f = &s->frontier;
    bool in_memory = index_lists_in_memory(s->index);
    if (in_memory)
        expand_from_memory(s);
    if (s->late)
        return false;
    uint32_t place = in_memory ? frontier_next_unread(f) : frontier_next(f);
    if (place == FRONTIER_NONE || past_ratio(s, frontier_distance(f->entries[place])))
        return false;
    f->states[place] = FRONTIER_DONE;
    *node = frontier_node(f->entries[place]);
    return true;
}

/* The next block worth having that was not asked for yet, now asked for. */
static uint32_t next_block(struct search *s)
{
    uint32_t node;
    while (s->blocks_count < s->blocks_limit && next_candidate(s, &node)) {
        uint32_t block = index_block_of(s->index, node);
        if (blocks_add(s, block))
            return block;
    }
    return SEARCH_NO_BLOCK;
}

/* Everything is in memory: candidates are scored one by one, best first. */
static void finish_resident(struct search *s)
{
    const struct index *index = s->index;
    struct search_query *query = s->query;
    uint32_t node;
    while (next_candidate(s, &node)) {
        struct block_view view;
        uint32_t block = index_block_of(index, node);
        block_view_trusted(&index->geometry, block, index_cached_block(index, block), &view);
        uint32_t slot = node - view.first_node;
        if (!slot_exists(s, &view, slot))
            continue;
        float exact;
        distance_rows(&index->distance, s->vector, s->query_scale, block_vector(&view, slot),
                      index->geometry.vector_bytes, 1, &exact);
        s->stats.exact_distances++;
        s->stats.cache_hits++;
        if (query->hit_count < query->k || exact <= query->hits[query->k - 1].distance)
            hit_add(query, exact, block_key(&view, slot), node);
    }
}

uint32_t search_next_read(struct search *s, uint32_t width)
{
    if (s->index->memory.resident) {
        finish_resident(s);
        return SEARCH_NO_BLOCK;
    }
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
        consider_block(s, &view);
    }
    return SEARCH_NO_BLOCK;
}
