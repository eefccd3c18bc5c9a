/*
 * server_internal.h - what the server's files share: server.c (loop, accept, drain),
 * server_connection.c (lifetime and output of a connection), server_input.c (bytes to frames),
 * server_request.c (request memory, submission, completion), server_answer.c (its answer's bytes),
 * server_admin.c (what is asked about the daemon itself).
 *
 * Threads. The epoll thread runs everything but request_complete(), which an engine worker calls.
 * Fields say who may touch them. Locks, in the order they may nest:
 *
 * - connection.mutex: output, flow control and interest of one connection; held over a non-blocking
 *   send(2), never over anything that waits
 * - server.lock: request free lists, resume list, requests in flight
 */
#ifndef NIGHTJAR_QUERY_SERVER_INTERNAL_H
#define NIGHTJAR_QUERY_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "query/peer.h"
#include "query/protocol.h"
#include "query/question.h"
#include "query/question_flight.h"
#include "query/server.h"
#include "query/serving.h"

enum {
    CONNECTION_INPUT_BYTES = 32 << 10,
    CONNECTION_FRAMES_PER_WAKE = 64,    /* then other connections get their turn */
    CONNECTION_RECEIVE_MAX = 256 << 10, /* bytes of a large frame taken a wake, likewise */
    CONNECTION_OUTPUT_KEEP = 64 << 10,  /* a drained output buffer larger than this is freed, and
                                         * a connection is behind when it has more to send */
    RELOADS_WAITING_MAX = 64,
    TICK_MS = 1000,
    REQUEST_CLASS_MIN = 9,          /* log2 bytes of the smallest request memory class */
    REQUEST_CLASS_MAX = 26,         /* of the largest: server_request.c asserts that it fits */
    REQUEST_SMALL_BYTES = 64 << 10, /* not held against REQUEST_MEMORY_MAX, see server_request.c */
};
_Static_assert((int)CONNECTION_INPUT_BYTES >
                   (int)(PROTOCOL_HEADER_BYTES + sizeof(struct protocol_search_head)),
               "a frame is judged by its header and head in the buffer");
#define REQUEST_MEMORY_MAX (UINT64_C(1) << 30)  /* large requests held, all connections */
#define REQUEST_KEEP_MAX   (UINT64_C(64) << 20) /* in free lists */

/* Lines that a client or a disk can cause at will. */
enum server_log {
    SERVER_LOG_ACCEPT,
    SERVER_LOG_DENIED,
    SERVER_LOG_BROKEN,
    SERVER_LOG_DEGRADED,
    SERVER_LOG_SLOW,
    SERVER_LOG_COUNT,
};

/* A SEARCH or FETCH frame from its header to its answer. One allocation: this struct, the body as
 * it came, rooms for what is fetched by key, queries, and the answer frame, into which the engine
 * writes hits. Owned by the epoll thread until submitted, then by the engine's workers through
 * `flight`. */
struct request {
    struct request *next;          /* in a free list */
    struct connection *connection; /* reference held */
    struct server *server;
    struct served *served; /* reference held from its submission: what answers it; NULL before */
    uint64_t id;
    uint64_t trace_id;
    uint64_t arrived_ns;
    uint64_t deadline_ns;
    struct protocol_search_head asked; /* of a FETCH: see request_head */
    struct protocol_fetch fetch;       /* of a SEARCH: count is 0 */
    struct question question;          /* of a SEARCH, prepared when it is submitted */
    uint32_t query_count, k;           /* of `asked` */
    uint32_t timeout_ms;
    uint32_t memory_class;
    struct question_flight flight; /* from its submission on */
    uint8_t *body;                 /* queries or keys, cursors, filter */
    uint8_t *rooms; /* of queries by key, and of a FETCH with vectors: see question.h */
    struct search_query *queries;
    uint8_t *frame; /* of the answer */
    uint64_t body_bytes, frame_bytes;
};

