/*
 * test_hot_list.c - ranking of the hot list, the sample searches behind it, and the row samples it
 * and others are drawn from.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/graph_build.h"
#include "builder/hot_list.h"
#include "builder/row_sample.h"
#include "tests/vector_fixture.h"

static void hot_list_ranks_blocks_by_queries_then_nodes_by_visits(void **state)
{
    (void)state;
    enum { QUERIES = 3 };
    /* Rows are nodes; two a block. Block 2 (nodes 4, 5) is read by all queries, block 0 by two,
     * block 1 by none, block 3 by one, twice over: that is still one read. */
    static const uint32_t visited[QUERIES][4] = {{4, 0, 5, 6}, {5, 1, 7, 0}, {5, 7, 6, 0}};
    static const uint32_t lengths[QUERIES] = {3, 2, 3};
    static const uint32_t node_of_row[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const uint32_t wanted[] = {5, 4, 0, 1, 6, 7};
    struct hot_visits visits = {.query_count = QUERIES};
    uint32_t *nodes = NULL;
    uint64_t count = 0;
    struct error err;
    visits.counts = calloc(QUERIES, sizeof(uint32_t));
    visits.rows = calloc((size_t)QUERIES * HOT_VISITS_MAX, sizeof(uint32_t));
    assert_true(visits.counts && visits.rows);
    for (int q = 0; q < QUERIES; q++) {
        visits.counts[q] = lengths[q];
        memcpy(visits.rows + q * HOT_VISITS_MAX, visited[q], sizeof(visited[q]));
    }
    assert_int_equal(hot_list_rank(&visits, node_of_row, 2, &nodes, &count, &err), STATUS_OK);
    assert_int_equal(count, ARRAY_LENGTH(wanted));
    assert_memory_equal(nodes, wanted, sizeof(wanted));
    free(nodes);
    hot_visits_destroy(&visits);
}

static void row_sample_is_distinct_ascending_and_seeded(void **state)
{
    (void)state;
    uint32_t rows[500], again[500], other[500];
    for (uint32_t wanted = 0; wanted <= 500; wanted += 125) {
        row_sample(3, 500, wanted, rows);
        for (uint32_t i = 0; i < wanted; i++) {
            assert_true(rows[i] < 500);
            assert_true(i == 0 || rows[i] > rows[i - 1]);
        }
    }
    row_sample(3, 100000, 500, rows);
    row_sample(3, 100000, 500, again);
    row_sample(4, 100000, 500, other);
    assert_memory_equal(rows, again, sizeof(rows));
    assert_memory_not_equal(rows, other, sizeof(rows));
    assert_true(rows[0] < 2000 && rows[499] > 98000); /* spread over all of them */
}

static void hot_list_numbers_rows_as_nodes(void **state)
{
    (void)state;
    /* Rows 0 and 1 are nodes of one block, far from row 2's. */
    static const uint32_t node_of_row[3] = {901, 900, 4000000000u};
    static const uint32_t wanted[] = {900, 901, 4000000000u};
    uint32_t counts[2] = {2, 2};
    uint32_t rows[2 * HOT_VISITS_MAX] = {1, 0};
    struct hot_visits visits = {.query_count = 2, .counts = counts, .rows = rows};
    uint32_t *nodes = NULL;
    uint64_t count = 0;
    struct error err;
    rows[HOT_VISITS_MAX] = 2;
    rows[HOT_VISITS_MAX + 1] = 1;
    assert_int_equal(hot_list_rank(&visits, node_of_row, 10, &nodes, &count, &err), STATUS_OK);
    assert_int_equal(count, ARRAY_LENGTH(wanted));
    assert_memory_equal(nodes, wanted, sizeof(wanted));
    free(nodes);
}

static void hot_list_of_no_visits_is_empty(void **state)
{
    (void)state;
    struct hot_visits visits = {0};
    uint32_t *nodes = NULL;
    uint64_t count = 7;
    struct error err;
    assert_int_equal(hot_list_rank(&visits, NULL, 4, &nodes, &count, &err), STATUS_OK);
    assert_int_equal(count, 0);
    assert_non_null(nodes);
    free(nodes);
}

/* ---- sample searches ---- */

/* Rows on a line, so a search for one visits its own neighbourhood, and their graph. */
struct line {
    struct vector_set set;
    struct graph_result built;
    struct build_monitor monitor;
};

enum { LINE = 300 };

static void line_create(struct line *line)
{
    struct graph_params params = {.degree = 8, .build_list = 16, .alpha = 1.2f, .seed = 1};
    struct error err;
    memset(line, 0, sizeof(*line));
    vector_fixture_line(LINE, &line->set);
    assert_int_equal(graph_build(&line->set, &params, &line->built, &err), STATUS_OK);
}

static void line_destroy(struct line *line)
{
    graph_result_destroy(&line->built);
    vector_set_destroy(&line->set);
}

