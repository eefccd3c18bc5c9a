/*
 * test_lanes.c - pieces spread over lanes: each once, in order, with the team and the place of its
 * lane; and what is told of several that fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "builder/lanes.h"

enum { PIECES = 60, LANES = 4 };

/* What the pieces left behind. Assertions are made after the run, on the test's thread. */
struct journal {
    atomic_uint runs[PIECES];
    atomic_uint order[PIECES]; /* how many were begun before */
    atomic_uint begun;
    atomic_uint here; /* pieces that the calling thread ran itself */
    pthread_t caller;
    atomic_uint team_max[PIECES]; /* omp_get_max_threads() */
    atomic_uint team[PIECES];     /* threads of a parallel region */
    atomic_uint numa[PIECES];
    atomic_uint bound[PIECES]; /* place->topology is there, and strict */
    uint32_t fail_from;        /* pieces from here on fail */
    pthread_barrier_t *meet;   /* NULL: pieces do not wait for each other */
};

static enum status piece_run(void *context, uint32_t piece, const struct lane_place *place,
                             struct error *err)
{
    struct journal *j = context;
    uint32_t team = 0;
    atomic_fetch_add(&j->runs[piece], 1);
    atomic_store(&j->order[piece], atomic_fetch_add(&j->begun, 1));
    atomic_fetch_add(&j->here, pthread_equal(pthread_self(), j->caller) != 0);
    atomic_store(&j->team_max[piece], (unsigned)omp_get_max_threads());
#pragma omp parallel reduction(+ : team)
    team++;
    atomic_store(&j->team[piece], team);
    atomic_store(&j->numa[piece], place->numa);
    atomic_store(&j->bound[piece], (place->topology != NULL) + 2u * place->strict);
    if (j->meet != NULL)
        pthread_barrier_wait(j->meet);
    if (piece >= j->fail_from)
        return error_set(err, STATUS_IO, "piece %u failed", piece);
    return STATUS_OK;
}

struct lanes_case {
    struct journal journal;
    struct topology_lane lanes[LANES];
    struct lanes spec;
    uint32_t pieces[PIECES];
    int threads;
};

static int setup(void **state)
{
    struct lanes_case *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -1;
    for (uint32_t i = 0; i < PIECES; i++)
        c->pieces[i] = i;
    for (uint32_t i = 0; i < LANES; i++)
        c->lanes[i] = (struct topology_lane){.numa = TOPOLOGY_ANY, .threads = 1};
    c->spec = (struct lanes){.lanes = c->lanes, .lane_count = 1};
    c->journal.fail_from = UINT32_MAX;
    c->threads = omp_get_max_threads();
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    struct lanes_case *c = *state;
    omp_set_num_threads(c->threads);
    free(c);
    return 0;
}

static enum status run(struct lanes_case *c, uint32_t count, struct error *err)
{
    *err = (struct error){0};
    c->journal.caller = pthread_self();
    return lanes_run(&c->spec, c->pieces, count, piece_run, &c->journal, err);
}

static uint32_t runs_of(const struct lanes_case *c, uint32_t piece)
{
    return atomic_load(&c->journal.runs[piece]);
}

/* ---- who runs what ---- */

static void every_piece_runs_once(void **state)
{
    struct lanes_case *c = *state;
    static const uint32_t counts[] = {0, 1, 2, LANES, PIECES - 1};
    for (c->spec.lane_count = 1; c->spec.lane_count <= LANES; c->spec.lane_count++)
        for (size_t n = 0; n < ARRAY_LENGTH(counts); n++) {
            struct error err;
            c->journal = (struct journal){.fail_from = UINT32_MAX};
            assert_int_equal(run(c, counts[n], &err), STATUS_OK);
            for (uint32_t i = 0; i < PIECES; i++)
                assert_int_equal(runs_of(c, i), i < counts[n]);
        }
}

