/*
 * test_vector_truth.c - key files and ground truth: round trips, and every refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include <unistd.h>

#include "common/file_io.h"
#include "common/random.h"
#include "common/vector_file.h"
#include "tests/directory_fixture.h"
#include "tests/key_files.h"

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[256];
    struct error err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (!fixture)
        return -1;
    *state = fixture;
    return directory_fixture_create(fixture->directory);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    return result;
}

static const char *at(struct fixture *fixture, const char *name)
{
    snprintf(fixture->path, sizeof(fixture->path), "%s/%s", fixture->directory, name);
    return fixture->path;
}

static const char *put(struct fixture *fixture, const char *name, const void *bytes, size_t count)
{
    const char *path = at(fixture, name);
    directory_fixture_write(path, bytes, count);
    return path;
}

static void assert_says(const struct fixture *fixture, const char *words)
{
    const char *text = fixture->err.text;
    if (strncmp(text, fixture->path, strlen(fixture->path)) != 0 || strchr(text, '\n') ||
        !strstr(text, words))
        fail_msg("\"%s\" does not begin with the path and say \"%s\"", text, words);
}

static void assert_keys_refused(struct fixture *fixture, uint64_t expected, enum status wanted,
                                const char *words)
{
    uint64_t *keys = NULL;
    assert_int_equal(key_file_read(fixture->path, expected, &keys, &fixture->err), wanted);
    assert_null(keys);
    assert_says(fixture, words);
}

static void keys_round_trip_in_their_order(void **state)
{
    struct fixture *fixture = *state;
    enum { COUNT = 30000 };
    uint64_t *written = malloc(COUNT * sizeof(*written)), *keys = NULL;
    assert_non_null(written);
    /* Random, all in one byte's range, descending: the ways the sort can go. */
    for (int kind = 0; kind < 3; kind++) {
        for (uint64_t i = 0; i < COUNT; i++)
            written[i] = kind == 0   ? random_at(5, i)
                         : kind == 1 ? (i * 7919) % COUNT
                                     : UINT64_MAX - i * 3;
        assert_int_equal(key_file_write(at(fixture, "k.u64bin"), written, COUNT, NULL), STATUS_OK);
        assert_int_equal(key_file_read(fixture->path, COUNT, &keys, &fixture->err), STATUS_OK);
        assert_memory_equal(keys, written, COUNT * sizeof(*keys));
        free(keys);
    }
    free(written);
}

static void a_repeated_key_is_named_with_both_rows(void **state)
{
    struct fixture *fixture = *state;
    enum { COUNT = 5000 };
    uint64_t keys[COUNT];
    static const uint32_t pairs[][2] = {{0, 4999}, {17, 18}, {2500, 4000}, {0, 1}};
    for (size_t p = 0; p < ARRAY_LENGTH(pairs); p++) {
        char words[100];
        for (uint32_t i = 0; i < COUNT; i++)
            keys[i] = random_at(p, i);
        keys[pairs[p][1]] = keys[pairs[p][0]];
        assert_int_equal(key_file_write(at(fixture, "k.u64bin"), keys, COUNT, NULL), STATUS_OK);
        snprintf(words, sizeof(words), ": key %llu is repeated: rows %u and %u",
                 (unsigned long long)keys[pairs[p][0]], pairs[p][0], pairs[p][1]);
        assert_keys_refused(fixture, COUNT, STATUS_INVALID, words);
    }
    memset(keys, 0xff, sizeof(keys));
    assert_int_equal(key_file_write(at(fixture, "k.u64bin"), keys, COUNT, NULL), STATUS_OK);
    assert_keys_refused(fixture, COUNT, STATUS_INVALID,
                        ": key 18446744073709551615 is repeated: rows 0 and 1");
}

static void key_files_of_the_wrong_shape_are_refused(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t words[8] = {2, 1, 7, 0, 8, 0};
    put(fixture, "k.u64bin", words, 24);
    assert_keys_refused(fixture, 3, STATUS_INVALID, ": 2 keys for 3 vectors");
    put(fixture, "k.u64bin", words, 23);
    assert_keys_refused(fixture, 2, STATUS_CORRUPT, "implies 24: truncated");
    put(fixture, "k.u64bin", words, 25);
    assert_keys_refused(fixture, 2, STATUS_CORRUPT, "implies 24: too long");
    put(fixture, "k.u64bin", words, 0);
    assert_keys_refused(fixture, 2, STATUS_CORRUPT, "0 bytes, wanted a header of 8");
    put(fixture, "k.u64bin", (const uint32_t[]){1, 2, 0, 0, 0, 0}, 24);
    assert_keys_refused(fixture, 1, STATUS_CORRUPT, "2 keys a row, wanted 1");
    put(fixture, "k.u64bin", (const uint32_t[]){0, 1}, 8);
    assert_keys_refused(fixture, 0, STATUS_INVALID, "0 keys for 0 vectors");
    put(fixture, "k.fbin", words, 24);
    assert_keys_refused(fixture, 2, STATUS_INVALID, "wanted .u64bin");
    at(fixture, "absent.u64bin");
    assert_keys_refused(fixture, 2, STATUS_NOT_FOUND, "no such file");
    assert_int_equal(mkfifo(at(fixture, "f.u64bin"), 0600), 0);
    assert_keys_refused(fixture, 2, STATUS_INVALID, "is a FIFO");
    uint64_t key = 1;
    assert_int_equal(key_file_write(at(fixture, "a.u64bin"), &key, 0, &fixture->err),
                     STATUS_INVALID);
    assert_says(fixture, "0 keys");
    assert_int_equal(key_file_write(at(fixture, "a.bin"), &key, 1, &fixture->err), STATUS_INVALID);
    assert_says(fixture, "wanted .u64bin");
}

