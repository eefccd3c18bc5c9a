/*
 * http_search.h - the JSON of POST /search: requests in, answers out. Pure: no state, any thread.
 *
 *   {"vector": [...], "k": 10, "search_list": 40, "search_ratio": 1.06, "beam_width": 0,
 *    "timeout_ms": 100}          or "vectors": [[...], ...] in place of "vector"
 *
 * and beside that
 *
 *   "key": 17 or "keys": [17, "18446744073709551615"] in place of vectors: those of the index
 *   "filter": "year >= 2015", "radius": 0.5, "recall": 0.95 in place of search_list, search_ratio
 *   "after": null for the first page, then what the answer's "next" is; of many queries an array
 *
 * What is common to all POSTs, and bounds their text, is in http_json.h.
 */
#ifndef NIGHTJAR_QUERY_HTTP_SEARCH_H
#define NIGHTJAR_QUERY_HTTP_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "query/engine.h"
#include "query/http_json.h"
#include "query/protocol.h"
#include "query/question.h"

enum {
    HTTP_SEARCH_K_DEFAULT = 10,
    HTTP_SEARCH_LIST_DEFAULT = 40,  /* or k, where that is larger */
    HTTP_SEARCH_HITS_MAX = 1 << 18, /* queries * k: some 12 MB of text */
};

struct http_search {
    uint32_t query_count;
    uint32_t k;
    uint32_t search_list;
    uint32_t beam_width;
    float search_ratio;
    uint32_t timeout_ms; /* 0: none was given */
    void *vectors;       /* query_count * dim elements of the index's type; NULL with keys */
    uint64_t *keys;      /* query_count; NULL with vectors */
    char *filter;        /* NULL: none; not empty */
    bool within_radius;
    float radius;
    float recall_target;        /* 0: none; search_list and search_ratio are 0 with one */
    struct search_after *after; /* query_count; NULL: no pages */
};

/* Reads `length` bytes of JSON, which need no terminator. On success *out is for
 * http_search_free(). Values are checked for the element type, counts against `shape`; k against L
 * and n, L, W and the ratio are engine_query_check()'s business. STATUS_INVALID or STATUS_NO_MEMORY
 * otherwise, *out not written. */
NODISCARD enum status http_search_parse(const char *text, size_t length,
                                        const struct protocol_shape *shape, struct http_search *out,
                                        struct error *err);
void http_search_free(struct http_search *search);

/* What an answer says beside its queries' results. */
struct http_search_context {
    struct http_json_origin origin;
    const struct http_search *asked; /* NULL: hits alone are wanted */
    const struct question *question; /* likewise */
};

/* *text: malloc'd, the caller's. Queries by key are settled (question.h). Keys are integers in
 * full: a reader whose numbers are doubles loses what is beyond 2^53, not we. STATUS_NO_MEMORY. */
NODISCARD enum status http_search_format(const struct http_search_context *context,
                                         struct search_query *queries, uint32_t count, char **text,
                                         struct error *err);

#endif
