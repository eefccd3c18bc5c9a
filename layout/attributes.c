/*
 * attributes.c - the shape of attributes.bin and decoding it; attributes_check.c proves the rest.
 * Pure functions, thread-safe; the decoder points into the caller's bytes and allocates nothing.
 *
 * No offset is stored: the entries say how long each array is, and so where it is. The sums cannot
 * wrap: 64 columns of at most 2^32 nodes with 2^16 labels of 4 bytes, twice, are below 2^60.
 */
#include "layout/attributes.h"

#include <assert.h>
#include <inttypes.h>
#include <strings.h>

#include "common/load.h"
#include "common/memory.h"

enum {
    ATTRIBUTES_MAGIC = 0x54414a4e, /* "NJAT" */
    ATTRIBUTES_VERSION = 1,
    ATTRIBUTES_ALIGN = 8,
    RESERVED_BYTES = 32, /* of header and entry */
};

struct attributes_header {
    uint32_t magic;
    uint32_t version;
    uint32_t column_count;
    uint32_t zero;
    uint64_t node_limit;
    uint64_t vector_count;
    uint8_t reserved[RESERVED_BYTES];
};
_Static_assert(sizeof(struct attributes_header) == 64, "header size");
_Static_assert(offsetof(struct attributes_header, magic) == 0, "header layout");
_Static_assert(offsetof(struct attributes_header, version) == 4, "header layout");
_Static_assert(offsetof(struct attributes_header, column_count) == 8, "header layout");
_Static_assert(offsetof(struct attributes_header, zero) == 12, "header layout");
_Static_assert(offsetof(struct attributes_header, node_limit) == 16, "header layout");
_Static_assert(offsetof(struct attributes_header, vector_count) == 24, "header layout");
_Static_assert(offsetof(struct attributes_header, reserved) == 32, "header layout");

struct attributes_entry {
    char name[ATTRIBUTE_NAME_MAX + 1];
    uint32_t kind;
    uint32_t width;
    uint64_t base;
    uint32_t label_count;
    uint32_t text_bytes;
    uint64_t memberships;
    uint8_t reserved[RESERVED_BYTES];
};
_Static_assert(sizeof(struct attributes_entry) == 128, "entry size");
_Static_assert(offsetof(struct attributes_entry, name) == 0, "entry layout");
_Static_assert(offsetof(struct attributes_entry, kind) == 64, "entry layout");
_Static_assert(offsetof(struct attributes_entry, width) == 68, "entry layout");
_Static_assert(offsetof(struct attributes_entry, base) == 72, "entry layout");
_Static_assert(offsetof(struct attributes_entry, label_count) == 80, "entry layout");
_Static_assert(offsetof(struct attributes_entry, text_bytes) == 84, "entry layout");
_Static_assert(offsetof(struct attributes_entry, memberships) == 88, "entry layout");
_Static_assert(offsetof(struct attributes_entry, reserved) == 96, "entry layout");
_Static_assert(ATTRIBUTES_HEAD_BYTES_MAX ==
                   sizeof(struct attributes_header) +
                       ATTRIBUTES_COLUMNS_MAX * sizeof(struct attributes_entry),
               "head size");

/* ---- names ---- */

static const char *const kind_names[] = {
    [ATTRIBUTE_U64] = "u64",
    [ATTRIBUTE_I64] = "i64",
    [ATTRIBUTE_LABELS] = "labels",
};

const char *attribute_kind_name(enum attribute_kind kind)
{
    return (unsigned)kind < ARRAY_LENGTH(kind_names) ? kind_names[kind] : NULL;
}

bool attribute_kind_parse(const char *text, size_t length, enum attribute_kind *kind)
{
    for (unsigned i = ATTRIBUTE_U64; i < ARRAY_LENGTH(kind_names); i++)
        if (strlen(kind_names[i]) == length && memcmp(kind_names[i], text, length) == 0) {
            *kind = (enum attribute_kind)i;
            return true;
        }
    return false;
}

static bool name_starts(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

bool attribute_name_valid(const char *name, size_t length)
{
    static const char *const words[] = {"and", "or", "not", "in", "any", "all"};
    if (length == 0 || length > ATTRIBUTE_NAME_MAX || !name_starts(name[0]))
        return false;
    for (size_t i = 1; i < length; i++)
        if (!name_starts(name[i]) && !(name[i] >= '0' && name[i] <= '9'))
            return false;
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++)
        if (strlen(words[i]) == length && strncasecmp(words[i], name, length) == 0)
            return false;
    return true;
}

