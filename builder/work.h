/*
 * work.h - the work directory of a build: finished pieces, each with a checksummed record.
 *
 * A piece is a stage, or a stage's part for one shard. It consists of files, "STAGE.PART" or
 * "STAGE-SHARD.PART", and a small record, "STAGE.done" or "STAGE-SHARD.done", which is written last
 * (temporary name, fsync, rename, fsync of the directory): a piece without a record does not exist,
 * whatever files of it lie there. The record holds the length and XXH3-128 of every section of
 * every file, so damage is found when a file is read; a piece that proves damaged loses its record,
 * and the next run makes it anew.
 *
 * The file "job" names the input and every parameter that the bytes depend on; a directory of
 * another job is refused. Two processes may work in one directory if both hold it shared: on
 * distinct pieces, though nothing breaks if they make the same one. A process that runs the whole
 * build holds it alone (flock of "lock", so a process that dies lets go).
 *
 * Layout of a record: work_record.c. Records never leave the machine's builder; another build of
 * the program is kept from them by the job text.
 *
 * A struct work may be used by several threads at once for distinct pieces. Outputs and inputs
 * belong to one thread each. All changes of the disk but deletions go through layout/store.h. File
 * names are ASCII; a part is a short word of a-z, 0-9, '-' and '_', not "done".
 */
#ifndef NIGHTJAR_BUILDER_WORK_H
#define NIGHTJAR_BUILDER_WORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "builder/build_report.h"
#include "common/error.h"

struct work;

#define WORK_WHOLE UINT32_MAX /* the shard of a piece that is not of one shard */

struct work_piece {
    enum build_stage stage;
    uint32_t shard; /* or WORK_WHOLE */
};

enum work_hold {
    WORK_ALONE,  /* this process runs the whole build */
    WORK_SHARED, /* one of several that run single pieces */
};

enum {
    WORK_INFO_BYTES_MAX = 1 << 20,
    WORK_BUFFER_BYTES = 256 << 10, /* of an output or input, unless another size is asked for */
    WORK_PART_BYTES = 32,          /* a part's name with its NUL */
    WORK_FILES_MAX = 4096,         /* of one piece; the partition into 1000 shards has 2001 */
    WORK_SECTIONS_MAX = 65536,     /* of one file; a shard's lists for 1000 others have 1000 */
};

/* Opens `path`, making it (not its parent) where it is missing. `job` is lines of "name value\n",
 * at most 1 MiB; it is written into a new directory and compared with that of an old one. One
 * without a finished piece is taken over, if held alone.
 *
 * Held alone, it is cleared of what cannot be of use: temporaries of processes that died, damaged
 * records, and files without a record. The process's soft limit of open files is raised to the hard
 * one where it is low.
 *
 * STATUS_EXISTS: another job's, naming the first line that differs ("DIR: holds the work of another
 * build: degree 32, this one has 64; finish that one or delete the directory"); or not empty and
 * without a "job"; or held by another process in a way that excludes this one. STATUS_CORRUPT: its
 * job cannot be read as text. STATUS_IO, STATUS_NO_MEMORY: an OS call failed; a directory that was
 * made is removed. On success *out is the caller's. */
NODISCARD enum status work_open(const char *path, const char *job, enum work_hold hold,
                                struct work **out, struct error *err);
/* The number in line `name` of the job of directory `path`, which may not be there; false if it is
 * not or has none. For a parameter that is chosen by what the machine can spare: a build that goes
 * on takes what it began with. */
bool work_job_number(const char *path, const char *name, uint64_t *value);

/* Releases; files stay. Inputs and outputs are to be closed before. NULL is fine. */
void work_close(struct work *work);
/* Deletes every file of ours, then the directory (which stays if something else is in it), and
 * releases. Nothing is deleted while another process holds the directory too. Errors are not
 * reported: the build is done. NULL is fine. */
void work_remove(struct work *work);

/* As it was given, without slashes at its end; lives as long as `work`. */
const char *work_path(const struct work *work);

/* True if the directory held this very job when it was opened: an earlier run began it. */
bool work_same_job(const struct work *work);

/* True if no piece is finished. Reads all records. */
bool work_is_empty(const struct work *work);

/* ---- pieces ---- */

/* The piece has a sound record of this job, and its files have the recorded lengths. False too when
 * that cannot be read at the moment. Reads the record, and looks at each file's length. */
bool work_piece_done(const struct work *work, struct work_piece piece);

