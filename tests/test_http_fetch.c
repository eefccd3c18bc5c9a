/*
 * test_http_fetch.c - POST /fetch: its JSON where no server is needed, then over a real server and
 * index. That clients may come and go as they like is told of searches in test_http.c, with which
 * fetches share all that waits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/random.h"
#include "query/http_fetch.h"
#include "tests/http_fixture.h"

enum {
    SEED = 1203,
    VALUES = 4096,
};

/* ---- requests ---- */

static const struct protocol_shape small = {ELEMENT_F32, 2, 4, METRIC_L2};

static enum status parse(const char *text, const struct protocol_shape *shape,
                         struct http_fetch *fetch, struct error *err)
{
    return http_fetch_parse(text, strlen(text), shape, fetch, err);
}

static void what_is_asked_is_read(void **state)
{
    (void)state;
    struct http_fetch fetch;
    struct error err;
    assert_int_equal(parse("{\"key\":\"9007199254740993\"}", &small, &fetch, &err), STATUS_OK);
    assert_int_equal(fetch.key_count, 1);
    assert_true(fetch.keys[0] == (UINT64_C(1) << 53) + 1);
    assert_true(fetch.vectors && fetch.timeout_ms == 0);
    http_fetch_free(&fetch);
    assert_int_equal(parse(" {\"timeout_ms\":250,\"vectors\":false,"
                           "\"keys\":[17,\"18446744073709551615\",0]}\n",
                           &small, &fetch, &err),
                     STATUS_OK);
    assert_int_equal(fetch.key_count, 3);
    assert_true(fetch.keys[0] == 17 && fetch.keys[1] == UINT64_MAX && fetch.keys[2] == 0);
    assert_true(!fetch.vectors && fetch.timeout_ms == 250);
    http_fetch_free(&fetch);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } wrong[] = {
        {"{\"key\":1", "no JSON from byte 7"},
        {"[1]", "a request is a JSON object"},
        {"{}", "neither key nor keys"},
        {"{\"vectors\":true}", "neither key nor keys"},
        {"{\"key\":1,\"keys\":[1]}", "both key and keys"},
        {"{\"key\":1,\"key\":1}", "key is given twice"},
        {"{\"key\":1,\"vectors\":true,\"vectors\":true}", "vectors is given twice"},
        {"{\"key\":1,\"k\":1}", "no member is called \"k\""},
        {"{\"key\":1,\"vector\":true}", "no member is called \"vector\""},
        {"{\"key\":-1}", "a key is a whole number"},
        {"{\"key\":9007199254740993}", "a key is a whole number, at most 9007199254740991"},
        {"{\"key\":9007199254740994}", "a key is a whole number"},
        {"{\"keys\":[1,\"x\"]}", "a key is a whole number"},
        {"{\"keys\":[[1]]}", "a key is a whole number"},
        {"{\"keys\":7}", "keys: want an array"},
        {"{\"keys\":[]}", "0 keys in a request, wanted 1..4"},
        {"{\"keys\":[1,2,3,4,5]}", "5 keys in a request, wanted 1..4"},
        {"{\"key\":1,\"vectors\":1}", "vectors: want true or false"},
        {"{\"key\":1,\"vectors\":null}", "vectors: want true or false"},
        {"{\"key\":1,\"timeout_ms\":-1}", "timeout_ms: want a whole number"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        struct http_fetch fetch;
        struct error err;
        assert_int_equal(parse(wrong[i].text, &small, &fetch, &err), STATUS_INVALID);
        if (!strstr(err.text, wrong[i].words))
            fail_msg("%s: \"%s\" lacks \"%s\"", wrong[i].text, err.text, wrong[i].words);
    }
}

/* A request of keys 0, 1, ..., to be freed. */
static char *request_of(uint32_t count, bool vectors)
{
    char *text = malloc(64 + (size_t)count * 12);
    assert_non_null(text);
    size_t at = (size_t)sprintf(text, "{\"vectors\":%s,\"keys\":[", vectors ? "true" : "false");
    for (uint32_t i = 0; i < count; i++)
        at += (size_t)sprintf(text + at, "%s%u", i ? "," : "", i);
    sprintf(text + at, "]}");
    return text;
}

