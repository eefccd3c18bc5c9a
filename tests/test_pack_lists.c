/*
 * test_pack_lists.c - trimming: what goes and what never does; and that pack_lists_check() sees
 * what it should.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "builder/pack_internal.h"
#include "common/random.h"
#include "tests/pack_fixture.h"

enum { SPAN = 60 };

/* ---- trimming ---- */

/* A capacity whose lists overflow by a quarter or so. */
static void lists_that_overflow_are_trimmed_and_blocks_stay_reachable(void **state)
{
    (void)state;
    static const struct {
        uint8_t adjacency;
        uint32_t capacity;
    } cases[] = {{BLOCK_ADJACENCY_PLAIN, 22},
                 {BLOCK_ADJACENCY_PLAIN, 24},
                 {BLOCK_ADJACENCY_GAPS, 28},
                 {BLOCK_ADJACENCY_GAPS, 29}};
    struct graph graph;
    pack_fixture_graph(2000, 30, SPAN, 6, &graph);
    uint8_t *kept = pack_fixture_ring(graph.count);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct pack_params params = {.dim_bytes = 128 - 10,
                                     .block_bytes = 4096,
                                     .adjacency = cases[i].adjacency,
                                     .nodes_per_block = cases[i].capacity};
        struct packed packed;
        packed_create(&graph, kept, &params, &packed);
        assert_int_equal(packed.geometry.nodes_per_block, cases[i].capacity);
        assert_in_range(packed.lists.trimmed, 1, 50000);
        assert_int_equal(packed_reached(&packed, 1999), packed.order.block_count);
        pack_fixture_encode(&packed.lists);
        packed_destroy(&packed);
    }
    free(kept);
    graph_destroy(&graph);
}

/* Each row's edge to the next is the only way forward: all others lead back. */
static void trimming_spares_the_only_way_to_a_block(void **state)
{
    (void)state;
    enum { CAPACITY = 16, COUNT = 640, DEGREE = 60 };
    struct graph graph;
    struct error err;
    struct packed packed;
    assert_int_equal(graph_create(&graph, COUNT, DEGREE, &err), STATUS_OK);
    for (uint32_t row = 0; row < COUNT; row++) {
        pack_fixture_edge(&graph, row, row + 1 < COUNT ? row + 1 : 0);
        for (uint32_t i = 0; row > 0 && i < DEGREE; i++)
            pack_fixture_edge(&graph, row, (uint32_t)random_below(row, i, row));
    }
    uint8_t *kept = pack_fixture_ring(COUNT);
    struct pack_params params = {.dim_bytes = 180,
                                 .block_bytes = 4096,
                                 .adjacency = BLOCK_ADJACENCY_PLAIN,
                                 .nodes_per_block = CAPACITY};
    packed_create(&graph, kept, &params, &packed);
    assert_int_equal(packed.geometry.nodes_per_block, CAPACITY);
    assert_in_range(packed.lists.trimmed, 1000, COUNT * DEGREE);
    assert_int_equal(packed_reached(&packed, packed.order.node_of_row[0]),
                     packed.order.block_count);
    packed_destroy(&packed);
    free(kept);
    graph_destroy(&graph);
}

/* Lists of the rows of one block by hand: the ids are of other blocks. */
struct hand {
    struct block_geometry geometry;
    struct pack_lists lists;
};

enum { HAND_ROWS = 2, HAND_DEGREE = 8 };

