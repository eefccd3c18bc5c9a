/*
 * test_log.c - log lines and progress as they reach stderr, which each test points elsewhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <regex.h>
#include <unistd.h>

#include "common/compiler.h"
#include "common/log.h"
#include "common/progress.h"

enum { CAPTURE_BYTES = 1 << 18 };

struct capture {
    FILE *file;
    int saved;
    char text[CAPTURE_BYTES];
};

static int setup(void **state)
{
    struct capture *capture = calloc(1, sizeof(*capture));
    if (!capture)
        return -1;
    capture->file = tmpfile();
    capture->saved = dup(STDERR_FILENO);
    *state = capture;
    log_set_level(LOG_LEVEL_INFO);
    return capture->file && capture->saved >= 0 ? 0 : -1;
}

static int teardown(void **state)
{
    struct capture *capture = *state;
    log_set_level(LOG_LEVEL_INFO);
    dup2(capture->saved, STDERR_FILENO);
    close(capture->saved);
    fclose(capture->file);
    free(capture);
    return 0;
}

static void begin(struct capture *capture)
{
    assert_true(dup2(fileno(capture->file), STDERR_FILENO) >= 0);
    /* Writers append: several descriptors share the offset. */
    assert_int_equal(fcntl(STDERR_FILENO, F_SETFL, O_APPEND), 0);
}

static const char *end(struct capture *capture)
{
    dup2(capture->saved, STDERR_FILENO);
    ssize_t got = pread(fileno(capture->file), capture->text, CAPTURE_BYTES - 1, 0);
    assert_true(got >= 0);
    capture->text[got] = '\0';
    return capture->text;
}

static void assert_matches(const char *text, const char *pattern)
{
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    int result = regexec(&regex, text, 0, NULL, 0);
    regfree(&regex);
    if (result != 0)
        fail_msg("\"%s\" does not match \"%s\"", text, pattern);
}

static void a_call_is_one_line_of_keys_and_values(void **state)
{
    struct capture *capture = *state;
    begin(capture);
    errno = 1234;
    log_info("started", "threads=%d socket=%s", 8, "/run/x");
    assert_int_equal(errno, 1234);
    log_warn("slow", "%s", "");
    log_error("bare", "x=%s", "y");
    const char *text = end(capture);
    assert_matches(text, "^ts=[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z "
                         "level=info event=started threads=8 socket=/run/x\n"
                         "ts=[^ ]* level=warn event=slow \n"
                         "ts=[^ ]* level=error event=bare x=y\n$");
}

static void lines_below_the_level_are_dropped(void **state)
{
    struct capture *capture = *state;
    begin(capture);
    log_set_level(LOG_LEVEL_ERROR);
    log_info("a", "x=1");
    log_warn("b", "x=1");
    log_error("c", "x=1");
    log_set_level(LOG_LEVEL_NONE);
    log_error("d", "x=1");
    assert_matches(end(capture), "^ts=[^ ]* level=error event=c x=1\n$");
}

static void a_value_cannot_start_a_line_and_long_lines_are_cut(void **state)
{
    struct capture *capture = *state;
    char value[3000];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    begin(capture);
    log_info("a", "x=%s", "1\nts=forged level=error\r\x1b[31m");
    log_info("b", "x=%s", value);
    log_info(value, "x=%d", 1);
    const char *text = end(capture);
    unsigned lines = 0;
    for (const char *line = text; *line; lines++) {
        const char *stop = strchr(line, '\n');
        assert_non_null(stop);
        assert_true(stop - line < LOG_LINE_BYTES);
        assert_int_equal(strncmp(line, "ts=2", 4), 0);
        line = stop + 1;
    }
    assert_int_equal(lines, 3);
    assert_null(strchr(text, '\x1b'));
}

enum { THREADS = 4, LINES_PER_THREAD = 200 };

static void *log_many(void *argument)
{
    const char *letter = argument;
    char value[101];
    memset(value, *letter, 100);
    value[100] = '\0';
    for (int i = 0; i < LINES_PER_THREAD; i++)
        log_info("many", "x=%s", value);
    return NULL;
}

