/*
 * test_socket_start.c - what others see of a daemon's start, and what is left of one that is
 * killed: the socket is at its path either finished or not at all, and the next start tidies up.
 *
 * A traced child is stopped before and after each of its system calls, so every moment that another
 * process can tell apart is looked at, and the child is killed at each. A thread that polls while
 * sockets come and go sees the same by chance.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "query/socket_path.h"
#include "tests/directory_fixture.h"

enum {
    PATH_BYTES = 400,
    STOPS_MAX = 2000, /* of a start: far more than there are, to end a loop that does not */
    ROUNDS = 100,     /* of sockets that come and go */
    WANTED_MODE = 0640,
    SYSCALL_STOP = SIGTRAP | 0x80, /* with PTRACE_O_TRACESYSGOOD */
};

struct fixture {
    char dir[DIRECTORY_FIXTURE_BYTES];
    char path[PATH_BYTES]; /* dir/s */
    struct socket_path_options options;
    struct socket_path listener;
};

static int setup(void **state)
{
    static struct fixture fixture;
    struct fixture *f = &fixture;
    if (directory_fixture_create(f->dir) != 0)
        return -1;
    snprintf(f->path, sizeof(f->path), "%.96s/s", f->dir);
    f->options = (struct socket_path_options){.mode = WANTED_MODE,
                                              .group = geteuid() == 0 ? 12345 : getegid()};
    f->listener.fd = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    socket_path_close(&f->listener);
    return directory_fixture_remove(f->dir);
}

