/*
 * test_engine_questions.c - what may be asked beside the k nearest: all within a radius, the next
 * page, a vector as if it were not there.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/element.h"
#include "query/search.h"
#include "tests/engine_fixture.h"

enum { CAP = 1000, PAGE = 10, PAGES = 6 };

/* Every tier takes paths of its own. */
static struct index *tier(const struct engine_fixture *f, int i, const struct collection **c)
{
    struct index *const tiers[] = {f->cold, f->cached, f->resident, f->listed};
    *c = i < 3 ? f->base : f->wide;
    return tiers[i];
}
enum { TIERS = 4 };

static void ask_one(struct engine *engine, struct search_query *query)
{
    struct error err;
    ASSERT_STATUS_OK(engine_query_check(engine, query, &err), err);
    engine_search_all(engine, query, 1, 0);
    assert_int_equal(query->status, STATUS_OK);
}

/* ---- radius ---- */

/* How many rows are within the radius, by brute force. */
static uint32_t count_within(const struct collection *c, uint32_t number, float radius)
{
    uint32_t count = 0;
    for (uint32_t row = 0; row < c->spec.count; row++)
        count += (float)collection_distance(c, number, row) <= radius;
    return count;
}

/* To the k-th, and a little farther: kernels round. */
static float radius_of(const struct collection *c, uint32_t number, uint32_t k)
{
    return (float)collection_kth_distance(c, number, k) * 1.00001f;
}

static struct search_query radius_query(const struct collection *c, uint32_t number, float ratio,
                                        float radius, struct search_hit *hits)
{
    const struct ask ask = {.k = CAP, .search_list = 30, .search_ratio = ratio};
    struct search_query query = query_make(c, number, &ask, hits);
    query.within_radius = true;
    query.radius = radius;
    return query;
}

/* The list is a floor, not a bound: with one of 30, 300 are found. */
static void all_within_a_radius_are_found(void **state)
{
    const struct engine_fixture *f = *state;
    static const uint32_t ranks[] = {1, 20, 300};
    static const float ratios[] = {0.0f, 1.3f};
    struct search_hit *hits = calloc(CAP, sizeof(*hits));
    assert_non_null(hits);
    for (int t = 0; t < TIERS; t++) {
        const struct collection *c;
        struct engine *engine = engine_plain(tier(f, t, &c));
        for (size_t r = 0; r < ARRAY_LENGTH(ranks) * ARRAY_LENGTH(ratios); r++) {
            uint64_t found = 0, wanted = 0;
            for (uint32_t q = 0; q < c->spec.query_count; q++) {
                const float radius = radius_of(c, q, ranks[r % ARRAY_LENGTH(ranks)]);
                struct search_query query =
                    radius_query(c, q, ratios[r / ARRAY_LENGTH(ranks)], radius, hits);
                ask_one(engine, &query);
                answer_check(c, &query, q);
                for (uint32_t i = 0; i < query.hit_count; i++)
                    assert_true(query.hits[i].distance <= radius);
                found += query.hit_count;
                wanted += count_within(c, q, radius);
                assert_int_equal(query.flags, 0);
            }
            assert_true((double)found >= 0.97 * (double)wanted);
            assert_true(found <= wanted);
        }
        engine_destroy(engine);
    }
    free(hits);
}

static void more_than_the_cap_within_a_radius_is_said(void **state)
{
    const struct engine_fixture *f = *state;
    struct search_hit hits[PAGE], all[CAP];
    for (int t = 0; t < TIERS; t++) {
        const struct collection *c;
        struct engine *engine = engine_plain(tier(f, t, &c));
        for (uint32_t q = 0; q < c->spec.query_count; q++) {
            const float radius = radius_of(c, q, 50);
            struct search_query query = radius_query(c, q, 0.0f, radius, hits);
            struct search_query whole = radius_query(c, q, 0.0f, radius, all);
            query.k = PAGE;
            query.search_list = whole.search_list = 200;
            ask_one(engine, &query);
            ask_one(engine, &whole);
            assert_int_equal(query.hit_count, PAGE);
            assert_int_equal(query.flags, SEARCH_TRUNCATED);
            assert_int_equal(whole.flags, 0);
            assert_memory_equal(query.hits, whole.hits, PAGE * sizeof(*hits));
        }
        engine_destroy(engine);
    }
}

static void nothing_within_a_radius_is_an_empty_answer(void **state)
{
    const struct engine_fixture *f = *state;
    struct search_hit hits[PAGE];
    for (int t = 0; t < TIERS; t++) {
        const struct collection *c;
        struct engine *engine = engine_plain(tier(f, t, &c));
        for (uint32_t q = 0; q < c->spec.query_count; q++) {
            const float nearest = (float)collection_kth_distance(c, q, 1);
            struct search_query query = radius_query(c, q, 1.1f, nearest * 0.5f, hits);
            if (nearest <= 0.0f)
                continue;
            query.k = PAGE;
            ask_one(engine, &query);
            assert_int_equal(query.hit_count, 0);
            assert_int_equal(query.flags, 0);
        }
        engine_destroy(engine);
    }
}

