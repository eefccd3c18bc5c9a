/*
 * test_generation_damage.c - single flipped bits and truncations anywhere in a generation: each is
 * found by verification, and no search, begun before or after the damage, gives a wrong answer
 * without saying that it is degraded.
 *
 * NIGHTJAR_DAMAGE=N makes N flips and N / 5 truncations instead of a few.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/random.h"
#include "tests/build_fixture.h"
#include "tests/directory_fixture.h"
#include "tests/engine_fixture.h"
#include "tests/index_fixture.h"

enum {
    FLIPS = 150,
    FILES = GENERATION_FILE_COUNT + 1, /* the last is the manifest */
    PATH_BYTES = 512,
    SEED = 20261121,
};

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    struct collection *collection;
    struct index *index;    /* opened before any damage */
    struct engine *engine;  /* over it */
    struct answers answers; /* of the whole generation */
};

/* What the damage came to. */
struct tally {
    uint32_t damages, unopened, unverified, degraded, unread;
};

static int group_setup(void **state)
{
    static const struct collection_spec spec = {.type = ELEMENT_U8,
                                                .metric = METRIC_L2,
                                                .count = 3000,
                                                .dim = 32,
                                                .query_count = FIXTURE_QUERIES};
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    assert_int_equal(directory_fixture_create(f->directory), 0);
    struct build_fixture files = {0};
    snprintf(files.attributes, sizeof(files.attributes), "%s/attrs.csv", f->directory);
    build_fixture_some_attributes(&files, spec.count);
    f->collection = collection_create_with(f->directory, "gen", &spec, files.attributes);
    f->index = collection_open(f->collection, 0);
    /* A buffer that keeps a block would hide what became of it on disk. */
    const struct engine_params own_reads = {.threads = 1, .own_reads = true};
    f->engine = engine_start(f->index, &own_reads);
    f->answers = answers_get(f->engine, f->collection, &ask_usual);
    *state = f;
    return 0;
}

static int group_teardown(void **state)
{
    struct fixture *f = *state;
    answers_free(&f->answers);
    engine_destroy(f->engine);
    index_release(f->index);
    collection_destroy(f->collection);
    int removed = directory_fixture_remove(f->directory);
    free(f);
    return removed;
}

static uint32_t damage_count(void)
{
    const char *wish = getenv("NIGHTJAR_DAMAGE");
    return wish ? (uint32_t)strtoul(wish, NULL, 10) : FLIPS;
}

static int damage_open(const struct fixture *f, uint32_t file, uint64_t *bytes)
{
    char path[PATH_BYTES];
    struct stat info;
    const char *name =
        file == GENERATION_FILE_COUNT ? MANIFEST_FILE_NAME : generation_file_names[file];
    snprintf(path, sizeof(path), "%s/%s", f->collection->path, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &info), 0);
    *bytes = (uint64_t)info.st_size;
    return fd;
}

/* ---- what must hold of a damaged generation ---- */

static void expect_found(const struct fixture *f, struct tally *tally)
{
    struct generation *generation = NULL;
    struct error err;
    tally->damages++;
    if (generation_open(f->collection->path, &generation, &err) != STATUS_OK) {
        tally->unopened++;
        return;
    }
    assert_int_not_equal(generation_verify(generation, NULL, &err), STATUS_OK);
    generation_close(generation);
    tally->unverified++;
}

/* Answers that do not say that they are degraded are those of the whole generation. */
static void expect_honest(const struct fixture *f, struct engine *engine, struct tally *tally)
{
    struct answers answers = answers_get(engine, f->collection, &ask_usual);
    uint32_t degraded = 0;
    for (uint32_t q = 0; q < answers.count; q++) {
        const struct search_query *query = &answers.queries[q];
        answer_check(f->collection, query, q);
        if ((query->flags & SEARCH_DEGRADED) != 0)
            degraded++;
        else
            assert_same_hits(query, &f->answers.queries[q]);
    }
    tally->degraded += degraded > 0;
    tally->unread += degraded == 0;
    answers_free(&answers);
}

