/*
 * question.c - see question.h. No state.
 */
#include "query/question.h"

#include <assert.h>

#include "common/memory.h"
#include "query/recall_choice.h"

/* List and ratio for a recall target; of pages the list holds the last one, too. */
static enum status list_choose(struct question *question, const struct manifest *manifest,
                               struct error *err)
{
    struct search_query *common = &question->common;
    struct recall_choice choice;
    if (question->recall_target == 0.0f)
        return STATUS_OK;
    if (common->search_list != 0 || common->search_ratio != 0.0f)
        return error_set(err, STATUS_INVALID, "either a search list or a recall target");
    enum status status =
        recall_choose(manifest, common->k, (double)question->recall_target, &choice, err);
    if (status != STATUS_OK)
        return status;
    uint64_t last = (uint64_t)question->rank_max + common->k;
    common->search_list = (uint32_t)MAX(choice.search_list, MIN(last, UINT64_C(0xffffffff)));
    common->search_ratio = choice.search_ratio;
    question->expected_recall = (float)choice.expected_recall;
    return STATUS_OK;
}

static enum status filter_prepare(struct question *question, const struct index *index,
                                  struct error *err)
{
    const struct attributes *attributes = index_attributes(index);
    if (question->filter_bytes == 0)
        return STATUS_OK;
    if (attributes->column_count == 0)
        return error_set(err, STATUS_INVALID, "filter: this index has no attributes");
    enum status status = filter_compile(question->filter_text, question->filter_bytes, attributes,
                                        &question->filter, err);
    if (status != STATUS_OK)
        return status;
    question->common.filter = question->filter;
    question->match_estimate = filter_match_estimate(question->filter);
    return STATUS_OK;
}

enum status question_prepare(struct question *question, const struct index *index,
                             struct error *err)
{
    const struct manifest *manifest = index_manifest(index);
    enum status status = list_choose(question, manifest, err);
    question->match_estimate = manifest->vector_count;
    if (status == STATUS_OK)
        status = filter_prepare(question, index, err);
    return status;
}

void question_fini(struct question *question)
{
    filter_free(question->filter);
    question->filter = NULL;
}

enum search_filter_plan question_plan(const struct search_query *queries, uint32_t count)
{
    for (uint32_t q = 0; q < count; q++)
        if (queries[q].stats.filter_plan != SEARCH_FILTER_NONE)
            return (enum search_filter_plan)queries[q].stats.filter_plan;
    return SEARCH_FILTER_NONE;
}

const char *question_plan_name(enum search_filter_plan plan)
{
    switch (plan) {
    case SEARCH_FILTER_SCAN:
        return "scan";
    case SEARCH_FILTER_TRAVERSAL:
        return "graph";
    case SEARCH_FILTER_EMPTY:
        return "nothing";
    default:
        return "none";
    }
}

/* ---- queries by key ---- */

/* Behind it is the vector. */
struct room {
    struct search_stats fetch; /* what that took */
};
_Static_assert(sizeof(struct room) % sizeof(uint64_t) == 0, "the vector is aligned");
_Static_assert(sizeof(struct room) + VECTOR_DIM_MAX * sizeof(float) == QUESTION_ROOM_BYTES_MAX,
               "no room is larger");

static struct room *room_of(const struct search_query *query)
{
    return (struct room *)query->fetched - 1;
}

size_t question_room_bytes(uint32_t dim)
{
    return sizeof(struct room) + size_align(dim * sizeof(float), sizeof(uint64_t));
}

void question_by_key(struct search_query *query, uint64_t key, void *room)
{
    query->kind = SEARCH_FETCH;
    query->key = key;
    query->fetched = (struct room *)room + 1;
    room_of(query)->fetch = (struct search_stats){0};
}

bool question_follow(struct search_query *query)
{
    if (query->kind != SEARCH_FETCH || query->status != STATUS_OK || !query->found)
        return false;
    room_of(query)->fetch = query->stats;
    query->kind = SEARCH_NEAREST;
    query->vector = query->fetched;
    query->excludes = true;
    query->excluded_node = query->node;
    return true;
}

bool question_settle(struct search_query *query)
{
    const struct search_stats *fetch = &room_of(query)->fetch;
    if (query->kind == SEARCH_FETCH) {
        query->hit_count = 0;
        query->flags = 0;
        return false;
    }
    query->stats.reads += fetch->reads;
    query->stats.cache_hits += fetch->cache_hits;
    query->stats.read_bytes += fetch->read_bytes;
    query->stats.queue_ns += fetch->queue_ns;
    query->stats.cpu_ns += fetch->cpu_ns;
    query->stats.total_ns += fetch->total_ns;
    return true;
}

/* ---- fetches ---- */

void question_fetched(const struct search_query *query, enum element_type type, uint32_t dim,
                      void *out)
{
    assert(query->found && query->fetched);
    if (query->vector_is_f32)
        element_from_f32(type, query->fetched, dim, out);
    else
        memcpy(out, query->fetched, dim * element_bytes(type));
}
