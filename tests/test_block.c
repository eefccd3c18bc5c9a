/*
 * test_block.c - blocks: what the encoder writes is what the reader sees, and nothing else passes.
 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cpu.h"
#include "common/random.h"
#include "layout/block.h"
#include "layout/block_hash.h"
#include "tests/golden_file.h"

enum { SEED = 20240611, LIST_MAX = 16 };

/* A block being made: records with random vectors and lists that fit. */
struct sample {
    struct block_geometry geometry;
    uint64_t number;
    uint32_t count;
    struct block_record *records;
    uint32_t *ids;    /* count * BLOCK_DEGREE_MAX */
    uint8_t *vectors; /* count * vector_bytes */
    uint8_t *block;   /* block_bytes, exactly, so that ASan sees a read past it */
};

static int ids_compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Up to `wanted` ascending ids outside the block: near ones, far ones and the two extremes. */
static uint32_t random_list(const struct sample *sample, uint64_t seed, uint32_t wanted,
                            uint32_t *ids)
{
    const uint32_t limit = sample->geometry.node_limit;
    const uint32_t first = (uint32_t)sample->number * sample->geometry.nodes_per_block;
    for (uint32_t i = 0; i < wanted; i++) {
        uint64_t span = random_below(seed, 3 * i, 3) == 0 ? limit : MIN(limit, first + 500);
        ids[i] = (uint32_t)random_below(seed, 3 * i + 1, span);
    }
    if (wanted > 2) {
        ids[0] = 0;
        ids[1] = limit - 1;
    }
    qsort(ids, wanted, sizeof(*ids), ids_compare);
    uint32_t degree = 0;
    for (uint32_t i = 0; i < wanted; i++)
        if (ids[i] - first >= sample->geometry.nodes_per_block &&
            (degree == 0 || ids[degree - 1] != ids[i]))
            ids[degree++] = ids[i];
    return degree;
}

static struct block_geometry geometry_make(uint8_t adjacency, uint32_t vector_bytes,
                                           uint32_t nodes_per_block, uint32_t block_count)
{
    struct block_geometry geometry = {
        .block_bytes = BLOCK_PAGE_BYTES,
        .nodes_per_block = nodes_per_block,
        .vector_bytes = vector_bytes,
        .node_limit = nodes_per_block * block_count,
        .adjacency = adjacency,
        .generation_seed = 0x0123456789abcdef,
    };
    while (block_list_budget(&geometry, nodes_per_block) < 0)
        geometry.block_bytes += BLOCK_PAGE_BYTES;
    if (adjacency == BLOCK_ADJACENCY_GAPS) {
        uint64_t histogram[33] = {0};
        for (int i = 0; i <= 32; i++)
            histogram[i] = i < 12 ? 100 : 10;
        block_gap_widths_choose(histogram, geometry.node_limit, geometry.gap_width);
    }
    return geometry;
}

static void sample_create(struct sample *sample, struct block_geometry geometry, uint64_t number,
                          uint64_t seed)
{
    *sample = (struct sample){.geometry = geometry, .number = number};
    const uint32_t count = geometry.nodes_per_block -
                           (uint32_t)random_below(seed, 0, 2) * (geometry.nodes_per_block > 1);
    sample->count = count;
    sample->records = calloc(count, sizeof(*sample->records));
    sample->ids = calloc((size_t)count * BLOCK_DEGREE_MAX, sizeof(*sample->ids));
    sample->vectors = malloc((size_t)count * geometry.vector_bytes);
    sample->block = aligned_alloc(BLOCK_PAGE_BYTES, geometry.block_bytes);
    assert_true(sample->records && sample->ids && sample->vectors && sample->block);

    int64_t budget = block_list_budget(&geometry, count);
    for (uint32_t i = 0; i < count; i++) {
        struct block_record *record = &sample->records[i];
        uint32_t *ids = sample->ids + (size_t)i * BLOCK_DEGREE_MAX;
        uint8_t *vector = sample->vectors + (size_t)i * geometry.vector_bytes;
        for (uint32_t d = 0; d < geometry.vector_bytes; d++)
            vector[d] = (uint8_t)random_at(seed + i, d);
        record->key = random_at(seed, 1000 + i);
        record->vector = vector;
        record->ids = ids;
        uint32_t wanted = (uint32_t)random_below(seed, 2000 + i, BLOCK_DEGREE_MAX + 1);
        record->degree = random_list(sample, seed + i, wanted, ids);
        /* Every later list still needs a byte for its degree. */
        const int64_t room = budget - (int64_t)(count - 1 - i);
        while (record->degree > 0 &&
               (int64_t)block_list_bytes(&geometry, ids, record->degree) > room)
            record->degree--;
        budget -= (int64_t)block_list_bytes(&geometry, ids, record->degree);
    }
    assert_true(budget >= 0);
    block_encode(&geometry, number, sample->records, count, sample->block);
}

