/*
 * store.h - the few system calls that change a disk, as layout uses them: relative to a directory
 * descriptor, with one clear line on failure, and with a seam where tests make the nth call fail.
 *
 * Internal to layout and its tests. A store_file belongs to one thread; distinct ones are
 * independent.
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
};

enum { STORE_FAULT_SHORT = -1 }; /* the write moves only a part of its bytes */

/* Asked before each call: 0 lets it happen, an errno value fails it undone (a close still closes),
 * and STORE_FAULT_SHORT shortens a write. */
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

/* ---- files ---- */

/* A new file being written from its start. */
struct store_file {
    int fd; /* -1: closed */
    bool direct;
    uint64_t offset;       /* bytes written so far */
    const char *directory; /* borrowed, for messages */
    const char *name;      /* borrowed */
};

/* Creates a file that must not exist (STATUS_EXISTS). */
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

#endif
