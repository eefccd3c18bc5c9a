/*
 * filter_fixture.c - see filter_fixture.h.
 */
#include "tests/filter_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"

static void *keep(struct filter_fixture *fixture, size_t count, size_t item_bytes)
{
    void *memory = calloc(count + 1, item_bytes);
    assert_non_null(memory);
    assert_true(fixture->memory_count < ARRAY_LENGTH(fixture->memory));
    fixture->memory[fixture->memory_count++] = memory;
    return memory;
}

static bool exists(const struct filter_fixture *fixture, uint32_t node)
{
    return fixture->exists[node / 64] >> (node % 64) & 1;
}

static void holes_make(struct filter_fixture *fixture, uint64_t seed)
{
    struct attributes *attributes = &fixture->attributes;
    fixture->exists = keep(fixture, fixture->node_limit / 64 + 1, sizeof(uint64_t));
    for (uint32_t i = 0; i < fixture->node_limit; i++)
        if (random_below(seed, i, 7) > 0) {
            fixture->exists[i / 64] |= UINT64_C(1) << (i % 64);
            attributes->vector_count++;
        }
    attributes->exists = fixture->exists;
    attributes->node_limit = fixture->node_limit;
}

/* ---- numbers ---- */

static __int128 number_make(uint32_t column, uint64_t seed, uint32_t node)
{
    static const uint64_t big[] = {0,         1, 5, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX - 1,
                                   UINT64_MAX};
    static const int64_t small[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX};
    const uint64_t random = random_at(seed + column + 1, node);
    switch (column) {
    case 0:
        return 1990 + (int)(random % 40);
    case 1:
        return big[random % ARRAY_LENGTH(big)];
    case 2:
        return small[random % ARRAY_LENGTH(small)];
    case 3:
        return (int)(random % 1000) - 500;
    case 4:
        return 7;
    default:
        return 100000 + random % 3000000;
    }
}

struct keyed {
    __int128 value;
    uint32_t node;
};

static int keyed_compare(const void *a, const void *b)
{
    const struct keyed *x = a;
    const struct keyed *y = b;
    if (x->value != y->value)
        return x->value < y->value ? -1 : 1;
    return (x->node > y->node) - (x->node < y->node);
}

static void number_column(struct filter_fixture *fixture, uint32_t at, uint64_t seed)
{
    static const struct {
        const char *name;
        enum attribute_kind kind;
        uint64_t base;
        uint32_t width;
    } shapes[FIXTURE_NUMBERS] = {
        {"year", ATTRIBUTE_U64, 1990, 1},
        {"big", ATTRIBUTE_U64, 0, 8},
        {"signed", ATTRIBUTE_I64, UINT64_C(1) << 63, 8},
        {"height", ATTRIBUTE_I64, (uint64_t)-500, 2},
        {"same", ATTRIBUTE_U64, 7, 0},
        {"price", ATTRIBUTE_U64, 100000, 4},
    };
    struct attribute_column *column = &fixture->attributes.columns[at];
    const uint32_t width = shapes[at].width;
    uint8_t *values = keep(fixture, fixture->node_limit, width ? width : 1);
    uint32_t *order = keep(fixture, fixture->node_limit, sizeof(*order));
    struct keyed *keyed = keep(fixture, fixture->node_limit, sizeof(*keyed));
    size_t count = 0;
    fixture->numbers[at] = keep(fixture, fixture->node_limit, sizeof(__int128));
    for (uint32_t i = 0; i < fixture->node_limit; i++) {
        if (!exists(fixture, i))
            continue;
        const __int128 value = number_make(at, seed, i);
        const uint64_t delta = (uint64_t)value - shapes[at].base;
        fixture->numbers[at][i] = value;
        memcpy(values + (size_t)i * width, &delta, width);
        keyed[count++] = (struct keyed){value, i};
    }
    qsort(keyed, count, sizeof(*keyed), keyed_compare);
    for (size_t i = 0; i < count; i++)
        order[i] = keyed[i].node;
    *column = (struct attribute_column){.name = shapes[at].name,
                                        .kind = shapes[at].kind,
                                        .base = shapes[at].base,
                                        .width = width,
                                        .values = values,
                                        .order = order};
}

/* ---- labels ---- */

/* Pools are in bytewise order, as a column's labels are. */
static void pools_make(struct filter_fixture *fixture)
{
    static const char *const langs[] = {
        "", " x", "a\"b", "a\\b", "de", "en", "en-GB-gb", "fr", "\xe6\x97\xa5", "\xf0\x9f\x90\xa6"};
    for (uint32_t i = 0; i < FIXTURE_POOL_MAX; i++) {
        snprintf(fixture->tag_names[i], sizeof(fixture->tag_names[i]), "t%02u", i);
        fixture->pool[0][i] = fixture->tag_names[i];
    }
    for (size_t i = 0; i < ARRAY_LENGTH(langs); i++)
        fixture->pool[1][i] = langs[i];
    fixture->pool_count[0] = FIXTURE_POOL_MAX;
    fixture->pool_count[1] = ARRAY_LENGTH(langs);
}

