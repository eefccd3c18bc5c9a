/*
 * test_answer_check.c - the judge of the soak tests (answer_check.h): it passes a right answer, and
 * none that differs from it in any respect.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout/generation.h"
#include "tests/answer_check.h"
#include "tests/key_files.h"
#include "tests/service.h"

enum {
    K = 4,
    QUERIES = 3,
};
#define KEY_OFFSET UINT64_C(5000000000)

struct fixture {
    struct service_data *data;
    struct answer_check check;
    char argument[4 * SERVICE_PATH_BYTES];
    struct answer_tally tallies[ANSWER_GENERATIONS_MAX];
};

static const char *path_of(const struct fixture *fixture, const char *name)
{
    static char path[SERVICE_PATH_BYTES];
    snprintf(path, sizeof(path), "%s/%s", fixture->data->dir, name);
    return path;
}

static void must(enum status status, const struct error *err)
{
    if (status != STATUS_OK)
        fail_msg("%s", err->text);
}

static void write_vectors(const char *path, const void *rows, uint64_t count)
{
    struct error err;
    struct vector_writer *writer = NULL;
    const struct vector_shape shape = {count, SERVICE_DIM, ELEMENT_F32};
    must(vector_writer_open(path, shape, &writer, &err), &err);
    must(vector_writer_append(writer, rows, count, &err), &err);
    must(vector_writer_finish(writer, &err), &err);
}

/* Queries 0..QUERIES - 1 are rows of the base, and nearest to themselves. */
static int setup(void **state)
{
    struct error err;
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    fixture->data = service_data_create();
    write_vectors(path_of(fixture, "base.fbin"), fixture->data->vectors, SERVICE_VECTORS);
    write_vectors(path_of(fixture, "query.fbin"), fixture->data->vectors, QUERIES);
    must(answer_check_create(&fixture->check, path_of(fixture, "query.fbin"), K, &err), &err);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    answer_check_destroy(&fixture->check);
    service_data_destroy(fixture->data);
    free(fixture);
    return 0;
}

/* Adds the generation, with more files after its base ("" or ",KEYS", ...). */
static enum status add(struct fixture *fixture, const char *files, struct error *err)
{
    snprintf(fixture->argument, sizeof(fixture->argument), "%s=%s/base.fbin%s",
             fixture->data->generation, fixture->data->dir, files);
    return answer_check_add(&fixture->check, fixture->argument, err);
}

/* Step 0: keys are rows. 1: they count up from an offset. Others: down, with gaps. */
static uint64_t key_of(uint64_t step, uint32_t row)
{
    if (step == 0)
        return row;
    return KEY_OFFSET + (step == 1 ? row : step * (SERVICE_VECTORS - 1 - row));
}

/* Writes such keys; what add() takes for them. */
static const char *keys_file(struct fixture *fixture, uint64_t step)
{
    static char files[2 * SERVICE_PATH_BYTES];
    struct error err;
    uint64_t keys[SERVICE_VECTORS];
    for (uint32_t r = 0; r < SERVICE_VECTORS; r++)
        keys[r] = key_of(step, r);
    const char *path = path_of(fixture, "keys.u64bin");
    must(key_file_write(path, keys, SERVICE_VECTORS, &err), &err);
    snprintf(files, sizeof(files), ",%s", path);
    return files;
}

/* The right answer to a query, by brute force. */
static void right_answer(const struct fixture *fixture, uint64_t step, struct answer_hits *answer,
                         struct client_hit hits[K])
{
    static float distances[SERVICE_VECTORS];
    bool taken[SERVICE_VECTORS] = {false};
    const struct answer_check *check = &fixture->check;
    distance_rows(&check->distance, answer_check_query(check, answer->query), 0,
                  fixture->data->vectors, SERVICE_DIM * sizeof(float), SERVICE_VECTORS, distances);
    for (uint32_t i = 0; i < K; i++) {
        uint32_t best = SERVICE_VECTORS;
        for (uint32_t r = 0; r < SERVICE_VECTORS; r++)
            if (!taken[r] && (best == SERVICE_VECTORS || distances[r] < distances[best]))
                best = r;
        taken[best] = true;
        hits[i] = (struct client_hit){key_of(step, best), distances[best]};
    }
    answer->generation = check->generations[0].id;
    answer->hit_count = K;
    answer->hits = hits;
}

static void expect_wrong(struct fixture *fixture, const struct answer_hits *answer,
                         const char *words)
{
    struct error err;
    uint32_t generation;
    uint64_t before = fixture->tallies[0].answers;
    assert_int_equal(
        answer_check_hits(&fixture->check, answer, fixture->tallies, &generation, &err),
        STATUS_CORRUPT);
    assert_non_null(strstr(err.text, words));
    assert_int_equal(fixture->tallies[0].answers, before);
}

static void expect_right(struct fixture *fixture, const struct answer_hits *answer)
{
    struct error err;
    uint32_t generation = ANSWER_NO_GENERATION;
    must(answer_check_hits(&fixture->check, answer, fixture->tallies, &generation, &err), &err);
    assert_int_equal(generation, 0);
}

