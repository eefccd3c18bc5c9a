/*
 * soak_keys.c - writes a file of keys that count up from an offset, which tell a generation's rows
 * from those of others.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/args.h"
#include "common/vector_file.h"
#include "tests/key_files.h"

static enum status write_keys(const char *path, uint32_t count, uint64_t offset, struct error *err)
{
    uint64_t *keys = malloc(count * sizeof(*keys));
    if (!keys)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %" PRIu32 " keys", count);
    for (uint32_t r = 0; r < count; r++)
        keys[r] = offset + r;
    enum status status = key_file_write(path, keys, count, err);
    free(keys);
    return status;
}

int main(int argc, char **argv)
{
    const char *output = NULL;
    uint32_t count = 0;
    uint64_t offset = 0;
    const struct args_option table[] = {
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &output,
         .value_name = "FILE.u64bin",
         .help = "file to write",
         .required = true},
        {.name = "count",
         .kind = ARGS_U32,
         .target = &count,
         .min = 1,
         .help = "rows",
         .required = true},
        {.name = "offset", .kind = ARGS_U64, .target = &offset, .help = "key of row 0"},
    };
    const struct args_spec spec = {.program = "soak_keys",
                                   .summary = "Write keys that count up.",
                                   .options = table,
                                   .option_count = ARRAY_LENGTH(table)};
    struct error err;
    switch (args_parse(&spec, argc, argv, NULL, &err)) {
    case ARGS_RUN:
        break;
    case ARGS_DONE:
        return 0;
    case ARGS_USAGE:
        fprintf(stderr, "soak_keys: %s\n", err.text);
        return 2;
    }
    if (write_keys(output, count, offset, &err) == STATUS_OK)
        return 0;
    fprintf(stderr, "soak_keys: %s\n", err.text);
    return 1;
}
