/*
 * pack.c - see pack.h: the order of a shard's rows, and the capacity that its lists allow.
 *
 * How many nodes share a block depends on the size of their lists, which depends on the numbering.
 * So a first assignment is made for a guess, its lists are measured, and the capacity that fits
 * them is used for the real rounds (pack_assign.c). What still overflows is trimmed (pack_lists.c),
 * and where that would take too much, the next lower capacity is tried.
 *
 * Lists are measured before the other shards have an order: their rows' ids are guessed from their
 * positions, which have the same spread.
 */
#include "builder/pack.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "builder/pack_internal.h"
#include "common/memory.h"

/* A capacity is accepted when at most this share of edges must be trimmed. Measured on 1 M SIFT at
 * R = 64: see docs/ARCHITECTURE.md, "Packing". */
#define TRIM_SHARE_MAX 0.05

enum {
    ROUNDS_PROBE = 3, /* enough to know how large lists will be */
    /* Distinct blocks that hold a query's 10 nearest, 200 K SIFT: 7.97 after 8 rounds and 2 passes,
     * 7.94 after 12 and 3, 7.93 after 16 and 6. */
    ROUNDS_FULL = 12,
    SWAP_PASSES = 3,
};

/* ---- numbering ---- */

/* Blocks are numbered such that lists are short; rows take the slots of their block in ascending
 * order. Blocks may hold fewer than nodes_per_block. */
static enum status order_number(const struct pack_work *work, uint32_t block_count,
                                uint32_t nodes_per_block, uint64_t seed, struct pack_order *order,
                                struct error *err)
{
    uint32_t count = work->graph->count;
    void *nodes = NULL;
    void *ranks = NULL;
    enum status status = bulk_alloc(count, sizeof(uint32_t), "node numbers", &nodes, err);
    if (!status)
        status = bulk_alloc(block_count, sizeof(uint32_t), "order of blocks", &ranks, err);
    uint32_t *rank = ranks;
    if (!status)
        status = pack_blocks_rank(work, block_count, seed, rank, err);
    if (status) {
        bulk_free(nodes, count, sizeof(uint32_t));
        bulk_free(ranks, block_count, sizeof(uint32_t));
        return status;
    }
    memset(work->load, 0, block_count * sizeof(*work->load));
    order->row_count = count;
    order->block_count = block_count;
    order->nodes_per_block = nodes_per_block;
    order->node_of_row = nodes;
    for (uint32_t row = 0; row < count; row++) {
        uint32_t block = work->block_of_row[row];
        order->node_of_row[row] = rank[block] * nodes_per_block + work->load[block]++;
    }
    bulk_free(ranks, block_count, sizeof(uint32_t));
    return STATUS_OK;
}

void pack_order_destroy(struct pack_order *order)
{
    bulk_free(order->node_of_row, order->row_count, sizeof(uint32_t));
    memset(order, 0, sizeof(*order));
}

uint32_t pack_node_expected(const struct pack_input *input, const struct pack_order *order,
                            uint32_t position)
{
    uint32_t row = position - input->first;
    if (row < order->row_count)
        return input->first + order->node_of_row[row];
    /* The shard's holes push those behind it up. */
    uint32_t holes = order->block_count * order->nodes_per_block - order->row_count;
    return position < input->first ? position : position + holes;
}

/* ---- lists as expected ---- */

/* The neighbours of `row` outside its own block, as expected node ids, ascending. */
static uint32_t outside_ids(const struct pack_input *input, const struct pack_order *order,
                            uint32_t row, uint32_t *ids)
{
    uint32_t own = order->node_of_row[row] / order->nodes_per_block;
    const uint32_t *positions = graph_neighbors(input->graph, row);
    uint32_t degree = graph_degree(input->graph, row);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t target = positions[i] - input->first;
        if (target >= input->graph->count ||
            order->node_of_row[target] / order->nodes_per_block != own)
            ids[kept++] = pack_node_expected(input, order, positions[i]);
    }
    pack_ids_sort(ids, kept);
    return kept;
}

/* Histogram of the bits each gap of the sorted list takes. */
static void gaps_count(const uint32_t *sorted, uint32_t degree, uint64_t histogram[33])
{
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t gap = i == 0 ? sorted[0] : sorted[i] - sorted[i - 1] - 1;
        histogram[gap == 0 ? 0 : 32 - __builtin_clz(gap)]++;
    }
}

