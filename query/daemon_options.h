/*
 * daemon_options.h - nightjard's command line.
 */
#ifndef NIGHTJAR_QUERY_DAEMON_OPTIONS_H
#define NIGHTJAR_QUERY_DAEMON_OPTIONS_H

#include "common/args.h"
#include "query/peer.h"
#include "query/serving.h"
#include "query/socket_path.h"

struct daemon_options {
    const char *root;
    const char *index;
    const char *socket;      /* NULL: the service manager hands one over */
    const char *http_socket; /* NULL: none, unless handed over */
    uint64_t memory_bytes;
    uint32_t threads;
    uint32_t queue_limit;
    uint32_t connections_max;
    uint32_t timeout_ms;
    uint32_t read_timeout_ms;
    uint32_t stall_ms;
    uint32_t slow_ms;
    enum serving_swap swap;
    enum block_io_kind io;
    struct socket_path_options socket_options;
    struct peer_policy peers;
};

/* Fills *options; prints help, version or the error itself. Called once, before there are threads.
 */
enum args_result daemon_options_parse(struct daemon_options *options, int argc, char **argv);

#endif
