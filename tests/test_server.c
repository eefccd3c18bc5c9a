/*
 * test_server.c - the server over real sockets and a real small index: what it answers, what it
 * refuses, and that nobody's misbehaviour is anybody else's trouble.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/service.h"

enum { QUERIES = 64, K = 10 };

struct fixture {
    struct service_data *data;
    struct service *service; /* of the running test */
    float queries[QUERIES][SERVICE_DIM];
};

static struct fixture fixture;

static int group_setup(void **state)
{
    fixture.data = service_data_create();
    for (uint32_t q = 0; q < QUERIES; q++)
        service_query(q, fixture.queries[q]);
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
    return 0;
}

static struct service *start(void **state, struct service_options options)
{
    struct fixture *f = *state;
    f->service = service_start(f->data, &options);
    return f->service;
}

static const float *query_at(uint32_t q)
{
    return fixture.queries[q % QUERIES];
}

/* Compares an answer to queries first, first + 1, ... with what the engine says in process. */
static bool answer_matches(const struct client_answer *answer, uint32_t first,
                           const struct search_hit *expected)
{
    for (uint32_t q = 0; q < answer->query_count; q++) {
        const struct search_hit *want = expected + (size_t)(first + q) * answer->k;
        if (answer->results[q].hit_count != answer->k || answer->results[q].flags != 0)
            return false;
        for (uint32_t i = 0; i < answer->k; i++) {
            const struct client_hit *hit = &answer->hits[(size_t)q * answer->k + i];
            if (hit->key != want[i].key || hit->distance != want[i].distance)
                return false;
        }
    }
    return true;
}

/* ---- answers ---- */

static void hello_tells_the_index_and_its_limits(void **state)
{
    struct service *service = start(state, (struct service_options){.window = 77});
    struct client *client = service_connect(service);
    struct client_index_info info = client_index(client);
    client_close(client);
    assert_int_equal(info.vector_count, SERVICE_VECTORS);
    assert_int_equal(info.dim, SERVICE_DIM);
    assert_int_equal(info.type, ELEMENT_F32);
    assert_int_equal(info.metric, METRIC_L2);
    assert_int_equal(info.queries_max, 77);
    assert_int_equal(info.window, 77);
    assert_int_equal(info.search_list_max, ENGINE_SEARCH_LIST_MAX);
    assert_true(info.generation_low != 0 || info.generation_high != 0);
}

static void answers_equal_those_of_the_engine_in_process(void **state)
{
    const uint64_t budgets[] = {0, SERVICE_RESIDENT_BYTES};
    for (size_t b = 0; b < ARRAY_LENGTH(budgets); b++) {
        struct service *service =
            start(state, (struct service_options){.memory_bytes = budgets[b]});
        struct search_hit expected[QUERIES * K];
        struct client_answer answer;
        struct error err;
        service_expect(service, query_at(0), QUERIES, K, expected);
        struct client *client = service_connect(service);
        struct client_search search = service_search(query_at(0), QUERIES, K);
        assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
        assert_true(answer_matches(&answer, 0, expected));
        for (uint32_t q = 0; q < QUERIES; q++) {
            search = service_search(query_at(q), 1, K);
            assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
            assert_true(answer_matches(&answer, q, expected));
            assert_true((answer.results[0].reads == 0) == (budgets[b] != 0));
        }
        client_close(client);
        test_teardown(state);
    }
}

static void nearest_neighbours_are_found_with_their_distances(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    /* A vector of the index is its own nearest, at distance 0. */
    struct client_search search = service_search(fixture.data->vectors[123], 1, 3);
    search.search_list = 100;
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
    assert_int_equal(answer.hits[0].key, 123);
    assert_true(answer.hits[0].distance == 0.0f);
    assert_true(answer.hits[1].distance > 0.0f);
    assert_true(answer.hits[1].distance <= answer.hits[2].distance);
    client_close(client);
}

struct caller {
    struct service *service;
    const struct search_hit *expected;
    pthread_t thread;
    uint32_t first;
    bool ok;
};

