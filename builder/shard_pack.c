/*
 * shard_pack.c - see shard_pack.h. One thread a shard, with a team for the assignment.
 */
#include "builder/shard_pack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "builder/merge.h"
#include "common/memory.h"

static const struct work_piece geometry_piece = {BUILD_STAGE_GEOMETRY, WORK_WHOLE};

/* What the record of either piece tells. */
struct pack_info {
    uint32_t shard;
    uint32_t block_count;
    uint32_t nodes_per_block;
    uint32_t block_bytes;
    double mate_share;
    uint64_t gaps[33];
};

/* ---- merged lists ---- */

static enum status merge_info_read(const struct shard_plan *plan, uint32_t shard,
                                   struct merge_info *info, struct error *err)
{
    return work_piece_read(plan->work, (struct work_piece){BUILD_STAGE_MERGE, shard}, info,
                           sizeof(*info), NULL, err);
}

enum status shard_lists_load(const struct shard_plan *plan, uint32_t shard,
                             struct shard_lists *lists, struct error *err)
{
    struct shard_lists loaded = {0};
    struct merge_info info;
    struct work_input *input = NULL;
    void *kept_array = NULL;
    uint32_t count = shard_own_count(plan, shard);

    enum status status = merge_info_read(plan, shard, &info, err);
    if (status == STATUS_OK)
        status = graph_create(&loaded.graph, count, info.degree_max, err);
    if (status == STATUS_OK)
        status = bulk_alloc(count, sizeof(uint8_t), "kept edges", &kept_array, err);
    loaded.kept = kept_array;
    if (status == STATUS_OK)
        status = work_input_open(plan->work, (struct work_piece){BUILD_STAGE_MERGE, shard}, "lists",
                                 0, 0, &input, err);
    for (uint32_t row = 0; status == STATUS_OK && row < count; row++) {
        uint32_t degree = 0;
        uint32_t kept = 0;
        status = merge_list_read(plan, input, graph_neighbors(&loaded.graph, row), info.degree_max,
                                 &degree, &kept, err);
        graph_set_degree(&loaded.graph, row, degree);
        loaded.kept[row] = (uint8_t)kept;
    }
    if (status == STATUS_OK)
        status = work_input_end(input, err);
    work_input_close(input);
    if (status == STATUS_OK)
        *lists = loaded;
    else
        shard_lists_destroy(&loaded);
    return status;
}

void shard_lists_destroy(struct shard_lists *lists)
{
    bulk_free(lists->kept, lists->graph.count, sizeof(uint8_t));
    graph_destroy(&lists->graph);
    memset(lists, 0, sizeof(*lists));
}

/* ---- order ---- */

static enum status reference_find(const struct shard_plan *plan, uint32_t *shard, struct error *err)
{
    double degrees[PARTITION_SHARDS_MAX];
    double edges = 0.0;
    double best = INFINITY;
    for (uint32_t s = 0; s < plan->shard_count; s++) {
        struct merge_info info;
        enum status status = merge_info_read(plan, s, &info, err);
        if (status != STATUS_OK)
            return status;
        degrees[s] = (double)info.edges / shard_own_count(plan, s);
        edges += (double)info.edges;
    }
    double mean = edges / plan->starts[plan->shard_count];
    for (uint32_t s = 0; s < plan->shard_count; s++)
        if (fabs(degrees[s] - mean) < best) {
            best = fabs(degrees[s] - mean);
            *shard = s;
        }
    return STATUS_OK;
}

static enum status info_read(const struct shard_plan *plan, struct work_piece piece,
                             struct pack_info *info, struct error *err)
{
    return work_piece_read(plan->work, piece, info, sizeof(*info), NULL, err);
}

static struct block_geometry geometry_of(const struct pack_params *params,
                                         const struct pack_info *info)
{
    return (struct block_geometry){
        .block_bytes = info->block_bytes,
        .nodes_per_block = info->nodes_per_block,
        .vector_bytes = params->dim_bytes,
        .adjacency = params->adjacency,
        .gap_width = {8, 16, 24, 32},
        .generation_seed = params->generation_seed,
    };
}

