/*
 * latency.c - owns the mapping between durations and histogram buckets.
 *
 * Durations below 64 ns have a bucket each; above, bucket = (power of two, next six bits).
 *
 * Thread rules: none of its own; callers merge per-thread histograms.
 */
#include "tools/latency.h"

static uint32_t bucket_of(uint64_t duration_ns)
{
    uint64_t limit = (UINT64_C(1) << LATENCY_RANGE_BITS) - 1;
    uint64_t value = duration_ns < limit ? duration_ns : limit;
    uint32_t steps = 1u << LATENCY_STEP_BITS;
    if (value < steps)
        return (uint32_t)value;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(value) - LATENCY_STEP_BITS;
    return (shift + 1) * steps + (uint32_t)(value >> shift) - steps;
}

static double bucket_middle_ns(uint32_t bucket)
{
    uint32_t steps = 1u << LATENCY_STEP_BITS;
    if (bucket < steps)
        return bucket;
    uint32_t shift = bucket / steps - 1;
    double low = (double)((uint64_t)(bucket % steps + steps) << shift);
    return low + (double)((UINT64_C(1) << shift) - 1) / 2;
}

void latency_record(struct latency *self, uint64_t duration_ns)
{
    self->buckets[bucket_of(duration_ns)]++;
    self->count++;
    self->sum_ns += duration_ns;
}

void latency_merge(struct latency *self, const struct latency *other)
{
    for (uint32_t i = 0; i < LATENCY_BUCKETS; i++)
        self->buckets[i] += other->buckets[i];
    self->count += other->count;
    self->sum_ns += other->sum_ns;
}

double latency_quantile_us(const struct latency *self, double share)
{
    if (self->count == 0)
        return 0;
    double wanted = share * (double)self->count;
    uint64_t seen = 0;
    uint32_t bucket = 0;
    for (; bucket < LATENCY_BUCKETS - 1; bucket++) {
        seen += self->buckets[bucket];
        if (seen > 0 && (double)seen >= wanted)
            break;
    }
    return bucket_middle_ns(bucket) / 1000;
}

double latency_mean_us(const struct latency *self)
{
    return self->count == 0 ? 0 : (double)self->sum_ns / (double)self->count / 1000;
}
