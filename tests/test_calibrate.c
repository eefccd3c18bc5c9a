/*
 * test_calibrate.c - recall curves that real builds measure.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/memory.h"
#include "common/random.h"
#include "common/vector_file.h"
#include "query/engine.h"
#include "tests/build_fixture.h"
#include "tools/calibrate.h"
#include "tools/recall.h"

enum { COUNT = 3000, DIM = 16 };

static struct build_params params_of(const struct build_fixture *f)
{
    struct build_params params = build_fixture_params(f);
    params.calibrate = calibrate_run;
    return params;
}

static struct manifest built(struct build_fixture *f, const struct build_params *params)
{
    (void)f;
    struct build_summary summary;
    build_fixture_build(params, &summary);
    return summary.manifest;
}

static double recall_at(const struct manifest_curve *curve, uint32_t point)
{
    return (double)curve->points[point].hits / ((double)curve->queries * curve->k);
}

/* By fields: there is padding between them. */
static void expect_points(const struct manifest_point *found, const struct manifest_point *wanted,
                          uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(found[i].search_list, wanted[i].search_list);
        assert_true(found[i].search_ratio == wanted[i].search_ratio);
        assert_int_equal(found[i].hits, wanted[i].hits);
        assert_int_equal(found[i].squares, wanted[i].squares);
        assert_int_equal(found[i].reads, wanted[i].reads);
    }
}

static void expect_curves(const struct manifest *found, const struct manifest *wanted)
{
    assert_int_equal(found->curve_count, wanted->curve_count);
    for (uint32_t c = 0; c < wanted->curve_count; c++) {
        assert_int_equal(found->curves[c].point_count, wanted->curves[c].point_count);
        expect_points(found->curves[c].points, wanted->curves[c].points,
                      wanted->curves[c].point_count);
    }
}

/* ---- what the curves are ---- */

static void build_measures_a_curve_for_each_k(void **state)
{
    struct build_fixture *f = *state;
    static const uint32_t ks[] = {1, 10, 100};
    free(build_fixture_input(f, ELEMENT_U8, COUNT, DIM));
    const struct build_params params = params_of(f);
    const struct manifest manifest = built(f, &params);
    assert_int_equal(manifest.curve_count, 3);
    for (size_t i = 0; i < ARRAY_LENGTH(ks); i++) {
        const struct manifest_curve *curve = &manifest.curves[i];
        assert_int_equal(curve->k, ks[i]);
        assert_int_equal(curve->queries, ks[i] == 100 ? 200 : 500);
        assert_false(curve->tuned);
        assert_true(curve->point_count >= 2);
        assert_true(recall_at(curve, 0) < recall_at(curve, curve->point_count - 1));
        assert_true(recall_at(curve, curve->point_count - 1) > 0.99);
        for (uint32_t p = 1; p < curve->point_count; p++)
            assert_true(curve->points[p].search_list >= curve->points[p - 1].search_list);
    }
    assert_true(manifest.lid > 2 && manifest.lid < DIM);
    (void)build_fixture_digest(f->output);
}

/* Hits, their squares and reads of the sample's queries, counted here. */
static struct manifest_point measured(const char *path, const struct manifest_curve *curve,
                                      const struct manifest_point *setting)
{
    const uint32_t k = curve->k;
    struct manifest_point point = {setting->search_list, setting->search_ratio, 0, 0, 0};
    const struct index_options options = {.plain = true};
    const struct engine_params engine_params = {.threads = 1};
    struct error err;
    struct index *index = NULL;
    struct engine *engine = NULL;
    struct generation *generation = NULL;
    struct sample sample;
    void *bytes = NULL;
    size_t length = 0;
    fixture_must(generation_open(path, &generation, &err), &err);
    fixture_must(generation_load(generation, GENERATION_SAMPLE, &bytes, &length, &err), &err);
    fixture_must(sample_decode(bytes, length, &sample, &err), &err);
    fixture_must(index_open(path, &options, &index, &err), &err);
    fixture_must(engine_create(&engine_params, index, &engine, &err), &err);
    for (uint32_t q = 0; q < curve->queries; q++) {
        const struct sample_query own = sample_query_at(&sample, q * sample.count / curve->queries);
        struct search_hit hits[100];
        struct search_query query = {.vector = own.vector,
                                     .k = k,
                                     .search_list = setting->search_list,
                                     .beam_width = 1,
                                     .search_ratio = (float)setting->search_ratio,
                                     .excludes = true,
                                     .excluded_node = own.own_node,
                                     .hits = hits};
        uint64_t right = 0;
        engine_search_all(engine, &query, 1, 1);
        assert_int_equal(query.status, STATUS_OK);
        for (uint32_t i = 0; i < query.hit_count; i++) {
            assert_true(hits[i].key != own.own_key);
            right += hits[i].distance <= own.truth_distances[k - 1];
        }
        point.hits += right;
        point.squares += right * right;
        point.reads += query.stats.reads;
    }
    engine_destroy(engine);
    index_release(index);
    bulk_free(bytes, length, 1);
    generation_close(generation);
    return point;
}

