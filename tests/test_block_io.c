/*
 * test_block_io.c - the claims of query/block_io.h, each for io_uring and for the pread pool.
 *
 * Refusals of the kernel are real: a seccomp filter on io_uring_setup(), a lowered RLIMIT_MEMLOCK
 * without CAP_IPC_LOCK. Both are set on a thread of their own, which inherits nothing to the
 * others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "query/block_io.h"
#include "tests/directory_fixture.h"

enum { BLOCK = 4096, FILE_BLOCKS = 64, TAIL_BYTES = 100, DEPTH = 16 };

static const uint64_t FOREVER = UINT64_MAX;

/* One back end under test, a file of FILE_BLOCKS known blocks and a short tail, and buffers. */
struct bench {
    enum block_io_kind kind;
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[300];
    int fd;       /* O_DIRECT where the file system has it */
    int plain_fd; /* buffered: the tail is no whole sector */
    unsigned char *buffers;
    struct block_io *io;
    struct error err;
};

static unsigned char file_byte(uint64_t offset)
{
    return (unsigned char)((offset / BLOCK * 31 + offset * 7) & 0xff);
}

static void file_write(const char *path)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (uint64_t i = 0; i < (uint64_t)FILE_BLOCKS * BLOCK + TAIL_BYTES; i++)
        assert_int_not_equal(fputc(file_byte(i), file), EOF);
    assert_int_equal(fclose(file), 0);
}

static int bench_setup(void **state, enum block_io_kind kind)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    assert_non_null(bench);
    bench->kind = kind;
    assert_int_equal(directory_fixture_create(bench->directory), 0);
    snprintf(bench->path, sizeof(bench->path), "%s/blocks", bench->directory);
    file_write(bench->path);
    bench->plain_fd = open(bench->path, O_RDONLY | O_CLOEXEC);
    assert_true(bench->plain_fd >= 0);
    bench->fd = open(bench->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (bench->fd < 0) /* tmpfs before Linux 6.6 */
        bench->fd = open(bench->path, O_RDONLY | O_CLOEXEC);
    assert_true(bench->fd >= 0);
    assert_int_equal(posix_memalign((void **)&bench->buffers, BLOCK, (size_t)DEPTH * BLOCK), 0);
    memset(bench->buffers, 0, (size_t)DEPTH * BLOCK);
    *state = bench;
    return 0;
}

static int setup_uring(void **state)
{
    return bench_setup(state, BLOCK_IO_URING);
}

static int setup_pool(void **state)
{
    return bench_setup(state, BLOCK_IO_POOL);
}

static int teardown(void **state)
{
    struct bench *bench = *state;
    block_io_destroy(bench->io);
    close(bench->fd);
    close(bench->plain_fd);
    int result = directory_fixture_remove(bench->directory);
    free(bench->buffers);
    free(bench);
    return result;
}

static struct block_io_params bench_params(const struct bench *bench, uint32_t depth)
{
    return (struct block_io_params){.kind = bench->kind,
                                    .depth = depth,
                                    .buffers = bench->buffers,
                                    .buffers_bytes = (size_t)DEPTH * BLOCK,
                                    /* half the rings have the file registered */
                                    .file = depth % 2 == 0 ? bench->fd : -1};
}

/* Skips the test where the kernel of the test machine refuses io_uring. */
static void bench_open(struct bench *bench, uint32_t depth, const struct block_io_faults *faults)
{
    struct block_io_params params = bench_params(bench, depth);
    params.faults = faults;
    enum status status = block_io_create(&params, &bench->io, &bench->err);
    if (status == STATUS_UNSUPPORTED && bench->kind == BLOCK_IO_URING) {
        print_message("%s\n", bench->err.text);
        skip();
    }
    assert_int_equal(status, STATUS_OK);
    assert_int_equal(block_io_kind_of(bench->io), bench->kind);
}

static unsigned char *buffer_at(const struct bench *bench, uint32_t index)
{
    return bench->buffers + (size_t)index * BLOCK;
}

static void read_block(struct bench *bench, int fd, uint64_t block, uint32_t buffer)
{
    assert_true(
        block_io_read(bench->io, fd, block * BLOCK, buffer_at(bench, buffer), BLOCK, block));
}

/* Waits for exactly one completion: polls may return early with none. */
static struct block_completion wait_one(struct bench *bench)
{
    struct block_completion completion;
    while (block_io_poll(bench->io, true, FOREVER, &completion, 1) == 0)
        ;
    return completion;
}

