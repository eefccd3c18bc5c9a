/*
 * build_plan.c - times of a build, scaled from a small one.
 *
 * The stages that compute run on up to 16,384 rows: of the input, taken in runs from all over it,
 * or made up (overlapping clusters). Most grow with the row count; where rows are searched for, a
 * search's length grows with the logarithm of its shard's; and each step costs more once the
 * vectors no longer fit the caches. The
 * stages that move data are taken to run at the speed of a modest NVMe disk. One thread calls;
 * stages use the OpenMP team.
 */
#include "builder/build_plan.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/attribute_write.h"
#include "builder/encode.h"
#include "builder/graph_build.h"
#include "builder/key_index.h"
#include "builder/navigation_build.h"
#include "builder/nearest.h"
#include "builder/pack.h"
#include "builder/query_sample.h"
#include "builder/scan.h"
#include "common/cpu.h"
#include "common/memory.h"
#include "common/random.h"
#include "common/topology.h"

enum {
    PLAN_ROWS_MAX = 16384,
    PLAN_ROWS_MIN = 1024,
    PLAN_BYTES_MAX = 64 << 20, /* of the sample, as long as it has PLAN_ROWS_MIN rows */
    PLAN_RUNS = 64,
    PLAN_CLUSTERS = 128,
    PLAN_QUERIES = 64,     /* that rows are compared with for the sample stage's share */
    PLAN_QUERY_ROWS = 512, /* at a time */
    PLAN_CENTROIDS = 64,   /* distances measured a row, for the partition's share */
};

/* Factors that turn the sample's rows into those of 1 M rows and more, measured on 1 M and 20 M
 * descriptors: what no longer fits the caches costs more. */
#define PLAN_PACK_FACTOR  1.3
#define PLAN_BLOCK_FACTOR 0.3 /* making blocks, over packing their rows */
/* A row of the graph, beyond what a search takes longer; over the sample's row also a navigation
 * graph's row, which is by vamana, and over the graph's row pruning one that several shards had. */
static const struct {
    double row, navigation, merge;
} plan_factors[GRAPH_KIND_COUNT] = {
    [GRAPH_PIPNN] = {2.0, 4.5, 0.24},
    [GRAPH_VAMANA] = {1.3, 0.4, 0.1},
};
/* A modest NVMe's sequential speed; checksums keep ahead of it. */
#define PLAN_DISK_BYTES_PER_S 1e9

/* A key merged with those of other shards, measured on 2 M random ones of three. */
#define PLAN_KEY_S 4e-8
/* One thread's CSV, and columns put in node order: measured on 200,000 rows, half of it for more.
 */
#define PLAN_ATTRIBUTES_READ_BYTES_PER_S  1e8
#define PLAN_ATTRIBUTES_WRITE_BYTES_PER_S 5e7

struct plan_run {
    struct build_params params;
    struct vector_set set;
    uint8_t *packed; /* the same rows */
    size_t packed_bytes;
    struct codec *codec;
    struct graph_result graph;
    double row_s[BUILD_STAGE_COUNT]; /* of the sample, a row */
    double train_s;                  /* of the codec that is kept, on the sample */
    double choice_s;                 /* of the trials before it */
    double centroid_s;               /* a row's distance to a centroid */
    double query_s;                  /* and to a query of the sample stage */
};

static double seconds_since(const struct build_clock *clock)
{
    struct build_stage_record record = {0};

    build_clock_measure(clock, &record);
    return record.wall_s;
}

static uint32_t calibration_rows(const struct vector_shape *shape)
{
    uint64_t row_bytes = element_vector_bytes(shape->type, shape->dim);
    uint64_t rows = MAX(PLAN_BYTES_MAX / row_bytes, (uint64_t)PLAN_ROWS_MIN);

    return (uint32_t)MIN(MIN(rows, (uint64_t)PLAN_ROWS_MAX), shape->count);
}

/* ---- the sample ---- */

