/*
 * pipnn.c - candidates from leaves (PiPNN, arXiv 2602.21247).
 *
 * Every row goes through about LEAVES_OF_ROW leaves (carve.h). In a leaf all distances are taken at
 * once, and each row and its nearest few are offered to one another; of all offers a row keeps the
 * nearest in its reservoir. When all leaves are done, each row's candidates are pruned by true
 * distances.
 *
 * That alone gives short edges. For the way from afar, a sample of the rows has a graph of its own,
 * made in the same manner (and so with a sample of its own); what it gives a row are candidates
 * too. The entry is in every sample, so that a search has far edges to begin with. Of rows that are
 * copies of one another one takes part, and the others get its list.
 *
 * Under ip leaves are of rows that point the same way, rows are also offered the long ones among
 * them (promising.h), and the sample is of the longest rows, as these are what is looked for.
 *
 * Determinism: leaves do not depend on threads, nor a reservoir's content on the order of offers. A
 * reservoir is written under one of LOCKS spin locks, which are hardly ever contended: a leaf's
 * offers to one row are made in one go.
 *
 * Departures from the paper: reservoirs keep the nearest (see reservoir.h); small sets are carved
 * several times instead of in larger leaves, so that rows meet as many others at any size; a set of
 * one leaf is compared exactly, each row with R nearest. Where bytes are too coarse for the data,
 * the graph is made by vamana.
 */
#include <assert.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "builder/byte_view.h"
#include "builder/carve.h"
#include "builder/copies.h"
#include "builder/graph_internal.h"
#include "builder/promising.h"
#include "builder/reservoir.h"
#include "common/cpu.h"
#include "common/memory.h"
#include "common/random.h"
#include "common/sorted.h"
#include "common/u64_sort.h"

enum {
    LEAVES_OF_ROW = 30,
    LEAF_NEIGHBORS = 4,
    LEAF_NEIGHBORS_MAX = 255, /* of a set that is one leaf: R */
    LOCKS = 1 << 14,
    SAMPLE_STEP = 16,
    FAR_SHARE = 4, /* of a sampled row's places, a quarter is for neighbours in the sample */
};

/* Shares of the time, by which progress is told. */
#define SAMPLE_TIME 0.06
#define CARVE_TIME  0.70

/* An offer that a row of a leaf makes or gets. */
struct offer {
    uint16_t partner; /* place in the leaf */
    uint16_t key;
};

/* One thread's. */
struct leaf_scratch {
    struct tile tile;
    int32_t *scores;         /* [TILE_QUERIES_MAX * CARVE_LEAF_MAX] */
    struct offer *chosen;    /* [CARVE_LEAF_MAX * neighbors]: what each row chose */
    struct offer *offers;    /* [2 * CARVE_LEAF_MAX * neighbors], grouped by row */
    uint32_t *chosen_counts; /* [CARVE_LEAF_MAX] */
    uint32_t *starts;        /* [CARVE_LEAF_MAX + 1] */
};

struct pipnn {
    const struct vector_set *set;
    const struct graph_params *params;
    struct byte_view view;
    bool coarse; /* the view does not tell neighbours apart */
    struct reservoirs reservoirs;
    struct promising promising;
    atomic_flag *locks;
    uint32_t neighbors; /* that a row chooses in a leaf */
    struct leaf_scratch *leaves;
    int threads;
    struct copies copies;
    struct graph sample; /* of sample_rows, numbered by their places */
    uint32_t *sample_rows;
    uint32_t sample_count;
    uint32_t sample_entry; /* place of the entry */
    uint32_t entry;
    uint32_t round, rounds;
    uint64_t reported;
};

/* ---- a leaf ---- */

