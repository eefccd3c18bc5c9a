/*
 * test_recall_gate.c - what is measured before a generation is published.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/vector_file.h"
#include "tests/build_fixture.h"
#include "tests/service.h"
#include "tools/recall_gate.h"

enum { K = 5, DEPTH = 7, QUERIES = 300 }; /* more than a batch */

/* Vectors of the index as queries of their own, with their true neighbours but themselves. */
struct fixture {
    struct service_data *data;
    uint64_t truth[QUERIES * DEPTH];
    float distances[QUERIES * DEPTH];
    uint32_t excluded[QUERIES];
    struct recall_sample sample;
};

struct neighbor {
    double distance;
    uint64_t key;
};

static int compare_neighbors(const void *a, const void *b)
{
    const struct neighbor *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance > y->distance ? 1 : -1;
    return (x->key > y->key) - (x->key < y->key);
}

static void truth_of(struct fixture *fixture, uint32_t query)
{
    static struct neighbor all[SERVICE_VECTORS];
    const struct service_data *data = fixture->data;
    for (uint32_t v = 0; v < SERVICE_VECTORS; v++) {
        all[v] = (struct neighbor){.key = v};
        for (uint32_t d = 0; d < SERVICE_DIM; d++) {
            double delta = (double)data->vectors[v][d] - (double)data->vectors[query][d];
            all[v].distance += delta * delta;
        }
    }
    qsort(all, SERVICE_VECTORS, sizeof(all[0]), compare_neighbors);
    uint32_t count = 0;
    for (uint32_t i = 0; count < DEPTH; i++) {
        if (all[i].key == query)
            continue;
        fixture->truth[query * DEPTH + count] = all[i].key;
        fixture->distances[query * DEPTH + count++] = (float)all[i].distance;
    }
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    *state = fixture;
    fixture->data = service_data_create();
    for (uint32_t q = 0; q < QUERIES; q++) {
        truth_of(fixture, q);
        fixture->excluded[q] = build_fixture_node_of(fixture->data->generation, q);
    }
    fixture->sample = (struct recall_sample){
        .name = "rows",
        .queries = (const uint8_t *)fixture->data->vectors,
        .row_bytes = sizeof(fixture->data->vectors[0]),
        .count = QUERIES,
        .truth_keys = fixture->truth,
        .truth_depth = DEPTH,
        .excluded_nodes = fixture->excluded,
    };
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    service_data_destroy(fixture->data);
    free(fixture);
    return 0;
}

