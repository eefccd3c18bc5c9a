/*
 * test_root.c - a root directory: what is listed, going back, removing; and that nothing which
 * fails or dies on the way leaves it other than whole.
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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "layout/publish.h"
#include "layout/root.h"
#include "layout/store.h"
#include "tests/directory_fixture.h"
#include "tests/generation_fixture.h"

/* ---- helpers ---- */

/* A generation whose manifest is `age` seconds older than another's of age 0. */
static void write_aged(const char *root, const char *name, int age)
{
    const char *path = fixture_path(root, name);
    fixture_must_write(path, (uint64_t)age + 1);
    const struct timespec times[2] = {{.tv_sec = 1700000000 - age}, {.tv_sec = 1700000000 - age}};
    assert_int_equal(utimensat(AT_FDCWD, fixture_path(path, MANIFEST_FILE_NAME), times, 0), 0);
}

static void publish(const char *root, const char *name)
{
    struct error err = {0};
    fixture_must(publish_generation(root, name, &err), &err);
}

/* a, b, c published in this order, so c is live; x and y, younger and older, were not. */
static void write_root(const char *root)
{
    static const char *const names[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++) {
        write_aged(root, names[i], 10 + i);
        publish(root, names[i]);
    }
    write_aged(root, "x", 1);
    write_aged(root, "y", 50);
}

static void expect_live(const char *root, const char *name)
{
    char path[PATH_MAX];
    struct error err = {0};
    fixture_must(publish_current(root, path, sizeof(path), &err), &err);
    assert_string_equal(path, fixture_path(root, name));
    fixture_must(fixture_verify(path, &err), &err);
}

static struct root_entry entry_of(const char *root, const char *name)
{
    struct error err = {0};
    struct root_listing listing;
    struct root_entry entry = {.name = ""};
    fixture_must(root_list(root, &listing, &err), &err);
    for (size_t i = 0; i < listing.count; i++)
        if (strcmp(listing.entries[i].name, name) == 0)
            entry = listing.entries[i];
    root_listing_free(&listing);
    return entry;
}

static void expect_names(const struct root_listing *listing, const char *wanted)
{
    char names[1024] = "";
    size_t length = 0;
    for (size_t i = 0; i < listing->count; i++)
        length += (size_t)snprintf(names + length, sizeof(names) - length, "%s%s", i > 0 ? " " : "",
                                   listing->entries[i].name);
    assert_string_equal(names, wanted);
}

static void expect_list(const char *root, const char *wanted)
{
    struct error err = {0};
    struct root_listing listing;
    fixture_must(root_list(root, &listing, &err), &err);
    expect_names(&listing, wanted);
    root_listing_free(&listing);
}

static void expect_candidates(const char *root, const char *wanted)
{
    struct error err = {0};
    struct root_listing listing;
    fixture_must(root_candidates(root, &listing, &err), &err);
    expect_names(&listing, wanted);
    root_listing_free(&listing);
}

/* What an observer was told: "kept c: live;removed a;" */
struct told {
    char text[2048];
    size_t length;
};

static void take_event(void *context, const struct root_event *event)
{
    static const char *const actions[] = {
        [ROOT_SKIPPED] = "skipped", [ROOT_KEPT] = "kept", [ROOT_REMOVED] = "removed"};
    struct told *told = context;
    told->length += (size_t)snprintf(told->text + told->length, sizeof(told->text) - told->length,
                                     "%s %s%s%s;", actions[event->action], event->name,
                                     event->reason[0] != '\0' ? ": " : "", event->reason);
    assert_true(told->length < sizeof(told->text));
}

static enum status prune(const char *root, uint32_t keep, struct told *told, struct error *err)
{
    *told = (struct told){.length = 0};
    const struct root_prune_options options = {.keep = keep, .observer = {take_event, told}};
    return root_prune(root, &options, err);
}

static void must_prune(const char *root, uint32_t keep, const char *wanted)
{
    struct told told;
    struct error err = {0};
    fixture_must(prune(root, keep, &told, &err), &err);
    assert_string_equal(told.text, wanted);
}

static void roll_back(const char *root, const char *from, const char *to)
{
    struct error err = {0};
    struct root_move move;
    fixture_must(root_rollback(root, NULL, &move, &err), &err);
    assert_string_equal(move.from, from);
    assert_string_equal(move.to, to);
    expect_live(root, to);
}

