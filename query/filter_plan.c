/*
 * filter_plan.c - a filter's tree becomes a chain of tests and a list of runs of nodes.
 *
 * First the tree is simplified, from the leaves up: numbers become the intervals that some vector's
 * value is in, tests of one column in one group become a single test (all of numbers; of labels
 * those that a list of labels can say), what is always or never true goes, and groups of a kind in
 * one another are one group. Then, with each test's share of matches known from orders and
 * postings, a group's tests are put in the order in which the expected cost is least, taking them
 * as independent.
 *
 * Runs: a number has ranges of its order, a label its posting; of terms that must all hold, the one
 * with the least to look at; of terms of which one must hold, all. Where that is no less than all
 * nodes, or there is a label that may not be there, it is all nodes.
 */
#include <stdlib.h>
#include <string.h>

#include "query/filter_internal.h"

/* ---- intervals ---- */

static int interval_compare(const void *a, const void *b)
{
    const uint64_t low_a = ((const struct filter_interval *)a)->low;
    const uint64_t low_b = ((const struct filter_interval *)b)->low;
    return (low_a > low_b) - (low_a < low_b);
}

/* Sorts them and joins those that overlap or touch; returns how many are left. */
static uint32_t intervals_join(struct filter_interval *intervals, uint32_t count)
{
    if (count == 0)
        return 0;
    qsort(intervals, count, sizeof(*intervals), interval_compare);
    uint32_t last = 0;
    for (uint32_t i = 1; i < count; i++) {
        const uint64_t low = intervals[i].low;
        if (low <= intervals[last].high || low - 1 == intervals[last].high)
            intervals[last].high = MAX(intervals[last].high, intervals[i].high);
        else
            intervals[++last] = intervals[i];
    }
    return last + 1;
}

/* Appends what is between `count` joined intervals from `first` on. */
static enum status complement_add(struct filter_tree *tree, uint32_t first, uint32_t count,
                                  struct error *err)
{
    uint64_t low = 0;
    for (uint32_t i = first; i < first + count; i++) {
        const struct filter_interval interval = tree->intervals[i];
        enum status status = STATUS_OK;
        if (interval.low > low)
            status = filter_interval_add(tree, low, interval.low - 1, err);
        if (status != STATUS_OK || interval.high == UINT64_MAX)
            return status;
        low = interval.high + 1;
    }
    return filter_interval_add(tree, low, UINT64_MAX, err);
}

/* The first place in order, from `low` on, whose value is not below `rank`. */
static uint64_t order_find(const struct attribute_column *column, uint64_t low, uint64_t high,
                           uint64_t rank)
{
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        const uint64_t value = attribute_value(column, column->order[middle]);
        if (attribute_rank(column->kind, value) < rank)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Joined intervals that hold values, and between which there are others. */
static void intervals_look_up(struct filter_tree *tree, struct filter_node *node)
{
    const uint64_t total = tree->attributes->vector_count;
    struct filter_interval *intervals = tree->intervals + node->first;
    uint64_t begin = 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < node->count; i++) {
        struct filter_interval interval = intervals[i];
        begin = order_find(node->column, begin, total, interval.low);
        interval.begin = begin;
        interval.end = interval.high == UINT64_MAX
                           ? total
                           : order_find(node->column, begin, total, interval.high + 1);
        begin = interval.end;
        if (interval.begin == interval.end)
            continue;
        if (kept > 0 && intervals[kept - 1].end == interval.begin) {
            intervals[kept - 1].high = interval.high;
            intervals[kept - 1].end = interval.end;
        } else {
            intervals[kept++] = interval;
        }
    }
    node->count = kept;
}

/* ---- terms ---- */

static double share_of(const struct filter_tree *tree, uint64_t matches)
{
    const uint64_t total = MAX(tree->attributes->vector_count, 1);
    return (double)MIN(matches, total) / (double)total;
}

