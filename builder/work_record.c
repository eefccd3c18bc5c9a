/*
 * work_record.c - the record that makes a piece finished: its bytes, and what is asked of it.
 *
 * All fields are little-endian and 8-aligned from the start of the file, so that a record read into
 * allocated memory is used in place:
 *
 *   struct record_head                  72 bytes
 *   info                                info_bytes, then zeros up to a multiple of 8
 *   file_count times:
 *     struct record_file                40 bytes
 *     struct work_section               24 bytes, section_count times
 *   XXH3-64 of all bytes before         8 bytes
 *
 * A record names its job and piece, so one that was copied here or renamed is refused. The checksum
 * is looked at first; lengths are checked nevertheless, each before it is used: a checksum is no
 * proof of a sound writer.
 *
 * Stateless; any thread.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/work_internal.h"
#include "common/file_io.h"
#include "common/load.h"
#include "common/memory.h"

#define RECORD_MAGIC "NJPIECE" /* with its NUL: 8 bytes */

enum { RECORD_VERSION = 1, RECORD_ALIGNMENT = 8 };

struct record_head {
    char magic[8];
    uint64_t job_hash;
    uint32_t version;
    uint32_t stage;
    uint32_t shard;
    uint32_t info_bytes;
    uint32_t file_count;
    uint32_t reserved; /* 0 */
    double wall_s;
    double cpu_s;
    uint64_t peak_rss_bytes;
    uint64_t written_bytes;
};

struct record_file {
    char part[WORK_PART_BYTES]; /* zeros behind its end */
    uint32_t section_count;
    uint32_t reserved; /* 0 */
};

_Static_assert(sizeof(struct record_head) == 72, "struct record_head is the head on disk");
_Static_assert(offsetof(struct record_head, wall_s) == 40, "no padding");
_Static_assert(sizeof(struct record_file) == 40, "struct record_file is the entry on disk");
_Static_assert(sizeof(struct work_section) == 24, "struct work_section is the section on disk");
_Static_assert(sizeof(double) == 8, "seconds are IEEE doubles on disk");

/* ---- encode ---- */

static void put(uint8_t **cursor, const void *data, size_t bytes)
{
    if (bytes > 0)
        memcpy(*cursor, data, bytes);
    *cursor += bytes;
}

static size_t image_length(const struct work_record *record)
{
    size_t bytes = sizeof(struct record_head) + size_align(record->info_bytes, RECORD_ALIGNMENT) +
                   sizeof(uint64_t);
    for (uint32_t i = 0; i < record->file_count; i++)
        bytes += sizeof(struct record_file) +
                 record->files[i].section_count * sizeof(struct work_section);
    return bytes;
}

enum status work_record_encode(const struct work *work, const struct work_record *record,
                               uint8_t **image, size_t *image_bytes, struct error *err)
{
    assert(record->info_bytes <= WORK_INFO_BYTES_MAX && record->file_count <= WORK_FILES_MAX);
    const size_t bytes = image_length(record);
    assert(bytes <= WORK_RECORD_BYTES_MAX);
    uint8_t *data = calloc(1, bytes);
    if (!data)
        return error_set(err, STATUS_NO_MEMORY, "%s: no memory for a record of %zu bytes",
                         file_label(work->path), bytes);
    const struct record_head head = {
        .magic = RECORD_MAGIC,
        .job_hash = work->job_hash,
        .version = RECORD_VERSION,
        .stage = (uint32_t)record->piece.stage,
        .shard = record->piece.shard,
        .info_bytes = record->info_bytes,
        .file_count = record->file_count,
        .wall_s = record->cost.wall_s,
        .cpu_s = record->cost.cpu_s,
        .peak_rss_bytes = record->cost.peak_rss_bytes,
        .written_bytes = record->cost.written_bytes,
    };
    uint8_t *cursor = data;
    put(&cursor, &head, sizeof(head));
    put(&cursor, record->info, record->info_bytes);
    cursor = data + size_align((size_t)(cursor - data), RECORD_ALIGNMENT);
    for (uint32_t i = 0; i < record->file_count; i++) {
        const struct work_record_file *from = &record->files[i];
        struct record_file file = {.section_count = from->section_count};
        assert(work_part_valid(from->part));
        memcpy(file.part, from->part, strlen(from->part));
        put(&cursor, &file, sizeof(file));
        put(&cursor, from->sections, from->section_count * sizeof(*from->sections));
    }
    const uint64_t hash = XXH3_64bits(data, (size_t)(cursor - data));
    put(&cursor, &hash, sizeof(hash));
    assert((size_t)(cursor - data) == bytes);
    *image = data;
    *image_bytes = bytes;
    return STATUS_OK;
}

