/*
 * server_request.c - a SEARCH or FETCH from checked header to sent answer.
 *
 * Owns request memory: one block a request, in power-of-two classes with a free list each, so a
 * steady load allocates nothing whatever its mix of sizes. What is in use is bounded. Small
 * requests by the engine's queue, the connection count (one frame each may be arriving) and nothing
 * else, so that clients with huge frames cannot starve them; large ones also by REQUEST_MEMORY_MAX.
 *
 * Owns completion: the worker that completes the last query of a request encodes and sends the
 * answer. Hits need no copy, since the engine writes them where the frame wants them
 * (server_answer.c).
 */
#include "query/server_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

_Static_assert((int)PROTOCOL_K_MAX <= (int)ENGINE_K_MAX,
               "k that passes the protocol must fit the engine");

enum { REQUEST_ALIGN = 64 };

/* What is in each request, gaps included, and what its answer takes at most. */
#define REQUEST_COMMON_BYTES_MAX                                                                   \
    (sizeof(struct request) + PROTOCOL_QUERIES_MAX * sizeof(struct search_query) +                 \
     PROTOCOL_FRAME_BYTES_MAX + 5 * REQUEST_ALIGN)
_Static_assert(REQUEST_COMMON_BYTES_MAX + PROTOCOL_FRAME_BYTES_MAX <= 1ull << REQUEST_CLASS_MAX,
               "a frame of vectors must fit the largest class");
_Static_assert(REQUEST_COMMON_BYTES_MAX +
                       PROTOCOL_QUERIES_MAX * (QUESTION_ROOM_BYTES_MAX + sizeof(uint64_t) +
                                               sizeof(struct protocol_cursor)) +
                       PROTOCOL_FILTER_BYTES_MAX <=
                   1ull << REQUEST_CLASS_MAX,
               "and so must keys, whose vectors come in rooms of f32 whatever queries are");
_Static_assert((int)PROTOCOL_KEYS_MAX <= (int)PROTOCOL_QUERIES_MAX, "a FETCH has no more");

/* ---- memory ---- */

struct request_layout {
    size_t body, rooms, queries, frame, total;
};

/* Sums of values that the decoders have bounded by a frame each: no overflow. */
static struct request_layout layout_of(const struct request_head *head, uint64_t body_bytes)
{
    const struct protocol_search *fixed = &head->search.fixed;
    uint32_t count = fixed->query_count;
    bool by_key = head->search.extension.form == PROTOCOL_FORM_KEYS;
    bool rooms = by_key && (!head->fetch.count || (head->fetch.flags & PROTOCOL_FETCH_VECTORS));
    size_t room_bytes = rooms ? question_room_bytes(fixed->dim) : 0;
    struct request_layout at;
    at.body = size_align(sizeof(struct request), REQUEST_ALIGN);
    at.rooms = size_align(at.body + body_bytes, REQUEST_ALIGN);
    at.queries = size_align(at.rooms + count * room_bytes, REQUEST_ALIGN);
    at.frame = size_align(at.queries + count * sizeof(struct search_query), REQUEST_ALIGN);
    at.total = at.frame + request_answer_bytes(head);
    return at;
}

static uint32_t class_of(size_t bytes)
{
    uint32_t size_class = REQUEST_CLASS_MIN;
    while (((size_t)1 << size_class) < bytes)
        size_class++;
    assert(size_class <= REQUEST_CLASS_MAX);
    return size_class;
}

/* Counts the request in and finds it memory; *out is NULL when new memory must be allocated. */
static enum status pool_take(struct server *server, uint32_t size_class, struct request **out,
                             struct error *err)
{
    uint64_t bytes = UINT64_C(1) << size_class;
    enum status status = STATUS_OK;
    *out = NULL;
    pthread_mutex_lock(&server->lock);
    if (bytes > REQUEST_SMALL_BYTES && bytes > REQUEST_MEMORY_MAX - server->large_bytes) {
        status = error_set(err, STATUS_BUSY,
                           "large requests in flight hold %llu bytes of memory: try again",
                           (unsigned long long)server->large_bytes);
    } else {
        if (bytes > REQUEST_SMALL_BYTES)
            server->large_bytes += bytes;
        server->requests_in_flight++;
        *out = server->free_requests[size_class];
        if (*out) {
            server->free_requests[size_class] = (*out)->next;
            server->free_bytes -= bytes;
        }
    }
    pthread_mutex_unlock(&server->lock);
    return status;
}

