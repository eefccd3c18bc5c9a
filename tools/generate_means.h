/*
 * generate_means.h - queries that lie where no vector does: means of two random vectors of a file.
 *
 * Neighbours of such a query are far from it and about equally far, so that it is harder than one
 * like the vectors. They measure what an index does with queries that it was not built for.
 *
 * A function of base and seed alone: the same bytes on any x86-64 machine.
 */
#ifndef NIGHTJAR_TOOLS_GENERATE_MEANS_H
#define NIGHTJAR_TOOLS_GENERATE_MEANS_H

#include <stdint.h>

#include "common/error.h"
#include "common/progress.h"

struct generate_means_params {
    const char *base;   /* vector file of at least two rows */
    const char *output; /* vector file; its suffix must suit the base's type */
    uint64_t count;     /* queries, 1..UINT32_MAX */
    uint64_t seed;
    struct progress *progress; /* borrowed; NULL: silent */
};

/* Writes the file, complete or not at all. The two rows of a query are of different numbers, and
 * their mean is rounded to nearest even where the type does not hold it. Query i does not depend on
 * how many there are. Reads those rows alone, two at a time, and holds some MiB, however large the
 * base is. STATUS_INVALID where the base is of i32, has one row, or a row drawn is not finite. */
NODISCARD enum status generate_means(const struct generate_means_params *params, struct error *err);

#endif
