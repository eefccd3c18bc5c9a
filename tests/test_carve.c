/*
 * test_carve.c - the leaves of ball carving: which rows are in them, how large they are, that they
 * depend on the seed alone and not on threads, what rows that cannot be told apart do to them, and
 * that near rows meet.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "builder/carve.h"
#include "common/compiler.h"
#include "common/random.h"

enum {
    SEED = 20240607,
    DIM = 16,
    THREADS_MAX = 4,
    LEAVES_OF_ROW = 30, /* as pipnn.c has it */
};

/* ---- rows ---- */

static struct byte_rows rows_create(uint32_t count)
{
    uint8_t *rows = calloc(count, DIM);
    assert_non_null(rows);
    return (struct byte_rows){.rows = rows, .stride_bytes = DIM, .dim = DIM};
}

static uint8_t *row_slot(const struct byte_rows *rows, uint32_t row)
{
    return (uint8_t *)(uintptr_t)rows->rows + (size_t)row * DIM;
}

/* Overlapping clusters. */
static struct byte_rows rows_clustered(uint32_t count)
{
    enum { CLUSTERS = 20 };
    struct byte_rows rows = rows_create(count);
    for (uint32_t row = 0; row < count; row++) {
        uint64_t cluster = random_below(SEED, row, CLUSTERS);
        for (uint32_t d = 0; d < DIM; d++) {
            double center = 60.0 + 130.0 * random_unit(SEED + 1, cluster * DIM + d);
            double offset = 120.0 * random_unit(SEED + 2, (uint64_t)row * DIM + d) - 60.0;
            row_slot(&rows, row)[d] = (uint8_t)(center + offset);
        }
    }
    return rows;
}

/* Row r has value values[r % value_count] in all dimensions. */
static struct byte_rows rows_of_values(uint32_t count, const uint8_t *values, uint32_t value_count)
{
    struct byte_rows rows = rows_create(count);
    for (uint32_t row = 0; row < count; row++)
        memset(row_slot(&rows, row), values[row % value_count], DIM);
    return rows;
}

static void rows_destroy(const struct byte_rows *rows)
{
    free((void *)(uintptr_t)rows->rows);
}

/* ---- leaves ---- */

/* What carve() gave out: leaf i has ids[starts[i]] .. ids[starts[i + 1]]. */
struct leaves {
    uint32_t *ids;
    uint64_t *starts;
    uint64_t *digests;
    uint32_t count, capacity;
    uint64_t members, members_capacity;
    int threads;     /* that may give leaves */
    uint32_t faults; /* leaves that must not be */
    uint32_t calls_of_progress;
    uint32_t calls_to_stop_at;
    double share;
};

/* On any thread, where nothing may be asserted. */
static void leaf_keep(void *context, int thread, const uint32_t *ids, uint32_t count)
{
    struct leaves *leaves = context;
#pragma omp critical(test_leaf_keep)
    {
        if (thread < 0 || thread >= leaves->threads || count < 1 || count > CARVE_LEAF_MAX ||
            leaves->count == leaves->capacity ||
            leaves->members + count > leaves->members_capacity) {
            leaves->faults++;
        } else {
            memcpy(leaves->ids + leaves->members, ids, count * sizeof(*ids));
            leaves->digests[leaves->count] = XXH3_64bits(ids, count * sizeof(*ids));
            leaves->members += count;
            leaves->starts[++leaves->count] = leaves->members;
        }
    }
}

static bool progress_note(void *context, double share)
{
    struct leaves *leaves = context;
    assert_true(share > 0.0 && share <= 1.0);
    assert_true(share >= leaves->share);
    leaves->share = share;
    return ++leaves->calls_of_progress != leaves->calls_to_stop_at;
}

static struct leaves leaves_create(uint32_t row_count)
{
    struct leaves leaves = {.capacity = row_count * 40 + 1,
                            .members_capacity = (uint64_t)row_count * 100 + 1,
                            .threads = omp_get_max_threads()};
    leaves.ids = malloc(leaves.members_capacity * sizeof(*leaves.ids));
    leaves.starts = calloc(leaves.capacity + 1, sizeof(*leaves.starts));
    leaves.digests = malloc(leaves.capacity * sizeof(*leaves.digests));
    assert_true(leaves.ids && leaves.starts && leaves.digests);
    return leaves;
}

