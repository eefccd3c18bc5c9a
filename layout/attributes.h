/*
 * attributes.h - attributes.bin: typed columns in node order, held in RAM by the daemon.
 */
#ifndef NIGHTJAR_LAYOUT_ATTRIBUTES_H
#define NIGHTJAR_LAYOUT_ATTRIBUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/compiler.h"

enum {
    ATTRIBUTES_COLUMNS_MAX = 64,
    ATTRIBUTE_NAME_MAX = 63,
    ATTRIBUTE_LABEL_MAX = 255,         /* bytes of a label */
    ATTRIBUTE_LABELS_MAX = 1 << 20,    /* distinct ones of a column */
    ATTRIBUTE_NODE_LABELS_MAX = 65535, /* of one node in one column */
    ATTRIBUTES_HEAD_BYTES_MAX = 64 + 128 * ATTRIBUTES_COLUMNS_MAX,
};

/* Written to disk as they are. */
enum attribute_kind { ATTRIBUTE_U64 = 1, ATTRIBUTE_I64 = 2, ATTRIBUTE_LABELS = 3 };

/* ---- in memory ---- */

/* Node ids; holes (slots without a record) are in no order and no posting. */
struct attribute_column {
    const char *
        name; /* [A-Za-z_][A-Za-z0-9_]*, no word of the filter language, distinct, NUL-terminated */
    enum attribute_kind kind;
    /* numbers: node i has base + the little-endian unsigned of `width` bytes at values + i * width,
     * modulo 2^64 (i64: two's complement). A hole has zero bytes. */
    uint64_t base;
    uint32_t width;        /* 0 (all equal base), 1, 2, 4, 8 */
    const uint8_t *values; /* [node_limit * width] */
    const uint32_t *order; /* [vector_count] nodes ascending by (value as its type, node) */
    /* labels */
    uint32_t label_count;
    const uint32_t *label_at;    /* [label_count + 1] offsets into label_text */
    const char *label_text;      /* labels ascending bytewise, distinct, no terminators, UTF-8 */
    const uint64_t *node_at;     /* [node_limit + 1] offsets into node_labels */
    const uint32_t *node_labels; /* a node's label numbers, ascending, distinct */
    const uint64_t *posting_at;  /* [label_count + 1] offsets into postings */
    const uint32_t *postings;    /* nodes of a label, ascending */
};

struct attributes {
    uint64_t node_limit, vector_count;
    uint32_t column_count;  /* 0: the generation has none; `exists` is NULL then */
    const uint64_t *exists; /* [(node_limit + 63) / 64] bit i % 64 of word i / 64: node i has a
                             * record; bits from node_limit on are zero */
    struct attribute_column columns[ATTRIBUTES_COLUMNS_MAX];
};

/* NULL: there is none of that name. */
const struct attribute_column *attributes_find(const struct attributes *attributes,
                                               const char *name, size_t length);

/* node < node_limit; of a generation with attributes. */
ALWAYS_INLINE bool attributes_node_exists(const struct attributes *attributes, uint32_t node)
{
    return attributes->exists[node / 64] >> (node % 64) & 1;
}

/* Bits of the u64 or i64 of a column of numbers. */
ALWAYS_INLINE uint64_t attribute_value(const struct attribute_column *column, uint32_t node)
{
    uint64_t delta = 0;
    switch (column->width) {
    case 1:
        delta = column->values[node];
        break;
    case 2: {
        uint16_t narrow;
        memcpy(&narrow, column->values + (size_t)node * sizeof(narrow), sizeof(narrow));
        delta = narrow;
        break;
    }
    case 4: {
        uint32_t narrow;
        memcpy(&narrow, column->values + (size_t)node * sizeof(narrow), sizeof(narrow));
        delta = narrow;
        break;
    }
    case 8:
        memcpy(&delta, column->values + (size_t)node * sizeof(delta), sizeof(delta));
        break;
    default:
        break;
    }
    return column->base + delta;
}

/* A u64 that is ordered as the column's values are: i64's are moved by 2^63. */
ALWAYS_INLINE uint64_t attribute_rank(enum attribute_kind kind, uint64_t value)
{
    return kind == ATTRIBUTE_I64 ? value ^ UINT64_C(1) << 63 : value;
}

#endif