const struct attribute_column *attributes_find(const struct attributes *attributes,
                                               const char *name, size_t length)
{
    for (uint32_t c = 0; c < attributes->column_count; c++) {
        const struct attribute_column *column = &attributes->columns[c];
        if (strlen(column->name) == length && memcmp(column->name, name, length) == 0)
            return column;
    }
    return NULL;
}

/* ---- places ---- */

uint32_t attribute_width(uint64_t span)
{
    if (span == 0)
        return 0;
    if (span <= UINT8_MAX)
        return 1;
    if (span <= UINT16_MAX)
        return 2;
    return span <= UINT32_MAX ? 4 : 8;
}

size_t attributes_head_bytes(uint32_t column_count)
{
    return sizeof(struct attributes_header) + column_count * sizeof(struct attributes_entry);
}

static uint64_t exists_bytes(const struct attributes_shape *shape)
{
    return (shape->node_limit + 63) / 64 * sizeof(uint64_t);
}

/* *at: where the array is; returns where the next one is. */
static uint64_t array_place(uint64_t *at, uint64_t from, uint64_t bytes)
{
    *at = from;
    return size_align(from + bytes, ATTRIBUTES_ALIGN);
}

/* From `at` on. */
static void column_place(const struct attributes_shape *shape, const struct attribute_shape *column,
                         uint64_t at, struct attribute_places *places)
{
    *places = (struct attribute_places){0};
    if (column->kind == ATTRIBUTE_LABELS) {
        const uint64_t labels = (uint64_t)column->label_count + 1;
        const uint64_t members = column->memberships * sizeof(uint32_t);
        at = array_place(&places->label_at, at, labels * sizeof(uint32_t));
        at = array_place(&places->label_text, at, column->text_bytes);
        at = array_place(&places->node_at, at, (shape->node_limit + 1) * sizeof(uint64_t));
        at = array_place(&places->node_labels, at, members);
        at = array_place(&places->posting_at, at, labels * sizeof(uint64_t));
        at = array_place(&places->postings, at, members);
    } else {
        at = array_place(&places->values, at, shape->node_limit * column->width);
        at = array_place(&places->order, at, shape->vector_count * sizeof(uint32_t));
    }
    places->end = at;
}

uint64_t attribute_bytes(const struct attributes_shape *shape, uint32_t column)
{
    struct attribute_places places;
    column_place(shape, &shape->columns[column], 0, &places);
    return places.end;
}

void attributes_place(const struct attributes_shape *shape, uint32_t column,
                      struct attribute_places *places)
{
    uint64_t at = attributes_head_bytes(shape->column_count) + exists_bytes(shape);
    for (uint32_t c = 0; c < column; c++)
        at += attribute_bytes(shape, c);
    column_place(shape, &shape->columns[column], at, places);
}

uint64_t attributes_bytes(const struct attributes_shape *shape)
{
    struct attribute_places places;
    attributes_place(shape, shape->column_count - 1, &places);
    return places.end;
}

/* ---- the head ---- */

void attributes_head_encode(const struct attributes_shape *shape, void *bytes)
{
    assert(shape->column_count >= 1 && shape->column_count <= ATTRIBUTES_COLUMNS_MAX);
    const struct attributes_header header = {
        .magic = ATTRIBUTES_MAGIC,
        .version = ATTRIBUTES_VERSION,
        .column_count = shape->column_count,
        .node_limit = shape->node_limit,
        .vector_count = shape->vector_count,
    };
    uint8_t *to = bytes;
    memcpy(to, &header, sizeof(header));
    to += sizeof(header);
    for (uint32_t c = 0; c < shape->column_count; c++) {
        const struct attribute_shape *column = &shape->columns[c];
        struct attributes_entry entry = {
            .kind = (uint32_t)column->kind,
            .width = column->width,
            .base = column->base,
            .label_count = column->label_count,
            .text_bytes = column->text_bytes,
            .memberships = column->memberships,
        };
        memcpy(entry.name, column->name, strnlen(column->name, ATTRIBUTE_NAME_MAX));
        memcpy(to, &entry, sizeof(entry));
        to += sizeof(entry);
    }
}

