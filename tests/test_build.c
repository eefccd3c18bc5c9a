/*
 * test_build.c - whole builds of small inputs, in process: what comes out is complete, right and
 * the same at any thread count; what is refused is refused for its reason and leaves nothing
 * behind. Signals, kills and full disks are e2e_build_errors.sh's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
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
#include "common/vector_file.h"
#include "layout/generation.h"
#include "layout/navigation.h"

enum { PATH_BYTES = 600, SEED = 20240607 };

/* ---- fixture: a directory of its own, removed with all that is in it ---- */

struct fixture {
    char dir[256];
    char input[PATH_BYTES];
    char keys[PATH_BYTES];
    char output[PATH_BYTES];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    const char *base = getenv("TMPDIR");
    if (!f)
        return -1;
    snprintf(f->dir, sizeof(f->dir), "%.200s/nightjar-build-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(f->dir)) {
        free(f);
        return -1;
    }
    snprintf(f->keys, sizeof(f->keys), "%s/keys.u64bin", f->dir);
    snprintf(f->output, sizeof(f->output), "%s/gen", f->dir);
    *state = f;
    return 0;
}

/* Removes a directory and the files in it; there is one level of directories in it at most. */
static void tree_remove(const char *path, int depth)
{
    DIR *dir = opendir(path);
    if (!dir)
        return;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char child[2 * PATH_BYTES];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
        if (unlink(child) != 0 && depth > 0)
            tree_remove(child, depth - 1);
    }
    closedir(dir);
    rmdir(path);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tree_remove(f->dir, 1);
    free(f);
    return 0;
}

static bool path_exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

static struct build_params params_for(const struct fixture *f)
{
    return (struct build_params){
        .input = f->input,
        .output = f->output,
        .metric = METRIC_L2,
        .degree = 24,
        .build_list = 40,
        .alpha = 1.2,
        .codec = CODEC_PQ,
        .code_bytes = 8,
        .threads = 2,
        .seed = 1,
        .navigation_share = 0.05,
        .quiet = true,
    };
}

/* ---- inputs ---- */

/* Value d of row i: one of 16 cluster centres and some noise, 1..255. */
static double element_at(uint32_t row, uint32_t d)
{
    uint64_t cluster = random_below(SEED, row, 16);
    double centre = 40.0 + 160.0 * random_unit(SEED + 1 + cluster, d);
    double noise = 40.0 * random_unit(SEED + 100 + row, d) - 20.0;
    return floor(centre + noise);
}

static void rows_fill(const struct vector_shape *shape, void *rows)
{
    float *row = malloc(shape->dim * sizeof(*row));
    assert_non_null(row);
    for (uint32_t i = 0; i < shape->count; i++) {
        for (uint32_t d = 0; d < shape->dim; d++)
            row[d] = (float)(element_at(i, d) - (shape->type == ELEMENT_I8 ? 128.0 : 0.0));
        element_from_f32(shape->type, row, shape->dim,
                         (uint8_t *)rows + (size_t)i * shape->dim * element_bytes(shape->type));
    }
    free(row);
}

static const char *suffix_of(enum element_type type)
{
    switch (type) {
    case ELEMENT_U8:
        return "u8bin";
    case ELEMENT_I8:
        return "i8bin";
    case ELEMENT_F16:
        return "f16bin";
    case ELEMENT_I32:
        return "ibin";
    default:
        return "fbin";
    }
}

/* Writes rows under f->input, replacing what was there. */
static void input_write(struct fixture *f, struct vector_shape shape, const void *rows)
{
    struct vector_writer *writer = NULL;
    struct error err;
    snprintf(f->input, sizeof(f->input), "%s/base.%s", f->dir, suffix_of(shape.type));
    assert_int_equal(vector_writer_open(f->input, shape, &writer, &err), STATUS_OK);
    assert_int_equal(vector_writer_append(writer, rows, shape.count, &err), STATUS_OK);
    assert_int_equal(vector_writer_finish(writer, &err), STATUS_OK);
}

/* Writes clustered rows and returns them, malloc'd. */
static void *input_make(struct fixture *f, enum element_type type, uint32_t count, uint32_t dim)
{
    struct vector_shape shape = {.count = count, .dim = dim, .type = type};
    void *rows = malloc((size_t)count * dim * element_bytes(type));
    assert_non_null(rows);
    rows_fill(&shape, rows);
    input_write(f, shape, rows);
    return rows;
}

