/*
 * test_pack.c - numbering: the invariants of pack_lists_check() over many shapes, that blocks hold
 * neighbours, and shards that are ordered by another's choice. Trimming and the check itself are in
 * test_pack_lists.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/graph_build.h"
#include "builder/pack_internal.h"
#include "tests/pack_fixture.h"
#include "tests/vector_fixture.h"

enum { SPAN = 60 };

/* ---- shapes ---- */

static const uint8_t encodings[] = {BLOCK_ADJACENCY_PLAIN, BLOCK_ADJACENCY_GAPS};

static void packing_holds_its_invariants_over_vector_sizes(void **state)
{
    (void)state;
    static const uint32_t vector_bytes[] = {1, 128, 4000, 32768};
    static const uint32_t degrees[] = {3, 24, 96};
    for (size_t d = 0; d < ARRAY_LENGTH(degrees); d++) {
        struct graph graph;
        pack_fixture_graph(700, degrees[d], SPAN, d, &graph);
        for (size_t v = 0; v < ARRAY_LENGTH(vector_bytes); v++)
            for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
                struct pack_params params = {
                    .dim_bytes = vector_bytes[v], .adjacency = encodings[e], .generation_seed = 77};
                struct packed packed;
                packed_create(&graph, NULL, &params, &packed);
                assert_int_equal(packed.geometry.vector_bytes, vector_bytes[v]);
                assert_int_equal(packed.geometry.adjacency, encodings[e]);
                assert_int_equal(packed.geometry.generation_seed, 77);
                assert_true(packed.geometry.block_bytes < vector_bytes[v] + 2 * BLOCK_PAGE_BYTES);
                pack_fixture_encode(&packed.lists);
                packed_destroy(&packed);
            }
        graph_destroy(&graph);
    }
}

static void packing_takes_a_given_capacity_and_block_size(void **state)
{
    (void)state;
    static const uint32_t capacities[] = {1, 2, 7, 13};
    static const uint32_t block_bytes[] = {4096, 8192, 61440};
    struct graph graph;
    pack_fixture_graph(611, 16, SPAN, 4, &graph);
    for (size_t c = 0; c < ARRAY_LENGTH(capacities); c++)
        for (size_t b = 0; b < ARRAY_LENGTH(block_bytes); b++)
            for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
                struct pack_params params = {.dim_bytes = 128,
                                             .block_bytes = block_bytes[b],
                                             .adjacency = encodings[e],
                                             .nodes_per_block = capacities[c]};
                struct packed packed;
                packed_create(&graph, NULL, &params, &packed);
                assert_int_equal(packed.geometry.nodes_per_block, capacities[c]);
                assert_int_equal(packed.geometry.block_bytes, block_bytes[b]);
                assert_int_equal(packed.order.block_count,
                                 (611 + capacities[c] - 1) / capacities[c]);
                assert_int_equal(packed.lists.trimmed, 0);
                packed_destroy(&packed);
            }
    graph_destroy(&graph);
}

static void packing_takes_a_handful_of_rows(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 2, 3, 5, 17};
    static const uint32_t capacities[] = {0, 1, 2, 16};
    for (size_t n = 0; n < ARRAY_LENGTH(counts); n++) {
        struct graph graph;
        pack_fixture_graph(counts[n], 8, SPAN, 4, &graph);
        uint8_t *kept = pack_fixture_ring(graph.count);
        for (size_t c = 0; c < ARRAY_LENGTH(capacities); c++)
            for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
                struct pack_params params = {
                    .dim_bytes = 64, .adjacency = encodings[e], .nodes_per_block = capacities[c]};
                struct packed packed;
                packed_create(&graph, kept, &params, &packed);
                pack_fixture_encode(&packed.lists);
                packed_destroy(&packed);
            }
        free(kept);
        graph_destroy(&graph);
    }
}

