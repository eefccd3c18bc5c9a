/*
 * question_flight.h - the queries of one request while the engine has them: how many are not over,
 * which failed first and what that is called. Shared by the socket (server_request.c) and HTTP.
 *
 *   fill in; question_flight_submit(); question_flight_release()
 *   in each query's complete(): question_flight_complete()
 *   when one of these says that all are over: question_flight_outcome(), question_flight_sum()
 *
 * Belongs to whoever has its memory, which may be gone once it was said, on any thread, that all
 * are over. Workers change what is atomic, nothing else. Nothing allocates or blocks.
 */
#ifndef NIGHTJAR_QUERY_QUESTION_FLIGHT_H
#define NIGHTJAR_QUERY_QUESTION_FLIGHT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "query/engine.h"

struct question_flight {
    /* in; borrowed until all are over */
    struct engine *engine;
    struct search_query *queries; /* `count`, checked */
    uint32_t count;
    bool fetches; /* queries by key are for the vectors, and not followed by searches for them */
    /* its own */
    _Atomic uint32_t remaining; /* queries not over, + 1 until all are submitted */
    _Atomic uint64_t failure;   /* of the first query that failed: its number << 32 | enum status */
};

/* Submits the queries in order until one is refused, which is a failure. Returns how many were
 * taken; none is told to be the last one before question_flight_release(). */
uint32_t question_flight_submit(struct question_flight *flight);
/* With what question_flight_submit() returned, once its caller is done with the request. True: all
 * are over, and nobody else will be told so. */
NODISCARD bool question_flight_release(struct question_flight *flight, uint32_t submitted);

/* In complete() of one of its queries. True likewise; the query may be in flight again if not. */
NODISCARD bool question_flight_complete(struct question_flight *flight, struct search_query *query);

/* When all are over: OK, or the first failure in a client's words. `timeout_ms`: what it had. */
NODISCARD enum status question_flight_outcome(const struct question_flight *flight,
                                              uint32_t timeout_ms, struct error *err);

/* When all are over: what a log says of them. */
struct question_sum {
    bool degraded;  /* something could not be read */
    uint32_t reads; /* 0 after a failure */
};
struct question_sum question_flight_sum(const struct question_flight *flight);

#endif
