/*
 * test_scan.c - the scan of the input against a plain computation over rows in memory; bad rows at
 * every place of chunks and pieces; keys; stopping.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/scan.h"
#include "builder/scan_internal.h"
#include "common/distance.h"
#include "common/random.h"
#include "tests/directory_fixture.h"

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[256];
    char keys_path[256];
    struct vector_file *file;
    atomic_int cancel;
    struct build_monitor monitor;
    struct scan_result result;
    int threads;
    struct error err;
};

static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
static const char *const bin_names[] = {"v.u8bin", "v.i8bin", "v.f16bin", "v.fbin"};

/* ---- fixture ---- */

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (!fixture)
        return -1;
    *state = fixture;
    fixture->monitor.cancel = &fixture->cancel;
    fixture->threads = omp_get_max_threads();
    return directory_fixture_create(fixture->directory);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    vector_file_close(fixture->file);
    omp_set_num_threads(fixture->threads);
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    return result;
}

static void write_all(const char *path, const void *head, size_t head_bytes, const void *body,
                      size_t body_bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, head, head_bytes), (ssize_t)head_bytes);
    assert_int_equal(write(fd, body, body_bytes), (ssize_t)body_bytes);
    close(fd);
}

static void open_file(struct fixture *fixture)
{
    vector_file_close(fixture->file);
    fixture->file = NULL;
    assert_int_equal(vector_file_open(fixture->path, &fixture->file, &fixture->err), STATUS_OK);
}

/* Writes packed rows as a .?bin file and opens it. */
static void put_rows(struct fixture *fixture, struct vector_shape shape, const void *rows)
{
    const uint32_t head[2] = {(uint32_t)shape.count, shape.dim};
    const char *name = bin_names[shape.type - ELEMENT_U8];
    snprintf(fixture->path, sizeof(fixture->path), "%s/%s", fixture->directory, name);
    write_all(fixture->path, head, sizeof(head), rows,
              (size_t)shape.count * shape.dim * element_bytes(shape.type));
    open_file(fixture);
}

static const char *put_keys(struct fixture *fixture, const uint64_t *keys, uint32_t count)
{
    const uint32_t head[2] = {count, 1};
    snprintf(fixture->keys_path, sizeof(fixture->keys_path), "%s/k.u64bin", fixture->directory);
    write_all(fixture->keys_path, head, sizeof(head), keys, count * sizeof(*keys));
    return fixture->keys_path;
}

static uint8_t *rows_create(struct vector_shape shape, uint64_t seed)
{
    size_t row_bytes = shape.dim * element_bytes(shape.type);
    size_t elements = (size_t)shape.count * shape.dim;
    uint8_t *rows = malloc((size_t)shape.count * row_bytes);
    float *values = malloc(elements * sizeof(*values));
    assert_non_null(rows);
    assert_non_null(values);
    for (size_t i = 0; i < elements; i++)
        values[i] = (float)random_below(seed, i, 100) + 1.25f;
    element_from_f32(shape.type, values, elements, rows);
    for (uint64_t row = 1; row < shape.count; row++) /* some repeat an earlier one */
        if (random_below(seed + 1, row, 4) == 0)
            memcpy(rows + row * row_bytes, rows + random_below(seed + 2, row, row) * row_bytes,
                   row_bytes);
    free(values);
    return rows;
}

/* ---- reference ---- */

static uint64_t plain_duplicates(const uint8_t *rows, uint64_t count, size_t row_bytes)
{
    uint64_t duplicates = 0;
    for (uint64_t row = 0; row < count; row++) {
        uint64_t earlier = 0;
        while (earlier < row &&
               memcmp(rows + row * row_bytes, rows + earlier * row_bytes, row_bytes) != 0)
            earlier++;
        duplicates += earlier < row;
    }
    return duplicates;
}

