/*
 * shard_write.c - see shard_write.h. Blocks are encoded by the whole team, overlapped with writing.
 *
 * Two buffers: while one thread writes the buffer filled last, the others encode into the other
 * one, and the writer joins them when it is done. Buffers are written in order and a block's bytes
 * depend on nothing but the block, so the file is the same at any thread count.
 */
#include "builder/shard_write.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "builder/encode.h"
#include "builder/key_index.h"
#include "builder/merge.h"
#include "builder/pack.h"
#include "common/memory.h"
#include "layout/digest.h"

/* ---- lists ---- */

static enum status order_make(const struct shard_write_context *context, uint32_t shard,
                              struct pack_order *order, struct error *err)
{
    const struct shard_layout *layout = context->layout;
    uint32_t capacity = layout->geometry.nodes_per_block;
    uint32_t first_node = layout->first_block[shard] * capacity;
    const uint32_t *nodes = context->node_of_position + context->plan->starts[shard];
    void *memory = NULL;

    *order = (struct pack_order){
        .row_count = shard_own_count(context->plan, shard),
        .block_count = layout->first_block[shard + 1] - layout->first_block[shard],
        .nodes_per_block = capacity,
    };
    enum status status =
        bulk_alloc(order->row_count, sizeof(uint32_t), "node numbers", &memory, err);
    order->node_of_row = memory;
    for (uint32_t row = 0; status == STATUS_OK && row < order->row_count; row++)
        order->node_of_row[row] = nodes[row] - first_node;
    return status;
}

static enum status lists_read(const struct shard_write_context *context, uint32_t shard,
                              const struct pack_order *order, struct pack_lists *lists,
                              struct error *err)
{
    struct work_input *input = NULL;
    enum status status =
        work_input_open(context->plan->work, (struct work_piece){BUILD_STAGE_MERGE, shard}, "lists",
                        0, 0, &input, err);
    for (uint32_t row = 0; status == STATUS_OK && row < order->row_count; row++) {
        uint32_t ids[BLOCK_DEGREE_MAX];
        uint32_t degree = 0;
        uint32_t kept = 0;
        status = merge_list_read(context->plan, input, ids, lists->graph.stride - 1, &degree, &kept,
                                 err);
        if (status != STATUS_OK)
            break;
        for (uint32_t i = 0; i < degree; i++)
            ids[i] = context->node_of_position[ids[i]];
        pack_lists_put(lists, order->node_of_row[row], ids, degree, kept);
    }
    if (status == STATUS_OK)
        status = work_input_end(input, err);
    work_input_close(input);
    return status;
}

/* The shard's trimmed lists. */
static enum status lists_make(const struct shard_write_context *context, uint32_t shard,
                              struct pack_lists *lists, struct error *err)
{
    const struct shard_layout *layout = context->layout;
    struct pack_order order = {0};
    struct merge_info info;

    enum status status =
        work_piece_read(context->plan->work, (struct work_piece){BUILD_STAGE_MERGE, shard}, &info,
                        sizeof(info), NULL, err);
    if (status == STATUS_OK)
        status = order_make(context, shard, &order, err);
    if (status == STATUS_OK)
        status = pack_lists_create(&layout->geometry,
                                   layout->first_block[shard] * layout->geometry.nodes_per_block,
                                   &order, info.degree_max, lists, err);
    if (status == STATUS_OK)
        status = lists_read(context, shard, &order, lists, err);
    pack_order_destroy(&order);
    if (status == STATUS_OK)
        status = pack_lists_trim(lists, err);
    if (status == STATUS_OK && lists->trimmed == PACK_TRIM_IMPOSSIBLE)
        status = error_set(err, STATUS_INVALID, "a block of shard %u cannot hold its spanning tree",
                           shard);
    return status;
}

/* ---- codes ---- */

static enum status codes_write(const struct shard_write_context *context,
                               const struct pack_lists *lists, const struct shard_own *own,
                               struct digest128 *digest, struct error *err)
{
    size_t code_bytes = codec_params_of(context->codec).code_bytes;
    uint32_t nodes = lists->graph.count;
    void *codes = NULL;

    enum status status = bulk_alloc(nodes, code_bytes, "codes", &codes, err);
    if (status == STATUS_OK)
        status = encode_nodes(context->codec, own->vectors, lists->row_of_node, nodes, codes, err);
    if (status == STATUS_OK) {
        *digest = digest_of(XXH3_128bits(codes, nodes * code_bytes));
        status =
            generation_writer_write(context->writer, GENERATION_CODES,
                                    lists->first_node * code_bytes, codes, nodes * code_bytes, err);
    }
    bulk_free(codes, nodes, code_bytes);
    return status;
}

/* ---- blocks ---- */

struct block_job {
    const struct shard_write_context *context;
    const struct pack_lists *lists;
    const struct shard_own *own;
    const struct build_monitor *monitor;
    uint32_t first_block; /* of the generation */
    XXH3_state_t *hash;
    uint8_t *buffers[2];
    uint64_t buffer_blocks;
    /* written by the one thread that writes, read by all after the next barrier */
    enum status status;
    struct error error;
};

static void block_make(const struct block_job *job, uint64_t block, uint8_t *bytes)
{
    const struct pack_lists *lists = job->lists;
    uint32_t capacity = lists->geometry.nodes_per_block;
    uint32_t first = (uint32_t)(block * capacity);
    struct block_record records[BLOCK_NODES_MAX];
    uint32_t count = 0;

    while (count < capacity && lists->row_of_node[first + count] != UINT32_MAX) {
        uint32_t node = first + count;
        uint32_t row = lists->row_of_node[node];
        records[count++] =
            (struct block_record){.key = job->own->keys[row],
                                  .vector = job->own->vectors + row * job->own->row_bytes,
                                  .ids = graph_neighbors(&lists->graph, node),
                                  .degree = graph_degree(&lists->graph, node)};
    }
    for (uint32_t slot = count; slot < capacity; slot++)
        assert(lists->row_of_node[first + slot] == UINT32_MAX); /* holes come last in a block */
    block_encode(&lists->geometry, job->first_block + block, records, count, bytes);
}

