/*
 * index.c - opens a generation for search, by a plan of what goes to memory (index_plan.h), with
 * one pass over the blocks (index_scan.h).
 */
#include "query/index.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "layout/keys_lookup.h"
#include "query/index_internal.h"
#include "query/index_plan.h"
#include "query/index_scan.h"

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
    return navigation_decode(index->navigation_file, index->navigation_file_bytes,
                             index->geometry.node_limit, &index->navigation, err);
}

static enum status load_attributes(struct index *index, struct error *err)
{
    const struct manifest *m = index->manifest;
    if (m->files[GENERATION_ATTRIBUTES].bytes == 0)
        return STATUS_OK;
    enum status status =
        generation_load(index->generation, GENERATION_ATTRIBUTES, &index->attributes_file,
                        &index->attributes_file_bytes, err);
    if (status)
        return status;
    struct error why = {0};
    status =
        attributes_decode(index->attributes_file, index->attributes_file_bytes,
                          index->geometry.node_limit, m->vector_count, &index->attributes, &why);
    if (status)
        return error_set(err, status, "%s/%s: %s", generation_path(index->generation),
                         generation_file_names[GENERATION_ATTRIBUTES], why.text);
    return STATUS_OK;
}

/* The codes of the navigation graph's nodes, side by side. */
static enum status gather_navigation_codes(struct index *index, struct error *err)
{
    void *codes = NULL;
    enum status status =
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

/* The generation's codes (mapped if `plain`), or room for finer ones and the codec that will make
 * them. */
static enum status load_codes(struct index *index, const struct index_plan *plan, bool plain,
                              struct error *err)
{
    void *codes = NULL;
    enum status status;
    if (plain) {
        status = generation_map(index->generation, GENERATION_CODES, &index->codes_mapped,
                                &index->codes_bytes, err);
        /* Nobody writes codes that were not made at open. */
        index->codes = (uint8_t *)(uintptr_t)index->codes_mapped;
        return status;
    }
    if (plan->scalar_bits == 0) {
        status =
            generation_load(index->generation, GENERATION_CODES, &codes, &index->codes_bytes, err);
        index->codes = codes;
        return status;
    }
    struct codec_params params = codec_params_of(index->codec);
    params.kind = CODEC_SCALAR;
    params.code_bytes = plan->code_bytes;
    params.norm_max = (float)index->manifest->norm_max;
    struct codec *finer = NULL;
    status = index_codec_train(index, &params, &finer, err);
    if (status)
        return status;
    codec_destroy(index->codec);
    index->codec = finer;
    index->code_bytes = plan->code_bytes;
    status = bulk_alloc(index->geometry.node_limit, plan->code_bytes, "codes", &codes, err);
    if (status)
        return status;
    index->codes = codes;
    index->codes_bytes = (size_t)index->geometry.node_limit * plan->code_bytes;
    return STATUS_OK;
}

/* ---- cache ---- */

/* Gives a place to `block` if it has none; false when the cache is full. */
static bool choose_block(struct index *index, uint32_t block, uint64_t *chosen)
{
    if (index->cache_slot[block] != INDEX_NOT_CACHED)
        return true;
    if (*chosen == index->cache_blocks)
        return false;
    index->cache_slot[block] = (uint32_t)(*chosen)++;
    return true;
}

/* Chooses blocks in the order in which hot.bin first names one of their nodes, and then, should it
 * not name enough, in file order. */
static void choose_blocks(struct index *index, const uint32_t *hot, size_t hot_count)
{
    uint64_t chosen = 0;
    for (size_t i = 0; i < hot_count; i++) {
        if (hot[i] >= index->geometry.node_limit)
            continue;
        if (!choose_block(index, index_block_of(index, hot[i]), &chosen))
            return;
        index->memory.hot_nodes++;
    }
    for (uint64_t block = 0; block < index->manifest->block_count; block++)
        if (!choose_block(index, (uint32_t)block, &chosen))
            return;
}

static enum status choose_hot_blocks(struct index *index, struct error *err)
{
    size_t block_count = (size_t)index->manifest->block_count;
    void *hot = NULL, *table = NULL;
    size_t hot_bytes = 0;
    enum status status = generation_load(index->generation, GENERATION_HOT, &hot, &hot_bytes, err);
    if (!status)
        status = bulk_alloc(block_count, sizeof(uint32_t), "cache table", &table, err);
    if (!status) {
        index->cache_slot = table;
        memset(table, 0xff, block_count * sizeof(uint32_t));
        choose_blocks(index, hot, hot_bytes / sizeof(uint32_t));
    }
    if (hot)
        bulk_free(hot, hot_bytes, 1);
    return status;
}

static enum status prepare_cache(struct index *index, const struct index_plan *plan,
                                 struct error *err)
{
    if (plan->cached_blocks == 0)
        return STATUS_OK;
    void *cache = NULL;
    enum status status = bulk_alloc((size_t)plan->cached_blocks, index->geometry.block_bytes,
                                    "block cache", &cache, err);
    if (status)
        return status;
    index->cache = cache;
    index->cache_blocks = plan->cached_blocks;
    if (!plan->resident)
        return choose_hot_blocks(index, err);
    index->memory.hot_nodes = index->manifest->hot_count;
    index->memory.resident = true;
    return STATUS_OK;
}

/* ---- opening ---- */

static enum status prepare_lists(struct index *index, const struct index_plan *plan,
                                 struct error *err)
{
    if (!plan->lists)
        return STATUS_OK;
    void *lists = NULL;
    enum status status = bulk_alloc((size_t)index->manifest->block_count, sizeof(*index->lists),
                                    "table of lists", &lists, err);
    index->lists = lists;
    index->memory.lists_bytes = index->manifest->block_count * sizeof(*index->lists);
    return status;
}

static enum status plan_for(const struct generation *generation, uint64_t budget,
                            struct index_plan *plan, struct error *err)
{
    struct error why = {0};
    if (index_plan_make(generation_manifest(generation), budget, plan, &why))
        return error_set(err, why.status, "%s: %s", generation_path(generation), why.text);
    return STATUS_OK;
}

static enum status index_load(struct index *index, const struct index_options *options,
                              struct error *err)
{
    struct index_plan plan;
    enum status status = STATUS_OK;
    if (options->plain)
        index_plan_make_plain(index->manifest, options->memory_bytes, &plan);
    else
        status = plan_for(index->generation, options->memory_bytes, &plan, err);
    if (status)
        return status;
    index->memory = (struct index_memory){
        .scalar_bits = plan.scalar_bits,
        .code_bytes = plan.code_bytes,
        .codes_bytes = plan.codes_bytes,
        .navigation_bytes = plan.navigation_bytes,
        .attributes_bytes = plan.attributes_bytes,
        .keys_bytes = plan.keys_bytes,
        .cache_bytes = plan.cache_bytes,
        .cached_blocks = plan.cached_blocks,
    };
    status = load_codec(index, err);
    if (!status)
        status = load_navigation(index, err);
    if (!status)
        status = load_attributes(index, err);
    if (!status)
        status = load_codes(index, &plan, options->plain, err);
    if (!status)
        status = keys_lookup_firsts(index->generation, &index->key_firsts, err);
    if (!status)
        status = prepare_cache(index, &plan, err);
    if (!status)
        status = prepare_lists(index, &plan, err);
    if (!status && (plan.scalar_bits || plan.lists || plan.cached_blocks))
        status = index_scan(index, plan.scalar_bits != 0, options->threads, err);
    if (!status)
        status = gather_navigation_codes(index, err);
    index->memory.cached_nodes = atomic_load_explicit(&index->cached_nodes, memory_order_relaxed);
    return status;
}

static void index_free(struct index *index)
{
    index_lists_free(index);
    if (index->cache)
        bulk_free(index->cache, (size_t)index->cache_blocks, index->geometry.block_bytes);
    if (index->cache_slot)
        bulk_free(index->cache_slot, (size_t)index->manifest->block_count, sizeof(uint32_t));
    if (index->navigation_codes)
        bulk_free(index->navigation_codes, index->navigation.count, index->code_bytes);
    if (index->navigation_file)
        bulk_free(index->navigation_file, index->navigation_file_bytes, 1);
    if (index->attributes_file)
        bulk_free(index->attributes_file, index->attributes_file_bytes, 1);
    if (index->key_firsts)
        bulk_free(index->key_firsts, keys_pages(index->keys.count), sizeof(uint64_t));
    if (index->codes_mapped)
        generation_unmap(index->codes_mapped, index->codes_bytes);
    else if (index->codes)
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
    enum status status = options->unfinished ? generation_open_unfinished(path, options->unfinished,
                                                                          &index->generation, err)
                                             : generation_open(path, &index->generation, err);
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
    index->keys_fd = generation_keys_fd(index->generation);
    index->keys = keys_shape_of(m);
    distance_init_query(&index->distance, m->query_type, m->type, m->metric, m->dim);

    status = index_load(index, options, err);
    if (status) {
        index_free(index);
        return status;
    }
    *out = index;
    return STATUS_OK;
}

enum status index_probe(const char *path, uint64_t memory_bytes, struct error *err)
{
    struct generation *generation = NULL;
    struct index_plan plan;
    enum status status = generation_open(path, &generation, err);
    if (status)
        return status;
    status = plan_for(generation, memory_bytes, &plan, err);
    if (!status)
        status = generation_verify_small(generation, err);
    generation_close(generation);
    return status;
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

const struct attributes *index_attributes(const struct index *index)
{
    return &index->attributes;
}

struct index_memory index_memory_of(const struct index *index)
{
    return index->memory;
}
