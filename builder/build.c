/*
 * build.c - runs the stages of a build in order, each piece once, and carries what passes between
 * them.
 *
 * All results go through the work directory, also from one stage of a process to its next: what a
 * stage needs it loads, so a build that goes on after a kill, or in another process, takes no other
 * path than one that was never stopped.
 *
 * One thread calls; lanes.c spreads a stage's shards over NUMA nodes.
 */
#include "builder/build.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "builder/build_internal.h"
#include "common/file_io.h"
#include "common/memory.h"
#include "common/version.h"
#include "layout/store.h"

enum {
    MIB = 1 << 20,
    JOB_BYTES = 2048,
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

static enum status real_check(const char *name, double value, double min, double max,
                              struct error *err)
{
    if (!(value >= min && value <= max))
        return error_set(err, STATUS_INVALID, "%s %g is outside %g..%g", name, value, min, max);
    return STATUS_OK;
}

/* What of the build list matters: 0 where there is none. */
static uint32_t build_list_of(const struct build_params *params)
{
    return params->graph == GRAPH_VAMANA ? params->build_list : 0;
}

enum status build_params_check(const struct build_params *params, struct error *err)
{
    const struct {
        const char *name;
        uint64_t value, min, max;
    } ranges[] = {
        {"degree", params->degree, BUILD_DEGREE_MIN, BUILD_DEGREE_MAX},
        {"build list", build_list_of(params), params->graph == GRAPH_VAMANA, BUILD_LIST_MAX},
        {"code bytes", params->code_bytes, params->codec != CODEC_SCALAR, VECTOR_DIM_MAX},
        {"threads", params->threads, 0, BUILD_THREADS_MAX},
        {"shards", params->shards, 0, PARTITION_SHARDS_MAX},
        {"block bytes", params->block_bytes, 0, BLOCK_BYTES_MAX},
    };
    enum status status = STATUS_OK;

    if (params->metric != METRIC_L2 && params->metric != METRIC_IP &&
        params->metric != METRIC_COSINE)
        return error_set(err, STATUS_INVALID, "unknown metric; l2, ip or cosine is wanted");
    if (params->codec != CODEC_PQ && params->codec != CODEC_OPQ && params->codec != CODEC_SCALAR &&
        params->codec != CODEC_AUTO)
        return error_set(err, STATUS_INVALID, "unknown codec; pq, opq, scalar or auto is wanted");
    for (size_t i = 0; status == STATUS_OK && i < ARRAY_LENGTH(ranges); i++)
        status = range_check(ranges[i].name, ranges[i].value, ranges[i].min, ranges[i].max, err);
    if (status == STATUS_OK && params->block_bytes % BLOCK_PAGE_BYTES != 0)
        status = error_set(err, STATUS_INVALID, "block bytes %u is not a multiple of %d",
                           params->block_bytes, BLOCK_PAGE_BYTES);
    if (status == STATUS_OK)
        status = real_check("alpha", params->alpha, 1, BUILD_ALPHA_MAX, err);
    if (status == STATUS_OK)
        status = real_check("replication", params->replication, 1, BUILD_REPLICATION_MAX, err);
    if (status == STATUS_OK)
        status = real_check("navigation share", params->navigation_share, 0, 1, err);
    return status;
}

enum status build_attributes_look(struct build_params *params, struct error *err)
{
    params->attribute_extent = (struct attribute_extent){0};
    return params->attributes != NULL
               ? attribute_extent_look(params->attributes, &params->attribute_extent, err)
               : STATUS_OK;
}

/* ---- what is read ---- */

static enum status source_look(const char *path, struct build_source *source, struct error *err)
{
    struct stat info;
    int os_error = stat(path, &info) == 0 ? 0 : errno;
    if (os_error == ENOENT)
        return error_set(err, STATUS_NOT_FOUND, "%s: no such file", file_label(path));
    if (os_error != 0)
        return error_set_os(err, os_error, "%s: cannot be looked at", file_label(path));
    *source = (struct build_source){
        .bytes = (uint64_t)info.st_size,
        .modified = info.st_mtim,
        .inode = (uint64_t)info.st_ino,
    };
    return STATUS_OK;
}

/* The inode is left out: work may go on with a copy that has the original's time. */
static void source_format(const struct build_source *source, const char *name, char *text,
                          size_t bytes)
{
    snprintf(text, bytes, "%s_bytes %llu\n%s_modified %lld.%09ld\n", name,
             (unsigned long long)source->bytes, name, (long long)source->modified.tv_sec,
             source->modified.tv_nsec);
}

static enum status source_check(const char *path, const struct build_source *source,
                                struct error *err)
{
    struct build_source now = {0};
    enum status status = source_look(path, &now, err);
    if (status != STATUS_OK)
        return status;
    if (now.bytes == source->bytes && now.inode == source->inode &&
        now.modified.tv_sec == source->modified.tv_sec &&
        now.modified.tv_nsec == source->modified.tv_nsec)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID, "%s: changed while it was read", file_label(path));
}

