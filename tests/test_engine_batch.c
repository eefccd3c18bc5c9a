/*
 * test_engine_batch.c - queries in flight together: they share reads of blocks that they have in
 * common, which changes no answer, and what happens to a shared read happens to all who wait for
 * it, once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/engine_fixture.h"

enum { COUNT = FIXTURE_QUERIES, HOUR_MS = 3600 * 1000, NS_PER_MS = 1000000, ROUNDS_MAX = 100 };

/* A device that counts reads, keeps those back that begin before a time, and fails the first. */
struct device {
    struct block_io_faults hook;
    atomic_uint_fast64_t well_from_ns; /* UINT64_MAX: it hangs */
    atomic_uint reads;                 /* that ended */
    unsigned failures;
};

static bool device_holds(void *context, uint64_t offset, uint64_t age_ns)
{
    struct device *device = context;
    (void)offset;
    return clock_monotonic_ns() - age_ns < atomic_load(&device->well_from_ns);
}

static int device_on_read(void *context, uint64_t offset, void *buffer, uint32_t bytes, int result)
{
    struct device *device = context;
    (void)offset;
    assert_int_equal(result, bytes);
    if (atomic_fetch_add(&device->reads, 1) >= device->failures)
        return result;
    memset(buffer, 0, bytes);
    return -EIO;
}

static void device_hang(struct device *device)
{
    atomic_store(&device->well_from_ns, UINT64_MAX);
}

static void device_mend(struct device *device)
{
    atomic_store(&device->well_from_ns, 0);
}

static struct engine *start(struct index *index, struct device *device, enum block_io_kind kind,
                            uint32_t read_timeout_ms)
{
    *device = (struct device){.hook = {.on_read = device_on_read, .holds = device_holds}};
    device->hook.context = device;
    const struct engine_params params = {.threads = 1,
                                         .slots_per_thread = COUNT,
                                         .io_kind = kind,
                                         .read_timeout_ms = read_timeout_ms,
                                         .faults = &device->hook};
    return engine_start(index, &params);
}

/* What the device read is what queries say. */
static void assert_reads_add_up(const struct engine *engine, struct device *device)
{
    const struct engine_stats stats = stats_of(engine);
    assert_int_equal(stats.reads - stats.shared_reads, atomic_load(&device->reads));
    assert_int_equal(stats.read_latency.count, atomic_load(&device->reads));
    assert_int_equal(stats.reads_in_flight, 0);
}

/* ---- many queries, each with its hits ---- */

struct crowd {
    struct search_query queries[COUNT];
    struct search_hit hits[COUNT][FIXTURE_K];
    uint8_t *vectors; /* of near ones */
    atomic_uint done;
};

static void crowd_complete(struct search_query *query)
{
    struct crowd *crowd = query->user;
    atomic_fetch_add(&crowd->done, 1);
}

/* All ask what query 0 of the collection does. */
static struct crowd *crowd_create(const struct collection *c)
{
    struct crowd *crowd = calloc(1, sizeof(*crowd));
    assert_non_null(crowd);
    for (uint32_t i = 0; i < COUNT; i++) {
        crowd->queries[i] = query_make(c, 0, &ask_usual, crowd->hits[i]);
        crowd->queries[i].complete = crowd_complete;
        crowd->queries[i].user = crowd;
    }
    return crowd;
}

/* Each differs from query 0 by one in one place. The collection's elements are bytes. */
static struct crowd *crowd_create_near(const struct collection *c)
{
    struct crowd *crowd = crowd_create(c);
    const uint32_t dim = c->spec.dim;
    crowd->vectors = malloc((size_t)COUNT * dim);
    assert_non_null(crowd->vectors);
    assert_int_equal(c->spec.type, ELEMENT_U8);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint8_t *vector = crowd->vectors + (size_t)i * dim;
        memcpy(vector, collection_query(c, 0), dim);
        vector[i % dim] ^= 1;
        crowd->queries[i].vector = vector;
    }
    return crowd;
}

static void crowd_free(struct crowd *crowd)
{
    free(crowd->vectors);
    free(crowd);
}

/* From query `first` on, until each has a slot. */
static void crowd_submit(struct engine *engine, struct crowd *crowd, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        assert_int_equal(engine_submit(engine, &crowd->queries[i]), STATUS_OK);
    while (stats_of(engine).queued > 0)
        sched_yield();
}

/* A read becomes as old. Returns the time. */
static uint64_t pass_ms(uint64_t ms)
{
    const uint64_t end_ns = clock_monotonic_ns() + ms * NS_PER_MS;
    while (clock_monotonic_ns() < end_ns)
        sched_yield();
    return end_ns;
}

static void crowd_wait(const struct crowd *crowd, uint32_t count)
{
    while (atomic_load(&crowd->done) < count)
        sched_yield();
}

