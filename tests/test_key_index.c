/*
 * test_key_index.c - the sorted runs of shards and their merge into keys.bin: the same file
 * whatever the shards and threads; what is no run is refused and its piece made anew.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <omp.h>

#include "builder/key_index.h"
#include "common/memory.h"
#include "common/random.h"
#include "layout/keys.h"
#include "tests/generation_fixture.h"

enum {
    SEED = 5,
    DIRECTORY_FULL = KEYS_PAGE_KEYS * KEYS_PAGE_FIRSTS,
};

struct bench {
    const char *directory;
    struct work *work;
    struct shard_plan plan;
    struct key_index_params params;
    uint64_t *keys;  /* by position */
    uint32_t *nodes; /* by position: an order of its own, with holes */
};

static void bench_make(struct bench *b, const char *directory, uint32_t count, uint32_t shards)
{
    struct error err = {0};
    *b = (struct bench){.directory = directory};
    fixture_must(work_open(fixture_path(directory, "work"), "a test\n", WORK_ALONE, &b->work, &err),
                 &err);
    b->plan.work = b->work;
    b->plan.shape.count = count;
    b->plan.shard_count = shards;
    /* Uneven: each shard has half of what is left, the last the rest. */
    for (uint32_t s = 0; s < shards; s++)
        b->plan.starts[s + 1] =
            s + 1 == shards ? count : b->plan.starts[s] + (count - b->plan.starts[s] + 1) / 2;
    b->keys = calloc(count, sizeof(*b->keys));
    b->nodes = calloc(count, sizeof(*b->nodes));
    assert_true(b->keys && b->nodes);
    for (uint32_t i = 0; i < count; i++) {
        b->keys[i] = random_at(SEED, i);
        b->nodes[i] = 2 * ((i + 17) % count);
    }
    b->params = (struct key_index_params){
        .plan = &b->plan,
        .generation_seed = 99,
        .node_limit = 2 * count,
        .writer = fixture_open(fixture_path(directory, "gen"), GENERATION_CONTINUE),
    };
}

static void bench_free(struct bench *b)
{
    generation_writer_abort(b->params.writer);
    work_remove(b->work);
    free(b->keys);
    free(b->nodes);
}

static struct work_piece piece_of(uint32_t shard)
{
    return (struct work_piece){BUILD_STAGE_WRITE, shard};
}

static enum status run_write(const struct bench *b, uint32_t shard, struct error *err)
{
    const uint32_t start = b->plan.starts[shard];
    struct build_stage_record cost = {0};
    struct work_output *out = NULL;
    fixture_must(work_output_open(b->work, piece_of(shard), KEY_INDEX_PART, 0, &out, err), err);
    enum status status = key_index_run_write(b->keys + start, b->nodes + start,
                                             shard_own_count(&b->plan, shard), out, err);
    if (status == STATUS_OK)
        fixture_must(work_piece_commit(b->work, piece_of(shard), &out, 1, NULL, 0, &cost, err),
                     err);
    work_output_abort(out);
    return status;
}

static void runs_write(const struct bench *b)
{
    struct error err = {0};
    for (uint32_t s = 0; s < b->plan.shard_count; s++)
        fixture_must(run_write(b, s, &err), &err);
}

static enum status merge(const struct bench *b, const atomic_int *cancel, struct error *err)
{
    const struct build_monitor monitor = {.cancel = cancel};
    struct build_stage_record cost = {0};
    return key_index_merge(&b->params, &monitor, &cost, err);
}

