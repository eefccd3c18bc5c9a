/*
 * file_io.c - regular-file input with exact reads, and output that appears whole or not at all.
 *
 * Inputs are opened with O_NONBLOCK before their kind is known, because opening a FIFO would
 * otherwise wait for a writer. Reads are pread, so any number of threads share a descriptor. An
 * output belongs to one thread.
 */
#include "common/file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"

enum {
    LABEL_BYTES_MAX = 200,
    OUTPUT_BUFFER_BYTES = 1 << 20, /* large enough that a write(2) costs nothing per byte */
    IO_BYTES_MAX = 1 << 30,        /* Linux moves at most 2 GB less a page in one call */
    TEMPORARY_TRIES = 16,
};

const char *file_label(const char *path)
{
    size_t length = strlen(path);
    return length > LABEL_BYTES_MAX ? path + length - LABEL_BYTES_MAX : path;
}

bool file_has_suffix(const char *path, const char *suffix)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t length = strlen(name), suffix_length = strlen(suffix);
    return length > suffix_length && strcmp(name + length - suffix_length, suffix) == 0;
}

static const char *kind_words(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "a directory";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    case S_IFCHR:
    case S_IFBLK:
        return "a device";
    default:
        return "of another kind";
    }
}

enum status file_open_input(const char *path, int *fd, uint64_t *bytes, struct error *err)
{
    int opened;
    do {
        opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    } while (opened < 0 && errno == EINTR);
    if (opened < 0 && errno == ENOENT)
        return error_set(err, STATUS_NOT_FOUND, "%s: no such file", file_label(path));
    if (opened < 0 && errno == ENXIO)
        return error_set(err, STATUS_INVALID,
                         "%s: is a socket or an absent device, wanted a "
                         "regular file",
                         file_label(path));
    if (opened < 0)
        return error_set_os(err, errno, "%s: cannot open", file_label(path));

    struct stat info;
    if (fstat(opened, &info) != 0) {
        int os_error = errno;
        close(opened);
        return error_set_os(err, os_error, "%s: cannot stat", file_label(path));
    }
    if (!S_ISREG(info.st_mode)) {
        close(opened);
        return error_set(err, STATUS_INVALID, "%s: is %s, wanted a regular file", file_label(path),
                         kind_words(info.st_mode));
    }
    *fd = opened;
    *bytes = (uint64_t)info.st_size;
    return STATUS_OK;
}

