/*
 * work_internal.h - what the files of the work module share: the handle, file names, records.
 *
 * work.c has the directory (open, lock, job, removal), work_record.c records, work_output.c and
 * work_input.c the files of pieces. A struct work does not change after work_open(), so threads
 * share it without a lock.
 */
#ifndef NIGHTJAR_BUILDER_WORK_INTERNAL_H
#define NIGHTJAR_BUILDER_WORK_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "builder/work.h"

enum {
    WORK_NAME_BYTES = 64,       /* "navigation-4294967294.PART" with its NUL */
    WORK_TEMPORARY_BYTES = 128, /* that with ".PID-CLOCK.tmp" */
    WORK_LABEL_BYTES = 320,     /* the directory, as file_label() cuts it, and a name */
    WORK_RECORD_BYTES_MAX = 64 << 20,
};

#define WORK_RECORD_PART "done" /* the record's place among a piece's file names */

struct work {
    char *path; /* no slash at its end, unless it is "/" */
    int directory_fd;
    int lock_fd;
    uint64_t job_hash; /* XXH3-64 of the job text */
    bool same_job;     /* as work_same_job() */
};

/* ---- names (work.c) ---- */

/* True if `part` can name a file of a piece: a-z, 0-9, '-' and '_', and not a name with a meaning
 * of its own. */
bool work_part_valid(const char *part);

/* "STAGE.PART" or "STAGE-SHARD.PART". */
void work_name(struct work_piece piece, const char *part, char name[WORK_NAME_BYTES]);

/* "NAME.PID-CLOCK.tmp", of this process and this moment only: another process may be making the
 * same file, perhaps in another PID namespace. */
void work_temporary_name(const char *name, char temporary[WORK_TEMPORARY_BYTES]);

/* "DIR/NAME" for messages. */
void work_label(const struct work *work, const char *name, char label[WORK_LABEL_BYTES]);

/* ---- whole small files (work.c) ---- */

/* Reads all of `name`; *data is malloc'd, the caller's, and has a NUL behind its end.
 * STATUS_NOT_FOUND: no such file. STATUS_CORRUPT: no regular file, or longer than bytes_max. */
NODISCARD enum status work_read_whole(const struct work *work, const char *name, size_t bytes_max,
                                      uint8_t **data, size_t *bytes, struct error *err);

/* Writes `name` whole or not at all; on failure the old one stands. It is durable once the caller
 * has flushed the directory. Unlike with store_write_text(), two processes may do so at a time. */
NODISCARD enum status work_write_whole(const struct work *work, const char *name, const void *data,
                                       size_t bytes, struct error *err);

/* ---- records (work_record.c) ---- */

/* On disk as in memory. */
struct work_section {
    uint64_t bytes;
    uint64_t digest_low; /* XXH3-128 */
    uint64_t digest_high;
};

struct work_record_file {
    const char *part;
    const struct work_section *sections;
    uint32_t section_count;
};

struct work_record {
    struct work_piece piece;
    struct build_stage_record cost;
    const void *info;
    uint32_t info_bytes; /* up to WORK_INFO_BYTES_MAX */
    uint32_t file_count;
    struct work_record_file *files;
    uint8_t *image; /* of a loaded record: what all pointers above but `files` lead into */
};

/* The bytes of `record` for this job; *image is malloc'd, the caller's. */
NODISCARD enum status work_record_encode(const struct work *work, const struct work_record *record,
                                         uint8_t **image, size_t *image_bytes, struct error *err);

/* Loads the record of `piece`. STATUS_NOT_FOUND: there is none. STATUS_CORRUPT: it is damaged, or
 * of another piece or job. On success the caller finishes *record. */
NODISCARD enum status work_record_load(const struct work *work, struct work_piece piece,
                                       struct work_record *record, struct error *err);
/* An empty record is fine. */
void work_record_fini(struct work_record *record);

/* Sum of the sections' bytes of `file`; false when it overflows. */
NODISCARD bool work_record_file_bytes(const struct work_record_file *file, uint64_t *bytes);

/* STATUS_OK: the piece is finished. STATUS_NOT_FOUND: it has no record. STATUS_CORRUPT: record or
 * files are damaged. Anything else: it cannot be told now. */
NODISCARD enum status work_piece_check(const struct work *work, struct work_piece piece,
                                       struct error *err);

/* Forgets the piece and reports STATUS_CORRUPT: `reason` about its file `part`, and what to do. */
enum status work_piece_discard(const struct work *work, struct work_piece piece, const char *part,
                               const char *reason, struct error *err);

#endif
