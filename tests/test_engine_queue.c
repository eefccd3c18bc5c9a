/*
 * test_engine_queue.c - who is served when there is more than can be: lanes that take turns, who
 * makes room in a full queue, and what is refused because it would be too late.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "common/clock.h"
#include "query/engine_inbox.h"
#include "query/engine_internal.h"
#include "query/engine_pace.h"
#include "tests/engine_fixture.h"

/* ---- the inbox by itself ---- */

enum { PARKED = 40 };

/* Queries of the flows given, pushed in order. */
static void push_flows(struct inbox *inbox, struct search_query *queries, const uint32_t *flows,
                       uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        queries[i] = (struct search_query){.flow = flows[i]};
        inbox_push(inbox, &queries[i]);
    }
}

static void assert_taken(struct inbox *inbox, const struct search_query *queries,
                         const uint32_t *order, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        assert_ptr_equal(inbox_take(inbox), &queries[order[i]]);
    assert_null(inbox_take(inbox));
    assert_int_equal(atomic_load(&inbox->count), 0);
}

static void lanes_take_turns_and_each_keeps_its_order(void **state)
{
    (void)state;
    struct inbox inbox;
    struct search_query queries[8];
    inbox_init(&inbox);
    const uint32_t flows[] = {5, 5, 5, 5, 9, 9, 63, 5 + INBOX_LANES};
    const uint32_t order[] = {0, 4, 6, 1, 5, 2, 3, 7};
    push_flows(&inbox, queries, flows, 8);
    assert_int_equal(atomic_load(&inbox.count), 8);
    assert_taken(&inbox, queries, order, 8);
    /* The turn went past lane 5: another is served first now. */
    const uint32_t later[] = {5, 0, 0};
    const uint32_t later_order[] = {1, 0, 2};
    push_flows(&inbox, queries, later, 3);
    assert_taken(&inbox, queries, later_order, 3);
    inbox_fini(&inbox);
}

static void the_newest_of_the_longest_lane_makes_room(void **state)
{
    (void)state;
    struct inbox inbox;
    struct search_query queries[6], more[3] = {{.flow = 1}, {.flow = 2}, {.flow = 1}};
    const uint32_t flows[] = {1, 2, 1, 2, 2, 2};
    inbox_init(&inbox);
    push_flows(&inbox, queries, flows, 6);
    assert_ptr_equal(inbox_replace(&inbox, &more[0]), &queries[5]);
    assert_int_equal(atomic_load(&inbox.count), 6);
    /* Three each: to replace would only turn the tables. */
    assert_null(inbox_replace(&inbox, &more[1]));
    assert_null(inbox_replace(&inbox, &more[2]));
    const struct search_query *order[] = {&queries[0], &queries[1], &queries[2],
                                          &queries[3], &more[0],    &queries[4]};
    for (uint32_t i = 0; i < 6; i++)
        assert_ptr_equal(inbox_take(&inbox), order[i]);
    assert_null(inbox_take(&inbox));
    inbox_fini(&inbox);
}

static void who_has_a_turn_before_a_newcomer_is_counted(void **state)
{
    (void)state;
    struct inbox inbox;
    struct search_query queries[PARKED];
    uint32_t flows[PARKED];
    inbox_init(&inbox);
    assert_int_equal(inbox_ahead(&inbox, 3), 0);
    for (uint32_t i = 0; i < PARKED; i++)
        flows[i] = i < PARKED - 3 ? 7 : 8;
    push_flows(&inbox, queries, flows, PARKED);
    assert_int_equal(inbox_ahead(&inbox, 7), PARKED); /* all */
    assert_int_equal(inbox_ahead(&inbox, 8), 3 + 4);  /* its own, and as many turns of 7 */
    assert_int_equal(inbox_ahead(&inbox, 9), 2);      /* one of each */
    inbox_fini(&inbox);
}

static void late_queries_are_taken_out_of_turn(void **state)
{
    (void)state;
    struct inbox inbox;
    struct search_query queries[4] = {
        {.flow = 1}, {.flow = 2, .deadline_ns = 100}, {.flow = 2}, {.flow = 3, .deadline_ns = 200}};
    inbox_init(&inbox);
    for (uint32_t i = 0; i < 4; i++)
        inbox_push(&inbox, &queries[i]);
    assert_null(inbox_take_late(&inbox, 100));
    assert_ptr_equal(inbox_take_late(&inbox, 150), &queries[1]);
    assert_null(inbox_take_late(&inbox, 150));
    const uint32_t order[] = {0, 2, 3};
    assert_taken(&inbox, queries, order, 3);
    inbox_fini(&inbox);
}

/* ---- the pace by itself ---- */

