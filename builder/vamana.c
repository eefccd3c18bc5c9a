/*
 * vamana.c - batch-parallel construction of the Vamana graph.
 *
 * Rows are inserted in a seeded random order in rounds of doubling size (at most BATCH_SHARE of the
 * set). A round has two lock-free phases (ParlayANN, Algorithm 3):
 *
 *   1. every row of the round searches the graph as it stood before the round and prunes what it
 *      expanded into its own list. Nothing points to it yet, so nobody else reads that list.
 *   2. the reverse edges (target, source) are grouped by target, in row order; each target is
 *      handled by one thread once: sources are appended while they fit in the slack, else target's
 *      list and all its new sources are pruned together, one prune however many sources came.
 *
 * Neither phase depends on which thread does what, hence the same graph at any thread count.
 *
 * Departures: lists may grow to DEGREE_SLACK * R between prunes (as DiskANN's), so a target is
 * pruned about once per 0.3 R new sources; a last pass brings every list down to R. One pass over
 * the data at the final alpha instead of the paper's two (alpha = 1 first).
 */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/byte_view.h"
#include "builder/carve.h"
#include "builder/graph_internal.h"
#include "common/memory.h"
#include "common/random.h"
#include "common/u64_sort.h"

#define BATCH_SHARE  0.02
#define DEGREE_SLACK 1.3

enum {
    BUCKETS = 1024, /* target ranges: the unit of work of phase 2 */
    PIECES = 64,    /* slices of a round for counting and scattering; fixed, not per thread */
};

struct edge {
    uint32_t target, source;
};

struct builder {
    const struct vector_set *set;
    const struct graph_params *params;
    struct graph graph;
    uint32_t entry;
    uint32_t capacity;  /* list slots between prunes */
    uint32_t *order;    /* rows in insertion order; entry first */
    uint16_t *places;   /* of rows: near ones have the same */
    uint64_t *sorted;   /* [rows of a round] */
    struct edge *edges; /* reverse edges of a round, grouped by bucket */
    size_t edges_capacity;
    uint32_t (*piece_starts)[BUCKETS]; /* [PIECES] */
    uint32_t bucket_starts[BUCKETS + 1];
    uint32_t bucket_shift;
    struct graph_scratch **scratch; /* one a thread */
    int threads;
};

/* ---- start ---- */

static uint32_t round_rows_max(uint32_t count)
{
    return MAX(1u, (uint32_t)((double)count * BATCH_SHARE));
}

static enum status places_find(struct builder *b, struct error *err)
{
    const struct vector_set *set = b->set;
    struct byte_view view = {0};
    void *places = NULL;
    void *sorted = NULL;
    enum status status = bulk_alloc(set->count, sizeof(uint16_t), "places of rows", &places, err);
    b->places = places;
    if (!status)
        status = bulk_alloc(round_rows_max(set->count), sizeof(uint64_t), "a round's rows", &sorted,
                            err);
    b->sorted = sorted;
    if (!status)
        status = byte_view_create(set, &view, err);
    if (!status)
        status = carve_nearest(&view.rows, set->count, b->params->seed, b->places, err);
    byte_view_destroy(&view);
    return status;
}

/* Seeded Fisher-Yates shuffle, then the entry is moved to the front. */
static void order_fill(struct builder *b)
{
    uint32_t count = b->set->count;
    for (uint32_t i = 0; i < count; i++)
        b->order[i] = i;
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t j = (uint32_t)random_below(b->params->seed, i, (uint64_t)i + 1);
        uint32_t swapped = b->order[i];
        b->order[i] = b->order[j];
        b->order[j] = swapped;
    }
    for (uint32_t i = 0; i < count; i++)
        if (b->order[i] == b->entry) {
            b->order[i] = b->order[0];
            b->order[0] = b->entry;
            break;
        }
}

/* ---- phase 1: out-edges ---- */

