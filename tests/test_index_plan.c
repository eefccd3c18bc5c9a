/*
 * test_index_plan.c - how a memory budget is spent, over made-up manifests: what is bought first,
 * at which byte, and that nothing is ever bought on credit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "query/index_plan.h"

enum { SEED = 20240617, BUDGETS = 400 };

struct shape {
    const char *name;
    uint64_t count;
    uint32_t dim;
    enum element_type type;
    enum metric metric;
    uint32_t code_bytes;
    uint32_t block_bytes, nodes_per_block;
    double mean_degree;
};

static const struct shape shapes[] = {
    {"128-d u8, 1 M", 1000000, 128, ELEMENT_U8, METRIC_L2, 32, 4096, 17, 40.0},
    {"1024-d f32, 1 M", 1000000, 1024, ELEMENT_F32, METRIC_COSINE, 128, 20480, 4, 48.0},
    {"128-d u8, 1 B", 1000000000, 128, ELEMENT_U8, METRIC_L2, 32, 4096, 17, 48.0},
    {"1024-d f16 ip, 1 B", 1000000000, 1024, ELEMENT_F16, METRIC_IP, 64, 4096, 1, 48.0},
    {"long codes", 100000, 128, ELEMENT_F32, METRIC_L2, 128, 4096, 6, 32.0},
    {"one vector", 1, 2, ELEMENT_U8, METRIC_L2, 1, 4096, 100, 0.0},
    {"largest ids", 4294967294, 8192, ELEMENT_F32, METRIC_L2, 8192, 36864, 1, 255.0},
};

enum { U8_1M, F32_1M, U8_1B, IP_1B };

static struct manifest manifest_of(const struct shape *shape)
{
    const uint64_t block_count =
        (shape->count + shape->nodes_per_block - 1) / shape->nodes_per_block;
    struct manifest m = {
        .vector_count = shape->count,
        .dim = shape->dim,
        .type = shape->type,
        .metric = shape->metric,
        .codec_kind = CODEC_PQ,
        .code_bytes = shape->code_bytes,
        .block_count = block_count,
        .mean_degree = shape->mean_degree,
        .navigation_count = (uint32_t)(shape->count / 100 + 1),
        .geometry = {.block_bytes = shape->block_bytes,
                     .nodes_per_block = shape->nodes_per_block,
                     .vector_bytes = (uint32_t)(shape->dim * element_bytes(shape->type)),
                     .node_limit = (uint32_t)(block_count * shape->nodes_per_block)},
    };
    m.files[GENERATION_NODES].bytes = block_count * shape->block_bytes;
    m.files[GENERATION_CODES].bytes = (uint64_t)m.geometry.node_limit * shape->code_bytes;
    m.files[GENERATION_CODEC].bytes = 64 + 1024 * (uint64_t)shape->dim;
    m.files[GENERATION_NAVIGATION].bytes = 64 + 132 * (uint64_t)m.navigation_count;
    return m;
}

static struct index_plan plan_of(const struct manifest *m, uint64_t budget)
{
    struct index_plan plan;
    struct error err;
    if (index_plan_make(m, budget, &plan, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return plan;
}

static uint64_t spent(const struct index_plan *plan)
{
    return plan->codes_bytes + plan->navigation_bytes + plan->attributes_bytes + plan->keys_bytes +
           plan->lists_bytes + plan->cache_bytes;
}

static uint64_t least_of(const struct manifest *m)
{
    const struct index_plan plan = plan_of(m, 0);
    return spent(&plan);
}

/* What codes of `bits` a dimension cost beyond the generation's own. */
static uint64_t finer_cost(const struct manifest *m, uint32_t bits)
{
    const uint64_t codes = (uint64_t)m->geometry.node_limit + m->navigation_count;
    return codes * (codec_scalar_code_bytes(m->dim, m->metric, bits) - m->code_bytes);
}

/* ---- the ends ---- */

