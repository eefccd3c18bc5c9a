/*
 * generation.c - opening a generation and reading its files. Everything is opened relative to one
 * directory descriptor without following links, so the files are of the directory that was named
 * even when a publish swaps links meanwhile. See generation_writer.c for how it came to be and
 * generation_verify.c for the full check.
 *
 * A generation is immutable once open: any number of threads may use it at a time.
 */
#include "layout/generation.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/file_io.h"
#include "common/memory.h"
#include "layout/digest.h"
#include "layout/generation_internal.h"

/* ---- opening ---- */

struct opened_file {
    int fd;
    uint64_t bytes;
};

/* Opens regular file `name`; *out is written only on success. Its kind is asked before, since
 * opening a FIFO would wait, and after, since it may have changed. */
static enum status open_regular(int directory_fd, const char *name, const char *file_path,
                                struct opened_file *out, struct error *err)
{
    struct stat info;
    if (fstatat(directory_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return error_set(err, STATUS_NOT_FOUND, "%s: no such file", file_label(file_path));
        return error_set_os(err, errno, "%s: cannot stat", file_label(file_path));
    }
    if (!S_ISREG(info.st_mode))
        return error_set(err, STATUS_CORRUPT, "%s: is not a regular file", file_label(file_path));
    int fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot open", file_label(file_path));
    enum status status = STATUS_OK;
    if (fstat(fd, &info) != 0)
        status = error_set_os(err, errno, "%s: cannot stat", file_label(file_path));
    else if (!S_ISREG(info.st_mode))
        status = error_set(err, STATUS_CORRUPT, "%s: is not a regular file", file_label(file_path));
    if (status != STATUS_OK) {
        close(fd);
        return status;
    }
    *out = (struct opened_file){fd, (uint64_t)info.st_size};
    return STATUS_OK;
}

static enum status manifest_text_read(struct generation *generation, struct opened_file file,
                                      const char *file_path, struct error *err)
{
    if (file.bytes > MANIFEST_BYTES_MAX)
        return error_set(err, STATUS_CORRUPT, "%s: %" PRIu64 " bytes, at most %d are read",
                         file_label(file_path), file.bytes, MANIFEST_BYTES_MAX);
    generation->manifest_bytes = (size_t)file.bytes;
    generation->manifest_text = malloc(generation->manifest_bytes + 1);
    if (!generation->manifest_text)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(file_path));
    return file_read_at(file.fd, file_path, generation->manifest_text, generation->manifest_bytes,
                        0, err);
}

static enum status manifest_load(struct generation *generation, int directory_fd, struct error *err)
{
    char *file_path;
    if (asprintf(&file_path, "%s/%s", generation->path, MANIFEST_FILE_NAME) < 0)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(generation->path));
    struct opened_file file = {.fd = -1};
    enum status status = open_regular(directory_fd, MANIFEST_FILE_NAME, file_path, &file, err);
    if (status == STATUS_NOT_FOUND)
        status = error_set(err, status,
                           "%s: no such file: not a generation, or one whose build did not finish",
                           file_label(file_path));
    if (status == STATUS_OK)
        status = manifest_text_read(generation, file, file_path, err);
    if (status == STATUS_OK) {
        struct error inner;
        status = manifest_parse(generation->manifest_text, generation->manifest_bytes,
                                &generation->manifest, &inner);
        if (status != STATUS_OK)
            error_set(err, status, "%s: %s", file_label(file_path), inner.text);
    }
    if (file.fd >= 0)
        close(file.fd);
    free(file_path);
    return status;
}

static enum status data_file_open(struct generation *generation, int directory_fd,
                                  enum generation_file file, struct error *err)
{
    const char *name = generation_file_names[file];
    if (asprintf(&generation->file_paths[file], "%s/%s", generation->path, name) < 0) {
        generation->file_paths[file] = NULL;
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(generation->path));
    }
    struct opened_file opened;
    enum status status =
        open_regular(directory_fd, name, generation->file_paths[file], &opened, err);
    if (status != STATUS_OK)
        return status;
    generation->fds[file] = opened.fd; /* closed with the generation */
    if (opened.bytes != generation->manifest.files[file].bytes)
        return error_set(err, STATUS_CORRUPT, "%s: %" PRIu64 " bytes, the manifest says %" PRIu64,
                         file_label(generation->file_paths[file]), opened.bytes,
                         generation->manifest.files[file].bytes);
    return STATUS_OK;
}

/* Sets the flag afterwards, as a file system without O_DIRECT refuses it here in the same way. */
static bool set_direct(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
}

