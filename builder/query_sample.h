/*
 * query_sample.h - stage 3: some rows as queries with their exact nearest others (sample.bin), so
 * that whoever has the generation can measure its recall.
 *
 * One pass over the input, which may be larger than memory. The rows are chosen and compared before
 * there is a graph, so that they cannot favour it.
 *
 * File of the piece {BUILD_STAGE_SAMPLE, WORK_WHOLE}:
 *   image   sample.bin as it goes into the generation (layout/sample.h), with nodes all 0: they
 *           are known when rows are packed
 *   tune    only where queries to tune to are given: their truth, keys as u64 and then distances
 *           as f32, query_sample_tune_k() for each
 */
#ifndef NIGHTJAR_BUILDER_QUERY_SAMPLE_H
#define NIGHTJAR_BUILDER_QUERY_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/tune_queries.h"
#include "builder/work.h"
#include "common/element.h"
#include "common/error.h"
#include "common/vector_file.h"

enum {
    QUERY_SAMPLE_MAX = 500, /* a recall of 0.95 is then known to within 0.004 or so */
    QUERY_SAMPLE_NEIGHBORS = 100,
};

#define QUERY_SAMPLE_PART      "image"
#define QUERY_SAMPLE_TUNE_PART "tune"

/* What the piece's record tells. */
struct query_sample_info {
    uint32_t count; /* queries */
    uint32_t k;     /* neighbours of each */
};

struct query_sample_params {
    const struct vector_file *file; /* already checked */
    const char *keys;               /* .u64bin, already checked, or NULL: key = row */
    enum metric metric;
    uint64_t seed;
    const struct tune_queries *tune; /* or NULL */
    size_t piece_bytes;              /* of rows that a thread reads at a time; 0: a good number */
};

/* Queries of an index of so many vectors, and neighbours of each. */
struct query_sample_info query_sample_shape(uint64_t count);

/* True neighbours of each query to tune to, in an index of so many vectors. */
uint32_t query_sample_tune_k(uint64_t count);

/* The seed of row_sample() for the rows that are queries. */
uint64_t query_sample_seed(uint64_t seed);

/* Length of sample.bin. */
uint64_t query_sample_bytes(const struct vector_shape *shape);

/* Most memory that query_sample_run() holds at a time, with so many queries to tune to. */
uint64_t query_sample_memory_bytes(const struct vector_shape *shape, enum metric metric,
                                   uint32_t threads, uint32_t tune_count);

/* Makes and commits the piece, with the caller's OpenMP team. The same at any thread count.
 * Progress in rows; a wish to stop is heard some times a second. */
NODISCARD enum status query_sample_run(const struct query_sample_params *params, struct work *work,
                                       const struct build_monitor *monitor,
                                       struct build_stage_record *cost, struct error *err);

#endif