/* After a stage that read the input: several stages do, and all must have read the same. What they
 * left is of no use otherwise, and should the file get its old time back it would seem to be. */
static enum status sources_check(const struct build *b, struct error *err)
{
    enum status status = source_check(b->params.input, &b->input, err);
    if (status == STATUS_OK && b->params.keys != NULL)
        status = source_check(b->params.keys, &b->keys, err);
    if (status == STATUS_OK && b->params.attributes != NULL)
        status = source_check(b->params.attributes, &b->attributes, err);
    for (unsigned stage = 0; status != STATUS_OK && stage <= BUILD_STAGE_PARTITION; stage++)
        work_piece_forget(b->work, (struct work_piece){(enum build_stage)stage, WORK_WHOLE});
    return status;
}

/* ---- before the first row ---- */

static enum status memory_refuse(const struct build *b, uint64_t limit, bool asked,
                                 struct error *err)
{
    const struct build_size *size = &b->size;
    unsigned long long need_mib = (size->memory_bytes + MIB - 1) / MIB;
    return error_set(
        err, STATUS_NO_MEMORY,
        "%s: building %llu x %u %s at degree %u in %u shards takes %lluM (%s stage: %lluM for a "
        "shard of %llu rows + %lluM for all rows + %lluM for program and threads), but %s %lluM; "
        "the smallest budget that would do is %lluM",
        b->params.input, (unsigned long long)b->shape.count, b->shape.dim,
        element_name(b->shape.type), b->params.degree, size->shard_count, need_mib,
        build_stage_name(size->memory_stage),
        (unsigned long long)size->shard_bytes[size->memory_stage] / MIB,
        (unsigned long long)(size->own_max + size->borrowed_max),
        (unsigned long long)size->shared_bytes[size->memory_stage] / MIB,
        (unsigned long long)size->fixed_bytes / MIB,
        asked ? "the memory budget is" : "this machine can spare", (unsigned long long)limit / MIB,
        need_mib);
}

/* The number of shards that an earlier run has settled in its job, or 0. What the machine can spare
 * may be another by now, and the same command is to go on with the same shards. */
static uint32_t shards_of_job(const struct build *b)
{
    uint64_t shards = 0;
    return work_job_number(b->work_path, "shards", &shards) && shards <= PARTITION_SHARDS_MAX
               ? (uint32_t)shards
               : 0;
}

/* The number of shards, and whether they fit. Lanes share the limit, so with several NUMA nodes the
 * shards are made small enough for all of them to be at work, unless the whole fits at once. */
static enum status memory_plan(struct build *b, struct error *err)
{
    uint64_t budget = b->params.memory_bytes;
    uint64_t available = memory_available();
    bool asked = budget != 0 && (available == 0 || budget <= available);
    uint64_t limit = asked ? budget : available;

