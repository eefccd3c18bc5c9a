/*
 * attribute_table.h - a CSV file of attributes in memory, by row: what filters are asked about
 * where there is no generation, only the files one is built of.
 */
#ifndef NIGHTJAR_TOOLS_ATTRIBUTE_TABLE_H
#define NIGHTJAR_TOOLS_ATTRIBUTE_TABLE_H

#include <stdint.h>

#include "common/error.h"
#include "layout/attributes.h"

struct attribute_table;

/* Reads a file as nightjar-build --attributes takes it (builder/attribute_input.h), which must have
 * `rows` rows (1..UINT32_MAX). STATUS_INVALID names file, line and column. Allocates 12 bytes a row
 * for a number, 8 for labels and as many for each label a row has. On success *out is the caller's
 * to free. One thread. */
NODISCARD enum status attribute_table_read(const char *path, uint64_t rows,
                                           struct attribute_table **out, struct error *err);
/* NULL is fine. */
void attribute_table_free(struct attribute_table *table);

/* The same as the attributes of nodes without holes: node i is row i. Immutable; the table's. */
const struct attributes *attribute_table_view(const struct attribute_table *table);

#endif
