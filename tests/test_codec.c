/*
 * test_codec.c - claims about common/codec*.c: accuracy of codes and estimates, equal bits at any
 * thread count and instruction set, and the parser of codec.bin.
 */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/codec.h"
#include "common/codec_internal.h"
#include "common/cpu.h"
#include "common/random.h"
#include "tests/codec_fixture.h"

enum { SEED = 20240612, HEADER = 64, NORM_MAX_AT = 28 };

static const enum element_type all_types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
static const enum metric all_metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};

/* ---- helpers ---- */

/* `count` rows of `params`: clusters of low intrinsic dimension, values around 60 +- 50. */
static void *make_rows(const struct codec_params *params, size_t count, uint64_t seed)
{
    const uint32_t dim = params->dim;
    uint8_t *rows = malloc(count * dim * element_bytes(params->type));
    float *values = malloc(dim * sizeof(float));
    assert_true(rows && values);
    for (size_t i = 0; i < count; i++) {
        uint64_t cluster = random_below(seed, i, 20);
        for (uint32_t d = 0; d < dim; d++) {
            double value = 60 + 70 * (random_unit(SEED + cluster, d) - 0.5);
            for (uint64_t axis = 0; axis < 4; axis++)
                value += 12 * (random_unit(seed + 1 + axis, i) - 0.5) *
                         (random_unit(SEED + 99 + axis, d) - 0.5);
            values[d] = (float)(value + 4 * (random_unit(seed + 7, i * dim + d) - 0.5));
        }
        element_from_f32(params->type, values, dim, rows + i * dim * element_bytes(params->type));
    }
    free(values);
    return rows;
}

static struct codec_params make_params(enum metric metric, enum element_type type, uint32_t dim,
                                       uint32_t code_bytes)
{
    return (struct codec_params){CODEC_PQ, metric, type, dim, code_bytes, SEED, 0};
}

static struct codec *train(const struct codec_params *params, unsigned features, const void *rows,
                           size_t count)
{
    struct codec *codec = NULL;
    struct error err;
    enum status status = codec_train_with(params, features, rows, count, &codec, &err);
    if (status != STATUS_OK)
        fail_msg("%s", err.text);
    return codec;
}

/* Coordinates that are quantized: ip has one of its own. */
static uint32_t seen_dim(const struct codec_params *params)
{
    return params->dim + (params->metric == METRIC_IP);
}

/* A row as the codec sees it: f32, of unit length for cosine, brought to norm_max by one more
 * coordinate for ip. */
static float *seen_row(const struct codec_params *params, const void *rows, size_t i)
{
    float *out = malloc(seen_dim(params) * sizeof(float));
    assert_non_null(out);
    element_to_f32(params->type,
                   (const uint8_t *)rows + i * params->dim * element_bytes(params->type),
                   params->dim, out);
    if (params->metric == METRIC_COSINE) {
        double sum = 0;
        for (uint32_t d = 0; d < params->dim; d++)
            sum += (double)out[d] * (double)out[d];
        for (uint32_t d = 0; sum > 0 && d < params->dim; d++)
            out[d] = (float)((double)out[d] / sqrt(sum));
    }
    if (params->metric == METRIC_IP) {
        double room = (double)params->norm_max * (double)params->norm_max;
        for (uint32_t d = 0; d < params->dim; d++)
            room -= (double)out[d] * (double)out[d];
        out[params->dim] = room > 0 ? (float)sqrt(room) : 0;
    }
    return out;
}

/* Centroid `j` of subspace `m`, found in codec.bin from its description alone; *first and *dims say
 * what it covers. */
static const float *file_centroid(const struct codec_params *params, const uint8_t *file,
                                  uint32_t m, uint32_t j, uint32_t *first, uint32_t *dims)
{
    uint32_t seen = seen_dim(params);
    uint32_t share = seen / params->code_bytes, extra = seen % params->code_bytes;
    *first = m * share + (m < extra ? m : extra);
    *dims = share + (m < extra ? 1 : 0);
    return (const float *)(const void *)(file + HEADER) + *first * 256 + j * *dims;
}