static void sample_destroy(struct sample *sample)
{
    free(sample->records);
    free(sample->ids);
    free(sample->vectors);
    free(sample->block);
}

static void reseal(struct sample *sample)
{
    uint64_t checksum = block_checksum(&sample->geometry, sample->number, sample->block);
    memcpy(sample->block, &checksum, sizeof(checksum));
}

/* The sample most tests damage. */
static void sample_default(struct sample *sample, uint8_t adjacency)
{
    sample_create(sample, geometry_make(adjacency, 24, 12, 1000), 77, SEED);
}

static uint16_t get_u16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static void put_u16(uint8_t *at, uint32_t value)
{
    uint16_t narrow = (uint16_t)value;
    memcpy(at, &narrow, sizeof(narrow));
}

static void sample_expect(const struct sample *sample)
{
    struct block_view view;
    assert_int_equal(block_open(&sample->geometry, sample->number, sample->block, &view), BLOCK_OK);
    assert_int_equal(view.record_count, sample->count);
    assert_int_equal(view.first_node, sample->number * sample->geometry.nodes_per_block);
    for (uint32_t slot = 0; slot < sample->count; slot++) {
        const struct block_record *record = &sample->records[slot];
        uint32_t ids[BLOCK_DEGREE_MAX + 1];
        enum block_fault fault = BLOCK_OK;
        assert_true(block_key(&view, slot) == record->key);
        assert_memory_equal(block_vector(&view, slot), record->vector,
                            sample->geometry.vector_bytes);
        assert_int_equal(block_neighbors(&view, slot, ids, &fault), record->degree);
        assert_int_equal(fault, BLOCK_OK);
        if (record->degree > 0)
            assert_memory_equal(ids, record->ids, record->degree * sizeof(*ids));
        uint32_t start = get_u16(view.offsets + 2 * (size_t)slot);
        uint32_t end = get_u16(view.offsets + 2 * (size_t)slot + 2);
        assert_int_equal(end - start,
                         block_list_bytes(&sample->geometry, record->ids, record->degree));
    }
    assert_int_equal(block_check(&sample->geometry, sample->number, sample->block), BLOCK_OK);
}

/* The lists apart from their block say what they say in it. Their memory is of the exact size, so
 * that ASan sees a read past it. */
static void lists_expect(const struct sample *sample)
{
    struct block_view view, apart;
    assert_int_equal(block_open(&sample->geometry, sample->number, sample->block, &view), BLOCK_OK);
    const size_t bytes = block_lists_bytes(&view);
    size_t least = (sample->count + (size_t)1) * sizeof(uint16_t);
    for (uint32_t slot = 0; slot < sample->count; slot++)
        least += block_list_bytes(&sample->geometry, sample->records[slot].ids,
                                  sample->records[slot].degree);
    assert_in_range(bytes, least, least + BLOCK_LISTS_EXTRA_BYTES);
    uint8_t *lists = malloc(bytes);
    assert_non_null(lists);
    block_lists_put(&view, lists);
    memset(sample->block, 0x5a, sample->geometry.block_bytes); /* they stand alone */
    block_lists_view(&sample->geometry, sample->number, lists, &apart);
    assert_int_equal(apart.record_count, sample->count);
    assert_int_equal(apart.first_node, sample->number * sample->geometry.nodes_per_block);
    assert_null(apart.vectors);
    assert_null(apart.keys);
    for (uint32_t slot = 0; slot < sample->count; slot++) {
        const struct block_record *record = &sample->records[slot];
        uint32_t ids[BLOCK_DEGREE_MAX + 1];
        enum block_fault fault = BLOCK_OK;
        assert_int_equal(block_neighbors(&apart, slot, ids, &fault), record->degree);
        assert_int_equal(fault, BLOCK_OK);
        if (record->degree > 0)
            assert_memory_equal(ids, record->ids, record->degree * sizeof(*ids));
    }
    free(lists);
}

