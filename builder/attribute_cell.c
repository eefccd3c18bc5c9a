/*
 * attribute_cell.c - see attribute_cell.h.
 */
#include "builder/attribute_cell.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/file_io.h"
#include "common/utf8.h"

enum { SHOWN_BYTES = 40 }; /* of a value in a message */

/* ---- messages ---- */

/* A value as a message has it: ASCII, and not long. */
static const char *shown(const char *text, size_t length, char to[SHOWN_BYTES + 4])
{
    const size_t kept = MIN(length, (size_t)SHOWN_BYTES);
    for (size_t i = 0; i < kept; i++)
        to[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    snprintf(to + kept, 4, "%s", kept < length ? "..." : "");
    return to;
}

/* Puts file, line and column before `reason`; what is no fault of a cell is whole already. */
static enum status cell_fault(const char *path, uint64_t line, const char *column,
                              const struct error *reason, struct error *err)
{
    if (reason->status != STATUS_INVALID)
        return error_set(err, reason->status, "%s", reason->text);
    return error_set(err, STATUS_INVALID, "%s: line %" PRIu64 ": column %s: %s", file_label(path),
                     line, column, reason->text);
}

/* ---- header ---- */

static enum status header_cell(struct attribute_header *header, const struct csv_cell *cell,
                               struct error *err)
{
    char text[SHOWN_BYTES + 4];
    const char *colon = memchr(cell->text, ':', cell->length);
    const uint32_t number = header->column_count;
    if (number == ATTRIBUTES_COLUMNS_MAX)
        return error_set(err, STATUS_INVALID, "more than %d columns", ATTRIBUTES_COLUMNS_MAX);
    if (colon == NULL)
        return error_set(err, STATUS_INVALID, "\"%s\" is no NAME:TYPE",
                         shown(cell->text, cell->length, text));
    const size_t name_bytes = (size_t)(colon - cell->text);
    const size_t type_bytes = cell->length - name_bytes - 1;
    if (!attribute_name_valid(cell->text, name_bytes))
        return error_set(err, STATUS_INVALID,
                         "\"%s\" is no name: 1..%d of A-Z a-z 0-9 _, not first a digit, and not "
                         "and, or, not, in, any, all",
                         shown(cell->text, name_bytes, text), ATTRIBUTE_NAME_MAX);
    if (!attribute_kind_parse(colon + 1, type_bytes, &header->columns[number].kind))
        return error_set(err, STATUS_INVALID, "\"%s\" is no type; u64, i64 or labels is wanted",
                         shown(colon + 1, type_bytes, text));
    char *name = header->columns[number].name;
    memset(name, 0, sizeof(header->columns[number].name));
    memcpy(name, cell->text, name_bytes);
    for (uint32_t c = 0; c < number; c++)
        if (strcmp(header->columns[c].name, name) == 0)
            return error_set(err, STATUS_INVALID, "\"%s\" is the name of column %u too", name,
                             c + 1);
    header->column_count++;
    return STATUS_OK;
}

enum status attribute_header_read(struct csv *csv, const char *path,
                                  struct attribute_header *header, struct error *err)
{
    struct csv_cell cell = {0};
    header->column_count = 0;
    do {
        struct error reason = {0};
        char label[16];
        bool more = false;
        snprintf(label, sizeof(label), "%u", header->column_count + 1);
        enum status status = csv_next(csv, &cell, &more, &reason);
        if (status == STATUS_OK && !more)
            return error_set(err, STATUS_INVALID,
                             "%s: is empty; a first line of NAME:TYPE cells is wanted",
                             file_label(path));
        if (status == STATUS_OK)
            status = header_cell(header, &cell, &reason);
        if (status != STATUS_OK)
            return cell_fault(path, cell.line, label, &reason, err);
    } while (!cell.row_end);
    return STATUS_OK;
}

/* ---- rows ---- */

/* A row ends after `found` cells, or goes on after as many as there are columns. */
static enum status row_width_fault(const struct attribute_rows *rows, uint64_t line, uint32_t found,
                                   struct error *err)
{
    const uint32_t wanted = rows->header->column_count;
    return error_set(err, STATUS_INVALID, "%s: line %" PRIu64 ": %s%u cells, the header has %u",
                     file_label(rows->path), line, found < wanted ? "" : "more than ", found,
                     wanted);
}

enum status attribute_row_read(const struct attribute_rows *rows, bool *more, struct error *err)
{
    const struct attribute_header *header = rows->header;
    struct csv_cell cell = {0};
    for (uint32_t number = 0; number == 0 || !cell.row_end; number++) {
        struct error reason = {0};
        char label[ATTRIBUTE_NAME_MAX + 4];
        enum status status = csv_next(rows->csv, &cell, more, &reason);
        if (status == STATUS_OK && !*more)
            return STATUS_OK;
        if (status == STATUS_OK && number == header->column_count)
            return row_width_fault(rows, cell.line, number, err);
        if (status == STATUS_OK && cell.row_end && number + 1 < header->column_count)
            return row_width_fault(rows, cell.line, number + 1, err);
        if (status == STATUS_OK)
            status = rows->take(rows->context, number, &cell, &reason);
        if (status == STATUS_OK)
            continue;
        if (number < header->column_count)
            snprintf(label, sizeof(label), "\"%s\"", header->columns[number].name);
        else
            snprintf(label, sizeof(label), "%u", number + 1);
        return cell_fault(rows->path, cell.line, label, &reason, err);
    }
    return STATUS_OK;
}

/* ---- numbers ---- */

/* Digits alone; false beyond u64. */
static bool digits_parse(const char *text, size_t length, uint64_t *value)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        const uint64_t digit = (uint64_t)(text[i] - '0');
        if (sum > (UINT64_MAX - digit) / 10)
            return false;
        sum = sum * 10 + digit;
    }
    *value = sum;
    return length > 0;
}

