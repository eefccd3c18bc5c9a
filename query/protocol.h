/*
 * protocol.h - the bytes between nightjard and its clients: encode and decode, no I/O.
 *
 * PROTOCOL.md is the reference; this header is its transcription and protocol.c the only place that
 * reads or writes frames, for daemon and client library alike. Frames are little-endian and every
 * field is naturally aligned when a frame starts at an 8-byte boundary.
 *
 * All functions are pure and thread-safe; none allocates. Decoders take bytes from a peer that may
 * be hostile: they never assert on them, and on failure leave their output untouched.
 */
#ifndef NIGHTJAR_QUERY_PROTOCOL_H
#define NIGHTJAR_QUERY_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#include "common/element.h"
#include "common/error.h"

#define PROTOCOL_MAGIC 0x52414a4eu /* "NJAR" in memory order */

enum {
    PROTOCOL_VERSION = 1,
    PROTOCOL_HEADER_BYTES = 24,
    PROTOCOL_FRAME_BYTES_MAX = 16 << 20, /* header included */
    PROTOCOL_QUERIES_MAX = 1024,         /* queries a SEARCH frame */
    PROTOCOL_K_MAX = 4096,
    PROTOCOL_FILTER_BYTES_MAX = 4096,
    PROTOCOL_KEYS_MAX = 1024, /* a FETCH frame */
    PROTOCOL_ERROR_TEXT_MAX = ERROR_TEXT_BYTES - 1,
};

enum protocol_type {
    PROTOCOL_HELLO = 1,      /* client: what do you serve? */
    PROTOCOL_HELLO_OK = 2,   /* daemon */
    PROTOCOL_SEARCH = 3,     /* client */
    PROTOCOL_SEARCH_OK = 4,  /* daemon */
    PROTOCOL_STATS = 5,      /* client */
    PROTOCOL_STATS_OK = 6,   /* daemon: JSON text */
    PROTOCOL_ERROR = 7,      /* daemon: status and one line of text */
    PROTOCOL_EXPLAIN_OK = 8, /* daemon: SEARCH_OK, then what each query took */
    PROTOCOL_RELOAD = 9,     /* client: serve what ROOT/current names now */
    PROTOCOL_RELOAD_OK = 10, /* daemon: what is served after that */
    PROTOCOL_FETCH = 11,     /* client: what is stored under these keys? */
    PROTOCOL_FETCH_OK = 12,  /* daemon */
};

/* Parts of the protocol that came after its first release. A client that wants one asks for it by
 * HELLO; one that does not never sees it. */
enum protocol_features {
    PROTOCOL_FEATURE_EXPLAIN = 1u << 0,  /* PROTOCOL_SEARCH_EXPLAIN */
    PROTOCOL_FEATURE_ORIGIN = 1u << 1,   /* PROTOCOL_SEARCH_ORIGIN */
    PROTOCOL_FEATURE_EXTENDED = 1u << 2, /* PROTOCOL_SEARCH_EXTENDED, recall targets, FETCH */
    /* all that this end knows */
    PROTOCOL_FEATURES =
        PROTOCOL_FEATURE_EXPLAIN | PROTOCOL_FEATURE_ORIGIN | PROTOCOL_FEATURE_EXTENDED,
};

/* Of a SEARCH. */
enum protocol_search_flags {
    PROTOCOL_SEARCH_EXPLAIN = 1u << 0,  /* answer with EXPLAIN_OK */
    PROTOCOL_SEARCH_ORIGIN = 1u << 1,   /* the answer ends with where it comes from */
    PROTOCOL_SEARCH_EXTENDED = 1u << 2, /* a protocol_extension follows the fixed part */
    /* all that this end knows */
    PROTOCOL_SEARCH_FLAGS =
        PROTOCOL_SEARCH_EXPLAIN | PROTOCOL_SEARCH_ORIGIN | PROTOCOL_SEARCH_EXTENDED,
};

/* Every frame. */
struct protocol_header {
    uint32_t magic;
    uint8_t version;
    uint8_t type;
    uint16_t flags; /* 0 */
    uint64_t request_id;
    uint32_t payload_bytes;
    uint32_t reserved; /* 0 */
};
_Static_assert(sizeof(struct protocol_header) == PROTOCOL_HEADER_BYTES, "wire layout");
_Static_assert(offsetof(struct protocol_header, request_id) == 8, "wire layout");
_Static_assert(offsetof(struct protocol_header, payload_bytes) == 16, "wire layout");

