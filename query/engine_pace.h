/*
 * engine_pace.h - what a worker knows of its pace: how often a query completes while others wait,
 * and how long one takes from its start.
 *
 * Why: at overload a queue without judgement fills up with queries that will be too late, and the
 * worker spends itself on them. So a query that cannot be done in time is refused before work is
 * spent on it: when it comes (its client hears at once), or when it would be started.
 *
 * Estimates are moving averages. Time from start to end is kept for each candidate, of the
 * search list or within a radius, which is what the work of a query grows with, together with its
 * mean deviation, as TCP does for round trips: what is started with a mean's time left is late half
 * the time.
 *
 * Threads: the worker writes, anyone reads (relaxed: hints).
 */
#ifndef NIGHTJAR_QUERY_ENGINE_PACE_H
#define NIGHTJAR_QUERY_ENGINE_PACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct engine_pace {
    atomic_uint_fast64_t interval_ns;  /* between completions while queries wait; 0: not known */
    atomic_uint_fast64_t candidate_ns; /* from start to end, for each candidate; 0: not known */
    atomic_uint_fast64_t deviation_ns; /* of it */
    uint64_t last_ns;                  /* worker: the last completion; 0: no query waited then */
};

/* A started query has ended at `now_ns`; `waiting`: others wait for its place. */
void engine_pace_completed(struct engine_pace *pace, uint64_t now_ns, bool waiting);

/* It took so long for so many candidates, at least one, or had to be given up after so long. */
void engine_pace_took(struct engine_pace *pace, uint64_t duration_ns, uint32_t candidates,
                      bool given_up);

/* Most queries of so many candidates are done so long after their start; 0: not known. */
uint64_t engine_pace_service_ns(const struct engine_pace *pace, uint32_t candidates);

/* When the last of `ahead` waiting queries will have been started, at the latest; 0: not known. */
uint64_t engine_pace_wait_ns(const struct engine_pace *pace, uint32_t ahead);

#endif
