/*
 * error.h - how a function says that it failed.
 *
 * The place that detects a fault calls error_set() once, with what, where, got and wanted; callers
 * forward the status unchanged; a program's main() prints the text once. `struct error` is plain
 * caller storage: no allocation, so running out of memory can be reported too.
 */
#ifndef NIGHTJAR_COMMON_ERROR_H
#define NIGHTJAR_COMMON_ERROR_H

#include "common/compiler.h"

enum status {
    STATUS_OK = 0,
    STATUS_INVALID,     /* the caller's input, argument or configuration is wrong */
    STATUS_CORRUPT,     /* bytes on disk or wire break their format or checksum */
    STATUS_IO,          /* the kernel refused or failed an I/O call */
    STATUS_NO_MEMORY,   /* an allocation failed or a budget does not suffice */
    STATUS_NOT_FOUND,   /* a named thing does not exist */
    STATUS_EXISTS,      /* a thing that must not exist does */
    STATUS_UNSUPPORTED, /* this build, kernel or format version cannot do it */
    STATUS_BUSY,        /* a bounded queue is full; try again */
    STATUS_TIMEOUT,     /* a deadline passed */
    STATUS_CANCELLED,   /* shutdown or signal */
    STATUS_DENIED,      /* the caller may not ask for this */
};

enum { ERROR_TEXT_BYTES = 512 };

struct error {
    enum status status;
    char text[ERROR_TEXT_BYTES]; /* one line, no newline, NUL-terminated, no program name */
};

/* Stores `status` and a formatted line in *err (which may be NULL) and returns `status`.
 * Longer lines are cut. Newlines are replaced by spaces. Thread-safe for distinct *err. */
enum status error_set(struct error *err, enum status status, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* As error_set(), with ": " and strerror(os_error) appended. STATUS_NO_MEMORY is used in place of
 * STATUS_IO when os_error is ENOMEM. */
enum status error_set_os(struct error *err, int os_error, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* A short stable word for a status: "ok", "invalid", "corrupt", ... */
const char *status_name(enum status status);

#endif
