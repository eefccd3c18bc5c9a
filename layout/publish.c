/*
 * publish.c - swapping ROOT/current. A symbolic link is replaced by renaming a new one over it,
 * which the kernel does atomically; a lock on the root directory keeps two publishers from using
 * the temporary name at a time. Stateless, thread-safe.
 */
#include "layout/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_io.h"
#include "layout/generation.h"
#include "layout/store.h"

#define TEMPORARY_LINK_NAME PUBLISH_LINK_NAME ".tmp"

/* A name that can be an entry of root and is not one of ours. */
static bool name_valid(const char *name)
{
    return name[0] != '\0' && !strchr(name, '/') && strlen(name) <= NAME_MAX &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           strcmp(name, PUBLISH_LINK_NAME) != 0 && strcmp(name, TEMPORARY_LINK_NAME) != 0;
}

static enum status root_open(const char *root, int *fd, struct error *err)
{
    *fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd >= 0)
        return STATUS_OK;
    if (errno == ENOENT)
        return error_set(err, STATUS_NOT_FOUND, "%s: no such directory", file_label(root));
    if (errno == ENOTDIR)
        return error_set(err, STATUS_INVALID, "%s: not a directory", file_label(root));
    return error_set_os(err, errno, "%s: cannot open", file_label(root));
}

/* ROOT/NAME is a directory of its own, not a link, and opens as a generation. */
static enum status entry_check(int root_fd, const char *root, const char *name, struct error *err)
{
    struct stat info;
    if (fstatat(root_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return error_set(err, STATUS_NOT_FOUND, "%s/%s: no such generation", file_label(root),
                             name);
        return error_set_os(err, errno, "%s/%s: cannot stat", file_label(root), name);
    }
    if (!S_ISDIR(info.st_mode))
        return error_set(err, STATUS_INVALID, "%s/%s: not a directory", file_label(root), name);
    char *path;
    if (asprintf(&path, "%s/%s", root, name) < 0)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(root));
    struct generation *generation = NULL;
    enum status status = generation_open(path, &generation, err);
    generation_close(generation);
    free(path);
    return status;
}

/* Renaming over anything but a link would destroy what someone put there. */
static enum status link_check(int root_fd, const char *root, struct error *err)
{
    struct stat info;
    if (fstatat(root_fd, PUBLISH_LINK_NAME, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return STATUS_OK;
        return error_set_os(err, errno, "%s/%s: cannot stat", file_label(root), PUBLISH_LINK_NAME);
    }
    if (!S_ISLNK(info.st_mode))
        return error_set(err, STATUS_INVALID, "%s/%s: is not a symbolic link; move it away first",
                         file_label(root), PUBLISH_LINK_NAME);
    return STATUS_OK;
}

static enum status link_swap(int root_fd, const char *root, const char *name, struct error *err)
{
    unlinkat(root_fd, TEMPORARY_LINK_NAME, 0); /* of a publisher that was killed here */
    enum status status = store_symlink(root_fd, root, name, TEMPORARY_LINK_NAME, err);
    if (status == STATUS_OK)
        status = store_rename(root_fd, root, TEMPORARY_LINK_NAME, PUBLISH_LINK_NAME, err);
    if (status != STATUS_OK) {
        unlinkat(root_fd, TEMPORARY_LINK_NAME, 0);
        return status;
    }
    return store_sync_directory(root_fd, root, err);
}

enum status publish_generation(const char *root, const char *name, struct error *err)
{
    if (!name_valid(name))
        return error_set(err, STATUS_INVALID,
                         "\"%s\" cannot name a generation: want the name of a directory in %s",
                         file_label(name), file_label(root));
    int root_fd;
    enum status status = root_open(root, &root_fd, err);
    if (status != STATUS_OK)
        return status;
    int locked;
    do {
        locked = flock(root_fd, LOCK_EX);
    } while (locked != 0 && errno == EINTR);
    if (locked != 0)
        status = error_set_os(err, errno, "%s: cannot lock", file_label(root));
    if (status == STATUS_OK)
        status = entry_check(root_fd, root, name, err);
    if (status == STATUS_OK)
        status = link_check(root_fd, root, err);
    if (status == STATUS_OK)
        status = link_swap(root_fd, root, name, err);
    close(root_fd); /* ends the lock */
    return status;
}

static enum status link_read(int root_fd, const char *root, char name[NAME_MAX + 2],
                             struct error *err)
{
    ssize_t length = readlinkat(root_fd, PUBLISH_LINK_NAME, name, NAME_MAX + 1);
    if (length < 0 && errno == ENOENT)
        return error_set(err, STATUS_NOT_FOUND, "%s: nothing is published (no \"%s\" link)",
                         file_label(root), PUBLISH_LINK_NAME);
    if (length < 0 && errno == EINVAL)
        return error_set(err, STATUS_INVALID, "%s/%s: is not a symbolic link", file_label(root),
                         PUBLISH_LINK_NAME);
    if (length < 0)
        return error_set_os(err, errno, "%s/%s: cannot read", file_label(root), PUBLISH_LINK_NAME);
    name[length] = '\0';
    if (!name_valid(name))
        return error_set(err, STATUS_INVALID,
                         "%s/%s: points to \"%.64s\", want a directory in %s itself",
                         file_label(root), PUBLISH_LINK_NAME, name, file_label(root));
    return STATUS_OK;
}

enum status publish_current(const char *root, char *path, size_t path_bytes, struct error *err)
{
    int root_fd;
    char name[NAME_MAX + 2];
    enum status status = root_open(root, &root_fd, err);
    if (status != STATUS_OK)
        return status;
    status = link_read(root_fd, root, name, err);
    struct stat info;
    if (status == STATUS_OK && fstatat(root_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        status = error_set(err, STATUS_NOT_FOUND, "%s/%s: points to \"%s\", which does not exist",
                           file_label(root), PUBLISH_LINK_NAME, name);
    /* A link to a link could lead anywhere. */
    else if (status == STATUS_OK && !S_ISDIR(info.st_mode))
        status = error_set(err, STATUS_INVALID, "%s/%s: points to \"%s\", which is no directory",
                           file_label(root), PUBLISH_LINK_NAME, name);
    close(root_fd);
    if (status != STATUS_OK)
        return status;
    int length = snprintf(NULL, 0, "%s/%s", root, name);
    if (length < 0 || (size_t)length >= path_bytes)
        return error_set(err, STATUS_INVALID, "%s/%s: the path is longer than %zu bytes",
                         file_label(root), name, path_bytes);
    snprintf(path, path_bytes, "%s/%s", root, name);
    return STATUS_OK;
}
