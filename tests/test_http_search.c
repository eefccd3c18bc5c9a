/*
 * test_http_search.c - the JSON of POST /search where no server is needed: element types, and
 * numbers that other JSON writers would round. What is refused is told in test_http.c.
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
    const struct http_search_context context = {.origin = {.generation_low = 1, .trace_id = 2}};
    struct error err;
    char *text = NULL;
    assert_int_equal(http_search_format(&context, &query, 1, &text, &err), STATUS_OK);
    assert_string_equal(
        text, "{\"generation\":\"00000000000000000000000000000001\",\"trace_id\":"
              "\"0000000000000002\",\"results\":[{\"hits\":[{\"key\":18446744073709551615,"
              "\"distance\":1.5},{\"key\":9007199254740993,\"distance\":null}],"
              "\"degraded\":true,\"reads\":0}]}\n");
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

/* Of one byte a vector, so that queries are short. */
static enum status parse(const char *text, struct http_search *search, struct error *err)
{
    const struct protocol_shape shape = {ELEMENT_U8, 1, 4, METRIC_L2};
    return http_search_parse(text, strlen(text), &shape, search, err);
}

static void what_is_asked_beside_vectors_is_read(void **state)
{
    (void)state;
    struct http_search search;
    struct error err;
    assert_int_equal(
        parse("{\"keys\":[9007199254740991,\"18446744073709551615\"],\"filter\":\"a = 1\","
              "\"radius\":-0.5,\"recall\":0.9,"
              "\"after\":[null,{\"key\":3,\"distance\":1.5,\"rank\":10}]}",
              &search, &err),
        STATUS_OK);
    assert_null(search.vectors);
    assert_int_equal(search.query_count, 2);
    assert_true(search.keys[0] == HTTP_JSON_KEY_NUMBER_MAX && search.keys[1] == UINT64_MAX);
    assert_string_equal(search.filter, "a = 1");
    assert_true(search.within_radius && search.radius == -0.5f);
    assert_true(search.recall_target == 0.9f && search.search_list == 0);
    assert_false(search.after[0].set);
    assert_true(search.after[1].set && search.after[1].key == 3 && search.after[1].rank == 10);
    assert_true(search.after[1].distance == 1.5f);
    http_search_free(&search);
    /* A page needs its rank and k. */
    assert_int_equal(
        parse("{\"key\":1,\"after\":{\"key\":3,\"distance\":1,\"rank\":90}}", &search, &err),
        STATUS_OK);
    assert_int_equal(search.search_list, 100);
    http_search_free(&search);
}

static void what_is_wrong_beside_vectors_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } wrong[] = {
        {"{\"vector\":[1],\"key\":1}", "both vector and key"},
        {"{\"keys\":1}", "keys: want an array"},
        {"{\"keys\":[]}", "0 queries"},
        {"{\"key\":-1}", "a key is a whole number"},
        {"{\"key\":1.5}", "a key is a whole number"},
        {"{\"key\":9007199254740992}", "at most 9007199254740991, or a string of its digits"},
        {"{\"key\":9007199254740993}", "at most 9007199254740991"}, /* read as the one before */
        {"{\"keys\":[1,9007199254740993]}", "at most 9007199254740991"},
        {"{\"key\":1,\"after\":{\"key\":9007199254740993,\"distance\":1,\"rank\":1}}",
         "at most 9007199254740991"},
        {"{\"key\":18446744073709551615}", "or a string of its digits"},
        {"{\"key\":\"18446744073709551616\"}", "a key is a whole number"},
        {"{\"key\":\"-1\"}", "a key is a whole number"},
        {"{\"key\":\"1x\"}", "a key is a whole number"},
        {"{\"key\":\"\"}", "a key is a whole number"},
        {"{\"key\":1,\"filter\":1}", "filter: want a string"},
        {"{\"key\":1,\"filter\":\"\"}", "the filter is empty"},
        {"{\"key\":1,\"filter\":\"a = 1\\u0000 and b = 2\"}", "byte 24: a string has no NUL"},
        {"{\"key\":\"1\\u00002\"}", "byte 9: a string has no NUL"},
        {"{\"key\":1,\"radius\":\"1\"}", "radius: want a finite"},
        {"{\"key\":1,\"recall\":0}", "recall 0: above 0"},
        {"{\"key\":1,\"after\":1}", "query 0: after is null"},
        {"{\"key\":1,\"after\":{\"key\":1,\"rank\":1}}", "query 0: after is null"},
        {"{\"key\":1,\"after\":{\"key\":1,\"distance\":1,\"rank\":0}}", "rank is 0"},
        {"{\"keys\":[1,2],\"after\":[null]}", "one for each query"},
        {"{\"keys\":[1,2],\"after\":null}", "one for each query"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        struct http_search search;
        struct error err;
        assert_int_equal(parse(wrong[i].text, &search, &err), STATUS_INVALID);
        if (!strstr(err.text, wrong[i].words))
            fail_msg("%s: \"%s\" lacks \"%s\"", wrong[i].text, err.text, wrong[i].words);
    }
}