/* keys.bin has every key with its node. */
static void expect_merged(const struct bench *b)
{
    const uint64_t count = b->plan.shape.count;
    const struct keys_shape shape = {count, b->params.generation_seed, b->params.node_limit};
    const uint32_t pages = keys_pages(count);
    struct key_index_info info;
    struct error err = {0};
    size_t length;
    uint8_t *bytes = fixture_read(fixture_path(b->directory, "gen/keys.bin"), &length);
    uint64_t *firsts = calloc(pages + 1, sizeof(*firsts));
    uint32_t last = 0;
    fixture_must(work_piece_read(b->work, (struct work_piece){BUILD_STAGE_KEYS, WORK_WHOLE}, &info,
                                 sizeof(info), NULL, &err),
                 &err);
    assert_int_equal(info.bytes, length);
    assert_int_equal(length, keys_bytes(count));
    for (uint32_t page = 0; page < keys_directory_pages(count); page++)
        assert_int_equal(keys_directory_open(&shape, page,
                                             bytes + (size_t)(pages + page) * KEYS_PAGE_BYTES,
                                             firsts + (size_t)page * KEYS_PAGE_FIRSTS),
                         KEYS_OK);
    struct keys_page view = {0};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t page, node;
        assert_true(keys_find_page(firsts, pages, b->keys[i], &page));
        if (view.count == 0 || page != last)
            assert_int_equal(
                keys_page_open(&shape, page, bytes + (size_t)page * KEYS_PAGE_BYTES, &view),
                KEYS_OK);
        last = page;
        assert_true(keys_page_find(&view, b->keys[i], &node));
        assert_int_equal(node, b->nodes[i]);
    }
    free(firsts);
    free(bytes);
}

static void merged_file_has_every_key_whatever_the_shards(void **state)
{
    static const struct {
        uint32_t count, shards;
    } cases[] = {
        {1, 1},    {340, 1},  {341, 1},   {341, 3},          {1000, 7},
        {5000, 2}, {5000, 9}, {87040, 2}, {87040 + 340, 20}, {DIRECTORY_FULL + 1, 3},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct bench b;
        struct error err = {0};
        bench_make(&b, *state, cases[i].count, cases[i].shards);
        runs_write(&b);
        fixture_must(merge(&b, NULL, &err), &err);
        expect_merged(&b);
        bench_free(&b);
    }
}

static void shards_and_threads_do_not_change_a_byte(void **state)
{
    enum { COUNT = 150000 }; /* keys that a team sorts */
    uint8_t *wanted = NULL;
    size_t wanted_length = 0;
    const int threads = omp_get_max_threads();
    for (uint32_t shards = 1; shards <= 4; shards++) {
        struct bench b;
        struct error err = {0};
        size_t length;
        omp_set_num_threads(1 + (int)shards % 3);
        bench_make(&b, *state, COUNT, shards);
        runs_write(&b);
        fixture_must(merge(&b, NULL, &err), &err);
        uint8_t *bytes = fixture_read(fixture_path(*state, "gen/keys.bin"), &length);
        if (wanted == NULL) {
            wanted = bytes;
            wanted_length = length;
        } else {
            assert_int_equal(length, wanted_length);
            assert_memory_equal(bytes, wanted, length);
            free(bytes);
        }
        bench_free(&b);
    }
    omp_set_num_threads(threads);
    free(wanted);
}

/* A merge that was stopped, or whose file holds more by now, starts over. */
static void stopped_merge_is_made_anew(void **state)
{
    struct bench b;
    struct error err = {0};
    const atomic_int cancel = 1;
    bench_make(&b, *state, 2000, 3);
    runs_write(&b);
    assert_int_equal(merge(&b, &cancel, &err), STATUS_CANCELLED);
    assert_false(work_piece_done(b.work, (struct work_piece){BUILD_STAGE_KEYS, WORK_WHOLE}));
    fixture_touch(fixture_path(*state, "gen/keys.bin"), 1 << 20);
    generation_writer_close(b.params.writer);
    b.params.writer = fixture_open(fixture_path(*state, "gen"), GENERATION_CONTINUE);
    fixture_must(merge(&b, NULL, &err), &err);
    expect_merged(&b);
    bench_free(&b);
}

/* ---- what is refused ---- */

static void a_key_of_two_rows_is_refused_in_a_shard_and_between_shards(void **state)
{
    struct bench b;
    struct error err = {0};
    bench_make(&b, *state, 3000, 2);
    b.keys[10] = b.keys[700];
    assert_int_equal(run_write(&b, 0, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "is that of two rows"));
    assert_false(work_piece_done(b.work, piece_of(0)));
    /* Wherever on a page it comes. */
    for (uint32_t i = 0; i < 8; i++) {
        b.keys[10 + i] = b.keys[2900 + i];
        runs_write(&b);
        assert_int_equal(merge(&b, NULL, &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, "is that of two rows"));
        b.keys[10 + i] = random_at(SEED + 1, i);
    }
    runs_write(&b);
    fixture_must(merge(&b, NULL, &err), &err);
    bench_free(&b);
}

