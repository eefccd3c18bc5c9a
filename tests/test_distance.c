/*
 * test_distance.c - distance.h and cpu.h: every kernel table the host can run returns the bytes of
 * the definition, reads no byte past a row, and metrics mean what element.h says.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cpu.h"
#include "common/distance.h"
#include "common/random.h"

enum {
    SEED = 20240607,
    ALL_FEATURES = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI,
    SMALL_DIM_MAX = 257,
    ROWS = 11, /* two groups of four and a remainder of three */
    EXTRA_BYTES = 64,
};

static const size_t large_dims[] = {384, 768, 960, 1024, 1536, VECTOR_DIM_MAX};
static const enum element_type types[] = {ELEMENT_U8,  ELEMENT_I8,   ELEMENT_F16,
                                          ELEMENT_F32, ELEMENT_BF16, ELEMENT_I8S};

/* What is compared with what: each type with itself, and an f32 query with stored rows. */
struct pair {
    enum element_type query, row;
};
static const struct pair pairs[] = {
    {ELEMENT_U8, ELEMENT_U8},   {ELEMENT_I8, ELEMENT_I8},     {ELEMENT_F16, ELEMENT_F16},
    {ELEMENT_F32, ELEMENT_F32}, {ELEMENT_BF16, ELEMENT_BF16}, {ELEMENT_I8S, ELEMENT_I8S},
    {ELEMENT_F32, ELEMENT_F16}, {ELEMENT_F32, ELEMENT_BF16},  {ELEMENT_F32, ELEMENT_I8S},
};

/* Which values vectors are made of. */
enum flavour {
    FLAVOUR_PLAIN,   /* any byte; floats in [-1, 1) */
    FLAVOUR_EXTREME, /* the ends of the type's range, largest and subnormal floats, zeroes */
    FLAVOUR_TINY,    /* floats whose products underflow to +0 and -0 */
    FLAVOUR_COUNT,
};

/* A query and ROWS rows with the expected results of both kernels. */
struct sample {
    struct pair pair;
    size_t dim;
    size_t stride_bytes;
    unsigned char *query;
    unsigned char *rows;
    float l2sq[ROWS];
    float dot[ROWS];
};

static float plain_value(uint64_t random)
{
    return (float)((double)(random >> 40) / 0x1p23 - 1);
}

static void element_write(enum element_type type, enum flavour flavour, uint64_t random,
                          unsigned char *out)
{
    static const float extreme[] = {3.4e38f, -3.4e38f, 1e-45f, -1e-45f, 1e19f, -1e19f, 0, -0.0f};
    static const float tiny[] = {1e-30f, -1e-30f, 1e-23f, -1e-23f};
    static const uint16_t extreme_half[] = {0x7bff, 0xfbff, 0x0001, 0x8001,
                                            0x03ff, 0x83ff, 0,      0x8000};
    static const uint8_t extreme_byte[] = {0, 255, 127, 128, 1, 129, 126, 254};
    uint8_t byte = flavour == FLAVOUR_PLAIN ? (uint8_t)(random >> 20) : extreme_byte[random % 8];
    float value = flavour == FLAVOUR_PLAIN     ? plain_value(random)
                  : flavour == FLAVOUR_EXTREME ? extreme[random % 8]
                                               : tiny[random % 4];
    if (type == ELEMENT_U8 || type == ELEMENT_I8 || type == ELEMENT_I8S)
        *out = byte;
    else if (type == ELEMENT_F32)
        memcpy(out, &value, sizeof(value));
    else if (flavour == FLAVOUR_EXTREME && type == ELEMENT_F16)
        memcpy(out, &extreme_half[random % 8], 2);
    else
        element_from_f32(type, &value, 1, out);
}

/* Of i8s vectors: one that overflows, a subnormal and 0 among the extremes. */
static float scale_value(enum flavour flavour, uint64_t random)
{
    static const float extreme[] = {3e38f, 1e-40f, 0, 1e19f};
    return flavour == FLAVOUR_PLAIN     ? fabsf(plain_value(random)) / 127
           : flavour == FLAVOUR_EXTREME ? extreme[random % 4]
                                        : 1e-25f;
}

