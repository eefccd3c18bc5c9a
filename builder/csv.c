/*
 * csv.c - see csv.h. A cell is unquoted where it lies in the buffer, which is refilled behind it;
 * only a cell longer than the buffer makes it grow.
 *
 * Every byte is hashed when it is read, so that who parses needs no second pass for a digest.
 */
#include "builder/csv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/file_io.h"
#include "layout/digest.h"

struct csv {
    char *path;
    int fd;
    bool at_end; /* of the file: what is in the buffer is all */
    bool inside; /* a comma was read: a cell follows, be it empty */
    uint64_t line;
    char *buffer;
    size_t capacity;
    size_t start; /* of the present cell */
    size_t at;    /* where it is read */
    size_t end;   /* of what is in the buffer */
    XXH3_state_t *hash;
};

void csv_close(struct csv *csv)
{
    if (csv == NULL)
        return;
    if (csv->fd >= 0)
        close(csv->fd);
    XXH3_freeState(csv->hash);
    free(csv->buffer);
    free(csv->path);
    free(csv);
}

struct digest128 csv_digest(const struct csv *csv)
{
    return digest_of(XXH3_128bits_digest(csv->hash));
}

/* ---- the buffer ---- */

static enum status buffer_make_room(struct csv *csv, struct error *err)
{
    memmove(csv->buffer, csv->buffer + csv->start, csv->end - csv->start);
    csv->at -= csv->start;
    csv->end -= csv->start;
    csv->start = 0;
    if (csv->end < csv->capacity)
        return STATUS_OK;
    if (csv->capacity >= CSV_CELL_BYTES_MAX)
        return error_set(err, STATUS_INVALID, "a cell of more than %d bytes", CSV_CELL_BYTES_MAX);
    char *larger = realloc(csv->buffer, csv->capacity * 2);
    if (larger == NULL)
        return error_set(err, STATUS_NO_MEMORY, "%s: no memory for a cell of %zu bytes",
                         file_label(csv->path), csv->capacity);
    csv->buffer = larger;
    csv->capacity *= 2;
    return STATUS_OK;
}

