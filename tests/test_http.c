/*
 * test_http.c - the HTTP socket over a real server and index, by bytes: what it answers, what it
 * refuses, that searches wait for nobody and that clients may come and go as they like.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/http_fixture.h"

enum {
    K = 5,
    BODY_BYTES = 64 << 10,
    CALLERS = 8,
    ROUNDS = 20,
};

static void post(int fd, const char *body)
{
    http_send_post(fd, "/search", body);
}

static struct http_response *ask_search(const char *body)
{
    return http_ask_post("/search", body);
}

/* A request of queries first, first + 1, ...; "vector" for one. */
static const char *search_body(uint32_t first, uint32_t count, const char *rest)
{
    static _Thread_local char body[BODY_BYTES];
    size_t at = (size_t)sprintf(body, count > 1 ? "{\"vectors\":[" : "{\"vector\":");
    for (uint32_t q = 0; q < count; q++) {
        float query[SERVICE_DIM];
        service_query(first + q, query);
        at += (size_t)sprintf(body + at, "%s[", q ? "," : "");
        for (uint32_t d = 0; d < SERVICE_DIM; d++)
            at += (size_t)sprintf(body + at, "%s%.9g", d ? "," : "", (double)query[d]);
        at += (size_t)sprintf(body + at, "]");
    }
    sprintf(body + at, "%s%s}", count > 1 ? "]" : "", rest);
    return body;
}

/* The answer to search_body(first, count, K, the usual list). */
static void expect_hits(const struct http_response *response, uint32_t first, uint32_t count)
{
    struct search_hit expected[16 * K];
    float queries[16][SERVICE_DIM];
    assert_true(count <= 16);
    for (uint32_t q = 0; q < count; q++)
        service_query(first + q, queries[q]);
    service_expect(http_fixture.service, queries[0], count, K, expected);
    assert_int_equal(response->status, 200);
    cJSON *root = cJSON_Parse(response->body);
    assert_non_null(root);
    const struct digest128 id = http_fixture.service->served->manifest->generation_id;
    char generation[33];
    snprintf(generation, sizeof(generation), "%016" PRIx64 "%016" PRIx64, id.high, id.low);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(root, "generation")), generation);
    assert_int_equal(strlen(cJSON_GetStringValue(cJSON_GetObjectItem(root, "trace_id"))), 16);
    const cJSON *results = cJSON_GetObjectItem(root, "results");
    assert_int_equal(cJSON_GetArraySize(results), count);
    for (uint32_t q = 0; q < count; q++) {
        const cJSON *result = cJSON_GetArrayItem(results, (int)q);
        const cJSON *hits = cJSON_GetObjectItem(result, "hits");
        assert_true(cJSON_IsFalse(cJSON_GetObjectItem(result, "degraded")));
        assert_true(cJSON_IsNumber(cJSON_GetObjectItem(result, "reads")));
        assert_int_equal(cJSON_GetArraySize(hits), K);
        for (uint32_t i = 0; i < K; i++) {
            const cJSON *hit = cJSON_GetArrayItem(hits, (int)i);
            const struct search_hit *want = &expected[q * K + i];
            assert_true(cJSON_GetObjectItem(hit, "key")->valuedouble == (double)want->key);
            assert_true((float)cJSON_GetObjectItem(hit, "distance")->valuedouble == want->distance);
        }
    }
    cJSON_Delete(root);
}

#define USUAL ",\"k\":5,\"search_list\":40,\"beam_width\":1"

/* ---- what is looked at ---- */