/* HELLO payload. */
struct protocol_hello {
    uint32_t features; /* enum protocol_features, required of the daemon */
    uint32_t reserved; /* 0 */
};
_Static_assert(sizeof(struct protocol_hello) == 8, "wire layout");

/* HELLO_OK payload: what is served, and the limits of a request. */
struct protocol_hello_ok {
    uint64_t vector_count;
    uint64_t generation_low;
    uint64_t generation_high;
    uint32_t dim;
    uint32_t element_type; /* enum element_type */
    uint32_t metric;       /* enum metric */
    uint32_t frame_bytes_max;
    uint32_t queries_max; /* a frame */
    uint32_t k_max;
    uint32_t search_list_max;
    uint32_t beam_width_max;
    uint32_t window;   /* queries in flight a connection, beyond which it is not read */
    uint32_t features; /* those of the HELLO */
};
_Static_assert(sizeof(struct protocol_hello_ok) == 64, "wire layout");
_Static_assert(offsetof(struct protocol_hello_ok, dim) == 24, "wire layout");
_Static_assert(offsetof(struct protocol_hello_ok, window) == 56, "wire layout");

/* SEARCH payload; where its flags say so a protocol_extension follows; then the body. The body
 * starts 64 bytes after the frame does, or 128. */
struct protocol_search {
    uint32_t query_count;
    uint32_t k;
    uint32_t search_list;  /* 0 with a recall target */
    uint32_t beam_width;   /* 0: the daemon chooses */
    float search_ratio;    /* 0: none */
    float recall_target;   /* in (0, 1): the daemon chooses list and ratio; 0: none */
    uint32_t timeout_ms;   /* 0: none */
    uint32_t element_type; /* must be the index's */
    uint32_t dim;          /* must be the index's */
    uint32_t flags;        /* enum protocol_search_flags */
};
_Static_assert(sizeof(struct protocol_search) == 40, "wire layout");
_Static_assert(offsetof(struct protocol_search, recall_target) == 20, "wire layout");
_Static_assert(offsetof(struct protocol_search, dim) == 32, "wire layout");

enum protocol_form {
    PROTOCOL_FORM_VECTORS = 0, /* the body starts with query_count * dim elements, packed */
    PROTOCOL_FORM_KEYS = 1,    /* with query_count u64: the vectors stored under these keys */
};
enum protocol_mode {
    PROTOCOL_MODE_NEAREST = 0, /* the k nearest */
    PROTOCOL_MODE_RADIUS = 1,  /* all within the radius, the k nearest if there are more */
};

/* After the queries the body has protocol_cursor[query_count] when there are pages, then the
 * filter's text. None of it is aligned. */
struct protocol_extension {
    uint32_t form;         /* enum protocol_form */
    uint32_t mode;         /* enum protocol_mode */
    float radius;          /* with PROTOCOL_MODE_RADIUS, a distance of the metric; else 0 */
    uint32_t filter_bytes; /* 0: no filter */
    uint32_t pages;        /* 1: each query has a cursor; 0: none has */
    uint32_t reserved[11]; /* 0 */
};
_Static_assert(sizeof(struct protocol_extension) == 64, "wire layout");
_Static_assert(offsetof(struct protocol_extension, pages) == 16, "wire layout");

/* Where the page before ended: its last hit, and how many hits there were up to it. */
struct protocol_cursor {
    uint64_t key;
    float distance;
    uint32_t rank; /* 0: the first page, as are key and distance */
};
_Static_assert(sizeof(struct protocol_cursor) == 16, "wire layout");
_Static_assert(offsetof(struct protocol_cursor, rank) == 12, "wire layout");

/* All of a SEARCH but its body, as it is on the wire where it is extended. */
struct protocol_search_head {
    struct protocol_search fixed;
    struct protocol_extension extension; /* zeros where it is not */
};
_Static_assert(sizeof(struct protocol_search_head) == 104, "wire layout");

/* SEARCH_OK and EXPLAIN_OK payload, followed by protocol_result[query_count], then
 * protocol_hit[query_count * k]; of EXPLAIN_OK then protocol_explanation[query_count]; where the
 * request was extended, a protocol_chosen; where it was asked for, a protocol_origin ends it. */
