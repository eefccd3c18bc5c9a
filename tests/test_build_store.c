/*
 * test_build_store.c - builds that store vectors in a smaller type than they are given in: what is
 * in the generation, what it is called, and what is refused.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/build_plan.h"
#include "layout/sample.h"
#include "tests/build_fixture.h"

struct storage {
    enum element_type given, stored;
};
static const struct storage storages[] = {
    {ELEMENT_F32, ELEMENT_F16},  {ELEMENT_F32, ELEMENT_BF16}, {ELEMENT_F32, ELEMENT_I8S},
    {ELEMENT_F16, ELEMENT_BF16}, {ELEMENT_F16, ELEMENT_I8S},
};

/* Rows as a generation stores them, malloc'd. */
static uint8_t *rows_stored(const void *rows, struct vector_shape shape, enum element_type stored)
{
    const size_t given_bytes = element_vector_bytes(shape.type, shape.dim);
    const size_t bytes = element_vector_bytes(stored, shape.dim);
    float *values = malloc(shape.dim * sizeof(*values));
    uint8_t *out = malloc(shape.count * bytes);
    assert_true(values && out);
    for (uint64_t i = 0; i < shape.count; i++) {
        element_to_f32(shape.type, (const uint8_t *)rows + i * given_bytes, shape.dim, values);
        element_vector_from_f32(stored, values, shape.dim, out + i * bytes);
    }
    free(values);
    return out;
}

/* Fractions, so that no type but f32 holds them. */
static float *fractions_write(struct build_fixture *f, uint32_t count, uint32_t dim)
{
    float *rows = build_fixture_input(f, ELEMENT_F32, count, dim);
    for (size_t i = 0; i < (size_t)count * dim; i++)
        rows[i] = rows[i] / 7 - 10;
    build_fixture_write(f, (struct vector_shape){count, dim, ELEMENT_F32}, rows);
    return rows;
}

/* The largest length of rows, in double. */
static double norm_max_of(const uint8_t *rows, struct vector_shape shape)
{
    float *values = malloc(shape.dim * sizeof(*values));
    double most = 0;
    assert_non_null(values);
    for (uint64_t i = 0; i < shape.count; i++) {
        double sum = 0;
        element_vector_to_f32(shape.type, rows + i * element_vector_bytes(shape.type, shape.dim),
                              shape.dim, values);
        for (uint32_t d = 0; d < shape.dim; d++)
            sum += (double)values[d] * (double)values[d];
        most = fmax(most, sqrt(sum));
    }
    free(values);
    return most;
}

static void every_row_is_there_as_it_is_to_be_stored(void **state)
{
    struct build_fixture *f = *state;
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    for (size_t s = 0; s < ARRAY_LENGTH(storages); s++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            struct vector_shape shape = {400, 21, storages[s].given};
            void *rows = shape.type == ELEMENT_F32 ? (void *)fractions_write(f, 400, 21)
                                                   : build_fixture_input(f, shape.type, 400, 21);
            struct build_params params = build_fixture_params(f);
            struct build_summary summary;
            params.metric = metrics[m];
            params.store = storages[s].stored;
            params.shards = m == 0 ? 2 : 1;
            build_fixture_build(&params, &summary);
            (void)build_fixture_digest(f->output);
            assert_int_equal(summary.manifest.type, storages[s].stored);
            assert_int_equal(summary.manifest.query_type, storages[s].given);
            assert_int_equal(summary.manifest.geometry.vector_bytes,
                             element_vector_bytes(storages[s].stored, 21));
            uint8_t *stored = rows_stored(rows, shape, storages[s].stored);
            shape.type = storages[s].stored;
            build_fixture_expect_rows(f->output, shape, stored, NULL);
            const double norm = norm_max_of(stored, shape);
            assert_true(fabs(summary.manifest.norm_max - norm) <= 1e-6 * norm);
            free(stored);
            free(rows);
            build_fixture_clear(f);
        }
}

