/*
 * key_files.h - whole key files at once, for tests and soak programs; programs take keys part by
 * part (common/vector_file.h). Needs no cmocka.
 */
#ifndef NIGHTJAR_TESTS_KEY_FILES_H
#define NIGHTJAR_TESTS_KEY_FILES_H

#include <stdint.h>

#include "common/error.h"

/* Opens, checks, reads every key and closes. *keys is malloc'd, the caller's. */
NODISCARD enum status key_file_read(const char *path, uint64_t expected_count, uint64_t **keys,
                                    struct error *err);

/* Writes `count` (1..UINT32_MAX) keys. */
NODISCARD enum status key_file_write(const char *path, const uint64_t *keys, uint64_t count,
                                     struct error *err);

#endif
