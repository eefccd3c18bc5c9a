/*
 * server_admin.c - what is asked about the daemon rather than of its index: HELLO, STATS, RELOAD.
 *
 * Epoll thread, but for the answer to a RELOAD, which the keeper of serving.h sends.
 */
#include "query/server_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "query/http.h"
#include "query/stats.h"

enum status admin_hello(struct connection *connection, const struct protocol_header *header,
                        const void *payload, struct error *err)
{
    struct server *server = connection->server;
    struct protocol_hello hello;
    enum status status = protocol_hello_decode(payload, header->payload_bytes, &hello, err);
    if (status != STATUS_OK)
        return status;
    struct served *served = NULL;
    status = serving_require(server->params.serving, &served, err);
    if (status != STATUS_OK)
        return status;
    const struct manifest *manifest = served->manifest;
    const struct protocol_hello_ok ok = {
        .vector_count = manifest->vector_count,
        .generation_low = manifest->generation_id.low,
        .generation_high = manifest->generation_id.high,
        .dim = manifest->dim,
        .element_type = (uint32_t)manifest->query_type,
        .metric = (uint32_t)manifest->metric,
        .frame_bytes_max = PROTOCOL_FRAME_BYTES_MAX,
        .queries_max = server_shape(server, served).queries_max,
        .k_max = PROTOCOL_K_MAX,
        .search_list_max = ENGINE_SEARCH_LIST_MAX,
        .beam_width_max = ENGINE_BEAM_WIDTH_MAX,
        .window = server->params.window,
        .features = hello.features,
    };
    served_release(served);
    uint8_t frame[PROTOCOL_HEADER_BYTES + sizeof(ok)];
    protocol_header_encode(frame, PROTOCOL_HELLO_OK, header->request_id, sizeof(ok));
    memcpy(frame + PROTOCOL_HEADER_BYTES, &ok, sizeof(ok));
    connection_send(connection, frame, sizeof(frame));
    return STATUS_OK;
}

/* ---- STATS ---- */

enum status server_stats_text(struct server *server, enum protocol_stats_format format, char **text,
                              struct error *err)
{
    struct stats stats = {0};
    struct served *served = NULL;
    enum status status = serving_require(server->params.serving, &served, err);
    if (status != STATUS_OK)
        return status;
    stats.name = served->name;
    stats.manifest = served->manifest;
    stats.attributes = index_attributes(served->index);
    stats.memory = index_memory_of(served->index);
    stats.proof = served->proof;
    serving_stats_get(server->params.serving, &stats.serving);
    server_stats_get(server, &stats.server);
    if (server->params.http)
        http_counters_get(server->params.http, &stats.http);
    stats.resident_bytes = memory_rss();
    stats.peak_resident_bytes = memory_peak_rss();
    status = format == PROTOCOL_STATS_PROMETHEUS ? stats_prometheus_format(&stats, text, err)
                                                 : stats_json_format(&stats, text, err);
    served_release(served);
    return status;
}

/* Allocates: statistics are asked for by people and monitors, not by the query path. */
enum status admin_stats(struct connection *connection, const struct protocol_header *header,
                        const void *payload, struct error *err)
{
    enum protocol_stats_format format;
    enum status status = protocol_stats_decode(payload, header->payload_bytes, &format, err);
    char *text = NULL;
    if (status == STATUS_OK)
        status = server_stats_text(connection->server, format, &text, err);
    if (status != STATUS_OK)
        return status;
    size_t length = strlen(text);
    uint8_t *frame = malloc(PROTOCOL_HEADER_BYTES + length);
    if (frame) {
        protocol_header_encode(frame, PROTOCOL_STATS_OK, header->request_id, (uint32_t)length);
        memcpy(frame + PROTOCOL_HEADER_BYTES, text, length);
        connection_send(connection, frame, PROTOCOL_HEADER_BYTES + length);
    } else {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for statistics");
    }
    free(frame);
    free(text);
    return status;
}

/* ---- RELOAD ---- */

struct reload {
    struct serving_wish wish; /* first: done() is given its address */
    struct connection *connection;
    uint64_t request_id;
};

static size_t reload_encode(uint8_t *frame, uint64_t request_id,
                            const struct serving_outcome *outcome)
{
    const struct protocol_reload_ok ok = {
        .generation_low = outcome->generation.low,
        .generation_high = outcome->generation.high,
        .swapped = outcome->swapped,
        .name_bytes = (uint32_t)strlen(outcome->name),
    };
    size_t payload_bytes = sizeof(ok) + ok.name_bytes;
    protocol_header_encode(frame, PROTOCOL_RELOAD_OK, request_id, (uint32_t)payload_bytes);
    memcpy(frame + PROTOCOL_HEADER_BYTES, &ok, sizeof(ok));
    memcpy(frame + PROTOCOL_HEADER_BYTES + sizeof(ok), outcome->name, ok.name_bytes);
    return PROTOCOL_HEADER_BYTES + payload_bytes;
}

/* On the keeper's thread. */
static void reload_done(struct serving_wish *wish, const struct serving_outcome *outcome)
{
    struct reload *reload = (struct reload *)wish;
    struct connection *connection = reload->connection;
    struct server *server = connection->server;
    uint8_t frame[PROTOCOL_ERROR_FRAME_MAX + sizeof(struct protocol_reload_ok)];
    size_t length;
    if (outcome->status == STATUS_OK) {
        length = reload_encode(frame, reload->request_id, outcome);
    } else {
        length =
            protocol_error_encode(frame, reload->request_id, outcome->status, outcome->error.text);
        counter_add(&server->counters.errors[outcome->status], 1);
    }
    connection_answer(connection, 1, frame, length);
    atomic_fetch_sub_explicit(&server->reloads_waiting, 1, memory_order_relaxed);
    connection_release(connection);
    free(reload);
}

enum status admin_reload(struct connection *connection, const struct protocol_header *header,
                         struct error *err)
{
    struct server *server = connection->server;
    if (header->payload_bytes != 0)
        return error_set(err, STATUS_CORRUPT, "RELOAD payload is %u bytes, wanted 0",
                         header->payload_bytes);
    if (!connection->admin) {
        if (server_may_log(server, SERVER_LOG_DENIED))
            log_warn("denied", "connection=%u uid=%u pid=%d request=reload", connection->number,
                     connection->uid, connection->pid);
        return error_set(err, STATUS_DENIED,
                         "only the daemon's user and root may reload, not uid %u", connection->uid);
    }
    if (atomic_load_explicit(&server->reloads_waiting, memory_order_relaxed) >= RELOADS_WAITING_MAX)
        return error_set(err, STATUS_BUSY, "%d reloads are being waited for: try again",
                         (int)RELOADS_WAITING_MAX);
    struct reload *reload = calloc(1, sizeof(*reload));
    if (!reload)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a request");
    reload->wish.done = reload_done;
    reload->connection = connection;
    reload->request_id = header->request_id;
    /* The answer may go out before this returns. */
    connection_retain(connection);
    atomic_fetch_add_explicit(&server->reloads_waiting, 1, memory_order_relaxed);
    enum status status = serving_reload(server->params.serving, &reload->wish, err);
    if (status != STATUS_OK) {
        atomic_fetch_sub_explicit(&server->reloads_waiting, 1, memory_order_relaxed);
        connection_release(connection);
        free(reload);
    }
    return status;
}
