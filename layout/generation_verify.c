/*
 * generation_verify.c - the full check of a generation: one pass over every file, the first fault
 * named with file and, where there is one, block.
 *
 * A file's own structure is checked before its digest, since "block 17" says more than "nodes.blk".
 * What the blocks may still get wrong together is checked here too: their records must add up to
 * vector_count. That no list names an empty slot is not: it would take the record count of every
 * block at hand, and a search ignores such an id anyway.
 *
 * Reads only; thread-safe as the generation is.
 */
#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#include "common/codec.h"
#include "common/file_io.h"
#include "common/memory.h"
#include "layout/attributes.h"
#include "layout/digest.h"
#include "layout/generation_internal.h"
#include "layout/keys.h"
#include "layout/navigation.h"
#include "layout/sample.h"

struct verify {
    const struct generation *generation;
    bool whole; /* every byte of every file */
    XXH3_state_t *hash;
    uint64_t records; /* seen in the blocks so far */
    uint64_t blocks;
    uint64_t *hot_seen; /* a bit for each node */
    uint64_t *firsts;   /* of the key pages seen so far */
    uint64_t last_key;  /* of the key page before */
};

static enum status verify_nodes_chunk(void *context, uint64_t offset, const void *data,
                                      size_t bytes, struct error *err)
{
    struct verify *verify = context;
    const struct block_geometry *geometry = &verify->generation->manifest.geometry;
    const char *path = verify->generation->file_paths[GENERATION_NODES];
    const uint8_t *block = data;
    for (size_t at = 0; at < bytes; at += geometry->block_bytes, block += geometry->block_bytes) {
        uint64_t number = (offset + at) / geometry->block_bytes;
        enum block_fault fault = block_check(geometry, number, block);
        if (fault != BLOCK_OK)
            return error_set(err, STATUS_CORRUPT, "%s: block %" PRIu64 ": %s", file_label(path),
                             number, block_fault_name(fault));
        uint16_t record_count;
        memcpy(&record_count, block + sizeof(uint64_t), sizeof(record_count));
        verify->records += record_count;
        verify->blocks++;
    }
    XXH3_128bits_update(verify->hash, data, bytes);
    return STATUS_OK;
}

static enum status verify_codes_chunk(void *context, uint64_t offset, const void *data,
                                      size_t bytes, struct error *err)
{
    (void)offset;
    (void)err;
    struct verify *verify = context;
    XXH3_128bits_update(verify->hash, data, bytes);
    return STATUS_OK;
}

static enum status verify_hot_chunk(void *context, uint64_t offset, const void *data, size_t bytes,
                                    struct error *err)
{
    struct verify *verify = context;
    const uint32_t node_limit = verify->generation->manifest.geometry.node_limit;
    const char *path = verify->generation->file_paths[GENERATION_HOT];
    const uint32_t *ids = data;
    for (size_t i = 0; i < bytes / sizeof(uint32_t); i++) {
        uint64_t position = offset / sizeof(uint32_t) + i;
        if (ids[i] >= node_limit)
            return error_set(err, STATUS_CORRUPT,
                             "%s: entry %" PRIu64 " is node %u, ids end below %u", file_label(path),
                             position, ids[i], node_limit);
        uint64_t *word = &verify->hot_seen[ids[i] / 64];
        const uint64_t bit = UINT64_C(1) << (ids[i] % 64);
        if (*word & bit)
            return error_set(err, STATUS_CORRUPT, "%s: entry %" PRIu64 " repeats node %u",
                             file_label(path), position, ids[i]);
        *word |= bit;
    }
    XXH3_128bits_update(verify->hash, data, bytes);
    return STATUS_OK;
}

/* Scans one file and compares its digest. */
static enum status verify_scan(struct verify *verify, const struct generation_scan *scan,
                               struct error *err)
{
    XXH3_128bits_reset(verify->hash);
    enum status status = generation_scan_run(verify->generation, scan, err);
    if (status != STATUS_OK)
        return status;
    return generation_digest_check(verify->generation, scan->file,
                                   digest_of(XXH3_128bits_digest(verify->hash)), err);
}

static enum status verify_nodes(struct verify *verify, struct error *err)
{
    const struct manifest *manifest = &verify->generation->manifest;
    struct generation_scan scan = {GENERATION_NODES, manifest->geometry.block_bytes,
                                   verify_nodes_chunk, verify};
    enum status status = verify_scan(verify, &scan, err);
    if (status == STATUS_OK && verify->records != manifest->vector_count)
        status = error_set(err, STATUS_CORRUPT,
                           "%s: its blocks hold %" PRIu64 " records, the manifest says %" PRIu64,
                           file_label(verify->generation->file_paths[GENERATION_NODES]),
                           verify->records, manifest->vector_count);
    return status;
}

