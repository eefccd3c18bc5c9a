/*
 * http_fixture.h - for tests of the HTTP socket: a server with one over a real index, and a client
 * by bytes.
 *
 * Functions assert through cmocka and are called on the test's thread unless they say otherwise.
 */
#ifndef NIGHTJAR_TESTS_HTTP_FIXTURE_H
#define NIGHTJAR_TESTS_HTTP_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "query/http.h"
#include "tests/service.h"

enum {
    HTTP_FIXTURE_PATIENCE_S = 60,
    HTTP_FIXTURE_RESPONSE_BYTES = 256 << 10,
};

struct http_fixture {
    struct service_data *data;
    struct service *service;
    struct socket_path listener;
    struct http_counters counters;
    struct http *http;
    char path[SERVICE_PATH_BYTES]; /* of the HTTP socket */
    int stderr_before;             /* -1: log lines are not kept */
};
/* One a program. */
extern struct http_fixture http_fixture;

/* What cmocka takes: data once a program, and the end of what http_fixture_start() began, after
 * which the usual generation is what is served next. */
int http_fixture_group_setup(void **state);
int http_fixture_group_teardown(void **state);
int http_fixture_test_teardown(void **state);

/* A server, and HTTP over it; pointers of `params` are filled in. */
void http_fixture_start(struct service_options options, struct http_params params);
void http_fixture_stop(void);

/* Until so many queries are in flight or queued; fails after a minute. */
void http_fixture_wait_for_queries(uint32_t wanted);

/* What the program logs from here on, warnings too, is kept, until the text of it is asked for or
 * the test ends. It holds until the next call. */
void http_fixture_log_keep(void);
const char *http_fixture_log_text(void);

/* ---- a client ---- */

struct http_response {
    int status; /* 0: the connection ended without one */
    size_t body_bytes;
    char head[4096];
    char body[HTTP_FIXTURE_RESPONSE_BYTES];
};

/* Any thread. */
void http_say(int fd, const char *text);
void http_send_post(int fd, const char *path, const char *body);
void http_listen_for(int fd, bool with_body, struct http_response *out);

/* A header's value, until the next call; NULL: there is none. */
const char *http_header(const struct http_response *response, const char *name);

/* On a connection of its own. The response holds until the next call of the same. */
struct http_response *http_ask(const char *request);
struct http_response *http_ask_post(const char *path, const char *body);

/* The response is an error in JSON, with these words. */
void http_expect_error(const struct http_response *response, int code, const char *status,
                       const char *words);

#endif
