/*
 * vector_fixture.h - seeded vectors and graph walks for tests of the builder.
 */
#ifndef NIGHTJAR_TESTS_VECTOR_FIXTURE_H
#define NIGHTJAR_TESTS_VECTOR_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/graph.h"
#include "builder/vector_set.h"

/* Clustered vectors of unequal norms. */
struct vector_fixture {
    uint32_t count, dim, clusters;
    enum element_type type;
    enum metric metric;
    uint64_t seed;
};

/* Bytes of any row a fixture makes. */
enum { VECTOR_FIXTURE_DIM_MAX = 128, VECTOR_FIXTURE_ROW_BYTES = 4 * VECTOR_FIXTURE_DIM_MAX };

/* The index-th vector of the distribution, packed in fixture->type. Those from fixture->count on
 * are not in the set: queries. */
void vector_fixture_row(const struct vector_fixture *fixture, uint64_t index, void *row);

/* Row `row` of the set, writable before vector_set_prepare(). */
void *vector_fixture_slot(const struct vector_set *set, uint32_t row);

/* A set of vectors 0..count-1, not yet prepared; ends the program when it cannot be made. */
void vector_fixture_fill(const struct vector_fixture *fixture, struct vector_set *set);

/* The same, prepared. */
void vector_fixture_create(const struct vector_fixture *fixture, struct vector_set *set);

/* Vectors 0, 1, 2, ... of one f32 dimension, L2; prepared. */
void vector_fixture_line(uint32_t count, struct vector_set *set);

/* Nodes that a walk from `entry` reaches. */
uint32_t graph_fixture_reached(const struct graph *graph, uint32_t entry);

/* XXH3-64 over all degrees and lists (not over what lies behind a list's end). */
uint64_t graph_fixture_digest(const struct graph *graph);

/* Whether RobustPrune lets `selected` occlude `candidate` by their lengths, which only ip looks at.
 */
bool vector_fixture_may_occlude(const struct vector_set *set, uint32_t selected,
                                uint32_t candidate);

#endif