/* ---- list ---- */

static void list_is_in_order_of_publishing_then_of_age(void **state)
{
    write_root(*state);
    expect_list(*state, "c b a x y");
    assert_true(entry_of(*state, "c").live);
    assert_true(entry_of(*state, "b").previous);
    assert_int_equal(entry_of(*state, "a").published, 3);
    assert_int_equal(entry_of(*state, "x").published, 0);
    assert_true(entry_of(*state, "a").published_at > 0);
    assert_int_equal(entry_of(*state, "x").modified_ns, INT64_C(1699999999000000000));
    assert_int_equal(unlink(fixture_path(*state, "history")), 0);
    expect_list(*state, "x a b c y");
    assert_false(entry_of(*state, "b").previous);
}

static void list_tells_the_state(void **state)
{
    write_root(*state);
    assert_int_equal(truncate(fixture_path(fixture_path(*state, "b"), "codes.bin"), 5), 0);
    assert_int_equal(unlink(fixture_path(fixture_path(*state, "x"), MANIFEST_FILE_NAME)), 0);
    struct root_entry entry = entry_of(*state, "b");
    assert_int_equal(entry.state, ROOT_DAMAGED);
    assert_non_null(strstr(entry.reason, "codes.bin"));
    assert_int_equal(entry_of(*state, "x").state, ROOT_INCOMPLETE);
    entry = entry_of(*state, "a");
    assert_int_equal(entry.state, ROOT_COMPLETE);
    assert_int_equal(entry.vector_count, FIXTURE_VECTORS);
    uint64_t bytes = fixture_length(fixture_path(fixture_path(*state, "a"), MANIFEST_FILE_NAME));
    for (int f = 0; f < GENERATION_FILE_COUNT; f++)
        bytes += fixture_length(fixture_path(fixture_path(*state, "a"), generation_file_names[f]));
    assert_int_equal(entry.bytes, bytes);
    /* The one that a rollback would take. */
    assert_true(entry.previous);
}

static void list_leaves_out_what_is_no_generation(void **state)
{
    write_root(*state);
    fixture_must_write(fixture_path(*state, "made"), 9);
    assert_int_equal(rename(fixture_path(*state, "made"), fixture_path(*state, ".removing-a")), 0);
    assert_int_equal(mkdir(fixture_path(*state, "empty"), 0700), 0);
    assert_int_equal(mkdir(fixture_path(*state, "x.work"), 0700), 0);
    fixture_touch(fixture_path(fixture_path(*state, "x.work"), "job"), 9);
    fixture_touch(fixture_path(*state, "file"), 9);
    assert_int_equal(symlink("a", fixture_path(*state, "link")), 0);
    expect_list(*state, "c b a x y");
}

static void list_tells_what_is_in_use(void **state)
{
    struct error err = {0};
    struct generation *generation;
    write_root(*state);
    fixture_must(generation_open(fixture_path(*state, "a"), &generation, &err), &err);
    assert_true(entry_of(*state, "a").in_use);
    assert_false(entry_of(*state, "b").in_use);
    generation_close(generation);
    assert_false(entry_of(*state, "a").in_use);
}

static void list_works_where_the_link_is_broken(void **state)
{
    write_root(*state);
    const char *link = fixture_path(*state, PUBLISH_LINK_NAME);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink("/etc", link), 0);
    expect_list(*state, "c b a x y");
    assert_false(entry_of(*state, "c").live);
    struct error err = {0};
    struct root_listing listing;
    assert_int_equal(root_list(fixture_path(*state, "none"), &listing, &err), STATUS_NOT_FOUND);
}

static void candidates_are_those_before_the_live_one_first(void **state)
{
    write_root(*state);
    expect_candidates(*state, "b a x y");
    roll_back(*state, "c", "b");
    expect_candidates(*state, "a c x y");
    assert_int_equal(unlink(fixture_path(fixture_path(*state, "a"), "codes.bin")), 0);
    assert_int_equal(unlink(fixture_path(fixture_path(*state, "x"), MANIFEST_FILE_NAME)), 0);
    expect_candidates(*state, "c y");
    assert_int_equal(unlink(fixture_path(*state, PUBLISH_LINK_NAME)), 0);
    expect_candidates(*state, "c b y");
}

/* ---- rollback ---- */