/* By the scalar kernels, which the others equal bit by bit. */
static float plain_norm_max(struct vector_shape shape, const uint8_t *rows)
{
    const struct distance_kernels *kernels = distance_kernels_get(shape.type, 0);
    size_t row_bytes = shape.dim * element_bytes(shape.type);
    float norm2_max = 0.0f;
    for (uint64_t row = 0; row < shape.count; row++) {
        const uint8_t *elements = rows + row * row_bytes;
        norm2_max = fmaxf(norm2_max, kernels->dot(elements, elements, shape.dim));
    }
    return sqrtf(norm2_max);
}

static struct scan_result plain_scan(struct vector_shape shape, const uint8_t *rows,
                                     const uint64_t *keys)
{
    size_t row_bytes = shape.dim * element_bytes(shape.type);
    size_t rows_bytes = (size_t)shape.count * row_bytes;
    size_t keys_bytes = keys != NULL ? (size_t)shape.count * sizeof(*keys) : 0;
    uint8_t *all = malloc(rows_bytes + keys_bytes);
    assert_non_null(all);
    memcpy(all, rows, rows_bytes);
    if (keys != NULL)
        memcpy(all + rows_bytes, keys, keys_bytes);
    XXH128_hash_t hash = XXH3_128bits(all, rows_bytes + keys_bytes);
    free(all);
    return (struct scan_result){
        .input_digest = {.low = hash.low64, .high = hash.high64},
        .duplicate_vectors = plain_duplicates(rows, shape.count, row_bytes),
        .norm_max = plain_norm_max(shape, rows),
    };
}

static void assert_results_equal(const struct scan_result *got, const struct scan_result *wanted)
{
    assert_int_equal(got->input_digest.low, wanted->input_digest.low);
    assert_int_equal(got->input_digest.high, wanted->input_digest.high);
    assert_int_equal(got->duplicate_vectors, wanted->duplicate_vectors);
    assert_memory_equal(&got->norm_max, &wanted->norm_max, sizeof(got->norm_max));
}

/* ---- results ---- */

/* In bytes; 1 is one row at a time. */
static const size_t chunkings[][2] = {
    {1, 1}, {700, 100}, {700, 10000}, {3000, 3000}, {1 << 20, 64}};

static void check_rows(struct fixture *fixture, struct vector_shape shape, enum metric metric,
                       bool with_keys)
{
    uint8_t *rows = rows_create(shape, shape.dim * 8 + shape.type);
    uint64_t *keys = malloc((size_t)shape.count * sizeof(*keys));
    assert_non_null(keys);
    for (uint64_t row = 0; row < shape.count; row++)
        keys[row] = random_at(shape.dim, row);
    put_rows(fixture, shape, rows);
    struct scan_params params = {.file = fixture->file, .metric = metric};
    if (with_keys)
        params.keys_path = put_keys(fixture, keys, (uint32_t)shape.count);
    struct scan_result wanted = plain_scan(shape, rows, with_keys ? keys : NULL);
    for (size_t c = 0; c < ARRAY_LENGTH(chunkings); c++) {
        struct scan_result got;
        params.chunk_bytes = chunkings[c][0];
        params.piece_bytes = chunkings[c][1];
        omp_set_num_threads(c % 2 == 0 ? 3 : 1);
        assert_int_equal(scan_run_chunked(&params, &fixture->monitor, &got, &fixture->err),
                         STATUS_OK);
        assert_results_equal(&got, &wanted);
    }
    free(rows);
    free(keys);
}

static void results_are_those_of_a_plain_computation(void **state)
{
    struct fixture *fixture = *state;
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    uint32_t turn = 0;
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (uint32_t dim = 1; dim <= 300; dim += 1 + dim / 4, turn++)
            check_rows(fixture, (struct vector_shape){1 + turn % 40, dim, types[t]},
                       metrics[turn % ARRAY_LENGTH(metrics)], turn % 2 == 0);
    check_rows(fixture, (struct vector_shape){900, 3, ELEMENT_U8}, METRIC_L2, true);
}

