/*
 * doctor_disk.c - reads of the index's device, measured through the same ring that a worker has.
 *
 * Random blocks, so that neither read-ahead nor the device's cache of recent blocks flatters it;
 * other ones in each run, for the same reason.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "common/random.h"
#include "query/block_io.h"
#include "query/engine.h"
#include "query/index_plan.h"
#include "tools/doctor.h"
#include "tools/latency.h"

enum {
    DEPTH_MAX = 128,
    COMPLETIONS = 2,       /* taken at once, as a worker does */
    CHUNK_BYTES = 1 << 20, /* the temporary file is written in */
    ALIGNMENT_MAX = 4096,
    ALIGNMENT_MIN = 512,
    READS_A_QUERY = 17, /* recall@10 of 0.95 with codes of 32 bytes and no cache */
    SLOW_MEAN_US = 500,
    FEW_READS = 20000, /* a second, at DEPTH_MAX */
};

#define NS_PER_S 1e9

static const uint32_t depths[DOCTOR_DEPTHS] = {1, 8, 32, DEPTH_MAX};

/* ---- file ---- */

struct doctor_file doctor_file_index(const struct generation *generation)
{
    struct doctor_file file = {.bytes =
                                   generation_manifest(generation)->files[GENERATION_NODES].bytes};
    file.fd = generation_nodes_fd(generation, &file.direct);
    return file;
}

