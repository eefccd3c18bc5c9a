/*
 * http.c - see http.h. The only file that knows libmicrohttpd (MHD).
 *
 * MHD calls handle() from its thread several times a request: with the header, with each piece of
 * the body, and with nothing more to come. The last call answers, or submits queries (http_post.h)
 * and suspends the connection; when that is resumed, handle() is called again and answers. While
 * suspended, MHD neither looks at the connection nor frees its request, also if the client is gone,
 * so the engine's hits have a place until they are complete.
 *
 * Threads: the engine's workers run on_done() only. What they share with MHD's thread is what
 * http_post.h says, and what http.lock guards.
 */
#include "query/http.h"

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
#include "query/http_post.h"

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
enum log_kind { LOG_DENIED, LOG_POST, LOG_KINDS };

struct http {
    struct http_params params; /* defaults filled in */
    struct MHD_Daemon *daemon;
    _Atomic uint64_t logged_ns[LOG_KINDS];
    uint32_t client_number;     /* MHD's thread */
    uint32_t queries_in_flight; /* MHD's thread: given back when it sees that a request is done */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* posts or answering fell */
    bool stopping;          /* no post begins */
    uint32_t posts;         /* that a worker will still touch */
    uint32_t answering;     /* requests whose answer is not sent */
};

/* A connection. MHD's thread. */
struct client {
    uint32_t number;
    uint32_t requests;
    struct peer peer;
    bool allowed;
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
        ROUTE_FETCH,
    } route;
    bool wrong_method;
    bool too_large;
    bool due;       /* counted in http.answering */
    bool suspended; /* its queries were submitted */
    char request_id[HTTP_REQUEST_ID_MAX + 1];
    char *body;
    size_t body_bytes, body_capacity;
    uint64_t discarded_bytes;
    uint64_t trace_id;
    uint64_t arrived_ns;
    uint32_t queries_counted; /* in http.queries_in_flight */
    struct http_post post;    /* of routes that take one, from the body's end on */
};

void http_counters_get(const struct http_counters *counters, struct http_stats *out)
{
    out->requests = atomic_load_explicit(&counters->requests, memory_order_relaxed);
    out->errors = atomic_load_explicit(&counters->errors, memory_order_relaxed);
}

static bool takes_post(enum route route)
{
    return route == ROUTE_SEARCH || route == ROUTE_FETCH;
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
                                      takes_post(request->route) ? "POST" : "GET, HEAD");
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

/* ---- searches and fetches ---- */

/* What an operator asks about later: answers that miss blocks or failed for one, and slow ones.
 * `err`: of the failure, if there is one. */
static void post_log(const struct request *request, enum status failure, const struct error *err)
{
    const struct http_post *post = &request->post;
    uint64_t took_ns = clock_monotonic_ns() - request->arrived_ns;
    uint32_t slow_ms = request->http->params.slow_ms;
    const struct question_sum sum = question_flight_sum(&post->flight);
    bool slow = slow_ms != 0 && took_ns >= slow_ms * UINT64_C(1000000);
    if ((sum.degraded || slow) && may_log(request->http, LOG_POST))
        log_warn(sum.degraded ? "degraded" : "slow",
                 "trace=%016" PRIx64 " request_id=\"%s\" http_connection=%u pid=%d"
                 " generation=\"%s\" status=%s queries=%u k=%u took_us=%" PRIu64 " reads=%u%s%s%s",
                 request->trace_id, request->request_id, request->client->number,
                 request->client->peer.pid, post->served->name, status_name(failure),
                 post->query_count, post->search.k, took_ns / 1000, sum.reads,
                 failure ? " error=\"" : "", failure ? err->text : "", failure ? "\"" : "");
}

/* It is over, also one that never began: gives everything back. */
static void post_end(struct request *request)
{
    request->http->queries_in_flight -= request->queries_counted;
    request->queries_counted = 0;
    http_post_fini(&request->post);
}

