/*
 * store.c - see store.h. Why a seam at all: that a build survives a full or failing disk is claimed
 * for every single call, and only failing each of them in turn shows it.
 */
#include "layout/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_io.h"
#include "common/memory.h"

enum {
    IO_BYTES_MAX = 1 << 30, /* Linux moves at most 2 GB less a page in one call */
    DIRECT_ALIGNMENT = 4096,
    FILE_MODE = 0666, /* less the umask */
    DIRECTORY_MODE = 0777,
};

/* Set by tests only, before and after the calls they watch; release pairs with acquire so that the
 * struct it points to is seen whole by any thread. */
static _Atomic(const struct store_faults *) store_injected;

void store_inject(const struct store_faults *faults)
{
    atomic_store_explicit(&store_injected, faults, memory_order_release);
}

static int fault_before(enum store_call call)
{
    const struct store_faults *faults = atomic_load_explicit(&store_injected, memory_order_acquire);
    return faults ? faults->before(faults->context, call) : 0;
}

/* 0 or an errno value for a call that returns -1 on failure. */
static int outcome(int result)
{
    return result < 0 ? errno : 0;
}

/* ---- directories ---- */

enum status store_mkdir(int parent_fd, const char *name, const char *path, bool *created,
                        struct error *err)
{
    int fault = fault_before(STORE_CALL_MKDIR);
    if (fault == 0)
        fault = outcome(mkdirat(parent_fd, name, DIRECTORY_MODE));
    if (fault != 0 && fault != EEXIST)
        return error_set_os(err, fault, "%s: cannot create the directory", file_label(path));
    *created = fault == 0;
    return STATUS_OK;
}

enum status store_sync_directory(int directory_fd, const char *path, struct error *err)
{
    int fault = fault_before(STORE_CALL_SYNC);
    if (fault == 0)
        fault = outcome(fsync(directory_fd));
    if (fault != 0)
        return error_set_os(err, fault, "%s: cannot flush the directory to disk", file_label(path));
    return STATUS_OK;
}

enum status store_rename(int directory_fd, const char *directory, const char *from, const char *to,
                         struct error *err)
{
    int fault = fault_before(STORE_CALL_RENAME);
    if (fault == 0)
        fault = outcome(renameat(directory_fd, from, directory_fd, to));
    if (fault != 0)
        return error_set_os(err, fault, "%s/%s: cannot rename it to %s", file_label(directory),
                            from, to);
    return STATUS_OK;
}

enum status store_symlink(int directory_fd, const char *directory, const char *target,
                          const char *name, struct error *err)
{
    int fault = fault_before(STORE_CALL_SYMLINK);
    if (fault == 0)
        fault = outcome(symlinkat(target, directory_fd, name));
    if (fault != 0)
        return error_set_os(err, fault, "%s/%s: cannot create the symbolic link",
                            file_label(directory), name);
    return STATUS_OK;
}

static enum status remove_entry(int directory_fd, const char *directory, const char *name,
                                int flags, struct error *err)
{
    int fault = fault_before(STORE_CALL_REMOVE);
    if (fault == 0)
        fault = outcome(unlinkat(directory_fd, name, flags));
    if (fault != 0 && fault != ENOENT)
        return error_set_os(err, fault, "%s/%s: cannot remove", file_label(directory), name);
    return STATUS_OK;
}

enum status store_remove_file(int directory_fd, const char *directory, const char *name,
                              struct error *err)
{
    return remove_entry(directory_fd, directory, name, 0, err);
}

enum status store_remove_directory(int directory_fd, const char *directory, const char *name,
                                   struct error *err)
{
    return remove_entry(directory_fd, directory, name, AT_REMOVEDIR, err);
}

/* ---- files ---- */

enum status store_create(struct store_file *file, int directory_fd, const char *directory,
                         const char *name, struct error *err)
{
    int fd = -1;
    int fault = fault_before(STORE_CALL_CREATE);
    if (fault == 0) {
        fd = openat(directory_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    FILE_MODE);
        fault = outcome(fd);
    }
    *file = (struct store_file){.fd = fd, .directory = directory, .name = name};
    if (fault == EEXIST)
        return error_set(err, STATUS_EXISTS, "%s/%s: already exists", file_label(directory), name);
    if (fault != 0)
        return error_set_os(err, fault, "%s/%s: cannot create", file_label(directory), name);
    return STATUS_OK;
}

