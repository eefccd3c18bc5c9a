/*
 * nearest.c - exact search of few queries among many rows, as they stream by.
 *
 * A thread takes a block of rows that stays in its caches and compares all queries with it. Bytes
 * under l2 are compared in integers, by tiles (tile.h); others one query and the block at a time,
 * under cosine by estimates first, so that a row's norm is not taken for every query. Either way 32
 * rows at once are checked against the query's k-th so far: hardly any row passes.
 *
 * Each thread keeps its own k best of each query, as a heap with the worst on top, so that none
 * waits for another; they are put together at the end.
 */
#include "builder/nearest.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "builder/tile.h"
#include "common/cpu.h"
#include "common/distance.h"
#include "common/memory.h"

enum {
    LANES = TILE_PANEL_ROWS, /* distances that are looked at together */
    BLOCK_ROWS_MAX = 512,    /* a multiple of LANES, as a tile's width is */
    BLOCK_ROWS_MIN = 32,
    TILE_BLOCK_BYTES = 64 << 10, /* half of a small L2: eight queries go by each of its lines */
    BLOCK_BYTES = 24 << 10,      /* of an L1 of 32 KiB */
};
_Static_assert(BLOCK_ROWS_MAX % LANES == 0, "a block is whole lanes");

/* What an estimate of 1 - cosine may be off: some roundings of a number of at most 1. */
#define ESTIMATE_SLACK 1e-5f
/* Beyond these, common/distance.c does not trust a row's squared norm, or a query's scale, in f32.
 */
#define SQUARED_MIN 1e-30f
#define SQUARED_MAX 1e30f
#define SCALE_MIN   1e-15f
#define SCALE_MAX   1e15f

/* What one thread works on. */
struct worker {
    struct tile tile;  /* of a block of rows; only where rows are compared by tiles */
    float *scores;     /* [BLOCK_ROWS_MAX] distances of one query, or */
    float *norms;      /* [BLOCK_ROWS_MAX] cosine: 1 / |x| of the block, or NaN: do not estimate */
    int32_t *products; /* [TILE_QUERIES_MAX * BLOCK_ROWS_MAX] scores of some */
    uint32_t *sizes;   /* of query q's heap, at q * k of the arrays below */
    float *bounds;     /* what a row must not be beyond to get into it */
    uint64_t *keys;
    float *distances;
};

struct nearest {
    struct nearest_params params;
    struct distance distance;
    bool tiled;
    float *scales;                /* distance_query_scale() of each query */
    int32_t *squares;             /* |q|^2 of each, as tiles count it */
    uint32_t ids[BLOCK_ROWS_MAX]; /* 0, 1, 2, ... */
    struct worker *workers;
    void *memory;
    size_t memory_bytes;
};

size_t nearest_stride_bytes(enum element_type type, uint32_t dim)
{
    size_t packed = element_vector_bytes(type, dim);
    return size_align(packed, packed >= 48 ? 64 : 16);
}

static bool is_tiled(const struct nearest_params *params)
{
    return params->metric == METRIC_L2 &&
           (params->type == ELEMENT_U8 || params->type == ELEMENT_I8);
}

static uint32_t block_rows(const struct nearest_params *params)
{
    size_t stride = nearest_stride_bytes(params->type, params->dim);
    size_t fit = (is_tiled(params) ? TILE_BLOCK_BYTES : BLOCK_BYTES) / stride / LANES * LANES;
    return (uint32_t)MIN(MAX(fit, (size_t)BLOCK_ROWS_MIN), (size_t)BLOCK_ROWS_MAX);
}

/* ---- memory ---- */

static size_t worker_bytes(const struct nearest_params *params)
{
    const size_t queries = params->queries.count;
    const size_t entries = queries * params->k;
    const size_t scores = BLOCK_ROWS_MAX * sizeof(int32_t);
    return size_align((2 + TILE_QUERIES_MAX) * scores + queries * 2 * sizeof(float) +
                          entries * (sizeof(uint64_t) + sizeof(float)),
                      64);
}

uint64_t nearest_memory_bytes(const struct nearest_params *params)
{
    const size_t tile = is_tiled(params) ? tile_bytes(block_rows(params), params->dim) : 0;
    return sizeof(struct nearest) + params->queries.count * 2 * sizeof(float) +
           params->threads * (uint64_t)(sizeof(struct worker) + worker_bytes(params) + tile);
}

/* The arrays of a worker, in memory aligned to 64 bytes. */
static void worker_place(struct worker *w, const struct nearest_params *params, uint8_t *memory)
{
    const size_t queries = params->queries.count;
    const size_t entries = queries * params->k;
    w->products = (void *)memory;
    w->scores = (void *)(w->products + (size_t)TILE_QUERIES_MAX * BLOCK_ROWS_MAX);
    w->norms = w->scores + BLOCK_ROWS_MAX;
    w->keys = (void *)(w->norms + BLOCK_ROWS_MAX);
    w->distances = (void *)(w->keys + entries);
    w->bounds = w->distances + entries;
    w->sizes = (void *)(w->bounds + queries);
    for (size_t q = 0; q < queries; q++)
        w->bounds[q] = INFINITY;
}

