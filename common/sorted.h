/*
 * sorted.h - looking for a number among sorted ones. Pure.
 */
#ifndef NIGHTJAR_COMMON_SORTED_H
#define NIGHTJAR_COMMON_SORTED_H

#include <stdint.h>

#include "common/compiler.h"

enum { SORTED_NONE = 0xffffffff };

/* Index of `value` in ascending, distinct values[count]; SORTED_NONE if it is not among them. */
ALWAYS_INLINE uint32_t sorted_find(const uint32_t *values, uint32_t count, uint32_t value)
{
    uint32_t low = 0;
    uint32_t high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (values[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && values[low] == value ? low : SORTED_NONE;
}

#endif