static void assert_block(const unsigned char *buffer, uint64_t offset, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(buffer[i], file_byte(offset + i));
}

static void reads_return_the_bytes_of_the_file(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, DEPTH, NULL);
    bool seen[FILE_BLOCKS] = {false};
    uint64_t next = 0;
    size_t done = 0;
    /* A buffer is named by its block: block b lies in buffer b % DEPTH, reused when b is back. */
    while (next < DEPTH) {
        read_block(bench, bench->fd, next, (uint32_t)next);
        next++;
    }
    while (done < FILE_BLOCKS) {
        struct block_completion completions[4];
        size_t count = block_io_poll(bench->io, true, FOREVER, completions, 4);
        assert_true(count <= 4);
        for (size_t i = 0; i < count; i++) {
            uint64_t block = completions[i].tag;
            assert_true(block < FILE_BLOCKS && !seen[block]);
            seen[block] = true;
            assert_int_equal(completions[i].result, BLOCK);
            assert_block(buffer_at(bench, (uint32_t)(block % DEPTH)), block * BLOCK, BLOCK);
            done++;
            if (block + DEPTH < FILE_BLOCKS)
                read_block(bench, bench->fd, block + DEPTH, (uint32_t)(block % DEPTH));
        }
    }
}

static void polling_without_waiting_completes_reads_too(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, DEPTH, NULL);
    read_block(bench, bench->fd, 5, 0);
    struct block_completion completion;
    while (block_io_poll(bench->io, false, 0, &completion, 1) == 0)
        ;
    assert_int_equal(completion.tag, 5);
    assert_int_equal(completion.result, BLOCK);
    assert_block(buffer_at(bench, 0), 5 * BLOCK, BLOCK);
    assert_int_equal(block_io_poll(bench->io, false, 0, &completion, 1), 0);
}

static void depth_limits_the_reads_in_flight(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, 3, NULL);
    for (uint32_t i = 0; i < 3; i++)
        read_block(bench, bench->fd, i, i);
    assert_false(block_io_read(bench->io, bench->fd, 0, buffer_at(bench, 3), BLOCK, 3));
    struct block_completion first = wait_one(bench);
    read_block(bench, bench->fd, 9, (uint32_t)first.tag);
    assert_false(block_io_read(bench->io, bench->fd, 0, buffer_at(bench, 3), BLOCK, 3));
    for (int i = 0; i < 3; i++)
        assert_int_equal(wait_one(bench).result, BLOCK);
}

static void a_wait_without_reads_ends_at_its_timeout(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, DEPTH, NULL);
    struct block_completion completion;
    assert_int_equal(block_io_poll(bench->io, true, 2000000, &completion, 1), 0);
    assert_int_equal(block_io_poll(bench->io, true, 0, &completion, 1), 0);
}

static void a_wake_before_the_wait_ends_it(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, DEPTH, NULL);
    struct block_completion completion;
    block_io_wake(bench->io);
    /* A poll that does not wait leaves the wake-up for the next that does. */
    assert_int_equal(block_io_poll(bench->io, false, 0, &completion, 1), 0);
    assert_int_equal(block_io_poll(bench->io, true, FOREVER, &completion, 1), 0);
}

struct ping {
    struct block_io *io;
    _Atomic uint32_t sent, answered;
};

enum { PINGS = 2000 };

/* Each ping is sent only after the last was answered, so a lost wake-up hangs the test. */
static void *ping_main(void *context)
{
    struct ping *ping = context;
    for (uint32_t i = 1; i <= PINGS; i++) {
        atomic_store_explicit(&ping->sent, i, memory_order_relaxed);
        block_io_wake(ping->io);
        while (atomic_load_explicit(&ping->answered, memory_order_acquire) != i)
            sched_yield();
    }
    return NULL;
}

static void no_wake_from_another_thread_is_lost(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, DEPTH, NULL);
    struct ping ping = {.io = bench->io};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ping_main, &ping), 0);
    uint32_t answered = 0;
    size_t reads = 0;
    while (answered < PINGS) {
        struct block_completion completion;
        /* Reads in between: completions and wake-ups must not eat one another. */
        if (answered % 3 == 0 && reads == 0) {
            read_block(bench, bench->plain_fd, answered % FILE_BLOCKS, 0);
            reads++;
        }
        reads -= block_io_poll(bench->io, true, FOREVER, &completion, 1);
        uint32_t sent = atomic_load_explicit(&ping.sent, memory_order_relaxed);
        if (sent != answered) {
            answered = sent;
            atomic_store_explicit(&ping.answered, answered, memory_order_release);
        }
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    while (reads > 0) {
        assert_int_equal(wait_one(bench).result, BLOCK);
        reads--;
    }
}