/* Through the chunks of a real run: more than two of 16 MB, with rows across their borders. */
static void large_inputs_stream_through_both_buffers(void **state)
{
    struct fixture *fixture = *state;
    struct vector_shape shape = {380000, 100, ELEMENT_I8};
    size_t bytes = (size_t)shape.count * shape.dim;
    uint8_t *rows = calloc(1, bytes); /* all rows alike but these few */
    assert_non_null(rows);
    for (uint32_t i = 0; i < 10; i++)
        rows[i * (bytes / 10) + 7 * i] = (uint8_t)(i + 1);
    put_rows(fixture, shape, rows);
    XXH128_hash_t hash = XXH3_128bits(rows, bytes);
    struct scan_result wanted = {.input_digest = {hash.low64, hash.high64},
                                 .duplicate_vectors = shape.count - 11,
                                 .norm_max = 10.0f};
    for (int threads = 1; threads <= 3; threads += 2) {
        struct scan_result got;
        omp_set_num_threads(threads);
        assert_int_equal(
            scan_run(fixture->file, METRIC_L2, NULL, &fixture->monitor, &got, &fixture->err),
            STATUS_OK);
        assert_results_equal(&got, &wanted);
    }
    free(rows);
}

static void rows_all_equal_are_duplicates_of_the_first(void **state)
{
    struct fixture *fixture = *state;
    enum { DIM = 2 };
    for (uint32_t count = 1; count <= 100000; count *= 10) {
        uint8_t *rows = malloc((size_t)count * DIM);
        assert_non_null(rows);
        memset(rows, 9, (size_t)count * DIM);
        put_rows(fixture, (struct vector_shape){count, DIM, ELEMENT_U8}, rows);
        assert_int_equal(scan_run(fixture->file, METRIC_COSINE, NULL, &fixture->monitor,
                                  &fixture->result, &fixture->err),
                         STATUS_OK);
        assert_int_equal(fixture->result.duplicate_vectors, count - 1);
        free(rows);
    }
}

/* ---- refusals ---- */

enum { BAD_ROWS = 23, BAD_DIM = 3 };

enum fault { FAULT_NAN, FAULT_INFINITY, FAULT_LONG, FAULT_ZERO, FAULT_COUNT };
static const char *const fault_words[] = {
    "has a NaN at dimension 1",
    "has an infinity at dimension 1",
    "is too long a vector: four times its squared norm exceeds f32",
    "is a zero vector, which has no direction under cosine",
};

static void break_row(float *rows, uint32_t row, enum fault fault)
{
    float *values = rows + (size_t)row * BAD_DIM;
    switch (fault) {
    case FAULT_NAN:
        values[1] = NAN;
        break;
    case FAULT_INFINITY:
        values[1] = -INFINITY;
        break;
    case FAULT_LONG:
        values[2] = -1e19f;
        break;
    default:
        memset(values, 0, BAD_DIM * sizeof(*values));
    }
}

/* Scans in chunks of five rows and pieces of two; the error must be `words` of `row`. */
static void assert_row_refused(struct fixture *fixture, uint32_t row, const char *words)
{
    enum { ROW_BYTES = BAD_DIM * sizeof(float) };
    struct scan_params params = {
        .file = fixture->file,
        .metric = METRIC_COSINE,
        .chunk_bytes = 5 * ROW_BYTES,
        .piece_bytes = 2 * ROW_BYTES,
    };
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof(text), "%s: row %u %s", fixture->path, row, words);
    for (int threads = 1; threads <= 4; threads += 3) {
        struct scan_result result, untouched;
        memset(&result, 0xa5, sizeof(result));
        untouched = result;
        omp_set_num_threads(threads);
        enum status status = scan_run_chunked(&params, &fixture->monitor, &result, &fixture->err);
        assert_string_equal(fixture->err.text, text);
        assert_int_equal(status, fixture->err.status);
        assert_memory_equal(&result, &untouched, sizeof(result));
        assert_int_equal(scan_run_chunked(&params, &fixture->monitor, &result, NULL), status);
    }
}

