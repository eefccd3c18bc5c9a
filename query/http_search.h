/*
 * http_search.h - the JSON of POST /search: requests in, answers out. Pure: no state, any thread.
 *
 *   {"vector": [...], "k": 10, "search_list": 40, "search_ratio": 1.06, "beam_width": 0,
 *    "timeout_ms": 100}          or "vectors": [[...], ...] in place of "vector"
 *
 * A member that is not named here is refused, so that a misspelt one is not silently ignored.
 */
#ifndef NIGHTJAR_QUERY_HTTP_SEARCH_H
#define NIGHTJAR_QUERY_HTTP_SEARCH_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "query/engine.h"
#include "query/protocol.h"

enum {
    HTTP_SEARCH_K_DEFAULT = 10,
    HTTP_SEARCH_LIST_DEFAULT = 40, /* or k, where that is larger */
    /* The parser makes 64 bytes of each value, whose text may be two. Bulk goes by frames. */
    HTTP_SEARCH_VALUES_MAX = 1 << 20,
    HTTP_SEARCH_HITS_MAX = 1 << 18, /* queries * k: some 12 MB of text */
};

struct http_search {
    uint32_t query_count;
    uint32_t k;
    uint32_t search_list;
    uint32_t beam_width;
    float search_ratio;
    uint32_t timeout_ms; /* 0: none was given */
    void *vectors;       /* query_count * dim elements of the index's type */
};

/* Reads `length` bytes of JSON, which need no terminator. On success out->vectors is malloc'd, for
 * http_search_free(). Values are checked for the element type, counts against `shape`; k against L
 * and n, L, W and the ratio are engine_query_check()'s business. STATUS_INVALID or STATUS_NO_MEMORY
 * otherwise, *out not written. */
NODISCARD enum status http_search_parse(const char *text, size_t length,
                                        const struct protocol_shape *shape, struct http_search *out,
                                        struct error *err);
void http_search_free(struct http_search *search);

/* What an answer says beside its queries' results. */
struct http_search_origin {
    uint64_t generation_low, generation_high;
    uint64_t trace_id;
};

/* *text: malloc'd, the caller's. Keys are integers in full: a reader whose numbers are doubles
 * loses what is beyond 2^53, not we. STATUS_NO_MEMORY. */
NODISCARD enum status http_search_format(const struct http_search_origin *origin,
                                         const struct search_query *queries, uint32_t count,
                                         char **text, struct error *err);

/* {"error":"...","status":"busy"}, malloc'd; NULL when out of memory. */
char *http_error_format(enum status status, const char *text);

#endif
