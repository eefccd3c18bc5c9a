/*
 * generation.h - one immutable index directory: creating it safely, opening it, verifying it.
 *
 * Writer: files are created in the output directory itself and written by positions, in pieces, by
 * several threads or processes; manifest.json is written last, under a temporary name, fsynced and
 * renamed, then the directory and its parent are fsynced. So a killed build leaves a directory
 * without manifest.json, which nothing opens and which another writer can continue. On an orderly
 * failure generation_writer_close() leaves it to be continued, generation_writer_abort() removes
 * it.
 *
 * Reader: everything is opened read-only relative to one directory descriptor; lengths are compared
 * with the manifest at open.
 */
#ifndef NIGHTJAR_LAYOUT_GENERATION_H
#define NIGHTJAR_LAYOUT_GENERATION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/manifest.h"

/* ---- writing ---- */

struct generation_writer;

/* The builder's report on time, memory and machine: beside the data, not part of the format. */
#define GENERATION_REPORT_NAME "build-report.json"

enum generation_open_mode {
    GENERATION_CREATE,   /* nothing is there yet */
    GENERATION_CONTINUE, /* perhaps a part has been written, or is being written by others */
};

/* Opens directory `path` and its data files for writing. The parent must exist (STATUS_NOT_FOUND).
 *
 * GENERATION_CREATE makes the directory (STATUS_EXISTS if there is one, unless it is empty) and the
 * data files, empty. On failure nothing is left.
 *
 * GENERATION_CONTINUE takes the data files as they are and creates what is missing, the directory
 * too. STATUS_EXISTS when the generation is complete (manifest.json is there), or when anything but
 * data files, build-report.json and their temporaries is in the directory. Any number of writers,
 * also of other processes, may have one directory open in this way. On failure what was there
 * stays, perhaps with empty data files added; a directory that was made goes.
 *
 * *out is written on success only. A writer belongs to one thread but for
 * generation_writer_write(). */
NODISCARD enum status generation_writer_open(const char *path, enum generation_open_mode mode,
                                             struct generation_writer **out, struct error *err);

/* Writes `data` to bytes [offset, offset + bytes) of a data file, which grows as needed; what is
 * never written below its length reads as zeros. Any threads and writers may write at a time, each
 * to a range of its own. nodes.blk is written with O_DIRECT where the file system has it: `offset`,
 * `bytes` and the address `data` must be multiples of 4096 for it; other files take anything.
 * Blocks; a failed write may have written a part. */
NODISCARD enum status generation_writer_write(struct generation_writer *writer,
                                              enum generation_file file, uint64_t offset,
                                              const void *data, size_t bytes, struct error *err);

/* Writes behind what this writer has appended to the file before. The first append starts the file
 * over: what an earlier writer left in it is dropped. Not for a file that is written by positions.
 */
NODISCARD enum status generation_writer_append(struct generation_writer *writer,
                                               enum generation_file file, const void *data,
                                               size_t bytes, struct error *err);

/* Sets a data file's final length. Needed for a file written by positions where an earlier writer
 * may have left a longer one: the manifest knows not every length. Allowed while others write below
 * it.
 */
NODISCARD enum status generation_writer_set_length(struct generation_writer *writer,
                                                   enum generation_file file, uint64_t bytes,
                                                   struct error *err);

/* Brings all that was written to disk, with the files' names. On success it outlasts a power cut,
 * so a piece may be recorded as done. */
NODISCARD enum status generation_writer_sync(struct generation_writer *writer, struct error *err);

/* Receives the data files, one after another in manifest order, each from start to end without gap
 * or overlap, as they are read back from the device: the place to compare them with what was meant
 * to be written. `data` is page-aligned, lives until the return, and is a multiple of
 * geometry.block_bytes for nodes.blk. Anything but STATUS_OK ends the finish with it. */
struct generation_read_back {
    enum status (*on_chunk)(void *context, enum generation_file file, uint64_t offset,
                            const void *data, size_t bytes, struct error *err);
    /* NULL, or called when all is read back and nothing but manifest.json is missing:
     * generation_open_unfinished() opens what there is by `manifest`, which has the lengths and
     * digests, and whose facts and curves may still be filled in. Fails as on_chunk does. */
    enum status (*on_whole)(void *context, struct manifest *manifest, struct error *err);
    void *context;
};

/* Checks the manifest against the lengths of the files (STATUS_INVALID), removes an optional one
 * that is empty, fsyncs them, reads every one back in chunks of 1 MB (nodes.blk around the page
 * cache where possible) for its XXH3-128, and writes manifest.json last. `read_back` is borrowed;
 * NULL: nobody else looks. manifest->files is filled in, and the writer freed, on success only;
 * after a failure the caller closes or aborts it. All other writers must be done. */
