/*
 * http_search.c - see http_search.h.
 */
#include "query/http_search.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

/* ---- members ---- */

/* What was found, each at most once. */
struct members {
    const cJSON *vector, *vectors, *key, *keys;
    const cJSON *filter, *radius, *recall, *after;
    const cJSON *k, *search_list, *search_ratio, *beam_width, *timeout_ms;
};

static enum status members_find(const cJSON *root, struct members *members, struct error *err)
{
    const struct http_json_member known[] = {
        {"vector", &members->vector},
        {"vectors", &members->vectors},
        {"key", &members->key},
        {"keys", &members->keys},
        {"filter", &members->filter},
        {"radius", &members->radius},
        {"recall", &members->recall},
        {"after", &members->after},
        {"k", &members->k},
        {"search_list", &members->search_list},
        {"search_ratio", &members->search_ratio},
        {"beam_width", &members->beam_width},
        {"timeout_ms", &members->timeout_ms},
    };
    enum status status = http_json_members(root, known, ARRAY_LENGTH(known), err);
    if (status != STATUS_OK)
        return status;
    const cJSON *const forms[] = {members->vector, members->vectors, members->key, members->keys};
    return http_json_one_of(forms, ARRAY_LENGTH(forms), "vector, vectors, key nor keys", err);
}

static enum status filter_read(const struct members *members, struct http_search *search,
                               struct error *err)
{
    const cJSON *item = members->filter;
    if (!item)
        return STATUS_OK;
    if (!cJSON_IsString(item))
        return error_set(err, STATUS_INVALID, "filter: want a string");
    if (item->valuestring[0] == '\0')
        return error_set(err, STATUS_INVALID, "the filter is empty: leave it out to have none");
    search->filter = strdup(item->valuestring);
    if (!search->filter)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a filter");
    return STATUS_OK;
}

/* What is asked beside the usual. */
static enum status extensions_read(const struct members *members, struct http_search *search,
                                   struct error *err)
{
    search->within_radius = members->radius != NULL;
    enum status status = http_json_float(members->radius, &search->radius, err);
    if (status == STATUS_OK)
        status = http_json_float(members->recall, &search->recall_target, err);
    if (status == STATUS_OK && members->recall && search->recall_target == 0.0f)
        status = error_set(err, STATUS_INVALID, "recall 0: above 0 and below 1 is wanted");
    if (status == STATUS_OK)
        status = filter_read(members, search, err);
    return status;
}

static enum status parameters_read(const struct members *members, struct http_search *search,
                                   struct error *err)
{
    enum status status = http_json_u32(members->k, &search->k, err);
    if (status == STATUS_OK)
        status = extensions_read(members, search, err);
    if (!members->recall)
        search->search_list = MAX(search->k, (uint32_t)HTTP_SEARCH_LIST_DEFAULT);
    if (status == STATUS_OK)
        status = http_json_u32(members->search_list, &search->search_list, err);
    if (status == STATUS_OK)
        status = http_json_float(members->search_ratio, &search->search_ratio, err);
    if (status == STATUS_OK)
        status = http_json_u32(members->beam_width, &search->beam_width, err);
    if (status == STATUS_OK)
        status = http_json_u32(members->timeout_ms, &search->timeout_ms, err);
    if (status == STATUS_OK && (search->k < 1 || search->k > PROTOCOL_K_MAX))
        status = error_set(err, STATUS_INVALID, "k is %u, wanted 1..%d", search->k, PROTOCOL_K_MAX);
    return status;
}

/* ---- vectors ---- */

/* Whether an element of the type can be this value; a float may round it. */
static bool value_fits(enum element_type type, double value)
{
    if (type == ELEMENT_U8)
        return value >= 0 && value <= UINT8_MAX && value == floor(value);
    if (type == ELEMENT_I8)
        return value >= INT8_MIN && value <= INT8_MAX && value == floor(value);
    return isfinite((float)value);
}

