/*
 * test_engine_tiers.c - what a search does differently where neighbour lists are in memory: it goes
 * by codes alone, and only what ranks at its end is read, or scored.
 *
 * So what is read is settled before the first read, and answers depend neither on the order in
 * which reads land nor on whether they succeed, but for the records that were not seen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "query/index_internal.h"
#include "tests/engine_fixture.h"
#include "tests/generation_fixture.h"

enum { EVERYTHING = 1 << 28, SOME_BLOCKS = 40 };

/* A search by codes alone sees fewer nodes than one that expands what it happens to read, and a
 * resident one scores no block-mates. With 50 candidates for 10 hits that may cost one in a
 * hundred; what is lost comes back with a longer list, which costs it less. */
static const double recall_tolerance = 0.01;

static struct answers answers_of(struct index *index, const struct collection *c,
                                 const struct ask *ask)
{
    struct engine *engine = engine_plain(index);
    struct answers a = answers_get(engine, c, ask);
    engine_destroy(engine);
    answers_check(c, &a);
    return a;
}

/* ---- recall ---- */

static void a_resident_index_reads_nothing_and_finds_as_much(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *wide_cold = collection_open(f->wide, 0);
    struct index *wide_resident = collection_open(f->wide, EVERYTHING);
    const struct {
        const struct collection *collection;
        struct index *cold, *resident;
    } cases[] = {{f->base, f->cold, f->resident}, {f->wide, wide_cold, wide_resident}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const struct collection *c = cases[i].collection;
        struct answers cold = answers_of(cases[i].cold, c, &ask_usual);
        struct answers resident = answers_of(cases[i].resident, c, &ask_usual);
        const double recall = answers_recall(c, &resident), before = answers_recall(c, &cold);
        print_message("recall cold %.4f, resident %.4f\n", before, recall);
        assert_true(recall >= before - recall_tolerance);
        assert_int_equal(resident.sum.reads, 0);
        answers_free(&cold);
        answers_free(&resident);
    }
    index_release(wide_cold);
    index_release(wide_resident);
}

static void with_lists_in_memory_a_search_finds_as_much(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *cold = collection_open(f->wide, 0);
    struct answers before = answers_of(cold, f->wide, &ask_usual);
    struct answers listed = answers_of(f->listed, f->wide, &ask_usual);
    print_message("reads cold %u, with lists %u; recall %.4f, %.4f\n", before.sum.reads,
                  listed.sum.reads, answers_recall(f->wide, &before),
                  answers_recall(f->wide, &listed));
    assert_true(answers_recall(f->wide, &listed) >=
                answers_recall(f->wide, &before) - recall_tolerance);
    answers_free(&before);
    answers_free(&listed);
    index_release(cold);
}

/* The same codes find the same candidates. Reading them brings their block-mates along. */
static void reading_candidates_finds_no_less_than_scoring_them_in_memory(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *resident = collection_open(f->wide, EVERYTHING);
    assert_int_equal(index_memory_of(resident).scalar_bits, index_memory_of(f->listed).scalar_bits);
    struct answers scored = answers_of(resident, f->wide, &ask_usual);
    struct answers read = answers_of(f->listed, f->wide, &ask_usual);
    assert_int_equal(scored.sum.hops, read.sum.hops);
    for (uint32_t q = 0; q < read.count; q++)
        for (uint32_t h = 0; h < FIXTURE_K; h++)
            assert_true(read.queries[q].hits[h].distance <= scored.queries[q].hits[h].distance);
    answers_free(&scored);
    answers_free(&read);
    index_release(resident);
}

/* ---- counts ---- */

static void what_is_counted_with_lists_in_memory_adds_up(void **state)
{
    const struct engine_fixture *f = *state;
    const uint32_t nodes_per_block = index_manifest(f->listed)->geometry.nodes_per_block;
    struct answers a = answers_of(f->listed, f->wide, &ask_usual);
    for (uint32_t q = 0; q < a.count; q++) {
        const struct search_stats *s = &a.queries[q].stats;
        /* Each candidate was expanded; each block was read once, for one of them at least. */
        assert_true(s->hops >= ask_usual.search_list);
        assert_in_range(s->reads, 1, ask_usual.search_list);
        assert_int_equal(s->cache_hits, 0);
        assert_true(s->exact_distances >= ask_usual.search_list);
        assert_true(s->exact_distances <= s->reads * nodes_per_block);
        assert_true(s->code_distances > s->hops);
        assert_int_equal(s->failed_blocks, 0);
        assert_int_equal(a.queries[q].flags, 0);
    }
    answers_free(&a);
}

