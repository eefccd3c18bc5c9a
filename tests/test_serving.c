/*
 * test_serving.c - which generation is served: what is noticed, what is refused and why, what a
 * start does where `current` is at fault, and how one generation gives way to the next in each of
 * the two ways.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "layout/publish.h"
#include "query/index_plan.h"
#include "tests/generation_fixture.h"
#include "tests/serving_fixture.h"

enum { FIRST = 0, SECOND = 1, THIRD = 2, PAGE = 4096 };

/* Serves FIRST as "a". */
static struct serving_fixture *serve_first(void **state)
{
    struct serving_fixture *f = *state;
    const struct serving_params params = serving_usual(f);
    root_add_and_publish(f, "a", FIRST);
    serving_start(f, &params);
    expect_live(f, "a", FIRST);
    return f;
}

static void truncate_file(const struct serving_fixture *f, const char *name, const char *file)
{
    char path[SERVICE_PATH_BYTES + 2 * NAME_MAX];
    snprintf(path, sizeof(path), "%s/%s", root_path(f, name), file);
    assert_int_equal(truncate(path, (off_t)(fixture_length(path) / 2)), 0);
}

static void flip_file(const struct serving_fixture *f, const char *name, const char *file)
{
    char path[SERVICE_PATH_BYTES + 2 * NAME_MAX];
    snprintf(path, sizeof(path), "%s/%s", root_path(f, name), file);
    fixture_flip_bit(path, fixture_length(path) * 4);
}

static void remove_file(const struct serving_fixture *f, const char *name, const char *file)
{
    char path[SERVICE_PATH_BYTES + 2 * NAME_MAX];
    snprintf(path, sizeof(path), "%s/%s", root_path(f, name), file);
    assert_int_equal(unlink(path), 0);
}

/* The ways in which a generation is at fault, and a word of what is then said. */
struct fault {
    void (*make)(const struct serving_fixture *f, const char *name, const char *file);
    const char *file;
    const char *words;
};
static const struct fault faults[] = {
    {truncate_file, "manifest.json", "manifest.json"},
    {truncate_file, "nodes.blk", "nodes.blk"},
    {truncate_file, "codes.bin", "codes.bin"},
    {truncate_file, "codec.bin", "codec.bin"},
    {truncate_file, "navigation.bin", "navigation.bin"},
    {truncate_file, "hot.bin", "hot.bin"},
    {truncate_file, "sample.bin", "sample.bin"},
    {flip_file, "manifest.json", "manifest.json"},
    {flip_file, "codes.bin", "codes.bin"},
    {flip_file, "codec.bin", "codec.bin"},
    {flip_file, "navigation.bin", "navigation.bin"},
    {flip_file, "sample.bin", "sample.bin"},
    {remove_file, "manifest.json", "manifest.json"},
    {remove_file, "codes.bin", "codes.bin"},
};

/* ---- what is noticed ---- */

static void a_publish_is_noticed_and_served(void **state)
{
    struct serving_fixture *f = serve_first(state);
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, has_swapped, 1);
    expect_live(f, "b", SECOND);
    root_publish(f, "a");
    serving_wait(f, has_swapped, 2);
    expect_live(f, "a", FIRST);
    const struct serving_stats stats = serving_stats_of(f);
    assert_false(stats.loading || stats.fixed || stats.fallback);
    assert_int_equal(stats.refused, 0);
}

static void a_look_tells_what_is_live(void **state)
{
    struct serving_fixture *f = serve_first(state);
    struct serving_outcome outcome = serving_look(f);
    assert_int_equal(outcome.status, STATUS_OK);
    assert_false(outcome.swapped);
    assert_string_equal(outcome.name, "a");
    assert_int_equal(kind_of(f, outcome.generation.low, outcome.generation.high), FIRST);
    root_add_and_publish(f, "b", SECOND);
    outcome = serving_look(f);
    assert_int_equal(outcome.status, STATUS_OK);
    assert_string_equal(outcome.name, "b");
    assert_int_equal(kind_of(f, outcome.generation.low, outcome.generation.high), SECOND);
    expect_live(f, "b", SECOND);
    outcome = serving_look(f);
    assert_int_equal(outcome.status, STATUS_OK);
    assert_false(outcome.swapped);
    assert_int_equal(serving_stats_of(f).swaps, 1);
}

