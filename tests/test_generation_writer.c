/*
 * test_generation_writer.c - generations are written whole or not at all, whatever call fails, and
 * their hashes are of what is stored. Several writers: test_generation_continue.c.
 */
#include <errno.h>
#include <fcntl.h>
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
#include "layout/generation.h"
#include "layout/store.h"
#include "tests/directory_fixture.h"
#include "tests/generation_fixture.h"

enum { SEED = 11, CALLS_MAX = 200 };

/* ---- what the writer refuses ---- */

static void expect_writer_refuses(const char *path, enum status status)
{
    struct generation_writer *writer;
    struct error err = {0};
    assert_int_equal(generation_writer_open(path, GENERATION_CREATE, &writer, &err), status);
    assert_true(strlen(err.text) > 0);
}

static void writer_refuses_what_exists(void **state)
{
    const char *path = fixture_path(*state, "gen");
    fixture_must_write(path, SEED);
    expect_writer_refuses(path, STATUS_EXISTS);
    expect_writer_refuses(fixture_path(path, "hot.bin"), STATUS_EXISTS);
    const char *link = fixture_path(*state, "link");
    assert_int_equal(symlink("gen", link), 0);
    expect_writer_refuses(link, STATUS_EXISTS);
    struct error err = {0};
    assert_int_equal(fixture_verify(path, &err), STATUS_OK);
}

static void writer_refuses_impossible_paths(void **state)
{
    expect_writer_refuses("", STATUS_INVALID);
    expect_writer_refuses("/", STATUS_INVALID);
    expect_writer_refuses("///", STATUS_INVALID);
    expect_writer_refuses(fixture_path(*state, "missing/gen"), STATUS_NOT_FOUND);
    char name[300];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    expect_writer_refuses(fixture_path(*state, name), STATUS_IO);
    assert_int_equal(directory_fixture_entries(*state), 0);
}

static void writer_takes_an_empty_directory_and_a_trailing_slash(void **state)
{
    const char *path = fixture_path(*state, "gen");
    assert_int_equal(mkdir(path, 0700), 0);
    fixture_must_write(fixture_path(*state, "gen//"), SEED);
    struct error err = {0};
    assert_int_equal(fixture_verify(path, &err), STATUS_OK);
}

static void writer_refuses_a_manifest_that_contradicts_the_files(void **state)
{
    const char *path = fixture_path(*state, "gen");
    struct generation_writer *writer;
    struct manifest manifest;
    struct error err = {0};
    fixture_manifest(SEED, &manifest);
    assert_int_equal(generation_writer_open(path, GENERATION_CREATE, &writer, &err), STATUS_OK);
    assert_int_equal(generation_writer_finish(writer, &manifest, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "nodes.blk has 0 bytes"));
    generation_writer_abort(writer);
    assert_false(fixture_exists(path));
}

static void unfinished_generation_does_not_open(void **state)
{
    const char *path = fixture_path(*state, "gen");
    struct generation_writer *writer;
    struct error err = {0};
    assert_int_equal(generation_writer_open(path, GENERATION_CREATE, &writer, &err), STATUS_OK);
    fixture_expect_fault(path, "did not finish");
    assert_int_equal(generation_write_text(path, GENERATION_REPORT_NAME, "{}", &err), STATUS_OK);
    generation_writer_abort(writer);
    assert_false(fixture_exists(path));
    generation_writer_abort(NULL);
}

static void aborted_writer_leaves_others_files_alone(void **state)
{
    const char *path = fixture_path(*state, "gen");
    assert_int_equal(mkdir(path, 0700), 0);
    struct generation_writer *writer;
    struct error err = {0};
    assert_int_equal(generation_writer_open(path, GENERATION_CREATE, &writer, &err), STATUS_OK);
    expect_writer_refuses(path, STATUS_EXISTS);
    assert_int_equal(directory_fixture_entries(path), GENERATION_FILE_COUNT);
    generation_writer_abort(writer);
    assert_int_equal(directory_fixture_entries(path), 0); /* the directory was not ours */
}

/* ---- reading back ---- */

struct watch {
    const struct fixture_image *image;
    int file;
    uint64_t offset[GENERATION_FILE_COUNT];
    uint64_t chunks[GENERATION_FILE_COUNT];
    bool orderly;
    bool same;
    size_t unit; /* of nodes.blk */
};

