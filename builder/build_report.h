/*
 * build_report.h - what a build took: per stage wall time, CPU time, peak memory and bytes written;
 * and its text form, build-report.json. Everything that depends on clock or machine is here, so
 * that the manifest has none of it.
 */
#ifndef NIGHTJAR_BUILDER_BUILD_REPORT_H
#define NIGHTJAR_BUILDER_BUILD_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/codec_choose.h"
#include "common/error.h"
#include "layout/manifest.h"

/* In the order they run. Those marked * have a piece for each shard. */
enum build_stage {
    BUILD_STAGE_INGEST,     /* read, check, digest, count duplicates */
    BUILD_STAGE_TRAIN,      /* codec on a sample */
    BUILD_STAGE_SAMPLE,     /* some rows as queries, their exact neighbours */
    BUILD_STAGE_PARTITION,  /* rows to shards */
    BUILD_STAGE_GRAPH,      /* * Vamana and sample searches for the hot list */
    BUILD_STAGE_MERGE,      /* * lists of a row's shards into one */
    BUILD_STAGE_GEOMETRY,   /* nodes a block, chosen on one shard */
    BUILD_STAGE_PACK,       /* * order of nodes in blocks */
    BUILD_STAGE_NAVIGATION, /* codec.bin, navigation.bin, hot.bin and sample.bin */
    BUILD_STAGE_WRITE,      /* * codes.bin and nodes.blk */
    BUILD_STAGE_KEYS,       /* keys.bin */
    BUILD_STAGE_CHECK,      /* all of it read back, every node reached; manifest */
    BUILD_STAGE_COUNT,
};

/* "ingest", "train", ... Static storage. */
const char *build_stage_name(enum build_stage stage);

struct build_stage_record {
    double wall_s;
    double cpu_s;            /* user and system, all threads */
    uint64_t peak_rss_bytes; /* of the process, so far */
    uint64_t written_bytes;  /* to the generation */
};

/* How and where a shard was built. */
struct build_shard_record {
    uint64_t own_count, borrowed_count;
    uint32_t numa_node;     /* the kernel's number; UINT32_MAX: any */
    bool strict;            /* the kernel bound its memory there */
    uint64_t pages_sampled; /* of its vectors and graph */
    uint64_t pages_on_node; /* of them */
};

struct build_report {
    uint32_t threads;
    struct codec_choice codec;
    uint64_t memory_planned_bytes; /* most it may take, with the lanes it had: build_size.h */
    struct build_stage_record stages[BUILD_STAGE_COUNT];
    struct build_stage_record total;
    double points_per_second_core; /* vectors over CPU seconds */
    double replication;            /* mean shards a row was built in */
    uint32_t shard_count;
    struct build_shard_record *shards; /* [shard_count]; borrowed */
    uint64_t reached_nodes;            /* by the walk over what was written */
    uint32_t walk_passes;
};

/* A point in time to measure from. */
struct build_clock {
    uint64_t wall_ns;
    double cpu_s;
};

struct build_clock build_clock_now(void);

/* Fills everything of *record but written_bytes with what passed since `since`. */
void build_clock_measure(const struct build_clock *since, struct build_stage_record *record);

/* The JSON text, malloc'd, the caller's. */
NODISCARD enum status build_report_format(const struct build_report *report,
                                          const struct manifest *manifest, char **json,
                                          struct error *err);

#endif