static void no_budget_is_codes_and_navigation_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        const struct manifest m = manifest_of(&shapes[i]);
        const struct index_plan plan = plan_of(&m, 0);
        assert_int_equal(plan.scalar_bits, 0);
        assert_int_equal(plan.code_bytes, m.code_bytes);
        assert_false(plan.lists || plan.resident);
        assert_int_equal(plan.cached_blocks + plan.cache_bytes + plan.lists_bytes, 0);
        assert_int_equal(plan.codes_bytes,
                         m.files[GENERATION_CODES].bytes + m.files[GENERATION_CODEC].bytes);
        assert_int_equal(plan.navigation_bytes, m.files[GENERATION_NAVIGATION].bytes +
                                                    (uint64_t)m.navigation_count * m.code_bytes);
        assert_int_equal(plan.keys_bytes, (m.vector_count + 339) / 340 * 8);
    }
}

static void a_budget_too_small_is_refused_with_the_least_that_would_do(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        const struct manifest m = manifest_of(&shapes[i]);
        const uint64_t least = least_of(&m);
        const uint64_t budgets[] = {1, least / 2, least - 1};
        char number[32];
        snprintf(number, sizeof(number), " %llu ", (unsigned long long)least);
        for (size_t b = 0; b < ARRAY_LENGTH(budgets); b++) {
            struct index_plan plan = {.cached_blocks = 77};
            struct error err;
            assert_int_equal(index_plan_make(&m, budgets[b], &plan, &err), STATUS_NO_MEMORY);
            assert_non_null(strstr(err.text, number));
            assert_int_equal(plan.cached_blocks, 77); /* untouched */
        }
        const struct index_plan plan = plan_of(&m, least);
        assert_int_equal(spent(&plan), least);
        assert_int_equal(plan.scalar_bits, 0);
    }
}

static void all_the_memory_there_could_be_is_resident_with_the_finest_codes(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        const struct manifest m = manifest_of(&shapes[i]);
        const struct index_plan plan = plan_of(&m, UINT64_MAX);
        const uint32_t finest = codec_scalar_code_bytes(m.dim, m.metric, 4);
        assert_true(plan.resident);
        assert_false(plan.lists);
        assert_int_equal(plan.cached_blocks, m.block_count);
        assert_int_equal(plan.cache_bytes, m.files[GENERATION_NODES].bytes);
        assert_int_equal(plan.code_bytes, MAX(finest, m.code_bytes));
        assert_int_equal(plan.scalar_bits, finest >= m.code_bytes ? 4 : 0);
    }
}

/* ---- each tier at its byte ---- */

/* Bytes of the lists, where they are small enough to be had at all. */
static uint64_t lists_cost(const struct manifest *m)
{
    return plan_of(m, least_of(m) + m->files[GENERATION_NODES].bytes - 1).lists_bytes;
}

static void finer_codes_come_at_their_byte(void **state)
{
    (void)state;
    static const struct {
        uint32_t shape, bits;
    } cases[] = {{U8_1M, 4}, {F32_1M, 2}, {F32_1M, 4}, {U8_1B, 4},
                 {IP_1B, 1}, {IP_1B, 2},  {IP_1B, 4}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const struct manifest m = manifest_of(&shapes[cases[i].shape]);
        const uint64_t budget = least_of(&m) + lists_cost(&m) + finer_cost(&m, cases[i].bits);
        const struct index_plan before = plan_of(&m, budget - 1), plan = plan_of(&m, budget);
        assert_int_equal(plan.scalar_bits, cases[i].bits);
        assert_int_equal(plan.code_bytes,
                         codec_scalar_code_bytes(m.dim, m.metric, plan.scalar_bits));
        assert_int_equal(spent(&plan), budget);
        assert_true(before.scalar_bits < cases[i].bits);
    }
    /* Codes of one bit would be no longer than these, two not by half. */
    const struct manifest m = manifest_of(&shapes[U8_1M]);
    const struct index_plan plan = plan_of(&m, least_of(&m) + finer_cost(&m, 4) - 1);
    assert_int_equal(plan.scalar_bits, 0);
}

