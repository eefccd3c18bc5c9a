/*
 * test_pack.c - numbering and trimming: the invariants of pack_result_check() over many shapes,
 * that the check itself sees what it should, and that blocks hold neighbours.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/pack_internal.h"
#include "builder/vamana.h"
#include "common/random.h"
#include "tests/vector_fixture.h"

static void edge_add(struct graph *graph, uint32_t from, uint32_t to)
{
    uint32_t *ids = graph_neighbors(graph, from);
    uint32_t degree = graph_degree(graph, from);
    if (from == to || degree == graph->stride - 1)
        return;
    for (uint32_t i = 0; i < degree; i++)
        if (ids[i] == to)
            return;
    ids[degree] = to;
    graph_set_degree(graph, from, degree + 1);
}

/* A ring (so that all is reachable), edges to rows nearby and, one in four, to anywhere. */
static void local_graph(uint32_t count, uint32_t degree, uint64_t seed, struct graph *graph)
{
    struct error err;
    assert_int_equal(graph_create(graph, count, degree, &err), STATUS_OK);
    for (uint32_t row = 0; row < count; row++) {
        edge_add(graph, row, (row + 1) % count);
        for (uint32_t i = 0; i < 2 * degree; i++) {
            uint64_t draw = (uint64_t)row * 1000 + i;
            uint32_t span = random_below(seed, draw, 4) == 0 ? count : MIN(count, 60u);
            uint32_t step = (uint32_t)random_below(seed + 1, draw, span);
            edge_add(graph, row, (uint32_t)(((uint64_t)row + count - span / 2 + step) % count));
        }
    }
    assert_int_equal(graph_check(graph, degree, &err), STATUS_OK);
}