/* Nothing happens in the directory that is watched: without a wish the keeper, once it sleeps,
 * would find out after half a minute. */
static void a_root_that_is_a_link_may_be_pointed_elsewhere(void **state)
{
    struct serving_fixture *f = *state;
    char link[SERVICE_PATH_BYTES + 8], other[SERVICE_PATH_BYTES + 8], link2[SERVICE_PATH_BYTES + 8];
    struct serving_params params = serving_usual(f);
    struct error err;
    root_add_and_publish(f, "a", FIRST);
    snprintf(link, sizeof(link), "%s.link", f->root);
    snprintf(link2, sizeof(link2), "%s.next", f->root);
    snprintf(other, sizeof(other), "%s.other", f->root);
    assert_int_equal(symlink(f->root, link), 0);
    params.root = link;
    serving_start(f, &params);
    assert_int_equal(mkdir(other, 0755), 0);
    root_add(f, "../root.other/b", SECOND);
    fixture_must(publish_generation(other, "b", &err), &err);
    assert_int_equal(symlink(other, link2), 0);
    assert_int_equal(rename(link2, link), 0);
    struct serving_outcome outcome = serving_look(f);
    assert_int_equal(outcome.status, STATUS_OK);
    assert_string_equal(outcome.name, "b");
    assert_int_equal(serving_stats_of(f).swaps, 1);
    expect_live(f, "b", SECOND);
    /* It is the one that is watched now. */
    root_add(f, "../root.other/c", THIRD);
    fixture_must(publish_generation(other, "c", &err), &err);
    serving_wait(f, has_swapped, 2);
    expect_live(f, "c", THIRD);
}

static void a_root_that_is_moved_away_and_made_anew_is_found(void **state)
{
    struct serving_fixture *f = serve_first(state);
    char away[SERVICE_PATH_BYTES + 8];
    snprintf(away, sizeof(away), "%s.away", f->root);
    assert_int_equal(rename(f->root, away), 0);
    struct serving_outcome outcome = serving_look(f);
    assert_int_equal(outcome.status, STATUS_NOT_FOUND);
    expect_live(f, "a", FIRST);
    assert_int_equal(mkdir(f->root, 0755), 0);
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, has_swapped, 1);
    expect_live(f, "b", SECOND);
    root_add_and_publish(f, "c", THIRD);
    serving_wait(f, has_swapped, 2);
    expect_live(f, "c", THIRD);
    const struct serving_stats stats = serving_stats_of(f);
    assert_string_equal(stats.refused_name, "");
}

/* The new one is whole, and published, before it has the root's path: no event tells of it. */
static void a_root_that_comes_back_published_is_looked_at(void **state)
{
    struct serving_fixture *f = serve_first(state);
    char away[SERVICE_PATH_BYTES + 8], other[SERVICE_PATH_BYTES + 8];
    struct error err;
    snprintf(away, sizeof(away), "%s.away", f->root);
    snprintf(other, sizeof(other), "%s.other", f->root);
    assert_int_equal(mkdir(other, 0755), 0);
    root_add(f, "../root.other/b", SECOND);
    fixture_must(publish_generation(other, "b", &err), &err);
    assert_int_equal(rename(f->root, away), 0);
    assert_int_equal(rename(other, f->root), 0);
    serving_wait(f, has_swapped, 1);
    expect_live(f, "b", SECOND);
}

static void a_directory_of_the_same_name_is_another_generation(void **state)
{
    struct serving_fixture *f = serve_first(state);
    assert_int_equal(rename(root_path(f, "a"), root_path(f, "old")), 0);
    root_add(f, "a", SECOND);
    root_remove(f, "old");
    expect_live(f, "a", FIRST);
    root_publish(f, "a");
    serving_wait(f, has_swapped, 1);
    expect_live(f, "a", SECOND);
}

/* ---- what is refused ---- */

