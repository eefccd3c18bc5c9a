/*
 * groundtruth_range.c - owns all rows within a radius of every query, exactly.
 *
 * How many there are is known in the end only, so lists grow. Their bytes, and those of the result,
 * are counted against the budget as they come: a radius that takes in most of the base is refused
 * before the machine is out of memory.
 *
 * Thread rules: as groundtruth_compute().
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tools/groundtruth_internal.h"

enum {
    LIST_FIRST = 16, /* entries that a list begins with */
    ENTRY_BYTES = sizeof(float) + sizeof(uint32_t),
};

/* A heap as in the search for the k nearest, but of any size. */
struct list {
    float *distances;
    uint32_t *ids;
    uint32_t size;
    uint32_t capacity;
    bool cut; /* there were more than the cap */
};

struct run {
    struct groundtruth_scan scan;
    const struct groundtruth_range *range;
    struct list *lists;     /* [heap_count] */
    uint64_t limit;         /* of `bytes` */
    _Atomic uint64_t bytes; /* of all lists; relaxed: a sum, and nothing is passed by it */
};

static bool list_grow(struct run *run, struct list *list)
{
    uint32_t capacity = list->capacity > UINT32_MAX / 2
                            ? UINT32_MAX
                            : MAX(2 * list->capacity, (uint32_t)LIST_FIRST);
    uint64_t more = (uint64_t)(capacity - list->capacity) * ENTRY_BYTES;
    if (atomic_fetch_add_explicit(&run->bytes, more, memory_order_relaxed) + more > run->limit)
        return false;
    float *distances = realloc(list->distances, capacity * sizeof(float));
    if (distances == NULL)
        return false;
    list->distances = distances;
    uint32_t *ids = realloc(list->ids, capacity * sizeof(uint32_t));
    if (ids == NULL)
        return false;
    list->ids = ids;
    list->capacity = capacity;
    return true;
}

/* False: no memory. */
static bool list_push(struct run *run, struct list *list, float distance, uint32_t id)
{
    uint32_t limit = run->range->cap != 0 ? run->range->cap : UINT32_MAX;
    if (list->size == limit) {
        list->cut = true;
    } else if (list->size == list->capacity && !list_grow(run, list)) {
        atomic_store_explicit(&run->scan.stop, true, memory_order_relaxed);
        return false;
    }
    groundtruth_heap_push(list->distances, list->ids, &list->size, limit, distance, id);
    return true;
}

static void tile_take(void *taker, size_t heap, uint32_t query, const struct tile *tile)
{
    struct run *run = taker;
    float radius = run->range->radius;
    if (atomic_load_explicit(&run->scan.stop, memory_order_relaxed))
        return;
    for (uint32_t i = 0; i < tile->count; i++) {
        if (tile->distances[i] > radius)
            continue;
        uint32_t id = tile_id(tile, i);
        if (groundtruth_matches(&run->scan, query, id) &&
            !list_push(run, &run->lists[heap], tile->distances[i], id))
            return;
    }
}

static void list_free(struct list *list)
{
    free(list->distances);
    free(list->ids);
    list->distances = NULL;
    list->ids = NULL;
    list->size = 0;
    list->capacity = 0;
}

static enum status failure(const struct run *run, struct error *err)
{
    return error_set(
        err, STATUS_NO_MEMORY,
        "the rows within radius %g of %u queries do not fit the memory: give --memory, "
        "a smaller radius or a cap",
        (double)run->range->radius, run->scan.query_count);
}

