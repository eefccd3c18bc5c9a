/*
 * test_server_limits.c - who may do what, and for how long: peers, reloads, statistics, clients
 * that stall or take more than their share, and where an answer says it is from.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "layout/publish.h"
#include "tests/service.h"

enum {
    K = 10,
    STRANGER = 54321, /* a user id that is neither root nor ours */
    FRIEND = 54322,
    /* An answer to this many queries of this k does not fit what a socket buffers. */
    BIG_QUERIES = 64,
    BIG_K = 600,
};

struct fixture {
    struct service_data *data;
    struct service *service; /* of the running test */
    float queries[BIG_QUERIES][SERVICE_DIM];
};

static struct fixture fixture;

static int group_setup(void **state)
{
    fixture.data = service_data_create();
    service_generation_make(fixture.data, "second", 7, SERVICE_CODE_BYTES);
    for (uint32_t q = 0; q < BIG_QUERIES; q++)
        service_query(q, fixture.queries[q]);
    log_set_level(LOG_LEVEL_NONE); /* refusals are wanted here */
    *state = &fixture;
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    service_data_destroy(fixture.data);
    return 0;
}

static int test_teardown(void **state)
{
    struct fixture *f = *state;
    service_destroy(f->service);
    f->service = NULL;
    return publish_generation(f->data->root, "gen", NULL) == STATUS_OK ? 0 : -1;
}

static struct service *start(void **state, struct service_options options)
{
    struct fixture *f = *state;
    f->service = service_start(f->data, &options);
    return f->service;
}

