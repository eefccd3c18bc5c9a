/*
 * test_range_truth.c - the file of answers within a radius: round trips, rows of one length, and
 * every refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/range_truth.h"
#include "tests/directory_fixture.h"

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[256];
    struct error err;
};

/* 4 queries with 2, 0, 3 and 1 neighbours. */
static const uint32_t whole[] = {4, 6, 2, 0, 3, 1, 50, 51, 7, 8, 9, 60, 0, 1, 2, 3, 4, 5};
enum { WHOLE_BYTES = sizeof(whole), WITHOUT_DISTANCES_BYTES = WHOLE_BYTES - 6 * 4 };

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (fixture == NULL)
        return -1;
    *state = fixture;
    if (directory_fixture_create(fixture->directory) != 0)
        return -1;
    snprintf(fixture->path, sizeof(fixture->path), "%s/range.bin", fixture->directory);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    return result;
}

static void assert_file_is(const char *path, const void *bytes, size_t count)
{
    char read[256];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(read, 1, sizeof(read), file), count);
    fclose(file);
    assert_memory_equal(read, bytes, count);
}

static void answers_round_trip(void **state)
{
    struct fixture *fixture = *state;
    for (size_t bytes = WITHOUT_DISTANCES_BYTES; bytes <= WHOLE_BYTES; bytes += 6 * 4) {
        struct range_truth truth = {0};
        directory_fixture_write(fixture->path, whole, bytes);
        assert_int_equal(range_truth_read(fixture->path, &truth, &fixture->err), STATUS_OK);
        const uint64_t at[] = {0, 2, 2, 5, 6};
        assert_int_equal(truth.query_count, 4);
        assert_memory_equal(truth.at, at, sizeof(at));
        assert_memory_equal(truth.ids, whole + 6, 24);
        assert_int_equal(truth.distances != NULL, bytes == WHOLE_BYTES);
        directory_fixture_write(fixture->path, "", 0);
        assert_int_equal(range_truth_write(fixture->path, &truth, &fixture->err), STATUS_OK);
        assert_file_is(fixture->path, whole, bytes);
        range_truth_free(&truth);
    }
}

static void queries_without_answers_round_trip(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t nothing[] = {2, 0, 0, 0};
    struct range_truth truth = {0};
    struct ground_truth rows = {0};
    directory_fixture_write(fixture->path, nothing, sizeof(nothing));
    assert_int_equal(range_truth_read(fixture->path, &truth, &fixture->err), STATUS_OK);
    assert_int_equal(truth.at[2], 0);
    assert_int_equal(range_truth_write(fixture->path, &truth, &fixture->err), STATUS_OK);
    assert_file_is(fixture->path, nothing, sizeof(nothing));
    assert_int_equal(range_truth_to_rows(fixture->path, &truth, &rows, &fixture->err), STATUS_OK);
    assert_int_equal(rows.k, 1);
    assert_int_equal(rows.ids[1], GROUND_TRUTH_ABSENT);
    ground_truth_free(&rows);
    range_truth_free(&truth);
}

static void rows_of_one_length_end_in_absent_neighbours(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t none = GROUND_TRUTH_ABSENT, infinity = 0x7f800000;
    const uint32_t ids[] = {50, 51, none, none, none, none, 7, 8, 9, 60, none, none};
    const uint32_t distances[] = {0, 1, infinity, infinity, infinity, infinity,
                                  2, 3, 4,        5,        infinity, infinity};
    struct range_truth truth = {0}, back = {0};
    struct ground_truth rows = {0};
    directory_fixture_write(fixture->path, whole, WHOLE_BYTES);
    assert_int_equal(range_truth_read(fixture->path, &truth, &fixture->err), STATUS_OK);
    assert_int_equal(range_truth_to_rows(fixture->path, &truth, &rows, &fixture->err), STATUS_OK);
    assert_int_equal(rows.query_count, 4);
    assert_int_equal(rows.k, 3);
    assert_memory_equal(rows.ids, ids, sizeof(ids));
    assert_memory_equal(rows.distances, distances, sizeof(distances));
    assert_int_equal(range_truth_from_rows(fixture->path, &rows, &back, &fixture->err), STATUS_OK);
    assert_int_equal(range_truth_write(fixture->path, &back, &fixture->err), STATUS_OK);
    assert_file_is(fixture->path, whole, WHOLE_BYTES);
    range_truth_free(&back);
    ground_truth_free(&rows);
    range_truth_free(&truth);
}

static void assert_refused(struct fixture *fixture, const uint32_t *words, size_t bytes,
                           enum status wanted, const char *phrase)
{
    struct range_truth truth = {0};
    directory_fixture_write(fixture->path, words, bytes);
    assert_int_equal(range_truth_read(fixture->path, &truth, &fixture->err), wanted);
    assert_null(truth.at);
    const char *text = fixture->err.text;
    if (strncmp(text, fixture->path, strlen(fixture->path)) != 0 || strstr(text, phrase) == NULL)
        fail_msg("\"%s\" does not begin with the path and say \"%s\"", text, phrase);
}

static void broken_files_are_refused(void **state)
{
    struct fixture *fixture = *state;
    uint32_t words[sizeof(whole) / sizeof(whole[0]) + 1] = {0};
    memcpy(words, whole, sizeof(whole));
    for (size_t bytes = 0; bytes < WHOLE_BYTES; bytes++)
        if (bytes != WITHOUT_DISTANCES_BYTES)
            assert_refused(fixture, words, bytes, STATUS_CORRUPT,
                           bytes < 8 ? "wanted a header of 8" : "truncated");
    assert_refused(fixture, words, WHOLE_BYTES + 1, STATUS_CORRUPT, "too long");
    words[4]++;
    assert_refused(fixture, words, WHOLE_BYTES, STATUS_CORRUPT,
                   "its queries have 7 neighbours, its header says 6");
    words[4] = UINT32_MAX;
    assert_refused(fixture, words, WHOLE_BYTES, STATUS_CORRUPT, "its header says 6");
    words[4] = whole[4];
    words[13] = 0x7fc00000;
    assert_refused(fixture, words, WHOLE_BYTES, STATUS_CORRUPT, "neighbour 1 has a NaN distance");
    words[0] = 0;
    assert_refused(fixture, words, WHOLE_BYTES, STATUS_INVALID, "0 queries");
    words[0] = words[1] = UINT32_MAX;
    assert_refused(fixture, words, WHOLE_BYTES, STATUS_CORRUPT, "truncated");
}

static void more_than_rows_can_have_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct range_truth truth;
    struct ground_truth rows = {0};
    assert_int_equal(range_truth_create(&truth, 2, 65537, false, &fixture->err), STATUS_OK);
    memset(truth.ids, 0, 65537 * sizeof(uint32_t));
    truth.at[1] = truth.at[2] = 65537;
    assert_int_equal(range_truth_to_rows("r", &truth, &rows, &fixture->err), STATUS_INVALID);
    assert_string_equal(fixture->err.text,
                        "r: a query has 65537 neighbours: rows have at most 65536");
    range_truth_free(&truth);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(answers_round_trip),
        T(queries_without_answers_round_trip),
        T(rows_of_one_length_end_in_absent_neighbours),
        T(broken_files_are_refused),
        T(more_than_rows_can_have_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