static void must_check(const struct graph *graph, const struct pack_result *result)
{
    struct error err = {0};
    if (pack_result_check(graph, result, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

static void must_pack(const struct graph *graph, const struct pack_params *params,
                      struct pack_result *result)
{
    struct error err = {0};
    if (pack_graph(graph, params, result, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    must_check(graph, result);
    assert_int_equal(result->row_of_node[result->entry_node], params->entry);
    assert_true(result->block_mate_share >= 0.0 && result->block_mate_share <= 1.0);
}

/* ---- shapes ---- */

/* Writes every block and reads its lists back: what was found to fit does fit. */
static void blocks_must_encode(const struct pack_result *result)
{
    const struct block_geometry *geometry = &result->geometry;
    uint8_t *bytes = malloc(geometry->block_bytes);
    uint8_t *vector = calloc(geometry->vector_bytes, 1);
    assert_true(bytes && vector);
    for (uint64_t block = 0; block < result->block_count; block++) {
        struct block_record records[BLOCK_NODES_MAX];
        uint32_t first = (uint32_t)block * geometry->nodes_per_block;
        uint32_t count = 0;
        for (; count < geometry->nodes_per_block; count++) {
            uint32_t node = first + count;
            if (result->row_of_node[node] == UINT32_MAX)
                break;
            records[count] = (struct block_record){.key = result->row_of_node[node],
                                                   .vector = vector,
                                                   .ids = graph_neighbors(&result->lists, node),
                                                   .degree = graph_degree(&result->lists, node)};
        }
        block_encode(geometry, block, records, count, bytes);
        assert_int_equal(block_check(geometry, block, bytes), BLOCK_OK);
    }
    free(bytes);
    free(vector);
}

static const uint8_t encodings[] = {BLOCK_ADJACENCY_PLAIN, BLOCK_ADJACENCY_GAPS};

static void packing_holds_its_invariants_over_vector_sizes(void **state)
{
    (void)state;
    static const uint32_t vector_bytes[] = {1, 128, 4000, 32768};
    static const uint32_t degrees[] = {3, 24, 96};
    for (size_t d = 0; d < ARRAY_LENGTH(degrees); d++) {
        struct graph graph;
        local_graph(700, degrees[d], d, &graph);
        for (size_t v = 0; v < ARRAY_LENGTH(vector_bytes); v++)
            for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
                struct pack_params params = {.dim_bytes = vector_bytes[v],
                                             .adjacency = encodings[e],
                                             .entry = 123,
                                             .seed = 1,
                                             .generation_seed = 77};
                struct pack_result result;
                must_pack(&graph, &params, &result);
                assert_int_equal(result.geometry.vector_bytes, vector_bytes[v]);
                assert_int_equal(result.geometry.adjacency, encodings[e]);
                assert_int_equal(result.geometry.generation_seed, 77);
                assert_true(result.geometry.block_bytes < vector_bytes[v] + 2 * BLOCK_PAGE_BYTES);
                blocks_must_encode(&result);
                pack_result_destroy(&result);
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
    local_graph(611, 16, 4, &graph);
    for (size_t c = 0; c < ARRAY_LENGTH(capacities); c++)
        for (size_t b = 0; b < ARRAY_LENGTH(block_bytes); b++)
            for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
                struct pack_params params = {.dim_bytes = 128,
                                             .block_bytes = block_bytes[b],
                                             .adjacency = encodings[e],
                                             .nodes_per_block = capacities[c],
                                             .seed = 2};
                struct pack_result result;
                must_pack(&graph, &params, &result);
                assert_int_equal(result.geometry.nodes_per_block, capacities[c]);
                assert_int_equal(result.geometry.block_bytes, block_bytes[b]);
                assert_int_equal(result.block_count, (611 + capacities[c] - 1) / capacities[c]);
                assert_int_equal(result.trimmed_edges, 0);
                pack_result_destroy(&result);
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
        local_graph(counts[n], 8, 4, &graph);
        for (size_t c = 0; c < ARRAY_LENGTH(capacities); c++)
            for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
                struct pack_params params = {.dim_bytes = 64,
                                             .adjacency = encodings[e],
                                             .nodes_per_block = capacities[c],
                                             .entry = counts[n] - 1};
                struct pack_result result;
                must_pack(&graph, &params, &result);
                blocks_must_encode(&result);
                pack_result_destroy(&result);
            }
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
    struct vamana_params vamana = {.degree = 24, .build_list = 40, .alpha = 1.2f, .seed = 1};
    struct vamana_result built;
    struct vector_set set;
    struct error err;
    vector_fixture_create(&fixture, &set);
    assert_int_equal(vamana_build(&set, &vamana, &built, &err), STATUS_OK);
    for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
        struct pack_params params = {
            .dim_bytes = 32, .adjacency = encodings[e], .entry = built.entry, .seed = 1};
        struct pack_result result;
        must_pack(&built.graph, &params, &result);
        blocks_must_encode(&result);
        assert_true(result.block_mate_share > 0.1);
        assert_true((double)result.trimmed_edges <= 0.01 * result.mean_degree * 3000);
        pack_result_destroy(&result);
    }
    graph_destroy(&built.graph);
    vector_set_destroy(&set);
}

static void packing_is_the_same_at_any_thread_count(void **state)
{
    (void)state;
    static const int teams[] = {1, 2, 5};
    int threads_before = omp_get_max_threads();
    struct graph graph;
    local_graph(2500, 20, 8, &graph);
    for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
        struct pack_params params = {.dim_bytes = 100, .adjacency = encodings[e], .seed = 3};
        struct pack_result first, result;
        omp_set_num_threads(teams[0]);
        must_pack(&graph, &params, &first);
        for (size_t t = 1; t < ARRAY_LENGTH(teams); t++) {
            omp_set_num_threads(teams[t]);
            must_pack(&graph, &params, &result);
            assert_memory_equal(&result.geometry.gap_width, &first.geometry.gap_width,
                                BLOCK_GAP_WIDTHS);
            assert_int_equal(result.geometry.nodes_per_block, first.geometry.nodes_per_block);
            assert_memory_equal(result.node_of_row, first.node_of_row,
                                graph.count * sizeof(uint32_t));
            assert_int_equal(graph_fixture_digest(&result.lists),
                             graph_fixture_digest(&first.lists));
            assert_int_equal(result.trimmed_edges, first.trimmed_edges);
            assert_true(result.block_mate_share >= first.block_mate_share &&
                        result.block_mate_share <= first.block_mate_share);
            pack_result_destroy(&result);
        }
        pack_result_destroy(&first);
    }
    omp_set_num_threads(threads_before);
    graph_destroy(&graph);
}

/* ---- trimming ---- */

/* A capacity whose lists overflow by a quarter or so: edges go, every block stays reachable (which
 * pack_result_check() walks). */
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
    local_graph(2000, 30, 6, &graph);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct pack_params params = {.dim_bytes = 128 - 10,
                                     .block_bytes = 4096,
                                     .adjacency = cases[i].adjacency,
                                     .nodes_per_block = cases[i].capacity,
                                     .entry = 1999,
                                     .seed = 1};
        struct pack_result result;
        must_pack(&graph, &params, &result);
        assert_int_equal(result.geometry.nodes_per_block, cases[i].capacity);
        assert_in_range(result.trimmed_edges, 1, 50000);
        blocks_must_encode(&result);
        pack_result_destroy(&result);
    }
    graph_destroy(&graph);
}

/* Where one edge is the only way to a region, trimming gives up other edges. Rows 0..n-1 are in
 * blocks of 16 chained by one edge each, the farthest of its list; the rest points back. */
static void trimming_spares_the_only_way_to_a_block(void **state)
{
    (void)state;
    enum { CAPACITY = 16, BLOCKS = 40, COUNT = CAPACITY * BLOCKS, DEGREE = 60 };
    struct graph graph;
    struct error err;
    struct pack_result result;
    assert_int_equal(graph_create(&graph, COUNT, DEGREE, &err), STATUS_OK);
    for (uint32_t row = 0; row < COUNT; row++) {
        uint32_t block = row / CAPACITY;
        for (uint32_t i = 0; i < CAPACITY; i++)
            edge_add(&graph, row, block * CAPACITY + i);
        for (uint32_t i = 0; block > 0 && i < DEGREE / 2; i++)
            edge_add(&graph, row, (uint32_t)random_below(row, i, block * CAPACITY));
        if (row % CAPACITY == 5 && block + 1 < BLOCKS)
            edge_add(&graph, row,
                     (block + 1) * CAPACITY + (uint32_t)random_below(3, row, CAPACITY));
    }
    struct pack_params params = {.dim_bytes = 180,
                                 .block_bytes = 4096,
                                 .adjacency = BLOCK_ADJACENCY_PLAIN,
                                 .nodes_per_block = CAPACITY,
                                 .seed = 1};
    must_pack(&graph, &params, &result);
    assert_int_equal(result.geometry.nodes_per_block, CAPACITY);
    assert_in_range(result.trimmed_edges, 1000, COUNT * DEGREE);
    pack_result_destroy(&result);
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
            edge_add(graph, row, row % cliques + i * cliques);
        if (row < cliques)
            edge_add(graph, row, (row + 1) % cliques);
    }
}

