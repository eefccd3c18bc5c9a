/*
 * test_build_size.c - the arithmetic of memory, shards and disk: what it must promise to the stages
 * that follow it, and that it holds at the ends of its ranges. Whether the bounds are true of real
 * builds is measured in test_build.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "builder/build_size.h"
#include "builder/scan.h"
#include "layout/keys.h"

#define GIB ((uint64_t)1 << 30)

static struct build_params params_plain(void)
{
    return (struct build_params){.metric = METRIC_L2,
                                 .degree = 64,
                                 .build_list = 100,
                                 .alpha = 1.2,
                                 .codec = CODEC_PQ,
                                 .code_bytes = 32,
                                 .replication = 1.2,
                                 .threads = 8,
                                 .seed = 1,
                                 .navigation_share = 0.01};
}

/* All that costs memory at its most. */
static struct build_params params_most(void)
{
    return (struct build_params){.metric = METRIC_IP,
                                 .keys = "keys.u64bin",
                                 .degree = BUILD_DEGREE_MAX,
                                 .build_list = BUILD_LIST_MAX,
                                 .alpha = BUILD_ALPHA_MAX,
                                 .codec = CODEC_PQ,
                                 .code_bytes = VECTOR_DIM_MAX,
                                 .replication = BUILD_REPLICATION_MAX,
                                 .threads = BUILD_THREADS_MAX,
                                 .navigation_share = 1.0};
}

static const struct vector_shape billion = {.count = 1000000000, .dim = 128, .type = ELEMENT_U8};

static struct build_size size_of(const struct build_params *params,
                                 const struct vector_shape *shape, uint32_t shards)
{
    struct build_size size;
    build_size_compute(params, shape, shards, &size);
    return size;
}

/* ---- shards ---- */

/* Row counts of every magnitude, and those around which rounding changes. */
static const uint64_t row_counts[] = {
    1,     2,      63,      64,       127,       128,        129,        1000,         4095,
    10000, 999999, 4000000, 16000000, 100000001, 1000000000, 4000000001, SCAN_ROWS_MAX};

/* The partition is asked for shards that hold all rows, and the merge needs a row of its own for
 * the root of every other shard. */
static void shards_have_room_for_all_rows_and_rows_for_all_roots(void **state)
{
    (void)state;
    static const double replications[] = {1.0, 1.2, 2.5, 4.0};
    struct build_params params = params_plain();
    for (size_t r = 0; r < ARRAY_LENGTH(replications); r++)
        for (size_t i = 0; i < ARRAY_LENGTH(row_counts); i++) {
            struct vector_shape shape = {.count = row_counts[i], .dim = 24, .type = ELEMENT_F16};
            uint32_t most = build_shards_max(shape.count);
            params.replication = replications[r];
            assert_in_range(most, 1, MIN(shape.count, (uint64_t)PARTITION_SHARDS_MAX));
            for (uint32_t shards = 1; shards <= most; shards++) {
                struct build_size size = size_of(&params, &shape, shards);
                assert_int_equal(size.shard_count, shards);
                assert_true(size.own_max * shards >= shape.count);
                assert_true(size.own_min * shards <= shape.count);
                assert_true(size.own_min >= shards);
                assert_true(size.own_min <= size.own_max);
                assert_true(size.own_max <= shape.count);
                assert_true(size.own_max + size.borrowed_max <= 2 * shape.count);
                assert_true(shards > 1 || (size.borrowed_max == 0 && size.lent_max == 0));
                assert_true(size.replication >= 1.0 && size.replication <= params.replication);
            }
        }
}

static void few_rows_make_one_shard_and_most_rows_a_thousand(void **state)
{
    (void)state;
    assert_int_equal(build_shards_max(1), 1);
    assert_int_equal(build_shards_max(127), 1);
    assert_int_equal(build_shards_max(SCAN_ROWS_MAX), PARTITION_SHARDS_MAX);
    for (size_t i = 1; i < ARRAY_LENGTH(row_counts); i++)
        assert_true(build_shards_max(row_counts[i]) >= build_shards_max(row_counts[i - 1]));
}

/* ---- memory ---- */

