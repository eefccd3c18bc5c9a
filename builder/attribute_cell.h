/*
 * attribute_cell.h - a CSV file of attributes as its rows and cells are read and refused: the same
 * for a build (attribute_input.h, which says what the file is) and for who holds one in memory.
 *
 * No state; what is passed belongs to one thread.
 */
#ifndef NIGHTJAR_BUILDER_ATTRIBUTE_CELL_H
#define NIGHTJAR_BUILDER_ATTRIBUTE_CELL_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/csv.h"
#include "builder/label_table.h"
#include "common/error.h"
#include "layout/attributes.h"

struct attribute_header {
    uint32_t column_count;
    struct {
        char name[ATTRIBUTE_NAME_MAX + 1]; /* NUL-padded */
        enum attribute_kind kind;
    } columns[ATTRIBUTES_COLUMNS_MAX];
};

/* The first line. STATUS_INVALID names the file and the column by its number. */
NODISCARD enum status attribute_header_read(struct csv *csv, const char *path,
                                            struct attribute_header *header, struct error *err);

/* The rows behind it, and who takes their cells. */
struct attribute_rows {
    struct csv *csv;
    const char *path;
    const struct attribute_header *header;
    /* STATUS_INVALID: the reason alone. */
    enum status (*take)(void *context, uint32_t column, const struct csv_cell *cell,
                        struct error *err);
    void *context;
};

/* The next row; *more is false if there is none. STATUS_INVALID, of a cell or of a row that has not
 * as many as the header: "FILE: line 17: column "year": "abc" is no u64". */
NODISCARD enum status attribute_row_read(const struct attribute_rows *rows, bool *more,
                                         struct error *err);

/* A number, its bits as attribute_rank() takes them. STATUS_INVALID: the reason alone. */
NODISCARD enum status attribute_number_parse(enum attribute_kind kind, const struct csv_cell *cell,
                                             uint64_t *value, struct error *err);

/* Distinct labels of a cell, by number, in the order of their first appearance. Zeros are none;
 * `numbers` is the caller's to free in the end. */
struct attribute_labels {
    uint32_t *numbers; /* [capacity] */
    uint32_t count, capacity;
};

/* Reads a cell of row `row`, each of which comes once; unescapes labels where they lie. With NULL
 * for a table, labels are only checked. STATUS_INVALID: the reason alone. */
NODISCARD enum status attribute_labels_parse(const struct csv_cell *cell, uint32_t row,
                                             struct label_table *table,
                                             struct attribute_labels *labels, struct error *err);

#endif
