/*
 * hnswlib_file.c - owns the reading of hnswlib's index files, from what its saveIndex() writes.
 *
 * The file goes by twice through one buffer: once to see whether it is whole, which must be known
 * before a row is given out since nothing in it is checksummed, and once for the rows.
 *
 * Thread rules: a file belongs to one thread.
 */
#include "tools/hnswlib_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file_io.h"
#include "common/load.h"
#include "common/memory.h"
#include "common/u64_sort.h"
#include "common/vector_format.h"

enum {
    HEADER_BYTES = 96,
    LINKS_MAX = 65535, /* a list's length is a u16 */
    LINK_BYTES = 4,
    LIST_HEADER_BYTES = 4,
    LABEL_BYTES = 8,
    FLAGS_AT = 2, /* in a list's header */
    FLAG_DELETED = 1,
    BUFFER_BYTES = 4 << 20,
};

/* The largest element has room in the buffer. */
_Static_assert(BUFFER_BYTES >
                   LIST_HEADER_BYTES + LINKS_MAX * LINK_BYTES + VECTOR_DIM_MAX * 4 + LABEL_BYTES,
               "an element must fit the buffer");

struct header {
    uint64_t links_offset;
    uint64_t capacity;
    uint64_t count;
    uint64_t element_bytes;
    uint64_t label_offset;
    uint64_t vector_offset;
    int32_t level_max;
    uint32_t entry;
    uint64_t list_links;
    uint64_t base_links;
    uint64_t m;
    double level_factor;
    uint64_t construction_list;
};
_Static_assert(sizeof(struct header) == HEADER_BYTES, "what hnswlib writes");

struct hnswlib_file {
    int fd;
    char *path;
    uint64_t file_bytes;
    struct header header;
    struct vector_shape shape; /* of what is not deleted */
    size_t row_bytes;
    uint64_t next; /* element that hnswlib_file_next() looks at */
    uint64_t at;   /* what is taken next from the file */
    uint8_t *buffer;
    uint64_t buffered_from;
    size_t buffered;
};

/* ---- a file that goes by ---- */

static void rewind_to(struct hnswlib_file *self, uint64_t offset)
{
    self->at = offset;
    self->buffered = 0;
}

/* The next `bytes`, which the file is known to have; they stay until the next call. */
static enum status take(struct hnswlib_file *self, size_t bytes, const uint8_t **out,
                        struct error *err)
{
    uint64_t end = self->buffered_from + self->buffered;
    if (self->buffered == 0 || self->at + bytes > end) {
        size_t wanted = (size_t)MIN((uint64_t)BUFFER_BYTES, self->file_bytes - self->at);
        enum status status =
            file_read_at(self->fd, self->path, self->buffer, wanted, self->at, err);
        if (status != STATUS_OK)
            return status;
        self->buffered_from = self->at;
        self->buffered = wanted;
    }
    *out = self->buffer + (self->at - self->buffered_from);
    self->at += bytes;
    return STATUS_OK;
}

/* ---- the header ---- */

static enum status not_hnswlib(const struct hnswlib_file *self, const char *what, uint64_t got,
                               uint64_t wanted, struct error *err)
{
    return error_set(err, STATUS_CORRUPT,
                     "%s: not an hnswlib index: its header has %s %" PRIu64 ", wanted %" PRIu64,
                     file_label(self->path), what, got, wanted);
}

