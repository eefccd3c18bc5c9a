/*
 * test_index.c - the memory tier: how a budget is spent, what is verified on the way, and that a
 * reference keeps it and the last release frees all of it (LeakSanitizer and the count of
 * descriptors tell).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "common/random.h"
#include "query/index_internal.h"
#include "tests/generation_fixture.h"
#include "tests/index_fixture.h"

enum { SEED = 20240615, ALL_BLOCKS = 1 << 20 };

struct fixture {
    void *directory;
    struct collection *collection;
};

static int group_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    assert_int_equal(fixture_directory_setup(&f->directory), 0);
    /* Neither finer codes nor lists: test_index_scan.c has those. */
    const struct collection_spec spec = {ELEMENT_U8, METRIC_L2, 3001, 32, 1, NULL, 16};
    f->collection = collection_create(f->directory, "gen", &spec);
    *state = f;
    return 0;
}

static int group_teardown(void **state)
{
    struct fixture *f = *state;
    collection_destroy(f->collection);
    int result = fixture_directory_teardown(&f->directory);
    free(f);
    return result;
}

static enum status try_open(const struct collection *c, uint64_t memory_bytes, struct error *err)
{
    const struct index_options options = {.memory_bytes = memory_bytes};
    struct index *index = NULL;
    enum status status = index_open(c->path, &options, &index, err);
    assert_int_equal(status == STATUS_OK, index != NULL);
    index_release(index);
    return status;
}

/* What the tier says of itself is so: the bytes it holds are the file's, and the sums add up. */
static void index_check(const struct collection *c, const struct index *index)
{
    const struct manifest *m = index_manifest(index);
    const struct index_memory memory = index_memory_of(index);
    uint8_t *file = collection_read_blocks(c, m);
    const size_t block_bytes = m->geometry.block_bytes;
    uint64_t cached = 0, nodes = 0;
    for (uint32_t block = 0; block < m->block_count; block++) {
        const void *bytes = index_cached_block(index, block);
        if (!bytes)
            continue;
        struct block_view view;
        assert_memory_equal(bytes, file + block * block_bytes, block_bytes);
        assert_int_equal(block_open(&m->geometry, block, bytes, &view), BLOCK_OK);
        nodes += view.record_count;
        cached++;
    }
    free(file);
    assert_int_equal(memory.cached_blocks, cached);
    assert_int_equal(memory.cached_nodes, nodes);
    assert_int_equal(memory.resident, cached == m->block_count && !index->cache_slot);
    const uint64_t table_bytes = index->cache_slot ? m->block_count * sizeof(uint32_t) : 0;
    assert_int_equal(memory.cache_bytes, cached * block_bytes + table_bytes);
}

/* ---- budgets ---- */

static void index_without_budget_holds_codes_and_navigation_only(void **state)
{
    const struct fixture *f = *state;
    struct index *index = collection_open(f->collection, 0);
    const struct manifest *m = index_manifest(index);
    const struct index_memory memory = index_memory_of(index);
    index_check(f->collection, index);
    assert_int_equal(memory.cached_blocks, 0);
    assert_int_equal(memory.cache_bytes, 0);
    assert_int_equal(memory.hot_nodes, 0);
    assert_false(memory.resident);
    assert_int_equal(memory.codes_bytes,
                     m->files[GENERATION_CODES].bytes + m->files[GENERATION_CODEC].bytes);
    assert_int_equal(memory.navigation_bytes, m->files[GENERATION_NAVIGATION].bytes +
                                                  (uint64_t)m->navigation_count * m->code_bytes);
    assert_string_equal(index_path(index), f->collection->path);
    index_release(index);
}

static void index_refuses_a_budget_too_small_and_names_the_smallest(void **state)
{
    const struct fixture *f = *state;
    struct index *index = collection_open(f->collection, 0);
    const struct index_memory memory = index_memory_of(index);
    index_release(index);
    const uint64_t smallest = memory.codes_bytes + memory.navigation_bytes + memory.keys_bytes;
    char number[32];
    snprintf(number, sizeof(number), "%llu", (unsigned long long)smallest);
    const uint64_t budgets[] = {1, smallest - 1};
    for (size_t i = 0; i < ARRAY_LENGTH(budgets); i++) {
        struct error err;
        assert_int_equal(try_open(f->collection, budgets[i], &err), STATUS_NO_MEMORY);
        assert_non_null(strstr(err.text, number));
        assert_non_null(strstr(err.text, f->collection->path));
    }
    index = collection_open(f->collection, smallest);
    index_check(f->collection, index);
    assert_int_equal(index_memory_of(index).cached_blocks, 0);
    index_release(index);
}