/* The vector that a code stands for. */
static float *decode(const struct codec_params *params, const uint8_t *file, const uint8_t *code)
{
    float *out = malloc(seen_dim(params) * sizeof(float));
    assert_non_null(out);
    for (uint32_t m = 0; m < params->code_bytes; m++) {
        uint32_t first, dims;
        const float *centroid = file_centroid(params, file, m, code[m], &first, &dims);
        memcpy(out + first, centroid, dims * sizeof(float));
    }
    return out;
}

static double squared(const float *a, const float *b, uint32_t dim)
{
    double sum = 0;
    for (uint32_t d = 0; d < dim; d++)
        sum += ((double)a[d] - (double)b[d]) * ((double)a[d] - (double)b[d]);
    return sum;
}

/* Sum of squared distances between rows and what their codes stand for. */
static double reconstruction_error(const struct codec *codec, const void *rows, size_t count)
{
    struct codec_params params = codec_params_of(codec);
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length),
            *codes = codec_fixture_encode(codec, rows, count);
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        float *row = seen_row(&params, rows, i);
        float *decoded = decode(&params, file, codes + i * params.code_bytes);
        sum += squared(row, decoded, seen_dim(&params));
        free(decoded);
        free(row);
    }
    free(codes);
    free(file);
    return sum;
}

/* ---- accuracy ---- */

static void codec_reconstructs_better_with_more_bytes(void **state)
{
    (void)state;
    enum { COUNT = 600, DIM = 24 };
    static const uint32_t sizes[] = {1, 2, 5, 12, 24};
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, DIM, 1);
    void *rows = make_rows(&params, COUNT, SEED);
    double before = INFINITY;
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        params.code_bytes = sizes[i];
        struct codec *codec = train(&params, cpu_features(), rows, COUNT);
        double error = reconstruction_error(codec, rows, COUNT);
        assert_true(error < before);
        before = error;
        codec_destroy(codec);
    }
    free(rows);
}

/* The k ids of smallest distance, ties to the lower. */
static void nearest_ids(const float *distances, uint32_t count, uint32_t k, uint32_t *ids)
{
    for (uint32_t i = 0, found = 0; i < count; i++) {
        uint32_t at = found < k ? found++ : k;
        for (; at > 0 && distances[i] < distances[ids[at - 1]]; at--) {
            if (at < k)
                ids[at] = ids[at - 1];
        }
        if (at < k)
            ids[at] = i;
    }
}

static uint32_t common_ids(const uint32_t *a, const uint32_t *b, uint32_t k)
{
    uint32_t common = 0;
    for (uint32_t i = 0; i < k; i++) {
        for (uint32_t j = 0; j < k; j++)
            common += a[i] == b[j];
    }
    return common;
}