static enum status check_layout(const struct hnswlib_file *self, struct error *err)
{
    const struct header *header = &self->header;
    if (header->links_offset != 0)
        return not_hnswlib(self, "links at offset", header->links_offset, 0, err);
    if (header->base_links == 0 || header->base_links > LINKS_MAX || header->list_links == 0 ||
        header->list_links > LINKS_MAX)
        return error_set(err, STATUS_CORRUPT,
                         "%s: not an hnswlib index: its header has %" PRIu64
                         " links on level 0 and %" PRIu64 " above, wanted 1 to %d",
                         file_label(self->path), header->base_links, header->list_links, LINKS_MAX);
    uint64_t vector_offset = LIST_HEADER_BYTES + header->base_links * LINK_BYTES;
    if (header->vector_offset != vector_offset)
        return not_hnswlib(self, "vectors at offset", header->vector_offset, vector_offset, err);
    if (header->label_offset <= vector_offset ||
        header->label_offset - vector_offset > (uint64_t)VECTOR_DIM_MAX * 4)
        return error_set(err, STATUS_CORRUPT,
                         "%s: not an hnswlib index: its header has labels at offset %" PRIu64
                         ", wanted more than %" PRIu64 ", where vectors begin, by up to %d",
                         file_label(self->path), header->label_offset, vector_offset,
                         VECTOR_DIM_MAX * 4);
    if (header->element_bytes != header->label_offset + LABEL_BYTES)
        return not_hnswlib(self, "bytes of an element", header->element_bytes,
                           header->label_offset + LABEL_BYTES, err);
    return STATUS_OK;
}

static enum status check_counts(const struct hnswlib_file *self, struct error *err)
{
    const struct header *header = &self->header;
    const char *label = file_label(self->path);
    if (header->count == 0)
        return error_set(err, STATUS_INVALID, "%s: an index of no elements", label);
    if (header->count > UINT32_MAX || header->count > header->capacity)
        return error_set(err, STATUS_CORRUPT,
                         "%s: not an hnswlib index: its header has %" PRIu64
                         " elements and room for %" PRIu64,
                         label, header->count, header->capacity);
    if (header->level_max < 0 || header->entry >= header->count)
        return error_set(err, STATUS_CORRUPT,
                         "%s: not an hnswlib index: its header has entry point %" PRIu32
                         " on level %" PRId32 " of %" PRIu64 " elements",
                         label, header->entry, header->level_max, header->count);
    /* Neither overflows: 2^32 elements of less than 2^19 bytes. */
    uint64_t least = HEADER_BYTES + header->count * (header->element_bytes + sizeof(uint32_t));
    if (self->file_bytes < least)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu64 " bytes, but its header (%" PRIu64 " elements of %" PRIu64
                         " bytes) implies at least %" PRIu64 ": truncated",
                         label, self->file_bytes, header->count, header->element_bytes, least);
    return STATUS_OK;
}

static enum status check_dim(struct hnswlib_file *self, enum element_type type, uint32_t dim,
                             struct error *err)
{
    uint64_t bytes = self->header.label_offset - self->header.vector_offset;
    size_t width = element_bytes(type);
    uint64_t implied = bytes / width;
    if (bytes % width != 0 || implied > VECTOR_DIM_MAX || (dim != 0 && implied != dim)) {
        char wanted[64] = "";
        if (dim != 0)
            snprintf(wanted, sizeof(wanted), ", wanted %" PRIu32 " dimensions", dim);
        return error_set(err, STATUS_INVALID,
                         "%s: its vectors have %" PRIu64 " bytes: %" PRIu64 " of u8 or i8, %" PRIu64
                         " of f32 (given: %s)%s",
                         file_label(self->path), bytes, bytes, bytes / 4, element_name(type),
                         wanted);
    }
    self->shape = (struct vector_shape){0, (uint32_t)implied, type};
    self->row_bytes = (size_t)bytes;
    return STATUS_OK;
}

/* ---- the whole file ---- */

/* A list's header and links: no more than `most`, each to an element. */
static enum status check_list(const struct hnswlib_file *self, uint64_t element,
                              const uint8_t *list, uint64_t most, struct error *err)
{
    uint16_t count = load_u16(list);
    if (count > most)
        return error_set(err, STATUS_CORRUPT,
                         "%s: element %" PRIu64 " has %u links, wanted at most %" PRIu64,
                         file_label(self->path), element, count, most);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t link = load_u32(list + LIST_HEADER_BYTES + (size_t)i * LINK_BYTES);
        if (link >= self->header.count)
            return error_set(err, STATUS_CORRUPT,
                             "%s: element %" PRIu64 " has a link to %" PRIu32
                             ", but there are %" PRIu64 " elements",
                             file_label(self->path), element, link, self->header.count);
    }
    return STATUS_OK;
}

