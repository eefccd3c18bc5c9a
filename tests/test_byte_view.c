/*
 * test_byte_view.c - rows as bytes: that byte distances follow true ones, for any element type and
 * metric; that neither constant dimensions nor outliers nor extreme values break them; that the
 * bytes do not depend on threads; and that data too fine for bytes is recognised.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/byte_view.h"
#include "common/memory.h"
#include "common/random.h"
#include "tests/vector_fixture.h"

enum { SEED = 20240607, K = 10, THREADS_MAX = 4 };

static const struct {
    enum element_type type;
    enum metric metric;
} copied[] = {
    {ELEMENT_F32, METRIC_L2}, {ELEMENT_F32, METRIC_COSINE}, {ELEMENT_F32, METRIC_IP},
    {ELEMENT_F16, METRIC_L2}, {ELEMENT_F16, METRIC_COSINE}, {ELEMENT_F16, METRIC_IP},
    {ELEMENT_U8, METRIC_IP},  {ELEMENT_U8, METRIC_COSINE},  {ELEMENT_I8, METRIC_COSINE},
    {ELEMENT_I8, METRIC_IP},
};

static const enum element_type byte_types[] = {ELEMENT_U8, ELEMENT_I8};

static struct vector_fixture fixture_of(enum element_type type, enum metric metric, uint32_t count,
                                        uint32_t dim)
{
    return (struct vector_fixture){
        .count = count, .dim = dim, .clusters = 12, .type = type, .metric = metric, .seed = SEED};
}

/* Not yet prepared. */
static struct vector_set f32_set(uint32_t count, uint32_t dim)
{
    const struct vector_fixture fixture = fixture_of(ELEMENT_F32, METRIC_L2, count, dim);
    struct vector_set set;
    vector_fixture_fill(&fixture, &set);
    return set;
}

static void prepare(struct vector_set *set)
{
    struct error err;
    assert_int_equal(vector_set_prepare(set, 0.0f, &err), STATUS_OK);
}

