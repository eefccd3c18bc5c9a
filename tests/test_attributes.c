/*
 * test_attributes.c - attributes.bin: what is encoded decodes to each node's values; each broken
 * field and array is refused, by the decoder where memory safety needs it and else by the check;
 * and nothing is read past the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/attributes_fixture.h"

enum { NODES = 70, COLUMNS = 5, HEADER = 64, ENTRY = 128 };

/* Its columns: "year", "delta", "same", "tags", "none". */
struct sample {
    uint64_t years[NODES], deltas[NODES], same[NODES];
    const char *tags[NODES], *none[NODES];
    bool exists[NODES];
    struct attributes_fixture_column columns[COLUMNS];
    uint8_t *image;
    size_t bytes;
    struct attributes_shape shape;
    struct attribute_places places[COLUMNS];
};

static const char *const tag_sets[] = {"b|a", "", "c", "a|d|gr\xc3\xbcn", NULL, "d"};

static uint32_t vectors_of(const struct sample *s)
{
    return (uint32_t)s->shape.vector_count;
}

static int setup(void **state)
{
    struct sample *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    for (uint32_t node = 0; node < NODES; node++) {
        s->years[node] = node * 37 % 1000 + 5000;
        s->deltas[node] = node % 3 == 0 ? (uint64_t)INT64_MIN + node : (uint64_t)INT64_MAX - node;
        s->same[node] = 12;
        s->tags[node] = tag_sets[node % ARRAY_LENGTH(tag_sets)];
        s->exists[node] = node % 10 < 8 && node != 64;
    }
    const struct attributes_fixture_column columns[COLUMNS] = {
        {"year", ATTRIBUTE_U64, s->years, NULL},   {"delta", ATTRIBUTE_I64, s->deltas, NULL},
        {"same", ATTRIBUTE_U64, s->same, NULL},    {"tags", ATTRIBUTE_LABELS, NULL, s->tags},
        {"none", ATTRIBUTE_LABELS, NULL, s->none},
    };
    memcpy(s->columns, columns, sizeof(columns));
    s->image = attributes_fixture_image(s->columns, COLUMNS, NODES, s->exists, &s->bytes);
    struct error err = {0};
    if (attributes_head_decode(s->image, s->bytes, s->bytes, &s->shape, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    for (uint32_t c = 0; c < COLUMNS; c++)
        attributes_place(&s->shape, c, &s->places[c]);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct sample *s = *state;
    free(s->image);
    free(s);
    return 0;
}

static enum status decode(const struct sample *s, struct attributes *out, struct error *err)
{
    return attributes_decode(s->image, s->bytes, NODES, vectors_of(s), out, err);
}

/* ---- what is in it ---- */

static bool node_has(const struct attribute_column *column, uint32_t node, const char *text)
{
    for (uint64_t i = column->node_at[node]; i < column->node_at[node + 1]; i++) {
        const uint32_t label = column->node_labels[i];
        const size_t length = column->label_at[label + 1] - column->label_at[label];
        if (strlen(text) == length &&
            memcmp(text, column->label_text + column->label_at[label], length) == 0)
            return true;
    }
    return false;
}

static void attributes_round_trip(void **state)
{
    const struct sample *s = *state;
    struct attributes a;
    struct error err = {0};
    assert_int_equal(decode(s, &a, &err), STATUS_OK);
    if (attributes_check(&a, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(a.column_count, COLUMNS);
    const struct attribute_column *year = attributes_find(&a, "year", 4);
    const struct attribute_column *delta = attributes_find(&a, "delta", 5);
    const struct attribute_column *same = attributes_find(&a, "same", 4);
    const struct attribute_column *tags = attributes_find(&a, "tags", 4);
    assert_null(attributes_find(&a, "yea", 3));
    assert_null(attributes_find(&a, "years", 5));
    assert_int_equal(year->width, 2);
    assert_int_equal(delta->width, 8);
    assert_int_equal(same->width, 0);
    assert_int_equal(tags->label_count, 5);
    assert_memory_equal(tags->label_text, "abcdgr\xc3\xbcn", 9);
    for (uint32_t node = 0; node < NODES; node++) {
        assert_int_equal(attributes_node_exists(&a, node), s->exists[node]);
        if (!s->exists[node])
            continue;
        assert_true(attribute_value(year, node) == s->years[node]);
        assert_true(attribute_value(delta, node) == s->deltas[node]);
        assert_true(attribute_value(same, node) == 12);
        const char *set = s->tags[node] ? s->tags[node] : "";
        assert_int_equal(node_has(tags, node, "a"), strchr(set, 'a') != NULL);
        assert_int_equal(node_has(tags, node, "gr\xc3\xbcn"), strchr(set, 'g') != NULL);
    }
    assert_true((int64_t)attribute_value(delta, delta->order[0]) == INT64_MIN);
    assert_memory_equal(s->image, "NJAT", 4);
}

static void values_of_every_width_come_back(void **state)
{
    (void)state;
    static const uint64_t spans[] = {
        0, 1, 255, 256, 65535, 65536, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX};
    static const uint32_t widths[] = {0, 1, 1, 2, 2, 4, 4, 8, 8};
    for (size_t i = 0; i < ARRAY_LENGTH(spans); i++)
        for (int kind = ATTRIBUTE_U64; kind <= ATTRIBUTE_I64; kind++) {
            const uint64_t least = kind == ATTRIBUTE_I64 ? (uint64_t)INT64_MIN : 0;
            const uint64_t numbers[3] = {least + spans[i], least, least + spans[i] / 2};
            const struct attributes_fixture_column column = {"n", (enum attribute_kind)kind,
                                                             numbers, NULL};
            struct attributes a;
            struct error err = {0};
            size_t bytes;
            uint8_t *image = attributes_fixture_image(&column, 1, 3, NULL, &bytes);
            assert_int_equal(attributes_decode(image, bytes, 3, 3, &a, &err), STATUS_OK);
            if (attributes_check(&a, &err) != STATUS_OK)
                fail_msg("%s", err.text);
            assert_int_equal(a.columns[0].width, widths[i]);
            for (uint32_t node = 0; node < 3; node++)
                assert_true(attribute_value(&a.columns[0], node) == numbers[node]);
            free(image);
        }
}

static void names_are_words_that_filters_do_not_use(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "_", "A9", "year_2", "AND_", "notin", "i", "an"};
    static const char *const bad[] = {"",    "9a", "a-b", "a b", "a.b", "gr\xc3\xbcn", "and",
                                      "AND", "Or", "not", "in",  "any", "aLL",         "a:b"};
    char longest[ATTRIBUTE_NAME_MAX + 1];
    memset(longest, 'x', sizeof(longest));
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++)
        assert_true(attribute_name_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++)
        assert_false(attribute_name_valid(bad[i], strlen(bad[i])));
    assert_true(attribute_name_valid(longest, ATTRIBUTE_NAME_MAX));
    assert_false(attribute_name_valid(longest, ATTRIBUTE_NAME_MAX + 1));
}

/* ---- faults ---- */

/* With `bytes` of *value at `at` the decoder refuses, or, if `checked`, passes and the check
 * refuses. */
static void expect_refused(struct sample *s, uint64_t at, const void *value, size_t bytes,
                           bool checked, const char *words)
{
    uint8_t before[64];
    struct attributes a;
    struct error err = {0};
    assert_true(bytes <= sizeof(before) && at + bytes <= s->bytes);
    memcpy(before, s->image + at, bytes);
    memcpy(s->image + at, value, bytes);
    a.column_count = 77;
    enum status status = decode(s, &a, &err);
    if (checked) {
        if (status != STATUS_OK)
            fail_msg("byte %llu: %s", (unsigned long long)at, err.text);
        status = attributes_check(&a, &err);
    } else {
        assert_int_equal(a.column_count, 77);
    }
    if (status == STATUS_OK || strstr(err.text, words) == NULL || err.status != status)
        fail_msg("byte %llu: wanted \"%s\", got %s: \"%s\"", (unsigned long long)at, words,
                 status_name(status), err.text);
    memcpy(s->image + at, before, bytes);
}

static void u32_refused(struct sample *s, uint64_t at, uint32_t value, bool checked,
                        const char *words)
{
    expect_refused(s, at, &value, sizeof(value), checked, words);
}

static void u64_refused(struct sample *s, uint64_t at, uint64_t value, bool checked,
                        const char *words)
{
    expect_refused(s, at, &value, sizeof(value), checked, words);
}

static void attributes_reject_each_broken_word_of_header_and_entries(void **state)
{
    struct sample *s = *state;
    const uint64_t tags = HEADER + 3 * ENTRY;
    u32_refused(s, 0, 1, false, "magic");
    u32_refused(s, 4, 2, false, "version 2, this build reads 1");
    u32_refused(s, 8, 0, false, "0 columns");
    u32_refused(s, 8, 65, false, "65 columns");
    u32_refused(s, 8, COLUMNS - 1, false, "take");
    u32_refused(s, 12, 1, false, "reserved");
    u64_refused(s, 16, NODES + 1, false, "take");
    u64_refused(s, 16, UINT64_C(1) << 32, false, "nodes, must be");
    u64_refused(s, 24, NODES + 1, false, "must be at most");
    u64_refused(s, 24, vectors_of(s) - 3, false, "take");
    u32_refused(s, 60, 1, false, "reserved");
    expect_refused(s, HEADER, "", 1, false, "the name of column 0");
    expect_refused(s, HEADER, "not", 4, false, "the name of column 0");
    expect_refused(s, HEADER + 5, "x", 1, false, "the name of column 0");
    expect_refused(s, HEADER + ENTRY, "year", 5, false, "both called \"year\"");
    u32_refused(s, HEADER + 64, 0, false, "kind is 0");
    u32_refused(s, HEADER + 64, 4, false, "kind is 4");
    u32_refused(s, HEADER + 68, 3, false, "width 3");
    u32_refused(s, HEADER + 68, 4, false, "take");
    u32_refused(s, HEADER + 80, 1, false, "none of u64");
    u32_refused(s, HEADER + 84, 1, false, "none of u64");
    u64_refused(s, HEADER + 88, 1, false, "none of u64");
    u32_refused(s, HEADER + 124, 1, false, "reserved");
    u32_refused(s, tags + 68, 1, false, "none of labels");
    u64_refused(s, tags + 72, 1, false, "none of labels");
    u32_refused(s, tags + 80, ATTRIBUTE_LABELS_MAX + 1, false, "none of labels");
    u32_refused(s, tags + 84, 6 * ATTRIBUTE_LABEL_MAX, false, "none of labels");
    u64_refused(s, tags + 88, UINT64_MAX / 4, false, "none of labels");
    u64_refused(s, tags + 88, 1, false, "take");
    struct attributes a;
    struct error err = {0};
    assert_int_equal(attributes_decode(s->image, s->bytes, NODES, vectors_of(s) - 1, &a, &err),
                     STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "the manifest says"));
    assert_int_equal(attributes_decode(s->image, s->bytes, NODES + 1, vectors_of(s), &a, &err),
                     STATUS_CORRUPT);
}

static void attributes_reject_what_would_lead_out_of_an_array(void **state)
{
    struct sample *s = *state;
    const struct attribute_places *year = &s->places[0], *tags = &s->places[3];
    const uint64_t bitmap = HEADER + COLUMNS * ENTRY;
    const uint64_t members = s->shape.columns[3].memberships;
    u32_refused(s, year->order, NODES, false, "order names a node");
    u32_refused(s, year->order + 4 * (vectors_of(s) - 1), UINT32_MAX, false, "order names a node");
    u64_refused(s, bitmap, 0, false, "the bitmap has");
    u64_refused(s, bitmap + 8, UINT64_C(1) << 63, false, "where there are none");
    u32_refused(s, tags->label_at, 1, false, "labels' offsets");
    u32_refused(s, tags->label_at + 4, 0, false, "labels' offsets");
    u32_refused(s, tags->label_at + 8, 9, false, "labels' offsets");
    u32_refused(s, tags->label_at + 20, 8, false, "labels' offsets");
    u64_refused(s, tags->node_at, 1, false, "nodes' offsets");
    u64_refused(s, tags->node_at + 8 * NODES, members - 1, false, "nodes' offsets");
    u64_refused(s, tags->node_at + 16, members + 1, false, "nodes' offsets");
    u32_refused(s, tags->node_labels, 5, false, "a label that is not there");
    u64_refused(s, tags->posting_at + 8, members + 1, false, "postings' offsets");
    u64_refused(s, tags->posting_at + 40, members - 1, false, "postings' offsets");
    u32_refused(s, tags->postings + 4 * (members - 1), NODES, false, "a node that is not there");
    u32_refused(s, tags->label_text + 9, 1, false, "not zero"); /* 9 bytes of text */
}

static void attributes_reject_other_lengths(void **state)
{
    const struct sample *s = *state;
    for (size_t length = 0; length < s->bytes; length++) {
        struct attributes a;
        struct error err = {0};
        /* Of its exact length, so that ASan sees a read past it. */
        uint8_t *cut = malloc(length + (length == 0));
        assert_non_null(cut);
        memcpy(cut, s->image, length);
        assert_int_equal(attributes_decode(cut, length, NODES, vectors_of(s), &a, &err),
                         STATUS_CORRUPT);
        free(cut);
    }
}

static void check_names_what_breaks_a_promise(void **state)
{
    struct sample *s = *state;
    const struct attribute_places *year = &s->places[0];
    struct attributes a;
    assert_int_equal(decode(s, &a, NULL), STATUS_OK);
    const uint32_t *order = a.columns[0].order;
    const uint32_t swapped[2] = {order[6], order[5]}, twice[2] = {order[5], order[5]};
    const uint8_t value[2] = {200, 3};
    expect_refused(s, year->order + 20, swapped, 8, true, "place 6 of its order");
    expect_refused(s, year->order + 20, twice, 8, true, "place 6 of its order");
    u32_refused(s, year->order, 8, true, "which has no record");
    expect_refused(s, year->values + 2 * 8, value, 2, true, "a value and no record");
    expect_refused(s, year->values + 2 * (size_t)order[0], value, 2, true, "not behind");
}

static void check_wants_the_least_base_and_the_narrowest_width(void **state)
{
    (void)state;
    static const uint64_t numbers[2] = {5, 1000};
    const struct attributes_fixture_column column = {"n", ATTRIBUTE_U64, numbers, NULL};
    static const struct {
        uint64_t base;
        uint16_t values[2];
    } others[] = {{4, {1, 996}}, {5, {0, 255}}};
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++) {
        struct attributes_shape shape;
        struct attribute_places places;
        struct attributes a;
        struct error err = {0};
        size_t bytes;
        uint8_t *image = attributes_fixture_image(&column, 1, 2, NULL, &bytes);
        assert_int_equal(attributes_head_decode(image, bytes, bytes, &shape, &err), STATUS_OK);
        attributes_place(&shape, 0, &places);
        memcpy(image + HEADER + 72, &others[i].base, sizeof(others[i].base));
        memcpy(image + places.values, others[i].values, sizeof(others[i].values));
        assert_int_equal(attributes_decode(image, bytes, 2, 2, &a, &err), STATUS_OK);
        assert_int_equal(attributes_check(&a, &err), STATUS_CORRUPT);
        assert_non_null(strstr(err.text, "base and width"));
        free(image);
    }
}

