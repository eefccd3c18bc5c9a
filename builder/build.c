/*
 * build.c - runs the stages of a build in order and owns what passes between them.
 *
 * Each array is freed right after the last stage that reads it, because the peak of a build is what
 * its owner pays for: the graph (largest of all) goes as soon as its nodes are packed, which is why
 * the sample searches for the hot list come before packing though their result is ranked after it.
 *
 * Nothing is left behind on failure: the output directory is created first (so that an unwritable
 * one costs no hours) and removed by the writer's abort. A killed build leaves a directory without
 * manifest.json, which nothing opens.
 *
 * One thread calls; stages use the OpenMP team, whose size is restored at the end.
 */
#include "builder/build.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "builder/build_monitor.h"
#include "builder/build_size.h"
#include "builder/encode.h"
#include "builder/hot_list.h"
#include "builder/ingest.h"
#include "builder/navigation_build.h"
#include "builder/pack.h"
#include "builder/vamana.h"
#include "builder/write_blocks.h"
#include "common/memory.h"
#include "common/version.h"
#include "layout/generation.h"

enum { MIB = 1 << 20 };

struct build {
    struct build_params params; /* code_bytes and threads resolved */
    struct progress progress;
    struct build_monitor monitor;
    struct vector_file *file;
    struct vector_shape shape;
    struct build_size size;
    struct generation_writer *writer;
    struct ingest_result input;
    struct codec *codec;
    struct vamana_result vamana;
    struct hot_visits visits;
    struct pack_result pack;
    struct manifest manifest;
    struct build_report report;
    uint64_t written_bytes;
};

/* ---- parameters ---- */

static enum status range_check(const char *name, uint64_t value, uint64_t min, uint64_t max,
                               struct error *err)
{
    if (value < min || value > max) {
        return error_set(err, STATUS_INVALID, "%s %llu is outside %llu..%llu", name,
                         (unsigned long long)value, (unsigned long long)min,
                         (unsigned long long)max);
    }
    return STATUS_OK;
}

enum status build_params_check(const struct build_params *params, struct error *err)
{
    if (params->input == NULL)
        return error_set(err, STATUS_INVALID, "no input file is named");
    if (params->metric != METRIC_L2 && params->metric != METRIC_IP &&
        params->metric != METRIC_COSINE)
        return error_set(err, STATUS_INVALID, "unknown metric; l2, ip or cosine is wanted");
    if (params->codec != CODEC_PQ)
        return error_set(err, STATUS_INVALID, "unknown codec; product quantization is wanted");
    enum status status =
        range_check("degree", params->degree, BUILD_DEGREE_MIN, BUILD_DEGREE_MAX, err);
    if (status == STATUS_OK)
        status = range_check("build list", params->build_list, 1, BUILD_LIST_MAX, err);
    if (status == STATUS_OK)
        status = range_check("code bytes", params->code_bytes, 1, VECTOR_DIM_MAX, err);
    if (status == STATUS_OK)
        status = range_check("threads", params->threads, 0, BUILD_THREADS_MAX, err);
    if (status == STATUS_OK)
        status = range_check("block bytes", params->block_bytes, 0, BLOCK_BYTES_MAX, err);
    if (status != STATUS_OK)
        return status;
    if (params->block_bytes % BLOCK_PAGE_BYTES != 0) {
        return error_set(err, STATUS_INVALID, "block bytes %u is not a multiple of %d",
                         params->block_bytes, BLOCK_PAGE_BYTES);
    }
    if (!(params->alpha >= 1.0 && params->alpha <= BUILD_ALPHA_MAX)) {
        return error_set(err, STATUS_INVALID, "alpha %g is outside 1..%d", params->alpha,
                         BUILD_ALPHA_MAX);
    }
    if (!(params->navigation_share >= 0.0 && params->navigation_share <= 1.0)) {
        return error_set(err, STATUS_INVALID, "navigation share %g is outside 0..1",
                         params->navigation_share);
    }
    return STATUS_OK;
}

/* ---- before the first row ---- */

static enum status memory_check(const struct build *b, struct error *err)
{
    const struct build_size *size = &b->size;
    uint64_t budget = b->params.memory_bytes;
    uint64_t available = memory_available();
    bool asked = budget != 0 && (available == 0 || budget <= available);
    uint64_t limit = asked ? budget : available;

