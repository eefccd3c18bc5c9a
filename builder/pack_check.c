/*
 * pack_check.c - the invariants of a packing, in one place: what write_blocks and the search rely
 * on. For tests and debugging: linear in the edges but for one look-up a stored edge in its row's
 * list. Reads only; one thread; allocates O(blocks).
 */
#include "builder/pack.h"
#include "common/memory.h"

static enum status shape_check(const struct graph *graph, const struct pack_result *result,
                               struct error *err)
{
    const struct block_geometry *geometry = &result->geometry;
    enum status status = block_geometry_check(geometry, err);
    if (status)
        return status;
    if (result->row_count != graph->count)
        return error_set(err, STATUS_CORRUPT, "packing: %u rows, the graph has %u",
                         result->row_count, graph->count);
    if (result->block_count * geometry->nodes_per_block != geometry->node_limit)
        return error_set(err, STATUS_CORRUPT, "packing: %llu blocks of %u nodes, node_limit %u",
                         (unsigned long long)result->block_count, geometry->nodes_per_block,
                         geometry->node_limit);
    if (result->lists.count != geometry->node_limit)
        return error_set(err, STATUS_CORRUPT, "packing: lists of %u nodes, node_limit %u",
                         result->lists.count, geometry->node_limit);
    if (result->entry_node >= geometry->node_limit ||
        result->row_of_node[result->entry_node] == UINT32_MAX)
        return error_set(err, STATUS_CORRUPT, "packing: entry node %u has no record",
                         result->entry_node);
    return STATUS_OK;
}

/* Rows and the nodes that have a record are one to one; a block's records are its first slots, and
 * there is at least one. */
static enum status numbering_check(const struct pack_result *result, struct error *err)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    for (uint32_t row = 0; row < result->row_count; row++) {
        uint32_t node = result->node_of_row[row];
        if (node >= result->geometry.node_limit || result->row_of_node[node] != row)
            return error_set(err, STATUS_CORRUPT, "packing: row %u is node %u, which is not it",
                             row, node);
    }
    for (uint32_t node = 0; node < result->geometry.node_limit; node++) {
        uint32_t row = result->row_of_node[node];
        if (row == UINT32_MAX) {
            if (node % capacity == 0)
                return error_set(err, STATUS_CORRUPT, "packing: block %u is empty",
                                 node / capacity);
            continue;
        }
        if (row >= result->row_count || result->node_of_row[row] != node)
            return error_set(err, STATUS_CORRUPT, "packing: node %u is row %u, which is not it",
                             node, row);
        if (node % capacity != 0 && result->row_of_node[node - 1] == UINT32_MAX)
            return error_set(err, STATUS_CORRUPT, "packing: block %u has a hole before node %u",
                             node / capacity, node);
    }
    return STATUS_OK;
}

static bool row_points_to(const struct graph *graph, uint32_t row, uint32_t target)
{
    const uint32_t *ids = graph_neighbors(graph, row);
    for (uint32_t i = 0; i < graph_degree(graph, row); i++)
        if (ids[i] == target)
            return true;
    return false;
}

static enum status list_check(const struct graph *graph, const struct pack_result *result,
                              uint32_t node, struct error *err)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    uint32_t degree = graph_degree(&result->lists, node);
    uint32_t row = result->row_of_node[node];
    if (degree >= result->lists.stride || degree > BLOCK_DEGREE_MAX ||
        (degree > 0 && row == UINT32_MAX))
        return error_set(err, STATUS_CORRUPT, "packing: node %u has a list of %u", node, degree);
    const uint32_t *ids = graph_neighbors(&result->lists, node);
    for (uint32_t i = 0; i < degree; i++) {
        if (ids[i] >= result->geometry.node_limit || result->row_of_node[ids[i]] == UINT32_MAX)
            return error_set(err, STATUS_CORRUPT, "packing: node %u lists node %u: no record", node,
                             ids[i]);
        if (i > 0 && ids[i] <= ids[i - 1])
            return error_set(err, STATUS_CORRUPT, "packing: node %u lists %u after %u", node,
                             ids[i], ids[i - 1]);
        if (ids[i] / capacity == node / capacity)
            return error_set(err, STATUS_CORRUPT, "packing: node %u lists block-mate %u", node,
                             ids[i]);
        if (!row_points_to(graph, row, result->row_of_node[ids[i]]))
            return error_set(err, STATUS_CORRUPT,
                             "packing: node %u lists node %u: the graph has no such edge", node,
                             ids[i]);
    }
    return STATUS_OK;
}

