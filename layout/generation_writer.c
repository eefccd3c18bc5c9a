/*
 * generation_writer.c - creating a generation so that it opens complete or not at all.
 *
 * All files are made at once, so a directory that cannot be written is found before hours of
 * building. They are written by positions, in any order and by several threads or processes; what
 * has been written already is the builder's knowledge, not kept here. A file's hash is that of its
 * bytes read back from the device at the end, so it vouches for what is stored and not for what was
 * meant; who knows what was meant compares in the read-back hook.
 *
 * The order at the end is what makes it crash-safe: data files fsynced, read back and closed,
 * manifest.json written under a temporary name, fsynced, renamed, directory fsynced, parent
 * directory fsynced. A crash at any point leaves a directory without manifest.json or a complete
 * generation.
 *
 * Errors of abort itself are not reported: it runs because of one already.
 */
#include "layout/generation.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/file_io.h"
#include "common/memory.h"
#include "layout/digest.h"
#include "layout/store.h"

/* Bytes read back at a time: large enough for full sequential speed, small enough for L2. */
enum { READ_BACK_BYTES = 1 << 20 };

struct generation_writer {
    char *path;       /* no slash at its end */
    char *parent;     /* of path */
    const char *name; /* last part of path; points into it */
    enum generation_open_mode mode;
    int parent_fd;
    int directory_fd;       /* -1 until the directory is ours to write in */
    bool directory_created; /* else it was there */
    int files_opened;       /* of the data files, in their order */
    struct store_file files[GENERATION_FILE_COUNT];
};

/* Splits `path` into parent and name. */
static enum status writer_set_path(struct generation_writer *writer, const char *path,
                                   struct error *err)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length == 0 || (length == 1 && path[0] == '/'))
        return error_set(err, STATUS_INVALID, "\"%s\" names no directory to create", path);
    writer->path = strndup(path, length);
    if (!writer->path)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    char *slash = strrchr(writer->path, '/');
    writer->name = slash ? slash + 1 : writer->path;
    if (!slash)
        writer->parent = strdup(".");
    else if (slash == writer->path)
        writer->parent = strdup("/");
    else
        writer->parent = strndup(writer->path, (size_t)(slash - writer->path));
    if (!writer->parent)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    return STATUS_OK;
}

static bool name_is_or_becomes(const char *entry, const char *name)
{
    char temporary[NAME_MAX + 1];
    return strcmp(entry, name) == 0 ||
           (store_temporary_name(name, temporary) && strcmp(entry, temporary) == 0);
}

/* True for what a killed build leaves behind. */
static bool name_is_of_a_build(const char *entry)
{
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        if (strcmp(entry, generation_file_names[i]) == 0)
            return true;
    return name_is_or_becomes(entry, GENERATION_REPORT_NAME) ||
           name_is_or_becomes(entry, MANIFEST_FILE_NAME);
}

static bool manifest_exists(int directory_fd)
{
    struct stat info;
    return fstatat(directory_fd, MANIFEST_FILE_NAME, &info, AT_SYMLINK_NOFOLLOW) == 0 ||
           errno != ENOENT; /* who cannot tell must not take it for unfinished */
}

static enum status entry_check(const char *path, enum generation_open_mode mode, const char *entry,
                               struct error *err)
{
    if (strcmp(entry, ".") == 0 || strcmp(entry, "..") == 0)
        return STATUS_OK;
    if (mode == GENERATION_CREATE)
        return error_set(err, STATUS_EXISTS, "%s: already exists and is not empty",
                         file_label(path));
    if (!name_is_of_a_build(entry))
        return error_set(err, STATUS_EXISTS, "%s: is no unfinished generation: \"%.80s\" is in it",
                         file_label(path), entry);
    return STATUS_OK;
}

static enum status directory_check(int directory_fd, const char *path,
                                   enum generation_open_mode mode, struct error *err)
{
    if (mode == GENERATION_CONTINUE && manifest_exists(directory_fd))
        return error_set(err, STATUS_EXISTS, "%s: is already complete: %s is in it",
                         file_label(path), MANIFEST_FILE_NAME);
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
    errno = 0;
    for (const struct dirent *entry; status == STATUS_OK && (entry = readdir(directory));)
        status = entry_check(path, mode, entry->d_name, err);
    if (status == STATUS_OK && errno != 0)
        status = error_set_os(err, errno, "%s: cannot list", file_label(path));
    closedir(directory);
    return status;
}