/* The opposite; `request` may be NULL. The last touch of the server by a worker. */
static void pool_give(struct server *server, uint32_t size_class, struct request *request)
{
    uint64_t bytes = UINT64_C(1) << size_class;
    pthread_mutex_lock(&server->lock);
    if (request && bytes <= REQUEST_KEEP_MAX - server->free_bytes) {
        request->next = server->free_requests[size_class];
        server->free_requests[size_class] = request;
        server->free_bytes += bytes;
        request = NULL;
    }
    if (bytes > REQUEST_SMALL_BYTES)
        server->large_bytes -= bytes;
    if (--server->requests_in_flight == 0)
        pthread_cond_broadcast(&server->idle);
    pthread_mutex_unlock(&server->lock);
    free(request);
}

void request_pool_fini(struct server *server)
{
    for (size_t size_class = 0; size_class < ARRAY_LENGTH(server->free_requests); size_class++) {
        while (server->free_requests[size_class]) {
            struct request *request = server->free_requests[size_class];
            server->free_requests[size_class] = request->next;
            free(request);
        }
    }
    server->free_bytes = 0;
}

/* ---- completion ---- */

static void request_release(struct request *request)
{
    struct server *server = request->server;
    connection_release(request->connection);
    question_fini(&request->question); /* which borrows from what is served */
    if (request->served)
        served_release(request->served);
    pool_give(server, request->memory_class, request);
}

void request_abandon(struct request *request)
{
    connection_answer(request->connection, request->query_count, NULL, 0);
    request_release(request);
}

static void request_answer_error(struct request *request, enum status status, const char *text)
{
    uint8_t frame[PROTOCOL_ERROR_FRAME_MAX];
    size_t length = protocol_error_encode(frame, request->id, status, text);
    counter_add(&request->server->counters.errors[status], 1);
    connection_answer(request->connection, request->query_count, frame, length);
    request_release(request);
}

/* What an operator asks about later: answers that miss blocks or failed for one, and slow ones.
 * `err`: of the failure, if there is one. */
static void answer_log(const struct request *request, enum status failure, const struct error *err)
{
    struct server *server = request->server;
    uint64_t took_ns = clock_monotonic_ns() - request->arrived_ns;
    uint32_t slow_ms = server->params.slow_ms;
    const struct question_sum sum = question_flight_sum(&request->flight);
    bool slow = slow_ms != 0 && took_ns >= slow_ms * UINT64_C(1000000);
    if ((sum.degraded && server_may_log(server, SERVER_LOG_DEGRADED)) ||
        (slow && server_may_log(server, SERVER_LOG_SLOW)))
        log_warn(sum.degraded ? "degraded" : "slow",
                 "trace=%016" PRIx64 " connection=%u request=%" PRIu64 " pid=%d generation=\"%s\""
                 " status=%s queries=%u k=%u took_us=%" PRIu64 " reads=%u%s%s%s",
                 request->trace_id, request->connection->number, request->id,
                 request->connection->pid, request->served->name, status_name(failure),
                 request->query_count, request->k, took_ns / 1000, sum.reads,
                 failure ? " error=\"" : "", failure ? err->text : "", failure ? "\"" : "");
}

/* All its queries are over. */
static void request_finish(struct request *request)
{
    struct error err;
    enum status failure = question_flight_outcome(&request->flight, request->timeout_ms, &err);
    answer_log(request, failure, &err);
    if (failure != STATUS_OK) {
        request_answer_error(request, failure, err.text);
        return;
    }
    request_answer_encode(request);
    connection_answer(request->connection, request->query_count, request->frame,
                      request->frame_bytes);
    request_release(request);
}

