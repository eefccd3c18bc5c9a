/*
 * test_vamana.c - the graph: its rule against a naive RobustPrune, its guarantees (degree,
 * reachability, same at any thread count), its worth (recall), and the inputs that break others:
 * duplicates, lines, handfuls of rows, rows that another shard owns. How its spanning tree comes
 * about is in test_vamana_tree.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "builder/graph_internal.h"
#include "common/random.h"
#include "tests/vector_fixture.h"

static const struct {
    enum element_type type;
    enum metric metric;
} kinds[] = {
    {ELEMENT_U8, METRIC_L2}, {ELEMENT_F32, METRIC_L2},     {ELEMENT_F32, METRIC_IP},
    {ELEMENT_I8, METRIC_IP}, {ELEMENT_F32, METRIC_COSINE}, {ELEMENT_F16, METRIC_COSINE},
};

static struct vector_fixture fixture_of(size_t kind, uint32_t count)
{
    return (struct vector_fixture){.count = count,
                                   .dim = 16,
                                   .clusters = 12,
                                   .type = kinds[kind].type,
                                   .metric = kinds[kind].metric,
                                   .seed = 21};
}

/* All tests run for either algorithm. */
static enum graph_kind graph_kind;

static int use_pipnn(void **state)
{
    (void)state;
    graph_kind = GRAPH_PIPNN;
    return 0;
}

static int use_vamana(void **state)
{
    (void)state;
    graph_kind = GRAPH_VAMANA;
    return 0;
}

static struct graph_params params_of(uint32_t degree, uint32_t build_list)
{
    return (struct graph_params){
        .kind = graph_kind, .degree = degree, .build_list = build_list, .alpha = 1.2f, .seed = 1};
}

/* Edges of the tree alone lead to every own node, and behind them the neighbours are in order. */
static void lists_check(const struct vector_set *set, const struct graph_result *result,
                        const struct graph_params *params)
{
    uint32_t own_count = params->own_count != 0 ? params->own_count : set->count;
    struct graph tree;
    struct error err;
    assert_int_equal(graph_create(&tree, set->count, params->degree, &err), STATUS_OK);
    for (uint32_t node = 0; node < set->count; node++) {
        const uint32_t *ids = graph_neighbors(&result->graph, node);
        uint32_t kept = result->kept[node];
        assert_in_range(kept, 0, MIN(params->degree - 1, graph_degree(&result->graph, node)));
        for (uint32_t i = 0; i < kept; i++)
            assert_in_range(ids[i], 0, own_count - 1);
        for (uint32_t i = kept + 1; i < graph_degree(&result->graph, node); i++)
            assert_true(vector_set_pair(set, node, ids[i]) >=
                        vector_set_pair(set, node, ids[i - 1]));
        memcpy(graph_neighbors(&tree, node), ids, kept * sizeof(*ids));
        graph_set_degree(&tree, node, kept);
    }
    assert_int_equal(graph_fixture_reached(&tree, result->root), own_count);
    graph_destroy(&tree);
}

