/*
 * fuzz_attributes.c - any bytes as attributes.bin. Whatever decodes must be walkable without
 * leaving an array, and the check must come to an end.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "layout/attributes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADER_NODES = 16, HEADER_VECTORS = 24 };

static uint64_t numbers_walk(const struct attributes *a, const struct attribute_column *column)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < a->vector_count; i++)
        sum += attribute_value(column, column->order[i]);
    for (uint64_t node = 0; node < a->node_limit; node++)
        sum += attributes_node_exists(a, (uint32_t)node) + attribute_value(column, (uint32_t)node);
    return sum;
}

static uint64_t labels_walk(const struct attributes *a, const struct attribute_column *column)
{
    uint64_t sum = 0;
    for (uint64_t node = 0; node < a->node_limit; node++)
        for (uint64_t i = column->node_at[node]; i < column->node_at[node + 1]; i++)
            sum += column->label_at[column->node_labels[i] + 1];
    for (uint32_t label = 0; label < column->label_count; label++) {
        assert(column->label_at[label] < column->label_at[label + 1]);
        sum += (uint64_t)column->label_text[column->label_at[label + 1] - 1];
        for (uint64_t i = column->posting_at[label]; i < column->posting_at[label + 1]; i++)
            sum += column->node_at[column->postings[i] + 1];
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Of its exact length, so that AddressSanitizer sees a read past it. */
    uint8_t *bytes = malloc(size ? size : 1);
    assert(bytes);
    if (size > 0)
        memcpy(bytes, data, size);
    /* Few random inputs have magic, version and a length that adds up. */
    static const uint8_t start[8] = {'N', 'J', 'A', 'T', 1, 0, 0, 0};
    memcpy(bytes, start, MIN(size, sizeof(start)));
    uint64_t nodes = 0, vectors = 0;
    if (size >= HEADER_VECTORS + sizeof(vectors)) {
        memcpy(&nodes, bytes + HEADER_NODES, sizeof(nodes));
        memcpy(&vectors, bytes + HEADER_VECTORS, sizeof(vectors));
    }

    struct attributes attributes;
    struct error err = {0};
    enum status status =
        attributes_decode(bytes, size, (uint32_t)nodes, vectors, &attributes, &err);
    if (status == STATUS_OK) {
        uint64_t sum = 0;
        for (uint32_t c = 0; c < attributes.column_count; c++) {
            const struct attribute_column *column = &attributes.columns[c];
            assert(attributes_find(&attributes, column->name, strlen(column->name)) == column);
            sum += column->kind == ATTRIBUTE_LABELS ? labels_walk(&attributes, column)
                                                    : numbers_walk(&attributes, column);
        }
        /* Unlikely, not impossible to tell: so the reads are kept. */
        assert(sum != UINT64_C(0x9e3779b97f4a7c15));
        status = attributes_check(&attributes, &err);
    }
    assert(status == STATUS_OK || (err.status == status && err.text[0] != '\0'));
    free(bytes);
    return 0;
}
