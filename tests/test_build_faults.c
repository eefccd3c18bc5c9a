/*
 * test_build_faults.c - a build on a disk that fails: whichever call it is, what is left is nothing
 * or can be completed to the same bytes, and never looks like a generation. Pieces that were
 * damaged between two runs are found and made anew. An input that changes under the build is found.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/build.h"
#include "layout/store.h"
#include "tests/build_fixture.h"

enum {
    SHARDS = 2,
    ENDS = 12,   /* calls at either end of a build that are all tried */
    STRIDE = 17, /* of those between */
    FILES_MAX = 64,
};

static struct build_params params_small(const struct build_fixture *f)
{
    struct build_params params = build_fixture_params(f);
    params.degree = 8;
    params.build_list = 12;
    params.code_bytes = 2;
    params.shards = SHARDS;
    params.threads = 1; /* so that the nth call is the same one every time */
    return params;
}

/* An input, and the digest of its generation. */
static struct digest128 prepare(struct build_fixture *f, struct build_params *params)
{
    free(build_fixture_input(f, ELEMENT_U8, 300, 8));
    build_fixture_some_attributes(f, 300);
    *params = params_small(f);
    params->attributes = f->attributes;
    return build_fixture_once(f, params, NULL);
}

static const char *manifest_path(const struct build_fixture *f)
{
    return fixture_path(f->output, MANIFEST_FILE_NAME);
}

/* ---- failing calls ---- */

enum fault_extent {
    FAULT_ONCE,
    FAULT_FROM_THEN_ON,    /* the disk is full, and stays so */
    FAULT_OTHER_TRANSFERS, /* every second read or write */
};

struct fault {
    int calls;
    int fail_at;
    int outcome; /* errno or STORE_FAULT_SHORT */
    enum fault_extent extent;
    bool renamed; /* the manifest had its name when the call failed */
    const char *manifest;
};

static bool takes_space(enum store_call call)
{
    return call == STORE_CALL_CREATE || call == STORE_CALL_MKDIR || call == STORE_CALL_WRITE;
}

static int fault_before_call(void *context, enum store_call call)
{
    struct fault *fault = context;
    const bool transfer = call == STORE_CALL_WRITE || call == STORE_CALL_READ;
    if (fault->extent == FAULT_OTHER_TRANSFERS) {
        fault->calls += transfer;
        return transfer && fault->calls % 2 == 0 ? fault->outcome : 0;
    }
    fault->calls++;
    const bool fails = fault->extent == FAULT_ONCE
                           ? fault->calls == fault->fail_at
                           : fault->calls >= fault->fail_at && takes_space(call);
    if (!fails)
        return 0;
    fault->renamed = fault->renamed || fixture_exists(fault->manifest);
    return fault->outcome;
}

static enum status build_with_fault(const struct build_fixture *f,
                                    const struct build_params *params, struct fault *fault,
                                    struct build_summary *summary, struct error *err)
{
    const struct store_faults faults = {fault_before_call, fault};
    fault->manifest = manifest_path(f);
    store_inject(&faults);
    enum status status = build_run(params, summary, err);
    store_inject(NULL);
    return status;
}

/* Calls of an undisturbed build. */
static int calls_count(const struct build_fixture *f, const struct build_params *params)
{
    struct fault none = {.fail_at = -1};
    struct error err = {0};
    fixture_must(build_with_fault(f, params, &none, NULL, &err), &err);
    build_fixture_clear(f);
    return none.calls;
}

/* The call after `n` that is tried, of `total`. */
static int call_next(int n, int total)
{
    return n < ENDS || n >= total - ENDS ? n + 1
                                         : (n + STRIDE < total - ENDS ? n + STRIDE : total - ENDS);
}

static void expect_left(const struct build_fixture *f, const struct fault *fault,
                        const struct build_summary *summary, const struct error *err)
{
    build_fixture_expect_line(err);
    assert_non_null(strstr(err->text, strerror(fault->outcome)));
    assert_false(summary->finished);
    assert_int_equal(fixture_exists(f->work), summary->kept);
    assert_int_equal(fixture_exists(f->output), summary->kept);
    /* Only where nothing but its own fsync failed may it stand: then it is whole. */
    assert_int_equal(fixture_exists(fault->manifest), fault->renamed);
    if (fault->renamed)
        (void)build_fixture_digest(f->output);
}