/* Builds and checks what holds for every graph. */
static struct graph_result build(const struct vector_set *set, const struct graph_params *params)
{
    struct graph_result result;
    struct error err = {0};
    if (graph_build(set, params, &result, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    if (graph_check(&result.graph, params->degree, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(result.graph.count, set->count);
    assert_in_range(result.entry, 0, set->count - 1);
    lists_check(set, &result, params);
    return result;
}

/* ---- a plain beam search, to judge the graph by ---- */

enum { LIST_MAX = 128, K = 10 };

static void score(const struct vector_set *set, const void *query, uint32_t row, float *out)
{
    struct distance distance;
    distance_init(&distance, set->type, set->metric, set->dim);
    distance_rows(&distance, query, distance_query_scale(&distance, query),
                  vector_set_row(set, row), set->stride_bytes, 1, out);
}

/* The nearest rows a search with a list of `list` finds, nearest first; returns how many. */
static uint32_t beam_search(const struct vector_set *set, const struct graph_result *built,
                            const void *query, uint32_t list, struct candidate *found)
{
    bool expanded[LIST_MAX + 1] = {false};
    uint8_t *seen = calloc(set->count, 1);
    uint32_t size = 1;
    assert_non_null(seen);
    found[0].id = built->entry;
    score(set, query, built->entry, &found[0].distance);
    seen[built->entry] = 1;
    for (uint32_t next = 0; next < size;) {
        if (expanded[next]) {
            next++;
            continue;
        }
        expanded[next] = true;
        uint32_t node = found[next].id;
        next = 0;
        for (uint32_t i = 0; i < graph_degree(&built->graph, node); i++) {
            struct candidate c = {.id = graph_neighbors(&built->graph, node)[i]};
            if (seen[c.id])
                continue;
            seen[c.id] = 1;
            score(set, query, c.id, &c.distance);
            uint32_t place = size;
            while (place > 0 && candidate_less(c, found[place - 1]))
                place--;
            if (place == list)
                continue;
            size = MIN(size + 1, list);
            memmove(found + place + 1, found + place, (size - place - 1) * sizeof(*found));
            memmove(expanded + place + 1, expanded + place, size - place - 1);
            found[place] = c;
            expanded[place] = false;
        }
    }
    free(seen);
    return size;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a;
    float y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Distance of the k-th nearest row of all. */
static float exact_kth(const struct vector_set *set, const void *query, uint32_t k)
{
    float *all = malloc(set->count * sizeof(*all));
    assert_non_null(all);
    for (uint32_t row = 0; row < set->count; row++)
        score(set, query, row, &all[row]);
    qsort(all, set->count, sizeof(*all), by_value);
    float kth = all[k - 1];
    free(all);
    return kth;
}

/* Mean share of the K nearest (by distance, so that any of several copies counts) found for
 * queries of the fixture's distribution. */
static double recall(const struct vector_fixture *fixture, const struct vector_set *set,
                     const struct graph_result *built, uint32_t list)
{
    enum { QUERIES = 100 };
    uint32_t hits = 0;
    for (uint32_t q = 0; q < QUERIES; q++) {
        uint8_t query[VECTOR_FIXTURE_ROW_BYTES];
        struct candidate found[LIST_MAX + 1];
        vector_fixture_row(fixture, fixture->count + q, query);
        uint32_t count = beam_search(set, built, query, list, found);
        float kth = exact_kth(set, query, K);
        for (uint32_t i = 0; i < MIN(count, (uint32_t)K); i++)
            hits += found[i].distance <= kth;
    }
    return (double)hits / (QUERIES * K);
}

/* ---- prune ---- */

struct prune_case {
    struct vector_set set;
    struct graph_params params;
    struct graph_scratch *scratch;
    uint32_t node;
    uint32_t count;
    struct candidate candidates[1200];
    uint32_t out[64];
};

static void prune_case_init(struct prune_case *c, size_t kind, uint32_t rows, float alpha)
{
    struct vector_fixture fixture = fixture_of(kind, rows);
    struct error err;
    memset(c, 0, sizeof(*c));
    vector_fixture_create(&fixture, &c->set);
    c->params = (struct graph_params){.degree = 20, .build_list = 100, .alpha = alpha};
    assert_int_equal(graph_scratch_create(&c->set, 100, 64, &c->scratch, &err), STATUS_OK);
}

static void prune_case_fini(struct prune_case *c)
{
    graph_scratch_destroy(c->scratch);
    vector_set_destroy(&c->set);
}

static void candidate_add(struct prune_case *c, uint32_t id)
{
    c->candidates[c->count++] = (struct candidate){vector_set_pair(&c->set, c->node, id), id};
}

/* Random candidates, some of them twice, the node itself among them. */
static void candidates_draw(struct prune_case *c, uint64_t seed)
{
    c->node = (uint32_t)random_below(seed, 0, c->set.count);
    c->count = 0;
    uint32_t wanted = 1 + (uint32_t)random_below(seed, 1, 300);
    for (uint32_t i = 0; i < wanted; i++)
        candidate_add(c, (uint32_t)random_below(seed, 2 + i, c->set.count));
    candidate_add(c, c->node);
}

static int by_candidate(const void *a, const void *b)
{
    struct candidate x = *(const struct candidate *)a;
    struct candidate y = *(const struct candidate *)b;
    return candidate_less(x, y) ? -1 : candidate_less(y, x);
}

/* Algorithm 2 as the paper writes it: take the nearest, strike what it occludes, repeat. The one
 * addition is that a copy of the node strikes other copies only. */
static uint32_t naive_prune(const struct prune_case *c, uint32_t *out)
{
    struct candidate left[1200];
    bool struck[1200] = {false};
    uint32_t selected = 0;
    memcpy(left, c->candidates, c->count * sizeof(*left));
    qsort(left, c->count, sizeof(*left), by_candidate);
    for (uint32_t i = 0; i < c->count && selected < c->params.degree; i++) {
        if (struck[i] || left[i].id == c->node)
            continue;
        out[selected++] = left[i].id;
        for (uint32_t j = i + 1; j < c->count; j++) {
            if (left[i].distance == 0.0f && left[j].distance > 0.0f)
                struck[j] |= left[j].id == left[i].id;
            else
                struck[j] |= vector_fixture_may_occlude(&c->set, left[i].id, left[j].id) &&
                             c->params.alpha * vector_set_pair(&c->set, left[i].id, left[j].id) <=
                                 left[j].distance;
        }
    }
    return selected;
}

static void prune_equals_the_papers_algorithm(void **state)
{
    (void)state;
    static const float alphas[] = {1.0f, 1.2f, 2.0f};
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++)
        for (size_t a = 0; a < ARRAY_LENGTH(alphas); a++) {
            struct prune_case c;
            prune_case_init(&c, kind, 400, alphas[a]);
            for (uint64_t seed = 1; seed <= 40; seed++) {
                uint32_t wanted[64];
                candidates_draw(&c, seed);
                uint32_t wanted_count = naive_prune(&c, wanted);
                uint32_t count = robust_prune(&c.set, &c.params, c.node, c.candidates, c.count,
                                              c.scratch, c.out);
                assert_int_equal(count, wanted_count);
                assert_memory_equal(c.out, wanted, count * sizeof(*wanted));
            }
            prune_case_fini(&c);
        }
}

/* The rule read off the result: no kept c has an earlier kept s with alpha d(s,c) <= d(p,c), and
 * what was dropped had one, unless the list was full. */
static void prune_keeps_no_occluded_and_drops_no_other(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++) {
        struct prune_case c;
        prune_case_init(&c, kind, 400, 1.2f);
        for (uint64_t seed = 100; seed < 140; seed++) {
            candidates_draw(&c, seed);
            uint32_t count =
                robust_prune(&c.set, &c.params, c.node, c.candidates, c.count, c.scratch, c.out);
            assert_in_range(count, 0, c.params.degree);
            for (uint32_t i = 0; i < c.count; i++) {
                uint32_t id = c.candidates[i].id;
                bool kept = false;
                bool has_occluder = false;
                for (uint32_t s = 0; s < count && !kept; s++) {
                    kept = c.out[s] == id;
                    has_occluder |= !kept && vector_fixture_may_occlude(&c.set, c.out[s], id) &&
                                    c.params.alpha * vector_set_pair(&c.set, c.out[s], id) <=
                                        c.candidates[i].distance;
                }
                if (kept)
                    assert_false(has_occluder);
                else if (count < c.params.degree && id != c.node)
                    assert_true(has_occluder);
            }
        }
        prune_case_fini(&c);
    }
}

/* A thousand copies of the node must not hide the rest of the world from it. */
static void prune_keeps_one_copy_however_many_there_are(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++) {
        struct prune_case c;
        struct error err;
        enum { COPIES = 1000, OTHERS = 100 };
        prune_case_init(&c, kind, COPIES + OTHERS, 1.0f);
        vector_set_destroy(&c.set);
        struct vector_fixture fixture = fixture_of(kind, COPIES + OTHERS);
        vector_fixture_fill(&fixture, &c.set);
        for (uint32_t row = 1; row < COPIES; row++)
            memcpy(vector_fixture_slot(&c.set, row), vector_set_row(&c.set, 0), c.set.stride_bytes);
        assert_int_equal(vector_set_prepare(&c.set, 0.0f, &err), STATUS_OK);
        for (uint32_t row = COPIES; row < c.set.count; row++)
            candidate_add(&c, row);
        uint32_t wanted[64];
        uint32_t wanted_count = naive_prune(&c, wanted);
        assert_in_range(wanted_count, 1, c.params.degree - 1);
        for (uint32_t row = 0; row < COPIES; row++)
            candidate_add(&c, row);
        uint32_t count =
            robust_prune(&c.set, &c.params, 0, c.candidates, c.count, c.scratch, c.out);
        assert_int_equal(count, wanted_count + 1);
        assert_int_equal(c.out[0], 1);
        assert_memory_equal(c.out + 1, wanted, wanted_count * sizeof(*wanted));
        prune_case_fini(&c);
    }
}

/* ---- the whole graph ---- */

static uint64_t result_digest(const struct graph_result *result)
{
    uint64_t digest = graph_fixture_digest(&result->graph) ^ result->entry;
    return XXH3_64bits_withSeed(result->kept, result->graph.count, digest) ^ result->root;
}

static void graph_is_the_same_at_any_thread_count(void **state)
{
    (void)state;
    static const int teams[] = {1, 2, 3, 4, 5};
    static const size_t chosen[] = {0, 2, 4};
    int threads_before = omp_get_max_threads();
    for (size_t k = 0; k < ARRAY_LENGTH(chosen); k++) {
        struct vector_fixture fixture = fixture_of(chosen[k], 2000);
        struct graph_params params = params_of(16, 32);
        struct vector_set set;
        uint64_t first = 0;
        params.own_count = k == 1 ? 1500 : 0;
        vector_fixture_create(&fixture, &set);
        for (size_t t = 0; t < ARRAY_LENGTH(teams); t++) {
            omp_set_num_threads(teams[t]);
            struct graph_result built = build(&set, &params);
            uint64_t digest = result_digest(&built);
            first = t == 0 ? digest : first;
            assert_int_equal(digest, first);
            graph_result_destroy(&built);
        }
        params.seed++;
        struct graph_result other = build(&set, &params);
        assert_int_not_equal(result_digest(&other), first);
        graph_result_destroy(&other);
        vector_set_destroy(&set);
    }
    omp_set_num_threads(threads_before);
}

static void graph_has_recall_on_clustered_data(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++) {
        struct vector_fixture fixture = fixture_of(kind, 3000);
        struct graph_params params = params_of(24, 50);
        struct vector_set set;
        vector_fixture_create(&fixture, &set);
        struct graph_result built = build(&set, &params);
        double reached = recall(&fixture, &set, &built, 50);
        if (reached < 0.97)
            fail_msg("%s %s: recall %.3f", element_name(set.type), metric_name(set.metric),
                     reached);
        graph_result_destroy(&built);
        vector_set_destroy(&set);
    }
}

static void entry_is_the_row_nearest_the_centroid(void **state)
{
    (void)state;
    struct vector_set set;
    struct graph_params params = params_of(8, 16);
    vector_fixture_line(301, &set);
    struct graph_result built = build(&set, &params);
    assert_int_equal(built.entry, 150);
    graph_result_destroy(&built);
    vector_set_destroy(&set);
}

static void handfuls_of_rows_work(void **state)
{
    (void)state;
    enum { R = 6 };
    static const uint32_t counts[] = {1, 2, 3, R, R + 1, R + 2, 50};
    static const uint32_t lists[] = {1, 4, 100};
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++)
        for (size_t n = 0; n < ARRAY_LENGTH(counts); n++)
            for (size_t l = 0; l < ARRAY_LENGTH(lists); l++) {
                struct vector_fixture fixture = fixture_of(kind, counts[n]);
                struct graph_params params = params_of(R, lists[l]);
                struct vector_set set;
                vector_fixture_create(&fixture, &set);
                struct graph_result built = build(&set, &params);
                graph_result_destroy(&built);
                vector_set_destroy(&set);
            }
}

