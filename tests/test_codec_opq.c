/*
 * test_codec_opq.c - claims about common/codec_opq*.c and codec_choose.c: what estimates are of,
 * equal bits at any thread count and instruction set, the parser of codec.bin, and that the choice
 * falls on what finds most.
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

#include "common/codec_choose.h"
#include "common/codec_opq_internal.h"
#include "common/cpu.h"
#include "common/random.h"
#include "tests/codec_fixture.h"

enum { SEED = 20250712, HEADER = 64, BODY = HEADER + 16 };

static const enum element_type all_types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
static const enum metric all_metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
static const unsigned isa_levels[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512};

/* ---- helpers ---- */

static double normal(uint64_t seed, uint64_t i)
{
    double sum = -6;
    for (uint64_t j = 0; j < 12; j++)
        sum += random_unit(seed, 12 * i + j);
    return sum;
}

/* Variance of axis a is (1 + a)^-power; axes are mixed by rotations of pairs unless `aligned`. */
struct spectrum {
    double power;
    bool aligned;
};

static void *make_rows(const struct codec_params *params, size_t count, struct spectrum spectrum)
{
    const uint32_t dim = params->dim;
    uint8_t *rows = malloc(count * dim * element_bytes(params->type));
    float *values = malloc(dim * sizeof(float));
    assert_true(rows && values);
    for (size_t i = 0; i < count; i++) {
        for (uint32_t d = 0; d < dim; d++)
            values[d] = (float)(40 * pow(1 + d, -spectrum.power / 2) * normal(SEED, i * dim + d));
        for (uint32_t step = 1; !spectrum.aligned && step < dim; step *= 2) {
            for (uint32_t d = 0; d + step < dim; d++) {
                if (d / step % 2 == 1)
                    continue;
                const float a = values[d], b = values[d + step];
                values[d] = 0.8f * a - 0.6f * b;
                values[d + step] = 0.6f * a + 0.8f * b;
            }
        }
        for (uint32_t d = 0; d < dim; d++)
            values[d] += 60;
        element_from_f32(params->type, values, dim, rows + i * dim * element_bytes(params->type));
    }
    free(values);
    return rows;
}

static struct codec_params make_params(enum metric metric, enum element_type type, uint32_t dim,
                                       uint32_t code_bytes)
{
    return (struct codec_params){CODEC_OPQ, metric, type, dim, code_bytes, SEED, 0};
}

static const struct spectrum steep = {1.5, false};

