/*
 * write_blocks.h - nodes.blk: every block encoded and appended to the generation, in order.
 */
#ifndef NIGHTJAR_BUILDER_WRITE_BLOCKS_H
#define NIGHTJAR_BUILDER_WRITE_BLOCKS_H

#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/pack.h"
#include "builder/vector_set.h"
#include "common/error.h"
#include "layout/generation.h"

enum { WRITE_BLOCKS_BUFFER_BYTES = 4 << 20 }; /* there are two */

/* `keys` [set->count] may be NULL: the key is the row. Uses the caller's OpenMP team. A failed
 * write is the writer's error; what was appended stays until generation_writer_abort(). */
NODISCARD enum status write_blocks(const struct vector_set *set, const struct pack_result *pack,
                                   const uint64_t *keys, const struct build_monitor *monitor,
                                   struct generation_writer *writer, struct error *err);

#endif