static void vector_fill(enum element_type type, enum flavour flavour, uint64_t stream, size_t dim,
                        unsigned char *out)
{
    for (size_t i = 0; i < dim; i++)
        element_write(type, flavour, random_at(SEED + stream, i), out + i * element_bytes(type));
    float scale = scale_value(flavour, random_at(SEED + stream, dim));
    if (type == ELEMENT_I8S)
        memcpy(out + dim, &scale, sizeof(scale));
}

/* The definition of distance.h, spelled apart from the code under test. */
static float lanes_definition(const float *x, const float *y, size_t dim, bool dot)
{
    float lane[32] = {0};
    for (size_t i = 0; i < dim; i++) {
        float d = x[i] - y[i];
        lane[i % 32] = dot ? fmaf(x[i], y[i], lane[i % 32]) : fmaf(d, d, lane[i % 32]);
    }
    for (int i = 0; i < 16; i++)
        lane[i] = lane[i] + lane[i + 16];
    for (int i = 0; i < 8; i++)
        lane[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++)
        lane[i] = lane[i] + lane[i + 4];
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* What FORMAT.md says that a vector's coordinates are. */
static void coordinates(enum element_type type, const void *vector, size_t dim, float *out)
{
    float scale;
    element_to_f32(type, vector, dim, out);
    if (type != ELEMENT_I8S)
        return;
    memcpy(&scale, (const unsigned char *)vector + dim, sizeof(scale));
    for (size_t i = 0; i < dim; i++)
        out[i] = out[i] * scale;
}

static float expected(struct pair pair, const void *a, const void *b, size_t dim, bool dot)
{
    static float x[VECTOR_DIM_MAX], y[VECTOR_DIM_MAX];
    coordinates(pair.query, a, dim, x);
    coordinates(pair.row, b, dim, y);
    if (pair.row != ELEMENT_U8 && pair.row != ELEMENT_I8)
        return lanes_definition(x, y, dim, dot);
    int64_t sum = 0;
    for (size_t i = 0; i < dim; i++) {
        int64_t p = (int64_t)x[i], q = (int64_t)y[i];
        sum += dot ? p * q : (p - q) * (p - q);
    }
    return (float)sum;
}

static void sample_expect(struct sample *sample)
{
    for (size_t r = 0; r < ROWS; r++) {
        const unsigned char *row = sample->rows + r * sample->stride_bytes;
        sample->l2sq[r] = expected(sample->pair, sample->query, row, sample->dim, false);
        sample->dot[r] = expected(sample->pair, sample->query, row, sample->dim, true);
    }
}

/* `misalign` shifts query and rows; the stride leaves a gap, so neither is aligned again. */
static struct sample sample_create(struct pair pair, enum flavour flavour, size_t dim,
                                   size_t misalign)
{
    struct sample sample = {.pair = pair, .dim = dim};
    size_t query_bytes = element_vector_bytes(pair.query, dim);
    sample.stride_bytes = element_vector_bytes(pair.row, dim) + misalign;
    unsigned char *memory = malloc(query_bytes + ROWS * sample.stride_bytes + EXTRA_BYTES);
    assert_non_null(memory);
    sample.query = memory + misalign;
    sample.rows = sample.query + query_bytes;
    vector_fill(pair.query, flavour, dim, dim, sample.query);
    for (size_t r = 0; r < ROWS; r++)
        vector_fill(pair.row, flavour, dim + 1000 * (r + 1), dim,
                    sample.rows + r * sample.stride_bytes);
    sample_expect(&sample);
    return sample;
}

static void sample_destroy(struct sample *sample, size_t misalign)
{
    free(sample->query - misalign);
}

/* Same bits; all NaNs (infinity less infinity) are one. */
static bool same_float(float a, float b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof(a)) == 0;
}

