/*
 * service.c - see service.h.
 */
#include "tests/service.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "builder/build.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/random.h"
#include "common/vector_file.h"
#include "layout/publish.h"
#include "tools/calibrate.h"

enum {
    SEED = 20240611,
    WAIT_S = 60,
    PATIENCE_S = 60,
    READ_TIMEOUT_MS = 60000, /* longer than a test keeps the gate closed on a slow machine */
};

#define ASSERT_OK(call, err)                                                                       \
    do {                                                                                           \
        if ((call) != STATUS_OK)                                                                   \
            fail_msg("%s", (err).text);                                                            \
    } while (0)

/* ---- data ---- */

static void vector_fill(uint64_t stream, uint32_t number, float *out)
{
    for (uint32_t d = 0; d < SERVICE_DIM; d++)
        out[d] = (float)random_unit(stream, (uint64_t)number * SERVICE_DIM + d);
}

void service_query(uint32_t number, float query[SERVICE_DIM])
{
    vector_fill(SEED + 1, number, query);
}

uint32_t service_year(uint32_t row)
{
    return 2000 + row % 20;
}

const char *service_lang(uint32_t row)
{
    static const char *const langs[] = {"en", "de", "fr"};
    return langs[row % ARRAY_LENGTH(langs)];
}

static void attributes_write(const char *path)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("year:u64,price:i64,lang:labels\n", file);
    for (uint32_t i = 0; i < SERVICE_VECTORS; i++)
        fprintf(file, "%u,%d,%s\n", service_year(i), (int)i - SERVICE_VECTORS / 2, service_lang(i));
    assert_int_equal(fclose(file), 0);
}

/* Files beside the vectors; NULL: none. */
struct companions {
    const char *attributes; /* CSV; there are recall curves then, too */
    const char *keys;       /* .u64bin */
};

static void generation_make(const struct service_data *data, const char *name, uint64_t seed,
                            uint32_t code_bytes, const struct companions *beside)
{
    char input[SERVICE_PATH_BYTES], output[SERVICE_PATH_BYTES + NAME_MAX];
    static float vectors[SERVICE_VECTORS][SERVICE_DIM];
    struct vector_writer *writer = NULL;
    struct error err;
    const struct vector_shape shape = {SERVICE_VECTORS, SERVICE_DIM, ELEMENT_F32};
    snprintf(input, sizeof(input), "%s/base.fbin", data->dir);
    snprintf(output, sizeof(output), "%s/%s", data->root, name);
    for (uint32_t i = 0; i < SERVICE_VECTORS; i++)
        vector_fill(seed, i, vectors[i]);
    unlink(input);
    ASSERT_OK(vector_writer_open(input, shape, &writer, &err), err);
    ASSERT_OK(vector_writer_append(writer, vectors, SERVICE_VECTORS, &err), err);
    ASSERT_OK(vector_writer_finish(writer, &err), err);
    struct build_params params = {.input = input,
                                  .output = output,
                                  .attributes = beside->attributes,
                                  .keys = beside->keys,
                                  .metric = METRIC_L2,
                                  .degree = 16,
                                  .build_list = 32,
                                  .alpha = 1.2,
                                  .codec = CODEC_PQ,
                                  .code_bytes = code_bytes,
                                  .replication = 1.2,
                                  .threads = 1,
                                  .seed = 1,
                                  .navigation_share = 0.02,
                                  .calibrate = beside->attributes ? calibrate_run : NULL,
                                  .quiet = true};
    ASSERT_OK(build_attributes_look(&params, &err), err);
    ASSERT_OK(build_run(&params, NULL, &err), err);
}

void service_generation_make(const struct service_data *data, const char *name, uint64_t seed,
                             uint32_t code_bytes)
{
    generation_make(data, name, seed, code_bytes, &(struct companions){0});
}

void service_attributes_make(struct service_data *data)
{
    char attributes[SERVICE_PATH_BYTES];
    snprintf(attributes, sizeof(attributes), "%s/base.csv", data->dir);
    attributes_write(attributes);
    generation_make(data, "with", SEED, SERVICE_CODE_BYTES,
                    &(struct companions){.attributes = attributes});
    snprintf(data->generation, sizeof(data->generation), "%s/root/with", data->dir);
}

