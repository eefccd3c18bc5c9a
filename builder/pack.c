/*
 * pack.c - see pack.h: the order of a shard's rows, and the capacity that its lists allow.
 *
 * How many nodes share a block depends on the size of their lists, which depends on the numbering.
 * So blocks are grown for a guess (pack_grow.c), and the lists of a sample of nodes are measured in
 * that order; they tell for any capacity what would overflow and have to be trimmed. The largest
 * capacity at which that is little is taken, and only for it is the assignment refined
 * (pack_assign.c).
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

/* A capacity is accepted when about this share of edges at most must be trimmed. Measured on 1 M
 * SIFT at R = 64: see docs/ARCHITECTURE.md, "Packing". */
#define TRIM_SHARE_MAX 0.05

enum { ROUNDS = 4 };

/* ---- numbering ---- */

/* Blocks are numbered such that lists are short; rows take the slots of their block in ascending
 * order. Blocks may hold fewer than nodes_per_block. */
static enum status order_number(const struct pack_work *work, uint32_t nodes_per_block,
                                struct pack_order *order, struct error *err)
{
    uint32_t count = work->graph->count;
    uint32_t block_count = work->block_count;
    void *nodes = NULL;
    void *ranks = NULL;
    enum status status = bulk_alloc(count, sizeof(uint32_t), "node numbers", &nodes, err);
    if (!status)
        status = bulk_alloc(block_count, sizeof(uint32_t), "order of blocks", &ranks, err);
    uint32_t *next = ranks; /* a block's rank, then its first free node */
    if (!status)
        status = pack_blocks_rank(work, next, err);
    if (status) {
        bulk_free(nodes, count, sizeof(uint32_t));
        bulk_free(ranks, block_count, sizeof(uint32_t));
        return status;
    }
    order->row_count = count;
    order->block_count = block_count;
    order->nodes_per_block = nodes_per_block;
    order->node_of_row = nodes;
    for (uint32_t block = 0; block < block_count; block++)
        next[block] *= nodes_per_block;
    for (uint32_t row = 0; row < count; row++)
        order->node_of_row[row] = next[work->block_of_row[row]]++;
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

/* *fits: whatever the final node ids, the edges that must stay fit every block. */
static enum status kept_fits(const struct pack_input *input, const struct block_geometry *geometry,
                             const struct pack_order *order, bool *fits, struct error *err)
{
    void *scratch = NULL;
    *fits = true;
    enum status status =
        bulk_alloc(order->block_count, 2 * sizeof(uint32_t), "block list bytes", &scratch, err);
    if (status)
        return status;
    uint32_t *block_bytes = scratch;
    uint32_t *load = block_bytes + order->block_count;
    for (uint32_t row = 0; row < order->row_count; row++) {
        uint32_t block = order->node_of_row[row] / geometry->nodes_per_block;
        /* Degree, selectors of two bits, gaps of the widest. */
        uint32_t kept = input->kept != NULL ? input->kept[row] : 0;
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

/* Numbers the rows as assigned and estimates what the geometry will be. */
static enum status order_measure(struct packer *p, struct error *err)
{
    struct block_geometry *geometry = p->geometry;
    uint32_t capacity = p->work.capacity;
    geometry->nodes_per_block = capacity;
    pack_order_destroy(p->order);
    enum status status = order_number(&p->work, capacity, p->order, err);
    if (status)
        return status;
    geometry->node_limit =
        p->input->total + p->order->block_count * capacity - p->input->graph->count;
    gaps_fill(p->input, p->order);
    if (geometry->adjacency == BLOCK_ADJACENCY_GAPS)
        block_gap_widths_choose(p->order->gaps, geometry->node_limit, geometry->gap_width);
    return STATUS_OK;
}

/* The list sizes of stretches of nodes, in order of nodes. */
struct list_sample {
    uint32_t *bytes; /* 0: a hole */
    uint32_t room;   /* of bytes */
    uint64_t total_bytes;
    uint64_t count;   /* lists */
    uint64_t outside; /* edges in them */
    uint64_t edges;   /* with those between block-mates */
};

static enum status sample_create(const struct packer *p, struct list_sample *sample,
                                 struct error *err)
{
    enum { STRETCH = 1024, STRETCHES_MAX = 64 };
    const struct pack_order *order = p->order;
    uint32_t nodes = order->block_count * order->nodes_per_block;
    uint32_t step = MAX(1u, nodes / STRETCH / STRETCHES_MAX);
    uint64_t total = 0, count = 0, outside = 0, edges = 0;
    void *memory = NULL;
    *sample = (struct list_sample){.room = (nodes / STRETCH / step + 1) * STRETCH};
    enum status status = bulk_alloc(sample->room, sizeof(uint32_t), "sizes of lists", &memory, err);
    if (status)
        return status;
    uint32_t *bytes = sample->bytes = memory;
#pragma omp parallel for schedule(static) reduction(+ : total, count, outside, edges)
    for (uint32_t row = 0; row < order->row_count; row++) {
        uint32_t ids[BLOCK_DEGREE_MAX];
        uint32_t stretch = order->node_of_row[row] / STRETCH;
        if (stretch % step != 0)
            continue;
        uint32_t degree = outside_ids(p->input, order, row, ids);
        uint32_t size = (uint32_t)block_list_bytes(p->geometry, ids, degree);
        bytes[stretch / step * STRETCH + order->node_of_row[row] % STRETCH] = size;
        total += size;
        count++;
        outside += degree;
        edges += graph_degree(p->input->graph, row);
    }
    sample->total_bytes = total;
    sample->count = count;
    sample->outside = outside;
    sample->edges = edges;
    return STATUS_OK;
}

/* About what share of all edges is to be trimmed with `capacity` lists to a block: what blocks are
 * over, at the mean bytes of an edge. */
static double trim_share(const struct list_sample *sample, const struct block_geometry *geometry,
                         uint32_t capacity)
{
    int64_t budget = block_list_budget(geometry, capacity);
    int64_t bytes = 0;
    int64_t over = 0;
    uint32_t records = 0;
    for (uint32_t i = 0; i < sample->room; i++) {
        if (sample->bytes[i] == 0)
            continue;
        bytes += sample->bytes[i];
        if (++records < capacity)
            continue;
        over += MAX(bytes - budget, (int64_t)0);
        bytes = 0;
        records = 0;
    }
    double edge_bytes = (double)sample->total_bytes / (double)MAX(sample->outside, (uint64_t)1);
    return (double)over / edge_bytes / (double)MAX(sample->edges, (uint64_t)1);
}

/* Sets capacity and, where that is left open and even one list does not fit, block size, by the
 * lists of a first assignment. That is for a guess: lists depend little on the capacity. */
static enum status capacity_choose(struct packer *p, uint32_t *chosen, struct error *err)
{
    /* What ordering the blocks leaves of lists of random ids, and what trimming allows. */
    static const double guess_share = 0.82;
    struct block_geometry *geometry = p->geometry;
    uint32_t count = p->input->graph->count;
    double degree = (double)p->edges / count;
    double id_bytes = id_bytes_expected(p->params, p->input->total, degree);
    struct list_sample sample;
    pack_grow(&p->work, MIN(capacity_fitting(geometry, guess_share * degree * id_bytes), count));
    enum status status = order_measure(p, err);
    if (!status)
        status = sample_create(p, &sample, err);
    if (status)
        return status;
    double list_bytes = (double)sample.total_bytes / (double)sample.count;
    for (;;) {
        *chosen = MIN(capacity_fitting(geometry, list_bytes), count);
        while (*chosen > 1 && trim_share(&sample, geometry, *chosen) > TRIM_SHARE_MAX)
            --*chosen;
        if (*chosen > 1 || p->params->block_bytes ||
            geometry->block_bytes + BLOCK_PAGE_BYTES > BLOCK_BYTES_MAX ||
            trim_share(&sample, geometry, 1) <= TRIM_SHARE_MAX)
            break;
        geometry->block_bytes += BLOCK_PAGE_BYTES;
    }
    bulk_free(sample.bytes, sample.room, sizeof(uint32_t));
    return STATUS_OK;
}

/* *fits: trimming makes the lists fit. In-edges are gone by then: they and the lists would be the
 * most memory of the stage. */
static enum status trim_try(const struct packer *p, bool *fits, struct error *err)
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
    *fits = lists.trimmed != PACK_TRIM_IMPOSSIBLE;
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

/* Orders the rows by `capacity` (0: chosen) and tells whether their blocks can hold them. */
static enum status capacity_try(struct packer *p, uint32_t capacity, bool *fits, struct error *err)
{
    enum status status = pack_work_init(&p->work, p->input, err);
    if (!status && capacity == 0)
        status = capacity_choose(p, &capacity, err);
    if (!status) {
        if (p->work.capacity != capacity)
            pack_grow(&p->work, capacity);
        pack_assign_rounds(&p->work, ROUNDS);
        status = order_measure(p, err);
    }
    if (!status)
        p->order->mate_share = pack_mate_share(&p->work);
    pack_work_fini(&p->work);
    if (!status)
        status = kept_fits(p->input, p->geometry, p->order, fits, err);
    /* Where all ids are known, one may look instead of supposing the worst. */
    if (!status && !*fits && p->input->total == p->input->graph->count)
        status = trim_try(p, fits, err);
    return status;
}

static enum status choose(struct packer *p, struct error *err)
{
    uint32_t capacity = p->params->nodes_per_block;
    for (;;) {
        bool fits;
        enum status status = capacity_try(p, capacity, &fits, err);
        if (status || fits)
            return status;
        capacity = p->geometry->nodes_per_block;
        uint32_t larger = p->geometry->block_bytes + BLOCK_PAGE_BYTES;
        if (capacity > 1) {
            capacity--;
        } else if (!p->params->block_bytes && larger <= BLOCK_BYTES_MAX) {
            p->geometry->block_bytes = larger;
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
    enum status status = pack_work_init(&p->work, p->input, err);
    if (!status) {
        pack_grow(&p->work, capacity);
        pack_assign_rounds(&p->work, ROUNDS);
        status = order_number(&p->work, p->geometry->nodes_per_block, p->order, err);
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
