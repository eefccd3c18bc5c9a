/*
 * test_engine_stuck.c - a device that is slow, that hangs, or that does all sorts of things: every
 * query is answered once, who misses a block says so, and nobody else is harmed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/random.h"
#include "query/search.h"
#include "tests/engine_fixture.h"

enum { HOUR_MS = 3600 * 1000, NS_PER_MS = 1000000, SEED = 90125, ROUNDS_MAX = 1000 };

/* Reads of blocks whose number divides by `stride` are kept back: for a time, or while it hangs. */
struct device {
    struct block_io_faults hook;
    uint32_t block_bytes;
    uint32_t stride;
    uint64_t delay_ns;
    atomic_bool hangs;
    atomic_uint kept; /* reads that were */
    /* of the next ones */
    const struct manifest *manifest;
    const uint8_t *blocks; /* nodes.blk */
    uint64_t calls;
    uint32_t one_in; /* reads that something happens to */
    uint32_t happened;
};

static bool device_holds(void *context, uint64_t offset, uint64_t age_ns)
{
    struct device *device = context;
    if (offset / device->block_bytes % device->stride != 0)
        return false;
    const bool keeps = age_ns < device->delay_ns || atomic_load(&device->hangs);
    atomic_fetch_add(&device->kept, keeps && age_ns == 0);
    return keeps;
}

static struct device device_make(struct index *index, uint32_t stride)
{
    return (struct device){.hook = {.holds = device_holds},
                           .block_bytes = index_manifest(index)->geometry.block_bytes,
                           .stride = stride,
                           .manifest = index_manifest(index)};
}

/* What a test does with an index and a collection, whatever kind of I/O and memory tier. */
typedef void (*device_claim)(struct index *index, const struct collection *c,
                             enum block_io_kind kind);

static void for_each_kind(void **state, device_claim claim)
{
    const struct engine_fixture *f = *state;
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++) {
        claim(f->cold, f->base, io_kinds[kind]);
        claim(f->listed, f->wide, io_kinds[kind]);
    }
}

static struct engine *start(struct index *index, struct device *device, enum block_io_kind kind,
                            uint32_t read_timeout_ms)
{
    device->hook.context = device;
    const struct engine_params params = {.threads = 1,
                                         .slots_per_thread = 4,
                                         .io_kind = kind,
                                         .read_timeout_ms = read_timeout_ms,
                                         .faults = &device->hook};
    return engine_start(index, &params);
}

static struct answers clean_answers(struct index *index, const struct collection *c)
{
    struct engine *engine = engine_plain(index);
    struct answers clean = answers_get(engine, c, &ask_usual);
    engine_destroy(engine);
    return clean;
}

/* Who misses a block says so; who does not has the true answer. Returns how many miss one. */
static uint32_t assert_honest(const struct collection *c, const struct answers *got,
                              const struct answers *clean)
{
    uint32_t degraded = 0;
    answers_check(c, got);
    for (uint32_t q = 0; q < got->count; q++) {
        const struct search_query *query = &got->queries[q];
        const bool flagged = (query->flags & SEARCH_DEGRADED) != 0;
        assert_int_equal(flagged, query->stats.failed_blocks > 0);
        degraded += flagged;
        if (!flagged)
            assert_same_hits(query, &clean->queries[q]);
    }
    return degraded;
}

static void reads_come_home(const struct engine *engine)
{
    while (stats_of(engine).reads_in_flight > 0)
        sched_yield();
}

/* With time, all answers are whole again: a busy machine may be late now and then. */
static void assert_recovers(struct engine *engine, const struct collection *c,
                            const struct answers *clean)
{
    reads_come_home(engine);
    uint32_t degraded = 1;
    for (uint32_t round = 0; degraded > 0 && round < ROUNDS_MAX; round++) {
        struct answers got = answers_get(engine, c, &ask_usual);
        degraded = assert_honest(c, &got, clean);
        answers_free(&got);
    }
    assert_int_equal(degraded, 0);
}