static void packing_of_a_built_graph_holds_its_invariants(void **state)
{
    (void)state;
    struct vector_fixture fixture = {.count = 3000,
                                     .dim = 32,
                                     .clusters = 20,
                                     .type = ELEMENT_U8,
                                     .metric = METRIC_L2,
                                     .seed = 2};
    struct graph_params vamana = {
        .kind = GRAPH_VAMANA, .degree = 24, .build_list = 40, .alpha = 1.2f, .seed = 1};
    struct graph_result built;
    struct vector_set set;
    struct error err;
    vector_fixture_create(&fixture, &set);
    assert_int_equal(graph_build(&set, &vamana, &built, &err), STATUS_OK);
    for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
        struct pack_params params = {.dim_bytes = 32, .adjacency = encodings[e]};
        struct packed packed;
        packed_create(&built.graph, built.kept, &params, &packed);
        pack_fixture_encode(&packed.lists);
        assert_true(packed.order.mate_share > 0.1);
        assert_int_equal(packed_reached(&packed, packed.order.node_of_row[built.root]),
                         packed.order.block_count);
        assert_true((double)packed.lists.trimmed <= 0.05 * (double)packed.lists.outside);
        packed_destroy(&packed);
    }
    graph_result_destroy(&built);
    vector_set_destroy(&set);
}

static void packing_is_the_same_at_any_thread_count(void **state)
{
    (void)state;
    static const int teams[] = {1, 2, 5};
    int threads_before = omp_get_max_threads();
    struct graph graph;
    pack_fixture_graph(2500, 20, SPAN, 8, &graph);
    uint8_t *kept = pack_fixture_ring(graph.count);
    for (uint32_t row = 1; row < graph.count; row++) /* a hub with more in-edges than are weighed */
        if (!pack_fixture_listed(&graph, row, 0))
            graph_neighbors(&graph, row)[1 + row % 8] = 0;
    for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
        struct pack_params params = {.dim_bytes = 100, .adjacency = encodings[e]};
        struct packed first, packed;
        omp_set_num_threads(teams[0]);
        packed_create(&graph, kept, &params, &first);
        for (size_t t = 1; t < ARRAY_LENGTH(teams); t++) {
            omp_set_num_threads(teams[t]);
            packed_create(&graph, kept, &params, &packed);
            assert_memory_equal(&packed.geometry.gap_width, &first.geometry.gap_width,
                                BLOCK_GAP_WIDTHS);
            assert_int_equal(packed.geometry.nodes_per_block, first.geometry.nodes_per_block);
            assert_memory_equal(packed.order.node_of_row, first.order.node_of_row,
                                graph.count * sizeof(uint32_t));
            assert_int_equal(graph_fixture_digest(&packed.lists.graph),
                             graph_fixture_digest(&first.lists.graph));
            assert_int_equal(packed.lists.trimmed, first.lists.trimmed);
            assert_memory_equal(&packed.order.mate_share, &first.order.mate_share, sizeof(double));
            assert_memory_equal(packed.order.gaps, first.order.gaps, sizeof(first.order.gaps));
            packed_destroy(&packed);
        }
        packed_destroy(&first);
    }
    omp_set_num_threads(threads_before);
    free(kept);
    graph_destroy(&graph);
}

/* ---- edges that must stay ---- */

/* Most of each list must stay: fewer rows to a block, or refusal. */
static void packing_makes_room_for_kept_edges(void **state)
{
    (void)state;
    enum { COUNT = 900, DEGREE = 100 };
    struct graph graph;
    struct packed packed;
    struct error err = {0};
    uint8_t kept[COUNT];
    pack_fixture_graph(COUNT, DEGREE, COUNT, 3, &graph);
    memset(kept, DEGREE * 3 / 4, COUNT);
    struct pack_params params = {.dim_bytes = 64,
                                 .block_bytes = 4096,
                                 .adjacency = BLOCK_ADJACENCY_PLAIN,
                                 .nodes_per_block = 20};
    packed_create(&graph, kept, &params, &packed);
    assert_in_range(packed.geometry.nodes_per_block, 2, 19);
    packed_destroy(&packed);
    packed_create(&graph, NULL, &params, &packed);
    assert_int_equal(packed.geometry.nodes_per_block, 20);
    packed_destroy(&packed);

    params.dim_bytes = 3850;
    params.nodes_per_block = 0;
    packed_create(&graph, NULL, &params, &packed);
    packed_destroy(&packed);
    packed.input = (struct pack_input){.graph = &graph, .kept = kept, .total = COUNT};
    assert_int_equal(pack_choose(&packed.input, &params, &packed.geometry, &packed.order, &err),
                     STATUS_INVALID);
    assert_non_null(strstr(err.text, "cannot hold one record of 3850"));
    assert_null(packed.order.node_of_row);
    params.block_bytes = 0; /* a larger block will do */
    packed_create(&graph, kept, &params, &packed);
    assert_int_equal(packed.geometry.block_bytes, 8192);
    packed_destroy(&packed);
    graph_destroy(&graph);
}

