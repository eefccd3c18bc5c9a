/*
 * test_groundtruth.c - exact answers of those rows that a filter leaves, and within a radius: the
 * same as comparing everything one by one.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/distance.h"
#include "common/random.h"
#include "tests/directory_fixture.h"
#include "tools/groundtruth.h"

enum { COUNT = 5000, DIM = 6, QUERIES_MAX = 40, K = 20 };

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char base[256];
    char queries[256];
    uint8_t rows[COUNT][DIM];
    uint8_t query_rows[QUERIES_MAX][DIM];
    struct distance distance;
    struct error err;
};

static void assert_ok(const struct fixture *fixture, enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s: %s", status_name(status), fixture->err.text);
}

static void write_rows(struct fixture *fixture, const char *path, const void *rows, uint64_t count)
{
    struct vector_shape shape = {count, DIM, ELEMENT_U8};
    struct vector_writer *writer;
    assert_ok(fixture, vector_writer_open(path, shape, &writer, &fixture->err));
    assert_ok(fixture, vector_writer_append(writer, rows, count, &fixture->err));
    assert_ok(fixture, vector_writer_finish(writer, &fixture->err));
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (fixture == NULL)
        return -1;
    *state = fixture;
    if (directory_fixture_create(fixture->directory) != 0)
        return -1;
    snprintf(fixture->base, sizeof(fixture->base), "%s/base.u8bin", fixture->directory);
    snprintf(fixture->queries, sizeof(fixture->queries), "%s/queries.u8bin", fixture->directory);
    /* Few values, so that many distances are equal. */
    for (uint32_t i = 0; i < COUNT * DIM; i++)
        fixture->rows[i / DIM][i % DIM] = (uint8_t)random_below(1, i, 12);
    for (uint32_t i = 0; i < QUERIES_MAX * DIM; i++)
        fixture->query_rows[i / DIM][i % DIM] = (uint8_t)random_below(2, i, 12);
    distance_init(&fixture->distance, ELEMENT_U8, METRIC_L2, DIM);
    write_rows(fixture, fixture->base, fixture->rows, COUNT);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    return result;
}

static struct groundtruth_params params_of(struct fixture *fixture, uint32_t query_count,
                                           uint32_t threads)
{
    write_rows(fixture, fixture->queries, fixture->query_rows, query_count);
    return (struct groundtruth_params){.base = fixture->base,
                                       .queries = fixture->queries,
                                       .k = K,
                                       .metric = METRIC_L2,
                                       .threads = threads};
}

/* ---- filters ---- */

static bool one_in_five(const void *context, uint32_t query, uint32_t row)
{
    (void)context;
    (void)query;
    return row % 5 == 3;
}

/* Query 2 has nothing, query 3 seven rows, others a share. */
static bool by_query(const void *context, uint32_t query, uint32_t row)
{
    (void)context;
    return query != 2 &&
           (query == 3 ? row % 700 == 1 && row < COUNT - 100 : row % (query + 2) == 0);
}

static bool no_row(const void *context, uint32_t query, uint32_t row)
{
    (void)context;
    (void)query;
    (void)row;
    return false;
}

/* ---- the truth, one by one ---- */

struct entry {
    float distance;
    uint32_t id;
};

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* All that match within the radius, best first; returns how many. */
static uint32_t naive(const struct fixture *fixture, uint32_t query,
                      const struct groundtruth_filter *filter, float radius, struct entry *entries)
{
    const uint8_t *vector = fixture->query_rows[query];
    float scale = distance_query_scale(&fixture->distance, vector);
    uint32_t count = 0;
    for (uint32_t row = 0; row < COUNT; row++) {
        float distance;
        distance_rows(&fixture->distance, vector, scale, fixture->rows[row], DIM, 1, &distance);
        if (distance <= radius && (filter == NULL || filter->match(NULL, query, row)))
            entries[count++] = (struct entry){distance, row};
    }
    qsort(entries, count, sizeof(*entries), compare_entries);
    return count;
}

