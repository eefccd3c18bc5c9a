/*
 * soak_frames.c - `make soak-frames`: millions of random and mutated frames, while a connection
 * with manners asks queries whose answers must be right all the time.
 *
 * Frames go in bursts, one a connection. Most of a burst are frames whose headers are sound and
 * whose payloads may not be: each must get exactly one answer, which is counted, so that none is
 * lost behind another's fault. The last one may break the stream: a mutated header, garbage, half a
 * frame, a giant length. Then the sending side is shut, and the daemon must close; or the
 * connection is closed with answers unread.
 *
 * The same seed and count give the same frames. Threads: the main one sends them, another asks.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
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
    CONNECTIONS_MAX = 64,
    BURST_MAX = 200, /* frames */
    PAYLOAD_MAX = 400,
    CLOSE_MS = 60000, /* in which the daemon must have closed, far more than it takes */
    QUERY_BYTES_MAX = VECTOR_DIM_MAX * 4,
    BURST_BYTES = BURST_MAX * (PROTOCOL_HEADER_BYTES + 40 + QUERY_BYTES_MAX),
};
#define LAST_ID UINT64_MAX /* of a frame that may be anything; no mutation makes it another's */

struct options {
    const char *socket, *queries;
    uint64_t frames, seed, growth_bytes;
    uint32_t connections;
    bool json;
};

/* What is sent on one connection. */
struct burst {
    int fd;
    uint8_t *bytes;
    size_t length;
    uint32_t frames; /* with ids from 1, each to be answered */
    bool abrupt;
    bool seen[BURST_MAX + 1];
    uint8_t input[64 << 10];
    size_t held;
    uint32_t skip; /* payload bytes still to come */
};

struct asker {
    struct answer_check *check;
    struct client *client;
    atomic_bool stop;
    struct latency latency;
    uint64_t max_ns;
    struct answer_tally tallies[ANSWER_GENERATIONS_MAX];
    enum status status;
    struct error error;
};

struct frames {
    struct options options;
    struct answer_check check;
    struct burst *bursts;
    uint64_t sent, answered, connections;
    uint64_t draws; /* random numbers taken */
};

static uint32_t below(struct frames *self, uint32_t bound)
{
    return (uint32_t)random_below(self->options.seed, self->draws++, bound);
}

static void random_bytes(struct frames *self, uint8_t *bytes, size_t length)
{
    for (size_t at = 0; at < length; at += 8) {
        uint64_t number = random_at(self->options.seed, self->draws++);
        memcpy(bytes + at, &number, MIN(length - at, sizeof(number)));
    }
}

/* Changes 1 to `most` bytes. */
static void mutate(struct frames *self, uint8_t *bytes, size_t length, uint32_t most)
{
    for (uint32_t i = below(self, most) + 1; i > 0; i--)
        bytes[below(self, (uint32_t)length)] ^= (uint8_t)(below(self, 255) + 1);
}

/* ---- frames ---- */

static size_t write_frame(uint8_t *frame, uint8_t type, uint64_t id, const void *payload,
                          uint32_t payload_bytes)
{
    protocol_header_encode(frame, (enum protocol_type)type, id, payload_bytes);
    if (payload_bytes > 0)
        memcpy(frame + PROTOCOL_HEADER_BYTES, payload, payload_bytes);
    return PROTOCOL_HEADER_BYTES + payload_bytes;
}

/* A valid one, of one query. */
static size_t write_search(struct frames *self, uint8_t *frame, uint64_t id)
{
    const struct answer_check *check = &self->check;
    const struct protocol_search search = {
        .query_count = 1,
        .k = below(self, 10) + 1,
        .search_list = below(self, 20) + 10,
        .element_type = (uint32_t)check->queries.type,
        .dim = check->queries.dim,
        .flags = below(self, PROTOCOL_SEARCH_FLAGS + 1),
    };
    uint32_t payload_bytes = (uint32_t)(sizeof(search) + check->row_bytes);
    protocol_header_encode(frame, PROTOCOL_SEARCH, id, payload_bytes);
    memcpy(frame + PROTOCOL_HEADER_BYTES, &search, sizeof(search));
    memcpy(frame + PROTOCOL_HEADER_BYTES + sizeof(search), answer_check_query(check, self->draws),
           check->row_bytes);
    return PROTOCOL_HEADER_BYTES + payload_bytes;
}

/* A valid one of any type. Those that cost the daemon most are the rarest: it is to see many
 * frames, and has work of its own. */