/* ---- pages ---- */

/* 1 - cosine is rounded, so a vector may be nearer to itself than at 0. */
static void the_radius_of_a_cosine_hit_may_be_below_0(void **state)
{
    const struct engine_fixture *f = *state;
    const struct collection_spec spec = {ELEMENT_F32, METRIC_COSINE, 200, 24, 1, NULL, 0};
    struct collection *c = collection_create(f->directory, "cosine", &spec);
    struct index *index = collection_open(c, 0);
    struct engine *engine = engine_plain(index);
    const struct ask ask = {.k = 1, .search_list = 30};
    uint32_t below = 0;
    for (uint32_t row = 0; row < spec.count; row++) {
        struct search_hit first, again;
        struct search_query query = query_make(c, 0, &ask, &first);
        query.vector = c->rows_f32 + (size_t)row * spec.dim;
        ask_one(engine, &query);
        below += first.distance < 0;
        query.within_radius = true;
        query.radius = first.distance;
        query.hits = &again;
        ask_one(engine, &query);
        assert_int_equal(query.hit_count, 1);
        assert_true(again.key == first.key && again.distance == first.distance);
    }
    assert_true(below > 0);
    engine_destroy(engine);
    index_release(index);
    collection_destroy(c);
}

static void pages_go_on_without_repeating(void **state)
{
    const struct engine_fixture *f = *state;
    for (int t = 0; t < TIERS; t++) {
        const struct collection *c;
        struct engine *engine = engine_plain(tier(f, t, &c));
        uint32_t found = 0;
        for (uint32_t q = 0; q < c->spec.query_count; q++) {
            struct search_hit hits[PAGES * PAGE];
            const struct ask ask = {.k = PAGE, .search_list = 150, .beam_width = 1};
            struct search_query query = query_make(c, q, &ask, hits);
            for (uint32_t page = 0; page < PAGES; page++) {
                query.hits = hits + (size_t)page * PAGE;
                ask_one(engine, &query);
                assert_int_equal(query.hit_count, PAGE);
                const struct search_hit *last = &query.hits[PAGE - 1];
                query.after = (struct search_after){.set = true,
                                                    .rank = (page + 1) * PAGE,
                                                    .distance = last->distance,
                                                    .key = last->key};
            }
            query.hits = hits;
            query.k = query.hit_count = PAGES * PAGE;
            answer_check(c, &query, q); /* which wants them ascending and distinct */
            const double kth = collection_kth_distance(c, q, PAGES * PAGE);
            for (uint32_t i = 0; i < PAGES * PAGE; i++)
                found += collection_distance(c, q, (uint32_t)hits[i].key) <= kth;
        }
        assert_true(found >= 0.97 * PAGES * PAGE * c->spec.query_count);
        engine_destroy(engine);
    }
}

static void after_the_last_there_is_nothing(void **state)
{
    const struct engine_fixture *f = *state;
    struct engine *engine = engine_plain(f->cold);
    struct search_hit hits[PAGE];
    struct search_query query = query_make(f->base, 0, &ask_usual, hits);
    query.after = (struct search_after){.set = true, .rank = 1, .distance = INFINITY};
    ask_one(engine, &query);
    assert_int_equal(query.hit_count, 0);
    engine_destroy(engine);
}

/* ---- a vector left out ---- */

static void an_excluded_node_is_no_hit_and_nothing_else_changes(void **state)
{
    const struct engine_fixture *f = *state;
    for (int t = 0; t < TIERS; t++) {
        const struct collection *c;
        struct engine *engine = engine_plain(tier(f, t, &c));
        uint32_t found = 0;
        for (uint32_t q = 0; q < c->spec.query_count; q++) {
            struct search_hit with[FIXTURE_K + 1], without[FIXTURE_K];
            struct search_query query = query_make(c, q, &ask_usual, with);
            query.k = FIXTURE_K + 1;
            ask_one(engine, &query);
            const struct search_hit out = with[q % (FIXTURE_K + 1)];
            query.k = FIXTURE_K;
            query.hits = without;
            query.excludes = true;
            query.excluded_node = out.node;
            ask_one(engine, &query);
            answer_check(c, &query, q);
            for (uint32_t i = 0; i < FIXTURE_K; i++) {
                assert_true(without[i].key != out.key);
                for (uint32_t j = 0; j <= FIXTURE_K; j++)
                    found += without[i].key == with[j].key;
            }
        }
        assert_true(found >= 0.98 * FIXTURE_K * c->spec.query_count);
        engine_destroy(engine);
    }
}

static double row_distance(const struct collection *c, uint32_t a, uint32_t b)
{
    const float *x = c->rows_f32 + (size_t)a * c->spec.dim,
                *y = c->rows_f32 + (size_t)b * c->spec.dim;
    double sum = 0;
    for (uint32_t d = 0; d < c->spec.dim; d++)
        sum += ((double)x[d] - (double)y[d]) * ((double)x[d] - (double)y[d]);
    return sum;
}