static void packing_finds_cliques_of_block_size(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {4, 12, 20};
    for (size_t s = 0; s < ARRAY_LENGTH(sizes); s++)
        for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
            struct graph graph;
            struct pack_result result;
            clique_graph(60, sizes[s], &graph);
            struct pack_params params = {
                .dim_bytes = 64, .adjacency = encodings[e], .nodes_per_block = sizes[s], .seed = 5};
            must_pack(&graph, &params, &result);
            if (result.block_mate_share < 0.9)
                fail_msg("cliques of %u: share %.3f", sizes[s], result.block_mate_share);
            pack_result_destroy(&result);
            graph_destroy(&graph);
        }
}

/* Three passes of swaps over blocks that are all full: the share is then proportional to the edges
 * inside blocks, and a swap is made only where those grow. Returns what it gained. */
static double swaps_gain(uint32_t blocks, uint64_t seed)
{
    enum { CAPACITY = 10 };
    struct graph graph;
    struct pack_work work;
    struct error err;
    local_graph(CAPACITY * blocks, 14, seed, &graph);
    assert_int_equal(pack_work_init(&work, &graph, seed, &err), STATUS_OK);
    pack_assign_start(&work);
    pack_assign_rounds(&work, CAPACITY, blocks, (int)(seed % 3) + 1);
    double start = pack_mate_share(&graph, work.block_of_row, work.load);
    double share = start;
    for (int pass = 0; pass < 3; pass++) {
        pack_assign_swaps(&work, CAPACITY, blocks, 1);
        double after = pack_mate_share(&graph, work.block_of_row, work.load);
        assert_true(after >= share);
        share = after;
        for (uint32_t block = 0; block < blocks; block++)
            assert_int_equal(work.load[block], CAPACITY);
    }
    pack_work_fini(&work);
    pack_work_fini(&work);
    graph_destroy(&graph);
    return share - start;
}

