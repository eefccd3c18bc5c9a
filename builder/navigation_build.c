/*
 * navigation_build.c - sample, graph and image of navigation.bin.
 *
 * A uniform sample of rows follows the data's density, so the entry points a search finds in it are
 * near whatever it looks for. The graph is built with true distances though it is searched with
 * code distances: its shape should not inherit the codec's error. One thread calls; the graph stage
 * has the team.
 */
#include "builder/navigation_build.h"

#include <stdlib.h>
#include <string.h>

#include "builder/graph_build.h"
#include "builder/shard_graph.h"
#include "common/memory.h"
#include "layout/navigation.h"

#define NAVIGATION_ALPHA 1.2f

uint32_t navigation_sample_count(uint32_t count, double share)
{
    double wanted = share * (double)count;
    uint32_t sample = wanted < NAVIGATION_NODES_MAX ? (uint32_t)wanted : NAVIGATION_NODES_MAX;

    return MIN(MAX(sample, (uint32_t)NAVIGATION_NODES_MIN), count);
}

/* Reads the sample into the set and its positions; the last place takes the root of shard 0, unless
 * the sample has it. */
static enum status sample_read(const struct shard_plan *plan, uint32_t count,
                               struct vector_set *sample, uint32_t *positions, struct error *err)
{
    size_t row_bytes = element_vector_bytes(plan->shape.type, plan->shape.dim);
    struct work_input *input = NULL;
    bool has_root = false;
    uint8_t *last = sample->rows + count * sample->stride_bytes;
    enum status status = shard_root_load(plan, 0, &positions[count], last, err);
    if (status == STATUS_OK)
        status = work_input_open(plan->work, (struct work_piece){BUILD_STAGE_PARTITION, WORK_WHOLE},
                                 "sample", 0, 0, &input, err);
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++) {
        uint32_t place[2]; /* owner, index */
        status = work_input_read(input, place, sizeof(place), err);
        if (status == STATUS_OK)
            status =
                work_input_read(input, sample->rows + i * sample->stride_bytes, row_bytes, err);
        if (status == STATUS_OK &&
            (place[0] >= plan->shard_count || place[1] >= shard_own_count(plan, place[0])))
            status = work_input_discard(input, "names a row that is not there", err);
        if (status == STATUS_OK)
            positions[i] = plan->starts[place[0]] + place[1];
        has_root = has_root || positions[i] == positions[count];
    }
    work_input_close(input);
    if (status != STATUS_OK)
        return status;
    if (!has_root)
        sample->count = count + 1;
    return vector_set_prepare(sample, plan->norm_max, err);
}

/* Encodes the graph; `nodes` are the sample's node ids. */
static enum status image_make(const struct graph_result *built, const uint32_t *nodes,
                              struct navigation_image *image, struct error *err)
{
    const struct graph *graph = &built->graph;
    uint32_t count = graph->count;
    uint32_t degree = 1;
    void *memory = NULL;
    void *bytes = NULL;

    for (uint32_t i = 0; i < count; i++)
        degree = MAX(degree, graph_degree(graph, i));
    enum status status =
        bulk_alloc(count, degree * sizeof(uint32_t), "navigation graph", &memory, err);
    if (status != STATUS_OK)
        return status;
    uint32_t *neighbors = memory;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t *slots = neighbors + (size_t)i * degree;
        uint32_t used = graph_degree(graph, i);
        memcpy(slots, graph_neighbors(graph, i), used * sizeof(*slots));
        for (uint32_t j = used; j < degree; j++)
            slots[j] = NAVIGATION_NONE;
    }
    size_t length = navigation_bytes(count, degree);
    status = bulk_alloc(length, 1, "navigation.bin", &bytes, err);
    if (status == STATUS_OK) {
        struct navigation navigation = {.count = count,
                                        .degree = degree,
                                        .entry = built->entry,
                                        .nodes = nodes,
                                        .neighbors = neighbors};
        navigation_encode(&navigation, bytes);
        *image = (struct navigation_image){.bytes = bytes, .length = length, .count = count};
    }
    bulk_free(memory, count, degree * sizeof(uint32_t));
    return status;
}

static int on_progress(void *context, uint64_t done, uint64_t total)
{
    const struct build_monitor *monitor = context;

    (void)total;
    build_monitor_update(monitor, done);
    return build_monitor_cancelled(monitor);
}

enum status navigation_build(const struct shard_plan *plan,
                             const struct navigation_params *navigation,
                             const struct build_monitor *monitor, struct navigation_image *image,
                             struct error *err)
{
    struct vector_set sample = {0};
    struct graph_result built = {0};
    struct build_monitor watched = *monitor;
    uint32_t count = navigation->sample_count;
    struct graph_params params = {
        .degree = NAVIGATION_DEGREE,
        .kind = GRAPH_VAMANA, /* small, and searched from one entry */
        .build_list = NAVIGATION_BUILD_LIST,
        .alpha = NAVIGATION_ALPHA,
        .seed = navigation->seed,
        .progress = on_progress,
        .progress_context = &watched,
    };

    uint32_t *nodes = malloc(((size_t)count + 1) * sizeof(*nodes));
    if (nodes == NULL) {
        return error_set(err, STATUS_NO_MEMORY, "no memory for a navigation sample of %u nodes",
                         count);
    }
    enum status status =
        vector_set_create(&sample, count + 1, plan->shape.dim, plan->shape.type, plan->metric, err);
    sample.count = count;
    if (status == STATUS_OK)
        status = sample_read(plan, count, &sample, nodes, err);
    if (status == STATUS_OK)
        status = graph_build(&sample, &params, &built, err);
    if (status == STATUS_OK) {
        for (uint32_t i = 0; i < sample.count; i++)
            nodes[i] = navigation->node_of_position[nodes[i]]; /* from positions */
        status = image_make(&built, nodes, image, err);
    }
    graph_result_destroy(&built);
    vector_set_destroy(&sample);
    free(nodes);
    return status;
}