static void memory_shrinks_with_shards_to_what_all_rows_take(void **state)
{
    (void)state;
    struct build_params params = params_plain();
    struct build_size one = size_of(&params, &billion, 1);
    struct build_size before = one;
    assert_true(one.memory_bytes > 300 * GIB);
    for (uint32_t shards = 2; shards <= PARTITION_SHARDS_MAX; shards++) {
        struct build_size size = size_of(&params, &billion, shards);
        assert_true(size.memory_bytes <= before.memory_bytes);
        /* What a shard at work takes is in proportion to it. */
        if (size.shard_bytes[size.memory_stage] > 0)
            assert_true(size.memory_bytes < before.memory_bytes);
        before = size;
    }
    assert_int_equal(before.shard_bytes[before.memory_stage], 0);
    assert_true(before.memory_bytes < 10 * GIB);
    assert_true(before.memory_bytes > 8 * billion.count); /* the scan keeps 8 bytes of each row */
}

static void memory_is_the_most_of_any_stage(void **state)
{
    (void)state;
    struct build_params params = params_plain();
    for (uint32_t shards = 1; shards <= PARTITION_SHARDS_MAX; shards = shards * 3 + 1) {
        struct build_size size = size_of(&params, &billion, shards);
        for (uint32_t lanes = 1; lanes <= 4; lanes++) {
            uint64_t most = 0;
            for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
                uint64_t bytes = build_size_stage_bytes(&size, (enum build_stage)stage, lanes);
                assert_true(bytes == size.fixed_bytes + size.shared_bytes[stage] +
                                         lanes * size.shard_bytes[stage]);
                most = MAX(most, bytes);
            }
            assert_true(build_size_peak_bytes(&size, lanes) == most);
        }
        assert_true(build_size_peak_bytes(&size, 1) == size.memory_bytes);
        assert_true(build_size_stage_bytes(&size, size.memory_stage, 1) == size.memory_bytes);
    }
}

/* Nothing a stage cannot do without may be missing from its bound. */
static void stages_hold_at_least_their_arrays(void **state)
{
    (void)state;
    struct build_params params = params_plain();
    for (uint32_t shards = 1; shards <= PARTITION_SHARDS_MAX; shards = shards * 5 + 1) {
        struct build_size size = size_of(&params, &billion, shards);
        uint64_t members = size.own_max + size.borrowed_max;
        uint64_t list = (params.degree + 1) * sizeof(uint32_t);
        assert_true(size.shard_bytes[BUILD_STAGE_GRAPH] > members * (128 + list));
        assert_true(size.shard_bytes[BUILD_STAGE_MERGE] > members * 128);
        assert_true(size.shard_bytes[BUILD_STAGE_PACK] > size.own_max * 2 * list);
        assert_true(size.shard_bytes[BUILD_STAGE_WRITE] > size.own_max * (128 + list));
        assert_true(size.shared_bytes[BUILD_STAGE_GEOMETRY] == size.shard_bytes[BUILD_STAGE_PACK]);
        assert_true(size.shared_bytes[BUILD_STAGE_WRITE] >= billion.count * sizeof(uint32_t));
        assert_true(size.shared_bytes[BUILD_STAGE_NAVIGATION] >= billion.count * sizeof(uint32_t));
        /* The first key of each page; never the keys. */
        assert_in_range(size.shared_bytes[BUILD_STAGE_KEYS], billion.count / 340 * 8, 200 << 20);
        /* 500 queries, 100 neighbours of each for every thread. */
        assert_true(size.shared_bytes[BUILD_STAGE_SAMPLE] > params.threads * 500 * 100 * 12);
    }
}

static void memory_grows_with_what_it_depends_on(void **state)
{
    (void)state;
    for (uint32_t shards = 1; shards <= 16; shards += 15) {
        struct build_params params = params_plain();
        struct vector_shape shape = billion;
        uint64_t base = size_of(&params, &shape, shards).memory_bytes;
        uint64_t graph = size_of(&params, &shape, shards).shard_bytes[BUILD_STAGE_GRAPH];
        params.degree++;
        assert_true(size_of(&params, &shape, shards).memory_bytes > base);
        params = params_plain();
        params.threads++;
        assert_true(size_of(&params, &shape, shards).memory_bytes > base);
        params = params_plain();
        params.replication = 1.3;
        assert_true((size_of(&params, &shape, shards).memory_bytes > base) == (shards > 1));
        params = params_plain();
        params.metric = METRIC_COSINE;
        assert_true(size_of(&params, &shape, shards).shard_bytes[BUILD_STAGE_GRAPH] > graph);
        params = params_plain();
        shape.dim = 256;
        assert_true(size_of(&params, &shape, shards).memory_bytes > base);
        shape = billion;
        shape.type = ELEMENT_F32;
        assert_true(size_of(&params, &shape, shards).memory_bytes > base);
        shape = billion;
        shape.count += 1000000;
        assert_true(size_of(&params, &shape, shards).memory_bytes > base);
    }
}

