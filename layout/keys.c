/*
 * keys.c - encoding, verifying and searching the pages of keys.bin. Pure functions over caller
 * storage: no state, thread-safe.
 *
 * A page is verified whole whenever it is read, its order and nodes too: a builder's fault has a
 * good checksum, and 340 comparisons are nothing beside the read.
 */
#include "layout/keys.h"

#include <stddef.h>
#include <string.h>

#include "common/cpu.h"
#include "common/load.h"
#include "common/random.h"
#include "layout/block_hash.h"

/* Sets pages apart from blocks of the same number. */
#define KEYS_SEED_STREAM UINT64_C(0x7379656b) /* "keys" */

enum {
    CHECKSUM_BYTES = sizeof(uint64_t),
};

struct page_header {
    uint64_t checksum;
    uint32_t count;
    uint32_t reserved;
};

struct key_page {
    struct page_header header;
    uint64_t keys[KEYS_PAGE_KEYS];
    uint32_t nodes[KEYS_PAGE_KEYS];
};

struct directory_page {
    struct page_header header;
    uint64_t firsts[KEYS_PAGE_FIRSTS];
};
_Static_assert(sizeof(struct key_page) == KEYS_PAGE_BYTES, "key page size");
_Static_assert(sizeof(struct directory_page) == KEYS_PAGE_BYTES, "directory page size");
_Static_assert(offsetof(struct page_header, count) == 8, "page header layout");
_Static_assert(offsetof(struct page_header, reserved) == 12, "page header layout");
_Static_assert(offsetof(struct key_page, keys) == 16, "key page layout");
_Static_assert(offsetof(struct key_page, nodes) == 2736, "key page layout");
_Static_assert(offsetof(struct directory_page, firsts) == 16, "directory page layout");

struct keys_shape keys_shape_of(const struct manifest *manifest)
{
    return (struct keys_shape){
        .count = manifest->vector_count,
        .generation_seed = manifest->geometry.generation_seed,
        .node_limit = manifest->geometry.node_limit,
    };
}

uint32_t keys_page_count(const struct keys_shape *shape, uint32_t page)
{
    const uint64_t left = shape->count - (uint64_t)page * KEYS_PAGE_KEYS;
    return (uint32_t)MIN(left, (uint64_t)KEYS_PAGE_KEYS);
}

uint32_t keys_directory_count(const struct keys_shape *shape, uint32_t page)
{
    const uint32_t left = keys_pages(shape->count) - page * KEYS_PAGE_FIRSTS;
    return MIN(left, (uint32_t)KEYS_PAGE_FIRSTS);
}

/* Of the page with this number in the file. */
static uint64_t checksum_of(const struct keys_shape *shape, uint64_t number, const void *bytes)
{
    const uint64_t seed = random_at(shape->generation_seed ^ KEYS_SEED_STREAM, number);
    return block_hash_get(cpu_features())((const uint8_t *)bytes + CHECKSUM_BYTES,
                                          KEYS_PAGE_BYTES - CHECKSUM_BYTES, seed);
}

/* ---- writing ---- */

void keys_page_encode(const struct keys_shape *shape, uint32_t page, const uint64_t *keys,
                      const uint32_t *nodes, void *bytes)
{
    const uint32_t count = keys_page_count(shape, page);
    struct key_page *to = bytes;
    memset(to, 0, sizeof(*to));
    to->header.count = count;
    memcpy(to->keys, keys, count * sizeof(*keys));
    memcpy(to->nodes, nodes, count * sizeof(*nodes));
    to->header.checksum = checksum_of(shape, page, to);
}

void keys_directory_encode(const struct keys_shape *shape, uint32_t page, const uint64_t *firsts,
                           void *bytes)
{
    const uint32_t count = keys_directory_count(shape, page);
    struct directory_page *to = bytes;
    memset(to, 0, sizeof(*to));
    to->header.count = count;
    memcpy(to->firsts, firsts, count * sizeof(*firsts));
    to->header.checksum = checksum_of(shape, (uint64_t)keys_pages(shape->count) + page, to);
}

