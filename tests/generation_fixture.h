/*
 * generation_fixture.h - a small complete generation, written through the real writer, for tests.
 */
#ifndef NIGHTJAR_TESTS_GENERATION_FIXTURE_H
#define NIGHTJAR_TESTS_GENERATION_FIXTURE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/generation.h"
#include "layout/manifest.h"
#include "layout/store.h"

enum {
    FIXTURE_VECTORS = 97, /* the last block is not full */
    FIXTURE_DIM = 8,
    FIXTURE_NODES_PER_BLOCK = 10,
    FIXTURE_BLOCKS = 10,
    FIXTURE_NODE_LIMIT = 100,
    FIXTURE_CODE_BYTES = 4,
    FIXTURE_HOT = 20,
    FIXTURE_NAVIGATION = 5,
    FIXTURE_SAMPLE = 3,
    FIXTURE_SAMPLE_K = 2,
};

/* cmocka setup and teardown: *state is a temporary directory's path, removed with all in it. */
int fixture_directory_setup(void **state);
int fixture_directory_teardown(void **state);

/* DIRECTORY/NAME; valid until the teardown. */
const char *fixture_path(const char *directory, const char *name);

/* A manifest that passes manifest_check() once the files' lengths are in: u8, l2, gap-coded lists.
 */
void fixture_manifest(uint64_t seed, struct manifest *manifest);

/* Fills in the lengths that fixture_write() would give. */
void fixture_manifest_lengths(struct manifest *manifest);

/* Writes the generation to `path`; on failure the writer is aborted. The same seed gives the same
 * bytes. */
NODISCARD enum status fixture_write(const char *path, uint64_t seed, struct error *err);

/* The test fails with err's text unless `status` is STATUS_OK. */
void fixture_must(enum status status, const struct error *err);
/* fixture_write() that must succeed. */
void fixture_must_write(const char *path, uint64_t seed);
struct generation_writer *fixture_open(const char *path, enum generation_open_mode mode);
/* Finishes with the manifest of fixture_write(). */
NODISCARD enum status fixture_finish(struct generation_writer *writer, uint64_t seed,
                                     struct error *err);
void fixture_must_finish(struct generation_writer *writer, uint64_t seed);

/* ---- what is on disk; a surprise fails the test ---- */

bool fixture_exists(const char *path);
uint64_t fixture_length(const char *path);
/* The whole file in page-aligned memory; the caller frees it. */
uint8_t *fixture_read(const char *path, size_t *bytes);
/* Creates a file of zeros. */
void fixture_touch(const char *path, size_t bytes);
void fixture_flip_bit(const char *path, uint64_t bit);

/* Opens and verifies; the first that fails tells. */
NODISCARD enum status fixture_verify(const char *path, struct error *err);
/* fixture_verify() fails with one line that has `words` in it. */
void fixture_expect_fault(const char *path, const char *words);

/* ---- writing the same bytes in other ways ---- */

struct fixture_image {
    uint8_t *data[GENERATION_FILE_COUNT]; /* page-aligned */
    size_t bytes[GENERATION_FILE_COUNT];
};

/* Of DIRECTORY/reference, which is written for it. */
void fixture_image_load(struct fixture_image *image, const char *directory, uint64_t seed);
void fixture_image_free(struct fixture_image *image);

/* Writes bytes [from, to) of a file, or every file, by positions. */
NODISCARD enum status fixture_image_put(const struct fixture_image *image,
                                        struct generation_writer *writer, enum generation_file file,
                                        size_t from, size_t to);
void fixture_must_put(const struct fixture_image *image, struct generation_writer *writer,
                      enum generation_file file, size_t from, size_t to);
NODISCARD enum status fixture_image_put_all(const struct fixture_image *image,
                                            struct generation_writer *writer, struct error *err);

/* Verifies a generation and compares it with DIRECTORY/reference: same files, same bytes. */
void fixture_expect_reference(const char *path, const char *directory);

/* ---- failing calls ---- */

/* Context of fixture_fail_nth(). */
struct fixture_nth_call {
    int calls; /* counted so far */
    int fail_at;
    int outcome; /* errno or STORE_FAULT_SHORT */
    bool writes_only;
};

/* A hook for store_inject(): the nth call, or write, meets its outcome. For one thread. */
int fixture_fail_nth(void *context, enum store_call call);

#endif
