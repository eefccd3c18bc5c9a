/*
 * test_element.c - names, sizes and conversions of element types.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/element.h"
#include "common/random.h"

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* The definition of binary16, in doubles. */
static double f16_value(uint16_t half)
{
    int exponent = half >> 10 & 0x1f;
    double mantissa = half & 0x3ff;
    double magnitude = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 0x1f)
        magnitude = mantissa == 0 ? (double)INFINITY : (double)NAN;
    return half & 0x8000 ? -magnitude : magnitude;
}

/* Nearest binary16 by searching all, ties to the even one: slow and plainly right. */
static uint16_t f16_nearest(float value)
{
    uint16_t sign = bits_of(value) >> 31 ? 0x8000 : 0;
    double magnitude = fabs((double)value);
    if (magnitude >= 65520.0)
        return (uint16_t)(sign | 0x7c00);
    uint16_t low = 0, high = 0x7bff; /* binary search: magnitudes ascend with their bits */
    while (low < high) {
        uint16_t middle = (uint16_t)((low + high + 1) / 2);
        if (f16_value(middle) <= magnitude)
            low = middle;
        else
            high = (uint16_t)(middle - 1);
    }
    if (low == 0x7bff)
        return (uint16_t)(sign | low);
    double below = magnitude - f16_value(low);
    double above = f16_value((uint16_t)(low + 1)) - magnitude;
    if (above < below || (above == below && (low & 1)))
        low++;
    return (uint16_t)(sign | low);
}

static void names_round_trip(void **state)
{
    (void)state;
    for (int type = ELEMENT_U8; type <= ELEMENT_I8S; type++)
        assert_int_equal(element_parse(element_name((enum element_type)type)), type);
    for (int metric = METRIC_L2; metric <= METRIC_COSINE; metric++)
        assert_int_equal(metric_parse(metric_name((enum metric)metric)), metric);
    assert_string_equal(element_name(ELEMENT_F16), "f16");
    assert_string_equal(metric_name(METRIC_COSINE), "cosine");
}

static void unknown_names_are_refused(void **state)
{
    (void)state;
    assert_int_equal(element_parse("f64"), ELEMENT_NONE);
    assert_int_equal(element_parse(""), ELEMENT_NONE);
    assert_int_equal(element_parse("unknown"), ELEMENT_NONE);
    assert_int_equal(metric_parse("L2"), METRIC_NONE);
    assert_string_equal(element_name(ELEMENT_NONE), "unknown");
    assert_string_equal(element_name((enum element_type)99), "unknown");
    assert_string_equal(metric_name(METRIC_NONE), "unknown");
    assert_string_equal(metric_name((enum metric)99), "unknown");
}

static void sizes_are_those_of_the_formats(void **state)
{
    (void)state;
    assert_int_equal(element_bytes(ELEMENT_NONE), 0);
    assert_int_equal(element_bytes(ELEMENT_U8), 1);
    assert_int_equal(element_bytes(ELEMENT_I8), 1);
    assert_int_equal(element_bytes(ELEMENT_F16), 2);
    assert_int_equal(element_bytes(ELEMENT_F32), 4);
    assert_int_equal(element_bytes(ELEMENT_I32), 4);
    assert_int_equal(element_bytes(ELEMENT_BF16), 2);
    assert_int_equal(element_bytes(ELEMENT_I8S), 1);
    assert_int_equal(element_vector_bytes(ELEMENT_F32, 7), 28);
    assert_int_equal(element_vector_bytes(ELEMENT_BF16, 7), 14);
    assert_int_equal(element_vector_bytes(ELEMENT_I8S, 7), 11);
}