struct protocol_search_ok {
    uint32_t query_count;
    uint32_t k;
};
_Static_assert(sizeof(struct protocol_search_ok) == 8, "wire layout");

enum protocol_result_flags {
    PROTOCOL_RESULT_DEGRADED = 1u << 0,    /* a block could not be read */
    PROTOCOL_RESULT_TRUNCATED = 1u << 1,   /* there may be more than k within the radius */
    PROTOCOL_RESULT_UNKNOWN_KEY = 1u << 2, /* nothing is stored under the query's key */
    PROTOCOL_RESULT_LAST = 1u << 3,        /* of pages: no page comes after this one */
};

struct protocol_result {
    uint32_t hit_count; /* <= k; the other hits of the query are zero */
    uint32_t flags;     /* enum protocol_result_flags */
    uint32_t reads;
    uint32_t cache_hits;
    uint32_t cpu_us;
    uint32_t reserved; /* 0 */
};
_Static_assert(sizeof(struct protocol_result) == 24, "wire layout");

struct protocol_hit {
    uint64_t key;
    float distance;
    uint32_t reserved; /* 0 */
};
_Static_assert(sizeof(struct protocol_hit) == 16, "wire layout");
_Static_assert(offsetof(struct protocol_hit, distance) == 8, "wire layout");

/* What a query took, beside what its result says. */
struct protocol_explanation {
    uint32_t hops; /* nodes expanded */
    uint32_t exact_distances;
    uint32_t code_distances;
    uint32_t failed_blocks; /* skipped after a failed retry */
    uint64_t read_bytes;
    uint64_t queue_ns; /* arrival to start */
    uint64_t cpu_ns;
    uint64_t total_ns; /* arrival to completion */
};
_Static_assert(sizeof(struct protocol_explanation) == 48, "wire layout");
_Static_assert(offsetof(struct protocol_explanation, read_bytes) == 16, "wire layout");

/* How a request was answered that left the choice to the daemon. */
enum protocol_filter_plan {
    PROTOCOL_PLAN_NO_FILTER = 0,
    PROTOCOL_PLAN_SCAN = 1,    /* all that match, one by one */
    PROTOCOL_PLAN_GRAPH = 2,   /* the graph, with an eye to what matches */
    PROTOCOL_PLAN_NOTHING = 3, /* nothing matches */
};
struct protocol_chosen {
    uint32_t search_list;    /* that was used */
    float search_ratio;      /* likewise */
    float expected_recall;   /* by the calibration; 0 without a recall target */
    uint32_t filter_plan;    /* enum protocol_filter_plan */
    uint64_t match_estimate; /* vectors that match the filter, all of them without one */
    uint64_t reserved;       /* 0 */
};
_Static_assert(sizeof(struct protocol_chosen) == 32, "wire layout");
_Static_assert(offsetof(struct protocol_chosen, match_estimate) == 16, "wire layout");

/* Where an answer comes from. */
struct protocol_origin {
    uint64_t generation_low; /* the generation that all its queries were answered from */
    uint64_t generation_high;
    uint64_t trace_id; /* what the daemon's log calls the request */
};
_Static_assert(sizeof(struct protocol_origin) == 24, "wire layout");

/* STATS payload, or none for JSON. */
enum protocol_stats_format {
    PROTOCOL_STATS_JSON = 0,
    PROTOCOL_STATS_PROMETHEUS = 1,
};
struct protocol_stats {
    uint32_t format; /* enum protocol_stats_format */
    uint32_t reserved;
};
_Static_assert(sizeof(struct protocol_stats) == 8, "wire layout");

/* RELOAD_OK payload, followed by name_bytes of the directory's name without a terminator. */
struct protocol_reload_ok {
    uint64_t generation_low;
    uint64_t generation_high;
    uint32_t swapped; /* 1: it was not served before; 0: it was already */
    uint32_t name_bytes;
};
_Static_assert(sizeof(struct protocol_reload_ok) == 24, "wire layout");
enum { PROTOCOL_NAME_MAX = 255 };

