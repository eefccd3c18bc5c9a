/*
 * test_work_damage.c - the work directory: any damage to a record or file is found, named, hurts
 * nothing else, and is made good by the next run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <xxhash.h>

#include "builder/work.h"
#include "tests/directory_fixture.h"
#include "tests/work_fixture.h"

/* Gives a forged record the checksum that it needs to be believed. */
static void seal(struct image *record)
{
    uint64_t hash = XXH3_64bits(record->bytes, record->length - sizeof(hash));
    memcpy(record->bytes + record->length - sizeof(hash), &hash, sizeof(hash));
}

/* ---- damaged records ---- */

/* The record lies there damaged, and reads as none. */
static void expect_no_piece(struct work *work, const char *record)
{
    struct work_input *input = NULL;
    struct info info = {1, 1};
    struct error err = {0};
    struct image damaged = load(record);
    assert_false(work_piece_done(work, GRAPH_3));
    assert_true(work_is_empty(work));
    enum status status = work_piece_read(work, GRAPH_3, &info, sizeof(info), NULL, &err);
    expect_discarded(status, &err, record);
    assert_int_equal(info.rows, 1);
    assert_false(fixture_exists(record));
    save(record, &damaged);
    status = work_input_open(work, GRAPH_3, "lists", 0, 0, &input, &err);
    expect_discarded(status, &err, record);
    assert_null(input);
    assert_false(fixture_exists(record));
}

static void record_with_any_byte_changed_is_none(void **state)
{
    struct work *work = open_work(*state);
    write_good(work, GRAPH_3);
    const char *name = path_in(work, "graph-00003.done");
    const struct image good = load(name);
    for (size_t i = 0; i < good.length; i++) {
        struct image bad = good;
        bad.bytes[i] ^= (uint8_t)(1u << i % 8);
        save(name, &bad);
        expect_no_piece(work, name);
    }
    save(name, &good);
    expect_good(work, GRAPH_3);
    work_close(work);
}

static void record_of_any_other_length_is_none(void **state)
{
    struct work *work = open_work(*state);
    write_good(work, GRAPH_3);
    const char *name = path_in(work, "graph-00003.done");
    const struct image good = load(name);
    for (size_t length = 0; length <= good.length + 9; length++) {
        struct image bad = good;
        if (length == good.length)
            continue;
        if (length > good.length)
            memset(bad.bytes + good.length, 0, length - good.length);
        bad.length = length;
        save(name, &bad);
        expect_no_piece(work, name);
        /* Even if its checksum is right. */
        if (length >= sizeof(uint64_t)) {
            seal(&bad);
            save(name, &bad);
            expect_no_piece(work, name);
        }
    }
    work_close(work);
}

/* A checksum is no proof of a sound writer: nothing that such a record says may lead outside it.
 * (That a change goes unnoticed is right where the byte is of cost, info or digests.) */
static void forged_record_leads_nowhere(void **state)
{
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0xff};
    struct work *work = open_work(*state);
    write_good(work, GRAPH_3);
    const char *name = path_in(work, "graph-00003.done");
    const struct image good = load(name);
    int refused = 0, tried = 0;
    for (size_t i = 0; i < good.length - sizeof(uint64_t); i++) {
        for (size_t v = 0; v < ARRAY_LENGTH(values); v++) {
            struct image bad = good;
            struct info info;
            struct error err;
            if (bad.bytes[i] == values[v])
                continue;
            bad.bytes[i] = values[v];
            seal(&bad);
            save(name, &bad);
            tried++;
            refused += !work_piece_done(work, GRAPH_3);
            (void)!work_piece_read(work, GRAPH_3, &info, sizeof(info), NULL, &err);
            save(name, &bad);
            (void)!piece_read(work, GRAPH_3, &err);
        }
    }
    assert_true(tried > 500 && refused > tried / 3);
    work_close(work);
}

static void record_of_another_piece_or_job_is_none(void **state)
{
    struct work *work = open_work(*state);
    const char *name = path_in(work, "graph-00003.done");
    const char *piece_files[] = {"lists", "ids-7"};
    write_good(work, GRAPH_4);
    const struct image other = load(path_in(work, "graph-00004.done"));
    for (size_t i = 0; i < ARRAY_LENGTH(piece_files); i++) {
        char from[64], to[64];
        snprintf(from, sizeof(from), "graph-00004.%s", piece_files[i]);
        snprintf(to, sizeof(to), "graph-00003.%s", piece_files[i]);
        struct image file = load(path_in(work, from));
        save(path_in(work, to), &file);
    }
    save(name, &other);
    assert_false(work_piece_done(work, GRAPH_3));
    assert_true(work_piece_done(work, GRAPH_4));
    work_piece_forget(work, GRAPH_4);
    expect_no_piece(work, name);
    work_close(work);

    const char *path = fixture_path(*state, "other");
    assert_int_equal(work_open(path, "degree 5\n", WORK_ALONE, &work, NULL), STATUS_OK);
    write_good(work, GRAPH_3);
    const struct image foreign = load(path_in(work, "graph-00003.done"));
    work_close(work);
    work = open_work(*state);
    write_good(work, GRAPH_3);
    save(name, &foreign);
    expect_no_piece(work, name);
    work_close(work);
}

static void record_that_is_no_file_is_none(void **state)
{
    struct work *work = open_work(*state);
    const char *name = path_in(work, "graph-00003.done");
    assert_int_equal(mkfifo(name, 0600), 0); /* nobody waits for its writer */
    assert_false(work_piece_done(work, GRAPH_3));
    write_good(work, GRAPH_3);
    expect_good(work, GRAPH_3);
    work_close(work);
}

/* ---- damaged files ---- */

