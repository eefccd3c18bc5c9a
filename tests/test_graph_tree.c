/*
 * test_vamana_tree.c - the spanning tree of a shard's own nodes: what it promises for any graph,
 * whom it adopts and by whom, and that it changes nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "builder/graph_internal.h"
#include "common/memory.h"
#include "common/random.h"
#include "tests/vector_fixture.h"

/* A graph by hand over vectors of a line, its tree, and the graph as it was before. */
struct tree_case {
    struct vector_set set;
    struct graph_params params;
    struct graph_result result;
    struct graph before;
};

static void tree_case_init(struct tree_case *c, uint32_t count, uint32_t own_count, uint32_t degree)
{
    struct error err;
    void *kept;
    *c = (struct tree_case){
        .params = {.degree = degree, .build_list = 8, .alpha = 1.2f, .own_count = own_count}};
    vector_fixture_line(count, &c->set);
    assert_int_equal(graph_create(&c->result.graph, count, degree, &err), STATUS_OK);
    assert_int_equal(graph_create(&c->before, count, degree, &err), STATUS_OK);
    assert_int_equal(bulk_alloc(count, sizeof(uint8_t), "tree edges", &kept, &err), STATUS_OK);
    c->result.kept = kept;
}

static void tree_case_fini(struct tree_case *c)
{
    graph_result_destroy(&c->result);
    graph_destroy(&c->before);
    vector_set_destroy(&c->set);
}

/* Row `row` of the line moves to `value`. */
static void row_move(struct tree_case *c, uint32_t row, float value)
{
    memcpy(vector_fixture_slot(&c->set, row), &value, sizeof(value));
}

static bool list_has(const struct graph *graph, uint32_t node, uint32_t id)
{
    for (uint32_t i = 0; i < graph_degree(graph, node); i++)
        if (graph_neighbors(graph, node)[i] == id)
            return true;
    return false;
}

static void edge_add(struct tree_case *c, uint32_t from, uint32_t to)
{
    struct graph *graph = &c->result.graph;
    uint32_t degree = graph_degree(graph, from);
    if (from == to || list_has(graph, from, to))
        return;
    assert_in_range(degree, 0, c->params.degree - 1);
    graph_neighbors(graph, from)[degree] = to;
    graph_set_degree(graph, from, degree + 1);
}

/* Fills lists with random edges up to their limit, of nodes [first, end) to nodes [low, high). */
static void edges_draw(struct tree_case *c, uint64_t seed, const uint32_t from[2],
                       const uint32_t to[2])
{
    for (uint32_t node = from[0]; node < from[1]; node++)
        for (uint32_t i = 0; i < 3 * c->params.degree; i++)
            if (graph_degree(&c->result.graph, node) < c->params.degree)
                edge_add(c, node,
                         to[0] + (uint32_t)random_below(seed, node * 1000ull + i, to[1] - to[0]));
}

static uint32_t own_count_of(const struct tree_case *c)
{
    return c->params.own_count != 0 ? c->params.own_count : c->set.count;
}

/* Each own node but the root has one tree edge to it; over these alone the root reaches them all.
 */
static void tree_check(const struct tree_case *c)
{
    const struct graph *graph = &c->result.graph;
    uint32_t own_count = own_count_of(c);
    uint8_t *reached = calloc(c->set.count, 1);
    uint32_t *queue = calloc(c->set.count, sizeof(*queue));
    uint32_t end = 1;
    assert_non_null(reached);
    assert_non_null(queue);
    assert_in_range(c->result.root, 0, own_count - 1);
    queue[0] = c->result.root;
    reached[c->result.root] = 1;
    for (uint32_t next = 0; next < end; next++) {
        uint32_t node = queue[next];
        assert_in_range(c->result.kept[node], 0, c->params.degree - 1);
        assert_in_range(c->result.kept[node], 0, graph_degree(graph, node));
        for (uint32_t i = 0; i < c->result.kept[node]; i++) {
            uint32_t id = graph_neighbors(graph, node)[i];
            assert_in_range(id, 0, own_count - 1);
            assert_int_equal(reached[id]++, 0);
            queue[end++] = id;
        }
    }
    assert_int_equal(end, own_count);
    for (uint32_t node = own_count; node < c->set.count; node++)
        assert_int_equal(c->result.kept[node], 0);
    free(reached);
    free(queue);
}

