/*
 * client.c - see client.h. Owns one blocking connection to nightjard and the buffer answers arrive
 * in.
 *
 * Received bytes collect in one growing buffer, so that several small answers cost one system call;
 * answers point into it. A broken stream (EOF, bytes that are not the protocol) is final: the first
 * error is kept and returned by every later call, so pipelining callers cannot mistake what
 * follows.
 */
#include "query/client.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "query/protocol.h"
#include "query/socket_path.h"

_Static_assert((int)CLIENT_QUERIES_MAX == (int)PROTOCOL_QUERIES_MAX, "one limit");
_Static_assert((int)CLIENT_EXPLAIN == (int)PROTOCOL_FEATURE_EXPLAIN &&
                   (int)CLIENT_ORIGIN == (int)PROTOCOL_FEATURE_ORIGIN &&
                   (int)CLIENT_EXTENDED == (int)PROTOCOL_FEATURE_EXTENDED,
               "one set of features");
_Static_assert((int)CLIENT_KEYS_MAX == (int)PROTOCOL_KEYS_MAX &&
                   (int)CLIENT_FILTER_BYTES_MAX == (int)PROTOCOL_FILTER_BYTES_MAX,
               "one set of limits");
_Static_assert((int)CLIENT_DEGRADED == (int)PROTOCOL_RESULT_DEGRADED &&
                   (int)CLIENT_TRUNCATED == (int)PROTOCOL_RESULT_TRUNCATED &&
                   (int)CLIENT_UNKNOWN_KEY == (int)PROTOCOL_RESULT_UNKNOWN_KEY &&
                   (int)CLIENT_LAST == (int)PROTOCOL_RESULT_LAST,
               "one set of flags");
_Static_assert((int)CLIENT_PLAN_SCAN == (int)PROTOCOL_PLAN_SCAN &&
                   (int)CLIENT_PLAN_GRAPH == (int)PROTOCOL_PLAN_GRAPH &&
                   (int)CLIENT_PLAN_NOTHING == (int)PROTOCOL_PLAN_NOTHING,
               "one set of plans");
_Static_assert(sizeof(struct client_cursor) == sizeof(struct protocol_cursor) &&
                   offsetof(struct client_cursor, distance) ==
                       offsetof(struct protocol_cursor, distance) &&
                   offsetof(struct client_cursor, rank) == offsetof(struct protocol_cursor, rank),
               "cursors are sent as they are");
_Static_assert((int)CLIENT_STATS_PROMETHEUS == (int)PROTOCOL_STATS_PROMETHEUS,
               "one set of formats");
_Static_assert(sizeof(struct client_hit) == sizeof(struct protocol_hit) &&
                   offsetof(struct client_hit, distance) == offsetof(struct protocol_hit, distance),
               "hits are handed out where they were received");
_Static_assert(sizeof(struct client_explanation) == sizeof(struct protocol_explanation) &&
                   offsetof(struct client_explanation, failed_blocks) ==
                       offsetof(struct protocol_explanation, failed_blocks) &&
                   offsetof(struct client_explanation, read_bytes) ==
                       offsetof(struct protocol_explanation, read_bytes) &&
                   offsetof(struct client_explanation, total_ns) ==
                       offsetof(struct protocol_explanation, total_ns),
               "explanations too");

enum {
    INPUT_BYTES_MIN = 64 << 10,
    ALIGNMENT = 8, /* of frames, for their hits */
};

struct client {
    int fd;
    char path[SOCKET_PATH_MAX + 1];
    struct protocol_hello_ok hello;
    uint64_t last_request_id;
    uint64_t outstanding; /* requests sent and not answered */

    uint8_t *input;
    size_t start, end, capacity; /* unread bytes of input[]; a frame handed out is consumed */

    struct client_query_result *results;
    uint32_t results_capacity;
    char message[ERROR_TEXT_BYTES];
    struct error broken; /* status OK: usable */
};

