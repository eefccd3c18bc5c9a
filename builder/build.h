/*
 * build.h - the whole offline pipeline, from parameters to a finished generation.
 *
 * The input is cut into as many shards as the memory budget asks for; each stage leaves finished
 * pieces in a work directory (work.h), and a build that was killed goes on after the last of them.
 * The stages are in files of their own; build.c only knows their order and what passes between
 * them.
 *
 * Deterministic: the generation depends on the input, the parameters (the number of shards among
 * them) and the seed; not on threads, lanes, interruptions or machine.
 */
#ifndef NIGHTJAR_BUILDER_BUILD_H
#define NIGHTJAR_BUILDER_BUILD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "builder/attribute_input.h"
#include "builder/build_report.h"
#include "builder/graph_build.h"
#include "builder/partition.h"
#include "common/codec.h"
#include "common/element.h"
#include "common/error.h"
#include "layout/manifest.h"
#include "layout/sample.h"

enum {
    BUILD_DEGREE_MIN = 4,
    BUILD_DEGREE_MAX = BLOCK_DEGREE_MAX,
    BUILD_LIST_MAX = 10000,
    BUILD_ALPHA_MAX = 10,
    BUILD_THREADS_MAX = 1024,
    BUILD_REPLICATION_MAX = PARTITION_BORROWERS_MAX + 1,
    BUILD_CALIBRATION_SLOTS = 16, /* queries that a thread may have in flight for a calibration */
};

/* What a calibration works on, all borrowed. The builder cannot search: it knows no engine. */
struct build_calibration {
    const char *path;            /* of the generation, which has no manifest.json yet */
    const struct sample *sample; /* sample.bin */
    const struct sample *tune;   /* queries that are no vectors: no own keys and nodes; or NULL */
    uint64_t memory_bytes;       /* that codes, navigation and cached blocks may take */
    uint32_t threads;
    const atomic_int *cancel; /* as build_params has it: STATUS_CANCELLED */
};

struct build_params {
    const char *input;      /* vector file */
    const char *output;     /* generation directory to create; must not exist, or be empty */
    const char *keys;       /* .u64bin or NULL: key = row */
    const char *attributes; /* CSV (attribute_input.h) or NULL: none */
    struct attribute_extent attribute_extent; /* of it; found out by build_attributes_look() */
    enum metric metric;
    enum element_type store; /* what vectors are stored as; ELEMENT_NONE: as they are given */
    uint32_t degree;         /* R = 64; BUILD_DEGREE_MIN..BUILD_DEGREE_MAX */
    enum graph_kind graph;   /* GRAPH_PIPNN */
    uint32_t build_list;     /* L = 100; 1..BUILD_LIST_MAX; of GRAPH_VAMANA */
    double alpha;            /* 1.2; 1..BUILD_ALPHA_MAX */
    enum codec_kind codec;
    uint32_t code_bytes;   /* pq: 32, lowered to dim where dim is smaller; scalar: one of its sizes,
                            * or 0 for 4 bits a dimension */
    uint64_t memory_bytes; /* 0: no limit but the machine's */
    uint32_t shards;       /* 0: as few as the memory allows */
    double replication;    /* 1.8; most shards a row is in, on average: 1..BUILD_REPLICATION_MAX */
    uint32_t threads;      /* 0: all CPUs this process may use */
    uint64_t seed;         /* 1 */
    uint32_t block_bytes;  /* 0: chosen */
    double navigation_share; /* 0.01 of the vectors */
    const char *work;        /* directory for finished pieces; NULL: "OUTPUT.work" */
    bool keep_work;          /* else it is removed at the end */
    bool numa;               /* bind shards to NUMA nodes, where there is more than one */
    bool one_stage;          /* only `stage`, and of it only `shard` unless that is WORK_WHOLE */
    enum build_stage stage;
    uint32_t shard;
    bool quiet;               /* no progress on stderr */
    const atomic_int *cancel; /* non-zero asks to stop; borrowed, may be NULL */
    const char *tune_queries; /* vector file of queries to tune recall curves to, or NULL */
    uint32_t tune_count;      /* of them taken; build_run() finds out */
    /* Measures what searches of the data find, and fills in `manifest`'s facts and curves; called
     * when all data are on disk and verified, before the manifest is written. What it fills in
     * depends on the data alone. A failure is the build's. NULL: the generation has no curves. */
    enum status (*calibrate)(void *context, const struct build_calibration *job,
                             struct manifest *manifest, struct error *err);
    void *calibrate_context;
};

/* What a build did. */
struct build_summary {
    bool finished; /* the generation is complete; else only what one_stage asked for is */
    bool kept;     /* after a failure: finished pieces are in work_path */
    char work_path[4096];
    struct manifest manifest;   /* if finished, as is all that follows */
    struct build_report report; /* without its shards */
    uint64_t disk_bytes;        /* all files of the generation */
};

/* Runs every stage that is not done yet; the calling thread's OpenMP team has params->threads
 * threads meanwhile. Progress goes to stderr (progress.h). *summary is written in any case, and may
 * be NULL. A failure before the first piece is finished leaves nothing; a later one leaves the work
 * directory and an incomplete generation, which the same call completes. (Should nothing but the
 * last fsync fail, or the process be killed after it, the generation is complete and the same call
 * only removes the work directory.)
 *
 *   STATUS_INVALID       a parameter or the input is wrong, or the input changed while it was read
 *                        (then none of the finished pieces is kept)
 *   STATUS_NOT_FOUND     a file that is to be read is missing
 *   STATUS_EXISTS        `output` is there already, or the work directory is another build's
 *   STATUS_NO_MEMORY     it would not fit memory_bytes or the machine (found before reading a row)
 *   STATUS_IO, _CORRUPT  reading or writing failed
 *   STATUS_CANCELLED     *cancel was set; it is looked at some times a second but for the codec
 *                        training, geometry and packing stages, which are finished first */
NODISCARD enum status build_run(const struct build_params *params, struct build_summary *summary,
                                struct error *err);

/* Reads the header of params->attributes, if given, and sets params->attribute_extent. build_run()
 * does so itself; build_size.h needs it. */
NODISCARD enum status build_attributes_look(struct build_params *params, struct error *err);

/* Every field but `input`, `output` is in its range; names the first that is not. */
NODISCARD enum status build_params_check(const struct build_params *params, struct error *err);

#endif