/* ---- round trips ---- */

static void block_round_trips_every_shape(void **state)
{
    (void)state;
    static const uint32_t vector_bytes[] = {1, 3, 8, 96, 128, 512, 1536, 4000, 8192, 32768};
    static const uint32_t nodes_per_block[] = {1, 2, 7, 16, 100, 255};
    static const uint32_t block_counts[] = {1, 2, 1000, 1000000};
    uint64_t seed = SEED;
    for (uint8_t adjacency = 0; adjacency <= 1; adjacency++)
        for (size_t v = 0; v < ARRAY_LENGTH(vector_bytes); v++)
            for (size_t n = 0; n < ARRAY_LENGTH(nodes_per_block); n++) {
                if (vector_bytes[v] * nodes_per_block[n] > 50000)
                    continue;
                for (size_t b = 0; b < ARRAY_LENGTH(block_counts); b++) {
                    struct block_geometry geometry = geometry_make(
                        adjacency, vector_bytes[v], nodes_per_block[n], block_counts[b]);
                    /* Room for a byte a list at least. */
                    if (block_list_budget(&geometry, nodes_per_block[n]) < nodes_per_block[n])
                        geometry.block_bytes += BLOCK_PAGE_BYTES;
                    struct sample sample;
                    sample_create(&sample, geometry, block_counts[b] - 1, seed++);
                    sample_expect(&sample);
                    lists_expect(&sample); /* last: it spoils the block */
                    sample_destroy(&sample);
                }
            }
}

static void lists_apart_may_all_be_empty(void **state)
{
    (void)state;
    for (uint8_t adjacency = 0; adjacency <= 1; adjacency++)
        for (uint32_t count = 1; count <= 12; count++) {
            struct sample sample;
            sample_default(&sample, adjacency);
            sample.count = MIN(count, sample.count); /* a short block, as the last one is */
            for (uint32_t i = 0; i < sample.count; i++)
                sample.records[i].degree = 0;
            block_encode(&sample.geometry, sample.number, sample.records, sample.count,
                         sample.block);
            sample_expect(&sample);
            lists_expect(&sample);
            sample_destroy(&sample);
        }
}

static void a_list_that_breaks_its_format_does_so_apart_from_its_block(void **state)
{
    (void)state;
    struct sample sample;
    sample_default(&sample, BLOCK_ADJACENCY_GAPS);
    struct block_view view, apart;
    assert_int_equal(block_open(&sample.geometry, sample.number, sample.block, &view), BLOCK_OK);
    sample.block[get_u16(view.offsets)]++; /* the first list's degree: its bits do not suffice */
    uint8_t *lists = malloc(block_lists_bytes(&view));
    assert_non_null(lists);
    block_lists_put(&view, lists);
    block_lists_view(&sample.geometry, sample.number, lists, &apart);
    uint32_t ids[BLOCK_DEGREE_MAX + 1];
    enum block_fault fault = BLOCK_OK;
    assert_int_equal(block_neighbors(&apart, 0, ids, &fault), 0);
    assert_int_equal(fault, BLOCK_FAULT_LIST);
    free(lists);
    sample_destroy(&sample);
}

