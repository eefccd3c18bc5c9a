/*
 * generation_fixture.h - a small complete generation, written through the real writer, for tests.
 */
#ifndef NIGHTJAR_TESTS_GENERATION_FIXTURE_H
#define NIGHTJAR_TESTS_GENERATION_FIXTURE_H

#include <limits.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/manifest.h"

enum {
    FIXTURE_VECTORS = 97, /* the last block is not full */
    FIXTURE_DIM = 8,
    FIXTURE_NODES_PER_BLOCK = 10,
    FIXTURE_BLOCKS = 10,
    FIXTURE_NODE_LIMIT = 100,
    FIXTURE_CODE_BYTES = 4,
    FIXTURE_HOT = 20,
    FIXTURE_NAVIGATION = 5,
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

#endif