static void keys_write(const struct fixture *f, const uint64_t *keys, uint32_t count)
{
    uint32_t header[2] = {count, 1};
    FILE *out = fopen(f->keys, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(header, sizeof(header), 1, out), 1);
    assert_int_equal(fwrite(keys, sizeof(*keys), count, out), count);
    assert_int_equal(fclose(out), 0);
}

/* ---- running and looking ---- */

static void build_ok(const struct build_params *params, struct build_summary *summary)
{
    struct error err = {0};
    enum status status = build_run_summary(params, summary, &err);
    if (status != STATUS_OK)
        print_error("build failed: %s\n", err.text);
    assert_int_equal(status, STATUS_OK);
}

/* The build fails with `status`, says all of `words` (one phrase), and leaves no output. */
static void build_fails(const struct fixture *f, const struct build_params *params,
                        enum status wanted, const char *words)
{
    struct error err = {0};
    enum status status = build_run(params, &err);
    if (status != wanted || !strstr(err.text, words))
        print_error("got %s: %s\nwanted %s: ...%s...\n", status_name(status), err.text,
                    status_name(wanted), words);
    assert_int_equal(status, wanted);
    assert_non_null(strstr(err.text, words));
    assert_false(path_exists(f->output));
}

static struct digest128 verify_and_digest(const char *path)
{
    struct generation *generation = NULL;
    struct digest128 digest = {0};
    struct error err = {0};
    uint64_t blocks = 0;
    enum status status = generation_open(path, &generation, &err);
    if (status == STATUS_OK)
        status = generation_verify(generation, &blocks, &err);
    if (status != STATUS_OK)
        print_error("verify failed: %s\n", err.text);
    assert_int_equal(status, STATUS_OK);
    assert_int_equal(blocks, generation_manifest(generation)->block_count);
    assert_int_equal(generation_digest(generation, &digest, &err), STATUS_OK);
    generation_close(generation);
    return digest;
}

static void build_verified(const struct fixture *f, const struct build_params *params,
                           struct build_summary *summary)
{
    build_ok(params, summary);
    (void)verify_and_digest(f->output);
}

/* Calls check(view, slot, context) for each record on disk. */
typedef void (*record_fn)(const struct block_view *view, uint32_t slot, void *context);
static uint64_t records_visit(const char *path, record_fn check, void *context)
{
    struct generation *generation = NULL;
    struct error err;
    bool direct;
    uint64_t seen = 0;
    assert_int_equal(generation_open(path, &generation, &err), STATUS_OK);
    const struct manifest *m = generation_manifest(generation);
    int fd = generation_nodes_fd(generation, &direct);
    void *block = aligned_alloc(BLOCK_PAGE_BYTES, m->geometry.block_bytes);
    assert_non_null(block);
    for (uint64_t number = 0; number < m->block_count; number++) {
        struct block_view view;
        ssize_t got =
            pread(fd, block, m->geometry.block_bytes, (off_t)(number * m->geometry.block_bytes));
        assert_int_equal(got, m->geometry.block_bytes);
        assert_int_equal(block_open(&m->geometry, number, block, &view), BLOCK_OK);
        for (uint32_t slot = 0; slot < view.record_count; slot++, seen++)
            check(&view, slot, context);
    }
    free(block);
    generation_close(generation);
    return seen;
}

/* ---- what comes out ---- */

static void build_verifies_for_every_type_and_metric(void **state)
{
    struct fixture *f = *state;
    static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++) {
        free(input_make(f, types[t], 300, 20));
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            struct build_params params = params_for(f);
            struct build_summary summary;
            params.metric = metrics[m];
            build_verified(f, &params, &summary);
            assert_int_equal(summary.manifest.vector_count, 300);
            assert_int_equal(summary.manifest.dim, 20);
            assert_int_equal(summary.manifest.type, types[t]);
            assert_int_equal(summary.manifest.metric, metrics[m]);
            assert_int_equal(summary.manifest.navigation_count, 64);
            assert_true(summary.manifest.hot_count > 0);
            assert_true(summary.manifest.norm_max > 0);
            tree_remove(f->output, 0);
        }
    }
}

