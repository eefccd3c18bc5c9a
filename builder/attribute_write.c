/*
 * attribute_write.c - see attribute_write.h. Arrays are written one after another, as the file has
 * them; values, orders and offsets are whole in memory, labels and postings a window at a time.
 *
 * What is read back from the work directory is checked before it is used as an index, because its
 * checksum is known only at its end.
 */
#include "builder/attribute_write.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/memory.h"
#include "layout/digest.h"

enum {
    PUT_BYTES = 64 << 10, /* copied through at a time */
    DIGITS = 256,
    INSERTION_MAX = 32, /* shorter arrays are sorted by insertion */
};

static const struct work_piece ingest_piece = {BUILD_STAGE_INGEST, WORK_WHOLE};

struct write {
    const struct attribute_write_params *params;
    const struct build_monitor *monitor;
    uint64_t rows;
    struct attribute_info info;
    struct attributes_shape shape;
    uint32_t *node_of_row; /* [rows] */
    uint64_t *exists;      /* [exists_words] */
    uint64_t exists_words;
    uint64_t window; /* entries of each of the buffers */
    uint32_t *buffers[2];
    XXH3_state_t *hash;
    uint64_t written;
};

/* ---- memory ---- */

/* A posting has at most all rows, a row at most so many labels. */
static uint64_t window_of(uint64_t rows)
{
    return MAX(rows, (uint64_t)ATTRIBUTE_NODE_LABELS_MAX);
}

uint64_t attribute_write_memory_bytes(const struct attribute_extent *extent, uint64_t rows,
                                      uint64_t node_limit)
{
    if (extent->file_bytes == 0)
        return 0;
    const uint64_t labels = MIN(attribute_labels_max(extent), (uint64_t)ATTRIBUTE_LABELS_MAX) + 1;
    return sizeof(struct write) + rows * sizeof(uint32_t) + node_limit / 8 + sizeof(uint64_t) +
           2 * window_of(rows) * sizeof(uint32_t) + (node_limit + 1) * sizeof(uint64_t) +
           labels * (sizeof(uint32_t) + 2 * sizeof(uint64_t)) +
           ATTRIBUTE_NODE_LABELS_MAX * sizeof(uint32_t) + PUT_BYTES + WORK_BUFFER_BYTES;
}

uint64_t attribute_write_disk_bytes(const struct attribute_extent *extent, uint64_t rows)
{
    enum { LABEL_BYTES = 8 }; /* of a cell, bar included */
    if (extent->file_bytes == 0)
        return 0;
    return attributes_head_bytes(extent->number_columns + extent->label_columns) + rows / 8 +
           extent->number_columns * rows * (sizeof(uint64_t) + sizeof(uint32_t)) +
           extent->label_columns * rows * sizeof(uint64_t) +
           (extent->label_columns > 0 ? extent->file_bytes / LABEL_BYTES * 2 * sizeof(uint32_t)
                                      : 0);
}

/* ---- the file ---- */

static enum status put(struct write *w, const void *data, uint64_t bytes, struct error *err)
{
    if (bytes == 0)
        return STATUS_OK;
    (void)XXH3_128bits_update(w->hash, data, bytes);
    w->written += bytes;
    return generation_writer_append(w->params->writer, GENERATION_ATTRIBUTES, data, bytes, err);
}

/* Zeros up to where the next array begins. */
static enum status pad_to(struct write *w, uint64_t place, struct error *err)
{
    static const uint8_t zeros[8];
    return put(w, zeros, place - w->written, err);
}

