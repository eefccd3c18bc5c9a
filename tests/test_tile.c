/*
 * test_tile.c - tile.h at every instruction set the host has, against its definition spelled out:
 * squares, scores, selection and occlusion are the same to the bit, whatever the dimension, the
 * count of rows, the stride and the sign of the bytes; and nothing is read behind the last row.
 */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "builder/tile.h"
#include "common/cpu.h"
#include "common/element.h"
#include "common/memory.h"
#include "common/random.h"

enum {
    SEED = 20240607,
    ROWS_MAX = 512,
    K_MAX = 40,
    WIDTH_MAX = 1024,
    UNTOUCHED = 0x5a5a5a5a,
};

static const uint32_t dims[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,   10,  11,  12,  13,  14,  15,
                                16, 17, 18, 19, 20, 31, 64, 96, 100, 127, 128, 129, 200, 768, 1024};
static const uint32_t counts[] = {1, 2, 31, 32, 33, 64, 100, ROWS_MAX};
static const uint8_t flips[] = {0, 0x80};
static const unsigned levels[] = {
    0,
    CPU_AVX2,
    CPU_AVX2 | CPU_AVX512,
    CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI,
};

/* Instruction sets of the test: its initial state. */
static unsigned features_of(void **state)
{
    unsigned features = *(const unsigned *)*state;
    if ((cpu_features() & features) != features) {
        print_message("skipped: this host lacks %s\n", cpu_features_name(features));
        skip();
    }
    print_message("seed=%d features=%s\n", SEED, cpu_features_name(features));
    return features;
}

/* ---- rows, and the definition ---- */

/* Rows that end where readable memory does, so that a byte too far is a crash. */
struct sample {
    struct byte_rows rows;
    uint32_t count;
    uint8_t *end; /* of the last row */
    uint8_t *map;
    size_t map_bytes;
};

/* What is beyond the dimensions is the same in all rows, and not zero. */
static struct sample sample_create(uint32_t count, uint32_t dim, size_t stride_bytes, uint8_t flip)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = count * stride_bytes;
    size_t inside = size_align(bytes, page);
    struct sample sample = {.count = count, .map_bytes = inside + page};
    sample.map =
        mmap(NULL, sample.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(sample.map != MAP_FAILED);
    sample.end = sample.map + inside;
    assert_int_equal(mprotect(sample.end, page, PROT_NONE), 0);
    uint8_t *rows = sample.end - bytes;
    sample.rows =
        (struct byte_rows){.rows = rows, .stride_bytes = stride_bytes, .dim = dim, .flip = flip};
    memset(rows, 0x37, bytes);
    for (uint32_t row = 0; row < count; row++)
        for (uint32_t d = 0; d < dim; d++)
            rows[row * stride_bytes + d] = (uint8_t)random_at(SEED + dim, row * 8192u + d);
    return sample;
}

static void sample_destroy(struct sample *sample)
{
    munmap(sample->map, sample->map_bytes);
}

static uint8_t *sample_row(const struct sample *sample, uint32_t row)
{
    return sample->end - (size_t)(sample->count - row) * sample->rows.stride_bytes;
}

/* Element d as a number 0..255. */
static int64_t value(const struct byte_rows *rows, uint32_t row, uint32_t d)
{
    uint8_t byte = rows->rows[row * rows->stride_bytes + d];
    return rows->flip ? (int8_t)byte + 128 : byte;
}

static int64_t distance_definition(const struct byte_rows *rows, uint32_t a, uint32_t b)
{
    int64_t sum = 0;
    for (uint32_t d = 0; d < rows->dim; d++) {
        int64_t difference = value(rows, a, d) - value(rows, b, d);
        sum += difference * difference;
    }
    return sum;
}

/* |x|^2 over whole chunks of four, what is beyond the dimensions included. */
static int64_t square_definition(const struct byte_rows *rows, uint32_t row)
{
    int64_t sum = 0;
    for (uint32_t d = 0; d < size_align(rows->dim, 4); d++)
        sum += value(rows, row, d) * value(rows, row, d);
    return sum;
}

