/*
 * pack.c - see pack.h: from a graph over rows to numbered nodes whose lists fit their blocks.
 *
 * How many nodes share a block depends on the size of their lists, which depends on the numbering.
 * So a first assignment is made for a guess, its lists are measured, and the capacity that fits
 * them is used for the real rounds (pack_assign.c). What still overflows is trimmed (pack_trim.c).
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
    ROUNDS_FULL = 8,  /* each further round adds under 0.005 to the block-mate share */
    SWAP_PASSES = 2,  /* adds 0.012; a third one 0.001 */
};

/* ---- numbering ---- */

static enum status numbering_alloc(struct pack_result *result, uint32_t count, struct error *err)
{
    void *row_of_node = NULL;
    void *node_of_row = NULL;
    enum status status = bulk_alloc(result->geometry.node_limit, sizeof(uint32_t), "node numbers",
                                    &row_of_node, err);
    result->row_of_node = row_of_node;
    if (!status)
        status = bulk_alloc(count, sizeof(uint32_t), "row numbers", &node_of_row, err);
    result->node_of_row = node_of_row;
    return status;
}

/* node = block * nodes_per_block + slot; rows take the slots of their block in ascending order. */
static void numbering_fill(struct pack_result *result, const uint32_t *block_of_row, uint32_t count,
                           uint32_t *used)
{
    memset(used, 0, result->block_count * sizeof(*used));
    memset(result->row_of_node, 0xff, (size_t)result->geometry.node_limit * sizeof(uint32_t));
    for (uint32_t row = 0; row < count; row++) {
        uint32_t block = block_of_row[row];
        uint32_t node = block * result->geometry.nodes_per_block + used[block]++;
        result->row_of_node[node] = row;
        result->node_of_row[row] = node;
    }
}

/* ---- lists in node ids ---- */

/* Histogram of the bits each gap of the sorted list takes. */
static void gaps_count(const uint32_t *sorted, uint32_t degree, uint64_t histogram[33])
{
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t gap = i == 0 ? sorted[0] : sorted[i] - sorted[i - 1] - 1;
        histogram[gap == 0 ? 0 : 32 - __builtin_clz(gap)]++;
    }
}

/* The neighbours of `row` outside its own block, as node ids in the order of the graph's list. */
static uint32_t outside_ids(const struct graph *graph, const struct pack_result *result,
                            uint32_t row, uint32_t *ids)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    uint32_t own = result->node_of_row[row] / capacity;
    const uint32_t *rows = graph_neighbors(graph, row);
    uint32_t degree = graph_degree(graph, row);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t node = result->node_of_row[rows[i]];
        if (node / capacity != own)
            ids[kept++] = node;
    }
    return kept;
}

/* Chooses the gap widths from the lists of a fixed sample of rows: widths need no more precision.
 */
static void widths_choose(const struct graph *graph, struct pack_result *result)
{
    enum { SAMPLE_ROWS = 100000 };
    uint64_t histogram[33] = {0};
    uint32_t step = MAX(1u, graph->count / SAMPLE_ROWS);
    for (uint32_t row = 0; row < graph->count; row += step) {
        uint32_t ids[BLOCK_DEGREE_MAX];
        uint32_t degree = outside_ids(graph, result, row, ids);
        pack_ids_sort(ids, degree);
        gaps_count(ids, degree, histogram);
    }
    block_gap_widths_choose(histogram, result->geometry.node_limit, result->geometry.gap_width);
}

static void lists_fill(const struct graph *graph, struct pack_result *result)
{
#pragma omp parallel for schedule(dynamic, 1024)
    for (uint32_t row = 0; row < graph->count; row++) {
        uint32_t node = result->node_of_row[row];
        uint32_t *ids = graph_neighbors(&result->lists, node);
        graph_set_degree(&result->lists, node, outside_ids(graph, result, row, ids));
    }
}

static void lists_sort(struct pack_result *result)
{
#pragma omp parallel for schedule(dynamic, 1024)
    for (uint32_t node = 0; node < result->lists.count; node++)
        pack_ids_sort(graph_neighbors(&result->lists, node), graph_degree(&result->lists, node));
}