static size_t write_valid(struct frames *self, uint8_t *frame, uint64_t id)
{
    const struct protocol_hello hello = {.features = below(self, PROTOCOL_FEATURES + 1)};
    const struct protocol_stats stats = {.format = below(self, 2)};
    switch (below(self, 32)) {
    case 0:
        return write_search(self, frame, id);
    case 1:
        return write_frame(frame, PROTOCOL_STATS, id, &stats, below(self, 2) * sizeof(stats));
    case 2:
        return write_frame(frame, PROTOCOL_RELOAD, id, NULL, 0);
    default:
        return write_frame(frame, PROTOCOL_HELLO, id, &hello, sizeof(hello));
    }
}

/* A frame that is answered, whatever its payload is. */
static size_t write_answered(struct frames *self, uint8_t *frame, uint64_t id)
{
    static const uint8_t types[] = {PROTOCOL_HELLO, PROTOCOL_SEARCH, PROTOCOL_STATS,
                                    PROTOCOL_RELOAD};
    uint8_t payload[PAYLOAD_MAX];
    uint32_t bytes = below(self, PAYLOAD_MAX + 1);
    size_t length;
    switch (below(self, 8)) {
    case 0:
        return write_valid(self, frame, id);
    case 1:
    case 2: /* any type, any payload */
        random_bytes(self, payload, bytes);
        return write_frame(frame, (uint8_t)below(self, 256), id, payload, bytes);
    case 3: /* a type there is */
        random_bytes(self, payload, bytes);
        return write_frame(frame, types[below(self, ARRAY_LENGTH(types))], id, payload, bytes);
    case 4: /* a wrong length */
        length = write_search(self, frame, id);
        bytes = MIN(bytes, (uint32_t)(length - PROTOCOL_HEADER_BYTES - 1));
        protocol_header_encode(frame, PROTOCOL_SEARCH, id, bytes);
        return PROTOCOL_HEADER_BYTES + bytes;
    default:
        length = write_search(self, frame, id);
        mutate(self, frame + PROTOCOL_HEADER_BYTES, sizeof(struct protocol_search), 4);
        return length;
    }
}

/* Many queries, of which only a few bytes follow. */
static size_t write_giant(struct frames *self, uint8_t *frame)
{
    size_t length = write_search(self, frame, LAST_ID);
    uint32_t count = below(self, PROTOCOL_QUERIES_MAX) + 1;
    uint64_t bytes = sizeof(struct protocol_search) + count * self->check.row_bytes;
    memcpy(frame + PROTOCOL_HEADER_BYTES, &count, sizeof(count));
    if (bytes > PROTOCOL_FRAME_BYTES_MAX || below(self, 4) == 0)
        bytes = below(self, UINT32_MAX);
    protocol_header_encode(frame, PROTOCOL_SEARCH, LAST_ID, (uint32_t)bytes);
    return length;
}

/* What ends a burst; perhaps nothing. */
static size_t write_last(struct frames *self, uint8_t *frame)
{
    size_t length;
    switch (below(self, 6)) {
    case 0:
        return 0;
    case 1:
        length = write_valid(self, frame, LAST_ID);
        mutate(self, frame, PROTOCOL_HEADER_BYTES, 8);
        return length;
    case 2:
        length = below(self, PAYLOAD_MAX) + 1;
        random_bytes(self, frame, length);
        return length;
    case 3:
        length = write_search(self, frame, LAST_ID);
        mutate(self, frame, length, 16);
        return length;
    case 4:
        length = write_answered(self, frame, LAST_ID);
        return below(self, (uint32_t)length);
    default:
        return write_giant(self, frame);
    }
}

static void burst_make(struct frames *self, struct burst *burst)
{
    uint64_t left = self->options.frames - self->sent;
    uint32_t frames = (uint32_t)MIN(left, (uint64_t)below(self, BURST_MAX) + 1);
    burst->length = 0;
    burst->held = burst->skip = 0;
    burst->abrupt = below(self, 8) == 0;
    memset(burst->seen, 0, sizeof(burst->seen));
    burst->frames = frames - 1;
    for (uint32_t i = 1; i <= burst->frames; i++)
        burst->length += write_answered(self, burst->bytes + burst->length, i);
    burst->length += write_last(self, burst->bytes + burst->length);
    self->sent += frames;
}

/* ---- connections ---- */

