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
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/random.h"
#include "layout/publish.h"
#include "tests/service.h"

enum { OUTPUT_BYTES = 64 << 10, ARGS = 16, PATIENCE_MS = 60000 };

/* A daemon process and what it has written to stderr so far. */
struct daemon {
    pid_t pid;
    int stderr_fd;
    char output[OUTPUT_BYTES];
    size_t output_bytes;
    size_t forgotten; /* bytes in which daemon_says() does not look */
};

/* How one is started, beside its arguments. */
struct surroundings {
    const char *const *environment; /* NAME=VALUE; NULL ends it; or NULL */
    int listener;                   /* handed over as a service manager does; 0: none */
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
    service_generation_make(fixture.data, "second", 7, SERVICE_CODE_BYTES);
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

/* In the child: the descriptor where sd_listen_fds(3) looks for it. */
static void hand_over(int listener)
{
    enum { FIRST_FD = 3 };
    char pid[16];
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "1", 1);
    if (listener == FIRST_FD)
        (void)fcntl(listener, F_SETFD, 0);
    else
        dup2(listener, FIRST_FD);
}

/* Starts the program with `args` (NULL-terminated, without argv[0]). */
static void daemon_spawn_in(struct fixture *f, const char *const *args,
                            const struct surroundings *surroundings)
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
        for (const char *const *e = surroundings->environment; e && *e; e++)
            putenv((char *)(uintptr_t)*e);
        if (surroundings->listener)
            hand_over(surroundings->listener);
        execv(f->program, argv);
        _exit(127);
    }
    assert_true(f->daemon.pid > 0);
    close(pipe_fd[1]);
    for (size_t i = 1; argv[i]; i++)
        free(argv[i]);
}

static void daemon_spawn(struct fixture *f, const char *const *args)
{
    const struct surroundings none = {.environment = NULL};
    daemon_spawn_in(f, args, &none);
}