/* Two equal keys on either side of a page's border. */
static void a_repeat_over_a_page_border_is_refused(void **state)
{
    struct bench b;
    struct error err = {0};
    bench_make(&b, *state, 2 * KEYS_PAGE_KEYS, 2);
    for (uint32_t i = 0; i < KEYS_PAGE_KEYS; i++) {
        b.keys[i] = i;
        b.keys[KEYS_PAGE_KEYS + i] = KEYS_PAGE_KEYS - 1 + i;
    }
    runs_write(&b);
    assert_int_equal(merge(&b, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "key 339 is that of two rows"));
    bench_free(&b);
}

/* Commits shard 1's run as given: sound by its checksums. */
static void run_commit(const struct bench *b, const uint8_t *bytes, size_t length)
{
    struct error err = {0};
    struct build_stage_record cost = {0};
    struct work_output *out = NULL;
    fixture_must(work_output_open(b->work, piece_of(1), KEY_INDEX_PART, 0, &out, &err), &err);
    fixture_must(work_output_append(out, bytes, length, &err), &err);
    fixture_must(work_piece_commit(b->work, piece_of(1), &out, 1, NULL, 0, &cost, &err), &err);
}

static void expect_run_refused(const struct bench *b, const uint8_t *bytes, size_t length,
                               const char *words)
{
    struct error err = {0};
    run_commit(b, bytes, length);
    assert_int_equal(merge(b, NULL, &err), STATUS_CORRUPT);
    if (strstr(err.text, words) == NULL || strstr(err.text, "write-00001.keys") == NULL)
        fail_msg("wanted \"%s\", got \"%s\"", words, err.text);
    assert_false(work_piece_done(b->work, piece_of(1)));
    assert_false(work_piece_done(b->work, (struct work_piece){BUILD_STAGE_KEYS, WORK_WHOLE}));
}

static void what_is_no_run_is_refused_and_forgotten(void **state)
{
    struct bench b;
    struct error err = {0};
    bench_make(&b, *state, 1000, 2);
    runs_write(&b);
    size_t length;
    uint8_t *good = fixture_read(fixture_path(*state, "work/write-00001.keys"), &length);
    uint8_t *bad = malloc(length);
    assert_non_null(bad);
    assert_int_equal(length, 500 * KEY_INDEX_RECORD_BYTES);
    memcpy(bad, good, length); /* two keys the wrong way round */
    memcpy(bad + 100 * 12, good + 101 * 12, 12);
    memcpy(bad + 101 * 12, good + 100 * 12, 12);
    expect_run_refused(&b, bad, length, "is no run of keys");
    memcpy(bad, good, length); /* a key twice */
    memcpy(bad + 499 * 12, good + 498 * 12, 8);
    expect_run_refused(&b, bad, length, "is no run of keys");
    memcpy(bad, good, length); /* a node that is none */
    memcpy(bad + 7 * 12 + 8, &b.params.node_limit, 4);
    expect_run_refused(&b, bad, length, "is no run of keys");
    memcpy(bad, good, length);
    expect_run_refused(&b, bad, length - KEY_INDEX_RECORD_BYTES, "has not the keys of all rows");
    fixture_must(run_write(&b, 1, &err), &err);
    fixture_must(merge(&b, NULL, &err), &err);
    expect_merged(&b);
    free(bad);
    free(good);
    bench_free(&b);
}

static void memory_is_bounded_by_pages_and_runs(void **state)
{
    (void)state;
    assert_in_range(key_index_memory_bytes(1000000000, 1), 1000000000 / 340 * 8, 30 << 20);
    assert_in_range(key_index_memory_bytes(1000000000, 1000), 64000000, 120 << 20);
}

int main(void)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)
    const struct CMUnitTest tests[] = {
        CASE(merged_file_has_every_key_whatever_the_shards),
        CASE(shards_and_threads_do_not_change_a_byte),
        CASE(stopped_merge_is_made_anew),
        CASE(a_key_of_two_rows_is_refused_in_a_shard_and_between_shards),
        CASE(a_repeat_over_a_page_border_is_refused),
        CASE(what_is_no_run_is_refused_and_forgotten),
        cmocka_unit_test(memory_is_bounded_by_pages_and_runs),
    };
    return cmocka_run_group_tests_name("key_index", tests, NULL, NULL);
}
