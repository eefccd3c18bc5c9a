/*
 * proof.c - see proof.h.
 */
#include "query/proof.h"

#include <stdlib.h>

#include "common/memory.h"
#include "layout/sample.h"
#include "query/index_internal.h"

enum {
    QUERIES_MAX = 64,
    IN_FLIGHT = 4,
    K_MAX = 10,
    SEARCH_LIST = 100,
};

/* Of the `k` nearest others of a query, those that were found, ties with the farthest included. */
static uint32_t found_count(const struct sample_query *wanted, const struct search_query *query,
                            uint32_t k)
{
    uint32_t found = 0;
    float farthest = wanted->truth_distances[k - 1];
    for (uint32_t i = 0; i < query->hit_count; i++)
        found += query->hits[i].distance <= farthest;
    return found;
}

static void proof_count(const struct sample *sample, const struct search_query *queries,
                        uint32_t count, struct proof *out)
{
    uint32_t k = queries[0].k;
    uint64_t found = 0;
    *out = (struct proof){.queries = count};
    for (uint32_t q = 0; q < count; q++) {
        const struct sample_query wanted = sample_query_at(sample, q);
        found += found_count(&wanted, &queries[q], k);
        out->degraded += (queries[q].flags & SEARCH_DEGRADED) != 0;
    }
    out->recall = (double)found / ((double)count * k);
}

static enum status sample_search(struct engine *engine, const struct sample *sample,
                                 struct proof *out, struct error *err)
{
    uint32_t count = MIN(sample->count, (uint32_t)QUERIES_MAX);
    uint32_t k = MIN(sample->k, (uint32_t)K_MAX);
    *out = (struct proof){0};
    if (sample->k == 0)
        return STATUS_OK;
    const struct manifest *m = index_manifest(engine_index(engine));
    const enum element_type type = element_compared_as(m->query_type, m->type);
    const size_t vector_bytes = element_vector_bytes(type, m->dim);
    uint8_t *vectors = NULL;
    struct search_query *queries = calloc(count, sizeof(*queries));
    struct search_hit *hits = calloc((size_t)count * k, sizeof(*hits));
    enum status status = STATUS_OK;
    if (!queries || !hits)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", count);
    if (status == STATUS_OK)
        status = sample_queries_create(sample, m->query_type, &vectors, err);
    for (uint32_t q = 0; status == STATUS_OK && q < count; q++) {
        const struct sample_query own = sample_query_at(sample, q);
        queries[q] = (struct search_query){.vector = vectors + q * vector_bytes,
                                           .vector_is_f32 = type != m->query_type,
                                           .k = k,
                                           .search_list = SEARCH_LIST,
                                           .excludes = true,
                                           .excluded_node = own.own_node,
                                           .hits = hits + (size_t)q * k};
        status = engine_query_check(engine, &queries[q], err);
    }
    if (status == STATUS_OK) {
        engine_search_all(engine, queries, count, IN_FLIGHT);
        proof_count(sample, queries, count, out);
    }
    free(vectors);
    free(queries);
    free(hits);
    return status;
}

enum status proof_run(struct engine *engine, struct proof *out, struct error *err)
{
    const struct index *index = engine_index(engine);
    void *bytes = NULL;
    size_t length = 0;
    struct sample sample;
    struct error why;
    enum status status =
        generation_load(index->generation, GENERATION_SAMPLE, &bytes, &length, err);
    if (status != STATUS_OK)
        return status;
    if (sample_decode(bytes, length, &sample, &why) != STATUS_OK ||
        sample_nodes_check(&sample, index->geometry.node_limit, &why) != STATUS_OK)
        status = error_set(err, why.status, "%s/%s: %s", index_path(index),
                           generation_file_names[GENERATION_SAMPLE], why.text);
    else if (sample.type != index->manifest->type || sample.dim != index->manifest->dim)
        status = error_set(
            err, STATUS_CORRUPT, "%s/%s: %u dimensions of %s, the manifest says %u of %s",
            index_path(index), generation_file_names[GENERATION_SAMPLE], sample.dim,
            element_name(sample.type), index->manifest->dim, element_name(index->manifest->type));
    else
        status = sample_search(engine, &sample, out, err);
    bulk_free(bytes, length, 1);
    return status;
}