static void a_page_says_where_the_next_begins(void **state)
{
    (void)state;
    struct search_hit hits[] = {{.key = 7, .distance = 1.5f}, {.key = 9, .distance = 2}};
    struct search_after none = {0};
    struct search_query query = {
        .hits = hits, .hit_count = 2, .k = 2, .after = {.set = true, .rank = 4}};
    const struct http_search asked = {
        .within_radius = true, .after = &none, .recall_target = 0.9f, .filter = (char[]){"x"}};
    const struct question question = {.common = {.search_list = 20, .search_ratio = 1.5f},
                                      .expected_recall = 0.75f,
                                      .match_estimate = 33};
    const struct http_search_context context = {.asked = &asked, .question = &question};
    struct error err;
    char *text = NULL;
    query.stats.filter_plan = SEARCH_FILTER_SCAN;
    query.flags = SEARCH_TRUNCATED;
    assert_int_equal(http_search_format(&context, &query, 1, &text, &err), STATUS_OK);
    assert_non_null(strstr(text, "\"truncated\":true,\"last\":false,\"next\":{\"key\":9,"
                                 "\"distance\":2,\"rank\":6},\"reads\":0}],\"search_list\":20,"
                                 "\"search_ratio\":1.5,\"expected_recall\":0.75,\"filter_plan\":"
                                 "\"scan\",\"match_estimate\":33}\n"));
    free(text);
    query.hit_count = 1;
    assert_int_equal(http_search_format(&context, &query, 1, &text, &err), STATUS_OK);
    assert_non_null(strstr(text, "\"last\":true,\"reads\":0}]"));
    free(text);
    /* As it is taken back. */
    const struct {
        uint64_t key;
        const char *text;
    } keys[] = {{HTTP_JSON_KEY_NUMBER_MAX, "\"next\":{\"key\":9007199254740991,"},
                {HTTP_JSON_KEY_NUMBER_MAX + 1, "\"next\":{\"key\":\"9007199254740992\","},
                {UINT64_MAX, "\"next\":{\"key\":\"18446744073709551615\","}};
    query.hit_count = 2;
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
        hits[1].key = keys[i].key;
        assert_int_equal(http_search_format(&context, &query, 1, &text, &err), STATUS_OK);
        assert_non_null(strstr(text, keys[i].text));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_checked_for_the_element_type),
        cmocka_unit_test(keys_beyond_doubles_are_printed_in_full),
        cmocka_unit_test(what_is_asked_beside_vectors_is_read),
        cmocka_unit_test(what_is_wrong_beside_vectors_is_named),
        cmocka_unit_test(a_page_says_where_the_next_begins),
        cmocka_unit_test(defaults_are_those_that_are_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
