/*
 * test_build.c - whole builds of small inputs, in process: what comes out is complete, right and
 * the same at any thread count; what is refused is refused for its reason and leaves nothing
 * behind; what fails later can be completed. Shards are test_build_shards.c's, failing calls
 * test_build_faults.c's; signals, kills and full disks e2e_build_errors.sh's and e2e_resume.sh's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/build.h"
#include "builder/build_plan.h"
#include "builder/build_size.h"
#include "common/memory.h"
#include "common/random.h"
#include "layout/block.h"
#include "tests/build_fixture.h"

enum { SEED = 20240607 };

/* The build fails with `status`, says `words`, and leaves nothing. */
static void build_fails(const struct build_fixture *f, const struct build_params *params,
                        enum status wanted, const char *words)
{
    struct error err = {0};
    struct build_summary summary;
    enum status status = build_run(params, &summary, &err);
    if (status != wanted || !strstr(err.text, words))
        print_error("got %s: %s\nwanted %s: ...%s...\n", status_name(status), err.text,
                    status_name(wanted), words);
    assert_int_equal(status, wanted);
    assert_non_null(strstr(err.text, words));
    build_fixture_expect_line(&err);
    assert_false(summary.finished || summary.kept);
    assert_false(fixture_exists(f->output));
    assert_false(fixture_exists(f->work));
}

static void build_verified(const struct build_fixture *f, const struct build_params *params,
                           struct build_summary *summary)
{
    build_fixture_build(params, summary);
    (void)build_fixture_digest(f->output);
}

/* ---- what comes out ---- */

static void build_verifies_for_every_type_and_metric(void **state)
{
    struct build_fixture *f = *state;
    static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++) {
        free(build_fixture_input(f, types[t], 300, 20));
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            struct build_params params = build_fixture_params(f);
            struct build_summary summary;
            params.metric = metrics[m];
            build_verified(f, &params, &summary);
            assert_int_equal(summary.manifest.vector_count, 300);
            assert_int_equal(summary.manifest.dim, 20);
            assert_int_equal(summary.manifest.type, types[t]);
            assert_int_equal(summary.manifest.metric, metrics[m]);
            /* The root is in it, drawn or not. */
            assert_in_range(summary.manifest.navigation_count, 64, 65);
            assert_true(summary.manifest.hot_count > 0);
            assert_true(summary.manifest.norm_max > 0);
            build_fixture_clear(f);
        }
    }
}

static void build_is_identical_at_any_thread_count(void **state)
{
    struct build_fixture *f = *state;
    static const uint32_t threads[] = {1, 2, 5};
    struct digest128 first = {0};
    free(build_fixture_input(f, ELEMENT_F32, 1500, 24));
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++) {
        struct build_params params = build_fixture_params(f);
        params.threads = threads[i];
        struct digest128 digest = build_fixture_once(f, &params, NULL);
        if (i == 0)
            first = digest;
        build_fixture_expect_same(digest, first);
    }
}

static void build_seed_and_parameters_change_the_generation_id(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary a, b, c;
    free(build_fixture_input(f, ELEMENT_U8, 200, 16));
    struct build_params params = build_fixture_params(f);
    build_fixture_build(&params, &a);
    build_fixture_clear(f);
    params.seed = 2;
    build_fixture_build(&params, &b);
    build_fixture_clear(f);
    params.seed = 1;
    params.metric = METRIC_COSINE;
    build_fixture_build(&params, &c);
    assert_int_not_equal(a.manifest.generation_id.low, b.manifest.generation_id.low);
    assert_int_not_equal(a.manifest.generation_id.low, c.manifest.generation_id.low);
    assert_int_equal(a.manifest.input_digest.low, b.manifest.input_digest.low);
}

