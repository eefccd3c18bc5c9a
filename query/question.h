/*
 * question.h - what a request asks of a generation beside its vectors, made ready for the engine.
 * Shared by the socket (server_request.c), HTTP and the tools that search in their own process.
 *
 *   fill in what is asked; question_prepare(); a copy of `common` for each query; submit
 *
 * A question belongs to whoever has its memory; once prepared it does not change, so that any
 * thread's queries may use it.
 */
#ifndef NIGHTJAR_QUERY_QUESTION_H
#define NIGHTJAR_QUERY_QUESTION_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "query/engine.h"
#include "query/filter.h"
#include "query/index.h"

struct question {
    /* in */
    struct search_query common; /* what all its queries have; vector, hits and cursor are zero */
    float recall_target;        /* in (0, 1): search_list and search_ratio are chosen; 0: none */
    const char *filter_text;    /* borrowed for question_prepare() */
    size_t filter_bytes;        /* 0: no filter */
    uint32_t rank_max;          /* largest of its queries' cursors */
    /* out */
    struct filter *filter;   /* owned; common.filter too */
    float expected_recall;   /* 0 without a recall target */
    uint64_t match_estimate; /* vectors that match; all without a filter */
};

/* Checks radius and recall target, chooses search list and ratio where that is left to it, and
 * compiles the filter. `index` must outlive the question. A fraction of a millisecond; allocates
 * with a filter only. STATUS_INVALID with the reason, STATUS_UNSUPPORTED: a recall target of a
 * generation that was not calibrated, STATUS_NO_MEMORY. A question that failed needs no
 * question_fini(). */
NODISCARD enum status question_prepare(struct question *question, const struct index *index,
                                       struct error *err);
/* Not while queries are in flight. */
void question_fini(struct question *question);

#endif