static struct codec *train(const struct codec_params *params, unsigned features, uint32_t variant,
                           const void *rows, size_t count)
{
    const struct codec_effort effort = {.features = features};
    struct codec *codec = NULL;
    struct error err;
    if (codec_opq_train(params, &effort, variant, rows, count, &codec, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return codec;
}

static void gather_all(const struct codec *codec, const void *query, const uint8_t *codes,
                       uint32_t count, float *out)
{
    float *table = codec_fixture_table(codec, query);
    uint32_t *ids = malloc(count * sizeof(*ids));
    assert_non_null(ids);
    for (uint32_t i = 0; i < count; i++)
        ids[i] = i;
    codec_table_gather(codec, table, codes, ids, count, out);
    free(ids);
    free(table);
}

/* ---- what is estimated ---- */

/* A row as the codec sees it, in double. */
static void seen_row(const struct codec_params *params, const void *rows, size_t i, double *out)
{
    float values[64];
    double sum = 0, room = (double)params->norm_max * (double)params->norm_max;
    element_to_f32(params->type,
                   (const uint8_t *)rows + i * params->dim * element_bytes(params->type),
                   params->dim, values);
    for (uint32_t d = 0; d < params->dim; d++)
        sum += (double)values[d] * (double)values[d];
    for (uint32_t d = 0; d < params->dim; d++)
        out[d] = (double)values[d] / (params->metric == METRIC_COSINE ? sqrt(sum) : 1);
    if (params->metric == METRIC_IP)
        out[params->dim] = sqrt(fmax(room - sum, 0));
}

/* What a code stands for, read from codec.bin by its description alone: the reconstruction c and
 * the correction. */
static double decode(const struct codec_params *params, const uint8_t *file, const uint8_t *code,
                     double *c, double *mean)
{
    struct codec_opq_file_header header;
    memcpy(&header, file + HEADER, sizeof(header));
    const uint32_t dims = params->dim + (params->metric == METRIC_IP), kept = header.kept;
    const bool turn = header.variant & 1, correct = header.variant & 2;
    const uint32_t subspaces = params->code_bytes - correct;
    const float *at = (const float *)(const void *)(file + BODY), *axes = at + dims;
    const float *centroids = axes + (turn ? (size_t)kept * dims : 0);
    for (uint32_t d = 0; d < dims; d++)
        c[d] = mean[d] = (double)at[d];
    for (uint32_t m = 0, first = 0; m < subspaces; m++) {
        const uint32_t sub = kept / subspaces + (m < kept % subspaces);
        for (uint32_t j = 0; j < sub; j++) {
            double value = (double)centroids[first * 256 + code[m] * sub + j];
            for (uint32_t d = 0; turn && d < dims; d++)
                c[d] += value * (double)axes[(first + j) * dims + d];
            c[first + j] += turn ? 0 : value;
        }
        first += sub;
    }
    return correct ? (double)header.low + code[subspaces] * (double)header.step : 0;
}

/* Estimates of every row against the definition, and corrections against theirs. */
static void check_estimates_of(const struct codec_params *asked, uint32_t variant,
                               struct spectrum spectrum)
{
    enum { COUNT = 300 };
    void *rows = make_rows(asked, COUNT, spectrum);
    struct codec *codec = train(asked, cpu_features(), variant, rows, COUNT);
    const struct codec_params params = codec_params_of(codec);
    const uint32_t dims = params.dim + (params.metric == METRIC_IP);
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length),
            *codes = codec_fixture_encode(codec, rows, COUNT);
    const float step = ((const struct codec_opq *)codec)->step;
    float estimates[COUNT];
    gather_all(codec, rows, codes, COUNT, estimates);
    double query[65], norm = 0, scale = 1, factor = 1, offset = 0, clipped = 0;
    seen_row(&params, rows, 0, query);
    for (uint32_t d = 0; d < params.dim; d++)
        norm += query[d] * query[d];
    norm = sqrt(norm);
    if (params.metric == METRIC_COSINE)
        factor = 0.5;
    if (params.metric == METRIC_IP) {
        query[params.dim] = 0;
        scale = (double)params.norm_max / norm;
        factor = 0.5 * norm / (double)params.norm_max;
        offset = -norm * (double)params.norm_max;
    }
    for (size_t i = 0; i < COUNT; i++) {
        double x[65] = {0}, c[65] = {0}, mean[65] = {0}, distance = 0, known = 0, size = 0;
        double correction = decode(&params, file, codes + i * params.code_bytes, c, mean);
        seen_row(&params, rows, i, x);
        for (uint32_t d = 0; d < dims; d++) {
            distance += (query[d] * scale - c[d]) * (query[d] * scale - c[d]);
            known +=
                0.5 * ((x[d] - mean[d]) * (x[d] - mean[d]) - (c[d] - mean[d]) * (c[d] - mean[d]));
            size += query[d] * query[d] * scale * scale + c[d] * c[d] + mean[d] * mean[d];
        }
        double wanted = (distance + correction) * factor + offset;
        assert_true(fabs((double)estimates[i] - wanted) <= 1e-5 * (size * factor + fabs(offset)));
        if (params.code_bytes > 1 && variant & CODEC_OPQ_CORRECT)
            clipped += fabs(known - correction) > 0.501 * (double)step + 1e-5 * size;
    }
    assert_true(clipped <= COUNT * 0.01); /* a thousandth at either end lies outside the levels */
    free(codes);
    free(file);
    codec_destroy(codec);
    free(rows);
}

static void check_estimates(const struct codec_params *asked, uint32_t variant)
{
    check_estimates_of(asked, variant, steep);
}

/* What lies outside the kept axes is part of every estimate. */
static void estimates_are_of_the_whole_distance(void **state)
{
    (void)state;
    static const struct spectrum cliff = {2.5, false};
    for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++) {
        struct codec_params params = make_params(all_metrics[m], ELEMENT_F32, 32, 2);
        check_estimates_of(&params, CODEC_OPQ_TURN, cliff);
        check_estimates_of(&params, CODEC_OPQ_TURN | CODEC_OPQ_CORRECT, cliff);
    }
}

