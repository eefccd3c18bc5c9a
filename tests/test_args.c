/*
 * test_args.c - command lines that are taken, refused with one line, or answered with help.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <unistd.h>

#include "common/args.h"
#include "common/version.h"

struct options {
    const char *input;
    const char *metric;
    uint32_t degree;
    uint32_t k;
    uint64_t seed;
    double alpha;
    uint64_t memory;
    bool plan;
    bool alpha_given;
    struct args_u32_list lists;
};

struct parsed {
    struct options options;
    struct args_positionals rest;
    struct error err;
    enum args_result result;
    char words[512];
    char *argv[32];
    const char *positional_name;
    size_t positional_min, positional_max;
};

/* Splits `line` at spaces ("''" is an empty word) and parses it. */
static void parse(struct parsed *parsed, const char *line)
{
    struct options *options = &parsed->options;
    *options = (struct options){.metric = "l2", .degree = 64, .alpha = 1.2, .memory = 4ull << 30};
    const struct args_option table[] = {
        {.name = "input",
         .kind = ARGS_STRING,
         .target = &options->input,
         .value_name = "FILE",
         .help = "vectors to index",
         .required = true},
        {.name = "metric",
         .kind = ARGS_STRING,
         .target = &options->metric,
         .choices = "l2|ip|cosine",
         .help = "distance"},
        {.name = "degree",
         .short_name = 'R',
         .kind = ARGS_U32,
         .target = &options->degree,
         .value_name = "R",
         .min = 4,
         .max = 255,
         .help =
             "most neighbours a node keeps in its list on disk, where a longer list means fewer "
             "hops but fewer nodes a block"},
        {.short_name = 'k', .kind = ARGS_U32, .target = &options->k, .min = 1, .help = "results"},
        {.name = "seed", .kind = ARGS_U64, .target = &options->seed, .help = "random seed"},
        {.name = "alpha",
         .kind = ARGS_DOUBLE,
         .target = &options->alpha,
         .min = 1,
         .max = 2,
         .help = "pruning",
         .given = &options->alpha_given},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &options->memory,
         .min = 1 << 20,
         .help = "budget"},
        {.name = "memory-report", .kind = ARGS_FLAG, .target = &options->plan},
        {.name = "plan",
         .short_name = 'p',
         .kind = ARGS_FLAG,
         .target = &options->plan,
         .help = "print the plan"},
        {.name = "search-list",
         .kind = ARGS_U32_LIST,
         .target = &options->lists,
         .min = 1,
         .max = 1024,
         .help = "ladder"},
    };
    const struct args_spec spec = {
        .program = "nightjar test",
        .summary = "tests the parser.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .positional_name = parsed->positional_name,
        .positional_min = parsed->positional_min,
        .positional_max = parsed->positional_max,
        .epilog = "Example: none.",
    };
    int argc = 0;
    snprintf(parsed->words, sizeof(parsed->words), "test %s", line);
    char *rest = parsed->words, *word;
    while ((word = strsep(&rest, " ")) && argc < 31)
        parsed->argv[argc++] = strcmp(word, "''") == 0 ? word + 2 : word;
    parsed->argv[argc] = NULL;
    parsed->err.text[0] = '\0';
    parsed->result = args_parse(&spec, argc, parsed->argv, &parsed->rest, &parsed->err);
}

static void assert_usage(const char *line, const char *message)
{
    struct parsed parsed = {.positional_name = NULL};
    parse(&parsed, line);
    if (parsed.result != ARGS_USAGE)
        fail_msg("'%s' was taken", line);
    assert_string_equal(parsed.err.text, message);
}

static void every_kind_is_stored(void **state)
{
    (void)state;
    struct parsed parsed = {.positional_name = NULL};
    parse(&parsed, "--input a.fbin --metric=cosine -R 32 -k10 --seed 18446744073709551615 "
                   "--alpha 1.5 --memory 1.5G -p --search-list 10,20,40");
    assert_int_equal(parsed.result, ARGS_RUN);
    assert_string_equal(parsed.options.input, "a.fbin");
    assert_string_equal(parsed.options.metric, "cosine");
    assert_int_equal(parsed.options.degree, 32);
    assert_int_equal(parsed.options.k, 10);
    assert_true(parsed.options.seed == UINT64_MAX);
    assert_true(parsed.options.alpha == 1.5);
    assert_true(parsed.options.alpha_given);
    assert_int_equal(parsed.options.memory, 3ull << 29);
    assert_true(parsed.options.plan);
    assert_int_equal(parsed.options.lists.count, 3);
    assert_int_equal(parsed.options.lists.items[2], 40);
    assert_int_equal(parsed.rest.count, 0);
}

