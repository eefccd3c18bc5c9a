/*
 * socket_path.h - a Unix socket's place in the file system: naming, binding and removing it safely.
 *
 * Starts of several daemons in one directory exclude each other by a lock on the directory itself,
 * held while the path is probed, replaced and listened on; so of two daemons on one path exactly
 * one gets it. The socket is made in a private directory beside its place and moved there when it
 * has its owner and mode and is listened on: nobody ever sees an unfinished one, and a stale one is
 * replaced in one step. A start that is killed may leave its private directory; the next start in
 * the same place removes it.
 *
 * Who can change a name on the way to the socket can put a socket of their own there. So a symbolic
 * link in the path is refused, and so is a directory on it that everyone may write, unless it is
 * sticky as /tmp is. What lies above the current directory is not looked at for a relative path.
 *
 * Binding goes by /proc/self/fd, which must be mounted; there the socket's own name, as `ss -x`
 * shows it, ends like the path's last component and begins with /proc/self/fd/N.
 *
 * Thread-safe for distinct objects. Nothing here changes the umask or the current directory.
 */
#ifndef NIGHTJAR_QUERY_SOCKET_PATH_H
#define NIGHTJAR_QUERY_SOCKET_PATH_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "common/error.h"

/* Longest path, without its terminator, that the kernel takes. */
enum { SOCKET_PATH_MAX = sizeof(((struct sockaddr_un *)0)->sun_path) - 1 };

enum { SOCKET_PATH_MODE = 0600 };
#define SOCKET_PATH_GROUP_KEPT ((gid_t)-1)

/* Who may connect: those who may write the socket. */
struct socket_path_options {
    mode_t mode; /* permission bits; 0: SOCKET_PATH_MODE */
    gid_t group; /* SOCKET_PATH_GROUP_KEPT: the one a new file gets there */
};

/* A listening socket and the file it made. Embedded by its owner; fd < 0 when closed. */
struct socket_path {
    int fd;                         /* non-blocking, close-on-exec */
    char path[SOCKET_PATH_MAX + 1]; /* "" when adopted: the file is not ours */
    uint64_t device, inode;
};

/* Fills an address. STATUS_INVALID, with both lengths, for an empty or too long path. */
NODISCARD enum status socket_path_address(const char *path, struct sockaddr_un *out,
                                          struct error *err);

/* Whether socket_path_listen() would succeed now, without changing anything: to fail before an
 * index is loaded. Same statuses, but for the group and the mode, which are not looked at. */
NODISCARD enum status socket_path_probe(const char *path, struct error *err);

/* Binds and listens at `path`, with mode and group of `options` (NULL: mode 0600, group kept) from
 * the moment it is there. A socket nobody listens on is replaced. STATUS_EXISTS: somebody listens
 * there, or it is not a socket; STATUS_NOT_FOUND: its directory is missing; STATUS_INVALID: a
 * symbolic link or a directory that everyone may write is on the way (see above), or the mode is
 * none; STATUS_BUSY: another start held the directory's lock for a second; STATUS_IO: the rest, a
 * group that the caller may not give it to among it. On failure *out is not written and nothing is
 * left, but a stale socket. */
NODISCARD enum status socket_path_listen(const char *path,
                                         const struct socket_path_options *options, int backlog,
                                         struct socket_path *out, struct error *err);

/* Takes over a socket that a service manager bound and listens on, which becomes non-blocking and
 * close-on-exec. STATUS_INVALID: not a Unix stream socket that listens; `fd` is then still the
 * caller's. */
NODISCARD enum status socket_path_adopt(int fd, struct socket_path *out, struct error *err);

/* Closes, and removes the file if it is still the one that was made; that of an adopted socket
 * stays. Does nothing when closed. */
void socket_path_close(struct socket_path *self);

#endif