static void the_lowest_bad_row_is_named_wherever_it_lies(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t gaps[] = {1, 2, 5, 11};
    for (uint32_t bad = 0; bad < BAD_ROWS; bad++)
        for (int fault = 0; fault < FAULT_COUNT; fault++) {
            float rows[BAD_ROWS * BAD_DIM];
            for (uint32_t i = 0; i < BAD_ROWS * BAD_DIM; i++)
                rows[i] = (float)i + 1.0f;
            break_row(rows, bad, (enum fault)fault);
            for (uint32_t g = 0; g < ARRAY_LENGTH(gaps); g++) /* others behind, of every kind */
                if (bad + gaps[g] < BAD_ROWS)
                    break_row(rows, bad + gaps[g],
                              (enum fault)((fault + 1 + (int)g) % FAULT_COUNT));
            put_rows(fixture, (struct vector_shape){BAD_ROWS, BAD_DIM, ELEMENT_F32}, rows);
            assert_row_refused(fixture, bad, fault_words[fault]);
        }
}

/* Faults that reading finds and those that checking finds have one order. */
static void unreadable_rows_take_their_turn_among_bad_ones(void **state)
{
    struct fixture *fixture = *state;
    struct {
        uint32_t dim;
        float values[BAD_DIM];
    } rows[BAD_ROWS];
    snprintf(fixture->path, sizeof(fixture->path), "%s/v.fvecs", fixture->directory);
    for (uint32_t bad = 1; bad + 1 < BAD_ROWS; bad++)
        for (uint32_t unreadable = bad - 1; unreadable <= bad + 1; unreadable += 2) {
            if (unreadable == 0) /* the first row's dimension is the file's */
                continue;
            for (uint32_t row = 0; row < BAD_ROWS; row++)
                for (rows[row].dim = 0; rows[row].dim < BAD_DIM; rows[row].dim++)
                    rows[row].values[rows[row].dim] = 1.0f;
            rows[bad].values[1] = NAN;
            rows[unreadable].dim = 4;
            write_all(fixture->path, NULL, 0, rows, sizeof(rows));
            open_file(fixture);
            if (bad < unreadable)
                assert_row_refused(fixture, bad, fault_words[FAULT_NAN]);
            else
                assert_row_refused(fixture, unreadable, "has dimension 4, the first row has 3");
        }
}

static void a_file_cut_after_opening_is_corrupt_behind_its_bad_rows(void **state)
{
    struct fixture *fixture = *state;
    float rows[BAD_ROWS * BAD_DIM];
    for (uint32_t i = 0; i < BAD_ROWS * BAD_DIM; i++)
        rows[i] = 1.0f;
    put_rows(fixture, (struct vector_shape){BAD_ROWS, BAD_DIM, ELEMENT_F32}, rows);
    assert_int_equal(truncate(fixture->path, 8 + 18 * 12), 0);
    assert_int_equal(scan_run(fixture->file, METRIC_L2, NULL, &fixture->monitor, &fixture->result,
                              &fixture->err),
                     STATUS_CORRUPT);
    rows[17 * BAD_DIM + 1] = NAN;
    put_rows(fixture, (struct vector_shape){BAD_ROWS, BAD_DIM, ELEMENT_F32}, rows);
    assert_int_equal(truncate(fixture->path, 8 + 18 * 12), 0);
    assert_row_refused(fixture, 17, fault_words[FAULT_NAN]);
}

