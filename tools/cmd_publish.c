/*
 * cmd_publish.c - `nightjar publish` and `rollback`: which generation of a root is served.
 *
 * What takes long, checking and measuring, is done before the lock of the root is taken; under it
 * only is looked whether the generation is still the one that was checked. It is held open all the
 * while, which keeps a prune off it.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "layout/generation.h"
#include "layout/publish.h"
#include "layout/root.h"
#include "tools/cmd.h"
#include "tools/recall.h"
#include "tools/recall_gate.h"

enum { SEARCH_LIST_DEFAULT = 40 };

struct options {
    const char *root;
    const char *queries;
    const char *groundtruth;
    const char *memory;
    double require_recall;
    double search_ratio;
    uint32_t k;
    uint32_t search_list;
    uint32_t threads;
    bool gate; /* --require-recall was given */
    bool full;
    bool json;
};

/* What is to be published, and what was found out about it. */
struct candidate {
    const struct options *options;
    const char *name;
    char *path; /* ROOT/NAME */
    struct generation *generation;
    char live[PATH_MAX]; /* name of what is live; "" */
    uint64_t blocks;     /* checked, with --full */
    struct recall_gate_result measured;
};

/* *name: the entry of `root` that GEN means. A name is taken as it is; a path must lead to a
 * directory whose parent is the root. `buffer` backs *name. */
static enum status name_in_root(const char *root, const char *gen, char buffer[PATH_MAX],
                                const char **name, struct error *err)
{
    if (strchr(gen, '/') == NULL) {
        *name = gen;
        return STATUS_OK;
    }
    char root_path[PATH_MAX];
    if (realpath(root, root_path) == NULL)
        return error_set_os(err, errno, "%s", root);
    if (realpath(gen, buffer) == NULL)
        return error_set_os(err, errno, "%s", gen);
    char *slash = strrchr(buffer, '/');
    size_t parent_bytes = slash == buffer ? 1 : (size_t)(slash - buffer);
    if (strlen(root_path) != parent_bytes || memcmp(root_path, buffer, parent_bytes) != 0)
        return error_set(err, STATUS_INVALID, "%s: not a directory of the root %s", gen, root);
    *name = slash + 1;
    return STATUS_OK;
}

/* ---- the gate ---- */

static enum status gate_check(const struct candidate *self, struct error *err)
{
    const struct options *options = self->options;
    if (self->measured.recall >= options->require_recall)
        return STATUS_OK;
    return error_set(
        err, STATUS_INVALID, "%s: recall@%u %.4f at L %u is below the required %g; %s%s",
        self->path, options->k, self->measured.recall, options->search_list,
        options->require_recall, self->live[0] != '\0' ? self->live : "nothing is published",
        self->live[0] != '\0' ? " stays live" : "");
}

static enum status gate_run(struct candidate *self, struct error *err)
{
    const struct options *options = self->options;
    const struct recall_gate_params params = {.path = self->path,
                                              .memory = options->memory,
                                              .threads = options->threads,
                                              .k = options->k,
                                              .search_list = options->search_list,
                                              .search_ratio = options->search_ratio};
    struct recall_gate *gate = NULL;
    struct recall_files files = {.truth_keys = NULL};
    struct recall_own own = {.bytes = NULL};
    struct cmd_target target;
    enum status status = recall_gate_open(&params, &gate, &target, err);
    if (status == STATUS_OK && options->queries != NULL)
        status = recall_files_load(options->queries, options->groundtruth, &target, options->k,
                                   &files, err);
    else if (status == STATUS_OK)
        status = recall_own_load(self->generation, &own, err);
    const struct recall_sample *sample = options->queries != NULL ? &files.sample : &own.sample;
    if (status == STATUS_OK)
        status = recall_gate_measure(gate, sample, &self->measured, err);
    recall_files_free(&files);
    recall_own_free(&own);
    recall_gate_close(gate);
    return status != STATUS_OK ? status : gate_check(self, err);
}

/* ---- reporting ---- */

