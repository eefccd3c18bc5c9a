/*
 * filter_internal.h - what the files of the filter share: the tree that filter_parse.c makes of a
 * text, and what filter_plan.c makes of the tree.
 */
#ifndef NIGHTJAR_QUERY_FILTER_INTERNAL_H
#define NIGHTJAR_QUERY_FILTER_INTERNAL_H

#include "common/sorted.h"
#include "query/filter.h"

enum {
    FILTER_NODES_MAX = 2 * FILTER_TERMS_MAX, /* terms, and groups of two or more of what is below */
    FILTER_LABELS_MAX = FILTER_TEXT_MAX / 2, /* in all lists; each takes 3 bytes of the text */
    FILTER_NO_NODE = 0xffff,
};

/* Values by attribute_rank(), both ends included, and the nodes that have them. */
struct filter_interval {
    uint64_t low, high;
    uint64_t begin, end; /* in the column's order; of intervals that were looked up */
};

/* ---- the tree ---- */

enum filter_node_kind {
    FILTER_NOTHING,
    FILTER_EVERYTHING,
    FILTER_NUMBER, /* in one of the intervals */
    FILTER_ANY,    /* has one of the labels */
    FILTER_ALL,    /* has all of the labels */
    FILTER_AND,
    FILTER_OR,
};

struct filter_node {
    enum filter_node_kind kind;
    bool negated; /* of terms; groups are turned by De Morgan's laws as they are read */
    bool unknown; /* ALL: one of the labels is no vector's */
    const struct attribute_column *column;
    uint32_t first, count; /* of its intervals or labels */
    uint16_t child, next;  /* groups: the first below; the next beside. FILTER_NO_NODE: none */
    /* Known once filter_plan.c has simplified it: */
    bool wide;     /* no runs of nodes hold what matches, short of all nodes */
    uint64_t scan; /* length of those runs; node_limit if wide */
    double share;  /* guess of the part of the vectors that match */
    double cost;   /* guess of what testing it costs, in numbers compared */
};

struct filter_tree {
    const struct attributes *attributes;
    struct filter_node nodes[FILTER_NODES_MAX];
    uint32_t node_count;
    uint32_t term_count;
    uint16_t root;
    struct filter_interval *intervals; /* grows */
    size_t interval_count, interval_capacity;
    uint32_t *labels; /* [FILTER_LABELS_MAX] as parsed; grows as tests become one */
    uint32_t label_count;
};

/* Fills an empty tree, whose nodes hold what the text says and no more. */
NODISCARD enum status filter_parse(const char *text, size_t length, struct filter_tree *tree,
                                   struct error *err);
NODISCARD enum status filter_interval_add(struct filter_tree *tree, uint64_t low, uint64_t high,
                                          struct error *err);

/* ---- what is compiled ---- */

enum filter_leaf_kind {
    FILTER_LEAF_1, /* one interval of numbers of 1, 2, 4, 8 bytes */
    FILTER_LEAF_2,
    FILTER_LEAF_4,
    FILTER_LEAF_8,
    FILTER_LEAF_INTERVALS,
    FILTER_LEAF_LABEL, /* one label */
    FILTER_LEAF_ANY,
    FILTER_LEAF_ALL,
};

enum { FILTER_YES = 0xfffffffe, FILTER_NO = 0xffffffff };

/* A test, and where to go on when it fails and when it holds: the index of a leaf, FILTER_YES or
 * FILTER_NO. An index into two places, so that a single test of random outcome is no branch. */
struct filter_leaf {
    enum filter_leaf_kind kind;
    uint32_t next[2];
    uint32_t count; /* of intervals or labels */
    union {
        /* One interval: a number as stored is in it if it is at most `span` above its low end,
         * modulo 2^64: `offset` takes the low end off and adds the base. So what is outside of an
         * interval is an interval too, around the end of the numbers. */
        struct {
            const uint8_t *values;
            uint64_t offset, span;
        } number;
        struct {
            const struct attribute_column *column;
            const struct filter_interval *sorted;
        } intervals;
        struct {
            const uint64_t *node_at;
            const uint32_t *node_labels;
            const uint32_t *sorted; /* [count] the wanted ones */
            uint64_t mask;          /* bit label % 64 of each: most others are told from it */
            uint32_t label;         /* FILTER_LEAF_LABEL */
        } labels;
    } of;
};

/* A run of nodes to look at. */
struct filter_segment {
    const uint32_t *nodes; /* NULL: all nodes from 0 on, holes too */
    uint64_t begin;        /* nodes of the segments before */
    uint32_t source;       /* the leaf, among `sources`, whose nodes these are */
    uint32_t label;        /* of FILTER_LEAF_ANY: whose posting it is */
};

struct filter {
    const struct attributes *attributes;
    struct filter_leaf *leaves; /* in the order of tests */
    uint32_t leaf_count;
    uint32_t entry;                  /* 0, or FILTER_YES or FILTER_NO if no test is needed */
    struct filter_segment *segments; /* none of them empty */
    uint32_t segment_count;
    struct filter_leaf *sources; /* a node is in a source's segments just if the source matches */
    uint32_t source_count;
    bool scan_exact; /* every node of the segments matches */
    uint64_t scan_length;
    uint64_t match_estimate;
    struct filter_interval *intervals; /* what leaves point into */
    uint32_t *labels;
    char *text;
};

