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

uint64_t request_answer_bytes(const struct request_head *head)
{
    const struct protocol_search *fixed = &head->search.fixed;
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
        .filter_plan = PROTOCOL_PLAN_NO_FILTER,
        .match_estimate = question->match_estimate,
    };
    memcpy(at, &chosen, sizeof(chosen));
    return at + sizeof(chosen);
}

static uint32_t result_flags(const struct request *request, const struct search_query *query)
{
    uint32_t flags = query->flags;
    if (request->asked.extension.pages && query->hit_count < request->k)
        flags |= PROTOCOL_RESULT_LAST;
    return flags;
}

/* Everything of the answer's frame that the engine did not write. */
void request_answer_encode(struct request *request)
{
    const struct protocol_search_ok fixed = {.query_count = request->query_count, .k = request->k};
    uint8_t *at = request->frame;
    protocol_header_encode(at, protocol_answer_type(request->asked.fixed.flags), request->id,
                           (uint32_t)request->frame_bytes - PROTOCOL_HEADER_BYTES);
    at += PROTOCOL_HEADER_BYTES;
    memcpy(at, &fixed, sizeof(fixed));
    at += sizeof(fixed);
    for (uint32_t q = 0; q < request->query_count; q++) {
        const struct search_query *query = &request->queries[q];
        const struct protocol_result result = {
            .hit_count = query->hit_count,
            .flags = result_flags(request, query),
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
