/*
 * server.c - see server.h: the epoll loop, accepting, draining.
 *
 * One thread runs the loop; workers reach it through the resume list and an eventfd. Events carry
 * the address of what they are about: a field of the server, or a connection. A connection is freed
 * only on behalf of its own event or outside the batch, so no event of a batch is stale.
 */
#include "query/server.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "query/server_internal.h"

enum {
    EVENTS_PER_WAIT = 64,
    ACCEPTS_PER_WAKE = 64,
    ACCEPT_RETRY_MS = 100, /* after EMFILE and its kin, unless a connection closes first */
};

struct protocol_shape server_shape(const struct server *server, const struct served *served)
{
    return (struct protocol_shape){
        .type = served->manifest->query_type,
        .dim = served->manifest->dim,
        .queries_max = MIN(server->params.window, (uint32_t)PROTOCOL_QUERIES_MAX),
        .metric = served->manifest->metric,
    };
}

bool server_may_log(struct server *server, enum server_log kind)
{
    return log_due(&server->logged_ns[kind]);
}

/* ---- waking ---- */

/* Wakes the epoll thread. Any thread. */
static void wake(struct server *server)
{
    const uint64_t one = 1;
    /* Full (EAGAIN) means that it is readable already. */
    ssize_t written = write(server->wake_fd, &one, sizeof(one));
    (void)written;
}

void server_resume_push(struct server *server, struct connection *connection)
{
    pthread_mutex_lock(&server->lock);
    bool first = !connection->resuming;
    if (first) {
        connection_retain(connection);
        connection->resuming = true;
        connection->resume_next = server->resume;
        server->resume = connection;
    }
    pthread_mutex_unlock(&server->lock);
    if (first)
        wake(server);
}

/* The list is taken whole, so that connections which pause and resume again meanwhile wait for the
 * next wake; each is unmarked as it is taken from it, for until then a push must not touch its
 * link. */
static void resume_all(struct server *server)
{
    uint64_t count;
    ssize_t got = read(server->wake_fd, &count, sizeof(count));
    (void)got;
    pthread_mutex_lock(&server->lock);
    struct connection *list = server->resume;
    server->resume = NULL;
    pthread_mutex_unlock(&server->lock);
    while (list) {
        struct connection *connection = list;
        pthread_mutex_lock(&server->lock);
        list = connection->resume_next;
        connection->resuming = false;
        pthread_mutex_unlock(&server->lock);
        if (connection->listed) {
            connection_input_resume(connection);
            connection_input(connection, false);
        }
        connection_release(connection);
    }
}

void server_pending_push(struct server *server, struct connection *connection)
{
    if (connection->pending)
        return;
    connection_retain(connection);
    connection->pending = true;
    connection->pending_next = NULL;
    *server->pending_tail = connection;
    server->pending_tail = &connection->pending_next;
}

/* One turn for each connection that is pending now; those with yet more queue up again. */
static void pending_all(struct server *server)
{
    struct connection *connection = server->pending_head;
    server->pending_head = NULL;
    server->pending_tail = &server->pending_head;
    while (connection) {
        struct connection *next = connection->pending_next;
        connection->pending = false;
        if (connection->listed)
            connection_input(connection, false);
        connection_release(connection);
        connection = next;
    }
}

/* ---- accepting ---- */

static enum status watch(struct server *server, int fd, void *tag, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = tag};
    if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return error_set_os(err, errno, "cannot watch descriptor %d", fd);
    return STATUS_OK;
}

static void accepting_set(struct server *server, bool on)
{
    if (server->accepting == on || server->params.listener->fd < 0)
        return;
    struct epoll_event event = {.events = on ? EPOLLIN : 0, .data.ptr = &server->params.listener};
    (void)epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, server->params.listener->fd, &event);
    server->accepting = on;
    server->accept_retry_ns = on ? 0 : clock_monotonic_ns() + ACCEPT_RETRY_MS * 1000000ull;
}

