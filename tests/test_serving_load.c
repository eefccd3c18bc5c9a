/*
 * test_serving_load.c - swaps under load: queries in flight, clients that hammer, an end at any
 * moment, and a process that has no descriptor left.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "layout/publish.h"
#include "tests/generation_fixture.h"
#include "tests/serving_fixture.h"

enum { FIRST = 0, SECOND = 1, THIRD = 2 };

static struct serving_fixture *serve_first(void **state)
{
    struct serving_fixture *f = *state;
    const struct serving_params params = serving_usual(f);
    root_add_and_publish(f, "a", FIRST);
    serving_start(f, &params);
    return f;
}

/* ---- queries in flight ---- */

static void queries_in_flight_end_on_the_generation_they_began_with(void **state)
{
    struct serving_fixture *f = serve_first(state);
    struct flight before, after;
    gate_close(&f->gate);
    flight_begin(f, &before);
    gate_wait_reached(&f->gate);
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, has_swapped, 1);
    flight_begin(f, &after);
    /* Both are open until the first one's last query is done. */
    assert_true(process_open_in(root_path(f, "a")) > 0);
    assert_true(process_open_in(root_path(f, "b")) > 0);
    gate_open(&f->gate);
    flight_end(f, &before, FIRST);
    flight_end(f, &after, SECOND);
    for (uint64_t since_ns = clock_monotonic_ns(); process_open_in(root_path(f, "a")) > 0;)
        poll_pause(since_ns, "the one before is still open");
    assert_true(process_open_in(root_path(f, "b")) > 0);
    assert_int_equal(serving_stats_of(f).engine.queries, 2 * SERVING_QUERIES);
}

static void expect_no_less(const struct engine_stats *then, const struct engine_stats *now)
{
    assert_true(now->queries >= then->queries);
    assert_true(now->reads >= then->reads);
    assert_true(now->code_distances >= then->code_distances);
    assert_true(now->exact_distances >= then->exact_distances);
    assert_true(now->busy_ns >= then->busy_ns);
    assert_true(now->latency.count >= then->latency.count);
    assert_true(now->latency.sum_ns >= then->latency.sum_ns);
    assert_true(now->read_latency.count >= then->read_latency.count);
}

static void counters_only_grow_over_swaps(void **state)
{
    enum { SWAPS = 6 };
    struct serving_fixture *f = serve_first(state);
    root_add(f, "b", SECOND);
    struct engine_stats last = {0};
    for (uint64_t swap = 1; swap <= SWAPS; swap++) {
        expect_live(f, swap % 2 ? "a" : "b", swap % 2 ? FIRST : SECOND);
        root_publish(f, swap % 2 ? "b" : "a");
        struct serving_stats stats;
        uint64_t since_ns = clock_monotonic_ns();
        do {
            poll_again(since_ns, "the swap");
            stats = serving_stats_of(f);
            expect_no_less(&last, &stats.engine);
            last = stats.engine;
        } while (stats.swaps < swap);
    }
    const struct serving_stats stats = serving_stats_of(f);
    assert_int_equal(stats.engine.queries, SWAPS * SERVING_QUERIES);
    assert_int_equal(stats.engine.latency.count, SWAPS * SERVING_QUERIES);
    assert_int_equal(stats.engine.threads, 1);
    assert_true(stats.load_ns > 0 && stats.live_ns > 0);
}

static void gauges_are_those_of_the_live_one(void **state)
{
    struct serving_fixture *f = serve_first(state);
    struct flight flight;
    gate_close(&f->gate);
    flight_begin(f, &flight);
    gate_wait_reached(&f->gate);
    struct serving_stats stats = serving_stats_of(f);
    assert_true(stats.engine.reads_in_flight > 0);
    assert_int_equal(stats.engine.in_flight + stats.engine.queued, SERVING_QUERIES);
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, has_swapped, 1);
    stats = serving_stats_of(f);
    assert_int_equal(stats.engine.reads_in_flight, 0);
    assert_int_equal(stats.engine.in_flight + stats.engine.queued, 0);
    gate_open(&f->gate);
    flight_end(f, &flight, FIRST);
}

/* ---- the end ---- */

/* A keeper that waits for the last reference to what was live has had no time for these. */
static struct served *keeper_busy(struct serving_fixture *f)
{
    struct served *held = serving_acquire(f->serving);
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, has_swapped, 1);
    return held;
}

struct ending {
    struct serving *serving;
    _Atomic pid_t thread;
};

/* A thread: no cmocka in here. */
static void *ending_main(void *context)
{
    struct ending *ending = context;
    atomic_store(&ending->thread, (pid_t)syscall(SYS_gettid));
    serving_destroy(ending->serving);
    return NULL;
}

