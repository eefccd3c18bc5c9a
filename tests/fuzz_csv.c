/*
 * fuzz_csv.c - any bytes as a CSV file: cells come to an end, are of the file, and their number
 * does not depend on how they are quoted back.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "builder/csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct cells {
    uint64_t count, rows, bytes;
    enum status status;
};

/* Reads all; writes them, quoted, to `quoted` unless it is NULL. */
static struct cells cells_read(const char *path, FILE *quoted)
{
    struct cells cells = {0};
    struct csv *csv = NULL;
    struct csv_cell cell = {0};
    struct error err = {0};
    bool more = true;
    assert(csv_open(path, &csv, &err) == STATUS_OK);
    while ((cells.status = csv_next(csv, &cell, &more, &err)) == STATUS_OK && more) {
        assert(cell.line >= 1);
        cells.count++;
        cells.rows += cell.row_end;
        cells.bytes += cell.length;
        if (quoted == NULL)
            continue;
        fputc('"', quoted);
        for (size_t i = 0; i < cell.length; i++) {
            if (cell.text[i] == '"')
                fputc('"', quoted);
            fputc(cell.text[i], quoted);
        }
        fputs(cell.row_end ? "\"\r\n" : "\",", quoted);
    }
    assert(cells.status == STATUS_OK || (cells.status == STATUS_INVALID && err.text[0] != '\0'));
    csv_close(csv);
    return cells;
}

static void file_set(int fd, const void *data, size_t size)
{
    assert(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    char *text = NULL;
    size_t length = 0;
    int fd = memfd_create("csv", MFD_CLOEXEC);
    FILE *quoted = open_memstream(&text, &length);
    assert(fd >= 0 && quoted != NULL);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    file_set(fd, data, size);
    const struct cells cells = cells_read(path, quoted);
    assert(fclose(quoted) == 0);
    assert(cells.bytes <= size && cells.count <= size + 1);
    if (cells.status == STATUS_OK) {
        file_set(fd, text, length);
        const struct cells again = cells_read(path, NULL);
        assert(again.status == STATUS_OK && again.count == cells.count &&
               again.rows == cells.rows && again.bytes == cells.bytes);
    }
    free(text);
    close(fd);
    return 0;
}