static void a_read_at_the_end_of_the_file_is_short(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, DEPTH, NULL);
    read_block(bench, bench->plain_fd, FILE_BLOCKS, 0);
    assert_int_equal(wait_one(bench).result, TAIL_BYTES);
    assert_block(buffer_at(bench, 0), (uint64_t)FILE_BLOCKS * BLOCK, TAIL_BYTES);
    read_block(bench, bench->plain_fd, FILE_BLOCKS + 1, 0);
    assert_int_equal(wait_one(bench).result, 0);
}

static void a_bad_descriptor_fails_only_its_own_read(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, DEPTH, NULL);
    int closed = dup(bench->fd);
    assert_true(closed >= 0);
    close(closed);
    read_block(bench, closed, 1, 0);
    read_block(bench, bench->fd, 2, 1);
    for (int i = 0; i < 2; i++) {
        struct block_completion completion = wait_one(bench);
        assert_int_equal(completion.result, completion.tag == 1 ? -EBADF : BLOCK);
    }
    assert_block(buffer_at(bench, 1), 2 * BLOCK, BLOCK);
}

static int fault_on_block_one(void *context, uint64_t offset, void *buffer, uint32_t bytes,
                              int result)
{
    int *calls = context;
    ++*calls;
    assert_int_equal(bytes, BLOCK);
    if (offset == 1 * BLOCK)
        return -EIO;
    if (offset == 2 * BLOCK)
        ((unsigned char *)buffer)[17] ^= 0x40;
    return result;
}

static void the_fault_hook_rewrites_results_and_bytes(void **state)
{
    struct bench *bench = *state;
    int calls = 0;
    struct block_io_faults faults = {.on_read = fault_on_block_one, .context = &calls};
    bench_open(bench, DEPTH, &faults);
    for (uint32_t i = 0; i < 3; i++)
        read_block(bench, bench->fd, i, i);
    for (int i = 0; i < 3; i++) {
        struct block_completion completion = wait_one(bench);
        assert_int_equal(completion.result, completion.tag == 1 ? -EIO : BLOCK);
    }
    assert_int_equal(calls, 3);
    assert_block(buffer_at(bench, 0), 0, BLOCK);
    assert_int_equal(buffer_at(bench, 2)[17], file_byte(2 * BLOCK + 17) ^ 0x40);
}

/* ---- faults in time; cancelling ---- */

struct holder {
    bool holds;
    uint64_t refuses_until_ns; /* submissions */
    int refusal;
    uint32_t asked;
};

static bool holder_holds(void *context, uint64_t offset, uint64_t age_ns)
{
    struct holder *holder = context;
    (void)age_ns;
    holder->asked++;
    return holder->holds && offset == BLOCK;
}

static int holder_on_submit(void *context)
{
    struct holder *holder = context;
    holder->asked++;
    return clock_monotonic_ns() < holder->refuses_until_ns ? holder->refusal : 0;
}

static void a_held_completion_comes_when_it_is_let_go(void **state)
{
    struct bench *bench = *state;
    struct holder holder = {.holds = true};
    const struct block_io_faults faults = {.holds = holder_holds, .context = &holder};
    bench_open(bench, 3, &faults);
    for (uint32_t i = 0; i < 3; i++)
        read_block(bench, bench->fd, i, i);
    /* The others are not held up, and come once. */
    assert_int_equal(wait_one(bench).tag + wait_one(bench).tag, 0 + 2);
    struct block_completion completion;
    while (holder.asked < 20)
        assert_int_equal(block_io_poll(bench->io, true, FOREVER, &completion, 1), 0);
    block_io_cancel(bench->io, 1); /* nothing to cancel: the device is what hangs */
    assert_int_equal(block_io_poll(bench->io, true, FOREVER, &completion, 1), 0);
    /* It is in flight all the while. */
    read_block(bench, bench->fd, 5, 0);
    read_block(bench, bench->fd, 6, 2);
    assert_false(block_io_read(bench->io, bench->fd, 0, buffer_at(bench, 3), BLOCK, 3));
    assert_int_equal(wait_one(bench).tag + wait_one(bench).tag, 5 + 6);
    holder.holds = false;
    completion = wait_one(bench);
    assert_int_equal(completion.tag, 1);
    assert_int_equal(completion.result, BLOCK);
    assert_block(buffer_at(bench, 1), BLOCK, BLOCK);
    assert_int_equal(block_io_poll(bench->io, false, 0, &completion, 1), 0);
}

