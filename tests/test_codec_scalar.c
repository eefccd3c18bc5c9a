/*
 * test_codec_scalar.c - claims about common/codec_scalar*.c and codec_rotation.c: what codes hold,
 * how near estimates are, equal bits at any thread count and instruction set, and the parser.
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

#include "common/codec_rotation.h"
#include "common/codec_scalar_internal.h"
#include "common/cpu.h"
#include "common/random.h"
#include "tests/codec_fixture.h"
#include "tests/golden_file.h"

enum { SEED = 20240613, HEADER = 64 };

static const enum element_type all_types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
static const enum metric all_metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
static const uint32_t all_bits[] = {1, 2, 4};
static const unsigned isa_levels[] = {CPU_AVX2, CPU_AVX2 | CPU_AVX512,
                                      CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI};

/* ---- helpers ---- */

/* About normal, deviation 1. */
static double normal(uint64_t seed, uint64_t i)
{
    double sum = -6;
    for (uint64_t k = 0; k < 12; k++)
        sum += random_unit(seed, 12 * i + k);
    return sum;
}

/* Clusters with normal noise, values around 60. */
static void *make_rows(const struct codec_params *params, size_t count, uint64_t seed)
{
    const uint32_t dim = params->dim;
    uint8_t *rows = malloc(count * dim * element_bytes(params->type));
    float *values = malloc(dim * sizeof(float));
    assert_true(rows && values);
    for (size_t i = 0; i < count; i++) {
        uint64_t cluster = random_below(seed, i, 8);
        for (uint32_t d = 0; d < dim; d++)
            values[d] = (float)(60 + 8 * normal(SEED + cluster, d) + 6 * normal(seed, i * dim + d));
        element_from_f32(params->type, values, dim, rows + i * dim * element_bytes(params->type));
    }
    free(values);
    return rows;
}

static struct codec_params make_params(enum metric metric, enum element_type type, uint32_t dim,
                                       uint32_t bits)
{
    return (struct codec_params){.kind = CODEC_SCALAR,
                                 .metric = metric,
                                 .type = type,
                                 .dim = dim,
                                 .code_bytes = codec_scalar_code_bytes(dim, metric, bits),
                                 .seed = SEED};
}