static void right_answers_pass_whatever_the_keys(void **state)
{
    struct fixture *fixture = *state;
    struct error err;
    for (uint64_t step = 0; step < 3; step++) {
        struct client_hit hits[K];
        must(add(fixture, step == 0 ? "" : keys_file(fixture, step), &err), &err);
        assert_true((fixture->check.generations[0].keys != NULL) == (step == 2));
        for (uint64_t query = 0; query < 2 * (uint64_t)QUERIES; query++) {
            struct answer_hits answer = {.query = query};
            right_answer(fixture, step, &answer, hits);
            expect_right(fixture, &answer);
        }
        assert_int_equal(fixture->tallies[0].answers, 2 * QUERIES * (step + 1));
        answer_check_destroy(&fixture->check);
        must(answer_check_create(&fixture->check, path_of(fixture, "query.fbin"), K, &err), &err);
    }
}

static void any_difference_is_noticed(void **state)
{
    struct fixture *fixture = *state;
    struct error err;
    struct client_hit hits[K], right[K];
    struct answer_hits answer = {.query = 1};
    must(add(fixture, keys_file(fixture, 2), &err), &err);
    right_answer(fixture, 2, &answer, right);
    answer.hits = hits;

    memcpy(hits, right, sizeof(hits));
    expect_right(fixture, &answer);
    answer.generation.low ^= 1;
    expect_wrong(fixture, &answer, "was not given");
    answer.generation.low ^= 1;
    answer.hit_count = K - 1;
    expect_wrong(fixture, &answer, "3 hits, want 4");
    answer.hit_count = K;

    hits[2].key++; /* odd ones are no keys */
    expect_wrong(fixture, &answer, "is not in gen");
    hits[2] = right[1];
    expect_wrong(fixture, &answer, "is hit 1 and hit 2");
    memcpy(hits, right, sizeof(hits));
    hits[2].key = key_of(2, SERVICE_VECTORS - 1);
    expect_wrong(fixture, &answer, "the answer says");
    memcpy(hits, right, sizeof(hits));
    hits[0] = right[1], hits[1] = right[0];
    expect_wrong(fixture, &answer, "nearer than the one before");
    memcpy(hits, right, sizeof(hits));
    answer.query = 2;
    expect_wrong(fixture, &answer, "the answer says");
    answer.query = 1;
    expect_right(fixture, &answer);
}

static void answer_of_other_keys_is_not_in_the_generation(void **state)
{
    struct fixture *fixture = *state;
    struct error err;
    struct client_hit hits[K];
    struct answer_hits answer = {.query = 0};
    must(add(fixture, keys_file(fixture, 1), &err), &err);
    right_answer(fixture, 0, &answer, hits); /* keys are rows, as of another generation */
    expect_wrong(fixture, &answer, "is not in gen");
}

static void recall_counts_what_the_truth_has(void **state)
{
    struct fixture *fixture = *state;
    struct error err;
    char files[2 * SERVICE_PATH_BYTES];
    struct client_hit hits[K];
    uint32_t ids[QUERIES * K];
    struct answer_hits answer = {.query = 0};
    must(add(fixture, "", &err), &err);
    assert_true(answer_check_recall(&fixture->check, 0, &fixture->tallies[0]) < 0);
    for (uint32_t q = 0; q < QUERIES; q++) {
        answer.query = q;
        right_answer(fixture, 0, &answer, hits);
        for (uint32_t i = 0; i < K; i++)
            ids[q * K + i] = (uint32_t)hits[i].key;
    }
    ids[0] = SERVICE_VECTORS - 1; /* one of query 0 is missed */
    const struct ground_truth truth = {.query_count = QUERIES, .k = K, .ids = ids};
    float distances[QUERIES * K] = {0};
    struct ground_truth written = truth;
    written.distances = distances;
    for (uint32_t i = 0; i < QUERIES * K; i++)
        distances[i] = -1.0f; /* no ties */
    must(ground_truth_write(path_of(fixture, "truth.bin"), &written, &err), &err);
    snprintf(files, sizeof(files), ",%s", path_of(fixture, "truth.bin"));
    answer_check_destroy(&fixture->check);
    must(answer_check_create(&fixture->check, path_of(fixture, "query.fbin"), K, &err), &err);
    must(add(fixture, files, &err), &err);
    for (answer.query = 0; answer.query < QUERIES; answer.query++) {
        right_answer(fixture, 0, &answer, hits);
        expect_right(fixture, &answer);
    }
    double recall = answer_check_recall(&fixture->check, 0, &fixture->tallies[0]);
    assert_true(recall > 11.0 / 12 - 1e-9 && recall < 11.0 / 12 + 1e-9);
}

static void arguments_that_do_not_fit_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct error err;
    assert_int_equal(answer_check_add(&fixture->check, "gen", &err), STATUS_INVALID);
    assert_int_equal(answer_check_add(&fixture->check, "=base", &err), STATUS_INVALID);
    assert_int_equal(add(fixture, ",nosuch.u64bin", &err), STATUS_NOT_FOUND);
    write_vectors(path_of(fixture, "base.fbin"), fixture->data->vectors, SERVICE_VECTORS - 1);
    answer_check_destroy(&fixture->check);
    must(answer_check_create(&fixture->check, path_of(fixture, "query.fbin"), K, &err), &err);
    assert_int_equal(add(fixture, "", &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "599 rows"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(right_answers_pass_whatever_the_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(any_difference_is_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(answer_of_other_keys_is_not_in_the_generation, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(recall_counts_what_the_truth_has, setup, teardown),
        cmocka_unit_test_setup_teardown(arguments_that_do_not_fit_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
