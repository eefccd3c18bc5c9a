/*
 * graph_internal.h - shared by the files that make up graph_build.h: search, prune, the two ways to
 * find candidates, the spanning tree. One graph_scratch belongs to one thread.
 */
#ifndef NIGHTJAR_BUILDER_GRAPH_INTERNAL_H
#define NIGHTJAR_BUILDER_GRAPH_INTERNAL_H

#include <stdbool.h>

#include "builder/graph_build.h"
#include "builder/tile.h"

/* Most distinct candidates RobustPrune looks at (DiskANN's C). */
enum { PRUNE_CANDIDATES_MAX = 750 };

struct candidate {
    float distance; /* to the node being searched for or pruned */
    uint32_t id;
};

/* Orders by distance, then id: a total order, so results do not depend on arrival. */
ALWAYS_INLINE bool candidate_less(struct candidate a, struct candidate b)
{
    return a.distance < b.distance || (a.distance == b.distance && a.id < b.id);
}

struct graph_scratch {
    /* search */
    uint32_t list_capacity;
    struct candidate *list; /* [list_capacity + 1], ascending */
    bool *expanded;         /* beside list */
    uint32_t *seen;         /* [seen_mask + 1]: lossy set of scored ids */
    uint32_t seen_mask;
    struct candidate *visited; /* [visited_capacity], in order of expansion */
    uint32_t visited_count, visited_capacity;
    uint32_t *batch_ids; /* [degree_capacity] */
    float *batch_distances;
    /* prune */
    struct candidate *candidates; /* [candidates_capacity] */
    uint32_t candidates_capacity;
    uint32_t *selected;  /* [degree_capacity] */
    struct tile tile;    /* room for PRUNE_CANDIDATES_MAX rows where byte_view_exact() */
    uint32_t *prune_ids; /* [PRUNE_CANDIDATES_MAX] */
    float *prune_limits; /* likewise, aligned, up to a whole panel */
    float *prune_distances;
};

/* Beam search of `graph` for row `query`; leaves the expanded nodes in scratch->visited. */
void graph_search_run(const struct vector_set *set, const struct graph *graph, uint32_t entry,
                      uint32_t query, uint32_t list, struct graph_scratch *scratch);

/* Grows scratch->candidates to at least `count`, keeping its content. */
NODISCARD enum status graph_scratch_reserve(struct graph_scratch *scratch, size_t count,
                                            struct error *err);

/* Sorts by candidate_less. */
void candidates_sort(struct candidate *candidates, uint32_t count);

/*
 * RobustPrune (Subramanya et al., Algorithm 2): sorts candidates[count] (distances to `node`;
 * `node` itself and repeats are ignored) and writes at most params->degree of them to out[],
 * nearest first. Returns how many. The rule: c is dropped when alpha * d(s, c) <= d(node, c) for a
 * selected s, under ip one that is not shorter than c.
 */
uint32_t robust_prune(const struct vector_set *set, const struct graph_params *params,
                      uint32_t node, struct candidate *candidates, uint32_t count,
                      struct graph_scratch *scratch, uint32_t *out);

/* The lists of every row by either algorithm, unordered beyond what a prune leaves; `graph` is
 * made. On failure it is the caller's to graph_destroy() all the same. */
NODISCARD enum status vamana_lists(const struct vector_set *set, const struct graph_params *params,
                                   uint32_t entry, struct graph *graph, struct error *err);
NODISCARD enum status pipnn_lists(const struct vector_set *set, const struct graph_params *params,
                                  uint32_t entry, struct graph *graph, struct error *err);
/* Bytes of a list with its slack; and what finding candidates takes beside the lists. */
uint64_t vamana_row_bytes(uint64_t degree);
uint64_t vamana_bytes(const struct graph_size *size);
uint64_t pipnn_bytes(const struct graph_size *size);

/* Fills result->kept (zeroed, of result->graph), root and repaired_nodes; moves tree edges to the
 * front of their lists and adds those that are missing. */
NODISCARD enum status graph_tree(const struct vector_set *set, const struct graph_params *params,
                                 uint32_t entry, struct graph_result *result, struct error *err);

#endif