/* FETCH payload, followed by count u64 keys. */
enum protocol_fetch_flags {
    PROTOCOL_FETCH_VECTORS = 1u << 0, /* the vectors too, not only whether there is one */
    /* all that this end knows */
    PROTOCOL_FETCH_FLAGS = PROTOCOL_FETCH_VECTORS,
};
struct protocol_fetch {
    uint32_t count; /* 1..PROTOCOL_KEYS_MAX, and no more than queries of a SEARCH */
    uint32_t flags; /* enum protocol_fetch_flags */
};
_Static_assert(sizeof(struct protocol_fetch) == 8, "wire layout");

/* FETCH_OK payload, followed by u32 found[count], 1 or 0; 4 zero bytes when count is odd; with
 * PROTOCOL_FETCH_VECTORS then count * dim elements, packed, zeros where there is none. */
struct protocol_fetch_ok {
    uint32_t count;
    uint32_t dim;
    uint32_t element_type; /* of queries, whatever is stored */
    uint32_t flags;        /* those of the FETCH */
};
_Static_assert(sizeof(struct protocol_fetch_ok) == 16, "wire layout");

/* ERROR payload, followed by text_bytes of UTF-8 text without a terminator. */
struct protocol_error {
    uint32_t status; /* enum status; its numbers are fixed by PROTOCOL.md */
    uint32_t text_bytes;
};
_Static_assert(sizeof(struct protocol_error) == 8, "wire layout");

enum { PROTOCOL_ERROR_FRAME_MAX = PROTOCOL_HEADER_BYTES + 8 + PROTOCOL_ERROR_TEXT_MAX };

/* ---- headers ---- */

/* Writes a header into bytes[PROTOCOL_HEADER_BYTES]. */
void protocol_header_encode(void *bytes, enum protocol_type type, uint64_t request_id,
                            uint32_t payload_bytes);

/* Reads bytes[PROTOCOL_HEADER_BYTES]. STATUS_CORRUPT for a wrong magic, non-zero flags or reserved
 * bytes, or a frame longer than PROTOCOL_FRAME_BYTES_MAX; STATUS_UNSUPPORTED for another version.
 * After a failure the stream has no known frame boundary any more. An unknown type is not a
 * failure. */
NODISCARD enum status protocol_header_decode(const void *bytes, struct protocol_header *out,
                                             struct error *err);

/* ---- client to daemon ---- */

NODISCARD enum status protocol_hello_decode(const void *payload, uint32_t payload_bytes,
                                            struct protocol_hello *out, struct error *err);

/* Reads a STATS payload of `payload_bytes`, all of which are at `payload` when they are at most
 * sizeof(struct protocol_stats). STATUS_CORRUPT: another length; STATUS_UNSUPPORTED: an unknown
 * format. */
NODISCARD enum status protocol_stats_decode(const void *payload, uint32_t payload_bytes,
                                            enum protocol_stats_format *out, struct error *err);

/* What a SEARCH is checked against. */
struct protocol_shape {
    enum element_type type;
    uint32_t dim;
    uint32_t queries_max; /* <= PROTOCOL_QUERIES_MAX */
    enum metric metric;
};

/* How much of a SEARCH payload must be at hand for protocol_search_decode(): with the `held` bytes
 * of it that are at `payload`, more than `held` if that is not enough to tell. */
uint32_t protocol_search_head_bytes(const void *payload, uint32_t payload_bytes, uint32_t held);

/* Reads the head of a SEARCH payload of `payload_bytes` in all, of which as many as
 * protocol_search_head_bytes() says are at `payload`. On success the payload's length is exactly
 * head and body, and the answer fits a frame, so both may be allocated. STATUS_CORRUPT: lengths do
 * not add up, or reserved bytes are set. STATUS_INVALID: type, dim, query count, k, radius or
 * recall target out of range. STATUS_UNSUPPORTED: an unknown flag, form or mode. k against L and n,
 * L, W, and the vectors' values are engine_query_check()'s business; the body's cursors those of
 * protocol_cursor_decode(). */
NODISCARD enum status protocol_search_decode(const void *payload, uint32_t payload_bytes,
                                             const struct protocol_shape *shape,
                                             struct protocol_search_head *out, struct error *err);

/* Writes a head into bytes[sizeof(struct protocol_search_head)], and returns its length. */
size_t protocol_search_encode(void *bytes, const struct protocol_search_head *head);