static void leaves_destroy(struct leaves *leaves)
{
    free(leaves->ids);
    free(leaves->starts);
    free(leaves->digests);
}

/* seen[row]: in how many leaves the row is. No leaf may have a row twice. */
static uint32_t *leaves_count_rows(const struct leaves *leaves, uint32_t row_count)
{
    uint32_t *seen = calloc(row_count, sizeof(*seen));
    uint32_t *last_leaf = calloc(row_count, sizeof(*last_leaf));
    assert_true(seen && last_leaf);
    for (uint32_t leaf = 0; leaf < leaves->count; leaf++)
        for (uint64_t i = leaves->starts[leaf]; i < leaves->starts[leaf + 1]; i++) {
            uint32_t row = leaves->ids[i];
            assert_in_range(row, 0, row_count - 1);
            assert_int_not_equal(last_leaf[row], leaf + 1);
            last_leaf[row] = leaf + 1;
            seen[row]++;
        }
    free(last_leaf);
    return seen;
}

/* Carves ids[count] (NULL: all) of `row_count` rows and checks what holds of any leaves. */
static struct leaves carved(const struct byte_rows *rows, uint32_t row_count, const uint32_t *ids,
                            uint32_t count, uint64_t seed)
{
    struct leaves leaves = leaves_create(count);
    const struct carve_params params = {.ids = ids,
                                        .count = count,
                                        .seed = seed,
                                        .leaf = leaf_keep,
                                        .progress = progress_note,
                                        .context = &leaves};
    struct error err = {0};
    uint64_t members = 0;
    uint32_t expected = 0;
    if (carve(rows, &params, &members, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(leaves.faults, 0);
    assert_int_equal(members, leaves.members);
    uint32_t *seen = leaves_count_rows(&leaves, row_count);
    for (uint32_t i = 0; i < count; i++)
        assert_true(seen[ids ? ids[i] : i] >= 1);
    for (uint32_t row = 0; row < row_count; row++)
        expected += seen[row] != 0;
    assert_int_equal(expected, count); /* no others */
    free(seen);
    return leaves;
}

static int u64_order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool leaves_same(struct leaves *a, struct leaves *b)
{
    qsort(a->digests, a->count, sizeof(*a->digests), u64_order);
    qsort(b->digests, b->count, sizeof(*b->digests), u64_order);
    return a->count == b->count &&
           memcmp(a->digests, b->digests, a->count * sizeof(*a->digests)) == 0;
}

/* The same at any number of threads; the leaves of one are returned. */
static struct leaves carved_by_any_team(const struct byte_rows *rows, uint32_t row_count,
                                        const uint32_t *ids, uint32_t count, uint64_t seed)
{
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(1);
    struct leaves one = carved(rows, row_count, ids, count, seed);
    for (int threads = 2; threads <= THREADS_MAX; threads++) {
        omp_set_num_threads(threads);
        struct leaves many = carved(rows, row_count, ids, count, seed);
        assert_true(leaves_same(&one, &many));
        leaves_destroy(&many);
    }
    omp_set_num_threads(threads_before);
    return one;
}

/* ---- the tests ---- */

static void every_row_is_in_a_leaf_whatever_their_number(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1,
                                      2,
                                      17,
                                      CARVE_LEAF_MAX - 1,
                                      CARVE_LEAF_MAX,
                                      CARVE_LEAF_MAX + 1,
                                      2 * CARVE_LEAF_MAX,
                                      3000,
                                      8207,
                                      20000};
    print_message("seed=%d\n", SEED);
    struct byte_rows rows = rows_clustered(20000);
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        struct leaves leaves = carved_by_any_team(&rows, counts[i], NULL, counts[i], SEED);
        assert_int_equal(leaves.count == 1, counts[i] <= CARVE_LEAF_MAX);
        leaves_destroy(&leaves);
    }
    rows_destroy(&rows);
}

static void the_seed_decides_on_the_leaves(void **state)
{
    (void)state;
    struct byte_rows rows = rows_clustered(3000);
    struct leaves a = carved(&rows, 3000, NULL, 3000, 1);
    struct leaves b = carved(&rows, 3000, NULL, 3000, 1);
    struct leaves c = carved(&rows, 3000, NULL, 3000, 2);
    assert_true(leaves_same(&a, &b));
    assert_false(leaves_same(&a, &c));
    leaves_destroy(&a);
    leaves_destroy(&b);
    leaves_destroy(&c);
    rows_destroy(&rows);
}

