/*
 * http_post.c - see http_post.h.
 */
#include "query/http_post.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

/* ---- requests ---- */

enum status http_post_read(struct http_post *post, struct serving *serving, const char *text,
                           size_t length, struct error *err)
{
    enum status status = serving_require(serving, &post->served, err);
    if (status != STATUS_OK)
        return status;
    const struct manifest *manifest = post->served->manifest;
    const struct protocol_shape shape = {
        .type = manifest->query_type,
        .dim = manifest->dim,
        .queries_max = MIN(post->queries_max, (uint32_t)PROTOCOL_QUERIES_MAX),
        .metric = manifest->metric,
    };
    bool fetch = post->kind == HTTP_POST_FETCH;
    status = fetch ? http_fetch_parse(text, length, &shape, &post->fetch, err)
                   : http_search_parse(text, length, &shape, &post->search, err);
    if (status != STATUS_OK)
        return status;
    uint32_t timeout_ms = fetch ? post->fetch.timeout_ms : post->search.timeout_ms;
    post->timeout_ms = timeout_ms ? timeout_ms : post->timeout_ms;
    post->query_count = fetch ? post->fetch.key_count : post->search.query_count;
    return STATUS_OK;
}

/* ---- queries ---- */

/* On a worker. */
static void on_complete(struct search_query *query)
{
    struct http_post *post = query->user;
    if (question_flight_complete(&post->flight, query))
        post->done(post->context);
}

/* What all have, whatever is asked. */
static struct search_query query_common(struct http_post *post)
{
    uint64_t timeout_ms = post->timeout_ms;
    return (struct search_query){
        .deadline_ns = timeout_ms ? post->arrived_ns + timeout_ms * 1000000 : 0,
        .flow = post->flow,
        .complete = on_complete,
        .user = post,
    };
}

static enum status question_read(struct http_post *post, struct error *err)
{
    const struct http_search *asked = &post->search;
    struct question question = {
        .common = query_common(post),
        .recall_target = asked->recall_target,
        .filter_text = asked->filter,
        .filter_bytes = asked->filter ? strlen(asked->filter) : 0,
    };
    question.common.k = asked->k;
    question.common.search_list = asked->search_list;
    question.common.beam_width = asked->beam_width;
    question.common.search_ratio = asked->search_ratio;
    question.common.within_radius = asked->within_radius;
    question.common.radius = asked->radius;
    for (uint32_t q = 0; asked->after && q < asked->query_count; q++)
        question.rank_max = MAX(question.rank_max, asked->after[q].rank);
    enum status status = question_prepare(&question, post->served->index, err);
    if (status == STATUS_OK)
        post->question = question;
    return status;
}

/* With room for a vector each where they fetch one. */
static enum status queries_create(struct http_post *post, size_t room_bytes, struct error *err)
{
    post->queries = calloc(post->query_count, sizeof(*post->queries));
    post->rooms = room_bytes ? malloc(post->query_count * room_bytes) : NULL;
    if (!post->queries || (room_bytes && !post->rooms))
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", post->query_count);
    return STATUS_OK;
}

static enum status searches_init(struct http_post *post, struct error *err)
{
    const struct http_search *asked = &post->search;
    const struct manifest *manifest = post->served->manifest;
    size_t vector_bytes = element_vector_bytes(manifest->query_type, manifest->dim);
    size_t room_bytes = asked->keys ? question_room_bytes(manifest->dim) : 0;
    uint32_t count = post->query_count;
    enum status status = question_read(post, err);
    if (status == STATUS_OK)
        status = queries_create(post, room_bytes, err);
    if (status != STATUS_OK)
        return status;
    post->hits = calloc((size_t)count * asked->k, sizeof(*post->hits));
    if (!post->hits)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the hits of %u queries", count);
    for (uint32_t q = 0; q < count; q++) {
        struct search_query *query = &post->queries[q];
        struct error why;
        *query = post->question.common;
        query->vector = asked->keys ? NULL : (uint8_t *)asked->vectors + q * vector_bytes;
        query->hits = post->hits + (size_t)q * asked->k;
        if (asked->after)
            query->after = asked->after[q];
        status = engine_query_check(post->served->engine, query, &why);
        if (status != STATUS_OK)
            return error_set(err, status, "query %u: %s", q, why.text);
        if (asked->keys)
            question_by_key(query, asked->keys[q], post->rooms + q * room_bytes);
    }
    return STATUS_OK;
}

static enum status fetches_init(struct http_post *post, struct error *err)
{
    const struct http_fetch *asked = &post->fetch;
    size_t room_bytes = asked->vectors ? post->served->manifest->dim * sizeof(float) : 0;
    enum status status = queries_create(post, room_bytes, err);
    for (uint32_t q = 0; status == STATUS_OK && q < post->query_count; q++) {
        struct search_query *query = &post->queries[q];
        *query = query_common(post);
        query->kind = SEARCH_FETCH;
        query->key = asked->keys[q];
        query->fetched = asked->vectors ? post->rooms + q * room_bytes : NULL;
    }
    return status;
}

enum status http_post_prepare(struct http_post *post, struct error *err)
{
    return post->kind == HTTP_POST_FETCH ? fetches_init(post, err) : searches_init(post, err);
}

void http_post_submit(struct http_post *post)
{
    post->flight = (struct question_flight){.engine = post->served->engine,
                                            .queries = post->queries,
                                            .count = post->query_count,
                                            .fetches = post->kind == HTTP_POST_FETCH};
    if (question_flight_release(&post->flight, question_flight_submit(&post->flight)))
        post->done(post->context);
}

/* ---- answers ---- */

enum status http_post_outcome(const struct http_post *post, struct error *err)
{
    return question_flight_outcome(&post->flight, post->timeout_ms, err);
}

enum status http_post_answer(struct http_post *post, char **text, struct error *err)
{
    const struct manifest *manifest = post->served->manifest;
    const struct http_json_origin origin = {
        .generation_low = manifest->generation_id.low,
        .generation_high = manifest->generation_id.high,
        .trace_id = post->trace_id,
    };
    if (post->kind == HTTP_POST_FETCH) {
        const struct http_fetch_context context = {
            .origin = origin, .type = manifest->query_type, .dim = manifest->dim};
        return http_fetch_format(&context, post->queries, post->query_count, text, err);
    }
    const struct http_search_context context = {
        .origin = origin, .asked = &post->search, .question = &post->question};
    return http_search_format(&context, post->queries, post->query_count, text, err);
}

void http_post_fini(struct http_post *post)
{
    question_fini(&post->question); /* which borrows from what is served */
    if (post->served)
        served_release(post->served);
    http_search_free(&post->search);
    http_fetch_free(&post->fetch);
    free(post->queries);
    free(post->rooms);
    free(post->hits);
    memset(post, 0, sizeof(*post));
}
