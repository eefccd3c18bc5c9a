/*
 * encode.c - codec training sample and parallel encoding.
 *
 * Nodes are in another order than rows, while the codec takes packed rows: each thread gathers a
 * small batch of its nodes' rows and encodes it. A batch's codes go to their own place, so the
 * result does not depend on the team.
 */
#include "builder/encode.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/row_sample.h"
#include "common/memory.h"

enum { ENCODE_BATCH_NODES = 64 };

/* Tells the sample's random stream from others drawn from the same seed. */
#define ENCODE_SAMPLE_STREAM 0x7ca1ab1e5eedc0deu

uint32_t encode_sample_rows(uint32_t count)
{
    return MIN(count, (uint32_t)ENCODE_SAMPLE_MAX);
}

/* Reads the rows sample[count], packed; by many threads, as the device likes random reads. */
static enum status sample_read(const struct vector_file *file, const uint32_t *sample,
                               uint32_t count, uint8_t *rows, struct error *err)
{
    struct vector_shape shape = vector_file_shape(file);
    size_t row_bytes = element_vector_bytes(shape.type, shape.dim);
    enum status status = STATUS_OK;
#pragma omp parallel for schedule(dynamic, 64)
    for (uint32_t i = 0; i < count; i++) {
        struct error row_err;
        enum status failed =
            vector_file_read(file, sample[i], 1, rows + (size_t)i * row_bytes, &row_err);
        if (failed) {
#pragma omp critical
            {
                status = failed;
                if (err != NULL)
                    *err = row_err;
            }
        }
    }
    return status;
}

enum status encode_train(const struct vector_file *file, const struct codec_params *params,
                         struct codec_choice *choice, struct codec **codec, struct error *err)
{
    struct vector_shape shape = vector_file_shape(file);
    size_t row_bytes = element_vector_bytes(shape.type, shape.dim);
    uint32_t wanted = encode_sample_rows((uint32_t)shape.count);
    void *rows = NULL;

    uint32_t *sample = malloc(wanted * sizeof(*sample));
    if (sample == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a codec sample of %u rows", wanted);
    enum status status = bulk_alloc(wanted, row_bytes, "codec training sample", &rows, err);
    if (status == STATUS_OK) {
        row_sample(params->seed ^ ENCODE_SAMPLE_STREAM, (uint32_t)shape.count, wanted, sample);
        status = sample_read(file, sample, wanted, rows, err);
    }
    if (status == STATUS_OK)
        status = codec_train_chosen(params, rows, wanted, choice, codec, err);
    bulk_free(rows, wanted, row_bytes);
    free(sample);
    return status;
}

/* Encodes `count` <= ENCODE_BATCH_NODES nodes through `packed`. */
static void batch_encode(const struct codec *codec, const uint8_t *rows,
                         const uint32_t *row_of_node, uint32_t count, uint8_t *packed,
                         uint8_t *codes)
{
    struct codec_params params = codec_params_of(codec);
    size_t row_bytes = element_vector_bytes(params.type, params.dim);
    uint32_t first = 0;

    memset(codes, 0, (size_t)count * params.code_bytes);
    while (first < count) { /* runs of present nodes: holes keep their zeros */
        uint32_t end = first;
        while (end < count && row_of_node[end] != UINT32_MAX) {
            memcpy(packed + (end - first) * row_bytes, rows + row_of_node[end] * row_bytes,
                   row_bytes);
            end++;
        }
        if (end > first)
            codec_encode(codec, packed, end - first, codes + (size_t)first * params.code_bytes);
        first = end + 1;
    }
}

enum status encode_nodes(const struct codec *codec, const void *rows, const uint32_t *row_of_node,
                         uint32_t node_count, uint8_t *codes, struct error *err)
{
    struct codec_params params = codec_params_of(codec);
    size_t threads = (size_t)omp_get_max_threads();
    size_t batch_bytes = ENCODE_BATCH_NODES * element_vector_bytes(params.type, params.dim);
    void *packed = NULL;

    enum status status = bulk_alloc(threads, batch_bytes, "encoding batches", &packed, err);
    if (status != STATUS_OK)
        return status;
#pragma omp parallel for schedule(dynamic, 4)
    for (uint64_t node = 0; node < node_count; node += ENCODE_BATCH_NODES)
        batch_encode(codec, rows, row_of_node + node,
                     (uint32_t)MIN((uint64_t)ENCODE_BATCH_NODES, node_count - node),
                     (uint8_t *)packed + (size_t)omp_get_thread_num() * batch_bytes,
                     codes + node * params.code_bytes);
    bulk_free(packed, threads, batch_bytes);
    return STATUS_OK;
}
