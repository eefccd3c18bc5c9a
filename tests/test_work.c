/*
 * test_work.c - the work directory: what was finished is there after a restart, nobody works on
 * another's build or on one that is held, and only files of ours are deleted.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/work.h"
#include "tests/directory_fixture.h"
#include "tests/work_fixture.h"

/* ---- writing, reading, resuming ---- */

static void piece_reads_back_what_was_written(void **state)
{
    static const size_t steps[] = {1, 7, 63, 64, 65, 300, 400};
    struct work *work = open_work(*state);
    write_good(work, GRAPH_3);
    expect_good(work, GRAPH_3);
    for (size_t i = 0; i < ARRAY_LENGTH(steps); i++)
        for (uint32_t s = 0; s < PARTS[0].section_count; s++)
            assert_int_equal(section_read(work, GRAPH_3, 0, s, steps[i], NULL), STATUS_OK);
    struct info info = {0};
    struct build_stage_record cost = {0};
    assert_int_equal(work_piece_read(work, GRAPH_3, &info, sizeof(info), &cost, NULL), STATUS_OK);
    assert_true(info.rows == INFO.rows && info.entry == INFO.entry);
    assert_true(cost.wall_s == 1.5 && cost.cpu_s == 2.5 && cost.peak_rss_bytes == 1000);
    assert_int_equal(cost.written_bytes, 7 + 300 + 41 + 64 + 5);
    assert_int_equal(work_piece_read(work, GRAPH_3, NULL, 0, NULL, NULL), STATUS_OK);
    work_close(work);
}

static void files_have_the_documented_names(void **state)
{
    struct work *work = open_work(*state);
    write_good(work, GRAPH_3);
    write_good(work, PACK);
    assert_int_equal(directory_fixture_entries(work_path(work)), 2 + 3 + 3);
    static const char *const names[] = {
        "job",       "lock",       "graph-00003.done", "graph-00003.lists", "graph-00003.ids-7",
        "pack.done", "pack.lists", "pack.ids-7"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (!fixture_exists(path_in(work, names[i])))
            fail_msg("%s is missing", names[i]);
    struct image job = load(path_in(work, "job"));
    assert_int_equal(job.length, strlen(JOB));
    assert_memory_equal(job.bytes, JOB, job.length);
    work_close(work);
}

static void output_counts_its_bytes(void **state)
{
    struct work *work = open_work(*state);
    struct work_output *output = NULL;
    const uint8_t data[200] = {1};
    assert_int_equal(work_output_open(work, PACK, "a", 16, &output, NULL), STATUS_OK);
    assert_int_equal(work_output_bytes(output), 0);
    assert_int_equal(work_output_append(output, data, 3, NULL), STATUS_OK);
    work_output_section(output);
    assert_int_equal(work_output_append(output, data, 200, NULL), STATUS_OK);
    assert_int_equal(work_output_bytes(output), 203);
    work_output_abort(output);
    work_output_abort(NULL);
    work_input_close(NULL);
    work_close(work);
    work_close(NULL);
    work_remove(NULL);
}

static void buffers_may_be_of_any_size(void **state)
{
    static const size_t sizes[] = {1, 3, 1000, 0};
    struct work *work = open_work(*state);
    uint8_t data[BYTES_MAX], got[BYTES_MAX];
    section_fill(PACK, 0, 0, data);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        struct work_output *output = NULL;
        struct work_input *input = NULL;
        struct build_stage_record cost = {0};
        assert_int_equal(work_output_open(work, PACK, "a", sizes[i], &output, NULL), STATUS_OK);
        for (size_t done = 0; done < BYTES_MAX; done += 50)
            assert_int_equal(work_output_append(output, data + done, 50, NULL), STATUS_OK);
        assert_int_equal(work_piece_commit(work, PACK, &output, 1, NULL, 0, &cost, NULL),
                         STATUS_OK);
        assert_null(output);
        assert_int_equal(work_input_open(work, PACK, "a", 0, sizes[i], &input, NULL), STATUS_OK);
        for (size_t done = 0; done < BYTES_MAX; done += 40)
            assert_int_equal(work_input_read(input, got + done, 40, NULL), STATUS_OK);
        assert_memory_equal(data, got, BYTES_MAX);
        work_input_close(input);
    }
    work_close(work);
}

