/*
 * question.h - what a request asks of a generation beside its vectors, made ready for the engine.
 * Shared by the socket (server_request.c), HTTP and the tools that search in their own process.
 *
 *   fill in what is asked; question_prepare(); a copy of `common` for each query; submit
 *
 * A query by key is asked twice: question_by_key() makes it fetch the vector that has the key, and
 * when that has completed question_follow() turns it into the search for that vector, to be
 * submitted again. question_settle() is for when it is over.
 *
 * A question belongs to whoever has its memory; once prepared it does not change, so that any
 * thread's queries may use it.
 */
#ifndef NIGHTJAR_QUERY_QUESTION_H
#define NIGHTJAR_QUERY_QUESTION_H

#include <stdbool.h>
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

/* Checks the recall target, chooses search list and ratio where that is left to it, and
 * compiles the filter. `index` must outlive the question. A fraction of a millisecond; allocates
 * with a filter only. STATUS_INVALID with the reason, STATUS_UNSUPPORTED: a recall target of a
 * generation that was not calibrated, STATUS_NO_MEMORY. A question that failed needs no
 * question_fini(). */
NODISCARD enum status question_prepare(struct question *question, const struct index *index,
                                       struct error *err);
/* Not while queries are in flight. */
void question_fini(struct question *question);

/* How the filter was met, of queries that are over: what was done for the first that searched. */
enum search_filter_plan question_plan(const struct search_query *queries, uint32_t count);
/* "none", "scan", "graph", "nothing". */
const char *question_plan_name(enum search_filter_plan plan);

/* ---- queries by key ---- */

/* Bytes of room, 8-byte aligned, for what is fetched of one key. */
size_t question_room_bytes(uint32_t dim);
#define QUESTION_ROOM_BYTES_MAX (sizeof(struct search_stats) + VECTOR_DIM_MAX * sizeof(float))

/* Makes *query, a copy of the question's `common` with what else is its own, checked without a
 * vector, fetch the one that has `key` into `room`. */
void question_by_key(struct search_query *query, uint64_t key, void *room);

/* Whether the query, in complete(), has fetched its vector and is now the search for it, without
 * that vector among the hits. If not it is over. */
NODISCARD bool question_follow(struct search_query *query);

/* Of a query by key that is over with STATUS_OK. Adds what the fetch took to its statistics; false:
 * there is no such key, and there are no hits. Once. */
bool question_settle(struct search_query *query);

/* ---- fetches ---- */

/* Of a SEARCH_FETCH that is over and found its key: the vector as queries are given, `dim` elements
 * of `type`, the index's query type. */
void question_fetched(const struct search_query *query, enum element_type type, uint32_t dim,
                      void *out);

#endif