/* Leaves have the given rows alone, and are those of these rows carved by themselves. */
static void a_subset_is_carved_as_if_it_were_all(void **state)
{
    (void)state;
    enum { COUNT = 6000 };
    static const uint32_t steps[] = {1, 3, 20};
    struct byte_rows rows = rows_clustered(COUNT);
    uint32_t *ids = malloc(COUNT * sizeof(*ids));
    assert_non_null(ids);
    for (size_t s = 0; s < ARRAY_LENGTH(steps); s++) {
        uint32_t count = COUNT / steps[s];
        struct byte_rows alone = rows_create(count);
        for (uint32_t i = 0; i < count; i++) {
            ids[i] = COUNT - 1 - i * steps[s]; /* in any order */
            memcpy(row_slot(&alone, i), row_slot(&rows, ids[i]), DIM);
        }
        struct leaves subset = carved_by_any_team(&rows, COUNT, ids, count, SEED);
        struct leaves all = carved(&alone, count, NULL, count, SEED);
        for (uint32_t leaf = 0; leaf < all.count; leaf++) {
            uint64_t first = all.starts[leaf];
            for (uint64_t i = first; i < all.starts[leaf + 1]; i++)
                all.ids[i] = ids[all.ids[i]];
            all.digests[leaf] =
                XXH3_64bits(all.ids + first, (all.starts[leaf + 1] - first) * sizeof(*all.ids));
        }
        assert_true(leaves_same(&subset, &all));
        leaves_destroy(&subset);
        leaves_destroy(&all);
        rows_destroy(&alone);
    }
    free(ids);
    rows_destroy(&rows);
}

/* Leaders cannot divide them; yet leaves have a bound, and there are not many more. */
static void rows_that_are_all_alike_are_cut_in_slices(void **state)
{
    (void)state;
    static const uint8_t values[] = {7, 200, 9};
    static const uint32_t counts[] = {CARVE_LEAF_MAX + 1, 5000, 20000};
    for (uint32_t different = 1; different <= ARRAY_LENGTH(values); different++)
        for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
            struct byte_rows rows = rows_of_values(counts[i], values, different);
            struct leaves leaves = carved_by_any_team(&rows, counts[i], NULL, counts[i], SEED);
            assert_true(leaves.members <= (uint64_t)counts[i] * LEAVES_OF_ROW);
            leaves_destroy(&leaves);
            rows_destroy(&rows);
        }
}

/* Nine rows in ten are one vector. */
static void a_heap_of_copies_among_others_is_divided(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    struct byte_rows rows = rows_clustered(COUNT);
    for (uint32_t row = 0; row < COUNT; row++)
        if (row % 10 != 0)
            memset(row_slot(&rows, row), 128, DIM);
    struct leaves leaves = carved_by_any_team(&rows, COUNT, NULL, COUNT, SEED);
    leaves_destroy(&leaves);
    rows_destroy(&rows);
}

static void progress_can_stop_it(void **state)
{
    (void)state;
    enum { COUNT = 6000 };
    int threads_before = omp_get_max_threads();
    struct byte_rows rows = rows_clustered(COUNT);
    for (int threads = 1; threads <= 2; threads++)
        for (uint32_t stop_at = 1; stop_at <= 3; stop_at++) {
            omp_set_num_threads(threads);
            struct leaves leaves = leaves_create(COUNT);
            const struct carve_params params = {.count = COUNT,
                                                .seed = SEED,
                                                .leaf = leaf_keep,
                                                .progress = progress_note,
                                                .context = &leaves};
            struct error err = {0};
            uint64_t members = 0;
            leaves.calls_to_stop_at = stop_at;
            enum status status = carve(&rows, &params, &members, &err);
            /* With two threads the first may have come too late for a part. */
            bool stopped = leaves.calls_of_progress >= stop_at;
            assert_true(stopped || threads > 1);
            assert_int_equal(status, stopped ? STATUS_CANCELLED : STATUS_OK);
            assert_true(leaves.calls_of_progress <= stop_at);
            assert_int_equal(leaves.faults, 0);
            assert_int_equal(members, leaves.members);
            if (threads == 1)
                assert_true(leaves.share < 0.5);
            leaves_destroy(&leaves);
        }
    omp_set_num_threads(threads_before);
    rows_destroy(&rows);
}

