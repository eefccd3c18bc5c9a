/*
 * test_attribute_table.c - attributes read into memory and filters over them: what each row has,
 * what is looked up by it, filters for each query, and every refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"
#include "query/filter.h"
#include "tests/directory_fixture.h"
#include "tools/attribute_table.h"
#include "tools/filter_set.h"

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[256];
    char filters[256];
    struct error err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (fixture == NULL)
        return -1;
    *state = fixture;
    if (directory_fixture_create(fixture->directory) != 0)
        return -1;
    snprintf(fixture->path, sizeof(fixture->path), "%s/a.csv", fixture->directory);
    snprintf(fixture->filters, sizeof(fixture->filters), "%s/filters.txt", fixture->directory);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    return result;
}

static const char people[] = "year:u64,height:i64,tags:labels\n"
                             "1999,-5,red|blue\n"
                             "18446744073709551615,9223372036854775807,\n"
                             "0,-9223372036854775808,\"a,b|x\\|y|back\\\\slash|red|red\"\n"
                             "1999,0,zebra|a\n";

static struct attribute_table *read_text(struct fixture *fixture, const char *text, uint64_t rows)
{
    struct attribute_table *table = NULL;
    directory_fixture_write(fixture->path, text, strlen(text));
    if (attribute_table_read(fixture->path, rows, &table, &fixture->err) != STATUS_OK)
        fail_msg("%s", fixture->err.text);
    return table;
}

/* Rows that match, as bits. */
static uint32_t matching(const struct attribute_table *table, const char *text)
{
    struct filter *filter = NULL;
    struct error err = {STATUS_OK, ""};
    uint32_t bits = 0, scanned = 0, nodes[8];
    if (filter_compile(text, strlen(text), attribute_table_view(table), &filter, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    for (uint32_t row = 0; row < 4; row++)
        bits |= (uint32_t)filter_match(filter, row) << row;
    /* Orders and postings must say the same as the values. */
    struct filter_scan scan;
    bool done = false;
    filter_scan_begin(filter, &scan);
    while (!done) {
        uint32_t count = filter_scan_next(&scan, 100, nodes, 8, &done);
        for (uint32_t i = 0; i < count; i++)
            scanned |= 1u << nodes[i];
    }
    assert_int_equal(scanned, bits);
    filter_free(filter);
    return bits;
}

static void rows_match_by_their_values(void **state)
{
    struct attribute_table *table = read_text(*state, people, 4);
    const struct attributes *view = attribute_table_view(table);
    assert_int_equal(view->column_count, 3);
    assert_int_equal(view->node_limit, 4);
    assert_int_equal(view->vector_count, 4);
    assert_int_equal(matching(table, "year = 1999"), 9);
    assert_int_equal(matching(table, "year > 1999"), 2);
    assert_int_equal(matching(table, "year < 5"), 4);
    assert_int_equal(matching(table, "height < 0"), 5);
    assert_int_equal(matching(table, "height = -9223372036854775808"), 4);
    assert_int_equal(matching(table, "height >= 0 and year != 1999"), 2);
    assert_int_equal(matching(table, "tags = \"red\""), 5);
    assert_int_equal(matching(table, "tags = \"blue\""), 1);
    assert_int_equal(matching(table, "tags = \"a,b\""), 4);
    assert_int_equal(matching(table, "tags = \"x|y\""), 4);
    assert_int_equal(matching(table, "tags all (\"back\\\\slash\", \"red\")"), 4);
    assert_int_equal(matching(table, "tags any (\"a\", \"blue\")"), 9);
    assert_int_equal(matching(table, "tags != \"red\""), 10);
    assert_int_equal(matching(table, "tags = \"green\""), 0);
    /* The repeated label is one. */
    assert_int_equal(view->columns[2].node_at[3] - view->columns[2].node_at[2], 4);
    attribute_table_free(table);
}

/* More values than one digit of the sort, of both signs. */
static void numbers_are_in_order(void **state)
{
    struct fixture *fixture = *state;
    enum { ROWS = 3000 };
    FILE *file = fopen(fixture->path, "w");
    assert_non_null(file);
    fprintf(file, "a:i64,b:u64\n");
    for (uint32_t i = 0; i < ROWS; i++)
        fprintf(file, "%lld,%llu\n", (long long)random_at(1, i) >> random_below(2, i, 60),
                (unsigned long long)random_at(3, i) >> random_below(4, i, 60));
    fclose(file);
    struct attribute_table *table = NULL;
    assert_int_equal(attribute_table_read(fixture->path, ROWS, &table, &fixture->err), STATUS_OK);
    const struct attributes *view = attribute_table_view(table);
    for (uint32_t c = 0; c < 2; c++) {
        const struct attribute_column *column = &view->columns[c];
        uint8_t seen[ROWS] = {0};
        for (uint32_t i = 0; i < ROWS; i++) {
            uint32_t node = column->order[i], before = column->order[i == 0 ? 0 : i - 1];
            uint64_t value = attribute_rank(column->kind, attribute_value(column, node));
            uint64_t previous = attribute_rank(column->kind, attribute_value(column, before));
            assert_true(previous < value || (previous == value && before <= node));
            assert_int_equal(seen[node]++, 0);
        }
    }
    attribute_table_free(table);
}

static void assert_refused(struct fixture *fixture, const char *text, const char *words)
{
    struct attribute_table *table = NULL;
    directory_fixture_write(fixture->path, text, strlen(text));
    assert_int_equal(attribute_table_read(fixture->path, 2, &table, &fixture->err), STATUS_INVALID);
    assert_null(table);
    const char *said = fixture->err.text;
    if (strncmp(said, fixture->path, strlen(fixture->path)) != 0 || strstr(said, words) == NULL)
        fail_msg("\"%s\" does not begin with the path and say \"%s\"", said, words);
}

static void files_that_are_no_attributes_are_refused(void **state)
{
    struct fixture *fixture = *state;
    assert_refused(fixture, "", "is empty; a first line of NAME:TYPE cells is wanted");
    assert_refused(fixture, "year\n1\n2\n", "line 1: column 1: \"year\" is no NAME:TYPE");
    assert_refused(fixture, "a:u64,in:u64\n1,2\n", "line 1: column 2: \"in\" is no name: 1..63");
    assert_refused(fixture, "a:float\n", "line 1: column 1: \"float\" is no type");
    assert_refused(fixture, "a:u64,a:i64\n", "line 1: column 2: \"a\" is the name of column 1 too");
    assert_refused(fixture, "a:u64\n1\n", "1 rows behind the header for 2 vectors");
    assert_refused(fixture, "a:u64,t:labels\n1,x\n2,x|y\n3,z\n4,\n",
                   "4 rows behind the header for 2 vectors");
    assert_refused(fixture, "a:u64\n1\n2\n3\nx\n", "line 5: column \"a\": \"x\" is no u64");
    assert_refused(fixture, "a:u64,b:u64\n1,2\n3\n", "line 3: 1 cells, the header has 2");
    assert_refused(fixture, "a:u64\n1,2\n", "line 2: more than 1 cells, the header has 1");
    assert_refused(fixture, "a:u64\n1\n-2\n", "line 3: column \"a\": \"-2\" is no u64");
    assert_refused(fixture, "a:u64\n18446744073709551616\n", "\"18446744073709551616\" is no u64");
    assert_refused(fixture, "a:i64\n9223372036854775808\n", "\"9223372036854775808\" is no i64");
    assert_refused(fixture, "a:u64,b:u64\n1,\n",
                   "line 2: column \"b\": no u64: every row needs one");
    assert_refused(fixture, "t:labels\na|\n", "line 2: column \"t\": a label is empty");
    assert_refused(fixture, "t:labels\na\\b\n", "line 2: column \"t\": a backslash stands before");
    assert_refused(fixture, "t:labels\n\xff\n", "line 2: column \"t\": label \"?\" is not UTF-8");
}

/* ---- filters ---- */

static enum status open_set(struct fixture *fixture, const char *text, const char *lines,
                            struct filter_set **set)
{
    const struct filter_set_params params = {.attributes = fixture->path,
                                             .rows = 4,
                                             .text = text,
                                             .path = fixture->filters,
                                             .query_count = 3};
    directory_fixture_write(fixture->path, people, strlen(people));
    if (lines != NULL)
        directory_fixture_write(fixture->filters, lines, strlen(lines));
    return filter_set_open(&params, set, &fixture->err);
}

static void a_query_has_the_filter_of_its_line(void **state)
{
    struct fixture *fixture = *state;
    /* The last line may end or not. */
    const char *texts[] = {"year = 1999\n\ntags = \"a\"\n", "year = 1999\n\ntags = \"a\""};
    for (uint32_t i = 0; i < 2; i++) {
        struct filter_set *set = NULL;
        assert_int_equal(open_set(fixture, NULL, texts[i], &set), STATUS_OK);
        const struct groundtruth_filter *view = filter_set_view(set);
        assert_false(view->same_for_all);
        const uint32_t wanted[] = {9, 15, 8};
        for (uint32_t query = 0; query < 3; query++)
            for (uint32_t row = 0; row < 4; row++)
                assert_int_equal(view->match(view->context, query, row), wanted[query] >> row & 1);
        filter_set_free(set);
    }
}

static void one_filter_is_for_all_queries(void **state)
{
    struct filter_set *set = NULL;
    assert_int_equal(open_set(*state, "height < 0", NULL, &set), STATUS_OK);
    const struct groundtruth_filter *view = filter_set_view(set);
    assert_true(view->same_for_all);
    for (uint32_t row = 0; row < 4; row++)
        assert_int_equal(view->match(view->context, 2, row), row == 0 || row == 2);
    filter_set_free(set);
}

static void filters_that_do_not_suit_are_refused(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *text, *lines, *words;
    } faults[] = {
        {"yeer = 1", NULL, "unknown column \"yeer\""},
        {NULL, "year = 1\nyear = \"a\"\n\n", "filters.txt: line 2: filter: column 8"},
        {NULL, "year = 1\n\n", "filters.txt: 2 lines for 3 queries"},
        {NULL, "\n\n\n\n", "filters.txt: more than 3 lines"},
    };
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        struct filter_set *set = NULL;
        assert_int_equal(open_set(fixture, faults[i].text, faults[i].lines, &set), STATUS_INVALID);
        assert_null(set);
        if (strstr(fixture->err.text, faults[i].words) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", fixture->err.text, faults[i].words);
    }
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(rows_match_by_their_values),
        T(numbers_are_in_order),
        T(files_that_are_no_attributes_are_refused),
        T(a_query_has_the_filter_of_its_line),
        T(one_filter_is_for_all_queries),
        T(filters_that_do_not_suit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
