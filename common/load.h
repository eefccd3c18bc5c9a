/*
 * load.h - what lies in bytes at any alignment, read as files and frames have it: little-endian,
 * which compiler.h demands of the host; and whether bytes are zero, as reserved ones must be.
 */
#ifndef NIGHTJAR_COMMON_LOAD_H
#define NIGHTJAR_COMMON_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/compiler.h"

ALWAYS_INLINE uint16_t load_u16(const uint8_t *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

ALWAYS_INLINE uint32_t load_u32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

ALWAYS_INLINE uint64_t load_u64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* Without a branch a byte, so that it becomes SIMD. */
ALWAYS_INLINE bool bytes_are_zero(const void *data, size_t bytes)
{
    const uint8_t *from = data;
    uint8_t set = 0;
    for (size_t i = 0; i < bytes; i++)
        set |= from[i];
    return set == 0;
}

#endif