static void estimates_equal_decoding_and_measuring(void **state)
{
    (void)state;
    for (uint32_t variant = 0; variant < CODEC_OPQ_VARIANTS; variant++)
        for (size_t t = 0; t < ARRAY_LENGTH(all_types); t++)
            for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++) {
                struct codec_params params = make_params(all_metrics[m], all_types[t], 21, 9);
                check_estimates(&params, variant);
            }
}

static void any_code_size_fits_any_dimension(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1},   {2, 1},  {2, 2},   {3, 2},  {7, 7},
                                         {16, 16}, {17, 4}, {33, 32}, {37, 8}, {64, 63}};
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++)
        for (uint32_t variant = 0; variant < CODEC_OPQ_VARIANTS; variant++)
            for (size_t m = 0; m < 2; m++) {
                struct codec_params params =
                    make_params(all_metrics[m], ELEMENT_F32, shapes[i][0], shapes[i][1]);
                check_estimates(&params, variant);
            }
}

/* Steep spectra lose axes, flat ones keep all. */
static void axes_below_the_water_level_are_dropped(void **state)
{
    (void)state;
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, 64, 4);
    static const struct spectrum flat = {0, false}, cliff = {4, false};
    void *rows = make_rows(&params, 2000, flat);
    struct codec *codec = train(&params, cpu_features(), CODEC_OPQ_TURN, rows, 2000);
    uint32_t kept_flat = ((const struct codec_opq *)codec)->kept;
    codec_destroy(codec);
    free(rows);
    rows = make_rows(&params, 2000, cliff);
    codec = train(&params, cpu_features(), CODEC_OPQ_TURN, rows, 2000);
    uint32_t kept_cliff = ((const struct codec_opq *)codec)->kept;
    codec_destroy(codec);
    free(rows);
    assert_true(kept_flat >= 60);
    assert_true(kept_cliff >= 4 && kept_cliff <= 24);
}

static void logarithms_are_right(void **state)
{
    (void)state;
    for (int i = -300; i < 300; i++) {
        double value = pow(10, i) * (1 + random_unit(SEED, (uint64_t)(i + 300)));
        assert_true(fabs(codec_opq_log2(value) - log2(value)) <= 1e-13 * (1 + fabs(log2(value))));
    }
    assert_true(codec_opq_log2(1) == 0);
    assert_true(codec_opq_log2(8) == 3);
}

static void constant_rows_and_copies_are_coded_alike(void **state)
{
    (void)state;
    enum { COUNT = 50, DIM = 12 };
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, DIM, 4);
    float rows[COUNT * DIM], out[COUNT];
    for (size_t i = 0; i < COUNT * DIM; i++)
        rows[i] = 5;
    for (uint32_t variant = 0; variant < CODEC_OPQ_VARIANTS; variant++) {
        for (size_t count = 1; count <= COUNT; count += COUNT - 1) {
            struct codec *codec = train(&params, cpu_features(), variant, rows, count);
            uint8_t *codes = codec_fixture_encode(codec, rows, count);
            gather_all(codec, rows, codes, (uint32_t)count, out);
            for (size_t i = 0; i < count; i++) {
                assert_memory_equal(codes, codes + i * 4, 4);
                assert_true(fabsf(out[i]) <= 1e-6f);
            }
            free(codes);
            codec_destroy(codec);
        }
    }
    /* Two distinct rows among many copies. */
    for (size_t d = 0; d < DIM; d++)
        rows[7 * DIM + d] = (float)d;
    struct codec *codec = train(&params, cpu_features(), CODEC_OPQ_TURN, rows, COUNT);
    uint8_t *codes = codec_fixture_encode(codec, rows, COUNT);
    gather_all(codec, rows + 7 * DIM, codes, COUNT, out);
    for (size_t i = 0; i < COUNT; i++)
        assert_true(i == 7 ? fabsf(out[i]) < 1e-3f : out[i] > 100);
    free(codes);
    codec_destroy(codec);
}

