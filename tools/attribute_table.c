/*
 * attribute_table.c - owns attributes in memory. A build goes another way, through files in row
 * order to one in node order, since it may not hold all of them.
 *
 * Thread rules: read by one thread; the view is immutable.
 */
#include "tools/attribute_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "builder/attribute_cell.h"
#include "builder/csv.h"
#include "builder/label_table.h"
#include "common/file_io.h"
#include "common/memory.h"

enum {
    DIGIT_BITS = 16,
    DIGITS = 64 / DIGIT_BITS,
    DIGIT_VALUES = 1 << DIGIT_BITS,
};

/* The arrays that a column's view points to. */
struct column {
    uint64_t *values;
    uint32_t *order;
    struct label_table labels;
    struct attribute_labels cell; /* of the row that is read */
    uint32_t *label_at;
    char *label_text;
    uint64_t *node_at;
    uint32_t *node_labels;
    size_t node_labels_capacity;
    uint64_t *posting_at;
    uint32_t *postings;
};

struct attribute_table {
    struct attributes view;
    struct attribute_header header;
    uint64_t row; /* that is read */
    uint64_t *exists;
    struct column columns[ATTRIBUTES_COLUMNS_MAX];
};

/* ---- memory ---- */

static enum status allocate(uint64_t count, size_t item_bytes, void *out, struct error *err)
{
    size_t bytes;
    void *memory = NULL;
    if (size_mul((size_t)count, item_bytes, &bytes))
        memory = calloc(1, MAX(bytes, item_bytes));
    if (memory == NULL) {
        error_set(err, STATUS_NO_MEMORY, "no memory for %" PRIu64 " attributes", count);
        return STATUS_NO_MEMORY;
    }
    memcpy(out, &memory, sizeof(memory));
    return STATUS_OK;
}

static void column_free(struct column *column)
{
    label_table_fini(&column->labels);
    free(column->cell.numbers);
    free(column->values);
    free(column->order);
    free(column->label_at);
    free(column->label_text);
    free(column->node_at);
    free(column->node_labels);
    free(column->posting_at);
    free(column->postings);
}

void attribute_table_free(struct attribute_table *table)
{
    if (table == NULL)
        return;
    for (uint32_t c = 0; c < ATTRIBUTES_COLUMNS_MAX; c++)
        column_free(&table->columns[c]);
    free(table->exists);
    free(table);
}

const struct attributes *attribute_table_view(const struct attribute_table *table)
{
    return &table->view;
}

/* ---- the file ---- */

static enum status columns_allocate(struct attribute_table *table, struct error *err)
{
    const struct attribute_header *header = &table->header;
    const uint64_t rows = table->view.node_limit;
    enum status status = STATUS_OK;
    for (uint32_t c = 0; status == STATUS_OK && c < header->column_count; c++) {
        struct column *column = &table->columns[c];
        const enum attribute_kind kind = header->columns[c].kind;
        table->view.columns[c] =
            (struct attribute_column){.name = header->columns[c].name, .kind = kind};
        status = kind == ATTRIBUTE_LABELS
                     ? allocate(rows + 1, sizeof(uint64_t), &column->node_at, err)
                     : allocate(rows, sizeof(uint64_t), &column->values, err);
    }
    table->view.column_count = header->column_count;
    return status;
}

/* The cell's labels become those of row `row`. */
static enum status labels_append(struct column *column, uint64_t row, struct error *err)
{
    const uint64_t first = column->node_at[row], end = first + column->cell.count;
    if (end > column->node_labels_capacity) {
        size_t capacity = MAX(2 * column->node_labels_capacity, (size_t)end);
        uint32_t *grown = realloc(column->node_labels, capacity * sizeof(*grown));
        if (grown == NULL)
            return error_set(err, STATUS_NO_MEMORY, "no memory for %zu labels", capacity);
        column->node_labels = grown;
        column->node_labels_capacity = capacity;
    }
    if (end > first)
        memcpy(column->node_labels + first, column->cell.numbers,
               column->cell.count * sizeof(uint32_t));
    column->node_at[row + 1] = end;
    return STATUS_OK;
}