static void block_holds_the_largest_ids_in_32_bit_gaps(void **state)
{
    (void)state;
    struct block_geometry geometry = geometry_make(BLOCK_ADJACENCY_GAPS, 4, 1, UINT32_MAX);
    memset(geometry.gap_width, 32, sizeof(geometry.gap_width));
    uint32_t ids[BLOCK_DEGREE_MAX];
    for (uint32_t i = 0; i < BLOCK_DEGREE_MAX; i++)
        ids[i] = UINT32_MAX - BLOCK_DEGREE_MAX + i; /* ends at node_limit - 1 */
    const uint32_t vector = 7;
    struct block_record record = {1, &vector, ids, BLOCK_DEGREE_MAX};
    uint8_t *block = malloc(geometry.block_bytes);
    block_encode(&geometry, 5, &record, 1, block);
    struct block_view view;
    enum block_fault fault = BLOCK_OK;
    uint32_t decoded[BLOCK_DEGREE_MAX + 1];
    assert_int_equal(block_open(&geometry, 5, block, &view), BLOCK_OK);
    assert_int_equal(block_neighbors(&view, 0, decoded, &fault), BLOCK_DEGREE_MAX);
    assert_memory_equal(decoded, ids, sizeof(ids));
    free(block);
}

static void block_hash_is_the_same_at_every_feature_level(void **state)
{
    (void)state;
    uint8_t data[9000];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)random_at(SEED, i);
    if (!(cpu_features() & CPU_AVX2)) {
        print_message("no AVX2 on this CPU: only the baseline is there to test\n");
        skip();
    }
    static const size_t lengths[] = {0,   1,   16,  17,   128,  129,  240,  241,
                                     255, 256, 511, 1024, 1025, 4088, 8184, 8999};
    for (size_t i = 0; i < ARRAY_LENGTH(lengths); i++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            uint64_t s = random_at(seed, i) * seed;
            assert_true(block_hash_baseline(data + 1, lengths[i], s) ==
                        block_hash_avx2(data + 1, lengths[i], s));
        }
    assert_ptr_equal(block_hash_get(0), block_hash_baseline);
    assert_ptr_equal(block_hash_get(CPU_AVX2), block_hash_avx2);
}

/* ---- golden ---- */

static void golden_check(uint8_t adjacency, const char *name)
{
    struct sample sample;
    sample_default(&sample, adjacency);
    golden_file_compare(name, sample.block, sample.geometry.block_bytes);
    sample_destroy(&sample);
}

static void block_plain_matches_its_golden_file(void **state)
{
    (void)state;
    golden_check(BLOCK_ADJACENCY_PLAIN, "block_plain.blk");
}

static void block_gaps_match_their_golden_file(void **state)
{
    (void)state;
    golden_check(BLOCK_ADJACENCY_GAPS, "block_gaps.blk");
}

/* ---- checksum ---- */