    b->memory_limit = limit == 0 ? UINT64_MAX : limit;
    enum status status = build_shards_check(&b->params, &b->shape, err);
    if (status != STATUS_OK)
        return status;
    struct build_size_request request = {
        .limit_bytes = b->memory_limit,
        .lanes = b->numa_count,
        .earlier = shards_of_job(b),
    };
    bool fits = build_size_settle(&b->params, &b->shape, &request, &b->size);
    return fits ? STATUS_OK : memory_refuse(b, limit, asked, err);
}

static enum status disk_check(const char *path, uint64_t needed, const char *what,
                              struct error *err)
{
    struct statvfs disk;

    if (statvfs(path, &disk) != 0)
        return error_set_os(err, errno, "%s: cannot tell the free disk space", path);
    uint64_t unit = disk.f_frsize;
    uint64_t available =
        disk.f_bavail > UINT64_MAX / unit ? UINT64_MAX : (uint64_t)disk.f_bavail * unit;
    if (available < needed) {
        return error_set(err, STATUS_IO,
                         "%s: no space left: %s takes %lluM at the least and %lluM are free", path,
                         what, (unsigned long long)(needed + MIB - 1) / MIB,
                         (unsigned long long)available / MIB);
    }
    return STATUS_OK;
}

/* All that the bytes of the generation depend on, a line each. */
static void job_format(const struct build *b, char *text, size_t bytes)
{
    const struct build_params *p = &b->params;
    char input[160];
    char keys[160] = "keys none\n";
    char attributes[160] = "attributes none\n";

    source_format(&b->input, "input", input, sizeof(input));
    if (p->keys != NULL)
        source_format(&b->keys, "keys", keys, sizeof(keys));
    if (p->attributes != NULL)
        source_format(&b->attributes, "attributes", attributes, sizeof(attributes));
    snprintf(
        text, bytes,
        "nightjar-build %s\nformat %d\n%s%s%svectors %llu\ndim %u\ntype %s\nstored %s\nmetric %s\n"
        "degree %u\ngraph %s\nbuild-list %u\nalpha %.17g\ncodec %d\ncode-bytes %u\nblock-bytes %u\n"
        "navigation %.17g\nseed %llu\nshards %u\nreplication %.17g\n"
        "tune-queries %u %016llx%016llx\ncalibrate %d\n",
        NIGHTJAR_VERSION, MANIFEST_FORMAT_VERSION, input, keys, attributes,
        (unsigned long long)b->shape.count, b->shape.dim,
        element_name(vector_file_shape_given(b->file).type), element_name(b->shape.type),
        metric_name(p->metric), p->degree, graph_kind_name(p->graph), build_list_of(p), p->alpha,
        (int)p->codec, p->code_bytes, p->block_bytes, p->navigation_share,
        (unsigned long long)p->seed, b->size.shard_count, b->size.replication, b->tune.count,
        (unsigned long long)b->tune.digest.high, (unsigned long long)b->tune.digest.low,
        p->calibrate != NULL);
}

static void work_path_set(struct build *b)
{
    const char *output = b->params.output;
    size_t length = strlen(output);

    while (length > 1 && output[length - 1] == '/')
        length--;
    if (b->params.work != NULL)
        snprintf(b->work_path, sizeof(b->work_path), "%s", b->params.work);
    else
        snprintf(b->work_path, sizeof(b->work_path), "%.*s.work", (int)length, output);
}

static enum status work_begin(struct build *b, struct error *err)
{
    char job[JOB_BYTES];
    enum status status = STATUS_OK;

    if (b->params.keys != NULL)
        status = source_look(b->params.keys, &b->keys, err);
    if (status == STATUS_OK && b->params.attributes != NULL)
        status = source_look(b->params.attributes, &b->attributes, err);
    if (status != STATUS_OK)
        return status;
    job_format(b, job, sizeof(job));
    status =
        work_open(b->work_path, job, b->params.one_stage ? WORK_SHARED : WORK_ALONE, &b->work, err);
    if (status == STATUS_OK)
        b->fresh = work_is_empty(b->work);
    return status;
}