/* Recall@10 of codes alone against exact neighbours, mean over queries. */
static double recall_of_codes(enum metric metric, uint32_t code_bytes)
{
    enum { COUNT = 1500, DIM = 32, QUERIES = 20, K = 10 };
    struct codec_params params = make_params(metric, ELEMENT_F32, DIM, code_bytes);
    float *rows = make_rows(&params, COUNT, SEED), *queries = make_rows(&params, QUERIES, 5);
    struct codec *codec = train(&params, cpu_features(), rows, COUNT);
    uint8_t *codes = codec_fixture_encode(codec, rows, COUNT);
    uint32_t ids[COUNT], found = 0;
    float exact[COUNT], estimates[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        ids[i] = i;
    for (size_t q = 0; q < QUERIES; q++) {
        float *table = codec_fixture_table(codec, queries + q * DIM),
              *query = seen_row(&params, queries, q);
        codec_table_gather(codec, table, codes, ids, COUNT, estimates);
        for (size_t i = 0; i < COUNT; i++) {
            float *row = seen_row(&params, rows, i);
            exact[i] = (float)squared(query, row, DIM);
            free(row);
        }
        uint32_t wanted[K] = {0}, got[K] = {0};
        nearest_ids(exact, COUNT, K, wanted);
        nearest_ids(estimates, COUNT, K, got);
        found += common_ids(wanted, got, K);
        free(query);
        free(table);
    }
    free(codes);
    codec_destroy(codec);
    free(queries);
    free(rows);
    return (double)found / (QUERIES * K);
}

static void codes_alone_find_most_neighbours_in_clustered_data(void **state)
{
    (void)state;
    double l2 = recall_of_codes(METRIC_L2, 16), cosine = recall_of_codes(METRIC_COSINE, 16);
    print_message("recall@10 of 16-byte codes: l2 %.3f, cosine %.3f\n", l2, cosine);
    assert_true(l2 >= 0.7);
    assert_true(cosine >= 0.7);
    assert_true(recall_of_codes(METRIC_L2, 4) < l2);
}

/* The estimate that codec_internal.h defines, in double, of a decoded vector; *magnitude is the
 * size of what is summed on the way, which bounds rounding. */
static double defined_estimate(const struct codec_params *params, const float *query,
                               const float *decoded, double *magnitude)
{
    double scale = 1, factor = 1, offset = 0, norm = 0, sum = 0;
    if (params->metric == METRIC_COSINE)
        factor = 0.5; /* the query is of unit length already */
    if (params->metric == METRIC_IP) {
        for (uint32_t d = 0; d < params->dim; d++)
            norm += (double)query[d] * (double)query[d];
        norm = sqrt(norm);
        scale = (double)params->norm_max / norm;
        factor = 0.5 * norm / (double)params->norm_max;
        offset = -norm * (double)params->norm_max;
    }
    *magnitude = fabs(offset);
    for (uint32_t d = 0; d < seen_dim(params); d++) {
        double q = d < params->dim ? (double)query[d] * scale : 0, c = (double)decoded[d];
        sum += (q - c) * (q - c);
        /* The unit vectors of test and codec may differ in their last bit. */
        *magnitude += factor * (q - c) * (q - c);
        *magnitude += params->metric == METRIC_COSINE ? fabs(q * c) * 1e-2 : 0;
    }
    return sum * factor + offset;
}

/* Estimates against the definition, from the decoded vectors. */
static void check_estimates(const struct codec_params *asked)
{
    enum { COUNT = 70 };
    void *rows = make_rows(asked, COUNT, SEED), *queries = make_rows(asked, 1, 3);
    struct codec *codec = train(asked, cpu_features(), rows, COUNT);
    struct codec_params params = codec_params_of(codec);
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length),
            *codes = codec_fixture_encode(codec, rows, COUNT);
    float *table = codec_fixture_table(codec, queries), *query = seen_row(&params, queries, 0);
    uint32_t ids[COUNT];
    float estimates[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        ids[i] = (i * 31) % COUNT;
    codec_table_gather(codec, table, codes, ids, COUNT, estimates);
    for (size_t i = 0; i < COUNT; i++) {
        float *decoded = decode(&params, file, codes + (size_t)ids[i] * params.code_bytes);
        double magnitude;
        double wanted = defined_estimate(&params, query, decoded, &magnitude);
        assert_true(fabs((double)estimates[i] - wanted) <= 1e-5 * magnitude);
        free(decoded);
    }
    free(query);
    free(table);
    free(codes);
    free(file);
    codec_destroy(codec);
    free(queries);
    free(rows);
}

static void estimates_equal_decoding_and_measuring(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LENGTH(all_types); t++) {
        for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++) {
            struct codec_params params = make_params(all_metrics[m], all_types[t], 21, 9);
            check_estimates(&params);
        }
    }
}

/* With fewer rows than centroids each part of a row has a centroid of its own, so what is decoded
 * is what the codec saw: under ip, with the coordinate that brings the row to the largest norm. */
static void ip_rows_are_seen_at_the_largest_norm(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    struct codec_params params = make_params(METRIC_IP, ELEMENT_F32, 21, 9);
    void *rows = make_rows(&params, COUNT, SEED);
    struct codec *codec = train(&params, cpu_features(), rows, COUNT);
    float norm_max = codec_params_of(codec).norm_max;
    double error = reconstruction_error(codec, rows, COUNT);
    assert_true(norm_max > 0);
    assert_true(error <= 1e-6 * COUNT * (double)norm_max * (double)norm_max);
    codec_destroy(codec);
    free(rows);
}

static void any_code_size_fits_any_dimension(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1},   {2, 1},  {7, 7},   {16, 16}, {37, 8},
                                         {37, 36}, {40, 1}, {600, 1}, {600, 2}, {601, 67}};
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        struct codec_params params =
            make_params(METRIC_L2, ELEMENT_F32, shapes[i][0], shapes[i][1]);
        check_estimates(&params);
    }
}