static struct search_query answer_alone(struct index *index, const struct collection *c,
                                        struct search_hit *hits)
{
    struct engine *engine = engine_plain(index);
    struct search_query query = query_make(c, 0, &ask_usual, hits);
    engine_search_all(engine, &query, 1, 0);
    engine_destroy(engine);
    answer_check(c, &query, 0);
    assert_int_equal(query.stats.shared_reads, 0);
    assert_true(query.stats.reads > 1);
    return query;
}

/* What a test does with an index and a collection, whatever kind of I/O and memory tier. */
typedef void (*batch_claim)(struct index *index, const struct collection *c,
                            enum block_io_kind kind);

static void for_each_kind(void **state, batch_claim claim)
{
    const struct engine_fixture *f = *state;
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++) {
        claim(f->cold, f->base, io_kinds[kind]);
        claim(f->listed, f->wide, io_kinds[kind]);
    }
}

/* ---- what is shared ---- */

static void claim_same(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device;
    struct search_hit hits[FIXTURE_K];
    const struct search_query alone = answer_alone(index, c, hits);
    struct engine *engine = start(index, &device, kind, HOUR_MS);
    struct crowd *crowd = crowd_create(c);
    device_hang(&device);
    crowd_submit(engine, crowd, 0, COUNT);
    assert_int_equal(stats_of(engine).reads_in_flight, 1);
    device_mend(&device);
    crowd_wait(crowd, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_same_hits(&crowd->queries[i], &alone);
        assert_int_equal(crowd->queries[i].stats.reads, alone.stats.reads);
        assert_int_equal(crowd->queries[i].stats.read_bytes, alone.stats.read_bytes);
        assert_int_equal(crowd->queries[i].flags, 0);
    }
    assert_int_equal(atomic_load(&device.reads), alone.stats.reads);
    assert_reads_add_up(engine, &device);
    crowd_free(crowd);
    engine_destroy(engine);
}

static void the_same_query_many_times_reads_what_one_does(void **state)
{
    for_each_kind(state, claim_same);
}

static void claim_again(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device;
    struct search_hit hits[FIXTURE_K];
    const struct search_query alone = answer_alone(index, c, hits);
    struct engine *engine = start(index, &device, kind, HOUR_MS);
    struct crowd *crowd = crowd_create(c);
    engine_search_all(engine, crowd->queries, COUNT, 1);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_same_hits(&crowd->queries[i], &alone);
        assert_int_equal(crowd->queries[i].stats.reads, alone.stats.reads);
        assert_int_equal(crowd->queries[i].stats.shared_reads, i > 0 ? alone.stats.reads : 0);
    }
    assert_reads_add_up(engine, &device);
    crowd_free(crowd);
    engine_destroy(engine);
}

static void a_query_finds_what_the_one_before_it_read(void **state)
{
    for_each_kind(state, claim_again);
}

static void near_queries_share_most_reads(void **state)
{
    const struct engine_fixture *f = *state;
    struct device device;
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++) {
        struct crowd *together = crowd_create_near(f->base), *alone = crowd_create_near(f->base);
        struct engine *engine = start(f->cold, &device, io_kinds[kind], HOUR_MS);
        engine_search_all(engine, together->queries, COUNT, 0);
        const struct engine_stats stats = stats_of(engine);
        print_message("%u reads, %u of them shared\n", (unsigned)stats.reads,
                      (unsigned)stats.shared_reads);
        assert_true(stats.shared_reads > stats.reads / 2);
        assert_reads_add_up(engine, &device);
        engine_destroy(engine);
        for (uint32_t i = 0; i < COUNT; i++) {
            engine = engine_plain(f->cold);
            engine_search_all(engine, &alone->queries[i], 1, 0);
            engine_destroy(engine);
            assert_same_hits(&together->queries[i], &alone->queries[i]);
            assert_int_equal(together->queries[i].stats.reads, alone->queries[i].stats.reads);
        }
        crowd_free(together);
        crowd_free(alone);
    }
}

static void claim_company(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device;
    struct ask ask = ask_usual;
    ask.window = 1;
    struct engine *engine = engine_plain(index);
    struct answers alone = answers_get(engine, c, &ask);
    engine_destroy(engine);
    ask.window = 0;
    engine = start(index, &device, kind, HOUR_MS);
    struct answers together = answers_get(engine, c, &ask);
    assert_reads_add_up(engine, &device);
    engine_destroy(engine);
    assert_same_answers(&together, &alone);
    for (uint32_t q = 0; q < COUNT; q++)
        assert_int_equal(together.queries[q].stats.reads, alone.queries[q].stats.reads);
    answers_free(&together);
    /* Several reads of a query at a time, of which it may share one. */
    ask.beam_width = 8;
    engine = start(index, &device, kind, HOUR_MS);
    for (uint32_t round = 0; round < 2; round++) {
        together = answers_get(engine, c, &ask);
        answers_check(c, &together);
        answers_free(&together);
    }
    assert_reads_add_up(engine, &device);
    assert_int_equal(stats_of(engine).degraded, 0);
    engine_destroy(engine);
    answers_free(&alone);
}