/* ---- what blocks hold ---- */

/* `cliques` complete groups of `size` rows, scattered over the row numbers, each with one edge to
 * the next. */
static void clique_graph(uint32_t cliques, uint32_t size, struct graph *graph)
{
    struct error err;
    uint32_t count = cliques * size;
    assert_int_equal(graph_create(graph, count, size, &err), STATUS_OK);
    for (uint32_t row = 0; row < count; row++) {
        for (uint32_t i = 0; i < size; i++)
            pack_fixture_edge(graph, row, row % cliques + i * cliques);
        if (row < cliques)
            pack_fixture_edge(graph, row, (row + 1) % cliques);
    }
}

static void packing_finds_cliques_of_block_size(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {4, 12, 20};
    for (size_t s = 0; s < ARRAY_LENGTH(sizes); s++)
        for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
            struct graph graph;
            struct packed packed;
            clique_graph(60, sizes[s], &graph);
            struct pack_params params = {
                .dim_bytes = 64, .adjacency = encodings[e], .nodes_per_block = sizes[s]};
            packed_create(&graph, NULL, &params, &packed);
            if (packed.order.mate_share < 0.9)
                fail_msg("cliques of %u: share %.3f", sizes[s], packed.order.mate_share);
            packed_destroy(&packed);
            graph_destroy(&graph);
        }
}

/* Every row is in two groups of GROUP: its near edges lead to one, its far ones to the other. */
static void nearest_edges_decide_who_shares_a_block(void **state)
{
    (void)state;
    enum { GROUP = 10, GROUPS = 60 };
    struct graph graph;
    struct packed packed;
    struct error err;
    uint32_t together = 0;
    assert_int_equal(graph_create(&graph, GROUP * GROUPS, 2 * GROUP, &err), STATUS_OK);
    for (uint32_t row = 0; row < graph.count; row++) {
        for (uint32_t i = 0; i < GROUP; i++)
            pack_fixture_edge(&graph, row, row % GROUPS + i * GROUPS);
        for (uint32_t i = 0; i < GROUP; i++)
            pack_fixture_edge(&graph, row, row / GROUP * GROUP + i);
    }
    struct pack_params params = {.dim_bytes = 64, .nodes_per_block = GROUP};
    packed_create(&graph, NULL, &params, &packed);
    for (uint32_t row = 0; row < graph.count; row++)
        together += packed.order.node_of_row[row] / GROUP ==
                    packed.order.node_of_row[(row + GROUPS) % graph.count] / GROUP;
    assert_in_range(together, graph.count * 8 / 10, graph.count);
    packed_destroy(&packed);
    graph_destroy(&graph);
}

static void weights_fall_with_rank_and_kept_edges_stand_aside(void **state)
{
    (void)state;
    for (uint32_t kept = 0; kept < PACK_NEAR; kept++)
        for (uint32_t rank = 0; rank < PACK_NEAR; rank++) {
            uint32_t weight = pack_edge_weight(rank, kept);
            assert_in_range(weight, 1, 100);
            if (rank == kept)
                assert_int_equal(weight, 100);
            if (rank > kept)
                assert_true(weight <= pack_edge_weight(rank - 1, kept));
            if (rank < kept)
                assert_in_range(weight, pack_edge_weight(PACK_NEAR - 1, 0) + 1, 99);
        }
}