static void build_stores_every_vector_once_under_its_key(void **state)
{
    struct build_fixture *f = *state;
    enum { COUNT = 700, DIM = 33 };
    uint64_t keys[COUNT];
    const struct vector_shape shape = {.count = COUNT, .dim = DIM, .type = ELEMENT_U8};
    uint8_t *rows = build_fixture_input(f, ELEMENT_U8, COUNT, DIM);
    for (uint32_t i = 0; i < COUNT; i++)
        keys[i] = random_at(SEED, i);
    build_fixture_write_keys(f, keys, COUNT);
    for (int with_keys = 0; with_keys < 2; with_keys++) {
        struct build_params params = build_fixture_params(f);
        params.keys = with_keys ? f->keys : NULL;
        build_fixture_build(&params, NULL);
        build_fixture_expect_rows(f->output, shape, rows, with_keys ? keys : NULL);
        build_fixture_clear(f);
    }
    free(rows);
}

static void build_handles_tiny_inputs(void **state)
{
    struct build_fixture *f = *state;
    static const uint32_t counts[] = {1, 2, 3, 5, 40};
    static const uint32_t dims[] = {1, 2, 7};
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++)
        for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
            struct build_params params = build_fixture_params(f);
            struct build_summary summary;
            free(build_fixture_input(f, ELEMENT_F32, counts[c], dims[d]));
            params.metric = metrics[(c + d) % 3];
            params.degree = 64;
            params.build_list = 100;
            params.code_bytes = 32;
            build_verified(f, &params, &summary);
            assert_int_equal(summary.manifest.vector_count, counts[c]);
            assert_int_equal(summary.manifest.navigation_count, counts[c]);
            assert_int_equal(summary.manifest.code_bytes, dims[d]); /* lowered to dim */
            build_fixture_clear(f);
            params.codec = CODEC_AUTO;
            build_verified(f, &params, &summary);
            assert_int_equal(summary.manifest.codec_asked, CODEC_AUTO);
            assert_int_equal(summary.manifest.codec_kind, CODEC_PQ); /* too few to choose on */
            build_fixture_clear(f);
            params.codec = CODEC_OPQ;
            build_verified(f, &params, &summary);
            assert_int_equal(summary.manifest.codec_asked, CODEC_NONE);
            assert_int_equal(summary.manifest.codec_kind, CODEC_OPQ);
            build_fixture_clear(f);
            params.codec = CODEC_SCALAR;
            params.code_bytes = 0;
            build_verified(f, &params, &summary);
            assert_int_equal(summary.manifest.codec_kind, CODEC_SCALAR);
            assert_int_equal(summary.manifest.code_bytes,
                             codec_scalar_code_bytes(dims[d], params.metric, 4));
            build_fixture_clear(f);
        }
}

static void build_handles_identical_vectors(void **state)
{
    struct build_fixture *f = *state;
    static const uint32_t counts[] = {5, 10000};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
        struct vector_shape shape = {.count = counts[c], .dim = 4, .type = ELEMENT_U8};
        struct build_summary summary;
        uint8_t *rows = malloc(4 * (size_t)counts[c]);
        assert_non_null(rows);
        memset(rows, 7, 4 * (size_t)counts[c]);
        build_fixture_write(f, shape, rows);
        struct build_params params = build_fixture_params(f);
        build_verified(f, &params, &summary);
        assert_int_equal(summary.manifest.duplicate_vectors, counts[c] - 1);
        build_fixture_clear(f);
        free(rows);
    }
}

static void build_counts_duplicates_exactly(void **state)
{
    struct build_fixture *f = *state;
    enum { COUNT = 400, DIM = 19 };
    struct vector_shape shape = {.count = COUNT, .dim = DIM, .type = ELEMENT_U8};
    struct build_summary summary;
    uint8_t *rows = build_fixture_input(f, ELEMENT_U8, COUNT, DIM);
    /* Rows 100..149 repeat 0..49 and 200..209 repeat row 3. */
    memcpy(rows + 100 * DIM, rows, 50 * DIM);
    for (int i = 200; i < 210; i++)
        memcpy(rows + i * DIM, rows + 3 * DIM, DIM);
    build_fixture_write(f, shape, rows);
    struct build_params params = build_fixture_params(f);
    build_verified(f, &params, &summary);
    assert_int_equal(summary.manifest.duplicate_vectors, 60);
    free(rows);
}

