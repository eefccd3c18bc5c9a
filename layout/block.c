/*
 * block.c - encoding, verifying and reading one block. See block.h for the layout and FORMAT.md for
 * the byte-level specification. Pure functions over caller storage: no state, thread-safe.
 *
 * Two functions are on the path of every block a query reads: block_open() (one hash, one pass over
 * the offsets) and block_neighbors() (no branch per value; 65 ns for 60 gap-coded ids on a Zen 4
 * core). Bytes come from disk, so a block with a good checksum is still not trusted: an attacker
 * can compute checksums, and a bug in a builder writes them.
 */
#include "layout/block.h"

#include <assert.h>
#include <string.h>

#include "common/cpu.h"
#include "common/load.h"
#include "common/random.h"
#include "layout/block_hash.h"

struct block_header {
    uint64_t checksum;
    uint16_t record_count;
    uint8_t adjacency;
    uint8_t flags;
    uint32_t reserved;
};
_Static_assert(sizeof(struct block_header) == BLOCK_HEADER_BYTES, "block header size");
_Static_assert(offsetof(struct block_header, checksum) == 0, "block header layout");
_Static_assert(offsetof(struct block_header, record_count) == 8, "block header layout");
_Static_assert(offsetof(struct block_header, adjacency) == 10, "block header layout");
_Static_assert(offsetof(struct block_header, flags) == 11, "block header layout");
_Static_assert(offsetof(struct block_header, reserved) == 12, "block header layout");

enum {
    CHECKSUM_BYTES = sizeof(uint64_t),
    SELECTOR_BITS = 2,
    SELECTORS_PER_BYTE = 4,
    SELECTOR_MASK = BLOCK_GAP_WIDTHS - 1,
    GAP_BITS_MAX = 32,
    LIST_FAULT = BLOCK_DEGREE_MAX + 1, /* "degree" of a list that cannot be decoded */
};

/* ---- geometry and sizes ---- */

/* Bits needed to write `value`; 0 for 0. */
ALWAYS_INLINE uint32_t bits_needed(uint32_t value)
{
    return value ? 32u - (uint32_t)__builtin_clz(value) : 0;
}

/* Where the list offsets of a block of `record_count` records start, and where its lists do. */
ALWAYS_INLINE uint64_t offsets_start(const struct block_geometry *geometry, uint32_t record_count)
{
    return BLOCK_HEADER_BYTES +
           (uint64_t)record_count * ((uint64_t)geometry->vector_bytes + sizeof(uint64_t));
}

ALWAYS_INLINE uint64_t lists_start(const struct block_geometry *geometry, uint32_t record_count)
{
    return offsets_start(geometry, record_count) + ((uint64_t)record_count + 1) * sizeof(uint16_t);
}

static enum status gap_widths_check(const struct block_geometry *geometry, struct error *err)
{
    uint32_t previous = 1;
    for (int i = 0; i < BLOCK_GAP_WIDTHS; i++) {
        uint32_t width = geometry->gap_width[i];
        if (width < previous || width > GAP_BITS_MAX)
            return error_set(err, STATUS_INVALID,
                             "gap_widths[%d] is %u, must be %u..%d (ascending, 1..%d)", i, width,
                             previous, GAP_BITS_MAX, GAP_BITS_MAX);
        previous = width;
    }
    uint32_t needed = bits_needed(geometry->node_limit - 1);
    if (previous < needed)
        return error_set(err, STATUS_INVALID,
                         "gap_widths[%d] is %u bits, ids below %u need %u bits",
                         BLOCK_GAP_WIDTHS - 1, previous, geometry->node_limit, needed);
    return STATUS_OK;
}

