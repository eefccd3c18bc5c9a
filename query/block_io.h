/*
 * block_io.h - asynchronous block reads for one worker thread.
 *
 * The only file pair that knows io_uring (block_io_uring.c) and its stand-in, a pread thread pool
 * (block_io_pool.c), for kernels or containers that refuse io_uring. Everything but block_io_wake()
 * is called by the one thread that created the object.
 */
#ifndef NIGHTJAR_QUERY_BLOCK_IO_H
#define NIGHTJAR_QUERY_BLOCK_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum block_io_kind {
    BLOCK_IO_AUTO = 0, /* io_uring, or the pool when the kernel refuses (EPERM, ENOSYS, ...), the
                          reason kept in the description; NIGHTJAR_IO=uring|pool overrides */
    BLOCK_IO_URING,
    BLOCK_IO_POOL,
};

/* Fault injection below the ring, for tests; NULL in production. Called on the owner's thread; each
 * hook may be NULL. */
struct block_io_faults {
    /* For each completed read: may rewrite the result (bytes or -errno) and the buffer. */
    int (*on_read)(void *context, uint64_t offset, void *buffer, uint32_t bytes, int result);
    /* Whether a completed read is kept back: asked when it completes and at every poll after, with
     * the time since, until the answer is no. A waiting poll then asks every millisecond. What is
     * kept back counts as in flight, cannot be cancelled, and is dropped by block_io_drain(). */
    bool (*holds)(void *context, uint64_t offset, uint64_t age_ns);
    /* Before reads are handed to the kernel: 0, or -errno as its refusal. io_uring only. */
    int (*on_submit)(void *context);
    void *context;
};

struct block_io_params {
    enum block_io_kind kind;
    uint32_t depth;       /* most reads in flight, 1..4096 */
    void *buffers;        /* page-aligned pool the reads land in; registered where possible */
    size_t buffers_bytes; /* whole pool */
    int file;             /* registered where possible: reads of it cost less; open for as long as
                           * the ring; -1: none */
    const struct block_io_faults *faults; /* borrowed, may be NULL */
};

struct block_io;

struct block_completion {
    uint64_t tag;
    int result; /* bytes read (may be short), or -errno */
};

/* Creates the ring on the calling thread (SINGLE_ISSUER | DEFER_TASKRUN where the kernel has them,
 * then COOP_TASKRUN, then plain). A refusal under BLOCK_IO_URING is STATUS_UNSUPPORTED with the
 * reason and remedy; RLIMIT_MEMLOCK too low for registered buffers falls back to unregistered. */
NODISCARD enum status block_io_create(const struct block_io_params *params, struct block_io **out,
                                      struct error *err);
/* block_io_drain(), then frees. NULL is fine. With none in flight, another thread may call it once
 * the owner has ended. */
void block_io_destroy(struct block_io *io);

/* Cancels what can be cancelled and waits for all that was queued or is in flight; the completions
 * are dropped, and no fault hook is called from here on. A read that the kernel neither completes
 * nor cancels is waited for without limit: it may still write into its buffer. */
void block_io_drain(struct block_io *io);

/* What is in use: BLOCK_IO_URING or BLOCK_IO_POOL, and its features in words: "io_uring
 * single-issuer defer-taskrun fixed-buffers fixed-file", "io_uring ... plain-buffers
 * (RLIMIT_MEMLOCK 64 KiB too low)", "pread-pool threads=32 (io_uring refused: ...)". Under 192
 * bytes; lives as long as `io`. */
enum block_io_kind block_io_kind_of(const struct block_io *io);
const char *block_io_description(const struct block_io *io);

/* Queues a read of `bytes` (1..INT_MAX) at `offset` of `fd` into `buffer` (inside the pool). Not
 * submitted until the next block_io_poll(). False when `depth` reads are queued or in flight. `fd`
 * and `buffer` must stay valid until the completion. */
NODISCARD bool block_io_read(struct block_io *io, int fd, uint64_t offset, void *buffer,
                             uint32_t bytes, uint64_t tag);

/* Asks that the reads in flight with this tag complete early, with -ECANCELED. A wish: one that the
 * device works on is not interrupted. Each read has its completion all the same, and its buffer is
 * the kernel's until then. Submitted by the next block_io_poll(). */
void block_io_cancel(struct block_io *io, uint64_t tag);

/* Submits what is queued and returns up to `max` completions. With `wait`, sleeps until there is
 * at least one completion, or block_io_wake() was called since the last return, or timeout_ns
 * passed (UINT64_MAX: none). May return 0, for a signal or a late wake-up too. Completions come in
 * any order. Errors and short reads are results, never retried here. What the kernel refuses to
 * take for now (no memory) stays queued for the next poll. Without `wait`: no system call when
 * nothing is queued and nothing completed, otherwise at most one (io_uring). Allocates nothing. */
size_t block_io_poll(struct block_io *io, bool wait, uint64_t timeout_ns,
                     struct block_completion *out, size_t max);

/* Makes the owner's present or next waiting block_io_poll() return. What the caller wrote before is
 * visible to the owner after that return. A system call only when the owner may be asleep. Any
 * thread; async-signal-safe. */
void block_io_wake(struct block_io *io);

#endif
