/*
 * navigation.h - navigation.bin: a small graph over a sample of nodes, held in RAM, from which a
 * search gets its entry points. Distances in it are taken from the nodes' codes, so it stores none.
 *
 *   0 u32 magic 'NJNV'   4 u32 version (1)   8 u32 count   12 u32 degree   16 u32 entry   20 u32[3]
 * zero 32 u32 nodes[count]                     node id of each sample member u32 neighbors[count *
 * degree]        indexes into nodes; rows padded with NAVIGATION_NONE
 */
#ifndef NIGHTJAR_LAYOUT_NAVIGATION_H
#define NIGHTJAR_LAYOUT_NAVIGATION_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define NAVIGATION_NONE UINT32_MAX

struct navigation {
    uint32_t count;  /* >= 1 */
    uint32_t degree; /* 1..255 */
    uint32_t entry;  /* index into nodes where every search starts */
    const uint32_t *nodes;
    const uint32_t *neighbors;
};

size_t navigation_bytes(uint32_t count, uint32_t degree);

/* Writes the file image into bytes[navigation_bytes(...)]. */
void navigation_encode(const struct navigation *navigation, void *bytes);

/* Checks everything (magic, sizes, ids < node_limit, indexes < count) and points *out into `bytes`
 * (4-byte aligned, which must outlive it). */
NODISCARD enum status navigation_decode(const void *bytes, size_t length, uint32_t node_limit,
                                        struct navigation *out, struct error *err);

#endif