static void answers_are_bounded(void **state)
{
    (void)state;
    static const struct {
        uint32_t dim, queries_max, count;
        bool vectors, fits;
    } cases[] = {
        /* As many keys as a FETCH frame has, whatever the queries. */
        {2, 1 << 16, PROTOCOL_KEYS_MAX, true, true},
        {2, 1 << 16, PROTOCOL_KEYS_MAX + 1, true, false},
        {2, 1 << 16, PROTOCOL_KEYS_MAX + 1, false, false},
        /* And as many elements as are printed. */
        {VECTOR_DIM_MAX, PROTOCOL_QUERIES_MAX, 32, true, true},
        {VECTOR_DIM_MAX, PROTOCOL_QUERIES_MAX, 33, true, false},
        {VECTOR_DIM_MAX, PROTOCOL_QUERIES_MAX, PROTOCOL_KEYS_MAX, false, true},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const struct protocol_shape shape = {ELEMENT_F32, cases[i].dim, cases[i].queries_max,
                                             METRIC_L2};
        struct http_fetch fetch;
        struct error err;
        char *text = request_of(cases[i].count, cases[i].vectors);
        enum status status = parse(text, &shape, &fetch, &err);
        free(text);
        if (status != (cases[i].fits ? STATUS_OK : STATUS_INVALID))
            fail_msg("case %zu: %s", i, status == STATUS_OK ? "taken" : err.text);
        if (status == STATUS_OK) {
            assert_int_equal(fetch.key_count, cases[i].count);
            assert_int_equal(fetch.keys[cases[i].count - 1], cases[i].count - 1);
            http_fetch_free(&fetch);
        }
    }
}

/* ---- answers ---- */

static void format(enum element_type type, uint32_t dim, const struct search_query *queries,
                   uint32_t count, char **text)
{
    const struct http_fetch_context context = {
        .origin = {.generation_high = 1, .generation_low = 2, .trace_id = 3},
        .type = type,
        .dim = dim};
    struct error err;
    assert_int_equal(http_fetch_format(&context, queries, count, text, &err), STATUS_OK);
}