/* Writes the buffer that holds blocks [first, ...) of the shard. One thread at a time. */
static void buffer_write(struct block_job *job, uint64_t first)
{
    uint64_t count = MIN(job->buffer_blocks, job->lists->block_count - first);
    const uint8_t *buffer = job->buffers[first / job->buffer_blocks & 1];
    uint64_t block_bytes = job->lists->geometry.block_bytes;

    (void)XXH3_128bits_update(job->hash, buffer, count * block_bytes);
    job->status = generation_writer_write(job->context->writer, GENERATION_NODES,
                                          (job->first_block + first) * block_bytes, buffer,
                                          count * block_bytes, &job->error);
    if (job->status == STATUS_OK)
        job->status = build_monitor_check(job->monitor, &job->error);
    build_monitor_update(job->monitor, first + count);
}

static void blocks_run(struct block_job *job)
{
    uint64_t block_count = job->lists->block_count;
    uint32_t block_bytes = job->lists->geometry.block_bytes;

    /* All threads make the same turns: status changes only between two barriers. */
#pragma omp parallel
    for (uint64_t first = 0; job->status == STATUS_OK; first += job->buffer_blocks) {
        uint64_t end = MIN(first + job->buffer_blocks, block_count);
        uint8_t *buffer = job->buffers[first / job->buffer_blocks & 1];
#pragma omp barrier
#pragma omp single nowait
        if (first > 0)
            buffer_write(job, first - job->buffer_blocks);
#pragma omp for schedule(dynamic, 16)
        for (uint64_t block = first; block < end; block++)
            block_make(job, block, buffer + (block - first) * block_bytes);
        if (first >= block_count)
            break;
    }
}

static enum status blocks_write(const struct shard_write_context *context, uint32_t shard,
                                const struct pack_lists *lists, const struct shard_own *own,
                                const struct build_monitor *monitor, struct digest128 *digest,
                                struct error *err)
{
    struct block_job job = {
        .context = context,
        .lists = lists,
        .own = own,
        .monitor = monitor,
        .first_block = context->layout->first_block[shard],
        .hash = XXH3_createState(),
        .buffer_blocks = MAX(1u, SHARD_WRITE_BUFFER_BYTES / lists->geometry.block_bytes),
    };
    size_t buffer_bytes = job.buffer_blocks * lists->geometry.block_bytes;
    void *memory = NULL;

    if (job.hash == NULL || XXH3_128bits_reset(job.hash) != XXH_OK) {
        XXH3_freeState(job.hash);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a digest");
    }
    enum status status = bulk_alloc(2, buffer_bytes, "block buffers", &memory, err);
    if (status == STATUS_OK) {
        job.buffers[0] = memory;
        job.buffers[1] = job.buffers[0] + buffer_bytes;
        blocks_run(&job);
        bulk_free(memory, 2, buffer_bytes);
        *digest = digest_of(XXH3_128bits_digest(job.hash));
        status = job.status;
        if (status != STATUS_OK && err != NULL)
            *err = job.error;
    }
    XXH3_freeState(job.hash);
    return status;
}

/* ---- the whole ---- */

/* The shard's keys with their nodes, in order. */
static enum status keys_write(const struct shard_write_context *context, uint32_t shard,
                              const struct shard_own *own, struct work_output **out,
                              struct error *err)
{
    const struct work_piece piece = {BUILD_STAGE_WRITE, shard};
    const uint32_t *nodes = context->node_of_position + context->plan->starts[shard];
    enum status status = work_output_open(context->plan->work, piece, KEY_INDEX_PART, 0, out, err);
    return status == STATUS_OK ? key_index_run_write(own->keys, nodes, own->count, *out, err)
                               : status;
}

enum status shard_write_run(const struct shard_write_context *context, uint32_t shard,
                            const struct build_monitor *monitor, struct build_stage_record *cost,
                            struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct pack_lists lists = {0};
    struct shard_own own = {0};
    struct shard_write_info info = {0};
    struct work_output *keys = NULL;
    uint64_t written_bytes = 0;

    enum status status = lists_make(context, shard, &lists, err);
    if (status == STATUS_OK)
        status = shard_own_load(context->plan, shard, &own, err);
    if (status == STATUS_OK)
        status = codes_write(context, &lists, &own, &info.codes_digest, err);
    if (status == STATUS_OK)
        status = blocks_write(context, shard, &lists, &own, monitor, &info.nodes_digest, err);
    if (status == STATUS_OK) {
        info.trimmed = lists.trimmed;
        info.stored_edges = lists.outside - lists.trimmed;
        written_bytes = (uint64_t)lists.block_count * lists.geometry.block_bytes +
                        (uint64_t)lists.graph.count * codec_params_of(context->codec).code_bytes;
    }
    pack_lists_destroy(&lists); /* keys are sorted in what that leaves */
    if (status == STATUS_OK)
        status = keys_write(context, shard, &own, &keys, err);
    if (status == STATUS_OK)
        status = generation_writer_sync(context->writer, err);
    if (status == STATUS_OK) {
        build_clock_measure(&clock, cost);
        cost->written_bytes = written_bytes;
        status =
            work_piece_commit(context->plan->work, (struct work_piece){BUILD_STAGE_WRITE, shard},
                              &keys, 1, &info, sizeof(info), cost, err);
    }
    work_output_abort(keys);
    shard_own_destroy(&own);
    return status;
}