static void codes_name_the_nearest_centroid(void **state)
{
    (void)state;
    /* 300 dimensions a subspace: more than the encoder converts at once. */
    enum { COUNT = 330, DIM = 610, BYTES = 2, CHECKED = 20 };
    struct codec_params params = make_params(METRIC_L2, ELEMENT_U8, DIM, BYTES);
    void *rows = make_rows(&params, COUNT, SEED);
    struct codec *codec = train(&params, cpu_features(), rows, COUNT);
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length),
            *codes = codec_fixture_encode(codec, rows, COUNT);
    for (size_t i = 0; i < CHECKED; i++) {
        float *row = seen_row(&params, rows, i);
        for (uint32_t m = 0; m < BYTES; m++) {
            uint32_t first, dims;
            double least = INFINITY, found = 0;
            for (uint32_t j = 0; j < 256; j++) {
                const float *centroid = file_centroid(&params, file, m, j, &first, &dims);
                double distance = squared(row + first, centroid, dims);
                least = fmin(least, distance);
                found = j == codes[i * BYTES + m] ? distance : found;
            }
            assert_true(found <= least * (1 + 1e-5) + 1e-6);
        }
        free(row);
    }
    free(codes);
    free(file);
    codec_destroy(codec);
    free(rows);
}

static void cosine_ignores_length_and_survives_zero(void **state)
{
    (void)state;
    enum { COUNT = 64, DIM = 12, BYTES = 4 };
    struct codec_params params = make_params(METRIC_COSINE, ELEMENT_F32, DIM, BYTES);
    float *rows = make_rows(&params, COUNT, SEED), scaled[2 * DIM] = {0};
    memset(rows + DIM, 0, DIM * sizeof(float));
    struct codec *codec = train(&params, cpu_features(), rows, COUNT);
    for (size_t d = 0; d < DIM; d++)
        scaled[d] = rows[d] * 1024;
    uint8_t *codes = codec_fixture_encode(codec, rows, 2),
            *again = codec_fixture_encode(codec, scaled, 2);
    assert_memory_equal(codes, again, 2 * BYTES);
    float *table = codec_fixture_table(codec, rows), *same = codec_fixture_table(codec, scaled);
    assert_memory_equal(table, same, codec_table_bytes(codec));
    float *zero = codec_fixture_table(codec, scaled + DIM), estimates[2];
    static const uint32_t ids[2] = {0, 1};
    codec_table_gather(codec, zero, codes, ids, 2, estimates);
    assert_true(isfinite(estimates[0]) && isfinite(estimates[1]));
    free(zero);
    free(same);
    free(table);
    free(again);
    free(codes);
    codec_destroy(codec);
    free(rows);
}

static void codec_of_constant_or_single_rows_is_exact(void **state)
{
    (void)state;
    enum { COUNT = 300, DIM = 10 };
    uint8_t rows[COUNT * DIM];
    memset(rows, 77, sizeof(rows));
    static const size_t counts[] = {1, 2, COUNT};
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++) {
            struct codec_params params = make_params(all_metrics[m], ELEMENT_U8, DIM, 3);
            struct codec *codec = train(&params, cpu_features(), rows, counts[i]);
            assert_true(reconstruction_error(codec, rows, counts[i]) < 1e-10);
            codec_destroy(codec);
        }
    }
}

/* ---- equal bits ---- */

static void codec_bytes_do_not_depend_on_threads(void **state)
{
    (void)state;
    enum { COUNT = 1100, DIM = 11 };
    int threads_before = omp_get_max_threads();
    for (uint32_t bytes = 1; bytes <= 4; bytes += 3) {
        struct codec_params params = make_params(METRIC_COSINE, ELEMENT_I8, DIM, bytes);
        void *rows = make_rows(&params, COUNT, SEED);
        uint8_t *reference = NULL;
        size_t wanted = 0;
        for (int threads = 1; threads <= 2; threads++) {
            omp_set_num_threads(threads);
            struct codec *codec = train(&params, cpu_features(), rows, COUNT);
            size_t length;
            uint8_t *file = codec_fixture_serialize(codec, &length);
            if (!reference) {
                reference = file;
                wanted = length;
            } else {
                assert_int_equal(length, wanted);
                assert_memory_equal(file, reference, length);
                free(file);
            }
            codec_destroy(codec);
        }
        free(reference);
        free(rows);
    }
    omp_set_num_threads(threads_before);
}

