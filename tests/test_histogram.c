/*
 * test_histogram.c - the claims of query/histogram.h: every duration falls into the bucket that is
 * there for it, percentiles are within 1/32, counts add up, and a reader beside the writer sees
 * numbers that were true.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/compiler.h"
#include "common/random.h"
#include "query/histogram.h"

enum { SEED = 4711, SAMPLES = 20000 };

static struct histogram_counts *counts_of(const struct histogram *histogram)
{
    struct histogram_counts *counts = calloc(1, sizeof(*counts));
    assert_non_null(counts);
    histogram_read(histogram, counts);
    return counts;
}

static void record_one(uint64_t duration_ns, uint32_t bucket)
{
    static struct histogram histogram;
    histogram = (struct histogram){0};
    histogram_record(&histogram, duration_ns);
    struct histogram_counts *counts = counts_of(&histogram);
    assert_int_equal(counts->buckets[bucket], 1);
    assert_int_equal(counts->count, 1);
    assert_true(counts->sum_ns == duration_ns);
    free(counts);
}

static void every_bucket_has_its_first_and_last_duration(void **state)
{
    (void)state;
    for (uint32_t bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        record_one(histogram_bucket_floor_ns(bucket), bucket);
        if (bucket == HISTOGRAM_BUCKETS - 1)
            record_one(UINT64_MAX, bucket);
        else
            record_one(histogram_bucket_floor_ns(bucket + 1) - 1, bucket);
    }
    assert_int_equal(histogram_bucket_floor_ns(1), 1024);
    assert_true(histogram_bucket_floor_ns(HISTOGRAM_BUCKETS - 1) == UINT64_C(1) << 37);
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void percentiles_are_within_a_thirty_second(void **state)
{
    (void)state;
    static struct histogram histogram;
    static uint64_t sorted[SAMPLES];
    static const double shares[] = {0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0};
    uint64_t sum_ns = 0;
    for (uint32_t i = 0; i < SAMPLES; i++) {
        /* From a microsecond to a hundred seconds, all magnitudes alike. */
        sorted[i] = (uint64_t)(1024 * pow(10, 8 * random_unit(SEED, i)));
        histogram_record(&histogram, sorted[i]);
        sum_ns += sorted[i];
    }
    qsort(sorted, SAMPLES, sizeof(*sorted), compare);
    struct histogram_counts *counts = counts_of(&histogram);
    assert_int_equal(counts->count, SAMPLES);
    assert_true(counts->sum_ns == sum_ns);
    assert_true(histogram_mean_ns(counts) == sum_ns / SAMPLES);
    for (size_t i = 0; i < ARRAY_LENGTH(shares); i++) {
        uint32_t place = (uint32_t)ceil(shares[i] * SAMPLES);
        const double wanted = (double)sorted[place > 0 ? place - 1 : 0];
        const double got = (double)histogram_percentile_ns(counts, shares[i]);
        assert_true(fabs(got - wanted) <= wanted / 32);
    }
    free(counts);
}

static void nothing_recorded_is_zero(void **state)
{
    (void)state;
    static const struct histogram_counts none;
    assert_int_equal(histogram_percentile_ns(&none, 0.5), 0);
    assert_int_equal(histogram_mean_ns(&none), 0);
}

static void counts_add_up(void **state)
{
    (void)state;
    static struct histogram one, two;
    for (uint32_t i = 0; i < 90; i++)
        histogram_record(&one, 5000);
    for (uint32_t i = 0; i < 10; i++)
        histogram_record(&two, 7000000);
    struct histogram_counts *sum = counts_of(&one), *other = counts_of(&two);
    histogram_counts_add(sum, other);
    assert_int_equal(sum->count, 100);
    assert_true(sum->sum_ns == 90 * 5000 + 10 * UINT64_C(7000000));
    assert_true(histogram_percentile_ns(sum, 0.9) < 5200);
    assert_true(histogram_percentile_ns(sum, 0.91) > 6700000);
    /* histogram_read() adds, so that the histograms of several workers become one. */
    histogram_read(&two, sum);
    assert_int_equal(sum->count, 110);
    free(sum);
    free(other);
}

struct writer {
    struct histogram histogram;
    atomic_bool done;
};

static void *writer_main(void *context)
{
    struct writer *writer = context;
    for (uint32_t i = 0; i < SAMPLES; i++)
        histogram_record(&writer->histogram, i * 1000);
    atomic_store(&writer->done, true);
    return NULL;
}

static void a_reader_beside_the_writer_sees_counts_that_only_grow(void **state)
{
    (void)state;
    static struct writer writer;
    pthread_t thread;
    uint64_t last = 0;
    assert_int_equal(pthread_create(&thread, NULL, writer_main, &writer), 0);
    while (!atomic_load(&writer.done)) {
        struct histogram_counts *counts = counts_of(&writer.histogram);
        assert_true(counts->count >= last && counts->count <= SAMPLES);
        last = counts->count;
        free(counts);
    }
    pthread_join(thread, NULL);
    struct histogram_counts *counts = counts_of(&writer.histogram);
    assert_int_equal(counts->count, SAMPLES);
    free(counts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bucket_has_its_first_and_last_duration),
        cmocka_unit_test(percentiles_are_within_a_thirty_second),
        cmocka_unit_test(nothing_recorded_is_zero),
        cmocka_unit_test(counts_add_up),
        cmocka_unit_test(a_reader_beside_the_writer_sees_counts_that_only_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
