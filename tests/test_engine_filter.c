/*
 * test_engine_filter.c - searches with a filter, in every memory tier and by either plan: against
 * brute force over the rows that match.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"
#include "query/engine_internal.h"
#include "query/filter_internal.h"
#include "tests/engine_fixture.h"

enum { ROWS = 12000, DIM = 24, QUERIES = 20, K = 10, TIERS = 3 };

struct row_attributes {
    uint32_t even; /* 0..9999, whatever the vector */
    uint32_t near; /* rank of the row's distance to row 0 */
    bool plain;    /* has the label "plain" */
    bool odd;      /* has the label "odd" */
    bool rare;     /* has not the label "usual" */
};

struct fixture {
    void *directory;
    struct collection *collection;
    struct row_attributes *rows;
    struct index *tiers[TIERS]; /* cold, cached, resident */
};

/* ---- setup ---- */

struct ranked {
    double distance;
    uint32_t row;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* The vectors first, in a collection of their own, because a column depends on them. */
static void rows_make(struct fixture *f, const struct collection *plain)
{
    struct ranked *ranked = calloc(ROWS, sizeof(*ranked));
    f->rows = calloc(ROWS, sizeof(*f->rows));
    assert_true(ranked && f->rows);
    for (uint32_t row = 0; row < ROWS; row++) {
        double sum = 0;
        for (uint32_t d = 0; d < DIM; d++) {
            const double by = (double)plain->rows_f32[(size_t)row * DIM + d] - plain->rows_f32[d];
            sum += by * by;
        }
        ranked[row] = (struct ranked){sum, row};
        f->rows[row].even = (uint32_t)(random_at(7, row) % 10000);
        f->rows[row].plain = random_at(8, row) % 10 < 9;
        f->rows[row].odd = f->rows[row].even % 2 == 1;
        f->rows[row].rare = random_at(9, row) % 800 == 0;
    }
    qsort(ranked, ROWS, sizeof(*ranked), compare_ranked);
    for (uint32_t i = 0; i < ROWS; i++)
        f->rows[ranked[i].row].near = i;
    free(ranked);
}

static void attributes_write(const struct fixture *f, const char *path)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "even:u64,near:i64,tags:labels\n");
    for (uint32_t row = 0; row < ROWS; row++) {
        const struct row_attributes *r = &f->rows[row];
        fprintf(file, "%u,%d,", r->even, (int)r->near - 6000);
        const char *const tags[] = {r->plain ? "plain" : NULL, r->odd ? "odd" : NULL,
                                    r->rare ? NULL : "usual"};
        const char *before = "";
        for (size_t i = 0; i < ARRAY_LENGTH(tags); i++) {
            fprintf(file, "%s%s", tags[i] ? before : "", tags[i] ? tags[i] : "");
            before = tags[i] ? "|" : before;
        }
        fputc('\n', file);
    }
    assert_int_equal(fclose(file), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    assert_int_equal(fixture_directory_setup(&f->directory), 0);
    const char *csv = fixture_path(f->directory, "rows.csv");
    const struct collection_spec spec = {ELEMENT_U8, METRIC_L2, ROWS, DIM, QUERIES, NULL, 16};
    struct collection *plain = collection_create(f->directory, "plain", &spec);
    rows_make(f, plain);
    collection_destroy(plain);
    attributes_write(f, csv);
    f->collection = collection_create_with(f->directory, "base", &spec, csv);
    f->tiers[0] = collection_open(f->collection, 0);
    const uint64_t attributes = index_memory_of(f->tiers[0]).attributes_bytes;
    f->tiers[1] = collection_open(f->collection, collection_budget(f->collection, 60) + attributes);
    f->tiers[2] = collection_open(f->collection, 1 << 28);
    assert_true(index_memory_of(f->tiers[2]).resident);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (int t = 0; t < TIERS; t++)
        index_release(f->tiers[t]);
    collection_destroy(f->collection);
    free(f->rows);
    fixture_directory_teardown(&f->directory);
    free(f);
    return 0;
}

/* ---- filters ---- */