void service_keys_make(struct service_data *data, uint64_t first)
{
    char path[SERVICE_PATH_BYTES];
    const uint32_t header[] = {SERVICE_VECTORS, 1};
    snprintf(path, sizeof(path), "%s/base.u64bin", data->dir);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(header, sizeof(header), 1, file), 1);
    for (uint64_t key = first; key < first + SERVICE_VECTORS; key++)
        assert_int_equal(fwrite(&key, sizeof(key), 1, file), 1);
    assert_int_equal(fclose(file), 0);
    generation_make(data, "keyed", SEED, SERVICE_CODE_BYTES, &(struct companions){.keys = path});
    snprintf(data->generation, sizeof(data->generation), "%s/root/keyed", data->dir);
}

struct service_data *service_data_create(void)
{
    struct service_data *data = calloc(1, sizeof(*data));
    assert_non_null(data);
    assert_int_equal(directory_fixture_create(data->dir), 0);
    snprintf(data->root, sizeof(data->root), "%s/root", data->dir);
    snprintf(data->generation, sizeof(data->generation), "%s/root/gen", data->dir);
    snprintf(data->socket, sizeof(data->socket), "%s/s", data->dir);
    assert_int_equal(mkdir(data->root, 0755), 0);
    log_set_level(LOG_LEVEL_ERROR);
    for (uint32_t i = 0; i < SERVICE_VECTORS; i++)
        vector_fill(SEED, i, data->vectors[i]);
    service_generation_make(data, "gen", SEED, SERVICE_CODE_BYTES);
    struct error err;
    ASSERT_OK(publish_generation(data->root, "gen", &err), err);
    return data;
}

void service_data_destroy(struct service_data *data)
{
    if (!data)
        return;
    directory_fixture_remove(data->dir);
    free(data);
}

/* ---- gate ---- */

void gate_init(struct gate *gate)
{
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
    gate->closed = false;
    gate->waiting = gate->known_count = 0;
}

void gate_fini(struct gate *gate)
{
    pthread_mutex_destroy(&gate->lock);
    pthread_cond_destroy(&gate->changed);
}

/* The lock is held. */
static bool gate_knows(const struct gate *gate)
{
    for (uint32_t i = 0; i < gate->known_count; i++)
        if (pthread_equal(gate->known[i], pthread_self()))
            return true;
    return false;
}

static int gate_pass(void *context, uint64_t offset, void *buffer, uint32_t bytes, int result)
{
    struct gate *gate = context;
    (void)offset, (void)buffer, (void)bytes;
    pthread_mutex_lock(&gate->lock);
    bool known = gate_knows(gate);
    if (!known && !gate->closed) {
        assert_true(gate->known_count < GATE_THREADS_MAX);
        gate->known[gate->known_count++] = pthread_self();
    }
    gate->waiting += known;
    pthread_cond_broadcast(&gate->changed);
    while (gate->closed && known)
        pthread_cond_wait(&gate->changed, &gate->lock);
    gate->waiting -= known;
    pthread_mutex_unlock(&gate->lock);
    return result;
}

struct block_io_faults gate_faults(struct gate *gate)
{
    return (struct block_io_faults){.on_read = gate_pass, .context = gate};
}

void gate_close(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->closed = true;
    pthread_mutex_unlock(&gate->lock);
}