static enum status number_simplify(struct filter_tree *tree, struct filter_node *node,
                                   struct error *err)
{
    node->count = intervals_join(tree->intervals + node->first, node->count);
    if (node->negated) {
        const size_t first = tree->interval_count;
        enum status status = complement_add(tree, node->first, node->count, err);
        if (status != STATUS_OK)
            return status;
        node->first = (uint32_t)first;
        node->count = (uint32_t)(tree->interval_count - first);
        node->negated = false;
    }
    intervals_look_up(tree, node);
    node->scan = 0;
    for (uint32_t i = node->first; i < node->first + node->count; i++)
        node->scan += tree->intervals[i].end - tree->intervals[i].begin;
    if (node->scan == 0)
        node->kind = FILTER_NOTHING;
    else if (node->scan == tree->attributes->vector_count)
        node->kind = FILTER_EVERYTHING;
    node->share = share_of(tree, node->scan);
    node->cost = node->count > 2 ? 2 : 1;
    return STATUS_OK;
}

static uint64_t posting_length(const struct attribute_column *column, uint32_t label)
{
    return column->posting_at[label + 1] - column->posting_at[label];
}

static int label_compare(const void *a, const void *b)
{
    const uint32_t label_a = *(const uint32_t *)a;
    const uint32_t label_b = *(const uint32_t *)b;
    return (label_a > label_b) - (label_a < label_b);
}

static uint32_t labels_join(uint32_t *labels, uint32_t count)
{
    uint32_t kept = 0;
    qsort(labels, count, sizeof(*labels), label_compare);
    for (uint32_t i = 0; i < count; i++)
        if (kept == 0 || labels[i] != labels[kept - 1])
            labels[kept++] = labels[i];
    return kept;
}

static void labels_simplify(struct filter_tree *tree, struct filter_node *node)
{
    const uint32_t *labels = tree->labels + node->first;
    node->count = labels_join(tree->labels + node->first, node->count);
    if (node->count == 0 || (node->kind == FILTER_ALL && node->unknown)) {
        node->kind = node->negated ? FILTER_EVERYTHING : FILTER_NOTHING;
        return;
    }
    if (node->count == 1)
        node->kind = FILTER_ANY;
    uint64_t sum = 0;
    uint64_t shortest = UINT64_MAX;
    for (uint32_t i = 0; i < node->count; i++) {
        const uint64_t length = posting_length(node->column, labels[i]);
        sum += length;
        shortest = MIN(shortest, length);
    }
    const uint64_t matches = node->kind == FILTER_ANY ? sum : shortest;
    node->share = share_of(tree, matches);
    if (node->negated)
        node->share = 1 - node->share;
    node->cost = node->count == 1 ? 3 : 4;
    node->wide = node->negated || matches >= tree->attributes->node_limit;
    node->scan = node->wide ? tree->attributes->node_limit : matches;
}

/* ---- groups ---- */

/* The members of a group while it is made; a text has no more. */
struct members {
    uint16_t nodes[FILTER_TERMS_MAX];
    uint32_t count;
};

static void members_of(const struct filter_tree *tree, uint16_t group, struct members *members)
{
    members->count = 0;
    for (uint16_t i = tree->nodes[group].child; i != FILTER_NO_NODE; i = tree->nodes[i].next)
        members->nodes[members->count++] = i;
}

/* Replaces groups of the same kind by what is in them, and leaves out what does not matter. False:
 * one member decides the whole group. */
static bool members_flatten(const struct filter_tree *tree, enum filter_node_kind kind,
                            struct members *members)
{
    const enum filter_node_kind idle = kind == FILTER_AND ? FILTER_EVERYTHING : FILTER_NOTHING;
    const enum filter_node_kind final = kind == FILTER_AND ? FILTER_NOTHING : FILTER_EVERYTHING;
    struct members flat = {.count = 0};
    for (uint32_t i = 0; i < members->count; i++) {
        const struct filter_node *node = &tree->nodes[members->nodes[i]];
        if (node->kind == final)
            return false;
        if (node->kind == kind)
            for (uint16_t j = node->child; j != FILTER_NO_NODE; j = tree->nodes[j].next)
                flat.nodes[flat.count++] = j;
        else if (node->kind != idle)
            flat.nodes[flat.count++] = members->nodes[i];
    }
    *members = flat;
    return true;
}

static bool same_number(const struct filter_tree *tree, uint16_t a, uint16_t b)
{
    return tree->nodes[a].kind == FILTER_NUMBER && tree->nodes[b].kind == FILTER_NUMBER &&
           tree->nodes[a].column == tree->nodes[b].column;
}

/* Makes the first of the group's tests of a column of numbers a test for all of them: their
 * intervals together, or those outside of which one fails. */
