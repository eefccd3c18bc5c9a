/*
 * robust_prune.c - RobustPrune, the rule that decides every list of the graph.
 *
 * Candidates are taken nearest first, and each selected one strikes out all that it occludes, as in
 * the paper. Where the distances of the set are those of its bytes, all candidates are one tile and
 * a selected one is compared with 32 of them at a time; else those not yet struck out are gathered.
 *
 * Departure from the paper: a selected node at distance zero (a duplicate) occludes only other
 * duplicates: it sees every other candidate at exactly the node's own distance, so at alpha = 1 it
 * would empty the list. And under ip a shorter node does not occlude a longer one.
 */
#include "builder/graph_internal.h"

#include <stdlib.h>
#include <string.h>

#include "builder/byte_view.h"
#include "common/u64_sort.h"

/* A candidate as a number that orders as candidate_less(): a distance is never negative. */
static uint64_t sort_key(struct candidate c)
{
    uint32_t bits;
    memcpy(&bits, &c.distance, sizeof(bits));
    return (uint64_t)bits << 32 | c.id;
}

static struct candidate sort_unkey(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    struct candidate c = {.id = (uint32_t)key};
    memcpy(&c.distance, &bits, sizeof(bits));
    return c;
}

static int candidate_order(const void *a, const void *b)
{
    uint64_t x = sort_key(*(const struct candidate *)a);
    uint64_t y = sort_key(*(const struct candidate *)b);
    return (x > y) - (x < y);
}

void candidates_sort(struct candidate *c, uint32_t count)
{
    uint64_t keys[1024]; /* most have a hundred; more are of rows with many new sources */
    if (count > ARRAY_LENGTH(keys)) {
        qsort(c, count, sizeof(*c), candidate_order);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        keys[i] = sort_key(c[i]);
    u64_sort(keys, count);
    for (uint32_t i = 0; i < count; i++)
        c[i] = sort_unkey(keys[i]);
}

/* Fills prune_ids and prune_limits with the candidates at a distance above zero, nearest first and
 * each once, but for `node`; returns how many. The first at distance zero goes to out[0], and
 * *duplicates is 1. */
static uint32_t candidates_distinct(const struct candidate *candidates, uint32_t count,
                                    uint32_t node, struct graph_scratch *s, uint32_t *out,
                                    uint32_t *duplicates)
{
    uint32_t distinct = 0;
    *duplicates = 0;
    for (uint32_t i = 0; i < count && distinct < PRUNE_CANDIDATES_MAX; i++) {
        struct candidate c = candidates[i];
        if (c.id == node || (i > 0 && c.id == candidates[i - 1].id))
            continue;
        if (c.distance == 0.0f) {
            if (*duplicates == 0)
                out[(*duplicates)++] = c.id;
            continue;
        }
        s->prune_ids[distinct] = c.id;
        s->prune_limits[distinct++] = c.distance;
    }
    return distinct;
}

/* Selects among prune_ids[count] up to `most`; returns how many. */
static uint32_t select_by_tile(const struct vector_set *set, float alpha, uint32_t count,
                               uint32_t most, struct graph_scratch *s, uint32_t *out)
{
    const struct byte_rows rows = byte_view_of_set(set);
    uint32_t standing[PRUNE_CANDIDATES_MAX / TILE_PANEL_ROWS + 1] = {0};
    struct tile *tile = &s->tile;
    uint32_t selected = 0;

    tile_fill(tile, &rows, s->prune_ids, count);
    for (uint32_t panel = 0; panel < tile->panels; panel++) {
        uint32_t here = MIN(count - panel * TILE_PANEL_ROWS, (uint32_t)TILE_PANEL_ROWS);
        standing[panel] = (uint32_t)((UINT64_C(1) << here) - 1);
    }
    for (uint32_t first = 0; first < tile->panels; first++)
        while (standing[first] != 0 && selected < most) {
            uint32_t i = first * TILE_PANEL_ROWS + (uint32_t)__builtin_ctz(standing[first]);
            out[selected++] = s->prune_ids[i];
            standing[first] &= standing[first] - 1;
            tile_ask(tile, &rows, &s->prune_ids[i], 1);
            for (uint32_t panel = first; panel < tile->panels; panel++)
                if (standing[panel] != 0)
                    standing[panel] &= ~tile_occluded(tile, panel, tile->squares[i], alpha,
                                                      s->prune_limits + panel * TILE_PANEL_ROWS);
        }
    return selected;
}

/* Under ip a way over a shorter vector does not stand for an edge to a longer one: though it be
 * nearer in the space of the reduction, queries have a smaller product with it, and a search for
 * the largest does not go there. Lengths a tenth apart count as the same. (Squares are a difference
 * that rounding spoils for vectors some thousand times shorter than the longest; any order of those
 * will do.) */
static bool may_occlude(const struct vector_set *set, uint32_t selected, uint32_t candidate)
{
    const float like = 0.9f * 0.9f;
    if (set->metric != METRIC_IP)
        return true;
    float norm2_max = set->norm_max * set->norm_max;
    float selected2 = norm2_max - set->row_scalar[selected] * set->row_scalar[selected];
    float candidate2 = norm2_max - set->row_scalar[candidate] * set->row_scalar[candidate];
    return selected2 >= like * candidate2;
}

static uint32_t select_by_gather(const struct vector_set *set, float alpha, uint32_t count,
                                 uint32_t most, struct graph_scratch *s, uint32_t *out)
{
    uint32_t *ids = s->prune_ids;
    float *limits = s->prune_limits;
    uint32_t selected = 0;

    while (count > 0 && selected < most) {
        uint32_t chosen = ids[0];
        uint32_t standing = 0;
        out[selected++] = chosen;
        vector_set_gather(set, chosen, ids + 1, count - 1, s->prune_distances);
        for (uint32_t i = 1; i < count; i++) {
            if (alpha * s->prune_distances[i - 1] <= limits[i] && may_occlude(set, chosen, ids[i]))
                continue;
            ids[standing] = ids[i];
            limits[standing++] = limits[i];
        }
        count = standing;
    }
    return selected;
}

uint32_t robust_prune(const struct vector_set *set, const struct graph_params *params,
                      uint32_t node, struct candidate *candidates, uint32_t count,
                      struct graph_scratch *scratch, uint32_t *out)
{
    uint32_t duplicates;
    candidates_sort(candidates, count);
    count = candidates_distinct(candidates, count, node, scratch, out, &duplicates);
    if (count == 0)
        return duplicates;
    uint32_t most = params->degree - duplicates;
    out += duplicates;
    if (byte_view_exact(set))
        return duplicates + select_by_tile(set, params->alpha, count, most, scratch, out);
    return duplicates + select_by_gather(set, params->alpha, count, most, scratch, out);
}