/* Each row's nearest, into chosen[]. */
static void leaf_choose(const struct pipnn *p, struct leaf_scratch *s, const uint32_t *ids,
                        uint32_t count)
{
    struct tile *tile = &s->tile;
    uint32_t best[LEAF_NEIGHBORS_MAX];

    tile_fill(tile, &p->view.rows, ids, count);
    uint32_t width = tile_width(tile);
    for (uint32_t first = 0; first < count; first += TILE_QUERIES_MAX) {
        uint32_t here = MIN(count - first, (uint32_t)TILE_QUERIES_MAX);
        tile_ask(tile, &p->view.rows, ids + first, here);
        tile_scores(tile, here, s->scores);
        for (uint32_t q = 0; q < here; q++) {
            uint32_t row = first + q;
            const int32_t *scores = s->scores + (size_t)q * width;
            uint32_t found = tile_select(tile, scores, width, p->neighbors, row, best);
            for (uint32_t i = 0; i < found; i++)
                s->chosen[(size_t)row * p->neighbors + i] = (struct offer){
                    .partner = (uint16_t)best[i],
                    .key = reservoir_key(tile->squares[row] + scores[best[i]]),
                };
            s->chosen_counts[row] = found;
        }
    }
}

/* Groups what rows chose, and that they were chosen, by row. */
static void leaf_group(const struct pipnn *p, struct leaf_scratch *s, uint32_t count)
{
    uint32_t *starts = s->starts;
    for (uint32_t row = 0; row <= count; row++)
        starts[row] = 0;
    for (uint32_t row = 0; row < count; row++) {
        const struct offer *chosen = s->chosen + (size_t)row * p->neighbors;
        starts[row] += s->chosen_counts[row];
        for (uint32_t i = 0; i < s->chosen_counts[row]; i++)
            starts[chosen[i].partner]++;
    }
    uint32_t total = 0;
    for (uint32_t row = 0; row <= count; row++) {
        total += starts[row];
        starts[row] = total; /* the end of the row's; filled in from behind */
    }
    for (uint32_t row = 0; row < count; row++) {
        const struct offer *chosen = s->chosen + (size_t)row * p->neighbors;
        for (uint32_t i = 0; i < s->chosen_counts[row]; i++) {
            s->offers[--starts[row]] = chosen[i];
            s->offers[--starts[chosen[i].partner]] =
                (struct offer){.partner = (uint16_t)row, .key = chosen[i].key};
        }
    }
}

static void lock(struct pipnn *p, uint32_t row)
{
    while (atomic_flag_test_and_set_explicit(&p->locks[row % LOCKS], memory_order_acquire))
        ;
}

static void unlock(struct pipnn *p, uint32_t row)
{
    atomic_flag_clear_explicit(&p->locks[row % LOCKS], memory_order_release);
}

static void leaf_offer(struct pipnn *p, const struct leaf_scratch *s, const uint32_t *ids,
                       uint32_t count)
{
    enum { AHEAD = 3 };
    for (uint32_t i = 0; i < count; i++) {
        if (i + AHEAD < count)
            reservoir_prefetch(&p->reservoirs, ids[i + AHEAD]);
        lock(p, ids[i]);
        for (uint32_t at = s->starts[i]; at < s->starts[i + 1]; at++)
            reservoir_offer(&p->reservoirs, ids[i], ids[s->offers[at].partner], s->offers[at].key);
        unlock(p, ids[i]);
    }
}

static void leaf_take(void *context, int thread, const uint32_t *ids, uint32_t count)
{
    struct pipnn *p = context;
    struct leaf_scratch *s = &p->leaves[thread];
    leaf_choose(p, s, ids, count);
    leaf_group(p, s, count);
    leaf_offer(p, s, ids, count);
    promising_offer(&p->promising, ids, count);
}

/* ---- progress ---- */

/* The share of the work that is done, if it is more than what was told before. */
static bool report(struct pipnn *p, double share)
{
    uint32_t count = p->set->count;
    uint64_t done = MIN((uint64_t)(share * count), (uint64_t)count);
    if (!p->params->progress || done <= p->reported)
        return true;
    p->reported = done;
    return p->params->progress(p->params->progress_context, done, count) == 0;
}

static int sample_report(void *context, uint64_t done, uint64_t total)
{
    return !report(context, SAMPLE_TIME * (double)done / (double)total);
}

