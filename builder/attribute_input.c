/*
 * attribute_input.c - see attribute_input.h. A cell is checked (attribute_cell.h) and appended to
 * its column's file as it comes; memory grows with distinct labels alone.
 */
#include "builder/attribute_input.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "builder/attribute_cell.h"
#include "builder/csv.h"
#include "builder/label_table.h"
#include "common/file_io.h"

enum { ROWS_BETWEEN_CHECKS = 1 << 14 }; /* of the wish to stop: some 10 ms */

static const struct work_piece ingest_piece = {BUILD_STAGE_INGEST, WORK_WHOLE};

_Static_assert(sizeof(struct attribute_input_column) == 64 + 8 + 32, "no padding");

/* A column while it is read. */
struct column {
    struct attribute_input_column *info;
    struct label_table labels;
    struct work_output *values;
    struct attribute_labels cell; /* of the present one */
};

struct input {
    const struct attribute_input_params *params;
    const struct build_monitor *monitor;
    struct csv *csv;
    struct attribute_header header;
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

enum status attribute_extent_look(const char *path, struct attribute_extent *extent,
                                  struct error *err)
{
    struct csv *csv = NULL;
    struct stat file;
    struct attribute_header header;
    enum status status = csv_open(path, &csv, err);
    if (status == STATUS_OK)
        status = attribute_header_read(csv, path, &header, err);
    if (status == STATUS_OK && stat(path, &file) != 0)
        status = error_set_os(err, errno, "%s: cannot be looked at", file_label(path));
    if (status == STATUS_OK) {
        *extent = (struct attribute_extent){.file_bytes = (uint64_t)file.st_size};
        for (uint32_t c = 0; c < header.column_count; c++) {
            const bool labels = header.columns[c].kind == ATTRIBUTE_LABELS;
            extent->label_columns += labels;
            extent->number_columns += !labels;
        }
    }
    csv_close(csv);
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
    in->info.column_count = in->header.column_count;
    for (uint32_t c = 0; status == STATUS_OK && c < in->info.column_count; c++) {
        const enum attribute_kind kind = in->header.columns[c].kind;
        struct attribute_input_column *info = &in->info.columns[c];
        char part[WORK_PART_BYTES];
        attribute_part_name("values", c, part);
        memcpy(info->name, in->header.columns[c].name, sizeof(info->name));
        info->kind = (uint32_t)kind;
        info->least = kind == ATTRIBUTE_LABELS ? 0 : UINT64_MAX;
        in->columns[c].info = info;
        status = output_open(in, part, &in->columns[c].values, err);
    }
    return status;
}

/* ---- cells ---- */

static enum status number_cell(struct column *column, const struct csv_cell *cell, bool kept,
                               struct error *err)
{
    const enum attribute_kind kind = (enum attribute_kind)column->info->kind;
    uint64_t value;
    enum status status = attribute_number_parse(kind, cell, &value, err);
    if (status != STATUS_OK || !kept)
        return status;
    const uint64_t rank = attribute_rank(kind, value);
    column->info->least = MIN(column->info->least, rank);
    column->info->most = MAX(column->info->most, rank);
    return work_output_append(column->values, &rank, sizeof(rank), err);
}

static enum status labels_cell(struct column *column, const struct csv_cell *cell, uint64_t row,
                               bool kept, struct error *err)
{
    struct attribute_labels *labels = &column->cell;
    enum status status =
        attribute_labels_parse(cell, (uint32_t)row, kept ? &column->labels : NULL, labels, err);
    if (status != STATUS_OK || !kept)
        return status;
    const uint16_t head = (uint16_t)labels->count;
    column->info->memberships += labels->count;
    status = work_output_append(column->values, &head, sizeof(head), err);
    return status == STATUS_OK && head > 0
               ? work_output_append(column->values, labels->numbers, head * sizeof(uint32_t), err)
               : status;
}

/* Rows beyond those of the vectors are checked and counted, not kept. */
static enum status cell_take(void *context, uint32_t number, const struct csv_cell *cell,
                             struct error *err)
{
    struct input *in = context;
    struct column *column = &in->columns[number];
    const bool kept = in->row < in->params->rows;
    return column->info->kind == ATTRIBUTE_LABELS ? labels_cell(column, cell, in->row, kept, err)
                                                  : number_cell(column, cell, kept, err);
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

static enum status rows_read(struct input *in, struct error *err)
{
    const struct attribute_rows rows = {in->csv, in->params->path, &in->header, cell_take, in};
    bool more = true;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && more) {
        status = attribute_row_read(&rows, &more, err);
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
        status = attribute_header_read(in->csv, params->path, &in->header, err);
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
        free(in->columns[c].cell.numbers);
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
