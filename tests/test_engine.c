/*
 * test_engine.c - searches over small generations: what they find, what they count, and that every
 * query submitted comes back exactly once, whatever happens to reads, queues and deadlines.
 *
 * Beam width 1 makes a search's order of steps a function of the query alone, so tests that compare
 * answers ask for it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/engine_fixture.h"
#include "tests/generation_fixture.h"

/* A collection of its own, served cold. */
struct served {
    struct collection *collection;
    struct index *index;
    struct engine *engine;
};

static struct served served_open(const struct engine_fixture *f, const char *name,
                                 const struct collection_spec *spec)
{
    struct served served = {.collection = collection_create(f->directory, name, spec)};
    served.index = collection_open(served.collection, 0);
    served.engine = engine_plain(served.index);
    return served;
}

static void served_close(const struct served *served)
{
    engine_destroy(served->engine);
    index_release(served->index);
    collection_destroy(served->collection);
}

/* ---- what is found ---- */

static void recall_is_high_for_every_type_and_metric(void **state)
{
    const struct engine_fixture *f = *state;
    static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    static const struct ask ask = {.k = FIXTURE_K, .search_list = 30};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            const struct collection_spec spec = {types[t],        metrics[m], 700, 24,
                                                 FIXTURE_QUERIES, NULL,       0};
            char name[64];
            snprintf(name, sizeof(name), "recall-%s-%s", element_name(types[t]),
                     metric_name(metrics[m]));
            const struct served served = served_open(f, name, &spec);
            struct answers a = answers_get(served.engine, served.collection, &ask);
            answers_check(served.collection, &a);
            const double recall = answers_recall(served.collection, &a);
            print_message("%s: recall %.4f\n", name, recall);
            /* Codes of few bytes rank inner products of signed data less well. */
            assert_true(recall >= (metrics[m] == METRIC_IP ? 0.95 : 0.985));
            answers_free(&a);
            served_close(&served);
        }
}

/* What a search does is the same: not only its hits. */
static void assert_same_work(const struct answers *a, const struct answers *b)
{
    assert_same_answers(a, b);
    assert_int_equal(a->sum.hops, b->sum.hops);
    assert_int_equal(a->sum.reads + a->sum.cache_hits, b->sum.reads + b->sum.cache_hits);
    assert_int_equal(a->sum.exact_distances, b->sum.exact_distances);
    assert_int_equal(a->sum.code_distances, b->sum.code_distances);
}

static void assert_same_under_any_engine(const struct engine_fixture *f, struct index *index,
                                         const struct collection *c, const struct answers *wanted)
{
    static const uint32_t threads[] = {1, 2, 5};
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++)
        for (size_t t = 0; t < ARRAY_LENGTH(threads); t++) {
            const struct engine_params params = {.threads = threads[t], .io_kind = io_kinds[kind]};
            struct engine *engine = engine_start(index, &params);
            struct answers a = answers_get(engine, c, &ask_usual);
            assert_same_work(&a, wanted);
            answers_free(&a);
            engine_destroy(engine);
        }
}

static void cached_blocks_io_kind_and_threads_do_not_change_the_work(void **state)
{
    const struct engine_fixture *f = *state;
    struct engine *engine = engine_plain(f->cold);
    struct answers wanted = answers_get(engine, f->base, &ask_usual);
    engine_destroy(engine);
    answers_check(f->base, &wanted);
    assert_same_under_any_engine(f, f->cold, f->base, &wanted);
    assert_same_under_any_engine(f, f->cached, f->base, &wanted);
    answers_free(&wanted);
}

static void io_kind_and_threads_do_not_change_the_work_in_other_tiers(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *const indexes[] = {f->resident, f->listed};
    const struct collection *const collections[] = {f->base, f->wide};
    for (size_t i = 0; i < ARRAY_LENGTH(indexes); i++) {
        struct engine *engine = engine_plain(indexes[i]);
        struct answers wanted = answers_get(engine, collections[i], &ask_usual);
        engine_destroy(engine);
        answers_check(collections[i], &wanted);
        assert_same_under_any_engine(f, indexes[i], collections[i], &wanted);
        answers_free(&wanted);
    }
}

