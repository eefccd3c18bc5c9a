/*
 * test_index_scan.c - what is made of the blocks when an index is opened: finer codes, lists apart
 * from their blocks, the cache; and that no block at fault passes.
 *
 * Error paths free what they took: LeakSanitizer tells of what malloc gave, the resident set of
 * what bulk_alloc did.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/compiler.h"
#include "common/memory.h"
#include "common/random.h"
#include "query/index_plan.h"
#include "query/index_scan.h"
#include "tests/generation_fixture.h"
#include "tests/index_fixture.h"

enum { SEED = 20240616, EVERYTHING = 1 << 28, FLIPS = 4, ROUNDS = 6 };

/* Vectors large beside their lists and codes short beside their dimension: every tier is met. */
static const struct collection_spec specs[] = {
    {ELEMENT_F32, METRIC_L2, 1203, 96, 1, NULL, 8},
    {ELEMENT_U8, METRIC_IP, 1501, 200, 1, NULL, 16},
    {ELEMENT_F16, METRIC_COSINE, 907, 128, 1, NULL, 10},
};

struct fixture {
    void *directory;
    struct collection *collections[ARRAY_LENGTH(specs)];
};

static int group_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    assert_int_equal(fixture_directory_setup(&f->directory), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(specs); i++) {
        char name[16];
        snprintf(name, sizeof(name), "gen-%zu", i);
        f->collections[i] = collection_create(f->directory, name, &specs[i]);
    }
    *state = f;
    return 0;
}

static int group_teardown(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(specs); i++)
        collection_destroy(f->collections[i]);
    int result = fixture_directory_teardown(&f->directory);
    free(f);
    return result;
}

/* ---- tiers ---- */

/* Finer codes without lists, if lists are not cheaper than those; lists and codes of some bits;
 * blocks on top; everything. */
enum tier { TIER_CODES, TIER_2_BITS, TIER_4_BITS, TIER_BLOCKS, TIER_RESIDENT, TIERS };

static uint64_t tier_budget(const struct collection *c, enum tier tier)
{
    if (tier == TIER_RESIDENT)
        return EVERYTHING;
    if (tier == TIER_BLOCKS)
        return collection_budget_lists(c, 9);
    struct index *index = collection_open(c, 0);
    const struct manifest *m = index_manifest(index);
    const struct index_memory memory = index_memory_of(index);
    const uint64_t codes = (uint64_t)m->geometry.node_limit + m->navigation_count;
    const uint32_t finest = codec_scalar_code_bytes(m->dim, m->metric, 4);
    const uint32_t bytes = codec_scalar_code_bytes(m->dim, m->metric, 1u << tier);
    uint64_t budget = memory.codes_bytes + memory.navigation_bytes + memory.keys_bytes +
                      codes * (bytes - m->code_bytes);
    if (tier != TIER_CODES) /* and the lists */
        budget = collection_budget_lists(c, 0) - codes * (finest - bytes);
    index_release(index);
    return budget;
}

/* Opens the tier and makes sure that it is what the plan says, and what is meant. */
static struct index *tier_open(const struct collection *c, enum tier tier)
{
    const uint64_t budget = tier_budget(c, tier);
    struct index *index = collection_open(c, budget);
    const struct index_memory memory = index_memory_of(index);
    struct index_plan plan;
    struct error err;
    ASSERT_STATUS_OK(index_plan_make(index_manifest(index), budget, &plan, &err), err);
    assert_int_equal(memory.scalar_bits, plan.scalar_bits);
    assert_int_equal(memory.code_bytes, plan.code_bytes);
    assert_int_equal(index->lists != NULL, plan.lists);
    assert_int_equal(memory.lists_bytes > 0, plan.lists);
    assert_int_equal(memory.resident, tier == TIER_RESIDENT);
    assert_int_equal(memory.cached_blocks, plan.cached_blocks);
    if (tier != TIER_CODES) {
        assert_int_equal(plan.scalar_bits, tier == TIER_2_BITS ? 2 : 4);
        assert_int_equal(plan.lists, tier != TIER_RESIDENT);
    }
    if (tier == TIER_BLOCKS)
        assert_int_equal(plan.cached_blocks, 9);
    return index;
}