/* ---- choice ---- */

/* What build_size_choose() is to find, by trying all. 0: none fits. */
static uint32_t fewest(const struct build_params *params, const struct vector_shape *shape,
                       uint64_t limit, uint32_t lanes)
{
    for (uint32_t shards = 1; shards <= build_shards_max(shape->count); shards++) {
        struct build_size size = size_of(params, shape, shards);
        if (build_size_peak_bytes(&size, MIN(lanes, shards)) <= limit)
            return shards;
    }
    return 0;
}

static void choice_is_the_fewest_shards_that_fit(void **state)
{
    (void)state;
    static const uint64_t limits_gib[] = {1, 6, 7, 8, 9, 16, 40, 64, 100, 256, 512, 600, 1u << 20};
    struct build_params params = params_plain();
    uint32_t before = UINT32_MAX;
    for (size_t i = 0; i < ARRAY_LENGTH(limits_gib); i++) {
        struct build_size size;
        uint64_t limit = limits_gib[i] * GIB;
        uint32_t wanted = fewest(&params, &billion, limit, 1);
        assert_true(build_size_choose(&params, &billion, limit, 0, &size) == (wanted != 0));
        if (wanted == 0)
            continue;
        assert_int_equal(size.shard_count, wanted);
        assert_true(size.memory_bytes <= limit);
        assert_true(size.shard_count <= before);
        before = size.shard_count;
    }
    assert_int_equal(before, 1);
}

static void a_billion_byte_vectors_fit_64_gib(void **state)
{
    (void)state;
    struct build_params params = params_plain();
    struct build_size size;
    assert_true(build_size_choose(&params, &billion, 64 * GIB, 1, &size));
    assert_true(size.memory_bytes <= 64 * GIB);
    assert_in_range(size.shard_count, 2, 20);
}

/* Buffers for all other shards make it more again where there are many small ones. */
static const struct vector_shape million = {.count = 1000000, .dim = 96, .type = ELEMENT_F32};

static uint64_t floor_bytes(const struct build_params *params, const struct vector_shape *shape)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t shards = 1; shards <= build_shards_max(shape->count); shards++)
        least = MIN(least, size_of(params, shape, shards).memory_bytes);
    return least;
}

static void no_budget_below_the_floor_is_enough(void **state)
{
    (void)state;
    static const struct vector_shape *const shapes[] = {&billion, &million};
    struct build_params params = params_plain();
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        struct build_size size;
        uint64_t least = floor_bytes(&params, shapes[i]);
        assert_false(build_size_choose(&params, shapes[i], least - 1, 1, &size));
        assert_true(size.memory_bytes == least); /* the figure that the refusal names */
        assert_true(build_size_choose(&params, shapes[i], least, 1, &size));
        assert_false(build_size_choose(&params, shapes[i], 0, 4, &size));
        assert_true(size.memory_bytes == least);
    }
}

/* All lanes are to be at work at once, if that can be had; one shard at a time is better than none.
 */
static void lanes_share_the_budget(void **state)
{
    (void)state;
    static const uint64_t limits_gib[] = {8, 16, 64, 700};
    struct build_params params = params_plain();
    for (size_t i = 0; i < ARRAY_LENGTH(limits_gib); i++)
        for (uint32_t lanes = 1; lanes <= 8; lanes++) {
            struct build_size size;
            uint64_t limit = limits_gib[i] * GIB;
            uint32_t wanted = fewest(&params, &billion, limit, lanes);
            wanted = wanted != 0 ? wanted : fewest(&params, &billion, limit, 1);
            assert_true(build_size_choose(&params, &billion, limit, lanes, &size));
            assert_int_equal(size.shard_count, wanted);
        }
    struct build_size size;
    uint64_t least = floor_bytes(&params, &million);
    assert_int_equal(fewest(&params, &million, least, 8), 0);
    assert_true(build_size_choose(&params, &million, least, 8, &size));
    assert_int_equal(size.shard_count, fewest(&params, &million, least, 1));
}