static bool is_deleted(const uint8_t *element)
{
    return (element[FLAGS_AT] & FLAG_DELETED) != 0;
}

/* Level 0: the links, and the labels of what is not deleted into labels[]. */
static enum status walk_elements(struct hnswlib_file *self, uint64_t *labels, struct error *err)
{
    const struct header *header = &self->header;
    enum status status = STATUS_OK;
    uint64_t live = 0;
    rewind_to(self, HEADER_BYTES);
    for (uint64_t i = 0; i < header->count && status == STATUS_OK; i++) {
        const uint8_t *element;
        status = take(self, (size_t)header->element_bytes, &element, err);
        if (status != STATUS_OK)
            return status;
        status = check_list(self, i, element, header->base_links, err);
        if (!is_deleted(element))
            labels[live++] = load_u64(element + header->label_offset);
    }
    self->shape.count = live;
    if (status == STATUS_OK && live == 0)
        return error_set(err, STATUS_INVALID, "%s: all of its %" PRIu64 " elements are deleted",
                         file_label(self->path), header->count);
    return status;
}

/* The lists of one element above level 0. `after`: bytes that the elements behind it need at least.
 */
static enum status walk_upper(struct hnswlib_file *self, uint64_t element, uint64_t after,
                              struct error *err)
{
    const struct header *header = &self->header;
    const uint8_t *bytes;
    enum status status = take(self, sizeof(uint32_t), &bytes, err);
    if (status != STATUS_OK)
        return status;
    uint32_t length = load_u32(bytes);
    uint64_t list_bytes = LIST_HEADER_BYTES + header->list_links * LINK_BYTES;
    if (length % list_bytes != 0 || length / list_bytes > (uint64_t)header->level_max)
        return error_set(err, STATUS_CORRUPT,
                         "%s: element %" PRIu64 " has %" PRIu32 " bytes of upper lists, wanted up "
                         "to %" PRId32 " times %" PRIu64,
                         file_label(self->path), element, length, header->level_max, list_bytes);
    if (length > self->file_bytes - self->at - after)
        return error_set(err, STATUS_CORRUPT,
                         "%s: ends within the upper lists of element %" PRIu64 ": truncated",
                         file_label(self->path), element);
    for (uint64_t done = 0; done < length && status == STATUS_OK; done += list_bytes) {
        status = take(self, (size_t)list_bytes, &bytes, err);
        if (status == STATUS_OK)
            status = check_list(self, element, bytes, header->list_links, err);
    }
    return status;
}

static enum status walk_uppers(struct hnswlib_file *self, struct error *err)
{
    uint64_t count = self->header.count;
    rewind_to(self, HEADER_BYTES + count * self->header.element_bytes);
    for (uint64_t i = 0; i < count; i++) {
        enum status status = walk_upper(self, i, (count - 1 - i) * sizeof(uint32_t), err);
        if (status != STATUS_OK)
            return status;
    }
    if (self->at == self->file_bytes)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "%s: %" PRIu64 " bytes, but its elements end at %" PRIu64 ": too long",
                     file_label(self->path), self->file_bytes, self->at);
}

/* The first two elements that are not deleted and have the label. */
static enum status report_repeated(struct hnswlib_file *self, uint64_t label, struct error *err)
{
    const struct header *header = &self->header;
    uint64_t found[2] = {0};
    uint32_t count = 0;
    rewind_to(self, HEADER_BYTES);
    for (uint64_t i = 0; i < header->count && count < 2; i++) {
        const uint8_t *element;
        enum status status = take(self, (size_t)header->element_bytes, &element, err);
        if (status != STATUS_OK)
            return status;
        if (!is_deleted(element) && load_u64(element + header->label_offset) == label)
            found[count++] = i;
    }
    return error_set(err, STATUS_CORRUPT,
                     "%s: label %" PRIu64 " is repeated: elements %" PRIu64 " and %" PRIu64,
                     file_label(self->path), label, found[0], found[1]);
}

