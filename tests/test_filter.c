/*
 * test_filter.c - filters against the values themselves: random expressions are evaluated while
 * they are written down, and tests, scans, estimates and spreads have to agree with that. Then the
 * ends of numbers, and what scans, estimates and spreads promise.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"
#include "query/filter_internal.h"
#include "tests/filter_fixture.h"

enum {
    NODES = 400,
    MANY_NODES = 20000,
    EXPRESSIONS = 6000,
    SEED = 7,
};

static struct filter_fixture small, large;

/* Which nodes match. */
struct set {
    bool has[NODES];
};

/* ---- writing expressions ---- */

struct writer {
    char text[FILTER_TEXT_MAX + 1];
    size_t length;
    uint64_t seed, drawn;
    uint32_t terms;
    bool full; /* it became too long: to be thrown away */
};

static uint64_t draw(struct writer *writer, uint64_t bound)
{
    return random_below(writer->seed, writer->drawn++, bound);
}

static void put(struct writer *writer, const char *text)
{
    const size_t bytes = strlen(text);
    if (writer->length + bytes > FILTER_TEXT_MAX) {
        writer->full = true;
        return;
    }
    memcpy(writer->text + writer->length, text, bytes + 1);
    writer->length += bytes;
}

/* In any case. */
static void put_word(struct writer *writer, const char *word)
{
    char text[8] = "";
    for (size_t i = 0; word[i]; i++)
        text[i] = (char)(draw(writer, 4) ? word[i] : word[i] - 'a' + 'A');
    put(writer, text);
}

static void put_space(struct writer *writer, bool needed)
{
    static const char *const spaces[] = {" ", "  ", "\t", "\r\n"};
    if (needed || draw(writer, 2))
        put(writer, spaces[draw(writer, 8) ? 0 : draw(writer, ARRAY_LENGTH(spaces))]);
}

static void put_number(struct writer *writer, __int128 value)
{
    char text[32];
    if (value < 0)
        snprintf(text, sizeof(text), "%" PRId64, (int64_t)value);
    else
        snprintf(text, sizeof(text), "%" PRIu64, (uint64_t)value);
    put(writer, text);
}

static void put_label(struct writer *writer, const char *label)
{
    put(writer, "\"");
    for (; *label; label++) {
        const char c[2] = {*label, '\0'};
        if (*label == '"' || *label == '\\')
            put(writer, "\\");
        put(writer, c);
    }
    put(writer, "\"");
}

/* A value of some vector or near one, or an end of the type. */
static __int128 some_number(struct writer *writer, uint32_t column)
{
    const bool is_signed = small.attributes.columns[column].kind == ATTRIBUTE_I64;
    const __int128 low = is_signed ? INT64_MIN : 0;
    const __int128 high = is_signed ? INT64_MAX : (__int128)UINT64_MAX;
    if (draw(writer, 12) == 0)
        return draw(writer, 2) ? low : high;
    __int128 value = small.numbers[column][draw(writer, NODES)] + (__int128)draw(writer, 3) - 1;
    return MIN(MAX(value, low), high);
}

static bool compares(uint32_t operation, __int128 value, __int128 literal)
{
    switch (operation) {
    case 0:
        return value == literal;
    case 1:
        return value != literal;
    case 2:
        return value < literal;
    case 3:
        return value <= literal;
    case 4:
        return value > literal;
    default:
        return value >= literal;
    }
}

static void write_number_term(struct writer *writer, struct set *set)
{
    static const char *const operations[] = {"=", "!=", "<", "<=", ">", ">="};
    const uint32_t column = (uint32_t)draw(writer, FIXTURE_NUMBERS);
    const uint32_t operation = (uint32_t)draw(writer, 7);
    const __int128 *values = small.numbers[column];
    put(writer, small.attributes.columns[column].name);
    put_space(writer, true);
    if (operation < 6) {
        const __int128 literal = some_number(writer, column);
        put(writer, operations[operation]);
        put_space(writer, false);
        put_number(writer, literal);
        for (uint32_t i = 0; i < NODES; i++)
            set->has[i] = compares(operation, values[i], literal);
        return;
    }
    put_word(writer, "in");
    const uint64_t count = 1 + draw(writer, draw(writer, 8) ? 6 : 40);
    memset(set, 0, sizeof(*set));
    for (uint64_t i = 0; i < count; i++) {
        const __int128 literal = some_number(writer, column);
        put_space(writer, false);
        put(writer, i ? "," : "(");
        put_number(writer, literal);
        for (uint32_t j = 0; j < NODES; j++)
            set->has[j] = set->has[j] || values[j] == literal;
    }
    put(writer, ")");
}