/* A thread: no cmocka in here. */
static void *caller_run(void *context)
{
    struct caller *caller = context;
    struct client *client = NULL;
    struct client_answer answer;
    if (client_connect(caller->service->data->socket, &client, NULL) != STATUS_OK)
        return NULL;
    caller->ok = true;
    for (uint32_t i = 0; i < 2 * QUERIES && caller->ok; i++) {
        uint32_t q = (caller->first + i) % QUERIES;
        const struct client_search search = service_search(query_at(q), 1, K);
        caller->ok = client_search(client, &search, &answer, NULL) == STATUS_OK &&
                     answer_matches(&answer, q, caller->expected);
    }
    client_close(client);
    return NULL;
}

static void concurrent_clients_each_get_their_own_answers(void **state)
{
    struct service *service = start(state, (struct service_options){.threads = 2});
    struct search_hit expected[QUERIES * K];
    struct caller callers[6] = {0};
    service_expect(service, query_at(0), QUERIES, K, expected);
    for (uint32_t i = 0; i < ARRAY_LENGTH(callers); i++) {
        callers[i].service = service;
        callers[i].expected = expected;
        callers[i].first = 7 * i;
        assert_int_equal(pthread_create(&callers[i].thread, NULL, caller_run, &callers[i]), 0);
    }
    for (uint32_t i = 0; i < ARRAY_LENGTH(callers); i++)
        pthread_join(callers[i].thread, NULL);
    for (uint32_t i = 0; i < ARRAY_LENGTH(callers); i++)
        assert_true(callers[i].ok);
}

static void pipelined_requests_are_each_answered_once(void **state)
{
    enum { REQUESTS = 500 };
    struct service *service = start(state, (struct service_options){.threads = 2});
    struct search_hit expected[QUERIES * K];
    uint64_t ids[REQUESTS];
    bool answered[REQUESTS] = {false};
    struct client_answer answer;
    struct error err;
    service_expect(service, query_at(0), QUERIES, K, expected);
    struct client *client = service_connect(service);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct client_search search = service_search(query_at(i), 1, K);
        assert_int_equal(client_send_search(client, &search, &ids[i], &err), STATUS_OK);
    }
    char *json = NULL;
    assert_int_equal(client_stats(client, CLIENT_STATS_JSON, &json, &err), STATUS_INVALID);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
        assert_int_equal(answer.status, STATUS_OK);
        uint64_t request = answer.request_id - ids[0];
        assert_true(request < REQUESTS && !answered[request]);
        answered[request] = true;
        assert_true(answer_matches(&answer, (uint32_t)request % QUERIES, expected));
    }
    assert_int_equal(client_receive(client, &answer, &err), STATUS_INVALID);
    client_close(client);
}

static void answers_overtake_a_request_that_waits(void **state)
{
    struct service *service = start(state, (struct service_options){.gated = true});
    uint8_t frame[RAW_SEARCH_BYTES];
    struct raw_frame answer;
    int fd = raw_connect(service->data->socket);
    raw_send(fd, frame, raw_search(frame, 1, query_at(0), 1, K));
    gate_wait_reached(&service->gate);
    raw_expect_hello(fd);
    gate_open(&service->gate);
    assert_true(raw_receive(fd, &answer));
    assert_int_equal(answer.header.type, PROTOCOL_SEARCH_OK);
    assert_int_equal(answer.header.request_id, 1);
    close(fd);
}

static void frames_may_arrive_in_pieces(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    uint8_t frames[3 * RAW_SEARCH_BYTES];
    size_t length = 0;
    int fd = raw_connect(service->data->socket);
    for (uint64_t id = 1; id <= 3; id++)
        length += raw_search(frames + length, id, query_at((uint32_t)id), 1, K);
    for (size_t at = 0; at < length; at += 7)
        raw_send(fd, frames + at, MIN(length - at, (size_t)7));
    for (uint64_t id = 1; id <= 3; id++) {
        struct raw_frame answer;
        assert_true(raw_receive(fd, &answer));
        assert_int_equal(answer.header.type, PROTOCOL_SEARCH_OK);
    }
    close(fd);
}

