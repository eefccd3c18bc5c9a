/*
 * pack_trim.c - makes every block's lists fit.
 *
 * What goes first from an overflowing block: an edge that a block-mate has too (whoever reads the
 * block sees the target all the same), farthest first; then other edges, farthest first, but never
 * an edge into a block that a walk over blocks reached from here. So every block stays reachable.
 * The walk is depth-first, for a block then has few children: breadth-first, nearly every edge of
 * the entry's block would lead to one, and nothing there could go. Blocks are independent of one
 * another: one thread each.
 */
#include <stdlib.h>
#include <string.h>

#include "builder/pack_internal.h"
#include "common/memory.h"

#define NO_BLOCK UINT32_MAX

/* An edge of the block at hand. */
struct block_edge {
    uint32_t id;
    uint16_t slot;
    uint16_t rank; /* place in the list by distance */
    bool shared;   /* a block-mate has it too, at a better or equal rank */
};

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

/* The next block that `block` has an edge to and the walk has not reached; NO_BLOCK: none is left.
 * *cursor is where in the block's lists to go on. */
static uint32_t next_unreached(const struct pack_result *result, const uint32_t *parent,
                               uint32_t block, uint32_t *cursor)
{
    enum { SLOT_PLACES = BLOCK_DEGREE_MAX + 1 };
    uint32_t capacity = result->geometry.nodes_per_block;
    uint32_t i = *cursor % SLOT_PLACES;
    for (uint32_t slot = *cursor / SLOT_PLACES; slot < capacity; slot++, i = 0) {
        const uint32_t *ids = graph_neighbors(&result->lists, block * capacity + slot);
        uint32_t degree = graph_degree(&result->lists, block * capacity + slot);
        for (; i < degree; i++)
            if (parent[ids[i] / capacity] == NO_BLOCK) {
                *cursor = slot * SLOT_PLACES + i + 1;
                return ids[i] / capacity;
            }
    }
    *cursor = capacity * SLOT_PLACES;
    return NO_BLOCK;
}

/* parent[b]: the block whose edge first reached block b. */
static enum status parents_find(const struct pack_result *result, uint32_t entry_block,
                                uint32_t *parent, struct error *err)
{
    void *memory = NULL;
    enum status status =
        bulk_alloc(result->block_count, 2 * sizeof(uint32_t), "block walk", &memory, err);
    if (status)
        return status;
    uint32_t *cursor = memory; /* of each block; zeroed */
    uint32_t *stack = cursor + result->block_count;
    uint32_t depth = 0;
    uint32_t reached = 1;
    memset(parent, 0xff, result->block_count * sizeof(*parent));
    parent[entry_block] = entry_block;
    stack[depth++] = entry_block;
    while (depth > 0) {
        uint32_t block = stack[depth - 1];
        uint32_t next = next_unreached(result, parent, block, &cursor[block]);
        if (next == NO_BLOCK) {
            depth--;
            continue;
        }
        parent[next] = block;
        stack[depth++] = next;
        reached++;
    }
    if (reached != result->block_count)
        status = error_set(err, STATUS_CORRUPT, "packing: %u of %llu blocks reachable", reached,
                           (unsigned long long)result->block_count);
    bulk_free(memory, result->block_count, 2 * sizeof(uint32_t));
    return status;
}

static size_t list_bytes(const struct pack_result *result, uint32_t node)
{
    uint32_t sorted[BLOCK_DEGREE_MAX];
    uint32_t degree = graph_degree(&result->lists, node);
    memcpy(sorted, graph_neighbors(&result->lists, node), degree * sizeof(*sorted));
    pack_ids_sort(sorted, degree);
    return block_list_bytes(&result->geometry, sorted, degree);
}