static void every_row_of_a_line_is_found_from_the_entry(void **state)
{
    (void)state;
    enum { COUNT = 1200, LIST = 12 };
    struct vector_set set;
    struct graph_params params = params_of(8, 24);
    vector_fixture_line(COUNT, &set);
    struct graph_result built = build(&set, &params);
    for (uint32_t row = 0; row < COUNT; row++) {
        struct candidate found[LIST_MAX + 1];
        assert_int_equal(beam_search(&set, &built, vector_set_row(&set, row), LIST, found), LIST);
        assert_int_equal(found[0].id, row);
    }
    graph_result_destroy(&built);
    vector_set_destroy(&set);
}

/* ---- duplicates ---- */

static void rows_all_equal_are_reachable(void **state)
{
    (void)state;
    enum { COUNT = 700, R = 8 };
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++) {
        struct vector_fixture fixture = fixture_of(kind, COUNT);
        struct graph_params params = params_of(R, 20);
        struct vector_set set;
        struct error err;
        struct candidate found[LIST_MAX + 1];
        vector_fixture_fill(&fixture, &set);
        for (uint32_t row = 1; row < COUNT; row++)
            memcpy(vector_fixture_slot(&set, row), vector_set_row(&set, 0), set.stride_bytes);
        assert_int_equal(vector_set_prepare(&set, 0.0f, &err), STATUS_OK);
        struct graph_result built = build(&set, &params);
        /* A search gets its fill of hits, if not of any certain ones. */
        assert_in_range(beam_search(&set, &built, vector_set_row(&set, 5), 20, found), K, 20);
        graph_result_destroy(&built);
        vector_set_destroy(&set);
    }
}

