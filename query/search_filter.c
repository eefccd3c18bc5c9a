/*
 * search_filter.c - how a search meets a filter.
 *
 * Scan: everything that matches is listed from the attributes, estimated from codes, and the best L
 * are read. No read is spent on anything else, and nothing that matches is overlooked; the price is
 * CPU time for each vector that matches. Since among a billion that may be seconds, a scan is made
 * in parts, with a pause after each.
 *
 * Traversal: a beam search whose frontier has only what matches. A block that is read for a match
 * holds mates, and lists, that do not match and lead on all the same: they are expanded as far as
 * they are as near as what matches, for no further read. Beyond that, the nearest that do not match
 * (`passage`) are read as long as that pays: the search has a credit for such reads, which grows
 * when one brings matches to the front. So near a query of which the filter has much around, it
 * goes straight through what does not match, and where the filter's vectors are elsewhere it does
 * not waste reads on looking for them here: there it starts from some of those vectors.
 *
 * Where lists are in memory, passing through what does not match takes no reads.
 *
 * When a search ends with fewer than k hits, a scan finds the rest.
 */
#include "common/clock.h"
#include "query/search_internal.h"

enum {
    SCAN_ALWAYS = 4096,      /* a scan of no more than this takes less than some reads do */
    SCAN_LOOK = 1 << 14,     /* nodes that a part of a scan looks at: up to a millisecond */
    PASSAGE_LIST = 64,       /* candidates that do not match, with lists in blocks */
    PASSAGE_LIST_MAX = 2048, /* with lists in memory */
    ENTRIES = 64,            /* entry points that match */
    CREDIT_READ = 100,       /* hundredths */
    CREDIT_FIRST = 600,
    CREDIT_GAIN = 50, /* for each match that came to the front */
    CREDIT_GAIN_MAX = 4 * CREDIT_GAIN,
    CREDIT_OTHER = 10, /* for each block read for a match */
};

/* A scan takes some 15 ns a match. To find as much, a traversal takes longer the fewer match: some
 * 2 us for each of its L, times n over the number that match. (1 M SIFT, 2 cores; a factor of two
 * to either side changes little, since near the limit both take as long.) */
static const double scan_worth = 100.0;

static bool scan_is_cheaper(const struct search *s, uint64_t length, uint64_t matches)
{
    double vectors = (double)s->index->manifest->vector_count;
    return length <= SCAN_ALWAYS ||
           (double)length * (double)matches <= scan_worth * (double)s->list * vectors;
}

/* How many that do not match are worth looking at: with lists in memory half of those that lie
 * among the best L that match, were they spread evenly. */
static uint32_t passage_capacity(const struct search *s, uint64_t matches)
{
    if (!index_lists_in_memory(s->index))
        return PASSAGE_LIST;
    uint64_t vectors = s->index->manifest->vector_count;
    uint64_t others = vectors - MIN(vectors, matches);
    uint64_t between = s->list * others / MAX(matches, UINT64_C(1)) / 2;
    return (uint32_t)MIN(MAX(between, (uint64_t)PASSAGE_LIST), (uint64_t)PASSAGE_LIST_MAX);
}

void search_filter_start(struct search *s)
{
    struct search_filter *f = &s->filter;
    f->filter = s->query->filter;
    f->way_count = 0;
    f->credit = CREDIT_FIRST;
    f->scan_due = f->scanned = false;
    if (!f->filter)
        return;
    uint64_t length = filter_scan_length(f->filter);
    uint64_t matches = filter_match_estimate(f->filter);
    frontier_reset(&f->passage, passage_capacity(s, matches));
    if (length == 0) {
        s->stats.filter_plan = SEARCH_FILTER_EMPTY;
        f->scanned = true;
    } else if (scan_is_cheaper(s, length, matches)) {
        s->stats.filter_plan = SEARCH_FILTER_SCAN;
        f->scan_due = true;
    } else {
        s->stats.filter_plan = SEARCH_FILTER_TRAVERSAL;
    }
}

void search_filter_enter(struct search *s)
{
    uint32_t *ids = s->scratch->ids;
    uint32_t count = filter_spread(s->filter.filter, ids, ENTRIES);
    uint32_t fresh = 0;
    for (uint32_t i = 0; i < count; i++) {
        ids[fresh] = ids[i];
        fresh += seen_add(s->seen, s->seen_mask, ids[i]);
    }
    search_offer(s, fresh);
}

/* ---- scan ---- */

/* Estimates scratch->ids[0 .. count), which all match, and keeps what ranks. */
static void scan_take(struct search *s, uint32_t count)
{
    const uint32_t *ids = s->scratch->ids;
    const float *distances = s->scratch->distances;
    codec_table_gather(s->index->codec, s->table, s->index->codes, ids, count,
                       s->scratch->distances);
    s->stats.code_distances += count;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t entry = frontier_entry(distances[i], ids[i]);
        if (entry >= search_bound(s) || search_excludes(s, ids[i]) ||
            blocks_contain(s, index_block_of(s->index, ids[i])))
            continue;
        frontier_insert(&s->frontier, entry, FRONTIER_NEW);
    }
}

void search_filter_scan(struct search *s)
{
    struct search_filter *f = &s->filter;
    bool done;
    if (!f->scanned) {
        f->scanned = true;
        frontier_reset(&s->frontier, s->frontier.capacity);
        filter_scan_begin(f->filter, &f->scan);
    }
    scan_take(s, filter_scan_next(&f->scan, SCAN_LOOK, s->scratch->ids, SEARCH_BATCH, &done));
    f->scan_due = !done;
    s->late = engine_query_late(s->query, clock_monotonic_ns());
}

bool search_filter_goes_on(struct search *s)
{
    const struct search_query *query = s->query;
    if (s->filter.scanned || s->late || query->within_radius || query->hit_count >= query->k)
        return false;
    s->filter.scan_due = true;
    s->blocks_limit += s->list; /* the traversal may have used it up */
    return true;
}

/* ---- traversal ---- */

uint32_t search_filter_passage(struct search *s)
{
    struct search_filter *f = &s->filter;
    uint32_t way = frontier_next(&f->passage);
    if (way == FRONTIER_NONE || f->way_count == ARRAY_LENGTH(f->ways))
        return FRONTIER_NONE;
    uint64_t entry = f->passage.entries[way];
    uint32_t next = frontier_next(&s->frontier);
    bool needed = next == FRONTIER_NONE && s->frontier.size < s->query->k;
    if (next != FRONTIER_NONE && s->frontier.entries[next] < entry)
        return FRONTIER_NONE;
    if ((f->credit < 0 && !needed) || search_past(s, frontier_distance(entry)))
        return FRONTIER_NONE;
    return way;
}

void search_filter_passed(struct search *s, uint32_t block)
{
    struct search_filter *f = &s->filter;
    f->credit -= CREDIT_READ;
    f->ways[f->way_count++] = block;
}

void search_filter_gained(struct search *s, uint32_t block)
{
    struct search_filter *f = &s->filter;
    uint32_t i = 0;
    while (i < f->way_count && f->ways[i] != block)
        i++;
    if (i == f->way_count) {
        f->credit += CREDIT_OTHER;
        return;
    }
    f->ways[i] = f->ways[--f->way_count];
    f->credit += (int32_t)MIN(f->gain * CREDIT_GAIN, (uint32_t)CREDIT_GAIN_MAX);
}