static void statistics_add_up(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *const indexes[] = {f->cold, f->cached, f->resident, f->listed};
    for (size_t i = 0; i < ARRAY_LENGTH(indexes); i++) {
        const struct engine_params params = {.threads = 2};
        struct engine *engine = engine_start(indexes[i], &params);
        const struct collection *c = indexes[i] == f->listed ? f->wide : f->base;
        struct answers a = answers_get(engine, c, &ask_usual);
        const struct engine_stats stats = stats_of(engine);
        assert_int_equal(stats.queries, FIXTURE_QUERIES);
        assert_int_equal(stats.reads, a.sum.reads);
        assert_int_equal(stats.shared_reads, a.sum.shared_reads);
        assert_int_equal(stats.read_latency.count, stats.reads - stats.shared_reads);
        assert_int_equal(stats.cache_hits, a.sum.cache_hits);
        assert_int_equal(stats.exact_distances, a.sum.exact_distances);
        assert_int_equal(stats.code_distances, a.sum.code_distances);
        assert_int_equal(stats.timeouts + stats.degraded + stats.read_retries +
                             stats.failed_blocks + stats.queued + stats.in_flight,
                         0);
        assert_int_equal(stats.threads, 2);
        assert_true(strlen(stats.io) > 0);
        assert_ptr_equal(engine_index(engine), indexes[i]);
        assert_int_equal(a.sum.reads == 0, indexes[i] == f->resident);
        assert_int_equal(a.sum.cache_hits == 0, indexes[i] == f->cold || indexes[i] == f->listed);
        answers_free(&a);
        engine_destroy(engine);
    }
}

static void statistics_of_two_engines_become_one(void **state)
{
    const struct engine_fixture *f = *state;
    static struct engine_stats sum, once;
    struct engine *engine = engine_plain(f->cached);
    struct answers a = answers_get(engine, f->base, &ask_usual);
    once = stats_of(engine);
    engine_destroy(engine);
    sum = (struct engine_stats){.queued = 3, .in_flight = 4, .reads_in_flight = 5, .threads = 6};
    for (uint32_t i = 1; i <= 2; i++) {
        engine_stats_add(&sum, &once);
        assert_int_equal(sum.queries, i * FIXTURE_QUERIES);
        assert_int_equal(sum.reads, i * a.sum.reads);
        assert_int_equal(sum.cache_hits, i * a.sum.cache_hits);
        assert_int_equal(sum.code_distances, i * a.sum.code_distances);
        assert_int_equal(sum.exact_distances, i * a.sum.exact_distances);
        assert_int_equal(sum.busy_ns, i * once.busy_ns);
        assert_int_equal(sum.latency.count, sum.queries);
        assert_int_equal(sum.shared_reads, i * a.sum.shared_reads);
        assert_int_equal(sum.read_latency.count, sum.reads - sum.shared_reads);
    }
    assert_true(histogram_percentile_ns(&sum.latency, 0.5) ==
                histogram_percentile_ns(&once.latency, 0.5));
    assert_int_equal(sum.queued + sum.in_flight + sum.reads_in_flight + sum.threads, 18);
    const struct engine_stats rare = {.timeouts = 1,
                                      .degraded = 2,
                                      .busy = 3,
                                      .read_retries = 4,
                                      .read_timeouts = 5,
                                      .failed_blocks = 6};
    engine_stats_add(&sum, &rare);
    engine_stats_add(&sum, &rare);
    assert_int_equal(sum.timeouts, 2);
    assert_int_equal(sum.degraded, 4);
    assert_int_equal(sum.busy, 6);
    assert_int_equal(sum.read_retries, 8);
    assert_int_equal(sum.read_timeouts, 10);
    assert_int_equal(sum.failed_blocks, 12);
    answers_free(&a);
}

