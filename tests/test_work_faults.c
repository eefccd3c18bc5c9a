/*
 * test_work_faults.c - the work directory: a piece is finished with all its bytes or not at all,
 * whatever call fails, whenever the process dies, and whoever makes the same piece.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/work.h"
#include "layout/store.h"
#include "tests/directory_fixture.h"
#include "tests/work_fixture.h"

/* ---- failing calls ---- */

struct nth_call {
    int calls;
    int fail_at;
    int outcome; /* errno or STORE_FAULT_SHORT; 0: `act` */
    bool writes_only;
    void (*act)(void *context); /* what happens at that moment, from elsewhere */
    void *context;
};

static int fail_nth(void *context, enum store_call call)
{
    struct nth_call *nth = context;
    if (nth->writes_only && call != STORE_CALL_WRITE)
        return 0;
    if (++nth->calls != nth->fail_at)
        return 0;
    if (nth->act)
        nth->act(nth->context);
    return nth->outcome;
}

/* piece_write() with the nth call failing; false when there is no nth call. */
static bool write_with_fault(struct work *work, struct work_piece piece, struct nth_call *nth,
                             enum status *status, struct error *err)
{
    const struct store_faults faults = {fail_nth, nth};
    nth->calls = 0;
    store_inject(&faults);
    *status = piece_write(work, piece, err);
    store_inject(NULL);
    return nth->calls >= nth->fail_at;
}

static void any_failing_call_leaves_the_piece_undone(void **state)
{
    static const int outcomes[] = {EIO, ENOSPC};
    struct work *work = open_work(*state);
    write_good(work, GRAPH_4);
    for (size_t f = 0; f < ARRAY_LENGTH(outcomes); f++) {
        int n = 1;
        for (;; n++) {
            struct nth_call nth = {.fail_at = n, .outcome = outcomes[f]};
            struct error err = {0};
            enum status status;
            if (!write_with_fault(work, GRAPH_3, &nth, &status, &err))
                break;
            assert_int_equal(status, STATUS_IO);
            assert_non_null(strstr(err.text, strerror(outcomes[f])));
            assert_non_null(strstr(err.text, work_path(work)));
            assert_false(work_piece_done(work, GRAPH_3));
            assert_int_equal(directory_fixture_entries(work_path(work)), 2 + 3);
            assert_true(n < CALLS_MAX);
        }
        /* 2 creates; 7 writes; 2 fsyncs, closes and renames; the directory; record: 6 calls */
        assert_true(n > 15);
        expect_good(work, GRAPH_3);
        expect_good(work, GRAPH_4);
        work_piece_forget(work, GRAPH_3);
        work_close(work);
        work = open_work(*state);
    }
    work_close(work);
}

static void failing_call_keeps_the_piece_that_is_done(void **state)
{
    struct work *work = open_work(*state);
    write_good(work, GRAPH_3);
    for (int n = 1;; n++) {
        struct nth_call nth = {.fail_at = n, .outcome = EIO};
        enum status status;
        if (!write_with_fault(work, GRAPH_3, &nth, &status, NULL))
            break;
        assert_int_equal(status, STATUS_IO);
        expect_good(work, GRAPH_3);
        assert_int_equal(directory_fixture_entries(work_path(work)), 2 + 3);
        assert_true(n < CALLS_MAX);
    }
    work_close(work);
}

static void short_writes_are_carried_on(void **state)
{
    struct work *work = open_work(*state);
    for (int n = 1;; n++) {
        struct nth_call nth = {.fail_at = n, .outcome = STORE_FAULT_SHORT, .writes_only = true};
        struct error err = {0};
        enum status status;
        bool happened = write_with_fault(work, GRAPH_3, &nth, &status, &err);
        if (status != STATUS_OK)
            fail_msg("%s", err.text);
        expect_good(work, GRAPH_3);
        work_piece_forget(work, GRAPH_3);
        assert_true(n < CALLS_MAX);
        if (!happened)
            break;
    }
    work_close(work);
}

/* A record that lies there with files of other lengths must not become true of a part of ours. */
static void failing_call_revives_no_old_record(void **state)
{
    struct work *work = open_work(*state);
    for (int n = 1;; n++) {
        struct nth_call nth = {.fail_at = n, .outcome = EIO};
        enum status status;
        write_good(work, GRAPH_3);
        assert_int_equal(unlink(path_in(work, "graph-00003.lists")), 0);
        bool happened = write_with_fault(work, GRAPH_3, &nth, &status, NULL);
        assert_int_equal(work_piece_done(work, GRAPH_3), status == STATUS_OK);
        assert_true(n < CALLS_MAX);
        if (!happened)
            break;
    }
    work_close(work);
}