/* ---- what is kept ---- */

static void codes_check(const struct index *index, const struct block_view *view)
{
    const size_t code_bytes = index->code_bytes;
    uint8_t *wanted = malloc(view->record_count * code_bytes);
    assert_non_null(wanted);
    codec_encode(index->codec, view->vectors, view->record_count, wanted);
    assert_memory_equal(index->codes + view->first_node * code_bytes, wanted,
                        view->record_count * code_bytes);
    free(wanted);
}

static void lists_check(const struct index *index, uint32_t block, const struct block_view *view)
{
    struct block_view apart;
    block_lists_view(&index->geometry, block, index->lists[block], &apart);
    assert_int_equal(apart.record_count, view->record_count);
    assert_int_equal(apart.first_node, view->first_node);
    for (uint32_t slot = 0; slot < view->record_count; slot++) {
        uint32_t got[BLOCK_DEGREE_MAX + 1], wanted[BLOCK_DEGREE_MAX + 1];
        enum block_fault fault = BLOCK_OK;
        const uint32_t degree = block_neighbors(view, slot, wanted, &fault);
        assert_int_equal(block_neighbors(&apart, slot, got, &fault), degree);
        assert_int_equal(fault, BLOCK_OK);
        if (degree > 0)
            assert_memory_equal(got, wanted, degree * sizeof(*got));
    }
}

static void kept_check(const struct collection *c, const struct index *index)
{
    const struct manifest *m = index_manifest(index);
    uint8_t *file = collection_read_blocks(c, m);
    for (uint32_t block = 0; block < m->block_count; block++) {
        const uint8_t *bytes = file + (size_t)block * m->geometry.block_bytes;
        struct block_view view;
        assert_int_equal(block_open(&m->geometry, block, bytes, &view), BLOCK_OK);
        codes_check(index, &view);
        if (index->lists)
            lists_check(index, block, &view);
        const void *cached = index_cached_block(index, block);
        if (cached)
            assert_memory_equal(cached, bytes, m->geometry.block_bytes);
    }
    free(file);
    for (uint32_t i = 0; i < index->navigation.count; i++)
        assert_memory_equal(index->navigation_codes + (size_t)i * index->code_bytes,
                            index->codes + (size_t)index->navigation.nodes[i] * index->code_bytes,
                            index->code_bytes);
}

static void what_is_kept_is_what_the_blocks_hold(void **state)
{
    const struct fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(specs); i++)
        for (enum tier tier = 0; tier < TIERS; tier++) {
            struct index *index = tier_open(f->collections[i], tier);
            kept_check(f->collections[i], index);
            index_release(index);
        }
}

static void what_an_index_says_of_its_memory_is_within_plan_and_budget(void **state)
{
    const struct fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(specs); i++)
        for (enum tier tier = 0; tier < TIERS; tier++) {
            const uint64_t budget = tier_budget(f->collections[i], tier);
            struct index *index = tier_open(f->collections[i], tier);
            const struct index_memory memory = index_memory_of(index);
            struct index_plan plan;
            struct error err;
            ASSERT_STATUS_OK(index_plan_make(index_manifest(index), budget, &plan, &err), err);
            assert_int_equal(memory.scalar_bits, plan.scalar_bits);
            assert_int_equal(memory.code_bytes, plan.code_bytes);
            assert_int_equal(memory.code_bytes, codec_params_of(index->codec).code_bytes);
            assert_int_equal(memory.codes_bytes, plan.codes_bytes);
            assert_int_equal(memory.navigation_bytes, plan.navigation_bytes);
            assert_int_equal(memory.cache_bytes, plan.cache_bytes);
            assert_int_equal(memory.cached_blocks, plan.cached_blocks);
            assert_true(memory.lists_bytes <= plan.lists_bytes);
            assert_true(memory.codes_bytes + memory.navigation_bytes + memory.keys_bytes +
                            memory.lists_bytes + memory.cache_bytes <=
                        budget);
            index_release(index);
        }
}

