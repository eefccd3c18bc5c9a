/*
 * vamana_repair.c - the guarantee that every node is reachable from the entry.
 *
 * A breadth-first walk records each node's parent: its tree edge. Each unreached node, in row
 * order, is then searched for; the nearest reached node with room for another edge, or with an edge
 * that is nobody's tree edge, takes it in (in the latter case in place of its farthest such edge),
 * and the walk goes on from there. Tree edges are never removed, so what was reached stays reached.
 *
 * Sequential: a handful of nodes on real data; only input made of duplicates has many.
 */
#include <string.h>

#include "builder/vamana_internal.h"
#include "common/memory.h"

#define UNREACHED UINT32_MAX

struct repair {
    const struct vector_set *set;
    struct graph *graph;
    uint32_t *parent; /* of each node; UNREACHED; the entry is its own */
    uint32_t *queue;
    uint32_t head, tail;
};

static void reach(struct repair *r, uint32_t node, uint32_t parent)
{
    r->parent[node] = parent;
    r->queue[r->tail++] = node;
}

static void walk(struct repair *r)
{
    while (r->head < r->tail) {
        uint32_t node = r->queue[r->head++];
        const uint32_t *ids = graph_neighbors(r->graph, node);
        uint32_t degree = graph_degree(r->graph, node);
        for (uint32_t i = 0; i < degree; i++)
            if (r->parent[ids[i]] == UNREACHED)
                reach(r, ids[i], node);
    }
}

/* Gives `host` an edge to `node`; false if all its edges are tree edges and it is full. */
static bool adopt(struct repair *r, uint32_t host, uint32_t node, uint32_t degree_max)
{
    uint32_t *ids = graph_neighbors(r->graph, host);
    uint32_t degree = graph_degree(r->graph, host);
    if (degree < degree_max) {
        ids[degree] = node;
        graph_set_degree(r->graph, host, degree + 1);
        return true;
    }
    for (uint32_t i = degree; i-- > 0;)
        if (r->parent[ids[i]] != host) {
            ids[i] = node;
            return true;
        }
    return false;
}

/* Nearest reached node that can take `node` in: first among what a search for it expands, else (all
 * those full of tree edges) the latest reached, which is a leaf and has no tree edge at all. */
static uint32_t host_find(struct repair *r, uint32_t entry, uint32_t node, uint32_t list,
                          uint32_t degree_max, struct vamana_scratch *s)
{
    vamana_search_run(r->set, r->graph, entry, node, list, s);
    for (uint32_t tried = 0; tried < s->visited_count; tried++) {
        uint32_t nearest = tried;
        for (uint32_t i = tried + 1; i < s->visited_count; i++)
            if (vamana_candidate_less(s->visited[i], s->visited[nearest]))
                nearest = i;
        struct vamana_candidate c = s->visited[nearest];
        s->visited[nearest] = s->visited[tried];
        if (adopt(r, c.id, node, degree_max))
            return c.id;
    }
    uint32_t leaf = r->queue[r->tail - 1];
    (void)adopt(r, leaf, node, degree_max);
    return leaf;
}

enum status vamana_repair(const struct vector_set *set, struct graph *graph, uint32_t entry,
                          uint32_t list, uint32_t degree, uint64_t *repaired, struct error *err)
{
    struct repair r = {.set = set, .graph = graph};
    struct vamana_scratch *scratch = NULL;
    void *parent = NULL;
    void *queue = NULL;
    uint64_t adopted = 0;
    enum status status = bulk_alloc(graph->count, sizeof(uint32_t), "reachability", &parent, err);
    if (!status)
        status = bulk_alloc(graph->count, sizeof(uint32_t), "reachability queue", &queue, err);
    if (!status)
        status = vamana_scratch_create(list, graph->stride, &scratch, err);
    if (status)
        goto out;
    r.parent = parent;
    r.queue = queue;
    memset(parent, 0xff, (size_t)graph->count * sizeof(uint32_t));
    reach(&r, entry, entry);
    walk(&r);
    for (uint32_t node = 0; node < graph->count && r.tail < graph->count; node++) {
        if (r.parent[node] != UNREACHED)
            continue;
        reach(&r, node, host_find(&r, entry, node, list, degree, scratch));
        adopted++;
        walk(&r);
    }
    *repaired = adopted;
out:
    vamana_scratch_destroy(scratch);
    if (parent)
        bulk_free(parent, graph->count, sizeof(uint32_t));
    if (queue)
        bulk_free(queue, graph->count, sizeof(uint32_t));
    return status;
}