static void build_grows_blocks_for_wide_vectors(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    free(build_fixture_input(f, ELEMENT_F32, 40, VECTOR_DIM_MAX));
    struct build_params params = build_fixture_params(f);
    build_verified(f, &params, &summary);
    assert_true(summary.manifest.geometry.block_bytes > 4 * VECTOR_DIM_MAX);
    assert_int_equal(summary.manifest.geometry.block_bytes % BLOCK_PAGE_BYTES, 0);
    assert_true(summary.manifest.geometry.nodes_per_block >= 1);
}

static void build_uses_the_block_size_asked_for(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    free(build_fixture_input(f, ELEMENT_U8, 500, 16));
    struct build_params params = build_fixture_params(f);
    params.block_bytes = 3 * BLOCK_PAGE_BYTES;
    build_verified(f, &params, &summary);
    assert_int_equal(summary.manifest.geometry.block_bytes, params.block_bytes);
}

static void build_writes_a_report_beside_the_manifest(void **state)
{
    struct build_fixture *f = *state;
    char path[BUILD_FIXTURE_PATH_BYTES + 40];
    char text[8192] = "";
    free(build_fixture_input(f, ELEMENT_U8, 200, 16));
    struct build_params params = build_fixture_params(f);
    struct build_summary summary;
    build_fixture_build(&params, &summary);
    struct digest128 before = build_fixture_digest(f->output);
    snprintf(path, sizeof(path), "%s/%s", f->output, GENERATION_REPORT_NAME);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    size_t length = fread(text, 1, sizeof(text) - 1, in);
    fclose(in);
    assert_true(length > 0);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        assert_non_null(strstr(text, build_stage_name((enum build_stage)stage)));
    assert_non_null(strstr(text, "\"points_per_second_core\""));
    assert_int_equal(unlink(path), 0);
    struct digest128 after = build_fixture_digest(f->output);
    assert_int_equal(before.low, after.low);
    assert_true(summary.disk_bytes >= summary.manifest.files[GENERATION_NODES].bytes);
    assert_true(summary.report.total.peak_rss_bytes > 0);
}

/* ---- hot list ---- */

static void hot_list_keeps_the_nodes_of_a_block_together(void **state)
{
    struct build_fixture *f = *state;
    struct generation *generation = NULL;
    struct error err;
    void *data = NULL;
    size_t bytes = 0;
    free(build_fixture_input(f, ELEMENT_U8, 1500, 16));
    struct build_params params = build_fixture_params(f);
    build_fixture_build(&params, NULL);
    assert_int_equal(generation_open(f->output, &generation, &err), STATUS_OK);
    const struct manifest *m = generation_manifest(generation);
    assert_int_equal(generation_load(generation, GENERATION_HOT, &data, &bytes, &err), STATUS_OK);
    assert_int_equal(bytes, m->hot_count * sizeof(uint32_t));
    const uint32_t *nodes = data;
    uint8_t *block_done = calloc(m->block_count, 1);
    uint8_t *node_done = calloc(m->geometry.node_limit, 1);
    assert_true(block_done && node_done);
    for (uint64_t i = 0; i < m->hot_count; i++) {
        assert_true(nodes[i] < m->geometry.node_limit);
        assert_int_equal(node_done[nodes[i]]++, 0);
        uint32_t block = nodes[i] / m->geometry.nodes_per_block;
        if (i == 0 || nodes[i - 1] / m->geometry.nodes_per_block != block)
            assert_int_equal(block_done[block]++, 0);
    }
    free(block_done);
    free(node_done);
    bulk_free(data, bytes, 1);
    generation_close(generation);
}

/* ---- what is refused ---- */