static void claim_spike(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device = device_make(index, 7);
    struct answers clean = clean_answers(index, c);
    device.delay_ns = 2 * NS_PER_MS;
    struct engine *engine = start(index, &device, kind, HOUR_MS);
    struct answers got = answers_get(engine, c, &ask_usual);
    assert_true(atomic_load(&device.kept) > 0);
    assert_int_equal(assert_honest(c, &got, &clean), 0);
    assert_int_equal(got.sum.reads, clean.sum.reads);
    const struct engine_stats stats = stats_of(engine);
    assert_int_equal(stats.read_timeouts + stats.read_retries + stats.degraded, 0);
    assert_int_equal(stats.read_latency.count, stats.reads - stats.shared_reads);
    assert_int_equal(stats.latency.count, got.count);
    assert_true(histogram_percentile_ns(&stats.read_latency, 1.0) >= 2 * NS_PER_MS * 31 / 32);
    answers_free(&got);
    answers_free(&clean);
    engine_destroy(engine);
}

static void a_spike_below_the_timeout_changes_nothing(void **state)
{
    for_each_kind(state, claim_spike);
}

static void claim_stuck(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device = device_make(index, 19);
    struct answers clean = clean_answers(index, c);
    atomic_store(&device.hangs, true);
    struct engine *engine = start(index, &device, kind, 60);
    struct answers got = answers_get(engine, c, &ask_usual);
    const uint32_t degraded = assert_honest(c, &got, &clean);
    struct engine_stats stats = stats_of(engine);
    assert_true(degraded > 0);
    assert_int_equal(stats.degraded, degraded);
    assert_int_equal(stats.failed_blocks, got.sum.failed_blocks);
    assert_int_equal(stats.reads, got.sum.reads);
    assert_in_range(stats.read_timeouts, 1, stats.failed_blocks);
    assert_true(stats.reads_in_flight > 0); /* their buffers are not the engine's yet */
    /* A query goes on without the block that it misses. */
    uint32_t went_on = 0;
    for (uint32_t q = 0; q < got.count; q++)
        went_on += got.queries[q].flags != 0 && got.queries[q].hit_count == FIXTURE_K;
    assert_true(went_on > 0);
    answers_free(&got);
    atomic_store(&device.hangs, false);
    assert_recovers(engine, c, &clean);
    answers_free(&clean);
    engine_destroy(engine);
}

static void stuck_reads_are_given_up_and_the_engine_recovers(void **state)
{
    for_each_kind(state, claim_stuck);
}

/* With one query at a time, the read after one that was given up is the only one in flight. */
static void claim_only_stuck(struct index *index, const struct collection *c,
                             enum block_io_kind kind)
{
    enum { MEETINGS = 7 };
    struct device device = device_make(index, 19);
    struct search_hit hits[FIXTURE_K];
    atomic_store(&device.hangs, true);
    struct engine *engine = start(index, &device, kind, 100);
    uint32_t met = 0, only_stuck = 0;
    uint64_t before = 0;
    for (uint32_t round = 0; round < ROUNDS_MAX && met < MEETINGS; round++) {
        struct search_query query = query_make(c, round % FIXTURE_QUERIES, &ask_usual, hits);
        atomic_store(&device.kept, 0);
        engine_search_all(engine, &query, 1, 0);
        const uint64_t given_up = stats_of(engine).read_timeouts - before;
        before += given_up;
        met += given_up > 0;
        only_stuck += given_up > 0 && given_up == atomic_load(&device.kept);
    }
    assert_int_equal(met, MEETINGS);
    assert_true(only_stuck > MEETINGS / 2); /* a busy machine may be late now and then */
    engine_destroy(engine);
}

static void only_what_is_stuck_is_given_up(void **state)
{
    for_each_kind(state, claim_only_stuck);
}

static void claim_all_stuck(struct index *index, const struct collection *c,
                            enum block_io_kind kind)
{
    enum { BUFFERS = 4 + 128 };
    struct device device = device_make(index, 1);
    struct answers clean = clean_answers(index, c);
    struct ask wide = ask_usual;
    wide.beam_width = 8;
    atomic_store(&device.hangs, true);
    struct engine *engine = start(index, &device, kind, 20);
    for (uint32_t round = 0; round < 2; round++) {
        struct answers got = answers_get(engine, c, &wide);
        for (uint32_t q = 0; q < got.count; q++) {
            assert_int_equal(got.queries[q].status, STATUS_OK);
            assert_int_equal(got.queries[q].flags, SEARCH_DEGRADED);
            assert_int_equal(got.queries[q].hit_count, 0);
            assert_true(got.queries[q].stats.failed_blocks > 0);
        }
        answers_free(&got);
        assert_int_equal(stats_of(engine).reads_in_flight, BUFFERS);
        assert_int_equal(stats_of(engine).read_timeouts, BUFFERS);
        assert_int_equal(stats_of(engine).reads - stats_of(engine).shared_reads, BUFFERS);
    }
    atomic_store(&device.hangs, false);
    assert_recovers(engine, c, &clean);
    answers_free(&clean);
    engine_destroy(engine);
}