static void curves_are_what_searches_find_afterwards(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_U8, COUNT, DIM));
    const struct build_params params = params_of(f);
    const struct manifest manifest = built(f, &params);
    for (uint32_t c = 0; c < manifest.curve_count; c++) {
        const struct manifest_curve *curve = &manifest.curves[c];
        for (uint32_t p = 0; p < MIN(curve->point_count, 4u); p++) {
            const struct manifest_point again = measured(f->output, curve, &curve->points[p]);
            expect_points(&again, &curve->points[p], 1);
        }
    }
}

static void few_vectors_have_curves_for_few_neighbors(void **state)
{
    struct build_fixture *f = *state;
    static const struct {
        uint32_t count, curves;
    } cases[] = {{1, 0}, {2, 1}, {10, 1}, {11, 2}, {101, 3}};
    const struct build_params params = params_of(f);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        free(build_fixture_input(f, ELEMENT_F32, cases[i].count, 4));
        struct build_params of = params;
        of.input = f->input;
        const struct manifest manifest = built(f, &of);
        assert_int_equal(manifest.curve_count, cases[i].curves);
        build_fixture_clear(f);
    }
}

/* ---- the same bytes ---- */

static void curves_do_not_depend_on_threads_or_shards_run_beside(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    free(build_fixture_input(f, ELEMENT_F32, COUNT, DIM));
    struct build_params params = params_of(f);
    params.shards = 2;
    params.threads = 1;
    const struct digest128 one = build_fixture_once(f, &params, &summary);
    assert_int_equal(summary.manifest.curve_count, 3);
    params.threads = 3;
    const struct digest128 three = build_fixture_once(f, &params, &summary);
    build_fixture_expect_same(three, one);
}

/* Measures with no cache, a part of the blocks and all of them. */
static enum status calibrate_three_times(void *context, const struct build_calibration *job,
                                         struct manifest *manifest, struct error *err)
{
    static const uint64_t budgets[] = {0, 300 << 10, 1 << 30};
    uint32_t *runs = context;
    struct manifest before = {0};
    for (size_t i = 0; i < ARRAY_LENGTH(budgets); i++) {
        struct build_calibration one = *job;
        one.memory_bytes = budgets[i];
        one.threads = (uint32_t)i + 1;
        enum status status = calibrate_run(NULL, &one, manifest, err);
        if (status != STATUS_OK)
            return status;
        if (i > 0)
            expect_curves(manifest, &before);
        before = *manifest;
        ++*runs;
    }
    return STATUS_OK;
}

static void curves_do_not_depend_on_memory(void **state)
{
    struct build_fixture *f = *state;
    uint32_t runs = 0;
    free(build_fixture_input(f, ELEMENT_U8, COUNT, DIM));
    struct build_params params = params_of(f);
    params.calibrate = calibrate_three_times;
    params.calibrate_context = &runs;
    (void)built(f, &params);
    assert_int_equal(runs, 3);
}

/* ---- stopping ---- */

