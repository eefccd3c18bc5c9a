/*
 * cmd.c - owns what several subcommands need: parsing, query files, the index in process, JSON
 * text.
 *
 * Thread rules: called from the main thread only.
 */
#include "tools/cmd.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "common/vector_file.h"

bool cmd_parse(const struct args_spec *spec, int argc, char **argv, struct args_positionals *rest,
               enum cmd_outcome *outcome, struct error *err)
{
    switch (args_parse(spec, argc, argv, rest, err)) {
    case ARGS_RUN:
        return true;
    case ARGS_DONE:
        *outcome = CMD_OK;
        return false;
    case ARGS_USAGE:
        break;
    }
    *outcome = CMD_USAGE;
    return false;
}

enum cmd_outcome cmd_usage(struct error *err, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    error_set(err, STATUS_INVALID, "%s", text);
    return CMD_USAGE;
}

enum cmd_outcome cmd_outcome_of(enum status status)
{
    return status == STATUS_OK ? CMD_OK : CMD_FAILED;
}

static enum status queries_check(const struct cmd_target *target, const char *path,
                                 const struct vector_shape *shape, struct error *err)
{
    if (shape->dim != target->dim)
        return error_set(err, STATUS_INVALID, "%s: queries of %u dimensions, %s has %u", path,
                         shape->dim, target->name, target->dim);
    if (shape->type != target->type)
        return error_set(err, STATUS_INVALID, "%s: %s queries, %s takes %s", path,
                         element_name(shape->type), target->name, element_name(target->type));
    return STATUS_OK;
}

enum status cmd_queries_load(const char *path, uint64_t limit, const struct cmd_target *target,
                             struct cmd_queries *out, struct error *err)
{
    struct vector_file *file = NULL;
    void *rows = NULL;
    *out = (struct cmd_queries){0};
    enum status status = vector_file_open(path, &file, err);
    if (status != STATUS_OK)
        return status;
    struct vector_shape shape = vector_file_shape(file);
    status = queries_check(target, path, &shape, err);
    if (status != STATUS_OK)
        goto out;

    size_t row_bytes = element_vector_bytes(shape.type, shape.dim);
    uint64_t count = limit == 0 ? shape.count : MIN(limit, shape.count);
    size_t bytes;
    if (count > UINT32_MAX || !size_mul((size_t)count, row_bytes, &bytes)) {
        status = error_set(err, STATUS_INVALID, "%s: %llu queries are too many for one run", path,
                           (unsigned long long)count);
        goto out;
    }
    rows = malloc(bytes);
    if (rows == NULL) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for the %llu queries of %s",
                           (unsigned long long)count, path);
        goto out;
    }
    status = vector_file_read(file, 0, count, rows, err);
    if (status == STATUS_OK)
        status = vector_rows_check(path, &shape, target->metric, 0, count, rows, row_bytes, err);
    if (status == STATUS_OK) {
        *out = (struct cmd_queries){path, rows, row_bytes, (uint32_t)count};
        rows = NULL;
    }
out:
    free(rows);
    vector_file_close(file);
    return status;
}

void cmd_queries_free(struct cmd_queries *queries)
{
    free(queries->rows);
    *queries = (struct cmd_queries){0};
}

enum status cmd_local_open(const struct cmd_local_params *params, struct cmd_local *out,
                           struct error *err)
{
    struct index_options options = {.memory_bytes = 0};
    enum status status;
    *out = (struct cmd_local){0};
    if (strcmp(params->memory, "codes") != 0) {
        status = memory_parse(params->memory, &options.memory_bytes, err);
        if (status != STATUS_OK)
            return status;
    }
    status = index_open(params->path, &options, &out->index, err);
    if (status != STATUS_OK)
        return status;
    /* Every query the caller keeps in flight may run, even if all of them meet on one worker, and
     * the queue never answers BUSY. */
    struct engine_params engine = {
        .threads = params->threads,
        .pin = true,
        .slots_per_thread = params->in_flight > 64 ? params->in_flight : 0,
        .queue_limit = params->in_flight > 2048 ? 2 * params->in_flight : 0,
        .io_kind = params->io_kind,
    };
    status = engine_create(&engine, out->index, &out->engine, err);
    if (status != STATUS_OK)
        cmd_local_close(out);
    return status;
}

void cmd_local_close(struct cmd_local *local)
{
    if (local->engine != NULL)
        engine_destroy(local->engine);
    if (local->index != NULL)
        index_release(local->index);
    *local = (struct cmd_local){0};
}

struct cmd_target cmd_local_target(const struct cmd_local *local)
{
    const struct manifest *manifest = index_manifest(local->index);
    return (struct cmd_target){
        .name = index_path(local->index),
        .vector_count = manifest->vector_count,
        .dim = manifest->dim,
        .type = manifest->query_type,
        .metric = manifest->metric,
    };
}

bool cmd_search_options_extended(const struct cmd_search_options *self)
{
    return self->filter != NULL || self->within_radius || self->has_recall;
}