/* Every list is right and every block's lists fit it. */
static enum status blocks_check(const struct graph *graph, const struct pack_result *result,
                                struct error *err)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    for (uint32_t block = 0; block < result->block_count; block++) {
        uint32_t record_count = 0;
        int64_t bytes = 0;
        for (uint32_t node = block * capacity; node < (block + 1) * capacity; node++) {
            enum status status = list_check(graph, result, node, err);
            if (status)
                return status;
            if (result->row_of_node[node] == UINT32_MAX)
                continue;
            record_count++;
            bytes +=
                (int64_t)block_list_bytes(&result->geometry, graph_neighbors(&result->lists, node),
                                          graph_degree(&result->lists, node));
        }
        int64_t budget = block_list_budget(&result->geometry, record_count);
        if (bytes > budget)
            return error_set(err, STATUS_CORRUPT,
                             "packing: lists of block %u take %lld bytes of %lld", block,
                             (long long)bytes, (long long)budget);
    }
    return STATUS_OK;
}

/* Each edge of the graph is stored, implicit between block-mates, or counted as trimmed. */
static enum status edges_check(const struct graph *graph, const struct pack_result *result,
                               struct error *err)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    uint64_t outside = 0;
    uint64_t stored = 0;
    for (uint32_t row = 0; row < graph->count; row++) {
        uint32_t node = result->node_of_row[row];
        const uint32_t *ids = graph_neighbors(graph, row);
        for (uint32_t i = 0; i < graph_degree(graph, row); i++)
            outside += result->node_of_row[ids[i]] / capacity != node / capacity;
        stored += graph_degree(&result->lists, node);
    }
    if (stored + result->trimmed_edges != outside)
        return error_set(err, STATUS_CORRUPT,
                         "packing: %llu edges between blocks, %llu stored and %llu trimmed",
                         (unsigned long long)outside, (unsigned long long)stored,
                         (unsigned long long)result->trimmed_edges);
    return STATUS_OK;
}

/* Blocks reached from the entry's over stored lists; queue[block_count], reached[block_count]. */
static uint32_t blocks_reached(const struct pack_result *result, uint32_t *queue, uint8_t *reached)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    uint32_t head = 0;
    uint32_t tail = 0;
    queue[tail++] = result->entry_node / capacity;
    reached[queue[0]] = 1;
    while (head < tail) {
        uint32_t first = queue[head++] * capacity;
        for (uint32_t node = first; node < first + capacity; node++) {
            const uint32_t *ids = graph_neighbors(&result->lists, node);
            for (uint32_t i = 0; i < graph_degree(&result->lists, node); i++) {
                uint32_t target = ids[i] / capacity;
                if (reached[target])
                    continue;
                reached[target] = 1;
                queue[tail++] = target;
            }
        }
    }
    return tail;
}

static enum status reach_check(const struct pack_result *result, struct error *err)
{
    void *queue = NULL;
    void *reached = NULL;
    enum status status =
        bulk_alloc(result->block_count, sizeof(uint32_t), "block walk queue", &queue, err);
    if (!status)
        status = bulk_alloc(result->block_count, sizeof(uint8_t), "reached blocks", &reached, err);
    if (!status) {
        uint32_t count = blocks_reached(result, queue, reached);
        if (count != result->block_count)
            status = error_set(err, STATUS_CORRUPT, "packing: %u of %llu blocks reachable", count,
                               (unsigned long long)result->block_count);
    }
    if (queue)
        bulk_free(queue, result->block_count, sizeof(uint32_t));
    if (reached)
        bulk_free(reached, result->block_count, sizeof(uint8_t));
    return status;
}

enum status pack_result_check(const struct graph *graph, const struct pack_result *result,
                              struct error *err)
{
    enum status status = shape_check(graph, result, err);
    if (!status)
        status = numbering_check(result, err);
    if (!status)
        status = blocks_check(graph, result, err);
    if (!status)
        status = edges_check(graph, result, err);
    if (!status)
        status = reach_check(result, err);
    return status;
}
