/*
 * test_attribute_input.c - the CSV file of attributes: whatever is wrong in it is told in one line
 * with file, line and column, before any other work, and leaves nothing; and what is right in it is
 * what the stage leaves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/attribute_input.h"
#include "builder/csv.h"
#include "tests/build_fixture.h"

enum { ROWS = 3, TOO_LONG_BYTES = CSV_CELL_BYTES_MAX + 100 };

static const struct work_piece ingest = {BUILD_STAGE_INGEST, WORK_WHOLE};

static int setup(void **state)
{
    const uint8_t rows[ROWS] = {1, 2, 3};
    if (build_fixture_setup(state) != 0)
        return -1;
    build_fixture_write(*state, (struct vector_shape){ROWS, 1, ELEMENT_U8}, rows);
    return 0;
}

static struct build_params params_of(const struct build_fixture *f)
{
    struct build_params params = build_fixture_params(f);
    params.attributes = f->attributes;
    params.code_bytes = 1;
    return params;
}

/* ---- faults ---- */

static void expect_refused_bytes(const struct build_fixture *f, const char *text, size_t length,
                                 const char *wanted)
{
    const struct build_params params = params_of(f);
    struct build_summary summary;
    struct error err = {0};
    build_fixture_write_attributes(f, text, length);
    assert_int_equal(build_run(&params, &summary, &err), STATUS_INVALID);
    build_fixture_expect_line(&err);
    const char *found = strstr(err.text, "attrs.csv: ");
    if (found == NULL || strcmp(found + strlen("attrs.csv: "), wanted) != 0)
        fail_msg("wanted \"%s\", got \"%s\"", wanted, err.text);
    assert_false(summary.kept);
    assert_false(fixture_exists(f->output));
    assert_false(fixture_exists(f->work));
}

static void expect_refused(const struct build_fixture *f, const char *text, const char *wanted)
{
    expect_refused_bytes(f, text, strlen(text), wanted);
}

static void headers_that_are_none_are_refused(void **state)
{
    const struct build_fixture *f = *state;
    static const char name_rule[] = " is no name: 1..63 of A-Z a-z 0-9 _, not first a digit, and "
                                    "not and, or, not, in, any, all";
    static const char *const bad_names[] = {"", "9a", "a-b", "and", "In", "a b"};
    char text[300], wanted[300];
    expect_refused(f, "", "is empty; a first line of NAME:TYPE cells is wanted");
    expect_refused(f, "\xef\xbb\xbf", "is empty; a first line of NAME:TYPE cells is wanted");
    expect_refused(f, "year\n", "line 1: column 1: \"year\" is no NAME:TYPE");
    expect_refused(f, "\n", "line 1: column 1: \"\" is no NAME:TYPE");
    expect_refused(f, "a:u64,\n", "line 1: column 2: \"\" is no NAME:TYPE");
    expect_refused(f, "a:u64,b:u32\n",
                   "line 1: column 2: \"u32\" is no type; u64, i64 or labels is wanted");
    expect_refused(f, "a:u64 \n",
                   "line 1: column 1: \"u64 \" is no type; u64, i64 or labels is wanted");
    expect_refused(f, "a:u64,b:i64,a:labels\n",
                   "line 1: column 3: \"a\" is the name of column 1 too");
    for (size_t i = 0; i < ARRAY_LENGTH(bad_names); i++) {
        snprintf(text, sizeof(text), "%s:u64\n", bad_names[i]);
        snprintf(wanted, sizeof(wanted), "line 1: column 1: \"%s\"%s", bad_names[i], name_rule);
        expect_refused(f, text, wanted);
    }
    memset(text, 'x', 64);
    strcpy(text + 64, ":u64\n");
    snprintf(wanted, sizeof(wanted), "line 1: column 1: \"%.40s...\"%s", text, name_rule);
    expect_refused(f, text, wanted);
    char many[1000];
    size_t at = 0;
    for (int c = 0; c <= ATTRIBUTES_COLUMNS_MAX; c++)
        at += (size_t)snprintf(many + at, sizeof(many) - at, "%sc%d:u64", c > 0 ? "," : "", c);
    expect_refused(f, many, "line 1: column 65: more than 64 columns");
}