enum status block_geometry_check(const struct block_geometry *geometry, struct error *err)
{
    if (geometry->block_bytes == 0 || geometry->block_bytes % BLOCK_PAGE_BYTES != 0 ||
        geometry->block_bytes > BLOCK_BYTES_MAX)
        return error_set(err, STATUS_INVALID,
                         "block_bytes is %u, must be a multiple of %d, at most %d",
                         geometry->block_bytes, BLOCK_PAGE_BYTES, BLOCK_BYTES_MAX);
    if (geometry->nodes_per_block < 1 || geometry->nodes_per_block > BLOCK_NODES_MAX)
        return error_set(err, STATUS_INVALID, "nodes_per_block is %u, must be 1..%d",
                         geometry->nodes_per_block, BLOCK_NODES_MAX);
    if (geometry->vector_bytes == 0)
        return error_set(err, STATUS_INVALID, "vector_bytes is 0");
    if (geometry->node_limit == 0 || geometry->node_limit % geometry->nodes_per_block != 0)
        return error_set(err, STATUS_INVALID,
                         "node_limit is %u, must be a positive multiple of nodes_per_block (%u)",
                         geometry->node_limit, geometry->nodes_per_block);
    if (block_list_budget(geometry, geometry->nodes_per_block) < 0)
        return error_set(err, STATUS_INVALID,
                         "%u records with vectors of %u bytes do not fit a block of %u bytes",
                         geometry->nodes_per_block, geometry->vector_bytes, geometry->block_bytes);
    if (geometry->adjacency == BLOCK_ADJACENCY_PLAIN)
        return STATUS_OK;
    if (geometry->adjacency != BLOCK_ADJACENCY_GAPS)
        return error_set(err, STATUS_INVALID, "adjacency is %u, must be 0 (plain) or 1 (gaps)",
                         geometry->adjacency);
    return gap_widths_check(geometry, err);
}

int64_t block_list_budget(const struct block_geometry *geometry, uint32_t record_count)
{
    /* At most 2^32 * 2^33: no overflow for any arguments. */
    return (int64_t)geometry->block_bytes - BLOCK_TAIL_BYTES -
           (int64_t)lists_start(geometry, record_count);
}

/* The narrowest selector that holds `gap`. */
ALWAYS_INLINE uint32_t gap_selector(const struct block_geometry *geometry, uint32_t gap)
{
    uint32_t bits = bits_needed(gap);
    uint32_t selector = 0;
    for (int i = 0; i < BLOCK_GAP_WIDTHS - 1; i++)
        selector += bits > geometry->gap_width[i];
    return selector;
}

ALWAYS_INLINE uint32_t selector_bytes(uint32_t degree)
{
    return (degree + SELECTORS_PER_BYTE - 1) / SELECTORS_PER_BYTE;
}

size_t block_list_bytes(const struct block_geometry *geometry, const uint32_t *ids, uint32_t degree)
{
    assert(degree <= BLOCK_DEGREE_MAX);
    if (geometry->adjacency == BLOCK_ADJACENCY_PLAIN)
        return (size_t)degree * sizeof(uint32_t);
    size_t bits = 0;
    uint32_t next = 0; /* smallest id the next one can be */
    for (uint32_t i = 0; i < degree; i++) {
        bits += geometry->gap_width[gap_selector(geometry, ids[i] - next)];
        next = ids[i] + 1;
    }
    return 1 + (size_t)selector_bytes(degree) + (bits + 7) / 8;
}

void block_gap_widths_choose(const uint64_t histogram[33], uint32_t node_limit,
                             uint8_t gap_width[BLOCK_GAP_WIDTHS])
{
    assert(node_limit > 0);
    /* A wider last width than node_limit needs only costs bits, so it is fixed and three remain. */
    const uint32_t last = MAX(1u, bits_needed(node_limit - 1));
    uint64_t below[GAP_BITS_MAX + 1]; /* gaps that need at most this many bits */
    below[0] = histogram[0];
    for (uint32_t b = 1; b <= GAP_BITS_MAX; b++)
        below[b] = below[b - 1] + (b <= last ? histogram[b] : 0);

    unsigned __int128 best = 0;
    bool found = false;
    for (uint32_t a = 1; a <= last; a++)
        for (uint32_t b = a; b <= last; b++)
            for (uint32_t c = b; c <= last; c++) {
                unsigned __int128 bits = (unsigned __int128)below[a] * a;
                bits += (unsigned __int128)(below[b] - below[a]) * b;
                bits += (unsigned __int128)(below[c] - below[b]) * c;
                bits += (unsigned __int128)(below[last] - below[c]) * last;
                if (found && bits >= best)
                    continue;
                found = true;
                best = bits;
                gap_width[0] = (uint8_t)a;
                gap_width[1] = (uint8_t)b;
                gap_width[2] = (uint8_t)c;
                gap_width[3] = (uint8_t)last;
            }
}

