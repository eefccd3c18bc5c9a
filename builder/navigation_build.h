/*
 * navigation_build.h - navigation.bin: a small Vamana graph over a random sample of the nodes, from
 * which every search gets its entry points.
 */
#ifndef NIGHTJAR_BUILDER_NAVIGATION_BUILD_H
#define NIGHTJAR_BUILDER_NAVIGATION_BUILD_H

#include <stddef.h>
#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/shard.h"
#include "common/error.h"

enum {
    NAVIGATION_DEGREE = 32,
    NAVIGATION_BUILD_LIST = 64,
    NAVIGATION_NODES_MIN = 64, /* or all, where there are fewer */
    NAVIGATION_NODES_MAX = 1 << 20,
};

/* Tells the sample's random stream from others drawn from the same seed. */
#define NAVIGATION_STREAM 0xba5eba11ab0a7f00u

/* The file image, bulk_alloc'd: release with bulk_free(bytes, length, 1). */
struct navigation_image {
    void *bytes;
    size_t length;
    uint32_t count; /* nodes in it */
};

/* Nodes sampled from `count` rows at `share` (0..1) of them, within the bounds above. */
uint32_t navigation_sample_count(uint32_t count, double share);

struct navigation_params {
    const uint32_t *node_of_position; /* of every row */
    uint32_t sample_count;            /* navigation_sample_count() */
    uint64_t seed;
};

/* Builds the graph of the partition's navigation sample and the root of shard 0, from which all
 * nodes can be reached, with the caller's OpenMP team, and writes it in node ids. On success *image
 * is the caller's. The same at any thread count. */
NODISCARD enum status navigation_build(const struct shard_plan *plan,
                                       const struct navigation_params *navigation,
                                       const struct build_monitor *monitor,
                                       struct navigation_image *image, struct error *err);

#endif