static void build_rejects_parameters_out_of_range(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_U8, 50, 8));
    struct build_params params = build_fixture_params(f);
    params.degree = 3;
    build_fails(f, &params, STATUS_INVALID, "degree 3 is outside 4..255");
    params.degree = 256;
    build_fails(f, &params, STATUS_INVALID, "degree 256");
    params = build_fixture_params(f);
    params.graph = GRAPH_VAMANA;
    params.build_list = 0;
    build_fails(f, &params, STATUS_INVALID, "build list 0");
    params = build_fixture_params(f);
    params.alpha = 0.99;
    build_fails(f, &params, STATUS_INVALID, "alpha 0.99");
    params.alpha = (double)NAN;
    build_fails(f, &params, STATUS_INVALID, "alpha");
    params = build_fixture_params(f);
    params.code_bytes = 0;
    build_fails(f, &params, STATUS_INVALID, "code bytes 0");
    params = build_fixture_params(f);
    params.block_bytes = 5000;
    build_fails(f, &params, STATUS_INVALID, "5000 is not a multiple of 4096");
    params.block_bytes = 65536;
    build_fails(f, &params, STATUS_INVALID, "block bytes 65536");
    params = build_fixture_params(f);
    params.navigation_share = 1.5;
    build_fails(f, &params, STATUS_INVALID, "navigation share 1.5");
    params = build_fixture_params(f);
    params.metric = METRIC_NONE;
    build_fails(f, &params, STATUS_INVALID, "unknown metric");
    params = build_fixture_params(f);
    params.codec = CODEC_NONE;
    build_fails(f, &params, STATUS_INVALID, "unknown codec");
}

static void build_rejects_a_block_too_small_for_one_record(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_F32, 50, 2000));
    struct build_params params = build_fixture_params(f);
    params.block_bytes = BLOCK_PAGE_BYTES;
    build_fails(f, &params, STATUS_INVALID, "4096");
}

static void build_rejects_i32_and_missing_files(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_I32, 50, 8));
    struct build_params params = build_fixture_params(f);
    build_fails(f, &params, STATUS_INVALID, "i32 elements are ids");
    snprintf(f->input, sizeof(f->input), "%s/missing.fbin", (const char *)f->dir);
    build_fails(f, &params, STATUS_NOT_FOUND, "missing.fbin");
}

static void build_names_the_lowest_bad_row_at_any_thread_count(void **state)
{
    struct build_fixture *f = *state;
    /* Rows of 64 KB put the bad ones into different chunks of the parallel reader. */
    enum { COUNT = 260, DIM = 8192 };
    struct vector_shape shape = {.count = COUNT, .dim = DIM, .type = ELEMENT_F32};
    float *rows = build_fixture_input(f, ELEMENT_F32, COUNT, DIM);
    rows[(size_t)251 * DIM] = INFINITY;
    rows[(size_t)140 * DIM + 3] = NAN;
    rows[(size_t)200 * DIM + 7] = NAN;
    build_fixture_write(f, shape, rows);
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct build_params params = build_fixture_params(f);
        params.threads = threads;
        build_fails(f, &params, STATUS_INVALID, "row 140 has a NaN at dimension 3");
    }
    free(rows);
}

static void build_rejects_zero_vectors_under_cosine_only(void **state)
{
    struct build_fixture *f = *state;
    struct vector_shape shape = {.count = 60, .dim = 8, .type = ELEMENT_U8};
    uint8_t *rows = build_fixture_input(f, ELEMENT_U8, 60, 8);
    memset(rows + 17 * 8, 0, 8);
    build_fixture_write(f, shape, rows);
    free(rows);
    struct build_params params = build_fixture_params(f);
    params.metric = METRIC_COSINE;
    build_fails(f, &params, STATUS_INVALID, "row 17 is a zero vector");
    params.metric = METRIC_IP;
    build_verified(f, &params, NULL);
}

static void build_rejects_norms_beyond_f32(void **state)
{
    struct build_fixture *f = *state;
    struct vector_shape shape = {.count = 60, .dim = 8, .type = ELEMENT_F32};
    float *rows = build_fixture_input(f, ELEMENT_F32, 60, 8);
    rows[21 * 8 + 1] = 2e19f;
    build_fixture_write(f, shape, rows);
    free(rows);
    struct build_params params = build_fixture_params(f);
    build_fails(f, &params, STATUS_INVALID, "row 21 is too long a vector");
}