static void every_beam_width_gives_true_answers(void **state)
{
    const struct engine_fixture *f = *state;
    static const uint32_t widths[] = {0, 2, 8, ENGINE_BEAM_WIDTH_MAX};
    struct engine *engine = engine_plain(f->cold);
    for (size_t i = 0; i < ARRAY_LENGTH(widths); i++) {
        struct ask ask = ask_usual;
        ask.beam_width = widths[i];
        struct answers a = answers_get(engine, f->base, &ask);
        answers_check(f->base, &a);
        assert_true(answers_recall(f->base, &a) >= 0.97);
        answers_free(&a);
    }
    engine_destroy(engine);
}

static void the_largest_list_and_k_are_served(void **state)
{
    const struct engine_fixture *f = *state;
    static const struct ask asks[] = {{.k = FIXTURE_K, .search_list = ENGINE_SEARCH_LIST_MAX},
                                      {.k = 1024, .search_list = ENGINE_SEARCH_LIST_MAX}};
    struct engine *engine = engine_plain(f->cold);
    for (size_t i = 0; i < ARRAY_LENGTH(asks); i++) {
        struct answers a = answers_get(engine, f->base, &asks[i]);
        answers_check(f->base, &a);
        for (uint32_t q = 0; q < a.count; q++)
            assert_int_equal(a.queries[q].hit_count, asks[i].k);
        assert_true(answers_recall(f->base, &a) >= 0.99);
        answers_free(&a);
    }
    engine_destroy(engine);
}

/* With one read in flight, a search at a larger ratio takes the steps of one at a smaller ratio and
 * then goes on. (0 has a rule of its own for what is expanded: see below.) */
static void a_larger_stop_ratio_reads_no_less_and_finds_no_farther(void **state)
{
    const struct engine_fixture *f = *state;
    static const float ratios[] = {0.5f, 0.8f, 1.0f, 1.2f, 2.0f, 1e30f};
    struct index *const indexes[] = {f->cold, f->cached, f->resident, f->listed};
    for (size_t i = 0; i < ARRAY_LENGTH(indexes); i++) {
        const struct collection *c = indexes[i] == f->listed ? f->wide : f->base;
        struct engine *engine = engine_plain(indexes[i]);
        struct answers last = {0};
        uint32_t first_work = 0;
        for (size_t r = 0; r < ARRAY_LENGTH(ratios); r++) {
            struct ask ask = ask_usual;
            ask.search_ratio = ratios[r];
            struct answers a = answers_get(engine, c, &ask);
            answers_check(c, &a);
            for (uint32_t q = 0; q < a.count; q++) {
                const struct search_query *now = &a.queries[q], *before = &last.queries[q];
                assert_int_equal(now->hit_count, FIXTURE_K);
                if (r == 0)
                    continue;
                assert_true(now->stats.reads >= before->stats.reads);
                assert_true(now->stats.cache_hits >= before->stats.cache_hits);
                for (uint32_t h = 0; h < FIXTURE_K; h++)
                    assert_true(now->hits[h].distance <= before->hits[h].distance);
            }
            if (r == 0)
                first_work = a.sum.exact_distances;
            else
                answers_free(&last);
            last = a;
        }
        assert_true(first_work < last.sum.exact_distances);
        answers_free(&last);
        engine_destroy(engine);
    }
}

/* A ratio that never stops a search still widens what is expanded while lists come from blocks:
 * other reads, and no worse an answer. Where lists are in memory, it is no ratio at all. */
