/*
 * fetch.c - see fetch.h.
 */
#include "query/fetch.h"

#include <assert.h>
#include <string.h>

void fetch_start(struct fetch *f, struct search *search, struct search_query *query)
{
    const struct index *index = search->index;
    search->query = query;
    search->stats = (struct search_stats){0};
    search->flags = 0;
    search->late = false;
    search->in_flight = 0;
    query->found = false;
    query->node = UINT32_MAX;
    query->hit_count = 0;
    *f = (struct fetch){.search = search, .state = FETCH_DONE, .status = STATUS_OK};
    if (keys_find_page(index->key_firsts, keys_pages(index->keys.count), query->key, &f->page))
        f->state = FETCH_PAGE;
}

static void end_found(struct fetch *f)
{
    struct search_query *query = f->search->query;
    query->found = true;
    query->node = f->node;
    f->state = FETCH_DONE;
}

static void end_failed(struct fetch *f)
{
    f->search->stats.failed_blocks++;
    f->status = STATUS_IO;
    f->state = FETCH_DONE;
}

/* The block must have what keys.bin says of it. */
static void vector_take(struct fetch *f, const struct block_view *view)
{
    struct search_query *query = f->search->query;
    const uint32_t slot = f->node - view->first_node;
    if (slot >= view->record_count || block_key(view, slot) != query->key) {
        end_failed(f);
        return;
    }
    const struct manifest *m = f->search->index->manifest;
    query->vector_is_f32 = m->type != m->query_type;
    if (query->vector_is_f32)
        element_vector_to_f32(m->type, block_vector(view, slot), m->dim, query->fetched);
    else
        memcpy(query->fetched, block_vector(view, slot), view->geometry->vector_bytes);
    end_found(f);
}

uint32_t fetch_next_read(struct fetch *f)
{
    struct search *search = f->search;
    const struct index *index = search->index;
    if (f->state == FETCH_DONE || search->in_flight > 0)
        return SEARCH_NO_BLOCK;
    uint32_t number = f->page;
    if (f->state == FETCH_BLOCK) {
        number = index_block_of(index, f->node);
        const void *cached = index_cached_block(index, number);
        if (cached != NULL) {
            struct block_view view;
            block_view_trusted(&index->geometry, number, cached, &view);
            search->stats.cache_hits++;
            vector_take(f, &view);
            return SEARCH_NO_BLOCK;
        }
    }
    search->in_flight++;
    search->stats.reads++;
    return number;
}

void fetch_page(struct fetch *f, const struct keys_page *page)
{
    assert(f->state == FETCH_PAGE);
    f->search->in_flight--;
    if (!keys_page_find(page, f->search->query->key, &f->node))
        f->state = FETCH_DONE;
    else if (f->search->query->fetched == NULL)
        end_found(f);
    else
        f->state = FETCH_BLOCK;
}

void fetch_block(struct fetch *f, const struct block_view *view)
{
    assert(f->state == FETCH_BLOCK);
    f->search->in_flight--;
    vector_take(f, view);
}

void fetch_failed(struct fetch *f)
{
    f->search->in_flight--;
    end_failed(f);
}
