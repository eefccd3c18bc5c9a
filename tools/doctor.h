/*
 * doctor.h - is this machine ready to serve? What `nightjar doctor` looks at and what it thinks of
 * it.
 *
 * A function here looks at one thing and appends findings to a report: a verdict, what was found,
 * and a remedy where the verdict is not "ok". What cannot be told (no such file in /proc or /sys, a
 * device behind an overlay) is said and is "ok": a container hides much and serves well. Nothing on
 * the machine is changed but the temporary file of doctor_file_temporary().
 *
 * Looking and judging are apart wherever a test could not bring about what there is to judge. Files
 * of /proc and /sys are looked for under doctor_question.root (common/machine.h).
 *
 * Called from the main thread only.
 */
#ifndef NIGHTJAR_TOOLS_DOCTOR_H
#define NIGHTJAR_TOOLS_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "layout/generation.h"
#include "layout/manifest.h"

/* ---- the report (doctor.c) ---- */

enum doctor_verdict {
    DOCTOR_OK,
    DOCTOR_WARN, /* serves, but slower or less safely than it could */
    DOCTOR_FAIL, /* does not serve */
    DOCTOR_VERDICTS,
};

enum {
    DOCTOR_FINDINGS_MAX = 64, /* twice what there is to look at */
    DOCTOR_TEXT_BYTES = 256,
    DOCTOR_SIZE_BYTES = 16,
};

struct doctor_finding {
    enum doctor_verdict verdict;
    const char *topic; /* static */
    char found[DOCTOR_TEXT_BYTES];
    char remedy[DOCTOR_TEXT_BYTES]; /* empty when ok */
};

/* Zeroed storage is an empty report. */
struct doctor_report {
    struct doctor_finding findings[DOCTOR_FINDINGS_MAX];
    uint32_t count;
};

/* Appends a finding that is ok as yet; longer text is cut. Valid as long as the report. */
struct doctor_finding *doctor_add(struct doctor_report *report, const char *topic,
                                  const char *format, ...) PRINTF_LIKE(3, 4);

/* Raises the verdict to `verdict`, unless it is worse already, and adds a remedy. */
void doctor_object(struct doctor_finding *finding, enum doctor_verdict verdict, const char *format,
                   ...) PRINTF_LIKE(3, 4);

/* "ok", "warn", "fail". */
const char *doctor_verdict_name(enum doctor_verdict verdict);

uint32_t doctor_count(const struct doctor_report *report, enum doctor_verdict verdict);

/* "12.3 MiB" in text, which it returns. */
const char *doctor_size(uint64_t bytes, char text[DOCTOR_SIZE_BYTES]);

/* ---- what is asked ---- */

/* The daemon that is to be started. */
struct doctor_question {
    const char *root;      /* "": this machine */
    uint64_t memory_bytes; /* --memory */
    uint32_t generations;  /* that share it: 2 where one is swapped for the next; 0 is 1 */
    uint32_t connections;  /* --max-connections */
    uint32_t workers;
    uint32_t block_bytes;
    const struct manifest *manifest; /* of what it would serve; NULL: not known */
};

/* ---- kernel (doctor_kernel.c) ---- */

void doctor_kernel(struct doctor_report *report, const struct doctor_question *question);
void doctor_clock(struct doctor_report *report, const struct doctor_question *question);

/* What block_io_create() gave. */
struct doctor_ring {
    bool uring;
    const char *description;
    const char *refusal; /* when it is not io_uring: why, with a remedy after ';'; NULL: it is not
                          * refused, NIGHTJAR_IO=pool asks for threads */
};
void doctor_ring_judge(struct doctor_report *report, const struct doctor_question *question,
                       const struct doctor_ring *ring);

/* ---- CPUs (doctor_cpu.c) ---- */

