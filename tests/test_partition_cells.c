/*
 * test_partition_cells.c - claims about the power diagram behind builder/partition.c: vectors of
 * the space, which shards are near, and weights that make the cells equally full.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/partition_internal.h"
#include "common/cpu.h"
#include "common/random.h"

enum { SEED = 20250117 };

static const struct build_monitor SILENT = {0};

/* ---- cells ---- */

/* Cells over the caller's centroids, in one dimension of rows. */
static struct partition_cells line_cells(float *centroids, float *weights, uint32_t count)
{
    return (struct partition_cells){
        .kernels = distance_kernels_get(ELEMENT_F32, cpu_features()),
        .metric = METRIC_L2,
        .type = ELEMENT_F32,
        .shard_count = count,
        .dim = 1,
        .centroids = centroids,
        .weights = weights,
    };
}

static void choose_takes_the_nearest_by_power_distance(void **state)
{
    (void)state;
    float centroids[] = {0, 10, 20, 30, 40, 50}, weights[] = {0, 0, 250, 0, 0, 0};
    static const uint32_t near[] = {1, 0, 3, 2}, open[] = {0, 3, 2, 4};
    static const bool full[] = {false, true, false, false, false, false};
    struct partition_cells cells = line_cells(centroids, weights, 6);
    struct partition_choice choice;
    float x = 14, distances[6]; /* 196, 16, 36 + 250, 256, 676, 1296 */
    partition_choose(&cells, &x, full, distances, &choice);
    assert_memory_equal(choice.near, near, sizeof(near));
    assert_memory_equal(choice.open, open, sizeof(open));
    partition_choose(&cells, &x, NULL, distances, &choice);
    assert_memory_equal(choice.near, near, sizeof(near));
    assert_memory_equal(choice.open, near, sizeof(near));
    assert_true(choice.scores[0] == 0 && choice.scores[1] == 9 && choice.scores[2] == 6 &&
                choice.scores[3] == 13.5F);
}

static void choose_prefers_lower_shards_and_names_no_others(void **state)
{
    (void)state;
    float centroids[] = {5, 7, 5}, weights[] = {0, 0, 0}, distances[3];
    static const bool full[] = {true, true, true};
    static const uint32_t near[] = {0, 2, 1, PARTITION_NONE};
    struct partition_cells cells = line_cells(centroids, weights, 3);
    struct partition_choice choice;
    float x = 5;
    partition_choose(&cells, &x, full, distances, &choice);
    assert_memory_equal(choice.near, near, sizeof(near));
    assert_true(choice.scores[1] == 0 && choice.scores[2] == 1 && isinf(choice.scores[3]));
    assert_int_equal(choice.open[0], PARTITION_NONE);
    weights[2] = 1; /* no border at any distance */
    partition_choose(&cells, &x, NULL, distances, &choice);
    assert_memory_equal(choice.near, near, sizeof(near));
    assert_true(isinf(choice.scores[1]) && choice.scores[2] == 1);

    float same[] = {5, 5, 5, 5, 5, 5}, none[6] = {0}, far[6];
    static const uint32_t first[] = {0, 1, 2, 3};
    cells = line_cells(same, none, 6);
    partition_choose(&cells, &x, NULL, far, &choice);
    assert_memory_equal(choice.near, first, sizeof(first));
}

static void vectors_get_unit_length_where_direction_counts(void **state)
{
    (void)state;
    static const enum metric metrics[] = {METRIC_COSINE, METRIC_IP};
    static const float rows[][3] = {
        {3, -4, 12}, {1e-25F, 2e-25F, -2e-25F}, {1e18F, -1e18F, 5e17F}, {0, 0, 0}};
    struct partition_cells cells = line_cells(NULL, NULL, 1);
    float vector[3];
    cells.dim = 3;
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            double norm2 = 0;
            cells.metric = metrics[m];
            partition_vector(&cells, rows[i], vector);
            for (unsigned d = 0; d < 3; d++)
                norm2 += (double)vector[d] * vector[d];
            assert_true(i == 3 ? norm2 == 0 : fabs(norm2 - 1) < 1e-6);
            assert_true(i == 3 || vector[0] * rows[i][0] > 0);
        }
        cells.metric = METRIC_L2;
        partition_vector(&cells, rows[i], vector);
        assert_memory_equal(vector, rows[i], sizeof(vector));
    }
}

