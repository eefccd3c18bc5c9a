/*
 * attribute_input.c - see attribute_input.h. A cell is checked and appended to its column's file as
 * it comes; memory grows with distinct labels alone.
 */
#include "builder/attribute_input.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "builder/csv.h"
#include "builder/label_table.h"
#include "common/file_io.h"
#include "common/utf8.h"

enum {
    ROWS_BETWEEN_CHECKS = 1 << 14, /* of the wish to stop: some 10 ms */
    SHOWN_BYTES = 40,              /* of a value in a message */
};

static const struct work_piece ingest_piece = {BUILD_STAGE_INGEST, WORK_WHOLE};

_Static_assert(sizeof(struct attribute_input_column) == 64 + 8 + 32, "no padding");

/* A column while it is read. */
struct column {
    struct attribute_input_column *info;
    struct label_table labels;
    struct work_output *values;
    uint32_t *cell; /* [cell_capacity] numbers of the present cell's labels */
    uint32_t cell_capacity;
};

struct input {
    const struct attribute_input_params *params;
    const struct build_monitor *monitor;
    struct csv *csv;
    struct attribute_info info;
    struct column columns[ATTRIBUTES_COLUMNS_MAX];
    uint64_t row; /* that is read, from 0 */
    struct work_output **outputs;
    size_t *output_count;
};

void attribute_part_name(const char *kind, uint32_t column, char part[WORK_PART_BYTES])
{
    snprintf(part, WORK_PART_BYTES, "%s-%u", kind, column);
}

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

/* "\"year\"" or, in a header, its number. */
static const char *column_label(const struct attribute_info *info, uint32_t number, bool named,
                                char to[ATTRIBUTE_NAME_MAX + 4])
{
    if (named && number < info->column_count)
        snprintf(to, ATTRIBUTE_NAME_MAX + 4, "\"%s\"", info->columns[number].name);
    else
        snprintf(to, ATTRIBUTE_NAME_MAX + 4, "%u", number + 1);
    return to;
}

/* ---- header ---- */

static enum status header_cell(struct attribute_info *info, const struct csv_cell *cell,
                               struct error *err)
{
    char text[SHOWN_BYTES + 4];
    const char *colon = memchr(cell->text, ':', cell->length);
    enum attribute_kind kind;
    if (info->column_count == ATTRIBUTES_COLUMNS_MAX)
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
    if (!attribute_kind_parse(colon + 1, type_bytes, &kind))
        return error_set(err, STATUS_INVALID, "\"%s\" is no type; u64, i64 or labels is wanted",
                         shown(colon + 1, type_bytes, text));
    struct attribute_input_column *column = &info->columns[info->column_count];
    memcpy(column->name, cell->text, name_bytes);
    for (uint32_t c = 0; c < info->column_count; c++)
        if (strcmp(info->columns[c].name, column->name) == 0)
            return error_set(err, STATUS_INVALID, "\"%s\" is the name of column %u too",
                             column->name, c + 1);
    column->kind = (uint32_t)kind;
    column->least = kind == ATTRIBUTE_LABELS ? 0 : UINT64_MAX;
    info->column_count++;
    return STATUS_OK;
}

/* *info is zeros. */
static enum status header_read(struct csv *csv, const char *path, struct attribute_info *info,
                               struct error *err)
{
    struct csv_cell cell = {0};
    do {
        struct error reason = {0};
        char label[ATTRIBUTE_NAME_MAX + 4];
        const uint32_t number = info->column_count;
        bool more = false;
        enum status status = csv_next(csv, &cell, &more, &reason);
        if (status == STATUS_OK && !more)
            return error_set(err, STATUS_INVALID,
                             "%s: is empty; a first line of NAME:TYPE cells is wanted",
                             file_label(path));
        if (status == STATUS_OK)
            status = header_cell(info, &cell, &reason);
        if (status != STATUS_OK)
            return cell_fault(path, cell.line, column_label(info, number, false, label), &reason,
                              err);
    } while (!cell.row_end);
    return STATUS_OK;
}

enum status attribute_extent_look(const char *path, struct attribute_extent *extent,
                                  struct error *err)
{
    struct csv *csv = NULL;
    struct stat file;
    struct attribute_info *info = calloc(1, sizeof(*info));
    if (info == NULL)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    enum status status = csv_open(path, &csv, err);
    if (status == STATUS_OK)
        status = header_read(csv, path, info, err);
    if (status == STATUS_OK && stat(path, &file) != 0)
        status = error_set_os(err, errno, "%s: cannot be looked at", file_label(path));
    if (status == STATUS_OK) {
        *extent = (struct attribute_extent){.file_bytes = (uint64_t)file.st_size};
        for (uint32_t c = 0; c < info->column_count; c++) {
            const bool labels = info->columns[c].kind == ATTRIBUTE_LABELS;
            extent->label_columns += labels;
            extent->number_columns += !labels;
        }
    }
    csv_close(csv);
    free(info);
    return status;
}

