/*
 * u64_sort.c - an in-place MSD radix sort (American flag sort: McIlroy, Bostic, McIlroy, 1993).
 *
 * It needs no second array, which qsort() takes, and has no bad inputs to guard against. Departures
 * from the paper: a pass starts at the highest bit in which the values of a range differ, not at a
 * byte boundary, so small keys (row numbers) cost no passes over their zeros; and the digit narrows
 * with the range, so that counting stays cheaper than what it saves.
 *
 * Threads: ranges of TASK_COUNT_MIN values or more are tasks of one OpenMP team. The first pass is
 * one thread's; from then on there are up to 256 ranges. Tasks own disjoint ranges.
 */
#include "common/u64_sort.h"

#include <stdbool.h>

#include "common/compiler.h"

enum {
    DIGIT_BITS_MAX = 8, /* one cache line a bucket being filled: 16 KB, half of L1 */
    BUCKETS_MAX = 1 << DIGIT_BITS_MAX,
    BUCKET_VALUES_LOG2 = 2,  /* a digit is narrowed until its buckets have so many values */
    INSERTION_SORT_MAX = 32, /* below this a counting pass costs more than it saves */
    TASK_COUNT_MIN = 1 << 16,
};

struct digit {
    unsigned shift;
    unsigned bits;
};

ALWAYS_INLINE size_t digit_of(uint64_t value, struct digit digit)
{
    return (size_t)(value >> digit.shift) & (((size_t)1 << digit.bits) - 1);
}

static void insertion_sort(uint64_t *values, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        uint64_t value = values[i];
        size_t j = i;
        for (; j > 0 && values[j - 1] > value; j--)
            values[j] = values[j - 1];
        values[j] = value;
    }
}

/* Bits in which any two values differ; 0 also when the range is sorted already. */
static uint64_t bits_to_sort(const uint64_t *values, size_t count)
{
    uint64_t spread = 0;
    bool ascending = true;

    for (size_t i = 1; i < count; i++) {
        spread |= values[i] ^ values[0];
        ascending &= values[i - 1] <= values[i];
    }
    return ascending ? 0 : spread;
}

/* The highest bits of `spread`, as many as suit the range. */
static struct digit digit_choose(uint64_t spread, size_t count)
{
    unsigned differing = 64 - (unsigned)__builtin_clzll(spread);
    unsigned log2 = 63 - (unsigned)__builtin_clzll(count);
    unsigned bits = MIN(log2 - BUCKET_VALUES_LOG2, (unsigned)DIGIT_BITS_MAX);
    if (bits > differing)
        bits = differing;
    return (struct digit){differing - bits, bits};
}

/* Brings the values into the order of their digits; bucket b then ends at ends[b]. */
static void permute(uint64_t *values, size_t count, struct digit digit, size_t *ends)
{
    size_t next[BUCKETS_MAX] = {0};
    size_t buckets = (size_t)1 << digit.bits;
    size_t sum = 0;

    for (size_t i = 0; i < count; i++)
        next[digit_of(values[i], digit)]++;
    for (size_t b = 0; b < buckets; b++) {
        size_t size = next[b];
        next[b] = sum;
        sum += size;
        ends[b] = sum;
    }
    for (size_t b = 0; b < buckets; b++) {
        while (next[b] < ends[b]) {
            uint64_t value = values[next[b]];
            size_t home;
            while ((home = digit_of(value, digit)) != b) {
                uint64_t displaced = values[next[home]];
                values[next[home]++] = value;
                value = displaced;
            }
            values[next[b]++] = value;
        }
    }
}

/* A digit has at least three bits, or all that are left: recursion is at most 22 deep, 2 KB each.
 */
static void range_sort(uint64_t *values, size_t count)
{
    size_t ends[BUCKETS_MAX];

    if (count <= INSERTION_SORT_MAX) {
        insertion_sort(values, count);
        return;
    }
    uint64_t spread = bits_to_sort(values, count);
    if (spread == 0)
        return;
    struct digit digit = digit_choose(spread, count);
    permute(values, count, digit, ends);
    if (digit.shift == 0)
        return;
    for (size_t b = 0; b < (size_t)1 << digit.bits; b++) {
        size_t start = b > 0 ? ends[b - 1] : 0;
        uint64_t *bucket = values + start;
        size_t bucket_count = ends[b] - start;
        if (bucket_count >= TASK_COUNT_MIN) {
#pragma omp task firstprivate(bucket, bucket_count)
            range_sort(bucket, bucket_count);
        } else {
            range_sort(bucket, bucket_count);
        }
    }
}

void u64_sort(uint64_t *values, size_t count)
{
    if (count < TASK_COUNT_MIN) {
        range_sort(values, count);
        return;
    }
#pragma omp parallel
#pragma omp single
    range_sort(values, count);
}

size_t u64_sort_distinct(const uint64_t *sorted, size_t count)
{
    size_t distinct = count > 0;

#pragma omp parallel for schedule(static) reduction(+ : distinct) if (count >= TASK_COUNT_MIN)
    for (size_t i = 1; i < count; i++)
        distinct += sorted[i] != sorted[i - 1];
    return distinct;
}