/* Rows beyond those of the vectors are checked, not kept. */
static enum status cell_take(void *context, uint32_t number, const struct csv_cell *cell,
                             struct error *err)
{
    struct attribute_table *table = context;
    struct column *column = &table->columns[number];
    const enum attribute_kind kind = table->view.columns[number].kind;
    const uint64_t row = table->row;
    const bool kept = row < table->view.node_limit;
    uint64_t value;
    if (kind == ATTRIBUTE_LABELS) {
        enum status status = attribute_labels_parse(
            cell, (uint32_t)row, kept ? &column->labels : NULL, &column->cell, err);
        return status == STATUS_OK && kept ? labels_append(column, row, err) : status;
    }
    enum status status = attribute_number_parse(kind, cell, &value, err);
    if (status == STATUS_OK && kept)
        column->values[row] = value;
    return status;
}

static enum status rows_read(struct attribute_table *table, const char *path, struct csv *csv,
                             struct error *err)
{
    const struct attribute_rows rows = {csv, path, &table->header, cell_take, table};
    bool more = true;
    enum status status = attribute_header_read(csv, path, &table->header, err);
    if (status == STATUS_OK)
        status = columns_allocate(table, err);
    while (status == STATUS_OK && more) {
        status = attribute_row_read(&rows, &more, err);
        table->row += more;
    }
    if (status == STATUS_OK && table->row != table->view.node_limit)
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu64 " rows behind the header for %" PRIu64 " vectors",
                         file_label(path), table->row, table->view.node_limit);
    return status;
}

/* ---- what values are looked up by ---- */

/* One pass of a sort by 16 bits at a time, least first. False: all have the same, nothing moved. */
static bool order_pass(const uint64_t *values, uint64_t flip, uint32_t shift, const uint32_t *from,
                       uint32_t *to, uint64_t *places, uint64_t count)
{
    memset(places, 0, DIGIT_VALUES * sizeof(*places));
    for (uint64_t i = 0; i < count; i++)
        places[(values[i] ^ flip) >> shift & (DIGIT_VALUES - 1)]++;
    if (places[(values[0] ^ flip) >> shift & (DIGIT_VALUES - 1)] == count)
        return false;
    uint64_t sum = 0;
    for (uint32_t digit = 0; digit < DIGIT_VALUES; digit++) {
        uint64_t here = places[digit];
        places[digit] = sum;
        sum += here;
    }
    for (uint64_t i = 0; i < count; i++)
        to[places[(values[from[i]] ^ flip) >> shift & (DIGIT_VALUES - 1)]++] = from[i];
    return true;
}

