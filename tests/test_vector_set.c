/*
 * test_vector_set.c - the distances a graph is built with, against a plain computation in double;
 * and graph_check().
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/graph.h"
#include "builder/vector_set.h"
#include "tests/vector_fixture.h"

static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
static const uint32_t dims[] = {1, 3, 16, 33, 128};

enum { ROWS = 60 };

static void row_as_f32(const struct vector_set *set, uint32_t row, float *values)
{
    element_to_f32(set->type, vector_set_row(set, row), set->dim, values);
}

static double naive_dot(const struct vector_set *set, uint32_t a, uint32_t b)
{
    float x[VECTOR_FIXTURE_DIM_MAX], y[VECTOR_FIXTURE_DIM_MAX];
    double sum = 0.0;
    row_as_f32(set, a, x);
    row_as_f32(set, b, y);
    for (uint32_t d = 0; d < set->dim; d++)
        sum += (double)x[d] * (double)y[d];
    return sum;
}

static double naive_norm2_max(const struct vector_set *set)
{
    double largest = 0.0;
    for (uint32_t i = 0; i < set->count; i++)
        largest = fmax(largest, naive_dot(set, i, i));
    return largest;
}

/* By the definitions in vector_set.h; for ip, the distance of the lifted vectors. */
static double naive_distance(const struct vector_set *set, uint32_t a, uint32_t b, double norm2_max)
{
    double aa = naive_dot(set, a, a);
    double bb = naive_dot(set, b, b);
    double ab = naive_dot(set, a, b);
    switch (set->metric) {
    case METRIC_L2:
        return aa + bb - 2.0 * ab;
    case METRIC_COSINE:
        return 1.0 - ab / sqrt(aa * bb);
    default: {
        double lift = sqrt(norm2_max - aa) - sqrt(norm2_max - bb);
        return aa + bb - 2.0 * ab + lift * lift;
    }
    }
}

static void check_distances(const struct vector_set *set)
{
    uint32_t ids[ROWS];
    float out[ROWS];
    double norm2_max = naive_norm2_max(set);
    /* Relative to the terms that cancel, not to what is left of them. */
    double scale = set->metric == METRIC_COSINE ? 1.0 : 4.0 * norm2_max;
    for (uint32_t i = 0; i < ROWS; i++)
        ids[i] = (i * 7 + 3) % ROWS;
    for (uint32_t a = 0; a < ROWS; a++) {
        vector_set_gather(set, a, ids, ROWS, out);
        for (uint32_t i = 0; i < ROWS; i++) {
            float pair = vector_set_pair(set, a, ids[i]);
            float back = vector_set_pair(set, ids[i], a);
            double wanted = naive_distance(set, a, ids[i], norm2_max);
            assert_memory_equal(&pair, &out[i], sizeof(pair));
            assert_memory_equal(&pair, &back, sizeof(pair));
            assert_true(pair >= 0.0f);
            if (fabs((double)pair - wanted) > 2e-6 * scale)
                fail_msg("%s %s dim %u, rows %u and %u: %.9g, wanted %.9g", element_name(set->type),
                         metric_name(set->metric), set->dim, a, ids[i], (double)pair, wanted);
        }
    }
}

static void pair_equals_gather_and_the_plain_definition(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++)
            for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
                struct vector_fixture fixture = {.count = ROWS,
                                                 .dim = dims[d],
                                                 .clusters = 4,
                                                 .type = types[t],
                                                 .metric = metrics[m],
                                                 .seed = 11 + t};
                struct vector_set set;
                vector_fixture_create(&fixture, &set);
                check_distances(&set);
                vector_set_destroy(&set);
            }
}

/* A prune tells duplicates by a distance of exactly zero: rounding must not blur it. */
static void distance_is_zero_to_itself_and_to_a_copy(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++)
            for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
                struct vector_fixture fixture = {.count = 400,
                                                 .dim = dims[d],
                                                 .clusters = 4,
                                                 .type = types[t],
                                                 .metric = metrics[m],
                                                 .seed = 5 + t};
                struct vector_set set;
                struct error err;
                vector_fixture_fill(&fixture, &set);
                for (uint32_t row = 0; row < fixture.count; row += 2)
                    memcpy(vector_fixture_slot(&set, row + 1), vector_set_row(&set, row),
                           set.stride_bytes);
                assert_int_equal(vector_set_prepare(&set, 0.0f, &err), STATUS_OK);
                for (uint32_t row = 0; row < fixture.count; row++) {
                    if (naive_dot(&set, row, row) == 0.0)
                        continue; /* no direction: cosine input has none of these */
                    assert_true(vector_set_pair(&set, row, row) == 0.0f);
                    assert_true(vector_set_pair(&set, row, row ^ 1) == 0.0f);
                }
                vector_set_destroy(&set);
            }
}

struct scored {
    float distance;
    double product;
};

static int by_distance(const void *a, const void *b)
{
    float x = ((const struct scored *)a)->distance;
    float y = ((const struct scored *)b)->distance;
    return (x > y) - (x < y);
}