/* The mean of rows [0, count) in the set's type. */
static void centroid_row(const struct vector_set *set, uint32_t count, void *out)
{
    double sums[VECTOR_FIXTURE_DIM_MAX] = {0};
    float row[VECTOR_FIXTURE_DIM_MAX];
    for (uint32_t i = 0; i < count; i++) {
        element_to_f32(set->type, vector_set_row(set, i), set->dim, row);
        for (uint32_t d = 0; d < set->dim; d++)
            sums[d] += (double)row[d];
    }
    for (uint32_t d = 0; d < set->dim; d++)
        row[d] = (float)(sums[d] / count);
    element_from_f32(set->type, row, set->dim, out);
}

/* Copies of the centroid make the entry one of them: searches start inside a clump that is larger
 * than a list (R) or even than what a search keeps (L). */
static void entry_with_many_copies_keeps_recall(void **state)
{
    (void)state;
    enum { NORMAL = 2000, R = 16, L = 40 };
    static const uint32_t copies[] = {R + 1, 3 * L, 1500};
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++)
        for (size_t n = 0; n < ARRAY_LENGTH(copies); n++) {
            struct vector_fixture fixture = fixture_of(kind, NORMAL + copies[n]);
            struct graph_params params = params_of(R, L);
            struct vector_set set;
            struct error err;
            vector_fixture_fill(&fixture, &set);
            for (uint32_t row = NORMAL; row < fixture.count; row++)
                centroid_row(&set, NORMAL, vector_fixture_slot(&set, row));
            assert_int_equal(vector_set_prepare(&set, 0.0f, &err), STATUS_OK);
            struct graph_result built = build(&set, &params);
            assert_in_range(built.entry, NORMAL, fixture.count - 1);
            double reached = recall(&fixture, &set, &built, 60);
            if (reached < 0.95)
                fail_msg("%s %s, %u copies: recall %.3f", element_name(set.type),
                         metric_name(set.metric), copies[n], reached);
            graph_result_destroy(&built);
            vector_set_destroy(&set);
        }
}

