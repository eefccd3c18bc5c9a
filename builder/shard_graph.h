/*
 * shard_graph.h - the graph stage: Vamana over one shard's rows in RAM, spilled to disk.
 *
 * Files of the piece {BUILD_STAGE_GRAPH, s}; lists as in shard.h:
 *   own     a list for each own row, in order, in local ids
 *   lent    section o: what shard s found for the rows it borrows from shard o. u32 row count, u32
 *           halo count; the halo: positions (u32, ascending) of the neighbours that o does not own,
 *           then their vectors; then for each row its index among the rows of o and its list, whose
 *           ids are indexes among the rows of o or, with SHARD_GRAPH_HALO set, into the halo. So
 * the merge of shard o finds all vectors it prunes with in sequential reads. root    u32 position,
 * then the vector of the own row that all own rows are reachable from visits  for each sample
 * query: u32 count, then positions, in order of expansion
 */
#ifndef NIGHTJAR_BUILDER_SHARD_GRAPH_H
#define NIGHTJAR_BUILDER_SHARD_GRAPH_H

#include <stdint.h>

#include "builder/graph_build.h"
#include "builder/hot_list.h"
#include "builder/shard.h"
#include "common/error.h"

#define SHARD_GRAPH_HALO 0x80000000u

/* Halo rows for each row of a section, at most; neighbours beyond, the farthest, are left out. It
 * bounds the memory of the merge. */
enum { SHARD_GRAPH_HALO_PER_ROW = 2 };

struct shard_graph_params {
    enum graph_kind kind;
    uint32_t degree;
    uint32_t build_list; /* of GRAPH_VAMANA */
    float alpha;
    uint64_t seed;
};

/* What the piece's record tells. */
struct shard_graph_info {
    uint32_t root; /* position */
    uint32_t reserved;
    uint64_t repaired_nodes;
    uint64_t query_count;   /* in `visits` */
    uint32_t numa_node;     /* whose memory it was built in; UINT32_MAX: any */
    uint32_t numa_strict;   /* the kernel bound it */
    uint64_t pages_asked;   /* pages of vectors and graph that were looked up */
    uint64_t pages_on_node; /* of them, on numa_node */
};

/* Where a shard's memory lies is known to the caller alone: fills the numa fields of *info from
 * vectors and graph while they are in RAM. */
typedef void (*shard_graph_placed_fn)(void *context, const struct vector_set *set,
                                      const struct graph *graph, struct shard_graph_info *info);

struct shard_graph_hooks {
    shard_graph_placed_fn placed; /* may be NULL */
    void *context;
};

/* Builds and commits the piece, with the caller's OpenMP team. Progress in rows inserted. */
NODISCARD enum status shard_graph_run(const struct shard_plan *plan, uint32_t shard,
                                      const struct shard_graph_params *params,
                                      const struct shard_graph_hooks *hooks,
                                      const struct build_monitor *monitor,
                                      struct build_stage_record *cost, struct error *err);

/* Sample queries that `shard` answers for, of all rows' HOT_QUERIES_MAX. */
uint32_t shard_query_count(const struct shard_plan *plan, uint32_t shard);

/* All shards' sample queries, rows being positions. The caller's to hot_visits_destroy(). */
NODISCARD enum status shard_visits_load(const struct shard_plan *plan, struct hot_visits *visits,
                                        struct error *err);

/* A shard's root: position and packed vector. */
NODISCARD enum status shard_root_load(const struct shard_plan *plan, uint32_t shard,
                                      uint32_t *position, void *vector, struct error *err);

#endif