static void lists_come_at_their_byte_where_they_are_small_beside_vectors(void **state)
{
    (void)state;
    static const uint32_t with[] = {F32_1M, IP_1B};
    for (size_t i = 0; i < ARRAY_LENGTH(with); i++) {
        const struct manifest m = manifest_of(&shapes[with[i]]);
        const struct index_plan rich =
            plan_of(&m, least_of(&m) + m.files[GENERATION_NODES].bytes - 1);
        assert_true(rich.lists);
        const uint64_t budget = least_of(&m) + rich.lists_bytes;
        const struct index_plan before = plan_of(&m, budget - 1), plan = plan_of(&m, budget);
        assert_false(before.lists);
        assert_int_equal(before.lists_bytes, 0);
        assert_true(before.scalar_bits > 0 || before.cached_blocks > 0); /* not left unspent */
        assert_true(plan.lists);
        assert_int_equal(plan.cached_blocks, 0);
        assert_int_equal(spent(&plan), budget);
        /* The bound holds what lists of full ids would take, and their table. */
        assert_true(rich.lists_bytes >= m.block_count * sizeof(void *));
        assert_true(rich.lists_bytes < m.files[GENERATION_NODES].bytes / 4);
    }
    static const uint32_t without[] = {U8_1M, U8_1B};
    for (size_t i = 0; i < ARRAY_LENGTH(without); i++) {
        const struct manifest m = manifest_of(&shapes[without[i]]);
        const struct index_plan rich =
            plan_of(&m, least_of(&m) + m.files[GENERATION_NODES].bytes - 1);
        assert_false(rich.lists);
    }
}

static void a_block_is_cached_when_it_and_the_table_are_paid_for(void **state)
{
    (void)state;
    static const uint64_t blocks[] = {1, 2, 100, 1000};
    const struct manifest m = manifest_of(&shapes[U8_1M]);
    const uint64_t table_bytes = m.block_count * sizeof(uint32_t);
    const uint64_t finest = least_of(&m) + finer_cost(&m, 4);
    for (size_t i = 0; i < ARRAY_LENGTH(blocks); i++) {
        const uint64_t budget = finest + table_bytes + blocks[i] * m.geometry.block_bytes;
        const struct index_plan before = plan_of(&m, budget - 1), plan = plan_of(&m, budget);
        assert_int_equal(before.cached_blocks, blocks[i] - 1);
        assert_int_equal(before.cache_bytes == 0, blocks[i] == 1); /* no table of nothing */
        assert_int_equal(plan.cached_blocks, blocks[i]);
        assert_int_equal(spent(&plan), budget);
    }
}

static void an_index_is_resident_from_the_byte_that_holds_every_block(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        const struct manifest m = manifest_of(&shapes[i]);
        /* blocks come after the finest codes there can be without them */
        const struct index_plan nearly =
            plan_of(&m, m.files[GENERATION_NODES].bytes - 1 + least_of(&m));
        const uint64_t budget = nearly.codes_bytes + nearly.navigation_bytes + nearly.keys_bytes +
                                m.files[GENERATION_NODES].bytes;
        const struct index_plan before = plan_of(&m, budget - 1), plan = plan_of(&m, budget);
        assert_false(before.resident);
        assert_true(before.cached_blocks < m.block_count);
        assert_true(plan.resident);
        assert_false(plan.lists); /* they are in the blocks */
        assert_true(plan.code_bytes >= before.code_bytes);
    }
}

