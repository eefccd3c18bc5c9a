/*
 * build_stages.c - what each stage needs, runs and leaves, in terms of the modules that do the
 * work.
 *
 * A stage's piece is committed by the module that makes its files; those that are only numbers
 * (navigation, check) are committed here. build_ingest.c has the first stage.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/attribute_write.h"
#include "builder/build_internal.h"
#include "builder/encode.h"
#include "builder/hot_list.h"
#include "builder/key_index.h"
#include "builder/merge.h"
#include "builder/navigation_build.h"
#include "builder/query_sample.h"
#include "common/file_io.h"
#include "common/memory.h"
#include "layout/block_walk.h"
#include "layout/digest.h"
#include "layout/sample.h"

static const struct work_piece ingest_piece = {BUILD_STAGE_INGEST, WORK_WHOLE};
static const struct work_piece train_piece = {BUILD_STAGE_TRAIN, WORK_WHOLE};
static const struct work_piece sample_piece = {BUILD_STAGE_SAMPLE, WORK_WHOLE};

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
        work_piece_read(b->work, ingest_piece, &b->scan, sizeof(b->scan), NULL, err);
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

enum status build_piece_file_read(const struct build *b, struct work_piece piece, const char *part,
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
    enum status status = build_piece_file_read(b, train_piece, "codec", &bytes, &length, err);
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
    if (stage > BUILD_STAGE_WRITE) {
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

/* ---- train, sample, partition ---- */

static enum status info_commit(struct build *b, enum build_stage stage, const void *info,
                               size_t bytes, struct build_stage_record *cost, struct error *err)
{
    return work_piece_commit(b->work, (struct work_piece){stage, WORK_WHOLE}, NULL, 0, info, bytes,
                             cost, err);
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
        .tune = &b->tune,
    };
    return query_sample_run(&params, b->work, monitor, cost, err);
}

static enum status partition_stage_run(struct build *b, const struct build_monitor *monitor,
                                       struct build_stage_record *cost, struct error *err)
{
    struct partition_params params = {
        .metric = b->params.metric,
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
        .query_count = query_sample_shape(b->shape.count).count,
        .query_seed = query_sample_seed(b->params.seed),
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
                                    size_t bytes, struct build_navigation_info *info,
                                    struct error *err)
{
    info->bytes[file] = bytes;
    info->digest[file] = digest_of(XXH3_128bits(data, bytes));
    return generation_writer_write(b->writer, file, 0, data, bytes, err);
}

static enum status codec_copy(struct build *b, struct build_navigation_info *info,
                              struct error *err)
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

/* Where the queries were put: the partition tells their positions. */
static enum status query_nodes_read(const struct build *b, uint32_t *nodes, uint32_t count,
                                    struct error *err)
{
    const struct shard_plan *plan = &b->plan;
    struct work_input *input = NULL;
    enum status status =
        work_input_open(b->work, (struct work_piece){BUILD_STAGE_PARTITION, WORK_WHOLE}, "queries",
                        0, 0, &input, err);
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++) {
        uint32_t place[2]; /* owner, index */
        status = work_input_read(input, place, sizeof(place), err);
        if (status == STATUS_OK &&
            (place[0] >= plan->shard_count || place[1] >= shard_own_count(plan, place[0])))
            status = work_input_discard(input, "names a row that is not there", err);
        if (status == STATUS_OK)
            nodes[i] = b->node_of_position[plan->starts[place[0]] + place[1]];
    }
    work_input_close(input);
    return status;
}

/* Fills in the nodes of an image of sample.bin. */
static enum status sample_place(const struct build *b, uint8_t *image, size_t bytes,
                                struct error *err)
{
    struct sample sample;
    enum status status = sample_decode(image, bytes, &sample, err);
    if (status != STATUS_OK)
        return status;
    uint32_t *nodes = calloc(sample.count, sizeof(*nodes));
    uint8_t *copy = malloc(bytes); /* encoding reads what it would overwrite */
    if (nodes == NULL || copy == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for the nodes of a sample");
    if (status == STATUS_OK)
        status = query_nodes_read(b, nodes, sample.count, err);
    if (status == STATUS_OK) {
        sample.own_nodes = nodes;
        sample_encode(&sample, copy);
        memcpy(image, copy, bytes);
    }
    free(copy);
    free(nodes);
    return status;
}

static enum status sample_copy(struct build *b, struct build_navigation_info *info,
                               struct error *err)
{
    uint8_t *image = NULL;
    size_t bytes = 0;
    enum status status =
        build_piece_file_read(b, sample_piece, QUERY_SAMPLE_PART, &image, &bytes, err);
    if (status == STATUS_OK)
        status = sample_place(b, image, bytes, err);
    if (status == STATUS_OK)
        status = small_file_write(b, GENERATION_SAMPLE, image, bytes, info, err);
    free(image);
    return status;
}

static enum status attributes_write(struct build *b, const struct build_monitor *monitor,
                                    struct build_navigation_info *info, struct error *err)
{
    const struct attribute_write_params params = {
        .plan = &b->plan,
        .node_of_position = b->node_of_position,
        .node_limit = b->layout.geometry.node_limit,
        .writer = b->writer,
    };
    return b->params.attributes != NULL
               ? attribute_write_run(&params, monitor, &info->bytes[GENERATION_ATTRIBUTES],
                                     &info->digest[GENERATION_ATTRIBUTES], err)
               : STATUS_OK;
}

static enum status hot_write(struct build *b, struct build_navigation_info *info, struct error *err)
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
    struct build_navigation_info info;
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
        status = attributes_write(b, monitor, &info, err);
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

/* ---- keys ---- */

static enum status keys_run(struct build *b, const struct build_monitor *monitor,
                            struct build_stage_record *cost, struct error *err)
{
    const struct key_index_params params = {
        .plan = &b->plan,
        .generation_seed = b->layout.geometry.generation_seed,
        .node_limit = b->layout.geometry.node_limit,
        .writer = b->writer,
    };
    return key_index_merge(&params, monitor, cost, err);
}

/* ---- dispatch ---- */

enum status build_stage_whole_run(struct build *b, enum build_stage stage,
                                  const struct build_monitor *monitor,
                                  struct build_stage_record *cost, struct error *err)
{
    struct pack_params params;
    switch (stage) {
    case BUILD_STAGE_INGEST:
        return build_ingest_run(b, monitor, cost, err);
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
    case BUILD_STAGE_KEYS:
        return keys_run(b, monitor, cost, err);
    default:
        return build_check_run(b, monitor, cost, err);
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