/* Shards that are done already are left out by the caller. */
static void only_the_pieces_asked_for_run(void **state)
{
    struct lanes_case *c = *state;
    static const uint32_t asked[] = {41, 3, 17, 59, 0};
    struct error err;
    c->spec.lane_count = 2;
    for (size_t i = 0; i < ARRAY_LENGTH(asked); i++)
        c->pieces[i] = asked[i];
    assert_int_equal(run(c, ARRAY_LENGTH(asked), &err), STATUS_OK);
    for (uint32_t piece = 0; piece < PIECES; piece++) {
        bool wanted = false;
        for (size_t i = 0; i < ARRAY_LENGTH(asked); i++)
            wanted = wanted || asked[i] == piece;
        assert_int_equal(runs_of(c, piece), wanted);
    }
}

static void one_lane_runs_pieces_in_order_on_the_calling_thread(void **state)
{
    struct lanes_case *c = *state;
    struct error err;
    assert_int_equal(run(c, PIECES, &err), STATUS_OK);
    for (uint32_t i = 0; i < PIECES; i++)
        assert_int_equal(atomic_load(&c->journal.order[i]), i);
    assert_int_equal(atomic_load(&c->journal.here), PIECES);
}

/* Each of as many pieces as lanes waits until all are at work. */
static void lanes_run_side_by_side(void **state)
{
    struct lanes_case *c = *state;
    pthread_barrier_t meet;
    struct error err;
    assert_int_equal(pthread_barrier_init(&meet, NULL, LANES), 0);
    c->journal.meet = &meet;
    c->spec.lane_count = LANES;
    assert_int_equal(run(c, 3 * LANES, &err), STATUS_OK);
    for (uint32_t i = 0; i < 3 * LANES; i++)
        assert_int_equal(runs_of(c, i), 1);
    assert_int_equal(atomic_load(&c->journal.here), 3);
    pthread_barrier_destroy(&meet);
}

/* ---- teams and places ---- */

static void each_lane_has_the_team_it_was_given(void **state)
{
    struct lanes_case *c = *state;
    static const uint32_t teams[LANES] = {3, 1, 2, 1};
    pthread_barrier_t meet;
    struct error err;
    uint32_t seen[LANES] = {0};
    assert_int_equal(pthread_barrier_init(&meet, NULL, LANES), 0);
    c->journal.meet = &meet;
    c->spec.lane_count = LANES;
    for (uint32_t i = 0; i < LANES; i++)
        c->lanes[i].threads = teams[i];
    omp_set_num_threads(2);
    assert_int_equal(run(c, LANES, &err), STATUS_OK);
    assert_int_equal(omp_get_max_threads(), 2);
    for (uint32_t i = 0; i < LANES; i++) {
        uint32_t team = atomic_load(&c->journal.team[i]);
        assert_int_equal(atomic_load(&c->journal.team_max[i]), team);
        assert_in_range(team, 1, 3);
        seen[team]++;
    }
    assert_int_equal(seen[1], 2);
    assert_int_equal(seen[2], 1);
    assert_int_equal(seen[3], 1);
    pthread_barrier_destroy(&meet);
}

static void the_team_is_restored_after_a_failure_too(void **state)
{
    struct lanes_case *c = *state;
    struct error err;
    c->journal.fail_from = 0;
    c->lanes[0].threads = 3;
    omp_set_num_threads(2);
    assert_int_equal(run(c, 2, &err), STATUS_IO);
    assert_int_equal(atomic_load(&c->journal.team[0]), 3);
    assert_int_equal(omp_get_max_threads(), 2);
}

static void without_a_topology_no_place_is_named(void **state)
{
    struct lanes_case *c = *state;
    struct error err;
    c->spec.lane_count = 2;
    c->lanes[1].numa = 5; /* of a plan for another machine: not looked at */
    assert_int_equal(run(c, PIECES, &err), STATUS_OK);
    for (uint32_t i = 0; i < PIECES; i++) {
        assert_int_equal(atomic_load(&c->journal.numa[i]), TOPOLOGY_ANY);
        assert_int_equal(atomic_load(&c->journal.bound[i]), 0);
    }
}