static struct tile tile_create(uint32_t dim, unsigned features, uint32_t count)
{
    struct tile tile;
    struct error err;
    tile_init(&tile, dim, features);
    assert_int_equal(tile_reserve(&tile, count, &err), STATUS_OK);
    return tile;
}

static void *aligned(size_t bytes)
{
    void *memory = aligned_alloc(64, size_align(bytes, 64));
    assert_non_null(memory);
    memset(memory, 0x5a, bytes);
    return memory;
}

/* ids[count]: the sample's rows in an order of their own. */
static void ids_shuffle(uint32_t *ids, uint32_t count, uint64_t stream)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t j = (uint32_t)random_below(SEED + stream, i, i + 1);
        ids[i] = i;
        ids[i] = ids[j];
        ids[j] = i;
    }
}

/* ---- squares and scores ---- */

static void scores_check(const struct tile *tile, const struct sample *sample, const uint32_t *ids,
                         const uint32_t *queries, uint32_t query_count, const int32_t *scores)
{
    for (uint32_t q = 0; q < query_count; q++) {
        int64_t square = square_definition(&sample->rows, queries[q]);
        const int32_t *found = scores + (size_t)q * tile_width(tile);
        for (uint32_t i = 0; i < tile->count; i++) {
            int64_t wanted = distance_definition(&sample->rows, ids[i], queries[q]);
            if (square + found[i] != wanted)
                fail_msg("dim %u, stride %zu, flip %u, row %u of %u, query %u of %u: distance "
                         "%lld, wanted %lld",
                         sample->rows.dim, sample->rows.stride_bytes, sample->rows.flip, i,
                         tile->count, q, query_count, (long long)(square + found[i]),
                         (long long)wanted);
        }
        for (uint32_t i = tile->count; i < tile_width(tile); i++)
            assert_int_equal(found[i], TILE_FAR);
    }
}

/* Fills `tile` with rows ids[count] and asks `query_count` of the sample's rows. */
static void tile_check(struct tile *tile, const struct sample *sample, const uint32_t *ids,
                       uint32_t count, uint32_t query_count)
{
    uint32_t queries[TILE_QUERIES_MAX];
    tile_fill(tile, &sample->rows, ids, count);
    assert_int_equal(tile->count, count);
    assert_int_equal(tile_width(tile), size_align(count, TILE_PANEL_ROWS));
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(tile->squares[i], square_definition(&sample->rows, ids[i]));
    for (uint32_t q = 0; q < query_count; q++)
        queries[q] = (uint32_t)random_below(SEED + count, q, sample->count);
    size_t score_count = (size_t)query_count * tile_width(tile);
    int32_t *scores = aligned((score_count + 1) * sizeof(*scores));
    tile_ask(tile, &sample->rows, queries, query_count);
    tile_scores(tile, query_count, scores);
    scores_check(tile, sample, ids, queries, query_count, scores);
    assert_int_equal(scores[score_count], UNTOUCHED);
    free(scores);
}

/* All counts of rows, and of queries, at one dimension and stride. */
static void stride_check(unsigned features, uint32_t dim, size_t stride_bytes, uint8_t flip)
{
    uint32_t ids[ROWS_MAX];
    struct sample sample = sample_create(ROWS_MAX, dim, stride_bytes, flip);
    struct tile tile = tile_create(dim, features, ROWS_MAX);
    ids_shuffle(ids, ROWS_MAX, dim);
    for (uint32_t c = 0; c < ARRAY_LENGTH(counts); c++)
        tile_check(&tile, &sample, ids, counts[c], 1 + (dim + c) % TILE_QUERIES_MAX);
    tile_destroy(&tile);
    sample_destroy(&sample);
}

