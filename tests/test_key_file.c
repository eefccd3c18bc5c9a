/*
 * test_key_file.c - an open key file: ranges of its keys, and the check for repeats.
 * Refusals of malformed files are in test_vector_truth.c, by way of key_file_read().
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <omp.h>
#include <unistd.h>

#include "common/random.h"
#include "common/vector_file.h"
#include "tests/directory_fixture.h"
#include "tests/key_files.h"

enum { MANY = 600000 }; /* more than one read's worth, and enough for a team to sort */

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[256];
    struct key_file *file;
    uint64_t *keys; /* [MANY], random */
    struct error err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (!fixture)
        return -1;
    *state = fixture;
    if (directory_fixture_create(fixture->directory) != 0)
        return -1;
    snprintf(fixture->path, sizeof(fixture->path), "%s/k.u64bin", fixture->directory);
    fixture->keys = malloc(MANY * sizeof(*fixture->keys));
    if (!fixture->keys)
        return -1;
    for (uint64_t i = 0; i < MANY; i++)
        fixture->keys[i] = random_at(3, i);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    key_file_close(fixture->file);
    unlink(fixture->path);
    int result = rmdir(fixture->directory);
    free(fixture->keys);
    free(fixture);
    return result;
}

/* Writes the first `count` of the fixture's keys and opens the file. */
static struct key_file *open_keys(struct fixture *fixture, uint64_t count)
{
    key_file_close(fixture->file);
    fixture->file = NULL;
    assert_int_equal(key_file_write(fixture->path, fixture->keys, count, &fixture->err), STATUS_OK);
    assert_int_equal(key_file_open(fixture->path, count, &fixture->file, &fixture->err), STATUS_OK);
    return fixture->file;
}

static void ranges_are_the_keys_of_their_rows(void **state)
{
    struct fixture *fixture = *state;
    enum { COUNT = 100 };
    const struct key_file *file = open_keys(fixture, COUNT);
    for (uint64_t first = 0; first <= COUNT; first++)
        for (uint64_t count = 0; count <= COUNT - first; count += 7) {
            uint64_t keys[COUNT + 1];
            keys[count] = 77;
            assert_int_equal(key_file_read_range(file, first, count, keys, &fixture->err),
                             STATUS_OK);
            if (count > 0)
                assert_memory_equal(keys, fixture->keys + first, count * sizeof(*keys));
            assert_int_equal(keys[count], 77);
        }
}

static void ranges_beyond_the_last_row_are_refused(void **state)
{
    struct fixture *fixture = *state;
    uint64_t key = 77;
    static const uint64_t ranges[][2] = {{4, 1}, {5, 0}, {0, 5}, {3, 2}, {1, UINT64_MAX}};
    const struct key_file *file = open_keys(fixture, 4);
    for (size_t i = 0; i < ARRAY_LENGTH(ranges); i++) {
        assert_int_equal(key_file_read_range(file, ranges[i][0], ranges[i][1], &key, &fixture->err),
                         STATUS_INVALID);
        assert_non_null(strstr(fixture->err.text, "k.u64bin: "));
        assert_non_null(strstr(fixture->err.text, " asked for, it has 4"));
    }
    assert_int_equal(key, 77);
}

static void distinct_keys_pass_at_any_team_size(void **state)
{
    struct fixture *fixture = *state;
    const struct key_file *file = open_keys(fixture, MANY);
    int threads = omp_get_max_threads();
    for (int team = 1; team <= 3; team++) {
        omp_set_num_threads(team);
        assert_int_equal(key_file_check(file, NULL, &fixture->err), STATUS_OK);
    }
    omp_set_num_threads(threads);
    assert_int_equal(key_file_check(open_keys(fixture, 1), NULL, &fixture->err), STATUS_OK);
}

static void a_repeat_is_found_wherever_its_rows_are(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t pairs[][2] = {
        {0, MANY - 1}, {524287, 524288}, {524288, MANY - 1}, {0, 1}};
    for (size_t p = 0; p < ARRAY_LENGTH(pairs); p++) {
        char words[128];
        uint64_t kept = fixture->keys[pairs[p][1]];
        fixture->keys[pairs[p][1]] = fixture->keys[pairs[p][0]];
        const struct key_file *file = open_keys(fixture, MANY);
        assert_int_equal(key_file_check(file, NULL, &fixture->err), STATUS_INVALID);
        snprintf(words, sizeof(words), "k.u64bin: key %llu is repeated: rows %u and %u",
                 (unsigned long long)fixture->keys[pairs[p][0]], pairs[p][0], pairs[p][1]);
        assert_non_null(strstr(fixture->err.text, words));
        fixture->keys[pairs[p][1]] = kept;
    }
}

static void of_several_repeats_the_smallest_key_is_named_with_its_first_rows(void **state)
{
    struct fixture *fixture = *state;
    fixture->keys[1] = fixture->keys[2] = UINT64_MAX;
    fixture->keys[50] = fixture->keys[60] = fixture->keys[99] = 12;
    const struct key_file *file = open_keys(fixture, 100);
    assert_int_equal(key_file_check(file, NULL, &fixture->err), STATUS_INVALID);
    assert_non_null(strstr(fixture->err.text, ": key 12 is repeated: rows 50 and 60"));
}

static void a_file_cut_after_opening_is_corrupt(void **state)
{
    struct fixture *fixture = *state;
    const struct key_file *file = open_keys(fixture, 100);
    assert_int_equal(truncate(fixture->path, 8 + 99 * 8), 0);
    assert_int_equal(key_file_check(file, NULL, &fixture->err), STATUS_CORRUPT);
}

static void a_wish_to_stop_ends_the_check(void **state)
{
    struct fixture *fixture = *state;
    atomic_int cancel = 0;
    fixture->keys[1] = fixture->keys[0];
    const struct key_file *file = open_keys(fixture, 100);
    assert_int_equal(key_file_check(file, &cancel, &fixture->err), STATUS_INVALID);
    cancel = 1;
    assert_int_equal(key_file_check(file, &cancel, &fixture->err), STATUS_CANCELLED);
    assert_non_null(strstr(fixture->err.text, "interrupted"));
}

static void a_refused_file_leaves_nothing_open(void **state)
{
    struct fixture *fixture = *state;
    struct key_file *file = NULL;
    (void)open_keys(fixture, 4);
    assert_int_equal(key_file_open(fixture->path, 5, &file, &fixture->err), STATUS_INVALID);
    assert_null(file);
    assert_non_null(strstr(fixture->err.text, ": 4 keys for 5 vectors"));
    key_file_close(NULL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(ranges_are_the_keys_of_their_rows),
        T(ranges_beyond_the_last_row_are_refused),
        T(distinct_keys_pass_at_any_team_size),
        T(a_repeat_is_found_wherever_its_rows_are),
        T(of_several_repeats_the_smallest_key_is_named_with_its_first_rows),
        T(a_file_cut_after_opening_is_corrupt),
        T(a_wish_to_stop_ends_the_check),
        T(a_refused_file_leaves_nothing_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