static void write_label_term(struct writer *writer, struct set *set)
{
    static const char *const words[] = {"=", "!=", "in", "any", "all"};
    const uint32_t which = (uint32_t)draw(writer, FIXTURE_LABELS);
    const uint32_t pool = small.pool_count[which];
    const uint32_t operation = (uint32_t)draw(writer, ARRAY_LENGTH(words));
    const uint64_t count = operation < 2 ? 1 : 1 + draw(writer, draw(writer, 8) ? 3 : 30);
    bool unknown = false;
    uint64_t wanted = 0;
    put(writer, small.attributes.columns[FIXTURE_NUMBERS + which].name);
    put_space(writer, true);
    if (operation < 2)
        put(writer, words[operation]);
    else
        put_word(writer, words[operation]);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t label = draw(writer, pool + 1 + pool / 8);
        put_space(writer, false);
        if (operation >= 2)
            put(writer, i ? "," : "(");
        put_label(writer, label < pool ? small.pool[which][label] : draw(writer, 2) ? "t0" : "a07");
        unknown = unknown || label >= pool;
        wanted |= label < pool ? UINT64_C(1) << label : 0;
    }
    if (operation >= 2)
        put(writer, ")");
    for (uint32_t i = 0; i < NODES; i++) {
        const uint64_t held = small.label_sets[which][i];
        const bool any = (held & wanted) != 0;
        set->has[i] = operation == 4   ? !unknown && (held & wanted) == wanted
                      : operation == 1 ? !any
                                       : any;
    }
}

static void write_either(struct writer *writer, uint32_t depth, struct set *set);

static void write_one(struct writer *writer, uint32_t depth, struct set *set)
{
    if (draw(writer, 6) == 0) {
        put_word(writer, "not");
        put_space(writer, true);
        write_one(writer, depth, set);
        for (uint32_t i = 0; i < NODES; i++)
            set->has[i] = !set->has[i];
    } else if (depth > 0 && draw(writer, 3) == 0) {
        put(writer, "(");
        put_space(writer, false);
        write_either(writer, depth - 1, set);
        put(writer, ")");
    } else {
        writer->terms++;
        if (draw(writer, 2))
            write_number_term(writer, set);
        else
            write_label_term(writer, set);
    }
}

static void write_both(struct writer *writer, uint32_t depth, struct set *set)
{
    write_one(writer, depth, set);
    while (draw(writer, 3) == 0) {
        struct set other;
        put_space(writer, true);
        put_word(writer, "and");
        put_space(writer, true);
        write_one(writer, depth, &other);
        for (uint32_t i = 0; i < NODES; i++)
            set->has[i] = set->has[i] && other.has[i];
    }
}

static void write_either(struct writer *writer, uint32_t depth, struct set *set)
{
    write_both(writer, depth, set);
    while (draw(writer, 3) == 0) {
        struct set other;
        put_space(writer, true);
        put_word(writer, "or");
        put_space(writer, true);
        write_both(writer, depth, &other);
        for (uint32_t i = 0; i < NODES; i++)
            set->has[i] = set->has[i] || other.has[i];
    }
}

/* ---- checks of one filter ---- */

static void check_match(const struct filter *filter, const struct set *set)
{
    for (uint32_t i = 0; i < NODES; i++)
        if (attributes_node_exists(&small.attributes, i) && filter_match(filter, i) != set->has[i])
            fail_msg("%s: node %u: want %d", filter_text(filter), i, set->has[i]);
}

/* Scans in steps of `look` and `max`; returns the matches. */
static uint32_t scan_all(const struct filter *filter, uint64_t look, uint32_t max, uint32_t *found)
{
    struct filter_scan scan;
    uint32_t count = 0;
    bool done = false;
    filter_scan_begin(filter, &scan);
    while (!done) {
        uint32_t nodes[NODES];
        const uint64_t before = scan.position;
        const uint32_t got = filter_scan_next(&scan, look, nodes, max, &done);
        assert_true(got <= max && scan.position - before <= look);
        assert_true(done || got == max || scan.position - before == look);
        assert_true(count + got <= NODES);
        memcpy(found + count, nodes, got * sizeof(*nodes));
        count += got;
    }
    assert_true(scan.position == filter_scan_length(filter));
    return count;
}

