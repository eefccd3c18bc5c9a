/*
 * vector_format.h - headers of the vector file formats as pure functions of bytes; shared by the
 * readers and writers behind vector_file.h and by their fuzzer. Nothing here does I/O or allocates.
 */
#ifndef NIGHTJAR_COMMON_VECTOR_FORMAT_H
#define NIGHTJAR_COMMON_VECTOR_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/vector_file.h"

enum {
    VECTOR_IDS_DIM_MAX = 65536,     /* ELEMENT_I32 rows: ids of neighbours */
    VECTOR_NPY_HEADER_MAX = 65536,  /* bytes; NumPy itself refuses to read above 10,000 */
    VECTOR_NPY_PREAMBLE_BYTES = 12, /* of versions 2 and 3; version 1 has 10 */
    VECTOR_NPY_WRITTEN_BYTES = 128, /* header that vector_npy_format() makes */
};

enum vector_container {
    VECTOR_BIN,  /* u32 n, u32 dim, rows */
    VECTOR_VECS, /* rows, each after its own u32 dim */
    VECTOR_NPY,
};

struct vector_format {
    const char *suffix;
    enum vector_container container;
    enum element_type type; /* ELEMENT_NONE: the header says */
};

/* Format by the suffix of `path`; STATUS_INVALID with the list of suffixes for any other. */
NODISCARD enum status vector_format_of(const char *path, const struct vector_format **out,
                                       struct error *err);

/* Whether `path` has one of those suffixes. */
bool vector_format_is_known(const char *path);

/* Where rows are. */
struct vector_layout {
    struct vector_shape shape;
    uint64_t data_offset;  /* of row 0, its prefix included */
    uint32_t prefix_bytes; /* before each row: 4 for .?vecs, else 0 */
    uint64_t file_bytes;   /* what the header implies */
};

/* Bytes of one row; the shape has been checked. */
size_t vector_row_bytes(const struct vector_shape *shape);

/* Refuses a shape out of limits or one whose file would overflow; `path` is for the error. Fills
 * layout->file_bytes from the other fields. */
NODISCARD enum status vector_layout_check(const char *path, struct vector_layout *layout,
                                          struct error *err);

/* Parses the u32 header of .?bin and .?vecs out of the first bytes of a file of `file_bytes`. */
NODISCARD enum status vector_bin_parse(const char *path, const struct vector_format *format,
                                       const uint8_t *bytes, uint64_t file_bytes,
                                       struct vector_layout *layout, struct error *err);
NODISCARD enum status vector_vecs_parse(const char *path, const struct vector_format *format,
                                        const uint8_t *bytes, uint64_t file_bytes,
                                        struct vector_layout *layout, struct error *err);

/* Length of an .npy header from its first VECTOR_NPY_PREAMBLE_BYTES bytes: *start is where the
 * dictionary begins, *length its size, at most VECTOR_NPY_HEADER_MAX. */
NODISCARD enum status vector_npy_preamble(const char *path, const uint8_t *bytes, size_t *start,
                                          size_t *length, struct error *err);

/* Parses the dictionary: shape and type into *shape. Limits are vector_layout_check()'s business.
 */
NODISCARD enum status vector_npy_parse(const char *path, const char *text, size_t length,
                                       struct vector_shape *shape, struct error *err);

/* Writes a version 1.0 header for `shape`: VECTOR_NPY_WRITTEN_BYTES bytes. */
void vector_npy_format(const struct vector_shape *shape, uint8_t header[VECTOR_NPY_WRITTEN_BYTES]);

#endif
