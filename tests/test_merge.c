/*
 * test_merge.c - one list for each row from those of its shards, against a plain merge in RAM over
 * all rows; that everything is reachable over kept edges; and pieces of the graph stage that are
 * not what they should be though their checksums hold.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/graph_internal.h"
#include "builder/shard_pack.h"
#include "tests/shard_fixture.h"
#include "tests/vector_fixture.h"

/* ---- a plain merge ---- */

enum { LISTS_MAX = PARTITION_BORROWERS_MAX + 1, DEGREE_MAX = 32 };

struct list {
    uint32_t degree, kept;
    uint32_t ids[DEGREE_MAX]; /* positions */
};

/* All lists of a row: its owner's first. */
struct row_lists {
    uint32_t count;
    struct list lists[LISTS_MAX];
};

static struct list list_parse(const uint8_t *data, const uint32_t *position_of)
{
    struct list list = {.degree = list_head_degree(shard_piece_u32(data, 0)),
                        .kept = list_head_kept(shard_piece_u32(data, 0))};
    assert_in_range(list.degree, 0, DEGREE_MAX);
    for (uint32_t i = 0; i < list.degree; i++) {
        list.ids[i] = shard_piece_u32(data, 4 + 4 * (size_t)i);
        if (position_of != NULL)
            list.ids[i] = position_of[list.ids[i]];
    }
    return list;
}

static void own_parse(const struct shard_fixture *fixture, uint32_t shard, struct row_lists *all)
{
    struct shard_rows rows;
    struct error err;
    size_t bytes;
    size_t at = 0;
    uint8_t *data = shard_fixture_section(fixture, shard_graph_piece(shard), "own", 0, &bytes);
    assert_int_equal(shard_rows_load(&fixture->plan, shard, 0, &rows, &err), STATUS_OK);
    uint32_t count = rows.own_count + rows.borrowed_count;
    uint32_t *positions = calloc(count, sizeof(*positions));
    assert_non_null(positions);
    for (uint32_t id = 0; id < count; id++)
        positions[id] = shard_position(&rows, id);
    for (uint32_t id = 0; id < rows.own_count; id++) {
        struct row_lists *row = &all[positions[id]];
        row->lists[0] = list_parse(data + at, positions);
        row->count = 1;
        at += 4 + 4 * (size_t)row->lists[0].degree;
    }
    free(positions);
    free(data);
    shard_rows_destroy(&rows);
}

static void lent_parse(const struct shard_fixture *fixture, uint32_t lender, uint32_t owner,
                       struct row_lists *all)
{
    size_t row_bytes = fixture->all.dim * element_bytes(fixture->all.type);
    uint32_t start = fixture->plan.starts[owner];
    size_t bytes;
    uint8_t *data =
        shard_fixture_section(fixture, shard_graph_piece(lender), "lent", owner, &bytes);
    uint32_t rows = bytes > 0 ? shard_piece_u32(data, 0) : 0;
    uint32_t halo_count = bytes > 0 ? shard_piece_u32(data, 4) : 0;
    const uint8_t *next = data + 8 + halo_count * (4 + row_bytes);
    for (uint32_t i = 0; i < rows; i++) {
        struct row_lists *row = &all[start + shard_piece_u32(next, 0)];
        struct list *list = &row->lists[row->count++];
        *list = list_parse(next + 4, NULL);
        next += 8 + 4 * (size_t)list->degree;
        for (uint32_t j = 0; j < list->degree; j++)
            list->ids[j] =
                (list->ids[j] & SHARD_GRAPH_HALO) == 0
                    ? start + list->ids[j]
                    : shard_piece_u32(data, 8 + 4 * (size_t)(list->ids[j] & ~SHARD_GRAPH_HALO));
    }
    free(data);
}

static struct row_lists *lists_parse(const struct shard_fixture *fixture)
{
    struct row_lists *all = calloc(shard_fixture_rows(fixture), sizeof(*all));
    assert_non_null(all);
    for (uint32_t s = 0; s < fixture->plan.shard_count; s++)
        own_parse(fixture, s, all);
    for (uint32_t s = 0; s < fixture->plan.shard_count; s++)
        for (uint32_t owner = 0; owner < fixture->plan.shard_count; owner++)
            if (owner != s)
                lent_parse(fixture, s, owner, all);
    return all;
}

