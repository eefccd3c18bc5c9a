/*
 * pack_edges.c - the edges that decide who shares a block, and what they weigh.
 *
 * What draws a row to a block is the weight of its edges to and from the rows there. Only the
 * nearest edges of a list count, the nearer the more: a query's answers are near one another, so
 * the far edges, which are there to be walked along, tell little about which rows one query wants.
 *
 * In-edges are collected by all threads; their order does not depend on the team.
 */
#include <omp.h>
#include <string.h>

#include "builder/pack_internal.h"
#include "common/memory.h"

ALWAYS_INLINE uint32_t near_count(const struct pack_work *work, uint32_t row)
{
    return MIN(graph_degree(work->graph, row), (uint32_t)PACK_NEAR);
}

/* A thread's share of the targets. Each thread reads all lists, which costs little beside the
 * scattered writes, and sees its targets' edges in order of source. */
static void targets_share(uint32_t count, uint32_t *first, uint32_t *end)
{
    uint64_t thread = (uint64_t)omp_get_thread_num();
    uint64_t threads = (uint64_t)omp_get_num_threads();
    *first = (uint32_t)(count * thread / threads);
    *end = (uint32_t)(count * (thread + 1) / threads);
}

/* Counts the in-edges of row r at in_starts[r + 1]. */
static void in_edges_count(struct pack_work *work)
{
    const struct graph *graph = work->graph;
#pragma omp parallel
    {
        uint32_t first, end;
        targets_share(graph->count, &first, &end);
        for (uint32_t row = 0; row < graph->count; row++) {
            const uint32_t *ids = graph_neighbors(graph, row);
            uint32_t count = near_count(work, row);
            for (uint32_t i = 0; i < count; i++) {
                uint32_t target = ids[i] - work->first;
                if (target - first < end - first)
                    work->in_starts[target + 1]++;
            }
        }
    }
    for (uint32_t row = 0; row < graph->count; row++)
        work->in_starts[row + 1] += work->in_starts[row];
    work->edge_count = work->in_starts[graph->count];
}

static void in_edges_fill(struct pack_work *work)
{
    const struct graph *graph = work->graph;
    uint64_t *starts = work->in_starts;
#pragma omp parallel
    {
        uint32_t first, end;
        targets_share(graph->count, &first, &end);
        for (uint32_t row = 0; row < graph->count; row++) {
            const uint32_t *ids = graph_neighbors(graph, row);
            uint32_t count = near_count(work, row);
            uint32_t kept = work->kept != NULL ? work->kept[row] : 0;
            for (uint32_t i = 0; i < count; i++) {
                uint32_t target = ids[i] - work->first;
                if (target - first >= end - first)
                    continue;
                uint64_t place = starts[target]++;
                work->in_rows[place] = row;
                work->in_weights[place] = (uint8_t)pack_edge_weight(i, kept);
            }
        }
    }
    /* Filling moved each start to the next one's place: shift them back. */
    memmove(starts + 1, starts, graph->count * sizeof(*starts));
    starts[0] = 0;
}

enum status pack_work_init(struct pack_work *work, const struct pack_input *input,
                           struct error *err)
{
    size_t count = input->graph->count;
    *work = (struct pack_work){.graph = input->graph, .kept = input->kept, .first = input->first};
    void *starts = NULL;
    enum status status = bulk_alloc(count + 1, sizeof(uint64_t), "in-edge starts", &starts, err);
    work->in_starts = starts;
    if (!status)
        in_edges_count(work);
    const struct {
        void **out;
        size_t count, size;
        const char *what;
    } arrays[] = {
        {(void **)&work->in_rows, work->edge_count, sizeof(uint32_t), "in-edges"},
        {(void **)&work->in_weights, work->edge_count, sizeof(uint8_t), "in-edge weights"},
        {(void **)&work->block_of_row, count, sizeof(uint32_t), "blocks of rows"},
        {(void **)&work->load, count, sizeof(uint32_t), "block loads"},
        {(void **)&work->drawn, count, sizeof(uint32_t), "weights of rows"},
        {(void **)&work->scratch, 3 * count, sizeof(uint32_t), "packing"},
        {(void **)&work->choices, PACK_BATCH_ROWS, sizeof(struct pack_choice), "block choices"},
    };
    for (size_t i = 0; !status && i < ARRAY_LENGTH(arrays); i++) {
        void *memory = NULL;
        status = bulk_alloc(arrays[i].count, arrays[i].size, arrays[i].what, &memory, err);
        *arrays[i].out = memory;
    }
    if (!status)
        in_edges_fill(work);
    return status;
}

void pack_work_fini(struct pack_work *work)
{
    if (!work->graph)
        return;
    size_t count = work->graph->count;
    bulk_free(work->in_starts, count + 1, sizeof(uint64_t));
    bulk_free(work->in_rows, work->edge_count, sizeof(uint32_t));
    bulk_free(work->in_weights, work->edge_count, sizeof(uint8_t));
    bulk_free(work->block_of_row, count, sizeof(uint32_t));
    bulk_free(work->load, count, sizeof(uint32_t));
    bulk_free(work->drawn, count, sizeof(uint32_t));
    bulk_free(work->scratch, 3 * count, sizeof(uint32_t));
    bulk_free(work->choices, PACK_BATCH_ROWS, sizeof(struct pack_choice));
    memset(work, 0, sizeof(*work));
}

double pack_mate_share(const struct pack_work *work)
{
    const struct graph *graph = work->graph;
    uint64_t sharing = 0;
    double total = 0.0;
    for (uint32_t row = 0; row < graph->count; row++) {
        uint32_t block = work->block_of_row[row];
        if (work->load[block] < 2)
            continue;
        const uint32_t *ids = graph_neighbors(graph, row);
        uint32_t mates = 0;
        for (uint32_t i = 0; i < graph_degree(graph, row); i++) {
            uint32_t target = ids[i] - work->first;
            mates += target < graph->count && work->block_of_row[target] == block;
        }
        total += (double)mates / (work->load[block] - 1);
        sharing++;
    }
    return sharing ? total / (double)sharing : 0.0;
}