static void queries_are_answered_when_stuck_reads_hold_all_buffers(void **state)
{
    for_each_kind(state, claim_all_stuck);
}

/* ---- a worker that stands still ---- */

enum { STALL_READS = 16, STALL_TIMEOUT_MS = 500 };

/* Keeps back the first reads, one of each query, until all of them have landed or are old; then the
 * worker, whose thread this is, stands still. */
struct stall {
    struct block_io_faults hook;
    uint32_t landed;    /* reads that were kept back */
    uint64_t begins_ns; /* age of the oldest of them at which the worker stands still */
    uint64_t lasts_ns;
    uint32_t looks_left; /* after it, before the device gives anything */
    bool over;
};

static bool stall_holds(void *context, uint64_t offset, uint64_t age_ns)
{
    struct stall *stall = context;
    (void)offset;
    if (stall->over) {
        const bool holds = stall->looks_left > 0;
        stall->looks_left -= holds;
        return holds;
    }
    stall->landed += age_ns == 0;
    if (stall->landed < STALL_READS || age_ns < stall->begins_ns)
        return true;
    const uint64_t end_ns = clock_monotonic_ns() + stall->lasts_ns;
    while (clock_monotonic_ns() < end_ns)
        sched_yield();
    stall->over = true;
    return stall->looks_left > 0;
}

static void expect_stall_harms_nobody(const struct engine_fixture *f, struct stall stall,
                                      enum block_io_kind kind)
{
    struct search_query queries[STALL_READS];
    struct search_hit hits[STALL_READS][FIXTURE_K];
    struct answers clean = clean_answers(f->cold, f->base);
    stall.hook = (struct block_io_faults){.holds = stall_holds, .context = &stall};
    const struct engine_params params = {.threads = 1,
                                         .slots_per_thread = STALL_READS,
                                         .read_timeout_ms = STALL_TIMEOUT_MS,
                                         .own_reads = true,
                                         .io_kind = kind,
                                         .faults = &stall.hook};
    struct engine *engine = engine_start(f->cold, &params);
    for (uint32_t q = 0; q < STALL_READS; q++)
        queries[q] = query_make(f->base, q, &ask_usual, hits[q]);
    engine_search_all(engine, queries, STALL_READS, 0);
    assert_true(stall.over);
    for (uint32_t q = 0; q < STALL_READS; q++) {
        assert_int_equal(queries[q].flags, 0);
        assert_same_hits(&queries[q], &clean.queries[q]);
    }
    assert_int_equal(stats_of(engine).read_timeouts, 0);
    answers_free(&clean);
    engine_destroy(engine);
}

/* The worker comes to look when the reads are too old already, but not much too late. */
static void what_has_landed_is_not_given_up(void **state)
{
    const struct engine_fixture *f = *state;
    const struct stall stall = {.begins_ns = STALL_TIMEOUT_MS * UINT64_C(9) / 10 * NS_PER_MS,
                                .lasts_ns = STALL_TIMEOUT_MS * UINT64_C(2) / 10 * NS_PER_MS};
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++)
        expect_stall_harms_nobody(f, stall, io_kinds[kind]);
}

/* With the worker the device stood still: a look, or two, bring nothing. */
static void a_worker_that_stood_still_gives_up_nothing(void **state)
{
    const struct engine_fixture *f = *state;
    const struct stall stall = {.lasts_ns = STALL_TIMEOUT_MS * UINT64_C(11) / 10 * NS_PER_MS,
                                .looks_left = 2 * STALL_READS};
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++)
        expect_stall_harms_nobody(f, stall, io_kinds[kind]);
}

/* ---- deadlines ---- */

static void post_complete(struct search_query *query)
{
    sem_post(query->user);
}

