/*
 * log.c - formats a log line on the stack and writes it with one write(2).
 *
 * The only state is the level, an atomic read without ordering: a thread may log one more line
 * after another has raised it, which harms nothing. errno is preserved, so logging never disturbs
 * the code around it.
 */
#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

#define EVERY_NS UINT64_C(1000000000)

static _Atomic int log_level_now = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_level_now, (int)level, memory_order_relaxed);
}

/* What vsnprintf() or snprintf() put into `room` bytes, which is less than it returns when cut. */
static size_t used_of(int returned, size_t room)
{
    if (returned < 0)
        return 0;
    return MIN((size_t)returned, room - 1);
}

static size_t format_head(char *line, size_t room, const char *level, const char *event)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    int used = snprintf(line, room, "ts=%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ level=%s event=%s",
                        utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                        utc.tm_sec, now.tv_nsec / 1000000, level, event);
    return used_of(used, room);
}

PRINTF_LIKE(3, 0)
static void log_line(enum log_level level, const char *event, const char *format, va_list args)
{
    static const char *const names[] = {
        [LOG_LEVEL_INFO] = "info", [LOG_LEVEL_WARN] = "warn", [LOG_LEVEL_ERROR] = "error"};
    if ((int)level < atomic_load_explicit(&log_level_now, memory_order_relaxed))
        return;
    int saved_errno = errno;
    char line[LOG_LINE_BYTES];
    size_t used = format_head(line, sizeof(line) - 2, names[level], event);
    if (format[0] != '\0') {
        line[used++] = ' ';
        size_t room = sizeof(line) - 1 - used;
        used += used_of(vsnprintf(line + used, room, format, args), room);
    }
    for (size_t i = 0; i < used; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    line[used++] = '\n';
    /* A log that cannot be written has nowhere to say so. */
    ssize_t put;
    do {
        put = write(STDERR_FILENO, line, used);
    } while (put < 0 && errno == EINTR);
    errno = saved_errno;
}

void log_info(const char *event, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_line(LOG_LEVEL_INFO, event, format, args);
    va_end(args);
}

void log_warn(const char *event, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_line(LOG_LEVEL_WARN, event, format, args);
    va_end(args);
}

void log_error(const char *event, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_line(LOG_LEVEL_ERROR, event, format, args);
    va_end(args);
}

bool log_due(_Atomic uint64_t *last_ns)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint64_t before_ns = atomic_load_explicit(last_ns, memory_order_relaxed);
    if (before_ns != 0 && now_ns - before_ns < EVERY_NS)
        return false;
    /* Of threads that come at once, one. */
    return atomic_compare_exchange_strong_explicit(last_ns, &before_ns, now_ns,
                                                   memory_order_relaxed, memory_order_relaxed);
}