static void huge_values_stay_finite(void **state)
{
    (void)state;
    enum { COUNT = 64, DIM = 6 };
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, DIM, 3);
    float rows[COUNT * DIM];
    for (size_t i = 0; i < COUNT * DIM; i++)
        rows[i] = random_unit(SEED, i) < 0.5 ? 3e38f : -3e38f;
    for (uint32_t variant = 0; variant < CODEC_OPQ_VARIANTS; variant++) {
        struct codec *codec = train(&params, cpu_features(), variant, rows, COUNT), *copy = NULL;
        size_t length;
        struct error err;
        uint8_t *file = codec_fixture_serialize(codec, &length);
        /* It reads back, so its values are finite. */
        assert_int_equal(codec_deserialize(file, length, &copy, &err), STATUS_OK);
        codec_destroy(copy);
        free(file);
        codec_destroy(codec);
    }
}

/* ---- equal bits ---- */

static void expect_equal(const struct codec *a, const struct codec *b, const void *rows,
                         size_t count)
{
    size_t a_length, b_length;
    uint8_t *a_file = codec_fixture_serialize(a, &a_length),
            *b_file = codec_fixture_serialize(b, &b_length);
    assert_int_equal(a_length, b_length);
    assert_memory_equal(a_file, b_file, a_length);
    uint8_t *a_codes = codec_fixture_encode(a, rows, count),
            *b_codes = codec_fixture_encode(b, rows, count);
    assert_memory_equal(a_codes, b_codes, count * codec_params_of(a).code_bytes);
    float *a_table = codec_fixture_table(a, rows), *b_table = codec_fixture_table(b, rows);
    assert_memory_equal(a_table, b_table, codec_table_bytes(a));
    free(b_table);
    free(a_table);
    free(b_codes);
    free(a_codes);
    free(b_file);
    free(a_file);
}

static void every_instruction_set_and_team_gives_the_same_codec(void **state)
{
    (void)state;
    enum { COUNT = 300 };
    const int threads = omp_get_max_threads();
    for (uint32_t variant = 0; variant < CODEC_OPQ_VARIANTS; variant++) {
        for (size_t m = 0; m < ARRAY_LENGTH(all_metrics); m++) {
            struct codec_params params = make_params(all_metrics[m], all_types[m + 1], 37, 5);
            void *rows = make_rows(&params, COUNT, steep);
            omp_set_num_threads(1);
            struct codec *wanted = train(&params, 0, variant, rows, COUNT);
            for (size_t i = 0; i < ARRAY_LENGTH(isa_levels); i++) {
                if (isa_levels[i] & ~cpu_features())
                    continue;
                omp_set_num_threads(1 + (int)i);
                struct codec *codec = train(&params, isa_levels[i], variant, rows, COUNT);
                expect_equal(codec, wanted, rows, COUNT);
                codec_destroy(codec);
            }
            codec_destroy(wanted);
            free(rows);
        }
    }
    omp_set_num_threads(threads);
}

