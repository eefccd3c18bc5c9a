/*
 * test_http_search.c - the JSON of POST /search where no server is needed: limits, element types,
 * and numbers that other JSON writers would round. What is refused is told in test_http.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "query/http_search.h"

static void too_many_values_are_refused_before_they_are_parsed(void **state)
{
    (void)state;
    struct error err;
    struct http_search search;
    const struct protocol_shape shape = {ELEMENT_U8, VECTOR_DIM_MAX, PROTOCOL_QUERIES_MAX, METRIC_L2};
    size_t length = 4u << 20;
    char *text = malloc(length);
    assert_non_null(text);
    for (size_t i = 0; i < length; i += 2)
        memcpy(text + i, "0,", 2);
    memcpy(text, "{\"vector\":[", 11);
    assert_int_equal(http_search_parse(text, length, &shape, &search, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "1048576"));
    free(text);
}

static void values_are_checked_for_the_element_type(void **state)
{
    (void)state;
    static const struct {
        enum element_type type;
        const char *text;
        bool fits;
    } values[] = {
        {ELEMENT_U8, "255", true},    {ELEMENT_U8, "256", false},  {ELEMENT_U8, "-1", false},
        {ELEMENT_U8, "1.5", false},   {ELEMENT_U8, "2.0", true},   {ELEMENT_I8, "-128", true},
        {ELEMENT_I8, "-129", false},  {ELEMENT_I8, "128", false},  {ELEMENT_F32, "3.4e38", true},
        {ELEMENT_F32, "1e39", false}, {ELEMENT_F16, "65504", true}};
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        const struct protocol_shape shape = {values[i].type, 1, 1, METRIC_L2};
        struct http_search search = {0};
        struct error err;
        char text[64];
        snprintf(text, sizeof(text), "{\"vector\":[%s]}", values[i].text);
        enum status status = http_search_parse(text, strlen(text), &shape, &search, &err);
        assert_int_equal(status, values[i].fits ? STATUS_OK : STATUS_INVALID);
        if (status != STATUS_OK)
            continue;
        float back;
        element_to_f32(values[i].type, search.vectors, 1, &back);
        assert_true(back == strtof(values[i].text, NULL));
        http_search_free(&search);
    }
}

static void keys_beyond_doubles_are_printed_in_full(void **state)
{
    (void)state;
    struct search_hit hits[] = {{.key = UINT64_MAX, .distance = 1.5f},
                                {.key = (UINT64_C(1) << 53) + 1, .distance = INFINITY}};
    struct search_query query = {.hits = hits, .hit_count = 2, .flags = SEARCH_DEGRADED};
    const struct http_search_origin origin = {.generation_low = 1, .trace_id = 2};
    struct error err;
    char *text = NULL;
    assert_int_equal(http_search_format(&origin, &query, 1, &text, &err), STATUS_OK);
    assert_string_equal(
        text, "{\"generation\":\"00000000000000000000000000000001\",\"trace_id\":"
              "\"0000000000000002\",\"results\":[{\"hits\":[{\"key\":18446744073709551615,"
              "\"distance\":1.5},{\"key\":9007199254740993,\"distance\":null}],"
              "\"degraded\":true,\"reads\":0}]}\n");
    free(text);
}

static void errors_are_json_whatever_they_quote(void **state)
{
    (void)state;
    char *text = http_error_format(STATUS_BUSY, "a \"b\\c\" \x01\xff");
    assert_string_equal(text, "{\"error\":\"a \\\"b\\\\c\\\" ??\",\"status\":\"busy\"}\n");
    free(text);
}

static void defaults_are_those_that_are_documented(void **state)
{
    (void)state;
    const struct protocol_shape shape = {ELEMENT_U8, 1, 1, METRIC_L2};
    const char *const usual = "{\"vector\":[1]}", *const large = " {\"k\":50,\"vector\":[1]} \n";
    struct http_search search;
    struct error err;
    assert_int_equal(http_search_parse(usual, strlen(usual), &shape, &search, &err), STATUS_OK);
    assert_int_equal(search.k, 10);
    assert_int_equal(search.search_list, 40);
    assert_int_equal(search.query_count, 1);
    assert_true(search.beam_width == 0 && search.search_ratio == 0 && search.timeout_ms == 0);
    http_search_free(&search);
    assert_int_equal(http_search_parse(large, strlen(large), &shape, &search, &err), STATUS_OK);
    assert_int_equal(search.k, 50);
    assert_int_equal(search.search_list, 50);
    http_search_free(&search);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(too_many_values_are_refused_before_they_are_parsed),
        cmocka_unit_test(values_are_checked_for_the_element_type),
        cmocka_unit_test(keys_beyond_doubles_are_printed_in_full),
        cmocka_unit_test(errors_are_json_whatever_they_quote),
        cmocka_unit_test(defaults_are_those_that_are_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
