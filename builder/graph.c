/*
 * graph.c - see graph.h. Storage only; who writes which node when is the stages' business.
 */
#include "builder/graph.h"

#include <string.h>

#include "common/memory.h"

enum status graph_create(struct graph *graph, uint32_t count, uint32_t degree_capacity,
                         struct error *err)
{
    void *slots = NULL;
    uint32_t stride = degree_capacity + 1;
    enum status status =
        bulk_alloc(count, (size_t)stride * sizeof(uint32_t), "graph adjacency", &slots, err);
    if (status)
        return status;
    *graph = (struct graph){.count = count, .stride = stride, .slots = slots};
    return STATUS_OK;
}

void graph_destroy(struct graph *graph)
{
    if (graph->slots)
        bulk_free(graph->slots, graph->count, (size_t)graph->stride * sizeof(uint32_t));
    memset(graph, 0, sizeof(*graph));
}

enum status graph_check(const struct graph *graph, uint32_t degree_max, struct error *err)
{
    for (uint32_t node = 0; node < graph->count; node++) {
        uint32_t degree = graph_degree(graph, node);
        if (degree > degree_max || degree >= graph->stride)
            return error_set(err, STATUS_CORRUPT,
                             "graph: node %u has degree %u, at most %u allowed", node, degree,
                             MIN(degree_max, graph->stride - 1));
        const uint32_t *ids = graph_neighbors(graph, node);
        for (uint32_t i = 0; i < degree; i++) {
            if (ids[i] >= graph->count || ids[i] == node)
                return error_set(err, STATUS_CORRUPT, "graph: node %u has neighbour %u of %u nodes",
                                 node, ids[i], graph->count);
            for (uint32_t j = 0; j < i; j++)
                if (ids[j] == ids[i])
                    return error_set(err, STATUS_CORRUPT, "graph: node %u has neighbour %u twice",
                                     node, ids[i]);
        }
    }
    return STATUS_OK;
}