static void rollback_goes_one_back_each_time(void **state)
{
    struct error err = {0};
    struct root_move move;
    write_root(*state);
    roll_back(*state, "c", "b");
    roll_back(*state, "b", "a");
    assert_int_equal(root_rollback(*state, NULL, &move, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "nothing to go back to"));
    expect_live(*state, "a");
    expect_list(*state, "c b a x y");
    assert_int_equal(unlink(fixture_path(*state, PUBLISH_LINK_NAME)), 0);
    assert_int_equal(root_rollback(*state, NULL, &move, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "nothing is published"));
}

static void rollback_passes_over_what_does_not_open(void **state)
{
    struct error err = {0};
    struct root_move move;
    struct told told = {.length = 0};
    const struct root_observer observer = {take_event, &told};
    write_root(*state);
    assert_int_equal(unlink(fixture_path(fixture_path(*state, "b"), "codes.bin")), 0);
    fixture_must(root_rollback(*state, &observer, &move, &err), &err);
    expect_live(*state, "a");
    assert_true(strncmp(told.text, "skipped b: ", 11) == 0);
    assert_non_null(strstr(told.text, "codes.bin"));
}

/* Another generation that took the name of one that was published was never published. */
static void rollback_knows_what_was_published(void **state)
{
    struct error err = {0};
    struct root_move move;
    write_root(*state);
    assert_int_equal(rename(fixture_path(*state, "b"), fixture_path(*state, "old")), 0);
    fixture_must_write(fixture_path(*state, "b"), 77);
    fixture_must(root_rollback(*state, NULL, &move, &err), &err);
    expect_live(*state, "a");
}

static void rollback_leaves_a_live_one_that_is_gone(void **state)
{
    write_root(*state);
    assert_int_equal(rename(fixture_path(*state, "c"), fixture_path(*state, "gone")), 0);
    roll_back(*state, "c", "b");
    /* Made live by hand: the last that was published is before it. */
    const char *link = fixture_path(*state, PUBLISH_LINK_NAME);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink("x", link), 0);
    roll_back(*state, "x", "b");
}

/* ---- prune ---- */

static void prune_keeps_the_newest_and_the_live_one(void **state)
{
    write_root(*state);
    roll_back(*state, "c", "b");
    roll_back(*state, "b", "a");
    must_prune(*state, 2, "kept c: among the newest;kept a: live;removed b;removed x;removed y;");
    expect_list(*state, "c a");
    expect_live(*state, "a");
    must_prune(*state, 1, "kept a: live;removed c;");
    must_prune(*state, 1, "kept a: live;");
    /* a, current, history, .lock */
    assert_int_equal(directory_fixture_entries(*state), 4);
}

static void prune_keeps_what_is_in_use(void **state)
{
    struct error err = {0};
    struct generation *generation;
    write_root(*state);
    fixture_must(generation_open(fixture_path(*state, "b"), &generation, &err), &err);
    must_prune(*state, 1, "kept c: live;kept b: in use;removed a;removed x;removed y;");
    fixture_must(generation_verify(generation, NULL, &err), &err);
    generation_close(generation);
    must_prune(*state, 1, "kept c: live;removed b;");
}

static void prune_touches_nothing_else(void **state)
{
    write_root(*state);
    const char *outside = fixture_path(*state, "file");
    fixture_touch(outside, 9);
    assert_int_equal(truncate(fixture_path(fixture_path(*state, "b"), "codes.bin"), 5), 0);
    assert_int_equal(unlink(fixture_path(fixture_path(*state, "x"), MANIFEST_FILE_NAME)), 0);
    assert_int_equal(mkdir(fixture_path(fixture_path(*state, "a"), "sub"), 0700), 0);
    assert_int_equal(symlink(outside, fixture_path(fixture_path(*state, "y"), "out")), 0);
    must_prune(*state, 1,
               "kept c: live;kept b: damaged; not touched;"
               "kept a: holds sub, which is not a regular file;"
               "kept y: holds out, which is not a regular file;"
               "kept x: not complete; not touched;");
    expect_list(*state, "c b a y x");
    assert_int_equal(rmdir(fixture_path(fixture_path(*state, "a"), "sub")), 0);
    assert_int_equal(unlink(fixture_path(fixture_path(*state, "y"), "out")), 0);
    fixture_touch(fixture_path(fixture_path(*state, "a"), GENERATION_REPORT_NAME), 9);
    must_prune(*state, 1,
               "kept c: live;kept b: damaged; not touched;kept x: not complete; not touched;"
               "removed a;removed y;");
    assert_true(fixture_exists(outside));
}

