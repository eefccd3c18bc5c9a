/*
 * test_nearest.c - the exact search of a build against a plain one over all rows, for every element
 * type and metric: ties, copies, few rows, any split of the rows into offers and threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "builder/nearest.h"
#include "common/distance.h"
#include "common/memory.h"
#include "common/random.h"

static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};

/* Rows and their keys; every seventh row is a query. */
struct set {
    enum element_type type;
    uint32_t dim;
    uint32_t count;
    uint32_t query_count;
    size_t stride;
    uint8_t *rows;
    uint64_t *keys;
    uint8_t *queries;
    uint64_t *query_keys;
};

enum { QUERY_EVERY = 7 };

/* `values`: how many an element may have; few make ties and copies. */
static struct set set_make(enum element_type type, uint32_t dim, uint32_t count, uint32_t values)
{
    struct set set = {
        .type = type,
        .dim = dim,
        .count = count,
        .query_count = (count + QUERY_EVERY - 1) / QUERY_EVERY,
        .stride = nearest_stride_bytes(type, dim),
    };
    set.rows = calloc(count, set.stride);
    set.keys = calloc(count, sizeof(uint64_t));
    set.queries = calloc(set.query_count, set.stride);
    set.query_keys = calloc(set.query_count, sizeof(uint64_t));
    const uint32_t middle = type == ELEMENT_U8 ? 0 : values / 2;
    float *row = calloc(dim, sizeof(float));
    assert_true(set.rows && set.keys && set.queries && set.query_keys && row);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t d = 0; d < dim; d++)
            row[d] = (float)random_below(count, i * 9000 + d, values) + (d == 0) - (float)middle;
        element_from_f32(type, row, dim, set.rows + i * set.stride);
        /* Another order than the rows', so that a tie goes to neither the first nor the last. */
        set.keys[i] = (UINT64_C(1) << 40) + i * UINT64_C(7919) % 1000003;
    }
    for (uint32_t q = 0; q < set.query_count; q++) {
        memcpy(set.queries + q * set.stride, set.rows + q * QUERY_EVERY * set.stride, set.stride);
        set.query_keys[q] = set.keys[q * QUERY_EVERY];
    }
    free(row);
    return set;
}

static void set_free(struct set *set)
{
    free(set->rows);
    free(set->keys);
    free(set->queries);
    free(set->query_keys);
}

struct entry {
    float distance;
    uint64_t key;
};

static int entry_compare(const void *a, const void *b)
{
    const struct entry *x = a;
    const struct entry *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->key > y->key) - (x->key < y->key);
}

/* All other rows of query q, nearest first, by the distances of a search. */
static struct entry *naive(const struct set *set, enum metric metric, uint32_t q)
{
    struct entry *entries = calloc(set->count, sizeof(*entries));
    struct distance distance;
    uint32_t found = 0;
    assert_non_null(entries);
    distance_init(&distance, set->type, metric, set->dim);
    const uint8_t *query = set->queries + q * set->stride;
    const float scale = distance_query_scale(&distance, query);
    for (uint32_t i = 0; i < set->count; i++) {
        if (i == q * QUERY_EVERY)
            continue;
        entries[found].key = set->keys[i];
        distance_rows(&distance, query, scale, set->rows + i * set->stride, set->stride, 1,
                      &entries[found].distance);
        found++;
    }
    qsort(entries, found, sizeof(*entries), entry_compare);
    return entries;
}

/* How the rows come: from which thread, so many at a time. */
struct split {
    uint32_t threads;
    uint32_t step;
    bool backwards;
};

static struct nearest_params params_of(const struct set *set, enum metric metric, uint32_t k,
                                       uint32_t threads)
{
    return (struct nearest_params){
        .type = set->type,
        .metric = metric,
        .dim = set->dim,
        .k = k,
        .threads = threads,
        .queries = {set->queries, set->stride, set->query_keys, 0, set->query_count},
    };
}

static struct nearest *offered(const struct set *set, const struct nearest_params *params,
                               const struct split *split)
{
    struct nearest *nearest = NULL;
    struct error err;
    assert_int_equal(nearest_create(params, &nearest, &err), STATUS_OK);
    const uint32_t parts = (set->count + split->step - 1) / split->step;
    for (uint32_t p = 0; p < parts; p++) {
        const uint32_t first = (split->backwards ? parts - 1 - p : p) * split->step;
        const struct nearest_rows rows = {
            .rows = set->rows + first * set->stride,
            .stride_bytes = set->stride,
            .keys = set->keys + first,
            .count = MIN(split->step, set->count - first),
        };
        nearest_offer(nearest, (p * 5 + 1) % split->threads, &rows);
    }
    return nearest;
}