/* ---- encoding ---- */

uint64_t block_checksum(const struct block_geometry *geometry, uint64_t block_number,
                        const void *block)
{
    return block_hash_get(cpu_features())((const uint8_t *)block + CHECKSUM_BYTES,
                                          geometry->block_bytes - CHECKSUM_BYTES,
                                          random_at(geometry->generation_seed, block_number));
}

static void list_check_ascending(const struct block_geometry *geometry, const uint32_t *ids,
                                 uint32_t degree)
{
    for (uint32_t i = 0; i < degree; i++) {
        assert(ids[i] < geometry->node_limit);
        assert(i == 0 || ids[i] > ids[i - 1]);
    }
}

/* Writes one gap-coded list over zeroed bytes and returns where it ends. */
static uint8_t *list_encode_gaps(const struct block_geometry *geometry, const uint32_t *ids,
                                 uint32_t degree, uint8_t *out)
{
    *out++ = (uint8_t)degree;
    uint8_t *selectors = out;
    out += selector_bytes(degree);
    uint64_t pending = 0;
    uint32_t pending_bits = 0;
    uint32_t next = 0;
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t gap = ids[i] - next;
        uint32_t selector = gap_selector(geometry, gap);
        next = ids[i] + 1;
        selectors[i / SELECTORS_PER_BYTE] |=
            (uint8_t)(selector << (SELECTOR_BITS * (i % SELECTORS_PER_BYTE)));
        pending |= (uint64_t)gap << pending_bits;
        pending_bits += geometry->gap_width[selector];
        for (; pending_bits >= 8; pending_bits -= 8, pending >>= 8)
            *out++ = (uint8_t)pending;
    }
    if (pending_bits > 0)
        *out++ = (uint8_t)pending;
    return out;
}

void block_encode(const struct block_geometry *geometry, uint64_t block_number,
                  const struct block_record *records, uint32_t record_count, void *block)
{
    assert(record_count >= 1 && record_count <= geometry->nodes_per_block);
    int64_t budget = block_list_budget(geometry, record_count);
    for (uint32_t i = 0; i < record_count; i++)
        budget -= (int64_t)block_list_bytes(geometry, records[i].ids, records[i].degree);
    assert(budget >= 0);

    uint8_t *bytes = block;
    memset(bytes, 0, geometry->block_bytes);
    uint8_t *vectors = bytes + BLOCK_HEADER_BYTES;
    uint8_t *keys = vectors + (size_t)record_count * geometry->vector_bytes;
    uint8_t *offsets = bytes + offsets_start(geometry, record_count);
    uint8_t *list = bytes + lists_start(geometry, record_count);
    for (uint32_t i = 0; i < record_count; i++) {
        const struct block_record *record = &records[i];
        list_check_ascending(geometry, record->ids, record->degree);
        memcpy(vectors + (size_t)i * geometry->vector_bytes, record->vector,
               geometry->vector_bytes);
        memcpy(keys + (size_t)i * sizeof(uint64_t), &record->key, sizeof(uint64_t));
        uint16_t offset = (uint16_t)(list - bytes);
        memcpy(offsets + (size_t)i * sizeof(offset), &offset, sizeof(offset));
        if (geometry->adjacency == BLOCK_ADJACENCY_GAPS) {
            list = list_encode_gaps(geometry, record->ids, record->degree, list);
        } else if (record->degree > 0) {
            memcpy(list, record->ids, (size_t)record->degree * sizeof(uint32_t));
            list += (size_t)record->degree * sizeof(uint32_t);
        }
    }
    uint16_t end = (uint16_t)(list - bytes);
    memcpy(offsets + (size_t)record_count * sizeof(end), &end, sizeof(end));

    struct block_header header = {
        .record_count = (uint16_t)record_count,
        .adjacency = geometry->adjacency,
    };
    memcpy(bytes, &header, sizeof(header));
    header.checksum = block_checksum(geometry, block_number, bytes);
    memcpy(bytes, &header, sizeof(header));
}

/* ---- reading ---- */