/* The first run finds that it was asked to stop meanwhile. */
static enum status calibrate_stopped_once(void *context, const struct build_calibration *job,
                                          struct manifest *manifest, struct error *err)
{
    uint32_t *runs = context;
    struct build_calibration stopped = *job;
    atomic_int stop = 1;
    assert_false(fixture_exists(fixture_path(job->path, "manifest.json")));
    if ((*runs)++ == 0)
        stopped.cancel = &stop;
    return calibrate_run(NULL, &stopped, manifest, err);
}

static void build_that_was_stopped_while_it_measured_goes_on(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    struct error err = {0};
    uint32_t runs = 0;
    free(build_fixture_input(f, ELEMENT_U8, COUNT, DIM));
    struct build_params params = params_of(f);
    const struct digest128 wanted = build_fixture_once(f, &params, &summary);
    params.calibrate = calibrate_stopped_once;
    params.calibrate_context = &runs;
    assert_int_equal(build_run(&params, &summary, &err), STATUS_CANCELLED);
    assert_true(summary.kept);
    assert_false(fixture_exists(fixture_path(f->output, "manifest.json")));
    const struct digest128 found = build_fixture_once(f, &params, &summary);
    assert_int_equal(runs, 2);
    build_fixture_expect_same(found, wanted);
}

/* ---- queries to tune to ---- */

/* Means of two rows: between clusters, where no vector is. Returns the file's path. */
static const char *tune_write(struct build_fixture *f, const uint8_t *rows, uint32_t count,
                              uint32_t dim)
{
    const char *path = fixture_path(f->dir, "tune.u8bin");
    struct vector_writer *writer = NULL;
    struct error err;
    uint8_t row[DIM];
    const struct vector_shape shape = {count, dim, ELEMENT_U8};
    fixture_must(vector_writer_open(path, shape, &writer, &err), &err);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *a = rows + random_at(5, 2 * i) % COUNT * DIM;
        const uint8_t *b = rows + random_at(5, 2 * i + 1) % COUNT * DIM;
        for (uint32_t d = 0; d < dim; d++)
            row[d] = (uint8_t)((a[d] + b[d]) / 2);
        fixture_must(vector_writer_append(writer, row, 1, &err), &err);
    }
    fixture_must(vector_writer_finish(writer, &err), &err);
    return path;
}

static void build_is_tuned_to_queries_that_it_is_given(void **state)
{
    struct build_fixture *f = *state;
    uint8_t *rows = build_fixture_input(f, ELEMENT_U8, COUNT, DIM);
    struct build_params params = params_of(f);
    const struct manifest plain = built(f, &params);
    build_fixture_clear(f);
    params.tune_queries = tune_write(f, rows, 300, DIM);
    const struct manifest tuned = built(f, &params);
    assert_true(tuned.generation_id.low != plain.generation_id.low);
    assert_true(manifest_is_tuned(&tuned) && !manifest_is_tuned(&plain));
    assert_int_equal(tuned.curve_count, 6);
    expect_points(tuned.curves[0].points, plain.curves[0].points, plain.curves[0].point_count);
    for (uint32_t c = 3; c < 6; c++) {
        const struct manifest_curve *curve = &tuned.curves[c];
        assert_true(curve->tuned);
        assert_int_equal(curve->k, tuned.curves[c - 3].k);
        assert_int_equal(curve->queries, c == 5 ? 200 : 300);
        assert_true(recall_at(curve, 0) < 0.95);
        assert_true(recall_at(curve, curve->point_count - 1) > 0.99);
    }
    build_fixture_clear(f);
    /* Other queries, another generation; of many, some are taken. */
    params.tune_queries = tune_write(f, rows, 2500, DIM);
    const struct manifest other = built(f, &params);
    assert_true(other.generation_id.low != tuned.generation_id.low);
    assert_int_equal(other.curves[3].queries, 1000);
    assert_int_equal(other.curves[4].queries, 500);
    assert_int_equal(other.curves[5].queries, 200);
    free(rows);
}

static void queries_to_tune_to_must_suit_the_input(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    uint8_t *rows = build_fixture_input(f, ELEMENT_U8, COUNT, DIM);
    struct build_params params = params_of(f);
    params.tune_queries = tune_write(f, rows, 10, DIM - 1);
    assert_int_equal(build_run(&params, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "queries of 15 u8, the input has 16 u8"));
    params.tune_queries = fixture_path(f->dir, "none.u8bin");
    assert_int_equal(build_run(&params, NULL, &err), STATUS_NOT_FOUND);
    assert_false(fixture_exists(f->output));
    free(rows);
}

