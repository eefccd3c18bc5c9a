/*
 * keys_lookup.c - see keys_lookup.h.
 */
#include "layout/keys_lookup.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/file_io.h"
#include "common/memory.h"
#include "layout/generation_internal.h"

/* What is read at a time of the first keys. */
enum { PAGES_AT_A_TIME = GENERATION_SCAN_BYTES / KEYS_PAGE_BYTES };

struct lookup {
    const struct generation *generation;
    struct keys_shape shape;
    void *buffer; /* page-aligned, as O_DIRECT needs it */
};

static enum status lookup_init(struct lookup *lookup, const struct generation *generation,
                               size_t bytes, struct error *err)
{
    *lookup = (struct lookup){
        .generation = generation,
        .shape = keys_shape_of(&generation->manifest),
        .buffer = aligned_alloc(BLOCK_PAGE_BYTES, bytes),
    };
    if (lookup->buffer == NULL)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(generation->path));
    return STATUS_OK;
}

static enum status file_read(const struct lookup *lookup, enum generation_file file,
                             uint64_t offset, size_t bytes, struct error *err)
{
    return file_read_at(lookup->generation->fds[file], lookup->generation->file_paths[file],
                        lookup->buffer, bytes, offset, err);
}

static enum status page_fault(const struct lookup *lookup, uint64_t number, const char *why,
                              struct error *err)
{
    return error_set(err, STATUS_CORRUPT, "%s: page %" PRIu64 ": %s",
                     file_label(lookup->generation->file_paths[GENERATION_KEYS]), number, why);
}

/* ---- all first keys ---- */

/* Of directory pages [first, first + count), which are in the buffer. */
static enum status firsts_take(const struct lookup *lookup, uint32_t first, uint32_t count,
                               uint64_t *firsts, struct error *err)
{
    const uint8_t *bytes = lookup->buffer;
    for (uint32_t page = first; page < first + count; page++, bytes += KEYS_PAGE_BYTES) {
        const uint64_t number = (uint64_t)keys_pages(lookup->shape.count) + page;
        uint64_t *to = firsts + (size_t)page * KEYS_PAGE_FIRSTS;
        enum keys_fault fault = keys_directory_open(&lookup->shape, page, bytes, to);
        if (fault == KEYS_OK && page > 0 && to[-1] >= to[0])
            fault = KEYS_FAULT_ORDER;
        if (fault != KEYS_OK)
            return page_fault(lookup, number, keys_fault_name(fault), err);
    }
    return STATUS_OK;
}

enum status keys_lookup_firsts(const struct generation *generation, uint64_t **firsts,
                               struct error *err)
{
    struct lookup lookup;
    void *memory = NULL;
    const uint64_t count = generation->manifest.vector_count;
    const uint32_t pages = keys_pages(count);
    const uint32_t directory_pages = keys_directory_pages(count);
    enum status status =
        lookup_init(&lookup, generation, (size_t)PAGES_AT_A_TIME * KEYS_PAGE_BYTES, err);
    if (status == STATUS_OK)
        status = bulk_alloc(pages, sizeof(uint64_t), "first keys", &memory, err);
    for (uint32_t page = 0; status == STATUS_OK && page < directory_pages;
         page += PAGES_AT_A_TIME) {
        const uint32_t some = MIN((uint32_t)PAGES_AT_A_TIME, directory_pages - page);
        status = file_read(&lookup, GENERATION_KEYS, ((uint64_t)pages + page) * KEYS_PAGE_BYTES,
                           (size_t)some * KEYS_PAGE_BYTES, err);
        if (status == STATUS_OK)
            status = firsts_take(&lookup, page, some, memory, err);
    }
    free(lookup.buffer);
    if (status == STATUS_OK)
        *firsts = memory;
    else
        bulk_free(memory, pages, sizeof(uint64_t));
    return status;
}

/* ---- one key ---- */

/* The first keys of directory page `page`. */
static enum status directory_read(const struct lookup *lookup, uint32_t page,
                                  uint64_t firsts[KEYS_PAGE_FIRSTS], struct error *err)
{
    const uint64_t number = (uint64_t)keys_pages(lookup->shape.count) + page;
    enum status status =
        file_read(lookup, GENERATION_KEYS, number * KEYS_PAGE_BYTES, KEYS_PAGE_BYTES, err);
    if (status != STATUS_OK)
        return status;
    const enum keys_fault fault = keys_directory_open(&lookup->shape, page, lookup->buffer, firsts);
    return fault == KEYS_OK ? STATUS_OK : page_fault(lookup, number, keys_fault_name(fault), err);
}

