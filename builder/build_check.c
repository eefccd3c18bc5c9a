/*
 * build_check.c - the last stage: what was written is read back and compared with what was meant,
 * walked, measured by whoever can search it, and made a generation by its manifest.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/build_internal.h"
#include "builder/key_index.h"
#include "builder/merge.h"
#include "builder/query_sample.h"
#include "common/file_io.h"
#include "common/memory.h"
#include "layout/block_walk.h"
#include "layout/digest.h"
#include "layout/sample.h"

static const struct work_piece train_piece = {BUILD_STAGE_TRAIN, WORK_WHOLE};
static const struct work_piece sample_piece = {BUILD_STAGE_SAMPLE, WORK_WHOLE};
static const struct work_piece navigation_piece = {BUILD_STAGE_NAVIGATION, WORK_WHOLE};
static const struct work_piece keys_piece = {BUILD_STAGE_KEYS, WORK_WHOLE};

/* ---- reading back ---- */

/* Compares what is read back with what was meant: the small files whole, the others shard by shard;
 * and has what is finished measured. */
struct read_back {
    struct build *b;
    const struct build_clock *clock; /* of the stage */
    struct build_stage_record *cost;
    const struct build_monitor *monitor;
    const struct build_navigation_info *navigation; /* with keys.bin */
    XXH3_state_t *hash;
    uint32_t shard;
};

static enum status digest_compare(const struct read_back *r, enum generation_file file,
                                  struct digest128 wanted, struct error *err)
{
    struct digest128 found = digest_of(XXH3_128bits_digest(r->hash));
    (void)XXH3_128bits_reset(r->hash);
    if (found.low == wanted.low && found.high == wanted.high)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT, "%s/%s: reads back other bytes than were written",
                     file_label(r->b->params.output), generation_file_names[file]);
}

static uint64_t shard_end(const struct read_back *r, enum generation_file file)
{
    const struct shard_layout *layout = &r->b->layout;
    uint64_t unit = file == GENERATION_NODES
                        ? layout->geometry.block_bytes
                        : (uint64_t)layout->geometry.nodes_per_block * r->b->params.code_bytes;
    return layout->first_block[r->shard + 1] * unit;
}

static enum status shard_compare(const struct read_back *r, enum generation_file file,
                                 struct error *err)
{
    struct shard_write_info info;
    enum status status =
        work_piece_read(r->b->work, (struct work_piece){BUILD_STAGE_WRITE, r->shard}, &info,
                        sizeof(info), NULL, err);
    if (status == STATUS_OK)
        status = digest_compare(
            r, file, file == GENERATION_NODES ? info.nodes_digest : info.codes_digest, err);
    if (status == STATUS_CORRUPT)
        work_piece_forget(r->b->work, (struct work_piece){BUILD_STAGE_WRITE, r->shard});
    return status;
}

static enum status on_chunk(void *context, enum generation_file file, uint64_t offset,
                            const void *data, size_t bytes, struct error *err)
{
    struct read_back *r = context;
    const uint8_t *from = data;
    enum status status = build_monitor_check(r->monitor, err);
    bool sharded = file == GENERATION_NODES || file == GENERATION_CODES;

    if (offset == 0)
        r->shard = 0;
    while (status == STATUS_OK && bytes > 0) {
        uint64_t end = sharded ? shard_end(r, file) : r->navigation->bytes[file];
        size_t part = (size_t)MIN((uint64_t)bytes, end - offset);
        (void)XXH3_128bits_update(r->hash, from, part);
        from += part;
        bytes -= part;
        offset += part;
        if (offset < end)
            break;
        status = sharded ? shard_compare(r, file, err)
                         : digest_compare(r, file, r->navigation->digest[file], err);
        if (status == STATUS_CORRUPT && !sharded)
            work_piece_forget(r->b->work, file == GENERATION_KEYS ? keys_piece : navigation_piece);
        r->shard++;
    }
    return status;
}

static enum status on_walk(void *context, uint64_t blocks_read, struct error *err)
{
    const struct build_monitor *monitor = context;
    build_monitor_update(monitor, blocks_read);
    return build_monitor_check(monitor, err);
}

/* Every block can be reached from the entry's over the lists that were written, and so every node:
 * who reads a block has all its nodes. */
