/*
 * test_socket_path.c - a socket's file is made, replaced and removed only when that is right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
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
    return result;
}

static void expect_refused(const char *path, enum status status, const char *words)
{
    struct socket_path listener = {.fd = -1};
    struct error err = {0};
    assert_int_equal(socket_path_probe(path, &err), status);
    assert_non_null(strstr(err.text, words));
    assert_int_equal(socket_path_listen(path, 8, &listener, &err), status);
    assert_non_null(strstr(err.text, words));
    assert_int_equal(listener.fd, -1);
}

static bool exists(const char *path)
{
    struct stat found;
    return lstat(path, &found) == 0;
}

static void a_free_path_is_listened_on_with_mode_0600(void **state)
{
    struct fixture *f = *state;
    struct stat found;
    struct error err;
    mode_t before = umask(0);
    assert_int_equal(socket_path_probe(f->path, &err), STATUS_OK);
    assert_false(exists(f->path));
    assert_int_equal(socket_path_listen(f->path, 8, &f->listener, &err), STATUS_OK);
    assert_int_equal(umask(before), 0); /* restored */
    assert_int_equal(lstat(f->path, &found), 0);
    assert_true(S_ISSOCK(found.st_mode));
    assert_int_equal(found.st_mode & 0777, 0600);
    socket_path_close(&f->listener);
    assert_false(exists(f->path));
    socket_path_close(&f->listener); /* again: nothing */
}

static void a_relative_path_works(void **state)
{
    struct fixture *f = *state;
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(here >= 0);
    assert_int_equal(chdir(f->dir), 0);
    enum status status = socket_path_listen("s", 8, &f->listener, NULL);
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
    assert_int_equal(socket_path_listen(f->path, 8, &f->listener, &err), STATUS_OK);
    close(f->listener.fd); /* as a killed daemon leaves it */
    f->listener.fd = -1;
    assert_true(exists(f->path));
    assert_int_equal(socket_path_probe(f->path, &err), STATUS_OK);
    assert_int_equal(socket_path_listen(f->path, 8, &f->listener, &err), STATUS_OK);
}

static void a_live_socket_is_refused_even_with_a_full_backlog(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(socket_path_listen(f->path, 0, &f->listener, NULL), STATUS_OK);
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
    assert_int_equal(socket_path_listen(path, 8, &f->listener, NULL), STATUS_OK);
    assert_int_equal(socket_path_address(path, &address, NULL), STATUS_OK);
    expect_refused("", STATUS_INVALID, "empty");
}

static void a_directory_that_stays_locked_is_given_up_on(void **state)
{
    struct fixture *f = *state;
    struct error err;
    int directory = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(directory >= 0);
    assert_int_equal(flock(directory, LOCK_EX), 0);
    assert_int_equal(socket_path_listen(f->path, 8, &f->listener, &err), STATUS_BUSY);
    assert_non_null(strstr(err.text, "locked"));
    close(directory);
    assert_false(exists(f->path));
}

static void a_socket_that_somebody_replaced_is_not_removed(void **state)
{
    struct fixture *f = *state;
    struct socket_path ours = {.fd = -1};
    assert_int_equal(socket_path_listen(f->path, 8, &ours, NULL), STATUS_OK);
    assert_int_equal(unlink(f->path), 0);
    assert_int_equal(socket_path_listen(f->path, 8, &f->listener, NULL), STATUS_OK);
    socket_path_close(&ours);
    assert_true(exists(f->path));
}

static void a_client_tells_a_missing_socket_from_a_dead_one(void **state)
{
    struct fixture *f = *state;
    struct client *client = NULL;
    struct error err;
    assert_int_equal(client_connect(f->path, &client, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "is nightjard running?"));
    assert_int_equal(socket_path_listen(f->path, 8, &f->listener, &err), STATUS_OK);
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
        TEST(a_relative_path_works),
        TEST(a_stale_socket_is_replaced),
        TEST(a_live_socket_is_refused_even_with_a_full_backlog),
        TEST(what_is_not_a_socket_is_refused_and_kept),
        TEST(a_missing_directory_is_named),
        TEST(a_path_longer_than_the_kernel_takes_is_refused),
        TEST(a_directory_that_stays_locked_is_given_up_on),
        TEST(a_socket_that_somebody_replaced_is_not_removed),
        TEST(a_client_tells_a_missing_socket_from_a_dead_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