static void scores_are_those_of_the_definition(void **state)
{
    unsigned features = features_of(state);
    static const size_t short_strides[] = {16, 32, 48};
    for (size_t i = 0; i < ARRAY_LENGTH(dims); i++)
        for (size_t f = 0; f < ARRAY_LENGTH(flips); f++) {
            size_t packed = size_align(dims[i], 4);
            for (size_t s = 0; s < ARRAY_LENGTH(short_strides); s++)
                if (packed <= short_strides[s])
                    stride_check(features, dims[i], short_strides[s], flips[f]);
            stride_check(features, dims[i], packed, flips[f]);
            stride_check(features, dims[i], size_align(packed, 64), flips[f]);
            stride_check(features, dims[i], size_align(packed, 64) + 64, flips[f]);
        }
}

static void any_number_of_queries_gives_the_same_scores(void **state)
{
    unsigned features = features_of(state);
    static const uint32_t some_dims[] = {1, 20, 65, 128};
    uint32_t ids[100];
    for (size_t d = 0; d < ARRAY_LENGTH(some_dims); d++) {
        size_t stride = size_align(some_dims[d], some_dims[d] < 48 ? 16 : 64);
        struct sample sample = sample_create(ARRAY_LENGTH(ids), some_dims[d], stride, 0x80);
        struct tile tile = tile_create(some_dims[d], features, ARRAY_LENGTH(ids));
        ids_shuffle(ids, ARRAY_LENGTH(ids), 1);
        for (uint32_t queries = 1; queries <= TILE_QUERIES_MAX; queries++)
            tile_check(&tile, &sample, ids, ARRAY_LENGTH(ids), queries);
        tile_destroy(&tile);
        sample_destroy(&sample);
    }
}

/* A tile is filled again and again: rows of before must not show in the last panel. */
static void a_tile_filled_again_has_only_its_new_rows(void **state)
{
    unsigned features = features_of(state);
    static const uint32_t order[] = {100, 3, 64, 1, 33, 97, 2, 128, 31};
    uint32_t ids[128];
    struct error err;
    struct sample sample = sample_create(ARRAY_LENGTH(ids), 24, 32, 0);
    struct tile tile = tile_create(24, features, 3);
    assert_int_equal(tile.capacity, TILE_PANEL_ROWS);
    for (uint32_t i = 0; i < ARRAY_LENGTH(ids); i++)
        ids[i] = 127 - i / 2; /* some rows twice */
    for (size_t i = 0; i < ARRAY_LENGTH(order); i++) {
        assert_int_equal(tile_reserve(&tile, order[i], &err), STATUS_OK);
        assert_true(tile.capacity >= order[i]);
        tile_check(&tile, &sample, ids, order[i], 3);
    }
    tile_destroy(&tile);
    sample_destroy(&sample);
}

/* What byte values a row of extremes repeats. */
static const uint8_t extremes[][2] = {{0, 0},   {255, 255}, {128, 128}, {127, 127},
                                      {0, 255}, {128, 127}, {1, 254},   {255, 0}};

/* One more than vectors may have, for the coordinate of inner products. */
static void nothing_overflows_at_the_largest_dimension(void **state)
{
    unsigned features = features_of(state);
    enum { ROWS = ARRAY_LENGTH(extremes) };
    static const uint32_t large_dims[] = {VECTOR_DIM_MAX, VECTOR_DIM_MAX + 1};
    uint32_t ids[ROWS];
    int32_t *scores = aligned(ROWS * TILE_PANEL_ROWS * sizeof(*scores));
    for (size_t i = 0; i < ARRAY_LENGTH(large_dims) * ARRAY_LENGTH(flips); i++) {
        uint32_t dim = large_dims[i / 2];
        struct sample sample = sample_create(ROWS, dim, size_align(dim, 64), flips[i % 2]);
        struct tile tile = tile_create(dim, features, ROWS);
        for (uint32_t row = 0; row < ROWS; row++) {
            ids[row] = row;
            for (uint32_t d = 0; d < dim; d++)
                sample_row(&sample, row)[d] = extremes[row][d % 2];
        }
        tile_fill(&tile, &sample.rows, ids, ROWS);
        tile_ask(&tile, &sample.rows, ids, ROWS);
        tile_scores(&tile, ROWS, scores);
        for (uint32_t row = 0; row < ROWS; row++)
            assert_int_equal(tile.squares[row], square_definition(&sample.rows, row));
        scores_check(&tile, &sample, ids, ids, ROWS, scores);
        tile_destroy(&tile);
        sample_destroy(&sample);
    }
    free(scores);
}

