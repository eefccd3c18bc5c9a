/*
 * daemon_options.c - see daemon_options.h. Owns the names, defaults and checks of the options.
 */
#include "query/daemon_options.h"

#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "query/server.h"

/* Words as given, before they are understood. */
struct words {
    const char *io;
    const char *swap;
    const char *socket_mode;
    const char *socket_group;
    const char *allow;
};

static enum args_result options_scan(struct daemon_options *options, struct words *words, int argc,
                                     char **argv, struct error *err)
{
    const struct args_option table[] = {
        {.name = "root",
         .kind = ARGS_STRING,
         .target = &options->root,
         .value_name = "ROOT",
         .help = "serve the generation that ROOT/current names, and the next when it changes"},
        {.name = "index",
         .kind = ARGS_STRING,
         .target = &options->index,
         .value_name = "GEN",
         .help = "serve this generation directory (instead of --root)"},
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &options->socket,
         .value_name = "PATH",
         .help = "Unix socket to listen on (or one handed over by the service manager)"},
        {.name = "http-socket",
         .kind = ARGS_STRING,
         .target = &options->http_socket,
         .value_name = "PATH",
         .help =
             "Unix socket for HTTP: GET /healthz, /metrics, /stats; POST /search, /fetch (default: "
             "none)"},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &options->memory_bytes,
         .help = "memory for codes, navigation graph, lists and blocks, of both generations while "
                 "there are two"},
        {.name = "swap",
         .kind = ARGS_STRING,
         .target = &words->swap,
         .choices = "overlap|replace",
         .help = "overlap: each generation has half of --memory, and no query waits; replace: one "
                 "has all, and queries are refused (BUSY) while the next is opened"},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &options->threads,
         .max = 1024,
         .help = "search threads (default: one a CPU)"},
        {.name = "io",
         .kind = ARGS_STRING,
         .target = &words->io,
         .choices = "auto|uring|pool",
         .help = "how blocks are read"},
        {.name = "read-timeout-ms",
         .kind = ARGS_U32,
         .target = &options->read_timeout_ms,
         .value_name = "MS",
         .min = 1,
         .max = 600000,
         .help = "give up a block that takes longer; the answer is then degraded"},
        {.name = "timeout-ms",
         .kind = ARGS_U32,
         .target = &options->timeout_ms,
         .value_name = "MS",
         .help = "time for requests that name none (default: no limit)"},
        {.name = "slow-ms",
         .kind = ARGS_U32,
         .target = &options->slow_ms,
         .value_name = "MS",
         .help = "log requests that take longer (default: none)"},
        {.name = "queue",
         .kind = ARGS_U32,
         .target = &options->queue_limit,
         .value_name = "N",
         .max = 1 << 20,
         .help = "queries that may wait before BUSY is answered, and most of a request (default: "
                 "4096)"},
        {.name = "max-connections",
         .kind = ARGS_U32,
         .target = &options->connections_max,
         .value_name = "N",
         .min = 1,
         .max = 1 << 20,
         .help = "clients connected at once"},
        {.name = "stall-ms",
         .kind = ARGS_U32,
         .target = &options->stall_ms,
         .value_name = "MS",
         .min = 1,
         .help = "cut off clients that take so long to send a frame or to read an answer"},
        {.name = "socket-mode",
         .kind = ARGS_STRING,
         .target = &words->socket_mode,
         .value_name = "MODE",
         .help = "permissions of the socket file, octal: who may connect"},
        {.name = "socket-group",
         .kind = ARGS_STRING,
         .target = &words->socket_group,
         .value_name = "GROUP",
         .help = "group of the socket file"},
        {.name = "allow",
         .kind = ARGS_STRING,
         .target = &words->allow,
         .value_name = "LIST",
         .help = "who may connect: users and @groups, by name or number, as in alice,1001,@search "
                 "(default: everyone whom the socket file lets)"},
    };
    const struct args_spec spec = {
        .program = "nightjard",
        .summary = "serve a Nightjar index over a Unix socket",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "SIGHUP looks at ROOT/current again; SIGTERM answers what is in flight and ends.",
    };
    return args_parse(&spec, argc, argv, NULL, err);
}

static enum block_io_kind io_kind(const char *word)
{
    if (strcmp(word, "uring") == 0)
        return BLOCK_IO_URING;
    return strcmp(word, "pool") == 0 ? BLOCK_IO_POOL : BLOCK_IO_AUTO;
}

static enum status mode_parse(const char *word, mode_t *out, struct error *err)
{
    char *end;
    unsigned long mode = strtoul(word, &end, 8);
    if (*end != '\0' || word[0] < '0' || word[0] > '7' || mode > 0777 || (mode & 0600) != 0600)
        return error_set(err, STATUS_INVALID,
                         "--socket-mode %s: want octal permissions with 0600 among them", word);
    *out = (mode_t)mode;
    return STATUS_OK;
}

static enum status group_parse(const char *word, gid_t *out, struct error *err)
{
    char *end;
    unsigned long number = strtoul(word, &end, 10);
    const struct group *group = getgrnam(word);
    if (group) {
        *out = group->gr_gid;
        return STATUS_OK;
    }
    if (*end != '\0' || word[0] < '0' || word[0] > '9' || number >= UINT32_MAX)
        return error_set(err, STATUS_NOT_FOUND, "--socket-group %s: no such group", word);
    *out = (gid_t)number;
    return STATUS_OK;
}

static enum status words_understand(struct daemon_options *options, const struct words *words,
                                    struct error *err)
{
    options->io = io_kind(words->io);
    options->swap = strcmp(words->swap, "replace") == 0 ? SERVING_REPLACE : SERVING_OVERLAP;
    if (!options->root == !options->index)
        return error_set(err, STATUS_INVALID, "%s --root and --index: give one of them",
                         options->root ? "both" : "neither");
    if (!options->socket && !getenv("LISTEN_FDS"))
        return error_set(err, STATUS_INVALID, "--socket is missing");
    enum status status = STATUS_OK;
    if (words->socket_mode)
        status = mode_parse(words->socket_mode, &options->socket_options.mode, err);
    if (status == STATUS_OK && words->socket_group)
        status = group_parse(words->socket_group, &options->socket_options.group, err);
    if (status == STATUS_OK && words->allow)
        status = peer_policy_parse(words->allow, &options->peers, err);
    return status;
}

enum args_result daemon_options_parse(struct daemon_options *options, int argc, char **argv)
{
    *options = (struct daemon_options){
        .memory_bytes = UINT64_C(1) << 30,
        .connections_max = SERVER_CONNECTIONS_DEFAULT,
        .stall_ms = SERVER_STALL_MS_DEFAULT,
        .read_timeout_ms = 1000,
        .socket_options.group = SOCKET_PATH_GROUP_KEPT,
    };
    struct words words = {.io = "auto", .swap = "overlap"};
    struct error err;
    enum args_result result = options_scan(options, &words, argc, argv, &err);
    if (result == ARGS_RUN && words_understand(options, &words, &err) != STATUS_OK)
        result = ARGS_USAGE;
    if (result == ARGS_USAGE)
        fprintf(stderr, "nightjard: %s\n", err.text);
    return result;
}
