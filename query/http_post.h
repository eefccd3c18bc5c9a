/*
 * http_post.h - what a POST asks of the engine, from its body to the text of its answer: a search
 * or a fetch. Knows nothing of HTTP but its JSON (http_search.h, http_fetch.h).
 *
 *   fill in; http_post_read(); http_post_prepare(); http_post_submit()
 *   when done() was called: http_post_outcome(), and http_post_answer() if that is OK
 *   in the end, and after a failure: http_post_fini()
 *
 * Belongs to its caller's thread, but for `flight`, which between the submission and done() is the
 * workers'.
 */
#ifndef NIGHTJAR_QUERY_HTTP_POST_H
#define NIGHTJAR_QUERY_HTTP_POST_H

#include <stdint.h>

#include "common/error.h"
#include "query/http_fetch.h"
#include "query/http_search.h"
#include "query/question.h"
#include "query/question_flight.h"
#include "query/serving.h"

enum http_post_kind { HTTP_POST_SEARCH, HTTP_POST_FETCH };

struct http_post {
    /* in */
    enum http_post_kind kind;
    uint32_t queries_max; /* most queries of one */
    uint32_t flow;        /* of the engine */
    uint64_t trace_id;
    uint64_t arrived_ns; /* CLOCK_MONOTONIC; a timeout counts from then */
    uint32_t timeout_ms; /* unless the request gives one; 0: none */
    /* All its queries are over. Once, on a worker or within http_post_submit(). Must not block. */
    void (*done)(void *context);
    void *context;
    /* from http_post_read() on */
    struct served *served; /* reference held */
    uint32_t query_count;
    struct http_search search; /* of its kind; the other is zero */
    struct http_fetch fetch;
    /* its own, from http_post_prepare() on */
    struct question question;
    struct search_query *queries;
    uint8_t *rooms; /* for vectors that are fetched */
    struct search_hit *hits;
    struct question_flight flight;
};

/* Takes what is live and reads the request for it. STATUS_BUSY: the next generation is being
 * opened; STATUS_INVALID, STATUS_NO_MEMORY. */
NODISCARD enum status http_post_read(struct http_post *post, struct serving *serving,
                                     const char *text, size_t length, struct error *err);

/* Makes and checks the queries. STATUS_INVALID, STATUS_UNSUPPORTED (question.h),
 * STATUS_NO_MEMORY. */
NODISCARD enum status http_post_prepare(struct http_post *post, struct error *err);

/* Submits them. The last that the submitter does with it: done() may have been called, and the post
 * be gone, when this returns. */
void http_post_submit(struct http_post *post);

/* OK, or the first failure of its queries. After done(). */
NODISCARD enum status http_post_outcome(const struct http_post *post, struct error *err);

/* After an outcome that is OK. *text: malloc'd, the caller's. STATUS_NO_MEMORY. */
NODISCARD enum status http_post_answer(struct http_post *post, char **text, struct error *err);

/* Gives everything back, also of one that never began; not while queries are in flight. Leaves it
 * zero. */
void http_post_fini(struct http_post *post);

#endif