static bool even_half(const struct row_attributes *r)
{
    return r->even < 5000;
}
static bool even_tenth(const struct row_attributes *r)
{
    return r->even >= 1000 && r->even < 2000;
}
static bool even_hundredth(const struct row_attributes *r)
{
    return r->even < 100;
}
static bool even_few(const struct row_attributes *r)
{
    return r->even < 15;
}
static bool near_half(const struct row_attributes *r)
{
    return r->near < 6000;
}
static bool near_hundredth(const struct row_attributes *r)
{
    return r->near < 120;
}
static bool far_tenth(const struct row_attributes *r)
{
    return r->near >= 10800;
}
static bool not_plain(const struct row_attributes *r)
{
    return !r->plain;
}
static bool rare(const struct row_attributes *r)
{
    return r->rare;
}
static bool odd_or_near(const struct row_attributes *r)
{
    return r->odd || r->near < 600;
}

struct filter_case {
    const char *text;
    bool (*matches)(const struct row_attributes *row);
    uint32_t plan; /* with a list of 20 */
};

static const struct filter_case cases[] = {
    {"even < 5000", even_half, SEARCH_FILTER_TRAVERSAL},
    {"even >= 1000 and even < 2000", even_tenth, SEARCH_FILTER_SCAN},
    {"even < 100", even_hundredth, SEARCH_FILTER_SCAN},
    {"even < 15", even_few, SEARCH_FILTER_SCAN},
    {"near < 0", near_half, SEARCH_FILTER_TRAVERSAL},
    {"near < -5880", near_hundredth, SEARCH_FILTER_SCAN},
    {"near >= 4800", far_tenth, SEARCH_FILTER_SCAN},
    {"not tags = \"plain\"", not_plain, SEARCH_FILTER_SCAN},
    {"tags any (\"odd\", \"none\") or near < -5400", odd_or_near, SEARCH_FILTER_TRAVERSAL},
};

static struct filter *filter_of(struct index *index, const char *text)
{
    struct filter *filter = NULL;
    struct error err;
    ASSERT_STATUS_OK(filter_compile(text, strlen(text), index_attributes(index), &filter, &err),
                     err);
    return filter;
}

static void ask_one(struct engine *engine, struct search_query *query)
{
    struct error err;
    ASSERT_STATUS_OK(engine_query_check(engine, query, &err), err);
    engine_search_all(engine, query, 1, 0);
    assert_int_equal(query->status, STATUS_OK);
}

/* The k-th smallest distance among the rows that match, and how many match. */
static double kth_matching(const struct fixture *f, const struct filter_case *c, uint32_t number,
                           uint32_t k, uint32_t *count)
{
    struct ranked *ranked = calloc(ROWS, sizeof(*ranked));
    assert_non_null(ranked);
    uint32_t n = 0;
    for (uint32_t row = 0; row < ROWS; row++)
        if (c->matches(&f->rows[row]))
            ranked[n++] = (struct ranked){collection_distance(f->collection, number, row), row};
    qsort(ranked, n, sizeof(*ranked), compare_ranked);
    *count = n;
    const double kth = n == 0 ? 0 : ranked[MIN(n, k) - 1].distance;
    free(ranked);
    return kth;
}

/* Asks all queries; every hit must match. Share of the nearest that match which were found. */
static double recall_with(const struct fixture *f, struct engine *engine,
                          const struct filter_case *c, const struct filter *filter, uint32_t list)
{
    uint64_t found = 0, wanted = 0;
    for (uint32_t q = 0; q < QUERIES; q++) {
        struct search_hit hits[K];
        const struct ask ask = {.k = K, .search_list = list};
        struct search_query query = query_make(f->collection, q, &ask, hits);
        query.filter = filter;
        ask_one(engine, &query);
        answer_check(f->collection, &query, q);
        assert_int_equal(query.stats.filter_plan, c->plan);
        uint32_t count;
        const double kth = kth_matching(f, c, q, K, &count);
        assert_int_equal(query.hit_count, MIN(count, (uint32_t)K)); /* k when there are k */
        for (uint32_t i = 0; i < query.hit_count; i++) {
            assert_true(c->matches(&f->rows[hits[i].key]));
            found += collection_distance(f->collection, q, (uint32_t)hits[i].key) <= kth;
        }
        wanted += query.hit_count;
    }
    return (double)found / (double)wanted;
}