static enum status walk(struct build *b, const struct build_monitor *monitor, struct error *err)
{
    char path[BUILD_PATH_BYTES];
    struct block_walk_result result;
    build_output_path(b, generation_file_names[GENERATION_NODES], path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot open", file_label(path));
    struct block_walk_params params = {
        .fd = fd,
        .path = path,
        .geometry = &b->layout.geometry,
        .block_count = b->layout.block_count,
        .entry = b->manifest.entry_node,
        .on_progress = on_walk,
        .context = (void *)monitor,
    };
    enum status status = block_walk(&params, &result, err);
    close(fd);
    /* It stops before the reading back, which would tell whose block it is. */
    for (uint32_t s = 0; status == STATUS_CORRUPT && s < b->plan.shard_count; s++)
        work_piece_forget(b->work, (struct work_piece){BUILD_STAGE_WRITE, s});
    if (status != STATUS_OK)
        return status;
    if (result.reached_blocks != b->layout.block_count)
        return error_set(err, STATUS_CORRUPT, "%s: %llu of %llu blocks can be reached", path,
                         (unsigned long long)result.reached_blocks,
                         (unsigned long long)b->layout.block_count);
    b->report.reached_nodes = b->shape.count;
    b->report.walk_passes = (uint32_t)result.passes;
    return STATUS_OK;
}

/* The mean number of shards a row was built in. */
static double replication_found(const struct build *b)
{
    return 1.0 + (double)b->manifest.borrowed_rows / (double)b->shape.count;
}

/* Sums what the pieces tell into the manifest. */
static enum status facts_collect(struct build *b, struct error *err)
{
    struct manifest *m = &b->manifest;
    struct query_sample_info sample;
    uint64_t edges = 0;

    enum status status =
        work_piece_read(b->work, train_piece, &b->report.codec, sizeof(b->report.codec), NULL, err);
    if (status == STATUS_OK)
        status = work_piece_read(b->work, sample_piece, &sample, sizeof(sample), NULL, err);
    if (status != STATUS_OK)
        return status;
    m->sample_count = sample.count;
    m->sample_k = sample.k;
    m->codec_kind = (enum codec_kind)b->report.codec.kind;
    m->repaired_nodes = 0;
    m->trimmed_edges = 0;
    b->report.shards = calloc(b->plan.shard_count, sizeof(*b->report.shards));
    if (b->report.shards == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the report");
    for (uint32_t s = 0; status == STATUS_OK && s < b->plan.shard_count; s++) {
        struct shard_graph_info graph = {0};
        struct merge_info merged = {0};
        struct shard_write_info written = {0};
        status = work_piece_read(b->work, (struct work_piece){BUILD_STAGE_GRAPH, s}, &graph,
                                 sizeof(graph), NULL, err);
        if (status == STATUS_OK)
            status = work_piece_read(b->work, (struct work_piece){BUILD_STAGE_MERGE, s}, &merged,
                                     sizeof(merged), NULL, err);
        if (status == STATUS_OK)
            status = work_piece_read(b->work, (struct work_piece){BUILD_STAGE_WRITE, s}, &written,
                                     sizeof(written), NULL, err);
        edges += merged.edges;
        m->repaired_nodes += graph.repaired_nodes;
        m->trimmed_edges += written.trimmed;
        b->report.shards[s] = (struct build_shard_record){
            .own_count = shard_own_count(&b->plan, s),
            .borrowed_count = b->plan.borrowed_counts[s],
            .numa_node = graph.numa_node,
            .strict = graph.numa_strict != 0,
            .pages_sampled = graph.pages_asked,
            .pages_on_node = graph.pages_on_node,
        };
    }
    m->mean_degree = (double)edges / (double)b->shape.count;
    b->report.replication = replication_found(b);
    return status;
}

static void cost_add(struct build_stage_record *sum, const struct build_stage_record *cost)
{
    sum->wall_s += cost->wall_s;
    sum->cpu_s += cost->cpu_s;
    sum->peak_rss_bytes = MAX(sum->peak_rss_bytes, cost->peak_rss_bytes);
    sum->written_bytes += cost->written_bytes;
}

/* What all pieces cost, whichever run made them. */
static enum status costs_collect(struct build *b, struct error *err)
{
    enum status status = STATUS_OK;
    for (unsigned stage = 0; stage < BUILD_STAGE_CHECK; stage++) {
        bool sharded = build_stage_sharded((enum build_stage)stage);
        struct build_stage_record *sum = &b->report.stages[stage];
        memset(sum, 0, sizeof(*sum));
        for (uint32_t s = 0; status == STATUS_OK && s < (sharded ? b->plan.shard_count : 1); s++) {
            struct build_stage_record cost;
            struct work_piece piece = {(enum build_stage)stage, sharded ? s : WORK_WHOLE};
            status = work_piece_read(b->work, piece, NULL, 0, &cost, err);
            if (status == STATUS_OK)
                cost_add(sum, &cost);
        }
        cost_add(&b->report.total, sum);
    }
    return status;
}

void build_report_collect(struct build *b)
{
    enum status ignored = build_stage_load(b, BUILD_STAGE_GRAPH, NULL);
    struct build_report *report = &b->report;
    if (ignored == STATUS_OK)
        ignored = costs_collect(b, NULL);
    ignored =
        work_piece_read(b->work, train_piece, &report->codec, sizeof(report->codec), NULL, NULL);
    (void)ignored;
    report->replication = replication_found(b);
    report->reached_nodes = b->shape.count;
    if (report->total.cpu_s > 0.0)
        report->points_per_second_core = (double)b->shape.count / report->total.cpu_s;
}

static enum status lengths_set(struct build *b, const struct build_navigation_info *info,
                               struct error *err)
{
    const struct block_geometry *geometry = &b->layout.geometry;
    uint64_t lengths[GENERATION_FILE_COUNT];
    enum status status = STATUS_OK;

