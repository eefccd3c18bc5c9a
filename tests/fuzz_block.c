/*
 * fuzz_block.c - any bytes as a block, under a good checksum, so that what lies behind it is
 * reached.
 *
 * The first bytes choose a geometry that passes its check; the rest is the block. Whatever opens
 * must keep the promises of block.h; the block is as long as it says, so AddressSanitizer sees a
 * read past it.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "layout/block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHOICE_BYTES = 12 };

static struct block_geometry geometry_choose(const uint8_t choice[CHOICE_BYTES])
{
    struct block_geometry geometry = {
        .block_bytes = BLOCK_PAGE_BYTES * (1 + choice[0] % 15u),
        .nodes_per_block = 1 + choice[1] % 64u,
        .vector_bytes = 1 + choice[2] * (choice[3] & 1 ? 8u : 1u),
        .adjacency = choice[3] >> 1 & 1,
        .generation_seed = choice[4],
    };
    geometry.node_limit = geometry.nodes_per_block * (1 + choice[5] * 65536u);
    for (int i = 0; i < BLOCK_GAP_WIDTHS; i++)
        geometry.gap_width[i] = 1 + choice[6 + i] % 32;
    return geometry;
}

static void view_expect(const struct block_geometry *geometry, const struct block_view *view,
                        const uint8_t *block, enum block_fault checked)
{
    assert(view->record_count >= 1 && view->record_count <= geometry->nodes_per_block);
    assert((const uint8_t *)block_vector(view, view->record_count) <=
           block + geometry->block_bytes);
    for (uint32_t slot = 0; slot < view->record_count; slot++) {
        uint32_t ids[BLOCK_DEGREE_MAX + 1];
        enum block_fault fault = BLOCK_OK;
        uint32_t degree = block_neighbors(view, slot, ids, &fault);
        (void)block_key(view, slot);
        assert(degree <= BLOCK_DEGREE_MAX);
        assert(fault == BLOCK_OK || (degree == 0 && checked != BLOCK_OK));
        for (uint32_t i = 0; i < degree; i++) {
            assert(ids[i] < geometry->node_limit);
            assert(checked != BLOCK_OK || i == 0 || ids[i] > ids[i - 1]);
        }
    }
}

/* A block that passes the full check must be what the encoder makes of its own records. */
static void canonical_expect(const struct block_geometry *geometry, const struct block_view *view,
                             const uint8_t *block)
{
    struct block_record *records = calloc(view->record_count, sizeof(*records));
    uint32_t *ids = calloc(view->record_count, (BLOCK_DEGREE_MAX + 1) * sizeof(*ids));
    uint8_t *again = malloc(geometry->block_bytes);
    assert(records && ids && again);
    for (uint32_t slot = 0; slot < view->record_count; slot++) {
        uint32_t *list = ids + (size_t)slot * (BLOCK_DEGREE_MAX + 1);
        enum block_fault fault = BLOCK_OK;
        uint32_t degree = block_neighbors(view, slot, list, &fault);
        records[slot] =
            (struct block_record){block_key(view, slot), block_vector(view, slot), list, degree};
    }
    block_encode(geometry, 0, records, view->record_count, again);
    assert(memcmp(again, block, geometry->block_bytes) == 0);
    free(again);
    free(ids);
    free(records);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < CHOICE_BYTES)
        return 0;
    const struct block_geometry geometry = geometry_choose(data);
    if (block_geometry_check(&geometry, NULL) != STATUS_OK)
        return 0;
    data += CHOICE_BYTES;
    size -= CHOICE_BYTES;
    uint8_t *block = calloc(1, geometry.block_bytes);
    assert(block);
    memcpy(block, data, MIN(size, geometry.block_bytes));
    uint64_t checksum = block_checksum(&geometry, 0, block);
    memcpy(block, &checksum, sizeof(checksum));

    struct block_view view;
    enum block_fault checked = block_check(&geometry, 0, block);
    enum block_fault opened = block_open(&geometry, 0, block, &view);
    assert(opened == BLOCK_OK || opened == checked);
    if (opened == BLOCK_OK)
        view_expect(&geometry, &view, block, checked);
    if (checked == BLOCK_OK)
        canonical_expect(&geometry, &view, block);
    free(block);
    return 0;
}
