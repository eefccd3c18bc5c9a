/*
 * fuzz_keys.c - any bytes as pages of keys.bin: a key page or a directory page, at any place of a
 * file of any count. Whatever opens ascends, is within its limits, finds each of its keys and
 * encodes to the same bytes.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/compiler.h"
#include "common/random.h"
#include "layout/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void key_page_walk(const struct keys_shape *shape, uint32_t number, const uint8_t *bytes)
{
    struct keys_page page;
    if (keys_page_open(shape, number, bytes, &page) != KEYS_OK)
        return;
    assert(page.count == keys_page_count(shape, number) && page.count <= KEYS_PAGE_KEYS);
    for (uint32_t i = 0; i < page.count; i++) {
        uint32_t node = UINT32_MAX;
        assert(i == 0 || page.keys[i - 1] < page.keys[i]);
        assert(keys_page_find(&page, page.keys[i], &node));
        assert(node == page.nodes[i] && node < shape->node_limit);
        if (page.keys[i] + 1 != 0 && (i + 1 == page.count || page.keys[i] + 1 < page.keys[i + 1]))
            assert(!keys_page_find(&page, page.keys[i] + 1, &node));
    }
    _Alignas(uint64_t) uint8_t again[KEYS_PAGE_BYTES];
    keys_page_encode(shape, number, page.keys, page.nodes, again);
    assert(memcmp(again, bytes, sizeof(again)) == 0);
}

static void directory_page_walk(const struct keys_shape *shape, uint32_t number,
                                const uint8_t *bytes)
{
    uint64_t firsts[KEYS_PAGE_FIRSTS];
    if (keys_directory_open(shape, number, bytes, firsts) != KEYS_OK)
        return;
    const uint32_t count = keys_directory_count(shape, number);
    assert(count >= 1 && count <= KEYS_PAGE_FIRSTS);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t page = UINT32_MAX;
        assert(keys_find_page(firsts, count, firsts[i], &page) && page == i);
    }
    _Alignas(uint64_t) uint8_t again[KEYS_PAGE_BYTES];
    keys_directory_encode(shape, number, firsts, again);
    assert(memcmp(again, bytes, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* The head tells the file and the place; of the page's exact length, so that AddressSanitizer
     * sees a read past it. */
    struct {
        uint32_t count, node_limit, page;
        uint8_t directory, forged;
    } head;
    if (size < sizeof(head))
        return 0;
    memcpy(&head, data, sizeof(head));
    data += sizeof(head);
    size -= sizeof(head);
    const bool directory = head.directory % 2 == 1;
    const struct keys_shape shape = {
        .count = head.count > 0 ? head.count : 1,
        .generation_seed = 7,
        .node_limit = head.node_limit,
    };
    const uint32_t pages = keys_pages(shape.count);
    const uint32_t number = head.page % (directory ? keys_directory_pages(shape.count) : pages);
    uint8_t *bytes = calloc(1, KEYS_PAGE_BYTES);
    assert(bytes);
    memcpy(bytes, data, MIN(size, (size_t)KEYS_PAGE_BYTES));
    /* No random input has a checksum or a count that is right. */
    if (head.forged % 4 != 0) {
        const uint32_t count =
            directory ? keys_directory_count(&shape, number) : keys_page_count(&shape, number);
        if (head.forged % 4 != 1)
            memcpy(bytes + 8, &count, sizeof(count));
        const uint64_t checksum = XXH3_64bits_withSeed(
            bytes + 8, KEYS_PAGE_BYTES - 8,
            random_at(UINT64_C(7) ^ 0x7379656b, (uint64_t)number + (directory ? pages : 0)));
        memcpy(bytes, &checksum, sizeof(checksum));
    }
    if (directory)
        directory_page_walk(&shape, number, bytes);
    else
        key_page_walk(&shape, number, bytes);
    free(bytes);
    return 0;
}
