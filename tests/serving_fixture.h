/*
 * serving_fixture.h - for tests of what is served: a root of one's own for each test, generations
 * whose answers differ, faulty ones, and a serving over it.
 *
 * Functions assert through cmocka and are called on the test's thread unless they say otherwise.
 */
#ifndef NIGHTJAR_TESTS_SERVING_FIXTURE_H
#define NIGHTJAR_TESTS_SERVING_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "layout/manifest.h"
#include "query/serving.h"
#include "tests/service.h"

enum {
    SERVING_KINDS = 4,    /* generations; the last has larger codes */
    SERVING_LARGE = 3,    /* that one */
    SERVING_QUERIES = 12, /* asked of each */
    SERVING_K = 5,
};

struct serving_fixture {
    struct service_data *data; /* has the originals */
    struct digest128 ids[SERVING_KINDS];
    struct search_hit expected[SERVING_KINDS][SERVING_QUERIES * SERVING_K];
    float queries[SERVING_QUERIES][SERVICE_DIM];
    /* of the running test */
    char root[SERVICE_PATH_BYTES];
    struct serving *serving;
    struct gate gate; /* open at first */
    struct block_io_faults faults;
};

/* cmocka's. A test begins with an empty root and no serving; what it leaves is freed. */
int serving_group_setup(void **state);
int serving_group_teardown(void **state);
int serving_test_setup(void **state);
int serving_test_teardown(void **state);

/* ---- the root ---- */

/* Path of ROOT/NAME; valid until the next but three. */
const char *root_path(const struct serving_fixture *f, const char *name);
/* A generation of this kind as ROOT/NAME. */
void root_add(const struct serving_fixture *f, const char *name, uint32_t kind);
void root_publish(const struct serving_fixture *f, const char *name);
/* root_add() and root_publish(). */
void root_add_and_publish(const struct serving_fixture *f, const char *name, uint32_t kind);
/* Points `current` there, whatever it is. */
void root_link(const struct serving_fixture *f, const char *target);
/* Removes ROOT/NAME, a directory. */
void root_remove(const struct serving_fixture *f, const char *name);

/* ---- serving ---- */

/* Tiers hold codes alone; one worker. */
struct serving_params serving_usual(const struct serving_fixture *f);
/* serving_create(), which must succeed. */
void serving_start(struct serving_fixture *f, const struct serving_params *params);
void serving_stop(struct serving_fixture *f);

struct serving_stats serving_stats_of(const struct serving_fixture *f);
/* Until `done` holds; fails after a minute. */
void serving_wait(const struct serving_fixture *f,
                  bool (*done)(const struct serving_stats *stats, uint64_t number),
                  uint64_t number);
/* The two that are mostly waited for: `number` that many. */
bool has_swapped(const struct serving_stats *stats, uint64_t number);
bool has_refused(const struct serving_stats *stats, uint64_t number);

/* The live generation is ROOT/NAME, and answers as this kind does. */
void expect_live(const struct serving_fixture *f, const char *name, uint32_t kind);
bool answers_are(const struct serving_fixture *f, uint32_t kind, const struct search_hit *hits);
/* The kind that has this id, or SERVING_KINDS. Any thread. */
uint32_t kind_of(const struct serving_fixture *f, uint64_t low, uint64_t high);

/* ---- wishes ---- */

struct asked {
    struct serving_wish wish; /* first */
    pthread_mutex_t lock;     /* guards what follows */
    pthread_cond_t changed;
    uint32_t told;
    struct serving_outcome outcome; /* the last */
};
void asked_begin(struct serving_fixture *f, struct asked *asked);
/* Waits until it was told, once, and frees. */
struct serving_outcome asked_end(struct asked *asked);
/* Both. */
struct serving_outcome serving_look(struct serving_fixture *f);

/* ---- queries in flight ---- */

/* All queries, submitted to what is live, with a reference each as a request holds it. */
struct flight {
    struct served *served;
    struct search_query queries[SERVING_QUERIES];
    struct search_hit hits[SERVING_QUERIES * SERVING_K];
    _Atomic uint32_t remaining;
};
void flight_begin(const struct serving_fixture *f, struct flight *flight);
/* Waits until all are done; they are as this kind answers. */
void flight_end(const struct serving_fixture *f, struct flight *flight, uint32_t kind);

/* ---- the process ---- */

/* Entries of /proc/self/NAME: fd, task. */
uint32_t process_count(const char *name);
/* Open descriptors of files in or below `path`. */
uint32_t process_open_in(const char *path);
/* Between two looks of a poll; fails after a minute since `since_ns`. */
void poll_again(uint64_t since_ns, const char *what);
/* That with a millisecond's pause. */
void poll_pause(uint64_t since_ns, const char *what);

#endif