static void build_is_identical_at_any_thread_count(void **state)
{
    struct fixture *f = *state;
    static const uint32_t threads[] = {1, 2, 5};
    struct digest128 first = {0};
    free(input_make(f, ELEMENT_F32, 2500, 24));
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++) {
        struct build_params params = params_for(f);
        params.threads = threads[i];
        build_ok(&params, NULL);
        struct digest128 digest = verify_and_digest(f->output);
        if (i == 0)
            first = digest;
        assert_int_equal(digest.low, first.low);
        assert_int_equal(digest.high, first.high);
        tree_remove(f->output, 0);
    }
}

static void build_seed_and_parameters_change_the_generation_id(void **state)
{
    struct fixture *f = *state;
    struct build_summary a, b, c;
    free(input_make(f, ELEMENT_U8, 200, 16));
    struct build_params params = params_for(f);
    build_ok(&params, &a);
    tree_remove(f->output, 0);
    params.seed = 2;
    build_ok(&params, &b);
    tree_remove(f->output, 0);
    params.seed = 1;
    params.metric = METRIC_COSINE;
    build_ok(&params, &c);
    assert_int_not_equal(a.manifest.generation_id.low, b.manifest.generation_id.low);
    assert_int_not_equal(a.manifest.generation_id.low, c.manifest.generation_id.low);
    assert_int_equal(a.manifest.input_digest.low, b.manifest.input_digest.low);
}

struct record_check {
    const uint8_t *rows;
    const uint64_t *keys; /* NULL: the row */
    uint8_t *seen;
    uint32_t count;
    size_t row_bytes;
};

static void record_is_its_row(const struct block_view *view, uint32_t slot, void *context)
{
    struct record_check *check = context;
    uint64_t key = block_key(view, slot);
    uint64_t row = key;
    if (check->keys)
        for (row = 0; row < check->count && check->keys[row] != key; row++)
            ;
    assert_true(row < check->count);
    assert_int_equal(check->seen[row], 0);
    check->seen[row] = 1;
    assert_memory_equal(block_vector(view, slot), check->rows + row * check->row_bytes,
                        check->row_bytes);
}

static void build_stores_every_vector_once_under_its_key(void **state)
{
    struct fixture *f = *state;
    enum { COUNT = 700, DIM = 33 };
    uint64_t keys[COUNT];
    uint8_t seen[COUNT];
    uint8_t *rows = input_make(f, ELEMENT_U8, COUNT, DIM);
    for (uint32_t i = 0; i < COUNT; i++)
        keys[i] = random_at(SEED, i);
    keys_write(f, keys, COUNT);
    for (int with_keys = 0; with_keys < 2; with_keys++) {
        struct build_params params = params_for(f);
        struct record_check check = {.rows = rows, .seen = seen, .count = COUNT, .row_bytes = DIM};
        params.keys = with_keys ? f->keys : NULL;
        check.keys = with_keys ? keys : NULL;
        memset(seen, 0, sizeof(seen));
        build_ok(&params, NULL);
        assert_int_equal(records_visit(f->output, record_is_its_row, &check), COUNT);
        tree_remove(f->output, 0);
    }
    free(rows);
}

static void build_handles_tiny_inputs(void **state)
{
    struct fixture *f = *state;
    static const uint32_t counts[] = {1, 2, 3, 5, 40};
    static const uint32_t dims[] = {1, 2, 7};
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++)
        for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
            struct build_params params = params_for(f);
            struct build_summary summary;
            free(input_make(f, ELEMENT_F32, counts[c], dims[d]));
            params.metric = metrics[(c + d) % 3];
            params.degree = 64;
            params.build_list = 100;
            params.code_bytes = 32;
            build_verified(f, &params, &summary);
            assert_int_equal(summary.manifest.vector_count, counts[c]);
            assert_int_equal(summary.manifest.navigation_count, counts[c]);
            assert_int_equal(summary.manifest.code_bytes, dims[d]); /* lowered to dim */
            tree_remove(f->output, 0);
        }
}

static void build_handles_identical_vectors(void **state)
{
    struct fixture *f = *state;
    static const uint32_t counts[] = {5, 10000};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
        struct vector_shape shape = {.count = counts[c], .dim = 4, .type = ELEMENT_U8};
        struct build_summary summary;
        uint8_t *rows = malloc(4 * (size_t)counts[c]);
        assert_non_null(rows);
        memset(rows, 7, 4 * (size_t)counts[c]);
        input_write(f, shape, rows);
        struct build_params params = params_for(f);
        build_verified(f, &params, &summary);
        assert_int_equal(summary.manifest.duplicate_vectors, counts[c] - 1);
        tree_remove(f->output, 0);
        free(rows);
    }
}

