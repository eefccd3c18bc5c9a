/*
 * pack_fixture.h - graphs made up for tests of the packing, and a whole graph packed.
 *
 * Functions assert through cmocka and are called on the test's thread.
 */
#ifndef NIGHTJAR_TESTS_PACK_FIXTURE_H
#define NIGHTJAR_TESTS_PACK_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/pack.h"

/* Appends an edge, unless it is there, leads to its own row, or the list is full. */
void pack_fixture_edge(struct graph *graph, uint32_t from, uint32_t to);

/* A ring, which is each list's first edge, and edges to rows at most `span` / 2 away but for one in
 * four, which leads anywhere. */
void pack_fixture_graph(uint32_t count, uint32_t degree, uint32_t span, uint64_t seed,
                        struct graph *graph);

/* That ring as edges that must stay; malloc'd. */
uint8_t *pack_fixture_ring(uint32_t count);

bool pack_fixture_listed(const struct graph *graph, uint32_t node, uint32_t id);

/* Trimmed lists of a shard in the numbers that node_of_position[] gives to all rows. */
void pack_fixture_lists(const struct pack_input *input, const struct block_geometry *geometry,
                        const struct pack_order *order, const uint32_t *node_of_position,
                        uint32_t first_node, struct pack_lists *lists);

/* pack_lists_check() must pass. */
void pack_fixture_check(const struct pack_input *input, const uint32_t *node_of_position,
                        const struct pack_lists *lists);

/* Writes every block and reads its lists back: what was found to fit does fit. */
void pack_fixture_encode(const struct pack_lists *lists);

/* One shard that is all there is. */
struct packed {
    struct pack_input input;
    struct block_geometry geometry;
    struct pack_order order;
    struct pack_lists lists;
};

/* Packs and checks all that holds for every packing. `kept` may be NULL. */
void packed_create(const struct graph *graph, const uint8_t *kept, const struct pack_params *params,
                   struct packed *packed);
void packed_destroy(struct packed *packed);

/* Blocks that a reader reaches from the block of `node`, who sees all lists of a block it reads. */
uint32_t packed_reached(const struct packed *packed, uint32_t node);

#endif
