/*
 * test_hnswlib_import.c - hnswlib's index files, made up here byte by byte: what comes out of them,
 * and every way in which one can be wrong. tests/e2e_hnswlib.sh has files of hnswlib's own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/directory_fixture.h"
#include "tools/hnswlib_file.h"

enum {
    COUNT = 20,
    DIM = 3,
    BASE_LINKS = 4,
    LIST_LINKS = 2,
    HEADER_BYTES = 96,
    VECTOR_AT = 4 + BASE_LINKS * 4,
    LABEL_AT = VECTOR_AT + DIM * 4,
    ELEMENT_BYTES = LABEL_AT + 8,
    UPPER_AT = HEADER_BYTES + COUNT * ELEMENT_BYTES,
    LIST_BYTES = 4 + LIST_LINKS * 4,
    LEVEL_MAX = 2,
    FILE_BYTES_MAX = UPPER_AT + COUNT * (4 + LEVEL_MAX * LIST_BYTES),
};

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[256];
    uint8_t bytes[FILE_BYTES_MAX + 8];
    size_t size;
    struct error err;
};

static void store(struct fixture *fixture, size_t at, const void *value, size_t bytes)
{
    memcpy(fixture->bytes + at, value, bytes);
}

static void store_u64(struct fixture *fixture, size_t at, uint64_t value)
{
    store(fixture, at, &value, sizeof(value));
}

static void store_u32(struct fixture *fixture, size_t at, uint32_t value)
{
    store(fixture, at, &value, sizeof(value));
}

static size_t element_at(uint32_t element)
{
    return HEADER_BYTES + (size_t)element * ELEMENT_BYTES;
}

static uint64_t label_of(uint32_t element)
{
    return UINT64_C(0x500000000) + (uint64_t)element * 7 % COUNT;
}

static float value_of(uint32_t element, uint32_t d)
{
    return (float)(element * 10 + d) + 0.5f;
}

/* Levels of elements: most are on level 0 alone, as in any such graph. */
static uint32_t level_of(uint32_t element)
{
    return element == 3 ? 2 : element % 5 == 1 ? 1 : 0;
}

static void fill_header(struct fixture *fixture)
{
    const double factor = 1.44;
    store_u64(fixture, 0, 0);
    store_u64(fixture, 8, COUNT + 100);
    store_u64(fixture, 16, COUNT);
    store_u64(fixture, 24, ELEMENT_BYTES);
    store_u64(fixture, 32, LABEL_AT);
    store_u64(fixture, 40, VECTOR_AT);
    store_u32(fixture, 48, LEVEL_MAX);
    store_u32(fixture, 52, 3);
    store_u64(fixture, 56, LIST_LINKS);
    store_u64(fixture, 64, BASE_LINKS);
    store_u64(fixture, 72, LIST_LINKS);
    store(fixture, 80, &factor, sizeof(factor));
    store_u64(fixture, 88, 200);
}

static void fill_element(struct fixture *fixture, uint32_t element)
{
    size_t at = element_at(element);
    fixture->bytes[at] = BASE_LINKS;
    for (uint32_t i = 0; i < BASE_LINKS; i++)
        store_u32(fixture, at + 4 + i * 4, (element + i + 1) % COUNT);
    for (uint32_t d = 0; d < DIM; d++) {
        float value = value_of(element, d);
        store(fixture, at + VECTOR_AT + d * 4, &value, sizeof(value));
    }
    store_u64(fixture, at + LABEL_AT, label_of(element));
}

/* A whole index, with nothing deleted. */
static void fill(struct fixture *fixture)
{
    memset(fixture->bytes, 0, sizeof(fixture->bytes));
    fill_header(fixture);
    for (uint32_t i = 0; i < COUNT; i++)
        fill_element(fixture, i);
    size_t at = UPPER_AT;
    for (uint32_t i = 0; i < COUNT; i++) {
        store_u32(fixture, at, level_of(i) * LIST_BYTES);
        at += 4;
        for (uint32_t level = 0; level < level_of(i); level++, at += LIST_BYTES) {
            fixture->bytes[at] = 1;
            store_u32(fixture, at + 4, COUNT - 1);
        }
    }
    fixture->size = at;
}