static enum status vector_read(const cJSON *array, uint32_t number,
                               const struct protocol_shape *shape, void *out, struct error *err)
{
    uint8_t *at = out;
    uint32_t count = 0;
    if (!cJSON_IsArray(array))
        return error_set(err, STATUS_INVALID, "query %u: want an array of numbers", number);
    for (const cJSON *item = array->child; item; item = item->next, count++) {
        if (count == shape->dim)
            return error_set(err, STATUS_INVALID, "query %u has more than the index's %u numbers",
                             number, shape->dim);
        if (!cJSON_IsNumber(item) || !value_fits(shape->type, item->valuedouble))
            return error_set(err, STATUS_INVALID, "query %u, element %u: want a number that is %s",
                             number, count,
                             shape->type == ELEMENT_U8   ? "whole, 0..255"
                             : shape->type == ELEMENT_I8 ? "whole, -128..127"
                                                         : "finite");
        float value = (float)item->valuedouble;
        element_from_f32(shape->type, &value, 1, at);
        at += element_bytes(shape->type);
    }
    if (count != shape->dim)
        return error_set(err, STATUS_INVALID, "query %u has %u numbers, the index has dim %u",
                         number, count, shape->dim);
    return STATUS_OK;
}

static enum status query_count_read(const struct http_json_list *list,
                                    const struct protocol_shape *shape, struct http_search *search,
                                    struct error *err)
{
    search->query_count = list->count;
    if (search->query_count < 1 || search->query_count > shape->queries_max)
        return error_set(err, STATUS_INVALID, "%u queries in a request, wanted 1..%u",
                         search->query_count, shape->queries_max);
    if (search->query_count * search->k > HTTP_SEARCH_HITS_MAX)
        return error_set(err, STATUS_INVALID, "%u queries with k %u, at most %d hits are given",
                         search->query_count, search->k, HTTP_SEARCH_HITS_MAX);
    return STATUS_OK;
}

static enum status vectors_read(const struct http_json_list *list,
                                const struct protocol_shape *shape, struct http_search *search,
                                struct error *err)
{
    size_t vector_bytes = element_vector_bytes(shape->type, shape->dim);
    enum status status = STATUS_OK;
    search->vectors = malloc(list->count * vector_bytes);
    if (!search->vectors)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", list->count);
    const cJSON *array = list->first;
    for (uint32_t q = 0; status == STATUS_OK && q < list->count; q++) {
        status = vector_read(array, q, shape, (uint8_t *)search->vectors + q * vector_bytes, err);
        array = array->next;
    }
    return status;
}

/* ---- pages ---- */

/* null, or {"key": 17, "distance": 0.5, "rank": 10}. */
static enum status cursor_read(const cJSON *item, uint32_t number, struct search_after *out,
                               struct error *err)
{
    const cJSON *key = cJSON_GetObjectItemCaseSensitive(item, "key");
    const cJSON *distance = cJSON_GetObjectItemCaseSensitive(item, "distance");
    const cJSON *rank = cJSON_GetObjectItemCaseSensitive(item, "rank");
    if (!item || cJSON_IsNull(item))
        return STATUS_OK;
    if (!cJSON_IsObject(item) || cJSON_GetArraySize(item) != 3 || !key || !distance || !rank)
        return error_set(err, STATUS_INVALID,
                         "query %u: after is null, or an object of key, distance and rank", number);
    enum status status = http_json_key(key, &out->key, err);
    if (status == STATUS_OK)
        status = http_json_float(distance, &out->distance, err);
    if (status == STATUS_OK)
        status = http_json_u32(rank, &out->rank, err);
    if (status == STATUS_OK && out->rank == 0)
        status = error_set(err, STATUS_INVALID, "query %u: after: rank is 0, as of no hit", number);
    out->set = status == STATUS_OK;
    return status;
}

static enum status cursors_read(const struct members *members, struct http_search *search,
                                struct error *err)
{
    bool many = members->vectors || members->keys;
    const cJSON *item = members->after;
    enum status status = STATUS_OK;
    if (!item)
        return STATUS_OK;
    if (many && (!cJSON_IsArray(item) || (uint32_t)cJSON_GetArraySize(item) != search->query_count))
        return error_set(err, STATUS_INVALID, "after: want an array of one for each query");
    search->after = calloc(search->query_count, sizeof(*search->after));
    if (!search->after)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", search->query_count);
    item = many ? item->child : item;
    for (uint32_t q = 0; status == STATUS_OK && q < search->query_count; q++) {
        status = cursor_read(item, q, &search->after[q], err);
        if (status == STATUS_OK && !members->search_list && !members->recall)
            search->search_list =
                MAX(search->search_list, (uint32_t)MIN((uint64_t)search->after[q].rank + search->k,
                                                       (uint64_t)UINT32_MAX));
        item = item ? item->next : NULL;
    }
    return status;
}