static void vectors_are_given_in_the_type_of_queries(void **state)
{
    (void)state;
    uint8_t bytes[] = {0, 127, 128, 255};
    float floats[] = {1.0003f, -0.5f, 0, 70000};
    const struct {
        enum element_type type;
        bool is_f32;
        void *fetched;
        const char *text;
    } cases[] = {
        {ELEMENT_U8, false, bytes, "[0,127,128,255]"},
        {ELEMENT_I8, false, bytes, "[0,127,-128,-1]"},
        {ELEMENT_F32, false, floats, "[1.00030005,-0.5,0,70000]"},
        {ELEMENT_F32, true, floats, "[1.00030005,-0.5,0,70000]"},
        /* Stored as bf16, whose range is wider. */
        {ELEMENT_F16, true, floats, "[1,-0.5,0,null]"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const struct search_query queries[] = {
            {.key = UINT64_MAX,
             .found = true,
             .fetched = cases[i].fetched,
             .vector_is_f32 = cases[i].is_f32},
            {.key = 18, .fetched = cases[i].fetched},
            {.key = 19, .found = true},
        };
        char *text = NULL, wanted[512];
        format(cases[i].type, 4, queries, 3, &text);
        snprintf(wanted, sizeof(wanted),
                 "{\"generation\":\"00000000000000010000000000000002\",\"trace_id\":"
                 "\"0000000000000003\",\"results\":[{\"key\":18446744073709551615,\"found\":true,"
                 "\"vector\":%s},{\"key\":18,\"found\":false},{\"key\":19,\"found\":true}]}\n",
                 cases[i].text);
        assert_string_equal(text, wanted);
        free(text);
    }
}

static void floats_read_back_exactly(void **state)
{
    (void)state;
    static float values[VALUES];
    const float extremes[] = {FLT_MAX, -FLT_MIN, FLT_TRUE_MIN, -0.0f, 1 + FLT_EPSILON};
    for (uint32_t i = 0; i < VALUES; i++) {
        uint32_t bits = (uint32_t)random_at(SEED, i);
        memcpy(&values[i], &bits, sizeof(bits));
        if (i < ARRAY_LENGTH(extremes) || !isfinite(values[i]))
            values[i] = extremes[i % ARRAY_LENGTH(extremes)];
    }
    const struct search_query query = {.found = true, .fetched = values};
    char *text = NULL, *at;
    format(ELEMENT_F32, VALUES, &query, 1, &text);
    at = strstr(text, "\"vector\":[");
    assert_non_null(at);
    at += strlen("\"vector\":");
    for (uint32_t i = 0; i < VALUES; i++) {
        assert_int_equal(*at, i ? ',' : '[');
        float back = strtof(at + 1, &at);
        assert_memory_equal(&back, &values[i], sizeof(back));
    }
    assert_string_equal(at, "]}]}\n");
    free(text);
}

/* The longest that a float may be. */
static void the_longest_answer_is_as_short_as_promised(void **state)
{
    (void)state;
    enum { COUNT = HTTP_FETCH_ELEMENTS_MAX / VECTOR_DIM_MAX };
    static float vector[VECTOR_DIM_MAX];
    struct search_query queries[COUNT];
    for (uint32_t d = 0; d < VECTOR_DIM_MAX; d++)
        vector[d] = -FLT_MIN;
    for (uint32_t q = 0; q < COUNT; q++)
        queries[q] = (struct search_query){.key = UINT64_MAX, .found = true, .fetched = vector};
    char *text = NULL;
    format(ELEMENT_F32, VECTOR_DIM_MAX, queries, COUNT, &text);
    assert_in_range(strlen(text), 15u << 18, (4u << 20) + COUNT * 64 + 128);
    free(text);
}

/* ---- over a server ---- */

static struct http_response *ask_fetch(const char *body)
{
    return http_ask_post("/fetch", body);
}

/* One result: the vector of that row, or no such key. */
static void expect_result(const cJSON *result, uint64_t key)
{
    bool there = key < SERVICE_VECTORS;
    const cJSON *vector = cJSON_GetObjectItem(result, "vector");
    assert_true(cJSON_GetObjectItem(result, "key")->valuedouble == (double)key);
    assert_true(cJSON_IsBool(cJSON_GetObjectItem(result, "found")));
    assert_int_equal(cJSON_IsTrue(cJSON_GetObjectItem(result, "found")), there);
    assert_int_equal(cJSON_GetArraySize(result), there ? 3 : 2);
    assert_int_equal(cJSON_GetArraySize(vector), there ? SERVICE_DIM : 0);
    for (int d = 0; there && d < SERVICE_DIM; d++)
        assert_true((float)cJSON_GetArrayItem(vector, d)->valuedouble ==
                    http_fixture.data->vectors[key][d]);
}

static void expect_fetched(const struct http_response *response, const uint64_t *keys, int count)
{
    assert_int_equal(response->status, 200);
    assert_string_equal(http_header(response, "Content-Type"), "application/json");
    const struct digest128 id = http_fixture.service->served->manifest->generation_id;
    char origin[128];
    snprintf(origin, sizeof(origin),
             "{\"generation\":\"%016" PRIx64 "%016" PRIx64 "\",\"trace_id\":\"8", id.high, id.low);
    assert_int_equal(strncmp(response->body, origin, strlen(origin)), 0);
    cJSON *root = cJSON_Parse(response->body);
    assert_non_null(root);
    assert_int_equal(cJSON_GetArraySize(root), 3);
    const cJSON *results = cJSON_GetObjectItem(root, "results");
    assert_int_equal(cJSON_GetArraySize(results), count);
    for (int i = 0; i < count; i++)
        expect_result(cJSON_GetArrayItem(results, i), keys[i]);
    cJSON_Delete(root);
}

static void stored_vectors_are_answered_by_their_keys(void **state)
{
    (void)state;
    const uint64_t budgets[] = {0, SERVICE_RESIDENT_BYTES};
    static const uint64_t keys[] = {17, SERVICE_VECTORS, 0, 17};
    for (size_t b = 0; b < ARRAY_LENGTH(budgets); b++) {
        http_fixture_start((struct service_options){.memory_bytes = budgets[b]},
                           (struct http_params){0});
        expect_fetched(ask_fetch("{\"key\":17}"), keys, 1);
        expect_fetched(ask_fetch("{\"keys\":[17,600,\"0\",17],\"vectors\":true}"), keys, 4);
        const struct http_response *r = ask_fetch("{\"keys\":[17,600],\"vectors\":false}");
        assert_int_equal(r->status, 200);
        assert_non_null(strstr(r->body, ",\"results\":[{\"key\":17,\"found\":true},"
                                        "{\"key\":600,\"found\":false}]}\n"));
        /* They are queries by key to the engine, and nothing else. */
        struct serving_stats stats;
        serving_stats_get(http_fixture.service->serving, &stats);
        assert_int_equal(stats.engine.fetches, 7);
        http_fixture_stop();
    }
}

static void wrong_fetches_and_methods_are_refused(void **state)
{
    (void)state;
    http_fixture_start((struct service_options){0}, (struct http_params){.queries_max = 3});
    http_expect_error(ask_fetch(""), 400, "invalid", "no JSON");
    http_expect_error(ask_fetch("{\"key\":1.5}"), 400, "invalid", "a key is a whole number");
    http_expect_error(ask_fetch("{\"vector\":[1]}"), 400, "invalid", "\\\"vector\\\"");
    http_expect_error(ask_fetch("{\"keys\":[1,2,3,4]}"), 400, "invalid", "4 keys in a request");
    struct http_response *r = http_ask("GET /fetch?key=1 HTTP/1.1\r\nHost: h\r\n\r\n");
    http_expect_error(r, 405, "invalid", "/fetch take POST");
    assert_string_equal(http_header(r, "Allow"), "POST");
    r = http_ask("POST /fetch HTTP/1.1\r\nHost: h\r\nContent-Length: 16777217\r\n\r\n");
    http_expect_error(r, 413, "invalid", "16777216");
    http_expect_error(http_ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), 404, "not-found", "/fetch");
    expect_fetched(ask_fetch("{\"keys\":[1,2,3]}"), (const uint64_t[]){1, 2, 3}, 3);
}

