/*
 * test_build_attributes.c - builds with attributes: every node has its row's values, whatever the
 * number of shards, threads and stops; and the daemon's side of it, index_open(), hands them out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/build_size.h"
#include "common/random.h"
#include "query/index.h"
#include "tests/attributes_fixture.h"
#include "tests/build_fixture.h"

enum { ROWS = 350, COLUMNS = 6, SEED = 20261121, TAGS_BYTES = 64 };

/* Of rows, and as the file of the builder has them. */
struct values {
    uint64_t years[ROWS], deltas[ROWS], wides[ROWS], same[ROWS];
    char tags[ROWS][TAGS_BYTES];
    const char *none[ROWS];
    uint64_t keys[ROWS];
};

static const char header[] = "year:u64,tags:labels,delta:i64,same:u64,none:labels,wide:u64\n";

static struct values *values_make(const struct build_fixture *f)
{
    static const char *const names[] = {"red", "blue", "gr\xc3\xbcn", "a", "ab", "abc", "zz"};
    struct values *v = calloc(1, sizeof(*v));
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    assert_true(v && out);
    fputs(header, out);
    for (uint64_t row = 0; row < ROWS; row++) {
        v->years[row] = 1900 + random_below(SEED, row, 130);
        v->deltas[row] = random_below(SEED + 1, row, 100000) - 50000;
        v->wides[row] = random_at(SEED + 2, row);
        v->same[row] = 42;
        v->keys[row] = 1000000 + row * 7919 % ROWS;
        for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
            if (random_below(SEED + 3 + i, row, 2 + i) == 0) {
                if (v->tags[row][0] != '\0')
                    strcat(v->tags[row], "|");
                strcat(v->tags[row], names[ARRAY_LENGTH(names) - 1 - i]);
            }
        fprintf(out, "%llu,\"%s\",%lld,42,,%llu\n", (unsigned long long)v->years[row], v->tags[row],
                (long long)v->deltas[row], (unsigned long long)v->wides[row]);
    }
    assert_int_equal(fclose(out), 0);
    build_fixture_write_attributes(f, text, length);
    free(text);
    return v;
}

static uint64_t row_of(const struct values *v, const uint64_t *keys, uint64_t key)
{
    uint64_t row = key;
    if (keys != NULL)
        for (row = 0; row < ROWS && v->keys[row] != key; row++)
            ;
    assert_true(row < ROWS);
    return row;
}

/* attributes.bin is, to the byte, what the plain way makes of each node's row. */
static void expect_values(const struct build_fixture *f, const struct values *v,
                          const uint64_t *keys)
{
    uint64_t *node_keys;
    bool *exists;
    const uint32_t limit = build_fixture_nodes(f->output, &node_keys, &exists);
    uint64_t *numbers[4];
    const char **labels[2];
    for (int i = 0; i < 4; i++)
        assert_non_null(numbers[i] = calloc(limit, sizeof(*numbers[i])));
    for (int i = 0; i < 2; i++)
        assert_non_null(labels[i] = calloc(limit, sizeof(*labels[i])));
    for (uint32_t node = 0; node < limit; node++) {
        if (!exists[node])
            continue;
        const uint64_t row = row_of(v, keys, node_keys[node]);
        const uint64_t row_numbers[4] = {v->years[row], v->deltas[row], v->same[row],
                                         v->wides[row]};
        for (int i = 0; i < 4; i++)
            numbers[i][node] = row_numbers[i];
        labels[0][node] = v->tags[row];
    }
    const struct attributes_fixture_column columns[COLUMNS] = {
        {"year", ATTRIBUTE_U64, numbers[0], NULL},   {"tags", ATTRIBUTE_LABELS, NULL, labels[0]},
        {"delta", ATTRIBUTE_I64, numbers[1], NULL},  {"same", ATTRIBUTE_U64, numbers[2], NULL},
        {"none", ATTRIBUTE_LABELS, NULL, labels[1]}, {"wide", ATTRIBUTE_U64, numbers[3], NULL},
    };
    size_t wanted_bytes, found_bytes;
    uint8_t *wanted = attributes_fixture_image(columns, COLUMNS, limit, exists, &wanted_bytes);
    uint8_t *found = fixture_read(fixture_path(f->output, "attributes.bin"), &found_bytes);
    assert_int_equal(found_bytes, wanted_bytes);
    assert_memory_equal(found, wanted, wanted_bytes);
    free(found);
    free(wanted);
    for (int i = 0; i < 4; i++)
        free(numbers[i]);
    for (int i = 0; i < 2; i++)
        free(labels[i]);
    free(node_keys);
    free(exists);
}