static void try_calls(struct build_fixture *f, int outcome, enum fault_extent extent)
{
    struct build_params params;
    const struct digest128 wanted = prepare(f, &params);
    const int total = calls_count(f, &params);
    int kept = 0;
    assert_true(total > 150);
    for (int n = 1; n <= total; n = call_next(n, total)) {
        struct fault fault = {.fail_at = n, .outcome = outcome, .extent = extent};
        struct build_summary summary;
        struct error err = {0};
        enum status status = build_with_fault(f, &params, &fault, &summary, &err);
        /* The last calls need no space. */
        if (extent == FAULT_ONCE || n < total - ENDS)
            assert_int_equal(status, STATUS_IO);
        if (status == STATUS_OK) {
            build_fixture_expect_same(build_fixture_digest(f->output), wanted);
            build_fixture_clear(f);
            continue;
        }
        expect_left(f, &fault, &summary, &err);
        kept += summary.kept;
        build_fixture_expect_same(build_fixture_once(f, &params, NULL), wanted);
    }
    assert_true(kept > 10);
}

static void any_call_may_fail_once(void **state)
{
    try_calls(*state, EIO, FAULT_ONCE);
}

static void disk_may_be_full_from_any_call_on(void **state)
{
    try_calls(*state, ENOSPC, FAULT_FROM_THEN_ON);
}

static void build_that_fails_again_and_again_is_completed(void **state)
{
    struct build_fixture *f = *state;
    struct build_params params;
    const struct digest128 wanted = prepare(f, &params);
    int failures = 0;
    for (int n = 1;; n++, failures++) {
        struct fault fault = {.fail_at = n, .outcome = EIO};
        struct build_summary summary;
        struct error err = {0};
        if (build_with_fault(f, &params, &fault, &summary, &err) == STATUS_OK)
            break;
        expect_left(f, &fault, &summary, &err);
        assert_true(n < 300);
    }
    assert_true(failures > 20);
    assert_false(fixture_exists(f->work));
    build_fixture_expect_same(build_fixture_digest(f->output), wanted);
}

/* Each moves but a part of its bytes, and the rest in the next call. */
static void short_reads_and_writes_are_carried_on(void **state)
{
    struct build_fixture *f = *state;
    struct build_params params;
    struct error err = {0};
    const struct digest128 wanted = prepare(f, &params);
    struct fault fault = {.outcome = STORE_FAULT_SHORT, .extent = FAULT_OTHER_TRANSFERS};
    fixture_must(build_with_fault(f, &params, &fault, NULL, &err), &err);
    assert_true(fault.calls > 40);
    build_fixture_expect_same(build_fixture_digest(f->output), wanted);
}

/* ---- damage ---- */

/* Names of the files in the work directory that belong to finished pieces, records too. */
static int names_list(const struct build_fixture *f, char names[FILES_MAX][64])
{
    int count = 0;
    DIR *directory = opendir(f->work);
    assert_non_null(directory);
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (strchr(entry->d_name, '.') == NULL || entry->d_name[0] == '.')
            continue; /* job, lock */
        assert_true(count < FILES_MAX);
        snprintf(names[count++], sizeof(names[0]), "%.63s", entry->d_name);
    }
    closedir(directory);
    return count;
}

static unsigned stage_of(const char *name)
{
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        const char *word = build_stage_name((enum build_stage)stage);
        const char end = strncmp(name, word, strlen(word)) == 0 ? name[strlen(word)] : 'x';
        if (end == '.' || end == '-')
            return stage;
    }
    fail_msg("%s: of no stage", name);
    return 0;
}

static bool is_record(const char *name)
{
    const char *part = strrchr(name, '.');
    return strcmp(part, ".done") == 0;
}

/* Takes a complete build back to where the stage of file `name` has just been finished. */
static void rewind_to(const struct build_fixture *f, const char *name, char names[FILES_MAX][64],
                      int count)
{
    assert_int_equal(unlink(manifest_path(f)), 0);
    for (int i = 0; i < count; i++)
        if (is_record(names[i]) && stage_of(names[i]) > stage_of(name))
            assert_int_equal(unlink(fixture_path(f->work, names[i])), 0);
}

/* Completes a build that keeps its work, after one run that finds the damage if `found`. */
static void complete(const struct build_fixture *f, const struct build_params *params,
                     const char *name, bool found, struct digest128 wanted)
{
    struct build_summary summary;
    struct error err = {0};
    enum status status = build_run(params, &summary, &err);
    if (found != (status == STATUS_CORRUPT))
        print_error("%s: %s\n", name, err.text);
    if (found) {
        assert_int_equal(status, STATUS_CORRUPT);
        assert_non_null(strstr(err.text, name));
        build_fixture_expect_line(&err);
        assert_true(summary.kept);
        assert_false(fixture_exists(manifest_path(f)));
        status = build_run(params, &summary, &err);
    }
    fixture_must(status, &err);
    build_fixture_expect_same(build_fixture_digest(f->output), wanted);
}

/* A flipped bit is found when the file is read, and then the piece is made anew. What is no more
 * than a record, or has no record that is true of it, is made anew at once. */