static void a_ratio_that_never_stops_only_widens_what_is_expanded(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *const indexes[] = {f->cold, f->resident, f->listed};
    struct ask ask = ask_usual;
    ask.search_ratio = 1e30f;
    for (size_t i = 0; i < ARRAY_LENGTH(indexes); i++) {
        const struct collection *c = indexes[i] == f->listed ? f->wide : f->base;
        struct engine *engine = engine_plain(indexes[i]);
        struct answers without = answers_get(engine, c, &ask_usual);
        struct answers with = answers_get(engine, c, &ask);
        if (indexes[i] == f->cold) {
            print_message("reads %u, hops %u; with the rule %u, %u\n", without.sum.reads,
                          without.sum.hops, with.sum.reads, with.sum.hops);
            assert_true(with.sum.hops > without.sum.hops);
            assert_true(answers_recall(c, &with) >= answers_recall(c, &without));
        } else {
            assert_same_work(&with, &without);
        }
        answers_free(&with);
        answers_free(&without);
        engine_destroy(engine);
    }
}

/* ---- unusual collections ---- */

static void k_of_all_vectors_returns_every_one(void **state)
{
    const struct engine_fixture *f = *state;
    static const uint32_t counts[] = {1, 2, 3, 50, 300};
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        const struct collection_spec spec = {ELEMENT_U8, METRIC_L2, counts[i], 20, 3, NULL, 0};
        const struct ask ask = {.k = counts[i], .search_list = counts[i]};
        char name[32];
        snprintf(name, sizeof(name), "all-%u", counts[i]);
        const struct served served = served_open(f, name, &spec);
        struct answers a = answers_get(served.engine, served.collection, &ask);
        answers_check(served.collection, &a);
        for (uint32_t q = 0; q < a.count; q++)
            assert_int_equal(a.queries[q].hit_count, counts[i]);
        answers_free(&a);
        served_close(&served);
    }
}

static void equal_vectors_are_all_hits_at_distance_zero(void **state)
{
    const struct engine_fixture *f = *state;
    enum { COUNT = 10000, DIM = 4 };
    static uint8_t rows[COUNT * DIM];
    static const struct ask asks[] = {{.k = FIXTURE_K, .search_list = FIXTURE_K},
                                      {.k = 1000, .search_list = 1000}};
    memset(rows, 7, sizeof(rows));
    const struct collection_spec spec = {ELEMENT_U8, METRIC_L2, COUNT, DIM, 2, rows, 0};
    const struct served served = served_open(f, "equal", &spec);
    memset(served.collection->queries, 7, (size_t)spec.query_count * DIM);
    for (size_t i = 0; i < ARRAY_LENGTH(asks); i++) {
        struct answers a = answers_get(served.engine, served.collection, &asks[i]);
        for (uint32_t q = 0; q < a.count; q++) {
            assert_int_equal(a.queries[q].hit_count, asks[i].k);
            assert_distinct(&a.queries[q]);
            for (uint32_t h = 0; h < asks[i].k; h++)
                assert_true(a.queries[q].hits[h].distance == 0.0f);
        }
        answers_free(&a);
    }
    served_close(&served);
}

/* ---- queue, deadline, threads ---- */

/* Every completion posts the semaphore in `user`. */
static void post_complete(struct search_query *query)
{
    sem_post(query->user);
}

static uint32_t posts_of(sem_t *semaphore)
{
    int value = -1;
    assert_int_equal(sem_getvalue(semaphore, &value), 0);
    return (uint32_t)value;
}

/* Holds the worker in its first read until `go` is posted. */
struct gate {
    sem_t reached, go;
};

static int gate_on_read(void *context, uint64_t offset, void *buffer, uint32_t bytes, int result)
{
    struct gate *gate = context;
    (void)offset, (void)buffer, (void)bytes;
    sem_post(&gate->reached);
    sem_wait(&gate->go);
    sem_post(&gate->go);
    return result;
}

