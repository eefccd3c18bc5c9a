/*
 * calibrate.c - see calibrate.h.
 *
 * The ladders. A generous list with a stop ratio is the cheapest way to most recalls: the ratio
 * ends easy queries early, the list bounds hard ones. On 200,000 SIFT vectors recall@10 of 0.953
 * takes 13.1 reads with ratio 1.05 and 16.0 by the list alone, and of all pairs tried no one is
 * more than a few percent better than the ladder's.
 *
 * Thread rules: one thread calls; the engine's workers fill answers, which this thread reads when
 * all are complete.
 */
#include "tools/calibrate.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/memory.h"
#include "query/engine.h"
#include "tools/recall.h"

enum {
    READ_TIMEOUT_MS = 60000, /* a slow read is waited for: nobody waits for these answers */
    FRUITLESS_MAX = 2,       /* points in a row that find hardly more: the end of the ladder */
    FRUITFUL_SHARE = 1000,   /* more: of all neighbours one in so many, at least two */
    TOP_SHARE = 1000,        /* all but one in so many are found: likewise the end */
    MUCH_SHARE = 4,          /* a query takes one block in so many: the last step is next */
};

struct step {
    uint32_t search_list;
    float ratio;
};

struct ladder {
    uint32_t k;
    uint32_t queries_max; /* the more neighbours each, the fewer tell as much */
    uint32_t reads_max; /* of a query over all steps: data without structure end the ladder early */
    const struct step *steps;
    uint32_t step_count; /* <= MANIFEST_POINTS_MAX */
};

static const struct step steps_1[] = {{4, 1.05f},  {4, 1.1f},  {5, 1.15f}, {6, 1.2f},  {9, 1.2f},
                                      {12, 1.25f}, {15, 1.3f}, {19, 1.4f}, {25, 1.5f}, {34, 1.6f},
                                      {48, 1.75f}, {72, 1.9f}, {110, 2},   {170, 2},   {260, 2.2f},
                                      {400, 2.5f}, {640, 3},   {1024, 4}};
static const struct step steps_10[] = {
    {12, 0.9f},  {12, 0.95f}, {14, 1},     {18, 1.025f}, {24, 1.05f}, {30, 1.075f},
    {36, 1.1f},  {42, 1.15f}, {50, 1.2f},  {64, 1.3f},   {84, 1.4f},  {120, 1.5f},
    {180, 1.6f}, {280, 1.7f}, {440, 1.8f}, {680, 2},     {1024, 2.5f}};
static const struct step steps_100[] = {{100, 0.85f},  {100, 0.9f},  {100, 0.95f},  {110, 1},
                                        {130, 1.025f}, {155, 1.05f}, {180, 1.075f}, {210, 1.1f},
                                        {250, 1.12f},  {300, 1.15f}, {370, 1.2f},   {460, 1.25f},
                                        {570, 1.3f},   {700, 1.4f},  {850, 1.5f},   {1024, 2}};

static const struct ladder ladders[] = {
    {1, 1000, 1000, steps_1, ARRAY_LENGTH(steps_1)},
    {10, 500, 1500, steps_10, ARRAY_LENGTH(steps_10)},
    {100, 200, 3000, steps_100, ARRAY_LENGTH(steps_100)},
};

/* ---- measuring ---- */

struct measure {
    const struct build_calibration *job;
    const struct sample *sample;
    uint32_t count;   /* of the sample's queries that are run, evenly spread */
    uint8_t *vectors; /* of the sample's queries, as they are compared */
    size_t vector_bytes;
    bool vectors_are_f32;
    struct engine *engine;
    struct search_query *queries; /* [sample->count] */
    struct search_hit *hits;      /* [sample->count * k_max] */
    uint32_t k_max;
};

/* The sample's number of query i that is run. */
static uint32_t query_number(const struct measure *m, uint32_t i)
{
    return (uint32_t)((uint64_t)i * m->sample->count / m->count);
}

static void queries_set(struct measure *m, uint32_t k, const struct step *step)
{
    const struct sample *sample = m->sample;
    for (uint32_t i = 0; i < m->count; i++) {
        const uint32_t q = query_number(m, i);
        m->queries[i] = (struct search_query){
            .vector = m->vectors + q * m->vector_bytes,
            .vector_is_f32 = m->vectors_are_f32,
            .k = k,
            .search_list = step->search_list,
            .beam_width = 1, /* so that what is read does not depend on when reads land */
            .search_ratio = step->ratio,
            .excludes = sample->own_nodes != NULL,
            .excluded_node = sample->own_nodes != NULL ? sample->own_nodes[q] : 0,
            .hits = m->hits + (size_t)i * m->k_max,
        };
    }
}