static enum status watch_chunk(void *context, enum generation_file file, uint64_t offset,
                               const void *data, size_t bytes, struct error *err)
{
    struct watch *watch = context;
    watch->orderly = watch->orderly && (int)file >= watch->file && offset == watch->offset[file] &&
                     bytes > 0 && (uintptr_t)data % BLOCK_PAGE_BYTES == 0 &&
                     (file != GENERATION_NODES || bytes % watch->unit == 0);
    watch->file = (int)file;
    watch->offset[file] += bytes;
    watch->chunks[file]++;
    if (watch->same && offset + bytes <= watch->image->bytes[file] &&
        memcmp(data, watch->image->data[file] + offset, bytes) == 0)
        return STATUS_OK;
    watch->same = false;
    return error_set(err, STATUS_CORRUPT, "%s is not what was written",
                     generation_file_names[file]);
}

static void every_byte_is_read_back_once_in_order(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    const char *path = fixture_path(*state, "gen");
    struct generation_writer *writer = fixture_open(path, GENERATION_CREATE);
    struct error err = {0};
    fixture_must(fixture_image_put_all(&image, writer, &err), &err);
    struct watch watch = {.image = &image, .orderly = true, .same = true, .unit = BLOCK_PAGE_BYTES};
    const struct generation_read_back read_back = {watch_chunk, NULL, &watch};
    struct manifest manifest;
    fixture_manifest(SEED, &manifest);
    fixture_must(generation_writer_finish(writer, &manifest, &read_back, &err), &err);
    assert_true(watch.orderly && watch.same);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        assert_int_equal(watch.offset[i], image.bytes[i]);
        assert_int_equal(watch.chunks[i], 1);
        XXH128_hash_t hash = XXH3_128bits(image.data[i], image.bytes[i]);
        assert_int_equal(manifest.files[i].bytes, image.bytes[i]);
        assert_true(manifest.files[i].xxh3.low == hash.low64 &&
                    manifest.files[i].xxh3.high == hash.high64);
    }
    fixture_expect_reference(path, *state);
    fixture_image_free(&image);
}

/* 12 KB blocks do not divide the megabyte that is read at a time. */
static void large_file_is_read_back_in_chunks_of_whole_blocks(void **state)
{
    enum { BLOCKS = 200, BLOCK_BYTES = 3 * BLOCK_PAGE_BYTES };
    struct manifest manifest;
    fixture_manifest(SEED, &manifest);
    manifest.geometry.block_bytes = BLOCK_BYTES;
    manifest.geometry.node_limit = BLOCKS * FIXTURE_NODES_PER_BLOCK;
    manifest.geometry.gap_width[3] = 11;
    manifest.block_count = BLOCKS;
    manifest.vector_count = BLOCKS * FIXTURE_NODES_PER_BLOCK;
    fixture_manifest_lengths(&manifest);
    struct fixture_image image;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        image.bytes[i] = (size_t)manifest.files[i].bytes;
    image.bytes[GENERATION_NODES] = (size_t)BLOCKS * BLOCK_BYTES;
    image.bytes[GENERATION_CODES] = (size_t)manifest.vector_count * FIXTURE_CODE_BYTES;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        image.data[i] = aligned_alloc(BLOCK_PAGE_BYTES,
                                      (image.bytes[i] / BLOCK_PAGE_BYTES + 1) * BLOCK_PAGE_BYTES);
        for (size_t at = 0; at < image.bytes[i]; at++)
            image.data[i][at] = (uint8_t)(random_at(SEED, at / 8) >> at % 8 * 8);
    }
    struct error err = {0};
    struct watch watch = {.image = &image, .orderly = true, .same = true, .unit = BLOCK_BYTES};
    const struct generation_read_back read_back = {watch_chunk, NULL, &watch};
    struct generation_writer *writer = fixture_open(fixture_path(*state, "gen"), GENERATION_CREATE);
    fixture_must(fixture_image_put_all(&image, writer, &err), &err);
    fixture_must(generation_writer_finish(writer, &manifest, &read_back, &err), &err);
    assert_true(watch.orderly && watch.same);
    assert_int_equal(watch.chunks[GENERATION_NODES], 3);
    assert_int_equal(watch.offset[GENERATION_NODES], image.bytes[GENERATION_NODES]);
    XXH128_hash_t hash = XXH3_128bits(image.data[GENERATION_NODES], image.bytes[GENERATION_NODES]);
    assert_true(manifest.files[GENERATION_NODES].xxh3.low == hash.low64);
    fixture_image_free(&image);
}