static enum status lanes_begin(struct build *b, struct error *err)
{
    uint64_t shard_bytes = 0;
    uint64_t shared_bytes = 0;

    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        if (b->size.shard_bytes[stage] > 0) {
            shard_bytes = MAX(shard_bytes, b->size.shard_bytes[stage]);
            shared_bytes = MAX(shared_bytes, b->size.shared_bytes[stage]);
        }
    struct topology_lane one = {.numa = TOPOLOGY_ANY, .threads = b->params.threads};
    struct topology_lane *lanes = calloc(MAX(b->numa_count, 1u), sizeof(*lanes));
    if (lanes == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for lanes");
    lanes[0] = one;
    b->lanes = (struct lanes){.topology = b->topology, .lanes = lanes, .lane_count = 1};
    if (b->numa_count < 2 || b->size.shard_count < 2 || b->params.one_stage)
        return STATUS_OK;
    struct topology_lane_request request = {
        .threads = b->params.threads,
        .shard_count = b->size.shard_count,
        .shard_bytes = shard_bytes,
        .memory_bytes = b->memory_limit,
        .fixed_bytes = b->size.fixed_bytes + shared_bytes,
    };
    b->lanes.lane_count =
        topology_plan_lanes(topology_numa(b->topology, 0), b->numa_count, &request, lanes);
    if (b->lanes.lane_count == 1) /* all CPUs on one shard, wherever its memory is */
        lanes[0] = one;
    return STATUS_OK;
}

static enum status topology_begin(struct build *b, struct error *err)
{
    if (!b->params.numa)
        return STATUS_OK;
    enum status status = topology_load(&b->topology, err);
    if (status == STATUS_OK)
        b->numa_count = topology_numa_count(b->topology);
    return status;
}

static void manifest_begin(struct build *b)
{
    struct manifest *m = &b->manifest;

    m->format_version = MANIFEST_FORMAT_VERSION;
    snprintf(m->tool_version, sizeof(m->tool_version), "%s", NIGHTJAR_VERSION);
    m->vector_count = b->shape.count;
    m->dim = b->shape.dim;
    m->type = b->shape.type;
    m->query_type = vector_file_shape_given(b->file).type;
    m->metric = b->params.metric;
    if (b->params.codec == CODEC_AUTO)
        m->codec_asked = CODEC_AUTO; /* the kind is known when the train stage is done */
    else
        m->codec_kind = b->params.codec;
    m->code_bytes = b->params.code_bytes;
    m->degree = b->params.degree;
    m->build_list = build_list_of(&b->params);
    m->alpha = b->params.alpha;
    m->seed = b->params.seed;
    m->block_bytes_asked = b->params.block_bytes;
    m->navigation_share = b->params.navigation_share;
    m->shard_count = b->size.shard_count;
    m->replication = b->size.replication;
    m->tune_digest = b->tune.digest;
}

static enum status stage_choice_check(const struct build *b, struct error *err)
{
    const struct build_params *p = &b->params;
    if (!p->one_stage || p->shard == WORK_WHOLE)
        return STATUS_OK;
    if (!build_stage_sharded(p->stage))
        return error_set(err, STATUS_INVALID, "stage %s has no shards", build_stage_name(p->stage));
    if (p->shard >= b->size.shard_count)
        return error_set(err, STATUS_INVALID, "shard %u: there are %u, from 0", p->shard,
                         b->size.shard_count);
    return STATUS_OK;
}

/* ---- output ---- */

void build_output_path(const struct build *b, const char *name, char path[BUILD_PATH_BYTES])
{
    snprintf(path, BUILD_PATH_BYTES, "%s/%s", b->params.output, name);
}

/* Some pieces are bytes of the output: where a file of it is gone, so are they. */
static void output_missed(const struct build *b)
{
    bool missing = false;
    for (unsigned file = 0; file < GENERATION_FILE_COUNT; file++) {
        char path[BUILD_PATH_BYTES];
        if (file == GENERATION_ATTRIBUTES && b->params.attributes == NULL)
            continue; /* a run that was killed at its very end has removed it */
        build_output_path(b, generation_file_names[file], path);
        missing = missing || (access(path, F_OK) != 0 && errno == ENOENT);
    }
    if (!missing)
        return;
    work_piece_forget(b->work, (struct work_piece){BUILD_STAGE_NAVIGATION, WORK_WHOLE});
    work_piece_forget(b->work, (struct work_piece){BUILD_STAGE_KEYS, WORK_WHOLE});
    for (uint32_t s = 0; s < b->size.shard_count; s++)
        work_piece_forget(b->work, (struct work_piece){BUILD_STAGE_WRITE, s});
}

static bool directory_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && store_sync_directory(fd, path, NULL) == STATUS_OK;
    if (fd >= 0)
        close(fd);
    return synced;
}

