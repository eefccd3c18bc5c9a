/*
 * block_io_uring.c - reads through io_uring. The only file that includes liburing.h.
 *
 * Why deferred task work: with SINGLE_ISSUER | DEFER_TASKRUN a completion costs no interrupt of the
 * worker; it is picked up when the worker asks. TASKRUN_FLAG makes the kernel show in shared memory
 * that there is something to pick up, so a poll that has nothing to submit and nothing to fetch
 * makes no system call, and every other poll makes one.
 *
 * Why a multishot poll on the eventfd for wake-ups, not a read: it stays armed, writes no memory of
 * ours (so nothing can land after destroy), and needs no drain: each write of the eventfd ends a
 * wait, whatever its counter says.
 *
 * The one registered file is the one that the ring was opened with: its owner promises that it
 * stays open, so the table cannot hold a file that everyone else has closed.
 *
 * Threads: all calls on the thread that opened the ring.
 */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "query/block_io_internal.h"

/* user_data of completions that are no reads; slots are 32 bits. liburing's own is UINT64_MAX. */
#define WAKE_DATA   (UINT64_MAX - 1)
#define CANCEL_DATA (UINT64_MAX - 2)

enum {
    SPARE_ENTRIES = 2, /* the wake-up poll and liburing's timeout on kernels before 5.11 */
    NS_PER_S = 1000000000,
    REFUSED_PAUSE_NS = 1000000, /* before the kernel is offered again what it refused */
};

struct uring {
    struct io_uring ring;
    bool fixed_buffers;
    bool fixed_file;
    bool wake_armed;
};

struct ring_mode {
    unsigned flags;
    const char *name;
};

/* Best first. Kernels 6.1, 5.19, and any. */
static const struct ring_mode ring_modes[] = {
    {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
         IORING_SETUP_SUBMIT_ALL,
     "single-issuer defer-taskrun"},
    {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
     "coop-taskrun"},
    {0, "plain"},
};

static void uring_queue(struct block_io *io, uint32_t slot)
{
    struct uring *uring = io->state;
    const struct block_io_request *request = &io->requests[slot];
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    assert(sqe); /* the ring has an entry for each of `depth` slots */
    bool registered = uring->fixed_file && request->fd == io->file;
    int fd = registered ? 0 : request->fd; /* its place in the table of one */
    if (uring->fixed_buffers)
        io_uring_prep_read_fixed(sqe, fd, request->buffer, request->bytes, request->offset, 0);
    else
        io_uring_prep_read(sqe, fd, request->buffer, request->bytes, request->offset);
    if (registered)
        io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, slot);
}

static void uring_arm_wake(struct uring *uring, int fd)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (!sqe)
        return; /* the next poll arms it; nothing sleeps on an unarmed ring */
    io_uring_prep_poll_multishot(sqe, fd, POLLIN);
    io_uring_sqe_set_data64(sqe, WAKE_DATA);
    uring->wake_armed = true;
}

/* Takes completions that lie in the ring, at most `max` reads. No system call. */
static size_t uring_drain(struct block_io *io, struct block_completion *out, size_t max)
{
    struct uring *uring = io->state;
    struct io_uring_cqe *cqe;
    unsigned head, taken = 0;
    size_t count = 0;
    io_uring_for_each_cqe(&uring->ring, head, cqe)
    {
        if (cqe->user_data == WAKE_DATA) {
            if (!(cqe->flags & IORING_CQE_F_MORE))
                uring->wake_armed = false;
        } else if (cqe->user_data != LIBURING_UDATA_TIMEOUT && cqe->user_data != CANCEL_DATA) {
            if (count == max)
                break;
            count += block_io_finish(io, (uint32_t)cqe->user_data, cqe->res, &out[count]);
        }
        taken++;
    }
    io_uring_cq_advance(&uring->ring, taken);
    return count;
}

