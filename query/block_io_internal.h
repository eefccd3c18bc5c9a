/*
 * block_io_internal.h - what block_io.c and its two back ends share.
 *
 * A read is a `struct block_io_request` in a slot; back ends speak of slot numbers. The slot table
 * and its free list belong to the owner thread; the pool hands single requests to its threads under
 * its lock.
 */
#ifndef NIGHTJAR_QUERY_BLOCK_IO_INTERNAL_H
#define NIGHTJAR_QUERY_BLOCK_IO_INTERNAL_H

#include <stdatomic.h>

#include "query/block_io.h"

enum { BLOCK_IO_DEPTH_MAX = 4096, BLOCK_IO_DESCRIPTION_BYTES = 192 };

struct block_io_request {
    uint64_t offset;
    uint64_t tag;
    void *buffer;
    uint32_t bytes;
    int fd;
    int result;       /* the pool's threads leave it here */
    bool in_flight;   /* queued, and its completion not handed out yet */
    uint64_t done_ns; /* when it completed, if a fault hook keeps it back */
};

/*
 * Wakes the owner without a system call unless it sleeps. One atomic word, changed only by
 * read-modify-write operations, so all changes are in one order and none is lost:
 *
 * - AWAKE -> SLEEPING: the owner, before it sleeps
 * - any -> WOKEN: a waker; the one that replaced SLEEPING writes the eventfd
 * - any -> AWAKE: the owner, when it returns
 *
 * A waker that comes before the owner's step to SLEEPING makes that step fail; one that comes after
 * writes the eventfd, which the owner's wait includes. A late write at worst ends one later wait
 * for nothing. The waker's exchange releases what it wrote before (the work it announces); the
 * owner's exchange acquires it.
 */
struct block_io_wakeup {
    _Atomic uint32_t state;
    int fd; /* eventfd, non-blocking */
};

enum { WAKEUP_AWAKE, WAKEUP_SLEEPING, WAKEUP_WOKEN };

/* Owner: true when it may sleep on `fd` now; false when it was woken since it last returned. */
bool block_io_wakeup_may_sleep(struct block_io_wakeup *wakeup);
/* Owner: a waiting poll returns; what woke it is taken note of. */
void block_io_wakeup_awake(struct block_io_wakeup *wakeup);
/* Any thread, signal handlers too. */
void block_io_wakeup_wake(struct block_io_wakeup *wakeup);

struct block_io;

struct block_io_backend {
    /* Takes note of the read in `slot`; the next poll starts it. Cannot fail: there is room for
     * `depth`. */
    void (*queue)(struct block_io *io, uint32_t slot);
    size_t (*poll)(struct block_io *io, bool wait, uint64_t timeout_ns,
                   struct block_completion *out, size_t max);
    /* Asks for an early end of the read in `slot`, which is in flight; of all of them. */
    void (*cancel)(struct block_io *io, uint32_t slot);
    void (*cancel_all)(struct block_io *io);
    /* Frees the back end's state; nothing is in flight. */
    void (*destroy)(struct block_io *io);
};

struct block_io {
    const struct block_io_backend *backend;
    void *state; /* the back end's */
    enum block_io_kind kind;
    uint32_t depth;
    uint32_t free_count;
    uint32_t *free_slots;              /* stack of free_count slots */
    struct block_io_request *requests; /* depth */
    const char *buffers;
    size_t buffers_bytes;
    int file; /* block_io_params.file */
    const struct block_io_faults *faults;
    uint32_t *held; /* slots that a fault hook keeps back; room for depth where there is the hook */
    uint32_t held_count;
    struct block_io_wakeup wakeup;
    char description[BLOCK_IO_DESCRIPTION_BYTES];
};

/* Owner: passes a result through the fault hooks, frees the slot and fills *out. False when a hook
 * keeps the completion back. */
bool block_io_finish(struct block_io *io, uint32_t slot, int result, struct block_completion *out);

/* Each sets backend, state, kind and description of *io, whose other fields are filled. On failure
 * nothing is left behind. */
NODISCARD enum status block_io_uring_open(struct block_io *io, struct error *err);
NODISCARD enum status block_io_pool_open(struct block_io *io, struct error *err);

#endif