static struct build_params params_of(const struct build_fixture *f, uint32_t shards)
{
    struct build_params params = build_fixture_params(f);
    params.degree = 12;
    params.code_bytes = 2;
    params.threads = 1;
    params.shards = shards;
    params.attributes = f->attributes;
    return params;
}

/* ---- builds ---- */

static void every_node_has_its_rows_values(void **state)
{
    struct build_fixture *f = *state;
    static const uint32_t shards[] = {1, 2, 5};
    struct values *v = values_make(f);
    free(build_fixture_input(f, ELEMENT_U8, ROWS, 6));
    build_fixture_write_keys(f, v->keys, ROWS);
    for (size_t i = 0; i < ARRAY_LENGTH(shards); i++)
        for (int keys = 0; keys < 2; keys++) {
            struct build_params params = params_of(f, shards[i]);
            params.keys = keys ? f->keys : NULL;
            build_fixture_build(&params, NULL);
            (void)build_fixture_digest(f->output);
            expect_values(f, v, keys ? v->keys : NULL);
            build_fixture_clear(f);
        }
    free(v);
}

static void bytes_do_not_depend_on_threads_or_stages_run_alone(void **state)
{
    struct build_fixture *f = *state;
    free(values_make(f));
    free(build_fixture_input(f, ELEMENT_U8, ROWS, 6));
    struct build_params params = params_of(f, 3);
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    params.threads = 3;
    build_fixture_expect_same(build_fixture_once(f, &params, NULL), wanted);
    params.one_stage = true;
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        params.stage = (enum build_stage)stage;
        build_fixture_build(&params, NULL);
    }
    build_fixture_expect_same(build_fixture_digest(f->output), wanted);
    build_fixture_clear(f);
}

/* More labels in all rows than are written at a time, and in no order. */
static void labels_of_several_windows_are_all_written(void **state)
{
    enum { LABELS = 400, OF_A_ROW = 300 };
    _Static_assert(ROWS * OF_A_ROW > ATTRIBUTE_NODE_LABELS_MAX, "more than a window");
    struct build_fixture *f = *state;
    char *text = NULL;
    size_t length = 0, bytes;
    FILE *out = open_memstream(&text, &length);
    assert_non_null(out);
    fputs("t:labels\n", out);
    for (uint32_t row = 0; row < ROWS; row++)
        for (uint32_t i = 0; i < OF_A_ROW; i++)
            fprintf(out, "%03u%c", (row * 7 + i * 3) % LABELS, i + 1 < OF_A_ROW ? '|' : '\n');
    assert_int_equal(fclose(out), 0);
    build_fixture_write_attributes(f, text, length);
    free(text);
    free(build_fixture_input(f, ELEMENT_U8, ROWS, 6));
    const struct build_params params = params_of(f, 2);
    build_fixture_build(&params, NULL);
    (void)build_fixture_digest(f->output); /* what is checked: nodes, labels and postings agree */
    uint64_t *keys;
    bool *exists;
    const uint32_t limit = build_fixture_nodes(f->output, &keys, &exists);
    struct attributes a;
    struct error err = {0};
    uint8_t *image = fixture_read(fixture_path(f->output, "attributes.bin"), &bytes);
    fixture_must(attributes_decode(image, bytes, limit, ROWS, &a, &err), &err);
    const struct attribute_column *t = &a.columns[0];
    assert_int_equal(t->label_count, LABELS);
    for (uint32_t node = 0; node < limit; node++) {
        bool wanted[LABELS] = {false};
        for (uint32_t i = 0; exists[node] && i < OF_A_ROW; i++)
            wanted[(keys[node] * 7 + i * 3) % LABELS] = true;
        assert_int_equal(t->node_at[node + 1] - t->node_at[node], exists[node] ? OF_A_ROW : 0);
        for (uint64_t i = t->node_at[node]; i < t->node_at[node + 1]; i++)
            assert_true(wanted[t->node_labels[i]]); /* "000" is the first of all */
    }
    free(image);
    free(keys);
    free(exists);
}