static void byte_flipped_after_it_was_written_is_seen(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    print_message("seed %d\n", SEED);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        for (int hooked = 0; hooked < 2; hooked++) {
            const char *path = fixture_path(*state, "gen");
            struct generation_writer *writer = fixture_open(path, GENERATION_CREATE);
            struct error err = {0};
            fixture_must(fixture_image_put_all(&image, writer, &err), &err);
            fixture_must(generation_writer_sync(writer, &err), &err);
            fixture_flip_bit(fixture_path(path, generation_file_names[i]),
                             random_below(SEED, (uint64_t)i, (uint64_t)image.bytes[i] * 8));
            struct manifest manifest;
            fixture_manifest(SEED, &manifest);
            if (hooked) {
                struct watch watch = {
                    .image = &image, .orderly = true, .same = true, .unit = BLOCK_PAGE_BYTES};
                const struct generation_read_back read_back = {watch_chunk, NULL, &watch};
                assert_int_equal(generation_writer_finish(writer, &manifest, &read_back, &err),
                                 STATUS_CORRUPT);
                assert_string_equal(strstr(err.text, generation_file_names[i]), err.text);
                assert_false(fixture_exists(fixture_path(path, MANIFEST_FILE_NAME)));
                assert_int_equal(manifest.files[0].bytes, 0);
                generation_writer_abort(writer);
                assert_false(fixture_exists(path));
            } else {
                /* Without the hook, the hash is that of the bytes stored. */
                fixture_must(generation_writer_finish(writer, &manifest, NULL, &err), &err);
                XXH128_hash_t hash = XXH3_128bits(image.data[i], image.bytes[i]);
                assert_true(manifest.files[i].xxh3.low != hash.low64);
                struct generation *generation = NULL;
                fixture_must(generation_open(path, &generation, &err), &err);
                void *data;
                size_t bytes;
                fixture_must(
                    generation_load(generation, (enum generation_file)i, &data, &bytes, &err),
                    &err);
                bulk_free(data, bytes, 1);
                generation_close(generation);
                assert_int_equal(unlink(fixture_path(path, MANIFEST_FILE_NAME)), 0);
                generation_writer_abort(fixture_open(path, GENERATION_CONTINUE));
            }
        }
    fixture_image_free(&image);
}

static void length_is_compared_before_anything_is_read_back(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    struct generation_writer *writer = fixture_open(fixture_path(*state, "gen"), GENERATION_CREATE);
    struct error err = {0};
    fixture_must(fixture_image_put_all(&image, writer, &err), &err);
    fixture_must(
        generation_writer_set_length(writer, GENERATION_HOT, image.bytes[GENERATION_HOT] - 4, &err),
        &err);
    struct watch watch = {.image = &image, .unit = BLOCK_PAGE_BYTES};
    const struct generation_read_back read_back = {watch_chunk, NULL, &watch};
    struct manifest manifest;
    fixture_manifest(SEED, &manifest);
    assert_int_equal(generation_writer_finish(writer, &manifest, &read_back, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "hot.bin"));
    assert_int_equal(watch.chunks[GENERATION_NODES], 0);
    /* Nor is a geometry relied upon that no generation can have. */
    fixture_must_put(&image, writer, GENERATION_HOT, 0, image.bytes[GENERATION_HOT]);
    manifest.geometry.block_bytes = 0;
    assert_int_equal(generation_writer_finish(writer, &manifest, &read_back, &err), STATUS_INVALID);
    fixture_must_finish(writer, SEED);
    fixture_expect_reference(fixture_path(*state, "gen"), *state);
    fixture_image_free(&image);
}

/* ---- failing calls ---- */

/* Runs fixture_write() with the nth call failing; false when there is no nth call. */
static bool write_with_fault(const char *path, struct fixture_nth_call *nth, enum status *status,
                             struct error *err)
{
    const struct store_faults faults = {fixture_fail_nth, nth};
    nth->calls = 0;
    store_inject(&faults);
    *status = fixture_write(path, SEED, err);
    store_inject(NULL);
    return nth->calls >= nth->fail_at;
}

