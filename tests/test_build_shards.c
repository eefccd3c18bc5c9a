/*
 * test_build_shards.c - builds of several shards: every vector is stored once and can be reached,
 * whatever the metric, type, dimension and distribution; and the bytes depend neither on threads,
 * nor on how often a build was stopped, nor on whether its stages ran in one process.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "builder/build.h"
#include "builder/build_size.h"
#include "common/random.h"
#include "layout/store.h"
#include "tests/build_fixture.h"

enum { SEED = 20241121 };

/* Small enough for many builds. */
static struct build_params params_small(const struct build_fixture *f, uint32_t shards)
{
    struct build_params params = build_fixture_params(f);
    params.degree = 12;
    params.build_list = 16;
    params.code_bytes = 4;
    params.threads = 1;
    params.shards = shards;
    return params;
}

/* ---- what comes out ---- */

/* The generation is sound, has every row once and leads to all of them. */
static struct digest128 expect_whole(const struct build_fixture *f,
                                     const struct build_params *params,
                                     const struct build_summary *summary, const void *rows,
                                     const uint64_t *keys)
{
    const struct manifest *m = &summary->manifest;
    const struct vector_shape shape = {.count = m->vector_count, .dim = m->dim, .type = m->type};
    assert_int_equal(m->shard_count, params->shards);
    assert_true(params->shards > 1 || m->borrowed_rows == 0);
    assert_true((double)m->borrowed_rows <=
                (params->replication - 1.0) * (double)m->vector_count + 1.0);
    struct digest128 digest = build_fixture_digest(f->output);
    build_fixture_expect_rows(f->output, shape, rows, keys);
    assert_int_equal(build_fixture_reached(f->output), m->vector_count);
    assert_int_equal(summary->report.reached_nodes, m->vector_count);
    return digest;
}

static void sharded_build_is_whole_for(struct build_fixture *f, enum element_type type,
                                       enum metric metric)
{
    static const uint32_t shards[] = {1, 2, 5};
    static const uint32_t dims[] = {1, 3, 17, 64};
    for (size_t i = 0; i < ARRAY_LENGTH(shards); i++) {
        struct build_summary summary;
        struct build_params params = params_small(f, shards[i]);
        params.metric = metric;
        /* Each shard count meets every dimension with some type or metric. */
        const uint32_t dim = dims[(i + (size_t)type + 2 * (size_t)metric) % ARRAY_LENGTH(dims)];
        void *rows = build_fixture_input(f, type, 400, dim);
        build_fixture_build(&params, &summary);
        (void)expect_whole(f, &params, &summary, rows, NULL);
        build_fixture_clear(f);
        free(rows);
    }
}

static void sharded_build_is_whole_for_every_type_and_metric(void **state)
{
    static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++)
            sharded_build_is_whole_for(*state, types[t], metrics[m]);
}

static void sharded_build_keeps_keys_and_counts(void **state)
{
    struct build_fixture *f = *state;
    enum { COUNT = 2500, DIM = 16 };
    static uint64_t keys[COUNT];
    struct build_summary summary;
    struct build_params params = params_small(f, 3);
    void *rows = build_fixture_input(f, ELEMENT_U8, COUNT, DIM);
    for (uint32_t i = 0; i < COUNT; i++)
        keys[i] = random_at(SEED, i);
    build_fixture_write_keys(f, keys, COUNT);
    params.keys = f->keys;
    build_fixture_build(&params, &summary);
    (void)expect_whole(f, &params, &summary, rows, keys);
    assert_true(summary.manifest.borrowed_rows > 0);
    assert_true(summary.manifest.replication == 1.2);
    assert_int_equal(summary.report.shard_count, 3);
    assert_true(fabs(summary.report.replication -
                     (1.0 + (double)summary.manifest.borrowed_rows / COUNT)) < 1e-9);
    free(rows);
}

