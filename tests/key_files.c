/*
 * key_files.c - see key_files.h. No state.
 */
#include "tests/key_files.h"

#include <stdlib.h>

#include "common/vector_file.h"

enum status key_file_read(const char *path, uint64_t expected_count, uint64_t **keys,
                          struct error *err)
{
    struct key_file *file;
    enum status status = key_file_open(path, expected_count, &file, err);
    if (status != STATUS_OK)
        return status;
    uint64_t *read = NULL;
    status = key_file_check(file, NULL, err);
    if (status == STATUS_OK) {
        read = malloc((size_t)expected_count * sizeof(*read));
        status = read != NULL ? key_file_read_range(file, 0, expected_count, read, err)
                              : error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    key_file_close(file);
    if (status == STATUS_OK)
        *keys = read;
    else
        free(read);
    return status;
}

enum status key_file_write(const char *path, const uint64_t *keys, uint64_t count,
                           struct error *err)
{
    struct key_writer *writer = NULL;
    enum status status = key_writer_open(path, count, &writer, err);
    if (status != STATUS_OK)
        return status;
    status = key_writer_append(writer, keys, count, err);
    if (status == STATUS_OK)
        return key_writer_finish(writer, err);
    key_writer_abort(writer);
    return status;
}
