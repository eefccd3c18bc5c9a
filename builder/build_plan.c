/*
 * build_plan.c - times of a build, scaled from a small one.
 *
 * The stages run on up to 16,384 rows taken in runs from all over the file. Most grow with the row
 * count. A search's length grows with its logarithm, and each step costs more once the vectors no
 * longer fit the caches. One thread calls; stages use the OpenMP team.
 */
#include "builder/build_plan.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "builder/encode.h"
#include "builder/hot_list.h"
#include "builder/ingest.h"
#include "builder/navigation_build.h"
#include "builder/pack.h"
#include "builder/vamana.h"
#include "common/memory.h"

enum {
    PLAN_ROWS_MAX = 16384,
    PLAN_ROWS_MIN = 1024,
    PLAN_BYTES_MAX = 64 << 20, /* of the sample, as long as it has PLAN_ROWS_MIN rows */
    PLAN_RUNS = 64,
};

/* A step of a search in 1 M or more vectors over one in the sample, beyond the logarithm. */
#define PLAN_CACHE_FACTOR 1.3
/* A navigation graph's row over a row of the main graph at the default degree and list. */
#define PLAN_NAVIGATION_FACTOR 0.4
/* Encoding and checksumming blocks keeps ahead of any one disk; this is a modest NVMe's. */
#define PLAN_WRITE_BYTES_PER_S 1e9

struct plan_run {
    const struct build_params *params;
    struct build_monitor monitor;
    struct vector_set set;
    struct codec *codec;
    struct vamana_result vamana;
    struct hot_visits visits;
    struct pack_result pack;
    double stage_s[BUILD_STAGE_COUNT]; /* of the sample */
};

static double seconds_since(const struct build_clock *clock)
{
    struct build_stage_record record = {0};

    build_clock_measure(clock, &record);
    return record.wall_s;
}

static uint32_t calibration_rows(const struct vector_shape *shape)
{
    uint64_t row_bytes = (uint64_t)shape->dim * element_bytes(shape->type);
    uint64_t rows = MAX(PLAN_BYTES_MAX / row_bytes, (uint64_t)PLAN_ROWS_MIN);

    return (uint32_t)MIN(MIN(rows, (uint64_t)PLAN_ROWS_MAX), shape->count);
}

static enum status sample_read(struct plan_run *run, const struct vector_file *file,
                               struct error *err)
{
    struct vector_shape shape = vector_file_shape(file);
    uint32_t rows = calibration_rows(&shape);

    enum status status =
        vector_set_create(&run->set, rows, shape.dim, shape.type, run->params->metric, err);
    for (uint64_t i = 0; status == STATUS_OK && i < PLAN_RUNS; i++) {
        uint64_t begin = rows * i / PLAN_RUNS;
        uint64_t count = rows * (i + 1) / PLAN_RUNS - begin;
        uint64_t first = (uint64_t)((double)(shape.count - rows) * (double)i / PLAN_RUNS) + begin;
        uint8_t *to = run->set.rows + (size_t)begin * run->set.stride_bytes;
        if (count == 0)
            continue;
        status = vector_file_read_strided(file, first, count, to, run->set.stride_bytes, err);
        if (status == STATUS_OK) {
            status = vector_rows_check(vector_file_path(file), &shape, run->params->metric, first,
                                       count, to, run->set.stride_bytes, err);
        }
    }
    return status == STATUS_OK ? vector_set_prepare(&run->set, err) : status;
}

static enum status run_train(struct plan_run *run, struct error *err)
{
    struct codec_params params = {
        .kind = run->params->codec,
        .metric = run->set.metric,
        .type = run->set.type,
        .dim = run->set.dim,
        .code_bytes = MIN(run->params->code_bytes, run->set.dim),
        .seed = run->params->seed,
    };
    return encode_train(&run->set, &params, &run->codec, err);
}

static enum status run_graph(struct plan_run *run, struct error *err)
{
    struct vamana_params params = {
        .degree = run->params->degree,
        .build_list = run->params->build_list,
        .alpha = (float)run->params->alpha,
        .seed = run->params->seed,
    };
    return vamana_build(&run->set, &params, &run->vamana, err);
}

static enum status run_visits(struct plan_run *run, struct error *err)
{
    return hot_visits_collect(&run->set, &run->vamana.graph, run->vamana.entry, run->params->seed,
                              &run->monitor, &run->visits, err);
}

static enum status run_pack(struct plan_run *run, struct error *err)
{
    struct pack_params params = {
        .dim_bytes = (uint32_t)(run->set.dim * element_bytes(run->set.type)),
        .block_bytes = run->params->block_bytes,
        .adjacency = BLOCK_ADJACENCY_GAPS,
        .entry = run->vamana.entry,
        .seed = run->params->seed,
    };
    return pack_graph(&run->vamana.graph, &params, &run->pack, err);
}

