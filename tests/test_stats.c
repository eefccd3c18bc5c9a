/*
 * test_stats.c - a daemon's statistics as text: both formats parse, whatever a generation is called
 * and however large a counter, and say the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "query/stats.h"

enum { LINES_MAX = 1024, NAMES_MAX = 256, NAME_BYTES = 128 };

static struct manifest manifest;

static struct stats stats_make(const char *name)
{
    static struct histogram queries, reads;
    memset(&queries, 0, sizeof(queries));
    memset(&reads, 0, sizeof(reads));
    manifest = (struct manifest){.type = ELEMENT_U8,
                                 .metric = METRIC_L2,
                                 .dim = 16,
                                 .vector_count = 12345,
                                 .generation_id = {.low = 0xabc, .high = UINT64_MAX}};
    struct stats stats = {.name = name, .manifest = &manifest};
    /* Both ends, and on either side of a bound. */
    const uint64_t durations_ns[] = {1,       50000,    120000,    700000,     3000000,
                                     3000001, 40000000, 900000000, 9000000000, 60000000000};
    for (size_t i = 0; i < ARRAY_LENGTH(durations_ns); i++)
        histogram_record(&queries, durations_ns[i]);
    histogram_record(&reads, 80000);
    histogram_read(&queries, &stats.serving.engine.latency);
    histogram_read(&reads, &stats.serving.engine.read_latency);
    stats.serving.engine.queries = (UINT64_C(1) << 53) + 1;
    stats.serving.engine.code_distances = 77;
    stats.serving.engine.exact_distances = 5;
    stats.serving.engine.busy_ns = 1500000001;
    stats.serving.fallback = true;
    stats.memory.codes_bytes = 4096;
    stats.server.errors[STATUS_BUSY] = 3;
    stats.server.uptime_ns = UINT64_C(12000000345);
    stats.http = (struct http_stats){.requests = 9, .errors = 2};
    return stats;
}

static char *prometheus(const char *name)
{
    struct stats stats = stats_make(name);
    struct error err;
    char *text = NULL;
    assert_int_equal(stats_prometheus_format(&stats, &text, &err), STATUS_OK);
    return text;
}

/* Whether the text has this very line. */
static bool has_line(const char *text, const char *line)
{
    size_t length = strlen(line);
    for (const char *at = text; (at = strstr(at, line)); at++)
        if ((at == text || at[-1] == '\n') && at[length] == '\n')
            return true;
    return false;
}

/* ---- the format, as its specification has it ---- */

/* Of a metric or label; NULL when there is none. */
static const char *name_end(const char *at, bool label)
{
    if (!isalpha((unsigned char)*at) && *at != '_' && (label || *at != ':'))
        return NULL;
    while (isalnum((unsigned char)*at) || *at == '_' || (!label && *at == ':'))
        at++;
    return at;
}

static const char *labels_end(const char *at)
{
    for (at++; *at != '}';) {
        at = name_end(at, true);
        if (!at || at[0] != '=' || at[1] != '"')
            return NULL;
        for (at += 2; *at != '"'; at++) {
            if (*at == '\0' || *at == '\n')
                return NULL;
            if (*at == '\\' && !strchr("\\\"n", *++at))
                return NULL;
        }
        at++;
        if (*at == ',')
            at++;
        else if (*at != '}')
            return NULL;
    }
    return at + 1;
}

/* What a sample belongs to: its name without a histogram's ending. */
static void family_of(const char *sample, size_t length, const char *type, char out[NAME_BYTES])
{
    snprintf(out, NAME_BYTES, "%.*s", (int)length, sample);
    const char *const endings[] = {"_bucket", "_sum", "_count"};
    for (size_t i = 0; strcmp(type, "histogram") == 0 && i < ARRAY_LENGTH(endings); i++) {
        size_t ending = strlen(endings[i]);
        if (length > ending && strcmp(out + length - ending, endings[i]) == 0) {
            out[length - ending] = '\0';
            return;
        }
    }
}

/* One family after another, HELP and TYPE before its samples, none twice. */
static void assert_exposition(char *text)
{
    char seen[NAMES_MAX][NAME_BYTES], family[NAME_BYTES] = "", type[NAME_BYTES] = "";
    char name[NAME_BYTES];
    size_t families = 0, samples = 0;
    assert_true(text[0] != '\0' && text[strlen(text) - 1] == '\n');
    for (char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        if (strncmp(line, "# HELP ", 7) == 0) {
            assert_int_equal(sscanf(line, "# HELP %127s %*s", family), 1);
            for (size_t i = 0; i < families; i++)
                assert_string_not_equal(seen[i], family);
            strcpy(seen[families++], family);
            type[0] = '\0';
            continue;
        }
        if (line[0] == '#') {
            assert_int_equal(sscanf(line, "# TYPE %127s %127s", name, type), 2);
            assert_string_equal(name, family);
            assert_true(strcmp(type, "counter") == 0 || strcmp(type, "gauge") == 0 ||
                        strcmp(type, "histogram") == 0);
            size_t length = strlen(name);
            bool total = length > 6 && strcmp(name + length - 6, "_total") == 0;
            assert_int_equal(total, strcmp(type, "counter") == 0);
            assert_int_equal(strncmp(name, "nightjar_", 9), 0);
            continue;
        }
        const char *at = name_end(line, false);
        assert_non_null(at);
        family_of(line, (size_t)(at - line), type, name);
        assert_string_equal(name, family);
        assert_true(type[0] != '\0');
        if (*at == '{')
            at = labels_end(at);
        assert_non_null(at);
        assert_int_equal(*at, ' ');
        char *number_end;
        double value = strtod(at + 1, &number_end);
        assert_true(number_end > at + 1 && *number_end == '\0' && isfinite(value) && value >= 0);
        samples++;
    }
    assert_true(samples > 50 && families > 40);
}