static void a_generation_at_fault_is_refused_and_the_live_one_serves_on(void **state)
{
    struct serving_fixture *f = serve_first(state);
    for (size_t i = 0; i < ARRAY_LENGTH(faults); i++) {
        root_add(f, "bad", SECOND);
        faults[i].make(f, "bad", faults[i].file);
        root_link(f, "bad");
        serving_wait(f, has_refused, i + 1);
        struct serving_stats stats = serving_stats_of(f);
        assert_string_equal(stats.refused_name, "bad");
        if (!strstr(stats.refused_reason, faults[i].words))
            fail_msg("%s is not in: %s", faults[i].words, stats.refused_reason);
        assert_int_equal(stats.swaps, 0);
        assert_false(stats.loading);
        expect_live(f, "a", FIRST);
        assert_int_equal(process_open_in(root_path(f, "bad")), 0);
        root_remove(f, "bad");
    }
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, has_swapped, 1);
    const struct serving_stats stats = serving_stats_of(f);
    assert_string_equal(stats.refused_name, "");
    assert_string_equal(stats.refused_reason, "");
    assert_int_equal(stats.refused, ARRAY_LENGTH(faults));
    expect_live(f, "b", SECOND);
}

/* A bit of each block, of which nothing tells but reading it. */
static void spoil_blocks(const struct serving_fixture *f, const char *name)
{
    char path[SERVICE_PATH_BYTES + 2 * NAME_MAX];
    snprintf(path, sizeof(path), "%s/nodes.blk", root_path(f, name));
    uint64_t bytes = fixture_length(path);
    for (uint64_t at = PAGE / 2; at < bytes; at += PAGE)
        fixture_flip_bit(path, at * 8);
}

static void one_that_misses_its_own_vectors_is_refused(void **state)
{
    struct serving_fixture *f = *state;
    struct serving_params params = serving_usual(f);
    root_add_and_publish(f, "a", FIRST);
    root_add(f, "bad", SECOND);
    spoil_blocks(f, "bad");
    for (int swap = SERVING_OVERLAP; swap <= SERVING_REPLACE; swap++) {
        params.swap = (enum serving_swap)swap;
        root_publish(f, "a");
        serving_start(f, &params);
        uint32_t fds = process_count("fd"), tasks = process_count("task");
        root_link(f, "bad");
        const struct serving_outcome outcome = serving_look(f);
        assert_int_equal(outcome.status, STATUS_IO);
        assert_non_null(strstr(outcome.error.text, "its own vectors"));
        expect_live(f, "a", FIRST);
        assert_int_equal(process_count("fd"), fds);
        assert_int_equal(process_count("task"), tasks);
        serving_stop(f);
    }
}

static void a_link_that_leads_nowhere_good_is_refused(void **state)
{
    static const char *const targets[] = {"missing", "plain", "../root/a", ".", "current", "empty"};
    struct serving_fixture *f = serve_first(state);
    directory_fixture_write(root_path(f, "plain"), "x", 1);
    assert_int_equal(mkdir(root_path(f, "empty"), 0755), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(targets); i++) {
        root_link(f, targets[i]);
        const struct serving_outcome outcome = serving_look(f);
        assert_int_not_equal(outcome.status, STATUS_OK);
        assert_non_null(strstr(outcome.error.text, f->root));
        assert_string_not_equal(serving_stats_of(f).refused_reason, "");
        expect_live(f, "a", FIRST);
        /* Back to what is live: then nothing is at fault. */
        root_publish(f, "a");
        assert_int_equal(serving_look(f).status, STATUS_OK);
        const struct serving_stats stats = serving_stats_of(f);
        assert_string_equal(stats.refused_name, "");
        assert_string_equal(stats.refused_reason, "");
    }
    assert_int_equal(serving_stats_of(f).swaps, 0);
}

static void without_current_the_live_one_serves_on(void **state)
{
    struct serving_fixture *f = serve_first(state);
    assert_int_equal(unlink(root_path(f, PUBLISH_LINK_NAME)), 0);
    const struct serving_outcome outcome = serving_look(f);
    assert_int_equal(outcome.status, STATUS_NOT_FOUND);
    assert_string_equal(serving_stats_of(f).refused_name, PUBLISH_LINK_NAME);
    expect_live(f, "a", FIRST);
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, has_swapped, 1);
    expect_live(f, "b", SECOND);
}

