/*
 * partition_internal.h - what the files of the partition share: a power diagram of the space.
 *
 * Partition space is where squared L2 tells of two rows whether one query looks for both: the row
 * itself for l2, for cosine and ip the row over its norm. (Under ip it looks for long rows among
 * those of its direction, so a shard needs rows of all lengths. In the space of the reduction,
 * vector_set.h, cells part rows by length: in three of them recall@10 at L 20 was 0.852, by
 * direction it is 0.997, of 100 K vectors of log-normal lengths.) Shard s has a centroid and a
 * weight there. The *power distance* of a vector x is |x - centroid|^2 + weight, and the shard
 * where it is least (ties: the lowest) is nearest. Borders are hyperplanes, as without weights; a
 * weight moves them but does not turn them.
 *
 *   partition_cells.c    vectors of the space, their distances, a row's choice of shards
 *   partition_balance.c  weights that make the cells equally full
 *   partition_train.c    sample, centroids, weights, closure: what is settled before the pass
 *   partition.c          the pass over the file
 */
#ifndef NIGHTJAR_BUILDER_PARTITION_INTERNAL_H
#define NIGHTJAR_BUILDER_PARTITION_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "builder/partition.h"
#include "common/distance.h"

/* ---- cells ---- */

enum { PARTITION_NEAR = 1 + PARTITION_BORROWERS_MAX }; /* shards that a row may be in */

#define PARTITION_NONE UINT32_MAX

/* Written by partition_train(), then immutable. */
struct partition_cells {
    const struct distance_kernels *kernels; /* of f32 */
    enum metric metric;
    enum element_type type;
    uint32_t shard_count;
    uint32_t dim;
    float *centroids; /* [shard_count * dim], row after row; NULL with one shard */
    float *weights;   /* [shard_count], >= 0, the least is 0; NULL with one shard */
};

/* Takes memory for centroids and weights, all zero. *cells needs no preparation; a failure leaves
 * it empty. */
NODISCARD enum status partition_cells_init(struct partition_cells *cells,
                                           const struct vector_shape *shape,
                                           const struct partition_params *params,
                                           struct error *err);
void partition_cells_fini(struct partition_cells *cells);

/* vector[dim]: the packed row in the space. */
void partition_vector(const struct partition_cells *cells, const void *row, float *vector);

/* out[shard_count]: squared distances to the centroids, without weights. */
void partition_distances(const struct partition_cells *cells, const float *vector, float *out);

/* Squared distance between the centroids of two shards. */
float partition_gap(const struct partition_cells *cells, uint32_t a, uint32_t b);

/* Shards for one row, nearest first; PARTITION_NONE where there are no more. */
struct partition_choice {
    uint32_t near[PARTITION_NEAR]; /* of all shards */
    uint32_t open[PARTITION_NEAR]; /* of those that are not full */
    float scores[PARTITION_NEAR];  /* distance from the border between near[0] and near[i] */
};

/* full[shard_count] may be NULL: no shard is. distances[shard_count] is scratch. */
void partition_choose(const struct partition_cells *cells, const float *vector, const bool *full,
                      float *distances, struct partition_choice *choice);

/* ---- training ---- */

/* Integers that compare as the floats they are made of; NaN apart. */
int32_t partition_order_key(float value);

/* The k-th largest of the values that `keys` were made of, 1 <= k <= count. 32 passes. */
float partition_kth_largest(const int32_t *keys, size_t count, size_t k);

/* Finds weights that make the cells of a sample hold equally many of its rows, as nearly as a
 * limited number of rounds gets: distances[shard * row_count + row] are squared distances to the
 * centroids. Weights are written on success only. `err` tells of memory and of the wish to stop. */
struct partition_balance_input {
    const float *distances;
    uint32_t row_count; /* >= shard_count */
    uint32_t shard_count;
    const struct build_monitor *monitor;
};
NODISCARD enum status partition_balance(const struct partition_balance_input *input, float *weights,
                                        struct error *err);

/* Most bytes that partition_balance() holds, without its input. */
uint64_t partition_balance_bytes(uint32_t row_count, uint32_t shard_count, uint32_t threads);

/* Fills the cells' centroids and weights from a sample of `file`, and *closure_distance. More than
 * one shard. */
NODISCARD enum status partition_train(const struct vector_file *file,
                                      const struct partition_params *params,
                                      const struct build_monitor *monitor,
                                      struct partition_cells *cells, double *closure_distance,
                                      struct error *err);

/* Most bytes that partition_train() holds. */
uint64_t partition_train_bytes(const struct vector_shape *shape, uint32_t shard_count,
                               uint32_t threads);

/* ---- faults of a team ---- */

/* The fault that one thread working in order would have met first. */
struct partition_fault {
    uint64_t at; /* guarded by the critical section partition_fault; UINT64_MAX: none */
    struct error error;
};

void partition_fault_note(struct partition_fault *fault, uint64_t at, const struct error *error);
/* Forwards it after the team's work. */
NODISCARD enum status partition_fault_status(const struct partition_fault *fault,
                                             struct error *err);

#endif
