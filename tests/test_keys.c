/*
 * test_keys.c - keys.bin: what is encoded is found again at every count around a page's borders,
 * each broken field is refused, every flipped bit is found; and the same of an opened generation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/memory.h"
#include "common/random.h"
#include "layout/keys.h"
#include "layout/keys_lookup.h"
#include "tests/generation_fixture.h"

enum {
    SEED = 20261122,
    LARGE = KEYS_PAGE_KEYS * KEYS_PAGE_FIRSTS, /* the most that one directory page is enough for */
};

/* Ascending keys with room between any two; node i * 3 % 7 + i. */
struct file {
    struct keys_shape shape;
    uint64_t *keys;
    uint32_t *nodes;
    uint8_t *bytes; /* [keys_bytes()] */
};

static uint64_t key_at(uint64_t i)
{
    return 10 + i * 5 + random_below(SEED, i, 3);
}

static uint8_t *page_at(const struct file *file, uint32_t page)
{
    return file->bytes + (size_t)page * KEYS_PAGE_BYTES;
}

static uint8_t *directory_at(const struct file *file, uint32_t page)
{
    return page_at(file, keys_pages(file->shape.count) + page);
}

static struct file file_make(uint64_t count)
{
    struct file file = {.shape = {.count = count,
                                  .generation_seed = random_at(SEED, count),
                                  .node_limit = (uint32_t)count + 7}};
    const uint32_t pages = keys_pages(count);
    uint64_t *firsts = calloc(pages, sizeof(*firsts));
    file.keys = calloc(count, sizeof(*file.keys));
    file.nodes = calloc(count, sizeof(*file.nodes));
    file.bytes = aligned_alloc(KEYS_PAGE_BYTES, keys_bytes(count));
    assert_true(firsts && file.keys && file.nodes && file.bytes);
    for (uint64_t i = 0; i < count; i++) {
        file.keys[i] = key_at(i);
        file.nodes[i] = (uint32_t)(i * 3 % 7 + i);
    }
    for (uint32_t page = 0; page < pages; page++) {
        const size_t first = (size_t)page * KEYS_PAGE_KEYS;
        firsts[page] = file.keys[first];
        keys_page_encode(&file.shape, page, file.keys + first, file.nodes + first,
                         page_at(&file, page));
    }
    for (uint32_t page = 0; page < keys_directory_pages(count); page++)
        keys_directory_encode(&file.shape, page, firsts + (size_t)page * KEYS_PAGE_FIRSTS,
                              directory_at(&file, page));
    free(firsts);
    return file;
}

static void file_free(struct file *file)
{
    free(file->keys);
    free(file->nodes);
    free(file->bytes);
}

/* Looks `key` up as a reader does. */
static bool file_find(const struct file *file, const uint64_t *firsts, uint64_t key, uint32_t *node)
{
    struct keys_page page;
    uint32_t number;
    if (!keys_find_page(firsts, keys_pages(file->shape.count), key, &number))
        return false;
    assert_int_equal(keys_page_open(&file->shape, number, page_at(file, number), &page), KEYS_OK);
    return keys_page_find(&page, key, node);
}

/* ---- what is written is found ---- */

static void every_key_is_found_and_none_between(void **state)
{
    (void)state;
    static const uint64_t counts[] = {1, 2, 339, 340, 341, 679, 680, 681, LARGE, LARGE + 1};
    for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
        const uint64_t count = counts[c];
        struct file file = file_make(count);
        const uint32_t directory_pages = keys_directory_pages(count);
        uint64_t *firsts = calloc(keys_pages(count), sizeof(*firsts));
        assert_int_equal(keys_bytes(count),
                         (keys_pages(count) + directory_pages) * KEYS_PAGE_BYTES);
        assert_int_equal(directory_pages, count > LARGE ? 2 : 1);
        for (uint32_t page = 0; page < directory_pages; page++)
            assert_int_equal(keys_directory_open(&file.shape, page, directory_at(&file, page),
                                                 firsts + (size_t)page * KEYS_PAGE_FIRSTS),
                             KEYS_OK);
        /* All of small files; of large ones some, and the ends of every page. */
        for (uint64_t i = 0; i < count; i++) {
            if (count > 1000 && i % 997 != 0 && i % KEYS_PAGE_KEYS > 0 &&
                i % KEYS_PAGE_KEYS < KEYS_PAGE_KEYS - 1 && i < count - 1)
                continue;
            uint32_t node = UINT32_MAX;
            assert_true(file_find(&file, firsts, file.keys[i], &node));
            assert_int_equal(node, file.nodes[i]);
            node = 77;
            assert_false(file_find(&file, firsts, file.keys[i] - 1, &node));
            assert_false(file_find(&file, firsts, file.keys[i] + 1, &node));
            assert_int_equal(node, 77);
        }
        assert_false(file_find(&file, firsts, 0, &(uint32_t){0}));
        assert_false(file_find(&file, firsts, UINT64_MAX, &(uint32_t){0}));
        free(firsts);
        file_free(&file);
    }
}

