/*
 * hnswlib_file.h - the vectors and labels out of an index that hnswlib saved.
 *
 * What hnswlib writes, little-endian, on the 64-bit machines it is used on:
 *
 *   0  u64 offset of the links in an element: 0    48 i32 highest level       72 u64 M
 *   8  u64 elements that it has room for           52 u32 entry point         80 f64 level factor
 *  16  u64 elements                                56 u64 links a list, M     88 u64 efConstruction
 *  24  u64 bytes of an element                     64 u64 links on level 0
 *  32  u64 offset of the label in an element
 *  40  u64 offset of the vector in an element
 *
 * From byte 96 the elements: u16 links, u8 flags (bit 0: deleted), u8, the places of as many others
 * as the header says, the vector, u64 label. Then of each element u32 bytes and so many bytes of
 * lists for the levels above 0. There is no checksum, and the file does not say what type its
 * vectors are of; so everything that can be compared is: sizes, counts, links, the file's length.
 */
#ifndef NIGHTJAR_TOOLS_HNSWLIB_FILE_H
#define NIGHTJAR_TOOLS_HNSWLIB_FILE_H

#include <stdint.h>

#include "common/vector_file.h"

struct hnswlib_file;

/* Opens an index and reads all of it once: what its header says must add up to the file's length,
 * no link may lead outside, and no two elements that are not deleted may have one label (8 bytes
 * each are held meanwhile). `type` is U8, I8 or F32; `dim` 0 takes what the header implies.
 * STATUS_CORRUPT or STATUS_INVALID with the place. Uses the caller's OpenMP team to sort. On
 * success *out is the caller's to close. */
NODISCARD enum status hnswlib_file_open(const char *path, enum element_type type, uint32_t dim,
                                        struct hnswlib_file **out, struct error *err);
/* NULL is fine. */
void hnswlib_file_close(struct hnswlib_file *file);

/* Of the elements that are not deleted; count >= 1. */
struct vector_shape hnswlib_file_shape(const struct hnswlib_file *file);
uint64_t hnswlib_file_deleted(const struct hnswlib_file *file);

/* The next `max` elements that are not deleted, or as many as are left: packed vectors into `rows`,
 * labels into `keys`, their number into *count (0: no more). In the file's order. One thread. A
 * vector that is not finite, or is zero under METRIC_COSINE, is STATUS_INVALID: "row" is then the
 * element's place in the file, deleted ones counted. */
NODISCARD enum status hnswlib_file_next(struct hnswlib_file *file, enum metric metric, uint64_t max,
                                        void *rows, uint64_t *keys, uint64_t *count,
                                        struct error *err);

#endif