static void every_f16_becomes_its_exact_f32(void **state)
{
    (void)state;
    static uint16_t halves[65536];
    static float floats[65536];
    for (uint32_t i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    element_to_f32(ELEMENT_F16, halves, 65536, floats);
    for (uint32_t i = 0; i < 65536; i++) {
        double wanted = f16_value((uint16_t)i);
        if (isnan(wanted)) {
            assert_true(isnan(floats[i]));
            assert_true(bits_of(floats[i]) & 0x00400000u); /* quiet */
        } else {
            assert_int_equal(bits_of(floats[i]), bits_of((float)wanted));
        }
    }
}

static void every_f16_survives_a_round_trip(void **state)
{
    (void)state;
    static uint16_t halves[65536], back[65536];
    static float floats[65536];
    for (uint32_t i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    element_to_f32(ELEMENT_F16, halves, 65536, floats);
    element_from_f32(ELEMENT_F16, floats, 65536, back);
    for (uint32_t i = 0; i < 65536; i++) {
        bool nan = (i & 0x7c00) == 0x7c00 && (i & 0x3ff);
        assert_int_equal(back[i], nan ? i | 0x200 : i);
    }
}

static void assert_f16(float value, uint16_t wanted)
{
    uint16_t half;
    element_from_f32(ELEMENT_F16, &value, 1, &half);
    if (half != wanted)
        fail_msg("%a gave 0x%04x, wanted 0x%04x", (double)value, half, wanted);
}

static void f32_to_f16_rounds_to_nearest_even_at_every_midpoint(void **state)
{
    (void)state;
    for (uint16_t half = 0; half < 0x7bff; half++) {
        float low = (float)f16_value(half), high = (float)f16_value((uint16_t)(half + 1));
        float middle = (low + high) / 2; /* exact: one bit more than binary16 has */
        uint16_t even = half & 1 ? (uint16_t)(half + 1) : half;
        assert_f16(middle, even);
        assert_f16(nextafterf(middle, 0), half);
        assert_f16(nextafterf(middle, INFINITY), (uint16_t)(half + 1));
        assert_f16(-middle, (uint16_t)(even | 0x8000));
    }
}

static void f32_to_f16_handles_extremes(void **state)
{
    (void)state;
    assert_f16(0.0f, 0);
    assert_f16(-0.0f, 0x8000);
    assert_f16(65504.0f, 0x7bff);
    assert_f16(nextafterf(65520.0f, 0), 0x7bff);
    assert_f16(65520.0f, 0x7c00);
    assert_f16(3e38f, 0x7c00);
    assert_f16(INFINITY, 0x7c00);
    assert_f16(-INFINITY, 0xfc00);
    assert_f16(0x1p-24f, 1);
    assert_f16(0x1p-25f, 0);
    assert_f16(nextafterf(0x1p-25f, 1), 1);
    assert_f16(0x1p-149f, 0);
    assert_f16(float_of(0x7fc00000), 0x7e00);
    assert_f16(float_of(0x7f800001), 0x7e00); /* a NaN whose payload is all in the lost bits */
}

static void f32_to_f16_agrees_with_a_search_on_random_bits(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t bits = (uint32_t)random_at(11, i);
        if (i % 2) /* half of them where binary16 has values */
            bits = (bits & 0x807fffffu) | (uint32_t)(96 + random_below(12, i, 52)) << 23;
        float value = float_of(bits);
        if (!isnan(value))
            assert_f16(value, f16_nearest(value));
    }
}

static void integers_become_exact_f32(void **state)
{
    (void)state;
    uint8_t bytes[256];
    int8_t chars[256];
    float floats[256];
    for (int i = 0; i < 256; i++) {
        bytes[i] = (uint8_t)i;
        chars[i] = (int8_t)(i - 128);
    }
    element_to_f32(ELEMENT_U8, bytes, 256, floats);
    for (int i = 0; i < 256; i++)
        assert_true(floats[i] == (float)i);
    element_to_f32(ELEMENT_I8, chars, 256, floats);
    for (int i = 0; i < 256; i++)
        assert_true(floats[i] == (float)(i - 128));
    int32_t ids[2] = {INT32_MIN, 1 << 24};
    element_to_f32(ELEMENT_I32, ids, 2, floats);
    assert_true(floats[0] == -0x1p31f && floats[1] == 0x1p24f);
}

static void f32_to_integers_rounds_to_even_and_saturates(void **state)
{
    (void)state;
    const float in[] = {0.5f,     1.5f,      2.5f,   -0.5f,   -1.5f,  254.5f,
                        255.5f,   1e30f,     -1e30f, 127.5f,  126.5f, -128.5f,
                        INFINITY, -INFINITY, NAN,    -127.5f, 3.49f};
    const uint8_t u8[] = {0, 2, 2, 0, 0, 254, 255, 255, 0, 128, 126, 0, 255, 0, 0, 0, 3};
    const int8_t i8[] = {0,   2,   2,    0,   -2,   127, 127,  127, -128,
                         127, 126, -128, 127, -128, 0,   -128, 3};
    const int32_t i32[] = {0,   2,   2,    0,         -2,        254, 256,  INT32_MAX, INT32_MIN,
                           128, 126, -128, INT32_MAX, INT32_MIN, 0,   -128, 3};
    enum { COUNT = ARRAY_LENGTH(in) };
    uint8_t got_u8[COUNT];
    int8_t got_i8[COUNT];
    int32_t got_i32[COUNT];
    element_from_f32(ELEMENT_U8, in, COUNT, got_u8);
    element_from_f32(ELEMENT_I8, in, COUNT, got_i8);
    element_from_f32(ELEMENT_I32, in, COUNT, got_i32);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(got_u8[i], u8[i]);
        assert_int_equal(got_i8[i], i8[i]);
        assert_int_equal(got_i32[i], i32[i]);
    }
}