/* Ends the connection's use: keeps the error for later calls and returns it. */
static enum status client_break(struct client *client, const struct error *cause, struct error *err)
{
    client->broken = *cause;
    return error_set(err, cause->status, "%s", cause->text);
}

static enum status client_usable(const struct client *client, struct error *err)
{
    if (client->broken.status == STATUS_OK)
        return STATUS_OK;
    return error_set(err, client->broken.status, "%s", client->broken.text);
}

/* ---- sending ---- */

static enum status send_all(struct client *client, struct iovec *parts, size_t count,
                            struct error *err)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    while (message.msg_iovlen > 0) {
        ssize_t sent = sendmsg(client->fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            struct error cause;
            error_set_os(&cause, errno, "%s: cannot send to the daemon", client->path);
            return client_break(client, &cause, err);
        }
        size_t left = (size_t)sent;
        while (message.msg_iovlen > 0 && left >= message.msg_iov[0].iov_len) {
            left -= message.msg_iov[0].iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen > 0) {
            message.msg_iov[0].iov_base = (uint8_t *)message.msg_iov[0].iov_base + left;
            message.msg_iov[0].iov_len -= left;
        }
    }
    return STATUS_OK;
}

enum { FRAME_TAILS = 3 };

/* A frame to send: all is borrowed, and none of it written to. */
struct outgoing {
    enum protocol_type type;
    const void *fixed; /* at most a protocol_search_head */
    size_t fixed_bytes;
    struct iovec tails[FRAME_TAILS]; /* that follow it; empty ones are fine */
};

/* iovec has no const; sendmsg does not write. */
static struct iovec tail_of(const void *bytes, size_t length)
{
    return (struct iovec){(void *)(uintptr_t)bytes, length};
}

static enum status send_frame(struct client *client, const struct outgoing *frame,
                              struct error *err)
{
    uint8_t head[PROTOCOL_HEADER_BYTES + sizeof(struct protocol_search_head)];
    assert(frame->fixed_bytes <= sizeof(struct protocol_search_head));
    struct iovec parts[1 + FRAME_TAILS];
    size_t payload_bytes = frame->fixed_bytes, count = 0;
    parts[count++] = (struct iovec){head, PROTOCOL_HEADER_BYTES + frame->fixed_bytes};
    for (size_t i = 0; i < FRAME_TAILS; i++) {
        payload_bytes += frame->tails[i].iov_len;
        if (frame->tails[i].iov_len > 0)
            parts[count++] = frame->tails[i];
    }
    protocol_header_encode(head, frame->type, ++client->last_request_id, (uint32_t)payload_bytes);
    if (frame->fixed_bytes)
        memcpy(head + PROTOCOL_HEADER_BYTES, frame->fixed, frame->fixed_bytes);
    enum status status = send_all(client, parts, count, err);
    if (status == STATUS_OK)
        client->outstanding++;
    return status;
}

/* ---- receiving ---- */

/* Makes room for a frame of `bytes` from `start`, which it aligns. */
static enum status input_reserve(struct client *client, size_t bytes, struct error *err)
{
    if (client->start % ALIGNMENT == 0 && client->capacity - client->start >= bytes)
        return STATUS_OK;
    size_t held = client->end - client->start;
    if (client->capacity < bytes) {
        size_t capacity = MAX(client->capacity, (size_t)INPUT_BYTES_MIN);
        while (capacity < bytes)
            capacity *= 2;
        uint8_t *grown = malloc(capacity);
        if (!grown)
            return error_set(err, STATUS_NO_MEMORY, "no memory for an answer of %zu bytes", bytes);
        if (held)
            memcpy(grown, client->input + client->start, held);
        free(client->input);
        client->input = grown;
        client->capacity = capacity;
    } else {
        memmove(client->input, client->input + client->start, held);
    }
    client->start = 0;
    client->end = held;
    return STATUS_OK;
}

