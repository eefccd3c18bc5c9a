/*
 * navigation.c - encoding and checking navigation.bin. Pure functions, thread-safe; the decoder
 * points into the caller's bytes and allocates nothing.
 */
#include "layout/navigation.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

enum {
    NAVIGATION_MAGIC = 0x564e4a4e, /* "NJNV" */
    NAVIGATION_VERSION = 1,
    NAVIGATION_HEADER_BYTES = 32,
    NAVIGATION_DEGREE_MAX = 255,
};

struct navigation_header {
    uint32_t magic;
    uint32_t version;
    uint32_t count;
    uint32_t degree;
    uint32_t entry;
    uint32_t reserved[3];
};
_Static_assert(sizeof(struct navigation_header) == NAVIGATION_HEADER_BYTES, "header size");
_Static_assert(offsetof(struct navigation_header, magic) == 0, "header layout");
_Static_assert(offsetof(struct navigation_header, version) == 4, "header layout");
_Static_assert(offsetof(struct navigation_header, count) == 8, "header layout");
_Static_assert(offsetof(struct navigation_header, degree) == 12, "header layout");
_Static_assert(offsetof(struct navigation_header, entry) == 16, "header layout");
_Static_assert(offsetof(struct navigation_header, reserved) == 20, "header layout");

size_t navigation_bytes(uint32_t count, uint32_t degree)
{
    assert(degree <= NAVIGATION_DEGREE_MAX);
    /* Below 2^32 * 2^10: cannot overflow. */
    return NAVIGATION_HEADER_BYTES + sizeof(uint32_t) * (size_t)count * (1 + (size_t)degree);
}

void navigation_encode(const struct navigation *navigation, void *bytes)
{
    struct navigation_header header = {
        .magic = NAVIGATION_MAGIC,
        .version = NAVIGATION_VERSION,
        .count = navigation->count,
        .degree = navigation->degree,
        .entry = navigation->entry,
    };
    uint8_t *out = bytes;
    memcpy(out, &header, sizeof(header));
    out += sizeof(header);
    size_t nodes_bytes = (size_t)navigation->count * sizeof(uint32_t);
    memcpy(out, navigation->nodes, nodes_bytes);
    memcpy(out + nodes_bytes, navigation->neighbors, nodes_bytes * navigation->degree);
}

static enum status navigation_header_check(const struct navigation_header *header, size_t length,
                                           struct error *err)
{
    if (header->magic != NAVIGATION_MAGIC)
        return error_set(err, STATUS_CORRUPT, "navigation: magic is 0x%08x, want 0x%08x",
                         header->magic, (unsigned)NAVIGATION_MAGIC);
    if (header->version != NAVIGATION_VERSION)
        return error_set(err, STATUS_UNSUPPORTED, "navigation: version %u, this build reads %d",
                         header->version, NAVIGATION_VERSION);
    if (header->count == 0)
        return error_set(err, STATUS_CORRUPT, "navigation: count is 0");
    if (header->degree < 1 || header->degree > NAVIGATION_DEGREE_MAX)
        return error_set(err, STATUS_CORRUPT, "navigation: degree is %u, must be 1..%d",
                         header->degree, NAVIGATION_DEGREE_MAX);
    if (header->entry >= header->count)
        return error_set(err, STATUS_CORRUPT, "navigation: entry is %u of %u nodes", header->entry,
                         header->count);
    if (header->reserved[0] | header->reserved[1] | header->reserved[2])
        return error_set(err, STATUS_CORRUPT, "navigation: reserved bytes are not zero");
    size_t wanted = navigation_bytes(header->count, header->degree);
    if (length != wanted)
        return error_set(err, STATUS_CORRUPT,
                         "navigation: %zu bytes, %u nodes of degree %u take %zu", length,
                         header->count, header->degree, wanted);
    return STATUS_OK;
}

/* A row is indexes below count, then only NAVIGATION_NONE. */
static bool navigation_row_valid(const uint32_t *row, uint32_t degree, uint32_t count)
{
    uint32_t i = 0;
    while (i < degree && row[i] < count)
        i++;
    while (i < degree && row[i] == NAVIGATION_NONE)
        i++;
    return i == degree;
}

enum status navigation_decode(const void *bytes, size_t length, uint32_t node_limit,
                              struct navigation *out, struct error *err)
{
    assert((uintptr_t)bytes % sizeof(uint32_t) == 0);
    struct navigation_header header;
    if (length < sizeof(header))
        return error_set(err, STATUS_CORRUPT, "navigation: %zu bytes, its header alone has %zu",
                         length, sizeof(header));
    memcpy(&header, bytes, sizeof(header));
    enum status status = navigation_header_check(&header, length, err);
    if (status != STATUS_OK)
        return status;

    const uint32_t *nodes = (const uint32_t *)((const uint8_t *)bytes + sizeof(header));
    const uint32_t *neighbors = nodes + header.count;
    for (uint32_t i = 0; i < header.count; i++) {
        if (nodes[i] >= node_limit)
            return error_set(err, STATUS_CORRUPT,
                             "navigation: member %u is node %u, ids end below %u", i, nodes[i],
                             node_limit);
        if (!navigation_row_valid(neighbors + (size_t)i * header.degree, header.degree,
                                  header.count))
            return error_set(err, STATUS_CORRUPT,
                             "navigation: neighbours of member %u are not indexes below %u, then "
                             "padding",
                             i, header.count);
    }
    *out = (struct navigation){
        .count = header.count,
        .degree = header.degree,
        .entry = header.entry,
        .nodes = nodes,
        .neighbors = neighbors,
    };
    return STATUS_OK;
}