static void pieces_damaged_between_runs_are_made_anew(void **state)
{
    struct build_fixture *f = *state;
    static char names[FILES_MAX][64];
    struct build_params params;
    (void)prepare(f, &params);
    params.keep_work = true;
    build_fixture_build(&params, NULL);
    const struct digest128 wanted = build_fixture_digest(f->output);
    const int count = names_list(f, names);
    assert_true(count > 30);
    for (int i = 0; i < count; i++) {
        const char *path = fixture_path(f->work, names[i]);
        const uint64_t bytes = fixture_length(path);
        if (bytes == 0)
            continue;
        /* Counts and lengths are at the start. */
        const uint64_t bits[] = {0, bytes * 8 / 7 * (uint64_t)(1 + i % 6)};
        for (size_t k = 0; k < ARRAY_LENGTH(bits); k++) {
            rewind_to(f, names[i], names, count);
            fixture_flip_bit(path, bits[k]);
            complete(f, &params, names[i], !is_record(names[i]), wanted);
        }
        rewind_to(f, names[i], names, count);
        assert_int_equal(truncate(path, (off_t)(bytes - 1)), 0);
        complete(f, &params, names[i], false, wanted);
    }
}

static void output_damaged_between_runs_is_made_anew(void **state)
{
    struct build_fixture *f = *state;
    struct build_params params;
    (void)prepare(f, &params);
    params.keep_work = true;
    build_fixture_build(&params, NULL);
    const struct digest128 wanted = build_fixture_digest(f->output);
    for (unsigned file = 0; file < GENERATION_FILE_COUNT; file++) {
        const char *path = fixture_path(f->output, generation_file_names[file]);
        const uint64_t bytes = fixture_length(path);
        assert_int_equal(unlink(manifest_path(f)), 0);
        fixture_flip_bit(path, bytes * 5);
        complete(f, &params, generation_file_names[file], true, wanted);
        assert_int_equal(unlink(manifest_path(f)), 0);
        assert_int_equal(truncate(path, (off_t)(bytes / 2)), 0);
        complete(f, &params, generation_file_names[file], true, wanted);
        /* Longer than it should be is cut. */
        assert_int_equal(unlink(manifest_path(f)), 0);
        assert_int_equal(truncate(path, (off_t)(bytes + 8192)), 0);
        complete(f, &params, generation_file_names[file], false, wanted);
    }
}

/* Pieces are known by the job they were made for, so what its file says is checked, not believed.
 */
static void job_damaged_between_runs_is_no_harm(void **state)
{
    struct build_fixture *f = *state;
    struct build_params params;
    const struct digest128 wanted = prepare(f, &params);
    for (unsigned bit = 5; bit < 1000; bit += 300) {
        struct fault fault = {.fail_at = 100, .outcome = EIO};
        struct build_summary summary;
        struct error err = {0};
        assert_int_equal(build_with_fault(f, &params, &fault, &summary, &err), STATUS_IO);
        assert_true(summary.kept);
        fixture_flip_bit(fixture_path(f->work, "job"), bit);
        build_fixture_expect_same(build_fixture_once(f, &params, NULL), wanted);
    }
}

/* ---- inputs that change ---- */

enum change_kind {
    CHANGE_IN_PLACE,
    CHANGE_REPLACED, /* by another file of the same length and time */
    CHANGE_LONGER,
};

/* Changes `path` at the first call that changes the disk once `trigger` is there. */
struct change {
    const char *path;
    const char *trigger;
    enum change_kind kind;
    bool done;
};

/* Old enough that whatever is written now has another time. */
static const struct timespec times_old[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};

static void replace_alike(const char *path)
{
    char other[BUILD_FIXTURE_PATH_BYTES + 8];
    struct stat info;
    const uint64_t bytes = fixture_length(path);
    assert_int_equal(stat(path, &info), 0);
    snprintf(other, sizeof(other), "%s.other", path);
    FILE *out = fopen(other, "wb");
    FILE *in = fopen(path, "rb");
    assert_true(out && in);
    for (uint64_t i = 0; i < bytes; i++)
        fputc(fgetc(in), out);
    fclose(in);
    assert_int_equal(fclose(out), 0);
    const struct timespec times[2] = {info.st_atim, info.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, other, times, 0), 0);
    assert_int_equal(rename(other, path), 0);
}

static int change_before_call(void *context, enum store_call call)
{
    struct change *change = context;
    (void)call;
    if (change->done || !fixture_exists(change->trigger))
        return 0;
    change->done = true;
    if (change->kind == CHANGE_IN_PLACE)
        fixture_flip_bit(change->path, 8 * (fixture_length(change->path) - 1));
    else if (change->kind == CHANGE_LONGER)
        assert_int_equal(truncate(change->path, (off_t)fixture_length(change->path) + 1), 0);
    else
        replace_alike(change->path);
    return 0;
}