/* ---- geometry ---- */

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

static void geometry_set_capacity(struct pack_result *result, uint32_t count, uint32_t capacity)
{
    assert(capacity > 0);
    result->geometry.nodes_per_block = capacity;
    result->block_count = (count + capacity - 1) / capacity;
    result->geometry.node_limit = (uint32_t)(result->block_count * capacity);
}

/* Mean bytes of a list once numbered, from a sample of rows. */
static double list_bytes_mean(const struct graph *graph, const struct pack_result *result)
{
    enum { SAMPLE_ROWS = 50000 };
    uint32_t step = MAX(1u, graph->count / SAMPLE_ROWS);
    double total = 0.0;
    uint32_t sampled = 0;
    for (uint32_t row = 0; row < graph->count; row += step, sampled++) {
        uint32_t ids[BLOCK_DEGREE_MAX];
        uint32_t degree = outside_ids(graph, result, row, ids);
        pack_ids_sort(ids, degree);
        total += (double)block_list_bytes(&result->geometry, ids, degree);
    }
    return total / sampled;
}

/* The most records of `list_bytes` mean whose block still fits. */
static uint32_t capacity_fitting(const struct pack_result *result, double list_bytes)
{
    uint32_t capacity = 1;
    while (capacity < BLOCK_NODES_MAX &&
           (double)block_list_budget(&result->geometry, capacity + 1) >=
               list_bytes * (capacity + 1))
        capacity++;
    return capacity;
}

/* ---- the whole ---- */

static void numbering_free(struct pack_result *result)
{
    if (result->row_of_node)
        bulk_free(result->row_of_node, result->geometry.node_limit, sizeof(uint32_t));
    if (result->node_of_row)
        bulk_free(result->node_of_row, result->row_count, sizeof(uint32_t));
    result->row_of_node = NULL;
    result->node_of_row = NULL;
}

/* Numbers the rows as assigned to blocks of `capacity`. */
static enum status number_rows(struct pack_work *work, struct pack_result *result,
                               struct error *err)
{
    enum status status = numbering_alloc(result, work->graph->count, err);
    if (status)
        return status;
    numbering_fill(result, work->block_of_row, work->graph->count, work->load);
    if (result->geometry.adjacency == BLOCK_ADJACENCY_GAPS)
        widths_choose(work->graph, result);
    return STATUS_OK;
}

/* A fresh start with another capacity. */
static void capacity_begin(struct pack_work *work, struct pack_result *result, uint32_t capacity)
{
    numbering_free(result);
    geometry_set_capacity(result, work->graph->count, capacity);
    pack_assign_start(work);
    pack_assign_rounds(work, capacity, (uint32_t)result->block_count, ROUNDS_PROBE);
}

static uint32_t degree_largest(const struct graph *graph)
{
    uint32_t largest = 0;
    for (uint32_t row = 0; row < graph->count; row++)
        largest = MAX(largest, graph_degree(graph, row));
    return largest;
}

static enum status lists_make(struct pack_work *work, const struct pack_params *params,
                              struct pack_result *result, struct error *err)
{
    graph_destroy(&result->lists);
    enum status status =
        graph_create(&result->lists, result->geometry.node_limit, degree_largest(work->graph), err);
    if (status)
        return status;
    lists_fill(work->graph, result);
    status = pack_trim(result, result->node_of_row[params->entry], err);
    if (!status)
        lists_sort(result);
    return status;
}

/* Finds the capacity that the lists of a first assignment allow, and leaves that capacity begun. A
 * guess that proves right, as it mostly does, is gone on from. */
static enum status capacity_probe(struct pack_work *work, const struct pack_params *params,
                                  struct pack_result *result, uint32_t *capacity, struct error *err)
{
    const struct graph *graph = work->graph;
    double id_bytes = id_bytes_expected(params, graph->count, result->mean_degree);
    uint32_t guess = capacity_fitting(result, result->mean_degree * id_bytes);
    guess = MIN(guess, graph->count);
    for (int attempt = 0; attempt < 3; attempt++) {
        capacity_begin(work, result, guess);
        enum status status = number_rows(work, result, err);
        if (status)
            return status;
        uint32_t fitting = capacity_fitting(result, list_bytes_mean(graph, result));
        fitting = MIN(fitting, graph->count);
        if (fitting == guess)
            break;
        guess = fitting;
        if (attempt == 2)
            capacity_begin(work, result, guess);
    }
    *capacity = guess;
    return STATUS_OK;
}

