/*
 * memory.h - bulk memory and overflow-checked sizes.
 *
 * Everything that grows with n comes from bulk_alloc(): anonymous pages, zeroed, 2 MB-aligned where
 * the size deserves it and advised MADV_HUGEPAGE, so random access misses the TLB less.
 */
#ifndef NIGHTJAR_COMMON_MEMORY_H
#define NIGHTJAR_COMMON_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* *out = a * b or a + b; false (and *out untouched) on overflow. */
NODISCARD bool size_mul(size_t a, size_t b, size_t *out);
NODISCARD bool size_add(size_t a, size_t b, size_t *out);

/* Rounds up to a multiple of a power of two. The caller keeps it from overflowing. */
ALWAYS_INLINE size_t size_align(size_t bytes, size_t power_of_two)
{
    return (bytes + power_of_two - 1) & ~(power_of_two - 1);
}

/* Zeroed memory for `count` items of `item_bytes`; never NULL on success (count 0 gives one page).
 * `what` names it in the error. Release with bulk_free() and the same product. */
NODISCARD enum status bulk_alloc(size_t count, size_t item_bytes, const char *what, void **out,
                                 struct error *err);
void bulk_free(void *memory, size_t count, size_t item_bytes);

/* Parses "4G", "512M", "64K", "1T", "1048576", "1.5G" (powers of 1024; the unit in either case, at
 * most 9 decimals and only with a unit). *bytes is written on success only. */
NODISCARD enum status memory_parse(const char *text, uint64_t *bytes, struct error *err);

/* Memory this process may plan on: the smallest of MemAvailable and the cgroup's limit less its
 * use. 0 if it cannot be told. */
uint64_t memory_available(void);

/* As above with /proc and /sys looked for under the directory `root`: for tests with made-up
 * machines. */
uint64_t memory_available_at(const char *root);

/* Peak and current resident set of this process in bytes (VmHWM, VmRSS). */
uint64_t memory_peak_rss(void);
uint64_t memory_rss(void);

#endif
