/*
 * test_tools.c - what the nightjar command computes: recall, latency percentiles, exact neighbours
 * and synthetic vectors.
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

#include "common/distance.h"
#include "common/random.h"
#include "common/vector_file.h"
#include "tests/directory_fixture.h"
#include "tools/generate.h"
#include "tools/groundtruth.h"
#include "tools/latency.h"
#include "tools/recall.h"

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char base[256];
    char queries[256];
    struct error err;
};

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

static void assert_ok(const struct fixture *fixture, enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s: %s", status_name(status), fixture->err.text);
}

static void assert_says(const struct fixture *fixture, enum status status, enum status wanted,
                        const char *words)
{
    assert_int_equal(status, wanted);
    if (strstr(fixture->err.text, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", fixture->err.text, words);
}

/* ---- recall ---- */

static void recall_counts_ids_among_the_true_k(void **state)
{
    (void)state;
    const uint32_t true_ids[] = {7, 3, 9, 1};
    const float true_distances[] = {1, 2, 3, 4};
    const uint64_t keys[] = {3, 7, 8, 1};
    const float distances[] = {2, 1, 3.5f, 4};
    assert_int_equal(recall_count(true_ids, true_distances, 4, keys, distances, 4), 3);
    /* Only the first two are true at k = 2. */
    assert_int_equal(recall_count(true_ids, true_distances, 2, keys + 2, distances + 2, 2), 0);
    assert_int_equal(recall_count(true_ids, NULL, 4, keys, distances, 4), 3);
    assert_int_equal(recall_count(true_ids, NULL, 4, keys, distances, 0), 0);
}

static void recall_accepts_ties_with_the_kth(void **state)
{
    (void)state;
    const uint32_t true_ids[] = {7, 3};
    const float true_distances[] = {1, 2};
    const uint64_t keys[] = {7, 50};
    const float distances[] = {1, 2};
    assert_int_equal(recall_count(true_ids, true_distances, 2, keys, distances, 2), 2);
    assert_int_equal(recall_count(true_ids, NULL, 2, keys, distances, 2), 1);
    const float nearby[] = {1, 2.0000002f};
    assert_int_equal(recall_count(true_ids, true_distances, 2, keys, nearby, 2), 1);
}

static void recall_counts_a_repeated_key_once(void **state)
{
    (void)state;
    const uint32_t true_ids[] = {7, 3, 5};
    const uint64_t keys[] = {7, 7, 7};
    const float distances[] = {1, 1, 1};
    assert_int_equal(recall_count(true_ids, NULL, 3, keys, distances, 3), 1);
}

static void recall_does_not_cut_64_bit_keys(void **state)
{
    (void)state;
    const uint32_t true_ids[] = {7};
    const uint64_t keys[] = {UINT64_C(0x100000007)};
    const float distances[] = {1};
    assert_int_equal(recall_count(true_ids, NULL, 1, keys, distances, 1), 0);
}

static void recall_is_the_mean_over_queries(void **state)
{
    struct fixture *fixture = *state;
    struct recall_answers answers;
    uint32_t ids[] = {1, 2, 90, 3, 4, 91};
    struct ground_truth truth = {.query_count = 2, .k = 3, .ids = ids};
    assert_ok(fixture, recall_answers_create(&answers, 2, 2, &fixture->err));
    const uint64_t keys[] = {1, 2, 4, 8};
    memcpy(answers.keys, keys, sizeof(keys));
    memset(answers.distances, 0, 4 * sizeof(float));
    answers.counts[0] = answers.counts[1] = 2;
    assert_true(recall_measure(&answers, &truth) == 0.75);
    assert_true(recall_answers_are_rows(&answers, 9));
    assert_false(recall_answers_are_rows(&answers, 8));
    answers.counts[1] = 0;
    assert_true(recall_answers_are_rows(&answers, 8));
    assert_true(recall_measure(&answers, &truth) == 0.5);
    recall_answers_destroy(&answers);
}

