/*
 * test_generate_means.c - hard queries: each the mean of two vectors of a file, in its type, the
 * same ones for the same seed.
 */
#include <math.h>
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
#include "tools/generate_means.h"

enum { ROWS = 7, DIM = 5, QUERIES = 300 };

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char base[256], output[256];
    struct error err;
};

static void assert_ok(const struct fixture *fixture, enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s: %s", status_name(status), fixture->err.text);
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (fixture == NULL)
        return -1;
    *state = fixture;
    return directory_fixture_create(fixture->directory);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    return result;
}

/* A base of these values, and a name for its queries. */
static void base_write(struct fixture *fixture, struct vector_shape shape, const float *values)
{
    static const char *const suffixes[] = {[ELEMENT_U8] = "u8bin",
                                           [ELEMENT_I8] = "i8bin",
                                           [ELEMENT_F16] = "f16bin",
                                           [ELEMENT_F32] = "fbin",
                                           [ELEMENT_I32] = "ibin"};
    const char *suffix = suffixes[shape.type];
    snprintf(fixture->base, sizeof(fixture->base), "%s/base.%s", fixture->directory, suffix);
    snprintf(fixture->output, sizeof(fixture->output), "%s/query.%s", fixture->directory, suffix);
    size_t entries = (size_t)shape.count * shape.dim;
    void *rows = calloc(entries, sizeof(float));
    assert_non_null(rows);
    if (shape.type != ELEMENT_I32)
        element_from_f32(shape.type, values, entries, rows);
    struct vector_writer *writer;
    assert_ok(fixture, vector_writer_open(fixture->base, shape, &writer, &fixture->err));
    assert_ok(fixture, vector_writer_append(writer, rows, shape.count, &fixture->err));
    assert_ok(fixture, vector_writer_finish(writer, &fixture->err));
    free(rows);
}

static enum status means_make(struct fixture *fixture, uint64_t count, uint64_t seed)
{
    const struct generate_means_params params = {
        .base = fixture->base, .output = fixture->output, .count = count, .seed = seed};
    return generate_means(&params, &fixture->err);
}

/* The queries as f32, the caller's. */
static float *means_read(struct fixture *fixture, struct vector_shape wanted)
{
    struct vector_shape shape;
    void *rows;
    assert_ok(fixture, vector_file_load(fixture->output, UINT64_MAX, &shape, &rows, &fixture->err));
    assert_int_equal(shape.count, wanted.count);
    assert_int_equal(shape.dim, wanted.dim);
    assert_int_equal(shape.type, wanted.type);
    size_t entries = (size_t)shape.count * shape.dim;
    float *values = malloc(entries * sizeof(float));
    assert_non_null(values);
    element_to_f32(shape.type, rows, entries, values);
    free(rows);
    return values;
}

/* Twice the mean is the sum, or next to it and the mean even. */
static bool is_mean(enum element_type type, const float *one, const float *two, const float *mean,
                    uint32_t dim)
{
    for (uint32_t d = 0; d < dim; d++) {
        float beside = 2 * mean[d] - (one[d] + two[d]);
        bool integer = type == ELEMENT_U8 || type == ELEMENT_I8;
        bool rounded = integer && fabsf(beside) == 1 && fmodf(mean[d], 2) == 0;
        if (beside != 0 && !rounded)
            return false;
    }
    return true;
}

/* Each query is the mean of two rows; which pairs are drawn how often. */
static void pairs_count(const float *rows, struct vector_shape shape, const float *queries,
                        uint32_t counts[ROWS][ROWS])
{
    for (uint32_t q = 0; q < QUERIES; q++) {
        uint32_t found = 0;
        for (uint32_t i = 0; i < shape.count; i++)
            for (uint32_t j = i + 1; j < shape.count; j++)
                if (is_mean(shape.type, rows + (size_t)i * shape.dim, rows + (size_t)j * shape.dim,
                            queries + (size_t)q * shape.dim, shape.dim)) {
                    found++;
                    counts[i][j]++;
                }
        assert_int_equal(found, 1);
    }
}

/* Values are such that f16 and f32 hold their means. */
static void queries_are_means_of_two_rows(void **state)
{
    struct fixture *fixture = *state;
    for (enum element_type type = ELEMENT_U8; type <= ELEMENT_F32; type++) {
        struct vector_shape shape = {ROWS, DIM, type};
        float rows[ROWS * DIM];
        for (uint32_t i = 0; i < ROWS * DIM; i++)
            rows[i] = type == ELEMENT_U8   ? (float)random_below(type, i, 256)
                      : type == ELEMENT_I8 ? (float)random_below(type, i, 256) - 128
                                           : ((float)random_below(type, i, 1001) - 500) / 8;
        base_write(fixture, shape, rows);
        assert_ok(fixture, means_make(fixture, QUERIES, 1));
        float *queries = means_read(fixture, (struct vector_shape){QUERIES, DIM, type});
        uint32_t counts[ROWS][ROWS] = {0};
        pairs_count(rows, shape, queries, counts);
        /* 21 pairs, 14 of each expected */
        for (uint32_t i = 0; i < ROWS; i++)
            for (uint32_t j = i + 1; j < ROWS; j++)
                assert_in_range(counts[i][j], 2, 40);
        free(queries);
    }
}

