/*
 * server_answer.c - the bytes that answer a SEARCH or FETCH. No state; on the worker that completed
 * the request's last query.
 *
 * Hits need no copy, since the engine writes them where the frame wants them: a search_hit is a
 * protocol_hit with the node id in the reserved field, which is cleared before sending.
 */
#include <assert.h>
#include <string.h>

#include "query/server_internal.h"

_Static_assert(sizeof(struct search_hit) == sizeof(struct protocol_hit), "hits are sent in place");
_Static_assert(offsetof(struct search_hit, key) == offsetof(struct protocol_hit, key),
               "hits are sent in place");
_Static_assert(offsetof(struct search_hit, distance) == offsetof(struct protocol_hit, distance),
               "hits are sent in place");
_Static_assert(offsetof(struct search_hit, node) == offsetof(struct protocol_hit, reserved),
               "hits are sent in place");
_Static_assert((int)SEARCH_DEGRADED == (int)PROTOCOL_RESULT_DEGRADED &&
                   (int)SEARCH_TRUNCATED == (int)PROTOCOL_RESULT_TRUNCATED,
               "the engine's flags are sent as they are");
_Static_assert((int)SEARCH_FILTER_SCAN == (int)PROTOCOL_PLAN_SCAN &&
                   (int)SEARCH_FILTER_TRAVERSAL == (int)PROTOCOL_PLAN_GRAPH &&
                   (int)SEARCH_FILTER_EMPTY == (int)PROTOCOL_PLAN_NOTHING,
               "and its plans");

uint64_t request_answer_bytes(const struct request_head *head)
{
    const struct protocol_search *fixed = &head->search.fixed;
    const struct protocol_shape shape = {.type = (enum element_type)fixed->element_type,
                                         .dim = fixed->dim};
    if (head->fetch.count)
        return protocol_fetch_answer_bytes(&head->fetch, &shape);
    return protocol_answer_frame_bytes(fixed->query_count, fixed->k, fixed->flags);
}

size_t request_hits_at(uint32_t query_count)
{
    return PROTOCOL_HEADER_BYTES + sizeof(struct protocol_search_ok) +
           query_count * sizeof(struct protocol_result);
}

static uint8_t *explanations_encode(const struct request *request, uint8_t *at)
{
    for (uint32_t q = 0; q < request->query_count; q++) {
        const struct search_stats *stats = &request->queries[q].stats;
        const struct protocol_explanation explanation = {
            .hops = stats->hops,
            .exact_distances = stats->exact_distances,
            .code_distances = stats->code_distances,
            .failed_blocks = stats->failed_blocks,
            .read_bytes = stats->read_bytes,
            .queue_ns = stats->queue_ns,
            .cpu_ns = stats->cpu_ns,
            .total_ns = stats->total_ns,
        };
        memcpy(at, &explanation, sizeof(explanation));
        at += sizeof(explanation);
    }
    return at;
}

static void origin_encode(const struct request *request, uint8_t *at)
{
    const struct protocol_origin origin = {
        .generation_low = request->served->manifest->generation_id.low,
        .generation_high = request->served->manifest->generation_id.high,
        .trace_id = request->trace_id,
    };
    memcpy(at, &origin, sizeof(origin));
}

static uint8_t *chosen_encode(const struct request *request, uint8_t *at)
{
    const struct question *question = &request->question;
    const struct protocol_chosen chosen = {
        .search_list = question->common.search_list,
        .search_ratio = question->common.search_ratio,
        .expected_recall = question->expected_recall,
        .filter_plan = question_plan(request->queries, request->query_count),
        .match_estimate = question->match_estimate,
    };
    memcpy(at, &chosen, sizeof(chosen));
    return at + sizeof(chosen);
}

static uint32_t result_flags(const struct request *request, struct search_query *query)
{
    const struct protocol_extension *extension = &request->asked.extension;
    bool known = extension->form != PROTOCOL_FORM_KEYS || question_settle(query);
    uint32_t flags = query->flags;
    if (!known)
        flags |= PROTOCOL_RESULT_UNKNOWN_KEY;
    if (extension->pages && query->hit_count < request->k)
        flags |= PROTOCOL_RESULT_LAST;
    return flags;
}

static void fetched_encode(struct request *request)
{
    const struct protocol_search *fixed = &request->asked.fixed;
    const struct protocol_fetch_ok ok = {.count = request->fetch.count,
                                         .dim = fixed->dim,
                                         .element_type = fixed->element_type,
                                         .flags = request->fetch.flags};
    size_t vector_bytes = fixed->dim * element_bytes((enum element_type)fixed->element_type);
    bool vectors = (ok.flags & PROTOCOL_FETCH_VECTORS) != 0;
    uint8_t *frame = request->frame, *at = frame + PROTOCOL_HEADER_BYTES;
    protocol_header_encode(frame, PROTOCOL_FETCH_OK, request->id,
                           (uint32_t)request->frame_bytes - PROTOCOL_HEADER_BYTES);
    memset(at, 0, request->frame_bytes - PROTOCOL_HEADER_BYTES);
    memcpy(at, &ok, sizeof(ok));
    at += sizeof(ok);
    for (uint32_t i = 0; i < ok.count; i++) {
        const struct search_query *query = &request->queries[i];
        uint32_t found = query->found;
        memcpy(at + i * sizeof(found), &found, sizeof(found));
        if (!vectors || !found)
            continue;
        question_fetched(query, (enum element_type)ok.element_type, ok.dim,
                         frame + protocol_fetch_vectors_at(ok.count) + i * vector_bytes);
    }
}

/* Everything of the answer's frame that the engine did not write. */
void request_answer_encode(struct request *request)
{
    if (request->fetch.count) {
        fetched_encode(request);
        return;
    }
    const struct protocol_search_ok fixed = {.query_count = request->query_count, .k = request->k};
    uint8_t *at = request->frame;
    protocol_header_encode(at, protocol_answer_type(request->asked.fixed.flags), request->id,
                           (uint32_t)request->frame_bytes - PROTOCOL_HEADER_BYTES);
    at += PROTOCOL_HEADER_BYTES;
    memcpy(at, &fixed, sizeof(fixed));
    at += sizeof(fixed);
    for (uint32_t q = 0; q < request->query_count; q++) {
        struct search_query *query = &request->queries[q];
        uint32_t flags = result_flags(request, query); /* settles it */
        const struct protocol_result result = {
            .hit_count = query->hit_count,
            .flags = flags,
            .reads = query->stats.reads,
            .cache_hits = query->stats.cache_hits,
            .cpu_us = (uint32_t)MIN(query->stats.cpu_ns / 1000, (uint64_t)UINT32_MAX),
        };
        assert(query->hit_count <= request->k);
        memcpy(at, &result, sizeof(result));
        at += sizeof(result);
        for (uint32_t i = 0; i < query->hit_count; i++)
            query->hits[i].node = 0;
        memset(query->hits + query->hit_count, 0,
               (request->k - query->hit_count) * sizeof(query->hits[0]));
    }
    at += (size_t)request->query_count * request->k * sizeof(struct protocol_hit);
    if ((request->asked.fixed.flags & PROTOCOL_SEARCH_EXPLAIN) != 0)
        at = explanations_encode(request, at);
    if ((request->asked.fixed.flags & PROTOCOL_SEARCH_EXTENDED) != 0)
        at = chosen_encode(request, at);
    if ((request->asked.fixed.flags & PROTOCOL_SEARCH_ORIGIN) != 0)
        origin_encode(request, at);
}