static struct hot_visits collect(const struct line *line, uint32_t own_count, uint32_t query_count,
                                 uint64_t seed)
{
    struct hot_sample sample = {.own_count = own_count,
                                .query_count = query_count,
                                .entry = line->built.entry,
                                .seed = seed};
    struct hot_visits visits;
    struct error err;
    assert_int_equal(
        hot_visits_collect(&line->set, &line->built.graph, &sample, &line->monitor, &visits, &err),
        STATUS_OK);
    assert_int_equal(visits.query_count, query_count);
    return visits;
}

static bool visited(const struct hot_visits *visits, uint32_t query, uint32_t row)
{
    for (uint32_t i = 0; i < visits->counts[query]; i++)
        if (visits->rows[(size_t)query * HOT_VISITS_MAX + i] == row)
            return true;
    return false;
}

/* As many queries as rows: each row is one, in order. */
static void hot_visits_leave_out_the_query_itself(void **state)
{
    (void)state;
    struct line line;
    line_create(&line);
    struct hot_visits visits = collect(&line, LINE, LINE, 1);
    for (uint32_t q = 0; q < LINE; q++) {
        assert_in_range(visits.counts[q], 1, HOT_VISITS_MAX);
        for (uint32_t i = 0; i < visits.counts[q]; i++)
            assert_in_range(visits.rows[(size_t)q * HOT_VISITS_MAX + i], 0, LINE - 1);
        assert_false(visited(&visits, q, q));
        assert_true(visited(&visits, q, q > 0 ? q - 1 : 1));
    }
    hot_visits_destroy(&visits);
    hot_visits_destroy(&visits);
    line_destroy(&line);
}

/* Rows that are only borrowed are met on the way but asked for by their owner alone. */
static void hot_queries_are_drawn_from_own_rows(void **state)
{
    (void)state;
    enum { OWN = 40 };
    struct line line;
    bool borrowed_met = false;
    line_create(&line);
    struct hot_visits visits = collect(&line, OWN, OWN, 5);
    for (uint32_t q = 0; q < OWN; q++) {
        assert_false(visited(&visits, q, q));
        assert_true(visited(&visits, q, q + 1));
        borrowed_met = borrowed_met || visited(&visits, q, OWN);
    }
    assert_true(borrowed_met);
    hot_visits_destroy(&visits);
    line_destroy(&line);
}

static void hot_visits_of_no_queries_are_none(void **state)
{
    (void)state;
    struct line line;
    line_create(&line);
    struct hot_visits visits = collect(&line, LINE, 0, 1);
    hot_visits_destroy(&visits);
    line_destroy(&line);
}

static void hot_visits_are_the_same_at_any_thread_count(void **state)
{
    (void)state;
    int threads_before = omp_get_max_threads();
    struct line line;
    line_create(&line);
    omp_set_num_threads(1);
    struct hot_visits one = collect(&line, LINE, 100, 9);
    struct hot_visits other = collect(&line, LINE, 100, 10);
    omp_set_num_threads(3);
    struct hot_visits three = collect(&line, LINE, 100, 9);
    size_t rows_bytes = 100 * HOT_VISITS_MAX * sizeof(*one.rows);
    assert_memory_equal(one.counts, three.counts, 100 * sizeof(*one.counts));
    assert_memory_equal(one.rows, three.rows, rows_bytes);
    assert_memory_not_equal(one.rows, other.rows, rows_bytes); /* another seed, other queries */
    omp_set_num_threads(threads_before);
    hot_visits_destroy(&one);
    hot_visits_destroy(&other);
    hot_visits_destroy(&three);
    line_destroy(&line);
}

static void hot_visits_stop_on_request(void **state)
{
    (void)state;
    struct line line;
    atomic_int cancel = 1;
    struct hot_visits visits;
    struct error err;
    line_create(&line);
    line.monitor.cancel = &cancel;
    struct hot_sample sample = {.own_count = LINE, .query_count = LINE, .seed = 1};
    assert_int_equal(
        hot_visits_collect(&line.set, &line.built.graph, &sample, &line.monitor, &visits, &err),
        STATUS_CANCELLED);
    assert_null(visits.counts);
    assert_null(visits.rows);
    line_destroy(&line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hot_list_ranks_blocks_by_queries_then_nodes_by_visits),
        cmocka_unit_test(hot_list_numbers_rows_as_nodes),
        cmocka_unit_test(hot_list_of_no_visits_is_empty),
        cmocka_unit_test(hot_visits_leave_out_the_query_itself),
        cmocka_unit_test(hot_queries_are_drawn_from_own_rows),
        cmocka_unit_test(hot_visits_of_no_queries_are_none),
        cmocka_unit_test(hot_visits_are_the_same_at_any_thread_count),
        cmocka_unit_test(hot_visits_stop_on_request),
        cmocka_unit_test(row_sample_is_distinct_ascending_and_seeded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
