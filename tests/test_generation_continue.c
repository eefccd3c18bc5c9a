/*
 * test_generation_continue.c - a generation that one writer leaves unfinished is finished by
 * another, or made by several at a time, and nothing that fails on the way harms what was written.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "layout/generation.h"
#include "layout/store.h"
#include "tests/directory_fixture.h"
#include "tests/generation_fixture.h"

enum { SEED = 11, CALLS_MAX = 200 };

/* ---- continuing ---- */

static void what_a_killed_build_left_is_continued(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    /* Begun by either mode, half of everything, from the back. */
    for (int mode = GENERATION_CREATE; mode <= GENERATION_CONTINUE; mode++) {
        struct error err = {0};
        struct generation_writer *writer = fixture_open(path, (enum generation_open_mode)mode);
        const size_t middle = FIXTURE_BLOCKS / 2 * BLOCK_PAGE_BYTES;
        fixture_must_put(&image, writer, GENERATION_NODES, middle, image.bytes[GENERATION_NODES]);
        fixture_must_put(&image, writer, GENERATION_CODES, 101, image.bytes[GENERATION_CODES]);
        fixture_must_put(&image, writer, GENERATION_HOT, 0, image.bytes[GENERATION_HOT]);
        fixture_must(generation_writer_sync(writer, &err), &err);
        generation_writer_close(writer);
        fixture_expect_fault(path, "did not finish");
        /* Killed while it wrote its report and manifest. */
        fixture_touch(fixture_path(path, GENERATION_REPORT_NAME ".tmp"), 3);
        fixture_touch(fixture_path(path, MANIFEST_FILE_NAME ".tmp"), 3);
        fixture_touch(fixture_path(path, GENERATION_REPORT_NAME), 3);

        writer = fixture_open(path, GENERATION_CONTINUE);
        fixture_must_put(&image, writer, GENERATION_NODES, 0, middle);
        fixture_must_put(&image, writer, GENERATION_CODES, 0, 101);
        fixture_must_put(&image, writer, GENERATION_CODEC, 0, image.bytes[GENERATION_CODEC]);
        fixture_must_put(&image, writer, GENERATION_NAVIGATION, 0,
                         image.bytes[GENERATION_NAVIGATION]);
        fixture_must_put(&image, writer, GENERATION_SAMPLE, 0, image.bytes[GENERATION_SAMPLE]);
        fixture_must_put(&image, writer, GENERATION_ATTRIBUTES, 0,
                         image.bytes[GENERATION_ATTRIBUTES]);
        fixture_must_put(&image, writer, GENERATION_KEYS, 0, image.bytes[GENERATION_KEYS]);
        assert_int_equal(generation_write_text(path, GENERATION_REPORT_NAME, "{}", &err),
                         STATUS_OK);
        fixture_must_finish(writer, SEED);
        assert_int_equal(unlink(fixture_path(path, GENERATION_REPORT_NAME)), 0);
        fixture_expect_reference(path, *state);
        for (int i = 0; i < GENERATION_FILE_COUNT; i++)
            assert_int_equal(unlink(fixture_path(path, generation_file_names[i])), 0);
        assert_int_equal(unlink(fixture_path(path, MANIFEST_FILE_NAME)), 0);
        assert_int_equal(rmdir(path), 0);
    }
    fixture_image_free(&image);
}

static void continuing_creates_what_is_missing(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct generation_writer *writer = fixture_open(path, GENERATION_CONTINUE);
    assert_int_equal(directory_fixture_entries(path), GENERATION_FILE_COUNT);
    fixture_must_put(&image, writer, GENERATION_HOT, 0, image.bytes[GENERATION_HOT]);
    generation_writer_close(writer);
    assert_int_equal(unlink(fixture_path(path, "nodes.blk")), 0);
    assert_int_equal(unlink(fixture_path(path, "navigation.bin")), 0);
    writer = fixture_open(path, GENERATION_CONTINUE);
    assert_int_equal(directory_fixture_entries(path), GENERATION_FILE_COUNT);
    assert_int_equal(fixture_length(fixture_path(path, "hot.bin")), image.bytes[GENERATION_HOT]);
    generation_writer_close(writer);
    fixture_image_free(&image);
    generation_writer_close(NULL);
}

static void expect_continue_refuses(const char *path, const char *words)
{
    struct generation_writer *writer = NULL;
    struct error err = {0};
    assert_int_equal(generation_writer_open(path, GENERATION_CONTINUE, &writer, &err),
                     STATUS_EXISTS);
    assert_null(writer);
    if (!strstr(err.text, words))
        fail_msg("wanted \"%s\", got \"%s\"", words, err.text);
}

