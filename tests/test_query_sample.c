/*
 * test_query_sample.c - the sample of queries that a build makes: the truth of each against a plain
 * search over the input, for every element type and metric; the same bytes however it was made.
 */
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/query_sample.h"
#include "common/distance.h"
#include "common/memory.h"
#include "common/random.h"
#include "layout/sample.h"
#include "tests/build_fixture.h"

static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
static const struct work_piece piece = {BUILD_STAGE_SAMPLE, WORK_WHOLE};

/* ---- the truth ---- */

struct base {
    struct vector_shape shape;
    const uint8_t *rows;  /* packed */
    const uint64_t *keys; /* NULL: key = row */
};

static uint64_t key_of(const struct base *base, uint32_t row)
{
    return base->keys != NULL ? base->keys[row] : row;
}

struct entry {
    float distance;
    uint64_t key;
};

static int entry_compare(const void *a, const void *b)
{
    const struct entry *x = a;
    const struct entry *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->key > y->key) - (x->key < y->key);
}

static uint32_t row_of_key(const struct base *base, uint64_t key)
{
    for (uint32_t row = 0; row < base->shape.count; row++)
        if (key_of(base, row) == key)
            return row;
    fail_msg("no row has the key %llu", (unsigned long long)key);
    return 0;
}

/* The query is a row of the input, and its truth what comparing it with all others gives. */
static uint32_t query_expect_true(const struct base *base, const struct sample *sample, uint32_t i)
{
    const size_t row_bytes = base->shape.dim * element_bytes(base->shape.type);
    const struct sample_query query = sample_query_at(sample, i);
    const uint32_t own = row_of_key(base, query.own_key);
    struct entry *entries = calloc(base->shape.count, sizeof(*entries));
    struct distance distance;
    uint32_t found = 0;
    assert_non_null(entries);
    assert_memory_equal(query.vector, base->rows + own * row_bytes, row_bytes);
    distance_init(&distance, base->shape.type, sample->metric, base->shape.dim);
    const float scale = distance_query_scale(&distance, query.vector);
    for (uint32_t row = 0; row < base->shape.count; row++) {
        if (row == own)
            continue;
        distance_rows(&distance, query.vector, scale, base->rows + row * row_bytes, row_bytes, 1,
                      &entries[found].distance);
        entries[found++].key = key_of(base, row);
    }
    qsort(entries, found, sizeof(*entries), entry_compare);
    for (uint32_t n = 0; n < sample->k; n++) {
        assert_true(query.truth_keys[n] == entries[n].key);
        assert_true(query.truth_distances[n] == entries[n].distance);
    }
    free(entries);
    return own;
}

static void sample_expect_true(const struct base *base, enum metric metric,
                               const struct sample *sample)
{
    const uint64_t count = base->shape.count;
    uint8_t *chosen = calloc(count, 1);
    assert_non_null(chosen);
    assert_int_equal(sample->count, MAX(1u, MIN(count / 2, 500u)));
    assert_int_equal(sample->k, MIN(count - 1, 100u));
    assert_int_equal(sample->dim, base->shape.dim);
    assert_int_equal(sample->type, base->shape.type);
    assert_int_equal(sample->metric, metric);
    for (uint32_t i = 0; i < sample->count; i++) {
        const uint32_t row = query_expect_true(base, sample, i);
        assert_int_equal(chosen[row]++, 0);
    }
    free(chosen);
}

/* ---- the stage by itself ---- */

struct image {
    uint8_t *bytes;
    size_t length;
    struct sample sample;
};

static void image_free(struct image *image)
{
    free(image->bytes);
}

/* How the stage is run. */
struct variant {
    enum metric metric;
    uint64_t seed;
    uint32_t threads;
    size_t piece_bytes;
    const atomic_int *cancel;
};

static const struct variant plain = {.metric = METRIC_L2, .seed = 1, .threads = 2};

static enum status stage_run(const struct build_fixture *f, const struct variant *variant,
                             bool keys, struct work *work, struct error *err)
{
    struct vector_file *file = NULL;
    struct build_stage_record cost = {0};
    const struct build_monitor monitor = {.cancel = variant->cancel};
    fixture_must(vector_file_open(f->input, &file, err), err);
    const struct query_sample_params params = {
        .file = file,
        .keys = keys ? f->keys : NULL,
        .metric = variant->metric,
        .seed = variant->seed,
        .piece_bytes = variant->piece_bytes,
    };
    const int threads = omp_get_max_threads();
    omp_set_num_threads((int)variant->threads);
    const enum status status = query_sample_run(&params, work, &monitor, &cost, err);
    omp_set_num_threads(threads);
    vector_file_close(file);
    return status;
}

static struct work *work_make(const struct build_fixture *f)
{
    struct work *work = NULL;
    struct error err = {0};
    fixture_must(work_open(f->work, "a test\n", WORK_ALONE, &work, &err), &err);
    return work;
}