static enum status writer_make_directory(struct generation_writer *writer, struct error *err)
{
    writer->parent_fd = open(writer->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (writer->parent_fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return error_set(err, STATUS_NOT_FOUND, "%s: %s is not a directory",
                         file_label(writer->path), file_label(writer->parent));
    if (writer->parent_fd < 0)
        return error_set_os(err, errno, "%s: cannot open", file_label(writer->parent));
    enum status status =
        store_mkdir(writer->parent_fd, writer->name, writer->path, &writer->directory_created, err);
    if (status != STATUS_OK)
        return status;
    int fd =
        openat(writer->parent_fd, writer->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        return error_set(err, STATUS_EXISTS, "%s: already exists and is not a directory",
                         file_label(writer->path));
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot open", file_label(writer->path));
    if (!writer->directory_created) {
        status = directory_check(fd, writer->path, writer->mode, err);
        if (status != STATUS_OK) {
            close(fd);
            return status;
        }
    }
    writer->directory_fd = fd;
    return STATUS_OK;
}

static enum status writer_open_files(struct generation_writer *writer, struct error *err)
{
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        struct store_file *file = &writer->files[i];
        const char *name = generation_file_names[i];
        enum status status = writer->mode == GENERATION_CREATE
                                 ? store_create(file, writer->directory_fd, writer->path, name, err)
                                 : store_open(file, writer->directory_fd, writer->path, name, err);
        if (status != STATUS_OK)
            return status;
        writer->files_opened++;
    }
    store_set_direct(&writer->files[GENERATION_NODES]);
    return STATUS_OK;
}

/* Undoes a failed open. What was in a directory to be continued may be another's, or worth keeping;
 * what we have just made is neither, unless someone has written into it already. */
static void writer_open_undo(struct generation_writer *writer)
{
    if (writer->mode == GENERATION_CREATE) {
        generation_writer_abort(writer);
        return;
    }
    for (int i = 0; writer->directory_created && i < writer->files_opened; i++) {
        struct stat info;
        if (fstat(writer->files[i].fd, &info) == 0 && info.st_size == 0)
            unlinkat(writer->directory_fd, generation_file_names[i], 0);
    }
    if (writer->directory_created)
        unlinkat(writer->parent_fd, writer->name, AT_REMOVEDIR);
    generation_writer_close(writer);
}

enum status generation_writer_open(const char *path, enum generation_open_mode mode,
                                   struct generation_writer **out, struct error *err)
{
    struct generation_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    writer->mode = mode;
    writer->parent_fd = -1;
    writer->directory_fd = -1;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        writer->files[i].fd = -1;

    enum status status = writer_set_path(writer, path, err);
    if (status == STATUS_OK)
        status = writer_make_directory(writer, err);
    if (status == STATUS_OK)
        status = writer_open_files(writer, err);
    if (status != STATUS_OK) {
        writer_open_undo(writer);
        return status;
    }
    *out = writer;
    return STATUS_OK;
}

/* ---- writing ---- */

enum status generation_writer_write(struct generation_writer *writer, enum generation_file file,
                                    uint64_t offset, const void *data, size_t bytes,
                                    struct error *err)
{
    assert((unsigned)file < GENERATION_FILE_COUNT);
    /* Also where the file system has no O_DIRECT, or the fault would show on another machine. */
    assert(file != GENERATION_NODES ||
           (offset % BLOCK_PAGE_BYTES == 0 && bytes % BLOCK_PAGE_BYTES == 0 &&
            (uintptr_t)data % BLOCK_PAGE_BYTES == 0));
    return store_write_at(&writer->files[file], data, bytes, offset, err);
}

enum status generation_writer_append(struct generation_writer *writer, enum generation_file file,
                                     const void *data, size_t bytes, struct error *err)
{
    assert((unsigned)file < GENERATION_FILE_COUNT);
    uint64_t *offset = &writer->files[file].offset;
    enum status status = STATUS_OK;
    if (*offset == 0 && writer->mode == GENERATION_CONTINUE)
        status = store_set_length(&writer->files[file], 0, err);
    if (status == STATUS_OK)
        status = generation_writer_write(writer, file, *offset, data, bytes, err);
    if (status == STATUS_OK)
        *offset += bytes;
    return status;
}

enum status generation_writer_set_length(struct generation_writer *writer,
                                         enum generation_file file, uint64_t bytes,
                                         struct error *err)
{
    assert((unsigned)file < GENERATION_FILE_COUNT);
    return store_set_length(&writer->files[file], bytes, err);
}

static enum status writer_sync_files(struct generation_writer *writer, struct error *err)
{
    enum status status = STATUS_OK;
    for (int i = 0; status == STATUS_OK && i < GENERATION_FILE_COUNT; i++)
        status = store_sync(&writer->files[i], err);
    return status;
}

enum status generation_writer_sync(struct generation_writer *writer, struct error *err)
{
    enum status status = writer_sync_files(writer, err);
    /* The bytes are of use only under a name. */
    if (status == STATUS_OK)
        status = store_sync_directory(writer->directory_fd, writer->path, err);
    if (status == STATUS_OK)
        status = store_sync_directory(writer->parent_fd, writer->parent, err);
    return status;
}

/* ---- the end ---- */

/* The lengths that the files have on disk. */
static enum status writer_lengths(const struct generation_writer *writer, struct manifest *manifest,
                                  struct error *err)
{
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        struct stat info;
        if (fstat(writer->files[i].fd, &info) != 0)
            return error_set_os(err, errno, "%s/%s: cannot stat", file_label(writer->path),
                                generation_file_names[i]);
        manifest->files[i].bytes = (uint64_t)info.st_size;
    }
    return STATUS_OK;
}

static enum status manifest_fault(const struct generation_writer *writer, const struct error *inner,
                                  struct error *err)
{
    return error_set(err, inner->status, "%s/%s: %s", file_label(writer->path), MANIFEST_FILE_NAME,
                     inner->text);
}

/* What reading back a file takes, and the hook's share of it. */
struct read_back_job {
    const struct generation_read_back *hook;
    XXH3_state_t *hash;
    uint8_t *buffer;   /* READ_BACK_BYTES, page-aligned */
    size_t unit_bytes; /* chunks are multiples of it */
};

/* Reads `file` whole, from the device if it can be had, and sets entry->xxh3. */
static enum status file_read_back(const struct read_back_job *job, enum generation_file file,
                                  const struct store_file *stored, struct manifest_file *entry,
                                  struct error *err)
{
    if (XXH3_128bits_reset(job->hash) != XXH_OK)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", stored->name);
    /* Drops the pages just made clean, so that the device is asked for them. */
    if (!stored->direct)
        (void)posix_fadvise(stored->fd, 0, 0, POSIX_FADV_DONTNEED);
    const size_t chunk_bytes = READ_BACK_BYTES / job->unit_bytes * job->unit_bytes;
    for (uint64_t offset = 0; offset < entry->bytes;) {
        const size_t bytes = (size_t)MIN((uint64_t)chunk_bytes, entry->bytes - offset);
        enum status status = store_read_at(stored, job->buffer, bytes, offset, err);
        if (status == STATUS_OK && job->hook)
            status = job->hook->on_chunk(job->hook->context, file, offset, job->buffer, bytes, err);
        if (status != STATUS_OK)
            return status;
        XXH3_128bits_update(job->hash, job->buffer, bytes);
        offset += bytes;
    }
    entry->xxh3 = digest_of(XXH3_128bits_digest(job->hash));
    return STATUS_OK;
}

static enum status writer_read_back(struct generation_writer *writer,
                                    const struct generation_read_back *hook,
                                    struct manifest *manifest, struct error *err)
{
    struct read_back_job job = {.hook = hook, .hash = XXH3_createState()};
    if (!job.hash)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(writer->path));
    void *buffer = NULL;
    enum status status = bulk_alloc(READ_BACK_BYTES, 1, "read-back buffer", &buffer, err);
    job.buffer = buffer;
    for (int i = 0; status == STATUS_OK && i < GENERATION_FILE_COUNT; i++) {
        if (generation_file_optional((enum generation_file)i) && manifest->files[i].bytes == 0)
            continue;
        job.unit_bytes =
            i == GENERATION_NODES ? manifest->geometry.block_bytes : (size_t)BLOCK_PAGE_BYTES;
        status = file_read_back(&job, (enum generation_file)i, &writer->files[i],
                                &manifest->files[i], err);
    }
    bulk_free(buffer, READ_BACK_BYTES, 1);
    XXH3_freeState(job.hash);
    return status;
}

