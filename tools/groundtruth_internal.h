/*
 * groundtruth_internal.h - what exact search for the k nearest and within a radius have in common:
 * the pass of all base rows by all queries, and lists of candidates with the worst on top.
 */
#ifndef NIGHTJAR_TOOLS_GROUNDTRUTH_INTERNAL_H
#define NIGHTJAR_TOOLS_GROUNDTRUTH_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/distance.h"
#include "tools/groundtruth.h"

/* ---- lists ---- */

/* A total order, so that a result does not depend on which task came first. */
ALWAYS_INLINE bool groundtruth_is_worse(float distance_a, uint32_t id_a, float distance_b,
                                        uint32_t id_b)
{
    return distance_a > distance_b || (distance_a == distance_b && id_a > id_b);
}

/* A heap of `*size` candidates, the worst first: takes one more, or, with `limit` of them, one in
 * place of the worst. */
void groundtruth_heap_push(float *distances, uint32_t *ids, uint32_t *size, uint32_t limit,
                           float distance, uint32_t id);
/* Best first, in place. */
void groundtruth_heap_sort(float *distances, uint32_t *ids, uint32_t size);

/* ---- the pass ---- */

/* Rows that one query has been compared with. */
struct tile {
    const float *distances;
    const uint32_t *ids; /* NULL: first, first + 1, ... */
    uint32_t first;
    uint32_t count;
};

ALWAYS_INLINE uint32_t tile_id(const struct tile *tile, uint32_t i)
{
    return tile->ids != NULL ? tile->ids[i] : tile->first + i;
}

struct chunk {
    uint8_t *rows;
    uint32_t *ids;  /* of the rows that are left; NULL: all are */
    uint64_t first; /* in the file */
    uint64_t read;  /* 0: the end */
    uint64_t count; /* left by a filter that is the same for all queries */
};

enum { GROUNDTRUTH_CHUNKS = 2 };

struct groundtruth_scan {
    const struct groundtruth_params *params;
    struct distance distance;
    struct vector_file *base;
    struct vector_shape shape; /* of the base */
    size_t row_bytes;
    uint8_t *queries;
    size_t queries_bytes;
    uint32_t query_count;
    float *scales; /* distance_query_scale() of each query */
    uint32_t threads;
    /* Heap h = part * query_count + query is what part `part` of each chunk has given to a query.
     */
    uint32_t parts;
    size_t heap_count;
    uint32_t group; /* queries of a task */
    uint64_t chunk_rows;
    struct chunk chunks[GROUNDTRUTH_CHUNKS];
    /* What a tile's distances are for; called by one thread at a time for one heap. */
    void (*take)(void *taker, size_t heap, uint32_t query, const struct tile *tile);
    void *taker;
    atomic_bool stop;    /* a taker's wish; relaxed: the pass ends with the chunk at the latest */
    uint64_t held_bytes; /* of all that is allocated here */
};

/* Opens the files and divides queries and chunks into tasks. A zeroed scan with params set. */
NODISCARD enum status groundtruth_scan_open(struct groundtruth_scan *scan, struct error *err);

/* Allocates chunks. `fixed`: bytes that the caller holds otherwise, out of memory_bytes; *least:
 * what is needed in all, on STATUS_NO_MEMORY for want of budget, which sets no error: else 0. */
NODISCARD enum status groundtruth_scan_allocate(struct groundtruth_scan *scan, size_t fixed,
                                                uint64_t *least, struct error *err);

/* Compares every row with every query. */
NODISCARD enum status groundtruth_scan_run(struct groundtruth_scan *scan, struct error *err);

void groundtruth_scan_close(struct groundtruth_scan *scan);

/* Whether a row may be an answer to the query: what a filter that differs by query says. */
ALWAYS_INLINE bool groundtruth_matches(const struct groundtruth_scan *scan, uint32_t query,
                                       uint32_t id)
{
    const struct groundtruth_filter *filter = scan->params->filter;
    return filter == NULL || filter->same_for_all || filter->match(filter->context, query, id);
}

#endif
