/*
 * test_daemon.c - nightjard as a process: what it says, how it ends, what it refuses.
 *
 * Needs the built programs: the directory is in NIGHTJAR_BUILD (tests/run.sh sets it); without it
 * every test is a reported skip.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/service.h"

enum { OUTPUT_BYTES = 64 << 10, ARGS = 16 };

/* A daemon process and what it has written to stderr so far. */
struct daemon {
    pid_t pid;
    int stderr_fd;
    char output[OUTPUT_BYTES];
    size_t output_bytes;
};

struct fixture {
    struct service_data *data;
    struct daemon daemon;
    char program[SERVICE_PATH_BYTES];
};

static struct fixture fixture;

static int group_setup(void **state)
{
    const char *build = getenv("NIGHTJAR_BUILD");
    fixture.data = service_data_create();
    if (build)
        snprintf(fixture.program, sizeof(fixture.program), "%s/nightjard", build);
    *state = &fixture;
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    service_data_destroy(fixture.data);
    return 0;
}

/* Starts the program with `args` (NULL-terminated, without argv[0]). */
static void daemon_spawn(struct fixture *f, const char *const *args)
{
    int pipe_fd[2];
    char *argv[ARGS] = {f->program};
    for (size_t i = 0; args[i]; i++) {
        assert_true(i + 2 < ARGS);
        argv[i + 1] = strdup(args[i]);
    }
    assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
    f->daemon = (struct daemon){.pid = fork(), .stderr_fd = pipe_fd[0]};
    if (f->daemon.pid == 0) {
        dup2(pipe_fd[1], STDERR_FILENO);
        execv(f->program, argv);
        _exit(127);
    }
    assert_true(f->daemon.pid > 0);
    close(pipe_fd[1]);
    for (size_t i = 1; argv[i]; i++)
        free(argv[i]);
}

/* Reads its stderr until `words` are there (true) or it ends (false). */
static bool daemon_says(struct daemon *daemon, const char *words)
{
    while (!words || !strstr(daemon->output, words)) {
        assert_true(daemon->output_bytes < OUTPUT_BYTES - 1);
        ssize_t got = read(daemon->stderr_fd, daemon->output + daemon->output_bytes,
                           OUTPUT_BYTES - 1 - daemon->output_bytes);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        daemon->output_bytes += (size_t)got;
        daemon->output[daemon->output_bytes] = '\0';
    }
    return true;
}