/* A row of the largest norm has no extra coordinate, as a query has none: seen from there, the
 * order by distance must be the order by inner product. */
static void ip_reduction_orders_rows_by_inner_product(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++) {
        struct vector_fixture fixture = {.count = 500,
                                         .dim = 24,
                                         .clusters = 5,
                                         .type = types[t],
                                         .metric = METRIC_IP,
                                         .seed = 3};
        struct vector_set set;
        struct scored scored[500];
        uint32_t from = 0;
        vector_fixture_create(&fixture, &set);
        while (set.row_scalar[from] != 0.0f)
            assert_true(++from < set.count);
        double norm2_max = naive_dot(&set, from, from);
        for (uint32_t i = 0; i < set.count; i++)
            scored[i] = (struct scored){vector_set_pair(&set, from, i), naive_dot(&set, from, i)};
        qsort(scored, set.count, sizeof(scored[0]), by_distance);
        for (uint32_t i = 1; i < set.count; i++)
            assert_true(scored[i].product <= scored[i - 1].product + 1e-6 * norm2_max);
        vector_set_destroy(&set);
    }
}

static void prepare_takes_norms_and_gives_the_same_at_any_thread_count(void **state)
{
    (void)state;
    int threads_before = omp_get_max_threads();
    for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
        struct vector_fixture fixture = {.count = 3001,
                                         .dim = 20,
                                         .clusters = 5,
                                         .type = ELEMENT_F32,
                                         .metric = metrics[m],
                                         .seed = 8};
        struct vector_set one, three;
        omp_set_num_threads(1);
        vector_fixture_create(&fixture, &one);
        omp_set_num_threads(3);
        vector_fixture_create(&fixture, &three);
        assert_true(fabs((double)one.norm_max - sqrt(naive_norm2_max(&one))) < 1e-5);
        assert_memory_equal(&one.norm_max, &three.norm_max, sizeof(float));
        if (metrics[m] == METRIC_L2) {
            assert_null(one.row_scalar);
        } else {
            assert_memory_equal(one.row_scalar, three.row_scalar, 3001 * sizeof(float));
        }
        vector_set_destroy(&one);
        vector_set_destroy(&three);
    }
    omp_set_num_threads(threads_before);
}

/* Rows `first` on of `from`, as a set of their own that is told the largest norm of the input. */
static void part_create(const struct vector_set *from, uint32_t first, float norm_max,
                        struct vector_set *part)
{
    struct error err;
    assert_int_equal(
        vector_set_create(part, from->count - first, from->dim, from->type, from->metric, &err),
        STATUS_OK);
    memcpy(part->rows, vector_set_row(from, first), part->count * part->stride_bytes);
    assert_int_equal(vector_set_prepare(part, norm_max, &err), STATUS_OK);
}

/* A shard's distances must be those that any other shard, with other rows, would find. The row of
 * the largest norm is in neither. */
static void parts_of_an_input_agree_on_distances(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            struct vector_fixture fixture = {.count = 120,
                                             .dim = 33,
                                             .clusters = 4,
                                             .type = types[t],
                                             .metric = metrics[m],
                                             .seed = 7};
            struct vector_set rows, most, few;
            vector_fixture_fill(&fixture, &rows);
            float norm_max = ceilf(1.5f * (float)sqrt(naive_norm2_max(&rows)));
            double norm2_max = (double)norm_max * (double)norm_max;
            double scale = metrics[m] == METRIC_COSINE ? 1.0 : 4.0 * norm2_max;
            part_create(&rows, 20, norm_max, &most);
            part_create(&rows, 90, norm_max, &few);
            assert_memory_equal(&few.norm_max, &norm_max, sizeof(float));
            assert_true((few.row_scalar == NULL) == (metrics[m] == METRIC_L2));
            for (uint32_t a = 0; a < few.count; a++)
                for (uint32_t b = 0; b < few.count; b++) {
                    float here = vector_set_pair(&few, a, b);
                    float there = vector_set_pair(&most, 70 + a, 70 + b);
                    double wanted = naive_distance(&rows, 90 + a, 90 + b, norm2_max);
                    assert_memory_equal(&here, &there, sizeof(here));
                    if (fabs((double)here - wanted) > 2e-6 * scale)
                        fail_msg("%s %s, rows %u and %u: %.9g, wanted %.9g",
                                 element_name(rows.type), metric_name(rows.metric), a, b,
                                 (double)here, wanted);
                }
            vector_set_destroy(&rows);
            vector_set_destroy(&most);
            vector_set_destroy(&few);
        }
}