static struct codec *train(const struct codec_params *params, unsigned features, const void *rows,
                           size_t count)
{
    struct codec *codec = NULL;
    struct error err;
    if (codec_train_with(params, features, rows, count, &codec, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return codec;
}

static bool level_missing(unsigned level)
{
    if ((level & cpu_features()) == level)
        return false;
    print_message("skipped: no %s here\n", cpu_features_name(level));
    return true;
}

/* A codec with what its file says, read as documented. */
struct subject {
    struct codec *codec;
    struct codec_params params;
    uint32_t dims, bits;
    float unit, *mean;
    uint8_t *file;
    size_t file_bytes;
    struct codec_rotation rotation;
};

static struct subject subject_of(struct codec *codec, uint32_t bits)
{
    struct subject s = {.codec = codec, .params = codec_params_of(codec), .bits = bits};
    struct error err;
    s.dims = s.params.dim + (s.params.metric == METRIC_IP);
    s.file = codec_fixture_serialize(codec, &s.file_bytes);
    assert_int_equal(s.file_bytes, HEADER + 4 + 4 * s.dims);
    memcpy(&s.unit, s.file + HEADER, 4);
    s.mean = malloc(s.dims * sizeof(float));
    assert_non_null(s.mean);
    memcpy(s.mean, s.file + HEADER + 4, s.dims * sizeof(float));
    assert_int_equal(codec_rotation_init(&s.rotation, s.dims, s.params.seed, &err), STATUS_OK);
    return s;
}

static void subject_free(struct subject *s)
{
    codec_rotation_fini(&s->rotation);
    codec_destroy(s->codec);
    free(s->file);
    free(s->mean);
}

/* A vector as the codec sees it: of unit length for cosine; rows have one more coordinate for ip,
 * queries the largest norm. */
static float *seen(const struct subject *s, const void *row, bool query)
{
    const struct codec_params *p = &s->params;
    double norm = 0, scale = 1, norm_max = (double)p->norm_max;
    float *out = malloc(s->dims * sizeof(float));
    assert_non_null(out);
    element_to_f32(p->type, row, p->dim, out);
    for (uint32_t d = 0; d < p->dim; d++)
        norm += (double)out[d] * (double)out[d];
    norm = sqrt(norm);
    if (p->metric == METRIC_COSINE)
        scale = norm > 0 ? 1 / norm : 0;
    if (p->metric == METRIC_IP && query)
        scale = norm > 0 ? norm_max / norm : 0;
    for (uint32_t d = 0; d < p->dim; d++)
        out[d] = (float)((double)out[d] * scale);
    if (p->metric == METRIC_IP)
        out[p->dim] = query ? 0 : (float)sqrt(fmax(norm_max * norm_max - norm * norm, 0));
    return out;
}

/* x'. */
static float *rotated(const struct subject *s, const void *row, bool query)
{
    float *out = seen(s, row, query);
    for (uint32_t d = 0; d < s->dims; d++)
        out[d] -= s->mean[d];
    codec_rotation_apply(&s->rotation, out);
    return out;
}

/* y and f of a code. */
static float *decode(const struct subject *s, const uint8_t *code, double *factor)
{
    float *y = malloc(s->dims * sizeof(float)), f;
    assert_non_null(y);
    const uint8_t *bytes = code;
    for (uint32_t first = 0; first < s->dims; first += 128) {
        uint32_t t = MIN(128u, s->dims - first), n = (t * s->bits + 7) / 8;
        for (uint32_t d = 0; d < t; d++) {
            uint32_t u = (uint32_t)bytes[d % n] >> (s->bits * (d / n)) & ((1u << s->bits) - 1);
            y[first + d] = 2 * (float)u - (float)((1u << s->bits) - 1);
        }
        bytes += n;
    }
    assert_int_equal(bytes + 2 - code, s->params.code_bytes);
    element_to_f32(ELEMENT_F16, bytes, 1, &f);
    *factor = (double)f * (double)s->unit;
    return y;
}

static double dot(const float *a, const float *b, uint32_t dims)
{
    double sum = 0;
    for (uint32_t d = 0; d < dims; d++)
        sum += (double)a[d] * (double)b[d];
    return sum;
}

/* ---- rotation ---- */

static void rotation_keeps_lengths_and_angles(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1,   2,   3,   4,   5,    31,   32,  33,
                                    127, 128, 129, 768, 1000, 8192, 8193};
    struct error err;
    for (size_t i = 0; i < ARRAY_LENGTH(dims); i++) {
        struct codec_rotation rotation;
        assert_int_equal(codec_rotation_init(&rotation, dims[i], SEED, &err), STATUS_OK);
        float *a = malloc(dims[i] * sizeof(float)), *b = malloc(dims[i] * sizeof(float));
        assert_true(a && b);
        for (uint32_t d = 0; d < dims[i]; d++) {
            a[d] = (float)normal(1, d);
            b[d] = (float)normal(2, d);
        }
        double aa = dot(a, a, dims[i]), bb = dot(b, b, dims[i]), ab = dot(a, b, dims[i]);
        codec_rotation_apply(&rotation, a);
        codec_rotation_apply(&rotation, b);
        assert_true(fabs(dot(a, a, dims[i]) - aa) <= 1e-5 * aa);
        assert_true(fabs(dot(a, b, dims[i]) - ab) <= 1e-5 * sqrt(aa * bb));
        free(b);
        free(a);
        codec_rotation_fini(&rotation);
    }
}

/* The image of every axis has many coordinates of about equal size, and no two seeds one image. */
static void rotation_spreads_every_axis(void **state)
{
    (void)state;
    static const uint32_t dims[] = {64, 96, 128, 129, 200, 255};
    struct error err;
    for (size_t i = 0; i < ARRAY_LENGTH(dims); i++) {
        struct codec_rotation rotation, other;
        assert_int_equal(codec_rotation_init(&rotation, dims[i], SEED, &err), STATUS_OK);
        assert_int_equal(codec_rotation_init(&other, dims[i], SEED + 1, &err), STATUS_OK);
        for (uint32_t axis = 0; axis < dims[i]; axis++) {
            float image[256] = {0}, differs[256] = {0}, largest = 0;
            image[axis] = differs[axis] = 1;
            codec_rotation_apply(&rotation, image);
            codec_rotation_apply(&other, differs);
            for (uint32_t d = 0; d < dims[i]; d++)
                largest = fmaxf(largest, fabsf(image[d]));
            assert_true((double)largest <= 5 / sqrt((double)dims[i]));
            assert_true(fabs(dot(image, differs, dims[i])) < 0.6);
        }
        codec_rotation_fini(&other);
        codec_rotation_fini(&rotation);
    }
}

/* ---- accuracy ---- */

/* Of normal coordinates: share of |x|^2 that is lost, which Max (1960) has as 0.363, 0.1175 and
 * 0.01154 for uniform steps; the scale of each vector's own grid gains a little. */
static void codes_lose_as_little_as_the_best_grid(void **state)
{
    (void)state;
    enum { COUNT = 300, DIM = 128 };
    static const double most[] = {0.370, 0.120, 0.0117};
    for (size_t b = 0; b < ARRAY_LENGTH(all_bits); b++) {
        struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, DIM, all_bits[b]);
        float *rows = malloc(COUNT * DIM * sizeof(float));
        assert_non_null(rows);
        for (size_t i = 0; i < COUNT * DIM; i++)
            rows[i] = (float)(5 * normal(SEED, i));
        struct subject s = subject_of(train(&params, cpu_features(), rows, COUNT), all_bits[b]);
        uint8_t *codes = codec_fixture_encode(s.codec, rows, COUNT);
        double lost = 0, total = 0;
        for (size_t i = 0; i < COUNT; i++) {
            double f, yy, xy, xx;
            float *x = rotated(&s, rows + i * DIM, false);
            float *y = decode(&s, codes + i * params.code_bytes, &f);
            xx = dot(x, x, DIM);
            xy = dot(x, y, DIM);
            yy = dot(y, y, DIM);
            /* The factor is the one that leaves a remainder orthogonal to y. */
            assert_true(fabs(f - xy / yy) <= 6e-4 * f);
            lost += xx - 2 * f * xy + f * f * yy;
            total += xx;
            free(y);
            free(x);
        }
        print_message("%u bits: %.5f of |x|^2 lost\n", all_bits[b], lost / total);
        assert_true(lost / total <= most[b]);
        free(codes);
        free(rows);
        subject_free(&s);
    }
}

