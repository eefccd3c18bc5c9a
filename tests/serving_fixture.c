/*
 * serving_fixture.c - see serving_fixture.h.
 */
#include "tests/serving_fixture.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "layout/publish.h"
#include "tests/generation_fixture.h"

enum { SEED = 7, LARGE_CODE_BYTES = 16, PATIENCE_S = 60 };

static const char *const originals[SERVING_KINDS] = {"gen", "second", "third", "large"};

static struct serving_fixture fixture;

void poll_again(uint64_t since_ns, const char *what)
{
    if (clock_monotonic_ns() - since_ns > PATIENCE_S * UINT64_C(1000000000))
        fail_msg("waited %d s in vain: %s", PATIENCE_S, what);
}

void poll_pause(uint64_t since_ns, const char *what)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    poll_again(since_ns, what);
    nanosleep(&pause, NULL);
}

/* ---- data ---- */

static struct client_search usual_search(void)
{
    return service_search(fixture.queries[0], 1, SERVING_K);
}

static void query_init(const struct serving_fixture *f, uint32_t q, struct search_hit *hits,
                       struct search_query *query)
{
    const struct client_search usual = usual_search();
    *query = (struct search_query){.vector = f->queries[q],
                                   .k = SERVING_K,
                                   .search_list = usual.search_list,
                                   .beam_width = usual.beam_width,
                                   .hits = hits + (size_t)q * SERVING_K};
}

static void ask_all(const struct serving_fixture *f, struct engine *engine, struct search_hit *hits)
{
    struct search_query queries[SERVING_QUERIES];
    for (uint32_t q = 0; q < SERVING_QUERIES; q++)
        query_init(f, q, hits, &queries[q]);
    engine_search_all(engine, queries, SERVING_QUERIES, 0);
    for (uint32_t q = 0; q < SERVING_QUERIES; q++) {
        assert_int_equal(queries[q].status, STATUS_OK);
        assert_int_equal(queries[q].flags, 0);
        assert_int_equal(queries[q].hit_count, SERVING_K);
    }
}

/* What the original answers, asked by itself. */
static void expectation_make(struct serving_fixture *f, uint32_t kind)
{
    char path[SERVICE_PATH_BYTES + NAME_MAX];
    struct index *index = NULL;
    struct engine *engine = NULL;
    struct error err;
    const struct index_options options = {.threads = 1};
    const struct engine_params params = {.threads = 1};
    snprintf(path, sizeof(path), "%s/%s", f->data->root, originals[kind]);
    fixture_must(index_open(path, &options, &index, &err), &err);
    fixture_must(engine_create(&params, index, &engine, &err), &err);
    f->ids[kind] = index_manifest(index)->generation_id;
    ask_all(f, engine, f->expected[kind]);
    engine_destroy(engine);
    index_release(index);
}

bool answers_are(const struct serving_fixture *f, uint32_t kind, const struct search_hit *hits)
{
    for (size_t i = 0; i < ARRAY_LENGTH(f->expected[kind]); i++)
        if (hits[i].key != f->expected[kind][i].key ||
            hits[i].distance != f->expected[kind][i].distance)
            return false;
    return true;
}

uint32_t kind_of(const struct serving_fixture *f, uint64_t low, uint64_t high)
{
    uint32_t kind = 0;
    while (kind < SERVING_KINDS && (f->ids[kind].low != low || f->ids[kind].high != high))
        kind++;
    return kind;
}

int serving_group_setup(void **state)
{
    struct serving_fixture *f = &fixture;
    f->data = service_data_create();
    for (uint32_t q = 0; q < SERVING_QUERIES; q++)
        service_query(q, f->queries[q]);
    for (uint32_t kind = 0; kind < SERVING_KINDS; kind++) {
        if (kind > 0)
            service_generation_make(f->data, originals[kind], SEED + kind,
                                    kind == SERVING_LARGE ? LARGE_CODE_BYTES : SERVICE_CODE_BYTES);
        expectation_make(f, kind);
        for (uint32_t other = 0; other < kind; other++)
            assert_false(answers_are(f, other, f->expected[kind]));
    }
    *state = f;
    return 0;
}

