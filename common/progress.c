/*
 * progress.c - one rewritten line on a terminal, sparse log lines elsewhere.
 *
 * The rate is the stage's mean so far: it is steadier than a recent one, and the time left follows
 * from it. One thread per object; no state outside it.
 */
#include "common/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/compiler.h"
#include "common/log.h"
#include "common/memory.h"

enum {
    LINE_BYTES = 256,
    LINE_BYTES_SHOWN = 78, /* wrapping would break the rewriting with \r */
};

#define SECOND_NS          UINT64_C(1000000000)
#define TERMINAL_PERIOD_NS SECOND_NS
#define LOG_PERIOD_NS      (60 * SECOND_NS)

void progress_init(struct progress *self, bool quiet)
{
    if (!self)
        return;
    *self = (struct progress){.terminal = isatty(STDERR_FILENO) == 1, .quiet = quiet};
}

void progress_begin(struct progress *self, const char *stage, uint64_t total, const char *unit)
{
    if (!self || self->quiet)
        return;
    progress_end(self);
    self->stage = stage;
    self->unit = unit;
    self->total = total;
    self->done = 0;
    self->start_ns = clock_monotonic_ns();
    self->next_ns = self->start_ns + (self->terminal ? TERMINAL_PERIOD_NS : LOG_PERIOD_NS);
}

static double seconds_of(uint64_t duration_ns)
{
    return (double)duration_ns / (double)SECOND_NS;
}

static double rate_of(const struct progress *self, uint64_t now_ns)
{
    double seconds = seconds_of(now_ns - self->start_ns);
    return seconds > 0 ? (double)self->done / seconds : 0;
}

/* Seconds to go at the mean rate; 0 when it cannot be told. */
static uint64_t seconds_left(const struct progress *self, double rate)
{
    if (rate <= 0 || self->total <= self->done)
        return 0;
    double left = (double)(self->total - self->done) / rate;
    return left < 1e9 ? (uint64_t)left : 0;
}

/* Replaces the terminal's line by `text`; with `keep` the cursor then moves to the next one. One
 * write, so that the line never flickers. */
static void show(struct progress *self, const char *text, bool keep)
{
    char line[LINE_BYTES + LINE_BYTES_SHOWN];
    uint32_t length = (uint32_t)MIN(strlen(text), (size_t)LINE_BYTES_SHOWN);
    uint32_t blanks = self->line_bytes > length ? self->line_bytes - length : 0;
    int used = snprintf(line, sizeof(line), "\r%.*s%*s%s", (int)length, text, (int)blanks, "",
                        keep ? "\n" : "");
    /* Progress that cannot be shown is no reason to fail. */
    if (used > 0 && write(STDERR_FILENO, line, (size_t)used) < 0)
        self->quiet = true;
    self->line_bytes = keep ? 0 : length;
}

static void show_update(struct progress *self, uint64_t now_ns)
{
    char text[LINE_BYTES];
    double rate = rate_of(self, now_ns);
    double rss_gb = (double)memory_rss() / (1 << 30);
    if (self->total > 0) {
        uint64_t left_s = seconds_left(self, rate);
        snprintf(text, sizeof(text),
                 "%s: %" PRIu64 "/%" PRIu64 " %s %.0f%%  %.0f %s/s  %" PRIu64 ":%02" PRIu64
                 " left  rss %.2f GB",
                 self->stage, self->done, self->total, self->unit,
                 100.0 * (double)self->done / (double)self->total, rate, self->unit, left_s / 60,
                 left_s % 60, rss_gb);
    } else {
        snprintf(text, sizeof(text), "%s: %" PRIu64 " %s  %.0f %s/s  rss %.2f GB", self->stage,
                 self->done, self->unit, rate, self->unit, rss_gb);
    }
    show(self, text, false);
}

void progress_update(struct progress *self, uint64_t done)
{
    if (!self || self->quiet || !self->stage)
        return;
    self->done = done;
    uint64_t now_ns = clock_monotonic_ns();
    if (now_ns < self->next_ns)
        return;
    if (self->terminal) {
        self->next_ns = now_ns + TERMINAL_PERIOD_NS;
        show_update(self, now_ns);
        return;
    }
    self->next_ns = now_ns + LOG_PERIOD_NS;
    double rate = rate_of(self, now_ns);
    log_info("progress",
             "stage=%s unit=%s done=%" PRIu64 " total=%" PRIu64 " per_s=%.0f left_s=%" PRIu64
             " rss_bytes=%" PRIu64,
             self->stage, self->unit, self->done, self->total, rate, seconds_left(self, rate),
             memory_rss());
}

void progress_end(struct progress *self)
{
    if (!self || self->quiet || !self->stage)
        return;
    uint64_t now_ns = clock_monotonic_ns();
    double seconds = seconds_of(now_ns - self->start_ns);
    double rate = rate_of(self, now_ns);
    if (self->terminal) {
        char text[LINE_BYTES];
        snprintf(text, sizeof(text), "%s: %" PRIu64 " %s in %.1f s  %.0f %s/s  rss %.2f GB",
                 self->stage, self->done, self->unit, seconds, rate, self->unit,
                 (double)memory_rss() / (1 << 30));
        show(self, text, true);
    } else {
        log_info("stage",
                 "stage=%s unit=%s done=%" PRIu64 " seconds=%.3f per_s=%.0f rss_bytes=%" PRIu64,
                 self->stage, self->unit, self->done, seconds, rate, memory_rss());
    }
    self->stage = NULL;
}
