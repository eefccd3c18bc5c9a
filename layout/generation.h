/*
 * generation.h - one immutable index directory: creating it safely, opening it, verifying it.
 *
 * Writer: files are created in the output directory itself; manifest.json is written last, under a
 * temporary name, fsynced and renamed, then the directory and its parent are fsynced. So a killed
 * build leaves a directory without manifest.json, which nothing opens. On an orderly failure
 * generation_writer_abort() removes what it created.
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

/* Creates directory `path` (STATUS_EXISTS if it exists, unless it is an empty directory) and in it
 * the data files, empty. A writer belongs to one thread. On failure nothing is left. */
NODISCARD enum status generation_writer_open(const char *path, struct generation_writer **out,
                                             struct error *err);

/* Appends to a data file, hashing as it goes. Files may be written in any order, each sequentially.
 * nodes.blk is written with O_DIRECT where the file system has it: `bytes` must be a multiple of
 * 4096 and `data` 4096-aligned for it; other files take anything. */
NODISCARD enum status generation_writer_append(struct generation_writer *writer,
                                               enum generation_file file, const void *data,
                                               size_t bytes, struct error *err);

/* Fills manifest->files, checks the manifest (lengths included), fsyncs everything, writes
 * manifest.json last. Frees the writer on success; after a failure the caller aborts it. */
NODISCARD enum status generation_writer_finish(struct generation_writer *writer,
                                               struct manifest *manifest, struct error *err);

/* Removes what the writer created (build-report.json too, and the directory unless it was there
 * before) and frees it. NULL is fine. */
void generation_writer_abort(struct generation_writer *writer);

/* Atomically writes a small text file `name` (GENERATION_REPORT_NAME) into directory `path`. */
NODISCARD enum status generation_write_text(const char *path, const char *name, const char *text,
                                            struct error *err);

/* ---- reading ---- */

struct generation;

/* Opens `path`: manifest parsed and checked, all files present with the manifest's lengths. Reads
 * no bulk data. Errors name the file ("GEN/codes.bin: 4096 bytes, the manifest says 8192"). */
NODISCARD enum status generation_open(const char *path, struct generation **out, struct error *err);
void generation_close(struct generation *generation);

const struct manifest *generation_manifest(const struct generation *generation);
const char *generation_path(const struct generation *generation);

/* Read-only descriptor of nodes.blk; O_DIRECT if the file system has it (*direct says; may be
 * NULL). Borrowed. */
int generation_nodes_fd(const struct generation *generation, bool *direct);

/* Reads a whole non-block file into memory from bulk_alloc(bytes, 1) and verifies its XXH3-128.
 * `*data` is the caller's; release with bulk_free(*data, bytes, 1). */
NODISCARD enum status generation_load(const struct generation *generation,
                                      enum generation_file file, void **data, size_t *bytes,
                                      struct error *err);

/* Full verification: every file's length and XXH3-128, every block with block_check(), their
 * records counted, the codec, navigation and hot list parsed. One pass over the data in 1 MB reads.
 * The first fault is named with file and block: "GEN/nodes.blk: block 17: checksum mismatch".
 * *blocks_checked may be NULL. */
NODISCARD enum status generation_verify(const struct generation *generation,
                                        uint64_t *blocks_checked, struct error *err);

/* XXH3-128 over manifest.json and all data files as they are on disk (build-report.json excluded):
 * equal digests, equal generations. */
NODISCARD enum status generation_digest(const struct generation *generation,
                                        struct digest128 *digest, struct error *err);

#endif