static enum status workers_create(struct nearest *n, struct error *err)
{
    const struct nearest_params *params = &n->params;
    const size_t bytes = worker_bytes(params);
    n->memory_bytes = bytes;
    enum status status = bulk_alloc(params->threads, bytes, "nearest rows", &n->memory, err);
    for (uint32_t t = 0; status == STATUS_OK && t < params->threads; t++) {
        worker_place(&n->workers[t], params, (uint8_t *)n->memory + t * bytes);
        tile_init(&n->workers[t].tile, params->dim, cpu_features());
        if (n->tiled)
            status = tile_reserve(&n->workers[t].tile, block_rows(params), err);
    }
    return status;
}

static struct byte_rows byte_rows_of(const struct nearest *n, const struct nearest_rows *rows,
                                     size_t first)
{
    return (struct byte_rows){
        .rows = rows->rows + first * rows->stride_bytes,
        .stride_bytes = rows->stride_bytes,
        .dim = n->params.dim,
        .flip = n->params.type == ELEMENT_I8 ? 0x80 : 0,
    };
}

/* What is needed of each query beside its elements. */
static void queries_prepare(struct nearest *n)
{
    const struct nearest_rows *queries = &n->params.queries;
    struct tile *tile = &n->workers[0].tile;
    const uint32_t step = block_rows(&n->params);
    for (uint32_t q = 0; q < queries->count; q++)
        n->scales[q] =
            distance_query_scale(&n->distance, queries->rows + q * queries->stride_bytes);
    for (uint32_t first = 0; n->tiled && first < queries->count; first += step) {
        const struct byte_rows rows = byte_rows_of(n, queries, first);
        const uint32_t count = MIN(step, queries->count - first);
        tile_fill(tile, &rows, n->ids, count);
        memcpy(n->squares + first, tile->squares, count * sizeof(*n->squares));
    }
}

