/*
 * block_io.c - what both back ends have in common: slots, wake-ups, faults, and the choice between
 * io_uring (block_io_uring.c) and the pread pool (block_io_pool.c).
 *
 * Threads: one owner; block_io_wake() from anywhere.
 */
#include "query/block_io.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "query/block_io_internal.h"

enum {
    BUFFER_ALIGNMENT = 4096,
    HELD_LOOK_NS = 1000000, /* how often held completions are asked for while a poll waits */
};

bool block_io_wakeup_may_sleep(struct block_io_wakeup *wakeup)
{
    uint32_t expected = WAKEUP_AWAKE;
    /* Failure acquires: the caller will not sleep but look at what the waker announced. */
    return atomic_compare_exchange_strong_explicit(&wakeup->state, &expected, WAKEUP_SLEEPING,
                                                   memory_order_acq_rel, memory_order_acquire);
}

void block_io_wakeup_awake(struct block_io_wakeup *wakeup)
{
    /* Spares the locked exchange where nothing happened; a WOKEN that this load misses ends the
     * next wait instead. */
    if (atomic_load_explicit(&wakeup->state, memory_order_relaxed) != WAKEUP_AWAKE)
        atomic_exchange_explicit(&wakeup->state, WAKEUP_AWAKE, memory_order_acq_rel);
}

void block_io_wakeup_wake(struct block_io_wakeup *wakeup)
{
    uint32_t before = atomic_exchange_explicit(&wakeup->state, WAKEUP_WOKEN, memory_order_acq_rel);
    if (before != WAKEUP_SLEEPING)
        return;
    int saved_errno = errno; /* a signal handler may call this */
    uint64_t one = 1;
    /* Fails only when the counter is full, and then the descriptor is readable already. */
    ssize_t written = write(wakeup->fd, &one, sizeof(one));
    (void)written;
    errno = saved_errno;
}

static void slot_free(struct block_io *io, uint32_t slot)
{
    assert(slot < io->depth && io->requests[slot].in_flight);
    io->requests[slot].in_flight = false;
    io->free_slots[io->free_count++] = slot;
}

static bool held_still(const struct block_io *io, const struct block_io_request *request,
                       uint64_t age_ns)
{
    return io->faults->holds(io->faults->context, request->offset, age_ns);
}

static struct block_completion finish_now(struct block_io *io, uint32_t slot, int result)
{
    const struct block_io_request *request = &io->requests[slot];
    if (UNLIKELY(io->faults && io->faults->on_read))
        result = io->faults->on_read(io->faults->context, request->offset, request->buffer,
                                     request->bytes, result);
    slot_free(io, slot);
    return (struct block_completion){.tag = request->tag, .result = result};
}

bool block_io_finish(struct block_io *io, uint32_t slot, int result, struct block_completion *out)
{
    struct block_io_request *request = &io->requests[slot];
    if (UNLIKELY(io->faults && io->faults->holds) && held_still(io, request, 0)) {
        request->result = result;
        request->done_ns = clock_monotonic_ns();
        io->held[io->held_count++] = slot;
        return false;
    }
    *out = finish_now(io, slot, result);
    return true;
}

/* Completions that the fault hook lets go now. */
static size_t held_collect(struct block_io *io, struct block_completion *out, size_t max)
{
    uint64_t now_ns = clock_monotonic_ns();
    size_t count = 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < io->held_count; i++) {
        uint32_t slot = io->held[i];
        const struct block_io_request *request = &io->requests[slot];
        if (count == max || held_still(io, request, now_ns - request->done_ns))
            io->held[kept++] = slot;
        else
            out[count++] = finish_now(io, slot, request->result);
    }
    io->held_count = kept;
    return count;
}

static enum status params_check(const struct block_io_params *params, struct error *err)
{
    if (params->depth < 1 || params->depth > BLOCK_IO_DEPTH_MAX)
        return error_set(err, STATUS_INVALID, "block I/O: depth %u: want 1..%d", params->depth,
                         BLOCK_IO_DEPTH_MAX);
    if (!params->buffers || params->buffers_bytes == 0 ||
        (uintptr_t)params->buffers % BUFFER_ALIGNMENT != 0)
        return error_set(err, STATUS_INVALID,
                         "block I/O: buffer pool of %zu bytes at %p: want a pool aligned to %d",
                         params->buffers_bytes, params->buffers, BUFFER_ALIGNMENT);
    return STATUS_OK;
}

/* AUTO may be settled from outside: an operator's way around a kernel bug, and the tests'. */
static enum status kind_choose(enum block_io_kind *kind, struct error *err)
{
    const char *wish = getenv("NIGHTJAR_IO");
    if (*kind != BLOCK_IO_AUTO || !wish || !*wish)
        return STATUS_OK;
    if (strcmp(wish, "uring") == 0)
        *kind = BLOCK_IO_URING;
    else if (strcmp(wish, "pool") == 0)
        *kind = BLOCK_IO_POOL;
    else
        return error_set(err, STATUS_INVALID, "NIGHTJAR_IO=%.40s: want uring or pool", wish);
    return STATUS_OK;
}