/* Every row eight times over, as in data that was never deduplicated. */
static void rows_in_eight_copies_keep_recall(void **state)
{
    (void)state;
    enum { COUNT = 2400 };
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind++) {
        struct vector_fixture fixture = fixture_of(kind, COUNT);
        struct graph_params params = params_of(16, 40);
        struct vector_set set;
        struct error err;
        vector_fixture_fill(&fixture, &set);
        for (uint32_t row = 0; row < COUNT; row++)
            vector_fixture_row(&fixture, row / 8, vector_fixture_slot(&set, row));
        assert_int_equal(vector_set_prepare(&set, 0.0f, &err), STATUS_OK);
        struct graph_result built = build(&set, &params);
        double reached = recall(&fixture, &set, &built, 100);
        if (reached < 0.9)
            fail_msg("%s %s: recall %.3f", element_name(set.type), metric_name(set.metric),
                     reached);
        graph_result_destroy(&built);
        vector_set_destroy(&set);
    }
}

/* ---- borrowed rows ---- */

/* Rows that another shard owns are found like any other, but they are not what the tree is for. */
static void borrowed_rows_are_in_the_graph_and_not_in_the_tree(void **state)
{
    (void)state;
    enum { OWN = 1000, COUNT = 1500 };
    for (size_t kind = 0; kind < ARRAY_LENGTH(kinds); kind += 2) {
        struct vector_fixture fixture = fixture_of(kind, COUNT);
        struct graph_params params = params_of(16, 40);
        struct vector_set set;
        params.own_count = OWN;
        vector_fixture_create(&fixture, &set);
        struct graph_result built = build(&set, &params);
        assert_in_range(built.root, 0, OWN - 1);
        for (uint32_t node = OWN; node < COUNT; node++)
            assert_int_equal(built.kept[node], 0);
        double reached = recall(&fixture, &set, &built, 50);
        if (reached < 0.95)
            fail_msg("%s %s: recall %.3f", element_name(set.type), metric_name(set.metric),
                     reached);
        graph_result_destroy(&built);
        vector_set_destroy(&set);
    }
}