/* On a made-up machine nothing is bound, but pieces are told their node as they would be. */
static void pieces_are_told_the_node_of_their_lane(void **state)
{
    struct lanes_case *c = *state;
    struct topology *topology = NULL;
    pthread_barrier_t meet;
    struct error err;
    uint32_t seen[2] = {0};
    uint32_t any = 0;
    setenv("HWLOC_SYNTHETIC", "numa:2 core:2 pu:1", 1);
    enum status status = topology_load(&topology, &err);
    unsetenv("HWLOC_SYNTHETIC");
    if (status != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(topology_numa_count(topology), 2);
    assert_int_equal(pthread_barrier_init(&meet, NULL, 3), 0);
    c->journal.meet = &meet;
    c->spec.topology = topology;
    c->spec.lane_count = 3;
    c->lanes[0].numa = 1;
    c->lanes[1].numa = 0;
    assert_int_equal(run(c, 3, &err), STATUS_OK);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t numa = atomic_load(&c->journal.numa[i]);
        assert_int_equal(atomic_load(&c->journal.bound[i]), numa != TOPOLOGY_ANY);
        if (numa == TOPOLOGY_ANY)
            any++;
        else
            seen[MIN(numa, 1u)]++;
    }
    assert_int_equal(seen[0], 1);
    assert_int_equal(seen[1], 1);
    assert_int_equal(any, 1);
    pthread_barrier_destroy(&meet);
    topology_destroy(topology);
}

/* ---- failures ---- */

static void one_lane_begins_nothing_after_a_failure(void **state)
{
    struct lanes_case *c = *state;
    struct error err;
    c->journal.fail_from = 7;
    assert_int_equal(run(c, PIECES, &err), STATUS_IO);
    assert_string_equal(err.text, "piece 7 failed");
    assert_int_equal(err.status, STATUS_IO);
    for (uint32_t i = 0; i < PIECES; i++)
        assert_int_equal(runs_of(c, i), i <= 7);
}

/* All lanes are at work when the first fails: no lane takes another piece but one that had it. */
static void lanes_stop_after_a_failure(void **state)
{
    struct lanes_case *c = *state;
    pthread_barrier_t meet;
    struct error err;
    assert_int_equal(pthread_barrier_init(&meet, NULL, LANES), 0);
    c->journal.meet = &meet;
    c->journal.fail_from = 0;
    c->spec.lane_count = LANES;
    assert_int_equal(run(c, LANES * 2, &err), STATUS_IO);
    for (uint32_t i = 0; i < LANES * 2; i++)
        assert_int_equal(runs_of(c, i), i < LANES);
    pthread_barrier_destroy(&meet);
}

/* Lowest by place, not by number or by time. */
static void error_of_the_lowest_failed_place_is_told(void **state)
{
    struct lanes_case *c = *state;
    pthread_barrier_t meet;
    assert_int_equal(pthread_barrier_init(&meet, NULL, LANES), 0);
    c->journal.meet = &meet;
    c->journal.fail_from = 10;
    c->spec.lane_count = LANES;
    c->pieces[0] = 3; /* does not fail */
    c->pieces[1] = 33;
    c->pieces[2] = 22;
    c->pieces[3] = 11;
    for (int repeat = 0; repeat < 100; repeat++) {
        struct error err;
        assert_int_equal(run(c, LANES, &err), STATUS_IO);
        assert_string_equal(err.text, "piece 33 failed");
    }
    pthread_barrier_destroy(&meet);
}

static void failure_without_a_wish_to_hear_of_it(void **state)
{
    struct lanes_case *c = *state;
    c->journal.fail_from = 0;
    assert_int_equal(lanes_run(&c->spec, c->pieces, 3, piece_run, &c->journal, NULL), STATUS_IO);
    assert_int_equal(runs_of(c, 0), 1);
    assert_int_equal(runs_of(c, 1), 0);
}

#define LANES_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LANES_TEST(every_piece_runs_once),
        LANES_TEST(only_the_pieces_asked_for_run),
        LANES_TEST(one_lane_runs_pieces_in_order_on_the_calling_thread),
        LANES_TEST(lanes_run_side_by_side),
        LANES_TEST(each_lane_has_the_team_it_was_given),
        LANES_TEST(the_team_is_restored_after_a_failure_too),
        LANES_TEST(without_a_topology_no_place_is_named),
        LANES_TEST(pieces_are_told_the_node_of_their_lane),
        LANES_TEST(one_lane_begins_nothing_after_a_failure),
        LANES_TEST(lanes_stop_after_a_failure),
        LANES_TEST(error_of_the_lowest_failed_place_is_told),
        LANES_TEST(failure_without_a_wish_to_hear_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