const char *block_fault_name(enum block_fault fault)
{
    static const char *const names[] = {
        [BLOCK_OK] = "ok",
        [BLOCK_FAULT_CHECKSUM] = "checksum mismatch",
        [BLOCK_FAULT_HEADER] = "bad header",
        [BLOCK_FAULT_OFFSETS] = "bad list offsets",
        [BLOCK_FAULT_LIST] = "bad neighbour list",
        [BLOCK_FAULT_PADDING] = "non-zero padding",
    };
    return (unsigned)fault < ARRAY_LENGTH(names) ? names[fault] : "unknown fault";
}

/* First offset where the table ends, none descending, last before the tail. */
static bool offsets_valid(const uint8_t *offsets, uint32_t record_count, uint64_t first,
                          uint32_t limit)
{
    uint32_t previous = load_u16(offsets);
    if (previous != first)
        return false;
    uint32_t descending = 0;
    for (uint32_t i = 1; i <= record_count; i++) {
        uint32_t next = load_u16(offsets + (size_t)i * sizeof(uint16_t));
        descending |= next < previous;
        previous = next;
    }
    return !descending && previous <= limit;
}

void block_view_trusted(const struct block_geometry *geometry, uint64_t block_number,
                        const void *block, struct block_view *view)
{
    const uint8_t *bytes = block;
    struct block_header header;
    memcpy(&header, bytes, sizeof(header));
    const uint8_t *vectors = bytes + BLOCK_HEADER_BYTES;
    *view = (struct block_view){
        .geometry = geometry,
        .bytes = bytes,
        .vectors = vectors,
        .keys = vectors + (size_t)header.record_count * geometry->vector_bytes,
        .offsets = bytes + offsets_start(geometry, header.record_count),
        .first_node = (uint32_t)(block_number * geometry->nodes_per_block),
        .record_count = header.record_count,
    };
}

enum block_fault block_open(const struct block_geometry *geometry, uint64_t block_number,
                            const void *block, struct block_view *view)
{
    const uint8_t *bytes = block;
    struct block_header header;
    memcpy(&header, bytes, sizeof(header));
    if (UNLIKELY(header.checksum != block_checksum(geometry, block_number, bytes)))
        return BLOCK_FAULT_CHECKSUM;

    const uint32_t record_count = header.record_count;
    if (UNLIKELY(record_count < 1 || record_count > geometry->nodes_per_block ||
                 header.adjacency != geometry->adjacency || header.flags != 0 ||
                 header.reserved != 0 || block_list_budget(geometry, record_count) < 0))
        return BLOCK_FAULT_HEADER;

    const uint8_t *offsets = bytes + offsets_start(geometry, record_count);
    if (UNLIKELY(!offsets_valid(offsets, record_count, lists_start(geometry, record_count),
                                geometry->block_bytes - BLOCK_TAIL_BYTES)))
        return BLOCK_FAULT_OFFSETS;

    block_view_trusted(geometry, block_number, block, view);
    return BLOCK_OK;
}

uint64_t block_key(const struct block_view *view, uint32_t slot)
{
    return load_u64(view->keys + (size_t)slot * sizeof(uint64_t));
}

/* Value i of a bit stream: any width up to 32 at any bit offset lies within 39 bits, so one load.
 */
ALWAYS_INLINE uint64_t gap_at(const uint8_t *stream, uint64_t bit)
{
    return load_u64(stream + (bit >> 3)) >> (bit & 7);
}

/* Decodes a gap list in [list, end) and returns its degree, or LIST_FAULT. Loads reach at most
 * 8 bytes past `end`: the block's tail. */