    memcpy(lengths, info->bytes, sizeof(lengths));
    lengths[GENERATION_NODES] = b->layout.block_count * geometry->block_bytes;
    lengths[GENERATION_CODES] = (uint64_t)geometry->node_limit * b->params.code_bytes;
    for (unsigned file = 0; status == STATUS_OK && file < GENERATION_FILE_COUNT; file++)
        status =
            generation_writer_set_length(b->writer, (enum generation_file)file, lengths[file], err);
    return status;
}

static enum status report_write(struct build *b, const struct build_stage_record *cost,
                                struct error *err)
{
    char *json = NULL;
    b->report.stages[BUILD_STAGE_CHECK] = *cost;
    cost_add(&b->report.total, cost);
    b->report.points_per_second_core = (double)b->shape.count / fmax(b->report.total.cpu_s, 1e-9);
    enum status status = build_report_format(&b->report, &b->manifest, &json, err);
    if (status == STATUS_OK)
        status = generation_write_text(b->params.output, GENERATION_REPORT_NAME, json, err);
    free(json);
    return status;
}

/* ---- calibration ---- */

/* The queries to tune to with their truth, in `tune` and two arrays that the caller frees. */
struct tune_truth {
    struct sample tune;
    uint64_t *keys;
    float *distances;
};

static enum status tune_truth_load(const struct build *b, struct tune_truth *out, struct error *err)
{
    const uint32_t k = query_sample_tune_k(b->shape.count);
    const size_t entries = (size_t)b->tune.count * k;
    uint8_t *bytes = NULL;
    size_t length = 0;
    enum status status =
        build_piece_file_read(b, sample_piece, QUERY_SAMPLE_TUNE_PART, &bytes, &length, err);
    if (status != STATUS_OK)
        return status;
    out->keys = malloc(entries * sizeof(*out->keys));
    out->distances = malloc(entries * sizeof(*out->distances));
    if (out->keys == NULL || out->distances == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for %zu neighbours", entries);
    else if (length != entries * (sizeof(*out->keys) + sizeof(*out->distances)))
        status = error_set(err, STATUS_CORRUPT, "%s: neighbours of other queries to tune to",
                           b->work_path);
    if (status == STATUS_OK) {
        memcpy(out->keys, bytes, entries * sizeof(*out->keys));
        memcpy(out->distances, bytes + entries * sizeof(*out->keys),
               entries * sizeof(*out->distances));
        out->tune = (struct sample){
            .count = b->tune.count,
            .k = k,
            .dim = b->shape.dim,
            .type = b->shape.type,
            .metric = b->params.metric,
            .truth_keys = out->keys,
            .truth_distances = out->distances,
            .vectors = b->tune.rows,
        };
    }
    free(bytes);
    return status;
}

/* What a search may take without the build ever taking more than was planned. */
static uint64_t calibration_memory(const struct build *b)
{
    const uint64_t held = build_size_stage_bytes(&b->size, BUILD_STAGE_CHECK, 1);
    return b->report.memory_planned_bytes > held ? b->report.memory_planned_bytes - held : 0;
}

static enum status sample_file_read(const struct build *b, const struct manifest *manifest,
                                    void **bytes, struct sample *sample, struct error *err)
{
    struct generation *generation = NULL;
    size_t length = 0;
    enum status status = generation_open_unfinished(b->params.output, manifest, &generation, err);
    if (status == STATUS_OK)
        status = generation_load(generation, GENERATION_SAMPLE, bytes, &length, err);
    if (status == STATUS_OK)
        status = sample_decode(*bytes, length, sample, err);
    generation_close(generation);
    return status;
}

static enum status calibrate(const struct build *b, struct manifest *manifest, struct error *err)
{
    void *bytes = NULL;
    struct sample sample;
    struct tune_truth truth = {.keys = NULL};
    if (b->params.calibrate == NULL)
        return STATUS_OK;
    enum status status = sample_file_read(b, manifest, &bytes, &sample, err);
    if (status == STATUS_OK && b->tune.count > 0)
        status = tune_truth_load(b, &truth, err);
    if (status == STATUS_OK) {
        const struct build_calibration job = {
            .path = b->params.output,
            .sample = &sample,
            .tune = b->tune.count > 0 ? &truth.tune : NULL,
            .memory_bytes = calibration_memory(b),
            .threads = b->params.threads,
            .cancel = b->params.cancel,
        };
        status = b->params.calibrate(b->params.calibrate_context, &job, manifest, err);
    }
    free(truth.keys);
    free(truth.distances);
    if (bytes != NULL)
        bulk_free(bytes, (size_t)manifest->files[GENERATION_SAMPLE].bytes, 1);
    return status;
}

/* The report goes before the manifest, which makes the directory a generation: nothing in it
 * changes after. */
static enum status on_whole(void *context, struct manifest *manifest, struct error *err)
{
    struct read_back *r = context;
    enum status status = calibrate(r->b, manifest, err);
    build_clock_measure(r->clock, r->cost);
    return status == STATUS_OK ? report_write(r->b, r->cost, err) : status;
}

/* What the files that are not written by shards should be. */
static enum status whole_files_read(const struct build *b, struct build_navigation_info *info,
                                    struct error *err)
{
    struct key_index_info keys;
    enum status status = work_piece_read(b->work, navigation_piece, info, sizeof(*info), NULL, err);
    if (status == STATUS_OK)
        status = work_piece_read(b->work, keys_piece, &keys, sizeof(keys), NULL, err);
    if (status != STATUS_OK)
        return status;
    info->bytes[GENERATION_KEYS] = keys.bytes;
    info->digest[GENERATION_KEYS] = keys.digest;
    return STATUS_OK;
}

enum status build_check_run(struct build *b, const struct build_monitor *monitor,
                            struct build_stage_record *cost, struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct build_navigation_info info;
    struct read_back r = {
        .b = b, .clock = &clock, .cost = cost, .monitor = monitor, .navigation = &info};

    r.hash = XXH3_createState();
    if (r.hash == NULL || XXH3_128bits_reset(r.hash) != XXH_OK) {
        XXH3_freeState(r.hash);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a digest");
    }
    enum status status = whole_files_read(b, &info, err);
    if (status == STATUS_OK)
        status = facts_collect(b, err);
    if (status == STATUS_OK)
        status = costs_collect(b, err);
    if (status == STATUS_OK) {
        b->manifest.navigation_count = info.navigation_count;
        b->manifest.hot_count = info.hot_count;
        b->manifest.entry_node = info.entry_node;
        status = lengths_set(b, &info, err);
    }
    if (status == STATUS_OK)
        status = walk(b, monitor, err);
    if (status == STATUS_OK) {
        struct generation_read_back read_back = {
            .on_chunk = on_chunk, .on_whole = on_whole, .context = &r};
        status = generation_writer_finish(b->writer, &b->manifest, &read_back, err);
    }
    if (status == STATUS_OK) {
        b->writer = NULL;
        b->finished = true;
    }
    XXH3_freeState(r.hash);
    return status;
}