/* The estimate by its definition, with the query's rounding done as documented. */
static double defined_estimate(const struct subject *s, const void *query, const uint8_t *code,
                               double *magnitude)
{
    const struct codec_params *p = &s->params;
    float *q = rotated(s, query, true), *values = malloc(p->dim * sizeof(float));
    double f, scale = 1, offset = 0, largest = 0, yq = 0;
    float *y = decode(s, code, &f);
    assert_non_null(values);
    element_to_f32(p->type, query, p->dim, values);
    double norm = sqrt(dot(values, values, p->dim));
    if (p->metric == METRIC_COSINE)
        scale = 0.5;
    if (p->metric == METRIC_IP) {
        scale = 0.5 * norm / (double)p->norm_max;
        offset = -norm * (double)p->norm_max;
    }
    for (uint32_t d = 0; d < s->dims; d++)
        largest = fmax(largest, fabs((double)q[d]));
    for (uint32_t d = 0; d < s->dims && largest > 0; d++)
        yq += (double)y[d] * round((double)q[d] / largest * 127);
    yq *= largest / 127;
    /* A value halfway between two bytes may be rounded otherwise than here. */
    /* What codes of normal coordinates keep of |x|^2. */
    static const double kept[5] = {[1] = 0.6366, [2] = 0.8845, [4] = 0.9902};
    double raise = s->dims >= 16 ? 1 / kept[s->bits] : 1;
    *magnitude =
        fabs(offset) +
        raise * scale * (dot(q, q, s->dims) + 2 * f * fabs(yq) + f * f * dot(y, y, s->dims));
    double slack = scale * 2 * f * ((1 << s->bits) - 1) * largest / 127;
    *magnitude += 1e5 * slack * (s->dims > 1000 ? 2 : 0);
    double d = scale * (dot(q, q, s->dims) + raise * (f * f * dot(y, y, s->dims) - 2 * f * yq));
    free(values);
    free(y);
    free(q);
    return fmax(d, 0) + offset;
}

static void check_estimates(const struct codec_params *asked, uint32_t bits)
{
    enum { COUNT = 37 };
    void *rows = make_rows(asked, COUNT, SEED), *query = make_rows(asked, 1, 3);
    struct subject s = subject_of(train(asked, cpu_features(), rows, COUNT), bits);
    uint8_t *codes = codec_fixture_encode(s.codec, rows, COUNT);
    void *table = codec_fixture_table(s.codec, query);
    uint32_t ids[COUNT];
    float out[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        ids[i] = (i * 31) % COUNT;
    codec_table_gather(s.codec, table, codes, ids, COUNT, out);
    for (size_t i = 0; i < COUNT; i++) {
        double magnitude, wanted = defined_estimate(
                              &s, query, codes + (size_t)ids[i] * s.params.code_bytes, &magnitude);
        if (!(fabs((double)out[i] - wanted) <= 1e-5 * magnitude))
            fail_msg("%s %s dim %u bits %u: %g, wanted %g", metric_name(asked->metric),
                     element_name(asked->type), asked->dim, bits, (double)out[i], wanted);
    }
    free(table);
    free(codes);
    free(query);
    free(rows);
    subject_free(&s);
}

static void estimates_equal_decoding_and_measuring(void **state)
{
    (void)state;
    static const uint32_t dims[] = {5, 21, 127, 128, 130};
    for (size_t t = 0; t < ARRAY_LENGTH(all_types); t++)
        for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++)
            for (size_t d = 0; d < ARRAY_LENGTH(dims); d++)
                for (size_t b = 0; b < ARRAY_LENGTH(all_bits); b++) {
                    struct codec_params params =
                        make_params(all_metrics[m], all_types[t], dims[d], all_bits[b]);
                    check_estimates(&params, all_bits[b]);
                }
}

