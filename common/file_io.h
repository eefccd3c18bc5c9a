/*
 * file_io.h - whole-file input and output: regular files only, exact reads, atomic replacement.
 *
 * Errors start with the file's path, cut to its last part where it is very long.
 */
#ifndef NIGHTJAR_COMMON_FILE_IO_H
#define NIGHTJAR_COMMON_FILE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* `path` itself, or its last 200 bytes when it would crowd the reason out of an error line. */
const char *file_label(const char *path);

/* True if `path` ends in `suffix` and has something before it in its last component. */
bool file_has_suffix(const char *path, const char *suffix);

/* Opens an existing regular file for reading; a directory, FIFO, socket or device is STATUS_INVALID
 * and is never waited for; a missing one STATUS_NOT_FOUND. On success the caller closes *fd. */
NODISCARD enum status file_open_input(const char *path, int *fd, uint64_t *bytes,
                                      struct error *err);

/* Reads exactly `bytes` at `offset`, retrying EINTR and short reads. A file that ends before is
 * STATUS_CORRUPT. Thread-safe on one descriptor. */
NODISCARD enum status file_read_at(int fd, const char *path, void *buffer, size_t bytes,
                                   uint64_t offset, struct error *err);

/* A new file under a temporary name beside `path` until file_output_commit() renames it. */
struct file_output {
    int fd; /* -1: not open */
    char *path;
    char *temporary;
    uint8_t *buffer;
    size_t buffered;
};

/* Creates the temporary file and reserves `total_bytes` on disk where the file system can. What
 * stands at `path` already must be a regular file, or it is STATUS_EXISTS. `*self` needs no
 * preparation; after a failure there is nothing to abort, though aborting is fine. */
NODISCARD enum status file_output_open(struct file_output *self, const char *path,
                                       uint64_t total_bytes, struct error *err);
/* Appends through a buffer. */
NODISCARD enum status file_output_write(struct file_output *self, const void *data, size_t bytes,
                                        struct error *err);
/* Writes out, fsyncs, renames to `path`, fsyncs the directory. Releases *self on success; on
 * failure the caller aborts. */
NODISCARD enum status file_output_commit(struct file_output *self, struct error *err);
/* Removes the temporary file and releases *self. Does nothing to one already released. */
void file_output_abort(struct file_output *self);

#endif