static void piece_of_info_alone_is_a_piece(void **state)
{
    struct work *work = open_work(*state);
    struct build_stage_record cost = {0};
    static uint8_t info[WORK_INFO_BYTES_MAX], got[WORK_INFO_BYTES_MAX];
    for (size_t i = 0; i < sizeof(info); i++)
        info[i] = (uint8_t)(i * 31 >> 3);
    assert_int_equal(work_piece_commit(work, PACK, NULL, 0, info, sizeof(info), &cost, NULL),
                     STATUS_OK);
    assert_true(work_piece_done(work, PACK));
    assert_int_equal(work_piece_read(work, PACK, got, sizeof(got), NULL, NULL), STATUS_OK);
    assert_memory_equal(info, got, sizeof(info));
    work_close(work);
}

static void file_may_have_many_sections(void **state)
{
    enum { SECTIONS = 1000 };
    struct work *work = open_work(*state);
    struct work_output *output = NULL;
    struct build_stage_record cost = {0};
    assert_int_equal(work_output_open(work, PACK, "a", 0, &output, NULL), STATUS_OK);
    for (uint32_t s = 0; s < SECTIONS; s++) {
        if (s > 0)
            work_output_section(output);
        assert_int_equal(work_output_append(output, &s, s % 5, NULL), STATUS_OK);
    }
    assert_int_equal(work_piece_commit(work, PACK, &output, 1, NULL, 0, &cost, NULL), STATUS_OK);
    for (uint32_t s = 0; s < SECTIONS; s += 111) {
        struct work_input *input = NULL;
        uint32_t got = 0, wanted = 0;
        assert_int_equal(work_input_open(work, PACK, "a", s, 0, &input, NULL), STATUS_OK);
        assert_int_equal(work_input_left(input), s % 5);
        assert_int_equal(work_input_read(input, &got, s % 5, NULL), STATUS_OK);
        memcpy(&wanted, &s, s % 5);
        assert_int_equal(got, wanted);
        work_input_close(input);
    }
    work_close(work);
}

static void reopened_directory_has_its_finished_pieces(void **state)
{
    struct work *work = open_work(*state);
    assert_true(work_is_empty(work));
    assert_false(work_piece_done(work, GRAPH_3));
    write_good(work, GRAPH_3);
    assert_false(work_is_empty(work));
    struct work_output *output = NULL;
    assert_int_equal(work_output_open(work, GRAPH_4, "lists", 0, &output, NULL), STATUS_OK);
    assert_int_equal(work_output_append(output, "x", 1, NULL), STATUS_OK);
    work_output_abort(output);
    work_close(work);

    work = open_work(*state);
    assert_false(work_is_empty(work));
    expect_good(work, GRAPH_3);
    assert_false(work_piece_done(work, GRAPH_4));
    assert_false(work_piece_done(work, PACK));
    assert_int_equal(directory_fixture_entries(work_path(work)), 2 + 3);
    work_piece_forget(work, GRAPH_3);
    assert_false(work_piece_done(work, GRAPH_3));
    assert_true(work_is_empty(work));
    write_good(work, GRAPH_3);
    expect_good(work, GRAPH_3);
    work_close(work);
}

static void unfinished_piece_cannot_be_read(void **state)
{
    struct work *work = open_work(*state);
    struct work_input *input = NULL;
    struct info info;
    struct error err = {0};
    assert_int_equal(work_piece_read(work, PACK, &info, sizeof(info), NULL, &err),
                     STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, path_in(work, "pack.done")));
    assert_int_equal(work_input_open(work, PACK, "lists", 0, 0, &input, &err), STATUS_NOT_FOUND);
    assert_null(input);
    work_close(work);
}

