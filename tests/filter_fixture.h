/*
 * filter_fixture.h - attributes made up for tests of filters, with the raw values beside them, so
 * that what a filter finds can be compared with what the values say.
 */
#ifndef NIGHTJAR_TESTS_FILTER_FIXTURE_H
#define NIGHTJAR_TESTS_FILTER_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "query/filter.h"

enum {
    FIXTURE_NUMBERS = 6, /* columns of numbers, which come first */
    FIXTURE_LABELS = 3,
    FIXTURE_COLUMNS = FIXTURE_NUMBERS + FIXTURE_LABELS,
    FIXTURE_POOL_MAX = 64,
};

/* year u64 1 byte; big u64, extremes; signed i64, extremes; height i64 2 bytes; same u64, one
 * value; price u64 4 bytes. tags: none to 40 of 64 labels; lang: one of few, hard to spell; none:
 * nobody has any. */
struct filter_fixture {
    uint32_t node_limit;
    struct attributes attributes;
    uint64_t *exists;
    __int128 *numbers[FIXTURE_NUMBERS];   /* [node_limit] */
    uint64_t *label_sets[FIXTURE_LABELS]; /* [node_limit] bit i: has pool[i] */
    const char *pool[FIXTURE_LABELS][FIXTURE_POOL_MAX];
    uint32_t pool_count[FIXTURE_LABELS];
    char tag_names[FIXTURE_POOL_MAX][8];
    void *memory[64]; /* to free */
    uint32_t memory_count;
};

/* About one slot of seven is a hole. */
void filter_fixture_init(struct filter_fixture *fixture, uint32_t node_limit, uint64_t seed);
void filter_fixture_fini(struct filter_fixture *fixture);

/* What must compile; the caller's. */
struct filter *filter_fixture_compile(const char *text, const struct attributes *attributes);

/* Nodes that filter_match() says match. */
uint32_t filter_fixture_matches(const char *text, const struct attributes *attributes);

#endif