static const unsigned isa_levels[] = {CPU_AVX2, CPU_AVX2 | CPU_AVX512};

static bool level_missing(unsigned level)
{
    if ((level & cpu_features()) == level)
        return false;
    print_message("skipped: no %s here\n", cpu_features_name(level));
    return true;
}

static void check_level(const struct codec_params *params, unsigned level)
{
    enum { COUNT = 290 };
    void *rows = make_rows(params, COUNT, SEED);
    struct codec *a = train(params, 0, rows, COUNT), *b = train(params, level, rows, COUNT);
    size_t a_length, b_length;
    uint8_t *a_file = codec_fixture_serialize(a, &a_length),
            *b_file = codec_fixture_serialize(b, &b_length);
    assert_int_equal(a_length, b_length);
    assert_memory_equal(a_file, b_file, a_length);
    uint8_t *a_codes = codec_fixture_encode(a, rows, COUNT),
            *b_codes = codec_fixture_encode(b, rows, COUNT);
    assert_memory_equal(a_codes, b_codes, COUNT * params->code_bytes);
    float *a_table = codec_fixture_table(a, rows), *b_table = codec_fixture_table(b, rows);
    assert_memory_equal(a_table, b_table, codec_table_bytes(a));
    uint32_t ids[COUNT];
    float a_out[COUNT], b_out[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        ids[i] = COUNT - 1 - i;
    codec_table_gather(a, a_table, a_codes, ids, COUNT, a_out);
    codec_table_gather(b, b_table, b_codes, ids, COUNT, b_out);
    assert_memory_equal(a_out, b_out, sizeof(a_out));
    free(b_table);
    free(a_table);
    free(b_codes);
    free(a_codes);
    free(b_file);
    free(a_file);
    codec_destroy(b);
    codec_destroy(a);
    free(rows);
}

static void every_instruction_set_gives_the_same_codec(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(isa_levels); i++) {
        if (level_missing(isa_levels[i]))
            continue;
        for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++) {
            struct codec_params params = make_params(all_metrics[m], all_types[m + 1], 13, 5);
            check_level(&params, isa_levels[i]);
        }
    }
}

enum { KERNEL_DIMS_MAX = 257, KERNEL_COUNT_MAX = 11 };

/* Inputs of one size for all kernels: values of many magnitudes, in buffers of exact length. */
struct kernel_case {
    size_t dims, count;
    float *vectors; /* count x dims */
    float *lanes;   /* count groups */
};

static float *random_floats(size_t count, uint64_t seed)
{
    float *out = aligned_alloc(64, (count * sizeof(float) + 63) & ~(size_t)63);
    assert_non_null(out);
    for (size_t i = 0; i < count; i++) {
        int exponent = (int)random_below(seed, 2 * i, 24) - 12;
        out[i] = (float)ldexp(random_unit(seed, 2 * i + 1) - 0.5, exponent);
    }
    return out;
}

struct kernel_out {
    ALIGNED(64) float tile[2][KERNEL_COUNT_MAX * CODEC_LANES];
    ALIGNED(64) float best[CODEC_LANES];
    ALIGNED(64) uint32_t labels[CODEC_LANES];
    ALIGNED(64) float l2[KERNEL_COUNT_MAX * CODEC_LANES];
    ALIGNED(64) float nearest[KERNEL_COUNT_MAX * CODEC_LANES];
    ALIGNED(64) float sums[2][CODEC_LANES];
};

static void run_kernels(const struct codec_pq_kernels *kernels, const struct kernel_case *c,
                        struct kernel_out *out)
{
    memset(out, 0, sizeof(*out));
    struct codec_pq_tile tile = {c->lanes, c->vectors,   c->dims, c->dims,
                                 c->count, out->tile[0], true};
    kernels->accumulate(&tile);
    /* In two halves, the second going on from the first. */
    tile.distances = out->tile[1];
    tile.dims = c->dims / 2;
    kernels->accumulate(&tile);
    tile.points += tile.dims * CODEC_LANES;
    tile.centroids += tile.dims;
    tile.dims = c->dims - tile.dims;
    tile.fresh = false;
    kernels->accumulate(&tile);
    for (size_t lane = 0; lane < CODEC_LANES; lane++)
        out->best[lane] = INFINITY;
    kernels->argmin(out->tile[0], c->count, 0, out->best, out->labels);
    kernels->argmin(out->tile[0], c->count, 100, out->best, out->labels);
    kernels->group_l2(c->vectors, c->dims, c->lanes, c->count, 0.5f, out->l2);
    for (size_t i = 0; i < KERNEL_COUNT_MAX * CODEC_LANES; i++)
        out->nearest[i] = (float)i;
    kernels->seed(c->vectors, c->dims, c->lanes, c->count, false, out->nearest, out->sums[0]);
    kernels->seed(c->vectors, c->dims, c->lanes, c->count, true, out->nearest, out->sums[1]);
}