/* Reads its stderr until `words` are there (true) or it ends (false). */
static bool daemon_says(struct daemon *daemon, const char *words)
{
    while (!words || !strstr(daemon->output + daemon->forgotten, words)) {
        struct pollfd more = {.fd = daemon->stderr_fd, .events = POLLIN};
        assert_true(daemon->output_bytes < OUTPUT_BYTES - 1);
        if (poll(&more, 1, PATIENCE_MS) == 0)
            fail_msg("waited %d ms for \"%s\", got: %s", (int)PATIENCE_MS,
                     words ? words : "the end", daemon->output);
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

/* As daemon_says(), which must be true, of what it says from now on. */
static void daemon_says_next(struct daemon *daemon, const char *words)
{
    if (!daemon_says(daemon, words))
        fail_msg("\"%s\" is not in: %s", words, daemon->output);
    daemon->forgotten = daemon->output_bytes;
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
    return publish_generation(f->data->root, "gen", NULL) == STATUS_OK ? 0 : -1;
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

static void publish(const struct fixture *f, const char *name)
{
    struct error err;
    if (publish_generation(f->data->root, name, &err) != STATUS_OK)
        fail_msg("%s", err.text);
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

/* ---- the next generation ---- */

static void a_publish_is_noticed(void **state)
{
    struct fixture *f = need_program(state);
    daemon_start(f);
    publish(f, "second");
    daemon_says_next(&f->daemon, "event=swap ");
    assert_non_null(strstr(f->daemon.output, "name=\"second\""));
    search_once(f);
    publish(f, "gen");
    daemon_says_next(&f->daemon, "event=swap ");
    search_once(f);
}

/* The root is a link that is pointed elsewhere: of that no event tells. */
static void a_hangup_has_it_look_again(void **state)
{
    struct fixture *f = need_program(state);
    char link[SERVICE_PATH_BYTES], next[SERVICE_PATH_BYTES], other[SERVICE_PATH_BYTES];
    char generation[SERVICE_PATH_BYTES + 8], back[SERVICE_PATH_BYTES + 8];
    struct error err;
    snprintf(link, sizeof(link), "%s/link", f->data->dir);
    snprintf(next, sizeof(next), "%s/next", f->data->dir);
    snprintf(other, sizeof(other), "%s/other", f->data->dir);
    snprintf(generation, sizeof(generation), "%s/second", f->data->root);
    snprintf(back, sizeof(back), "%s/second", other);
    assert_int_equal(symlink(f->data->root, link), 0);
    const char *const args[] = {"--root",    link, "--socket", f->data->socket,
                                "--threads", "1",  NULL};
    daemon_spawn(f, args);
    daemon_says_next(&f->daemon, "event=ready");
    assert_int_equal(mkdir(other, 0755), 0);
    assert_int_equal(rename(generation, back), 0);
    if (publish_generation(other, "second", &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(symlink(other, next), 0);
    assert_int_equal(rename(next, link), 0);
    assert_int_equal(kill(f->daemon.pid, SIGHUP), 0);
    daemon_says_next(&f->daemon, "name=\"second\"");
    search_once(f);
    assert_int_equal(rename(back, generation), 0);
}

static void a_hangup_does_not_end_one_that_serves_a_fixed_index(void **state)
{
    struct fixture *f = need_program(state);
    const char *const args[] = {
        "--index", f->data->generation, "--socket", f->data->socket, "--threads", "1", NULL};
    daemon_spawn(f, args);
    daemon_says_next(&f->daemon, "event=ready");
    assert_int_equal(kill(f->daemon.pid, SIGHUP), 0);
    daemon_says_next(&f->daemon, "event=not-reloaded");
    search_once(f);
}

static void a_fallback_at_the_start_is_loud(void **state)
{
    struct fixture *f = need_program(state);
    char manifest[SERVICE_PATH_BYTES + 32], away[SERVICE_PATH_BYTES + 32];
    snprintf(manifest, sizeof(manifest), "%s/second/manifest.json", f->data->root);
    snprintf(away, sizeof(away), "%s/manifest.json", f->data->dir);
    publish(f, "second");
    assert_int_equal(rename(manifest, away), 0);
    daemon_start(f);
    assert_non_null(strstr(f->daemon.output, "level=error event=fallback serving=\"gen\""));
    assert_non_null(strstr(f->daemon.output, "second/manifest.json"));
    search_once(f);
    assert_int_equal(rename(away, manifest), 0);
    assert_int_equal(kill(f->daemon.pid, SIGHUP), 0);
    daemon_says_next(&f->daemon, "event=swap ");
    search_once(f);
}

/* ---- options ---- */

static void options_that_make_no_sense_are_refused_in_one_line(void **state)
{
    struct fixture *f = need_program(state);
    char nowhere[SERVICE_PATH_BYTES + 8];
    snprintf(nowhere, sizeof(nowhere), "%s/nowhere", f->data->dir);
    static const struct {
        const char *option, *value, *words;
    } cases[] = {
        {"--socket-mode", "9", "--socket-mode 9"},
        {"--socket-mode", "", "empty"},
        {"--socket-mode", "0066", "0600"},
        {"--socket-mode", "1777", "octal"},
        {"--socket-group", "no-such-group", "no such group"},
        {"--socket-group", "", "empty"},
        {"--socket-group", "4294967295", "no such group"},
        {"--allow", "", "empty"},
        {"--allow", "root,,1", "empty"},
        {"--allow", "no-such-user", "no-such-user"},
        {"--allow", "@no-such-group", "no-such-group"},
        {"--swap", "sometimes", "overlap"},
        {"--stall-ms", "0", "--stall-ms"},
        {"--read-timeout-ms", "0", "--read-timeout-ms"},
        {"--index", "x", "--root and --index"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const char *const args[] = {"--root",        f->data->root,  "--socket", f->data->socket,
                                    cases[i].option, cases[i].value, NULL};
        expect_refusal(f, args, 2, cases[i].words);
        assert_false(exists(f->data->socket));
    }
    const char *const missing[] = {"--root", nowhere, "--socket", f->data->socket, NULL};
    expect_refusal(f, missing, 1, "nowhere");
}

static void the_socket_file_is_as_asked(void **state)
{
    struct fixture *f = need_program(state);
    struct stat found;
    const char *const args[] = {"--root",        f->data->root, "--socket",
                                f->data->socket, "--allow",     "root,12345,@1",
                                "--socket-mode", "0660",        NULL};
    daemon_spawn(f, args);
    daemon_says_next(&f->daemon, "event=ready");
    assert_int_equal(stat(f->data->socket, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0660);
    search_once(f);
}

/* ---- a service manager ---- */

static int bind_socket(const char *path, int type)
{
    struct sockaddr_un address;
    const struct timeval patience = {.tv_sec = 60};
    assert_int_equal(socket_path_address(path, &address, NULL), STATUS_OK);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* Receives notices until one has a line that begins with `words`; those before it have not. */
static void expect_notice(int fd, const char *words)
{
    char notice[1024];
    do {
        ssize_t got = recv(fd, notice, sizeof(notice) - 1, 0);
        if (got <= 0)
            fail_msg("no notice with %s came", words);
        notice[got] = '\0';
    } while (!strstr(notice, words));
}

/* Nobody connects until it has given signs of life: they do not depend on clients. */
static void a_service_manager_hands_over_the_socket_and_is_told(void **state)
{
    struct fixture *f = need_program(state);
    char path[SERVICE_PATH_BYTES], variable[SERVICE_PATH_BYTES + 16];
    snprintf(path, sizeof(path), "%s/notify", f->data->dir);
    snprintf(variable, sizeof(variable), "NOTIFY_SOCKET=%s", path);
    int manager = bind_socket(path, SOCK_DGRAM);
    int listener = bind_socket(f->data->socket, SOCK_STREAM);
    assert_int_equal(listen(listener, 8), 0);
    const char *const args[] = {"--root", f->data->root, "--threads", "1", NULL};
    const char *const environment[] = {variable, "WATCHDOG_USEC=2000000", NULL};
    const struct surroundings surroundings = {environment, listener};
    daemon_spawn_in(f, args, &surroundings);
    close(listener);
    expect_notice(manager, "READY=1\nSTATUS=serving gen");
    expect_notice(manager, "WATCHDOG=1");
    expect_notice(manager, "WATCHDOG=1");
    daemon_says_next(&f->daemon, "event=ready socket=handed-over");
    search_once(f);
    publish(f, "second");
    expect_notice(manager, "STATUS=serving second");
    expect_notice(manager, "WATCHDOG=1");
    search_once(f);
    assert_int_equal(kill(f->daemon.pid, SIGTERM), 0);
    expect_notice(manager, "STOPPING=1");
    assert_int_equal(daemon_wait(&f->daemon), 0);
    /* The socket is the manager's. */
    assert_true(exists(f->data->socket));
    close(manager);
}

static void a_socket_too_many_is_refused(void **state)
{
    struct fixture *f = need_program(state);
    char path[SERVICE_PATH_BYTES];
    snprintf(path, sizeof(path), "%s/handed", f->data->dir);
    int listener = bind_socket(path, SOCK_STREAM);
    assert_int_equal(listen(listener, 8), 0);
    const char *const args[] = {"--root", f->data->root, "--socket", f->data->socket, NULL};
    const struct surroundings surroundings = {NULL, listener};
    daemon_spawn_in(f, args, &surroundings);
    assert_int_equal(daemon_wait(&f->daemon), 1);
    assert_non_null(strstr(f->daemon.output, "hands over a socket too"));
    close(listener);
}

/* ---- sudden ends ---- */

struct crowd {
    const char *socket;
    pthread_t thread;
    _Atomic bool stop;
    _Atomic uint32_t answers, faults;
};

/* A thread, no cmocka in here. Asks, and connects again when the daemon is gone. */
static void *crowd_main(void *context)
{
    struct crowd *crowd = context;
    float query[SERVICE_DIM];
    service_query(3, query);
    const struct client_search search = service_search(query, 1, 10);
    while (!atomic_load(&crowd->stop)) {
        struct client *client = NULL;
        struct client_answer answer;
        enum status status = client_connect(crowd->socket, &client, NULL);
        while (status == STATUS_OK && !atomic_load(&crowd->stop)) {
            status = client_search(client, &search, &answer, NULL);
            if (status == STATUS_OK)
                atomic_fetch_add(&crowd->answers, 1);
        }
        if (status != STATUS_OK && status != STATUS_IO && status != STATUS_NOT_FOUND)
            atomic_fetch_add(&crowd->faults, 1);
        client_close(client);
    }
    return NULL;
}

static void one_that_is_killed_at_any_moment_serves_again(void **state)
{
    enum { ROUNDS = 6, SEED = 5, ANSWERS = 300 };
    struct fixture *f = need_program(state);
    struct crowd crowd = {.socket = f->data->socket};
    assert_int_equal(pthread_create(&crowd.thread, NULL, crowd_main, &crowd), 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t more = (uint32_t)(random_unit(SEED, round) * ANSWERS);
        daemon_start(f);
        publish(f, round % 2 ? "gen" : "second"); /* it may be about to swap, too */
        uint32_t wanted = atomic_load(&crowd.answers) + more;
        while (atomic_load(&crowd.answers) < wanted)
            sched_yield();
        assert_int_equal(kill(f->daemon.pid, SIGKILL), 0);
        assert_int_equal(daemon_wait(&f->daemon), 1000 + SIGKILL);
        assert_true(exists(f->data->socket));
    }
    atomic_store(&crowd.stop, true);
    pthread_join(crowd.thread, NULL);
    assert_int_equal(crowd.faults, 0);
    daemon_start(f);
    search_once(f);
}

/* ---- clocks ---- */

/* What the faketime command would have the loader load; "" where it is not installed. */
static void faketime_library(char *out, size_t out_bytes)
{
    out[0] = '\0';
    FILE *pipe = popen("faketime -f +0 sh -c 'echo \"LD_PRELOAD=$LD_PRELOAD\"' 2>/dev/null", "r");
    if (pipe && !fgets(out, (int)out_bytes, pipe))
        out[0] = '\0';
    if (!pipe || pclose(pipe) != 0)
        out[0] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

/* Only the log's times follow: a publish is noticed, and a timeout of a minute is not over. */
static void the_wall_clock_may_jump(void **state)
{
    static const char *const jumps[] = {"+400d", "-400d", "+0", "-9000d", "+3d"};
    struct fixture *f = need_program(state);
    const char *mode = getenv("NIGHTJAR_MODE");
    char preload[SERVICE_PATH_BYTES], clock[SERVICE_PATH_BYTES], variable[SERVICE_PATH_BYTES + 32];
    struct client *client = NULL;
    struct error err;
    float query[SERVICE_DIM];
    faketime_library(preload, sizeof(preload));
    if (!preload[0] || (mode && strcmp(mode, "release") != 0)) {
        print_message("faketime is not installed, or a sanitizer is to be loaded first\n");
        skip();
    }
    snprintf(clock, sizeof(clock), "%s/clock", f->data->dir);
    snprintf(variable, sizeof(variable), "FAKETIME_TIMESTAMP_FILE=%s", clock);
    directory_fixture_write(clock, "+0\n", 3);
    const char *const args[] = {"--root",    f->data->root, "--socket", f->data->socket,
                                "--threads", "1",           NULL};
    const char *const environment[] = {preload, variable, "FAKETIME_NO_CACHE=1",
                                       "FAKETIME_DONT_FAKE_MONOTONIC=1", NULL};
    const struct surroundings surroundings = {environment, 0};
    daemon_spawn_in(f, args, &surroundings);
    daemon_says_next(&f->daemon, "event=ready");
    assert_int_equal(client_connect(f->data->socket, &client, &err), STATUS_OK);
    service_query(1, query);
    struct client_search search = service_search(query, 1, 10);
    search.timeout_ms = 60000;
    for (size_t i = 0; i < ARRAY_LENGTH(jumps); i++) {
        struct client_answer answer;
        directory_fixture_write(clock, jumps[i], strlen(jumps[i]));
        for (int n = 0; n < 20; n++)
            assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
        publish(f, i % 2 ? "gen" : "second");
        daemon_says_next(&f->daemon, "event=swap ");
        search_once(f);
    }
    assert_non_null(strstr(f->daemon.output, "ts=200")); /* or the clock was not faked at all */
    client_close(client);
    assert_int_equal(kill(f->daemon.pid, SIGTERM), 0);
    assert_int_equal(daemon_wait(&f->daemon), 0);
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
        TEST(a_publish_is_noticed),
        TEST(a_hangup_has_it_look_again),
        TEST(a_hangup_does_not_end_one_that_serves_a_fixed_index),
        TEST(a_fallback_at_the_start_is_loud),
        TEST(options_that_make_no_sense_are_refused_in_one_line),
        TEST(the_socket_file_is_as_asked),
        TEST(a_service_manager_hands_over_the_socket_and_is_told),
        TEST(a_socket_too_many_is_refused),
        TEST(one_that_is_killed_at_any_moment_serves_again),
        TEST(the_wall_clock_may_jump),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
