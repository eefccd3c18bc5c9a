/*
 * carve.h - recursive randomized ball carving (PiPNN, arXiv 2602.21247, section 3): rows are
 * divided among random leaders, each row going to its nearest few, and the parts likewise until
 * they are small. So near rows meet in many of the resulting leaves.
 */
#ifndef NIGHTJAR_BUILDER_CARVE_H
#define NIGHTJAR_BUILDER_CARVE_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/tile.h"
#include "common/error.h"

enum {
    CARVE_LEAF_MAX = 512,
    CARVE_LEADERS_MAX = 1024,
};

struct carve_params {
    const uint32_t *ids; /* [count] the rows to carve; NULL: 0..count-1 */
    uint32_t count;
    uint64_t seed; /* of the choice of leaders */
    /* Takes a leaf: ids[count], 1 <= count <= CARVE_LEAF_MAX, each row once. Called by the team's
     * threads at the same time, `thread` telling them apart, in any order. */
    void (*leaf)(void *context, int thread, const uint32_t *ids, uint32_t count);
    /* Called by the calling thread between leaves, with the share of the work that is done; false
     * ends the carving early. May be NULL. */
    bool (*progress)(void *context, double share);
    void *context;
};

/* Carves rows with the caller's team: every row is in at least one leaf. *members is the sum of the
 * leaves' sizes. The same leaves at any number of threads; if they were not all given out because
 * progress() said so, STATUS_CANCELLED. */
NODISCARD enum status carve(const struct byte_rows *rows, const struct carve_params *params,
                            uint64_t *members, struct error *err);

/* nearest[row] = which of up to CARVE_LEADERS_MAX random leaders is nearest to row 0..count-1: rows
 * of one leader are near one another. With the caller's team. */
NODISCARD enum status carve_nearest(const struct byte_rows *rows, uint32_t count, uint64_t seed,
                                    uint16_t *nearest, struct error *err);

/* Most bytes that carve() takes. */
uint64_t carve_bytes(uint64_t count, uint64_t dim, uint64_t threads);

#endif
