/*
 * test_supervisor.c - what a service manager hands over is taken once and only by whom it is for;
 * what it wants to hear reaches its socket.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "query/supervisor.h"
#include "tests/directory_fixture.h"

enum {
    PATH_BYTES = 108,
    DATAGRAM_BYTES = 512,
    THREADS = 4,
    NOTICES = 100, /* a thread */
    PATIENCE_S = 60,
    DESCRIPTORS_MAX = 256, /* more than a test program has */
};

struct fixture {
    char dir[DIRECTORY_FIXTURE_BYTES];
    char path[PATH_BYTES]; /* dir/n */
    int manager;           /* receives notices, or -1 */
};

static void environment_clear(void)
{
    static const char *const names[] = {"LISTEN_PID",    "LISTEN_FDS",    "LISTEN_FDNAMES",
                                        "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        unsetenv(names[i]);
}

static int setup(void **state)
{
    static struct fixture fixture;
    struct fixture *f = &fixture;
    environment_clear();
    if (directory_fixture_create(f->dir) != 0)
        return -1;
    snprintf(f->path, sizeof(f->path), "%.96s/n", f->dir);
    f->manager = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    environment_clear();
    if (f->manager >= 0)
        close(f->manager);
    return directory_fixture_remove(f->dir);
}

/* ---- descriptors, each case in a child, where 3, 4, ... are free to be what they must ---- */

struct handed {
    const char *pid; /* NULL: the child's own; "": unset */
    const char *fds; /* NULL: unset */
    const char *names;
    uint32_t open; /* descriptors from 3 that are open */
    uint32_t max;
};

/* 0 when the call gives `status` and, if that is OK, `count` descriptors of these names. */
static int child_listen(const struct handed *handed, enum status status, uint32_t count,
                        const char *const *names)
{
    struct supervisor_fd fds[4];
    uint32_t got = 77;
    char pid[32];
    for (int fd = 3; fd < DESCRIPTORS_MAX; fd++)
        close(fd);
    for (uint32_t i = 0; i < handed->open; i++)
        if (dup(STDIN_FILENO) != 3 + (int)i)
            return 2;
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    if (!handed->pid || *handed->pid)
        setenv("LISTEN_PID", handed->pid ? handed->pid : pid, 1);
    if (handed->fds)
        setenv("LISTEN_FDS", handed->fds, 1);
    if (handed->names)
        setenv("LISTEN_FDNAMES", handed->names, 1);
    if (supervisor_listen_fds(fds, handed->max, &got, NULL) != status)
        return 3;
    if (getenv("LISTEN_PID") || getenv("LISTEN_FDS") || getenv("LISTEN_FDNAMES"))
        return 4;
    if (got != (status == STATUS_OK ? count : 77))
        return 5;
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++)
        if (fds[i].fd != 3 + (int)i || strcmp(fds[i].name, names[i]) != 0 ||
            fcntl(fds[i].fd, F_GETFD) != FD_CLOEXEC)
            return 6;
    if (status == STATUS_OK && count == 0 && handed->open > 0 && fcntl(3, F_GETFD) != 0)
        return 7; /* what is not ours is left alone */
    return 0;
}

static void expect_listen(const struct handed *handed, enum status want, uint32_t count,
                          const char *const *names)
{
    int status = -1;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(child_listen(handed, want, count, names));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void descriptors_that_are_handed_over_are_taken(void **state)
{
    (void)state;
    static const char *const unknown[] = {"unknown", "unknown"};
    static const char *const named[] = {"nightjar.socket", ""};
    expect_listen(&(struct handed){.fds = "2", .open = 2, .max = 2}, STATUS_OK, 2, unknown);
    expect_listen(&(struct handed){.fds = "1", .names = "nightjar.socket", .open = 2, .max = 4},
                  STATUS_OK, 1, named);
    expect_listen(&(struct handed){.fds = "2", .names = "nightjar.socket:", .open = 2, .max = 4},
                  STATUS_OK, 2, named);
}

static void without_a_manager_there_are_none(void **state)
{
    (void)state;
    expect_listen(&(struct handed){.pid = "", .open = 1, .max = 1}, STATUS_OK, 0, NULL);
    expect_listen(&(struct handed){.open = 1, .max = 1}, STATUS_OK, 0, NULL);
    expect_listen(&(struct handed){.pid = "", .fds = "1", .open = 1, .max = 1}, STATUS_OK, 0, NULL);
    expect_listen(&(struct handed){.fds = "0", .names = "", .open = 1, .max = 1}, STATUS_OK, 0,
                  NULL);
}

static void descriptors_for_another_process_are_left_alone(void **state)
{
    (void)state;
    expect_listen(&(struct handed){.pid = "1", .fds = "1", .open = 1, .max = 1}, STATUS_OK, 0,
                  NULL);
    expect_listen(&(struct handed){.pid = "1", .fds = "x", .open = 1, .max = 1}, STATUS_OK, 0,
                  NULL);
}

static void what_does_not_add_up_is_refused(void **state)
{
    (void)state;
    static const struct handed wrong[] = {
        {.fds = "2", .open = 2, .max = 1},                                /* more than we take */
        {.fds = "2", .open = 1, .max = 2},                                /* not open */
        {.fds = "2", .names = "a", .open = 2, .max = 2},                  /* too few names */
        {.fds = "1", .names = "a:b", .open = 1, .max = 2},                /* too many */
        {.fds = "", .open = 1, .max = 1},                                 /* no numbers */
        {.fds = "-1", .open = 1, .max = 1},                               /* */
        {.fds = "1 ", .open = 1, .max = 1},                               /* */
        {.fds = "18446744073709551617", .open = 1, .max = 1},             /* 2^64 + 1 */
        {.pid = "x", .fds = "1", .open = 1, .max = 1},                    /* */
        {.pid = "99999999999999999999", .fds = "1", .open = 1, .max = 1}, /* */
    };
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++)
        expect_listen(&wrong[i], STATUS_INVALID, 0, NULL);
}