/* ---- decode ---- */

/* What is left to be read of an image. */
struct rest {
    const uint8_t *next;
    size_t bytes;
};

/* The next `bytes`, or NULL when there are not so many. */
static const uint8_t *take(struct rest *rest, size_t bytes)
{
    if (bytes > rest->bytes)
        return NULL;
    const uint8_t *taken = rest->next;
    rest->next += bytes;
    rest->bytes -= bytes;
    return taken;
}

/* Each of the following returns what is wrong, or NULL. */

static const char *head_take(const struct work *work, struct rest *rest, struct work_record *record)
{
    struct record_head head;
    const uint8_t *bytes = take(rest, sizeof(head));
    if (!bytes)
        return "is too short";
    memcpy(&head, bytes, sizeof(head));
    if (memcmp(head.magic, RECORD_MAGIC, sizeof(head.magic)) != 0 ||
        head.version != RECORD_VERSION || head.reserved != 0)
        return "is no record of this version";
    if (head.job_hash != work->job_hash)
        return "is of another build";
    if (head.stage != (uint32_t)record->piece.stage || head.shard != record->piece.shard)
        return "is of another piece";
    if (head.info_bytes > WORK_INFO_BYTES_MAX || head.file_count > WORK_FILES_MAX)
        return "has lengths beyond their limits";
    record->cost = (struct build_stage_record){.wall_s = head.wall_s,
                                               .cpu_s = head.cpu_s,
                                               .peak_rss_bytes = head.peak_rss_bytes,
                                               .written_bytes = head.written_bytes};
    record->info_bytes = head.info_bytes;
    record->file_count = head.file_count;
    const size_t padded_bytes = size_align(head.info_bytes, RECORD_ALIGNMENT);
    const uint8_t *info = take(rest, padded_bytes);
    if (!info)
        return "is too short for its info";
    record->info = info;
    return bytes_are_zero(info + head.info_bytes, padded_bytes - head.info_bytes)
               ? NULL
               : "has info that is not padded with zeros";
}

static const char *file_take(struct rest *rest, struct work_record_file *out)
{
    const uint8_t *entry = take(rest, sizeof(struct record_file));
    if (!entry)
        return "is too short for its files";
    struct record_file file;
    memcpy(&file, entry, sizeof(file));
    size_t length = strnlen(file.part, sizeof(file.part));
    if (length == sizeof(file.part) || !work_part_valid(file.part) ||
        !bytes_are_zero(file.part + length, sizeof(file.part) - length) || file.reserved != 0)
        return "names a file in a way that is not ours";
    if (file.section_count == 0 || file.section_count > WORK_SECTIONS_MAX)
        return "has a file with an impossible count of sections";
    const uint8_t *sections = take(rest, file.section_count * sizeof(struct work_section));
    if (!sections)
        return "is too short for its sections";
    *out = (struct work_record_file){
        .part = (const char *)entry + offsetof(struct record_file, part),
        .sections = (const struct work_section *)(const void *)sections,
        .section_count = file.section_count,
    };
    uint64_t bytes;
    return work_record_file_bytes(out, &bytes) ? NULL : "has a file with an impossible length";
}

/* Fills record->files, which has room for file_count of them. */
static const char *files_take(struct rest *rest, struct work_record *record)
{
    const char *fault = NULL;
    for (uint32_t i = 0; !fault && i < record->file_count; i++)
        fault = file_take(rest, &record->files[i]);
    if (!fault && rest->bytes != 0)
        fault = "has bytes behind its end";
    return fault;
}

/* Sets *rest to the bytes before the checksum. */
static const char *checksum_take(const uint8_t *image, size_t bytes, struct rest *rest)
{
    uint64_t hash;
    if (bytes < sizeof(hash))
        return "is too short";
    *rest = (struct rest){image, bytes - sizeof(hash)};
    memcpy(&hash, image + rest->bytes, sizeof(hash));
    return hash == XXH3_64bits(image, rest->bytes) ? NULL : "checksum mismatch";
}