static void what_is_stored_is_in_the_id_and_not_in_the_digest_of_the_input(void **state)
{
    struct build_fixture *f = *state;
    static const enum element_type stored[] = {ELEMENT_NONE, ELEMENT_F32, ELEMENT_F16, ELEMENT_BF16,
                                               ELEMENT_I8S};
    struct manifest found[ARRAY_LENGTH(stored)];
    free(fractions_write(f, 300, 16));
    for (size_t s = 0; s < ARRAY_LENGTH(stored); s++) {
        struct build_params params = build_fixture_params(f);
        struct build_summary summary;
        params.store = stored[s];
        (void)build_fixture_once(f, &params, &summary);
        found[s] = summary.manifest;
        build_fixture_expect_same(found[s].input_digest, found[0].input_digest);
        for (size_t other = 0; other < s; other++)
            assert_int_equal(build_fixture_same(found[s].generation_id, found[other].generation_id),
                             s == 1); /* f32 of f32 is the same as not to ask */
    }
}

static void stored_types_give_the_same_bytes_at_any_thread_count(void **state)
{
    struct build_fixture *f = *state;
    free(fractions_write(f, 1500, 24));
    for (size_t s = 0; s < 3; s++) {
        struct build_params params = build_fixture_params(f);
        params.store = storages[s].stored;
        params.threads = 1;
        params.metric = s == 0 ? METRIC_COSINE : METRIC_L2;
        struct digest128 one = build_fixture_once(f, &params, NULL);
        params.threads = 2;
        build_fixture_expect_same(build_fixture_once(f, &params, NULL), one);
        params.metric = METRIC_IP; /* another id: the digests do tell something */
        assert_false(build_fixture_same(build_fixture_once(f, &params, NULL), one));
    }
}

/* ---- rows that are read as another type ---- */

/* Writes 40 x 5 rows of ones, but for one value. */
static void write_but(struct build_fixture *f, enum element_type type, float value)
{
    enum { ROWS = 40, DIM = 5 };
    float values[ROWS * DIM];
    uint8_t rows[sizeof(values)];
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        values[i] = 1 + (float)i;
    values[33 * DIM + 2] = value;
    element_from_f32(type, values, ROWS * DIM, rows);
    build_fixture_write(f, (struct vector_shape){ROWS, DIM, type}, rows);
}

static struct vector_file *file_open(const struct build_fixture *f)
{
    struct vector_file *file = NULL;
    struct error err;
    fixture_must(vector_file_open(f->input, &file, &err), &err);
    return file;
}

/* More rows than are converted at a time, with a gap behind each, and what there is as given. */
static void rows_are_read_as_another_type_and_as_given(void **state)
{
    struct build_fixture *f = *state;
    enum { ROWS = 300, DIM = 333, FIRST = 7, GAP = 5 };
    struct vector_shape shape = {ROWS, DIM, ELEMENT_F32};
    float *rows = fractions_write(f, ROWS, DIM);
    for (size_t s = 0; s < 3; s++) {
        const enum element_type type = storages[s].stored;
        const size_t bytes = element_vector_bytes(type, DIM), stride = bytes + GAP;
        uint8_t *wanted = rows_stored(rows, shape, type);
        uint8_t *packed = malloc(ROWS * bytes), *apart = malloc(ROWS * stride);
        float *given = malloc(ROWS * DIM * sizeof(float));
        struct vector_file *file = file_open(f);
        struct error err;
        assert_true(packed && apart && given);
        fixture_must(vector_file_store_as(file, type, &err), &err);
        assert_int_equal(vector_file_shape(file).type, type);
        assert_int_equal(vector_file_shape_given(file).type, ELEMENT_F32);
        fixture_must(vector_file_read(file, 0, ROWS, packed, &err), &err);
        assert_memory_equal(packed, wanted, ROWS * bytes);
        memset(apart, 0xee, ROWS * stride);
        fixture_must(vector_file_read_strided(file, FIRST, ROWS - FIRST, apart, stride, &err),
                     &err);
        for (size_t i = 0; i < ROWS - FIRST; i++) {
            static const uint8_t zeroes[GAP];
            assert_memory_equal(apart + i * stride, wanted + (i + FIRST) * bytes, bytes);
            assert_memory_equal(apart + i * stride + bytes, zeroes, GAP);
        }
        fixture_must(vector_file_read_given(file, FIRST, ROWS - FIRST, given, &err), &err);
        assert_memory_equal(given, rows + FIRST * DIM, (ROWS - FIRST) * DIM * sizeof(float));
        assert_int_equal(vector_file_read(file, ROWS, 1, packed, &err), STATUS_INVALID);
        assert_int_equal(vector_file_read_given(file, 0, ROWS + 1, given, &err), STATUS_INVALID);
        assert_int_equal(vector_file_read_strided(file, 0, 1, apart, bytes - 1, &err),
                         STATUS_INVALID);
        vector_file_close(file);
        free(wanted);
        free(packed);
        free(apart);
        free(given);
    }
    free(rows);
}

