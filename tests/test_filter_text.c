/*
 * test_filter_text.c - texts of filters that are refused: every error, and every limit from both
 * sides.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/filter_fixture.h"

enum { NODES = 400 };

static struct filter_fixture fixture;

/* ---- errors ---- */

static void check_refused(const char *text, size_t length, const struct attributes *attributes,
                          const char *wanted)
{
    struct filter *filter = NULL;
    struct error err = {0};
    assert_int_equal(filter_compile(text, length, attributes, &filter, &err), STATUS_INVALID);
    assert_null(filter);
    assert_string_equal(err.text, wanted);
}

#define COLUMNS       "(columns: year, big, signed, height, same, price, tags, lang, none)"
#define TERM_WANTED   "a column, not or ( is wanted, got "
#define U64_WANTED    "year is u64: =, !=, <, <=, >, >= or in is wanted, got "
#define LABELS_WANTED "tags holds labels: =, !=, in, any or all is wanted, got "

static const struct {
    const char *text;
    const char *error;
} refused[] = {
    {"", "column 1: " TERM_WANTED "the end"},
    {"  ", "column 3: " TERM_WANTED "the end"},
    {"year = 1 and", "column 13: " TERM_WANTED "the end"},
    {"year = 1 or or year = 2", "column 13: " TERM_WANTED "or"},
    {"= 3", "column 1: " TERM_WANTED "="},
    {"\"x\" = 3", "column 1: " TERM_WANTED "\"x\""},
    {"12 = year", "column 1: " TERM_WANTED "12"},
    {"not", "column 4: " TERM_WANTED "the end"},
    {"()", "column 2: " TERM_WANTED ")"},
    {"year = 1 and yeer >= 2", "column 14: unknown column \"yeer\" " COLUMNS},
    {"Year = 1", "column 1: unknown column \"Year\" " COLUMNS},
    {"lang = \"\xe6\x97\xa5\" and x = 1", "column 16: unknown column \"x\" " COLUMNS},
    {"year", "column 5: " U64_WANTED "the end"},
    {"year 3", "column 6: " U64_WANTED "3"},
    {"year ! 3", "column 6: " U64_WANTED "!"},
    {"year any (3)", "column 6: " U64_WANTED "any"},
    {"signed not in (3)", "column 8: signed is i64: =, !=, <, <=, >, >= or in is wanted, got not"},
    {"year == 3", "column 7: year is u64: a number is wanted, got ="},
    {"year = \"x\"", "column 8: year is u64: a number is wanted, got \"x\""},
    {"year in (\"x\")", "column 10: year is u64: a number is wanted, got \"x\""},
    {"year in ()", "column 10: year is u64: a number is wanted, got )"},
    {"year in (3,)", "column 12: year is u64: a number is wanted, got )"},
    {"year in 3", "column 9: year is u64: a list in parentheses is wanted, got 3"},
    {"year in (3 4)", "column 12: a comma or ) is wanted, got 4"},
    {"year in (3", "column 11: a comma or ) is wanted, got the end"},
    {"year < 1.5", "column 8: year is u64: a whole number is wanted, got 1.5"},
    {"year < 1e5", "column 8: year is u64: a whole number is wanted, got 1e5"},
    {"year < -", "column 8: year is u64: a whole number is wanted, got -"},
    {"year < 0x10", "column 8: year is u64: a whole number is wanted, got 0x10"},
    {"year < +1", "column 8: year is u64: a number is wanted, got +"},
    {"year = -1", "column 8: year is u64: -1 is not in 0..18446744073709551615"},
    {"year = 18446744073709551616",
     "column 8: year is u64: 18446744073709551616 is not in 0..18446744073709551615"},
    {"year in (1, 99999999999999999999)",
     "column 13: year is u64: 99999999999999999999 is not in 0..18446744073709551615"},
    {"signed = 9223372036854775808", "column 10: signed is i64: 9223372036854775808 is not in "
                                     "-9223372036854775808..9223372036854775807"},
    {"signed > -9223372036854775809", "column 10: signed is i64: -9223372036854775809 is not in "
                                      "-9223372036854775808..9223372036854775807"},
    {"signed > -99999999999999999999", "column 10: signed is i64: -99999999999999999999 is not in "
                                       "-9223372036854775808..9223372036854775807"},
    {"tags", "column 5: " LABELS_WANTED "the end"},
    {"tags < \"x\"", "column 6: " LABELS_WANTED "<"},
    {"tags = 3", "column 8: tags holds labels: a label in double quotes is wanted, got 3"},
    {"tags = x", "column 8: tags holds labels: a label in double quotes is wanted, got x"},
    {"tags all \"x\"", "column 10: tags holds labels: a list in parentheses is wanted, got \"x\""},
    {"tags any ()", "column 11: tags holds labels: a label in double quotes is wanted, got )"},
    {"tags = \"x", "column 8: the string has no end"},
    {"tags = \"x\\\"", "column 8: the string has no end"},
    {"tags = \"\xc3\xa4\\n\"", "column 10: a \\ that is no escape: \\\" and \\\\ are"},
    {"year = 1 year = 2", "column 10: and, or or the end is wanted, got year"},
    {"year = 1)", "column 9: and, or or the end is wanted, got )"},
    {"(year = 1", "column 10: and, or or ) is wanted, got the end"},
    {"(year = 1;", "column 10: and, or or ) is wanted, got ;"},
    {"year = 1 \xe6\x97\xa5", "column 10: and, or or the end is wanted, got \xe6\x97\xa5"},
    {"year = 1 \x01", "column 10: and, or or the end is wanted, got ?"},
    {"year = \"a\nb\"", "column 8: year is u64: a number is wanted, got \"a?b\""},
    {"year = \"0123456789012345678901234567890123456789\"",
     "column 8: year is u64: a number is wanted, got \"012345678901234567890123456789012345678..."},
    /* Cut in front of a character, not in it. */
    {"year = \"01234567890123456789012345678901234567\xe6\x97\xa5\"",
     "column 8: year is u64: a number is wanted, got \"01234567890123456789012345678901234567..."},
    {"tags = \"\xff\"", "column 9: a byte that is no UTF-8 text"},
    {"tags = \"\xe6\x97\"", "column 9: a byte that is no UTF-8 text"},
    {"tags = \"\xed\xa0\x80\"", "column 9: a byte that is no UTF-8 text"},
    {"tags = \"\xc0\xaf\"", "column 9: a byte that is no UTF-8 text"},
    {"tags = \"\xe0\x80\x80\"", "column 9: a byte that is no UTF-8 text"},
    {"tags = \"\xf0\x80\x80\x80\"", "column 9: a byte that is no UTF-8 text"},
    {"tags = \"\xf4\x90\x80\x80\"", "column 9: a byte that is no UTF-8 text"},
    {"tags = \"\xe6\x97", "column 9: a byte that is no UTF-8 text"},
};

