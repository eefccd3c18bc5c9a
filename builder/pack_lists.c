/*
 * pack_lists.c - a shard's lists in node ids, and trimming that makes every block's lists fit.
 *
 * What goes first from an overflowing block: an edge that a block-mate has too (whoever reads the
 * block sees the target all the same), farthest first; then other edges, farthest first, but never
 * one that must be kept. Of several block-mates' edges to one node the nearest stays, in their
 * place, and must be kept if one of them must. So whatever was reachable over kept edges stays
 * reachable, for whoever reads a node has read its block-mates. Blocks are independent of one
 * another: one thread each.
 */
#include <stdlib.h>
#include <string.h>

#include "builder/pack_internal.h"
#include "common/memory.h"
#include "common/u64_sort.h"

/* An edge of the block at hand. */
/* An edge of a block as a number. While equal ids are looked for: id, rank (place in the list),
 * slot, kept. In order of removal: whether no block-mate has it too, at a better or equal rank; how
 * near; id; slot; kept. */
enum {
    EDGE_SLOT_SHIFT = 1,
    EDGE_SLOT_BITS = 15,
    EDGE_RANK_SHIFT = 16,
    EDGE_ID_SHIFT = 32,
    REMOVAL_ID_SHIFT = 16,
    REMOVAL_NEAR_SHIFT = 48,
    REMOVAL_UNSHARED_SHIFT = 56,
};
_Static_assert(BLOCK_NODES_MAX <= 1 << EDGE_SLOT_BITS && BLOCK_DEGREE_MAX <= UINT8_MAX,
               "slots and ranks of an edge");

void pack_ids_sort(uint32_t *ids, uint32_t count)
{
    static const uint32_t gaps[] = {57, 23, 10, 4, 1};
    for (uint32_t g = 0; g < ARRAY_LENGTH(gaps); g++) {
        uint32_t gap = gaps[g];
        for (uint32_t i = gap; i < count; i++) {
            uint32_t moved = ids[i];
            uint32_t j = i;
            for (; j >= gap && ids[j - gap] > moved; j -= gap)
                ids[j] = ids[j - gap];
            ids[j] = moved;
        }
    }
}

/* ---- filling ---- */

enum status pack_lists_create(const struct block_geometry *geometry, uint32_t first_node,
                              const struct pack_order *order, uint32_t degree_max,
                              struct pack_lists *lists, struct error *err)
{
    uint32_t nodes = order->block_count * geometry->nodes_per_block;
    void *kept = NULL;
    void *rows = NULL;
    *lists = (struct pack_lists){
        .geometry = *geometry,
        .first_node = first_node,
        .block_count = order->block_count,
    };
    enum status status = graph_create(&lists->graph, nodes, degree_max, err);
    if (!status)
        status = bulk_alloc(nodes, sizeof(uint8_t), "kept edges", &kept, err);
    lists->kept = kept;
    if (!status)
        status = bulk_alloc(nodes, sizeof(uint32_t), "rows of nodes", &rows, err);
    lists->row_of_node = rows;
    if (status) {
        pack_lists_destroy(lists);
        return status;
    }
    memset(rows, 0xff, nodes * sizeof(uint32_t));
    for (uint32_t row = 0; row < order->row_count; row++)
        lists->row_of_node[order->node_of_row[row]] = row;
    return STATUS_OK;
}

void pack_lists_destroy(struct pack_lists *lists)
{
    bulk_free(lists->kept, lists->graph.count, sizeof(uint8_t));
    bulk_free(lists->row_of_node, lists->graph.count, sizeof(uint32_t));
    graph_destroy(&lists->graph);
    memset(lists, 0, sizeof(*lists));
}

void pack_lists_put(struct pack_lists *lists, uint32_t node, const uint32_t *ids, uint32_t degree,
                    uint32_t kept)
{
    uint32_t block_nodes = lists->geometry.nodes_per_block;
    uint32_t block_first = lists->first_node + node / block_nodes * block_nodes;
    uint32_t *out = graph_neighbors(&lists->graph, node);
    uint32_t stored = 0;
    uint32_t stored_kept = 0;
    for (uint32_t i = 0; i < degree; i++) {
        if (ids[i] - block_first < block_nodes)
            continue;
        out[stored++] = ids[i];
        stored_kept += i < kept;
    }
    graph_set_degree(&lists->graph, node, stored);
    lists->kept[node] = (uint8_t)stored_kept;
}