/* Waits until `bytes` are buffered. */
static enum status input_need(struct client *client, size_t bytes, struct error *err)
{
    enum status status = input_reserve(client, bytes, err);
    if (status != STATUS_OK)
        return status;
    while (client->end - client->start < bytes) {
        ssize_t got =
            recv(client->fd, client->input + client->end, client->capacity - client->end, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            struct error cause;
            if (got == 0 || errno == ECONNRESET)
                error_set(&cause, STATUS_IO, "%s: the daemon closed the connection", client->path);
            else
                error_set_os(&cause, errno, "%s: cannot receive from the daemon", client->path);
            return client_break(client, &cause, err);
        }
        client->end += (size_t)got;
    }
    return STATUS_OK;
}

struct frame {
    struct protocol_header header;
    const uint8_t *payload; /* in client.input, valid until the next receive */
};

static enum status receive_frame(struct client *client, struct frame *out, struct error *err)
{
    struct protocol_header header;
    struct error cause;
    if (client->start == client->end)
        client->start = client->end = 0;
    enum status status = input_need(client, PROTOCOL_HEADER_BYTES, err);
    if (status != STATUS_OK)
        return status;
    status = protocol_header_decode(client->input + client->start, &header, &cause);
    if (status != STATUS_OK) {
        client_break(client, &cause, err);
        return status;
    }
    status = input_need(client, PROTOCOL_HEADER_BYTES + (size_t)header.payload_bytes, err);
    if (status != STATUS_OK)
        return status;
    *out = (struct frame){.header = header,
                          .payload = client->input + client->start + PROTOCOL_HEADER_BYTES};
    client->start += PROTOCOL_HEADER_BYTES + (size_t)header.payload_bytes;
    /* Id 0 is the daemon speaking of the connection, not of a request. */
    if (header.request_id != 0 && client->outstanding > 0)
        client->outstanding--;
    return STATUS_OK;
}

/* An ERROR frame as this status and message. */
static enum status take_error(struct client *client, const struct frame *frame,
                              enum status *reported, struct error *err)
{
    struct error cause;
    if (protocol_error_decode(frame->payload, frame->header.payload_bytes, reported,
                              client->message, &cause) != STATUS_OK)
        return client_break(client, &cause, err);
    return STATUS_OK;
}

/* Receives the answer to the one request in flight, wanted to be of `type`; an ERROR is returned as
 * its status. */
static enum status receive_only(struct client *client, enum protocol_type type, struct frame *frame,
                                struct error *err)
{
    struct error cause;
    enum status status = receive_frame(client, frame, err);
    if (status != STATUS_OK)
        return status;
    uint64_t id = frame->header.request_id;
    if (frame->header.type == PROTOCOL_ERROR && (id == 0 || id == client->last_request_id)) {
        enum status reported = STATUS_OK;
        status = take_error(client, frame, &reported, err);
        if (status != STATUS_OK)
            return status;
        error_set(&cause, reported, "%s: %s", client->path, client->message);
        if (id == 0)
            return client_break(client, &cause, err);
        return error_set(err, reported, "%s", cause.text);
    }
    if (frame->header.type == type && id == client->last_request_id)
        return STATUS_OK;
    error_set(&cause, STATUS_CORRUPT, "%s: answer of type %u to request %llu, wanted %u to %llu",
              client->path, frame->header.type, (unsigned long long)id, type,
              (unsigned long long)client->last_request_id);
    return client_break(client, &cause, err);
}

static enum status none_outstanding(const struct client *client, struct error *err)
{
    enum status status = client_usable(client, err);
    if (status == STATUS_OK && client->outstanding > 0)
        return error_set(err, STATUS_INVALID,
                         "%llu pipelined requests are unanswered: receive them first",
                         (unsigned long long)client->outstanding);
    return status;
}

/* ---- connecting ---- */