/* From the lists of a fixed sample of rows: gap widths need no more precision. */
static void gaps_fill(const struct pack_input *input, struct pack_order *order)
{
    enum { SAMPLE_ROWS = 100000 };
    uint32_t step = MAX(1u, input->graph->count / SAMPLE_ROWS);
    uint64_t gaps[33] = {0};
#pragma omp parallel for schedule(static) reduction(+ : gaps)
    for (uint32_t row = 0; row < input->graph->count; row += step) {
        uint32_t ids[BLOCK_DEGREE_MAX];
        uint32_t degree = outside_ids(input, order, row, ids);
        gaps_count(ids, degree, gaps);
    }
    memcpy(order->gaps, gaps, sizeof(gaps));
}

/* Mean bytes of a list once numbered, from a sample of rows. */
static double list_bytes_mean(const struct pack_input *input, const struct block_geometry *geometry,
                              const struct pack_order *order)
{
    enum { SAMPLE_ROWS = 50000 };
    uint32_t step = MAX(1u, input->graph->count / SAMPLE_ROWS);
    uint64_t total = 0;
    uint32_t sampled = 0;
#pragma omp parallel for schedule(static) reduction(+ : total, sampled)
    for (uint32_t row = 0; row < input->graph->count; row += step) {
        uint32_t ids[BLOCK_DEGREE_MAX];
        uint32_t degree = outside_ids(input, order, row, ids);
        total += block_list_bytes(geometry, ids, degree);
        sampled++;
    }
    return (double)total / sampled;
}

/* *fits: whatever the final node ids, the edges that must stay fit every block. */
static enum status kept_fits(const struct pack_input *input, const struct block_geometry *geometry,
                             const struct pack_order *order, bool *fits, struct error *err)
{
    void *scratch = NULL;
    *fits = true;
    if (input->kept == NULL)
        return STATUS_OK;
    enum status status =
        bulk_alloc(order->block_count, 2 * sizeof(uint32_t), "block list bytes", &scratch, err);
    if (status)
        return status;
    uint32_t *block_bytes = scratch;
    uint32_t *load = block_bytes + order->block_count;
    for (uint32_t row = 0; row < order->row_count; row++) {
        uint32_t block = order->node_of_row[row] / geometry->nodes_per_block;
        /* Degree, selectors of two bits, gaps of the widest. */
        uint32_t kept = input->kept[row];
        block_bytes[block] += 1 + (kept + 3) / 4 + kept * (uint32_t)sizeof(uint32_t);
        load[block]++;
    }
    for (uint32_t block = 0; block < order->block_count; block++)
        *fits = *fits && (int64_t)block_bytes[block] <= block_list_budget(geometry, load[block]);
    bulk_free(scratch, order->block_count, 2 * sizeof(uint32_t));
    return STATUS_OK;
}

/* ---- geometry ---- */

static uint32_t degree_largest(const struct graph *graph)
{
    uint32_t largest = 0;
    for (uint32_t row = 0; row < graph->count; row++)
        largest = MAX(largest, graph_degree(graph, row));
    return largest;
}

/* Expected bytes of a listed id before any numbering: gaps among random ids take about
 * log2(n / degree) bits, a selector and some waste. */
static double id_bytes_expected(const struct pack_params *params, uint32_t count, double degree)
{
    if (params->adjacency == BLOCK_ADJACENCY_PLAIN)
        return sizeof(uint32_t);
    return (log2(MAX(1.0, count / MAX(1.0, degree))) + 3.5) / 8.0;
}

/* The fewest pages that hold one record with a list of the largest degree, as expected. */
static uint32_t block_bytes_choose(const struct pack_params *params, uint32_t count,
                                   uint32_t degree_max)
{
    if (params->block_bytes)
        return params->block_bytes;
    double list_bytes = 1.0 + degree_max * id_bytes_expected(params, count, degree_max);
    size_t need = BLOCK_HEADER_BYTES + params->dim_bytes + sizeof(uint64_t) + 2 * sizeof(uint16_t) +
                  (size_t)list_bytes + BLOCK_TAIL_BYTES;
    return (uint32_t)size_align(need, BLOCK_PAGE_BYTES);
}

static uint32_t blocks_for(uint32_t rows, uint32_t capacity)
{
    return (rows + capacity - 1) / capacity;
}

/* The most records of `list_bytes` mean whose block still fits. */
static uint32_t capacity_fitting(const struct block_geometry *geometry, double list_bytes)
{
    uint32_t capacity = 1;
    while (capacity < BLOCK_NODES_MAX &&
           (double)block_list_budget(geometry, capacity + 1) >= list_bytes * (capacity + 1))
        capacity++;
    return capacity;
}

/* ---- one capacity ---- */

struct packer {
    const struct pack_input *input;
    const struct pack_params *params;
    struct pack_work work;
    struct block_geometry *geometry;
    struct pack_order *order;
    uint64_t edges; /* of the shard, all */
};