/* A vector is refused exactly when four times the square of its norm is infinite in f32. */
static void norms_are_refused_from_the_first_that_overflows(void **state)
{
    struct fixture *fixture = *state;
    float longest = 0x1p63f; /* 4 * 2^126 is 2^128, just too large */
    for (int step = 0; step < 4; step++) {
        put_rows(fixture, (struct vector_shape){1, 1, ELEMENT_F32}, &longest);
        enum status status = scan_run(fixture->file, METRIC_IP, NULL, &fixture->monitor,
                                      &fixture->result, &fixture->err);
        if (step == 0)
            assert_int_equal(status, STATUS_INVALID);
        else {
            assert_int_equal(status, STATUS_OK);
            assert_memory_equal(&fixture->result.norm_max, &longest, sizeof(longest));
        }
        longest = nextafterf(longest, 0.0f);
    }
}

static void zero_vectors_are_refused_under_cosine_only(void **state)
{
    struct fixture *fixture = *state;
    uint8_t rows[4] = {1, 1, 0, 0};
    put_rows(fixture, (struct vector_shape){2, 2, ELEMENT_U8}, rows);
    for (int metric = METRIC_L2; metric <= METRIC_COSINE; metric++)
        assert_int_equal(scan_run(fixture->file, (enum metric)metric, NULL, &fixture->monitor,
                                  &fixture->result, &fixture->err),
                         metric == METRIC_COSINE ? STATUS_INVALID : STATUS_OK);
    assert_non_null(strstr(fixture->err.text, "row 1 is a zero vector"));
}

static void shapes_out_of_limits_are_refused(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        struct vector_shape shape;
        const char *words; /* NULL: accepted */
    } cases[] = {
        {{SCAN_ROWS_MAX, VECTOR_DIM_MAX, ELEMENT_F32}, NULL},
        {{1, 1, ELEMENT_U8}, NULL},
        {{SCAN_ROWS_MAX + 1, 1, ELEMENT_U8},
         "p: 4294967295 vectors; one index holds 1 to 4294967294"},
        {{0, 1, ELEMENT_U8}, "p: 0 vectors;"},
        {{1, 0, ELEMENT_U8}, "p: dimension 0 is outside 1..8192"},
        {{1, VECTOR_DIM_MAX + 1, ELEMENT_U8}, "p: dimension 8193 is outside 1..8192"},
        {{1, 1, ELEMENT_I32}, "p: i32 elements are ids, not vectors"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        enum status status = scan_shape_check("p", &cases[i].shape, &fixture->err);
        assert_int_equal(status, cases[i].words ? STATUS_INVALID : STATUS_OK);
        if (cases[i].words)
            assert_ptr_equal(strstr(fixture->err.text, cases[i].words), fixture->err.text);
    }
}

static void ids_are_not_scanned(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t head[2] = {1, 1}, id = 4;
    snprintf(fixture->path, sizeof(fixture->path), "%s/v.ibin", fixture->directory);
    write_all(fixture->path, head, sizeof(head), &id, sizeof(id));
    open_file(fixture);
    assert_int_equal(scan_run(fixture->file, METRIC_L2, NULL, &fixture->monitor, &fixture->result,
                              &fixture->err),
                     STATUS_INVALID);
    assert_non_null(strstr(fixture->err.text, "v.ibin: i32 elements are ids"));
}

/* ---- keys ---- */

static void assert_keys_refused(struct fixture *fixture, const char *words)
{
    assert_int_equal(scan_run(fixture->file, METRIC_L2, fixture->keys_path, &fixture->monitor,
                              &fixture->result, &fixture->err),
                     STATUS_INVALID);
    assert_non_null(strstr(fixture->err.text, words));
}

