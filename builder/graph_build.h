/*
 * graph_build.h - the graph of a vector_set: for each row the edges that RobustPrune (Subramanya et
 * al., NeurIPS'19, Algorithm 2) keeps of its candidates, by true distances. Two ways to find
 * candidates:
 *
 *   pipnn    rows are carved into small overlapping leaves, and a row's nearest in each of its
 * leaves are candidates (PiPNN, arXiv 2602.21247): no search, all distances by matrix products
 *   vamana   what a beam search of the graph so far expands, and reverse edges; in batches of
 *            doubling size (ParlayANN, Dobson et al., PPoPP'24)
 *
 * Both are free of races: the same graph at any number of threads and any instruction set.
 */
#ifndef NIGHTJAR_BUILDER_GRAPH_BUILD_H
#define NIGHTJAR_BUILDER_GRAPH_BUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/graph.h"
#include "builder/vector_set.h"
#include "common/error.h"

enum graph_kind { GRAPH_PIPNN, GRAPH_VAMANA, GRAPH_KIND_COUNT };

/* "pipnn", "vamana"; static storage. */
const char *graph_kind_name(enum graph_kind kind);
/* False, and *kind untouched, for any other name. */
bool graph_kind_parse(const char *name, enum graph_kind *kind);

struct graph_params {
    enum graph_kind kind;
    uint32_t degree;     /* R, 4..255 */
    uint32_t build_list; /* L, >= 1 */
    float alpha;         /* >= 1 */
    uint64_t seed;
    uint32_t own_count;     /* rows 0..own_count-1 are own, the rest is borrowed; 0: all are own */
    uint32_t borrowed_list; /* vamana: L of borrowed rows, 1..build_list; 0: build_list */
    /* Called now and then from the calling thread with nodes done so far; may be NULL. Returns
     * non-zero to stop the build with STATUS_CANCELLED. */
    int (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
};

struct graph_result {
    struct graph graph; /* degree <= R for every node */
    uint8_t *kept;  /* [graph.count]: a list's first kept edges are its edges of the spanning tree
                     * of own nodes, < R of them; the rest are in order of distance */
    uint32_t entry; /* medoid: the row nearest the centroid */
    uint32_t root;  /* of the tree: the entry, or the own row nearest to it */
    uint64_t repaired_nodes; /* own nodes nothing reached, given an in-edge */
};

/* Builds the graph with the OpenMP team of the caller. On success every own node is reachable from
 * result->root over tree edges alone, and *result is the caller's to graph_result_destroy(). */
NODISCARD enum status graph_build(const struct vector_set *set, const struct graph_params *params,
                                  struct graph_result *result, struct error *err);
void graph_result_destroy(struct graph_result *result);

/* What the memory of graph_build() depends on. */
struct graph_size {
    enum graph_kind kind;
    enum element_type type;
    enum metric metric;
    uint64_t count;
    uint64_t dim;
    uint64_t degree;
    uint64_t threads; /* of the team */
};
/* Bytes that graph_build() takes at most, beside the set; and of a row of the graph it makes. */
uint64_t graph_build_bytes(const struct graph_size *size);
uint64_t graph_row_bytes(enum graph_kind kind, uint64_t degree);

/* Beam search of `graph` from `entry` for the row `query`, list size `list`: fills visited[] with
 * up to `visited_capacity` expanded rows in order of expansion (for the hot list) and returns how
 * many. `scratch` is one thread's, from graph_scratch_create() for the same set. */
struct graph_scratch;
NODISCARD enum status graph_scratch_create(const struct vector_set *set, uint32_t list,
                                           uint32_t degree, struct graph_scratch **out,
                                           struct error *err);
void graph_scratch_destroy(struct graph_scratch *scratch);
uint32_t graph_search(const struct vector_set *set, const struct graph *graph, uint32_t entry,
                      uint32_t query, uint32_t list, struct graph_scratch *scratch,
                      uint32_t *visited, uint32_t visited_capacity);

#endif