static void complete_generation_is_not_continued(void **state)
{
    const char *path = fixture_path(*state, "gen");
    fixture_must_write(path, SEED);
    expect_continue_refuses(path, "gen: is already complete");
    expect_continue_refuses(fixture_path(path, "hot.bin"), "is not a directory");
    assert_int_equal(symlink("gen", fixture_path(*state, "link")), 0);
    expect_continue_refuses(fixture_path(*state, "link"), "is not a directory");
    struct error err = {0};
    fixture_must(fixture_verify(path, &err), &err);
    assert_int_equal(directory_fixture_entries(path), GENERATION_FILE_COUNT + 1);
    /* A manifest of whatever kind. */
    path = fixture_path(*state, "other");
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(symlink("nowhere", fixture_path(path, MANIFEST_FILE_NAME)), 0);
    expect_continue_refuses(path, "other: is already complete");
    assert_int_equal(directory_fixture_entries(path), 1);
}

static void directory_with_anything_else_is_not_continued(void **state)
{
    static const char *const names[] = {"notes.txt", "nodes.blk.tmp", "nodes.blk2", ".hidden",
                                        "build-report.json.tmp.tmp"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        const char *path = fixture_path(*state, "gen");
        generation_writer_close(fixture_open(path, GENERATION_CONTINUE));
        fixture_touch(fixture_path(path, names[i]), 1);
        expect_continue_refuses(path, names[i]);
        assert_int_equal(directory_fixture_entries(path), GENERATION_FILE_COUNT + 1);
        assert_int_equal(unlink(fixture_path(path, names[i])), 0);
        generation_writer_abort(fixture_open(path, GENERATION_CONTINUE));
    }
}

static void data_file_of_another_kind_is_not_continued(void **state)
{
    const char *path = fixture_path(*state, "gen");
    const char *aside = fixture_path(*state, "aside");
    fixture_touch(aside, 7);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        generation_writer_close(fixture_open(path, GENERATION_CONTINUE));
        const char *file = fixture_path(path, generation_file_names[i]);
        assert_int_equal(unlink(file), 0);
        assert_int_equal(symlink(aside, file), 0);
        expect_continue_refuses(path, generation_file_names[i]);
        assert_int_equal(unlink(file), 0);
        assert_int_equal(mkdir(file, 0700), 0);
        expect_continue_refuses(path, generation_file_names[i]);
        assert_int_equal(rmdir(file), 0);
        assert_int_equal(mkfifo(file, 0600), 0);
        expect_continue_refuses(path, generation_file_names[i]);
        assert_int_equal(unlink(file), 0);
    }
    assert_int_equal(fixture_length(aside), 7);
}

/* Where the manifest tells a file's length, forgetting to cut it is found before it is finished. */
static void longer_leftovers_are_cut(void **state)
{
    static const enum generation_file told[] = {GENERATION_NODES, GENERATION_CODES, GENERATION_HOT};
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct error err = {0};
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        fixture_touch(fixture_path(path, generation_file_names[i]), 20 * BLOCK_PAGE_BYTES);
    for (size_t t = 0; t < ARRAY_LENGTH(told); t++) {
        struct generation_writer *writer = fixture_open(path, GENERATION_CONTINUE);
        fixture_must(fixture_image_put_all(&image, writer, &err), &err);
        assert_int_equal(fixture_finish(writer, SEED, &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, generation_file_names[told[t]]));
        fixture_must(generation_writer_set_length(writer, told[t], image.bytes[told[t]], &err),
                     &err);
        generation_writer_close(writer);
        fixture_expect_fault(path, "did not finish");
    }
    struct generation_writer *writer = fixture_open(path, GENERATION_CONTINUE);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        fixture_must(
            generation_writer_set_length(writer, (enum generation_file)i, image.bytes[i], &err),
            &err);
    fixture_must_finish(writer, SEED);
    fixture_expect_reference(path, *state);
    fixture_image_free(&image);
}