/* The same with a list of that size, whose plan need not be the usual. */
static double recall_under(const struct fixture *f, struct engine *engine,
                           const struct filter_case *c, uint32_t list, uint32_t plan)
{
    struct filter *filter = filter_of(engine_index(engine), c->text);
    const struct filter_case planned = {c->text, c->matches, plan};
    const double recall = recall_with(f, engine, &planned, filter, list);
    filter_free(filter);
    return recall;
}

/* ---- tests ---- */

static void every_filter_finds_what_matches(void **state)
{
    const struct fixture *f = *state;
    for (int t = 0; t < TIERS; t++) {
        struct engine *engine = engine_plain(f->tiers[t]);
        for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
            const double recall = recall_under(f, engine, &cases[i], 20, cases[i].plan);
            print_message("tier %d, %s: recall %.3f\n", t, cases[i].text, recall);
            assert_true(recall >= 0.9);
        }
        engine_destroy(engine);
    }
}

/* With a short list a scan of all seems too long: few of many are found on the graph. */
static void a_traversal_passes_through_what_does_not_match(void **state)
{
    const struct fixture *f = *state;
    for (int t = 0; t < TIERS; t++) {
        struct engine *engine = engine_plain(f->tiers[t]);
        const double recall = recall_under(f, engine, &cases[7], K, SEARCH_FILTER_TRAVERSAL);
        print_message("tier %d: recall %.3f\n", t, recall);
        assert_true(recall >= 0.8);
        engine_destroy(engine);
    }
}

/* Among a billion vectors the estimate, from a sample, may be of a hundred times as many as there
 * are: then what matches is sought on the graph, and a scan has to find what was not met there. */
static void what_a_traversal_does_not_meet_is_scanned_for(void **state)
{
    const struct fixture *f = *state;
    const struct filter_case uncommon = {"not tags = \"usual\"", rare, SEARCH_FILTER_TRAVERSAL};
    for (int t = 0; t < TIERS; t++) {
        struct engine *engine = engine_plain(f->tiers[t]);
        struct filter *filter = filter_of(f->tiers[t], uncommon.text);
        assert_in_range(filter_match_estimate(filter), K, 40);
        filter->match_estimate = ROWS;
        const double recall = recall_with(f, engine, &uncommon, filter, K);
        print_message("tier %d: recall %.3f\n", t, recall);
        assert_true(recall >= 0.9);
        filter_free(filter);
        engine_destroy(engine);
    }
}

static void a_scan_reads_for_matches_alone(void **state)
{
    const struct fixture *f = *state;
    struct engine *engine = engine_plain(f->tiers[0]);
    struct filter *filter = filter_of(f->tiers[0], "even < 15");
    const uint64_t matches = filter_match_estimate(filter);
    struct search_hit hits[K];
    const struct ask ask = {.k = K, .search_list = 200};
    struct search_query query = query_make(f->collection, 0, &ask, hits);
    query.filter = filter;
    ask_one(engine, &query);
    assert_in_range(matches, K, 40);
    assert_in_range(query.stats.reads, 1, matches);
    assert_int_equal(query.stats.code_distances, matches);
    assert_int_equal(query.stats.hops, 0);
    filter_free(filter);
    engine_destroy(engine);
}

enum { TALL_ROWS = 5000, TALL_DIM = 2100, TALL_LABELS = 12, TALL_RARE = 6 };

static bool tall_has(uint32_t row, uint32_t label)
{
    return row % (TALL_ROWS / TALL_RARE) != 7 * label;
}

/* Rows that have every label but, rarely, one. */
static void tall_attributes_write(const char *path)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "tags:labels\n");
    for (uint32_t row = 0; row < TALL_ROWS; row++) {
        for (uint32_t label = 0; label < TALL_LABELS; label++)
            if (tall_has(row, label))
                fprintf(file, "%st%u", label == !tall_has(row, 0) ? "" : "|", label);
        fputc('\n', file);
    }
    assert_int_equal(fclose(file), 0);
}

