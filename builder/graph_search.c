/*
 * graph_search.c - beam search over the in-RAM graph, and the per-thread scratch of the builder.
 *
 * The set of scored nodes is a direct-mapped table that forgets on collision: scoring a node twice
 * is harmless, because its second insertion meets its own (distance, id) in the list, and a node
 * that fell off the list cannot come back (the last entry only gets nearer).
 */
#include "builder/graph_internal.h"

#include <stdlib.h>
#include <string.h>

#include "builder/byte_view.h"
#include "common/cpu.h"
#include "common/memory.h"

enum {
    SEEN_SLOTS = 1 << 13, /* 32 KB: stays in L1/L2; ~5000 nodes are scored at L = 100, R = 64 */
    VISITED_PER_LIST = 8, /* expansions a search may take, as a multiple of L: a bound, never met */
    SEEN_EMPTY = -1,
};

enum status graph_scratch_create(const struct vector_set *set, uint32_t list, uint32_t degree,
                                 struct graph_scratch **out, struct error *err)
{
    struct graph_scratch *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NO_MEMORY, "search scratch: out of memory");
    s->list_capacity = list;
    s->seen_mask = SEEN_SLOTS - 1;
    s->visited_capacity = VISITED_PER_LIST * list + 64;
    s->candidates_capacity = s->visited_capacity + degree;
    s->list = calloc((size_t)list + 1, sizeof(*s->list));
    s->expanded = calloc((size_t)list + 1, sizeof(*s->expanded));
    s->seen = malloc(SEEN_SLOTS * sizeof(*s->seen));
    s->visited = calloc(s->visited_capacity, sizeof(*s->visited));
    s->batch_ids = calloc((size_t)degree + 1, sizeof(*s->batch_ids));
    s->batch_distances = calloc(degree, sizeof(*s->batch_distances));
    s->candidates = calloc(s->candidates_capacity, sizeof(*s->candidates));
    s->selected = calloc(degree, sizeof(*s->selected));
    s->prune_ids = calloc(PRUNE_CANDIDATES_MAX, sizeof(*s->prune_ids));
    s->prune_limits =
        aligned_alloc(64, size_align(PRUNE_CANDIDATES_MAX * sizeof(*s->prune_limits), 128));
    s->prune_distances = calloc(PRUNE_CANDIDATES_MAX, sizeof(*s->prune_distances));
    if (!s->list || !s->expanded || !s->seen || !s->visited || !s->batch_ids ||
        !s->batch_distances || !s->candidates || !s->selected || !s->prune_ids ||
        !s->prune_limits || !s->prune_distances) {
        graph_scratch_destroy(s);
        return error_set(err, STATUS_NO_MEMORY, "search scratch: out of memory");
    }
    tile_init(&s->tile, set->dim, cpu_features());
    if (byte_view_exact(set)) {
        enum status status = tile_reserve(&s->tile, PRUNE_CANDIDATES_MAX, err);
        if (status != STATUS_OK) {
            graph_scratch_destroy(s);
            return status;
        }
    }
    *out = s;
    return STATUS_OK;
}

void graph_scratch_destroy(struct graph_scratch *s)
{
    if (!s)
        return;
    free(s->list);
    free(s->expanded);
    free(s->seen);
    free(s->visited);
    free(s->batch_ids);
    free(s->batch_distances);
    free(s->candidates);
    free(s->selected);
    free(s->prune_ids);
    free(s->prune_limits);
    free(s->prune_distances);
    tile_destroy(&s->tile);
    free(s);
}

enum status graph_scratch_reserve(struct graph_scratch *s, size_t count, struct error *err)
{
    if (count <= s->candidates_capacity)
        return STATUS_OK;
    size_t capacity = count + count / 2;
    void *grown = realloc(s->candidates, capacity * sizeof(*s->candidates));
    if (!grown)
        return error_set(err, STATUS_NO_MEMORY, "prune candidates: out of memory for %zu",
                         capacity);
    s->candidates = grown;
    s->candidates_capacity = (uint32_t)capacity;
    return STATUS_OK;
}