static void replication_may_be_none_or_the_most(void **state)
{
    struct build_fixture *f = *state;
    static const double replications[] = {1.0, BUILD_REPLICATION_MAX};
    void *rows = build_fixture_input(f, ELEMENT_F32, 2000, 12);
    for (size_t i = 0; i < ARRAY_LENGTH(replications); i++) {
        struct build_summary summary;
        struct build_params params = params_small(f, 5);
        params.replication = replications[i];
        build_fixture_build(&params, &summary);
        (void)expect_whole(f, &params, &summary, rows, NULL);
        if (replications[i] == 1.0)
            assert_int_equal(summary.manifest.borrowed_rows, 0);
        else
            assert_true(summary.manifest.borrowed_rows > 2000);
        build_fixture_clear(f);
    }
    free(rows);
}

/* ---- hard inputs ---- */

/* `distinct` different vectors, over and over. */
static void build_of_few(struct build_fixture *f, uint32_t count, uint32_t distinct,
                         uint32_t shards, enum metric metric)
{
    const struct vector_shape shape = {.count = count, .dim = 4, .type = ELEMENT_U8};
    struct build_summary summary;
    struct build_params params = params_small(f, shards);
    uint8_t *rows = malloc((size_t)count * shape.dim);
    assert_non_null(rows);
    params.metric = metric;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t d = 0; d < shape.dim; d++)
            rows[i * shape.dim + d] = (uint8_t)(1 + random_below(SEED + d, i % distinct, 255));
    build_fixture_write(f, shape, rows);
    build_fixture_build(&params, &summary);
    (void)expect_whole(f, &params, &summary, rows, NULL);
    assert_int_equal(summary.manifest.duplicate_vectors, count - distinct);
    build_fixture_clear(f);
    free(rows);
}

static void identical_vectors_are_cut_into_shards(void **state)
{
    for (unsigned metric = METRIC_L2; metric <= METRIC_COSINE; metric++)
        build_of_few(*state, 500, 1, 3, (enum metric)metric);
}

static void vectors_fewer_than_shards_are_cut_into_shards(void **state)
{
    build_of_few(*state, 900, 3, 5, METRIC_L2);
    build_of_few(*state, 900, 2, 5, METRIC_COSINE);
}

static void small_input_is_cut_into_as_many_shards_as_can_be(void **state)
{
    struct build_fixture *f = *state;
    static const struct {
        uint32_t count, shards;
    } cases[] = {{128, 2}, {577, 9}, {900, 14}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct build_summary summary;
        struct build_params params = params_small(f, cases[i].shards);
        void *rows = build_fixture_input(f, ELEMENT_I8, cases[i].count, 7);
        params.degree = BUILD_DEGREE_MIN;
        build_fixture_build(&params, &summary);
        (void)expect_whole(f, &params, &summary, rows, NULL);
        build_fixture_clear(f);
        free(rows);
    }
}

/* One cluster holds nearly everything; the others are far. */
static void uneven_clusters_are_cut_into_shards(void **state)
{
    struct build_fixture *f = *state;
    const struct vector_shape shape = {.count = 2000, .dim = 6, .type = ELEMENT_F32};
    struct build_summary summary;
    struct build_params params = params_small(f, 4);
    float *rows = calloc(shape.count * shape.dim, sizeof(*rows));
    assert_non_null(rows);
    for (uint32_t i = 0; i < shape.count; i++)
        for (uint32_t d = 0; d < shape.dim; d++)
            rows[i * shape.dim + d] =
                (float)(random_unit(SEED, i * shape.dim + d) + (i % 100 == 7 ? 1e6 * d : 0.0));
    build_fixture_write(f, shape, rows);
    build_fixture_build(&params, &summary);
    (void)expect_whole(f, &params, &summary, rows, NULL);
    free(rows);
}

/* ---- the same bytes ---- */

static void threads_do_not_change_a_byte(void **state)
{
    struct build_fixture *f = *state;
    static const uint32_t threads[] = {1, 3};
    struct digest128 digests[ARRAY_LENGTH(threads)];
    free(build_fixture_input(f, ELEMENT_F32, 2500, 24));
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++) {
        struct build_params params = params_small(f, 4);
        params.threads = threads[i];
        params.numa = i > 0;
        digests[i] = build_fixture_once(f, &params, NULL);
    }
    build_fixture_expect_same(digests[1], digests[0]);
}

