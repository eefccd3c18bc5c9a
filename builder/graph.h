/*
 * graph.h - a directed graph over rows 0..count-1 in RAM: fixed-stride adjacency.
 */
#ifndef NIGHTJAR_BUILDER_GRAPH_H
#define NIGHTJAR_BUILDER_GRAPH_H

#include <stddef.h>
#include <stdint.h>

#include "common/compiler.h"
#include "common/error.h"

struct graph {
    uint32_t count;
    uint32_t stride; /* u32 slots a node: [0] is the degree, then the neighbours */
    uint32_t *slots; /* count * stride */
};

NODISCARD enum status graph_create(struct graph *graph, uint32_t count, uint32_t degree_capacity,
                                   struct error *err);
void graph_destroy(struct graph *graph);

ALWAYS_INLINE uint32_t graph_degree(const struct graph *graph, uint32_t node)
{
    return graph->slots[(size_t)node * graph->stride];
}

ALWAYS_INLINE uint32_t *graph_neighbors(const struct graph *graph, uint32_t node)
{
    return graph->slots + (size_t)node * graph->stride + 1;
}

ALWAYS_INLINE void graph_set_degree(struct graph *graph, uint32_t node, uint32_t degree)
{
    graph->slots[(size_t)node * graph->stride] = degree;
}

/* Degrees within the stride, ids < count, no self loop, no repeated neighbour; names the first
 * fault. */
NODISCARD enum status graph_check(const struct graph *graph, uint32_t degree_max,
                                  struct error *err);

#endif