/* Codes of 4 bits and hardly more bytes than PQ's: no reason to have them but speed. */
static void a_resident_index_takes_fast_codes_that_are_not_longer_by_half(void **state)
{
    (void)state;
    struct manifest m = manifest_of(&shapes[U8_1M]);
    m.code_bytes = codec_scalar_code_bytes(m.dim, m.metric, 4) - 2;
    m.files[GENERATION_CODES].bytes = (uint64_t)m.geometry.node_limit * m.code_bytes;
    const uint64_t resident = least_of(&m) + m.files[GENERATION_NODES].bytes;
    assert_int_equal(plan_of(&m, resident - 1).scalar_bits, 0);
    assert_true(plan_of(&m, resident).resident);
    assert_int_equal(plan_of(&m, resident).scalar_bits, 0);
    const uint64_t fast = resident + finer_cost(&m, 4);
    assert_int_equal(plan_of(&m, fast - 1).scalar_bits, 0);
    assert_int_equal(plan_of(&m, fast).scalar_bits, 4);
    assert_true(plan_of(&m, fast).resident);
}

/* Each step differs from the one before, and a byte less has not reached it. */
static void steps_are_the_budgets_where_something_is_added(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        const struct manifest m = manifest_of(&shapes[i]);
        struct index_step steps[INDEX_STEPS_MAX];
        const uint32_t count = index_plan_steps(&m, steps);
        assert_in_range(count, 2, INDEX_STEPS_MAX - 1);
        assert_int_equal(steps[0].budget, least_of(&m));
        assert_true(steps[count - 1].plan.resident);
        for (uint32_t j = 1; j < count; j++) {
            const struct index_plan before = plan_of(&m, steps[j].budget - 1);
            const struct index_plan *plan = &steps[j].plan, *last = &steps[j - 1].plan;
            assert_true(steps[j].budget > steps[j - 1].budget);
            assert_int_equal(before.scalar_bits, last->scalar_bits);
            assert_int_equal(before.lists, last->lists);
            assert_int_equal(before.resident, last->resident);
            assert_true(plan->scalar_bits != last->scalar_bits || plan->lists != last->lists ||
                        plan->resident != last->resident);
        }
    }
}

/* They come first and change nothing else. */
static void attributes_are_paid_before_all_that_can_be_done_without(void **state)
{
    (void)state;
    const uint64_t bytes = 123456789;
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        const struct manifest m = manifest_of(&shapes[i]);
        struct manifest with = m;
        with.files[GENERATION_ATTRIBUTES].bytes = bytes;
        assert_int_equal(least_of(&with), least_of(&m) + bytes);
        struct index_step steps[INDEX_STEPS_MAX];
        const uint32_t count = index_plan_steps(&m, steps);
        for (uint32_t j = 0; j < count; j++)
            for (uint64_t less = 0; less <= (j > 0 ? 1 : 0); less++) {
                const struct index_plan wanted = plan_of(&m, steps[j].budget - less);
                const struct index_plan found = plan_of(&with, steps[j].budget - less + bytes);
                assert_int_equal(found.attributes_bytes, bytes);
                assert_int_equal(found.codes_bytes, wanted.codes_bytes);
                assert_int_equal(found.lists, wanted.lists);
                assert_int_equal(found.resident, wanted.resident);
                assert_int_equal(found.cached_blocks, wanted.cached_blocks);
            }
    }
}

static void codes_that_are_scalar_already_are_the_generations_own(void **state)
{
    (void)state;
    struct manifest m = manifest_of(&shapes[F32_1M]);
    m.codec_kind = CODEC_SCALAR;
    m.code_bytes = codec_scalar_code_bytes(m.dim, m.metric, 1);
    m.files[GENERATION_CODES].bytes = (uint64_t)m.geometry.node_limit * m.code_bytes;
    const uint64_t budgets[] = {0, least_of(&m), UINT64_C(1) << 30, UINT64_C(4) << 30, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LENGTH(budgets); i++) {
        const struct index_plan plan = plan_of(&m, budgets[i]);
        assert_int_equal(plan.scalar_bits, 0);
        assert_int_equal(plan.code_bytes, m.code_bytes);
    }
}

