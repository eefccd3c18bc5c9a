/*
 * service.h - for tests of the daemon: a small generation, a server over it on a thread, a gate
 * that holds queries in flight, and a raw client that can misbehave.
 *
 * Functions assert through cmocka and are called on the test's thread unless they say otherwise.
 */
#ifndef NIGHTJAR_TESTS_SERVICE_H
#define NIGHTJAR_TESTS_SERVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "query/client.h"
#include "query/protocol.h"
#include "query/server.h"
#include "tests/directory_fixture.h"

enum {
    SERVICE_VECTORS = 600, /* fewer than the largest k, so that k > n can be asked */
    SERVICE_DIM = 16,
    SERVICE_CODE_BYTES = 8,
    SERVICE_PATH_BYTES = 400,
    SERVICE_RESIDENT_BYTES = 64 << 20, /* a budget that holds every block: no reads at all */
};

/* A directory with a published generation, made once a program. */
struct service_data {
    char dir[DIRECTORY_FIXTURE_BYTES];
    char generation[SERVICE_PATH_BYTES]; /* dir/root/gen */
    char root[SERVICE_PATH_BYTES];
    char socket[SERVICE_PATH_BYTES]; /* dir/s: free for the test */
    float vectors[SERVICE_VECTORS][SERVICE_DIM];
};
struct service_data *service_data_create(void);
void service_data_destroy(struct service_data *data);
/* Has data->generation be one of the same vectors with recall curves and attributes: year and
 * lang, as below, and price, which is row - SERVICE_VECTORS / 2. */
void service_attributes_make(struct service_data *data);
uint32_t service_year(uint32_t row);
const char *service_lang(uint32_t row);
/* Has data->generation be one of the same vectors, whose keys are first, first + 1, ... */
void service_keys_make(struct service_data *data, uint64_t first);
/* Another generation in data->root, unpublished: of other vectors, so that its answers differ. */
void service_generation_make(const struct service_data *data, const char *name, uint64_t seed,
                             uint32_t code_bytes);
/* A query not in the index; any index. */
void service_query(uint32_t number, float query[SERVICE_DIM]);

struct service_options {
    uint64_t memory_bytes;
    uint32_t threads, slots, queue_limit; /* of the engine; 0: 1, default, default */
    bool gated;                           /* reads wait at the gate, which is closed at first */
    bool reads_fail;                      /* every read gives EIO */
    uint32_t connections_max, window;     /* of the server; 0: default */
    size_t output_bytes_max, output_total_max;
    uint32_t stall_ms, timeout_ms, slow_ms;
    const struct peer_policy *peers;
    bool root; /* serve data->root, not the generation alone */
    enum serving_swap swap;
};

enum { GATE_THREADS_MAX = 64 };

/* Holds the reads of engines that were there before it was closed. One that is opened later passes:
 * it has to answer queries of its own before it goes live. */
struct gate {
    pthread_mutex_t lock; /* guards all */
    pthread_cond_t changed;
    bool closed;
    uint32_t waiting;
    pthread_t known[GATE_THREADS_MAX]; /* threads that came while it was open */
    uint32_t known_count;
};

struct service {
    const struct service_data *data;
    struct serving *serving;
    struct served *served; /* what was live at the start, with a reference until service_stop() or
                            * service_let_go() */
    struct block_io_faults faults;
    struct gate gate;
    struct socket_path listener;
    struct server *server;
    int stop_fd;
    pthread_t thread;
    bool running;
    enum status result;
};
struct service *service_start(struct service_data *data, const struct service_options *options);
/* Drains and joins; the result of server_run(). May be followed by service_destroy(). */
enum status service_stop(struct service *service);
void service_stop_begin(struct service *service);
/* Drops the reference to what was live at the start, without which no swap comes to its end. */
void service_let_go(struct service *service);
void service_destroy(struct service *service);

/* Open. */
void gate_init(struct gate *gate);
void gate_fini(struct gate *gate);
/* For an engine's reads to wait there. */
struct block_io_faults gate_faults(struct gate *gate);
void gate_close(struct gate *gate);
void gate_open(struct gate *gate);
/* Until a query waits there. */
void gate_wait_reached(struct gate *gate);

struct server_stats service_stats(struct service *service);
/* Until `done` holds for the statistics; fails after a minute. */
void service_wait(struct service *service, bool (*done)(const struct server_stats *stats));

/* k nearest of each query, asked of the engine in process. hits[count * k]. */
void service_expect(struct service *service, const float *queries, uint32_t count, uint32_t k,
                    struct search_hit *hits);

struct client *service_connect(struct service *service);
/* A search of `count` queries with usual parameters. */
struct client_search service_search(const float *queries, uint32_t count, uint32_t k);
/* The daemon still serves: a query on a new connection has an answer. */
void service_assert_alive(struct service *service);

/* ---- a client without manners: a socket ---- */

enum { RAW_PAYLOAD_MAX = 4096 };
struct raw_frame {
    struct protocol_header header;
    uint8_t payload[RAW_PAYLOAD_MAX];
    enum status status; /* of an ERROR, else OK */
    char text[ERROR_TEXT_BYTES];
};
int raw_connect(const char *path);
void raw_send(int fd, const void *bytes, size_t length);
/* A whole SEARCH frame with usual parameters into frame[], and its length. */
size_t raw_search(uint8_t *frame, uint64_t id, const float *queries, uint32_t count, uint32_t k);
enum { RAW_SEARCH_BYTES = 64 + SERVICE_DIM * 4 };          /* with one query */
struct protocol_search *raw_search_fields(uint8_t *frame); /* to spoil them */
/* Next frame; false when the daemon has closed. */
bool raw_receive(int fd, struct raw_frame *frame);
/* Next frame is an ERROR of this status to this id, and mentions `words`. */
void raw_expect_error(int fd, uint64_t id, enum status status, const char *words);
/* Sends HELLO and expects its answer: the connection works. */
void raw_expect_hello(int fd);

#endif