static void every_instruction_set_has_kernels_of_equal_bits(void **state)
{
    (void)state;
    enum { DIMS_MAX = 257, COUNT_MAX = 18 };
    static ALIGNED(64) float lanes[COUNT_MAX * CODEC_LANES * DIMS_MAX];
    static float vectors[COUNT_MAX * DIMS_MAX];
    static ALIGNED(64) float out[2][3][COUNT_MAX * CODEC_LANES];
    for (size_t i = 0; i < ARRAY_LENGTH(lanes); i++)
        lanes[i] = (float)ldexp(random_unit(SEED, i) - 0.5, (int)random_below(7, i, 24));
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        vectors[i] = (float)ldexp(random_unit(8, i) - 0.5, (int)random_below(9, i, 24));
    for (size_t level = 0; level < ARRAY_LENGTH(isa_levels); level++) {
        if (isa_levels[level] & ~cpu_features()) {
            print_message("skipped: level %zu\n", level);
            continue;
        }
        for (size_t dims = 0; dims <= DIMS_MAX; dims += dims < 20 ? 1 : 79)
            for (size_t count = 1; count <= COUNT_MAX; count++) {
                memset(out, 0, sizeof(out));
                for (size_t which = 0; which < 2; which++) {
                    const struct codec_opq_kernels *kernels =
                        codec_opq_kernels_get(which ? isa_levels[level] : 0);
                    struct codec_pq_tile tile = {lanes, vectors,       dims, dims,
                                                 count, out[which][0], true};
                    kernels->products(&tile);
                    /* In two parts, the second going on from the first. */
                    tile.distances = out[which][1];
                    tile.dims = dims / 3;
                    kernels->products(&tile);
                    tile.points += tile.dims * CODEC_LANES;
                    tile.centroids += tile.dims;
                    tile.dims = dims - tile.dims;
                    tile.fresh = false;
                    kernels->products(&tile);
                    kernels->group_products(vectors, dims, lanes, count, out[which][2]);
                }
                assert_memory_equal(out[0], out[1], sizeof(out[0]));
                assert_memory_equal(out[0][0], out[0][1], sizeof(out[0][0]));
                /* A product is the same whichever kernel makes it. */
                assert_memory_equal(out[0][0], out[0][2], CODEC_LANES * sizeof(float));
            }
    }
}