static bool carve_report(void *context, double share)
{
    struct pipnn *p = context;
    return report(p, SAMPLE_TIME + CARVE_TIME * (p->round + share) / p->rounds);
}

/* ---- a sample's graph ---- */

/* Place of the entry, or of the row it is a copy of, among the different rows. */
static uint32_t entry_place(const struct pipnn *p)
{
    uint32_t row = p->entry;
    while (copies_next(&p->copies, row) > row) /* to the last copy, and so to the first */
        row = copies_next(&p->copies, row);
    row = copies_next(&p->copies, row);
    return p->copies.distinct ? sorted_find(p->copies.distinct, p->copies.distinct_count, row)
                              : row;
}

/* One of every SAMPLE_STEP different rows, drawn from each so many, the entry among them. */
static void sample_draw(struct pipnn *p, uint32_t entry)
{
    for (uint32_t i = 0; i < p->sample_count; i++) {
        uint32_t first = i * SAMPLE_STEP;
        uint32_t end = i + 1 < p->sample_count ? first + SAMPLE_STEP : p->copies.distinct_count;
        uint32_t pick = first + (uint32_t)random_below(p->params->seed, i, end - first);
        if (entry >= first && entry < end) {
            pick = entry;
            p->sample_entry = i;
        }
        p->sample_rows[i] = copies_distinct_row(&p->copies, pick);
    }
}

/* A number that falls as the row is longer; the same for lengths within a tenth or so. */
static uint32_t shortness(const struct vector_set *set, uint32_t row)
{
    enum { STEP_BITS = 21 };     /* of a float's bits: a quarter of a doubling */
    const float off_edge = 0.9f; /* of a step, where vectors of length 1 would be */
    const void *vector = vector_set_row(set, row);
    float share = set->kernels->dot(vector, vector, set->dim) / (set->norm_max * set->norm_max);
    uint32_t bits; /* never negative, so that it orders as its bits */
    share *= off_edge;
    memcpy(&bits, &share, sizeof(bits));
    return UINT16_MAX - (bits >> STEP_BITS);
}

/* Under ip: the entry and the longest, of those about as long any, as rows may come in some order.
 */
static enum status sample_longest(struct pipnn *p, uint32_t entry, struct error *err)
{
    uint32_t count = p->copies.distinct_count;
    uint32_t entry_row = copies_distinct_row(&p->copies, entry);
    void *memory = NULL;
    enum status status = bulk_alloc(count, sizeof(uint64_t), "lengths of rows", &memory, err);
    if (status != STATUS_OK)
        return status;
    uint64_t *keys = memory;
#pragma omp parallel for schedule(static)
    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = copies_distinct_row(&p->copies, i);
        uint64_t chance = random_below(p->params->seed, i, UINT64_C(1) << 16);
        keys[i] = (uint64_t)shortness(p->set, row) << 48 | chance << 32 | row;
    }
    keys[entry] = entry_row;
    u64_sort(keys, count);
    for (uint32_t i = 0; i < p->sample_count; i++)
        keys[i] &= UINT32_MAX;
    u64_sort(keys, p->sample_count);
    for (uint32_t i = 0; i < p->sample_count; i++)
        p->sample_rows[i] = (uint32_t)keys[i];
    p->sample_entry = sorted_find(p->sample_rows, p->sample_count, entry_row);
    bulk_free(memory, count, sizeof(uint64_t));
    return STATUS_OK;
}