/* ---- intrinsic dimension, warnings ---- */

/* Squared distances of neighbours as uniform data of `dim` dimensions have them. */
static double lid_of(double dim, enum metric metric)
{
    enum { K = 100 };
    float distances[2 * K];
    for (int i = 0; i < K; i++)
        distances[i] = distances[K + i] = (float)pow((i + 1.0) / K, 2 / dim);
    const struct sample sample = {
        .count = 2, .k = K, .metric = metric, .truth_distances = distances};
    return calibrate_lid(&sample);
}

static void dimension_is_estimated_from_neighbors(void **state)
{
    (void)state;
    assert_true(fabs(lid_of(2, METRIC_L2) - 2) < 0.1);
    assert_true(fabs(lid_of(40, METRIC_COSINE) - 40) < 1.5);
    assert_true(lid_of(40, METRIC_IP) == 0);
    const float copies[4] = {0, 0, 0, 0};
    const struct sample sample = {
        .count = 1, .k = 4, .metric = METRIC_L2, .truth_distances = copies};
    assert_true(calibrate_lid(&sample) == 0);
}

/* What takes minutes there and adds no thread to what other tests run. */
static void skip_under_tsan(void)
{
    const char *mode = getenv("NIGHTJAR_MODE");
    if (mode && strcmp(mode, "tsan") == 0)
        skip();
}

static bool warns(struct build_fixture *f, struct manifest *manifest,
                  char text[CALIBRATE_WARNING_BYTES])
{
    struct build_params params = params_of(f);
    params.code_bytes = 16;
    *manifest = built(f, &params);
    build_fixture_clear(f);
    return calibrate_warning(manifest, text);
}

/* Points at which a query takes more than a quarter of all blocks. */
static uint32_t points_of_much(const struct manifest *manifest, const struct manifest_curve *curve)
{
    uint32_t count = 0;
    for (uint32_t p = 0; p < curve->point_count; p++)
        count += curve->points[p].reads * 4 > curve->queries * manifest->block_count;
    return count;
}

static void data_without_structure_are_warned_of(void **state)
{
    skip_under_tsan();
    struct build_fixture *f = *state;
    struct manifest manifest;
    char text[CALIBRATE_WARNING_BYTES];
    const struct vector_shape shape = {3000, 256, ELEMENT_U8};
    uint8_t *rows = malloc(shape.count * shape.dim);
    assert_non_null(rows);
    for (size_t i = 0; i < shape.count * shape.dim; i++)
        rows[i] = (uint8_t)random_at(9, i);
    build_fixture_write(f, shape, rows);
    assert_true(warns(f, &manifest, text));
    assert_non_null(strstr(text, "little structure"));
    assert_non_null(strstr(text, "intrinsic dimension"));
    assert_null(strchr(text, '\n'));
    /* And not measured at length: the first point that takes much is followed by the last. */
    for (uint32_t c = 0; c < manifest.curve_count; c++)
        assert_in_range(points_of_much(&manifest, &manifest.curves[c]), 1, 2);
    free(rows);
    free(build_fixture_input(f, ELEMENT_U8, 12000, 64));
    if (warns(f, &manifest, text))
        fail_msg("%s", text);
}

int main(void)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(build_measures_a_curve_for_each_k),
        CASE(curves_are_what_searches_find_afterwards),
        CASE(few_vectors_have_curves_for_few_neighbors),
        CASE(curves_do_not_depend_on_threads_or_shards_run_beside),
        CASE(curves_do_not_depend_on_memory),
        CASE(build_that_was_stopped_while_it_measured_goes_on),
        CASE(build_is_tuned_to_queries_that_it_is_given),
        CASE(queries_to_tune_to_must_suit_the_input),
        CASE(dimension_is_estimated_from_neighbors),
        CASE(data_without_structure_are_warned_of),
    };
    return cmocka_run_group_tests_name("calibrate", tests, NULL, NULL);
}