static struct recall_gate *opened(const struct fixture *fixture, uint32_t k, uint32_t search_list,
                                  struct cmd_target *target)
{
    const struct recall_gate_params params = {.path = fixture->data->generation,
                                              .memory = "codes",
                                              .threads = 1,
                                              .k = k,
                                              .search_list = search_list};
    struct recall_gate *gate = NULL;
    struct error err = {0};
    if (recall_gate_open(&params, &gate, target, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return gate;
}

static struct recall_gate_result measure(const struct fixture *fixture, uint32_t search_list)
{
    struct recall_gate_result result = {.recall = -1};
    struct cmd_target target;
    struct error err = {0};
    struct recall_gate *gate = opened(fixture, K, search_list, &target);
    if (recall_gate_measure(gate, &fixture->sample, &result, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    recall_gate_close(gate);
    return result;
}

static void a_wide_search_finds_all_but_the_excluded(void **state)
{
    struct fixture *fixture = *state;
    struct recall_gate_result result = measure(fixture, SERVICE_VECTORS);
    assert_true(result.recall == 1);
    assert_int_equal(result.queries, QUERIES);
    assert_true(result.reads > 1);
    /* Each query finds itself, which is no answer to it. */
    fixture->sample.excluded_nodes = NULL;
    result = measure(fixture, SERVICE_VECTORS);
    fixture->sample.excluded_nodes = fixture->excluded;
    assert_true(result.recall > 0.79 && result.recall < 0.81);
}

static void recall_is_of_the_given_truth(void **state)
{
    struct fixture *fixture = *state;
    /* Of half of the queries, one of the K is wrong. */
    for (uint32_t q = 0; q < QUERIES; q += 2)
        fixture->truth[q * DEPTH + 1] = UINT64_C(1) << 40;
    struct recall_gate_result result = measure(fixture, SERVICE_VECTORS);
    for (uint32_t q = 0; q < QUERIES; q++)
        truth_of(fixture, q);
    assert_true(result.recall > 0.8999 && result.recall < 0.9001);
    /* Deeper than K is not looked at. */
    for (uint32_t q = 0; q < QUERIES; q++)
        fixture->truth[q * DEPTH + K] = UINT64_C(1) << 40;
    result = measure(fixture, SERVICE_VECTORS);
    for (uint32_t q = 0; q < QUERIES; q++)
        truth_of(fixture, q);
    assert_true(result.recall == 1);
}

static void samples_that_do_not_suit_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct recall_gate_result result;
    struct cmd_target target;
    struct error err = {0};
    struct recall_gate *gate = opened(fixture, DEPTH + 1, 100, &target);
    assert_int_equal(recall_gate_measure(gate, &fixture->sample, &result, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "7 neighbours a query"));
    recall_gate_close(gate);
    const struct recall_gate_params params = {.path = fixture->data->generation,
                                              .memory = "codes",
                                              .k = SERVICE_VECTORS + 1,
                                              .search_list = 1024};
    assert_int_equal(recall_gate_open(&params, &gate, &target, &err), STATUS_INVALID);
}

static void write_queries(const char *path, struct fixture *fixture)
{
    struct vector_writer *writer;
    struct error err = {0};
    const struct vector_shape shape = {QUERIES, SERVICE_DIM, ELEMENT_F32};
    if (vector_writer_open(path, shape, &writer, &err) != STATUS_OK ||
        vector_writer_append(writer, fixture->data->vectors, QUERIES, &err) != STATUS_OK ||
        vector_writer_finish(writer, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

static void files_make_a_sample(void **state)
{
    struct fixture *fixture = *state;
    struct cmd_target target;
    struct error err = {0};
    char queries[SERVICE_PATH_BYTES], groundtruth[SERVICE_PATH_BYTES];
    snprintf(queries, sizeof(queries), "%s/q.fbin", fixture->data->dir);
    snprintf(groundtruth, sizeof(groundtruth), "%s/t.bin", fixture->data->dir);
    write_queries(queries, fixture);
    uint32_t ids[QUERIES * DEPTH];
    for (size_t i = 0; i < ARRAY_LENGTH(ids); i++)
        ids[i] = (uint32_t)fixture->truth[i];
    struct ground_truth truth = {QUERIES, DEPTH, ids, fixture->distances};
    assert_int_equal(ground_truth_write(groundtruth, &truth, &err), STATUS_OK);
    struct recall_gate *gate = opened(fixture, K, 100, &target);
    struct recall_files files;
    assert_int_equal(recall_files_load(queries, groundtruth, &target, K, &files, &err), STATUS_OK);
    assert_int_equal(files.sample.count, QUERIES);
    assert_int_equal(files.sample.truth_depth, DEPTH);
    assert_memory_equal(files.sample.truth_keys, fixture->truth, sizeof(fixture->truth));
    assert_memory_equal(files.sample.truth_distances, fixture->distances,
                        sizeof(fixture->distances));
    assert_memory_equal(files.sample.queries, fixture->data->vectors,
                        QUERIES * files.sample.row_bytes);
    recall_files_free(&files);
    assert_int_equal(recall_files_load(queries, groundtruth, &target, DEPTH + 1, &files, &err),
                     STATUS_INVALID);
    /* Of another base. */
    target.vector_count = 2;
    assert_int_equal(recall_files_load(queries, groundtruth, &target, K, &files, &err),
                     STATUS_INVALID);
    recall_gate_close(gate);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wide_search_finds_all_but_the_excluded),
        cmocka_unit_test(recall_is_of_the_given_truth),
        cmocka_unit_test(samples_that_do_not_suit_are_refused),
        cmocka_unit_test(files_make_a_sample),
    };
    return cmocka_run_group_tests_name("recall_gate", tests, setup, teardown);
}