static void keys_reach_from_nothing_to_the_largest(void **state)
{
    (void)state;
    const uint64_t keys[] = {0, 1, UINT64_MAX};
    const uint32_t nodes[] = {2, 0, 1};
    const struct keys_shape shape = {.count = 3, .node_limit = 3};
    _Alignas(uint64_t) uint8_t bytes[KEYS_PAGE_BYTES];
    struct keys_page page;
    keys_page_encode(&shape, 0, keys, nodes, bytes);
    assert_int_equal(keys_page_open(&shape, 0, bytes, &page), KEYS_OK);
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
        uint32_t node;
        assert_true(keys_page_find(&page, keys[i], &node));
        assert_int_equal(node, nodes[i]);
    }
    assert_false(keys_page_find(&page, 2, &(uint32_t){0}));
}

static void sizes_do_not_wrap(void **state)
{
    (void)state;
    assert_int_equal(keys_pages(UINT32_MAX), 12632257);
    assert_int_equal(keys_directory_pages(UINT32_MAX), 24770);
    assert_true(keys_bytes(UINT32_MAX) == UINT64_C(12657027) * 4096);
}

static void page_is_as_the_format_says(void **state)
{
    (void)state;
    struct file file = file_make(341);
    const uint8_t *page = page_at(&file, 1);
    uint64_t word;
    const uint64_t stream = file.shape.generation_seed ^ 0x7379656b;
    memcpy(&word, page, 8);
    assert_true(word == XXH3_64bits_withSeed(page + 8, 4088, random_at(stream, 1)));
    assert_memory_equal(page + 8, ((uint8_t[]){1, 0, 0, 0, 0, 0, 0, 0}), 8);
    assert_memory_equal(page + 16, &file.keys[340], 8);
    assert_memory_equal(page + 2736, &file.nodes[340], 4);
    page = directory_at(&file, 0);
    memcpy(&word, page, 8);
    assert_true(word == XXH3_64bits_withSeed(page + 8, 4088, random_at(stream, 2)));
    assert_memory_equal(page + 8, ((uint8_t[]){2, 0, 0, 0, 0, 0, 0, 0}), 8);
    assert_memory_equal(page + 16, &file.keys[0], 8);
    assert_memory_equal(page + 24, &file.keys[340], 8);
    file_free(&file);
}

/* ---- what is broken is refused ---- */

/* Makes the checksum of page `number` of the file good again. */
static void forge(const struct file *file, uint32_t number)
{
    uint8_t *page = page_at(file, number);
    const uint64_t checksum = XXH3_64bits_withSeed(
        page + 8, KEYS_PAGE_BYTES - 8, random_at(file->shape.generation_seed ^ 0x7379656b, number));
    memcpy(page, &checksum, 8);
}

static enum keys_fault open_any(const struct file *file, uint32_t number)
{
    const uint32_t pages = keys_pages(file->shape.count);
    struct keys_page page = {.count = 77};
    uint64_t firsts[KEYS_PAGE_FIRSTS] = {77};
    const enum keys_fault fault =
        number < pages
            ? keys_page_open(&file->shape, number, page_at(file, number), &page)
            : keys_directory_open(&file->shape, number - pages, page_at(file, number), firsts);
    if (fault != KEYS_OK)
        assert_true(page.count == 77 && firsts[0] == 77);
    return fault;
}

