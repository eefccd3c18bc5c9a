/*
 * build_stages.c - what each stage needs, runs and leaves, in terms of the modules that do the
 * work.
 *
 * A stage's piece is committed by the module that makes its files; those that are only numbers
 * (ingest, navigation, check) are committed here.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/build_internal.h"
#include "builder/encode.h"
#include "builder/hot_list.h"
#include "builder/merge.h"
#include "builder/navigation_build.h"
#include "builder/query_sample.h"
#include "common/file_io.h"
#include "common/memory.h"
#include "layout/block_walk.h"
#include "layout/digest.h"

static const struct work_piece train_piece = {BUILD_STAGE_TRAIN, WORK_WHOLE};
static const struct work_piece sample_piece = {BUILD_STAGE_SAMPLE, WORK_WHOLE};
static const struct work_piece navigation_piece = {BUILD_STAGE_NAVIGATION, WORK_WHOLE};

/* What the navigation piece's record tells: the files it wrote into the generation. */
struct navigation_info {
    uint64_t bytes[GENERATION_FILE_COUNT]; /* of the small files */
    struct digest128 digest[GENERATION_FILE_COUNT];
    uint64_t hot_count;
    uint32_t navigation_count;
    uint32_t entry_node;
};

bool build_stage_sharded(enum build_stage stage)
{
    return stage == BUILD_STAGE_GRAPH || stage == BUILD_STAGE_MERGE || stage == BUILD_STAGE_PACK ||
           stage == BUILD_STAGE_WRITE;
}

/* ---- progress ---- */

const char *build_stage_unit(enum build_stage stage)
{
    return stage == BUILD_STAGE_NAVIGATION                            ? "nodes"
           : stage == BUILD_STAGE_WRITE || stage == BUILD_STAGE_CHECK ? "blocks"
                                                                      : "rows";
}

uint64_t build_stage_shard_units(const struct build *b, enum build_stage stage, uint32_t shard)
{
    if (stage == BUILD_STAGE_GRAPH)
        return shard_own_count(&b->plan, shard) + b->plan.borrowed_counts[shard];
    if (stage == BUILD_STAGE_WRITE)
        return b->layout.first_block[shard + 1] - b->layout.first_block[shard];
    return shard_own_count(&b->plan, shard);
}

uint64_t build_stage_units(const struct build *b, enum build_stage stage)
{
    uint64_t units = 0;
    switch (stage) {
    case BUILD_STAGE_TRAIN:
        return encode_sample_rows((uint32_t)b->shape.count);
    case BUILD_STAGE_GEOMETRY:
        return b->shape.count / b->plan.shard_count;
    case BUILD_STAGE_NAVIGATION:
        return navigation_sample_count((uint32_t)b->shape.count, b->params.navigation_share);
    case BUILD_STAGE_CHECK:
        return b->layout.block_count;
    default:
        break;
    }
    if (!build_stage_sharded(stage))
        return b->shape.count;
    for (uint32_t s = 0; s < b->plan.shard_count; s++)
        units += build_stage_shard_units(b, stage, s);
    return units;
}

/* ---- loading ---- */

static struct pack_params pack_params_of(const struct build *b)
{
    return (struct pack_params){
        .dim_bytes = (uint32_t)element_vector_bytes(b->shape.type, b->shape.dim),
        .block_bytes = b->params.block_bytes,
        .adjacency = BLOCK_ADJACENCY_GAPS,
        .generation_seed = b->manifest.generation_id.low,
    };
}

static enum status scan_load(struct build *b, struct error *err)
{
    enum status status =
        work_piece_read(b->work, (struct work_piece){BUILD_STAGE_INGEST, WORK_WHOLE}, &b->scan,
                        sizeof(b->scan), NULL, err);
    if (status != STATUS_OK)
        return status;
    b->manifest.input_digest = b->scan.input_digest;
    b->manifest.duplicate_vectors = b->scan.duplicate_vectors;
    b->manifest.norm_max = (double)b->scan.norm_max;
    b->manifest.generation_id = manifest_generation_id(&b->manifest);
    return STATUS_OK;
}