/* Says to root_prune() that the generation is in use, until the descriptor is closed; the kernel
 * does that for a process that dies. An exclusive lock is held by one who asks whether it is in
 * use, for microseconds, or who removes it: waited for a little, so that the former is not taken
 * for the latter. Where a file system cannot lock, it goes without: descriptors keep what is
 * removed. */
static enum status directory_lock(int directory_fd, const char *path, struct error *err)
{
    enum { TRIES = 50, PAUSE_NS = 2000000 };
    for (int i = 0; i < TRIES; i++) {
        int locked;
        do {
            locked = flock(directory_fd, LOCK_SH | LOCK_NB);
        } while (locked != 0 && errno == EINTR);
        if (locked == 0 || errno != EWOULDBLOCK)
            return STATUS_OK;
        const struct timespec pause = {.tv_nsec = PAUSE_NS};
        nanosleep(&pause, NULL);
    }
    return error_set(err, STATUS_BUSY, "%s: is being removed", file_label(path));
}

static enum status directory_open(struct generation *generation, struct error *err)
{
    const char *path = generation->path;
    generation->directory_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (generation->directory_fd >= 0)
        return directory_lock(generation->directory_fd, path, err);
    if (errno == ENOENT)
        return error_set(err, STATUS_NOT_FOUND, "%s: no such directory", file_label(path));
    if (errno == ENOTDIR)
        return error_set(err, STATUS_INVALID, "%s: not a directory", file_label(path));
    return error_set_os(err, errno, "%s: cannot open", file_label(path));
}

/* `manifest` NULL: that of the directory. */
static enum status open_with(const char *path, const struct manifest *manifest,
                             struct generation **out, struct error *err)
{
    struct generation *generation = calloc(1, sizeof(*generation));
    if (!generation)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    generation->directory_fd = -1;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        generation->fds[i] = -1;
    enum status status = STATUS_OK;
    generation->path = strdup(path);
    if (!generation->path)
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    if (status == STATUS_OK)
        status = directory_open(generation, err);
    const int directory_fd = generation->directory_fd;
    if (status == STATUS_OK && manifest == NULL)
        status = manifest_load(generation, directory_fd, err);
    else if (status == STATUS_OK)
        generation->manifest = *manifest;
    for (int i = 0; status == STATUS_OK && i < GENERATION_FILE_COUNT; i++)
        if (generation->manifest.files[i].bytes != 0 ||
            !generation_file_optional((enum generation_file)i))
            status = data_file_open(generation, directory_fd, (enum generation_file)i, err);
    if (status != STATUS_OK) {
        generation_close(generation);
        return status;
    }
    generation->nodes_direct = set_direct(generation->fds[GENERATION_NODES]);
    (void)set_direct(generation->fds[GENERATION_KEYS]);
    *out = generation;
    return STATUS_OK;
}

enum status generation_open(const char *path, struct generation **out, struct error *err)
{
    return open_with(path, NULL, out, err);
}

enum status generation_open_unfinished(const char *path, const struct manifest *manifest,
                                       struct generation **out, struct error *err)
{
    return open_with(path, manifest, out, err);
}

void generation_close(struct generation *generation)
{
    if (!generation)
        return;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        if (generation->fds[i] >= 0)
            close(generation->fds[i]);
        free(generation->file_paths[i]);
    }
    if (generation->directory_fd >= 0)
        close(generation->directory_fd);
    free(generation->manifest_text);
    free(generation->path);
    free(generation);
}

const struct manifest *generation_manifest(const struct generation *generation)
{
    return &generation->manifest;
}

const char *generation_path(const struct generation *generation)
{
    return generation->path;
}

int generation_nodes_fd(const struct generation *generation, bool *direct)
{
    if (direct)
        *direct = generation->nodes_direct;
    return generation->fds[GENERATION_NODES];
}

int generation_keys_fd(const struct generation *generation)
{
    return generation->fds[GENERATION_KEYS];
}

/* ---- reading ---- */

enum status generation_scan_run(const struct generation *generation,
                                const struct generation_scan *scan, struct error *err)
{
    /* bulk_alloc() gives pages, which O_DIRECT needs. */
    void *buffer;
    enum status status = bulk_alloc(GENERATION_SCAN_BYTES, 1, "scan buffer", &buffer, err);
    if (status != STATUS_OK)
        return status;
    const size_t chunk_bytes = GENERATION_SCAN_BYTES / scan->unit_bytes * scan->unit_bytes;
    const uint64_t total = generation->manifest.files[scan->file].bytes;
    for (uint64_t offset = 0; status == STATUS_OK && offset < total;) {
        size_t bytes = (size_t)MIN((uint64_t)chunk_bytes, total - offset);
        status = file_read_at(generation->fds[scan->file], generation->file_paths[scan->file],
                              buffer, bytes, offset, err);
        if (status == STATUS_OK)
            status = scan->on_chunk(scan->context, offset, buffer, bytes, err);
        offset += bytes;
    }
    bulk_free(buffer, GENERATION_SCAN_BYTES, 1);
    return status;
}