static void root_is_the_own_row_nearest_a_borrowed_entry(void **state)
{
    (void)state;
    /* The middle of the line, 150, is borrowed; 119 is the nearest own row. */
    struct vector_set set;
    struct graph_params params = params_of(8, 16);
    vector_fixture_line(301, &set);
    params.own_count = 120;
    struct graph_result built = build(&set, &params);
    assert_int_equal(built.entry, 150);
    assert_int_equal(built.root, 119);
    graph_result_destroy(&built);
    params.own_count = 151;
    built = build(&set, &params);
    assert_int_equal(built.entry, 150);
    assert_int_equal(built.root, 150);
    graph_result_destroy(&built);
    vector_set_destroy(&set);
}

/* ---- progress and search ---- */

struct progress_log {
    uint64_t calls, stop_at, last;
};

static int progress_note(void *context, uint64_t done, uint64_t total)
{
    struct progress_log *log = context;
    assert_int_equal(total, 900);
    assert_true(done > log->last && done <= total);
    log->last = done;
    return ++log->calls == log->stop_at;
}

static void progress_counts_up_to_the_total(void **state)
{
    (void)state;
    struct vector_fixture fixture = fixture_of(0, 900);
    struct progress_log log = {0};
    struct graph_params params = params_of(8, 16);
    struct vector_set set;
    params.progress = progress_note;
    params.progress_context = &log;
    vector_fixture_create(&fixture, &set);
    struct graph_result built = build(&set, &params);
    assert_int_equal(log.last, 900);
    graph_result_destroy(&built);
    vector_set_destroy(&set);
}