static void draining_drops_what_is_held_and_what_is_queued(void **state)
{
    struct bench *bench = *state;
    struct holder holder = {.holds = true};
    const struct block_io_faults faults = {.holds = holder_holds, .context = &holder};
    bench_open(bench, DEPTH, &faults);
    read_block(bench, bench->fd, 1, 1);
    struct block_completion completion;
    while (holder.asked == 0)
        (void)block_io_poll(bench->io, true, FOREVER, &completion, 1);
    read_block(bench, bench->fd, 2, 2);
    block_io_drain(bench->io);
    assert_int_equal(block_io_poll(bench->io, false, 0, &completion, 1), 0);
    for (uint32_t i = 0; i < DEPTH; i++) /* all slots are free again */
        read_block(bench, bench->fd, i, i);
    for (uint32_t i = 0; i < DEPTH; i++)
        assert_int_equal(wait_one(bench).result, BLOCK);
}

static void a_refused_submission_goes_out_later(void **state)
{
    struct bench *bench = *state;
    static const int refusals[] = {-EAGAIN, -EBUSY, -ENOMEM};
    for (size_t i = 0; i < ARRAY_LENGTH(refusals); i++) {
        struct holder holder = {.refusal = refusals[i]};
        const struct block_io_faults faults = {.on_submit = holder_on_submit, .context = &holder};
        bench_open(bench, DEPTH, &faults);
        for (uint32_t block = 0; block < DEPTH; block++)
            read_block(bench, bench->fd, block, block);
        holder.refuses_until_ns = clock_monotonic_ns() + 20000000;
        for (uint32_t done = 0; done < DEPTH; done++) {
            struct block_completion completion = wait_one(bench);
            assert_int_equal(completion.result, BLOCK);
            assert_block(buffer_at(bench, (uint32_t)completion.tag), completion.tag * BLOCK, BLOCK);
        }
        assert_in_range(holder.asked, 2, 100); /* it pauses between tries */
        block_io_destroy(bench->io);
        bench->io = NULL;
    }
}

/* A read of an empty pipe ends only when it is cancelled. */
static void a_read_that_waits_is_cancelled(void **state)
{
    struct bench *bench = *state;
    int ends[2];
    bench_open(bench, DEPTH, NULL);
    assert_int_equal(pipe(ends), 0);
    read_block(bench, ends[0], 1, 1);
    read_block(bench, ends[0], 2, 2);
    read_block(bench, bench->fd, 3, 3);
    assert_int_equal(wait_one(bench).tag, 3);
    block_io_cancel(bench->io, 7); /* nobody's */
    block_io_cancel(bench->io, 2);
    struct block_completion completion = wait_one(bench);
    assert_int_equal(completion.tag, 2);
    assert_int_equal(completion.result, -ECANCELED);
    assert_int_equal(block_io_poll(bench->io, true, 1000000, &completion, 1), 0);
    block_io_destroy(bench->io); /* cancels the other: else it would wait for ever */
    bench->io = NULL;
    close(ends[0]);
    close(ends[1]);
}

static void a_cancelled_read_completes_once_and_leaves_the_others_alone(void **state)
{
    struct bench *bench = *state;
    bool seen[DEPTH] = {false};
    bench_open(bench, DEPTH, NULL);
    for (uint32_t i = 0; i < DEPTH; i++)
        read_block(bench, bench->fd, i, i);
    block_io_cancel(bench->io, 3);
    for (uint32_t i = 0; i < DEPTH; i++) {
        struct block_completion completion = wait_one(bench);
        assert_false(seen[completion.tag % DEPTH]);
        seen[completion.tag % DEPTH] = true;
        if (completion.tag == 3 && (completion.result < 0 || bench->kind == BLOCK_IO_POOL))
            assert_int_equal(completion.result, -ECANCELED);
        else
            assert_int_equal(completion.result, BLOCK);
    }
}