static void swaps_never_lower_the_share(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++)
        assert_true(swaps_gain(120, seed) > 0.0);
    /* So few rows go in one batch: most choices are stale when their turn comes. */
    for (uint64_t seed = 1; seed <= 100; seed++)
        (void)swaps_gain(3 + (uint32_t)seed % 4, seed);
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
        local_graph(counts[n], 8, 1, &graph);
        for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
            for (size_t e = 0; e < ARRAY_LENGTH(encodings); e++) {
                struct pack_params params = {.dim_bytes = cases[i].dim_bytes,
                                             .block_bytes = cases[i].block_bytes,
                                             .adjacency = encodings[e]};
                struct pack_result result;
                struct error err = {0};
                assert_int_equal(pack_graph(&graph, &params, &result, &err), STATUS_INVALID);
                if (!strstr(err.text, cases[i].wanted))
                    fail_msg("\"%s\", wanted \"%s\"", err.text, cases[i].wanted);
                assert_null(result.row_of_node);
                assert_null(result.lists.slots);
            }
        graph_destroy(&graph);
    }
}

static void graph_with_an_unreachable_region_is_refused(void **state)
{
    (void)state;
    struct graph graph;
    struct pack_result result;
    struct error err = {0};
    struct pack_params params = {
        .dim_bytes = 128, .adjacency = BLOCK_ADJACENCY_GAPS, .nodes_per_block = 1};
    local_graph(600, 8, 1, &graph);
    for (uint32_t row = 0; row < 600; row++) {
        uint32_t *ids = graph_neighbors(&graph, row);
        uint32_t kept = 0;
        for (uint32_t i = 0; i < graph_degree(&graph, row); i++)
            if (ids[i] / 300 == row / 300)
                ids[kept++] = ids[i];
        graph_set_degree(&graph, row, kept);
    }
    enum status status = pack_graph(&graph, &params, &result, &err);
    assert_int_equal(status, STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "blocks reachable"));
    graph_destroy(&graph);
}

/* ---- the check ---- */

/* Ways to break a packing. */
enum damage {
    DAMAGE_NONE,
    DAMAGE_GEOMETRY,
    DAMAGE_NODE_TWICE,
    DAMAGE_ROW_LOST,
    DAMAGE_HOLE,
    DAMAGE_ORDER,
    DAMAGE_REPEAT,
    DAMAGE_BLOCK_MATE,
    DAMAGE_RANGE,
    DAMAGE_EDGE_MADE_UP,
    DAMAGE_EDGE_LOST,
    DAMAGE_OVERFLOW,
    DAMAGE_UNREACHABLE,
    DAMAGE_ENTRY,
    DAMAGE_COUNT,
};

static const char *const damage_texts[DAMAGE_COUNT] = {
    [DAMAGE_GEOMETRY] = "block_bytes",
    [DAMAGE_NODE_TWICE] = "which is not it",
    [DAMAGE_ROW_LOST] = "which is not it",
    [DAMAGE_HOLE] = "hole before",
    [DAMAGE_ORDER] = "after",
    [DAMAGE_REPEAT] = "after",
    [DAMAGE_BLOCK_MATE] = "lists block-mate",
    [DAMAGE_RANGE] = "no record",
    [DAMAGE_EDGE_MADE_UP] = "no such edge",
    [DAMAGE_EDGE_LOST] = "edges between blocks",
    [DAMAGE_OVERFLOW] = "lists of block",
    [DAMAGE_UNREACHABLE] = "blocks reachable",
    [DAMAGE_ENTRY] = "entry node",
};

/* Moves the last record of a block with free slots one slot on. */
static void hole_make(struct pack_result *result)
{
    uint32_t node = result->geometry.nodes_per_block;
    while (result->row_of_node[node] != UINT32_MAX)
        node++;
    uint32_t row = result->row_of_node[node - 1];
    result->row_of_node[node - 1] = UINT32_MAX;
    result->row_of_node[node] = row;
    result->node_of_row[row] = node;
}

/* All edges into the block of `victim` go, from the lists and from the count. */
static void block_cut_off(struct pack_result *result, uint32_t victim)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    for (uint32_t node = 0; node < result->lists.count; node++) {
        uint32_t *ids = graph_neighbors(&result->lists, node);
        uint32_t degree = graph_degree(&result->lists, node);
        uint32_t kept = 0;
        for (uint32_t i = 0; i < degree; i++)
            if (ids[i] / capacity != victim)
                ids[kept++] = ids[i];
        graph_set_degree(&result->lists, node, kept);
        result->trimmed_edges += degree - kept;
    }
}