/* A sixteenth of the different rows, ascending, into a set of their own. */
static enum status sample_take(struct pipnn *p, struct vector_set *sample, struct error *err)
{
    uint32_t entry = entry_place(p);
    const struct vector_set *set = p->set;
    uint32_t count = p->copies.distinct_count / SAMPLE_STEP;
    void *rows = NULL;
    enum status status = bulk_alloc(count, sizeof(uint32_t), "a sample's rows", &rows, err);
    if (status == STATUS_OK)
        status = vector_set_create(sample, count, set->dim, set->type, set->metric, err);
    p->sample_rows = rows;
    p->sample_count = count;
    if (status == STATUS_OK && set->metric == METRIC_IP)
        status = sample_longest(p, entry, err);
    else if (status == STATUS_OK)
        sample_draw(p, entry);
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++)
        memcpy(sample->rows + i * sample->stride_bytes, vector_set_row(set, p->sample_rows[i]),
               set->stride_bytes);
    return status == STATUS_OK ? vector_set_prepare(sample, set->norm_max, err) : status;
}

static enum status sample_build(struct pipnn *p, struct error *err)
{
    struct vector_set sample = {0};
    struct graph_params params = *p->params;
    params.seed = random_at(p->params->seed, UINT64_MAX);
    params.progress = sample_report;
    params.progress_context = p;
    if (p->copies.distinct_count / SAMPLE_STEP < 2)
        return STATUS_OK;
    enum status status = sample_take(p, &sample, err);
    if (status == STATUS_OK)
        status = pipnn_lists(&sample, &params, p->sample_entry, &p->sample, err);
    vector_set_destroy(&sample);
    return status;
}

/* Appends the neighbours in the sample of the row at `place`; returns how many ids there are then.
 */
static uint32_t sample_append(const struct pipnn *p, uint32_t place, uint32_t *ids, uint32_t count)
{
    const uint32_t *neighbors = graph_neighbors(&p->sample, place);
    uint32_t degree = graph_degree(&p->sample, place);
    for (uint32_t i = 0; i < degree; i++)
        ids[count++] = p->sample_rows[neighbors[i]];
    return count;
}

/* ---- rounds of carving ---- */

/* As many rounds as give rows the leaves they are to be in; by how many the first gave them. */
static enum status rounds_run(struct pipnn *p, struct error *err)
{
    enum status status = STATUS_OK;
    struct carve_params params = {
        .ids = p->copies.distinct,
        .count = p->copies.distinct_count,
        .leaf = leaf_take,
        .progress = carve_report,
        .context = p,
    };

    p->rounds = 1;
    for (p->round = 0; status == STATUS_OK && p->round < p->rounds; p->round++) {
        uint64_t members;
        params.seed = random_at(p->params->seed, p->round);
        status = carve(&p->view.rows, &params, &members, err);
        uint64_t wanted = (uint64_t)params.count * LEAVES_OF_ROW;
        if (status == STATUS_OK && p->round == 0 && params.count > CARVE_LEAF_MAX)
            p->rounds = (uint32_t)MAX((wanted + members / 2) / members, (uint64_t)1);
    }
    return status;
}

/* ---- the end ---- */

/* Prunes ids[count] to at most `degree` neighbours of `row`, which take their place. */
static uint32_t ids_prune(const struct pipnn *p, uint32_t row, uint32_t degree, uint32_t *ids,
                          uint32_t count, struct graph_scratch *s)
{
    struct graph_params params = *p->params;
    params.degree = degree;
    vector_set_gather(p->set, row, ids, count, s->batch_distances);
    for (uint32_t i = 0; i < count; i++)
        s->candidates[i] = (struct candidate){s->batch_distances[i], ids[i]};
    return robust_prune(p->set, &params, row, s->candidates, count, s, ids);
}

/* Lists of a row and its copies: the same neighbours, for they are in the same place, and one copy,
 * each the next one. Near neighbours leave some places to a sampled row's far ones. */
