/*
 * graph_tree.c - the guarantee that every own node is reachable from the root: a spanning tree.
 *
 * A depth-first walk from the root over own nodes marks the edge by which it reaches each of them.
 * These tree edges move to the front of their lists, and every later stage (merge, packing) may
 * drop any edge but them; so whatever is cut, each own node stays reachable from the root. Depth
 * first, most nodes have one tree edge; breadth first, the root's neighbourhood would consist of
 * them.
 *
 * A node keeps at most R - 1 of them, which leaves a place for an edge to another shard's root. Own
 * nodes that the walk does not reach are adopted, in row order: searched for, and given an edge
 * from the nearest own node that was reached and has a place. The walk then goes on from there.
 *
 * Borrowed nodes have no part in it: the shard that owns them sees to them.
 *
 * Sequential: one look at each edge, and a handful of adoptions on real data; only input made of
 * duplicates has many.
 */
#include <string.h>

#include "builder/graph_internal.h"
#include "common/memory.h"

struct tree {
    const struct vector_set *set;
    struct graph *graph;
    uint32_t own_count;
    uint32_t degree;
    uint8_t *kept;    /* tree edges of each node: the first of its list */
    uint8_t *cursor;  /* where in its list the walk goes on */
    uint8_t *reached; /* own nodes */
    uint32_t *stack;
    uint32_t stack_count;
    uint32_t reached_count;
    uint32_t latest; /* reached last */
};

static void reach(struct tree *t, uint32_t node)
{
    t->reached[node] = 1;
    t->reached_count++;
    t->latest = node;
    t->stack[t->stack_count++] = node;
}

/* Moves list entry i to the end of the tree edges; the others keep their order. */
static void edge_keep(struct tree *t, uint32_t node, uint32_t i)
{
    uint32_t *ids = graph_neighbors(t->graph, node);
    uint32_t child = ids[i];
    uint32_t place = t->kept[node]++;
    memmove(ids + place + 1, ids + place, (i - place) * sizeof(*ids));
    ids[place] = child;
}

static bool has_place(const struct tree *t, uint32_t node)
{
    return t->kept[node] + 1u < t->degree;
}

/* The next own node that `node` points to and nothing reached yet, now a tree edge. */
static bool child_next(struct tree *t, uint32_t node, uint32_t *child)
{
    const uint32_t *ids = graph_neighbors(t->graph, node);
    uint32_t degree = graph_degree(t->graph, node);
    for (uint32_t i = t->cursor[node]; i < degree && has_place(t, node); i++) {
        if (ids[i] >= t->own_count || t->reached[ids[i]])
            continue;
        *child = ids[i];
        edge_keep(t, node, i);
        t->cursor[node] = (uint8_t)(i + 1);
        return true;
    }
    t->cursor[node] = (uint8_t)degree;
    return false;
}

static void walk(struct tree *t)
{
    while (t->stack_count > 0) {
        uint32_t child;
        if (child_next(t, t->stack[t->stack_count - 1], &child))
            reach(t, child);
        else
            t->stack_count--;
    }
}

/* Gives `host` a tree edge to `node`, in place of its farthest other edge where its list is full.
 */
static void adopt(struct tree *t, uint32_t host, uint32_t node)
{
    uint32_t *ids = graph_neighbors(t->graph, host);
    uint32_t degree = graph_degree(t->graph, host);
    uint32_t place = 0;
    while (place < degree && ids[place] != node) /* an edge the walk had no place for */
        place++;
    if (place == degree && degree < t->degree)
        graph_set_degree(t->graph, host, degree + 1);
    else if (place == degree)
        place = degree - 1;
    ids[place] = node;
    edge_keep(t, host, place);
}

/* The nearest own node with a place among what a search for `node` expands, else the one reached
 * last: a leaf, whose places are all free. */
static uint32_t host_find(const struct tree *t, uint32_t entry, uint32_t node, uint32_t list,
                          struct graph_scratch *s)
{
    struct candidate best = {0.0f, UINT32_MAX};
    graph_search_run(t->set, t->graph, entry, node, list, s);
    for (uint32_t i = 0; i < s->visited_count; i++) {
        struct candidate c = s->visited[i];
        if (c.id < t->own_count && t->reached[c.id] && has_place(t, c.id) &&
            (best.id == UINT32_MAX || candidate_less(c, best)))
            best = c;
    }
    return best.id == UINT32_MAX ? t->latest : best.id;
}

/* The entry, or the own node nearest to it where it is borrowed. */
static uint32_t root_find(const struct vector_set *set, uint32_t own_count, uint32_t entry)
{
    if (entry < own_count)
        return entry;
    struct candidate best = {vector_set_pair(set, entry, 0), 0};
    for (uint32_t node = 1; node < own_count; node++) {
        struct candidate c = {vector_set_pair(set, entry, node), node};
        if (candidate_less(c, best))
            best = c;
    }
    return best.id;
}

static enum status arrays_alloc(struct tree *t, struct error *err)
{
    void *cursor = NULL;
    void *reached = NULL;
    void *stack = NULL;
    enum status status = bulk_alloc(t->own_count, sizeof(uint8_t), "tree walk", &cursor, err);
    if (!status)
        status = bulk_alloc(t->own_count, sizeof(uint8_t), "reached rows", &reached, err);
    if (!status)
        status = bulk_alloc(t->own_count, sizeof(uint32_t), "tree walk", &stack, err);
    t->cursor = cursor;
    t->reached = reached;
    t->stack = stack;
    return status;
}

enum status graph_tree(const struct vector_set *set, const struct graph_params *params,
                       uint32_t entry, struct graph_result *result, struct error *err)
{
    struct tree t = {
        .set = set,
        .graph = &result->graph,
        .own_count = params->own_count != 0 ? params->own_count : set->count,
        .degree = params->degree,
        .kept = result->kept,
    };
    struct graph_scratch *scratch = NULL;
    enum status status = arrays_alloc(&t, err);
    if (!status)
        status = graph_scratch_create(set, params->build_list, t.graph->stride, &scratch, err);
    if (status)
        goto out;
    result->root = root_find(set, t.own_count, entry);
    reach(&t, result->root);
    walk(&t);
    for (uint32_t node = 0; node < t.own_count && t.reached_count < t.own_count; node++) {
        if (t.reached[node])
            continue;
        adopt(&t, host_find(&t, entry, node, params->build_list, scratch), node);
        result->repaired_nodes++;
        reach(&t, node);
        walk(&t);
    }
out:
    graph_scratch_destroy(scratch);
    bulk_free(t.cursor, t.own_count, sizeof(uint8_t));
    bulk_free(t.reached, t.own_count, sizeof(uint8_t));
    bulk_free(t.stack, t.own_count, sizeof(uint32_t));
    return status;
}