static void recall_leaves_absent_neighbours_out(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t none = GROUND_TRUTH_ABSENT;
    uint32_t ids[] = {1, 2, 3, 4, none, none, none, none, none};
    float distances[] = {1, 2, 3, 4, INFINITY, INFINITY, INFINITY, INFINITY, INFINITY};
    const uint64_t keys[] = {1, 2, 9, 4, 8, none, 5, 6, 7};
    /* The second query's hit 8 is as far as the one neighbour there is, but does not match. */
    const float found[] = {1, 2, 3.5f, 4, 4, 9, 1, 1, 1};
    struct ground_truth truth = {.query_count = 3, .k = 3, .ids = ids, .distances = distances};
    assert_int_equal(recall_count(ids + 3, distances + 3, 3, keys + 3, found + 3, 3), 1);
    assert_int_equal(recall_count(ids + 3, distances + 3, 1, keys + 4, found + 4, 1), 1);
    assert_int_equal(recall_count(ids + 6, distances + 6, 3, keys + 6, found + 6, 3), 0);

    struct recall_answers answers;
    assert_ok(fixture, recall_answers_create(&answers, 3, 3, &fixture->err));
    memcpy(answers.keys, keys, sizeof(keys));
    memcpy(answers.distances, found, sizeof(found));
    answers.counts[0] = answers.counts[1] = 3;
    assert_ok(fixture, recall_truth_check("gt", &truth, &answers, 5, &fixture->err));
    assert_true(recall_measure(&answers, &truth) == 0.75);
    truth.query_count = answers.query_count = 1;
    truth.ids += 6;
    assert_true(recall_measure(&answers, &truth) == 1);
    recall_answers_destroy(&answers);

    truth.ids = ids;
    truth.query_count = 2;
    assert_ok(fixture, recall_truth_complete("gt", &truth, 1, &fixture->err));
    assert_says(fixture, recall_truth_complete("gt", &truth, 2, &fixture->err), STATUS_INVALID,
                "gt: query 1 has 1 neighbours, wanted 2");
}

static void recall_within_a_radius_is_found_over_all(void **state)
{
    struct fixture *fixture = *state;
    uint64_t at[] = {0, 3, 3, 8};
    uint32_t ids[] = {5, 4, 3, 10, 11, 12, 13, 14};
    struct range_truth truth = {.query_count = 3, .at = at, .ids = ids};
    struct recall_answers answers;
    assert_ok(fixture, recall_answers_create(&answers, 3, 4, &fixture->err));
    const uint64_t keys[] = {3, 5, 99, 5, 10, 11, 12, 13, 14, 13, UINT64_C(0x10000000a), 0};
    memcpy(answers.keys, keys, sizeof(keys));
    answers.counts[0] = 4;
    answers.counts[1] = 4; /* wrong, but no query has them to find */
    answers.counts[2] = 3;
    assert_ok(fixture, recall_range_check("r", &truth, &answers, 15, &fixture->err));
    assert_true(recall_measure_range(&answers, &truth) == 0.5);
    assert_says(fixture, recall_range_check("r", &truth, &answers, 14, &fixture->err),
                STATUS_INVALID, "r: query 2 has neighbour 14, but the index has 14 vectors");
    memset(at, 0, sizeof(at));
    assert_true(recall_measure_range(&answers, &truth) == 1);
    truth.query_count = 2;
    assert_says(fixture, recall_range_check("r", &truth, &answers, 15, &fixture->err),
                STATUS_INVALID, "r: answers to 2 queries, wanted 3");
    recall_answers_destroy(&answers);
}

static void truth_of_another_base_or_query_set_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct error *err = &fixture->err;
    struct recall_answers answers = {.query_count = 2, .k = 2};
    uint32_t ids[] = {1, 2, 3, 100};
    struct ground_truth truth = {.query_count = 2, .k = 2, .ids = ids};
    assert_ok(fixture, recall_truth_check("gt", &truth, &answers, 101, err));
    assert_says(fixture, recall_truth_check("gt", &truth, &answers, 100, err), STATUS_INVALID,
                "gt: query 1 has neighbour 100, but the index has 100 vectors");
    answers.k = 3;
    assert_says(fixture, recall_truth_check("gt", &truth, &answers, 101, err), STATUS_INVALID,
                "wanted at least k = 3");
    answers.query_count = 5;
    assert_says(fixture, recall_truth_check("gt", &truth, &answers, 101, err), STATUS_INVALID,
                "neighbours of 2 queries, wanted 5");
}

/* ---- latency ---- */

