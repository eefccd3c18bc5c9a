/*
 * cmd_get.c - `nightjar get`: vectors by their keys.
 *
 * Thread rules: the main thread only.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/vector_file.h"
#include "layout/generation.h"
#include "layout/keys_lookup.h"
#include "query/client.h"
#include "tools/cmd.h"

struct options {
    const char *socket; /* one of socket, index */
    const char *index;
    const char *output;
    bool exists;
    bool json;
};

/* Where vectors come from. */
struct source {
    const char *name;
    struct client *client; /* or */
    struct generation *generation;
    struct vector_shape shape; /* of all its vectors */
};

/* What is known of a key. */
struct answer {
    uint64_t key;
    bool found;
    uint32_t node; /* UINT32_MAX: a daemon does not tell */
    void *vector;  /* room for one, or NULL: whether it is there is all that is wanted */
};

/* ---- the source ---- */

static enum status source_connect(const struct options *options, struct source *source,
                                  struct error *err)
{
    *source = (struct source){.name = options->socket};
    enum status status = client_connect(options->socket, &source->client, err);
    if (status == STATUS_OK)
        status = client_require(source->client, CLIENT_EXTENDED, err);
    if (status != STATUS_OK)
        return status;
    const struct client_index_info info = client_index(source->client);
    source->shape = (struct vector_shape){info.vector_count, info.dim, info.type};
    return STATUS_OK;
}

static enum status source_open(const struct options *options, struct source *source,
                               struct error *err)
{
    if (options->socket != NULL)
        return source_connect(options, source, err);
    *source = (struct source){.name = options->index};
    enum status status = generation_open(options->index, &source->generation, err);
    if (status != STATUS_OK)
        return status;
    const struct manifest *manifest = generation_manifest(source->generation);
    source->shape =
        (struct vector_shape){manifest->vector_count, manifest->dim, manifest->query_type};
    return STATUS_OK;
}

static void source_close(struct source *source)
{
    client_close(source->client);
    generation_close(source->generation);
}

/* A generation that went live since the start may have vectors of another shape. */
static enum status daemon_ask(const struct source *source, struct answer *answer, struct error *err)
{
    const struct client_fetch fetch = {
        .keys = &answer->key, .count = 1, .vectors = answer->vector != NULL};
    struct client_fetched fetched;
    enum status status = client_fetch(source->client, &fetch, &fetched, err);
    if (status != STATUS_OK)
        return status;
    if (fetched.dim != source->shape.dim || fetched.type != source->shape.type)
        return error_set(err, STATUS_INVALID, "%s: the index has become one of %u %s, was %u %s",
                         source->name, fetched.dim, element_name(fetched.type), source->shape.dim,
                         element_name(source->shape.type));
    answer->found = fetched.found[0] != 0;
    answer->node = UINT32_MAX;
    if (answer->vector != NULL)
        memcpy(answer->vector, fetched.vectors, fetched.dim * element_bytes(fetched.type));
    return STATUS_OK;
}

