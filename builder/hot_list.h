/*
 * hot_list.h - hot.bin: nodes by expected visits, so that the daemon can keep the right blocks in
 * RAM.
 *
 * Two steps, because the first needs the graph, the largest array of a build, and the second only
 * the packing: hot_visits_collect() runs sample queries on the graph and notes what they expand;
 * hot_list_rank() turns that into an order of nodes once blocks are known.
 */
#ifndef NIGHTJAR_BUILDER_HOT_LIST_H
#define NIGHTJAR_BUILDER_HOT_LIST_H

#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/graph.h"
#include "builder/vector_set.h"
#include "common/error.h"

enum {
    HOT_QUERIES_MAX = 10000,
    HOT_SEARCH_LIST = 40,
    HOT_VISITS_MAX = 64, /* a query; about HOT_SEARCH_LIST + 15 are taken */
};

/* What each sample query expanded. */
struct hot_visits {
    uint32_t query_count;
    uint32_t *counts; /* [query_count] */
    uint32_t *rows;   /* [query_count * HOT_VISITS_MAX], each query's counts[q] first */
};

struct hot_sample {
    uint32_t own_count;   /* queries are drawn from rows 0..own_count-1 of the set */
    uint32_t query_count; /* <= own_count */
    uint32_t entry;       /* where a search starts if there is nothing nearer */
    uint64_t seed;
};

/* Searches the graph for a seeded sample of the set's rows; a query's own row is left out. On
 * success *visits is the caller's to hot_visits_destroy(). Uses the caller's OpenMP team; the
 * outcome does not depend on it. */
NODISCARD enum status hot_visits_collect(const struct vector_set *set, const struct graph *graph,
                                         const struct hot_sample *sample,
                                         const struct build_monitor *monitor,
                                         struct hot_visits *visits, struct error *err);
void hot_visits_destroy(struct hot_visits *visits);

/* Visited nodes, blocks by the number of queries that read them (ties: lower block), within a block
 * by own visits (ties: lower node). So a prefix pinned as whole blocks saves the most reads any set
 * of that many blocks saves on the sample. node_of_row[] numbers the visits' rows. *nodes is
 * malloc'd, the caller's; never NULL on success. Memory is O(visits). */
NODISCARD enum status hot_list_rank(const struct hot_visits *visits, const uint32_t *node_of_row,
                                    uint32_t nodes_per_block, uint32_t **nodes, uint64_t *count,
                                    struct error *err);

#endif