/* There is no vector in part. Keys below the first need no read to be known as none. */
static void what_cannot_be_read_is_named_and_logged(void **state)
{
    (void)state;
    static const char *const body = "{\"keys\":[5,6,\"1152921504606846993\",7]}";
    static const char *const words =
        "query 2: what is stored of key 1152921504606846993 could not be read, or is damaged";
    static const char *const paths[] = {"/fetch", "/search"};
    service_keys_make(http_fixture.data, UINT64_C(1) << 60);
    for (size_t i = 0; i < ARRAY_LENGTH(paths); i++) {
        http_fixture_start((struct service_options){.reads_fail = true}, (struct http_params){0});
        http_fixture_log_keep();
        const struct http_response *r = http_ask_post(paths[i], body);
        const char *log = http_fixture_log_text();
        http_expect_error(r, 500, "io", words);
        const char *line = strstr(log, "event=degraded trace=8000000100000001 ");
        if (!line || !strstr(line, "status=io queries=4 ") || !strstr(line, words) ||
            strstr(line + 1, "event="))
            fail_msg("logged: %s", log);
        http_fixture_stop();
    }
}

static void keys_in_flight_are_counted_as_queries(void **state)
{
    (void)state;
    static struct http_response r;
    static const uint64_t keys[] = {5, 6, 7};
    http_fixture_start((struct service_options){.gated = true},
                       (struct http_params){.queries_max = 3});
    int fd = raw_connect(http_fixture.path);
    http_send_post(fd, "/fetch", "{\"keys\":[5,6,7]}");
    http_fixture_wait_for_queries(3);
    struct http_response *busy = ask_fetch("{\"key\":8}");
    http_expect_error(busy, 503, "busy", "3 queries are in flight");
    assert_string_equal(http_header(busy, "Retry-After"), "1");
    gate_open(&http_fixture.service->gate);
    http_listen_for(fd, true, &r);
    expect_fetched(&r, keys, 3);
    /* On the same connection, and what they took is there again. */
    http_send_post(fd, "/fetch", "{\"keys\":[5,6,7]}");
    http_listen_for(fd, true, &r);
    expect_fetched(&r, keys, 3);
    close(fd);
}

static void a_deadline_that_passes_is_told(void **state)
{
    (void)state;
    static struct http_response r;
    static const uint64_t key = 5;
    http_fixture_start((struct service_options){.gated = true}, (struct http_params){0});
    int patient = raw_connect(http_fixture.path), late = raw_connect(http_fixture.path);
    http_send_post(patient, "/fetch", "{\"key\":5}");
    gate_wait_reached(&http_fixture.service->gate);
    http_send_post(late, "/fetch", "{\"key\":6,\"timeout_ms\":1}");
    http_fixture_wait_for_queries(2);
    uint64_t past_ns = clock_monotonic_ns() + 2000000;
    while (clock_monotonic_ns() < past_ns)
        ;
    gate_open(&http_fixture.service->gate);
    http_listen_for(late, true, &r);
    http_expect_error(&r, 504, "timeout", "1 ms");
    http_listen_for(patient, true, &r);
    expect_fetched(&r, &key, 1);
    close(patient);
    close(late);
}

static void the_end_answers_what_is_in_flight(void **state)
{
    (void)state;
    static struct http_response r;
    static const uint64_t key = 5;
    http_fixture_start((struct service_options){.gated = true}, (struct http_params){0});
    int fd = raw_connect(http_fixture.path);
    http_send_post(fd, "/fetch", "{\"key\":5}");
    http_fixture_wait_for_queries(1);
    gate_open(&http_fixture.service->gate);
    http_destroy(http_fixture.http);
    http_fixture.http = NULL;
    http_listen_for(fd, true, &r);
    expect_fetched(&r, &key, 1);
    close(fd);
}

#define TEST(name) cmocka_unit_test_teardown(name, http_fixture_test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_asked_is_read),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(answers_are_bounded),
        cmocka_unit_test(vectors_are_given_in_the_type_of_queries),
        cmocka_unit_test(floats_read_back_exactly),
        cmocka_unit_test(the_longest_answer_is_as_short_as_promised),
        TEST(stored_vectors_are_answered_by_their_keys),
        TEST(wrong_fetches_and_methods_are_refused),
        TEST(what_cannot_be_read_is_named_and_logged),
        TEST(keys_in_flight_are_counted_as_queries),
        TEST(a_deadline_that_passes_is_told),
        TEST(the_end_answers_what_is_in_flight),
    };
    return cmocka_run_group_tests(tests, http_fixture_group_setup, http_fixture_group_teardown);
}
