/*
 * explain.h - what queries took, as `nightjar search --explain` tells it: a line or an object's
 * members a query, then the means of all.
 *
 * Counts are those of struct search_stats; times are in microseconds, and waiting is what is left
 * of the total after the queue and the CPU. Plain storage; prints to stdout; one thread.
 */
#ifndef NIGHTJAR_TOOLS_EXPLAIN_H
#define NIGHTJAR_TOOLS_EXPLAIN_H

#include <stdint.h>

#include "query/engine.h"
#include "tools/latency.h"

enum { EXPLAIN_COLUMNS = 11 };

/* Zeroed storage is none. */
struct explain {
    double sums[EXPLAIN_COLUMNS];
    struct latency total; /* of each query */
};

void explain_add(struct explain *self, const struct search_stats *stats);

/* A table: the head, a line for each query, the summary. `note` may be empty. */
void explain_print_head(void);
void explain_print_row(uint32_t query, const struct search_stats *stats, const char *note);
/* The means, and the median and 99th percentile of the total. */
void explain_print_summary(const struct explain *self);

/* The same as members of a JSON object, with no comma around them. */
void explain_print_json(const struct search_stats *stats);
/* A whole object, on a line of its own. */
void explain_print_json_summary(const struct explain *self);

#endif