static void defaults_stay_when_an_option_is_absent(void **state)
{
    (void)state;
    struct parsed parsed = {.positional_name = NULL};
    parse(&parsed, "--input x");
    assert_int_equal(parsed.result, ARGS_RUN);
    assert_string_equal(parsed.options.metric, "l2");
    assert_int_equal(parsed.options.degree, 64);
    assert_false(parsed.options.plan);
    assert_false(parsed.options.alpha_given);
}

static void last_value_wins_and_prefixes_are_taken(void **state)
{
    (void)state;
    struct parsed parsed = {.positional_name = NULL};
    parse(&parsed, "--input x --deg 8 --degree 16 --memory 2G");
    assert_int_equal(parsed.result, ARGS_RUN);
    assert_int_equal(parsed.options.degree, 16);
    assert_int_equal(parsed.options.memory, 2ull << 30);
}

static void limits_are_inclusive(void **state)
{
    (void)state;
    struct parsed parsed = {.positional_name = NULL};
    parse(&parsed, "--input x --degree 255 --alpha 2 --search-list 1,1024 -k 4294967295");
    assert_int_equal(parsed.result, ARGS_RUN);
    parse(&parsed, "--input x --degree 4 --alpha 1 --memory 1M");
    assert_int_equal(parsed.result, ARGS_RUN);
}

static void numbers_out_of_limits_are_named(void **state)
{
    (void)state;
    assert_usage("--input x --degree 300", "--degree: 300 is above the maximum 255");
    assert_usage("--input x -R 3", "--degree: 3 is below the minimum 4");
    assert_usage("--input x -k 0", "-k: 0 is below the minimum 1");
    assert_usage("--input x -k 4294967296", "-k: 4294967296 is above the maximum 4294967295");
    assert_usage("--input x --seed 18446744073709551616",
                 "--seed: 18446744073709551616 is above the maximum 18446744073709551615");
    assert_usage("--input x --alpha 2.01", "--alpha: 2.01 is above the maximum 2");
    assert_usage("--input x --alpha -1", "--alpha: -1 is below the minimum 1");
    assert_usage("--input x --memory 1K", "--memory: 1K is below the minimum 1048576 bytes");
    assert_usage("--input x --search-list 10,0", "--search-list: 0 is below the minimum 1");
}

static void words_that_are_no_numbers_are_named(void **state)
{
    (void)state;
    assert_usage("--input x --degree abc", "--degree: 'abc' is not a whole number");
    assert_usage("--input x --degree -4", "--degree: '-4' is not a whole number");
    assert_usage("--input x --degree +4", "--degree: '+4' is not a whole number");
    assert_usage("--input x --degree 4.0", "--degree: '4.0' is not a whole number");
    assert_usage("--input x --degree 0x10", "--degree: '0x10' is not a whole number");
    assert_usage("--input x --degree ''", "--degree: '' is not a whole number");
    assert_usage("--input x --alpha nan", "--alpha: 'nan' is not a decimal number");
    assert_usage("--input x --alpha inf", "--alpha: 'inf' is not a decimal number");
    assert_usage("--input x --alpha 1e999", "--alpha: '1e999' is not a decimal number");
    assert_usage("--input x --alpha 0x1p0", "--alpha: '0x1p0' is not a decimal number");
    assert_usage("--input x --alpha ''", "--alpha: '' is not a decimal number");
    assert_usage("--input x --alpha 1.5.", "--alpha: '1.5.' is not a decimal number");
    assert_usage("--input x --search-list 10,,20", "--search-list: '' is not a whole number");
    assert_usage("--input x --search-list 10,", "--search-list: '' is not a whole number");
    assert_usage("--input x --search-list ''", "--search-list: '' is not a whole number");
}

static void lists_have_a_limit(void **state)
{
    (void)state;
    char line[512] = "--input x --search-list 1";
    struct parsed parsed = {.positional_name = NULL};
    for (int i = 1; i < ARGS_LIST_MAX; i++)
        strcat(line, ",2");
    parse(&parsed, line);
    assert_int_equal(parsed.result, ARGS_RUN);
    assert_int_equal(parsed.options.lists.count, ARGS_LIST_MAX);
    strcat(line, ",2");
    assert_usage(line, "--search-list: more than 64 numbers");
}

static void strings_are_checked(void **state)
{
    (void)state;
    assert_usage("--input ''", "--input: the value is empty");
    assert_usage("--input x --metric l3", "--metric: 'l3' is none of l2|ip|cosine");
    assert_usage("--input x --metric cos", "--metric: 'cos' is none of l2|ip|cosine");
    assert_usage("--input x --metric l2|ip", "--metric: 'l2|ip' is none of l2|ip|cosine");
}

