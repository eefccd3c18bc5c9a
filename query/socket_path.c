/*
 * socket_path.c - see socket_path.h. Owns bind(2), listen(2) and the fate of the socket file.
 *
 * A daemon that was killed leaves its socket file, which bind(2) then refuses with EADDRINUSE
 * whether or not anyone listens; only connect(2) tells the two apart (ECONNREFUSED: nobody). Probe,
 * unlink, bind and listen are one step under the directory lock, because a socket that is bound but
 * not yet listening looks stale to another starter.
 */
#include "query/socket_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    LOCK_ATTEMPTS = 50,
    LOCK_WAIT_MS = 20, /* a holder needs well under one; 50 * 20 ms covers a stopped one's resume */
    SOCKET_MODE = 0600,
};

enum status socket_path_address(const char *path, struct sockaddr_un *out, struct error *err)
{
    size_t length = strlen(path);
    if (length == 0)
        return error_set(err, STATUS_INVALID, "socket path is empty");
    if (length > SOCKET_PATH_MAX)
        return error_set(err, STATUS_INVALID,
                         "%s: a socket path has at most %d bytes, this one %zu", path,
                         (int)SOCKET_PATH_MAX, length);
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(out->sun_path, path, length + 1);
    return STATUS_OK;
}

/* "a/b/sock" -> "a/b", "sock" -> ".", "/sock" -> "/". */
static void directory_of(const char *path, char directory[SOCKET_PATH_MAX + 2])
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(directory, SOCKET_PATH_MAX + 2, ".");
    else if (slash == path)
        snprintf(directory, SOCKET_PATH_MAX + 2, "/");
    else
        snprintf(directory, SOCKET_PATH_MAX + 2, "%.*s", (int)(slash - path), path);
}

static enum status directory_open(const char *path, int *out, struct error *err)
{
    char directory[SOCKET_PATH_MAX + 2];
    directory_of(path, directory);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return error_set(err, STATUS_NOT_FOUND, "%s: directory %s does not exist", path, directory);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot open directory %s", path, directory);
    *out = fd;
    return STATUS_OK;
}

static enum status directory_lock(const char *path, int fd, struct error *err)
{
    for (int attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return STATUS_OK;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return error_set_os(err, errno, "%s: cannot lock its directory", path);
        nanosleep(&(struct timespec){.tv_nsec = LOCK_WAIT_MS * 1000000L}, NULL);
    }
    return error_set(err, STATUS_BUSY, "%s: another process keeps its directory locked", path);
}

/* Somebody listens at the address, nobody does, or it cannot be told (an error). */
static enum status socket_probe(const struct sockaddr_un *address, bool *live, struct error *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot create a socket", address->sun_path);
    int result = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    int why = errno;
    close(fd);
    if (result == 0 || why == EAGAIN) /* EAGAIN: its backlog is full */
        *live = true;
    else if (why == ECONNREFUSED)
        *live = false;
    else
        return error_set_os(err, why, "%s: a socket is there and cannot be probed",
                            address->sun_path);
    return STATUS_OK;
}

/* The path is free (*stale = false) or holds a socket nobody listens on (*stale = true). */
static enum status path_check(const struct sockaddr_un *address, bool *stale, struct error *err)
{
    const char *path = address->sun_path;
    struct stat found;
    *stale = false;
    if (lstat(path, &found) != 0) {
        if (errno == ENOENT)
            return STATUS_OK;
        return error_set_os(err, errno, "%s: cannot examine the path", path);
    }
    if (!S_ISSOCK(found.st_mode))
        return error_set(err, STATUS_EXISTS, "%s: exists and is not a socket", path);
    bool live = false;
    enum status status = socket_probe(address, &live, err);
    if (status != STATUS_OK)
        return status;
    if (live)
        return error_set(err, STATUS_EXISTS, "%s: in use, a daemon is listening there", path);
    *stale = true;
    return STATUS_OK;
}

enum status socket_path_probe(const char *path, struct error *err)
{
    struct sockaddr_un address;
    int directory = -1;
    enum status status = socket_path_address(path, &address, err);
    if (status != STATUS_OK)
        return status;
    status = directory_open(path, &directory, err);
    if (status != STATUS_OK)
        return status;
    bool stale = false;
    status = path_check(&address, &stale, err);
    close(directory);
    return status;
}

/* bind + listen with the directory locked and the path free. */
static enum status bind_and_listen(const struct sockaddr_un *address, int backlog,
                                   struct socket_path *out, struct error *err)
{
    const char *path = address->sun_path;
    bool bound = false;
    struct stat made;
    enum status status = STATUS_OK;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot create a socket", path);

    mode_t before = umask(0777 & ~SOCKET_MODE);
    int result = bind(fd, (const struct sockaddr *)address, sizeof(*address));
    int why = errno;
    umask(before);
    if (result != 0) {
        status = error_set_os(err, why, "%s: cannot bind", path);
        goto out;
    }
    bound = true;
    if (lstat(path, &made) != 0) {
        status = error_set_os(err, errno, "%s: cannot examine the new socket", path);
        goto out;
    }
    if (listen(fd, backlog) != 0) {
        status = error_set_os(err, errno, "%s: cannot listen", path);
        goto out;
    }
    *out = (struct socket_path){.fd = fd, .device = made.st_dev, .inode = made.st_ino};
    memcpy(out->path, path, sizeof(out->path));
    return STATUS_OK;
out:
    if (bound)
        unlink(path);
    close(fd);
    return status;
}

enum status socket_path_listen(const char *path, int backlog, struct socket_path *out,
                               struct error *err)
{
    struct sockaddr_un address;
    int directory = -1;
    bool stale = false;
    enum status status = socket_path_address(path, &address, err);
    if (status != STATUS_OK)
        return status;
    status = directory_open(path, &directory, err);
    if (status != STATUS_OK)
        return status;
    status = directory_lock(path, directory, err);
    if (status != STATUS_OK)
        goto out;
    status = path_check(&address, &stale, err);
    if (status != STATUS_OK)
        goto out;
    if (stale && unlink(path) != 0 && errno != ENOENT) {
        status = error_set_os(err, errno, "%s: cannot remove a stale socket", path);
        goto out;
    }
    status = bind_and_listen(&address, backlog, out, err);
out:
    close(directory); /* and with it the lock */
    return status;
}

void socket_path_close(struct socket_path *self)
{
    if (self->fd < 0)
        return;
    /* The lock keeps a successor from replacing the file between the look and the unlink. Without
     * it (directory gone or held) the look alone decides. */
    int directory = -1;
    enum status locked = directory_open(self->path, &directory, NULL);
    if (locked == STATUS_OK)
        locked = directory_lock(self->path, directory, NULL);
    (void)locked;
    struct stat found;
    if (lstat(self->path, &found) == 0 && S_ISSOCK(found.st_mode) && found.st_dev == self->device &&
        found.st_ino == self->inode)
        unlink(self->path);
    if (directory >= 0)
        close(directory);
    close(self->fd);
    self->fd = -1;
}