/* Rows so wide that not all queries are held at once; no part is one before it again. */
static void many_queries_are_written_in_parts(void **state)
{
    struct fixture *fixture = *state;
    enum { FEW = 3 };
    struct vector_shape shape = {FEW, VECTOR_DIM_MAX, ELEMENT_F32};
    static float rows[FEW * VECTOR_DIM_MAX];
    for (uint32_t i = 0; i < FEW * VECTOR_DIM_MAX; i++)
        rows[i] = (float)random_below(3, i, 1000);
    base_write(fixture, shape, rows);
    assert_ok(fixture, means_make(fixture, QUERIES, 1));
    float *queries =
        means_read(fixture, (struct vector_shape){QUERIES, VECTOR_DIM_MAX, ELEMENT_F32});
    uint32_t counts[ROWS][ROWS] = {0};
    pairs_count(rows, shape, queries, counts);
    const size_t half_bytes = QUERIES / 2 * VECTOR_DIM_MAX * sizeof(float);
    for (size_t period = 1; period <= QUERIES / 2; period++)
        assert_true(memcmp(queries, queries + period * VECTOR_DIM_MAX, half_bytes) != 0);
    free(queries);
}

static void the_seed_alone_decides(void **state)
{
    struct fixture *fixture = *state;
    struct vector_shape shape = {ROWS, DIM, ELEMENT_F32};
    float rows[ROWS * DIM];
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        rows[i] = (float)random_unit(3, i);
    base_write(fixture, shape, rows);
    float *queries[3];
    for (int i = 0; i < 3; i++) {
        uint64_t count = i == 1 ? QUERIES / 2 : QUERIES;
        assert_ok(fixture, means_make(fixture, count, i == 2 ? 8 : 7));
        queries[i] = means_read(fixture, (struct vector_shape){count, DIM, ELEMENT_F32});
    }
    const size_t half_bytes = QUERIES / 2 * DIM * sizeof(float);
    assert_memory_equal(queries[0], queries[1], half_bytes);
    assert_memory_not_equal(queries[0], queries[2], half_bytes);
    for (int i = 0; i < 3; i++)
        free(queries[i]);
}

static void means_of_large_floats_are_finite(void **state)
{
    struct fixture *fixture = *state;
    struct vector_shape shape = {2, 1, ELEMENT_F32};
    base_write(fixture, shape, (float[]){3e38f, 2e38f});
    assert_ok(fixture, means_make(fixture, 1, 1));
    float *queries = means_read(fixture, (struct vector_shape){1, 1, ELEMENT_F32});
    assert_true(queries[0] == 2.5e38f);
    free(queries);
}

static void assert_refused(struct fixture *fixture, enum status status, const char *phrase)
{
    assert_int_equal(means_make(fixture, 9, 1), status);
    if (strstr(fixture->err.text, phrase) == NULL)
        fail_msg("'%s' lacks '%s'", fixture->err.text, phrase);
}

static void what_has_no_means_is_refused(void **state)
{
    struct fixture *fixture = *state;
    const float rows[] = {1, NAN};
    base_write(fixture, (struct vector_shape){1, 1, ELEMENT_U8}, rows);
    assert_refused(fixture, STATUS_INVALID, "1 rows of u8, wanted at least 2 vectors");
    base_write(fixture, (struct vector_shape){2, 1, ELEMENT_I32}, rows);
    assert_refused(fixture, STATUS_INVALID, "2 rows of i32, wanted at least 2 vectors");
    base_write(fixture, (struct vector_shape){2, 1, ELEMENT_F32}, rows);
    assert_refused(fixture, STATUS_INVALID, "row 1 has a NaN at dimension 0");
    snprintf(fixture->output, sizeof(fixture->output), "%s/query.u8bin", fixture->directory);
    assert_refused(fixture, STATUS_INVALID, ".u8bin holds u8");
    snprintf(fixture->base, sizeof(fixture->base), "%s/no.u8bin", fixture->directory);
    assert_refused(fixture, STATUS_NOT_FOUND, "no.u8bin");
    assert_int_equal(directory_fixture_entries(fixture->directory), 3); /* the bases */
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(queries_are_means_of_two_rows), T(many_queries_are_written_in_parts),
        T(the_seed_alone_decides),        T(means_of_large_floats_are_finite),
        T(what_has_no_means_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