struct question cmd_question(const struct cmd_search_options *self, uint32_t search_list,
                             float search_ratio)
{
    return (struct question){
        .common = {.k = self->k,
                   .search_list = search_list,
                   .beam_width = self->beam_width,
                   .search_ratio = search_ratio,
                   .within_radius = self->within_radius,
                   .radius = (float)self->radius},
        .recall_target = (float)self->recall,
        .filter_text = self->filter,
        .filter_bytes = self->filter != NULL ? strlen(self->filter) : 0,
    };
}

struct client_chosen cmd_chosen(const struct question *question)
{
    return (struct client_chosen){.search_list = question->common.search_list,
                                  .search_ratio = question->common.search_ratio,
                                  .expected_recall = question->expected_recall,
                                  .match_estimate = question->match_estimate};
}

void cmd_search_options_init(struct cmd_search_options *self,
                             struct args_option table[CMD_SEARCH_OPTIONS])
{
    *self = (struct cmd_search_options){.memory = "codes", .k = 10};
    const struct args_option options[CMD_SEARCH_OPTIONS] = {
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &self->socket,
         .value_name = "PATH",
         .help = "ask the daemon that listens there"},
        {.name = "index",
         .kind = ARGS_STRING,
         .target = &self->index,
         .value_name = "GEN",
         .help = "or open this generation here"},
        {.name = "queries",
         .kind = ARGS_STRING,
         .target = &self->queries,
         .value_name = "Q",
         .help = "vector file of queries"},
        {.short_name = 'k',
         .kind = ARGS_U32,
         .target = &self->k,
         .value_name = "K",
         .help = "neighbours wanted",
         .min = 1,
         .max = ENGINE_K_MAX},
        {.name = "beam-width",
         .kind = ARGS_U32,
         .target = &self->beam_width,
         .value_name = "W",
         .help = "reads a query keeps in flight; default: chosen by load",
         .min = 1,
         .max = ENGINE_BEAM_WIDTH_MAX},
        {.name = "memory",
         .kind = ARGS_STRING,
         .target = &self->memory,
         .value_name = "M",
         .help = "with --index: memory tier, a size or 'codes' for no block cache"},
        {.name = "threads",
         .kind = ARGS_U32,
         .target = &self->threads,
         .value_name = "N",
         .help = "with --index: threads; default: one a CPU",
         .min = 1,
         .max = CMD_THREADS_MAX},
        {.name = "filter",
         .kind = ARGS_STRING,
         .target = &self->filter,
         .value_name = "TEXT",
         .help = "only vectors whose attributes match, as: year >= 2015 and lang = \"en\""},
        {.name = "radius",
         .kind = ARGS_DOUBLE,
         .target = &self->radius,
         .value_name = "R",
         .help = "only vectors within this distance (l2: squared), at most K of them",
         .min = -INFINITY,
         .given = &self->within_radius},
        {.name = "recall",
         .kind = ARGS_DOUBLE,
         .target = &self->recall,
         .value_name = "R",
         .help = "instead of a search list: what finds this share of the K nearest, as measured at "
                 "the build",
         .min = -INFINITY,
         .given = &self->has_recall},
    };
    memcpy(table, options, sizeof(options));
}

enum cmd_outcome cmd_search_options_check(const struct cmd_search_options *self,
                                          uint32_t search_list, double ratio, struct error *err)
{
    if ((self->socket == NULL) == (self->index == NULL))
        return cmd_usage(err, "wanted either --socket or --index");
    if (self->has_recall && !(self->recall > 0 && self->recall < 1))
        return cmd_usage(err, "--recall %g: above 0 and below 1 is wanted", self->recall);
    if (self->has_recall && (search_list != 0 || ratio != 0))
        return cmd_usage(err, "--recall chooses what --search-list and --search-ratio would set: "
                              "give one or the other");
    if (!self->has_recall && search_list == 0)
        return cmd_usage(err, "wanted either --search-list or --recall");
    if (!self->has_recall && !self->within_radius && self->k > search_list)
        return cmd_usage(err, "k is %u, more than --search-list %u", self->k, search_list);
    if (!(ratio >= 0 && ratio <= 1e6))
        return cmd_usage(err, "--search-ratio %g: wanted a ratio, or 0 for none", ratio);
    return CMD_OK;
}

enum status cmd_target_check(const struct cmd_target *target, uint32_t k, struct error *err)
{
    if (k <= target->vector_count)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID, "k is %u, but %s has only %llu vectors", k, target->name,
                     (unsigned long long)target->vector_count);
}

void cmd_digest_format(const struct digest128 *digest, char text[CMD_DIGEST_BYTES])
{
    snprintf(text, CMD_DIGEST_BYTES, "%016" PRIx64 "%016" PRIx64, digest->high, digest->low);
}

void cmd_json_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
        if (*at == '"' || *at == '\\')
            fprintf(out, "\\%c", *at);
        else if (*at < 0x20)
            fprintf(out, "\\u%04x", *at);
        else
            fputc(*at, out);
    }
    fputc('"', out);
}