/* A file that may be missing is made with the others, so that what cannot be written is found
 * early; and goes when nothing came into it. */
static enum status writer_drop_empty(const struct generation_writer *writer,
                                     const struct manifest *manifest, struct error *err)
{
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        if (generation_file_optional((enum generation_file)i) && manifest->files[i].bytes == 0 &&
            unlinkat(writer->directory_fd, generation_file_names[i], 0) != 0 && errno != ENOENT)
            return error_set_os(err, errno, "%s/%s: cannot remove", file_label(writer->path),
                                generation_file_names[i]);
    return STATUS_OK;
}

static enum status writer_close_files(struct generation_writer *writer, struct error *err)
{
    enum status status = STATUS_OK;
    for (int i = 0; status == STATUS_OK && i < GENERATION_FILE_COUNT; i++)
        status = store_close(&writer->files[i], err);
    return status;
}

static enum status writer_put_manifest(const struct generation_writer *writer,
                                       const struct manifest *manifest, struct error *err)
{
    char *json;
    struct error inner;
    if (manifest_format(manifest, &json, &inner) != STATUS_OK)
        return manifest_fault(writer, &inner, err);
    enum status status =
        store_write_text(writer->directory_fd, writer->path, MANIFEST_FILE_NAME, json, err);
    free(json);
    if (status == STATUS_OK)
        status = store_sync_directory(writer->parent_fd, writer->parent, err);
    return status;
}