/* The key page that would have `key`; *found is false when it is below all keys. */
static enum status page_bisect(const struct lookup *lookup, uint64_t key, uint32_t *page,
                               bool *found, struct error *err)
{
    uint64_t firsts[KEYS_PAGE_FIRSTS];
    uint32_t low = 0; /* the key is on the directory pages of [low, high), or below all */
    uint32_t high = keys_directory_pages(lookup->shape.count);
    enum status status = STATUS_OK;
    while (status == STATUS_OK && low + 1 < high) {
        const uint32_t middle = low + (high - low) / 2;
        status = directory_read(lookup, middle, firsts, err);
        if (status == STATUS_OK && firsts[0] <= key)
            low = middle;
        else
            high = middle;
    }
    if (status == STATUS_OK)
        status = directory_read(lookup, low, firsts, err);
    if (status != STATUS_OK)
        return status;
    *found = keys_find_page(firsts, keys_directory_count(&lookup->shape, low), key, page);
    *page += low * KEYS_PAGE_FIRSTS;
    return STATUS_OK;
}

/* Key page `number`, verified, in the buffer. */
static enum status page_read(const struct lookup *lookup, uint32_t number, struct keys_page *page,
                             struct error *err)
{
    enum status status = file_read(lookup, GENERATION_KEYS, (uint64_t)number * KEYS_PAGE_BYTES,
                                   KEYS_PAGE_BYTES, err);
    if (status != STATUS_OK)
        return status;
    const enum keys_fault fault = keys_page_open(&lookup->shape, number, lookup->buffer, page);
    return fault == KEYS_OK ? STATUS_OK : page_fault(lookup, number, keys_fault_name(fault), err);
}

enum status keys_lookup(const struct generation *generation, uint64_t key, uint32_t *node,
                        bool *found, struct error *err)
{
    struct lookup lookup;
    struct keys_page page;
    uint32_t number = 0;
    bool within = false;
    enum status status = lookup_init(&lookup, generation, KEYS_PAGE_BYTES, err);
    if (status == STATUS_OK)
        status = page_bisect(&lookup, key, &number, &within, err);
    if (status == STATUS_OK && within)
        status = page_read(&lookup, number, &page, err);
    if (status == STATUS_OK)
        *found = within && keys_page_find(&page, key, node);
    free(lookup.buffer);
    return status;
}

/* ---- one vector ---- */

static enum status block_fault_set(const struct generation *generation, uint32_t block,
                                   const char *why, struct error *err)
{
    return error_set(err, STATUS_CORRUPT, "%s: block %u: %s",
                     file_label(generation->file_paths[GENERATION_NODES]), block, why);
}

enum status keys_lookup_vector(const struct generation *generation, uint32_t node, uint64_t key,
                               void *vector, struct error *err)
{
    const struct block_geometry *geometry = &generation->manifest.geometry;
    const uint32_t block = node / geometry->nodes_per_block;
    const uint32_t slot = node % geometry->nodes_per_block;
    struct lookup lookup;
    struct block_view view;
    enum block_fault fault = BLOCK_OK;
    enum status status = lookup_init(&lookup, generation, geometry->block_bytes, err);
    if (status == STATUS_OK)
        status = file_read(&lookup, GENERATION_NODES, (uint64_t)block * geometry->block_bytes,
                           geometry->block_bytes, err);
    if (status == STATUS_OK)
        fault = block_open(geometry, block, lookup.buffer, &view);
    if (fault != BLOCK_OK)
        status = block_fault_set(generation, block, block_fault_name(fault), err);
    else if (status == STATUS_OK && (slot >= view.record_count || block_key(&view, slot) != key))
        status = block_fault_set(generation, block, "has not the key that keys.bin says", err);
    if (status == STATUS_OK)
        memcpy(vector, block_vector(&view, slot), geometry->vector_bytes);
    free(lookup.buffer);
    return status;
}