/* ---- trimming ---- */

/* A thread's, for the block at hand. */
struct trim {
    uint64_t *edges;  /* of all its records */
    uint32_t *sorted; /* its records' lists, ascending: slot * stride */
    uint32_t stride;
    uint32_t degree[BLOCK_NODES_MAX];
    uint32_t bytes[BLOCK_NODES_MAX]; /* encoded */
};

static enum status trim_create(const struct pack_lists *lists, struct trim **out)
{
    uint32_t stride = lists->graph.stride - 1;
    size_t edges_max = (size_t)lists->geometry.nodes_per_block * stride;
    struct trim *t = malloc(sizeof(*t));
    *out = t;
    if (t == NULL)
        return STATUS_NO_MEMORY;
    t->stride = stride;
    t->edges = malloc((edges_max + 1) * sizeof(*t->edges));
    t->sorted = malloc((edges_max + 1) * sizeof(*t->sorted));
    return t->edges != NULL && t->sorted != NULL ? STATUS_OK : STATUS_NO_MEMORY;
}

static void trim_destroy(struct trim *t)
{
    if (t == NULL)
        return;
    free(t->edges);
    free(t->sorted);
    free(t);
}

static uint32_t *sorted_list(const struct trim *t, uint32_t slot)
{
    return t->sorted + (size_t)slot * t->stride;
}

static void list_measure(const struct pack_lists *lists, struct trim *t, uint32_t slot)
{
    t->bytes[slot] =
        (uint32_t)block_list_bytes(&lists->geometry, sorted_list(t, slot), t->degree[slot]);
}

static void list_remove(struct trim *t, uint32_t slot, uint32_t id)
{
    uint32_t *ids = sorted_list(t, slot);
    uint32_t i = 0;
    while (ids[i] != id)
        i++;
    t->degree[slot]--;
    memmove(ids + i, ids + i + 1, (t->degree[slot] - i) * sizeof(*ids));
}

/* All edges of the block in order of removal: shared ones first,
 * then the farthest, then in a fixed order; returns how many. */
static uint32_t edges_collect(const struct pack_lists *lists, uint32_t block, uint32_t record_count,
                              uint64_t *edges)
{
    uint32_t first = block * lists->geometry.nodes_per_block;
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < record_count; slot++) {
        const uint32_t *ids = graph_neighbors(&lists->graph, first + slot);
        for (uint32_t i = 0; i < graph_degree(&lists->graph, first + slot); i++)
            edges[count++] = (uint64_t)ids[i] << EDGE_ID_SHIFT | i << EDGE_RANK_SHIFT |
                             slot << EDGE_SLOT_SHIFT | (i < lists->kept[first + slot]);
    }
    u64_sort(edges, count);
    uint32_t stays = 0; /* first of the edges to one node */
    uint32_t last = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t id = edges[i] >> EDGE_ID_SHIFT;
        uint64_t near = UINT8_MAX - (edges[i] >> EDGE_RANK_SHIFT & UINT8_MAX);
        uint64_t slot_kept = edges[i] & ((1u << EDGE_RANK_SHIFT) - 1);
        bool shared = i > 0 && id == last;
        if (shared)
            edges[stays] |= slot_kept & 1;
        else
            stays = i;
        last = (uint32_t)id;
        edges[i] = (uint64_t)!shared << REMOVAL_UNSHARED_SHIFT | near << REMOVAL_NEAR_SHIFT |
                   id << REMOVAL_ID_SHIFT | slot_kept;
    }
    u64_sort(edges, count);
    return count;
}

static uint32_t records_count(const struct pack_lists *lists, uint32_t block)
{
    uint32_t first = block * lists->geometry.nodes_per_block;
    uint32_t count = 0;
    while (count < lists->geometry.nodes_per_block &&
           lists->row_of_node[first + count] != UINT32_MAX)
        count++;
    return count;
}