/* What is behind the tree edges was in the list before, in the same order. */
static void rest_check(const struct tree_case *c)
{
    for (uint32_t node = 0; node < c->set.count; node++) {
        const uint32_t *ids = graph_neighbors(&c->result.graph, node);
        const uint32_t *old = graph_neighbors(&c->before, node);
        uint32_t old_degree = graph_degree(&c->before, node);
        uint32_t at = 0;
        for (uint32_t i = c->result.kept[node]; i < graph_degree(&c->result.graph, node); i++) {
            while (at < old_degree && old[at] != ids[i])
                at++;
            assert_in_range(at++, 0, old_degree - 1);
        }
    }
}

/* Edges that were not there before; each is a tree edge. */
static uint64_t new_edges(const struct tree_case *c)
{
    uint64_t count = 0;
    for (uint32_t node = 0; node < c->set.count; node++)
        for (uint32_t i = 0; i < c->result.kept[node]; i++)
            count += !list_has(&c->before, node, graph_neighbors(&c->result.graph, node)[i]);
    return count;
}

/* Edges that are gone: only from lists that were full, for a new one each. */
static uint64_t lost_edges(const struct tree_case *c)
{
    uint64_t count = 0;
    for (uint32_t node = 0; node < c->set.count; node++) {
        uint32_t old_degree = graph_degree(&c->before, node);
        uint64_t lost = 0;
        for (uint32_t i = 0; i < old_degree; i++)
            lost += !list_has(&c->result.graph, node, graph_neighbors(&c->before, node)[i]);
        if (lost > 0)
            assert_int_equal(graph_degree(&c->result.graph, node), c->params.degree);
        assert_in_range(graph_degree(&c->result.graph, node), old_degree, c->params.degree);
        count += lost;
    }
    return count;
}

