/*
 * test_kmeans.c - claims about common/kmeans.c: what it finds, and that neither threads nor
 * instruction sets change a bit of it.
 */
#include <float.h>
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cpu.h"
#include "common/kmeans.h"
#include "common/random.h"

enum { SEED = 20240611 };

/* Rows around `clusters` centres that lie 10 apart on each axis, with noise in [-spread, spread).
 */
static float *clustered(size_t count, uint32_t dim, uint32_t clusters, double spread)
{
    float *rows = malloc(count * dim * sizeof(float));
    assert_non_null(rows);
    for (size_t i = 0; i < count; i++) {
        for (uint32_t d = 0; d < dim; d++) {
            double centre = 10.0 * (double)random_below(SEED + i % clusters, d, 1000);
            double noise = 2 * random_unit(SEED + 1, i * dim + d) - 1;
            rows[i * dim + d] = (float)(centre + spread * noise);
        }
    }
    return rows;
}

static struct kmeans_points points_of(const float *rows, size_t count, uint32_t dim)
{
    struct kmeans_points points;
    struct error err;
    assert_int_equal(kmeans_points_init(&points, count, dim, &err), STATUS_OK);
    for (size_t i = 0; i < count; i++)
        kmeans_points_put(&points, i, rows + i * dim);
    return points;
}

static struct kmeans_params params_of(uint32_t k)
{
    return (struct kmeans_params){
        .centroid_count = k,
        .iterations_max = 12,
        .trials = 4,
        .stop_gain = 1e-4,
        .seed = SEED,
        .features = cpu_features(),
    };
}

static float *train(const struct kmeans_points *points, const struct kmeans_params *params,
                    struct kmeans_stats *stats)
{
    struct error err;
    float *centroids = malloc((size_t)params->centroid_count * points->dim * sizeof(float));
    assert_non_null(centroids);
    assert_int_equal(kmeans_train(points, params, centroids, stats, &err), STATUS_OK);
    for (size_t i = 0; i < (size_t)params->centroid_count * points->dim; i++)
        assert_true(isfinite(centroids[i]));
    return centroids;
}

static double naive_distance(const float *a, const float *b, uint32_t dim)
{
    double sum = 0;
    for (uint32_t d = 0; d < dim; d++)
        sum += ((double)a[d] - (double)b[d]) * ((double)a[d] - (double)b[d]);
    return sum;
}

static void kmeans_finds_separated_clusters(void **state)
{
    (void)state;
    enum { COUNT = 1500, DIM = 7, K = 20 };
    float *rows = clustered(COUNT, DIM, K, 0.5);
    struct kmeans_points points = points_of(rows, COUNT, DIM);
    struct kmeans_params params = params_of(K);
    struct kmeans_stats stats;
    float *centroids = train(&points, &params, &stats);
    assert_int_equal(stats.seeds, K);
    uint32_t *labels = malloc(COUNT * sizeof(*labels));
    kmeans_assign(&points, centroids, K, cpu_features(), labels, NULL);
    for (size_t i = 0; i < COUNT; i++) {
        assert_true(labels[i] < K);
        assert_int_equal(labels[i], labels[i % K]);
        for (size_t j = 0; j < i % K; j++)
            assert_int_not_equal(labels[i], labels[j]);
    }
    free(labels);
    free(centroids);
    kmeans_points_fini(&points);
    free(rows);
}

static void kmeans_iterations_lower_the_inertia(void **state)
{
    (void)state;
    enum { COUNT = 2000, DIM = 6, K = 40 };
    float *rows = clustered(COUNT, DIM, 1, 50);
    struct kmeans_points points = points_of(rows, COUNT, DIM);
    struct kmeans_params params = params_of(K);
    struct kmeans_stats seeded, trained;
    params.stop_gain = 0;
    params.iterations_max = 0;
    free(train(&points, &params, &seeded));
    params.iterations_max = 8;
    free(train(&points, &params, &trained));
    assert_int_equal(seeded.iterations, 0);
    assert_true(trained.iterations >= 1 && trained.iterations <= 8);
    assert_true(trained.inertia < 0.9 * seeded.inertia);
    kmeans_points_fini(&points);
    free(rows);
}

static void kmeans_assign_takes_the_nearest_and_the_lower_of_equals(void **state)
{
    (void)state;
    enum { COUNT = 133, DIM = 19, K = 300 };
    float *rows = clustered(COUNT, DIM, 1, 50), *centroids = clustered(K, DIM, 1, 50);
    memcpy(centroids + (K - 1) * DIM, centroids, DIM * sizeof(float));
    memcpy(rows, centroids, DIM * sizeof(float));
    struct kmeans_points points = points_of(rows, COUNT, DIM);
    uint32_t labels[COUNT];
    float distances[COUNT];
    kmeans_assign(&points, centroids, K, cpu_features(), labels, distances);
    assert_int_equal(labels[0], 0);
    assert_true(distances[0] <= 0);
    for (size_t i = 0; i < COUNT; i++) {
        double least = INFINITY;
        for (size_t j = 0; j < K; j++)
            least = fmin(least, naive_distance(rows + i * DIM, centroids + j * DIM, DIM));
        double found = naive_distance(rows + i * DIM, centroids + labels[i] * DIM, DIM);
        assert_true(found <= least * (1 + 1e-5));
        assert_true(fabs((double)distances[i] - found) <= found * 1e-5);
    }
    kmeans_points_fini(&points);
    free(centroids);
    free(rows);
}