static void assert_near(double got, double wanted, double relative)
{
    if (got < wanted * (1 - relative) || got > wanted * (1 + relative))
        fail_msg("%g is not within %g of %g", got, relative, wanted);
}

static void latency_quantiles_are_within_one_percent(void **state)
{
    (void)state;
    struct latency *latency = calloc(1, sizeof(*latency));
    assert_non_null(latency);
    for (uint64_t ns = 1000; ns <= 10000000; ns += 1000)
        latency_record(latency, ns);
    assert_near(latency_quantile_us(latency, 0.5), 5000, 0.01);
    assert_near(latency_quantile_us(latency, 0.99), 9900, 0.01);
    assert_near(latency_quantile_us(latency, 0.999), 9990, 0.01);
    assert_near(latency_mean_us(latency), 5000.5, 1e-9);
    free(latency);
}

static void latency_takes_any_duration(void **state)
{
    (void)state;
    struct latency *latency = calloc(1, sizeof(*latency));
    struct latency *sum = calloc(1, sizeof(*sum));
    assert_non_null(latency);
    assert_non_null(sum);
    assert_true(latency_quantile_us(latency, 0.5) == 0 && latency_mean_us(latency) == 0);
    for (uint32_t bit = 0; bit < 64; bit++) {
        latency_record(latency, UINT64_C(1) << bit);
        latency_record(latency, (UINT64_C(1) << bit) - 1);
    }
    latency_record(latency, UINT64_MAX);
    latency_merge(sum, latency);
    latency_merge(sum, latency);
    assert_int_equal(sum->count, 2 * 129);
    assert_true(latency_quantile_us(sum, 1e-9) == 0);
    assert_near(latency_quantile_us(sum, 1), 0x1p40 / 1000, 0.01);
    free(sum);
    free(latency);
}

/* ---- ground truth ---- */

static void write_rows(struct fixture *fixture, const char *path, struct vector_shape shape,
                       const void *rows)
{
    struct vector_writer *writer;
    assert_ok(fixture, vector_writer_open(path, shape, &writer, &fixture->err));
    assert_ok(fixture, vector_writer_append(writer, rows, shape.count, &fixture->err));
    assert_ok(fixture, vector_writer_finish(writer, &fixture->err));
}

/* Small integers, so that ties abound; never zero, so that cosine takes them. */
static void *random_rows(enum element_type type, uint64_t count, uint32_t dim, uint64_t seed)
{
    float *values = malloc(count * dim * sizeof(float));
    void *rows = malloc(count * dim * element_bytes(type));
    assert_non_null(values);
    assert_non_null(rows);
    for (uint64_t i = 0; i < count * dim; i++)
        values[i] = (float)(1 + random_below(seed, i, 4));
    element_from_f32(type, values, count * dim, rows);
    free(values);
    return rows;
}

struct naive_entry {
    float distance;
    uint32_t id;
};