    if (limit == 0 || size->memory_bytes <= limit)
        return STATUS_OK;
    unsigned long long need_mib = (size->memory_bytes + MIB - 1) / MIB;
    return error_set(
        err, STATUS_NO_MEMORY,
        "%s: building %llu x %u %s at degree %u takes %lluM (vectors %lluM + %s stage %lluM + "
        "program "
        "%lluM), but %s %lluM; the smallest budget that would do is %lluM",
        b->params.input, (unsigned long long)b->shape.count, b->shape.dim,
        element_name(b->shape.type), b->params.degree, need_mib,
        (unsigned long long)size->rows_bytes / MIB, build_stage_name(size->memory_stage),
        (unsigned long long)(size->memory_bytes - size->rows_bytes - size->fixed_bytes) / MIB,
        (unsigned long long)size->fixed_bytes / MIB,
        asked ? "the memory budget is" : "this machine can spare", (unsigned long long)limit / MIB,
        need_mib);
}

/* Refuses what cannot possibly fit, before hours are spent on it. */
static enum status disk_check(const struct build *b, struct error *err)
{
    struct statvfs disk;

    if (statvfs(b->params.output, &disk) != 0)
        return error_set_os(err, errno, "%s: cannot tell the free disk space", b->params.output);
    uint64_t unit = disk.f_frsize;
    uint64_t available =
        disk.f_bavail > UINT64_MAX / unit ? UINT64_MAX : (uint64_t)disk.f_bavail * unit;
    if (available < b->size.disk_least_bytes) {
        return error_set(err, STATUS_IO,
                         "%s: no space left: the index takes %lluM at the least and %lluM are free",
                         b->params.output,
                         (unsigned long long)(b->size.disk_least_bytes + MIB - 1) / MIB,
                         (unsigned long long)available / MIB);
    }
    return STATUS_OK;
}

static void manifest_begin(struct build *b)
{
    struct manifest *m = &b->manifest;

    m->format_version = MANIFEST_FORMAT_VERSION;
    snprintf(m->tool_version, sizeof(m->tool_version), "%s", NIGHTJAR_VERSION);
    m->vector_count = b->shape.count;
    m->dim = b->shape.dim;
    m->type = b->shape.type;
    m->metric = b->params.metric;
    m->codec_kind = b->params.codec;
    m->code_bytes = b->params.code_bytes;
    m->degree = b->params.degree;
    m->build_list = b->params.build_list;
    m->alpha = b->params.alpha;
    m->seed = b->params.seed;
    m->block_bytes_asked = b->params.block_bytes;
    m->navigation_share = b->params.navigation_share;
}

/* Everything that can be refused without reading a row; then the output directory. */
static enum status build_begin(struct build *b, struct error *err)
{
    enum status status = build_params_check(&b->params, err);
    if (status == STATUS_OK && b->params.output == NULL)
        status = error_set(err, STATUS_INVALID, "no output directory is named");
    if (status != STATUS_OK)
        return status;
    status = vector_file_open(b->params.input, &b->file, err);
    if (status != STATUS_OK)
        return status;
    b->shape = vector_file_shape(b->file);
    status = ingest_shape_check(b->params.input, &b->shape, err);
    if (status != STATUS_OK)
        return status;
    b->params.code_bytes = MIN(b->params.code_bytes, b->shape.dim);
    build_size_compute(&b->params, &b->shape, &b->size);
    b->report.threads = b->params.threads;
    b->report.memory_planned_bytes = b->size.memory_bytes;
    status = memory_check(b, err);
    if (status != STATUS_OK)
        return status;
    status = generation_writer_open(b->params.output, &b->writer, err);
    if (status != STATUS_OK)
        return status;
    manifest_begin(b);
    return disk_check(b, err);
}

/* ---- stages ---- */

static enum status append(struct build *b, enum generation_file file, const void *data,
                          size_t bytes, struct error *err)
{
    b->written_bytes += bytes;
    return generation_writer_append(b->writer, file, data, bytes, err);
}

static enum status stage_ingest(struct build *b, struct error *err)
{
    enum status status =
        ingest_run(b->file, b->params.metric, b->params.keys, &b->monitor, &b->input, err);
    if (status != STATUS_OK)
        return status;
    vector_file_close(b->file);
    b->file = NULL;
    b->manifest.input_digest = b->input.input_digest;
    b->manifest.duplicate_vectors = b->input.duplicate_vectors;
    b->manifest.norm_max = (double)b->input.set.norm_max;
    b->manifest.generation_id = manifest_generation_id(&b->manifest);
    return STATUS_OK;
}

static enum status stage_train(struct build *b, struct error *err)
{
    struct codec_params params = {
        .kind = b->params.codec,
        .metric = b->params.metric,
        .type = b->shape.type,
        .dim = b->shape.dim,
        .code_bytes = b->params.code_bytes,
        .seed = b->params.seed,
        .norm_max = b->input.set.norm_max,
    };
    return encode_train(&b->input.set, &params, &b->codec, err);
}

static int on_graph_progress(void *context, uint64_t done, uint64_t total)
{
    const struct build *b = context;

    (void)total;
    progress_update(b->monitor.progress, done);
    return build_monitor_cancelled(&b->monitor);
}

