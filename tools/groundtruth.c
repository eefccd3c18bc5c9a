/*
 * groundtruth.c - owns the k nearest of every query, exactly: the best k so far are a heap with the
 * worst on top, for each part of the pass, merged at the end.
 *
 * Thread rules: groundtruth_compute() may be called from one thread at a time per output.
 */
#include "tools/groundtruth.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "common/memory.h"
#include "tools/groundtruth_internal.h"

struct run {
    struct groundtruth_scan scan;
    uint32_t *sizes; /* of heap h; its ids and distances at h * k */
    uint32_t *ids;
    float *distances;
};

/* Restores the heap below `hole`, where (distance, id) belongs. */
static void heap_sink(float *distances, uint32_t *ids, uint32_t size, float distance, uint32_t id)
{
    uint32_t hole = 0;
    for (;;) {
        uint32_t child = 2 * hole + 1;
        if (child >= size)
            break;
        if (child + 1 < size && groundtruth_is_worse(distances[child + 1], ids[child + 1],
                                                     distances[child], ids[child]))
            child++;
        if (!groundtruth_is_worse(distances[child], ids[child], distance, id))
            break;
        distances[hole] = distances[child];
        ids[hole] = ids[child];
        hole = child;
    }
    distances[hole] = distance;
    ids[hole] = id;
}

void groundtruth_heap_push(float *distances, uint32_t *ids, uint32_t *size, uint32_t limit,
                           float distance, uint32_t id)
{
    if (*size == limit) {
        if (groundtruth_is_worse(distances[0], ids[0], distance, id))
            heap_sink(distances, ids, *size, distance, id);
        return;
    }
    uint32_t hole = (*size)++;
    while (hole > 0) {
        uint32_t parent = (hole - 1) / 2;
        if (!groundtruth_is_worse(distance, id, distances[parent], ids[parent]))
            break;
        distances[hole] = distances[parent];
        ids[hole] = ids[parent];
        hole = parent;
    }
    distances[hole] = distance;
    ids[hole] = id;
}

void groundtruth_heap_sort(float *distances, uint32_t *ids, uint32_t size)
{
    while (size > 1) {
        size--;
        float distance = distances[size];
        uint32_t id = ids[size];
        distances[size] = distances[0];
        ids[size] = ids[0];
        heap_sink(distances, ids, size, distance, id);
    }
}

static void heap_push(const struct run *run, size_t heap, float distance, uint32_t id)
{
    uint32_t k = run->scan.params->k;
    groundtruth_heap_push(run->distances + heap * k, run->ids + heap * k, &run->sizes[heap], k,
                          distance, id);
}

static void tile_push(const struct run *run, size_t heap, uint32_t query, const struct tile *tile,
                      uint32_t i)
{
    uint32_t id = tile_id(tile, i);
    if (groundtruth_matches(&run->scan, query, id))
        heap_push(run, heap, tile->distances[i], id);
}

/* Most rows lose to the heap's worst; those are skipped eight at a time. */
static void tile_take(void *taker, size_t heap, uint32_t query, const struct tile *tile)
{
    const struct run *run = taker;
    const float *worst = run->distances + heap * run->scan.params->k;
    const float *distances = tile->distances;
    uint32_t i = 0;
    while (i < tile->count && run->sizes[heap] < run->scan.params->k)
        tile_push(run, heap, query, tile, i++);
    for (; i + 8 <= tile->count; i += 8) {
        int near = 0;
        for (uint32_t lane = 0; lane < 8; lane++)
            near |= distances[i + lane] <= *worst;
        if (near == 0)
            continue;
        for (uint32_t lane = 0; lane < 8; lane++)
            if (distances[i + lane] <= *worst)
                tile_push(run, heap, query, tile, i + lane);
    }
    for (; i < tile->count; i++)
        if (distances[i] <= *worst)
            tile_push(run, heap, query, tile, i);
}