static enum status plan_load(struct build *b, struct error *err)
{
    struct partition_info *info = calloc(1, sizeof(*info));
    if (info == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the partition");
    enum status status =
        work_piece_read(b->work, (struct work_piece){BUILD_STAGE_PARTITION, WORK_WHOLE}, info,
                        sizeof(*info), NULL, err);
    if (status == STATUS_OK) {
        b->plan = (struct shard_plan){
            .work = b->work,
            .shape = b->shape,
            .metric = b->params.metric,
            .norm_max = b->scan.norm_max,
            .keys = b->params.keys != NULL,
        };
        shard_plan_init(&b->plan, info);
        b->manifest.borrowed_rows = 0;
        for (uint32_t s = 0; s < b->plan.shard_count; s++)
            b->manifest.borrowed_rows += b->plan.borrowed_counts[s];
    }
    free(info);
    return status;
}

static enum status layout_load(struct build *b, struct error *err)
{
    struct pack_params params = pack_params_of(b);
    enum status status = shard_layout_load(&b->plan, &params, &b->layout, err);
    b->manifest.geometry = b->layout.geometry;
    b->manifest.block_count = b->layout.block_count;
    b->manifest.block_mate_share = b->layout.mate_share;
    return status;
}

/* File `part` of a piece, which has one section; *bytes is malloc'd, the caller's. */
static enum status piece_file_read(const struct build *b, struct work_piece piece, const char *part,
                                   uint8_t **bytes, size_t *length, struct error *err)
{
    struct work_input *input = NULL;
    uint8_t *read = NULL;
    enum status status = work_input_open(b->work, piece, part, 0, 0, &input, err);
    if (status == STATUS_OK) {
        *length = work_input_left(input);
        read = malloc(*length + 1);
        status = read != NULL ? work_input_read(input, read, *length, err)
                              : error_set(err, STATUS_NO_MEMORY, "no memory for the %s", part);
    }
    work_input_close(input);
    if (status == STATUS_OK)
        *bytes = read;
    else
        free(read);
    return status;
}

static enum status codec_load(struct build *b, struct error *err)
{
    uint8_t *bytes = NULL;
    size_t length = 0;