static void cells_that_are_no_numbers_are_refused(void **state)
{
    const struct build_fixture *f = *state;
    static const char *const no_u64[] = {"abc",
                                         "-1",
                                         "+1",
                                         " 1",
                                         "1 ",
                                         "1.0",
                                         "0x1",
                                         "1e3",
                                         "18446744073709551616",
                                         "99999999999999999999"};
    static const char *const no_i64[] = {
        "-", "--1", "+1", "1-", "9223372036854775808", "-9223372036854775809"};
    char text[200], wanted[200];
    for (size_t i = 0; i < ARRAY_LENGTH(no_u64); i++) {
        snprintf(text, sizeof(text), "year:u64,x:labels\n1,\n%s,\n3,\n", no_u64[i]);
        snprintf(wanted, sizeof(wanted), "line 3: column \"year\": \"%s\" is no u64", no_u64[i]);
        expect_refused(f, text, wanted);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(no_i64); i++) {
        snprintf(text, sizeof(text), "x:labels,d:i64\n,1\n,2\n,%s\n", no_i64[i]);
        snprintf(wanted, sizeof(wanted), "line 4: column \"d\": \"%s\" is no i64", no_i64[i]);
        expect_refused(f, text, wanted);
    }
    expect_refused(f, "a:u64,b:i64\n1,\n2,2\n3,3\n",
                   "line 2: column \"b\": no i64: every row needs one");
    expect_refused(f, "a:u64\n1\n2\n3\n\n", "line 5: column \"a\": no u64: every row needs one");
    expect_refused(f, "a:u64\r\n1\r\n2\r\n3\r", "line 4: column \"a\": \"3?\" is no u64");
}

static void labels_that_are_none_are_refused(void **state)
{
    const struct build_fixture *f = *state;
    char text[600], wanted[600], label[257];
    expect_refused(f, "t:labels\na||b\n\n\n", "line 2: column \"t\": a label is empty");
    expect_refused(f, "t:labels\na|\n\n\n", "line 2: column \"t\": a label is empty");
    expect_refused(f, "t:labels\n\n|\n\n", "line 3: column \"t\": a label is empty");
    expect_refused(f, "t:labels\na\\b\n\n\n",
                   "line 2: column \"t\": a backslash stands before neither | nor backslash");
    expect_refused(f, "t:labels\na\\\n\n\n",
                   "line 2: column \"t\": a backslash stands before neither | nor backslash");
    expect_refused(f, "t:labels\n\n\nok|\xc3(\n",
                   "line 4: column \"t\": label \"?(\" is not UTF-8");
    expect_refused(f, "t:labels\n\xed\xa0\x80\n\n\n",
                   "line 2: column \"t\": label \"???\" is not UTF-8");
    expect_refused_bytes(f, "t:labels\na\0b\n\n\n", 15,
                         "line 2: column \"t\": label \"a?b\" has a NUL in it");
    memset(label, 'z', 256);
    label[256] = '\0';
    snprintf(text, sizeof(text), "t:labels\nx|%s\n\n\n", label);
    snprintf(wanted, sizeof(wanted),
             "line 2: column \"t\": label \"%.40s...\" has 256 bytes, at most 255 are allowed",
             label);
    expect_refused(f, text, wanted);
}

static void too_many_labels_are_refused(void **state)
{
    const struct build_fixture *f = *state;
    for (int rows = 1; rows <= 17; rows += 16) {
        char *text = NULL;
        size_t length = 0;
        FILE *out = open_memstream(&text, &length);
        assert_non_null(out);
        fputs("t:labels\n", out);
        for (uint32_t row = 0, label = 0; row < (uint32_t)rows; row++) {
            for (uint32_t i = 0; i < ATTRIBUTE_NODE_LABELS_MAX + (rows == 1); i++, label++)
                fprintf(out, "%s%x", i > 0 ? "|" : "", label);
            fputc('\n', out);
        }
        assert_int_equal(fclose(out), 0);
        if (rows == 1) {
            expect_refused_bytes(f, text, length, "line 2: column \"t\": more than 65535 labels");
        } else {
            struct build_fixture large = *f;
            uint8_t row[17];
            memset(row, 1, sizeof(row));
            build_fixture_write(&large, (struct vector_shape){17, 1, ELEMENT_U8}, row);
            expect_refused_bytes(&large, text, length,
                                 "line 18: column \"t\": more than 1048576 distinct labels");
        }
        free(text);
    }
}

