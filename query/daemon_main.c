/*
 * daemon_main.c - nightjard: opens a generation, starts the engine, serves it until told to stop.
 *
 * The order is deliberate. The socket path is probed first, so that a wrong one is reported before
 * gigabytes are loaded; it is bound only when the index is open, so that clients never wait for a
 * load, and before there are threads, because binding sets the umask. SIGTERM and SIGINT stay at
 * their default during the load (there is nothing to drain) and are then blocked before the engine
 * starts its threads, which inherit the mask, and read from a signalfd by the server's loop.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/args.h"
#include "common/error.h"
#include "common/log.h"
#include "layout/publish.h"
#include "query/engine.h"
#include "query/index.h"
#include "query/server.h"
#include "query/socket_path.h"

enum {
    PATH_BYTES = 4096,
    LISTEN_BACKLOG = 1024,
};

struct options {
    const char *root;
    const char *index;
    const char *socket;
    const char *io;
    uint64_t memory_bytes;
    uint32_t threads;
    uint32_t queue_limit;
    uint32_t connections_max;
};

/* Everything main owns, empty until made. */
struct daemon {
    struct index *index;
    struct engine *engine;
    struct socket_path listener;
    struct server *server;
    int stop_fd;
};

static enum args_result options_parse(struct options *options, int argc, char **argv)
{
    const struct args_option table[] = {
        {.name = "root",
         .kind = ARGS_STRING,
         .target = &options->root,
         .value_name = "ROOT",
         .help = "serve the generation that ROOT/current names"},
        {.name = "index",
         .kind = ARGS_STRING,
         .target = &options->index,
         .value_name = "GEN",
         .help = "serve this generation directory (instead of --root)"},
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &options->socket,
         .value_name = "PATH",
         .help = "Unix socket to listen on",
         .required = true},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &options->memory_bytes,
         .help = "memory for codes, navigation graph, lists and blocks"},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &options->threads,
         .max = 1024,
         .help = "search threads (default: one a CPU)"},
        {.name = "io",
         .kind = ARGS_STRING,
         .target = &options->io,
         .choices = "auto|uring|pool",
         .help = "how blocks are read"},
        {.name = "queue",
         .kind = ARGS_U32,
         .target = &options->queue_limit,
         .value_name = "N",
         .max = 1 << 20,
         .help = "queries that may wait before BUSY is answered (default: 4096)"},
        {.name = "max-connections",
         .kind = ARGS_U32,
         .target = &options->connections_max,
         .value_name = "N",
         .min = 1,
         .max = 1 << 20,
         .help = "clients connected at once"},
    };
    const struct args_spec spec = {.program = "nightjard",
                                   .summary = "serve a Nightjar index over a Unix socket",
                                   .options = table,
                                   .option_count = ARRAY_LENGTH(table)};
    struct error err;
    enum args_result result = args_parse(&spec, argc, argv, NULL, &err);
    if (result == ARGS_RUN && !options->root == !options->index) {
        error_set(&err, STATUS_INVALID, "%s --root and --index: give one of them",
                  options->root ? "both" : "neither");
        result = ARGS_USAGE;
    }
    if (result == ARGS_USAGE)
        fprintf(stderr, "%s: %s\n", spec.program, err.text);
    return result;
}

static enum block_io_kind io_kind(const char *word)
{
    if (strcmp(word, "uring") == 0)
        return BLOCK_IO_URING;
    return strcmp(word, "pool") == 0 ? BLOCK_IO_POOL : BLOCK_IO_AUTO;
}

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

static enum status index_load(const struct options *options, struct daemon *daemon,
                              struct error *err)
{
    char current[PATH_BYTES];
    const char *path = options->index;
    if (options->root) {
        enum status status = publish_current(options->root, current, sizeof(current), err);
        if (status != STATUS_OK)
            return status;
        path = current;
    }
    const struct index_options index_options = {.memory_bytes = options->memory_bytes};
    return index_open(path, &index_options, &daemon->index, err);
}

