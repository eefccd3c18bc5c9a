/*
 * u64_sort.h - sorting a large array of u64 where it is, and counting what differs in it.
 */
#ifndef NIGHTJAR_COMMON_U64_SORT_H
#define NIGHTJAR_COMMON_U64_SORT_H

#include <stddef.h>
#include <stdint.h>

/* Sorts ascending, in place. A large array is shared out over the caller's OpenMP team; call it
 * outside of parallel regions. Allocates nothing that grows with `count`; cannot fail. Time is
 * O(count) whatever the values: at most 8 passes while a range has 1024 values or more. */
void u64_sort(uint64_t *values, size_t count);

/* Number of different values in an ascending array. Uses the caller's OpenMP team. */
size_t u64_sort_distinct(const uint64_t *sorted, size_t count);

#endif