static void check_values(const struct sample *sample, unsigned features, const char *kernel,
                         const float *got, const float *want, size_t count)
{
    for (size_t r = 0; r < count; r++)
        if (!same_float(got[r], want[r]))
            fail_msg("%s with %s %s dim %zu row %zu of %zu at %s: got %a, wanted %a",
                     element_name(sample->pair.query), element_name(sample->pair.row), kernel,
                     sample->dim, r, count, cpu_features_name(features), (double)got[r],
                     (double)want[r]);
}

/* One operation: its pair kernel, then rows and gather with `count` rows; ids run backwards. */
static void check_operation(const struct sample *sample, unsigned features, bool dot, size_t count)
{
    const struct distance_kernels *kernels =
        sample->pair.query == sample->pair.row
            ? distance_kernels_get(sample->pair.row, features)
            : distance_kernels_from_f32(sample->pair.row, features);
    const float *want = dot ? sample->dot : sample->l2sq;
    float got[ROWS + 1], reversed[ROWS];
    uint32_t ids[ROWS];
    for (size_t r = 0; r < count; r++) {
        const unsigned char *row = sample->rows + r * sample->stride_bytes;
        got[r] = (dot ? kernels->dot : kernels->l2sq)(sample->query, row, sample->dim);
        ids[r] = (uint32_t)(count - 1 - r);
        reversed[r] = want[ids[r]];
    }
    check_values(sample, features, dot ? "dot" : "l2sq", got, want, count);

    memset(got, 0x5a, sizeof(got));
    float untouched = got[count];
    (dot ? kernels->dot_rows : kernels->l2sq_rows)(sample->query, sample->rows,
                                                   sample->stride_bytes, count, sample->dim, got);
    check_values(sample, features, dot ? "dot_rows" : "l2sq_rows", got, want, count);
    assert_true(same_float(got[count], untouched));

    memset(got, 0x5a, sizeof(got));
    (dot ? kernels->dot_gather : kernels->l2sq_gather)(
        sample->query, sample->rows, sample->stride_bytes, ids, count, sample->dim, got);
    check_values(sample, features, dot ? "dot_gather" : "l2sq_gather", got, reversed, count);
    assert_true(same_float(got[count], untouched));
}

static void check_sample(const struct sample *sample, unsigned features, size_t count)
{
    check_operation(sample, features, false, count);
    check_operation(sample, features, true, count);
}

static void check_dim(unsigned features, struct pair pair, size_t dim)
{
    for (unsigned flavour = 0; flavour < FLAVOUR_COUNT; flavour++) {
        size_t misalign = (dim * 7 + flavour) % 61;
        struct sample sample = sample_create(pair, (enum flavour)flavour, dim, misalign);
        check_sample(&sample, features, dim < 40 ? dim % (ROWS + 1) : ROWS);
        sample_destroy(&sample, misalign);
    }
}

static void check_features(unsigned features)
{
    print_message("seed=%d features=%s\n", SEED, cpu_features_name(features));
    for (size_t t = 0; t < ARRAY_LENGTH(pairs); t++) {
        for (size_t dim = 0; dim <= SMALL_DIM_MAX; dim++)
            check_dim(features, pairs[t], dim);
        for (size_t i = 0; i < ARRAY_LENGTH(large_dims); i++)
            check_dim(features, pairs[t], large_dims[i]);
    }
}

static void skip_without(unsigned features)
{
    if ((cpu_features() & features) != features) {
        print_message("skipped: this host lacks %s\n", cpu_features_name(features));
        skip();
    }
}

static void scalar_kernels_equal_the_definition(void **state)
{
    (void)state;
    check_features(0);
}

static void avx2_kernels_equal_the_definition(void **state)
{
    (void)state;
    skip_without(CPU_AVX2);
    check_features(CPU_AVX2);
}

static void avx512_kernels_equal_the_definition(void **state)
{
    (void)state;
    skip_without(CPU_AVX512);
    check_features(CPU_AVX2 | CPU_AVX512);
}

static void vnni_kernels_equal_the_definition(void **state)
{
    (void)state;
    skip_without(ALL_FEATURES);
    check_features(ALL_FEATURES);
}