static void mark_deleted(struct fixture *fixture, uint32_t element)
{
    fixture->bytes[element_at(element) + 2] |= 1;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (fixture == NULL)
        return -1;
    *state = fixture;
    if (directory_fixture_create(fixture->directory) != 0)
        return -1;
    snprintf(fixture->path, sizeof(fixture->path), "%s/index.bin", fixture->directory);
    fill(fixture);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    return result;
}

static enum status open_as(struct fixture *fixture, enum element_type type, uint32_t dim,
                           struct hnswlib_file **file)
{
    directory_fixture_write(fixture->path, fixture->bytes, fixture->size);
    return hnswlib_file_open(fixture->path, type, dim, file, &fixture->err);
}

static struct hnswlib_file *open_whole(struct fixture *fixture, enum element_type type)
{
    struct hnswlib_file *file = NULL;
    if (open_as(fixture, type, 0, &file) != STATUS_OK)
        fail_msg("%s", fixture->err.text);
    return file;
}

static void assert_says(const struct fixture *fixture, enum status status, enum status wanted,
                        const char *words)
{
    const char *text = fixture->err.text;
    assert_int_equal(status, wanted);
    if (strncmp(text, fixture->path, strlen(fixture->path)) != 0 || strchr(text, '\n') != NULL ||
        strstr(text, words) == NULL)
        fail_msg("\"%s\" does not begin with the path and say \"%s\"", text, words);
}

/* What is in the fixture's bytes is refused; then they are whole again. */
static void assert_refused(struct fixture *fixture, enum status wanted, const char *words)
{
    struct hnswlib_file *file = NULL;
    assert_says(fixture, open_as(fixture, ELEMENT_F32, 0, &file), wanted, words);
    assert_null(file);
    fill(fixture);
}

static void vectors_and_labels_come_in_the_files_order(void **state)
{
    struct fixture *fixture = *state;
    struct hnswlib_file *file = open_whole(fixture, ELEMENT_F32);
    struct vector_shape shape = hnswlib_file_shape(file);
    assert_int_equal(shape.count, COUNT);
    assert_int_equal(shape.dim, DIM);
    assert_int_equal(shape.type, ELEMENT_F32);
    assert_int_equal(hnswlib_file_deleted(file), 0);
    float rows[7][DIM];
    uint64_t keys[7], count, done = 0;
    for (;;) {
        assert_int_equal(
            hnswlib_file_next(file, METRIC_COSINE, 7, rows, keys, &count, &fixture->err),
            STATUS_OK);
        if (count == 0)
            break;
        for (uint32_t i = 0; i < count; i++, done++) {
            assert_true(keys[i] == label_of((uint32_t)done));
            for (uint32_t d = 0; d < DIM; d++)
                assert_true(rows[i][d] == value_of((uint32_t)done, d));
        }
    }
    assert_int_equal(done, COUNT);
    hnswlib_file_close(file);
}

static void deleted_elements_are_left_out(void **state)
{
    struct fixture *fixture = *state;
    mark_deleted(fixture, 0);
    mark_deleted(fixture, 9);
    mark_deleted(fixture, COUNT - 1);
    /* Its label may be in use again. */
    store_u64(fixture, element_at(9) + LABEL_AT, label_of(10));
    /* Nor does it matter what is left of its vector. */
    store_u32(fixture, element_at(9) + VECTOR_AT, 0x7fc00000);
    struct hnswlib_file *file = open_whole(fixture, ELEMENT_F32);
    assert_int_equal(hnswlib_file_shape(file).count, COUNT - 3);
    assert_int_equal(hnswlib_file_deleted(file), 3);
    float rows[COUNT][DIM];
    uint64_t keys[COUNT], count;
    assert_int_equal(hnswlib_file_next(file, METRIC_L2, COUNT, rows, keys, &count, &fixture->err),
                     STATUS_OK);
    assert_int_equal(count, COUNT - 3);
    assert_true(keys[0] == label_of(1));
    assert_true(keys[7] == label_of(8) && keys[8] == label_of(10));
    assert_true(rows[8][2] == value_of(10, 2));
    hnswlib_file_close(file);

    for (uint32_t i = 0; i < COUNT; i++)
        mark_deleted(fixture, i);
    assert_refused(fixture, STATUS_INVALID, "all of its 20 elements are deleted");
}

