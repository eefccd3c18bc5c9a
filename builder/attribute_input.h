/*
 * attribute_input.h - the attributes a build is given: a CSV file, read once while the input is
 * ingested, so that all that can be refused is refused before any work.
 *
 * The first line is a header of NAME:TYPE cells, type u64, i64 or labels; then one row for each
 * vector, in their order. The labels of a cell are separated by '|'; an empty cell has none. In a
 * label, "\|" is a bar and "\\" a backslash. A label may be repeated in a cell.
 *
 * Files of the piece {BUILD_STAGE_INGEST, WORK_WHOLE}, C the column's number:
 *   attributes   struct attribute_info
 *   values-C     numbers: a u64 for each row, its rank (attribute_rank())
 *                labels: for each row u16 count, then so many u32 numbers, distinct, in order of
 *                their first appearance in the column
 *   labels-C     labels, sections: the place of each number in sorted order, u32; offsets of the
 *                sorted labels' text, u32 [count + 1]; the text; rows of each sorted label, u64
 */
#ifndef NIGHTJAR_BUILDER_ATTRIBUTE_INPUT_H
#define NIGHTJAR_BUILDER_ATTRIBUTE_INPUT_H

#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/work.h"
#include "common/error.h"
#include "layout/attributes.h"
#include "layout/manifest.h"

enum {
    ATTRIBUTE_OUTPUTS_MAX = 1 + 2 * ATTRIBUTES_COLUMNS_MAX,
    ATTRIBUTE_BUFFER_BYTES = 64 << 10, /* of each of them */
};

#define ATTRIBUTE_INFO_PART "attributes"

/* What memory and disk depend on; known from the header and the file's length. */
struct attribute_extent {
    uint64_t file_bytes; /* 0: no attributes */
    uint32_t number_columns;
    uint32_t label_columns;
};

/* Reads the header alone; every fault of it is told here. */
NODISCARD enum status attribute_extent_look(const char *path, struct attribute_extent *extent,
                                            struct error *err);

/* Distinct labels in all columns, and bytes of their text, at most. */
uint64_t attribute_labels_max(const struct attribute_extent *extent);
uint64_t attribute_text_max(const struct attribute_extent *extent);

/* Most memory that attribute_input_read() holds at a time, with its outputs; and those, which are
 * open until they are committed. */
uint64_t attribute_input_memory_bytes(const struct attribute_extent *extent);
uint64_t attribute_buffers_bytes(const struct attribute_extent *extent);

/* Bytes that it leaves in the work directory, at most. */
uint64_t attribute_input_disk_bytes(const struct attribute_extent *extent, uint64_t rows);

/* On disk as in memory; no padding. */
struct attribute_input_column {
    char name[ATTRIBUTE_NAME_MAX + 1];
    uint32_t kind; /* enum attribute_kind */
    uint32_t label_count;
    uint64_t least, most; /* ranks, of numbers */
    uint64_t text_bytes;
    uint64_t memberships;
};

struct attribute_info {
    uint32_t column_count;
    uint32_t reserved;
    struct attribute_input_column columns[ATTRIBUTES_COLUMNS_MAX];
};

struct attribute_input_params {
    const char *path;
    const char *vectors_path; /* for messages */
    uint64_t rows;            /* there must be as many */
    struct work *work;
};

/* Reads the whole file into new outputs of the ingest piece, which the caller commits with its own
 * or aborts: also after a failure, *output_count is how many there are. *digest is of the file's
 * bytes. STATUS_INVALID: "FILE: line 17: column "year": "abc" is no u64". One pass, one thread;
 * allocates nothing for a row. A wish to stop is heard some times a second. */
NODISCARD enum status attribute_input_read(const struct attribute_input_params *params,
                                           const struct build_monitor *monitor,
                                           struct work_output *outputs[ATTRIBUTE_OUTPUTS_MAX],
                                           size_t *output_count, struct digest128 *digest,
                                           struct error *err);

/* Reads the piece's attributes. */
NODISCARD enum status attribute_info_read(const struct work *work, struct attribute_info *info,
                                          struct error *err);

/* "values-C", "labels-C". */
void attribute_part_name(const char *kind, uint32_t column, char part[WORK_PART_BYTES]);

#endif
