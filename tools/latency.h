/*
 * latency.h - a histogram of durations with a bounded relative error, in the manner of
 * HdrHistogram: 64 buckets to each power of two, so a percentile is within 0.8 %.
 *
 * Plain storage of about 9 KB; one thread records at a time.
 */
#ifndef NIGHTJAR_TOOLS_LATENCY_H
#define NIGHTJAR_TOOLS_LATENCY_H

#include <stdint.h>

enum {
    LATENCY_STEP_BITS = 6,
    LATENCY_RANGE_BITS = 40, /* durations of 18 minutes and more share the last bucket */
    LATENCY_BUCKETS = (LATENCY_RANGE_BITS - LATENCY_STEP_BITS + 1) << LATENCY_STEP_BITS,
};

struct latency {
    uint32_t buckets[LATENCY_BUCKETS];
    uint64_t count;
    uint64_t sum_ns;
};

/* Zeroed storage is an empty histogram. */
void latency_record(struct latency *self, uint64_t duration_ns);

/* Adds everything `other` recorded. */
void latency_merge(struct latency *self, const struct latency *other);

/* Smallest duration that `share` (0..1] of the recorded ones do not exceed, to the width of a
 * bucket (its middle); 0 when nothing was recorded. */
double latency_quantile_us(const struct latency *self, double share);

double latency_mean_us(const struct latency *self);

#endif