/* ---- selection ---- */

/* What scores look like; r is a random number. */
static int32_t random_score(uint32_t i, uint32_t width, uint64_t r)
{
    (void)i, (void)width;
    return (int32_t)(r % 1000000007) - 500000000;
}

static int32_t few_scores(uint32_t i, uint32_t width, uint64_t r)
{
    (void)i, (void)width;
    return (int32_t)(r % 4) - 2;
}

static int32_t constant_score(uint32_t i, uint32_t width, uint64_t r)
{
    (void)i, (void)width, (void)r;
    return -7;
}

static int32_t ascending_score(uint32_t i, uint32_t width, uint64_t r)
{
    (void)width, (void)r;
    return (int32_t)i / 2;
}

static int32_t descending_score(uint32_t i, uint32_t width, uint64_t r)
{
    (void)r;
    return (int32_t)(width - i) / 2;
}

/* The best have one place modulo any count of lanes. */
static int32_t one_lane_score(uint32_t i, uint32_t width, uint64_t r)
{
    (void)width;
    return i % 32 == 5 ? (int32_t)(r % 64) - 10000 : (int32_t)(r % 64);
}

/* More at the worst distance that counts than any register holds, behind a few better ones. */
static int32_t plateau_score(uint32_t i, uint32_t width, uint64_t r)
{
    (void)width;
    return r % 16 == 0 ? -1 - (int32_t)(i % 3) : 0;
}

/* The worst that scores of rows may be, one less than of those that fill up. */
static int32_t far_score(uint32_t i, uint32_t width, uint64_t r)
{
    (void)i, (void)width;
    return TILE_FAR - 1 - (int32_t)(r % 2);
}

static int32_t (*const score_makers[])(uint32_t i, uint32_t width, uint64_t r) = {
    random_score,     few_scores,     constant_score, ascending_score,
    descending_score, one_lane_score, plateau_score,  far_score,
};

static const int32_t *scores_to_order;

static int by_score_and_index(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    if (scores_to_order[x] != scores_to_order[y])
        return scores_to_order[x] < scores_to_order[y] ? -1 : 1;
    return (x > y) - (x < y);
}

/* Indices of the first `count` scores, best first. */
static void order_definition(const int32_t *scores, uint32_t count, uint32_t *order)
{
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    scores_to_order = scores;
    qsort(order, count, sizeof(*order), by_score_and_index);
}

/* `order`: the definition's. */
static void selection_check(const struct tile *tile, const int32_t *scores, const uint32_t *order,
                            uint32_t count, uint32_t k, uint32_t skip)
{
    uint32_t best[K_MAX + 1];
    uint32_t wanted[K_MAX];
    uint32_t found = 0;
    uint32_t width = (uint32_t)size_align(count, TILE_PANEL_ROWS);
    for (uint32_t i = 0; i < count && found < k; i++)
        if (order[i] != skip)
            wanted[found++] = order[i];
    memset(best, 0x5a, sizeof(best));
    assert_int_equal(tile_select(tile, scores, width, k, skip, best), found);
    assert_int_equal(best[k], UNTOUCHED);
    scores_to_order = scores;
    qsort(best, found, sizeof(*best), by_score_and_index);
    for (uint32_t i = 0; i < found; i++)
        if (best[i] != wanted[i])
            fail_msg("%u best of %u, skip %u: place %u has row %u, wanted %u", k, count, skip, i,
                     best[i], wanted[i]);
}

