/*
 * attributes_fixture.c - see attributes_fixture.h. Quadratic where that is simpler: it is for some
 * hundred nodes. Single-threaded.
 */
#include "tests/attributes_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct maker {
    const struct attributes_fixture_column *columns;
    const bool *exists;
    struct attributes_shape shape;
    char **names[ATTRIBUTES_COLUMNS_MAX]; /* of each column's labels, sorted */
};

static bool exists(const struct maker *m, uint64_t node)
{
    return m->exists == NULL || m->exists[node];
}

/* ---- labels ---- */

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Calls on_label for each label of a node. */
static void node_labels_each(const struct maker *m, uint32_t column, uint64_t node,
                             void (*on_label)(struct maker *, uint32_t, const char *, size_t))
{
    const char *text = m->columns[column].labels[node];
    if (!exists(m, node) || text == NULL)
        return;
    while (*text != '\0') {
        const size_t length = strcspn(text, "|");
        on_label((struct maker *)m, column, text, length);
        text += length + (text[length] == '|');
    }
}

static uint32_t label_find(const struct maker *m, uint32_t column, const char *text, size_t length)
{
    uint32_t label = 0;
    while (label < m->shape.columns[column].label_count &&
           (strlen(m->names[column][label]) != length ||
            memcmp(m->names[column][label], text, length) != 0))
        label++;
    return label;
}

static void label_count(struct maker *m, uint32_t column, const char *text, size_t length)
{
    struct attribute_shape *shape = &m->shape.columns[column];
    shape->memberships++;
    if (label_find(m, column, text, length) < shape->label_count)
        return;
    m->names[column] =
        realloc(m->names[column], (shape->label_count + 1) * sizeof(*m->names[column]));
    assert_non_null(m->names[column]);
    m->names[column][shape->label_count++] = strndup(text, length);
    shape->text_bytes += (uint32_t)length;
}

static void labels_shape(struct maker *m, uint32_t column)
{
    for (uint64_t node = 0; node < m->shape.node_limit; node++)
        node_labels_each(m, column, node, label_count);
    if (m->shape.columns[column].label_count > 0)
        qsort(m->names[column], m->shape.columns[column].label_count, sizeof(*m->names[column]),
              name_compare);
}

static bool has_label(const struct maker *m, uint32_t column, uint64_t node, const char *name)
{
    const char *text = m->columns[column].labels[node];
    if (!exists(m, node) || text == NULL)
        return false;
    while (*text != '\0') {
        const size_t length = strcspn(text, "|");
        if (strlen(name) == length && memcmp(name, text, length) == 0)
            return true;
        text += length + (text[length] == '|');
    }
    return false;
}

static void labels_put(const struct maker *m, uint32_t column, uint8_t *image)
{
    const struct attribute_shape *shape = &m->shape.columns[column];
    struct attribute_places places;
    attributes_place(&m->shape, column, &places);
    uint32_t *label_at = (void *)(image + places.label_at);
    uint64_t *node_at = (void *)(image + places.node_at);
    uint32_t *node_labels = (void *)(image + places.node_labels);
    uint64_t *posting_at = (void *)(image + places.posting_at);
    uint32_t *postings = (void *)(image + places.postings);
    for (uint32_t l = 0; l < shape->label_count; l++) {
        const char *name = m->names[column][l];
        memcpy(image + places.label_text + label_at[l], name, strlen(name));
        label_at[l + 1] = label_at[l] + (uint32_t)strlen(name);
        posting_at[l + 1] = posting_at[l];
        for (uint64_t node = 0; node < m->shape.node_limit; node++)
            if (has_label(m, column, node, name))
                postings[posting_at[l + 1]++] = (uint32_t)node;
    }
    for (uint64_t node = 0; node < m->shape.node_limit; node++) {
        node_at[node + 1] = node_at[node];
        for (uint32_t l = 0; l < shape->label_count; l++)
            if (has_label(m, column, node, m->names[column][l]))
                node_labels[node_at[node + 1]++] = l;
    }
}

/* ---- numbers ---- */

static uint64_t rank_of(const struct maker *m, uint32_t column, uint64_t node)
{
    return attribute_rank(m->columns[column].kind, m->columns[column].numbers[node]);
}

static void numbers_shape(struct maker *m, uint32_t column)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (uint64_t node = 0; node < m->shape.node_limit; node++)
        if (exists(m, node)) {
            least = MIN(least, rank_of(m, column, node));
            most = MAX(most, rank_of(m, column, node));
        }
    /* The rank of a rank is the value. */
    m->shape.columns[column].base = attribute_rank(m->columns[column].kind, least);
    m->shape.columns[column].width = attribute_width(most - least);
}

static void numbers_put(const struct maker *m, uint32_t column, uint8_t *image)
{
    const struct attribute_shape *shape = &m->shape.columns[column];
    struct attribute_places places;
    attributes_place(&m->shape, column, &places);
    uint32_t *order = (void *)(image + places.order);
    uint64_t count = 0;
    for (uint64_t node = 0; node < m->shape.node_limit; node++) {
        if (!exists(m, node))
            continue;
        const uint64_t delta = m->columns[column].numbers[node] - shape->base;
        memcpy(image + places.values + node * shape->width, &delta, shape->width);
        uint64_t place = count++;
        for (; place > 0 && rank_of(m, column, order[place - 1]) > rank_of(m, column, node);
             place--)
            order[place] = order[place - 1];
        order[place] = (uint32_t)node;
    }
}

/* ---- the image ---- */

static void shape_make(struct maker *m, uint32_t column_count, uint32_t node_limit)
{
    m->shape.node_limit = node_limit;
    m->shape.column_count = column_count;
    for (uint64_t node = 0; node < node_limit; node++)
        m->shape.vector_count += exists(m, node);
    for (uint32_t c = 0; c < column_count; c++) {
        struct attribute_shape *shape = &m->shape.columns[c];
        shape->kind = m->columns[c].kind;
        memcpy(shape->name, m->columns[c].name, strlen(m->columns[c].name));
        if (shape->kind == ATTRIBUTE_LABELS)
            labels_shape(m, c);
        else
            numbers_shape(m, c);
    }
}

uint8_t *attributes_fixture_image(const struct attributes_fixture_column *columns,
                                  uint32_t column_count, uint32_t node_limit, const bool *exist,
                                  size_t *bytes)
{
    struct maker *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    m->columns = columns;
    m->exists = exist;
    shape_make(m, column_count, node_limit);
    *bytes = attributes_bytes(&m->shape);
    uint8_t *image = calloc(1, *bytes);
    assert_non_null(image);
    attributes_head_encode(&m->shape, image);
    uint64_t *bitmap = (void *)(image + attributes_head_bytes(column_count));
    for (uint64_t node = 0; node < node_limit; node++)
        bitmap[node / 64] |= (uint64_t)exists(m, node) << (node % 64);
    for (uint32_t c = 0; c < column_count; c++) {
        if (columns[c].kind == ATTRIBUTE_LABELS)
            labels_put(m, c, image);
        else
            numbers_put(m, c, image);
        for (uint32_t l = 0; l < m->shape.columns[c].label_count; l++)
            free(m->names[c][l]);
        free(m->names[c]);
    }
    free(m);
    return image;
}
