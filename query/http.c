/*
 * http.c - see http.h. The only file that knows libmicrohttpd (MHD).
 *
 * MHD calls handle() from its thread several times a request: with the header, with each piece of
 * the body, and with nothing more to come. The last call answers, or submits the search and
 * suspends the connection; when that is resumed, handle() is called again and answers. While
 * suspended, MHD neither looks at the connection nor frees its request, also if the client is gone,
 * so the engine's hits have a place until they are complete.
 *
 * Threads: the engine's workers run search_complete() only. What they share with MHD's thread is
 * search.remaining and .failure, and what http.lock guards.
 */
#include "query/http.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "query/http_search.h"

enum {
    CONNECTION_MEMORY_BYTES = 32 << 10, /* header lines, and what is read at once */
    BODY_BYTES_MIN = 4 << 10,
    BODY_DISCARD_MAX = 2 * HTTP_BODY_BYTES_MAX, /* then it is cut off, answer or not */
    RETRY_AFTER_S = 1,
    CODE_TOO_LARGE = 413, /* microhttpd.h has called it by several names */
};
/* Set in trace ids, which are then others than those of frames. */
#define HTTP_TRACE (UINT64_C(1) << 63)
#define HTTP_FLOW  (UINT32_C(1) << 31)

#define JSON_TYPE       "application/json"
#define TEXT_TYPE       "text/plain; charset=utf-8"
#define PROMETHEUS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Lines that a client or a disk can cause at will. */
enum log_kind { LOG_DENIED, LOG_SEARCH, LOG_KINDS };

struct http {
    struct http_params params; /* defaults filled in */
    struct MHD_Daemon *daemon;
    _Atomic uint64_t logged_ns[LOG_KINDS];
    uint32_t client_number;     /* MHD's thread */
    uint32_t queries_in_flight; /* MHD's thread: given back when it sees that a search is done */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* searching or answering fell */
    bool stopping;          /* no search begins */
    uint32_t searching;     /* searches that a worker will still touch */
    uint32_t answering;     /* requests whose answer is not sent */
};

/* A connection. MHD's thread. */
struct client {
    uint32_t number;
    uint32_t requests;
    struct peer peer;
    bool allowed;
};

/* A POST /search, from the body's end on. */
struct search {
    struct http_search asked;
    struct served *served; /* reference held */
    struct question question;
    struct search_query *queries;
    uint8_t *rooms; /* of queries by key */
    struct search_hit *hits;
    uint32_t timeout_ms;
    bool counted;               /* in queries_in_flight */
    _Atomic uint32_t remaining; /* queries not complete, + 1 until all are submitted */
    _Atomic uint32_t failure;   /* first failed query's enum status */
};

/* One request, from its first line until its answer is sent or it is given up. MHD's thread. */
struct request {
    struct http *http;
    struct MHD_Connection *connection;
    struct client *client;
    enum route {
        ROUTE_NONE,
        ROUTE_HEALTH,
        ROUTE_METRICS,
        ROUTE_STATS,
        ROUTE_SEARCH,
    } route;
    bool wrong_method;
    bool too_large;
    bool due;       /* counted in http.answering */
    bool suspended; /* its search was submitted */
    char request_id[HTTP_REQUEST_ID_MAX + 1];
    char *body;
    size_t body_bytes, body_capacity;
    uint64_t discarded_bytes;
    uint64_t trace_id;
    uint64_t arrived_ns;
    struct search search;
};

void http_counters_get(const struct http_counters *counters, struct http_stats *out)
{
    out->requests = atomic_load_explicit(&counters->requests, memory_order_relaxed);
    out->errors = atomic_load_explicit(&counters->errors, memory_order_relaxed);
}

static bool may_log(struct http *http, enum log_kind kind)
{
    return log_due(&http->logged_ns[kind]);
}

/* ---- answers ---- */

static unsigned int code_of(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return MHD_HTTP_OK;
    case STATUS_INVALID:
    case STATUS_CORRUPT:
    case STATUS_UNSUPPORTED:
        return MHD_HTTP_BAD_REQUEST;
    case STATUS_NOT_FOUND:
        return MHD_HTTP_NOT_FOUND;
    case STATUS_DENIED:
        return MHD_HTTP_FORBIDDEN;
    case STATUS_BUSY:
    case STATUS_NO_MEMORY:
    case STATUS_CANCELLED:
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    case STATUS_TIMEOUT:
        return MHD_HTTP_GATEWAY_TIMEOUT;
    default:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}