/* Folds the heaps of the other parts into part 0's and orders them. */
static void merge_parts(struct run *run)
{
    uint32_t k = run->scan.params->k;
#pragma omp parallel for schedule(static) num_threads((int)run->scan.threads)
    for (uint32_t query = 0; query < run->scan.query_count; query++) {
        for (uint32_t part = 1; part < run->scan.parts; part++) {
            size_t heap = (size_t)part * run->scan.query_count + query;
            for (uint32_t i = 0; i < run->sizes[heap]; i++)
                heap_push(run, query, run->distances[heap * k + i], run->ids[heap * k + i]);
        }
        uint32_t size = run->sizes[query];
        assert(size == k || run->scan.params->filter != NULL);
        float *distances = run->distances + (size_t)query * k;
        uint32_t *ids = run->ids + (size_t)query * k;
        groundtruth_heap_sort(distances, ids, size);
        for (uint32_t i = size; i < k; i++) {
            distances[i] = INFINITY;
            ids[i] = GROUND_TRUTH_ABSENT;
        }
    }
}

static enum status k_check(const struct run *run, struct error *err)
{
    const struct groundtruth_params *params = run->scan.params;
    if (params->k < 1 || params->k > GROUNDTRUTH_K_MAX)
        return error_set(err, STATUS_INVALID, "k is %u, wanted 1 to %d", params->k,
                         GROUNDTRUTH_K_MAX);
    if (params->k > run->scan.shape.count)
        return error_set(err, STATUS_INVALID, "k is %u, but %s has only %llu rows", params->k,
                         params->base, (unsigned long long)run->scan.shape.count);
    return STATUS_OK;
}

static enum status run_allocate(struct run *run, struct error *err)
{
    const struct groundtruth_params *params = run->scan.params;
    size_t heaps = run->scan.heap_count, entries, fixed;
    uint64_t least;
    if (!size_mul(heaps, params->k, &entries) ||
        !size_mul(entries, sizeof(float) + sizeof(uint32_t), &fixed) ||
        !size_add(fixed, heaps * sizeof(uint32_t), &fixed))
        return error_set(err, STATUS_INVALID, "%s: %u queries with k %u exceed the address space",
                         params->queries, run->scan.query_count, params->k);
    enum status status = groundtruth_scan_allocate(&run->scan, fixed, &least, err);
    if (status != STATUS_OK && least != 0)
        return error_set(err, STATUS_NO_MEMORY,
                         "a memory budget of %llu bytes is too small for %u queries with k %u: "
                         "at least %llu bytes are needed",
                         (unsigned long long)params->memory_bytes, run->scan.query_count, params->k,
                         (unsigned long long)least);
    if (status != STATUS_OK)
        return status;
    run->sizes = calloc(heaps, sizeof(uint32_t));
    run->ids = malloc(entries * sizeof(uint32_t));
    run->distances = malloc(entries * sizeof(float));
    if (run->sizes == NULL || run->ids == NULL || run->distances == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %zu neighbours", entries);
    return STATUS_OK;
}

enum status groundtruth_compute(const struct groundtruth_params *params, struct ground_truth *out,
                                struct error *err)
{
    struct run run = {.scan = {.params = params, .take = tile_take}};
    run.scan.taker = &run;
    *out = (struct ground_truth){0};
    enum status status = groundtruth_scan_open(&run.scan, err);
    if (status == STATUS_OK)
        status = k_check(&run, err);
    if (status == STATUS_OK)
        status = run_allocate(&run, err);
    if (status == STATUS_OK)
        status = groundtruth_scan_run(&run.scan, err);
    if (status == STATUS_OK) {
        merge_parts(&run);
        /* Part 0's heaps are the first query_count * k entries: exactly the result. */
        *out = (struct ground_truth){.query_count = run.scan.query_count,
                                     .k = params->k,
                                     .ids = run.ids,
                                     .distances = run.distances};
        run.ids = NULL;
        run.distances = NULL;
    }
    free(run.distances);
    free(run.ids);
    free(run.sizes);
    groundtruth_scan_close(&run.scan);
    return status;
}