/* Whether the output is complete and this build's: an earlier run was stopped after its last step
 * but before its work was removed. Then all that is left is that removal, once it is certain that
 * the output outlasts a power cut. */
static bool output_is_finished(struct build *b)
{
    struct generation *generation = NULL;
    struct manifest wanted = b->manifest;
    char parent[BUILD_PATH_BYTES];

    if (!work_same_job(b->work) || (b->params.one_stage && b->params.stage != BUILD_STAGE_CHECK) ||
        generation_open(b->params.output, &generation, NULL) != STATUS_OK)
        return false;
    const struct manifest *found = generation_manifest(generation);
    /* The record of the ingest stage may be removed already, and the job names the input. */
    wanted.input_digest = found->input_digest;
    if (build_stage_load(b, BUILD_STAGE_TRAIN, NULL) == STATUS_OK)
        wanted.input_digest = b->manifest.input_digest;
    struct digest128 id = manifest_generation_id(&wanted);
    bool same = id.low == found->generation_id.low && id.high == found->generation_id.high;
    b->manifest = *found;
    generation_close(generation);
    build_output_path(b, "..", parent);
    return same && directory_sync(b->params.output) && directory_sync(parent);
}

static enum status output_begin(struct build *b, struct error *err)
{
    if (!b->fresh)
        output_missed(b);
    enum status status =
        generation_writer_open(b->params.output, GENERATION_CONTINUE, &b->writer, err);
    if (status != STATUS_EXISTS || !output_is_finished(b))
        return status;
    b->finished = true;
    build_report_collect(b);
    return STATUS_OK;
}

/* The smallest list may be too much yet for a block that passes; packing tells. */
static enum status block_check_asked(const struct build *b, struct error *err)
{
    const struct block_geometry geometry = {
        .block_bytes = b->params.block_bytes,
        .vector_bytes = (uint32_t)element_vector_bytes(b->shape.type, b->shape.dim),
        .adjacency = BLOCK_ADJACENCY_GAPS,
    };
    if (geometry.block_bytes == 0 || block_list_budget(&geometry, 1) > 0)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID,
                     "block bytes %u: a block cannot hold one record of %u vector bytes",
                     geometry.block_bytes, geometry.vector_bytes);
}