/* What is stored, as queries are given. */
static enum status index_vector(const struct source *source, const struct answer *answer,
                                struct error *err)
{
    const struct manifest *manifest = generation_manifest(source->generation);
    const uint32_t dim = manifest->dim;
    void *stored = malloc(element_vector_bytes(manifest->type, dim));
    float *values = calloc(dim, sizeof(*values));
    enum status status = STATUS_OK;
    if (stored == NULL || values == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a vector of %u", dim);
    else
        status = keys_lookup_vector(source->generation, answer->node, answer->key, stored, err);
    if (status == STATUS_OK) {
        element_vector_to_f32(manifest->type, stored, dim, values);
        element_from_f32(manifest->query_type, values, dim, answer->vector);
    }
    free(stored);
    free(values);
    return status;
}

/* Answers for answer->key. */
static enum status source_ask(const struct source *source, struct answer *answer, struct error *err)
{
    if (source->client != NULL)
        return daemon_ask(source, answer, err);
    enum status status =
        keys_lookup(source->generation, answer->key, &answer->node, &answer->found, err);
    if (status != STATUS_OK || !answer->found || answer->vector == NULL)
        return status;
    return index_vector(source, answer, err);
}

/* ---- the answers ---- */

/* Nine digits read back as the same f32; whole numbers are printed as such. */
static enum status print_vector(const struct vector_shape *shape, const void *vector,
                                const char *separator, struct error *err)
{
    float *values = calloc(shape->dim, sizeof(*values));
    if (values == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a vector of %u", shape->dim);
    element_to_f32(shape->type, vector, shape->dim, values);
    for (uint32_t d = 0; d < shape->dim; d++)
        printf("%s%.9g", d > 0 ? separator : "", (double)values[d]);
    free(values);
    return STATUS_OK;
}

static enum status print_answer(const struct options *options, const struct vector_shape *shape,
                                const struct answer *answer, struct error *err)
{
    enum status status = STATUS_OK;
    if (options->json)
        printf("{\"key\":%" PRIu64 ",\"found\":%s", answer->key, answer->found ? "true" : "false");
    else
        printf("%" PRIu64, answer->key);
    if (options->json && answer->found && answer->node != UINT32_MAX)
        printf(",\"node\":%u", answer->node);
    if (answer->found && answer->vector != NULL) {
        printf("%s", options->json ? ",\"vector\":[" : " ");
        status = print_vector(shape, answer->vector, options->json ? "," : " ", err);
        printf("%s", options->json ? "]" : "");
    } else if (!options->json) {
        printf(" %s", answer->found ? "yes" : "no");
    }
    printf("%s\n", options->json ? "}" : "");
    return status;
}

static enum status key_parse(const char *text, uint64_t *key, struct error *err)
{
    char *end;
    errno = 0;
    *key = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0)
        return error_set(err, STATUS_INVALID, "'%.40s' is no key: wanted 0..%" PRIu64, text,
                         UINT64_MAX);
    return STATUS_OK;
}

static enum status unknown_set(const struct source *source, uint64_t key, struct error *err)
{
    return error_set(err, STATUS_NOT_FOUND, "%s: no key %" PRIu64, source->name, key);
}

/* Prints or writes what each key has. The first unknown one is an error, and the end unless all
 * that is asked is which are there. */
static enum status keys_get(const struct options *options, const struct source *source,
                            const struct args_positionals *keys, void *vector, struct error *err)
{
    struct vector_writer *writer = NULL;
    struct answer answer = {.vector = options->exists ? NULL : vector};
    const struct vector_shape shape = {keys->count, source->shape.dim, source->shape.type};
    bool missed = false;
    enum status status = STATUS_OK;
    if (options->output != NULL)
        status = vector_writer_open(options->output, shape, &writer, err);
    for (size_t i = 0; status == STATUS_OK && i < keys->count; i++) {
        status = key_parse(keys->items[i], &answer.key, err);
        if (status == STATUS_OK)
            status = source_ask(source, &answer, err);
        if (status != STATUS_OK)
            break;
        if (!answer.found && !missed)
            (void)unknown_set(source, answer.key, err);
        missed = missed || !answer.found;
        if (missed && !options->exists)
            status = STATUS_NOT_FOUND;
        else if (writer != NULL)
            status = vector_writer_append(writer, answer.vector, 1, err);
        else
            status = print_answer(options, &source->shape, &answer, err);
    }
    if (status == STATUS_OK && writer != NULL)
        status = vector_writer_finish(writer, err);
    else
        vector_writer_abort(writer);
    return status == STATUS_OK && missed ? STATUS_NOT_FOUND : status;
}

/* ---- the command ---- */

static enum cmd_outcome options_parse(int argc, char **argv, struct options *options,
                                      struct args_positionals *keys, struct error *err)
{
    const struct args_option table[] = {
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &options->socket,
         .value_name = "PATH",
         .help = "ask the daemon that listens there"},
        {.name = "index",
         .kind = ARGS_STRING,
         .target = &options->index,
         .value_name = "GEN",
         .help = "or open this generation here"},
        {.name = "output",
         .kind = ARGS_STRING,
         .target = &options->output,
         .value_name = "FILE",
         .help = "write a vector file, in the order of the keys, in place of text"},
        {.name = "exists",
         .kind = ARGS_FLAG,
         .target = &options->exists,
         .help = "only say which keys are there"},
        {.name = "json", .kind = ARGS_FLAG, .target = &options->json, .help = "an object a key"},
    };
    const struct args_spec spec = {
        .program = "nightjar get",
        .summary = "Show the vectors that have some keys.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .positional_name = "KEY...",
        .positional_min = 1,
        .positional_max = SIZE_MAX,
        .epilog = "A key that is not there is named, and the exit status 1.",
    };
    enum cmd_outcome outcome = CMD_OK;
    if (!cmd_parse(&spec, argc, argv, keys, &outcome, err)) {
        keys->count = 0;
        return outcome;
    }
    if ((options->socket == NULL) == (options->index == NULL))
        return cmd_usage(err, "wanted either --socket or --index");
    if (options->output != NULL && (options->exists || options->json))
        return cmd_usage(err, "--output goes with neither --exists nor --json");
    uint64_t key;
    for (size_t i = 0; i < keys->count; i++)
        if (key_parse(keys->items[i], &key, err) != STATUS_OK)
            return CMD_USAGE;
    return CMD_OK;
}

enum cmd_outcome cmd_get(int argc, char **argv, struct error *err)
{
    struct options options = {0};
    struct args_positionals keys = {0};
    struct source source = {0};
    void *vector = NULL;
    enum cmd_outcome outcome = options_parse(argc, argv, &options, &keys, err);
    if (outcome != CMD_OK || keys.count == 0)
        return outcome;
    enum status status = source_open(&options, &source, err);
    if (status == STATUS_OK) {
        vector = malloc(source.shape.dim * element_bytes(source.shape.type));
        status = vector != NULL ? keys_get(&options, &source, &keys, vector, err)
                                : error_set(err, STATUS_NO_MEMORY, "no memory for a vector");
    }
    free(vector);
    source_close(&source);
    return cmd_outcome_of(status);
}