/* What is not written below a set length reads as zeros. */
static void file_is_lengthened_by_zeros(void **state)
{
    const char *path = fixture_path(*state, "gen");
    struct generation_writer *writer = fixture_open(path, GENERATION_CREATE);
    struct error err = {0};
    fixture_must(generation_writer_set_length(writer, GENERATION_HOT, 10, &err), &err);
    fixture_must(generation_writer_write(writer, GENERATION_HOT, 12, "x", 1, &err), &err);
    generation_writer_close(writer);
    size_t bytes;
    uint8_t *data = fixture_read(fixture_path(path, "hot.bin"), &bytes);
    assert_int_equal(bytes, 13);
    assert_memory_equal(data, "\0\0\0\0\0\0\0\0\0\0\0\0x", 13);
    free(data);
}

static void appending_starts_a_file_over(void **state)
{
    const char *path = fixture_path(*state, "gen");
    static const char *const parts[][2] = {{"abc", "def"}, {"x", "y"}};
    struct error err = {0};
    struct generation_writer *writer;
    for (int round = 0; round < 2; round++) {
        writer = fixture_open(path, GENERATION_CONTINUE);
        for (int i = 0; i < 2; i++)
            fixture_must(generation_writer_append(writer, GENERATION_HOT, parts[round][i],
                                                  strlen(parts[round][i]), &err),
                         &err);
        generation_writer_close(writer);
    }
    size_t bytes;
    uint8_t *data = fixture_read(fixture_path(path, "hot.bin"), &bytes);
    assert_int_equal(bytes, 2);
    assert_memory_equal(data, "xy", 2);
    free(data);
    /* Nothing is content too. */
    writer = fixture_open(path, GENERATION_CONTINUE);
    fixture_must(generation_writer_append(writer, GENERATION_HOT, NULL, 0, &err), &err);
    generation_writer_close(writer);
    assert_int_equal(fixture_length(fixture_path(path, "hot.bin")), 0);
}

/* ---- several at a time ---- */

static void two_writers_make_one_generation(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct error err = {0};
    struct generation_writer *writers[] = {fixture_open(path, GENERATION_CONTINUE),
                                           fixture_open(path, GENERATION_CONTINUE)};
    for (size_t block = 0; block < FIXTURE_BLOCKS; block++)
        fixture_must_put(&image, writers[block % 2], GENERATION_NODES, block * BLOCK_PAGE_BYTES,
                         (block + 1) * BLOCK_PAGE_BYTES);
    /* Ranges that share a page. */
    for (size_t at = 0; at < image.bytes[GENERATION_CODES]; at += FIXTURE_CODE_BYTES)
        fixture_must_put(&image, writers[at / FIXTURE_CODE_BYTES % 2], GENERATION_CODES, at,
                         at + FIXTURE_CODE_BYTES);
    for (int i = GENERATION_CODEC; i < GENERATION_FILE_COUNT; i++)
        fixture_must_put(&image, writers[i % 2], (enum generation_file)i, 0, image.bytes[i]);
    fixture_must(generation_writer_sync(writers[0], &err), &err);
    generation_writer_close(writers[0]);
    fixture_must_finish(writers[1], SEED);
    fixture_expect_reference(path, *state);
    fixture_image_free(&image);
}

static void two_processes_make_one_generation(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    const size_t middle = FIXTURE_BLOCKS / 2 * BLOCK_PAGE_BYTES;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct generation_writer *writer;
        enum status status = generation_writer_open(path, GENERATION_CONTINUE, &writer, NULL);
        if (status == STATUS_OK)
            status = fixture_image_put(&image, writer, GENERATION_NODES, 0, middle);
        if (status == STATUS_OK)
            status = fixture_image_put(&image, writer, GENERATION_CODES, 100, 300);
        if (status == STATUS_OK)
            status = generation_writer_sync(writer, NULL);
        _exit((int)status);
    }
    struct generation_writer *writer = fixture_open(path, GENERATION_CONTINUE);
    fixture_must_put(&image, writer, GENERATION_NODES, middle, image.bytes[GENERATION_NODES]);
    fixture_must_put(&image, writer, GENERATION_CODES, 300, image.bytes[GENERATION_CODES]);
    fixture_must_put(&image, writer, GENERATION_CODES, 0, 100);
    for (int i = GENERATION_CODEC; i < GENERATION_FILE_COUNT; i++)
        fixture_must_put(&image, writer, (enum generation_file)i, 0, image.bytes[i]);
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == STATUS_OK);
    fixture_must_finish(writer, SEED);
    fixture_expect_reference(path, *state);
    fixture_image_free(&image);
}