/* Has the kernel completions that only a call will bring into the ring? */
static bool uring_needs_call(const struct uring *uring)
{
    unsigned flags = __atomic_load_n(uring->ring.sq.kflags, __ATOMIC_RELAXED);
    return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

static struct __kernel_timespec timespec_of(uint64_t ns)
{
    return (struct __kernel_timespec){.tv_sec = (int64_t)(ns / NS_PER_S),
                                      .tv_nsec = (int64_t)(ns % NS_PER_S)};
}

/* Submits and sleeps for one completion. */
static int uring_sleep(struct uring *uring, uint64_t timeout_ns)
{
    if (timeout_ns == UINT64_MAX)
        return io_uring_submit_and_wait(&uring->ring, 1);
    struct io_uring_cqe *cqe;
    struct __kernel_timespec timeout = timespec_of(timeout_ns);
    return io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &timeout, NULL);
}

/* The kernel has no memory for requests, or wants completions to be taken first. What was not
 * submitted stays in the ring for the next poll; a worker that asked at once would spin. */
static void uring_pause(struct uring *uring)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec pause = timespec_of(REFUSED_PAUSE_NS);
    io_uring_wait_cqes(&uring->ring, &cqe, 1, &pause, NULL);
}

/* The one system call of a poll, where it needs one. Other errors (a signal, the timeout) need no
 * handling. */
static void uring_enter(struct block_io *io, bool sleeps, uint64_t timeout_ns, bool fetch)
{
    struct uring *uring = io->state;
    bool submits = io_uring_sq_ready(&uring->ring) > 0;
    int rc = 0;
    if (UNLIKELY(io->faults && io->faults->on_submit) && submits)
        rc = io->faults->on_submit(io->faults->context);
    if (rc == 0 && sleeps)
        rc = uring_sleep(uring, timeout_ns);
    else if (rc == 0 && submits)
        rc = io_uring_submit_and_get_events(&uring->ring);
    else if (rc == 0 && fetch)
        rc = io_uring_get_events(&uring->ring);
    if (UNLIKELY(sleeps && (rc == -EAGAIN || rc == -EBUSY || rc == -ENOMEM)))
        uring_pause(uring);
}

static size_t uring_poll(struct block_io *io, bool wait, uint64_t timeout_ns,
                         struct block_completion *out, size_t max)
{
    struct uring *uring = io->state;
    size_t count = uring_drain(io, out, max);
    if (UNLIKELY(!uring->wake_armed))
        uring_arm_wake(uring, io->wakeup.fd);
    bool sleeps = wait && count == 0 && uring->wake_armed && block_io_wakeup_may_sleep(&io->wakeup);
    uring_enter(io, sleeps, timeout_ns, count == 0 && uring_needs_call(uring));
    if (wait)
        block_io_wakeup_awake(&io->wakeup);
    return count + uring_drain(io, out + count, max - count);
}

/* Leaves the ring room for every read that may still be queued, and for the spare entries. */
static void uring_cancel(struct block_io *io, uint32_t slot)
{
    struct uring *uring = io->state;
    if (io_uring_sq_space_left(&uring->ring) <= io->free_count + SPARE_ENTRIES)
        return;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    io_uring_prep_cancel64(sqe, slot, 0);
    io_uring_sqe_set_data64(sqe, CANCEL_DATA);
}

/* Kernels before 5.19 cannot: then what is in flight ends by itself. */
static void uring_cancel_all(struct block_io *io)
{
    struct uring *uring = io->state;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (!sqe) {
        io_uring_submit(&uring->ring);
        sqe = io_uring_get_sqe(&uring->ring);
    }
    if (!sqe)
        return;
    io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
    io_uring_sqe_set_data64(sqe, CANCEL_DATA);
}

static void uring_destroy(struct block_io *io)
{
    struct uring *uring = io->state;
    io_uring_queue_exit(&uring->ring);
    free(uring);
    io->state = NULL;
}

static const struct block_io_backend uring_backend = {
    .queue = uring_queue,
    .poll = uring_poll,
    .cancel = uring_cancel,
    .cancel_all = uring_cancel_all,
    .destroy = uring_destroy,
};

