/*
 * test_engine_store.c - search of an index that stores vectors in a smaller type than they were
 * given in: what is found, and that distances are those of the vectors stored, whatever holds them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"
#include "query/proof.h"
#include "query/query_vector.h"
#include "tests/engine_fixture.h"
#include "tests/generation_fixture.h"

enum { COUNT = 700, DIM = 24, EVERYTHING = 1 << 28, SEED = 41 };

struct storage {
    enum element_type given, stored;
};
static const struct storage storages[] = {
    {ELEMENT_F32, ELEMENT_NONE}, {ELEMENT_F32, ELEMENT_F16},  {ELEMENT_F32, ELEMENT_BF16},
    {ELEMENT_F32, ELEMENT_I8S},  {ELEMENT_F16, ELEMENT_BF16}, {ELEMENT_F16, ELEMENT_I8S},
};
static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};

static struct collection *make(const char *directory, struct storage storage, enum metric metric)
{
    const struct collection_spec spec = {.type = storage.given,
                                         .metric = metric,
                                         .count = COUNT,
                                         .dim = DIM,
                                         .query_count = FIXTURE_QUERIES};
    char name[64];
    snprintf(name, sizeof(name), "%s-%s-%s", element_name(storage.given),
             element_name(storage.stored), metric_name(metric));
    return collection_create_stored(directory, name, &spec, storage.stored);
}

static struct answers ask_so(struct index *index, const struct collection *c, const struct ask *how)
{
    struct engine *engine = engine_plain(index);
    struct answers a = answers_get(engine, c, how);
    engine_destroy(engine);
    return a;
}

static struct answers ask(struct index *index, const struct collection *c)
{
    static const struct ask how = {.k = FIXTURE_K, .search_list = 40, .beam_width = 1};
    return ask_so(index, c, &how);
}

/* A stop rule that takes the query for another type's stops at once or never. */
static void check_ratio(struct index *index, const struct collection *c)
{
    static const struct ask whole = {.k = FIXTURE_K, .search_list = 150, .beam_width = 1};
    static const struct ask early = {
        .k = FIXTURE_K, .search_list = 150, .beam_width = 1, .search_ratio = 1.1f};
    struct answers all = ask_so(index, c, &whole), some = ask_so(index, c, &early);
    assert_true(some.sum.reads < all.sum.reads * 85 / 100);
    assert_true(answers_recall(c, &some) >= 0.95);
    answers_free(&all);
    answers_free(&some);
}

/* Answers may differ where finer codes lead elsewhere; the distance of a vector may not. */
static void assert_same_distances(const struct answers *a, const struct answers *b)
{
    uint32_t met = 0;
    for (uint32_t q = 0; q < a->count; q++)
        for (uint32_t i = 0; i < a->queries[q].hit_count; i++)
            for (uint32_t j = 0; j < b->queries[q].hit_count; j++) {
                const struct search_hit *x = &a->queries[q].hits[i], *y = &b->queries[q].hits[j];
                if (x->key != y->key)
                    continue;
                assert_memory_equal(&x->distance, &y->distance, sizeof(float));
                met++;
            }
    assert_true(met > a->count * FIXTURE_K * 9 / 10);
}

static void check_collection(const struct collection *c)
{
    struct index *cold = collection_open(c, 0);
    struct index *cached = collection_open(c, collection_budget(c, 20));
    struct index *resident = collection_open(c, EVERYTHING);
    assert_true(index_memory_of(resident).resident && index_memory_of(cached).cached_blocks > 0);
    struct answers from_disk = ask(cold, c), from_some = ask(cached, c),
                   from_all = ask(resident, c);
    answers_check(c, &from_disk); /* against the definition, in double, of the stored values */
    answers_check(c, &from_some);
    answers_check(c, &from_all);
    assert_same_distances(&from_disk, &from_some);
    assert_same_distances(&from_disk, &from_all);
    assert_true(from_disk.sum.reads > 0 && from_all.sum.reads == 0);
    check_ratio(cold, c);
    const double recall = answers_recall(c, &from_disk);
    print_message("%s: recall %.4f\n", c->path, recall);
    assert_true(recall >= (c->spec.metric == METRIC_IP ? 0.95 : 0.985));
    answers_free(&from_disk);
    answers_free(&from_some);
    answers_free(&from_all);
    index_release(cold);
    index_release(cached);
    index_release(resident);
}

static void distances_are_those_of_what_is_stored_wherever_it_is(void **state)
{
    for (size_t s = 0; s < ARRAY_LENGTH(storages); s++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            struct collection *c = make(*state, storages[s], metrics[m]);
            check_collection(c);
            collection_destroy(c);
        }
}

/* A query that is a stored vector's own, before it was rounded, is not rounded to it. */
static void a_query_is_not_rounded_to_what_is_stored(void **state)
{
    struct collection *c = make(*state, (struct storage){ELEMENT_F32, ELEMENT_I8S}, METRIC_L2);
    struct index *index = collection_open(c, 0);
    struct engine *engine = engine_plain(index);
    struct search_hit hit;
    for (uint32_t row = 0; row < 20; row++) {
        float *vector = c->queries_f32 + (size_t)row * DIM;
        memcpy(vector, c->rows_f32 + (size_t)row * DIM, DIM * sizeof(float));
        for (uint32_t d = 0; d < DIM; d++)
            vector[d] *= 1 + 0x1p-10f; /* less than half a step of i8 */
        memcpy((uint8_t *)c->queries + (size_t)row * DIM * sizeof(float), vector,
               DIM * sizeof(float));
        const struct ask how = {.k = 1, .search_list = 40};
        struct search_query query = query_make(c, row, &how, &hit);
        engine_search_all(engine, &query, 1, 1);
        answer_check(c, &query, row);
        assert_int_equal(hit.key, row);
        assert_true(hit.distance > 0);
    }
    engine_destroy(engine);
    index_release(index);
    collection_destroy(c);
}

