/*
 * engine_fixture.h - for tests of the engine: one collection opened cold, partly cached and
 * resident, one whose lists are in memory, engines over them, and answers to all queries of a
 * collection with what must hold of any answer.
 *
 * Functions assert through cmocka and are called on the test's thread.
 */
#ifndef NIGHTJAR_TESTS_ENGINE_FIXTURE_H
#define NIGHTJAR_TESTS_ENGINE_FIXTURE_H

#include "query/engine.h"
#include "tests/generation_fixture.h"
#include "tests/index_fixture.h"

enum { FIXTURE_QUERIES = 40, FIXTURE_K = 10, FIXTURE_WIDE_DIM = 192 };

struct engine_fixture {
    void *directory;
    struct collection *base; /* what most tests search */
    /* The first two have the same codes and no lists, so that a search takes the same steps. */
    struct index *cold, *cached, *resident;
    struct collection *wide; /* vectors so large that a budget gives lists */
    struct index *listed;    /* of wide: finer codes and lists in memory, no block */
    uint32_t io_kind_count;  /* of io_kinds: 1 where the kernel refuses io_uring */
};
extern const enum block_io_kind io_kinds[2];

/* cmocka group setup and teardown: *state is a struct engine_fixture. */
int engine_group_setup(void **state);
int engine_group_teardown(void **state);

/* engine_create() that must succeed; the plain one has one thread and the best kind of I/O. */
struct engine *engine_start(struct index *index, const struct engine_params *params);
struct engine *engine_plain(struct index *index);
struct engine_stats stats_of(const struct engine *engine);

struct ask {
    uint32_t k, search_list, beam_width;
    float search_ratio;
    uint32_t window; /* queries in flight; 0: all */
};
/* k = FIXTURE_K and beam width 1, which makes a search's order of steps a function of the query
 * alone: answers can be compared. */
extern const struct ask ask_usual;

/* Answers to every query of a collection. */
struct answers {
    struct search_query *queries;
    struct search_hit *hits;
    uint32_t count;
    struct search_stats sum; /* its counts */
};

struct search_query query_make(const struct collection *collection, uint32_t number,
                               const struct ask *ask, struct search_hit *hits);
struct answers answers_get(struct engine *engine, const struct collection *collection,
                           const struct ask *ask);
void answers_free(struct answers *answers);

/* The hits are sorted, distinct, and at the distance they claim to query `number`. */
void answer_check(const struct collection *collection, const struct search_query *query,
                  uint32_t number);
void answers_check(const struct collection *collection, const struct answers *answers);

void assert_distinct(const struct search_query *query);
void assert_same_hits(const struct search_query *a, const struct search_query *b);
void assert_same_answers(const struct answers *a, const struct answers *b);

/* Share of the k nearest found; a hit as near as the k-th is one of them. */
double answers_recall(const struct collection *collection, const struct answers *answers);

#endif
