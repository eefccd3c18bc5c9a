/*
 * attributes.h - attributes.bin: typed columns in node order, held in RAM by the daemon.
 *
 * Every vector has a value in every column: a number, or a set of labels that may be empty. Beside
 * the values a column has what a filter looks them up by: nodes in the order of a number, nodes of
 * each label.
 *
 *   0 u32 magic 'NJAT'   4 u32 version (1)   8 u32 column count   12 u32 zero
 *   16 u64 node_limit   24 u64 vector_count   32 u8[32] zero
 *   64 entries[column count] of 128 bytes: 0 name[64], NUL-padded   64 u32 kind   68 u32 width
 *      72 u64 base   80 u32 label count   84 u32 text bytes   88 u64 memberships   96 u8[32] zero
 *   then, each padded with zeros to a multiple of 8: the bitmap of nodes with a record, and for
 *   each column in turn
 *      numbers: values, order
 *      labels: label_at, label_text, node_at, node_labels, posting_at, postings
 *
 * FORMAT.md has the rules. The decoder points into the caller's bytes. Pure functions; a struct
 * attributes is immutable and shared by any threads.
 */
#ifndef NIGHTJAR_LAYOUT_ATTRIBUTES_H
#define NIGHTJAR_LAYOUT_ATTRIBUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/compiler.h"
#include "common/error.h"

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

/* "u64", "i64", "labels"; NULL: no kind. And back; false: no kind's name. */
const char *attribute_kind_name(enum attribute_kind kind);
bool attribute_kind_parse(const char *text, size_t length, enum attribute_kind *kind);

/* [A-Za-z_][A-Za-z0-9_]* of at most ATTRIBUTE_NAME_MAX bytes, and not a word of the filter
 * language: and, or, not, in, any, all, in any case. */
bool attribute_name_valid(const char *name, size_t length);

/* ---- in memory ---- */

/* Node ids; holes (slots without a record) are in no order and no posting. */
struct attribute_column {
    const char *name; /* attribute_name_valid(), distinct, NUL-terminated */
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

/* ---- reading ---- */

/* Checks what memory safety and termination need: magic, version, names, lengths to the byte, zero
 * padding; every node below node_limit, every label number below the label count, offsets
 * ascending from 0 to the end, the bitmap of vector_count nodes. Not that order and postings are
 * what the values make them: that is attributes_check()'s. Points *out into `bytes` (8-byte
 * aligned, which must outlive it). STATUS_UNSUPPORTED: another version; STATUS_CORRUPT: anything
 * else. Written on success only. One pass over the bytes but the text; allocates nothing. */
NODISCARD enum status attributes_decode(const void *bytes, size_t length, uint32_t node_limit,
                                        uint64_t vector_count, struct attributes *out,
                                        struct error *err);

/* All that is promised of decoded attributes: the order sorted, of just the nodes that are there;
 * labels sorted, distinct, UTF-8; a node's labels ascending; postings the inverse of the nodes'
 * labels; holes without values; base and width the only ones that do. Names the first fault,
 * STATUS_CORRUPT. Allocates nothing. */
NODISCARD enum status attributes_check(const struct attributes *attributes, struct error *err);

/* ---- shape ---- */

/* What the head of the file says of a column: all that the places of its arrays depend on. */
struct attribute_shape {
    char name[ATTRIBUTE_NAME_MAX + 1]; /* NUL-padded */
    enum attribute_kind kind;
    uint32_t width; /* numbers */
    uint64_t base;
    uint32_t label_count; /* labels */
    uint32_t text_bytes;
    uint64_t memberships; /* pairs of a node and a label of it */
};

struct attributes_shape {
    uint64_t node_limit, vector_count;
    uint32_t column_count; /* 1..ATTRIBUTES_COLUMNS_MAX */
    struct attribute_shape columns[ATTRIBUTES_COLUMNS_MAX];
};

/* The narrowest width that holds `span`, the largest difference to the base. */
uint32_t attribute_width(uint64_t span);

/* Bytes of header and entries; the bitmap follows them. */
size_t attributes_head_bytes(uint32_t column_count);

/* Length of the file; of a column's arrays with their padding. Within the limits above they do not
 * wrap. */
uint64_t attributes_bytes(const struct attributes_shape *shape);
uint64_t attribute_bytes(const struct attributes_shape *shape, uint32_t column);

/* Where a column's arrays are in the file; those of the other kind are 0. */
struct attribute_places {
    uint64_t values, order;
    uint64_t label_at, label_text, node_at, node_labels, posting_at, postings;
    uint64_t end;
};
void attributes_place(const struct attributes_shape *shape, uint32_t column,
                      struct attribute_places *places);

/* Writes header and entries into bytes[attributes_head_bytes()]. */
void attributes_head_encode(const struct attributes_shape *shape, void *bytes);

/* Reads them back from the first `length` bytes of a file of file_bytes, of which
 * ATTRIBUTES_HEAD_BYTES_MAX are enough for any. STATUS_UNSUPPORTED: another version;
 * STATUS_CORRUPT: anything else, also a file that is not as long as they make it. */
NODISCARD enum status attributes_head_decode(const void *bytes, size_t length, uint64_t file_bytes,
                                             struct attributes_shape *shape, struct error *err);

#endif
