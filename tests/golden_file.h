/*
 * golden_file.h - bytes that a format's version is pinned to, in tests/golden.
 */
#ifndef NIGHTJAR_TESTS_GOLDEN_FILE_H
#define NIGHTJAR_TESTS_GOLDEN_FILE_H

#include <stddef.h>

/* Fails the test unless tests/golden/NAME holds exactly these bytes. With NIGHTJAR_GOLDEN_WRITE set
 * in the environment it is written instead: for a deliberate change of format, with its new
 * version. */
void golden_file_compare(const char *name, const void *data, size_t bytes);

/* Path of tests/golden/NAME; static storage, overwritten by the next call. */
const char *golden_file_path(const char *name);

#endif