static void block_rejects_every_flipped_bit(void **state)
{
    (void)state;
    struct sample sample;
    sample_default(&sample, BLOCK_ADJACENCY_GAPS);
    struct block_view view;
    for (size_t bit = 0; bit < (size_t)sample.geometry.block_bytes * 8; bit++) {
        sample.block[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(block_open(&sample.geometry, sample.number, sample.block, &view),
                         BLOCK_FAULT_CHECKSUM);
        sample.block[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    sample_expect(&sample);
    sample_destroy(&sample);
}

static void block_rejects_stale_generation(void **state)
{
    (void)state;
    struct sample sample;
    sample_default(&sample, BLOCK_ADJACENCY_PLAIN);
    struct block_view view;
    struct block_geometry other = sample.geometry;
    other.generation_seed++;
    assert_int_equal(block_open(&other, sample.number, sample.block, &view), BLOCK_FAULT_CHECKSUM);
    sample_destroy(&sample);
}

static void block_rejects_misplaced_block(void **state)
{
    (void)state;
    struct sample sample;
    sample_default(&sample, BLOCK_ADJACENCY_PLAIN);
    struct block_view view;
    for (uint64_t number = 0; number < 1000; number++)
        if (number != sample.number)
            assert_int_equal(block_open(&sample.geometry, number, sample.block, &view),
                             BLOCK_FAULT_CHECKSUM);
    sample_destroy(&sample);
}

static void block_rejects_a_torn_or_empty_block(void **state)
{
    (void)state;
    struct sample sample;
    sample_default(&sample, BLOCK_ADJACENCY_GAPS);
    struct block_view view;
    memset(sample.block + 512, 0, sample.geometry.block_bytes - 512);
    assert_int_equal(block_open(&sample.geometry, sample.number, sample.block, &view),
                     BLOCK_FAULT_CHECKSUM);
    memset(sample.block, 0, sample.geometry.block_bytes);
    assert_int_equal(block_open(&sample.geometry, sample.number, sample.block, &view),
                     BLOCK_FAULT_CHECKSUM);
    sample_destroy(&sample);
}

/* ---- structure, under a good checksum ---- */

static enum block_fault fault_after(struct sample *sample, size_t offset, uint8_t value)
{
    const uint8_t before = sample->block[offset];
    sample->block[offset] = value;
    reseal(sample);
    enum block_fault fault = block_check(&sample->geometry, sample->number, sample->block);
    sample->block[offset] = before;
    reseal(sample);
    return fault;
}

static void block_rejects_bad_headers(void **state)
{
    (void)state;
    struct sample sample;
    sample_default(&sample, BLOCK_ADJACENCY_GAPS);
    assert_int_equal(fault_after(&sample, 8, 0), BLOCK_FAULT_HEADER);  /* no records */
    assert_int_equal(fault_after(&sample, 8, 13), BLOCK_FAULT_HEADER); /* above capacity */
    assert_int_equal(fault_after(&sample, 9, 255), BLOCK_FAULT_HEADER);
    assert_int_equal(fault_after(&sample, 10, BLOCK_ADJACENCY_PLAIN), BLOCK_FAULT_HEADER);
    assert_int_equal(fault_after(&sample, 10, 2), BLOCK_FAULT_HEADER);
    assert_int_equal(fault_after(&sample, 11, 1), BLOCK_FAULT_HEADER);
    for (size_t i = 12; i < 16; i++)
        assert_int_equal(fault_after(&sample, i, 1), BLOCK_FAULT_HEADER);
    sample_destroy(&sample);
}

static void block_rejects_more_records_than_fit(void **state)
{
    (void)state;
    struct sample sample;
    sample_create(&sample, geometry_make(BLOCK_ADJACENCY_PLAIN, 400, 9, 10), 3, SEED);
    sample.geometry.nodes_per_block = 10; /* a lying geometry: 10 * 408 > 4096 - 46 */
    sample.block[8] = 10;
    reseal(&sample);
    struct block_view view;
    assert_int_equal(block_open(&sample.geometry, sample.number, sample.block, &view),
                     BLOCK_FAULT_HEADER);
    sample_destroy(&sample);
}

static void block_rejects_bad_offsets(void **state)
{
    (void)state;
    struct sample sample;
    sample_default(&sample, BLOCK_ADJACENCY_GAPS);
    const size_t table = BLOCK_HEADER_BYTES + (size_t)sample.count * (24 + 8);
    uint8_t saved[64];
    const size_t table_bytes = 2 * ((size_t)sample.count + 1);
    memcpy(saved, sample.block + table, table_bytes);
    const uint32_t first = get_u16(saved), second = get_u16(saved + 2);
    const uint32_t bytes = sample.geometry.block_bytes;
    const struct {
        uint32_t index, value;
    } cases[] = {
        {0, first - 1},
        {0, first + 1},
        {0, 0},
        {0, UINT16_MAX},
        {1, first - 1},
        {2, second - 1},
        {2, 0},
        {5, UINT16_MAX},
        {sample.count, bytes},
        {sample.count, bytes - 7},
        {sample.count, UINT16_MAX},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        put_u16(sample.block + table + 2 * (size_t)cases[i].index, cases[i].value);
        reseal(&sample);
        struct block_view view;
        assert_int_equal(block_open(&sample.geometry, sample.number, sample.block, &view),
                         BLOCK_FAULT_OFFSETS);
        memcpy(sample.block + table, saved, table_bytes);
    }
    sample_destroy(&sample);
}

/* A block of one record whose list bytes are given; what block_check() and block_neighbors() say.
 */
static enum block_fault list_fault(uint8_t adjacency, const uint8_t *list, size_t list_bytes)
{
    struct block_geometry geometry = geometry_make(adjacency, 4, 2, 500);
    const uint8_t widths[BLOCK_GAP_WIDTHS] = {2, 4, 8, 10};
    if (adjacency == BLOCK_ADJACENCY_GAPS)
        memcpy(geometry.gap_width, widths, sizeof(widths));
    const uint32_t vector = 0;
    struct block_record record = {9, &vector, NULL, 0};
    uint8_t *block = malloc(geometry.block_bytes);
    block_encode(&geometry, 10, &record, 1, block); /* nodes 20 and 21 */
    const uint32_t start = BLOCK_HEADER_BYTES + 12 + 4;
    if (list_bytes > 0)
        memcpy(block + start, list, list_bytes);
    put_u16(block + start - 2, start + (uint32_t)list_bytes);
    uint64_t checksum = block_checksum(&geometry, 10, block);
    memcpy(block, &checksum, sizeof(checksum));

    enum block_fault fault = block_check(&geometry, 10, block);
    struct block_view view;
    uint32_t ids[BLOCK_DEGREE_MAX + 1];
    enum block_fault decoded = BLOCK_OK;
    assert_int_equal(block_open(&geometry, 10, block, &view), BLOCK_OK);
    uint32_t degree = block_neighbors(&view, 0, ids, &decoded);
    assert_true(decoded == BLOCK_OK || degree == 0);
    for (uint32_t i = 0; i < degree; i++)
        assert_true(ids[i] < geometry.node_limit);
    free(block);
    return fault;
}

static void block_rejects_bad_plain_lists(void **state)
{
    (void)state;
    const uint32_t good[] = {3, 19, 22, 999};
    const uint32_t beyond[] = {3, 1000}, descending[] = {5, 4}, twice[] = {5, 5};
    const uint32_t own[] = {3, 20}, own_last[] = {21};
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)good, 16), BLOCK_OK);
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, NULL, 0), BLOCK_OK);
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)good, 7), BLOCK_FAULT_LIST);
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)beyond, 8), BLOCK_FAULT_LIST);
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)descending, 8),
                     BLOCK_FAULT_LIST);
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)twice, 8), BLOCK_FAULT_LIST);
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)own, 8), BLOCK_FAULT_LIST);
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)own_last, 4),
                     BLOCK_FAULT_LIST);
    uint32_t many[BLOCK_DEGREE_MAX + 1];
    for (uint32_t i = 0; i < ARRAY_LENGTH(many); i++)
        many[i] = 100 + i;
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)many, 255 * 4), BLOCK_OK);
    assert_int_equal(list_fault(BLOCK_ADJACENCY_PLAIN, (const void *)many, 256 * 4),
                     BLOCK_FAULT_LIST);
}