static void many_frames_may_arrive_at_once(void **state)
{
    enum { FRAMES = 700, BYTES = PROTOCOL_HEADER_BYTES + 8 };
    struct service *service = start(state, (struct service_options){0});
    static uint8_t frames[FRAMES * BYTES];
    memset(frames, 0, sizeof(frames));
    for (uint32_t i = 0; i < FRAMES; i++)
        protocol_header_encode(frames + (size_t)i * BYTES, PROTOCOL_HELLO, i + 1, 8);
    int fd = raw_connect(service->data->socket);
    raw_send(fd, frames, sizeof(frames));
    for (uint32_t i = 0; i < FRAMES; i++) {
        struct raw_frame answer;
        assert_true(raw_receive(fd, &answer));
        assert_int_equal(answer.header.type, PROTOCOL_HELLO_OK);
        assert_int_equal(answer.header.request_id, i + 1);
    }
    close(fd);
}

static void a_frame_larger_than_the_input_buffer_is_answered(void **state)
{
    enum { COUNT = 1024 };
    struct service *service = start(state, (struct service_options){.threads = 2});
    float *queries = malloc(sizeof(float) * COUNT * SERVICE_DIM);
    struct search_hit *expected = malloc(sizeof(*expected) * COUNT * K);
    struct client_answer answer;
    struct error err;
    assert_true(queries && expected);
    for (uint32_t q = 0; q < COUNT; q++)
        service_query(q, queries + (size_t)q * SERVICE_DIM);
    service_expect(service, queries, COUNT, K, expected);
    struct client *client = service_connect(service);
    const struct client_search search = service_search(queries, COUNT, K);
    for (int round = 0; round < 3; round++) {
        assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
        assert_true(answer_matches(&answer, 0, expected));
    }
    client_close(client);
    free(expected);
    free(queries);
}

/* With one read in flight the blocks a query reads, and so all counts, are the same every time. */
static void explanations_come_with_the_same_answer(void **state)
{
    const uint64_t budgets[] = {0, SERVICE_RESIDENT_BYTES};
    for (size_t b = 0; b < ARRAY_LENGTH(budgets); b++) {
        struct service *service =
            start(state, (struct service_options){.memory_bytes = budgets[b]});
        const uint64_t block_bytes = service->served->manifest->geometry.block_bytes;
        struct search_hit expected[QUERIES * K];
        uint32_t reads[QUERIES];
        struct client_answer answer;
        struct error err;
        service_expect(service, query_at(0), QUERIES, K, expected);
        struct client *client = service_connect(service);
        struct client_search search = service_search(query_at(0), QUERIES, K);
        assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
        assert_null(answer.explanations);
        for (uint32_t q = 0; q < QUERIES; q++)
            reads[q] = answer.results[q].reads;
        search.explain = true;
        assert_int_equal(client_require(client, CLIENT_EXPLAIN, &err), STATUS_OK);
        assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
        assert_true(answer_matches(&answer, 0, expected));
        for (uint32_t q = 0; q < QUERIES; q++) {
            const struct client_explanation *explanation = &answer.explanations[q];
            assert_int_equal(answer.results[q].reads, reads[q]);
            assert_int_equal(explanation->read_bytes, reads[q] * block_bytes);
            assert_int_equal(explanation->cpu_ns / 1000, answer.results[q].cpu_us);
            assert_true(explanation->hops > 0 && explanation->code_distances > 0);
            assert_true(explanation->exact_distances >= answer.results[q].hit_count);
            assert_int_equal(explanation->failed_blocks, 0);
            assert_true(explanation->queue_ns + explanation->cpu_ns <= explanation->total_ns);
        }
        /* Asked again by a client that does not want to know, and pipelined by one that does. */
        uint64_t id = 0;
        assert_int_equal(client_send_search(client, &search, &id, &err), STATUS_OK);
        assert_int_equal(client_require(client, CLIENT_EXPLAIN, &err), STATUS_INVALID);
        assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
        assert_non_null(answer.explanations);
        search.explain = false;
        assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
        assert_null(answer.explanations);
        client_close(client);
        test_teardown(state);
    }
}

static void features_nobody_knows_are_refused_and_the_client_goes_on(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    assert_int_equal(client_require(client, 1u << 31, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "older"));
    const struct client_search search = service_search(query_at(0), 1, K);
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
    client_close(client);
}

