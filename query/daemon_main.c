/*
 * daemon_main.c - nightjard: opens what is to be served, and serves it until told to stop.
 *
 * The order is deliberate. The socket path is probed first, so that a wrong one is reported before
 * gigabytes are loaded; it is bound only when the index is open, so that clients never wait for a
 * load. Signals are read from signalfds by the server's loop. SIGHUP is blocked before there are
 * threads, so that one during the load waits for its end; SIGTERM and SIGINT only after it, so that
 * they end a load at once: there is nothing yet to end in order. The threads that then run have
 * them blocked (serving.h).
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "query/daemon_options.h"
#include "query/http.h"
#include "query/server.h"
#include "query/serving.h"
#include "query/supervisor.h"

enum {
    LISTEN_BACKLOG = 1024,
    SOCKETS_MAX = 2,                /* handed over: for searches, for HTTP */
    STUCK_NS_PER_READ_TIMEOUT = 10, /* see progress_look() */
};

/* Everything main owns, empty until made. */
struct daemon {
    struct daemon_options options;
    struct serving *serving;
    struct socket_path listener;
    struct server *server;
    struct socket_path http_listener;
    struct http_counters http_counters;
    struct http *http; /* NULL: none is wanted */
    int stop_fd, reload_fd;
    /* the service manager's */
    uint64_t watchdog_ns; /* between two signs of life; 0: none wanted */
    uint64_t signed_ns;   /* when the last was given */
    char told_name[NAME_MAX + 1];
    /* whether queries end */
    uint64_t queries;     /* completed when last looked at */
    uint64_t progress_ns; /* when that last changed, or nothing was in flight */
    _Atomic bool stuck;
};

/* Each connection is a descriptor, and the usual soft limit is 1024. */
static void descriptors_raise(uint32_t connections_max)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections_max + SERVER_DESCRIPTORS_BESIDE;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    rlim_t hard = limit.rlim_max;
    limit.rlim_cur = MIN(wanted, hard);
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < wanted)
        log_warn("descriptors-low", "limit=%" PRIu64 " wanted=%" PRIu64, (uint64_t)limit.rlim_cur,
                 (uint64_t)wanted);
}

/* A descriptor that becomes readable for these signals, from now on blocked; 0 ends the list. */
static enum status signals_take(const int *signals, int *out, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    for (; *signals; signals++)
        sigaddset(&set, *signals);
    int failure = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (failure != 0)
        return error_set_os(err, failure, "cannot block signals");
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return error_set_os(err, errno, "cannot create a signalfd");
    *out = fd;
    return STATUS_OK;
}

/* ---- the service manager ---- */

/* It is told on a best effort: what it does not hear it finds out by itself. */
static void tell(const char *state)
{
    struct error err;
    if (supervisor_notify(state, &err) != STATUS_OK)
        log_warn("not-notified", "error=\"%s\"", err.text);
}

static void tell_serving(struct daemon *daemon, const char *state)
{
    char text[NAME_MAX + 128];
    struct served *served = serving_acquire(daemon->serving);
    const char *name = served ? served->name : "nothing: the next generation is being opened";
    if (strcmp(daemon->told_name, name) != 0) {
        snprintf(daemon->told_name, sizeof(daemon->told_name), "%s", name);
        snprintf(text, sizeof(text), "%sSTATUS=serving %s", state, name);
        tell(text);
    }
    if (served)
        served_release(served);
}

/* A read ends by its timeout if by nothing else, so queries that are in flight while none has ended
 * for many such times are stuck. */
static void progress_look(struct daemon *daemon, uint64_t now_ns)
{
    struct serving_stats stats;
    serving_stats_get(daemon->serving, &stats);
    uint64_t patience_ns = daemon->watchdog_ns + (uint64_t)daemon->options.read_timeout_ms *
                                                     1000000 * STUCK_NS_PER_READ_TIMEOUT;
    if (stats.engine.queries != daemon->queries || stats.engine.in_flight == 0)
        daemon->progress_ns = now_ns;
    daemon->queries = stats.engine.queries;
    atomic_store_explicit(&daemon->stuck, now_ns - daemon->progress_ns >= patience_ns,
                          memory_order_relaxed);
}

/* Any thread. */
static bool is_stuck(void *context)
{
    struct daemon *daemon = context;
    return atomic_load_explicit(&daemon->stuck, memory_order_relaxed);
}

/* On the server's thread. */
static void on_tick(void *context)
{
    struct daemon *daemon = context;
    uint64_t now_ns = clock_monotonic_ns();
    tell_serving(daemon, "");
    progress_look(daemon, now_ns);
    /* A sign of life means that queries come to an end, not only that this thread runs. */
    if (daemon->watchdog_ns == 0 || is_stuck(daemon) ||
        now_ns - daemon->signed_ns < daemon->watchdog_ns / 2)
        return;
    daemon->signed_ns = now_ns;
    tell("WATCHDOG=1");
}