static bool number_parse(enum attribute_kind kind, const struct csv_cell *cell, uint64_t *value)
{
    const bool negative = kind == ATTRIBUTE_I64 && cell->length > 0 && cell->text[0] == '-';
    if (!digits_parse(cell->text + negative, cell->length - negative, value))
        return false;
    if (kind == ATTRIBUTE_I64 && *value > (uint64_t)INT64_MAX + negative)
        return false;
    if (negative)
        *value = -*value;
    return true;
}

enum status attribute_number_parse(enum attribute_kind kind, const struct csv_cell *cell,
                                   uint64_t *value, struct error *err)
{
    char text[SHOWN_BYTES + 4];
    if (cell->length == 0)
        return error_set(err, STATUS_INVALID, "no %s: every row needs one",
                         attribute_kind_name(kind));
    if (!number_parse(kind, cell, value))
        return error_set(err, STATUS_INVALID, "\"%s\" is no %s",
                         shown(cell->text, cell->length, text), attribute_kind_name(kind));
    return STATUS_OK;
}

/* ---- labels ---- */

/* The label at *at is unescaped where it lies; *at moves behind it and its bar. *last: no bar
 * followed. */
static enum status label_next(char *text, size_t length, size_t *at, size_t *label_bytes,
                              bool *last, struct error *err)
{
    char *to = text + *at;
    size_t from = *at;
    *label_bytes = 0;
    while (from < length && text[from] != '|') {
        if (text[from] == '\\') {
            from++;
            if (from == length || (text[from] != '|' && text[from] != '\\'))
                return error_set(err, STATUS_INVALID,
                                 "a backslash stands before neither | nor backslash");
        }
        to[(*label_bytes)++] = text[from++];
    }
    *last = from == length;
    *at = from + 1;
    return STATUS_OK;
}

static enum status label_check(const char *text, size_t length, struct error *err)
{
    char part[SHOWN_BYTES + 4];
    if (length == 0)
        return error_set(err, STATUS_INVALID, "a label is empty");
    if (length > ATTRIBUTE_LABEL_MAX)
        return error_set(err, STATUS_INVALID, "label \"%s\" has %zu bytes, at most %d are allowed",
                         shown(text, length, part), length, ATTRIBUTE_LABEL_MAX);
    if (!utf8_valid(text, length))
        return error_set(err, STATUS_INVALID, "label \"%s\" is not UTF-8",
                         shown(text, length, part));
    if (memchr(text, 0, length) != NULL)
        return error_set(err, STATUS_INVALID, "label \"%s\" has a NUL in it",
                         shown(text, length, part));
    return STATUS_OK;
}

static enum status labels_grow(struct attribute_labels *labels, struct error *err)
{
    const uint32_t capacity = MAX(labels->capacity * 2, 16u);
    uint32_t *numbers = realloc(labels->numbers, capacity * sizeof(*numbers));
    if (numbers == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u labels of a row", capacity);
    labels->numbers = numbers;
    labels->capacity = capacity;
    return STATUS_OK;
}

/* Adds label `number` to the cell's, unless it is there. */
static enum status label_take(struct label_table *table, uint32_t number, uint32_t row,
                              struct attribute_labels *labels, struct error *err)
{
    struct label *label = &table->labels[number];
    if (label->row == row)
        return STATUS_OK;
    label->row = row;
    label->rows++;
    if (labels->count == ATTRIBUTE_NODE_LABELS_MAX)
        return error_set(err, STATUS_INVALID, "more than %d labels", ATTRIBUTE_NODE_LABELS_MAX);
    enum status status = labels->count == labels->capacity ? labels_grow(labels, err) : STATUS_OK;
    if (status == STATUS_OK)
        labels->numbers[labels->count++] = number;
    return status;
}

enum status attribute_labels_parse(const struct csv_cell *cell, uint32_t row,
                                   struct label_table *table, struct attribute_labels *labels,
                                   struct error *err)
{
    size_t at = 0;
    bool last = cell->length == 0;
    labels->count = 0;
    while (!last) {
        const char *text = cell->text + at;
        size_t length;
        uint32_t number = 0;
        enum status status = label_next(cell->text, cell->length, &at, &length, &last, err);
        if (status == STATUS_OK)
            status = label_check(text, length, err);
        if (status == STATUS_OK && table != NULL)
            status = label_table_number(table, text, length, &number, err);
        if (status == STATUS_OK && table != NULL)
            status = label_take(table, number, row, labels, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}