/* From now on the end waits for this request. */
static void request_due(struct request *request)
{
    struct http *http = request->http;
    if (request->due)
        return;
    request->due = true;
    pthread_mutex_lock(&http->lock);
    http->answering++;
    pthread_mutex_unlock(&http->lock);
}

/* Headers that lack memory are left out. */
static void headers_add(const struct request *request, struct MHD_Response *response,
                        unsigned int code)
{
    if (request->request_id[0] != '\0')
        (void)MHD_add_response_header(response, "X-Request-Id", request->request_id);
    if (code == MHD_HTTP_SERVICE_UNAVAILABLE) {
        char seconds[16];
        snprintf(seconds, sizeof(seconds), "%d", RETRY_AFTER_S);
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW,
                                      request->route == ROUTE_SEARCH ? "POST" : "GET, HEAD");
    if (code == MHD_HTTP_FORBIDDEN || code == CODE_TOO_LARGE)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
}

/* Takes `text`; NULL or a failure closes the connection. */
static enum MHD_Result respond(struct request *request, unsigned int code, const char *type,
                               char *text)
{
    if (code >= MHD_HTTP_BAD_REQUEST)
        atomic_fetch_add_explicit(&request->http->params.counters->errors, 1, memory_order_relaxed);
    if (!text)
        return MHD_NO;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return MHD_NO;
    }
    request_due(request);
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    headers_add(request, response, code);
    enum MHD_Result result = MHD_queue_response(request->connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result respond_error(struct request *request, unsigned int code, enum status status,
                                     const char *text)
{
    return respond(request, code, JSON_TYPE, http_json_error(status, text));
}

static enum MHD_Result respond_failure(struct request *request, const struct error *err)
{
    return respond_error(request, code_of(err->status), err->status, err->text);
}

/* ---- what is looked at ---- */

static enum MHD_Result answer_stats(struct request *request, enum protocol_stats_format format)
{
    struct error err;
    char *text = NULL;
    if (server_stats_text(request->http->params.server, format, &text, &err) != STATUS_OK)
        return respond_failure(request, &err);
    return respond(request, MHD_HTTP_OK,
                   format == PROTOCOL_STATS_PROMETHEUS ? PROMETHEUS_TYPE : JSON_TYPE, text);
}

static enum MHD_Result answer_health(struct request *request)
{
    const struct http_params *params = &request->http->params;
    char text[NAME_MAX + 128];
    unsigned int code = MHD_HTTP_OK;
    struct served *served = serving_acquire(params->serving);
    struct serving_stats stats;
    serving_stats_get(params->serving, &stats);
    if (!served) {
        code = MHD_HTTP_SERVICE_UNAVAILABLE;
        snprintf(text, sizeof(text), "the next generation is being opened\n");
    } else if (params->stuck && params->stuck(params->context)) {
        code = MHD_HTTP_SERVICE_UNAVAILABLE;
        snprintf(text, sizeof(text), "queries do not end\ngeneration: %s\n", served->name);
    } else {
        snprintf(text, sizeof(text), "ok\ngeneration: %s\n%s", served->name,
                 stats.fallback ? "fallback: current was at fault at the start\n" : "");
    }
    if (served)
        served_release(served);
    return respond(request, code, TEXT_TYPE, strdup(text));
}

/* ---- searches ---- */

static void search_log(const struct request *request, enum status failure)
{
    const struct search *search = &request->search;
    uint64_t took_ns = clock_monotonic_ns() - request->arrived_ns;
    uint32_t slow_ms = request->http->params.slow_ms;
    uint32_t flags = 0, reads = 0;
    for (uint32_t q = 0; failure == STATUS_OK && q < search->asked.query_count; q++) {
        flags |= search->queries[q].flags;
        reads += search->queries[q].stats.reads;
    }
    bool degraded = (flags & SEARCH_DEGRADED) != 0;
    bool slow = slow_ms != 0 && took_ns >= slow_ms * UINT64_C(1000000);
    if ((degraded || slow) && may_log(request->http, LOG_SEARCH))
        log_warn(degraded ? "degraded" : "slow",
                 "trace=%016" PRIx64 " request_id=\"%s\" http_connection=%u pid=%d"
                 " generation=\"%s\" status=%s queries=%u k=%u took_us=%" PRIu64 " reads=%u",
                 request->trace_id, request->request_id, request->client->number,
                 request->client->peer.pid, search->served->name, status_name(failure),
                 search->asked.query_count, search->asked.k, took_ns / 1000, reads);
}

/* The search is over, also one that never began: gives everything back. */
static void search_fini(struct request *request)
{
    struct search *search = &request->search;
    if (search->counted)
        request->http->queries_in_flight -= search->asked.query_count;
    question_fini(&search->question); /* which borrows from what is served */
    if (search->served)
        served_release(search->served);
    http_search_free(&search->asked);
    free(search->queries);
    free(search->rooms);
    free(search->hits);
    memset(search, 0, sizeof(*search));
}

/* After it was resumed. */
static enum MHD_Result search_answer(struct request *request)
{
    struct search *search = &request->search;
    const struct manifest *manifest = search->served->manifest;
    const struct http_search_context context = {
        .origin = {.generation_low = manifest->generation_id.low,
                   .generation_high = manifest->generation_id.high,
                   .trace_id = request->trace_id},
        .asked = &search->asked,
        .question = &search->question,
    };
    struct error err;
    char *text = NULL;
    /* acquire: pairs with the last search_count_down(), after which the hits are complete. */
    uint32_t remaining = atomic_load_explicit(&search->remaining, memory_order_acquire);
    assert(remaining == 0);
    enum status status = (enum status)atomic_load_explicit(&search->failure, memory_order_relaxed);
    search_log(request, status);
    switch (status) {
    case STATUS_OK:
        status =
            http_search_format(&context, search->queries, search->asked.query_count, &text, &err);
        break;
    case STATUS_TIMEOUT:
        (void)error_set(&err, status, "not done within its timeout of %u ms", search->timeout_ms);
        break;
    case STATUS_BUSY:
        (void)error_set(&err, status, "more queries wait than can be answered in time: try again");
        break;
    default:
        (void)error_set(&err, status, "the search failed: %s", status_name(status));
        break;
    }
    search_fini(request);
    if (status != STATUS_OK)
        return respond_failure(request, &err);
    return respond(request, MHD_HTTP_OK, JSON_TYPE, text);
}

/* `count` of its queries (or the submitter's share) are done. The last one resumes the connection,
 * after which the request is MHD's thread's again, and may be gone. */
static void search_count_down(struct request *request, uint32_t count)
{
    struct http *http = request->http;
    struct MHD_Connection *connection = request->connection;
    /* acq_rel: pairs with the same call on other workers, and with the load in search_answer(). */
    if (atomic_fetch_sub_explicit(&request->search.remaining, count, memory_order_acq_rel) != count)
        return;
    MHD_resume_connection(connection);
    pthread_mutex_lock(&http->lock);
    http->searching--;
    pthread_cond_broadcast(&http->changed);
    pthread_mutex_unlock(&http->lock);
}

static void search_note_failure(struct search *search, enum status status)
{
    uint32_t none = STATUS_OK;
    atomic_compare_exchange_strong_explicit(&search->failure, &none, (uint32_t)status,
                                            memory_order_relaxed, memory_order_relaxed);
}

/* On a worker. */
static void search_complete(struct search_query *query)
{
    struct request *request = query->user;
    enum status status = query->status;
    if (question_follow(query)) {
        status = engine_submit(request->search.served->engine, query);
        if (status == STATUS_OK)
            return; /* and here again */
    }
    if (status != STATUS_OK)
        search_note_failure(&request->search, status);
    search_count_down(request, 1);
}

static enum status question_read(struct request *request, struct error *err)
{
    struct search *search = &request->search;
    const struct http_search *asked = &search->asked;
    uint64_t timeout_ms = search->timeout_ms;
    struct question question = {
        .common = {.k = asked->k,
                   .search_list = asked->search_list,
                   .beam_width = asked->beam_width,
                   .search_ratio = asked->search_ratio,
                   .within_radius = asked->within_radius,
                   .radius = asked->radius,
                   .deadline_ns = timeout_ms ? request->arrived_ns + timeout_ms * 1000000 : 0,
                   .flow = HTTP_FLOW | request->client->number,
                   .complete = search_complete,
                   .user = request},
        .recall_target = asked->recall_target,
        .filter_text = asked->filter,
        .filter_bytes = asked->filter ? strlen(asked->filter) : 0,
    };
    for (uint32_t q = 0; asked->after && q < asked->query_count; q++)
        question.rank_max = MAX(question.rank_max, asked->after[q].rank);
    enum status status = question_prepare(&question, search->served->index, err);
    if (status == STATUS_OK)
        search->question = question;
    return status;
}

static enum status queries_init(struct request *request, struct error *err)
{
    struct search *search = &request->search;
    const struct http_search *asked = &search->asked;
    const struct manifest *manifest = search->served->manifest;
    size_t vector_bytes = element_vector_bytes(manifest->query_type, manifest->dim);
    size_t room_bytes = asked->keys ? question_room_bytes(manifest->dim) : 0;
    uint32_t count = asked->query_count;
    enum status status = question_read(request, err);
    if (status != STATUS_OK)
        return status;
    search->queries = calloc(count, sizeof(*search->queries));
    search->hits = calloc((size_t)count * asked->k, sizeof(*search->hits));
    search->rooms = room_bytes ? malloc(count * room_bytes) : NULL;
    if (!search->queries || !search->hits || (room_bytes && !search->rooms))
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", count);
    for (uint32_t q = 0; q < count; q++) {
        struct search_query *query = &search->queries[q];
        struct error why;
        *query = search->question.common;
        query->vector = asked->keys ? NULL : (uint8_t *)asked->vectors + q * vector_bytes;
        query->hits = search->hits + (size_t)q * asked->k;
        if (asked->after)
            query->after = asked->after[q];
        status = engine_query_check(search->served->engine, query, &why);
        if (status != STATUS_OK)
            return error_set(err, status, "query %u: %s", q, why.text);
        if (asked->keys)
            question_by_key(query, asked->keys[q], search->rooms + q * room_bytes);
    }
    return STATUS_OK;
}

/* Everything up to the submission. */
static enum status search_prepare(struct request *request, struct error *err)
{
    struct http *http = request->http;
    struct search *search = &request->search;
    search->served = serving_acquire(http->params.serving);
    if (!search->served)
        return error_set(err, STATUS_BUSY, "the next generation is being opened: try again");
    const struct protocol_shape shape = {
        .type = search->served->manifest->query_type,
        .dim = search->served->manifest->dim,
        .queries_max = MIN(http->params.queries_max, (uint32_t)PROTOCOL_QUERIES_MAX),
        .metric = search->served->manifest->metric,
    };
    enum status status = http_search_parse(request->body ? request->body : "", request->body_bytes,
                                           &shape, &search->asked, err);
    free(request->body);
    request->body = NULL;
    if (status != STATUS_OK)
        return status;
    if (search->asked.query_count > http->params.queries_max - http->queries_in_flight)
        return error_set(err, STATUS_BUSY, "%u queries are in flight, of at most %u: try again",
                         http->queries_in_flight, http->params.queries_max);
    http->queries_in_flight += search->asked.query_count;
    search->counted = true;
    search->timeout_ms =
        search->asked.timeout_ms ? search->asked.timeout_ms : http->params.timeout_ms;
    return queries_init(request, err);
}

static enum MHD_Result search_begin(struct request *request)
{
    struct http *http = request->http;
    struct search *search = &request->search;
    struct error err;
    if (search_prepare(request, &err) != STATUS_OK) {
        search_fini(request);
        return respond_failure(request, &err);
    }
    uint32_t count = search->asked.query_count;
    struct engine *engine = search->served->engine;
    pthread_mutex_lock(&http->lock);
    bool stopping = http->stopping;
    if (!stopping)
        http->searching++;
    pthread_mutex_unlock(&http->lock);
    if (stopping) {
        search_fini(request);
        return respond_error(request, code_of(STATUS_CANCELLED), STATUS_CANCELLED,
                             "the daemon is stopping");
    }
    request_due(request);
    request->suspended = true;
    atomic_store_explicit(&search->remaining, count + 1, memory_order_relaxed);
    /* Before the submission: a worker may resume it at once. */
    MHD_suspend_connection(request->connection);
    uint32_t submitted = 0;
    while (submitted < count) {
        enum status status = engine_submit(engine, &search->queries[submitted]);
        if (status != STATUS_OK) {
            search_note_failure(search, status);
            break;
        }
        submitted++;
    }
    search_count_down(request, count - submitted + 1);
    return MHD_YES;
}

/* ---- requests ---- */

static void route_find(struct request *request, const char *url, const char *method)
{
    static const struct {
        const char *url;
        enum route route;
    } routes[] = {{"/healthz", ROUTE_HEALTH},
                  {"/metrics", ROUTE_METRICS},
                  {"/stats", ROUTE_STATS},
                  {"/search", ROUTE_SEARCH}};
    for (size_t i = 0; i < ARRAY_LENGTH(routes); i++)
        if (strcmp(url, routes[i].url) == 0)
            request->route = routes[i].route;
    bool get =
        strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
    bool post = strcmp(method, MHD_HTTP_METHOD_POST) == 0;
    request->wrong_method = request->route == ROUTE_SEARCH ? !post : !get;
}

/* Kept if it can stand in a log line between quotes. */
static void request_id_take(struct request *request)
{
    const char *id =
        MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "X-Request-Id");
    if (!id || strlen(id) > HTTP_REQUEST_ID_MAX)
        return;
    for (const char *at = id; *at; at++)
        if (*at < ' ' || *at > '~' || *at == '"' || *at == '\\')
            return;
    memcpy(request->request_id, id, strlen(id) + 1);
}