static uint64_t least_budget(const struct serving_fixture *f, const char *name)
{
    struct index_step steps[INDEX_STEPS_MAX];
    struct generation *generation = NULL;
    struct error err;
    fixture_must(generation_open(root_path(f, name), &generation, &err), &err);
    (void)index_plan_steps(generation_manifest(generation), steps);
    generation_close(generation);
    return steps[0].budget;
}

static void a_generation_that_the_budget_does_not_hold_is_refused(void **state)
{
    struct serving_fixture *f = *state;
    struct serving_params params = serving_usual(f);
    root_add(f, "large", SERVING_LARGE);
    root_add_and_publish(f, "a", FIRST);
    assert_true(least_budget(f, "a") < least_budget(f, "large"));
    for (int swap = SERVING_OVERLAP; swap <= SERVING_REPLACE; swap++) {
        params.swap = (enum serving_swap)swap;
        params.memory_bytes = least_budget(f, "a") * (swap == SERVING_OVERLAP ? 2 : 1);
        root_publish(f, "a");
        serving_start(f, &params);
        root_publish(f, "large");
        const struct serving_outcome outcome = serving_look(f);
        assert_int_equal(outcome.status, STATUS_NO_MEMORY);
        expect_live(f, "a", FIRST);
        assert_int_equal(serving_stats_of(f).swaps, 0);
        serving_stop(f);
    }
}

static void a_fixed_index_has_no_next(void **state)
{
    struct serving_fixture *f = *state;
    struct asked asked = {.told = 0};
    struct error err;
    struct serving_params params = serving_usual(f);
    root_add_and_publish(f, "a", FIRST);
    params.root = NULL;
    char path[SERVICE_PATH_BYTES + NAME_MAX];
    snprintf(path, sizeof(path), "%s", root_path(f, "a"));
    params.index = path;
    serving_start(f, &params);
    assert_int_equal(serving_reload(f->serving, &asked.wish, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "--index"));
    assert_int_equal(asked.told, 0);
    assert_true(serving_stats_of(f).fixed);
    expect_live(f, "a", FIRST);
}

/* ---- the start ---- */

static enum status start_status(struct serving_fixture *f, const struct serving_params *params,
                                struct error *err)
{
    enum status status = serving_create(params, &f->serving, err);
    if (status != STATUS_OK)
        assert_null(f->serving);
    return status;
}

static void a_start_falls_back_to_the_newest_good_one(void **state)
{
    struct serving_fixture *f = *state;
    const struct serving_params params = serving_usual(f);
    root_add_and_publish(f, "a", FIRST);
    root_add_and_publish(f, "b", SECOND);
    root_add_and_publish(f, "c", THIRD);
    for (size_t i = 0; i < ARRAY_LENGTH(faults); i++) {
        faults[i].make(f, "c", faults[i].file);
        serving_start(f, &params);
        expect_live(f, "b", SECOND);
        const struct serving_stats stats = serving_stats_of(f);
        assert_true(stats.fallback);
        assert_int_equal(stats.refused, 1);
        assert_string_equal(stats.refused_name, "c");
        assert_non_null(strstr(stats.refused_reason, faults[i].words));
        /* It is looked at again, and still refused. */
        assert_int_not_equal(serving_look(f).status, STATUS_OK);
        assert_true(serving_stats_of(f).fallback);
        serving_stop(f);
        root_remove(f, "c");
        root_add(f, "c", THIRD);
    }
    /* The next best, when that one is at fault too. */
    truncate_file(f, "b", "nodes.blk");
    root_link(f, "missing");
    serving_start(f, &params);
    const struct serving_stats stats = serving_stats_of(f);
    assert_string_equal(stats.refused_name, PUBLISH_LINK_NAME);
    assert_true(stats.fallback);
    expect_live(f, "c", THIRD);
}

static void a_current_that_answers_nothing_gives_way_to_one_that_does(void **state)
{
    struct serving_fixture *f = *state;
    const struct serving_params params = serving_usual(f);
    root_add_and_publish(f, "a", FIRST);
    root_add_and_publish(f, "bad", SECOND);
    spoil_blocks(f, "bad");
    serving_start(f, &params);
    expect_live(f, "a", FIRST);
    assert_true(serving_stats_of(f).fallback);
    serving_stop(f);
    /* It is better than nothing. */
    spoil_blocks(f, "a");
    serving_start(f, &params);
    struct served *served = serving_acquire(f->serving);
    assert_non_null(served);
    assert_string_equal(served->name, "bad");
    assert_int_equal(served->proof.degraded, served->proof.queries);
    served_release(served);
}