static void build_counts_duplicates_exactly(void **state)
{
    struct fixture *f = *state;
    enum { COUNT = 400, DIM = 19 };
    struct vector_shape shape = {.count = COUNT, .dim = DIM, .type = ELEMENT_U8};
    struct build_summary summary;
    uint8_t *rows = input_make(f, ELEMENT_U8, COUNT, DIM);
    /* Rows 100..149 repeat 0..49 and 200..209 repeat row 3. */
    memcpy(rows + 100 * DIM, rows, 50 * DIM);
    for (int i = 200; i < 210; i++)
        memcpy(rows + i * DIM, rows + 3 * DIM, DIM);
    input_write(f, shape, rows);
    struct build_params params = params_for(f);
    build_verified(f, &params, &summary);
    assert_int_equal(summary.manifest.duplicate_vectors, 60);
    free(rows);
}

static void build_grows_blocks_for_wide_vectors(void **state)
{
    struct fixture *f = *state;
    struct build_summary summary;
    free(input_make(f, ELEMENT_F32, 40, VECTOR_DIM_MAX));
    struct build_params params = params_for(f);
    build_verified(f, &params, &summary);
    assert_true(summary.manifest.geometry.block_bytes > 4 * VECTOR_DIM_MAX);
    assert_int_equal(summary.manifest.geometry.block_bytes % BLOCK_PAGE_BYTES, 0);
    assert_true(summary.manifest.geometry.nodes_per_block >= 1);
}

static void build_uses_the_block_size_asked_for(void **state)
{
    struct fixture *f = *state;
    struct build_summary summary;
    free(input_make(f, ELEMENT_U8, 500, 16));
    struct build_params params = params_for(f);
    params.block_bytes = 3 * BLOCK_PAGE_BYTES;
    build_verified(f, &params, &summary);
    assert_int_equal(summary.manifest.geometry.block_bytes, params.block_bytes);
}

static void build_writes_a_report_beside_the_manifest(void **state)
{
    struct fixture *f = *state;
    char path[PATH_BYTES + 40];
    char text[8192] = "";
    free(input_make(f, ELEMENT_U8, 200, 16));
    struct build_params params = params_for(f);
    struct build_summary summary;
    build_ok(&params, &summary);
    struct digest128 before = verify_and_digest(f->output);
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
    struct digest128 after = verify_and_digest(f->output);
    assert_int_equal(before.low, after.low);
    assert_true(summary.disk_bytes >= summary.manifest.files[GENERATION_NODES].bytes);
    assert_true(summary.report.total.peak_rss_bytes > 0);
}

/* ---- hot list ---- */

static void hot_list_keeps_the_nodes_of_a_block_together(void **state)
{
    struct fixture *f = *state;
    struct generation *generation = NULL;
    struct error err;
    void *data = NULL;
    size_t bytes = 0;
    free(input_make(f, ELEMENT_U8, 1500, 16));
    struct build_params params = params_for(f);
    build_ok(&params, NULL);
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
    struct fixture *f = *state;
    free(input_make(f, ELEMENT_U8, 50, 8));
    struct build_params params = params_for(f);
    params.degree = 3;
    build_fails(f, &params, STATUS_INVALID, "degree 3 is outside 4..255");
    params.degree = 256;
    build_fails(f, &params, STATUS_INVALID, "degree 256");
    params = params_for(f);
    params.build_list = 0;
    build_fails(f, &params, STATUS_INVALID, "build list 0");
    params = params_for(f);
    params.alpha = 0.99;
    build_fails(f, &params, STATUS_INVALID, "alpha 0.99");
    params.alpha = (double)NAN;
    build_fails(f, &params, STATUS_INVALID, "alpha");
    params = params_for(f);
    params.code_bytes = 0;
    build_fails(f, &params, STATUS_INVALID, "code bytes 0");
    params = params_for(f);
    params.block_bytes = 5000;
    build_fails(f, &params, STATUS_INVALID, "5000 is not a multiple of 4096");
    params.block_bytes = 65536;
    build_fails(f, &params, STATUS_INVALID, "block bytes 65536");
    params = params_for(f);
    params.navigation_share = 1.5;
    build_fails(f, &params, STATUS_INVALID, "navigation share 1.5");
    params = params_for(f);
    params.metric = METRIC_NONE;
    build_fails(f, &params, STATUS_INVALID, "unknown metric");
    params = params_for(f);
    params.codec = CODEC_NONE;
    build_fails(f, &params, STATUS_INVALID, "unknown codec");
}