/* The first `limit` distinct blocks that the hot list names, naively: chosen[block] = 1. Returns
 * the length of the prefix of the list that lies in them. */
static uint64_t choose_naively(const struct index *index, uint64_t limit, uint8_t *chosen)
{
    void *list = NULL;
    size_t bytes = 0;
    struct error err;
    ASSERT_STATUS_OK(generation_load(index->generation, GENERATION_HOT, &list, &bytes, &err), err);
    const uint32_t *hot = list;
    uint64_t prefix = 0;
    for (; prefix < bytes / sizeof(*hot); prefix++) {
        uint32_t block = hot[prefix] / index->geometry.nodes_per_block;
        if (!chosen[block] && limit == 0)
            break;
        limit -= !chosen[block];
        chosen[block] = 1;
    }
    bulk_free(list, bytes, 1);
    return prefix;
}

static void growing_budgets_cache_growing_prefixes_of_the_hot_list(void **state)
{
    const struct fixture *f = *state;
    uint64_t block_count = 0, hot_nodes_before = 0;
    for (uint64_t blocks = 1; blocks == 1 || blocks < block_count; blocks += 1 + blocks / 2) {
        uint64_t budget = collection_budget(f->collection, blocks);
        /* A byte less than one more block changes nothing. */
        struct index *index = collection_open(f->collection, budget + BLOCK_PAGE_BYTES - 1);
        block_count = index_manifest(index)->block_count;
        if (index_memory_of(index).resident) { /* the table that residency saves made up for it */
            index_release(index);
            break;
        }
        uint8_t *chosen = calloc(block_count, 1);
        assert_non_null(chosen);
        uint64_t prefix = choose_naively(index, blocks, chosen);
        const struct index_memory memory = index_memory_of(index);
        index_check(f->collection, index);
        for (uint32_t block = 0; block < block_count; block++)
            assert_int_equal(index_cached_block(index, block) != NULL, chosen[block]);
        assert_true(memory.cached_blocks <= blocks);
        assert_int_equal(memory.hot_nodes, prefix);
        assert_true(memory.hot_nodes >= hot_nodes_before);
        hot_nodes_before = memory.hot_nodes;
        assert_true(memory.codes_bytes + memory.navigation_bytes + memory.keys_bytes +
                        memory.cache_bytes <=
                    budget);
        free(chosen);
        index_release(index);
    }
    assert_true(block_count > 20);
    assert_true(hot_nodes_before > 0);
}

static void a_budget_for_everything_makes_the_index_resident(void **state)
{
    const struct fixture *f = *state;
    struct index *index = collection_open(f->collection, 0);
    const struct manifest *m = index_manifest(index);
    const struct index_memory memory = index_memory_of(index);
    const uint64_t enough = memory.codes_bytes + memory.navigation_bytes + memory.keys_bytes +
                            m->files[GENERATION_NODES].bytes;
    const uint64_t count = m->vector_count;
    index_release(index);

    index = collection_open(f->collection, enough);
    index_check(f->collection, index);
    assert_true(index_memory_of(index).resident);
    assert_int_equal(index_memory_of(index).cached_nodes, count);
    index_release(index);

    index = collection_open(f->collection, enough - 1);
    index_check(f->collection, index);
    assert_false(index_memory_of(index).resident);
    index_release(index);
}

/* ---- bad bytes ---- */