static void kmeans_gives_the_same_bits_at_any_thread_count_and_level(void **state)
{
    (void)state;
    enum { COUNT = 4127, DIM = 65, K = 9 };
    /* Enough points that every pass is shared out. */
    static const unsigned levels[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512};
    float *rows = clustered(COUNT, DIM, 5, 30);
    struct kmeans_points points = points_of(rows, COUNT, DIM);
    struct kmeans_params params = params_of(K);
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(1);
    struct kmeans_stats wanted, stats;
    float *reference = train(&points, &params, &wanted);
    for (size_t level = 0; level < ARRAY_LENGTH(levels); level++) {
        if ((levels[level] & cpu_features()) != levels[level]) {
            print_message("skipped: no %s here\n", cpu_features_name(levels[level]));
            continue;
        }
        params.features = levels[level];
        for (int threads = 1; threads <= 2; threads++) {
            omp_set_num_threads(threads);
            float *centroids = train(&points, &params, &stats);
            assert_memory_equal(centroids, reference, K * DIM * sizeof(float));
            assert_memory_equal(&stats.inertia, &wanted.inertia, sizeof(double));
            assert_int_equal(stats.iterations, wanted.iterations);
            free(centroids);
        }
    }
    omp_set_num_threads(threads_before);
    free(reference);
    kmeans_points_fini(&points);
    free(rows);
}

static void kmeans_repeats_points_when_there_are_too_few(void **state)
{
    (void)state;
    static const float rows[6] = {1, 2, 3, 4, 1, 2};
    struct kmeans_points points = points_of(rows, 3, 2);
    struct kmeans_params params = params_of(8);
    struct kmeans_stats stats;
    float *centroids = train(&points, &params, &stats);
    assert_int_equal(stats.seeds, 2);
    assert_true(stats.inertia <= 0);
    for (size_t j = 0; j < 8; j++) {
        assert_true(memcmp(centroids + 2 * j, rows, 8) == 0 ||
                    memcmp(centroids + 2 * j, rows + 2, 8) == 0);
    }
    free(centroids);
    kmeans_points_fini(&points);
}

static void kmeans_of_one_point_is_that_point(void **state)
{
    (void)state;
    static const float row[3] = {-1.5f, 0, 7};
    struct kmeans_points points = points_of(row, 1, 3);
    struct kmeans_params params = params_of(4);
    float *centroids = train(&points, &params, NULL);
    for (size_t j = 0; j < 4; j++)
        assert_memory_equal(centroids + 3 * j, row, sizeof(row));
    free(centroids);
    kmeans_points_fini(&points);
}

/* Distances overflow, so seeds repeat, clusters start empty and are refilled. */
static void kmeans_of_huge_values_stays_finite(void **state)
{
    (void)state;
    enum { COUNT = 64, DIM = 2, K = 32 };
    float rows[COUNT * DIM];
    for (size_t i = 0; i < COUNT * DIM; i++)
        rows[i] = (float)(2 * random_unit(SEED, i) - 1) * FLT_MAX;
    struct kmeans_points points = points_of(rows, COUNT, DIM);
    struct kmeans_params params = params_of(K);
    free(train(&points, &params, NULL));
    kmeans_points_fini(&points);
}

/* A lone outlier takes a centroid to itself; every other one must still serve some points. */
static void kmeans_uses_every_centroid_when_points_suffice(void **state)
{
    (void)state;
    enum { COUNT = 900, DIM = 3, K = 64 };
    float *rows = clustered(COUNT, DIM, 1, 5);
    for (size_t d = 0; d < DIM; d++)
        rows[d] = 1e6f;
    struct kmeans_points points = points_of(rows, COUNT, DIM);
    struct kmeans_params params = params_of(K);
    float *centroids = train(&points, &params, NULL);
    uint32_t labels[COUNT], used[K] = {0};
    kmeans_assign(&points, centroids, K, cpu_features(), labels, NULL);
    for (size_t i = 0; i < COUNT; i++)
        used[labels[i]]++;
    assert_int_equal(used[labels[0]], 1);
    for (size_t j = 0; j < K; j++)
        assert_true(used[j] > 0);
    free(centroids);
    kmeans_points_fini(&points);
    free(rows);
}

static void kmeans_refuses_points_that_overflow_memory(void **state)
{
    (void)state;
    struct kmeans_points points;
    struct error err;
    assert_int_equal(kmeans_points_init(&points, SIZE_MAX - 20, 8, &err), STATUS_NO_MEMORY);
    assert_null(points.lanes);
    kmeans_points_fini(&points);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kmeans_finds_separated_clusters),
        cmocka_unit_test(kmeans_iterations_lower_the_inertia),
        cmocka_unit_test(kmeans_assign_takes_the_nearest_and_the_lower_of_equals),
        cmocka_unit_test(kmeans_gives_the_same_bits_at_any_thread_count_and_level),
        cmocka_unit_test(kmeans_repeats_points_when_there_are_too_few),
        cmocka_unit_test(kmeans_of_one_point_is_that_point),
        cmocka_unit_test(kmeans_of_huge_values_stays_finite),
        cmocka_unit_test(kmeans_uses_every_centroid_when_points_suffice),
        cmocka_unit_test(kmeans_refuses_points_that_overflow_memory),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