static enum status numbers_merge(struct filter_tree *tree, bool all, struct members *members,
                                 uint32_t at, struct error *err)
{
    const uint16_t target = members->nodes[at];
    const size_t first = tree->interval_count;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < members->count; i++) {
        const uint16_t member = members->nodes[i];
        if (i != at && (i < at || !same_number(tree, target, member))) {
            members->nodes[kept++] = member;
            continue;
        }
        const struct filter_node node = tree->nodes[member];
        enum status status = STATUS_OK;
        if (all)
            status = complement_add(tree, node.first, node.count, err);
        for (uint32_t j = node.first; !all && status == STATUS_OK && j < node.first + node.count;
             j++)
            status =
                filter_interval_add(tree, tree->intervals[j].low, tree->intervals[j].high, err);
        if (status != STATUS_OK)
            return status;
        if (i == at)
            members->nodes[kept++] = member;
    }
    members->count = kept;
    struct filter_node *node = &tree->nodes[target];
    node->first = (uint32_t)first;
    node->count = (uint32_t)(tree->interval_count - first);
    node->negated = all;
    return number_simplify(tree, node, err);
}

/* A group's tests of one label each, or of the kind that the group makes of labels, say together
 * what one list does: to have this one or that is to have any, to lack this one and that is not to
 * have any; to have this one and that is to have all, to lack this one or that is not to have all.
 */
static enum filter_node_kind labels_kind(bool all, bool negated)
{
    return all != negated ? FILTER_ALL : FILTER_ANY;
}

static bool same_labels(const struct filter_tree *tree, bool all, uint16_t a, uint16_t b)
{
    const struct filter_node *x = &tree->nodes[a];
    const struct filter_node *y = &tree->nodes[b];
    const enum filter_node_kind kind = labels_kind(all, x->negated);
    return (x->kind == kind || (x->kind == FILTER_ANY && x->count == 1)) &&
           (y->kind == kind || (y->kind == FILTER_ANY && y->count == 1)) &&
           x->column == y->column && x->negated == y->negated;
}

/* Room for all labels of the group's tests once more. */
static enum status labels_reserve(struct filter_tree *tree, const struct members *members,
                                  struct error *err)
{
    size_t wanted = tree->label_count;
    for (uint32_t i = 0; i < members->count; i++) {
        const struct filter_node *node = &tree->nodes[members->nodes[i]];
        if (node->kind == FILTER_ANY || node->kind == FILTER_ALL)
            wanted += node->count;
    }
    void *grown = realloc(tree->labels, wanted * sizeof(*tree->labels));
    if (!grown)
        return error_set(err, STATUS_NO_MEMORY, "filter: no memory for it");
    tree->labels = grown;
    return STATUS_OK;
}

/* Makes the one at `at` a test for all of the group's that go with it. */
static enum status labels_merge(struct filter_tree *tree, bool all, struct members *members,
                                uint32_t at, struct error *err)
{
    struct filter_node *target = &tree->nodes[members->nodes[at]];
    const uint32_t first = tree->label_count;
    uint32_t kept = 0;
    enum status status = labels_reserve(tree, members, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; i < members->count; i++) {
        const uint16_t member = members->nodes[i];
        const struct filter_node *node = &tree->nodes[member];
        const bool merges = i >= at && same_labels(tree, all, members->nodes[at], member);
        if (merges) {
            memcpy(tree->labels + tree->label_count, tree->labels + node->first,
                   node->count * sizeof(*tree->labels));
            tree->label_count += node->count;
        }
        if (!merges || i == at)
            members->nodes[kept++] = member;
    }
    members->count = kept;
    target->kind = labels_kind(all, target->negated);
    target->unknown = false;
    target->first = first;
    target->count = tree->label_count - first;
    labels_simplify(tree, target);
    return STATUS_OK;
}