static enum status rows_read(struct plan_run *run, const struct vector_file *file,
                             struct error *err)
{
    struct vector_shape shape = vector_file_shape(file);
    uint32_t rows = run->set.count;
    enum status status = STATUS_OK;
    for (uint64_t i = 0; status == STATUS_OK && i < PLAN_RUNS; i++) {
        uint64_t begin = rows * i / PLAN_RUNS;
        uint64_t count = rows * (i + 1) / PLAN_RUNS - begin;
        uint64_t first = (uint64_t)((double)(shape.count - rows) * (double)i / PLAN_RUNS) + begin;
        uint8_t *to = run->set.rows + (size_t)begin * run->set.stride_bytes;
        if (count == 0)
            continue;
        status = vector_file_read_strided(file, first, count, to, run->set.stride_bytes, err);
        if (status == STATUS_OK) {
            status = vector_rows_check(vector_file_path(file), &shape, run->params.metric, first,
                                       count, to, run->set.stride_bytes, err);
        }
    }
    return status;
}

/* Clusters half as wide as they are apart, in every dimension: a fair load for a graph. */
static void rows_make_up(struct plan_run *run)
{
    struct vector_set *set = &run->set;
#pragma omp parallel for schedule(static)
    for (uint32_t row = 0; row < set->count; row++) {
        float values[VECTOR_DIM_MAX];
        uint64_t cluster = random_below(1, row, PLAN_CLUSTERS);
        for (uint32_t d = 0; d < set->dim; d++) {
            double centre = random_unit(2, cluster * VECTOR_DIM_MAX + d);
            double spread = random_unit(3, (uint64_t)row * VECTOR_DIM_MAX + d);
            double value = 0.5 * centre + 0.5 * spread;
            values[d] = (float)(set->type == ELEMENT_U8   ? 255.0 * value
                                : set->type == ELEMENT_I8 ? 254.0 * value - 127.0
                                                          : value);
        }
        element_vector_from_f32(set->type, values, set->dim, set->rows + row * set->stride_bytes);
    }
}

static enum status sample_make(struct plan_run *run, const struct vector_file *file,
                               const struct vector_shape *shape, struct error *err)
{
    size_t row_bytes = element_vector_bytes(shape->type, shape->dim);
    void *packed = NULL;
    enum status status = vector_set_create(&run->set, calibration_rows(shape), shape->dim,
                                           shape->type, run->params.metric, err);
    if (status == STATUS_OK && file != NULL)
        status = rows_read(run, file, err);
    else if (status == STATUS_OK)
        rows_make_up(run);
    if (status == STATUS_OK)
        status = vector_set_prepare(&run->set, 0.0f, err);
    if (status == STATUS_OK)
        status = bulk_alloc(run->set.count, row_bytes, "calibration sample", &packed, err);
    run->packed = packed;
    run->packed_bytes = row_bytes;
    for (uint32_t row = 0; status == STATUS_OK && row < run->set.count; row++)
        memcpy(run->packed + row * row_bytes, vector_set_row(&run->set, row), row_bytes);
    return status;
}

/* ---- stages on the sample ---- */

static enum status run_train(struct plan_run *run, struct error *err)
{
    struct codec_params params = {
        .kind = run->params.codec,
        .metric = run->set.metric,
        .type = run->set.type,
        .dim = run->set.dim,
        .code_bytes = run->params.code_bytes,
        .seed = run->params.seed,
        .norm_max = run->set.norm_max,
    };
    struct codec_choice choice = {0};
    struct codec *again = NULL;
    struct build_clock clock = build_clock_now();
    enum status status =
        codec_train_chosen(&params, run->packed, run->set.count, &choice, &run->codec, err);
    run->train_s = seconds_since(&clock);
    if (status != STATUS_OK || choice.queries == 0)
        return status;
    /* Trials are made on as few rows as these, training is not: they must be told apart. */
    params.kind = (enum codec_kind)choice.kind;
    clock = build_clock_now();
    status = codec_train(&params, run->packed, run->set.count, &again, err);
    run->choice_s = run->train_s;
    run->train_s = fmin(run->train_s, seconds_since(&clock));
    run->choice_s -= run->train_s;
    codec_destroy(again);
    return status;
}