static enum status stage_graph(struct build *b, struct error *err)
{
    struct vamana_params params = {
        .degree = b->params.degree,
        .build_list = b->params.build_list,
        .alpha = (float)b->params.alpha,
        .seed = b->params.seed,
        .progress = on_graph_progress,
        .progress_context = b,
    };
    enum status status = vamana_build(&b->input.set, &params, &b->vamana, err);
    if (status == STATUS_OK)
        b->manifest.repaired_nodes = b->vamana.repaired_nodes;
    return status;
}

static enum status stage_visits(struct build *b, struct error *err)
{
    return hot_visits_collect(&b->input.set, &b->vamana.graph, b->vamana.entry, b->params.seed,
                              &b->monitor, &b->visits, err);
}

static enum status stage_pack(struct build *b, struct error *err)
{
    struct pack_params params = {
        .dim_bytes = (uint32_t)(b->shape.dim * element_bytes(b->shape.type)),
        .block_bytes = b->params.block_bytes,
        .adjacency = BLOCK_ADJACENCY_GAPS,
        .entry = b->vamana.entry,
        .seed = b->params.seed,
        .generation_seed = b->manifest.generation_id.low,
    };
    enum status status = pack_graph(&b->vamana.graph, &params, &b->pack, err);
    if (status != STATUS_OK)
        return status;
    graph_destroy(&b->vamana.graph);
    b->manifest.geometry = b->pack.geometry;
    b->manifest.block_count = b->pack.block_count;
    b->manifest.mean_degree = b->pack.mean_degree;
    b->manifest.block_mate_share = b->pack.block_mate_share;
    b->manifest.trimmed_edges = b->pack.trimmed_edges;
    return STATUS_OK;
}

static enum status stage_encode(struct build *b, struct error *err)
{
    uint8_t *codes = NULL;
    uint8_t *image = NULL;
    size_t image_bytes = 0;
    uint32_t node_limit = b->pack.geometry.node_limit;
    size_t code_bytes = b->params.code_bytes;

    enum status status = encode_nodes(&b->input.set, b->codec, b->pack.row_of_node, node_limit,
                                      &b->monitor, &codes, err);
    if (status == STATUS_OK)
        status = append(b, GENERATION_CODES, codes, node_limit * code_bytes, err);
    if (status == STATUS_OK)
        status = codec_serialize(b->codec, &image, &image_bytes, err);
    if (status == STATUS_OK)
        status = append(b, GENERATION_CODEC, image, image_bytes, err);
    free(image);
    bulk_free(codes, node_limit, code_bytes);
    codec_destroy(b->codec);
    b->codec = NULL;
    return status;
}

static enum status hot_list_write(struct build *b, struct error *err)
{
    struct hot_numbering numbering = {
        .node_of_row = b->pack.node_of_row,
        .node_limit = b->pack.geometry.node_limit,
        .nodes_per_block = b->pack.geometry.nodes_per_block,
    };
    uint32_t *nodes = NULL;

    enum status status = hot_list_rank(&b->visits, &numbering, &nodes, &b->manifest.hot_count, err);
    if (status == STATUS_OK) {
        status =
            append(b, GENERATION_HOT, nodes, (size_t)b->manifest.hot_count * sizeof(*nodes), err);
    }
    free(nodes);
    hot_visits_destroy(&b->visits);
    return status;
}

static enum status stage_navigation(struct build *b, struct error *err)
{
    struct navigation_image image = {0};

    enum status status = hot_list_write(b, err);
    if (status != STATUS_OK)
        return status;
    struct navigation_params params = {
        .node_of_row = b->pack.node_of_row,
        .sample_count = navigation_sample_count(b->input.set.count, b->params.navigation_share),
        .entry = b->vamana.entry,
        .seed = b->params.seed,
    };
    status = navigation_build(&b->input.set, &params, &b->monitor, &image, err);
    if (status == STATUS_OK) {
        b->manifest.navigation_count = image.count;
        status = append(b, GENERATION_NAVIGATION, image.bytes, image.length, err);
    }
    bulk_free(image.bytes, image.length, 1);
    return status;
}

static enum status stage_write(struct build *b, struct error *err)
{
    enum status status =
        write_blocks(&b->input.set, &b->pack, b->input.keys, &b->monitor, b->writer, err);
    b->written_bytes += b->pack.block_count * b->pack.geometry.block_bytes;
    return status;
}

typedef enum status (*stage_fn)(struct build *b, struct error *err);

struct stage {
    stage_fn run;
    const char *unit;
};