/* All of a section, as it is, into the file. */
static enum status section_copy(struct write *w, const char *part, uint32_t section,
                                struct error *err)
{
    struct work_input *input = NULL;
    uint8_t *buffer = malloc(PUT_BYTES);
    if (buffer == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for attributes");
    enum status status =
        work_input_open(w->params->plan->work, ingest_piece, part, section, 0, &input, err);
    while (status == STATUS_OK && work_input_left(input) > 0) {
        const size_t bytes = (size_t)MIN(work_input_left(input), (uint64_t)PUT_BYTES);
        status = work_input_read(input, buffer, bytes, err);
        if (status == STATUS_OK)
            status = put(w, buffer, bytes, err);
    }
    work_input_close(input);
    free(buffer);
    return status;
}

/* Reads a section of exactly `count` items whole. */
static enum status section_read(const struct write *w, const char *part, uint32_t section, void *to,
                                uint64_t bytes, struct error *err)
{
    struct work_input *input = NULL;
    enum status status =
        work_input_open(w->params->plan->work, ingest_piece, part, section, 0, &input, err);
    if (status == STATUS_OK)
        status = work_input_read(input, to, bytes, err);
    if (status == STATUS_OK)
        status = work_input_end(input, err);
    work_input_close(input);
    return status;
}

/* ---- sorting ---- */

/* What nodes are sorted by: the `width` little-endian bytes of each at `values`, or, where that is
 * NULL, themselves. */
struct sort_key {
    const uint8_t *values;
    uint32_t width;
};

ALWAYS_INLINE uint8_t digit_of(const struct sort_key *key, uint32_t node, uint32_t digit)
{
    return key->values != NULL ? key->values[(size_t)node * key->width + digit]
                               : (uint8_t)(node >> 8 * digit);
}

/* Sorts nodes[count] by a digit after the other, least first; stable, so that equal ones stay in
 * the order they are in. Returns where they are then: in `nodes` or `spare`. */
static uint32_t *nodes_sort(const struct sort_key *key, uint32_t *nodes, uint32_t *spare,
                            uint64_t count)
{
    for (uint32_t digit = 0; digit < key->width; digit++) {
        uint64_t at[DIGITS] = {0};
        uint64_t first = 0;
        for (uint64_t i = 0; i < count; i++)
            at[digit_of(key, nodes[i], digit)]++;
        if (at[digit_of(key, nodes[0], digit)] == count)
            continue;
        for (uint32_t d = 0; d < DIGITS; d++) {
            const uint64_t here = at[d];
            at[d] = first;
            first += here;
        }
        for (uint64_t i = 0; i < count; i++)
            spare[at[digit_of(key, nodes[i], digit)]++] = nodes[i];
        uint32_t *sorted = spare;
        spare = nodes;
        nodes = sorted;
    }
    return nodes;
}

/* Ascending; what is long needs `spare`. */
static void numbers_sort(uint32_t *numbers, uint32_t *spare, uint64_t count)
{
    if (count > INSERTION_MAX) {
        const struct sort_key key = {.width = sizeof(uint32_t)};
        const uint32_t *sorted = nodes_sort(&key, numbers, spare, count);
        if (sorted != numbers)
            memcpy(numbers, sorted, count * sizeof(*numbers));
        return;
    }
    for (uint64_t i = 1; i < count; i++) {
        const uint32_t moved = numbers[i];
        uint64_t place = i;
        for (; place > 0 && numbers[place - 1] > moved; place--)
            numbers[place] = numbers[place - 1];
        numbers[place] = moved;
    }
}

/* ---- numbers ---- */

static enum status values_place(const struct write *w, uint32_t column, uint8_t *values,
                                struct error *err)
{
    const struct attribute_input_column *info = &w->info.columns[column];
    const uint32_t width = w->shape.columns[column].width;
    struct work_input *input = NULL;
    char part[WORK_PART_BYTES];
    attribute_part_name("values", column, part);
    enum status status =
        work_input_open(w->params->plan->work, ingest_piece, part, 0, 0, &input, err);
    for (uint64_t row = 0; status == STATUS_OK && row < w->rows; row++) {
        uint64_t rank;
        status = work_input_read(input, &rank, sizeof(rank), err);
        const uint64_t delta = rank - info->least;
        if (status == STATUS_OK)
            memcpy(values + (size_t)w->node_of_row[row] * width, &delta, width);
    }
    if (status == STATUS_OK)
        status = work_input_end(input, err);
    work_input_close(input);
    return status;
}

/* Nodes with a record into buffers[0], ascending. */
static void nodes_list(const struct write *w)
{
    uint64_t count = 0;
    for (uint64_t word = 0; word < w->exists_words; word++)
        for (uint64_t bits = w->exists[word]; bits != 0; bits &= bits - 1)
            w->buffers[0][count++] = (uint32_t)(word * 64 + (uint64_t)__builtin_ctzll(bits));
}

static enum status numbers_write(struct write *w, uint32_t column, struct error *err)
{
    const struct attribute_shape *shape = &w->shape.columns[column];
    const uint64_t nodes = w->params->node_limit;
    struct attribute_places places;
    void *values = NULL;
    attributes_place(&w->shape, column, &places);
    enum status status = bulk_alloc(nodes, shape->width, "values of attributes", &values, err);
    if (status != STATUS_OK)
        return status;
    if (shape->width > 0)
        status = values_place(w, column, values, err);
    if (status == STATUS_OK)
        status = build_monitor_check(w->monitor, err);
    if (status == STATUS_OK)
        status = put(w, values, nodes * shape->width, err);
    if (status == STATUS_OK)
        status = pad_to(w, places.order, err);
    if (status == STATUS_OK) {
        const struct sort_key key = {values, shape->width};
        nodes_list(w);
        const uint32_t *order = nodes_sort(&key, w->buffers[0], w->buffers[1], w->rows);
        status = put(w, order, w->rows * sizeof(*order), err);
    }
    if (status == STATUS_OK)
        status = pad_to(w, places.end, err);
    bulk_free(values, nodes, shape->width);
    return status;
}

/* ---- labels ---- */

/* A column of labels while it is written. */
struct labels {
    struct write *w;
    uint32_t count;
    char values_part[WORK_PART_BYTES];
    char labels_part[WORK_PART_BYTES];
    uint64_t *node_at;    /* [node_limit + 1] */
    uint32_t *place;      /* [count] of a number in sorted order */
    uint64_t *posting_at; /* [count + 1] */
    uint64_t *fill;       /* [count] where the next node of a label goes, in the window */
    /* what is in the window: nodes or labels [from, until), entries [first, ...) of all */
    uint64_t from, until, first;
};

/* Takes the labels of a row. */
typedef void (*labels_row_fn)(struct labels *l, uint32_t node, uint32_t *numbers, uint32_t count);

/* One pass over the rows. Numbers are checked, and turned into places. */
static enum status rows_pass(struct labels *l, labels_row_fn on_row, struct error *err)
{
    const struct write *w = l->w;
    struct work_input *input = NULL;
    uint32_t *numbers = malloc(ATTRIBUTE_NODE_LABELS_MAX * sizeof(*numbers));
    if (numbers == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the labels of a row");
    enum status status = build_monitor_check(w->monitor, err);
    if (status == STATUS_OK)
        status =
            work_input_open(w->params->plan->work, ingest_piece, l->values_part, 0, 0, &input, err);
    for (uint64_t row = 0; status == STATUS_OK && row < w->rows; row++) {
        uint16_t count = 0;
        bool valid = true;
        status = work_input_read(input, &count, sizeof(count), err);
        if (status == STATUS_OK && count > 0)
            status = work_input_read(input, numbers, count * sizeof(*numbers), err);
        if (status != STATUS_OK)
            break;
        for (uint32_t i = 0; i < count && valid; i++) {
            valid = numbers[i] < l->count;
            numbers[i] = valid ? l->place[numbers[i]] : 0;
        }
        if (valid)
            on_row(l, w->node_of_row[row], numbers, count);
        else
            status = work_input_discard(input, "names a label that is not there", err);
    }
    if (status == STATUS_OK)
        status = work_input_end(input, err);
    work_input_close(input);
    free(numbers);
    return status;
}

static void row_count(struct labels *l, uint32_t node, uint32_t *numbers, uint32_t count)
{
    (void)numbers;
    l->node_at[node + 1] = count;
}

/* A pass before this one has set the offsets from the same bytes, whose checksum it verified. */
static void row_place(struct labels *l, uint32_t node, uint32_t *numbers, uint32_t count)
{
    if (node < l->from || node >= l->until)
        return;
    numbers_sort(numbers, l->w->buffers[1], count);
    if (count == l->node_at[node + 1] - l->node_at[node])
        memcpy(l->w->buffers[0] + (l->node_at[node] - l->first), numbers, count * sizeof(*numbers));
}

static void row_post(struct labels *l, uint32_t node, uint32_t *numbers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t label = numbers[i];
        if (label >= l->from && label < l->until &&
            l->fill[label] < l->posting_at[label + 1] - l->first)
            l->w->buffers[0][l->fill[label]++] = node;
    }
}

/* Sets the window to as many of `count` nodes or labels from l->until on as fit. */
static void window_move(struct labels *l, const uint64_t *offsets, uint64_t count)
{
    l->from = l->until;
    l->first = offsets[l->from];
    while (l->until < count && offsets[l->until + 1] - l->first <= l->w->window)
        l->until++;
}

static enum status node_labels_write(struct labels *l, struct error *err)
{
    const uint64_t nodes = l->w->params->node_limit;
    enum status status = STATUS_OK;
    l->until = 0;
    while (status == STATUS_OK && l->until < nodes) {
        window_move(l, l->node_at, nodes);
        status = rows_pass(l, row_place, err);
        if (status == STATUS_OK)
            status = put(l->w, l->w->buffers[0],
                         (l->node_at[l->until] - l->first) * sizeof(uint32_t), err);
    }
    return status;
}

static enum status postings_write(struct labels *l, struct error *err)
{
    enum status status = STATUS_OK;
    l->until = 0;
    while (status == STATUS_OK && l->until < l->count) {
        window_move(l, l->posting_at, l->count);
        for (uint64_t label = l->from; label < l->until; label++)
            l->fill[label] = l->posting_at[label] - l->first;
        status = rows_pass(l, row_post, err);
        for (uint64_t label = l->from; status == STATUS_OK && label < l->until; label++)
            numbers_sort(l->w->buffers[0] + (l->posting_at[label] - l->first), l->w->buffers[1],
                         l->posting_at[label + 1] - l->posting_at[label]);
        if (status == STATUS_OK)
            status = put(l->w, l->w->buffers[0],
                         (l->posting_at[l->until] - l->first) * sizeof(uint32_t), err);
    }
    return status;
}

static enum status labels_open(struct labels *l, uint32_t column, struct error *err)
{
    const uint64_t nodes = l->w->params->node_limit;
    void *memory = NULL;
    attribute_part_name("values", column, l->values_part);
    attribute_part_name("labels", column, l->labels_part);
    enum status status =
        bulk_alloc(nodes + 1, sizeof(uint64_t), "offsets of attributes", &memory, err);
    if (status != STATUS_OK)
        return status;
    l->node_at = memory;
    l->place = malloc(((size_t)l->count + 1) * sizeof(*l->place));
    l->posting_at = calloc((size_t)l->count + 1, sizeof(*l->posting_at));
    l->fill = malloc(((size_t)l->count + 1) * sizeof(*l->fill));
    if (l->place == NULL || l->posting_at == NULL || l->fill == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u labels", l->count);
    status = section_read(l->w, l->labels_part, 0, l->place, l->count * sizeof(*l->place), err);
    if (status == STATUS_OK)
        status = section_read(l->w, l->labels_part, 3, l->posting_at + 1,
                              l->count * sizeof(*l->posting_at), err);
    if (status == STATUS_OK)
        status = rows_pass(l, row_count, err);
    for (uint64_t node = 0; node < nodes; node++)
        l->node_at[node + 1] += l->node_at[node];
    for (uint32_t label = 0; label < l->count; label++)
        l->posting_at[label + 1] += l->posting_at[label];
    return status;
}

static void labels_close(struct labels *l)
{
    bulk_free(l->node_at, (size_t)l->w->params->node_limit + 1, sizeof(uint64_t));
    free(l->place);
    free(l->posting_at);
    free(l->fill);
}

static enum status labels_put(struct labels *l, const struct attribute_places *places,
                              struct error *err)
{
    struct write *w = l->w;
    enum status status = section_copy(w, l->labels_part, 1, err);
    if (status == STATUS_OK)
        status = pad_to(w, places->label_text, err);
    if (status == STATUS_OK)
        status = section_copy(w, l->labels_part, 2, err);
    if (status == STATUS_OK)
        status = pad_to(w, places->node_at, err);
    if (status == STATUS_OK)
        status = put(w, l->node_at, ((uint64_t)w->params->node_limit + 1) * sizeof(uint64_t), err);
    if (status == STATUS_OK)
        status = node_labels_write(l, err);
    if (status == STATUS_OK)
        status = pad_to(w, places->posting_at, err);
    if (status == STATUS_OK)
        status = put(w, l->posting_at, ((uint64_t)l->count + 1) * sizeof(uint64_t), err);
    if (status == STATUS_OK)
        status = postings_write(l, err);
    return status == STATUS_OK ? pad_to(w, places->end, err) : status;
}

static enum status labels_write(struct write *w, uint32_t column, struct error *err)
{
    struct labels l = {.w = w, .count = w->shape.columns[column].label_count};
    struct attribute_places places;
    attributes_place(&w->shape, column, &places);
    enum status status = labels_open(&l, column, err);
    if (status == STATUS_OK)
        status = labels_put(&l, &places, err);
    labels_close(&l);
    return status;
}

/* ---- the whole ---- */

static void shape_make(struct write *w)
{
    w->shape.node_limit = w->params->node_limit;
    w->shape.vector_count = w->rows;
    w->shape.column_count = w->info.column_count;
    for (uint32_t c = 0; c < w->info.column_count; c++) {
        const struct attribute_input_column *from = &w->info.columns[c];
        struct attribute_shape *to = &w->shape.columns[c];
        to->kind = (enum attribute_kind)from->kind;
        memcpy(to->name, from->name, sizeof(to->name));
        if (to->kind == ATTRIBUTE_LABELS) {
            to->label_count = from->label_count;
            to->text_bytes = (uint32_t)from->text_bytes;
            to->memberships = from->memberships;
        } else {
            to->base = attribute_rank(to->kind, from->least); /* the rank of a rank is the value */
            to->width = attribute_width(from->most - from->least);
        }
    }
}

/* node_of_row, and which nodes are there. */
static enum status nodes_find(struct write *w, struct error *err)
{
    const struct shard_plan *plan = w->params->plan;
    uint32_t *rows = w->buffers[0];
    enum status status = STATUS_OK;
    for (uint32_t s = 0; status == STATUS_OK && s < plan->shard_count; s++) {
        const uint32_t *nodes = w->params->node_of_position + plan->starts[s];
        status = build_monitor_check(w->monitor, err);
        if (status == STATUS_OK)
            status = shard_own_rows_read(plan, s, rows, err);
        for (uint32_t i = 0; status == STATUS_OK && i < shard_own_count(plan, s); i++) {
            w->node_of_row[rows[i]] = nodes[i];
            w->exists[nodes[i] / 64] |= UINT64_C(1) << (nodes[i] % 64);
        }
    }
    return status;
}

static enum status write_open(struct write *w, struct error *err)
{
    void *memory = NULL;
    enum status status = attribute_info_read(w->params->plan->work, &w->info, err);
    if (status == STATUS_OK) {
        shape_make(w);
        status = bulk_alloc(w->rows, sizeof(uint32_t), "nodes of rows", &memory, err);
        w->node_of_row = memory;
    }
    if (status == STATUS_OK) {
        status = bulk_alloc(w->exists_words, sizeof(uint64_t), "bitmap of nodes", &memory, err);
        w->exists = status == STATUS_OK ? memory : NULL;
    }
    for (int i = 0; status == STATUS_OK && i < 2; i++) {
        status = bulk_alloc(w->window, sizeof(uint32_t), "window of attributes", &memory, err);
        w->buffers[i] = status == STATUS_OK ? memory : NULL;
    }
    w->hash = XXH3_createState();
    if (status == STATUS_OK && (w->hash == NULL || XXH3_128bits_reset(w->hash) != XXH_OK))
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a digest");
    return status;
}

static void write_close(struct write *w)
{
    bulk_free(w->node_of_row, w->rows, sizeof(uint32_t));
    bulk_free(w->exists, w->exists_words, sizeof(uint64_t));
    for (int i = 0; i < 2; i++)
        bulk_free(w->buffers[i], w->window, sizeof(uint32_t));
    XXH3_freeState(w->hash);
    free(w);
}

static enum status head_write(struct write *w, struct error *err)
{
    uint8_t head[ATTRIBUTES_HEAD_BYTES_MAX];
    attributes_head_encode(&w->shape, head);
    enum status status = put(w, head, attributes_head_bytes(w->shape.column_count), err);
    return status == STATUS_OK ? put(w, w->exists, w->exists_words * sizeof(uint64_t), err)
                               : status;
}

enum status attribute_write_run(const struct attribute_write_params *params,
                                const struct build_monitor *monitor, uint64_t *bytes,
                                struct digest128 *digest, struct error *err)
{
    struct write *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for attributes");
    w->params = params;
    w->monitor = monitor;
    w->rows = params->plan->shape.count;
    w->exists_words = ((uint64_t)params->node_limit + 63) / 64;
    w->window = window_of(w->rows);
    enum status status = write_open(w, err);
    if (status == STATUS_OK)
        status = nodes_find(w, err);
    if (status == STATUS_OK)
        status = head_write(w, err);
    for (uint32_t c = 0; status == STATUS_OK && c < w->shape.column_count; c++)
        status = w->shape.columns[c].kind == ATTRIBUTE_LABELS ? labels_write(w, c, err)
                                                              : numbers_write(w, c, err);
    if (status == STATUS_OK) {
        *bytes = w->written;
        *digest = digest_of(XXH3_128bits_digest(w->hash));
    }
    write_close(w);
    return status;
}
