/*
 * test_copies.c - copies of rows against a grouping that compares each row with all before it:
 * chains, the list of different rows, and what looks like a copy but is none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "builder/byte_view.h"
#include "builder/copies.h"
#include "common/random.h"
#include "tests/vector_fixture.h"

enum { SEED = 20240607, THREADS_MAX = 4 };

static const struct {
    enum element_type type;
    enum metric metric;
} kinds[] = {
    {ELEMENT_U8, METRIC_L2},      {ELEMENT_I8, METRIC_L2},  {ELEMENT_F32, METRIC_L2},
    {ELEMENT_F32, METRIC_COSINE}, {ELEMENT_F32, METRIC_IP}, {ELEMENT_F16, METRIC_COSINE},
    {ELEMENT_U8, METRIC_COSINE},  {ELEMENT_I8, METRIC_IP},
};

/* Not yet prepared. */
static struct vector_set set_of(enum element_type type, enum metric metric, uint32_t count,
                                uint32_t dim)
{
    const struct vector_fixture fixture = {
        .count = count, .dim = dim, .clusters = 5, .type = type, .metric = metric, .seed = SEED};
    struct vector_set set;
    vector_fixture_fill(&fixture, &set);
    return set;
}

static void row_copy(const struct vector_set *set, uint32_t to, uint32_t from)
{
    memcpy(vector_fixture_slot(set, to), vector_fixture_slot(set, from), set->stride_bytes);
}

/* ---- the definition ---- */

/* firsts[row]: the first row that it is a copy of, or itself. */
static uint32_t *firsts_create(const struct vector_set *set, const struct byte_rows *rows)
{
    uint32_t *firsts = malloc(set->count * sizeof(*firsts));
    assert_non_null(firsts);
    for (uint32_t row = 0; row < set->count; row++) {
        const uint8_t *bytes = rows->rows + row * rows->stride_bytes;
        firsts[row] = row;
        for (uint32_t first = 0; first < row && firsts[row] == row; first++)
            if (firsts[first] == first &&
                memcmp(rows->rows + first * rows->stride_bytes, bytes, rows->dim) == 0 &&
                vector_set_pair(set, first, row) == 0.0f)
                firsts[row] = first;
    }
    return firsts;
}

/* The next row of the same group, or its first. */
static uint32_t next_definition(const uint32_t *firsts, uint32_t count, uint32_t row)
{
    for (uint32_t next = row + 1; next < count; next++)
        if (firsts[next] == firsts[row])
            return next;
    return firsts[row];
}

/* Returns how many rows are different. */
static uint32_t copies_check(const struct copies *copies, const struct vector_set *set,
                             const struct byte_rows *rows)
{
    uint32_t *firsts = firsts_create(set, rows);
    uint32_t distinct = 0;
    assert_int_equal(copies->count, set->count);
    for (uint32_t row = 0; row < set->count; row++) {
        assert_int_equal(copies_next(copies, row), next_definition(firsts, set->count, row));
        if (firsts[row] == row) {
            assert_true(distinct < copies->distinct_count);
            assert_int_equal(copies_distinct_row(copies, distinct++), row);
        }
    }
    assert_int_equal(copies->distinct_count, distinct);
    assert_int_equal(copies->next == NULL, distinct == set->count);
    assert_int_equal(copies->distinct == NULL, distinct == set->count);
    free(firsts);
    return distinct;
}

/* Prepares the set, finds its copies at any number of threads, and checks them; returns how many
 * rows are different. The set is destroyed. */
static uint32_t distinct_rows(struct vector_set *set)
{
    int threads_before = omp_get_max_threads();
    struct error err = {0};
    struct byte_view view;
    struct copies copies;
    uint32_t distinct = 0;
    assert_int_equal(vector_set_prepare(set, 0.0f, &err), STATUS_OK);
    assert_int_equal(byte_view_create(set, &view, &err), STATUS_OK);
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        omp_set_num_threads(threads);
        assert_int_equal(copies_find(set, &view.rows, &copies, &err), STATUS_OK);
        distinct = copies_check(&copies, set, &view.rows);
        copies_destroy(&copies);
        assert_null(copies.next);
    }
    omp_set_num_threads(threads_before);
    byte_view_destroy(&view);
    vector_set_destroy(set);
    return distinct;
}

