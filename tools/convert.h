/*
 * convert.h - what `nightjar convert` does, each kind of input in a file of its own.
 */
#ifndef NIGHTJAR_TOOLS_CONVERT_H
#define NIGHTJAR_TOOLS_CONVERT_H

#include <stdint.h>

#include "common/element.h"
#include "common/error.h"

/* Formats that no name tells. */
enum convert_format {
    CONVERT_BY_NAME,
    CONVERT_DISKANN, /* u32 rows, u32 dim, rows: of a type that the file does not tell */
    CONVERT_RANGE,   /* answers within a radius (common/range_truth.h) */
    CONVERT_HNSWLIB, /* an index; read only */
};

struct convert_options {
    const char *input;
    const char *output;
    enum convert_format from;
    enum convert_format to;
    enum element_type type; /* ELEMENT_NONE: not given */
    double scale;           /* 0: values must be exact */
    uint64_t offset;
    uint64_t limit; /* 0: all */
    /* hnswlib */
    const char *keys_output;
    uint32_t dim; /* 0: not given */
    enum metric metric;
    /* ground truth beside ids without distances; NULL: none */
    const char *distances;
    const char *distances_output;
};

/* The rows that offset and limit leave of `count`. */
NODISCARD enum status convert_rows_left(const struct convert_options *options, uint64_t count,
                                        uint64_t *left, struct error *err);

/* Vectors to vectors, streaming. Without an exact equivalent in the output's type STATUS_INVALID,
 * unless there is a scale. */
NODISCARD enum status convert_vectors(const struct convert_options *options, struct error *err);

/* Ground truth, k nearest or within a radius, to any of its formats; held in memory. */
NODISCARD enum status convert_truth(const struct convert_options *options, struct error *err);

/* An hnswlib index to a vector file and a key file; says on stdout what was found. */
NODISCARD enum status convert_hnswlib(const struct convert_options *options, struct error *err);

#endif