static void insert_row(struct builder *b, uint32_t row, struct graph_scratch *s)
{
    bool borrowed = b->params->own_count != 0 && row >= b->params->own_count;
    uint32_t list = borrowed && b->params->borrowed_list != 0 ? b->params->borrowed_list
                                                              : b->params->build_list;
    graph_search_run(b->set, &b->graph, b->entry, row, list, s);
    memcpy(s->candidates, s->visited, s->visited_count * sizeof(*s->candidates));
    uint32_t *out = graph_neighbors(&b->graph, row);
    uint32_t degree = robust_prune(b->set, b->params, row, s->candidates, s->visited_count, s, out);
    graph_set_degree(&b->graph, row, degree);
}

/* ---- phase 2: reverse edges ---- */

/* Groups the round's edges by bucket of targets; within a bucket they stay in order of source
 * position. Counting and scattering run over fixed slices of the round. */
static void edges_group(struct builder *b, uint32_t first, uint32_t count)
{
    uint32_t pieces = MIN((uint32_t)PIECES, count);
#pragma omp parallel for schedule(dynamic, 1)
    for (uint32_t piece = 0; piece < pieces; piece++) {
        uint32_t *starts = b->piece_starts[piece];
        memset(starts, 0, sizeof(b->piece_starts[piece]));
        uint32_t begin = first + (uint32_t)((uint64_t)count * piece / pieces);
        uint32_t end = first + (uint32_t)((uint64_t)count * (piece + 1) / pieces);
        for (uint32_t i = begin; i < end; i++) {
            const uint32_t *ids = graph_neighbors(&b->graph, b->order[i]);
            uint32_t degree = graph_degree(&b->graph, b->order[i]);
            for (uint32_t j = 0; j < degree; j++)
                starts[ids[j] >> b->bucket_shift]++;
        }
    }
    uint32_t total = 0;
    for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
        b->bucket_starts[bucket] = total;
        for (uint32_t piece = 0; piece < pieces; piece++) {
            uint32_t here = b->piece_starts[piece][bucket];
            b->piece_starts[piece][bucket] = total;
            total += here;
        }
    }
    b->bucket_starts[BUCKETS] = total;
#pragma omp parallel for schedule(dynamic, 1)
    for (uint32_t piece = 0; piece < pieces; piece++) {
        uint32_t *next = b->piece_starts[piece];
        uint32_t begin = first + (uint32_t)((uint64_t)count * piece / pieces);
        uint32_t end = first + (uint32_t)((uint64_t)count * (piece + 1) / pieces);
        for (uint32_t i = begin; i < end; i++) {
            const uint32_t *ids = graph_neighbors(&b->graph, b->order[i]);
            uint32_t degree = graph_degree(&b->graph, b->order[i]);
            for (uint32_t j = 0; j < degree; j++)
                b->edges[next[ids[j] >> b->bucket_shift]++] =
                    (struct edge){.target = ids[j], .source = b->order[i]};
        }
    }
}

static int edge_order(const void *a, const void *b)
{
    const struct edge *x = a;
    const struct edge *y = b;
    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    return (x->source > y->source) - (x->source < y->source);
}

/* Brings target's list plus `sources` down to R. */
static enum status list_prune(struct builder *b, uint32_t target, const struct edge *edges,
                              uint32_t edge_count, struct graph_scratch *s, struct error *err)
{
    uint32_t *ids = graph_neighbors(&b->graph, target);
    uint32_t degree = graph_degree(&b->graph, target);
    enum status status = graph_scratch_reserve(s, (size_t)degree + edge_count, err);
    if (status)
        return status;
    vector_set_gather(b->set, target, ids, degree, s->batch_distances);
    for (uint32_t i = 0; i < degree; i++)
        s->candidates[i] = (struct candidate){s->batch_distances[i], ids[i]};
    for (uint32_t i = 0; i < edge_count; i++) {
        uint32_t source = edges[i].source;
        s->candidates[degree + i] =
            (struct candidate){vector_set_pair(b->set, target, source), source};
    }
    uint32_t kept =
        robust_prune(b->set, b->params, target, s->candidates, degree + edge_count, s, s->selected);
    memcpy(ids, s->selected, kept * sizeof(*ids));
    graph_set_degree(&b->graph, target, kept);
    return STATUS_OK;
}