static void the_pace_of_completions_counts_while_others_wait(void **state)
{
    (void)state;
    struct engine_pace pace = {0};
    uint64_t now_ns = 1000000;
    assert_int_equal(engine_pace_wait_ns(&pace, 10), 0);
    for (uint32_t i = 0; i < 50; i++) /* nobody waits: gaps are for want of queries */
        engine_pace_completed(&pace, now_ns += 900000, false);
    engine_pace_completed(&pace, now_ns += 900000, true);
    assert_int_equal(engine_pace_wait_ns(&pace, 10), 0);
    for (uint32_t i = 0; i < 500; i++) /* in bunches of two */
        engine_pace_completed(&pace, now_ns += i % 2 ? 0 : 2000, true);
    assert_in_range(engine_pace_wait_ns(&pace, 10), 12000, 13000); /* a quarter is added */
    engine_pace_completed(&pace, now_ns += 1000000000, false);
    engine_pace_completed(&pace, now_ns += 1000000000, true); /* a pause is no pace */
    assert_in_range(engine_pace_wait_ns(&pace, 10), 12000, 13000);
}

static void service_time_is_by_list_length_and_leaves_room_for_most(void **state)
{
    (void)state;
    struct engine_pace pace = {0};
    assert_int_equal(engine_pace_service_ns(&pace, 50), 0);
    for (uint32_t i = 0; i < 500; i++)
        engine_pace_took(&pace, i % 2 ? 90000 : 110000, 50, false);
    /* mean 100 us, deviation 10 us */
    assert_in_range(engine_pace_service_ns(&pace, 50), 110000, 130000);
    assert_in_range(engine_pace_service_ns(&pace, 100), 220000, 260000);
    const uint64_t before_ns = engine_pace_service_ns(&pace, 50);
    engine_pace_took(&pace, 20000, 50, true); /* given up before it could tell anything */
    assert_int_equal(engine_pace_service_ns(&pace, 50), before_ns);
    engine_pace_took(&pace, UINT64_C(3600) * 1000000000, 50, false); /* an outlier weighs little */
    assert_in_range(engine_pace_service_ns(&pace, 50), before_ns, 3 * before_ns);
    for (uint32_t i = 0; i < 200; i++)
        engine_pace_took(&pace, 400000, 50, true);
    assert_in_range(engine_pace_service_ns(&pace, 50), 780000, 900000); /* twice what was seen */
}

static void what_a_search_tells_of_others_is_what_it_looked_at(void **state)
{
    (void)state;
    const struct filter *some = (const struct filter *)&state; /* not looked into */
    struct search_query query = {.search_list = 50};
    struct search search = {.query = &query, .stats = {.reads = 20, .cache_hits = 10}};
    assert_int_equal(search_work(&search), 50);
    search.filter.filter = some;
    assert_int_equal(search_work(&search), 50);
    search.filter.scanned = true;
    assert_int_equal(search_work(&search), 0);
    search.filter.filter = NULL; /* left over from the query before */
    query.within_radius = true;
    assert_int_equal(search_work(&search), 50); /* the floor */
    search.stats.cache_hits = 3000;
    assert_int_equal(search_work(&search), 3020);
    assert_int_equal(query_list(&query), 50);
}

/* ---- engines ---- */

/* A device whose reads are kept back: for a time each, and all of them while it is closed. */
struct device {
    struct block_io_faults hook;
    atomic_bool closed;
    uint64_t delay_ns;
};

static bool device_holds(void *context, uint64_t offset, uint64_t age_ns)
{
    const struct device *device = context;
    (void)offset;
    return atomic_load(&device->closed) || age_ns < device->delay_ns;
}

struct asked {
    struct search_query query;
    struct search_hit hits[FIXTURE_K];
    sem_t completed;
    pthread_t completed_by;
    uint32_t place; /* in the order of completions, from 1 */
    atomic_uint *places;
};

static void asked_complete(struct search_query *query)
{
    struct asked *asked = query->user;
    asked->completed_by = pthread_self();
    asked->place = atomic_fetch_add(asked->places, 1) + 1;
    sem_post(&asked->completed);
}

struct ask_line {
    struct engine *engine;
    struct device device;
    struct asked asked[PARKED];
    atomic_uint places;
};

static void line_open(struct ask_line *line, const struct engine_fixture *f,
                      struct engine_params params, uint64_t delay_ns)
{
    line->device.hook = (struct block_io_faults){.holds = device_holds, .context = &line->device};
    line->device.delay_ns = delay_ns;
    atomic_store(&line->device.closed, false);
    atomic_store(&line->places, 0);
    params.threads = 1;
    params.read_timeout_ms = 3600 * 1000;
    params.faults = &line->device.hook;
    params.own_reads = true;
    line->engine = engine_start(f->cold, &params);
    for (uint32_t i = 0; i < PARKED; i++) {
        struct asked *asked = &line->asked[i];
        asked->query = query_make(f->base, i, &ask_usual, asked->hits);
        asked->query.complete = asked_complete;
        asked->query.user = asked;
        asked->places = &line->places;
        sem_init(&asked->completed, 0, 0);
    }
}

