/*
 * client.h - libnightjar-client: talk to nightjard over its Unix socket (PROTOCOL.md).
 *
 * A client is one connection and is used by one thread at a time. Requests may be pipelined:
 * client_send_search() several times, then client_receive() answers in whatever order they come,
 * matched by request id. client_search() is the one-call form. No call prints or exits.
 */
#ifndef NIGHTJAR_QUERY_CLIENT_H
#define NIGHTJAR_QUERY_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/element.h"
#include "common/error.h"

struct client;

/* What only newer daemons can do. */
enum client_features {
    CLIENT_EXPLAIN = 1u << 0, /* client_search.explain */
    CLIENT_ORIGIN = 1u << 1,  /* client_search.origin */
    /* client_search.keys, filter, within_radius, cursors and recall_target; client_fetch() */
    CLIENT_EXTENDED = 1u << 2,
};

/* What the daemon serves; fetched at connect. */
struct client_index_info {
    uint64_t vector_count;
    uint32_t dim;
    enum element_type type;
    enum metric metric;
    uint64_t generation_low, generation_high;
    uint32_t queries_max; /* a request */
    uint32_t k_max;
    uint32_t search_list_max; /* largest L */
    uint32_t window;          /* queries in flight a connection; beyond it sending blocks */
};

struct client_hit {
    uint64_t key;
    float distance;
};

/* Where a page begins; zeros: the first. */
struct client_cursor {
    uint64_t key; /* of the last hit before it */
    float distance;
    uint32_t rank; /* hits before it */
};

struct client_search {
    const void *vectors;  /* query_count * dim elements of the index's type, packed */
    uint32_t query_count; /* 1..CLIENT_QUERIES_MAX; one frame */
    uint32_t k;
    uint32_t search_list;
    uint32_t beam_width; /* 0: the daemon chooses */
    float search_ratio;  /* 0: none */
    uint32_t timeout_ms; /* 0: none */
    bool explain;        /* the answer tells what each query took; see client_require() */
    bool origin;         /* the answer names its generation and trace id; likewise */
    /* What follows needs CLIENT_EXTENDED. Zeros: none of it. */
    const uint64_t *keys; /* query_count, instead of vectors: those of the index that have these
                           * keys, which are themselves no hits */
    const char *filter;   /* hits match it; NULL: no filter; "" is none, and refused */
    bool within_radius;   /* hits are within `radius`, the k nearest if there are more */
    float radius;         /* a distance of the metric; l2: squared */
    const struct client_cursor *cursors; /* query_count; NULL: no pages. search_list must be at
                                          * least rank + k */
    float recall_target; /* in (0, 1): the daemon chooses; search_list and search_ratio are 0 */
};
enum { CLIENT_QUERIES_MAX = 1024, CLIENT_KEYS_MAX = 1024, CLIENT_FILTER_BYTES_MAX = 4096 };

/* Of client_query_result.flags. */
enum client_result_flags {
    CLIENT_DEGRADED = 1u << 0,    /* a block could not be read */
    CLIENT_TRUNCATED = 1u << 1,   /* there may be more than k within the radius */
    CLIENT_UNKNOWN_KEY = 1u << 2, /* no vector has the query's key */
    CLIENT_LAST = 1u << 3,        /* with cursors: there is no page after this one */
};

struct client_query_result {
    uint32_t hit_count; /* <= k */
    uint32_t flags;     /* enum client_result_flags */
    uint32_t reads;
    uint32_t cache_hits;
    uint32_t cpu_us;
};

/* What a query took, beside what its result says. */
struct client_explanation {
    uint32_t hops; /* nodes expanded */
    uint32_t exact_distances;
    uint32_t code_distances;
    uint32_t failed_blocks; /* skipped after a failed retry */
    uint64_t read_bytes;
    uint64_t queue_ns; /* arrival to start */
    uint64_t cpu_ns;
    uint64_t total_ns; /* arrival to completion; the rest of it is waiting for reads */
};

/* How a request was answered that asked for more than a plain search. */
enum client_filter_plan {
    CLIENT_PLAN_NO_FILTER = 0,
    CLIENT_PLAN_SCAN = 1,    /* all that match were looked at */
    CLIENT_PLAN_GRAPH = 2,   /* the graph was searched */
    CLIENT_PLAN_NOTHING = 3, /* nothing matches */
};
struct client_chosen {
    uint32_t search_list;
    float search_ratio;
    float expected_recall;   /* as calibrated; 0 without a recall target */
    uint32_t filter_plan;    /* enum client_filter_plan */
    uint64_t match_estimate; /* vectors that match; all without a filter */
};