static void print_text(const struct candidate *self)
{
    const struct options *options = self->options;
    if (options->full)
        printf("%s: whole: %" PRIu64 " blocks and every other file checked\n", self->path,
               self->blocks);
    else
        printf("%s: opens; all files but nodes.blk checked\n", self->path);
    if (options->gate)
        printf("%s: recall@%u %.4f at L %u over %u %s, %.2f reads a query; required %g\n",
               self->path, options->k, self->measured.recall, options->search_list,
               self->measured.queries, options->queries != NULL ? "queries" : "of its vectors",
               self->measured.reads, options->require_recall);
    printf("%s/%s -> %s\n", options->root, PUBLISH_LINK_NAME, self->name);
}

static void print_json(const struct candidate *self)
{
    const struct options *options = self->options;
    char id[CMD_DIGEST_BYTES];
    cmd_digest_format(&generation_manifest(self->generation)->generation_id, id);
    printf("{\"root\":");
    cmd_json_string(stdout, options->root);
    printf(",\"name\":");
    cmd_json_string(stdout, self->name);
    printf(",\"id\":\"%s\",\"previous\":", id);
    if (self->live[0] != '\0')
        cmd_json_string(stdout, self->live);
    else
        printf("null");
    printf(",\"checked\":\"%s\",\"blocks_checked\":%" PRIu64, options->full ? "all" : "memory",
           self->blocks);
    if (options->gate)
        printf(",\"recall\":%.6f,\"required_recall\":%g,\"k\":%u,\"search_list\":%u,"
               "\"search_ratio\":%g,\"queries\":%u,\"reads_per_query\":%.4f,"
               "\"cache_hits_per_query\":%.4f",
               self->measured.recall, options->require_recall, options->k, options->search_list,
               options->search_ratio, self->measured.queries, self->measured.reads,
               self->measured.cache_hits);
    printf("}\n");
}

/* ---- publish ---- */

static void live_find(struct candidate *self)
{
    char path[PATH_MAX];
    if (publish_current(self->options->root, path, sizeof(path), NULL) == STATUS_OK)
        snprintf(self->live, sizeof(self->live), "%s", strrchr(path, '/') + 1);
}

static enum status candidate_check(struct candidate *self, struct error *err)
{
    const struct options *options = self->options;
    enum status status = publish_open(options->root, self->name, &self->generation, err);
    if (status == STATUS_OK)
        status = options->full ? generation_verify(self->generation, &self->blocks, err)
                               : generation_verify_small(self->generation, err);
    if (status == STATUS_OK && options->gate)
        status = gate_run(self, err);
    return status;
}

static enum status publish_run(const struct options *options, const char *gen, struct error *err)
{
    char buffer[PATH_MAX];
    struct candidate candidate = {.options = options, .measured = {.recall = ROOT_RECALL_UNKNOWN}};
    enum status status = name_in_root(options->root, gen, buffer, &candidate.name, err);
    if (status != STATUS_OK)
        return status;
    if (asprintf(&candidate.path, "%s/%s", options->root, candidate.name) < 0)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", gen);
    live_find(&candidate);
    status = candidate_check(&candidate, err);
    if (status == STATUS_OK) {
        const struct publish_facts facts = {
            generation_manifest(candidate.generation)->generation_id, candidate.measured.recall};
        status = publish_generation_checked(options->root, candidate.name, &facts, err);
    }
    if (status == STATUS_OK && options->json)
        print_json(&candidate);
    else if (status == STATUS_OK)
        print_text(&candidate);
    generation_close(candidate.generation);
    free(candidate.path);
    return status;
}

static enum cmd_outcome publish_options_check(struct options *options, struct error *err)
{
    const bool files = options->queries != NULL || options->groundtruth != NULL;
    if (!options->gate && files)
        return cmd_usage(err, "--queries and --groundtruth go with --require-recall");
    if ((options->queries == NULL) != (options->groundtruth == NULL))
        return cmd_usage(err, "--queries and --groundtruth go together");
    if (options->search_list == 0)
        options->search_list = MAX((uint32_t)SEARCH_LIST_DEFAULT, options->k);
    if (options->k > options->search_list)
        return cmd_usage(err, "k is %u, more than --search-list %u", options->k,
                         options->search_list);
    return CMD_OK;
}