static void row_finish(struct pipnn *p, uint32_t row, uint32_t *ids, struct graph_scratch *s)
{
    struct graph *graph = &p->reservoirs.graph;
    uint32_t degree = p->params->degree;
    uint32_t copy = copies_next(&p->copies, row);
    uint32_t sampled = sorted_find(p->sample_rows, p->sample.count, row);
    uint32_t count = reservoir_take(&p->reservoirs, row, ids);
    count += promising_take(&p->promising, row, ids + count);
    if (copy != row)
        ids[count++] = copy;
    if (sampled != SORTED_NONE) {
        count = ids_prune(p, row, degree - degree / FAR_SHARE, ids, count, s);
        count = sample_append(p, sampled, ids, count);
    }
    count = ids_prune(p, row, degree, ids, count, s);
    memcpy(graph_neighbors(graph, row), ids, count * sizeof(*ids));
    graph_set_degree(graph, row, count);
    for (uint32_t next; copy != row; copy = next) {
        next = copies_next(&p->copies, copy);
        ids[0] = next; /* a copy is at distance zero and comes first */
        memcpy(graph_neighbors(graph, copy), ids, count * sizeof(*ids));
        graph_set_degree(graph, copy, count);
    }
}

static enum status rows_finish(struct pipnn *p, struct error *err)
{
    enum { BATCH = 1 << 16 };
    enum status status = STATUS_OK;
    uint32_t most =
        p->reservoirs.capacity + p->promising.reservoirs.capacity + p->params->degree + 1;
    struct graph_scratch **scratch = calloc((size_t)p->threads, sizeof(struct graph_scratch *));
    uint32_t *ids = calloc((size_t)p->threads * most, sizeof(*ids));
    uint32_t count = p->copies.distinct_count;
    if (!scratch || !ids)
        status = error_set(err, STATUS_NO_MEMORY, "graph: out of memory");
    for (int i = 0; status == STATUS_OK && i < p->threads; i++)
        status = graph_scratch_create(p->set, 1, most, &scratch[i], err);
    for (uint32_t first = 0; status == STATUS_OK && first < count; first += BATCH) {
        uint32_t end = first + MIN(count - first, (uint32_t)BATCH);
#pragma omp parallel for schedule(dynamic, 64)
        for (uint32_t i = first; i < end; i++) {
            int thread = omp_get_thread_num();
            row_finish(p, copies_distinct_row(&p->copies, i), ids + (size_t)thread * most,
                       scratch[thread]);
        }
        double before = SAMPLE_TIME + CARVE_TIME;
        if (!report(p, before + (1.0 - before) * end / count))
            status = error_set(err, STATUS_CANCELLED, "graph: stopped on request");
    }
    for (int i = 0; scratch && i < p->threads; i++)
        graph_scratch_destroy(scratch[i]);
    free(scratch);
    free(ids);
    return status;
}

/* ---- the whole ---- */

static uint64_t leaf_scratch_bytes(uint64_t dim, uint64_t neighbors)
{
    uint64_t offers = 3 * CARVE_LEAF_MAX * neighbors * sizeof(struct offer);
    uint64_t counts = (2 * CARVE_LEAF_MAX + 1) * sizeof(uint32_t);
    uint64_t scores = TILE_QUERIES_MAX * CARVE_LEAF_MAX * sizeof(int32_t);
    return offers + counts + scores + tile_bytes(CARVE_LEAF_MAX, (uint32_t)dim);
}

static enum status leaf_scratch_create(struct leaf_scratch *s, uint32_t dim, uint32_t neighbors,
                                       struct error *err)
{
    tile_init(&s->tile, dim, cpu_features());
    s->scores = aligned_alloc(64, TILE_QUERIES_MAX * CARVE_LEAF_MAX * sizeof(*s->scores));
    s->chosen = calloc((size_t)CARVE_LEAF_MAX * neighbors, sizeof(*s->chosen));
    s->offers = calloc((size_t)2 * CARVE_LEAF_MAX * neighbors, sizeof(*s->offers));
    s->chosen_counts = calloc(CARVE_LEAF_MAX, sizeof(*s->chosen_counts));
    s->starts = calloc(CARVE_LEAF_MAX + 1, sizeof(*s->starts));
    if (!s->scores || !s->chosen || !s->offers || !s->chosen_counts || !s->starts)
        return error_set(err, STATUS_NO_MEMORY, "leaves: out of memory");
    return tile_reserve(&s->tile, CARVE_LEAF_MAX, err);
}