static void health_metrics_and_stats_are_served(void **state)
{
    (void)state;
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    struct http_response *r = http_ask("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(r->status, 200);
    assert_string_equal(r->body, "ok\ngeneration: gen\n");
    r = http_ask("GET /metrics?format=any HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(r->status, 200);
    assert_string_equal(http_header(r, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_non_null(strstr(r->body, "\nnightjar_vectors 600\n"));
    r = http_ask("GET /stats HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(r->status, 200);
    cJSON *root = cJSON_Parse(r->body);
    assert_non_null(cJSON_GetObjectItem(root, "engine"));
    cJSON_Delete(root);
}

static void head_has_no_body(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    int fd = raw_connect(http_fixture.path);
    http_say(fd,
             "HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\nGET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    http_listen_for(fd, false, &r);
    assert_int_equal(r.status, 200);
    assert_string_equal(http_header(&r, "Content-Length"), "19");
    http_listen_for(fd, true, &r);
    assert_string_equal(r.body, "ok\ngeneration: gen\n");
    close(fd);
}

static bool always(void *context)
{
    (void)context;
    return true;
}

static void queries_that_do_not_end_are_ill_health(void **state)
{
    (void)state;
    http_fixture_start((struct service_options){0}, (struct http_params){.stuck = always});
    struct http_response *r = http_ask("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(r->status, 503);
    assert_non_null(strstr(r->body, "queries do not end"));
}

static void wrong_places_and_methods_are_refused(void **state)
{
    (void)state;
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    http_expect_error(http_ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), 404, "not-found", "/healthz");
    http_expect_error(http_ask("GET /healthz/ HTTP/1.1\r\nHost: h\r\n\r\n"), 404, "not-found",
                      "/healthz");
    struct http_response *r = http_ask("GET /search HTTP/1.1\r\nHost: h\r\n\r\n");
    http_expect_error(r, 405, "invalid", "POST");
    assert_string_equal(http_header(r, "Allow"), "POST");
    r = http_ask("POST /stats HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
    http_expect_error(r, 405, "invalid", "GET");
    assert_string_equal(http_header(r, "Allow"), "GET, HEAD");
    assert_int_equal(http_ask("what is this\r\n\r\n")->status / 100, 4);
    struct http_stats stats;
    http_counters_get(&http_fixture.counters, &stats);
    assert_int_equal(stats.requests, 4);
    assert_int_equal(stats.errors, 4);
}

static void a_body_that_nobody_wants_is_let_go_by(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    int fd = raw_connect(http_fixture.path);
    http_say(fd, "GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 37\r\n\r\n"
                 "GET /nothing HTTP/1.1\r\nHost: hidden\r\n"
                 "GET /stats HTTP/1.1\r\nHost: h\r\n\r\n");
    http_listen_for(fd, true, &r);
    assert_string_equal(r.body, "ok\ngeneration: gen\n");
    http_listen_for(fd, true, &r);
    assert_int_equal(r.status, 200);
    assert_string_equal(http_header(&r, "Content-Type"), "application/json");
    close(fd);
}

/* ---- searches ---- */

static void answers_equal_those_of_the_engine_in_process(void **state)
{
    (void)state;
    const uint64_t budgets[] = {0, SERVICE_RESIDENT_BYTES};
    for (size_t b = 0; b < ARRAY_LENGTH(budgets); b++) {
        http_fixture_start((struct service_options){.memory_bytes = budgets[b]},
                           (struct http_params){0});
        expect_hits(ask_search(search_body(3, 1, USUAL)), 3, 1);
        expect_hits(ask_search(search_body(7, 16, USUAL)), 7, 16);
        http_fixture_stop();
    }
}

static void a_connection_is_kept_for_further_requests(void **state)
{
    (void)state;
    static struct http_response r;
    char trace[17] = "";
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    int fd = raw_connect(http_fixture.path);
    for (uint32_t q = 0; q < 5; q++) {
        post(fd, search_body(q, 1, USUAL));
        http_listen_for(fd, true, &r);
        expect_hits(&r, q, 1);
        const char *now = strstr(r.body, "\"trace_id\":\"") + strlen("\"trace_id\":\"");
        assert_int_not_equal(strncmp(trace, now, 16), 0);
        snprintf(trace, sizeof(trace), "%.16s", now);
        post(fd, "{}");
        http_listen_for(fd, true, &r);
        http_expect_error(&r, 400, "invalid", "vector");
    }
    /* Two at once: answered one after the other. */
    char two[2 * BODY_BYTES];
    const char *body = search_body(1, 1, USUAL);
    const char *head = "POST /search HTTP/1.1\r\nHost: h\r\nContent-Length: ";
    snprintf(two, sizeof(two), "%s%zu\r\n\r\n%s%s%zu\r\n\r\n%s", head, strlen(body), body, head,
             strlen(body), body);
    http_say(fd, two);
    for (int i = 0; i < 2; i++) {
        http_listen_for(fd, true, &r);
        expect_hits(&r, 1, 1);
    }
    close(fd);
}

static void chunks_and_slow_bodies_are_put_together(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    const char *body = search_body(2, 1, USUAL);
    int fd = raw_connect(http_fixture.path), other = raw_connect(http_fixture.path);
    http_say(fd, "POST /search HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (const char *at = body; *at; at++) {
        char chunk[8];
        snprintf(chunk, sizeof(chunk), "1\r\n%c\r\n", *at);
        http_say(fd, chunk);
        if (at == body + 10) {
            /* Nobody else waits for it. */
            http_say(other, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
            http_listen_for(other, true, &r);
            assert_int_equal(r.status, 200);
        }
    }
    http_say(fd, "0\r\n\r\n");
    http_listen_for(fd, true, &r);
    expect_hits(&r, 2, 1);
    close(fd);
    close(other);
}

static void a_request_id_comes_back_if_it_is_one(void **state)
{
    (void)state;
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    struct http_response *r =
        http_ask("GET /healthz HTTP/1.1\r\nHost: h\r\nX-Request-Id: ab c-1\r\n\r\n");
    assert_string_equal(http_header(r, "X-Request-Id"), "ab c-1");
    r = http_ask("GET /nothing HTTP/1.1\r\nHost: h\r\nX-Request-Id: 7\r\n\r\n");
    assert_string_equal(http_header(r, "X-Request-Id"), "7");
    const char *const bad[] = {"a\"b", "a\\b", "\xc3\xa4", "a\tb",
                               "01234567890123456789012345678901234567890123456789012345678901234"};
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        char request[256];
        snprintf(request, sizeof(request),
                 "GET /healthz HTTP/1.1\r\nHost: h\r\nX-Request-Id: %s\r\n\r\n", bad[i]);
        r = http_ask(request);
        assert_int_equal(r->status, 200);
        assert_null(http_header(r, "X-Request-Id"));
    }
}

/* Each of the page's keys has not been there before; how many there are. Digits are read here, as
 * the JSON reader has doubles. */
static uint32_t page_note(const char *body, uint64_t first, bool seen[SERVICE_VECTORS])
{
    const char *const mark = "{\"key\":", *end = strchr(body, ']');
    uint32_t count = 0;
    assert_non_null(end);
    for (const char *at = strstr(body, mark); at && at < end; at = strstr(at + 1, mark), count++) {
        uint64_t row = strtoull(at + strlen(mark), NULL, 10) - first;
        assert_true(row < SERVICE_VECTORS && !seen[row]);
        seen[row] = true;
    }
    return count;
}

/* What an answer's `next` is, as it is written there; "null" before the first. False: none. */
static bool next_copy(const char *body, char *next, size_t room)
{
    const char *const mark = "\"next\":", *at = strstr(body, mark);
    if (!at)
        return false;
    at += strlen(mark);
    snprintf(next, room, "%.*s", (int)(strchr(at, '}') + 1 - at), at);
    return true;
}

/* Of keys that doubles cannot tell apart, too. */
static void a_key_is_asked_for_page_by_page(void **state)
{
    (void)state;
    const uint64_t firsts[] = {0, UINT64_C(1) << 60};
    for (size_t i = 0; i < ARRAY_LENGTH(firsts); i++) {
        bool seen[SERVICE_VECTORS] = {0}, more = true;
        char next[128] = "null", body[256];
        uint32_t found = 0;
        if (firsts[i] > 0)
            service_keys_make(http_fixture.data, firsts[i]);
        http_fixture_start((struct service_options){0}, (struct http_params){0});
        while (more) {
            snprintf(body, sizeof(body),
                     "{\"key\":\"%" PRIu64 "\",\"k\":50,\"search_list\":600,\"after\":%s}",
                     firsts[i] + 17, next);
            const struct http_response *r = ask_search(body);
            if (r->status != 200)
                fail_msg("%s: %s", body, r->body);
            found += page_note(r->body, firsts[i], seen);
            more = next_copy(r->body, next, sizeof(next));
            assert_non_null(strstr(r->body, more ? "\"last\":false" : "\"last\":true"));
            assert_true(!more || found % 50 == 0);
        }
        assert_int_equal(found, SERVICE_VECTORS - 1); /* but its own vector */
        assert_false(seen[17]);
        http_fixture_stop();
    }
}

static void a_key_that_is_unknown_finds_nothing(void **state)
{
    (void)state;
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    const struct http_response *r = ask_search("{\"key\":600}");
    assert_int_equal(r->status, 200);
    assert_non_null(strstr(r->body, "{\"hits\":[],\"degraded\":false,\"unknown_key\":true"));
}

#define V16 "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]"

static void wrong_searches_are_told_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *body, *words;
    } wrong[] = {
        {"", "no JSON"},
        {"{", "no JSON"},
        {"{\"vector\":" V16 "} x", "no JSON from byte 45"},
        {"{\"vector\":[1,2,}", "no JSON"},
        {"[]", "JSON object"},
        {"null", "JSON object"},
        {"{}", "neither vector"},
        {"{\"vector\":" V16 ",\"vectors\":[" V16 "]}", "both vector"},
        {"{\"vector\":" V16 ",\"vector\":" V16 "}", "given twice"},
        {"{\"vector\":" V16 ",\"K\":3}", "\\\"K\\\""},
        {"{\"vector\":[[[[[1]]]]]}", "nested"},
        {"{\"vector\":[1,2,3]}", "has 3 numbers, the index has dim 16"},
        {"{\"vector\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}", "more than the index's 16"},
        {"{\"vector\":[]}", "has 0 numbers"},
        {"{\"vector\":7}", "want an array"},
        {"{\"vector\":[0,\"1\",0,0,0,0,0,0,0,0,0,0,0,0,0,0]}", "element 1"},
        {"{\"vector\":[0,null,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}", "element 1"},
        {"{\"vector\":[0,0,1e999,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
         "element 2: want a number that is finite"},
        {"{\"vector\":[0,0,0,-1e39,0,0,0,0,0,0,0,0,0,0,0,0]}", "element 3"},
        {"{\"vector\":[NaN,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}", "no JSON"},
        {"{\"vectors\":[]}", "0 queries"},
        {"{\"vectors\":{}}", "vectors: want an array"},
        {"{\"vectors\":[1]}", "query 0: want an array"},
        {"{\"vectors\":[" V16 ",[1]]}", "query 1 has 1"},
        {"{\"vector\":" V16 ",\"k\":0}", "k is 0"},
        {"{\"vector\":" V16 ",\"k\":4097}", "k is 4097"},
        {"{\"vector\":" V16 ",\"k\":1.5}", "k: want a whole"},
        {"{\"vector\":" V16 ",\"k\":-1}", "k: want a whole"},
        {"{\"vector\":" V16 ",\"k\":4294967297}", "k: want a whole"},
        {"{\"vector\":" V16 ",\"k\":\"5\"}", "k: want a whole"},
        {"{\"vector\":" V16 ",\"k\":601,\"search_list\":700}", "query 0"},
        {"{\"vector\":" V16 ",\"k\":20,\"search_list\":10}", "query 0"},
        {"{\"vector\":" V16 ",\"search_list\":5000}", "query 0"},
        {"{\"vector\":" V16 ",\"beam_width\":65}", "query 0"},
        {"{\"vector\":" V16 ",\"search_ratio\":1e999}", "search_ratio: want a finite"},
        {"{\"vector\":" V16 ",\"search_ratio\":-1}", "query 0"},
        {"{\"vector\":" V16 ",\"timeout_ms\":true}", "timeout_ms: want a whole"},
        {"{\"vector\":" V16 ",\"radius\":-1}", "radius is -1"},
        {"{\"vector\":" V16 ",\"filter\":\"year = 1\"}", "this index has no attributes"},
        {"{\"vector\":" V16 ",\"recall\":1.5}", "above 0 and below 1"},
        {"{\"key\":17,\"recall\":0.5,\"search_list\":40}", "either a search list or"},
    };
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++)
        http_expect_error(ask_search(wrong[i].body), 400, "invalid", wrong[i].words);
    assert_int_equal(ask_search("{\"vector\":" V16 "}")->status, 200);
}

static void bodies_are_bounded(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){0}, (struct http_params){0});
    struct http_response *told =
        http_ask("POST /search HTTP/1.1\r\nHost: h\r\nContent-Length: 16777217\r\n\r\n");
    http_expect_error(told, 413, "invalid", "16777216");
    /* Not announced: taken up to the limit, and let go by. */
    int fd = raw_connect(http_fixture.path);
    http_say(fd, "POST /search HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    static char megabyte[1 << 20];
    memset(megabyte, ' ', sizeof(megabyte));
    for (int i = 0; i < 17; i++) {
        http_say(fd, "100000\r\n");
        raw_send(fd, megabyte, sizeof(megabyte));
        http_say(fd, "\r\n");
    }
    http_say(fd, "0\r\n\r\n");
    http_listen_for(fd, true, &r);
    http_expect_error(&r, 413, "invalid", "16777216");
    close(fd);
    assert_int_equal(ask_search("{\"vector\":" V16 "}")->status, 200);
}

static void unreadable_blocks_degrade_the_answer(void **state)
{
    (void)state;
    http_fixture_start((struct service_options){.reads_fail = true}, (struct http_params){0});
    struct http_response *r = ask_search(search_body(1, 1, USUAL));
    assert_int_equal(r->status, 200);
    assert_non_null(strstr(r->body, "\"degraded\":true"));
}

/* ---- limits, and what happens meanwhile ---- */

static void searches_in_flight_hold_up_nobody_and_are_limited(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){.gated = true},
                       (struct http_params){.queries_max = 3});
    int fds[3];
    for (uint32_t i = 0; i < 3; i++) {
        fds[i] = raw_connect(http_fixture.path);
        post(fds[i], search_body(i, 1, USUAL));
    }
    http_fixture_wait_for_queries(3);
    assert_int_equal(http_ask("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")->status, 200);
    struct http_response *busy = ask_search(search_body(9, 1, USUAL));
    http_expect_error(busy, 503, "busy", "3 queries are in flight");
    assert_string_equal(http_header(busy, "Retry-After"), "1");
    http_expect_error(ask_search(search_body(9, 4, USUAL)), 400, "invalid", "4 queries");
    gate_open(&http_fixture.service->gate);
    for (uint32_t i = 0; i < 3; i++) {
        http_listen_for(fds[i], true, &r);
        expect_hits(&r, i, 1);
        close(fds[i]);
    }
    /* What they took is there again. */
    expect_hits(ask_search(search_body(9, 3, USUAL)), 9, 3);
}

static void a_deadline_that_passes_is_told(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){.gated = true}, (struct http_params){0});
    int patient = raw_connect(http_fixture.path), late = raw_connect(http_fixture.path);
    post(patient, search_body(1, 1, USUAL));
    gate_wait_reached(&http_fixture.service->gate);
    post(late, search_body(2, 1, USUAL ",\"timeout_ms\":1"));
    http_fixture_wait_for_queries(2);
    uint64_t past_ns = clock_monotonic_ns() + 2000000;
    while (clock_monotonic_ns() < past_ns)
        ;
    gate_open(&http_fixture.service->gate);
    http_listen_for(late, true, &r);
    http_expect_error(&r, 504, "timeout", "1 ms");
    http_listen_for(patient, true, &r);
    expect_hits(&r, 1, 1);
    close(patient);
    close(late);
}

