/*
 * server_input.c - from received bytes to frames, and what each frame asks for. Epoll thread only.
 *
 * Small frames are parsed out of the connection's fixed buffer, several in one pass. A SEARCH or
 * FETCH is judged by its header and head alone; its body is then copied from the buffer and, where
 * it is still to come, received straight into the request. So a client never makes the daemon hold
 * more than a request that passed every check but for its body's values.
 *
 * A fault inside a payload leaves the frame boundary known: the request gets an ERROR, the rest of
 * the payload is skipped, the connection goes on. A fault in a header does not: the connection
 * ends.
 */
#include "query/server_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"

enum input_state {
    INPUT_NEED_BYTES, /* nothing complete is buffered */
    INPUT_STOPPED,    /* paused by the window, or closed */
    INPUT_FRAME,      /* a frame was dealt with; there may be more */
};

static uint32_t input_held(const struct connection *connection)
{
    return connection->input_end - connection->input_start;
}

static const uint8_t *input_at(const struct connection *connection, uint32_t offset)
{
    return connection->input + connection->input_start + offset;
}

static void input_consume(struct connection *connection, uint32_t bytes)
{
    assert(bytes <= input_held(connection));
    connection->input_start += bytes;
}

/* Drops what is buffered of skip_bytes. */
static void input_skip(struct connection *connection)
{
    uint32_t bytes = MIN(connection->skip_bytes, input_held(connection));
    input_consume(connection, bytes);
    connection->skip_bytes -= bytes;
}

/* Drops the frame at the buffer's start, its payload's unreceived rest included. */
static void frame_skip(struct connection *connection, const struct protocol_header *header)
{
    input_consume(connection, PROTOCOL_HEADER_BYTES);
    connection->skip_bytes = header->payload_bytes;
    input_skip(connection);
}

static void frame_refuse(struct connection *connection, const struct protocol_header *header,
                         enum status status, const struct error *err)
{
    frame_skip(connection, header);
    connection_send_error(connection, header->request_id, status, err->text);
}

/* ---- HELLO, STATS, RELOAD ---- */

/* Those whose whole payload is buffered: a longer one than they know is not, and is refused. */
static enum input_state frame_admin(struct connection *connection,
                                    const struct protocol_header *header)
{
    const uint8_t *payload = input_at(connection, PROTOCOL_HEADER_BYTES);
    struct error err;
    enum status status;
    if (header->type == PROTOCOL_RELOAD) {
        if (!connection_window_take(connection, 1))
            return INPUT_STOPPED;
        status = admin_reload(connection, header, &err);
        if (status != STATUS_OK)
            connection_answer(connection, 1, NULL, 0);
    } else if (header->type == PROTOCOL_STATS) {
        status = admin_stats(connection, header, payload, &err);
    } else {
        status = admin_hello(connection, header, payload, &err);
    }
    if (status != STATUS_OK)
        frame_refuse(connection, header, status, &err);
    else
        frame_skip(connection, header);
    return INPUT_FRAME;
}

/* ---- SEARCH, FETCH ---- */

/* What is live now says what a request must look like. */
static enum status shape_now(struct server *server, struct protocol_shape *out, struct error *err)
{
    struct served *served = NULL;
    enum status status = serving_require(server->params.serving, &served, err);
    if (status != STATUS_OK)
        return status;
    *out = server_shape(server, served);
    served_release(served);
    return STATUS_OK;
}

static enum status head_decode(struct connection *connection, const struct protocol_header *header,
                               struct request_head *out, struct error *err)
{
    const uint8_t *payload = input_at(connection, PROTOCOL_HEADER_BYTES);
    struct protocol_shape shape;
    enum status status = shape_now(connection->server, &shape, err);
    *out = (struct request_head){.id = header->request_id};
    if (status != STATUS_OK)
        return status;
    if (header->type == PROTOCOL_SEARCH)
        return protocol_search_decode(payload, header->payload_bytes, &shape, &out->search, err);
    out->search.extension.form = PROTOCOL_FORM_KEYS;
    out->search.fixed.dim = shape.dim;
    out->search.fixed.element_type = (uint32_t)shape.type;
    status = protocol_fetch_decode(payload, header->payload_bytes, &shape, &out->fetch, err);
    out->search.fixed.query_count = out->fetch.count;
    return status;
}

/* The request that the frame makes. None, without a failure: the window is full, the frame stays
 * where it is and is parsed again. */
static enum status request_begin(struct connection *connection,
                                 const struct protocol_header *header, struct request **out,
                                 struct error *err)
{
    struct request_head head;
    enum status status = head_decode(connection, header, &head, err);
    uint32_t query_count = head.search.fixed.query_count;
    if (status != STATUS_OK || !connection_window_take(connection, query_count))
        return status;
    status = request_create(connection, &head, out, err);
    if (status != STATUS_OK)
        connection_answer(connection, query_count, NULL, 0);
    return status;
}