/* Offsets in the body, and its length. */
struct protocol_body {
    uint64_t queries; /* 0 */
    uint64_t cursors; /* where the queries end */
    uint64_t filter;  /* where the cursors end, if any */
    uint64_t total;
};
/* Of a head whose counts are within their limits: no overflow then. */
struct protocol_body protocol_search_body(const struct protocol_search_head *head);

/* Reads query `query`'s cursor of the cursors at `cursors`. STATUS_INVALID: a distance that is NaN,
 * or a first page with a key or distance. */
NODISCARD enum status protocol_cursor_decode(const void *cursors, uint32_t query,
                                             struct protocol_cursor *out, struct error *err);

/* Bytes of a whole SEARCH frame of vectors that is not extended, header included, and of the frame
 * that answers one with `flags`. No overflow for counts up to their limits and dim up to
 * VECTOR_DIM_MAX; may exceed PROTOCOL_FRAME_BYTES_MAX. */
uint64_t protocol_search_frame_bytes(uint32_t query_count, uint32_t dim, enum element_type type);
uint64_t protocol_answer_frame_bytes(uint32_t query_count, uint32_t k, uint32_t flags);

/* Reads the fixed part of a FETCH payload of `payload_bytes` in all, of which at least
 * MIN(payload_bytes, sizeof(struct protocol_fetch)) are at `payload`. On success the length is
 * exactly that of its keys, and the answer fits a frame. */
NODISCARD enum status protocol_fetch_decode(const void *payload, uint32_t payload_bytes,
                                            const struct protocol_shape *shape,
                                            struct protocol_fetch *out, struct error *err);

/* Bytes of a FETCH_OK frame up to its vectors, header included; these follow where they were asked
 * for. */
size_t protocol_fetch_vectors_at(uint32_t count);
uint64_t protocol_fetch_answer_bytes(const struct protocol_fetch *fetch,
                                     const struct protocol_shape *shape);

/* The type of that answer. */
enum protocol_type protocol_answer_type(uint32_t flags);

/* ---- daemon to client ---- */

NODISCARD enum status protocol_hello_ok_decode(const void *payload, uint32_t payload_bytes,
                                               struct protocol_hello_ok *out, struct error *err);

/* A SEARCH_OK or EXPLAIN_OK that was checked; points into the caller's payload. */
struct protocol_answer {
    uint32_t query_count;
    uint32_t k;
    const struct protocol_result *results;           /* query_count */
    const struct protocol_hit *hits;                 /* query q's start at q * k */
    const struct protocol_explanation *explanations; /* query_count; NULL in a SEARCH_OK */
    const struct protocol_chosen *chosen;            /* NULL when the answer has none */
    const struct protocol_origin *origin;            /* likewise */
};

/* Reads the answer to a SEARCH with `flags`; whether it ends with what was chosen and an origin is
 * told by its length, not by them. `payload` is 8-byte aligned. STATUS_CORRUPT when lengths do not
 * add up, a hit count exceeds k or reserved bytes are set. */
NODISCARD enum status protocol_answer_decode(const void *payload, uint32_t payload_bytes,
                                             uint32_t flags, struct protocol_answer *out,
                                             struct error *err);

/* A FETCH_OK that was checked; points into the caller's payload. */
struct protocol_fetched {
    struct protocol_fetch_ok fixed;
    const uint32_t *found; /* fixed.count, each 0 or 1 */
    const void *vectors;   /* NULL when they were not asked for */
};

/* Reads the answer to a FETCH. `payload` is 8-byte aligned. */
NODISCARD enum status protocol_fetch_ok_decode(const void *payload, uint32_t payload_bytes,
                                               struct protocol_fetched *out, struct error *err);

/* Reads a RELOAD_OK payload; *name points into it. */
NODISCARD enum status protocol_reload_ok_decode(const void *payload, uint32_t payload_bytes,
                                                struct protocol_reload_ok *out, const char **name,
                                                struct error *err);

/* Writes a whole ERROR frame into bytes[PROTOCOL_ERROR_FRAME_MAX], longer text being cut, and
 * returns its length. */
size_t protocol_error_encode(void *bytes, uint64_t request_id, enum status status,
                             const char *text);

/* Reads an ERROR payload; text[ERROR_TEXT_BYTES] gets one NUL-terminated line. */
NODISCARD enum status protocol_error_decode(const void *payload, uint32_t payload_bytes,
                                            enum status *status, char *text, struct error *err);

#endif
