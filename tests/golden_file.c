/*
 * golden_file.c - see golden_file.h. Tests run in the repository's root; NIGHTJAR_GOLDEN_DIR says
 * otherwise. Single-threaded.
 */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

#include "tests/golden_file.h"

const char *golden_file_path(const char *name)
{
    static char path[PATH_MAX];
    const char *directory = getenv("NIGHTJAR_GOLDEN_DIR");
    snprintf(path, sizeof(path), "%s/%s", directory ? directory : "tests/golden", name);
    return path;
}

void golden_file_compare(const char *name, const void *data, size_t bytes)
{
    const char *path = golden_file_path(name);
    const char *mode = getenv("NIGHTJAR_GOLDEN_WRITE") ? "w+b" : "rb";
    FILE *file = fopen(path, mode);
    if (!file)
        fail_msg("%s: cannot open; tests run in the repository's root", path);
    if (mode[0] == 'w') {
        assert_int_equal(fwrite(data, 1, bytes, file), bytes);
        rewind(file);
    }
    unsigned char *stored = malloc(bytes + 1);
    assert_non_null(stored);
    size_t length = fread(stored, 1, bytes + 1, file);
    fclose(file);
    assert_int_equal(length, bytes);
    assert_memory_equal(stored, data, bytes);
    free(stored);
}
