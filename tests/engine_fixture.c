/*
 * engine_fixture.c - see engine_fixture.h. Single-threaded; failures inside end the test.
 */
#include "tests/engine_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { EVERYTHING = 1 << 28 };

const enum block_io_kind io_kinds[2] = {BLOCK_IO_POOL, BLOCK_IO_URING};

/* ---- engines and answers ---- */

struct engine *engine_start(struct index *index, const struct engine_params *params)
{
    struct engine *engine = NULL;
    struct error err;
    ASSERT_STATUS_OK(engine_create(params, index, &engine, &err), err);
    return engine;
}

struct engine *engine_plain(struct index *index)
{
    const struct engine_params params = {.threads = 1};
    return engine_start(index, &params);
}

struct engine_stats stats_of(const struct engine *engine)
{
    struct engine_stats stats;
    engine_stats_get(engine, &stats);
    return stats;
}

const struct ask ask_usual = {.k = FIXTURE_K, .search_list = 50, .beam_width = 1};

struct search_query query_make(const struct collection *c, uint32_t number, const struct ask *ask,
                               struct search_hit *hits)
{
    return (struct search_query){.vector = collection_query(c, number),
                                 .k = ask->k,
                                 .search_list = ask->search_list,
                                 .beam_width = ask->beam_width,
                                 .search_ratio = ask->search_ratio,
                                 .hits = hits};
}

struct answers answers_get(struct engine *engine, const struct collection *c, const struct ask *ask)
{
    struct answers a = {.count = c->spec.query_count};
    struct error err;
    a.queries = calloc(a.count, sizeof(*a.queries));
    a.hits = calloc((size_t)a.count * ask->k, sizeof(*a.hits));
    assert_true(a.queries && a.hits);
    for (uint32_t q = 0; q < a.count; q++) {
        a.queries[q] = query_make(c, q, ask, a.hits + (size_t)q * ask->k);
        ASSERT_STATUS_OK(engine_query_check(engine, &a.queries[q], &err), err);
    }
    engine_search_all(engine, a.queries, a.count, ask->window);
    for (uint32_t q = 0; q < a.count; q++) {
        const struct search_stats *s = &a.queries[q].stats;
        a.sum.reads += s->reads;
        a.sum.shared_reads += s->shared_reads;
        a.sum.cache_hits += s->cache_hits;
        a.sum.hops += s->hops;
        a.sum.exact_distances += s->exact_distances;
        a.sum.code_distances += s->code_distances;
        a.sum.failed_blocks += s->failed_blocks;
    }
    return a;
}

void answers_free(struct answers *a)
{
    free(a->queries);
    free(a->hits);
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

void assert_distinct(const struct search_query *query)
{
    uint64_t keys[ENGINE_K_MAX];
    for (uint32_t i = 0; i < query->hit_count; i++)
        keys[i] = query->hits[i].key;
    qsort(keys, query->hit_count, sizeof(*keys), compare_keys);
    for (uint32_t i = 1; i < query->hit_count; i++)
        assert_true(keys[i - 1] < keys[i]);
}

void answer_check(const struct collection *c, const struct search_query *query, uint32_t number)
{
    assert_int_equal(query->status, STATUS_OK);
    assert_true(query->hit_count <= query->k);
    assert_distinct(query);
    for (uint32_t i = 0; i < query->hit_count; i++) {
        const struct search_hit *hit = &query->hits[i];
        assert_true(hit->key < c->spec.count);
        const uint32_t row = (uint32_t)hit->key;
        const double error = (double)hit->distance - collection_distance(c, number, row);
        assert_true(fabs(error) <= collection_tolerance(c, number, row));
        if (i > 0) {
            const struct search_hit *last = &query->hits[i - 1];
            assert_true(last->distance < hit->distance ||
                        (last->distance == hit->distance && last->key < hit->key));
        }
    }
    assert_true(query->stats.total_ns >= query->stats.queue_ns);
}

void answers_check(const struct collection *c, const struct answers *a)
{
    for (uint32_t q = 0; q < a->count; q++)
        answer_check(c, &a->queries[q], q);
}

void assert_same_hits(const struct search_query *a, const struct search_query *b)
{
    assert_int_equal(a->hit_count, b->hit_count);
    for (uint32_t i = 0; i < a->hit_count; i++) {
        assert_int_equal(a->hits[i].key, b->hits[i].key);
        assert_int_equal(a->hits[i].node, b->hits[i].node);
        assert_true(a->hits[i].distance == b->hits[i].distance);
    }
}

void assert_same_answers(const struct answers *a, const struct answers *b)
{
    assert_int_equal(a->count, b->count);
    for (uint32_t q = 0; q < a->count; q++)
        assert_same_hits(&a->queries[q], &b->queries[q]);
}

double answers_recall(const struct collection *c, const struct answers *a)
{
    uint64_t found = 0, wanted = 0;
    for (uint32_t q = 0; q < a->count; q++) {
        const struct search_query *query = &a->queries[q];
        const double kth = collection_kth_distance(c, q, query->k);
        for (uint32_t i = 0; i < query->hit_count; i++)
            found += collection_distance(c, q, (uint32_t)query->hits[i].key) <= kth;
        wanted += query->k;
    }
    return (double)found / (double)wanted;
}

/* ---- setup ---- */

int engine_group_setup(void **state)
{
    struct engine_fixture *f = calloc(1, sizeof(*f));
    struct engine *engine = NULL;
    struct error err;
    assert_non_null(f);
    assert_int_equal(fixture_directory_setup(&f->directory), 0);
    /* Bytes, so that lists are not small beside vectors, and so few dimensions that no scalar code
     * (18 bytes at most) is well longer than the PQ's. */
    const struct collection_spec base = {ELEMENT_U8,      METRIC_L2, 4000, 32,
                                         FIXTURE_QUERIES, NULL,      16};
    const struct collection_spec wide = {ELEMENT_F32,     METRIC_L2, 1000, FIXTURE_WIDE_DIM,
                                         FIXTURE_QUERIES, NULL,      16};
    f->base = collection_create(f->directory, "base", &base);
    f->cold = collection_open(f->base, 0);
    f->cached = collection_open(f->base, collection_budget(f->base, 30));
    const struct index_memory cached = index_memory_of(f->cached);
    assert_true(cached.cached_blocks == 30 && cached.scalar_bits == 0 && cached.lists_bytes == 0);
    f->resident = collection_open(f->base, EVERYTHING);
    assert_true(index_memory_of(f->resident).resident);
    f->wide = collection_create(f->directory, "wide", &wide);
    f->listed = collection_open(f->wide, collection_budget_lists(f->wide, 0));
    const struct index_memory listed = index_memory_of(f->listed);
    assert_true(listed.cached_blocks == 0 && listed.scalar_bits == 4 && listed.lists_bytes > 0);

    const struct engine_params params = {.threads = 1, .io_kind = BLOCK_IO_URING};
    enum status status = engine_create(&params, f->cold, &engine, &err);
    if (status != STATUS_OK)
        print_message("io_uring is left out: %s\n", err.text);
    assert_true(status == STATUS_OK || status == STATUS_UNSUPPORTED);
    f->io_kind_count = status == STATUS_OK ? 2 : 1;
    engine_destroy(engine);
    *state = f;
    return 0;
}

int engine_group_teardown(void **state)
{
    struct engine_fixture *f = *state;
    index_release(f->cold);
    index_release(f->cached);
    index_release(f->resident);
    index_release(f->listed);
    collection_destroy(f->base);
    collection_destroy(f->wide);
    int result = fixture_directory_teardown(&f->directory);
    free(f);
    return result;
}
