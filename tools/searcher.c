/*
 * searcher.c - see searcher.h. One thread.
 */
#include "tools/searcher.h"

#include <stdlib.h>
#include <string.h>

enum { FRAME_QUERIES = 32 }; /* of one request to a daemon, unless it takes fewer */

/* ---- an index in this process ---- */

static enum status question_open(struct searcher *self, struct error *err)
{
    const struct searcher_params *params = self->params;
    self->question = cmd_question(params->common, params->search_list, params->search_ratio);
    self->question.rank_max = params->pages > 0 ? (params->pages - 1) * params->common->k : 0;
    enum status status = question_prepare(&self->question, self->local.index, err);
    if (status != STATUS_OK)
        return status;
    self->chosen = cmd_chosen(&self->question);
    const struct manifest *manifest = index_manifest(self->local.index);
    self->batch = calloc(SEARCHER_BATCH, sizeof(*self->batch));
    if (params->by_key)
        self->rooms = calloc(SEARCHER_BATCH, question_room_bytes(manifest->dim));
    if (self->batch == NULL || (params->by_key && self->rooms == NULL))
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d queries", SEARCHER_BATCH);
    return STATUS_OK;
}

static enum status query_fill(struct searcher *self, const struct searcher_batch *batch, uint32_t i,
                              struct error *err)
{
    const struct client_cursor *cursor = &self->cursors[i];
    const struct manifest *manifest = index_manifest(self->local.index);
    struct search_query *query = &self->batch[i];
    *query = self->question.common;
    query->vector = batch->keys ? NULL : (const uint8_t *)batch->vectors + i * self->vector_bytes;
    query->hits = self->hits + (size_t)i * self->question.common.k;
    query->after = (struct search_after){.set = cursor->rank != 0,
                                         .rank = cursor->rank,
                                         .distance = cursor->distance,
                                         .key = cursor->key};
    enum status status = engine_query_check(self->local.engine, query, err);
    if (status == STATUS_OK && batch->keys)
        question_by_key(query, batch->keys[i],
                        self->rooms + i * question_room_bytes(manifest->dim));
    return status;
}

/* Runs the batch; queries by key in two rounds, the second of those whose key is known. */
static enum status batch_run(struct searcher *self, const struct searcher_batch *batch,
                             struct error *err)
{
    engine_search_all(self->local.engine, self->batch, batch->count, 0);
    /* One after the other: keys that are typed are few. */
    for (uint32_t i = 0; batch->keys && i < batch->count; i++)
        if (question_follow(&self->batch[i]))
            engine_search_all(self->local.engine, &self->batch[i], 1, 0);
    for (uint32_t i = 0; i < batch->count; i++) {
        enum status status = self->batch[i].status;
        if (status != STATUS_OK)
            return error_set(err, status, "query %u: %s", batch->first + i, status_name(status));
    }
    return STATUS_OK;
}

static enum status ask_local(struct searcher *self, const struct searcher_batch *batch,
                             struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < batch->count; i++)
        status = query_fill(self, batch, i, err);
    if (status == STATUS_OK)
        status = batch_run(self, batch, err);
    for (uint32_t i = 0; status == STATUS_OK && i < batch->count; i++) {
        struct search_query *query = &self->batch[i];
        bool known = !batch->keys || question_settle(query);
        self->answers[i] = (struct searcher_answer){query->hit_count, query->flags, query->stats};
        if (!known)
            self->answers[i].flags |= CLIENT_UNKNOWN_KEY;
        if (self->params->pages > 0 && query->hit_count < self->question.common.k)
            self->answers[i].flags |= CLIENT_LAST;
    }
    self->chosen.filter_plan = question_plan(self->batch, batch->count);
    return status;
}

/* ---- a daemon ---- */

/* What a daemon tells of query `i` of an answer. */
static struct search_stats stats_of(const struct client_answer *answer, uint32_t i)
{
    struct search_stats stats = {.reads = answer->results[i].reads,
                                 .cache_hits = answer->results[i].cache_hits};
    if (answer->explanations == NULL)
        return stats;
    const struct client_explanation *explanation = &answer->explanations[i];
    stats.hops = explanation->hops;
    stats.exact_distances = explanation->exact_distances;
    stats.code_distances = explanation->code_distances;
    stats.failed_blocks = explanation->failed_blocks;
    stats.read_bytes = explanation->read_bytes;
    stats.queue_ns = explanation->queue_ns;
    stats.cpu_ns = explanation->cpu_ns;
    stats.total_ns = explanation->total_ns;
    return stats;
}