/* ---- sizes ---- */

/* A label has a byte and one that ends it. */
uint64_t attribute_labels_max(const struct attribute_extent *extent)
{
    return MIN(extent->file_bytes / 2 + 1, (uint64_t)extent->label_columns * ATTRIBUTE_LABELS_MAX);
}

uint64_t attribute_text_max(const struct attribute_extent *extent)
{
    return MIN(extent->file_bytes, attribute_labels_max(extent) * ATTRIBUTE_LABEL_MAX);
}

/* Of the buffer of cells with its copy while it grows, and the numbers of a cell's labels. */
static uint64_t cell_memory_bytes(const struct attribute_extent *extent)
{
    const uint64_t cell = MIN(extent->file_bytes, (uint64_t)CSV_CELL_BYTES_MAX);
    const uint64_t labels = MIN(extent->file_bytes, (uint64_t)ATTRIBUTE_NODE_LABELS_MAX + 1);
    return 3 * cell + CSV_BUFFER_BYTES + extent->label_columns * labels * 3 * sizeof(uint32_t);
}

uint64_t attribute_buffers_bytes(const struct attribute_extent *extent)
{
    enum { STATE_BYTES = 2048 }; /* of an output beside its buffer: a digest, a name */
    const uint64_t outputs =
        1 + (uint64_t)extent->number_columns + 2 * (uint64_t)extent->label_columns;
    return extent->file_bytes != 0 ? outputs * (ATTRIBUTE_BUFFER_BYTES + STATE_BYTES) : 0;
}

uint64_t attribute_input_memory_bytes(const struct attribute_extent *extent)
{
    if (extent->file_bytes == 0)
        return 0;
    return cell_memory_bytes(extent) + sizeof(struct input) +
           label_table_memory_bytes(attribute_labels_max(extent), attribute_text_max(extent)) +
           attribute_buffers_bytes(extent);
}

uint64_t attribute_input_disk_bytes(const struct attribute_extent *extent, uint64_t rows)
{
    if (extent->file_bytes == 0)
        return 0;
    return sizeof(struct attribute_info) +
           rows * (extent->number_columns * sizeof(uint64_t) +
                   extent->label_columns * sizeof(uint16_t)) +
           attribute_labels_max(extent) * 4 * sizeof(uint32_t) + attribute_text_max(extent) +
           (extent->label_columns > 0 ? extent->file_bytes / 2 * sizeof(uint32_t) : 0);
}

/* ---- outputs ---- */

static enum status output_open(struct input *in, const char *part, struct work_output **out,
                               struct error *err)
{
    assert(*in->output_count < ATTRIBUTE_OUTPUTS_MAX);
    struct work_output **place = &in->outputs[*in->output_count];
    enum status status =
        work_output_open(in->params->work, ingest_piece, part, ATTRIBUTE_BUFFER_BYTES, place, err);
    if (status != STATUS_OK)
        return status;
    (*in->output_count)++;
    *out = *place;
    return STATUS_OK;
}

static enum status columns_open(struct input *in, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t c = 0; status == STATUS_OK && c < in->info.column_count; c++) {
        char part[WORK_PART_BYTES];
        attribute_part_name("values", c, part);
        in->columns[c].info = &in->info.columns[c];
        status = output_open(in, part, &in->columns[c].values, err);
    }
    return status;
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

