/*
 * server_connection.c - lifetime, flow control and output of one connection.
 *
 * A connection lives as long as somebody refers to it: the server's list until it is closed, and
 * every request in flight, so that a client may die at any moment and its queries still complete
 * into valid memory. The descriptor is closed with the last reference, which keeps its number from
 * being reused under a worker's send.
 *
 * Closing has one path, on the epoll thread: whoever finds a connection done or unusable calls
 * shutdown(2), which makes epoll report EPOLLHUP, and server.c then calls connection_close().
 *
 * Answers are sent where they are completed, by the worker, without a hop to the epoll thread: that
 * hop costs a wake-up a request. Only what the socket does not take is left to it (EPOLLOUT).
 */
#include "query/server_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

/* ---- output: bytes the socket did not take; connection.mutex held ---- */

static size_t output_held(const struct output *output)
{
    return output->end - output->start;
}

/* Of one connection, and of all. */
static void output_count(struct connection *connection, size_t more, size_t less)
{
    _Atomic uint64_t *total = &connection->server->output_bytes;
    atomic_fetch_add_explicit(total, more - less, memory_order_relaxed);
}

static void output_clear(struct output *output, size_t keep_bytes)
{
    output->start = output->end = 0;
    if (output->capacity > keep_bytes) {
        free(output->bytes);
        *output = (struct output){0};
    }
}

/* False when the limit is passed or memory is out. */
static bool output_append(struct output *output, const void *bytes, size_t length, size_t limit)
{
    size_t held = output_held(output);
    if (length > limit || held > limit - length)
        return false;
    if (output->capacity - output->end < length) {
        /* Moving is paid for by the bytes sent since the last move; otherwise double. */
        if (output->start >= held && output->capacity - held >= length) {
            memcpy(output->bytes, output->bytes + output->start, held);
        } else {
            size_t capacity = MAX(output->capacity, (size_t)CONNECTION_OUTPUT_KEEP);
            while (capacity < held + length)
                capacity *= 2;
            uint8_t *grown = malloc(capacity);
            if (!grown)
                return false;
            if (held)
                memcpy(grown, output->bytes + output->start, held);
            free(output->bytes);
            output->bytes = grown;
            output->capacity = capacity;
        }
        output->start = 0;
        output->end = held;
    }
    memcpy(output->bytes + output->end, bytes, length);
    output->end += length;
    return true;
}

/* ---- states; connection.mutex held ---- */