/* What the ingest stage left of the attributes is damaged: found, made anew, and the rest goes on.
 */
static void damaged_work_is_found_and_made_anew(void **state)
{
    struct build_fixture *f = *state;
    static const char *const parts[] = {"attributes", "values-0", "values-1", "labels-1"};
    free(values_make(f));
    free(build_fixture_input(f, ELEMENT_U8, ROWS, 6));
    struct build_params params = params_of(f, 2);
    const struct digest128 wanted = build_fixture_once(f, &params, NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++)
        for (uint64_t place = 0; place < 2; place++) {
            char name[64];
            struct error err = {0};
            params.one_stage = true;
            for (unsigned stage = 0; stage < BUILD_STAGE_NAVIGATION; stage++) {
                params.stage = (enum build_stage)stage;
                build_fixture_build(&params, NULL);
            }
            params.one_stage = false;
            snprintf(name, sizeof(name), "ingest.%s", parts[i]);
            const char *path = fixture_path(f->work, name);
            fixture_flip_bit(path, fixture_length(path) * 8 * place / 2 + 7);
            assert_int_equal(build_run(&params, NULL, &err), STATUS_CORRUPT);
            build_fixture_expect_line(&err);
            build_fixture_build(&params, NULL);
            build_fixture_expect_same(build_fixture_digest(f->output), wanted);
            build_fixture_clear(f);
        }
}

static void other_attributes_make_another_generation(void **state)
{
    struct build_fixture *f = *state;
    struct build_summary with, without, other;
    free(build_fixture_input(f, ELEMENT_U8, ROWS, 6));
    struct build_params params = params_of(f, 1);
    build_fixture_some_attributes(f, ROWS);
    (void)build_fixture_once(f, &params, &with);
    /* The same values, in other bytes. */
    size_t length;
    uint8_t *text = fixture_read(f->attributes, &length);
    build_fixture_write_attributes(f, (const char *)text, length - 1);
    free(text);
    (void)build_fixture_once(f, &params, &other);
    params.attributes = NULL;
    (void)build_fixture_once(f, &params, &without);
    assert_false(build_fixture_same(with.manifest.generation_id, other.manifest.generation_id));
    assert_false(build_fixture_same(with.manifest.generation_id, without.manifest.generation_id));
    assert_true(with.manifest.files[GENERATION_ATTRIBUTES].bytes > 0);
    assert_int_equal(without.manifest.files[GENERATION_ATTRIBUTES].bytes, 0);
}

/* Whatever an earlier build has left in the output. */
static void without_attributes_there_is_no_file_of_them(void **state)
{
    struct build_fixture *f = *state;
    free(build_fixture_input(f, ELEMENT_U8, ROWS, 6));
    struct build_params params = params_of(f, 1);
    params.attributes = NULL;
    build_fixture_build(&params, NULL);
    assert_false(fixture_exists(fixture_path(f->output, "attributes.bin")));
    struct digest128 wanted = build_fixture_digest(f->output);
    build_fixture_clear(f);
    params.keep_work = true;
    build_fixture_build(&params, NULL);
    assert_int_equal(unlink(fixture_path(f->output, MANIFEST_FILE_NAME)), 0);
    fixture_touch(fixture_path(f->output, "attributes.bin"), 100);
    struct error err = {0};
    fixture_must(build_run(&params, NULL, &err), &err);
    assert_false(fixture_exists(fixture_path(f->output, "attributes.bin")));
    build_fixture_expect_same(build_fixture_digest(f->output), wanted);
}

static void work_of_other_attributes_is_refused(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    free(build_fixture_input(f, ELEMENT_U8, ROWS, 6));
    build_fixture_some_attributes(f, ROWS);
    struct build_params params = params_of(f, 1);
    params.one_stage = true;
    params.stage = BUILD_STAGE_INGEST;
    build_fixture_build(&params, NULL);
    params.attributes = NULL;
    params.one_stage = false;
    assert_int_equal(build_run(&params, NULL, &err), STATUS_EXISTS);
    assert_non_null(strstr(err.text, "attributes"));
}

/* ---- sizes ---- */