static enum status run_encode(struct plan_run *run, struct error *err)
{
    uint8_t *codes = NULL;
    uint32_t node_limit = run->pack.geometry.node_limit;

    enum status status = encode_nodes(&run->set, run->codec, run->pack.row_of_node, node_limit,
                                      &run->monitor, &codes, err);
    bulk_free(codes, node_limit, codec_params_of(run->codec).code_bytes);
    return status;
}

/* Times the stages on the sample. */
static enum status calibrate(struct plan_run *run, const struct vector_file *file,
                             struct error *err)
{
    static const struct {
        enum build_stage stage;
        enum status (*run)(struct plan_run *run, struct error *err);
    } steps[] = {
        {BUILD_STAGE_TRAIN, run_train},   {BUILD_STAGE_GRAPH, run_graph},
        {BUILD_STAGE_VISITS, run_visits}, {BUILD_STAGE_PACK, run_pack},
        {BUILD_STAGE_ENCODE, run_encode},
    };
    struct build_clock clock = build_clock_now();

    enum status status = sample_read(run, file, err);
    run->stage_s[BUILD_STAGE_INGEST] = seconds_since(&clock);
    for (size_t i = 0; status == STATUS_OK && i < ARRAY_LENGTH(steps); i++) {
        clock = build_clock_now();
        status = steps[i].run(run, err);
        run->stage_s[steps[i].stage] = seconds_since(&clock);
    }
    return status;
}

/* From the sample's times to the whole input's. */
static void scale(const struct plan_run *run, struct build_plan *plan)
{
    double rows = run->set.count;
    double count = (double)plan->shape.count;
    double grown = count / rows;
    double longer = fmax(1.0, log2(count) / fmax(1.0, log2(rows)));
    double step = grown > 1.0 ? longer * PLAN_CACHE_FACTOR : 1.0;
    double queries = fmin(count, HOT_QUERIES_MAX) / fmin(rows, HOT_QUERIES_MAX);
    double trained = (double)encode_sample_rows((uint32_t)plan->shape.count) /
                     (double)encode_sample_rows(run->set.count);
    double navigation =
        navigation_sample_count((uint32_t)plan->shape.count, run->params->navigation_share);

    plan->stage_s[BUILD_STAGE_INGEST] = run->stage_s[BUILD_STAGE_INGEST] * grown;
    plan->stage_s[BUILD_STAGE_TRAIN] = run->stage_s[BUILD_STAGE_TRAIN] * trained;
    plan->stage_s[BUILD_STAGE_GRAPH] = run->stage_s[BUILD_STAGE_GRAPH] * grown * step;
    plan->stage_s[BUILD_STAGE_VISITS] = run->stage_s[BUILD_STAGE_VISITS] * queries * step;
    plan->stage_s[BUILD_STAGE_PACK] = run->stage_s[BUILD_STAGE_PACK] * grown * step;
    plan->stage_s[BUILD_STAGE_ENCODE] = run->stage_s[BUILD_STAGE_ENCODE] * grown;
    plan->stage_s[BUILD_STAGE_NAVIGATION] = run->stage_s[BUILD_STAGE_GRAPH] * navigation / rows *
                                            PLAN_NAVIGATION_FACTOR * (grown > 1.0 ? longer : 1.0);
    plan->stage_s[BUILD_STAGE_WRITE] =
        (double)plan->size.stage_disk_bytes[BUILD_STAGE_WRITE] / PLAN_WRITE_BYTES_PER_S;
    plan->total_s = 0.0;
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        plan->total_s += plan->stage_s[stage];
}

enum status build_plan_make(const struct build_params *params, struct build_plan *plan,
                            struct error *err)
{
    struct build_params resolved = *params;
    struct plan_run run = {.params = &resolved, .monitor = {.cancel = params->cancel}};
    struct vector_file *file = NULL;
    int threads_before = omp_get_max_threads();

    if (resolved.threads == 0)
        resolved.threads = (uint32_t)MIN(omp_get_num_procs(), (int)BUILD_THREADS_MAX);
    enum status status = build_params_check(&resolved, err);
    if (status == STATUS_OK)
        status = vector_file_open(params->input, &file, err);
    if (status != STATUS_OK)
        return status;
    struct build_plan made = {.shape = vector_file_shape(file), .threads = resolved.threads};
    status = ingest_shape_check(params->input, &made.shape, err);
    if (status == STATUS_OK) {
        build_size_compute(&resolved, &made.shape, &made.size);
        omp_set_num_threads((int)resolved.threads);
        status = calibrate(&run, file, err);
        omp_set_num_threads(threads_before);
    }
    if (status == STATUS_OK) {
        made.calibration_rows = run.set.count;
        scale(&run, &made);
        *plan = made;
    }
    vector_file_close(file);
    codec_destroy(run.codec);
    graph_destroy(&run.vamana.graph);
    hot_visits_destroy(&run.visits);
    pack_result_destroy(&run.pack);
    vector_set_destroy(&run.set);
    return status;
}