/* What a piece tells in a few bytes, beside its files: info (layout is the stage's business) and
 * what it cost. `info` and `cost` may be NULL; both are written on success only. STATUS_NOT_FOUND:
 * the piece is not finished. STATUS_CORRUPT: the record is damaged or its info is not of
 * `info_bytes` bytes (not looked at when `info` is NULL); the piece is forgotten. */
NODISCARD enum status work_piece_read(const struct work *work, struct work_piece piece, void *info,
                                      size_t info_bytes, struct build_stage_record *cost,
                                      struct error *err);

/* Takes the record away; the next run makes the piece anew. Errors are not reported. */
void work_piece_forget(const struct work *work, struct work_piece piece);

/* ---- writing a piece ---- */

struct work_output;

/* Starts file `part` of `piece` (a short word: "lists") under a temporary name, with a buffer of
 * buffer_bytes (0: WORK_BUFFER_BYTES). `work` outlives the output, which is the caller's until the
 * commit. One file descriptor. */
NODISCARD enum status work_output_open(struct work *work, struct work_piece piece, const char *part,
                                       size_t buffer_bytes, struct work_output **out,
                                       struct error *err);
/* After a failure the output is of no use but to be aborted; so is its piece's commit. */
NODISCARD enum status work_output_append(struct work_output *output, const void *data, size_t bytes,
                                         struct error *err);
/* Ends the present section; what is appended next is in another one. A file has at least one
 * section, perhaps empty; the last one is ended by the commit. At most WORK_SECTIONS_MAX. Want of
 * memory is told by the next append, or the commit. */
void work_output_section(struct work_output *output);
/* Bytes appended to the whole file so far. */
uint64_t work_output_bytes(const struct work_output *output);
/* Removes the temporary file and releases. NULL is fine. */
void work_output_abort(struct work_output *output);

/* Finishes all `outputs` of the piece (all are written out and fsynced, then all renamed, then the
 * directory fsynced) and writes its record. Up to WORK_FILES_MAX outputs of distinct parts; none is
 * fine, for a piece that is all info. Up to WORK_INFO_BYTES_MAX of info. The record (24 bytes a
 * section) may have up to 64 MiB.
 *
 * Releases the outputs in any case and sets them to NULL. On success cost->written_bytes is raised
 * by the sum of the outputs' bytes. On failure (STATUS_IO, STATUS_NO_MEMORY) the piece is not
 * finished and its files are removed, unless another process has finished it. */
NODISCARD enum status work_piece_commit(struct work *work, struct work_piece piece,
                                        struct work_output **outputs, size_t output_count,
                                        const void *info, size_t info_bytes,
                                        struct build_stage_record *cost, struct error *err);

/* ---- reading a piece ---- */

struct work_input;

/* Section `section` (0: the first) of file `part` of a finished piece, from its start, with a
 * buffer of buffer_bytes (0: WORK_BUFFER_BYTES). Reads the record. `work` outlives the input. One
 * file descriptor. STATUS_NOT_FOUND: the piece has no record. STATUS_CORRUPT: its record is
 * damaged, does not know the section, or is not true of the file's length; the piece is forgotten.
 */
NODISCARD enum status work_input_open(const struct work *work, struct work_piece piece,
                                      const char *part, uint32_t section, size_t buffer_bytes,
                                      struct work_input **out, struct error *err);
/* Bytes of the section not read yet. */
uint64_t work_input_left(const struct work_input *input);
/* Reads exactly `bytes`; more than are left is STATUS_CORRUPT. Large reads bypass the buffer. The
 * section's checksum is verified when its last byte comes from the file, at the latest by the read
 * that takes it: STATUS_CORRUPT ("DIR/graph-00003.lists: checksum mismatch; the piece is discarded:
 * run the same command again"), and the piece is forgotten. So nothing read may be relied upon
 * before the section was read to its end. After STATUS_CORRUPT nothing is left. */
NODISCARD enum status work_input_read(struct work_input *input, void *to, size_t bytes,
                                      struct error *err);
/* STATUS_OK if the section was read to its end, and so verified. Else as work_input_discard(). For
 * whoever learns how much to read from what was read. */
NODISCARD enum status work_input_end(struct work_input *input, struct error *err);
/* What was read cannot be what was written: forgets the piece and reports STATUS_CORRUPT, `reason`
 * and what to do. For bytes that are looked at before their checksum is. */
enum status work_input_discard(struct work_input *input, const char *reason, struct error *err);
/* NULL is fine. */
void work_input_close(struct work_input *input);

#endif