static enum status target_update(struct builder *b, const struct edge *edges, uint32_t edge_count,
                                 struct graph_scratch *s, struct error *err)
{
    uint32_t target = edges[0].target;
    uint32_t degree = graph_degree(&b->graph, target);
    if (degree + edge_count > b->capacity)
        return list_prune(b, target, edges, edge_count, s, err);
    uint32_t *ids = graph_neighbors(&b->graph, target);
    for (uint32_t i = 0; i < edge_count; i++)
        ids[degree + i] = edges[i].source;
    graph_set_degree(&b->graph, target, degree + edge_count);
    return STATUS_OK;
}

static enum status bucket_update(struct builder *b, uint32_t bucket, struct graph_scratch *s,
                                 struct error *err)
{
    struct edge *edges = b->edges + b->bucket_starts[bucket];
    uint32_t count = b->bucket_starts[bucket + 1] - b->bucket_starts[bucket];
    qsort(edges, count, sizeof(*edges), edge_order);
    for (uint32_t first = 0; first < count;) {
        uint32_t end = first + 1;
        while (end < count && edges[end].target == edges[first].target)
            end++;
        enum status status = target_update(b, edges + first, end - first, s, err);
        if (status)
            return status;
        first = end;
    }
    return STATUS_OK;
}

static enum status edges_reserve(struct builder *b, size_t count, struct error *err)
{
    if (count <= b->edges_capacity)
        return STATUS_OK;
    if (b->edges)
        bulk_free(b->edges, b->edges_capacity, sizeof(struct edge));
    b->edges = NULL;
    void *memory = NULL;
    enum status status = bulk_alloc(count, sizeof(struct edge), "reverse edges", &memory, err);
    b->edges_capacity = status ? 0 : count;
    b->edges = memory;
    return status;
}

/* Rows of a round may be inserted in any order: near ones after one another find what they need in
 * the caches. */
static void round_sort(struct builder *b, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = b->order[first + i];
        b->sorted[i] = (uint64_t)b->places[row] << 32 | row;
    }
    u64_sort(b->sorted, count);
    for (uint32_t i = 0; i < count; i++)
        b->order[first + i] = (uint32_t)b->sorted[i];
}

static enum status round_insert(struct builder *b, uint32_t first, uint32_t count,
                                struct error *err)
{
    round_sort(b, first, count);
#pragma omp parallel for schedule(dynamic, 16)
    for (uint32_t i = first; i < first + count; i++)
        insert_row(b, b->order[i], b->scratch[omp_get_thread_num()]);

    enum status status = edges_reserve(b, (size_t)count * b->params->degree, err);
    if (status)
        return status;
    edges_group(b, first, count);
#pragma omp parallel for schedule(dynamic, 1)
    for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
        struct error bucket_err;
        enum status failed =
            bucket_update(b, bucket, b->scratch[omp_get_thread_num()], &bucket_err);
        if (failed) {
#pragma omp critical
            {
                status = failed;
                if (err)
                    *err = bucket_err;
            }
        }
    }
    return status;
}

/* ---- the whole ---- */

/* Brings a list still in its slack down to R; orders any other by distance, nearest first, as a
 * prune leaves it: repair and packing give up the farthest edges first. */
static enum status list_finish(struct builder *b, uint32_t node, struct graph_scratch *s,
                               struct error *err)
{
    uint32_t degree = graph_degree(&b->graph, node);
    if (degree > b->params->degree)
        return list_prune(b, node, NULL, 0, s, err);
    uint32_t *ids = graph_neighbors(&b->graph, node);
    vector_set_gather(b->set, node, ids, degree, s->batch_distances);
    for (uint32_t i = 0; i < degree; i++)
        s->candidates[i] = (struct candidate){s->batch_distances[i], ids[i]};
    candidates_sort(s->candidates, degree);
    for (uint32_t i = 0; i < degree; i++)
        ids[i] = s->candidates[i].id;
    return STATUS_OK;
}