static void shards_that_are_asked_for_are_taken_whether_they_fit_or_not(void **state)
{
    (void)state;
    struct build_params params = params_plain();
    for (params.shards = 1; params.shards <= 64; params.shards *= 4) {
        struct build_size asked = size_of(&params, &billion, params.shards);
        /* The earlier run's are of no account then. */
        struct build_size_request request = {
            .limit_bytes = asked.memory_bytes, .lanes = 4, .earlier = 5};
        for (int fits = 1; fits >= 0; fits--, request.limit_bytes--) {
            struct build_size size;
            assert_int_equal(build_size_settle(&params, &billion, &request, &size), fits);
            assert_int_equal(size.shard_count, params.shards);
            assert_true(size.memory_bytes == asked.memory_bytes);
        }
    }
}

static void shards_of_an_earlier_run_are_kept_while_they_fit(void **state)
{
    (void)state;
    static const uint32_t out_of_range[] = {0, PARTITION_SHARDS_MAX + 1, UINT32_MAX};
    struct build_params params = params_plain();
    struct build_size earlier = size_of(&params, &billion, 20);
    struct build_size size, chosen;
    /* More than it would take by itself, and one lane is enough. */
    struct build_size_request request = {.limit_bytes = 600 * GIB, .lanes = 8, .earlier = 20};
    assert_true(build_size_settle(&params, &billion, &request, &size));
    assert_int_equal(size.shard_count, 20);
    request.limit_bytes = earlier.memory_bytes;
    assert_true(build_size_settle(&params, &billion, &request, &size));
    assert_int_equal(size.shard_count, 20);
    request.limit_bytes--;
    assert_true(build_size_choose(&params, &billion, request.limit_bytes, 8, &chosen));
    assert_true(build_size_settle(&params, &billion, &request, &size));
    assert_int_equal(size.shard_count, chosen.shard_count);
    assert_int_not_equal(size.shard_count, 20);
    for (size_t i = 0; i < ARRAY_LENGTH(out_of_range); i++) {
        request.earlier = out_of_range[i];
        assert_true(build_size_settle(&params, &billion, &request, &size));
        assert_int_equal(size.shard_count, chosen.shard_count);
    }
}

/* Whatever an earlier run had: the figure that the refusal names. */
static void without_shards_that_fit_the_least_size_is_told(void **state)
{
    (void)state;
    struct build_params params = params_plain();
    uint64_t least = floor_bytes(&params, &million);
    for (uint32_t earlier = 0; earlier <= 3; earlier += 3) {
        struct build_size_request request = {.limit_bytes = least - 1, .earlier = earlier};
        struct build_size size;
        assert_false(build_size_settle(&params, &million, &request, &size));
        assert_true(size.memory_bytes == least);
    }
}

static void more_shards_than_rows_allow_are_refused_by_name(void **state)
{
    (void)state;
    static const struct vector_shape shape = {.count = 320, .dim = 8, .type = ELEMENT_U8};
    struct build_params params = params_plain();
    struct error err = {0};
    for (params.shards = 0; params.shards <= 5; params.shards++)
        assert_int_equal(build_shards_check(&params, &shape, &err), STATUS_OK);
    assert_int_equal(build_shards_check(&params, &shape, &err), STATUS_INVALID);
    assert_string_equal(err.text, "320 vectors can be cut into at most 5 shards");
    params.input = "base.u8bin";
    assert_int_equal(build_shards_check(&params, &shape, &err), STATUS_INVALID);
    assert_string_equal(err.text, "base.u8bin: 320 vectors can be cut into at most 5 shards");
}

/* ---- ends of the ranges ---- */