/* ---- balance ---- */

static int float_compare_down(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void kth_largest_is_the_kth_of_the_sorted(void **state)
{
    (void)state;
    enum { COUNT = 301 };
    float values[COUNT];
    int32_t keys[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        double sign = i % 3 == 0 ? -1 : 1;
        values[i] = (float)(sign * pow(10, 60 * random_unit(SEED, i / 2) - 30));
    }
    values[7] = INFINITY;
    values[8] = -INFINITY;
    values[9] = FLT_MAX;
    values[10] = values[11] = 0;
    for (unsigned i = 0; i < COUNT; i++)
        keys[i] = partition_order_key(values[i]);
    qsort(values, COUNT, sizeof(*values), float_compare_down);
    for (unsigned k = 1; k <= COUNT; k++)
        assert_true(partition_kth_largest(keys, COUNT, k) == values[k - 1]);
}

/* Rows of the largest cell, in parts of an even one. */
static double largest_cell(const float *distances, const float *weights, uint32_t rows,
                           uint32_t shards)
{
    uint32_t *counts = calloc(shards, sizeof(*counts));
    uint32_t most = 0;
    for (uint32_t row = 0; row < rows; row++) {
        uint32_t best = 0;
        for (uint32_t s = 1; s < shards; s++)
            if (distances[s * rows + row] + weights[s] <
                distances[best * rows + row] + weights[best])
                best = s;
        counts[best]++;
        most = MAX(most, counts[best]);
    }
    free(counts);
    return (double)most * shards / rows;
}

/* Balances points on a line whose density falls, times `scale`, over evenly spaced centroids. */
static double line_balance(uint32_t rows, uint32_t shards, double scale, float *weights)
{
    struct error err;
    float *distances = malloc((size_t)rows * shards * sizeof(*distances));
    for (uint32_t row = 0; row < rows; row++) {
        double x = random_unit(SEED + 9, row) * random_unit(SEED + 10, row);
        for (uint32_t s = 0; s < shards; s++) {
            double gap = scale * (x - (s + 0.5) / shards);
            distances[s * rows + row] = (float)(gap * gap);
        }
    }
    struct partition_balance_input input = {distances, rows, shards, &SILENT};
    assert_int_equal(partition_balance(&input, weights, &err), STATUS_OK);
    double most = largest_cell(distances, weights, rows, shards);
    free(distances);
    return most;
}

static void balance_evens_cells_at_any_scale(void **state)
{
    (void)state;
    enum { ROWS = 4000, SHARDS = 16 };
    /* Squares of 1e-21 are below what f32 can divide by. */
    static const double scales[] = {1, 1e-6, 1e9, 1e-21, 4e18};
    for (size_t i = 0; i < ARRAY_LENGTH(scales); i++) {
        float weights[SHARDS], least = INFINITY;
        double most = line_balance(ROWS, SHARDS, scales[i], weights);
        for (unsigned s = 0; s < SHARDS; s++) {
            assert_true(isfinite(weights[s]) && weights[s] >= 0);
            least = fminf(least, weights[s]);
        }
        assert_true(least == 0);
        assert_true(most < (scales[i] == 1e-21 ? 3.0 : 1.0801));
    }
}

static void balance_does_not_depend_on_the_team(void **state)
{
    (void)state;
    enum { ROWS = 12000, SHARDS = 50 }; /* enough for a team to be used; in a row: hard to even */
    int team = omp_get_max_threads();
    float weights[2][SHARDS];
    for (unsigned i = 0; i < 2; i++) {
        omp_set_num_threads(i == 0 ? 1 : 3);
        (void)line_balance(ROWS, SHARDS, 1, weights[i]);
    }
    omp_set_num_threads(team);
    assert_memory_equal(weights[0], weights[1], sizeof(weights[0]));
}

/* Two groups of centroids far apart, three for a quarter of the rows and five for the rest: a whole
 * group must give way. */
static void balance_moves_rows_between_far_clusters(void **state)
{
    (void)state;
    enum { ROWS = 4000, SHARDS = 8 };
    struct error err;
    float *distances = malloc((size_t)ROWS * SHARDS * sizeof(*distances)), weights[SHARDS];
    for (uint32_t row = 0; row < ROWS; row++) {
        double x = random_unit(SEED, row) + (row % 4 == 0 ? 0 : 100);
        double y = random_unit(SEED + 1, row);
        for (uint32_t s = 0; s < SHARDS; s++) {
            double gap_x = x - (s < 3 ? 0.5 : 100.5);
            double gap_y = y - (s < 3 ? s / 3.0 : (s - 3) / 5.0);
            distances[s * ROWS + row] = (float)(gap_x * gap_x + gap_y * gap_y);
        }
    }
    struct partition_balance_input input = {distances, ROWS, SHARDS, &SILENT};
    assert_int_equal(partition_balance(&input, weights, &err), STATUS_OK);
    assert_true(largest_cell(distances, weights, ROWS, SHARDS) < 1.0801);
    free(distances);
}

/* Four distinct rows, each many times, for four shards: cells of one each are as even as it gets,
 * and rounds go on beyond. */
static void balance_keeps_the_best_round(void **state)
{
    (void)state;
    enum { ROWS = 100, SHARDS = 4 };
    static const double places[] = {0.05, 0.3, 0.35, 0.9};
    struct error err;
    float distances[ROWS * SHARDS], weights[SHARDS];
    for (unsigned row = 0; row < ROWS; row++) {
        double x = places[(row >= 31) + (row >= 58) + (row >= 83)];
        for (unsigned s = 0; s < SHARDS; s++)
            distances[s * ROWS + row] = (float)pow(x - (s + 0.5) / SHARDS, 2);
    }
    struct partition_balance_input input = {distances, ROWS, SHARDS, &SILENT};
    assert_int_equal(partition_balance(&input, weights, &err), STATUS_OK);
    assert_true(largest_cell(distances, weights, ROWS, SHARDS) < 0.311 * SHARDS);
}

static void balance_survives_rows_that_are_all_alike(void **state)
{
    (void)state;
    enum { ROWS = 64, SHARDS = 4 };
    static const float levels[] = {0, 1, FLT_MAX};
    struct error err;
    float distances[ROWS * SHARDS], weights[SHARDS];
    for (size_t i = 0; i < ARRAY_LENGTH(levels); i++) {
        for (unsigned j = 0; j < ROWS * SHARDS; j++)
            distances[j] = levels[i];
        struct partition_balance_input input = {distances, ROWS, SHARDS, &SILENT};
        assert_int_equal(partition_balance(&input, weights, &err), STATUS_OK);
        for (unsigned s = 0; s < SHARDS; s++)
            assert_true(isfinite(weights[s]) && weights[s] >= 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choose_takes_the_nearest_by_power_distance),
        cmocka_unit_test(choose_prefers_lower_shards_and_names_no_others),
        cmocka_unit_test(vectors_get_unit_length_where_direction_counts),
        cmocka_unit_test(kth_largest_is_the_kth_of_the_sorted),
        cmocka_unit_test(balance_evens_cells_at_any_scale),
        cmocka_unit_test(balance_does_not_depend_on_the_team),
        cmocka_unit_test(balance_moves_rows_between_far_clusters),
        cmocka_unit_test(balance_keeps_the_best_round),
        cmocka_unit_test(balance_survives_rows_that_are_all_alike),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
