/*
 * recall_choice.c - see recall_choice.h.
 *
 * Some hundred queries tell a recall to within half a percent or so. The bound taken is Wilson's,
 * for as many independent trials as would vary like the queries' recalls do: a query's k hits are
 * found or missed together, so there are fewer of them than hits, and no fewer than queries.
 */
#include "query/recall_choice.h"

#include <math.h>

#include "query/engine.h"

/* One-sided, 90 %. */
#define RECALL_CONFIDENCE_Z 1.2816

double recall_point_bound(const struct manifest_curve *curve, uint32_t number)
{
    const struct manifest_point *point = &curve->points[number];
    const double queries = curve->queries, k = curve->k;
    const double p = (double)point->hits / (queries * k);
    /* Of a query's recall, over queries. */
    const double variance = (double)point->squares / (queries * k * k) - p * p;
    double trials = queries;
    if (variance > 0)
        trials = fmin(fmax(p * (1 - p) / variance, 1) * queries, queries * k);
    const double z = RECALL_CONFIDENCE_Z, zz = z * z;
    const double middle = p + zz / (2 * trials);
    const double spread = z * sqrt(p * (1 - p) / trials + zz / (4 * trials * trials));
    return fmax((middle - spread) / (1 + zz / trials), 0);
}

/* The curve for k; those of queries that the builder was given go before those of the sample. */
static const struct manifest_curve *curve_for(const struct manifest *manifest, uint32_t k)
{
    const bool tuned =
        manifest->curve_count > 0 && manifest->curves[manifest->curve_count - 1].tuned;
    const struct manifest_curve *found = NULL;
    for (uint32_t i = 0; i < manifest->curve_count; i++) {
        const struct manifest_curve *curve = &manifest->curves[i];
        if (curve->tuned == tuned && (found == NULL || found->k < k))
            found = curve;
    }
    return found;
}

static double reads_of(const struct manifest_curve *curve, uint32_t point)
{
    return (double)curve->points[point].reads / curve->queries;
}

/* Between point `at` - 1 and point `at`, as far as the target is from what the former finds. */
static void choice_interpolate(const struct manifest_curve *curve, uint32_t at, double target,
                               struct recall_choice *out)
{
    const struct manifest_point *after = &curve->points[at];
    double share = 1;
    struct manifest_point before = *after;
    double low = recall_point_bound(curve, at);
    const double high = low;
    double low_reads = reads_of(curve, at);
    /* Without a ratio is not near any ratio. */
    if (at > 0 && high >= target &&
        (curve->points[at - 1].search_ratio > 0) == (after->search_ratio > 0)) {
        before = curve->points[at - 1];
        low = recall_point_bound(curve, at - 1);
        low_reads = reads_of(curve, at - 1);
        share = (target - low) / (high - low);
    }
    const double list =
        before.search_list + share * ((double)after->search_list - before.search_list);
    out->search_list = (uint32_t)ceil(list - 1e-9);
    out->search_ratio =
        (float)(before.search_ratio + share * (after->search_ratio - before.search_ratio));
    out->expected_recall = low + share * (high - low);
    out->expected_reads = low_reads + share * (reads_of(curve, at) - low_reads);
    out->reached = high >= target;
}

enum status recall_choose(const struct manifest *manifest, uint32_t k, double target,
                          struct recall_choice *out, struct error *err)
{
    if (!(target > 0 && target < 1))
        return error_set(err, STATUS_INVALID, "recall target %g: above 0 and below 1 is wanted",
                         target);
    if (k < 1 || k > ENGINE_K_MAX)
        return error_set(err, STATUS_INVALID, "k %u: 1..%d is wanted", k, ENGINE_K_MAX);
    const struct manifest_curve *curve = curve_for(manifest, k);
    if (curve == NULL)
        return error_set(err, STATUS_UNSUPPORTED,
                         "this generation has no recall curve for a recall target to go by");
    /* Bounds need not ascend where hits do: the first point that reaches it, else the best. */
    uint32_t at = 0, best = 0;
    while (at < curve->point_count && recall_point_bound(curve, at) < target) {
        if (recall_point_bound(curve, at) >= recall_point_bound(curve, best))
            best = at;
        at++;
    }
    struct recall_choice choice = {.tuned = curve->tuned};
    choice_interpolate(curve, at < curve->point_count ? at : best, target, &choice);
    if (k > curve->k)
        choice.search_list = (uint32_t)((uint64_t)choice.search_list * k / curve->k);
    choice.search_list = MIN(MAX(choice.search_list, k), (uint32_t)ENGINE_SEARCH_LIST_MAX);
    *out = choice;
    return STATUS_OK;
}
