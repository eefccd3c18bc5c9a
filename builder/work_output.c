/*
 * work_output.c - writing the files of a piece, and the commit that makes it finished.
 *
 * The order of a commit is what makes it crash-safe: all files written, fsynced and closed; then
 * renamed; the directory fsynced; then the record, in the same way. A crash at any point leaves a
 * piece with a record whose files are durable, or one without.
 *
 * Two processes may make the same piece at a time. Their temporaries have distinct names, their
 * bytes are the same (a build is deterministic), and a rename replaces a file by its like, so
 * either's record is true of whichever files stay. Should the bytes differ after all, the checksums
 * tell. A process that fails takes nothing away from a piece that another has finished.
 *
 * An output belongs to one thread.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/work_internal.h"
#include "common/file_io.h"
#include "layout/store.h"

struct work_output {
    const struct work *work;
    struct work_piece piece;
    char part[WORK_PART_BYTES];
    char name[WORK_NAME_BYTES];
    char temporary[WORK_TEMPORARY_BYTES];
    struct store_file file;
    enum { OUTPUT_NO_FILE, OUTPUT_TEMPORARY, OUTPUT_RENAMED } state;

    uint8_t *buffer;
    size_t capacity;
    size_t used;
    size_t hashed; /* bytes of the buffer that are in the checksum already; <= used */

    uint64_t bytes;         /* of the whole file, with those in the buffer */
    uint64_t section_start; /* `bytes` when the present section began */
    XXH3_state_t *hash;     /* of the present section */
    struct work_section *sections;
    uint32_t section_count; /* ended ones */
    uint32_t section_capacity;

    enum status failed; /* of the first call that failed: the file is of no use then */
};

/* ---- one file ---- */

static void output_release(struct work_output *output)
{
    enum status ignored = store_close(&output->file, NULL); /* its error was told, or is moot */
    (void)ignored;
    XXH3_freeState(output->hash);
    free(output->sections);
    free(output->buffer);
    free(output);
}

void work_output_abort(struct work_output *output)
{
    if (!output)
        return;
    if (output->state == OUTPUT_TEMPORARY)
        unlinkat(output->work->directory_fd, output->temporary, 0);
    output_release(output);
}

enum status work_output_open(struct work *work, struct work_piece piece, const char *part,
                             size_t buffer_bytes, struct work_output **out, struct error *err)
{
    assert(work_part_valid(part));
    struct work_output *output = calloc(1, sizeof(*output));
    if (!output)
        return error_set(err, STATUS_NO_MEMORY, "%s: no memory for an output of %s",
                         file_label(work->path), build_stage_name(piece.stage));
    output->work = work;
    output->piece = piece;
    output->file.fd = -1;
    memcpy(output->part, part, strlen(part));
    work_name(piece, part, output->name);
    work_temporary_name(output->name, output->temporary);
    output->capacity = buffer_bytes ? buffer_bytes : WORK_BUFFER_BYTES;
    output->buffer = malloc(output->capacity);
    output->hash = XXH3_createState();
    enum status status;
    if (!output->buffer || !output->hash || XXH3_128bits_reset(output->hash) != XXH_OK)
        status = error_set(err, STATUS_NO_MEMORY, "%s/%s: no memory for a buffer of %zu bytes",
                           file_label(work->path), output->name, output->capacity);
    else
        status =
            store_create(&output->file, work->directory_fd, work->path, output->temporary, err);
    if (status != STATUS_OK) {
        work_output_abort(output);
        return status;
    }
    output->state = OUTPUT_TEMPORARY;
    *out = output;
    return STATUS_OK;
}

static void buffer_hash(struct work_output *output)
{
    XXH3_128bits_update(output->hash, output->buffer + output->hashed,
                        output->used - output->hashed);
    output->hashed = output->used;
}

static enum status buffer_write(struct work_output *output, struct error *err)
{
    buffer_hash(output);
    enum status status = store_append(&output->file, output->buffer, output->used, err);
    output->used = 0;
    output->hashed = 0;
    return status;
}

static enum status output_refuse(const struct work_output *output, struct error *err)
{
    return error_set(err, output->failed, "%s/%s: an earlier call failed",
                     file_label(output->work->path), output->name);
}

enum status work_output_append(struct work_output *output, const void *data, size_t bytes,
                               struct error *err)
{
    const uint8_t *next = data;
    if (output->failed != STATUS_OK)
        return output_refuse(output, err);
    output->bytes += bytes;
    while (bytes > 0) {
        if (output->used == 0 && bytes >= output->capacity) {
            XXH3_128bits_update(output->hash, next, bytes);
            output->failed = store_append(&output->file, next, bytes, err);
            return output->failed;
        }
        size_t part = MIN(bytes, output->capacity - output->used);
        memcpy(output->buffer + output->used, next, part);
        output->used += part;
        next += part;
        bytes -= part;
        if (output->used == output->capacity)
            output->failed = buffer_write(output, err);
        if (output->failed != STATUS_OK)
            return output->failed;
    }
    return STATUS_OK;
}