static int by_id_then_rank(const void *a, const void *b)
{
    const struct block_edge *x = a;
    const struct block_edge *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

/* Shared edges first, then farthest, then a fixed order. */
static int by_removal(const void *a, const void *b)
{
    const struct block_edge *x = a;
    const struct block_edge *y = b;
    if (x->shared != y->shared)
        return x->shared ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank > y->rank ? -1 : 1;
    return by_id_then_rank(a, b);
}

static void list_remove(struct pack_result *result, uint32_t node, uint32_t id)
{
    uint32_t *ids = graph_neighbors(&result->lists, node);
    uint32_t degree = graph_degree(&result->lists, node);
    uint32_t i = 0;
    while (ids[i] != id)
        i++;
    memmove(ids + i, ids + i + 1, (degree - i - 1) * sizeof(*ids));
    graph_set_degree(&result->lists, node, degree - 1);
}

/* All edges of the block in order of removal; returns how many. */
static uint32_t edges_collect(const struct pack_result *result, uint32_t block,
                              uint32_t record_count, struct block_edge *edges)
{
    uint32_t first = block * result->geometry.nodes_per_block;
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < record_count; slot++) {
        const uint32_t *ids = graph_neighbors(&result->lists, first + slot);
        for (uint32_t i = 0; i < graph_degree(&result->lists, first + slot); i++)
            edges[count++] =
                (struct block_edge){.id = ids[i], .slot = (uint16_t)slot, .rank = (uint16_t)i};
    }
    qsort(edges, count, sizeof(*edges), by_id_then_rank);
    for (uint32_t i = 1; i < count; i++)
        edges[i].shared = edges[i].id == edges[i - 1].id;
    qsort(edges, count, sizeof(*edges), by_removal);
    return count;
}

/* Trims one block; returns the edges removed, or PACK_TRIM_IMPOSSIBLE. */
static uint64_t block_trim(struct pack_result *result, const uint32_t *parent, uint32_t block,
                           struct block_edge *edges)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    uint32_t first = block * capacity;
    uint32_t record_count = 0;
    int64_t total = 0;
    while (record_count < capacity && result->row_of_node[first + record_count] != UINT32_MAX)
        total += (int64_t)list_bytes(result, first + record_count++);
    int64_t budget = block_list_budget(&result->geometry, record_count);
    if (total <= budget)
        return 0;
    uint32_t count = edges_collect(result, block, record_count, edges);
    uint64_t removed = 0;
    for (uint32_t i = 0; i < count && total > budget; i++) {
        if (!edges[i].shared && parent[edges[i].id / capacity] == block)
            continue;
        uint32_t node = first + edges[i].slot;
        total -= (int64_t)list_bytes(result, node);
        list_remove(result, node, edges[i].id);
        total += (int64_t)list_bytes(result, node);
        removed++;
    }
    return total <= budget ? removed : PACK_TRIM_IMPOSSIBLE;
}

enum status pack_trim(struct pack_result *result, uint32_t entry_node, struct error *err)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    size_t edges_max = (size_t)capacity * (result->lists.stride - 1);
    void *parent = NULL;
    enum status status =
        bulk_alloc(result->block_count, sizeof(uint32_t), "block parents", &parent, err);
    if (!status)
        status = parents_find(result, entry_node / capacity, parent, err);
    if (status)
        goto out;
    uint64_t trimmed = 0;
    bool impossible = false;
#pragma omp parallel
    {
        struct block_edge *edges = malloc(edges_max * sizeof(*edges));
        bool failed = !edges;
#pragma omp for schedule(dynamic, 64) reduction(+ : trimmed) reduction(|| : impossible)
        for (uint64_t block = 0; block < result->block_count; block++) {
            if (failed)
                continue;
            uint64_t removed = block_trim(result, parent, (uint32_t)block, edges);
            if (removed == PACK_TRIM_IMPOSSIBLE)
                impossible = true;
            else
                trimmed += removed;
        }
        free(edges);
        if (failed) {
#pragma omp critical
            status = error_set(err, STATUS_NO_MEMORY, "packing: out of memory for block edges");
        }
    }
    result->trimmed_edges = impossible ? PACK_TRIM_IMPOSSIBLE : trimmed;
out:
    if (parent)
        bulk_free(parent, result->block_count, sizeof(uint32_t));
    return status;
}