/* Until it sleeps, which it does when it has told the keeper and waits for it. */
static void ending_wait_told(struct ending *ending)
{
    uint64_t since_ns = clock_monotonic_ns();
    for (;;) {
        char path[64], text[256] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)atomic_load(&ending->thread));
        FILE *file = fopen(path, "re");
        if (file && fgets(text, sizeof(text), file) && strstr(text, ") S ")) {
            fclose(file);
            return;
        }
        if (file)
            fclose(file);
        poll_pause(since_ns, "the end has not begun");
    }
}

static void an_end_cancels_the_wishes_that_wait(void **state)
{
    enum { WISHES = 5 };
    struct serving_fixture *f = serve_first(state);
    struct served *held = keeper_busy(f);
    struct asked asked[WISHES];
    struct ending ending = {.serving = f->serving};
    pthread_t thread;
    for (size_t i = 0; i < WISHES; i++)
        asked_begin(f, &asked[i]);
    f->serving = NULL;
    assert_int_equal(pthread_create(&thread, NULL, ending_main, &ending), 0);
    ending_wait_told(&ending);
    for (size_t i = 0; i < WISHES; i++)
        assert_int_equal(asked[i].told, 0);
    served_release(held);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < WISHES; i++) {
        const struct serving_outcome outcome = asked_end(&asked[i]);
        assert_int_equal(outcome.status, STATUS_CANCELLED);
        assert_string_not_equal(outcome.error.text, "");
    }
}

static void an_end_waits_for_queries_in_flight(void **state)
{
    struct serving_fixture *f = serve_first(state);
    struct flight flight;
    struct ending ending = {.serving = f->serving};
    pthread_t thread;
    gate_close(&f->gate);
    flight_begin(f, &flight);
    gate_wait_reached(&f->gate);
    f->serving = NULL;
    assert_int_equal(pthread_create(&thread, NULL, ending_main, &ending), 0);
    ending_wait_told(&ending);
    assert_true(process_open_in(root_path(f, "a")) > 0);
    gate_open(&f->gate);
    flight_end(f, &flight, FIRST);
    pthread_join(thread, NULL);
    assert_int_equal(process_open_in(root_path(f, "a")), 0);
}

/* At whatever point of a load it comes. */
static void an_end_may_come_while_the_next_is_opened(void **state)
{
    enum { ROUNDS = 24 };
    struct serving_fixture *f = *state;
    root_add_and_publish(f, "a", FIRST);
    root_add(f, "b", SECOND);
    uint32_t fds = process_count("fd"), tasks = process_count("task");
    for (int round = 0; round < ROUNDS; round++) {
        struct serving_params params = serving_usual(f);
        struct asked asked;
        params.swap = round % 2 ? SERVING_REPLACE : SERVING_OVERLAP;
        root_publish(f, "a");
        serving_start(f, &params);
        root_publish(f, "b");
        asked_begin(f, &asked);
        for (int spin = 0; spin < round * 200; spin++)
            (void)serving_stats_of(f);
        serving_stop(f);
        const struct serving_outcome outcome = asked_end(&asked);
        assert_true(outcome.status == STATUS_OK || outcome.status == STATUS_CANCELLED);
    }
    assert_int_equal(process_count("fd"), fds);
    assert_int_equal(process_count("task"), tasks);
}

/* ---- descriptors ---- */

static void a_swap_without_descriptors_is_refused_until_there_are_some(void **state)
{
    struct serving_fixture *f = serve_first(state);
    struct rlimit before, tight;
    uint32_t fds = process_count("fd");
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, has_swapped, 1);
    root_publish(f, "a");
    serving_wait(f, has_swapped, 2);
    (void)serving_look(f); /* what was replaced is closed when it is answered */
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = dup(0);
    assert_true(next >= 0);
    close(next);
    /* Each failure on the way, from the first descriptor to the last. */
    uint64_t refused = 0;
    bool swapped = false;
    for (rlim_t room = 0; !swapped; room++) {
        assert_true(room < 64);
        tight = before;
        tight.rlim_cur = (rlim_t)next + room;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
        root_link(f, "b");
        const struct serving_outcome outcome = serving_look(f);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        swapped = outcome.status == STATUS_OK;
        expect_live(f, swapped ? "b" : "a", swapped ? SECOND : FIRST);
        refused += !swapped;
        if (!swapped) {
            assert_string_not_equal(serving_stats_of(f).refused_reason, "");
            root_publish(f, "a");
            assert_int_equal(serving_look(f).status, STATUS_OK);
            assert_int_equal(process_count("fd"), fds);
        }
    }
    assert_true(refused > 2);
}

/* ---- clients that hammer ---- */

struct hammer {
    const struct serving_fixture *f;
    struct service *service;
    pthread_t thread;
    _Atomic bool *stop;
    uint64_t answers;
    uint32_t kinds_seen; /* a bit each */
    char fault[ERROR_TEXT_BYTES];
};