static void every_instruction_set_has_kernels_of_equal_bits(void **state)
{
    (void)state;
    static struct kernel_out wanted, got;
    for (size_t i = 0; i < ARRAY_LENGTH(isa_levels); i++) {
        if (level_missing(isa_levels[i]))
            continue;
        for (size_t dims = 0; dims <= KERNEL_DIMS_MAX; dims += dims < 20 ? 1 : 79) {
            for (size_t count = 1; count <= KERNEL_COUNT_MAX; count++) {
                struct kernel_case c = {dims, count, random_floats(dims * count + 1, SEED + dims),
                                        random_floats(dims * count * CODEC_LANES + 1, SEED)};
                run_kernels(codec_pq_kernels_get(0), &c, &wanted);
                run_kernels(codec_pq_kernels_get(isa_levels[i]), &c, &got);
                assert_memory_equal(&got, &wanted, sizeof(got));
                assert_memory_equal(wanted.tile[0], wanted.tile[1], sizeof(wanted.tile[0]));
                free(c.lanes);
                free(c.vectors);
            }
        }
    }
}

static void rows_encode_alike_alone_and_together(void **state)
{
    (void)state;
    enum { COUNT = 53, DIM = 9, BYTES = 4 };
    struct codec_params params = make_params(METRIC_COSINE, ELEMENT_F16, DIM, BYTES);
    uint16_t *rows = make_rows(&params, COUNT, SEED);
    struct codec *codec = train(&params, cpu_features(), rows, COUNT);
    uint8_t *together = codec_fixture_encode(codec, rows, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        uint8_t alone[BYTES];
        codec_encode(codec, rows + i * DIM, 1, alone);
        assert_memory_equal(alone, together + i * BYTES, BYTES);
    }
    free(together);
    codec_destroy(codec);
    free(rows);
}

/* Every code size takes its own path through lookups and prefetches; alignment must not matter. */
static void estimates_do_not_depend_on_where_codes_lie(void **state)
{
    (void)state;
    enum { COUNT = 40, DIM = 140 };
    for (uint32_t bytes = 1; bytes <= DIM; bytes += bytes < 17 ? 1 : 41) {
        struct codec_params params = make_params(METRIC_IP, ELEMENT_I8, DIM, bytes);
        void *rows = make_rows(&params, COUNT, SEED);
        struct codec *codec = train(&params, cpu_features(), rows, COUNT);
        uint8_t *codes = codec_fixture_encode(codec, rows, COUNT),
                *moved = malloc(COUNT * bytes + 1);
        assert_non_null(moved);
        memcpy(moved + 1, codes, COUNT * bytes);
        float *table = codec_fixture_table(codec, rows), out[COUNT], again[COUNT];
        uint32_t ids[COUNT];
        for (uint32_t i = 0; i < COUNT; i++)
            ids[i] = (i * 7) % COUNT;
        codec_table_gather(codec, table, codes, ids, COUNT, out);
        for (uint32_t i = 0; i < COUNT; i++)
            codec_table_gather(codec, table, moved + 1, ids + i, 1, again + i);
        assert_memory_equal(out, again, sizeof(out));
        codec_table_gather(codec, table, codes, ids, 0, out);
        free(table);
        free(moved);
        free(codes);
        codec_destroy(codec);
        free(rows);
    }
}

/* ---- parameters and codec.bin ---- */