static void each_broken_field_is_refused(void **state)
{
    (void)state;
    /* Of 341 keys: pages 0 (full), 1 (one key), 2 (directory of two). */
    static const struct {
        uint32_t page;
        size_t at;
        uint32_t value;
        enum keys_fault fault;
    } cases[] = {
        {0, 8, 339, KEYS_FAULT_HEADER},
        {0, 8, 341, KEYS_FAULT_HEADER},
        {0, 8, UINT32_MAX, KEYS_FAULT_HEADER},
        {0, 12, 1, KEYS_FAULT_HEADER},
        {1, 8, 0, KEYS_FAULT_HEADER},
        {1, 8, 2, KEYS_FAULT_HEADER},
        {2, 8, 1, KEYS_FAULT_HEADER},
        {2, 12, 1, KEYS_FAULT_HEADER},
        {0, 16 + 8 * 7, 0, KEYS_FAULT_ORDER},
        {0, 16 + 8 * 338 + 4, 1, KEYS_FAULT_ORDER},
        {2, 16 + 8, 3, KEYS_FAULT_ORDER},
        {0, 2736, 348, KEYS_FAULT_NODE},
        {0, 2736 + 4 * 339, 348, KEYS_FAULT_NODE},
        {1, 2736, UINT32_MAX, KEYS_FAULT_NODE},
        {1, 16 + 8, 1, KEYS_FAULT_PADDING},
        {1, 2732, 1, KEYS_FAULT_PADDING},
        {1, 2740, 1, KEYS_FAULT_PADDING},
        {1, 4092, 1, KEYS_FAULT_PADDING},
        {2, 16 + 16, 1, KEYS_FAULT_PADDING},
        {2, 4092, 1u << 31, KEYS_FAULT_PADDING},
    };
    struct file file = file_make(341);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint8_t kept[KEYS_PAGE_BYTES];
        uint8_t *page = page_at(&file, cases[i].page);
        memcpy(kept, page, KEYS_PAGE_BYTES);
        memcpy(page + cases[i].at, &cases[i].value, 4);
        assert_int_equal(open_any(&file, cases[i].page), KEYS_FAULT_CHECKSUM);
        forge(&file, cases[i].page);
        const enum keys_fault fault = open_any(&file, cases[i].page);
        if (fault != cases[i].fault)
            fail_msg("case %zu: wanted \"%s\", got \"%s\"", i, keys_fault_name(cases[i].fault),
                     keys_fault_name(fault));
        memcpy(page, kept, KEYS_PAGE_BYTES);
        assert_int_equal(open_any(&file, cases[i].page), KEYS_OK);
    }
    /* Equal keys do not ascend. */
    memcpy(page_at(&file, 0) + 16 + 8 * 8, page_at(&file, 0) + 16 + 8 * 7, 8);
    forge(&file, 0);
    assert_int_equal(open_any(&file, 0), KEYS_FAULT_ORDER);
    file_free(&file);
}