/* The same with a traversal that is cut short, by itself, with candidates left that do not match:
 * they have no share in the scan's reads. */
static void expect_all_after_a_cut(struct index *index, const struct collection *c,
                                   const struct filter *filter)
{
    const struct block_geometry *geometry = &index_manifest(index)->geometry;
    const struct ask ask = {.k = TALL_RARE, .search_list = TALL_RARE};
    uint8_t *blocks = collection_read_blocks(c, index_manifest(index));
    struct search_hit hits[TALL_RARE];
    struct search_query query = query_make(c, 0, &ask, hits);
    struct search_scratch scratch = {0};
    struct search search;
    struct block_view view;
    struct error err;
    query.filter = filter;
    ASSERT_STATUS_OK(search_scratch_init(&scratch, &err), err);
    ASSERT_STATUS_OK(search_init(&search, index, &scratch, &err), err);
    search_start(&search, &query);
    search.blocks_limit = 2;
    for (;;) {
        const uint32_t block = search_next_read(&search, 1);
        if (block == SEARCH_NO_BLOCK && search_pauses(&search))
            continue;
        if (block == SEARCH_NO_BLOCK)
            break;
        block_view_trusted(geometry, block, blocks + (size_t)block * geometry->block_bytes, &view);
        search_block(&search, &view);
    }
    assert_int_equal(query.hit_count, TALL_RARE);
    search_fini(&search);
    search_scratch_fini(&scratch);
    free(blocks);
}

/* Where a block has one record, the traversal may spend all the reads that a query is allowed: the
 * scan after it has reads of its own. */
static void a_scan_after_a_traversal_reads_what_it_finds(void **state)
{
    const struct fixture *f = *state;
    static const uint32_t widths[] = {1, 16};
    const char *csv = fixture_path(f->directory, "tall.csv");
    tall_attributes_write(csv);
    /* Without structure, so that the traversal goes on improving. */
    uint8_t *rows = malloc((size_t)TALL_ROWS * TALL_DIM);
    assert_non_null(rows);
    for (size_t i = 0; i < (size_t)TALL_ROWS * TALL_DIM; i++)
        rows[i] = (uint8_t)random_at(10, i);
    const struct collection_spec spec = {ELEMENT_U8, METRIC_L2, TALL_ROWS, TALL_DIM, 1, rows, 16};
    struct collection *tall = collection_create_with(f->directory, "tall", &spec, csv);
    struct index *index = collection_open(tall, 0);
    assert_int_equal(index_manifest(index)->geometry.nodes_per_block, 1);
    struct engine *engine = engine_plain(index);
    uint32_t unmet = 0;
    for (uint32_t label = 0; label < TALL_LABELS; label++) {
        char text[32];
        snprintf(text, sizeof(text), "not tags = \"t%u\"", label);
        struct filter *filter = filter_of(index, text);
        filter->match_estimate = TALL_ROWS;
        for (uint32_t i = 0; i < TALL_RARE * ARRAY_LENGTH(widths); i++) {
            const uint32_t k = 1 + i / ARRAY_LENGTH(widths);
            struct search_hit hits[TALL_RARE];
            const struct ask ask = {
                .k = k, .search_list = k, .beam_width = widths[i % ARRAY_LENGTH(widths)]};
            struct search_query query = query_make(tall, 0, &ask, hits);
            query.filter = filter;
            ask_one(engine, &query);
            answer_check(tall, &query, 0);
            assert_int_equal(query.stats.filter_plan, SEARCH_FILTER_TRAVERSAL);
            unmet += query.hit_count != k;
            for (uint32_t j = 0; j < query.hit_count; j++)
                assert_false(tall_has((uint32_t)hits[j].key, label));
        }
        expect_all_after_a_cut(index, tall, filter);
        filter_free(filter);
    }
    assert_int_equal(unmet, 0);
    engine_destroy(engine);
    index_release(index);
    collection_destroy(tall);
    free(rows);
}