/* Everything that can be refused without reading a row; then work and output directory. */
static enum status build_begin(struct build *b, struct error *err)
{
    enum status status = build_params_check(&b->params, err);
    if (status == STATUS_OK && b->params.input == NULL)
        status = error_set(err, STATUS_INVALID, "no input file is named");
    if (status == STATUS_OK && b->params.output == NULL)
        status = error_set(err, STATUS_INVALID, "no output directory is named");
    if (status == STATUS_OK) /* before it is opened: what is opened later is then found out */
        status = source_look(b->params.input, &b->input, err);
    if (status == STATUS_OK)
        status = vector_file_open(b->params.input, &b->file, err);
    if (status == STATUS_OK && b->params.store != ELEMENT_NONE)
        status = vector_file_store_as(b->file, b->params.store, err);
    if (status != STATUS_OK)
        return status;
    b->shape = vector_file_shape(b->file);
    status = scan_shape_check(b->params.input, &b->shape, err);
    if (status != STATUS_OK)
        return status;
    work_path_set(b);
    status = build_code_bytes_resolve(&b->params, &b->shape, err);
    if (status == STATUS_OK && b->params.tune_queries != NULL)
        status =
            tune_queries_load(b->params.tune_queries, b->file, b->params.metric, &b->tune, err);
    b->params.tune_count = b->tune.count;
    if (status == STATUS_OK)
        status = block_check_asked(b, err);
    if (status == STATUS_OK)
        status = build_attributes_look(&b->params, err);
    if (status == STATUS_OK)
        status = topology_begin(b, err);
    if (status == STATUS_OK)
        status = memory_plan(b, err);
    if (status == STATUS_OK)
        status = stage_choice_check(b, err);
    if (status == STATUS_OK)
        status = lanes_begin(b, err);
    if (status == STATUS_OK)
        status = work_begin(b, err);
    if (status != STATUS_OK)
        return status;
    manifest_begin(b);
    b->report.threads = b->params.threads;
    b->report.memory_planned_bytes = build_size_peak_bytes(&b->size, b->lanes.lane_count);
    b->report.shard_count = b->size.shard_count;
    status = output_begin(b, err);
    if (status != STATUS_OK || !b->fresh)
        return status;
    status = disk_check(b->params.output, b->size.disk_least_bytes, "the index", err);
    return status == STATUS_OK
               ? disk_check(b->work_path, b->size.disk_least_bytes, "the work directory", err)
               : status;
}

/* ---- running ---- */

struct shard_job {
    struct build *build;
    enum build_stage stage;
    struct build_share *share;
};

static enum status shard_piece_run(void *context, uint32_t shard, const struct lane_place *place,
                                   struct error *err)
{
    const struct shard_job *job = context;
    struct build *b = job->build;
    struct build_stage_record cost = {0};
    uint64_t reported = 0;
    struct build_monitor monitor = {.progress = &b->progress,
                                    .cancel = b->params.cancel,
                                    .share = job->share,
                                    .reported = &reported};
    struct build_shard_run run = {job->stage, shard, place};
    enum status status = build_monitor_check(&monitor, err);
    return status == STATUS_OK ? build_stage_shard_run(b, &run, &monitor, &cost, err) : status;
}

static enum status shards_run(struct build *b, enum build_stage stage, struct error *err)
{
    struct build_share share = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct shard_job job = {.build = b, .stage = stage, .share = &share};
    uint32_t pieces[PARTITION_SHARDS_MAX];
    uint32_t count = 0;
    uint32_t only = b->params.one_stage ? b->params.shard : WORK_WHOLE;

    for (uint32_t s = 0; s < b->plan.shard_count; s++) {
        if (work_piece_done(b->work, (struct work_piece){stage, s}))
            share.done += build_stage_shard_units(b, stage, s);
        else if (only == WORK_WHOLE || only == s)
            pieces[count++] = s;
    }
    return lanes_run(&b->lanes, pieces, count, shard_piece_run, &job, err);
}

static enum status whole_run(struct build *b, enum build_stage stage, struct error *err)
{
    struct build_stage_record cost = {0};
    struct build_monitor monitor = {.progress = &b->progress, .cancel = b->params.cancel};
    if (work_piece_done(b->work, (struct work_piece){stage, WORK_WHOLE}))
        return STATUS_OK;
    enum status status = build_stage_whole_run(b, stage, &monitor, &cost, err);
    if (stage > BUILD_STAGE_PARTITION || status == STATUS_CANCELLED)
        return status;
    /* If the stage failed too, that may be why. */
    enum status changed = sources_check(b, err);
    return changed != STATUS_OK ? changed : status;
}

/* Runs what is not done of a stage; all it builds on is done. */
static enum status stage_run(struct build *b, enum build_stage stage, struct error *err)
{
    struct build_monitor monitor = {.cancel = b->params.cancel};
    enum status status = build_stage_load(b, stage, err);
    if (status != STATUS_OK)
        return status;
    uint64_t total = build_stage_units(b, stage);
    progress_begin(&b->progress, build_stage_name(stage), total, build_stage_unit(stage));
    status = build_stage_sharded(stage) ? shards_run(b, stage, err) : whole_run(b, stage, err);
    if (status == STATUS_OK)
        progress_update(&b->progress, total);
    progress_end(&b->progress);
    /* Once the generation is complete it is too late to stop; and another failure says more. */
    if (!b->finished && (status == STATUS_OK || status == STATUS_CANCELLED) &&
        build_monitor_cancelled(&monitor))
        status = build_monitor_check(&monitor, err);
    return status;
}