static double nearest_other(const struct collection *c, uint32_t row)
{
    double nearest = INFINITY;
    for (uint32_t other = 0; other < c->spec.count; other++)
        if (other != row)
            nearest = fmin(nearest, row_distance(c, row, other));
    return nearest;
}

/* Runs the query on blocks in memory and returns the distance of the nearest that it saw. */
static float nearest_seen(struct index *index, const uint8_t *blocks, struct search_query *query)
{
    const struct block_geometry *geometry = &index_manifest(index)->geometry;
    struct search_scratch scratch = {0};
    struct search search;
    struct block_view view;
    struct error err;
    uint32_t block;
    ASSERT_STATUS_OK(search_scratch_init(&scratch, &err), err);
    ASSERT_STATUS_OK(search_init(&search, index, &scratch, &err), err);
    search_start(&search, query);
    while ((block = search_next_read(&search, 1)) != SEARCH_NO_BLOCK) {
        block_view_trusted(geometry, block, blocks + (size_t)block * geometry->block_bytes, &view);
        search_block(&search, &view);
    }
    const float nearest = search.nearest;
    search_fini(&search);
    search_scratch_fini(&scratch);
    return nearest;
}

/* By key the vector itself is in the index, at 0. Were it the nearest, then with a ratio nothing
 * else would be near, and the search end where it is met. */
static void an_excluded_node_is_not_the_nearest(void **state)
{
    const struct engine_fixture *f = *state;
    enum { ROWS = 100 };
    const struct collection *c = f->base;
    assert_true(c->spec.type == ELEMENT_U8 && c->spec.dim <= 64);
    uint8_t *blocks = collection_read_blocks(c, index_manifest(f->cold));
    struct engine *engine = engine_plain(f->cold);
    uint32_t found = 0;
    for (uint32_t row = 0; row < ROWS; row++) {
        struct search_hit hits[PAGE];
        uint8_t vector[64];
        struct search_query query = query_make(c, 0, &ask_usual, hits);
        element_vector_from_f32(ELEMENT_U8, c->rows_f32 + (size_t)row * c->spec.dim, c->spec.dim,
                                vector);
        query.vector = vector;
        ask_one(engine, &query);
        assert_true(hits[0].distance == 0.0f);
        query.excludes = true;
        query.excluded_node = hits[0].node;
        query.within_radius = true;
        query.radius = 0.0f; /* of which there is nothing else */
        query.search_ratio = 1.3f;
        const double other = nearest_other(c, row);
        const float seen = nearest_seen(f->cold, blocks, &query);
        assert_true((double)seen >= other);
        assert_int_equal(query.hit_count, 0);
        found += (double)seen <= other;
    }
    assert_true(found >= ROWS * 9 / 10);
    engine_destroy(engine);
    free(blocks);
}

/* ---- refusals ---- */

static void assert_refused(const struct engine *engine, const struct search_query *query,
                           const char *words)
{
    struct error err = {0};
    assert_int_equal(engine_query_check(engine, query, &err), STATUS_INVALID);
    if (!strstr(err.text, words))
        fail_msg("got: %s; wanted: %s", err.text, words);
}

static void questions_out_of_range_are_refused(void **state)
{
    const struct engine_fixture *f = *state;
    struct engine *engine = engine_plain(f->cold);
    const struct search_query usual = query_make(f->base, 0, &ask_usual, NULL);
    struct search_query query = usual;
    query.within_radius = true;
    query.radius = -1.0f;
    assert_refused(engine, &query, "radius is -1, but no l2 distance is below 0");
    query.radius = NAN;
    assert_refused(engine, &query, "radius is not a finite number");
    query.radius = INFINITY;
    assert_refused(engine, &query, "radius is not a finite number");
    query = usual;
    query.after = (struct search_after){.set = true, .rank = 41};
    assert_refused(engine, &query, "the page ends at hit 51, beyond the search list of 50");
    query.after = (struct search_after){.set = true, .distance = NAN};
    assert_refused(engine, &query, "at a distance that is NaN");
    query = usual;
    query.excludes = true;
    query.excluded_node = index_manifest(f->cold)->geometry.node_limit;
    assert_refused(engine, &query, "the excluded node");
    engine_destroy(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_within_a_radius_are_found),
        cmocka_unit_test(more_than_the_cap_within_a_radius_is_said),
        cmocka_unit_test(nothing_within_a_radius_is_an_empty_answer),
        cmocka_unit_test(the_radius_of_a_cosine_hit_may_be_below_0),
        cmocka_unit_test(pages_go_on_without_repeating),
        cmocka_unit_test(after_the_last_there_is_nothing),
        cmocka_unit_test(an_excluded_node_is_no_hit_and_nothing_else_changes),
        cmocka_unit_test(an_excluded_node_is_not_the_nearest),
        cmocka_unit_test(questions_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, engine_group_setup, engine_group_teardown);
}