/* The owner may lower the count between creation and preparation; all memory is released still. */
static void rows_beyond_the_count_are_not_prepared(void **state)
{
    (void)state;
    struct vector_fixture fixture = {
        .count = 200, .dim = 8, .clusters = 3, .type = ELEMENT_F32, .metric = METRIC_IP, .seed = 2};
    struct vector_set set;
    struct error err;
    float huge = 1e6f;
    vector_fixture_fill(&fixture, &set);
    memcpy(vector_fixture_slot(&set, 150), &huge, sizeof(huge));
    set.count = 150;
    assert_int_equal(vector_set_prepare(&set, 0.0f, &err), STATUS_OK);
    assert_true(set.norm_max < 1000.0f);
    assert_int_equal(set.capacity, 200);
    vector_set_destroy(&set);
}

static void cosine_of_a_zero_row_is_zero(void **state)
{
    (void)state;
    struct vector_fixture fixture = {.count = 3,
                                     .dim = 8,
                                     .clusters = 1,
                                     .type = ELEMENT_F32,
                                     .metric = METRIC_COSINE,
                                     .seed = 1};
    struct vector_set set;
    struct error err;
    vector_fixture_fill(&fixture, &set);
    memset(vector_fixture_slot(&set, 1), 0, set.stride_bytes);
    assert_int_equal(vector_set_prepare(&set, 0.0f, &err), STATUS_OK);
    assert_true(vector_set_pair(&set, 0, 1) == 1.0f);
    assert_true(vector_set_pair(&set, 1, 2) == 1.0f);
    vector_set_destroy(&set);
}

static void rows_start_zeroed_and_aligned(void **state)
{
    (void)state;
    for (uint32_t dim = 1; dim <= 300; dim += 13) {
        struct vector_set set;
        struct error err;
        assert_int_equal(vector_set_create(&set, 9, dim, ELEMENT_U8, METRIC_L2, &err), STATUS_OK);
        assert_true(set.stride_bytes >= dim);
        assert_int_equal(set.stride_bytes % (dim >= 48 ? 64 : 16), 0);
        for (uint32_t row = 0; row < 9; row++) {
            const uint8_t *bytes = vector_set_row(&set, row);
            assert_int_equal((uintptr_t)bytes % (dim >= 48 ? 64 : 16), 0);
            for (size_t i = 0; i < set.stride_bytes; i++)
                assert_int_equal(bytes[i], 0);
        }
        vector_set_destroy(&set);
        vector_set_destroy(&set); /* empty by now: does nothing */
    }
}

/* ---- graph ---- */

static void graph_starts_without_edges(void **state)
{
    (void)state;
    struct graph graph;
    struct error err;
    assert_int_equal(graph_create(&graph, 100, 7, &err), STATUS_OK);
    assert_int_equal(graph.stride, 8);
    for (uint32_t node = 0; node < 100; node++)
        assert_int_equal(graph_degree(&graph, node), 0);
    assert_int_equal(graph_check(&graph, 0, &err), STATUS_OK);
    graph_destroy(&graph);
    graph_destroy(&graph);
}

static void graph_check_names_the_first_fault(void **state)
{
    (void)state;
    static const struct {
        uint32_t degree, ids[4];
        uint32_t degree_max;
        const char *wanted; /* NULL: none */
    } cases[] = {
        {3, {1, 2, 9}, 4, NULL},
        {0, {0}, 0, NULL},
        {3, {1, 2, 9}, 2, "degree 3, at most 2"},
        {5, {1, 2, 9, 3}, 100, "degree 5, at most 4"},
        {2, {1, 10}, 4, "neighbour 10 of 10"},
        {2, {4, 1}, 4, "neighbour 4"},
        {4, {1, 2, 3, 1}, 4, "neighbour 1 twice"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct graph graph;
        struct error err = {0};
        assert_int_equal(graph_create(&graph, 10, 4, &err), STATUS_OK);
        graph_set_degree(&graph, 4, cases[i].degree);
        memcpy(graph_neighbors(&graph, 4), cases[i].ids, sizeof(cases[i].ids));
        enum status status = graph_check(&graph, cases[i].degree_max, &err);
        assert_int_equal(status, cases[i].wanted ? STATUS_CORRUPT : STATUS_OK);
        if (cases[i].wanted) {
            assert_non_null(strstr(err.text, "node 4"));
            if (!strstr(err.text, cases[i].wanted))
                fail_msg("\"%s\", wanted \"%s\"", err.text, cases[i].wanted);
        }
        graph_destroy(&graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pair_equals_gather_and_the_plain_definition),
        cmocka_unit_test(distance_is_zero_to_itself_and_to_a_copy),
        cmocka_unit_test(ip_reduction_orders_rows_by_inner_product),
        cmocka_unit_test(prepare_takes_norms_and_gives_the_same_at_any_thread_count),
        cmocka_unit_test(parts_of_an_input_agree_on_distances),
        cmocka_unit_test(rows_beyond_the_count_are_not_prepared),
        cmocka_unit_test(cosine_of_a_zero_row_is_zero),
        cmocka_unit_test(rows_start_zeroed_and_aligned),
        cmocka_unit_test(graph_starts_without_edges),
        cmocka_unit_test(graph_check_names_the_first_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