static enum status burst_send(struct frames *self, struct burst *burst, struct error *err)
{
    struct sockaddr_un address;
    enum status status = socket_path_address(self->options.socket, &address, err);
    if (status != STATUS_OK)
        return status;
    burst->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (burst->fd < 0 ||
        connect(burst->fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
        return error_set_os(err, errno, "%s: cannot connect", self->options.socket);
    self->connections++;
    for (size_t at = 0; at < burst->length;) {
        ssize_t sent = send(burst->fd, burst->bytes + at, burst->length - at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
            break; /* cut off for what came before; whether rightly, its answers tell */
        if (sent < 0)
            return error_set_os(err, errno, "cannot send to the daemon");
        at += (size_t)sent;
    }
    if (!burst->abrupt)
        shutdown(burst->fd, SHUT_WR);
    return STATUS_OK;
}

static enum status note_answer(struct frames *self, struct burst *burst,
                               const struct protocol_header *header, struct error *err)
{
    uint64_t id = header->request_id;
    if (id == 0 || id > burst->frames)
        return STATUS_OK; /* about the connection, or its last frame */
    if (burst->seen[id])
        return error_set(err, STATUS_CORRUPT, "request %" PRIu64 " was answered twice", id);
    burst->seen[id] = true;
    self->answered++;
    return STATUS_OK;
}

/* Notes the answers in input[]. */
static enum status take_answers(struct frames *self, struct burst *burst, struct error *err)
{
    size_t at = 0;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && at < burst->held) {
        size_t skipped = MIN((size_t)burst->skip, burst->held - at);
        at += skipped;
        burst->skip -= (uint32_t)skipped;
        if (burst->held - at < PROTOCOL_HEADER_BYTES)
            break;
        struct protocol_header header;
        status = protocol_header_decode(burst->input + at, &header, err);
        if (status == STATUS_OK)
            status = note_answer(self, burst, &header, err);
        at += PROTOCOL_HEADER_BYTES;
        burst->skip = header.payload_bytes;
    }
    if (status != STATUS_OK)
        return status;
    memmove(burst->input, burst->input + at, burst->held - at);
    burst->held -= at;
    return STATUS_OK;
}

/* Until the daemon closes. */
static enum status burst_drain(struct frames *self, struct burst *burst, struct error *err)
{
    for (;;) {
        struct pollfd wait = {burst->fd, POLLIN, 0};
        int ready = poll(&wait, 1, CLOSE_MS);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return error_set(err, STATUS_TIMEOUT, "the daemon did not close a connection");
        ssize_t got =
            recv(burst->fd, burst->input + burst->held, sizeof(burst->input) - burst->held, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno != ECONNRESET)
            return error_set_os(err, errno, "cannot receive from the daemon");
        if (got <= 0)
            break;
        burst->held += (size_t)got;
        enum status status = take_answers(self, burst, err);
        if (status != STATUS_OK)
            return status;
    }
    for (uint32_t i = 1; i <= burst->frames; i++)
        if (!burst->seen[i])
            return error_set(err, STATUS_CORRUPT, "frame %u of %u was not answered", i,
                             burst->frames);
    return STATUS_OK;
}

/* Several connections at a time, so that the daemon has them side by side. */
static enum status round_run(struct frames *self, struct error *err)
{
    enum status status = STATUS_OK;
    uint32_t count = 0;
    while (status == STATUS_OK && count < self->options.connections &&
           self->sent < self->options.frames) {
        struct burst *burst = &self->bursts[count++];
        burst_make(self, burst);
        status = burst_send(self, burst, err);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct burst *burst = &self->bursts[i];
        if (status == STATUS_OK && !burst->abrupt)
            status = burst_drain(self, burst, err);
        if (burst->fd >= 0)
            close(burst->fd);
        burst->fd = -1;
    }
    return status;
}

/* ---- the connection with manners ---- */

static void *ask(void *context)
{
    struct asker *self = context;
    for (uint64_t query = 0; self->status == STATUS_OK && !atomic_load(&self->stop); query++) {
        const struct client_search search = {
            .vectors = answer_check_query(self->check, query),
            .query_count = 1,
            .k = self->check->k,
            .search_list = 60,
            .search_ratio = 1.06f,
            .origin = true,
        };
        struct client_answer answer;
        uint32_t generation;
        uint64_t began_ns = clock_monotonic_ns();
        self->status = client_search(self->client, &search, &answer, &self->error);
        if (self->status != STATUS_OK)
            break;
        uint64_t took_ns = clock_monotonic_ns() - began_ns;
        latency_record(&self->latency, took_ns);
        self->max_ns = MAX(self->max_ns, took_ns);
        const struct answer_hits hits = {query,
                                         {answer.generation_low, answer.generation_high},
                                         answer.results[0].hit_count,
                                         answer.hits};
        self->status =
            answer_check_hits(self->check, &hits, self->tallies, &generation, &self->error);
    }
    return NULL;
}

/* ---- the run ---- */

struct footprint {
    uint64_t resident_bytes;
    uint32_t descriptors;
};

/* When nothing but `connections` is connected any more. */
static enum status footprint_get(struct client *client, pid_t pid, struct footprint *out,
                                 struct error *err)
{
    struct daemon_facts facts = {0};
    enum status status = STATUS_OK;
    const struct timespec pause = {.tv_nsec = 1000000};
    uint64_t end_ns = clock_monotonic_ns() + UINT64_C(1000000) * CLOSE_MS;
    while (status == STATUS_OK && facts.connections != 2) {
        if (clock_monotonic_ns() > end_ns)
            return error_set(err, STATUS_TIMEOUT, "%" PRIu64 " connections are left, wanted 2",
                             facts.connections);
        nanosleep(&pause, NULL);
        status = daemon_facts_get(client, &facts, err);
    }
    if (status == STATUS_OK)
        status = daemon_descriptors(pid, &out->descriptors, err);
    out->resident_bytes = facts.resident_bytes;
    return status;
}

static void print_report(const struct frames *self, const struct asker *asker, double seconds,
                         const struct footprint *before, const struct footprint *after)
{
    const char *format =
        self->options.json
            ? "{\"frames\":%" PRIu64 ",\"connections\":%" PRIu64 ",\"answered\":%" PRIu64
              ",\"seconds\":%.1f,\"queries\":%" PRIu64 ",\"p50_us\":%.0f,\"p99_us\":%.0f,"
              "\"max_us\":%.0f,\"before_resident_bytes\":%.0f,\"after_resident_bytes\":%.0f,"
              "\"before_descriptors\":%u,\"after_descriptors\":%u}\n"
            : "%" PRIu64 " frames on %" PRIu64 " connections, %" PRIu64 " answers in %.1f s\n"
              "beside them %" PRIu64 " queries, all right: p50 %.0f us, p99 %.0f us, max %.0f us\n"
              "daemon: %.0f bytes before, %.0f after; %u descriptors before, %u after\n";
    printf(format, self->sent, self->connections, self->answered, seconds, asker->latency.count,
           latency_quantile_us(&asker->latency, 0.5), latency_quantile_us(&asker->latency, 0.99),
           (double)asker->max_ns * 1e-3, (double)before->resident_bytes,
           (double)after->resident_bytes, before->descriptors, after->descriptors);
}

/* What came of it, but for the queries beside it. */
struct storm {
    struct footprint before, after;
    double seconds;
};

/* Sends all frames; the daemon's footprint is taken after some, when what it keeps is allocated,
 * and at the end. */
static enum status storm(struct frames *self, struct client *watcher, struct storm *out,
                         struct error *err)
{
    pid_t pid = 0;
    uint64_t start_ns = clock_monotonic_ns();
    *out = (struct storm){0};
    enum status status = daemon_pid(self->options.socket, &pid, err);
    while (status == STATUS_OK && self->sent < self->options.frames) {
        status = round_run(self, err);
        if (status == STATUS_OK && out->before.resident_bytes == 0 &&
            self->sent >= self->options.frames / 10)
            status = footprint_get(watcher, pid, &out->before, err);
    }
    if (status == STATUS_OK)
        status = footprint_get(watcher, pid, &out->after, err);
    out->seconds = (double)(clock_monotonic_ns() - start_ns) * 1e-9;
    return status;
}

static enum status storm_judge(const struct frames *self, const struct storm *storm,
                               struct error *err)
{
    const struct footprint *before = &storm->before, *after = &storm->after;
    if (after->descriptors > before->descriptors)
        return error_set(err, STATUS_CORRUPT, "the daemon has %u descriptors open, %u before",
                         after->descriptors, before->descriptors);
    if (after->resident_bytes > before->resident_bytes + self->options.growth_bytes)
        return error_set(err, STATUS_CORRUPT,
                         "the daemon grew from %" PRIu64 " to %" PRIu64 " bytes",
                         before->resident_bytes, after->resident_bytes);
    return STATUS_OK;
}

static enum status storm_beside_queries(struct frames *self, struct error *err)
{
    struct asker *asker = calloc(1, sizeof(*asker));
    struct client *watcher = NULL;
    struct storm result;
    pthread_t thread;
    bool started = false;
    if (!asker)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a client");
    asker->check = &self->check;
    enum status status = client_connect(self->options.socket, &watcher, err);
    if (status == STATUS_OK)
        status = client_connect(self->options.socket, &asker->client, err);
    if (status == STATUS_OK)
        status = client_require(asker->client, CLIENT_ORIGIN, err);
    if (status == STATUS_OK) {
        int failed = pthread_create(&thread, NULL, ask, asker);
        started = !failed;
        if (failed)
            status = error_set_os(err, failed, "cannot start a thread");
    }
    if (status == STATUS_OK)
        status = storm(self, watcher, &result, err);
    atomic_store(&asker->stop, true);
    if (started)
        pthread_join(thread, NULL);
    if (status == STATUS_OK && asker->status != STATUS_OK)
        status = error_set(err, asker->status, "the client with manners: %s", asker->error.text);
    if (status == STATUS_OK) {
        print_report(self, asker, result.seconds, &result.before, &result.after);
        status = storm_judge(self, &result, err);
    }
    client_close(asker->client);
    client_close(watcher);
    free(asker);
    return status;
}

static enum status frames_run(struct frames *self, const struct args_positionals *generations,
                              struct error *err)
{
    enum status status = answer_check_create(&self->check, self->options.queries, 10, err);
    for (size_t i = 0; status == STATUS_OK && i < generations->count; i++)
        status = answer_check_add(&self->check, generations->items[i], err);
    self->bursts = calloc(self->options.connections, sizeof(*self->bursts));
    if (status == STATUS_OK && !self->bursts)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for connections");
    for (uint32_t c = 0; status == STATUS_OK && c < self->options.connections; c++) {
        self->bursts[c].fd = -1;
        self->bursts[c].bytes = malloc(BURST_BYTES);
        if (!self->bursts[c].bytes)
            status = error_set(err, STATUS_NO_MEMORY, "no memory for frames");
    }
    if (status == STATUS_OK)
        status = storm_beside_queries(self, err);
    for (uint32_t c = 0; self->bursts && c < self->options.connections; c++)
        free(self->bursts[c].bytes);
    free(self->bursts);
    answer_check_destroy(&self->check);
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
         .help = "of the daemon, to which nobody else is connected",
         .required = true},
        {.name = "queries",
         .kind = ARGS_STRING,
         .target = &options->queries,
         .value_name = "FILE",
         .help = "what the client with manners asks",
         .required = true},
        {.name = "frames",
         .kind = ARGS_U64,
         .target = &options->frames,
         .min = 1,
         .help = "how many to send"},
        {.name = "seed",
         .kind = ARGS_U64,
         .target = &options->seed,
         .help = "another seed, other frames"},
        {.name = "connections",
         .kind = ARGS_U32,
         .target = &options->connections,
         .min = 1,
         .max = CONNECTIONS_MAX,
         .help = "at a time"},
        {.name = "growth",
         .kind = ARGS_MEMORY,
         .target = &options->growth_bytes,
         .help = "by which the daemon's memory may grow, for what it keeps for requests"},
        {.name = "json", .kind = ARGS_FLAG, .target = &options->json, .help = "one object"},
    };
    const struct args_spec spec = {
        .program = "soak_frames",
        .summary = "Send a daemon random and mutated frames while it answers queries.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .positional_name = "DIR=BASE[,KEYS.u64bin][,TRUTH]...",
        .positional_min = 1,
        .positional_max = ANSWER_GENERATIONS_MAX,
    };
    return args_parse(&spec, argc, argv, generations, err);
}

int main(int argc, char **argv)
{
    static struct frames frames = {
        .options = {.frames = 1000000, .seed = 1, .connections = 8, .growth_bytes = 32 << 20},
    };
    struct args_positionals generations;
    struct error err;
    switch (parse(&frames.options, argc, argv, &generations, &err)) {
    case ARGS_RUN:
        break;
    case ARGS_DONE:
        return 0;
    case ARGS_USAGE:
        fprintf(stderr, "soak_frames: %s\n", err.text);
        return 2;
    }
    if (frames_run(&frames, &generations, &err) == STATUS_OK)
        return 0;
    fprintf(stderr, "soak_frames: seed %" PRIu64 ": %s\n", frames.options.seed, err.text);
    return 1;
}
