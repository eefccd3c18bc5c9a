/*
 * pack_blocks.c - in which order blocks are numbered.
 *
 * A list is stored as the gaps between its ids, so it is the shorter the nearer the numbers of
 * blocks that point to one another. Blocks get into groups as rows got into blocks (pack_assign.c),
 * over a graph that joins a block to those most of its edges lead to; groups into groups of groups
 * likewise, until one group holds all. Numbers go down that tree: the blocks of a group are
 * numbered together, next to those of its sister groups.
 *
 * Steps are parallel in the blocks, and the same at any thread count.
 */
#include <stdlib.h>
#include <string.h>

#include "builder/pack_internal.h"
#include "common/memory.h"

enum {
    GROUP = 32, /* nodes of the graph a group holds */
    ROUNDS = 3, /* of assignment to groups */
};

static enum status u32_array(uint32_t **out, size_t count, struct error *err)
{
    void *memory = NULL;
    enum status status = bulk_alloc(count, sizeof(uint32_t), "order of blocks", &memory, err);
    *out = memory;
    return status;
}

/* ---- the graph of groups ---- */

/* The members of each group: rows[starts[g] .. starts[g + 1]), ascending. */
struct members {
    uint32_t *starts; /* [group_count + 1] */
    uint32_t *rows;   /* [row_count] */
    uint32_t row_count;
    uint32_t group_count;
    uint32_t largest;
};

static void members_destroy(struct members *m)
{
    bulk_free(m->starts, (size_t)m->group_count + 1, sizeof(uint32_t));
    bulk_free(m->rows, m->row_count, sizeof(uint32_t));
}

static enum status members_create(const uint32_t *group_of_row, uint32_t row_count,
                                  uint32_t group_count, struct members *m, struct error *err)
{
    *m = (struct members){.row_count = row_count, .group_count = group_count};
    enum status status = u32_array(&m->starts, (size_t)group_count + 1, err);
    if (!status)
        status = u32_array(&m->rows, row_count, err);
    if (status) {
        members_destroy(m);
        return status;
    }
    for (uint32_t row = 0; row < row_count; row++)
        m->starts[group_of_row[row] + 1]++;
    for (uint32_t group = 0; group < group_count; group++) {
        m->largest = MAX(m->largest, m->starts[group + 1]);
        m->starts[group + 1] += m->starts[group];
    }
    for (uint32_t row = row_count; row-- > 0;)
        m->rows[--m->starts[group_of_row[row] + 1]] = row;
    /* Filling moved each end to its start: shift them back. */
    memmove(m->starts, m->starts + 1, group_count * sizeof(uint32_t));
    m->starts[group_count] = row_count;
    return STATUS_OK;
}

/* Edges by group: an open-addressing table, one a thread, empty between groups. */
struct tally {
    uint32_t *group; /* [slots] */
    uint32_t *edges; /* [slots] */
    uint32_t *used;  /* slots in use */
    uint32_t used_count;
    uint32_t slots; /* a power of two, over twice the edges of a group */
};

static enum status tally_init(struct tally *t, size_t edges_max)
{
    *t = (struct tally){.slots = 64};
    while (t->slots <= 2 * edges_max)
        t->slots *= 2;
    t->group = malloc(t->slots * sizeof(uint32_t));
    t->edges = malloc(t->slots * sizeof(uint32_t));
    t->used = malloc(t->slots * sizeof(uint32_t));
    if (t->group == NULL || t->edges == NULL || t->used == NULL)
        return STATUS_NO_MEMORY;
    memset(t->group, 0xff, t->slots * sizeof(uint32_t));
    return STATUS_OK;
}

static void tally_fini(struct tally *t)
{
    free(t->group);
    free(t->edges);
    free(t->used);
}

static void tally_add(struct tally *t, uint32_t group)
{
    uint32_t slot = (group * 0x9e3779b1u) & (t->slots - 1);
    while (t->group[slot] != group && t->group[slot] != UINT32_MAX)
        slot = (slot + 1) & (t->slots - 1);
    if (t->group[slot] == UINT32_MAX) {
        t->group[slot] = group;
        t->edges[slot] = 0;
        t->used[t->used_count++] = slot;
    }
    t->edges[slot]++;
}

/* The groups most edges lead to, most first, ties by lower number, as the list of node `group`;
 * empties the table. */
static void tally_list(struct tally *t, struct graph *groups, uint32_t group)
{
    uint32_t *ids = graph_neighbors(groups, group);
    uint32_t edges[PACK_NEAR];
    uint32_t count = 0;
    for (uint32_t u = 0; u < t->used_count; u++) {
        uint32_t id = t->group[t->used[u]];
        uint32_t weight = t->edges[t->used[u]];
        uint32_t place = count;
        while (place > 0 &&
               (edges[place - 1] < weight || (edges[place - 1] == weight && ids[place - 1] > id)))
            place--;
        t->group[t->used[u]] = UINT32_MAX;
        if (place == PACK_NEAR)
            continue;
        count = MIN(count + 1, (uint32_t)PACK_NEAR);
        memmove(ids + place + 1, ids + place, (count - 1 - place) * sizeof(*ids));
        memmove(edges + place + 1, edges + place, (count - 1 - place) * sizeof(*edges));
        ids[place] = id;
        edges[place] = weight;
    }
    t->used_count = 0;
    graph_set_degree(groups, group, count);
}

