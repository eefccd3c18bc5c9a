/*
 * test_publish.c - ROOT/current: swapped whole or not at all, and never pointing elsewhere.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "layout/publish.h"
#include "layout/store.h"
#include "tests/generation_fixture.h"

static void write_generation(const char *root, const char *name)
{
    struct error err = {0};
    if (fixture_write(fixture_path(root, name), 1, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

static void expect_current(const char *root, const char *name)
{
    char path[PATH_MAX];
    struct error err = {0};
    if (publish_current(root, path, sizeof(path), &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_string_equal(path, fixture_path(root, name));
}

static enum status current_status(const char *root)
{
    char path[PATH_MAX] = "untouched";
    struct error err = {0};
    enum status status = publish_current(root, path, sizeof(path), &err);
    assert_string_equal(path, "untouched");
    assert_true(strlen(err.text) > 0);
    return status;
}

static void publish_swaps_the_link(void **state)
{
    struct error err = {0};
    write_generation(*state, "a");
    write_generation(*state, "b");
    assert_int_equal(current_status(*state), STATUS_NOT_FOUND);
    assert_int_equal(publish_generation(*state, "a", &err), STATUS_OK);
    expect_current(*state, "a");
    assert_int_equal(publish_generation(*state, "b", &err), STATUS_OK);
    expect_current(*state, "b");
    assert_int_equal(publish_generation(*state, "b", &err), STATUS_OK);
    expect_current(*state, "b");
    char target[16] = {0};
    assert_true(readlink(fixture_path(*state, PUBLISH_LINK_NAME), target, sizeof(target)) == 1);
    assert_string_equal(target, "b"); /* relative: the root may be moved */
}

static void publish_refuses_bad_names(void **state)
{
    static const char *const names[] = {"",   ".",    "..",      "a/b",        "/etc",
                                        "a/", "../a", "current", "current.tmp"};
    write_generation(*state, "a");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct error err = {0};
        assert_int_equal(publish_generation(*state, names[i], &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, names[i]));
    }
    assert_int_equal(current_status(*state), STATUS_NOT_FOUND);
}

static void publish_refuses_what_does_not_open(void **state)
{
    struct error err = {0};
    write_generation(*state, "good");
    write_generation(*state, "bad");
    assert_int_equal(publish_generation(*state, "good", &err), STATUS_OK);
    assert_int_equal(publish_generation(*state, "none", &err), STATUS_NOT_FOUND);
    assert_int_equal(truncate(fixture_path(fixture_path(*state, "bad"), "codes.bin"), 5), 0);
    assert_int_equal(publish_generation(*state, "bad", &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "bad/codes.bin"));
    assert_int_equal(mkdir(fixture_path(*state, "empty"), 0700), 0);
    assert_int_equal(publish_generation(*state, "empty", &err), STATUS_NOT_FOUND);
    assert_int_equal(symlink("good", fixture_path(*state, "link")), 0);
    assert_int_equal(publish_generation(*state, "link", &err), STATUS_INVALID);
    expect_current(*state, "good");
}

static void publish_names_a_missing_root(void **state)
{
    struct error err = {0};
    const char *root = fixture_path(*state, "none");
    assert_int_equal(publish_generation(root, "a", &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, root));
    assert_int_equal(current_status(root), STATUS_NOT_FOUND);
    write_generation(*state, "a");
    const char *file = fixture_path(fixture_path(*state, "a"), "hot.bin");
    assert_int_equal(publish_generation(file, "a", &err), STATUS_INVALID);
}

static void publish_replaces_no_file_or_directory(void **state)
{
    struct error err = {0};
    write_generation(*state, "a");
    const char *link = fixture_path(*state, PUBLISH_LINK_NAME);
    assert_int_equal(mkdir(link, 0700), 0);
    assert_int_equal(publish_generation(*state, "a", &err), STATUS_INVALID);
    assert_int_equal(current_status(*state), STATUS_INVALID);
    assert_int_equal(rmdir(link), 0);
}

static void current_never_leaves_the_root(void **state)
{
    static const char *const targets[] = {"/etc", "../x", "a/..", "..", ".", "a/", "current"};
    write_generation(*state, "a");
    const char *link = fixture_path(*state, PUBLISH_LINK_NAME);
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
        assert_int_equal(symlink(targets[i], link), 0);
        assert_int_equal(current_status(*state), STATUS_INVALID);
        assert_int_equal(unlink(link), 0);
    }
    assert_int_equal(symlink("gone", link), 0);
    assert_int_equal(current_status(*state), STATUS_NOT_FOUND);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink("/etc", fixture_path(*state, "step")), 0);
    assert_int_equal(symlink("step", link), 0);
    assert_int_equal(current_status(*state), STATUS_INVALID);
}

static void current_refuses_a_short_buffer(void **state)
{
    struct error err = {0};
    char path[PATH_MAX];
    write_generation(*state, "a");
    assert_int_equal(publish_generation(*state, "a", &err), STATUS_OK);
    size_t length = strlen(fixture_path(*state, "a"));
    assert_int_equal(publish_current(*state, path, length, &err), STATUS_INVALID);
    assert_int_equal(publish_current(*state, path, length + 1, &err), STATUS_OK);
}

struct nth_call {
    int calls, fail_at;
};

static int fail_nth(void *context, enum store_call call)
{
    (void)call;
    struct nth_call *nth = context;
    return ++nth->calls == nth->fail_at ? EIO : 0;
}

static void failing_call_leaves_old_or_new(void **state)
{
    struct error err = {0};
    write_generation(*state, "old");
    write_generation(*state, "new");
    assert_int_equal(publish_generation(*state, "old", &err), STATUS_OK);
    for (int n = 1; n <= 3; n++) { /* symlink, rename, fsync */
        struct nth_call nth = {0, n};
        const struct store_faults faults = {fail_nth, &nth};
        store_inject(&faults);
        enum status status = publish_generation(*state, "new", &err);
        store_inject(NULL);
        assert_int_equal(status, STATUS_IO);
        expect_current(*state, n < 3 ? "old" : "new");
        assert_int_equal(access(fixture_path(*state, "current.tmp"), F_OK), -1);
    }
}

static void publish_survives_a_killed_publisher(void **state)
{
    struct error err = {0};
    write_generation(*state, "a");
    assert_int_equal(symlink("gone", fixture_path(*state, "current.tmp")), 0);
    assert_int_equal(publish_generation(*state, "a", &err), STATUS_OK);
    expect_current(*state, "a");
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(publish_swaps_the_link),
        CASE(publish_refuses_bad_names),
        CASE(publish_refuses_what_does_not_open),
        CASE(publish_names_a_missing_root),
        CASE(publish_replaces_no_file_or_directory),
        CASE(current_never_leaves_the_root),
        CASE(current_refuses_a_short_buffer),
        CASE(failing_call_leaves_old_or_new),
        CASE(publish_survives_a_killed_publisher),
    };
    return cmocka_run_group_tests_name("publish", tests, NULL, NULL);
}