static void refuse(struct server *server, int fd, const struct error *err)
{
    uint8_t frame[PROTOCOL_ERROR_FRAME_MAX];
    size_t length = protocol_error_encode(frame, 0, err->status, err->text);
    ssize_t sent = send(fd, frame, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* a fresh socket has room; a client that is gone does not mind */
    close(fd);
    counter_add(&server->counters.errors[err->status], 1);
}

/* Who is there, and whether they may be; anyone else is told so. */
static enum status admit(struct server *server, int fd, struct peer *peer, struct error *err)
{
    if (atomic_load_explicit(&server->connection_count, memory_order_relaxed) >=
        server->params.connections_max) {
        counter_add(&server->counters.connections_refused, 1);
        return error_set(err, STATUS_BUSY, "the daemon has its %u connections already",
                         server->params.connections_max);
    }
    enum status status = peer_of(fd, peer, err);
    if (status != STATUS_OK || !server->params.peers || peer_allowed(server->params.peers, peer))
        return status;
    counter_add(&server->counters.connections_denied, 1);
    if (server_may_log(server, SERVER_LOG_DENIED))
        log_warn("denied", "uid=%u gid=%u pid=%d request=connect", peer->uid, peer->gid, peer->pid);
    return error_set(err, STATUS_DENIED, "uid %u is not among those who may connect", peer->uid);
}

static void accept_failed(struct server *server, const struct error *err)
{
    counter_add(&server->counters.accept_failures, 1);
    if (server_may_log(server, SERVER_LOG_ACCEPT))
        log_warn("accept-failed", "retry_ms=%d error=\"%s\"", ACCEPT_RETRY_MS, err->text);
}

static void accept_some(struct server *server)
{
    struct error err;
    for (int i = 0; i < ACCEPTS_PER_WAKE; i++) {
        int fd = accept4(server->params.listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (fd < 0) {
            /* Out of descriptors or memory: the listener stays readable, so look away for a
             * while, or the loop would spin. The client waits in the backlog. */
            error_set_os(&err, errno, "cannot accept");
            accept_failed(server, &err);
            accepting_set(server, false);
            return;
        }
        struct peer peer;
        if (admit(server, fd, &peer, &err) != STATUS_OK) {
            refuse(server, fd, &err);
            continue;
        }
        struct connection *connection = NULL;
        if (connection_create(server, fd, &peer, &connection, &err) != STATUS_OK)
            accept_failed(server, &err);
        else
            counter_add(&server->counters.connections_accepted, 1);
    }
}

/* ---- the loop ---- */

static void drain_begin(struct server *server)
{
    if (server->draining)
        return;
    server->draining = true;
    accepting_set(server, false);
    socket_path_close(server->params.listener);
    (void)epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, server->params.stop_fd, NULL);
    for (struct connection *c = server->connections; c; c = c->next)
        connection_input_close(c);
}

/* What is in the descriptor does not matter: asked once or often, it is looked once. */
static void reload_begin(struct server *server)
{
    uint8_t dropped[512];
    struct error err;
    while (read(server->params.reload_fd, dropped, sizeof(dropped)) > 0)
        ;
    if (serving_reload(server->params.serving, NULL, &err) != STATUS_OK)
        log_warn("not-reloaded", "error=\"%s\"", err.text);
}

static void dispatch(struct server *server, const struct epoll_event *event)
{
    void *tag = event->data.ptr;
    if (tag == &server->wake_fd) {
        resume_all(server);
    } else if (tag == &server->params.listener) {
        if (!server->draining)
            accept_some(server);
    } else if (tag == &server->params.stop_fd) {
        drain_begin(server);
    } else if (tag == &server->params.reload_fd) {
        reload_begin(server);
    } else {
        struct connection *connection = tag;
        /* HUP: the peer closed altogether, so answers have nowhere to go; or we shut it down. */
        if (event->events & (EPOLLHUP | EPOLLERR)) {
            connection_close(connection);
            if (!server->accepting)
                server->accept_retry_ns = clock_monotonic_ns();
            return;
        }
        if (event->events & EPOLLOUT)
            connection_flush(connection);
        if (event->events & EPOLLIN)
            connection_input(connection, true);
    }
}

/* Closes connections that wait for their peer for too long. */
static void sweep(struct server *server, uint64_t now_ns)
{
    uint64_t stall_ns = (uint64_t)server->params.stall_ms * 1000000;
    uint64_t then_ns = now_ns > stall_ns ? now_ns - stall_ns : 0;
    for (struct connection *c = server->connections; c; c = c->next) {
        if (!connection_stalled(c, then_ns))
            continue;
        connection_broken_note(c, "stalled");
        connection_fail(c); /* epoll reports it, and it is closed then */
    }
}

static void tick(struct server *server, uint64_t now_ns)
{
    sweep(server, now_ns);
    if (server->params.on_tick)
        server->params.on_tick(server->params.context);
    server->tick_ns = now_ns + (uint64_t)TICK_MS * 1000000;
}

/* Milliseconds until something must be done without an event; -1: never. */
static int wait_ms(const struct server *server, uint64_t drain_until_ns)
{
    if (server->pending_head)
        return 0;
    uint64_t until = server->draining ? drain_until_ns : server->accept_retry_ns;
    bool ticks = server->connections || server->params.on_tick;
    if (ticks && (until == 0 || server->tick_ns < until))
        until = server->tick_ns;
    if (until == 0)
        return -1;
    uint64_t now = clock_monotonic_ns();
    return until <= now ? 0 : (int)MIN((until - now) / 1000000 + 1, (uint64_t)60000);
}

enum status server_run(struct server *server, struct error *err)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    uint64_t drain_until_ns = 0;
    enum status status = STATUS_OK;
    server->tick_ns = clock_monotonic_ns();
    while (!server->draining || server->connections) {
        int count =
            epoll_wait(server->epoll_fd, events, EVENTS_PER_WAIT, wait_ms(server, drain_until_ns));
        if (count < 0 && errno != EINTR) {
            status = error_set_os(err, errno, "cannot wait for events");
            break;
        }
        for (int i = 0; i < count; i++)
            dispatch(server, &events[i]);
        pending_all(server);
        uint64_t now = clock_monotonic_ns();
        if (now >= server->tick_ns)
            tick(server, now);
        if (server->draining) {
            if (drain_until_ns == 0)
                drain_until_ns = now + (uint64_t)server->params.drain_ms * 1000000;
            if (now >= drain_until_ns)
                break;
        } else if (server->accept_retry_ns != 0 && now >= server->accept_retry_ns) {
            accepting_set(server, true);
        }
    }
    while (server->connections)
        connection_close(server->connections);
    socket_path_close(server->params.listener);
    return status;
}

