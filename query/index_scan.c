/*
 * index_scan.c - see index_scan.h.
 *
 * Threads take chunks of consecutive blocks from a counter. A chunk goes through a buffer of the
 * thread's own; what is kept is copied out of it. Each block has its own place in every output, so
 * the result does not depend on who took which chunk.
 */
#include "query/index_scan.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/memory.h"

enum {
    CHUNK_BYTES = 1 << 18,
    THREADS_MAX = 16,
    ARENA_BYTES = 1 << 20, /* lists are packed into pieces of so many bytes */
    SAMPLE_ROWS = 8192,
};

struct scan {
    struct index *index;
    bool encode;
    uint64_t chunk_blocks;
    atomic_uint_fast64_t next; /* the first block not taken yet */
    atomic_bool stop;
    pthread_mutex_t lock; /* guards what follows */
    uint64_t failed_block;
    enum status status;
    struct error error;
};

struct scanner {
    struct scan *scan;
    uint8_t *buffer;
    uint8_t *arena; /* the piece that lists go to */
    size_t arena_used;
    uint64_t lists_bytes; /* what all its pieces hold */
    pthread_t thread;
    bool started;
};

static void fail(struct scan *scan, uint64_t block, enum status status, const struct error *err)
{
    pthread_mutex_lock(&scan->lock);
    if (!scan->status || block < scan->failed_block) {
        scan->failed_block = block;
        scan->status = status;
        scan->error = *err;
    }
    pthread_mutex_unlock(&scan->lock);
    /* Chunks are taken in order, so whoever holds a lower one goes on and is heard. */
    atomic_store_explicit(&scan->stop, true, memory_order_relaxed);
}

/* ---- reading ---- */