static enum status build_with_change(const struct build_params *params, struct change *change,
                                     struct build_summary *summary, struct error *err)
{
    const struct store_faults faults = {change_before_call, change};
    change->done = false;
    store_inject(&faults);
    enum status status = build_run(params, summary, err);
    store_inject(NULL);
    assert_true(change->done);
    return status;
}

static void inputs_make(struct build_fixture *f, struct build_params *params)
{
    uint64_t keys[300];
    for (uint32_t i = 0; i < 300; i++)
        keys[i] = 3 * i;
    free(build_fixture_input(f, ELEMENT_U8, 300, 8));
    build_fixture_write_keys(f, keys, 300);
    assert_int_equal(utimensat(AT_FDCWD, f->input, times_old, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, f->keys, times_old, 0), 0);
    *params = params_small(f);
    params->keys = f->keys;
}

static void expect_changed(const struct build_fixture *f, const struct change *change,
                           enum status status, const struct error *err)
{
    char wanted[BUILD_FIXTURE_PATH_BYTES + 64];
    snprintf(wanted, sizeof(wanted), "%s: changed while it was read", change->path);
    assert_int_equal(status, STATUS_INVALID);
    assert_string_equal(err->text, wanted);
    assert_false(fixture_exists(manifest_path(f)));
}

/* The stages that read it are ingest, train and partition: "job" is there before the first. */
static void input_that_changes_while_it_is_read_fails_the_build(void **state)
{
    struct build_fixture *f = *state;
    static const char *const triggers[] = {"job", "ingest.done", "train.done"};
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(triggers); i++)
        for (int kind = CHANGE_IN_PLACE; kind <= CHANGE_LONGER; kind++) {
            struct build_params params;
            struct build_summary summary;
            struct error err = {0};
            inputs_make(f, &params);
            struct change change = {.path = i % 2 == 0 ? f->input : f->keys,
                                    .trigger = fixture_path(f->work, triggers[i / 2]),
                                    .kind = (enum change_kind)kind};
            enum status status = build_with_change(&params, &change, &summary, &err);
            expect_changed(f, &change, status, &err);
            assert_false(summary.kept || summary.finished);
            assert_false(fixture_exists(f->work));
            assert_false(fixture_exists(f->output));
        }
}

static void input_may_change_when_it_has_been_read(void **state)
{
    struct build_fixture *f = *state;
    struct build_params params;
    inputs_make(f, &params);
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    struct change change = {.path = f->input, .trigger = fixture_path(f->work, "graph-00000.done")};
    struct error err = {0};
    fixture_must(build_with_change(&params, &change, NULL, &err), &err);
    build_fixture_expect_same(build_fixture_digest(f->output), wanted);
}

/* What was finished of the old input is not gone on from, even if the file gets its time back. */
static void input_that_changed_in_a_later_run_is_read_anew(void **state)
{
    struct build_fixture *f = *state;
    struct build_params params;
    struct build_summary summary;
    struct error err = {0};
    inputs_make(f, &params);
    params.one_stage = true;
    for (params.stage = BUILD_STAGE_INGEST; params.stage < BUILD_STAGE_PARTITION; params.stage++)
        build_fixture_build(&params, NULL);
    params.one_stage = false;
    struct change change = {.path = f->input, .trigger = fixture_path(f->work, "train.done")};
    enum status status = build_with_change(&params, &change, &summary, &err);
    expect_changed(f, &change, status, &err);
    assert_false(summary.kept);
    assert_false(fixture_exists(fixture_path(f->work, "ingest.done")));
    assert_false(fixture_exists(fixture_path(f->work, "partition.done")));
    assert_int_equal(utimensat(AT_FDCWD, f->input, times_old, 0), 0);
    build_fixture_build(&params, NULL);
    const struct digest128 found = build_fixture_digest(f->output);
    build_fixture_clear(f);
    build_fixture_expect_same(found, build_fixture_once(f, &params, NULL));
}

int main(void)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(any_call_may_fail_once),
        CASE(disk_may_be_full_from_any_call_on),
        CASE(build_that_fails_again_and_again_is_completed),
        CASE(short_reads_and_writes_are_carried_on),
        CASE(pieces_damaged_between_runs_are_made_anew),
        CASE(output_damaged_between_runs_is_made_anew),
        CASE(job_damaged_between_runs_is_no_harm),
        CASE(input_that_changes_while_it_is_read_fails_the_build),
        CASE(input_may_change_when_it_has_been_read),
        CASE(input_that_changed_in_a_later_run_is_read_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