/* ---- reading ---- */

const char *keys_fault_name(enum keys_fault fault)
{
    static const char *const names[] = {
        [KEYS_OK] = "sound",
        [KEYS_FAULT_CHECKSUM] = "checksum mismatch",
        [KEYS_FAULT_HEADER] = "bad header",
        [KEYS_FAULT_ORDER] = "keys do not ascend",
        [KEYS_FAULT_NODE] = "node out of range",
        [KEYS_FAULT_PADDING] = "unused bytes are not zero",
        [KEYS_FAULT_FIRSTS] = "not the first keys of the pages",
    };
    return (unsigned)fault < ARRAY_LENGTH(names) ? names[fault] : "unknown";
}

static bool ascend(const uint64_t *keys, uint32_t count)
{
    bool good = true;
    for (uint32_t i = 1; i < count; i++)
        good &= keys[i - 1] < keys[i];
    return good;
}

static bool are_below(const uint32_t *nodes, uint32_t count, uint32_t limit)
{
    bool good = true;
    for (uint32_t i = 0; i < count; i++)
        good &= nodes[i] < limit;
    return good;
}

static enum keys_fault header_check(const struct page_header *header, uint64_t checksum,
                                    uint32_t count)
{
    if (header->checksum != checksum)
        return KEYS_FAULT_CHECKSUM;
    return header->count == count && header->reserved == 0 ? KEYS_OK : KEYS_FAULT_HEADER;
}

enum keys_fault keys_page_open(const struct keys_shape *shape, uint32_t page, const void *bytes,
                               struct keys_page *view)
{
    const struct key_page *from = bytes;
    const uint32_t count = keys_page_count(shape, page);
    const uint32_t unused = KEYS_PAGE_KEYS - count;
    enum keys_fault fault = header_check(&from->header, checksum_of(shape, page, from), count);
    if (fault != KEYS_OK)
        return fault;
    if (!ascend(from->keys, count))
        return KEYS_FAULT_ORDER;
    if (!are_below(from->nodes, count, shape->node_limit))
        return KEYS_FAULT_NODE;
    if (!bytes_are_zero(from->keys + count, unused * sizeof(*from->keys)) ||
        !bytes_are_zero(from->nodes + count, unused * sizeof(*from->nodes)))
        return KEYS_FAULT_PADDING;
    *view = (struct keys_page){from->keys, from->nodes, count};
    return KEYS_OK;
}

enum keys_fault keys_directory_open(const struct keys_shape *shape, uint32_t page,
                                    const void *bytes, uint64_t *firsts)
{
    const struct directory_page *from = bytes;
    const uint32_t count = keys_directory_count(shape, page);
    const uint64_t number = (uint64_t)keys_pages(shape->count) + page;
    enum keys_fault fault = header_check(&from->header, checksum_of(shape, number, from), count);
    if (fault != KEYS_OK)
        return fault;
    if (!ascend(from->firsts, count))
        return KEYS_FAULT_ORDER;
    if (!bytes_are_zero(from->firsts + count, (KEYS_PAGE_FIRSTS - count) * sizeof(*from->firsts)))
        return KEYS_FAULT_PADDING;
    memcpy(firsts, from->firsts, count * sizeof(*firsts));
    return KEYS_OK;
}

bool keys_find_page(const uint64_t *firsts, uint32_t count, uint64_t key, uint32_t *page)
{
    /* firsts[low - 1] <= key < firsts[high], taking what lies outside as such. */
    uint32_t low = 0, high = count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (firsts[middle] <= key)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return false;
    *page = low - 1;
    return true;
}

bool keys_page_find(const struct keys_page *page, uint64_t key, uint32_t *node)
{
    uint32_t at;
    if (!keys_find_page(page->keys, page->count, key, &at) || page->keys[at] != key)
        return false;
    *node = page->nodes[at];
    return true;
}