int serving_group_teardown(void **state)
{
    struct serving_fixture *f = *state;
    service_data_destroy(f->data);
    return 0;
}

int serving_test_setup(void **state)
{
    struct serving_fixture *f = *state;
    snprintf(f->root, sizeof(f->root), "%s/test/root", f->data->dir);
    char *above = strrchr(f->root, '/');
    *above = '\0';
    assert_int_equal(mkdir(f->root, 0755), 0);
    *above = '/';
    assert_int_equal(mkdir(f->root, 0755), 0);
    gate_init(&f->gate);
    f->faults = gate_faults(&f->gate);
    log_set_level(LOG_LEVEL_NONE); /* refusals are wanted here */
    return 0;
}

int serving_test_teardown(void **state)
{
    struct serving_fixture *f = *state;
    char path[SERVICE_PATH_BYTES];
    gate_open(&f->gate);
    serving_stop(f);
    gate_fini(&f->gate);
    snprintf(path, sizeof(path), "%s/test", f->data->dir);
    return directory_fixture_remove(path);
}

/* ---- the root ---- */

const char *root_path(const struct serving_fixture *f, const char *name)
{
    static char paths[4][SERVICE_PATH_BYTES + NAME_MAX];
    static size_t next;
    char *path = paths[next++ % ARRAY_LENGTH(paths)];
    snprintf(path, sizeof(paths[0]), "%s/%s", f->root, name);
    return path;
}

void root_add(const struct serving_fixture *f, const char *name, uint32_t kind)
{
    char from[SERVICE_PATH_BYTES + 2 * NAME_MAX], to[SERVICE_PATH_BYTES + 2 * NAME_MAX];
    const struct dirent *entry;
    snprintf(from, sizeof(from), "%s/%s", f->data->root, originals[kind]);
    assert_int_equal(mkdir(root_path(f, name), 0755), 0);
    DIR *directory = opendir(from);
    assert_non_null(directory);
    while ((entry = readdir(directory))) {
        size_t bytes;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(from, sizeof(from), "%s/%s/%s", f->data->root, originals[kind], entry->d_name);
        snprintf(to, sizeof(to), "%s/%s", root_path(f, name), entry->d_name);
        uint8_t *data = fixture_read(from, &bytes);
        directory_fixture_write(to, data, bytes);
        free(data);
    }
    closedir(directory);
}

void root_publish(const struct serving_fixture *f, const char *name)
{
    struct error err;
    fixture_must(publish_generation(f->root, name, &err), &err);
}

void root_add_and_publish(const struct serving_fixture *f, const char *name, uint32_t kind)
{
    root_add(f, name, kind);
    root_publish(f, name);
}

void root_link(const struct serving_fixture *f, const char *target)
{
    assert_int_equal(symlink(target, root_path(f, "link")), 0);
    assert_int_equal(rename(root_path(f, "link"), root_path(f, PUBLISH_LINK_NAME)), 0);
}

void root_remove(const struct serving_fixture *f, const char *name)
{
    assert_int_equal(directory_fixture_remove(root_path(f, name)), 0);
}

/* ---- serving ---- */

struct serving_params serving_usual(const struct serving_fixture *f)
{
    return (struct serving_params){.root = f->root,
                                   .engine = {.threads = 1,
                                              .read_timeout_ms = PATIENCE_S * 1000,
                                              .own_reads = true,
                                              .faults = &f->faults}};
}

void serving_start(struct serving_fixture *f, const struct serving_params *params)
{
    struct error err;
    fixture_must(serving_create(params, &f->serving, &err), &err);
}

void serving_stop(struct serving_fixture *f)
{
    serving_destroy(f->serving);
    f->serving = NULL;
}

struct serving_stats serving_stats_of(const struct serving_fixture *f)
{
    struct serving_stats stats;
    serving_stats_get(f->serving, &stats);
    return stats;
}

void serving_wait(const struct serving_fixture *f,
                  bool (*done)(const struct serving_stats *stats, uint64_t number), uint64_t number)
{
    uint64_t since_ns = clock_monotonic_ns();
    for (;;) {
        const struct serving_stats stats = serving_stats_of(f);
        if (done(&stats, number))
            return;
        poll_pause(since_ns, stats.refused_reason);
    }
}