static void build_rejects_a_block_too_small_for_one_record(void **state)
{
    struct fixture *f = *state;
    free(input_make(f, ELEMENT_F32, 50, 2000));
    struct build_params params = params_for(f);
    params.block_bytes = BLOCK_PAGE_BYTES;
    build_fails(f, &params, STATUS_INVALID, "4096");
}

static void build_rejects_i32_and_missing_files(void **state)
{
    struct fixture *f = *state;
    free(input_make(f, ELEMENT_I32, 50, 8));
    struct build_params params = params_for(f);
    build_fails(f, &params, STATUS_INVALID, "i32 elements are ids");
    snprintf(f->input, sizeof(f->input), "%s/missing.fbin", f->dir);
    build_fails(f, &params, STATUS_NOT_FOUND, "missing.fbin");
}

static void build_names_the_lowest_bad_row_at_any_thread_count(void **state)
{
    struct fixture *f = *state;
    /* Rows of 64 KB put the bad ones into different chunks of the parallel reader. */
    enum { COUNT = 260, DIM = 8192 };
    struct vector_shape shape = {.count = COUNT, .dim = DIM, .type = ELEMENT_F32};
    float *rows = input_make(f, ELEMENT_F32, COUNT, DIM);
    rows[(size_t)251 * DIM] = INFINITY;
    rows[(size_t)140 * DIM + 3] = NAN;
    rows[(size_t)200 * DIM + 7] = NAN;
    input_write(f, shape, rows);
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct build_params params = params_for(f);
        params.threads = threads;
        build_fails(f, &params, STATUS_INVALID, "row 140 has a NaN at dimension 3");
    }
    free(rows);
}

static void build_rejects_zero_vectors_under_cosine_only(void **state)
{
    struct fixture *f = *state;
    struct vector_shape shape = {.count = 60, .dim = 8, .type = ELEMENT_U8};
    uint8_t *rows = input_make(f, ELEMENT_U8, 60, 8);
    memset(rows + 17 * 8, 0, 8);
    input_write(f, shape, rows);
    free(rows);
    struct build_params params = params_for(f);
    params.metric = METRIC_COSINE;
    build_fails(f, &params, STATUS_INVALID, "row 17 is a zero vector");
    params.metric = METRIC_IP;
    build_verified(f, &params, NULL);
}

static void build_rejects_norms_beyond_f32(void **state)
{
    struct fixture *f = *state;
    struct vector_shape shape = {.count = 60, .dim = 8, .type = ELEMENT_F32};
    float *rows = input_make(f, ELEMENT_F32, 60, 8);
    rows[21 * 8 + 1] = 2e19f;
    input_write(f, shape, rows);
    free(rows);
    struct build_params params = params_for(f);
    build_fails(f, &params, STATUS_INVALID, "row 21 is too long a vector");
}

static void build_rejects_bad_keys(void **state)
{
    struct fixture *f = *state;
    uint64_t keys[60];
    free(input_make(f, ELEMENT_U8, 60, 8));
    for (uint32_t i = 0; i < 60; i++)
        keys[i] = i * 7;
    struct build_params params = params_for(f);
    params.keys = f->keys;
    build_fails(f, &params, STATUS_NOT_FOUND, "keys.u64bin");
    keys_write(f, keys, 59);
    build_fails(f, &params, STATUS_INVALID, "keys.u64bin");
    keys[44] = keys[11];
    keys_write(f, keys, 60);
    build_fails(f, &params, STATUS_INVALID, "77");
}

static void build_refuses_an_output_that_exists(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    free(input_make(f, ELEMENT_U8, 200, 8));
    struct build_params params = params_for(f);
    build_ok(&params, NULL);
    struct digest128 before = verify_and_digest(f->output);
    params.seed = 9;
    assert_int_equal(build_run(&params, &err), STATUS_EXISTS);
    assert_non_null(strstr(err.text, f->output));
    struct digest128 after = verify_and_digest(f->output);
    assert_int_equal(before.low, after.low);
}

static void build_refuses_an_output_it_cannot_create(void **state)
{
    struct fixture *f = *state;
    free(input_make(f, ELEMENT_U8, 50, 8));
    snprintf(f->output, sizeof(f->output), "%s/no/such/gen", f->dir);
    struct build_params params = params_for(f);
    struct error err = {0};
    assert_int_not_equal(build_run(&params, &err), STATUS_OK);
    assert_non_null(strstr(err.text, f->output));
}

