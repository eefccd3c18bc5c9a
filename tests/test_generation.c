/*
 * test_generation.c - generations: opened only when whole, and any damage found and named. How they
 * come to be whole: test_generation_writer.c.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <xxhash.h>

#include "common/memory.h"
#include "common/random.h"
#include "layout/digest.h"
#include "layout/generation.h"
#include "layout/keys.h"
#include "layout/navigation.h"
#include "tests/directory_fixture.h"
#include "tests/generation_fixture.h"
#include "tests/golden_file.h"

enum { SEED = 11, FLIPS_PER_FILE = 40 };

/* ---- helpers ---- */

static void write_good(const char *path)
{
    struct error err = {0};
    if (fixture_write(path, SEED, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

static struct generation *open_good(const char *path)
{
    struct generation *generation = NULL;
    struct error err = {0};
    if (generation_open(path, &generation, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return generation;
}

static void patch(const char *path, uint64_t offset, const void *data, size_t bytes)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, bytes, (off_t)offset), bytes);
    close(fd);
}

static void write_manifest(const char *path, const struct manifest *manifest)
{
    char *json;
    struct error err = {0};
    if (manifest_format(manifest, &json, &err) != STATUS_OK ||
        generation_write_text(path, MANIFEST_FILE_NAME, json, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    free(json);
}

/* Gives a damaged file the digest it now has, as a careful forger would. */
static void forge_digest(const char *path, enum generation_file file)
{
    struct generation *generation = open_good(path);
    struct manifest manifest = *generation_manifest(generation);
    generation_close(generation);
    const char *name = fixture_path(path, generation_file_names[file]);
    const size_t bytes = (size_t)fixture_length(name);
    uint8_t *data = malloc(bytes);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, data, bytes), bytes);
    close(fd);
    manifest.files[file].xxh3 = digest_of(XXH3_128bits(data, bytes));
    free(data);
    write_manifest(path, &manifest);
}

/* ---- writing and reading back ---- */

static void generation_round_trips(void **state)
{
    const char *path = fixture_path(*state, "gen");
    write_good(path);
    struct generation *generation = open_good(path);
    struct manifest wanted;
    fixture_manifest(SEED, &wanted);
    fixture_manifest_lengths(&wanted);
    const struct manifest *manifest = generation_manifest(generation);
    assert_string_equal(generation_path(generation), path);
    assert_true(manifest->generation_id.high == wanted.generation_id.high);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        void *data;
        size_t bytes;
        struct error err = {0};
        assert_true(manifest->files[i].bytes == wanted.files[i].bytes);
        assert_int_equal(generation_load(generation, (enum generation_file)i, &data, &bytes, &err),
                         STATUS_OK);
        assert_int_equal(bytes, wanted.files[i].bytes);
        bulk_free(data, bytes, 1);
    }
    uint64_t blocks = 0;
    struct error err = {0};
    if (generation_verify(generation, &blocks, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(blocks, FIXTURE_BLOCKS);
    assert_int_equal(directory_fixture_entries(path), GENERATION_FILE_COUNT + 1);
    generation_close(generation);
}

static void generation_digest_tells_generations_apart(void **state)
{
    static const char *const names[] = {"a", "b", "c"};
    struct digest128 digests[3];
    for (size_t i = 0; i < 3; i++) {
        const char *path = fixture_path(*state, names[i]);
        struct error err = {0};
        assert_int_equal(fixture_write(path, i < 2 ? SEED : SEED + 1, &err), STATUS_OK);
        assert_int_equal(generation_write_text(path, GENERATION_REPORT_NAME, names[i], &err),
                         STATUS_OK);
        struct generation *generation = open_good(path);
        assert_int_equal(generation_digest(generation, &digests[i], &err), STATUS_OK);
        generation_close(generation);
    }
    assert_memory_equal(&digests[0], &digests[1], sizeof(digests[0]));
    assert_memory_not_equal(&digests[0], &digests[2], sizeof(digests[0]));
}

static void generation_serves_on_after_its_directory_is_removed(void **state)
{
    const char *path = fixture_path(*state, "gen");
    write_good(path);
    struct generation *generation = open_good(path);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        assert_int_equal(unlink(fixture_path(path, generation_file_names[i])), 0);
    struct error err = {0};
    assert_int_equal(generation_verify(generation, NULL, &err), STATUS_OK);
    generation_close(generation);
}

static void golden_generation_still_verifies(void **state)
{
    (void)state;
    /* To renew it: remove the directory, then run with NIGHTJAR_GOLDEN_WRITE set. */
    const char *path = golden_file_path("generation");
    struct error err = {0};
    if (getenv("NIGHTJAR_GOLDEN_WRITE") && !fixture_exists(path))
        write_good(path);
    if (fixture_verify(path, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

static void block_is_read_at_the_far_end_of_a_billion_nodes(void **state)
{
    const char *path = fixture_path(*state, "huge");
    struct manifest manifest;
    fixture_manifest(SEED, &manifest);
    fixture_manifest_lengths(&manifest);
    manifest.geometry.node_limit = 1000000000;
    const uint8_t widths[BLOCK_GAP_WIDTHS] = {8, 12, 20, 30};
    memcpy(manifest.geometry.gap_width, widths, sizeof(widths));
    manifest.block_count = 100000000;
    manifest.vector_count = 999999999;
    manifest.files[GENERATION_NODES].bytes = manifest.block_count * BLOCK_PAGE_BYTES;
    manifest.files[GENERATION_CODES].bytes = UINT64_C(1000000000) * FIXTURE_CODE_BYTES;
    manifest.files[GENERATION_KEYS].bytes = keys_bytes(manifest.vector_count);
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        int fd = open(fixture_path(path, generation_file_names[i]),
                      O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        int result = ftruncate(fd, (off_t)manifest.files[i].bytes);
        close(fd);
        if (result != 0) {
            print_message("this file system holds no sparse file of 400 GB\n");
            skip();
        }
    }
    const uint64_t number = manifest.block_count - 1;
    const uint32_t ids[] = {0, 123456789, 999999989};
    const uint8_t vector[FIXTURE_DIM] = {1, 2, 3};
    const struct block_record record = {42, vector, ids, 3};
    uint8_t *block = aligned_alloc(BLOCK_PAGE_BYTES, BLOCK_PAGE_BYTES);
    block_encode(&manifest.geometry, number, &record, 1, block);
    patch(fixture_path(path, "nodes.blk"), number * BLOCK_PAGE_BYTES, block, BLOCK_PAGE_BYTES);
    write_manifest(path, &manifest);

    struct generation *generation = open_good(path);
    memset(block, 0, BLOCK_PAGE_BYTES);
    int fd = generation_nodes_fd(generation, NULL);
    assert_int_equal(pread(fd, block, BLOCK_PAGE_BYTES, (off_t)(number * BLOCK_PAGE_BYTES)),
                     BLOCK_PAGE_BYTES);
    struct block_view view;
    uint32_t decoded[BLOCK_DEGREE_MAX + 1];
    enum block_fault fault = BLOCK_OK;
    assert_int_equal(block_open(&generation_manifest(generation)->geometry, number, block, &view),
                     BLOCK_OK);
    assert_int_equal(view.first_node, 999999990);
    assert_int_equal(block_neighbors(&view, 0, decoded, &fault), 3);
    assert_memory_equal(decoded, ids, sizeof(ids));
    free(block);
    struct error err = {0};
    assert_int_equal(generation_verify(generation, NULL, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "nodes.blk: block 0: checksum mismatch"));
    generation_close(generation);
}

/* ---- damage ---- */

static const char *all_names(int i)
{
    return i < GENERATION_FILE_COUNT ? generation_file_names[i] : MANIFEST_FILE_NAME;
}

static void missing_file_is_named(void **state)
{
    const char *path = fixture_path(*state, "gen");
    write_good(path);
    for (int i = 0; i <= GENERATION_FILE_COUNT; i++) {
        const char *file = fixture_path(path, all_names(i));
        const char *aside = fixture_path(*state, "aside");
        assert_int_equal(rename(file, aside), 0);
        fixture_expect_fault(path, all_names(i));
        assert_int_equal(symlink(aside, file), 0); /* the right bytes, by a link out of it */
        fixture_expect_fault(path, all_names(i));
        assert_int_equal(unlink(file), 0);
        assert_int_equal(mkdir(file, 0700), 0);
        fixture_expect_fault(path, all_names(i));
        assert_int_equal(rmdir(file), 0);
        assert_int_equal(mkfifo(file, 0600), 0);
        fixture_expect_fault(path, all_names(i));
        assert_int_equal(unlink(file), 0);
        assert_int_equal(rename(aside, file), 0);
    }
    struct error err = {0};
    assert_int_equal(fixture_verify(path, &err), STATUS_OK);
}

static void file_of_another_length_is_named(void **state)
{
    print_message("seed %d\n", SEED);
    for (int i = 0; i <= GENERATION_FILE_COUNT; i++) {
        char name[16];
        snprintf(name, sizeof(name), "gen-%d", i);
        const char *path = fixture_path(*state, name);
        write_good(path);
        const char *file = fixture_path(path, all_names(i));
        const off_t length = (off_t)fixture_length(file);
        assert_int_equal(truncate(file, length + 1), 0);
        fixture_expect_fault(path, all_names(i));
        assert_int_equal(truncate(file, length - 1), 0);
        fixture_expect_fault(path, all_names(i));
        off_t cut = (off_t)random_below(SEED, (uint64_t)i, (uint64_t)length);
        assert_int_equal(truncate(file, cut), 0);
        fixture_expect_fault(path, all_names(i));
        assert_int_equal(truncate(file, 0), 0);
        fixture_expect_fault(path, all_names(i));
    }
}

static void file_truncated_after_open_is_named(void **state)
{
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        char name[16];
        snprintf(name, sizeof(name), "gen-%d", i);
        const char *path = fixture_path(*state, name);
        write_good(path);
        struct generation *generation = open_good(path);
        const char *file = fixture_path(path, all_names(i));
        assert_int_equal(truncate(file, (off_t)fixture_length(file) / 2), 0);
        struct error err = {0};
        assert_int_equal(generation_verify(generation, NULL, &err), STATUS_CORRUPT);
        assert_non_null(strstr(err.text, all_names(i)));
        struct digest128 digest;
        assert_int_equal(generation_digest(generation, &digest, &err), STATUS_CORRUPT);
        generation_close(generation);
    }
}

static void flipped_bit_is_named_with_file_and_block(void **state)
{
    const char *path = fixture_path(*state, "gen");
    print_message("seed %d\n", SEED);
    write_good(path);
    for (int i = 0; i <= GENERATION_FILE_COUNT; i++) {
        const char *file = fixture_path(path, all_names(i));
        const uint64_t bits = fixture_length(file) * 8;
        for (uint64_t n = 0; n < FLIPS_PER_FILE; n++) {
            uint64_t bit = random_below(SEED + (uint64_t)i, n, bits);
            char words[64];
            snprintf(words, sizeof(words), "gen/%s: ", all_names(i));
            if (i == GENERATION_NODES)
                snprintf(words, sizeof(words), "gen/nodes.blk: block %" PRIu64 ": checksum",
                         bit / 8 / BLOCK_PAGE_BYTES);
            fixture_flip_bit(file, bit);
            fixture_expect_fault(path, words);
            fixture_flip_bit(file, bit);
        }
    }
    struct error err = {0};
    assert_int_equal(fixture_verify(path, &err), STATUS_OK);
}

static void load_refuses_a_flipped_bit(void **state)
{
    const char *path = fixture_path(*state, "gen");
    write_good(path);
    struct generation *generation = open_good(path);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        const char *file = fixture_path(path, all_names(i));
        fixture_flip_bit(file, 77);
        void *data;
        size_t bytes;
        struct error err = {0};
        assert_int_equal(generation_load(generation, (enum generation_file)i, &data, &bytes, &err),
                         STATUS_CORRUPT);
        assert_non_null(strstr(err.text, all_names(i)));
        fixture_flip_bit(file, 77);
    }
    generation_close(generation);
}

static void misplaced_and_stale_blocks_are_named(void **state)
{
    const char *path = fixture_path(*state, "gen"), *other = fixture_path(*state, "other");
    struct error err = {0};
    write_good(path);
    assert_int_equal(fixture_write(other, SEED + 1, &err), STATUS_OK);
    uint8_t block[BLOCK_PAGE_BYTES], good[BLOCK_PAGE_BYTES];
    int fd = open(fixture_path(path, "nodes.blk"), O_RDONLY | O_CLOEXEC);
    int other_fd = open(fixture_path(other, "nodes.blk"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, good, sizeof(good), 3 * BLOCK_PAGE_BYTES), sizeof(good));
    assert_int_equal(pread(fd, block, sizeof(block), 4 * BLOCK_PAGE_BYTES), sizeof(block));
    patch(fixture_path(path, "nodes.blk"), 3 * BLOCK_PAGE_BYTES, block, sizeof(block));
    fixture_expect_fault(path, "nodes.blk: block 3: checksum mismatch");
    assert_int_equal(pread(other_fd, block, sizeof(block), 3 * BLOCK_PAGE_BYTES), sizeof(block));
    patch(fixture_path(path, "nodes.blk"), 3 * BLOCK_PAGE_BYTES, block, sizeof(block));
    fixture_expect_fault(path, "nodes.blk: block 3: checksum mismatch");
    patch(fixture_path(path, "nodes.blk"), 3 * BLOCK_PAGE_BYTES, good, sizeof(good));
    assert_int_equal(fixture_verify(path, &err), STATUS_OK);
    close(fd);
    close(other_fd);
}

enum { SAMPLE_TRUTH = 64 + 8 * FIXTURE_SAMPLE }; /* offset of the first neighbour's key */

static uint64_t first_neighbor(const char *path)
{
    uint64_t key;
    size_t bytes;
    uint8_t *data = fixture_read(fixture_path(path, "sample.bin"), &bytes);
    memcpy(&key, data + SAMPLE_TRUTH, sizeof(key));
    free(data);
    return key;
}

static void verify_reads_what_digests_cannot_tell(void **state)
{
    const char *path = fixture_path(*state, "gen");
    write_good(path);
    const uint32_t beyond = FIXTURE_NODE_LIMIT, repeated = 37, first = 0;
    patch(fixture_path(path, "hot.bin"), 0, &beyond, 4);
    forge_digest(path, GENERATION_HOT);
    fixture_expect_fault(path, "hot.bin: entry 0 is node 100");
    patch(fixture_path(path, "hot.bin"), 0, &repeated, 4);
    forge_digest(path, GENERATION_HOT);
    fixture_expect_fault(path, "hot.bin: entry 1 repeats node 37");
    patch(fixture_path(path, "hot.bin"), 0, &first, 4);
    forge_digest(path, GENERATION_HOT);

    patch(fixture_path(path, "navigation.bin"), 32, &beyond, 4);
    forge_digest(path, GENERATION_NAVIGATION);
    fixture_expect_fault(path, "navigation.bin: navigation: member 0 is node 100");
    patch(fixture_path(path, "navigation.bin"), 32, &first, 4);
    forge_digest(path, GENERATION_NAVIGATION);

    const uint32_t cosine = METRIC_COSINE, l2 = METRIC_L2;
    const uint64_t itself = 1011, nearest = first_neighbor(path);
    patch(fixture_path(path, "sample.bin"), 24, &cosine, 4);
    forge_digest(path, GENERATION_SAMPLE);
    fixture_expect_fault(path, "sample.bin: 3 cosine u8 queries of dim 8 with 2 neighbours, the "
                               "manifest says 3 l2 u8, 8, 2");
    patch(fixture_path(path, "sample.bin"), 24, &l2, 4);
    patch(fixture_path(path, "sample.bin"), SAMPLE_TRUTH, &itself, 8);
    forge_digest(path, GENERATION_SAMPLE);
    fixture_expect_fault(path, "sample.bin: sample: neighbour 0 of query 0 is the query itself");
    patch(fixture_path(path, "sample.bin"), SAMPLE_TRUTH, &nearest, 8);
    forge_digest(path, GENERATION_SAMPLE);

    patch(fixture_path(path, "codec.bin"), 12, &cosine, 4);
    forge_digest(path, GENERATION_CODEC);
    fixture_expect_fault(path, "codec.bin: it is for cosine u8 vectors");
    patch(fixture_path(path, "codec.bin"), 12, &l2, 4);
    patch(fixture_path(path, "codec.bin"), 0, &l2, 4);
    forge_digest(path, GENERATION_CODEC);
    fixture_expect_fault(path, "codec.bin: codec: bad magic");
    patch(fixture_path(path, "codec.bin"), 0, "NJCD", 4);
    forge_digest(path, GENERATION_CODEC);

    struct error err = {0};
    assert_int_equal(fixture_verify(path, &err), STATUS_OK);
    struct generation *generation = open_good(path);
    struct manifest manifest = *generation_manifest(generation);
    generation_close(generation);
    manifest.vector_count--;
    write_manifest(path, &manifest);
    fixture_expect_fault(path, "nodes.blk: its blocks hold 97 records, the manifest says 96");
    manifest.vector_count++;
    manifest.navigation_count--;
    write_manifest(path, &manifest);
    fixture_expect_fault(path, "navigation.bin: 5 nodes, the manifest says 4");
}

static void open_names_what_is_no_generation(void **state)
{
    struct generation *generation;
    struct error err = {0};
    const char *path = fixture_path(*state, "none");
    assert_int_equal(generation_open(path, &generation, &err), STATUS_NOT_FOUND);
    assert_int_equal(generation_write_text(*state, "file", "x", &err), STATUS_OK);
    assert_int_equal(generation_open(fixture_path(*state, "file"), &generation, &err),
                     STATUS_INVALID);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(generation_open(path, &generation, &err), STATUS_NOT_FOUND);
    assert_int_equal(
        generation_write_text(path, MANIFEST_FILE_NAME, "{\"format_version\": 1}", &err),
        STATUS_OK);
    assert_int_equal(generation_open(path, &generation, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "none/manifest.json: format_version 1, this build reads 5"));
    assert_int_equal(truncate(fixture_path(path, MANIFEST_FILE_NAME), 1 << 21), 0);
    assert_int_equal(generation_open(path, &generation, &err), STATUS_CORRUPT);
    generation_close(NULL);
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(generation_round_trips),
        CASE(generation_digest_tells_generations_apart),
        CASE(generation_serves_on_after_its_directory_is_removed),
        CASE(golden_generation_still_verifies),
        CASE(block_is_read_at_the_far_end_of_a_billion_nodes),
        CASE(missing_file_is_named),
        CASE(file_of_another_length_is_named),
        CASE(file_truncated_after_open_is_named),
        CASE(flipped_bit_is_named_with_file_and_block),
        CASE(load_refuses_a_flipped_bit),
        CASE(misplaced_and_stale_blocks_are_named),
        CASE(verify_reads_what_digests_cannot_tell),
        CASE(open_names_what_is_no_generation),
    };
    return cmocka_run_group_tests_name("generation", tests, NULL, NULL);
}
