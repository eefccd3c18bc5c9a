/*
 * error.c - see error.h. Pure formatting; no state.
 */
#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void error_one_line(char *text)
{
    for (; *text; text++)
        if (*text == '\n' || *text == '\r')
            *text = ' ';
}

enum status error_set(struct error *err, enum status status, const char *format, ...)
{
    if (!err)
        return status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    error_one_line(err->text);
    err->status = status;
    return status;
}

enum status error_set_os(struct error *err, int os_error, const char *format, ...)
{
    enum status status = os_error == ENOMEM ? STATUS_NO_MEMORY : STATUS_IO;
    if (!err)
        return status;
    va_list args;
    va_start(args, format);
    int used = vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    if (used < 0)
        used = 0;
    if ((size_t)used < sizeof(err->text)) {
        char reason[128];
        const char *words = strerror_r(os_error, reason, sizeof(reason));
        snprintf(err->text + used, sizeof(err->text) - (size_t)used, ": %s", words);
    }
    error_one_line(err->text);
    err->status = status;
    return status;
}

const char *status_name(enum status status)
{
    static const char *const names[] = {
        [STATUS_OK] = "ok",
        [STATUS_INVALID] = "invalid",
        [STATUS_CORRUPT] = "corrupt",
        [STATUS_IO] = "io",
        [STATUS_NO_MEMORY] = "no-memory",
        [STATUS_NOT_FOUND] = "not-found",
        [STATUS_EXISTS] = "exists",
        [STATUS_UNSUPPORTED] = "unsupported",
        [STATUS_BUSY] = "busy",
        [STATUS_TIMEOUT] = "timeout",
        [STATUS_CANCELLED] = "cancelled",
        [STATUS_DENIED] = "denied",
    };
    if ((unsigned)status >= ARRAY_LENGTH(names))
        return "unknown";
    return names[status];
}