/* Reads more behind what is there, unless the file has ended; start, at and end may move. */
static enum status buffer_fill(struct csv *csv, struct error *err)
{
    enum status status = buffer_make_room(csv, err);
    if (status != STATUS_OK)
        return status;
    ssize_t got;
    do {
        got = read(csv->fd, csv->buffer + csv->end, csv->capacity - csv->end);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return error_set_os(err, errno, "%s: cannot read", file_label(csv->path));
    (void)XXH3_128bits_update(csv->hash, csv->buffer + csv->end, (size_t)got);
    csv->end += (size_t)got;
    csv->at_end = got == 0;
    return STATUS_OK;
}

/* *there: a byte is at `at`. */
static enum status byte_ensure(struct csv *csv, bool *there, struct error *err)
{
    enum status status = STATUS_OK;
    while (status == STATUS_OK && csv->at == csv->end && !csv->at_end)
        status = buffer_fill(csv, err);
    *there = csv->at < csv->end;
    return status;
}

static enum status mark_skip(struct csv *csv, struct error *err)
{
    static const char mark[3] = "\xef\xbb\xbf";
    enum status status = STATUS_OK;
    while (status == STATUS_OK && csv->end < sizeof(mark) && !csv->at_end)
        status = buffer_fill(csv, err);
    if (status == STATUS_OK && csv->end >= sizeof(mark) &&
        memcmp(csv->buffer, mark, sizeof(mark)) == 0)
        csv->at = sizeof(mark);
    return status;
}

enum status csv_open(const char *path, struct csv **out, struct error *err)
{
    uint64_t bytes;
    struct csv *csv = calloc(1, sizeof(*csv));
    if (csv == NULL)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    csv->line = 1;
    csv->fd = -1;
    csv->path = strdup(path);
    csv->buffer = malloc(CSV_BUFFER_BYTES);
    csv->capacity = CSV_BUFFER_BYTES;
    csv->hash = XXH3_createState();
    enum status status = STATUS_OK;
    if (csv->path == NULL || csv->buffer == NULL || csv->hash == NULL ||
        XXH3_128bits_reset(csv->hash) != XXH_OK)
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    if (status == STATUS_OK)
        status = file_open_input(path, &csv->fd, &bytes, err);
    if (status == STATUS_OK)
        status = mark_skip(csv, err);
    if (status == STATUS_OK)
        *out = csv;
    else
        csv_close(csv);
    return status;
}

/* ---- cells ---- */

static bool ends_plain(char c)
{
    return c == ',' || c == '\n' || c == '"';
}

/* What ends a cell has been read: a comma, a line end or, with `there` false, the end of the file.
 */
static void cell_finish(struct csv *csv, struct csv_cell *cell, bool there)
{
    const bool comma = there && csv->buffer[csv->at] == ',';
    if (there && !comma)
        csv->line++;
    csv->at += there;
    csv->inside = comma;
    cell->row_end = !comma;
}

static enum status plain_read(struct csv *csv, struct csv_cell *cell, struct error *err)
{
    bool there;
    enum status status;
    for (;;) {
        while (csv->at < csv->end && !ends_plain(csv->buffer[csv->at]))
            csv->at++;
        status = byte_ensure(csv, &there, err);
        if (status != STATUS_OK)
            return status;
        if (!there || ends_plain(csv->buffer[csv->at]))
            break;
    }
    if (there && csv->buffer[csv->at] == '"')
        return error_set(err, STATUS_INVALID, "a quote inside a cell that does not begin with one");
    cell->text = csv->buffer + csv->start;
    cell->length = csv->at - csv->start;
    if (there && csv->buffer[csv->at] == '\n' && cell->length > 0 &&
        cell->text[cell->length - 1] == '\r')
        cell->length--;
    cell_finish(csv, cell, there);
    return STATUS_OK;
}

/* Behind a closing quote: what may follow is read. */
static enum status quoted_finish(struct csv *csv, struct csv_cell *cell, size_t length,
                                 struct error *err)
{
    bool there;
    enum status status = byte_ensure(csv, &there, err);
    if (status == STATUS_OK && there && csv->buffer[csv->at] == '\r') {
        csv->at++;
        status = byte_ensure(csv, &there, err);
        if (status == STATUS_OK && (!there || csv->buffer[csv->at] != '\n'))
            return error_set(err, STATUS_INVALID, "more follows the closing quote");
    }
    if (status != STATUS_OK)
        return status;
    if (there && csv->buffer[csv->at] != ',' && csv->buffer[csv->at] != '\n')
        return error_set(err, STATUS_INVALID, "more follows the closing quote");
    cell->text = csv->buffer + csv->start;
    cell->length = length;
    cell_finish(csv, cell, there);
    return STATUS_OK;
}

/* `at` is behind the opening quote. The text is moved to where that was. */
static enum status quoted_read(struct csv *csv, struct csv_cell *cell, struct error *err)
{
    size_t length = 0;
    for (;;) {
        bool there;
        enum status status = byte_ensure(csv, &there, err);
        if (status == STATUS_OK && !there)
            status = error_set(err, STATUS_INVALID, "no closing quote");
        if (status != STATUS_OK)
            return status;
        const char c = csv->buffer[csv->at++];
        if (c == '"') {
            status = byte_ensure(csv, &there, err);
            if (status != STATUS_OK)
                return status;
            if (!there || csv->buffer[csv->at] != '"')
                return quoted_finish(csv, cell, length, err);
            csv->at++;
        }
        csv->line += c == '\n';
        csv->buffer[csv->start + length++] = c;
    }
}

enum status csv_next(struct csv *csv, struct csv_cell *cell, bool *more, struct error *err)
{
    bool there;
    csv->start = csv->at;
    cell->line = csv->line;
    enum status status = byte_ensure(csv, &there, err);
    if (status != STATUS_OK)
        return status;
    *more = there || csv->inside;
    if (!*more)
        return STATUS_OK;
    if (!there || csv->buffer[csv->at] != '"')
        return plain_read(csv, cell, err);
    csv->at++;
    return quoted_read(csv, cell, err);
}