/* Subsets no real machine has still give a table, and never one they do not contain. */
static void every_subset_of_features_gives_equal_kernels(void **state)
{
    (void)state;
    static const size_t dims[] = {1, 31, 100, 128, 200};
    for (unsigned features = 0; features <= ALL_FEATURES; features++) {
        if (features & ~cpu_features())
            continue;
        for (size_t t = 0; t < ARRAY_LENGTH(pairs); t++)
            for (size_t d = 0; d < ARRAY_LENGTH(dims); d++)
                check_dim(features, pairs[t], dims[d]);
    }
    assert_ptr_equal(distance_kernels_get(ELEMENT_U8, CPU_AVX512_VNNI),
                     distance_kernels_get(ELEMENT_U8, 0));
}

/* Pages with PROT_NONE before and behind. */
struct fence {
    unsigned char *first; /* readable from here */
    unsigned char *end;   /* to here */
    unsigned char *map;
    size_t map_bytes;
};

static struct fence fence_create(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t inside = (bytes / page + 1) * page;
    struct fence fence = {.map_bytes = inside + 2 * page};
    fence.map =
        mmap(NULL, fence.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(fence.map != MAP_FAILED);
    fence.first = fence.map + page;
    fence.end = fence.first + inside;
    assert_int_equal(mprotect(fence.map, page, PROT_NONE), 0);
    assert_int_equal(mprotect(fence.end, page, PROT_NONE), 0);
    return fence;
}

static void fence_destroy(struct fence *fence)
{
    munmap(fence->map, fence->map_bytes);
}

static void check_fenced(struct pair pair, size_t dim, bool at_end, const struct fence fences[2])
{
    size_t row_bytes = element_vector_bytes(pair.row, dim);
    struct sample sample = {.pair = pair, .dim = dim, .stride_bytes = row_bytes};
    sample.query = at_end ? fences[0].end - element_vector_bytes(pair.query, dim) : fences[0].first;
    sample.rows = at_end ? fences[1].end - ROWS * row_bytes : fences[1].first;
    vector_fill(pair.query, FLAVOUR_PLAIN, dim, dim, sample.query);
    for (size_t r = 0; r < ROWS; r++)
        vector_fill(pair.row, FLAVOUR_PLAIN, dim + r + 1, dim, sample.rows + r * row_bytes);
    sample_expect(&sample);
    for (unsigned features = 0; features <= ALL_FEATURES; features = 2 * features + 1)
        if (!(features & ~cpu_features()))
            for (size_t count = ROWS - 3; count <= ROWS; count += 3)
                check_sample(&sample, features, count);
}

static void kernels_touch_no_byte_outside_a_row(void **state)
{
    (void)state;
    size_t bytes = ROWS * SMALL_DIM_MAX * sizeof(float);
    struct fence fences[2] = {fence_create(bytes), fence_create(bytes)};
    for (size_t t = 0; t < ARRAY_LENGTH(pairs); t++)
        for (size_t dim = 0; dim <= SMALL_DIM_MAX; dim++) {
            check_fenced(pairs[t], dim, true, fences);
            check_fenced(pairs[t], dim, false, fences);
        }
    fence_destroy(&fences[0]);
    fence_destroy(&fences[1]);
}

static void check_integer_extreme(enum element_type type, uint8_t a, uint8_t b, float l2sq,
                                  float dot)
{
    struct sample sample =
        sample_create((struct pair){type, type}, FLAVOUR_PLAIN, VECTOR_DIM_MAX, 0);
    memset(sample.query, a, VECTOR_DIM_MAX);
    memset(sample.rows, b, ROWS * sample.stride_bytes);
    for (size_t r = 0; r < ROWS; r++) {
        sample.l2sq[r] = l2sq;
        sample.dot[r] = dot;
    }
    for (unsigned features = 0; features <= ALL_FEATURES; features++)
        if (!(features & ~cpu_features()))
            check_sample(&sample, features, ROWS);
    sample_destroy(&sample, 0);
}

static void integer_kernels_do_not_overflow_at_the_largest_dimension(void **state)
{
    (void)state;
    check_integer_extreme(ELEMENT_U8, 255, 0, 532684800.0f, 0);
    check_integer_extreme(ELEMENT_U8, 0, 255, 532684800.0f, 0);
    check_integer_extreme(ELEMENT_U8, 255, 255, 0, 532684800.0f);
    check_integer_extreme(ELEMENT_I8, 0x80, 0x7f, 532684800.0f, -133169152.0f);
    check_integer_extreme(ELEMENT_I8, 0x80, 0x80, 0, 134217728.0f);
    check_integer_extreme(ELEMENT_I8, 0x7f, 0x7f, 0, 132128768.0f);
}

/* A lane that holds -0 (a product that underflowed) keeps it over elements that are not there. */
static void a_missing_tail_element_leaves_its_lane_unchanged(void **state)
{
    (void)state;
    static const size_t dims[] = {32, 33, 40, 47, 48, 63, 64, 65};
    for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
        struct sample sample =
            sample_create((struct pair){ELEMENT_F32, ELEMENT_F32}, FLAVOUR_PLAIN, dims[d], 0);
        for (size_t i = 0; i < dims[d]; i++) {
            const float tiny[2] = {1e-30f, -1e-30f};
            memcpy(sample.query + 4 * i, &tiny[0], 4);
            for (size_t r = 0; r < ROWS; r++)
                memcpy(sample.rows + r * sample.stride_bytes + 4 * i, &tiny[1], 4);
        }
        sample_expect(&sample);
        assert_true(same_float(sample.dot[0], -0.0f));
        for (unsigned features = 0; features <= ALL_FEATURES; features++)
            if (!(features & ~cpu_features()))
                check_sample(&sample, features, ROWS);
        sample_destroy(&sample, 0);
    }
}