static void output_that_failed_cannot_be_committed(void **state)
{
    struct work *work = open_work(*state);
    struct work_output *output = NULL;
    struct build_stage_record cost = {.written_bytes = 9};
    struct nth_call nth = {.fail_at = 1, .outcome = ENOSPC, .writes_only = true};
    const struct store_faults faults = {fail_nth, &nth};
    static const uint8_t data[BUFFER_BYTES];
    assert_int_equal(work_output_open(work, PACK, "a", BUFFER_BYTES, &output, NULL), STATUS_OK);
    store_inject(&faults);
    assert_int_equal(work_output_append(output, data, sizeof(data), NULL), STATUS_IO);
    store_inject(NULL);
    assert_int_equal(work_output_append(output, data, 1, NULL), STATUS_IO);
    work_output_section(output);
    assert_int_equal(work_piece_commit(work, PACK, &output, 1, NULL, 0, &cost, NULL), STATUS_IO);
    assert_null(output);
    assert_int_equal(cost.written_bytes, 9);
    assert_false(work_piece_done(work, PACK));
    assert_int_equal(directory_fixture_entries(work_path(work)), 2);
    work_close(work);
}

static void failing_open_leaves_nothing_in_the_way(void **state)
{
    const char *path = fixture_path(*state, "work");
    int n = 1;
    for (;; n++) {
        struct nth_call nth = {.fail_at = n, .outcome = ENOSPC};
        const struct store_faults faults = {fail_nth, &nth};
        struct work *work = NULL;
        struct error err = {0};
        store_inject(&faults);
        enum status status = work_open(path, JOB, WORK_SHARED, &work, &err);
        store_inject(NULL);
        if (nth.calls < n) {
            assert_int_equal(status, STATUS_OK);
            work_remove(work);
            break;
        }
        assert_int_equal(status, STATUS_IO);
        assert_null(work);
        assert_non_null(strstr(err.text, path));
        /* No temporaries; a job only if all but the last fsync was done. */
        assert_true(!fixture_exists(path) || directory_fixture_entries(path) <= 2);
        work_remove(open_work(*state));
        assert_false(fixture_exists(path));
        assert_true(n < CALLS_MAX);
    }
    /* Through with the tenth: mkdir, lock, fsync of the parent, 6 calls for the job. */
    assert_int_equal(n, 10);
}

/* ---- the order of calls ---- */

struct trace {
    char calls[CALLS_MAX + 1];
    size_t count;
};

static int trace_call(void *context, enum store_call call)
{
    static const char letters[] = {
        [STORE_CALL_CREATE] = 'c', [STORE_CALL_WRITE] = 'w',  [STORE_CALL_SYNC] = 's',
        [STORE_CALL_CLOSE] = 'x',  [STORE_CALL_RENAME] = 'r',
    };
    struct trace *trace = context;
    assert_true((size_t)call < sizeof(letters) && trace->count < CALLS_MAX);
    trace->calls[trace->count++] = letters[call];
    return 0;
}

static void commit_makes_each_step_durable_before_the_next(void **state)
{
    struct work *work = open_work(*state);
    struct work_output *outputs[2];
    struct build_stage_record cost = {0};
    struct trace trace = {{0}, 0};
    const struct store_faults faults = {trace_call, &trace};
    assert_int_equal(work_output_open(work, PACK, "a", 0, &outputs[0], NULL), STATUS_OK);
    assert_int_equal(work_output_open(work, PACK, "b", 0, &outputs[1], NULL), STATUS_OK);
    assert_int_equal(work_output_append(outputs[0], "x", 1, NULL), STATUS_OK);
    assert_int_equal(work_output_append(outputs[1], "y", 1, NULL), STATUS_OK);
    store_inject(&faults);
    enum status status = work_piece_commit(work, PACK, outputs, 2, NULL, 0, &cost, NULL);
    store_inject(NULL);
    assert_int_equal(status, STATUS_OK);
    /* Two files, their names, the record, its name. */
    assert_string_equal(trace.calls, "wsxwsx"
                                     "rrs"
                                     "cwsx"
                                     "rs");
    work_close(work);
}

/* ---- dying, and two at a time ---- */

enum { DIED = 42 };

static void die(void *context)
{
    (void)context;
    _exit(DIED);
}

/* A process that makes the piece and dies before its nth call. */
static int die_writing(const char *path, int n)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct nth_call nth = {.fail_at = n, .act = die};
        struct work *work;
        enum status status;
        if (work_open(path, JOB, WORK_ALONE, &work, NULL) != STATUS_OK)
            _exit(1);
        write_with_fault(work, GRAPH_3, &nth, &status, NULL);
        _exit(status == STATUS_OK ? 0 : 1);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    return WEXITSTATUS(result);
}

static void process_may_die_at_any_call(void **state)
{
    const char *path = fixture_path(*state, "work");
    struct work *work = open_work(*state);
    write_good(work, GRAPH_4);
    work_close(work);
    int done_early = 0;
    for (int n = 1;; n++) {
        int result = die_writing(path, n);
        assert_true(result == DIED || result == 0);
        work = open_work(*state);
        expect_good(work, GRAPH_4);
        bool done = work_piece_done(work, GRAPH_3);
        assert_int_equal(directory_fixture_entries(path), done ? 2 + 3 + 3 : 2 + 3);
        if (!done)
            write_good(work, GRAPH_3);
        expect_good(work, GRAPH_3);
        work_piece_forget(work, GRAPH_3);
        work_close(work);
        if (result == 0) {
            assert_true(done);
            break;
        }
        done_early += done;
        assert_true(n < CALLS_MAX);
    }
    assert_int_equal(done_early, 1); /* before the last fsync the record stands already */
}

