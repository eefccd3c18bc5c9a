/*
 * log.h - one line a call on stderr, for programs; libraries report through struct error.
 *
 *   ts=2026-01-01T00:00:00.000Z level=info event=listening socket=/run/nightjar.sock threads=8
 *
 * `event` is one stable word; `format` gives the rest as space-separated key=value pairs with units
 * in the keys (wait_ms=12). A value that may hold spaces is quoted by the caller: error="%s".
 * Control characters are replaced by spaces and a line is cut at LOG_LINE_BYTES, so a value can
 * never start a line of its own.
 *
 * Thread-safe: a line is formatted on the stack and leaves in a single write(2), so lines of
 * several threads do not mix. Does not allocate; blocks only as write(2) does. Never called in hot
 * loops.
 */
#ifndef NIGHTJAR_COMMON_LOG_H
#define NIGHTJAR_COMMON_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/compiler.h"

enum { LOG_LINE_BYTES = 1024 };

enum log_level {
    LOG_LEVEL_INFO = 0,
    LOG_LEVEL_WARN,
    LOG_LEVEL_ERROR,
    LOG_LEVEL_NONE, /* only as an argument of log_set_level(): nothing is logged */
};

/* Lines below `level` are dropped. The level at start is LOG_LEVEL_INFO. Any thread. */
void log_set_level(enum log_level level);

/* Whether a line of a kind that others can cause at will may be logged now: one a second, so that a
 * flood of faults is not a flood of lines. *last_ns, 0 at first, is the kind's. Any threads. */
bool log_due(_Atomic uint64_t *last_ns);

void log_info(const char *event, const char *format, ...) PRINTF_LIKE(2, 3);
void log_warn(const char *event, const char *format, ...) PRINTF_LIKE(2, 3);
void log_error(const char *event, const char *format, ...) PRINTF_LIKE(2, 3);

#endif