static void check_names_labels_that_break_a_promise(void **state)
{
    struct sample *s = *state;
    const struct attribute_places *tags = &s->places[3];
    struct attributes a;
    assert_int_equal(decode(s, &a, NULL), STATUS_OK);
    const struct attribute_column *column = &a.columns[3];
    const uint32_t first = column->postings[0], second = column->postings[1];
    const uint32_t swapped[2] = {second, first};
    const uint32_t pair[2] = {1, 0}; /* node 0 has labels 0 and 1 */
    expect_refused(s, tags->label_text, "b", 1, true, "label 1 is not behind");
    expect_refused(s, tags->label_text, "c", 1, true, "label 1 is not behind");
    expect_refused(s, tags->label_text, "\x80", 1, true, "label 0 is not UTF-8");
    expect_refused(s, tags->label_text, "", 1, true, "label 0 is not UTF-8");
    expect_refused(s, tags->node_labels, pair, 8, true, "the labels of node 0 do not ascend");
    expect_refused(s, tags->postings, swapped, 8, true, "the nodes of label 0 do not ascend");
    u32_refused(s, tags->postings, 1, true, "which has not the label");
    u32_refused(s, tags->node_labels, 2, true, "do not ascend");
    u64_refused(s, tags->posting_at + 8, 0, true, "or are none");
    /* The label of node 17 comes to node 18. */
    assert_true(s->exists[17] && !s->exists[18]);
    u64_refused(s, tags->node_at + 8 * 18, column->node_at[18] - 1, true,
                "has labels and no record");
}