/* Skips nothing, the best, one in the middle, the last, and rows that fill up or are not there. */
static void skips_check(const struct tile *tile, const int32_t *scores, uint32_t count, uint32_t k)
{
    uint32_t order[WIDTH_MAX];
    order_definition(scores, count, order);
    const uint32_t skips[] = {TILE_NONE,        order[0],  order[MIN(k, count) - 1],
                              order[count / 2], count - 1, count,
                              2 * WIDTH_MAX};
    for (size_t s = 0; s < ARRAY_LENGTH(skips); s++)
        selection_check(tile, scores, order, count, k, skips[s]);
}

static void selection_takes_the_best_and_the_first_of_equals(void **state)
{
    unsigned features = features_of(state);
    static const uint32_t widths[] = {1, 2, 5, 16, 17, 31, 32, 33, 64, 95, 200, 500, WIDTH_MAX};
    struct tile tile = tile_create(4, features, 1);
    int32_t *scores = aligned(WIDTH_MAX * sizeof(*scores));
    for (size_t maker = 0; maker < ARRAY_LENGTH(score_makers); maker++)
        for (size_t w = 0; w < ARRAY_LENGTH(widths); w++) {
            uint32_t width = (uint32_t)size_align(widths[w], TILE_PANEL_ROWS);
            for (uint32_t i = 0; i < width; i++)
                scores[i] = i < widths[w]
                                ? score_makers[maker](i, width, random_at(SEED + maker, i + width))
                                : TILE_FAR;
            for (uint32_t k = 1; k <= K_MAX; k += k < 20 ? 1 : 4)
                skips_check(&tile, scores, widths[w], k);
        }
    free(scores);
    tile_destroy(&tile);
}

/* As a leaf does it: a row's nearest, itself left out, among rows of which many are equal. */
static void a_row_finds_its_nearest_among_copies(void **state)
{
    unsigned features = features_of(state);
    enum { COUNT = 70, DIM = 8, VALUES = 3 };
    uint32_t ids[COUNT];
    uint32_t order[COUNT];
    struct sample sample = sample_create(COUNT, DIM, 16, 0x80);
    struct tile tile = tile_create(DIM, features, COUNT);
    int32_t *scores = aligned(TILE_QUERIES_MAX * 96 * sizeof(*scores));
    for (uint32_t row = 0; row < COUNT; row++) {
        ids[row] = row;
        memset(sample_row(&sample, row), (int)(row % VALUES) * 100, DIM);
    }
    tile_fill(&tile, &sample.rows, ids, COUNT);
    for (uint32_t row = 0; row < COUNT; row++) {
        tile_ask(&tile, &sample.rows, &row, 1);
        tile_scores(&tile, 1, scores);
        order_definition(scores, COUNT, order);
        for (uint32_t k = 1; k <= K_MAX; k++)
            selection_check(&tile, scores, order, COUNT, k, row);
    }
    free(scores);
    tile_destroy(&tile);
    sample_destroy(&sample);
}

/* ---- occlusion ---- */

/* The left side of the rule: each operation rounded to f32 by itself. */
static float scaled_definition(const struct byte_rows *rows, uint32_t x, uint32_t q, float alpha)
{
    float distance = (float)distance_definition(rows, x, q);
    return alpha * distance;
}

/* Limits around the left side: a bit wide, a bit narrow, equal, and far off. */
static float limit_near(float scaled, uint64_t pick)
{
    switch (pick % 6) {
    case 0:
        return nextafterf(scaled, INFINITY);
    case 1:
        return nextafterf(scaled, -INFINITY);
    case 2:
    case 3:
        return scaled;
    case 4:
        return 0.0f;
    default:
        return 2.0f * scaled + 1.0f;
    }
}