static uint32_t query_right(const struct sample *sample, uint32_t q,
                            const struct search_query *query)
{
    uint64_t keys[RECALL_K_MAX];
    float distances[RECALL_K_MAX];
    const size_t at = (size_t)q * sample->k;
    for (uint32_t i = 0; i < query->hit_count; i++) {
        keys[i] = query->hits[i].key;
        distances[i] = query->hits[i].distance;
    }
    return recall_count_keys(sample->truth_keys + at, sample->truth_distances + at, query->k, keys,
                             distances, query->hit_count);
}

static enum status point_count(const struct measure *m, struct manifest_point *point,
                               struct error *err)
{
    struct engine_stats stats;
    for (uint32_t i = 0; i < m->count; i++) {
        const struct search_query *query = &m->queries[i];
        const uint32_t q = query_number(m, i);
        if (query->status != STATUS_OK || (query->flags & SEARCH_DEGRADED) != 0)
            return error_set(err, STATUS_IO,
                             "%s: calibration: a block that query %u needs cannot be read",
                             m->job->path, q);
        const uint64_t right = query_right(m->sample, q, query);
        point->hits += right;
        point->squares += right * right;
        point->reads += (uint64_t)query->stats.reads + query->stats.cache_hits;
    }
    /* A block that took two reads was asked for once. */
    engine_stats_get(m->engine, &stats);
    point->reads -= stats.read_retries;
    return STATUS_OK;
}

static enum status point_measure(struct measure *m, uint32_t k, const struct step *step,
                                 struct manifest_point *out, struct error *err)
{
    char ratio[32];
    const atomic_int *cancel = m->job->cancel;
    if (cancel != NULL && atomic_load_explicit(cancel, memory_order_relaxed) != 0)
        return error_set(err, STATUS_CANCELLED, "stopped on request");
    queries_set(m, k, step);
    for (uint32_t i = 0; i < m->count; i++) {
        enum status status = engine_query_check(m->engine, &m->queries[i], err);
        if (status != STATUS_OK)
            return status;
    }
    engine_stats_clear(m->engine);
    engine_search_all(m->engine, m->queries, m->count, 0);
    /* As it is meant, not as f32 has it: it is printed. */
    snprintf(ratio, sizeof(ratio), "%.3f", (double)step->ratio);
    *out = (struct manifest_point){.search_list = step->search_list,
                                   .search_ratio = strtod(ratio, NULL)};
    return point_count(m, out, err);
}

/* Puts a point behind those that cost less and find less; those that cost no less and find no more
 * go, or are not added. */
static void curve_add(struct manifest_curve *curve, const struct manifest_point *point)
{
    uint32_t count = curve->point_count;
    if (count > 0 && point->hits <= curve->points[count - 1].hits)
        return;
    while (count > 0 && curve->points[count - 1].reads >= point->reads)
        count--;
    curve->points[count] = *point;
    curve->point_count = count + 1;
}

static uint64_t hits_of(const struct manifest_curve *curve)
{
    return curve->point_count > 0 ? curve->points[curve->point_count - 1].hits : 0;
}

static enum status curve_measure(struct measure *m, const struct ladder *ladder,
                                 uint64_t block_count, struct manifest_curve *curve,
                                 struct error *err)
{
    m->count = MIN(m->sample->count, ladder->queries_max);
    const uint64_t all = (uint64_t)m->count * ladder->k;
    uint64_t reads_left = (uint64_t)m->count * ladder->reads_max;
    uint32_t fruitless = 0;
    *curve = (struct manifest_curve){
        .tuned = m->sample->own_nodes == NULL, .k = ladder->k, .queries = m->count};
    assert(ladder->step_count <= MANIFEST_POINTS_MAX);
    for (uint32_t i = 0; i < ladder->step_count && fruitless < FRUITLESS_MAX; i++) {
        struct manifest_point point;
        enum status status = point_measure(m, ladder->k, &ladder->steps[i], &point, err);
        if (status != STATUS_OK)
            return status;
        const bool better =
            i == 0 || point.hits >= hits_of(curve) + MAX(UINT64_C(2), all / FRUITFUL_SHARE);
        fruitless = better ? 0 : fruitless + 1;
        curve_add(curve, &point);
        if ((all - hits_of(curve)) * TOP_SHARE <= all || point.reads > reads_left)
            break;
        reads_left -= point.reads;
        if (point.reads * MUCH_SHARE > m->count * block_count)
            i = MAX(i, ladder->step_count - 2);
    }
    return STATUS_OK;
}