/* Edges beyond PACK_NEAR change the order of blocks, not who shares one of given capacity. */
static void far_edges_do_not_decide_who_shares_a_block(void **state)
{
    (void)state;
    enum { FAR = 16 };
    struct graph graph, longer;
    struct packed a, b;
    struct pack_params params = {.dim_bytes = 64, .block_bytes = 8192, .nodes_per_block = 9};
    struct error err;
    pack_fixture_graph(900, PACK_NEAR, SPAN, 6, &graph);
    assert_int_equal(graph_create(&longer, graph.count, PACK_NEAR + FAR, &err), STATUS_OK);
    for (uint32_t row = 0; row < graph.count; row++) {
        assert_int_equal(graph_degree(&graph, row), PACK_NEAR);
        for (uint32_t i = 0; i < PACK_NEAR; i++)
            pack_fixture_edge(&longer, row, graph_neighbors(&graph, row)[i]);
        for (uint32_t i = 0; i < FAR; i++)
            pack_fixture_edge(&longer, row, (row + 300 + i) % graph.count);
    }
    packed_create(&graph, NULL, &params, &a);
    packed_create(&longer, NULL, &params, &b);
    assert_int_equal(a.order.block_count, b.order.block_count);
    uint32_t twin[900]; /* of a's block, in b */
    memset(twin, 0xff, sizeof(twin));
    for (uint32_t row = 0; row < graph.count; row++) {
        uint32_t *block = &twin[a.order.node_of_row[row] / 9];
        if (*block == UINT32_MAX)
            *block = b.order.node_of_row[row] / 9;
        assert_int_equal(*block, b.order.node_of_row[row] / 9);
    }
    packed_destroy(&a);
    packed_destroy(&b);
    graph_destroy(&graph);
    graph_destroy(&longer);
}

/* Weight of the edges inside blocks. */
static uint64_t weight_inside(const struct pack_work *work)
{
    uint64_t weight = 0;
    for (uint32_t row = 0; row < work->graph->count; row++) {
        const uint32_t *ids = graph_neighbors(work->graph, row);
        uint32_t kept = work->kept != NULL ? work->kept[row] : 0;
        for (uint32_t i = 0; i < MIN(graph_degree(work->graph, row), (uint32_t)PACK_NEAR); i++)
            if (work->block_of_row[ids[i]] == work->block_of_row[row])
                weight += pack_edge_weight(i, kept);
    }
    return weight;
}

/* Grows full blocks of 10, then lets rounds refine them; returns the weight inside before and
 * after.
 */
static void rounds_weigh(const struct graph *graph, const uint8_t *kept, int rounds,
                         uint64_t *before, uint64_t *after)
{
    enum { CAPACITY = 10 };
    struct pack_work work;
    struct error err;
    struct pack_input input = {.graph = graph, .kept = kept, .total = graph->count};
    assert_int_equal(pack_work_init(&work, &input, &err), STATUS_OK);
    pack_grow(&work, CAPACITY);
    *before = weight_inside(&work);
    for (int round = 0; round < rounds; round++) {
        pack_assign_rounds(&work, 1);
        for (uint32_t block = 0; block < work.block_count; block++)
            assert_int_equal(work.load[block], CAPACITY);
    }
    *after = weight_inside(&work);
    pack_work_fini(&work);
    pack_work_fini(&work);
}

static void rounds_put_weight_inside_blocks(void **state)
{
    (void)state;
    struct vector_fixture fixture = {.count = 3000,
                                     .dim = 24,
                                     .clusters = 5,
                                     .type = ELEMENT_U8,
                                     .metric = METRIC_L2,
                                     .seed = 3};
    struct graph_params vamana = {
        .kind = GRAPH_VAMANA, .degree = 32, .build_list = 50, .alpha = 1.2f, .seed = 1};
    struct graph_result built;
    struct vector_set set;
    struct error err;
    uint64_t before, after;
    vector_fixture_create(&fixture, &set);
    assert_int_equal(graph_build(&set, &vamana, &built, &err), STATUS_OK);
    rounds_weigh(&built.graph, built.kept, 4, &before, &after);
    if (after < before + before / 50)
        fail_msg("weight inside %d, then %d", (int)before, (int)after);
    graph_result_destroy(&built);
    vector_set_destroy(&set);
}