enum status generation_writer_finish(struct generation_writer *writer, struct manifest *manifest,
                                     const struct generation_read_back *read_back,
                                     struct error *err)
{
    struct manifest finished = *manifest;
    struct error inner;
    enum status status = writer_lengths(writer, &finished, err);
    /* Before hours of reading; and its geometry is relied upon from here. */
    if (status == STATUS_OK && manifest_check(&finished, &inner) != STATUS_OK)
        status = manifest_fault(writer, &inner, err);
    if (status == STATUS_OK)
        status = writer_sync_files(writer, err);
    if (status == STATUS_OK)
        status = writer_read_back(writer, read_back, &finished, err);
    if (status == STATUS_OK)
        status = writer_drop_empty(writer, &finished, err);
    if (status == STATUS_OK)
        status = writer_close_files(writer, err);
    if (status == STATUS_OK && read_back != NULL && read_back->on_whole != NULL)
        status = read_back->on_whole(read_back->context, &finished, err);
    if (status == STATUS_OK)
        status = writer_put_manifest(writer, &finished, err);
    if (status != STATUS_OK)
        return status;
    *manifest = finished;
    generation_writer_close(writer);
    return STATUS_OK;
}

void generation_writer_close(struct generation_writer *writer)
{
    if (!writer)
        return;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        enum status ignored = store_close(&writer->files[i], NULL);
        (void)ignored;
    }
    if (writer->directory_fd >= 0)
        close(writer->directory_fd);
    if (writer->parent_fd >= 0)
        close(writer->parent_fd);
    free(writer->parent);
    free(writer->path);
    free(writer);
}

static void remove_temporary(int directory_fd, const char *name)
{
    char temporary[NAME_MAX + 1];
    if (store_temporary_name(name, temporary))
        unlinkat(directory_fd, temporary, 0);
}

/* The directory was empty and every data file was made with O_EXCL, so it is ours alone; unless
 * another writer came between, and then we made no file after the one that was there. */
static void remove_created(const struct generation_writer *writer)
{
    const bool ours = writer->files_opened == GENERATION_FILE_COUNT;
    /* First: without it the rest is no generation, should we be killed here. */
    if (ours) {
        unlinkat(writer->directory_fd, MANIFEST_FILE_NAME, 0);
        unlinkat(writer->directory_fd, GENERATION_REPORT_NAME, 0);
        remove_temporary(writer->directory_fd, MANIFEST_FILE_NAME);
        remove_temporary(writer->directory_fd, GENERATION_REPORT_NAME);
    }
    for (int i = 0; i < writer->files_opened; i++)
        unlinkat(writer->directory_fd, generation_file_names[i], 0);
    if (writer->directory_created)
        unlinkat(writer->parent_fd, writer->name, AT_REMOVEDIR);
}

/* With a manifest in it, someone has finished it, or our own finish failed when nothing but the
 * last fsync was missing. */
static void remove_continued(const struct generation_writer *writer)
{
    if (manifest_exists(writer->directory_fd))
        return;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        unlinkat(writer->directory_fd, generation_file_names[i], 0);
    unlinkat(writer->directory_fd, GENERATION_REPORT_NAME, 0);
    remove_temporary(writer->directory_fd, MANIFEST_FILE_NAME);
    remove_temporary(writer->directory_fd, GENERATION_REPORT_NAME);
    unlinkat(writer->parent_fd, writer->name, AT_REMOVEDIR);
}

void generation_writer_abort(struct generation_writer *writer)
{
    if (!writer)
        return;
    if (writer->mode == GENERATION_CREATE)
        remove_created(writer);
    else
        remove_continued(writer);
    generation_writer_close(writer);
}

enum status generation_write_text(const char *path, const char *name, const char *text,
                                  struct error *err)
{
    if (strchr(name, '/') || name[0] == '\0')
        return error_set(err, STATUS_INVALID, "\"%s\" is not a file name", name);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot open", file_label(path));
    enum status status = store_write_text(fd, path, name, text, err);
    close(fd);
    return status;
}
