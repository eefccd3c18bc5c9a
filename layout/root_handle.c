/*
 * root_handle.c - a root directory that a command works on: its lock, the link `current`, the
 * generations in it by name. See root_internal.h.
 *
 * The lock is a file of its own that is never removed: a lock on a file that others may replace
 * would not keep two holders apart. A symbolic link is replaced by renaming a new one over it,
 * which the kernel does atomically; the lock keeps two from using the temporary name at a time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_io.h"
#include "layout/publish.h"
#include "layout/root_internal.h"

#define TEMPORARY_LINK_NAME PUBLISH_LINK_NAME ".tmp"

enum status root_open(const char *path, struct root_handle *out, struct error *err)
{
    *out = (struct root_handle){.path = path, .lock = {.fd = -1}};
    out->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->fd >= 0)
        return STATUS_OK;
    if (errno == ENOENT)
        return error_set(err, STATUS_NOT_FOUND, "%s: no such directory", file_label(path));
    if (errno == ENOTDIR)
        return error_set(err, STATUS_INVALID, "%s: not a directory", file_label(path));
    return error_set_os(err, errno, "%s: cannot open", file_label(path));
}

enum status root_lock(struct root_handle *root, struct error *err)
{
    enum status status = store_open(&root->lock, root->fd, root->path, ROOT_LOCK_NAME, err);
    if (status != STATUS_OK)
        return status;
    int locked;
    do {
        locked = flock(root->lock.fd, LOCK_EX);
    } while (locked != 0 && errno == EINTR);
    if (locked == 0)
        return STATUS_OK;
    status = error_set_os(err, errno, "%s/%s: cannot lock", file_label(root->path), ROOT_LOCK_NAME);
    root_unlock(root);
    return status;
}

void root_unlock(struct root_handle *root)
{
    if (root->lock.fd >= 0)
        close(root->lock.fd);
    root->lock.fd = -1;
}

void root_close(struct root_handle *root)
{
    root_unlock(root);
    close(root->fd);
}

bool root_name_valid(const char *name)
{
    static const char *const ours[] = {
        ".",
        "..",
        PUBLISH_LINK_NAME,
        TEMPORARY_LINK_NAME,
        ROOT_LOCK_NAME,
        ROOT_HISTORY_NAME,
        ROOT_HISTORY_NAME ".tmp",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(ours); i++)
        if (strcmp(name, ours[i]) == 0)
            return false;
    return name[0] != '\0' && !strchr(name, '/') && strlen(name) <= NAME_MAX &&
           strncmp(name, ROOT_REMOVING_PREFIX, strlen(ROOT_REMOVING_PREFIX)) != 0;
}

enum status root_entry_open(const struct root_handle *root, const char *name,
                            struct generation **out, struct error *err)
{
    struct stat info;
    if (fstatat(root->fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return error_set(err, STATUS_NOT_FOUND, "%s/%s: no such generation",
                             file_label(root->path), name);
        return error_set_os(err, errno, "%s/%s: cannot stat", file_label(root->path), name);
    }
    if (!S_ISDIR(info.st_mode))
        return error_set(err, STATUS_INVALID, "%s/%s: not a directory", file_label(root->path),
                         name);
    char *path;
    if (asprintf(&path, "%s/%s", root->path, name) < 0)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(root->path));
    enum status status = generation_open(path, out, err);
    free(path);
    return status;
}

enum status root_link_read(const struct root_handle *root, char name[NAME_MAX + 2],
                           struct error *err)
{
    const char *label = file_label(root->path);
    ssize_t length = readlinkat(root->fd, PUBLISH_LINK_NAME, name, NAME_MAX + 1);
    if (length < 0 && errno == ENOENT)
        return error_set(err, STATUS_NOT_FOUND, "%s: nothing is published (no \"%s\" link)", label,
                         PUBLISH_LINK_NAME);
    if (length < 0 && errno == EINVAL)
        return error_set(err, STATUS_INVALID, "%s/%s: is not a symbolic link", label,
                         PUBLISH_LINK_NAME);
    if (length < 0)
        return error_set_os(err, errno, "%s/%s: cannot read", label, PUBLISH_LINK_NAME);
    name[length] = '\0';
    if (!root_name_valid(name))
        return error_set(err, STATUS_INVALID,
                         "%s/%s: points to \"%.64s\", want a directory in %s itself", label,
                         PUBLISH_LINK_NAME, name, label);
    return STATUS_OK;
}

enum status root_link_check(const struct root_handle *root, struct error *err)
{
    struct stat info;
    const char *label = file_label(root->path);
    if (fstatat(root->fd, PUBLISH_LINK_NAME, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return STATUS_OK;
        return error_set_os(err, errno, "%s/%s: cannot stat", label, PUBLISH_LINK_NAME);
    }
    if (!S_ISLNK(info.st_mode))
        return error_set(err, STATUS_INVALID, "%s/%s: is not a symbolic link; move it away first",
                         label, PUBLISH_LINK_NAME);
    return STATUS_OK;
}

enum status root_link_swap(const struct root_handle *root, const char *name, struct error *err)
{
    /* Of a publisher that was killed here. */
    enum status status = store_remove_file(root->fd, root->path, TEMPORARY_LINK_NAME, err);
    if (status == STATUS_OK)
        status = store_symlink(root->fd, root->path, name, TEMPORARY_LINK_NAME, err);
    if (status == STATUS_OK)
        status = store_rename(root->fd, root->path, TEMPORARY_LINK_NAME, PUBLISH_LINK_NAME, err);
    if (status != STATUS_OK) {
        unlinkat(root->fd, TEMPORARY_LINK_NAME, 0); /* if this fails too, the next one does it */
        return status;
    }
    return store_sync_directory(root->fd, root->path, err);
}

enum status root_each_entry(int directory_fd, const char *path, root_entry_fn on_entry,
                            void *context, struct error *err)
{
    /* A descriptor of its own: a dup would share the read position. */
    int fd = openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory) {
        int os_error = errno;
        if (fd >= 0)
            close(fd);
        return error_set_os(err, os_error, "%s: cannot list", file_label(path));
    }
    enum status status = STATUS_OK;
    while (status == STATUS_OK) {
        errno = 0; /* what the last call left in it is not readdir's */
        const struct dirent *entry = readdir(directory);
        if (!entry && errno != 0)
            status = error_set_os(err, errno, "%s: cannot list", file_label(path));
        if (!entry)
            break;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            status = on_entry(context, entry, err);
    }
    closedir(directory);
    return status;
}