static void destroy_waits_for_reads_in_flight(void **state)
{
    struct bench *bench = *state;
    bench_open(bench, DEPTH, NULL);
    for (uint32_t i = 0; i < DEPTH / 2; i++)
        read_block(bench, bench->fd, i, i);
    struct block_completion completion;
    (void)block_io_poll(bench->io, false, 0, &completion, 0);
    for (uint32_t i = DEPTH / 2; i < DEPTH; i++) /* never submitted */
        read_block(bench, bench->fd, i, i);
    block_io_wake(bench->io);
    block_io_destroy(bench->io);
    bench->io = NULL;
    /* A late write of the kernel or a thread would show here (or to AddressSanitizer). */
    memset(bench->buffers, 0xee, (size_t)DEPTH * BLOCK);
    for (size_t i = 0; i < (size_t)DEPTH * BLOCK; i++)
        assert_int_equal(bench->buffers[i], 0xee);
}

static void bad_parameters_are_refused(void **state)
{
    struct bench *bench = *state;
    struct block_io *io = NULL;
    struct block_io_params params = bench_params(bench, 0);
    assert_int_equal(block_io_create(&params, &io, &bench->err), STATUS_INVALID);
    params = bench_params(bench, 4097);
    assert_int_equal(block_io_create(&params, &io, &bench->err), STATUS_INVALID);
    params = bench_params(bench, 1);
    params.buffers = bench->buffers + 1;
    assert_int_equal(block_io_create(&params, &io, &bench->err), STATUS_INVALID);
    assert_null(io);
    block_io_destroy(NULL);
}

static void the_environment_settles_auto(void **state)
{
    struct bench *bench = *state;
    bench->kind = BLOCK_IO_AUTO;
    struct block_io_params params = bench_params(bench, DEPTH);
    setenv("NIGHTJAR_IO", "pool", 1);
    assert_int_equal(block_io_create(&params, &bench->io, &bench->err), STATUS_OK);
    assert_int_equal(block_io_kind_of(bench->io), BLOCK_IO_POOL);
    struct block_io *other = NULL;
    setenv("NIGHTJAR_IO", "fast", 1);
    assert_int_equal(block_io_create(&params, &other, &bench->err), STATUS_INVALID);
    assert_non_null(strstr(bench->err.text, "NIGHTJAR_IO=fast"));
    unsetenv("NIGHTJAR_IO");
}

/* What a test thread found; asserted by the main thread, for cmocka's assertions belong there. */
struct finding {
    struct bench *bench;
    enum block_io_kind kind;
    bool prepared; /* the refusal could be set up */
    enum status status;
    enum block_io_kind got;
    char description[256];
    struct block_completion completion;
};

static void finding_read(struct finding *finding)
{
    struct bench *bench = finding->bench;
    struct block_io_params params = bench_params(bench, DEPTH);
    params.kind = finding->kind;
    struct block_io *io = NULL;
    finding->status = block_io_create(&params, &io, &bench->err);
    if (finding->status != STATUS_OK)
        return;
    finding->got = block_io_kind_of(io);
    snprintf(finding->description, sizeof(finding->description), "%s", block_io_description(io));
    if (block_io_read(io, bench->fd, 3 * BLOCK, bench->buffers, BLOCK, 3))
        while (block_io_poll(io, true, FOREVER, &finding->completion, 1) == 0)
            ;
    block_io_destroy(io);
}

static void finding_run(struct finding *finding, void *(*start)(void *))
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, start, finding), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (!finding->prepared)
        skip();
}

static void *refused_main(void *context)
{
    struct finding *finding = context;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_LENGTH(code), .filter = code};
    finding->prepared = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    if (finding->prepared)
        finding_read(finding);
    return NULL;
}

static void auto_falls_back_to_the_pool_when_uring_is_refused(void **state)
{
    struct bench *bench = *state;
    struct finding finding = {.bench = bench, .kind = BLOCK_IO_AUTO};
    finding_run(&finding, refused_main);
    assert_int_equal(finding.status, STATUS_OK);
    assert_int_equal(finding.got, BLOCK_IO_POOL);
    assert_non_null(strstr(finding.description, "io_uring refused: Operation not permitted"));
    assert_int_equal(finding.completion.result, BLOCK);
    assert_block(bench->buffers, 3 * BLOCK, BLOCK);
}

static void uring_by_name_is_an_error_when_refused(void **state)
{
    struct bench *bench = *state;
    struct finding finding = {.bench = bench, .kind = BLOCK_IO_URING};
    finding_run(&finding, refused_main);
    assert_int_equal(finding.status, STATUS_UNSUPPORTED);
    assert_non_null(strstr(bench->err.text, "Operation not permitted"));
}

/* Capabilities are per thread in the kernel; glibc would change all. */
static bool drop_ipc_lock(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &header, data) != 0)
        return false;
    data[CAP_IPC_LOCK / 32].effective &= ~(1u << (CAP_IPC_LOCK % 32));
    return syscall(SYS_capset, &header, data) == 0;
}

