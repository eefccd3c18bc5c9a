/*
 * test_generate_attributes.c - made-up attributes: a column that knows nothing of the vectors, one
 * that follows them, labels of falling frequency, and the same file always.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"
#include "common/vector_file.h"
#include "tests/directory_fixture.h"
#include "tools/attribute_table.h"
#include "tools/generate_attributes.h"

enum { ROWS = 20000, DIM = 5, TAGS = 200 };

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char base[256], output[256];
    float rows[ROWS][DIM];
    struct attribute_table *table;
    struct error err;
};

static void assert_ok(const struct fixture *fixture, enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s: %s", status_name(status), fixture->err.text);
}

static struct generate_attributes_params params_of(const struct fixture *fixture)
{
    return (struct generate_attributes_params){
        .base = fixture->base, .output = fixture->output, .seed = 5, .tags = TAGS, .threads = 2};
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (fixture == NULL)
        return -1;
    *state = fixture;
    if (directory_fixture_create(fixture->directory) != 0)
        return -1;
    snprintf(fixture->base, sizeof(fixture->base), "%s/base.fbin", fixture->directory);
    snprintf(fixture->output, sizeof(fixture->output), "%s/base.csv", fixture->directory);
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        fixture->rows[i / DIM][i % DIM] = (float)random_unit(9, i) - 0.5f;
    struct vector_writer *writer;
    struct vector_shape shape = {ROWS, DIM, ELEMENT_F32};
    assert_ok(fixture, vector_writer_open(fixture->base, shape, &writer, &fixture->err));
    assert_ok(fixture, vector_writer_append(writer, fixture->rows, ROWS, &fixture->err));
    assert_ok(fixture, vector_writer_finish(writer, &fixture->err));
    struct generate_attributes_params params = params_of(fixture);
    assert_ok(fixture, generate_attributes(&params, &fixture->err));
    assert_ok(fixture, attribute_table_read(fixture->output, ROWS, &fixture->table, &fixture->err));
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    attribute_table_free(fixture->table);
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    return result;
}

static const struct attribute_column *column_of(const struct fixture *fixture, const char *name)
{
    const struct attribute_column *column =
        attributes_find(attribute_table_view(fixture->table), name, strlen(name));
    assert_non_null(column);
    return column;
}

static double distance_between(const struct fixture *fixture, uint32_t a, uint32_t b)
{
    double sum = 0;
    for (uint32_t d = 0; d < DIM; d++) {
        double difference = (double)fixture->rows[a][d] - (double)fixture->rows[b][d];
        sum += difference * difference;
    }
    return sum;
}

/* 1 % of a column of a million values is 200 rows; chance makes it 14 more or less. */
static void u_is_uniform_and_knows_no_vector(void **state)
{
    struct fixture *fixture = *state;
    const struct attribute_column *u = column_of(fixture, "u"), *c = column_of(fixture, "c");
    uint32_t hundredths[100] = {0}, both = 0;
    assert_int_equal(u->kind, ATTRIBUTE_U64);
    for (uint32_t row = 0; row < ROWS; row++) {
        uint64_t value = attribute_value(u, row);
        assert_true(value < GENERATE_NUMBERS);
        hundredths[value / 10000]++;
        both += value < 100000 && attribute_value(c, row) < 100000;
    }
    for (uint32_t i = 0; i < 100; i++)
        assert_in_range(hundredths[i], 130, 270);
    assert_in_range(both, 130, 270);
}

static void c_is_the_rank_of_the_distance_to_a_row(void **state)
{
    struct fixture *fixture = *state;
    const struct attribute_column *c = column_of(fixture, "c");
    const uint32_t center = c->order[0];
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t row = c->order[i];
        assert_int_equal(attribute_value(c, row), (uint64_t)i * GENERATE_NUMBERS / ROWS);
        if (i > 0)
            assert_true(distance_between(fixture, center, row) >=
                        distance_between(fixture, center, c->order[i - 1]) * 0.999999);
    }
}

static void tags_are_of_falling_frequency(void **state)
{
    struct fixture *fixture = *state;
    const struct attribute_column *tags = column_of(fixture, "tags");
    uint64_t frequencies[TAGS] = {0};
    assert_int_equal(tags->kind, ATTRIBUTE_LABELS);
    assert_int_equal(tags->label_count, TAGS);
    for (uint32_t label = 0; label < TAGS; label++) {
        char text[8] = "";
        memcpy(text, tags->label_text + tags->label_at[label],
               MIN(tags->label_at[label + 1] - tags->label_at[label], 7));
        assert_int_equal(text[0], 't');
        uint32_t number = (uint32_t)strtoul(text + 1, NULL, 10);
        assert_true(number < TAGS);
        frequencies[number] = tags->posting_at[label + 1] - tags->posting_at[label];
    }
    /* 2.5 draws a row, of which t0 has 1 / H(200) = 0.17: 0.37 of the rows have it. */
    assert_in_range(frequencies[0], ROWS * 0.33, ROWS * 0.41);
    assert_in_range(frequencies[9], ROWS * 0.03, ROWS * 0.055);
    assert_in_range(frequencies[99], ROWS * 0.002, ROWS * 0.007);
    for (uint32_t row = 0; row < ROWS; row++)
        assert_in_range(tags->node_at[row + 1] - tags->node_at[row], 1, 4);
}

static size_t file_read(const char *path, char *bytes, size_t most)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t got = fread(bytes, 1, most, file);
    fclose(file);
    return got;
}

static void the_seed_alone_decides(void **state)
{
    struct fixture *fixture = *state;
    enum { MOST = 2 << 20 };
    char *first = malloc(MOST), *second = malloc(MOST);
    assert_non_null(first);
    assert_non_null(second);
    size_t bytes = file_read(fixture->output, first, MOST);
    struct generate_attributes_params params = params_of(fixture);
    params.threads = 1;
    assert_ok(fixture, generate_attributes(&params, &fixture->err));
    assert_int_equal(file_read(fixture->output, second, MOST), bytes);
    assert_memory_equal(first, second, bytes);
    params.seed++;
    assert_ok(fixture, generate_attributes(&params, &fixture->err));
    size_t other = file_read(fixture->output, second, MOST);
    assert_true(other != bytes || memcmp(first, second, bytes) != 0);
    free(second);
    free(first);
}

static void what_is_no_base_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct generate_attributes_params params = params_of(fixture);
    params.tags = 0;
    assert_int_equal(generate_attributes(&params, &fixture->err), STATUS_INVALID);
    params.tags = TAGS;
    params.base = "nosuch.fbin";
    assert_int_equal(generate_attributes(&params, &fixture->err), STATUS_NOT_FOUND);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(u_is_uniform_and_knows_no_vector), T(c_is_the_rank_of_the_distance_to_a_row),
        T(tags_are_of_falling_frequency),    T(the_seed_alone_decides),
        T(what_is_no_base_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
