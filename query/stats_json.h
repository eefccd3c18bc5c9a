/*
 * stats_json.h - the daemon's statistics as JSON text, for STATS_OK and `nightjar stats`.
 */
#ifndef NIGHTJAR_QUERY_STATS_JSON_H
#define NIGHTJAR_QUERY_STATS_JSON_H

#include "common/error.h"
#include "layout/manifest.h"
#include "query/engine.h"
#include "query/index.h"
#include "query/server.h"

struct stats_json {
    const struct manifest *manifest; /* of the generation served; borrowed */
    struct index_memory memory;
    struct engine_stats engine;
    struct server_stats server;
};

/* *json: one line, malloc'd, NUL-terminated, the caller's to free. Keys are documented in
 * PROTOCOL.md; they may be added to, never renamed. Thread-safe. STATUS_NO_MEMORY is the only
 * failure. */
NODISCARD enum status stats_json_format(const struct stats_json *stats, char **json,
                                        struct error *err);

#endif
