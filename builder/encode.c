/*
 * encode.c - codec training sample and parallel encoding.
 *
 * Rows lie at a stride and nodes in another order than rows, while the codec takes packed rows:
 * each thread gathers a small batch of its nodes' rows and encodes it. A batch's codes go to their
 * own place, so the result does not depend on the team.
 */
#include "builder/encode.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/row_sample.h"
#include "common/memory.h"

enum {
    ENCODE_BATCH_NODES = 64,
    ENCODE_STEP_NODES = 1 << 18, /* between two looks at the monitor */
};

/* Tells the sample's random stream from others drawn from the same seed. */
#define ENCODE_SAMPLE_STREAM 0x7ca1ab1e5eedc0deu

uint32_t encode_sample_rows(uint32_t count)
{
    return MIN(count, (uint32_t)ENCODE_SAMPLE_MAX);
}

enum status encode_train(const struct vector_set *set, const struct codec_params *params,
                         struct codec **codec, struct error *err)
{
    size_t row_bytes = (size_t)set->dim * element_bytes(set->type);
    uint32_t wanted = encode_sample_rows(set->count);
    void *memory = NULL;

    uint32_t *sample = malloc(wanted * sizeof(*sample));
    if (sample == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a codec sample of %u rows", wanted);
    enum status status = bulk_alloc(wanted, row_bytes, "codec training sample", &memory, err);
    if (status != STATUS_OK)
        goto out;
    uint8_t *rows = memory;
    row_sample(params->seed ^ ENCODE_SAMPLE_STREAM, set->count, wanted, sample);
    for (uint32_t i = 0; i < wanted; i++)
        memcpy(rows + (size_t)i * row_bytes, vector_set_row(set, sample[i]), row_bytes);
    status = codec_train(params, rows, wanted, codec, err);
    bulk_free(memory, wanted, row_bytes);
out:
    free(sample);
    return status;
}

/* Encodes nodes [first, first + count), count <= ENCODE_BATCH_NODES, through `packed`. */
static void batch_encode(const struct vector_set *set, const struct codec *codec,
                         const uint32_t *rows, uint32_t count, uint8_t *packed, uint8_t *codes)
{
    size_t row_bytes = (size_t)set->dim * element_bytes(set->type);
    size_t code_bytes = codec_params_of(codec).code_bytes;
    uint32_t first = 0;

    while (first < count) { /* runs of present nodes: holes keep their zeros */
        uint32_t end = first;
        while (end < count && rows[end] != UINT32_MAX) {
            memcpy(packed + (end - first) * row_bytes, vector_set_row(set, rows[end]), row_bytes);
            end++;
        }
        if (end > first)
            codec_encode(codec, packed, end - first, codes + first * code_bytes);
        first = end + 1;
    }
}

enum status encode_nodes(const struct vector_set *set, const struct codec *codec,
                         const uint32_t *row_of_node, uint32_t node_limit,
                         const struct build_monitor *monitor, uint8_t **codes, struct error *err)
{
    size_t row_bytes = (size_t)set->dim * element_bytes(set->type);
    size_t code_bytes = codec_params_of(codec).code_bytes;
    size_t threads = (size_t)omp_get_max_threads();
    size_t batch_bytes = ENCODE_BATCH_NODES * row_bytes;
    void *packed = NULL;
    void *memory = NULL;

    enum status status = bulk_alloc(threads, batch_bytes, "encoding batches", &packed, err);
    if (status == STATUS_OK)
        status = bulk_alloc(node_limit, code_bytes, "codes", &memory, err);
    for (uint64_t step = 0; status == STATUS_OK && step < node_limit; step += ENCODE_STEP_NODES) {
        uint32_t end = (uint32_t)MIN(step + ENCODE_STEP_NODES, (uint64_t)node_limit);
#pragma omp parallel for schedule(dynamic, 4)
        for (uint64_t node = step; node < end; node += ENCODE_BATCH_NODES) {
            uint8_t *mine = (uint8_t *)packed + (size_t)omp_get_thread_num() * batch_bytes;
            batch_encode(set, codec, row_of_node + node,
                         (uint32_t)MIN((uint64_t)ENCODE_BATCH_NODES, end - node), mine,
                         (uint8_t *)memory + node * code_bytes);
        }
        progress_update(monitor->progress, end);
        status = build_monitor_check(monitor, err);
    }
    bulk_free(packed, threads, batch_bytes);
    if (status != STATUS_OK) {
        bulk_free(memory, node_limit, code_bytes);
        memory = NULL;
    }
    *codes = memory;
    return status;
}