static enum status number_cell(struct column *column, const struct csv_cell *cell, bool kept,
                               struct error *err)
{
    char text[SHOWN_BYTES + 4];
    const enum attribute_kind kind = (enum attribute_kind)column->info->kind;
    uint64_t value;
    if (cell->length == 0)
        return error_set(err, STATUS_INVALID, "no %s: every row needs one",
                         attribute_kind_name(kind));
    if (!number_parse(kind, cell, &value))
        return error_set(err, STATUS_INVALID, "\"%s\" is no %s",
                         shown(cell->text, cell->length, text), attribute_kind_name(kind));
    if (!kept)
        return STATUS_OK;
    const uint64_t rank = attribute_rank(kind, value);
    column->info->least = MIN(column->info->least, rank);
    column->info->most = MAX(column->info->most, rank);
    return work_output_append(column->values, &rank, sizeof(rank), err);
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

static enum status cell_grow(struct column *column, struct error *err)
{
    const uint32_t capacity = MAX(column->cell_capacity * 2, 16u);
    uint32_t *cell = realloc(column->cell, capacity * sizeof(*cell));
    if (cell == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u labels of a row", capacity);
    column->cell = cell;
    column->cell_capacity = capacity;
    return STATUS_OK;
}

/* Adds the label to the cell's, unless it is there. */
static enum status label_take(struct column *column, uint32_t row, const char *text, size_t length,
                              uint32_t *count, struct error *err)
{
    uint32_t number;
    enum status status = label_table_number(&column->labels, text, length, &number, err);
    if (status != STATUS_OK)
        return status;
    struct label *label = &column->labels.labels[number];
    if (label->row == row)
        return STATUS_OK;
    label->row = row;
    label->rows++;
    if (*count == ATTRIBUTE_NODE_LABELS_MAX)
        return error_set(err, STATUS_INVALID, "more than %d labels", ATTRIBUTE_NODE_LABELS_MAX);
    if (*count == column->cell_capacity)
        status = cell_grow(column, err);
    if (status == STATUS_OK)
        column->cell[(*count)++] = number;
    return status;
}

static enum status labels_cell(struct column *column, const struct csv_cell *cell, uint64_t row,
                               bool kept, struct error *err)
{
    uint32_t count = 0;
    size_t at = 0;
    bool last = cell->length == 0;
    while (!last) {
        const char *text = cell->text + at;
        size_t length;
        enum status status = label_next(cell->text, cell->length, &at, &length, &last, err);
        if (status == STATUS_OK)
            status = label_check(text, length, err);
        if (status == STATUS_OK && kept)
            status = label_take(column, (uint32_t)row, text, length, &count, err);
        if (status != STATUS_OK)
            return status;
    }
    if (!kept)
        return STATUS_OK;
    const uint16_t head = (uint16_t)count;
    column->info->memberships += count;
    enum status status = work_output_append(column->values, &head, sizeof(head), err);
    return status == STATUS_OK && count > 0
               ? work_output_append(column->values, column->cell, count * sizeof(uint32_t), err)
               : status;
}

/* The table's sections, in sorted order. */
static enum status labels_write(struct input *in, uint32_t number, const uint32_t *sorted,
                                uint32_t *place, struct error *err)
{
    struct column *column = &in->columns[number];
    const struct label_table *table = &column->labels;
    struct work_output *out = NULL;
    char part[WORK_PART_BYTES];
    uint32_t at = 0;
    attribute_part_name("labels", number, part);
    enum status status = output_open(in, part, &out, err);
    for (uint32_t i = 0; i < table->count; i++)
        place[sorted[i]] = i;
    if (status == STATUS_OK)
        status = work_output_append(out, place, table->count * sizeof(*place), err);
    if (status == STATUS_OK) {
        work_output_section(out);
        status = work_output_append(out, &at, sizeof(at), err);
    }
    for (uint32_t i = 0; status == STATUS_OK && i < table->count; i++) {
        at += table->labels[sorted[i]].length;
        status = work_output_append(out, &at, sizeof(at), err);
    }
    if (status == STATUS_OK)
        work_output_section(out);
    for (uint32_t i = 0; status == STATUS_OK && i < table->count; i++) {
        const struct label *label = &table->labels[sorted[i]];
        status = work_output_append(out, table->text + label->at, label->length, err);
    }
    if (status == STATUS_OK)
        work_output_section(out);
    for (uint32_t i = 0; status == STATUS_OK && i < table->count; i++) {
        const uint64_t rows = table->labels[sorted[i]].rows;
        status = work_output_append(out, &rows, sizeof(rows), err);
    }
    return status;
}

static enum status labels_finish(struct input *in, uint32_t number, struct error *err)
{
    struct column *column = &in->columns[number];
    uint32_t *sorted = NULL;
    uint32_t *place = malloc(((size_t)column->labels.count + 1) * sizeof(*place));
    enum status status = place != NULL
                             ? label_table_sort(&column->labels, &sorted, err)
                             : error_set(err, STATUS_NO_MEMORY, "no memory to sort labels");
    if (status == STATUS_OK)
        status = labels_write(in, number, sorted, place, err);
    free(sorted);
    free(place);
    column->info->label_count = column->labels.count;
    column->info->text_bytes = column->labels.text_bytes;
    label_table_fini(&column->labels);
    return status;
}

/* ---- rows ---- */

/* A row ends after `found` cells, or goes on after as many as there are columns. */
static enum status row_width_fault(const struct input *in, uint64_t line, uint32_t found,
                                   struct error *err)
{
    return error_set(err, STATUS_INVALID, "%s: line %" PRIu64 ": %s%u cells, the header has %u",
                     file_label(in->params->path), line,
                     found < in->info.column_count ? "" : "more than ", found,
                     in->info.column_count);
}

/* Rows beyond those of the vectors are checked and counted, not kept. */
static enum status cell_take(struct input *in, uint32_t number, const struct csv_cell *cell,
                             struct error *err)
{
    struct column *column = &in->columns[number];
    const bool kept = in->row < in->params->rows;
    return column->info->kind == ATTRIBUTE_LABELS ? labels_cell(column, cell, in->row, kept, err)
                                                  : number_cell(column, cell, kept, err);
}

/* *more is false if there is none. */
static enum status row_read(struct input *in, bool *more, struct error *err)
{
    const char *path = in->params->path;
    struct csv_cell cell = {0};
    for (uint32_t number = 0; number == 0 || !cell.row_end; number++) {
        struct error reason = {0};
        char label[ATTRIBUTE_NAME_MAX + 4];
        enum status status = csv_next(in->csv, &cell, more, &reason);
        if (status == STATUS_OK && !*more)
            return STATUS_OK;
        if (status == STATUS_OK && number == in->info.column_count)
            return row_width_fault(in, cell.line, number, err);
        if (status == STATUS_OK && cell.row_end && number + 1 < in->info.column_count)
            return row_width_fault(in, cell.line, number + 1, err);
        if (status == STATUS_OK)
            status = cell_take(in, number, &cell, &reason);
        if (status != STATUS_OK)
            return cell_fault(path, cell.line, column_label(&in->info, number, true, label),
                              &reason, err);
    }
    return STATUS_OK;
}

static enum status rows_read(struct input *in, struct error *err)
{
    bool more = true;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && more) {
        status = row_read(in, &more, err);
        in->row += more;
        if (status == STATUS_OK && in->row % ROWS_BETWEEN_CHECKS == 0)
            status = build_monitor_check(in->monitor, err);
    }
    if (status == STATUS_OK && in->row != in->params->rows)
        status = error_set(err, STATUS_INVALID,
                           "%s: %" PRIu64 " rows behind the header, %s has %" PRIu64 " vectors",
                           file_label(in->params->path), in->row,
                           file_label(in->params->vectors_path), in->params->rows);
    return status;
}

static enum status info_write(struct input *in, struct error *err)
{
    struct work_output *out = NULL;
    enum status status = output_open(in, ATTRIBUTE_INFO_PART, &out, err);
    return status == STATUS_OK ? work_output_append(out, &in->info, sizeof(in->info), err) : status;
}

enum status attribute_input_read(const struct attribute_input_params *params,
                                 const struct build_monitor *monitor,
                                 struct work_output *outputs[ATTRIBUTE_OUTPUTS_MAX],
                                 size_t *output_count, struct digest128 *digest, struct error *err)
{
    struct input *in = calloc(1, sizeof(*in));
    *output_count = 0;
    if (in == NULL)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(params->path));
    in->params = params;
    in->monitor = monitor;
    in->outputs = outputs;
    in->output_count = output_count;
    enum status status = csv_open(params->path, &in->csv, err);
    if (status == STATUS_OK)
        status = header_read(in->csv, params->path, &in->info, err);
    if (status == STATUS_OK)
        status = columns_open(in, err);
    if (status == STATUS_OK)
        status = rows_read(in, err);
    for (uint32_t c = 0; status == STATUS_OK && c < in->info.column_count; c++)
        if (in->info.columns[c].kind == ATTRIBUTE_LABELS)
            status = labels_finish(in, c, err);
    if (status == STATUS_OK)
        status = info_write(in, err);
    if (status == STATUS_OK)
        *digest = csv_digest(in->csv);
    for (uint32_t c = 0; c < ATTRIBUTES_COLUMNS_MAX; c++) {
        label_table_fini(&in->columns[c].labels);
        free(in->columns[c].cell);
    }
    csv_close(in->csv);
    free(in);
    return status;
}

enum status attribute_info_read(const struct work *work, struct attribute_info *info,
                                struct error *err)
{
    struct work_input *input = NULL;
    enum status status =
        work_input_open(work, ingest_piece, ATTRIBUTE_INFO_PART, 0, 0, &input, err);
    if (status == STATUS_OK)
        status = work_input_read(input, info, sizeof(*info), err);
    if (status == STATUS_OK)
        status = work_input_end(input, err);
    work_input_close(input);
    return status;
}