/* On a worker. */
static void request_complete(struct search_query *query)
{
    struct request *request = query->user;
    if (question_flight_complete(&request->flight, query))
        request_finish(request);
}

/* ---- creation and submission; epoll thread ---- */

enum status request_create(struct connection *connection, const struct request_head *head,
                           struct request **out, struct error *err)
{
    struct server *server = connection->server;
    const struct protocol_search *fixed = &head->search.fixed;
    uint64_t body_bytes = protocol_search_body(&head->search).total; /* of a FETCH, too */
    struct request_layout at = layout_of(head, body_bytes);
    uint32_t size_class = class_of(at.total);
    struct request *request = NULL;

    enum status status = pool_take(server, size_class, &request, err);
    if (status != STATUS_OK)
        return status;
    if (!request)
        request = aligned_alloc(REQUEST_ALIGN, (size_t)1 << size_class);
    if (!request) {
        pool_give(server, size_class, NULL);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a request of %zu bytes", at.total);
    }
    uint8_t *memory = (uint8_t *)request;
    uint32_t timeout_ms = fixed->timeout_ms ? fixed->timeout_ms : server->params.timeout_ms;
    uint64_t now_ns = clock_monotonic_ns();
    *request = (struct request){
        .connection = connection,
        .server = server,
        .id = head->id,
        .trace_id = (uint64_t)connection->number << 32 | ++connection->requests,
        .arrived_ns = now_ns,
        .asked = head->search,
        .fetch = head->fetch,
        .query_count = fixed->query_count,
        .k = fixed->k,
        .timeout_ms = timeout_ms,
        .deadline_ns = timeout_ms ? now_ns + (uint64_t)timeout_ms * 1000000 : 0,
        .memory_class = size_class,
        .body = memory + at.body,
        .rooms = memory + at.rooms,
        .queries = (void *)(memory + at.queries),
        .frame = memory + at.frame,
        .body_bytes = body_bytes,
        .frame_bytes = request_answer_bytes(head),
    };
    connection_retain(connection);
    *out = request;
    return STATUS_OK;
}

/* Takes what is live now to answer it. Between its header, when its shape was checked, and its last
 * byte there may have been a swap: a slow client does not keep the generation before alive. */
static enum status request_attach(struct request *request, struct error *err)
{
    enum status status = serving_require(request->server->params.serving, &request->served, err);
    if (status != STATUS_OK)
        return status;
    const struct manifest *manifest = request->served->manifest;
    const struct protocol_search *fixed = &request->asked.fixed;
    enum element_type type = (enum element_type)fixed->element_type;
    if (manifest->dim == fixed->dim && manifest->query_type == type)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID,
                     "queries are %u %s, but the index has become one of dim %u (%s)", fixed->dim,
                     element_name(type), manifest->dim, element_name(manifest->query_type));
}

/* ---- a SEARCH's queries ---- */

/* Where each query's page begins. */
static enum status cursors_read(struct request *request, struct error *err)
{
    const uint8_t *cursors = request->body + protocol_search_body(&request->asked).cursors;
    for (uint32_t q = 0; q < request->query_count; q++) {
        struct protocol_cursor cursor = {0};
        enum status status = STATUS_OK;
        if (request->asked.extension.pages)
            status = protocol_cursor_decode(cursors, q, &cursor, err);
        if (status != STATUS_OK)
            return status;
        request->queries[q].after = (struct search_after){.set = cursor.rank != 0,
                                                          .rank = cursor.rank,
                                                          .distance = cursor.distance,
                                                          .key = cursor.key};
        request->question.rank_max = MAX(request->question.rank_max, cursor.rank);
    }
    return STATUS_OK;
}