static void a_name_has_a_limit(void **state)
{
    (void)state;
    char name[SUPERVISOR_NAME_BYTES + 1];
    const char *const names[] = {name};
    memset(name, 'n', sizeof(name));
    name[SUPERVISOR_NAME_BYTES - 1] = '\0';
    const struct handed handed = {.fds = "1", .names = name, .open = 1, .max = 1};
    expect_listen(&handed, STATUS_OK, 1, names);
    name[SUPERVISOR_NAME_BYTES - 1] = 'n';
    name[SUPERVISOR_NAME_BYTES] = '\0';
    expect_listen(&handed, STATUS_INVALID, 0, NULL);
}

/* ---- notices ---- */

/* A manager's socket at `path`, or at a name of the kernel's choice, which becomes NOTIFY_SOCKET.
 */
static void manager_open(struct fixture *f, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t length = sizeof(address);
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    char name[sizeof(address.sun_path) + 1];
    f->manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(f->manager >= 0);
    if (path)
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    else
        length = sizeof(address.sun_family);
    assert_int_equal(bind(f->manager, (const struct sockaddr *)&address, length), 0);
    length = sizeof(address);
    assert_int_equal(getsockname(f->manager, (struct sockaddr *)&address, &length), 0);
    assert_int_equal(setsockopt(f->manager, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)),
                     0);
    size_t bytes = length - offsetof(struct sockaddr_un, sun_path);
    memcpy(name, address.sun_path, bytes);
    name[bytes] = '\0';
    if (!path)
        name[0] = '@';
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
}

static void manager_receive(const struct fixture *f, char text[DATAGRAM_BYTES])
{
    ssize_t got = recv(f->manager, text, DATAGRAM_BYTES - 1, 0);
    assert_true(got >= 0);
    text[got] = '\0';
}