static void panel_check(struct tile *tile, const struct sample *sample, uint32_t panel, uint32_t q,
                        float alpha)
{
    float limits[TILE_PANEL_ROWS] ALIGNED(64) = {0};
    uint32_t first = panel * TILE_PANEL_ROWS;
    uint32_t here = MIN(sample->count - first, (uint32_t)TILE_PANEL_ROWS);
    uint32_t valid = (uint32_t)((UINT64_C(1) << here) - 1);
    uint32_t wanted = 0;
    for (uint32_t r = 0; r < here; r++) {
        float scaled = scaled_definition(&sample->rows, first + r, q, alpha);
        limits[r] = limit_near(scaled, random_at(SEED + q, first + r));
        wanted |= (uint32_t)(scaled <= limits[r]) << r;
    }
    uint32_t found = tile_occluded(tile, panel, tile->squares[q], alpha, limits) & valid;
    if (found != wanted)
        fail_msg("dim %u, panel %u, alpha %g: occluded %08x, wanted %08x", sample->rows.dim, panel,
                 (double)alpha, found, wanted);
}

static void occlusion_check(unsigned features, uint32_t dim, uint32_t count, uint8_t flip)
{
    static const float alphas[] = {1.0f, 1.2f};
    uint32_t ids[100];
    struct sample sample = sample_create(count, dim, size_align(dim, dim < 48 ? 16 : 64), flip);
    struct tile tile = tile_create(dim, features, count);
    for (uint32_t i = 0; i < count; i++)
        ids[i] = i;
    tile_fill(&tile, &sample.rows, ids, count);
    for (uint32_t q = 0; q < count; q += 1 + count / 4) {
        tile_ask(&tile, &sample.rows, &q, 1);
        for (uint32_t panel = 0; panel < tile.panels; panel++)
            for (size_t a = 0; a < ARRAY_LENGTH(alphas); a++)
                panel_check(&tile, &sample, panel, q, alphas[a]);
    }
    tile_destroy(&tile);
    sample_destroy(&sample);
}

/* From 300 dimensions on distances have more bits than f32. */
static void occlusion_is_that_of_the_definition(void **state)
{
    unsigned features = features_of(state);
    static const uint32_t some_counts[] = {1, 31, 32, 33, 100};
    for (size_t d = 0; d < ARRAY_LENGTH(dims); d++)
        for (size_t c = 0; c < ARRAY_LENGTH(some_counts); c++)
            for (size_t f = 0; f < ARRAY_LENGTH(flips); f++)
                occlusion_check(features, dims[d], some_counts[c], flips[f]);
    occlusion_check(features, VECTOR_DIM_MAX, 33, 0);
}

/* ---- memory ---- */

static void memory_is_what_tile_bytes_says(void **state)
{
    unsigned features = features_of(state);
    for (size_t d = 0; d < ARRAY_LENGTH(dims); d++)
        for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
            struct tile tile = tile_create(dims[d], features, counts[c]);
            const uint8_t *end = tile.queries + TILE_QUERIES_MAX * tile.query_bytes;
            assert_int_equal(end - (const uint8_t *)tile.memory, tile_bytes(counts[c], dims[d]));
            tile_destroy(&tile);
            assert_null(tile.memory);
        }
}

#define CASE(test, level, name)                                                                    \
    {                                                                                              \
#test " (" name ")", test, NULL, NULL, (void *)(uintptr_t)&levels[level]                   \
    }
#define CASES(test)                                                                                \
    CASE(test, 0, "scalar"), CASE(test, 1, "avx2"), CASE(test, 2, "avx512"), CASE(test, 3, "vnni")

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASES(scores_are_those_of_the_definition),
        CASES(any_number_of_queries_gives_the_same_scores),
        CASES(a_tile_filled_again_has_only_its_new_rows),
        CASES(nothing_overflows_at_the_largest_dimension),
        CASES(selection_takes_the_best_and_the_first_of_equals),
        CASES(a_row_finds_its_nearest_among_copies),
        CASES(occlusion_is_that_of_the_definition),
        CASES(memory_is_what_tile_bytes_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