static void any_changed_byte_of_a_file_is_found_by_reading(void **state)
{
    struct work *work = open_work(*state);
    write_good(work, GRAPH_3);
    const char *record_name = path_in(work, "graph-00003.done");
    const struct image record = load(record_name);
    for (size_t p = 0; p < PART_COUNT; p++) {
        char part[64];
        snprintf(part, sizeof(part), "graph-00003.%s", PARTS[p].name);
        const char *name = path_in(work, part);
        const struct image good = load(name);
        size_t i = 0;
        for (uint32_t s = 0; s < PARTS[p].section_count; s++) {
            for (size_t end = i + PARTS[p].section_bytes[s]; i < end; i++) {
                struct image bad = good;
                struct error err = {0};
                bad.bytes[i] ^= (uint8_t)(1u << i % 8);
                save(name, &bad);
                /* Other sections are not concerned. */
                uint32_t whole = (s + 1) % PARTS[p].section_count;
                if (whole != s)
                    assert_int_equal(section_read(work, GRAPH_3, p, whole, 64, NULL), STATUS_OK);
                assert_true(work_piece_done(work, GRAPH_3));
                enum status status = section_read(work, GRAPH_3, p, s, 1 + i % 80, &err);
                expect_discarded(status, &err, name);
                assert_non_null(strstr(err.text, ": checksum mismatch; "));
                assert_false(work_piece_done(work, GRAPH_3));
                save(record_name, &record);
            }
        }
        assert_int_equal(i, good.length);
        save(name, &good);
    }
    expect_good(work, GRAPH_3);
    work_close(work);
}

static void file_of_another_length_is_found_before_reading(void **state)
{
    struct work *work = open_work(*state);
    const char *name = path_in(work, "graph-00003.ids-7");
    for (int change = -5; change <= 2; change++) {
        struct work_input *input = NULL;
        struct error err = {0};
        if (change == 0)
            continue;
        write_good(work, GRAPH_3);
        assert_int_equal(truncate(name, 5 + change), 0);
        assert_false(work_piece_done(work, GRAPH_3));
        assert_int_equal(section_read(work, GRAPH_3, 0, 0, 300, NULL), STATUS_OK);
        enum status status = work_input_open(work, GRAPH_3, "ids-7", 0, 0, &input, &err);
        expect_discarded(status, &err, name);
        assert_null(input);
        assert_false(fixture_exists(path_in(work, "graph-00003.done")));
    }
    work_close(work);
}

static void missing_or_replaced_file_is_found(void **state)
{
    struct work *work = open_work(*state);
    const char *name = path_in(work, "graph-00003.ids-7");
    for (int kind = 0; kind < 3; kind++) {
        struct work_input *input = NULL;
        struct error err = {0};
        write_good(work, GRAPH_3);
        assert_int_equal(unlink(name), 0);
        if (kind == 1)
            assert_int_equal(mkfifo(name, 0600), 0);
        if (kind == 2)
            assert_int_equal(symlink("graph-00003.lists", name), 0);
        assert_false(work_piece_done(work, GRAPH_3));
        enum status status = work_input_open(work, GRAPH_3, "ids-7", 0, 0, &input, &err);
        assert_null(input);
        if (kind < 2)
            expect_discarded(status, &err, name);
        else
            assert_int_equal(status, STATUS_IO);
    }
    work_close(work);
}

static void file_cut_while_it_is_read_is_found(void **state)
{
    struct work *work = open_work(*state);
    struct work_input *input = NULL;
    struct error err = {0};
    uint8_t data[BYTES_MAX];
    write_good(work, GRAPH_3);
    assert_int_equal(work_input_open(work, GRAPH_3, "lists", 0, BUFFER_BYTES, &input, NULL),
                     STATUS_OK);
    assert_int_equal(work_input_read(input, data, 10, NULL), STATUS_OK);
    assert_int_equal(truncate(path_in(work, "graph-00003.lists"), 100), 0);
    enum status status = work_input_read(input, data, 290, &err);
    expect_discarded(status, &err, "graph-00003.lists");
    assert_int_equal(work_input_left(input), 0);
    work_input_close(input);
    assert_false(work_piece_done(work, GRAPH_3));
    work_close(work);
}

static void discarded_piece_is_made_good_by_the_next_run(void **state)
{
    struct work *work = open_work(*state);
    struct error err = {0};
    write_good(work, GRAPH_3);
    write_good(work, GRAPH_4);
    struct image file = load(path_in(work, "graph-00003.lists"));
    file.bytes[299] ^= 0x80;
    save(path_in(work, "graph-00003.lists"), &file);
    assert_int_equal(piece_read(work, GRAPH_3, &err), STATUS_CORRUPT);
    work_close(work);
    work = open_work(*state);
    assert_false(work_piece_done(work, GRAPH_3));
    assert_int_equal(directory_fixture_entries(work_path(work)),
                     2 + 3); /* its files are gone too */
    write_good(work, GRAPH_3);
    expect_good(work, GRAPH_3);
    expect_good(work, GRAPH_4);
    work_close(work);
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(record_with_any_byte_changed_is_none),
        CASE(record_of_any_other_length_is_none),
        CASE(forged_record_leads_nowhere),
        CASE(record_of_another_piece_or_job_is_none),
        CASE(record_that_is_no_file_is_none),
        CASE(any_changed_byte_of_a_file_is_found_by_reading),
        CASE(file_of_another_length_is_found_before_reading),
        CASE(missing_or_replaced_file_is_found),
        CASE(file_cut_while_it_is_read_is_found),
        CASE(discarded_piece_is_made_good_by_the_next_run),
    };
    return cmocka_run_group_tests_name("work_damage", tests, NULL, NULL);
}