/* So few rows go in one batch, weighed against blocks that are all emptied. */
static void rounds_fill_all_blocks_again(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct graph graph;
        uint64_t before, after;
        pack_fixture_graph(10 * (3 + (uint32_t)seed % 4), 14, SPAN, seed, &graph);
        uint8_t *kept = pack_fixture_ring(graph.count);
        rounds_weigh(&graph, kept, 3, &before, &after);
        assert_true(after > before / 2);
        free(kept);
        graph_destroy(&graph);
    }
}

/* What growth notes of each row is what its block-mates weigh. */
static void growth_fills_blocks_in_turn_and_knows_what_draws_each_row(void **state)
{
    (void)state;
    static const uint32_t capacities[] = {1, 2, 9, 1000};
    struct graph graph;
    struct pack_work work;
    struct error err;
    pack_fixture_graph(605, 14, SPAN, 2, &graph);
    struct pack_input input = {.graph = &graph, .total = graph.count};
    assert_int_equal(pack_work_init(&work, &input, &err), STATUS_OK);
    for (size_t c = 0; c < ARRAY_LENGTH(capacities); c++) {
        uint64_t drawn = 0;
        pack_grow(&work, capacities[c]);
        assert_int_equal(work.block_count, (605 + capacities[c] - 1) / capacities[c]);
        for (uint32_t block = 0; block < work.block_count; block++)
            assert_int_equal(work.load[block], MIN(capacities[c], 605 - block * capacities[c]));
        for (uint32_t row = 0; row < graph.count; row++)
            drawn += work.drawn[row];
        assert_int_equal(drawn, 2 * weight_inside(&work));
    }
    pack_work_fini(&work);
    graph_destroy(&graph);
}

/* ---- the order of blocks ---- */

static void blocks_that_point_to_one_another_get_near_numbers(void **state)
{
    (void)state;
    enum { CAPACITY = 8, BLOCKS = 400, NEAR_BLOCKS = BLOCKS / 10 };
    struct graph graph;
    struct pack_work work;
    struct error err;
    uint32_t rank[BLOCKS];
    uint8_t taken[BLOCKS] = {0};
    uint32_t near = 0, outside = 0;
    pack_fixture_graph(CAPACITY * BLOCKS - 5, 14, SPAN, 3, &graph);
    struct pack_input input = {.graph = &graph, .first = 0, .total = graph.count};
    assert_int_equal(pack_work_init(&work, &input, &err), STATUS_OK);
    pack_grow(&work, CAPACITY);
    assert_int_equal(pack_blocks_rank(&work, rank, &err), STATUS_OK);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        assert_in_range(rank[block], 0, BLOCKS - 1);
        assert_int_equal(taken[rank[block]]++, 0);
    }
    for (uint32_t row = 0; row < graph.count; row++)
        for (uint32_t i = 0; i < graph_degree(&graph, row); i++) {
            uint32_t from = rank[work.block_of_row[row]];
            uint32_t to = rank[work.block_of_row[graph_neighbors(&graph, row)[i]]];
            outside += from != to;
            near += from != to && (from > to ? from - to : to - from) <= NEAR_BLOCKS;
        }
    /* A quarter of the edges leads anywhere; in an order of no sense a fifth would be near. */
    if (near < outside / 2)
        fail_msg("%u of %u edges lead to blocks near by", near, outside);
    pack_work_fini(&work);
    graph_destroy(&graph);
}

static void order_of_blocks_takes_any_count(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 2, 31, 32, 33, 65, 1025};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
        struct graph graph;
        struct pack_work work;
        struct error err;
        uint32_t rank[1025];
        uint64_t sum = 0;
        pack_fixture_graph(counts[c], 6, SPAN, 3, &graph);
        struct pack_input input = {.graph = &graph, .total = graph.count};
        assert_int_equal(pack_work_init(&work, &input, &err), STATUS_OK);
        pack_grow(&work, 1); /* a row a block */
        assert_int_equal(pack_blocks_rank(&work, rank, &err), STATUS_OK);
        for (uint32_t block = 0; block < counts[c]; block++) {
            assert_in_range(rank[block], 0, counts[c] - 1);
            sum += rank[block];
        }
        assert_int_equal(sum, (uint64_t)counts[c] * (counts[c] - 1) / 2);
        pack_work_fini(&work);
        graph_destroy(&graph);
    }
}