static void flags_nobody_knows_are_refused(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    ALIGNED(8) uint8_t frame[RAW_SEARCH_BYTES];
    int fd = raw_connect(service->data->socket);
    size_t length = raw_search(frame, 9, query_at(0), 1, K);
    raw_search_fields(frame)->flags = PROTOCOL_SEARCH_FLAGS + 1;
    raw_send(fd, frame, length);
    raw_expect_error(fd, 9, STATUS_UNSUPPORTED, "flags");
    raw_expect_hello(fd);
    close(fd);
}

static void failed_reads_flag_the_answer_degraded(void **state)
{
    struct service *service = start(state, (struct service_options){.reads_fail = true});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    const struct client_search search = service_search(query_at(0), 1, K);
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
    assert_int_equal(answer.results[0].flags, SEARCH_DEGRADED);
    assert_true(answer.results[0].hit_count < K);
    client_close(client);
}

static void statistics_count_what_happened(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    char *json = NULL;
    struct client_search search = service_search(query_at(0), 3, K);
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_OK);
    search.search_list = K - 1;
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_INVALID);
    assert_int_equal(client_stats(client, CLIENT_STATS_JSON, &json, &err), STATUS_OK);
    static const char *const wanted[] = {"\"vector_count\":600", "\"connections\":1",
                                         "\"queries\":3", "\"invalid\":1", "\"io\":\""};
    for (size_t i = 0; i < ARRAY_LENGTH(wanted); i++)
        if (!strstr(json, wanted[i]))
            fail_msg("%s is not in %s", wanted[i], json);
    free(json);
    client_close(client);
}

/* ---- bad requests: an error, and the connection goes on ---- */

static void expect_refused(int fd, const uint8_t *frame, size_t length, enum status status,
                           const char *words)
{
    raw_send(fd, frame, length);
    raw_expect_error(fd, 9, status, words);
    raw_expect_hello(fd);
}

static void wrong_parameters_are_refused_with_the_reason(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    static const struct {
        uint32_t k, search_list, beam_width, element_type, dim;
        float ratio, recall;
        enum status status;
        const char *words;
    } cases[] = {
        {0, 40, 1, ELEMENT_F32, SERVICE_DIM, 0, 0, STATUS_INVALID, "k"},
        {41, 40, 1, ELEMENT_F32, SERVICE_DIM, 0, 0, STATUS_INVALID, "k"},
        {601, 700, 1, ELEMENT_F32, SERVICE_DIM, 0, 0, STATUS_INVALID, "600"},
        {4097, 4097, 1, ELEMENT_F32, SERVICE_DIM, 0, 0, STATUS_INVALID, "k"},
        {10, ENGINE_SEARCH_LIST_MAX + 1, 1, ELEMENT_F32, SERVICE_DIM, 0, 0, STATUS_INVALID, "4097"},
        {10, 40, 65, ELEMENT_F32, SERVICE_DIM, 0, 0, STATUS_INVALID, "65"},
        {10, 40, 1, ELEMENT_U8, SERVICE_DIM, 0, 0, STATUS_INVALID, "type"},
        {10, 40, 1, ELEMENT_F32, SERVICE_DIM + 1, 0, 0, STATUS_INVALID, "dim"},
        {10, 40, 1, ELEMENT_F32, SERVICE_DIM, -1.0f, 0, STATUS_INVALID, "ratio"},
        {10, 40, 1, ELEMENT_F32, SERVICE_DIM, NAN, 0, STATUS_INVALID, "ratio"},
        {10, 40, 1, ELEMENT_F32, SERVICE_DIM, 0, 0.95f, STATUS_INVALID, "recall target"},
    };
    int fd = raw_connect(service->data->socket);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        ALIGNED(8) uint8_t frame[RAW_SEARCH_BYTES];
        size_t length = raw_search(frame, 9, query_at(0), 1, K);
        struct protocol_search *fields = raw_search_fields(frame);
        fields->k = cases[i].k;
        fields->search_list = cases[i].search_list;
        fields->beam_width = cases[i].beam_width;
        fields->element_type = cases[i].element_type;
        fields->dim = cases[i].dim;
        fields->search_ratio = cases[i].ratio;
        fields->recall_target = cases[i].recall;
        expect_refused(fd, frame, length, cases[i].status, cases[i].words);
    }
    close(fd);
}

