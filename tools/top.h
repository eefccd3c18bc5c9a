/*
 * top.h - what `nightjar top` shows: two looks at a daemon's statistics, and what happened between
 * them.
 */
#ifndef NIGHTJAR_TOOLS_TOP_H
#define NIGHTJAR_TOOLS_TOP_H

#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

/* A daemon's statistics at one moment. */
struct top_sample;

/* Parses what client_stats() gave. STATUS_CORRUPT: it is no JSON object. `taken_ns` is any clock's;
 * only differences count. The caller destroys *out. */
NODISCARD enum status top_sample_create(const char *json, uint64_t taken_ns,
                                        struct top_sample **out, struct error *err);
void top_sample_destroy(struct top_sample *sample);

/* A number of one of the objects that statistics have ("engine", "threads"); 0: it does not tell.
 */
double top_sample_number(const struct top_sample *sample, const char *section, const char *key);

/* Prints a screen of some twenty lines of at most 100 characters: rates are from `before` to `now`,
 * or since the daemon's start where `before` is NULL or of another daemon. What a daemon does not
 * tell is shown as 0. */
void top_print(FILE *out, const struct top_sample *before, const struct top_sample *now);

#endif