static int naive_compare(const void *a, const void *b)
{
    const struct naive_entry *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Sorts every row by (distance, row) and compares the first k. */
static void assert_exact(const struct ground_truth *truth, const struct distance *distance,
                         const void *base, const void *queries, uint32_t count)
{
    size_t row_bytes = distance->dim * element_bytes(distance->type);
    struct naive_entry *entries = malloc(count * sizeof(*entries));
    assert_non_null(entries);
    for (uint32_t q = 0; q < truth->query_count; q++) {
        const uint8_t *query = (const uint8_t *)queries + q * row_bytes;
        float scale = distance_query_scale(distance, query);
        for (uint32_t i = 0; i < count; i++) {
            distance_rows(distance, query, scale, (const uint8_t *)base + i * row_bytes, row_bytes,
                          1, &entries[i].distance);
            entries[i].id = i;
        }
        qsort(entries, count, sizeof(*entries), naive_compare);
        for (uint32_t i = 0; i < truth->k; i++) {
            size_t at = (size_t)q * truth->k + i;
            assert_int_equal(truth->ids[at], entries[i].id);
            assert_true(truth->distances[at] == entries[i].distance);
        }
    }
    free(entries);
}

static void check_groundtruth(struct fixture *fixture, enum element_type type, enum metric metric,
                              uint32_t query_count)
{
    static const char *const suffixes[] = {[ELEMENT_U8] = "u8bin",
                                           [ELEMENT_I8] = "i8bin",
                                           [ELEMENT_F16] = "f16bin",
                                           [ELEMENT_F32] = "fbin"};
    enum { COUNT = 3001, DIM = 9 };
    struct vector_shape base_shape = {COUNT, DIM, type};
    struct vector_shape query_shape = {query_count, DIM, type};
    snprintf(fixture->base, sizeof(fixture->base), "%s/base.%s", fixture->directory,
             suffixes[type]);
    snprintf(fixture->queries, sizeof(fixture->queries), "%s/queries.%s", fixture->directory,
             suffixes[type]);
    void *base = random_rows(type, COUNT, DIM, 1);
    void *queries = random_rows(type, query_count, DIM, 2);
    write_rows(fixture, fixture->base, base_shape, base);
    write_rows(fixture, fixture->queries, query_shape, queries);

    struct distance distance;
    distance_init(&distance, type, metric, DIM);
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        struct groundtruth_params params = {.base = fixture->base,
                                            .queries = fixture->queries,
                                            .k = 37,
                                            .metric = metric,
                                            .threads = threads};
        struct ground_truth truth;
        assert_ok(fixture, groundtruth_compute(&params, &truth, &fixture->err));
        assert_exact(&truth, &distance, base, queries, COUNT);
        ground_truth_free(&truth);
    }
    free(queries);
    free(base);
}

static void groundtruth_equals_sorting_everything(void **state)
{
    for (enum metric metric = METRIC_L2; metric <= METRIC_COSINE; metric++) {
        check_groundtruth(*state, ELEMENT_U8, metric, 33);
        check_groundtruth(*state, ELEMENT_F32, metric, 9);
    }
    check_groundtruth(*state, ELEMENT_I8, METRIC_IP, 20);
    check_groundtruth(*state, ELEMENT_F16, METRIC_L2, 20);
}

/* One query leaves no queries to share out, so the rows are split and merged. */
static void groundtruth_of_one_query_is_merged_from_parts(void **state)
{
    check_groundtruth(*state, ELEMENT_U8, METRIC_L2, 1);
    check_groundtruth(*state, ELEMENT_F32, METRIC_COSINE, 2);
}

static void groundtruth_streams_within_its_budget(void **state)
{
    struct fixture *fixture = *state;
    enum { COUNT = 40000, DIM = 32, QUERIES = 10 };
    struct vector_shape base_shape = {COUNT, DIM, ELEMENT_U8};
    struct vector_shape query_shape = {QUERIES, DIM, ELEMENT_U8};
    snprintf(fixture->base, sizeof(fixture->base), "%s/base.u8bin", fixture->directory);
    snprintf(fixture->queries, sizeof(fixture->queries), "%s/queries.u8bin", fixture->directory);
    void *base = random_rows(ELEMENT_U8, COUNT, DIM, 3);
    void *queries = random_rows(ELEMENT_U8, QUERIES, DIM, 4);
    write_rows(fixture, fixture->base, base_shape, base);
    write_rows(fixture, fixture->queries, query_shape, queries);
    struct groundtruth_params params = {.base = fixture->base,
                                        .queries = fixture->queries,
                                        .k = 10,
                                        .metric = METRIC_L2,
                                        .threads = 2,
                                        .memory_bytes = 600 << 10};
    struct ground_truth truth;
    struct distance distance;
    distance_init(&distance, ELEMENT_U8, METRIC_L2, DIM);
    assert_ok(fixture, groundtruth_compute(&params, &truth, &fixture->err));
    assert_exact(&truth, &distance, base, queries, COUNT);
    ground_truth_free(&truth);

    params.memory_bytes = 100 << 10;
    assert_says(fixture, groundtruth_compute(&params, &truth, &fixture->err), STATUS_NO_MEMORY,
                "too small for 10 queries with k 10: at least");
    params.memory_bytes = 0;
    params.k = COUNT + 1;
    assert_says(fixture, groundtruth_compute(&params, &truth, &fixture->err), STATUS_INVALID,
                "k is 40001, wanted 1 to 10000");
    free(queries);
    free(base);
}

