/*
 * test_socket_path.c - a socket's file is made, replaced and removed only when that is right, and
 * where nobody else can put one. What others see meanwhile is in test_socket_start.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "query/client.h"
#include "query/socket_path.h"
#include "tests/directory_fixture.h"

enum { PATH_BYTES = 400 };

struct fixture {
    char dir[DIRECTORY_FIXTURE_BYTES];
    char path[PATH_BYTES]; /* dir/s */
    struct socket_path listener;
};

static int setup(void **state)
{
    static struct fixture fixture;
    struct fixture *f = &fixture;
    if (directory_fixture_create(f->dir) != 0)
        return -1;
    snprintf(f->path, sizeof(f->path), "%.96s/s", f->dir);
    f->listener.fd = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    socket_path_close(&f->listener);
    unlink(f->path);
    int result = rmdir(f->dir); /* fails when something was left behind */
    if (result != 0)
        directory_fixture_remove(f->dir);
    return result;
}

/* dir/NAME */
static void path_of(const struct fixture *f, const char *name, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%.96s/%.250s", f->dir, name);
}

static void expect_refused(const char *path, enum status status, const char *words)
{
    struct socket_path listener = {.fd = -1};
    struct error err = {0};
    assert_int_equal(socket_path_probe(path, &err), status);
    assert_non_null(strstr(err.text, words));
    assert_int_equal(socket_path_listen(path, NULL, 8, &listener, &err), status);
    assert_non_null(strstr(err.text, words));
    assert_int_equal(listener.fd, -1);
}

static bool exists(const char *path)
{
    struct stat found;
    return lstat(path, &found) == 0;
}

static void expect_connects(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
    close(fd);
}

static void a_free_path_is_listened_on_with_mode_0600(void **state)
{
    struct fixture *f = *state;
    struct stat found;
    struct error err;
    mode_t before = umask(0);
    assert_int_equal(socket_path_probe(f->path, &err), STATUS_OK);
    assert_false(exists(f->path));
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &f->listener, &err), STATUS_OK);
    assert_int_equal(umask(before), 0); /* restored */
    assert_int_equal(lstat(f->path, &found), 0);
    assert_true(S_ISSOCK(found.st_mode));
    assert_int_equal(found.st_mode & 0777, 0600);
    socket_path_close(&f->listener);
    assert_false(exists(f->path));
    socket_path_close(&f->listener); /* again: nothing */
}

static void mode_and_group_are_those_asked_for(void **state)
{
    struct fixture *f = *state;
    const gid_t group = geteuid() == 0 ? 12345 : getegid();
    const struct socket_path_options options = {.mode = 0660, .group = group};
    struct stat found;
    mode_t before = umask(0077);
    assert_int_equal(socket_path_listen(f->path, &options, 8, &f->listener, NULL), STATUS_OK);
    umask(before);
    assert_int_equal(lstat(f->path, &found), 0);
    assert_int_equal(found.st_mode & 07777, 0660);
    assert_int_equal(found.st_gid, group);
    assert_int_equal(found.st_uid, geteuid());
}

static void a_mode_of_more_than_permissions_is_refused(void **state)
{
    struct fixture *f = *state;
    const struct socket_path_options options = {.mode = 01660, .group = SOCKET_PATH_GROUP_KEPT};
    struct error err;
    assert_int_equal(socket_path_listen(f->path, &options, 8, &f->listener, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "mode 1660"));
    assert_false(exists(f->path));
}

/* As somebody who may not give files to group 0: 0 when that is refused and leaves nothing. */
static int child_gives_away(const char *dir)
{
    enum { NOBODY = 65534 };
    const struct socket_path_options options = {.mode = 0660, .group = 0};
    struct socket_path listener = {.fd = -1};
    struct error err;
    if (chdir(dir) != 0 || setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0)
        return 2;
    if (socket_path_listen("s", &options, 8, &listener, &err) != STATUS_IO)
        return 3;
    return strstr(err.text, "cannot give it to group 0") ? 0 : 4;
}

static void a_group_that_may_not_be_given_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    int status = -1;
    if (geteuid() != 0)
        skip();
    assert_int_equal(chown(f->dir, 65534, 65534), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(child_gives_away(f->dir));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(directory_fixture_entries(f->dir), 0);
}

