/*
 * vector_file.h - readers and writers of the vector file formats users already have.
 *
 *   .u8bin .i8bin .fbin .f16bin .ibin   u32 n, u32 dim, then n rows          (big-ann-benchmarks)
 *   .bvecs .fvecs .ivecs                each row: u32 dim, then the elements  (TEXMEX)
 *   .npy                                2-D, C order, |u1 |i1 <f2 <f4 <i4     (NumPy 1.0 to 3.0)
 *   .u64bin                             u32 n, u32 1, then n u64 keys         (key_file_open())
 *
 * The format follows from the name's suffix. A file whose size does not equal what its header
 * implies, to the byte, is refused. Reads are pread into caller memory, so that the page cache and
 * not this process holds the file.
 */
#ifndef NIGHTJAR_COMMON_VECTOR_FILE_H
#define NIGHTJAR_COMMON_VECTOR_FILE_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/element.h"
#include "common/error.h"

struct vector_file;

struct vector_shape {
    uint64_t count; /* rows; >= 1 */
    uint32_t dim;   /* elements a row; 1..VECTOR_DIM_MAX (ELEMENT_I32: 1..65536) */
    enum element_type type;
};

/* Opens and checks header and size; reads no row. On success *out is the caller's to close. */
NODISCARD enum status vector_file_open(const char *path, struct vector_file **out,
                                       struct error *err);
/* The same for a file laid out as .?bin whose name does not say so (DiskANN's data files): `type`
 * is what its elements are. */
NODISCARD enum status vector_file_open_as(const char *path, enum element_type type,
                                          struct vector_file **out, struct error *err);
void vector_file_close(struct vector_file *file);

/* Rows are read as `type` from here on, by all that reads rows and tells the shape but what is said
 * to be of the rows given; element_may_store() says what is allowed, else STATUS_INVALID. Before
 * anything is read, by one thread. */
NODISCARD enum status vector_file_store_as(struct vector_file *file, enum element_type type,
                                           struct error *err);

/* Rows as they are read. */
struct vector_shape vector_file_shape(const struct vector_file *file);
/* Rows as the file has them. */
struct vector_shape vector_file_shape_given(const struct vector_file *file);
const char *vector_file_path(const struct vector_file *file);

/* Reads rows [first, first + count) packed (element_vector_bytes() apart) into `rows`. A .?vecs row
 * whose own dim differs is STATUS_CORRUPT and names the row; a row that is to be of another type
 * and does not fit it is STATUS_INVALID, as vector_file_convert() says. Thread-safe; retries EINTR
 * and short reads. */
NODISCARD enum status vector_file_read(const struct vector_file *file, uint64_t first,
                                       uint64_t count, void *rows, struct error *err);

/* As above with row i at rows + i * stride_bytes (>= packed size; the gap is zeroed). */
NODISCARD enum status vector_file_read_strided(const struct vector_file *file, uint64_t first,
                                               uint64_t count, void *rows, size_t stride_bytes,
                                               struct error *err);

/* As vector_file_read() of the rows that the file has. */
NODISCARD enum status vector_file_read_given(const struct vector_file *file, uint64_t first,
                                             uint64_t count, void *rows, struct error *err);

/* Row `index`, as given, to the type that rows are read as; what that has is never beyond the type
 * given. A value that is not finite, or that the type does not reach, is STATUS_INVALID:
 * "PATH: row R has 70000 at dimension D, beyond f16". */
NODISCARD enum status vector_file_convert(const struct vector_file *file, uint64_t index,
                                          const void *given, void *row, struct error *err);

/* Opens, reads every row packed into one new malloc'd buffer (*rows, the caller's to free) and
 * closes. For queries and ground truth. Refuses with STATUS_INVALID more than `max_bytes`. */
NODISCARD enum status vector_file_load(const char *path, uint64_t max_bytes,
                                       struct vector_shape *shape, void **rows, struct error *err);

/* Rows [first_row, first_row + count) are finite, else STATUS_INVALID with
 * "PATH: row R has a NaN at dimension D" (or "an infinity"). For METRIC_COSINE a zero row is
 * refused too: "PATH: row R is a zero vector, which has no direction under cosine". */
NODISCARD enum status vector_rows_check(const char *path, const struct vector_shape *shape,
                                        enum metric metric, uint64_t first_row, uint64_t count,
                                        const void *rows, size_t stride_bytes, struct error *err);