/* The same sums in floating point would be near: nothing wrapped around. */
static void the_largest_input_does_not_overflow(void **state)
{
    (void)state;
    const struct build_params plain = params_plain();
    const struct build_params most = params_most();
    const struct vector_shape shape = {
        .count = SCAN_ROWS_MAX, .dim = VECTOR_DIM_MAX, .type = ELEMENT_F32};
    const struct build_params *both[] = {&plain, &most};
    double rows = (double)shape.count;
    double row_bytes = 4.0 * VECTOR_DIM_MAX;
    for (size_t i = 0; i < ARRAY_LENGTH(both); i++)
        for (uint32_t shards = 1; shards <= PARTITION_SHARDS_MAX; shards = shards * 2 + 1) {
            struct build_size size = size_of(both[i], &shape, shards);
            double memory = (double)size.memory_bytes;
            double disk = (double)size.disk_bytes;
            double scratch = (double)size.scratch_bytes;
            double least = (double)size.disk_least_bytes;
            assert_true(memory > rows * row_bytes / shards && memory < 40.0 * rows * row_bytes);
            assert_true(disk >= least && disk < 4.0 * rows * row_bytes);
            assert_true(least > rows * row_bytes && least < 2.0 * rows * row_bytes);
            assert_true(scratch > rows * row_bytes && scratch < 40.0 * rows * row_bytes);
        }
}

static void one_row_of_one_element_has_a_size(void **state)
{
    (void)state;
    const struct build_params plain = params_plain();
    const struct build_params most = params_most();
    const struct vector_shape shape = {.count = 1, .dim = 1, .type = ELEMENT_U8};
    struct build_size size = size_of(&plain, &shape, 1);
    assert_in_range(size.memory_bytes, 1, GIB);
    assert_in_range(size.disk_bytes, size.disk_least_bytes, GIB);
    size = size_of(&most, &shape, 1);
    assert_true(size.memory_bytes > 0 && size.memory_bytes < 64 * GIB);
}

/* ---- disk ---- */

static void disk_is_the_sum_of_the_stages(void **state)
{
    (void)state;
    struct build_params params = params_plain();
    for (uint32_t shards = 1; shards <= PARTITION_SHARDS_MAX; shards = shards * 4 + 1) {
        struct build_size size = size_of(&params, &billion, shards);
        uint64_t sum = 0;
        for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
            sum += size.stage_disk_bytes[stage];
        assert_true(size.disk_bytes == sum);
        assert_true(size.disk_least_bytes ==
                    billion.count * (128 + 8 + 32) + keys_bytes(billion.count));
        assert_true(size.disk_bytes > size.disk_least_bytes);
        /* Own and merged lists, and the vectors once. */
        assert_true(size.scratch_bytes > billion.count * (128 + 2 * 64 * 4));
        assert_true(size.stage_disk_bytes[BUILD_STAGE_KEYS] == keys_bytes(billion.count));
    }
}

static void scratch_grows_with_what_is_borrowed(void **state)
{
    (void)state;
    struct build_params params = params_plain();
    uint64_t one = size_of(&params, &billion, 1).scratch_bytes;
    uint64_t ten = size_of(&params, &billion, 10).scratch_bytes;
    params.replication = 2.0;
    uint64_t twice = size_of(&params, &billion, 10).scratch_bytes;
    assert_true(ten > one + billion.count / 5 * 128);
    assert_true(twice > ten + billion.count / 2 * 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_have_room_for_all_rows_and_rows_for_all_roots),
        cmocka_unit_test(few_rows_make_one_shard_and_most_rows_a_thousand),
        cmocka_unit_test(memory_shrinks_with_shards_to_what_all_rows_take),
        cmocka_unit_test(memory_is_the_most_of_any_stage),
        cmocka_unit_test(stages_hold_at_least_their_arrays),
        cmocka_unit_test(memory_grows_with_what_it_depends_on),
        cmocka_unit_test(choice_is_the_fewest_shards_that_fit),
        cmocka_unit_test(a_billion_byte_vectors_fit_64_gib),
        cmocka_unit_test(no_budget_below_the_floor_is_enough),
        cmocka_unit_test(lanes_share_the_budget),
        cmocka_unit_test(shards_that_are_asked_for_are_taken_whether_they_fit_or_not),
        cmocka_unit_test(shards_of_an_earlier_run_are_kept_while_they_fit),
        cmocka_unit_test(without_shards_that_fit_the_least_size_is_told),
        cmocka_unit_test(more_shards_than_rows_allow_are_refused_by_name),
        cmocka_unit_test(the_largest_input_does_not_overflow),
        cmocka_unit_test(one_row_of_one_element_has_a_size),
        cmocka_unit_test(disk_is_the_sum_of_the_stages),
        cmocka_unit_test(scratch_grows_with_what_is_borrowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
