/*
 * vamana.h - the Vamana graph of a vector_set (Subramanya et al., NeurIPS'19), built by
 * batch-parallel insertion in prefix-doubling rounds (ParlayANN, Dobson et al., PPoPP'24): no
 * locks, and the same graph at any thread count.
 */
#ifndef NIGHTJAR_BUILDER_VAMANA_H
#define NIGHTJAR_BUILDER_VAMANA_H

#include <stdint.h>

#include "builder/graph.h"
#include "builder/vector_set.h"
#include "common/error.h"

struct vamana_params {
    uint32_t degree;     /* R, 4..255 */
    uint32_t build_list; /* L, >= 1 */
    float alpha;         /* >= 1 */
    uint64_t seed;
    uint32_t own_count;     /* rows 0..own_count-1 are own, the rest is borrowed; 0: all are own */
    uint32_t borrowed_list; /* L of borrowed rows, 1..build_list; 0: build_list */
    /* Called now and then from the calling thread with nodes inserted so far; may be NULL. Returns
     * non-zero to stop the build with STATUS_CANCELLED. */
    int (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
};

struct vamana_result {
    struct graph graph; /* degree <= R for every node */
    uint8_t *kept;  /* [graph.count]: a list's first kept edges are its edges of the spanning tree
                     * of own nodes, < R of them; the rest are in order of distance */
    uint32_t entry; /* medoid: the row nearest the centroid */
    uint32_t root;  /* of the tree: the entry, or the own row nearest to it */
    uint64_t repaired_nodes; /* own nodes nothing reached, given an in-edge */
};

/* Builds the graph with the OpenMP team of the caller. On success every own node is reachable from
 * result->root over tree edges alone, and *result is the caller's to vamana_result_destroy(). */
NODISCARD enum status vamana_build(const struct vector_set *set, const struct vamana_params *params,
                                   struct vamana_result *result, struct error *err);
void vamana_result_destroy(struct vamana_result *result);

/* Beam search of `graph` from `entry` for the row `query`, list size `list`: fills visited[] with
 * up to `visited_capacity` expanded rows in order of expansion (for the hot list) and returns how
 * many. `scratch` is one thread's, from vamana_scratch_create(). */
struct vamana_scratch;
NODISCARD enum status vamana_scratch_create(uint32_t list, uint32_t degree,
                                            struct vamana_scratch **out, struct error *err);
void vamana_scratch_destroy(struct vamana_scratch *scratch);
uint32_t vamana_search(const struct vector_set *set, const struct graph *graph, uint32_t entry,
                       uint32_t query, uint32_t list, struct vamana_scratch *scratch,
                       uint32_t *visited, uint32_t visited_capacity);

#endif