static void a_fallback_ends_when_current_names_what_is_live(void **state)
{
    struct serving_fixture *f = *state;
    const struct serving_params params = serving_usual(f);
    root_add_and_publish(f, "a", FIRST);
    root_add(f, "bad", SECOND);
    truncate_file(f, "bad", "codes.bin");
    root_link(f, "bad");
    serving_start(f, &params);
    expect_live(f, "a", FIRST);
    assert_true(serving_stats_of(f).fallback);
    root_publish(f, "a");
    const struct serving_outcome outcome = serving_look(f);
    assert_int_equal(outcome.status, STATUS_OK);
    assert_false(outcome.swapped);
    const struct serving_stats stats = serving_stats_of(f);
    assert_false(stats.fallback);
    assert_string_equal(stats.refused_name, "");
    assert_int_equal(stats.swaps, 0);
}

static void a_start_that_no_other_generation_would_mend_fails(void **state)
{
    struct serving_fixture *f = *state;
    struct serving_params params = serving_usual(f);
    struct error err;
    char missing[SERVICE_PATH_BYTES + 8];
    root_add(f, "a", FIRST);
    assert_int_equal(start_status(f, &params, &err), STATUS_NOT_FOUND); /* nothing published */
    root_add_and_publish(f, "large", SERVING_LARGE);
    params.memory_bytes = 2 * least_budget(f, "a");
    assert_int_equal(start_status(f, &params, &err), STATUS_NO_MEMORY);
    snprintf(missing, sizeof(missing), "%s.missing", f->root);
    params.root = missing;
    assert_int_equal(start_status(f, &params, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, missing));
}

static void a_start_without_any_good_one_tells_of_current(void **state)
{
    struct serving_fixture *f = *state;
    const struct serving_params params = serving_usual(f);
    struct error err;
    uint32_t fds = process_count("fd");
    root_add_and_publish(f, "a", FIRST);
    root_add_and_publish(f, "b", SECOND);
    flip_file(f, "a", "codec.bin");
    truncate_file(f, "b", "navigation.bin");
    assert_int_equal(start_status(f, &params, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "b/navigation.bin"));
    assert_int_equal(process_count("fd"), fds);
}

/* ---- one generation at a time ---- */

static bool nothing_is_live(const struct serving_stats *stats, uint64_t number)
{
    (void)number;
    return stats->loading && stats->live_ns == 0;
}

static struct serving_fixture *serve_first_alone(void **state, uint64_t memory_bytes)
{
    struct serving_fixture *f = *state;
    struct serving_params params = serving_usual(f);
    params.swap = SERVING_REPLACE;
    params.memory_bytes = memory_bytes;
    root_add_and_publish(f, "a", FIRST);
    serving_start(f, &params);
    return f;
}

static void replacing_has_nothing_live_only_meanwhile(void **state)
{
    struct serving_fixture *f = serve_first_alone(state, 0);
    struct served *held = serving_acquire(f->serving);
    assert_non_null(held);
    root_add_and_publish(f, "b", SECOND);
    serving_wait(f, nothing_is_live, 0);
    assert_null(serving_acquire(f->serving));
    assert_true(process_open_in(root_path(f, "a")) > 0);
    assert_int_equal(process_open_in(root_path(f, "b")), 0); /* memory for one */
    served_release(held);
    serving_wait(f, has_swapped, 1);
    expect_live(f, "b", SECOND);
    assert_int_equal(process_open_in(root_path(f, "a")), 0);
}

/* A probe finds these before anything is given up. */
static void replacing_keeps_the_live_one_where_the_next_is_seen_to_be_bad(void **state)
{
    struct serving_fixture *f = serve_first_alone(state, 0);
    struct served *held = serving_acquire(f->serving);
    for (size_t i = 0; i < ARRAY_LENGTH(faults); i++) {
        root_add(f, "bad", SECOND);
        faults[i].make(f, "bad", faults[i].file);
        root_link(f, "bad");
        /* Held, it cannot have been freed meanwhile: the look would not end. */
        assert_int_not_equal(serving_look(f).status, STATUS_OK);
        expect_live(f, "a", FIRST);
        root_remove(f, "bad");
    }
    served_release(held);
}