/* `room` ids fit the block. */
static void hand_make(struct hand *hand, const uint32_t ids[HAND_ROWS][HAND_DEGREE],
                      const uint32_t kept[HAND_ROWS], int64_t room)
{
    uint32_t nodes[HAND_ROWS] = {0, 1};
    struct pack_order order = {.row_count = HAND_ROWS,
                               .block_count = 1,
                               .nodes_per_block = HAND_ROWS,
                               .node_of_row = nodes};
    struct error err;
    hand->geometry = (struct block_geometry){.block_bytes = 4096,
                                             .nodes_per_block = HAND_ROWS,
                                             .node_limit = 1000,
                                             .vector_bytes = 1900,
                                             .adjacency = BLOCK_ADJACENCY_PLAIN,
                                             .gap_width = {8, 16, 24, 32}};
    while (block_list_budget(&hand->geometry, HAND_ROWS) / (int64_t)sizeof(uint32_t) > room)
        hand->geometry.vector_bytes++;
    assert_int_equal(block_list_budget(&hand->geometry, HAND_ROWS) / (int64_t)sizeof(uint32_t),
                     room);
    assert_int_equal(pack_lists_create(&hand->geometry, 0, &order, HAND_DEGREE, &hand->lists, &err),
                     STATUS_OK);
    for (uint32_t row = 0; row < HAND_ROWS; row++)
        pack_lists_put(&hand->lists, row, ids[row], HAND_DEGREE, kept[row]);
    assert_int_equal(pack_lists_trim(&hand->lists, &err), STATUS_OK);
}

/* Whoever reads a node has read its block-mates; edges to them take no room, kept or not. */
static void block_mates_fall_out_of_lists(void **state)
{
    (void)state;
    static const uint32_t ids[HAND_ROWS][HAND_DEGREE] = {{100, 1, 102, 103, 104, 105, 106, 107},
                                                         {0, 201, 202, 203, 204, 205, 206, 207}};
    static const uint32_t kept[HAND_ROWS] = {3, 0};
    struct hand hand;
    hand_make(&hand, ids, kept, HAND_ROWS * (HAND_DEGREE - 1));
    assert_int_equal(hand.lists.outside, HAND_ROWS * (HAND_DEGREE - 1));
    assert_int_equal(hand.lists.trimmed, 0);
    assert_int_equal(hand.lists.kept[0], 2);
    assert_int_equal(hand.lists.kept[1], 0);
    assert_memory_equal(graph_neighbors(&hand.lists.graph, 1), ids[1] + 1,
                        (HAND_DEGREE - 1) * sizeof(uint32_t));
    pack_lists_destroy(&hand.lists);
}

/* 500 is in both lists: a kept edge of row 1, but nearer to row 0. One of the two goes before all
 * else; the one left must stay, and so must the other kept edges, down to where they do not fit. */
static void trimming_takes_shared_edges_then_the_farthest_and_never_a_kept_one(void **state)
{
    (void)state;
    static const uint32_t ids[HAND_ROWS][HAND_DEGREE] = {{100, 101, 102, 500, 104, 105, 106, 107},
                                                         {200, 201, 202, 203, 204, 500, 206, 207}};
    static const uint32_t kept[HAND_ROWS] = {2, 6};
    static const uint32_t going[] = {107, 207, 106, 206, 105, 104, 102};
    enum { ALL = HAND_ROWS * HAND_DEGREE, SHARED = 1, MUST_STAY = 2 + 6 };
    struct hand hand;
    for (int64_t room = ALL; room >= MUST_STAY; room--) {
        hand_make(&hand, ids, kept, room);
        const struct graph *graph = &hand.lists.graph;
        assert_int_equal(hand.lists.outside, ALL);
        assert_int_equal(hand.lists.trimmed, ALL - room);
        assert_true(pack_fixture_listed(graph, 0, 500));
        assert_true(pack_fixture_listed(graph, 1, 500) == (room == ALL));
        for (int64_t i = 0; i < (int64_t)ARRAY_LENGTH(going); i++) {
            bool there =
                pack_fixture_listed(graph, 0, going[i]) || pack_fixture_listed(graph, 1, going[i]);
            assert_true(there == (i >= ALL - SHARED - room));
        }
        for (uint32_t row = 0; row < HAND_ROWS; row++)
            for (uint32_t i = 0; i < kept[row]; i++)
                assert_true(pack_fixture_listed(graph, row, ids[row][i]) || ids[row][i] == 500);
        pack_lists_destroy(&hand.lists);
    }
    hand_make(&hand, ids, kept, MUST_STAY - 1);
    assert_true(hand.lists.trimmed == PACK_TRIM_IMPOSSIBLE);
    pack_lists_destroy(&hand.lists);
    pack_lists_destroy(&hand.lists);
}

/* ---- the check ---- */

