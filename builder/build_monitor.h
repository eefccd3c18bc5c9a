/*
 * build_monitor.h - what a running build shares with its stages: the progress line and the wish to
 * stop. One thread at a time reports progress; any thread may ask whether to stop.
 */
#ifndef NIGHTJAR_BUILDER_BUILD_MONITOR_H
#define NIGHTJAR_BUILDER_BUILD_MONITOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/compiler.h"
#include "common/error.h"
#include "common/progress.h"

struct build_monitor {
    struct progress *progress; /* NULL: silent */
    const atomic_int *cancel;  /* set to non-zero by a signal handler; may be NULL */
};

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
        return error_set(err, STATUS_CANCELLED, "interrupted: the build was stopped and undone");
    return STATUS_OK;
}

#endif
