/*
 * attributes_fixture.h - attributes.bin made the plain way, from a value for each node, for tests:
 * for those that need one, and to compare the builder's with.
 */
#ifndef NIGHTJAR_TESTS_ATTRIBUTES_FIXTURE_H
#define NIGHTJAR_TESTS_ATTRIBUTES_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout/attributes.h"

struct attributes_fixture_column {
    const char *name;
    enum attribute_kind kind;
    const uint64_t *numbers;   /* [node_limit], bits of the value; those of holes are ignored */
    const char *const *labels; /* [node_limit] "b|a|c", none twice; NULL or "": no labels */
};

/* A file image, malloc'd, of its exact length. `exists` [node_limit] says which nodes have a
 * record; NULL: all. Asserts through cmocka. */
uint8_t *attributes_fixture_image(const struct attributes_fixture_column *columns,
                                  uint32_t column_count, uint32_t node_limit, const bool *exists,
                                  size_t *bytes);

#endif
