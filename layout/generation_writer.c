/*
 * generation_writer.c - creating a generation so that it opens complete or not at all.
 *
 * All files are made at once, so a directory that cannot be written is found before hours of
 * building. The order at the end is what makes it crash-safe: data files fsynced and closed,
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
#include <unistd.h>
#include <xxhash.h>

#include "common/file_io.h"
#include "layout/store.h"

struct generation_writer {
    char *path;       /* no slash at its end */
    char *parent;     /* of path */
    const char *name; /* last part of path; points into it */
    int parent_fd;
    int directory_fd;       /* -1 until the directory is ours to write in */
    bool directory_created; /* else it was there, empty */
    int files_created;      /* of the data files, in their order */
    struct store_file files[GENERATION_FILE_COUNT];
    XXH3_state_t *hashes[GENERATION_FILE_COUNT];
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

static enum status directory_check_empty(int directory_fd, const char *path, struct error *err)
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
    errno = 0;
    for (const struct dirent *entry; status == STATUS_OK && (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            status = error_set(err, STATUS_EXISTS, "%s: already exists and is not empty",
                               file_label(path));
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
        status = directory_check_empty(fd, writer->path, err);
        if (status != STATUS_OK) {
            close(fd);
            return status;
        }
    }
    writer->directory_fd = fd;
    return STATUS_OK;
}

static enum status writer_create_files(struct generation_writer *writer, struct error *err)
{
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        writer->hashes[i] = XXH3_createState();
        if (!writer->hashes[i] || XXH3_128bits_reset(writer->hashes[i]) != XXH_OK)
            return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(writer->path));
        enum status status = store_create(&writer->files[i], writer->directory_fd, writer->path,
                                          generation_file_names[i], err);
        if (status != STATUS_OK)
            return status;
        writer->files_created++;
    }
    store_set_direct(&writer->files[GENERATION_NODES]);
    return STATUS_OK;
}

enum status generation_writer_open(const char *path, struct generation_writer **out,
                                   struct error *err)
{
    struct generation_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    writer->parent_fd = -1;
    writer->directory_fd = -1;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        writer->files[i].fd = -1;

    enum status status = writer_set_path(writer, path, err);
    if (status == STATUS_OK)
        status = writer_make_directory(writer, err);
    if (status == STATUS_OK)
        status = writer_create_files(writer, err);
    if (status != STATUS_OK) {
        generation_writer_abort(writer);
        return status;
    }
    *out = writer;
    return STATUS_OK;
}

enum status generation_writer_append(struct generation_writer *writer, enum generation_file file,
                                     const void *data, size_t bytes, struct error *err)
{
    assert((unsigned)file < GENERATION_FILE_COUNT);
    if (bytes == 0)
        return STATUS_OK;
    XXH3_128bits_update(writer->hashes[file], data, bytes);
    return store_append(&writer->files[file], data, bytes, err);
}

/* Closes and frees; the files stay as they are. */
static void writer_free(struct generation_writer *writer)
{
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        enum status ignored = store_close(&writer->files[i], NULL);
        (void)ignored;
        XXH3_freeState(writer->hashes[i]);
    }
    if (writer->directory_fd >= 0)
        close(writer->directory_fd);
    if (writer->parent_fd >= 0)
        close(writer->parent_fd);
    free(writer->parent);
    free(writer->path);
    free(writer);
}

static enum status writer_finish_file(struct generation_writer *writer, enum generation_file file,
                                      struct manifest_file *entry, struct error *err)
{
    XXH128_hash_t hash = XXH3_128bits_digest(writer->hashes[file]);
    entry->bytes = writer->files[file].offset;
    entry->xxh3 = (struct digest128){.low = hash.low64, .high = hash.high64};
    enum status status = store_sync(&writer->files[file], err);
    return status == STATUS_OK ? store_close(&writer->files[file], err) : status;
}

enum status generation_writer_finish(struct generation_writer *writer, struct manifest *manifest,
                                     struct error *err)
{
    struct manifest finished = *manifest;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        enum status status =
            writer_finish_file(writer, (enum generation_file)i, &finished.files[i], err);
        if (status != STATUS_OK)
            return status;
    }
    char *json;
    struct error inner;
    enum status status = manifest_format(&finished, &json, &inner);
    if (status != STATUS_OK)
        return error_set(err, status, "%s/%s: %s", file_label(writer->path), MANIFEST_FILE_NAME,
                         inner.text);
    status = store_write_text(writer->directory_fd, writer->path, MANIFEST_FILE_NAME, json, err);
    free(json);
    if (status == STATUS_OK)
        status = store_sync_directory(writer->parent_fd, writer->parent, err);
    if (status != STATUS_OK)
        return status;
    *manifest = finished;
    writer_free(writer);
    return STATUS_OK;
}

static void writer_remove(const struct generation_writer *writer, const char *name)
{
    char temporary[NAME_MAX + 1];
    unlinkat(writer->directory_fd, name, 0);
    if (store_temporary_name(name, temporary))
        unlinkat(writer->directory_fd, temporary, 0);
}

void generation_writer_abort(struct generation_writer *writer)
{
    if (!writer)
        return;
    /* The directory was empty and every data file was made with O_EXCL, so it is ours alone; unless
     * another writer came between, and then we made no file after the one that was there. */
    if (writer->files_created == GENERATION_FILE_COUNT) {
        /* First: without it the rest is no generation, should we be killed here. */
        writer_remove(writer, MANIFEST_FILE_NAME);
        writer_remove(writer, GENERATION_REPORT_NAME);
    }
    for (int i = 0; i < writer->files_created; i++)
        unlinkat(writer->directory_fd, generation_file_names[i], 0);
    if (writer->directory_created)
        unlinkat(writer->parent_fd, writer->name, AT_REMOVEDIR);
    writer_free(writer);
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