static void a_relative_path_works(void **state)
{
    struct fixture *f = *state;
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(here >= 0);
    assert_int_equal(chdir(f->dir), 0);
    enum status status = socket_path_listen("s", NULL, 8, &f->listener, NULL);
    bool made = exists(f->path);
    socket_path_close(&f->listener);
    assert_int_equal(fchdir(here), 0);
    close(here);
    assert_int_equal(status, STATUS_OK);
    assert_true(made);
}

static void a_stale_socket_is_replaced(void **state)
{
    struct fixture *f = *state;
    struct error err;
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &f->listener, &err), STATUS_OK);
    close(f->listener.fd); /* as a killed daemon leaves it */
    f->listener.fd = -1;
    assert_true(exists(f->path));
    assert_int_equal(socket_path_probe(f->path, &err), STATUS_OK);
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &f->listener, &err), STATUS_OK);
}

static void a_live_socket_is_refused_even_with_a_full_backlog(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(socket_path_listen(f->path, NULL, 0, &f->listener, NULL), STATUS_OK);
    expect_refused(f->path, STATUS_EXISTS, "in use");
    expect_refused(f->path, STATUS_EXISTS, "in use"); /* the first probes fill the backlog */
    assert_true(exists(f->path));
}

static void what_is_not_a_socket_is_refused_and_kept(void **state)
{
    struct fixture *f = *state;
    int fd = open(f->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    close(fd);
    expect_refused(f->path, STATUS_EXISTS, "not a socket");
    assert_true(exists(f->path));
    assert_int_equal(unlink(f->path), 0);
    assert_int_equal(mkdir(f->path, 0755), 0);
    expect_refused(f->path, STATUS_EXISTS, "not a socket");
    assert_int_equal(rmdir(f->path), 0);
    assert_int_equal(symlink("/nonexistent/target", f->path), 0);
    expect_refused(f->path, STATUS_EXISTS, "not a socket");
    assert_true(exists(f->path));
}

static void a_missing_directory_is_named(void **state)
{
    struct fixture *f = *state;
    char path[PATH_BYTES + 8];
    snprintf(path, sizeof(path), "%s/no/s", f->dir);
    expect_refused(path, STATUS_NOT_FOUND, "/no does not exist");
}

static void a_path_that_ends_in_a_slash_is_refused(void **state)
{
    struct fixture *f = *state;
    char path[PATH_BYTES];
    path_of(f, "", path);
    expect_refused(path, STATUS_INVALID, "names a directory");
}

/* `name` is refused for its part `link`, and the path without links, dir/REAL, is told. */
static void expect_link_refused(const struct fixture *f, const char *name, const char *link,
                                const char *real)
{
    char path[PATH_BYTES], words[PATH_BYTES + 64], remedy[2 * PATH_BYTES];
    path_of(f, name, path);
    path_of(f, link, words);
    snprintf(words + strlen(words), 64, ": a symbolic link in the socket's path");
    expect_refused(path, STATUS_INVALID, words);
    snprintf(remedy, sizeof(remedy), "give the real path, %s/%s", f->dir, real);
    expect_refused(path, STATUS_INVALID, remedy);
}

static void a_link_in_the_path_is_refused_with_the_real_path(void **state)
{
    struct fixture *f = *state;
    char real[PATH_BYTES], deep[PATH_BYTES], link[PATH_BYTES], inner[PATH_BYTES];
    path_of(f, "real", real);
    path_of(f, "real/deep", deep);
    path_of(f, "link", link);
    path_of(f, "real/inner", inner);
    assert_int_equal(mkdir(real, 0755), 0);
    assert_int_equal(mkdir(deep, 0755), 0);
    assert_int_equal(symlink("real", link), 0);
    assert_int_equal(symlink("deep", inner), 0);
    expect_link_refused(f, "link/s", "link", "real/s");
    expect_link_refused(f, "link/deep/s", "link", "real/deep/s");
    expect_link_refused(f, "real/inner/s", "real/inner", "real/deep/s");
    expect_link_refused(f, "real//../link/./deep/s", "real//../link", "real/deep/s");
    assert_int_equal(directory_fixture_entries(deep), 0);

    char path[PATH_BYTES]; /* the way without links, with the rest of what a path may have */
    path_of(f, "real/.//deep/../deep/s", path);
    assert_int_equal(socket_path_listen(path, NULL, 8, &f->listener, NULL), STATUS_OK);
    socket_path_close(&f->listener);
    assert_int_equal(directory_fixture_entries(deep), 0);
    assert_int_equal(unlink(inner), 0);
    assert_int_equal(rmdir(deep), 0);
    path_of(f, "link/deep/s", path); /* leads nowhere now: no real path to tell */
    expect_refused(path, STATUS_INVALID, "/link: a symbolic link");
    assert_int_equal(rmdir(real), 0);
    assert_int_equal(unlink(link), 0);
}

static void a_link_to_a_socket_is_refused_and_kept(void **state)
{
    struct fixture *f = *state;
    char link[PATH_BYTES];
    path_of(f, "link", link);
    assert_int_equal(symlink("s", link), 0);
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &f->listener, NULL), STATUS_OK);
    expect_refused(link, STATUS_EXISTS, "not a socket");
    close(f->listener.fd); /* stale now: not to be replaced through the link */
    f->listener.fd = -1;
    expect_refused(link, STATUS_EXISTS, "not a socket");
    assert_true(exists(f->path));
    assert_int_equal(unlink(link), 0);
}

