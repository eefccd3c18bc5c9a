/*
 * block_io_pool.c - reads through pread() on a few threads, for kernels and containers that refuse
 * io_uring.
 *
 * Threads: the owner queues and collects; `thread_count` threads read. `lock` guards `pending`,
 * `done`, `stop` and the requests between the owner's hand-over and its collection. The threads
 * inherit the owner's CPU affinity (they hardly use CPU), and block all signals. They tell the
 * owner of a result through the wake-up word of block_io_internal.h, because the owner must also
 * wake for block_io_wake(), which may be called from a signal handler and so cannot use a
 * condition.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "query/block_io_internal.h"

enum {
    POOL_THREADS_MAX = 32, /* disks gain little beyond, and each owner has a pool of its own */
    POOL_STACK_BYTES = 256 * 1024,
    NS_PER_S = 1000000000,
};

/* A queue of slot numbers; it holds each slot at most once, so `depth` is room enough. */
struct slot_queue {
    uint32_t *slots;
    uint32_t head, count;
};

struct pool {
    struct block_io *io;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct slot_queue queued; /* owner only: until the next poll */
    struct slot_queue pending, done;
    bool stop;
    uint32_t thread_count;
    pthread_t threads[POOL_THREADS_MAX];
};

static void queue_push(struct slot_queue *queue, uint32_t depth, uint32_t slot)
{
    assert(queue->count < depth);
    queue->slots[(queue->head + queue->count++) % depth] = slot;
}

static uint32_t queue_pop(struct slot_queue *queue, uint32_t depth)
{
    assert(queue->count > 0);
    uint32_t slot = queue->slots[queue->head];
    queue->head = (queue->head + 1) % depth;
    queue->count--;
    return slot;
}