static uint32_t set_count(const struct set *set)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < NODES; i++)
        count += set->has[i] && attributes_node_exists(&small.attributes, i);
    return count;
}

static void check_distinct(const struct filter *filter, const struct set *set,
                           const uint32_t *nodes, uint32_t count)
{
    struct set seen = {{false}};
    for (uint32_t i = 0; i < count; i++) {
        assert_true(nodes[i] < NODES);
        if (!attributes_node_exists(&small.attributes, nodes[i]) || !set->has[nodes[i]] ||
            seen.has[nodes[i]])
            fail_msg("%s: node %u came, which does not match or came before", filter_text(filter),
                     nodes[i]);
        seen.has[nodes[i]] = true;
    }
}

static void check_scan(const struct filter *filter, const struct set *set, uint64_t seed)
{
    uint32_t found[NODES], again[NODES];
    const uint32_t wanted = set_count(set);
    const uint32_t count = scan_all(filter, UINT64_MAX, NODES, found);
    check_distinct(filter, set, found, count);
    if (count != wanted)
        fail_msg("%s: the scan has %u nodes, want %u", filter_text(filter), count, wanted);
    const uint64_t look = 1 + random_below(seed, 0, 5);
    const uint32_t max = 1 + (uint32_t)random_below(seed, 1, 3);
    assert_int_equal(scan_all(filter, look, max, again), count);
    assert_memory_equal(found, again, count * sizeof(*found));
    assert_true(filter_scan_length(filter) <= NODES);
    if (filter_match_estimate(filter) != wanted)
        fail_msg("%s: estimate %" PRIu64 ", want %u", filter_text(filter),
                 filter_match_estimate(filter), wanted);
}

static void check_spread(const struct filter *filter, const struct set *set, uint64_t seed)
{
    uint32_t nodes[NODES];
    const uint32_t max = 1 + (uint32_t)random_below(seed, 2, random_below(seed, 3, 2) ? 8 : NODES);
    const uint32_t count = filter_spread(filter, nodes, max);
    assert_true(count <= max);
    check_distinct(filter, set, nodes, count);
    if (filter_scan_length(filter) <= 16 * (uint64_t)max && count != MIN(max, set_count(set)))
        fail_msg("%s: spread over %u, want %u", filter_text(filter), count,
                 MIN(max, set_count(set)));
}

static void random_expressions_agree_with_the_values(void **state)
{
    (void)state;
    uint32_t checked = 0;
    uint32_t some = 0;
    for (uint32_t i = 0; i < EXPRESSIONS; i++) {
        struct writer writer = {.seed = SEED + i};
        struct set set;
        write_either(&writer, 4, &set);
        if (writer.full || writer.terms > FILTER_TERMS_MAX)
            continue;
        struct filter *filter = filter_fixture_compile(writer.text, &small.attributes);
        check_match(filter, &set);
        check_scan(filter, &set, SEED + i);
        check_spread(filter, &set, SEED + i);
        filter_free(filter);
        checked++;
        some += set_count(&set) > 0 && set_count(&set) < small.attributes.vector_count;
    }
    assert_true(checked > EXPRESSIONS * 9 / 10);
    assert_true(some > EXPRESSIONS / 2);
}

/* ---- lists of labels from single ones ---- */

enum labels_claim { HAS_ANY, HAS_ALL, LACKS_ONE, LACKS_ALL };

static bool claim_holds(enum labels_claim claim, uint64_t held, uint64_t wanted)
{
    switch (claim) {
    case HAS_ANY:
        return (held & wanted) != 0;
    case HAS_ALL:
        return (held & wanted) == wanted;
    case LACKS_ONE:
        return (held & wanted) != wanted;
    default:
        return (held & wanted) == 0;
    }
}

static uint32_t leaves_of(const char *text, const struct attributes *attributes)
{
    struct filter *filter = filter_fixture_compile(text, attributes);
    const uint32_t leaves = filter->leaf_count;
    filter_free(filter);
    return leaves;
}