/* ---- several shards ---- */

enum { SHARDS = 3, TOTAL = 1500 };

/* A graph over all rows, cut into slices of unequal size. */
struct sharded {
    struct graph whole, parts[SHARDS];
    uint8_t *kept;
    struct pack_input inputs[SHARDS];
    struct pack_order orders[SHARDS];
    struct block_geometry geometry;
    uint32_t first_node[SHARDS + 1];
    uint32_t node_of_position[TOTAL];
};

static const uint32_t starts[SHARDS + 1] = {0, 700, 1100, TOTAL};

static void sharded_init(struct sharded *s, uint32_t degree, uint32_t span, uint8_t kept)
{
    struct error err;
    memset(s, 0, sizeof(*s));
    pack_fixture_graph(TOTAL, degree, span, 12, &s->whole);
    s->kept = malloc(TOTAL);
    assert_non_null(s->kept);
    memset(s->kept, kept, TOTAL);
    for (uint32_t p = 0; p < SHARDS; p++) {
        uint32_t count = starts[p + 1] - starts[p];
        assert_int_equal(graph_create(&s->parts[p], count, degree, &err), STATUS_OK);
        memcpy(s->parts[p].slots, s->whole.slots + (size_t)starts[p] * s->whole.stride,
               (size_t)count * s->whole.stride * sizeof(uint32_t));
        s->inputs[p] = (struct pack_input){
            .graph = &s->parts[p], .kept = s->kept + starts[p], .first = starts[p], .total = TOTAL};
    }
}

/* Numbers all rows, once the shards have their orders, as the layout stage does. */
static void sharded_number(struct sharded *s)
{
    uint64_t gaps[33] = {0};
    uint32_t capacity = s->geometry.nodes_per_block;
    for (uint32_t p = 0; p < SHARDS; p++) {
        s->first_node[p + 1] = s->first_node[p] + s->orders[p].block_count * capacity;
        for (uint32_t row = 0; row < s->orders[p].row_count; row++)
            s->node_of_position[starts[p] + row] = s->first_node[p] + s->orders[p].node_of_row[row];
        for (int bits = 0; bits < 33; bits++)
            gaps[bits] += s->orders[p].gaps[bits];
    }
    s->geometry.node_limit = s->first_node[SHARDS];
    if (s->geometry.adjacency == BLOCK_ADJACENCY_GAPS)
        block_gap_widths_choose(gaps, s->geometry.node_limit, s->geometry.gap_width);
}

static void sharded_fini(struct sharded *s)
{
    for (uint32_t p = 0; p < SHARDS; p++) {
        pack_order_destroy(&s->orders[p]);
        graph_destroy(&s->parts[p]);
    }
    graph_destroy(&s->whole);
    free(s->kept);
}

static void shards_share_a_geometry_and_list_each_others_nodes(void **state)
{
    (void)state;
    for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
        struct pack_params params = {.dim_bytes = 128, .adjacency = encodings[e]};
        struct sharded s;
        struct error err;
        sharded_init(&s, 24, SPAN, 1);
        assert_int_equal(pack_choose(&s.inputs[1], &params, &s.geometry, &s.orders[1], &err),
                         STATUS_OK);
        for (uint32_t p = 0; p < SHARDS; p += 2)
            assert_int_equal(
                pack_order_make(&s.inputs[p], &params, &s.geometry, &s.orders[p], &err), STATUS_OK);
        sharded_number(&s);
        for (uint32_t p = 0; p < SHARDS; p++) {
            struct pack_lists lists;
            assert_int_equal(s.orders[p].block_count,
                             (s.orders[p].row_count + s.geometry.nodes_per_block - 1) /
                                 s.geometry.nodes_per_block);
            assert_true(s.orders[p].mate_share > 0.1);
            pack_fixture_lists(&s.inputs[p], &s.geometry, &s.orders[p], s.node_of_position,
                               s.first_node[p], &lists);
            pack_fixture_check(&s.inputs[p], s.node_of_position, &lists);
            assert_true((double)lists.trimmed <= 0.05 * (double)lists.outside);
            pack_fixture_encode(&lists);
            pack_lists_destroy(&lists);
        }
        sharded_fini(&s);
    }
}