/* A scan is made in parts; what it finds is the same with others between them, and no others have
 * to wait for its end. */
static void a_scan_pauses_for_others(void **state)
{
    const struct fixture *f = *state;
    enum { SCANS = 6, COUNT = 3 * SCANS };
    const struct engine_params params = {.threads = 1, .slots_per_thread = COUNT};
    for (int t = 0; t < TIERS; t++) {
        struct search_hit alone[COUNT][K], hits[COUNT][K];
        struct search_query queries[COUNT], expected[COUNT];
        struct filter *filter = filter_of(f->tiers[t], "even < 5000 or even >= 5000");
        struct engine *engine = engine_start(f->tiers[t], &params);
        for (uint32_t q = 0; q < COUNT; q++) {
            const struct ask ask = {.k = K, .search_list = 200, .beam_width = 1};
            expected[q] = query_make(f->collection, q, &ask, alone[q]);
            expected[q].filter = q % 3 == 0 ? filter : NULL;
            filter->match_estimate = 1; /* so that it is scanned */
            queries[q] = expected[q];
            queries[q].hits = hits[q];
            ask_one(engine, &expected[q]);
            assert_int_equal(expected[q].hit_count, K);
        }
        engine_search_all(engine, queries, COUNT, 0);
        for (uint32_t q = 0; q < COUNT; q++)
            assert_same_hits(&queries[q], &expected[q]);
        struct search_scratch scratch = {0};
        struct search search;
        struct error err;
        ASSERT_STATUS_OK(search_scratch_init(&scratch, &err), err);
        ASSERT_STATUS_OK(search_init(&search, f->tiers[t], &scratch, &err), err);
        search_start(&search, &queries[0]);
        assert_int_equal(search_next_read(&search, 1), SEARCH_NO_BLOCK);
        assert_true(search_pauses(&search));
        assert_in_range(search.stats.code_distances, 1, ROWS / 2);
        queries[0].deadline_ns = 1;
        assert_int_equal(search_next_read(&search, 1), SEARCH_NO_BLOCK);
        assert_true(search.late);
        assert_false(search_pauses(&search));
        search_fini(&search);
        search_scratch_fini(&scratch);
        filter_free(filter);
        engine_destroy(engine);
    }
}

/* Its time is that of the filter, and grows with no list. */
static void a_scan_tells_nothing_of_the_time_of_others(void **state)
{
    const struct fixture *f = *state;
    struct search_hit hits[K];
    for (int t = 0; t < TIERS; t++) {
        struct engine *engine = engine_plain(f->tiers[t]);
        const struct engine_pace *pace = &engine->workers[0].pace;
        struct filter *filter = filter_of(f->tiers[t], "even < 100");
        const struct ask ask = {.k = K, .search_list = K};
        struct search_query query = query_make(f->collection, 0, &ask, hits);
        query.filter = filter;
        ask_one(engine, &query);
        assert_int_equal(query.stats.filter_plan, SEARCH_FILTER_SCAN);
        assert_int_equal(engine_pace_service_ns(pace, 1), 0);
        query.filter = NULL;
        ask_one(engine, &query);
        assert_true(engine_pace_service_ns(pace, 1) > 0);
        filter_free(filter);
        engine_destroy(engine);
    }
}

static void what_nothing_matches_takes_no_read(void **state)
{
    const struct fixture *f = *state;
    for (int t = 0; t < TIERS; t++) {
        struct engine *engine = engine_plain(f->tiers[t]);
        struct filter *filter = filter_of(f->tiers[t], "even > 20000 or tags = \"none\"");
        struct search_hit hits[K];
        struct search_query query = query_make(f->collection, 0, &ask_usual, hits);
        query.filter = filter;
        ask_one(engine, &query);
        assert_int_equal(query.hit_count, 0);
        assert_int_equal(query.stats.reads + query.stats.cache_hits, 0);
        assert_int_equal(query.stats.filter_plan, SEARCH_FILTER_EMPTY);
        filter_free(filter);
        engine_destroy(engine);
    }
}