static void block_rejects_bad_gap_lists(void **state)
{
    (void)state;
    const struct {
        uint8_t bytes[LIST_MAX];
        size_t length;
        enum block_fault fault;
    } cases[] = {
        {{0}, 1, BLOCK_OK},
        {{1, 0, 3}, 3, BLOCK_OK},             /* id 3 in 2 bits */
        {{2, 0x0a, 0x20, 0x30}, 4, BLOCK_OK}, /* 32, then 32 + 48 + 1 in 8 bits each */
        {{1, 2, 3}, 3, BLOCK_FAULT_LIST},     /* 3 in 8 bits, where 2 do */
        {{1, 3, 0xe7, 0x03}, 4, BLOCK_OK},    /* 999 in 10 bits */
        {{0}, 0, BLOCK_FAULT_LIST},           /* not even a degree */
        {{0, 0}, 2, BLOCK_FAULT_LIST},        /* a byte too many */
        {{1}, 1, BLOCK_FAULT_LIST},           /* no selectors */
        {{5, 0}, 2, BLOCK_FAULT_LIST},        /* selectors cut */
        {{1, 0}, 2, BLOCK_FAULT_LIST},        /* no gap */
        {{4, 0xbf, 0x00, 0x01, 0x04, 0x10, 0x32}, 7, BLOCK_OK},   /* a group of four: 38 bits */
        {{4, 0xbf, 0x00, 0x01, 0x04, 0x10}, 6, BLOCK_FAULT_LIST}, /* one byte short of it */
        {{255, 0xff}, 2, BLOCK_FAULT_LIST},                       /* far too long for its bytes */
        {{1, 3, 0xe8, 0x03}, 4, BLOCK_FAULT_LIST},                /* id 1000 = node_limit */
        {{2, 0x0f, 0xff, 0xff, 0x0f}, 5, BLOCK_FAULT_LIST},       /* sums to beyond node_limit */
        {{1, 2, 20}, 3, BLOCK_FAULT_LIST},                        /* a node of the block itself */
        {{1, 0x04, 3}, 3, BLOCK_FAULT_LIST},                      /* unused selector not zero */
        {{1, 0, 0x07}, 3, BLOCK_FAULT_LIST}, /* unused bits of the stream not zero */
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        assert_int_equal(list_fault(BLOCK_ADJACENCY_GAPS, cases[i].bytes, cases[i].length),
                         cases[i].fault);
    }
}