static enum status question_read(struct request *request, struct error *err)
{
    const struct protocol_search *fixed = &request->asked.fixed;
    const struct protocol_extension *extension = &request->asked.extension;
    struct question question = {
        .common = {.k = fixed->k,
                   .search_list = fixed->search_list,
                   .beam_width = fixed->beam_width,
                   .search_ratio = fixed->search_ratio,
                   .within_radius = extension->mode == PROTOCOL_MODE_RADIUS,
                   .radius = extension->radius,
                   .deadline_ns = request->deadline_ns,
                   .flow = request->connection->number,
                   .complete = request_complete,
                   .user = request},
        .recall_target = fixed->recall_target,
        .filter_text = (const char *)request->body + protocol_search_body(&request->asked).filter,
        .filter_bytes = extension->filter_bytes,
        .rank_max = request->question.rank_max,
    };
    enum status status = question_prepare(&question, request->served->index, err);
    if (status == STATUS_OK)
        request->question = question;
    return status;
}

static uint64_t key_of(const struct request *request, uint32_t q)
{
    uint64_t key;
    memcpy(&key, request->body + q * sizeof(key), sizeof(key));
    return key;
}

static void *room_of(const struct request *request, uint32_t q)
{
    const struct protocol_search *fixed = &request->asked.fixed;
    return request->rooms + q * question_room_bytes(fixed->dim);
}

static enum status search_begin(struct request *request, uint32_t q, struct error *err)
{
    const struct protocol_search *fixed = &request->asked.fixed;
    struct search_query *query = &request->queries[q];
    struct search_after after = query->after;
    size_t vector_bytes = fixed->dim * element_bytes((enum element_type)fixed->element_type);
    bool by_key = request->asked.extension.form == PROTOCOL_FORM_KEYS;
    *query = request->question.common;
    query->vector = by_key ? NULL : request->body + q * vector_bytes;
    query->after = after;
    query->hits = (void *)(request->frame + request_hits_at(request->query_count) +
                           (size_t)q * fixed->k * sizeof(struct protocol_hit));
    enum status status = engine_query_check(request->served->engine, query, err);
    if (status == STATUS_OK && by_key)
        question_by_key(query, key_of(request, q), room_of(request, q));
    return status;
}

static enum status searches_begin(struct request *request, struct error *err)
{
    struct error why;
    enum status status = cursors_read(request, err);
    if (status == STATUS_OK)
        status = question_read(request, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t q = 0; q < request->query_count; q++) {
        status = search_begin(request, q, &why);
        if (status == STATUS_OK)
            continue;
        if (request->query_count > 1)
            return error_set(err, status, "query %u: %s", q, why.text);
        return error_set(err, status, "%s", why.text);
    }
    return STATUS_OK;
}

/* ---- a FETCH's ---- */

static void fetches_begin(struct request *request)
{
    bool vectors = (request->fetch.flags & PROTOCOL_FETCH_VECTORS) != 0;
    for (uint32_t q = 0; q < request->query_count; q++)
        request->queries[q] = (struct search_query){
            .kind = SEARCH_FETCH,
            .key = key_of(request, q),
            .fetched = vectors ? room_of(request, q) : NULL,
            .deadline_ns = request->deadline_ns,
            .flow = request->connection->number,
            .complete = request_complete,
            .user = request,
        };
}

void request_submit(struct request *request)
{
    struct server *server = request->server;
    struct error err;
    enum status status = request_attach(request, &err);
    if (status == STATUS_OK && request->fetch.count)
        fetches_begin(request);
    else if (status == STATUS_OK)
        status = searches_begin(request, &err);
    if (status != STATUS_OK) {
        request_answer_error(request, status, err.text);
        return;
    }
    request->flight = (struct question_flight){.engine = request->served->engine,
                                               .queries = request->queries,
                                               .count = request->query_count,
                                               .fetches = request->fetch.count > 0};
    uint32_t submitted = question_flight_submit(&request->flight);
    counter_add(&server->counters.queries, submitted);
    if (question_flight_release(&request->flight, submitted))
        request_finish(request);
}