/* On a made-up machine of two nodes, each of which builds a shard. */
static void lanes_change_the_planned_memory_and_not_a_byte(void **state)
{
    struct build_fixture *f = *state;
    const struct vector_shape shape = {.count = 2500, .dim = 24, .type = ELEMENT_F32};
    struct digest128 digests[2];
    free(build_fixture_input(f, shape.type, (uint32_t)shape.count, shape.dim));
    setenv("HWLOC_SYNTHETIC", "NUMANode:2(memory=4GiB) Core:1 PU:1", 1);
    for (uint32_t numa = 0; numa < 2; numa++) {
        struct build_params params = params_small(f, 3);
        struct build_summary summary;
        struct build_size size;
        params.threads = 2;
        params.numa = numa != 0;
        digests[numa] = build_fixture_once(f, &params, &summary);
        build_size_compute(&params, &shape, params.shards, &size);
        assert_true(build_size_peak_bytes(&size, 2) > size.memory_bytes);
        assert_true(summary.report.memory_planned_bytes == build_size_peak_bytes(&size, numa + 1));
    }
    unsetenv("HWLOC_SYNTHETIC");
    build_fixture_expect_same(digests[1], digests[0]);
}

static void shards_change_the_generation(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summaries[3];
    free(build_fixture_input(f, ELEMENT_U8, 800, 8));
    for (uint32_t i = 0; i < 3; i++) {
        struct build_params params = params_small(f, i == 2 ? 3 : 2);
        params.replication = i == 1 ? 1.5 : 1.2;
        (void)build_fixture_once(f, &params, &summaries[i]);
        for (uint32_t j = 0; j < i; j++)
            assert_false(build_fixture_same(summaries[i].manifest.generation_id,
                                            summaries[j].manifest.generation_id));
    }
}

/* Raises `cancel` at the nth call that changes the disk. */
struct stopper {
    atomic_int calls;
    int stop_at;
    atomic_int cancel;
};

static int stop_at_nth(void *context, enum store_call call)
{
    struct stopper *stopper = context;
    (void)call;
    if (atomic_fetch_add(&stopper->calls, 1) + 1 == stopper->stop_at)
        atomic_store(&stopper->cancel, 1);
    return 0;
}

/* Builds and is stopped at the nth call, if there are so many. */
static enum status build_stopped_at(struct build_params *params, int n,
                                    struct build_summary *summary)
{
    struct stopper stopper = {.stop_at = n};
    const struct store_faults faults = {stop_at_nth, &stopper};
    struct error err = {0};
    params->cancel = &stopper.cancel;
    store_inject(&faults);
    enum status status = build_run(params, summary, &err);
    store_inject(NULL);
    params->cancel = NULL;
    if (status == STATUS_OK)
        return status;
    assert_int_equal(status, STATUS_CANCELLED);
    assert_string_equal(err.text, "interrupted: the build was stopped");
    assert_false(summary->finished);
    return status;
}

static void expect_left(const struct build_fixture *f, const struct build_summary *summary)
{
    assert_false(fixture_exists(fixture_path(f->output, MANIFEST_FILE_NAME)));
    assert_int_equal(fixture_exists(f->output), summary->kept);
    assert_int_equal(fixture_exists(f->work), summary->kept);
}

static void stopped_build_goes_on_to_the_same_bytes(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_U8, 900, 12));
    struct build_params params = params_small(f, 3);
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    int kept = 0;
    /* Anywhere in the build, then to its end. */
    for (int n = 5;; n += 31) {
        struct build_summary summary;
        if (build_stopped_at(&params, n, &summary) == STATUS_OK) {
            build_fixture_clear(f);
            break;
        }
        kept += summary.kept;
        expect_left(f, &summary);
        params.threads = 1 + (uint32_t)n % 2;
        build_fixture_expect_same(build_fixture_once(f, &params, NULL), wanted);
    }
    assert_true(kept > 5);
}

static void build_stopped_again_and_again_goes_on_to_the_same_bytes(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_F32, 900, 12));
    struct build_params params = params_small(f, 3);
    params.metric = METRIC_IP;
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    struct build_summary summary;
    int stops = 0;
    for (int n = 10; build_stopped_at(&params, n, &summary) != STATUS_OK; n += 3, stops++)
        expect_left(f, &summary);
    assert_true(stops > 8);
    assert_false(fixture_exists(f->work));
    build_fixture_expect_same(build_fixture_digest(f->output), wanted);
}