static void metrics_are_smaller_for_nearer(void **state)
{
    (void)state;
    static const float query[2] = {3, 4}, rows[4][2] = {{3, 4}, {-3, -4}, {0, 0}, {4, -3}};
    static const float l2[4] = {0, 100, 25, 50}, ip[4] = {-25, 25, 0, 0}, cosine[4] = {0, 2, 1, 1};
    struct distance distance;
    float out[4];
    distance_init(&distance, ELEMENT_F32, METRIC_L2, 2);
    assert_true(distance_query_scale(&distance, query) == 0);
    distance_rows(&distance, query, 0, rows, sizeof(rows[0]), 4, out);
    assert_memory_equal(out, l2, sizeof(out));
    distance_init(&distance, ELEMENT_F32, METRIC_IP, 2);
    distance_rows(&distance, query, 0, rows, sizeof(rows[0]), 4, out);
    assert_memory_equal(out, ip, sizeof(out));
    distance_init(&distance, ELEMENT_F32, METRIC_COSINE, 2);
    float scale = distance_query_scale(&distance, query);
    assert_true(fabsf(scale - 0.2f) < 1e-7f);
    distance_rows(&distance, query, scale, rows, sizeof(rows[0]), 4, out);
    for (size_t i = 0; i < 4; i++)
        assert_true(fabsf(out[i] - cosine[i]) < 1e-6f);
}

static void cosine_of_a_zero_vector_is_0_for_every_type(void **state)
{
    (void)state;
    static const unsigned char zero[64];
    unsigned char one[64];
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++) {
        struct distance distance;
        float out[2];
        vector_fill(types[t], FLAVOUR_PLAIN, t, 16, one);
        distance_init(&distance, types[t], METRIC_COSINE, 16);
        float scale = distance_query_scale(&distance, zero);
        assert_true(scale == 0);
        distance_rows(&distance, zero, scale, one, 0, 2, out);
        assert_true(out[0] == 1 && out[1] == 1);
        distance_rows(&distance, one, distance_query_scale(&distance, one), zero, 0, 2, out);
        assert_true(out[0] == 1 && out[1] == 1);
    }
}