static void keys_are_refused_before_rows_are_read(void **state)
{
    struct fixture *fixture = *state;
    float rows[5] = {NAN, 1, 2, 3, 4};
    uint64_t keys[6] = {11, 12, 13, 12, 14, 15};
    put_rows(fixture, (struct vector_shape){5, 1, ELEMENT_F32}, rows);
    put_keys(fixture, keys, 5);
    assert_keys_refused(fixture, "k.u64bin: key 12 is repeated: rows 1 and 3");
    put_keys(fixture, keys, 4);
    assert_keys_refused(fixture, "k.u64bin: 4 keys for 5 vectors");
    put_keys(fixture, keys, 6);
    assert_keys_refused(fixture, "k.u64bin: 6 keys for 5 vectors");
    keys[1] = 16;
    put_keys(fixture, keys, 5);
    assert_keys_refused(fixture, "row 0 has a NaN at dimension 0");
}

/* ---- limits ---- */

static void a_wish_to_stop_comes_before_any_row(void **state)
{
    struct fixture *fixture = *state;
    float rows[2] = {NAN, NAN};
    const uint64_t keys[2] = {4, 4};
    put_rows(fixture, (struct vector_shape){2, 1, ELEMENT_F32}, rows);
    put_keys(fixture, keys, 2);
    atomic_store(&fixture->cancel, 1);
    for (int with_keys = 0; with_keys < 2; with_keys++) {
        assert_int_equal(scan_run(fixture->file, METRIC_L2, with_keys ? fixture->keys_path : NULL,
                                  &fixture->monitor, &fixture->result, &fixture->err),
                         STATUS_CANCELLED);
        assert_non_null(strstr(fixture->err.text, "interrupted"));
    }
}

static void progress_counts_rows_to_the_last(void **state)
{
    struct fixture *fixture = *state;
    uint8_t rows[100] = {1};
    struct progress progress;
    progress_init(&progress, false);
    progress_begin(&progress, "scan", 50, "rows");
    fixture->monitor.progress = &progress;
    put_rows(fixture, (struct vector_shape){50, 2, ELEMENT_U8}, rows);
    struct scan_params params = {
        .file = fixture->file, .metric = METRIC_L2, .chunk_bytes = 14, .piece_bytes = 6};
    assert_int_equal(scan_run_chunked(&params, &fixture->monitor, &fixture->result, &fixture->err),
                     STATUS_OK);
    assert_int_equal(progress.done, 50);
}

static void memory_is_eight_bytes_a_row_and_two_buffers(void **state)
{
    (void)state;
    enum { BUFFER = 16 << 20 };
    uint64_t billion = 1000000000;
    struct vector_shape shape = {billion, 128, ELEMENT_U8};
    assert_int_equal(scan_memory_bytes(&shape), 8 * billion + 2 * BUFFER);
    shape = (struct vector_shape){billion, 1000, ELEMENT_F32}; /* whole rows only */
    assert_int_equal(scan_memory_bytes(&shape), 8 * billion + 2 * (BUFFER / 4000 * 4000));
    shape = (struct vector_shape){10, 3, ELEMENT_F16}; /* no more than there are, if given as f32 */
    assert_int_equal(scan_memory_bytes(&shape), 8 * 10 + 2 * 120);
    shape = (struct vector_shape){1, 1, ELEMENT_U8}; /* a key passes through the buffers */
    assert_int_equal(scan_memory_bytes(&shape), 8 + 2 * 8);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(results_are_those_of_a_plain_computation),
        T(large_inputs_stream_through_both_buffers),
        T(rows_all_equal_are_duplicates_of_the_first),
        T(the_lowest_bad_row_is_named_wherever_it_lies),
        T(unreadable_rows_take_their_turn_among_bad_ones),
        T(a_file_cut_after_opening_is_corrupt_behind_its_bad_rows),
        T(norms_are_refused_from_the_first_that_overflows),
        T(zero_vectors_are_refused_under_cosine_only),
        T(shapes_out_of_limits_are_refused),
        T(ids_are_not_scanned),
        T(keys_are_refused_before_rows_are_read),
        T(a_wish_to_stop_comes_before_any_row),
        T(progress_counts_rows_to_the_last),
        T(memory_is_eight_bytes_a_row_and_two_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