static struct byte_view view_of(const struct vector_set *set)
{
    struct byte_view view;
    struct error err = {0};
    if (byte_view_create(set, &view, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return view;
}

static const uint8_t *view_row(const struct byte_view *view, uint32_t row)
{
    return view->rows.rows + row * view->rows.stride_bytes;
}

static int32_t view_distance(const struct byte_view *view, uint32_t a, uint32_t b)
{
    const uint8_t *x = view_row(view, a);
    const uint8_t *y = view_row(view, b);
    int32_t sum = 0;
    for (uint32_t d = 0; d < view->rows.dim; d++)
        sum += (x[d] - y[d]) * (x[d] - y[d]);
    return sum;
}

/* ---- the definition ---- */

struct found {
    double distance;
    uint32_t row;
};

static int by_distance(const void *a, const void *b)
{
    const struct found *x = a;
    const struct found *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* What bytes are to follow: the build distance, but under ip that of directions. */
static double wanted_distance(const struct vector_set *set, uint32_t a, uint32_t b)
{
    const void *x = vector_set_row(set, a);
    const void *y = vector_set_row(set, b);
    if (set->metric != METRIC_IP)
        return (double)vector_set_pair(set, a, b);
    double squares =
        (double)set->kernels->dot(x, x, set->dim) * (double)set->kernels->dot(y, y, set->dim);
    return 1.0 - (double)set->kernels->dot(x, y, set->dim) / sqrt(squares);
}

/* Of the K nearest to `row` by bytes, how many are as near as the K nearest of all. */
static uint32_t nearest_hits(const struct vector_set *set, const struct byte_view *view,
                             uint32_t row, struct found *found)
{
    uint32_t count = 0;
    uint32_t hits = 0;
    for (uint32_t other = 0; other < set->count; other++)
        if (other != row)
            found[count++] = (struct found){wanted_distance(set, row, other), other};
    qsort(found, count, sizeof(*found), by_distance);
    double reach = found[K - 1].distance;
    for (uint32_t i = 0; i < count; i++)
        found[i].distance = view_distance(view, row, found[i].row);
    qsort(found, count, sizeof(*found), by_distance);
    for (uint32_t i = 0; i < K; i++)
        hits += wanted_distance(set, row, found[i].row) <= reach;
    return hits;
}

/* Recall@10 of rows first, first + step, ... */
static double recall(const struct vector_set *set, const struct byte_view *view, uint32_t first,
                     uint32_t step)
{
    struct found *found = malloc(set->count * sizeof(*found));
    uint32_t hits = 0;
    uint32_t asked = 0;
    assert_non_null(found);
    for (uint32_t row = first; row < set->count; row += step, asked++)
        hits += nearest_hits(set, view, row, found);
    free(found);
    return (double)hits / (asked * K);
}

/* ---- what a view is ---- */

static void bytes_under_l2_are_their_own_view(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LENGTH(byte_types); t++) {
        const struct vector_fixture fixture = fixture_of(byte_types[t], METRIC_L2, 300, 21);
        struct vector_set set;
        vector_fixture_create(&fixture, &set);
        struct byte_view view = view_of(&set);
        assert_true(byte_view_exact(&set));
        assert_int_equal(byte_view_row_bytes(set.type, set.metric, set.dim), 0);
        assert_null(view.owned);
        assert_ptr_equal(view.rows.rows, set.rows);
        assert_int_equal(view.rows.stride_bytes, set.stride_bytes);
        assert_int_equal(view.rows.dim, 21);
        assert_int_equal(view.rows.flip, byte_types[t] == ELEMENT_I8 ? 0x80 : 0);
        byte_view_destroy(&view);
        assert_ptr_equal(vector_set_row(&set, 0), set.rows); /* still the set's */
        vector_set_destroy(&set);
    }
}

static void other_rows_are_copied_in_whole_lines(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1, 21, 63, 64, 65, 128};
    for (size_t kind = 0; kind < ARRAY_LENGTH(copied); kind++)
        for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
            const struct vector_fixture fixture =
                fixture_of(copied[kind].type, copied[kind].metric, 50, dims[d]);
            struct vector_set set;
            vector_fixture_create(&fixture, &set);
            struct byte_view view = view_of(&set);
            uint32_t dim = dims[d];
            assert_false(byte_view_exact(&set));
            assert_int_equal(view.rows.dim, dim);
            assert_int_equal(view.rows.stride_bytes, size_align(dim, 64));
            assert_int_equal(byte_view_row_bytes(set.type, set.metric, set.dim),
                             view.rows.stride_bytes);
            assert_int_equal(view.rows.flip, 0);
            assert_non_null(view.owned);
            for (uint32_t row = 0; row < set.count; row++)
                for (uint32_t i = dim; i < view.rows.stride_bytes; i++)
                    assert_int_equal(view_row(&view, row)[i], 0);
            byte_view_destroy(&view);
            assert_null(view.owned);
            vector_set_destroy(&set);
        }
}

static void nearest_by_bytes_are_the_nearest(void **state)
{
    (void)state;
    print_message("seed=%d\n", SEED);
    for (size_t kind = 0; kind < ARRAY_LENGTH(copied); kind++) {
        const struct vector_fixture fixture =
            fixture_of(copied[kind].type, copied[kind].metric, 1500, 32);
        struct vector_set set;
        vector_fixture_create(&fixture, &set);
        struct byte_view view = view_of(&set);
        double found = recall(&set, &view, 0, 25);
        print_message("%s %s: recall@10 %.3f\n", element_name(set.type), metric_name(set.metric),
                      found);
        assert_true(found >= 0.95);
        byte_view_destroy(&view);
        vector_set_destroy(&set);
    }
}

/* One step for all dimensions: byte distances are true ones times a constant, within rounding. */
static void distances_keep_their_proportions(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < ARRAY_LENGTH(copied); kind++) {
        const struct vector_fixture fixture =
            fixture_of(copied[kind].type, copied[kind].metric, 400, 64);
        struct vector_set set;
        vector_fixture_create(&fixture, &set);
        struct byte_view view = view_of(&set);
        double least = INFINITY;
        double most = 0.0;
        for (uint32_t row = 1; row < set.count; row++) {
            double ratio = view_distance(&view, 0, row) / wanted_distance(&set, 0, row);
            least = fmin(least, ratio);
            most = fmax(most, ratio);
        }
        print_message("%s %s: proportions %.3f\n", element_name(set.type), metric_name(set.metric),
                      most / least);
        assert_true(most <= 1.2 * least);
        byte_view_destroy(&view);
        vector_set_destroy(&set);
    }
}

