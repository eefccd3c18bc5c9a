/*
 * test_codec_bias.c - that estimates from scalar codes are, on the average, the distances: a stop
 * ratio compares them with exact ones.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/codec.h"
#include "common/compiler.h"
#include "common/memory.h"
#include "common/random.h"

enum { SEED = 77, COUNT = 2000, DIM = 128 };

/* Nearly normal, of deviation 1. */
static float normal(uint64_t seed, uint64_t i)
{
    double sum = -6;
    for (uint64_t k = 0; k < 12; k++)
        sum += random_unit(seed, 12 * i + k);
    return (float)sum;
}

/* Sum of estimates over sum of distances, for a query of `length` deviations. */
static double bias(const struct codec *codec, const uint8_t *codes, const float *rows, float length)
{
    float query[DIM], out[COUNT];
    uint32_t ids[COUNT];
    void *table = aligned_alloc(64, size_align(codec_table_bytes(codec), 64));
    assert_non_null(table);
    for (uint32_t d = 0; d < DIM; d++)
        query[d] = length * normal(SEED + 1, d);
    for (uint32_t i = 0; i < COUNT; i++)
        ids[i] = i;
    codec_table_build(codec, query, table);
    codec_table_gather(codec, table, codes, ids, COUNT, out);
    free(table);
    double estimated = 0, exact = 0;
    for (size_t i = 0; i < COUNT; i++) {
        estimated += (double)out[i];
        for (size_t d = 0; d < DIM; d++)
            exact += pow((double)query[d] - (double)rows[i * DIM + d], 2);
    }
    return estimated / exact;
}

/* With few bits as with many; for queries at the mean, among the rows, and far away. */
static void estimates_are_unbiased(void **state)
{
    (void)state;
    static const uint32_t bits[] = {1, 2, 4};
    static const float lengths[] = {0, 1, 2};
    float *rows = malloc(COUNT * DIM * sizeof(float));
    assert_non_null(rows);
    for (size_t i = 0; i < COUNT * DIM; i++)
        rows[i] = normal(SEED, i);
    for (size_t b = 0; b < ARRAY_LENGTH(bits); b++) {
        const struct codec_params params = {
            .kind = CODEC_SCALAR,
            .metric = METRIC_L2,
            .type = ELEMENT_F32,
            .dim = DIM,
            .code_bytes = codec_scalar_code_bytes(DIM, METRIC_L2, bits[b]),
            .seed = SEED,
        };
        struct codec *codec = NULL;
        struct error err;
        if (codec_train(&params, rows, COUNT, &codec, &err))
            fail_msg("%s", err.text);
        uint8_t *codes = malloc((size_t)COUNT * params.code_bytes);
        assert_non_null(codes);
        codec_encode(codec, rows, COUNT, codes);
        for (size_t l = 0; l < ARRAY_LENGTH(lengths); l++) {
            double share = bias(codec, codes, rows, lengths[l]);
            if (fabs(share - 1) > 0.02)
                fail_msg("%u bits, query of length %g: %g of the distance", bits[b],
                         (double)lengths[l], share);
        }
        free(codes);
        codec_destroy(codec);
    }
    free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(estimates_are_unbiased),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
