/*
 * test_u64_sort.c - the in-place sort against qsort(), for arrays of many shapes and team sizes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "common/compiler.h"
#include "common/random.h"
#include "common/sorted.h"
#include "common/u64_sort.h"

/* What the array looks like before; i is the index of n, r a random number. */
static uint64_t random_value(uint64_t i, uint64_t n, uint64_t r)
{
    (void)i, (void)n;
    return r;
}

static uint64_t equal_value(uint64_t i, uint64_t n, uint64_t r)
{
    (void)i, (void)n, (void)r;
    return 0x8000000000000001u;
}

static uint64_t ascending_value(uint64_t i, uint64_t n, uint64_t r)
{
    (void)n, (void)r;
    return i;
}

static uint64_t descending_value(uint64_t i, uint64_t n, uint64_t r)
{
    (void)n, (void)r;
    return UINT64_MAX - i / 2;
}

static uint64_t pipe_value(uint64_t i, uint64_t n, uint64_t r)
{
    (void)r;
    return i < n / 2 ? i : n - i;
}

static uint64_t few_values(uint64_t i, uint64_t n, uint64_t r)
{
    (void)i, (void)n;
    return r % 3 << 40;
}

static uint64_t high_bits_only(uint64_t i, uint64_t n, uint64_t r)
{
    (void)i, (void)n;
    return r & 0xff80000000000000u;
}

static uint64_t low_bits_only(uint64_t i, uint64_t n, uint64_t r)
{
    (void)i, (void)n;
    return 0x1234567800000000u | (r & 0x3ff);
}

/* One value that differs, at either end of the u64s, hides where the others differ. */
static uint64_t one_outlier(uint64_t i, uint64_t n, uint64_t r)
{
    return i == n / 3 ? UINT64_MAX : r % 1000;
}

/* Each range of a pass is mostly one bucket again: as deep as the sort goes. */
static uint64_t geometric_value(uint64_t i, uint64_t n, uint64_t r)
{
    (void)i, (void)n;
    return r >> 3 >> (r & 7) * 8 >> (r >> 3 & 7);
}

static uint64_t (*const shapes[])(uint64_t, uint64_t, uint64_t) = {
    random_value, equal_value,    ascending_value, descending_value, pipe_value,
    few_values,   high_bits_only, low_bits_only,   one_outlier,      geometric_value,
};

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts n values of a shape, between guards, and compares. */
static void check(size_t shape, size_t n)
{
    uint64_t *values = malloc((n + 2) * sizeof(*values));
    uint64_t *wanted = malloc((n + 2) * sizeof(*wanted));
    assert_non_null(values);
    assert_non_null(wanted);
    values[0] = 5; /* a guard that would go elsewhere, were it sorted */
    values[n + 1] = 3;
    for (size_t i = 0; i < n; i++)
        values[i + 1] = shapes[shape](i, n, random_at(shape * 31 + n, i));
    memcpy(wanted, values, (n + 2) * sizeof(*wanted));
    qsort(wanted + 1, n, sizeof(*wanted), compare);
    u64_sort(values + 1, n);
    if (memcmp(values, wanted, (n + 2) * sizeof(*wanted)) != 0)
        fail_msg("shape %zu, %zu values, %d threads: not as qsort() has it", shape, n,
                 omp_get_max_threads());
    size_t distinct = n > 0;
    for (size_t i = 1; i < n; i++)
        distinct += wanted[i + 1] != wanted[i];
    assert_int_equal(u64_sort_distinct(wanted + 1, n), distinct);
    free(values);
    free(wanted);
}

static void every_small_array_is_sorted(void **state)
{
    (void)state;
    for (size_t shape = 0; shape < ARRAY_LENGTH(shapes); shape++)
        for (size_t n = 0; n <= 150; n++)
            check(shape, n);
}

static void sizes_about_powers_of_two_are_sorted(void **state)
{
    (void)state;
    for (size_t shape = 0; shape < ARRAY_LENGTH(shapes); shape++)
        for (size_t n = 256; n <= 8192; n *= 2)
            for (size_t by = 0; by < 3; by++)
                check(shape, n + by - 1);
}

/* Teams share out ranges of 65536 values or more. */
static void teams_of_any_size_sort_large_arrays(void **state)
{
    (void)state;
    static const int teams[] = {1, 2, 5};
    static const size_t sizes[] = {65535, 65536, 65537, 400000};
    int threads = omp_get_max_threads();
    for (size_t t = 0; t < ARRAY_LENGTH(teams); t++) {
        omp_set_num_threads(teams[t]);
        for (size_t shape = 0; shape < ARRAY_LENGTH(shapes); shape++)
            for (size_t s = t == 1 ? 0 : 3; s < ARRAY_LENGTH(sizes); s++)
                check(shape, sizes[s]);
    }
    omp_set_num_threads(threads);
}

static void nothing_has_no_distinct_values(void **state)
{
    (void)state;
    uint64_t one = 7;
    assert_int_equal(u64_sort_distinct(&one, 0), 0);
    assert_int_equal(u64_sort_distinct(&one, 1), 1);
    u64_sort(NULL, 0);
}

static void sorted_find_finds_what_is_there_and_nothing_else(void **state)
{
    (void)state;
    uint32_t values[40];
    for (uint32_t i = 0; i < ARRAY_LENGTH(values); i++)
        values[i] = 3 * i + 1;
    for (uint32_t count = 0; count <= ARRAY_LENGTH(values); count++)
        for (uint32_t value = 0; value < 125; value++) {
            uint32_t there = value % 3 == 1 && value / 3 < count ? value / 3 : SORTED_NONE;
            assert_int_equal(sorted_find(values, count, value), there);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_small_array_is_sorted),
        cmocka_unit_test(sizes_about_powers_of_two_are_sorted),
        cmocka_unit_test(teams_of_any_size_sort_large_arrays),
        cmocka_unit_test(nothing_has_no_distinct_values),
        cmocka_unit_test(sorted_find_finds_what_is_there_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
