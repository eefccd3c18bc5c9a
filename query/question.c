/*
 * question.c - see question.h. No state.
 */
#include "query/question.h"

#include <math.h>

static enum status radius_check(const struct question *question, const struct manifest *manifest,
                                struct error *err)
{
    float radius = question->common.radius;
    if (!question->common.within_radius)
        return STATUS_OK;
    if (!isfinite(radius))
        return error_set(err, STATUS_INVALID, "radius %g: a finite distance is wanted",
                         (double)radius);
    if (manifest->metric == METRIC_L2 && radius < 0.0f)
        return error_set(err, STATUS_INVALID, "radius %g: no squared distance is below 0",
                         (double)radius);
    return STATUS_OK;
}

/* Negated, so that NaN is at fault. */
static enum status recall_target_check(const struct question *question, struct error *err)
{
    float target = question->recall_target;
    if (target == 0.0f)
        return STATUS_OK;
    if (!(target > 0.0f && target < 1.0f))
        return error_set(err, STATUS_INVALID, "recall target %g: above 0 and below 1 is wanted",
                         (double)target);
    if (question->common.search_list != 0 || question->common.search_ratio != 0.0f)
        return error_set(err, STATUS_INVALID, "either a search list or a recall target");
    return error_set(err, STATUS_UNSUPPORTED, "recall targets are not known yet");
}

enum status question_prepare(struct question *question, const struct index *index,
                             struct error *err)
{
    const struct manifest *manifest = index_manifest(index);
    enum status status = radius_check(question, manifest, err);
    if (status == STATUS_OK)
        status = recall_target_check(question, err);
    if (status == STATUS_OK && question->filter_bytes > 0)
        status = error_set(err, STATUS_UNSUPPORTED, "filters are not known yet");
    question->match_estimate = manifest->vector_count;
    return status;
}

void question_fini(struct question *question)
{
    (void)question;
}