static void cells_that_break_the_quoting_are_refused(void **state)
{
    const struct build_fixture *f = *state;
    expect_refused(f, "a:u64,t:labels\n1,x\"y\n2,\n3,\n",
                   "line 2: column \"t\": a quote inside a cell that does not begin with one");
    expect_refused(f, "a:u64,t:labels\n1,\"x\"y\n2,\n3,\n",
                   "line 2: column \"t\": more follows the closing quote");
    expect_refused(f, "a:u64,t:labels\n1,\"x\"\ry\n2,\n3,\n",
                   "line 2: column \"t\": more follows the closing quote");
    expect_refused(f, "a:u64,t:labels\n1,\n2,\"x\n3,\n", "line 3: column \"t\": no closing quote");
    expect_refused(f, "\"a:u64\"x,t:labels\n1,\n",
                   "line 1: column 1: more follows the closing quote");
    /* A cell of several lines is named by its first, those behind it by theirs. */
    expect_refused(f, "t:labels,a:u64\n\"x\n\ny\",1\n,q\n,3\n",
                   "line 5: column \"a\": \"q\" is no u64");
    char *text = malloc(TOO_LONG_BYTES);
    assert_non_null(text);
    memset(text, 'x', TOO_LONG_BYTES);
    memcpy(text, "t:labels\n", 9);
    expect_refused_bytes(f, text, TOO_LONG_BYTES,
                         "line 2: column \"t\": a cell of more than 33554432 bytes");
    free(text);
}

static void rows_of_another_number_are_refused(void **state)
{
    const struct build_fixture *f = *state;
    char wanted[BUILD_FIXTURE_PATH_BYTES + 100];
    static const char *const texts[] = {"a:u64\n1\n2\n", "a:u64\n1\n2\n3\n4\n5\n", "a:u64\n"};
    static const int counts[] = {2, 5, 0};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        snprintf(wanted, sizeof(wanted), "%d rows behind the header, %s has 3 vectors", counts[i],
                 f->input);
        expect_refused(f, texts[i], wanted);
    }
    expect_refused(f, "a:u64,b:u64\n1,2\n3\n", "line 3: 1 cells, the header has 2");
    expect_refused(f, "a:u64,b:u64\n1,2\n3,4,5\n", "line 3: more than 2 cells, the header has 2");
    expect_refused(f, "a:u64,b:u64\n1,2\n3,4,\n", "line 3: more than 2 cells, the header has 2");
    /* What is wrong beyond the last vector's row is told too. */
    expect_refused(f, "a:u64\n1\n2\n3\n4\nx\n", "line 6: column \"a\": \"x\" is no u64");
}

static void files_that_cannot_be_read_are_named(void **state)
{
    const struct build_fixture *f = *state;
    const struct build_params params = params_of(f);
    struct error err = {0};
    assert_int_equal(build_run(&params, NULL, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "attrs.csv"));
    assert_int_equal(mkdir(f->attributes, 0700), 0);
    assert_int_equal(build_run(&params, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "attrs.csv"));
    assert_false(fixture_exists(f->work));
    assert_int_equal(rmdir(f->attributes), 0);
}

/* ---- what is right ---- */

struct piece {
    struct work *work;
    struct attribute_info info;
};

static struct piece piece_make(const struct build_fixture *f, const char *text, size_t length)
{
    struct piece piece = {0};
    struct error err = {0};
    struct build_monitor monitor = {0};
    struct build_stage_record cost = {0};
    struct work_output *outputs[ATTRIBUTE_OUTPUTS_MAX];
    struct digest128 digest;
    size_t count = 0;
    build_fixture_write_attributes(f, text, length);
    fixture_must(work_open(f->work, "a test\n", WORK_ALONE, &piece.work, &err), &err);
    const struct attribute_input_params params = {
        .path = f->attributes, .vectors_path = f->input, .rows = ROWS, .work = piece.work};
    fixture_must(attribute_input_read(&params, &monitor, outputs, &count, &digest, &err), &err);
    fixture_must(work_piece_commit(piece.work, ingest, outputs, count, NULL, 0, &cost, &err), &err);
    fixture_must(attribute_info_read(piece.work, &piece.info, &err), &err);
    return piece;
}

static void section_expect(const struct piece *piece, const char *part, uint32_t section,
                           const void *wanted, size_t bytes)
{
    uint8_t found[256];
    struct work_input *input = NULL;
    struct error err = {0};
    assert_true(bytes <= sizeof(found));
    fixture_must(work_input_open(piece->work, ingest, part, section, 0, &input, &err), &err);
    assert_int_equal(work_input_left(input), bytes);
    fixture_must(work_input_read(input, found, bytes, &err), &err);
    assert_memory_equal(found, wanted, bytes);
    work_input_close(input);
}