/* Once the manifest has its name it is too late: what is told is what is there. */
static void build_stopped_in_its_last_calls_says_what_is_there(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    free(build_fixture_input(f, ELEMENT_U8, 300, 8));
    struct build_params params = params_small(f, 2);
    struct stopper counter = {.stop_at = -1};
    const struct store_faults faults = {stop_at_nth, &counter};
    store_inject(&faults);
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    store_inject(NULL);
    const int total = atomic_load(&counter.calls);
    int finished = 0;
    for (int n = total - 40; n <= total; n++) {
        if (build_stopped_at(&params, n, &summary) == STATUS_OK) {
            finished++;
            assert_false(fixture_exists(f->work));
        } else {
            expect_left(f, &summary);
            build_fixture_build(&params, NULL);
        }
        build_fixture_expect_same(build_fixture_digest(f->output), wanted);
        build_fixture_clear(f);
    }
    assert_in_range(finished, 1, 40);
}

static void number_of_shards_is_settled_by_the_first_run(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    free(build_fixture_input(f, ELEMENT_U8, 900, 12));
    struct build_params params = params_small(f, 3);
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    assert_int_equal(build_stopped_at(&params, 60, &summary), STATUS_CANCELLED);
    assert_true(summary.kept);
    params.shards = 0; /* alone, this would be one */
    build_fixture_expect_same(build_fixture_once(f, &params, &summary), wanted);
    assert_int_equal(summary.manifest.shard_count, 3);
    (void)build_fixture_once(f, &params, &summary);
    assert_int_equal(summary.manifest.shard_count, 1);
}

/* Without its work directory it would be refused: it is whole. */
static void build_killed_before_it_removed_its_work_only_removes_it(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    void *rows = build_fixture_input(f, ELEMENT_U8, 900, 12);
    struct build_params params = params_small(f, 3);
    params.keep_work = true;
    build_fixture_build(&params, &summary);
    const struct digest128 wanted = expect_whole(f, &params, &summary, rows, NULL);
    for (int i = 0; i < 2; i++) {
        /* The second time some of the records are gone already. */
        if (i == 1)
            assert_int_equal(remove(fixture_path(f->work, "ingest.done")), 0);
        params.keep_work = i == 0;
        build_fixture_build(&params, &summary);
        assert_int_equal(summary.manifest.vector_count, 900);
        assert_int_equal(summary.report.reached_nodes, 900);
        build_fixture_expect_same(build_fixture_digest(f->output), wanted);
    }
    free(rows);
}

static void work_outlives_its_output(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    free(build_fixture_input(f, ELEMENT_U8, 900, 12));
    build_fixture_some_attributes(f, 900);
    struct build_params params = params_small(f, 3);
    params.attributes = f->attributes;
    params.keep_work = true;
    build_fixture_build(&params, &summary);
    const struct digest128 wanted = build_fixture_digest(f->output);
    for (unsigned i = 0; i <= GENERATION_FILE_COUNT; i++) {
        const char *path =
            fixture_path(f->output, generation_file_names[i % GENERATION_FILE_COUNT]);
        assert_int_equal(remove(fixture_path(f->output, MANIFEST_FILE_NAME)), 0);
        /* Gone, or, in the last turn, there but not what it was. */
        if (i < GENERATION_FILE_COUNT)
            assert_int_equal(remove(path), 0);
        else
            fixture_flip_bit(path, 12345);
        struct error err = {0};
        enum status status = build_run(&params, &summary, &err);
        if (i == GENERATION_FILE_COUNT) {
            assert_int_equal(status, STATUS_CORRUPT);
            assert_true(summary.kept);
            build_fixture_expect_line(&err);
            status = build_run(&params, &summary, &err);
        }
        fixture_must(status, &err);
        build_fixture_expect_same(build_fixture_digest(f->output), wanted);
    }
}

/* ---- stages one by one ---- */