static void every_line_of_the_exposition_is_well_formed(void **state)
{
    (void)state;
    const char *const names[] = {"gen-1", "a \"quoted\\name\"\nof two lines", "", "}{,=\"", "\\"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        char *text = prometheus(names[i]);
        assert_exposition(text);
        free(text);
    }
}

static void values_are_exact_and_in_base_units(void **state)
{
    (void)state;
    char *text = prometheus("a\"b\\c\nd");
    assert_true(has_line(text, "nightjar_queries_total 9007199254740993"));
    assert_true(has_line(text, "nightjar_uptime_seconds 12.000000345"));
    assert_true(has_line(text, "nightjar_worker_busy_seconds_total 1.500000001"));
    assert_true(has_line(text, "nightjar_distances_total{kind=\"code\"} 77"));
    assert_true(has_line(text, "nightjar_memory_bytes{tier=\"codes\"} 4096"));
    assert_true(has_line(text, "nightjar_errors_total{status=\"busy\"} 3"));
    assert_true(has_line(text, "nightjar_fallback 1"));
    assert_true(has_line(text, "nightjar_http_requests_total 9"));
    assert_true(has_line(text, "nightjar_vectors 12345"));
    assert_true(has_line(text, "nightjar_generation_info{name=\"a\\\"b\\\\c\\nd\",id=\""
                               "ffffffffffffffff0000000000000abc\",type=\"u8\",metric=\"l2\"} 1"));
    free(text);
}

static void histogram_is_cumulative_and_sums_up(void **state)
{
    (void)state;
    char *text = prometheus("gen");
    uint64_t before = 0, count = 0;
    double bound_before = 0;
    size_t buckets = 0;
    const char *const bucket = "\nnightjar_query_duration_seconds_bucket{le=\"";
    for (const char *at = text; (at = strstr(at, bucket)); buckets++) {
        at += strlen(bucket);
        char *end;
        double bound = strtod(at, &end);
        assert_int_equal(sscanf(end, "\"} %" SCNu64, &count), 1);
        assert_true(bound > bound_before && count >= before);
        bound_before = bound;
        before = count;
    }
    assert_int_equal(buckets, 17);
    assert_true(isinf(bound_before));
    assert_int_equal(count, 10);
    assert_true(has_line(text, "nightjar_query_duration_seconds_count 10"));
    assert_true(has_line(text, "nightjar_query_duration_seconds_sum 69.946870002"));
    assert_true(has_line(text, "nightjar_query_duration_seconds_bucket{le=\"0.0001\"} 2"));
    assert_true(has_line(text, "nightjar_query_duration_seconds_bucket{le=\"0.0025\"} 4"));
    assert_true(has_line(text, "nightjar_query_duration_seconds_bucket{le=\"0.005\"} 6"));
    assert_true(has_line(text, "nightjar_query_duration_seconds_bucket{le=\"10\"} 9"));
    assert_true(has_line(text, "nightjar_read_duration_seconds_bucket{le=\"0.0001\"} 1"));
    free(text);
}

static void json_parses_and_keeps_the_name(void **state)
{
    (void)state;
    const char *const name = "a \"quoted\\name\"\nof two lines";
    struct stats stats = stats_make(name);
    struct error err;
    char *text = NULL;
    assert_int_equal(stats_json_format(&stats, &text, &err), STATUS_OK);
    assert_null(strchr(text, '\n'));
    cJSON *root = cJSON_Parse(text);
    assert_non_null(root);
    const cJSON *index = cJSON_GetObjectItem(root, "index");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(index, "name")), name);
    const cJSON *http = cJSON_GetObjectItem(root, "http");
    assert_int_equal(cJSON_GetNumberValue(cJSON_GetObjectItem(http, "requests")), 9);
    assert_int_equal(cJSON_GetNumberValue(cJSON_GetObjectItem(http, "errors")), 2);
    cJSON_Delete(root);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_line_of_the_exposition_is_well_formed),
        cmocka_unit_test(values_are_exact_and_in_base_units),
        cmocka_unit_test(histogram_is_cumulative_and_sums_up),
        cmocka_unit_test(json_parses_and_keeps_the_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