NODISCARD enum status generation_writer_finish(struct generation_writer *writer,
                                               struct manifest *manifest,
                                               const struct generation_read_back *read_back,
                                               struct error *err);

/* Frees the writer; the files stay as they are, for GENERATION_CONTINUE. NULL is fine. */
void generation_writer_close(struct generation_writer *writer);

/* Frees the writer and removes what it is building: all it created (build-report.json too, and the
 * directory unless it was there before), or, continuing, all data files, the report, temporaries,
 * and the directory if that leaves it empty. A continued directory that has a manifest by now is
 * left whole: another has finished it, or the finish failed in nothing but its last fsync. NULL is
 * fine. */
void generation_writer_abort(struct generation_writer *writer);

/* Atomically writes a small text file `name` (GENERATION_REPORT_NAME) into directory `path`. */
NODISCARD enum status generation_write_text(const char *path, const char *name, const char *text,
                                            struct error *err);

/* ---- reading ---- */

struct generation;

/* Opens `path`: manifest parsed and checked, all files present with the manifest's lengths. Reads
 * no bulk data. Errors name the file ("GEN/codes.bin: 4096 bytes, the manifest says 8192").
 *
 * Until it is closed, or the process ends, the generation is in use: a shared lock (flock) of its
 * directory keeps root_prune() off, where the file system can lock. STATUS_BUSY, after some 100 ms:
 * it is being removed. */
NODISCARD enum status generation_open(const char *path, struct generation **out, struct error *err);
/* The same for a generation whose manifest is not written yet and is copied from `manifest`, for
 * its builder to search it. */
NODISCARD enum status generation_open_unfinished(const char *path, const struct manifest *manifest,
                                                 struct generation **out, struct error *err);
void generation_close(struct generation *generation);

const struct manifest *generation_manifest(const struct generation *generation);
const char *generation_path(const struct generation *generation);

/* Read-only descriptor of nodes.blk; O_DIRECT if the file system has it (*direct says; may be
 * NULL). Borrowed. */
int generation_nodes_fd(const struct generation *generation, bool *direct);

/* Of keys.bin; O_DIRECT where the file system has it, so reads are of whole pages. Borrowed. */
int generation_keys_fd(const struct generation *generation);

/* Reads a whole non-block file into memory from bulk_alloc(bytes, 1) and verifies its XXH3-128.
 * `*data` is the caller's; release with bulk_free(*data, bytes, 1). */
NODISCARD enum status generation_load(const struct generation *generation,
                                      enum generation_file file, void **data, size_t *bytes,
                                      struct error *err);

/* Reads the first `bytes` of a non-block file that is there and has as many, without verifying
 * them: for what is only shown. */
NODISCARD enum status generation_read(const struct generation *generation,
                                      enum generation_file file, void *data, size_t bytes,
                                      struct error *err);

/* As generation_load(), but a read-only mapping of the file: pages that the kernel may take back,
 * so it costs no memory that others would miss. Release with generation_unmap(). Whoever damages
 * the file meanwhile damages what is read. */
NODISCARD enum status generation_map(const struct generation *generation, enum generation_file file,
                                     const void **data, size_t *bytes, struct error *err);
void generation_unmap(const void *data, size_t bytes);

/* Full verification: every file's length and XXH3-128, every block with block_check(), their
 * records counted, the codec, navigation, hot list, sample, attributes and keys parsed and checked.
 * One pass over the data in 1 MB reads; but for the codes, keys and blocks, a file is held in
 * memory. The first fault is named with file and block: "GEN/nodes.blk: block 17: checksum
 * mismatch". That a key's node has that key is not compared: it would take a random read for each;
 * who fetches a vector compares. *blocks_checked may be NULL. */
NODISCARD enum status generation_verify(const struct generation *generation,
                                        uint64_t *blocks_checked, struct error *err);

/* All of that but nodes.blk and attributes_check(): what a daemon holds in memory and keys.bin,
 * which takes seconds where the rest takes the time of reading it all. */
NODISCARD enum status generation_verify_small(const struct generation *generation,
                                              struct error *err);

/* XXH3-128 over manifest.json and all data files as they are on disk (build-report.json excluded):
 * equal digests, equal generations. */
NODISCARD enum status generation_digest(const struct generation *generation,
                                        struct digest128 *digest, struct error *err);

#endif