static void claim_deadline(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    enum { COUNT = 7, LATE = 2 }; /* four of them run */
    struct device device = device_make(index, 1);
    struct search_query queries[COUNT];
    struct search_hit hits[COUNT][FIXTURE_K];
    sem_t completed[COUNT];
    atomic_store(&device.hangs, true);
    struct engine *engine = start(index, &device, kind, HOUR_MS);
    for (uint32_t q = 0; q < COUNT; q++) {
        sem_init(&completed[q], 0, 0);
        queries[q] = query_make(c, q, &ask_usual, hits[q]);
        queries[q].complete = post_complete;
        queries[q].user = &completed[q];
        if (q < LATE || q >= COUNT - LATE) /* while it runs; while it waits */
            queries[q].deadline_ns = clock_monotonic_ns() + 30 * NS_PER_MS;
        if (q == COUNT - LATE) { /* the slots of the late ones go to others */
            for (uint32_t late = 0; late < LATE; late++)
                while (sem_wait(&completed[late]) != 0)
                    continue;
            while (stats_of(engine).in_flight != COUNT - 2 * LATE)
                sched_yield();
            queries[q].deadline_ns = 0;
        }
        assert_int_equal(engine_submit(engine, &queries[q]), STATUS_OK);
    }
    /* All slots wait for the device, and so does the query that has no deadline. */
    while (sem_wait(&completed[COUNT - 1]) != 0)
        continue;
    for (uint32_t q = 0; q < COUNT; q++) {
        const bool late = q < LATE || q == COUNT - 1;
        int posts = -1;
        sem_getvalue(&completed[q], &posts);
        assert_int_equal(posts, 0);
        if (late) {
            assert_int_equal(queries[q].status, STATUS_TIMEOUT);
            assert_int_equal(queries[q].flags, 0);
        }
    }
    assert_int_equal(stats_of(engine).timeouts, LATE + 1);
    assert_int_equal(stats_of(engine).read_timeouts, 0);
    atomic_store(&device.hangs, false);
    engine_destroy(engine);
    for (uint32_t q = LATE; q < COUNT - 1; q++)
        answer_check(c, &queries[q], q);
}

static void a_deadline_is_kept_although_reads_are_in_flight(void **state)
{
    for_each_kind(state, claim_deadline);
}

static void claim_end(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    struct device device = device_make(index, 1);
    struct search_hit hits[FIXTURE_K];
    struct search_query query = query_make(c, 0, &ask_usual, hits);
    sem_t completed;
    sem_init(&completed, 0, 0);
    query.complete = post_complete;
    query.user = &completed;
    atomic_store(&device.hangs, true);
    struct engine *engine = start(index, &device, kind, 20);
    assert_int_equal(engine_submit(engine, &query), STATUS_OK);
    engine_destroy(engine);
    int posts = 0;
    sem_getvalue(&completed, &posts);
    assert_int_equal(posts, 1);
    assert_int_equal(query.flags, SEARCH_DEGRADED);
    /* Two reads in vain, and it did not wait for another. */
    assert_int_equal(query.stats.reads, 2);
    assert_true(query.stats.failed_blocks > 2);
}

static void an_engine_ends_although_reads_are_stuck(void **state)
{
    for_each_kind(state, claim_end);
}

static void claim_parked(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    enum { BUFFERS = 4 + 128 };
    struct device device = device_make(index, 1);
    struct answers clean = clean_answers(index, c);
    struct search_hit hits[FIXTURE_K];
    sem_t completed;
    sem_init(&completed, 0, 0);
    atomic_store(&device.hangs, true);
    struct engine *engine = start(index, &device, kind, HOUR_MS);
    struct search_query query;
    while (stats_of(engine).reads_in_flight < BUFFERS) {
        query = query_make(c, 0, &ask_usual, hits);
        query.beam_width = ENGINE_BEAM_WIDTH_MAX;
        query.deadline_ns = clock_monotonic_ns() + 5 * NS_PER_MS;
        engine_search_all(engine, &query, 1, 0);
        assert_int_equal(query.status, STATUS_TIMEOUT);
    }
    query = query_make(c, 0, &ask_usual, hits);
    query.complete = post_complete;
    query.user = &completed;
    assert_int_equal(engine_submit(engine, &query), STATUS_OK);
    while (stats_of(engine).queued > 0)
        sched_yield();
    atomic_store(&device.hangs, false);
    while (sem_wait(&completed) != 0)
        continue;
    assert_int_equal(query.flags, 0);
    assert_same_hits(&query, &clean.queries[0]);
    answers_free(&clean);
    engine_destroy(engine);
}