/* Bytes the socket did not take yet. */
struct output {
    uint8_t *bytes;
    size_t start, end, capacity;
};

struct connection {
    struct server *server;
    uint32_t number; /* in order of arrival: names it in logs, its flow in the engine */
    uid_t uid;       /* who was there when it connected */
    pid_t pid;
    bool admin;                  /* may ask for a reload */
    int fd;                      /* closed with the last reference */
    _Atomic uint32_t references; /* 1: the server's list; 1 a request; 1 the resume list */

    /* epoll thread */
    struct connection *previous, *next; /* server.connections */
    struct connection *pending_next;    /* server.pending */
    bool pending;
    bool listed;             /* in server.connections, registered with epoll */
    struct request *filling; /* its body is still coming */
    uint64_t filled_bytes;
    uint32_t requests;         /* SEARCH and FETCH frames so far: the lower half of a trace id */
    uint64_t waiting_since_ns; /* for the rest of a frame; 0: between two, or not read now */
    uint32_t skip_bytes;       /* of a refused frame's payload, still to come */
    uint32_t input_start, input_end; /* unparsed bytes of input[] */

    pthread_mutex_t mutex; /* guards what follows, up to resume_next */
    bool input_closed;     /* EOF, broken framing or drain: nothing more is read */
    bool failed;           /* output impossible or refused: answers are dropped */
    bool paused;           /* window full: not read until queries_in_flight <= resume_at */
    /* Reserved by the epoll thread when a SEARCH or FETCH is parsed; given back under the mutex. */
    _Atomic uint32_t queries_in_flight;
    uint32_t resume_at;
    uint32_t interest; /* epoll events registered */
    struct output output;
    uint64_t output_since_ns; /* when the socket last took a byte of it, or it began to wait */

    struct connection *resume_next; /* server.resume; this and resuming under server.lock */
    bool resuming;

    uint8_t input[CONNECTION_INPUT_BYTES]; /* epoll thread */
};

struct server_counters {
    _Atomic uint64_t connections_accepted, connections_refused, connections_denied;
    _Atomic uint64_t connections_broken;
    _Atomic uint64_t accept_failures, requests, queries, pauses, bytes_in, bytes_out;
    _Atomic uint64_t errors[SERVER_STATUS_COUNT];
};

struct server {
    struct server_params params; /* defaults filled in */
    uint64_t started_ns;
    int epoll_fd, wake_fd;

    /* epoll thread */
    struct connection *connections;
    struct connection *pending_head, **pending_tail; /* unparsed input left by the frame limit */
    bool accepting;                                  /* the listener is registered for EPOLLIN */
    uint64_t accept_retry_ns; /* when to try again after EMFILE; 0: not waiting */
    uint32_t connection_number;
    uint64_t tick_ns; /* when the next is due */
    bool draining;

    _Atomic uint32_t connection_count;
    _Atomic uint32_t reloads_waiting;
    _Atomic uint64_t output_bytes;
    _Atomic uint64_t logged_ns[SERVER_LOG_COUNT];
    struct server_counters counters;

    pthread_mutex_t lock;
    pthread_cond_t idle; /* requests_in_flight fell to 0 */
    struct connection *resume;
    struct request *free_requests[REQUEST_CLASS_MAX + 1];
    uint64_t free_bytes;
    uint64_t large_bytes; /* of requests in use above REQUEST_SMALL_BYTES */
    uint32_t requests_in_flight;
};

/* Shape that requests for `served` are checked against. */
struct protocol_shape server_shape(const struct server *server, const struct served *served);

/* Whether a line of this kind may be logged now: one in LOG_EVERY_MS, so that a flood of faults is
 * not a flood of lines. Any thread. */
bool server_may_log(struct server *server, enum server_log kind);