/* Whole files with the right digests, one block of which is not what it says: that shows only when
 * all blocks are read, when the one before is gone. */
static void bad_block_add(const struct serving_fixture *f, const char *name)
{
    root_add(f, name, SECOND);
    flip_file(f, name, "nodes.blk");
}

static void replacing_goes_back_where_the_next_does_not_open(void **state)
{
    struct serving_fixture *f = serve_first_alone(state, SERVICE_RESIDENT_BYTES);
    bad_block_add(f, "bad");
    root_link(f, "bad");
    const struct serving_outcome outcome = serving_look(f);
    assert_int_equal(outcome.status, STATUS_CORRUPT);
    assert_non_null(strstr(outcome.error.text, "nodes.blk"));
    struct served *served = serving_acquire(f->serving);
    assert_non_null(served);
    assert_string_equal(served->name, "a");
    served_release(served);
    assert_string_equal(serving_stats_of(f).refused_name, "bad");
}

static void replacing_takes_another_where_the_one_before_is_gone(void **state)
{
    struct serving_fixture *f = serve_first_alone(state, SERVICE_RESIDENT_BYTES);
    root_add(f, "other", THIRD);
    bad_block_add(f, "bad");
    root_remove(f, "a");
    root_link(f, "bad");
    assert_int_equal(serving_look(f).status, STATUS_CORRUPT);
    struct served *served = serving_acquire(f->serving);
    assert_non_null(served);
    assert_string_equal(served->name, "other");
    served_release(served);
}

static bool something_is_live(const struct serving_stats *stats, uint64_t number)
{
    (void)number;
    return stats->live_ns > 0;
}

/* No event tells that the fault is mended. */
static void replacing_tries_again_while_nothing_is_live(void **state)
{
    struct serving_fixture *f = serve_first_alone(state, SERVICE_RESIDENT_BYTES);
    bad_block_add(f, "bad");
    root_remove(f, "a");
    root_link(f, "bad");
    assert_int_equal(serving_look(f).status, STATUS_CORRUPT);
    assert_null(serving_acquire(f->serving));
    flip_file(f, "bad", "nodes.blk");
    serving_wait(f, something_is_live, 0);
    struct served *served = serving_acquire(f->serving);
    assert_string_equal(served->name, "bad");
    served_release(served);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, serving_test_setup, serving_test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_publish_is_noticed_and_served),
        TEST(a_look_tells_what_is_live),
        TEST(a_root_that_is_a_link_may_be_pointed_elsewhere),
        TEST(a_root_that_is_moved_away_and_made_anew_is_found),
        TEST(a_root_that_comes_back_published_is_looked_at),
        TEST(a_directory_of_the_same_name_is_another_generation),
        TEST(a_generation_at_fault_is_refused_and_the_live_one_serves_on),
        TEST(one_that_misses_its_own_vectors_is_refused),
        TEST(a_link_that_leads_nowhere_good_is_refused),
        TEST(without_current_the_live_one_serves_on),
        TEST(a_generation_that_the_budget_does_not_hold_is_refused),
        TEST(a_fixed_index_has_no_next),
        TEST(a_start_falls_back_to_the_newest_good_one),
        TEST(a_current_that_answers_nothing_gives_way_to_one_that_does),
        TEST(a_fallback_ends_when_current_names_what_is_live),
        TEST(a_start_that_no_other_generation_would_mend_fails),
        TEST(a_start_without_any_good_one_tells_of_current),
        TEST(replacing_has_nothing_live_only_meanwhile),
        TEST(replacing_keeps_the_live_one_where_the_next_is_seen_to_be_bad),
        TEST(replacing_goes_back_where_the_next_does_not_open),
        TEST(replacing_takes_another_where_the_one_before_is_gone),
        TEST(replacing_tries_again_while_nothing_is_live),
    };
    return cmocka_run_group_tests(tests, serving_group_setup, serving_group_teardown);
}
