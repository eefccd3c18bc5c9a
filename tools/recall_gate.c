/*
 * recall_gate.c - owns the measurement that decides whether a generation is published: an engine
 * over it in this process, every query of a sample once, the share of its true neighbours found.
 *
 * Thread rules: one thread calls; the engine's workers fill answers that this thread reads when all
 * of a batch are complete.
 */
#include "tools/recall_gate.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "layout/sample.h"
#include "tools/recall.h"

enum { BATCH_QUERIES = 256 };

struct recall_gate {
    struct recall_gate_params params;
    struct cmd_local local;
};

enum status recall_gate_open(const struct recall_gate_params *params, struct recall_gate **out,
                             struct cmd_target *target, struct error *err)
{
    struct recall_gate *gate = calloc(1, sizeof(*gate));
    if (gate == NULL)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", params->path);
    gate->params = *params;
    const struct cmd_local_params local = {.path = params->path,
                                           .memory = params->memory,
                                           .threads = params->threads,
                                           .in_flight = BATCH_QUERIES};
    enum status status = cmd_local_open(&local, &gate->local, err);
    if (status == STATUS_OK) {
        *target = cmd_local_target(&gate->local);
        status = cmd_target_check(target, params->k, err);
    }
    if (status != STATUS_OK) {
        recall_gate_close(gate);
        return status;
    }
    *out = gate;
    return STATUS_OK;
}

void recall_gate_close(struct recall_gate *gate)
{
    if (gate == NULL)
        return;
    cmd_local_close(&gate->local);
    free(gate);
}

/* ---- one pass ---- */

struct pass {
    const struct recall_gate *gate;
    const struct recall_sample *sample;
    struct search_query *batch;
    struct search_hit *hits; /* BATCH_QUERIES * k */
    uint64_t right;
    uint64_t reads;
    uint64_t cache_hits;
    uint32_t degraded;
};

static void pass_count(struct pass *pass, uint32_t number, const struct search_query *query)
{
    const struct recall_sample *sample = pass->sample;
    const uint32_t k = pass->gate->params.k;
    uint64_t keys[RECALL_K_MAX];
    float distances[RECALL_K_MAX];
    for (uint32_t i = 0; i < query->hit_count; i++) {
        keys[i] = query->hits[i].key;
        distances[i] = query->hits[i].distance;
    }
    const size_t at = (size_t)number * sample->truth_depth;
    const float *true_distances =
        sample->truth_distances != NULL ? sample->truth_distances + at : NULL;
    pass->right += recall_count_keys(sample->truth_keys + at, true_distances, k, keys, distances,
                                     query->hit_count);
    pass->reads += query->stats.reads;
    pass->cache_hits += query->stats.cache_hits;
    pass->degraded += (query->flags & SEARCH_DEGRADED) != 0;
}

static enum status pass_batch(struct pass *pass, uint32_t first, uint32_t count, struct error *err)
{
    const struct recall_gate_params *params = &pass->gate->params;
    const struct recall_sample *sample = pass->sample;
    for (uint32_t i = 0; i < count; i++)
        pass->batch[i] = (struct search_query){
            .vector = sample->queries + (size_t)(first + i) * sample->row_bytes,
            .vector_is_f32 = pass->sample->queries_are_f32,
            .k = params->k,
            .search_list = params->search_list,
            .search_ratio = (float)params->search_ratio,
            .excludes = sample->excluded_nodes != NULL,
            .excluded_node = sample->excluded_nodes != NULL ? sample->excluded_nodes[first + i] : 0,
            .hits = pass->hits + (size_t)i * params->k,
        };
    enum status status = engine_query_check(pass->gate->local.engine, &pass->batch[0], err);
    if (status != STATUS_OK)
        return status;
    engine_search_all(pass->gate->local.engine, pass->batch, count, 0);
    for (uint32_t i = 0; i < count; i++) {
        if (pass->batch[i].status != STATUS_OK)
            return error_set(err, pass->batch[i].status, "%s: query %u: %s", pass->sample->name,
                             first + i, status_name(pass->batch[i].status));
        pass_count(pass, first + i, &pass->batch[i]);
    }
    return STATUS_OK;
}