static uint64_t labels_make(const struct filter_fixture *fixture, uint32_t which, uint64_t seed,
                            uint32_t node)
{
    const uint64_t random = random_at(seed + 100 + which, node);
    if (which == 1)
        return UINT64_C(1) << random % fixture->pool_count[1];
    if (which == 2)
        return 0;
    uint64_t set = 0;
    const uint64_t count = random % 50 == 0 ? 40 : random % 5;
    for (uint64_t i = 0; i < count; i++) /* low ones are frequent */
        set |= UINT64_C(1) << (random_below(seed + node, i, 64) * random_below(seed - node, i, 64) /
                               64);
    return set;
}

static void label_text(struct filter_fixture *fixture, uint32_t which,
                       struct attribute_column *column)
{
    uint32_t *at = keep(fixture, FIXTURE_POOL_MAX + 1, sizeof(*at));
    char *text = keep(fixture, FIXTURE_POOL_MAX * 16, 1);
    for (uint32_t i = 0; i < fixture->pool_count[which]; i++) {
        const size_t bytes = strlen(fixture->pool[which][i]);
        memcpy(text + at[i], fixture->pool[which][i], bytes);
        at[i + 1] = at[i] + (uint32_t)bytes;
    }
    column->label_count = fixture->pool_count[which];
    column->label_at = at;
    column->label_text = text;
}

static void label_column(struct filter_fixture *fixture, uint32_t which, uint64_t seed)
{
    static const char *const names[FIXTURE_LABELS] = {"tags", "lang", "none"};
    struct attribute_column *column = &fixture->attributes.columns[FIXTURE_NUMBERS + which];
    const uint32_t limit = fixture->node_limit;
    uint64_t *sets = keep(fixture, limit, sizeof(*sets));
    uint64_t *node_at = keep(fixture, limit + 1, sizeof(*node_at));
    uint32_t *node_labels = keep(fixture, (size_t)limit * 40, sizeof(*node_labels));
    uint64_t *posting_at = keep(fixture, FIXTURE_POOL_MAX + 1, sizeof(*posting_at));
    uint32_t *postings = keep(fixture, (size_t)limit * 40, sizeof(*postings));
    uint64_t total = 0;
    for (uint32_t i = 0; i < limit; i++) {
        sets[i] = exists(fixture, i) ? labels_make(fixture, which, seed, i) : 0;
        for (uint32_t label = 0; label < fixture->pool_count[which]; label++)
            if (sets[i] >> label & 1)
                node_labels[total++] = label;
        node_at[i + 1] = total;
    }
    total = 0;
    for (uint32_t label = 0; label < fixture->pool_count[which]; label++) {
        for (uint32_t i = 0; i < limit; i++)
            if (sets[i] >> label & 1)
                postings[total++] = i;
        posting_at[label + 1] = total;
    }
    *column = (struct attribute_column){.name = names[which],
                                        .kind = ATTRIBUTE_LABELS,
                                        .node_at = node_at,
                                        .node_labels = node_labels,
                                        .posting_at = posting_at,
                                        .postings = postings};
    label_text(fixture, which, column);
    fixture->label_sets[which] = sets;
}

void filter_fixture_init(struct filter_fixture *fixture, uint32_t node_limit, uint64_t seed)
{
    memset(fixture, 0, sizeof(*fixture));
    fixture->node_limit = node_limit;
    holes_make(fixture, seed);
    pools_make(fixture);
    for (uint32_t i = 0; i < FIXTURE_NUMBERS; i++)
        number_column(fixture, i, seed);
    for (uint32_t i = 0; i < FIXTURE_LABELS; i++)
        label_column(fixture, i, seed);
    fixture->attributes.column_count = FIXTURE_COLUMNS;
}

void filter_fixture_fini(struct filter_fixture *fixture)
{
    while (fixture->memory_count > 0)
        free(fixture->memory[--fixture->memory_count]);
}

/* ---- filters ---- */

struct filter *filter_fixture_compile(const char *text, const struct attributes *attributes)
{
    struct filter *filter = NULL;
    struct error err = {0};
    /* Of its exact length, so that ASan sees a read past it. */
    const size_t length = strlen(text);
    char *exact = malloc(length + !length);
    assert_non_null(exact);
    memcpy(exact, text, length);
    if (filter_compile(exact, length, attributes, &filter, &err) != STATUS_OK)
        fail_msg("%s: %s", text, err.text);
    free(exact);
    assert_string_equal(filter_text(filter), text);
    return filter;
}

uint32_t filter_fixture_matches(const char *text, const struct attributes *attributes)
{
    uint32_t count = 0;
    struct filter *filter = filter_fixture_compile(text, attributes);
    for (uint32_t i = 0; i < attributes->node_limit; i++)
        count += attributes_node_exists(attributes, i) && filter_match(filter, i);
    filter_free(filter);
    return count;
}