static void any_dimension_can_be_had(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1, 2, 3, 4, 6, 7, 8, 9, 63, 64, 65, 200, 256, 257, 384, 1000};
    for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
        struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, dims[d], 4);
        check_estimates(&params, 4);
    }
    struct codec_params widest = make_params(METRIC_IP, ELEMENT_U8, VECTOR_DIM_MAX, 4);
    check_estimates(&widest, 4);
}

/* Estimates against exact distances. A least squares vector is short, the more the fewer bits,
 * which pulls all estimates toward |q'|^2 alike; that is most of the error of few bits, and no loss
 * to their order. */
static void estimates_are_near_exact_distances(void **state)
{
    (void)state;
    enum { COUNT = 400, DIM = 100 };
    static const double most[] = {0.2, 0.075, 0.015};
    for (size_t b = 0; b < ARRAY_LENGTH(all_bits); b++) {
        struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, DIM, all_bits[b]);
        float *rows = make_rows(&params, COUNT, SEED), *query = make_rows(&params, 1, 77);
        struct codec *codec = train(&params, cpu_features(), rows, COUNT);
        uint8_t *codes = codec_fixture_encode(codec, rows, COUNT);
        void *table = codec_fixture_table(codec, query);
        double squares = 0;
        for (uint32_t i = 0; i < COUNT; i++) {
            float out;
            double exact = 0;
            codec_table_gather(codec, table, codes, &i, 1, &out);
            for (size_t d = 0; d < DIM; d++) {
                double difference = (double)rows[i * DIM + d] - (double)query[d];
                exact += difference * difference;
            }
            squares += ((double)out / exact - 1) * ((double)out / exact - 1);
        }
        print_message("%u bits: relative error %.4f\n", all_bits[b], sqrt(squares / COUNT));
        assert_true(sqrt(squares / COUNT) <= most[b]);
        free(table);
        free(codes);
        codec_destroy(codec);
        free(query);
        free(rows);
    }
}

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

static double recall_of_codes(enum metric metric, uint32_t bits)
{
    enum { COUNT = 1500, DIM = 48, QUERIES = 20, K = 10 };
    struct codec_params params = make_params(metric, ELEMENT_F32, DIM, bits);
    float *rows = make_rows(&params, COUNT, SEED), *queries = make_rows(&params, QUERIES, 5);
    struct subject s = subject_of(train(&params, cpu_features(), rows, COUNT), bits);
    uint8_t *codes = codec_fixture_encode(s.codec, rows, COUNT);
    uint32_t ids[COUNT], found = 0;
    float exact[COUNT], estimates[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        ids[i] = i;
    for (size_t q = 0; q < QUERIES; q++) {
        void *table = codec_fixture_table(s.codec, queries + q * DIM);
        float *query = seen(&s, queries + q * DIM, true);
        codec_table_gather(s.codec, table, codes, ids, COUNT, estimates);
        for (size_t i = 0; i < COUNT; i++) {
            float *row = seen(&s, rows + i * DIM, false);
            exact[i] = (float)(dot(row, row, s.dims) - 2 * dot(row, query, s.dims));
            free(row);
        }
        uint32_t wanted[K] = {0}, got[K] = {0};
        nearest_ids(exact, COUNT, K, wanted);
        nearest_ids(estimates, COUNT, K, got);
        for (size_t i = 0; i < K; i++)
            for (size_t j = 0; j < K; j++)
                found += wanted[i] == got[j];
        free(query);
        free(table);
    }
    free(codes);
    free(queries);
    free(rows);
    subject_free(&s);
    return (double)found / (QUERIES * K);
}

static void codes_alone_find_most_neighbours_in_clustered_data(void **state)
{
    (void)state;
    static const double least[] = {0.22, 0.6, 0.82};
    for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++)
        for (size_t b = 0; b < ARRAY_LENGTH(all_bits); b++) {
            double recall = recall_of_codes(all_metrics[m], all_bits[b]);
            print_message("%s, %u bits: recall@10 %.3f\n", metric_name(all_metrics[m]), all_bits[b],
                          recall);
            assert_true(recall >= least[b]);
        }
}