static void ground_truth_round_trips(void **state)
{
    struct fixture *fixture = *state;
    uint32_t ids[6] = {1, 2, 3, UINT32_MAX - 1, 5, 6};
    float distances[6] = {0, 1, 2.5f, -1, 0, 7};
    struct ground_truth truth = {.query_count = 2, .k = 3, .ids = ids, .distances = distances};
    struct ground_truth read = {0};
    assert_int_equal(ground_truth_write(at(fixture, "gt.bin"), &truth, NULL), STATUS_OK);
    struct stat info;
    assert_int_equal(stat(fixture->path, &info), 0);
    assert_int_equal(info.st_size, 8 + 48);
    assert_int_equal(ground_truth_read(fixture->path, &read, &fixture->err), STATUS_OK);
    assert_int_equal(read.query_count, 2);
    assert_int_equal(read.k, 3);
    assert_memory_equal(read.ids, ids, sizeof(ids));
    assert_memory_equal(read.distances, distances, sizeof(distances));
    ground_truth_free(&read);
    assert_null(read.ids);
    assert_int_equal(read.query_count, 0);
    ground_truth_free(&read);
}

static void ids_alone_are_ground_truth_without_distances(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t vecs[6] = {2, 10, 11, 2, 12, 13}, bin[6] = {2, 2, 10, 11, 12, 13};
    const uint32_t ids[4] = {10, 11, 12, 13};
    struct ground_truth read = {0};
    for (int format = 0; format < 2; format++) {
        if (format == 0)
            put(fixture, "gt.ivecs", vecs, sizeof(vecs));
        else
            put(fixture, "gt.ibin", bin, sizeof(bin));
        assert_int_equal(ground_truth_read(fixture->path, &read, &fixture->err), STATUS_OK);
        assert_int_equal(read.query_count, 2);
        assert_int_equal(read.k, 2);
        assert_memory_equal(read.ids, ids, sizeof(ids));
        assert_null(read.distances);
        ground_truth_free(&read);
    }
}

static void assert_truth_refused(struct fixture *fixture, enum status wanted, const char *words)
{
    struct ground_truth read = {0};
    assert_int_equal(ground_truth_read(fixture->path, &read, &fixture->err), wanted);
    assert_null(read.ids);
    assert_says(fixture, words);
}

static void broken_ground_truth_is_refused(void **state)
{
    struct fixture *fixture = *state;
    uint32_t words[8] = {1, 2, 10, 11, 0, 0x3f800000};
    put(fixture, "gt.bin", words, 23);
    assert_truth_refused(fixture, STATUS_CORRUPT, "implies 24: truncated");
    put(fixture, "gt.bin", words, 25);
    assert_truth_refused(fixture, STATUS_CORRUPT, "implies 24: too long");
    put(fixture, "gt.bin", words, 16); /* ids alone, but no .ibin */
    assert_truth_refused(fixture, STATUS_CORRUPT, "truncated");
    put(fixture, "gt.bin", words, 7);
    assert_truth_refused(fixture, STATUS_CORRUPT, "7 bytes");
    words[5] = 0x7fc00000;
    put(fixture, "gt.bin", words, 24);
    assert_truth_refused(fixture, STATUS_CORRUPT, "query 0 has a NaN distance at position 1");
    put(fixture, "gt.bin", (const uint32_t[]){0, 2}, 8);
    assert_truth_refused(fixture, STATUS_INVALID, "0 queries and k = 2");
    put(fixture, "gt.bin", (const uint32_t[]){2, 0}, 8);
    assert_truth_refused(fixture, STATUS_INVALID, "2 queries and k = 0");
    put(fixture, "gt.bin", (const uint32_t[]){UINT32_MAX, UINT32_MAX}, 8);
    assert_truth_refused(fixture, STATUS_INVALID, "k from 1 to 65536");
    put(fixture, "gt.ivecs", (const int32_t[]){2, 5, -7}, 12);
    assert_truth_refused(fixture, STATUS_CORRUPT, "query 0 has the negative id -7 at position 1");
    at(fixture, "absent.bin");
    assert_truth_refused(fixture, STATUS_NOT_FOUND, "no such file");
    assert_int_equal(mkdir(at(fixture, "d.bin"), 0700), 0);
    assert_truth_refused(fixture, STATUS_INVALID, "is a directory");
}