static void a_full_queue_is_busy_and_completes_only_what_it_took(void **state)
{
    const struct engine_fixture *f = *state;
    enum { LIMIT = 3, COUNT = 1 + LIMIT };
    struct gate gate;
    struct search_query queries[COUNT], refused;
    struct search_hit hits[COUNT + 1][FIXTURE_K];
    sem_t completed[COUNT + 1];
    sem_init(&gate.reached, 0, 0);
    sem_init(&gate.go, 0, 0);
    const struct block_io_faults hook = {.on_read = gate_on_read, .context = &gate};
    const struct engine_params params = {
        .threads = 1, .slots_per_thread = 1, .queue_limit = LIMIT, .faults = &hook};
    struct engine *engine = engine_start(f->cold, &params);
    for (uint32_t i = 0; i <= COUNT; i++) {
        struct search_query *query = i < COUNT ? &queries[i] : &refused;
        sem_init(&completed[i], 0, 0);
        *query = query_make(f->base, i, &ask_usual, hits[i]);
        query->complete = post_complete;
        query->user = &completed[i];
        assert_int_equal(engine_submit(engine, query), i < COUNT ? STATUS_OK : STATUS_BUSY);
        if (i == 0)
            sem_wait(&gate.reached); /* the only slot is taken: the rest will queue */
    }
    assert_int_equal(engine_submit(engine, &refused), STATUS_BUSY);
    assert_int_equal(stats_of(engine).queued, LIMIT);
    assert_int_equal(stats_of(engine).in_flight, 1);
    sem_post(&gate.go);
    engine_destroy(engine);
    for (uint32_t i = 0; i < COUNT; i++) {
        answer_check(f->base, &queries[i], i);
        assert_int_equal(posts_of(&completed[i]), 1);
    }
    assert_int_equal(posts_of(&completed[COUNT]), 0);
}

static void a_deadline_in_the_past_is_a_timeout_and_completes_once(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *const indexes[] = {f->cold, f->resident, f->listed};
    for (size_t i = 0; i < ARRAY_LENGTH(indexes); i++) {
        const struct collection *c = indexes[i] == f->listed ? f->wide : f->base;
        struct engine *engine = engine_plain(indexes[i]);
        struct search_hit hits[FIXTURE_K];
        struct search_query query = query_make(c, 0, &ask_usual, hits);
        sem_t completed;
        sem_init(&completed, 0, 0);
        query.complete = post_complete;
        query.user = &completed;
        query.deadline_ns = 1;
        assert_int_equal(engine_submit(engine, &query), STATUS_OK);
        sem_wait(&completed);
        assert_int_equal(query.status, STATUS_TIMEOUT);
        assert_int_equal(query.hit_count, 0);
        assert_int_equal(query.stats.reads, 0);
        assert_int_equal(stats_of(engine).timeouts, 1);
        engine_destroy(engine);
        assert_int_equal(posts_of(&completed), 0);
    }
}

/* Holds a read until the deadline in `context` has passed. */
static int late_on_read(void *context, uint64_t offset, void *buffer, uint32_t bytes, int result)
{
    const uint64_t *deadline_ns = context;
    (void)offset, (void)buffer, (void)bytes;
    while (clock_monotonic_ns() <= *deadline_ns)
        sched_yield();
    return result;
}

static void search_past_its_deadline(struct index *index, const struct collection *c,
                                     uint32_t beam_width)
{
    uint64_t deadline_ns = clock_monotonic_ns() + 20000000;
    const struct block_io_faults hook = {.on_read = late_on_read, .context = &deadline_ns};
    const struct engine_params params = {.threads = 1, .faults = &hook};
    struct engine *engine = engine_start(index, &params);
    struct search_hit hits[2][FIXTURE_K];
    struct search_query queries[2];
    for (uint32_t q = 0; q < 2; q++) {
        queries[q] = query_make(c, q, &ask_usual, hits[q]);
        queries[q].beam_width = beam_width;
    }
    queries[0].deadline_ns = deadline_ns; /* the other has none and is served */
    engine_search_all(engine, queries, 2, 0);
    assert_int_equal(queries[0].status, STATUS_TIMEOUT);
    assert_true(queries[0].hit_count <= FIXTURE_K);
    answer_check(c, &queries[1], 1);
    assert_int_equal(queries[1].hit_count, FIXTURE_K);
    assert_int_equal(stats_of(engine).timeouts, 1);
    assert_int_equal(stats_of(engine).in_flight, 0);
    engine_destroy(engine);
}