/* The list of node 0 loses one id and gets `id` in its place, still ascending. */
static void list_put(struct pack_result *result, uint32_t id)
{
    uint32_t *ids = graph_neighbors(&result->lists, 0);
    uint32_t degree = graph_degree(&result->lists, 0);
    ids[0] = id;
    pack_ids_sort(ids, degree);
}

/* A node of another block that node 0 has no edge to. */
static uint32_t id_not_listed(const struct pack_result *result)
{
    const uint32_t *ids = graph_neighbors(&result->lists, 0);
    uint32_t id = result->geometry.nodes_per_block;
    for (uint32_t i = 0; i < graph_degree(&result->lists, 0) && ids[i] == id; i++)
        id++;
    return id;
}

static void result_damage(struct pack_result *result, enum damage damage)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    uint32_t *ids = graph_neighbors(&result->lists, 0);
    switch (damage) {
    case DAMAGE_GEOMETRY:
        result->geometry.block_bytes++;
        break;
    case DAMAGE_NODE_TWICE:
        result->node_of_row[3] = result->node_of_row[4];
        break;
    case DAMAGE_ROW_LOST:
        result->row_of_node[result->node_of_row[7]] = UINT32_MAX;
        break;
    case DAMAGE_HOLE:
        hole_make(result);
        break;
    case DAMAGE_ORDER:
        ids[0] ^= ids[1];
        ids[1] ^= ids[0];
        ids[0] ^= ids[1];
        break;
    case DAMAGE_REPEAT:
        ids[1] = ids[0];
        break;
    case DAMAGE_BLOCK_MATE:
        list_put(result, 1);
        break;
    case DAMAGE_RANGE:
        list_put(result, result->geometry.node_limit);
        break;
    case DAMAGE_EDGE_MADE_UP:
        list_put(result, id_not_listed(result));
        break;
    case DAMAGE_EDGE_LOST:
        graph_set_degree(&result->lists, 0, graph_degree(&result->lists, 0) - 1);
        break;
    case DAMAGE_OVERFLOW:
        result->geometry.vector_bytes = 200;
        break;
    case DAMAGE_UNREACHABLE:
        block_cut_off(result, result->entry_node / capacity == 2 ? 3 : 2);
        break;
    case DAMAGE_ENTRY:
        result->entry_node = result->geometry.node_limit;
        break;
    default:
        break;
    }
}

static void check_names_what_is_broken(void **state)
{
    (void)state;
    struct graph graph;
    local_graph(203, 20, 3, &graph);
    for (int damage = DAMAGE_NONE; damage < DAMAGE_COUNT; damage++) {
        struct pack_params params = {
            .dim_bytes = 120, .adjacency = BLOCK_ADJACENCY_PLAIN, .nodes_per_block = 17};
        struct pack_result result;
        struct error err = {0};
        must_pack(&graph, &params, &result);
        result_damage(&result, (enum damage)damage);
        enum status status = pack_result_check(&graph, &result, &err);
        if (damage == DAMAGE_NONE)
            assert_int_equal(status, STATUS_OK);
        else if (status == STATUS_OK || !strstr(err.text, damage_texts[damage]))
            fail_msg("damage %d: \"%s\", wanted \"%s\"", damage, err.text, damage_texts[damage]);
        pack_result_destroy(&result);
    }
    graph_destroy(&graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_holds_its_invariants_over_vector_sizes),
        cmocka_unit_test(packing_takes_a_given_capacity_and_block_size),
        cmocka_unit_test(packing_takes_a_handful_of_rows),
        cmocka_unit_test(packing_of_a_built_graph_holds_its_invariants),
        cmocka_unit_test(packing_is_the_same_at_any_thread_count),
        cmocka_unit_test(lists_that_overflow_are_trimmed_and_blocks_stay_reachable),
        cmocka_unit_test(trimming_spares_the_only_way_to_a_block),
        cmocka_unit_test(packing_finds_cliques_of_block_size),
        cmocka_unit_test(swaps_never_lower_the_share),
        cmocka_unit_test(geometry_that_cannot_be_is_refused),
        cmocka_unit_test(graph_with_an_unreachable_region_is_refused),
        cmocka_unit_test(check_names_what_is_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