static void progress_stops_the_build_and_nothing_is_left(void **state)
{
    (void)state;
    static const uint64_t stops[] = {1, 2, 12, 30};
    /* In pipnn the calling thread tells of leaves, and may happen to work on few. */
    size_t stop_count = graph_kind == GRAPH_VAMANA ? ARRAY_LENGTH(stops) : 2;
    struct vector_fixture fixture = fixture_of(0, 900);
    struct vector_set set;
    vector_fixture_create(&fixture, &set);
    for (size_t i = 0; i < stop_count; i++) {
        struct progress_log log = {.stop_at = stops[i]};
        struct graph_params params = params_of(8, 16);
        struct graph_result result, untouched;
        struct error err = {0};
        params.progress = progress_note;
        params.progress_context = &log;
        memset(&result, 0x5a, sizeof(result));
        memcpy(&untouched, &result, sizeof(result));
        assert_int_equal(graph_build(&set, &params, &result, &err), STATUS_CANCELLED);
        assert_int_equal(err.status, STATUS_CANCELLED);
        assert_int_equal(log.calls, stops[i]);
        assert_memory_equal(&result, &untouched, sizeof(result));
    }
    vector_set_destroy(&set);
}

static void search_visits_distinct_rows_from_the_entry_on(void **state)
{
    (void)state;
    enum { LIST = 20 };
    struct vector_fixture fixture = fixture_of(4, 1500);
    struct graph_params params = params_of(16, 32);
    struct graph_scratch *scratch = NULL;
    struct vector_set set;
    struct error err;
    vector_fixture_create(&fixture, &set);
    struct graph_result built = build(&set, &params);
    assert_int_equal(graph_scratch_create(&set, LIST, 16, &scratch, &err), STATUS_OK);
    uint32_t found_itself = 0;
    for (uint32_t query = 0; query < 100; query++) {
        uint32_t visited[400], shorter[7];
        uint32_t count = graph_search(&set, &built.graph, built.entry, query, LIST, scratch,
                                      visited, ARRAY_LENGTH(visited));
        assert_in_range(count, LIST, ARRAY_LENGTH(visited) - 1);
        assert_int_equal(visited[0], built.entry);
        for (uint32_t i = 0; i < count; i++) {
            found_itself += visited[i] == query;
            for (uint32_t j = 0; j < i; j++)
                assert_int_not_equal(visited[i], visited[j]);
        }
        assert_int_equal(graph_search(&set, &built.graph, built.entry, query, LIST, scratch,
                                      shorter, ARRAY_LENGTH(shorter)),
                         ARRAY_LENGTH(shorter));
        assert_memory_equal(shorter, visited, sizeof(shorter));
    }
    assert_in_range(found_itself, 97, 100);
    graph_scratch_destroy(scratch);
    graph_scratch_destroy(NULL);
    graph_result_destroy(&built);
    graph_result_destroy(&built); /* empty by now: does nothing */
    vector_set_destroy(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prune_equals_the_papers_algorithm),
        cmocka_unit_test(prune_keeps_no_occluded_and_drops_no_other),
        cmocka_unit_test(prune_keeps_one_copy_however_many_there_are),
        cmocka_unit_test(graph_is_the_same_at_any_thread_count),
        cmocka_unit_test(graph_has_recall_on_clustered_data),
        cmocka_unit_test(entry_is_the_row_nearest_the_centroid),
        cmocka_unit_test(handfuls_of_rows_work),
        cmocka_unit_test(every_row_of_a_line_is_found_from_the_entry),
        cmocka_unit_test(rows_all_equal_are_reachable),
        cmocka_unit_test(entry_with_many_copies_keeps_recall),
        cmocka_unit_test(rows_in_eight_copies_keep_recall),
        cmocka_unit_test(borrowed_rows_are_in_the_graph_and_not_in_the_tree),
        cmocka_unit_test(root_is_the_own_row_nearest_a_borrowed_entry),
        cmocka_unit_test(progress_counts_up_to_the_total),
        cmocka_unit_test(progress_stops_the_build_and_nothing_is_left),
        cmocka_unit_test(search_visits_distinct_rows_from_the_entry_on),
    };
    return cmocka_run_group_tests_name("pipnn", tests, use_pipnn, NULL) +
           cmocka_run_group_tests_name("vamana", tests, use_vamana, NULL);
}