static int pool_pread(const struct block_io_request *request)
{
    ssize_t got;
    do {
        got = pread(request->fd, request->buffer, request->bytes, (off_t)request->offset);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : (int)got;
}

static void *pool_main(void *context)
{
    struct pool *pool = context;
    struct block_io *io = pool->io;
    pthread_mutex_lock(&pool->lock);
    while (true) {
        while (pool->pending.count == 0 && !pool->stop)
            pthread_cond_wait(&pool->work, &pool->lock);
        if (pool->stop)
            break;
        uint32_t slot = queue_pop(&pool->pending, io->depth);
        pthread_mutex_unlock(&pool->lock);
        int result = pool_pread(&io->requests[slot]);
        pthread_mutex_lock(&pool->lock);
        io->requests[slot].result = result;
        queue_push(&pool->done, io->depth, slot);
        /* Under the lock: the owner cannot destroy the pool between the two. */
        block_io_wakeup_wake(&io->wakeup);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void pool_queue(struct block_io *io, uint32_t slot)
{
    struct pool *pool = io->state;
    queue_push(&pool->queued, io->depth, slot);
}

/* Hands over what is queued and takes what is done. */
static size_t pool_exchange(struct block_io *io, struct block_completion *out, size_t max)
{
    struct pool *pool = io->state;
    uint32_t finished[64];
    size_t count = 0;
    pthread_mutex_lock(&pool->lock);
    if (pool->queued.count == 1)
        pthread_cond_signal(&pool->work);
    else if (pool->queued.count > 1)
        pthread_cond_broadcast(&pool->work);
    while (pool->queued.count > 0)
        queue_push(&pool->pending, io->depth, queue_pop(&pool->queued, io->depth));
    while (pool->done.count > 0 && count < max && count < ARRAY_LENGTH(finished))
        finished[count++] = queue_pop(&pool->done, io->depth);
    pthread_mutex_unlock(&pool->lock);
    /* Outside the lock: the fault hook may take its time. */
    size_t handed_out = 0;
    for (size_t i = 0; i < count; i++)
        handed_out +=
            block_io_finish(io, finished[i], io->requests[finished[i]].result, &out[handed_out]);
    return handed_out;
}

/* Moves `slot` (all: any) from `from` to the finished ones, as cancelled. */
static void queue_cancel(struct pool *pool, struct slot_queue *from, uint32_t slot, bool all)
{
    struct block_io *io = pool->io;
    for (uint32_t left = from->count; left > 0; left--) {
        uint32_t next = queue_pop(from, io->depth);
        if (!all && next != slot) {
            queue_push(from, io->depth, next);
            continue;
        }
        io->requests[next].result = -ECANCELED;
        queue_push(&pool->done, io->depth, next);
    }
}

/* A read that no thread has begun need not be begun; one that hangs in pread() stays there. */
static void pool_cancel_some(struct block_io *io, uint32_t slot, bool all)
{
    struct pool *pool = io->state;
    pthread_mutex_lock(&pool->lock);
    queue_cancel(pool, &pool->queued, slot, all);
    queue_cancel(pool, &pool->pending, slot, all);
    pthread_mutex_unlock(&pool->lock);
}

static void pool_cancel(struct block_io *io, uint32_t slot)
{
    pool_cancel_some(io, slot, false);
}

static void pool_cancel_all(struct block_io *io)
{
    pool_cancel_some(io, 0, true);
}

static void pool_sleep(int fd, uint64_t timeout_ns)
{
    struct pollfd wakeup = {.fd = fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_S),
                               .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    if (ppoll(&wakeup, 1, timeout_ns == UINT64_MAX ? NULL : &timeout, NULL) <= 0)
        return;
    uint64_t counter;
    ssize_t got = read(fd, &counter, sizeof(counter));
    (void)got; /* non-blocking: nothing to read is fine too */
}

static size_t pool_poll(struct block_io *io, bool wait, uint64_t timeout_ns,
                        struct block_completion *out, size_t max)
{
    size_t count = pool_exchange(io, out, max);
    if (!wait)
        return count;
    /* A result that arrives after the exchange above changes the wake-up word first. */
    if (count == 0 && block_io_wakeup_may_sleep(&io->wakeup))
        pool_sleep(io->wakeup.fd, timeout_ns);
    block_io_wakeup_awake(&io->wakeup);
    return count > 0 ? count : pool_exchange(io, out, max);
}

static void pool_free(struct pool *pool)
{
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->queued.slots);
    free(pool->pending.slots);
    free(pool->done.slots);
    free(pool);
}

static void pool_destroy(struct block_io *io)
{
    struct pool *pool = io->state;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    pool_free(pool);
    io->state = NULL;
}

/* Starts up to `wanted` threads; fewer is fine, none is not. Returns pthread_create()'s error. */
static int pool_start(struct pool *pool, uint32_t wanted)
{
    pthread_attr_t attributes;
    int rc = pthread_attr_init(&attributes);
    if (rc != 0)
        return rc;
    sigset_t all, before;
    sigfillset(&all);
    /* Refused where a page size or a sanitizer needs more: the default serves too. */
    (void)pthread_attr_setstacksize(&attributes, POOL_STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->thread_count < wanted) {
        pthread_t *thread = &pool->threads[pool->thread_count];
        rc = pthread_create(thread, &attributes, pool_main, pool);
        if (rc != 0)
            break;
        pthread_setname_np(*thread, "nightjar-pread");
        pool->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return rc;
}

static const struct block_io_backend pool_backend = {
    .queue = pool_queue,
    .poll = pool_poll,
    .cancel = pool_cancel,
    .cancel_all = pool_cancel_all,
    .destroy = pool_destroy,
};

enum status block_io_pool_open(struct block_io *io, struct error *err)
{
    struct pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return error_set(err, STATUS_NO_MEMORY, "read pool: no memory");
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pool->io = io;
    pool->queued.slots = calloc(io->depth, sizeof(uint32_t));
    pool->pending.slots = calloc(io->depth, sizeof(uint32_t));
    pool->done.slots = calloc(io->depth, sizeof(uint32_t));
    if (!pool->queued.slots || !pool->pending.slots || !pool->done.slots) {
        pool_free(pool);
        return error_set(err, STATUS_NO_MEMORY, "read pool: no memory for %u reads", io->depth);
    }
    int rc = pool_start(pool, MIN(io->depth, (uint32_t)POOL_THREADS_MAX));
    if (pool->thread_count == 0) {
        pool_free(pool);
        return error_set_os(err, rc, "read pool: cannot start a thread");
    }
    snprintf(io->description, sizeof(io->description), "pread-pool threads=%u", pool->thread_count);
    io->backend = &pool_backend;
    io->kind = BLOCK_IO_POOL;
    io->state = pool;
    return STATUS_OK;
}