static void groundtruth_refuses_files_that_do_not_match(void **state)
{
    struct fixture *fixture = *state;
    struct vector_shape base_shape = {20, 4, ELEMENT_U8};
    struct vector_shape query_shape = {2, 5, ELEMENT_U8};
    snprintf(fixture->base, sizeof(fixture->base), "%s/base.u8bin", fixture->directory);
    snprintf(fixture->queries, sizeof(fixture->queries), "%s/queries.u8bin", fixture->directory);
    void *rows = random_rows(ELEMENT_U8, 20, 5, 5);
    write_rows(fixture, fixture->base, base_shape, rows);
    write_rows(fixture, fixture->queries, query_shape, rows);
    struct groundtruth_params params = {.base = fixture->base,
                                        .queries = fixture->queries,
                                        .k = 10,
                                        .metric = METRIC_L2,
                                        .threads = 1};
    struct ground_truth truth;
    assert_says(fixture, groundtruth_compute(&params, &truth, &fixture->err), STATUS_INVALID,
                "u8 vectors of 5 dimensions");
    params.queries = params.base;
    params.k = 21;
    assert_says(fixture, groundtruth_compute(&params, &truth, &fixture->err), STATUS_INVALID,
                "has only 20 rows");
    memset(rows, 0, 20);
    write_rows(fixture, fixture->base, base_shape, rows);
    params.k = 1;
    params.metric = METRIC_COSINE;
    assert_says(fixture, groundtruth_compute(&params, &truth, &fixture->err), STATUS_INVALID,
                "row 0 is a zero vector");
    assert_null(truth.ids);
    free(rows);
}

/* ---- synthetic vectors ---- */

static struct generator *create_generator(struct fixture *fixture, struct generate_params params)
{
    struct generator *generator;
    assert_ok(fixture, generator_create(&params, &generator, &fixture->err));
    return generator;
}

static const struct generate_params small_params = {
    .dim = 24, .type = ELEMENT_F32, .seed = 5, .clusters = 20, .intrinsic_dim = 6};

static void generated_rows_depend_on_their_number_only(void **state)
{
    struct generator *generator = create_generator(*state, small_params);
    float whole[50 * 24], part[10 * 24];
    generator_rows(generator, GENERATE_BASE, 0, 50, whole);
    generator_rows(generator, GENERATE_BASE, 17, 10, part);
    assert_memory_equal(part, whole + 17 * 24, sizeof(part));
    generator_rows(generator, GENERATE_QUERIES, 17, 10, part);
    assert_memory_not_equal(part, whole + 17 * 24, sizeof(part));
    generator_destroy(generator);
}

static void another_seed_gives_other_vectors(void **state)
{
    struct generate_params params = small_params;
    float one[24], two[24];
    struct generator *generator = create_generator(*state, params);
    generator_rows(generator, GENERATE_BASE, 0, 1, one);
    generator_destroy(generator);
    params.seed++;
    generator = create_generator(*state, params);
    generator_rows(generator, GENERATE_BASE, 0, 1, two);
    generator_destroy(generator);
    assert_memory_not_equal(one, two, sizeof(one));
}

static void generated_files_do_not_depend_on_threads(void **state)
{
    struct fixture *fixture = *state;
    struct generate_params params = small_params;
    params.type = ELEMENT_U8;
    struct generator *generator = create_generator(fixture, params);
    void *rows[2];
    for (int i = 0; i < 2; i++) {
        struct vector_shape shape;
        snprintf(fixture->base, sizeof(fixture->base), "%s/%d.u8bin", fixture->directory, i);
        const struct generate_output output = {.path = fixture->base,
                                               .stream = GENERATE_BASE,
                                               .count = 70000, /* more than a batch */
                                               .threads = i == 0 ? 1 : 3};
        assert_ok(fixture, generate_file(generator, &output, &fixture->err));
        assert_ok(fixture,
                  vector_file_load(fixture->base, UINT64_MAX, &shape, &rows[i], &fixture->err));
        assert_int_equal(shape.count, 70000);
        assert_int_equal(shape.dim, 24);
    }
    assert_memory_equal(rows[0], rows[1], 70000 * 24);
    free(rows[0]);
    free(rows[1]);
    generator_destroy(generator);
}

static double length_of(const float *row)
{
    double squares = 0;
    for (int d = 0; d < 24; d++)
        squares += (double)row[d] * (double)row[d];
    return __builtin_sqrt(squares);
}

