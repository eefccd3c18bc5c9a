/*
 * http.h - nightjard's HTTP socket: for curl, monitors and programs without a client library.
 *
 *   GET /healthz   200 while a generation is live and queries end, 503 otherwise
 *   GET /metrics   Prometheus' text format
 *   GET /stats     the same as JSON
 *   POST /search   searches, see http_search.h
 *   POST /fetch    stored vectors by their keys, see http_fetch.h
 *
 * One thread of libmicrohttpd's does all but what engines do: a request that waits for the engine
 * is suspended and resumed by the worker that completes it, so no thread waits. Meant for
 * convenience; who wants every query a second speaks PROTOCOL.md.
 */
#ifndef NIGHTJAR_QUERY_HTTP_H
#define NIGHTJAR_QUERY_HTTP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "query/peer.h"
#include "query/server.h"
#include "query/serving.h"
#include "query/socket_path.h"
#include "query/stats.h"

enum {
    HTTP_CONNECTIONS_DEFAULT = 64, /* more wait to be accepted */
    HTTP_QUERIES_DEFAULT = 1024,   /* in flight, all connections; more are answered 503 */
    HTTP_IDLE_S_DEFAULT = 30,
    HTTP_DRAIN_MS_DEFAULT = 5000,
    HTTP_BODY_BYTES_MAX = PROTOCOL_FRAME_BYTES_MAX,
    HTTP_REQUEST_ID_MAX = 64, /* of an X-Request-Id; a longer one is not taken */
};

/* Zeroed storage of the caller's, which outlives the server and the HTTP socket. */
struct http_counters {
    _Atomic uint64_t requests, errors;
};
/* Any thread. */
void http_counters_get(const struct http_counters *counters, struct http_stats *out);

struct http_params {
    struct serving *serving;         /* borrowed, as all pointers here */
    struct server *server;           /* for server_stats_text() */
    struct socket_path *listener;    /* closed by http_destroy() */
    const struct peer_policy *peers; /* NULL: everyone who can connect; others get 403 */
    struct http_counters *counters;
    uint32_t connections_max; /* 0: default */
    uint32_t queries_max;     /* in flight; 0: default */
    uint32_t idle_s;     /* a connection on which nothing happens for so long is closed, but for one
                          * that waits for the engine; 0: default */
    uint32_t timeout_ms; /* of searches and fetches that give none; 0: none */
    uint32_t slow_ms;    /* those that take longer are logged; 0: none is */
    uint32_t drain_ms;   /* longest wait for clients at the end; 0: default */
    bool (*stuck)(void *context); /* whether queries no longer end; any thread; NULL: never */
    void *context;
};

struct http;

/* Starts to serve. The thread takes the signal mask of the caller. STATUS_UNSUPPORTED: this
 * libmicrohttpd lacks what it takes; STATUS_IO. */
NODISCARD enum status http_create(const struct http_params *params, struct http **out,
                                  struct error *err);

/* Stops accepting, waits for queries in flight, and at most drain_ms until their answers are sent;
 * then closes every connection. Before server_destroy() and serving_destroy(), whose engines must
 * still run. NULL is fine. */
void http_destroy(struct http *http);

#endif