/* Exact-length heap buffers: a sanitizer sees a byte too far. */
static void any_count_and_alignment_converts_alike(void **state)
{
    (void)state;
    for (size_t count = 0; count <= 257; count += count < 70 ? 1 : 17) {
        for (int type = ELEMENT_U8; type <= ELEMENT_I8S; type++) {
            size_t width = element_bytes((enum element_type)type);
            uint8_t *odd = malloc(count * width + 1), *back = malloc(count * width + 1);
            float *floats = malloc((count + 1) * sizeof(*floats));
            assert_true(odd && back && floats);
            for (size_t i = 0; i < count; i++) {
                float value = (float)(i % 100);
                element_from_f32((enum element_type)type, &value, 1, odd + 1 + i * width);
            }
            element_to_f32((enum element_type)type, odd + 1, count, floats);
            for (size_t i = 0; i < count; i++)
                assert_true(floats[i] == (float)(i % 100));
            element_from_f32((enum element_type)type, floats, count, back + 1);
            assert_memory_equal(back + 1, odd + 1, count * width);
            free(odd);
            free(back);
            free(floats);
        }
    }
}

static void first_special_value_is_found_wherever_it_is(void **state)
{
    (void)state;
    enum { COUNT = 150 };
    float floats[COUNT] = {0};
    uint16_t halves[COUNT] = {0};
    for (size_t at = 0; at < COUNT; at++) {
        size_t bad = SIZE_MAX;
        floats[at] = at % 2 ? NAN : -INFINITY;
        halves[at] = at % 2 ? 0x7c01 : 0xfc00;
        if (at + 20 < COUNT) {
            floats[at + 20] = NAN; /* not the first */
            halves[at + 20] = 0x7e00;
        }
        assert_false(element_all_finite(ELEMENT_F32, floats, COUNT, &bad));
        assert_int_equal(bad, at);
        bad = SIZE_MAX;
        assert_false(element_all_finite(ELEMENT_F16, halves, COUNT, &bad));
        assert_int_equal(bad, at);
        assert_false(element_all_finite(ELEMENT_F32, floats, COUNT, NULL));
        assert_true(element_all_finite(ELEMENT_F32, floats, at, &bad));
        memset(floats, 0, sizeof(floats));
        memset(halves, 0, sizeof(halves));
    }
}