static void any_failing_call_leaves_nothing_behind(void **state)
{
    static const int faults[] = {EIO, ENOSPC};
    const char *path = fixture_path(*state, "gen");
    for (size_t f = 0; f < ARRAY_LENGTH(faults); f++) {
        int n = 1;
        for (;; n++) {
            struct fixture_nth_call nth = {.fail_at = n, .outcome = faults[f]};
            struct error err = {0};
            enum status status;
            if (!write_with_fault(path, &nth, &status, &err))
                break;
            assert_int_equal(status, STATUS_IO);
            assert_non_null(strstr(err.text, strerror(faults[f])));
            assert_null(strchr(err.text, '\n'));
            struct generation *generation;
            assert_int_not_equal(generation_open(path, &generation, NULL), STATUS_OK);
            assert_int_equal(directory_fixture_entries(*state), 0);
            assert_true(n < CALLS_MAX);
        }
        /* mkdir; a create, a write (nodes.blk: two), an fsync, a read and a close of each file;
         * manifest: 5 calls; 2 directory fsyncs */
        assert_int_equal(n - 1, 1 + 5 * GENERATION_FILE_COUNT + 1 + 5 + 2);
        assert_int_equal(directory_fixture_entries(path), GENERATION_FILE_COUNT + 1);
        for (int i = 0; i < GENERATION_FILE_COUNT; i++)
            assert_int_equal(unlink(fixture_path(path, generation_file_names[i])), 0);
        assert_int_equal(unlink(fixture_path(path, MANIFEST_FILE_NAME)), 0);
        assert_int_equal(rmdir(path), 0);
    }
}

