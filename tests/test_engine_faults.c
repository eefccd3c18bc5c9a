/*
 * test_engine_faults.c - searches whose reads fail below the ring: a fault that passes is not seen,
 * one that stays degrades the answers that needed the block, and only those.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine_fixture.h"

enum fault {
    FAULT_EIO,
    FAULT_SHORT,
    FAULT_NOTHING,   /* end of file */
    FAULT_FLIP,      /* one bit */
    FAULT_MISPLACED, /* another block's bytes, good in themselves */
    FAULT_STALE,     /* good bytes of an older generation */
    FAULT_COUNT,
};

/* Spoils the first `failures` reads of every block whose number divides by `stride`. */
struct saboteur {
    struct block_io_faults hook;
    const struct manifest *manifest;
    uint8_t *blocks; /* nodes.blk */
    enum fault fault;
    uint32_t stride;
    uint32_t failures;
    atomic_uint *reads; /* of each block */
    atomic_uint spoiled;
};

static int spoil(const struct saboteur *s, uint32_t block, uint8_t *buffer, int result)
{
    struct block_geometry geometry = s->manifest->geometry;
    uint64_t checksum;
    switch (s->fault) {
    case FAULT_EIO:
        return -EIO;
    case FAULT_SHORT:
        return result / 2;
    case FAULT_NOTHING:
        return 0;
    case FAULT_FLIP:
        buffer[block * 37 % geometry.block_bytes] ^= 1;
        return result;
    case FAULT_MISPLACED:
        block = (uint32_t)((block + 1) % s->manifest->block_count);
        memcpy(buffer, s->blocks + (size_t)block * geometry.block_bytes, geometry.block_bytes);
        return result;
    default:
        geometry.generation_seed++;
        checksum = block_checksum(&geometry, block, buffer);
        memcpy(buffer, &checksum, sizeof(checksum));
        return result;
    }
}

static int saboteur_on_read(void *context, uint64_t offset, void *buffer, uint32_t bytes,
                            int result)
{
    struct saboteur *s = context;
    const uint32_t block = (uint32_t)(offset / bytes);
    assert_int_equal(result, bytes);
    if (block % s->stride != 0 || atomic_fetch_add(&s->reads[block], 1) >= s->failures)
        return result;
    atomic_fetch_add(&s->spoiled, 1);
    return spoil(s, block, buffer, result);
}

static struct saboteur *saboteur_create(const struct collection *c, const struct index *index,
                                        uint32_t stride, uint32_t failures)
{
    struct saboteur *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->hook = (struct block_io_faults){.on_read = saboteur_on_read, .context = s};
    s->manifest = index_manifest(index);
    s->blocks = collection_read_blocks(c, s->manifest);
    s->stride = stride;
    s->failures = failures;
    s->reads = calloc(s->manifest->block_count, sizeof(*s->reads));
    assert_non_null(s->reads);
    return s;
}

static void saboteur_reset(struct saboteur *s, enum fault fault)
{
    s->fault = fault;
    memset(s->reads, 0, s->manifest->block_count * sizeof(*s->reads));
    atomic_store(&s->spoiled, 0);
}

static void saboteur_destroy(struct saboteur *s)
{
    free(s->blocks);
    free(s->reads);
    free(s);
}

/* What a test does with the answers of an engine whose reads are spoiled. */
typedef void (*fault_claim)(const struct saboteur *s, const struct answers *got,
                            const struct answers *clean, const struct engine_stats *stats);

/* For each fault and kind of I/O. */
static void with_faults(const struct engine_fixture *f, struct saboteur *s, const struct ask *ask,
                        fault_claim claim)
{
    struct engine *engine = engine_plain(f->cold);
    struct answers clean = answers_get(engine, f->base, &ask_usual);
    engine_destroy(engine);
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++)
        for (enum fault fault = 0; fault < FAULT_COUNT; fault++) {
            const struct engine_params params = {
                .threads = 1, .io_kind = io_kinds[kind], .faults = &s->hook};
            saboteur_reset(s, fault);
            engine = engine_start(f->cold, &params);
            struct answers got = answers_get(engine, f->base, ask);
            const struct engine_stats stats = stats_of(engine);
            answers_check(f->base, &got);
            assert_int_equal(stats.reads, got.sum.reads);
            assert_int_equal(stats.failed_blocks, got.sum.failed_blocks);
            claim(s, &got, &clean, &stats);
            answers_free(&got);
            engine_destroy(engine);
        }
    answers_free(&clean);
}

