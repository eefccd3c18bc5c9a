/*
 * http_fetch.c - see http_fetch.h.
 */
#include "query/http_fetch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/memory.h"
#include "query/question.h"

/* ---- requests ---- */

/* What was found, each at most once. */
struct members {
    const struct cJSON *key, *keys, *vectors, *timeout_ms;
};

static enum status members_find(const struct cJSON *root, struct members *members,
                                struct error *err)
{
    const struct http_json_member known[] = {
        {"key", &members->key},
        {"keys", &members->keys},
        {"vectors", &members->vectors},
        {"timeout_ms", &members->timeout_ms},
    };
    enum status status = http_json_members(root, known, ARRAY_LENGTH(known), err);
    if (status != STATUS_OK)
        return status;
    const struct cJSON *const forms[] = {members->key, members->keys};
    return http_json_one_of(forms, ARRAY_LENGTH(forms), "key nor keys", err);
}

static enum status count_check(const struct http_json_list *list, bool vectors,
                               const struct protocol_shape *shape, struct error *err)
{
    uint32_t most = MIN(shape->queries_max, (uint32_t)PROTOCOL_KEYS_MAX);
    if (list->count < 1 || list->count > most)
        return error_set(err, STATUS_INVALID, "%u keys in a request, wanted 1..%u", list->count,
                         most);
    if (vectors && list->count > HTTP_FETCH_ELEMENTS_MAX / shape->dim)
        return error_set(err, STATUS_INVALID, "%u vectors of dim %u, at most %u are given",
                         list->count, shape->dim, HTTP_FETCH_ELEMENTS_MAX / shape->dim);
    return STATUS_OK;
}

static enum status fetch_read(const struct members *members, const struct protocol_shape *shape,
                              struct http_fetch *fetch, struct error *err)
{
    struct http_json_list list;
    enum status status = http_json_bool(members->vectors, &fetch->vectors, err);
    if (status == STATUS_OK)
        status = http_json_u32(members->timeout_ms, &fetch->timeout_ms, err);
    if (status == STATUS_OK)
        status = http_json_list(members->key, members->keys, &list, err);
    if (status == STATUS_OK)
        status = count_check(&list, fetch->vectors, shape, err);
    if (status == STATUS_OK)
        status = http_json_keys(&list, &fetch->keys, err);
    if (status == STATUS_OK)
        fetch->key_count = list.count;
    return status;
}

enum status http_fetch_parse(const char *text, size_t length, const struct protocol_shape *shape,
                             struct http_fetch *out, struct error *err)
{
    struct http_fetch fetch = {.vectors = true};
    struct members members = {0};
    struct cJSON *root = NULL;
    enum status status = http_json_parse(text, length, &root, err);
    if (status != STATUS_OK)
        return status;
    status = members_find(root, &members, err);
    if (status == STATUS_OK)
        status = fetch_read(&members, shape, &fetch, err);
    http_json_free(root);
    if (status == STATUS_OK)
        *out = fetch;
    return status;
}

void http_fetch_free(struct http_fetch *fetch)
{
    free(fetch->keys);
    fetch->keys = NULL;
}

/* ---- answers ---- */

/* `room` is for one vector. */
static void put_vector(FILE *out, const struct http_fetch_context *context,
                       const struct search_query *query, uint8_t *room)
{
    size_t bytes = element_bytes(context->type);
    question_fetched(query, context->type, context->dim, room);
    fputs(",\"vector\":[", out);
    for (uint32_t d = 0; d < context->dim; d++) {
        float value;
        element_to_f32(context->type, room + d * bytes, 1, &value);
        if (d > 0)
            fputc(',', out);
        http_json_put_float(out, value);
    }
    fputc(']', out);
}

enum status http_fetch_format(const struct http_fetch_context *context,
                              const struct search_query *queries, uint32_t count, char **text,
                              struct error *err)
{
    struct http_json_writer writer;
    uint8_t *room = malloc(context->dim * element_bytes(context->type));
    if (!room)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an answer");
    enum status status = http_json_begin(&writer, &context->origin, err);
    for (uint32_t q = 0; status == STATUS_OK && q < count; q++) {
        const struct search_query *query = &queries[q];
        fprintf(writer.out, "%s{\"key\":%" PRIu64, q ? "," : "", query->key);
        http_json_put_bool(writer.out, "found", query->found);
        if (query->found && query->fetched)
            put_vector(writer.out, context, query, room);
        fputc('}', writer.out);
    }
    free(room);
    if (status != STATUS_OK)
        return status;
    fputs("]}\n", writer.out);
    return http_json_end(&writer, text, err);
}