static void interest_set(struct connection *connection, uint32_t interest)
{
    if (connection->failed || connection->interest == interest)
        return;
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    /* Modifying a registered descriptor allocates nothing and cannot fail. */
    (void)epoll_ctl(connection->server->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
    connection->interest = interest;
}

/* No answer goes out any more; the epoll thread is told by way of EPOLLHUP. */
static void fail(struct connection *connection)
{
    if (connection->failed)
        return;
    connection->failed = true;
    output_count(connection, 0, output_held(&connection->output));
    output_clear(&connection->output, 0);
    shutdown(connection->fd, SHUT_RDWR);
}

static void fail_if_done(struct connection *connection)
{
    if (connection->input_closed &&
        atomic_load_explicit(&connection->queries_in_flight, memory_order_relaxed) == 0 &&
        output_held(&connection->output) == 0)
        fail(connection);
}

/* send(2) without waiting: bytes taken, 0 when full, -1 when the peer is gone. */
static ssize_t send_some(struct connection *connection, const void *bytes, size_t length)
{
    ssize_t sent = send(connection->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
    counter_add(&connection->server->counters.bytes_out, (uint64_t)sent);
    return sent;
}

/* Whether `more` bytes may wait. When all connections together hold their limit, those that are
 * behind go: what the others need is little. */
static bool output_allowed(const struct connection *connection, size_t more)
{
    const struct server *server = connection->server;
    uint64_t total = atomic_load_explicit(&server->output_bytes, memory_order_relaxed);
    return total + more <= server->params.output_total_max ||
           output_held(&connection->output) + more <= CONNECTION_OUTPUT_KEEP;
}

static void send_locked(struct connection *connection, const void *bytes, size_t length)
{
    struct server *server = connection->server;
    size_t sent = 0;
    if (connection->failed)
        return;
    if (output_held(&connection->output) == 0) {
        ssize_t result = send_some(connection, bytes, length);
        if (result < 0) {
            fail(connection);
            return;
        }
        sent = (size_t)result;
    }
    if (sent == length)
        return;
    if (!output_allowed(connection, length - sent) ||
        !output_append(&connection->output, (const uint8_t *)bytes + sent, length - sent,
                       server->params.output_bytes_max)) {
        connection_broken_note(connection, "too many unread answers");
        fail(connection);
        return;
    }
    output_count(connection, length - sent, 0);
    if (connection->output_since_ns == 0)
        connection->output_since_ns = clock_monotonic_ns();
    interest_set(connection, connection->interest | EPOLLOUT);
}

void connection_fail(struct connection *connection)
{
    pthread_mutex_lock(&connection->mutex);
    fail(connection);
    pthread_mutex_unlock(&connection->mutex);
}

bool connection_stalled(struct connection *connection, uint64_t then_ns)
{
    for (int tries = 0;; tries++) {
        pthread_mutex_lock(&connection->mutex);
        uint64_t output_ns = connection->output_since_ns;
        bool failed = connection->failed; /* told of already */
        pthread_mutex_unlock(&connection->mutex);
        uint64_t input_ns = connection->waiting_since_ns;
        if (!failed && input_ns != 0 && input_ns < then_ns)
            return true;
        if (failed || output_ns == 0 || output_ns >= then_ns)
            return false;
        if (tries == 1)
            return true;
        /* The kernel reports room when most of the buffer is free, which a slow but steady reader
         * takes long for. What it has read so far makes room for a try. */
        connection_flush(connection);
    }
}

void connection_broken_note(struct connection *connection, const char *why)
{
    struct server *server = connection->server;
    counter_add(&server->counters.connections_broken, 1);
    if (server_may_log(server, SERVER_LOG_BROKEN))
        log_warn("cut-off", "connection=%u uid=%u pid=%d reason=\"%s\"", connection->number,
                 connection->uid, connection->pid, why);
}

/* ---- lifetime ---- */

enum status connection_create(struct server *server, int fd, const struct peer *peer,
                              struct connection **out, struct error *err)
{
    struct connection *connection = malloc(sizeof(*connection));
    if (!connection) {
        close(fd);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a connection");
    }
    /* input[] is left as it is: clearing 32 KB that a short connection never uses costs more than
     * the rest of its life. */
    memset(connection, 0, offsetof(struct connection, input));
    connection->server = server;
    connection->number = ++server->connection_number;
    connection->uid = peer->uid;
    connection->pid = peer->pid;
    connection->admin = peer_is_admin(peer);
    connection->fd = fd;
    connection->interest = EPOLLIN;
    atomic_init(&connection->references, 1);
    pthread_mutex_init(&connection->mutex, NULL);

    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        enum status status = error_set_os(err, errno, "cannot watch a connection");
        connection_release(connection);
        return status;
    }
    connection->next = server->connections;
    if (connection->next)
        connection->next->previous = connection;
    server->connections = connection;
    connection->listed = true;
    atomic_fetch_add_explicit(&server->connection_count, 1, memory_order_relaxed);
    *out = connection;
    return STATUS_OK;
}

void connection_retain(struct connection *connection)
{
    atomic_fetch_add_explicit(&connection->references, 1, memory_order_relaxed);
}

void connection_release(struct connection *connection)
{
    /* acq_rel: pairs with the other holders' releases, so that the last one sees all they did. */
    if (atomic_fetch_sub_explicit(&connection->references, 1, memory_order_acq_rel) != 1)
        return;
    close(connection->fd);
    free(connection->output.bytes);
    pthread_mutex_destroy(&connection->mutex);
    free(connection);
}

void connection_close(struct connection *connection)
{
    struct server *server = connection->server;
    assert(connection->listed);
    connection_input_close(connection);

    connection_fail(connection);
    /* After fail() nobody changes the interest, so the descriptor can leave epoll. */
    (void)epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);

    if (connection->previous)
        connection->previous->next = connection->next;
    else
        server->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    connection->listed = false;
    atomic_fetch_sub_explicit(&server->connection_count, 1, memory_order_relaxed);
    connection_release(connection);
}