static void every_flipped_bit_is_found(void **state)
{
    (void)state;
    struct file file = file_make(341);
    for (uint32_t bit = 0; bit < 3 * KEYS_PAGE_BYTES * 8; bit++) {
        const uint32_t page = bit / (KEYS_PAGE_BYTES * 8);
        file.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(open_any(&file, page), KEYS_FAULT_CHECKSUM);
        file.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    file_free(&file);
}

/* Another place, another generation, and a page of the other kind. */
static void page_is_good_in_its_place_only(void **state)
{
    (void)state;
    struct file file = file_make(3 * KEYS_PAGE_KEYS);
    struct keys_page page;
    uint64_t firsts[KEYS_PAGE_FIRSTS];
    struct keys_shape other = file.shape;
    other.generation_seed ^= 1;
    assert_int_equal(keys_page_open(&file.shape, 1, page_at(&file, 0), &page), KEYS_FAULT_CHECKSUM);
    assert_int_equal(keys_page_open(&other, 1, page_at(&file, 1), &page), KEYS_FAULT_CHECKSUM);
    assert_int_equal(keys_directory_open(&file.shape, 0, page_at(&file, 0), firsts),
                     KEYS_FAULT_CHECKSUM);
    file_free(&file);
}

/* ---- of an opened generation ---- */

static struct generation *open_fixture(void **state)
{
    const char *path = fixture_path(*state, "gen");
    struct generation *generation = NULL;
    struct error err = {0};
    fixture_must_write(path, SEED);
    fixture_must(generation_open(path, &generation, &err), &err);
    return generation;
}

static void generation_tells_every_node_and_vector(void **state)
{
    struct generation *generation = open_fixture(state);
    struct error err = {0};
    uint64_t *firsts = NULL;
    uint8_t before[FIXTURE_DIM] = {0};
    fixture_must(keys_lookup_firsts(generation, &firsts, &err), &err);
    assert_int_equal(firsts[0], 1000);
    bulk_free(firsts, 1, sizeof(*firsts));
    for (uint64_t key = 990; key < 1000 + FIXTURE_VECTORS + 10; key++) {
        uint32_t node = UINT32_MAX;
        bool found = false;
        uint8_t vector[FIXTURE_DIM] = {0};
        const bool there = key >= 1000 && key < 1000 + FIXTURE_VECTORS;
        fixture_must(keys_lookup(generation, key, &node, &found, &err), &err);
        assert_int_equal(found, there);
        assert_int_equal(node, there ? (uint32_t)key - 1000 : UINT32_MAX);
        if (!there)
            continue;
        fixture_must(keys_lookup_vector(generation, node, key, vector, &err), &err);
        assert_memory_not_equal(vector, before, sizeof(vector));
        memcpy(before, vector, sizeof(vector));
        /* Of another key, which the block tells. */
        assert_int_equal(keys_lookup_vector(generation, node, key + 1, vector, &err),
                         STATUS_CORRUPT);
        assert_non_null(strstr(err.text, "nodes.blk: block "));
        assert_memory_equal(vector, before, sizeof(vector));
    }
    /* The last block's empty slot. */
    assert_int_equal(keys_lookup_vector(generation, FIXTURE_VECTORS, 1000, before, &err),
                     STATUS_CORRUPT);
    generation_close(generation);
}

static void generation_with_a_damaged_page_says_which(void **state)
{
    struct generation *generation = open_fixture(state);
    const char *path = fixture_path(*state, "gen/keys.bin");
    uint64_t *firsts = NULL;
    uint32_t node;
    bool found;
    struct error err = {0};
    for (uint32_t page = 0; page < 2; page++) {
        const uint64_t bit = (page * 4096 + 100) * 8;
        char words[64];
        snprintf(words, sizeof(words), "keys.bin: page %u: checksum mismatch", page);
        fixture_flip_bit(path, bit);
        fixture_expect_fault(fixture_path(*state, "gen"), words);
        assert_int_equal(keys_lookup(generation, 1050, &node, &found, &err), STATUS_CORRUPT);
        assert_non_null(strstr(err.text, words));
        assert_int_equal(keys_lookup_firsts(generation, &firsts, &err),
                         page == 0 ? STATUS_OK : STATUS_CORRUPT);
        if (page == 0)
            bulk_free(firsts, 1, sizeof(*firsts));
        else
            assert_non_null(strstr(err.text, words));
        fixture_flip_bit(path, bit);
    }
    fixture_must(keys_lookup(generation, 1050, &node, &found, &err), &err);
    assert_true(found);
    generation_close(generation);
}

int main(void)
{
#define IN_DIRECTORY(name)                                                                         \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_found_and_none_between),
        cmocka_unit_test(keys_reach_from_nothing_to_the_largest),
        cmocka_unit_test(sizes_do_not_wrap),
        cmocka_unit_test(page_is_as_the_format_says),
        cmocka_unit_test(each_broken_field_is_refused),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(page_is_good_in_its_place_only),
        IN_DIRECTORY(generation_tells_every_node_and_vector),
        IN_DIRECTORY(generation_with_a_damaged_page_says_which),
    };
    return cmocka_run_group_tests_name("keys", tests, NULL, NULL);
}
