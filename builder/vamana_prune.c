/*
 * vamana_prune.c - RobustPrune, the rule that decides every list of the graph.
 *
 * Departures from the paper: candidates are tested against the selected nodes one by one, nearest
 * first, and the test stops at the first that occludes (the paper removes all occluded nodes after
 * each selection; the outcome is the same and most candidates fall to the first few tests). A
 * selected node at distance zero (a duplicate) occludes only other duplicates: it sees every other
 * candidate at exactly the node's own distance, so at alpha = 1 it would empty the list.
 */
#include "builder/vamana_internal.h"

#include <stdlib.h>

static int candidate_order(const void *a, const void *b)
{
    struct vamana_candidate x = *(const struct vamana_candidate *)a;
    struct vamana_candidate y = *(const struct vamana_candidate *)b;
    return vamana_candidate_less(x, y) ? -1 : vamana_candidate_less(y, x) ? 1 : 0;
}

/* Shell sort: the arrays are short (tens to a few hundred) and often nearly sorted; qsort's calls
 * through a pointer cost more than the comparisons. */
void vamana_candidates_sort(struct vamana_candidate *c, uint32_t count)
{
    static const uint32_t gaps[] = {132, 57, 23, 10, 4, 1};
    if (count > 1000) {
        qsort(c, count, sizeof(*c), candidate_order);
        return;
    }
    for (uint32_t g = 0; g < ARRAY_LENGTH(gaps); g++) {
        uint32_t gap = gaps[g];
        for (uint32_t i = gap; i < count; i++) {
            struct vamana_candidate moved = c[i];
            uint32_t j = i;
            for (; j >= gap && vamana_candidate_less(moved, c[j - gap]); j -= gap)
                c[j] = c[j - gap];
            c[j] = moved;
        }
    }
}

/* True when a selected node occludes the candidate. Selected nodes are measured a few at a time:
 * one gather call costs less than single pairs, and most verdicts fall in the first group. */
static bool occluded(const struct vector_set *set, float alpha, struct vamana_candidate c,
                     const uint32_t *selected, uint32_t selected_count, float *distances)
{
    enum { GROUP = 8 };
    for (uint32_t first = 0; first < selected_count; first += GROUP) {
        uint32_t count = MIN((uint32_t)GROUP, selected_count - first);
        vector_set_gather(set, c.id, selected + first, count, distances);
        for (uint32_t i = 0; i < count; i++)
            if (alpha * distances[i] <= c.distance)
                return true;
    }
    return false;
}

uint32_t vamana_prune(const struct vector_set *set, const struct vamana_params *params,
                      uint32_t node, struct vamana_candidate *candidates, uint32_t count,
                      struct vamana_scratch *scratch, uint32_t *out)
{
    vamana_candidates_sort(candidates, count);
    uint32_t copies =
        0; /* at distance zero: at most one is kept, so they do not use up the limit */
    while (copies < count && candidates[copies].distance == 0.0f)
        copies++;
    count = MIN(count, copies + VAMANA_PRUNE_CANDIDATES_MAX);
    uint32_t selected = 0;
    uint32_t duplicates = 0; /* selected nodes at distance zero: out[0 .. duplicates) */
    for (uint32_t i = 0; i < count && selected < params->degree; i++) {
        struct vamana_candidate c = candidates[i];
        if (c.id == node || (i > 0 && c.id == candidates[i - 1].id))
            continue;
        if (c.distance == 0.0f) {
            if (duplicates == 0) {
                out[selected++] = c.id;
                duplicates++;
            }
            continue;
        }
        if (!occluded(set, params->alpha, c, out + duplicates, selected - duplicates,
                      scratch->pair_distances))
            out[selected++] = c.id;
    }
    return selected;
}