/* Whether the header announces more than is taken. */
static bool announces_too_much(struct request *request)
{
    const char *length = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND,
                                                     MHD_HTTP_HEADER_CONTENT_LENGTH);
    return length && strtoull(length, NULL, 10) > HTTP_BODY_BYTES_MAX;
}

static enum MHD_Result respond_too_large(struct request *request)
{
    struct error err;
    (void)error_set(&err, STATUS_INVALID, "a body has at most %d bytes", HTTP_BODY_BYTES_MAX);
    return respond_error(request, CODE_TOO_LARGE, STATUS_INVALID, err.text);
}

/* The header is there. Answers only what is refused for it, after which MHD closes. */
static enum MHD_Result request_begin(struct http *http, struct MHD_Connection *connection,
                                     const char *url, const char *method, void **slot)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct request *request = calloc(1, sizeof(*request));
    atomic_fetch_add_explicit(&http->params.counters->requests, 1, memory_order_relaxed);
    if (!request || !info || !info->socket_context) {
        free(request);
        return MHD_NO;
    }
    struct client *client = info->socket_context;
    request->http = http;
    request->connection = connection;
    request->client = client;
    request->arrived_ns = clock_monotonic_ns();
    request->trace_id = HTTP_TRACE | (uint64_t)client->number << 32 | ++client->requests;
    *slot = request;
    route_find(request, url, method);
    request_id_take(request);
    if (!client->allowed) {
        struct error err;
        if (may_log(http, LOG_DENIED))
            log_warn("denied", "uid=%u gid=%u pid=%d request=http", client->peer.uid,
                     client->peer.gid, client->peer.pid);
        (void)error_set(&err, STATUS_DENIED, "uid %u is not among those who may connect",
                        client->peer.uid);
        return respond_failure(request, &err);
    }
    return announces_too_much(request) ? respond_too_large(request) : MHD_YES;
}

