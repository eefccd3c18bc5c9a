/*
 * socket_path.c - see socket_path.h. Owns bind(2), listen(2) and the fate of the socket file.
 *
 * A daemon that was killed leaves its socket file, and only connect(2) tells whether anyone listens
 * on it (ECONNREFUSED: nobody). Probe, bind, listen and move are one step under the directory lock,
 * which also tells a private directory that is left over from one in use: nobody else holds the
 * lock.
 *
 * The directory is opened component by component, and everything after is relative to that
 * descriptor, so what was checked is what is used. bind(2) and connect(2) have no form that takes a
 * descriptor; /proc/self/fd/N does, and is short however long the path.
 */
#include "query/socket_path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    LOCK_ATTEMPTS = 50,
    LOCK_WAIT_MS = 20, /* a holder needs well under one; 50 * 20 ms covers a stopped one's resume */
    NEST_ATTEMPTS = 16,
    NEST_RANDOM = 6, /* characters */
    NAME_SHOWN = 64, /* of the path's last component, in the name that the socket is bound by */
    MODE_BITS = 0777,
};

static const char nest_prefix[] = ".nightjar-";

/* Where a socket is or will be. */
struct place {
    const char *path;
    const char *name; /* its last component; points into path */
    int directory;    /* the one that holds it, or -1 */
};