static void errors_name_the_place_and_what_was_wanted(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(refused); i++) {
        char wanted[ERROR_TEXT_BYTES];
        snprintf(wanted, sizeof(wanted), "filter: %s", refused[i].error);
        check_refused(refused[i].text, strlen(refused[i].text), &fixture.attributes, wanted);
    }
    check_refused("year\0= 1", 8, &fixture.attributes,
                  "filter: column 5: a byte that is no UTF-8 text");
}

static void errors_list_as_many_columns_as_fit(void **state)
{
    (void)state;
    static struct attributes attributes;
    char names[ATTRIBUTES_COLUMNS_MAX][ATTRIBUTE_NAME_MAX + 1];
    struct error err = {0};
    struct filter *filter = NULL;
    check_refused("x = 1", 5, &attributes,
                  "filter: column 1: unknown column \"x\" (columns: none)");
    attributes.column_count = ATTRIBUTES_COLUMNS_MAX;
    for (size_t i = 0; i < ATTRIBUTES_COLUMNS_MAX; i++) {
        memset(names[i], 'a' + (int)(i % 26), ATTRIBUTE_NAME_MAX);
        names[i][ATTRIBUTE_NAME_MAX] = '\0';
        attributes.columns[i].name = names[i];
    }
    assert_int_equal(filter_compile("x = 1", 5, &attributes, &filter, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, names[3]));
    assert_null(strstr(err.text, names[4]));
    assert_string_equal(err.text + strlen(err.text) - 7, "d, ...)");
}

/* ---- limits ---- */

struct text {
    char bytes[FILTER_TEXT_MAX + 1];
    size_t length;
};

static void put(struct text *text, const char *part)
{
    const size_t bytes = strlen(part);
    assert_true(text->length + bytes <= FILTER_TEXT_MAX);
    memcpy(text->bytes + text->length, part, bytes + 1);
    text->length += bytes;
}