static enum status check_all(struct hnswlib_file *self, struct error *err)
{
    size_t count = (size_t)self->header.count;
    void *memory;
    enum status status = bulk_alloc(count, sizeof(uint64_t), "labels to check", &memory, err);
    if (status != STATUS_OK)
        return status;
    uint64_t *labels = memory;
    status = walk_uppers(self, err);
    if (status == STATUS_OK)
        status = walk_elements(self, labels, err);
    if (status == STATUS_OK) {
        u64_sort(labels, (size_t)self->shape.count);
        uint64_t i = 1;
        while (i < self->shape.count && labels[i - 1] != labels[i])
            i++;
        if (i < self->shape.count)
            status = report_repeated(self, labels[i], err);
    }
    bulk_free(memory, count, sizeof(uint64_t));
    return status;
}

/* ---- the interface ---- */

static enum status read_header(struct hnswlib_file *self, enum element_type type, uint32_t dim,
                               struct error *err)
{
    if (type != ELEMENT_U8 && type != ELEMENT_I8 && type != ELEMENT_F32)
        return error_set(err, STATUS_INVALID, "%s: hnswlib has no vectors of %s, but u8, i8, f32",
                         file_label(self->path), element_name(type));
    if (self->file_bytes < HEADER_BYTES)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu64 " bytes, wanted an hnswlib header of %d",
                         file_label(self->path), self->file_bytes, HEADER_BYTES);
    enum status status =
        file_read_at(self->fd, self->path, &self->header, sizeof(self->header), 0, err);
    if (status == STATUS_OK)
        status = check_layout(self, err);
    if (status == STATUS_OK)
        status = check_counts(self, err);
    if (status == STATUS_OK)
        status = check_dim(self, type, dim, err);
    return status;
}

enum status hnswlib_file_open(const char *path, enum element_type type, uint32_t dim,
                              struct hnswlib_file **out, struct error *err)
{
    struct hnswlib_file *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    self->fd = -1;
    self->path = strdup(path);
    self->buffer = malloc(BUFFER_BYTES);
    enum status status = STATUS_OK;
    if (self->path == NULL || self->buffer == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    if (status == STATUS_OK)
        status = file_open_input(path, &self->fd, &self->file_bytes, err);
    if (status == STATUS_OK)
        status = read_header(self, type, dim, err);
    if (status == STATUS_OK)
        status = check_all(self, err);
    if (status != STATUS_OK) {
        hnswlib_file_close(self);
        return status;
    }
    rewind_to(self, HEADER_BYTES);
    *out = self;
    return STATUS_OK;
}

void hnswlib_file_close(struct hnswlib_file *file)
{
    if (file == NULL)
        return;
    if (file->fd >= 0)
        close(file->fd);
    free(file->buffer);
    free(file->path);
    free(file);
}

struct vector_shape hnswlib_file_shape(const struct hnswlib_file *file)
{
    return file->shape;
}

uint64_t hnswlib_file_deleted(const struct hnswlib_file *file)
{
    return file->header.count - file->shape.count;
}

enum status hnswlib_file_next(struct hnswlib_file *file, enum metric metric, uint64_t max,
                              void *rows, uint64_t *keys, uint64_t *count, struct error *err)
{
    const struct header *header = &file->header;
    uint64_t filled = 0;
    while (file->next < header->count && filled < max) {
        const uint8_t *element;
        enum status status = take(file, (size_t)header->element_bytes, &element, err);
        if (status != STATUS_OK)
            return status;
        uint64_t place = file->next++;
        if (is_deleted(element))
            continue;
        uint8_t *row = (uint8_t *)rows + filled * file->row_bytes;
        memcpy(row, element + header->vector_offset, file->row_bytes);
        status = vector_rows_check(file->path, &file->shape, metric, place, 1, row, file->row_bytes,
                                   err);
        if (status != STATUS_OK)
            return status;
        keys[filled++] = load_u64(element + header->label_offset);
    }
    *count = filled;
    return STATUS_OK;
}