/* Folds the lists of the other parts into part 0's and orders them. */
static enum status merge_parts(struct run *run, uint64_t *total, struct error *err)
{
    uint32_t query_count = run->scan.query_count;
#pragma omp parallel for schedule(dynamic, 16) num_threads((int)run->scan.threads)
    for (uint32_t query = 0; query < query_count; query++) {
        struct list *list = &run->lists[query];
        for (uint32_t part = 1; part < run->scan.parts; part++) {
            struct list *other = &run->lists[(size_t)part * query_count + query];
            list->cut = list->cut || other->cut;
            for (uint32_t i = 0; i < other->size; i++)
                if (!list_push(run, list, other->distances[i], other->ids[i]))
                    break;
            atomic_fetch_sub_explicit(&run->bytes, (uint64_t)other->capacity * ENTRY_BYTES,
                                      memory_order_relaxed);
            list_free(other);
        }
        groundtruth_heap_sort(list->distances, list->ids, list->size);
    }
    if (atomic_load_explicit(&run->scan.stop, memory_order_relaxed))
        return failure(run, err);
    *total = 0;
    for (uint32_t query = 0; query < query_count; query++)
        *total += run->lists[query].size;
    if (*total > UINT32_MAX)
        return error_set(err, STATUS_INVALID,
                         "%" PRIu64 " rows are within radius %g of the queries, the file holds at "
                         "most %" PRIu32 ": give a smaller radius or a cap",
                         *total, (double)run->range->radius, UINT32_MAX);
    uint64_t bytes = atomic_load_explicit(&run->bytes, memory_order_relaxed);
    return bytes + *total * ENTRY_BYTES <= run->limit ? STATUS_OK : failure(run, err);
}

static enum status collect(struct run *run, struct range_truth *out, uint64_t *cut,
                           struct error *err)
{
    uint64_t total = 0, cuts = 0;
    enum status status = merge_parts(run, &total, err);
    if (status == STATUS_OK)
        status = range_truth_create(out, run->scan.query_count, total, true, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t query = 0; query < run->scan.query_count; query++) {
        struct list *list = &run->lists[query];
        uint64_t at = out->at[query];
        if (list->size > 0) {
            memcpy(out->ids + at, list->ids, list->size * sizeof(uint32_t));
            memcpy(out->distances + at, list->distances, list->size * sizeof(float));
        }
        out->at[query + 1] = at + list->size;
        cuts += list->cut;
        list_free(list);
    }
    if (cut != NULL)
        *cut = cuts;
    return STATUS_OK;
}

static enum status run_allocate(struct run *run, struct error *err)
{
    const struct groundtruth_params *params = run->scan.params;
    size_t heaps = run->scan.heap_count;
    uint64_t least, budget = params->memory_bytes;
    /* A quarter of what is allowed is for answers at least. */
    size_t fixed = heaps * sizeof(struct list) + (size_t)(budget / 4);
    enum status status = groundtruth_scan_allocate(&run->scan, fixed, &least, err);
    if (status != STATUS_OK && least != 0)
        return error_set(err, STATUS_NO_MEMORY,
                         "a memory budget of %" PRIu64 " bytes is too small for %u queries",
                         params->memory_bytes, run->scan.query_count);
    if (status != STATUS_OK)
        return status;
    run->limit = UINT64_MAX;
    if (budget != 0)
        run->limit = budget - heaps * sizeof(struct list) - run->scan.held_bytes;
    run->lists = calloc(heaps, sizeof(struct list));
    if (run->lists == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", run->scan.query_count);
    return STATUS_OK;
}

enum status groundtruth_within(const struct groundtruth_params *params,
                               const struct groundtruth_range *range, struct range_truth *out,
                               uint64_t *cut, struct error *err)
{
    struct run run = {.scan = {.params = params, .take = tile_take}, .range = range};
    run.scan.taker = &run;
    *out = (struct range_truth){0};
    enum status status = groundtruth_scan_open(&run.scan, err);
    if (status == STATUS_OK)
        status = run_allocate(&run, err);
    if (status == STATUS_OK)
        status = groundtruth_scan_run(&run.scan, err);
    if (status == STATUS_OK && atomic_load_explicit(&run.scan.stop, memory_order_relaxed))
        status = failure(&run, err);
    if (status == STATUS_OK)
        status = collect(&run, out, cut, err);
    for (size_t i = 0; run.lists != NULL && i < run.scan.heap_count; i++)
        list_free(&run.lists[i]);
    free(run.lists);
    groundtruth_scan_close(&run.scan);
    return status;
}
