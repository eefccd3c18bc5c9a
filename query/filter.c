/*
 * filter.c - see filter.h: a filter's life, and the chain of tests.
 */
#include "query/filter.h"

#include <stdlib.h>
#include <string.h>

#include "query/filter_internal.h"

static char *text_copy(const char *text, size_t length)
{
    char *copy = malloc(length + 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

static enum status tree_create(const struct attributes *attributes, struct filter_tree **out,
                               struct error *err)
{
    struct filter_tree *tree = calloc(1, sizeof(*tree));
    uint32_t *labels = malloc(FILTER_LABELS_MAX * sizeof(*labels));
    if (!tree || !labels) {
        free(tree);
        free(labels);
        return error_set(err, STATUS_NO_MEMORY, "filter: no memory for it");
    }
    tree->attributes = attributes;
    tree->labels = labels;
    *out = tree;
    return STATUS_OK;
}

static void tree_destroy(struct filter_tree *tree)
{
    if (!tree)
        return;
    free(tree->intervals);
    free(tree->labels);
    free(tree);
}

enum status filter_compile(const char *text, size_t length, const struct attributes *attributes,
                           struct filter **out, struct error *err)
{
    struct filter_tree *tree = NULL;
    struct filter *filter = NULL;
    uint64_t exact = 0;
    enum status status = tree_create(attributes, &tree, err);
    if (status == STATUS_OK)
        status = filter_parse(text, length, tree, err);
    if (status != STATUS_OK)
        goto out;
    filter = calloc(1, sizeof(*filter));
    if (filter)
        filter->text = text_copy(text, length);
    if (!filter || !filter->text) {
        status = error_set(err, STATUS_NO_MEMORY, "filter: no memory for it");
        goto out;
    }
    filter->attributes = attributes;
    status = filter_plan(tree, filter, &exact, err);
    if (status != STATUS_OK)
        goto out;
    filter->match_estimate = exact != UINT64_MAX ? exact : filter_scan_estimate(filter);
    *out = filter;
    filter = NULL;
out:
    filter_free(filter);
    tree_destroy(tree);
    return status;
}

void filter_free(struct filter *filter)
{
    if (!filter)
        return;
    free(filter->leaves);
    free(filter->segments);
    free(filter->sources);
    free(filter->intervals);
    free(filter->labels);
    free(filter->text);
    free(filter);
}

const char *filter_text(const struct filter *filter)
{
    return filter->text;
}

bool filter_match(const struct filter *filter, uint32_t node)
{
    uint32_t at = filter->entry;
    while (at < filter->leaf_count) {
        const struct filter_leaf *leaf = &filter->leaves[at];
        at = leaf->next[filter_leaf_match(leaf, node)];
    }
    return at == FILTER_YES;
}

uint64_t filter_scan_length(const struct filter *filter)
{
    return filter->scan_length;
}

uint64_t filter_match_estimate(const struct filter *filter)
{
    return filter->match_estimate;
}