/* f32 covers 80 orders of magnitude; an angle does not depend on them. */
static void cosine_survives_overflow_and_underflow(void **state)
{
    (void)state;
    static const float sizes[] = {1e-44f, 1e-38f, 1e-23f, 1e-10f, 1, 1e10f, 1e19f, 1e30f, 3e38f};
    struct distance distance;
    distance_init(&distance, ELEMENT_F32, METRIC_COSINE, 3);
    for (size_t a = 0; a < ARRAY_LENGTH(sizes); a++)
        for (size_t b = 0; b < ARRAY_LENGTH(sizes); b++) {
            const float query[3] = {sizes[a], -sizes[a], 0};
            const float rows[4][3] = {{sizes[b], -sizes[b], 0},
                                      {-sizes[b], sizes[b], 0},
                                      {sizes[b], sizes[b], 0},
                                      {0, 0, sizes[b]}};
            static const float want[4] = {0, 2, 1, 1};
            float out[4];
            float scale = distance_query_scale(&distance, query);
            assert_true(isfinite(scale) && scale > 0);
            distance_rows(&distance, query, scale, rows, sizeof(rows[0]), 4, out);
            for (size_t i = 0; i < 4; i++)
                if (!(fabsf(out[i] - want[i]) < 1e-6f))
                    fail_msg("sizes %g %g row %zu: %g", (double)sizes[a], (double)sizes[b], i,
                             (double)out[i]);
        }
}

/* element.h's definition in double; *slack is what float rounding may add. */
static double oracle(const float *x, const float *y, size_t dim, enum metric metric, double *slack)
{
    double aa = 0, bb = 0, ab = 0, l2 = 0;
    for (size_t i = 0; i < dim; i++) {
        const double a = (double)x[i], b = (double)y[i];
        aa += a * a;
        bb += b * b;
        ab += a * b;
        l2 += (a - b) * (a - b);
    }
    *slack = 1e-6 * (metric == METRIC_COSINE ? 1 : aa + bb);
    if (metric == METRIC_COSINE)
        return aa > 0 && bb > 0 ? 1 - ab / sqrt(aa) / sqrt(bb) : 1;
    return metric == METRIC_IP ? -ab : l2;
}

/* Vectors of many lengths, so that a norm that is taken of the wrong side shows. */
static void check_oracle(struct pair pair, enum metric metric, float size)
{
    enum { DIM = 77, COUNT = 40 };
    static float x[DIM], y[COUNT][DIM];
    static unsigned char query[DIM * 4], rows[COUNT][DIM * 4];
    float values[DIM], out[COUNT];
    const size_t stride_bytes = sizeof(rows[0]);
    for (size_t r = 0; r <= COUNT; r++) {
        enum element_type type = r == COUNT ? pair.query : pair.row;
        float length = type == ELEMENT_U8 || type == ELEMENT_I8 ? 100 : size * (float)(r + 1);
        for (size_t d = 0; d < DIM; d++)
            values[d] = length * plain_value(random_at(SEED + r, d));
        element_vector_from_f32(type, values, DIM, r == COUNT ? query : rows[r]);
        element_vector_to_f32(type, r == COUNT ? query : rows[r], DIM, r == COUNT ? x : y[r]);
    }
    struct distance distance;
    distance_init_query(&distance, pair.query, pair.row, metric, DIM);
    assert_int_equal(distance.query_type, pair.query);
    float scale = distance_query_scale(&distance, query);
    distance_rows(&distance, query, scale, rows, stride_bytes, COUNT, out);
    for (size_t r = 0; r < COUNT; r++) {
        double slack, want = oracle(x, y[r], DIM, metric, &slack);
        if (!(fabs((double)out[r] - want) <= slack))
            fail_msg("%s with %s under %s, row %zu of size %g: got %.9g, wanted %.9g",
                     element_name(pair.query), element_name(pair.row), metric_name(metric), r,
                     (double)size, (double)out[r], want);
    }
}