static enum status queries_read(const struct members *members, const struct protocol_shape *shape,
                                struct http_search *search, struct error *err)
{
    const bool by_key = members->key || members->keys;
    struct http_json_list list;
    enum status status = http_json_list(by_key ? members->key : members->vector,
                                        by_key ? members->keys : members->vectors, &list, err);
    if (status == STATUS_OK)
        status = query_count_read(&list, shape, search, err);
    if (status == STATUS_OK && by_key)
        status = http_json_keys(&list, &search->keys, err);
    else if (status == STATUS_OK)
        status = vectors_read(&list, shape, search, err);
    if (status == STATUS_OK)
        status = cursors_read(members, search, err);
    return status;
}

/* ---- requests ---- */

enum status http_search_parse(const char *text, size_t length, const struct protocol_shape *shape,
                              struct http_search *out, struct error *err)
{
    struct http_search search = {.k = HTTP_SEARCH_K_DEFAULT};
    struct members members = {0};
    cJSON *root = NULL;
    enum status status = http_json_parse(text, length, &root, err);
    if (status != STATUS_OK)
        return status;
    status = members_find(root, &members, err);
    if (status == STATUS_OK)
        status = parameters_read(&members, &search, err);
    if (status == STATUS_OK)
        status = queries_read(&members, shape, &search, err);
    http_json_free(root);
    if (status != STATUS_OK) {
        http_search_free(&search);
        return status;
    }
    *out = search;
    return STATUS_OK;
}

void http_search_free(struct http_search *search)
{
    free(search->vectors);
    free(search->keys);
    free(search->filter);
    free(search->after);
    search->vectors = NULL;
    search->keys = NULL;
    search->filter = NULL;
    search->after = NULL;
}

/* ---- answers ---- */

/* Where the next page begins, unless this is the last. */
static void put_next(FILE *out, const struct search_query *query)
{
    bool last = query->hit_count < query->k;
    http_json_put_bool(out, "last", last);
    if (last)
        return;
    const struct search_hit *hit = &query->hits[query->hit_count - 1];
    fputs(",\"next\":{\"key\":", out);
    http_json_put_key(out, hit->key);
    fputs(",\"distance\":", out);
    http_json_put_float(out, hit->distance);
    fprintf(out, ",\"rank\":%" PRIu32 "}", query->after.rank + query->hit_count);
}

static void put_result(FILE *out, struct search_query *query, const struct http_search *asked)
{
    bool known = !asked || !asked->keys || question_settle(query);
    fputs("{\"hits\":[", out);
    for (uint32_t i = 0; i < query->hit_count; i++) {
        fprintf(out, "%s{\"key\":%" PRIu64 ",\"distance\":", i ? "," : "", query->hits[i].key);
        http_json_put_float(out, query->hits[i].distance);
        fputc('}', out);
    }
    fputc(']', out);
    http_json_put_bool(out, "degraded", (query->flags & SEARCH_DEGRADED) != 0);
    if (asked && asked->keys)
        http_json_put_bool(out, "unknown_key", !known);
    if (asked && asked->within_radius)
        http_json_put_bool(out, "truncated", (query->flags & SEARCH_TRUNCATED) != 0);
    if (asked && asked->after)
        put_next(out, query);
    fprintf(out, ",\"reads\":%" PRIu32 "}", query->stats.reads);
}

/* What was chosen for a filter or a recall target. */
static void put_chosen(FILE *out, const struct http_search_context *context,
                       enum search_filter_plan plan)
{
    const struct question *question = context->question;
    const struct http_search *asked = context->asked;
    if (!asked || !question)
        return;
    if (asked->recall_target != 0.0f) {
        fprintf(out,
                ",\"search_list\":%" PRIu32 ",\"search_ratio\":", question->common.search_list);
        http_json_put_float(out, question->common.search_ratio);
        fputs(",\"expected_recall\":", out);
        http_json_put_float(out, question->expected_recall);
    }
    if (asked->filter)
        fprintf(out, ",\"filter_plan\":\"%s\",\"match_estimate\":%" PRIu64,
                question_plan_name(plan), question->match_estimate);
}

enum status http_search_format(const struct http_search_context *context,
                               struct search_query *queries, uint32_t count, char **text,
                               struct error *err)
{
    struct http_json_writer writer;
    enum status status = http_json_begin(&writer, &context->origin, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t q = 0; q < count; q++) {
        if (q > 0)
            fputc(',', writer.out);
        put_result(writer.out, &queries[q], context->asked);
    }
    fputc(']', writer.out);
    put_chosen(writer.out, context, question_plan(queries, count));
    fputs("}\n", writer.out);
    return http_json_end(&writer, text, err);
}