static void a_query_that_is_not_finite_is_refused_and_named(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    float queries[3][SERVICE_DIM];
    uint8_t frame[RAW_SEARCH_BYTES + sizeof(queries)];
    int fd = raw_connect(service->data->socket);
    memcpy(queries, query_at(0), sizeof(queries));
    queries[2][5] = NAN;
    expect_refused(fd, frame, raw_search(frame, 9, queries[2], 1, K), STATUS_INVALID, "5");
    expect_refused(fd, frame, raw_search(frame, 9, queries[0], 3, K), STATUS_INVALID, "query 2");
    queries[2][5] = INFINITY;
    expect_refused(fd, frame, raw_search(frame, 9, queries[0], 3, K), STATUS_INVALID, "query 2");
    close(fd);
}

static void a_payload_length_that_lies_costs_only_its_request(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    enum { LONG = 100000 };
    uint8_t *frame = calloc(1, LONG + PROTOCOL_HEADER_BYTES);
    assert_non_null(frame);
    int fd = raw_connect(service->data->socket);
    size_t honest = raw_search(frame, 9, query_at(0), 1, K);
    /* The header promises more than the counts explain; it is what delimits the frame. */
    protocol_header_encode(frame, PROTOCOL_SEARCH, 9, LONG);
    expect_refused(fd, frame, LONG + PROTOCOL_HEADER_BYTES, STATUS_CORRUPT, "make it");
    /* Fewer. */
    honest = raw_search(frame, 9, query_at(0), 1, K);
    protocol_header_encode(frame, PROTOCOL_SEARCH, 9, (uint32_t)honest - PROTOCOL_HEADER_BYTES - 4);
    expect_refused(fd, frame, honest - 4, STATUS_CORRUPT, "make it");
    /* Not even the fixed part. */
    protocol_header_encode(frame, PROTOCOL_SEARCH, 9, 12);
    expect_refused(fd, frame, PROTOCOL_HEADER_BYTES + 12, STATUS_CORRUPT, "at least 40");
    close(fd);
    free(frame);
}

static void unknown_types_are_refused_and_skipped(void **state)
{
    enum { LONG = 70000 };
    struct service *service = start(state, (struct service_options){0});
    uint8_t *frame = calloc(1, LONG + PROTOCOL_HEADER_BYTES);
    assert_non_null(frame);
    int fd = raw_connect(service->data->socket);
    static const uint8_t types[] = {0, PROTOCOL_SEARCH_OK, PROTOCOL_ERROR, 99, 255};
    for (size_t i = 0; i < ARRAY_LENGTH(types); i++) {
        protocol_header_encode(frame, (enum protocol_type)types[i], 9, LONG);
        expect_refused(fd, frame, LONG + PROTOCOL_HEADER_BYTES, STATUS_UNSUPPORTED, "type");
    }
    protocol_header_encode(frame, PROTOCOL_STATS, 9, 1);
    expect_refused(fd, frame, PROTOCOL_HEADER_BYTES + 1, STATUS_CORRUPT, "STATS");
    protocol_header_encode(frame, PROTOCOL_HELLO, 9, 9);
    expect_refused(fd, frame, PROTOCOL_HEADER_BYTES + 9, STATUS_CORRUPT, "HELLO");
    close(fd);
    free(frame);
}