/* An answer. Arrays live in the client until its next receive. hits of query q start at q * k. */
struct client_answer {
    uint64_t request_id;
    enum status status;  /* of the request: OK, INVALID, BUSY, TIMEOUT, ... */
    const char *message; /* when status is not OK */
    uint32_t query_count, k;
    const struct client_query_result *results;
    const struct client_hit *hits;
    const struct client_explanation *explanations; /* query_count; NULL when not asked for */
    struct client_chosen chosen; /* zeros when nothing was asked that needs CLIENT_EXTENDED */
    /* 0 when the origin was not asked for */
    uint64_t generation_low, generation_high; /* of the generation that answered */
    uint64_t trace_id;                        /* what the daemon's log calls the request */
};

/* What is stored under some keys. Arrays live in the client until its next receive. */
struct client_fetched {
    uint32_t count;
    const uint32_t *found; /* count: 1, or 0: no vector has the key */
    const void *vectors;   /* count * dim elements of `type`, zeros where there is none; NULL when
                            * they were not asked for */
    uint32_t dim;
    enum element_type type;
};

/* What the daemon serves after a reload. */
struct client_reload {
    uint64_t generation_low, generation_high;
    bool swapped;   /* false: it was served already */
    char name[256]; /* of its directory in the root */
};

/* Connects and says hello. Errors name the path: STATUS_NOT_FOUND no such socket, STATUS_IO nobody
 * listens, STATUS_BUSY the daemon has all the connections it takes. Blocks until it answers. */
NODISCARD enum status client_connect(const char *socket_path, struct client **out,
                                     struct error *err);
void client_close(struct client *client);
struct client_index_info client_index(const struct client *client);
/* Whether the daemon has these of enum client_features: STATUS_UNSUPPORTED when it is too old.
 * Like client_stats(), STATUS_INVALID while pipelined requests are unanswered. */
NODISCARD enum status client_require(struct client *client, uint32_t features, struct error *err);

/* Sends one search frame; *request_id (never 0) identifies its answer. Blocks while the socket is
 * full, that is, when the daemon's window for this connection is. STATUS_INVALID: no frame can hold
 * it; nothing was sent. STATUS_IO: the connection is gone for good, as for every call below. */
NODISCARD enum status client_send_search(struct client *client, const struct client_search *search,
                                         uint64_t *request_id, struct error *err);
/* Waits for the next answer, whichever it is. A request's own failure is in answer->status; a
 * failure returned is the connection's, STATUS_CORRUPT being bytes that are not the protocol. */
NODISCARD enum status client_receive(struct client *client, struct client_answer *answer,
                                     struct error *err);
/* Send and wait; an answer whose status is not OK is returned as that status with its message. Like
 * client_stats(), STATUS_INVALID while pipelined requests are unanswered. */
NODISCARD enum status client_search(struct client *client, const struct client_search *search,
                                    struct client_answer *answer, struct error *err);
/* The cursor of the page after this answer's, for its query q, whose own was `cursor`. */
struct client_cursor client_cursor_after(const struct client_answer *answer, uint32_t q,
                                         struct client_cursor cursor);
/* Asks which keys there are, and for their vectors. Needs CLIENT_EXTENDED. Send and wait, as
 * client_search(). */
struct client_fetch {
    const uint64_t *keys;
    uint32_t count; /* 1..CLIENT_KEYS_MAX, and at most queries_max */
    bool vectors;
};
NODISCARD enum status client_fetch(struct client *client, const struct client_fetch *fetch,
                                   struct client_fetched *out, struct error *err);
/* The daemon's stats as text (malloc'd, caller frees). An older daemon answers STATUS_CORRUPT to
 * another format than JSON. */
enum client_stats_format { CLIENT_STATS_JSON = 0, CLIENT_STATS_PROMETHEUS = 1 };
NODISCARD enum status client_stats(struct client *client, enum client_stats_format format,
                                   char **text, struct error *err);
/* Has the daemon serve what ROOT/current names, and waits until it does. STATUS_DENIED: only the
 * daemon's user and root may ask; STATUS_INVALID: it serves a fixed index; any other failure: the
 * generation was refused for the reason given, and the one before is still served. */
NODISCARD enum status client_reload(struct client *client, struct client_reload *out,
                                    struct error *err);

#endif
