/*
 * shard_fixture.h - a small sharded build in a work directory of its own: the partition written as
 * builder/partition.h says, and the pieces of later stages made, read back and tampered with.
 *
 * Functions assert through cmocka and are called on the test's thread.
 */
#ifndef NIGHTJAR_TESTS_SHARD_FIXTURE_H
#define NIGHTJAR_TESTS_SHARD_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "builder/merge.h"
#include "builder/shard_graph.h"
#include "tests/directory_fixture.h"
#include "tests/vector_fixture.h"

struct shard_spec {
    struct vector_fixture vectors;
    uint32_t shard_count;
    bool equal;  /* all rows are copies of the first */
    bool strewn; /* owners and borrowers are drawn, whatever the vectors */
    bool keys;   /* a row's key is shard_fixture_key() */
    double
        closure; /* a shard borrows rows at most so many times farther from it than their owner */
    uint32_t degree;
};

struct shard_fixture {
    struct shard_spec spec;
    char directory[DIRECTORY_FIXTURE_BYTES];
    struct work *work;
    struct shard_plan plan;
    struct vector_set all; /* every row, by position, prepared: what distances are */
    uint32_t *row_of_position;
    struct build_monitor monitor; /* silent */
    struct merge_params merge;
    int threads; /* the team to restore */
};

/* Group functions of a test: *state is an empty fixture, whose directory goes in the end, also
 * where the test failed. */
int shard_fixture_setup(void **state);
int shard_fixture_teardown(void **state);

#define SHARD_TEST(name)                                                                           \
    cmocka_unit_test_setup_teardown(name, shard_fixture_setup, shard_fixture_teardown)

/* Makes a temporary directory and commits the partition piece; what the fixture was before is gone.
 * Every shard owns some rows, and where there is a closure and more than one shard, some are
 * borrowed. */
void shard_fixture_create(struct shard_fixture *fixture, const struct shard_spec *spec);

/* Clustered f32 rows under l2, no two distances equal. */
struct shard_spec shard_fixture_spec(uint32_t count, uint32_t shard_count);

uint64_t shard_fixture_key(uint32_t row);
uint32_t shard_fixture_rows(const struct shard_fixture *fixture);
/* The shard that owns `position`. */
uint32_t shard_fixture_owner(const struct shard_plan *plan, uint32_t position);

/* Runs the graph stage of all shards; `hooks` may be NULL. */
void shard_fixture_graphs(struct shard_fixture *fixture, const struct shard_graph_hooks *hooks);
/* Runs the merge stage of all shards. */
void shard_fixture_merges(struct shard_fixture *fixture);

struct shard_graph_params shard_fixture_graph_params(const struct shard_fixture *fixture);

/* The piece of the graph or merge stage of one shard. */
struct work_piece shard_graph_piece(uint32_t shard);
struct work_piece shard_merge_piece(uint32_t shard);

/* The u32 at a byte of a section. */
uint32_t shard_piece_u32(const uint8_t *data, size_t offset);

/* All of a section, malloc'd. */
uint8_t *shard_fixture_section(const struct shard_fixture *fixture, struct work_piece piece,
                               const char *part, uint32_t section, size_t *bytes);

/* A finished piece of the partition, graph or merge stage, all of it in RAM; malloc'd. */
struct shard_piece;
struct shard_piece *shard_piece_load(const struct shard_fixture *fixture, struct work_piece piece);
void shard_piece_free(struct shard_piece *piece);

/* A section's bytes. */
const uint8_t *shard_piece_data(const struct shard_piece *piece, const char *part, uint32_t section,
                                size_t *bytes);

/* Commits the piece once more, as it was loaded. */
void shard_piece_commit(struct shard_fixture *fixture, const struct shard_piece *piece);
/* With other bytes in one section: sound by its checksums. *piece stays as it was. */
void shard_piece_commit_with(struct shard_fixture *fixture, const struct shard_piece *piece,
                             const char *part, uint32_t section, const void *data, size_t bytes);

/* One u32 of a piece. */
struct shard_word {
    const char *part;
    uint32_t section;
    size_t offset;
    uint32_t value;
};
void shard_piece_commit_word(struct shard_fixture *fixture, const struct shard_piece *piece,
                             const struct shard_word *word);

#endif
