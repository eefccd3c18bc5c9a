/*
 * lanes.h - pieces of a stage built side by side, one lane on each NUMA node.
 *
 * A lane is a thread with an OpenMP team of its own, all pinned to the CPUs of its node, whose
 * memory then comes from that node. With one lane the calling thread is it. This is the only file
 * of the builder that creates threads.
 */
#ifndef NIGHTJAR_BUILDER_LANES_H
#define NIGHTJAR_BUILDER_LANES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/topology.h"

/* Where the pieces run. */
struct lanes {
    const struct topology *topology; /* NULL: nothing is bound */
    struct topology_lane *lanes;
    uint32_t lane_count; /* >= 1 */
};

/* What a piece may know of its lane. */
struct lane_place {
    const struct topology *topology; /* NULL: not bound */
    uint32_t numa;                   /* index, or TOPOLOGY_ANY */
    bool strict;                     /* all its threads' memory is bound to the node */
};

/* Runs one piece in a lane, with the lane's OpenMP team. */
typedef enum status (*lane_piece_fn)(void *context, uint32_t piece, const struct lane_place *place,
                                     struct error *err);

/* Runs pieces[count], each once, taken in order by whichever lane is free. After a failure no piece
 * is begun; the error of the lowest failed place in pieces[] is reported. Blocks until all lanes
 * are done; the calling thread's binding and team size are restored. */
NODISCARD enum status lanes_run(const struct lanes *lanes, const uint32_t *pieces, uint32_t count,
                                lane_piece_fn run, void *context, struct error *err);

#endif