static enum status lists_finish(struct builder *b, struct error *err)
{
    enum status status = STATUS_OK;
#pragma omp parallel for schedule(dynamic, 256)
    for (uint32_t node = 0; node < b->set->count; node++) {
        struct error node_err;
        enum status failed = list_finish(b, node, b->scratch[omp_get_thread_num()], &node_err);
        if (failed) {
#pragma omp critical
            {
                status = failed;
                if (err)
                    *err = node_err;
            }
        }
    }
    return status;
}

static enum status rounds_run(struct builder *b, struct error *err)
{
    uint32_t count = b->set->count;
    uint32_t round_max = round_rows_max(count);
    uint32_t done = 1; /* the entry is in, alone */
    while (done < count) {
        uint32_t round = MIN(MIN(done, round_max), count - done);
        enum status status = round_insert(b, done, round, err);
        if (status)
            return status;
        done += round;
        if (b->params->progress && b->params->progress(b->params->progress_context, done, count))
            return error_set(err, STATUS_CANCELLED, "graph: stopped on request");
    }
    return lists_finish(b, err);
}

static void builder_fini(struct builder *b)
{
    for (int i = 0; b->scratch && i < b->threads; i++)
        graph_scratch_destroy(b->scratch[i]);
    free(b->scratch);
    free(b->piece_starts);
    if (b->order)
        bulk_free(b->order, b->set->count, sizeof(*b->order));
    if (b->edges)
        bulk_free(b->edges, b->edges_capacity, sizeof(*b->edges));
    bulk_free(b->places, b->set->count, sizeof(*b->places));
    bulk_free(b->sorted, round_rows_max(b->set->count), sizeof(*b->sorted));
}

static enum status builder_init(struct builder *b, struct error *err)
{
    b->threads = omp_get_max_threads();
    b->capacity = MAX(b->params->degree + 1, (uint32_t)(DEGREE_SLACK * b->params->degree));
    while ((b->set->count - 1) >> b->bucket_shift >= BUCKETS)
        b->bucket_shift++;
    b->piece_starts = calloc(PIECES, sizeof(*b->piece_starts));
    b->scratch = calloc((size_t)b->threads, sizeof(struct graph_scratch *));
    if (!b->piece_starts || !b->scratch)
        return error_set(err, STATUS_NO_MEMORY, "graph: out of memory");
    for (int i = 0; i < b->threads; i++) {
        enum status status =
            graph_scratch_create(b->set, b->params->build_list, b->capacity, &b->scratch[i], err);
        if (status)
            return status;
    }
    void *order = NULL;
    enum status status =
        bulk_alloc(b->set->count, sizeof(uint32_t), "insertion order", &order, err);
    b->order = order;
    if (!status)
        status = places_find(b, err);
    if (!status)
        status = graph_create(&b->graph, b->set->count, b->capacity, err);
    if (!status)
        order_fill(b);
    return status;
}

enum status vamana_lists(const struct vector_set *set, const struct graph_params *params,
                         uint32_t entry, struct graph *graph, struct error *err)
{
    struct builder b = {.set = set, .params = params, .entry = entry};
    enum status status = builder_init(&b, err);
    if (!status)
        status = rounds_run(&b, err);
    *graph = b.graph;
    builder_fini(&b);
    return status;
}

uint64_t vamana_row_bytes(uint64_t degree)
{
    uint64_t capacity = MAX(degree + 1, (uint64_t)(DEGREE_SLACK * (double)degree));
    return (capacity + 1) * sizeof(uint32_t);
}

/* Insertion order and places; a round's rows and reverse edges, which come when the view by which
 * places are found is gone. */
uint64_t vamana_bytes(const struct graph_size *size)
{
    uint64_t round = round_rows_max((uint32_t)size->count);
    uint64_t edges = round * (size->degree * sizeof(struct edge) + sizeof(uint64_t));
    uint64_t pieces = PIECES * BUCKETS * sizeof(uint32_t);
    return size->count * (sizeof(uint32_t) + 2 * sizeof(uint16_t)) + edges + pieces;
}