/* Ways to break lists. */
enum damage {
    DAMAGE_NONE,
    DAMAGE_GEOMETRY,
    DAMAGE_BLOCKS,
    DAMAGE_FIRST,
    DAMAGE_LIMIT,
    DAMAGE_ROW_TWICE,
    DAMAGE_ROW_LOST,
    DAMAGE_HOLE,
    DAMAGE_EMPTY,
    DAMAGE_ORDER,
    DAMAGE_REPEAT,
    DAMAGE_BLOCK_MATE,
    DAMAGE_RANGE,
    DAMAGE_EDGE_MADE_UP,
    DAMAGE_EDGE_LOST,
    DAMAGE_KEPT_LOST,
    DAMAGE_LIST_OF_NONE,
    DAMAGE_OVERFLOW,
    DAMAGE_COUNT,
};

static const char *const damage_texts[DAMAGE_COUNT] = {
    [DAMAGE_GEOMETRY] = "block_bytes",
    [DAMAGE_BLOCKS] = "13 blocks of 17",
    [DAMAGE_FIRST] = "nodes 1 to",
    [DAMAGE_LIMIT] = "node_limit",
    [DAMAGE_ROW_TWICE] = "which is not it",
    [DAMAGE_ROW_LOST] = "202 records of 203",
    [DAMAGE_HOLE] = "hole before",
    [DAMAGE_EMPTY] = "block 12 is empty",
    [DAMAGE_ORDER] = "after",
    [DAMAGE_REPEAT] = "after",
    [DAMAGE_BLOCK_MATE] = "lists block-mate",
    [DAMAGE_RANGE] = "no record",
    [DAMAGE_EDGE_MADE_UP] = "are its edges",
    [DAMAGE_EDGE_LOST] = "edges between blocks",
    [DAMAGE_KEPT_LOST] = "lost its way",
    [DAMAGE_LIST_OF_NONE] = "has a list, no record",
    [DAMAGE_OVERFLOW] = "lists of block",
};

/* The first node without a record. */
static uint32_t hole_find(const struct pack_lists *lists)
{
    uint32_t node = 0;
    while (lists->row_of_node[node] != UINT32_MAX)
        node++;
    return node;
}

/* The list of node 0 loses its first id and gets `id` in its place, still ascending. */
static void list_put(struct pack_lists *lists, uint32_t id)
{
    graph_neighbors(&lists->graph, 0)[0] = id;
    pack_ids_sort(graph_neighbors(&lists->graph, 0), graph_degree(&lists->graph, 0));
}

/* A node of another block that node 0 has no edge to. */
static uint32_t id_not_listed(const struct pack_lists *lists)
{
    uint32_t id = lists->geometry.nodes_per_block;
    while (pack_fixture_listed(&lists->graph, 0, id))
        id++;
    return id;
}

/* Takes every edge to `id` from the lists of a block, as if trimmed. */
static void block_forget(struct pack_lists *lists, uint32_t block, uint32_t id)
{
    uint32_t capacity = lists->geometry.nodes_per_block;
    for (uint32_t node = block * capacity; node < (block + 1) * capacity; node++) {
        uint32_t *ids = graph_neighbors(&lists->graph, node);
        uint32_t degree = graph_degree(&lists->graph, node);
        uint32_t left = 0;
        for (uint32_t i = 0; i < degree; i++)
            if (ids[i] != id)
                ids[left++] = ids[i];
        graph_set_degree(&lists->graph, node, left);
        lists->trimmed += degree - left;
    }
}

/* The first row whose kept edge leads to another block loses it. */
static void kept_lose(struct packed *packed)
{
    uint32_t capacity = packed->geometry.nodes_per_block;
    const uint32_t *nodes = packed->order.node_of_row;
    uint32_t row = 0;
    while (nodes[row] / capacity == nodes[graph_neighbors(packed->input.graph, row)[0]] / capacity)
        row++;
    block_forget(&packed->lists, nodes[row] / capacity,
                 nodes[graph_neighbors(packed->input.graph, row)[0]]);
}