/* The logarithms of what rows are multiplied by are normal; their directions stay, and queries. */
static void generated_lengths_are_log_normal(void **state)
{
    enum { ROWS = 2000, DIM = 24 };
    static float plain[ROWS * DIM], rows[ROWS * DIM], squared[ROWS * DIM], part[10 * DIM];
    struct generate_params params = small_params;
    struct generator *generator = create_generator(*state, params);
    params.lengths = 1.5;
    struct generator *stretching = create_generator(*state, params);
    params.lengths = 3;
    struct generator *twice = create_generator(*state, params);
    generator_rows(generator, GENERATE_BASE, 0, ROWS, plain);
    generator_rows(stretching, GENERATE_BASE, 0, ROWS, rows);
    generator_rows(twice, GENERATE_BASE, 0, ROWS, squared);
    double sum = 0, squares = 0;
    for (int i = 0; i < ROWS; i++) {
        double factor = length_of(rows + i * DIM) / length_of(plain + i * DIM);
        for (int d = 0; d < DIM; d++)
            assert_near((double)rows[i * DIM + d] / (double)plain[i * DIM + d], factor, 1e-5);
        assert_near(length_of(squared + i * DIM) / length_of(plain + i * DIM), factor * factor,
                    1e-5);
        sum += log(factor);
        squares += log(factor) * log(factor);
    }
    assert_true(fabs(sum / ROWS) < 0.15);
    assert_near(squares / ROWS, 1.5 * 1.5, 0.1);
    generator_rows(stretching, GENERATE_BASE, 17, 10, part);
    assert_memory_equal(part, rows + 17 * DIM, sizeof(part));
    generator_rows(generator, GENERATE_QUERIES, 0, 10, plain);
    generator_rows(stretching, GENERATE_QUERIES, 0, 10, rows);
    assert_memory_equal(rows, plain, sizeof(part));
    generator_destroy(twice);
    generator_destroy(stretching);
    generator_destroy(generator);
}

/* Integers use their range without piling up at its ends; floats are finite and centred. */
static void generated_values_suit_their_type(void **state)
{
    enum { ROWS = 2000, DIM = 24 };
    for (enum element_type type = ELEMENT_U8; type <= ELEMENT_F32; type++) {
        for (int uniform = 0; uniform < 2; uniform++) {
            struct generate_params params = small_params;
            params.type = type;
            params.distribution = uniform ? GENERATE_UNIFORM : GENERATE_CLUSTERED;
            struct generator *generator = create_generator(*state, params);
            static uint8_t rows[ROWS * DIM * 4];
            static float values[ROWS * DIM];
            generator_rows(generator, GENERATE_BASE, 0, ROWS, rows);
            generator_destroy(generator);
            assert_true(element_all_finite(type, rows, ROWS * DIM, NULL));
            element_to_f32(type, rows, ROWS * DIM, values);
            bool integer = type == ELEMENT_U8 || type == ELEMENT_I8;
            float low = type == ELEMENT_U8 ? 0 : -128, high = type == ELEMENT_U8 ? 255 : 127;
            size_t ends = 0;
            double sum = 0, squares = 0;
            for (size_t i = 0; i < ROWS * DIM; i++) {
                ends += integer && (values[i] == low || values[i] == high);
                double centred = (double)values[i] - (integer ? (double)(low + high) / 2 : 0);
                sum += centred;
                squares += centred * centred;
            }
            double deviation = __builtin_sqrt(squares / (ROWS * DIM));
            double unit = integer ? (uniform ? 74 : 42) : (uniform ? 0.58 : 1.2);
            assert_near(deviation, unit, 0.3);
            assert_true(sum / (ROWS * DIM) < unit / 3 && sum / (ROWS * DIM) > -unit / 3);
            assert_true(ends < ROWS * DIM / 50);
        }
    }
}

/* Neighbours mean something in the clustered data: they are much nearer than a random pair, which
 * they are not in uniform data of the same dimension. */