static void malformed_headers_end_the_connection_with_an_error(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    static const struct {
        size_t offset;
        uint8_t value;
        enum status status;
        const char *words;
    } cases[] = {
        {0, 0, STATUS_CORRUPT, "magic"},
        {4, 9, STATUS_UNSUPPORTED, "version"},
        {6, 1, STATUS_CORRUPT, "flags"},
        {19, 0x7f, STATUS_CORRUPT, "payload"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint8_t frame[RAW_SEARCH_BYTES];
        struct raw_frame end;
        int fd = raw_connect(service->data->socket);
        size_t length = raw_search(frame, 9, query_at(0), 1, K);
        frame[cases[i].offset] = cases[i].value;
        raw_send(fd, frame, length);
        raw_expect_error(fd, 0, cases[i].status, cases[i].words);
        assert_false(raw_receive(fd, &end));
        close(fd);
    }
    service_assert_alive(service);
    assert_int_equal(service_stats(service).connections_broken, ARRAY_LENGTH(cases));
}

/* ---- limits ---- */

/* A query without a deadline holds the only slot at the gate, so that the one with a deadline waits
 * in the queue, submitted, until its millisecond is over. */
static void a_query_past_its_deadline_times_out(void **state)
{
    struct service *service = start(state, (struct service_options){.gated = true, .slots = 1});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    uint64_t patient = 0;
    uint64_t late = 0;
    struct client_search search = service_search(query_at(0), 1, K);
    assert_int_equal(client_send_search(client, &search, &patient, &err), STATUS_OK);
    gate_wait_reached(&service->gate);
    search.timeout_ms = 1;
    assert_int_equal(client_send_search(client, &search, &late, &err), STATUS_OK);
    struct engine_stats stats;
    do
        engine_stats_get(service->served->engine, &stats);
    while (stats.queued == 0);
    uint64_t past_ns = clock_monotonic_ns() + 2000000;
    while (clock_monotonic_ns() < past_ns)
        ;
    gate_open(&service->gate);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
        if (answer.request_id == patient) {
            assert_int_equal(answer.status, STATUS_OK);
            continue;
        }
        assert_int_equal(answer.request_id, late);
        assert_int_equal(answer.status, STATUS_TIMEOUT);
        assert_non_null(strstr(answer.message, "1 ms"));
    }
    client_close(client);
    service_assert_alive(service);
}

static void a_full_queue_answers_busy(void **state)
{
    enum { REQUESTS = 20 };
    struct service *service =
        start(state, (struct service_options){.gated = true, .slots = 1, .queue_limit = 1});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    uint32_t ok = 0, busy = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint64_t id = 0;
        const struct client_search search = service_search(query_at(i), 1, K);
        assert_int_equal(client_send_search(client, &search, &id, &err), STATUS_OK);
    }
    /* One is in the slot, one in the queue; BUSY does not wait for them. */
    while (busy < REQUESTS - 2) {
        assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
        assert_int_equal(answer.status, STATUS_BUSY);
        busy++;
    }
    gate_open(&service->gate);
    while (ok < REQUESTS - busy) {
        assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
        assert_true(answer.status == STATUS_OK || answer.status == STATUS_BUSY);
        ok++;
    }
    client_close(client);
    service_assert_alive(service);
}

static bool has_paused(const struct server_stats *stats)
{
    return stats->pauses > 0;
}

static void a_full_window_stops_reading_until_answers_leave(void **state)
{
    enum { WINDOW = 4, REQUESTS = 50 };
    struct service *service =
        start(state, (struct service_options){.gated = true, .window = WINDOW});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint64_t id = 0;
        const struct client_search search = service_search(query_at(i), 1 + i % 3, K);
        assert_int_equal(client_send_search(client, &search, &id, &err), STATUS_OK);
    }
    service_wait(service, has_paused);
    assert_true(service_stats(service).queries <= WINDOW);
    gate_open(&service->gate);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
        assert_int_equal(answer.status, STATUS_OK);
    }
    client_close(client);
}

static void connections_beyond_the_limit_are_told_busy(void **state)
{
    struct service *service = start(state, (struct service_options){.connections_max = 2});
    struct client *first = service_connect(service);
    struct client *second = service_connect(service);
    struct client *third = NULL;
    struct error err;
    assert_int_equal(client_connect(service->data->socket, &third, &err), STATUS_BUSY);
    assert_non_null(strstr(err.text, "2 connections"));
    client_close(first);
    client_close(second);
}

static bool accept_has_failed(const struct server_stats *stats)
{
    return stats->accept_failures > 0;
}