static int by_candidate(const void *a, const void *b)
{
    struct candidate x = *(const struct candidate *)a;
    struct candidate y = *(const struct candidate *)b;
    return candidate_less(x, y) ? -1 : candidate_less(y, x);
}

static bool list_has(const struct list *list, uint32_t id)
{
    for (uint32_t i = 0; i < list->degree; i++)
        if (list->ids[i] == id)
            return true;
    return false;
}

/* The union of the row's lists by RobustPrune as the paper writes it, nearest first. No two rows
 * are copies. */
static struct list naive_prune(const struct shard_fixture *fixture, uint32_t position,
                               const struct row_lists *row)
{
    struct candidate left[LISTS_MAX * DEGREE_MAX];
    bool struck[LISTS_MAX * DEGREE_MAX] = {false};
    struct list out = {0};
    uint32_t count = 0;
    for (uint32_t l = 0; l < row->count; l++)
        for (uint32_t i = 0; i < row->lists[l].degree; i++) {
            uint32_t id = row->lists[l].ids[i];
            left[count++] = (struct candidate){vector_set_pair(&fixture->all, position, id), id};
        }
    qsort(left, count, sizeof(*left), by_candidate);
    for (uint32_t i = 0; i < count && out.degree < fixture->merge.degree; i++) {
        if (struck[i] || left[i].id == position)
            continue;
        out.ids[out.degree++] = left[i].id;
        for (uint32_t j = i + 1; j < count; j++)
            struck[j] |=
                left[j].id == left[i].id ||
                (vector_fixture_may_occlude(&fixture->all, left[i].id, left[j].id) &&
                 fixture->merge.alpha * vector_set_pair(&fixture->all, left[i].id, left[j].id) <=
                     left[j].distance);
    }
    return out;
}

/* Kept edges of the own list, then what the prune selects, as many as fit. */
static struct list naive_merge(const struct shard_fixture *fixture, uint32_t position,
                               const struct row_lists *row)
{
    struct list merged = row->lists[0];
    if (row->count == 1)
        return merged;
    struct list pruned = naive_prune(fixture, position, row);
    merged.degree = merged.kept;
    for (uint32_t i = 0; i < pruned.degree && merged.degree < fixture->merge.degree; i++)
        if (!list_has(&merged, pruned.ids[i]))
            merged.ids[merged.degree++] = pruned.ids[i];
    return merged;
}

/* Root `root` goes to the front; the last edge makes room where the list is full. */
static void naive_stitch(struct list *list, uint32_t root, uint32_t degree_max)
{
    struct list old = *list;
    uint32_t at = 0;
    while (at < old.degree && old.ids[at] != root)
        at++;
    list->kept = old.kept + (at >= old.kept);
    list->degree = 1;
    list->ids[0] = root;
    for (uint32_t i = 0; i < old.degree && list->degree < degree_max; i++)
        if (i != at)
            list->ids[list->degree++] = old.ids[i];
}

static uint32_t root_of(const struct shard_fixture *fixture, uint32_t shard)
{
    struct shard_graph_info info;
    struct error err;
    assert_int_equal(
        work_piece_read(fixture->work, shard_graph_piece(shard), &info, sizeof(info), NULL, &err),
        STATUS_OK);
    return info.root;
}

/* The own row of `parent` nearest to a root that has no root yet. */
static uint32_t stitch_find(const struct shard_fixture *fixture, uint32_t parent, uint32_t root,
                            const uint8_t *taken)
{
    struct candidate best = {0.0f, UINT32_MAX};
    for (uint32_t p = fixture->plan.starts[parent]; p < fixture->plan.starts[parent + 1]; p++) {
        struct candidate c = {vector_set_pair(&fixture->all, root, p), p};
        if (!taken[p] && (best.id == UINT32_MAX || candidate_less(c, best)))
            best = c;
    }
    return best.id;
}