static void largest_finite_values_and_integers_are_finite(void **state)
{
    (void)state;
    const float floats[] = {3.4028235e38f, -3.4028235e38f, 0x1p-149f, -0.0f};
    const uint16_t halves[] = {0x7bff, 0xfbff, 1, 0x8000};
    uint8_t ones[64];
    memset(ones, 0xff, sizeof(ones));
    assert_true(element_all_finite(ELEMENT_F32, floats, ARRAY_LENGTH(floats), NULL));
    assert_true(element_all_finite(ELEMENT_F16, halves, ARRAY_LENGTH(halves), NULL));
    assert_true(element_all_finite(ELEMENT_U8, ones, 64, NULL));
    assert_true(element_all_finite(ELEMENT_I8, ones, 64, NULL));
    assert_true(element_all_finite(ELEMENT_I32, ones, 16, NULL));
}

static void every_bf16_is_the_upper_half_of_its_f32_and_back(void **state)
{
    (void)state;
    static uint16_t upper[65536], back[65536];
    static float floats[65536];
    for (uint32_t i = 0; i < 65536; i++)
        upper[i] = (uint16_t)i;
    element_to_f32(ELEMENT_BF16, upper, 65536, floats);
    element_from_f32(ELEMENT_BF16, floats, 65536, back);
    for (uint32_t i = 0; i < 65536; i++) {
        bool nan = (i & 0x7f80) == 0x7f80 && (i & 0x7f);
        size_t bad;
        assert_int_equal(bits_of(floats[i]), i << 16);
        assert_int_equal(back[i], nan ? i | 0x40 : i);
        assert_int_equal(element_all_finite(ELEMENT_BF16, &upper[i], 1, &bad),
                         (i & 0x7f80) != 0x7f80);
    }
}

static void assert_bf16(float value, uint32_t wanted)
{
    uint16_t upper;
    element_from_f32(ELEMENT_BF16, &value, 1, &upper);
    if (upper != wanted)
        fail_msg("%a gave 0x%04x, wanted 0x%04x", (double)value, upper, wanted);
}

/* Around the midpoint of each two neighbours, the last of which is infinity. */
static void f32_to_bf16_rounds_to_nearest_even_at_every_midpoint(void **state)
{
    (void)state;
    for (uint32_t upper = 0; upper < 0x7f80; upper++) {
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            uint32_t middle = (sign | upper) << 16 | 0x8000;
            assert_bf16(float_of(middle), sign | (upper + (upper & 1)));
            assert_bf16(float_of(middle - 1), sign | upper);
            assert_bf16(float_of(middle + 1), sign | (upper + 1));
        }
    }
    assert_bf16(float_of(0x7f800001), 0x7fc0); /* a NaN is never rounded to infinity */
    assert_bf16(float_of(0xffffffff), 0xffff);
}

static void i8s_takes_the_nearest_of_255_steps(void **state)
{
    (void)state;
    enum { DIM = 67 };
    static const float sizes[] = {1, 1e-3f, 1e18f, 3.4e38f, 1e-36f, 1e-42f};
    unsigned char memory[DIM + sizeof(float) + 1], *vector = memory + 1; /* unaligned */
    float values[DIM], back[DIM], part[9], scale;
    for (size_t s = 0; s < ARRAY_LENGTH(sizes); s++) {
        float most = 0;
        for (size_t d = 0; d < DIM; d++) {
            values[d] = sizes[s] * (float)((double)(random_at(s, d) >> 40) / 0x1p23 - 1);
            most = fmaxf(most, fabsf(values[d]));
        }
        element_vector_from_f32(ELEMENT_I8S, values, DIM, vector);
        memcpy(&scale, vector + DIM, sizeof(scale));
        assert_true(scale == most / 127);
        element_vector_to_f32(ELEMENT_I8S, vector, DIM, back);
        for (size_t d = 0; d < DIM; d++) {
            assert_true(back[d] == (float)(int8_t)vector[d] * scale);
            /* A subnormal scale may be as much too small as half of its last bit. */
            double slack = 0.5001 * (double)scale + 127 * 0x1p-150;
            assert_true(fabs((double)back[d] - (double)values[d]) <= slack);
        }
        const struct element_part some = {.dim = DIM, .first = 31, .count = ARRAY_LENGTH(part)};
        element_vector_part_to_f32(ELEMENT_I8S, vector, some, part);
        assert_memory_equal(part, back + some.first, sizeof(part));
        assert_true(element_vector_all_finite(ELEMENT_I8S, vector, DIM, NULL));
    }
}