static void a_deadline_that_passes_during_the_search_is_a_timeout(void **state)
{
    const struct engine_fixture *f = *state;
    static const uint32_t widths[] = {1, 8};
    for (size_t i = 0; i < ARRAY_LENGTH(widths); i++) {
        search_past_its_deadline(f->cold, f->base, widths[i]);
        search_past_its_deadline(f->listed, f->wide, widths[i]);
    }
}

enum { CLIENTS = 6, ROUNDS = 60 };

struct client {
    pthread_t thread;
    struct engine *engine;
    const struct collection *collection;
    const struct answers *wanted;
    uint32_t number;
    uint32_t wrong;
};

/* Asserts are the test's thread's: cmocka cannot leave any other. */
static void *client_main(void *context)
{
    struct client *client = context;
    struct search_hit hits[FIXTURE_K];
    sem_t completed;
    sem_init(&completed, 0, 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t number = (client->number * 7 + round) % FIXTURE_QUERIES;
        const struct search_query *wanted = &client->wanted->queries[number];
        struct search_query query = query_make(client->collection, number, &ask_usual, hits);
        query.complete = post_complete;
        query.user = &completed;
        while (engine_submit(client->engine, &query) == STATUS_BUSY)
            sched_yield();
        sem_wait(&completed);
        bool same = query.status == STATUS_OK && query.hit_count == wanted->hit_count;
        for (uint32_t i = 0; same && i < query.hit_count; i++)
            same = hits[i].key == wanted->hits[i].key;
        client->wrong += !same;
    }
    sem_destroy(&completed);
    return NULL;
}

static void submit_side_by_side(struct index *index, const struct collection *c,
                                enum block_io_kind kind)
{
    struct engine *plain = engine_plain(index);
    struct answers wanted = answers_get(plain, c, &ask_usual);
    engine_destroy(plain);
    struct client clients[CLIENTS];
    const struct engine_params params = {.threads = 2,
                                         .pin = true,
                                         .slots_per_thread = 2,
                                         .queue_limit = 2, /* so that some meet BUSY */
                                         .io_kind = kind};
    struct engine *engine = engine_start(index, &params);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        clients[i] =
            (struct client){.engine = engine, .collection = c, .wanted = &wanted, .number = i};
        assert_int_equal(pthread_create(&clients[i].thread, NULL, client_main, &clients[i]), 0);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        (void)stats_of(engine);
        pthread_join(clients[i].thread, NULL);
        assert_int_equal(clients[i].wrong, 0);
    }
    assert_int_equal(stats_of(engine).queries, CLIENTS * ROUNDS);
    assert_int_equal(stats_of(engine).queued + stats_of(engine).in_flight, 0);
    engine_destroy(engine);
    answers_free(&wanted);
}

static void threads_may_submit_side_by_side(void **state)
{
    const struct engine_fixture *f = *state;
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++) {
        submit_side_by_side(f->cached, f->base, io_kinds[kind]);
        submit_side_by_side(f->resident, f->base, io_kinds[kind]);
        submit_side_by_side(f->listed, f->wide, io_kinds[kind]);
    }
}

static void destroy_completes_everything_submitted(void **state)
{
    const struct engine_fixture *f = *state;
    static const uint32_t bursts[] = {FIXTURE_QUERIES, 1, 1, 2, 3, 1, 1, 5, 1, 1};
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++)
        for (uint32_t round = 0; round < 3 * ARRAY_LENGTH(bursts); round++) {
            const uint32_t burst = bursts[round % ARRAY_LENGTH(bursts)];
            const struct engine_params params = {
                .threads = 2, .slots_per_thread = 2, .io_kind = io_kinds[kind]};
            struct engine *engine = engine_start(round & 1 ? f->cached : f->resident, &params);
            struct search_query queries[FIXTURE_QUERIES];
            struct search_hit hits[FIXTURE_QUERIES][FIXTURE_K];
            sem_t completed;
            sem_init(&completed, 0, 0);
            for (uint32_t q = 0; q < burst; q++) {
                queries[q] = query_make(f->base, q, &ask_usual, hits[q]);
                queries[q].complete = post_complete;
                queries[q].user = &completed;
                assert_int_equal(engine_submit(engine, &queries[q]), STATUS_OK);
            }
            engine_destroy(engine);
            assert_int_equal(posts_of(&completed), burst);
            for (uint32_t q = 0; q < burst; q++)
                answer_check(f->base, &queries[q], q);
        }
    engine_destroy(NULL);
}