static enum status verify_hot(struct verify *verify, struct error *err)
{
    const uint64_t words = ((uint64_t)verify->generation->manifest.geometry.node_limit + 63) / 64;
    void *bits;
    enum status status = bulk_alloc((size_t)words, sizeof(uint64_t), "hot list check", &bits, err);
    if (status != STATUS_OK)
        return status;
    verify->hot_seen = bits;
    struct generation_scan scan = {GENERATION_HOT, BLOCK_PAGE_BYTES, verify_hot_chunk, verify};
    status = verify_scan(verify, &scan, err);
    bulk_free(bits, (size_t)words, sizeof(uint64_t));
    return status;
}

/* Puts the file's path before what its parser said. */
static enum status verify_forward(const struct generation *generation, enum generation_file file,
                                  const struct error *inner, struct error *err)
{
    return error_set(err, inner->status, "%s: %s", file_label(generation->file_paths[file]),
                     inner->text);
}

static enum status verify_codec(const struct generation *generation, struct error *err)
{
    void *data;
    size_t bytes;
    enum status status = generation_load(generation, GENERATION_CODEC, &data, &bytes, err);
    if (status != STATUS_OK)
        return status;
    struct codec *codec = NULL;
    struct error inner;
    status = codec_deserialize(data, bytes, &codec, &inner);
    bulk_free(data, bytes, 1);
    if (status != STATUS_OK)
        return verify_forward(generation, GENERATION_CODEC, &inner, err);
    const struct manifest *manifest = &generation->manifest;
    const struct codec_params params = codec_params_of(codec);
    codec_destroy(codec);
    if (params.kind == manifest->codec_kind && params.metric == manifest->metric &&
        params.type == manifest->type && params.dim == manifest->dim &&
        params.code_bytes == manifest->code_bytes)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "%s: it is for %s %s vectors of dim %u in %u bytes, the manifest says %s %s, "
                     "%u, %u",
                     file_label(generation->file_paths[GENERATION_CODEC]),
                     metric_name(params.metric), element_name(params.type), params.dim,
                     params.code_bytes, metric_name(manifest->metric), element_name(manifest->type),
                     manifest->dim, manifest->code_bytes);
}

static enum status verify_navigation(const struct generation *generation, struct error *err)
{
    void *data;
    size_t bytes;
    enum status status = generation_load(generation, GENERATION_NAVIGATION, &data, &bytes, err);
    if (status != STATUS_OK)
        return status;
    struct navigation navigation;
    struct error inner;
    const struct manifest *manifest = &generation->manifest;
    status = navigation_decode(data, bytes, manifest->geometry.node_limit, &navigation, &inner);
    if (status != STATUS_OK)
        status = verify_forward(generation, GENERATION_NAVIGATION, &inner, err);
    else if (navigation.count != manifest->navigation_count)
        status = error_set(err, STATUS_CORRUPT, "%s: %u nodes, the manifest says %u",
                           file_label(generation->file_paths[GENERATION_NAVIGATION]),
                           navigation.count, manifest->navigation_count);
    bulk_free(data, bytes, 1);
    return status;
}

static enum status sample_compare(const struct generation *generation, const struct sample *sample,
                                  struct error *err)
{
    const struct manifest *manifest = &generation->manifest;
    if (sample->count == manifest->sample_count && sample->k == manifest->sample_k &&
        sample->dim == manifest->dim && sample->type == manifest->type &&
        sample->metric == manifest->metric)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "%s: %u %s %s queries of dim %u with %u neighbours, the manifest says %u %s "
                     "%s, %u, %u",
                     file_label(generation->file_paths[GENERATION_SAMPLE]), sample->count,
                     metric_name(sample->metric), element_name(sample->type), sample->dim,
                     sample->k, manifest->sample_count, metric_name(manifest->metric),
                     element_name(manifest->type), manifest->dim, manifest->sample_k);
}

static enum status verify_sample(const struct generation *generation, struct error *err)
{
    void *data;
    size_t bytes;
    enum status status = generation_load(generation, GENERATION_SAMPLE, &data, &bytes, err);
    if (status != STATUS_OK)
        return status;
    struct sample sample;
    struct error inner;
    status = sample_decode(data, bytes, &sample, &inner);
    if (status != STATUS_OK)
        status = verify_forward(generation, GENERATION_SAMPLE, &inner, err);
    else
        status = sample_compare(generation, &sample, err);
    if (status == STATUS_OK &&
        sample_nodes_check(&sample, generation->manifest.geometry.node_limit, &inner) != STATUS_OK)
        status = error_set(err, inner.status, "%s: %s",
                           file_label(generation->file_paths[GENERATION_SAMPLE]), inner.text);
    bulk_free(data, bytes, 1);
    return status;
}

/* What memory safety needs; if `whole`, all that is promised, which takes random access. */
static enum status verify_attributes(const struct generation *generation, bool whole,
                                     struct error *err)
{
    const struct manifest *manifest = &generation->manifest;
    void *data;
    size_t bytes;
    if (manifest->files[GENERATION_ATTRIBUTES].bytes == 0)
        return STATUS_OK;
    enum status status = generation_load(generation, GENERATION_ATTRIBUTES, &data, &bytes, err);
    if (status != STATUS_OK)
        return status;
    struct attributes attributes;
    struct error inner;
    status = attributes_decode(data, bytes, manifest->geometry.node_limit, manifest->vector_count,
                               &attributes, &inner);
    if (status == STATUS_OK && whole)
        status = attributes_check(&attributes, &inner);
    if (status != STATUS_OK)
        status = verify_forward(generation, GENERATION_ATTRIBUTES, &inner, err);
    bulk_free(data, bytes, 1);
    return status;
}