static void running_out_of_descriptors_delays_clients_and_does_not_spin(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    struct rlimit before, tight;
    uint64_t since_ns = clock_monotonic_ns();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = dup(0);
    assert_true(next >= 0);
    close(next);
    tight = before;
    tight.rlim_cur = (rlim_t)next + 1; /* the client's own, and none for the server */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    int fd = raw_connect(service->data->socket);
    service_wait(service, accept_has_failed);
    uint64_t failures = service_stats(service).accept_failures;
    uint64_t waited_ms = (clock_monotonic_ns() - since_ns) / 1000000;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(failures <= waited_ms / 100 + 2);
    raw_expect_hello(fd);
    close(fd);
}

/* ---- clients that go wrong ---- */

static void a_client_that_never_reads_is_closed(void **state)
{
    struct service *service = start(state, (struct service_options){.output_bytes_max = 1 << 16});
    uint8_t frame[PROTOCOL_HEADER_BYTES + 8] = {0};
    ssize_t sent = 0;
    protocol_header_encode(frame, PROTOCOL_HELLO, 1, 8);
    int fd = raw_connect(service->data->socket);
    do {
        sent = send(fd, frame, sizeof(frame), MSG_NOSIGNAL);
    } while (sent > 0);
    assert_true(errno == EPIPE || errno == ECONNRESET);
    close(fd);
    service_assert_alive(service);
    assert_int_equal(service_stats(service).connections_broken, 1);
}

static void a_slow_reader_gets_everything_in_the_end(void **state)
{
    enum { REQUESTS = 100, COUNT = 64 };
    struct service *service = start(state, (struct service_options){.threads = 2});
    struct search_hit expected[QUERIES * K];
    struct client_answer answer;
    struct error err;
    uint64_t first = 0;
    service_expect(service, query_at(0), QUERIES, K, expected);
    struct client *client = service_connect(service);
    /* 100 answers of 12 KB are more than a socket holds, so they pile up in the server. */
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint64_t id = 0;
        const struct client_search search = service_search(query_at(0), COUNT, K);
        assert_int_equal(client_send_search(client, &search, &id, &err), STATUS_OK);
        first = i == 0 ? id : first;
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(client_receive(client, &answer, &err), STATUS_OK);
        assert_int_equal(answer.status, STATUS_OK);
        assert_true(answer.request_id - first < REQUESTS);
        assert_true(answer_matches(&answer, 0, expected));
    }
    client_close(client);
}

static bool nothing_left(const struct server_stats *stats)
{
    return stats->connections == 0 && stats->requests_in_flight == 0;
}

static void a_client_that_dies_mid_frame_leaves_nothing(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    uint8_t frame[RAW_SEARCH_BYTES];
    size_t length = raw_search(frame, 1, query_at(0), 1, K);
    static const size_t cuts[] = {1, 23, 24, 30, 63, 64, 65, 100};
    for (size_t i = 0; i < ARRAY_LENGTH(cuts); i++) {
        assert_true(cuts[i] < length);
        int fd = raw_connect(service->data->socket);
        raw_send(fd, frame, cuts[i]);
        close(fd);
    }
    service_assert_alive(service);
    service_wait(service, nothing_left);
}

static bool no_connection(const struct server_stats *stats)
{
    return stats->connections == 0;
}

static void a_client_that_dies_with_queries_in_flight_leaves_nothing(void **state)
{
    struct service *service = start(state, (struct service_options){.gated = true});
    uint8_t frame[RAW_SEARCH_BYTES];
    int fd = raw_connect(service->data->socket);
    for (uint64_t id = 1; id <= 20; id++)
        raw_send(fd, frame, raw_search(frame, id, query_at((uint32_t)id), 1, K));
    gate_wait_reached(&service->gate);
    close(fd);
    service_wait(service, no_connection);
    assert_true(service_stats(service).requests_in_flight > 0);
    gate_open(&service->gate);
    service_wait(service, nothing_left);
    service_assert_alive(service);
}