static void block_rejects_bytes_after_the_lists(void **state)
{
    (void)state;
    struct sample sample;
    sample_default(&sample, BLOCK_ADJACENCY_GAPS);
    const uint32_t bytes = sample.geometry.block_bytes;
    assert_int_equal(fault_after(&sample, bytes - 1, 1), BLOCK_FAULT_PADDING);
    assert_int_equal(fault_after(&sample, bytes - BLOCK_TAIL_BYTES, 1), BLOCK_FAULT_PADDING);
    sample_destroy(&sample);
}

/* Reads past the block end under ASan, where the block is exactly as long as it says. */
static void block_survives_random_damage_under_a_good_checksum(void **state)
{
    (void)state;
    print_message("seed %d\n", SEED);
    for (uint8_t adjacency = 0; adjacency <= 1; adjacency++) {
        struct sample sample;
        sample_default(&sample, adjacency);
        const uint32_t bytes = sample.geometry.block_bytes;
        uint8_t *good = malloc(bytes);
        memcpy(good, sample.block, bytes);
        for (uint64_t round = 0; round < 3000; round++) {
            memcpy(sample.block, good, bytes);
            for (uint64_t i = 0; i <= round % 8; i++) {
                uint64_t at = 8 + random_below(SEED + round, 2 * i, bytes - 8);
                sample.block[at] = (uint8_t)random_at(SEED + round, 2 * i + 1);
            }
            reseal(&sample);
            enum block_fault checked = block_check(&sample.geometry, sample.number, sample.block);
            struct block_view view;
            enum block_fault opened =
                block_open(&sample.geometry, sample.number, sample.block, &view);
            assert_true(opened == BLOCK_OK || checked == opened);
            if (opened != BLOCK_OK)
                continue;
            for (uint32_t slot = 0; slot < view.record_count; slot++) {
                uint32_t ids[BLOCK_DEGREE_MAX + 1];
                enum block_fault fault = BLOCK_OK;
                uint32_t degree = block_neighbors(&view, slot, ids, &fault);
                assert_true(degree <= BLOCK_DEGREE_MAX);
                for (uint32_t i = 0; i < degree; i++)
                    assert_true(ids[i] < sample.geometry.node_limit);
            }
        }
        free(good);
        sample_destroy(&sample);
    }
}

/* ---- geometry and widths ---- */

static uint64_t widths_cost(const uint64_t histogram[33], const uint8_t width[BLOCK_GAP_WIDTHS])
{
    uint64_t bits = 0;
    for (uint32_t b = 0; b <= 32; b++) {
        int selector = 0;
        while (selector < BLOCK_GAP_WIDTHS - 1 && width[selector] < b)
            selector++;
        bits += histogram[b] * width[selector];
    }
    return bits;
}