static enum status header_check(const struct attributes_header *header, struct error *err)
{
    if (header->magic != ATTRIBUTES_MAGIC)
        return error_set(err, STATUS_CORRUPT, "attributes: magic is 0x%08x, want 0x%08x",
                         header->magic, (unsigned)ATTRIBUTES_MAGIC);
    if (header->version != ATTRIBUTES_VERSION)
        return error_set(err, STATUS_UNSUPPORTED, "attributes: version %u, this build reads %d",
                         header->version, ATTRIBUTES_VERSION);
    if (header->column_count < 1 || header->column_count > ATTRIBUTES_COLUMNS_MAX)
        return error_set(err, STATUS_CORRUPT, "attributes: %u columns, must be 1..%d",
                         header->column_count, ATTRIBUTES_COLUMNS_MAX);
    if (header->node_limit > UINT32_MAX || header->vector_count > header->node_limit)
        return error_set(err, STATUS_CORRUPT,
                         "attributes: %" PRIu64 " vectors in %" PRIu64 " nodes, must be at most "
                         "as many and %u",
                         header->vector_count, header->node_limit, UINT32_MAX);
    if (header->zero != 0 || !bytes_are_zero(header->reserved, sizeof(header->reserved)))
        return error_set(err, STATUS_CORRUPT, "attributes: reserved bytes are not zero");
    return STATUS_OK;
}

/* What is said of the other kind is zero. */
static bool entry_numbers_valid(const struct attributes_entry *entry)
{
    const uint32_t width = entry->width;
    return (width == 0 || width == 1 || width == 2 || width == 4 || width == 8) &&
           entry->label_count == 0 && entry->text_bytes == 0 && entry->memberships == 0;
}

static bool entry_labels_valid(const struct attributes_entry *entry, uint64_t vector_count)
{
    return entry->width == 0 && entry->base == 0 && entry->label_count <= ATTRIBUTE_LABELS_MAX &&
           entry->text_bytes <= (uint64_t)entry->label_count * ATTRIBUTE_LABEL_MAX &&
           entry->memberships <= vector_count * ATTRIBUTE_NODE_LABELS_MAX;
}

static enum status entry_check(const struct attributes_entry *entry, uint32_t number,
                               uint64_t vector_count, struct error *err)
{
    const size_t length = strnlen(entry->name, sizeof(entry->name));
    if (!attribute_name_valid(entry->name, length) ||
        !bytes_are_zero(entry->name + length, sizeof(entry->name) - length))
        return error_set(err, STATUS_CORRUPT, "attributes: the name of column %u is none", number);
    if (entry->kind < ATTRIBUTE_U64 || entry->kind > ATTRIBUTE_LABELS)
        return error_set(err, STATUS_CORRUPT,
                         "attributes: column \"%s\": kind is %u, which is none", entry->name,
                         entry->kind);
    if (entry->kind == ATTRIBUTE_LABELS ? !entry_labels_valid(entry, vector_count)
                                        : !entry_numbers_valid(entry))
        return error_set(err, STATUS_CORRUPT,
                         "attributes: column \"%s\": width %u, %u labels of %u bytes, %" PRIu64
                         " memberships are none of %s",
                         entry->name, entry->width, entry->label_count, entry->text_bytes,
                         entry->memberships, attribute_kind_name((enum attribute_kind)entry->kind));
    if (!bytes_are_zero(entry->reserved, sizeof(entry->reserved)))
        return error_set(err, STATUS_CORRUPT,
                         "attributes: column \"%s\": reserved bytes are not zero", entry->name);
    return STATUS_OK;
}

static enum status entries_read(const uint8_t *bytes, struct attributes_shape *shape,
                                struct error *err)
{
    for (uint32_t c = 0; c < shape->column_count; c++) {
        struct attributes_entry entry;
        memcpy(&entry, bytes + attributes_head_bytes(c), sizeof(entry));
        enum status status = entry_check(&entry, c, shape->vector_count, err);
        if (status != STATUS_OK)
            return status;
        for (uint32_t before = 0; before < c; before++)
            if (strcmp(shape->columns[before].name, entry.name) == 0)
                return error_set(err, STATUS_CORRUPT,
                                 "attributes: columns %u and %u are both called \"%s\"", before, c,
                                 entry.name);
        struct attribute_shape *column = &shape->columns[c];
        *column = (struct attribute_shape){
            .kind = (enum attribute_kind)entry.kind,
            .width = entry.width,
            .base = entry.base,
            .label_count = entry.label_count,
            .text_bytes = entry.text_bytes,
            .memberships = entry.memberships,
        };
        memcpy(column->name, entry.name, sizeof(column->name));
    }
    return STATUS_OK;
}

