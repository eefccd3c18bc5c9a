/*
 * reservoir.h - for every row the nearest of the candidates it was offered, in a fixed room.
 *
 * What a reservoir holds depends on the set of offers alone, not on their order or on which thread
 * made them: it keeps the least by (distance, id). So leaves may be worked on in any order and
 * still give the same graph. (PiPNN, arXiv 2602.21247, section 4, keeps the nearest in each
 * direction instead, of candidates seen once; here a prune chooses among the directions in the end,
 * and half as many more candidates than a list has places lose nothing.)
 *
 * A row's memory becomes its neighbour list in the end: reservoir_take() empties it, and the graph
 * that reservoirs_graph() shows lies in the same place.
 */
#ifndef NIGHTJAR_BUILDER_RESERVOIR_H
#define NIGHTJAR_BUILDER_RESERVOIR_H

#include <stddef.h>
#include <stdint.h>

#include "builder/graph.h"
#include "common/error.h"

struct reservoirs {
    struct graph graph; /* a row's slots are its reservoir until reservoir_take() */
    uint32_t capacity;  /* candidates a row keeps */
};

/* Candidates kept for lists of `degree`, and the bytes of a row. */
uint32_t reservoir_capacity(uint32_t degree);
size_t reservoir_row_bytes(uint32_t degree);

/* Empty reservoirs for rows 0..count-1. */
NODISCARD enum status reservoirs_create(struct reservoirs *reservoirs, uint32_t count,
                                        uint32_t degree, struct error *err);

/* A distance as it is kept: 5 bits of exponent and 11 of mantissa. Monotonic; distance >= 0. */
uint16_t reservoir_key(int32_t distance);

/* Offers candidate `id` at `key` to `row`; one that is there already changes nothing. Calls for the
 * same row must not overlap. */
void reservoir_offer(struct reservoirs *reservoirs, uint32_t row, uint32_t id, uint16_t key);

/* Moves the candidates of `row` to ids[capacity], in no certain order, and returns how many. The
 * row is then an empty list of the graph. */
uint32_t reservoir_take(struct reservoirs *reservoirs, uint32_t row, uint32_t *ids);

/* Asks for the row's memory. */
void reservoir_prefetch(const struct reservoirs *reservoirs, uint32_t row);

#endif
