/*
 * scan_internal.h - scan_run() with chunks of any size, for tests of their borders.
 */
#ifndef NIGHTJAR_BUILDER_SCAN_INTERNAL_H
#define NIGHTJAR_BUILDER_SCAN_INTERNAL_H

#include <stddef.h>

#include "builder/scan.h"

struct scan_params {
    const struct vector_file *file;
    enum metric metric;
    const char *keys_path; /* may be NULL */
    size_t chunk_bytes;    /* read between two looks at the monitor; at least one row is */
    size_t piece_bytes;    /* what one thread reads at a time; at least one row */
};

NODISCARD enum status scan_run_chunked(const struct scan_params *params,
                                       const struct build_monitor *monitor,
                                       struct scan_result *result, struct error *err);

#endif
