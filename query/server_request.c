/*
 * server_request.c - a SEARCH from checked header to sent answer.
 *
 * Owns request memory: one block a request, in power-of-two classes with a free list each, so a
 * steady load allocates nothing whatever its mix of sizes. What is in use is bounded. Small
 * requests by the engine's queue, the connection count (one frame each may be arriving) and nothing
 * else, so that clients with huge frames cannot starve them; large ones also by REQUEST_MEMORY_MAX.
 *
 * Owns completion: the worker that completes the last query of a request encodes and sends the
 * answer. Hits need no copy, since the engine writes them where the frame wants them: a search_hit
 * is a protocol_hit with the node id in the reserved field, which is cleared before sending.
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

_Static_assert(sizeof(struct search_hit) == sizeof(struct protocol_hit), "hits are sent in place");
_Static_assert(offsetof(struct search_hit, key) == offsetof(struct protocol_hit, key),
               "hits are sent in place");
_Static_assert(offsetof(struct search_hit, distance) == offsetof(struct protocol_hit, distance),
               "hits are sent in place");
_Static_assert(offsetof(struct search_hit, node) == offsetof(struct protocol_hit, reserved),
               "hits are sent in place");
_Static_assert((int)PROTOCOL_K_MAX <= (int)ENGINE_K_MAX,
               "k that passes the protocol must fit the engine");
_Static_assert(SEARCH_DEGRADED == 1, "PROTOCOL.md gives the flag's value");

enum { REQUEST_ALIGN = 64 };

/* ---- memory ---- */

struct request_layout {
    size_t vectors, queries, frame, total;
};

