/*
 * build_monitor.h - what a running build shares with its stages: progress and the wish to stop. Any
 * thread may ask whether to stop. Progress is reported by one thread a piece of work at a time; the
 * pieces of a stage may run side by side and then share a struct build_share.
 */
#ifndef NIGHTJAR_BUILDER_BUILD_MONITOR_H
#define NIGHTJAR_BUILDER_BUILD_MONITOR_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/compiler.h"
#include "common/error.h"
#include "common/progress.h"

/* The sum of what the pieces of a stage have done. */
struct build_share {
    pthread_mutex_t lock; /* guards done, and the progress line */
    uint64_t done;
};

struct build_monitor {
    struct progress *progress; /* NULL: silent */
    const atomic_int *cancel;  /* set to non-zero by a signal handler; may be NULL */
    struct build_share *share; /* NULL: this piece is all there is */
    uint64_t *reported;        /* what of share->done is this piece's; NULL with share */
};

/* `done` units of this piece are finished. */
void build_monitor_update(const struct build_monitor *monitor, uint64_t done);

/* True once someone asked the build to stop. Relaxed: the flag carries no data, only a wish. */
ALWAYS_INLINE bool build_monitor_cancelled(const struct build_monitor *monitor)
{
    return monitor->cancel != NULL &&
           atomic_load_explicit(monitor->cancel, memory_order_relaxed) != 0;
}

/* STATUS_CANCELLED once someone asked the build to stop, else STATUS_OK. */
NODISCARD ALWAYS_INLINE enum status build_monitor_check(const struct build_monitor *monitor,
                                                        struct error *err)
{
    if (build_monitor_cancelled(monitor))
        return error_set(err, STATUS_CANCELLED, "interrupted: the build was stopped");
    return STATUS_OK;
}

#endif