static void other_flags_are_not_deletions(void **state)
{
    struct fixture *fixture = *state;
    fixture->bytes[element_at(4) + 2] = 0x10;
    fixture->bytes[element_at(4) + 3] = 1;
    struct hnswlib_file *file = open_whole(fixture, ELEMENT_F32);
    assert_int_equal(hnswlib_file_deleted(file), 0);
    hnswlib_file_close(file);
}

static void the_type_gives_the_dimension(void **state)
{
    struct fixture *fixture = *state;
    struct hnswlib_file *file = open_whole(fixture, ELEMENT_U8);
    assert_int_equal(hnswlib_file_shape(file).dim, DIM * 4);
    uint8_t row[DIM * 4];
    uint64_t key, count;
    assert_int_equal(hnswlib_file_next(file, METRIC_L2, 1, row, &key, &count, &fixture->err),
                     STATUS_OK);
    assert_memory_equal(row, fixture->bytes + element_at(0) + VECTOR_AT, sizeof(row));
    hnswlib_file_close(file);
    file = open_whole(fixture, ELEMENT_I8);
    assert_int_equal(hnswlib_file_shape(file).type, ELEMENT_I8);
    hnswlib_file_close(file);

    file = NULL;
    assert_int_equal(open_as(fixture, ELEMENT_F32, DIM, &file), STATUS_OK);
    hnswlib_file_close(file);
    file = NULL;
    assert_says(fixture, open_as(fixture, ELEMENT_F32, 12, &file), STATUS_INVALID,
                "its vectors have 12 bytes: 12 of u8 or i8, 3 of f32 (given: f32), wanted 12 "
                "dimensions");
    assert_says(fixture, open_as(fixture, ELEMENT_F16, 0, &file), STATUS_INVALID,
                "no vectors of f16");
    assert_null(file);
}

static void a_repeated_label_names_both(void **state)
{
    struct fixture *fixture = *state;
    store_u64(fixture, element_at(17) + LABEL_AT, 4711);
    store_u64(fixture, element_at(6) + LABEL_AT, 4711);
    assert_refused(fixture, STATUS_CORRUPT, "label 4711 is repeated: elements 6 and 17");
}

static void vectors_must_suit_the_metric(void **state)
{
    struct fixture *fixture = *state;
    float rows[COUNT][DIM];
    uint64_t keys[COUNT], count;
    mark_deleted(fixture, 0);
    memset(fixture->bytes + element_at(5) + VECTOR_AT, 0, DIM * 4);
    struct hnswlib_file *file = open_whole(fixture, ELEMENT_F32);
    assert_says(fixture,
                hnswlib_file_next(file, METRIC_COSINE, COUNT, rows, keys, &count, &fixture->err),
                STATUS_INVALID, "row 5 is a zero vector");
    hnswlib_file_close(file);
    file = open_whole(fixture, ELEMENT_F32);
    assert_int_equal(hnswlib_file_next(file, METRIC_NONE, COUNT, rows, keys, &count, &fixture->err),
                     STATUS_OK);
    hnswlib_file_close(file);

    store_u32(fixture, element_at(5) + VECTOR_AT + 4, 0x7fc00000);
    file = open_whole(fixture, ELEMENT_F32);
    assert_says(fixture,
                hnswlib_file_next(file, METRIC_NONE, COUNT, rows, keys, &count, &fixture->err),
                STATUS_INVALID, "row 5 has a NaN at dimension 1");
    hnswlib_file_close(file);
}

