/*
 * test_sample.c - sample.bin: what is encoded decodes, for every element type and metric; each
 * broken field, array and length is refused, and nothing is read past the end.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout/sample.h"

enum {
    COUNT = 3,
    K = 4,
    DIM = 5,
    HEADER = 64,
    TRUTH_KEYS = HEADER + COUNT * 8,
    NODES = TRUTH_KEYS + COUNT * K * 8,
    PADDING = NODES + COUNT * 4,
    DISTANCES = PADDING + 4,
    VECTORS = DISTANCES + COUNT * K * 4,
};

static const uint64_t own_keys[COUNT] = {7, UINT64_MAX, 0};
static const uint32_t own_nodes[COUNT] = {12, 0, 3};
static const uint64_t truth_keys[COUNT * K] = {9, 1, 2, 3, 5, 6, 0, 9, 8, 7, 6, UINT64_MAX};
/* Equal ones are ordered by key. */
static const float truth_distances[COUNT * K] = {-1, 0, 0, 2, 3, 3, 4, 5, -9, -8, -7, 1e30f};

static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};

/* Vectors of elements 1, 2, 3, ... in `vectors`. */
static struct sample sample_make(enum element_type type, enum metric metric, uint8_t *vectors)
{
    float values[COUNT * DIM];
    for (int i = 0; i < COUNT * DIM; i++)
        values[i] = (float)(1 + i);
    element_from_f32(type, values, COUNT * DIM, vectors);
    return (struct sample){
        COUNT, K, DIM, type, metric, own_keys, own_nodes, truth_keys, truth_distances, vectors};
}

static size_t bytes_of(enum element_type type)
{
    return VECTORS + COUNT * DIM * element_bytes(type);
}

/* Of its exact length, so that ASan sees a read past it. */
static uint8_t *image_make(enum element_type type, enum metric metric)
{
    uint8_t vectors[COUNT * DIM * sizeof(float)];
    const struct sample sample = sample_make(type, metric, vectors);
    uint8_t *image = malloc(bytes_of(type));
    assert_non_null(image);
    assert_int_equal(sample_bytes(COUNT, K, (uint32_t)(DIM * element_bytes(type))), bytes_of(type));
    sample_encode(&sample, image);
    return image;
}

static void sample_round_trips_for_every_type_and_metric(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            uint8_t vectors[COUNT * DIM * sizeof(float)];
            const size_t vector_bytes = DIM * element_bytes(types[t]);
            (void)sample_make(types[t], metrics[m], vectors);
            uint8_t *image = image_make(types[t], metrics[m]);
            struct sample sample;
            struct error err;
            assert_int_equal(sample_decode(image, bytes_of(types[t]), &sample, &err), STATUS_OK);
            assert_int_equal(sample.count, COUNT);
            assert_int_equal(sample.k, K);
            assert_int_equal(sample.dim, DIM);
            assert_int_equal(sample.type, types[t]);
            assert_int_equal(sample.metric, metrics[m]);
            for (uint32_t i = 0; i < COUNT; i++) {
                const struct sample_query query = sample_query_at(&sample, i);
                assert_true(query.own_key == own_keys[i]);
                assert_int_equal(query.own_node, own_nodes[i]);
                assert_memory_equal(query.vector, vectors + i * vector_bytes, vector_bytes);
                assert_memory_equal(query.truth_keys, truth_keys + i * K, K * sizeof(uint64_t));
                assert_memory_equal(query.truth_distances, truth_distances + i * K,
                                    K * sizeof(float));
            }
            assert_memory_equal(image, "NJSM", 4);
            free(image);
        }
}

static void sample_of_a_lone_vector_has_no_neighbours(void **state)
{
    (void)state;
    const uint8_t vector[DIM] = {1, 2, 3};
    const struct sample lone = {
        .count = 1,
        .dim = DIM,
        .type = ELEMENT_U8,
        .metric = METRIC_L2,
        .own_keys = own_keys,
        .own_nodes = own_nodes,
        .vectors = vector,
    };
    uint8_t *image = malloc(HEADER + 16 + DIM);
    assert_non_null(image);
    sample_encode(&lone, image);
    struct sample sample;
    struct error err;
    assert_int_equal(sample_decode(image, HEADER + 16 + DIM, &sample, &err), STATUS_OK);
    assert_int_equal(sample.k, 0);
    assert_int_equal(sample_query_at(&sample, 0).own_node, own_nodes[0]);
    assert_memory_equal(sample_query_at(&sample, 0).vector, vector, DIM);
    free(image);
}

/* `value` at byte `at` of a good image of f32 is refused, and *out is left alone. */
static void expect_refused(size_t at, const void *value, size_t bytes, enum status wanted,
                           const char *words)
{
    uint8_t *image = image_make(ELEMENT_F32, METRIC_L2);
    struct sample sample = {.count = 77};
    struct error err = {0};
    memcpy(image + at, value, bytes);
    const enum status status = sample_decode(image, bytes_of(ELEMENT_F32), &sample, &err);
    if (status != wanted || strstr(err.text, words) == NULL)
        fail_msg("byte %zu: wanted \"%s\", got %s: \"%s\"", at, words, status_name(status),
                 err.text);
    assert_int_equal(sample.count, 77);
    free(image);
}