static enum status open_socket(struct client *client, const char *path, struct error *err)
{
    struct sockaddr_un address;
    enum status status = socket_path_address(path, &address, err);
    if (status != STATUS_OK)
        return status;
    memcpy(client->path, path, strlen(path) + 1);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        return error_set_os(err, errno, "%s: cannot create a socket", path);
    while (connect(client->fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        if (errno == EINTR)
            continue; /* an interrupted Unix connect has not happened */
        if (errno == ENOENT || errno == ENOTDIR)
            return error_set(err, STATUS_NOT_FOUND, "%s: no socket there: is nightjard running?",
                             path);
        if (errno == ECONNREFUSED)
            return error_set(err, STATUS_IO, "%s: nobody listens there: is nightjard running?",
                             path);
        return error_set_os(err, errno, "%s: cannot connect", path);
    }
    return STATUS_OK;
}

static enum status say_hello(struct client *client, uint32_t features, struct error *err)
{
    const struct protocol_hello hello = {.features = features};
    const struct outgoing asked = {PROTOCOL_HELLO, &hello, sizeof(hello), {{0}}};
    struct frame frame;
    struct error cause;
    /* A daemon that is full says so and closes, perhaps before this is sent: then what it said is
     * the better error. */
    if (send_frame(client, &asked, err) != STATUS_OK)
        client->broken.status = STATUS_OK;
    enum status status = receive_only(client, PROTOCOL_HELLO_OK, &frame, err);
    if (status != STATUS_OK)
        return status;
    if (protocol_hello_ok_decode(frame.payload, frame.header.payload_bytes, &client->hello,
                                 &cause) != STATUS_OK)
        return error_set(err, cause.status, "%s: %s", client->path, cause.text);
    if (client->hello.features != features)
        return error_set(err, STATUS_CORRUPT, "%s: asked for features 0x%08x, got 0x%08x",
                         client->path, features, client->hello.features);
    return STATUS_OK;
}

enum status client_connect(const char *socket_path, struct client **out, struct error *err)
{
    struct client *client = calloc(1, sizeof(*client));
    if (!client)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a client");
    client->fd = -1;
    enum status status = open_socket(client, socket_path, err);
    if (status == STATUS_OK)
        status = say_hello(client, 0, err);
    if (status != STATUS_OK) {
        client_close(client);
        return status;
    }
    *out = client;
    return STATUS_OK;
}

void client_close(struct client *client)
{
    if (!client)
        return;
    if (client->fd >= 0)
        close(client->fd);
    free(client->input);
    free(client->results);
    free(client);
}

enum status client_require(struct client *client, uint32_t features, struct error *err)
{
    enum status status = none_outstanding(client, err);
    if (status == STATUS_OK)
        status = say_hello(client, features, err);
    if (status == STATUS_UNSUPPORTED)
        error_set(err, status, "%s: the daemon is older than what is asked of it (features 0x%x)",
                  client->path, features);
    return status;
}

struct client_index_info client_index(const struct client *client)
{
    const struct protocol_hello_ok *hello = &client->hello;
    return (struct client_index_info){
        .vector_count = hello->vector_count,
        .dim = hello->dim,
        .type = (enum element_type)hello->element_type,
        .metric = (enum metric)hello->metric,
        .generation_low = hello->generation_low,
        .generation_high = hello->generation_high,
        .queries_max = hello->queries_max,
        .k_max = hello->k_max,
        .search_list_max = hello->search_list_max,
        .window = hello->window,
    };
}

/* ---- searching ---- */

/* Whether it asks for more than daemons could from the first. */
static bool is_extended(const struct client_search *search)
{
    return search->keys || search->filter || search->within_radius || search->cursors ||
           search->recall_target != 0.0f;
}

static struct protocol_search_head head_of(const struct client *client,
                                           const struct client_search *search)
{
    return (struct protocol_search_head){
        .fixed = {.query_count = search->query_count,
                  .k = search->k,
                  .search_list = search->search_list,
                  .beam_width = search->beam_width,
                  .search_ratio = search->search_ratio,
                  .recall_target = search->recall_target,
                  .timeout_ms = search->timeout_ms,
                  .element_type = client->hello.element_type,
                  .dim = client->hello.dim,
                  .flags = (search->explain ? PROTOCOL_SEARCH_EXPLAIN : 0) |
                           (search->origin ? PROTOCOL_SEARCH_ORIGIN : 0) |
                           (is_extended(search) ? PROTOCOL_SEARCH_EXTENDED : 0)},
        .extension = {.form = search->keys ? PROTOCOL_FORM_KEYS : PROTOCOL_FORM_VECTORS,
                      .mode = search->within_radius ? PROTOCOL_MODE_RADIUS : PROTOCOL_MODE_NEAREST,
                      .radius = search->within_radius ? search->radius : 0.0f,
                      .filter_bytes = search->filter ? (uint32_t)strlen(search->filter) : 0,
                      .pages = search->cursors ? 1 : 0},
    };
}

/* What would not make a frame; everything else is the daemon's to judge. */
static enum status search_check(const struct client *client, const struct client_search *search,
                                struct error *err)
{
    const struct protocol_hello_ok *hello = &client->hello;
    if (search->query_count < 1 || search->query_count > hello->queries_max)
        return error_set(err, STATUS_INVALID, "%u queries in a request, wanted 1..%u",
                         search->query_count, hello->queries_max);
    if (search->filter && search->filter[0] == '\0') /* on the wire that is no filter */
        return error_set(err, STATUS_INVALID, "the filter is empty");
    if (search->filter &&
        strnlen(search->filter, PROTOCOL_FILTER_BYTES_MAX + 1) > PROTOCOL_FILTER_BYTES_MAX)
        return error_set(err, STATUS_INVALID, "the filter has more than %d bytes",
                         PROTOCOL_FILTER_BYTES_MAX);
    const struct protocol_search_head head = head_of(client, search);
    uint64_t bytes = PROTOCOL_HEADER_BYTES + sizeof(head) + protocol_search_body(&head).total;
    if (!is_extended(search))
        bytes -= sizeof(head.extension);
    if (bytes > hello->frame_bytes_max)
        return error_set(err, STATUS_INVALID,
                         "%u queries make a request of %llu bytes, at most %u are allowed",
                         search->query_count, (unsigned long long)bytes, hello->frame_bytes_max);
    return STATUS_OK;
}

enum status client_send_search(struct client *client, const struct client_search *search,
                               uint64_t *request_id, struct error *err)
{
    uint8_t fixed[sizeof(struct protocol_search_head)];
    enum status status = client_usable(client, err);
    if (status == STATUS_OK)
        status = search_check(client, search, err);
    if (status != STATUS_OK)
        return status;
    const struct protocol_search_head head = head_of(client, search);
    const struct protocol_body body = protocol_search_body(&head);
    const void *queries = search->keys ? (const void *)search->keys : search->vectors;
    const struct outgoing frame = {
        .type = PROTOCOL_SEARCH,
        .fixed = fixed,
        .fixed_bytes = protocol_search_encode(fixed, &head),
        .tails = {tail_of(queries, body.cursors),
                  tail_of(search->cursors, body.filter - body.cursors),
                  tail_of(search->filter, head.extension.filter_bytes)},
    };
    status = send_frame(client, &frame, err);
    if (status == STATUS_OK)
        *request_id = client->last_request_id;
    return status;
}

static enum status take_answer(struct client *client, const struct frame *frame,
                               struct client_answer *answer, struct error *err)
{
    struct protocol_answer wire;
    struct error cause;
    uint32_t flags = frame->header.type == PROTOCOL_EXPLAIN_OK ? PROTOCOL_SEARCH_EXPLAIN : 0;
    if (protocol_answer_decode(frame->payload, frame->header.payload_bytes, flags, &wire, &cause) !=
        STATUS_OK)
        return client_break(client, &cause, err);
    if (client->results_capacity < wire.query_count) {
        struct client_query_result *results = calloc(wire.query_count, sizeof(*results));
        if (!results)
            return error_set(err, STATUS_NO_MEMORY, "no memory for %u results", wire.query_count);
        free(client->results);
        client->results = results;
        client->results_capacity = wire.query_count;
    }
    for (uint32_t q = 0; q < wire.query_count; q++)
        client->results[q] = (struct client_query_result){
            .hit_count = wire.results[q].hit_count,
            .flags = wire.results[q].flags,
            .reads = wire.results[q].reads,
            .cache_hits = wire.results[q].cache_hits,
            .cpu_us = wire.results[q].cpu_us,
        };
    *answer = (struct client_answer){
        .request_id = frame->header.request_id,
        .status = STATUS_OK,
        .query_count = wire.query_count,
        .k = wire.k,
        .results = client->results,
        .hits = (const void *)wire.hits,
        .explanations = (const void *)wire.explanations,
    };
    if (wire.chosen)
        answer->chosen = (struct client_chosen){.search_list = wire.chosen->search_list,
                                                .search_ratio = wire.chosen->search_ratio,
                                                .expected_recall = wire.chosen->expected_recall,
                                                .filter_plan = wire.chosen->filter_plan,
                                                .match_estimate = wire.chosen->match_estimate};
    if (wire.origin) {
        answer->generation_low = wire.origin->generation_low;
        answer->generation_high = wire.origin->generation_high;
        answer->trace_id = wire.origin->trace_id;
    }
    return STATUS_OK;
}

enum status client_receive(struct client *client, struct client_answer *answer, struct error *err)
{
    struct frame frame;
    struct error cause;
    enum status status = client_usable(client, err);
    if (status == STATUS_OK && client->outstanding == 0)
        return error_set(err, STATUS_INVALID, "no request is unanswered: nothing to wait for");
    if (status == STATUS_OK)
        status = receive_frame(client, &frame, err);
    if (status != STATUS_OK)
        return status;
    if (frame.header.type == PROTOCOL_SEARCH_OK || frame.header.type == PROTOCOL_EXPLAIN_OK)
        return take_answer(client, &frame, answer, err);
    if (frame.header.type != PROTOCOL_ERROR) {
        error_set(&cause, STATUS_CORRUPT, "%s: unexpected answer of type %u", client->path,
                  frame.header.type);
        return client_break(client, &cause, err);
    }
    enum status reported = STATUS_OK;
    status = take_error(client, &frame, &reported, err);
    if (status != STATUS_OK)
        return status;
    if (frame.header.request_id == 0) {
        error_set(&cause, reported, "%s: %s", client->path, client->message);
        return client_break(client, &cause, err);
    }
    *answer = (struct client_answer){
        .request_id = frame.header.request_id, .status = reported, .message = client->message};
    return STATUS_OK;
}

enum status client_search(struct client *client, const struct client_search *search,
                          struct client_answer *answer, struct error *err)
{
    uint64_t request_id = 0;
    struct frame frame;
    enum status status = none_outstanding(client, err);
    if (status == STATUS_OK)
        status = client_send_search(client, search, &request_id, err);
    if (status == STATUS_OK)
        status = receive_only(client, search->explain ? PROTOCOL_EXPLAIN_OK : PROTOCOL_SEARCH_OK,
                              &frame, err);
    if (status == STATUS_OK)
        status = take_answer(client, &frame, answer, err);
    if (status != STATUS_OK)
        return status;
    if (answer->query_count != search->query_count || answer->k != search->k)
        return error_set(err, STATUS_CORRUPT, "%s: asked %u queries with k %u, got %u with k %u",
                         client->path, search->query_count, search->k, answer->query_count,
                         answer->k);
    return STATUS_OK;
}

struct client_cursor client_cursor_after(const struct client_answer *answer, uint32_t q,
                                         struct client_cursor cursor)
{
    uint32_t hit_count = answer->results[q].hit_count;
    if (hit_count == 0)
        return cursor;
    const struct client_hit *last = &answer->hits[(size_t)q * answer->k + hit_count - 1];
    return (struct client_cursor){
        .key = last->key, .distance = last->distance, .rank = cursor.rank + hit_count};
}

enum status client_fetch(struct client *client, const struct client_fetch *fetch,
                         struct client_fetched *out, struct error *err)
{
    const struct protocol_fetch fixed = {.count = fetch->count,
                                         .flags = fetch->vectors ? PROTOCOL_FETCH_VECTORS : 0};
    struct outgoing asked = {PROTOCOL_FETCH, &fixed, sizeof(fixed), {{0}}};
    struct protocol_fetched wire;
    struct frame frame;
    struct error cause;
    enum status status = none_outstanding(client, err);
    if (status == STATUS_OK && (fetch->count < 1 || fetch->count > client->hello.queries_max))
        status = error_set(err, STATUS_INVALID, "%u keys in a request, wanted 1..%u", fetch->count,
                           client->hello.queries_max);
    if (status != STATUS_OK)
        return status;
    asked.tails[0] = tail_of(fetch->keys, fetch->count * sizeof(fetch->keys[0]));
    status = send_frame(client, &asked, err);
    if (status == STATUS_OK)
        status = receive_only(client, PROTOCOL_FETCH_OK, &frame, err);
    if (status != STATUS_OK)
        return status;
    if (protocol_fetch_ok_decode(frame.payload, frame.header.payload_bytes, &wire, &cause) !=
        STATUS_OK)
        return client_break(client, &cause, err);
    if (wire.fixed.count != fetch->count || wire.fixed.flags != fixed.flags)
        return error_set(err, STATUS_CORRUPT, "%s: asked for %u keys, got %u (flags 0x%x)",
                         client->path, fetch->count, wire.fixed.count, wire.fixed.flags);
    *out = (struct client_fetched){.count = wire.fixed.count,
                                   .found = wire.found,
                                   .vectors = wire.vectors,
                                   .dim = wire.fixed.dim,
                                   .type = (enum element_type)wire.fixed.element_type};
    return STATUS_OK;
}

enum status client_stats(struct client *client, enum client_stats_format format, char **text,
                         struct error *err)
{
    const struct protocol_stats wish = {.format = (uint32_t)format};
    /* Daemons from before there were formats take none. */
    const struct outgoing asked = {
        PROTOCOL_STATS, &wish, format == CLIENT_STATS_JSON ? 0 : sizeof(wish), {{0}}};
    struct frame frame;
    enum status status = none_outstanding(client, err);
    if (status == STATUS_OK)
        status = send_frame(client, &asked, err);
    if (status == STATUS_OK)
        status = receive_only(client, PROTOCOL_STATS_OK, &frame, err);
    if (status != STATUS_OK)
        return status;
    char *copy = strndup((const char *)frame.payload, frame.header.payload_bytes);
    if (!copy)
        return error_set(err, STATUS_NO_MEMORY, "no memory for statistics");
    *text = copy;
    return STATUS_OK;
}

enum status client_reload(struct client *client, struct client_reload *out, struct error *err)
{
    const struct outgoing asked = {.type = PROTOCOL_RELOAD};
    struct protocol_reload_ok wire;
    struct frame frame;
    struct error cause;
    const char *name = NULL;
    enum status status = none_outstanding(client, err);
    if (status == STATUS_OK)
        status = send_frame(client, &asked, err);
    if (status == STATUS_OK)
        status = receive_only(client, PROTOCOL_RELOAD_OK, &frame, err);
    if (status != STATUS_OK)
        return status;
    if (protocol_reload_ok_decode(frame.payload, frame.header.payload_bytes, &wire, &name,
                                  &cause) != STATUS_OK)
        return client_break(client, &cause, err);
    *out = (struct client_reload){.generation_low = wire.generation_low,
                                  .generation_high = wire.generation_high,
                                  .swapped = wire.swapped != 0};
    memcpy(out->name, name, wire.name_bytes);
    return STATUS_OK;
}