static void numbers_of_all_sizes_are_kept(void **state)
{
    static const char text[] = "\xef\xbb\xbfu:u64,\"i:i64\"\r\n0,-9223372036854775808\r\n"
                               "18446744073709551615,\"9223372036854775807\"\r\n007,-0";
    struct piece piece = piece_make(*state, text, sizeof(text) - 1);
    static const uint64_t us[] = {0, UINT64_MAX, 7};
    static const uint64_t is[] = {0, UINT64_MAX, UINT64_C(1) << 63};
    assert_int_equal(piece.info.column_count, 2);
    assert_string_equal(piece.info.columns[1].name, "i");
    assert_int_equal(piece.info.columns[1].kind, ATTRIBUTE_I64);
    assert_true(piece.info.columns[0].least == 0 && piece.info.columns[0].most == UINT64_MAX);
    section_expect(&piece, "values-0", 0, us, sizeof(us));
    section_expect(&piece, "values-1", 0, is, sizeof(is));
    work_remove(piece.work);
}

static void labels_are_unquoted_unescaped_and_sorted(void **state)
{
    /* Row 0: b, a (once); row 1: "a|\" and "x,\n\"y"; row 2: none. */
    static const char text[] = "t:labels,u:labels\n"
                               "b|a|b,\n"
                               "\"a\\|\\\\|x,\n\"\"y\",\r\n"
                               "\"\",gr\xc3\xbcn\n";
    struct piece piece = piece_make(*state, text, sizeof(text) - 1);
    const struct attribute_input_column *t = &piece.info.columns[0];
    assert_int_equal(t->label_count, 4);
    assert_int_equal(t->memberships, 4);
    assert_int_equal(t->text_bytes, 1 + 1 + 3 + 5);
    static const uint8_t values[] = {2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2,
                                     0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0};
    static const uint32_t places[] = {2, 0, 1, 3};
    static const uint32_t offsets[] = {0, 1, 4, 5, 10};
    static const uint64_t rows[] = {1, 1, 1, 1};
    section_expect(&piece, "values-0", 0, values, sizeof(values));
    section_expect(&piece, "labels-0", 0, places, sizeof(places));
    section_expect(&piece, "labels-0", 1, offsets, sizeof(offsets));
    section_expect(&piece, "labels-0", 2, "aa|\\bx,\n\"y", 10);
    section_expect(&piece, "labels-0", 3, rows, sizeof(rows));
    section_expect(&piece, "labels-1", 2, "gr\xc3\xbcn", 5);
    work_remove(piece.work);
}

/* Cells lie across the ends of the buffer in every way, quoted and plain. */
static void cells_across_the_buffers_end_are_whole(void **state)
{
    const struct build_fixture *f = *state;
    for (int quoted = 0; quoted < 2; quoted++)
        for (size_t shift = 0; shift < 12; shift++) {
            const size_t buffer = CSV_BUFFER_BYTES;
            char *text = malloc(buffer + 100);
            assert_non_null(text);
            size_t at = (size_t)sprintf(text, "t:labels\n");
            /* One long cell of labels of 15 bytes, then the one that is looked at. */
            while (at < buffer - 40 + shift)
                at += (size_t)sprintf(text + at, "%s%015zu", at > 9 ? "|" : "", at);
            at += (size_t)sprintf(text + at,
                                  quoted ? "\r\n\"ab\"\"cd|efg\"\r\n\"\"" : "\r\nabcd|efg\r\n\r\n");
            struct piece piece = piece_make(f, text, at);
            struct work_input *input = NULL;
            struct error err = {0};
            const uint32_t labels = piece.info.columns[0].label_count;
            const char *wanted = quoted ? "ab\"cdefg" : "abcdefg";
            char found[16] = {0};
            fixture_must(work_input_open(piece.work, ingest, "labels-0", 2, 0, &input, &err), &err);
            const uint64_t text_bytes = work_input_left(input);
            assert_int_equal(text_bytes, (labels - 2) * 15 + strlen(wanted));
            for (uint32_t i = 0; i + 2 < labels; i++)
                fixture_must(work_input_read(input, found, 15, &err), &err);
            memset(found, 0, sizeof(found));
            fixture_must(work_input_read(input, found, strlen(wanted), &err), &err);
            assert_string_equal(found, wanted);
            work_input_close(input);
            work_remove(piece.work);
            free(text);
        }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(headers_that_are_none_are_refused),
        CASE(cells_that_are_no_numbers_are_refused),
        CASE(labels_that_are_none_are_refused),
        CASE(too_many_labels_are_refused),
        CASE(cells_that_break_the_quoting_are_refused),
        CASE(rows_of_another_number_are_refused),
        CASE(files_that_cannot_be_read_are_named),
        CASE(numbers_of_all_sizes_are_kept),
        CASE(labels_are_unquoted_unescaped_and_sorted),
        CASE(cells_across_the_buffers_end_are_whole),
    };
    return cmocka_run_group_tests_name("attribute_input", tests, NULL, NULL);
}