/* ---- any budget ---- */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Up to one and a half times what everything takes, ascending. */
static void budgets_draw(const struct manifest *m, uint64_t seed, uint64_t budgets[BUDGETS])
{
    const uint64_t least = least_of(m), nodes = m->files[GENERATION_NODES].bytes;
    for (uint32_t i = 0; i < BUDGETS; i++)
        budgets[i] = least + random_below(seed, i, i % 2 ? nodes + nodes / 2 : nodes / 4 + 1);
    qsort(budgets, BUDGETS, sizeof(*budgets), compare_u64);
}

static void a_plan_keeps_within_its_budget_and_says_what_it_does(void **state)
{
    (void)state;
    uint64_t budgets[BUDGETS];
    print_message("seed %d\n", SEED);
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        const struct manifest m = manifest_of(&shapes[i]);
        budgets_draw(&m, SEED + i, budgets);
        for (uint32_t b = 0; b < BUDGETS; b++) {
            const struct index_plan plan = plan_of(&m, budgets[b]);
            assert_true(spent(&plan) <= budgets[b]);
            assert_int_equal(plan.lists, plan.lists_bytes > 0);
            assert_int_equal(plan.resident, plan.cached_blocks == m.block_count);
            const uint64_t table_bytes =
                plan.resident || plan.cached_blocks == 0 ? 0 : m.block_count * sizeof(uint32_t);
            assert_int_equal(plan.cache_bytes,
                             plan.cached_blocks * m.geometry.block_bytes + table_bytes);
            if (plan.scalar_bits > 0)
                assert_int_equal(plan.code_bytes,
                                 codec_scalar_code_bytes(m.dim, m.metric, plan.scalar_bits));
            else
                assert_int_equal(plan.code_bytes, m.code_bytes);
            /* What is left buys no further block. */
            if (!plan.resident)
                assert_true(budgets[b] - spent(&plan) <
                            m.geometry.block_bytes + m.block_count * sizeof(uint32_t));
        }
    }
}

static void more_budget_is_never_spent_on_less(void **state)
{
    (void)state;
    uint64_t budgets[BUDGETS];
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        const struct manifest m = manifest_of(&shapes[i]);
        uint32_t residents = 0;
        budgets_draw(&m, SEED + 100 + i, budgets);
        for (uint32_t b = 1; b < BUDGETS; b++) {
            const struct index_plan less = plan_of(&m, budgets[b - 1]);
            const struct index_plan more = plan_of(&m, budgets[b]);
            assert_true(more.resident >= less.resident);
            residents += more.resident;
            /* Lists first (all blocks have them), then codes, then blocks. */
            assert_true(more.lists || more.resident >= less.lists);
            if (more.lists != less.lists && !more.resident)
                continue;
            assert_true(more.code_bytes >= less.code_bytes);
            if (more.code_bytes == less.code_bytes)
                assert_true(more.cached_blocks >= less.cached_blocks);
        }
        assert_true(residents > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_budget_is_codes_and_navigation_alone),
        cmocka_unit_test(a_budget_too_small_is_refused_with_the_least_that_would_do),
        cmocka_unit_test(all_the_memory_there_could_be_is_resident_with_the_finest_codes),
        cmocka_unit_test(finer_codes_come_at_their_byte),
        cmocka_unit_test(lists_come_at_their_byte_where_they_are_small_beside_vectors),
        cmocka_unit_test(a_block_is_cached_when_it_and_the_table_are_paid_for),
        cmocka_unit_test(an_index_is_resident_from_the_byte_that_holds_every_block),
        cmocka_unit_test(a_resident_index_takes_fast_codes_that_are_not_longer_by_half),
        cmocka_unit_test(steps_are_the_budgets_where_something_is_added),
        cmocka_unit_test(attributes_are_paid_before_all_that_can_be_done_without),
        cmocka_unit_test(codes_that_are_scalar_already_are_the_generations_own),
        cmocka_unit_test(a_plan_keeps_within_its_budget_and_says_what_it_does),
        cmocka_unit_test(more_budget_is_never_spent_on_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