static void flip_bit(const struct collection *c, uint64_t offset)
{
    const char *path = fixture_path(c->path, generation_file_names[GENERATION_NODES]);
    uint8_t byte;
    assert_int_equal(chmod(path, 0644), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

static void a_flipped_bit_in_a_cached_block_is_refused_by_the_blocks_number(void **state)
{
    const struct fixture *f = *state;
    enum { CACHED = 5 };
    const uint64_t budget = collection_budget(f->collection, CACHED);
    struct index *index = collection_open(f->collection, budget);
    const uint64_t block_count = index_manifest(index)->block_count;
    const uint64_t block_bytes = index_manifest(index)->geometry.block_bytes;
    uint8_t *cached = calloc(block_count, 1);
    assert_non_null(cached);
    for (uint32_t block = 0; block < block_count; block++)
        cached[block] = index_cached_block(index, block) != NULL;
    index_release(index);
    uint32_t refusals = 0;
    for (uint32_t block = 0; block < block_count; block++) {
        if (!cached[block] && block % 7 != 0)
            continue;
        const uint64_t offset = block * block_bytes + random_below(SEED, block, block_bytes);
        char words[64];
        struct error err;
        snprintf(words, sizeof(words), "nodes.blk: block %u:", block);
        flip_bit(f->collection, offset);
        assert_int_equal(try_open(f->collection, budget, &err),
                         cached[block] ? STATUS_CORRUPT : STATUS_OK);
        assert_true(!cached[block] || strstr(err.text, words));
        refusals += cached[block];
        /* Resident: every block is read. */
        assert_int_equal(
            try_open(f->collection, collection_budget(f->collection, ALL_BLOCKS), &err),
            STATUS_CORRUPT);
        assert_non_null(strstr(err.text, words));
        flip_bit(f->collection, offset);
    }
    assert_true(refusals > 0);
    free(cached);
}

static void a_missing_generation_is_not_found(void **state)
{
    const struct fixture *f = *state;
    const struct index_options options = {0};
    struct index *index = NULL;
    struct error err;
    const char *path = fixture_path(f->directory, "none");
    assert_int_equal(index_open(path, &options, &index, &err), STATUS_NOT_FOUND);
    assert_null(index);
    assert_non_null(strstr(err.text, path));
}

/* ---- node to block ---- */

static void block_of_equals_division(void **state)
{
    (void)state;
    print_message("seed %d\n", SEED);
    for (uint32_t capacity = 1; capacity <= BLOCK_NODES_MAX; capacity++) {
        const unsigned __int128 two64 = (unsigned __int128)1 << 64;
        struct index index = {.block_divisor = (uint64_t)((two64 + capacity - 1) / capacity)};
        for (uint32_t i = 0; i < 200; i++) {
            uint32_t node = (uint32_t)random_at(SEED + capacity, i);
            /* Around a multiple of the capacity, where rounding would show. */
            uint32_t multiple = node / capacity * capacity;
            assert_int_equal(index_block_of(&index, node), node / capacity);
            assert_int_equal(index_block_of(&index, multiple), node / capacity);
            assert_int_equal(index_block_of(&index, multiple - 1), (multiple - 1) / capacity);
        }
        assert_int_equal(index_block_of(&index, UINT32_MAX), UINT32_MAX / capacity);
        assert_int_equal(index_block_of(&index, 0), 0);
    }
}

static void an_open_index_finds_the_block_of_every_node(void **state)
{
    const struct fixture *f = *state;
    struct index *index = collection_open(f->collection, 0);
    assert_true(index->geometry.nodes_per_block > 1);
    for (uint32_t node = 0; node < index->geometry.node_limit; node++)
        assert_int_equal(index_block_of(index, node), node / index->geometry.nodes_per_block);
    index_release(index);
}

/* ---- references ---- */

static uint32_t descriptors_open(void)
{
    uint32_t count = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void the_last_release_closes_everything(void **state)
{
    const struct fixture *f = *state;
    const uint32_t before = descriptors_open();
    const uint64_t budgets[] = {0, collection_budget(f->collection, 3),
                                collection_budget(f->collection, ALL_BLOCKS)};
    for (size_t i = 0; i < ARRAY_LENGTH(budgets); i++) {
        struct index *index = collection_open(f->collection, budgets[i]);
        assert_ptr_equal(index_retain(index), index);
        assert_ptr_equal(index_retain(index), index);
        index_release(index);
        index_release(index);
        /* One reference is left: all is there. */
        assert_true(descriptors_open() > before);
        index_check(f->collection, index);
        index_release(index);
        assert_int_equal(descriptors_open(), before);
    }
    struct error err;
    assert_int_equal(try_open(f->collection, 1, &err), STATUS_NO_MEMORY);
    assert_int_equal(descriptors_open(), before);
    index_release(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(index_without_budget_holds_codes_and_navigation_only),
        cmocka_unit_test(index_refuses_a_budget_too_small_and_names_the_smallest),
        cmocka_unit_test(growing_budgets_cache_growing_prefixes_of_the_hot_list),
        cmocka_unit_test(a_budget_for_everything_makes_the_index_resident),
        cmocka_unit_test(a_flipped_bit_in_a_cached_block_is_refused_by_the_blocks_number),
        cmocka_unit_test(a_missing_generation_is_not_found),
        cmocka_unit_test(block_of_equals_division),
        cmocka_unit_test(an_open_index_finds_the_block_of_every_node),
        cmocka_unit_test(the_last_release_closes_everything),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