static enum status curves_measure(struct measure *m, struct manifest *manifest, struct error *err)
{
    const enum element_type type = element_compared_as(manifest->query_type, manifest->type);
    m->vectors_are_f32 = type != manifest->query_type;
    m->vector_bytes = element_vector_bytes(type, manifest->dim);
    m->k_max = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(ladders); i++)
        if (ladders[i].k <= m->sample->k)
            m->k_max = ladders[i].k;
    if (m->k_max == 0)
        return STATUS_OK;
    m->queries = calloc(m->sample->count, sizeof(*m->queries));
    m->hits = calloc((size_t)m->sample->count * m->k_max, sizeof(*m->hits));
    enum status status = sample_queries_create(m->sample, manifest->query_type, &m->vectors, err);
    if (status == STATUS_OK && (m->queries == NULL || m->hits == NULL))
        status = error_set(err, STATUS_NO_MEMORY, "no memory for %u answers", m->sample->count);
    for (size_t i = 0; status == STATUS_OK && i < ARRAY_LENGTH(ladders); i++)
        if (ladders[i].k <= m->sample->k)
            status = curve_measure(m, &ladders[i], manifest->block_count,
                                   &manifest->curves[manifest->curve_count++], err);
    free(m->vectors);
    m->vectors = NULL;
    free(m->hits);
    free(m->queries);
    return status;
}

enum status calibrate_run(void *context, const struct build_calibration *job,
                          struct manifest *manifest, struct error *err)
{
    (void)context;
    struct index *index = NULL;
    struct engine *engine = NULL;
    const struct index_options options = {
        .memory_bytes = job->memory_bytes,
        .threads = job->threads,
        .plain = true,
        .unfinished = manifest,
    };
    const struct engine_params params = {
        .threads = job->threads,
        .slots_per_thread = BUILD_CALIBRATION_SLOTS,
        .read_timeout_ms = READ_TIMEOUT_MS,
    };
    manifest->curve_count = 0;
    manifest->lid = calibrate_lid(job->sample);
    enum status status = index_open(job->path, &options, &index, err);
    if (status == STATUS_OK)
        status = engine_create(&params, index, &engine, err);
    index_release(index);
    if (status != STATUS_OK)
        return status;
    struct measure m = {.job = job, .sample = job->sample, .engine = engine};
    status = curves_measure(&m, manifest, err);
    if (status == STATUS_OK && job->tune != NULL) {
        m.sample = job->tune;
        status = curves_measure(&m, manifest, err);
    }
    engine_destroy(engine);
    return status;
}

/* ---- intrinsic dimension ---- */

/* The mean of ln(r_k / r_i) over a query's neighbours, of which there are at least two at distinct
 * distances other than 0; else 0. Distances are squares of r, or proportional to them. */
static double log_ratio_mean(const float *distances, uint32_t k)
{
    const double farthest = (double)distances[k - 1];
    double sum = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i + 1 < k; i++) {
        if (!(distances[i] > 0))
            continue; /* a copy says nothing of a dimension */
        sum += 0.5 * log(farthest / (double)distances[i]);
        count++;
    }
    return count > 0 ? sum / count : 0;
}

double calibrate_lid(const struct sample *sample)
{
    double sum = 0;
    uint32_t count = 0;
    if (sample->metric == METRIC_IP || sample->k < 2)
        return 0;
    for (uint32_t q = 0; q < sample->count; q++) {
        const double mean =
            log_ratio_mean(sample->truth_distances + (size_t)q * sample->k, sample->k);
        if (mean > 0) {
            sum += mean;
            count++;
        }
    }
    if (count == 0)
        return 0;
    return fmin(round(100 * count / sum) / 100, MANIFEST_LID_MAX);
}

/* ---- warning ---- */

enum {
    WARNING_K = 10,
    WARNING_BLOCKS_MIN = 200, /* below, reading all of it costs nothing */
    WARNING_READS = 500,      /* a query */
    WARNING_BLOCK_SHARE = 10, /* of all blocks, one in so many */
};
#define WARNING_RECALL 0.9

static const struct manifest_curve *warning_curve(const struct manifest *manifest)
{
    for (uint32_t i = 0; i < manifest->curve_count; i++)
        if (!manifest->curves[i].tuned && manifest->curves[i].k == WARNING_K)
            return &manifest->curves[i];
    return NULL;
}

bool calibrate_warning(const struct manifest *manifest, char text[CALIBRATE_WARNING_BYTES])
{
    const struct manifest_curve *curve = warning_curve(manifest);
    if (curve == NULL || manifest->block_count < WARNING_BLOCKS_MIN)
        return false;
    const double all = (double)curve->queries * curve->k;
    uint32_t at = 0;
    while (at + 1 < curve->point_count && (double)curve->points[at].hits < WARNING_RECALL * all)
        at++;
    const double recall = (double)curve->points[at].hits / all;
    const double reads = (double)curve->points[at].reads / curve->queries;
    const bool costly =
        reads > WARNING_READS || reads * WARNING_BLOCK_SHARE > (double)manifest->block_count;
    if (recall >= WARNING_RECALL && !costly)
        return false;
    char dimension[64] = "";
    if (manifest->lid > 0)
        snprintf(dimension, sizeof(dimension), " (intrinsic dimension %.0f)", manifest->lid);
    snprintf(text, CALIBRATE_WARNING_BYTES,
             "recall@%u of %.2f takes %.0f reads a query, of %llu blocks: the data have little "
             "structure that an index can use%s",
             curve->k, recall, reads, (unsigned long long)manifest->block_count, dimension);
    return true;
}
