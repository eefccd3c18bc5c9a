/*
 * server.h - nightjard's socket side: connections, frames, flow control and answers.
 *
 * One thread, the caller of server_run(), accepts, reads and parses under epoll; the engine's
 * workers send the answers. PROTOCOL.md is what is spoken. What is served is serving.h's business:
 * each request holds the generation that is live when it is complete until it is answered.
 */
#ifndef NIGHTJAR_QUERY_SERVER_H
#define NIGHTJAR_QUERY_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "query/peer.h"
#include "query/protocol.h"
#include "query/serving.h"
#include "query/socket_path.h"

enum {
    SERVER_CONNECTIONS_DEFAULT = 1024,
    SERVER_DESCRIPTORS_BESIDE = 256, /* those that are no connections: index files, rings, eventfds,
                                      * logs; generous */
    SERVER_WINDOW_DEFAULT = 1024,
    SERVER_OUTPUT_BYTES_DEFAULT = 64 << 20,
    SERVER_OUTPUT_TOTAL_DEFAULT = 256 << 20,
    SERVER_STALL_MS_DEFAULT = 30000,
    SERVER_DRAIN_MS_DEFAULT = 5000,
    SERVER_STATUS_COUNT = STATUS_DENIED + 1,
};

struct http_counters;

struct server_params {
    struct serving *serving;      /* borrowed; see server_destroy() */
    struct socket_path *listener; /* borrowed; closed when a drain begins */
    int stop_fd;   /* borrowed; when it becomes readable (signalfd, eventfd) the server drains */
    int reload_fd; /* borrowed; when it becomes readable (signalfd) ROOT/current is looked at; -1:
                    * none */
    const struct peer_policy *peers; /* who may connect; borrowed; NULL: everyone who can */
    uint32_t connections_max;        /* 0: default; one more gets ERROR BUSY and is closed */
    uint32_t window;                 /* queries in flight a connection; 0: default */
    size_t output_bytes_max; /* unread answers a connection; beyond it is closed. 0: default */
    size_t output_total_max; /* of all; beyond, those that are behind are closed. 0: default */
    uint32_t stall_ms;   /* a connection that neither takes an answer nor completes a frame for so
                          * long is closed; 0: default */
    uint32_t timeout_ms; /* of requests that give none; 0: none */
    uint32_t slow_ms;    /* requests that take longer are logged; 0: none is */
    uint32_t drain_ms;   /* longest drain; 0: default */
    const struct http_counters *http; /* http.h's, for server_stats_text(); borrowed; NULL: none */
    void (*on_tick)(void *context);   /* called about once a second by server_run(); NULL */
    void *context;
};

struct server;

/* Makes the epoll instance and registers the listener; accepts nothing yet. */
NODISCARD enum status server_create(const struct server_params *params, struct server **out,
                                    struct error *err);

/* Serves until stop_fd is readable, then drains: stops accepting (the socket file goes) and
 * reading, waits for queries in flight and until their answers are sent, at most drain_ms. Returns
 * STATUS_OK after a drain, complete or not; a failing epoll is STATUS_IO. Called once. */
NODISCARD enum status server_run(struct server *server, struct error *err);

/* Waits for queries in flight (engines still answer into the server), then frees. Not beside
 * server_run(). Of the two, serving_destroy() comes first: it answers whoever waits for a reload.
 * NULL is fine. */
void server_destroy(struct server *server);

/* Counters since start, and gauges. */
struct server_stats {
    uint64_t uptime_ns;
    uint32_t connections;        /* gauge */
    uint32_t requests_in_flight; /* gauge: SEARCH and FETCH frames, those being received included */
    uint64_t connections_accepted;
    uint64_t connections_refused; /* over connections_max */
    uint64_t connections_denied;  /* not allowed by server_params.peers */
    uint64_t connections_broken;  /* closed by us: malformed header, unread answers, stalled */
    uint64_t output_bytes;        /* gauge: answers that sockets did not take yet */
    uint64_t accept_failures;     /* out of descriptors or memory; retried */
    uint64_t requests;            /* frames received */
    uint64_t queries;             /* submitted to the engine */
    uint64_t pauses;              /* connections not read for a while, their window being full */
    uint64_t bytes_in, bytes_out;
    uint64_t errors[SERVER_STATUS_COUNT]; /* ERROR frames by status */
};
/* Any thread. Counters are read one by one, not as a snapshot. */
void server_stats_get(struct server *server, struct server_stats *out);

/* All there is to know of the daemon as text, malloc'd, NUL-terminated, the caller's to free:
 * PROTOCOL_STATS_JSON or _PROMETHEUS. STATUS_NO_MEMORY; STATUS_BUSY when nothing is live. Any
 * thread. */
NODISCARD enum status server_stats_text(struct server *server, enum protocol_stats_format format,
                                        char **text, struct error *err);

#endif
