/*
 * cmd_search.c - `nightjar search`: answers for a query file, from a daemon or from an index opened
 * here, as a table, as JSON lines or as a file of ids; or what the queries took (explain.h).
 *
 * Queries go through in batches; an answer is held as struct search_hit whichever way it came.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/vector_file.h"
#include "query/client.h"
#include "tools/cmd.h"
#include "tools/explain.h"

enum {
    BATCH_QUERIES = 256, /* held at once; in process, also how many are in flight */
    FRAME_QUERIES = 32,  /* of one request to a daemon: within its queue limits */
};

struct options {
    struct cmd_search_options common;
    const char *output;
    uint32_t search_list;
    uint64_t limit;
    double search_ratio;
    bool list_given, ratio_given;
    struct cmd_recall recall;
    bool json;
    bool explain;
};

struct answer {
    uint32_t hit_count;
    uint32_t flags;
    struct search_stats stats; /* of a daemon without --explain: reads and cache_hits only */
};

/* Where answers come from (one of client, local) and where they go. */
struct session {
    const struct options *options;
    uint32_t search_list; /* as asked for, or as --recall comes to */
    float search_ratio;
    struct client *client;
    struct cmd_local local;
    struct cmd_queries queries;
    struct vector_writer *writer;
    struct search_query *batch; /* BATCH_QUERIES, local only */
    struct search_hit *hits;    /* BATCH_QUERIES * k */
    struct answer *answers;     /* BATCH_QUERIES */
    uint32_t *ids;              /* k; for the writer */
    struct explain explained;
};

static enum status search_local(struct session *self, uint32_t first, uint32_t count,
                                struct error *err)
{
    const struct options *options = self->options;
    for (uint32_t i = 0; i < count; i++) {
        self->batch[i] = (struct search_query){
            .vector = self->queries.rows + (size_t)(first + i) * self->queries.row_bytes,
            .k = options->common.k,
            .search_list = self->search_list,
            .beam_width = options->common.beam_width,
            .search_ratio = self->search_ratio,
            .hits = self->hits + (size_t)i * options->common.k,
        };
    }
    enum status status = engine_query_check(self->local.engine, &self->batch[0], err);
    if (status != STATUS_OK)
        return status;
    engine_search_all(self->local.engine, self->batch, count, 0);
    for (uint32_t i = 0; i < count; i++) {
        const struct search_query *query = &self->batch[i];
        if (query->status != STATUS_OK)
            return error_set(err, query->status, "query %u: %s", first + i,
                             status_name(query->status));
        self->answers[i] = (struct answer){query->hit_count, query->flags, query->stats};
    }
    return STATUS_OK;
}

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

static enum status search_frame(struct session *self, uint32_t first, uint32_t count, uint32_t slot,
                                struct error *err)
{
    const struct options *options = self->options;
    const struct client_search search = {
        .vectors = self->queries.rows + (size_t)first * self->queries.row_bytes,
        .query_count = count,
        .k = options->common.k,
        .search_list = self->search_list,
        .beam_width = options->common.beam_width,
        .search_ratio = self->search_ratio,
        .explain = options->explain,
    };
    struct client_answer answer;
    enum status status = client_search(self->client, &search, &answer, err);
    if (status != STATUS_OK)
        return status;
    if (answer.query_count != count || answer.k != options->common.k)
        return error_set(err, STATUS_CORRUPT, "%s: answered %u queries with k %u, asked %u with %u",
                         options->common.socket, answer.query_count, answer.k, count,
                         options->common.k);
    for (uint32_t i = 0; i < count; i++) {
        const struct client_query_result *result = &answer.results[i];
        self->answers[slot + i] = (struct answer){MIN(result->hit_count, options->common.k),
                                                  result->flags, stats_of(&answer, i)};
        for (uint32_t h = 0; h < self->answers[slot + i].hit_count; h++) {
            const struct client_hit *from = &answer.hits[(size_t)i * options->common.k + h];
            self->hits[(size_t)(slot + i) * options->common.k + h] =
                (struct search_hit){.key = from->key, .distance = from->distance};
        }
    }
    return STATUS_OK;
}

static enum status search_socket(struct session *self, uint32_t first, uint32_t count,
                                 struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t done = 0; status == STATUS_OK && done < count; done += FRAME_QUERIES)
        status = search_frame(self, first + done, MIN(FRAME_QUERIES, count - done), done, err);
    return status;
}