static enum status line_submit(struct ask_line *line, uint32_t number, uint32_t flow)
{
    line->asked[number].query.flow = flow;
    return engine_submit(line->engine, &line->asked[number].query);
}

static void line_wait(struct ask_line *line, uint32_t number)
{
    while (sem_wait(&line->asked[number].completed) != 0)
        continue;
}

/* Until `active` queries run and the rest waits. */
static void line_settle(struct ask_line *line, uint32_t active)
{
    while (stats_of(line->engine).in_flight != active)
        sched_yield();
}

static int posts_of(sem_t *semaphore)
{
    int value = -1;
    assert_int_equal(sem_getvalue(semaphore, &value), 0);
    return value;
}

static void a_flood_does_not_delay_another_flow(void **state)
{
    const struct engine_fixture *f = *state;
    static struct ask_line line;
    const struct engine_params params = {.slots_per_thread = 1};
    enum { FLOOD = 30 };
    line_open(&line, f, params, 0);
    atomic_store(&line.device.closed, true);
    for (uint32_t i = 0; i < FLOOD; i++) {
        assert_int_equal(line_submit(&line, i, 1), STATUS_OK);
        if (i == 0) /* it runs: the rest waits */
            while (stats_of(line.engine).reads_in_flight == 0)
                sched_yield();
    }
    for (uint32_t i = FLOOD; i < FLOOD + 3; i++)
        assert_int_equal(line_submit(&line, i, i == FLOOD + 2 ? 3 : 2), STATUS_OK);
    atomic_store(&line.device.closed, false);
    for (uint32_t i = 0; i < FLOOD + 3; i++)
        line_wait(&line, i);
    assert_int_equal(line.asked[0].place, 1);
    assert_in_range(line.asked[FLOOD].place, 2, 4);
    assert_in_range(line.asked[FLOOD + 2].place, 2, 4);
    assert_in_range(line.asked[FLOOD + 1].place, 4, 6);
    for (uint32_t i = 1; i < FLOOD; i++)
        assert_true(line.asked[i].place > line.asked[i - 1].place);
    engine_destroy(line.engine);
}

static void a_full_queue_makes_room_for_another_flow(void **state)
{
    const struct engine_fixture *f = *state;
    static struct ask_line line;
    enum { LIMIT = 8, FLOOD = LIMIT + 1, OTHERS = LIMIT / 2 };
    const struct engine_params params = {.slots_per_thread = 1, .queue_limit = LIMIT};
    line_open(&line, f, params, 0);
    atomic_store(&line.device.closed, true);
    for (uint32_t i = 0; i < FLOOD; i++) {
        assert_int_equal(line_submit(&line, i, 1), STATUS_OK);
        if (i == 0)
            while (stats_of(line.engine).reads_in_flight == 0)
                sched_yield();
    }
    assert_int_equal(line_submit(&line, PARKED - 1, 1), STATUS_BUSY);
    for (uint32_t i = 0; i < OTHERS; i++) {
        const struct asked *newest = &line.asked[FLOOD - 1 - i];
        assert_int_equal(line_submit(&line, FLOOD + i, 2), STATUS_OK);
        assert_int_equal(newest->query.status, STATUS_BUSY);
        assert_int_equal(newest->query.hit_count, 0);
        assert_int_equal(newest->place, i + 1);
        assert_true(pthread_equal(newest->completed_by, pthread_self()));
    }
    /* As many as the other has: no more room. */
    assert_int_equal(line_submit(&line, PARKED - 1, 2), STATUS_BUSY);
    assert_int_equal(stats_of(line.engine).queued, LIMIT);
    assert_int_equal(stats_of(line.engine).in_flight, 1);
    assert_int_equal(stats_of(line.engine).busy, OTHERS + 2);
    atomic_store(&line.device.closed, false);
    engine_destroy(line.engine);
    for (uint32_t i = 0; i < FLOOD + OTHERS; i++) {
        assert_int_equal(posts_of(&line.asked[i].completed), 1);
        if (i < FLOOD - OTHERS || i >= FLOOD)
            answer_check(f->base, &line.asked[i].query, i);
    }
    assert_int_equal(posts_of(&line.asked[PARKED - 1].completed), 0);
}