static void prune_keeps_the_asked_number_whatever_is_damaged(void **state)
{
    write_root(*state);
    assert_int_equal(unlink(fixture_path(fixture_path(*state, "b"), "codes.bin")), 0);
    must_prune(*state, 3,
               "kept c: live;kept b: damaged; not touched;kept a: among the newest;"
               "kept x: among the newest;removed y;");
}

static void dry_prune_changes_nothing(void **state)
{
    struct told told = {.length = 0};
    struct error err = {0};
    const struct root_prune_options options = {
        .keep = 1, .dry_run = true, .observer = {take_event, &told}};
    write_root(*state);
    fixture_must_write(fixture_path(*state, "made"), 9);
    assert_int_equal(rename(fixture_path(*state, "made"), fixture_path(*state, ".removing-z")), 0);
    int entries = directory_fixture_entries(*state);
    fixture_must(root_prune(*state, &options, &err), &err);
    assert_string_equal(told.text, "removed .removing-z: left by a prune that did not finish;"
                                   "kept c: live;removed b;removed a;removed x;removed y;");
    expect_list(*state, "c b a x y");
    assert_int_equal(directory_fixture_entries(*state), entries);
}

static void prune_finishes_what_another_left(void **state)
{
    write_root(*state);
    const char *left = fixture_path(*state, ".removing-b");
    fixture_must_write(fixture_path(*state, "made"), 9);
    assert_int_equal(rename(fixture_path(*state, "made"), left), 0);
    assert_int_equal(unlink(fixture_path(left, MANIFEST_FILE_NAME)), 0);
    /* b is to go by the name that is taken by what was left. */
    must_prune(*state, 1,
               "removed .removing-b: left by a prune that did not finish;"
               "kept c: live;removed b;removed a;removed x;removed y;");
    assert_int_equal(directory_fixture_entries(*state), 4);
    assert_int_equal(mkdir(left, 0700), 0);
    assert_int_equal(mkdir(fixture_path(left, "sub"), 0700), 0);
    must_prune(*state, 1, "kept .removing-b: holds sub, which is not a regular file;kept c: live;");
}

static void prune_refuses_a_link_to_elsewhere(void **state)
{
    struct told told;
    struct error err = {0};
    write_root(*state);
    const char *link = fixture_path(*state, PUBLISH_LINK_NAME);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink("../c", link), 0);
    assert_int_equal(prune(*state, 1, &told, &err), STATUS_INVALID);
    expect_list(*state, "c b a x y");
    assert_int_equal(unlink(link), 0);
    must_prune(*state, 2,
               "kept c: among the newest;kept b: among the newest;removed a;removed x;"
               "removed y;");
}

static void prune_takes_names_of_any_length(void **state)
{
    char name[NAME_MAX + 1];
    memset(name, 'n', NAME_MAX);
    name[NAME_MAX] = '\0';
    write_root(*state);
    write_aged(*state, name, 70);
    struct told told;
    struct error err = {0};
    fixture_must(prune(*state, 5, &told, &err), &err);
    expect_list(*state, "c b a x y");
    assert_int_equal(directory_fixture_entries(*state), 8);
}

/* ---- calls that fail, and processes that die ---- */

enum step { STEP_PUBLISH, STEP_ROLLBACK, STEP_PRUNE, STEPS };

static enum status step_run(const char *root, enum step step, struct error *err)
{
    struct root_move move;
    struct told told;
    if (step == STEP_PUBLISH)
        return publish_generation(root, "x", err);
    if (step == STEP_ROLLBACK)
        return root_rollback(root, NULL, &move, err);
    return prune(root, 2, &told, err);
}

/* Whatever became of the step: the live one is the old or the new one, each that is listed is
 * whole, and the same step done again comes to its end. */