/* After it was resumed. */
static enum MHD_Result post_answer(struct request *request)
{
    struct error err;
    char *text = NULL;
    enum status status = http_post_outcome(&request->post, &err);
    post_log(request, status, &err);
    if (status == STATUS_OK)
        status = http_post_answer(&request->post, &text, &err);
    post_end(request);
    if (status != STATUS_OK)
        return respond_failure(request, &err);
    return respond(request, MHD_HTTP_OK, JSON_TYPE, text);
}

/* On a worker, or within http_post_submit(). Once it is resumed the request is MHD's thread's
 * again, and may be gone. */
static void on_done(void *context)
{
    struct request *request = context;
    struct http *http = request->http;
    MHD_resume_connection(request->connection);
    pthread_mutex_lock(&http->lock);
    http->posts--;
    pthread_cond_broadcast(&http->changed);
    pthread_mutex_unlock(&http->lock);
}

/* Everything up to the submission. */
static enum status post_prepare(struct request *request, struct error *err)
{
    struct http *http = request->http;
    struct http_post *post = &request->post;
    uint32_t queries_max = http->params.queries_max;
    post->kind = request->route == ROUTE_FETCH ? HTTP_POST_FETCH : HTTP_POST_SEARCH;
    post->queries_max = queries_max;
    post->flow = HTTP_FLOW | request->client->number;
    post->trace_id = request->trace_id;
    post->arrived_ns = request->arrived_ns;
    post->timeout_ms = http->params.timeout_ms;
    post->done = on_done;
    post->context = request;
    enum status status = http_post_read(
        post, http->params.serving, request->body ? request->body : "", request->body_bytes, err);
    free(request->body);
    request->body = NULL;
    if (status != STATUS_OK)
        return status;
    if (post->query_count > queries_max - http->queries_in_flight)
        return error_set(err, STATUS_BUSY, "%u queries are in flight, of at most %u: try again",
                         http->queries_in_flight, queries_max);
    request->queries_counted = post->query_count;
    http->queries_in_flight += request->queries_counted;
    return http_post_prepare(post, err);
}

static enum MHD_Result post_begin(struct request *request)
{
    struct http *http = request->http;
    struct error err;
    if (post_prepare(request, &err) != STATUS_OK) {
        post_end(request);
        return respond_failure(request, &err);
    }
    pthread_mutex_lock(&http->lock);
    bool stopping = http->stopping;
    if (!stopping)
        http->posts++;
    pthread_mutex_unlock(&http->lock);
    if (stopping) {
        post_end(request);
        return respond_error(request, code_of(STATUS_CANCELLED), STATUS_CANCELLED,
                             "the daemon is stopping");
    }
    request_due(request);
    request->suspended = true;
    /* Before the submission: a worker may resume it at once. */
    MHD_suspend_connection(request->connection);
    http_post_submit(&request->post);
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
                  {"/search", ROUTE_SEARCH},
                  {"/fetch", ROUTE_FETCH}};
    for (size_t i = 0; i < ARRAY_LENGTH(routes); i++)
        if (strcmp(url, routes[i].url) == 0)
            request->route = routes[i].route;
    bool get =
        strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
    bool post = strcmp(method, MHD_HTTP_METHOD_POST) == 0;
    request->wrong_method = takes_post(request->route) ? !post : !get;
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
    if (takes_post(request->route) && !request->wrong_method && !request->too_large) {
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

/* All of it has come, or its queries are over. */
static enum MHD_Result request_answer(struct request *request)
{
    if (request->suspended)
        return post_answer(request);
    if (request->route == ROUTE_NONE)
        return respond_error(request, MHD_HTTP_NOT_FOUND, STATUS_NOT_FOUND,
                             "want /healthz, /metrics, /stats, /search or /fetch");
    if (request->wrong_method)
        return respond_error(request, MHD_HTTP_METHOD_NOT_ALLOWED, STATUS_INVALID,
                             "/search and /fetch take POST, the others GET");
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
        return post_begin(request);
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
    post_end(request);
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
    while (http->posts > 0)
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
