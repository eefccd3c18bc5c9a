/*
 * test_publish.c - ROOT/current: swapped whole or not at all, and never pointing elsewhere; the
 * history that is written with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "layout/publish.h"
#include "layout/root.h"
#include "layout/store.h"
#include "tests/directory_fixture.h"
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

static char *current_name(const char *root)
{
    static char target[NAME_MAX + 1];
    ssize_t length = readlink(fixture_path(root, PUBLISH_LINK_NAME), target, sizeof(target) - 1);
    assert_true(length > 0);
    target[length] = '\0';
    return target;
}

/* The names in the history as they are written, with a blank between. */
static void expect_history(const char *root, const char *names)
{
    size_t bytes, length = 0;
    uint8_t *text = fixture_read(fixture_path(root, "history"), &bytes);
    char *found = calloc(bytes + 1, 1);
    assert_non_null(found);
    bool name = true;
    for (size_t i = 0; i < bytes; i++) {
        name = name && text[i] != ' ';
        if (name || text[i] == '\n')
            found[length++] = text[i] == '\n' ? ' ' : (char)text[i];
        name = name || text[i] == '\n';
    }
    assert_true(length > 0);
    found[length - 1] = '\0';
    assert_string_equal(found, names);
    free(found);
    free(text);
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
    static const char *const names[] = {
        "",        ".",           "..",    "a/b",     "/etc",        "a/",         "../a",
        "current", "current.tmp", ".lock", "history", "history.tmp", ".removing-a"};
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

/* ---- failing calls ---- */

static void failing_call_leaves_old_or_new(void **state)
{
    struct error err = {0};
    write_generation(*state, "old");
    write_generation(*state, "new");
    bool swapped = false;
    int n = 0;
    for (enum status status = STATUS_IO; status != STATUS_OK;) {
        fixture_must(publish_generation(*state, "old", &err), &err);
        struct fixture_nth_call nth = {.fail_at = ++n, .outcome = EIO};
        const struct store_faults faults = {fixture_fail_nth, &nth};
        store_inject(&faults);
        status = publish_generation(*state, "new", &err);
        store_inject(NULL);
        assert_true(status == STATUS_OK || status == STATUS_IO);
        /* Old up to some call, new from there on. */
        swapped = swapped || strcmp(current_name(*state), "new") == 0;
        expect_current(*state, swapped ? "new" : "old");
        assert_false(fixture_exists(fixture_path(*state, "current.tmp")));
        assert_false(fixture_exists(fixture_path(*state, "history.tmp")));
        fixture_must(fixture_verify(fixture_path(*state, "old"), &err), &err);
        fixture_must(fixture_verify(fixture_path(*state, "new"), &err), &err);
        fixture_must(publish_generation(*state, "new", &err), &err);
        expect_current(*state, "new");
        assert_true(n < 100);
    }
    assert_true(n > 8); /* lock, history, link */
}

static int fail_symlink(void *context, enum store_call call)
{
    (void)context;
    return call == STORE_CALL_SYMLINK ? EIO : 0;
}

/* A publisher that comes no further leaves a history with which everything goes on. */
static void history_is_written_before_the_link(void **state)
{
    struct error err = {0};
    struct root_move move;
    static const struct store_faults faults = {fail_symlink, NULL};
    write_generation(*state, "a");
    write_generation(*state, "b");
    write_generation(*state, "c");
    write_generation(*state, "d");
    fixture_must(publish_generation(*state, "a", &err), &err);
    fixture_must(publish_generation(*state, "b", &err), &err);
    store_inject(&faults);
    assert_int_equal(publish_generation(*state, "c", &err), STATUS_IO);
    store_inject(NULL);
    expect_current(*state, "b");
    expect_history(*state, "c b a");
    fixture_must(publish_generation(*state, "d", &err), &err);
    expect_history(*state, "d b a c");
    store_inject(&faults);
    assert_int_equal(publish_generation(*state, "c", &err), STATUS_IO);
    store_inject(NULL);
    fixture_must(root_rollback(*state, NULL, &move, &err), &err);
    expect_current(*state, "b");
}

/* ---- the history ---- */

static void history_is_the_way_back(void **state)
{
    struct error err = {0};
    struct root_move move;
    static const char *const names[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        write_generation(*state, names[i]);
    fixture_must(publish_generation(*state, "a", &err), &err);
    fixture_must(publish_generation(*state, "b", &err), &err);
    fixture_must(publish_generation(*state, "c", &err), &err);
    expect_history(*state, "c b a");
    fixture_must(publish_generation(*state, "c", &err), &err);
    expect_history(*state, "c b a");
    fixture_must(root_rollback(*state, NULL, &move, &err), &err);
    expect_history(*state, "c b a");
    /* What was gone back from is not what to go back to. */
    fixture_must(publish_generation(*state, "d", &err), &err);
    expect_history(*state, "d b a c");
    fixture_must(publish_generation(*state, "a", &err), &err);
    expect_history(*state, "a d b c");
}

static void history_takes_in_what_was_live_without_one(void **state)
{
    struct error err = {0};
    write_generation(*state, "a");
    write_generation(*state, "b");
    assert_int_equal(symlink("a", fixture_path(*state, PUBLISH_LINK_NAME)), 0);
    fixture_must(publish_generation(*state, "b", &err), &err);
    expect_history(*state, "b a");
}

static void history_that_is_none_is_replaced(void **state)
{
    static const char garbage[] = "\n\n../x\ncurrent\na%zz\n.removing-a\n b  id=xyz at=-1 "
                                  "recall=7 later=1\nb\nc id=1\n";
    struct error err = {0};
    const char *path = fixture_path(*state, "history");
    write_generation(*state, "a");
    directory_fixture_write(path, garbage, sizeof(garbage) - 1);
    fixture_must(publish_generation(*state, "a", &err), &err);
    expect_history(*state, "a b c");
    directory_fixture_write(path, "b\0c\n", 4);
    fixture_must(publish_generation(*state, "a", &err), &err);
    expect_history(*state, "a");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    fixture_must(publish_generation(*state, "a", &err), &err);
    expect_history(*state, "a");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    write_generation(*state, "b");
    assert_int_equal(publish_generation(*state, "b", &err), STATUS_IO);
    expect_current(*state, "a");
}

static void history_is_bounded(void **state)
{
    struct error err = {0};
    const char *path = fixture_path(*state, "history");
    write_generation(*state, "a");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 1500; i++)
        fprintf(file, "gen-%d\n", i);
    fclose(file);
    fixture_must(publish_generation(*state, "a", &err), &err);
    size_t bytes, lines = 0;
    uint8_t *text = fixture_read(path, &bytes);
    for (size_t i = 0; i < bytes; i++)
        lines += text[i] == '\n';
    free(text);
    assert_int_equal(lines, 1000);
}

static void history_takes_any_name(void **state)
{
    struct error err = {0};
    struct root_move move;
    static const char odd[] = "a b%\n\t\xc3\xa4";
    write_generation(*state, odd);
    write_generation(*state, "b");
    fixture_must(publish_generation(*state, odd, &err), &err);
    fixture_must(publish_generation(*state, "b", &err), &err);
    expect_history(*state, "b a%20b%25%0a%09\xc3\xa4");
    fixture_must(root_rollback(*state, NULL, &move, &err), &err);
    expect_current(*state, odd);
}

static double listed_recall(const char *root, const char *name)
{
    struct error err = {0};
    struct root_listing listing;
    double recall = -2;
    fixture_must(root_list(root, &listing, &err), &err);
    for (size_t i = 0; i < listing.count; i++)
        if (strcmp(listing.entries[i].name, name) == 0)
            recall = listing.entries[i].recall;
    root_listing_free(&listing);
    return recall;
}

static void recall_stays_with_the_generation(void **state)
{
    struct error err = {0};
    struct manifest manifest;
    write_generation(*state, "a");
    fixture_manifest(1, &manifest);
    struct publish_facts facts = {manifest_generation_id(&manifest), 0.9534};
    fixture_must(publish_generation_checked(*state, "a", &facts, &err), &err);
    fixture_must(publish_generation(*state, "a", &err), &err);
    assert_true(listed_recall(*state, "a") == 0.9534);
    /* Another generation under its name was not measured. */
    assert_int_equal(rename(fixture_path(*state, "a"), fixture_path(*state, "b")), 0);
    fixture_must_write(fixture_path(*state, "a"), 2);
    assert_true(listed_recall(*state, "a") == ROOT_RECALL_UNKNOWN);
    fixture_must(publish_generation(*state, "a", &err), &err);
    assert_true(listed_recall(*state, "a") == ROOT_RECALL_UNKNOWN);
}

static void publish_refuses_another_than_was_checked(void **state)
{
    struct error err = {0};
    struct manifest manifest;
    write_generation(*state, "a");
    fixture_manifest(2, &manifest);
    const struct publish_facts facts = {manifest_generation_id(&manifest), ROOT_RECALL_UNKNOWN};
    assert_int_equal(publish_generation_checked(*state, "a", &facts, &err), STATUS_INVALID);
    assert_int_equal(current_status(*state), STATUS_NOT_FOUND);
}

static void publish_refuses_what_is_being_removed(void **state)
{
    struct error err = {0};
    write_generation(*state, "a");
    int fd = open(fixture_path(*state, "a"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(publish_generation(*state, "a", &err), STATUS_BUSY);
    assert_non_null(strstr(err.text, "being removed"));
    close(fd);
    fixture_must(publish_generation(*state, "a", &err), &err);
    assert_int_equal(publish_generation(*state, ".removing-a", &err), STATUS_INVALID);
}

static void publish_survives_a_killed_publisher(void **state)
{
    struct error err = {0};
    write_generation(*state, "a");
    assert_int_equal(symlink("gone", fixture_path(*state, "current.tmp")), 0);
    fixture_touch(fixture_path(*state, "history.tmp"), 7);
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
        CASE(history_is_written_before_the_link),
        CASE(history_is_the_way_back),
        CASE(history_takes_in_what_was_live_without_one),
        CASE(history_that_is_none_is_replaced),
        CASE(history_is_bounded),
        CASE(history_takes_any_name),
        CASE(recall_stays_with_the_generation),
        CASE(publish_refuses_another_than_was_checked),
        CASE(publish_refuses_what_is_being_removed),
        CASE(publish_survives_a_killed_publisher),
    };
    return cmocka_run_group_tests_name("publish", tests, NULL, NULL);
}