static void build_rejects_bad_keys(void **state)
{
    struct build_fixture *f = *state;
    uint64_t keys[60];
    free(build_fixture_input(f, ELEMENT_U8, 60, 8));
    for (uint32_t i = 0; i < 60; i++)
        keys[i] = i * 7;
    struct build_params params = build_fixture_params(f);
    params.keys = f->keys;
    build_fails(f, &params, STATUS_NOT_FOUND, "keys.u64bin");
    build_fixture_write_keys(f, keys, 59);
    build_fails(f, &params, STATUS_INVALID, "keys.u64bin");
    keys[44] = keys[11];
    build_fixture_write_keys(f, keys, 60);
    build_fails(f, &params, STATUS_INVALID, "77");
}

static void build_refuses_an_output_that_exists(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    free(build_fixture_input(f, ELEMENT_U8, 200, 8));
    struct build_params params = build_fixture_params(f);
    build_fixture_build(&params, NULL);
    struct digest128 before = build_fixture_digest(f->output);
    for (int i = 0; i < 2; i++) {
        struct build_summary summary;
        params.seed = i == 0 ? 9 : 1;
        assert_int_equal(build_run(&params, &summary, &err), STATUS_EXISTS);
        assert_non_null(strstr(err.text, f->output));
        build_fixture_expect_line(&err);
        assert_false(summary.finished || summary.kept);
        assert_false(fixture_exists(f->work));
        build_fixture_expect_same(build_fixture_digest(f->output), before);
    }
}

static void build_refuses_an_output_it_cannot_create(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_U8, 50, 8));
    snprintf(f->output, sizeof(f->output), "%s/no/such/gen", (const char *)f->dir);
    struct build_params params = build_fixture_params(f);
    struct error err = {0};
    assert_int_not_equal(build_run(&params, NULL, &err), STATUS_OK);
    assert_non_null(strstr(err.text, f->output));
}

static void build_refuses_a_small_budget_and_names_one_that_does(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    free(build_fixture_input(f, ELEMENT_U8, 2000, 16));
    struct build_params params = build_fixture_params(f);
    params.memory_bytes = 1 << 20;
    build_fails(f, &params, STATUS_NO_MEMORY, "the smallest budget that would do is ");
    assert_int_equal(build_run(&params, NULL, &err), STATUS_NO_MEMORY);
    const char *named = strstr(err.text, "would do is ") + strlen("would do is ");
    assert_int_equal(memory_parse(named, &params.memory_bytes, &err), STATUS_OK);
    build_verified(f, &params, NULL);
    build_fixture_clear(f);
    params.memory_bytes -= 1 << 20;
    build_fails(f, &params, STATUS_NO_MEMORY, "the memory budget is");
}

static void build_refuses_more_shards_than_rows_allow(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_U8, 320, 8));
    struct build_params params = build_fixture_params(f);
    params.shards = 6;
    build_fails(f, &params, STATUS_INVALID, "320 vectors can be cut into at most 5 shards");
    params.shards = 5;
    build_verified(f, &params, NULL);
    build_fixture_clear(f);
    params.shards = PARTITION_SHARDS_MAX + 1;
    build_fails(f, &params, STATUS_INVALID, "shards 1001 is outside 0..1000");
}

/* ---- stopping and failing ---- */

static void build_stopped_before_its_first_piece_leaves_nothing(void **state)
{
    struct build_fixture *f = *state;
    atomic_int cancel = 1;
    free(build_fixture_input(f, ELEMENT_U8, 500, 8));
    struct build_params params = build_fixture_params(f);
    params.cancel = &cancel;
    build_fails(f, &params, STATUS_CANCELLED, "interrupted");
}

/* A file size limit stands for a full disk: the same failing write(2), at any point we like. */
static enum status build_limited(const struct build_params *params, rlim_t bytes,
                                 struct build_summary *summary, struct error *err)
{
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    const struct rlimit limit = {.rlim_cur = bytes, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    enum status status = build_run(params, summary, err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    return status;
}

static void build_goes_on_after_a_write_failed(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_U8, 1200, 64));
    struct build_params params = build_fixture_params(f);
    struct digest128 wanted = build_fixture_once(f, &params, NULL);
    signal(SIGXFSZ, SIG_IGN);
    static const rlim_t limits[] = {0, 4096, 20 << 10, 80 << 10};
    for (size_t i = 0; i < ARRAY_LENGTH(limits); i++) {
        struct error err = {0};
        struct build_summary summary;
        assert_int_equal(build_limited(&params, limits[i], &summary, &err), STATUS_IO);
        assert_non_null(strstr(err.text, f->output));
        build_fixture_expect_line(&err);
        assert_false(summary.finished);
        assert_int_equal(summary.kept, limits[i] > 0);
        if (summary.kept)
            assert_string_equal(summary.work_path, f->work);
        assert_int_equal(fixture_exists(f->work), summary.kept);
        assert_int_equal(fixture_exists(f->output), summary.kept);
        build_fixture_expect_same(build_fixture_once(f, &params, NULL), wanted);
    }
    signal(SIGXFSZ, SIG_DFL);
}