static void tests_of_a_column_of_labels_become_one(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum labels_claim claim;
        uint64_t wanted; /* of tags */
    } cases[] = {
        {"tags = \"t01\" or tags any (\"t02\", \"t09\") or tags = \"t40\"", HAS_ANY,
         1ull << 1 | 1ull << 2 | 1ull << 9 | 1ull << 40},
        {"tags = \"t01\" or (tags = \"t05\" or (tags = \"t03\" and year >= 0))", HAS_ANY,
         1 << 1 | 1 << 5 | 1 << 3},
        {"not (tags != \"t01\" and not tags any (\"t05\", \"t03\"))", HAS_ANY,
         1 << 1 | 1 << 5 | 1 << 3},
        {"tags = \"t01\" and tags all (\"t00\", \"t02\") and tags = \"t02\"", HAS_ALL, 7},
        {"tags any (\"t01\", \"t0\") and tags any (\"t00\", \"t0\")", HAS_ALL, 3},
        {"tags != \"t01\" or not tags all (\"t00\", \"t02\") or tags != \"t00\"", LACKS_ONE, 7},
        {"not (tags = \"t01\" and tags = \"t00\")", LACKS_ONE, 3},
        {"tags != \"t01\" and not tags any (\"t02\", \"t03\") and tags != \"t04\"", LACKS_ALL, 30},
        {"not (tags = \"t01\" or tags = \"t04\")", LACKS_ALL, 18},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct set set;
        struct filter *filter = filter_fixture_compile(cases[i].text, &small.attributes);
        for (uint32_t node = 0; node < NODES; node++)
            set.has[node] = claim_holds(cases[i].claim, small.label_sets[0][node], cases[i].wanted);
        assert_true(set_count(&set) > 0);
        if (filter->leaf_count != 1)
            fail_msg("%s: %u tests", cases[i].text, filter->leaf_count);
        check_match(filter, &set);
        check_scan(filter, &set, SEED + i);
        check_spread(filter, &set, SEED + i);
        filter_free(filter);
    }
    const struct attributes *attributes = &small.attributes;
    assert_int_equal(leaves_of("tags = \"t01\" or lang = \"de\" or tags = \"t02\" or lang = \"en\" "
                               "or year = 2000 or tags != \"t03\" or year = 2002",
                               attributes),
                     4);
    /* What no list says. */
    assert_int_equal(
        leaves_of("tags any (\"t01\", \"t02\") and tags any (\"t03\", \"t04\")", attributes), 2);
    assert_int_equal(
        leaves_of("tags all (\"t01\", \"t02\") or tags all (\"t03\", \"t04\")", attributes), 2);
}

/* Lists are copied as they become one, level by level. */
static void deeply_nested_labels_are_all_there(void **state)
{
    (void)state;
    struct writer writer = {.seed = SEED};
    struct set set;
    for (uint32_t i = 0; i < FILTER_DEPTH_MAX; i++) {
        char text[64];
        snprintf(text, sizeof(text), "tags = \"t%02u\" or (", i);
        put(&writer, text);
    }
    put(&writer, "tags any (\"t32\"");
    for (uint32_t i = 0; i < 400; i++)
        put(&writer, i % 2 ? ",\"t33\"" : ",\"t34\"");
    put(&writer, ")");
    for (uint32_t i = 0; i < FILTER_DEPTH_MAX; i++)
        put(&writer, ")");
    assert_false(writer.full);
    for (uint32_t i = 0; i < NODES; i++)
        set.has[i] = (small.label_sets[0][i] & ((1ull << 35) - 1)) != 0;
    struct filter *filter = filter_fixture_compile(writer.text, &small.attributes);
    assert_int_equal(filter->leaf_count, 1);
    check_match(filter, &set);
    check_scan(filter, &set, SEED);
    filter_free(filter);
}

/* ---- single ones ---- */

static uint32_t equal_to(uint32_t column, __int128 value)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < NODES; i++)
        count += attributes_node_exists(&small.attributes, i) && small.numbers[column][i] == value;
    assert_true(count > 0);
    return count;
}

