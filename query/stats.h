/*
 * stats.h - all there is to know of a running daemon, and its two texts: JSON for people and tools
 * (STATS_OK, `nightjar stats`, `nightjar top`), and Prometheus' exposition format for monitors.
 */
#ifndef NIGHTJAR_QUERY_STATS_H
#define NIGHTJAR_QUERY_STATS_H

#include "common/error.h"
#include "layout/attributes.h"
#include "layout/manifest.h"
#include "query/index.h"
#include "query/server.h"
#include "query/serving.h"

/* Of the HTTP socket; zeros when there is none. */
struct http_stats {
    uint64_t requests;
    uint64_t errors; /* of these, answered with a status of 400 or more */
};

struct stats {
    const char *name;                    /* of the live generation's directory; borrowed */
    const struct manifest *manifest;     /* of the live generation; borrowed */
    const struct attributes *attributes; /* likewise; NULL: not told */
    struct index_memory memory;
    struct proof proof;
    struct serving_stats serving; /* the engine's counters are there */
    struct server_stats server;
    struct http_stats http;
    uint64_t resident_bytes, peak_resident_bytes; /* of the process */
};

/* *text: malloc'd, NUL-terminated, the caller's to free. JSON is one line; its keys are documented
 * in PROTOCOL.md and may be added to, never renamed; so are Prometheus' names. Thread-safe.
 * STATUS_NO_MEMORY is the only failure. */
NODISCARD enum status stats_json_format(const struct stats *stats, char **text, struct error *err);
NODISCARD enum status stats_prometheus_format(const struct stats *stats, char **text,
                                              struct error *err);

#endif
