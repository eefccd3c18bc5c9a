/*
 * test_question_flight.c - who is told that all queries of a request are over, and what failed
 * first, where no engine is needed. Submission is tested through both sockets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "query/question_flight.h"

enum { COUNT = 4, TIMEOUT_MS = 250 };

struct fixture {
    struct search_query queries[COUNT];
    struct question_flight flight;
};

/* As after the submission of all; query q is by key 100 + q. */
static void fixture_init(struct fixture *f)
{
    *f = (struct fixture){
        .flight = {.queries = f->queries, .count = COUNT, .fetches = true, .remaining = COUNT + 1}};
    for (uint32_t q = 0; q < COUNT; q++)
        f->queries[q] = (struct search_query){.kind = SEARCH_FETCH, .key = 100 + q};
}

static bool complete(struct fixture *f, uint32_t q, enum status status)
{
    f->queries[q].status = status;
    return question_flight_complete(&f->flight, &f->queries[q]);
}

static void the_last_alone_is_told(void **state)
{
    (void)state;
    struct fixture f;
    struct error err;
    fixture_init(&f); /* the submitter */
    for (uint32_t q = 0; q < COUNT; q++)
        assert_false(complete(&f, q, STATUS_OK));
    assert_true(question_flight_release(&f.flight, COUNT));
    fixture_init(&f); /* a worker, after the submitter could submit two */
    assert_false(complete(&f, 1, STATUS_OK));
    assert_false(question_flight_release(&f.flight, 2));
    assert_true(complete(&f, 0, STATUS_OK));
    assert_int_equal(question_flight_outcome(&f.flight, TIMEOUT_MS, &err), STATUS_OK);
}

static void the_first_failure_is_named(void **state)
{
    (void)state;
    static const struct {
        enum status status;
        const char *words;
        bool degraded;
    } cases[] = {
        {STATUS_IO, "query 2: what is stored of key 102 could not be read, or is damaged", true},
        {STATUS_TIMEOUT, "not done within its timeout of 250 ms", false},
        {STATUS_BUSY, "more queries wait than can be answered in time: try again", false},
        {STATUS_CANCELLED, "query 2: cancelled", false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct fixture f;
        struct error err;
        fixture_init(&f);
        assert_false(complete(&f, 3, STATUS_OK));
        assert_false(complete(&f, 2, cases[i].status));
        assert_false(complete(&f, 0, i > 0 ? STATUS_IO : STATUS_BUSY)); /* no longer the first */
        assert_false(complete(&f, 1, STATUS_OK));
        assert_true(question_flight_release(&f.flight, COUNT));
        assert_int_equal(question_flight_outcome(&f.flight, TIMEOUT_MS, &err), cases[i].status);
        assert_string_equal(err.text, cases[i].words);
        assert_int_equal(question_flight_sum(&f.flight).degraded, cases[i].degraded);
    }
}

static void reads_and_flags_are_those_of_all(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    for (uint32_t q = 0; q < COUNT; q++) {
        f.queries[q].stats.reads = q + 1;
        f.queries[q].flags = q == 1 ? SEARCH_DEGRADED : SEARCH_TRUNCATED;
        assert_false(complete(&f, q, STATUS_OK));
    }
    assert_true(question_flight_release(&f.flight, COUNT));
    assert_int_equal(question_flight_sum(&f.flight).reads, 1 + 2 + 3 + 4);
    assert_true(question_flight_sum(&f.flight).degraded);
    f.queries[1].flags = SEARCH_TRUNCATED;
    assert_false(question_flight_sum(&f.flight).degraded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_alone_is_told),
        cmocka_unit_test(the_first_failure_is_named),
        cmocka_unit_test(reads_and_flags_are_those_of_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
