/*
 * test_recall_choice.c - from a recall that is asked for to the setting of a search.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "query/engine.h"
#include "query/recall_choice.h"
#include "tests/generation_fixture.h"

/* A point whose queries find `recall` of `k` each, as evenly as whole hits allow. */
static struct manifest_point point_of(uint32_t list, double ratio, double recall, uint32_t k,
                                      uint64_t reads)
{
    const uint64_t hits = (uint64_t)llround(recall * k * 1000);
    const uint64_t low = hits / 1000, more = hits % 1000;
    return (struct manifest_point){
        .search_list = list,
        .search_ratio = ratio,
        .hits = hits,
        .squares = (1000 - more) * low * low + more * (low + 1) * (low + 1),
        .reads = reads * 1000,
    };
}

static struct manifest_curve curve_of(bool tuned, uint32_t k)
{
    return (struct manifest_curve){
        .tuned = tuned,
        .k = k,
        .queries = 1000,
        .point_count = 3,
        .points = {point_of(k, 1.0, 0.8, k, 5), point_of(2 * k, 1.1, 0.95, k, 10),
                   point_of(6 * k, 1.3, 0.99, k, 30)},
    };
}

static struct manifest manifest_of(void)
{
    return (struct manifest){
        .curve_count = 3,
        .curves = {curve_of(false, 1), curve_of(false, 10), curve_of(false, 100)},
    };
}