/* CPUs that this process may use, at least 1: the workers of a daemon. */
uint32_t doctor_cpus_allowed(const char *root);
/* Number of CPUs, and a quota on them. */
void doctor_cpus(struct doctor_report *report, const struct doctor_question *question);
void doctor_governor(struct doctor_report *report, const struct doctor_question *question);
/* `features` as in common/cpu.h. */
void doctor_instructions(struct doctor_report *report, unsigned features);
/* Asks hwloc, of this machine. */
void doctor_numa(struct doctor_report *report);

/* ---- memory and limits (doctor_memory.c) ---- */

void doctor_memory(struct doctor_report *report, const struct doctor_question *question);
void doctor_swap(struct doctor_report *report, const struct doctor_question *question);
void doctor_overcommit(struct doctor_report *report, const struct doctor_question *question);
void doctor_huge_pages(struct doctor_report *report, const struct doctor_question *question);
void doctor_maps(struct doctor_report *report, const struct doctor_question *question);
/* RLIMIT_MEMLOCK and RLIMIT_NOFILE. */
void doctor_limits(struct doctor_report *report, const struct doctor_question *question);

/* ---- index (doctor_index.c) ---- */

/* Opens the generation `index`, or the one that `root`/current names; the other is NULL. A fault is
 * a finding, and NULL returned. */
struct generation *doctor_index_open(struct doctor_report *report, const char *index,
                                     const char *root);
/* Who else may change a directory; `what` names it. */
void doctor_permissions(struct doctor_report *report, const char *what, const char *directory);
/* What question->memory_bytes buys of question->manifest. */
void doctor_budget(struct doctor_report *report, const struct doctor_question *question);

/* ---- file system and device (doctor_device.c) ---- */

/* By statfs(2)'s f_type. */
void doctor_file_system(struct doctor_report *report, uint64_t magic);
/* The block device st_dev, through /sys/dev/block. */
void doctor_device(struct doctor_report *report, const struct doctor_question *question,
                   dev_t device);
/* Whether O_DIRECT was granted, and the alignment it wants; 0: neither 512 nor 4096 will do. */
void doctor_direct_io(struct doctor_report *report, bool direct, uint32_t alignment);

/* ---- reads (doctor_disk.c) ---- */

/* A file to read blocks of. */
struct doctor_file {
    int fd;
    bool direct; /* opened with O_DIRECT */
    bool owned;  /* doctor_file_close() closes it */
    uint64_t bytes;
};

/* nodes.blk of `generation`, which stays open longer. */
struct doctor_file doctor_file_index(const struct generation *generation);
/* A file without a name in `directory`, of DOCTOR_FILE_BYTES that are written here; it is gone when
 * it is closed, however the process ends. */
enum { DOCTOR_FILE_BYTES = 64 << 20 };
NODISCARD enum status doctor_file_temporary(const char *directory, struct doctor_file *out,
                                            struct error *err);
void doctor_file_close(struct doctor_file *file);

/* Alignment that O_DIRECT reads of the file want, at most 4096; 0: more. */
uint32_t doctor_alignment(const struct doctor_file *file);

enum { DOCTOR_DEPTHS = 4 };

/* Random reads of a block each, `depth` at a time. */
struct doctor_reads {
    uint32_t depth;
    uint64_t count; /* reads that gave a block */
    double per_second, mean_us, p99_us;
    int os_error; /* of the first that did not, which ended the measurement; 0: none */
    uint64_t failed_offset;
};

struct doctor_disk {
    double duration_s; /* a depth */
    /* out */
    struct doctor_reads reads[DOCTOR_DEPTHS];
    uint32_t read_count; /* of reads[]: fewer than DOCTOR_DEPTHS after a failed one */
};

/* Makes a ring as a worker would, judges it, and measures reads of `file` through it, at depths 1,
 * 8, 32 and 128. */
void doctor_disk_measure(struct doctor_report *report, const struct doctor_question *question,
                         const struct doctor_file *file, struct doctor_disk *disk);

/* Thinks something of the measurement, and of what it means for queries. */
void doctor_reads_judge(struct doctor_report *report, const struct doctor_question *question,
                        const struct doctor_disk *disk);

#endif