static uint32_t list_decode_gaps(const struct block_geometry *geometry, const uint8_t *list,
                                 const uint8_t *end, uint32_t *ids)
{
    if (UNLIKELY(list == end))
        return LIST_FAULT;
    const uint32_t degree = *list++;
    if (UNLIKELY((size_t)(end - list) < selector_bytes(degree)))
        return LIST_FAULT;
    const uint8_t *selectors = list;
    const uint8_t *stream = list + selector_bytes(degree);
    const uint64_t stream_bits = (uint64_t)(end - stream) * 8;

    uint64_t width[BLOCK_GAP_WIDTHS], mask[BLOCK_GAP_WIDTHS];
    for (int i = 0; i < BLOCK_GAP_WIDTHS; i++) {
        width[i] = geometry->gap_width[i];
        mask[i] = (UINT64_C(1) << width[i]) - 1;
    }

    /* Gaps are added in 64 bits, 255 * 2^32 at most, so the sum cannot wrap and ids ascend by
     * construction: comparing the last one with node_limit covers all. */
    uint64_t bit = 0, next = 0;
    uint32_t i = 0;
    for (; i + SELECTORS_PER_BYTE <= degree; i += SELECTORS_PER_BYTE) {
        const uint32_t s = *selectors++;
        const uint32_t s0 = s & 3, s1 = (s >> 2) & 3, s2 = (s >> 4) & 3, s3 = s >> 6;
        const uint64_t bit1 = bit + width[s0];
        const uint64_t bit2 = bit1 + width[s1];
        const uint64_t bit3 = bit2 + width[s2];
        const uint64_t bit4 = bit3 + width[s3];
        if (UNLIKELY(bit4 > stream_bits))
            return LIST_FAULT;
        const uint64_t id0 = next + (gap_at(stream, bit) & mask[s0]);
        const uint64_t id1 = id0 + 1 + (gap_at(stream, bit1) & mask[s1]);
        const uint64_t id2 = id1 + 1 + (gap_at(stream, bit2) & mask[s2]);
        const uint64_t id3 = id2 + 1 + (gap_at(stream, bit3) & mask[s3]);
        ids[i] = (uint32_t)id0;
        ids[i + 1] = (uint32_t)id1;
        ids[i + 2] = (uint32_t)id2;
        ids[i + 3] = (uint32_t)id3;
        next = id3 + 1;
        bit = bit4;
    }
    for (uint32_t s = i < degree ? *selectors : 0; i < degree; i++, s >>= SELECTOR_BITS) {
        const uint64_t value_bit = bit;
        bit += width[s & SELECTOR_MASK];
        if (UNLIKELY(bit > stream_bits))
            return LIST_FAULT;
        const uint64_t id = next + (gap_at(stream, value_bit) & mask[s & SELECTOR_MASK]);
        ids[i] = (uint32_t)id;
        next = id + 1;
    }
    if (UNLIKELY(next > geometry->node_limit || (bit + 7) / 8 * 8 != stream_bits))
        return LIST_FAULT;
    return degree;
}

static uint32_t list_decode_plain(const struct block_geometry *geometry, const uint8_t *list,
                                  const uint8_t *end, uint32_t *ids)
{
    const size_t bytes = (size_t)(end - list);
    if (UNLIKELY(bytes % sizeof(uint32_t) != 0 || bytes > BLOCK_DEGREE_MAX * sizeof(uint32_t)))
        return LIST_FAULT;
    const uint32_t degree = (uint32_t)(bytes / sizeof(uint32_t));
    uint32_t largest = 0;
    for (uint32_t i = 0; i < degree; i++) {
        ids[i] = load_u32(list + (size_t)i * sizeof(uint32_t));
        largest = MAX(largest, ids[i]);
    }
    return UNLIKELY(largest >= geometry->node_limit) ? (uint32_t)LIST_FAULT : degree;
}

uint32_t block_neighbors(const struct block_view *view, uint32_t slot, uint32_t *ids,
                         enum block_fault *fault)
{
    assert(slot < view->record_count);
    const uint8_t *offset = view->offsets + (size_t)slot * sizeof(uint16_t);
    const uint8_t *list = view->bytes + load_u16(offset);
    const uint8_t *end = view->bytes + load_u16(offset + sizeof(uint16_t));
    uint32_t degree = view->geometry->adjacency == BLOCK_ADJACENCY_GAPS
                          ? list_decode_gaps(view->geometry, list, end, ids)
                          : list_decode_plain(view->geometry, list, end, ids);
    if (LIKELY(degree <= BLOCK_DEGREE_MAX))
        return degree;
    *fault = BLOCK_FAULT_LIST;
    return 0;
}

void block_list_prefetch(const struct block_view *view, uint32_t slot)
{
    const uint8_t *list = view->bytes + load_u16(view->offsets + (size_t)slot * sizeof(uint16_t));
    PREFETCH(list);
    PREFETCH(list + 64); /* a list of usual length takes two lines */
}

/* ---- lists alone ---- */

/* u16 record count, offsets as in a block but from the start of this, lists, tail. */

static size_t lists_alone_start(uint32_t record_count)
{
    return sizeof(uint16_t) * (record_count + 2);
}