/* ---- hard input ---- */

/* Whatever equals the mean has a code of zeros, and its estimate is the distance to the mean. */
static void constant_rows_have_zero_codes(void **state)
{
    (void)state;
    enum { COUNT = 20, DIM = 10 };
    uint8_t rows[COUNT * DIM];
    memset(rows, 77, sizeof(rows));
    for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++) {
        struct codec_params params = make_params(all_metrics[m], ELEMENT_U8, DIM, 4);
        struct codec *codec = train(&params, cpu_features(), rows, COUNT);
        uint8_t *codes = codec_fixture_encode(codec, rows, COUNT), zeros[64] = {0};
        uint16_t factor;
        memcpy(&factor, codes + params.code_bytes - 2, 2);
        if (all_metrics[m] == METRIC_L2)
            assert_memory_equal(codes, zeros, params.code_bytes);
        assert_true(factor < 0x7c00);
        void *table = codec_fixture_table(codec, rows);
        float out;
        codec_table_gather(codec, table, codes, (const uint32_t[]){3}, 1, &out);
        double wanted = all_metrics[m] == METRIC_IP ? -DIM * 77.0 * 77.0 : 0;
        assert_true(fabs((double)out - wanted) <= 1e-4 * fabs(wanted) + 1e-6);
        free(table);
        free(codes);
        codec_destroy(codec);
    }
}

/* Values whose squares a float has not, in rows and queries; nothing is undefined. */
static void extreme_values_are_survived(void **state)
{
    (void)state;
    enum { DIM = 19, COUNT = 6 };
    static const float scales[COUNT] = {3e38f, -3e38f, 1e-38f, 1e-44f, 0, 1};
    float rows[COUNT * DIM];
    for (size_t i = 0; i < COUNT * DIM; i++)
        rows[i] = (i % 3 ? 1.0f : -0.5f) * scales[i / DIM];
    for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++)
        for (size_t b = 0; b < ARRAY_LENGTH(all_bits); b++)
            for (uint32_t first = 0; first < COUNT; first++) {
                struct codec_params params =
                    make_params(all_metrics[m], ELEMENT_F32, DIM, all_bits[b]);
                struct codec *codec =
                                 train(&params, cpu_features(), rows + first * DIM, COUNT - first),
                             *copy = NULL;
                uint8_t *codes = codec_fixture_encode(codec, rows, COUNT);
                for (size_t q = 0; q < COUNT; q++) {
                    static const uint32_t ids[COUNT] = {0, 1, 2, 3, 4, 5};
                    float out[COUNT];
                    void *table = codec_fixture_table(codec, rows + q * DIM);
                    codec_table_gather(codec, table, codes, ids, COUNT, out);
                    free(table);
                }
                for (size_t i = 0; i < COUNT; i++) {
                    uint16_t factor;
                    memcpy(&factor, codes + (i + 1) * params.code_bytes - 2, 2);
                    assert_true(factor < 0x7c00); /* finite and not negative */
                }
                size_t length;
                struct error err;
                uint8_t *file = codec_fixture_serialize(codec, &length);
                if (all_metrics[m] != METRIC_IP) /* whose largest norm overflows */
                    assert_int_equal(codec_deserialize(file, length, &copy, &err), STATUS_OK);
                codec_destroy(copy);
                free(file);
                free(codes);
                codec_destroy(codec);
            }
}

static void cosine_ignores_length(void **state)
{
    (void)state;
    enum { COUNT = 64, DIM = 12 };
    struct codec_params params = make_params(METRIC_COSINE, ELEMENT_F32, DIM, 4);
    float *rows = make_rows(&params, COUNT, SEED), scaled[DIM];
    struct codec *codec = train(&params, cpu_features(), rows, COUNT);
    for (size_t d = 0; d < DIM; d++)
        scaled[d] = rows[d] * 1024;
    uint8_t *codes = codec_fixture_encode(codec, rows, 1),
            *again = codec_fixture_encode(codec, scaled, 1);
    assert_memory_equal(codes, again, params.code_bytes);
    void *table = codec_fixture_table(codec, rows), *same = codec_fixture_table(codec, scaled);
    assert_memory_equal(table, same, codec_table_bytes(codec));
    free(same);
    free(table);
    free(again);
    free(codes);
    codec_destroy(codec);
    free(rows);
}