enum status nearest_create(const struct nearest_params *params, struct nearest **out,
                           struct error *err)
{
    struct nearest *n = calloc(1, sizeof(*n));
    if (n == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a search");
    n->params = *params;
    n->tiled = is_tiled(params);
    distance_init(&n->distance, params->type, params->metric, params->dim);
    for (uint32_t i = 0; i < BLOCK_ROWS_MAX; i++)
        n->ids[i] = i;
    n->scales = calloc(params->queries.count, sizeof(*n->scales));
    n->squares = calloc(params->queries.count, sizeof(*n->squares));
    n->workers = calloc(params->threads, sizeof(*n->workers));
    enum status status = STATUS_OK;
    if (n->scales == NULL || n->squares == NULL || n->workers == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a search of %u queries",
                           params->queries.count);
    if (status == STATUS_OK)
        status = workers_create(n, err);
    if (status != STATUS_OK) {
        nearest_destroy(n);
        return status;
    }
    queries_prepare(n);
    *out = n;
    return STATUS_OK;
}

void nearest_destroy(struct nearest *n)
{
    if (n == NULL)
        return;
    for (uint32_t t = 0; n->workers != NULL && t < n->params.threads; t++)
        tile_destroy(&n->workers[t].tile);
    bulk_free(n->memory, n->params.threads, n->memory_bytes);
    free(n->workers);
    free(n->squares);
    free(n->scales);
    free(n);
}

/* ---- heaps ---- */

struct heap {
    uint64_t *keys;
    float *distances;
};

static struct heap heap_of(const struct nearest *n, const struct worker *w, uint32_t query)
{
    const size_t first = (size_t)query * n->params.k;
    return (struct heap){w->keys + first, w->distances + first};
}

ALWAYS_INLINE bool is_worse(float distance_a, uint64_t key_a, float distance_b, uint64_t key_b)
{
    return distance_a > distance_b || (distance_a == distance_b && key_a > key_b);
}

/* Puts (distance, key) where it belongs, from the root of `size` entries down. */
static void heap_sink(struct heap heap, uint32_t size, float distance, uint64_t key)
{
    uint32_t hole = 0;
    for (uint32_t child; (child = 2 * hole + 1) < size; hole = child) {
        if (child + 1 < size && is_worse(heap.distances[child + 1], heap.keys[child + 1],
                                         heap.distances[child], heap.keys[child]))
            child++;
        if (!is_worse(heap.distances[child], heap.keys[child], distance, key))
            break;
        heap.distances[hole] = heap.distances[child];
        heap.keys[hole] = heap.keys[child];
    }
    heap.distances[hole] = distance;
    heap.keys[hole] = key;
}

/* Puts it where it belongs, from place `hole`, a new last one, up. */
static void heap_rise(struct heap heap, uint32_t hole, float distance, uint64_t key)
{
    while (hole > 0) {
        const uint32_t parent = (hole - 1) / 2;
        if (!is_worse(distance, key, heap.distances[parent], heap.keys[parent]))
            break;
        heap.distances[hole] = heap.distances[parent];
        heap.keys[hole] = heap.keys[parent];
        hole = parent;
    }
    heap.distances[hole] = distance;
    heap.keys[hole] = key;
}

static void heap_push(const struct nearest *n, struct worker *w, uint32_t query, float distance,
                      uint64_t key)
{
    const struct heap heap = heap_of(n, w, query);
    const uint32_t k = n->params.k;
    uint32_t *size = &w->sizes[query];
    if (*size < k)
        heap_rise(heap, (*size)++, distance, key);
    else if (is_worse(heap.distances[0], heap.keys[0], distance, key))
        heap_sink(heap, k, distance, key);
    if (*size == k)
        w->bounds[query] = heap.distances[0];
}

/* Nearest first, in place. */
static void heap_sort(struct heap heap, uint32_t size)
{
    while (size > 1) {
        size--;
        const float distance = heap.distances[size];
        const uint64_t key = heap.keys[size];
        heap.distances[size] = heap.distances[0];
        heap.keys[size] = heap.keys[0];
        heap_sink(heap, size, distance, key);
    }
}

/* ---- comparing ---- */

/* A block of rows, and whose turn it is. */
struct turn {
    struct nearest *n;
    struct worker *w;
    const struct nearest_rows *rows;
    uint32_t first, count; /* of rows; count <= block_rows() */
};

static void row_offer(const struct turn *turn, uint32_t query, uint32_t i, float distance)
{
    const struct nearest_rows *rows = turn->rows;
    const uint32_t row = turn->first + i;
    const uint64_t key = rows->keys != NULL ? rows->keys[row] : rows->first_key + row;
    const struct nearest_rows *queries = &turn->n->params.queries;
    const uint64_t own = queries->keys != NULL ? queries->keys[query] : queries->first_key + query;
    if (key != own || turn->n->params.foreign)
        heap_push(turn->n, turn->w, query, distance, key);
}

/* Whole lanes are looked at, whatever is behind the last row. */
static void distances_offer(const struct turn *turn, uint32_t query)
{
    const float *distances = turn->w->scores;
    for (uint32_t first = 0; first < turn->count; first += LANES) {
        const float bound = turn->w->bounds[query];
        int near = 0;
        for (uint32_t lane = 0; lane < LANES; lane++)
            near |= distances[first + lane] <= bound;
        if (near == 0)
            continue;
        const uint32_t end = MIN(first + LANES, turn->count);
        for (uint32_t i = first; i < end; i++)
            if (distances[i] <= turn->w->bounds[query])
                row_offer(turn, query, i, distances[i]);
    }
}

static void block_compare(const struct turn *turn)
{
    const struct nearest *n = turn->n;
    const struct nearest_rows *queries = &n->params.queries;
    const uint8_t *rows = turn->rows->rows + turn->first * turn->rows->stride_bytes;
    for (uint32_t q = 0; q < queries->count; q++) {
        distance_rows(&n->distance, queries->rows + q * queries->stride_bytes, n->scales[q], rows,
                      turn->rows->stride_bytes, turn->count, turn->w->scores);
        distances_offer(turn, q);
    }
}

/* Whether the row is offered is for its distance to say; a NaN estimate says nothing. */
static void estimates_offer(const struct turn *turn, uint32_t query, const uint8_t *rows)
{
    const struct nearest *n = turn->n;
    const struct nearest_rows *queries = &n->params.queries;
    const uint8_t *vector = queries->rows + query * queries->stride_bytes;
    const size_t stride = turn->rows->stride_bytes;
    const float *estimates = turn->w->scores;
    for (uint32_t first = 0; first < turn->count; first += LANES) {
        const float bound = turn->w->bounds[query] + ESTIMATE_SLACK;
        int near = 0;
        for (uint32_t lane = 0; lane < LANES; lane++)
            near |= !(estimates[first + lane] > bound);
        if (near == 0)
            continue;
        const uint32_t end = MIN(first + LANES, turn->count);
        for (uint32_t i = first; i < end; i++) {
            float distance = 0;
            if (estimates[i] > bound)
                continue;
            distance_rows(&n->distance, vector, n->scales[query], rows + i * stride, stride, 1,
                          &distance);
            if (distance <= turn->w->bounds[query])
                row_offer(turn, query, i, distance);
        }
    }
}

static void block_compare_cosine(const struct turn *turn)
{
    const struct nearest *n = turn->n;
    const struct distance_kernels *kernels = n->distance.kernels;
    const struct nearest_rows *queries = &n->params.queries;
    const size_t stride = turn->rows->stride_bytes;
    const uint8_t *rows = turn->rows->rows + turn->first * stride;
    float *scores = turn->w->scores;
    float *norms = turn->w->norms;
    for (uint32_t i = 0; i < turn->count; i++) {
        const float squared = kernels->dot(rows + i * stride, rows + i * stride, n->params.dim);
        norms[i] = squared >= SQUARED_MIN && squared <= SQUARED_MAX ? 1 / sqrtf(squared) : NAN;
    }
    for (uint32_t q = 0; q < queries->count; q++) {
        const float scale =
            n->scales[q] >= SCALE_MIN && n->scales[q] <= SCALE_MAX ? n->scales[q] : NAN;
        kernels->dot_rows(queries->rows + q * queries->stride_bytes, rows, stride, turn->count,
                          n->params.dim, scores);
        for (uint32_t i = 0; i < turn->count; i++)
            scores[i] = 1 - scores[i] * scale * norms[i];
        estimates_offer(turn, q, rows);
    }
}

/* As distances_offer(); a distance is the score and the query's square, rounded as a search does.
 */
static void products_offer(const struct turn *turn, uint32_t query, const int32_t *products)
{
    const int32_t square = turn->n->squares[query];
    for (uint32_t first = 0; first < turn->count; first += LANES) {
        const float bound = turn->w->bounds[query];
        int near = 0;
        for (uint32_t lane = 0; lane < LANES; lane++)
            near |= (float)(products[first + lane] + square) <= bound;
        if (near == 0)
            continue;
        const uint32_t end = MIN(first + LANES, turn->count);
        for (uint32_t i = first; i < end; i++) {
            const float distance = (float)(products[i] + square);
            if (distance <= turn->w->bounds[query])
                row_offer(turn, query, i, distance);
        }
    }
}

static void block_compare_tiled(const struct turn *turn)
{
    struct nearest *n = turn->n;
    struct tile *tile = &turn->w->tile;
    const struct nearest_rows *queries = &n->params.queries;
    const struct byte_rows rows = byte_rows_of(n, turn->rows, turn->first);
    tile_fill(tile, &rows, n->ids, turn->count);
    for (uint32_t first = 0; first < queries->count; first += TILE_QUERIES_MAX) {
        const struct byte_rows asked = byte_rows_of(n, queries, first);
        const uint32_t count = MIN((uint32_t)TILE_QUERIES_MAX, queries->count - first);
        tile_ask(tile, &asked, n->ids, count);
        tile_scores(tile, count, turn->w->products);
        for (uint32_t i = 0; i < count; i++)
            products_offer(turn, first + i, turn->w->products + (size_t)i * tile_width(tile));
    }
}

void nearest_offer(struct nearest *n, uint32_t thread, const struct nearest_rows *rows)
{
    const uint32_t step = block_rows(&n->params);
    struct turn turn = {.n = n, .w = &n->workers[thread], .rows = rows};
    assert(thread < n->params.threads);
    for (; n->params.k > 0 && turn.first < rows->count; turn.first += step) {
        turn.count = MIN(step, rows->count - turn.first);
        if (n->tiled)
            block_compare_tiled(&turn);
        else if (n->params.metric == METRIC_COSINE)
            block_compare_cosine(&turn);
        else
            block_compare(&turn);
    }
}

/* ---- the end ---- */

/* Puts the other threads' rows among the first one's. */
static void query_collect(struct nearest *n, uint32_t query)
{
    struct worker *to = &n->workers[0];
    for (uint32_t t = 1; t < n->params.threads; t++) {
        const struct worker *from = &n->workers[t];
        const struct heap heap = heap_of(n, from, query);
        for (uint32_t i = 0; i < from->sizes[query]; i++)
            heap_push(n, to, query, heap.distances[i], heap.keys[i]);
    }
    heap_sort(heap_of(n, to, query), to->sizes[query]);
}

enum status nearest_finish(struct nearest *n, uint64_t *keys, float *distances, struct error *err)
{
    const struct worker *w = &n->workers[0];
    const uint32_t k = n->params.k;
    const size_t entries = (size_t)n->params.queries.count * k;
#pragma omp parallel for schedule(static)
    for (uint32_t q = 0; q < n->params.queries.count; q++)
        query_collect(n, q);
    for (uint32_t q = 0; q < n->params.queries.count; q++)
        if (w->sizes[q] != k)
            return error_set(err, STATUS_INVALID, "query %u has met %u other rows, wanted %u", q,
                             w->sizes[q], k);
    if (k > 0) {
        memcpy(keys, w->keys, entries * sizeof(*keys));
        memcpy(distances, w->distances, entries * sizeof(*distances));
    }
    return STATUS_OK;
}