static void group_tally(const struct graph *graph, uint32_t first, const uint32_t *group_of_row,
                        const struct members *m, uint32_t group, struct tally *t)
{
    for (uint32_t i = m->starts[group]; i < m->starts[group + 1]; i++) {
        const uint32_t *ids = graph_neighbors(graph, m->rows[i]);
        uint32_t degree = graph_degree(graph, m->rows[i]);
        uint32_t groups[BLOCK_DEGREE_MAX];
        uint32_t count = 0;
        /* First all look-ups, which miss the cache, then the branches that hang on them. */
        for (uint32_t j = 0; j < degree; j++) {
            uint32_t target = ids[j] - first;
            groups[count] = target < graph->count ? group_of_row[target] : group;
            count += groups[count] != group;
        }
        for (uint32_t j = 0; j < count; j++)
            tally_add(t, groups[j]);
    }
}

/* Joins each group to those most of its rows' edges lead to. */
static enum status groups_join(const struct graph *graph, uint32_t first,
                               const uint32_t *group_of_row, uint32_t group_count,
                               struct graph *groups, struct error *err)
{
    struct members m;
    bool failed = false;
    enum status status = members_create(group_of_row, graph->count, group_count, &m, err);
    if (status)
        return status;
    status = graph_create(groups, group_count, PACK_NEAR, err);
    if (status)
        goto out;
#pragma omp parallel reduction(|| : failed)
    {
        struct tally t;
        failed = tally_init(&t, (size_t)m.largest * (graph->stride - 1)) != STATUS_OK;
#pragma omp for schedule(dynamic, 64)
        for (uint32_t group = 0; group < group_count; group++) {
            if (failed)
                continue;
            group_tally(graph, first, group_of_row, &m, group, &t);
            tally_list(&t, groups, group);
        }
        tally_fini(&t);
    }
    if (failed) {
        graph_destroy(groups);
        status = error_set(err, STATUS_NO_MEMORY, "packing: out of memory for edges of blocks");
    }
out:
    members_destroy(&m);
    return status;
}

/* ---- numbers ---- */

/* rank[i]: where node i comes if groups come in order of group_rank and the nodes of a group in
 * their own. */
static enum status ranks_fill(const uint32_t *group_of_node, const uint32_t *group_rank,
                              uint32_t count, uint32_t group_count, uint32_t *rank,
                              struct error *err)
{
    uint32_t *next;
    enum status status = u32_array(&next, (size_t)group_count + 1, err);
    if (status)
        return status;
    for (uint32_t node = 0; node < count; node++)
        next[group_rank[group_of_node[node]] + 1]++;
    for (uint32_t place = 0; place < group_count; place++)
        next[place + 1] += next[place];
    for (uint32_t node = 0; node < count; node++)
        rank[node] = next[group_rank[group_of_node[node]]]++;
    bulk_free(next, (size_t)group_count + 1, sizeof(uint32_t));
    return STATUS_OK;
}

/* Ranks the nodes of `graph`. Each call has GROUP times fewer than the one before. */
static enum status nodes_rank(const struct graph *graph, uint32_t *rank, struct error *err)
{
    struct pack_input input = {.graph = graph, .total = graph->count};
    uint32_t group_count = (graph->count + GROUP - 1) / GROUP;
    struct pack_work work = {0};
    struct graph groups = {0};
    uint32_t *group_rank = NULL;
    if (graph->count <= GROUP) {
        for (uint32_t node = 0; node < graph->count; node++)
            rank[node] = node;
        return STATUS_OK;
    }
    enum status status = pack_work_init(&work, &input, err);
    if (status)
        goto out;
    pack_grow(&work, GROUP);
    pack_assign_rounds(&work, ROUNDS);
    status = u32_array(&group_rank, group_count, err);
    if (!status)
        status = groups_join(graph, 0, work.block_of_row, group_count, &groups, err);
    if (!status)
        status = nodes_rank(&groups, group_rank, err);
    if (!status)
        status = ranks_fill(work.block_of_row, group_rank, graph->count, group_count, rank, err);
out:
    bulk_free(group_rank, group_count, sizeof(uint32_t));
    graph_destroy(&groups);
    pack_work_fini(&work);
    return status;
}

enum status pack_blocks_rank(const struct pack_work *work, uint32_t *rank, struct error *err)
{
    struct graph blocks = {0};
    enum status status =
        groups_join(work->graph, work->first, work->block_of_row, work->block_count, &blocks, err);
    if (!status)
        status = nodes_rank(&blocks, rank, err);
    graph_destroy(&blocks);
    return status;
}