static void a_query_without_a_buffer_goes_on_when_one_returns(void **state)
{
    for_each_kind(state, claim_parked);
}

/* Expanding from memory reads nothing, and so no block that lands tells the time. */
static void a_search_in_memory_looks_at_its_deadline(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *const indexes[] = {f->resident, f->listed};
    const struct collection *const collections[] = {f->base, f->wide};
    const struct ask ask = {.k = 1, .search_list = 500};
    for (size_t i = 0; i < ARRAY_LENGTH(indexes); i++) {
        struct search_scratch scratch = {0};
        struct search search;
        struct error err;
        struct search_hit hit;
        struct search_query query = query_make(collections[i], 0, &ask, &hit);
        ASSERT_STATUS_OK(search_scratch_init(&scratch, &err), err);
        ASSERT_STATUS_OK(search_init(&search, indexes[i], &scratch, &err), err);
        search_start(&search, &query);
        (void)search_next_read(&search, 1);
        assert_false(search.late);
        assert_true(search.stats.hops >= ask.search_list);
        query.deadline_ns = 1;
        search_start(&search, &query);
        assert_int_equal(search_next_read(&search, 1), SEARCH_NO_BLOCK);
        assert_true(search.late);
        assert_true(search.stats.hops < ask.search_list / 2);
        assert_int_equal(query.hit_count, 0);
        search_fini(&search);
        search_scratch_fini(&scratch);
    }
}

/* ---- all sorts of things ---- */

enum mishap {
    MISHAP_EIO,
    MISHAP_EAGAIN,
    MISHAP_ENOMEM,
    MISHAP_EINTR,
    MISHAP_SHORT,
    MISHAP_TORN, /* the tail is another block's */
    MISHAP_STALE,
    MISHAP_MISPLACED,
    MISHAP_COUNT,
};

static int mishap_make(const struct device *device, enum mishap mishap, uint32_t block,
                       uint8_t *buffer)
{
    struct block_geometry geometry = device->manifest->geometry;
    const uint32_t bytes = geometry.block_bytes;
    const uint32_t other = (uint32_t)((block + 1) % device->manifest->block_count);
    const uint8_t *others = device->blocks + (size_t)other * bytes;
    uint64_t checksum;
    switch (mishap) {
    case MISHAP_EIO:
        return -EIO;
    case MISHAP_EAGAIN:
        return -EAGAIN;
    case MISHAP_ENOMEM:
        return -ENOMEM;
    case MISHAP_EINTR:
        return -EINTR;
    case MISHAP_SHORT:
        return 512;
    case MISHAP_TORN:
        memcpy(buffer + bytes / 2, others + bytes / 2, bytes / 2);
        return (int)bytes;
    case MISHAP_STALE:
        geometry.generation_seed++;
        checksum = block_checksum(&geometry, block, buffer);
        memcpy(buffer, &checksum, sizeof(checksum));
        return (int)bytes;
    default:
        memcpy(buffer, others, bytes);
        return (int)bytes;
    }
}

static int device_on_read(void *context, uint64_t offset, void *buffer, uint32_t bytes, int result)
{
    struct device *device = context;
    const uint64_t call = device->calls++;
    assert_int_equal(result, bytes);
    if (random_at(SEED, call) % device->one_in != 0)
        return result;
    device->happened++;
    return mishap_make(device, (enum mishap)(random_at(SEED + 1, call) % MISHAP_COUNT),
                       (uint32_t)(offset / bytes), buffer);
}