/* Room grows with what comes, not with what was announced. */
static bool body_reserve(struct request *request, size_t bytes)
{
    size_t capacity = MAX(request->body_capacity, (size_t)BODY_BYTES_MIN);
    while (capacity < bytes)
        capacity *= 2;
    if (capacity == request->body_capacity)
        return true;
    char *body = realloc(request->body, capacity);
    if (!body)
        return false;
    request->body = body;
    request->body_capacity = capacity;
    return true;
}

/* Of a body that nobody wants the bytes are let go by, within limits. */
static enum MHD_Result body_take(struct request *request, const char *bytes, size_t length)
{
    if (request->route == ROUTE_SEARCH && !request->wrong_method && !request->too_large) {
        if (length > HTTP_BODY_BYTES_MAX - request->body_bytes) {
            request->too_large = true;
            free(request->body);
            request->body = NULL;
            return MHD_YES;
        }
        if (!body_reserve(request, request->body_bytes + length))
            return MHD_NO;
        memcpy(request->body + request->body_bytes, bytes, length);
        request->body_bytes += length;
        return MHD_YES;
    }
    request->discarded_bytes += length;
    return request->discarded_bytes <= BODY_DISCARD_MAX ? MHD_YES : MHD_NO;
}

/* All of it has come, or its search is over. */
static enum MHD_Result request_answer(struct request *request)
{
    if (request->suspended)
        return search_answer(request);
    if (request->route == ROUTE_NONE)
        return respond_error(request, MHD_HTTP_NOT_FOUND, STATUS_NOT_FOUND,
                             "want /healthz, /metrics, /stats or /search");
    if (request->wrong_method)
        return respond_error(request, MHD_HTTP_METHOD_NOT_ALLOWED, STATUS_INVALID,
                             "/search takes POST, the others GET");
    if (request->too_large)
        return respond_too_large(request);
    switch (request->route) {
    case ROUTE_HEALTH:
        return answer_health(request);
    case ROUTE_METRICS:
        return answer_stats(request, PROTOCOL_STATS_PROMETHEUS);
    case ROUTE_STATS:
        return answer_stats(request, PROTOCOL_STATS_JSON);
    default:
        return search_begin(request);
    }
}