static void numbering_damage(struct packed *packed, enum damage damage)
{
    struct pack_lists *lists = &packed->lists;
    uint32_t hole = hole_find(lists);
    if (damage == DAMAGE_GEOMETRY)
        lists->geometry.block_bytes++;
    if (damage == DAMAGE_BLOCKS)
        lists->block_count++;
    if (damage == DAMAGE_FIRST)
        lists->first_node = 1;
    if (damage == DAMAGE_LIMIT)
        lists->geometry.node_limit--;
    if (damage == DAMAGE_ROW_TWICE)
        lists->row_of_node[3] = lists->row_of_node[4];
    if (damage == DAMAGE_ROW_LOST)
        lists->row_of_node[hole - 1] = UINT32_MAX;
    if (damage == DAMAGE_HOLE) { /* the last record of the block goes one slot on */
        packed->order.node_of_row[lists->row_of_node[hole - 1]] = hole;
        lists->row_of_node[hole] = lists->row_of_node[hole - 1];
        lists->row_of_node[hole - 1] = UINT32_MAX;
    }
    if (damage == DAMAGE_EMPTY) {
        pack_lists_destroy(lists);
        packed->order.block_count++;
        packed->geometry.node_limit += packed->geometry.nodes_per_block;
        pack_fixture_lists(&packed->input, &packed->geometry, &packed->order,
                           packed->order.node_of_row, 0, lists);
    }
}

static void list_damage(struct packed *packed, enum damage damage)
{
    struct pack_lists *lists = &packed->lists;
    uint32_t *ids = graph_neighbors(&lists->graph, 0);
    if (damage == DAMAGE_ORDER) {
        uint32_t first = ids[0];
        ids[0] = ids[1];
        ids[1] = first;
    }
    if (damage == DAMAGE_REPEAT)
        ids[1] = ids[0];
    if (damage == DAMAGE_BLOCK_MATE)
        list_put(lists, 1);
    if (damage == DAMAGE_RANGE)
        list_put(lists, lists->geometry.node_limit);
    if (damage == DAMAGE_EDGE_MADE_UP)
        list_put(lists, id_not_listed(lists));
    if (damage == DAMAGE_EDGE_LOST)
        lists->trimmed++;
    if (damage == DAMAGE_KEPT_LOST)
        kept_lose(packed);
    if (damage == DAMAGE_LIST_OF_NONE)
        graph_set_degree(&lists->graph, hole_find(lists), 1);
    if (damage == DAMAGE_OVERFLOW)
        lists->geometry.vector_bytes = 200;
}

static void check_names_what_is_broken(void **state)
{
    (void)state;
    struct graph graph;
    pack_fixture_graph(203, 20, SPAN, 3, &graph);
    uint8_t *kept = pack_fixture_ring(graph.count);
    for (int damage = DAMAGE_NONE; damage < DAMAGE_COUNT; damage++) {
        struct pack_params params = {
            .dim_bytes = 120, .adjacency = BLOCK_ADJACENCY_PLAIN, .nodes_per_block = 17};
        struct packed packed;
        struct error err = {0};
        packed_create(&graph, kept, &params, &packed);
        uint32_t blocks = packed.lists.block_count;
        numbering_damage(&packed, (enum damage)damage);
        list_damage(&packed, (enum damage)damage);
        enum status status =
            pack_lists_check(&packed.input, packed.order.node_of_row, &packed.lists, &err);
        if (damage == DAMAGE_NONE)
            assert_int_equal(status, STATUS_OK);
        else if (status == STATUS_OK || !strstr(err.text, damage_texts[damage]))
            fail_msg("damage %d: \"%s\", wanted \"%s\"", damage, err.text, damage_texts[damage]);
        packed.lists.block_count = blocks;
        packed_destroy(&packed);
    }
    free(kept);
    graph_destroy(&graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_that_overflow_are_trimmed_and_blocks_stay_reachable),
        cmocka_unit_test(trimming_spares_the_only_way_to_a_block),
        cmocka_unit_test(block_mates_fall_out_of_lists),
        cmocka_unit_test(trimming_takes_shared_edges_then_the_farthest_and_never_a_kept_one),
        cmocka_unit_test(check_names_what_is_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
