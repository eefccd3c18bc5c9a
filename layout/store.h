/*
 * store.h - the few system calls that change a disk, and the one that reads back what they wrote,
 * as layout uses them: relative to a directory descriptor, with one clear line on failure, and with
 * a seam where tests make the nth call fail.
 *
 * Internal to layout and its tests. A store_file belongs to one thread, but store_write_at() and
 * store_read_at() may run on one in any threads at a time, on ranges that do not overlap; distinct
 * files are independent.
 */
#ifndef NIGHTJAR_LAYOUT_STORE_H
#define NIGHTJAR_LAYOUT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* ---- the seam ---- */

enum store_call {
    STORE_CALL_CREATE,
    STORE_CALL_MKDIR,
    STORE_CALL_WRITE,
    STORE_CALL_SYNC,
    STORE_CALL_CLOSE,
    STORE_CALL_RENAME,
    STORE_CALL_SYMLINK,
    STORE_CALL_REMOVE,
    STORE_CALL_TRUNCATE,
    STORE_CALL_READ,
};

enum { STORE_FAULT_SHORT = -1 }; /* the read or write moves only a part of its bytes */

/* Asked before each call, by the thread that makes it: 0 lets it happen, an errno value fails it
 * undone (a close still closes), and STORE_FAULT_SHORT shortens a read or write. */
struct store_faults {
    int (*before)(void *context, enum store_call call);
    void *context;
};

/* For tests: `faults` (borrowed; NULL ends it) sees every call of the process from now on. It is
 * process-wide because the callers under test must not carry a parameter for it. */
void store_inject(const struct store_faults *faults);

/* ---- directories ---- */

/* Makes directory `name` in `parent_fd`; `path` is for messages. *created is false when it, or
 * something else of that name, was there. */
NODISCARD enum status store_mkdir(int parent_fd, const char *name, const char *path, bool *created,
                                  struct error *err);
NODISCARD enum status store_sync_directory(int directory_fd, const char *path, struct error *err);
NODISCARD enum status store_rename(int directory_fd, const char *directory, const char *from,
                                   const char *to, struct error *err);
NODISCARD enum status store_symlink(int directory_fd, const char *directory, const char *target,
                                    const char *name, struct error *err);
/* Removes a file, or an empty directory. One that is gone already is no failure. */
NODISCARD enum status store_remove_file(int directory_fd, const char *directory, const char *name,
                                        struct error *err);
NODISCARD enum status store_remove_directory(int directory_fd, const char *directory,
                                             const char *name, struct error *err);

/* ---- files ---- */

/* A file being written: from its start, or by positions. */
struct store_file {
    int fd; /* -1: closed */
    bool direct;
    uint64_t offset;       /* bytes appended so far */
    const char *directory; /* borrowed, for messages */
    const char *name;      /* borrowed */
};

/* Creates a file that must not exist (STATUS_EXISTS), for reading and writing. */
NODISCARD enum status store_create(struct store_file *file, int directory_fd, const char *directory,
                                   const char *name, struct error *err);

/* Switches to O_DIRECT where the file system has it; else writes stay buffered. */
void store_set_direct(struct store_file *file);

/* Appends all of `data`. With file->direct, data and bytes are multiples of 4096. */
NODISCARD enum status store_append(struct store_file *file, const void *data, size_t bytes,
                                   struct error *err);
NODISCARD enum status store_sync(struct store_file *file, struct error *err);
/* Closes in any case; a second close does nothing. */
NODISCARD enum status store_close(struct store_file *file, struct error *err);

/* Writes `name` whole or not at all: temporary file "NAME.tmp" (an old one is replaced), fsync,
 * rename, fsync of the directory. After a failure no temporary is left; should only the last fsync
 * fail, `name` stands. */
NODISCARD enum status store_write_text(int directory_fd, const char *directory, const char *name,
                                       const char *text, struct error *err);

/* "NAME.tmp" into temporary[NAME_MAX + 1]; false when it would be too long for a file name. */
bool store_temporary_name(const char *name, char *temporary);

/* ---- files written by positions ---- */

/* Opens a file for reading and writing, as it is, or creates it. STATUS_EXISTS when it is no
 * regular file. For the seam it is a STORE_CALL_CREATE. */
NODISCARD enum status store_open(struct store_file *file, int directory_fd, const char *directory,
                                 const char *name, struct error *err);

/* Writes all of `data` at `offset`. With file->direct, data, bytes and offset are multiples of
 * 4096. file->offset is neither used nor moved. */
NODISCARD enum status store_write_at(const struct store_file *file, const void *data, size_t bytes,
                                     uint64_t offset, struct error *err);

/* Reads exactly `bytes` at `offset`; a file that ends before is STATUS_CORRUPT. With file->direct,
 * buffer and offset are multiples of 4096 and the buffer has room for `bytes` rounded up to one. */
NODISCARD enum status store_read_at(const struct store_file *file, void *buffer, size_t bytes,
                                    uint64_t offset, struct error *err);

/* Cuts the file, or lengthens it by zeros. */
NODISCARD enum status store_set_length(const struct store_file *file, uint64_t bytes,
                                       struct error *err);

#endif
