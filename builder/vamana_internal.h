/*
 * vamana_internal.h - shared by the files that make up vamana.h: search, prune, batch insertion and
 * repair. One vamana_scratch belongs to one thread.
 */
#ifndef NIGHTJAR_BUILDER_VAMANA_INTERNAL_H
#define NIGHTJAR_BUILDER_VAMANA_INTERNAL_H

#include <stdbool.h>

#include "builder/vamana.h"

/* Most candidates RobustPrune looks at (DiskANN's C). */
enum { VAMANA_PRUNE_CANDIDATES_MAX = 750 };

struct vamana_candidate {
    float distance; /* to the node being searched for or pruned */
    uint32_t id;
};

/* Orders by distance, then id: a total order, so results do not depend on arrival. */
ALWAYS_INLINE bool vamana_candidate_less(struct vamana_candidate a, struct vamana_candidate b)
{
    return a.distance < b.distance || (a.distance == b.distance && a.id < b.id);
}

struct vamana_scratch {
    /* search */
    uint32_t list_capacity;
    struct vamana_candidate *list; /* [list_capacity + 1], ascending */
    bool *expanded;                /* beside list */
    uint32_t *seen;                /* [seen_mask + 1]: lossy set of scored ids */
    uint32_t seen_mask;
    struct vamana_candidate *visited; /* [visited_capacity], in order of expansion */
    uint32_t visited_count, visited_capacity;
    uint32_t *batch_ids; /* [degree_capacity] */
    float *batch_distances;
    /* prune */
    struct vamana_candidate *candidates; /* [candidates_capacity] */
    uint32_t candidates_capacity;
    uint32_t *selected; /* [degree_capacity] */
    float *pair_distances;
};

/* Beam search of `graph` for row `query`; leaves the expanded nodes in scratch->visited. */
void vamana_search_run(const struct vector_set *set, const struct graph *graph, uint32_t entry,
                       uint32_t query, uint32_t list, struct vamana_scratch *scratch);

/* Grows scratch->candidates to at least `count`, keeping its content. */
NODISCARD enum status vamana_scratch_reserve(struct vamana_scratch *scratch, size_t count,
                                             struct error *err);

/* Sorts by vamana_candidate_less. */
void vamana_candidates_sort(struct vamana_candidate *candidates, uint32_t count);

/*
 * RobustPrune (Subramanya et al., Algorithm 2): sorts candidates[count] (distances to `node`;
 * `node` itself and repeats are ignored) and writes at most params->degree of them to out[],
 * nearest first. Returns how many. The rule: c is dropped when alpha * d(s, c) <= d(node, c) for a
 * selected s.
 */
uint32_t vamana_prune(const struct vector_set *set, const struct vamana_params *params,
                      uint32_t node, struct vamana_candidate *candidates, uint32_t count,
                      struct vamana_scratch *scratch, uint32_t *out);

/* Fills result->kept (zeroed, of result->graph), root and repaired_nodes; moves tree edges to the
 * front of their lists and adds those that are missing. */
NODISCARD enum status vamana_tree(const struct vector_set *set, const struct vamana_params *params,
                                  uint32_t entry, struct vamana_result *result, struct error *err);

#endif