static struct image image_read(const char *path)
{
    struct image image = {0};
    struct error err = {0};
    image.bytes = fixture_read(path, &image.length);
    fixture_must(sample_decode(image.bytes, image.length, &image.sample, &err), &err);
    return image;
}

static struct image image_make(const struct build_fixture *f, const struct variant *variant,
                               bool keys)
{
    struct error err = {0};
    struct work *work = work_make(f);
    fixture_must(stage_run(f, variant, keys, work, &err), &err);
    assert_true(work_piece_done(work, piece));
    struct query_sample_info info = {0};
    fixture_must(work_piece_read(work, piece, &info, sizeof(info), NULL, &err), &err);
    struct image image = image_read(fixture_path(f->work, "sample.image"));
    assert_int_equal(info.count, image.sample.count);
    assert_int_equal(info.k, image.sample.k);
    work_remove(work);
    return image;
}

static void expect_same(const struct image *found, const struct image *wanted)
{
    assert_int_equal(found->length, wanted->length);
    assert_memory_equal(found->bytes, wanted->bytes, wanted->length);
}

static void input_expect_true(struct build_fixture *f, const struct base *base,
                              const struct variant *variant)
{
    struct image image = image_make(f, variant, base->keys != NULL);
    assert_int_equal(image.length, query_sample_bytes(&base->shape));
    sample_expect_true(base, variant->metric, &image.sample);
    image_free(&image);
}

/* Not in the rows' order, and beyond 32 bits. */
static uint64_t *keys_make(const struct build_fixture *f, uint32_t count)
{
    uint64_t *keys = calloc(count, sizeof(*keys));
    assert_non_null(keys);
    for (uint32_t i = 0; i < count; i++)
        keys[i] = (UINT64_C(1) << 50) + i * UINT64_C(7919) % 1000003;
    build_fixture_write_keys(f, keys, count);
    return keys;
}

static void sample_of_every_type_and_metric_has_its_exact_neighbors(void **state)
{
    struct build_fixture *f = *state;
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++) {
        const struct vector_shape shape = {.count = 1100, .dim = 13, .type = types[t]};
        uint8_t *rows = build_fixture_input(f, types[t], 1100, 13);
        uint64_t *keys = keys_make(f, 1100);
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            const struct base base = {shape, rows, m == 0 ? NULL : keys};
            struct variant variant = plain;
            variant.metric = metrics[m];
            input_expect_true(f, &base, &variant);
        }
        free(keys);
        free(rows);
    }
}

static void sample_among_copies_goes_by_key(void **state)
{
    struct build_fixture *f = *state;
    enum { COUNT = 900, DIM = 3 };
    uint8_t rows[COUNT * DIM];
    uint64_t *keys = keys_make(f, COUNT);
    for (size_t i = 0; i < sizeof(rows); i++)
        rows[i] = (uint8_t)(1 + random_below(3, i, 2)); /* eight vectors, of 112 copies or so */
    const struct base base = {{COUNT, DIM, ELEMENT_U8}, rows, keys};
    build_fixture_write(f, base.shape, rows);
    for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
        struct variant variant = plain;
        variant.metric = metrics[m];
        variant.piece_bytes = 300;
        input_expect_true(f, &base, &variant);
    }
    free(keys);
}

static void sample_of_few_rows_has_all_others(void **state)
{
    struct build_fixture *f = *state;
    static const uint32_t counts[] = {1, 2, 3, 4, 60, 100, 101, 102, 999, 1001};
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        uint8_t *rows = build_fixture_input(f, ELEMENT_U8, counts[i], 5);
        const struct base base = {{counts[i], 5, ELEMENT_U8}, rows, NULL};
        input_expect_true(f, &base, &plain);
        free(rows);
    }
}

static void sample_is_the_same_at_any_thread_count_and_piece(void **state)
{
    struct build_fixture *f = *state;
    static const struct variant variants[] = {{METRIC_L2, 1, 1, 0, NULL},
                                              {METRIC_L2, 1, 2, 0, NULL},
                                              {METRIC_L2, 1, 5, 1, NULL},
                                              {METRIC_L2, 1, 3, 64, NULL},
                                              {METRIC_L2, 1, 2, 1000, NULL}};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++) {
        free(build_fixture_input(f, types[t], 1500, 10));
        struct image wanted = image_make(f, &plain, false);
        for (size_t i = 0; i < ARRAY_LENGTH(variants); i++) {
            struct image found = image_make(f, &variants[i], false);
            expect_same(&found, &wanted);
            image_free(&found);
        }
        struct variant other = plain;
        other.seed = 2;
        struct image another = image_make(f, &other, false);
        assert_memory_not_equal(another.sample.own_keys, wanted.sample.own_keys,
                                wanted.sample.count * sizeof(uint64_t));
        image_free(&another);
        image_free(&wanted);
    }
}

/* ---- what stops it ---- */