/* O_DIRECT is set after the file is made: open(2) with both would, on a file system that refuses
 * it, leave an empty file behind its EINVAL. */
void store_set_direct(struct store_file *file)
{
    int flags = fcntl(file->fd, F_GETFL);
    file->direct = flags >= 0 && fcntl(file->fd, F_SETFL, flags | O_DIRECT) == 0;
}

enum status store_append(struct store_file *file, const void *data, size_t bytes, struct error *err)
{
    enum status status = store_write_at(file, data, bytes, file->offset, err);
    if (status == STATUS_OK)
        file->offset += bytes;
    return status;
}

enum status store_sync(struct store_file *file, struct error *err)
{
    int fault = fault_before(STORE_CALL_SYNC);
    if (fault == 0)
        fault = outcome(fsync(file->fd));
    if (fault != 0)
        return error_set_os(err, fault, "%s/%s: cannot flush to disk", file_label(file->directory),
                            file->name);
    return STATUS_OK;
}

enum status store_close(struct store_file *file, struct error *err)
{
    if (file->fd < 0)
        return STATUS_OK;
    int fault = fault_before(STORE_CALL_CLOSE);
    /* Linux frees the descriptor even when close() reports an error. */
    int closed = outcome(close(file->fd));
    file->fd = -1;
    if (fault == 0)
        fault = closed;
    if (fault != 0)
        return error_set_os(err, fault, "%s/%s: cannot close", file_label(file->directory),
                            file->name);
    return STATUS_OK;
}

bool store_temporary_name(const char *name, char *temporary)
{
    int length = snprintf(temporary, NAME_MAX + 1, "%s.tmp", name);
    return length > 0 && length <= NAME_MAX;
}

enum status store_write_text(int directory_fd, const char *directory, const char *name,
                             const char *text, struct error *err)
{
    char temporary[NAME_MAX + 1];
    if (!store_temporary_name(name, temporary))
        return error_set(err, STATUS_INVALID, "%s/%s: the name is too long", file_label(directory),
                         name);
    unlinkat(directory_fd, temporary, 0); /* of a process that was killed here */

    struct store_file file;
    enum status status = store_create(&file, directory_fd, directory, temporary, err);
    if (status != STATUS_OK)
        return status;
    status = store_append(&file, text, strlen(text), err);
    if (status == STATUS_OK)
        status = store_sync(&file, err);
    enum status closed = store_close(&file, status == STATUS_OK ? err : NULL);
    if (status == STATUS_OK)
        status = closed;
    if (status == STATUS_OK)
        status = store_rename(directory_fd, directory, temporary, name, err);
    if (status != STATUS_OK) {
        unlinkat(directory_fd, temporary, 0);
        return status;
    }
    return store_sync_directory(directory_fd, directory, err);
}

/* ---- files written by positions ---- */

enum status store_open(struct store_file *file, int directory_fd, const char *directory,
                       const char *name, struct error *err)
{
    /* Its kind is known only once it is open; until then nothing may be waited for. */
    const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    *file = (struct store_file){.fd = -1, .directory = directory, .name = name};
    int fd = -1;
    int fault = fault_before(STORE_CALL_CREATE);
    if (fault == 0) {
        fd = openat(directory_fd, name, flags, FILE_MODE);
        fault = outcome(fd);
    }
    struct stat info = {0};
    if (fault == 0)
        fault = outcome(fstat(fd, &info));
    if (fault == ELOOP || fault == EISDIR || fault == ENXIO ||
        (fault == 0 && !S_ISREG(info.st_mode))) {
        if (fd >= 0)
            close(fd);
        return error_set(err, STATUS_EXISTS, "%s/%s: already exists and is not a regular file",
                         file_label(directory), name);
    }
    if (fault != 0) {
        if (fd >= 0)
            close(fd);
        return error_set_os(err, fault, "%s/%s: cannot open for writing", file_label(directory),
                            name);
    }
    file->fd = fd;
    return STATUS_OK;
}

/* What the seam leaves of a read or write of 2 bytes or more: of a page an odd number, so that who
 * carries on from there around the page cache fails on any device. */
static size_t shortened(size_t bytes)
{
    return bytes > DIRECT_ALIGNMENT ? DIRECT_ALIGNMENT : bytes / 2 | 1;
}

