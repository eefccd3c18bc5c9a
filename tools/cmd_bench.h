/*
 * cmd_bench.h - the parts of `nightjar bench`: cmd_bench.c parses and reports, cmd_bench_local.c
 * drives an engine in this process, cmd_bench_socket.c a daemon.
 */
#ifndef NIGHTJAR_TOOLS_CMD_BENCH_H
#define NIGHTJAR_TOOLS_CMD_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "query/client.h"
#include "query/engine.h"
#include "tools/cmd.h"
#include "tools/latency.h"
#include "tools/recall.h"

/* One point of the curve: every query runs once, then again from the first, until min_ns. */
struct bench_plan {
    const struct cmd_queries *queries;
    const struct cmd_search_options *common; /* k, beam width, filter, radius, recall target */
    uint32_t search_list;
    float search_ratio;
    uint32_t concurrency; /* queries in flight; with a rate, at most */
    double rate;          /* queries a second, arriving at random; 0: as fast as they complete */
    uint64_t min_ns;
    struct recall_answers *answers; /* of the first pass; NULL: not wanted, and no pass is needed */
};

struct bench_sums {
    uint64_t reads;
    uint64_t cache_hits;
    uint64_t cpu_ns;
    uint64_t degraded;
    /* Not told by a daemon: */
    uint64_t shared_reads;
    uint64_t hops;
    uint64_t code_distances;
    uint64_t exact_distances;
};

struct bench_result {
    struct latency latency; /* submission to completion as the client sees it */
    struct bench_sums sums;
    struct client_chosen chosen; /* zeros where a daemon was asked nothing that it tells it for */
    uint64_t elapsed_ns;
};

/* Adds `from`'s latencies and sums (not its elapsed_ns) to `to`, and takes what was chosen. */
void bench_result_merge(struct bench_result *to, const struct bench_result *from);

/* The queries of a run are numbered from 0: number n is query n % count. A number is still to be
 * run while the first pass is incomplete or time is left. */
bool bench_wants(const struct bench_plan *plan, uint64_t number, uint64_t end_ns, uint64_t now_ns);

/* Runs the plan with `concurrency` queries in flight on the engine. A completion submits the next
 * query from the worker it happens on, so no other thread takes part. With a rate the calling
 * thread submits them at the times of a seeded Poisson process, and latency runs from the time a
 * query was due, whether or not it could be submitted then. */
NODISCARD enum status bench_local_run(struct engine *engine, const struct bench_plan *plan,
                                      struct bench_result *result, struct error *err);

/* Connections to a daemon, kept from one run to the next. */
enum { BENCH_CONNECTIONS_MAX = 64 };
struct bench_socket {
    const char *path;
    uint32_t count;
    struct client *clients[BENCH_CONNECTIONS_MAX];
};
/* Opens min(concurrency, BENCH_CONNECTIONS_MAX) connections to common->socket, which must be able
 * to do what is asked. */
NODISCARD enum status bench_socket_open(const struct cmd_search_options *common,
                                        uint32_t concurrency, struct bench_socket *out,
                                        struct error *err);
void bench_socket_close(struct bench_socket *self);

/* Runs the plan with one thread a connection. Queries in flight are spread over the connections:
 * one each, and pipelined only beyond BENCH_CONNECTIONS_MAX. */
NODISCARD enum status bench_socket_run(struct bench_socket *self, const struct bench_plan *plan,
                                       struct bench_result *result, struct error *err);

#endif