static void reading_what_is_not_there_discards_the_piece(void **state)
{
    struct work *work = open_work(*state);
    struct work_input *input = NULL;
    uint8_t data[BYTES_MAX];
    struct error err = {0};
    enum status status;

    write_good(work, PACK);
    status = work_input_open(work, PACK, "other", 0, 0, &input, &err);
    expect_discarded(status, &err, "pack.other");
    assert_false(work_piece_done(work, PACK));
    write_good(work, PACK);
    status = work_input_open(work, PACK, "lists", 4, 0, &input, &err);
    expect_discarded(status, &err, "pack.lists");
    assert_false(work_piece_done(work, PACK));
    assert_null(input);

    write_good(work, PACK);
    assert_int_equal(work_input_open(work, PACK, "lists", 2, 0, &input, NULL), STATUS_OK);
    assert_int_equal(work_input_read(input, data, 40, NULL), STATUS_OK);
    status = work_input_read(input, data, 2, &err);
    expect_discarded(status, &err, "section 2 has 1 bytes left, wanted 2");
    assert_int_equal(work_input_left(input), 0);
    assert_int_equal(work_input_read(input, data, 1, NULL), STATUS_CORRUPT);
    work_input_close(input);
    assert_false(work_piece_done(work, PACK));

    write_good(work, PACK);
    status = work_piece_read(work, PACK, data, sizeof(struct info) - 1, NULL, &err);
    expect_discarded(status, &err, "pack.done");
    assert_false(work_piece_done(work, PACK));
    work_close(work);
}

/* ---- whose work it is ---- */

static void work_refuses_another_job(void **state)
{
    static const struct {
        const char *job, *words;
    } cases[] = {
        {"input base.u8bin\ndegree 64\nseed 1\n",
         ": holds the work of another build: degree 32, this one has 64; finish that one or delete "
         "the directory"},
        {"input base.u8bin\ndegree 3\nseed 1\n", ": degree 32, this one has 3;"},
        {"input base.u8bin\ndegree 32\nseed 12\n", ": seed 1, this one has 12;"},
        {"input other\ndegree 64\nseed 2\n", ": input base.u8bin, this one has other;"},
        {"input base.u8bin\nalpha 2\nseed 1\n", ": degree 32, this one has alpha 2;"},
        {"input base.u8bin\ndegree 32\n", ": seed 1, this one has nothing;"},
        {JOB "keys k\n", ": nothing, this one has keys k;"},
    };
    const char *path = fixture_path(*state, "work");
    struct work *work = open_work(*state);
    write_good(work, PACK);
    work_close(work);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        expect_refusal(path, cases[i].job, WORK_ALONE, cases[i].words);
        expect_refusal(path, cases[i].job, WORK_SHARED, cases[i].words);
    }
    work_close(open_work(*state));
}

static void directory_without_finished_work_is_taken_over(void **state)
{
    static const char *const other = "input other\n";
    const char *path = fixture_path(*state, "work");
    work_close(open_work(*state));
    expect_refusal(path, other, WORK_SHARED, "holds the work of another build");
    struct work *work = NULL;
    assert_int_equal(work_open(path, other, WORK_ALONE, &work, NULL), STATUS_OK);
    write_good(work, PACK);
    work_close(work);
    expect_refusal(path, JOB, WORK_ALONE, "holds the work of another build");
}

static void long_lines_do_not_hide_the_remedy(void **state)
{
    char job[4000] = "input ";
    memset(job + 6, 'x', sizeof(job) - 8);
    job[sizeof(job) - 2] = '\n';
    struct work *work = open_work(*state);
    write_good(work, PACK);
    work_close(work);
    expect_refusal(fixture_path(*state, "work"), job, WORK_ALONE, "delete the directory");
}

static void damaged_job_is_refused(void **state)
{
    const char *path = fixture_path(*state, "work");
    const char *file = fixture_path(path, "job");
    struct work *work = NULL;
    struct error err = {0};
    work_close(open_work(*state));
    struct image job = load(file);
    job.bytes[job.length++] = '\0';
    job.bytes[job.length++] = 'x';
    save(file, &job);
    assert_int_equal(work_open(path, JOB, WORK_ALONE, &work, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, file));
    assert_null(work);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(mkfifo(file, 0600), 0);
    assert_int_equal(work_open(path, JOB, WORK_ALONE, &work, &err), STATUS_CORRUPT);
}