static uint32_t lists_end(const struct block_view *view)
{
    return load_u16(view->offsets + (size_t)view->record_count * sizeof(uint16_t));
}

size_t block_lists_bytes(const struct block_view *view)
{
    return lists_alone_start(view->record_count) + (lists_end(view) - load_u16(view->offsets)) +
           BLOCK_TAIL_BYTES;
}

void block_lists_put(const struct block_view *view, void *lists)
{
    uint8_t *bytes = lists;
    uint32_t first = load_u16(view->offsets);
    size_t start = lists_alone_start(view->record_count);
    uint16_t count = (uint16_t)view->record_count;
    memcpy(bytes, &count, sizeof(count));
    for (uint32_t i = 0; i <= view->record_count; i++) {
        size_t place = (size_t)i * sizeof(uint16_t);
        uint16_t offset = (uint16_t)(load_u16(view->offsets + place) - first + start);
        memcpy(bytes + sizeof(count) + place, &offset, sizeof(offset));
    }
    memcpy(bytes + start, view->bytes + first, lists_end(view) - first + BLOCK_TAIL_BYTES);
}

void block_lists_view(const struct block_geometry *geometry, uint64_t block_number,
                      const void *lists, struct block_view *view)
{
    const uint8_t *bytes = lists;
    *view = (struct block_view){
        .geometry = geometry,
        .bytes = bytes,
        .offsets = bytes + sizeof(uint16_t),
        .first_node = (uint32_t)(block_number * geometry->nodes_per_block),
        .record_count = load_u16(bytes),
    };
}

/* ---- checking ---- */

/* One list has one encoding: the narrowest selector for each gap, zeros in bits that carry nothing.
 * `ids` is what the list in [list, end) decodes to. */
static bool gap_list_tidy(const struct block_geometry *geometry, const uint32_t *ids,
                          const uint8_t *list, const uint8_t *end)
{
    const uint32_t degree = list[0];
    const uint8_t *selectors = list + 1;
    uint64_t bits = 0;
    uint32_t next = 0;
    for (uint32_t i = 0; i < selector_bytes(degree) * SELECTORS_PER_BYTE; i++) {
        const uint32_t selector =
            (selectors[i / SELECTORS_PER_BYTE] >> (SELECTOR_BITS * (i % SELECTORS_PER_BYTE))) &
            SELECTOR_MASK;
        if (selector != (i < degree ? gap_selector(geometry, ids[i] - next) : 0))
            return false;
        if (i < degree) {
            bits += geometry->gap_width[selector];
            next = ids[i] + 1;
        }
    }
    return bits % 8 == 0 || end[-1] >> (bits % 8) == 0;
}

static bool list_tidy(const struct block_view *view, uint32_t slot, const uint32_t *ids,
                      uint32_t degree)
{
    for (uint32_t i = 0; i < degree; i++) {
        if (i > 0 && ids[i] <= ids[i - 1])
            return false;
        if (ids[i] - view->first_node < view->geometry->nodes_per_block)
            return false; /* block-mates are implicit */
    }
    if (view->geometry->adjacency != BLOCK_ADJACENCY_GAPS)
        return true;
    const uint8_t *offset = view->offsets + (size_t)slot * sizeof(uint16_t);
    return gap_list_tidy(view->geometry, ids, view->bytes + load_u16(offset),
                         view->bytes + load_u16(offset + sizeof(uint16_t)));
}

enum block_fault block_check(const struct block_geometry *geometry, uint64_t block_number,
                             const void *block)
{
    struct block_view view;
    enum block_fault fault = block_open(geometry, block_number, block, &view);
    if (fault != BLOCK_OK)
        return fault;
    uint32_t ids[BLOCK_DEGREE_MAX + 1];
    for (uint32_t slot = 0; slot < view.record_count; slot++) {
        uint32_t degree = block_neighbors(&view, slot, ids, &fault);
        if (fault != BLOCK_OK)
            return fault;
        if (!list_tidy(&view, slot, ids, degree))
            return BLOCK_FAULT_LIST;
    }
    uint32_t end = load_u16(view.offsets + (size_t)view.record_count * sizeof(uint16_t));
    for (; end < geometry->block_bytes; end++)
        if (view.bytes[end] != 0)
            return BLOCK_FAULT_PADDING;
    return BLOCK_OK;
}