/* So that what a filter costs to test grows with its columns, not with its terms. */
static enum status tests_merge(struct filter_tree *tree, bool all, struct members *members,
                               struct error *err)
{
    for (uint32_t i = 0; i < members->count; i++) {
        bool numbers = false;
        bool labels = false;
        for (uint32_t j = i + 1; !numbers && !labels && j < members->count; j++) {
            numbers = same_number(tree, members->nodes[i], members->nodes[j]);
            labels = same_labels(tree, all, members->nodes[i], members->nodes[j]);
        }
        enum status status = STATUS_OK;
        if (numbers)
            status = numbers_merge(tree, all, members, i, err);
        else if (labels)
            status = labels_merge(tree, all, members, i, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* What a test costs for each time that it ends the group's. */
static double price(const struct filter_tree *tree, enum filter_node_kind kind, uint16_t member)
{
    const struct filter_node *node = &tree->nodes[member];
    const double ends = kind == FILTER_AND ? 1 - node->share : node->share;
    return node->cost / MAX(ends, 1e-9);
}

/* Cheapest first; of equal ones, the one that the text has first. */
static void members_sort(const struct filter_tree *tree, enum filter_node_kind kind,
                         struct members *members)
{
    for (uint32_t i = 1; i < members->count; i++) {
        const uint16_t member = members->nodes[i];
        uint32_t at = i;
        while (at > 0 && price(tree, kind, members->nodes[at - 1]) > price(tree, kind, member)) {
            members->nodes[at] = members->nodes[at - 1];
            at--;
        }
        members->nodes[at] = member;
    }
}

/* Links the sorted members, and sums up what is known of them. */
static void group_close(struct filter_tree *tree, struct filter_node *group,
                        const struct members *members)
{
    const bool all = group->kind == FILTER_AND;
    const uint64_t limit = tree->attributes->node_limit;
    double reached = 1; /* the share of nodes that come to the member */
    group->child = members->nodes[0];
    group->cost = 0;
    group->wide = all;
    group->scan = all ? limit : 0;
    for (uint32_t i = 0; i < members->count; i++) {
        struct filter_node *node = &tree->nodes[members->nodes[i]];
        node->next = i + 1 < members->count ? members->nodes[i + 1] : FILTER_NO_NODE;
        group->cost += reached * node->cost;
        reached *= all ? node->share : 1 - node->share;
        if (all && !node->wide) {
            group->wide = false;
            group->scan = MIN(group->scan, node->scan);
        } else if (!all) {
            group->wide = group->wide || node->wide;
            group->scan += node->scan;
        }
    }
    group->share = all ? reached : 1 - reached;
    if (group->wide || group->scan >= limit) {
        group->wide = true;
        group->scan = limit;
    }
}

static enum status node_simplify(struct filter_tree *tree, uint16_t index, struct error *err);

static enum status group_simplify(struct filter_tree *tree, uint16_t index, struct error *err)
{
    struct filter_node *group = &tree->nodes[index];
    const enum filter_node_kind kind = group->kind;
    const enum filter_node_kind idle = kind == FILTER_AND ? FILTER_EVERYTHING : FILTER_NOTHING;
    const enum filter_node_kind final = kind == FILTER_AND ? FILTER_NOTHING : FILTER_EVERYTHING;
    struct members members;
    members_of(tree, index, &members);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < members.count; i++)
        status = node_simplify(tree, members.nodes[i], err);
    bool open = status == STATUS_OK && members_flatten(tree, kind, &members);
    if (open)
        status = tests_merge(tree, kind == FILTER_AND, &members, err);
    /* Merging may have made some that always or never match. */
    open = open && status == STATUS_OK && members_flatten(tree, kind, &members);
    if (!open || members.count == 0) {
        group->kind = open ? idle : final;
        return status;
    }
    const uint16_t next = group->next;
    if (members.count == 1) {
        *group = tree->nodes[members.nodes[0]];
        group->next = next;
        return status;
    }
    members_sort(tree, kind, &members);
    group_close(tree, group, &members);
    return status;
}

static enum status node_simplify(struct filter_tree *tree, uint16_t index, struct error *err)
{
    struct filter_node *node = &tree->nodes[index];
    switch (node->kind) {
    case FILTER_NUMBER:
        return number_simplify(tree, node, err);
    case FILTER_ANY:
    case FILTER_ALL:
        labels_simplify(tree, node);
        return STATUS_OK;
    case FILTER_AND:
    case FILTER_OR:
        return group_simplify(tree, index, err);
    default:
        return STATUS_OK;
    }
}

/* ---- tests ---- */

static struct filter_leaf number_leaf(const struct filter_tree *tree,
                                      const struct filter_node *node)
{
    static const enum filter_leaf_kind kinds[] = {
        [1] = FILTER_LEAF_1, [2] = FILTER_LEAF_2, [4] = FILTER_LEAF_4, [8] = FILTER_LEAF_8};
    const struct attribute_column *column = node->column;
    const struct filter_interval *sorted = tree->intervals + node->first;
    struct filter_leaf leaf = {.kind = FILTER_LEAF_INTERVALS, .count = node->count};
    uint64_t low = sorted[0].low;
    uint64_t high = sorted[0].high;
    if (node->count == 2 && low == 0 && sorted[1].high == UINT64_MAX) {
        low = sorted[1].low;
        high = sorted[0].high;
    } else if (node->count > 1) {
        leaf.of.intervals.column = column;
        leaf.of.intervals.sorted = sorted;
        return leaf;
    }
    /* All vectors have the same value where the width is 0: nothing is left to test there. */
    leaf.kind = kinds[column->width];
    leaf.of.number.values = column->values;
    leaf.of.number.offset = column->base - attribute_rank(column->kind, low);
    leaf.of.number.span = high - low;
    return leaf;
}

static struct filter_leaf label_leaf(const struct attribute_column *column, uint32_t label)
{
    struct filter_leaf leaf = {.kind = FILTER_LEAF_LABEL, .count = 1};
    leaf.of.labels.node_at = column->node_at;
    leaf.of.labels.node_labels = column->node_labels;
    leaf.of.labels.label = label;
    return leaf;
}

static struct filter_leaf term_leaf(const struct filter_tree *tree, const struct filter_node *node)
{
    if (node->kind == FILTER_NUMBER)
        return number_leaf(tree, node);
    const uint32_t *labels = tree->labels + node->first;
    struct filter_leaf leaf = label_leaf(node->column, labels[0]);
    if (node->count == 1)
        return leaf;
    leaf.kind = node->kind == FILTER_ANY ? FILTER_LEAF_ANY : FILTER_LEAF_ALL;
    leaf.count = node->count;
    leaf.of.labels.sorted = labels;
    for (uint32_t i = 0; i < node->count; i++)
        leaf.of.labels.mask |= UINT64_C(1) << (labels[i] % 64);
    return leaf;
}

/* Where the tests of a node begin, if what comes of them leads to `yes` and `no`. Later tests are
 * laid first, so that where they begin is known; *at is how many places are left in front. */
static uint32_t tests_lay(const struct filter_tree *tree, uint16_t index, struct filter *filter,
                          uint32_t *at, const uint32_t ways[2])
{
    const struct filter_node *node = &tree->nodes[index];
    if (node->kind != FILTER_AND && node->kind != FILTER_OR) {
        struct filter_leaf leaf = term_leaf(tree, node);
        leaf.next[true] = ways[!node->negated];
        leaf.next[false] = ways[node->negated];
        filter->leaves[--*at] = leaf;
        return *at;
    }
    struct members members;
    members_of(tree, index, &members);
    const bool all = node->kind == FILTER_AND;
    uint32_t next = FILTER_NO;
    for (uint32_t i = members.count; i-- > 0;) {
        /* What does not end the group leads to the next member; the last one always ends it. */
        const bool last = i + 1 == members.count;
        const uint32_t on[2] = {all || last ? ways[0] : next, all && !last ? next : ways[1]};
        next = tests_lay(tree, members.nodes[i], filter, at, on);
    }
    return next;
}

static uint32_t terms_count(const struct filter_tree *tree, uint16_t index)
{
    const struct filter_node *node = &tree->nodes[index];
    if (node->kind != FILTER_AND && node->kind != FILTER_OR)
        return 1;
    uint32_t count = 0;
    for (uint16_t i = node->child; i != FILTER_NO_NODE; i = tree->nodes[i].next)
        count += terms_count(tree, i);
    return count;
}

/* ---- runs ---- */

static void segment_add(struct filter *filter, const uint32_t *nodes, uint64_t count,
                        uint32_t label)
{
    filter->segments[filter->segment_count++] =
        (struct filter_segment){nodes, filter->scan_length, filter->source_count, label};
    filter->scan_length += count;
}

static void posting_add(struct filter *filter, const struct attribute_column *column,
                        uint32_t label)
{
    segment_add(filter, column->postings + column->posting_at[label], posting_length(column, label),
                label);
}

static void term_runs(const struct filter_tree *tree, const struct filter_node *node,
                      struct filter *filter)
{
    const uint32_t *labels = tree->labels + node->first;
    struct filter_leaf source = term_leaf(tree, node);
    if (node->kind == FILTER_NUMBER) {
        const struct filter_interval *sorted = tree->intervals + node->first;
        for (uint32_t i = 0; i < node->count; i++)
            segment_add(filter, node->column->order + sorted[i].begin,
                        sorted[i].end - sorted[i].begin, 0);
    } else if (node->kind == FILTER_ANY) {
        for (uint32_t i = 0; i < node->count; i++)
            posting_add(filter, node->column, labels[i]);
    } else {
        uint32_t rarest = labels[0];
        for (uint32_t i = 1; i < node->count; i++)
            if (posting_length(node->column, labels[i]) < posting_length(node->column, rarest))
                rarest = labels[i];
        posting_add(filter, node->column, rarest);
        source = label_leaf(node->column, rarest);
    }
    filter->sources[filter->source_count++] = source;
}

/* Of a node that is not wide. */
static void runs_lay(const struct filter_tree *tree, uint16_t index, struct filter *filter)
{
    const struct filter_node *node = &tree->nodes[index];
    if (node->kind != FILTER_AND && node->kind != FILTER_OR) {
        term_runs(tree, node, filter);
        return;
    }
    uint16_t least = FILTER_NO_NODE;
    for (uint16_t i = node->child; i != FILTER_NO_NODE; i = tree->nodes[i].next) {
        if (node->kind == FILTER_OR)
            runs_lay(tree, i, filter);
        else if (!tree->nodes[i].wide &&
                 (least == FILTER_NO_NODE || tree->nodes[i].scan < tree->nodes[least].scan))
            least = i;
    }
    if (least != FILTER_NO_NODE)
        runs_lay(tree, least, filter);
}

/* ---- all ---- */

/* How many match, where the tree says so. */
static uint64_t matches_known(const struct filter_tree *tree, const struct filter_node *root)
{
    const uint64_t total = tree->attributes->vector_count;
    if (root->kind == FILTER_NOTHING)
        return 0;
    if (root->kind == FILTER_EVERYTHING)
        return total;
    if (root->kind == FILTER_NUMBER)
        return root->scan;
    if (root->kind != FILTER_ANY || root->count > 1)
        return UINT64_MAX;
    const uint64_t length = posting_length(root->column, tree->labels[root->first]);
    return root->negated ? total - length : length;
}

enum status filter_plan(struct filter_tree *tree, struct filter *filter, uint64_t *exact,
                        struct error *err)
{
    enum status status = node_simplify(tree, tree->root, err);
    if (status != STATUS_OK)
        return status;
    const struct filter_node *root = &tree->nodes[tree->root];
    filter->leaf_count = root->kind <= FILTER_EVERYTHING ? 0 : terms_count(tree, tree->root);
    /* A segment is of an interval, a label, or all nodes. */
    const size_t segments_max = tree->interval_count + tree->label_count + 1;
    filter->leaves = calloc(filter->leaf_count + 1, sizeof(*filter->leaves));
    filter->sources = calloc(filter->leaf_count + 1, sizeof(*filter->sources));
    filter->segments = calloc(segments_max, sizeof(*filter->segments));
    if (!filter->leaves || !filter->sources || !filter->segments)
        return error_set(err, STATUS_NO_MEMORY, "filter: no memory for it");
    const bool everything = root->kind == FILTER_EVERYTHING;
    const uint32_t ways[2] = {FILTER_NO, FILTER_YES};
    uint32_t at = filter->leaf_count;
    filter->entry = ways[everything];
    if (filter->leaf_count > 0)
        filter->entry = tests_lay(tree, tree->root, filter, &at, ways);
    if (everything || (filter->leaf_count > 0 && root->wide))
        segment_add(filter, NULL, tree->attributes->node_limit, 0);
    else if (filter->leaf_count > 0)
        runs_lay(tree, tree->root, filter);
    filter->scan_exact =
        everything || root->kind == FILTER_NUMBER || (root->kind == FILTER_ANY && !root->wide);
    *exact = matches_known(tree, root);
    filter->intervals = tree->intervals;
    filter->labels = tree->labels;
    tree->intervals = NULL;
    tree->labels = NULL;
    return STATUS_OK;
}