static void publish(const char *name)
{
    struct error err;
    if (publish_generation(fixture.data->root, name, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

/* Lets time pass, in which the daemon is to do nothing or to lose patience: no synchronisation. */
static void pass_ms(uint64_t ms)
{
    const struct timespec time = {.tv_sec = (time_t)(ms / 1000),
                                  .tv_nsec = (long)(ms % 1000) * 1000000};
    (void)nanosleep(&time, NULL);
}

/* ---- where an answer is from ---- */

static void expect_origin(struct client *client, const struct service *service, bool explain,
                          uint64_t *trace_id)
{
    const struct digest128 id = service->served->manifest->generation_id;
    struct client_answer answer;
    struct error err;
    struct client_search search = service_search(fixture.queries[0], 3, K);
    search.origin = true;
    search.explain = explain;
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
    assert_int_equal(answer.generation_low, id.low);
    assert_int_equal(answer.generation_high, id.high);
    assert_int_equal(answer.results[2].hit_count, K);
    assert_true((answer.explanations != NULL) == explain);
    if (answer.explanations)
        assert_true(answer.explanations[2].hops > 0);
    assert_int_not_equal(answer.trace_id, *trace_id);
    *trace_id = answer.trace_id;
}

static void answers_tell_their_origin_when_asked(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    struct client *client = service_connect(service);
    struct client *other = service_connect(service);
    struct client_answer answer;
    struct error err;
    uint64_t trace_id = 0, others = 0;
    assert_int_equal(client_require(client, CLIENT_EXPLAIN | CLIENT_ORIGIN, &err), STATUS_OK);
    expect_origin(client, service, false, &trace_id);
    expect_origin(other, service, true, &others);
    assert_int_not_equal(trace_id, others);
    expect_origin(client, service, true, &trace_id);
    const struct client_search plain = service_search(fixture.queries[0], 1, K);
    assert_int_equal(client_search(client, &plain, &answer, &err), STATUS_OK);
    assert_int_equal(answer.trace_id, 0);
    assert_int_equal(answer.generation_low, 0);
    client_close(client);
    client_close(other);
}

/* ---- RELOAD ---- */

static bool one_in_flight(const struct server_stats *stats)
{
    return stats->requests_in_flight == 1;
}

static void a_reload_tells_what_is_live(void **state)
{
    struct service *service = start(state, (struct service_options){.root = true});
    struct client *client = service_connect(service);
    struct client_reload reload;
    struct error err;
    const struct client_index_info before = client_index(client);
    service_let_go(service);
    assert_int_equal(client_reload(client, &reload, &err), STATUS_OK);
    assert_false(reload.swapped);
    assert_string_equal(reload.name, "gen");
    assert_int_equal(reload.generation_low, before.generation_low);
    publish("second");
    assert_int_equal(client_reload(client, &reload, &err), STATUS_OK);
    assert_string_equal(reload.name, "second");
    assert_int_not_equal(reload.generation_low, before.generation_low);
    /* The connection goes on, with the next generation. */
    struct client_answer answer;
    struct client_search search = service_search(fixture.queries[0], 1, K);
    search.origin = true;
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
    assert_int_equal(answer.generation_low, reload.generation_low);
    client_close(client);
}

static void a_refused_reload_tells_why(void **state)
{
    struct service *service = start(state, (struct service_options){.root = true});
    struct client *client = service_connect(service);
    struct client_reload reload;
    struct error err;
    char path[SERVICE_PATH_BYTES + 16];
    snprintf(path, sizeof(path), "%s/current", service->data->root);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(client_reload(client, &reload, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "nothing is published"));
    client_close(client);
    service_assert_alive(service);
}

static void a_fixed_index_is_not_reloaded(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    struct client *client = service_connect(service);
    struct client_reload reload;
    struct error err;
    assert_int_equal(client_reload(client, &reload, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "--index"));
    client_close(client);
}

static void send_reload(int fd, uint64_t id, uint32_t payload_bytes)
{
    uint8_t frame[PROTOCOL_HEADER_BYTES + 64] = {0};
    protocol_header_encode(frame, PROTOCOL_RELOAD, id, payload_bytes);
    raw_send(fd, frame, PROTOCOL_HEADER_BYTES + payload_bytes);
}

/* The second reload waits for the last reference to what the first one replaced. */
static void a_half_sent_request_keeps_no_generation(void **state)
{
    struct service *service =
        start(state, (struct service_options){.root = true, .stall_ms = 3600000});
    ALIGNED(8) uint8_t frame[RAW_SEARCH_BYTES];
    struct raw_frame answer;
    int asking = raw_connect(service->data->socket), reloading = raw_connect(service->data->socket);
    size_t length = raw_search(frame, 7, fixture.queries[0], 1, K);
    raw_search_fields(frame)->flags = PROTOCOL_SEARCH_ORIGIN;
    service_let_go(service);
    raw_send(asking, frame, length - 4);
    service_wait(service, one_in_flight);
    for (uint64_t id = 1; id <= 3; id++) {
        publish(id % 2 ? "second" : "gen");
        send_reload(reloading, id, 0);
        assert_true(raw_receive(reloading, &answer));
        assert_int_equal(answer.header.type, PROTOCOL_RELOAD_OK);
    }
    struct protocol_reload_ok live;
    memcpy(&live, answer.payload, sizeof(live));
    raw_send(asking, frame + length - 4, 4);
    assert_true(raw_receive(asking, &answer));
    assert_int_equal(answer.header.type, PROTOCOL_SEARCH_OK);
    struct protocol_origin origin;
    memcpy(&origin, answer.payload + answer.header.payload_bytes - sizeof(origin), sizeof(origin));
    assert_int_equal(origin.generation_low, live.generation_low);
    close(asking);
    close(reloading);
}

static void a_reload_with_a_payload_is_refused_and_skipped(void **state)
{
    struct service *service = start(state, (struct service_options){.root = true});
    int fd = raw_connect(service->data->socket);
    send_reload(fd, 9, 64);
    raw_expect_error(fd, 9, STATUS_CORRUPT, "RELOAD");
    raw_expect_hello(fd);
    close(fd);
}

static void wait_swapped(const struct service *service)
{
    struct serving_stats stats;
    do
        serving_stats_get(service->serving, &stats);
    while (stats.swaps == 0);
}

/* Once swapped, the keeper waits for the last reference to what was live, and reloads for it. */
static void more_reloads_than_may_wait_are_told_busy(void **state)
{
    enum { WAITING = 64, MORE = 3 };
    struct service *service = start(state, (struct service_options){.root = true});
    struct raw_frame answer;
    int fd = raw_connect(service->data->socket);
    int gone = raw_connect(service->data->socket);
    publish("second");
    wait_swapped(service);
    send_reload(gone, 1, 0);
    raw_expect_hello(gone);
    close(gone); /* its answer will have nobody to go to */
    for (uint64_t id = 1; id < WAITING + MORE; id++)
        send_reload(fd, id, 0);
    for (int i = 0; i < MORE; i++)
        raw_expect_error(fd, (uint64_t)(WAITING + i), STATUS_BUSY, "64 reloads");
    service_let_go(service);
    uint64_t ids = 0;
    for (int i = 1; i < WAITING; i++) {
        assert_true(raw_receive(fd, &answer));
        assert_int_equal(answer.header.type, PROTOCOL_RELOAD_OK);
        ids += answer.header.request_id;
    }
    assert_int_equal(ids, WAITING * (WAITING - 1) / 2);
    send_reload(fd, 2000, 0);
    assert_true(raw_receive(fd, &answer));
    assert_int_equal(answer.header.type, PROTOCOL_RELOAD_OK);
    close(fd);
    service_assert_alive(service);
}

/* ---- STATS ---- */

static void statistics_come_in_the_format_asked_for(void **state)
{
    struct service *service = start(state, (struct service_options){.root = true});
    struct client *client = service_connect(service);
    struct error err;
    char *text = NULL;
    assert_int_equal(client_stats(client, CLIENT_STATS_JSON, &text, &err), STATUS_OK);
    static const char *const wanted[] = {
        "\"mode\":\"overlap\"", "\"swaps\":0",      "\"refused_name\":\"\"", "\"fallback\":false",
        "\"loading\":false",    "\"name\":\"gen\"", "\"output_bytes\":0",    "\"reads_in_flight\""};
    for (size_t i = 0; i < ARRAY_LENGTH(wanted); i++)
        if (!strstr(text, wanted[i]))
            fail_msg("%s is not in %s", wanted[i], text);
    free(text);
    assert_int_equal(client_stats(client, (enum client_stats_format)7, &text, &err),
                     STATUS_UNSUPPORTED);
    client_close(client);
}

/* ---- peers ---- */

/* What a user meets who connects: of the connection, then of a reload. */
struct encounter {
    int connected, reloaded; /* enum status */
};

/* In a child of this user. */
static struct encounter meet_as(const struct service *service, uid_t user)
{
    struct encounter met = {.connected = -1};
    int pipe_fd[2];
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct client *client = NULL;
        struct client_reload reload;
        if (setresgid(user, user, user) != 0 || setresuid(user, user, user) != 0)
            _exit(1);
        met.connected = (int)client_connect(service->data->socket, &client, NULL);
        if (met.connected == STATUS_OK)
            met.reloaded = (int)client_reload(client, &reload, NULL);
        _exit(write(pipe_fd[1], &met, sizeof(met)) != sizeof(met));
    }
    int status = 0;
    close(pipe_fd[1]);
    assert_int_equal(read(pipe_fd[0], &met, sizeof(met)), sizeof(met));
    close(pipe_fd[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    return met;
}

/* Starts a service whose socket anybody can reach; skips where we cannot become somebody else. */
static struct service *start_open(void **state, struct service_options options)
{
    if (geteuid() != 0) {
        print_message("not root: no other user to connect as\n");
        skip();
    }
    struct service *service = start(state, options);
    assert_int_equal(chmod(service->data->dir, 0755), 0);
    assert_int_equal(chmod(service->data->socket, 0666), 0);
    return service;
}

static void only_the_daemons_user_may_reload(void **state)
{
    struct service *service = start_open(state, (struct service_options){.root = true});
    struct encounter met = meet_as(service, STRANGER);
    assert_int_equal(met.connected, STATUS_OK);
    assert_int_equal(met.reloaded, STATUS_DENIED);
    met = meet_as(service, 0);
    assert_int_equal(met.connected, STATUS_OK);
    assert_int_equal(met.reloaded, STATUS_OK);
    assert_int_equal(service_stats(service).errors[STATUS_DENIED], 1);
    assert_int_equal(service_stats(service).connections_denied, 0);
}

static void peers_that_are_not_named_are_denied(void **state)
{
    const struct peer_policy peers = {.user_count = 1, .users = {FRIEND}};
    struct service *service =
        start_open(state, (struct service_options){.root = true, .peers = &peers});
    assert_int_equal(meet_as(service, STRANGER).connected, STATUS_DENIED);
    assert_int_equal(meet_as(service, FRIEND).connected, STATUS_OK);
    assert_int_equal(meet_as(service, 0).connected, STATUS_OK);
    assert_int_equal(service_stats(service).connections_denied, 1);
    service_assert_alive(service);
}

/* ---- clients that stall ---- */

static bool one_is_cut_off(const struct server_stats *stats)
{
    return stats->connections_broken > 0;
}

static void a_frame_that_is_not_completed_ends_the_connection(void **state)
{
    enum { STALL_MS = 100 };
    uint8_t frame[RAW_SEARCH_BYTES];
    size_t length = raw_search(frame, 1, fixture.queries[0], 1, K);
    /* In the header, in the fixed part, in the vectors. */
    const size_t cuts[] = {1, PROTOCOL_HEADER_BYTES - 1, PROTOCOL_HEADER_BYTES + 7, length - 1};
    struct service *service = start(state, (struct service_options){.stall_ms = STALL_MS});
    int idle = raw_connect(service->data->socket);
    raw_expect_hello(idle);
    for (size_t i = 0; i < ARRAY_LENGTH(cuts); i++) {
        struct raw_frame end;
        int fd = raw_connect(service->data->socket);
        raw_send(fd, frame, cuts[i]);
        assert_false(raw_receive(fd, &end));
        close(fd);
    }
    /* And in what is skipped of a refused one. */
    struct raw_frame end;
    int fd = raw_connect(service->data->socket);
    protocol_header_encode(frame, (enum protocol_type)99, 9, 1000);
    raw_send(fd, frame, length);
    raw_expect_error(fd, 9, STATUS_UNSUPPORTED, "type");
    assert_false(raw_receive(fd, &end));
    close(fd);
    assert_int_equal(service_stats(service).connections_broken, ARRAY_LENGTH(cuts) + 1);
    assert_int_equal(service_stats(service).requests_in_flight, 0);
    /* One that only has nothing to say is not cut off. */
    raw_expect_hello(idle);
    close(idle);
}

/* Asks for more than the socket takes, and reads nothing. */
static int connect_unread(struct service *service, uint32_t requests)
{
    const size_t frame_bytes = RAW_SEARCH_BYTES + sizeof(fixture.queries);
    uint8_t *frame = malloc(frame_bytes);
    assert_non_null(frame);
    int fd = raw_connect(service->data->socket);
    for (uint64_t id = 1; id <= requests; id++)
        raw_send(fd, frame, raw_search(frame, id, fixture.queries[0], BIG_QUERIES, BIG_K));
    free(frame);
    return fd;
}

static bool output_waits(const struct server_stats *stats)
{
    return stats->output_bytes > 0;
}

static void an_answer_that_is_not_read_ends_the_connection(void **state)
{
    struct service *service = start(
        state, (struct service_options){.stall_ms = 100, .memory_bytes = SERVICE_RESIDENT_BYTES});
    int idle = raw_connect(service->data->socket);
    int fd = connect_unread(service, 1);
    service_wait(service, one_is_cut_off);
    raw_expect_hello(idle);
    close(idle);
    close(fd);
    service_assert_alive(service);
    assert_int_equal(service_stats(service).connections_broken, 1);
    assert_int_equal(service_stats(service).output_bytes, 0);
}

/* All of it takes longer than the limit, but no frame and no byte does; what the reader takes is
 * too little for the kernel to say that there is room again. */
static void slow_but_steady_clients_are_served(void **state)
{
    enum { STALL_MS = 4000, STEPS = 10, STEP_MS = 600, TAKEN = 12 << 10 };
    struct service *service =
        start(state, (struct service_options){.stall_ms = STALL_MS,
                                              .memory_bytes = SERVICE_RESIDENT_BYTES});
    uint8_t frame[RAW_SEARCH_BYTES], taken[TAKEN];
    struct raw_frame answer;
    int writer = raw_connect(service->data->socket);
    int reader = connect_unread(service, 1);
    service_wait(service, output_waits);
    for (uint64_t step = 1; step <= STEPS; step++) {
        size_t length = raw_search(frame, step, fixture.queries[0], 1, K);
        raw_send(writer, frame, length / 2);
        pass_ms(STEP_MS);
        raw_send(writer, frame + length / 2, length - length / 2);
        assert_true(raw_receive(writer, &answer));
        assert_int_equal(answer.header.type, PROTOCOL_SEARCH_OK);
        assert_int_equal(recv(reader, taken, TAKEN, MSG_WAITALL), TAKEN);
    }
    assert_int_equal(service_stats(service).connections_broken, 0);
    close(writer);
    close(reader);
}

/* What was half sent when the drain began is nobody's fault: answers before it are waited for. */
static void a_drain_does_not_cut_off_who_was_about_to_send(void **state)
{
    enum { STALL_MS = 1000 };
    struct service *service =
        start(state, (struct service_options){.gated = true, .stall_ms = STALL_MS});
    uint8_t frames[2 * RAW_SEARCH_BYTES];
    struct raw_frame answer;
    int fd = raw_connect(service->data->socket);
    size_t length = raw_search(frames, 1, fixture.queries[0], 1, K);
    length += raw_search(frames + length, 2, fixture.queries[0], 1, K);
    raw_send(fd, frames, length - 1);
    gate_wait_reached(&service->gate);
    service_stop_begin(service);
    pass_ms(3 * STALL_MS);
    gate_open(&service->gate);
    assert_true(raw_receive(fd, &answer));
    assert_int_equal(answer.header.type, PROTOCOL_SEARCH_OK);
    assert_int_equal(answer.header.request_id, 1);
    assert_false(raw_receive(fd, &answer));
    assert_int_equal(service_stats(service).connections_broken, 0);
    close(fd);
}

/* ---- clients that take more than their share ---- */

static void those_behind_go_when_all_hold_too_much(void **state)
{
    struct service *service =
        start(state, (struct service_options){.output_total_max = 256 << 10,
                                              .stall_ms = 600000, /* not for that reason */
                                              .memory_bytes = SERVICE_RESIDENT_BYTES});
    int other = raw_connect(service->data->socket);
    raw_expect_hello(other);
    int fd = connect_unread(service, 1);
    service_wait(service, one_is_cut_off);
    raw_expect_hello(other);
    close(other);
    close(fd);
    service_assert_alive(service);
    assert_int_equal(service_stats(service).connections_broken, 1);
    assert_int_equal(service_stats(service).output_bytes, 0);
}

static void a_request_without_a_timeout_gets_the_daemons(void **state)
{
    struct service *service =
        start(state, (struct service_options){.gated = true, .slots = 1, .timeout_ms = 1});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    uint64_t patient = 0, late = 0;
    struct client_search search = service_search(fixture.queries[0], 1, K);
    search.timeout_ms = 600000;
    assert_int_equal(client_send_search(client, &search, &patient, &err), STATUS_OK);
    gate_wait_reached(&service->gate);
    search.timeout_ms = 0;
    assert_int_equal(client_send_search(client, &search, &late, &err), STATUS_OK);
    struct engine_stats stats;
    do
        engine_stats_get(service->served->engine, &stats);
    while (stats.queued == 0);
    pass_ms(2);
    gate_open(&service->gate);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
        assert_int_equal(answer.status, answer.request_id == patient ? STATUS_OK : STATUS_TIMEOUT);
    }
    client_close(client);
}

static bool greedy_is_turned_away(const struct server_stats *stats)
{
    return stats->errors[STATUS_BUSY] > 0;
}

/* The queue is full of one connection's queries: the newest of these makes room. */
static void a_greedy_connection_does_not_starve_another(void **state)
{
    enum { GREEDY = 40, QUEUE = 8 };
    struct service *service =
        start(state, (struct service_options){.gated = true, .slots = 1, .queue_limit = QUEUE});
    struct client *greedy = service_connect(service);
    struct client *modest = service_connect(service);
    struct client_answer answer;
    struct error err;
    uint32_t ok = 0, busy = 0;
    uint64_t id = 0;
    const struct client_search search = service_search(fixture.queries[0], 1, K);
    for (uint32_t i = 0; i < GREEDY; i++)
        assert_int_equal(client_send_search(greedy, &search, &id, &err), STATUS_OK);
    service_wait(service, greedy_is_turned_away);
    for (uint32_t i = 0; i < QUEUE / 2; i++)
        assert_int_equal(client_send_search(modest, &search, &id, &err), STATUS_OK);
    /* Until all have been received, while the gate keeps the queue as it is. */
    uint64_t wanted = 2 + GREEDY + QUEUE / 2; /* with a HELLO each */
    struct server_stats stats;
    do
        stats = service_stats(service);
    while (stats.requests < wanted);
    gate_open(&service->gate);
    for (uint32_t i = 0; i < QUEUE / 2; i++) {
        assert_int_equal(client_receive(modest, &answer, &err), STATUS_OK);
        assert_int_equal(answer.status, STATUS_OK);
    }
    for (uint32_t i = 0; i < GREEDY; i++) {
        assert_int_equal(client_receive(greedy, &answer, &err), STATUS_OK);
        ok += answer.status == STATUS_OK;
        busy += answer.status == STATUS_BUSY;
    }
    assert_int_equal(ok + busy, GREEDY);
    assert_true(ok > 0);
    assert_true(busy >= GREEDY - QUEUE - 1 + QUEUE / 2);
    client_close(greedy);
    client_close(modest);
}

#define TEST(name) cmocka_unit_test_teardown(name, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(answers_tell_their_origin_when_asked),
        TEST(a_half_sent_request_keeps_no_generation),
        TEST(a_reload_tells_what_is_live),
        TEST(a_refused_reload_tells_why),
        TEST(a_fixed_index_is_not_reloaded),
        TEST(a_reload_with_a_payload_is_refused_and_skipped),
        TEST(more_reloads_than_may_wait_are_told_busy),
        TEST(statistics_come_in_the_format_asked_for),
        TEST(only_the_daemons_user_may_reload),
        TEST(peers_that_are_not_named_are_denied),
        TEST(a_frame_that_is_not_completed_ends_the_connection),
        TEST(an_answer_that_is_not_read_ends_the_connection),
        TEST(slow_but_steady_clients_are_served),
        TEST(a_drain_does_not_cut_off_who_was_about_to_send),
        TEST(those_behind_go_when_all_hold_too_much),
        TEST(a_request_without_a_timeout_gets_the_daemons),
        TEST(a_greedy_connection_does_not_starve_another),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