static void clients_that_die_leave_nothing(void **state)
{
    (void)state;
    http_fixture_start((struct service_options){.gated = true},
                       (struct http_params){.queries_max = 4});
    for (uint32_t i = 0; i < 4; i++) {
        int fd = raw_connect(http_fixture.path);
        post(fd, search_body(i, 1, USUAL));
        http_fixture_wait_for_queries(i + 1);
        close(fd);
    }
    /* In the midst of a header and of a body. */
    int fd = raw_connect(http_fixture.path);
    http_say(fd, "POST /sea");
    close(fd);
    fd = raw_connect(http_fixture.path);
    http_say(fd, "POST /search HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{\"vector\":[1,");
    close(fd);
    gate_open(&http_fixture.service->gate);
    http_fixture_wait_for_queries(0);
    /* Their share is given back once their connections were looked at. */
    uint64_t until_ns = clock_monotonic_ns() + HTTP_FIXTURE_PATIENCE_S * UINT64_C(1000000000);
    while (ask_search(search_body(9, 4, USUAL))->status != 200)
        assert_true(clock_monotonic_ns() < until_ns);
}

static void the_end_answers_what_is_in_flight(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){.gated = true}, (struct http_params){0});
    int fd = raw_connect(http_fixture.path), idle = raw_connect(http_fixture.path);
    int half = raw_connect(http_fixture.path);
    post(fd, search_body(4, 1, USUAL));
    http_say(half, "POST /search HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{");
    http_fixture_wait_for_queries(1);
    gate_open(&http_fixture.service->gate);
    http_destroy(http_fixture.http);
    http_fixture.http = NULL;
    assert_int_not_equal(access(http_fixture.path, F_OK), 0);
    http_listen_for(fd, true, &r);
    expect_hits(&r, 4, 1);
    http_listen_for(idle, true, &r);
    assert_int_equal(r.status, 0);
    http_listen_for(half, true, &r);
    assert_int_equal(r.status, 0);
    close(fd);
    close(idle);
    close(half);
}