/* ---- output ---- */

void connection_send(struct connection *connection, const void *bytes, size_t length)
{
    pthread_mutex_lock(&connection->mutex);
    send_locked(connection, bytes, length);
    pthread_mutex_unlock(&connection->mutex);
}

void connection_send_error(struct connection *connection, uint64_t request_id, enum status status,
                           const char *text)
{
    uint8_t frame[PROTOCOL_ERROR_FRAME_MAX];
    size_t length = protocol_error_encode(frame, request_id, status, text);
    counter_add(&connection->server->counters.errors[status], 1);
    connection_send(connection, frame, length);
}

void connection_flush(struct connection *connection)
{
    struct output *output = &connection->output;
    pthread_mutex_lock(&connection->mutex);
    if (!connection->failed && output_held(output) > 0) {
        ssize_t sent = send_some(connection, output->bytes + output->start, output_held(output));
        if (sent < 0)
            fail(connection);
        else
            output->start += (size_t)sent;
        if (sent > 0) {
            output_count(connection, 0, (size_t)sent);
            connection->output_since_ns = clock_monotonic_ns();
        }
    }
    if (output_held(output) == 0) {
        connection->output_since_ns = 0;
        output_clear(output, CONNECTION_OUTPUT_KEEP);
        interest_set(connection, connection->interest & ~(uint32_t)EPOLLOUT);
        fail_if_done(connection);
    }
    pthread_mutex_unlock(&connection->mutex);
}

/* ---- flow control ---- */

void connection_input_close(struct connection *connection)
{
    if (connection->filling) {
        request_abandon(connection->filling);
        connection->filling = NULL;
    }
    connection->waiting_since_ns = 0;
    pthread_mutex_lock(&connection->mutex);
    connection->input_closed = true;
    interest_set(connection, connection->interest & ~(uint32_t)EPOLLIN);
    fail_if_done(connection);
    pthread_mutex_unlock(&connection->mutex);
}

bool connection_window_take(struct connection *connection, uint32_t count)
{
    const uint32_t room = connection->server->params.window - count;
    _Atomic uint32_t *in_flight = &connection->queries_in_flight;
    /* Only this thread adds, so what fits now still fits when it is added; and without the mutex,
     * which a worker holds while it sends. */
    if (atomic_load_explicit(in_flight, memory_order_relaxed) <= room) {
        atomic_fetch_add_explicit(in_flight, count, memory_order_relaxed);
        return true;
    }
    pthread_mutex_lock(&connection->mutex);
    /* Answers leave the window under the mutex: either seen here, or they see the pause. */
    bool fits = atomic_load_explicit(in_flight, memory_order_relaxed) <= room;
    if (fits) {
        atomic_fetch_add_explicit(in_flight, count, memory_order_relaxed);
    } else {
        /* Half empty rather than one free: a pause costs two system calls and a wake-up, which many
         * answers should share. */
        connection->paused = true;
        connection->resume_at = MIN(connection->server->params.window / 2, room);
        interest_set(connection, connection->interest & ~(uint32_t)EPOLLIN);
        counter_add(&connection->server->counters.pauses, 1);
    }
    pthread_mutex_unlock(&connection->mutex);
    return fits;
}

void connection_answer(struct connection *connection, uint32_t query_count, const void *bytes,
                       size_t length)
{
    pthread_mutex_lock(&connection->mutex);
    if (length)
        send_locked(connection, bytes, length);
    uint32_t before = atomic_fetch_sub_explicit(&connection->queries_in_flight, query_count,
                                                memory_order_relaxed);
    assert(before >= query_count);
    if (connection->paused && before - query_count <= connection->resume_at) {
        connection->paused = false;
        if (!connection->failed)
            server_resume_push(connection->server, connection);
    }
    fail_if_done(connection);
    pthread_mutex_unlock(&connection->mutex);
}

void connection_input_resume(struct connection *connection)
{
    pthread_mutex_lock(&connection->mutex);
    if (!connection->input_closed && !connection->paused)
        interest_set(connection, connection->interest | EPOLLIN);
    pthread_mutex_unlock(&connection->mutex);
}