/* Makes the tree, checks all it promises, and returns how many nodes were adopted. */
static uint64_t tree_make(struct tree_case *c, uint32_t entry)
{
    struct error err = {0};
    memcpy(c->before.slots, c->result.graph.slots,
           (size_t)c->before.count * c->before.stride * sizeof(uint32_t));
    c->result.entry = entry;
    if (graph_tree(&c->set, &c->params, entry, &c->result, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    if (graph_check(&c->result.graph, c->params.degree, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    tree_check(c);
    rest_check(c);
    assert_int_equal(new_edges(c), c->result.repaired_nodes);
    uint64_t lost = lost_edges(c);
    assert_in_range(lost, 0, c->result.repaired_nodes);
    return c->result.repaired_nodes;
}

/* ---- connected graphs ---- */

static void tree_of_a_connected_graph_only_moves_edges(void **state)
{
    (void)state;
    enum { COUNT = 300, R = 6 };
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct tree_case c;
        tree_case_init(&c, COUNT, 0, R);
        for (uint32_t node = 0; node < COUNT; node++)
            edge_add(&c, node, (node + 1) % COUNT);
        edges_draw(&c, seed, (uint32_t[]){0, COUNT}, (uint32_t[]){0, COUNT});
        uint32_t entry = (uint32_t)seed * 7 % COUNT;
        assert_int_equal(tree_make(&c, entry), 0);
        assert_int_equal(c.result.root, entry);
        for (uint32_t node = 0; node < COUNT; node++)
            assert_int_equal(graph_degree(&c.result.graph, node), graph_degree(&c.before, node));
        tree_case_fini(&c);
    }
}

/* Depth first: the tree is long and thin, so that few lists have many edges that must stay. */
static void most_nodes_keep_one_edge_or_none(void **state)
{
    (void)state;
    struct vector_fixture fixture = {.count = 2000,
                                     .dim = 16,
                                     .clusters = 12,
                                     .type = ELEMENT_F32,
                                     .metric = METRIC_L2,
                                     .seed = 4};
    struct graph_params params = {.degree = 16, .build_list = 30, .alpha = 1.2f, .seed = 1};
    struct graph_result built;
    struct vector_set set;
    struct error err;
    uint32_t few = 0;
    vector_fixture_create(&fixture, &set);
    assert_int_equal(graph_build(&set, &params, &built, &err), STATUS_OK);
    for (uint32_t node = 0; node < set.count; node++)
        few += built.kept[node] <= 1;
    assert_in_range(few, set.count * 8 / 10, set.count);
    graph_result_destroy(&built);
    vector_set_destroy(&set);
}

static void single_nodes_and_pairs_have_a_tree(void **state)
{
    (void)state;
    for (uint32_t count = 1; count <= 6; count++)
        for (uint32_t own = 1; own <= count; own++)
            for (uint32_t entry = 0; entry < count; entry++) {
                struct tree_case c;
                tree_case_init(&c, count, own, 4);
                assert_int_equal(tree_make(&c, entry), own - 1);
                tree_case_fini(&c);
            }
}

/* ---- adoption ---- */

/* Rings of ten on a line; `chords` more edges a node within its ring. */
static void islands_are_joined_by_one_edge_each(void **state)
{
    (void)state;
    enum { RINGS = 20, RING = 10, COUNT = RINGS * RING };
    for (uint32_t chords = 0; chords < 4; chords++) {
        struct tree_case c;
        tree_case_init(&c, COUNT, 0, MAX(4u, chords + 1));
        for (uint32_t node = 0; node < COUNT; node++)
            for (uint32_t step = 1; step <= chords + 1; step++)
                edge_add(&c, node, node / RING * RING + (node + step) % RING);
        assert_int_equal(tree_make(&c, 55), RINGS - 1);
        tree_case_fini(&c);
    }
}

/* The line is a path but for a node in its middle, which is to hang on one of its two sides. */
static void orphan_goes_to_the_nearest_node_with_a_place(void **state)
{
    (void)state;
    enum { COUNT = 41, ORPHAN = 20, R = 4 };
    struct tree_case c;
    tree_case_init(&c, COUNT, 0, R);
    row_move(&c, ORPHAN, 20.25f); /* 21 is nearest, then 19, 22 */
    for (uint32_t node = 0; node + 1 < COUNT; node++)
        if (node != ORPHAN)
            edge_add(&c, node, node + 1 == ORPHAN ? ORPHAN + 1 : node + 1);
    assert_int_equal(tree_make(&c, 0), 1);
    assert_int_equal(c.result.kept[ORPHAN + 1], 2);
    assert_true(list_has(&c.result.graph, ORPHAN + 1, ORPHAN));
    tree_case_fini(&c);

    /* Node 21 has no place: two leaves beside the path. */
    tree_case_init(&c, COUNT + 2, 0, R);
    row_move(&c, ORPHAN, 20.25f);
    row_move(&c, COUNT, 1e6f);
    row_move(&c, COUNT + 1, 2e6f);
    for (uint32_t node = 0; node + 1 < COUNT; node++)
        if (node != ORPHAN)
            edge_add(&c, node, node + 1 == ORPHAN ? ORPHAN + 1 : node + 1);
    edge_add(&c, ORPHAN + 1, COUNT);
    edge_add(&c, ORPHAN + 1, COUNT + 1);
    assert_int_equal(tree_make(&c, 0), 1);
    assert_int_equal(c.result.kept[ORPHAN + 1], R - 1);
    assert_true(list_has(&c.result.graph, ORPHAN - 1, ORPHAN));
    tree_case_fini(&c);
}

/* A host whose list is full gives up its farthest edge that is not of the tree. */
static void adoption_takes_the_place_of_the_farthest_other_edge(void **state)
{
    (void)state;
    enum { R = 4 };
    static const uint32_t wanted[R] = {5, 1, 2, 3};
    struct tree_case c;
    tree_case_init(&c, 6, 0, R);
    /* 0 -> 1 -> 2 -> 3 -> 4 is the tree; 0 lists all, 5 is nearest to 0. */
    row_move(&c, 5, -1.0f);
    for (uint32_t node = 0; node < 4; node++)
        edge_add(&c, node, node + 1);
    for (uint32_t id = 2; id <= 4; id++)
        edge_add(&c, 0, id);
    assert_int_equal(tree_make(&c, 0), 1);
    assert_int_equal(c.result.kept[0], 2);
    assert_int_equal(graph_degree(&c.result.graph, 0), R);
    for (uint32_t i = 0; i < R; i++)
        assert_true(list_has(&c.result.graph, 0, wanted[i]));
    tree_case_fini(&c);
}

/* The root points to R nodes: it keeps R - 1 of them, and another gets the last. */
static void no_node_keeps_all_of_its_places(void **state)
{
    (void)state;
    enum { R = 5 };
    struct tree_case c;
    tree_case_init(&c, R + 1, 0, R);
    for (uint32_t leaf = 1; leaf <= R; leaf++)
        edge_add(&c, 0, leaf);
    assert_int_equal(tree_make(&c, 0), 1);
    assert_int_equal(c.result.kept[0], R - 1);
    assert_int_equal(graph_degree(&c.result.graph, 0), R); /* the edge stays, if not in the tree */
    assert_int_equal(c.result.kept[R - 1], 1);
    assert_int_equal(graph_neighbors(&c.result.graph, R - 1)[0], R);
    tree_case_fini(&c);
}

/* A tree in which every inner node is full of tree edges, and rows nothing points to. With a list
 * of one, the search for them (the tree's root is the nearest row of all) meets no room. */
static void adoption_goes_round_nodes_without_a_place(void **state)
{
    (void)state;
    enum { R = 4, FAN = R - 1, TREE = 1 + 3 + 9 + 27, LOOSE = 60, COUNT = TREE + LOOSE };
    for (int full_leaves = 0; full_leaves < 2; full_leaves++) {
        struct tree_case c;
        tree_case_init(&c, COUNT, 0, R);
        c.params.build_list = 1;
        for (uint32_t node = 1; node < TREE; node++)
            edge_add(&c, (node - 1) / FAN, node);
        for (uint32_t leaf = 13; full_leaves && leaf < TREE; leaf++)
            for (uint32_t i = 0; i < R; i++)
                edge_add(&c, leaf, i);
        for (uint32_t row = TREE; row < COUNT; row++)
            row_move(&c, row, -1.0f); /* nearer the root, 0, than anything else in the tree */
        assert_int_equal(tree_make(&c, 0), LOOSE);
        tree_case_fini(&c);
    }
}

static void all_equal_rows_hang_together(void **state)
{
    (void)state;
    enum { COUNT = 500 };
    for (uint32_t degree = 4; degree <= 255; degree += 251)
        for (int edges = 0; edges < 2; edges++) {
            struct tree_case c;
            tree_case_init(&c, COUNT, 0, degree);
            memset(c.set.rows, 0, (size_t)COUNT * c.set.stride_bytes);
            /* Lists full of a few nodes, as a prune that keeps the lowest copies leaves them. */
            for (uint32_t node = 0; edges && node < COUNT; node++)
                for (uint32_t id = 0; id < degree; id++)
                    edge_add(&c, node, id);
            uint64_t adopted = tree_make(&c, 9);
            assert_in_range(adopted, edges ? COUNT - degree - 1 : COUNT - 1, COUNT - 1);
            tree_case_fini(&c);
        }
}

/* ---- borrowed nodes ---- */

/* A path that goes back and forth between own and borrowed nodes: no own node points to another. */
static void way_through_borrowed_nodes_does_not_count(void **state)
{
    (void)state;
    enum { OWN = 50, COUNT = 2 * OWN };
    struct tree_case c;
    tree_case_init(&c, COUNT, OWN, 4);
    for (uint32_t node = 0; node < OWN; node++) {
        edge_add(&c, node, OWN + node);
        edge_add(&c, OWN + node, (node + 1) % OWN);
    }
    assert_int_equal(tree_make(&c, 0), OWN - 1);
    for (uint32_t node = OWN; node < COUNT; node++)
        assert_memory_equal(graph_neighbors(&c.result.graph, node),
                            graph_neighbors(&c.before, node), sizeof(uint32_t));
    tree_case_fini(&c);
}

static void borrowed_nodes_lists_stay_as_they_are(void **state)
{
    (void)state;
    enum { OWN = 120, COUNT = 300, R = 8 };
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct tree_case c;
        tree_case_init(&c, COUNT, OWN, R);
        edges_draw(&c, seed, (uint32_t[]){0, COUNT}, (uint32_t[]){0, COUNT});
        tree_make(&c, (uint32_t)seed * 31 % COUNT);
        assert_memory_equal(c.result.graph.slots + (size_t)OWN * (R + 1),
                            c.before.slots + (size_t)OWN * (R + 1),
                            (size_t)(COUNT - OWN) * (R + 1) * sizeof(uint32_t));
        tree_case_fini(&c);
    }
}

/* However near it is, a borrowed node is no host. */
static void borrowed_nodes_adopt_nobody(void **state)
{
    (void)state;
    enum { OWN = 30, ORPHAN = OWN - 1, BORROWED = OWN };
    struct tree_case c;
    tree_case_init(&c, OWN + 1, OWN, 4);
    for (uint32_t node = 0; node + 1 < ORPHAN; node++)
        edge_add(&c, node, node + 1);
    edge_add(&c, ORPHAN - 1, BORROWED);
    row_move(&c, BORROWED, (float)ORPHAN);
    assert_int_equal(tree_make(&c, 0), 1);
    assert_true(list_has(&c.result.graph, ORPHAN - 1, ORPHAN));
    tree_case_fini(&c);
}

static void root_is_the_entry_or_the_own_node_nearest_it(void **state)
{
    (void)state;
    enum { OWN = 20, COUNT = 50 };
    struct tree_case c;
    for (uint32_t entry = 0; entry < COUNT; entry += 7) {
        tree_case_init(&c, COUNT, OWN, 4);
        tree_make(&c, entry);
        assert_int_equal(c.result.root, MIN(entry, OWN - 1u));
        tree_case_fini(&c);
    }
    /* Two own nodes at equal distance: the lower one. */
    tree_case_init(&c, COUNT, OWN, 4);
    row_move(&c, 30, 7.5f);
    tree_make(&c, 30);
    assert_int_equal(c.result.root, 7);
    tree_case_fini(&c);
}

/* ---- any graph ---- */

static void tree_holds_for_sparse_random_graphs(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        uint32_t count = 1 + (uint32_t)random_below(seed, 0, 150);
        uint32_t own = 1 + (uint32_t)random_below(seed, 1, count);
        uint32_t degree = 4 + (uint32_t)random_below(seed, 2, 8);
        uint64_t edges = random_below(seed, 3, 2ull * count + 1);
        struct tree_case c;
        tree_case_init(&c, count, own, degree);
        c.params.build_list = 1 + (uint32_t)random_below(seed, 4, 20);
        for (uint64_t i = 0; i < edges; i++) {
            uint32_t from = (uint32_t)random_below(seed + 1000, 2 * i, count);
            if (graph_degree(&c.result.graph, from) < degree)
                edge_add(&c, from, (uint32_t)random_below(seed + 1000, 2 * i + 1, count));
        }
        for (uint32_t row = 0; row < count; row++) /* some at one place */
            row_move(&c, row, (float)random_below(seed + 2000, row, count));
        tree_make(&c, (uint32_t)random_below(seed, 5, count));
        tree_case_fini(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tree_of_a_connected_graph_only_moves_edges),
        cmocka_unit_test(most_nodes_keep_one_edge_or_none),
        cmocka_unit_test(single_nodes_and_pairs_have_a_tree),
        cmocka_unit_test(islands_are_joined_by_one_edge_each),
        cmocka_unit_test(orphan_goes_to_the_nearest_node_with_a_place),
        cmocka_unit_test(adoption_takes_the_place_of_the_farthest_other_edge),
        cmocka_unit_test(no_node_keeps_all_of_its_places),
        cmocka_unit_test(adoption_goes_round_nodes_without_a_place),
        cmocka_unit_test(all_equal_rows_hang_together),
        cmocka_unit_test(way_through_borrowed_nodes_does_not_count),
        cmocka_unit_test(borrowed_nodes_lists_stay_as_they_are),
        cmocka_unit_test(borrowed_nodes_adopt_nobody),
        cmocka_unit_test(root_is_the_entry_or_the_own_node_nearest_it),
        cmocka_unit_test(tree_holds_for_sparse_random_graphs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