static void threads_write_through_one_writer(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct generation_writer *writer = fixture_open(path, GENERATION_CREATE);
    int failed = 0;
#pragma omp parallel for schedule(static, 1) num_threads(4) reduction(+ : failed)
    for (int i = 0; i < FIXTURE_NODE_LIMIT; i++) {
        const size_t at = (size_t)i * FIXTURE_CODE_BYTES, page = (size_t)i * BLOCK_PAGE_BYTES;
        enum status status =
            fixture_image_put(&image, writer, GENERATION_CODES, at, at + FIXTURE_CODE_BYTES);
        if (status == STATUS_OK && i < FIXTURE_BLOCKS)
            status =
                fixture_image_put(&image, writer, GENERATION_NODES, page, page + BLOCK_PAGE_BYTES);
        if (status == STATUS_OK && i >= GENERATION_CODEC && i < GENERATION_FILE_COUNT)
            status = fixture_image_put(&image, writer, (enum generation_file)i, 0, image.bytes[i]);
        failed += status != STATUS_OK;
    }
    assert_int_equal(failed, 0);
    fixture_must_finish(writer, SEED);
    fixture_expect_reference(path, *state);
    fixture_image_free(&image);
}

/* ---- giving up ---- */

static void abort_of_a_continued_build_removes_all_of_it(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct error err = {0};
    assert_int_equal(mkdir(path, 0700), 0); /* though it was there before */
    struct generation_writer *writer = fixture_open(path, GENERATION_CONTINUE);
    fixture_must(fixture_image_put_all(&image, writer, &err), &err);
    generation_writer_close(writer);
    fixture_touch(fixture_path(path, GENERATION_REPORT_NAME ".tmp"), 3);
    fixture_touch(fixture_path(path, MANIFEST_FILE_NAME ".tmp"), 3);
    fixture_touch(fixture_path(path, GENERATION_REPORT_NAME), 3);
    generation_writer_abort(fixture_open(path, GENERATION_CONTINUE));
    assert_false(fixture_exists(path));

    /* Something else that came into it keeps the directory. */
    writer = fixture_open(path, GENERATION_CONTINUE);
    fixture_touch(fixture_path(path, "notes.txt"), 3);
    generation_writer_abort(writer);
    assert_int_equal(directory_fixture_entries(path), 1);
    fixture_image_free(&image);
}

static void abort_leaves_what_another_has_finished(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct error err = {0};
    struct generation_writer *writers[] = {fixture_open(path, GENERATION_CONTINUE),
                                           fixture_open(path, GENERATION_CONTINUE)};
    fixture_must(fixture_image_put_all(&image, writers[0], &err), &err);
    fixture_must_finish(writers[0], SEED);
    generation_writer_abort(writers[1]);
    fixture_expect_reference(path, *state);
    fixture_image_free(&image);
}

static void closed_build_stays_and_can_be_continued(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct error err = {0};
    struct generation_writer *writer = fixture_open(path, GENERATION_CREATE);
    fixture_must(fixture_image_put_all(&image, writer, &err), &err);
    generation_writer_close(writer);
    assert_int_equal(generation_writer_open(path, GENERATION_CREATE, &writer, &err), STATUS_EXISTS);
    fixture_must_finish(fixture_open(path, GENERATION_CONTINUE), SEED);
    fixture_expect_reference(path, *state);
    fixture_image_free(&image);
}

/* ---- failing calls ---- */

/* Opens to be continued, writes all, cuts, syncs, finishes, with the nth call failing; what is left
 * open by a failure is closed or aborted. */
static bool continue_with_fault(const struct fixture_image *image, const char *path,
                                struct fixture_nth_call *nth, bool abort_it, enum status *status,
                                struct error *err)
{
    const struct store_faults faults = {fixture_fail_nth, nth};
    struct generation_writer *writer = NULL;
    nth->calls = 0;
    store_inject(&faults);
    *status = generation_writer_open(path, GENERATION_CONTINUE, &writer, err);
    if (*status == STATUS_OK)
        *status = fixture_image_put_all(image, writer, err);
    for (int i = 0; *status == STATUS_OK && i < GENERATION_FILE_COUNT; i++)
        *status =
            generation_writer_set_length(writer, (enum generation_file)i, image->bytes[i], err);
    if (*status == STATUS_OK)
        *status = generation_writer_sync(writer, err);
    if (*status == STATUS_OK)
        *status = fixture_finish(writer, SEED, err);
    if (*status != STATUS_OK && abort_it)
        generation_writer_abort(writer);
    else if (*status != STATUS_OK)
        generation_writer_close(writer);
    store_inject(NULL);
    return nth->calls >= nth->fail_at;
}

