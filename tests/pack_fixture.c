/*
 * pack_fixture.c - see pack_fixture.h. Single-threaded; failures inside end the test.
 */
#include "tests/pack_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"

/* ---- graphs ---- */

bool pack_fixture_listed(const struct graph *graph, uint32_t node, uint32_t id)
{
    for (uint32_t i = 0; i < graph_degree(graph, node); i++)
        if (graph_neighbors(graph, node)[i] == id)
            return true;
    return false;
}

void pack_fixture_edge(struct graph *graph, uint32_t from, uint32_t to)
{
    uint32_t degree = graph_degree(graph, from);
    if (from == to || degree == graph->stride - 1 || pack_fixture_listed(graph, from, to))
        return;
    graph_neighbors(graph, from)[degree] = to;
    graph_set_degree(graph, from, degree + 1);
}

void pack_fixture_graph(uint32_t count, uint32_t degree, uint32_t span, uint64_t seed,
                        struct graph *graph)
{
    struct error err;
    assert_int_equal(graph_create(graph, count, degree, &err), STATUS_OK);
    for (uint32_t row = 0; row < count; row++) {
        pack_fixture_edge(graph, row, (row + 1) % count);
        for (uint32_t i = 0; i < 2 * degree; i++) {
            uint64_t draw = (uint64_t)row * 1000 + i;
            uint32_t reach = random_below(seed, draw, 4) == 0 ? count : MIN(count, span);
            uint32_t step = (uint32_t)random_below(seed + 1, draw, reach);
            pack_fixture_edge(graph, row,
                              (uint32_t)(((uint64_t)row + count - reach / 2 + step) % count));
        }
    }
    assert_int_equal(graph_check(graph, degree, &err), STATUS_OK);
}

uint8_t *pack_fixture_ring(uint32_t count)
{
    uint8_t *kept = malloc(count);
    assert_non_null(kept);
    memset(kept, count > 1, count);
    return kept;
}

/* ---- lists ---- */

static uint32_t degree_largest(const struct graph *graph)
{
    uint32_t largest = 0;
    for (uint32_t row = 0; row < graph->count; row++)
        largest = MAX(largest, graph_degree(graph, row));
    return largest;
}

void pack_fixture_lists(const struct pack_input *input, const struct block_geometry *geometry,
                        const struct pack_order *order, const uint32_t *node_of_position,
                        uint32_t first_node, struct pack_lists *lists)
{
    struct error err = {0};
    assert_int_equal(
        pack_lists_create(geometry, first_node, order, degree_largest(input->graph), lists, &err),
        STATUS_OK);
    for (uint32_t row = 0; row < input->graph->count; row++) {
        uint32_t ids[BLOCK_DEGREE_MAX];
        uint32_t degree = graph_degree(input->graph, row);
        for (uint32_t i = 0; i < degree; i++)
            ids[i] = node_of_position[graph_neighbors(input->graph, row)[i]];
        pack_lists_put(lists, order->node_of_row[row], ids, degree,
                       input->kept != NULL ? input->kept[row] : 0);
    }
    assert_int_equal(pack_lists_trim(lists, &err), STATUS_OK);
}

void pack_fixture_check(const struct pack_input *input, const uint32_t *node_of_position,
                        const struct pack_lists *lists)
{
    struct error err = {0};
    if (pack_lists_check(input, node_of_position, lists, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

void pack_fixture_encode(const struct pack_lists *lists)
{
    const struct block_geometry *geometry = &lists->geometry;
    uint8_t *bytes = malloc(geometry->block_bytes);
    uint8_t *vector = calloc(geometry->vector_bytes, 1);
    assert_true(bytes && vector);
    for (uint32_t block = 0; block < lists->block_count; block++) {
        struct block_record records[BLOCK_NODES_MAX];
        uint32_t first = block * geometry->nodes_per_block;
        uint64_t number = lists->first_node / geometry->nodes_per_block + block;
        uint32_t count = 0;
        for (; count < geometry->nodes_per_block; count++) {
            uint32_t node = first + count;
            if (lists->row_of_node[node] == UINT32_MAX)
                break;
            records[count] = (struct block_record){.key = lists->row_of_node[node],
                                                   .vector = vector,
                                                   .ids = graph_neighbors(&lists->graph, node),
                                                   .degree = graph_degree(&lists->graph, node)};
        }
        block_encode(geometry, number, records, count, bytes);
        assert_int_equal(block_check(geometry, number, bytes), BLOCK_OK);
    }
    free(bytes);
    free(vector);
}

/* ---- a whole ---- */

void packed_create(const struct graph *graph, const uint8_t *kept, const struct pack_params *params,
                   struct packed *packed)
{
    struct error err = {0};
    *packed = (struct packed){.input = {.graph = graph, .kept = kept, .total = graph->count}};
    if (pack_choose(&packed->input, params, &packed->geometry, &packed->order, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(packed->order.row_count, graph->count);
    assert_int_equal(packed->order.nodes_per_block, packed->geometry.nodes_per_block);
    assert_int_equal(packed->geometry.node_limit,
                     packed->order.block_count * packed->geometry.nodes_per_block);
    assert_true(packed->order.mate_share >= 0.0 && packed->order.mate_share <= 1.0);
    pack_fixture_lists(&packed->input, &packed->geometry, &packed->order, packed->order.node_of_row,
                       0, &packed->lists);
    pack_fixture_check(&packed->input, packed->order.node_of_row, &packed->lists);
}

void packed_destroy(struct packed *packed)
{
    pack_lists_destroy(&packed->lists);
    pack_order_destroy(&packed->order);
}

uint32_t packed_reached(const struct packed *packed, uint32_t node)
{
    const struct pack_lists *lists = &packed->lists;
    uint32_t capacity = lists->geometry.nodes_per_block;
    uint8_t *seen = calloc(lists->block_count, 1);
    uint32_t *stack = calloc(lists->block_count, sizeof(*stack));
    uint32_t depth = 0;
    uint32_t count = 1;
    assert_non_null(seen);
    assert_non_null(stack);
    stack[depth++] = node / capacity;
    seen[node / capacity] = 1;
    while (depth > 0) {
        uint32_t first = stack[--depth] * capacity;
        for (uint32_t mate = first; mate < first + capacity; mate++)
            for (uint32_t i = 0; i < graph_degree(&lists->graph, mate); i++) {
                uint32_t block = graph_neighbors(&lists->graph, mate)[i] / capacity;
                if (seen[block])
                    continue;
                seen[block] = 1;
                stack[depth++] = block;
                count++;
            }
    }
    free(seen);
    free(stack);
    return count;
}
