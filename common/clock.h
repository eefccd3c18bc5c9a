/*
 * clock.h - monotonic time in nanoseconds, for durations and deadlines.
 */
#ifndef NIGHTJAR_COMMON_CLOCK_H
#define NIGHTJAR_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

#include "common/compiler.h"

/* CLOCK_MONOTONIC in nanoseconds. Never goes back, is comparable between threads, and costs about
 * 20 ns (vDSO, no system call). Cannot fail: the clock exists on every Linux. */
ALWAYS_INLINE uint64_t clock_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