static enum status run_graph(struct plan_run *run, struct error *err)
{
    struct graph_params params = {
        .kind = run->params.graph,
        .degree = run->params.degree,
        .build_list = run->params.build_list,
        .alpha = (float)run->params.alpha,
        .seed = run->params.seed,
    };
    struct build_clock clock = build_clock_now();
    enum status status = graph_build(&run->set, &params, &run->graph, err);
    run->row_s[BUILD_STAGE_GRAPH] = seconds_since(&clock) / run->set.count;
    return status;
}

static enum status run_pack(struct plan_run *run, struct error *err)
{
    struct pack_params params = {
        .dim_bytes = (uint32_t)run->packed_bytes,
        .block_bytes = run->params.block_bytes,
        .adjacency = BLOCK_ADJACENCY_GAPS,
    };
    struct pack_input input = {
        .graph = &run->graph.graph, .kept = run->graph.kept, .total = run->set.count};
    struct block_geometry geometry;
    struct pack_order order = {0};
    struct build_clock clock = build_clock_now();
    enum status status = pack_choose(&input, &params, &geometry, &order, err);
    run->row_s[BUILD_STAGE_PACK] = seconds_since(&clock) / run->set.count;
    pack_order_destroy(&order);
    return status;
}

static enum status run_encode(struct plan_run *run, struct error *err)
{
    size_t code_bytes = codec_params_of(run->codec).code_bytes;
    uint32_t count = run->set.count;
    uint32_t *order = calloc(count, sizeof(*order));
    uint8_t *codes = calloc(count, code_bytes);
    enum status status = STATUS_OK;
    if (order == NULL || codes == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a calibration");
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++)
        order[i] = i;
    struct build_clock clock = build_clock_now();
    if (status == STATUS_OK)
        status = encode_nodes(run->codec, run->packed, order, count, codes, err);
    run->row_s[BUILD_STAGE_WRITE] = seconds_since(&clock) / count;
    free(order);
    free(codes);
    return status;
}