/* `count` queries of the batch from number `at` on, in one frame. */
static enum status ask_frame(struct searcher *self, const struct searcher_batch *batch, uint32_t at,
                             uint32_t count, struct error *err)
{
    const struct searcher_params *params = self->params;
    const struct cmd_search_options *common = params->common;
    const struct client_search search = {
        .vectors =
            batch->vectors ? (const uint8_t *)batch->vectors + at * self->vector_bytes : NULL,
        .keys = batch->keys ? batch->keys + at : NULL,
        .query_count = count,
        .k = common->k,
        .search_list = params->search_list,
        .beam_width = common->beam_width,
        .search_ratio = params->search_ratio,
        .explain = params->explain,
        .filter = common->filter,
        .within_radius = common->within_radius,
        .radius = (float)common->radius,
        .cursors = params->pages > 0 ? self->cursors + at : NULL,
        .recall_target = (float)common->recall,
    };
    struct client_answer answer;
    enum status status = client_search(self->client, &search, &answer, err);
    if (status != STATUS_OK)
        return status;
    self->chosen = answer.chosen;
    for (uint32_t i = 0; i < count; i++) {
        const struct client_query_result *result = &answer.results[i];
        struct search_hit *hits = self->hits + (size_t)(at + i) * common->k;
        self->answers[at + i] = (struct searcher_answer){MIN(result->hit_count, common->k),
                                                         result->flags, stats_of(&answer, i)};
        for (uint32_t h = 0; h < self->answers[at + i].hit_count; h++) {
            const struct client_hit *from = &answer.hits[(size_t)i * common->k + h];
            hits[h] = (struct search_hit){.key = from->key, .distance = from->distance};
        }
    }
    return STATUS_OK;
}

static enum status ask_daemon(struct searcher *self, const struct searcher_batch *batch,
                              struct error *err)
{
    enum status status = STATUS_OK;
    const uint32_t most = MIN(FRAME_QUERIES, client_index(self->client).queries_max);
    for (uint32_t at = 0; status == STATUS_OK && at < batch->count; at += most)
        status = ask_frame(self, batch, at, MIN(most, batch->count - at), err);
    return status;
}

/* ---- both ---- */

void searcher_rewind(struct searcher *self)
{
    memset(self->cursors, 0, sizeof(self->cursors));
}

enum status searcher_ask(struct searcher *self, const struct searcher_batch *batch,
                         struct error *err)
{
    enum status status =
        self->client != NULL ? ask_daemon(self, batch, err) : ask_local(self, batch, err);
    if (status != STATUS_OK || self->params->pages == 0)
        return status;
    const uint32_t k = self->params->common->k;
    for (uint32_t i = 0; i < batch->count; i++) {
        uint32_t hit_count = self->answers[i].hit_count;
        if (hit_count == 0)
            continue;
        const struct search_hit *last = &self->hits[(size_t)i * k + hit_count - 1];
        self->cursors[i] = (struct client_cursor){.key = last->key,
                                                  .distance = last->distance,
                                                  .rank = self->cursors[i].rank + hit_count};
    }
    return STATUS_OK;
}

static enum status connect_daemon(struct searcher *self, struct cmd_target *target,
                                  struct error *err)
{
    const struct searcher_params *params = self->params;
    const struct cmd_search_options *common = params->common;
    bool extended = cmd_search_options_extended(common) || params->pages > 0 || params->by_key;
    uint32_t features = (params->explain ? CLIENT_EXPLAIN : 0u) | (extended ? CLIENT_EXTENDED : 0u);
    enum status status = client_connect(common->socket, &self->client, err);
    if (status == STATUS_OK && features != 0)
        status = client_require(self->client, features, err);
    if (status != STATUS_OK)
        return status;
    struct client_index_info info = client_index(self->client);
    *target =
        (struct cmd_target){common->socket, info.vector_count, info.dim, info.type, info.metric};
    return STATUS_OK;
}

static enum status open_index(struct searcher *self, struct cmd_target *target, struct error *err)
{
    const struct cmd_search_options *common = self->params->common;
    const struct cmd_local_params params = {.path = common->index,
                                            .memory = common->memory,
                                            .threads = common->threads,
                                            .in_flight = SEARCHER_BATCH};
    enum status status = cmd_local_open(&params, &self->local, err);
    if (status == STATUS_OK)
        *target = cmd_local_target(&self->local);
    return status;
}

enum status searcher_open(struct searcher *self, const struct searcher_params *params,
                          struct cmd_target *target, struct error *err)
{
    *self = (struct searcher){.params = params};
    enum status status = params->common->socket != NULL ? connect_daemon(self, target, err)
                                                        : open_index(self, target, err);
    if (status == STATUS_OK)
        status = cmd_target_check(target, params->common->k, err);
    if (status == STATUS_OK && self->client == NULL)
        status = question_open(self, err);
    if (status != STATUS_OK)
        return status;
    self->vector_bytes = target->dim * element_bytes(target->type);
    self->hits = calloc((size_t)SEARCHER_BATCH * params->common->k, sizeof(*self->hits));
    if (self->hits == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d answers", SEARCHER_BATCH);
    return STATUS_OK;
}

void searcher_close(struct searcher *self)
{
    free(self->hits);
    free(self->batch);
    free(self->rooms);
    question_fini(&self->question);
    cmd_local_close(&self->local);
    client_close(self->client);
}
