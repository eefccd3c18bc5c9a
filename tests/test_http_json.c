/*
 * test_http_json.c - what the JSON of all POSTs has in common, where no request's kind matters.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "query/http_json.h"

static void too_many_values_are_refused_before_they_are_parsed(void **state)
{
    (void)state;
    struct error err;
    struct cJSON *root = NULL;
    size_t length = 4u << 20;
    char *text = malloc(length);
    assert_non_null(text);
    for (size_t i = 0; i < length; i += 2)
        memcpy(text + i, "0,", 2);
    memcpy(text, "{\"vector\":[", 11);
    assert_int_equal(http_json_parse(text, length, &root, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "1048576"));
    assert_null(root);
    free(text);
}

/* What is within strings is text. */
static void nesting_is_refused_before_it_is_parsed(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum status status;
    } cases[] = {
        {"{\"a\":[[1],[2]]}", STATUS_OK},
        {"{\"a\":[[[1]]]}", STATUS_INVALID},
        {"{\"a\":\"[[[[{{{{\"}", STATUS_OK},
        {"{\"a\":\"\\\"[[[[\"}", STATUS_OK},
        {"{\"a\":\"\\\\\",\"b\":[[[1]]]}", STATUS_INVALID},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct cJSON *root = NULL;
        struct error err;
        enum status status = http_json_parse(cases[i].text, strlen(cases[i].text), &root, &err);
        assert_int_equal(status, cases[i].status);
        assert_true(status == STATUS_OK || strstr(err.text, "nested deeper than 3"));
        http_json_free(root);
    }
}

/* With what comes after it a filter would lose half of itself, and be another. */
static void strings_that_would_be_cut_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum status status;
    } cases[] = {
        {"{\"a\":\"x\\u0000 and y\"}", STATUS_INVALID},
        {"{\"a\":\"\\u0000\"}", STATUS_INVALID},
        {"{\"a\\u0000b\":1}", STATUS_INVALID},
        {"{\"a\":\"\\\\\\u0000\"}", STATUS_INVALID}, /* after an escaped backslash */
        {"{\"a\":\"x\\u00g0 and y\"}", STATUS_INVALID},
        {"{\"a\":\"x\\u000\"}", STATUS_INVALID},
        {"{\"a\":\"x\\u", STATUS_INVALID},
        {"{\"a\":\"x\\", STATUS_INVALID},
        {"{\"a\":\"\\\\u0000\"}", STATUS_OK}, /* that alone, and text */
        {"{\"a\":\"\\u0001\\u1000\\u0010\\u00e4\\u00E4\"}", STATUS_OK},
        {"{\"a\":\"u0000\"}", STATUS_OK},
    };
    const char raw[] = "{\"a\":\"x\0 and y\"}";
    struct cJSON *root = NULL;
    struct error err;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        enum status status = http_json_parse(cases[i].text, strlen(cases[i].text), &root, &err);
        if (status != cases[i].status)
            fail_msg("%s: %s", cases[i].text, status == STATUS_OK ? "taken" : err.text);
        if (status == STATUS_OK)
            http_json_free(root);
    }
    assert_int_equal(http_json_parse(cases[0].text, strlen(cases[0].text), &root, &err),
                     STATUS_INVALID);
    assert_string_equal(err.text, "byte 7: a string has no NUL, and four digits after \\u");
    assert_int_equal(http_json_parse(raw, sizeof(raw) - 1, &root, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "byte 7: "));
}

static void errors_are_json_whatever_they_quote(void **state)
{
    (void)state;
    char *text = http_json_error(STATUS_BUSY, "a \"b\\c\" \x01\xff");
    assert_string_equal(text, "{\"error\":\"a \\\"b\\\\c\\\" ??\",\"status\":\"busy\"}\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(too_many_values_are_refused_before_they_are_parsed),
        cmocka_unit_test(nesting_is_refused_before_it_is_parsed),
        cmocka_unit_test(strings_that_would_be_cut_are_refused),
        cmocka_unit_test(errors_are_json_whatever_they_quote),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
