/*
 * recall.h - the answers of a pass over a query file, and how many of them are right.
 */
#ifndef NIGHTJAR_TOOLS_RECALL_H
#define NIGHTJAR_TOOLS_RECALL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/range_truth.h"
#include "common/vector_file.h"

enum { RECALL_K_MAX = 4096 }; /* the engine's */

/* Answer i of query q is at q * k + i. Each query's part may be filled by a thread of its own. */
struct recall_answers {
    uint32_t query_count;
    uint32_t k;
    uint32_t *counts; /* hits of each query, <= k */
    uint64_t *keys;
    float *distances;
};

/* Allocates for query_count * k hits, none found yet. k <= RECALL_K_MAX. */
NODISCARD enum status recall_answers_create(struct recall_answers *self, uint32_t query_count,
                                            uint32_t k, struct error *err);
void recall_answers_destroy(struct recall_answers *self);

/* False where a hit has a key that is no row of `vector_count` vectors: the index has keys of its
 * own, and ground truth, which has rows, tells nothing of its answers. */
bool recall_answers_are_rows(const struct recall_answers *self, uint64_t vector_count);

/* The ground truth must have `query_count` queries, room for k neighbours each, and ids below
 * vector_count: a file of another base or query set is STATUS_INVALID, naming `path`. */
NODISCARD enum status recall_truth_check(const char *path, const struct ground_truth *truth,
                                         const struct recall_answers *answers,
                                         uint64_t vector_count, struct error *err);

/* Every query has its first k neighbours: STATUS_INVALID for the truth of a filter that leaves
 * fewer, where nothing is filtered. */
NODISCARD enum status recall_truth_complete(const char *path, const struct ground_truth *truth,
                                            uint32_t k, struct error *err);

/* How many of the `hit_count` hits (<= k <= RECALL_K_MAX) belong to the k nearest: those among
 * true_ids[k], and those as near as the k-th of them (true_distances may be NULL: then ids alone
 * count). Where neighbours are absent only the others are right. A key returned twice counts once.
 * Result <= k. No allocation. */
uint32_t recall_count(const uint32_t *true_ids, const float *true_distances, uint32_t k,
                      const uint64_t *keys, const float *distances, uint32_t hit_count);

/* The same for neighbours that are named by key. */
uint32_t recall_count_keys(const uint64_t *true_keys, const float *true_distances, uint32_t k,
                           const uint64_t *keys, const float *distances, uint32_t hit_count);

/* Share of the k nearest that were found: found over existing, summed over all queries, so that one
 * whose filter leaves two neighbours counts for two. 1 where none exists. The truth has passed
 * recall_truth_check(). */
double recall_measure(const struct recall_answers *answers, const struct ground_truth *truth);

/* As recall_truth_check(), for answers within a radius. */
NODISCARD enum status recall_range_check(const char *path, const struct range_truth *truth,
                                         const struct recall_answers *answers,
                                         uint64_t vector_count, struct error *err);

/* Share of all answers within the radius that were found, summed over all queries: 1 where there
 * are none. Answers hold at most their k of a query, so a truth that has more lowers it. No
 * allocation.
 */
double recall_measure_range(const struct recall_answers *answers, const struct range_truth *truth);

#endif
