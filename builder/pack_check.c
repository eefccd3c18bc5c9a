/*
 * pack_check.c - the invariants of a shard's lists, in one place: what blocks and the search rely
 * on. For tests and debugging: linear in the edges but for one look-up a stored edge in its row's
 * list. Reads only; one thread; allocates nothing.
 */
#include "builder/pack.h"

static enum status shape_check(const struct pack_input *input, const struct pack_lists *lists,
                               struct error *err)
{
    const struct block_geometry *geometry = &lists->geometry;
    uint64_t nodes = (uint64_t)lists->block_count * geometry->nodes_per_block;
    enum status status = block_geometry_check(geometry, err);
    if (status)
        return status;
    if (lists->graph.count != nodes)
        return error_set(err, STATUS_CORRUPT, "packing: lists of %u nodes, %u blocks of %u",
                         lists->graph.count, lists->block_count, geometry->nodes_per_block);
    if (lists->first_node % geometry->nodes_per_block != 0 ||
        lists->first_node + nodes > geometry->node_limit)
        return error_set(err, STATUS_CORRUPT, "packing: nodes %u to %llu, node_limit %u",
                         lists->first_node, (unsigned long long)(lists->first_node + nodes),
                         geometry->node_limit);
    uint64_t records = 0;
    for (uint32_t node = 0; node < lists->graph.count; node++)
        records += lists->row_of_node[node] != UINT32_MAX;
    if (records != input->graph->count)
        return error_set(err, STATUS_CORRUPT, "packing: %llu records of %u rows",
                         (unsigned long long)records, input->graph->count);
    return STATUS_OK;
}

/* Rows and the nodes that have a record are one to one; a block's records are its first slots, and
 * there is at least one. */
static enum status numbering_check(const struct pack_input *input, const uint32_t *node_of_position,
                                   const struct pack_lists *lists, struct error *err)
{
    uint32_t capacity = lists->geometry.nodes_per_block;
    for (uint32_t node = 0; node < lists->graph.count; node++) {
        uint32_t row = lists->row_of_node[node];
        if (row == UINT32_MAX) {
            if (node % capacity == 0)
                return error_set(err, STATUS_CORRUPT, "packing: block %u is empty",
                                 node / capacity);
            continue;
        }
        if (row >= input->graph->count ||
            node_of_position[input->first + row] != lists->first_node + node)
            return error_set(err, STATUS_CORRUPT, "packing: node %u is row %u, which is not it",
                             node, row);
        if (node % capacity != 0 && lists->row_of_node[node - 1] == UINT32_MAX)
            return error_set(err, STATUS_CORRUPT, "packing: block %u has a hole before node %u",
                             node / capacity, node);
    }
    return STATUS_OK;
}

static bool list_has(const struct pack_lists *lists, uint32_t node, uint32_t id)
{
    const uint32_t *ids = graph_neighbors(&lists->graph, node);
    for (uint32_t i = 0; i < graph_degree(&lists->graph, node); i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* Some record of the node's block stores `id`. */
static bool block_has(const struct pack_lists *lists, uint32_t node, uint32_t id)
{
    uint32_t capacity = lists->geometry.nodes_per_block;
    uint32_t first = node / capacity * capacity;
    for (uint32_t mate = first; mate < first + capacity; mate++)
        if (list_has(lists, mate, id))
            return true;
    return false;
}

/* Stored ids are the row's edges to other blocks, less trimmed ones; those to be kept are in the
 * block. Adds to the counts. */
static enum status list_check(const struct pack_input *input, const uint32_t *node_of_position,
                              const struct pack_lists *lists, uint32_t node, uint64_t *outside,
                              struct error *err)
{
    uint32_t capacity = lists->geometry.nodes_per_block;
    uint32_t own_block = (lists->first_node + node) / capacity;
    uint32_t row = lists->row_of_node[node];
    const uint32_t *positions = graph_neighbors(input->graph, row);
    uint32_t found = 0;
    for (uint32_t i = 0; i < graph_degree(input->graph, row); i++) {
        uint32_t id = node_of_position[positions[i]];
        if (id / capacity == own_block)
            continue;
        ++*outside;
        found += list_has(lists, node, id);
        if (input->kept != NULL && i < input->kept[row] && !block_has(lists, node, id))
            return error_set(err, STATUS_CORRUPT, "packing: node %u lost its way to node %u", node,
                             id);
    }
    const uint32_t *ids = graph_neighbors(&lists->graph, node);
    uint32_t degree = graph_degree(&lists->graph, node);
    for (uint32_t i = 0; i < degree; i++) {
        if (ids[i] >= lists->geometry.node_limit)
            return error_set(err, STATUS_CORRUPT, "packing: node %u lists node %u: no record", node,
                             ids[i]);
        if (i > 0 && ids[i] <= ids[i - 1])
            return error_set(err, STATUS_CORRUPT, "packing: node %u lists %u after %u", node,
                             ids[i], ids[i - 1]);
        if (ids[i] / capacity == own_block)
            return error_set(err, STATUS_CORRUPT, "packing: node %u lists block-mate %u", node,
                             ids[i]);
    }
    if (found != degree)
        return error_set(err, STATUS_CORRUPT, "packing: node %u lists %u ids, %u are its edges",
                         node, degree, found);
    return STATUS_OK;
}

static enum status block_fits(const struct pack_lists *lists, uint32_t block, struct error *err)
{
    uint32_t capacity = lists->geometry.nodes_per_block;
    uint32_t record_count = 0;
    int64_t bytes = 0;
    for (uint32_t node = block * capacity; node < (block + 1) * capacity; node++) {
        if (lists->row_of_node[node] == UINT32_MAX)
            continue;
        record_count++;
        bytes += (int64_t)block_list_bytes(&lists->geometry, graph_neighbors(&lists->graph, node),
                                           graph_degree(&lists->graph, node));
    }
    int64_t budget = block_list_budget(&lists->geometry, record_count);
    if (bytes > budget)
        return error_set(err, STATUS_CORRUPT, "packing: lists of block %u take %lld bytes of %lld",
                         block, (long long)bytes, (long long)budget);
    return STATUS_OK;
}

enum status pack_lists_check(const struct pack_input *input, const uint32_t *node_of_position,
                             const struct pack_lists *lists, struct error *err)
{
    uint64_t outside = 0;
    uint64_t stored = 0;
    enum status status = shape_check(input, lists, err);
    if (!status)
        status = numbering_check(input, node_of_position, lists, err);
    for (uint32_t node = 0; !status && node < lists->graph.count; node++) {
        stored += graph_degree(&lists->graph, node);
        if (lists->row_of_node[node] != UINT32_MAX)
            status = list_check(input, node_of_position, lists, node, &outside, err);
        else if (graph_degree(&lists->graph, node) != 0)
            status = error_set(err, STATUS_CORRUPT, "packing: node %u has a list, no record", node);
    }
    for (uint32_t block = 0; !status && block < lists->block_count; block++)
        status = block_fits(lists, block, err);
    if (!status && (stored + lists->trimmed != outside || lists->outside != outside))
        status = error_set(err, STATUS_CORRUPT,
                           "packing: %llu edges between blocks, %llu stored and %llu trimmed",
                           (unsigned long long)outside, (unsigned long long)stored,
                           (unsigned long long)lists->trimmed);
    return status;
}
