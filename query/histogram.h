/*
 * histogram.h - durations counted in buckets whose width is a sixteenth of a power of two, in the
 * manner of HdrHistogram: a percentile is within 1/32 of the truth from 1 us to 137 s.
 *
 * struct histogram has one writer and any number of readers, and takes no locks: a reader sees each
 * bucket as it was at some moment of its reading. struct histogram_counts is plain: what a reader
 * took, to add up and to ask. Zeroed storage of either is empty.
 */
#ifndef NIGHTJAR_QUERY_HISTOGRAM_H
#define NIGHTJAR_QUERY_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    HISTOGRAM_STEP_BITS = 4,   /* 16 buckets to a power of two */
    HISTOGRAM_FLOOR_BITS = 10, /* durations below 1024 ns share the first bucket */
    HISTOGRAM_TOP_BITS = 37,   /* those of 2^37 ns and more share the last */
    HISTOGRAM_BUCKETS = ((HISTOGRAM_TOP_BITS - HISTOGRAM_FLOOR_BITS) << HISTOGRAM_STEP_BITS) + 2,
};

struct histogram {
    atomic_uint_fast64_t buckets[HISTOGRAM_BUCKETS];
    atomic_uint_fast64_t sum_ns;
};

struct histogram_counts {
    uint64_t buckets[HISTOGRAM_BUCKETS];
    uint64_t count;  /* sum of buckets */
    uint64_t sum_ns; /* of what was recorded, exact; wraps after 584 years */
};

/* The one writer's. */
void histogram_record(struct histogram *histogram, uint64_t duration_ns);

/* Adds what was recorded so far to *into. Any thread. */
void histogram_read(const struct histogram *histogram, struct histogram_counts *into);

/* *into += *from */
void histogram_counts_add(struct histogram_counts *into, const struct histogram_counts *from);

/* Smallest duration that `share` (0..1) of the recorded ones do not exceed, as the middle of its
 * bucket; 0 when nothing was recorded. */
uint64_t histogram_percentile_ns(const struct histogram_counts *counts, double share);

/* Mean of all, exact; 0 when nothing was recorded. */
uint64_t histogram_mean_ns(const struct histogram_counts *counts);

/* Shortest duration that belongs to a bucket; bucket HISTOGRAM_BUCKETS - 1 has no end. */
uint64_t histogram_bucket_floor_ns(uint32_t bucket);

#endif