static void any_failing_call_of_a_continued_build_can_be_made_up_for(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    int last = CALLS_MAX;
    for (int abort_it = 0; abort_it < 2; abort_it++)
        for (int n = 1; n <= last; n++) {
            char name[32];
            snprintf(name, sizeof(name), "gen-%d-%d", abort_it, n);
            const char *path = fixture_path(*state, name);
            struct fixture_nth_call nth = {.fail_at = n, .outcome = EIO};
            struct error err = {0};
            enum status status;
            assert_true(n < CALLS_MAX);
            if (!continue_with_fault(&image, path, &nth, abort_it, &status, &err)) {
                fixture_must(status, &err);
                last = n;
                fixture_expect_reference(path, *state);
                break;
            }
            assert_int_equal(status, STATUS_IO);
            assert_non_null(strstr(err.text, strerror(EIO)));
            struct generation *generation;
            const enum status opened = generation_open(path, &generation, &err);
            if (opened == STATUS_OK) {
                /* Only the fsyncs after the rename were left to fail. */
                generation_close(generation);
                fixture_expect_reference(path, *state);
                expect_continue_refuses(path, "is already complete");
                continue;
            }
            if (fixture_exists(path) && abort_it)
                assert_true(n <= 1 + GENERATION_FILE_COUNT); /* it did not get to be open */
            nth.fail_at = CALLS_MAX;
            assert_false(continue_with_fault(&image, path, &nth, false, &status, &err));
            fixture_must(status, &err);
            fixture_expect_reference(path, *state);
        }
    /* mkdir; a create, a write, a length and an fsync of each file, 2 directory fsyncs; at the end
     * an fsync, a read and a close of each, 5 calls for the manifest, 2 directory fsyncs */
    assert_int_equal(last,
                     1 + 4 * GENERATION_FILE_COUNT + 2 + 3 * GENERATION_FILE_COUNT + 5 + 2 + 1);
    fixture_image_free(&image);
}

static void failing_to_open_harms_nothing_that_was_there(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct error err = {0};
    struct generation_writer *writer = fixture_open(path, GENERATION_CREATE);
    fixture_must(fixture_image_put_all(&image, writer, &err), &err);
    generation_writer_close(writer);
    for (int n = 1; n <= 1 + GENERATION_FILE_COUNT; n++) {
        struct fixture_nth_call nth = {.fail_at = n, .outcome = ENOSPC};
        const struct store_faults faults = {fixture_fail_nth, &nth};
        store_inject(&faults);
        enum status status = generation_writer_open(path, GENERATION_CONTINUE, &writer, &err);
        store_inject(NULL);
        assert_int_equal(status, STATUS_IO);
        for (int i = 0; i < GENERATION_FILE_COUNT; i++)
            assert_int_equal(fixture_length(fixture_path(path, generation_file_names[i])),
                             image.bytes[i]);
    }
    fixture_must_finish(fixture_open(path, GENERATION_CONTINUE), SEED);
    fixture_expect_reference(path, *state);
    /* A directory that it made itself goes again while it is empty. */
    struct fixture_nth_call nth = {.fail_at = 2, .outcome = ENOSPC};
    const struct store_faults faults = {fixture_fail_nth, &nth};
    store_inject(&faults);
    path = fixture_path(*state, "new");
    assert_int_equal(generation_writer_open(path, GENERATION_CONTINUE, &writer, &err), STATUS_IO);
    store_inject(NULL);
    assert_false(fixture_exists(path));
    fixture_image_free(&image);
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_a_killed_build_left_is_continued),
        CASE(continuing_creates_what_is_missing),
        CASE(complete_generation_is_not_continued),
        CASE(directory_with_anything_else_is_not_continued),
        CASE(data_file_of_another_kind_is_not_continued),
        CASE(longer_leftovers_are_cut),
        CASE(file_is_lengthened_by_zeros),
        CASE(appending_starts_a_file_over),
        CASE(two_writers_make_one_generation),
        CASE(two_processes_make_one_generation),
        CASE(threads_write_through_one_writer),
        CASE(abort_of_a_continued_build_removes_all_of_it),
        CASE(abort_leaves_what_another_has_finished),
        CASE(closed_build_stays_and_can_be_continued),
        CASE(any_failing_call_of_a_continued_build_can_be_made_up_for),
        CASE(failing_to_open_harms_nothing_that_was_there),
    };
    return cmocka_run_group_tests_name("generation_continue", tests, NULL, NULL);
}