static const struct stage stages[BUILD_STAGE_COUNT] = {
    [BUILD_STAGE_INGEST] = {stage_ingest, "rows"},
    [BUILD_STAGE_TRAIN] = {stage_train, "rows"},
    [BUILD_STAGE_GRAPH] = {stage_graph, "rows"},
    [BUILD_STAGE_VISITS] = {stage_visits, "queries"},
    [BUILD_STAGE_PACK] = {stage_pack, "rows"},
    [BUILD_STAGE_ENCODE] = {stage_encode, "nodes"},
    [BUILD_STAGE_NAVIGATION] = {stage_navigation, "nodes"},
    [BUILD_STAGE_WRITE] = {stage_write, "blocks"},
};

static uint64_t stage_total(const struct build *b, enum build_stage stage)
{
    switch (stage) {
    case BUILD_STAGE_TRAIN:
        return encode_sample_rows((uint32_t)b->shape.count);
    case BUILD_STAGE_VISITS:
        return MIN(b->shape.count, (uint64_t)HOT_QUERIES_MAX);
    case BUILD_STAGE_ENCODE:
        return b->pack.geometry.node_limit;
    case BUILD_STAGE_NAVIGATION:
        return navigation_sample_count((uint32_t)b->shape.count, b->params.navigation_share);
    case BUILD_STAGE_WRITE:
        return b->pack.block_count;
    default:
        return b->shape.count;
    }
}

static enum status stages_run(struct build *b, struct error *err)
{
    for (unsigned i = 0; i < BUILD_STAGE_COUNT; i++) {
        struct build_clock clock = build_clock_now();
        uint64_t total = stage_total(b, (enum build_stage)i);

        b->written_bytes = 0;
        progress_begin(&b->progress, build_stage_name((enum build_stage)i), total, stages[i].unit);
        enum status status = stages[i].run(b, err);
        if (status == STATUS_OK)
            progress_update(&b->progress, total);
        progress_end(&b->progress);
        if (build_monitor_cancelled(&b->monitor))
            status = build_monitor_check(&b->monitor, err);
        if (status != STATUS_OK)
            return status;
        build_clock_measure(&clock, &b->report.stages[i]);
        b->report.stages[i].written_bytes = b->written_bytes;
        b->report.total.written_bytes += b->written_bytes;
    }
    return STATUS_OK;
}

/* ---- the end ---- */

/* The report goes first: the manifest is what makes the directory a generation, and nothing in it
 * changes after. */
static enum status build_finish(struct build *b, const struct build_clock *clock, struct error *err)
{
    char *json = NULL;

    build_clock_measure(clock, &b->report.total);
    b->report.points_per_second_core = (double)b->shape.count / fmax(b->report.total.cpu_s, 1e-9);
    enum status status = build_report_format(&b->report, &b->manifest, &json, err);
    if (status == STATUS_OK)
        status = generation_write_text(b->params.output, GENERATION_REPORT_NAME, json, err);
    free(json);
    if (status == STATUS_OK)
        status = generation_writer_finish(b->writer, &b->manifest, err);
    if (status == STATUS_OK) {
        b->writer = NULL;
        build_clock_measure(clock, &b->report.total);
    }
    return status;
}

static void build_release(struct build *b)
{
    vector_file_close(b->file);
    ingest_result_destroy(&b->input);
    codec_destroy(b->codec);
    graph_destroy(&b->vamana.graph);
    hot_visits_destroy(&b->visits);
    pack_result_destroy(&b->pack);
    generation_writer_abort(b->writer);
}

static void summary_fill(const struct build *b, struct build_summary *summary)
{
    summary->manifest = b->manifest;
    summary->report = b->report;
    summary->disk_bytes = 0;
    for (unsigned file = 0; file < GENERATION_FILE_COUNT; file++)
        summary->disk_bytes += b->manifest.files[file].bytes;
}

enum status build_run_summary(const struct build_params *params, struct build_summary *summary,
                              struct error *err)
{
    struct build_clock clock = build_clock_now();
    int threads_before = omp_get_max_threads();

    struct build *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the build's state");
    b->params = *params;
    if (b->params.threads == 0)
        b->params.threads = (uint32_t)MIN(omp_get_num_procs(), (int)BUILD_THREADS_MAX);
    progress_init(&b->progress, params->quiet);
    b->monitor = (struct build_monitor){.progress = &b->progress, .cancel = params->cancel};

    enum status status = build_begin(b, err);
    if (status == STATUS_OK) {
        omp_set_num_threads((int)b->params.threads);
        status = stages_run(b, err);
        if (status == STATUS_OK)
            status = build_finish(b, &clock, err);
        omp_set_num_threads(threads_before);
    }
    if (status == STATUS_OK && summary != NULL)
        summary_fill(b, summary);
    build_release(b);
    free(b);
    return status;
}

enum status build_run(const struct build_params *params, struct error *err)
{
    return build_run_summary(params, NULL, err);
}
