/*
 * test_top.c - what `nightjar top` makes of two looks at a daemon's statistics.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/top.h"

#define S(n) (UINT64_C(n) * 1000000000)

static struct top_sample *sample(const char *json, uint64_t taken_ns)
{
    struct top_sample *out = NULL;
    struct error err;
    if (top_sample_create(json, taken_ns, &out, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return out;
}

/* The screen, malloc'd. */
static char *printed(const char *before_json, const char *now_json)
{
    struct top_sample *before = before_json ? sample(before_json, S(10)) : NULL;
    struct top_sample *now = sample(now_json, S(14));
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    top_print(out, before, now);
    fclose(out);
    top_sample_destroy(before);
    top_sample_destroy(now);
    return text;
}

static void expect(const char *before_json, const char *now_json, const char *words)
{
    char *text = printed(before_json, now_json);
    if (!strstr(text, words))
        fail_msg("\"%s\" is not in:\n%s", words, text);
    free(text);
}

static const char first[] =
    "{\"server\":{\"uptime_ms\":60000,\"bytes_in\":5000000,\"errors\":{\"busy\":0,\"timeout\":3}},"
    "\"engine\":{\"queries\":600,\"reads\":6000,\"busy\":60,\"threads\":2,\"busy_ns\":60000000,"
    "\"latency\":{\"buckets\":[[1000,100],[2000,400],[8000,100]]}}}";
static const char second[] =
    "{\"server\":{\"uptime_ms\":64000,\"bytes_in\":13000000,\"errors\":{\"busy\":0,\"timeout\":3}},"
    "\"engine\":{\"queries\":1000,\"reads\":14000,\"busy\":60,\"threads\":2,\"busy_ns\":4060000000,"
    "\"latency\":{\"buckets\":[[1000,100],[2000,400],[4000,396],[8000,100],[90000,4]]}}}";

static void rates_are_of_the_time_between_two_looks(void **state)
{
    (void)state;
    expect(first, second, "queries    100/s  busy 0.0/s");
    expect(first, second, "20.0 reads");
    expect(first, second, "10000 us of a worker");
    expect(first, second, "workers  2, busy 50 %");
    expect(first, second, "in 2.00 MB/s");
    expect(first, second, "timeout 3\n");
}

static void latencies_are_of_the_time_between_two_looks(void **state)
{
    (void)state;
    expect(first, second, "p50 4  p90 4  p99 4  p99.9 90 us");
    expect(NULL, second, "p50 2 ");
}

static void a_first_look_counts_from_the_start(void **state)
{
    (void)state;
    expect(NULL, first, "queries    10/s  busy 1.0/s");
}

static void a_daemon_that_was_started_anew_counts_from_its_start(void **state)
{
    (void)state;
    expect(second, first, "queries    10/s");
}

static void nothing_happened_is_no_division_by_nothing(void **state)
{
    (void)state;
    expect(first, first, "queries    0/s");
    expect(first, first, "p50 0 ");
    expect(NULL, "{}", "queries    0/s");
}

static void swaps_and_refusals_are_shown(void **state)
{
    (void)state;
    static const char json[] =
        "{\"index\":{\"name\":\"gen-7\",\"vector_count\":5,\"type\":\"u8\",\"dim\":4},"
        "\"swap\":{\"mode\":\"overlap\",\"swaps\":3,\"refused\":1,\"loading\":true,"
        "\"fallback\":true,\"refused_name\":\"gen-8\",\"refused_reason\":\"it is bad\"}}";
    expect(NULL, json, "gen-7  5 u8 vectors of 4");
    expect(NULL, json, "3 swaps (overlap), 1 refused; OPENING THE NEXT; FALLBACK");
    expect(NULL, json, "refused gen-8: it is bad");
}

static void what_is_no_object_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "[]", "1", "{\"a\":", "nonsense"};
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct top_sample *out = NULL;
        struct error err;
        assert_int_equal(top_sample_create(bad[i], 0, &out, &err), STATUS_CORRUPT);
        assert_null(out);
    }
}

static void members_of_other_types_are_nothing(void **state)
{
    (void)state;
    expect(NULL, "{\"engine\":7,\"server\":[1],\"index\":{\"name\":5},\"swap\":null}",
           "queries    0/s");
    expect(NULL, "{\"engine\":{\"latency\":{\"buckets\":[1,[2],[\"x\",3],[4000,\"y\"]]}}}", "p50 ");
}

static void a_number_is_of_its_own_object(void **state)
{
    (void)state;
    struct top_sample *now = sample("{\"http\":{\"threads\":9},\"engine\":{\"threads\":2}}", 0);
    assert_true(top_sample_number(now, "engine", "threads") == 2);
    assert_true(top_sample_number(now, "engine", "queries") == 0);
    assert_true(top_sample_number(now, "server", "threads") == 0);
    top_sample_destroy(now);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_of_the_time_between_two_looks),
        cmocka_unit_test(latencies_are_of_the_time_between_two_looks),
        cmocka_unit_test(a_first_look_counts_from_the_start),
        cmocka_unit_test(a_daemon_that_was_started_anew_counts_from_its_start),
        cmocka_unit_test(nothing_happened_is_no_division_by_nothing),
        cmocka_unit_test(swaps_and_refusals_are_shown),
        cmocka_unit_test(what_is_no_object_is_refused),
        cmocka_unit_test(members_of_other_types_are_nothing),
        cmocka_unit_test(a_number_is_of_its_own_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