static void sample_that_was_stopped_is_made_anew(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    const atomic_int cancel = 1;
    struct variant stopped = plain;
    free(build_fixture_input(f, ELEMENT_U8, 1200, 9));
    struct image wanted = image_make(f, &plain, false);
    struct work *work = work_make(f);
    stopped.cancel = &cancel;
    assert_int_equal(stage_run(f, &stopped, false, work, &err), STATUS_CANCELLED);
    assert_false(work_piece_done(work, piece));
    work_close(work);
    struct image found = image_make(f, &plain, false);
    expect_same(&found, &wanted);
    image_free(&found);
    image_free(&wanted);
}

/* All but the last rows have been compared when they turn out to be gone. */
static void sample_that_fails_on_its_last_rows_is_made_anew(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    struct vector_file *file = NULL;
    struct build_stage_record cost = {0};
    const struct build_monitor monitor = {0};
    const uint32_t count = 3000;
    free(build_fixture_input(f, ELEMENT_U8, count, 9));
    struct image wanted = image_make(f, &plain, false);
    /* The queries themselves are read first. */
    for (uint32_t i = 0; i < wanted.sample.count; i++)
        assert_true(wanted.sample.own_keys[i] != count - 1);
    struct work *work = work_make(f);
    fixture_must(vector_file_open(f->input, &file, &err), &err);
    assert_int_equal(truncate(f->input, (off_t)fixture_length(f->input) - 1), 0);
    const struct query_sample_params params = {
        .file = file, .metric = METRIC_L2, .seed = 1, .piece_bytes = 64};
    assert_int_not_equal(query_sample_run(&params, work, &monitor, &cost, &err), STATUS_OK);
    assert_non_null(strstr(err.text, "base.u8bin"));
    assert_false(work_piece_done(work, piece));
    vector_file_close(file);
    work_close(work);
    free(build_fixture_input(f, ELEMENT_U8, count, 9));
    struct image found = image_make(f, &plain, false);
    expect_same(&found, &wanted);
    image_free(&found);
    image_free(&wanted);
}

/* ---- in a build ---- */

static struct image image_of_build(struct build_fixture *f, const struct build_params *params)
{
    struct build_summary summary;
    build_fixture_build(params, &summary);
    (void)build_fixture_digest(f->output);
    struct image image = image_read(fixture_path(f->output, "sample.bin"));
    assert_int_equal(summary.manifest.sample_count, image.sample.count);
    assert_int_equal(summary.manifest.sample_k, image.sample.k);
    for (uint32_t i = 0; i < image.sample.count; i++)
        assert_int_equal(image.sample.own_nodes[i],
                         build_fixture_node_of(f->output, image.sample.own_keys[i]));
    build_fixture_clear(f);
    return image;
}

static void build_stores_the_sample_whatever_its_shards(void **state)
{
    struct build_fixture *f = *state;
    for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
        uint8_t *rows = build_fixture_input(f, ELEMENT_F32, 900, 12);
        uint64_t *keys = keys_make(f, 900);
        const struct base base = {{900, 12, ELEMENT_F32}, rows, keys};
        struct build_params params = build_fixture_params(f);
        params.metric = metrics[m];
        params.keys = f->keys;
        params.shards = 1;
        struct image one = image_of_build(f, &params);
        sample_expect_true(&base, metrics[m], &one.sample);
        params.shards = 3;
        params.threads = 1;
        params.replication = 1.5;
        struct image three = image_of_build(f, &params);
        sample_expect_true(&base, metrics[m], &three.sample);
        assert_memory_equal(three.sample.own_keys, one.sample.own_keys,
                            one.sample.count * sizeof(uint64_t));
        image_free(&one);
        image_free(&three);
        free(keys);
        free(rows);
    }
}

static void build_of_a_lone_vector_has_a_query_without_neighbors(void **state)
{
    struct build_fixture *f = *state;
    const uint8_t row[4] = {1, 2, 3, 4};
    build_fixture_write(f, (struct vector_shape){1, 4, ELEMENT_U8}, row);
    struct build_params params = build_fixture_params(f);
    struct image image = image_of_build(f, &params);
    assert_int_equal(image.sample.count, 1);
    assert_int_equal(image.sample.k, 0);
    assert_memory_equal(image.sample.vectors, row, sizeof(row));
    image_free(&image);
}

int main(void)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(sample_of_every_type_and_metric_has_its_exact_neighbors),
        CASE(sample_among_copies_goes_by_key),
        CASE(sample_of_few_rows_has_all_others),
        CASE(sample_is_the_same_at_any_thread_count_and_piece),
        CASE(sample_that_was_stopped_is_made_anew),
        CASE(sample_that_fails_on_its_last_rows_is_made_anew),
        CASE(build_stores_the_sample_whatever_its_shards),
        CASE(build_of_a_lone_vector_has_a_query_without_neighbors),
    };
    return cmocka_run_group_tests_name("query_sample", tests, NULL, NULL);
}