/* ROOT of every command here. */
static struct args_option root_option(const char **target)
{
    return (struct args_option){.name = "root",
                                .kind = ARGS_STRING,
                                .target = target,
                                .value_name = "ROOT",
                                .help = "directory that holds generations and the link 'current'",
                                .required = true};
}

enum cmd_outcome cmd_publish(int argc, char **argv, struct error *err)
{
    struct options options = {.memory = "codes", .k = 10};
    const struct args_option table[] = {
        root_option(&options.root),
        {.name = "full",
         .kind = ARGS_FLAG,
         .target = &options.full,
         .help = "check every block first, as 'nightjar verify' does"},
        {.name = "require-recall",
         .kind = ARGS_DOUBLE,
         .target = &options.require_recall,
         .value_name = "R",
         .help = "publish only if the mean recall@k of the queries is R or more",
         .min = 0,
         .max = 1,
         .given = &options.gate},
        {.name = "queries",
         .kind = ARGS_STRING,
         .target = &options.queries,
         .value_name = "Q",
         .help = "vector file of queries (default: the generation's own sample)"},
        {.name = "groundtruth",
         .kind = ARGS_STRING,
         .target = &options.groundtruth,
         .value_name = "T",
         .help = "their exact neighbours, as rows"},
        {.short_name = 'k',
         .kind = ARGS_U32,
         .target = &options.k,
         .value_name = "K",
         .help = "neighbours wanted",
         .min = 1,
         .max = RECALL_K_MAX},
        {.name = "search-list",
         .kind = ARGS_U32,
         .target = &options.search_list,
         .value_name = "L",
         .help = "candidates the search keeps; default: 40, or K if that is more",
         .min = 1,
         .max = ENGINE_SEARCH_LIST_MAX},
        {.name = "search-ratio",
         .kind = ARGS_DOUBLE,
         .target = &options.search_ratio,
         .value_name = "X",
         .help = "stop early beyond this ratio; default: never",
         .min = 0,
         .max = 1e6},
        {.name = "memory",
         .kind = ARGS_STRING,
         .target = &options.memory,
         .value_name = "M",
         .help = "memory tier to measure with, a size or 'codes' for no block cache"},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &options.threads,
         .value_name = "N",
         .help = "to measure with; default: one a CPU",
         .min = 1,
         .max = CMD_THREADS_MAX},
        {.name = "json", .kind = ARGS_FLAG, .target = &options.json, .help = "one object"},
    };
    const struct args_spec spec = {
        .program = "nightjar publish",
        .summary = "Make a generation the one that is served: point ROOT/current at it.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .positional_name = "GEN",
        .positional_min = 1,
        .positional_max = 1,
        .epilog = "GEN is a name in ROOT or a path to a directory in ROOT. Without --full, every "
                  "file but nodes.blk is checked.",
    };
    struct args_positionals rest;
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, &rest, &outcome, err))
        return outcome;
    outcome = publish_options_check(&options, err);
    return outcome != CMD_OK ? outcome : cmd_outcome_of(publish_run(&options, rest.items[0], err));
}

/* ---- rollback ---- */

static void print_skipped(void *context, const struct root_event *event)
{
    (void)context;
    printf("skipped %s: %s\n", event->name, event->reason);
}

enum cmd_outcome cmd_rollback(int argc, char **argv, struct error *err)
{
    const char *root = NULL;
    const struct args_option table[] = {root_option(&root)};
    const struct args_spec spec = {
        .program = "nightjar rollback",
        .summary = "Go back: point ROOT/current at what was published before the live generation.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "Generations that do not open are passed over. Another rollback goes one further "
                  "back; publish goes anywhere.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    const struct root_observer observer = {print_skipped, NULL};
    struct root_move move;
    enum status status = root_rollback(root, &observer, &move, err);
    if (status == STATUS_OK)
        printf("%s/%s -> %s (was %s)\n", root, PUBLISH_LINK_NAME, move.to, move.from);
    return cmd_outcome_of(status);
}
