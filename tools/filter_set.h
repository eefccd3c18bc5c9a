/*
 * filter_set.h - the predicates that exact answers are computed under: one for all queries, or one
 * for each, over the attributes in a CSV file.
 */
#ifndef NIGHTJAR_TOOLS_FILTER_SET_H
#define NIGHTJAR_TOOLS_FILTER_SET_H

#include <stdint.h>

#include "common/error.h"
#include "tools/groundtruth.h"

struct filter_set;

struct filter_set_params {
    const char *attributes; /* CSV file, a row for each vector */
    uint64_t rows;          /* of the base */
    const char *text;       /* one predicate for all queries; NULL: `path` */
    const char
        *path; /* a file of one predicate a line, for each query; an empty line is all rows */
    uint64_t query_count;
};

/* STATUS_INVALID names the file and line, or the place in the text. On success *out is the caller's
 * to free. */
NODISCARD enum status filter_set_open(const struct filter_set_params *params,
                                      struct filter_set **out, struct error *err);
/* NULL is fine. */
void filter_set_free(struct filter_set *set);

/* What groundtruth_compute() takes; the set's. */
const struct groundtruth_filter *filter_set_view(const struct filter_set *set);

#endif