/* The private directory in which a socket is made. */
struct nest {
    int fd;
    char name[sizeof(nest_prefix) + NEST_RANDOM];
    char socket[NAME_SHOWN + 1]; /* the socket's name in it */
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

/* ---- the directory ---- */

/* The first `length` bytes of the path name a link. Its remedy is the path that has none. */
static enum status link_refuse(const struct place *place, int length, struct error *err)
{
    char directory[SOCKET_PATH_MAX + 1];
    snprintf(directory, sizeof(directory), "%.*s", (int)(place->name - place->path), place->path);
    char *real = realpath(directory, NULL);
    if (real)
        error_set(err, STATUS_INVALID,
                  "%.*s: a symbolic link in the socket's path: give the real path, %s%s%s", length,
                  place->path, real, strcmp(real, "/") == 0 ? "" : "/", place->name);
    else
        error_set(err, STATUS_INVALID,
                  "%.*s: a symbolic link in the socket's path: give the real path", length,
                  place->path);
    free(real);
    return STATUS_INVALID;
}

/* Nobody but its owner and its group may rename what is in the directory. */
static enum status directory_check(const struct place *place, int fd, int length, struct error *err)
{
    struct stat found;
    const char *shown = length > 0 ? place->path : ".";
    int shown_length = length > 0 ? length : 1;
    if (fstat(fd, &found) != 0)
        return error_set_os(err, errno, "%s: cannot examine directory %.*s", place->path,
                            shown_length, shown);
    if ((found.st_mode & S_IWOTH) && !(found.st_mode & S_ISVTX))
        return error_set(err, STATUS_INVALID,
                         "%s: everyone may write directory %.*s and put a socket there: take that "
                         "right away (chmod o-w) or make it sticky (chmod +t)",
                         place->path, shown_length, shown);
    return STATUS_OK;
}

/* Goes on from directory *fd to its entry that ends at byte `end` of the path. */
static enum status directory_enter(const struct place *place, size_t begin, size_t end, int *fd,
                                   struct error *err)
{
    char component[SOCKET_PATH_MAX + 1];
    struct stat found;
    snprintf(component, sizeof(component), "%.*s", (int)(end - begin), place->path + begin);
    int next = openat(*fd, component, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int why = errno;
    if (next >= 0) {
        close(*fd);
        *fd = next;
        return directory_check(place, next, (int)end, err);
    }
    if ((why == ENOTDIR || why == ELOOP) &&
        fstatat(*fd, component, &found, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(found.st_mode))
        return link_refuse(place, (int)end, err);
    if (why == ENOENT || why == ENOTDIR)
        return error_set(err, STATUS_NOT_FOUND, "%s: directory %.*s does not exist", place->path,
                         (int)end, place->path);
    return error_set_os(err, why, "%s: cannot open directory %.*s", place->path, (int)end,
                        place->path);
}

/* Opens the directory of place->path for reading, which is what a lock and a listing need. */
static enum status directory_open(struct place *place, struct error *err)
{
    const char *path = place->path;
    bool absolute = path[0] == '/';
    int fd = open(absolute ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot open directory %s", path, absolute ? "/" : ".");
    enum status status = directory_check(place, fd, absolute, err);
    size_t begin = strspn(path, "/"), stop = (size_t)(place->name - path);
    while (status == STATUS_OK && begin < stop) {
        size_t end = begin + strcspn(path + begin, "/");
        status = directory_enter(place, begin, end, &fd, err);
        begin = end + strspn(path + end, "/");
    }
    if (status == STATUS_OK) {
        place->directory = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (place->directory < 0)
            status = error_set_os(err, errno, "%s: cannot open its directory", path);
    }
    close(fd);
    return status;
}

static enum status place_open(const char *path, struct place *place, struct error *err)
{
    struct sockaddr_un address;
    *place = (struct place){.path = path, .directory = -1};
    enum status status = socket_path_address(path, &address, err);
    if (status != STATUS_OK)
        return status;
    const char *slash = strrchr(path, '/');
    place->name = slash ? slash + 1 : path;
    if (!*place->name)
        return error_set(err, STATUS_INVALID, "%s: names a directory, not a socket", path);
    return directory_open(place, err);
}

static void place_close(struct place *place)
{
    if (place->directory >= 0)
        close(place->directory); /* and with it the lock */
}

static enum status directory_lock(const struct place *place, struct error *err)
{
    for (int attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
        if (flock(place->directory, LOCK_EX | LOCK_NB) == 0)
            return STATUS_OK;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return error_set_os(err, errno, "%s: cannot lock its directory", place->path);
        nanosleep(&(struct timespec){.tv_nsec = LOCK_WAIT_MS * 1000000L}, NULL);
    }
    return error_set(err, STATUS_BUSY, "%s: another process keeps its directory locked",
                     place->path);
}

/* ---- what is at the path ---- */

/* Somebody listens on the socket that `file` (O_PATH) is, nobody does, or it cannot be told. */
static enum status socket_probe(const char *path, int file, bool *live, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", file);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot create a socket", path);
    int result = connect(fd, (const struct sockaddr *)&address, sizeof(address));
    int why = errno;
    close(fd);
    if (result == 0 || why == EAGAIN) /* EAGAIN: its backlog is full */
        *live = true;
    else if (why == ECONNREFUSED)
        *live = false;
    else
        return error_set_os(err, why, "%s: a socket is there and cannot be probed by %s", path,
                            address.sun_path);
    return STATUS_OK;
}

/* The path is free (*stale = false) or holds a socket nobody listens on (*stale = true). */
static enum status path_check(const struct place *place, bool *stale, struct error *err)
{
    const char *path = place->path;
    struct stat found;
    bool live = false;
    *stale = false;
    int file = openat(place->directory, place->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0 && errno == ENOENT)
        return STATUS_OK;
    if (file < 0)
        return error_set_os(err, errno, "%s: cannot examine the path", path);
    enum status status = STATUS_OK;
    if (fstat(file, &found) != 0)
        status = error_set_os(err, errno, "%s: cannot examine the path", path);
    else if (!S_ISSOCK(found.st_mode))
        status = error_set(err, STATUS_EXISTS, "%s: exists and is not a socket", path);
    else
        status = socket_probe(path, file, &live, err);
    close(file);
    if (status != STATUS_OK)
        return status;
    if (live)
        return error_set(err, STATUS_EXISTS, "%s: in use, a daemon is listening there", path);
    *stale = file >= 0;
    return STATUS_OK;
}

enum status socket_path_probe(const char *path, struct error *err)
{
    struct place place;
    bool stale = false;
    enum status status = place_open(path, &place, err);
    if (status == STATUS_OK)
        status = path_check(&place, &stale, err);
    place_close(&place);
    return status;
}

/* ---- private directories ---- */

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

static bool is_nest_name(const char *name)
{
    size_t prefix = sizeof(nest_prefix) - 1;
    return strncmp(name, nest_prefix, prefix) == 0 && strlen(name) == prefix + NEST_RANDOM &&
           strspn(name + prefix, letters) == NEST_RANDOM;
}

/* A listing of its own: the descriptor's position stays. NULL when there is none. */
static DIR *directory_list(int directory)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
    if (!list && fd >= 0)
        close(fd);
    return list;
}

/* Empties a directory that holds one socket at most; anything more is not a nest's. */
static void nest_empty(int fd)
{
    struct stat found;
    char name[NAME_MAX + 1] = "";
    int entries = 0;
    DIR *list = directory_list(fd);
    if (!list)
        return;
    for (const struct dirent *entry; (entry = readdir(list)) != NULL && entries < 2;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        entries++;
        snprintf(name, sizeof(name), "%s", entry->d_name);
    }
    closedir(list);
    if (entries == 1 && fstatat(fd, name, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISSOCK(found.st_mode))
        unlinkat(fd, name, 0);
}

/* Removes what killed starts left. Called under the lock, so none of it is in use. What cannot be
 * removed stays: it harms nobody. */
static void leftovers_remove(const struct place *place)
{
    struct stat found;
    DIR *list = directory_list(place->directory);
    if (!list)
        return;
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        if (!is_nest_name(entry->d_name))
            continue;
        int fd =
            openat(place->directory, entry->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (fstat(fd, &found) == 0 && found.st_uid == geteuid()) {
            nest_empty(fd);
            unlinkat(place->directory, entry->d_name, AT_REMOVEDIR); /* only when empty */
        }
        close(fd);
    }
    closedir(list);
}

static enum status nest_create(const struct place *place, struct nest *nest, struct error *err)
{
    unsigned char random[NEST_RANDOM];
    int made = -1;
    snprintf(nest->socket, sizeof(nest->socket), "%.*s", NAME_SHOWN, place->name);
    for (int attempt = 0; made != 0 && attempt < NEST_ATTEMPTS; attempt++) {
        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
            return error_set_os(err, errno, "%s: cannot draw a random name", place->path);
        memcpy(nest->name, nest_prefix, sizeof(nest_prefix));
        for (size_t i = 0; i < NEST_RANDOM; i++)
            nest->name[sizeof(nest_prefix) - 1 + i] = letters[random[i] % (sizeof(letters) - 1)];
        nest->name[sizeof(nest_prefix) - 1 + NEST_RANDOM] = '\0';
        made = mkdirat(place->directory, nest->name, 0700);
        if (made != 0 && errno != EEXIST)
            break;
    }
    if (made != 0)
        return error_set_os(err, errno, "%s: cannot make a directory beside it", place->path);
    nest->fd = openat(place->directory, nest->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (nest->fd >= 0)
        return STATUS_OK;
    enum status status =
        error_set_os(err, errno, "%s: cannot open directory %s beside it", place->path, nest->name);
    unlinkat(place->directory, nest->name, AT_REMOVEDIR);
    return status;
}

/* What is not moved to its place goes with it. */
static void nest_remove(const struct place *place, const struct nest *nest)
{
    unlinkat(nest->fd, nest->socket, 0);
    close(nest->fd);
    unlinkat(place->directory, nest->name, AT_REMOVEDIR);
}

/* ---- listening ---- */

static enum status socket_bind(const struct place *place, const struct nest *nest, int fd,
                               struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _Static_assert(sizeof("/proc/self/fd/-2147483648/") + NAME_SHOWN <= SOCKET_PATH_MAX,
                   "a nest's socket always has an address");
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", nest->fd,
             nest->socket);
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
        return error_set_os(err, errno, "%s: cannot bind by %s", place->path, address.sun_path);
    return STATUS_OK;
}

/* The group first: a mode for it must not hold for another. */
static enum status socket_grant(const struct place *place, const struct nest *nest,
                                const struct socket_path_options *options, struct error *err)
{
    mode_t mode = options->mode ? options->mode : SOCKET_PATH_MODE;
    if (options->group != SOCKET_PATH_GROUP_KEPT &&
        fchownat(nest->fd, nest->socket, (uid_t)-1, options->group, AT_SYMLINK_NOFOLLOW) != 0)
        return error_set_os(err, errno, "%s: cannot give it to group %u", place->path,
                            (unsigned)options->group);
    if (fchmodat(nest->fd, nest->socket, mode, 0) != 0)
        return error_set_os(err, errno, "%s: cannot set mode %04o", place->path, (unsigned)mode);
    return STATUS_OK;
}

/* To its place, over a stale socket; but not over what came there since the look. */
static enum status socket_move(const struct place *place, const struct nest *nest, bool stale,
                               struct error *err)
{
    int result = renameat2(nest->fd, nest->socket, place->directory, place->name,
                           stale ? 0 : RENAME_NOREPLACE);
    if (result != 0 && !stale && errno == EINVAL) /* a file system that knows no such flag */
        result = renameat(nest->fd, nest->socket, place->directory, place->name);
    if (result == 0)
        return STATUS_OK;
    if (errno == EEXIST)
        return error_set(err, STATUS_EXISTS, "%s: something was just put there", place->path);
    return error_set_os(err, errno, "%s: cannot move a new socket there", place->path);
}

/* A finished socket at a path that was found free or stale, with the directory locked. */
static enum status socket_make(const struct place *place, const struct socket_path_options *options,
                               int backlog, struct socket_path *out, struct error *err)
{
    const char *path = place->path;
    struct nest nest = {.fd = -1};
    struct stat made;
    bool stale = false;
    enum status status = path_check(place, &stale, err);
    if (status != STATUS_OK)
        return status;
    leftovers_remove(place);
    status = nest_create(place, &nest, err);
    if (status != STATUS_OK)
        return status;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        status = error_set_os(err, errno, "%s: cannot create a socket", path);
    if (status == STATUS_OK)
        status = socket_bind(place, &nest, fd, err);
    if (status == STATUS_OK)
        status = socket_grant(place, &nest, options, err);
    if (status == STATUS_OK && fstatat(nest.fd, nest.socket, &made, AT_SYMLINK_NOFOLLOW) != 0)
        status = error_set_os(err, errno, "%s: cannot examine the new socket", path);
    if (status == STATUS_OK && listen(fd, backlog) != 0)
        status = error_set_os(err, errno, "%s: cannot listen", path);
    if (status == STATUS_OK)
        status = socket_move(place, &nest, stale, err);
    nest_remove(place, &nest);
    if (status != STATUS_OK) {
        if (fd >= 0)
            close(fd);
        return status;
    }
    *out = (struct socket_path){.fd = fd, .device = made.st_dev, .inode = made.st_ino};
    snprintf(out->path, sizeof(out->path), "%s", path);
    return STATUS_OK;
}

enum status socket_path_listen(const char *path, const struct socket_path_options *options,
                               int backlog, struct socket_path *out, struct error *err)
{
    const struct socket_path_options defaults = {.group = SOCKET_PATH_GROUP_KEPT};
    struct place place;
    if (!options)
        options = &defaults;
    if (options->mode & ~(mode_t)MODE_BITS)
        return error_set(err, STATUS_INVALID, "%s: mode %o is not one of permissions: at most 0777",
                         path, (unsigned)options->mode);
    enum status status = place_open(path, &place, err);
    if (status == STATUS_OK)
        status = directory_lock(&place, err);
    if (status == STATUS_OK)
        status = socket_make(&place, options, backlog, out, err);
    place_close(&place);
    return status;
}

/* ---- a socket that was handed over ---- */

static bool option_is(int fd, int option, int want)
{
    int value = 0;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 && value == want;
}

enum status socket_path_adopt(int fd, struct socket_path *out, struct error *err)
{
    struct stat found;
    if (fstat(fd, &found) != 0)
        return error_set(err, STATUS_INVALID, "descriptor %d: not open", fd);
    if (!S_ISSOCK(found.st_mode))
        return error_set(err, STATUS_INVALID, "descriptor %d: not a socket", fd);
    if (!option_is(fd, SO_DOMAIN, AF_UNIX) || !option_is(fd, SO_TYPE, SOCK_STREAM))
        return error_set(err, STATUS_INVALID, "descriptor %d: not a Unix stream socket", fd);
    if (!option_is(fd, SO_ACCEPTCONN, 1))
        return error_set(err, STATUS_INVALID, "descriptor %d: a socket that does not listen", fd);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return error_set_os(err, errno, "descriptor %d: cannot set its flags", fd);
    *out = (struct socket_path){.fd = fd};
    return STATUS_OK;
}

/* ---- closing ---- */

/* The lock keeps a successor from replacing the file between the look and the unlink. Where it is
 * held by others the look alone decides; where the directory is gone so is the file. */
static void file_remove(const struct socket_path *self)
{
    struct place place;
    struct stat found;
    if (place_open(self->path, &place, NULL) == STATUS_OK) {
        enum status locked = directory_lock(&place, NULL);
        (void)locked;
        if (fstatat(place.directory, place.name, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISSOCK(found.st_mode) && found.st_dev == self->device && found.st_ino == self->inode)
            unlinkat(place.directory, place.name, 0);
    }
    place_close(&place);
}

void socket_path_close(struct socket_path *self)
{
    if (self->fd < 0)
        return;
    if (self->path[0])
        file_remove(self);
    close(self->fd);
    self->fd = -1;
}