static void expect_naive(const struct set *set, enum metric metric, uint32_t k,
                         const struct split *split)
{
    const struct nearest_params params = params_of(set, metric, k, split->threads);
    struct nearest *nearest = offered(set, &params, split);
    uint64_t *keys = calloc((size_t)set->query_count * k + 1, sizeof(*keys));
    float *distances = calloc((size_t)set->query_count * k + 1, sizeof(*distances));
    struct error err = {0};
    assert_true(keys && distances);
    if (nearest_finish(nearest, keys, distances, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    nearest_destroy(nearest);
    for (uint32_t q = 0; q < set->query_count; q++) {
        struct entry *wanted = naive(set, metric, q);
        for (uint32_t i = 0; i < k; i++) {
            const size_t at = (size_t)q * k + i;
            if (keys[at] != wanted[i].key ||
                memcmp(&distances[at], &wanted[i].distance, sizeof(float)) != 0)
                fail_msg("%s %s of %u, query %u, place %u: %g of %llu, wanted %g of %llu",
                         element_name(set->type), metric_name(metric), set->dim, q, i,
                         (double)distances[at], (unsigned long long)keys[at],
                         (double)wanted[i].distance, (unsigned long long)wanted[i].key);
        }
        free(wanted);
    }
    free(keys);
    free(distances);
}

static void nearest_are_those_of_a_plain_search(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1, 3, 16, 47, 48, 64, 131};
    const struct split split = {.threads = 2, .step = 700};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
            struct set set = set_make(types[t], dims[d], 1100, 120);
            for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++)
                expect_naive(&set, metrics[m], 20, &split);
            set_free(&set);
        }
}

/* Sums of these are beyond what f32 holds exactly. */
static void nearest_of_long_rows_round_as_a_search_does(void **state)
{
    (void)state;
    const struct split split = {.threads = 1, .step = 64};
    for (size_t t = 0; t < 2; t++) {
        struct set set = set_make(types[t], 5001, 150, 255);
        expect_naive(&set, METRIC_L2, 60, &split);
        set_free(&set);
    }
}

static void nearest_go_by_key_among_ties_and_copies(void **state)
{
    (void)state;
    const struct split split = {.threads = 3, .step = 90, .backwards = true};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++) {
        struct set set = set_make(types[t], 4, 900, 2); /* 16 vectors */
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++)
            if (types[t] == ELEMENT_U8 || metrics[m] != METRIC_COSINE)
                expect_naive(&set, metrics[m], 100, &split);
        set_free(&set);
    }
}

/* Squares of these are beyond f32 or vanish in it; every other row is a plain one. */
static void nearest_by_cosine_of_extreme_norms_are_exact(void **state)
{
    (void)state;
    static const float scales[] = {1e17f, 1, 1e-18f, 1, 3e-15f, 1, 2e15f, 1};
    const struct split split = {.threads = 2, .step = 100};
    struct set set = set_make(ELEMENT_F32, 9, 800, 40);
    for (uint32_t i = 0; i < set.count; i++) {
        float *row = (float *)(void *)(set.rows + i * set.stride);
        for (uint32_t d = 0; d < set.dim; d++)
            row[d] *= scales[i / 3 % ARRAY_LENGTH(scales)];
    }
    for (uint32_t q = 0; q < set.query_count; q++)
        memcpy(set.queries + q * set.stride, set.rows + q * QUERY_EVERY * set.stride, set.stride);
    expect_naive(&set, METRIC_COSINE, 50, &split);
    set_free(&set);
}

/* In any split, by any number of threads. */
static void nearest_do_not_depend_on_how_rows_come(void **state)
{
    (void)state;
    static const struct split splits[] = {
        {1, 600, false}, {1, 1, true}, {2, 31, false}, {4, 33, true}, {7, 513, false}};
    struct set bytes = set_make(ELEMENT_U8, 24, 600, 6);
    struct set floats = set_make(ELEMENT_F32, 24, 600, 6);
    for (size_t i = 0; i < ARRAY_LENGTH(splits); i++) {
        expect_naive(&bytes, METRIC_L2, 30, &splits[i]);
        expect_naive(&floats, METRIC_IP, 30, &splits[i]);
    }
    set_free(&bytes);
    set_free(&floats);
}

static void nearest_of_few_rows_are_all_others(void **state)
{
    (void)state;
    const struct split split = {.threads = 2, .step = 2};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (uint32_t count = 1; count <= 9; count++) {
            struct set set = set_make(types[t], 6, count, 50);
            expect_naive(&set, METRIC_L2, count - 1, &split);
            set_free(&set);
        }
}

static void nearest_refuses_queries_that_met_too_few(void **state)
{
    (void)state;
    const struct split split = {.threads = 2, .step = 3};
    struct set set = set_make(ELEMENT_U8, 6, 10, 50);
    const struct nearest_params params = params_of(&set, METRIC_L2, 10, 2);
    struct nearest *nearest = offered(&set, &params, &split);
    uint64_t keys[20] = {1};
    float distances[20] = {2};
    struct error err = {0};
    assert_int_equal(nearest_finish(nearest, keys, distances, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "query 0 has met 9 other rows, wanted 10"));
    assert_true(keys[0] == 1 && distances[0] == 2.0f);
    nearest_destroy(nearest);
    set_free(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nearest_are_those_of_a_plain_search),
        cmocka_unit_test(nearest_of_long_rows_round_as_a_search_does),
        cmocka_unit_test(nearest_go_by_key_among_ties_and_copies),
        cmocka_unit_test(nearest_by_cosine_of_extreme_norms_are_exact),
        cmocka_unit_test(nearest_do_not_depend_on_how_rows_come),
        cmocka_unit_test(nearest_of_few_rows_are_all_others),
        cmocka_unit_test(nearest_refuses_queries_that_met_too_few),
    };
    return cmocka_run_group_tests_name("nearest", tests, NULL, NULL);
}
