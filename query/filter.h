/*
 * filter.h - predicates over attributes: which vectors a search may return.
 *
 *   year >= 2015 and (lang = "en" or lang in ("de", "fr")) and not tags any ("nsfw", "old")
 *
 *   filter  = both { "or" both }          both = one { "and" one }
 *   one     = "not" one | "(" filter ")" | column test
 *   test    = ("=" | "!=" | "<" | "<=" | ">" | ">=") number     of a column of numbers
 *           | "in" "(" number { "," number } ")"
 *           | ("=" | "!=") string                               of labels: has it, has it not
 *           | ("in" | "any") "(" string { "," string } ")"      has one of them
 *           | "all" "(" string { "," string } ")"               has all of them
 *   number  = ["-"] digits                string = '"' text '"', with \" and \\
 *
 * Words of the language are read in any case, names of columns are as they are. A filter is
 * compiled once a request, to two things: a chain of tests with two ways out each, for candidates
 * that a search of the graph met; and a list of sorted runs of nodes (ranges of a number's order,
 * postings of labels) that hold all that match, for searches that look at just those.
 *
 * A filter is immutable: any number of threads may use it. Only filter_compile() allocates.
 */
#ifndef NIGHTJAR_QUERY_FILTER_H
#define NIGHTJAR_QUERY_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/attributes.h"

enum {
    FILTER_TEXT_MAX = 4096, /* bytes */
    FILTER_TERMS_MAX = 256,
    FILTER_DEPTH_MAX = 32,     /* parentheses in one another */
    FILTER_VALUES_MAX = 1024,  /* in one list */
    FILTER_COUNTED_MAX = 4096, /* a scan no longer than that is counted, not sampled */
    FILTER_SAMPLE = 1024,
    FILTER_TESTS_MAX = 1 << 16, /* of many terms fewer nodes are counted or sampled */
};

struct filter;

/* Reads text[length] (UTF-8, no terminator needed). `attributes` is borrowed and must outlive the
 * filter. STATUS_INVALID with one line that names the place, in characters from 1: "filter: column
 * 14: unknown column \"yeer\" (columns: year, lang, tags)"; STATUS_NO_MEMORY. *out is written on
 * success only. A label that no vector has is fine: nothing matches it. A fraction of a millisecond
 * for the estimate, whatever the filter, since it does FILTER_TESTS_MAX tests at most; more for
 * lists of hundreds of numbers (two binary searches each). */
NODISCARD enum status filter_compile(const char *text, size_t length,
                                     const struct attributes *attributes, struct filter **out,
                                     struct error *err);
void filter_free(struct filter *filter); /* NULL is fine */

/* What was compiled, NUL-terminated. The filter's. */
const char *filter_text(const struct filter *filter);

/* Whether a node (below node_limit, no hole) matches. A cache miss or two for each term that must
 * be looked at; terms that decide most at least cost come first. */
bool filter_match(const struct filter *filter, uint32_t node);

/* Nodes that a scan looks at, to the end: node_limit where nothing narrower is known; 0: nothing
 * matches. */
uint64_t filter_scan_length(const struct filter *filter);

/* How many vectors match. Exact where one number's range or one label decides, and where a scan is
 * no longer than FILTER_COUNTED_MAX; else from FILTER_SAMPLE nodes of the scan, at least 1 and at
 * most scan length and vector count. A filter of more than 16 (64) tests is counted (sampled) on
 * FILTER_TESTS_MAX / tests nodes instead. Deterministic, computed by filter_compile(). */
uint64_t filter_match_estimate(const struct filter *filter);

/* ---- enumeration ---- */

/* A plain value; copy it to come back to a place. */
struct filter_scan {
    const struct filter *filter; /* borrowed */
    uint64_t position;           /* nodes looked at */
    uint32_t segment;            /* the run that position is in */
};

void filter_scan_begin(const struct filter *filter, struct filter_scan *scan);

/* The next up to `max` matching nodes into nodes[], each node once in a scan, always in the same
 * order; looks at no more than `look` nodes, so that a caller can pause. *done: there are no more.
 * Returns how many were written. */
uint32_t filter_scan_next(struct filter_scan *scan, uint64_t look, uint32_t *nodes, uint32_t max,
                          bool *done);

/* Up to `max` different matching nodes, spread evenly over the scan however many are found (entry
 * points). Looks at no more than 16 * max nodes, all of them if the scan is no longer: then it
 * finds all that match, up to max. */
uint32_t filter_spread(const struct filter *filter, uint32_t *nodes, uint32_t max);

#endif
