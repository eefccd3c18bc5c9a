/*
 * cmd_search.c - `nightjar search`: answers for a query file or for vectors of the index, from a
 * daemon or from an index opened here (searcher.h), as a table, as JSON lines or as a file of ids;
 * or what the queries took (explain.h).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/vector_file.h"
#include "tools/cmd.h"
#include "tools/explain.h"
#include "tools/searcher.h"

enum { PAGES_MAX = 1024 };

struct options {
    struct cmd_search_options common;
    const char *output;
    const char *like; /* keys, "17,42" */
    uint32_t search_list;
    uint64_t limit;
    double search_ratio;
    uint32_t pages; /* 0: not asked for */
    bool json;
    bool explain;
};

/* Where answers come from and where they go. */
struct session {
    const struct options *options;
    struct searcher_params params;
    struct searcher searcher;
    struct cmd_queries queries;
    uint64_t *keys; /* queries by key: in place of those */
    uint32_t count; /* of queries */
    struct vector_writer *writer;
    uint32_t *ids; /* k; for the writer */
    struct explain explained;
};

/* An answer to be printed. */
struct shown {
    uint32_t query;
    uint32_t page; /* from 0 */
    const struct searcher_answer *answer;
    const struct search_hit *hits;
};

/* A place without a hit (fewer than k were found) gets UINT32_MAX: no row has that id. */
static enum status emit_ids(struct session *self, const struct shown *shown, struct error *err)
{
    const struct search_hit *hits = shown->hits;
    const struct searcher_answer *answer = shown->answer;
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

static const char *truth_of(uint32_t flags, uint32_t flag)
{
    return (flags & flag) != 0 ? "true" : "false";
}

static void emit_json(const struct options *options, const struct shown *shown)
{
    const struct searcher_answer *answer = shown->answer;
    printf("{\"query\":%u,", shown->query);
    if (options->pages > 0)
        printf("\"page\":%u,\"last\":%s,", shown->page + 1, truth_of(answer->flags, CLIENT_LAST));
    if (options->like != NULL)
        printf("\"unknown_key\":%s,", truth_of(answer->flags, CLIENT_UNKNOWN_KEY));
    if (options->common.within_radius)
        printf("\"truncated\":%s,", truth_of(answer->flags, CLIENT_TRUNCATED));
    printf("\"degraded\":%s,", truth_of(answer->flags, CLIENT_DEGRADED));
    if (options->explain)
        explain_print_json(&answer->stats);
    else
        printf("\"reads\":%u,\"cache_hits\":%u", answer->stats.reads, answer->stats.cache_hits);
    printf(",\"hits\":[");
    for (uint32_t i = 0; i < answer->hit_count; i++)
        printf("%s{\"key\":%" PRIu64 ",\"distance\":%.9g}", i > 0 ? "," : "", shown->hits[i].key,
               (double)shown->hits[i].distance);
    printf("]}\n");
}

static const char *note_of(const struct searcher_answer *answer)
{
    if ((answer->flags & CLIENT_DEGRADED) != 0)
        return "  degraded";
    return (answer->flags & CLIENT_TRUNCATED) != 0 ? "  truncated" : "";
}

static void emit_table(const struct options *options, const struct shown *shown)
{
    uint32_t before = shown->page * options->common.k;
    if ((shown->answer->flags & CLIENT_UNKNOWN_KEY) != 0)
        printf("%7u no such key\n", shown->query);
    for (uint32_t i = 0; i < shown->answer->hit_count; i++)
        printf("%7u %5u %20" PRIu64 " %14.7g%s\n", shown->query, before + i + 1, shown->hits[i].key,
               (double)shown->hits[i].distance, note_of(shown->answer));
}

/* One answer, wherever its parts go: ids to a file, hits and numbers to stdout. */
static enum status emit(struct session *self, const struct shown *shown, struct error *err)
{
    const struct options *options = self->options;
    if (options->explain)
        explain_add(&self->explained, &shown->answer->stats);
    if (options->json && (self->writer == NULL || options->explain))
        emit_json(options, shown);
    else if (options->explain)
        explain_print_row(shown->query, &shown->answer->stats, note_of(shown->answer));
    else if (self->writer == NULL)
        emit_table(options, shown);
    return self->writer != NULL ? emit_ids(self, shown, err) : STATUS_OK;
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

/* How the queries were answered, where the choice was left open: an object after the others, or
 * lines on stderr, since stdout is answers. */
static void print_chosen(const struct session *self)
{
    const struct options *options = self->options;
    const struct client_chosen *chosen = &self->searcher.chosen;
    const char *plan = question_plan_name((enum search_filter_plan)chosen->filter_plan);
    if (!options->common.has_recall && options->common.filter == NULL)
        return;
    if (options->json) {
        printf("{\"search_list\":%u,\"search_ratio\":%.9g,\"expected_recall\":%.9g,"
               "\"filter_plan\":\"%s\",\"match_estimate\":%" PRIu64 "}\n",
               chosen->search_list, (double)chosen->search_ratio, (double)chosen->expected_recall,
               plan, chosen->match_estimate);
        return;
    }
    if (options->common.has_recall)
        fprintf(stderr, "recall %g: list %u, ratio %.4f: expected %.4f\n", options->common.recall,
                chosen->search_list, (double)chosen->search_ratio, (double)chosen->expected_recall);
    if (options->common.filter != NULL)
        fprintf(stderr, "filter: %s, some %" PRIu64 " vectors match\n", plan,
                chosen->match_estimate);
}

/* The pages of one batch, until no query has more. */
static enum status run_batch(struct session *self, const struct searcher_batch *batch,
                             struct error *err)
{
    struct searcher *searcher = &self->searcher;
    uint32_t pages = MAX(self->options->pages, 1u);
    bool over[SEARCHER_BATCH] = {false};
    uint32_t left = batch->count; /* that are not over */
    enum status status = STATUS_OK;
    searcher_rewind(searcher);
    for (uint32_t page = 0; status == STATUS_OK && page < pages && left > 0; page++) {
        status = searcher_ask(searcher, batch, err);
        for (uint32_t i = 0; status == STATUS_OK && i < batch->count; i++) {
            const struct shown shown = {
                .query = batch->first + i,
                .page = page,
                .answer = &searcher->answers[i],
                .hits = searcher->hits + (size_t)i * self->options->common.k,
            };
            if (over[i])
                continue;
            status = emit(self, &shown, err);
            over[i] = (shown.answer->flags & CLIENT_LAST) != 0;
            left -= over[i];
        }
    }
    return status;
}

static enum status run_queries(struct session *self, struct error *err)
{
    const struct options *options = self->options;
    enum status status = STATUS_OK;
    print_head(options);
    for (uint32_t first = 0; status == STATUS_OK && first < self->count; first += SEARCHER_BATCH) {
        struct searcher_batch batch = {
            .count = MIN((uint32_t)SEARCHER_BATCH, self->count - first),
            .first = first,
        };
        if (self->keys != NULL)
            batch.keys = self->keys + first;
        else
            batch.vectors = self->queries.rows + (size_t)first * self->queries.row_bytes;
        status = run_batch(self, &batch, err);
    }
    if (status != STATUS_OK)
        return status;
    if (options->explain && options->json)
        explain_print_json_summary(&self->explained);
    else if (options->explain)
        explain_print_summary(&self->explained);
    print_chosen(self);
    return STATUS_OK;
}

/* "17,42" */
static enum status keys_parse(struct session *self, struct error *err)
{
    const char *text = self->options->like;
    uint32_t most = 1;
    for (const char *at = text; *at != '\0'; at++)
        most += *at == ',';
    self->keys = calloc(most, sizeof(*self->keys));
    if (self->keys == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u keys", most);
    for (const char *at = text; self->count < most; at++) {
        char *end = NULL;
        errno = 0;
        if (*at >= '0' && *at <= '9')
            self->keys[self->count++] = strtoull(at, &end, 10);
        if (end == NULL || errno != 0 || (*end != ',' && *end != '\0'))
            return error_set(err, STATUS_INVALID, "--like: '%.100s' is not a list of keys", text);
        at = end;
    }
    return STATUS_OK;
}

static enum status queries_open(struct session *self, const struct cmd_target *target,
                                struct error *err)
{
    const struct options *options = self->options;
    if (options->like != NULL)
        return STATUS_OK;
    enum status status =
        cmd_queries_load(options->common.queries, options->limit, target, &self->queries, err);
    self->count = self->queries.count;
    return status;
}

static enum status session_open(struct session *self, struct error *err)
{
    const struct options *options = self->options;
    struct cmd_target target;
    self->params = (struct searcher_params){.common = &options->common,
                                            .search_list = options->search_list,
                                            .search_ratio = (float)options->search_ratio,
                                            .explain = options->explain,
                                            .pages = options->pages,
                                            .by_key = options->like != NULL};
    enum status status = options->like != NULL ? keys_parse(self, err) : STATUS_OK;
    if (status == STATUS_OK)
        status = searcher_open(&self->searcher, &self->params, &target, err);
    if (status == STATUS_OK)
        status = queries_open(self, &target, err);
    if (status != STATUS_OK || options->output == NULL)
        return status;
    self->ids = calloc(options->common.k, sizeof(*self->ids));
    if (self->ids == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u ids", options->common.k);
    struct vector_shape shape = {self->count, options->common.k, ELEMENT_I32};
    return vector_writer_open(options->output, shape, &self->writer, err);
}

static void session_close(struct session *self)
{
    if (self->writer != NULL)
        vector_writer_abort(self->writer);
    free(self->ids);
    free(self->keys);
    cmd_queries_free(&self->queries);
    searcher_close(&self->searcher);
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

static enum cmd_outcome options_check(const struct options *options, struct error *err)
{
    const struct cmd_search_options *common = &options->common;
    uint64_t ranks = (uint64_t)options->pages * common->k;
    if ((common->queries == NULL) == (options->like == NULL))
        return cmd_usage(err, "wanted either --queries or --like");
    if (options->like != NULL && options->limit > 0)
        return cmd_usage(err, "--limit is for --queries");
    if (options->pages > 0 && options->output != NULL)
        return cmd_usage(err, "--output holds one page: wanted either it or --pages");
    if (options->search_list > 0 && ranks > options->search_list)
        return cmd_usage(err, "%u pages of %u hits need a --search-list of %" PRIu64 ", not %u",
                         options->pages, common->k, ranks, options->search_list);
    return cmd_search_options_check(common, options->search_list, options->search_ratio, err);
}

enum cmd_outcome cmd_search(int argc, char **argv, struct error *err)
{
    struct options options = {.search_list = 0};
    struct args_option table[CMD_SEARCH_OPTIONS + 8] = {
        [CMD_SEARCH_OPTIONS] = {.name = "search-list",
                                .kind = ARGS_U32,
                                .target = &options.search_list,
                                .value_name = "L",
                                .help = "candidates the search keeps; more find more",
                                .min = 1,
                                .max = ENGINE_SEARCH_LIST_MAX},
        {.name = "search-ratio",
         .kind = ARGS_DOUBLE,
         .target = &options.search_ratio,
         .value_name = "T",
         .help = "stop early beyond this ratio; default: never",
         .min = 0},
        {.name = "limit",
         .kind = ARGS_U64,
         .target = &options.limit,
         .value_name = "N",
         .help = "only the first N queries",
         .min = 1},
        {.name = "like",
         .kind = ARGS_STRING,
         .target = &options.like,
         .value_name = "KEY,KEY...",
         .help = "in place of queries: the vectors of the index that have these keys"},
        {.name = "pages",
         .kind = ARGS_U32,
         .target = &options.pages,
         .value_name = "N",
         .help = "so many pages of K hits each, one after the other",
         .min = 1,
         .max = PAGES_MAX},
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
    outcome = options_check(&options, err);
    return outcome != CMD_OK ? outcome : cmd_outcome_of(search_run(&options, err));
}