static void gap_widths_are_the_cheapest_of_all(void **state)
{
    (void)state;
    static const uint32_t limits[] = {1, 2, 3, 200, 4096, 1000000, UINT32_MAX};
    for (size_t l = 0; l < ARRAY_LENGTH(limits); l++)
        for (uint64_t round = 0; round < 4; round++) {
            uint32_t last = 1;
            while (last < 32 && (limits[l] - 1) >> last)
                last++;
            uint64_t histogram[33] = {0};
            for (uint32_t b = 0; b <= (limits[l] == 1 ? 0 : last); b++)
                histogram[b] = round == 0 ? 0 : random_below(SEED + round, b, 1000000 >> b % 9);
            uint8_t width[BLOCK_GAP_WIDTHS];
            block_gap_widths_choose(histogram, limits[l], width);
            assert_true(width[0] >= 1 && width[0] <= width[1] && width[1] <= width[2] &&
                        width[2] <= width[3] && width[3] >= last && width[3] <= 32);
            const uint64_t chosen = widths_cost(histogram, width);
            for (uint8_t d = (uint8_t)last; d <= 32; d++)
                for (uint8_t a = 1; a <= d; a++)
                    for (uint8_t b = a; b <= d; b++)
                        for (uint8_t c = b; c <= d; c++) {
                            const uint8_t other[BLOCK_GAP_WIDTHS] = {a, b, c, d};
                            assert_true(chosen <= widths_cost(histogram, other));
                        }
            if (limits[l] == UINT32_MAX && round == 1)
                break; /* the widest search once is enough */
        }
}

static void geometry_check_refuses_each_bad_field(void **state)
{
    (void)state;
    const struct block_geometry good = geometry_make(BLOCK_ADJACENCY_GAPS, 100, 10, 100);
    struct error err;
    assert_int_equal(block_geometry_check(&good, &err), STATUS_OK);
    struct block_geometry bad[14];
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++)
        bad[i] = good;
    bad[0].block_bytes = 0;
    bad[1].block_bytes = 4097;
    bad[2].block_bytes = 65536;
    bad[3].nodes_per_block = 0;
    bad[4].nodes_per_block = BLOCK_NODES_MAX + 1;
    bad[5].vector_bytes = 0;
    bad[6].vector_bytes = UINT32_MAX;
    bad[7].node_limit = 0;
    bad[8].node_limit = 1001;
    bad[9].adjacency = 2;
    bad[10].gap_width[0] = 0;
    bad[11].gap_width[3] = 33;
    bad[12].gap_width[1] = (uint8_t)(bad[12].gap_width[2] + 1);
    memset(bad[13].gap_width, 9, BLOCK_GAP_WIDTHS); /* ids below 1000 need 10 bits */
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        assert_int_equal(block_geometry_check(&bad[i], &err), STATUS_INVALID);
        assert_true(strlen(err.text) > 10);
    }
}

static void fault_names_are_words(void **state)
{
    (void)state;
    assert_string_equal(block_fault_name(BLOCK_FAULT_CHECKSUM), "checksum mismatch");
    assert_string_equal(block_fault_name((enum block_fault)99), "unknown fault");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_round_trips_every_shape),
        cmocka_unit_test(lists_apart_may_all_be_empty),
        cmocka_unit_test(a_list_that_breaks_its_format_does_so_apart_from_its_block),
        cmocka_unit_test(block_holds_the_largest_ids_in_32_bit_gaps),
        cmocka_unit_test(block_hash_is_the_same_at_every_feature_level),
        cmocka_unit_test(block_plain_matches_its_golden_file),
        cmocka_unit_test(block_gaps_match_their_golden_file),
        cmocka_unit_test(block_rejects_every_flipped_bit),
        cmocka_unit_test(block_rejects_stale_generation),
        cmocka_unit_test(block_rejects_misplaced_block),
        cmocka_unit_test(block_rejects_a_torn_or_empty_block),
        cmocka_unit_test(block_rejects_bad_headers),
        cmocka_unit_test(block_rejects_more_records_than_fit),
        cmocka_unit_test(block_rejects_bad_offsets),
        cmocka_unit_test(block_rejects_bad_plain_lists),
        cmocka_unit_test(block_rejects_bad_gap_lists),
        cmocka_unit_test(block_rejects_bytes_after_the_lists),
        cmocka_unit_test(block_survives_random_damage_under_a_good_checksum),
        cmocka_unit_test(gap_widths_are_the_cheapest_of_all),
        cmocka_unit_test(geometry_check_refuses_each_bad_field),
        cmocka_unit_test(fault_names_are_words),
    };
    return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
