/*
 * work_input.c - reading a section of a finished piece, and finding that it is not what was
 * written.
 *
 * Bytes are hashed as they come from the file, in pieces as large as the buffer, so that reads of a
 * few bytes cost no more than a copy. Ordinary buffered reads: what was just written is often in
 * the page cache still, and the kernel reads ahead.
 *
 * An input belongs to one thread; any number may read one file.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/work_internal.h"
#include "common/file_io.h"

struct work_input {
    const struct work *work;
    struct work_piece piece;
    char part[WORK_PART_BYTES];
    char label[WORK_LABEL_BYTES];
    int fd;
    uint32_t section_number;
    struct work_section section; /* what is wanted */
    uint64_t offset;             /* in the file, of the next byte to fetch */
    uint64_t unfetched;          /* bytes of the section that did not come from the file yet */
    XXH3_state_t *hash;

    uint8_t *buffer;
    size_t capacity;
    size_t filled;
    size_t taken; /* <= filled */
};

void work_input_close(struct work_input *input)
{
    if (!input)
        return;
    if (input->fd >= 0)
        close(input->fd);
    XXH3_freeState(input->hash);
    free(input->buffer);
    free(input);
}

/* Nothing more can be read from an input that failed. */
enum status work_input_discard(struct work_input *input, const char *reason, struct error *err)
{
    input->unfetched = 0;
    input->filled = 0;
    input->taken = 0;
    return work_piece_discard(input->work, input->piece, input->part, reason, err);
}

/* ---- opening ---- */

/* Finds the section in the record: where it starts and what it should be, and how long the file is.
 */
static enum status section_find(struct work_input *input, uint64_t *file_bytes, struct error *err)
{
    struct work_record record;
    const struct work_record_file *file = NULL;
    enum status status = work_record_load(input->work, input->piece, &record, err);
    if (status == STATUS_CORRUPT)
        return work_piece_discard(input->work, input->piece, WORK_RECORD_PART, "is damaged", err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; !file && i < record.file_count; i++)
        if (strcmp(record.files[i].part, input->part) == 0)
            file = &record.files[i];
    if (!file || input->section_number >= file->section_count ||
        !work_record_file_bytes(file, file_bytes)) {
        status =
            work_input_discard(input, "its record lacks the file or section that is wanted", err);
    } else {
        for (uint32_t i = 0; i < input->section_number; i++)
            input->offset += file->sections[i].bytes;
        input->section = file->sections[input->section_number];
        input->unfetched = input->section.bytes;
    }
    work_record_fini(&record);
    return status;
}

static enum status file_open(struct work_input *input, const char *name, uint64_t wanted_bytes,
                             struct error *err)
{
    struct stat info;
    char reason[96];
    input->fd =
        openat(input->work->directory_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (input->fd < 0 && errno == ENOENT)
        return work_input_discard(input, "is missing", err);
    if (input->fd < 0)
        return error_set_os(err, errno, "%s: cannot open", input->label);
    if (fstat(input->fd, &info) != 0)
        return error_set_os(err, errno, "%s: cannot stat", input->label);
    if (!S_ISREG(info.st_mode))
        return work_input_discard(input, "is no regular file", err);
    if ((uint64_t)info.st_size == wanted_bytes)
        return STATUS_OK;
    snprintf(reason, sizeof(reason), "has %" PRIu64 " bytes, its record says %" PRIu64,
             (uint64_t)info.st_size, wanted_bytes);
    return work_input_discard(input, reason, err);
}

enum status work_input_open(const struct work *work, struct work_piece piece, const char *part,
                            uint32_t section, size_t buffer_bytes, struct work_input **out,
                            struct error *err)
{
    char name[WORK_NAME_BYTES];
    uint64_t file_bytes = 0;
    assert(work_part_valid(part));
    work_name(piece, part, name);
    struct work_input *input = calloc(1, sizeof(*input));
    if (!input)
        return error_set(err, STATUS_NO_MEMORY, "%s/%s: no memory to read it",
                         file_label(work->path), name);
    *input = (struct work_input){.work = work, .piece = piece, .fd = -1, .section_number = section};
    memcpy(input->part, part, strlen(part));
    work_label(work, name, input->label);
    input->capacity = buffer_bytes ? buffer_bytes : WORK_BUFFER_BYTES;
    input->buffer = malloc(input->capacity);
    input->hash = XXH3_createState();
    enum status status = STATUS_OK;
    if (!input->buffer || !input->hash || XXH3_128bits_reset(input->hash) != XXH_OK)
        status = error_set(err, STATUS_NO_MEMORY, "%s: no memory for a buffer of %zu bytes",
                           input->label, input->capacity);
    if (status == STATUS_OK)
        status = section_find(input, &file_bytes, err);
    if (status == STATUS_OK)
        status = file_open(input, name, file_bytes, err);
    if (status == STATUS_OK)
        *out = input;
    else
        work_input_close(input);
    return status;
}

/* ---- reading ---- */

uint64_t work_input_left(const struct work_input *input)
{
    return input->unfetched + (input->filled - input->taken);
}

/* The next `bytes` from the file, no more than are unfetched; the last ones verify the section. */
static enum status fetch(struct work_input *input, void *to, size_t bytes, struct error *err)
{
    enum status status = file_read_at(input->fd, input->label, to, bytes, input->offset, err);
    if (status == STATUS_CORRUPT)
        return work_input_discard(input, "was truncated while it was read", err);
    if (status != STATUS_OK)
        return status;
    XXH3_128bits_update(input->hash, to, bytes);
    input->offset += bytes;
    input->unfetched -= bytes;
    if (input->unfetched > 0)
        return STATUS_OK;
    XXH128_hash_t digest = XXH3_128bits_digest(input->hash);
    if (digest.low64 != input->section.digest_low || digest.high64 != input->section.digest_high)
        return work_input_discard(input, "checksum mismatch", err);
    return STATUS_OK;
}

enum status work_input_read(struct work_input *input, void *to, size_t bytes, struct error *err)
{
    uint8_t *next = to;
    if (bytes > work_input_left(input)) {
        char reason[128];
        snprintf(reason, sizeof(reason),
                 "section %" PRIu32 " has %" PRIu64 " bytes left, wanted %zu",
                 input->section_number, work_input_left(input), bytes);
        return work_input_discard(input, reason, err);
    }
    while (bytes > 0) {
        enum status status = STATUS_OK;
        if (input->taken == input->filled) {
            input->taken = 0;
            input->filled = 0;
            if (bytes >= input->capacity)
                return fetch(input, next, bytes, err);
            size_t part = (size_t)MIN(input->unfetched, (uint64_t)input->capacity);
            status = fetch(input, input->buffer, part, err);
            if (status != STATUS_OK)
                return status;
            input->filled = part;
        }
        size_t part = MIN(bytes, input->filled - input->taken);
        memcpy(next, input->buffer + input->taken, part);
        input->taken += part;
        next += part;
        bytes -= part;
    }
    return STATUS_OK;
}

enum status work_input_end(struct work_input *input, struct error *err)
{
    char reason[96];
    uint64_t left = work_input_left(input);
    if (left == 0)
        return STATUS_OK;
    snprintf(reason, sizeof(reason), "section %" PRIu32 " has %" PRIu64 " bytes behind its end",
             input->section_number, left);
    return work_input_discard(input, reason, err);
}