static void the_bytes_do_not_depend_on_threads(void **state)
{
    (void)state;
    int threads_before = omp_get_max_threads();
    for (size_t kind = 0; kind < ARRAY_LENGTH(copied); kind++) {
        const struct vector_fixture fixture =
            fixture_of(copied[kind].type, copied[kind].metric, 3000, 20);
        struct vector_set set;
        vector_fixture_create(&fixture, &set);
        omp_set_num_threads(1);
        struct byte_view one = view_of(&set);
        for (int threads = 2; threads <= THREADS_MAX; threads++) {
            omp_set_num_threads(threads);
            struct byte_view many = view_of(&set);
            assert_int_equal(many.rows.stride_bytes, one.rows.stride_bytes);
            assert_memory_equal(many.owned, one.owned, set.count * one.rows.stride_bytes);
            byte_view_destroy(&many);
        }
        byte_view_destroy(&one);
        vector_set_destroy(&set);
    }
    omp_set_num_threads(threads_before);
}

/* ---- what might break it ---- */

/* A large constant takes no part of the range, and all the others keep theirs. */
static void a_constant_dimension_costs_nothing(void **state)
{
    (void)state;
    struct vector_set set = f32_set(1000, 16);
    for (uint32_t row = 0; row < set.count; row++)
        ((float *)vector_fixture_slot(&set, row))[5] = 1000.0f;
    prepare(&set);
    struct byte_view view = view_of(&set);
    for (uint32_t row = 0; row < set.count; row++)
        assert_int_equal(view_row(&view, row)[5], view_row(&view, 0)[5]);
    assert_true(recall(&set, &view, 0, 50) >= 0.95);
    byte_view_destroy(&view);
    vector_set_destroy(&set);
}

/* Of all metrics: cosine and ip have coordinates that come out constant or zero as well. */
static void rows_that_are_all_alike_have_the_same_bytes(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 2, 3, 500};
    static const float values[] = {0.0f, 0.1f, -3e38f, 1e-44f};
    for (size_t i = 0; i < ARRAY_LENGTH(counts) * ARRAY_LENGTH(values); i++)
        for (unsigned metric = METRIC_L2; metric <= METRIC_COSINE; metric++) {
            struct vector_set set = f32_set(counts[i / ARRAY_LENGTH(values)], 9);
            set.metric = (enum metric)metric;
            for (uint32_t row = 0; row < set.count; row++)
                for (uint32_t d = 0; d < set.dim; d++)
                    ((float *)vector_fixture_slot(&set, row))[d] = values[i % ARRAY_LENGTH(values)];
            prepare(&set);
            struct byte_view view = view_of(&set);
            for (uint32_t row = 1; row < set.count; row++)
                assert_memory_equal(view_row(&view, row), view_row(&view, 0), view.rows.dim);
            byte_view_destroy(&view);
            vector_set_destroy(&set);
        }
}

/* It is held at the end of the range; the others do not fall into a few steps for its sake. */
static void a_single_outlier_does_not_coarsen_the_rest(void **state)
{
    (void)state;
    static const float outliers[] = {50.0f, -50.0f, 1e6f, -1e6f, 1e18f};
    for (size_t i = 0; i < ARRAY_LENGTH(outliers); i++) {
        struct vector_set set = f32_set(1001, 32);
        ((float *)vector_fixture_slot(&set, 500))[3] = outliers[i];
        prepare(&set);
        struct byte_view view = view_of(&set);
        assert_int_equal(view_row(&view, 500)[3], outliers[i] > 0.0f ? 255 : 1);
        assert_true(recall(&set, &view, 0, 40) >= 0.95);
        byte_view_destroy(&view);
        vector_set_destroy(&set);
    }
}

/* ---- whether bytes tell enough ---- */

static bool faithful(struct vector_set *set)
{
    bool result = false;
    struct error err = {0};
    prepare(set);
    struct byte_view view = view_of(set);
    if (byte_view_judge(set, &view, &result, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    byte_view_destroy(&view);
    vector_set_destroy(set);
    return result;
}

static void data_of_many_dimensions_is_told_apart(void **state)
{
    (void)state;
    static const uint32_t dims[] = {16, 32, 100};
    static const uint32_t counts[] = {100, 1000, 5000};
    for (size_t kind = 0; kind < ARRAY_LENGTH(copied); kind++)
        for (size_t d = 0; d < ARRAY_LENGTH(dims); d++)
            for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
                const struct vector_fixture fixture =
                    fixture_of(copied[kind].type, copied[kind].metric, counts[c], dims[d]);
                struct vector_set set;
                vector_fixture_fill(&fixture, &set);
                assert_true(faithful(&set));
            }
}

static void bytes_are_always_exact(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LENGTH(byte_types); t++) {
        struct vector_fixture fixture = fixture_of(byte_types[t], METRIC_L2, 5000, 1);
        struct vector_set set;
        vector_fixture_fill(&fixture, &set);
        assert_true(faithful(&set));
    }
}

