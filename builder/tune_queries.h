/*
 * tune_queries.h - queries that a build is given to tune recall curves to, where those to come are
 * unlike the vectors.
 *
 * Of a longer file some rows are taken, evenly spread, so that a log of a day costs no more than
 * one of a minute. They are held in memory through the build.
 */
#ifndef NIGHTJAR_BUILDER_TUNE_QUERIES_H
#define NIGHTJAR_BUILDER_TUNE_QUERIES_H

#include <stdint.h>

#include "common/element.h"
#include "common/error.h"
#include "common/vector_file.h"
#include "layout/manifest.h"

enum { TUNE_QUERIES_MAX = 1000 };

struct tune_queries {
    uint8_t *rows; /* packed, of the input's shape; NULL: none */
    size_t row_bytes;
    uint32_t count;          /* taken: 1..TUNE_QUERIES_MAX, or 0 */
    struct digest128 digest; /* of `rows`; 0: none */
};

/* Reads the queries of file `path`, which are of the type that `input` is given in, as those of the
 * input are read. STATUS_INVALID: another dimension or type, no row, or a row that a search would
 * refuse. On success *out is the caller's. */
NODISCARD enum status tune_queries_load(const char *path, const struct vector_file *input,
                                        enum metric metric, struct tune_queries *out,
                                        struct error *err);
void tune_queries_free(struct tune_queries *queries);

#endif