/* Sums of values that protocol_search_decode() has bounded by a frame each: no overflow. */
static struct request_layout layout_of(uint64_t vectors_bytes, uint32_t query_count,
                                       uint64_t frame_bytes)
{
    struct request_layout at;
    at.vectors = size_align(sizeof(struct request), REQUEST_ALIGN);
    at.queries = size_align(at.vectors + vectors_bytes, REQUEST_ALIGN);
    at.frame = size_align(at.queries + query_count * sizeof(struct search_query), REQUEST_ALIGN);
    at.total = at.frame + frame_bytes;
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

/* Everything of the answer's frame that the engine did not write. */
static void answer_encode(struct request *request)
{
    const struct protocol_search_ok fixed = {.query_count = request->query_count, .k = request->k};
    uint8_t *at = request->frame;
    protocol_header_encode(at, protocol_answer_type(request->flags), request->id,
                           (uint32_t)request->frame_bytes - PROTOCOL_HEADER_BYTES);
    at += PROTOCOL_HEADER_BYTES;
    memcpy(at, &fixed, sizeof(fixed));
    at += sizeof(fixed);
    for (uint32_t q = 0; q < request->query_count; q++) {
        const struct search_query *query = &request->queries[q];
        const struct protocol_result result = {
            .hit_count = query->hit_count,
            .flags = query->flags,
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
    if ((request->flags & PROTOCOL_SEARCH_EXPLAIN) != 0)
        at = explanations_encode(request, at);
    if ((request->flags & PROTOCOL_SEARCH_ORIGIN) != 0)
        origin_encode(request, at);
}

/* What an operator asks about later: answers that miss blocks, and slow ones. */
static void answer_log(const struct request *request, enum status failure)
{
    struct server *server = request->server;
    uint64_t took_ns = clock_monotonic_ns() - request->arrived_ns;
    uint32_t slow_ms = server->params.slow_ms;
    uint32_t flags = 0, reads = 0;
    for (uint32_t q = 0; failure == STATUS_OK && q < request->query_count; q++) {
        flags |= request->queries[q].flags;
        reads += request->queries[q].stats.reads;
    }
    bool degraded = (flags & SEARCH_DEGRADED) != 0;
    bool slow = slow_ms != 0 && took_ns >= slow_ms * UINT64_C(1000000);
    if ((degraded && server_may_log(server, SERVER_LOG_DEGRADED)) ||
        (slow && server_may_log(server, SERVER_LOG_SLOW)))
        log_warn(degraded ? "degraded" : "slow",
                 "trace=%016" PRIx64 " connection=%u request=%" PRIu64 " pid=%d generation=\"%s\""
                 " status=%s queries=%u k=%u took_us=%" PRIu64 " reads=%u",
                 request->trace_id, request->connection->number, request->id,
                 request->connection->pid, request->served->name, status_name(failure),
                 request->query_count, request->k, took_ns / 1000, reads);
}

static void request_finish(struct request *request)
{
    char text[ERROR_TEXT_BYTES];
    enum status failure =
        (enum status)atomic_load_explicit(&request->failure, memory_order_relaxed);
    answer_log(request, failure);
    switch (failure) {
    case STATUS_OK:
        answer_encode(request);
        connection_answer(request->connection, request->query_count, request->frame,
                          request->frame_bytes);
        request_release(request);
        return;
    case STATUS_TIMEOUT:
        snprintf(text, sizeof(text), "not done within its timeout of %u ms", request->timeout_ms);
        break;
    case STATUS_BUSY:
        snprintf(text, sizeof(text), "more queries wait than can be answered in time: try again");
        break;
    default:
        snprintf(text, sizeof(text), "the search failed: %s", status_name(failure));
        break;
    }
    request_answer_error(request, failure, text);
}

/* `count` of the request's queries (or the submitter's share) are done. */
static void request_count_down(struct request *request, uint32_t count)
{
    /* acq_rel: pairs with the same call on other workers, whose queries the last one encodes. */
    if (atomic_fetch_sub_explicit(&request->remaining, count, memory_order_acq_rel) == count)
        request_finish(request);
}

static void request_note_failure(struct request *request, enum status status)
{
    uint32_t none = STATUS_OK;
    atomic_compare_exchange_strong_explicit(&request->failure, &none, (uint32_t)status,
                                            memory_order_relaxed, memory_order_relaxed);
}

/* On a worker. */
static void request_complete(struct search_query *query)
{
    struct request *request = query->user;
    if (query->status != STATUS_OK)
        request_note_failure(request, query->status);
    request_count_down(request, 1);
}

/* ---- creation and submission; epoll thread ---- */

static void queries_init(struct request *request, const struct protocol_search *search)
{
    size_t vector_bytes = request->vectors_bytes / request->query_count;
    size_t hits_at = PROTOCOL_HEADER_BYTES + sizeof(struct protocol_search_ok) +
                     request->query_count * sizeof(struct protocol_result);
    for (uint32_t q = 0; q < request->query_count; q++)
        request->queries[q] = (struct search_query){
            .vector = request->vectors + q * vector_bytes,
            .k = search->k,
            .search_list = search->search_list,
            .beam_width = search->beam_width,
            .search_ratio = search->search_ratio,
            .deadline_ns = request->deadline_ns,
            .hits = (void *)(request->frame + hits_at +
                             (size_t)q * search->k * sizeof(struct protocol_hit)),
            .flow = request->connection->number,
            .complete = request_complete,
            .user = request,
        };
}

enum status request_create(struct connection *connection, uint64_t id,
                           const struct protocol_search *search, struct request **out,
                           struct error *err)
{
    struct server *server = connection->server;
    enum element_type type = (enum element_type)search->element_type; /* which was checked */
    uint64_t vectors_bytes =
        (uint64_t)search->query_count * element_vector_bytes(type, search->dim);
    uint64_t frame_bytes =
        protocol_answer_frame_bytes(search->query_count, search->k, search->flags);
    struct request_layout at = layout_of(vectors_bytes, search->query_count, frame_bytes);
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
    uint32_t timeout_ms = search->timeout_ms ? search->timeout_ms : server->params.timeout_ms;
    uint64_t now_ns = clock_monotonic_ns();
    *request = (struct request){
        .connection = connection,
        .server = server,
        .id = id,
        .trace_id = (uint64_t)connection->number << 32 | ++connection->requests,
        .arrived_ns = now_ns,
        .query_count = search->query_count,
        .k = search->k,
        .dim = search->dim,
        .type = type,
        .flags = search->flags,
        .timeout_ms = timeout_ms,
        .deadline_ns = timeout_ms ? now_ns + (uint64_t)timeout_ms * 1000000 : 0,
        .memory_class = size_class,
        .vectors = memory + at.vectors,
        .queries = (void *)(memory + at.queries),
        .frame = memory + at.frame,
        .vectors_bytes = vectors_bytes,
        .frame_bytes = frame_bytes,
    };
    atomic_init(&request->remaining, search->query_count + 1);
    atomic_init(&request->failure, STATUS_OK);
    connection_retain(connection);
    queries_init(request, search);
    *out = request;
    return STATUS_OK;
}

/* Takes what is live now to answer it. Between its header, when its shape was checked, and its last
 * byte there may have been a swap: a slow client does not keep the generation before alive. */
static enum status request_attach(struct request *request, struct error *err)
{
    request->served = serving_acquire(request->server->params.serving);
    if (!request->served)
        return error_set(err, STATUS_BUSY, "the next generation is being opened: try again");
    const struct manifest *manifest = request->served->manifest;
    if (manifest->dim == request->dim && manifest->query_type == request->type)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID,
                     "queries are %u %s, but the index has become one of dim %u (%s)", request->dim,
                     element_name(request->type), manifest->dim,
                     element_name(manifest->query_type));
}

static enum status queries_check(const struct request *request, struct error *err)
{
    const struct engine *engine = request->served->engine;
    struct error why;
    for (uint32_t q = 0; q < request->query_count; q++) {
        enum status status = engine_query_check(engine, &request->queries[q], &why);
        if (status == STATUS_OK)
            continue;
        if (request->query_count > 1)
            return error_set(err, status, "query %u: %s", q, why.text);
        return error_set(err, status, "%s", why.text);
    }
    return STATUS_OK;
}

void request_submit(struct request *request)
{
    struct server *server = request->server;
    uint32_t count = request->query_count;
    struct error err;
    enum status status = request_attach(request, &err);
    if (status == STATUS_OK)
        status = queries_check(request, &err);
    if (status != STATUS_OK) {
        request_answer_error(request, status, err.text);
        return;
    }
    struct engine *engine = request->served->engine;
    uint32_t submitted = 0;
    while (submitted < count) {
        status = engine_submit(engine, &request->queries[submitted]);
        if (status != STATUS_OK) {
            request_note_failure(request, status);
            break;
        }
        submitted++;
    }
    counter_add(&server->counters.queries, submitted);
    request_count_down(request, count - submitted + 1);
}
