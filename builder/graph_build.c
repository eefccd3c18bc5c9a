/*
 * graph_build.c - see graph_build.h: the lists by either algorithm, then what both have in common.
 */
#include "builder/graph_build.h"

#include <string.h>

#include "builder/graph_internal.h"
#include "builder/medoid.h"
#include "builder/reservoir.h"
#include "common/memory.h"

static const char *const kind_names[GRAPH_KIND_COUNT] = {
    [GRAPH_PIPNN] = "pipnn",
    [GRAPH_VAMANA] = "vamana",
};

const char *graph_kind_name(enum graph_kind kind)
{
    return kind_names[kind];
}

bool graph_kind_parse(const char *name, enum graph_kind *kind)
{
    for (unsigned i = 0; i < GRAPH_KIND_COUNT; i++)
        if (strcmp(name, kind_names[i]) == 0) {
            *kind = (enum graph_kind)i;
            return true;
        }
    return false;
}

enum status graph_build(const struct vector_set *set, const struct graph_params *params,
                        struct graph_result *result, struct error *err)
{
    struct graph_result built = {0};
    void *kept = NULL;
    enum status status = medoid_find(set, &built.entry, err);
    if (status == STATUS_OK && params->kind == GRAPH_VAMANA)
        status = vamana_lists(set, params, built.entry, &built.graph, err);
    else if (status == STATUS_OK)
        status = pipnn_lists(set, params, built.entry, &built.graph, err);
    if (status == STATUS_OK)
        status = bulk_alloc(set->count, sizeof(uint8_t), "tree edges", &kept, err);
    built.kept = kept;
    if (status == STATUS_OK)
        status = graph_tree(set, params, built.entry, &built, err);
    if (status != STATUS_OK)
        graph_result_destroy(&built);
    else
        *result = built;
    return status;
}

void graph_result_destroy(struct graph_result *result)
{
    if (result->kept)
        bulk_free(result->kept, result->graph.count, sizeof(uint8_t));
    graph_destroy(&result->graph);
    memset(result, 0, sizeof(*result));
}

uint64_t graph_row_bytes(enum graph_kind kind, uint64_t degree)
{
    return kind == GRAPH_VAMANA ? vamana_row_bytes(degree) : reservoir_row_bytes((uint32_t)degree);
}

/* Lists; and what finding them takes, or walking the tree when that is gone. */
uint64_t graph_build_bytes(const struct graph_size *size)
{
    uint64_t tree = size->count * (3 * sizeof(uint8_t) + sizeof(uint32_t));
    uint64_t finding = size->kind == GRAPH_VAMANA ? vamana_bytes(size) : pipnn_bytes(size);
    return size->count * graph_row_bytes(size->kind, size->degree) + MAX(tree, finding);
}