static void *unlocked_main(void *context)
{
    struct finding *finding = context;
    finding->prepared = drop_ipc_lock();
    if (finding->prepared)
        finding_read(finding);
    return NULL;
}

/* The limit is the process's, so it is put back before anything is asserted. */
static struct finding finding_with_memlock(struct bench *bench, enum block_io_kind kind,
                                           rlim_t limit_bytes)
{
    struct finding finding = {.bench = bench, .kind = kind};
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &before), 0);
    struct rlimit low = {.rlim_cur = limit_bytes, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &low), 0);
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, unlocked_main, &finding);
    if (rc == 0)
        pthread_join(thread, NULL);
    assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &before), 0);
    assert_int_equal(rc, 0);
    return finding;
}

static void a_low_memlock_limit_leaves_buffers_unregistered(void **state)
{
    struct bench *bench = *state;
    /* Room for a small ring, which newer kernels count too, but not for the buffers. */
    struct finding finding =
        finding_with_memlock(bench, BLOCK_IO_URING, (DEPTH - 4) * (rlim_t)BLOCK);
    if (!finding.prepared || finding.status == STATUS_UNSUPPORTED)
        skip();
    assert_int_equal(finding.status, STATUS_OK);
    assert_int_equal(finding.got, BLOCK_IO_URING);
    assert_non_null(strstr(finding.description, "plain-buffers (RLIMIT_MEMLOCK 48 KiB too low)"));
    assert_int_equal(finding.completion.result, BLOCK);
    assert_block(bench->buffers, 3 * BLOCK, BLOCK);
}

static void reads_work_when_nothing_may_be_locked(void **state)
{
    struct bench *bench = *state;
    struct finding finding = finding_with_memlock(bench, BLOCK_IO_AUTO, 0);
    if (!finding.prepared)
        skip();
    /* Kernels that count the ring refuse it; others leave the buffers unregistered. Both say why.
     */
    assert_int_equal(finding.status, STATUS_OK);
    assert_true(strstr(finding.description, "RLIMIT_MEMLOCK") != NULL ||
                strstr(finding.description, "io_uring refused") != NULL);
    assert_int_equal(finding.completion.result, BLOCK);
    assert_block(bench->buffers, 3 * BLOCK, BLOCK);
}

#define BOTH(test)                                                                                 \
    {"uring_" #test, test, setup_uring, teardown, NULL},                                           \
    {                                                                                              \
        "pool_" #test, test, setup_pool, teardown, NULL                                            \
    }

int main(void)
{
    unsetenv("NIGHTJAR_IO"); /* these tests choose for themselves */
    const struct CMUnitTest tests[] = {
        BOTH(reads_return_the_bytes_of_the_file),
        BOTH(polling_without_waiting_completes_reads_too),
        BOTH(depth_limits_the_reads_in_flight),
        BOTH(a_wait_without_reads_ends_at_its_timeout),
        BOTH(a_wake_before_the_wait_ends_it),
        BOTH(no_wake_from_another_thread_is_lost),
        BOTH(a_read_at_the_end_of_the_file_is_short),
        BOTH(a_bad_descriptor_fails_only_its_own_read),
        BOTH(the_fault_hook_rewrites_results_and_bytes),
        BOTH(a_held_completion_comes_when_it_is_let_go),
        BOTH(draining_drops_what_is_held_and_what_is_queued),
        BOTH(a_cancelled_read_completes_once_and_leaves_the_others_alone),
        cmocka_unit_test_setup_teardown(a_refused_submission_goes_out_later, setup_uring, teardown),
        cmocka_unit_test_setup_teardown(a_read_that_waits_is_cancelled, setup_uring, teardown),
        BOTH(destroy_waits_for_reads_in_flight),
        BOTH(bad_parameters_are_refused),
        cmocka_unit_test_setup_teardown(the_environment_settles_auto, setup_pool, teardown),
        cmocka_unit_test_setup_teardown(auto_falls_back_to_the_pool_when_uring_is_refused,
                                        setup_pool, teardown),
        cmocka_unit_test_setup_teardown(uring_by_name_is_an_error_when_refused, setup_uring,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_low_memlock_limit_leaves_buffers_unregistered,
                                        setup_uring, teardown),
        cmocka_unit_test_setup_teardown(reads_work_when_nothing_may_be_locked, setup_uring,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
