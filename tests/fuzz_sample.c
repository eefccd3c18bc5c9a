/*
 * fuzz_sample.c - any bytes as sample.bin. Whatever decodes must be walkable and encode to the same
 * bytes.
 */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/compiler.h"
#include "layout/sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const struct sample *sample, const uint8_t *bytes, size_t size)
{
    const size_t vector_bytes = element_vector_bytes(sample->type, sample->dim);
    for (uint32_t i = 0; i < sample->count; i++) {
        const struct sample_query query = sample_query_at(sample, i);
        assert((const uint8_t *)query.vector + vector_bytes <= bytes + size);
        assert(element_vector_all_finite(sample->type, query.vector, sample->dim, NULL));
        for (uint32_t n = 0; n < sample->k; n++) {
            assert(isfinite(query.truth_distances[n]));
            assert(query.truth_keys[n] != query.own_key);
            assert(query.own_node == sample->own_nodes[i]);
            assert(n == 0 || query.truth_distances[n - 1] <= query.truth_distances[n]);
        }
    }
    assert(sample_bytes(sample->count, sample->k, (uint32_t)vector_bytes) == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Of its exact length, so that AddressSanitizer sees a read past it. */
    uint8_t *bytes = malloc(size ? size : 1);
    assert(bytes);
    if (size > 0)
        memcpy(bytes, data, size);
    /* Few random inputs have magic, version and a length that adds up. */
    static const uint8_t start[8] = {'N', 'J', 'S', 'M', 2, 0, 0, 0};
    memcpy(bytes, start, MIN(size, sizeof(start)));

    struct sample sample;
    struct error err = {0};
    enum status status = sample_decode(bytes, size, &sample, &err);
    if (status == STATUS_OK) {
        walk(&sample, bytes, size);
        uint8_t *again = malloc(size);
        assert(again);
        sample_encode(&sample, again);
        assert(memcmp(again, bytes, size) == 0);
        free(again);
    } else {
        assert(err.status == status && err.text[0] != '\0');
    }
    free(bytes);
    return 0;
}