static void ground_truth_without_distances_is_not_written(void **state)
{
    struct fixture *fixture = *state;
    uint32_t id = 1;
    struct ground_truth truth = {.query_count = 1, .k = 1, .ids = &id};
    assert_int_equal(ground_truth_write(at(fixture, "gt.bin"), &truth, &fixture->err),
                     STATUS_INVALID);
    assert_says(fixture, "without distances");
    assert_int_equal(access(fixture->path, F_OK), -1);
}

static void keys_written_in_parts_are_those_written_at_once(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t keys[5] = {9, UINT64_MAX, 3, 0, 7};
    struct key_writer *writer = NULL;
    struct error *err = &fixture->err;
    at(fixture, "parts.u64bin");
    assert_int_equal(key_writer_open(fixture->path, 5, &writer, err), STATUS_OK);
    assert_int_equal(key_writer_append(writer, keys, 2, err), STATUS_OK);
    assert_int_equal(key_writer_append(writer, keys + 2, 4, err), STATUS_INVALID);
    assert_says(fixture, "more than the 5 keys announced");
    assert_int_equal(access(fixture->path, F_OK), -1);
    assert_int_equal(key_writer_append(writer, keys + 2, 3, err), STATUS_OK);
    assert_int_equal(key_writer_finish(writer, err), STATUS_OK);
    uint64_t *read = NULL;
    assert_int_equal(key_file_read(fixture->path, 5, &read, err), STATUS_OK);
    assert_memory_equal(read, keys, sizeof(keys));
    free(read);

    at(fixture, "short.u64bin");
    assert_int_equal(key_writer_open(fixture->path, 5, &writer, err), STATUS_OK);
    assert_int_equal(key_writer_append(writer, keys, 2, err), STATUS_OK);
    assert_int_equal(key_writer_finish(writer, err), STATUS_INVALID);
    assert_says(fixture, "2 keys written, 5 announced");
    at(fixture, "dropped.u64bin");
    assert_int_equal(key_writer_open(fixture->path, 5, &writer, err), STATUS_OK);
    key_writer_abort(writer);
    key_writer_abort(NULL);
    assert_int_equal(directory_fixture_entries(fixture->directory), 1);
    assert_int_equal(key_writer_open(at(fixture, "keys.bin"), 5, &writer, err), STATUS_INVALID);
    assert_says(fixture, "wanted .u64bin");
}

static void neighbours_may_be_absent_at_the_end(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t infinity = 0x7f800000, none = GROUND_TRUTH_ABSENT;
    uint32_t words[] = {3,    3, 10, 11, 12, 13,       none,     none,     none,     none,
                        none, 0, 0,  0,  0,  infinity, infinity, infinity, infinity, infinity};
    struct ground_truth read = {0};
    put(fixture, "gt.bin", words, sizeof(words));
    assert_int_equal(ground_truth_read(fixture->path, &read, &fixture->err), STATUS_OK);
    assert_int_equal(ground_truth_existing(&read, 0, 3), 3);
    assert_int_equal(ground_truth_existing(&read, 0, 2), 2);
    assert_int_equal(ground_truth_existing(&read, 1, 3), 1);
    assert_int_equal(ground_truth_existing(&read, 1, 1), 1);
    assert_int_equal(ground_truth_existing(&read, 2, 3), 0);
    ground_truth_free(&read);

    words[15] = 0;
    put(fixture, "gt.bin", words, sizeof(words));
    assert_truth_refused(fixture, STATUS_CORRUPT,
                         "query 1 has no neighbour at position 1, but "
                         "distance 0");
    words[15] = infinity;
    words[7] = 14;
    put(fixture, "gt.bin", words, sizeof(words));
    assert_truth_refused(fixture, STATUS_CORRUPT,
                         "query 1 has a neighbour at position 2, after an absent one");

    const int32_t vecs[] = {2, -1, -1, 2, 5, -1}, broken[] = {2, -1, 5};
    put(fixture, "gt.ivecs", vecs, sizeof(vecs));
    assert_int_equal(ground_truth_read(fixture->path, &read, &fixture->err), STATUS_OK);
    assert_int_equal(ground_truth_existing(&read, 0, 2), 0);
    assert_int_equal(ground_truth_existing(&read, 1, 2), 1);
    ground_truth_free(&read);
    put(fixture, "gt.ivecs", broken, sizeof(broken));
    assert_truth_refused(fixture, STATUS_CORRUPT, "after an absent one");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(keys_round_trip_in_their_order),
        T(a_repeated_key_is_named_with_both_rows),
        T(key_files_of_the_wrong_shape_are_refused),
        T(keys_written_in_parts_are_those_written_at_once),
        T(ground_truth_round_trips),
        T(ids_alone_are_ground_truth_without_distances),
        T(broken_ground_truth_is_refused),
        T(neighbours_may_be_absent_at_the_end),
        T(ground_truth_without_distances_is_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