static void clustered_vectors_have_contrast(void **state)
{
    enum { ROWS = 1000, DIM = 64 };
    static float rows[ROWS * DIM], out[ROWS];
    double contrast[2];
    for (int uniform = 0; uniform < 2; uniform++) {
        struct generate_params params = small_params;
        params.dim = DIM;
        params.distribution = uniform ? GENERATE_UNIFORM : GENERATE_CLUSTERED;
        struct generator *generator = create_generator(*state, params);
        generator_rows(generator, GENERATE_BASE, 0, ROWS, rows);
        generator_destroy(generator);
        struct distance distance;
        distance_init(&distance, ELEMENT_F32, METRIC_L2, DIM);
        double nearest = 0, all = 0;
        for (int q = 0; q < 50; q++) {
            distance_rows(&distance, rows + q * DIM, 0, rows, DIM * sizeof(float), ROWS, out);
            float best = 0;
            for (int i = 0; i < ROWS; i++) {
                all += (double)out[i];
                if (i != q && (best == 0 || out[i] < best))
                    best = out[i];
            }
            nearest += (double)best * ROWS;
        }
        contrast[uniform] = all / nearest;
    }
    assert_true(contrast[0] > 2 * contrast[1]);
}

static void generator_refuses_bad_shapes(void **state)
{
    struct fixture *fixture = *state;
    struct generate_params params = small_params;
    struct generator *generator = NULL;
    params.dim = 0;
    assert_says(fixture, generator_create(&params, &generator, &fixture->err), STATUS_INVALID,
                "dimension is 0");
    params = small_params;
    params.type = ELEMENT_I32;
    assert_says(fixture, generator_create(&params, &generator, &fixture->err), STATUS_INVALID,
                "element type is i32");
    params = small_params;
    params.clusters = 0;
    assert_says(fixture, generator_create(&params, &generator, &fixture->err), STATUS_INVALID,
                "cluster count is 0");
    params = small_params;
    params.intrinsic_dim = 0;
    assert_says(fixture, generator_create(&params, &generator, &fixture->err), STATUS_INVALID,
                "intrinsic dimension is 0");
    static const double sigmas[] = {-0.5, 10.5, NAN};
    for (size_t i = 0; i < ARRAY_LENGTH(sigmas); i++) {
        params = small_params;
        params.lengths = sigmas[i];
        assert_says(fixture, generator_create(&params, &generator, &fixture->err), STATUS_INVALID,
                    "sigma of lengths is");
    }
    params.lengths = 1;
    params.type = ELEMENT_F16;
    assert_says(fixture, generator_create(&params, &generator, &fixture->err), STATUS_INVALID,
                "sigma of lengths is 1 of f16, wanted f32");
    assert_null(generator);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recall_counts_ids_among_the_true_k),
        cmocka_unit_test(recall_accepts_ties_with_the_kth),
        cmocka_unit_test(recall_counts_a_repeated_key_once),
        cmocka_unit_test_setup_teardown(recall_leaves_absent_neighbours_out, setup, teardown),
        cmocka_unit_test_setup_teardown(recall_within_a_radius_is_found_over_all, setup, teardown),
        cmocka_unit_test(recall_does_not_cut_64_bit_keys),
        cmocka_unit_test_setup_teardown(recall_is_the_mean_over_queries, setup, teardown),
        cmocka_unit_test_setup_teardown(truth_of_another_base_or_query_set_is_refused, setup,
                                        teardown),
        cmocka_unit_test(latency_quantiles_are_within_one_percent),
        cmocka_unit_test(latency_takes_any_duration),
        cmocka_unit_test_setup_teardown(groundtruth_equals_sorting_everything, setup, teardown),
        cmocka_unit_test_setup_teardown(groundtruth_of_one_query_is_merged_from_parts, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(groundtruth_streams_within_its_budget, setup, teardown),
        cmocka_unit_test_setup_teardown(groundtruth_refuses_files_that_do_not_match, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(generated_rows_depend_on_their_number_only, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(another_seed_gives_other_vectors, setup, teardown),
        cmocka_unit_test_setup_teardown(generated_files_do_not_depend_on_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(generated_lengths_are_log_normal, setup, teardown),
        cmocka_unit_test_setup_teardown(generated_values_suit_their_type, setup, teardown),
        cmocka_unit_test_setup_teardown(clustered_vectors_have_contrast, setup, teardown),
        cmocka_unit_test_setup_teardown(generator_refuses_bad_shapes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