/* One write; 0 or an errno value. */
static int write_some(const struct store_file *file, const void *data, size_t bytes,
                      uint64_t offset, size_t *written)
{
    bytes = MIN(bytes, (size_t)IO_BYTES_MAX);
    int fault = fault_before(STORE_CALL_WRITE);
    if (fault > 0)
        return fault;
    if (fault == STORE_FAULT_SHORT && bytes > 1)
        bytes = shortened(bytes);
    /* Only the seam asks for a part of a page here, and no O_DIRECT write can do that: feign it. */
    if (file->direct && bytes % DIRECT_ALIGNMENT != 0) {
        *written = bytes;
        return 0;
    }
    ssize_t result = pwrite(file->fd, data, bytes, (off_t)offset);
    if (result < 0)
        return errno;
    *written = (size_t)result;
    return result == 0 ? ENOSPC : 0;
}

enum status store_write_at(const struct store_file *file, const void *data, size_t bytes,
                           uint64_t offset, struct error *err)
{
    assert(!file->direct || (bytes % DIRECT_ALIGNMENT == 0 && offset % DIRECT_ALIGNMENT == 0 &&
                             (uintptr_t)data % DIRECT_ALIGNMENT == 0));
    assert(bytes <= INT64_MAX && offset <= INT64_MAX - bytes);
    const uint8_t *next = data;
    bool stalled = false;
    while (bytes > 0) {
        size_t written = 0;
        int fault = write_some(file, next, bytes, offset, &written);
        if (fault == EINTR)
            continue;
        /* A part of a page cannot be carried on from around the page cache: it is written again,
         * once. Twice means that the disk took what it could. */
        if (file->direct)
            written -= written % DIRECT_ALIGNMENT;
        if (fault == 0 && written == 0 && stalled)
            fault = ENOSPC;
        if (fault != 0)
            return error_set_os(err, fault, "%s/%s: cannot write %zu bytes at offset %" PRIu64,
                                file_label(file->directory), file->name, bytes, offset);
        stalled = written == 0;
        next += written;
        bytes -= written;
        offset += written;
    }
    return STATUS_OK;
}

/* One read, at the file's end of 0 bytes; 0 or an errno value. */
static int read_some(const struct store_file *file, void *buffer, size_t bytes, uint64_t offset,
                     size_t *got)
{
    bytes = MIN(bytes, (size_t)IO_BYTES_MAX);
    int fault = fault_before(STORE_CALL_READ);
    if (fault > 0)
        return fault;
    const size_t kept = fault == STORE_FAULT_SHORT && bytes > 1 ? shortened(bytes) : bytes;
    if (file->direct)
        bytes = size_align(bytes, DIRECT_ALIGNMENT);
    ssize_t result = pread(file->fd, buffer, bytes, (off_t)offset);
    if (result < 0)
        return errno;
    *got = MIN((size_t)result, kept);
    return 0;
}

enum status store_read_at(const struct store_file *file, void *buffer, size_t bytes,
                          uint64_t offset, struct error *err)
{
    assert(!file->direct ||
           (offset % DIRECT_ALIGNMENT == 0 && (uintptr_t)buffer % DIRECT_ALIGNMENT == 0));
    uint8_t *next = buffer;
    bool stalled = false;
    while (bytes > 0) {
        size_t got = 0;
        int fault = read_some(file, next, bytes, offset, &got);
        if (fault == EINTR)
            continue;
        if (fault != 0)
            return error_set_os(err, fault, "%s/%s: cannot read %zu bytes at offset %" PRIu64,
                                file_label(file->directory), file->name, bytes, offset);
        if (file->direct && got < bytes)
            got -= got % DIRECT_ALIGNMENT;
        if (got == 0 && (stalled || !file->direct))
            return error_set(err, STATUS_CORRUPT, "%s/%s: ends %zu bytes short of offset %" PRIu64,
                             file_label(file->directory), file->name, bytes, offset + bytes);
        stalled = got == 0;
        next += got;
        bytes -= got;
        offset += got;
    }
    return STATUS_OK;
}

enum status store_set_length(const struct store_file *file, uint64_t bytes, struct error *err)
{
    assert(bytes <= INT64_MAX);
    int fault = fault_before(STORE_CALL_TRUNCATE);
    if (fault == 0) {
        do
            fault = outcome(ftruncate(file->fd, (off_t)bytes));
        while (fault == EINTR);
    }
    if (fault != 0)
        return error_set_os(err, fault, "%s/%s: cannot set its length to %" PRIu64 " bytes",
                            file_label(file->directory), file->name, bytes);
    return STATUS_OK;
}