/* A place without a hit (fewer than k were found) gets UINT32_MAX: no row has that id. */
static enum status emit_ids(struct session *self, const struct answer *answer,
                            const struct search_hit *hits, struct error *err)
{
    uint32_t k = self->options->common.k;
    for (uint32_t i = 0; i < k; i++) {
        if (i < answer->hit_count && hits[i].key >= UINT32_MAX)
            return error_set(err, STATUS_INVALID,
                             "%s: key %" PRIu64 " does not fit its 32-bit ids; print a table or "
                             "--json instead",
                             self->options->output, hits[i].key);
        self->ids[i] = i < answer->hit_count ? (uint32_t)hits[i].key : UINT32_MAX;
    }
    return vector_writer_append(self->writer, self->ids, 1, err);
}

static void emit_json(const struct options *options, uint32_t query, const struct answer *answer,
                      const struct search_hit *hits)
{
    printf("{\"query\":%u,\"degraded\":%s,", query,
           (answer->flags & SEARCH_DEGRADED) != 0 ? "true" : "false");
    if (options->explain)
        explain_print_json(&answer->stats);
    else
        printf("\"reads\":%u,\"cache_hits\":%u", answer->stats.reads, answer->stats.cache_hits);
    printf(",\"hits\":[");
    for (uint32_t i = 0; i < answer->hit_count; i++)
        printf("%s{\"key\":%" PRIu64 ",\"distance\":%.9g}", i > 0 ? "," : "", hits[i].key,
               (double)hits[i].distance);
    printf("]}\n");
}

static const char *degraded_note(const struct answer *answer)
{
    return (answer->flags & SEARCH_DEGRADED) != 0 ? "  degraded" : "";
}

static void emit_table(uint32_t query, const struct answer *answer, const struct search_hit *hits)
{
    for (uint32_t i = 0; i < answer->hit_count; i++)
        printf("%7u %5u %20" PRIu64 " %14.7g%s\n", query, i + 1, hits[i].key,
               (double)hits[i].distance, degraded_note(answer));
}

/* One answer, wherever its parts go: ids to a file, hits and numbers to stdout. */
static enum status emit(struct session *self, uint32_t query, const struct answer *answer,
                        const struct search_hit *hits, struct error *err)
{
    const struct options *options = self->options;
    if (options->explain)
        explain_add(&self->explained, &answer->stats);
    if (options->json && (self->writer == NULL || options->explain))
        emit_json(options, query, answer, hits);
    else if (options->explain)
        explain_print_row(query, &answer->stats, degraded_note(answer));
    else if (self->writer == NULL)
        emit_table(query, answer, hits);
    return self->writer != NULL ? emit_ids(self, answer, hits, err) : STATUS_OK;
}

static void print_head(const struct options *options)
{
    if (options->json)
        return;
    if (options->explain)
        explain_print_head();
    else if (options->output == NULL)
        printf("%7s %5s %20s %14s\n", "query", "rank", "key", "distance");
}

static enum status run_queries(struct session *self, struct error *err)
{
    const struct options *options = self->options;
    print_head(options);
    for (uint32_t first = 0; first < self->queries.count; first += BATCH_QUERIES) {
        uint32_t count = MIN(BATCH_QUERIES, self->queries.count - first);
        enum status status = self->client != NULL ? search_socket(self, first, count, err)
                                                  : search_local(self, first, count, err);
        for (uint32_t i = 0; status == STATUS_OK && i < count; i++) {
            const struct search_hit *hits = self->hits + (size_t)i * options->common.k;
            status = emit(self, first + i, &self->answers[i], hits, err);
        }
        if (status != STATUS_OK)
            return status;
    }
    if (options->explain && options->json)
        explain_print_json_summary(&self->explained);
    else if (options->explain)
        explain_print_summary(&self->explained);
    return STATUS_OK;
}

static enum status session_connect(struct session *self, struct cmd_target *target,
                                   struct error *err)
{
    const struct options *options = self->options;
    enum status status;
    if (options->common.socket != NULL) {
        status = client_connect(options->common.socket, &self->client, err);
        if (status == STATUS_OK && options->explain)
            status = client_require(self->client, CLIENT_EXPLAIN, err);
        if (status != STATUS_OK)
            return status;
        struct client_index_info info = client_index(self->client);
        *target = (struct cmd_target){options->common.socket, info.vector_count, info.dim,
                                      info.type, info.metric};
        return STATUS_OK;
    }
    const struct cmd_local_params params = {.path = options->common.index,
                                            .memory = options->common.memory,
                                            .threads = options->common.threads,
                                            .in_flight = BATCH_QUERIES};
    status = cmd_local_open(&params, &self->local, err);
    if (status == STATUS_OK)
        *target = cmd_local_target(&self->local);
    return status;
}