static bool stage_done(const struct build *b, enum build_stage stage)
{
    if (!build_stage_sharded(stage))
        return work_piece_done(b->work, (struct work_piece){stage, WORK_WHOLE});
    for (uint32_t s = 0; s < b->size.shard_count; s++)
        if (!work_piece_done(b->work, (struct work_piece){stage, s}))
            return false;
    return true;
}

/* One stage, where a batch system runs them. */
static enum status stage_run_alone(struct build *b, struct error *err)
{
    for (unsigned before = 0; before < b->params.stage; before++)
        if (!stage_done(b, (enum build_stage)before))
            return error_set(err, STATUS_INVALID,
                             "stage %s builds on stage %s, which is not finished in %s",
                             build_stage_name(b->params.stage),
                             build_stage_name((enum build_stage)before), b->work_path);
    return stage_run(b, b->params.stage, err);
}

static enum status stages_run(struct build *b, struct error *err)
{
    if (b->finished)
        return STATUS_OK;
    if (b->params.one_stage)
        return stage_run_alone(b, err);
    enum status status = STATUS_OK;
    for (unsigned stage = 0; status == STATUS_OK && stage < BUILD_STAGE_COUNT; stage++)
        status = stage_run(b, (enum build_stage)stage, err);
    return status;
}

/* ---- the end ---- */

/* Leaves nothing where nothing was finished; else everything, so that the build can go on. */
static void build_release(struct build *b, enum status status, struct build_summary *summary)
{
    bool empty = b->work == NULL || work_is_empty(b->work);
    /* An earlier run's work may only be out of reach for the moment. */
    bool nothing = b->work == NULL || (b->fresh && empty);
    if (b->finished && !b->params.keep_work)
        work_remove(b->work);
    else if (nothing && !b->params.one_stage)
        work_remove(b->work);
    else
        work_close(b->work);
    if (status != STATUS_OK && nothing)
        generation_writer_abort(b->writer);
    else
        generation_writer_close(b->writer);
    summary->finished = b->finished;
    /* What stands in the way of the same command stays there. */
    summary->kept =
        status != STATUS_OK && status != STATUS_EXISTS && !empty && !b->params.one_stage;
    memcpy(summary->work_path, b->work_path, sizeof(summary->work_path));
    if (b->finished) {
        summary->manifest = b->manifest;
        summary->report = b->report;
        summary->report.shards = NULL;
        for (unsigned file = 0; file < GENERATION_FILE_COUNT; file++)
            summary->disk_bytes += b->manifest.files[file].bytes;
    }
    vector_file_close(b->file);
    tune_queries_free(&b->tune);
    codec_destroy(b->codec);
    bulk_free(b->node_of_position, b->shape.count, sizeof(uint32_t));
    topology_destroy(b->topology);
    free(b->lanes.lanes);
    free(b->report.shards);
}

enum status build_run(const struct build_params *params, struct build_summary *summary,
                      struct error *err)
{
    struct build_summary unused;
    int threads_before = omp_get_max_threads();

    if (summary == NULL)
        summary = &unused;
    memset(summary, 0, sizeof(*summary));
    struct build *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the build's state");
    b->params = *params;
    b->clock = build_clock_now();
    if (b->params.threads == 0)
        b->params.threads = (uint32_t)MIN(omp_get_num_procs(), (int)BUILD_THREADS_MAX);
    progress_init(&b->progress, params->quiet);

    enum status status = build_begin(b, err);
    if (status == STATUS_OK) {
        omp_set_num_threads((int)b->params.threads);
        status = stages_run(b, err);
        omp_set_num_threads(threads_before);
    }
    build_release(b, status, summary);
    free(b);
    return status;
}
