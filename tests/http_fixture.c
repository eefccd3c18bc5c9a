/*
 * http_fixture.c - see http_fixture.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/http_fixture.h"

struct http_fixture http_fixture = {.stderr_before = -1};

int http_fixture_group_setup(void **state)
{
    (void)state;
    http_fixture.data = service_data_create();
    snprintf(http_fixture.path, sizeof(http_fixture.path), "%s/h", http_fixture.data->dir);
    return 0;
}

int http_fixture_group_teardown(void **state)
{
    (void)state;
    service_data_destroy(http_fixture.data);
    return 0;
}

void http_fixture_stop(void)
{
    if (http_fixture.service)
        gate_open(&http_fixture.service->gate);
    http_destroy(http_fixture.http);
    http_fixture.http = NULL;
    service_destroy(http_fixture.service);
    http_fixture.service = NULL;
}

int http_fixture_test_teardown(void **state)
{
    (void)state;
    (void)http_fixture_log_text();
    http_fixture_stop();
    /* A test may have had another one served, and failed. */
    snprintf(http_fixture.data->generation, sizeof(http_fixture.data->generation), "%s/root/gen",
             http_fixture.data->dir);
    return 0;
}

void http_fixture_start(struct service_options options, struct http_params params)
{
    struct error err;
    http_fixture.service = service_start(http_fixture.data, &options);
    memset(&http_fixture.counters, 0, sizeof(http_fixture.counters));
    if (socket_path_listen(http_fixture.path, NULL, 128, &http_fixture.listener, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    params.serving = http_fixture.service->serving;
    params.server = http_fixture.service->server;
    params.listener = &http_fixture.listener;
    params.counters = &http_fixture.counters;
    if (http_create(&params, &http_fixture.http, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

void http_fixture_wait_for_queries(uint32_t wanted)
{
    uint64_t until_ns = clock_monotonic_ns() + HTTP_FIXTURE_PATIENCE_S * UINT64_C(1000000000);
    for (;;) {
        struct serving_stats stats;
        serving_stats_get(http_fixture.service->serving, &stats);
        if (stats.engine.in_flight + stats.engine.queued == wanted)
            return;
        if (clock_monotonic_ns() > until_ns)
            fail_msg("%u queries are in flight, wanted %u",
                     stats.engine.in_flight + stats.engine.queued, wanted);
        sched_yield();
    }
}

static void log_path(char path[SERVICE_PATH_BYTES])
{
    snprintf(path, SERVICE_PATH_BYTES, "%s/log", http_fixture.data->dir);
}

void http_fixture_log_keep(void)
{
    char path[SERVICE_PATH_BYTES];
    log_path(path);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    http_fixture.stderr_before = dup(STDERR_FILENO);
    assert_true(fd >= 0 && http_fixture.stderr_before >= 0);
    assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
    close(fd);
    log_set_level(LOG_LEVEL_WARN);
}

const char *http_fixture_log_text(void)
{
    static char text[4096];
    char path[SERVICE_PATH_BYTES];
    log_path(path);
    text[0] = '\0';
    if (http_fixture.stderr_before < 0)
        return text;
    log_set_level(LOG_LEVEL_ERROR);
    assert_int_equal(dup2(http_fixture.stderr_before, STDERR_FILENO), STDERR_FILENO);
    close(http_fixture.stderr_before);
    http_fixture.stderr_before = -1;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

/* ---- a client ---- */

void http_say(int fd, const char *text)
{
    raw_send(fd, text, strlen(text));
}

/* Bytes until `end` has come, or the connection ends. */
static bool receive_until(int fd, char *out, size_t room, const char *end)
{
    size_t length = 0;
    while (length + 1 < room && recv(fd, out + length, 1, 0) == 1) {
        out[++length] = '\0';
        if (length >= strlen(end) && strcmp(out + length - strlen(end), end) == 0)
            return true;
    }
    return false;
}

const char *http_header(const struct http_response *response, const char *name)
{
    static _Thread_local char value[512];
    for (const char *at = strstr(response->head, "\r\n"); at; at = strstr(at + 2, "\r\n"))
        if (strncasecmp(at + 2, name, strlen(name)) == 0 && at[2 + strlen(name)] == ':') {
            assert_int_equal(sscanf(at + 2 + strlen(name) + 1, " %511[^\r]", value), 1);
            return value;
        }
    return NULL;
}

void http_listen_for(int fd, bool with_body, struct http_response *out)
{
    memset(out, 0, sizeof(*out));
    if (!receive_until(fd, out->head, sizeof(out->head), "\r\n\r\n"))
        return;
    assert_int_equal(sscanf(out->head, "HTTP/1.1 %d ", &out->status), 1);
    const char *length = http_header(out, "Content-Length");
    if (!length || !with_body)
        return;
    out->body_bytes = strtoul(length, NULL, 10);
    assert_true(out->body_bytes < sizeof(out->body));
    for (size_t got = 0; got < out->body_bytes;) {
        ssize_t some = recv(fd, out->body + got, out->body_bytes - got, 0);
        assert_true(some > 0);
        got += (size_t)some;
    }
}

void http_send_post(int fd, const char *path, const char *body)
{
    char head[256];
    snprintf(head, sizeof(head), "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n", path,
             strlen(body));
    http_say(fd, head);
    http_say(fd, body);
}

struct http_response *http_ask(const char *request)
{
    static struct http_response response;
    int fd = raw_connect(http_fixture.path);
    http_say(fd, request);
    http_listen_for(fd, strncmp(request, "HEAD ", 5) != 0, &response);
    close(fd);
    return &response;
}

struct http_response *http_ask_post(const char *path, const char *body)
{
    static struct http_response response;
    int fd = raw_connect(http_fixture.path);
    http_send_post(fd, path, body);
    http_listen_for(fd, true, &response);
    close(fd);
    return &response;
}

void http_expect_error(const struct http_response *response, int code, const char *status,
                       const char *words)
{
    if (response->status != code || !strstr(response->body, words))
        fail_msg("got %d %s, wanted %d with '%s'", response->status, response->body, code, words);
    assert_string_equal(http_header(response, "Content-Type"), "application/json");
    cJSON *root = cJSON_Parse(response->body);
    assert_non_null(root);
    assert_non_null(cJSON_GetStringValue(cJSON_GetObjectItem(root, "error")));
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(root, "status")), status);
    cJSON_Delete(root);
}