static enum input_state frame_request(struct connection *connection,
                                      const struct protocol_header *header)
{
    struct request *request = NULL;
    struct error err;
    enum status status = request_begin(connection, header, &request, &err);
    if (status != STATUS_OK) {
        frame_refuse(connection, header, status, &err);
        return INPUT_FRAME;
    }
    if (!request)
        return INPUT_STOPPED;
    uint32_t head_bytes = header->payload_bytes - (uint32_t)request->body_bytes;
    input_consume(connection, PROTOCOL_HEADER_BYTES + head_bytes);
    uint32_t here = (uint32_t)MIN((uint64_t)input_held(connection), request->body_bytes);
    memcpy(request->body, input_at(connection, 0), here);
    input_consume(connection, here);
    if (here == request->body_bytes) {
        request_submit(request);
        return INPUT_FRAME;
    }
    connection->filling = request;
    connection->filled_bytes = here;
    return INPUT_NEED_BYTES;
}

/* ---- the stream ---- */

/* Bytes of a payload that must be buffered before its frame is looked at. More may be asked for
 * once these are there. */
static uint32_t payload_head_bytes(const struct connection *connection,
                                   const struct protocol_header *header)
{
    uint32_t held = input_held(connection) - PROTOCOL_HEADER_BYTES;
    size_t head = 0;
    if (header->type == PROTOCOL_SEARCH)
        return protocol_search_head_bytes(input_at(connection, PROTOCOL_HEADER_BYTES),
                                          header->payload_bytes, held);
    if (header->type == PROTOCOL_HELLO)
        head = sizeof(struct protocol_hello);
    else if (header->type == PROTOCOL_STATS)
        head = sizeof(struct protocol_stats);
    else if (header->type == PROTOCOL_FETCH)
        head = sizeof(struct protocol_fetch);
    return MIN(header->payload_bytes, (uint32_t)head);
}

static enum input_state input_frame(struct connection *connection)
{
    struct protocol_header header;
    struct error err;
    if (connection->input_closed)
        return INPUT_STOPPED;
    if (connection->skip_bytes > 0)
        input_skip(connection);
    if (connection->filling || input_held(connection) < PROTOCOL_HEADER_BYTES)
        return INPUT_NEED_BYTES;
    enum status status = protocol_header_decode(input_at(connection, 0), &header, &err);
    if (status != STATUS_OK) {
        connection_send_error(connection, 0, status, err.text);
        connection_broken_note(connection, err.text);
        connection_input_close(connection);
        return INPUT_STOPPED;
    }
    if (input_held(connection) < PROTOCOL_HEADER_BYTES + payload_head_bytes(connection, &header))
        return INPUT_NEED_BYTES;
    switch (header.type) {
    case PROTOCOL_SEARCH:
    case PROTOCOL_FETCH:
        return frame_request(connection, &header);
    case PROTOCOL_HELLO:
    case PROTOCOL_STATS:
    case PROTOCOL_RELOAD:
        return frame_admin(connection, &header);
    default:
        status = error_set(&err, STATUS_UNSUPPORTED,
                           "frame type %u is not a request this daemon knows", header.type);
        frame_refuse(connection, &header, status, &err);
        return INPUT_FRAME;
    }
}

/* Handles buffered frames, at most *budget of them. */
static enum input_state input_parse(struct connection *connection, uint32_t *budget)
{
    while (*budget > 0) {
        enum input_state state = input_frame(connection);
        if (state != INPUT_FRAME)
            return state;
        counter_add(&connection->server->counters.requests, 1);
        connection->waiting_since_ns = 0;
        (*budget)--;
    }
    return INPUT_FRAME;
}

/* One recv(2), into the request that is being filled or else the buffer. True when bytes came. */
static bool input_receive(struct connection *connection)
{
    struct request *filling = connection->filling;
    uint8_t *into;
    size_t room;
    if (filling) {
        into = filling->body + connection->filled_bytes;
        room = (size_t)MIN(filling->body_bytes - connection->filled_bytes,
                           (uint64_t)CONNECTION_RECEIVE_MAX);
    } else {
        /* What is left over is less than a header and a head. */
        uint32_t held = input_held(connection);
        memmove(connection->input, input_at(connection, 0), held);
        connection->input_start = 0;
        connection->input_end = held;
        into = connection->input + held;
        room = CONNECTION_INPUT_BYTES - held;
    }
    ssize_t received = recv(connection->fd, into, room, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return false;
    if (received <= 0) {
        /* The end, of the client's sending at least: what it asked before is still answered. */
        connection_input_close(connection);
        return false;
    }
    counter_add(&connection->server->counters.bytes_in, (uint64_t)received);
    if (!filling) {
        connection->input_end += (uint32_t)received;
        return true;
    }
    connection->filled_bytes += (uint64_t)received;
    if (connection->filled_bytes == filling->body_bytes) {
        connection->filling = NULL;
        connection->waiting_since_ns = 0;
        counter_add(&connection->server->counters.requests, 1);
        request_submit(filling);
    }
    return true;
}

void connection_input(struct connection *connection, bool readable)
{
    uint32_t budget = CONNECTION_FRAMES_PER_WAKE;
    enum input_state state = input_parse(connection, &budget);
    if (state == INPUT_NEED_BYTES && readable && input_receive(connection))
        state = input_parse(connection, &budget);
    if (state == INPUT_FRAME)
        server_pending_push(connection->server, connection);
    bool partial =
        state == INPUT_NEED_BYTES && !connection->input_closed &&
        (connection->filling || connection->skip_bytes > 0 || input_held(connection) > 0);
    if (!partial)
        connection->waiting_since_ns = 0;
    else if (connection->waiting_since_ns == 0)
        connection->waiting_since_ns = clock_monotonic_ns();
}