/* True the first time (or after being forgotten). No branch: nothing could foretell it. */
ALWAYS_INLINE bool seen_add(struct graph_scratch *s, uint32_t id)
{
    uint32_t *slot = &s->seen[(id * 0x9e3779b1u >> 16 ^ id) & s->seen_mask];
    bool added = *slot != id;
    *slot = id;
    return added;
}

/* Inserts into the ascending list of `*size` entries, at most `capacity`; returns the position, or
 * `capacity` when the candidate is too far or already there. */
static uint32_t list_insert(struct graph_scratch *s, uint32_t *size, uint32_t capacity,
                            struct candidate c)
{
    uint32_t low = 0;
    uint32_t high = *size;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (candidate_less(s->list[middle], c))
            low = middle + 1;
        else
            high = middle;
    }
    if (low >= capacity)
        return capacity;
    if (low < *size && s->list[low].id == c.id && s->list[low].distance == c.distance)
        return capacity;
    uint32_t moved = *size - low;
    if (*size == capacity)
        moved--;
    else
        ++*size;
    memmove(&s->list[low + 1], &s->list[low], moved * sizeof(s->list[0]));
    memmove(&s->expanded[low + 1], &s->expanded[low], moved * sizeof(s->expanded[0]));
    s->list[low] = c;
    s->expanded[low] = false;
    return low;
}

/* Scores the unseen neighbours of `node` into the list; returns the lowest position that changed.
 */
static uint32_t expand(const struct vector_set *set, const struct graph *graph, uint32_t query,
                       uint32_t node, uint32_t *size, uint32_t capacity, struct graph_scratch *s)
{
    const uint32_t *ids = graph_neighbors(graph, node);
    uint32_t degree = graph_degree(graph, node);
    uint32_t fresh = 0;
    for (uint32_t i = 0; i < degree; i++) {
        s->batch_ids[fresh] = ids[i];
        fresh += seen_add(s, ids[i]);
    }
    vector_set_gather(set, query, s->batch_ids, fresh, s->batch_distances);
    uint32_t lowest = capacity;
    float worst = *size == capacity ? s->list[capacity - 1].distance : 0.0f;
    for (uint32_t i = 0; i < fresh; i++) {
        if (*size == capacity && s->batch_distances[i] > worst)
            continue;
        struct candidate c = {s->batch_distances[i], s->batch_ids[i]};
        uint32_t position = list_insert(s, size, capacity, c);
        lowest = MIN(lowest, position);
        if (*size == capacity)
            worst = s->list[capacity - 1].distance;
    }
    return lowest;
}

void graph_search_run(const struct vector_set *set, const struct graph *graph, uint32_t entry,
                      uint32_t query, uint32_t list, struct graph_scratch *s)
{
    memset(s->seen, SEEN_EMPTY, ((size_t)s->seen_mask + 1) * sizeof(*s->seen));
    s->visited_count = 0;
    uint32_t size = 0;
    seen_add(s, entry);
    struct candidate first = {vector_set_pair(set, query, entry), entry};
    list_insert(s, &size, list, first);
    uint32_t next = 0;
    while (next < size && s->visited_count < s->visited_capacity) {
        if (s->expanded[next]) {
            next++;
            continue;
        }
        s->expanded[next] = true;
        struct candidate c = s->list[next];
        s->visited[s->visited_count++] = c;
        if (next + 1 < size)
            PREFETCH(graph_neighbors(graph, s->list[next + 1].id));
        uint32_t changed = expand(set, graph, query, c.id, &size, list, s);
        next = MIN(next + 1, changed);
    }
}

uint32_t graph_search(const struct vector_set *set, const struct graph *graph, uint32_t entry,
                      uint32_t query, uint32_t list, struct graph_scratch *scratch,
                      uint32_t *visited, uint32_t visited_capacity)
{
    graph_search_run(set, graph, entry, query, MIN(list, scratch->list_capacity), scratch);
    uint32_t count = MIN(scratch->visited_count, visited_capacity);
    for (uint32_t i = 0; i < count; i++)
        visited[i] = scratch->visited[i].id;
    return count;
}