static void answers_do_not_depend_on_who_else_is_in_flight(void **state)
{
    for_each_kind(state, claim_company);
}

/* ---- what happens to a shared read ---- */

static void claim_failure(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device;
    struct search_hit hits[FIXTURE_K];
    const struct search_query alone = answer_alone(index, c, hits);
    struct engine *engine = start(index, &device, kind, HOUR_MS);
    struct crowd *crowd = crowd_create(c);
    device.failures = 2; /* the first read and its retry */
    device_hang(&device);
    crowd_submit(engine, crowd, 0, COUNT);
    device_mend(&device);
    crowd_wait(crowd, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(crowd->queries[i].status, STATUS_OK);
        assert_int_equal(crowd->queries[i].flags, SEARCH_DEGRADED);
        assert_int_equal(crowd->queries[i].stats.failed_blocks, 1);
        assert_same_hits(&crowd->queries[i], &crowd->queries[0]);
    }
    assert_int_equal(stats_of(engine).read_retries, 1);
    assert_int_equal(stats_of(engine).failed_blocks, COUNT);
    assert_reads_add_up(engine, &device);
    /* What failed is read again for who comes later. */
    crowd_free(crowd);
    crowd = crowd_create(c);
    crowd_submit(engine, crowd, 0, COUNT);
    crowd_wait(crowd, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(crowd->queries[i].flags, 0);
        assert_same_hits(&crowd->queries[i], &alone);
    }
    assert_reads_add_up(engine, &device);
    crowd_free(crowd);
    engine_destroy(engine);
}

static void a_shared_read_that_fails_degrades_all_who_wait(void **state)
{
    for_each_kind(state, claim_failure);
}

static void claim_given_up(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device;
    struct engine *engine = start(index, &device, kind, 40);
    device_hang(&device);
    struct answers got = answers_get(engine, c, &ask_usual);
    for (uint32_t q = 0; q < COUNT; q++) {
        const struct search_query *query = &got.queries[q];
        assert_int_equal(query->status, STATUS_OK);
        assert_int_equal(query->flags, SEARCH_DEGRADED);
        assert_int_equal(query->hit_count, 0);
        /* Two reads in vain, be they its own or not, and it did not wait for another. */
        assert_int_equal(query->stats.reads, 2);
        assert_true(query->stats.failed_blocks > 2);
    }
    assert_true(got.sum.shared_reads > 0);
    const struct engine_stats stats = stats_of(engine);
    assert_int_equal(stats.read_timeouts, stats.reads - stats.shared_reads);
    device_mend(&device);
    answers_free(&got);
    engine_destroy(engine);
}

static void a_shared_read_that_is_given_up_degrades_all_who_wait(void **state)
{
    for_each_kind(state, claim_given_up);
}

/* When query 0 gives its second read up, query 1 has just begun one that query 0 wants. */
static void claim_no_more(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    enum { READ_TIMEOUT_MS = 200 };
    struct device device;
    struct engine *engine = start(index, &device, kind, READ_TIMEOUT_MS);
    struct crowd *crowd = crowd_create(c);
    crowd->queries[1].beam_width = 2;
    device_hang(&device);
    crowd_submit(engine, crowd, 0, 1);
    (void)pass_ms(READ_TIMEOUT_MS * 7 / 8);
    crowd_submit(engine, crowd, 1, 1);
    crowd_wait(crowd, 2);
    assert_int_equal(crowd->queries[0].stats.reads, 2);
    assert_in_range(crowd->queries[1].stats.reads, 2, 3);
    assert_int_equal(stats_of(engine).degraded, 2);
    device_mend(&device);
    crowd_free(crowd);
    engine_destroy(engine);
}

static void a_query_waits_for_no_more_reads_of_others_than_of_its_own(void **state)
{
    for_each_kind(state, claim_no_more);
}

/* The query that began the read ends before the read does; who shares it does not notice. False
 * when the machine was too slow for the others to come in time. */