/* ---- lifetime ---- */

static void params_default(struct server_params *params)
{
    if (params->connections_max == 0)
        params->connections_max = SERVER_CONNECTIONS_DEFAULT;
    if (params->window == 0)
        params->window = SERVER_WINDOW_DEFAULT;
    if (params->output_bytes_max == 0)
        params->output_bytes_max = SERVER_OUTPUT_BYTES_DEFAULT;
    if (params->output_total_max == 0)
        params->output_total_max = SERVER_OUTPUT_TOTAL_DEFAULT;
    if (params->stall_ms == 0)
        params->stall_ms = SERVER_STALL_MS_DEFAULT;
    if (params->drain_ms == 0)
        params->drain_ms = SERVER_DRAIN_MS_DEFAULT;
}

enum status server_create(const struct server_params *params, struct server **out,
                          struct error *err)
{
    enum status status = STATUS_OK;
    struct server *server = calloc(1, sizeof(*server));
    if (!server)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the server");
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->idle, NULL);
    server->params = *params;
    params_default(&server->params);
    server->started_ns = clock_monotonic_ns();
    server->pending_tail = &server->pending_head;
    server->wake_fd = -1;
    server->accepting = true;
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (server->epoll_fd < 0) {
        status = error_set_os(err, errno, "cannot create an epoll instance");
        goto out;
    }
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server->wake_fd < 0) {
        status = error_set_os(err, errno, "cannot create an eventfd");
        goto out;
    }
    status = watch(server, server->wake_fd, &server->wake_fd, err);
    if (status == STATUS_OK)
        status = watch(server, params->stop_fd, &server->params.stop_fd, err);
    if (status == STATUS_OK)
        status = watch(server, params->listener->fd, &server->params.listener, err);
    if (status == STATUS_OK && params->reload_fd >= 0)
        status = watch(server, params->reload_fd, &server->params.reload_fd, err);
out:
    if (status != STATUS_OK) {
        server_destroy(server);
        return status;
    }
    *out = server;
    return STATUS_OK;
}

void server_destroy(struct server *server)
{
    if (!server)
        return;
    while (server->connections)
        connection_close(server->connections);
    pthread_mutex_lock(&server->lock);
    while (server->requests_in_flight > 0)
        pthread_cond_wait(&server->idle, &server->lock);
    pthread_mutex_unlock(&server->lock);
    if (server->wake_fd >= 0)
        resume_all(server); /* references of connections that closed before they resumed */
    pending_all(server);
    request_pool_fini(server);
    if (server->wake_fd >= 0)
        close(server->wake_fd);
    if (server->epoll_fd >= 0)
        close(server->epoll_fd);
    pthread_cond_destroy(&server->idle);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

static uint64_t counter_get(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void server_stats_get(struct server *server, struct server_stats *out)
{
    struct server_counters *from = &server->counters;
    pthread_mutex_lock(&server->lock);
    uint32_t requests_in_flight = server->requests_in_flight;
    pthread_mutex_unlock(&server->lock);
    *out = (struct server_stats){
        .uptime_ns = clock_monotonic_ns() - server->started_ns,
        .connections = atomic_load_explicit(&server->connection_count, memory_order_relaxed),
        .requests_in_flight = requests_in_flight,
        .connections_accepted = counter_get(&from->connections_accepted),
        .connections_refused = counter_get(&from->connections_refused),
        .connections_denied = counter_get(&from->connections_denied),
        .output_bytes = atomic_load_explicit(&server->output_bytes, memory_order_relaxed),
        .connections_broken = counter_get(&from->connections_broken),
        .accept_failures = counter_get(&from->accept_failures),
        .requests = counter_get(&from->requests),
        .queries = counter_get(&from->queries),
        .pauses = counter_get(&from->pauses),
        .bytes_in = counter_get(&from->bytes_in),
        .bytes_out = counter_get(&from->bytes_out),
    };
    for (size_t i = 0; i < SERVER_STATUS_COUNT; i++)
        out->errors[i] = counter_get(&from->errors[i]);
}
