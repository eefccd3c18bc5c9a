/*
 * generate.h - synthetic vectors whose search is about as hard as that of real descriptors.
 *
 * Real descriptors lie near curved sheets of low dimension that overlap. So a vector here is
 *
 *   centre(cluster) + map(cluster) * g + noise
 *
 * with g a normal vector of intrinsic_dim entries, map() one of a pool of random linear maps with
 * falling column weights, and the centres themselves on a curved sheet: linear map of a squashed
 * random vector. Cluster sizes fall like a power law. The default weights give a local intrinsic
 * dimension and a nearest-neighbour contrast near those of SIFT descriptors of photographs.
 *
 * Row i of a stream is a function of (params, stream, i) alone: any range can be made by any
 * thread, and files are the same bytes at any thread count. Only exactly rounded operations are
 * used (no libm), so they are the same on any x86-64 machine too.
 */
#ifndef NIGHTJAR_TOOLS_GENERATE_H
#define NIGHTJAR_TOOLS_GENERATE_H

#include <stdint.h>

#include "common/element.h"
#include "common/error.h"
#include "common/progress.h"

enum {
    GENERATE_CLUSTERS_MAX = 1 << 20,
    GENERATE_INTRINSIC_DIM_MAX = 256,
    GENERATE_LENGTHS_MAX = 10, /* keeps squared norms within f32 */
};

enum generate_distribution {
    GENERATE_CLUSTERED,
    GENERATE_UNIFORM, /* each element uniform over u8 or i8, or [-1, 1): the hardest there is */
};

/* Base rows and queries come from one distribution and never share a random number. */
enum generate_stream {
    GENERATE_BASE,
    GENERATE_QUERIES,
};

struct generate_params {
    uint32_t dim;           /* 1..VECTOR_DIM_MAX */
    enum element_type type; /* U8, I8, F16 or F32 */
    uint64_t seed;
    enum generate_distribution distribution;
    uint32_t clusters;      /* 1..GENERATE_CLUSTERS_MAX */
    uint32_t intrinsic_dim; /* 1..GENERATE_INTRINSIC_DIM_MAX; lowered to dim */
    /* 0..GENERATE_LENGTHS_MAX, above 0 of F32 alone: base rows are multiplied by exp(lengths * a
     * normal number), each by its own, so that lengths are log-normal. Queries are not: to an inner
     * product a query's length means nothing. */
    double lengths;
};

struct generator;

/* A cluster count that suits `count` vectors: about its square root. */
uint32_t generate_default_clusters(uint64_t count);

/* Draws the model. On success *out is the caller's; immutable, shared by any number of threads.
 * Allocates O(clusters + dim * intrinsic_dim). */
NODISCARD enum status generator_create(const struct generate_params *params, struct generator **out,
                                       struct error *err);
void generator_destroy(struct generator *generator);

/* Writes rows [first, first + count) of `stream`, packed. Thread-safe, no allocation. */
void generator_rows(const struct generator *generator, enum generate_stream stream, uint64_t first,
                    uint64_t count, void *rows);

/* Writes `count` rows of `stream` to a vector file in batches of bounded size, with `threads`
 * threads (0: OpenMP's choice). The file appears complete or not at all. `progress` may be NULL. */
struct generate_output {
    const char *path;
    enum generate_stream stream;
    uint64_t count;
    uint32_t threads;
    struct progress *progress;
};
NODISCARD enum status generate_file(const struct generator *generator,
                                    const struct generate_output *output, struct error *err);

#endif