/* ---- equal bits ---- */

static void codec_bytes_do_not_depend_on_threads(void **state)
{
    (void)state;
    enum { COUNT = 500, DIM = 300 };
    int threads_before = omp_get_max_threads();
    for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++) {
        struct codec_params params = make_params(all_metrics[m], ELEMENT_I8, DIM, 2);
        void *rows = make_rows(&params, COUNT, SEED);
        uint8_t *files[2];
        size_t lengths[2];
        for (int threads = 1; threads <= 2; threads++) {
            omp_set_num_threads(threads == 1 ? 1 : 3);
            struct codec *codec = train(&params, cpu_features(), rows, COUNT);
            files[threads - 1] = codec_fixture_serialize(codec, &lengths[threads - 1]);
            codec_destroy(codec);
        }
        assert_int_equal(lengths[0], lengths[1]);
        assert_memory_equal(files[0], files[1], lengths[0]);
        free(files[0]);
        free(files[1]);
        free(rows);
    }
    omp_set_num_threads(threads_before);
}

/* Codes of all bit patterns, factors that are infinite or no number included, in memory of exact
 * length and at odd addresses; counts that leave every remainder. */
static void check_level(const struct codec_params *params, unsigned level)
{
    enum { COUNT = 45, TRAINED = 8 };
    const size_t bytes = params->code_bytes;
    void *rows = make_rows(params, TRAINED, SEED);
    struct codec *a = train(params, 0, rows, TRAINED), *b = train(params, level, rows, TRAINED);
    uint8_t *codes = malloc(COUNT * bytes), *moved = malloc(COUNT * bytes + 1);
    assert_true(codes && moved);
    for (size_t i = 0; i < COUNT * bytes; i++)
        codes[i] = (uint8_t)random_at(SEED, i);
    codec_encode(a, rows, TRAINED, codes);
    memset(codes + TRAINED * bytes, 0xff, bytes); /* the largest sums, and a NaN */
    memset(codes + (TRAINED + 1) * bytes, 0, bytes);
    memcpy(moved + 1, codes, COUNT * bytes);
    void *a_table = codec_fixture_table(a, rows), *b_table = codec_fixture_table(b, rows);
    assert_memory_equal(a_table, b_table, codec_table_bytes(a));
    uint32_t ids[COUNT];
    float a_out[COUNT], b_out[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        ids[i] = (i * 7) % COUNT;
    codec_table_gather(a, a_table, codes, ids, COUNT, a_out);
    for (size_t count = 0; count <= COUNT; count += count < 9 ? 1 : 36) {
        memset(b_out, 0x7f, sizeof(b_out));
        codec_table_gather(b, b_table, moved + 1, ids, count, b_out);
        assert_memory_equal(a_out, b_out, count * sizeof(float));
        for (size_t i = count * sizeof(float); i < sizeof(b_out); i++)
            assert_int_equal(((const uint8_t *)b_out)[i], 0x7f);
    }
    free(b_table);
    free(a_table);
    free(moved);
    free(codes);
    codec_destroy(b);
    codec_destroy(a);
    free(rows);
}

static void every_instruction_set_gives_the_same_estimates(void **state)
{
    (void)state;
    static const uint32_t far[] = {255, 256, 257, 383, 384, 640, 1023, 1024, VECTOR_DIM_MAX};
    for (size_t i = 0; i < ARRAY_LENGTH(isa_levels); i++) {
        if (level_missing(isa_levels[i]))
            continue;
        for (size_t b = 0; b < ARRAY_LENGTH(all_bits); b++) {
            for (uint32_t dim = 1; dim < 140; dim++) {
                struct codec_params params =
                    make_params(all_metrics[dim % 3], all_types[dim % 4], dim, all_bits[b]);
                check_level(&params, isa_levels[i]);
            }
            for (size_t d = 0; d < ARRAY_LENGTH(far); d++) {
                struct codec_params params =
                    make_params(METRIC_IP, ELEMENT_F32, far[d], all_bits[b]);
                check_level(&params, isa_levels[i]);
            }
        }
    }
}

/* Of a fixed input, as every compiler, machine and version has them. */
static void codes_are_the_same_everywhere(void **state)
{
    (void)state;
    static const uint64_t wanted[] = {0x0b6f5e9cc40a6f5c, 0xd142de80732661fb, 0xb33be73325e08a09};
    enum { COUNT = 50, DIM = 77 };
    for (size_t b = 0; b < ARRAY_LENGTH(all_bits); b++) {
        struct codec_params params = make_params(METRIC_COSINE, ELEMENT_F16, DIM, all_bits[b]);
        void *rows = make_rows(&params, COUNT, SEED);
        struct codec *codec = train(&params, cpu_features(), rows, COUNT);
        uint8_t *codes = codec_fixture_encode(codec, rows, COUNT);
        void *table = codec_fixture_table(codec, rows);
        uint64_t digest = 0;
        for (size_t i = 0; i < COUNT * params.code_bytes; i++)
            digest = random_mix(digest + codes[i] + 1);
        for (size_t i = 0; i < codec_table_bytes(codec); i++)
            digest = random_mix(digest + ((const uint8_t *)table)[i] + 1);
        if (digest != wanted[b])
            fail_msg("%u bits: digest 0x%016llx", all_bits[b], (unsigned long long)digest);
        free(table);
        free(codes);
        codec_destroy(codec);
        free(rows);
    }
}

static void rows_encode_alike_alone_and_together(void **state)
{
    (void)state;
    enum { COUNT = 53, DIM = 9 };
    struct codec_params params = make_params(METRIC_IP, ELEMENT_F16, DIM, 2);
    uint16_t *rows = make_rows(&params, COUNT, SEED);
    struct codec *codec = train(&params, cpu_features(), rows, COUNT);
    uint8_t *together = codec_fixture_encode(codec, rows, COUNT), alone[16];
    for (size_t i = 0; i < COUNT; i++) {
        codec_encode(codec, rows + i * DIM, 1, alone);
        assert_memory_equal(alone, together + i * params.code_bytes, params.code_bytes);
    }
    free(together);
    codec_destroy(codec);
    free(rows);
}

/* ---- parameters and codec.bin ---- */

static void code_sizes_are_as_documented(void **state)
{
    (void)state;
    assert_int_equal(codec_scalar_code_bytes(128, METRIC_L2, 1), 18);
    assert_int_equal(codec_scalar_code_bytes(128, METRIC_COSINE, 2), 34);
    assert_int_equal(codec_scalar_code_bytes(128, METRIC_L2, 4), 66);
    assert_int_equal(codec_scalar_code_bytes(128, METRIC_IP, 4), 67);
    assert_int_equal(codec_scalar_code_bytes(1, METRIC_L2, 1), 3);
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, 128, 4);
    struct codec *codec = NULL;
    struct error err;
    float rows[128] = {0};
    for (uint32_t bytes = 0; bytes <= 130; bytes++) {
        bool fits = bytes == 18 || bytes == 34 || bytes == 66;
        params.code_bytes = bytes;
        enum status wanted = fits ? STATUS_OK : STATUS_INVALID;
        assert_int_equal(codec_code_bytes_check(&params, &err), wanted);
        assert_int_equal(codec_train(&params, rows, 1, &codec, &err), wanted);
        if (!fits)
            assert_non_null(strstr(err.text, "18, 34 or 66"));
        codec_destroy(codec);
        codec = NULL;
    }
    params.kind = CODEC_AUTO; /* asks for a codec, and is none */
    assert_int_equal(codec_code_bytes_check(&params, &err), STATUS_UNSUPPORTED);
}