enum status attributes_head_decode(const void *bytes, size_t length, uint64_t file_bytes,
                                   struct attributes_shape *shape, struct error *err)
{
    struct attributes_header header;
    if (length < sizeof(header))
        return error_set(err, STATUS_CORRUPT, "attributes: %zu bytes, the header alone has %zu",
                         length, sizeof(header));
    memcpy(&header, bytes, sizeof(header));
    enum status status = header_check(&header, err);
    if (status != STATUS_OK)
        return status;
    if (length < attributes_head_bytes(header.column_count))
        return error_set(err, STATUS_CORRUPT, "attributes: %zu bytes, the entries end at %zu",
                         length, attributes_head_bytes(header.column_count));
    shape->node_limit = header.node_limit;
    shape->vector_count = header.vector_count;
    shape->column_count = header.column_count;
    status = entries_read(bytes, shape, err);
    if (status == STATUS_OK && attributes_bytes(shape) != file_bytes)
        status = error_set(err, STATUS_CORRUPT,
                           "attributes: %" PRIu64 " bytes, the columns take %" PRIu64, file_bytes,
                           attributes_bytes(shape));
    return status;
}

/* ---- decoding ---- */

/* Names what is wrong with an array of column `name`. */
static enum status column_fault(const char *name, const char *what, struct error *err)
{
    return error_set(err, STATUS_CORRUPT, "attributes: column \"%s\": %s", name, what);
}

static bool all_below(const uint32_t *numbers, uint64_t count, uint64_t limit)
{
    uint32_t most = 0;
    for (uint64_t i = 0; i < count; i++)
        most = MAX(most, numbers[i]);
    return count == 0 || most < limit;
}

/* Offsets [count + 1], from 0 to `end` without descending. */
static bool offsets_valid(const uint64_t *offsets, uint64_t count, uint64_t end)
{
    bool descends = offsets[0] != 0 || offsets[count] != end;
    for (uint64_t i = 0; i < count; i++)
        descends |= offsets[i] > offsets[i + 1];
    return !descends;
}

/* Likewise; and no label is empty or longer than ATTRIBUTE_LABEL_MAX. */
static bool label_offsets_valid(const uint32_t *offsets, uint32_t count, uint32_t end)
{
    if (offsets[0] != 0 || offsets[count] != end)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (offsets[i] >= offsets[i + 1] || offsets[i + 1] - offsets[i] > ATTRIBUTE_LABEL_MAX)
            return false;
    return true;
}

static enum status numbers_decode(const struct attributes *attributes, const uint8_t *bytes,
                                  const struct attribute_places *places,
                                  struct attribute_column *column, struct error *err)
{
    column->values = bytes + places->values;
    column->order = (const void *)(bytes + places->order);
    if (!all_below(column->order, attributes->vector_count, attributes->node_limit))
        return column_fault(column->name, "its order names a node that is not there", err);
    const uint64_t values_end = places->values + attributes->node_limit * column->width;
    const uint64_t order_end = places->order + attributes->vector_count * sizeof(uint32_t);
    if (!bytes_are_zero(bytes + values_end, places->order - values_end) ||
        !bytes_are_zero(bytes + order_end, places->end - order_end))
        return column_fault(column->name, "bytes between its arrays are not zero", err);
    return STATUS_OK;
}

static bool labels_padding_zero(const struct attributes *attributes, const uint8_t *bytes,
                                const struct attribute_places *places,
                                const struct attribute_shape *shape)
{
    const uint64_t labels = (uint64_t)shape->label_count + 1;
    const uint64_t members = shape->memberships * sizeof(uint32_t);
    const uint64_t ends[][2] = {
        {places->label_at + labels * sizeof(uint32_t), places->label_text},
        {places->label_text + shape->text_bytes, places->node_at},
        {places->node_at + (attributes->node_limit + 1) * sizeof(uint64_t), places->node_labels},
        {places->node_labels + members, places->posting_at},
        {places->postings + members, places->end},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(ends); i++)
        if (!bytes_are_zero(bytes + ends[i][0], ends[i][1] - ends[i][0]))
            return false;
    return true;
}