static void headers_that_do_not_add_up_are_refused(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        size_t at;
        uint64_t value;
        enum status status;
        const char *words;
    } faults[] = {
        {0, 8, STATUS_CORRUPT, "links at offset 8, wanted 0"},
        {8, COUNT - 1, STATUS_CORRUPT, "20 elements and room for 19"},
        {16, 0, STATUS_INVALID, "an index of no elements"},
        {16, UINT64_C(1) << 33, STATUS_CORRUPT, "8589934592 elements"},
        {16, COUNT + 1, STATUS_CORRUPT, "element 0 has 1 bytes of upper lists"},
        {24, ELEMENT_BYTES + 1, STATUS_CORRUPT, "bytes of an element 41, wanted 40"},
        {24, UINT64_MAX, STATUS_CORRUPT, "bytes of an element 18446744073709551615"},
        {32, VECTOR_AT, STATUS_CORRUPT, "labels at offset 20, wanted more than 20"},
        {32, UINT64_MAX - 7, STATUS_CORRUPT, "labels at offset 18446744073709551608"},
        {40, VECTOR_AT + 4, STATUS_CORRUPT, "vectors at offset 24, wanted 20"},
        {48, UINT64_C(0x3ffffffff), STATUS_CORRUPT, "on level -1"},
        {48, UINT64_C(2) | (uint64_t)COUNT << 32, STATUS_CORRUPT, "entry point 20"},
        {56, 0, STATUS_CORRUPT, "links on level 0 and 0 above"},
        {56, UINT64_MAX, STATUS_CORRUPT, "wanted 1 to 65535"},
        {64, 0, STATUS_CORRUPT, "0 links on level 0"},
        {64, UINT64_C(1) << 62, STATUS_CORRUPT, "wanted 1 to 65535"},
    };
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        store_u64(fixture, faults[i].at, faults[i].value);
        assert_refused(fixture, faults[i].status, faults[i].words);
    }
}

static void bytes_that_are_no_whole_f32_are_refused(void **state)
{
    struct fixture *fixture = *state;
    store_u64(fixture, 32, LABEL_AT - 1);
    store_u64(fixture, 24, ELEMENT_BYTES - 1);
    assert_refused(fixture, STATUS_INVALID, "its vectors have 11 bytes: 11 of u8 or i8");
}

static void files_cut_anywhere_are_refused(void **state)
{
    struct fixture *fixture = *state;
    size_t whole = fixture->size;
    for (size_t size = 0; size < whole; size++) {
        struct hnswlib_file *file = NULL;
        fixture->size = size;
        assert_says(fixture, open_as(fixture, ELEMENT_F32, 0, &file), STATUS_CORRUPT,
                    size < HEADER_BYTES ? "wanted an hnswlib header of 96" : "truncated");
        assert_null(file);
    }
    fixture->size = whole + 1;
    assert_refused(fixture, STATUS_CORRUPT, "too long");
}

static void links_that_lead_outside_are_refused(void **state)
{
    struct fixture *fixture = *state;
    store_u32(fixture, element_at(7) + 4, COUNT);
    assert_refused(fixture, STATUS_CORRUPT, "element 7 has a link to 20, but there are 20");
    fixture->bytes[element_at(7)] = BASE_LINKS + 1;
    assert_refused(fixture, STATUS_CORRUPT, "element 7 has 5 links, wanted at most 4");
    /* Element 1 is on level 1: behind its length are a list's header and links. */
    store_u32(fixture, UPPER_AT + 4 + 4 + 4, 99);
    assert_refused(fixture, STATUS_CORRUPT, "element 1 has a link to 99");
    fixture->bytes[UPPER_AT + 4 + 4] = LIST_LINKS + 1;
    assert_refused(fixture, STATUS_CORRUPT, "element 1 has 3 links, wanted at most 2");
    store_u32(fixture, UPPER_AT + 4, LIST_BYTES - 1);
    assert_refused(fixture, STATUS_CORRUPT,
                   "element 1 has 11 bytes of upper lists, wanted up to 2");
    store_u32(fixture, UPPER_AT + 4, (LEVEL_MAX + 1) * LIST_BYTES);
    assert_refused(fixture, STATUS_CORRUPT, "element 1 has 36 bytes of upper lists");
}

static void a_missing_file_is_named(void **state)
{
    struct fixture *fixture = *state;
    struct hnswlib_file *file = NULL;
    assert_says(fixture, hnswlib_file_open(fixture->path, ELEMENT_F32, 0, &file, &fixture->err),
                STATUS_NOT_FOUND, "no such file");
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(vectors_and_labels_come_in_the_files_order),
        T(deleted_elements_are_left_out),
        T(other_flags_are_not_deletions),
        T(the_type_gives_the_dimension),
        T(a_repeated_label_names_both),
        T(vectors_must_suit_the_metric),
        T(headers_that_do_not_add_up_are_refused),
        T(bytes_that_are_no_whole_f32_are_refused),
        T(files_cut_anywhere_are_refused),
        T(links_that_lead_outside_are_refused),
        T(a_missing_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
