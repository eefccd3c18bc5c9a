/*
 * fuzz_filter.c - any text as a filter of a few columns: what compiles has a scan of just the nodes
 * that match, each once, and a spread of some of them.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "query/filter.h"

enum { NODES = 16, VECTORS = 14 }; /* nodes 7 and 15 are holes */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t exists[] = {0x7f7f};

/* 0 0 1 2 2 2 3 - 250 251 252 253 254 255 255 - */
static const uint8_t bytes[NODES] = {0, 0, 1, 2, 2, 2, 3, 0, 250, 251, 252, 253, 254, 255, 255, 0};
static const uint32_t bytes_order[VECTORS] = {0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14};

/* The ends of both types, and between. */
static const uint64_t longs[NODES] = {
    UINT64_MAX, 0,          1, INT64_MAX, UINT64_C(1) << 63, 5, 5, 0,
    UINT64_MAX, UINT64_MAX, 0, INT64_MAX, UINT64_C(1) << 63, 7, 8, 0};
static const uint32_t unsigned_order[VECTORS] = {1, 10, 2, 5, 6, 13, 14, 3, 11, 4, 12, 0, 8, 9};
static const uint32_t signed_order[VECTORS] = {4, 12, 0, 8, 9, 1, 10, 2, 5, 6, 13, 14, 3, 11};

/* "", "a", "b", "c": node i has "a" if i has bit 0, "b" if bit 1, "c" if bit 2; "" is nobody's. */
static const uint32_t label_at[] = {0, 0, 1, 2, 3};
static const uint64_t node_at[NODES + 1] = {0, 0,  1,  2,  4,  5,  7,  9, 9,
                                            9, 10, 11, 13, 14, 16, 18, 18};
static const uint32_t node_labels[] = {1, 2, 1, 2, 3, 1, 3, 2, 3, 1, 2, 1, 2, 3, 1, 3, 2, 3};
static const uint64_t posting_at[] = {0, 0, 6, 12, 18};
static const uint32_t postings[] = {1, 3, 5, 9, 11, 13, 2, 3, 6, 10, 11, 14, 4, 5, 6, 12, 13, 14};

static const struct attributes attributes = {
    .node_limit = NODES,
    .vector_count = VECTORS,
    .column_count = 4,
    .exists = exists,
    .columns = {{.name = "b",
                 .kind = ATTRIBUTE_U64,
                 .base = 10,
                 .width = 1,
                 .values = bytes,
                 .order = bytes_order},
                {.name = "u",
                 .kind = ATTRIBUTE_U64,
                 .width = 8,
                 .values = (const uint8_t *)longs,
                 .order = unsigned_order},
                {.name = "i",
                 .kind = ATTRIBUTE_I64,
                 .width = 8,
                 .values = (const uint8_t *)longs,
                 .order = signed_order},
                {.name = "t",
                 .kind = ATTRIBUTE_LABELS,
                 .label_count = 4,
                 .label_at = label_at,
                 .label_text = "abc",
                 .node_at = node_at,
                 .node_labels = node_labels,
                 .posting_at = posting_at,
                 .postings = postings}},
};

static uint32_t matching(const struct filter *filter)
{
    uint32_t set = 0;
    for (uint32_t i = 0; i < NODES; i++)
        if (attributes_node_exists(&attributes, i) && filter_match(filter, i))
            set |= 1u << i;
    return set;
}

static uint32_t scanned(const struct filter *filter, uint64_t look)
{
    struct filter_scan scan;
    uint32_t set = 0;
    bool done = false;
    filter_scan_begin(filter, &scan);
    while (!done) {
        uint32_t nodes[2];
        const uint32_t count = filter_scan_next(&scan, look, nodes, 2, &done);
        for (uint32_t i = 0; i < count; i++) {
            assert(nodes[i] < NODES && !(set >> nodes[i] & 1));
            set |= 1u << nodes[i];
        }
    }
    return set;
}

static void check(const struct filter *filter)
{
    const uint32_t set = matching(filter);
    assert(scanned(filter, 1) == set);
    assert(scanned(filter, UINT64_MAX) == set);
    assert(filter_scan_length(filter) <= NODES);
    assert(filter_match_estimate(filter) == (uint64_t)__builtin_popcount(set));
    uint32_t nodes[NODES];
    const uint32_t count = filter_spread(filter, nodes, NODES);
    assert(count == (uint32_t)__builtin_popcount(set));
    for (uint32_t i = 0; i < count; i++)
        assert(nodes[i] < NODES && (set >> nodes[i] & 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct filter *filter = NULL;
    struct error err = {0};
    /* Memory of its exact size, without a terminator. */
    char *text = malloc(size ? size : 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    const enum status status = filter_compile(text, size, &attributes, &filter, &err);
    if (status == STATUS_OK) {
        assert(strlen(filter_text(filter)) == size);
        check(filter);
    } else {
        assert(status == STATUS_INVALID && strncmp(err.text, "filter: ", 8) == 0);
    }
    free(text);
    filter_free(filter);
    return 0;
}
