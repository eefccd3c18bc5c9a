/*
 * soak_load.c - `make overload`: how many queries a daemon answers at its best, and what it does
 * when asked a multiple of that, each query with a deadline: how many are answered, how many are
 * refused (BUSY) and how soon, and what those wait that are answered.
 *
 * The peak is measured with a fixed number of queries in flight. Then queries arrive at random
 * times, whatever the daemon does (an open loop), for each factor of --factors. Every answer is
 * held against the generation it names.
 *
 * One thread, since it shares the cores with the daemon: queries that are due leave together, a
 * connection's in one call, and so do answers come in. Departs from the client library, which
 * blocks.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/args.h"
#include "common/clock.h"
#include "common/random.h"
#include "query/protocol.h"
#include "query/socket_path.h"
#include "tests/answer_check.h"
#include "tests/daemon_facts.h"
#include "tools/latency.h"

enum {
    CONNECTIONS_MAX = 256,
    FLIGHTS = 1 << 18, /* queries unanswered at most */
    BUFFER_BYTES = 1 << 20,
    TICK_NS = 1000000, /* queries due within it leave together */
    BATCH = 32,        /* of them on one connection, in one call */
    COMPLAINTS_MAX = 10,
};
#define DRAIN_NS UINT64_C(60000000000) /* far beyond any deadline: an answer is missing */

struct options {
    const char *socket, *queries;
    uint32_t connections, in_flight, k, search_list, timeout_ms;
    struct args_u32_list factors;
    double duration_s, search_ratio;
    bool json;
};

struct connection {
    int fd;
    uint8_t *out, *in; /* BUFFER_BYTES each */
    size_t out_start, out_end, in_end;
};

/* A query on its way; its request id is its number + 1. */
struct flight {
    bool open;
    uint64_t number;
    uint64_t due_ns, queued_ns;
};

struct step {
    double rate; /* 0: closed loop */
    uint32_t timeout_ms;
    uint64_t start_ns, end_ns, next_due_ns;
    uint64_t offered, served, busy, timeouts, failed, wrong;
    struct latency latency; /* of what was served, from when it was due */
    uint64_t served_max_ns, busy_max_ns;
    uint64_t lag_max_ns; /* our own: from when a query was due to when it left */
    uint64_t last_ns;    /* of the last answer */
    uint64_t before_bytes, after_bytes;
};

struct load {
    struct options options;
    struct answer_check check;
    struct connection connections[CONNECTIONS_MAX];
    struct flight *flights;
    uint64_t next; /* number of the next query */
    uint64_t unanswered;
    uint32_t turn; /* the connection that sends next */
    uint32_t complaints;
    struct answer_tally tallies[ANSWER_GENERATIONS_MAX];
    struct step *step;
};

static void complain(struct load *load, const char *text)
{
    if (load->complaints++ < COMPLAINTS_MAX)
        fprintf(stderr, "soak_load: %s\n", text);
}

/* ---- connections ---- */