enum status work_record_load(const struct work *work, struct work_piece piece,
                             struct work_record *record, struct error *err)
{
    char name[WORK_NAME_BYTES];
    size_t bytes;
    struct work_record loaded = {.piece = piece};
    struct rest rest;
    work_name(piece, WORK_RECORD_PART, name);
    enum status status =
        work_read_whole(work, name, WORK_RECORD_BYTES_MAX, &loaded.image, &bytes, err);
    if (status != STATUS_OK)
        return status;
    const char *fault = checksum_take(loaded.image, bytes, &rest);
    if (!fault)
        fault = head_take(work, &rest, &loaded);
    if (!fault) {
        loaded.files = calloc((size_t)loaded.file_count + 1, sizeof(*loaded.files));
        if (!loaded.files)
            status = error_set(err, STATUS_NO_MEMORY, "%s/%s: no memory to read it",
                               file_label(work->path), name);
        else
            fault = files_take(&rest, &loaded);
    }
    if (fault)
        status = error_set(err, STATUS_CORRUPT, "%s/%s: %s", file_label(work->path), name, fault);
    if (status == STATUS_OK)
        *record = loaded;
    else
        work_record_fini(&loaded);
    return status;
}

void work_record_fini(struct work_record *record)
{
    free(record->files);
    free(record->image);
    record->files = NULL;
    record->image = NULL;
}

bool work_record_file_bytes(const struct work_record_file *file, uint64_t *bytes)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < file->section_count; i++)
        if (file->sections[i].bytes > (uint64_t)INT64_MAX - sum)
            return false;
        else
            sum += file->sections[i].bytes;
    *bytes = sum;
    return true;
}

/* ---- pieces ---- */

static enum status file_check(const struct work *work, struct work_piece piece,
                              const struct work_record_file *file, struct error *err)
{
    char name[WORK_NAME_BYTES];
    struct stat info;
    uint64_t bytes = 0;
    work_name(piece, file->part, name);
    if (fstatat(work->directory_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return error_set(err, STATUS_CORRUPT, "%s/%s: is missing", file_label(work->path),
                             name);
        return error_set_os(err, errno, "%s/%s: cannot stat", file_label(work->path), name);
    }
    if (!S_ISREG(info.st_mode) || !work_record_file_bytes(file, &bytes) ||
        (uint64_t)info.st_size != bytes)
        return error_set(err, STATUS_CORRUPT,
                         "%s/%s: has %" PRIu64 " bytes, its record says %" PRIu64,
                         file_label(work->path), name, (uint64_t)info.st_size, bytes);
    return STATUS_OK;
}

enum status work_piece_check(const struct work *work, struct work_piece piece, struct error *err)
{
    struct work_record record;
    enum status status = work_record_load(work, piece, &record, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; status == STATUS_OK && i < record.file_count; i++)
        status = file_check(work, piece, &record.files[i], err);
    work_record_fini(&record);
    return status;
}

bool work_piece_done(const struct work *work, struct work_piece piece)
{
    return work_piece_check(work, piece, NULL) == STATUS_OK;
}

enum status work_piece_read(const struct work *work, struct work_piece piece, void *info,
                            size_t info_bytes, struct build_stage_record *cost, struct error *err)
{
    struct work_record record;
    enum status status = work_record_load(work, piece, &record, err);
    if (status == STATUS_CORRUPT)
        return work_piece_discard(work, piece, WORK_RECORD_PART, "is damaged", err);
    if (status != STATUS_OK)
        return status;
    if (info && record.info_bytes != info_bytes) {
        status = work_piece_discard(work, piece, WORK_RECORD_PART, "has info of another size", err);
    } else {
        if (info && info_bytes > 0)
            memcpy(info, record.info, info_bytes);
        if (cost)
            *cost = record.cost;
    }
    work_record_fini(&record);
    return status;
}

void work_piece_forget(const struct work *work, struct work_piece piece)
{
    char name[WORK_NAME_BYTES];
    work_name(piece, WORK_RECORD_PART, name);
    unlinkat(work->directory_fd, name, 0);
}

enum status work_piece_discard(const struct work *work, struct work_piece piece, const char *part,
                               const char *reason, struct error *err)
{
    char name[WORK_NAME_BYTES];
    work_name(piece, part, name);
    work_piece_forget(work, piece);
    return error_set(err, STATUS_CORRUPT,
                     "%s/%s: %s; the piece is discarded: run the same command again",
                     file_label(work->path), name, reason);
}