static void a_directory_that_everyone_may_write_is_refused(void **state)
{
    struct fixture *f = *state;
    char inner[PATH_BYTES], path[PATH_BYTES];
    path_of(f, "inner", inner);
    path_of(f, "inner/s", path);
    assert_int_equal(mkdir(inner, 0755), 0);
    assert_int_equal(chmod(f->dir, 0777), 0);
    expect_refused(f->path, STATUS_INVALID, "everyone may write directory");
    expect_refused(path, STATUS_INVALID, f->dir); /* above it, too */
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(here >= 0);
    assert_int_equal(chdir(f->dir), 0);
    expect_refused("s", STATUS_INVALID, "everyone may write directory . and");
    assert_int_equal(fchdir(here), 0);
    close(here);
    assert_int_equal(chmod(f->dir, 01777), 0);
    assert_int_equal(socket_path_listen(path, NULL, 8, &f->listener, NULL), STATUS_OK);
    socket_path_close(&f->listener);
    assert_int_equal(rmdir(inner), 0);
    assert_int_equal(chmod(f->dir, 0775), 0); /* a group's directory is the operator's wish */
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &f->listener, NULL), STATUS_OK);
}

static void a_path_longer_than_the_kernel_takes_is_refused(void **state)
{
    struct fixture *f = *state;
    char path[SOCKET_PATH_MAX + 2];
    struct sockaddr_un address;
    memset(path, 'x', sizeof(path));
    memcpy(path, f->dir, strlen(f->dir));
    path[strlen(f->dir)] = '/';
    path[SOCKET_PATH_MAX + 1] = '\0';
    expect_refused(path, STATUS_INVALID, "at most 107 bytes");
    path[SOCKET_PATH_MAX] = '\0';
    assert_int_equal(socket_path_listen(path, NULL, 8, &f->listener, NULL), STATUS_OK);
    assert_int_equal(socket_path_address(path, &address, NULL), STATUS_OK);
    expect_connects(&address);
    expect_refused(path, STATUS_EXISTS, "in use");
    socket_path_close(&f->listener);
    assert_false(exists(path));
    expect_refused("", STATUS_INVALID, "empty");
}

/* The name is as long as the whole path, so nothing fits before it. */
static void a_name_of_the_longest_path_works(void **state)
{
    struct fixture *f = *state;
    char name[SOCKET_PATH_MAX + 1];
    struct sockaddr_un address;
    memset(name, 'x', SOCKET_PATH_MAX);
    name[SOCKET_PATH_MAX] = '\0';
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(here >= 0);
    assert_int_equal(chdir(f->dir), 0);
    assert_int_equal(socket_path_listen(name, NULL, 8, &f->listener, NULL), STATUS_OK);
    assert_int_equal(socket_path_address(name, &address, NULL), STATUS_OK);
    expect_connects(&address);
    socket_path_close(&f->listener);
    assert_int_equal(fchdir(here), 0);
    close(here);
    assert_int_equal(directory_fixture_entries(f->dir), 0);
}