static enum status numbers_finish(struct attribute_table *table, uint32_t number, struct error *err)
{
    struct column *column = &table->columns[number];
    struct attribute_column *view = &table->view.columns[number];
    uint64_t count = table->view.node_limit, *places = NULL;
    uint64_t flip = attribute_rank(view->kind, 0); /* attribute_rank() is x ^ this */
    uint32_t *other = NULL;
    enum status status = allocate(count, sizeof(uint32_t), &column->order, err);
    if (status == STATUS_OK)
        status = allocate(count, sizeof(uint32_t), &other, err);
    if (status == STATUS_OK)
        status = allocate(DIGIT_VALUES, sizeof(uint64_t), &places, err);
    for (uint64_t i = 0; status == STATUS_OK && i < count; i++)
        column->order[i] = (uint32_t)i;
    for (uint32_t digit = 0; status == STATUS_OK && digit < DIGITS; digit++)
        if (order_pass(column->values, flip, digit * DIGIT_BITS, column->order, other, places,
                       count)) {
            uint32_t *sorted = other;
            other = column->order;
            column->order = sorted;
        }
    free(places);
    free(other);
    view->width = sizeof(uint64_t);
    view->values = (const uint8_t *)column->values;
    view->order = column->order;
    return status;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Labels in the order of their text; those of a row by number. */
static enum status labels_sort(struct column *column, uint64_t rows, struct error *err)
{
    const struct label_table *labels = &column->labels;
    uint32_t *sorted = NULL, *place = NULL, at = 0;
    enum status status = label_table_sort(labels, &sorted, err);
    if (status == STATUS_OK)
        status = allocate(labels->count, sizeof(uint32_t), &place, err);
    if (status == STATUS_OK)
        status = allocate((uint64_t)labels->count + 1, sizeof(uint32_t), &column->label_at, err);
    if (status == STATUS_OK)
        status = allocate(labels->text_bytes, 1, &column->label_text, err);
    for (uint32_t i = 0; status == STATUS_OK && i < labels->count; i++) {
        const struct label *label = &labels->labels[sorted[i]];
        memcpy(column->label_text + at, labels->text + label->at, label->length);
        at += label->length;
        column->label_at[i + 1] = at;
        place[sorted[i]] = i;
    }
    for (uint64_t row = 0; status == STATUS_OK && row < rows; row++) {
        uint64_t first = column->node_at[row], count = column->node_at[row + 1] - first;
        for (uint64_t i = first; i < first + count; i++)
            column->node_labels[i] = place[column->node_labels[i]];
        if (count > 1)
            qsort(column->node_labels + first, (size_t)count, sizeof(uint32_t), compare_u32);
    }
    free(place);
    free(sorted);
    return status;
}

static enum status labels_finish(struct attribute_table *table, uint32_t number, struct error *err)
{
    struct column *column = &table->columns[number];
    struct attribute_column *view = &table->view.columns[number];
    uint64_t rows = table->view.node_limit, total = column->node_at[rows];
    uint32_t count = column->labels.count;
    enum status status = labels_sort(column, rows, err);
    if (status == STATUS_OK)
        status = allocate((uint64_t)count + 2, sizeof(uint64_t), &column->posting_at, err);
    if (status == STATUS_OK)
        status = allocate(total, sizeof(uint32_t), &column->postings, err);
    if (status != STATUS_OK)
        return status;
    /* Counted one place further back, so that filling moves each start to where it belongs. */
    for (uint64_t i = 0; i < total; i++)
        column->posting_at[column->node_labels[i] + 2]++;
    for (uint32_t label = 2; label <= count; label++)
        column->posting_at[label] += column->posting_at[label - 1];
    for (uint64_t row = 0; row < rows; row++)
        for (uint64_t i = column->node_at[row]; i < column->node_at[row + 1]; i++)
            column->postings[column->posting_at[column->node_labels[i] + 1]++] = (uint32_t)row;
    view->label_count = count;
    view->label_at = column->label_at;
    view->label_text = column->label_text;
    view->node_at = column->node_at;
    view->node_labels = column->node_labels;
    view->posting_at = column->posting_at;
    view->postings = column->postings;
    return STATUS_OK;
}

static enum status table_finish(struct attribute_table *table, struct error *err)
{
    uint64_t rows = table->view.node_limit;
    enum status status = allocate((rows + 63) / 64, sizeof(uint64_t), &table->exists, err);
    for (uint64_t row = 0; status == STATUS_OK && row < rows; row++)
        table->exists[row / 64] |= UINT64_C(1) << (row % 64);
    table->view.exists = table->exists;
    for (uint32_t c = 0; status == STATUS_OK && c < table->view.column_count; c++)
        status = table->view.columns[c].kind == ATTRIBUTE_LABELS ? labels_finish(table, c, err)
                                                                 : numbers_finish(table, c, err);
    return status;
}

enum status attribute_table_read(const char *path, uint64_t rows, struct attribute_table **out,
                                 struct error *err)
{
    struct csv *csv = NULL;
    if (rows > UINT32_MAX)
        return error_set(err, STATUS_INVALID,
                         "%s: for %" PRIu64 " vectors, at most %" PRIu32 " can be filtered",
                         file_label(path), rows, UINT32_MAX);
    enum status status = csv_open(path, &csv, err);
    if (status != STATUS_OK)
        return status;
    struct attribute_table *table = calloc(1, sizeof(*table));
    if (table == NULL) {
        csv_close(csv);
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    }
    table->view.node_limit = table->view.vector_count = rows;
    status = rows_read(table, path, csv, err);
    if (status == STATUS_OK)
        status = table_finish(table, err);
    csv_close(csv);
    if (status == STATUS_OK)
        *out = table;
    else
        attribute_table_free(table);
    return status;
}