/* Page `page` is above the one before it. */
static enum keys_fault verify_key_page(struct verify *verify, const struct keys_shape *shape,
                                       uint32_t page, const void *bytes)
{
    struct keys_page view;
    enum keys_fault fault = keys_page_open(shape, page, bytes, &view);
    if (fault != KEYS_OK)
        return fault;
    if (page > 0 && view.keys[0] <= verify->last_key)
        return KEYS_FAULT_ORDER;
    verify->firsts[page] = view.keys[0];
    verify->last_key = view.keys[view.count - 1];
    return KEYS_OK;
}

/* Directory page `page` has the first keys of the pages seen. */
static enum keys_fault verify_directory_page(const struct verify *verify,
                                             const struct keys_shape *shape, uint32_t page,
                                             const void *bytes)
{
    uint64_t firsts[KEYS_PAGE_FIRSTS];
    enum keys_fault fault = keys_directory_open(shape, page, bytes, firsts);
    if (fault != KEYS_OK)
        return fault;
    const uint64_t *wanted = verify->firsts + (size_t)page * KEYS_PAGE_FIRSTS;
    const size_t count = keys_directory_count(shape, page);
    return memcmp(firsts, wanted, count * sizeof(*firsts)) == 0 ? KEYS_OK : KEYS_FAULT_FIRSTS;
}

static enum status verify_keys_chunk(void *context, uint64_t offset, const void *data, size_t bytes,
                                     struct error *err)
{
    struct verify *verify = context;
    const struct keys_shape shape = keys_shape_of(&verify->generation->manifest);
    const uint32_t pages = keys_pages(shape.count);
    const uint8_t *page = data;
    for (size_t at = 0; at < bytes; at += KEYS_PAGE_BYTES, page += KEYS_PAGE_BYTES) {
        const uint32_t number = (uint32_t)((offset + at) / KEYS_PAGE_BYTES);
        const enum keys_fault fault =
            number < pages ? verify_key_page(verify, &shape, number, page)
                           : verify_directory_page(verify, &shape, number - pages, page);
        if (fault != KEYS_OK)
            return error_set(err, STATUS_CORRUPT, "%s: page %u: %s",
                             file_label(verify->generation->file_paths[GENERATION_KEYS]), number,
                             keys_fault_name(fault));
    }
    XXH3_128bits_update(verify->hash, data, bytes);
    return STATUS_OK;
}

static enum status verify_keys(struct verify *verify, struct error *err)
{
    const uint32_t pages = keys_pages(verify->generation->manifest.vector_count);
    void *firsts;
    enum status status = bulk_alloc(pages, sizeof(uint64_t), "first keys", &firsts, err);
    if (status != STATUS_OK)
        return status;
    verify->firsts = firsts;
    struct generation_scan scan = {GENERATION_KEYS, KEYS_PAGE_BYTES, verify_keys_chunk, verify};
    status = verify_scan(verify, &scan, err);
    bulk_free(firsts, pages, sizeof(uint64_t));
    return status;
}

static enum status verify_small(struct verify *verify, struct error *err)
{
    struct generation_scan scan = {GENERATION_CODES, BLOCK_PAGE_BYTES, verify_codes_chunk, verify};
    enum status status = verify_scan(verify, &scan, err);
    if (status == STATUS_OK)
        status = verify_codec(verify->generation, err);
    if (status == STATUS_OK)
        status = verify_navigation(verify->generation, err);
    if (status == STATUS_OK)
        status = verify_hot(verify, err);
    if (status == STATUS_OK)
        status = verify_sample(verify->generation, err);
    if (status == STATUS_OK)
        status = verify_attributes(verify->generation, verify->whole, err);
    if (status == STATUS_OK)
        status = verify_keys(verify, err);
    return status;
}

static enum status verify_run(const struct generation *generation, bool whole, uint64_t *blocks,
                              struct error *err)
{
    struct verify verify = {.generation = generation, .whole = whole, .hash = XXH3_createState()};
    if (!verify.hash)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(generation->path));
    enum status status = whole ? verify_nodes(&verify, err) : STATUS_OK;
    if (status == STATUS_OK)
        status = verify_small(&verify, err);
    XXH3_freeState(verify.hash);
    if (blocks)
        *blocks = verify.blocks;
    return status;
}

enum status generation_verify(const struct generation *generation, uint64_t *blocks_checked,
                              struct error *err)
{
    return verify_run(generation, true, blocks_checked, err);
}

enum status generation_verify_small(const struct generation *generation, struct error *err)
{
    return verify_run(generation, false, NULL, err);
}
