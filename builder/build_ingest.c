/*
 * build_ingest.c - the first stage: attributes, if given, then vectors and keys are read and
 * checked, and what they were is committed.
 */
#include <string.h>
#include <xxhash.h>

#include "builder/build_internal.h"
#include "layout/digest.h"

/* What the build is given, with attributes: FORMAT.md has the rule. */
static struct digest128 digest_join(struct digest128 vectors, struct digest128 attributes)
{
    const uint64_t both[] = {vectors.low, vectors.high, attributes.low, attributes.high};
    return digest_of(XXH3_128bits(both, sizeof(both)));
}

/* Attributes first: a fault in them is found before hours of reading. */
enum status build_ingest_run(struct build *b, const struct build_monitor *monitor,
                             struct build_stage_record *cost, struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct work_output *outputs[ATTRIBUTE_OUTPUTS_MAX];
    size_t output_count = 0;
    struct digest128 attributes = {0};
    struct scan_result result;
    const struct attribute_input_params params = {
        .path = b->params.attributes,
        .vectors_path = b->params.input,
        .rows = b->shape.count,
        .work = b->work,
    };
    memset(&result, 0, sizeof(result)); /* padding is written too */
    enum status status = STATUS_OK;
    if (params.path != NULL)
        status = attribute_input_read(&params, monitor, outputs, &output_count, &attributes, err);
    if (status == STATUS_OK)
        status = scan_run(b->file, b->params.metric, b->params.keys, monitor, &result, err);
    build_clock_measure(&clock, cost);
    if (params.path != NULL)
        result.input_digest = digest_join(result.input_digest, attributes);
    if (status == STATUS_OK)
        status = work_piece_commit(b->work, (struct work_piece){BUILD_STAGE_INGEST, WORK_WHOLE},
                                   outputs, output_count, &result, sizeof(result), cost, err);
    for (size_t i = 0; i < output_count; i++)
        work_output_abort(outputs[i]); /* NULL where they are committed */
    return status;
}