static void claim_retried(const struct saboteur *s, const struct answers *got,
                          const struct answers *clean, const struct engine_stats *stats)
{
    const uint32_t spoiled = atomic_load(&s->spoiled);
    assert_true(spoiled > 0);
    assert_same_answers(got, clean);
    for (uint32_t q = 0; q < got->count; q++)
        assert_int_equal(got->queries[q].flags, 0);
    assert_int_equal(stats->degraded, 0);
    assert_int_equal(stats->failed_blocks, 0);
    assert_int_equal(stats->read_retries, spoiled);
    assert_int_equal(got->sum.reads, clean->sum.reads + spoiled);
}

static void a_read_that_fails_once_is_retried_and_changes_nothing(void **state)
{
    const struct engine_fixture *f = *state;
    struct saboteur *s = saboteur_create(f->base, f->cold, 1, 1);
    /* One query at a time: a retry must not meet another query's first read of the block. */
    struct ask ask = ask_usual;
    ask.window = 1;
    with_faults(f, s, &ask, claim_retried);
    saboteur_destroy(s);
}

static void claim_degraded(const struct saboteur *s, const struct answers *got,
                           const struct answers *clean, const struct engine_stats *stats)
{
    uint32_t degraded = 0;
    for (uint32_t q = 0; q < got->count; q++) {
        const struct search_query *query = &got->queries[q];
        const bool flagged = (query->flags & SEARCH_DEGRADED) != 0;
        assert_int_equal(flagged, query->stats.failed_blocks > 0);
        degraded += flagged;
        if (!flagged)
            assert_same_hits(query, &clean->queries[q]);
    }
    assert_true(degraded > 0 && degraded < got->count);
    assert_int_equal(stats->degraded, degraded);
    /* A block fails for each query that had a share in the read. */
    assert_in_range(stats->read_retries, 1, stats->failed_blocks);
    assert_int_equal(atomic_load(&s->spoiled), 2 * stats->read_retries);
}

static void claim_degraded_alone(const struct saboteur *s, const struct answers *got,
                                 const struct answers *clean, const struct engine_stats *stats)
{
    claim_degraded(s, got, clean, stats);
    assert_int_equal(stats->read_retries, stats->failed_blocks);
}

static void blocks_that_always_fail_degrade_only_the_queries_that_need_them(void **state)
{
    const struct engine_fixture *f = *state;
    struct saboteur *s = saboteur_create(f->base, f->cold, 19, UINT32_MAX);
    struct ask ask = ask_usual;
    with_faults(f, s, &ask, claim_degraded);
    ask.window = 1;
    with_faults(f, s, &ask, claim_degraded_alone);
    saboteur_destroy(s);
}

static void claim_nothing_found(const struct saboteur *s, const struct answers *got,
                                const struct answers *clean, const struct engine_stats *stats)
{
    (void)clean;
    for (uint32_t q = 0; q < got->count; q++) {
        assert_int_equal(got->queries[q].hit_count, 0);
        assert_int_equal(got->queries[q].flags, SEARCH_DEGRADED);
        const struct search_stats *one = &got->queries[q].stats;
        assert_int_equal(one->reads, 2 * one->failed_blocks - one->shared_reads);
    }
    assert_int_equal(stats->degraded, got->count);
    assert_int_equal(atomic_load(&s->spoiled), got->sum.reads - got->sum.shared_reads);
}

static void a_dead_device_gives_empty_degraded_answers(void **state)
{
    const struct engine_fixture *f = *state;
    struct saboteur *s = saboteur_create(f->base, f->cold, 1, UINT32_MAX);
    struct ask ask = ask_usual;
    with_faults(f, s, &ask, claim_nothing_found);
    ask.beam_width = 0;
    with_faults(f, s, &ask, claim_nothing_found);
    saboteur_destroy(s);
}

static void a_resident_index_needs_no_device(void **state)
{
    const struct engine_fixture *f = *state;
    struct saboteur *s = saboteur_create(f->base, f->cold, 1, UINT32_MAX);
    const struct engine_params params = {.threads = 1, .faults = &s->hook};
    struct engine *engine = engine_start(f->resident, &params);
    struct answers a = answers_get(engine, f->base, &ask_usual);
    answers_check(f->base, &a);
    assert_int_equal(stats_of(engine).degraded, 0);
    assert_int_equal(atomic_load(&s->spoiled), 0);
    answers_free(&a);
    engine_destroy(engine);
    saboteur_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_read_that_fails_once_is_retried_and_changes_nothing),
        cmocka_unit_test(blocks_that_always_fail_degrade_only_the_queries_that_need_them),
        cmocka_unit_test(a_dead_device_gives_empty_degraded_answers),
        cmocka_unit_test(a_resident_index_needs_no_device),
    };
    return cmocka_run_group_tests(tests, engine_group_setup, engine_group_teardown);
}
