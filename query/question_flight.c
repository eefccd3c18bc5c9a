/*
 * question_flight.c - see question_flight.h.
 */
#include "query/question_flight.h"

#include <assert.h>
#include <inttypes.h>

#include "query/question.h"

/* ---- on the way ---- */

/* `count` of its queries (or the submitter's share) are over. */
static bool count_down(struct question_flight *flight, uint32_t count)
{
    /* acq_rel: pairs with the same call on other workers, whose queries the last one's caller
     * reads, and with the load in failure_of(). */
    return atomic_fetch_sub_explicit(&flight->remaining, count, memory_order_acq_rel) == count;
}

/* Only the first is kept: those after it are often its consequence. */
static void note_failure(struct question_flight *flight, uint32_t number, enum status status)
{
    uint64_t none = STATUS_OK;
    uint64_t noted = (uint64_t)number << 32 | (uint32_t)status;
    atomic_compare_exchange_strong_explicit(&flight->failure, &none, noted, memory_order_relaxed,
                                            memory_order_relaxed);
}

uint32_t question_flight_submit(struct question_flight *flight)
{
    uint32_t submitted = 0;
    atomic_store_explicit(&flight->failure, STATUS_OK, memory_order_relaxed);
    atomic_store_explicit(&flight->remaining, flight->count + 1, memory_order_relaxed);
    while (submitted < flight->count) {
        enum status status = engine_submit(flight->engine, &flight->queries[submitted]);
        if (status != STATUS_OK) {
            note_failure(flight, submitted, status);
            break;
        }
        submitted++;
    }
    return submitted;
}

bool question_flight_release(struct question_flight *flight, uint32_t submitted)
{
    return count_down(flight, flight->count - submitted + 1);
}

bool question_flight_complete(struct question_flight *flight, struct search_query *query)
{
    enum status status = query->status;
    if (!flight->fetches && question_follow(query)) {
        status = engine_submit(flight->engine, query);
        if (status == STATUS_OK)
            return false; /* and here again */
    }
    if (status != STATUS_OK)
        note_failure(flight, (uint32_t)(query - flight->queries), status);
    return count_down(flight, 1);
}

/* ---- when all are over ---- */

static enum status failure_of(const struct question_flight *flight, uint32_t *number)
{
    /* acquire: pairs with the last count_down(), after which all queries are over. */
    uint32_t remaining = atomic_load_explicit(&flight->remaining, memory_order_acquire);
    assert(remaining == 0);
    uint64_t noted = atomic_load_explicit(&flight->failure, memory_order_relaxed);
    *number = (uint32_t)(noted >> 32);
    return (enum status)(noted & UINT32_MAX);
}

/* Load is the whole request's; what is damaged is one query's, and only queries by key fail for
 * that: an operator looks for the key's page and block. */
enum status question_flight_outcome(const struct question_flight *flight, uint32_t timeout_ms,
                                    struct error *err)
{
    uint32_t number;
    enum status status = failure_of(flight, &number);
    switch (status) {
    case STATUS_OK:
        return STATUS_OK;
    case STATUS_TIMEOUT:
        return error_set(err, status, "not done within its timeout of %u ms", timeout_ms);
    case STATUS_BUSY:
        return error_set(err, status, "more queries wait than can be answered in time: try again");
    case STATUS_IO:
        return error_set(err, status,
                         "query %u: what is stored of key %" PRIu64
                         " could not be read, or is damaged",
                         number, flight->queries[number].key);
    default:
        return error_set(err, status, "query %u: %s", number, status_name(status));
    }
}

struct question_sum question_flight_sum(const struct question_flight *flight)
{
    uint32_t number;
    enum status failure = failure_of(flight, &number);
    struct question_sum sum = {.degraded = failure == STATUS_IO};
    for (uint32_t q = 0; failure == STATUS_OK && q < flight->count; q++) {
        sum.degraded |= (flight->queries[q].flags & SEARCH_DEGRADED) != 0;
        sum.reads += flight->queries[q].stats.reads;
    }
    return sum;
}