ALWAYS_INLINE void counter_add(_Atomic uint64_t *counter, uint64_t amount)
{
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

/* ---- server.c ---- */

/* Queues a connection whose window has room again; called with its mutex held. Any thread. */
void server_resume_push(struct server *server, struct connection *connection);
/* Queues a connection that has parseable input left. Epoll thread. */
void server_pending_push(struct server *server, struct connection *connection);

/* ---- server_connection.c ---- */

/* Takes `fd`, also on failure. */
NODISCARD enum status connection_create(struct server *server, int fd, const struct peer *peer,
                                        struct connection **out, struct error *err);
void connection_retain(struct connection *connection);
void connection_release(struct connection *connection);
/* Takes it off the server: unregistered, answers from now on dropped, list reference released. */
void connection_close(struct connection *connection);
/* Sends or buffers a frame; a connection that cannot take it is failed. Any thread. */
void connection_send(struct connection *connection, const void *bytes, size_t length);
/* As connection_send(), for an ERROR frame, counted. */
void connection_send_error(struct connection *connection, uint64_t request_id, enum status status,
                           const char *text);
/* Counts and logs that it ends for a fault of the peer's. Any thread. */
void connection_broken_note(struct connection *connection, const char *why);
/* Drops its answers and has it closed. Any thread. */
void connection_fail(struct connection *connection);
/* Whether it waits for the peer since before `then_ns`: for room in the socket, or the rest of a
 * frame. Epoll thread. */
bool connection_stalled(struct connection *connection, uint64_t then_ns);
/* The socket takes bytes again. */
void connection_flush(struct connection *connection);
/* Reads no more; closes itself once its answers are out. */
void connection_input_close(struct connection *connection);
/* Reserves window for `count` queries; false: paused, nothing reserved. */
bool connection_window_take(struct connection *connection, uint32_t count);
/* Sends a request's answer (NULL: none) and gives its window back, in one step. Any thread. */
void connection_answer(struct connection *connection, uint32_t query_count, const void *bytes,
                       size_t length);
/* Resumed: registers for input again. */
void connection_input_resume(struct connection *connection);

/* ---- server_input.c ---- */

/* Parses what is buffered and, if `readable`, receives once and parses that. */
void connection_input(struct connection *connection, bool readable);

/* ---- server_request.c ---- */

/* What a request's frame asks for, checked. A FETCH is a search of the form keys whose query_count,
 * dim and element type alone count. */
struct request_head {
    uint64_t id;
    struct protocol_search_head search;
    struct protocol_fetch fetch; /* of a SEARCH: count is 0 */
};
/* Memory for a checked SEARCH or FETCH whose window is taken; references its connection.
 * STATUS_BUSY when large requests hold REQUEST_MEMORY_MAX. */
NODISCARD enum status request_create(struct connection *connection, const struct request_head *head,
                                     struct request **out, struct error *err);
/* Its body is complete: checks all queries against what is live now, and submits them. The
 * request is gone for the caller. */
void request_submit(struct request *request);
/* Its connection will not complete it: gives window and memory back, unanswered. */
void request_abandon(struct request *request);
/* Frees the free lists. */
void request_pool_fini(struct server *server);

/* ---- server_answer.c ---- */

/* Bytes of the answer's frame, and where in it the hits of a SEARCH begin. */
uint64_t request_answer_bytes(const struct request_head *head);
size_t request_hits_at(uint32_t query_count);
/* Everything of the answer's frame that the engine did not write. */
void request_answer_encode(struct request *request);

/* ---- server_admin.c: frames whose payload is buffered; a failure is the caller's to answer ----
 */

NODISCARD enum status admin_hello(struct connection *connection,
                                  const struct protocol_header *header, const void *payload,
                                  struct error *err);
NODISCARD enum status admin_stats(struct connection *connection,
                                  const struct protocol_header *header, const void *payload,
                                  struct error *err);
/* Its window (1) is taken; on success the answer gives it back. */
NODISCARD enum status admin_reload(struct connection *connection,
                                   const struct protocol_header *header, struct error *err);

#endif