static void expected_nodes_are_distinct(void **state)
{
    (void)state;
    struct pack_params params = {.dim_bytes = 100, .nodes_per_block = 13};
    struct sharded s;
    struct error err;
    sharded_init(&s, 16, SPAN, 1);
    for (uint32_t p = 0; p < SHARDS; p++) {
        uint8_t taken[TOTAL + 13] = {0};
        assert_int_equal(pack_choose(&s.inputs[p], &params, &s.geometry, &s.orders[p], &err),
                         STATUS_OK);
        uint32_t holes = s.orders[p].block_count * 13 - s.orders[p].row_count;
        assert_int_equal(s.geometry.node_limit, TOTAL + holes);
        for (uint32_t position = 0; position < TOTAL; position++) {
            uint32_t node = pack_node_expected(&s.inputs[p], &s.orders[p], position);
            assert_in_range(node, 0, s.geometry.node_limit - 1);
            assert_int_equal(taken[node]++, 0);
            if (position - starts[p] < s.orders[p].row_count)
                assert_int_equal(node, starts[p] + s.orders[p].node_of_row[position - starts[p]]);
        }
    }
    sharded_fini(&s);
}

/* The other shards' rows get numbers strewn over all there are, far from those expected. */
static void sharded_strew(struct sharded *s)
{
    enum { FAR = 1u << 31 };
    uint32_t capacity = s->geometry.nodes_per_block;
    s->geometry.node_limit = UINT32_MAX / capacity * capacity;
    s->geometry.gap_width[BLOCK_GAP_WIDTHS - 1] = 32;
    for (uint32_t row = 0; row < TOTAL; row++)
        if (row < starts[1] || row >= starts[2])
            s->node_of_position[row] = FAR + row * 1400000u;
}

/* The one that chooses does not know the others' numbers either. */
static void chosen_geometry_has_room_for_kept_edges_whatever_the_numbers(void **state)
{
    (void)state;
    struct pack_params params = {.dim_bytes = 64,
                                 .block_bytes = 8192,
                                 .adjacency = BLOCK_ADJACENCY_GAPS,
                                 .nodes_per_block = 48};
    struct sharded s;
    struct pack_lists lists;
    struct error err;
    sharded_init(&s, 120, TOTAL, 100);
    for (uint32_t p = 1; p < SHARDS; p++)
        assert_int_equal(
            p == 1 ? pack_choose(&s.inputs[p], &params, &s.geometry, &s.orders[p], &err)
                   : pack_order_make(&s.inputs[p], &params, &s.geometry, &s.orders[p], &err),
            STATUS_OK);
    sharded_number(&s);
    sharded_strew(&s);
    pack_fixture_lists(&s.inputs[1], &s.geometry, &s.orders[1], s.node_of_position, s.first_node[1],
                       &lists);
    assert_true(lists.trimmed != PACK_TRIM_IMPOSSIBLE);
    pack_fixture_check(&s.inputs[1], s.node_of_position, &lists);
    pack_lists_destroy(&lists);
    sharded_fini(&s);
}

/* A geometry chosen for lists of which nothing must stay: where most must, blocks get fewer rows,
 * and whatever the numbers of the others, trimming comes out. */