static void distances_are_those_of_the_stored_values(void **state)
{
    (void)state;
    for (size_t p = 0; p < ARRAY_LENGTH(pairs); p++)
        for (int metric = METRIC_L2; metric <= METRIC_COSINE; metric++)
            check_oracle(pairs[p], (enum metric)metric, 1);
    /* What f32's squares cannot hold, f32's range can; f16 has less of it. */
    for (size_t p = 0; p < ARRAY_LENGTH(pairs); p++) {
        if (pairs[p].row == ELEMENT_F16)
            continue;
        check_oracle(pairs[p], METRIC_COSINE, 1e-20f);
        check_oracle(pairs[p], METRIC_COSINE, 1e25f);
    }
}

/* A distance does not depend on what else is in its batch, hence not on the size of chunks. */
static void distance_rows_do_not_depend_on_batching(void **state)
{
    (void)state;
    enum { COUNT = 150, DIM = 100 };
    static unsigned char query[DIM * 4], rows[COUNT * DIM * 4];
    static float all[COUNT];
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (unsigned metric = METRIC_L2; metric <= METRIC_COSINE; metric++) {
            size_t stride_bytes = element_vector_bytes(types[t], DIM);
            struct distance distance;
            distance_init(&distance, types[t], (enum metric)metric, DIM);
            vector_fill(types[t], FLAVOUR_PLAIN, 1, DIM, query);
            for (size_t i = 0; i < COUNT; i++)
                vector_fill(types[t], FLAVOUR_PLAIN, 2 + i, DIM, rows + i * stride_bytes);
            float scale = distance_query_scale(&distance, query);
            distance_rows(&distance, query, scale, rows, stride_bytes, COUNT, all);
            for (size_t i = 0; i < COUNT; i++) {
                float one;
                distance_rows(&distance, query, scale, rows + i * stride_bytes, stride_bytes, 1,
                              &one);
                assert_true(same_float(one, all[i]));
            }
        }
}

/* The environment is read once a process, so each word gets a process, which exits with its
 * features. */
static unsigned features_of_child(const char *word)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("NIGHTJAR_CPU", word, 1);
        execl("/proc/self/exe", "test_distance", "--exit-with-features", (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return (unsigned)WEXITSTATUS(status);
}

static void the_environment_lowers_and_never_raises_features(void **state)
{
    (void)state;
    unsigned host = features_of_child("no such level");
    assert_int_equal(features_of_child("vnni"), host);
    assert_int_equal(features_of_child("avx512"), host & (CPU_AVX2 | CPU_AVX512));
    assert_int_equal(features_of_child("avx2"), host & CPU_AVX2);
    assert_int_equal(features_of_child("scalar"), 0);
}

static void features_have_names(void **state)
{
    (void)state;
    assert_string_equal(cpu_features_name(0), "scalar");
    assert_string_equal(cpu_features_name(CPU_AVX2), "avx2");
    assert_string_equal(cpu_features_name(CPU_AVX2 | CPU_AVX512), "avx512");
    assert_string_equal(cpu_features_name(ALL_FEATURES), "avx512-vnni");
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--exit-with-features") == 0)
        return (int)cpu_features();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalar_kernels_equal_the_definition),
        cmocka_unit_test(avx2_kernels_equal_the_definition),
        cmocka_unit_test(avx512_kernels_equal_the_definition),
        cmocka_unit_test(vnni_kernels_equal_the_definition),
        cmocka_unit_test(every_subset_of_features_gives_equal_kernels),
        cmocka_unit_test(kernels_touch_no_byte_outside_a_row),
        cmocka_unit_test(integer_kernels_do_not_overflow_at_the_largest_dimension),
        cmocka_unit_test(a_missing_tail_element_leaves_its_lane_unchanged),
        cmocka_unit_test(metrics_are_smaller_for_nearer),
        cmocka_unit_test(cosine_of_a_zero_vector_is_0_for_every_type),
        cmocka_unit_test(cosine_survives_overflow_and_underflow),
        cmocka_unit_test(distances_are_those_of_the_stored_values),
        cmocka_unit_test(distance_rows_do_not_depend_on_batching),
        cmocka_unit_test(the_environment_lowers_and_never_raises_features),
        cmocka_unit_test(features_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