/* Sequential writer. The suffix decides the format and must suit shape.type. The file appears under
 * its name only on vector_writer_finish() (temporary name beside it, fsync, rename);
 * vector_writer_abort() or a crash leaves nothing under it. A regular file of that name is
 * replaced; anything else there is STATUS_EXISTS. The whole size is reserved at open, so a full
 * disk is told before the work rather than after. One thread at a time. */
struct vector_writer;
NODISCARD enum status vector_writer_open(const char *path, struct vector_shape shape,
                                         struct vector_writer **out, struct error *err);
/* The same for a file of any name, laid out as .?bin. */
NODISCARD enum status vector_writer_open_bin(const char *path, struct vector_shape shape,
                                             struct vector_writer **out, struct error *err);
NODISCARD enum status vector_writer_append(struct vector_writer *writer, const void *rows,
                                           uint64_t count, struct error *err);
/* All announced rows must have been appended. Frees the writer in any case; what fails is removed
 * as by vector_writer_abort(). */
NODISCARD enum status vector_writer_finish(struct vector_writer *writer, struct error *err);
/* Removes the temporary file and frees. NULL is fine. */
void vector_writer_abort(struct vector_writer *writer);

/* Keys, one u64 a row: `.u64bin` (u32 n, u32 1, u64[n]). An open file is immutable: any thread. */
struct key_file;
/* Opens and checks header and size; reads no key. The count must equal `expected_count`. On success
 * *out is the caller's to close. */
NODISCARD enum status key_file_open(const char *path, uint64_t expected_count,
                                    struct key_file **out, struct error *err);
/* NULL is fine. */
void key_file_close(struct key_file *file);

/* Reads the keys of rows [first, first + count) into `keys`; STATUS_INVALID beyond the last row. */
NODISCARD enum status key_file_read_range(const struct key_file *file, uint64_t first,
                                          uint64_t count, uint64_t *keys, struct error *err);

/* Reads every key; a repeated one is STATUS_INVALID naming the key (the smallest, if several are)
 * and its first two rows. Holds 8 bytes a key meanwhile. Uses the caller's OpenMP team. Non-zero
 * *cancel (may be NULL) ends it soon with STATUS_CANCELLED, though sorting is not interrupted. */
NODISCARD enum status key_file_check(const struct key_file *file, const atomic_int *cancel,
                                     struct error *err);

/* Keys that come part by part, as .u64bin (count 1..UINT32_MAX), atomically as with vector_writer.
 * One thread at a time. */
struct key_writer;
NODISCARD enum status key_writer_open(const char *path, uint64_t count, struct key_writer **out,
                                      struct error *err);
NODISCARD enum status key_writer_append(struct key_writer *writer, const uint64_t *keys,
                                        uint64_t count, struct error *err);
/* As vector_writer_finish(). */
NODISCARD enum status key_writer_finish(struct key_writer *writer, struct error *err);
/* NULL is fine. */
void key_writer_abort(struct key_writer *writer);

/* Exact neighbours. ids[q * k + i]: the i-th nearest row of query q. A query that has fewer than k
 * (a filter leaves no more) ends with absent ones: this id, and an infinite distance. distances may
 * be missing (.ivecs): then NULL. Arrays are malloc'd; ground_truth_free() releases and zeroes. */
enum { GROUND_TRUTH_ABSENT = 0xffffffff };
struct ground_truth {
    uint32_t query_count;
    uint32_t k;
    uint32_t *ids;
    float *distances;
};
/* How many of the first `k` (<= truth->k) neighbours of a query there are. */
uint32_t ground_truth_existing(const struct ground_truth *truth, uint32_t query, uint32_t k);

/* Reads DiskANN's layout (u32 nq, u32 k, u32 ids[nq*k], f32 dists[nq*k]; any suffix), .ivecs, or an
 * .ibin that holds ids alone (u32 nq, u32 k, u32 ids[nq*k]). k is 1..65536. Nothing may follow an
 * absent neighbour. */
NODISCARD enum status ground_truth_read(const char *path, struct ground_truth *out,
                                        struct error *err);
/* Writes DiskANN's layout, atomically as vector_writer does. */
NODISCARD enum status ground_truth_write(const char *path, const struct ground_truth *truth,
                                         struct error *err);
void ground_truth_free(struct ground_truth *truth);

#endif
