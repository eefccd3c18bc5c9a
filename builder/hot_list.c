/*
 * hot_list.c - sample searches and the order of the hot list.
 *
 * A search of the finished index starts near its query (navigation.bin), not at the medoid. Were
 * the sample searches to start at the medoid, the blocks around it would seem hottest of all while
 * no real query reads them. So each sample query starts at the nearest of HOT_STARTS_MAX random
 * rows, found by measuring them all: less work than an insertion of the build, and no second graph.
 * On 100 K SIFT vectors at L = 20 with 2 % of the blocks cached it saves 0.88 reads a query
 * of 21.3, a start at the medoid 0.66; with 12 % cached the two are alike.
 *
 * Sample searches share nothing but read-only inputs; ranking is sequential (half a million
 * visits).
 */
#include "builder/hot_list.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/graph_build.h"
#include "builder/row_sample.h"
#include "common/memory.h"

enum {
    HOT_STARTS_MAX = 2048,
    HOT_START_SHARE = 100,  /* one row in so many, as the navigation graph has */
    HOT_STEP_QUERIES = 512, /* between two looks at the monitor */
};

/* Tell the two samples apart, and from others drawn from the same seed. */
#define HOT_QUERY_STREAM 0x0ddba11f00dfeed5u
#define HOT_START_STREAM 0x5ca1ab1e0ddba115u

/* ---- sample searches ---- */

struct sampler {
    const struct vector_set *set;
    const struct graph *graph;
    uint32_t entry;
    uint32_t *queries;
    uint32_t *starts;
    uint32_t start_count;
    int threads;
    struct graph_scratch **scratch; /* one a thread */
    float *distances;               /* [threads * start_count] */
    uint32_t *visited;              /* [threads * (HOT_VISITS_MAX + 1)] */
};

static void sampler_fini(struct sampler *s)
{
    for (int i = 0; s->scratch != NULL && i < s->threads; i++)
        graph_scratch_destroy(s->scratch[i]);
    free(s->scratch);
    free(s->queries);
    free(s->starts);
    free(s->distances);
    free(s->visited);
}

static enum status sampler_init(struct sampler *s, const struct hot_sample *sample,
                                struct error *err)
{
    uint32_t query_count = sample->query_count;
    uint32_t count = s->set->count;
    s->threads = omp_get_max_threads();
    s->start_count = MIN((uint32_t)HOT_STARTS_MAX, (count + HOT_START_SHARE - 1) / HOT_START_SHARE);

    size_t threads = (size_t)s->threads;
    s->scratch = calloc(threads, sizeof(struct graph_scratch *));
    s->queries = calloc(query_count + 1, sizeof(*s->queries));
    s->starts = calloc(s->start_count, sizeof(*s->starts));
    s->distances = calloc(threads * s->start_count, sizeof(*s->distances));
    s->visited = calloc(threads * (HOT_VISITS_MAX + 1), sizeof(*s->visited));
    if (s->scratch == NULL || s->queries == NULL || s->starts == NULL || s->distances == NULL ||
        s->visited == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u sample searches", query_count);
    for (int i = 0; i < s->threads; i++) {
        enum status status =
            graph_scratch_create(s->set, HOT_SEARCH_LIST, s->graph->stride, &s->scratch[i], err);
        if (status != STATUS_OK)
            return status;
    }
    row_sample(sample->seed ^ HOT_QUERY_STREAM, sample->own_count, query_count, s->queries);
    row_sample(sample->seed ^ HOT_START_STREAM, count, s->start_count, s->starts);
    return STATUS_OK;
}

/* The nearest start other than the query itself, the lowest row among equals. */
static uint32_t start_find(const struct sampler *s, uint32_t query, float *distances)
{
    uint32_t best = s->start_count;

    vector_set_gather(s->set, query, s->starts, s->start_count, distances);
    for (uint32_t i = 0; i < s->start_count; i++)
        if (s->starts[i] != query && (best == s->start_count || distances[i] < distances[best]))
            best = i;
    return best == s->start_count ? s->entry : s->starts[best];
}

static uint32_t query_run(const struct sampler *s, uint32_t query, uint32_t *rows)
{
    size_t thread = (size_t)omp_get_thread_num();
    uint32_t *visited = s->visited + thread * (HOT_VISITS_MAX + 1);
    uint32_t start = start_find(s, query, s->distances + thread * s->start_count);
    uint32_t count = graph_search(s->set, s->graph, start, query, HOT_SEARCH_LIST,
                                  s->scratch[thread], visited, HOT_VISITS_MAX + 1);
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count && kept < HOT_VISITS_MAX; i++)
        if (visited[i] != query)
            rows[kept++] = visited[i];
    return kept;
}

enum status hot_visits_collect(const struct vector_set *set, const struct graph *graph,
                               const struct hot_sample *sample, const struct build_monitor *monitor,
                               struct hot_visits *visits, struct error *err)
{
    struct hot_visits made = {.query_count = sample->query_count};
    struct sampler sampler = {.set = set, .graph = graph, .entry = sample->entry};