/* Reads the rest and waits: the exit status, or 1000 + a signal. */
static int daemon_wait(struct daemon *daemon)
{
    int status = 0;
    (void)daemon_says(daemon, NULL);
    assert_int_equal(waitpid(daemon->pid, &status, 0), daemon->pid);
    close(daemon->stderr_fd);
    daemon->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int test_setup(void **state)
{
    struct fixture *f = *state;
    f->daemon = (struct daemon){0};
    return 0;
}

static int test_teardown(void **state)
{
    struct fixture *f = *state;
    if (f->daemon.pid > 0) {
        kill(f->daemon.pid, SIGKILL);
        (void)daemon_wait(&f->daemon);
    }
    unlink(f->data->socket);
    return 0;
}

static struct fixture *need_program(void **state)
{
    struct fixture *f = *state;
    if (!f->program[0]) {
        print_message("NIGHTJAR_BUILD is not set\n");
        skip();
    }
    return f;
}

static void daemon_start(struct fixture *f)
{
    const char *const args[] = {"--root",        f->data->root, "--socket",
                                f->data->socket, "--memory",    "16M",
                                "--threads",     "1",           NULL};
    daemon_spawn(f, args);
    if (!daemon_says(&f->daemon, "event=ready"))
        fail_msg("nightjard did not start: %s", f->daemon.output);
}

/* One line "nightjard: ..." with `words`, and this exit status. */
static void expect_refusal(struct fixture *f, const char *const *args, int exit_status,
                           const char *words)
{
    daemon_spawn(f, args);
    int status = daemon_wait(&f->daemon);
    const char *output = f->daemon.output;
    const char *line_end = strchr(output, '\n');
    if (status != exit_status || strncmp(output, "nightjard: ", 11) != 0 ||
        !strstr(output, words) || !line_end || line_end[1] != '\0')
        fail_msg("exit %d (wanted %d), wanted one line with \"%s\", got: %s", status, exit_status,
                 words, output);
}

static void search_once(struct fixture *f)
{
    float query[SERVICE_DIM];
    struct client *client = NULL;
    struct client_answer answer;
    struct error err;
    service_query(1, query);
    const struct client_search search = service_search(query, 1, 10);
    if (client_connect(f->data->socket, &client, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
    assert_int_equal(answer.results[0].hit_count, 10);
    client_close(client);
}

static bool exists(const char *path)
{
    struct stat found;
    return lstat(path, &found) == 0;
}

/* ---- tests ---- */

static void start_up_reports_what_is_pinned_and_serves(void **state)
{
    struct fixture *f = need_program(state);
    struct stat found;
    daemon_start(f);
    static const char *const wanted[] = {
        "event=start",   "generation=",  "vectors=600",  "dim=16",
        "type=f32",      "metric=l2",    "threads=1",    "io=\"",
        "scalar_bits=",  "code_bytes=",  "codes_bytes=", "navigation_bytes=",
        "lists_bytes=0", "cache_bytes=", "hot_nodes=",   "resident=yes",
        "socket="};
    for (size_t i = 0; i < ARRAY_LENGTH(wanted); i++)
        if (!strstr(f->daemon.output, wanted[i]))
            fail_msg("\"%s\" is not in: %s", wanted[i], f->daemon.output);
    assert_int_equal(stat(f->data->socket, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0600);
    search_once(f);
}

static void termination_signals_drain_and_remove_the_socket(void **state)
{
    struct fixture *f = need_program(state);
    static const int signals[] = {SIGTERM, SIGINT};
    for (size_t i = 0; i < ARRAY_LENGTH(signals); i++) {
        struct client *client = NULL;
        struct client_answer answer;
        struct error err;
        daemon_start(f);
        search_once(f);
        assert_int_equal(client_connect(f->data->socket, &client, &err), STATUS_OK);
        assert_int_equal(kill(f->daemon.pid, signals[i]), 0);
        assert_int_equal(daemon_wait(&f->daemon), 0);
        assert_non_null(strstr(f->daemon.output, "event=stop"));
        assert_false(exists(f->data->socket));
        float query[SERVICE_DIM] = {0};
        const struct client_search search = service_search(query, 1, 10);
        assert_int_equal(client_search(client, &search, &answer, &err), STATUS_IO);
        client_close(client);
    }
}

static void answers_in_flight_at_the_signal_arrive_or_the_end_does(void **state)
{
    enum { REQUESTS = 200 };
    struct fixture *f = need_program(state);
    struct client *client = NULL;
    struct client_answer answer;
    struct error err;
    float query[SERVICE_DIM];
    service_query(2, query);
    daemon_start(f);
    assert_int_equal(client_connect(f->data->socket, &client, &err), STATUS_OK);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint64_t id = 0;
        const struct client_search search = service_search(query, 1, 10);
        assert_int_equal(client_send_search(client, &search, &id, &err), STATUS_OK);
    }
    assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
    assert_int_equal(kill(f->daemon.pid, SIGTERM), 0);
    uint32_t received = 1;
    while (received < REQUESTS && client_receive(client, &answer, &err) == STATUS_OK) {
        assert_int_equal(answer.status, STATUS_OK);
        received++;
    }
    assert_int_equal(daemon_wait(&f->daemon), 0);
    client_close(client);
}

static void a_socket_left_by_a_killed_daemon_is_replaced(void **state)
{
    struct fixture *f = need_program(state);
    daemon_start(f);
    assert_int_equal(kill(f->daemon.pid, SIGKILL), 0);
    assert_int_equal(daemon_wait(&f->daemon), 1000 + SIGKILL);
    assert_true(exists(f->data->socket));
    daemon_start(f);
    search_once(f);
}

static void a_second_daemon_on_a_live_socket_is_refused(void **state)
{
    struct fixture *f = need_program(state);
    const char *const args[] = {"--index", f->data->generation, "--socket", f->data->socket, NULL};
    daemon_start(f);
    const struct daemon first = f->daemon;
    expect_refusal(f, args, 1, "in use");
    f->daemon = first;
    search_once(f);
}

static void wrong_paths_are_refused_in_one_line(void **state)
{
    struct fixture *f = need_program(state);
    char missing[SERVICE_PATH_BYTES + 8];
    char too_long[200];
    snprintf(missing, sizeof(missing), "%s/no/s", f->data->dir);
    memset(too_long, 'x', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = '\0';
    const struct {
        const char *const args[5];
        int exit_status;
        const char *words;
    } cases[] = {
        {{"--root", f->data->root, "--socket", missing}, 1, "does not exist"},
        {{"--root", f->data->root, "--socket", too_long}, 1, "at most 107 bytes"},
        {{"--root", f->data->root, "--socket", f->data->root}, 1, "not a socket"},
        {{"--root", f->data->dir, "--socket", f->data->socket}, 1, f->data->dir},
        {{"--index", f->data->root, "--socket", f->data->socket}, 1, f->data->root},
        {{"--root", f->data->root}, 2, "socket"},
        {{"--socket", f->data->socket}, 2, "--root"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        expect_refusal(f, cases[i].args, cases[i].exit_status, cases[i].words);
        assert_false(exists(f->data->socket));
    }
}

static void the_pool_serves_where_io_uring_is_not_wanted(void **state)
{
    struct fixture *f = need_program(state);
    const char *const args[] = {"--index",  f->data->generation,
                                "--socket", f->data->socket,
                                "--memory", "64K",
                                "--io",     "pool",
                                NULL};
    daemon_spawn(f, args);
    if (!daemon_says(&f->daemon, "event=ready"))
        fail_msg("nightjard did not start: %s", f->daemon.output);
    search_once(f);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(start_up_reports_what_is_pinned_and_serves),
        TEST(termination_signals_drain_and_remove_the_socket),
        TEST(answers_in_flight_at_the_signal_arrive_or_the_end_does),
        TEST(a_socket_left_by_a_killed_daemon_is_replaced),
        TEST(a_second_daemon_on_a_live_socket_is_refused),
        TEST(wrong_paths_are_refused_in_one_line),
        TEST(the_pool_serves_where_io_uring_is_not_wanted),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