/* ---- refusals ---- */

static void assert_refused(const struct engine *engine, const struct search_query *query,
                           const char *words)
{
    struct error err = {0};
    assert_int_equal(engine_query_check(engine, query, &err), STATUS_INVALID);
    if (!strstr(err.text, words))
        fail_msg("got: %s; wanted: %s", err.text, words);
}

static void a_query_out_of_range_is_refused_for_its_reason(void **state)
{
    const struct engine_fixture *f = *state;
    struct engine *engine = engine_plain(f->cold);
    const struct ask max = {.k = 1024,
                            .search_list = ENGINE_SEARCH_LIST_MAX,
                            .beam_width = ENGINE_BEAM_WIDTH_MAX,
                            .search_ratio = 1e30f};
    const struct {
        struct ask ask;
        const char *words;
    } cases[] = {
        {{.k = 0, .search_list = 10}, "k is 0"},
        {{.k = ENGINE_K_MAX + 1, .search_list = ENGINE_SEARCH_LIST_MAX}, "k is 4097"},
        {{.k = 11, .search_list = 10}, "above the search list of 10"},
        {{.k = 1, .search_list = 0}, "above the search list of 0"},
        {{.k = 1, .search_list = ENGINE_SEARCH_LIST_MAX + 1}, "search list is 4097, at most 4096"},
        {{.k = 1, .search_list = UINT32_MAX}, "search list is 4294967295"},
        {{.k = 1, .search_list = 1, .beam_width = ENGINE_BEAM_WIDTH_MAX + 1}, "beam width is 65"},
        {{.k = 1, .search_list = 1, .search_ratio = NAN}, "search ratio"},
        {{.k = 1, .search_list = 1, .search_ratio = INFINITY}, "search ratio"},
        {{.k = 1, .search_list = 1, .search_ratio = -0.5f}, "search ratio"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const struct search_query query = query_make(f->base, 0, &cases[i].ask, NULL);
        assert_refused(engine, &query, cases[i].words);
    }
    const struct search_query query = query_make(f->base, 0, &max, NULL);
    struct error err;
    ASSERT_STATUS_OK(engine_query_check(engine, &query, &err), err);
    engine_destroy(engine);
}

static void a_vector_without_a_distance_is_refused(void **state)
{
    const struct engine_fixture *f = *state;
    static const struct ask ask = {.k = 1, .search_list = 1};
    struct engine *engine = engine_plain(f->listed);
    struct search_query query = query_make(f->wide, 0, &ask, NULL);
    float vector[FIXTURE_WIDE_DIM] = {0};
    query.vector = vector;
    struct error err;
    ASSERT_STATUS_OK(engine_query_check(engine, &query, &err), err); /* l2 takes zeros */
    vector[FIXTURE_WIDE_DIM - 1] = NAN;
    assert_refused(engine, &query, "dimension 191");
    vector[5] = -INFINITY;
    assert_refused(engine, &query, "dimension 5");
    memset(vector, 0, sizeof(vector));
    vector[5] = 1e19f;
    assert_refused(engine, &query, "query is too long a vector");
    engine_destroy(engine);

    const struct collection_spec spec = {ELEMENT_I8, METRIC_COSINE, 20, 8, 1, NULL, 0};
    const struct served served = served_open(f, "cosine", &spec);
    query = query_make(served.collection, 0, &ask, NULL);
    ASSERT_STATUS_OK(engine_query_check(served.engine, &query, &err), err);
    memset(served.collection->queries, 0, spec.dim);
    assert_refused(served.engine, &query, "zero vector");
    query.k = query.search_list = 21;
    assert_refused(served.engine, &query, "k is 21, but the index holds 20 vectors");
    served_close(&served);
}

/* Its elements are finite, but sums of their products may not be. */
static void a_query_of_any_length_that_is_taken_has_finite_distances(void **state)
{
    const struct engine_fixture *f = *state;
    static const struct ask ask = {.k = 20, .search_list = 20};
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
        const struct collection_spec spec = {ELEMENT_F32, metrics[m], 20, 8, 1, NULL, 0};
        char name[64];
        snprintf(name, sizeof(name), "long-%s", metric_name(metrics[m]));
        const struct served served = served_open(f, name, &spec);
        for (int exponent = 0; exponent <= 38; exponent++) {
            struct search_hit hits[20];
            struct error err;
            float vector[8];
            struct search_query query = query_make(served.collection, 0, &ask, hits);
            for (int i = 0; i < 8; i++)
                vector[i] = (i % 2 ? -3.0f : 1.0f) * powf(10, (float)exponent);
            query.vector = vector;
            if (metrics[m] != METRIC_COSINE && exponent >= 19) {
                assert_refused(served.engine, &query, "query is too long a vector");
                continue;
            }
            ASSERT_STATUS_OK(engine_query_check(served.engine, &query, &err), err);
            engine_search_all(served.engine, &query, 1, 0);
            assert_int_equal(query.hit_count, 20);
            for (uint32_t i = 0; i < 20; i++)
                assert_true(isfinite(hits[i].distance) &&
                            (i == 0 || hits[i - 1].distance <= hits[i].distance));
        }
        served_close(&served);
    }
}