    enum status status = sampler_init(&sampler, sample, err);
    if (status != STATUS_OK)
        goto out;
    made.counts = calloc(made.query_count + 1, sizeof(*made.counts));
    made.rows = calloc(((size_t)made.query_count + 1) * HOT_VISITS_MAX, sizeof(*made.rows));
    if (made.counts == NULL || made.rows == NULL) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for the visits of %u sample searches",
                           made.query_count);
        goto out;
    }
    for (uint32_t first = 0; first < made.query_count; first += HOT_STEP_QUERIES) {
        uint32_t end = MIN(made.query_count, first + HOT_STEP_QUERIES);
#pragma omp parallel for schedule(dynamic, 4)
        for (uint32_t q = first; q < end; q++) {
            made.counts[q] =
                query_run(&sampler, sampler.queries[q], made.rows + (size_t)q * HOT_VISITS_MAX);
        }
        build_monitor_update(monitor, end);
        status = build_monitor_check(monitor, err);
        if (status != STATUS_OK)
            goto out;
    }
out:
    sampler_fini(&sampler);
    if (status != STATUS_OK)
        hot_visits_destroy(&made);
    *visits = made;
    return status;
}

void hot_visits_destroy(struct hot_visits *visits)
{
    free(visits->counts);
    free(visits->rows);
    memset(visits, 0, sizeof(*visits));
}

/* ---- ranking ---- */

struct hot_node {
    uint32_t block_queries; /* sample queries that read the node's block */
    uint32_t visits;        /* sample queries that expand the node */
    uint32_t block;
    uint32_t node;
};

static int hot_node_compare(const void *a, const void *b)
{
    const struct hot_node *x = a;
    const struct hot_node *y = b;
    if (x->block_queries != y->block_queries)
        return x->block_queries > y->block_queries ? -1 : 1;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    if (x->visits != y->visits)
        return x->visits > y->visits ? -1 : 1;
    return (x->node > y->node) - (x->node < y->node);
}

/* One expansion: what was expanded above, by which query below. */
static uint64_t visit_make(uint32_t what, uint32_t query)
{
    return (uint64_t)what << 32 | query;
}

static int visit_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t visits_fill(const struct hot_visits *visits, const uint32_t *node_of_row,
                            uint64_t *list)
{
    uint64_t count = 0;
    for (uint32_t q = 0; q < visits->query_count; q++)
        for (uint32_t i = 0; i < visits->counts[q]; i++) {
            uint32_t row = visits->rows[(size_t)q * HOT_VISITS_MAX + i];
            list[count++] = visit_make(node_of_row[row], q);
        }
    qsort(list, count, sizeof(*list), visit_compare);
    return count;
}

/* One item a visited node, ascending; a query expands a node at most once. */
static uint64_t nodes_count(const uint64_t *list, uint64_t count, uint32_t nodes_per_block,
                            struct hot_node *items)
{
    uint64_t filled = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t node = (uint32_t)(list[i] >> 32);
        if (filled == 0 || items[filled - 1].node != node)
            items[filled++] = (struct hot_node){.node = node, .block = node / nodes_per_block};
        items[filled - 1].visits++;
    }
    return filled;
}

/* Fills block_queries: distinct queries among the visits of each block. `list` is turned from nodes
 * into blocks. */
static void blocks_count(uint64_t *list, uint64_t count, uint32_t nodes_per_block,
                         struct hot_node *items, uint64_t item_count)
{
    for (uint64_t i = 0; i < count; i++)
        list[i] = visit_make((uint32_t)(list[i] >> 32) / nodes_per_block, (uint32_t)list[i]);
    qsort(list, count, sizeof(*list), visit_compare);
    uint64_t i = 0;
    for (uint64_t item = 0; item < item_count;) {
        uint32_t block = items[item].block;
        uint32_t queries = 0;
        for (; i < count && list[i] >> 32 == block; i++)
            queries += i == 0 || list[i] != list[i - 1];
        for (; item < item_count && items[item].block == block; item++)
            items[item].block_queries = queries;
    }
}

enum status hot_list_rank(const struct hot_visits *visits, const uint32_t *node_of_row,
                          uint32_t nodes_per_block, uint32_t **nodes, uint64_t *count,
                          struct error *err)
{
    uint64_t total = 0;
    for (uint32_t q = 0; q < visits->query_count; q++)
        total += visits->counts[q];
    uint64_t *list = malloc((total + 1) * sizeof(*list));
    struct hot_node *items = malloc((total + 1) * sizeof(*items));
    uint32_t *ids = malloc((total + 1) * sizeof(*ids));
    enum status status = STATUS_OK;
    if (list == NULL || items == NULL || ids == NULL) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a hot list of %llu visits",
                           (unsigned long long)total);
        goto out;
    }
    visits_fill(visits, node_of_row, list);
    uint64_t filled = nodes_count(list, total, nodes_per_block, items);
    blocks_count(list, total, nodes_per_block, items, filled);
    qsort(items, filled, sizeof(*items), hot_node_compare);
    for (uint64_t i = 0; i < filled; i++)
        ids[i] = items[i].node;
    *nodes = ids;
    *count = filled;
    ids = NULL;
out:
    free(ids);
    free(items);
    free(list);
    return status;
}