static enum status backend_open(struct block_io *io, enum block_io_kind kind, struct error *err)
{
    if (kind == BLOCK_IO_POOL)
        return block_io_pool_open(io, err);
    if (kind == BLOCK_IO_URING)
        return block_io_uring_open(io, err);
    struct error refusal;
    if (block_io_uring_open(io, &refusal) == STATUS_OK)
        return STATUS_OK;
    enum status status = block_io_pool_open(io, err);
    if (status != STATUS_OK)
        return status;
    size_t used = strlen(io->description);
    snprintf(io->description + used, sizeof(io->description) - used, " (%.*s)",
             (int)(sizeof(io->description) - used - 4), refusal.text);
    return STATUS_OK;
}

/* Frees what block_io_create() made itself. */
static void block_io_free(struct block_io *io)
{
    if (io->wakeup.fd >= 0)
        close(io->wakeup.fd);
    free(io->held);
    free(io->free_slots);
    free(io->requests);
    free(io);
}

enum status block_io_create(const struct block_io_params *params, struct block_io **out,
                            struct error *err)
{
    enum block_io_kind kind = params->kind;
    enum status status = params_check(params, err);
    if (status == STATUS_OK)
        status = kind_choose(&kind, err);
    if (status != STATUS_OK)
        return status;
    struct block_io *io = calloc(1, sizeof(*io));
    if (!io)
        return error_set(err, STATUS_NO_MEMORY, "block I/O: no memory");
    io->depth = params->depth;
    io->buffers = params->buffers;
    io->buffers_bytes = params->buffers_bytes;
    io->file = params->file;
    io->faults = params->faults;
    io->requests = calloc(io->depth, sizeof(*io->requests));
    io->free_slots = calloc(io->depth, sizeof(*io->free_slots));
    io->wakeup.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (io->faults && io->faults->holds)
        io->held = calloc(io->depth, sizeof(*io->held));
    if (!io->requests || !io->free_slots || (io->faults && io->faults->holds && !io->held)) {
        status = error_set(err, STATUS_NO_MEMORY, "block I/O: no memory for %u reads", io->depth);
        goto out;
    }
    if (io->wakeup.fd < 0) {
        status = error_set_os(err, errno, "block I/O: eventfd");
        goto out;
    }
    /* Low slots are handed out first: a short queue touches few cache lines. */
    for (uint32_t slot = io->depth; slot-- > 0;)
        io->free_slots[io->free_count++] = slot;
    status = backend_open(io, kind, err);
out:
    if (status == STATUS_OK)
        *out = io;
    else
        block_io_free(io);
    return status;
}

void block_io_destroy(struct block_io *io)
{
    if (!io)
        return;
    block_io_drain(io);
    io->backend->destroy(io);
    block_io_free(io);
}

void block_io_drain(struct block_io *io)
{
    struct block_completion dropped[32];
    io->faults = NULL; /* faults are for reads that someone sees */
    while (io->held_count > 0)
        slot_free(io, io->held[--io->held_count]);
    if (io->free_count < io->depth)
        io->backend->cancel_all(io);
    while (io->free_count < io->depth)
        (void)io->backend->poll(io, true, UINT64_MAX, dropped, ARRAY_LENGTH(dropped));
}

enum block_io_kind block_io_kind_of(const struct block_io *io)
{
    return io->kind;
}

const char *block_io_description(const struct block_io *io)
{
    return io->description;
}

bool block_io_read(struct block_io *io, int fd, uint64_t offset, void *buffer, uint32_t bytes,
                   uint64_t tag)
{
    size_t start = (size_t)((const char *)buffer - io->buffers);
    assert(bytes > 0 && bytes <= INT_MAX);
    assert(start < io->buffers_bytes && bytes <= io->buffers_bytes - start);
    if (io->free_count == 0)
        return false;
    uint32_t slot = io->free_slots[--io->free_count];
    io->requests[slot] = (struct block_io_request){.offset = offset,
                                                   .tag = tag,
                                                   .buffer = buffer,
                                                   .bytes = bytes,
                                                   .fd = fd,
                                                   .in_flight = true};
    io->backend->queue(io, slot);
    return true;
}

void block_io_cancel(struct block_io *io, uint64_t tag)
{
    /* Rare, so a search will do. */
    for (uint32_t slot = 0; slot < io->depth; slot++)
        if (io->requests[slot].in_flight && io->requests[slot].tag == tag)
            io->backend->cancel(io, slot);
}

size_t block_io_poll(struct block_io *io, bool wait, uint64_t timeout_ns,
                     struct block_completion *out, size_t max)
{
    size_t count = 0;
    if (UNLIKELY(io->faults && io->faults->holds)) {
        count = held_collect(io, out, max);
        /* Also when none is held yet: the back end may take one that is, and then sleep. */
        timeout_ns = MIN(timeout_ns, (uint64_t)HELD_LOOK_NS);
    }
    bool sleeps = wait && timeout_ns > 0 && max > 0 && count == 0;
    return count + io->backend->poll(io, sleeps, timeout_ns, out + count, max - count);
}

void block_io_wake(struct block_io *io)
{
    block_io_wakeup_wake(&io->wakeup);
}