static void claim_mishaps(struct index *index, const struct collection *c, enum block_io_kind kind)
{
    static const uint32_t one_in[] = {2, 5, 40, 5};
    struct device device = device_make(index, 11);
    struct ask ask = ask_usual;
    uint8_t *blocks = collection_read_blocks(c, device.manifest);
    struct answers clean = clean_answers(index, c);
    device.delay_ns = NS_PER_MS; /* spikes as well */
    device.blocks = blocks;
    device.hook.on_read = device_on_read;
    for (size_t i = 0; i < ARRAY_LENGTH(one_in); i++) {
        device.one_in = one_in[i];
        ask.window = i == ARRAY_LENGTH(one_in) - 1; /* at last one by one, so that none shares */
        struct engine *engine = start(index, &device, kind, HOUR_MS);
        uint32_t degraded = 0, failed = 0;
        const uint64_t calls = device.calls;
        device.happened = 0;
        for (uint32_t round = 0; round < 3; round++) {
            struct answers got = answers_get(engine, c, &ask);
            degraded += assert_honest(c, &got, &clean);
            failed += got.sum.failed_blocks;
            answers_free(&got);
        }
        const struct engine_stats stats = stats_of(engine);
        print_message("1 in %u: %u mishaps, %u blocks failed, %u answers degraded\n", one_in[i],
                      device.happened, failed, degraded);
        assert_true(device.happened > 0);
        assert_int_equal(stats.reads - stats.shared_reads, device.calls - calls);
        /* Each was retried, and a retry that failed was the end of it: for all who waited. */
        assert_in_range(device.happened, stats.read_retries,
                        stats.read_retries + stats.failed_blocks);
        assert_true(device.happened <= 2 * stats.read_retries);
        if (ask.window == 1)
            assert_int_equal(stats.read_retries + stats.failed_blocks, device.happened);
        assert_int_equal(stats.failed_blocks, failed);
        assert_int_equal(stats.degraded, degraded);
        assert_int_equal(stats.queries, 3 * FIXTURE_QUERIES);
        engine_destroy(engine);
    }
    answers_free(&clean);
    free(blocks);
}

static void whatever_happens_to_reads_answers_are_honest(void **state)
{
    for_each_kind(state, claim_mishaps);
}

/* ---- the kernel refuses ---- */

struct refuser {
    atomic_uint asked;
    int error;
};

static int refuser_on_submit(void *context)
{
    struct refuser *refuser = context;
    return atomic_fetch_add(&refuser->asked, 1) % 3 != 2 ? refuser->error : 0;
}

static void reads_that_the_kernel_refuses_for_now_go_out_later(void **state)
{
    const struct engine_fixture *f = *state;
    static const int errors[] = {-EAGAIN, -EBUSY, -EINTR};
    if (f->io_kind_count == 1)
        skip();
    struct answers clean = clean_answers(f->cold, f->base);
    for (size_t i = 0; i < ARRAY_LENGTH(errors); i++) {
        struct refuser refuser = {.error = errors[i]};
        const struct block_io_faults hook = {.on_submit = refuser_on_submit, .context = &refuser};
        const struct engine_params params = {
            .threads = 1, .io_kind = BLOCK_IO_URING, .read_timeout_ms = HOUR_MS, .faults = &hook};
        struct engine *engine = engine_start(f->cold, &params);
        struct answers got = answers_get(engine, f->base, &ask_usual);
        assert_same_answers(&got, &clean);
        assert_true(atomic_load(&refuser.asked) > 3);
        assert_int_equal(stats_of(engine).degraded, 0);
        answers_free(&got);
        engine_destroy(engine);
    }
    answers_free(&clean);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_spike_below_the_timeout_changes_nothing),
        cmocka_unit_test(stuck_reads_are_given_up_and_the_engine_recovers),
        cmocka_unit_test(only_what_is_stuck_is_given_up),
        cmocka_unit_test(queries_are_answered_when_stuck_reads_hold_all_buffers),
        cmocka_unit_test(what_has_landed_is_not_given_up),
        cmocka_unit_test(a_worker_that_stood_still_gives_up_nothing),
        cmocka_unit_test(a_deadline_is_kept_although_reads_are_in_flight),
        cmocka_unit_test(an_engine_ends_although_reads_are_stuck),
        cmocka_unit_test(a_query_without_a_buffer_goes_on_when_one_returns),
        cmocka_unit_test(a_search_in_memory_looks_at_its_deadline),
        cmocka_unit_test(whatever_happens_to_reads_answers_are_honest),
        cmocka_unit_test(reads_that_the_kernel_refuses_for_now_go_out_later),
    };
    return cmocka_run_group_tests(tests, engine_group_setup, engine_group_teardown);
}