static void expect_whole(const char *root, enum step step)
{
    static const char *const lives[STEPS] = {"x", "b", "c"};
    static const char *const lists[STEPS] = {"x c b a y", "c b a x y", "c b"};
    struct error err = {0};
    struct root_listing listing;
    char path[PATH_MAX];
    fixture_must(publish_current(root, path, sizeof(path), &err), &err);
    const char *live = strrchr(path, '/') + 1;
    assert_true(strcmp(live, "c") == 0 || strcmp(live, lives[step]) == 0);
    fixture_must(root_list(root, &listing, &err), &err);
    for (size_t i = 0; i < listing.count; i++) {
        assert_int_equal(listing.entries[i].state, ROOT_COMPLETE);
        fixture_must(fixture_verify(fixture_path(root, listing.entries[i].name), &err), &err);
    }
    assert_true(step == STEP_PRUNE || listing.count == 5);
    root_listing_free(&listing);
    /* A rollback that is done would be done twice. */
    if (step != STEP_ROLLBACK || strcmp(live, "c") == 0)
        fixture_must(step_run(root, step, &err), &err);
    expect_live(root, lives[step]);
    expect_list(root, lists[step]);
    /* The lock, the history and the link, and no temporary. */
    assert_int_equal(directory_fixture_entries(root), (step == STEP_PRUNE ? 2 : 5) + 3);
}

/* Another root like `root`, by hard links: writing generations anew would flush them all to disk.
 */
static const char *copy_root(const char *root, const char *copy)
{
    static const char *const names[] = {"a", "b", "c", "x", "y"};
    assert_int_equal(mkdir(copy, 0700), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        const char *from = fixture_path(root, names[i]), *to = fixture_path(copy, names[i]);
        assert_int_equal(mkdir(to, 0700), 0);
        for (int f = 0; f <= GENERATION_FILE_COUNT; f++) {
            const char *file =
                f < GENERATION_FILE_COUNT ? generation_file_names[f] : MANIFEST_FILE_NAME;
            assert_int_equal(link(fixture_path(from, file), fixture_path(to, file)), 0);
        }
    }
    assert_int_equal(link(fixture_path(root, "history"), fixture_path(copy, "history")), 0);
    assert_int_equal(symlink("c", fixture_path(copy, PUBLISH_LINK_NAME)), 0);
    return copy;
}

static void failing_call_leaves_a_whole_root(void **state)
{
    const char *model = fixture_path(*state, "model");
    const char *copy = fixture_path(*state, "copy");
    assert_int_equal(mkdir(model, 0700), 0);
    write_root(model);
    for (enum step step = 0; step < STEPS; step++) {
        enum status status = STATUS_IO;
        for (int n = 1; status != STATUS_OK; n++) {
            struct error err = {0};
            const char *root = copy_root(model, copy);
            struct fixture_nth_call nth = {.fail_at = n, .outcome = EIO};
            const struct store_faults faults = {fixture_fail_nth, &nth};
            store_inject(&faults);
            status = step_run(root, step, &err);
            store_inject(NULL);
            assert_true(status == STATUS_OK || (status == STATUS_IO && strlen(err.text) > 0));
            assert_true((nth.calls < n) == (status == STATUS_OK));
            expect_whole(root, step);
            assert_int_equal(directory_fixture_remove(root), 0);
            assert_true(n < 200);
        }
    }
}

static int die_at_nth(void *context, enum store_call call)
{
    (void)call;
    struct fixture_nth_call *nth = context;
    if (++nth->calls == nth->fail_at)
        _exit(1);
    return 0;
}

static void death_at_any_call_leaves_a_whole_root(void **state)
{
    const char *model = fixture_path(*state, "model");
    const char *copy = fixture_path(*state, "copy");
    assert_int_equal(mkdir(model, 0700), 0);
    write_root(model);
    for (enum step step = 0; step < STEPS; step++) {
        int exit_status = 1;
        for (int n = 1; exit_status != 0; n++) {
            const char *root = copy_root(model, copy);
            pid_t child = fork();
            assert_true(child >= 0);
            if (child == 0) {
                struct error err = {0};
                struct fixture_nth_call nth = {.fail_at = n};
                const struct store_faults faults = {die_at_nth, &nth};
                store_inject(&faults);
                _exit(step_run(root, step, &err) == STATUS_OK ? 0 : 2);
            }
            int wait_status;
            assert_int_equal(waitpid(child, &wait_status, 0), child);
            assert_true(WIFEXITED(wait_status));
            exit_status = WEXITSTATUS(wait_status);
            assert_int_not_equal(exit_status, 2);
            expect_whole(root, step);
            assert_int_equal(directory_fixture_remove(root), 0);
            assert_true(n < 200);
        }
    }
}

/* What is looked for is that a file goes only from a directory under a name that nothing opens, and
 * that has that name on disk. */
struct watch {
    const char *root;
    enum store_call last; /* but for removals */
};

