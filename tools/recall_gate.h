/*
 * recall_gate.h - what a generation finds, measured in this process before it is published.
 */
#ifndef NIGHTJAR_TOOLS_RECALL_GATE_H
#define NIGHTJAR_TOOLS_RECALL_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/generation.h"
#include "tools/cmd.h"

/* Queries and what is right, wherever they come from. All arrays are borrowed. */
struct recall_sample {
    const char *name;       /* of where they come from, for errors */
    const uint8_t *queries; /* packed rows of the generation's query type and dimension */
    bool queries_are_f32;   /* or of f32, as search_query.vector_is_f32 */
    size_t row_bytes;
    uint32_t count; /* >= 1 */
    const uint64_t
        *truth_keys; /* neighbour i of query q is at q * truth_depth + i, nearest first */
    const float *truth_distances; /* of the same shape; NULL: ties with the k-th do not count */
    uint32_t truth_depth;
    /* Of each query that is one of the vectors, its node, which is left out. NULL: none is. */
    const uint32_t *excluded_nodes;
};

struct recall_gate_params {
    const char *path;   /* of the generation */
    const char *memory; /* as cmd_local_params has it */
    uint32_t threads;   /* 0: one a CPU */
    uint32_t k;         /* 1..RECALL_K_MAX */
    uint32_t search_list;
    double search_ratio; /* 0: none */
};

struct recall_gate_result {
    double recall; /* @k */
    double reads;  /* a query */
    double cache_hits;
    uint32_t queries;
};

/* Opens the generation and its engine; *target says what queries must look like. */
struct recall_gate;
NODISCARD enum status recall_gate_open(const struct recall_gate_params *params,
                                       struct recall_gate **out, struct cmd_target *target,
                                       struct error *err);
/* NULL is fine. */
void recall_gate_close(struct recall_gate *gate);

/* Runs every query once. An answer that a block is missing from is STATUS_CORRUPT: a generation
 * that cannot be read is not measured but refused. STATUS_INVALID: k is beyond the truth's depth.
 */
NODISCARD enum status recall_gate_measure(const struct recall_gate *gate,
                                          const struct recall_sample *sample,
                                          struct recall_gate_result *out, struct error *err);

/* A sample from a query file and a ground truth file, which both suit the target. */
struct recall_files {
    struct recall_sample sample; /* points into what follows */
    struct cmd_queries queries;
    uint64_t *truth_keys;
    float *truth_distances;
};
NODISCARD enum status recall_files_load(const char *queries, const char *groundtruth,
                                        const struct cmd_target *target, uint32_t k,
                                        struct recall_files *out, struct error *err);
void recall_files_free(struct recall_files *files);

/* A generation's own sample.bin as a sample: vectors of it, each left out of the search for it. */
struct recall_own {
    struct recall_sample sample; /* points into the file's bytes and `queries` */
    uint8_t *queries;
    void *bytes;
    size_t length;
};
NODISCARD enum status recall_own_load(const struct generation *generation, struct recall_own *out,
                                      struct error *err);
void recall_own_free(struct recall_own *own);

#endif
