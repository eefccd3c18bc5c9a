/*
 * supervisor.h - the service manager's side of a daemon: sockets it hands over, what it is told,
 * and how often it wants to hear from us.
 *
 * The protocols are systemd's, documented in sd_listen_fds(3), sd_notify(3) and
 * sd_watchdog_enabled(3) and kept by other managers; they are environment variables and datagrams,
 * so no library is needed. Without a manager every call succeeds and does nothing.
 *
 * Stateless. Notices may come from any thread; what reads and changes the environment says so.
 */
#ifndef NIGHTJAR_QUERY_SUPERVISOR_H
#define NIGHTJAR_QUERY_SUPERVISOR_H

#include <stdint.h>

#include "common/error.h"

enum { SUPERVISOR_NAME_BYTES = 256 }; /* systemd's limit, with a terminator */

/* A descriptor that was handed over. */
struct supervisor_fd {
    int fd;                           /* close-on-exec from now on; the caller's to close */
    char name[SUPERVISOR_NAME_BYTES]; /* FileDescriptorName=, or "unknown" */
};

/* Descriptors that the manager handed to this very process, `max` at most, in its order; none where
 * there is no manager. LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are unset whatever the outcome, so
 * that no child takes them for its own: called once, before there are threads. STATUS_INVALID: more
 * than `max`, variables that are no numbers, names that are not as many, or a descriptor that is
 * not open. What they are is for the caller to check. On failure
 * *count is not written and the descriptors stay as open as they were. */
NODISCARD enum status supervisor_listen_fds(struct supervisor_fd *fds, uint32_t max,
                                            uint32_t *count, struct error *err);

/* Tells the manager: lines of NAME=VALUE, as in "READY=1\nSTATUS=serving", "STOPPING=1" or
 * "WATCHDOG=1". Nothing where NOTIFY_SOCKET is unset or empty. Waits a second at most, for a
 * manager whose queue is full (STATUS_TIMEOUT). STATUS_INVALID: a state that is empty, or a
 * NOTIFY_SOCKET that is neither a path nor an '@' and a name; STATUS_IO: it was not taken. Any
 * thread. */
NODISCARD enum status supervisor_notify(const char *state, struct error *err);

/* "RELOADING=1" with the time, without which Type=notify-reload does not take it. READY=1 follows
 * when done. As supervisor_notify(). */
NODISCARD enum status supervisor_notify_reloading(struct error *err);

/* Time between two WATCHDOG=1, half of what the manager waits for; 0 where it does not. Any thread.
 */
uint64_t supervisor_watchdog_ns(void);

#endif