/* More rows than steps, or more in each step's square. */
static void many_rows_in_few_dimensions_are_not_told_apart(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1000, 20000};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++)
        for (uint32_t dim = 1; dim <= 2; dim++) {
            struct vector_set set = f32_set(counts[c] * dim, dim);
            for (uint32_t row = 0; row < set.count; row++)
                for (uint32_t d = 0; d < dim; d++)
                    ((float *)vector_fixture_slot(&set, row))[d] =
                        (float)random_unit(SEED + d, row);
            assert_false(faithful(&set));
        }
}

/* A sample would say that they can be: rows in the whole set are nearer. */
static void the_whole_set_is_judged_and_not_a_sample(void **state)
{
    (void)state;
    static const uint32_t counts[] = {2000, 200000};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
        struct vector_set set = f32_set(counts[c], 3);
        for (uint32_t row = 0; row < set.count; row++)
            for (uint32_t d = 0; d < set.dim; d++)
                ((float *)vector_fixture_slot(&set, row))[d] = (float)random_unit(SEED + d, row);
        assert_int_equal(faithful(&set), c == 0);
    }
}

static void a_dimension_that_outweighs_the_others_is_noticed(void **state)
{
    (void)state;
    struct vector_set set = f32_set(4000, 16);
    for (uint32_t row = 0; row < set.count; row++)
        ((float *)vector_fixture_slot(&set, row))[7] *= 1000.0f;
    assert_false(faithful(&set));
}

/* One row in fifty is far off, and what is left of the range are two or three steps, or one. */
static void outliers_that_take_the_range_are_noticed(void **state)
{
    (void)state;
    static const float factors[] = {300.0f, 1e6f, 1e12f};
    for (size_t f = 0; f < ARRAY_LENGTH(factors); f++) {
        struct vector_set set = f32_set(4000, 16);
        for (uint32_t row = 0; row < set.count; row += 50)
            for (uint32_t d = 0; d < set.dim; d++)
                ((float *)vector_fixture_slot(&set, row))[d] *= factors[f];
        assert_false(faithful(&set));
    }
}

/* Whatever is at distance zero in truth is none of the bytes' fault. */
static void copies_do_not_count(void **state)
{
    (void)state;
    struct vector_set set = f32_set(4000, 16);
    for (uint32_t row = 0; row < set.count; row++)
        memcpy(vector_fixture_slot(&set, row), vector_fixture_slot(&set, row % 100),
               set.stride_bytes);
    assert_true(faithful(&set));
    set = f32_set(4000, 16);
    memset(vector_fixture_slot(&set, 0), 0, set.count * set.stride_bytes);
    assert_true(faithful(&set));
}

/* A handful is compared with one another in any case. */
static void few_rows_are_taken_as_they_are(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 2, 3, 127};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
        struct vector_set set = f32_set(counts[c], 1);
        assert_true(faithful(&set));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_under_l2_are_their_own_view),
        cmocka_unit_test(other_rows_are_copied_in_whole_lines),
        cmocka_unit_test(nearest_by_bytes_are_the_nearest),
        cmocka_unit_test(distances_keep_their_proportions),
        cmocka_unit_test(the_bytes_do_not_depend_on_threads),
        cmocka_unit_test(a_constant_dimension_costs_nothing),
        cmocka_unit_test(rows_that_are_all_alike_have_the_same_bytes),
        cmocka_unit_test(a_single_outlier_does_not_coarsen_the_rest),
        cmocka_unit_test(data_of_many_dimensions_is_told_apart),
        cmocka_unit_test(bytes_are_always_exact),
        cmocka_unit_test(many_rows_in_few_dimensions_are_not_told_apart),
        cmocka_unit_test(the_whole_set_is_judged_and_not_a_sample),
        cmocka_unit_test(a_dimension_that_outweighs_the_others_is_noticed),
        cmocka_unit_test(outliers_that_take_the_range_are_noticed),
        cmocka_unit_test(copies_do_not_count),
        cmocka_unit_test(few_rows_are_taken_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