/* A fresh start with another capacity. */
static void capacity_begin(struct packer *p, uint32_t capacity)
{
    assert(capacity > 0);
    p->geometry->nodes_per_block = capacity;
    pack_assign_start(&p->work);
    pack_assign_rounds(&p->work, capacity, blocks_for(p->input->graph->count, capacity),
                       ROUNDS_PROBE);
}

/* Numbers the rows as assigned and estimates what the geometry will be. */
static enum status order_measure(struct packer *p, struct error *err)
{
    struct block_geometry *geometry = p->geometry;
    uint32_t blocks = blocks_for(p->input->graph->count, geometry->nodes_per_block);
    pack_order_destroy(p->order);
    enum status status =
        order_number(&p->work, blocks, geometry->nodes_per_block, p->params->seed, p->order, err);
    if (status)
        return status;
    uint32_t holes = blocks * geometry->nodes_per_block - p->input->graph->count;
    geometry->node_limit = p->input->total + holes;
    gaps_fill(p->input, p->order);
    if (geometry->adjacency == BLOCK_ADJACENCY_GAPS)
        block_gap_widths_choose(p->order->gaps, geometry->node_limit, geometry->gap_width);
    return STATUS_OK;
}

/* Finds the capacity that the lists of a first assignment allow, and leaves that capacity begun. A
 * guess that proves right, as it mostly does, is gone on from. */
static enum status capacity_probe(struct packer *p, struct error *err)
{
    uint32_t count = p->input->graph->count;
    double degree = (double)p->edges / count;
    double id_bytes = id_bytes_expected(p->params, p->input->total, degree);
    uint32_t guess = MIN(capacity_fitting(p->geometry, degree * id_bytes), count);
    for (int attempt = 0; attempt < 3; attempt++) {
        capacity_begin(p, guess);
        enum status status = order_measure(p, err);
        if (status)
            return status;
        uint32_t fitting =
            capacity_fitting(p->geometry, list_bytes_mean(p->input, p->geometry, p->order));
        fitting = MIN(fitting, count);
        if (fitting == guess)
            break;
        guess = fitting;
        if (attempt == 2)
            capacity_begin(p, guess);
    }
    return STATUS_OK;
}

/* The remaining rounds and the order, for the capacity begun. */
static enum status capacity_finish(struct packer *p, struct error *err)
{
    uint32_t capacity = p->geometry->nodes_per_block;
    uint32_t blocks = blocks_for(p->input->graph->count, capacity);
    pack_assign_rounds(&p->work, capacity, blocks, ROUNDS_FULL - ROUNDS_PROBE);
    pack_assign_swaps(&p->work, capacity, blocks, SWAP_PASSES);
    enum status status = order_measure(p, err);
    if (!status)
        p->order->mate_share = pack_mate_share(&p->work);
    return status;
}

/* How many edges the lists of p->order would lose, or PACK_TRIM_IMPOSSIBLE. In-edges are gone by
 * then: they and the lists would be the most memory of the stage. */
static enum status trim_try(const struct packer *p, uint64_t *trimmed, struct error *err)
{
    const struct graph *graph = p->input->graph;
    struct pack_lists lists = {0};
    enum status status = pack_lists_create(p->geometry, p->input->first, p->order,
                                           degree_largest(graph), &lists, err);
    if (status)
        return status;
#pragma omp parallel for schedule(dynamic, 1024)
    for (uint32_t row = 0; row < graph->count; row++) {
        uint32_t ids[BLOCK_DEGREE_MAX];
        uint32_t degree = graph_degree(graph, row);
        for (uint32_t i = 0; i < degree; i++)
            ids[i] = pack_node_expected(p->input, p->order, graph_neighbors(graph, row)[i]);
        pack_lists_put(&lists, p->order->node_of_row[row], ids, degree,
                       p->input->kept != NULL ? p->input->kept[row] : 0);
    }
    status = pack_lists_trim(&lists, err);
    *trimmed = lists.trimmed;
    pack_lists_destroy(&lists);
    return status;
}

static enum status geometry_begin(struct packer *p, struct error *err)
{
    const struct graph *graph = p->input->graph;
    for (uint32_t row = 0; row < graph->count; row++)
        p->edges += graph_degree(graph, row);
    *p->geometry = (struct block_geometry){
        .block_bytes = block_bytes_choose(p->params, p->input->total, degree_largest(graph)),
        .nodes_per_block = 1,
        .node_limit = p->input->total,
        .vector_bytes = p->params->dim_bytes,
        .adjacency = p->params->adjacency,
        .gap_width = {8, 16, 24, 32},
        .generation_seed = p->params->generation_seed,
    };
    if (p->geometry->block_bytes > BLOCK_BYTES_MAX)
        return error_set(err, STATUS_INVALID,
                         "a record of %u vector bytes needs a block over %d bytes",
                         p->params->dim_bytes, BLOCK_BYTES_MAX);
    return STATUS_OK;
}