static void work_opens_only_what_may_be_a_work_directory(void **state)
{
    const char *path = fixture_path(*state, "work");
    struct work *work = NULL;
    struct error err = {0};
    assert_int_equal(mkdir(path, 0700), 0);
    fixture_touch(fixture_path(path, "photo.jpg"), 0);
    expect_refusal(path, JOB, WORK_ALONE, "is not empty and no work directory");
    assert_int_equal(directory_fixture_entries(path), 1); /* nothing was put into it */
    assert_int_equal(unlink(fixture_path(path, "photo.jpg")), 0);
    /* Files of pieces do not make it one: whose would they be? */
    fixture_touch(fixture_path(path, "pack.lists"), 0);
    expect_refusal(path, JOB, WORK_ALONE, "is not empty and no work directory");
    assert_int_equal(unlink(fixture_path(path, "pack.lists")), 0);

    /* What a process leaves that is killed while it opens one. */
    fixture_touch(fixture_path(path, "lock"), 0);
    fixture_touch(fixture_path(path, "job.12-3ab.tmp"), 0);
    work_close(open_work(*state));
    assert_int_equal(directory_fixture_entries(path), 2);

    fixture_touch(fixture_path(*state, "file"), 0);
    expect_refusal(fixture_path(*state, "file"), JOB, WORK_ALONE, "not a directory");
    const char *orphan = fixture_path(*state, "no/work");
    assert_int_equal(work_open(orphan, JOB, WORK_ALONE, &work, &err), STATUS_IO);
    assert_non_null(strstr(err.text, orphan));
    assert_int_equal(work_open("", JOB, WORK_ALONE, &work, &err), STATUS_INVALID);
    assert_null(work);
}

static void path_may_end_in_slashes(void **state)
{
    struct work *work = open_work_as(fixture_path(*state, "work//"), WORK_ALONE);
    assert_string_equal(work_path(work), fixture_path(*state, "work"));
    work_remove(work);
    assert_false(fixture_exists(fixture_path(*state, "work")));
}

/* ---- holding it ---- */

static void work_is_held_alone_or_shared(void **state)
{
    const char *path = fixture_path(*state, "work");
    const char *words = "another process works in it";
    struct work *alone = open_work(*state);
    expect_refusal(path, JOB, WORK_ALONE, words);
    expect_refusal(path, JOB, WORK_SHARED, words);
    work_close(alone);
    struct work *first = open_work_as(path, WORK_SHARED);
    struct work *second = open_work_as(path, WORK_SHARED);
    expect_refusal(path, JOB, WORK_ALONE, words);
    work_close(first);
    expect_refusal(path, JOB, WORK_ALONE, words);
    work_close(second);
    work_close(open_work(*state));
}