/* The remaining rounds, numbers and lists for the capacity begun. */
static enum status capacity_finish(struct pack_work *work, const struct pack_params *params,
                                   struct pack_result *result, struct error *err)
{
    uint32_t capacity = result->geometry.nodes_per_block;
    uint32_t block_count = (uint32_t)result->block_count;
    pack_assign_rounds(work, capacity, block_count, ROUNDS_FULL - ROUNDS_PROBE);
    pack_assign_swaps(work, capacity, block_count, SWAP_PASSES);
    numbering_free(result);
    enum status status = number_rows(work, result, err);
    if (!status)
        status = lists_make(work, params, result, err);
    return status;
}

static enum status pack_run(struct pack_work *work, const struct pack_params *params,
                            struct pack_result *result, struct error *err)
{
    const struct graph *graph = work->graph;
    uint64_t edges = 0;
    for (uint32_t row = 0; row < graph->count; row++)
        edges += graph_degree(graph, row);
    result->mean_degree = (double)edges / graph->count;

    uint32_t capacity = params->nodes_per_block;
    if (!capacity) {
        enum status status = capacity_probe(work, params, result, &capacity, err);
        if (status)
            return status;
    } else {
        capacity_begin(work, result, capacity);
    }
    for (;;) {
        enum status status = capacity_finish(work, params, result, err);
        if (status)
            return status;
        bool fits = result->trimmed_edges != PACK_TRIM_IMPOSSIBLE;
        bool cheap = fits && (double)result->trimmed_edges <= TRIM_SHARE_MAX * (double)edges;
        if (cheap || (fits && params->nodes_per_block))
            break;
        uint32_t larger = result->geometry.block_bytes + BLOCK_PAGE_BYTES;
        if (capacity == 1 && !params->block_bytes && larger <= BLOCK_BYTES_MAX) {
            result->geometry.block_bytes = larger;
            capacity_begin(work, result, capacity);
            continue;
        }
        if (fits && capacity == 1)
            break;
        if (capacity == 1)
            return error_set(err, STATUS_INVALID,
                             "block of %u bytes cannot hold one record of %u vector bytes",
                             result->geometry.block_bytes, params->dim_bytes);
        capacity_begin(work, result, --capacity);
    }
    result->entry_node = result->node_of_row[params->entry];
    result->block_mate_share = pack_mate_share(graph, work->block_of_row, work->load);
    return STATUS_OK;
}

enum status pack_graph(const struct graph *graph, const struct pack_params *params,
                       struct pack_result *result, struct error *err)
{
    assert(degree_largest(graph) <= BLOCK_DEGREE_MAX);
    memset(result, 0, sizeof(*result));
    result->row_count = graph->count;
    result->geometry = (struct block_geometry){
        .block_bytes = block_bytes_choose(params, graph->count, degree_largest(graph)),
        .nodes_per_block = 1,
        .vector_bytes = params->dim_bytes,
        .adjacency = params->adjacency,
        .gap_width = {8, 16, 24, 32},
        .generation_seed = params->generation_seed,
    };
    if (result->geometry.block_bytes > BLOCK_BYTES_MAX)
        return error_set(err, STATUS_INVALID,
                         "a record of %u vector bytes needs a block over %d bytes",
                         params->dim_bytes, BLOCK_BYTES_MAX);
    struct pack_work work = {0};
    enum status status = pack_work_init(&work, graph, params->seed, err);
    if (!status)
        status = pack_run(&work, params, result, err);
    pack_work_fini(&work);
    if (status)
        pack_result_destroy(result);
    return status;
}

void pack_result_destroy(struct pack_result *result)
{
    numbering_free(result);
    graph_destroy(&result->lists);
    memset(result, 0, sizeof(*result));
}