static void expect_refused_or_honest(const struct fixture *f, struct tally *tally)
{
    const struct index_options options = {0};
    struct index *index = NULL;
    struct error err;
    if (index_open(f->collection->path, &options, &index, &err) != STATUS_OK)
        return;
    struct engine *engine = engine_plain(index);
    expect_honest(f, engine, tally);
    engine_destroy(engine);
    index_release(index);
}

static void expect_whole(const struct fixture *f)
{
    struct generation *generation = NULL;
    struct error err;
    assert_int_equal(generation_open(f->collection->path, &generation, &err), STATUS_OK);
    assert_int_equal(generation_verify(generation, NULL, &err), STATUS_OK);
    generation_close(generation);
}

static void tally_print(const char *what, const struct tally *tally)
{
    print_message("%u %s: %u kept it from opening, %u found by verify; searches: %u degraded, %u "
                  "not touched\n",
                  tally->damages, what, tally->unopened, tally->unverified, tally->degraded,
                  tally->unread);
}

/* ---- damage ---- */

/* Half of them in any file alike, so that small ones are met; half where the bytes are. */
static uint32_t file_choose(const struct fixture *f, uint32_t number)
{
    if (number % 2 == 0)
        return (uint32_t)random_below(SEED, number * 4u, FILES);
    const struct manifest *manifest = index_manifest(f->index);
    uint64_t total = 0;
    for (uint32_t i = 0; i < GENERATION_FILE_COUNT; i++)
        total += manifest->files[i].bytes;
    uint64_t at = random_below(SEED, number * 4u, total);
    uint32_t file = 0;
    while (at >= manifest->files[file].bytes)
        at -= manifest->files[file++].bytes;
    return file;
}

static void a_flipped_bit_is_found_and_no_answer_is_wrong_for_it(void **state)
{
    const struct fixture *f = *state;
    struct tally tally = {0}, live = {0};
    for (uint32_t i = 0; i < damage_count(); i++) {
        uint32_t file = file_choose(f, i);
        uint64_t bytes;
        uint8_t byte;
        int fd = damage_open(f, file, &bytes);
        off_t at = (off_t)random_below(SEED, i * 4u + 1, bytes);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        uint8_t flipped = (uint8_t)(byte ^ 1u << random_below(SEED, i * 4u + 2, 8));
        assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
        expect_found(f, &tally);
        expect_refused_or_honest(f, &tally);
        if (file == GENERATION_NODES)
            expect_honest(f, f->engine, &live);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
    }
    expect_whole(f);
    tally_print("flips", &tally);
    /* Some blocks are met by some query: else nothing was tried. */
    assert_true(tally.degraded > 0 && live.degraded > 0);
    assert_true(tally.unopened > 0 && tally.unverified > 0);
}

static void a_truncated_file_is_found_and_no_answer_is_wrong_for_it(void **state)
{
    const struct fixture *f = *state;
    struct tally tally = {0}, live = {0};
    for (uint32_t i = 0; i < damage_count() / 5; i++) {
        uint32_t file = i % FILES;
        uint64_t bytes;
        int fd = damage_open(f, file, &bytes);
        uint8_t *content = malloc(bytes);
        assert_non_null(content);
        assert_int_equal(pread(fd, content, bytes, 0), bytes);
        uint64_t left = random_below(SEED + 1, i, bytes);
        assert_int_equal(ftruncate(fd, (off_t)left), 0);
        expect_found(f, &tally);
        expect_refused_or_honest(f, &tally);
        if (file == GENERATION_NODES)
            expect_honest(f, f->engine, &live);
        assert_int_equal(pwrite(fd, content, bytes, 0), bytes);
        free(content);
        close(fd);
    }
    expect_whole(f);
    tally_print("truncations", &tally);
    assert_true(live.degraded > 0);
    /* Lengths are compared at open, so none of them gets further. */
    assert_int_equal(tally.unopened, tally.damages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit_is_found_and_no_answer_is_wrong_for_it),
        cmocka_unit_test(a_truncated_file_is_found_and_no_answer_is_wrong_for_it),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
