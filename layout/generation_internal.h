/*
 * generation_internal.h - what generation.c and generation_verify.c share. Internal to layout.
 */
#ifndef NIGHTJAR_LAYOUT_GENERATION_INTERNAL_H
#define NIGHTJAR_LAYOUT_GENERATION_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout/generation.h"

/* Immutable once open; its functions may be called from any threads. All descriptors stay open, so
 * a generation that is removed or renamed keeps serving until it is closed. */
struct generation {
    char *path;
    int directory_fd; /* with a shared lock, which says that the generation is in use */
    struct manifest manifest;
    int fds[GENERATION_FILE_COUNT];
    char *file_paths[GENERATION_FILE_COUNT];
    bool nodes_direct;
    char *manifest_text; /* as on disk */
    size_t manifest_bytes;
};

/* Bytes a scan moves at a time: large enough for full sequential speed, small enough for L2. */
enum { GENERATION_SCAN_BYTES = 1 << 20 };

/* Receives a file in order. `offset` is of data[0]. A whole chunk is a multiple of the scan's unit.
 */
typedef enum status (*generation_chunk_fn)(void *context, uint64_t offset, const void *data,
                                           size_t bytes, struct error *err);

struct generation_scan {
    enum generation_file file;
    size_t unit_bytes; /* chunks are multiples of it; <= GENERATION_SCAN_BYTES */
    generation_chunk_fn on_chunk;
    void *context;
};

/* Reads a whole file once, chunk by chunk. */
NODISCARD enum status generation_scan_run(const struct generation *generation,
                                          const struct generation_scan *scan, struct error *err);

/* STATUS_CORRUPT naming the file unless `digest` is the manifest's. */
NODISCARD enum status generation_digest_check(const struct generation *generation,
                                              enum generation_file file, struct digest128 digest,
                                              struct error *err);

#endif