struct other {
    struct work *work;
    enum status status;
};

/* Another process makes the same piece from start to end. */
static void write_the_same(void *context)
{
    struct other *other = context;
    store_inject(NULL);
    other->status = piece_write(other->work, GRAPH_3, NULL);
}

/* Runs piece_write() with another process in between, at the nth call, which then has `outcome`.
 * False when there is no nth call. */
static bool write_against_another(const char *path, int n, int outcome, bool *done)
{
    struct work *work = open_work_as(path, WORK_SHARED);
    struct other other = {open_work_as(path, WORK_SHARED), STATUS_INVALID};
    struct nth_call nth = {
        .fail_at = n, .outcome = outcome, .act = write_the_same, .context = &other};
    enum status status;
    bool happened = write_with_fault(work, GRAPH_3, &nth, &status, NULL);
    assert_int_equal(status, happened && outcome ? STATUS_IO : STATUS_OK);
    if (happened)
        assert_int_equal(other.status, STATUS_OK);
    *done = work_piece_done(work, GRAPH_3);
    if (*done)
        expect_good(work, GRAPH_3);
    assert_int_equal(directory_fixture_entries(path), *done ? 2 + 3 : 2);
    work_close(other.work);
    work_remove(work);
    assert_false(fixture_exists(path));
    return happened;
}

static void two_may_make_the_same_piece(void **state)
{
    const char *path = fixture_path(*state, "work");
    bool done;
    int n = 1;
    while (write_against_another(path, n, 0, &done)) {
        assert_true(done);
        assert_true(++n < CALLS_MAX);
    }
}

static void one_that_fails_spares_what_another_finished(void **state)
{
    const char *path = fixture_path(*state, "work");
    bool done, done_before = true;
    for (int n = 1; write_against_another(path, n, EIO, &done); n++) {
        /* Only the last fsync comes when the record is its own. */
        assert_true(done_before);
        done_before = done;
        assert_true(n < CALLS_MAX);
    }
    assert_false(done_before);
}

static void two_processes_may_make_the_same_piece(void **state)
{
    enum { PROCESSES = 3 };
    const char *path = fixture_path(*state, "work");
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            struct work *work;
            if (work_open(path, JOB, WORK_SHARED, &work, NULL) != STATUS_OK ||
                piece_write(work, GRAPH_3, NULL) != STATUS_OK || !work_piece_done(work, GRAPH_3))
                _exit(1);
            _exit(0);
        }
    }
    for (int i = 0; i < PROCESSES; i++) {
        int result = 0;
        assert_int_equal(waitpid(children[i], &result, 0), children[i]);
        assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    }
    struct work *work = open_work_as(path, WORK_SHARED);
    expect_good(work, GRAPH_3);
    assert_int_equal(directory_fixture_entries(path), 2 + 3);
    work_close(work);
}

struct worker {
    struct work *work;
    uint32_t shard;
    bool good;
};

static void *worker_run(void *context)
{
    struct worker *worker = context;
    worker->good = true;
    for (uint32_t i = 0; i < 3; i++) {
        struct work_piece piece = {BUILD_STAGE_GRAPH, worker->shard + i};
        struct error err;
        worker->good = worker->good && piece_write(worker->work, piece, NULL) == STATUS_OK &&
                       work_piece_done(worker->work, piece) &&
                       piece_read(worker->work, piece, &err) == STATUS_OK;
    }
    return NULL;
}

static void threads_share_a_directory(void **state)
{
    enum { THREADS = 3 };
    struct work *work = open_work(*state);
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){work, i * 10, false};
        assert_int_equal(pthread_create(&threads[i], NULL, worker_run, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(workers[i].good);
    }
    assert_int_equal(directory_fixture_entries(work_path(work)), 2 + THREADS * 3 * 3);
    work_close(work);
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(any_failing_call_leaves_the_piece_undone),
        CASE(failing_call_keeps_the_piece_that_is_done),
        CASE(short_writes_are_carried_on),
        CASE(failing_call_revives_no_old_record),
        CASE(output_that_failed_cannot_be_committed),
        CASE(failing_open_leaves_nothing_in_the_way),
        CASE(commit_makes_each_step_durable_before_the_next),
        CASE(process_may_die_at_any_call),
        CASE(two_may_make_the_same_piece),
        CASE(one_that_fails_spares_what_another_finished),
        CASE(two_processes_may_make_the_same_piece),
        CASE(threads_share_a_directory),
    };
    return cmocka_run_group_tests_name("work_faults", tests, NULL, NULL);
}