enum status file_read_at(int fd, const char *path, void *buffer, size_t bytes, uint64_t offset,
                         struct error *err)
{
    uint8_t *p = buffer;
    while (bytes > 0) {
        ssize_t got = pread(fd, p, MIN(bytes, (size_t)IO_BYTES_MAX), (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set_os(err, errno, "%s: cannot read %zu bytes at offset %" PRIu64,
                                file_label(path), bytes, offset);
        if (got == 0)
            return error_set(err, STATUS_CORRUPT,
                             "%s: ends at offset %" PRIu64 ", %zu bytes short: truncated while "
                             "being read",
                             file_label(path), offset, bytes);
        p += got;
        bytes -= (size_t)got;
        offset += (uint64_t)got;
    }
    return STATUS_OK;
}

/* The name is unlikely to be taken: pid and clock are in it. O_EXCL settles the rest. */
static enum status create_temporary(struct file_output *self, struct error *err)
{
    for (int i = 0; i < TEMPORARY_TRIES; i++) {
        free(self->temporary);
        self->temporary = NULL;
        char *name;
        if (asprintf(&name, "%s.tmp-%ld-%" PRIx64, self->path, (long)getpid(),
                     clock_monotonic_ns()) < 0)
            return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(self->path));
        self->fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (self->fd >= 0) {
            self->temporary = name;
            return STATUS_OK;
        }
        int os_error = errno;
        free(name);
        if (os_error != EEXIST && os_error != EINTR)
            return error_set_os(err, os_error, "%s: cannot create", file_label(self->path));
    }
    return error_set(err, STATUS_EXISTS, "%s: no free temporary name beside it",
                     file_label(self->path));
}

enum status file_output_open(struct file_output *self, const char *path, uint64_t total_bytes,
                             struct error *err)
{
    *self = (struct file_output){.fd = -1};
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return error_set(err, STATUS_EXISTS, "%s: exists and is %s, wanted a regular file or none",
                         file_label(path), kind_words(info.st_mode));
    self->path = strdup(path);
    self->buffer = malloc(OUTPUT_BUFFER_BYTES);
    enum status status;
    if (!self->path || !self->buffer)
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    else
        status = create_temporary(self, err);
    /* Only a refusal for want of room counts: some file systems cannot reserve. */
    if (status == STATUS_OK && total_bytes > 0 && total_bytes <= INT64_MAX &&
        fallocate(self->fd, 0, 0, (off_t)total_bytes) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
        status = error_set_os(err, errno, "%s: cannot reserve %" PRIu64 " bytes", file_label(path),
                              total_bytes);
    if (status != STATUS_OK)
        file_output_abort(self);
    return status;
}

static enum status write_all(struct file_output *self, const uint8_t *data, size_t bytes,
                             struct error *err)
{
    while (bytes > 0) {
        ssize_t put = write(self->fd, data, MIN(bytes, (size_t)IO_BYTES_MAX));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return error_set_os(err, put < 0 ? errno : EIO, "%s: cannot write",
                                file_label(self->path));
        data += put;
        bytes -= (size_t)put;
    }
    return STATUS_OK;
}

enum status file_output_write(struct file_output *self, const void *data, size_t bytes,
                              struct error *err)
{
    const uint8_t *p = data;
    while (bytes > 0) {
        size_t part = MIN(bytes, (size_t)OUTPUT_BUFFER_BYTES - self->buffered);
        memcpy(self->buffer + self->buffered, p, part);
        self->buffered += part;
        p += part;
        bytes -= part;
        if (self->buffered == OUTPUT_BUFFER_BYTES) {
            enum status status = write_all(self, self->buffer, self->buffered, err);
            if (status != STATUS_OK)
                return status;
            self->buffered = 0;
        }
    }
    return STATUS_OK;
}

/* Makes the rename itself survive a power cut. Some file systems refuse to fsync a directory
 * (EINVAL); there is nothing more to do on those. */
static enum status sync_directory(const char *path, struct error *err)
{
    const char *slash = strrchr(path, '/');
    char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    if (!directory)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    enum status status = STATUS_OK;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        status = error_set_os(err, errno, "%s: cannot sync the directory", file_label(directory));
    if (fd >= 0)
        close(fd);
    free(directory);
    return status;
}

static void release(struct file_output *self)
{
    free(self->buffer);
    free(self->temporary);
    free(self->path);
    *self = (struct file_output){.fd = -1};
}

enum status file_output_commit(struct file_output *self, struct error *err)
{
    enum status status = write_all(self, self->buffer, self->buffered, err);
    if (status != STATUS_OK)
        return status;
    self->buffered = 0;
    if (fsync(self->fd) != 0)
        return error_set_os(err, errno, "%s: cannot sync", file_label(self->path));
    int fd = self->fd;
    self->fd = -1;
    if (close(fd) != 0 && errno != EINTR)
        return error_set_os(err, errno, "%s: cannot close", file_label(self->path));
    if (rename(self->temporary, self->path) != 0)
        return error_set_os(err, errno, "%s: cannot rename the finished file to it",
                            file_label(self->path));
    free(self->temporary);
    self->temporary = NULL;
    status = sync_directory(self->path, err);
    if (status == STATUS_OK)
        release(self);
    return status;
}

void file_output_abort(struct file_output *self)
{
    if (self->fd >= 0)
        close(self->fd);
    if (self->temporary)
        unlink(self->temporary);
    release(self);
}