    if (b->codec != NULL)
        return STATUS_OK;
    enum status status = piece_file_read(b, train_piece, "codec", &bytes, &length, err);
    if (status == STATUS_OK)
        status = codec_deserialize(bytes, length, &b->codec, err);
    free(bytes);
    return status;
}

enum status build_stage_load(struct build *b, enum build_stage stage, struct error *err)
{
    enum status status = STATUS_OK;
    if (stage > BUILD_STAGE_INGEST)
        status = scan_load(b, err);
    if (status == STATUS_OK && stage > BUILD_STAGE_PARTITION)
        status = plan_load(b, err);
    if (status == STATUS_OK && stage > BUILD_STAGE_PACK)
        status = layout_load(b, err);
    if (stage == BUILD_STAGE_CHECK) {
        bulk_free(b->node_of_position, b->shape.count, sizeof(uint32_t));
        b->node_of_position = NULL;
    } else if (status == STATUS_OK && stage > BUILD_STAGE_PACK && b->node_of_position == NULL) {
        status = shard_nodes_load(&b->plan, &b->layout, &b->node_of_position, err);
    }
    if (status == STATUS_OK && stage == BUILD_STAGE_WRITE)
        status = codec_load(b, err);
    b->write = (struct shard_write_context){
        .plan = &b->plan,
        .layout = &b->layout,
        .node_of_position = b->node_of_position,
        .codec = b->codec,
        .writer = b->writer,
    };
    return status;
}

/* ---- ingest, train, sample, partition ---- */

static enum status info_commit(struct build *b, enum build_stage stage, const void *info,
                               size_t bytes, struct build_stage_record *cost, struct error *err)
{
    return work_piece_commit(b->work, (struct work_piece){stage, WORK_WHOLE}, NULL, 0, info, bytes,
                             cost, err);
}

static enum status ingest_run(struct build *b, const struct build_monitor *monitor,
                              struct build_stage_record *cost, struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct scan_result result;
    memset(&result, 0, sizeof(result)); /* padding is written too */
    enum status status = scan_run(b->file, b->params.metric, b->params.keys, monitor, &result, err);
    build_clock_measure(&clock, cost);
    return status == STATUS_OK
               ? info_commit(b, BUILD_STAGE_INGEST, &result, sizeof(result), cost, err)
               : status;
}

static enum status train_run(struct build *b, struct build_stage_record *cost, struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct codec_params params = {
        .kind = b->params.codec,
        .metric = b->params.metric,
        .type = b->shape.type,
        .dim = b->shape.dim,
        .code_bytes = b->params.code_bytes,
        .seed = b->params.seed,
        .norm_max = b->scan.norm_max,
    };
    struct codec_choice choice = {0};
    struct codec *codec = NULL;
    struct work_output *out = NULL;
    uint8_t *image = NULL;
    size_t bytes = 0;

    enum status status = encode_train(b->file, &params, &choice, &codec, err);
    if (status == STATUS_OK)
        status = codec_serialize(codec, &image, &bytes, err);
    build_clock_measure(&clock, cost);
    if (status == STATUS_OK)
        status = work_output_open(b->work, train_piece, "codec", 0, &out, err);
    if (status == STATUS_OK)
        status = work_output_append(out, image, bytes, err);
    if (status == STATUS_OK)
        status =
            work_piece_commit(b->work, train_piece, &out, 1, &choice, sizeof(choice), cost, err);
    work_output_abort(out);
    free(image);
    codec_destroy(codec);
    return status;
}

static enum status sample_run(struct build *b, const struct build_monitor *monitor,
                              struct build_stage_record *cost, struct error *err)
{
    const struct query_sample_params params = {
        .file = b->file,
        .keys = b->params.keys,
        .metric = b->params.metric,
        .seed = b->params.seed,
    };
    return query_sample_run(&params, b->work, monitor, cost, err);
}

static enum status partition_stage_run(struct build *b, const struct build_monitor *monitor,
                                       struct build_stage_record *cost, struct error *err)
{
    struct partition_params params = {
        .metric = b->params.metric,
        .norm_max = b->scan.norm_max,
        .keys = b->params.keys,
        .shard_count = b->size.shard_count,
        .own_min = b->size.own_min,
        .own_max = b->size.own_max,
        .borrowed_max = b->size.borrowed_max,
        .lent_max = b->size.lent_max,
        .replication = b->size.replication,
        .sample_count =
            navigation_sample_count((uint32_t)b->shape.count, b->params.navigation_share),
        .sample_seed = b->params.seed ^ NAVIGATION_STREAM,
        .seed = b->params.seed,
    };
    struct partition_info *info = calloc(1, sizeof(*info));
    if (info == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the partition");
    enum status status = partition_run(b->file, &params, b->work, monitor, info, cost, err);
    free(info);
    return status;
}

/* ---- navigation ---- */

static enum status small_file_write(struct build *b, enum generation_file file, const void *data,
                                    size_t bytes, struct navigation_info *info, struct error *err)
{
    info->bytes[file] = bytes;
    info->digest[file] = digest_of(XXH3_128bits(data, bytes));
    return generation_writer_write(b->writer, file, 0, data, bytes, err);
}

static enum status codec_copy(struct build *b, struct navigation_info *info, struct error *err)
{
    uint8_t *image = NULL;
    size_t bytes = 0;
    enum status status = codec_load(b, err);
    if (status == STATUS_OK)
        status = codec_serialize(b->codec, &image, &bytes, err);
    if (status == STATUS_OK)
        status = small_file_write(b, GENERATION_CODEC, image, bytes, info, err);
    free(image);
    return status;
}

static enum status sample_copy(struct build *b, struct navigation_info *info, struct error *err)
{
    uint8_t *image = NULL;
    size_t bytes = 0;
    enum status status = piece_file_read(b, sample_piece, QUERY_SAMPLE_PART, &image, &bytes, err);
    if (status == STATUS_OK)
        status = small_file_write(b, GENERATION_SAMPLE, image, bytes, info, err);
    free(image);
    return status;
}

static enum status hot_write(struct build *b, struct navigation_info *info, struct error *err)
{
    struct hot_visits visits = {0};
    uint32_t *hot = NULL;
    enum status status = shard_visits_load(&b->plan, &visits, err);
    if (status == STATUS_OK)
        status = hot_list_rank(&visits, b->node_of_position, b->layout.geometry.nodes_per_block,
                               &hot, &info->hot_count, err);
    hot_visits_destroy(&visits);
    if (status == STATUS_OK)
        status =
            small_file_write(b, GENERATION_HOT, hot, info->hot_count * sizeof(*hot), info, err);
    free(hot);
    return status;
}

static enum status navigation_run(struct build *b, const struct build_monitor *monitor,
                                  struct build_stage_record *cost, struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct navigation_info info;
    struct navigation_image image = {0};
    struct shard_graph_info root;
    struct navigation_params params = {
        .node_of_position = b->node_of_position,
        .sample_count =
            navigation_sample_count((uint32_t)b->shape.count, b->params.navigation_share),
        .seed = b->params.seed,
    };

    memset(&info, 0, sizeof(info));
    enum status status = codec_copy(b, &info, err);
    if (status == STATUS_OK)
        status = sample_copy(b, &info, err);
    if (status == STATUS_OK)
        status = hot_write(b, &info, err);
    if (status == STATUS_OK)
        status = navigation_build(&b->plan, &params, monitor, &image, err);
    if (status == STATUS_OK)
        status = small_file_write(b, GENERATION_NAVIGATION, image.bytes, image.length, &info, err);
    if (status == STATUS_OK)
        status = work_piece_read(b->work, (struct work_piece){BUILD_STAGE_GRAPH, 0}, &root,
                                 sizeof(root), NULL, err);
    if (status == STATUS_OK)
        status = generation_writer_sync(b->writer, err);
    if (status == STATUS_OK) {
        info.navigation_count = image.count;
        info.entry_node = b->node_of_position[root.root];
        build_clock_measure(&clock, cost);
        for (unsigned file = 0; file < GENERATION_FILE_COUNT; file++)
            cost->written_bytes += info.bytes[file];
        status = info_commit(b, BUILD_STAGE_NAVIGATION, &info, sizeof(info), cost, err);
    }
    bulk_free(image.bytes, image.length, 1);
    return status;
}

/* ---- check ---- */

/* Compares what is read back with what was meant: the small files whole, the others shard by shard.
 */
struct read_back {
    struct build *b;
    const struct build_monitor *monitor;
    const struct navigation_info *navigation;
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
            work_piece_forget(r->b->work, navigation_piece);
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

static enum status lengths_set(struct build *b, const struct navigation_info *info,
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

/* The report goes before the manifest, which makes the directory a generation: nothing in it
 * changes after. So the reading back that comes with the manifest is not in the report's check
 * stage. */
static enum status check_run(struct build *b, const struct build_monitor *monitor,
                             struct build_stage_record *cost, struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct navigation_info info;
    struct read_back r = {.b = b, .monitor = monitor, .navigation = &info};

    r.hash = XXH3_createState();
    if (r.hash == NULL || XXH3_128bits_reset(r.hash) != XXH_OK) {
        XXH3_freeState(r.hash);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a digest");
    }
    enum status status = work_piece_read(b->work, navigation_piece, &info, sizeof(info), NULL, err);
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
        struct generation_read_back read_back = {.on_chunk = on_chunk, .context = &r};
        build_clock_measure(&clock, cost);
        status = report_write(b, cost, err);
        if (status == STATUS_OK)
            status = generation_writer_finish(b->writer, &b->manifest, &read_back, err);
    }
    if (status == STATUS_OK) {
        b->writer = NULL;
        b->finished = true;
    }
    XXH3_freeState(r.hash);
    return status;
}

/* ---- dispatch ---- */

enum status build_stage_whole_run(struct build *b, enum build_stage stage,
                                  const struct build_monitor *monitor,
                                  struct build_stage_record *cost, struct error *err)
{
    struct pack_params params;
    switch (stage) {
    case BUILD_STAGE_INGEST:
        return ingest_run(b, monitor, cost, err);
    case BUILD_STAGE_TRAIN:
        return train_run(b, cost, err);
    case BUILD_STAGE_SAMPLE:
        return sample_run(b, monitor, cost, err);
    case BUILD_STAGE_PARTITION:
        return partition_stage_run(b, monitor, cost, err);
    case BUILD_STAGE_GEOMETRY:
        params = pack_params_of(b);
        return shard_geometry_run(&b->plan, &params, monitor, cost, err);
    case BUILD_STAGE_NAVIGATION:
        return navigation_run(b, monitor, cost, err);
    default:
        return check_run(b, monitor, cost, err);
    }
}

/* Notes where the shard's memory lies; `place` is the lane's. */
static void on_placed(void *context, const struct vector_set *set, const struct graph *graph,
                      struct shard_graph_info *info)
{
    const struct lane_place *place = context;
    if (place->topology == NULL)
        return;
    struct topology_placement rows = topology_place(
        place->topology, set->rows, (size_t)set->count * set->stride_bytes, place->numa);
    struct topology_placement lists =
        topology_place(place->topology, graph->slots,
                       (size_t)graph->count * graph->stride * sizeof(*graph->slots), place->numa);
    info->numa_node = topology_numa(place->topology, place->numa)->os_index;
    info->numa_strict = place->strict;
    info->pages_asked = (uint64_t)rows.pages_sampled + lists.pages_sampled;
    info->pages_on_node = (uint64_t)rows.pages_on_node + lists.pages_on_node;
}

enum status build_stage_shard_run(struct build *b, const struct build_shard_run *run,
                                  const struct build_monitor *monitor,
                                  struct build_stage_record *cost, struct error *err)
{
    struct pack_params pack = pack_params_of(b);
    struct merge_params merge = {.degree = b->params.degree, .alpha = (float)b->params.alpha};
    struct shard_graph_params graph = {
        .degree = b->params.degree,
        .kind = b->params.graph,
        .build_list = b->params.build_list,
        .alpha = (float)b->params.alpha,
        .seed = b->params.seed,
    };
    struct shard_graph_hooks hooks = {.placed = on_placed, .context = (void *)run->place};

    switch (run->stage) {
    case BUILD_STAGE_GRAPH:
        return shard_graph_run(&b->plan, run->shard, &graph, &hooks, monitor, cost, err);
    case BUILD_STAGE_MERGE:
        return merge_run(&b->plan, run->shard, &merge, monitor, cost, err);
    case BUILD_STAGE_PACK:
        return shard_pack_run(&b->plan, run->shard, &pack, monitor, cost, err);
    default:
        return shard_write_run(&b->write, run->shard, monitor, cost, err);
    }
}
