/*
 * engine_worker_memory.c - what a worker owns, made and freed: searches, read buffers, block_io.
 *
 * worker_init() runs on the worker's thread, so that first touch is local; worker_fini() once that
 * thread has ended.
 */
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "query/engine_internal.h"

enum {
    NS_PER_MS = 1000000,
    TICK_MS = 10,
    TICKS_PER_READ_TIMEOUT = 4, /* at least */
};

/* Slots and what searches need. */
static enum status slots_init(struct worker *w, struct error *err)
{
    struct engine *engine = w->engine;
    uint32_t slots = engine->params.slots_per_thread;
    w->slots = calloc(slots, sizeof(*w->slots));
    w->free_slots = calloc(slots, sizeof(*w->free_slots));
    if (!w->slots || !w->free_slots)
        return error_set(err, STATUS_NO_MEMORY, "engine: out of memory for %u slots", slots);
    enum status status = search_scratch_init(&w->scratch, err);
    for (uint32_t i = 0; i < slots && !status; i++) {
        w->slots[i].parked_block = SEARCH_NO_BLOCK;
        w->slots[i].waits_for = READ_NONE;
        status = search_init(&w->slots[i].search, engine->index, &w->scratch, err);
        w->free_slots[w->free_count++] = slots - 1 - i;
    }
    return status;
}

static enum status reads_init(struct worker *w, struct error *err)
{
    struct engine *engine = w->engine;
    uint32_t buffers = engine->buffer_count;
    w->oldest_read = w->newest_read = READ_NONE;
    w->reads = calloc(buffers, sizeof(*w->reads));
    w->free_reads = calloc(buffers, sizeof(*w->free_reads));
    w->read_of = malloc(READ_OF_SLOTS * sizeof(*w->read_of));
    if (!w->reads || !w->free_reads || !w->read_of)
        return error_set(err, STATUS_NO_MEMORY, "engine: out of memory for %u reads", buffers);
    void *memory = NULL;
    enum status status = bulk_alloc(buffers, engine->buffer_bytes, "read buffers", &memory, err);
    if (status)
        return status;
    w->buffers = memory;
    for (uint32_t i = 0; i < buffers; i++)
        w->free_reads[i] = i;
    w->free_read_count = buffers;
    memset(w->read_of, 0xff, READ_OF_SLOTS * sizeof(*w->read_of));
    struct block_io_params io = {
        .kind = engine->params.io_kind,
        .depth = buffers,
        .buffers = w->buffers,
        .buffers_bytes = buffers * engine->buffer_bytes,
        .file = engine->index->nodes_fd,
        .faults = engine->params.faults,
    };
    status = block_io_create(&io, &w->io, err);
    if (!status)
        strncpy(w->io_description, block_io_description(w->io), sizeof(w->io_description) - 1);
    return status;
}

enum status worker_init(struct worker *w, struct error *err)
{
    uint64_t tick_ns = (uint64_t)TICK_MS * NS_PER_MS;
    w->read_timeout_ns = (uint64_t)w->engine->params.read_timeout_ms * NS_PER_MS;
    w->tick_ns = MIN(tick_ns, w->read_timeout_ns / TICKS_PER_READ_TIMEOUT);
    enum status status = slots_init(w, err);
    return status ? status : reads_init(w, err);
}

void worker_fini(struct worker *w)
{
    struct engine *engine = w->engine;
    block_io_destroy(w->io);
    w->io = NULL;
    for (uint32_t i = 0; w->slots && i < engine->params.slots_per_thread; i++)
        search_fini(&w->slots[i].search);
    search_scratch_fini(&w->scratch);
    if (w->buffers)
        bulk_free(w->buffers, engine->buffer_count, engine->buffer_bytes);
    free(w->slots);
    free(w->free_slots);
    free(w->reads);
    free(w->free_reads);
    free(w->read_of);
}
