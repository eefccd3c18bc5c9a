/*
 * attributes_check.c - what decoded attributes promise beyond memory safety. Reads only.
 *
 * That postings are the inverse of the nodes' labels takes no second copy of either: all (node,
 * label) pairs of the one are distinct, all pairs of the other too, there are as many, and every
 * pair of the other is found in the one.
 */
#include <inttypes.h>

#include "common/sorted.h"
#include "common/utf8.h"
#include "layout/attributes.h"

/* ---- numbers ---- */

static uint64_t rank_of(const struct attribute_column *column, uint32_t node)
{
    return attribute_rank(column->kind, attribute_value(column, node));
}

static enum status order_check(const struct attributes *attributes,
                               const struct attribute_column *column, struct error *err)
{
    uint64_t before = 0;
    for (uint64_t i = 0; i < attributes->vector_count; i++) {
        const uint32_t node = column->order[i];
        const uint64_t rank = rank_of(column, node);
        if (!attributes_node_exists(attributes, node))
            return error_set(err, STATUS_CORRUPT,
                             "attributes: column \"%s\": place %" PRIu64
                             " of its order is node %u, which has no record",
                             column->name, i, node);
        /* Strictly, so that none is there twice: then all are there. */
        if (i > 0 && (rank < before || (rank == before && node <= column->order[i - 1])))
            return error_set(err, STATUS_CORRUPT,
                             "attributes: column \"%s\": place %" PRIu64
                             " of its order, node %u, is not behind the one before it",
                             column->name, i, node);
        before = rank;
    }
    return STATUS_OK;
}

static enum status numbers_check(const struct attributes *attributes,
                                 const struct attribute_column *column, struct error *err)
{
    enum status status = order_check(attributes, column, err);
    if (status != STATUS_OK)
        return status;
    for (uint64_t node = 0; node < attributes->node_limit; node++)
        if (!attributes_node_exists(attributes, (uint32_t)node) &&
            attribute_value(column, (uint32_t)node) != column->base)
            return error_set(err, STATUS_CORRUPT,
                             "attributes: column \"%s\": node %" PRIu64
                             " has a value and no record",
                             column->name, node);
    if (attributes->vector_count == 0)
        return STATUS_OK;
    const uint64_t least = attribute_value(column, column->order[0]);
    const uint64_t most = attribute_value(column, column->order[attributes->vector_count - 1]);
    if (least != column->base || attribute_width(most - least) != column->width)
        return error_set(err, STATUS_CORRUPT,
                         "attributes: column \"%s\": base and width are not the least value and "
                         "the narrowest width",
                         column->name);
    return STATUS_OK;
}

/* ---- labels ---- */

static enum status text_check(const struct attribute_column *column, struct error *err)
{
    const uint32_t *at = column->label_at;
    for (uint32_t l = 0; l < column->label_count; l++) {
        const char *text = column->label_text + at[l];
        const size_t length = at[l + 1] - at[l];
        if (!utf8_valid(text, length) || memchr(text, 0, length) != NULL)
            return error_set(err, STATUS_CORRUPT,
                             "attributes: column \"%s\": label %u is not UTF-8 without NUL",
                             column->name, l);
        if (l == 0)
            continue;
        const size_t before = at[l] - at[l - 1];
        const int sign = memcmp(text - before, text, MIN(before, length));
        if (sign > 0 || (sign == 0 && before >= length))
            return error_set(err, STATUS_CORRUPT,
                             "attributes: column \"%s\": label %u is not behind the one before it",
                             column->name, l);
    }
    return STATUS_OK;
}

static bool ascends(const uint32_t *numbers, uint64_t count)
{
    for (uint64_t i = 1; i < count; i++)
        if (numbers[i - 1] >= numbers[i])
            return false;
    return true;
}

static enum status nodes_check(const struct attributes *attributes,
                               const struct attribute_column *column, struct error *err)
{
    for (uint64_t node = 0; node < attributes->node_limit; node++) {
        const uint64_t count = column->node_at[node + 1] - column->node_at[node];
        if (count > 0 && !attributes_node_exists(attributes, (uint32_t)node))
            return error_set(err, STATUS_CORRUPT,
                             "attributes: column \"%s\": node %" PRIu64 " has labels and no record",
                             column->name, node);
        if (count > ATTRIBUTE_NODE_LABELS_MAX ||
            !ascends(column->node_labels + column->node_at[node], count))
            return error_set(err, STATUS_CORRUPT,
                             "attributes: column \"%s\": the labels of node %" PRIu64
                             " do not ascend, or are more than %d",
                             column->name, node, ATTRIBUTE_NODE_LABELS_MAX);
    }
    return STATUS_OK;
}

static enum status posting_check(const struct attribute_column *column, uint32_t label,
                                 struct error *err)
{
    const uint32_t *nodes = column->postings + column->posting_at[label];
    const uint64_t count = column->posting_at[label + 1] - column->posting_at[label];
    if (count == 0 || !ascends(nodes, count))
        return error_set(err, STATUS_CORRUPT,
                         "attributes: column \"%s\": the nodes of label %u do not ascend, or are "
                         "none",
                         column->name, label);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t at = column->node_at[nodes[i]];
        const uint64_t labels = column->node_at[nodes[i] + 1] - at;
        if (sorted_find(column->node_labels + at, (uint32_t)labels, label) == SORTED_NONE)
            return error_set(err, STATUS_CORRUPT,
                             "attributes: column \"%s\": label %u has node %u, which has not the "
                             "label",
                             column->name, label, nodes[i]);
    }
    return STATUS_OK;
}

static enum status labels_check(const struct attributes *attributes,
                                const struct attribute_column *column, struct error *err)
{
    enum status status = text_check(column, err);
    if (status == STATUS_OK)
        status = nodes_check(attributes, column, err);
    for (uint32_t l = 0; status == STATUS_OK && l < column->label_count; l++)
        status = posting_check(column, l, err);
    return status;
}

enum status attributes_check(const struct attributes *attributes, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t c = 0; status == STATUS_OK && c < attributes->column_count; c++) {
        const struct attribute_column *column = &attributes->columns[c];
        status = column->kind == ATTRIBUTE_LABELS ? labels_check(attributes, column, err)
                                                  : numbers_check(attributes, column, err);
    }
    return status;
}
