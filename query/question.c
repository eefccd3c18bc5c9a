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

static enum status filter_prepare(struct question *question, const struct index *index,
                                  struct error *err)
{
    const struct attributes *attributes = index_attributes(index);
    if (question->filter_bytes == 0)
        return STATUS_OK;
    if (attributes->column_count == 0)
        return error_set(err, STATUS_INVALID, "filter: this index has no attributes");
    enum status status = filter_compile(question->filter_text, question->filter_bytes, attributes,
                                        &question->filter, err);
    if (status != STATUS_OK)
        return status;
    question->common.filter = question->filter;
    question->match_estimate = filter_match_estimate(question->filter);
    return STATUS_OK;
}

enum status question_prepare(struct question *question, const struct index *index,
                             struct error *err)
{
    const struct manifest *manifest = index_manifest(index);
    enum status status = radius_check(question, manifest, err);
    if (status == STATUS_OK)
        status = recall_target_check(question, err);
    question->match_estimate = manifest->vector_count;
    if (status == STATUS_OK)
        status = filter_prepare(question, index, err);
    return status;
}

void question_fini(struct question *question)
{
    filter_free(question->filter);
    question->filter = NULL;
}