static enum status signals_take(int *out, struct error *err)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    int failure = pthread_sigmask(SIG_BLOCK, &stop, NULL);
    if (failure != 0)
        return error_set_os(err, failure, "cannot block signals");
    int fd = signalfd(-1, &stop, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return error_set_os(err, errno, "cannot create a signalfd");
    *out = fd;
    return STATUS_OK;
}

static void log_start(const struct daemon *daemon)
{
    const struct manifest *manifest = index_manifest(daemon->index);
    struct index_memory memory = index_memory_of(daemon->index);
    struct engine_stats engine;
    engine_stats_get(daemon->engine, &engine);
    log_info("start",
             "index=%s generation=%016" PRIx64 "%016" PRIx64 " vectors=%" PRIu64
             " dim=%u type=%s metric=%s threads=%u io=\"%s\" scalar_bits=%u code_bytes=%u"
             " codes_bytes=%" PRIu64 " navigation_bytes=%" PRIu64 " lists_bytes=%" PRIu64
             " cache_bytes=%" PRIu64 " hot_nodes=%" PRIu64 " cached_blocks=%" PRIu64
             " blocks=%" PRIu64 " resident=%s",
             index_path(daemon->index), manifest->generation_id.high, manifest->generation_id.low,
             manifest->vector_count, manifest->dim, element_name(manifest->type),
             metric_name(manifest->metric), engine.threads, engine.io, memory.scalar_bits,
             memory.code_bytes, memory.codes_bytes, memory.navigation_bytes, memory.lists_bytes,
             memory.cache_bytes, memory.hot_nodes, memory.cached_blocks, manifest->block_count,
             memory.resident ? "yes" : "no");
}

static enum status daemon_start(const struct options *options, struct daemon *daemon,
                                struct error *err)
{
    enum status status = socket_path_probe(options->socket, err);
    if (status == STATUS_OK)
        status = index_load(options, daemon, err);
    if (status == STATUS_OK)
        status = signals_take(&daemon->stop_fd, err);
    if (status == STATUS_OK)
        status = socket_path_listen(options->socket, LISTEN_BACKLOG, &daemon->listener, err);
    if (status != STATUS_OK)
        return status;
    const struct engine_params engine_params = {.threads = options->threads,
                                                .pin = true,
                                                .queue_limit = options->queue_limit,
                                                .io_kind = io_kind(options->io)};
    status = engine_create(&engine_params, daemon->index, &daemon->engine, err);
    if (status != STATUS_OK)
        return status;
    const struct server_params server_params = {.engine = daemon->engine,
                                                .listener = &daemon->listener,
                                                .stop_fd = daemon->stop_fd,
                                                .connections_max = options->connections_max};
    return server_create(&server_params, &daemon->server, err);
}

static void daemon_stop(struct daemon *daemon)
{
    engine_destroy(daemon->engine);
    server_destroy(daemon->server);
    socket_path_close(&daemon->listener);
    index_release(daemon->index);
    if (daemon->stop_fd >= 0)
        close(daemon->stop_fd);
}

int main(int argc, char **argv)
{
    struct options options = {.memory_bytes = UINT64_C(1) << 30,
                              .io = "auto",
                              .connections_max = SERVER_CONNECTIONS_DEFAULT};
    struct daemon daemon = {.listener.fd = -1, .stop_fd = -1};
    struct error err;
    switch (options_parse(&options, argc, argv)) {
    case ARGS_RUN:
        break;
    case ARGS_DONE:
        return 0;
    case ARGS_USAGE:
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    descriptors_raise(options.connections_max);
    enum status status = daemon_start(&options, &daemon, &err);
    if (status == STATUS_OK) {
        log_start(&daemon);
        log_info("ready", "socket=%s", options.socket);
        status = server_run(daemon.server, &err);
    }
    if (daemon.server && status == STATUS_OK) {
        struct server_stats stats;
        server_stats_get(daemon.server, &stats);
        log_info("stop", "queries=%" PRIu64 " connections=%" PRIu64 " uptime_ms=%" PRIu64,
                 stats.queries, stats.connections_accepted, stats.uptime_ns / 1000000);
    }
    daemon_stop(&daemon);
    if (status != STATUS_OK) {
        fprintf(stderr, "nightjard: %s\n", err.text);
        return 1;
    }
    return 0;
}