static void build_refuses_the_work_of_another(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    struct build_summary summary;
    free(build_fixture_input(f, ELEMENT_U8, 1200, 64));
    struct build_params params = build_fixture_params(f);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(build_limited(&params, 20 << 10, &summary, &err), STATUS_IO);
    signal(SIGXFSZ, SIG_DFL);
    assert_true(summary.kept);
    params.degree = 20;
    assert_int_equal(build_run(&params, &summary, &err), STATUS_EXISTS);
    assert_non_null(strstr(err.text, f->work));
    assert_non_null(strstr(err.text, "degree 24, this one has 20"));
    assert_false(summary.kept);
    params.degree = 24;
    build_verified(f, &params, NULL);
}

static void build_keeps_its_work_where_it_is_told(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary summary;
    free(build_fixture_input(f, ELEMENT_U8, 500, 8));
    struct build_params params = build_fixture_params(f);
    params.work = fixture_path(f->dir, "elsewhere");
    params.keep_work = true;
    build_verified(f, &params, &summary);
    assert_string_equal(summary.work_path, params.work);
    assert_true(fixture_exists(params.work));
    assert_false(fixture_exists(f->work));
}

/* ---- sizes and plans ---- */

static void build_size_grows_with_what_it_depends_on(void **state)
{
    struct build_fixture *f = *state;
    struct build_params params = build_fixture_params(f);
    struct vector_shape shape = {.count = 1000000, .dim = 128, .type = ELEMENT_U8};
    struct build_size base, more;
    build_size_compute(&params, &shape, 1, &base);
    assert_true(base.memory_bytes > 128000000);
    assert_true(base.disk_bytes > base.disk_least_bytes);
    build_size_compute(&params, &shape, 8, &more);
    assert_true(more.memory_bytes < base.memory_bytes / 2);
    shape.count *= 2;
    build_size_compute(&params, &shape, 1, &more);
    assert_true(more.memory_bytes > base.memory_bytes + base.memory_bytes / 2);
    assert_true(more.disk_bytes > base.disk_bytes + base.disk_bytes / 2);
    assert_true(more.scratch_bytes > base.scratch_bytes + base.scratch_bytes / 2);
    shape.count = 1000000;
    params.degree *= 2;
    build_size_compute(&params, &shape, 1, &more);
    assert_true(more.memory_bytes > base.memory_bytes);
    assert_true(more.disk_bytes > base.disk_bytes);
    shape.count = UINT32_MAX - 1; /* the largest of all still adds up */
    shape.dim = VECTOR_DIM_MAX;
    shape.type = ELEMENT_F32;
    build_size_compute(&params, &shape, 1, &more);
    assert_true(more.memory_bytes > (uint64_t)shape.count * shape.dim * 4);
}

static void plan_expect_sound(const struct build_plan *plan)
{
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        assert_true(plan->stage_s[stage] >= 0.0 && isfinite(plan->stage_s[stage]));
        assert_true(build_size_stage_bytes(&plan->size, (enum build_stage)stage, plan->lanes) <=
                    build_size_peak_bytes(&plan->size, plan->lanes));
    }
    assert_true(plan->stage_s[BUILD_STAGE_GRAPH] > 0.0);
    assert_true(plan->stage_s[BUILD_STAGE_SAMPLE] > 0.0);
    assert_true(plan->total_s >= plan->stage_s[BUILD_STAGE_GRAPH]);
}