static void assert_nearest(const struct fixture *fixture, const struct groundtruth_params *params)
{
    struct entry entries[COUNT];
    struct ground_truth truth;
    struct error err = {STATUS_OK, ""};
    if (groundtruth_compute(params, &truth, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    for (uint32_t q = 0; q < truth.query_count; q++) {
        uint32_t count = naive(fixture, q, params->filter, INFINITY, entries);
        for (uint32_t i = 0; i < truth.k; i++) {
            size_t at = (size_t)q * truth.k + i;
            assert_int_equal(truth.ids[at], i < count ? entries[i].id : GROUND_TRUTH_ABSENT);
            assert_true(truth.distances[at] == (i < count ? entries[i].distance : INFINITY));
        }
    }
    ground_truth_free(&truth);
}

static void only_what_matches_is_near(void **state)
{
    struct fixture *fixture = *state;
    const struct groundtruth_filter filters[] = {{.match = one_in_five, .same_for_all = true},
                                                 {.match = one_in_five},
                                                 {.match = by_query},
                                                 {.match = no_row, .same_for_all = true},
                                                 {.match = no_row}};
    for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++)
        for (uint32_t threads = 1; threads <= 3; threads += 2)
            /* One query is answered from parts that are merged. */
            for (uint32_t query_count = 1; query_count <= QUERIES_MAX;
                 query_count += QUERIES_MAX - 1) {
                struct groundtruth_params params = params_of(fixture, query_count, threads);
                params.filter = &filters[i];
                assert_nearest(fixture, &params);
            }
}

static bool not_twice(const void *context, uint32_t query, uint32_t row)
{
    uint32_t *asked = (uint32_t *)(uintptr_t)context;
    (void)query;
    asked[row]++;
    return false;
}

static void a_filter_for_all_is_asked_once_a_row(void **state)
{
    struct fixture *fixture = *state;
    uint32_t *asked = calloc(COUNT, sizeof(*asked));
    const struct groundtruth_filter filter = {not_twice, asked, true};
    struct groundtruth_params params = params_of(fixture, QUERIES_MAX, 1);
    struct ground_truth truth;
    params.filter = &filter;
    assert_ok(fixture, groundtruth_compute(&params, &truth, &fixture->err));
    for (uint32_t row = 0; row < COUNT; row++)
        assert_int_equal(asked[row], 1);
    ground_truth_free(&truth);
    free(asked);
}

static bool last_rows(const void *context, uint32_t query, uint32_t row)
{
    const uint64_t *count = context;
    (void)query;
    return row >= *count - 7;
}

/* Chunks of which nothing is left do not end the pass. */
static void what_matches_may_be_far_back(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t count = 100000;
    uint8_t(*rows)[DIM] = calloc(count, sizeof(*rows));
    const struct groundtruth_filter filter = {last_rows, &count, true};
    struct groundtruth_params params = params_of(fixture, 2, 2);
    struct ground_truth truth;
    write_rows(fixture, fixture->base, rows, count);
    params.filter = &filter;
    params.memory_bytes = 600 << 10; /* two chunks of a third of the base */
    assert_ok(fixture, groundtruth_compute(&params, &truth, &fixture->err));
    for (uint32_t i = 0; i < K; i++)
        assert_int_equal(truth.ids[K + i], i < 7 ? count - 7 + i : GROUND_TRUTH_ABSENT);
    ground_truth_free(&truth);
    free(rows);
}

/* ---- within a radius ---- */

static void assert_within(const struct fixture *fixture, const struct groundtruth_params *params,
                          const struct groundtruth_range *range)
{
    struct entry entries[COUNT];
    struct range_truth truth;
    struct error err = {STATUS_OK, ""};
    uint64_t cut, cuts = 0;
    if (groundtruth_within(params, range, &truth, &cut, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(truth.at[0], 0);
    for (uint32_t q = 0; q < truth.query_count; q++) {
        uint32_t count = naive(fixture, q, params->filter, range->radius, entries);
        if (range->cap != 0 && count > range->cap) {
            count = range->cap;
            cuts++;
        }
        assert_int_equal(truth.at[q + 1] - truth.at[q], count);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(truth.ids[truth.at[q] + i], entries[i].id);
            assert_true(truth.distances[truth.at[q] + i] == entries[i].distance);
        }
    }
    assert_int_equal(cut, cuts);
    range_truth_free(&truth);
}

static void all_within_a_radius_are_found(void **state)
{
    struct fixture *fixture = *state;
    const struct groundtruth_filter filters[] = {{.match = one_in_five, .same_for_all = true},
                                                 {.match = by_query}};
    /* Nothing, some, at the edge of many equal distances, everything. */
    const float radii[] = {-1, 0, 30, 30.5f, 1000};
    for (size_t i = 0; i < sizeof(radii) / sizeof(radii[0]); i++)
        for (uint32_t query_count = 1; query_count <= QUERIES_MAX; query_count += QUERIES_MAX - 1)
            for (uint32_t f = 0; f < 3; f++) {
                struct groundtruth_params params = params_of(fixture, query_count, 1 + f);
                params.filter = f == 0 ? NULL : &filters[f - 1];
                assert_within(fixture, &params, &(struct groundtruth_range){radii[i], 0});
            }
}

static bool last_hundred(const void *context, uint32_t query, uint32_t row)
{
    (void)context;
    (void)query;
    return row >= COUNT - 100;
}

static void a_cap_keeps_the_nearest(void **state)
{
    struct fixture *fixture = *state;
    /* All in one part of the pass, and not the first. */
    const struct groundtruth_filter filter = {.match = last_hundred};
    struct groundtruth_params few = params_of(fixture, 1, 3);
    few.filter = &filter;
    assert_within(fixture, &few, &(struct groundtruth_range){1000, 99});
    assert_within(fixture, &few, &(struct groundtruth_range){1000, 100});
    for (uint32_t query_count = 1; query_count <= QUERIES_MAX; query_count += QUERIES_MAX - 1)
        for (uint32_t cap = 1; cap <= 121; cap += 40) {
            struct groundtruth_params params = params_of(fixture, query_count, 3);
            assert_within(fixture, &params, &(struct groundtruth_range){40, cap});
        }
}

static void a_radius_that_takes_in_too_much_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct groundtruth_params params = params_of(fixture, QUERIES_MAX, 2);
    struct groundtruth_range range = {.radius = 1000};
    struct range_truth truth;
    params.memory_bytes = 1 << 20;
    assert_int_equal(groundtruth_within(&params, &range, &truth, NULL, &fixture->err),
                     STATUS_NO_MEMORY);
    assert_non_null(strstr(fixture->err.text, "within radius 1000 of 40 queries"));
    assert_null(truth.at);
    /* Lists of 40 times 8192 entries of 8 bytes have room, but the result of 5000 has not. */
    params.memory_bytes = 4 << 20;
    assert_int_equal(groundtruth_within(&params, &range, &truth, NULL, &fixture->err),
                     STATUS_NO_MEMORY);
    params.memory_bytes = 5 << 20;
    assert_within(fixture, &params, &range);
    params.memory_bytes = 1 << 20;
    range.cap = 50;
    assert_within(fixture, &params, &range);
    range = (struct groundtruth_range){.radius = 20};
    assert_within(fixture, &params, &range);
    params.memory_bytes = 200 << 10;
    assert_int_equal(groundtruth_within(&params, &range, &truth, NULL, &fixture->err),
                     STATUS_NO_MEMORY);
    assert_non_null(strstr(fixture->err.text, "too small for 40 queries"));
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(only_what_matches_is_near),    T(a_filter_for_all_is_asked_once_a_row),
        T(what_matches_may_be_far_back), T(all_within_a_radius_are_found),
        T(a_cap_keeps_the_nearest),      T(a_radius_that_takes_in_too_much_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