static void lines_of_many_threads_do_not_mix(void **state)
{
    struct capture *capture = *state;
    pthread_t threads[THREADS];
    static const char letters[THREADS + 1] = "abcd";
    begin(capture);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_many, (void *)&letters[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    const char *text = end(capture);
    unsigned lines = 0;
    for (const char *line = text; *line; lines++) {
        const char *value = strstr(line, " x=");
        const char *stop = strchr(line, '\n');
        assert_true(value && stop && stop - value == 103);
        for (const char *p = value + 3; p < stop; p++)
            assert_int_equal(*p, value[3]);
        line = stop + 1;
    }
    assert_int_equal(lines, THREADS * LINES_PER_THREAD);
}

static void stages_off_a_terminal_are_one_log_line_each(void **state)
{
    struct capture *capture = *state;
    struct progress progress;
    begin(capture);
    progress_init(&progress, false);
    progress_end(&progress); /* outside a stage: nothing */
    progress_begin(&progress, "ingest", 100, "rows");
    for (uint64_t i = 0; i <= 100; i++)
        progress_update(&progress, i);
    progress_begin(&progress, "graph", 0, "rows"); /* ends ingest */
    progress_end(&progress);
    progress_end(&progress);
    assert_matches(end(capture),
                   "^ts=[^ ]* level=info event=stage stage=ingest unit=rows done=100 "
                   "seconds=[0-9.]+ per_s=[0-9]+ rss_bytes=[1-9][0-9]*\n"
                   "ts=[^ ]* level=info event=stage stage=graph unit=rows done=0 .*\n$");
}

static void due_updates_are_printed_with_rate_and_time_left(void **state)
{
    struct capture *capture = *state;
    struct progress progress;
    begin(capture);
    progress_init(&progress, false);
    progress_begin(&progress, "graph", 1000, "rows");
    progress.next_ns = 0; /* a minute has passed */
    progress_update(&progress, 500);
    progress_update(&progress, 501);
    const char *text = end(capture);
    assert_matches(text, "^ts=[^ ]* level=info event=progress stage=graph unit=rows done=500 "
                         "total=1000 per_s=[0-9]+ left_s=[0-9]+ rss_bytes=[0-9]+\n$");
}

static void a_terminal_gets_one_rewritten_line(void **state)
{
    struct capture *capture = *state;
    struct progress progress;
    begin(capture);
    progress_init(&progress, false);
    progress.terminal = true;
    progress_begin(&progress, "graph", 1000, "rows");
    progress.next_ns = 0;
    progress_update(&progress, 500);
    progress.next_ns = 0;
    progress_update(&progress, 600);
    progress_end(&progress);
    assert_matches(end(capture), "^\rgraph: 500/1000 rows 50%  [0-9]+ rows/s  [0-9]+:[0-9]{2} left "
                                 " rss [0-9.]+ GB *\rgraph: 600/1000 rows 60% [^\n\r]*"
                                 "\rgraph: 600 rows in [0-9.]+ s [^\n\r]*\n$");
}

static void quiet_or_absent_progress_prints_nothing(void **state)
{
    struct capture *capture = *state;
    struct progress progress;
    struct progress *const subjects[] = {&progress, NULL};
    begin(capture);
    for (size_t i = 0; i < ARRAY_LENGTH(subjects); i++) {
        progress_init(subjects[i], true);
        progress_begin(subjects[i], "graph", 10, "rows");
        progress_update(subjects[i], 10);
        progress_end(subjects[i]);
    }
    assert_string_equal(end(capture), "");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_call_is_one_line_of_keys_and_values),
        T(lines_below_the_level_are_dropped),
        T(a_value_cannot_start_a_line_and_long_lines_are_cut),
        T(lines_of_many_threads_do_not_mix),
        T(stages_off_a_terminal_are_one_log_line_each),
        T(due_updates_are_printed_with_rate_and_time_left),
        T(a_terminal_gets_one_rewritten_line),
        T(quiet_or_absent_progress_prints_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