void gate_open(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->closed = false;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

void gate_wait_reached(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (gate->waiting == 0)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static int read_fails(void *context, uint64_t offset, void *buffer, uint32_t bytes, int result)
{
    (void)context, (void)offset, (void)buffer, (void)bytes, (void)result;
    return -EIO;
}

/* ---- service ---- */

static void *service_thread(void *context)
{
    struct service *service = context;
    service->result = server_run(service->server, NULL);
    return NULL;
}

struct service *service_start(struct service_data *data, const struct service_options *options)
{
    struct service *s = calloc(1, sizeof(*s));
    struct error err;
    assert_non_null(s);
    s->data = data;
    s->listener.fd = -1;
    gate_init(&s->gate);
    if (options->gated)
        s->faults = gate_faults(&s->gate);
    else if (options->reads_fail)
        s->faults = (struct block_io_faults){.on_read = read_fails};
    s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(s->stop_fd >= 0);

    const struct serving_params serving_params = {
        .root = options->root ? data->root : NULL,
        .index = options->root ? NULL : data->generation,
        .memory_bytes = options->memory_bytes,
        .swap = options->swap,
        .engine = {.threads = options->threads ? options->threads : 1,
                   .slots_per_thread = options->slots,
                   .queue_limit = options->queue_limit,
                   .read_timeout_ms = READ_TIMEOUT_MS,
                   .own_reads = s->faults.on_read != NULL,
                   .faults = s->faults.on_read ? &s->faults : NULL},
    };
    ASSERT_OK(serving_create(&serving_params, &s->serving, &err), err);
    s->served = serving_acquire(s->serving);
    if (options->gated)
        gate_close(&s->gate);
    ASSERT_OK(socket_path_listen(data->socket, NULL, 64, &s->listener, &err), err);
    const struct server_params server_params = {.serving = s->serving,
                                                .listener = &s->listener,
                                                .stop_fd = s->stop_fd,
                                                .reload_fd = -1,
                                                .peers = options->peers,
                                                .connections_max = options->connections_max,
                                                .window = options->window,
                                                .output_bytes_max = options->output_bytes_max,
                                                .output_total_max = options->output_total_max,
                                                .stall_ms = options->stall_ms,
                                                .timeout_ms = options->timeout_ms,
                                                .slow_ms = options->slow_ms};
    ASSERT_OK(server_create(&server_params, &s->server, &err), err);
    assert_int_equal(pthread_create(&s->thread, NULL, service_thread, s), 0);
    s->running = true;
    return s;
}

void service_stop_begin(struct service *service)
{
    const uint64_t one = 1;
    assert_int_equal(write(service->stop_fd, &one, sizeof(one)), sizeof(one));
}

enum status service_stop(struct service *service)
{
    if (service->running) {
        gate_open(&service->gate);
        service_stop_begin(service);
        pthread_join(service->thread, NULL);
        service->running = false;
    }
    service_let_go(service);
    return service->result;
}

void service_let_go(struct service *service)
{
    if (service->served)
        served_release(service->served);
    service->served = NULL;
}

void service_destroy(struct service *service)
{
    if (!service)
        return;
    (void)service_stop(service);
    serving_destroy(service->serving);
    server_destroy(service->server);
    socket_path_close(&service->listener);
    close(service->stop_fd);
    gate_fini(&service->gate);
    free(service);
}

struct server_stats service_stats(struct service *service)
{
    struct server_stats stats;
    server_stats_get(service->server, &stats);
    return stats;
}

void service_wait(struct service *service, bool (*done)(const struct server_stats *stats))
{
    uint64_t until_ns = clock_monotonic_ns() + WAIT_S * 1000000000ull;
    for (;;) {
        struct server_stats stats = service_stats(service);
        if (done(&stats))
            return;
        if (clock_monotonic_ns() > until_ns)
            fail_msg("waited %d s for the server in vain", WAIT_S);
        sched_yield();
    }
}

static void ignore_completion(struct search_query *query)
{
    (void)query;
}

void service_expect(struct service *service, const float *queries, uint32_t count, uint32_t k,
                    struct search_hit *hits)
{
    struct search_query *all = calloc(count, sizeof(*all));
    struct error err;
    assert_non_null(all);
    const struct client_search search = service_search(queries, count, k);
    for (uint32_t q = 0; q < count; q++) {
        all[q] = (struct search_query){.vector = queries + (size_t)q * SERVICE_DIM,
                                       .k = k,
                                       .search_list = search.search_list,
                                       .beam_width = search.beam_width,
                                       .hits = hits + (size_t)q * k,
                                       .complete = ignore_completion};
        ASSERT_OK(engine_query_check(service->served->engine, &all[q], &err), err);
    }
    engine_search_all(service->served->engine, all, count, 0);
    for (uint32_t q = 0; q < count; q++)
        assert_int_equal(all[q].hit_count, k);
    free(all);
}

struct client *service_connect(struct service *service)
{
    struct client *client = NULL;
    struct error err;
    ASSERT_OK(client_connect(service->data->socket, &client, &err), err);
    return client;
}

struct client_search service_search(const float *queries, uint32_t count, uint32_t k)
{
    /* One read in flight a query: its order of expansion, and so its answer, is then fixed. */
    return (struct client_search){.vectors = queries,
                                  .query_count = count,
                                  .k = k,
                                  .search_list = MAX(k, 40u),
                                  .beam_width = 1};
}

void service_assert_alive(struct service *service)
{
    float query[SERVICE_DIM];
    struct client_answer answer;
    struct error err;
    struct client *client = service_connect(service);
    service_query(0, query);
    const struct client_search search = service_search(query, 1, 5);
    ASSERT_OK(client_search(client, &search, &answer, &err), err);
    assert_int_equal(answer.results[0].hit_count, 5);
    client_close(client);
}

/* ---- raw client ---- */

int raw_connect(const char *path)
{
    struct sockaddr_un address;
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    assert_int_equal(socket_path_address(path, &address, NULL), STATUS_OK);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

void raw_send(int fd, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    while (length > 0) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
        assert_true(sent > 0);
        at += sent;
        length -= (size_t)sent;
    }
}

size_t raw_search(uint8_t *frame, uint64_t id, const float *queries, uint32_t count, uint32_t k)
{
    const struct client_search usual = service_search(queries, count, k);
    const struct protocol_search fixed = {.query_count = count,
                                          .k = k,
                                          .search_list = usual.search_list,
                                          .beam_width = usual.beam_width,
                                          .element_type = ELEMENT_F32,
                                          .dim = SERVICE_DIM};
    size_t vectors_bytes = (size_t)count * SERVICE_DIM * sizeof(float);
    protocol_header_encode(frame, PROTOCOL_SEARCH, id, (uint32_t)(sizeof(fixed) + vectors_bytes));
    memcpy(frame + PROTOCOL_HEADER_BYTES, &fixed, sizeof(fixed));
    memcpy(frame + PROTOCOL_HEADER_BYTES + sizeof(fixed), queries, vectors_bytes);
    return PROTOCOL_HEADER_BYTES + sizeof(fixed) + vectors_bytes;
}

struct protocol_search *raw_search_fields(uint8_t *frame)
{
    return (void *)(frame + PROTOCOL_HEADER_BYTES);
}

/* False at the end of the stream, however it comes. */
static bool receive_exactly(int fd, void *bytes, size_t length)
{
    uint8_t *at = bytes;
    while (length > 0) {
        ssize_t got = recv(fd, at, length, 0);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return false;
        if (got < 0)
            fail_msg("no answer: %s", strerror(errno));
        at += got;
        length -= (size_t)got;
    }
    return true;
}

bool raw_receive(int fd, struct raw_frame *frame)
{
    uint8_t header[PROTOCOL_HEADER_BYTES];
    struct error err;
    frame->header = (struct protocol_header){0};
    frame->status = STATUS_OK;
    frame->text[0] = '\0';
    if (!receive_exactly(fd, header, sizeof(header)))
        return false;
    ASSERT_OK(protocol_header_decode(header, &frame->header, &err), err);
    assert_true(frame->header.payload_bytes <= sizeof(frame->payload));
    assert_true(receive_exactly(fd, frame->payload, frame->header.payload_bytes));
    if (frame->header.type == PROTOCOL_ERROR)
        ASSERT_OK(protocol_error_decode(frame->payload, frame->header.payload_bytes, &frame->status,
                                        frame->text, &err),
                  err);
    return true;
}

void raw_expect_error(int fd, uint64_t id, enum status status, const char *words)
{
    struct raw_frame frame;
    assert_true(raw_receive(fd, &frame));
    assert_int_equal(frame.header.type, PROTOCOL_ERROR);
    if (frame.status != status || !strstr(frame.text, words))
        fail_msg("got %s \"%s\", wanted %s \"%s\"", status_name(frame.status), frame.text,
                 status_name(status), words);
    assert_int_equal(frame.header.request_id, id);
}

void raw_expect_hello(int fd)
{
    enum { ID = 4711 };
    uint8_t bytes[PROTOCOL_HEADER_BYTES + sizeof(struct protocol_hello)] = {0};
    struct raw_frame frame;
    protocol_header_encode(bytes, PROTOCOL_HELLO, ID, sizeof(struct protocol_hello));
    raw_send(fd, bytes, sizeof(bytes));
    assert_true(raw_receive(fd, &frame));
    assert_int_equal(frame.header.type, PROTOCOL_HELLO_OK);
    assert_int_equal(frame.header.request_id, ID);
}