static void a_resident_search_scores_each_candidate_once(void **state)
{
    const struct engine_fixture *f = *state;
    static const uint32_t lists[] = {FIXTURE_K, 50, 200};
    for (size_t i = 0; i < ARRAY_LENGTH(lists); i++) {
        const struct ask ask = {.k = FIXTURE_K, .search_list = lists[i]};
        struct answers a = answers_of(f->resident, f->base, &ask);
        for (uint32_t q = 0; q < a.count; q++) {
            const struct search_stats *s = &a.queries[q].stats;
            assert_int_equal(s->exact_distances, lists[i]);
            assert_int_equal(s->cache_hits, lists[i]);
            assert_int_equal(s->reads, 0);
            assert_true(s->hops >= lists[i]);
        }
        answers_free(&a);
    }
}

/* ---- what answers do not depend on ---- */

static void cached_blocks_beside_lists_only_save_reads(void **state)
{
    const struct engine_fixture *f = *state;
    struct index *cached = collection_open(f->wide, collection_budget_lists(f->wide, SOME_BLOCKS));
    const struct index_memory memory = index_memory_of(cached);
    assert_int_equal(memory.cached_blocks, SOME_BLOCKS);
    assert_int_equal(memory.scalar_bits, index_memory_of(f->listed).scalar_bits);
    struct answers wanted = answers_of(f->listed, f->wide, &ask_usual);
    struct answers a = answers_of(cached, f->wide, &ask_usual);
    assert_same_answers(&a, &wanted);
    assert_true(a.sum.cache_hits > 0);
    for (uint32_t q = 0; q < a.count; q++) {
        const struct search_stats *got = &a.queries[q].stats, *all = &wanted.queries[q].stats;
        assert_int_equal(got->reads + got->cache_hits, all->reads);
        assert_int_equal(got->exact_distances, all->exact_distances);
        assert_int_equal(got->code_distances, all->code_distances);
        assert_int_equal(got->hops, all->hops);
    }
    answers_free(&a);
    answers_free(&wanted);
    index_release(cached);
}

static void with_lists_in_memory_the_beam_width_does_not_matter(void **state)
{
    const struct engine_fixture *f = *state;
    static const uint32_t widths[] = {0, 2, 8, ENGINE_BEAM_WIDTH_MAX};
    struct answers wanted = answers_of(f->listed, f->wide, &ask_usual);
    for (size_t i = 0; i < ARRAY_LENGTH(widths); i++) {
        struct ask ask = ask_usual;
        ask.beam_width = widths[i];
        struct answers a = answers_of(f->listed, f->wide, &ask);
        assert_same_answers(&a, &wanted);
        assert_int_equal(a.sum.reads, wanted.sum.reads);
        assert_int_equal(a.sum.exact_distances, wanted.sum.exact_distances);
        answers_free(&a);
    }
    answers_free(&wanted);
}

/* ---- faults ---- */

/* Reads of blocks whose number divides by *context fail, always. */
static int fail_on_read(void *context, uint64_t offset, void *buffer, uint32_t bytes, int result)
{
    const uint32_t *stride = context;
    (void)buffer;
    return offset / bytes % *stride == 0 ? -EIO : result;
}

static bool hit_is_in(const struct search_hit *hit, const struct search_query *query)
{
    for (uint32_t i = 0; i < query->hit_count; i++)
        if (query->hits[i].key == hit->key)
            return true;
    return false;
}

static void a_block_that_cannot_be_read_costs_its_own_records_only(void **state)
{
    const struct engine_fixture *f = *state;
    const uint32_t nodes_per_block = index_manifest(f->listed)->geometry.nodes_per_block;
    uint32_t stride = 41, degraded = 0;
    const struct block_io_faults hook = {.on_read = fail_on_read, .context = &stride};
    struct answers clean = answers_of(f->listed, f->wide, &ask_usual);
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++) {
        const struct engine_params params = {
            .threads = 1, .io_kind = io_kinds[kind], .faults = &hook};
        struct engine *engine = engine_start(f->listed, &params);
        struct answers a = answers_get(engine, f->wide, &ask_usual);
        answers_check(f->wide, &a);
        degraded = 0;
        for (uint32_t q = 0; q < a.count; q++) {
            const struct search_query *got = &a.queries[q], *whole = &clean.queries[q];
            const uint32_t failed = got->stats.failed_blocks;
            assert_int_equal(got->flags, failed > 0 ? SEARCH_DEGRADED : 0);
            /* One retry each, where the read was not shared. */
            assert_in_range(got->stats.reads, whole->stats.reads, whole->stats.reads + failed);
            assert_int_equal(got->stats.hops, whole->stats.hops);
            for (uint32_t h = 0; h < whole->hit_count; h++)
                if (whole->hits[h].node / nodes_per_block % stride != 0)
                    assert_true(hit_is_in(&whole->hits[h], got));
            degraded += failed > 0;
        }
        assert_true(degraded > 0 && degraded < a.count);
        assert_int_equal(stats_of(engine).degraded, degraded);
        assert_int_equal(stats_of(engine).failed_blocks, a.sum.failed_blocks);
        assert_int_equal(a.sum.reads, clean.sum.reads + stats_of(engine).read_retries);
        answers_free(&a);
        engine_destroy(engine);
    }
    print_message("%u of %u answers degraded\n", degraded, clean.count);
    answers_free(&clean);
}