/* An order by the geometry *chosen, or with a choice of one where that is NULL. */
static enum status order_make(const struct shard_plan *plan, uint32_t shard,
                              const struct pack_params *params, const struct pack_info *chosen,
                              struct pack_info *info, struct pack_order *order, struct error *err)
{
    struct shard_lists lists = {0};
    struct block_geometry geometry;

    enum status status = shard_lists_load(plan, shard, &lists, err);
    if (status != STATUS_OK)
        return status;
    struct pack_input input = {.graph = &lists.graph,
                               .kept = lists.kept,
                               .first = plan->starts[shard],
                               .total = plan->starts[plan->shard_count]};
    if (chosen == NULL) {
        status = pack_choose(&input, params, &geometry, order, err);
    } else {
        geometry = geometry_of(params, chosen);
        status = pack_order_make(&input, params, &geometry, order, err);
    }
    shard_lists_destroy(&lists);
    if (status != STATUS_OK)
        return status;
    *info = (struct pack_info){
        .shard = shard,
        .block_count = order->block_count,
        .nodes_per_block = geometry.nodes_per_block,
        .block_bytes = geometry.block_bytes,
        .mate_share = order->mate_share,
    };
    memcpy(info->gaps, order->gaps, sizeof(info->gaps));
    return STATUS_OK;
}

static enum status order_commit(const struct shard_plan *plan, struct work_piece piece,
                                const uint32_t *node_of_row, uint32_t count,
                                const struct pack_info *info, struct build_stage_record *cost,
                                struct error *err)
{
    struct work_output *out = NULL;
    enum status status = work_output_open(plan->work, piece, "order", 0, &out, err);
    if (status == STATUS_OK)
        status = work_output_append(out, node_of_row, (size_t)count * sizeof(uint32_t), err);
    if (status == STATUS_OK)
        return work_piece_commit(plan->work, piece, &out, 1, info, sizeof(*info), cost, err);
    work_output_abort(out);
    return status;
}

enum status shard_geometry_run(const struct shard_plan *plan, const struct pack_params *params,
                               const struct build_monitor *monitor, struct build_stage_record *cost,
                               struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct pack_order order = {0};
    struct pack_info info;
    uint32_t shard = 0;

    enum status status = reference_find(plan, &shard, err);
    if (status == STATUS_OK)
        status = order_make(plan, shard, params, NULL, &info, &order, err);
    if (status == STATUS_OK)
        status = build_monitor_check(monitor, err);
    build_clock_measure(&clock, cost);
    if (status == STATUS_OK)
        status = order_commit(plan, geometry_piece, order.node_of_row, order.row_count, &info, cost,
                              err);
    pack_order_destroy(&order);
    return status;
}

/* The reference's order is there already. */
static enum status order_take(const struct shard_plan *plan, uint32_t shard,
                              struct pack_order *order, struct error *err)
{
    struct work_input *input = NULL;
    void *nodes = NULL;
    order->row_count = shard_own_count(plan, shard);
    enum status status =
        bulk_alloc(order->row_count, sizeof(uint32_t), "node numbers", &nodes, err);
    order->node_of_row = nodes;
    if (status == STATUS_OK)
        status = work_input_open(plan->work, geometry_piece, "order", 0, 0, &input, err);
    if (status == STATUS_OK)
        status = work_input_read(input, nodes, order->row_count * sizeof(uint32_t), err);
    work_input_close(input);
    return status;
}

