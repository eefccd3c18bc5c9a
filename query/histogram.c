/*
 * histogram.c - see histogram.h. Relaxed loads and stores are enough: buckets are independent, and
 * with one writer a store after a load loses nothing.
 */
#include "query/histogram.h"

#include "common/compiler.h"

enum { STEPS = 1 << HISTOGRAM_STEP_BITS };

static uint32_t bucket_of(uint64_t duration_ns)
{
    if (duration_ns >> HISTOGRAM_FLOOR_BITS == 0)
        return 0;
    if (duration_ns >> HISTOGRAM_TOP_BITS != 0)
        return HISTOGRAM_BUCKETS - 1;
    uint32_t power = 63 - (uint32_t)__builtin_clzll(duration_ns);
    uint32_t step = (uint32_t)(duration_ns >> (power - HISTOGRAM_STEP_BITS)) & (STEPS - 1);
    return 1 + ((power - HISTOGRAM_FLOOR_BITS) << HISTOGRAM_STEP_BITS) + step;
}

uint64_t histogram_bucket_floor_ns(uint32_t bucket)
{
    if (bucket == 0)
        return 0;
    uint32_t place = bucket - 1;
    uint32_t power = HISTOGRAM_FLOOR_BITS + (place >> HISTOGRAM_STEP_BITS);
    uint64_t step = place & (STEPS - 1);
    return (STEPS + step) << (power - HISTOGRAM_STEP_BITS);
}

static void add(atomic_uint_fast64_t *counter, uint64_t by)
{
    uint64_t before = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, before + by, memory_order_relaxed);
}

void histogram_record(struct histogram *histogram, uint64_t duration_ns)
{
    add(&histogram->buckets[bucket_of(duration_ns)], 1);
    add(&histogram->sum_ns, duration_ns);
}

void histogram_read(const struct histogram *histogram, struct histogram_counts *into)
{
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t count = atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
        into->buckets[i] += count;
        into->count += count;
    }
    into->sum_ns += atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed);
}

void histogram_counts_add(struct histogram_counts *into, const struct histogram_counts *from)
{
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
    into->count += from->count;
    into->sum_ns += from->sum_ns;
}

uint64_t histogram_percentile_ns(const struct histogram_counts *counts, double share)
{
    if (counts->count == 0)
        return 0;
    uint64_t before = 0;
    uint32_t bucket = 0;
    for (; bucket < HISTOGRAM_BUCKETS - 1; bucket++) {
        before += counts->buckets[bucket];
        if (before > 0 && (double)before >= share * (double)counts->count)
            break;
    }
    uint64_t floor_ns = histogram_bucket_floor_ns(bucket);
    if (bucket == HISTOGRAM_BUCKETS - 1)
        return floor_ns;
    return floor_ns + (histogram_bucket_floor_ns(bucket + 1) - floor_ns) / 2;
}

uint64_t histogram_mean_ns(const struct histogram_counts *counts)
{
    return counts->count ? counts->sum_ns / counts->count : 0;
}
