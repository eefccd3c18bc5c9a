/*
 * test_hot_list.c - ranking of the hot list, and the row samples it and others are drawn from.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "builder/hot_list.h"
#include "builder/row_sample.h"
#include "builder/vamana.h"

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
    struct hot_numbering numbering = {
        .node_of_row = node_of_row, .node_limit = 8, .nodes_per_block = 2};
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
    assert_int_equal(hot_list_rank(&visits, &numbering, &nodes, &count, &err), STATUS_OK);
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

/* Rows on a line: a search for one visits its own neighbourhood. */
static void hot_visits_leave_out_the_query_itself(void **state)
{
    (void)state;
    enum { COUNT = 300 };
    struct vector_set set = {0};
    struct vamana_result built = {0};
    struct hot_visits visits = {0};
    struct build_monitor monitor = {0};
    struct vamana_params params = {.degree = 8, .build_list = 16, .alpha = 1.2f, .seed = 1};
    struct error err;
    assert_int_equal(vector_set_create(&set, COUNT, 1, ELEMENT_F32, METRIC_L2, &err), STATUS_OK);
    for (uint32_t i = 0; i < COUNT; i++) {
        float value = (float)i;
        memcpy(set.rows + i * set.stride_bytes, &value, sizeof(value));
    }
    assert_int_equal(vector_set_prepare(&set, &err), STATUS_OK);
    assert_int_equal(vamana_build(&set, &params, &built, &err), STATUS_OK);
    assert_int_equal(
        hot_visits_collect(&set, &built.graph, built.entry, 1, &monitor, &visits, &err), STATUS_OK);
    assert_int_equal(visits.query_count,
                     COUNT); /* fewer rows than queries: each is one, in order */
    for (uint32_t q = 0; q < COUNT; q++) {
        assert_in_range(visits.counts[q], 1, HOT_VISITS_MAX);
        for (uint32_t i = 0; i < visits.counts[q]; i++) {
            uint32_t row = visits.rows[(size_t)q * HOT_VISITS_MAX + i];
            assert_true(row < COUNT);
            assert_int_not_equal(row, q);
        }
    }
    hot_visits_destroy(&visits);
    graph_destroy(&built.graph);
    vector_set_destroy(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hot_list_ranks_blocks_by_queries_then_nodes_by_visits),
        cmocka_unit_test(hot_visits_leave_out_the_query_itself),
        cmocka_unit_test(row_sample_is_distinct_ascending_and_seeded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
