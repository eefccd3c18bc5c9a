/*
 * fuzz_manifest.c - any bytes as a manifest, as they are and closed with a good checksum. Whatever
 * parses must print and parse again to the same text.
 */
#include <assert.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "layout/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const char *text, size_t length)
{
    struct manifest manifest, again;
    struct error err = {0};
    enum status status = manifest_parse(text, length, &manifest, &err);
    if (status != STATUS_OK) {
        assert(err.status == status && err.text[0] != '\0');
        return;
    }
    char *first, *second;
    enum status printed = manifest_format(&manifest, &first, &err);
    assert(printed == STATUS_OK);
    status = manifest_parse(first, strlen(first), &again, &err);
    assert(status == STATUS_OK);
    printed = manifest_format(&again, &second, &err);
    assert(printed == STATUS_OK && strcmp(first, second) == 0);
    free(first);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Of its exact length, so that AddressSanitizer sees a read past it. */
    char *text = malloc(size ? size : 1);
    assert(text);
    if (size > 0)
        memcpy(text, data, size);
    parse(text, size);
    free(text);

    /* The text up to the checksum's digits, then the digits and the end. */
    char *sealed = malloc(size + 64);
    assert(sealed);
    int key = snprintf(sealed, size + 64, "%.*s\"checksum\":\t\"", (int)MIN(size, 65536u),
                       (const char *)data);
    assert(key > 0);
    XXH128_hash_t hash = XXH3_128bits(sealed, (size_t)key);
    int end = snprintf(sealed + key, 64 - 14, "%016" PRIx64 "%016" PRIx64 "\"\n}\n", hash.high64,
                       hash.low64);
    assert(end == 36);
    parse(sealed, (size_t)key + (size_t)end);
    free(sealed);
    return 0;
}