/* ---- the tests ---- */

static void groups_of_copies_are_chained(void **state)
{
    (void)state;
    static const uint32_t groups[] = {1, 2, 3, 20, 299};
    print_message("seed=%d\n", SEED);
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++)
        for (size_t g = 0; g < ARRAY_LENGTH(groups); g++) {
            struct vector_set set = set_of(kinds[kind].type, kinds[kind].metric, 300, 19);
            for (uint32_t row = groups[g]; row < set.count; row++)
                row_copy(&set, row, (uint32_t)random_below(SEED, row, groups[g]));
            assert_int_equal(distinct_rows(&set), groups[g]);
        }
}

/* Chains begin and end anywhere. */
static void some_rows_are_copies_and_others_are_not(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++) {
        struct vector_set set = set_of(kinds[kind].type, kinds[kind].metric, 500, 24);
        uint32_t copied = 0;
        for (uint32_t row = 1; row < set.count; row++)
            if (random_below(SEED, row, 3) == 0) {
                row_copy(&set, row, (uint32_t)random_below(SEED + 1, row, row));
                copied++;
            }
        assert_int_equal(distinct_rows(&set), 500 - copied);
    }
}

static void a_set_without_copies_has_no_lists(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 2, 400};
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++)
        for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
            struct vector_set set = set_of(kinds[kind].type, kinds[kind].metric, counts[c], 24);
            assert_int_equal(distinct_rows(&set), counts[c]);
        }
}

/* Naive grouping would take as long as the rows are many, squared; here their chain is known. */
static void many_copies_of_one_row_are_one_chain(void **state)
{
    (void)state;
    enum { COUNT = 200000 };
    struct error err = {0};
    struct copies copies;
    struct vector_set set;
    assert_int_equal(vector_set_create(&set, COUNT, 8, ELEMENT_U8, METRIC_L2, &err), STATUS_OK);
    assert_int_equal(vector_set_prepare(&set, 0.0f, &err), STATUS_OK);
    const struct byte_rows rows = byte_view_of_set(&set);
    assert_int_equal(copies_find(&set, &rows, &copies, &err), STATUS_OK);
    assert_int_equal(copies.distinct_count, 1);
    assert_int_equal(copies_distinct_row(&copies, 0), 0);
    for (uint32_t row = 0; row < COUNT; row++)
        assert_int_equal(copies_next(&copies, row), (row + 1) % COUNT);
    copies_destroy(&copies);
    vector_set_destroy(&set);
}

/* Cosine does not see lengths. Powers of two leave a direction's bits as they are. */
static void multiples_of_a_row_are_copies_under_cosine_alone(void **state)
{
    (void)state;
    static const enum metric metrics[] = {METRIC_COSINE, METRIC_L2, METRIC_IP};
    static const float factors[] = {0.25f, 2.0f, 8.0f};
    for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
        struct vector_set set = set_of(ELEMENT_F32, metrics[m], 400, 21);
        for (uint32_t row = 100; row < set.count; row++) {
            const float *from = vector_set_row(&set, row % 100);
            float *to = vector_fixture_slot(&set, row);
            for (uint32_t d = 0; d < set.dim; d++)
                to[d] = from[d] * factors[row / 100 - 1];
        }
        assert_int_equal(distinct_rows(&set), metrics[m] == METRIC_COSINE ? 100 : 400);
    }
}

/* Vectors of zeros have no direction, and are at distance 1 from all others, even of their kind. */
static void zero_vectors_are_no_copies_under_cosine(void **state)
{
    (void)state;
    struct vector_set set = set_of(ELEMENT_F32, METRIC_COSINE, 50, 8);
    for (uint32_t row = 10; row < 20; row++)
        memset(vector_fixture_slot(&set, row), 0, set.stride_bytes);
    assert_int_equal(distinct_rows(&set), 50);
}

