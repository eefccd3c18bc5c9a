/*
 * csv.h - reading a comma-separated file cell by cell, in bounded memory (RFC 4180).
 *
 * A cell that is quoted may have commas, line ends and, doubled, quotes in it. Lines end with LF or
 * CRLF; the last one need not end. A byte order mark at the start is skipped. An empty line is a
 * row of one empty cell.
 *
 * A reader belongs to one thread.
 */
#ifndef NIGHTJAR_BUILDER_CSV_H
#define NIGHTJAR_BUILDER_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/manifest.h"

enum {
    CSV_BUFFER_BYTES = 1 << 20,
    CSV_CELL_BYTES_MAX = 32 << 20, /* with its quotes; the buffer grows to hold one */
};

struct csv;

struct csv_cell {
    char *text;    /* unquoted; may be written to; until the next call */
    size_t length; /* no terminator */
    uint64_t line; /* where it begins, from 1 */
    bool row_end;  /* it is the last of its row */
};

/* Opens a regular file. On success *out is the caller's to close. */
NODISCARD enum status csv_open(const char *path, struct csv **out, struct error *err);
/* NULL is fine. */
void csv_close(struct csv *csv);

/* The next cell; *more is false behind the last. STATUS_INVALID: no such file of cells, with the
 * reason alone in *err, and cell->line set: the caller knows the column. STATUS_IO, _NO_MEMORY: a
 * whole message. Nothing can be read after a failure. */
NODISCARD enum status csv_next(struct csv *csv, struct csv_cell *cell, bool *more,
                               struct error *err);

/* XXH3-128 of the file's bytes; behind the last cell. */
struct digest128 csv_digest(const struct csv *csv);

#endif