enum status shard_pack_run(const struct shard_plan *plan, uint32_t shard,
                           const struct pack_params *params, const struct build_monitor *monitor,
                           struct build_stage_record *cost, struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct pack_order order = {0};
    struct pack_info chosen;
    struct pack_info info;

    enum status status = info_read(plan, geometry_piece, &chosen, err);
    if (status != STATUS_OK)
        return status;
    if (chosen.shard == shard) {
        info = chosen;
        status = order_take(plan, shard, &order, err);
    } else {
        status = order_make(plan, shard, params, &chosen, &info, &order, err);
    }
    if (status == STATUS_OK)
        status = build_monitor_check(monitor, err);
    build_clock_measure(&clock, cost);
    if (status == STATUS_OK)
        status = order_commit(plan, (struct work_piece){BUILD_STAGE_PACK, shard}, order.node_of_row,
                              order.row_count, &info, cost, err);
    build_monitor_update(monitor, order.row_count);
    pack_order_destroy(&order);
    return status;
}

/* ---- layout ---- */

enum status shard_layout_load(const struct shard_plan *plan, const struct pack_params *params,
                              struct shard_layout *layout, struct error *err)
{
    uint64_t gaps[33] = {0};
    uint64_t blocks = 0;
    double share = 0.0;
    struct pack_info info;

    enum status status = STATUS_OK;
    for (uint32_t s = 0; status == STATUS_OK && s < plan->shard_count; s++) {
        layout->first_block[s] = (uint32_t)blocks;
        status = info_read(plan, (struct work_piece){BUILD_STAGE_PACK, s}, &info, err);
        if (status != STATUS_OK)
            return status;
        blocks += info.block_count;
        share += info.mate_share * shard_own_count(plan, s);
        for (int bits = 0; bits < 33; bits++)
            gaps[bits] += info.gaps[bits];
        if (blocks * info.nodes_per_block >= UINT32_MAX)
            return error_set(err, STATUS_INVALID, "%llu blocks of %u nodes exceed 32-bit ids",
                             (unsigned long long)blocks, info.nodes_per_block);
    }
    status = info_read(plan, geometry_piece, &info, err);
    if (status != STATUS_OK)
        return status;
    layout->first_block[plan->shard_count] = (uint32_t)blocks;
    layout->block_count = blocks;
    layout->mate_share = share / plan->starts[plan->shard_count];
    layout->geometry = geometry_of(params, &info);
    layout->geometry.node_limit = (uint32_t)(blocks * info.nodes_per_block);
    if (params->adjacency == BLOCK_ADJACENCY_GAPS)
        block_gap_widths_choose(gaps, layout->geometry.node_limit, layout->geometry.gap_width);
    return STATUS_OK;
}

static enum status order_read(const struct shard_plan *plan, const struct shard_layout *layout,
                              uint32_t shard, uint32_t *nodes, struct error *err)
{
    struct work_input *input = NULL;
    uint32_t count = shard_own_count(plan, shard);
    uint32_t capacity = layout->geometry.nodes_per_block;
    uint32_t first = layout->first_block[shard] * capacity;
    uint32_t end = layout->first_block[shard + 1] * capacity;

    enum status status = work_input_open(plan->work, (struct work_piece){BUILD_STAGE_PACK, shard},
                                         "order", 0, 0, &input, err);
    if (status == STATUS_OK)
        status = work_input_read(input, nodes, (size_t)count * sizeof(*nodes), err);
    for (uint32_t row = 0; status == STATUS_OK && row < count; row++) {
        if (nodes[row] >= end - first)
            status = work_input_discard(input, "names a node that is not there", err);
        nodes[row] += first;
    }
    work_input_close(input);
    return status;
}

enum status shard_nodes_load(const struct shard_plan *plan, const struct shard_layout *layout,
                             uint32_t **nodes, struct error *err)
{
    uint32_t rows = plan->starts[plan->shard_count];
    void *memory = NULL;
    enum status status = bulk_alloc(rows, sizeof(uint32_t), "node numbers", &memory, err);
    uint32_t *loaded = memory;
    for (uint32_t s = 0; status == STATUS_OK && s < plan->shard_count; s++)
        status = order_read(plan, layout, s, loaded + plan->starts[s], err);
    if (status == STATUS_OK)
        *nodes = loaded;
    else
        bulk_free(memory, rows, sizeof(uint32_t));
    return status;
}