static void a_client_that_stops_sending_still_gets_its_answers(void **state)
{
    struct service *service = start(state, (struct service_options){.gated = true});
    uint8_t frame[RAW_SEARCH_BYTES];
    struct raw_frame answer;
    int fd = raw_connect(service->data->socket);
    for (uint64_t id = 1; id <= 3; id++)
        raw_send(fd, frame, raw_search(frame, id, query_at((uint32_t)id), 1, K));
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    gate_wait_reached(&service->gate);
    gate_open(&service->gate);
    for (int i = 0; i < 3; i++) {
        assert_true(raw_receive(fd, &answer));
        assert_int_equal(answer.header.type, PROTOCOL_SEARCH_OK);
    }
    assert_false(raw_receive(fd, &answer));
    close(fd);
}

/* ---- the end ---- */

static void a_drain_answers_what_is_in_flight_and_takes_nothing_more(void **state)
{
    struct service *service = start(state, (struct service_options){.gated = true});
    uint8_t frame[RAW_SEARCH_BYTES];
    struct raw_frame answer;
    struct client *late = NULL;
    int fd = raw_connect(service->data->socket);
    int idle = raw_connect(service->data->socket);
    raw_expect_hello(idle);
    raw_send(fd, frame, raw_search(frame, 1, query_at(0), 1, K));
    gate_wait_reached(&service->gate);
    service_stop_begin(service);
    /* The idle connection's end tells that the drain has begun; the socket went before it. */
    assert_false(raw_receive(idle, &answer));
    assert_int_equal(client_connect(service->data->socket, &late, NULL), STATUS_NOT_FOUND);
    gate_open(&service->gate);
    assert_true(raw_receive(fd, &answer));
    assert_int_equal(answer.header.type, PROTOCOL_SEARCH_OK);
    assert_false(raw_receive(fd, &answer));
    assert_int_equal(service_stop(service), STATUS_OK);
    close(fd);
    close(idle);
}

static void a_client_learns_that_the_daemon_is_gone(void **state)
{
    struct service *service = start(state, (struct service_options){0});
    struct client *client = service_connect(service);
    struct client_answer answer;
    struct error err;
    const struct client_search search = service_search(query_at(0), 1, K);
    assert_int_equal(service_stop(service), STATUS_OK);
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_IO);
    assert_non_null(strstr(err.text, service->data->socket));
    /* And goes on saying so. */
    assert_int_equal(client_search(client, &search, &answer, &err), STATUS_IO);
    client_close(client);
}

#define TEST(name) cmocka_unit_test_teardown(name, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hello_tells_the_index_and_its_limits),
        TEST(answers_equal_those_of_the_engine_in_process),
        TEST(nearest_neighbours_are_found_with_their_distances),
        TEST(concurrent_clients_each_get_their_own_answers),
        TEST(pipelined_requests_are_each_answered_once),
        TEST(answers_overtake_a_request_that_waits),
        TEST(frames_may_arrive_in_pieces),
        TEST(many_frames_may_arrive_at_once),
        TEST(a_frame_larger_than_the_input_buffer_is_answered),
        TEST(explanations_come_with_the_same_answer),
        TEST(features_nobody_knows_are_refused_and_the_client_goes_on),
        TEST(flags_nobody_knows_are_refused),
        TEST(failed_reads_flag_the_answer_degraded),
        TEST(statistics_count_what_happened),
        TEST(wrong_parameters_are_refused_with_the_reason),
        TEST(a_query_that_is_not_finite_is_refused_and_named),
        TEST(a_payload_length_that_lies_costs_only_its_request),
        TEST(unknown_types_are_refused_and_skipped),
        TEST(malformed_headers_end_the_connection_with_an_error),
        TEST(a_query_past_its_deadline_times_out),
        TEST(a_full_queue_answers_busy),
        TEST(a_full_window_stops_reading_until_answers_leave),
        TEST(connections_beyond_the_limit_are_told_busy),
        TEST(running_out_of_descriptors_delays_clients_and_does_not_spin),
        TEST(a_client_that_never_reads_is_closed),
        TEST(a_slow_reader_gets_everything_in_the_end),
        TEST(a_client_that_dies_mid_frame_leaves_nothing),
        TEST(a_client_that_dies_with_queries_in_flight_leaves_nothing),
        TEST(a_client_that_stops_sending_still_gets_its_answers),
        TEST(a_drain_answers_what_is_in_flight_and_takes_nothing_more),
        TEST(a_client_learns_that_the_daemon_is_gone),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