static uint32_t number_count(uint32_t column, __int128 value)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < NODES; i++)
        count +=
            attributes_node_exists(&fixture.attributes, i) && fixture.numbers[column][i] == value;
    return count;
}

static void repeat(struct text *text, uint32_t count, const char *first, const char *next)
{
    for (uint32_t i = 0; i < count; i++)
        put(text, i ? next : first);
}

static void texts_have_limits(void **state)
{
    (void)state;
    const struct attributes *attributes = &fixture.attributes;
    char text[FILTER_TEXT_MAX + 2];
    memset(text, ' ', sizeof(text));
    memcpy(text, "same = 7", 8);
    struct filter *filter = NULL;
    struct error err = {0};
    assert_int_equal(filter_compile(text, FILTER_TEXT_MAX, attributes, &filter, &err), STATUS_OK);
    filter_free(filter);
    check_refused(text, FILTER_TEXT_MAX + 1, attributes,
                  "filter: 4097 bytes, at most 4096 are taken");
}

static void terms_have_a_limit(void **state)
{
    (void)state;
    struct text text = {0};
    repeat(&text, FILTER_TERMS_MAX / 2, "big=0 and same=7", " or big=0 and same=7");
    assert_int_equal(filter_fixture_matches(text.bytes, &fixture.attributes), number_count(1, 0));
    put(&text, " or big=0");
    check_refused(text.bytes, text.length, &fixture.attributes,
                  "filter: column 2561: more than 256 terms");
    text = (struct text){0};
    repeat(&text, FILTER_TERMS_MAX - 1, "lang!=\"\"", " or big=0");
    put(&text, " and big=1");

    assert_true(filter_fixture_matches(text.bytes, &fixture.attributes) > 0);
}

static void parentheses_have_a_limit(void **state)
{
    (void)state;
    struct text text = {0};
    /* With a group at each depth. */
    repeat(&text, FILTER_DEPTH_MAX, "(same=7 and ", "not(same=7 or not ");
    put(&text, "big=0");
    const size_t open = text.length;
    repeat(&text, FILTER_DEPTH_MAX, ")", ")");
    assert_true(filter_fixture_matches(text.bytes, &fixture.attributes) <=
                fixture.attributes.vector_count);
    text.length = open - strlen("big=0");
    put(&text, "(big=0)");
    repeat(&text, FILTER_DEPTH_MAX, ")", ")");
    check_refused(text.bytes, text.length, &fixture.attributes,
                  "filter: column 571: more than 32 parentheses in one another");
    text = (struct text){0};
    repeat(&text, 1000, "not ", "not ");
    put(&text, "big = 0");
    assert_int_equal(filter_fixture_matches(text.bytes, &fixture.attributes), number_count(1, 0));
}

static void lists_have_a_limit(void **state)
{
    (void)state;
    struct text text = {0};
    put(&text, "big in ");
    repeat(&text, FILTER_VALUES_MAX, "(0", ",1");
    put(&text, ")");
    assert_int_equal(filter_fixture_matches(text.bytes, &fixture.attributes),
                     number_count(1, 0) + number_count(1, 1));
    text.length--;
    put(&text, ",5)");
    check_refused(text.bytes, text.length, &fixture.attributes,
                  "filter: column 2057: more than 1024 values in a list");
    text = (struct text){0};
    put(&text, "lang any ");
    repeat(&text, FILTER_VALUES_MAX, "(\"\"", ",\"\"");
    put(&text, ") or lang any ");
    repeat(&text, 250, "(\"\"", ",\"\"");
    put(&text, ")");

    assert_int_equal(filter_fixture_matches(text.bytes, &fixture.attributes),
                     filter_fixture_matches("lang = \"\"", &fixture.attributes));
}

/* ---- all ---- */

static int setup(void **state)
{
    (void)state;
    filter_fixture_init(&fixture, NODES, 7);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    filter_fixture_fini(&fixture);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_name_the_place_and_what_was_wanted),
        cmocka_unit_test(errors_list_as_many_columns_as_fit),
        cmocka_unit_test(texts_have_limits),
        cmocka_unit_test(terms_have_a_limit),
        cmocka_unit_test(parentheses_have_a_limit),
        cmocka_unit_test(lists_have_a_limit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