/* Makes of a parsed tree all but the text and the estimate; the filter takes the tree's arrays.
 * *exact: matches, where the plan knows them; UINT64_MAX if not. On failure the caller's
 * filter_free() releases what there is. */
NODISCARD enum status filter_plan(struct filter_tree *tree, struct filter *filter, uint64_t *exact,
                                  struct error *err);

/* How many nodes of the scan an estimate looks at: all, or a sample. A compile is on the thread
 * that reads all sockets, so nodes times tests is bounded. A node is tested once more where it may
 * be in several runs. */
uint64_t filter_scan_looks(const struct filter *filter);
/* By counting or sampling the scan. */
uint64_t filter_scan_estimate(const struct filter *filter);

/* ---- tests ---- */

enum { FILTER_FEW_LABELS = 16 };

ALWAYS_INLINE bool filter_in_intervals(const struct filter_leaf *leaf, uint32_t node)
{
    const struct attribute_column *column = leaf->of.intervals.column;
    const struct filter_interval *sorted = leaf->of.intervals.sorted;
    const uint64_t rank = attribute_rank(column->kind, attribute_value(column, node));
    uint32_t low = 0;
    uint32_t high = leaf->count;
    while (low < high) { /* the first that does not end below */
        uint32_t middle = low + (high - low) / 2;
        if (sorted[middle].high < rank)
            low = middle + 1;
        else
            high = middle;
    }
    return low < leaf->count && sorted[low].low <= rank;
}

ALWAYS_INLINE bool filter_has_label(const struct filter_leaf *leaf, uint32_t node)
{
    const uint64_t begin = leaf->of.labels.node_at[node];
    const uint32_t held = (uint32_t)(leaf->of.labels.node_at[node + 1] - begin);
    const uint32_t *labels = leaf->of.labels.node_labels + begin;
    if (UNLIKELY(held > FILTER_FEW_LABELS))
        return sorted_find(labels, held, leaf->of.labels.label) != SORTED_NONE;
    for (uint32_t i = 0; i < held; i++)
        if (labels[i] == leaf->of.labels.label)
            return true;
    return false;
}

/* The lowest of the wanted labels that a node has; SORTED_NONE: it has none. */
ALWAYS_INLINE uint32_t filter_first_label(const struct filter_leaf *leaf, uint32_t node)
{
    const uint64_t begin = leaf->of.labels.node_at[node];
    const uint32_t held = (uint32_t)(leaf->of.labels.node_at[node + 1] - begin);
    const uint32_t *labels = leaf->of.labels.node_labels + begin;
    const uint32_t *wanted = leaf->of.labels.sorted;
    if (UNLIKELY(held > FILTER_FEW_LABELS && held / 4 > leaf->count)) {
        for (uint32_t i = 0; i < leaf->count; i++)
            if (sorted_find(labels, held, wanted[i]) != SORTED_NONE)
                return wanted[i];
        return SORTED_NONE;
    }
    for (uint32_t i = 0; i < held; i++)
        if ((leaf->of.labels.mask >> (labels[i] % 64) & 1) &&
            sorted_find(wanted, leaf->count, labels[i]) != SORTED_NONE)
            return labels[i];
    return SORTED_NONE;
}

ALWAYS_INLINE bool filter_has_all(const struct filter_leaf *leaf, uint32_t node)
{
    const uint64_t begin = leaf->of.labels.node_at[node];
    const uint32_t held = (uint32_t)(leaf->of.labels.node_at[node + 1] - begin);
    const uint32_t *labels = leaf->of.labels.node_labels + begin;
    if (held < leaf->count)
        return false;
    for (uint32_t i = 0; i < leaf->count; i++)
        if (sorted_find(labels, held, leaf->of.labels.sorted[i]) == SORTED_NONE)
            return false;
    return true;
}

ALWAYS_INLINE bool filter_leaf_match(const struct filter_leaf *leaf, uint32_t node)
{
    const uint8_t *values = leaf->of.number.values;
    uint64_t stored = 0;
    switch (leaf->kind) {
    case FILTER_LEAF_1:
        stored = values[node];
        break;
    case FILTER_LEAF_2: {
        uint16_t narrow;
        memcpy(&narrow, values + (size_t)node * sizeof(narrow), sizeof(narrow));
        stored = narrow;
        break;
    }
    case FILTER_LEAF_4: {
        uint32_t narrow;
        memcpy(&narrow, values + (size_t)node * sizeof(narrow), sizeof(narrow));
        stored = narrow;
        break;
    }
    case FILTER_LEAF_8:
        memcpy(&stored, values + (size_t)node * sizeof(stored), sizeof(stored));
        break;
    case FILTER_LEAF_INTERVALS:
        return filter_in_intervals(leaf, node);
    case FILTER_LEAF_LABEL:
        return filter_has_label(leaf, node);
    case FILTER_LEAF_ANY:
        return filter_first_label(leaf, node) != SORTED_NONE;
    case FILTER_LEAF_ALL:
        return filter_has_all(leaf, node);
    }
    return stored + leaf->of.number.offset <= leaf->of.number.span;
}

#endif