/* bf16 has no value between 65280 and 65536, and f16 none beyond 65504. */
static void f16_as_bf16_stays_within_f16(void **state)
{
    struct build_fixture *f = *state;
    static const struct {
        float given, stored;
    } cases[] = {{65280, 65280}, {65376, 65280}, {65408, 65280},   {65504, 65280},
                 {65024, 65024}, {1.5F, 1.5F},   {-65504, -65280}, {-65408, -65280}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint16_t rows[40 * 5];
        float values[40 * 5];
        struct error err;
        write_but(f, ELEMENT_F16, cases[i].given);
        struct vector_file *file = file_open(f);
        fixture_must(vector_file_store_as(file, ELEMENT_BF16, &err), &err);
        fixture_must(vector_file_read(file, 0, 40, rows, &err), &err);
        element_to_f32(ELEMENT_BF16, rows, 40 * 5, values);
        assert_true(values[33 * 5 + 2] == cases[i].stored);
        element_from_f32(ELEMENT_F16, values, 40 * 5, rows); /* as it is given back */
        assert_true(element_all_finite(ELEMENT_F16, rows, 40 * 5, NULL));
        vector_file_close(file);
    }
    write_but(f, ELEMENT_F32, 65504); /* f32 reaches what bf16 does */
    struct vector_file *file = file_open(f);
    uint16_t row[5];
    float values[5];
    struct error err;
    fixture_must(vector_file_store_as(file, ELEMENT_BF16, &err), &err);
    fixture_must(vector_file_read(file, 33, 1, row, &err), &err);
    element_to_f32(ELEMENT_BF16, row, 5, values);
    assert_true(values[2] == 65536);
    vector_file_close(file);
}

static void a_value_that_is_not_finite_is_named_also_where_its_type_would_hide_it(void **state)
{
    struct build_fixture *f = *state;
    static const enum element_type types[] = {ELEMENT_F16, ELEMENT_BF16, ELEMENT_I8S};
    static const float values[] = {NAN, INFINITY};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t v = 0; v < ARRAY_LENGTH(values); v++) {
            uint8_t rows[40 * (5 * 2 + 4)];
            struct error err = {0};
            write_but(f, ELEMENT_F32, values[v]);
            struct vector_file *file = file_open(f);
            fixture_must(vector_file_store_as(file, types[t], &err), &err);
            assert_int_equal(vector_file_read(file, 0, 33, rows, &err), STATUS_OK);
            assert_int_equal(vector_file_read(file, 30, 10, rows, &err), STATUS_INVALID);
            assert_non_null(strstr(err.text, v == 0 ? ": row 33 has a NaN at dimension 2"
                                                    : ": row 33 has an infinity at dimension 2"));
            vector_file_close(file);
        }
}

/* ---- what is refused ---- */

/* The build fails with `words` in its one line, and leaves nothing. */
static void expect_refused(struct build_fixture *f, const struct build_params *params,
                           const char *words)
{
    struct error err = {0};
    assert_int_equal(build_run(params, NULL, &err), STATUS_INVALID);
    build_fixture_expect_line(&err);
    if (!strstr(err.text, words))
        fail_msg("\"%s\", wanted \"%s\"", err.text, words);
    assert_int_equal(access(f->output, F_OK), -1);
    assert_int_equal(access(f->work, F_OK), -1);
}