static void idle_connections_are_closed(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){0}, (struct http_params){.idle_s = 1});
    int fd = raw_connect(http_fixture.path);
    http_say(fd, "POST /search HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{");
    http_listen_for(fd, true, &r); /* or raw_connect()'s patience ends, which is longer */
    char byte;
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
    close(fd);
}

static void more_connections_than_the_limit_wait(void **state)
{
    (void)state;
    static struct http_response r;
    http_fixture_start((struct service_options){0}, (struct http_params){.connections_max = 2});
    int fds[3];
    for (int i = 0; i < 3; i++) {
        fds[i] = raw_connect(http_fixture.path);
        http_say(fds[i], "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
        if (i < 2) {
            http_listen_for(fds[i], true, &r);
            assert_int_equal(r.status, 200);
        }
    }
    close(fds[0]);
    http_listen_for(fds[2], true, &r);
    assert_int_equal(r.status, 200);
    close(fds[1]);
    close(fds[2]);
}

static void users_who_are_not_let_in_get_403(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* our own user always is let in, and only root can be another */
    static struct http_response r;
    const struct peer_policy peers = {.user_count = 1, .users = {4711}};
    http_fixture_start((struct service_options){0}, (struct http_params){.peers = &peers});
    assert_int_equal(http_ask("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")->status, 200);
    assert_int_equal(chmod(http_fixture.path, 0777) | chmod(http_fixture.data->dir, 0755), 0);
    int pair[2];
    assert_int_equal(pipe(pair), 0);
    pid_t child = fork();
    if (child == 0) {
        if (setresuid(4712, 4712, 4712) != 0)
            _exit(2);
        int fd = raw_connect(http_fixture.path);
        http_say(fd, "POST /search HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
        http_listen_for(fd, true, &r);
        bool told = write(pair[1], &r, sizeof(r)) == sizeof(r);
        _exit(told ? 0 : 3);
    }
    close(pair[1]);
    for (size_t got = 0; got < sizeof(r);) {
        ssize_t some = read(pair[0], (char *)&r + got, sizeof(r) - got);
        assert_true(some > 0);
        got += (size_t)some;
    }
    close(pair[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    http_expect_error(&r, 403, "denied", "uid 4712");
}

struct caller {
    pthread_t thread;
    uint32_t number;
    uint32_t wrong;
};

/* Asks without cmocka, which is for the test's thread. */
static void *caller_main(void *context)
{
    struct caller *caller = context;
    struct http_response *r = calloc(1, sizeof(*r));
    int fd = raw_connect(http_fixture.path);
    for (uint32_t i = 0; r && i < ROUNDS; i++) {
        bool search = (i + caller->number) % 4 != 0;
        if (search)
            post(fd, search_body(i, 1 + i % 3, USUAL));
        else
            http_say(fd, "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
        http_listen_for(fd, true, r);
        caller->wrong += r->status != 200;
        caller->wrong += search != (strstr(r->body, "\"results\":[{\"hits\":[{\"key\":") != NULL);
    }
    close(fd);
    free(r);
    return NULL;
}

static void callers_at_once_are_all_answered(void **state)
{
    (void)state;
    struct caller callers[CALLERS];
    http_fixture_start((struct service_options){.threads = 2}, (struct http_params){.slow_ms = 1});
    for (uint32_t i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){.number = i};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, caller_main, &callers[i]), 0);
    }
    for (uint32_t i = 0; i < CALLERS; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].wrong, 0);
    }
    struct http_stats stats;
    http_counters_get(&http_fixture.counters, &stats);
    assert_int_equal(stats.requests, CALLERS * ROUNDS);
    assert_int_equal(stats.errors, 0);
}