static enum status pass_init(struct pass *pass, const struct recall_gate *gate,
                             const struct recall_sample *sample, struct error *err)
{
    const uint32_t k = gate->params.k;
    *pass = (struct pass){.gate = gate, .sample = sample};
    if (sample->truth_depth < k)
        return error_set(err, STATUS_INVALID, "%s: %u neighbours a query, wanted at least k = %u",
                         sample->name, sample->truth_depth, k);
    pass->batch = calloc(BATCH_QUERIES, sizeof(*pass->batch));
    pass->hits = calloc((size_t)BATCH_QUERIES * k, sizeof(*pass->hits));
    if (pass->batch == NULL || pass->hits == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d answers", BATCH_QUERIES);
    return STATUS_OK;
}

enum status recall_gate_measure(const struct recall_gate *gate, const struct recall_sample *sample,
                                struct recall_gate_result *out, struct error *err)
{
    struct pass pass;
    enum status status = pass_init(&pass, gate, sample, err);
    for (uint32_t first = 0; status == STATUS_OK && first < sample->count; first += BATCH_QUERIES)
        status = pass_batch(&pass, first, MIN(BATCH_QUERIES, sample->count - first), err);
    if (status == STATUS_OK && pass.degraded > 0)
        status = error_set(err, STATUS_CORRUPT,
                           "%s: %u of %u queries met blocks that cannot be read; see nightjar "
                           "verify",
                           gate->params.path, pass.degraded, sample->count);
    free(pass.hits);
    free(pass.batch);
    if (status != STATUS_OK)
        return status;
    const double count = (double)sample->count;
    *out = (struct recall_gate_result){
        .recall = (double)pass.right / (count * gate->params.k),
        .reads = (double)pass.reads / count,
        .cache_hits = (double)pass.cache_hits / count,
        .queries = sample->count,
    };
    return STATUS_OK;
}

/* ---- files ---- */

static enum status truth_widen(const struct ground_truth *truth, struct recall_files *files,
                               struct error *err)
{
    const size_t entries = (size_t)truth->query_count * truth->k;
    files->truth_keys = calloc(entries, sizeof(*files->truth_keys));
    if (files->truth_keys == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %zu neighbours", entries);
    for (size_t i = 0; i < entries; i++)
        files->truth_keys[i] = truth->ids[i];
    return STATUS_OK;
}

static enum status truth_load(const char *path, const struct cmd_target *target, uint32_t k,
                              struct recall_files *files, struct error *err)
{
    struct ground_truth truth;
    enum status status = ground_truth_read(path, &truth, err);
    if (status != STATUS_OK)
        return status;
    const struct recall_answers wanted = {.query_count = files->queries.count, .k = k};
    status = recall_truth_check(path, &truth, &wanted, target->vector_count, err);
    if (status == STATUS_OK)
        status = recall_truth_complete(path, &truth, k, err);
    if (status == STATUS_OK)
        status = truth_widen(&truth, files, err);
    if (status == STATUS_OK) {
        files->truth_distances = truth.distances;
        truth.distances = NULL;
        files->sample.truth_depth = truth.k;
    }
    ground_truth_free(&truth);
    return status;
}

enum status recall_files_load(const char *queries, const char *groundtruth,
                              const struct cmd_target *target, uint32_t k, struct recall_files *out,
                              struct error *err)
{
    *out = (struct recall_files){.truth_keys = NULL};
    enum status status = cmd_queries_load(queries, 0, target, &out->queries, err);
    if (status == STATUS_OK)
        status = truth_load(groundtruth, target, k, out, err);
    if (status != STATUS_OK) {
        recall_files_free(out);
        return status;
    }
    out->sample.name = queries;
    out->sample.queries = out->queries.rows;
    out->sample.row_bytes = out->queries.row_bytes;
    out->sample.count = out->queries.count;
    out->sample.truth_keys = out->truth_keys;
    out->sample.truth_distances = out->truth_distances;
    return STATUS_OK;
}

void recall_files_free(struct recall_files *files)
{
    free(files->truth_distances);
    free(files->truth_keys);
    cmd_queries_free(&files->queries);
    *files = (struct recall_files){.truth_keys = NULL};
}

enum status recall_own_load(const struct generation *generation, struct recall_own *out,
                            struct error *err)
{
    struct recall_own own = {0};
    struct sample sample;
    struct error why;
    enum status status =
        generation_load(generation, GENERATION_SAMPLE, &own.bytes, &own.length, err);
    if (status != STATUS_OK)
        return status;
    const struct manifest *m = generation_manifest(generation);
    const enum element_type type = element_compared_as(m->query_type, m->type);
    status = sample_decode(own.bytes, own.length, &sample, &why);
    if (status == STATUS_OK)
        status =
            sample_nodes_check(&sample, generation_manifest(generation)->geometry.node_limit, &why);
    if (status == STATUS_OK)
        status = sample_queries_create(&sample, m->query_type, &own.queries, &why);
    if (status != STATUS_OK) {
        recall_own_free(&own);
        return error_set(err, status, "%s/%s: %s", generation_path(generation),
                         generation_file_names[GENERATION_SAMPLE], why.text);
    }
    own.sample = (struct recall_sample){
        .name = generation_file_names[GENERATION_SAMPLE],
        .queries = own.queries,
        .queries_are_f32 = type != m->query_type,
        .row_bytes = element_vector_bytes(type, sample.dim),
        .count = sample.count,
        .truth_keys = sample.truth_keys,
        .truth_distances = sample.truth_distances,
        .truth_depth = sample.k,
        .excluded_nodes = sample.own_nodes,
    };
    *out = own;
    return STATUS_OK;
}

void recall_own_free(struct recall_own *own)
{
    if (own->bytes)
        bulk_free(own->bytes, own->length, 1);
    free(own->queries);
    own->bytes = NULL;
    own->queries = NULL;
}