/* A filter beside what else may be asked: within a radius, page after page. */
static void filters_go_with_radius_and_pages(void **state)
{
    const struct fixture *f = *state;
    const struct filter_case *const asked[] = {&cases[0], &cases[1], &cases[5]};
    for (int t = 0; t < TIERS; t++) {
        struct engine *engine = engine_plain(f->tiers[t]);
        for (size_t i = 0; i < ARRAY_LENGTH(asked); i++) {
            struct filter *filter = filter_of(f->tiers[t], asked[i]->text);
            for (uint32_t q = 0; q < QUERIES; q++) {
                struct search_hit within[100], pages[3 * K];
                uint32_t count;
                const double radius = kth_matching(f, asked[i], q, 3 * K, &count);
                const struct ask ask = {.k = K, .search_list = 100, .beam_width = 1};
                struct search_query query = query_make(f->collection, q, &ask, pages);
                query.filter = filter;
                for (uint32_t page = 0; page < 3; page++) {
                    query.hits = pages + (size_t)page * K;
                    ask_one(engine, &query);
                    assert_int_equal(query.hit_count, K);
                    query.after = (struct search_after){.set = true,
                                                        .rank = (page + 1) * K,
                                                        .distance = query.hits[K - 1].distance,
                                                        .key = query.hits[K - 1].key};
                }
                query = query_make(f->collection, q, &ask, within);
                query.filter = filter;
                query.k = 100;
                query.within_radius = true;
                query.radius = (float)radius;
                ask_one(engine, &query);
                answer_check(f->collection, &query, q);
                assert_int_equal(query.flags, 0);
                uint32_t same = 0;
                for (uint32_t j = 0; j < query.hit_count; j++)
                    assert_true(asked[i]->matches(&f->rows[within[j].key]));
                for (uint32_t j = 0; j < 3 * K; j++) {
                    assert_true(asked[i]->matches(&f->rows[pages[j].key]));
                    for (uint32_t l = 0; l < query.hit_count; l++)
                        same += within[l].key == pages[j].key;
                }
                assert_true(same >= 25);
            }
            filter_free(filter);
        }
        engine_destroy(engine);
    }
}

/* More candidates within than there is room for: k of them are found, and it is said. */
static void more_within_a_radius_than_there_is_room_for_is_said(void **state)
{
    const struct fixture *f = *state;
    static struct search_hit hits[ENGINE_K_MAX];
    static const char *const texts[] = {"", "even < 5000", "even >= 1000"};
    for (int t = 0; t < TIERS; t++) {
        struct engine *engine = engine_plain(f->tiers[t]);
        for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
            struct filter *filter = texts[i][0] ? filter_of(f->tiers[t], texts[i]) : NULL;
            const struct ask ask = {.k = ENGINE_K_MAX, .search_list = 100};
            struct search_query query = query_make(f->collection, 0, &ask, hits);
            query.filter = filter;
            query.within_radius = true;
            query.radius = (float)collection_kth_distance(f->collection, 0, ROWS) * 2.0f;
            ask_one(engine, &query);
            assert_int_equal(query.flags, SEARCH_TRUNCATED);
            assert_true(query.hit_count <= ENGINE_K_MAX);
            filter_free(filter);
        }
        engine_destroy(engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_filter_finds_what_matches),
        cmocka_unit_test(a_traversal_passes_through_what_does_not_match),
        cmocka_unit_test(what_a_traversal_does_not_meet_is_scanned_for),
        cmocka_unit_test(a_scan_after_a_traversal_reads_what_it_finds),
        cmocka_unit_test(a_scan_reads_for_matches_alone),
        cmocka_unit_test(a_scan_pauses_for_others),
        cmocka_unit_test(a_scan_tells_nothing_of_the_time_of_others),
        cmocka_unit_test(what_nothing_matches_takes_no_read),
        cmocka_unit_test(filters_go_with_radius_and_pages),
        cmocka_unit_test(more_within_a_radius_than_there_is_room_for_is_said),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