/* Merged lists of all rows by position, stitches among them. */
static struct list *naive_lists(const struct shard_fixture *fixture, const struct row_lists *all)
{
    uint32_t count = shard_fixture_rows(fixture);
    struct list *merged = calloc(count, sizeof(*merged));
    uint8_t *taken = calloc(count, 1);
    assert_true(merged && taken);
    for (uint32_t p = 0; p < count; p++)
        merged[p] = naive_merge(fixture, p, &all[p]);
    for (uint32_t s = 1; s < fixture->plan.shard_count; s++) {
        uint32_t root = root_of(fixture, s);
        uint32_t at = stitch_find(fixture, fixture->plan.parents[s], root, taken);
        taken[at] = 1;
        naive_stitch(&merged[at], root, fixture->merge.degree);
    }
    free(taken);
    return merged;
}

/* ---- what was merged ---- */

/* The merged lists of all shards as one graph of positions. */
struct merged {
    struct graph graph;
    uint8_t *kept;
};

static void merged_load(const struct shard_fixture *fixture, struct merged *merged)
{
    struct error err = {0};
    uint32_t count = shard_fixture_rows(fixture);
    assert_int_equal(graph_create(&merged->graph, count, fixture->merge.degree, &err), STATUS_OK);
    merged->kept = calloc(count, 1);
    assert_non_null(merged->kept);
    for (uint32_t s = 0; s < fixture->plan.shard_count; s++) {
        struct shard_lists lists;
        uint32_t first = fixture->plan.starts[s];
        if (shard_lists_load(&fixture->plan, s, &lists, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        for (uint32_t row = 0; row < lists.graph.count; row++) {
            uint32_t degree = graph_degree(&lists.graph, row);
            memcpy(graph_neighbors(&merged->graph, first + row), graph_neighbors(&lists.graph, row),
                   degree * sizeof(uint32_t));
            graph_set_degree(&merged->graph, first + row, degree);
            merged->kept[first + row] = lists.kept[row];
        }
        shard_lists_destroy(&lists);
    }
}

static void merged_destroy(struct merged *merged)
{
    graph_destroy(&merged->graph);
    free(merged->kept);
}

static bool merged_has(const struct merged *merged, uint32_t position, uint32_t id, uint32_t first)
{
    for (uint32_t i = 0; i < first; i++)
        if (graph_neighbors(&merged->graph, position)[i] == id)
            return true;
    return false;
}

/* A walk over kept edges from the root of shard 0 meets every row. */
static void reachable_check(const struct shard_fixture *fixture, const struct merged *merged)
{
    struct graph tree;
    struct error err;
    assert_int_equal(graph_create(&tree, merged->graph.count, fixture->merge.degree, &err),
                     STATUS_OK);
    for (uint32_t p = 0; p < tree.count; p++) {
        memcpy(graph_neighbors(&tree, p), graph_neighbors(&merged->graph, p),
               merged->kept[p] * sizeof(uint32_t));
        graph_set_degree(&tree, p, merged->kept[p]);
    }
    assert_int_equal(graph_fixture_reached(&tree, root_of(fixture, 0)), tree.count);
    graph_destroy(&tree);
}

/* What holds for every merge, whatever the data. */
static void merged_check(const struct shard_fixture *fixture, const struct row_lists *all,
                         const struct merged *merged)
{
    struct error err = {0};
    if (graph_check(&merged->graph, fixture->merge.degree, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    for (uint32_t p = 0; p < merged->graph.count; p++) {
        const struct list *own = &all[p].lists[0];
        uint32_t stitches = 0;
        for (uint32_t i = 0; i < own->kept; i++)
            assert_true(merged_has(merged, p, own->ids[i], merged->kept[p]));
        for (uint32_t s = 1; s < fixture->plan.shard_count; s++)
            stitches += merged_has(merged, p, root_of(fixture, s), merged->kept[p]) &&
                        fixture->plan.parents[s] == shard_fixture_owner(&fixture->plan, p);
        assert_in_range(merged->kept[p], own->kept, own->kept + 1);
        assert_true(merged->kept[p] == own->kept || stitches == 1);
    }
    reachable_check(fixture, merged);
}

static void infos_check(const struct shard_fixture *fixture, const struct row_lists *all,
                        const struct merged *merged)
{
    for (uint32_t s = 0; s < fixture->plan.shard_count; s++) {
        struct merge_info wanted = {0};
        struct merge_info info;
        struct error err;
        for (uint32_t p = fixture->plan.starts[s]; p < fixture->plan.starts[s + 1]; p++) {
            uint32_t degree = graph_degree(&merged->graph, p);
            for (uint32_t i = 0; i < degree; i++)
                wanted.inner_edges +=
                    shard_fixture_owner(&fixture->plan, graph_neighbors(&merged->graph, p)[i]) == s;
            wanted.edges += degree;
            wanted.pruned_rows += all[p].count > 1;
            wanted.degree_max = MAX(wanted.degree_max, degree);
        }
        assert_int_equal(
            work_piece_read(fixture->work, shard_merge_piece(s), &info, sizeof(info), NULL, &err),
            STATUS_OK);
        assert_memory_equal(&info, &wanted, sizeof(info));
    }
}

/* ---- merges ---- */

static void merge_of_one_shard_is_the_identity(void **state)
{
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(700, 1);
    size_t before_bytes;
    size_t after_bytes;
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    shard_fixture_merges(fixture);
    uint8_t *before = shard_fixture_section(fixture, shard_graph_piece(0), "own", 0, &before_bytes);
    uint8_t *after = shard_fixture_section(fixture, shard_merge_piece(0), "lists", 0, &after_bytes);
    assert_int_equal(before_bytes, after_bytes);
    assert_memory_equal(before, after, before_bytes);
    free(before);
    free(after);
}

static void merge_equals_a_plain_one(void **state)
{
    static const struct {
        uint32_t shards, degree;
        enum metric metric;
        bool strewn;
    } cases[] = {
        {2, 12, METRIC_L2, false}, {3, 6, METRIC_COSINE, true}, {5, 16, METRIC_L2, false},
        {4, 24, METRIC_IP, true},  {8, 4, METRIC_L2, true},
    };
    struct shard_fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct shard_spec spec = shard_fixture_spec(900, cases[i].shards);
        struct merged merged;
        uint32_t pruned = 0;
        uint32_t single = 0;
        spec.degree = cases[i].degree;
        spec.vectors.metric = cases[i].metric;
        spec.strewn = cases[i].strewn;
        shard_fixture_create(fixture, &spec);
        shard_fixture_graphs(fixture, NULL);
        shard_fixture_merges(fixture);
        struct row_lists *all = lists_parse(fixture);
        struct list *wanted = naive_lists(fixture, all);
        merged_load(fixture, &merged);
        for (uint32_t p = 0; p < merged.graph.count; p++) {
            assert_int_equal(graph_degree(&merged.graph, p), wanted[p].degree);
            assert_int_equal(merged.kept[p], wanted[p].kept);
            assert_memory_equal(graph_neighbors(&merged.graph, p), wanted[p].ids,
                                wanted[p].degree * sizeof(uint32_t));
            pruned += all[p].count > 1;
            single += all[p].count == 1;
        }
        assert_true(pruned > 50 && single > 50);
        merged_check(fixture, all, &merged);
        infos_check(fixture, all, &merged);
        merged_destroy(&merged);
        free(wanted);
        free(all);
    }
}

/* A row of another shard is in a list, or the shards would be islands but for the stitches. */
static void merge_joins_what_shards_found(void **state)
{
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(1000, 4);
    struct merged merged;
    uint32_t from_others = 0;
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    shard_fixture_merges(fixture);
    struct row_lists *all = lists_parse(fixture);
    merged_load(fixture, &merged);
    for (uint32_t p = 0; p < merged.graph.count; p++)
        for (uint32_t i = 0; i < graph_degree(&merged.graph, p); i++) {
            uint32_t id = graph_neighbors(&merged.graph, p)[i];
            bool found = false;
            bool own_found = list_has(&all[p].lists[0], id);
            for (uint32_t l = 0; l < all[p].count; l++)
                found = found || list_has(&all[p].lists[l], id);
            from_others += found && !own_found;
        }
    assert_true(from_others > 200);
    merged_destroy(&merged);
    free(all);
}

static void merge_expect_sound(struct shard_fixture *fixture, const struct shard_spec *spec)
{
    struct merged merged;
    shard_fixture_create(fixture, spec);
    shard_fixture_graphs(fixture, NULL);
    shard_fixture_merges(fixture);
    struct row_lists *all = lists_parse(fixture);
    merged_load(fixture, &merged);
    merged_check(fixture, all, &merged);
    merged_destroy(&merged);
    free(all);
}

/* Copies of one row, strewn over all shards: no distance tells anything from anything. */
static void merge_of_equal_rows_is_reachable(void **state)
{
    struct shard_fixture *fixture = *state;
    for (uint32_t shards = 1; shards <= 9; shards += 4) {
        struct shard_spec spec = shard_fixture_spec(400, shards);
        spec.equal = true;
        spec.strewn = true;
        spec.degree = 5;
        merge_expect_sound(fixture, &spec);
    }
}

/* Byte vectors: ties everywhere, and distances of integers. Nothing borrowed: stitches alone. */
static void merge_is_reachable_whatever_is_borrowed(void **state)
{
    static const double closures[] = {0.0, 1.05, 10.0};
    struct shard_fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(closures); i++) {
        struct shard_spec spec = shard_fixture_spec(800, 6);
        spec.vectors.type = ELEMENT_U8;
        spec.vectors.dim = 4;
        spec.closure = closures[i];
        spec.degree = 8;
        merge_expect_sound(fixture, &spec);
    }
}

static void merge_is_the_same_at_any_thread_count(void **state)
{
    enum { SHARDS = 3 };
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(900, SHARDS);
    uint8_t *first[SHARDS];
    size_t first_bytes[SHARDS];
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    omp_set_num_threads(1);
    shard_fixture_merges(fixture);
    for (uint32_t s = 0; s < SHARDS; s++)
        first[s] =
            shard_fixture_section(fixture, shard_merge_piece(s), "lists", 0, &first_bytes[s]);
    omp_set_num_threads(3);
    shard_fixture_merges(fixture);
    for (uint32_t s = 0; s < SHARDS; s++) {
        size_t bytes;
        uint8_t *data = shard_fixture_section(fixture, shard_merge_piece(s), "lists", 0, &bytes);
        assert_int_equal(bytes, first_bytes[s]);
        assert_memory_equal(data, first[s], bytes);
        free(data);
        free(first[s]);
    }
}

/* More rows than go through at a time. */
static void merge_of_several_batches_has_all_rows(void **state)
{
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(11000, 2);
    struct merged merged;
    spec.vectors.dim = 4;
    spec.degree = 6;
    spec.closure = 1.1;
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    shard_fixture_merges(fixture);
    struct row_lists *all = lists_parse(fixture);
    merged_load(fixture, &merged);
    assert_true(shard_own_count(&fixture->plan, 0) > 4096 ||
                shard_own_count(&fixture->plan, 1) > 4096);
    merged_check(fixture, all, &merged);
    infos_check(fixture, all, &merged);
    merged_destroy(&merged);
    free(all);
}

static void a_wish_to_stop_leaves_no_merge_piece(void **state)
{
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(300, 2);
    atomic_int cancel = 1;
    struct build_stage_record cost = {0};
    struct error err;
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    fixture->monitor.cancel = &cancel;
    assert_int_equal(merge_run(&fixture->plan, 0, &fixture->merge, &fixture->monitor, &cost, &err),
                     STATUS_CANCELLED);
    assert_false(work_piece_done(fixture->work, shard_merge_piece(0)));
}

static void merge_wants_the_graphs_of_all_shards(void **state)
{
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(300, 3);
    struct build_stage_record cost = {0};
    struct error err;
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    work_piece_forget(fixture->work, shard_graph_piece(2));
    assert_int_equal(merge_run(&fixture->plan, 0, &fixture->merge, &fixture->monitor, &cost, &err),
                     STATUS_NOT_FOUND);
    assert_false(work_piece_done(fixture->work, shard_merge_piece(0)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SHARD_TEST(merge_of_one_shard_is_the_identity),
        SHARD_TEST(merge_equals_a_plain_one),
        SHARD_TEST(merge_joins_what_shards_found),
        SHARD_TEST(merge_of_equal_rows_is_reachable),
        SHARD_TEST(merge_is_reachable_whatever_is_borrowed),
        SHARD_TEST(merge_is_the_same_at_any_thread_count),
        SHARD_TEST(merge_of_several_batches_has_all_rows),
        SHARD_TEST(a_wish_to_stop_leaves_no_merge_piece),
        SHARD_TEST(merge_wants_the_graphs_of_all_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