static void killed_process_lets_go(void **state)
{
    const char *path = fixture_path(*state, "work");
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct work *work;
        struct work_output *output;
        if (work_open(path, JOB, WORK_ALONE, &work, NULL) != STATUS_OK ||
            work_output_open(work, PACK, "lists", 0, &output, NULL) != STATUS_OK ||
            write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    expect_refusal(path, JOB, WORK_ALONE, "another process works in it");
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    work_close(open_work_as(path, WORK_SHARED));
    assert_int_equal(directory_fixture_entries(path), 3); /* it might be of one that lives */
    work_close(open_work(*state));
    assert_int_equal(directory_fixture_entries(path), 2);
}

static void removed_directory_may_be_made_anew(void **state)
{
    const char *path = fixture_path(*state, "work");
    struct work *work = open_work(*state);
    work_remove(work);
    assert_false(fixture_exists(path));
    work_close(open_work(*state));
    assert_true(fixture_exists(path));
}

/* ---- clearing up ---- */

/* Names that only look like ours. */
static const char *const FOREIGN[] = {
    "notes.txt",
    "graphics.png",
    "graph",
    "graph.",
    "graph-00003",
    "graph-3.lists",
    "graph-000003.lists",
    "graph-4294967295.lists",
    "graph-.lists",
    "graph.Lists",
    "graph.lists.bak",
    "graph.lists.tmp",
    "graph.l.1-.tmp",
    "graph.l.-a.tmp",
    "graph.l.1-g.tmp",
    "graph.l.1-a.tmpx",
    "foo.done",
    ".done",
    "job.txt",
    "job.tmp",
    "jobs",
    "lock.1-a.tmp",
    "xgraph.lists",
    "graph-00003x.lists",
    "graph.a-part-whose-name-is-much-too-long",
};

static void touch_foreign(const char *path)
{
    for (size_t i = 0; i < ARRAY_LENGTH(FOREIGN); i++)
        fixture_touch(fixture_path(path, FOREIGN[i]), 0);
}

static void expect_foreign(const char *path, int others)
{
    for (size_t i = 0; i < ARRAY_LENGTH(FOREIGN); i++)
        if (!fixture_exists(fixture_path(path, FOREIGN[i])))
            fail_msg("%s was deleted", FOREIGN[i]);
    assert_int_equal(directory_fixture_entries(path), (int)ARRAY_LENGTH(FOREIGN) + others);
}

static void opening_alone_clears_what_is_of_no_use(void **state)
{
    static const char *const useless[] = {
        "graph-00003.lists.7-1f.tmp", "pack.done.7-1f.tmp", "job.7-1f.tmp", "pack.lists",
        "graph-4294967294.ids",       "train.codec",
    };
    struct work *work = open_work(*state);
    const char *path = fixture_path(*state, "work");
    write_good(work, GRAPH_3);
    write_good(work, GRAPH_4);
    struct image record = load(path_in(work, "graph-00004.done"));
    record.bytes[10] ^= 1;
    save(path_in(work, "graph-00004.done"), &record);
    touch_foreign(path);
    for (size_t i = 0; i < ARRAY_LENGTH(useless); i++)
        fixture_touch(fixture_path(path, useless[i]), 0);
    work_close(work);

    work = open_work_as(path, WORK_SHARED);
    expect_foreign(path, 2 + 3 + 3 + (int)ARRAY_LENGTH(useless));
    work_close(work);
    work = open_work(*state);
    expect_foreign(path, 2 + 3);
    expect_good(work, GRAPH_3);
    work_close(work);
}

static void remove_deletes_only_files_of_ours(void **state)
{
    const char *path = fixture_path(*state, "work");
    struct work *work = open_work(*state);
    struct work_output *output = NULL;
    touch_foreign(path);
    write_good(work, GRAPH_3);
    write_good(work, PACK);
    assert_int_equal(work_output_open(work, GRAPH_4, "lists", 0, &output, NULL), STATUS_OK);
    work_output_abort(output);
    fixture_touch(fixture_path(path, "graph-00003.lists.7-1f.tmp"), 0);
    work_remove(work);
    expect_foreign(path, 0);
    expect_refusal(path, JOB, WORK_ALONE, "no work directory");
    for (size_t i = 0; i < ARRAY_LENGTH(FOREIGN); i++)
        assert_int_equal(unlink(fixture_path(path, FOREIGN[i])), 0);

    work = open_work(*state);
    write_good(work, GRAPH_3);
    work_remove(work);
    assert_false(fixture_exists(path));
}

static void remove_spares_the_work_of_others(void **state)
{
    const char *path = fixture_path(*state, "work");
    struct work *first = open_work_as(path, WORK_SHARED);
    struct work *second = open_work_as(path, WORK_SHARED);
    write_good(first, GRAPH_3);
    work_remove(first);
    expect_good(second, GRAPH_3);
    work_remove(second);
    assert_false(fixture_exists(path));
}

static void opening_raises_the_limit_of_open_files(void **state)
{
    struct rlimit before, low, after;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = before;
    low.rlim_cur = 64;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    work_close(open_work(*state));
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &after), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(after.rlim_cur, before.rlim_max);
    assert_int_equal(after.rlim_max, before.rlim_max);
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(piece_reads_back_what_was_written),
        CASE(files_have_the_documented_names),
        CASE(output_counts_its_bytes),
        CASE(buffers_may_be_of_any_size),
        CASE(piece_of_info_alone_is_a_piece),
        CASE(file_may_have_many_sections),
        CASE(reopened_directory_has_its_finished_pieces),
        CASE(unfinished_piece_cannot_be_read),
        CASE(reading_what_is_not_there_discards_the_piece),
        CASE(work_refuses_another_job),
        CASE(directory_without_finished_work_is_taken_over),
        CASE(long_lines_do_not_hide_the_remedy),
        CASE(damaged_job_is_refused),
        CASE(work_opens_only_what_may_be_a_work_directory),
        CASE(path_may_end_in_slashes),
        CASE(work_is_held_alone_or_shared),
        CASE(killed_process_lets_go),
        CASE(removed_directory_may_be_made_anew),
        CASE(opening_alone_clears_what_is_of_no_use),
        CASE(remove_deletes_only_files_of_ours),
        CASE(remove_spares_the_work_of_others),
        CASE(opening_raises_the_limit_of_open_files),
    };
    return cmocka_run_group_tests_name("work", tests, NULL, NULL);
}
