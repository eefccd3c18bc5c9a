/*
 * filter_scan.c - a filter's matching nodes, one after another: see filter.h.
 *
 * A scan walks over the segments of the plan. A node may be in several of them; it counts where it
 * is met first, which its attributes tell, so that nothing must be remembered.
 */
#include <string.h>

#include "common/random.h"
#include "query/filter_internal.h"

static uint32_t node_at(const struct filter_segment *segment, uint64_t position)
{
    const uint64_t i = position - segment->begin;
    return segment->nodes ? segment->nodes[i] : (uint32_t)i;
}

static uint64_t segment_end(const struct filter *filter, uint32_t segment)
{
    return segment + 1 < filter->segment_count ? filter->segments[segment + 1].begin
                                               : filter->scan_length;
}

/* Whether `node`, which is in `segment`, matches and was in none before. */
static bool takes(const struct filter *filter, const struct filter_segment *segment, uint32_t node)
{
    if (!segment->nodes && !attributes_node_exists(filter->attributes, node))
        return false;
    if (!filter->scan_exact && !filter_match(filter, node))
        return false;
    for (uint32_t i = 0; i < segment->source; i++)
        if (filter_leaf_match(&filter->sources[i], node))
            return false;
    const struct filter_leaf *source = &filter->sources[segment->source];
    return !segment->nodes || source->kind != FILTER_LEAF_ANY ||
           filter_first_label(source, node) == segment->label;
}

static uint32_t segment_of(const struct filter *filter, uint64_t position)
{
    uint32_t low = 0;
    uint32_t high = filter->segment_count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (filter->segments[middle].begin <= position)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* The node at a position below the scan's length; true if a scan returns it there. */
static bool look_at(const struct filter *filter, uint64_t position, uint32_t *node)
{
    const struct filter_segment *segment = &filter->segments[segment_of(filter, position)];
    *node = node_at(segment, position);
    return takes(filter, segment, *node);
}

void filter_scan_begin(const struct filter *filter, struct filter_scan *scan)
{
    *scan = (struct filter_scan){.filter = filter};
}

uint32_t filter_scan_next(struct filter_scan *scan, uint64_t look, uint32_t *nodes, uint32_t max,
                          bool *done)
{
    const struct filter *filter = scan->filter;
    const uint64_t left = filter->scan_length - scan->position;
    const uint64_t end = scan->position + MIN(look, left);
    uint32_t count = 0;
    while (scan->position < end && count < max) {
        const struct filter_segment *segment = &filter->segments[scan->segment];
        const uint32_t node = node_at(segment, scan->position);
        if (takes(filter, segment, node))
            nodes[count++] = node;
        if (++scan->position == segment_end(filter, scan->segment))
            scan->segment++;
    }
    *done = scan->position == filter->scan_length;
    return count;
}

/* ---- parts of a scan ---- */

static uint64_t divisor(uint64_t a, uint64_t b)
{
    while (b) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static uint64_t scaled(uint64_t i, uint64_t total, uint64_t parts)
{
    return (uint64_t)((unsigned __int128)i * total / parts);
}

/* Steps of the golden ratio around the scan: after any number of them the places seen are spread
 * evenly, so it does not matter how many are needed. */
uint32_t filter_spread(const struct filter *filter, uint32_t *nodes, uint32_t max)
{
    const uint64_t places = MIN((uint64_t)max * 16, filter->scan_length);
    uint64_t step = (uint64_t)((double)places * 0.6180339887498949);
    while (divisor(places, step) > 1)
        step++;
    uint32_t count = 0;
    uint64_t place = 0;
    for (uint64_t i = 0; i < places && count < max; i++) {
        /* The middle of its part. */
        const uint64_t position = scaled(2 * place + 1, filter->scan_length, 2 * places);
        if (look_at(filter, position, &nodes[count]))
            count++;
        place = (place + step) % places;
    }
    return count;
}

static uint64_t count_all(const struct filter *filter)
{
    uint64_t matches = 0;
    uint32_t node;
    for (uint64_t i = 0; i < filter->scan_length; i++)
        matches += look_at(filter, i, &node);
    return matches;
}

uint64_t filter_scan_looks(const struct filter *filter)
{
    const uint64_t length = filter->scan_length;
    const uint64_t tests = MAX(filter->leaf_count, 1);
    const uint64_t most = MAX(FILTER_TESTS_MAX / tests, 1); /* of FILTER_TERMS_MAX: 256 */
    return length <= MIN(most, FILTER_COUNTED_MAX) ? length : MIN(most, FILTER_SAMPLE);
}

uint64_t filter_scan_estimate(const struct filter *filter)
{
    const uint64_t length = filter->scan_length;
    const uint64_t looks = filter_scan_looks(filter);
    if (looks == length)
        return count_all(filter);
    /* A place at random in each part: nodes come in blocks, whose period could be that of parts. */
    uint64_t found = 0;
    uint32_t node;
    for (uint64_t i = 0; i < looks; i++) {
        const uint64_t begin = scaled(i, length, looks);
        const uint64_t end = scaled(i + 1, length, looks);
        found += look_at(filter, begin + random_below(length, i, end - begin), &node);
    }
    const uint64_t estimate = scaled(found, length, looks);
    return MIN(MAX(estimate, 1), filter->attributes->vector_count);
}