static void ends_of_numbers_are_compared_as_their_type(void **state)
{
    (void)state;
    const struct attributes *attributes = &small.attributes;
    const uint32_t all = (uint32_t)attributes->vector_count;
    const uint32_t zero = equal_to(1, 0);
    const uint32_t most = equal_to(1, UINT64_MAX);
    const uint32_t lowest = equal_to(2, INT64_MIN);
    const uint32_t highest = equal_to(2, INT64_MAX);
    const struct {
        const char *text;
        uint32_t count;
    } cases[] = {
        {"big = 0", zero},
        {"big = -0", zero},
        {"big = 000", zero},
        {"big < 0", 0},
        {"big <= 0", zero},
        {"big > 0", all - zero},
        {"big >= 0", all},
        {"big = 18446744073709551615", most},
        {"big != 18446744073709551615", all - most},
        {"big > 18446744073709551615", 0},
        {"big >= 18446744073709551615", most},
        {"big < 18446744073709551615", all - most},
        {"big <= 18446744073709551615", all},
        {"not big in (0, 18446744073709551615)", all - zero - most},
        {"big > 0 and big < 18446744073709551615", all - zero - most},
        {"signed = -9223372036854775808", lowest},
        {"signed < -9223372036854775808", 0},
        {"signed > -9223372036854775808", all - lowest},
        {"signed >= 9223372036854775807", highest},
        {"signed > 9223372036854775807", 0},
        {"signed <= 9223372036854775807", all},
        {"signed < 0 or signed >= 0", all},
        {"signed < 0 and signed >= 0", 0},
        {"same = 7", all},
        {"same != 7", 0},
        {"same in (6, 8)", 0},
        {"same = 8 or big = 0", zero},
        {"same = 7 and big = 0", zero},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        if (filter_fixture_matches(cases[i].text, attributes) != cases[i].count)
            fail_msg("%s: %u match, want %u", cases[i].text,
                     filter_fixture_matches(cases[i].text, attributes), cases[i].count);
}

static void what_cannot_match_has_no_scan(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "year > 3000",
        "none = \"x\"",
        "tags = \"t0\"",
        "tags = \"a39\"",
        "tags all (\"a00\", \"t01\")",
        "tags any (\"t0\", \"T01\", \"t011\", \"\")",
        "tags all (\"t01\", \"no one's\")",
        "year < 2000 and year > 2010",
        "lang = \"en\" and (year = 1 or none any (\"x\"))",
        "not (big >= 0 or lang = \"en\")",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        struct filter *filter = filter_fixture_compile(texts[i], &small.attributes);
        uint32_t nodes[4];
        bool done = false;
        struct filter_scan scan;
        filter_scan_begin(filter, &scan);
        assert_true(filter_scan_length(filter) == 0);
        assert_true(filter_match_estimate(filter) == 0);
        assert_int_equal(filter_scan_next(&scan, 10, nodes, 4, &done), 0);
        assert_true(done);
        assert_int_equal(filter_spread(filter, nodes, 4), 0);
        filter_free(filter);
    }
}

/* The other way round: all of them, and no label is needed for it. */
static void what_always_matches_is_all_nodes(void **state)
{
    (void)state;
    static const char *const texts[] = {"year >= 0", "none != \"x\"",
                                        "not tags all (\"t01\", \"t0\")",
                                        "tags = \"t01\" or not (year < 5 and tags = \"t02\")"};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        struct filter *filter = filter_fixture_compile(texts[i], &small.attributes);
        assert_true(filter_scan_length(filter) == NODES);
        assert_true(filter_match_estimate(filter) == small.attributes.vector_count);
        assert_int_equal(filter_fixture_matches(texts[i], &small.attributes),
                         small.attributes.vector_count);
        filter_free(filter);
    }
}

static uint64_t scan_length_of(const char *text)
{
    struct filter *filter = filter_fixture_compile(text, &large.attributes);
    const uint64_t length = filter_scan_length(filter);
    filter_free(filter);
    return length;
}