static void expect_told(const struct fixture *f, const char *state)
{
    char text[DATAGRAM_BYTES];
    struct error err;
    if (supervisor_notify(state, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    manager_receive(f, text);
    assert_string_equal(text, state);
}

static void a_notice_reaches_a_path(void **state)
{
    struct fixture *f = *state;
    manager_open(f, f->path);
    expect_told(f, "READY=1\nSTATUS=serving 600 vectors");
    expect_told(f, "STOPPING=1");
}

static void a_notice_reaches_an_abstract_name(void **state)
{
    struct fixture *f = *state;
    manager_open(f, NULL);
    assert_int_equal(getenv("NOTIFY_SOCKET")[0], '@');
    expect_told(f, "WATCHDOG=1");
}

static void a_reload_is_told_with_its_time(void **state)
{
    struct fixture *f = *state;
    char text[DATAGRAM_BYTES];
    uint64_t usec = 0;
    int used = 0;
    manager_open(f, f->path);
    const uint64_t before = clock_monotonic_ns() / 1000;
    assert_int_equal(supervisor_notify_reloading(NULL), STATUS_OK);
    const uint64_t after = clock_monotonic_ns() / 1000;
    manager_receive(f, text);
    assert_int_equal(sscanf(text, "RELOADING=1\nMONOTONIC_USEC=%" SCNu64 "%n", &usec, &used), 1);
    assert_int_equal(used, strlen(text));
    assert_true(before <= usec && usec <= after);
}

static void without_a_manager_nothing_is_told(void **state)
{
    (void)state;
    assert_int_equal(supervisor_notify("READY=1", NULL), STATUS_OK);
    assert_int_equal(setenv("NOTIFY_SOCKET", "", 1), 0);
    assert_int_equal(supervisor_notify("READY=1", NULL), STATUS_OK);
    assert_int_equal(supervisor_notify_reloading(NULL), STATUS_OK);
}

static void expect_untold(const char *socket, enum status status, const char *words)
{
    struct error err;
    assert_int_equal(setenv("NOTIFY_SOCKET", socket, 1), 0);
    assert_int_equal(supervisor_notify("READY=1", &err), status);
    if (!strstr(err.text, words))
        fail_msg("\"%s\" lacks \"%s\"", err.text, words);
}

static void a_notice_that_is_not_taken_is_an_error(void **state)
{
    struct fixture *f = *state;
    char name[200];
    memset(name, 'n', sizeof(name));
    name[0] = '/';
    name[108] = '\0';
    expect_untold(f->path, STATUS_IO, "cannot send: No such file");
    expect_untold("vsock:2:1234", STATUS_INVALID, "neither a path nor @NAME");
    expect_untold("@", STATUS_INVALID, "neither a path nor @NAME");
    expect_untold(name, STATUS_INVALID, "108 bytes, at most 107 fit");
    name[107] = '\0';
    expect_untold(name, STATUS_IO, "cannot send");
    assert_int_equal(supervisor_notify("", NULL), STATUS_INVALID);
}

static void a_manager_that_does_not_read_is_given_up_on(void **state)
{
    struct fixture *f = *state;
    struct error err;
    manager_open(f, f->path);
    enum { QUEUE_MAX = 100000 };
    enum status status = STATUS_OK;
    for (int i = 0; i < QUEUE_MAX && status == STATUS_OK; i++)
        status = supervisor_notify("WATCHDOG=1", &err);
    assert_int_equal(status, STATUS_TIMEOUT);
    assert_non_null(strstr(err.text, "queue stayed full"));
}

/* A reader that the machine keeps waiting for a second is not what is tested. */
static void *notify_often(void *context)
{
    uintptr_t failed = 0;
    for (int i = 0; i < NOTICES; i++) {
        enum status status;
        do
            status = supervisor_notify(context, NULL);
        while (status == STATUS_TIMEOUT);
        failed += status != STATUS_OK;
    }
    return (void *)failed;
}

static void notices_of_several_threads_all_arrive_whole(void **state)
{
    struct fixture *f = *state;
    char text[DATAGRAM_BYTES];
    char states[THREADS][32];
    pthread_t threads[THREADS];
    int arrived[THREADS] = {0};
    manager_open(f, f->path);
    for (int t = 0; t < THREADS; t++) {
        snprintf(states[t], sizeof(states[t]), "STATUS=%d", t);
        assert_int_equal(pthread_create(&threads[t], NULL, notify_often, states[t]), 0);
    }
    for (int i = 0; i < THREADS * NOTICES; i++) {
        int thread = -1, used = 0;
        manager_receive(f, text);
        assert_int_equal(sscanf(text, "STATUS=%d%n", &thread, &used), 1);
        assert_int_equal(used, strlen(text));
        assert_in_range(thread, 0, THREADS - 1);
        arrived[thread]++;
    }
    for (int t = 0; t < THREADS; t++) {
        void *failed = NULL;
        pthread_join(threads[t], &failed);
        assert_null(failed);
        assert_int_equal(arrived[t], NOTICES);
    }
}

/* ---- watchdog ---- */

static uint64_t watchdog(const char *usec, const char *pid)
{
    environment_clear();
    if (usec)
        setenv("WATCHDOG_USEC", usec, 1);
    if (pid)
        setenv("WATCHDOG_PID", pid, 1);
    return supervisor_watchdog_ns();
}

static void the_watchdog_is_fed_at_half_its_interval(void **state)
{
    (void)state;
    char own[32];
    snprintf(own, sizeof(own), "%d", (int)getpid());
    assert_int_equal(watchdog("30000000", NULL), UINT64_C(15000000000));
    assert_int_equal(watchdog("30000000", own), UINT64_C(15000000000));
    assert_int_equal(watchdog("1", own), 500);
    assert_int_equal(watchdog("36893488147419103", NULL), UINT64_C(36893488147419103) * 500);
}

static void without_a_watchdog_there_is_no_interval(void **state)
{
    (void)state;
    assert_int_equal(watchdog(NULL, NULL), 0);
    assert_int_equal(watchdog("30000000", "1"), 0); /* for another process */
    assert_int_equal(watchdog("30000000", ""), 0);
    assert_int_equal(watchdog("0", NULL), 0);
    assert_int_equal(watchdog("", NULL), 0);
    assert_int_equal(watchdog("3s", NULL), 0);
    assert_int_equal(watchdog("36893488147419104", NULL), 0); /* more than 64 bits of it */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(descriptors_that_are_handed_over_are_taken),
        TEST(without_a_manager_there_are_none),
        TEST(descriptors_for_another_process_are_left_alone),
        TEST(what_does_not_add_up_is_refused),
        TEST(a_name_has_a_limit),
        TEST(a_notice_reaches_a_path),
        TEST(a_notice_reaches_an_abstract_name),
        TEST(a_reload_is_told_with_its_time),
        TEST(without_a_manager_nothing_is_told),
        TEST(a_notice_that_is_not_taken_is_an_error),
        TEST(a_manager_that_does_not_read_is_given_up_on),
        TEST(notices_of_several_threads_all_arrive_whole),
        TEST(the_watchdog_is_fed_at_half_its_interval),
        TEST(without_a_watchdog_there_is_no_interval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