/* What was picked goes to stderr: stdout is answers. */
static enum status recall_resolve(struct session *self, struct error *err)
{
    const struct options *options = self->options;
    struct recall_choice choice;
    self->search_list = options->search_list;
    self->search_ratio = (float)options->search_ratio;
    if (!options->recall.given)
        return STATUS_OK;
    enum status status =
        cmd_recall_choose(&options->recall, self->local.index, options->common.k, &choice, err);
    if (status != STATUS_OK)
        return status;
    self->search_list = choice.search_list;
    self->search_ratio = choice.search_ratio;
    cmd_recall_print(stderr, &options->recall, &choice);
    return STATUS_OK;
}

static enum status session_open(struct session *self, struct error *err)
{
    const struct options *options = self->options;
    struct cmd_target target;
    enum status status = session_connect(self, &target, err);
    if (status != STATUS_OK)
        return status;
    status = cmd_target_check(&target, options->common.k, err);
    if (status == STATUS_OK)
        status = recall_resolve(self, err);
    if (status != STATUS_OK)
        return status;
    status =
        cmd_queries_load(options->common.queries, options->limit, &target, &self->queries, err);
    if (status != STATUS_OK)
        return status;
    self->batch = calloc(BATCH_QUERIES, sizeof(*self->batch));
    self->hits = calloc((size_t)BATCH_QUERIES * options->common.k, sizeof(*self->hits));
    self->answers = calloc(BATCH_QUERIES, sizeof(*self->answers));
    self->ids = calloc(options->common.k, sizeof(*self->ids));
    if (self->batch == NULL || self->hits == NULL || self->answers == NULL || self->ids == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u answers", BATCH_QUERIES);
    if (options->output == NULL)
        return STATUS_OK;
    struct vector_shape shape = {self->queries.count, options->common.k, ELEMENT_I32};
    return vector_writer_open(options->output, shape, &self->writer, err);
}

static void session_close(struct session *self)
{
    if (self->writer != NULL)
        vector_writer_abort(self->writer);
    free(self->ids);
    free(self->answers);
    free(self->hits);
    free(self->batch);
    cmd_queries_free(&self->queries);
    cmd_local_close(&self->local);
    if (self->client != NULL)
        client_close(self->client);
}

static enum status search_run(const struct options *options, struct error *err)
{
    struct session session = {.options = options};
    enum status status = session_open(&session, err);
    if (status == STATUS_OK)
        status = run_queries(&session, err);
    if (status == STATUS_OK && session.writer != NULL) {
        status = vector_writer_finish(session.writer, err);
        session.writer = NULL;
    }
    session_close(&session);
    return status;
}

enum cmd_outcome cmd_search(int argc, char **argv, struct error *err)
{
    struct options options = {.search_list = 0};
    struct args_option table[CMD_SEARCH_OPTIONS + 7] = {
        [CMD_SEARCH_OPTIONS] = {.name = "search-list",
                                .kind = ARGS_U32,
                                .target = &options.search_list,
                                .given = &options.list_given,
                                .value_name = "L",
                                .help = "candidates the search keeps; more find more",
                                .min = 1,
                                .max = ENGINE_SEARCH_LIST_MAX},
        cmd_recall_option(&options.recall),
        {.name = "search-ratio",
         .kind = ARGS_DOUBLE,
         .target = &options.search_ratio,
         .given = &options.ratio_given,
         .value_name = "T",
         .help = "stop early beyond this ratio; default: never",
         .min = 0},
        {.name = "limit",
         .kind = ARGS_U64,
         .target = &options.limit,
         .value_name = "N",
         .help = "only the first N queries",
         .min = 1},
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &options.output,
         .value_name = "FILE",
         .help = "write keys to this .ibin or .ivecs file"},
        {.name = "json", .kind = ARGS_FLAG, .target = &options.json, .help = "one object a query"},
        {.name = "explain",
         .kind = ARGS_FLAG,
         .target = &options.explain,
         .help = "what each query took, not its hits; with --json both; then the means"},
    };
    cmd_search_options_init(&options.common, table);
    const struct args_spec spec = {
        .program = "nightjar search",
        .summary = "Find the nearest neighbours of queries.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    outcome = cmd_recall_check(&options.recall, &options.common, options.list_given,
                               options.ratio_given, err);
    if (outcome == CMD_OK)
        outcome = cmd_search_options_check(
            &options.common, options.recall.given ? options.common.k : options.search_list,
            options.search_ratio, err);
    return outcome != CMD_OK ? outcome : cmd_outcome_of(search_run(&options, err));
}
