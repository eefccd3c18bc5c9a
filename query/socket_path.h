/*
 * socket_path.h - a Unix socket's place in the file system: naming, binding and removing it safely.
 *
 * Starts of several daemons in one directory exclude each other by a lock on the directory itself,
 * held while the path is probed, replaced and listened on; so of two daemons on one path exactly
 * one gets it, and nothing but the socket is ever left behind.
 */
#ifndef NIGHTJAR_QUERY_SOCKET_PATH_H
#define NIGHTJAR_QUERY_SOCKET_PATH_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/error.h"

/* Longest path, without its terminator, that the kernel takes. */
enum { SOCKET_PATH_MAX = sizeof(((struct sockaddr_un *)0)->sun_path) - 1 };

/* A listening socket and the file it made. Embedded by its owner; fd < 0 when closed. */
struct socket_path {
    int fd; /* non-blocking, close-on-exec */
    char path[SOCKET_PATH_MAX + 1];
    uint64_t device, inode;
};

/* Fills an address. STATUS_INVALID, with both lengths, for an empty or too long path. */
NODISCARD enum status socket_path_address(const char *path, struct sockaddr_un *out,
                                          struct error *err);

/* Whether socket_path_listen() would succeed now, without changing anything: to fail before an
 * index is loaded. Same statuses. */
NODISCARD enum status socket_path_probe(const char *path, struct error *err);

/* Binds and listens at `path`, mode 0600 from the moment it exists. A socket nobody listens on is
 * replaced. STATUS_EXISTS: somebody listens there, or it is not a socket; STATUS_NOT_FOUND: its
 * directory is missing; STATUS_BUSY: another start held the directory's lock for a second. Sets the
 * umask for a moment, so no other thread may create files meanwhile. */
NODISCARD enum status socket_path_listen(const char *path, int backlog, struct socket_path *out,
                                         struct error *err);

/* Closes, and removes the file if it is still the one that was made. Does nothing when closed. */
void socket_path_close(struct socket_path *self);

#endif