enum status generation_digest_check(const struct generation *generation, enum generation_file file,
                                    struct digest128 digest, struct error *err)
{
    const struct digest128 wanted = generation->manifest.files[file].xxh3;
    if (digest.low == wanted.low && digest.high == wanted.high)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "%s: its XXH3-128 is %016" PRIx64 "%016" PRIx64
                     ", the manifest says %016" PRIx64 "%016" PRIx64,
                     file_label(generation->file_paths[file]), digest.high, digest.low, wanted.high,
                     wanted.low);
}

/* Copies into `next` and hashes while the chunk is in cache. */
struct load {
    uint8_t *data;
    XXH3_state_t *hash;
};

static enum status load_chunk(void *context, uint64_t offset, const void *data, size_t bytes,
                              struct error *err)
{
    (void)err;
    struct load *load = context;
    memcpy(load->data + offset, data, bytes);
    XXH3_128bits_update(load->hash, data, bytes);
    return STATUS_OK;
}

enum status generation_load(const struct generation *generation, enum generation_file file,
                            void **data, size_t *bytes, struct error *err)
{
    const size_t total = (size_t)generation->manifest.files[file].bytes;
    void *memory;
    enum status status = bulk_alloc(total, 1, generation_file_names[file], &memory, err);
    if (status != STATUS_OK)
        return status;
    struct load load = {.data = memory, .hash = XXH3_createState()};
    if (!load.hash || XXH3_128bits_reset(load.hash) != XXH_OK)
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory",
                           file_label(generation->file_paths[file]));
    if (status == STATUS_OK) {
        struct generation_scan scan = {file, BLOCK_PAGE_BYTES, load_chunk, &load};
        status = generation_scan_run(generation, &scan, err);
    }
    if (status == STATUS_OK)
        status = generation_digest_check(generation, file,
                                         digest_of(XXH3_128bits_digest(load.hash)), err);
    XXH3_freeState(load.hash);
    if (status != STATUS_OK) {
        bulk_free(memory, total, 1);
        return status;
    }
    *data = memory;
    *bytes = total;
    return STATUS_OK;
}

enum status generation_read(const struct generation *generation, enum generation_file file,
                            void *data, size_t bytes, struct error *err)
{
    return file_read_at(generation->fds[file], generation->file_paths[file], data, bytes, 0, err);
}

enum status generation_map(const struct generation *generation, enum generation_file file,
                           const void **data, size_t *bytes, struct error *err)
{
    const size_t total = (size_t)generation->manifest.files[file].bytes;
    void *mapped = mmap(NULL, total, PROT_READ, MAP_SHARED, generation->fds[file], 0);
    if (mapped == MAP_FAILED)
        return error_set_os(err, errno, "%s: cannot map", file_label(generation->file_paths[file]));
    enum status status =
        generation_digest_check(generation, file, digest_of(XXH3_128bits(mapped, total)), err);
    if (status != STATUS_OK) {
        munmap(mapped, total);
        return status;
    }
    *data = mapped;
    *bytes = total;
    return STATUS_OK;
}

void generation_unmap(const void *data, size_t bytes)
{
    if (data)
        munmap((void *)(uintptr_t)data, bytes);
}

static enum status digest_chunk(void *context, uint64_t offset, const void *data, size_t bytes,
                                struct error *err)
{
    (void)offset;
    (void)err;
    XXH3_128bits_update(context, data, bytes);
    return STATUS_OK;
}

enum status generation_digest(const struct generation *generation, struct digest128 *digest,
                              struct error *err)
{
    XXH3_state_t *hash = XXH3_createState();
    if (!hash || XXH3_128bits_reset(hash) != XXH_OK) {
        XXH3_freeState(hash);
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(generation->path));
    }
    /* The manifest gives the lengths of the rest, so the plain concatenation is unambiguous. */
    XXH3_128bits_update(hash, generation->manifest_text, generation->manifest_bytes);
    enum status status = STATUS_OK;
    for (int i = 0; status == STATUS_OK && i < GENERATION_FILE_COUNT; i++) {
        struct generation_scan scan = {(enum generation_file)i, BLOCK_PAGE_BYTES, digest_chunk,
                                       hash};
        status = generation_scan_run(generation, &scan, err);
    }
    if (status == STATUS_OK)
        *digest = digest_of(XXH3_128bits_digest(hash));
    XXH3_freeState(hash);
    return status;
}
