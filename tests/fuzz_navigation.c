/*
 * fuzz_navigation.c - any bytes as navigation.bin. Whatever decodes must be walkable and encode to
 * the same bytes.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/compiler.h"
#include "layout/navigation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NODE_LIMIT = 1000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Of its exact length, so that AddressSanitizer sees a read past it. */
    uint8_t *bytes = malloc(size ? size : 1);
    assert(bytes);
    if (size > 0)
        memcpy(bytes, data, size);
    /* Few random inputs have magic, version and a length that adds up. */
    static const uint8_t start[8] = {'N', 'J', 'N', 'V', 1, 0, 0, 0};
    memcpy(bytes, start, MIN(size, sizeof(start)));

    struct navigation navigation;
    struct error err = {0};
    enum status status = navigation_decode(bytes, size, NODE_LIMIT, &navigation, &err);
    if (status == STATUS_OK) {
        assert(navigation.entry < navigation.count);
        for (uint32_t i = 0; i < navigation.count; i++)
            assert(navigation.nodes[i] < NODE_LIMIT);
        for (size_t i = 0; i < (size_t)navigation.count * navigation.degree; i++)
            assert(navigation.neighbors[i] < navigation.count ||
                   navigation.neighbors[i] == NAVIGATION_NONE);
        assert(navigation_bytes(navigation.count, navigation.degree) == size);
        uint8_t *again = malloc(size);
        assert(again);
        navigation_encode(&navigation, again);
        assert(memcmp(again, bytes, size) == 0);
        free(again);
    } else {
        assert(err.status == status && err.text[0] != '\0');
    }
    free(bytes);
    return 0;
}