static int watch_removals(void *context, enum store_call call)
{
    struct watch *watch = context;
    if (call != STORE_CALL_REMOVE) {
        watch->last = call;
        return 0;
    }
    struct error err = {0};
    struct root_listing listing;
    fixture_must(root_candidates(watch->root, &listing, &err), &err);
    assert_int_equal(listing.count, 1);
    root_listing_free(&listing);
    assert_int_equal(watch->last, STORE_CALL_SYNC);
    return 0;
}

static void prune_renames_all_before_it_removes_any(void **state)
{
    write_root(*state);
    struct watch watch = {.root = *state};
    const struct store_faults faults = {watch_removals, &watch};
    store_inject(&faults);
    must_prune(*state, 2, "kept c: live;kept b: among the newest;removed a;removed x;removed y;");
    store_inject(NULL);
}

struct lock_watch {
    const char *path; /* of the lock */
    int changes;
};

static int watch_lock(void *context, enum store_call call)
{
    struct lock_watch *watch = context;
    if (call != STORE_CALL_RENAME && call != STORE_CALL_SYMLINK)
        return 0;
    int fd = open(watch->path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
    assert_int_equal(errno, EWOULDBLOCK);
    close(fd);
    watch->changes++;
    return 0;
}

static void names_change_under_the_lock(void **state)
{
    struct error err = {0};
    write_root(*state);
    for (enum step step = 0; step < STEPS; step++) {
        struct lock_watch watch = {.path = fixture_path(*state, ".lock")};
        const struct store_faults faults = {watch_lock, &watch};
        store_inject(&faults);
        fixture_must(step_run(*state, step, &err), &err);
        store_inject(NULL);
        assert_true(watch.changes > 0);
    }
}

/* An opener that came between the rename and the first removal keeps the files. */
struct opener {
    const char *path;
    struct generation *generation;
};

static int open_at_sync(void *context, enum store_call call)
{
    struct opener *opener = context;
    struct error err = {0};
    if (call == STORE_CALL_SYNC && opener->generation == NULL)
        fixture_must(generation_open(opener->path, &opener->generation, &err), &err);
    return 0;
}

static void prune_leaves_what_was_opened_meanwhile(void **state)
{
    struct error err = {0};
    write_root(*state);
    must_prune(*state, 4,
               "kept c: live;kept b: among the newest;kept a: among the newest;"
               "kept x: among the newest;removed y;");
    struct opener opener = {.path = fixture_path(*state, ".removing-x")};
    const struct store_faults faults = {open_at_sync, &opener};
    store_inject(&faults);
    must_prune(*state, 3,
               "kept c: live;kept b: among the newest;kept a: among the newest;"
               "kept .removing-x: in use;");
    store_inject(NULL);
    fixture_must(generation_verify(opener.generation, NULL, &err), &err);
    generation_close(opener.generation);
    must_prune(*state, 3,
               "removed .removing-x: left by a prune that did not finish;"
               "kept c: live;kept b: among the newest;kept a: among the newest;");
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(list_is_in_order_of_publishing_then_of_age),
        CASE(list_tells_the_state),
        CASE(list_leaves_out_what_is_no_generation),
        CASE(list_tells_what_is_in_use),
        CASE(list_works_where_the_link_is_broken),
        CASE(candidates_are_those_before_the_live_one_first),
        CASE(rollback_goes_one_back_each_time),
        CASE(rollback_passes_over_what_does_not_open),
        CASE(rollback_knows_what_was_published),
        CASE(rollback_leaves_a_live_one_that_is_gone),
        CASE(prune_keeps_the_newest_and_the_live_one),
        CASE(prune_keeps_what_is_in_use),
        CASE(prune_touches_nothing_else),
        CASE(prune_keeps_the_asked_number_whatever_is_damaged),
        CASE(dry_prune_changes_nothing),
        CASE(prune_finishes_what_another_left),
        CASE(prune_refuses_a_link_to_elsewhere),
        CASE(prune_takes_names_of_any_length),
        CASE(failing_call_leaves_a_whole_root),
        CASE(death_at_any_call_leaves_a_whole_root),
        CASE(prune_renames_all_before_it_removes_any),
        CASE(names_change_under_the_lock),
        CASE(prune_leaves_what_was_opened_meanwhile),
    };
    return cmocka_run_group_tests_name("root", tests, NULL, NULL);
}