static bool deadline_round(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device;
    struct search_hit hits[FIXTURE_K];
    const struct search_query alone = answer_alone(index, c, hits);
    struct engine *engine = start(index, &device, kind, HOUR_MS);
    struct crowd *crowd = crowd_create(c);
    device_hang(&device);
    crowd->queries[0].deadline_ns = clock_monotonic_ns() + 100 * NS_PER_MS;
    crowd_submit(engine, crowd, 0, 1);
    crowd_submit(engine, crowd, 1, COUNT - 1);
    const bool in_time = atomic_load(&crowd->done) == 0;
    crowd_wait(crowd, 1);
    const uint32_t in_flight = stats_of(engine).reads_in_flight;
    device_mend(&device);
    crowd_wait(crowd, COUNT);
    assert_int_equal(crowd->queries[0].status, STATUS_TIMEOUT);
    assert_int_equal(crowd->queries[0].flags, 0);
    for (uint32_t i = 1; i < COUNT; i++) {
        assert_int_equal(crowd->queries[i].status, STATUS_OK);
        assert_int_equal(crowd->queries[i].flags, 0);
        assert_same_hits(&crowd->queries[i], &alone);
    }
    if (in_time) {
        assert_int_equal(in_flight, 1);
        assert_int_equal(atomic_load(&device.reads), alone.stats.reads);
        assert_reads_add_up(engine, &device);
    }
    crowd_free(crowd);
    engine_destroy(engine);
    return in_time;
}

static void claim_deadline(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    bool in_time = false;
    for (uint32_t round = 0; round < ROUNDS_MAX && !in_time; round++)
        in_time = deadline_round(index, c, kind);
    assert_true(in_time);
}

static void the_deadline_of_one_does_not_hurt_who_shares_its_read(void **state)
{
    for_each_kind(state, claim_deadline);
}

/* And who only shares it may leave as well. */
static void claim_leaving(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device;
    struct search_hit hits[FIXTURE_K];
    const struct search_query alone = answer_alone(index, c, hits);
    struct engine *engine = start(index, &device, kind, HOUR_MS);
    struct crowd *crowd = crowd_create(c);
    device_hang(&device);
    uint32_t late = 0;
    for (uint32_t i = 0; i < COUNT; i++)
        if (i % 3 == 1) {
            crowd->queries[i].deadline_ns = clock_monotonic_ns() + (20 + i) * NS_PER_MS;
            late++;
        }
    crowd_submit(engine, crowd, 0, COUNT);
    crowd_wait(crowd, late);
    device_mend(&device);
    crowd_wait(crowd, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(crowd->queries[i].status, i % 3 == 1 ? STATUS_TIMEOUT : STATUS_OK);
        assert_int_equal(crowd->queries[i].flags, 0);
        if (i % 3 != 1)
            assert_same_hits(&crowd->queries[i], &alone);
    }
    assert_int_equal(atomic_load(&device.reads), alone.stats.reads);
    assert_reads_add_up(engine, &device);
    crowd_free(crowd);
    engine_destroy(engine);
}

static void who_shares_a_read_may_leave_before_it_ends(void **state)
{
    for_each_kind(state, claim_leaving);
}

/* A device that lost a read, and is well otherwise: who comes later has its own. */
static void claim_stuck(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    enum { READ_TIMEOUT_MS = 1200 };
    struct device device;
    struct search_hit hits[FIXTURE_K];
    const struct search_query alone = answer_alone(index, c, hits);
    struct engine *engine = start(index, &device, kind, READ_TIMEOUT_MS);
    struct crowd *crowd = crowd_create(c);
    device_hang(&device);
    crowd_submit(engine, crowd, 0, 1);
    while (stats_of(engine).reads_in_flight == 0)
        sched_yield();
    atomic_store(&device.well_from_ns, pass_ms(READ_TIMEOUT_MS / 3));
    crowd_submit(engine, crowd, 1, COUNT - 1);
    crowd_wait(crowd, COUNT);
    assert_int_equal(crowd->queries[0].flags, SEARCH_DEGRADED);
    for (uint32_t i = 1; i < COUNT; i++) {
        assert_int_equal(crowd->queries[i].flags, 0);
        assert_same_hits(&crowd->queries[i], &alone);
    }
    assert_int_equal(stats_of(engine).read_timeouts, 1);
    device_mend(&device);
    crowd_free(crowd);
    engine_destroy(engine);
}

static void a_read_that_is_stuck_is_not_shared_any_more(void **state)
{
    for_each_kind(state, claim_stuck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_query_many_times_reads_what_one_does),
        cmocka_unit_test(a_query_finds_what_the_one_before_it_read),
        cmocka_unit_test(near_queries_share_most_reads),
        cmocka_unit_test(answers_do_not_depend_on_who_else_is_in_flight),
        cmocka_unit_test(a_shared_read_that_fails_degrades_all_who_wait),
        cmocka_unit_test(a_shared_read_that_is_given_up_degrades_all_who_wait),
        cmocka_unit_test(a_query_waits_for_no_more_reads_of_others_than_of_its_own),
        cmocka_unit_test(the_deadline_of_one_does_not_hurt_who_shares_its_read),
        cmocka_unit_test(who_shares_a_read_may_leave_before_it_ends),
        cmocka_unit_test(a_read_that_is_stuck_is_not_shared_any_more),
    };
    return cmocka_run_group_tests(tests, engine_group_setup, engine_group_teardown);
}