/* Threads take what they get; the bytes do not show it. */
static void opening_twice_gives_the_same_bytes(void **state)
{
    const struct fixture *f = *state;
    const struct collection *c = f->collections[0];
    struct index *a = tier_open(c, TIER_BLOCKS), *b = tier_open(c, TIER_BLOCKS);
    assert_int_equal(a->codes_bytes, b->codes_bytes);
    assert_memory_equal(a->codes, b->codes, a->codes_bytes);
    assert_int_equal(index_memory_of(a).lists_bytes, index_memory_of(b).lists_bytes);
    index_release(a);
    index_release(b);
}

/* ---- bad bytes ---- */

static const char *nodes_path(const struct collection *c)
{
    return fixture_path(c->path, generation_file_names[GENERATION_NODES]);
}

static void flip_in_block(const struct collection *c, uint64_t block, uint64_t block_bytes)
{
    const char *path = nodes_path(c);
    assert_int_equal(chmod(path, 0644), 0);
    fixture_flip_bit(path, (block * block_bytes + random_below(SEED, block, block_bytes)) * 8 +
                               block % 8);
}

static void expect_refused(const struct collection *c, uint64_t budget, uint64_t block)
{
    const struct index_options options = {.memory_bytes = budget};
    struct index *index = NULL;
    struct error err;
    char words[64];
    snprintf(words, sizeof(words), "nodes.blk: block %llu:", (unsigned long long)block);
    assert_int_equal(index_open(c->path, &options, &index, &err), STATUS_CORRUPT);
    assert_null(index);
    if (!strstr(err.text, words))
        fail_msg("got: %s; wanted: %s", err.text, words);
}

static void a_flipped_bit_anywhere_refuses_every_tier_that_reads_it(void **state)
{
    const struct fixture *f = *state;
    print_message("seed %d\n", SEED);
    for (size_t s = 0; s < ARRAY_LENGTH(specs); s++) {
        const struct collection *c = f->collections[s];
        struct index *index = collection_open(c, 0);
        const uint64_t block_count = index_manifest(index)->block_count;
        const uint64_t block_bytes = index_manifest(index)->geometry.block_bytes;
        index_release(index);
        uint64_t budgets[TIERS];
        for (enum tier tier = 0; tier < TIERS; tier++)
            budgets[tier] = tier_budget(c, tier);
        for (uint64_t i = 0; i <= FLIPS; i++) {
            const uint64_t b = i * (block_count - 1) / FLIPS; /* the first and the last, too */
            flip_in_block(c, b, block_bytes);
            for (enum tier tier = 0; tier < TIERS; tier++)
                expect_refused(c, budgets[tier], b);
            flip_in_block(c, b, block_bytes);
        }
        struct index *whole = tier_open(c, TIER_RESIDENT); /* as it was */
        index_release(whole);
    }
}

static void of_several_blocks_at_fault_the_lowest_is_named(void **state)
{
    const struct fixture *f = *state;
    /* More rows than finer codes are trained on, in blocks of which some are not in that sample. */
    const struct collection_spec spec = {ELEMENT_U8, METRIC_L2, 10000, 64, 1, NULL, 4};
    struct collection *c = collection_create(f->directory, "sampled", &spec);
    struct index *index = collection_open(c, 0);
    const uint64_t block_count = index_manifest(index)->block_count;
    const uint64_t block_bytes = index_manifest(index)->geometry.block_bytes;
    index_release(index);
    const uint64_t budgets[] = {tier_budget(c, TIER_2_BITS), tier_budget(c, TIER_4_BITS),
                                EVERYTHING};
    for (uint64_t round = 0; round < 5; round++) {
        uint64_t low = random_below(SEED, 2 * round, block_count - 1);
        uint64_t high = low + 1 + random_below(SEED, 2 * round + 1, block_count - 1 - low);
        flip_in_block(c, low, block_bytes);
        flip_in_block(c, high, block_bytes);
        for (size_t i = 0; i < ARRAY_LENGTH(budgets); i++)
            expect_refused(c, budgets[i], low);
        flip_in_block(c, low, block_bytes);
        flip_in_block(c, high, block_bytes);
    }
    collection_destroy(c);
}

