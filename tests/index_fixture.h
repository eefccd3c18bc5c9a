/*
 * index_fixture.h - small collections of vectors with the generation built of them, for tests of
 * the index and the engine. Keys are row numbers, so a hit leads back to its vector.
 *
 * Functions assert through cmocka and are called on the test's thread.
 */
#ifndef NIGHTJAR_TESTS_INDEX_FIXTURE_H
#define NIGHTJAR_TESTS_INDEX_FIXTURE_H

#include <stdint.h>

#include "common/element.h"
#include "query/index.h"

/* Fails the test with the error's text. */
#define ASSERT_STATUS_OK(call, err)                                                                \
    do {                                                                                           \
        if ((call) != STATUS_OK)                                                                   \
            fail_msg("%s", (err).text);                                                            \
    } while (0)

struct collection_spec {
    enum element_type type;
    enum metric metric;
    uint32_t count, dim, query_count;
    const void *rows;    /* count rows of `type`; NULL: clustered ones are generated */
    uint32_t code_bytes; /* of its PQ; 0: 16, or `dim` where that is less */
};

struct collection {
    struct collection_spec spec;
    const char *path; /* of the generation */
    void *queries;    /* query_count rows of `type` */
    enum element_type store;
    float *rows_f32; /* both once more as f32, rows as stored, for direct computation */
    float *queries_f32;
};

/* Builds DIRECTORY/NAME (and a vector file beside it) with `directory` from
 * fixture_directory_setup(), whose teardown removes them. */
struct collection *collection_create(const char *directory, const char *name,
                                     const struct collection_spec *spec);
/* And with attributes from a CSV file. */
struct collection *collection_create_with(const char *directory, const char *name,
                                          const struct collection_spec *spec,
                                          const char *attributes);
/* With keys[spec->count] for the rows; NULL: their numbers. */
struct collection *collection_create_keyed(const char *directory, const char *name,
                                           const struct collection_spec *spec,
                                           const uint64_t *keys);
/* Likewise, with rows stored as `store`. */
struct collection *collection_create_stored(const char *directory, const char *name,
                                            const struct collection_spec *spec,
                                            enum element_type store);
/* Frees what is in memory. NULL is fine. */
void collection_destroy(struct collection *collection);

const void *collection_query(const struct collection *collection, uint32_t query);

/* Distance by the metric's definition, in binary64 straight from the elements. */
double collection_distance(const struct collection *collection, uint32_t query, uint32_t row);
/* What a binary32 kernel may be off by at that place; 0 where its sum is exact. */
double collection_tolerance(const struct collection *collection, uint32_t query, uint32_t row);
/* The k-th smallest distance to the query, by brute force. */
double collection_kth_distance(const struct collection *collection, uint32_t query, uint32_t k);

/* index_open() that must succeed. */
struct index *collection_open(const struct collection *collection, uint64_t memory_bytes);
/* The budget under which `blocks` of the hottest blocks are cached, or all if it is enough: for
 * collections that a budget gives neither finer codes nor lists (their code_bytes are large, and
 * their vectors small). */
uint64_t collection_budget(const struct collection *collection, uint64_t blocks);
/* The budget under which the finest codes, all lists and `blocks` blocks are in memory: for
 * collections that a budget gives lists. */
uint64_t collection_budget_lists(const struct collection *collection, uint64_t blocks);
/* Reads all of nodes.blk, malloc'd. */
uint8_t *collection_read_blocks(const struct collection *collection, const struct manifest *m);

#endif