static void scans_look_at_the_narrowest_runs(void **state)
{
    (void)state;
    const struct attributes *attributes = &large.attributes;
    const uint64_t year = filter_fixture_matches("year = 2000", attributes);
    const uint64_t years = filter_fixture_matches("year >= 2000 and year < 2005", attributes);
    const uint64_t german = filter_fixture_matches("lang = \"de\"", attributes);
    const uint64_t english = filter_fixture_matches("lang = \"en\"", attributes);
    const uint64_t rare = filter_fixture_matches("tags = \"t60\"", attributes);
    assert_true(rare > 0 && rare < german && year < german);
    assert_true(scan_length_of("year = 2000") == year);
    assert_true(scan_length_of("year < 2005 and lang = \"de\" and year >= 2000") ==
                MIN(years, german));
    assert_true(scan_length_of("lang in (\"de\", \"en\", \"xx\")") == german + english);
    assert_true(scan_length_of("tags all (\"t01\", \"t60\", \"t00\")") == rare);
    assert_true(scan_length_of("lang = \"de\" and year = 2000 and not tags = \"t01\"") == year);
    assert_true(scan_length_of("tags = \"t60\" or (year = 2000 and lang = \"de\")") == rare + year);
    assert_true(scan_length_of("lang != \"de\"") == MANY_NODES);
    assert_true(scan_length_of("lang != \"de\" or year = 2000") == MANY_NODES);
    assert_true(scan_length_of("tags any (\"t00\", \"t01\", \"t02\", \"t03\", \"t04\", \"t05\", "
                               "\"t06\", \"t07\", \"t08\", \"t09\", \"t10\", \"t11\", \"t12\")") ==
                MANY_NODES);
    assert_true(scan_length_of("tags any (\"t00\", \"t01\") or lang in (\"de\", \"en\") or "
                               "year < 2027 or lang = \"fr\"") == MANY_NODES);
}

static void estimates_of_one_term_are_exact_and_others_near(void **state)
{
    (void)state;
    static const char *const exact[] = {
        "year >= 1995",
        "not year >= 2003",
        "year in (1990, 1991, 1993, 1999, 2001, 2005, 2011, 2013, 2020, 2021, 2024)",
        "price < 1000000",
        "lang != \"de\"",
        "not tags all (\"t01\")",
        "year >= 1995 and year != 2000"};
    static const char *const sampled[] = {
        "year < 2010 and lang != \"de\"", "tags any (\"t00\", \"t01\", \"t02\", \"t03\", \"t04\")",
        "lang != \"de\" or tags = \"t01\"", "price < 2000000 and lang in (\"de\", \"en\", \"fr\")",
        "not (lang = \"de\" and year < 2000)"};
    for (size_t i = 0; i < ARRAY_LENGTH(exact); i++) {
        struct filter *filter = filter_fixture_compile(exact[i], &large.attributes);
        assert_true(filter_match_estimate(filter) > FILTER_COUNTED_MAX);
        assert_true(filter_match_estimate(filter) ==
                    filter_fixture_matches(exact[i], &large.attributes));
        filter_free(filter);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(sampled); i++) {
        struct filter *filter = filter_fixture_compile(sampled[i], &large.attributes);
        const double estimate = (double)filter_match_estimate(filter);
        const double truth = filter_fixture_matches(sampled[i], &large.attributes);
        assert_true(filter_scan_length(filter) > FILTER_COUNTED_MAX);
        if (estimate < 0.85 * truth || estimate > 1.15 * truth)
            fail_msg("%s: estimate %g of %g", sampled[i], estimate, truth);
        filter_free(filter);
    }
}

/* Of the many terms that cannot become few, few nodes are looked at. */
static void estimates_do_a_bounded_number_of_tests(void **state)
{
    (void)state;
    struct writer writer = {.seed = SEED};
    const struct attributes *const sets[] = {&small.attributes, &large.attributes};
    for (uint32_t i = 0; i < FILTER_TERMS_MAX / 2; i++) {
        char term[64];
        snprintf(term, sizeof(term), "%s(year=%u and tags=\"t%02u\")", i ? "or" : "", 1990 + i % 40,
                 i % 8);
        put(&writer, term);
    }
    assert_false(writer.full);
    for (size_t i = 0; i < ARRAY_LENGTH(sets); i++) {
        struct filter *filter = filter_fixture_compile(writer.text, sets[i]);
        const uint64_t length = filter_scan_length(filter);
        const uint64_t looks = filter_scan_looks(filter);
        const uint64_t estimate = filter_match_estimate(filter);
        assert_true(filter->leaf_count > 200);
        assert_true(looks >= 100 && looks < length);
        assert_true(looks * filter->leaf_count <= FILTER_TESTS_MAX);
        /* Of so many looks: what they found, in proportion. */
        const uint64_t found = (estimate * looks + length - 1) / length;
        assert_true(estimate == found * length / looks);
        const double truth = filter_fixture_matches(writer.text, sets[i]);
        assert_true((double)estimate > 0.7 * truth && (double)estimate < 1.3 * truth);
        filter_free(filter);
    }
}

