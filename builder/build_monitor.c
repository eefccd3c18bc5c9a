/*
 * build_monitor.c - see build_monitor.h.
 */
#include "builder/build_monitor.h"

void build_monitor_update(const struct build_monitor *monitor, uint64_t done)
{
    struct build_share *share = monitor->share;
    if (share == NULL) {
        progress_update(monitor->progress, done);
        return;
    }
    pthread_mutex_lock(&share->lock);
    share->done += done - *monitor->reported;
    progress_update(monitor->progress, share->done);
    pthread_mutex_unlock(&share->lock);
    *monitor->reported = done;
}
