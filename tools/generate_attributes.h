/*
 * generate_attributes.h - made-up attributes of a base file, to measure searches under filters
 * with.
 *
 *   u     u64, uniform in 0..999999, whatever the vector: u < 10000 is about 1 %
 *   c     u64, 0..999999 by the rank of the row's distance to one row, chosen by seed: c < 10000 is
 *         just the nearest 1 %, a filter that says much about where to look, or where not to
 *   tags  labels, 1 to 4 of t0, t1, ...: t0 the most frequent, t9 a tenth as frequent (Zipf)
 *
 * A function of base and seed alone: the same bytes at any thread count and on any x86-64 machine.
 */
#ifndef NIGHTJAR_TOOLS_GENERATE_ATTRIBUTES_H
#define NIGHTJAR_TOOLS_GENERATE_ATTRIBUTES_H

#include <stdint.h>

#include "common/error.h"
#include "common/progress.h"

enum {
    GENERATE_NUMBERS = 1000000, /* values of u and c */
    GENERATE_TAGS_MAX = 1 << 20,
};

struct generate_attributes_params {
    const char *base;   /* vector file of at most UINT32_MAX rows */
    const char *output; /* CSV file, as nightjar-build --attributes takes it */
    uint64_t seed;
    uint32_t tags;             /* different ones, 1..GENERATE_TAGS_MAX */
    uint32_t threads;          /* 0: OpenMP's choice */
    struct progress *progress; /* borrowed; NULL: silent */
};

/* Writes the file, complete or not at all. Reads the base once and holds 12 bytes a row. */
NODISCARD enum status generate_attributes(const struct generate_attributes_params *params,
                                          struct error *err);

#endif