static void a_directory_that_stays_locked_is_given_up_on(void **state)
{
    struct fixture *f = *state;
    struct error err;
    int directory = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(directory >= 0);
    assert_int_equal(flock(directory, LOCK_EX), 0);
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &f->listener, &err), STATUS_BUSY);
    assert_non_null(strstr(err.text, "locked"));
    close(directory);
    assert_false(exists(f->path));
}

static void a_socket_that_somebody_replaced_is_not_removed(void **state)
{
    struct fixture *f = *state;
    struct socket_path ours = {.fd = -1};
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &ours, NULL), STATUS_OK);
    assert_int_equal(unlink(f->path), 0);
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &f->listener, NULL), STATUS_OK);
    socket_path_close(&ours);
    assert_true(exists(f->path));
}

/* ---- sockets that were handed over ---- */

static void an_adopted_socket_serves_and_its_file_stays(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(socket_path_address(f->path, &address, NULL), STATUS_OK);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(socket_path_adopt(fd, &f->listener, NULL), STATUS_OK);
    assert_int_equal(f->listener.fd, fd);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    expect_connects(&address);
    socket_path_close(&f->listener);
    assert_int_equal(f->listener.fd, -1);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    assert_true(exists(f->path));
}

static void expect_not_adopted(int fd, const char *words)
{
    struct socket_path listener = {.fd = -1};
    struct error err;
    assert_int_equal(socket_path_adopt(fd, &listener, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, words));
    assert_int_equal(listener.fd, -1);
    if (fd >= 0)
        assert_int_equal(close(fd), 0); /* still the caller's */
}

static void what_is_no_listening_unix_stream_socket_is_not_adopted(void **state)
{
    (void)state;
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    expect_not_adopted(-1, "not open");
    expect_not_adopted(open("/dev/null", O_RDONLY | O_CLOEXEC), "not a socket");
    expect_not_adopted(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "not a Unix stream socket");
    expect_not_adopted(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "does not listen");
    int packets = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(packets, (const struct sockaddr *)&any, sizeof(any.sun_family)), 0);
    assert_int_equal(listen(packets, 1), 0);
    expect_not_adopted(packets, "not a Unix stream socket");
    int internet = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (internet >= 0) /* a network namespace without it has nothing to hand over either */
        expect_not_adopted(internet, "not a Unix stream socket");
}

static void a_client_tells_a_missing_socket_from_a_dead_one(void **state)
{
    struct fixture *f = *state;
    struct client *client = NULL;
    struct error err;
    assert_int_equal(client_connect(f->path, &client, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "is nightjard running?"));
    assert_int_equal(socket_path_listen(f->path, NULL, 8, &f->listener, &err), STATUS_OK);
    close(f->listener.fd);
    f->listener.fd = -1;
    assert_int_equal(client_connect(f->path, &client, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "nobody listens"));
    assert_null(client);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_free_path_is_listened_on_with_mode_0600),
        TEST(mode_and_group_are_those_asked_for),
        TEST(a_mode_of_more_than_permissions_is_refused),
        TEST(a_group_that_may_not_be_given_leaves_nothing),
        TEST(a_relative_path_works),
        TEST(a_stale_socket_is_replaced),
        TEST(a_live_socket_is_refused_even_with_a_full_backlog),
        TEST(what_is_not_a_socket_is_refused_and_kept),
        TEST(a_missing_directory_is_named),
        TEST(a_path_that_ends_in_a_slash_is_refused),
        TEST(a_link_in_the_path_is_refused_with_the_real_path),
        TEST(a_link_to_a_socket_is_refused_and_kept),
        TEST(a_directory_that_everyone_may_write_is_refused),
        TEST(a_path_longer_than_the_kernel_takes_is_refused),
        TEST(a_name_of_the_longest_path_works),
        TEST(a_directory_that_stays_locked_is_given_up_on),
        TEST(a_socket_that_somebody_replaced_is_not_removed),
        TEST(an_adopted_socket_serves_and_its_file_stays),
        TEST(what_is_no_listening_unix_stream_socket_is_not_adopted),
        TEST(a_client_tells_a_missing_socket_from_a_dead_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
