/*
 * supervisor.c - see supervisor.h. Owns the environment variables of service managers.
 *
 * A notice opens and closes its own socket: no state, hence no lock, and what the manager does to
 * its end between two notices does not matter. They are rare, so the three system calls do not.
 */
#include "query/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"

enum {
    FIRST_FD = 3, /* after stdin, stdout and stderr */
    NOTIFY_WAIT_S = 1,
};

/* Decimal digits, `max` at most. */
static bool number_parse(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t number = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        uint64_t digit = (uint64_t)(*text - '0');
        if (number > (max - digit) / 10)
            return false;
        number = number * 10 + digit;
    }
    *out = number;
    return true;
}

/* ---- sockets that are handed over ---- */

/* The i-th of the names that colons part; "unknown" where there are none at all. */
static enum status name_get(const char *names, uint64_t i, char out[SUPERVISOR_NAME_BYTES],
                            struct error *err)
{
    if (!names) {
        snprintf(out, SUPERVISOR_NAME_BYTES, "unknown");
        return STATUS_OK;
    }
    for (uint64_t skipped = 0; skipped < i; skipped++) {
        names = strchr(names, ':');
        if (!names)
            return error_set(err, STATUS_INVALID, "LISTEN_FDNAMES has fewer names than LISTEN_FDS");
        names++;
    }
    size_t length = strcspn(names, ":");
    if (length >= SUPERVISOR_NAME_BYTES)
        return error_set(err, STATUS_INVALID, "LISTEN_FDNAMES: a name has at most %d bytes",
                         SUPERVISOR_NAME_BYTES - 1);
    memcpy(out, names, length);
    out[length] = '\0';
    return STATUS_OK;
}

static bool name_follows(const char *names, uint64_t count)
{
    for (uint64_t i = 0; names && i < count; i++) {
        names = strchr(names, ':');
        names = names ? names + 1 : NULL;
    }
    return names != NULL;
}

/* How many descriptors are for this process. */
static enum status listen_count(uint32_t max, uint64_t *out, struct error *err)
{
    const char *pid = getenv("LISTEN_PID");
    const char *fds = getenv("LISTEN_FDS");
    uint64_t number = 0;
    *out = 0;
    if (!pid || !fds)
        return STATUS_OK;
    if (!number_parse(pid, INT_MAX, &number))
        return error_set(err, STATUS_INVALID, "LISTEN_PID=%s: not a process id", pid);
    if (number != (uint64_t)getpid()) /* meant for whoever started us */
        return STATUS_OK;
    if (!number_parse(fds, INT_MAX - FIRST_FD, &number))
        return error_set(err, STATUS_INVALID, "LISTEN_FDS=%s: not a number of descriptors", fds);
    if (number > max)
        return error_set(err, STATUS_INVALID,
                         "the service manager hands over %" PRIu64 " sockets: at most %u are taken",
                         number, max);
    *out = number;
    return STATUS_OK;
}

static enum status listen_take(struct supervisor_fd *fds, uint64_t count, struct error *err)
{
    const char *names = getenv("LISTEN_FDNAMES");
    enum status status = STATUS_OK;
    for (uint64_t i = 0; status == STATUS_OK && i < count; i++) {
        struct supervisor_fd *taken = &fds[i];
        taken->fd = FIRST_FD + (int)i;
        status = name_get(names, i, taken->name, err);
        if (status == STATUS_OK && fcntl(taken->fd, F_SETFD, FD_CLOEXEC) != 0)
            status = error_set(err, STATUS_INVALID,
                               "LISTEN_FDS names descriptor %d, which is not open", taken->fd);
    }
    if (status == STATUS_OK && count > 0 && name_follows(names, count))
        status = error_set(err, STATUS_INVALID, "LISTEN_FDNAMES has more names than LISTEN_FDS");
    return status;
}

enum status supervisor_listen_fds(struct supervisor_fd *fds, uint32_t max, uint32_t *count,
                                  struct error *err)
{
    uint64_t handed = 0;
    enum status status = listen_count(max, &handed, err);
    if (status == STATUS_OK)
        status = listen_take(fds, handed, err);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    if (status == STATUS_OK)
        *count = (uint32_t)handed;
    return status;
}

/* ---- notices ---- */

/* An abstract name is after a zero byte and has no terminator: its length says where it ends. */
static enum status notify_address(const char *name, struct sockaddr_un *address, socklen_t *length,
                                  struct error *err)
{
    size_t bytes = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || bytes < 2)
        return error_set(err, STATUS_INVALID, "NOTIFY_SOCKET=%s: neither a path nor @NAME", name);
    if (bytes >= sizeof(address->sun_path))
        return error_set(err, STATUS_INVALID, "NOTIFY_SOCKET=%s: %zu bytes, at most %zu fit", name,
                         bytes, sizeof(address->sun_path) - 1);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, name, bytes);
    if (name[0] == '@')
        address->sun_path[0] = '\0';
    *length =
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes + (name[0] == '/' ? 1 : 0));
    return STATUS_OK;
}

static enum status notify_send(const char *name, const char *state, struct error *err)
{
    struct sockaddr_un address;
    socklen_t length = 0;
    const struct timeval patience = {.tv_sec = NOTIFY_WAIT_S};
    enum status status = notify_address(name, &address, &length, err);
    if (status != STATUS_OK)
        return status;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set_os(err, errno, "NOTIFY_SOCKET=%s: cannot create a socket", name);
    ssize_t sent = -1;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0)
        do
            sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&address,
                          length);
        while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno == EAGAIN)
        status = error_set(err, STATUS_TIMEOUT, "NOTIFY_SOCKET=%s: its queue stayed full for %d s",
                           name, (int)NOTIFY_WAIT_S);
    else if (sent < 0)
        status = error_set_os(err, errno, "NOTIFY_SOCKET=%s: cannot send", name);
    close(fd);
    return status;
}

enum status supervisor_notify(const char *state, struct error *err)
{
    const char *name = getenv("NOTIFY_SOCKET");
    if (!*state)
        return error_set(err, STATUS_INVALID, "the service manager cannot be told nothing");
    if (!name || !*name)
        return STATUS_OK;
    return notify_send(name, state, err);
}

enum status supervisor_notify_reloading(struct error *err)
{
    char state[64];
    snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
             clock_monotonic_ns() / 1000);
    return supervisor_notify(state, err);
}

uint64_t supervisor_watchdog_ns(void)
{
    const uint64_t half_ns = 500; /* of a microsecond */
    const char *usec = getenv("WATCHDOG_USEC");
    const char *pid = getenv("WATCHDOG_PID");
    uint64_t interval = 0, number = 0;
    if (!usec || !number_parse(usec, UINT64_MAX / half_ns, &interval))
        return 0;
    if (pid && (!number_parse(pid, INT_MAX, &number) || number != (uint64_t)getpid()))
        return 0;
    return interval * half_ns;
}
