/*
 * write_blocks.c - encoding of blocks by the whole team, overlapped with writing.
 *
 * Two buffers: while one thread writes the buffer filled last, the others encode into the other
 * one, and the writer joins them when it is done. Buffers are written in order and a block's bytes
 * depend on nothing but the block, so the file is the same at any thread count.
 */
#include "builder/write_blocks.h"

#include <assert.h>

#include "common/memory.h"

struct write_job {
    const struct vector_set *set;
    const struct pack_result *pack;
    const uint64_t *keys;
    const struct build_monitor *monitor;
    struct generation_writer *writer;
    uint8_t *buffers[2];
    uint64_t buffer_blocks;
    /* written by the one thread that writes, read by all after the next barrier */
    enum status status;
    struct error error;
};

static void block_make(const struct write_job *job, uint64_t block, uint8_t *bytes)
{
    const struct pack_result *pack = job->pack;
    uint32_t capacity = pack->geometry.nodes_per_block;
    uint32_t first = (uint32_t)(block * capacity);
    struct block_record records[BLOCK_NODES_MAX];
    uint32_t count = 0;

    while (count < capacity && pack->row_of_node[first + count] != UINT32_MAX) {
        uint32_t node = first + count;
        uint32_t row = pack->row_of_node[node];
        records[count++] = (struct block_record){.key = job->keys != NULL ? job->keys[row] : row,
                                                 .vector = vector_set_row(job->set, row),
                                                 .ids = graph_neighbors(&pack->lists, node),
                                                 .degree = graph_degree(&pack->lists, node)};
    }
    for (uint32_t slot = count; slot < capacity; slot++)
        assert(pack->row_of_node[first + slot] == UINT32_MAX); /* holes come last in a block */
    block_encode(&pack->geometry, block, records, count, bytes);
}

/* Appends the buffer that holds blocks [first, ...). One thread at a time. */
static void buffer_write(struct write_job *job, uint64_t first)
{
    uint64_t count = MIN(job->buffer_blocks, job->pack->block_count - first);
    const uint8_t *buffer = job->buffers[first / job->buffer_blocks & 1];

    job->status = generation_writer_append(job->writer, GENERATION_NODES, buffer,
                                           count * job->pack->geometry.block_bytes, &job->error);
    if (job->status == STATUS_OK)
        job->status = build_monitor_check(job->monitor, &job->error);
    progress_update(job->monitor->progress, first + count);
}

static void blocks_run(struct write_job *job)
{
    uint64_t block_count = job->pack->block_count;
    uint32_t block_bytes = job->pack->geometry.block_bytes;

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

enum status write_blocks(const struct vector_set *set, const struct pack_result *pack,
                         const uint64_t *keys, const struct build_monitor *monitor,
                         struct generation_writer *writer, struct error *err)
{
    struct write_job job = {
        .set = set,
        .pack = pack,
        .keys = keys,
        .monitor = monitor,
        .writer = writer,
        .buffer_blocks = MAX(1u, WRITE_BLOCKS_BUFFER_BYTES / pack->geometry.block_bytes),
    };
    size_t buffer_bytes = job.buffer_blocks * pack->geometry.block_bytes;
    void *memory = NULL;

    enum status status = bulk_alloc(2, buffer_bytes, "block buffers", &memory, err);
    if (status != STATUS_OK)
        return status;
    job.buffers[0] = memory;
    job.buffers[1] = job.buffers[0] + buffer_bytes;
    blocks_run(&job);
    bulk_free(memory, 2, buffer_bytes);
    if (job.status != STATUS_OK && err != NULL)
        *err = job.error;
    return job.status;
}
