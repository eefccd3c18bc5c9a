/*
 * answer_check.h - what a daemon's answers are held against: the vectors, keys and exact neighbours
 * of each generation that it may serve, and the queries that it is asked.
 *
 * An answer is right when it names a known generation and its hits are k different keys of that
 * generation, in order, each at exactly the distance that its vector has from the query. Where
 * generations have keys of their own, an answer that mixes two or names the wrong one cannot pass.
 * A check costs some k distances, so that it may run beside the daemon on the same cores.
 *
 * Filled by one thread; then checks may run on any number of threads, each with a tally of its own.
 */
#ifndef NIGHTJAR_TESTS_ANSWER_CHECK_H
#define NIGHTJAR_TESTS_ANSWER_CHECK_H

#include <stdint.h>

#include "common/distance.h"
#include "common/error.h"
#include "common/vector_file.h"
#include "layout/manifest.h"
#include "query/client.h"

enum {
    ANSWER_GENERATIONS_MAX = 15,
    ANSWER_K_MAX = 128,
    ANSWER_NO_GENERATION = ANSWER_GENERATIONS_MAX,
};

struct answer_key {
    uint64_t key;
    uint32_t row;
};

struct answer_generation {
    const char *name; /* its directory's, without the path; points into the argument */
    struct digest128 id;
    const char *base_path; /* of its length, not terminated */
    size_t base_path_bytes;
    uint8_t *rows; /* shared between generations of one base file */
    uint64_t row_count;
    uint64_t first_key;        /* row r has first_key + r */
    struct answer_key *keys;   /* or what this says, by key; NULL: they count up */
    struct ground_truth truth; /* k 0: none given */
};

struct answer_check {
    uint32_t k;
    struct vector_shape queries;
    uint8_t *query_rows;
    size_t row_bytes;
    struct distance distance;
    struct answer_generation generations[ANSWER_GENERATIONS_MAX];
    uint32_t generation_count;
};

/* Loads the query file; all answers will have k hits. */
NODISCARD enum status answer_check_create(struct answer_check *self, const char *queries,
                                          uint32_t k, struct error *err);
void answer_check_destroy(struct answer_check *self);

/* Adds DIR=BASE[,KEYS.u64bin][,TRUTH]: a generation's directory, the vectors it was built of, their
 * keys unless these are the rows, and exact neighbours of the queries. The text must stay. */
NODISCARD enum status answer_check_add(struct answer_check *self, const char *text,
                                       struct error *err);

/* Vector of query `number` modulo their count. */
const void *answer_check_query(const struct answer_check *self, uint64_t number);

/* Of a generation's answers. */
struct answer_tally {
    uint64_t answers;
    uint64_t right; /* hits among the true k nearest; where truth was given */
};

/* One query's hits, as the protocol and the client library have them. */
struct answer_hits {
    uint64_t query; /* number */
    struct digest128 generation;
    uint32_t hit_count;
    const struct client_hit *hits;
};

/* Whether they are right: *generation is which of the given ones answered, and tallies[] of it
 * counts the answer. STATUS_CORRUPT says what is wrong with them; *generation is then as far as
 * known, or ANSWER_NO_GENERATION. */
NODISCARD enum status answer_check_hits(const struct answer_check *self,
                                        const struct answer_hits *answer,
                                        struct answer_tally *tallies, uint32_t *generation,
                                        struct error *err);

/* The tally's recall; -1 where no truth was given or nothing answered. */
double answer_check_recall(const struct answer_check *self, uint32_t generation,
                           const struct answer_tally *tally);

#endif
