/*
 * build_internal.h - the state of a running build, and its stages as build.c runs them
 * (build_stages.c, build_check.c).
 */
#ifndef NIGHTJAR_BUILDER_BUILD_INTERNAL_H
#define NIGHTJAR_BUILDER_BUILD_INTERNAL_H

#include <time.h>

#include "builder/build.h"
#include "builder/build_monitor.h"
#include "builder/build_size.h"
#include "builder/lanes.h"
#include "builder/scan.h"
#include "builder/shard.h"
#include "builder/shard_graph.h"
#include "builder/shard_pack.h"
#include "builder/shard_write.h"
#include "builder/tune_queries.h"
#include "builder/work.h"
#include "common/topology.h"
#include "layout/generation.h"

enum {
    BUILD_PATH_BYTES = 4200, /* of a file in the output; a longer path is no path for the kernel */
};

/* What a file that is read looked like before. */
struct build_source {
    uint64_t bytes;
    struct timespec modified;
    uint64_t inode;
};

struct build {
    struct build_params params; /* code_bytes and threads resolved */
    struct build_clock clock;
    struct progress progress;
    struct build_source input, keys, attributes;
    struct tune_queries tune;
    struct vector_file *file;
    struct vector_shape shape;
    struct build_size size;
    uint64_t memory_limit;
    uint32_t numa_count; /* 0: not asked for */
    struct topology *topology;
    struct lanes lanes; /* its array is ours */
    char work_path[4096];
    struct work *work;
    bool fresh; /* no piece was there at the start */
    struct generation_writer *writer;
    bool finished;

    /* what stages load */
    struct scan_result scan;
    struct shard_plan plan;
    struct shard_layout layout;
    uint32_t *node_of_position; /* [shape.count] */
    struct codec *codec;
    struct shard_write_context write;
    struct manifest manifest;
    struct build_report report;
};

/* "OUTPUT/NAME". */
void build_output_path(const struct build *b, const char *name, char path[BUILD_PATH_BYTES]);

/* The stage has a piece for each shard. */
bool build_stage_sharded(enum build_stage stage);

/* What progress counts in, and how many of them a stage or a shard's piece has. */
const char *build_stage_unit(enum build_stage stage);
uint64_t build_stage_units(const struct build *b, enum build_stage stage);
uint64_t build_stage_shard_units(const struct build *b, enum build_stage stage, uint32_t shard);

/* Loads what `stage` needs of those before it, unless it is there. */
NODISCARD enum status build_stage_load(struct build *b, enum build_stage stage, struct error *err);

/* Fills the report of a generation that an earlier run finished, from what is left of the work. */
void build_report_collect(struct build *b);

/* File `part` of a piece, which has one section; *bytes is malloc'd, the caller's. */
NODISCARD enum status build_piece_file_read(const struct build *b, struct work_piece piece,
                                            const char *part, uint8_t **bytes, size_t *length,
                                            struct error *err);

/* What the navigation piece's record tells: the files it wrote into the generation. */
struct build_navigation_info {
    uint64_t bytes[GENERATION_FILE_COUNT]; /* of the small files */
    struct digest128 digest[GENERATION_FILE_COUNT];
    uint64_t hot_count;
    uint32_t navigation_count;
    uint32_t entry_node;
};

/* The check stage, which finishes the generation (build_check.c). */
NODISCARD enum status build_check_run(struct build *b, const struct build_monitor *monitor,
                                      struct build_stage_record *cost, struct error *err);

/* Run and commit one piece. */
NODISCARD enum status build_ingest_run(struct build *b, const struct build_monitor *monitor,
                                       struct build_stage_record *cost, struct error *err);
NODISCARD enum status build_stage_whole_run(struct build *b, enum build_stage stage,
                                            const struct build_monitor *monitor,
                                            struct build_stage_record *cost, struct error *err);
struct build_shard_run {
    enum build_stage stage;
    uint32_t shard;
    const struct lane_place *place;
};
NODISCARD enum status build_stage_shard_run(struct build *b, const struct build_shard_run *run,
                                            const struct build_monitor *monitor,
                                            struct build_stage_record *cost, struct error *err);

#endif