/* Sorts and measures the block's lists; returns their bytes. */
static int64_t lists_sort(const struct pack_lists *lists, struct trim *t, uint32_t first,
                          uint32_t record_count)
{
    int64_t total = 0;
    for (uint32_t slot = 0; slot < record_count; slot++) {
        uint32_t degree = graph_degree(&lists->graph, first + slot);
        memcpy(sorted_list(t, slot), graph_neighbors(&lists->graph, first + slot),
               degree * sizeof(uint32_t));
        pack_ids_sort(sorted_list(t, slot), degree);
        t->degree[slot] = degree;
        list_measure(lists, t, slot);
        total += t->bytes[slot];
    }
    return total;
}

/* Takes edges out in order of removal until `over` bytes are saved; returns how many, or
 * PACK_TRIM_IMPOSSIBLE. */
static uint64_t edges_remove(const struct pack_lists *lists, struct trim *t, uint32_t count,
                             int64_t over)
{
    uint64_t removed = 0;
    for (uint32_t i = 0; i < count && over > 0; i++) {
        uint64_t edge = t->edges[i];
        uint32_t slot = edge >> EDGE_SLOT_SHIFT & ((1u << EDGE_SLOT_BITS) - 1);
        if (edge >> REMOVAL_UNSHARED_SHIFT && edge & 1) /* the only one, and kept */
            continue;
        over -= t->bytes[slot];
        list_remove(t, slot, (uint32_t)(edge >> REMOVAL_ID_SHIFT));
        list_measure(lists, t, slot);
        over += t->bytes[slot];
        removed++;
    }
    return over <= 0 ? removed : PACK_TRIM_IMPOSSIBLE;
}

/* Trims and sorts one block's lists; returns the edges removed, or PACK_TRIM_IMPOSSIBLE. */
static uint64_t block_trim(struct pack_lists *lists, uint32_t block, struct trim *t,
                           uint64_t *outside)
{
    uint32_t first = block * lists->geometry.nodes_per_block;
    uint32_t record_count = records_count(lists, block);
    int64_t over = lists_sort(lists, t, first, record_count) -
                   block_list_budget(&lists->geometry, record_count);
    uint64_t removed = 0;
    *outside = 0;
    for (uint32_t slot = 0; slot < record_count; slot++)
        *outside += t->degree[slot];
    if (over > 0) {
        uint32_t count = edges_collect(lists, block, record_count, t->edges);
        removed = edges_remove(lists, t, count, over);
    }
    for (uint32_t slot = 0; slot < record_count; slot++) {
        memcpy(graph_neighbors(&lists->graph, first + slot), sorted_list(t, slot),
               t->degree[slot] * sizeof(uint32_t));
        graph_set_degree(&lists->graph, first + slot, t->degree[slot]);
    }
    return removed;
}

enum status pack_lists_trim(struct pack_lists *lists, struct error *err)
{
    uint64_t trimmed = 0;
    uint64_t outside = 0;
    bool impossible = false;
    bool failed = false;
#pragma omp parallel reduction(|| : failed)
    {
        struct trim *t;
        failed = trim_create(lists, &t) != STATUS_OK;
#pragma omp for schedule(dynamic, 64) reduction(+ : trimmed, outside) reduction(|| : impossible)
        for (uint32_t block = 0; block < lists->block_count; block++) {
            if (failed)
                continue;
            uint64_t block_outside;
            uint64_t removed = block_trim(lists, block, t, &block_outside);
            impossible = impossible || removed == PACK_TRIM_IMPOSSIBLE;
            trimmed += removed == PACK_TRIM_IMPOSSIBLE ? 0 : removed;
            outside += block_outside;
        }
        trim_destroy(t);
    }
    if (failed)
        return error_set(err, STATUS_NO_MEMORY, "packing: out of memory for block edges");
    lists->trimmed = impossible ? PACK_TRIM_IMPOSSIBLE : trimmed;
    lists->outside = outside;
    return STATUS_OK;
}