static void queries_are_checked_as_they_are_given(void **state)
{
    struct collection *c = make(*state, (struct storage){ELEMENT_F16, ELEMENT_BF16}, METRIC_COSINE);
    struct index *index = collection_open(c, 0);
    struct engine *engine = engine_plain(index);
    uint16_t vector[DIM] = {0};
    float floats[DIM];
    struct search_hit hit;
    struct error err;
    struct search_query query = {.vector = vector, .k = 1, .search_list = 10, .hits = &hit};
    assert_int_equal(engine_query_check(engine, &query, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "zero vector"));
    vector[7] = 0x0001; /* the least of f16 has a direction */
    ASSERT_STATUS_OK(engine_query_check(engine, &query, &err), err);
    vector[7] = 0x7c00;
    assert_int_equal(engine_query_check(engine, &query, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "dimension 7"));
    vector[7] = 0x7f80; /* a NaN of f16, infinity in bf16 */
    assert_int_equal(engine_query_check(engine, &query, &err), STATUS_INVALID);
    query.vector = memset(floats, 0, sizeof(floats));
    query.vector_is_f32 = true;
    assert_int_equal(engine_query_check(engine, &query, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "zero vector"));
    floats[3] = 1e10f; /* which f16 does not reach */
    ASSERT_STATUS_OK(engine_query_check(engine, &query, &err), err);
    floats[4] = NAN;
    assert_int_equal(engine_query_check(engine, &query, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "dimension 4"));
    engine_destroy(engine);
    index_release(index);
    collection_destroy(c);
}

static void f32_is_no_query_of_an_index_that_compares_another_type(void **state)
{
    struct collection *c = make(*state, (struct storage){ELEMENT_F16, ELEMENT_NONE}, METRIC_L2);
    struct index *index = collection_open(c, 0);
    struct engine *engine = engine_plain(index);
    float vector[DIM] = {1};
    struct search_hit hit;
    struct error err;
    struct search_query query = {
        .vector = vector, .vector_is_f32 = true, .k = 1, .search_list = 10, .hits = &hit};
    assert_int_equal(engine_query_check(engine, &query, &err), STATUS_INVALID);
    assert_string_equal(err.text, "query is f32, the index compares f16");
    engine_destroy(engine);
    index_release(index);
    collection_destroy(c);
}

static void a_generation_proves_itself_with_what_it_stores(void **state)
{
    for (size_t s = 0; s < ARRAY_LENGTH(storages); s++) {
        struct collection *c = make(*state, storages[s], METRIC_L2);
        struct index *index = collection_open(c, 0);
        struct engine *engine = engine_plain(index);
        struct proof proof;
        struct error err;
        ASSERT_STATUS_OK(proof_run(engine, &proof, &err), err);
        print_message("%s: proof %.4f\n", c->path, proof.recall);
        assert_true(proof.recall >= 0.99);
        engine_destroy(engine);
        index_release(index);
        collection_destroy(c);
    }
}

/* Rows of log-normal lengths about random directions, some thousand times as long as others. */
static float *wild_rows(uint32_t count, uint32_t dim, double spread)
{
    enum { DIRECTIONS = 100 };
    float *rows = malloc((size_t)count * dim * sizeof(*rows));
    assert_non_null(rows);
    for (uint32_t i = 0; i < count; i++) {
        double normal = -6;
        uint64_t direction = random_below(SEED + 1, i, DIRECTIONS);
        for (uint64_t j = 0; j < 12; j++)
            normal += random_unit(SEED, (uint64_t)i * 12 + j);
        for (uint32_t d = 0; d < dim; d++) {
            double common = random_unit(SEED + 2, direction * dim + d) - 0.5;
            double own = random_unit(SEED + 3, (uint64_t)i * dim + d) - 0.5;
            rows[(size_t)i * dim + d] = (float)(exp(spread * normal) * (common + own));
        }
    }
    return rows;
}

/* Under ip the long rows are most queries' neighbours, and none of them is near another. */
static void lengths_that_vary_wildly_cost_no_recall(void **state)
{
    enum { ROWS = 12000, WIDE = 32 };
    static const double spreads[] = {0.5, 1.0, 2.0};
    for (size_t i = 0; i < ARRAY_LENGTH(spreads); i++) {
        float *rows = wild_rows(ROWS, WIDE, spreads[i]);
        const struct collection_spec spec = {.type = ELEMENT_F32,
                                             .metric = METRIC_IP,
                                             .count = ROWS,
                                             .dim = WIDE,
                                             .query_count = FIXTURE_QUERIES,
                                             .rows = rows,
                                             .code_bytes = WIDE};
        char name[32];
        snprintf(name, sizeof(name), "lengths-%zu", i);
        struct collection *c = collection_create(*state, name, &spec);
        struct index *index = collection_open(c, 0);
        struct answers a = ask(index, c);
        answers_check(c, &a);
        double recall = answers_recall(c, &a);
        print_message("%s: recall %.4f, reads %.1f\n", name, recall, (double)a.sum.reads / a.count);
        assert_true(recall >= 0.96);
        answers_free(&a);
        index_release(index);
        collection_destroy(c);
        free(rows);
    }
}

#define T(name)                                                                                    \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(distances_are_those_of_what_is_stored_wherever_it_is),
        T(a_query_is_not_rounded_to_what_is_stored),
        T(queries_are_checked_as_they_are_given),
        T(f32_is_no_query_of_an_index_that_compares_another_type),
        T(a_generation_proves_itself_with_what_it_stores),
        T(lengths_that_vary_wildly_cost_no_recall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