static bool answer_is_right(const struct serving_fixture *f, const struct client_answer *answer,
                            uint32_t kind)
{
    struct search_hit hits[SERVING_QUERIES * SERVING_K];
    if (kind == SERVING_KINDS)
        return false;
    for (size_t i = 0; i < ARRAY_LENGTH(hits); i++)
        hits[i] =
            (struct search_hit){.key = answer->hits[i].key, .distance = answer->hits[i].distance};
    return answers_are(f, kind, hits);
}

/* A thread: no cmocka in here. */
static void *hammer_main(void *context)
{
    struct hammer *hammer = context;
    struct client *client = NULL;
    struct client_answer answer;
    struct error err = {0};
    struct client_search search = service_search(hammer->f->queries[0], SERVING_QUERIES, SERVING_K);
    search.origin = true;
    if (client_connect(hammer->service->data->socket, &client, &err) != STATUS_OK)
        snprintf(hammer->fault, sizeof(hammer->fault), "%s", err.text);
    while (!hammer->fault[0] && !atomic_load(hammer->stop)) {
        if (client_search(client, &search, &answer, &err) != STATUS_OK) {
            snprintf(hammer->fault, sizeof(hammer->fault), "%s", err.text);
            break;
        }
        uint32_t kind = kind_of(hammer->f, answer.generation_low, answer.generation_high);
        if (!answer_is_right(hammer->f, &answer, kind))
            snprintf(hammer->fault, sizeof(hammer->fault), "a wrong answer of kind %u", kind);
        hammer->answers++;
        hammer->kinds_seen |= 1u << kind;
    }
    client_close(client);
    return NULL;
}

static void swap_often(const struct serving_fixture *f, struct service *service, int swaps)
{
    static const char *const names[] = {"second", "third", "gen"};
    struct client *client = service_connect(service);
    struct error err;
    for (int i = 0; i < swaps; i++) {
        struct client_reload reload;
        const char *name = names[i % 3];
        fixture_must(publish_generation(f->data->root, name, &err), &err);
        fixture_must(client_reload(client, &reload, &err), &err);
        assert_string_equal(reload.name, name);
    }
    client_close(client);
}

static bool hammers_alone_are_connected(const struct server_stats *stats)
{
    return stats->connections == 3;
}

static void swaps_in_a_row_fail_no_query_and_leave_nothing(void **state)
{
    enum { HAMMERS = 3, WARM_UP = 9, SWAPS = 30, RSS_SLACK = 8 << 20 };
    const struct serving_fixture *f = *state;
    const char *mode = getenv("NIGHTJAR_MODE");
    const struct service_options options = {.root = true, .threads = 2};
    struct hammer hammers[HAMMERS] = {0};
    _Atomic bool stop = false;
    struct service *service = service_start(f->data, &options);
    service_let_go(service);
    for (size_t i = 0; i < HAMMERS; i++) {
        hammers[i].f = f;
        hammers[i].service = service;
        hammers[i].stop = &stop;
        assert_int_equal(pthread_create(&hammers[i].thread, NULL, hammer_main, &hammers[i]), 0);
    }
    swap_often(f, service, WARM_UP);
    service_wait(service, hammers_alone_are_connected);
    uint64_t rss = memory_rss();
    uint32_t fds = process_count("fd"), tasks = process_count("task");
    swap_often(f, service, SWAPS);
    service_wait(service, hammers_alone_are_connected);
    uint64_t grown = memory_rss();
    /* The one replaced last is freed a little after the reload was answered. */
    for (uint64_t since_ns = clock_monotonic_ns();
         process_count("fd") > fds || process_count("task") > tasks;)
        poll_pause(since_ns, "descriptors or threads are left");
    atomic_store(&stop, true);
    for (size_t i = 0; i < HAMMERS; i++) {
        pthread_join(hammers[i].thread, NULL);
        if (hammers[i].fault[0])
            fail_msg("%s", hammers[i].fault);
        assert_true(hammers[i].answers > 0);
    }
    /* Sanitizers keep what was freed. */
    if (!mode || strcmp(mode, "release") == 0)
        assert_true(grown < rss + RSS_SLACK);
    struct serving_stats stats;
    serving_stats_get(service->serving, &stats);
    assert_true(stats.swaps >= WARM_UP + SWAPS);
    assert_int_equal(stats.refused, 0);
    service_destroy(service);
    /* Only the first test of the program would find it as it was. */
    struct error err;
    fixture_must(publish_generation(f->data->root, "gen", &err), &err);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, serving_test_setup, serving_test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(queries_in_flight_end_on_the_generation_they_began_with),
        TEST(counters_only_grow_over_swaps),
        TEST(gauges_are_those_of_the_live_one),
        TEST(an_end_cancels_the_wishes_that_wait),
        TEST(an_end_waits_for_queries_in_flight),
        TEST(an_end_may_come_while_the_next_is_opened),
        TEST(a_swap_without_descriptors_is_refused_until_there_are_some),
        TEST(swaps_in_a_row_fail_no_query_and_leave_nothing),
    };
    return cmocka_run_group_tests(tests, serving_group_setup, serving_group_teardown);
}