static void a_dead_device_gives_empty_degraded_answers(void **state)
{
    const struct engine_fixture *f = *state;
    uint32_t stride = 1;
    const struct block_io_faults hook = {.on_read = fail_on_read, .context = &stride};
    const struct engine_params params = {.threads = 1, .faults = &hook};
    struct engine *engine = engine_start(f->listed, &params);
    struct answers a = answers_get(engine, f->wide, &ask_usual);
    for (uint32_t q = 0; q < a.count; q++) {
        assert_int_equal(a.queries[q].hit_count, 0);
        assert_int_equal(a.queries[q].flags, SEARCH_DEGRADED);
        /* One retry each, where the read was not shared. */
        const struct search_stats *s = &a.queries[q].stats;
        assert_int_equal(s->reads, 2 * s->failed_blocks - s->shared_reads);
    }
    assert_int_equal(stats_of(engine).degraded, a.count);
    answers_free(&a);
    engine_destroy(engine);
}

/* A place below node_limit that has no record, in a resident index. */
static uint32_t hole_of(const struct index *index)
{
    const struct manifest *m = index_manifest(index);
    for (uint32_t block = 0; block < m->block_count; block++) {
        struct block_view view;
        block_view_trusted(&m->geometry, block, index_cached_block(index, block), &view);
        if (view.record_count < m->geometry.nodes_per_block)
            return view.first_node + view.record_count;
    }
    fail_msg("every block is full");
    return 0;
}

static void a_node_that_no_block_has_degrades_and_does_no_harm(void **state)
{
    const struct engine_fixture *f = *state;
    struct collection_spec spec = f->wide->spec;
    spec.count++;
    struct collection *c = collection_create(f->directory, "one-more", &spec);
    struct index *const indexes[] = {
        collection_open(c, EVERYTHING),
        collection_open(c, collection_budget_lists(c, 0)),
    };
    const uint32_t hole = hole_of(indexes[0]);
    for (size_t i = 0; i < ARRAY_LENGTH(indexes); i++) {
        struct index *index = indexes[i];
        assert_true(index_lists_in_memory(index));
        /* Every search starts there. */
        uint32_t *nodes = (uint32_t *)(uintptr_t)index->navigation.nodes;
        for (uint32_t n = 0; n < index->navigation.count; n++)
            nodes[n] = hole;
        struct engine *engine = engine_plain(index);
        struct answers a = answers_get(engine, c, &ask_usual);
        for (uint32_t q = 0; q < a.count; q++) {
            assert_int_equal(a.queries[q].status, STATUS_OK);
            assert_true(a.queries[q].flags & SEARCH_DEGRADED);
            assert_int_equal(a.queries[q].stats.hops, 0);
        }
        answers_free(&a);
        engine_destroy(engine);
        index_release(index);
    }
    collection_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_resident_index_reads_nothing_and_finds_as_much),
        cmocka_unit_test(with_lists_in_memory_a_search_finds_as_much),
        cmocka_unit_test(reading_candidates_finds_no_less_than_scoring_them_in_memory),
        cmocka_unit_test(what_is_counted_with_lists_in_memory_adds_up),
        cmocka_unit_test(a_resident_search_scores_each_candidate_once),
        cmocka_unit_test(cached_blocks_beside_lists_only_save_reads),
        cmocka_unit_test(with_lists_in_memory_the_beam_width_does_not_matter),
        cmocka_unit_test(a_block_that_cannot_be_read_costs_its_own_records_only),
        cmocka_unit_test(a_dead_device_gives_empty_degraded_answers),
        cmocka_unit_test(a_node_that_no_block_has_degrades_and_does_no_harm),
    };
    return cmocka_run_group_tests(tests, engine_group_setup, engine_group_teardown);
}