/* ---- start ---- */

static void log_start(const struct daemon *daemon)
{
    struct served *served = serving_acquire(daemon->serving);
    const struct manifest *manifest = served->manifest;
    struct index_memory memory = index_memory_of(served->index);
    struct serving_stats serving;
    serving_stats_get(daemon->serving, &serving);
    log_info("start",
             "index=%s generation=%016" PRIx64 "%016" PRIx64 " vectors=%" PRIu64
             " dim=%u type=%s metric=%s threads=%u io=\"%s\" swap=%s memory_bytes=%" PRIu64
             " generation_memory_bytes=%" PRIu64 " scalar_bits=%u code_bytes=%u"
             " codes_bytes=%" PRIu64 " navigation_bytes=%" PRIu64 " keys_bytes=%" PRIu64
             " attributes_bytes=%" PRIu64 " lists_bytes=%" PRIu64 " cache_bytes=%" PRIu64
             " hot_nodes=%" PRIu64 " cached_blocks=%" PRIu64 " blocks=%" PRIu64
             " resident=%s open_ms=%" PRIu64,
             index_path(served->index), manifest->generation_id.high, manifest->generation_id.low,
             manifest->vector_count, manifest->dim, element_name(manifest->type),
             metric_name(manifest->metric), serving.engine.threads, serving.engine.io,
             serving.fixed ? "fixed" : serving_swap_name(serving.swap),
             daemon->options.memory_bytes, serving.memory_bytes, memory.scalar_bits,
             memory.code_bytes, memory.codes_bytes, memory.navigation_bytes, memory.keys_bytes,
             memory.attributes_bytes, memory.lists_bytes, memory.cache_bytes, memory.hot_nodes,
             memory.cached_blocks, manifest->block_count, memory.resident ? "yes" : "no",
             serving.load_ns / 1000000);
    served_release(served);
}

/* What the service manager hands over; NULL where it does not. */
struct handed {
    struct supervisor_fd fds[SOCKETS_MAX];
    const struct supervisor_fd *search, *http;
};

/* The socket of the service manager, or one of our own. */
static enum status listener_open(const struct daemon *daemon, const struct supervisor_fd *handed,
                                 const char *path, struct socket_path *out, struct error *err)
{
    if (handed)
        return socket_path_adopt(handed->fd, out, err);
    return socket_path_listen(path, &daemon->options.socket_options, LISTEN_BACKLOG, out, err);
}

/* A socket that is handed over and one that is to be made are one too many. Where it is to be made,
 * it must be possible. */
static enum status socket_check(const char *option, const char *path,
                                const struct supervisor_fd *handed, struct error *err)
{
    if (handed && path)
        return error_set(err, STATUS_INVALID,
                         "%s %s, but the service manager hands over a socket too", option, path);
    return path ? socket_path_probe(path, err) : STATUS_OK;
}

/* Which handed-over socket is for what: "http" by its name; for searches the only other one, or the
 * one that is called "search". */
static enum status sockets_take(struct daemon *daemon, struct handed *handed, struct error *err)
{
    const struct daemon_options *options = &daemon->options;
    uint32_t count = 0, others = 0;
    enum status status = supervisor_listen_fds(handed->fds, SOCKETS_MAX, &count, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; i < count; i++)
        others += strcmp(handed->fds[i].name, "http") != 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct supervisor_fd *fd = &handed->fds[i];
        if (strcmp(fd->name, "http") == 0)
            handed->http = fd;
        else if (others == 1 || strcmp(fd->name, "search") == 0)
            handed->search = fd;
    }
    if (others > 0 && !handed->search)
        return error_set(err, STATUS_INVALID,
                         "none of the sockets handed over is called \"search\"");
    if (!handed->search && !options->socket)
        return error_set(err, STATUS_INVALID, "no socket: give --socket PATH");
    status = socket_check("--socket", options->socket, handed->search, err);
    if (status == STATUS_OK)
        status = socket_check("--http-socket", options->http_socket, handed->http, err);
    return status;
}

static enum status serving_start(struct daemon *daemon, struct error *err)
{
    const struct daemon_options *options = &daemon->options;
    const struct serving_params params = {
        .root = options->root,
        .index = options->index,
        .memory_bytes = options->memory_bytes,
        .swap = options->swap,
        .engine = {.threads = options->threads,
                   .pin = true,
                   .queue_limit = options->queue_limit,
                   .read_timeout_ms = options->read_timeout_ms,
                   .io_kind = options->io},
    };
    return serving_create(&params, &daemon->serving, err);
}

/* What an idle daemon may be asked at a time: more queries than may wait would be BUSY for ever,
 * and clients go by what they are told. */
static uint32_t window_of(const struct daemon_options *options)
{
    const uint32_t window = SERVER_WINDOW_DEFAULT;
    return options->queue_limit ? MIN(options->queue_limit, window) : window;
}