static void train_refuses_bad_parameters(void **state)
{
    (void)state;
    const struct codec_params good = make_params(METRIC_L2, ELEMENT_F32, 4, 2);
    struct codec_params bad[8];
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++)
        bad[i] = good;
    bad[0].kind = CODEC_NONE;
    bad[1].metric = METRIC_NONE;
    bad[2].type = ELEMENT_I32;
    bad[3].type = ELEMENT_NONE;
    bad[4].dim = 0;
    bad[5].dim = VECTOR_DIM_MAX + 1;
    bad[6].code_bytes = 0;
    bad[7].code_bytes = 5;
    float rows[8] = {0};
    struct codec *codec = NULL;
    struct error err;
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        assert_int_equal(codec_train(&bad[i], rows, 2, &codec, &err), STATUS_INVALID);
        assert_null(codec);
    }
    assert_int_equal(codec_train(&good, rows, 0, &codec, &err), STATUS_INVALID);
    rows[6] = NAN;
    assert_int_equal(codec_train(&good, rows, 2, &codec, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "row 1"));
    assert_non_null(strstr(err.text, "dimension 2"));
    assert_null(codec);
}

static struct codec *small_codec(void)
{
    struct codec_params params = make_params(METRIC_IP, ELEMENT_I8, 5, 2);
    void *rows = make_rows(&params, 40, SEED);
    struct codec *codec = train(&params, cpu_features(), rows, 40);
    free(rows);
    return codec;
}

static void codec_survives_serialisation(void **state)
{
    (void)state;
    struct codec *codec = small_codec(), *copy = NULL;
    struct error err;
    size_t length, copy_length;
    uint8_t *file = codec_fixture_serialize(codec, &length);
    assert_int_equal(codec_deserialize(file, length, &copy, &err), STATUS_OK);
    uint8_t *again = codec_fixture_serialize(copy, &copy_length);
    assert_int_equal(length, copy_length);
    assert_memory_equal(file, again, length);
    struct codec_params a = codec_params_of(codec), b = codec_params_of(copy);
    assert_int_equal(a.kind, b.kind);
    assert_int_equal(a.metric, b.metric);
    assert_int_equal(a.type, b.type);
    assert_int_equal(a.dim, b.dim);
    assert_int_equal(a.code_bytes, b.code_bytes);
    assert_true(a.seed == b.seed);
    static const int8_t query[5] = {1, -2, 3, -4, 5};
    float *table = codec_fixture_table(codec, query),
          *copy_table = codec_fixture_table(copy, query);
    assert_memory_equal(table, copy_table, codec_table_bytes(codec));
    free(copy_table);
    free(table);
    free(again);
    free(file);
    codec_destroy(copy);
    codec_destroy(codec);
    codec_destroy(NULL);
}

static void codec_file_is_laid_out_as_documented(void **state)
{
    (void)state;
    static const uint8_t wanted[HEADER] = {'N',
                                           'J',
                                           'C',
                                           'D',
                                           1,
                                           0,
                                           0,
                                           0,
                                           1,
                                           0,
                                           0,
                                           0,
                                           2,
                                           0,
                                           0,
                                           0,
                                           2,
                                           0,
                                           0,
                                           0,
                                           5,
                                           0,
                                           0,
                                           0,
                                           2,
                                           0,
                                           0,
                                           0,
                                           0,
                                           0,
                                           0,
                                           0,
                                           SEED & 255,
                                           SEED >> 8 & 255,
                                           SEED >> 16 & 255,
                                           SEED >> 24};
    struct codec *codec = small_codec();
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length);
    assert_int_equal(length, HEADER + 1024 * 6); /* ip has a coordinate of its own */
    float norm_max;
    memcpy(&norm_max, file + NORM_MAX_AT, sizeof(norm_max));
    assert_true(norm_max > 0 && norm_max == codec_params_of(codec).norm_max);
    memset(file + NORM_MAX_AT, 0, sizeof(norm_max));
    assert_memory_equal(file, wanted, HEADER);
    free(file);
    codec_destroy(codec);
}

static void expect_refused(const uint8_t *file, size_t length, enum status wanted)
{
    /* Of exact length on the heap, so that a sanitizer sees any byte read beyond. */
    uint8_t *copy = malloc(length > 0 ? length : 1);
    assert_non_null(copy);
    memcpy(copy, file, length);
    struct codec *codec = NULL;
    struct error err;
    assert_int_equal(codec_deserialize(copy, length, &codec, &err), wanted);
    assert_null(codec);
    free(copy);
}