static void order_of_a_given_geometry_makes_room_for_kept_edges(void **state)
{
    (void)state;
    for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
        struct pack_params params = {
            .dim_bytes = 64, .block_bytes = 8192, .adjacency = encodings[e], .nodes_per_block = 14};
        struct sharded s;
        struct error err = {0};
        sharded_init(&s, 180, SPAN, 150);
        s.inputs[0].kept = NULL;
        assert_int_equal(pack_choose(&s.inputs[0], &params, &s.geometry, &s.orders[0], &err),
                         STATUS_OK);
        assert_int_equal(s.geometry.nodes_per_block, 14);
        for (uint32_t p = 1; p < SHARDS; p++)
            assert_int_equal(
                pack_order_make(&s.inputs[p], &params, &s.geometry, &s.orders[p], &err), STATUS_OK);
        assert_in_range(s.orders[1].block_count, 400 / 12, 400 / 8);
        assert_int_equal(s.orders[1].nodes_per_block, 14);
        sharded_number(&s);
        sharded_strew(&s);
        struct pack_lists lists;
        pack_fixture_lists(&s.inputs[1], &s.geometry, &s.orders[1], s.node_of_position,
                           s.first_node[1], &lists);
        pack_fixture_check(&s.inputs[1], s.node_of_position, &lists);
        pack_lists_destroy(&lists);

        s.geometry.vector_bytes = params.dim_bytes = 8192 - 650;
        s.geometry.nodes_per_block = 3;
        pack_order_destroy(&s.orders[1]);
        assert_int_equal(pack_order_make(&s.inputs[1], &params, &s.geometry, &s.orders[1], &err),
                         STATUS_INVALID);
        assert_non_null(strstr(err.text, "cannot hold one record of 7542"));
        assert_null(s.orders[1].node_of_row);
        sharded_fini(&s);
    }
}

/* ---- refusals ---- */

static void geometry_that_cannot_be_is_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t dim_bytes, block_bytes;
        const char *wanted;
    } cases[] = {
        {8000, 4096, "4096 bytes cannot hold one record of 8000 vector bytes"},
        {4090, 4096, "4096 bytes cannot hold one record of 4090 vector bytes"},
        {61440, 0, "61440 vector bytes needs a block over 61440 bytes"},
        {1000000, 0, "1000000 vector bytes needs a block over 61440 bytes"},
    };
    static const uint32_t counts[] = {1, 200};
    for (size_t n = 0; n < ARRAY_LENGTH(counts); n++) {
        struct graph graph;
        pack_fixture_graph(counts[n], 8, SPAN, 1, &graph);
        for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
            for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
                struct pack_params params = {.dim_bytes = cases[i].dim_bytes,
                                             .block_bytes = cases[i].block_bytes,
                                             .adjacency = encodings[e]};
                struct pack_input input = {.graph = &graph, .total = graph.count};
                struct block_geometry geometry;
                struct pack_order order;
                struct error err = {0};
                assert_int_equal(pack_choose(&input, &params, &geometry, &order, &err),
                                 STATUS_INVALID);
                if (!strstr(err.text, cases[i].wanted))
                    fail_msg("\"%s\", wanted \"%s\"", err.text, cases[i].wanted);
                assert_null(order.node_of_row);
            }
        graph_destroy(&graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_holds_its_invariants_over_vector_sizes),
        cmocka_unit_test(packing_takes_a_given_capacity_and_block_size),
        cmocka_unit_test(packing_takes_a_handful_of_rows),
        cmocka_unit_test(packing_of_a_built_graph_holds_its_invariants),
        cmocka_unit_test(packing_is_the_same_at_any_thread_count),
        cmocka_unit_test(packing_makes_room_for_kept_edges),
        cmocka_unit_test(packing_finds_cliques_of_block_size),
        cmocka_unit_test(nearest_edges_decide_who_shares_a_block),
        cmocka_unit_test(weights_fall_with_rank_and_kept_edges_stand_aside),
        cmocka_unit_test(far_edges_do_not_decide_who_shares_a_block),
        cmocka_unit_test(growth_fills_blocks_in_turn_and_knows_what_draws_each_row),
        cmocka_unit_test(rounds_put_weight_inside_blocks),
        cmocka_unit_test(rounds_fill_all_blocks_again),
        cmocka_unit_test(blocks_that_point_to_one_another_get_near_numbers),
        cmocka_unit_test(order_of_blocks_takes_any_count),
        cmocka_unit_test(shards_share_a_geometry_and_list_each_others_nodes),
        cmocka_unit_test(expected_nodes_are_distinct),
        cmocka_unit_test(chosen_geometry_has_room_for_kept_edges_whatever_the_numbers),
        cmocka_unit_test(order_of_a_given_geometry_makes_room_for_kept_edges),
        cmocka_unit_test(geometry_that_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
