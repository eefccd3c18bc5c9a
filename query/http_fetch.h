/*
 * http_fetch.h - the JSON of POST /fetch: requests in, answers out. Pure: no state, any thread.
 *
 *   {"key": 17, "timeout_ms": 100}  or "keys": [17, "18446744073709551615"] in place of "key",
 *   "vectors": false where only whether there are any is wanted
 *
 *   {"generation": "...", "trace_id": "...", "results": [
 *     {"key": 17, "found": true, "vector": [...]}, {"key": 18, "found": false}]}
 *
 * What is common to all POSTs, and bounds their text, is in http_json.h.
 */
#ifndef NIGHTJAR_QUERY_HTTP_FETCH_H
#define NIGHTJAR_QUERY_HTTP_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/element.h"
#include "common/error.h"
#include "query/engine.h"
#include "query/http_json.h"
#include "query/protocol.h"

enum {
    /* Keys * dim of an answer with vectors: 4 MiB of text, an element being at most 16 bytes with
     * its comma; as many numbers as hits of a search. */
    HTTP_FETCH_ELEMENTS_MAX = 1 << 18,
};

struct http_fetch {
    uint32_t key_count;
    uint64_t *keys;
    bool vectors;        /* not only whether there are any */
    uint32_t timeout_ms; /* 0: none was given */
};

/* Reads `length` bytes of JSON, which need no terminator. On success *out is for
 * http_fetch_free(). Of keys there may be as many as of `shape`'s queries, and as a FETCH frame
 * has. STATUS_INVALID or STATUS_NO_MEMORY otherwise, *out not written. */
NODISCARD enum status http_fetch_parse(const char *text, size_t length,
                                       const struct protocol_shape *shape, struct http_fetch *out,
                                       struct error *err);
void http_fetch_free(struct http_fetch *fetch);

/* What the queries of an answer have in common. */
struct http_fetch_context {
    struct http_json_origin origin;
    enum element_type type; /* in which vectors are given: the index's of queries */
    uint32_t dim;
};

/* Of queries that are over with STATUS_OK, in which those that fetched a vector still have it.
 * *text: malloc'd, the caller's. Keys are integers in full, and elements read back exactly.
 * STATUS_NO_MEMORY. */
NODISCARD enum status http_fetch_format(const struct http_fetch_context *context,
                                        const struct search_query *queries, uint32_t count,
                                        char **text, struct error *err);

#endif
