/*
 * build_fixture.h - whole builds of small inputs, for tests: made-up vector files, parameters that
 * suit them, and what came out.
 *
 * Functions assert through cmocka and are called on the test's thread. A program that links this
 * does not wait for disks: its fsync() does nothing, or builds of some milliseconds would take
 * seconds. The calls are counted by store_inject() all the same.
 */
#ifndef NIGHTJAR_TESTS_BUILD_FIXTURE_H
#define NIGHTJAR_TESTS_BUILD_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/build.h"
#include "common/vector_file.h"
#include "layout/generation.h"
#include "tests/generation_fixture.h"

enum { BUILD_FIXTURE_PATH_BYTES = 600 };

/* A directory of its own, removed with all that is in it. */
struct build_fixture {
    void *dir; /* state of fixture_directory_setup() */
    char input[BUILD_FIXTURE_PATH_BYTES];
    char keys[BUILD_FIXTURE_PATH_BYTES];
    char output[BUILD_FIXTURE_PATH_BYTES];
    char work[BUILD_FIXTURE_PATH_BYTES]; /* where the builder puts it by default */
};

/* cmocka setup and teardown: *state is the struct build_fixture. */
int build_fixture_setup(void **state);
int build_fixture_teardown(void **state);

/* f->input to f->output, l2, degree 24, list 40, 8 code bytes, 2 threads, quiet. */
struct build_params build_fixture_params(const struct build_fixture *f);

/* Writes rows under f->input, which gets the suffix of their type. */
void build_fixture_write(struct build_fixture *f, struct vector_shape shape, const void *rows);
/* Writes rows of 16 overlapping clusters, of elements 1..255 (i8: -128..127 without 0), and returns
 * them, malloc'd. */
void *build_fixture_input(struct build_fixture *f, enum element_type type, uint32_t count,
                          uint32_t dim);
/* Writes f->keys. */
void build_fixture_write_keys(const struct build_fixture *f, const uint64_t *keys, uint32_t count);

/* Builds; it must succeed, and the work directory is gone but for keep_work and one_stage. */
void build_fixture_build(const struct build_params *params, struct build_summary *summary);
/* Verifies every byte of the generation at `path`. */
struct digest128 build_fixture_digest(const char *path);
/* build_fixture_build(), the digest, and both directories removed. */
struct digest128 build_fixture_once(const struct build_fixture *f,
                                    const struct build_params *params,
                                    struct build_summary *summary);
/* What is at f->output and f->work goes. */
void build_fixture_clear(const struct build_fixture *f);

bool build_fixture_same(struct digest128 a, struct digest128 b);
void build_fixture_expect_same(struct digest128 found, struct digest128 wanted);

/* The generation has every row exactly once, under its key; `keys` NULL: its number. */
void build_fixture_expect_rows(const char *path, struct vector_shape shape, const void *rows,
                               const uint64_t *keys);

/* The node of the record with that key. */
uint32_t build_fixture_node_of(const char *path, uint64_t key);

/* Records of the blocks that can be got to from the entry's, block by block over stored lists. */
uint64_t build_fixture_reached(const char *path);

/* The failure of a build that left something to go on from, or nothing: `err` is one line. */
void build_fixture_expect_line(const struct error *err);

#endif