static enum status labels_decode(const struct attributes *attributes, const uint8_t *bytes,
                                 const struct attribute_places *places,
                                 const struct attribute_shape *shape,
                                 struct attribute_column *column, struct error *err)
{
    column->label_at = (const void *)(bytes + places->label_at);
    column->label_text = (const void *)(bytes + places->label_text);
    column->node_at = (const void *)(bytes + places->node_at);
    column->node_labels = (const void *)(bytes + places->node_labels);
    column->posting_at = (const void *)(bytes + places->posting_at);
    column->postings = (const void *)(bytes + places->postings);
    if (!label_offsets_valid(column->label_at, shape->label_count, shape->text_bytes))
        return column_fault(column->name, "its labels' offsets are none", err);
    if (!offsets_valid(column->node_at, attributes->node_limit, shape->memberships))
        return column_fault(column->name, "its nodes' offsets are none", err);
    if (!offsets_valid(column->posting_at, shape->label_count, shape->memberships))
        return column_fault(column->name, "its postings' offsets are none", err);
    if (!all_below(column->node_labels, shape->memberships, shape->label_count))
        return column_fault(column->name, "a node has a label that is not there", err);
    if (!all_below(column->postings, shape->memberships, attributes->node_limit))
        return column_fault(column->name, "a label has a node that is not there", err);
    if (!labels_padding_zero(attributes, bytes, places, shape))
        return column_fault(column->name, "bytes between its arrays are not zero", err);
    return STATUS_OK;
}

static enum status exists_decode(struct attributes *attributes, struct error *err)
{
    const uint64_t limit = attributes->node_limit;
    uint64_t count = 0;
    for (uint64_t word = 0; word < (limit + 63) / 64; word++)
        count += (uint64_t)__builtin_popcountll(attributes->exists[word]);
    if (limit % 64 != 0 && attributes->exists[limit / 64] >> (limit % 64) != 0)
        return error_set(
            err, STATUS_CORRUPT,
            "attributes: the bitmap has nodes from %" PRIu64 " on, where there are none", limit);
    if (count != attributes->vector_count)
        return error_set(err, STATUS_CORRUPT,
                         "attributes: the bitmap has %" PRIu64 " nodes, there are %" PRIu64
                         " vectors",
                         count, attributes->vector_count);
    return STATUS_OK;
}

static enum status column_decode(const uint8_t *bytes, const struct attributes_shape *shape,
                                 uint32_t number, struct attributes *out, struct error *err)
{
    const struct attribute_shape *from = &shape->columns[number];
    struct attribute_column *column = &out->columns[number];
    struct attribute_places places;
    attributes_place(shape, number, &places);
    *column = (struct attribute_column){
        .name = (const char *)bytes + attributes_head_bytes(number), /* first in its entry */
        .kind = from->kind,
        .base = from->base,
        .width = from->width,
        .label_count = from->label_count,
    };
    return from->kind == ATTRIBUTE_LABELS ? labels_decode(out, bytes, &places, from, column, err)
                                          : numbers_decode(out, bytes, &places, column, err);
}

enum status attributes_decode(const void *bytes, size_t length, uint32_t node_limit,
                              uint64_t vector_count, struct attributes *out, struct error *err)
{
    assert((uintptr_t)bytes % ATTRIBUTES_ALIGN == 0);
    struct attributes_shape shape;
    struct attributes made;
    enum status status = attributes_head_decode(bytes, length, length, &shape, err);
    if (status != STATUS_OK)
        return status;
    if (shape.node_limit != node_limit || shape.vector_count != vector_count)
        return error_set(err, STATUS_CORRUPT,
                         "attributes: of %" PRIu64 " vectors in %" PRIu64
                         " nodes, the manifest says %" PRIu64 " in %u",
                         shape.vector_count, shape.node_limit, vector_count, node_limit);
    made.node_limit = node_limit;
    made.vector_count = vector_count;
    made.column_count = shape.column_count;
    made.exists =
        (const void *)((const uint8_t *)bytes + attributes_head_bytes(shape.column_count));
    status = exists_decode(&made, err);
    for (uint32_t c = 0; status == STATUS_OK && c < shape.column_count; c++)
        status = column_decode(bytes, &shape, c, &made, err);
    if (status == STATUS_OK) {
        memset(made.columns + made.column_count, 0,
               (ATTRIBUTES_COLUMNS_MAX - made.column_count) * sizeof(made.columns[0]));
        *out = made;
    }
    return status;
}
