/*
 * label_table.h - the distinct labels of a column, numbered as they come; sorted in the end.
 *
 * Grows with the labels, not with the rows. One thread.
 */
#ifndef NIGHTJAR_BUILDER_LABEL_TABLE_H
#define NIGHTJAR_BUILDER_LABEL_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct label {
    uint64_t hash;
    uint32_t at; /* its text */
    uint32_t length;
    uint32_t rows; /* that have it */
    uint32_t row;  /* the last of them */
};

struct label_table {
    char *text; /* all labels', in order of number */
    size_t text_bytes, text_capacity;
    struct label *labels; /* [count] */
    uint32_t count, capacity;
    uint32_t *slots; /* [slot_count] number + 1; 0: free. A power of two, at most half full */
    uint32_t slot_count;
};

/* Zeros are an empty table. */
void label_table_fini(struct label_table *table);

/* The number of a label of 1..ATTRIBUTE_LABEL_MAX bytes, which gets one if it is new.
 * STATUS_INVALID: it would be the 2^20 + first. */
NODISCARD enum status label_table_number(struct label_table *table, const char *text, size_t length,
                                         uint32_t *number, struct error *err);

/* Numbers in ascending order of text, bytewise: malloc'd [count], the caller's. */
NODISCARD enum status label_table_sort(const struct label_table *table, uint32_t **numbers,
                                       struct error *err);

/* Most bytes that a table of so many labels of so much text takes, with sorting and growing. */
uint64_t label_table_memory_bytes(uint64_t labels, uint64_t text_bytes);

#endif