static void start(struct fixture *f)
{
    struct error err = {0};
    if (socket_path_listen(f->path, &f->options, 8, &f->listener, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

/* Leaves a socket that nobody listens on. Its inode. */
static ino_t leave_stale(struct fixture *f)
{
    struct stat found;
    start(f);
    close(f->listener.fd);
    f->listener.fd = -1;
    assert_int_equal(lstat(f->path, &found), 0);
    return found.st_ino;
}

/* Whether somebody listens: a full backlog says so too. */
static bool is_live(const char *path)
{
    struct sockaddr_un address;
    assert_int_equal(socket_path_address(path, &address, NULL), STATUS_OK);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    int result = connect(fd, (const struct sockaddr *)&address, sizeof(address));
    bool live = result == 0 || errno == EAGAIN;
    close(fd);
    return live;
}

/* A finished socket is at the path, or nothing is, or that stale one. Whether it is the first. */
static bool look(const struct fixture *f, ino_t stale)
{
    struct stat found;
    if (lstat(f->path, &found) != 0) {
        assert_int_equal(errno, ENOENT);
        assert_int_equal(stale, 0); /* replaced in one step */
        return false;
    }
    if (stale != 0 && found.st_ino == stale)
        return false;
    assert_true(S_ISSOCK(found.st_mode));
    assert_int_equal(found.st_mode & 07777, WANTED_MODE);
    assert_int_equal(found.st_gid, f->options.group);
    assert_true(is_live(f->path));
    return true;
}

/* ---- a traced start ---- */

static void child_start(struct fixture *f)
{
    umask(0);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(2);
    raise(SIGSTOP);
    _exit(socket_path_listen(f->path, &f->options, 8, &f->listener, NULL) == STATUS_OK ? 0 : 3);
}

/* A stopped child that is about to start; -1 where processes may not be traced. */
static pid_t traced_start(struct fixture *f)
{
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        child_start(f);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        return -1;
    assert_true(WIFSTOPPED(status));
    const long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD;
    assert_int_equal(ptrace(PTRACE_SETOPTIONS, child, NULL, options), 0);
    return child;
}

/* On to the child's next system call, or the end of this one; false when it has started and gone.
 */
static bool traced_step(pid_t child)
{
    int status = 0;
    assert_int_equal(ptrace(PTRACE_SYSCALL, child, NULL, NULL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) {
        assert_int_equal(WEXITSTATUS(status), 0);
        return false;
    }
    assert_true(WIFSTOPPED(status));
    assert_int_equal(WSTOPSIG(status), SYSCALL_STOP);
    return true;
}

static void traced_kill(pid_t child)
{
    int status = 0;
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

/* Each private directory is closed to others. How many there are. */
static int look_at_private_directories(const struct fixture *f)
{
    int count = 0;
    struct stat found;
    DIR *list = opendir(f->dir);
    assert_non_null(list);
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        if (strncmp(entry->d_name, ".nightjar-", 10) != 0)
            continue;
        assert_int_equal(fstatat(dirfd(list), entry->d_name, &found, AT_SYMLINK_NOFOLLOW), 0);
        assert_true(S_ISDIR(found.st_mode));
        assert_int_equal(found.st_mode & 0077, 0);
        count++;
    }
    closedir(list);
    return count;
}

static void watch_start(struct fixture *f, ino_t stale)
{
    int finished = 0, private = 0, stops = 0;
    pid_t child = traced_start(f);
    if (child < 0)
        skip();
    for (; traced_step(child) && stops < STOPS_MAX; stops++) {
        finished += look(f, stale);
        private += look_at_private_directories(f);
    }
    assert_true(stops < STOPS_MAX);
    assert_true(private > 0);
    assert_true(finished > 0);
}

static void a_new_socket_is_never_seen_unfinished(void **state)
{
    watch_start(*state, 0);
}

static void a_stale_socket_is_replaced_in_one_step(void **state)
{
    watch_start(*state, leave_stale(*state));
}

/* Kills a start at its n-th stop for each n; the next finds its way and leaves only its socket. */
static void kill_starts(struct fixture *f, bool stale)
{
    int left = 0, n = 0;
    for (bool ended = false; !ended && n < STOPS_MAX; n++) {
        if (stale)
            leave_stale(f);
        pid_t child = traced_start(f);
        if (child < 0)
            skip();
        for (int stop = 0; !ended && stop < n; stop++)
            ended = !traced_step(child);
        if (!ended)
            traced_kill(child);
        left += look_at_private_directories(f);
        start(f);
        assert_int_equal(directory_fixture_entries(f->dir), 1);
        look(f, 0);
        socket_path_close(&f->listener);
        assert_int_equal(directory_fixture_entries(f->dir), 0);
    }
    assert_true(n < STOPS_MAX);
    assert_true(left > 1);
}

static void what_a_killed_start_leaves_the_next_removes(void **state)
{
    kill_starts(*state, false);
}

static void what_a_killed_start_over_a_stale_socket_leaves_the_next_removes(void **state)
{
    kill_starts(*state, true);
}

/* ---- what looks like a leftover ---- */

static void make_socket(const char *path)
{
    struct sockaddr_un address;
    assert_int_equal(socket_path_address(path, &address, NULL), STATUS_OK);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
}

/* dir/NAME[/ENTRY] */
static const char *path_in(const struct fixture *f, char path[PATH_BYTES], const char *name,
                           const char *entry)
{
    snprintf(path, PATH_BYTES, "%.96s/%.100s%s%.100s", f->dir, name, *entry ? "/" : "", entry);
    return path;
}

static bool is_there(const struct fixture *f, const char *name, const char *entry)
{
    char path[PATH_BYTES];
    struct stat found;
    return lstat(path_in(f, path, name, entry), &found) == 0;
}

static void only_what_a_start_can_have_left_is_removed(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {
        ".nightjar-empty0",     ".nightjar-socket", ".nightjar-2socks", ".nightjar-files0",
        ".nightjar-longer.old", ".nightjar-a.b.c.", "nightjar-aaaaaa0", ".nightjar-theirs"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        assert_int_equal(mkdir(path_in(f, path, names[i], ""), 0700), 0);
    make_socket(path_in(f, path, ".nightjar-socket", "s"));
    make_socket(path_in(f, path, ".nightjar-2socks", "s"));
    make_socket(path_in(f, path, ".nightjar-2socks", "t"));
    directory_fixture_write(path_in(f, path, ".nightjar-files0", "a"), "a", 1);
    directory_fixture_write(path_in(f, path, ".nightjar-afile0", ""), "a", 1);
    assert_int_equal(symlink(".nightjar-longer.old", path_in(f, path, ".nightjar-alink0", "")), 0);
    const bool root = geteuid() == 0;
    if (root)
        assert_int_equal(chown(path_in(f, path, ".nightjar-theirs", ""), 65534, 65534), 0);
    start(f);
    assert_false(is_there(f, ".nightjar-empty0", ""));
    assert_false(is_there(f, ".nightjar-socket", ""));
    assert_true(is_there(f, ".nightjar-2socks", "s"));
    assert_true(is_there(f, ".nightjar-2socks", "t"));
    assert_true(is_there(f, ".nightjar-files0", "a"));
    assert_true(is_there(f, ".nightjar-afile0", ""));
    assert_true(is_there(f, ".nightjar-alink0", ""));
    assert_true(is_there(f, ".nightjar-longer.old", ""));
    assert_true(is_there(f, ".nightjar-a.b.c.", ""));
    assert_true(is_there(f, "nightjar-aaaaaa0", ""));
    assert_int_equal(is_there(f, ".nightjar-theirs", ""), root);
}

/* ---- a thread that polls ---- */

struct observer {
    const struct fixture *f;
    atomic_int asked; /* rounds that began; the main thread counts */
    atomic_int seen;  /* rounds in which a socket was seen; the observer counts */
    atomic_int wrong; /* sockets that were not as they should be */
};

/* Polls without a pause, and connects as soon as there is something: it must answer. */
static void *observe(void *context)
{
    struct observer *o = context;
    const char *path = o->f->path;
    for (int round = 1; round <= ROUNDS; round++) {
        struct stat found;
        while (lstat(path, &found) != 0)
            continue;
        if (!S_ISSOCK(found.st_mode) || (found.st_mode & 07777) != WANTED_MODE ||
            found.st_gid != o->f->options.group || !is_live(path))
            atomic_fetch_add(&o->wrong, 1);
        atomic_store(&o->seen, round); /* the main thread's closing comes after */
        while (round < ROUNDS && atomic_load(&o->asked) == round)
            sched_yield();
    }
    return NULL;
}

static void an_observer_that_polls_sees_only_finished_sockets(void **state)
{
    struct fixture *f = *state;
    struct observer o = {.f = f};
    pthread_t thread;
    mode_t before = umask(0);
    atomic_store(&o.asked, 1);
    assert_int_equal(pthread_create(&thread, NULL, observe, &o), 0);
    for (int round = 1; round <= ROUNDS; round++) {
        start(f);
        while (atomic_load(&o.seen) < round)
            sched_yield();
        socket_path_close(&f->listener);
        atomic_store(&o.asked, round + 1);
    }
    pthread_join(thread, NULL);
    umask(before);
    assert_int_equal(atomic_load(&o.wrong), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_new_socket_is_never_seen_unfinished),
        TEST(a_stale_socket_is_replaced_in_one_step),
        TEST(what_a_killed_start_leaves_the_next_removes),
        TEST(what_a_killed_start_over_a_stale_socket_leaves_the_next_removes),
        TEST(only_what_a_start_can_have_left_is_removed),
        TEST(an_observer_that_polls_sees_only_finished_sockets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
