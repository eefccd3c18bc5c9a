/*
 * index.c - opens a generation for search: codes, codec, navigation, then the cache.
 *
 * The budget is spent in that order. Whole blocks are cached, in the order in which hot.bin first
 * names one of their nodes: a block in memory serves all its nodes, and when everything fits the
 * cache simply is the file.
 */
#include "query/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/memory.h"
#include "query/index_internal.h"

/* What loading shares between its steps; never outlives index_open(). */
struct loader {
    struct index *index;
    uint64_t budget;
    uint32_t *hot;
    size_t hot_bytes;
};

static enum status load_codec(struct index *index, struct error *err)
{
    void *bytes = NULL;
    size_t length = 0;
    enum status status = generation_load(index->generation, GENERATION_CODEC, &bytes, &length, err);
    if (status)
        return status;
    status = codec_deserialize(bytes, length, &index->codec, err);
    bulk_free(bytes, length, 1);
    if (status)
        return status;
    struct codec_params params = codec_params_of(index->codec);
    const struct manifest *m = index->manifest;
    if (params.dim != m->dim || params.type != m->type || params.metric != m->metric ||
        params.code_bytes != m->code_bytes)
        return error_set(
            err, STATUS_CORRUPT, "%s/%s: trained for other vectors than the manifest's",
            generation_path(index->generation), generation_file_names[GENERATION_CODEC]);
    return STATUS_OK;
}

static enum status load_navigation(struct index *index, struct error *err)
{
    enum status status =
        generation_load(index->generation, GENERATION_NAVIGATION, &index->navigation_file,
                        &index->navigation_file_bytes, err);
    if (status)
        return status;
    status = navigation_decode(index->navigation_file, index->navigation_file_bytes,
                               index->geometry.node_limit, &index->navigation, err);
    if (status)
        return status;
    void *codes = NULL;
    status =
        bulk_alloc(index->navigation.count, index->code_bytes, "navigation codes", &codes, err);
    if (status)
        return status;
    index->navigation_codes = codes;
    for (uint32_t i = 0; i < index->navigation.count; i++)
        memcpy(index->navigation_codes + (size_t)i * index->code_bytes,
               index->codes + (size_t)index->navigation.nodes[i] * index->code_bytes,
               index->code_bytes);
    return STATUS_OK;
}

static enum status load_codes(struct index *index, struct error *err)
{
    void *codes = NULL;
    enum status status =
        generation_load(index->generation, GENERATION_CODES, &codes, &index->codes_bytes, err);
    index->codes = codes;
    return status;
}

/* Reads blocks [first, first + count) into `out`, verifies each and counts its records as cached.
 */
