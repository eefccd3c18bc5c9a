/*
 * directory_fixture.h - a temporary directory for a test, and what is in it. What cannot return a
 * failure ends the test.
 */
#ifndef NIGHTJAR_TESTS_DIRECTORY_FIXTURE_H
#define NIGHTJAR_TESTS_DIRECTORY_FIXTURE_H

#include <stddef.h>

/* A path so short that a Unix socket's, of 107 bytes, has room in the directory. */
enum { DIRECTORY_FIXTURE_BYTES = 97 };

/* Makes a directory in $TMPDIR, or in /tmp where that is unset or too long, with no symbolic link
 * in its path, which a socket's may not have. 0, or -1 if it cannot be made: what a cmocka setup
 * returns. */
int directory_fixture_create(char path[DIRECTORY_FIXTURE_BYTES]);

/* Removes any directory with all that is in it. 0, or -1 if it is not there or not all would go:
 * what a cmocka teardown returns. */
int directory_fixture_remove(const char *path);

/* Entries of a directory, "." and ".." not counted. */
int directory_fixture_entries(const char *path);

/* Writes the text to ROOT + `path`, which begins with a slash; its directories are made. */
void directory_fixture_tree(const char *root, const char *path, const char *text);

/* Writes a file of these bytes; what was there goes. */
void directory_fixture_write(const char *path, const void *bytes, size_t count);

#endif