static void codec_file_of_wrong_length_is_refused(void **state)
{
    (void)state;
    struct codec *codec = small_codec();
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length), *longer = calloc(1, length + 1);
    assert_non_null(longer);
    memcpy(longer, file, length);
    for (size_t cut = 0; cut < length; cut += cut < 100 ? 1 : 97)
        expect_refused(file, cut, STATUS_CORRUPT);
    expect_refused(file, length - 1, STATUS_CORRUPT);
    expect_refused(longer, length + 1, STATUS_CORRUPT);
    free(longer);
    free(file);
    codec_destroy(codec);
}

static void codec_file_with_wrong_fields_is_refused(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        uint32_t value;
        enum status status;
    } faults[] = {
        {0, 0x44434a4d, STATUS_CORRUPT},  {4, 2, STATUS_UNSUPPORTED},
        {4, 0, STATUS_UNSUPPORTED},       {8, 0, STATUS_UNSUPPORTED},
        {8, 77, STATUS_UNSUPPORTED},      {12, 0, STATUS_CORRUPT},
        {12, 4, STATUS_CORRUPT},          {16, 0, STATUS_CORRUPT},
        {16, 5, STATUS_CORRUPT},          {16, UINT32_MAX, STATUS_CORRUPT},
        {20, 0, STATUS_CORRUPT},          {20, 4, STATUS_CORRUPT},
        {20, 8193, STATUS_CORRUPT},       {20, UINT32_MAX, STATUS_CORRUPT},
        {24, 0, STATUS_CORRUPT},          {24, 6, STATUS_CORRUPT},
        {28, 0x7fc00000, STATUS_CORRUPT}, {28, 0x7f800000, STATUS_CORRUPT},
        {28, 0xbf800000, STATUS_CORRUPT}, {40, 1, STATUS_CORRUPT},
        {60, 1u << 31, STATUS_CORRUPT},   {64, 0x7fc00000, STATUS_CORRUPT},
        {64, 0xff800000, STATUS_CORRUPT}, {64 + 1024 * 6 - 4, 0x7f800000, STATUS_CORRUPT},
    };
    struct codec *codec = small_codec();
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length);
    for (size_t i = 0; i < ARRAY_LENGTH(faults); i++) {
        uint8_t saved[4];
        memcpy(saved, file + faults[i].offset, 4);
        memcpy(file + faults[i].offset, &faults[i].value, 4);
        expect_refused(file, length, faults[i].status);
        memcpy(file + faults[i].offset, saved, 4);
    }
    free(file);
    codec_destroy(codec);

    /* Only ip has a largest norm. */
    struct codec_params params = make_params(METRIC_L2, ELEMENT_I8, 5, 2);
    void *rows = make_rows(&params, 10, SEED);
    codec = train(&params, cpu_features(), rows, 10);
    file = codec_fixture_serialize(codec, &length);
    assert_int_equal(file[NORM_MAX_AT + 3], 0);
    file[NORM_MAX_AT + 3] = 0x3f;
    expect_refused(file, length, STATUS_CORRUPT);
    free(file);
    free(rows);
    codec_destroy(codec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codec_reconstructs_better_with_more_bytes),
        cmocka_unit_test(codes_alone_find_most_neighbours_in_clustered_data),
        cmocka_unit_test(estimates_equal_decoding_and_measuring),
        cmocka_unit_test(ip_rows_are_seen_at_the_largest_norm),
        cmocka_unit_test(any_code_size_fits_any_dimension),
        cmocka_unit_test(codes_name_the_nearest_centroid),
        cmocka_unit_test(cosine_ignores_length_and_survives_zero),
        cmocka_unit_test(codec_of_constant_or_single_rows_is_exact),
        cmocka_unit_test(codec_bytes_do_not_depend_on_threads),
        cmocka_unit_test(every_instruction_set_gives_the_same_codec),
        cmocka_unit_test(every_instruction_set_has_kernels_of_equal_bits),
        cmocka_unit_test(rows_encode_alike_alone_and_together),
        cmocka_unit_test(estimates_do_not_depend_on_where_codes_lie),
        cmocka_unit_test(train_refuses_bad_parameters),
        cmocka_unit_test(codec_survives_serialisation),
        cmocka_unit_test(codec_file_is_laid_out_as_documented),
        cmocka_unit_test(codec_file_of_wrong_length_is_refused),
        cmocka_unit_test(codec_file_with_wrong_fields_is_refused),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