static void build_refuses_a_small_budget_and_names_one_that_does(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    free(input_make(f, ELEMENT_U8, 2000, 16));
    struct build_params params = params_for(f);
    params.memory_bytes = 1 << 20;
    build_fails(f, &params, STATUS_NO_MEMORY, "the smallest budget that would do is ");
    assert_int_equal(build_run(&params, &err), STATUS_NO_MEMORY);
    const char *named = strstr(err.text, "would do is ") + strlen("would do is ");
    assert_int_equal(memory_parse(named, &params.memory_bytes, &err), STATUS_OK);
    build_verified(f, &params, NULL);
    tree_remove(f->output, 0);
    params.memory_bytes -= 1 << 20;
    build_fails(f, &params, STATUS_NO_MEMORY, "the memory budget is");
}

static void build_undoes_itself_when_cancelled(void **state)
{
    struct fixture *f = *state;
    atomic_int cancel = 1;
    free(input_make(f, ELEMENT_U8, 500, 8));
    struct build_params params = params_for(f);
    params.cancel = &cancel;
    build_fails(f, &params, STATUS_CANCELLED, "interrupted");
}

/* A file size limit stands for a full disk: the same failing write(2), at any point we like. */
static void build_undoes_itself_when_a_write_fails(void **state)
{
    struct fixture *f = *state;
    struct rlimit before;
    free(input_make(f, ELEMENT_U8, 3000, 64));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    static const rlim_t limits[] = {0, 4096, 40 << 10, 100 << 10};
    for (size_t i = 0; i < ARRAY_LENGTH(limits); i++) {
        struct build_params params = params_for(f);
        struct rlimit limit = {.rlim_cur = limits[i], .rlim_max = before.rlim_max};
        struct error err = {0};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        enum status status = build_run(&params, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, STATUS_IO);
        assert_non_null(strstr(err.text, f->output));
        assert_false(path_exists(f->output));
    }
    signal(SIGXFSZ, SIG_DFL);
}

/* ---- sizes and plans ---- */

static void build_size_grows_with_what_it_depends_on(void **state)
{
    struct fixture *f = *state;
    struct build_params params = params_for(f);
    struct vector_shape shape = {.count = 1000000, .dim = 128, .type = ELEMENT_U8};
    struct build_size base, more;
    build_size_compute(&params, &shape, &base);
    assert_true(base.memory_bytes > base.rows_bytes && base.rows_bytes >= 128000000);
    assert_true(base.disk_bytes > base.disk_least_bytes);
    shape.count *= 2;
    build_size_compute(&params, &shape, &more);
    assert_true(more.memory_bytes > base.memory_bytes + base.memory_bytes / 2);
    assert_true(more.disk_bytes > base.disk_bytes + base.disk_bytes / 2);
    shape.count = 1000000;
    params.degree *= 2;
    build_size_compute(&params, &shape, &more);
    assert_true(more.memory_bytes > base.memory_bytes);
    assert_true(more.disk_bytes > base.disk_bytes);
    shape.count = UINT32_MAX - 1; /* the largest of all still adds up */
    shape.dim = VECTOR_DIM_MAX;
    shape.type = ELEMENT_F32;
    build_size_compute(&params, &shape, &more);
    assert_true(more.memory_bytes > (uint64_t)shape.count * shape.dim * 4);
}

static void build_plan_estimates_every_stage_and_writes_nothing(void **state)
{
    struct fixture *f = *state;
    struct build_plan plan;
    struct error err = {0};
    free(input_make(f, ELEMENT_F16, 2000, 24));
    struct build_params params = params_for(f);
    assert_int_equal(build_plan_make(&params, &plan, &err), STATUS_OK);
    assert_int_equal(plan.calibration_rows, 2000);
    assert_int_equal(plan.shape.count, 2000);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        assert_true(plan.stage_s[stage] > 0.0 && isfinite(plan.stage_s[stage]));
        assert_true(plan.size.stage_memory_bytes[stage] <= plan.size.memory_bytes);
    }
    assert_false(path_exists(f->output));
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
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
        CASE(build_undoes_itself_when_cancelled),
        CASE(build_undoes_itself_when_a_write_fails),
        CASE(build_size_grows_with_what_it_depends_on),
        CASE(build_plan_estimates_every_stage_and_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