#define TEST(name) cmocka_unit_test_teardown(name, http_fixture_test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(health_metrics_and_stats_are_served),
        TEST(head_has_no_body),
        TEST(queries_that_do_not_end_are_ill_health),
        TEST(wrong_places_and_methods_are_refused),
        TEST(a_body_that_nobody_wants_is_let_go_by),
        TEST(answers_equal_those_of_the_engine_in_process),
        TEST(a_connection_is_kept_for_further_requests),
        TEST(chunks_and_slow_bodies_are_put_together),
        TEST(a_request_id_comes_back_if_it_is_one),
        TEST(a_key_is_asked_for_page_by_page),
        TEST(a_key_that_is_unknown_finds_nothing),
        TEST(wrong_searches_are_told_what_is_wrong),
        TEST(bodies_are_bounded),
        TEST(unreadable_blocks_degrade_the_answer),
        TEST(searches_in_flight_hold_up_nobody_and_are_limited),
        TEST(a_deadline_that_passes_is_told),
        TEST(clients_that_die_leave_nothing),
        TEST(the_end_answers_what_is_in_flight),
        TEST(idle_connections_are_closed),
        TEST(more_connections_than_the_limit_wait),
        TEST(users_who_are_not_let_in_get_403),
        TEST(callers_at_once_are_all_answered),
    };
    return cmocka_run_group_tests(tests, http_fixture_group_setup, http_fixture_group_teardown);
}