static void rows_encode_alike_alone_and_together(void **state)
{
    (void)state;
    enum { COUNT = 53, DIM = 19, BYTES = 5 };
    struct codec_params params = make_params(METRIC_COSINE, ELEMENT_F16, DIM, BYTES);
    uint16_t *rows = make_rows(&params, COUNT, steep);
    struct codec *codec =
        train(&params, cpu_features(), CODEC_OPQ_TURN | CODEC_OPQ_CORRECT, rows, COUNT);
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

/* ---- codec.bin ---- */

static void codec_survives_serialisation(void **state)
{
    (void)state;
    enum { COUNT = 100 };
    for (uint32_t variant = 0; variant < CODEC_OPQ_VARIANTS; variant++) {
        struct codec_params params = make_params(METRIC_IP, ELEMENT_I8, 15, 4);
        void *rows = make_rows(&params, COUNT, steep);
        struct codec *codec = train(&params, cpu_features(), variant, rows, COUNT), *copy = NULL;
        struct error err;
        size_t length;
        uint8_t *file = codec_fixture_serialize(codec, &length);
        assert_int_equal(codec_deserialize(file, length, &copy, &err), STATUS_OK);
        assert_int_equal(codec_params_of(copy).kind, CODEC_OPQ);
        expect_equal(codec, copy, rows, COUNT);
        codec_destroy(copy);
        free(file);
        codec_destroy(codec);
        free(rows);
    }
}

static enum status read_back(const uint8_t *file, size_t length, const void *rows)
{
    /* Of exact length on the heap, so that a sanitizer sees any byte read beyond. */
    uint8_t *copy = malloc(length > 0 ? length : 1);
    struct codec *codec = NULL;
    struct error err;
    assert_non_null(copy);
    memcpy(copy, file, length);
    enum status status = codec_deserialize(copy, length, &codec, &err);
    if (status == STATUS_OK) { /* then it works */
        float out[4];
        uint8_t *codes = codec_fixture_encode(codec, rows, 4);
        gather_all(codec, rows, codes, 4, out);
        free(codes);
    } else {
        assert_null(codec);
    }
    codec_destroy(codec);
    free(copy);
    return status;
}

static void damaged_codec_files_are_refused_or_work(void **state)
{
    (void)state;
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, 6, 3);
    void *rows = make_rows(&params, 100, steep);
    for (uint32_t variant = 0; variant < CODEC_OPQ_VARIANTS; variant++) {
        struct codec *codec = train(&params, cpu_features(), variant, rows, 100);
        size_t length;
        uint8_t *file = codec_fixture_serialize(codec, &length), *longer = calloc(1, length + 4);
        assert_non_null(longer);
        memcpy(longer, file, length);
        for (size_t cut = 0; cut < length; cut += cut < 300 ? 1 : 97)
            assert_int_equal(read_back(file, cut, rows), STATUS_CORRUPT);
        assert_int_equal(read_back(longer, length + 4, rows), STATUS_CORRUPT);
        for (size_t bit = 0; bit < 8 * 400; bit++) {
            file[bit / 8] ^= (uint8_t)(1u << bit % 8);
            /* 24 bits of a shorter dim would make it read fewer of the rows given. */
            if (bit / 8 < 16 || bit / 8 >= 24)
                (void)read_back(file, length, rows);
            file[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        free(longer);
        free(file);
        codec_destroy(codec);
    }
    free(rows);
}

static void wrong_fields_are_refused(void **state)
{
    (void)state;
    enum { DIM = 6, BYTES = 3 };
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, DIM, BYTES);
    void *rows = make_rows(&params, 100, steep);
    struct codec *codec =
        train(&params, cpu_features(), CODEC_OPQ_TURN | CODEC_OPQ_CORRECT, rows, 100);
    size_t length;
    uint8_t *file = codec_fixture_serialize(codec, &length);
    static const struct {
        size_t offset;
        uint32_t value;
        enum status status;
    } faults[] = {
        {HEADER, 4, STATUS_UNSUPPORTED},
        {HEADER, 0, STATUS_CORRUPT},
        {HEADER, 1, STATUS_CORRUPT},
        {HEADER, 2, STATUS_CORRUPT},
        {HEADER + 4, 0, STATUS_CORRUPT},
        {HEADER + 4, 1, STATUS_CORRUPT},
        {HEADER + 4, DIM + 1, STATUS_CORRUPT},
        {HEADER + 4, UINT32_MAX, STATUS_CORRUPT},
        {HEADER + 8, 0x7fc00000, STATUS_CORRUPT},
        {HEADER + 8, 0x7f800000, STATUS_CORRUPT},
        {HEADER + 12, 0xbf800000, STATUS_CORRUPT},
        {HEADER + 12, 0x7fc00000, STATUS_CORRUPT},
        {HEADER + 12, 0x7f000000, STATUS_CORRUPT},
        {BODY, 0x7fc00000, STATUS_CORRUPT},
        {BODY + 4 * DIM, 0x7fc00000, STATUS_CORRUPT},
        {BODY + 4 * DIM, 0x40000000, STATUS_CORRUPT},
        {24, 1, STATUS_CORRUPT},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(faults); i++) {
        uint8_t saved[4];
        memcpy(saved, file + faults[i].offset, 4);
        memcpy(file + faults[i].offset, &faults[i].value, 4);
        if (read_back(file, length, rows) != faults[i].status)
            fail_msg("fault %zu", i);
        memcpy(file + faults[i].offset, saved, 4);
    }
    uint32_t nan = 0x7fc00000;
    memcpy(file + length - 4, &nan, 4);
    assert_int_equal(read_back(file, length, rows), STATUS_CORRUPT);
    free(file);
    codec_destroy(codec);
    free(rows);
}

/* ---- the choice ---- */

static struct codec_choice choose(const struct codec_params *asked, struct spectrum spectrum,
                                  size_t count)
{
    struct codec_params params = *asked;
    struct codec *codec = NULL;
    struct codec_choice choice;
    struct error err;
    char text[CODEC_CHOICE_TEXT_BYTES];
    void *rows = make_rows(&params, count, spectrum);
    if (codec_train_chosen(&params, rows, count, &choice, &codec, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(codec_params_of(codec).kind, choice.kind);
    codec_choice_describe(&choice, text);
    print_message("%s\n", text);
    codec_destroy(codec);
    free(rows);
    return choice;
}

static void principal_axes_win_on_steep_spectra(void **state)
{
    (void)state;
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, 96, 8);
    params.kind = CODEC_AUTO;
    struct codec_choice choice = choose(&params, steep, 3000);
    assert_int_equal(choice.kind, CODEC_OPQ);
    assert_true(choice.candidate == CODEC_CHOICE_TURN ||
                choice.candidate == CODEC_CHOICE_TURN_BYTE);
    assert_true(choice.recall[CODEC_CHOICE_TURN] > choice.recall[CODEC_CHOICE_PQ] + 0.1f);
    /* Asked for opq, pq is no candidate. */
    params.kind = CODEC_OPQ;
    choice = choose(&params, steep, 3000);
    assert_int_equal(choice.kind, CODEC_OPQ);
    assert_true(choice.recall[CODEC_CHOICE_PQ] < 0);
}

static void pq_is_kept_where_nothing_finds_more(void **state)
{
    (void)state;
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, 16, 8);
    params.kind = CODEC_AUTO;
    static const struct spectrum aligned = {0, true};
    struct codec_choice choice = choose(&params, aligned, 3000);
    assert_int_equal(choice.kind, CODEC_PQ);
    assert_int_equal(choice.candidate, CODEC_CHOICE_PQ);
    assert_true(choice.queries > 0);
}

static void small_samples_are_not_measured(void **state)
{
    (void)state;
    struct codec_params params = make_params(METRIC_COSINE, ELEMENT_U8, 8, 1);
    params.kind = CODEC_AUTO;
    struct codec_choice choice = choose(&params, steep, 1);
    assert_int_equal(choice.kind, CODEC_PQ);
    assert_int_equal(choice.queries, 0);
    params.kind = CODEC_OPQ;
    assert_int_equal(choose(&params, steep, 100).kind, CODEC_OPQ);
    params.kind = CODEC_PQ;
    assert_int_equal(choose(&params, steep, 2000).queries, 0);
    /* One byte leaves none for a correction. */
    params.kind = CODEC_OPQ;
    choice = choose(&params, steep, 1500);
    assert_true(choice.recall[CODEC_CHOICE_BYTE] < 0 && choice.recall[CODEC_CHOICE_TURN] >= 0);
}

static void auto_is_no_kind_of_a_codec(void **state)
{
    (void)state;
    struct codec_params params = make_params(METRIC_L2, ELEMENT_F32, 2, 1);
    params.kind = CODEC_AUTO;
    float rows[4] = {1, 2, 3, NAN};
    struct codec *codec = NULL;
    struct error err;
    assert_int_equal(codec_train(&params, rows, 1, &codec, &err), STATUS_INVALID);
    assert_int_equal(codec_train_chosen(&params, rows, 2, NULL, &codec, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "row 1"));
    assert_null(codec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(estimates_equal_decoding_and_measuring),
        cmocka_unit_test(estimates_are_of_the_whole_distance),
        cmocka_unit_test(any_code_size_fits_any_dimension),
        cmocka_unit_test(axes_below_the_water_level_are_dropped),
        cmocka_unit_test(logarithms_are_right),
        cmocka_unit_test(constant_rows_and_copies_are_coded_alike),
        cmocka_unit_test(huge_values_stay_finite),
        cmocka_unit_test(every_instruction_set_and_team_gives_the_same_codec),
        cmocka_unit_test(every_instruction_set_has_kernels_of_equal_bits),
        cmocka_unit_test(rows_encode_alike_alone_and_together),
        cmocka_unit_test(codec_survives_serialisation),
        cmocka_unit_test(damaged_codec_files_are_refused_or_work),
        cmocka_unit_test(wrong_fields_are_refused),
        cmocka_unit_test(principal_axes_win_on_steep_spectra),
        cmocka_unit_test(pq_is_kept_where_nothing_finds_more),
        cmocka_unit_test(small_samples_are_not_measured),
        cmocka_unit_test(auto_is_no_kind_of_a_codec),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