/* Orders for the geometry's capacity (0: probed) and tells what would be trimmed. */
static enum status capacity_try(struct packer *p, uint32_t capacity, uint64_t *trimmed,
                                struct error *err)
{
    enum status status = pack_work_init(&p->work, p->input, p->params->seed, err);
    if (!status && capacity == 0)
        status = capacity_probe(p, err);
    else if (!status)
        capacity_begin(p, capacity);
    if (!status)
        status = capacity_finish(p, err);
    pack_work_fini(&p->work);
    return status ? status : trim_try(p, trimmed, err);
}

static enum status choose(struct packer *p, struct error *err)
{
    uint32_t capacity = p->params->nodes_per_block;
    for (;;) {
        uint64_t trimmed;
        enum status status = capacity_try(p, capacity, &trimmed, err);
        if (status)
            return status;
        capacity = p->geometry->nodes_per_block;
        bool fits = trimmed != PACK_TRIM_IMPOSSIBLE;
        if (fits && p->input->total > p->input->graph->count) /* ids were guessed */
            status = kept_fits(p->input, p->geometry, p->order, &fits, err);
        if (status)
            return status;
        bool cheap = fits && (double)trimmed <= TRIM_SHARE_MAX * (double)p->edges;
        if (cheap || (fits && p->params->nodes_per_block))
            return STATUS_OK;
        uint32_t larger = p->geometry->block_bytes + BLOCK_PAGE_BYTES;
        if (capacity > 1) {
            capacity--;
        } else if (!p->params->block_bytes && larger <= BLOCK_BYTES_MAX) {
            p->geometry->block_bytes = larger;
        } else if (fits) {
            return STATUS_OK;
        } else {
            return error_set(err, STATUS_INVALID,
                             "block of %u bytes cannot hold one record of %u vector bytes",
                             p->geometry->block_bytes, p->params->dim_bytes);
        }
    }
}

enum status pack_choose(const struct pack_input *input, const struct pack_params *params,
                        struct block_geometry *geometry, struct pack_order *order,
                        struct error *err)
{
    struct packer p = {.input = input, .params = params, .geometry = geometry, .order = order};
    memset(order, 0, sizeof(*order));
    enum status status = geometry_begin(&p, err);
    if (!status)
        status = choose(&p, err);
    if (status)
        pack_order_destroy(order);
    return status;
}

/* ---- a capacity that another shard chose ---- */

/* Assigns at most `capacity` rows to a block. */
static enum status order_assign(struct packer *p, uint32_t capacity, struct error *err)
{
    uint32_t blocks = blocks_for(p->input->graph->count, capacity);
    enum status status = pack_work_init(&p->work, p->input, p->params->seed, err);
    if (!status) {
        pack_assign_start(&p->work);
        pack_assign_rounds(&p->work, capacity, blocks, ROUNDS_FULL);
        pack_assign_swaps(&p->work, capacity, blocks, SWAP_PASSES);
        status = order_number(&p->work, blocks, p->geometry->nodes_per_block, p->params->seed,
                              p->order, err);
    }
    if (!status) {
        p->order->mate_share = pack_mate_share(&p->work);
        gaps_fill(p->input, p->order);
    }
    pack_work_fini(&p->work);
    return status;
}

enum status pack_order_make(const struct pack_input *input, const struct pack_params *params,
                            const struct block_geometry *geometry, struct pack_order *order,
                            struct error *err)
{
    struct block_geometry given = *geometry;
    struct packer p = {.input = input, .params = params, .geometry = &given, .order = order};
    uint32_t capacity = geometry->nodes_per_block;
    enum status status = STATUS_OK;
    memset(order, 0, sizeof(*order));
    while (!status) {
        bool fits = false;
        status = order_assign(&p, capacity, err);
        if (!status)
            status = kept_fits(input, geometry, order, &fits, err);
        if (status || fits)
            break;
        /* Hubs of the spanning tree in one block, too many to list: fewer rows to a block. */
        if (--capacity == 0)
            status = error_set(err, STATUS_INVALID,
                               "block of %u bytes cannot hold one record of %u vector bytes",
                               geometry->block_bytes, params->dim_bytes);
        pack_order_destroy(order);
    }
    if (status)
        pack_order_destroy(order);
    return status;
}