/* Serves every query once with others waiting, so that the worker knows its pace. */
static void line_learn(struct ask_line *line)
{
    for (uint32_t i = 0; i < PARKED; i++)
        assert_int_equal(line_submit(line, i, 0), STATUS_OK);
    for (uint32_t i = 0; i < PARKED; i++)
        line_wait(line, i);
}

static void who_cannot_be_served_in_time_is_refused_at_once(void **state)
{
    const struct engine_fixture *f = *state;
    static struct ask_line line;
    const uint64_t hour_ns = UINT64_C(3600) * 1000000000;
    const struct engine_params params = {.slots_per_thread = 2};
    line_open(&line, f, params, 0);
    line_learn(&line);
    atomic_store(&line.device.closed, true);
    /* While there is a place for it, nothing is refused, whatever its deadline. */
    assert_int_equal(line_submit(&line, 0, 0), STATUS_OK);
    line_settle(&line, 1);
    line.asked[1].query.deadline_ns = clock_monotonic_ns() + 1;
    assert_int_equal(line_submit(&line, 1, 0), STATUS_OK);
    line_wait(&line, 1);
    assert_int_equal(line.asked[1].query.status, STATUS_TIMEOUT);
    for (uint32_t i = 2; i < 10; i++)
        assert_int_equal(line_submit(&line, i, 0), STATUS_OK);
    line_settle(&line, 2);
    line.asked[10].query.deadline_ns = clock_monotonic_ns() + 1;
    assert_int_equal(line_submit(&line, 10, 0), STATUS_BUSY);
    line.asked[11].query.deadline_ns = clock_monotonic_ns() + hour_ns;
    assert_int_equal(line_submit(&line, 11, 0), STATUS_OK);
    assert_int_equal(stats_of(line.engine).busy, 1);
    atomic_store(&line.device.closed, false);
    engine_destroy(line.engine);
    answer_check(f->base, &line.asked[11].query, 11);
    assert_int_equal(posts_of(&line.asked[10].completed), 0);
}

static void who_has_too_little_time_left_is_not_started_beside_many(void **state)
{
    const struct engine_fixture *f = *state;
    static struct ask_line line;
    enum { MANY = 4 };
    const struct engine_params params = {.slots_per_thread = MANY + 4};
    line_open(&line, f, params, 4000000);
    line_learn(&line); /* a list of 50 takes longer than 4 ms for each of several reads */
    struct search_query *const query = &line.asked[PARKED - 1].query;
    query->search_list = ENGINE_SEARCH_LIST_MAX;
    atomic_store(&line.device.closed, true);
    for (uint32_t i = 0; i + 1 < MANY; i++)
        assert_int_equal(line_submit(&line, i, 0), STATUS_OK);
    line_settle(&line, MANY - 1);
    query->deadline_ns = clock_monotonic_ns() + 300000000;
    assert_int_equal(line_submit(&line, PARKED - 1, 0), STATUS_OK);
    line_wait(&line, PARKED - 1); /* beside fewer it is begun */
    assert_int_equal(query->status, STATUS_TIMEOUT);
    assert_true(query->stats.reads > 0);
    assert_int_equal(line_submit(&line, MANY - 1, 0), STATUS_OK);
    line_settle(&line, MANY);
    query->deadline_ns = clock_monotonic_ns() + 300000000;
    assert_int_equal(line_submit(&line, PARKED - 1, 0), STATUS_OK);
    line_wait(&line, PARKED - 1);
    assert_int_equal(query->status, STATUS_BUSY);
    assert_int_equal(query->stats.reads, 0);
    assert_int_equal(stats_of(line.engine).busy, 1);
    assert_int_equal(stats_of(line.engine).timeouts, 1);
    atomic_store(&line.device.closed, false);
    engine_destroy(line.engine);
    for (uint32_t i = 0; i < MANY; i++)
        answer_check(f->base, &line.asked[i].query, i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lanes_take_turns_and_each_keeps_its_order),
        cmocka_unit_test(the_newest_of_the_longest_lane_makes_room),
        cmocka_unit_test(who_has_a_turn_before_a_newcomer_is_counted),
        cmocka_unit_test(late_queries_are_taken_out_of_turn),
        cmocka_unit_test(the_pace_of_completions_counts_while_others_wait),
        cmocka_unit_test(what_a_search_tells_of_others_is_what_it_looked_at),
        cmocka_unit_test(service_time_is_by_list_length_and_leaves_room_for_most),
        cmocka_unit_test(a_flood_does_not_delay_another_flow),
        cmocka_unit_test(a_full_queue_makes_room_for_another_flow),
        cmocka_unit_test(who_cannot_be_served_in_time_is_refused_at_once),
        cmocka_unit_test(who_has_too_little_time_left_is_not_started_beside_many),
    };
    return cmocka_run_group_tests(tests, engine_group_setup, engine_group_teardown);
}