/* What a flip may turn into another good file is found by the digest alone: names, labels, values
 * and what they start from. */
static bool free_byte(const struct sample *s, uint64_t at)
{
    for (uint32_t c = 0; c < COLUMNS; c++) {
        const uint64_t entry = HEADER + c * ENTRY;
        const struct attribute_places *p = &s->places[c];
        const bool labels = s->shape.columns[c].kind == ATTRIBUTE_LABELS;
        if ((at >= entry && at < entry + 80) || (!labels && at >= p->values && at < p->order) ||
            (labels && at >= p->label_at && at < p->node_at))
            return true;
    }
    return false;
}

static void flipped_bits_are_refused_but_where_they_mean_another_value(void **state)
{
    struct sample *s = *state;
    uint32_t found = 0;
    for (uint64_t bit = 0; bit < 8 * s->bytes; bit++) {
        struct attributes a;
        struct error err = {0};
        s->image[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (decode(s, &a, &err) == STATUS_OK && attributes_check(&a, &err) == STATUS_OK) {
            if (!free_byte(s, bit / 8))
                fail_msg("bit %llu is not missed", (unsigned long long)bit);
        } else {
            found++;
        }
        s->image[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(found > 4 * s->bytes);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(attributes_round_trip),
        CASE(values_of_every_width_come_back),
        CASE(names_are_words_that_filters_do_not_use),
        CASE(attributes_reject_each_broken_word_of_header_and_entries),
        CASE(attributes_reject_what_would_lead_out_of_an_array),
        CASE(attributes_reject_other_lengths),
        CASE(check_names_what_breaks_a_promise),
        CASE(check_wants_the_least_base_and_the_narrowest_width),
        CASE(check_names_labels_that_break_a_promise),
        CASE(flipped_bits_are_refused_but_where_they_mean_another_value),
    };
    return cmocka_run_group_tests_name("attributes", tests, NULL, NULL);
}