static void other_combinations_are_refused(void **state)
{
    struct build_fixture *f = *state;
    static const enum element_type given[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
    static const enum element_type stored[] = {ELEMENT_U8,  ELEMENT_I8,   ELEMENT_F16,
                                               ELEMENT_F32, ELEMENT_BF16, ELEMENT_I8S};
    uint32_t refused = 0;
    for (size_t g = 0; g < ARRAY_LENGTH(given); g++) {
        free(build_fixture_input(f, given[g], 50, 8));
        for (size_t s = 0; s < ARRAY_LENGTH(stored); s++) {
            struct build_params params = build_fixture_params(f);
            char words[64];
            params.store = stored[s];
            snprintf(words, sizeof(words), "%s vectors cannot be stored as %s",
                     element_name(given[g]), element_name(stored[s]));
            if (element_may_store(given[g], stored[s]))
                continue;
            expect_refused(f, &params, words);
            struct build_plan plan;
            struct error err;
            const struct vector_shape shape = {1000, 8, given[g]};
            params.input = NULL;
            assert_int_equal(build_plan_make(&params, &shape, &plan, &err), STATUS_INVALID);
            assert_non_null(strstr(err.text, words));
            refused++;
        }
    }
    assert_int_equal(refused, 24 - 9);
}

static void what_does_not_fit_is_named_by_row_and_dimension(void **state)
{
    struct build_fixture *f = *state;
    static const struct {
        struct storage storage;
        float value;
        const char *words;
    } cases[] = {
        {{ELEMENT_F32, ELEMENT_F16}, 65520, "row 33 has 65520 at dimension 2, beyond f16"},
        {{ELEMENT_F32, ELEMENT_F16}, -1e9F, "row 33 has -1e+09 at dimension 2, beyond f16"},
        {{ELEMENT_F32, ELEMENT_F16}, NAN, "row 33 has a NaN at dimension 2"},
        {{ELEMENT_F32, ELEMENT_BF16}, NAN, "row 33 has a NaN at dimension 2"},
        {{ELEMENT_F32, ELEMENT_BF16},
         3.4e38F,
         "row 33 has 3.39999995e+38 at dimension 2, beyond bf16"},
        {{ELEMENT_F32, ELEMENT_I8S}, NAN, "row 33 has a NaN at dimension 2"},
        {{ELEMENT_F32, ELEMENT_I8S}, -INFINITY, "row 33 has an infinity at dimension 2"},
        {{ELEMENT_F32, ELEMENT_I8S}, 3e38F, "row 33 is too long"},
        {{ELEMENT_F16, ELEMENT_I8S}, INFINITY, "row 33 has an infinity at dimension 2"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct build_params params = build_fixture_params(f);
        write_but(f, cases[i].storage.given, cases[i].value);
        params.store = cases[i].storage.stored;
        params.code_bytes = 5;
        expect_refused(f, &params, cases[i].words);
    }
    struct build_params params = build_fixture_params(f);
    write_but(f, ELEMENT_F32, 65519); /* rounds down to the largest of f16 */
    params.store = ELEMENT_F16;
    params.code_bytes = 5;
    build_fixture_build(&params, NULL);
}

static void a_direction_lost_by_rounding_is_refused_under_cosine(void **state)
{
    struct build_fixture *f = *state;
    float rows[30][4];
    for (uint32_t i = 0; i < 30; i++)
        for (uint32_t d = 0; d < 4; d++)
            rows[i][d] = i == 17 ? 1e-9F : 1 + (float)(i * d);
    build_fixture_write(f, (struct vector_shape){30, 4, ELEMENT_F32}, rows);
    struct build_params params = build_fixture_params(f);
    params.metric = METRIC_COSINE;
    params.code_bytes = 4;
    params.store = ELEMENT_F16;
    expect_refused(f, &params, "row 17 is a zero vector as f16");
    params.store = ELEMENT_I8S; /* which scales */
    build_fixture_build(&params, NULL);
    build_fixture_clear(f);
    params.metric = METRIC_L2;
    params.store = ELEMENT_F16;
    build_fixture_build(&params, NULL);
}

static void a_stopped_build_goes_on_with_the_same_type_alone(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    free(fractions_write(f, 300, 16));
    struct build_params params = build_fixture_params(f);
    params.store = ELEMENT_BF16;
    struct digest128 whole = build_fixture_once(f, &params, NULL);
    params.one_stage = true;
    params.stage = BUILD_STAGE_INGEST;
    params.shard = WORK_WHOLE;
    build_fixture_build(&params, NULL);
    params.one_stage = false;
    params.store = ELEMENT_F16;
    assert_int_equal(build_run(&params, NULL, &err), STATUS_EXISTS);
    assert_non_null(strstr(err.text, "stored"));
    params.store = ELEMENT_BF16;
    build_fixture_build(&params, NULL);
    build_fixture_expect_same(build_fixture_digest(f->output), whole);
}

/* 1024 floats and 64 neighbours: two pages as they are, one as f16, a third of one as i8. */
static void a_plan_tells_the_blocks_of_what_is_stored(void **state)
{
    static const struct {
        enum element_type store;
        uint64_t block_bytes, nodes_per_block;
    } cases[] = {
        {ELEMENT_NONE, 8192, 1},
        {ELEMENT_F16, 4096, 1},
        {ELEMENT_BF16, 4096, 1},
        {ELEMENT_I8S, 4096, 3},
    };
    struct build_params params = build_fixture_params(*state);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct vector_shape shape = {1000000, 1024, cases[i].store};
        struct build_size size;
        if (shape.type == ELEMENT_NONE)
            shape.type = ELEMENT_F32;
        params.degree = 64;
        build_size_compute(&params, &shape, 1, &size);
        assert_int_equal(size.block_bytes, cases[i].block_bytes);
        assert_int_equal(size.nodes_per_block, cases[i].nodes_per_block);
    }
}

static void queries_of_a_sample_are_its_vectors_exactly(void **state)
{
    (void)state;
    static const float values[3] = {65504, -65504, 1.5F};
    uint16_t stored[3], *queries = NULL;
    float *floats = NULL;
    struct error err;
    element_from_f32(ELEMENT_BF16, values, 3, stored); /* 65536, which f16 does not hold */
    struct sample sample = {
        .count = 1, .dim = 3, .type = ELEMENT_BF16, .vectors = (const uint8_t *)stored};
    assert_int_equal(sample_queries_create(&sample, ELEMENT_F16, (uint8_t **)&floats, &err),
                     STATUS_OK);
    assert_true(floats[0] == 65536 && floats[1] == -65536 && floats[2] == 1.5F);
    sample.type = ELEMENT_F16;
    assert_int_equal(sample_queries_create(&sample, ELEMENT_F16, (uint8_t **)&queries, &err),
                     STATUS_OK);
    assert_memory_equal(queries, stored, sizeof(stored));
    free(queries);
    free(floats);
}

#define T(name) cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(every_row_is_there_as_it_is_to_be_stored),
        T(what_is_stored_is_in_the_id_and_not_in_the_digest_of_the_input),
        T(stored_types_give_the_same_bytes_at_any_thread_count),
        T(rows_are_read_as_another_type_and_as_given),
        T(f16_as_bf16_stays_within_f16),
        T(a_value_that_is_not_finite_is_named_also_where_its_type_would_hide_it),
        T(other_combinations_are_refused),
        T(what_does_not_fit_is_named_by_row_and_dimension),
        T(a_direction_lost_by_rounding_is_refused_under_cosine),
        T(a_stopped_build_goes_on_with_the_same_type_alone),
        T(a_plan_tells_the_blocks_of_what_is_stored),
        cmocka_unit_test(queries_of_a_sample_are_its_vectors_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