bool has_swapped(const struct serving_stats *stats, uint64_t number)
{
    return stats->swaps >= number;
}

bool has_refused(const struct serving_stats *stats, uint64_t number)
{
    return stats->refused >= number;
}

void expect_live(const struct serving_fixture *f, const char *name, uint32_t kind)
{
    struct search_hit hits[SERVING_QUERIES * SERVING_K];
    struct served *served = serving_acquire(f->serving);
    assert_non_null(served);
    assert_string_equal(served->name, name);
    ask_all(f, served->engine, hits);
    assert_true(answers_are(f, kind, hits));
    served_release(served);
}

/* ---- wishes ---- */

/* On the keeper's thread. */
static void asked_told(struct serving_wish *wish, const struct serving_outcome *outcome)
{
    struct asked *asked = (struct asked *)wish;
    pthread_mutex_lock(&asked->lock);
    asked->told++;
    asked->outcome = *outcome;
    pthread_cond_broadcast(&asked->changed);
    pthread_mutex_unlock(&asked->lock);
}

void asked_begin(struct serving_fixture *f, struct asked *asked)
{
    struct error err;
    *asked = (struct asked){.wish.done = asked_told};
    pthread_mutex_init(&asked->lock, NULL);
    pthread_cond_init(&asked->changed, NULL);
    fixture_must(serving_reload(f->serving, &asked->wish, &err), &err);
}

struct serving_outcome asked_end(struct asked *asked)
{
    struct timespec until;
    int waited = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&asked->lock);
    while (asked->told == 0 && waited == 0)
        waited = pthread_cond_timedwait(&asked->changed, &asked->lock, &until);
    pthread_mutex_unlock(&asked->lock);
    assert_int_equal(asked->told, 1);
    pthread_cond_destroy(&asked->changed);
    pthread_mutex_destroy(&asked->lock);
    return asked->outcome;
}

struct serving_outcome serving_look(struct serving_fixture *f)
{
    struct asked asked;
    asked_begin(f, &asked);
    return asked_end(&asked);
}

/* ---- queries in flight ---- */

/* On a worker. */
static void flight_done(struct search_query *query)
{
    struct flight *flight = query->user;
    struct served *served = flight->served;
    /* Release: the test's thread reads hits. */
    atomic_fetch_sub_explicit(&flight->remaining, 1, memory_order_release);
    served_release(served);
}

void flight_begin(const struct serving_fixture *f, struct flight *flight)
{
    struct served *served = serving_acquire(f->serving);
    assert_non_null(served);
    flight->served = served;
    atomic_init(&flight->remaining, SERVING_QUERIES);
    for (uint32_t q = 0; q < SERVING_QUERIES; q++) {
        struct served *again = serving_acquire(f->serving);
        assert_ptr_equal(again, served);
        query_init(f, q, flight->hits, &flight->queries[q]);
        flight->queries[q].complete = flight_done;
        flight->queries[q].user = flight;
        assert_int_equal(engine_submit(served->engine, &flight->queries[q]), STATUS_OK);
    }
    served_release(served);
}

void flight_end(const struct serving_fixture *f, struct flight *flight, uint32_t kind)
{
    uint64_t since_ns = clock_monotonic_ns();
    while (atomic_load_explicit(&flight->remaining, memory_order_acquire) > 0)
        poll_pause(since_ns, "queries in flight");
    for (uint32_t q = 0; q < SERVING_QUERIES; q++)
        assert_int_equal(flight->queries[q].status, STATUS_OK);
    assert_true(answers_are(f, kind, flight->hits));
}

/* ---- the process ---- */

uint32_t process_count(const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/%s", name);
    return (uint32_t)directory_fixture_entries(path);
}

uint32_t process_open_in(const char *path)
{
    uint32_t count = 0;
    const struct dirent *entry;
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    while ((entry = readdir(directory))) {
        char target[SERVICE_PATH_BYTES + 2 * NAME_MAX];
        ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1);
        target[MAX(length, (ssize_t)0)] = '\0';
        size_t prefix = strlen(path);
        count += strncmp(target, path, prefix) == 0 &&
                 (target[prefix] == '\0' || target[prefix] == '/' || target[prefix] == ' ');
    }
    closedir(directory);
    return count;
}