static enum status server_start(struct daemon *daemon, struct error *err)
{
    const struct daemon_options *options = &daemon->options;
    const struct server_params params = {
        .serving = daemon->serving,
        .listener = &daemon->listener,
        .stop_fd = daemon->stop_fd,
        .reload_fd = daemon->reload_fd,
        .peers = &options->peers,
        .connections_max = options->connections_max,
        .window = window_of(options),
        .stall_ms = options->stall_ms,
        .timeout_ms = options->timeout_ms,
        .slow_ms = options->slow_ms,
        .http = &daemon->http_counters,
        .on_tick = on_tick,
        .context = daemon,
    };
    return server_create(&params, &daemon->server, err);
}

/* Where it is wanted. */
static enum status http_start(struct daemon *daemon, const struct supervisor_fd *handed,
                              struct error *err)
{
    const struct daemon_options *options = &daemon->options;
    if (!handed && !options->http_socket)
        return STATUS_OK;
    const struct http_params params = {
        .serving = daemon->serving,
        .server = daemon->server,
        .listener = &daemon->http_listener,
        .peers = &options->peers,
        .counters = &daemon->http_counters,
        .queries_max = window_of(options),
        .timeout_ms = options->timeout_ms,
        .slow_ms = options->slow_ms,
        .stuck = is_stuck,
        .context = daemon,
    };
    enum status status =
        listener_open(daemon, handed, options->http_socket, &daemon->http_listener, err);
    return status == STATUS_OK ? http_create(&params, &daemon->http, err) : status;
}

static enum status daemon_start(struct daemon *daemon, struct error *err)
{
    static const int stop[] = {SIGTERM, SIGINT, 0}, reload[] = {SIGHUP, 0};
    struct handed handed = {0};
    enum status status = sockets_take(daemon, &handed, err);
    if (status == STATUS_OK)
        status = signals_take(reload, &daemon->reload_fd, err);
    if (status == STATUS_OK)
        status = serving_start(daemon, err);
    if (status == STATUS_OK)
        status = signals_take(stop, &daemon->stop_fd, err);
    if (status == STATUS_OK)
        status =
            listener_open(daemon, handed.search, daemon->options.socket, &daemon->listener, err);
    if (status == STATUS_OK)
        status = server_start(daemon, err);
    if (status == STATUS_OK)
        status = http_start(daemon, handed.http, err);
    return status;
}

/* A generation that is being opened would be waited for, perhaps for minutes. Nothing that is held
 * outlasts the process but the socket's file. */
static bool daemon_leaves(const struct daemon *daemon)
{
    struct serving_stats stats = {0};
    if (daemon->serving)
        serving_stats_get(daemon->serving, &stats);
    return stats.loading;
}

/* At the end of the program. */
static void daemon_stop(struct daemon *daemon)
{
    http_destroy(daemon->http);
    socket_path_close(&daemon->http_listener);
    socket_path_close(&daemon->listener);
    if (daemon_leaves(daemon))
        return;
    serving_destroy(daemon->serving);
    server_destroy(daemon->server);
    if (daemon->stop_fd >= 0)
        close(daemon->stop_fd);
    if (daemon->reload_fd >= 0)
        close(daemon->reload_fd);
}

static enum status daemon_run(struct daemon *daemon, struct error *err)
{
    daemon->watchdog_ns = supervisor_watchdog_ns();
    daemon->progress_ns = clock_monotonic_ns();
    log_start(daemon);
    log_info("ready", "socket=%s http_socket=%s",
             daemon->options.socket ? daemon->options.socket : "handed-over",
             !daemon->http                 ? "none"
             : daemon->options.http_socket ? daemon->options.http_socket
                                           : "handed-over");
    tell_serving(daemon, "READY=1\n");
    enum status status = server_run(daemon->server, err);
    tell("STOPPING=1");
    if (status != STATUS_OK)
        return status;
    struct server_stats stats;
    server_stats_get(daemon->server, &stats);
    log_info("stop", "queries=%" PRIu64 " connections=%" PRIu64 " uptime_ms=%" PRIu64,
             stats.queries, stats.connections_accepted, stats.uptime_ns / 1000000);
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    struct daemon daemon = {
        .listener.fd = -1, .http_listener.fd = -1, .stop_fd = -1, .reload_fd = -1};
    struct error err;
    switch (daemon_options_parse(&daemon.options, argc, argv)) {
    case ARGS_RUN:
        break;
    case ARGS_DONE:
        return 0;
    case ARGS_USAGE:
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    descriptors_raise(daemon.options.connections_max);
    enum status status = daemon_start(&daemon, &err);
    if (status == STATUS_OK)
        status = daemon_run(&daemon, &err);
    daemon_stop(&daemon);
    if (status != STATUS_OK) {
        fprintf(stderr, "nightjard: %s\n", err.text);
        return 1;
    }
    return 0;
}