static enum MHD_Result handle(void *context, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **slot)
{
    (void)version;
    struct request *request = *slot;
    if (!request)
        return request_begin(context, connection, url, method, slot);
    if (*upload_bytes > 0) {
        enum MHD_Result result = body_take(request, upload, *upload_bytes);
        *upload_bytes = 0;
        return result;
    }
    return request_answer(request);
}

/* Its answer is sent, or the connection is gone. Never while it is suspended. */
static void on_completed(void *context, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode how)
{
    (void)connection, (void)how;
    struct http *http = context;
    struct request *request = *slot;
    if (!request)
        return;
    *slot = NULL;
    search_fini(request);
    free(request->body);
    if (request->due) {
        pthread_mutex_lock(&http->lock);
        http->answering--;
        pthread_cond_broadcast(&http->changed);
        pthread_mutex_unlock(&http->lock);
    }
    free(request);
}

/* Who is there is asked once: the answer is about the moment of connect(2). */
static void on_connection(void *context, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode what)
{
    struct http *http = context;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        free(*slot);
        *slot = NULL;
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct client *client = calloc(1, sizeof(*client));
    struct error err;
    if (!client)
        return;
    /* Its upper bit is the mark of HTTP in ids. */
    client->number = ++http->client_number & ~HTTP_FLOW;
    client->allowed = info && peer_of(info->connect_fd, &client->peer, &err) == STATUS_OK &&
                      (!http->params.peers || peer_allowed(http->params.peers, &client->peer));
    *slot = client;
}