static void kinds_have_names(void **state)
{
    (void)state;
    assert_string_equal(codec_kind_name(CODEC_PQ), "pq");
    assert_string_equal(codec_kind_name(CODEC_OPQ), "opq");
    assert_string_equal(codec_kind_name(CODEC_SCALAR), "scalar");
    assert_string_equal(codec_kind_name(CODEC_AUTO), "auto");
    assert_string_equal(codec_kind_name(CODEC_NONE), "none");
    assert_string_equal(codec_kind_name((enum codec_kind)99), "none");
    assert_int_equal(codec_kind_parse("pq"), CODEC_PQ);
    assert_int_equal(codec_kind_parse("opq"), CODEC_OPQ);
    assert_int_equal(codec_kind_parse("scalar"), CODEC_SCALAR);
    assert_int_equal(codec_kind_parse("auto"), CODEC_AUTO);
    assert_int_equal(codec_kind_parse("none"), CODEC_NONE);
    assert_int_equal(codec_kind_parse(""), CODEC_NONE);
}

static struct codec *small_codec(void)
{
    struct codec_params params = make_params(METRIC_IP, ELEMENT_I8, 5, 4);
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
    golden_file_compare("codec_scalar.bin", file, length);
    assert_int_equal(length, HEADER + 4 + 4 * 6); /* ip has a coordinate of its own */
    assert_int_equal(file[8], 3);
    assert_int_equal(codec_deserialize(file, length, &copy, &err), STATUS_OK);
    uint8_t *again = codec_fixture_serialize(copy, &copy_length);
    assert_int_equal(length, copy_length);
    assert_memory_equal(file, again, length);
    static const int8_t query[5] = {1, -2, 3, -4, 5};
    uint8_t code[8], copy_code[8];
    void *table = codec_fixture_table(codec, query), *copy_table = codec_fixture_table(copy, query);
    assert_memory_equal(table, copy_table, codec_table_bytes(codec));
    codec_encode(codec, query, 1, code);
    codec_encode(copy, query, 1, copy_code);
    assert_memory_equal(code, copy_code, codec_params_of(codec).code_bytes);
    free(copy_table);
    free(table);
    free(again);
    free(file);
    codec_destroy(copy);
    codec_destroy(codec);
}