static enum status blocks_read(const struct index *index, uint64_t first, uint64_t count,
                               uint8_t *out, struct error *err)
{
    size_t block_bytes = index->geometry.block_bytes;
    size_t wanted = (size_t)count * block_bytes;
    size_t done = 0;
    while (done < wanted) {
        ssize_t got =
            pread(index->nodes_fd, out + done, wanted - done, (off_t)(first * block_bytes + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got > 0)
            done += (size_t)got;
        /* The file ends here, or within a page, from where O_DIRECT cannot go on. */
        if (got <= 0 || done % BLOCK_PAGE_BYTES != 0)
            return error_set_os(err, got < 0 ? errno : EIO, "%s/%s: block %llu", index_path(index),
                                generation_file_names[GENERATION_NODES],
                                (unsigned long long)(first + done / block_bytes));
    }
    return STATUS_OK;
}

static enum status block_verify(const struct index *index, uint64_t block, const void *bytes,
                                struct block_view *view, struct error *err)
{
    enum block_fault fault = block_open(&index->geometry, block, bytes, view);
    if (fault)
        return error_set(err, STATUS_CORRUPT, "%s/%s: block %llu: %s", index_path(index),
                         generation_file_names[GENERATION_NODES], (unsigned long long)block,
                         block_fault_name(fault));
    return STATUS_OK;
}

/* ---- lists ---- */

struct index_arena {
    struct index_arena *next;
    uint8_t bytes[];
};

/* Room for one block's lists; NULL when there is no memory. */
static uint8_t *lists_room(struct scanner *self, size_t bytes)
{
    struct index *index = self->scan->index;
    if (self->arena == NULL || self->arena_used + bytes > ARENA_BYTES) {
        void *memory = NULL;
        if (bulk_alloc(1, sizeof(struct index_arena) + ARENA_BYTES, "lists", &memory, NULL))
            return NULL;
        struct index_arena *arena = memory;
        pthread_mutex_lock(&self->scan->lock);
        arena->next = index->arenas;
        index->arenas = arena;
        pthread_mutex_unlock(&self->scan->lock);
        self->arena = arena->bytes;
        self->arena_used = 0;
    }
    uint8_t *room = self->arena + self->arena_used;
    self->arena_used += bytes;
    self->lists_bytes += bytes;
    return room;
}

void index_lists_free(struct index *index)
{
    while (index->arenas) {
        struct index_arena *next = index->arenas->next;
        bulk_free(index->arenas, 1, sizeof(*next) + ARENA_BYTES);
        index->arenas = next;
    }
    if (index->lists)
        bulk_free(index->lists, (size_t)index->manifest->block_count, sizeof(*index->lists));
    index->lists = NULL;
}

/* ---- a chunk ---- */

static enum status block_keep(struct scanner *self, uint64_t block, const uint8_t *bytes,
                              struct error *err)
{
    struct index *index = self->scan->index;
    struct block_view view;
    enum status status = block_verify(index, block, bytes, &view, err);
    if (status)
        return status;
    if (self->scan->encode)
        codec_encode(index->codec, view.vectors, view.record_count,
                     index->codes + (size_t)view.first_node * index->code_bytes);
    if (index->lists) {
        uint8_t *room = lists_room(self, block_lists_bytes(&view));
        if (!room)
            return error_set(err, STATUS_NO_MEMORY, "%s: no memory for the lists of block %llu",
                             index_path(index), (unsigned long long)block);
        block_lists_put(&view, room);
        index->lists[block] = room;
    }
    uint8_t *place = index_cache_place(index, (uint32_t)block);
    if (place) {
        memcpy(place, bytes, index->geometry.block_bytes);
        atomic_fetch_add_explicit(&index->cached_nodes, view.record_count, memory_order_relaxed);
    }
    return STATUS_OK;
}

/* Reads and keeps the blocks [first, end), skipping what nobody wants. */
static void chunk_scan(struct scanner *self, uint64_t first, uint64_t end)
{
    struct scan *scan = self->scan;
    const struct index *index = scan->index;
    bool all = scan->encode || index->lists;
    while (first < end) {
        uint64_t run = 0;
        while (first + run < end && (all || index_cache_place(index, (uint32_t)(first + run))))
            run++;
        struct error err = {0};
        enum status status = blocks_read(index, first, run, self->buffer, &err);
        if (status) {
            fail(scan, first, status, &err);
            return;
        }
        for (uint64_t i = 0; i < run; i++) {
            status = block_keep(self, first + i,
                                self->buffer + (size_t)i * index->geometry.block_bytes, &err);
            if (status) {
                fail(scan, first + i, status, &err);
                return;
            }
        }
        first += run + 1; /* the block after a run is not wanted */
        if (all)
            first--;
    }
}

static void *scanner_main(void *argument)
{
    struct scanner *self = argument;
    struct scan *scan = self->scan;
    uint64_t block_count = scan->index->manifest->block_count;
    while (!atomic_load_explicit(&scan->stop, memory_order_relaxed)) {
        uint64_t first =
            atomic_fetch_add_explicit(&scan->next, scan->chunk_blocks, memory_order_relaxed);
        if (first >= block_count)
            break;
        chunk_scan(self, first, MIN(first + scan->chunk_blocks, block_count));
    }
    return NULL;
}

/* ---- threads ---- */

static uint32_t thread_count(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
        return 1;
    return (uint32_t)MIN(CPU_COUNT(&allowed), (int)THREADS_MAX);
}

enum status index_scan(struct index *index, bool encode, uint32_t threads, struct error *err)
{
    threads = threads ? MIN(threads, (uint32_t)THREADS_MAX) : thread_count();
    size_t block_bytes = index->geometry.block_bytes;
    struct scan scan = {
        .index = index,
        .encode = encode,
        .chunk_blocks = MAX(CHUNK_BYTES / block_bytes, (size_t)1),
    };
    pthread_mutex_init(&scan.lock, NULL);
    struct scanner scanners[THREADS_MAX] = {0};
    size_t chunk_bytes = (size_t)scan.chunk_blocks * block_bytes;
    void *buffers = NULL;
    enum status status = bulk_alloc(threads, chunk_bytes, "blocks being read", &buffers, err);
    if (status)
        goto out;
    for (uint32_t i = 0; i < THREADS_MAX; i++)
        scanners[i].scan = &scan;
    /* Whoever cannot be started is done without; this thread is the first one. */
    scanners[0].buffer = buffers;
    for (uint32_t i = 1; i < threads; i++) {
        scanners[i].buffer = (uint8_t *)buffers + i * chunk_bytes;
        scanners[i].started =
            pthread_create(&scanners[i].thread, NULL, scanner_main, &scanners[i]) == 0;
    }
    (void)scanner_main(&scanners[0]);
    for (uint32_t i = 1; i < threads; i++)
        if (scanners[i].started)
            pthread_join(scanners[i].thread, NULL);
    /* What is left of a piece was never touched, so it is no memory. */
    for (uint32_t i = 0; i < threads; i++)
        index->memory.lists_bytes += scanners[i].lists_bytes;
    status = scan.status;
    if (status && err)
        *err = scan.error;
    bulk_free(buffers, threads, chunk_bytes);
out:
    pthread_mutex_destroy(&scan.lock);
    return status;
}

/* ---- training ---- */

/* Copies the rows of `blocks` blocks to `rows`; *count says how many there were. A block at fault
 * is left out while there are others: the scan that follows meets it again, and knows the lowest.
 */
static enum status sample_read(struct index *index, uint64_t blocks, uint8_t *rows, size_t *count,
                               struct error *err)
{
    const struct block_geometry *g = &index->geometry;
    void *block = NULL;
    enum status status = bulk_alloc(1, g->block_bytes, "a block", &block, err);
    if (status)
        return status;
    *count = 0;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t number = i * index->manifest->block_count / blocks;
        struct block_view view;
        status = blocks_read(index, number, 1, block, err);
        if (!status)
            status = block_verify(index, number, block, &view, err);
        if (status)
            continue;
        memcpy(rows + *count * g->vector_bytes, view.vectors,
               (size_t)view.record_count * g->vector_bytes);
        *count += view.record_count;
    }
    bulk_free(block, 1, g->block_bytes);
    return *count > 0 ? STATUS_OK : status;
}

/* codec_train() with signals held back meanwhile: the threads of its OpenMP team outlive it,
 * inherit this mask, and shall never be the ones to take a signal that the program handles in its
 * way. */
static enum status codec_train_masked(const struct codec_params *params, const void *rows,
                                      size_t count, struct codec **out, struct error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    enum status status = codec_train(params, rows, count, out, err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

enum status index_codec_train(struct index *index, const struct codec_params *params,
                              struct codec **out, struct error *err)
{
    const struct block_geometry *g = &index->geometry;
    uint64_t blocks =
        MIN(index->manifest->block_count, SAMPLE_ROWS / g->nodes_per_block + (uint64_t)1);
    size_t capacity = (size_t)blocks * g->nodes_per_block;
    size_t count;
    void *rows = NULL;
    enum status status = bulk_alloc(capacity, g->vector_bytes, "codec sample", &rows, err);
    if (status)
        return status;
    status = sample_read(index, blocks, rows, &count, err);
    if (!status)
        status = codec_train_masked(params, rows, count, out, err);
    bulk_free(rows, capacity, g->vector_bytes);
    return status;
}