/* ---- start and end ---- */

static void params_default(struct http_params *params)
{
    if (params->connections_max == 0)
        params->connections_max = HTTP_CONNECTIONS_DEFAULT;
    if (params->queries_max == 0)
        params->queries_max = HTTP_QUERIES_DEFAULT;
    if (params->idle_s == 0)
        params->idle_s = HTTP_IDLE_S_DEFAULT;
    if (params->drain_ms == 0)
        params->drain_ms = HTTP_DRAIN_MS_DEFAULT;
}

/* MHD closes the descriptor it listens on, so it gets its own. */
static enum status daemon_start(struct http *http, struct error *err)
{
    const struct http_params *params = &http->params;
    int fd = fcntl(params->listener->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return error_set_os(err, errno, "cannot duplicate the HTTP socket");
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, http,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, params->connections_max,
        MHD_OPTION_CONNECTION_TIMEOUT, params->idle_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_END);
    if (http->daemon)
        return STATUS_OK;
    close(fd);
    return error_set(err, STATUS_UNSUPPORTED, "libmicrohttpd %s cannot serve the HTTP socket",
                     MHD_get_version());
}

enum status http_create(const struct http_params *params, struct http **out, struct error *err)
{
    pthread_condattr_t attributes;
    struct http *http = calloc(1, sizeof(*http));
    if (!http)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the HTTP socket");
    http->params = *params;
    params_default(&http->params);
    pthread_mutex_init(&http->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&http->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    enum status status = daemon_start(http, err);
    if (status != STATUS_OK) {
        http_destroy(http);
        return status;
    }
    *out = http;
    return STATUS_OK;
}

/* Until workers no longer touch a request, and then for a while until clients have their answers.
 */
static void drain(struct http *http)
{
    pthread_mutex_lock(&http->lock);
    http->stopping = true;
    while (http->searching > 0)
        pthread_cond_wait(&http->changed, &http->lock);
    uint64_t until_ns = clock_monotonic_ns() + http->params.drain_ms * UINT64_C(1000000);
    const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000),
                                   .tv_nsec = (long)(until_ns % 1000000000)};
    int failed = 0;
    while (http->answering > 0 && failed == 0)
        failed = pthread_cond_timedwait(&http->changed, &http->lock, &until);
    pthread_mutex_unlock(&http->lock);
}

void http_destroy(struct http *http)
{
    if (!http)
        return;
    if (http->daemon) {
        int fd = MHD_quiesce_daemon(http->daemon);
        if (fd >= 0)
            close(fd);
    }
    socket_path_close(http->params.listener);
    if (http->daemon) {
        drain(http);
        MHD_stop_daemon(http->daemon);
    }
    pthread_cond_destroy(&http->changed);
    pthread_mutex_destroy(&http->lock);
    free(http);
}
