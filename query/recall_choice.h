/*
 * recall_choice.h - from a recall that is asked for to the list and ratio of a search, by the
 * curves that a generation's builder measured (docs/ARCHITECTURE.md, "Recall targets").
 *
 * A pure function of the manifest: any thread, no memory, no I/O.
 */
#ifndef NIGHTJAR_QUERY_RECALL_CHOICE_H
#define NIGHTJAR_QUERY_RECALL_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/manifest.h"

struct recall_choice {
    uint32_t search_list;   /* k..ENGINE_SEARCH_LIST_MAX */
    float search_ratio;     /* 0: none */
    double expected_recall; /* what the sample's queries found, less its own uncertainty; below the
                             * target where no setting reaches it: then that of the best */
    double expected_reads;  /* blocks a query asks for */
    bool tuned;             /* by the curve of queries that the builder was given */
    bool reached;           /* expected_recall >= the target */
};

/* The cheapest setting that a mean recall@k of `target` can be expected of, on queries like those
 * of the curve: the ones the builder was given, else vectors of the index.
 *
 * The curve is that of the least k that is not below the one asked for; beyond all of them that of
 * the largest, its list in proportion to k. Between two points of a curve, list and ratio are
 * interpolated.
 *
 *   STATUS_INVALID      target is not above 0 and below 1, or k not 1..ENGINE_K_MAX
 *   STATUS_UNSUPPORTED  the generation has no curve */
NODISCARD enum status recall_choose(const struct manifest *manifest, uint32_t k, double target,
                                    struct recall_choice *out, struct error *err);

/* What a point of a curve can be relied upon for, whatever queries of their kind were drawn: a
 * lower bound of the mean recall, at a confidence of 90 %. */
double recall_point_bound(const struct manifest_curve *curve, uint32_t point);

#endif