static void unknown_options_and_stray_words_are_refused(void **state)
{
    (void)state;
    assert_usage("--input x --nope", "--nope: unknown option (see --help)");
    assert_usage("--input x --nope=3", "--nope: unknown option (see --help)");
    assert_usage("--input x -z", "-z: unknown option (see --help)");
    assert_usage("--input x -pz", "-z: unknown option (see --help)");
    assert_usage("--input x --me 5", "--me: ambiguous option (see --help)");
    assert_usage("--input x --plan=yes", "--plan: takes no value");
    assert_usage("--input x --help=yes", "--help: takes no value");
    assert_usage("--input x stray", "'stray': unexpected argument (see --help)");
    assert_usage("--input x -- --plan", "'--plan': unexpected argument (see --help)");
    assert_usage("--input", "--input: wants a value");
    assert_usage("--input x -k", "-k: wants a value");
}

static void required_options_are_demanded(void **state)
{
    (void)state;
    assert_usage("--degree 5", "--input: missing, and it is required (see --help)");
}

static void positionals_are_counted_wherever_they_stand(void **state)
{
    (void)state;
    struct parsed parsed = {.positional_name = "GEN...", .positional_min = 1, .positional_max = 2};
    parse(&parsed, "one --input x two --plan");
    assert_int_equal(parsed.result, ARGS_RUN);
    assert_int_equal(parsed.rest.count, 2);
    assert_string_equal(parsed.rest.items[0], "one");
    assert_string_equal(parsed.rest.items[1], "two");
    parse(&parsed, "--input x -- -one");
    assert_int_equal(parsed.result, ARGS_RUN);
    assert_string_equal(parsed.rest.items[0], "-one");
    parse(&parsed, "--input x");
    assert_int_equal(parsed.result, ARGS_USAGE);
    assert_string_equal(parsed.err.text, "GEN...: missing argument (see --help)");
    parse(&parsed, "--input x 1 2 3");
    assert_int_equal(parsed.result, ARGS_USAGE);
    assert_string_equal(parsed.err.text, "'3': unexpected argument (see --help)");
}

/* Parses with stdout in a file and returns what was printed. */
static char *printed_by(const char *line, enum args_result wanted)
{
    struct parsed parsed = {.positional_name = "GEN", .positional_max = 1};
    FILE *capture = tmpfile();
    assert_non_null(capture);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_true(saved >= 0 && dup2(fileno(capture), STDOUT_FILENO) >= 0);
    parse(&parsed, line);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    assert_int_equal(parsed.result, wanted);
    char *text = calloc(1, 8192);
    assert_non_null(text);
    rewind(capture);
    assert_true(fread(text, 1, 8191, capture) > 0);
    fclose(capture);
    return text;
}

static void help_lists_options_defaults_and_requirements(void **state)
{
    (void)state;
    const char *const lines[] = {"--help", "-h", "--degree 5 --help --nope"};
    for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
        char *text = printed_by(lines[i], ARGS_DONE);
        assert_non_null(strstr(text, "Usage: nightjar test --input FILE [options] [GEN]\n"));
        assert_non_null(strstr(text, "tests the parser."));
        assert_non_null(strstr(text, "  --input FILE              vectors to index (required)\n"));
        assert_non_null(strstr(text, "  --metric l2|ip|cosine     distance (default l2)\n"));
        assert_non_null(strstr(text, "-R, --degree R"));
        assert_non_null(strstr(text, "  -k N "));
        assert_non_null(strstr(text, "(default 4G)"));
        assert_non_null(strstr(text, "--version"));
        assert_non_null(strstr(text, "Example: none."));
        assert_null(strstr(text, "memory-report"));
        for (char *rest = text, *line; (line = strsep(&rest, "\n"));)
            assert_true(strlen(line) <= 80);
        free(text);
    }
}

static void version_is_printed(void **state)
{
    (void)state;
    char *text = printed_by("--version", ARGS_DONE);
    assert_string_equal(text, "nightjar test " NIGHTJAR_VERSION "\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_stored),
        cmocka_unit_test(defaults_stay_when_an_option_is_absent),
        cmocka_unit_test(last_value_wins_and_prefixes_are_taken),
        cmocka_unit_test(limits_are_inclusive),
        cmocka_unit_test(numbers_out_of_limits_are_named),
        cmocka_unit_test(words_that_are_no_numbers_are_named),
        cmocka_unit_test(lists_have_a_limit),
        cmocka_unit_test(strings_are_checked),
        cmocka_unit_test(unknown_options_and_stray_words_are_refused),
        cmocka_unit_test(required_options_are_demanded),
        cmocka_unit_test(positionals_are_counted_wherever_they_stand),
        cmocka_unit_test(help_lists_options_defaults_and_requirements),
        cmocka_unit_test(version_is_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