static enum status read_blocks(struct index *index, uint64_t first, uint64_t count, uint8_t *out,
                               struct error *err)
{
    size_t block_bytes = index->geometry.block_bytes;
    size_t wanted = (size_t)count * block_bytes;
    size_t done = 0;
    while (done < wanted) {
        size_t part = MIN(wanted - done, (size_t)1 << 20);
        ssize_t got = pread(index->nodes_fd, out + done, part, (off_t)(first * block_bytes + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return error_set_os(err, got < 0 ? errno : EIO, "%s: block %llu", index_path(index),
                                (unsigned long long)(first + done / block_bytes));
        done += (size_t)got;
    }
    for (uint64_t i = 0; i < count; i++) {
        struct block_view view;
        enum block_fault fault =
            block_open(&index->geometry, first + i, out + i * block_bytes, &view);
        if (fault)
            return error_set(err, STATUS_CORRUPT, "%s/%s: block %llu: %s", index_path(index),
                             generation_file_names[GENERATION_NODES],
                             (unsigned long long)(first + i), block_fault_name(fault));
        index->memory.cached_nodes += view.record_count;
    }
    return STATUS_OK;
}

/* Marks blocks in hot order until `capacity` of them are chosen; returns how many. Sets cache_slot
 * of the chosen to 0 for now. */
static uint64_t choose_blocks(struct loader *l, uint64_t capacity)
{
    struct index *index = l->index;
    uint64_t chosen = 0;
    size_t hot_count = l->hot_bytes / sizeof(uint32_t);
    for (size_t i = 0; i < hot_count; i++) {
        if (l->hot[i] >= index->geometry.node_limit)
            continue;
        uint32_t block = index_block_of(index, l->hot[i]);
        if (index->cache_slot[block] != INDEX_NOT_CACHED) {
            index->memory.hot_nodes++;
            continue;
        }
        if (chosen == capacity)
            break;
        index->cache_slot[block] = 0;
        index->memory.hot_nodes++;
        chosen++;
    }
    return chosen;
}

/* Gives chosen blocks their places in file order and reads them run by run. */
static enum status fill_cache(struct index *index, struct error *err)
{
    uint64_t block_count = index->manifest->block_count;
    uint64_t place = 0;
    for (uint64_t block = 0; block < block_count;) {
        if (index->cache_slot[block] == INDEX_NOT_CACHED) {
            block++;
            continue;
        }
        uint64_t run = 0;
        for (; block + run < block_count && index->cache_slot[block + run] != INDEX_NOT_CACHED;
             run++)
            index->cache_slot[block + run] = (uint32_t)(place + run);
        enum status status =
            read_blocks(index, block, run, index->cache + place * index->geometry.block_bytes, err);
        if (status)
            return status;
        place += run;
        block += run;
    }
    return STATUS_OK;
}

static enum status cache_alloc(struct index *index, uint64_t blocks, struct error *err)
{
    void *cache = NULL;
    enum status status =
        bulk_alloc((size_t)blocks, index->geometry.block_bytes, "block cache", &cache, err);
    if (status)
        return status;
    index->cache = cache;
    index->cache_blocks = blocks;
    index->memory.cached_blocks = blocks;
    index->memory.cache_bytes += blocks * index->geometry.block_bytes;
    return STATUS_OK;
}

static enum status load_hot_cache(struct loader *l, uint64_t room, struct error *err)
{
    struct index *index = l->index;
    size_t block_count = (size_t)index->manifest->block_count;
    uint64_t table_bytes = block_count * sizeof(uint32_t);
    if (room < table_bytes + index->geometry.block_bytes)
        return STATUS_OK;
    void *hot = NULL;
    enum status status =
        generation_load(index->generation, GENERATION_HOT, &hot, &l->hot_bytes, err);
    l->hot = hot;
    void *table = NULL;
    if (!status)
        status = bulk_alloc(block_count, sizeof(uint32_t), "cache table", &table, err);
    if (status)
        return status;
    index->cache_slot = table;
    memset(table, 0xff, table_bytes);
    uint64_t blocks = choose_blocks(l, (room - table_bytes) / index->geometry.block_bytes);
    index->memory.cache_bytes = table_bytes;
    status = cache_alloc(index, blocks, err);
    if (!status)
        status = fill_cache(index, err);
    return status;
}

static enum status load_cache(struct loader *l, struct error *err)
{
    struct index *index = l->index;
    uint64_t used = index->memory.codes_bytes + index->memory.navigation_bytes;
    if (l->budget == 0)
        return STATUS_OK;
    if (l->budget < used)
        return error_set(err, STATUS_NO_MEMORY,
                         "%s: memory budget of %llu bytes is below the %llu that codes and "
                         "navigation take",
                         index_path(index), (unsigned long long)l->budget,
                         (unsigned long long)used);
    uint64_t room = l->budget - used;
    uint64_t all_bytes = index->manifest->files[GENERATION_NODES].bytes;
    if (room < all_bytes)
        return load_hot_cache(l, room, err);
    index->memory.resident = true;
    index->memory.hot_nodes = index->manifest->hot_count;
    enum status status = cache_alloc(index, index->manifest->block_count, err);
    if (!status)
        status = read_blocks(index, 0, index->manifest->block_count, index->cache, err);
    return status;
}

static enum status index_load(struct loader *l, struct error *err)
{
    struct index *index = l->index;
    enum status status = load_codes(index, err);
    if (!status)
        status = load_codec(index, err);
    if (!status)
        status = load_navigation(index, err);
    if (status)
        return status;
    index->memory.codes_bytes = index->codes_bytes + index->manifest->files[GENERATION_CODEC].bytes;
    index->memory.navigation_bytes =
        index->navigation_file_bytes + (uint64_t)index->navigation.count * index->code_bytes;
    return load_cache(l, err);
}

static void index_free(struct index *index)
{
    if (index->cache)
        bulk_free(index->cache, (size_t)index->cache_blocks, index->geometry.block_bytes);
    if (index->cache_slot)
        bulk_free(index->cache_slot, (size_t)index->manifest->block_count, sizeof(uint32_t));
    if (index->navigation_codes)
        bulk_free(index->navigation_codes, index->navigation.count, index->code_bytes);
    if (index->navigation_file)
        bulk_free(index->navigation_file, index->navigation_file_bytes, 1);
    if (index->codes)
        bulk_free(index->codes, index->codes_bytes, 1);
    codec_destroy(index->codec);
    generation_close(index->generation);
    free(index);
}

enum status index_open(const char *path, const struct index_options *options, struct index **out,
                       struct error *err)
{
    struct index *index = calloc(1, sizeof(*index));
    if (!index)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    atomic_init(&index->references, 1);
    enum status status = generation_open(path, &index->generation, err);
    if (status) {
        free(index);
        return status;
    }
    const struct manifest *m = generation_manifest(index->generation);
    index->manifest = m;
    index->geometry = m->geometry;
    index->code_bytes = m->code_bytes;
    if (m->geometry.nodes_per_block > 1)
        index->block_divisor = UINT64_MAX / m->geometry.nodes_per_block + 1;
    bool direct;
    index->nodes_fd = generation_nodes_fd(index->generation, &direct);
    distance_init(&index->distance, m->type, m->metric, m->dim);

    struct loader loader = {.index = index, .budget = options->memory_bytes};
    status = index_load(&loader, err);
    if (loader.hot)
        bulk_free(loader.hot, loader.hot_bytes, 1);
    if (status) {
        index_free(index);
        return status;
    }
    *out = index;
    return STATUS_OK;
}

struct index *index_retain(struct index *index)
{
    /* Relaxed: whoever hands the pointer over has ordered everything before. */
    atomic_fetch_add_explicit(&index->references, 1, memory_order_relaxed);
    return index;
}

void index_release(struct index *index)
{
    if (!index)
        return;
    /* Release pairs with the acquire of whoever drops the last reference and frees. */
    if (atomic_fetch_sub_explicit(&index->references, 1, memory_order_acq_rel) == 1)
        index_free(index);
}

const struct manifest *index_manifest(const struct index *index)
{
    return index->manifest;
}

const char *index_path(const struct index *index)
{
    return generation_path(index->generation);
}

struct index_memory index_memory_of(const struct index *index)
{
    return index->memory;
}