static void sample_rejects_each_broken_word_of_its_header(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint32_t value;
        enum status status;
        const char *words;
    } cases[] = {
        {0, 1, STATUS_CORRUPT, "magic"},
        {4, 1, STATUS_UNSUPPORTED, "version 1, this build reads 2"},
        {4, 3, STATUS_UNSUPPORTED, "version 3"},
        {8, 0, STATUS_CORRUPT, "count is 0"},
        {8, COUNT + 1, STATUS_CORRUPT, "take"},
        {8, COUNT - 1, STATUS_CORRUPT, "take"},
        {8, SAMPLE_COUNT_MAX + 1, STATUS_CORRUPT, "count is 65537"},
        {8, UINT32_MAX, STATUS_CORRUPT, "count"},
        {12, K + 1, STATUS_CORRUPT, "take"},
        {12, 0, STATUS_CORRUPT, "take"},
        {12, SAMPLE_K_MAX + 1, STATUS_CORRUPT, "k is 1024"},
        {12, UINT32_MAX, STATUS_CORRUPT, "k is"},
        {16, 0, STATUS_CORRUPT, "dim is 0"},
        {16, DIM + 1, STATUS_CORRUPT, "take"},
        {16, VECTOR_DIM_MAX + 1, STATUS_CORRUPT, "dim is 8193"},
        {20, 0, STATUS_CORRUPT, "element type is 0"},
        {20, ELEMENT_I32, STATUS_CORRUPT, "element type is 5"},
        {20, UINT32_MAX, STATUS_CORRUPT, "element type"},
        {20, ELEMENT_F16, STATUS_CORRUPT, "take"},
        {24, 0, STATUS_CORRUPT, "metric is 0"},
        {24, 4, STATUS_CORRUPT, "metric is 4"},
        {28, 1, STATUS_CORRUPT, "reserved"},
        {60, 1u << 31, STATUS_CORRUPT, "reserved"},
        {PADDING, 1, STATUS_CORRUPT, "reserved"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        expect_refused(cases[i].at, &cases[i].value, 4, cases[i].status, cases[i].words);
}

static void sample_rejects_truth_that_is_none(void **state)
{
    (void)state;
    const float nan = NAN;
    const float infinity = INFINITY;
    const float farther = 2.5f;
    const float equal = 3;
    const uint64_t itself = 0; /* of the last query */
    const uint64_t repeated = 5;
    expect_refused(DISTANCES, &nan, 4, STATUS_CORRUPT, "neighbour 0 of query 0 is not finite");
    expect_refused(VECTORS - 4, &infinity, 4, STATUS_CORRUPT,
                   "neighbour 3 of query 2 is not finite");
    expect_refused(DISTANCES + 4 * 2, &farther, 4, STATUS_CORRUPT,
                   "neighbour 3 of query 0 is not behind");
    /* Neighbours 1 and 2 of query 1 are then as far, and of keys 6 and 0. */
    expect_refused(DISTANCES + 4 * (K + 2), &equal, 4, STATUS_CORRUPT,
                   "neighbour 2 of query 1 is not behind");
    expect_refused(TRUTH_KEYS + 8 * (K + 1), &repeated, 8, STATUS_CORRUPT,
                   "neighbour 1 of query 1 is not behind");
    expect_refused(TRUTH_KEYS + 8 * (2 * K + 2), &itself, 8, STATUS_CORRUPT,
                   "neighbour 2 of query 2 is the query itself");
    expect_refused(VECTORS + 4 * DIM, &nan, 4, STATUS_CORRUPT, "vector of query 1 is not finite");
    expect_refused(VECTORS + 4 * (COUNT * DIM - 1), &infinity, 4, STATUS_CORRUPT,
                   "vector of query 2 is not finite");
}

static void sample_nodes_are_of_the_index(void **state)
{
    (void)state;
    uint8_t *image = image_make(ELEMENT_F32, METRIC_L2);
    struct sample sample;
    struct error err = {0};
    assert_int_equal(sample_decode(image, bytes_of(ELEMENT_F32), &sample, &err), STATUS_OK);
    assert_int_equal(sample_nodes_check(&sample, 13, &err), STATUS_OK);
    assert_int_equal(sample_nodes_check(&sample, 12, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "the node of query 0 is 12, there are 12"));
    free(image);
}

static void sample_rejects_every_other_length(void **state)
{
    (void)state;
    uint8_t *image = image_make(ELEMENT_U8, METRIC_COSINE);
    const size_t bytes = bytes_of(ELEMENT_U8);
    struct sample sample;
    for (size_t length = 0; length <= bytes + 9; length++) {
        uint8_t *exact = calloc(length + 1, 1);
        assert_non_null(exact);
        memcpy(exact, image, MIN(length, bytes));
        assert_int_equal(sample_decode(exact, length, &sample, NULL),
                         length == bytes ? STATUS_OK : STATUS_CORRUPT);
        free(exact);
    }
    free(image);
}

static void sample_bytes_do_not_wrap(void **state)
{
    (void)state;
    const uint64_t query = 8 + UINT64_C(12) * SAMPLE_K_MAX + VECTOR_DIM_MAX * 4;
    assert_true(sample_bytes(SAMPLE_COUNT_MAX, SAMPLE_K_MAX, VECTOR_DIM_MAX * 4) ==
                64 + SAMPLE_COUNT_MAX * (4 + query));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sample_round_trips_for_every_type_and_metric),
        cmocka_unit_test(sample_of_a_lone_vector_has_no_neighbours),
        cmocka_unit_test(sample_rejects_each_broken_word_of_its_header),
        cmocka_unit_test(sample_rejects_truth_that_is_none),
        cmocka_unit_test(sample_nodes_are_of_the_index),
        cmocka_unit_test(sample_rejects_every_other_length),
        cmocka_unit_test(sample_bytes_do_not_wrap),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
