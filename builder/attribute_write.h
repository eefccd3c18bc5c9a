/*
 * attribute_write.h - attributes.bin, in node order, from what the ingest stage left in row order.
 *
 * Memory grows with the rows, not with their labels: those are read as often as it takes to write
 * so many at a time as there are rows. One thread; the same bytes always.
 */
#ifndef NIGHTJAR_BUILDER_ATTRIBUTE_WRITE_H
#define NIGHTJAR_BUILDER_ATTRIBUTE_WRITE_H

#include <stdint.h>

#include "builder/attribute_input.h"
#include "builder/build_monitor.h"
#include "builder/shard.h"
#include "common/error.h"
#include "layout/generation.h"

struct attribute_write_params {
    const struct shard_plan *plan;
    const uint32_t *node_of_position; /* [plan->shape.count] */
    uint32_t node_limit;
    struct generation_writer *writer;
};

/* Most memory that attribute_write_run() holds at a time, beside node_of_position. */
uint64_t attribute_write_memory_bytes(const struct attribute_extent *extent, uint64_t rows,
                                      uint64_t node_limit);

/* Length of the file, about: how many labels rows have is not known before they are read. */
uint64_t attribute_write_disk_bytes(const struct attribute_extent *extent, uint64_t rows);

/* Appends the whole file; *bytes and *digest (XXH3-128) are what it should be. A wish to stop is
 * heard between passes over a column. STATUS_CORRUPT: what was left is damaged; the piece is
 * forgotten. */
NODISCARD enum status attribute_write_run(const struct attribute_write_params *params,
                                          const struct build_monitor *monitor, uint64_t *bytes,
                                          struct digest128 *digest, struct error *err);

#endif