static enum status uring_refused(int os_error, struct error *err)
{
    const char *remedy = "";
    if (os_error == EPERM || os_error == EACCES)
        remedy = "; allow it in the seccomp profile or set kernel.io_uring_disabled=0";
    else if (os_error == ENOSYS || os_error == EINVAL)
        remedy = "; needs Linux 5.13 or newer with CONFIG_IO_URING";
    else if (os_error == ENOMEM)
        remedy = "; raise RLIMIT_MEMLOCK";
    char reason[128];
    return error_set(err, STATUS_UNSUPPORTED, "io_uring refused: %s%s",
                     strerror_r(os_error, reason, sizeof(reason)), remedy);
}

/* Opens the ring in the best mode that the kernel takes. */
static enum status uring_setup(struct uring *uring, uint32_t depth, const struct ring_mode **mode,
                               struct error *err)
{
    int rc = -EINVAL;
    for (size_t i = 0; i < ARRAY_LENGTH(ring_modes) && rc == -EINVAL; i++) {
        *mode = &ring_modes[i];
        rc = io_uring_queue_init(depth + SPARE_ENTRIES, &uring->ring, ring_modes[i].flags);
    }
    return rc == 0 ? STATUS_OK : uring_refused(-rc, err);
}

/* Registering pins the pages once instead of at each read. Says in `words` why it could not. */
static bool uring_register_buffers(struct uring *uring, const struct block_io *io, char *words,
                                   size_t words_bytes)
{
    struct iovec pool = {.iov_base = (void *)(uintptr_t)io->buffers, .iov_len = io->buffers_bytes};
    int rc = io_uring_register_buffers(&uring->ring, &pool, 1);
    struct rlimit limit;
    char reason[64];
    if (rc == 0)
        snprintf(words, words_bytes, "fixed-buffers");
    else if (rc == -ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0)
        snprintf(words, words_bytes, "plain-buffers (RLIMIT_MEMLOCK %llu KiB too low)",
                 (unsigned long long)limit.rlim_cur / 1024);
    else
        snprintf(words, words_bytes, "plain-buffers (%s)", strerror_r(-rc, reason, sizeof(reason)));
    return rc == 0;
}

enum status block_io_uring_open(struct block_io *io, struct error *err)
{
    struct uring *uring = calloc(1, sizeof(*uring));
    if (!uring)
        return error_set(err, STATUS_NO_MEMORY, "io_uring: no memory");
    const struct ring_mode *mode = NULL;
    enum status status = uring_setup(uring, io->depth, &mode, err);
    if (status != STATUS_OK)
        goto out_free;
    /* Submitted here so that a kernel without multishot polls shows itself now, not at a wake-up.
     */
    uring_arm_wake(uring, io->wakeup.fd);
    int rc = io_uring_submit_and_get_events(&uring->ring);
    struct io_uring_cqe *cqe;
    if (rc >= 0 && io_uring_peek_cqe(&uring->ring, &cqe) == 0)
        rc = cqe->res;
    if (rc < 0) {
        status = uring_refused(-rc, err);
        goto out_exit;
    }
    char buffers_words[96];
    uring->fixed_buffers = uring_register_buffers(uring, io, buffers_words, sizeof(buffers_words));
    /* Saves the lookup of the ring's own descriptor at each call; nothing is lost without. */
    (void)io_uring_register_ring_fd(&uring->ring);
    uring->fixed_file = io->file >= 0 && io_uring_register_files(&uring->ring, &io->file, 1) == 0;
    snprintf(io->description, sizeof(io->description), "io_uring %s %s%s", mode->name,
             buffers_words, uring->fixed_file ? " fixed-file" : "");
    io->backend = &uring_backend;
    io->kind = BLOCK_IO_URING;
    io->state = uring;
    return STATUS_OK;
out_exit:
    io_uring_queue_exit(&uring->ring);
out_free:
    free(uring);
    return status;
}