void work_output_section(struct work_output *output)
{
    assert(output->section_count < WORK_SECTIONS_MAX);
    if (output->section_count == output->section_capacity) {
        uint32_t capacity = output->section_capacity ? output->section_capacity * 2 : 4;
        struct work_section *sections =
            realloc(output->sections, capacity * sizeof(*output->sections));
        if (!sections) { /* told by the next append, or the commit */
            output->failed = STATUS_NO_MEMORY;
            return;
        }
        output->sections = sections;
        output->section_capacity = capacity;
    }
    buffer_hash(output);
    XXH128_hash_t digest = XXH3_128bits_digest(output->hash);
    output->sections[output->section_count++] =
        (struct work_section){.bytes = output->bytes - output->section_start,
                              .digest_low = digest.low64,
                              .digest_high = digest.high64};
    XXH3_128bits_reset(output->hash);
    output->section_start = output->bytes;
}

uint64_t work_output_bytes(const struct work_output *output)
{
    return output->bytes;
}

/* Makes the file's bytes durable, under the temporary name as yet. */
static enum status output_finish(struct work_output *output, struct error *err)
{
    if (output->failed == STATUS_OK)
        work_output_section(output);
    if (output->failed != STATUS_OK)
        return output_refuse(output, err);
    enum status status = buffer_write(output, err);
    if (status == STATUS_OK)
        status = store_sync(&output->file, err);
    if (status == STATUS_OK)
        status = store_close(&output->file, err);
    return status;
}

/* ---- the piece ---- */

static enum status outputs_finish(struct work *work, struct work_output **outputs, size_t count,
                                  struct error *err)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < count; i++)
        status = output_finish(outputs[i], err);
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        status = store_rename(work->directory_fd, work->path, outputs[i]->temporary,
                              outputs[i]->name, err);
        if (status == STATUS_OK)
            outputs[i]->state = OUTPUT_RENAMED;
    }
    if (status == STATUS_OK && count > 0)
        status = store_sync_directory(work->directory_fd, work->path, err);
    return status;
}

static enum status record_write(const struct work *work, struct work_record *record,
                                struct work_output **outputs, struct error *err)
{
    char name[WORK_NAME_BYTES];
    uint8_t *image = NULL;
    size_t image_bytes;
    work_name(record->piece, WORK_RECORD_PART, name);
    record->files = calloc((size_t)record->file_count + 1, sizeof(*record->files));
    if (!record->files)
        return error_set(err, STATUS_NO_MEMORY, "%s/%s: out of memory", file_label(work->path),
                         name);
    for (uint32_t i = 0; i < record->file_count; i++)
        record->files[i] = (struct work_record_file){.part = outputs[i]->part,
                                                     .sections = outputs[i]->sections,
                                                     .section_count = outputs[i]->section_count};
    enum status status = work_record_encode(work, record, &image, &image_bytes, err);
    if (status == STATUS_OK)
        status = work_write_whole(work, name, image, image_bytes, err);
    free(image);
    free(record->files);
    record->files = NULL;
    return status;
}

/* After a failure: files that no record speaks of go. */
static void outputs_discard(const struct work *work, struct work_piece piece,
                            struct work_output **outputs, size_t count)
{
    if (work_piece_done(work, piece))
        return;
    for (size_t i = 0; i < count; i++)
        if (outputs[i]->state == OUTPUT_RENAMED)
            unlinkat(work->directory_fd, outputs[i]->name, 0);
}

enum status work_piece_commit(struct work *work, struct work_piece piece,
                              struct work_output **outputs, size_t output_count, const void *info,
                              size_t info_bytes, struct build_stage_record *cost, struct error *err)
{
    assert(output_count <= WORK_FILES_MAX && info_bytes <= WORK_INFO_BYTES_MAX);
    struct work_record record = {
        .piece = piece,
        .cost = *cost,
        .info = info,
        .info_bytes = (uint32_t)info_bytes,
        .file_count = (uint32_t)output_count,
    };
    for (size_t i = 0; i < output_count; i++) {
        assert(outputs[i]->work == work && outputs[i]->piece.stage == piece.stage &&
               outputs[i]->piece.shard == piece.shard);
        record.cost.written_bytes += outputs[i]->bytes;
    }
    /* A record that stands but is not true of its files must not become true of half of ours. */
    bool finished_before = work_piece_done(work, piece);
    if (!finished_before)
        work_piece_forget(work, piece);
    enum status status = outputs_finish(work, outputs, output_count, err);
    if (status == STATUS_OK)
        status = record_write(work, &record, outputs, err);
    if (status == STATUS_OK) {
        status = store_sync_directory(work->directory_fd, work->path, err);
        if (status != STATUS_OK && !finished_before)
            work_piece_forget(work, piece); /* it might not outlive a power cut */
    }
    if (status == STATUS_OK)
        *cost = record.cost;
    else
        outputs_discard(work, piece, outputs, output_count);
    for (size_t i = 0; i < output_count; i++) {
        work_output_abort(outputs[i]); /* a renamed one has no temporary file any more */
        outputs[i] = NULL;
    }
    return status;
}