/* A match may be there where the sample saw none. */
static void estimates_are_nothing_only_where_nothing_matches(void **state)
{
    (void)state;
    struct filter *filter = filter_fixture_compile(
        "lang != \"de\" and not tags = \"t00\" and tags all (\"t00\", \"t01\")", &large.attributes);
    assert_true(filter_match_estimate(filter) == 0); /* counted */
    filter_free(filter);
    filter = filter_fixture_compile(
        "(year < 2020 or lang = \"de\") and lang != \"de\" and not year < 2020", &large.attributes);
    assert_true(filter_scan_length(filter) > FILTER_COUNTED_MAX);
    assert_int_equal(filter_fixture_matches(filter_text(filter), &large.attributes), 0);
    assert_true(filter_match_estimate(filter) == 1);
    filter_free(filter);
}

static void spread_leaves_no_wide_gaps(void **state)
{
    (void)state;
    static const char *const texts[] = {"year >= 0", "lang != \"de\"", "not year in (1990, 2000)"};
    enum { MAX_NODES = 100 };
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        struct filter *filter = filter_fixture_compile(texts[i], &large.attributes);
        uint32_t nodes[MAX_NODES];
        uint32_t order[MANY_NODES];
        bool done = false;
        struct filter_scan scan;
        filter_scan_begin(filter, &scan);
        const uint32_t all = filter_scan_next(&scan, UINT64_MAX, order, MANY_NODES, &done);
        assert_true(done);
        assert_int_equal(filter_spread(filter, nodes, MAX_NODES), MAX_NODES);
        uint32_t gap = 0;
        for (uint32_t j = 0; j < all; j++) {
            bool taken = false;
            for (uint32_t k = 0; k < MAX_NODES; k++)
                taken = taken || nodes[k] == order[j];
            gap = taken ? 0 : gap + 1;
            assert_true(gap < 4 * all / MAX_NODES);
        }
        filter_free(filter);
    }
}

/* One in some thousands cannot be found by 16 looks, and all may be looked at by none. */
static void spread_gives_up_in_time(void **state)
{
    (void)state;
    struct filter *filter = filter_fixture_compile(
        "not (lang != \"de\" or year != 2000 or price > 200000)", &large.attributes);
    uint32_t nodes[MANY_NODES];
    const uint32_t all = filter_fixture_matches(filter_text(filter), &large.attributes);
    assert_true(all > 0 && all < filter_scan_length(filter) / 16);
    assert_true(filter_spread(filter, nodes, 1) <= 1);
    assert_true(filter_spread(filter, nodes, all) < all);
    assert_int_equal(filter_spread(filter, nodes, MANY_NODES), all);
    assert_int_equal(filter_spread(filter, nodes, 0), 0);
    filter_free(filter);
}

/* ---- all ---- */

static int setup(void **state)
{
    (void)state;
    filter_fixture_init(&small, NODES, SEED);
    filter_fixture_init(&large, MANY_NODES, SEED);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    filter_fixture_fini(&small);
    filter_fixture_fini(&large);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_expressions_agree_with_the_values),
        cmocka_unit_test(tests_of_a_column_of_labels_become_one),
        cmocka_unit_test(deeply_nested_labels_are_all_there),
        cmocka_unit_test(ends_of_numbers_are_compared_as_their_type),
        cmocka_unit_test(what_cannot_match_has_no_scan),
        cmocka_unit_test(what_always_matches_is_all_nodes),
        cmocka_unit_test(scans_look_at_the_narrowest_runs),
        cmocka_unit_test(estimates_of_one_term_are_exact_and_others_near),
        cmocka_unit_test(estimates_do_a_bounded_number_of_tests),
        cmocka_unit_test(estimates_are_nothing_only_where_nothing_matches),
        cmocka_unit_test(spread_leaves_no_wide_gaps),
        cmocka_unit_test(spread_gives_up_in_time),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