static void build_stage_alone(struct build_params *params, enum build_stage stage, uint32_t shard)
{
    params->one_stage = true;
    params->stage = stage;
    params->shard = shard;
    build_fixture_build(params, NULL);
}

static bool sharded(enum build_stage stage)
{
    return stage == BUILD_STAGE_GRAPH || stage == BUILD_STAGE_MERGE || stage == BUILD_STAGE_PACK ||
           stage == BUILD_STAGE_WRITE;
}

static void stages_one_by_one_give_the_same_bytes(void **state)
{
    struct build_fixture *f = *state;
    static const uint32_t order[] = {2, 0, 1};
    free(build_fixture_input(f, ELEMENT_F16, 900, 12));
    struct build_params params = params_small(f, 3);
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        struct error err = {0};
        struct build_summary summary;
        for (uint32_t s = 0; s < (sharded(stage) ? 3 : 1); s++)
            build_stage_alone(&params, stage, sharded(stage) ? order[s] : WORK_WHOLE);
        if (stage + 2 >= BUILD_STAGE_COUNT)
            continue;
        params.stage = stage + 2;
        params.shard = WORK_WHOLE;
        assert_int_equal(build_run(&params, &summary, &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, "which is not finished"));
        assert_non_null(strstr(err.text, build_stage_name(stage + 1)));
        assert_false(summary.kept || summary.finished);
    }
    assert_false(fixture_exists(f->work));
    build_fixture_expect_same(build_fixture_digest(f->output), wanted);
}

static void stage_alone_refuses_a_shard_that_is_not_there(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    free(build_fixture_input(f, ELEMENT_U8, 900, 12));
    struct build_params params = params_small(f, 3);
    params.one_stage = true;
    params.stage = BUILD_STAGE_GRAPH;
    params.shard = 3;
    assert_int_equal(build_run(&params, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "shard 3: there are 3"));
    params.stage = BUILD_STAGE_TRAIN;
    params.shard = 0;
    assert_int_equal(build_run(&params, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "stage train has no shards"));
    assert_false(fixture_exists(f->work) || fixture_exists(f->output));
}

/* A whole run does what single stages have not done, and the other way round. */
static void whole_run_goes_on_after_single_stages(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_U8, 900, 12));
    struct build_params params = params_small(f, 3);
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    for (unsigned stage = 0; stage <= BUILD_STAGE_GRAPH; stage++)
        build_stage_alone(&params, stage, stage == BUILD_STAGE_GRAPH ? 1 : WORK_WHOLE);
    params.one_stage = false;
    struct build_summary summary;
    /* Stopped somewhere behind the graphs. */
    assert_int_equal(build_stopped_at(&params, 90, &summary), STATUS_CANCELLED);
    assert_true(summary.kept);
    build_stage_alone(&params, BUILD_STAGE_GRAPH, 0);
    params.one_stage = false;
    build_fixture_expect_same(build_fixture_once(f, &params, NULL), wanted);
}

int main(void)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(sharded_build_is_whole_for_every_type_and_metric),
        CASE(sharded_build_keeps_keys_and_counts),
        CASE(replication_may_be_none_or_the_most),
        CASE(identical_vectors_are_cut_into_shards),
        CASE(vectors_fewer_than_shards_are_cut_into_shards),
        CASE(small_input_is_cut_into_as_many_shards_as_can_be),
        CASE(uneven_clusters_are_cut_into_shards),
        CASE(threads_do_not_change_a_byte),
        CASE(lanes_change_the_planned_memory_and_not_a_byte),
        CASE(shards_change_the_generation),
        CASE(stopped_build_goes_on_to_the_same_bytes),
        CASE(build_stopped_again_and_again_goes_on_to_the_same_bytes),
        CASE(build_stopped_in_its_last_calls_says_what_is_there),
        CASE(number_of_shards_is_settled_by_the_first_run),
        CASE(build_killed_before_it_removed_its_work_only_removes_it),
        CASE(work_outlives_its_output),
        CASE(stages_one_by_one_give_the_same_bytes),
        CASE(stage_alone_refuses_a_shard_that_is_not_there),
        CASE(whole_run_goes_on_after_single_stages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
