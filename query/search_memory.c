/*
 * search_memory.c - a search where neighbour lists, or whole blocks, are in memory.
 */
#include "common/clock.h"
#include "query/search_internal.h"

enum {
    EXPAND_BATCH = 4, /* lists fetched side by side when they are in memory */
    LATE_STEPS = 16,  /* such batches between two looks at the clock: some 0.1 ms */
};

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

/* The best entry not expanded yet, which now is; false when there is none worth it. */
static bool expand_next(struct search *s, uint32_t *node)
{
    struct frontier *f = &s->frontier;
    uint32_t at = frontier_next(f);
    if (at != FRONTIER_NONE && !search_ranks(s, at, f->entries[at]))
        at = FRONTIER_NONE;
    if (s->filter.filter) {
        struct frontier *passage = &s->filter.passage;
        uint32_t way = frontier_next(passage);
        if (way != FRONTIER_NONE &&
            (at == FRONTIER_NONE || passage->entries[way] < f->entries[at])) {
            f = passage;
            at = way;
        }
    }
    if (at == FRONTIER_NONE)
        return false;
    f->states[at] = FRONTIER_EXPANDED;
    *node = frontier_node(f->entries[at]);
    return true;
}

/* Takes up to EXPAND_BATCH of the best nodes not expanded yet. */
static uint32_t expand_take(struct search *s, struct list_place *places)
{
    uint32_t count = 0, node;
    while (count < EXPAND_BATCH && expand_next(s, &node)) {
        uint32_t block = index_block_of(s->index, node);
        places[count].block = block;
        places[count].slot = node - block * s->index->geometry.nodes_per_block;
        PREFETCH(lists_of(s->index, block));
        count++;
    }
    return count;
}

/* A list is three loads that wait for one another (block, offset, list), so some are fetched side
 * by side. */
void search_expand(struct search *s)
{
    struct list_place places[EXPAND_BATCH];
    uint32_t taken, steps = 0;
    while ((taken = expand_take(s, places)) > 0) {
        if (++steps % LATE_STEPS == 0 && engine_query_late(s->query, clock_monotonic_ns())) {
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
            count = search_gather(s, view, places[i].slot, count);
            for (uint32_t slot = 0; slot < view->record_count; slot++) { /* block-mates */
                s->scratch->ids[count] = view->first_node + slot;
                count += seen_add(s->seen, s->seen_mask, view->first_node + slot);
            }
            if (count >= SEARCH_BATCH || i + 1 == found) {
                search_offer(s, count);
                count = 0;
            }
        }
        s->stats.hops += found;
    }
}

void search_score(struct search *s, uint32_t node)
{
    const struct index *index = s->index;
    struct block_view view;
    uint32_t block = index_block_of(index, node);
    block_view_trusted(&index->geometry, block, index_cached_block(index, block), &view);
    uint32_t slot = node - view.first_node;
    if (!slot_exists(s, &view, slot))
        return;
    float exact;
    distance_rows(&index->distance, s->vector, s->query_scale, block_vector(&view, slot),
                  index->geometry.vector_bytes, 1, &exact);
    s->stats.exact_distances++;
    s->stats.cache_hits++;
    s->nearest = MIN(s->nearest, exact);
    search_hit(s, exact, block_key(&view, slot), node);
}