static void i8s_of_zeroes_is_zero_and_of_halves_is_even(void **state)
{
    (void)state;
    static const float zero[3] = {0, -0.0f, 0}, halves[5] = {127, 0.5f, 1.5f, -2.5f, -127};
    static const int8_t even[5] = {127, 0, 2, -2, -127};
    static const unsigned char nothing[3 + sizeof(float)];
    unsigned char vector[5 + sizeof(float)];
    element_vector_from_f32(ELEMENT_I8S, zero, 3, vector);
    assert_memory_equal(vector, nothing, sizeof(nothing));
    element_vector_from_f32(ELEMENT_I8S, halves, 5, vector);
    assert_memory_equal(vector, even, sizeof(even));
}

static void a_scale_that_is_not_finite_is_found(void **state)
{
    (void)state;
    static const float scales[] = {NAN, INFINITY, 3e38f};
    unsigned char vector[4 + sizeof(float)] = {0, 1, 2, 3};
    for (size_t i = 0; i < ARRAY_LENGTH(scales); i++) {
        size_t bad = SIZE_MAX;
        memcpy(vector + 4, &scales[i], sizeof(float));
        assert_false(element_vector_all_finite(ELEMENT_I8S, vector, 4, &bad));
        assert_int_equal(bad, i < 2 ? 0 : 2); /* 0 times infinity is none either */
    }
}

static void only_what_is_smaller_may_be_stored(void **state)
{
    (void)state;
    static const enum element_type allowed[][2] = {
        {ELEMENT_F32, ELEMENT_F16},  {ELEMENT_F32, ELEMENT_BF16}, {ELEMENT_F32, ELEMENT_I8S},
        {ELEMENT_F16, ELEMENT_BF16}, {ELEMENT_F16, ELEMENT_I8S},  {ELEMENT_U8, ELEMENT_U8},
        {ELEMENT_I8, ELEMENT_I8},    {ELEMENT_F16, ELEMENT_F16},  {ELEMENT_F32, ELEMENT_F32},
    };
    size_t count = 0;
    for (int from = ELEMENT_NONE; from <= ELEMENT_I8S + 1; from++)
        for (int to = ELEMENT_NONE; to <= ELEMENT_I8S + 1; to++)
            count += element_may_store((enum element_type)from, (enum element_type)to);
    assert_int_equal(count, ARRAY_LENGTH(allowed));
    for (size_t i = 0; i < ARRAY_LENGTH(allowed); i++)
        assert_true(element_may_store(allowed[i][0], allowed[i][1]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_round_trip),
        cmocka_unit_test(unknown_names_are_refused),
        cmocka_unit_test(sizes_are_those_of_the_formats),
        cmocka_unit_test(every_f16_becomes_its_exact_f32),
        cmocka_unit_test(every_f16_survives_a_round_trip),
        cmocka_unit_test(f32_to_f16_rounds_to_nearest_even_at_every_midpoint),
        cmocka_unit_test(f32_to_f16_handles_extremes),
        cmocka_unit_test(f32_to_f16_agrees_with_a_search_on_random_bits),
        cmocka_unit_test(integers_become_exact_f32),
        cmocka_unit_test(f32_to_integers_rounds_to_even_and_saturates),
        cmocka_unit_test(any_count_and_alignment_converts_alike),
        cmocka_unit_test(first_special_value_is_found_wherever_it_is),
        cmocka_unit_test(largest_finite_values_and_integers_are_finite),
        cmocka_unit_test(every_bf16_is_the_upper_half_of_its_f32_and_back),
        cmocka_unit_test(f32_to_bf16_rounds_to_nearest_even_at_every_midpoint),
        cmocka_unit_test(i8s_takes_the_nearest_of_255_steps),
        cmocka_unit_test(i8s_of_zeroes_is_zero_and_of_halves_is_even),
        cmocka_unit_test(a_scale_that_is_not_finite_is_found),
        cmocka_unit_test(only_what_is_smaller_may_be_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