static void progress_tells_of_all_the_work_and_may_be_left_out(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    int threads_before = omp_get_max_threads();
    struct byte_rows rows = rows_clustered(COUNT);
    omp_set_num_threads(1);
    struct leaves told = carved(&rows, COUNT, NULL, COUNT, SEED);
    assert_true(told.share == 1.0);
    struct leaves untold = leaves_create(COUNT);
    const struct carve_params params = {
        .count = COUNT, .seed = SEED, .leaf = leaf_keep, .context = &untold};
    struct error err;
    uint64_t members;
    assert_int_equal(carve(&rows, &params, &members, &err), STATUS_OK);
    assert_int_equal(members, told.members);
    assert_true(leaves_same(&told, &untold));
    omp_set_num_threads(threads_before);
    leaves_destroy(&told);
    leaves_destroy(&untold);
    rows_destroy(&rows);
}

/* ---- near rows meet ---- */

static int32_t distance(const struct byte_rows *rows, uint32_t a, uint32_t b)
{
    int32_t sum = 0;
    for (uint32_t d = 0; d < DIM; d++) {
        int32_t difference = row_slot(rows, a)[d] - row_slot(rows, b)[d];
        sum += difference * difference;
    }
    return sum;
}

static uint32_t nearest_of(const struct byte_rows *rows, uint32_t count, uint32_t row)
{
    uint32_t nearest = row == 0;
    for (uint32_t other = 0; other < count; other++)
        if (other != row && distance(rows, row, other) < distance(rows, row, nearest))
            nearest = other;
    return nearest;
}

/* Marks met[i] where asked row i, every `step`-th, and its nearest are in one leaf. */
static void meetings_mark(const struct leaves *leaves, uint32_t step, const uint32_t *nearest,
                          uint32_t *in_leaf, bool *met)
{
    for (uint32_t leaf = 0; leaf < leaves->count; leaf++) {
        for (uint64_t i = leaves->starts[leaf]; i < leaves->starts[leaf + 1]; i++)
            in_leaf[leaves->ids[i]] = leaf + 1;
        for (uint64_t i = leaves->starts[leaf]; i < leaves->starts[leaf + 1]; i++)
            if (leaves->ids[i] % step == 0 && in_leaf[nearest[leaves->ids[i] / step]] == leaf + 1)
                met[leaves->ids[i] / step] = true;
    }
}

/* In as many rounds as a graph is made from. */
static void near_rows_meet_in_a_leaf(void **state)
{
    (void)state;
    enum { COUNT = 8000, STEP = 10, ASKED = COUNT / STEP };
    uint32_t nearest[ASKED];
    bool met[ASKED] = {false};
    uint32_t found = 0;
    struct byte_rows rows = rows_clustered(COUNT);
    for (uint32_t i = 0; i < ASKED; i++)
        nearest[i] = nearest_of(&rows, COUNT, i * STEP);
    uint64_t members = 0;
    uint64_t rounds = 1;
    for (uint64_t round = 0; round < rounds; round++) {
        uint32_t *in_leaf = calloc(COUNT, sizeof(*in_leaf));
        assert_non_null(in_leaf);
        struct leaves leaves = carved(&rows, COUNT, NULL, COUNT, random_at(SEED, round));
        meetings_mark(&leaves, STEP, nearest, in_leaf, met);
        members += leaves.members;
        if (round == 0)
            rounds = ((uint64_t)COUNT * LEAVES_OF_ROW + members / 2) / members;
        leaves_destroy(&leaves);
        free(in_leaf);
    }
    rows_destroy(&rows);
    for (uint32_t i = 0; i < ASKED; i++)
        found += met[i];
    print_message("%u of %u rows met their nearest in %.1f leaves\n", found, (unsigned)ASKED,
                  (double)members / COUNT);
    assert_true(found >= ASKED * 97 / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_in_a_leaf_whatever_their_number),
        cmocka_unit_test(the_seed_decides_on_the_leaves),
        cmocka_unit_test(a_subset_is_carved_as_if_it_were_all),
        cmocka_unit_test(rows_that_are_all_alike_are_cut_in_slices),
        cmocka_unit_test(a_heap_of_copies_among_others_is_divided),
        cmocka_unit_test(progress_can_stop_it),
        cmocka_unit_test(progress_tells_of_all_the_work_and_may_be_left_out),
        cmocka_unit_test(near_rows_meet_in_a_leaf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