static void leaf_scratch_release(struct leaf_scratch *s)
{
    tile_destroy(&s->tile);
    free(s->scores);
    free(s->chosen);
    free(s->offers);
    free(s->chosen_counts);
    free(s->starts);
}

static enum status pipnn_begin(struct pipnn *p, struct error *err)
{
    p->threads = omp_get_max_threads();
    assert(p->params->degree <= LEAF_NEIGHBORS_MAX);
    p->locks = calloc(LOCKS, sizeof(*p->locks));
    p->leaves = calloc((size_t)p->threads, sizeof(*p->leaves));
    if (!p->locks || !p->leaves)
        return error_set(err, STATUS_NO_MEMORY, "graph: out of memory");
    for (uint32_t i = 0; i < LOCKS; i++)
        atomic_flag_clear(&p->locks[i]);
    bool faithful = true;
    enum status status = byte_view_create(p->set, &p->view, err);
    if (status == STATUS_OK)
        status = byte_view_judge(p->set, &p->view, &faithful, err);
    p->coarse = !faithful;
    if (status != STATUS_OK || p->coarse)
        return status;
    status = copies_find(p->set, &p->view.rows, &p->copies, err);
    p->neighbors = p->copies.distinct_count <= CARVE_LEAF_MAX ? p->params->degree : LEAF_NEIGHBORS;
    if (status == STATUS_OK) /* before what this one takes is there */
        status = sample_build(p, err);
    for (int i = 0; status == STATUS_OK && i < p->threads; i++)
        status = leaf_scratch_create(&p->leaves[i], p->view.rows.dim, p->neighbors, err);
    if (status == STATUS_OK)
        status = reservoirs_create(&p->reservoirs, p->set->count, p->params->degree, err);
    if (status == STATUS_OK)
        status = promising_create(&p->promising, p->set, p->params->degree, err);
    return status;
}

static void pipnn_release(struct pipnn *p)
{
    for (int i = 0; p->leaves && i < p->threads; i++)
        leaf_scratch_release(&p->leaves[i]);
    free(p->leaves);
    free(p->locks);
    graph_destroy(&p->sample);
    promising_destroy(&p->promising);
    bulk_free(p->sample_rows, p->sample_count, sizeof(*p->sample_rows));
    copies_destroy(&p->copies);
    byte_view_destroy(&p->view);
}

enum status pipnn_lists(const struct vector_set *set, const struct graph_params *params,
                        uint32_t entry, struct graph *graph, struct error *err)
{
    struct pipnn p = {.set = set, .params = params, .entry = entry};
    enum status status = pipnn_begin(&p, err);
    if (status == STATUS_OK && p.coarse) {
        pipnn_release(&p);
        return vamana_lists(set, params, entry, graph, err);
    }
    if (status == STATUS_OK)
        status = rounds_run(&p, err);
    if (status == STATUS_OK)
        status = rows_finish(&p, err);
    *graph = p.reservoirs.graph;
    pipnn_release(&p);
    return status;
}

uint64_t pipnn_bytes(const struct graph_size *size)
{
    uint64_t dim = size->dim;
    uint64_t view = size->count * byte_view_row_bytes(size->type, size->metric, size->dim);
    uint64_t leaf = leaf_scratch_bytes(dim, MAX(size->degree, (uint64_t)LEAF_NEIGHBORS));
    uint64_t carving = carve_bytes(size->count, dim, size->threads) + size->threads * leaf;
    uint64_t bytes = view + LOCKS + copies_bytes(size->count) + carving +
                     promising_bytes(size->metric, size->count, (uint32_t)size->degree);
    uint64_t sample = size->count / SAMPLE_STEP;
    if (sample < 2)
        return bytes;
    /* The sample's lists stay; its vectors and what finding them takes are gone by then, but the
     * lists of the rows are not there yet. So it is less than the rows' own, but for threads. */
    return bytes + sample * (sizeof(uint32_t) + reservoir_row_bytes((uint32_t)size->degree));
}