static enum status open_connection(const char *path, struct connection *out, struct error *err)
{
    struct sockaddr_un address;
    enum status status = socket_path_address(path, &address, err);
    if (status != STATUS_OK)
        return status;
    *out = (struct connection){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
                               .out = malloc(BUFFER_BYTES),
                               .in = malloc(BUFFER_BYTES)};
    if (!out->out || !out->in)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a connection");
    if (out->fd < 0 || connect(out->fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
        return error_set_os(err, errno, "%s: cannot connect", path);
    return STATUS_OK;
}

static void close_connections(struct load *load)
{
    for (uint32_t c = 0; c < load->options.connections; c++) {
        struct connection *connection = &load->connections[c];
        if (connection->fd >= 0)
            close(connection->fd);
        free(connection->out);
        free(connection->in);
    }
}

/* Sends what the socket takes. */
static enum status flush_out(struct connection *self, struct error *err)
{
    while (self->out_start < self->out_end) {
        ssize_t sent = send(self->fd, self->out + self->out_start, self->out_end - self->out_start,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            return STATUS_OK;
        if (sent < 0)
            return error_set_os(err, errno, "cannot send to the daemon");
        self->out_start += (size_t)sent;
    }
    self->out_start = self->out_end = 0;
    return STATUS_OK;
}

/* ---- queries ---- */

static void write_query(struct load *load, struct connection *connection, uint64_t number)
{
    const struct answer_check *check = &load->check;
    uint8_t *frame = connection->out + connection->out_end;
    const struct protocol_search search = {
        .query_count = 1,
        .k = load->options.k,
        .search_list = load->options.search_list,
        .search_ratio = (float)load->options.search_ratio,
        .timeout_ms = load->step->timeout_ms,
        .element_type = (uint32_t)check->queries.type,
        .dim = check->queries.dim,
        .flags = PROTOCOL_SEARCH_ORIGIN,
    };
    uint32_t payload_bytes = (uint32_t)(sizeof(search) + check->row_bytes);
    protocol_header_encode(frame, PROTOCOL_SEARCH, number + 1, payload_bytes);
    memcpy(frame + PROTOCOL_HEADER_BYTES, &search, sizeof(search));
    memcpy(frame + PROTOCOL_HEADER_BYTES + sizeof(search), answer_check_query(check, number),
           check->row_bytes);
    connection->out_end += PROTOCOL_HEADER_BYTES + payload_bytes;
}

static bool has_room(const struct load *load, const struct connection *connection)
{
    return BUFFER_BYTES - connection->out_end >=
               PROTOCOL_HEADER_BYTES + sizeof(struct protocol_search) + load->check.row_bytes &&
           !load->flights[load->next % FLIGHTS].open;
}

/* False: there is no room for it now; it stays due, which shows as lag. */
static bool add_query(struct load *load, struct connection *connection, uint64_t due_ns,
                      uint64_t now_ns)
{
    if (!has_room(load, connection))
        return false;
    load->flights[load->next % FLIGHTS] = (struct flight){true, load->next, due_ns, now_ns};
    write_query(load, connection, load->next++);
    load->unanswered++;
    load->step->offered++;
    load->step->lag_max_ns = MAX(load->step->lag_max_ns, now_ns - due_ns);
    return true;
}

/* Whether another query is to leave now. */
static bool is_due(const struct load *load, uint64_t now_ns)
{
    const struct step *step = load->step;
    if (now_ns >= step->end_ns)
        return false;
    return step->rate > 0 ? step->next_due_ns <= now_ns
                          : load->unanswered < load->options.in_flight;
}

/* All that are due, on the connections in turn: a batch for each, so that a call carries several.
 * Once around at most, as answers are to be looked at too. */
static enum status offer(struct load *load, uint64_t now_ns, struct error *err)
{
    struct step *step = load->step;
    enum status status = STATUS_OK;
    for (uint32_t c = 0;
         status == STATUS_OK && c < load->options.connections && is_due(load, now_ns); c++) {
        struct connection *connection = &load->connections[load->turn];
        for (uint32_t i = 0; i < BATCH && is_due(load, now_ns); i++) {
            if (!add_query(load, connection, step->rate > 0 ? step->next_due_ns : now_ns, now_ns))
                break;
            if (step->rate > 0) /* gaps of a Poisson process */
                step->next_due_ns +=
                    (uint64_t)(-log1p(-random_unit(1, load->next)) / step->rate * 1e9);
        }
        load->turn = load->turn + 1 < load->options.connections ? load->turn + 1 : 0;
        status = flush_out(connection, err);
    }
    return status;
}

/* ---- answers ---- */

static void take_served(struct load *load, const struct flight *flight, const uint8_t *payload,
                        uint32_t bytes, uint64_t now_ns)
{
    struct step *step = load->step;
    struct protocol_answer wire;
    struct error err;
    uint32_t generation;
    enum status status = protocol_answer_decode(payload, bytes, 0, &wire, &err);
    if (status == STATUS_OK && (wire.query_count != 1 || wire.k != load->options.k || !wire.origin))
        status = error_set(&err, STATUS_CORRUPT, "an answer to something else");
    if (status == STATUS_OK) {
        const struct answer_hits hits = {
            flight->number,
            {wire.origin->generation_low, wire.origin->generation_high},
            wire.results[0].hit_count,
            (const void *)wire.hits,
        };
        status = answer_check_hits(&load->check, &hits, load->tallies, &generation, &err);
    }
    if (status != STATUS_OK) {
        step->wrong++;
        complain(load, err.text);
    }
    step->served++;
    latency_record(&step->latency, now_ns - flight->due_ns);
    step->served_max_ns = MAX(step->served_max_ns, now_ns - flight->due_ns);
}

static void take_error(struct load *load, const struct flight *flight, const uint8_t *payload,
                       uint32_t bytes, uint64_t now_ns)
{
    struct step *step = load->step;
    enum status status;
    char text[ERROR_TEXT_BYTES];
    struct error err;
    if (protocol_error_decode(payload, bytes, &status, text, &err) == STATUS_OK &&
        load->step->timeout_ms > 0) {
        if (status == STATUS_BUSY) {
            step->busy++;
            step->busy_max_ns = MAX(step->busy_max_ns, now_ns - flight->queued_ns);
            return;
        }
        if (status == STATUS_TIMEOUT) {
            step->timeouts++;
            return;
        }
    }
    step->failed++;
    complain(load, text);
}

static enum status take_frame(struct load *load, const struct protocol_header *header,
                              const uint8_t *payload, uint64_t now_ns, struct error *err)
{
    struct flight *flight = &load->flights[(header->request_id - 1) % FLIGHTS];
    if (header->request_id == 0 || !flight->open || flight->number != header->request_id - 1)
        return error_set(err, STATUS_CORRUPT,
                         "an answer of type %u to request %" PRIu64 ", which is not waiting",
                         header->type, header->request_id);
    flight->open = false;
    load->unanswered--;
    load->step->last_ns = now_ns;
    if (header->type == PROTOCOL_SEARCH_OK)
        take_served(load, flight, payload, header->payload_bytes, now_ns);
    else if (header->type == PROTOCOL_ERROR)
        take_error(load, flight, payload, header->payload_bytes, now_ns);
    else
        return error_set(err, STATUS_CORRUPT, "an answer of type %u", header->type);
    return STATUS_OK;
}

/* Takes whole frames from the front of the buffer. */
static enum status take_frames(struct load *load, struct connection *self, struct error *err)
{
    /* Hits are read in place, which wants them aligned. */
    static _Alignas(8) uint8_t payload[1 << 16];
    uint64_t now_ns = clock_monotonic_ns();
    size_t at = 0;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && self->in_end - at >= PROTOCOL_HEADER_BYTES) {
        struct protocol_header header;
        status = protocol_header_decode(self->in + at, &header, err);
        if (status != STATUS_OK || header.payload_bytes > sizeof(payload))
            return status != STATUS_OK ? status
                                       : error_set(err, STATUS_CORRUPT, "an answer of %u bytes",
                                                   header.payload_bytes);
        if (self->in_end - at - PROTOCOL_HEADER_BYTES < header.payload_bytes)
            break;
        memcpy(payload, self->in + at + PROTOCOL_HEADER_BYTES, header.payload_bytes);
        at += PROTOCOL_HEADER_BYTES + header.payload_bytes;
        status = take_frame(load, &header, payload, now_ns, err);
    }
    memmove(self->in, self->in + at, self->in_end - at);
    self->in_end -= at;
    return status;
}

static enum status receive(struct load *load, struct connection *self, struct error *err)
{
    for (;;) {
        ssize_t got =
            recv(self->fd, self->in + self->in_end, BUFFER_BYTES - self->in_end, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return STATUS_OK;
        if (got < 0)
            return error_set_os(err, errno, "cannot receive from the daemon");
        if (got == 0)
            return error_set(err, STATUS_IO, "the daemon closed a connection");
        self->in_end += (size_t)got;
        enum status status = take_frames(load, self, err);
        if (status != STATUS_OK)
            return status;
    }
}

/* ---- a step ---- */

static enum status wait_and_receive(struct load *load, uint64_t now_ns, struct error *err)
{
    struct pollfd fds[CONNECTIONS_MAX];
    struct step *step = load->step;
    enum status status = STATUS_OK;
    for (uint32_t c = 0; c < load->options.connections; c++) {
        const struct connection *connection = &load->connections[c];
        bool sending = connection->out_start < connection->out_end;
        fds[c] = (struct pollfd){connection->fd, (short)(POLLIN | (sending ? POLLOUT : 0)), 0};
    }
    /* An open loop sleeps out its tick, so that answers are taken together as well. */
    const struct timespec tick = {.tv_nsec = TICK_NS};
    uint32_t wait_ms = 100;
    if (step->rate > 0 && now_ns < step->end_ns) {
        nanosleep(&tick, NULL);
        wait_ms = 0;
    }
    if (poll(fds, load->options.connections, (int)wait_ms) < 0 && errno != EINTR)
        return error_set_os(err, errno, "cannot wait for the daemon");
    for (uint32_t c = 0; status == STATUS_OK && c < load->options.connections; c++) {
        if (fds[c].revents & POLLOUT)
            status = flush_out(&load->connections[c], err);
        if (status == STATUS_OK && (fds[c].revents & ~POLLOUT))
            status = receive(load, &load->connections[c], err);
    }
    return status;
}

static enum status resident(const struct load *load, uint64_t *out, struct error *err)
{
    struct client *client = NULL;
    struct daemon_facts facts;
    enum status status = client_connect(load->options.socket, &client, err);
    if (status == STATUS_OK)
        status = daemon_facts_get(client, &facts, err);
    if (status == STATUS_OK)
        *out = facts.resident_bytes;
    client_close(client);
    return status;
}

static enum status step_run(struct load *load, struct step *step, struct error *err)
{
    enum status status = resident(load, &step->before_bytes, err);
    load->step = step;
    step->start_ns = step->next_due_ns = step->last_ns = clock_monotonic_ns();
    step->end_ns = step->start_ns + (uint64_t)(load->options.duration_s * 1e9);
    while (status == STATUS_OK) {
        uint64_t now_ns = clock_monotonic_ns();
        if (now_ns >= step->end_ns && load->unanswered == 0)
            break;
        if (now_ns >= step->end_ns + DRAIN_NS)
            return error_set(err, STATUS_TIMEOUT, "%" PRIu64 " queries were not answered",
                             load->unanswered);
        status = offer(load, now_ns, err);
        if (status == STATUS_OK)
            status = wait_and_receive(load, now_ns, err);
    }
    return status == STATUS_OK ? resident(load, &step->after_bytes, err) : status;
}

static double served_qps(const struct step *step)
{
    return (double)step->served / ((double)MAX(step->last_ns - step->start_ns, 1u) * 1e-9);
}

static void print_head(void)
{
    printf("%6s %9s %9s %6s %7s %7s %7s %7s %7s %7s %8s %8s %7s %7s\n", "factor", "offered",
           "served", "ratio", "busy_%", "late_%", "p50_ms", "p99_ms", "max_ms", "busy_ms", "lag_ms",
           "MiB", "MiB_end", "failed");
}

/* busy_ms is the longest time to a BUSY answer, lag_ms how late the generator itself was. */
static void print_step(const struct load *load, const struct step *step, uint32_t factor,
                       double peak)
{
    const double seconds = (double)(step->end_ns - step->start_ns) * 1e-9;
    const double offered = (double)MAX(step->offered, 1u);
    if (load->options.json) {
        printf("{\"factor\":%u,\"timeout_ms\":%u,\"offered_qps\":%.1f,\"served_qps\":%.1f,"
               "\"ratio\":%.4f,\"busy_share\":%.6f,\"timeout_share\":%.6f,\"p50_us\":%.1f,"
               "\"p99_us\":%.1f,\"max_us\":%.1f,\"busy_max_us\":%.1f,\"lag_max_us\":%.1f,"
               "\"before_resident_bytes\":%" PRIu64 ",\"after_resident_bytes\":%" PRIu64
               ",\"failed\":%" PRIu64 ",\"wrong\":%" PRIu64 "}\n",
               factor, step->timeout_ms, (double)step->offered / seconds, served_qps(step),
               served_qps(step) / peak, (double)step->busy / offered,
               (double)step->timeouts / offered, latency_quantile_us(&step->latency, 0.5),
               latency_quantile_us(&step->latency, 0.99), (double)step->served_max_ns * 1e-3,
               (double)step->busy_max_ns * 1e-3, (double)step->lag_max_ns * 1e-3,
               step->before_bytes, step->after_bytes, step->failed, step->wrong);
        return;
    }
    char name[16] = "peak";
    if (factor > 0)
        snprintf(name, sizeof(name), "%ux", factor);
    printf("%6s %9.0f %9.0f %6.3f %7.2f %7.2f %7.1f %7.1f %7.1f %7.1f %8.1f %8.1f %7.1f %7" PRIu64
           "\n",
           name, (double)step->offered / seconds, served_qps(step), served_qps(step) / peak,
           (double)step->busy * 100 / offered, (double)step->timeouts * 100 / offered,
           latency_quantile_us(&step->latency, 0.5) / 1000,
           latency_quantile_us(&step->latency, 0.99) / 1000, (double)step->served_max_ns * 1e-6,
           (double)step->busy_max_ns * 1e-6, (double)step->lag_max_ns * 1e-6,
           (double)step->before_bytes / 0x1p20, (double)step->after_bytes / 0x1p20,
           step->failed + step->wrong);
    fflush(stdout);
}

static enum status steps_run(struct load *load, struct error *err)
{
    double peak = 1;
    uint64_t faults = 0;
    enum status status = STATUS_OK;
    if (!load->options.json)
        print_head();
    for (uint32_t s = 0; status == STATUS_OK && s <= load->options.factors.count; s++) {
        uint32_t factor = s == 0 ? 0 : load->options.factors.items[s - 1];
        struct step *step = calloc(1, sizeof(*step));
        if (!step)
            return error_set(err, STATUS_NO_MEMORY, "no memory for a step");
        step->rate = factor * peak;
        step->timeout_ms = factor > 0 ? load->options.timeout_ms : 0;
        status = step_run(load, step, err);
        if (status == STATUS_OK && s == 0)
            peak = MAX(served_qps(step), 1.0);
        if (status == STATUS_OK)
            print_step(load, step, factor, peak);
        faults += step->failed + step->wrong;
        free(step);
    }
    if (status == STATUS_OK && faults > 0)
        return error_set(err, STATUS_CORRUPT, "%" PRIu64 " queries failed or were answered wrong",
                         faults);
    return status;
}

static enum status load_run(struct load *load, const struct args_positionals *generations,
                            struct error *err)
{
    enum status status =
        answer_check_create(&load->check, load->options.queries, load->options.k, err);
    for (size_t i = 0; status == STATUS_OK && i < generations->count; i++)
        status = answer_check_add(&load->check, generations->items[i], err);
    if (status == STATUS_OK && load->check.row_bytes > BUFFER_BYTES / 4)
        status = error_set(err, STATUS_INVALID, "a query has more than %d bytes", BUFFER_BYTES / 4);
    load->flights = calloc(FLIGHTS, sizeof(*load->flights));
    if (status == STATUS_OK && !load->flights)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for queries in flight");
    for (uint32_t c = 0; c < load->options.connections; c++)
        load->connections[c].fd = -1;
    for (uint32_t c = 0; status == STATUS_OK && c < load->options.connections; c++)
        status = open_connection(load->options.socket, &load->connections[c], err);
    if (status == STATUS_OK)
        status = steps_run(load, err);
    close_connections(load);
    free(load->flights);
    answer_check_destroy(&load->check);
    return status;
}

static enum args_result parse(struct options *options, int argc, char **argv,
                              struct args_positionals *generations, struct error *err)
{
    const struct args_option table[] = {
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &options->socket,
         .value_name = "PATH",
         .help = "of the daemon",
         .required = true},
        {.name = "queries",
         .kind = ARGS_STRING,
         .target = &options->queries,
         .value_name = "FILE",
         .help = "what to ask, over and over",
         .required = true},
        {.name = "factors",
         .kind = ARGS_U32_LIST,
         .target = &options->factors,
         .min = 1,
         .max = 1000,
         .help = "of the peak to offer (default 1,2,5)"},
        {.name = "timeout-ms",
         .kind = ARGS_U32,
         .target = &options->timeout_ms,
         .min = 1,
         .help = "deadline of a query, but for the peak's"},
        {.name = "duration",
         .kind = ARGS_DOUBLE,
         .target = &options->duration_s,
         .value_name = "S",
         .min = 0.01,
         .max = 86400,
         .help = "seconds a step"},
        {.name = "in-flight",
         .kind = ARGS_U32,
         .target = &options->in_flight,
         .min = 1,
         .max = 1 << 16,
         .help = "queries at a time for the peak"},
        {.name = "connections",
         .kind = ARGS_U32,
         .target = &options->connections,
         .min = 1,
         .max = CONNECTIONS_MAX,
         .help = "over which they are spread"},
        {.short_name = 'k',
         .kind = ARGS_U32,
         .target = &options->k,
         .min = 1,
         .max = ANSWER_K_MAX,
         .help = "hits a query"},
        {.name = "search-list",
         .kind = ARGS_U32,
         .target = &options->search_list,
         .min = 1,
         .help = "candidates kept"},
        {.name = "search-ratio",
         .kind = ARGS_DOUBLE,
         .target = &options->search_ratio,
         .help = "stop early beyond it, 0: never"},
        {.name = "json", .kind = ARGS_FLAG, .target = &options->json, .help = "one object a step"},
    };
    const struct args_spec spec = {
        .program = "soak_load",
        .summary = "Offer a daemon more than it can answer.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .positional_name = "DIR=BASE[,KEYS.u64bin][,TRUTH]...",
        .positional_min = 1,
        .positional_max = ANSWER_GENERATIONS_MAX,
        .epilog = "late_% were answered TIMEOUT; busy_ms is the longest time from sending a query "
                  "to its BUSY; lag_ms how late\n"
                  "the generator sent one, at worst, which latencies include.\n"
                  "Exit status 1: another error, a wrong answer, or none.",
    };
    return args_parse(&spec, argc, argv, generations, err);
}

int main(int argc, char **argv)
{
    static struct load load = {
        .options = {.connections = 16,
                    .in_flight = 128,
                    .k = 10,
                    .search_list = 60,
                    .search_ratio = 1.06,
                    .duration_s = 5,
                    .timeout_ms = 100,
                    .factors = {.items = {1, 2, 5}, .count = 3}},
    };
    struct args_positionals generations;
    struct error err;
    switch (parse(&load.options, argc, argv, &generations, &err)) {
    case ARGS_RUN:
        break;
    case ARGS_DONE:
        return 0;
    case ARGS_USAGE:
        fprintf(stderr, "soak_load: %s\n", err.text);
        return 2;
    }
    if (load_run(&load, &generations, &err) == STATUS_OK)
        return 0;
    fprintf(stderr, "soak_load: %s\n", err.text);
    return 1;
}