static void an_engine_out_of_range_is_refused(void **state)
{
    const struct engine_fixture *f = *state;
    static const struct engine_params params[] = {{.threads = 1025},
                                                  {.threads = 1, .slots_per_thread = 1025}};
    for (size_t i = 0; i < ARRAY_LENGTH(params); i++) {
        struct engine *engine = NULL;
        struct error err;
        assert_int_equal(engine_create(&params[i], f->cold, &engine, &err), STATUS_INVALID);
        assert_null(engine);
        assert_non_null(strstr(err.text, "1025"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recall_is_high_for_every_type_and_metric),
        cmocka_unit_test(cached_blocks_io_kind_and_threads_do_not_change_the_work),
        cmocka_unit_test(io_kind_and_threads_do_not_change_the_work_in_other_tiers),
        cmocka_unit_test(statistics_add_up),
        cmocka_unit_test(statistics_of_two_engines_become_one),
        cmocka_unit_test(every_beam_width_gives_true_answers),
        cmocka_unit_test(the_largest_list_and_k_are_served),
        cmocka_unit_test(a_larger_stop_ratio_reads_no_less_and_finds_no_farther),
        cmocka_unit_test(a_ratio_that_never_stops_only_widens_what_is_expanded),
        cmocka_unit_test(k_of_all_vectors_returns_every_one),
        cmocka_unit_test(equal_vectors_are_all_hits_at_distance_zero),
        cmocka_unit_test(a_full_queue_is_busy_and_completes_only_what_it_took),
        cmocka_unit_test(a_deadline_in_the_past_is_a_timeout_and_completes_once),
        cmocka_unit_test(a_deadline_that_passes_during_the_search_is_a_timeout),
        cmocka_unit_test(threads_may_submit_side_by_side),
        cmocka_unit_test(destroy_completes_everything_submitted),
        cmocka_unit_test(a_query_out_of_range_is_refused_for_its_reason),
        cmocka_unit_test(a_vector_without_a_distance_is_refused),
        cmocka_unit_test(a_query_of_any_length_that_is_taken_has_finite_distances),
        cmocka_unit_test(an_engine_out_of_range_is_refused),
    };
    return cmocka_run_group_tests(tests, engine_group_setup, engine_group_teardown);
}