static enum status run_centroids(struct plan_run *run, struct error *err)
{
    uint32_t dim = run->set.dim;
    uint32_t count = run->set.count;
    const struct distance_kernels *kernels = distance_kernels_get(ELEMENT_F32, cpu_features());
    float *centroids = calloc(PLAN_CENTROIDS, dim * sizeof(float));
    if (centroids == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a calibration");
    struct build_clock clock = build_clock_now();
    double sum = 0.0;
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (uint32_t row = 0; row < count; row++) {
        float values[VECTOR_DIM_MAX];
        float distances[PLAN_CENTROIDS];
        element_vector_to_f32(run->set.type, vector_set_row(&run->set, row), dim, values);
        kernels->l2sq_rows(values, centroids, dim * sizeof(float), PLAN_CENTROIDS, dim, distances);
        sum += (double)distances[0];
    }
    run->centroid_s = sum >= 0.0 ? seconds_since(&clock) / count / PLAN_CENTROIDS : 0.0;
    free(centroids);
    return STATUS_OK;
}

/* With one neighbour each: of so few rows too many would be among the hundred nearest. */
static enum status run_queries(struct plan_run *run, struct error *err)
{
    const struct vector_set *set = &run->set;
    const struct nearest_params params = {
        .type = set->type,
        .metric = set->metric,
        .dim = set->dim,
        .k = 1,
        .threads = (uint32_t)omp_get_max_threads(),
        .queries = {.rows = set->rows,
                    .stride_bytes = set->stride_bytes,
                    .count = MIN(set->count, (uint32_t)PLAN_QUERIES)},
    };
    struct nearest *nearest = NULL;
    enum status status = nearest_create(&params, &nearest, err);
    if (status != STATUS_OK)
        return status;
    struct build_clock clock = build_clock_now();
#pragma omp parallel for schedule(static)
    for (uint32_t first = 0; first < set->count; first += PLAN_QUERY_ROWS) {
        const struct nearest_rows rows = {
            .rows = vector_set_row(set, first),
            .stride_bytes = set->stride_bytes,
            .first_key = first,
            .count = MIN((uint32_t)PLAN_QUERY_ROWS, set->count - first),
        };
        nearest_offer(nearest, (uint32_t)omp_get_thread_num(), &rows);
    }
    run->query_s = seconds_since(&clock) / set->count / params.queries.count;
    nearest_destroy(nearest);
    return STATUS_OK;
}

static enum status calibrate(struct plan_run *run, struct error *err)
{
    static enum status (*const steps[])(struct plan_run * run, struct error * err) = {
        run_train, run_graph, run_pack, run_encode, run_centroids, run_queries,
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < ARRAY_LENGTH(steps); i++)
        status = steps[i](run, err);
    return status;
}

/* ---- scaling ---- */

static void scale(const struct plan_run *run, struct build_plan *plan)
{
    double rows = run->set.count;
    double count = (double)plan->shape.count;
    double built = count * plan->size.replication;
    double shard = built / plan->size.shard_count;
    double longer = fmax(1.0, log2(shard) / fmax(1.0, log2(rows)));
    double pack_row = run->row_s[BUILD_STAGE_PACK] * (shard > rows ? PLAN_PACK_FACTOR : 1.0);
    double navigation =
        navigation_sample_count((uint32_t)plan->shape.count, run->params.navigation_share);
    double bytes = count * (double)run->packed_bytes;
    double list = 4.0 * (1.0 + run->params.degree);
    enum graph_kind kind = run->params.graph;
    double graph_step = plan_factors[kind].row * (kind == GRAPH_VAMANA ? longer : 1.0);
    double graph_row = run->row_s[BUILD_STAGE_GRAPH] * (shard > rows ? graph_step : 1.0);
    double *seconds = plan->stage_s;

    seconds[BUILD_STAGE_INGEST] =
        bytes / PLAN_DISK_BYTES_PER_S +
        (double)plan->attributes.file_bytes / PLAN_ATTRIBUTES_READ_BYTES_PER_S;
    double sample = encode_sample_rows((uint32_t)plan->shape.count);
    seconds[BUILD_STAGE_TRAIN] =
        run->train_s * sample / rows +
        run->choice_s * fmin(sample, CODEC_CHOICE_ROWS_MAX) / fmin(rows, CODEC_CHOICE_ROWS_MAX);
    seconds[BUILD_STAGE_SAMPLE] =
        count * run->query_s * query_sample_shape(plan->shape.count).count +
        bytes / PLAN_DISK_BYTES_PER_S;
    seconds[BUILD_STAGE_PARTITION] = count * run->centroid_s * plan->size.shard_count +
                                     bytes * (1.0 + plan->size.replication) / PLAN_DISK_BYTES_PER_S;
    seconds[BUILD_STAGE_GRAPH] = built * (graph_row + list / PLAN_DISK_BYTES_PER_S);
    seconds[BUILD_STAGE_MERGE] = (built - count) * graph_row * plan_factors[kind].merge +
                                 (built + count) * list / PLAN_DISK_BYTES_PER_S;
    seconds[BUILD_STAGE_GEOMETRY] = count / plan->size.shard_count * pack_row;
    seconds[BUILD_STAGE_PACK] = count * pack_row - seconds[BUILD_STAGE_GEOMETRY];
    seconds[BUILD_STAGE_NAVIGATION] =
        navigation * run->row_s[BUILD_STAGE_GRAPH] * plan_factors[kind].navigation *
            fmax(1.0, log2(navigation) / fmax(1.0, log2(rows))) +
        (double)attribute_write_disk_bytes(&plan->attributes, plan->shape.count) /
            PLAN_ATTRIBUTES_WRITE_BYTES_PER_S;
    seconds[BUILD_STAGE_WRITE] =
        count * (run->row_s[BUILD_STAGE_WRITE] + pack_row * PLAN_BLOCK_FACTOR) +
        ((double)plan->size.stage_disk_bytes[BUILD_STAGE_WRITE] + bytes + count * list) /
            PLAN_DISK_BYTES_PER_S;
    seconds[BUILD_STAGE_KEYS] =
        count * PLAN_KEY_S + count * 2.0 * KEY_INDEX_RECORD_BYTES / PLAN_DISK_BYTES_PER_S;
    /* Read back once, and a few times over for the walk. */
    seconds[BUILD_STAGE_CHECK] = 3.0 * (double)plan->size.disk_bytes / PLAN_DISK_BYTES_PER_S;
    plan->total_s = 0.0;
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        plan->total_s += seconds[stage];
}

/* ---- the plan ---- */

static enum status size_plan(const struct build_params *params, struct build_plan *plan,
                             struct error *err)
{
    uint64_t available = memory_available();
    enum status status = build_shards_check(params, &plan->shape, err);
    if (status != STATUS_OK)
        return status;
    plan->limit_bytes = params->memory_bytes != 0 ? params->memory_bytes
                        : available != 0          ? available
                                                  : UINT64_MAX;
    struct build_size_request request = {.limit_bytes = plan->limit_bytes,
                                         .lanes = plan->numa_nodes};
    plan->fits = build_size_settle(params, &plan->shape, &request, &plan->size);
    plan->lanes = 1;
    while (plan->lanes < MIN(plan->numa_nodes, plan->size.shard_count) &&
           build_size_peak_bytes(&plan->size, plan->lanes + 1) <= plan->limit_bytes)
        plan->lanes++;
    return STATUS_OK;
}

static enum status numa_count(const struct build_params *params, uint32_t *count, struct error *err)
{
    struct topology *topology = NULL;
    *count = 1;
    if (!params->numa)
        return STATUS_OK;
    enum status status = topology_load(&topology, err);
    if (status == STATUS_OK)
        *count = topology_numa_count(topology);
    topology_destroy(topology);
    return status;
}

/* What is read of `file`, or, where that is NULL, would be of vectors of `shape`; and as what it is
 * stored. */
static enum status shape_plan(const struct build_params *params, const struct vector_shape *shape,
                              struct vector_file *file, struct build_plan *plan, struct error *err)
{
    enum status status = STATUS_OK;
    plan->given = file != NULL ? vector_file_shape(file).type : shape->type;
    if (file != NULL && params->store != ELEMENT_NONE)
        status = vector_file_store_as(file, params->store, err);
    if (status != STATUS_OK)
        return status;
    plan->shape = file != NULL ? vector_file_shape(file) : *shape;
    if (file != NULL || params->store == ELEMENT_NONE)
        return STATUS_OK;
    if (!element_may_store(plan->given, params->store))
        return error_set(err, STATUS_INVALID, "%s vectors cannot be stored as %s",
                         element_name(plan->given), element_name(params->store));
    plan->shape.type = params->store;
    return STATUS_OK;
}

enum status build_plan_make(const struct build_params *params, const struct vector_shape *shape,
                            struct build_plan *plan, struct error *err)
{
    struct plan_run run = {.params = *params};
    struct build_plan made = {0};
    struct vector_file *file = NULL;
    int threads_before = omp_get_max_threads();