/* Each row has a twin that differs by far less than a step of the bytes. */
static void rows_of_equal_bytes_at_a_distance_are_no_copies(void **state)
{
    (void)state;
    struct vector_set set = set_of(ELEMENT_F32, METRIC_L2, 300, 16);
    struct byte_view view;
    struct error err = {0};
    uint32_t equal = 0;
    for (uint32_t row = 100; row < set.count; row++) {
        row_copy(&set, row, row % 100);
        *(float *)vector_fixture_slot(&set, row) += row < 200 ? 1e-5f : 0.0f;
    }
    assert_int_equal(byte_view_create(&set, &view, &err), STATUS_OK);
    for (uint32_t row = 100; row < 200; row++)
        equal += memcmp(view.rows.rows + row * view.rows.stride_bytes,
                        view.rows.rows + (row - 100) * view.rows.stride_bytes, set.dim) == 0;
    byte_view_destroy(&view);
    assert_true(equal > 90);
    assert_int_equal(distinct_rows(&set), 200);
}

/* Rows on an arc, each a copy of its neighbours within rounding and of none farther off: a row that
 * is a copy of two others, which are none of one another, is in the chain of the first alone. */
static void a_row_between_two_others_is_in_one_chain(void **state)
{
    (void)state;
    struct vector_set set = set_of(ELEMENT_F32, METRIC_COSINE, 60, 8);
    for (uint32_t row = 0; row < 30; row++) {
        static const uint32_t step = 7; /* so that neighbours are not next to one another */
        float *values = vector_fixture_slot(&set, row);
        memset(values, 0, set.stride_bytes);
        values[0] = 1.0f;
        values[1] = 1e-4f * (float)(row * step % 30);
    }
    uint32_t distinct = distinct_rows(&set);
    assert_in_range(distinct, 30 + 2, 30 + 15);
}

/* Which must not take the square of their number. */
static void rows_that_bytes_cannot_tell_apart_are_compared_with_few(void **state)
{
    (void)state;
    enum { COUNT = 100000 };
    struct error err = {0};
    struct copies copies;
    struct vector_set set;
    assert_int_equal(vector_set_create(&set, COUNT, 8, ELEMENT_F32, METRIC_COSINE, &err),
                     STATUS_OK);
    assert_int_equal(vector_set_prepare(&set, 0.0f, &err), STATUS_OK);
    struct byte_view view;
    assert_int_equal(byte_view_create(&set, &view, &err), STATUS_OK);
    assert_int_equal(copies_find(&set, &view.rows, &copies, &err), STATUS_OK);
    assert_int_equal(copies.distinct_count, COUNT);
    assert_null(copies.next);
    copies_destroy(&copies);
    byte_view_destroy(&view);
    vector_set_destroy(&set);
}

/* These numbers' XXH3 hashes agree in their upper half, by which rows are sorted. */
static void rows_of_equal_hashes_are_told_apart(void **state)
{
    (void)state;
    static const uint64_t pair[] = {29423, 250638};
    struct vector_set set;
    struct error err = {0};
    assert_int_equal(XXH3_64bits(&pair[0], 8) >> 32, XXH3_64bits(&pair[1], 8) >> 32);
    assert_int_equal(vector_set_create(&set, 40, 8, ELEMENT_U8, METRIC_L2, &err), STATUS_OK);
    for (uint32_t row = 0; row < set.count; row++) {
        uint64_t number = row < 20 ? pair[random_below(SEED, row, 2)] : row;
        memcpy(vector_fixture_slot(&set, row), &number, sizeof(number));
    }
    assert_int_equal(distinct_rows(&set), 22);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_of_copies_are_chained),
        cmocka_unit_test(some_rows_are_copies_and_others_are_not),
        cmocka_unit_test(a_set_without_copies_has_no_lists),
        cmocka_unit_test(many_copies_of_one_row_are_one_chain),
        cmocka_unit_test(multiples_of_a_row_are_copies_under_cosine_alone),
        cmocka_unit_test(zero_vectors_are_no_copies_under_cosine),
        cmocka_unit_test(rows_of_equal_bytes_at_a_distance_are_no_copies),
        cmocka_unit_test(a_row_between_two_others_is_in_one_chain),
        cmocka_unit_test(rows_that_bytes_cannot_tell_apart_are_compared_with_few),
        cmocka_unit_test(rows_of_equal_hashes_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