static void short_writes_are_carried_on(void **state)
{
    for (int n = 1;; n++) {
        char name[16];
        snprintf(name, sizeof(name), "gen-%d", n);
        const char *path = fixture_path(*state, name);
        struct fixture_nth_call nth = {
            .fail_at = n, .outcome = STORE_FAULT_SHORT, .writes_only = true};
        struct error err = {0};
        enum status status;
        bool happened = write_with_fault(path, &nth, &status, &err);
        if (status != STATUS_OK || fixture_verify(path, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        assert_true(n < CALLS_MAX);
        if (!happened)
            break;
    }
}

static int fail_reads_short(void *context, enum store_call call)
{
    int *left = context;
    return call == STORE_CALL_READ && (*left)-- > 0 ? STORE_FAULT_SHORT : 0;
}

static void short_reads_are_carried_on(void **state)
{
    struct fixture_image image;
    fixture_image_load(&image, *state, SEED);
    for (int count = 1; count < 6; count++) {
        char name[16];
        snprintf(name, sizeof(name), "gen-%d", count);
        const char *path = fixture_path(*state, name);
        struct error err = {0};
        struct generation_writer *writer = fixture_open(path, GENERATION_CREATE);
        fixture_must(fixture_image_put_all(&image, writer, &err), &err);
        int left = count;
        const struct store_faults faults = {fail_reads_short, &left};
        store_inject(&faults);
        enum status status = fixture_finish(writer, SEED, &err);
        store_inject(NULL);
        fixture_must(status, &err);
        assert_true(left <= 0);
        fixture_expect_reference(path, *state);
    }
    fixture_image_free(&image);
}

/* A device that moves parts of pages only. */
static int shorten_all(void *context, enum store_call call)
{
    int *left = context;
    return (call == STORE_CALL_WRITE || call == STORE_CALL_READ) && (*left)-- > 0
               ? STORE_FAULT_SHORT
               : 0;
}

static void part_of_a_page_is_moved_again_once(void **state)
{
    int fd = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct store_file file;
    struct error err = {0};
    assert_int_equal(store_open(&file, fd, *state, "pages", &err), STATUS_OK);
    store_set_direct(&file);
    uint8_t *pages = aligned_alloc(BLOCK_PAGE_BYTES, 2 * BLOCK_PAGE_BYTES);
    memset(pages, 7, 2 * BLOCK_PAGE_BYTES);
    if (file.direct)
        for (int count = 1; count <= 2; count++) {
            int left = count;
            const struct store_faults faults = {shorten_all, &left};
            store_inject(&faults);
            enum status written = store_write_at(&file, pages, BLOCK_PAGE_BYTES,
                                                 (uint64_t)count * BLOCK_PAGE_BYTES, &err);
            store_inject(NULL);
            assert_int_equal(written, count == 1 ? STATUS_OK : STATUS_IO);
            assert_true(left <= 0);
        }
    else
        print_message("this file system has no O_DIRECT\n");
    assert_int_equal(store_set_length(&file, 2 * BLOCK_PAGE_BYTES, &err), STATUS_OK);
    assert_int_equal(store_write_at(&file, pages, BLOCK_PAGE_BYTES, 0, &err), STATUS_OK);
    memset(pages, 0, 2 * BLOCK_PAGE_BYTES);
    assert_int_equal(store_read_at(&file, pages, BLOCK_PAGE_BYTES, 0, &err), STATUS_OK);
    assert_int_equal(pages[BLOCK_PAGE_BYTES - 1], 7);
    int left = 1;
    const struct store_faults short_read = {shorten_all, &left};
    memset(pages, 0, BLOCK_PAGE_BYTES);
    store_inject(&short_read);
    enum status status = store_read_at(&file, pages, BLOCK_PAGE_BYTES, 0, &err);
    store_inject(NULL);
    fixture_must(status, &err);
    assert_int_equal(pages[0] + pages[BLOCK_PAGE_BYTES - 1], 14);
    /* Reads end where the file does, in a page or between two. */
    assert_int_equal(store_read_at(&file, pages, 2 * BLOCK_PAGE_BYTES, BLOCK_PAGE_BYTES, &err),
                     STATUS_CORRUPT);
    assert_int_equal(store_set_length(&file, 100, &err), STATUS_OK);
    assert_int_equal(store_read_at(&file, pages, 100, 0, &err), STATUS_OK);
    assert_int_equal(store_read_at(&file, pages, 101, 0, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "pages: ends"));
    assert_int_equal(store_close(&file, &err), STATUS_OK);
    free(pages);
    close(fd);
}

static void failing_text_write_keeps_the_old_text(void **state)
{
    struct error err = {0};
    const char *file = fixture_path(*state, "note.json");
    assert_int_equal(generation_write_text(*state, "note.json", "old", &err), STATUS_OK);
    for (int n = 1;; n++) {
        struct fixture_nth_call nth = {.fail_at = n, .outcome = EIO};
        const struct store_faults faults = {fixture_fail_nth, &nth};
        store_inject(&faults);
        enum status status = generation_write_text(*state, "note.json", "newer", &err);
        store_inject(NULL);
        assert_int_equal(directory_fixture_entries(*state), 1);
        if (nth.calls < n) {
            assert_int_equal(status, STATUS_OK);
            assert_int_equal(fixture_length(file), 5);
            break;
        }
        assert_int_equal(status, STATUS_IO);
        /* create, write, fsync, close, rename: the old one stands until the rename is done */
        assert_int_equal(fixture_length(file), n <= 5 ? 3 : 5);
    }
    assert_int_equal(generation_write_text(*state, "a/b", "", &err), STATUS_INVALID);
    assert_int_equal(generation_write_text(*state, "", "", &err), STATUS_INVALID);
    assert_int_not_equal(generation_write_text(fixture_path(*state, "missing"), "x", "", &err),
                         STATUS_OK);
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(writer_refuses_what_exists),
        CASE(writer_refuses_impossible_paths),
        CASE(writer_takes_an_empty_directory_and_a_trailing_slash),
        CASE(writer_refuses_a_manifest_that_contradicts_the_files),
        CASE(unfinished_generation_does_not_open),
        CASE(aborted_writer_leaves_others_files_alone),
        CASE(every_byte_is_read_back_once_in_order),
        CASE(large_file_is_read_back_in_chunks_of_whole_blocks),
        CASE(byte_flipped_after_it_was_written_is_seen),
        CASE(length_is_compared_before_anything_is_read_back),
        CASE(any_failing_call_leaves_nothing_behind),
        CASE(short_writes_are_carried_on),
        CASE(short_reads_are_carried_on),
        CASE(part_of_a_page_is_moved_again_once),
        CASE(failing_text_write_keeps_the_old_text),
    };
    return cmocka_run_group_tests_name("generation_writer", tests, NULL, NULL);
}