static void attributes_are_planned_for(void **state)
{
    (void)state;
    const struct vector_shape billion = {.count = 1000000000, .dim = 128, .type = ELEMENT_U8};
    struct build_params params = {.metric = METRIC_L2,
                                  .degree = 64,
                                  .code_bytes = 32,
                                  .codec = CODEC_PQ,
                                  .replication = 1.8,
                                  .threads = 2,
                                  .navigation_share = 0.01};
    struct build_size without, with;
    build_size_compute(&params, &billion, 10, &without);
    params.attribute_extent = (struct attribute_extent){
        .file_bytes = UINT64_C(30) << 30, .number_columns = 2, .label_columns = 1};
    build_size_compute(&params, &billion, 10, &with);
    const uint64_t n = billion.count;
    const uint64_t before = without.shared_bytes[BUILD_STAGE_NAVIGATION];
    const uint64_t after = with.shared_bytes[BUILD_STAGE_NAVIGATION];
    assert_in_range(after, 24 * n, 25 * n);
    assert_true(after > before);
    assert_true(with.shared_bytes[BUILD_STAGE_INGEST] > without.shared_bytes[BUILD_STAGE_INGEST]);
    assert_true(with.scratch_bytes >= without.scratch_bytes + 18 * n);
    assert_true(with.disk_bytes >= without.disk_bytes + 24 * n);
    assert_int_equal(with.shared_bytes[BUILD_STAGE_WRITE], without.shared_bytes[BUILD_STAGE_WRITE]);
}

/* ---- the daemon's side ---- */

static void an_open_index_hands_out_the_attributes(void **state)
{
    struct build_fixture *f = *state;
    struct error err = {0};
    struct index *index = NULL;
    struct build_summary summary;
    const struct index_options none = {0};
    free(values_make(f));
    free(build_fixture_input(f, ELEMENT_U8, ROWS, 6));
    struct build_params params = params_of(f, 1);
    build_fixture_build(&params, &summary);
    const uint64_t bytes = summary.manifest.files[GENERATION_ATTRIBUTES].bytes;
    fixture_must(index_open(f->output, &none, &index, &err), &err);
    const struct attributes *attributes = index_attributes(index);
    assert_int_equal(attributes->column_count, COLUMNS);
    assert_int_equal(attributes->vector_count, ROWS);
    fixture_must(attributes_check(attributes, &err), &err);
    const struct index_memory memory = index_memory_of(index);
    assert_int_equal(memory.attributes_bytes, bytes);
    index_release(index);
    const uint64_t least = memory.codes_bytes + memory.navigation_bytes + memory.keys_bytes + bytes;
    const struct index_options small = {.memory_bytes = least - 1},
                               enough = {.memory_bytes = least};
    assert_int_equal(index_open(f->output, &small, &index, &err), STATUS_NO_MEMORY);
    assert_non_null(strstr(err.text, "codes, navigation, attributes and first keys take"));
    fixture_must(index_open(f->output, &enough, &index, &err), &err);
    index_release(index);
    fixture_flip_bit(fixture_path(f->output, "attributes.bin"), bytes * 4);
    assert_int_equal(index_open(f->output, &none, &index, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "attributes.bin"));
    assert_int_equal(index_probe(f->output, 0, &err), STATUS_CORRUPT);
    build_fixture_clear(f);
    params.attributes = NULL;
    build_fixture_build(&params, NULL);
    fixture_must(index_open(f->output, &none, &index, &err), &err);
    assert_int_equal(index_attributes(index)->column_count, 0);
    assert_int_equal(index_memory_of(index).attributes_bytes, 0);
    index_release(index);
}

int main(void)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(every_node_has_its_rows_values),
        CASE(bytes_do_not_depend_on_threads_or_stages_run_alone),
        CASE(labels_of_several_windows_are_all_written),
        CASE(damaged_work_is_found_and_made_anew),
        CASE(other_attributes_make_another_generation),
        CASE(without_attributes_there_is_no_file_of_them),
        CASE(work_of_other_attributes_is_refused),
        CASE(attributes_are_planned_for),
        CASE(an_open_index_hands_out_the_attributes),
    };
    return cmocka_run_group_tests_name("build_attributes", tests, NULL, NULL);
}