/* Every truncation is refused; a flipped bit too, or it makes another codec that works. */
static void damaged_files_are_refused_or_make_sense(void **state)
{
    (void)state;
    struct codec *codec = small_codec(), *copy = NULL;
    struct error err;
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length);
    for (size_t cut = 0; cut < length; cut++) {
        uint8_t *exact = malloc(cut + 1);
        assert_non_null(exact);
        memcpy(exact, file, cut);
        assert_int_equal(codec_deserialize(exact, cut, &copy, &err), STATUS_CORRUPT);
        free(exact);
    }
    for (size_t bit = 0; bit < 8 * length; bit++) {
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
        copy = NULL;
        enum status status = codec_deserialize(file, length, &copy, &err);
        if (status == STATUS_OK) {
            size_t again_length;
            uint8_t *again = codec_fixture_serialize(copy, &again_length);
            assert_int_equal(again_length, length);
            assert_memory_equal(again, file, length);
            free(again);
        } else {
            assert_null(copy);
            assert_true(status == STATUS_CORRUPT || status == STATUS_UNSUPPORTED);
        }
        codec_destroy(copy);
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(file);
    codec_destroy(codec);
}

static void codec_file_with_wrong_fields_is_refused(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        uint32_t value;
        const char *words;
    } faults[] = {
        {20, 0, "dimension"},     {20, 8193, "dimension"},  {20, 7, "code_bytes"},
        {24, 0, "code_bytes"},    {24, 6, "code_bytes"},    {24, UINT32_MAX, "code_bytes"},
        {64, 0, "unit"},          {64, 0x7fc00000, "unit"}, {64, 0x7f800000, "unit"},
        {64, 0xbf800000, "unit"}, {64, 1, "unit"},          {64, 0x7f000000, "unit"},
        {68, 0x7fc00000, "mean"}, {88, 0xff800000, "mean"},
    };
    struct codec *codec = small_codec(), *copy = NULL;
    struct error err;
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length);
    for (size_t i = 0; i < ARRAY_LENGTH(faults); i++) {
        uint8_t saved[4];
        memcpy(saved, file + faults[i].offset, 4);
        memcpy(file + faults[i].offset, &faults[i].value, 4);
        assert_int_equal(codec_deserialize(file, length, &copy, &err), STATUS_CORRUPT);
        assert_null(copy);
        if (!strstr(err.text, faults[i].words))
            fail_msg("wanted %s: %s", faults[i].words, err.text);
        memcpy(file + faults[i].offset, saved, 4);
    }
    free(file);
    codec_destroy(codec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rotation_keeps_lengths_and_angles),
        cmocka_unit_test(rotation_spreads_every_axis),
        cmocka_unit_test(codes_lose_as_little_as_the_best_grid),
        cmocka_unit_test(estimates_equal_decoding_and_measuring),
        cmocka_unit_test(any_dimension_can_be_had),
        cmocka_unit_test(estimates_are_near_exact_distances),
        cmocka_unit_test(codes_alone_find_most_neighbours_in_clustered_data),
        cmocka_unit_test(constant_rows_have_zero_codes),
        cmocka_unit_test(extreme_values_are_survived),
        cmocka_unit_test(cosine_ignores_length),
        cmocka_unit_test(codec_bytes_do_not_depend_on_threads),
        cmocka_unit_test(every_instruction_set_gives_the_same_estimates),
        cmocka_unit_test(codes_are_the_same_everywhere),
        cmocka_unit_test(rows_encode_alike_alone_and_together),
        cmocka_unit_test(code_sizes_are_as_documented),
        cmocka_unit_test(kinds_have_names),
        cmocka_unit_test(codec_survives_serialisation),
        cmocka_unit_test(damaged_files_are_refused_or_make_sense),
        cmocka_unit_test(codec_file_with_wrong_fields_is_refused),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