static struct recall_choice choose(const struct manifest *manifest, uint32_t k, double target)
{
    struct recall_choice choice;
    struct error err = {0};
    if (recall_choose(manifest, k, target, &choice, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return choice;
}

static void bound_is_below_what_was_measured_by_what_queries_vary(void **state)
{
    (void)state;
    struct manifest_curve even = curve_of(false, 10), uneven = even;
    const double recall = 0.95;
    const double tight = recall_point_bound(&even, 1);
    assert_true(tight < recall && tight > recall - 0.005);
    /* Queries that find all or nothing are as many trials, not ten times as many. */
    uneven.points[1].squares = uneven.points[1].hits * 10;
    const double loose = recall_point_bound(&uneven, 1);
    assert_true(loose < tight && loose > recall - 0.012);
    /* Wilson's bound of 950 of 1000 at z = 1.2816. */
    assert_true(fabs(loose - 0.940406) < 1e-5);
    /* All found is no certainty either. */
    uneven.points[1].hits = 10000;
    uneven.points[1].squares = 100000;
    assert_true(fabs(recall_point_bound(&uneven, 1) - 0.998360) < 1e-5);
    uneven.points[1].hits = uneven.points[1].squares = 0;
    assert_true(recall_point_bound(&uneven, 1) == 0);
}

static void choice_is_the_cheapest_that_reaches_the_target(void **state)
{
    (void)state;
    const struct manifest manifest = manifest_of();
    const struct manifest_curve *curve = &manifest.curves[1];
    struct recall_choice choice = choose(&manifest, 10, 0.5);
    assert_int_equal(choice.search_list, 10);
    assert_true(choice.search_ratio == 1.0f && choice.reached && !choice.tuned);
    assert_true(choice.expected_reads == 5);
    /* Exactly what a point can be relied upon for. */
    choice = choose(&manifest, 10, recall_point_bound(curve, 1));
    assert_int_equal(choice.search_list, 20);
    assert_true(choice.search_ratio == 1.1f && choice.expected_reads == 10);
    /* And half way to the next. */
    const double middle = (recall_point_bound(curve, 1) + recall_point_bound(curve, 2)) / 2;
    choice = choose(&manifest, 10, middle);
    assert_int_equal(choice.search_list, 40);
    assert_true(fabs((double)choice.search_ratio - 1.2) < 1e-6);
    assert_true(fabs(choice.expected_recall - middle) < 1e-9 && choice.reached);
    assert_true(fabs(choice.expected_reads - 20) < 1e-9);
}

static void choice_costs_more_the_higher_the_target(void **state)
{
    (void)state;
    const struct manifest manifest = manifest_of();
    struct recall_choice before = choose(&manifest, 10, 0.01);
    for (int i = 2; i < 100; i++) {
        const struct recall_choice choice = choose(&manifest, 10, i / 100.0);
        assert_true(choice.search_list >= before.search_list);
        assert_true(choice.search_ratio >= before.search_ratio);
        assert_true(choice.expected_recall >= before.expected_recall);
        before = choice;
    }
}

static void target_out_of_reach_gets_the_best(void **state)
{
    (void)state;
    const struct manifest manifest = manifest_of();
    const struct recall_choice choice = choose(&manifest, 10, 0.9999);
    assert_int_equal(choice.search_list, 60);
    assert_false(choice.reached);
    assert_true(choice.expected_recall < 0.99 && choice.expected_recall > 0.98);
}

static void choice_goes_by_the_curve_of_no_smaller_k(void **state)
{
    (void)state;
    const struct manifest manifest = manifest_of();
    assert_int_equal(choose(&manifest, 1, 0.9999).search_list, 6);
    assert_int_equal(choose(&manifest, 2, 0.9999).search_list, 60);
    assert_int_equal(choose(&manifest, 10, 0.9999).search_list, 60);
    assert_int_equal(choose(&manifest, 11, 0.9999).search_list, 600);
    assert_int_equal(choose(&manifest, 100, 0.1).search_list, 100);
    /* Beyond all of them in proportion, as far as lists go. */
    assert_int_equal(choose(&manifest, 200, 0.1).search_list, 200);
    assert_int_equal(choose(&manifest, 150, 0.9999).search_list, 900);
    assert_int_equal(choose(&manifest, 2000, 0.9999).search_list, ENGINE_SEARCH_LIST_MAX);
    assert_int_equal(choose(&manifest, ENGINE_K_MAX, 0.1).search_list, ENGINE_K_MAX);
}

static void curves_that_were_tuned_go_first(void **state)
{
    (void)state;
    struct manifest manifest = manifest_of();
    manifest.curves[3] = curve_of(true, 1);
    manifest.curves[4] = curve_of(true, 10);
    manifest.curves[4].points[2].search_list = 70;
    manifest.curve_count = 5;
    struct recall_choice choice = choose(&manifest, 10, 0.9999);
    assert_true(choice.tuned);
    assert_int_equal(choice.search_list, 70);
    /* Not the sample's of k 100. */
    choice = choose(&manifest, 100, 0.9999);
    assert_true(choice.tuned);
    assert_int_equal(choice.search_list, 700);
}

static void search_without_a_ratio_is_not_mixed_with_one(void **state)
{
    (void)state;
    struct manifest manifest = manifest_of();
    manifest.curves[1].points[2].search_ratio = 0;
    const struct recall_choice choice = choose(&manifest, 10, 0.96);
    assert_int_equal(choice.search_list, 60);
    assert_true(choice.search_ratio == 0);
}

static void what_cannot_be_asked_for_is_refused(void **state)
{
    (void)state;
    struct manifest manifest = manifest_of();
    struct recall_choice choice;
    struct error err = {0};
    static const double targets[] = {0, 1, -0.5, 1.5, (double)NAN, (double)INFINITY};
    for (size_t i = 0; i < ARRAY_LENGTH(targets); i++)
        assert_int_equal(recall_choose(&manifest, 10, targets[i], &choice, &err), STATUS_INVALID);
    assert_int_equal(recall_choose(&manifest, 10, 1.5, &choice, &err), STATUS_INVALID);
    assert_string_equal(err.text, "recall target 1.5: above 0 and below 1 is wanted");
    assert_int_equal(recall_choose(&manifest, 0, 0.9, &choice, &err), STATUS_INVALID);
    assert_int_equal(recall_choose(&manifest, ENGINE_K_MAX + 1, 0.9, &choice, &err),
                     STATUS_INVALID);
    manifest.curve_count = 0;
    assert_int_equal(recall_choose(&manifest, 10, 0.9, &choice, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no recall curve"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bound_is_below_what_was_measured_by_what_queries_vary),
        cmocka_unit_test(choice_is_the_cheapest_that_reaches_the_target),
        cmocka_unit_test(choice_costs_more_the_higher_the_target),
        cmocka_unit_test(target_out_of_reach_gets_the_best),
        cmocka_unit_test(choice_goes_by_the_curve_of_no_smaller_k),
        cmocka_unit_test(curves_that_were_tuned_go_first),
        cmocka_unit_test(search_without_a_ratio_is_not_mixed_with_one),
        cmocka_unit_test(what_cannot_be_asked_for_is_refused),
    };
    return cmocka_run_group_tests_name("recall_choice", tests, NULL, NULL);
}