    if (run.params.threads == 0)
        run.params.threads = (uint32_t)MIN(omp_get_num_procs(), (int)BUILD_THREADS_MAX);
    made.threads = run.params.threads;
    enum status status = build_params_check(&run.params, err);
    if (status == STATUS_OK && params->input != NULL)
        status = vector_file_open(params->input, &file, err);
    if (status == STATUS_OK)
        status = shape_plan(params, shape, file, &made, err);
    if (status == STATUS_OK)
        status = scan_shape_check(file != NULL ? params->input : "the plan", &made.shape, err);
    if (status == STATUS_OK)
        status = build_code_bytes_resolve(&run.params, &made.shape, err);
    if (status == STATUS_OK)
        status = build_attributes_look(&run.params, err);
    made.attributes = run.params.attribute_extent;
    if (status == STATUS_OK)
        status = numa_count(params, &made.numa_nodes, err);
    if (status == STATUS_OK)
        status = size_plan(&run.params, &made, err);
    if (status == STATUS_OK) {
        omp_set_num_threads((int)made.threads);
        status = sample_make(&run, file, &made.shape, err);
        if (status == STATUS_OK)
            status = calibrate(&run, err);
        omp_set_num_threads(threads_before);
    }
    if (status == STATUS_OK) {
        made.calibration_rows = run.set.count;
        scale(&run, &made);
        *plan = made;
    }
    vector_file_close(file);
    codec_destroy(run.codec);
    graph_result_destroy(&run.graph);
    bulk_free(run.packed, run.set.count, run.packed_bytes);
    vector_set_destroy(&run.set);
    return status;
}