static void build_plan_estimates_every_stage_and_writes_nothing(void **state)
{
    struct build_fixture *f = *state;
    struct build_plan plan;
    struct error err = {0};
    free(build_fixture_input(f, ELEMENT_F16, 2000, 24));
    struct build_params params = build_fixture_params(f);
    fixture_must(build_plan_make(&params, NULL, &plan, &err), &err);
    assert_int_equal(plan.calibration_rows, 2000);
    assert_int_equal(plan.shape.count, 2000);
    assert_int_equal(plan.size.shard_count, 1);
    assert_true(plan.fits);
    plan_expect_sound(&plan);
    assert_false(fixture_exists(f->output));
    assert_false(fixture_exists(f->work));
}

static void build_plan_needs_no_input(void **state)
{
    struct build_fixture *f = *state;
    struct build_plan plan;
    struct error err = {0};
    struct build_params params = build_fixture_params(f);
    const struct vector_shape shape = {.count = 4000000000, .dim = 4, .type = ELEMENT_I8};
    params.input = NULL;
    params.output = NULL;
    params.memory_bytes = UINT64_C(64) << 30;
    params.build_list = 24;
    fixture_must(build_plan_make(&params, &shape, &plan, &err), &err);
    assert_int_equal(plan.shape.count, shape.count);
    assert_true(plan.size.shard_count > 1);
    assert_true(plan.fits);
    assert_true(build_size_peak_bytes(&plan.size, plan.lanes) <= params.memory_bytes);
    plan_expect_sound(&plan);
    params.memory_bytes = 1 << 20;
    fixture_must(build_plan_make(&params, &shape, &plan, &err), &err);
    assert_false(plan.fits);
    plan_expect_sound(&plan);
}

static void build_plan_names_what_it_cannot_plan(void **state)
{
    struct build_fixture *f = *state;
    struct build_plan plan;
    struct error err = {0};
    struct build_params params = build_fixture_params(f);
    struct vector_shape shape = {.count = UINT64_C(1) << 33, .dim = 4, .type = ELEMENT_U8};
    params.input = NULL;
    assert_int_equal(build_plan_make(&params, &shape, &plan, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "8589934592 vectors"));
    shape.count = 1000;
    params.shards = 100;
    assert_int_equal(build_plan_make(&params, &shape, &plan, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "at most 15 shards"));
}

int main(void)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(build_verifies_for_every_type_and_metric),
        CASE(build_is_identical_at_any_thread_count),
        CASE(build_seed_and_parameters_change_the_generation_id),
        CASE(build_stores_every_vector_once_under_its_key),
        CASE(build_handles_tiny_inputs),
        CASE(build_handles_identical_vectors),
        CASE(build_counts_duplicates_exactly),
        CASE(build_grows_blocks_for_wide_vectors),
        CASE(build_uses_the_block_size_asked_for),
        CASE(build_writes_a_report_beside_the_manifest),
        CASE(hot_list_keeps_the_nodes_of_a_block_together),
        CASE(build_rejects_parameters_out_of_range),
        CASE(build_rejects_a_block_too_small_for_one_record),
        CASE(build_rejects_i32_and_missing_files),
        CASE(build_names_the_lowest_bad_row_at_any_thread_count),
        CASE(build_rejects_zero_vectors_under_cosine_only),
        CASE(build_rejects_norms_beyond_f32),
        CASE(build_rejects_bad_keys),
        CASE(build_refuses_an_output_that_exists),
        CASE(build_refuses_an_output_it_cannot_create),
        CASE(build_refuses_a_small_budget_and_names_one_that_does),
        CASE(build_refuses_more_shards_than_rows_allow),
        CASE(build_stopped_before_its_first_piece_leaves_nothing),
        CASE(build_goes_on_after_a_write_failed),
        CASE(build_refuses_the_work_of_another),
        CASE(build_keeps_its_work_where_it_is_told),
        CASE(build_size_grows_with_what_it_depends_on),
        CASE(build_plan_estimates_every_stage_and_writes_nothing),
        CASE(build_plan_needs_no_input),
        CASE(build_plan_names_what_it_cannot_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