static void a_file_that_shrinks_while_it_is_open_is_an_io_error(void **state)
{
    const struct fixture *f = *state;
    const struct collection_spec spec = {ELEMENT_U8, METRIC_L2, 3000, 64, 1, NULL, 8};
    struct collection *c = collection_create(f->directory, "short", &spec);
    struct index *index = collection_open(c, 0);
    const uint64_t block_bytes = index->geometry.block_bytes;
    const uint64_t cuts[] = {31 * block_bytes + 100, 31 * block_bytes, 5 * block_bytes + 1, 0};
    assert_int_equal(chmod(nodes_path(c), 0644), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(cuts); i++) {
        struct error err;
        char words[64];
        assert_int_equal(truncate(nodes_path(c), (off_t)cuts[i]), 0);
        snprintf(words, sizeof(words),
                 "nodes.blk: block %llu:", (unsigned long long)(cuts[i] / block_bytes));
        assert_int_equal(index_scan(index, true, 0, &err), STATUS_IO);
        if (!strstr(err.text, words))
            fail_msg("got: %s; wanted: %s", err.text, words);
    }
    /* Nothing is left to train a codec on. */
    struct codec_params params = codec_params_of(index->codec);
    struct codec *codec = NULL;
    struct error err;
    params.kind = CODEC_SCALAR;
    params.code_bytes = codec_scalar_code_bytes(params.dim, params.metric, 4);
    assert_int_equal(index_codec_train(index, &params, &codec, &err), STATUS_IO);
    assert_null(codec);
    index_release(index);

    /* Opened anew, its length gives it away. */
    const struct index_options options = {.memory_bytes = EVERYTHING};
    struct index *none = NULL;
    assert_int_not_equal(index_open(c->path, &options, &none, &err), STATUS_OK);
    assert_null(none);
    collection_destroy(c);
}

static void a_refused_open_gives_its_memory_back(void **state)
{
    const struct fixture *f = *state;
    const struct collection *c = f->collections[0];
    struct index *index = collection_open(c, 0);
    const uint64_t last = index_manifest(index)->block_count - 1;
    const uint64_t block_bytes = index_manifest(index)->geometry.block_bytes;
    index_release(index);
    uint64_t budgets[TIERS];
    for (enum tier tier = 0; tier < TIERS; tier++)
        budgets[tier] = tier_budget(c, tier);
    flip_in_block(c, last, block_bytes);
    for (enum tier tier = 0; tier < TIERS; tier++)
        expect_refused(c, budgets[tier], last);
    const uint64_t before = memory_rss();
    for (uint32_t round = 0; round < ROUNDS; round++)
        for (enum tier tier = 0; tier < TIERS; tier++)
            expect_refused(c, budgets[tier], last);
    const uint64_t after = memory_rss();
    flip_in_block(c, last, block_bytes);
    print_message("resident set %llu KiB, then %llu\n", (unsigned long long)before / 1024,
                  (unsigned long long)after / 1024);
    if (SANITIZED) /* whose shadow and quarantine are resident as well */
        skip();
    /* Opens that left even their codes, the least of what bulk_alloc() gives, would be beyond. */
    assert_true(after < before + (uint64_t)ROUNDS * TIERS * specs[0].count * 14 / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_kept_is_what_the_blocks_hold),
        cmocka_unit_test(what_an_index_says_of_its_memory_is_within_plan_and_budget),
        cmocka_unit_test(opening_twice_gives_the_same_bytes),
        cmocka_unit_test(a_flipped_bit_anywhere_refuses_every_tier_that_reads_it),
        cmocka_unit_test(of_several_blocks_at_fault_the_lowest_is_named),
        cmocka_unit_test(a_file_that_shrinks_while_it_is_open_is_an_io_error),
        cmocka_unit_test(a_refused_open_gives_its_memory_back),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
