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

#include "builder/row_sample.h"
#include "builder/vamana.h"
#include "common/memory.h"
#include "layout/navigation.h"

#define NAVIGATION_ALPHA 1.2f

/* Tells the sample's random stream from others drawn from the same seed. */
#define NAVIGATION_STREAM 0xba5eba11ab0a7f00u

uint32_t navigation_sample_count(uint32_t count, double share)
{
    double wanted = share * (double)count;
    uint32_t sample = wanted < NAVIGATION_NODES_MAX ? (uint32_t)wanted : NAVIGATION_NODES_MAX;

    return MIN(MAX(sample, (uint32_t)NAVIGATION_NODES_MIN), count);
}

/* Copies the sampled rows into a set of their own. */
static enum status sample_copy(const struct vector_set *set, const uint32_t *rows, uint32_t count,
                               struct vector_set *sample, struct error *err)
{
    enum status status = vector_set_create(sample, count, set->dim, set->type, set->metric, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(sample->rows + (size_t)i * sample->stride_bytes, vector_set_row(set, rows[i]),
               (size_t)set->dim * element_bytes(set->type));
    }
    return vector_set_prepare(sample, err);
}

/* Encodes the graph; `nodes` are the sample's node ids. */
static enum status image_make(const struct vamana_result *built, const uint32_t *nodes,
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
    progress_update(monitor->progress, done);
    return build_monitor_cancelled(monitor);
}

/* Puts `entry` into the ascending sample, in place of the next row above it (or of the last). */
static void sample_include(uint32_t *rows, uint32_t count, uint32_t entry)
{
    uint32_t place = 0;
    while (place + 1 < count && rows[place] < entry)
        place++;
    rows[place] = entry;
}

enum status navigation_build(const struct vector_set *set,
                             const struct navigation_params *navigation,
                             const struct build_monitor *monitor, struct navigation_image *image,
                             struct error *err)
{
    struct vector_set sample = {0};
    struct vamana_result built = {0};
    struct build_monitor watched = *monitor;
    uint32_t count = navigation->sample_count;
    struct vamana_params params = {
        .degree = NAVIGATION_DEGREE,
        .build_list = NAVIGATION_BUILD_LIST,
        .alpha = NAVIGATION_ALPHA,
        .seed = navigation->seed,
        .progress = on_progress,
        .progress_context = &watched,
    };

    uint32_t *rows = malloc(count * sizeof(*rows));
    if (rows == NULL) {
        return error_set(err, STATUS_NO_MEMORY, "no memory for a navigation sample of %u nodes",
                         count);
    }
    row_sample(navigation->seed ^ NAVIGATION_STREAM, set->count, count, rows);
    sample_include(rows, count, navigation->entry);
    enum status status = sample_copy(set, rows, count, &sample, err);
    if (status == STATUS_OK)
        status = vamana_build(&sample, &params, &built, err);
    if (status == STATUS_OK) {
        for (uint32_t i = 0; i < count; i++)
            rows[i] = navigation->node_of_row[rows[i]]; /* from here on: nodes */
        status = image_make(&built, rows, image, err);
    }
    graph_destroy(&built.graph);
    vector_set_destroy(&sample);
    free(rows);
    return status;
}