/* A file that has no name, or none for long where the file system knows no O_TMPFILE. */
static int unnamed_open(const char *directory)
{
    char path[4096];
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
        return fd;
    int length = snprintf(path, sizeof(path), "%s/.nightjar-doctor-XXXXXX", directory);
    if (length < 0 || (size_t)length >= sizeof(path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* Writes what no device can compress or keep as a hole, and sees it onto the device. errno, or 0.
 */
static int random_fill(int fd, uint64_t *chunk)
{
    for (uint64_t offset = 0; offset < DOCTOR_FILE_BYTES; offset += CHUNK_BYTES) {
        for (size_t i = 0; i < CHUNK_BYTES / sizeof(*chunk); i++)
            chunk[i] = random_at(offset, i);
        for (size_t done = 0; done < CHUNK_BYTES;) {
            ssize_t wrote =
                pwrite(fd, (const char *)chunk + done, CHUNK_BYTES - done, (off_t)(offset + done));
            if (wrote < 0 && errno != EINTR)
                return errno;
            done += wrote > 0 ? (size_t)wrote : 0;
        }
    }
    if (fsync(fd) != 0)
        return errno;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return 0;
}

enum status doctor_file_temporary(const char *directory, struct doctor_file *out, struct error *err)
{
    int fd = unnamed_open(directory);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot make a temporary file", directory);
    uint64_t *chunk = malloc(CHUNK_BYTES);
    int failure = chunk ? random_fill(fd, chunk) : ENOMEM;
    free(chunk);
    if (failure != 0) {
        close(fd);
        return error_set_os(err, failure, "%s: cannot write a temporary file of %d bytes",
                            directory, DOCTOR_FILE_BYTES);
    }
    bool direct = fcntl(fd, F_SETFL, O_DIRECT) == 0;
    *out =
        (struct doctor_file){.fd = fd, .direct = direct, .owned = true, .bytes = DOCTOR_FILE_BYTES};
    return STATUS_OK;
}

void doctor_file_close(struct doctor_file *file)
{
    if (file->owned)
        close(file->fd);
    *file = (struct doctor_file){.fd = -1};
}

/* What a kernel from 6.1 says; 0: nothing. */
static uint32_t alignment_told(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx info;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
        (info.stx_mask & STATX_DIOALIGN) != 0)
        return MAX(info.stx_dio_mem_align, info.stx_dio_offset_align);
#else
    (void)fd;
#endif
    return 0;
}

uint32_t doctor_alignment(const struct doctor_file *file)
{
    uint32_t told = alignment_told(file->fd);
    if (told > 0)
        return told <= ALIGNMENT_MAX ? told : 0;
    void *memory = NULL;
    if (bulk_alloc(2, ALIGNMENT_MAX, "read buffer", &memory, NULL) != STATUS_OK)
        return 0;
    uint32_t alignment = ALIGNMENT_MIN;
    /* A multiple of this alignment that is none of the next: place in memory and in the file. */
    while (alignment <= ALIGNMENT_MAX && pread(file->fd, (char *)memory + alignment % ALIGNMENT_MAX,
                                               alignment, alignment % ALIGNMENT_MAX) < 0)
        alignment = alignment < ALIGNMENT_MAX ? ALIGNMENT_MAX : 2 * ALIGNMENT_MAX;
    bulk_free(memory, 2, ALIGNMENT_MAX);
    return alignment <= ALIGNMENT_MAX ? alignment : 0;
}

/* ---- reads ---- */

struct probe {
    struct block_io *io;
    const struct doctor_file *file;
    uint8_t *buffers;
    uint32_t block_bytes;
    uint64_t blocks; /* of the file */
    uint64_t seed, issued;
    uint64_t started_ns[DEPTH_MAX];
    uint64_t offsets[DEPTH_MAX];
    struct latency latency;
};

static void probe_submit(struct probe *probe, uint64_t slot, uint64_t now_ns)
{
    uint64_t block = random_below(probe->seed, probe->issued++, probe->blocks);
    probe->offsets[slot] = block * probe->block_bytes;
    probe->started_ns[slot] = now_ns;
    /* Cannot be refused: the ring is deeper than any depth measured. */
    (void)!block_io_read(probe->io, probe->file->fd, probe->offsets[slot],
                         probe->buffers + slot * probe->block_bytes, probe->block_bytes, slot);
}

/* Takes note of a read; true if it gave a block. A short one is one of a file that shrank. */
static bool probe_complete(struct probe *probe, const struct block_completion *done,
                           uint64_t now_ns, struct doctor_reads *reads)
{
    if (done->result == (int)probe->block_bytes) {
        latency_record(&probe->latency, now_ns - probe->started_ns[done->tag]);
        return true;
    }
    if (reads->os_error == 0) {
        reads->os_error = done->result < 0 ? -done->result : ENODATA;
        reads->failed_offset = probe->offsets[done->tag];
    }
    return false;
}

static void probe_run(struct probe *probe, double duration_s, struct doctor_reads *reads)
{
    struct block_completion done[COMPLETIONS];
    memset(&probe->latency, 0, sizeof(probe->latency));
    uint64_t start_ns = clock_monotonic_ns(), now_ns = start_ns;
    uint64_t end_ns = start_ns + (uint64_t)(duration_s * NS_PER_S);
    uint32_t in_flight = reads->depth;
    for (uint32_t slot = 0; slot < reads->depth; slot++)
        probe_submit(probe, slot, now_ns);
    while (in_flight > 0) {
        size_t count = block_io_poll(probe->io, true, UINT64_MAX, done, COMPLETIONS);
        now_ns = clock_monotonic_ns();
        for (size_t i = 0; i < count; i++) {
            if (probe_complete(probe, &done[i], now_ns, reads) && reads->os_error == 0 &&
                now_ns < end_ns)
                probe_submit(probe, done[i].tag, now_ns);
            else
                in_flight--;
        }
    }
    reads->count = probe->latency.count;
    reads->per_second =
        now_ns > start_ns ? (double)reads->count * NS_PER_S / (double)(now_ns - start_ns) : 0;
    reads->mean_us = latency_mean_us(&probe->latency);
    reads->p99_us = latency_quantile_us(&probe->latency, 0.99);
}

/* A daemon chooses as this does; where it ends up with threads, the kernel's reason is asked for
 * once more, as a description has room for a part of it only. */
static void ring_judge(struct doctor_report *report, const struct doctor_question *question,
                       const struct block_io_params *params, const struct block_io *io)
{
    struct doctor_ring ring = {.uring = block_io_kind_of(io) == BLOCK_IO_URING,
                               .description = block_io_description(io)};
    struct error refusal;
    if (!ring.uring) {
        struct block_io_params wish = *params;
        struct block_io *other = NULL;
        wish.kind = BLOCK_IO_URING;
        if (block_io_create(&wish, &other, &refusal) != STATUS_OK)
            ring.refusal = refusal.text;
        block_io_destroy(other);
    }
    doctor_ring_judge(report, question, &ring);
}

static void depths_measure(struct probe *probe, struct doctor_disk *disk)
{
    for (size_t i = 0; i < DOCTOR_DEPTHS; i++) {
        struct doctor_reads *reads = &disk->reads[disk->read_count++];
        *reads = (struct doctor_reads){.depth = depths[i]};
        probe_run(probe, disk->duration_s, reads);
        if (reads->os_error != 0)
            return;
    }
}

void doctor_disk_measure(struct doctor_report *report, const struct doctor_question *question,
                         const struct doctor_file *file, struct doctor_disk *disk)
{
    struct probe probe;
    struct error err;
    void *buffers = NULL;
    size_t block_bytes = question->block_bytes;
    disk->read_count = 0;
    enum status status =
        bulk_alloc(ENGINE_READS_DEFAULT, block_bytes, "read buffers", &buffers, &err);
    struct block_io_params params = {.depth = ENGINE_READS_DEFAULT,
                                     .buffers = buffers,
                                     .buffers_bytes = ENGINE_READS_DEFAULT * block_bytes,
                                     .file = file->fd};
    probe = (struct probe){.file = file,
                           .buffers = buffers,
                           .block_bytes = question->block_bytes,
                           .blocks = file->bytes / block_bytes,
                           .seed = clock_monotonic_ns()};
    if (status == STATUS_OK)
        status = block_io_create(&params, &probe.io, &err);
    if (status == STATUS_OK) {
        ring_judge(report, question, &params, probe.io);
        depths_measure(&probe, disk);
    } else {
        doctor_object(doctor_add(report, "io_uring", "%.250s", err.text), DOCTOR_FAIL,
                      "what the line says: the daemon would not start");
    }
    block_io_destroy(probe.io);
    if (buffers)
        bulk_free(buffers, ENGINE_READS_DEFAULT, block_bytes);
}

/* ---- judgement ---- */

/* An index that is in memory whole is slow to load from a slow disk, but not to search. */
static bool nothing_is_read(const struct doctor_question *question)
{
    struct index_plan plan;
    return question->manifest &&
           index_plan_make(question->manifest, question->memory_bytes, &plan, NULL) == STATUS_OK &&
           plan.resident;
}

static void failed_read_judge(struct doctor_report *report, const struct doctor_reads *reads)
{
    char reason[64];
    struct doctor_finding *finding =
        doctor_add(report, "reads", "depth %u: at byte %llu: %s", reads->depth,
                   (unsigned long long)reads->failed_offset,
                   strerror_r(reads->os_error, reason, sizeof(reason)));
    doctor_object(finding, DOCTOR_FAIL,
                  "see the kernel's log and the disk's own (smartctl): what cannot be read is "
                  "missing in answers");
}

static void depth_judge(struct doctor_report *report, const struct doctor_reads *reads,
                        bool matters)
{
    struct doctor_finding *finding =
        doctor_add(report, "reads", "depth %u: %.0f reads/s, mean %.0f us, p99 %.0f us",
                   reads->depth, reads->per_second, reads->mean_us, reads->p99_us);
    if (matters && reads->depth == 1 && reads->mean_us > SLOW_MEAN_US)
        doctor_object(finding, DOCTOR_WARN,
                      "a local NVMe disk, or a --memory that holds all blocks: a query waits for "
                      "several reads, and each should take less than %d us",
                      SLOW_MEAN_US);
    if (matters && reads->depth == DEPTH_MAX && reads->per_second < FEW_READS)
        doctor_object(finding, DOCTOR_WARN,
                      "a disk (or a provisioned limit) of more than %d reads/s, or more --memory",
                      FEW_READS);
}

void doctor_reads_judge(struct doctor_report *report, const struct doctor_question *question,
                        const struct doctor_disk *disk)
{
    double best = 0;
    bool resident = nothing_is_read(question);
    for (uint32_t i = 0; i < disk->read_count; i++) {
        if (disk->reads[i].os_error != 0) {
            failed_read_judge(report, &disk->reads[i]);
            return;
        }
        depth_judge(report, &disk->reads[i], !resident);
        best = MAX(best, disk->reads[i].per_second);
    }
    if (resident)
        doctor_add(report, "queries", "all blocks are in memory: they read nothing");
    else if (disk->read_count > 0)
        doctor_add(report, "queries",
                   "at some %d reads each: %.0f queries/s at most; %.1f ms for one alone, if its "
                   "reads come one by one",
                   READS_A_QUERY, best / READS_A_QUERY,
                   disk->reads[0].mean_us * READS_A_QUERY / 1000);
}
