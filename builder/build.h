/*
 * build.h - the whole offline pipeline, from parameters to a finished generation.
 *
 * One shard: the whole input is in RAM while it is built. The stages are in files of their own
 * (ingest, encode, vamana, hot_list, pack, navigation_build, write_blocks); build.c only runs them
 * in order and frees each array after its last reader.
 *
 * Deterministic: the generation depends on the input, the parameters and the seed, not on threads,
 * memory or machine.
 */
#ifndef NIGHTJAR_BUILDER_BUILD_H
#define NIGHTJAR_BUILDER_BUILD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "builder/build_report.h"
#include "common/codec.h"
#include "common/element.h"
#include "common/error.h"
#include "layout/manifest.h"

enum {
    BUILD_DEGREE_MIN = 4,
    BUILD_DEGREE_MAX = BLOCK_DEGREE_MAX,
    BUILD_LIST_MAX = 10000,
    BUILD_ALPHA_MAX = 10,
    BUILD_THREADS_MAX = 1024,
};

struct build_params {
    const char *input;  /* vector file */
    const char *output; /* generation directory to create; must not exist, or be empty */
    const char *keys;   /* .u64bin or NULL: key = row */
    enum metric metric;
    uint32_t degree;     /* R = 64; BUILD_DEGREE_MIN..BUILD_DEGREE_MAX */
    uint32_t build_list; /* L = 100; 1..BUILD_LIST_MAX */
    double alpha;        /* 1.2; 1..BUILD_ALPHA_MAX */
    enum codec_kind codec;
    uint32_t code_bytes;      /* 32, lowered to dim where dim is smaller */
    uint64_t memory_bytes;    /* 0: no limit but the machine's */
    uint32_t threads;         /* 0: all CPUs this process may use */
    uint64_t seed;            /* 1 */
    uint32_t block_bytes;     /* 0: chosen */
    double navigation_share;  /* 0.01 of the vectors */
    bool quiet;               /* no progress on stderr */
    const atomic_int *cancel; /* non-zero asks to stop; borrowed, may be NULL */
};

/* What a finished build is and took. */
struct build_summary {
    struct manifest manifest;
    struct build_report report;
    uint64_t disk_bytes; /* all files of the generation */
};

/* Runs every stage; the calling thread's OpenMP team has params->threads threads meanwhile.
 * Progress goes to stderr (progress.h). `summary` may be NULL. On failure nothing is left at
 * `output`: STATUS_INVALID       a parameter or the input is wrong STATUS_NOT_FOUND     a file that
 * is to be read is missing STATUS_EXISTS        `output` is there already STATUS_NO_MEMORY     it
 * would not fit memory_bytes or the machine (found before reading a row) STATUS_IO, _CORRUPT
 * reading or writing failed STATUS_CANCELLED     *cancel was set; it is looked at some times a
 * second but for the codec training and packing stages, which are finished first */
NODISCARD enum status build_run_summary(const struct build_params *params,
                                        struct build_summary *summary, struct error *err);

/* As build_run_summary() with no summary. */
NODISCARD enum status build_run(const struct build_params *params, struct error *err);

/* Every field but `output` is in its range; names the first that is not. */
NODISCARD enum status build_params_check(const struct build_params *params, struct error *err);

#endif
