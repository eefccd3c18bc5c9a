/*
 * http_search.c - see http_search.h.
 *
 * The parser is cJSON, which allocates a struct for each value and recurses for each level. So the
 * text is scanned first: it may be no deeper than a request is, nor have more values.
 */
#include "query/http_search.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

enum {
    DEPTH_MAX = 3,         /* the object, "vectors", a vector */
    NAME_SHOWN_BYTES = 32, /* of a member that is unknown */
};

/* ---- limits, before anything is allocated ---- */

/* Brackets that do not match are the parser's to refuse. */
static enum status scan(const char *text, size_t length, struct error *err)
{
    size_t values = 1;
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            values++;
            if (++depth > DEPTH_MAX)
                return error_set(err, STATUS_INVALID, "byte %zu: nested deeper than %d", i,
                                 DEPTH_MAX);
        } else if (c == ']' || c == '}') {
            depth--;
        } else if (c == ',') {
            values++;
        }
    }
    if (values > HTTP_SEARCH_VALUES_MAX)
        return error_set(err, STATUS_INVALID, "%zu values, at most %d are taken", values,
                         HTTP_SEARCH_VALUES_MAX);
    return STATUS_OK;
}

/* ---- members ---- */

/* What was found, each at most once. */
struct members {
    const cJSON *vector, *vectors, *key, *keys;
    const cJSON *filter, *radius, *recall, *after;
    const cJSON *k, *search_list, *search_ratio, *beam_width, *timeout_ms;
};

static enum status member_note(struct members *members, const cJSON *item, struct error *err)
{
    const struct {
        const char *name;
        const cJSON **slot;
    } known[] = {
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
    for (size_t i = 0; i < ARRAY_LENGTH(known); i++) {
        if (strcmp(item->string, known[i].name) != 0)
            continue;
        if (*known[i].slot)
            return error_set(err, STATUS_INVALID, "%s is given twice", known[i].name);
        *known[i].slot = item;
        return STATUS_OK;
    }
    return error_set(err, STATUS_INVALID, "no member is called \"%.*s\"", NAME_SHOWN_BYTES,
                     item->string);
}

/* Queries are given in one way. */
static enum status forms_check(const struct members *members, struct error *err)
{
    const cJSON *const forms[] = {members->vector, members->vectors, members->key, members->keys};
    const cJSON *given = NULL;
    for (size_t i = 0; i < ARRAY_LENGTH(forms); i++) {
        if (forms[i] && given)
            return error_set(err, STATUS_INVALID, "both %s and %s: give one of them", given->string,
                             forms[i]->string);
        given = forms[i] ? forms[i] : given;
    }
    if (!given)
        return error_set(err, STATUS_INVALID, "neither vector, vectors, key nor keys: give one");
    return STATUS_OK;
}

static enum status members_find(const cJSON *root, struct members *members, struct error *err)
{
    if (!cJSON_IsObject(root))
        return error_set(err, STATUS_INVALID, "a request is a JSON object");
    for (const cJSON *item = root->child; item; item = item->next) {
        enum status status = member_note(members, item, err);
        if (status != STATUS_OK)
            return status;
    }
    return forms_check(members, err);
}

/* An absent one leaves *out as it is. */
static enum status member_u32(const cJSON *item, uint32_t *out, struct error *err)
{
    if (!item)
        return STATUS_OK;
    double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (!(value >= 0 && value <= UINT32_MAX) || value != floor(value))
        return error_set(err, STATUS_INVALID, "%s: want a whole number, at most %" PRIu32,
                         item->string, UINT32_MAX);
    *out = (uint32_t)value;
    return STATUS_OK;
}

static enum status member_float(const cJSON *item, float *out, struct error *err)
{
    if (!item)
        return STATUS_OK;
    float value = cJSON_IsNumber(item) ? (float)item->valuedouble : NAN;
    if (!isfinite(value))
        return error_set(err, STATUS_INVALID, "%s: want a finite number", item->string);
    *out = value;
    return STATUS_OK;
}

/* As many as the index may have, of which a number says no more than 2^53. */
static enum status member_key(const cJSON *item, uint64_t *out, struct error *err)
{
    const double most = 9007199254740992.0;
    if (cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= most &&
        item->valuedouble == floor(item->valuedouble)) {
        *out = (uint64_t)item->valuedouble;
        return STATUS_OK;
    }
    char *end = NULL;
    errno = 0;
    if (cJSON_IsString(item) && isdigit((unsigned char)item->valuestring[0]))
        *out = strtoull(item->valuestring, &end, 10);
    if (end && *end == '\0' && errno == 0)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID,
                     "a key is a whole number, at most 2^53, or a string of its digits");
}

static enum status filter_read(const struct members *members, struct http_search *search,
                               struct error *err)
{
    const cJSON *item = members->filter;
    if (!item)
        return STATUS_OK;
    if (!cJSON_IsString(item))
        return error_set(err, STATUS_INVALID, "filter: want a string");
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
    enum status status = member_float(members->radius, &search->radius, err);
    if (status == STATUS_OK)
        status = member_float(members->recall, &search->recall_target, err);
    if (status == STATUS_OK && members->recall && search->recall_target == 0.0f)
        status = error_set(err, STATUS_INVALID, "recall 0: above 0 and below 1 is wanted");
    if (status == STATUS_OK)
        status = filter_read(members, search, err);
    return status;
}

static enum status parameters_read(const struct members *members, struct http_search *search,
                                   struct error *err)
{
    enum status status = member_u32(members->k, &search->k, err);
    if (status == STATUS_OK)
        status = extensions_read(members, search, err);
    if (!members->recall)
        search->search_list = MAX(search->k, (uint32_t)HTTP_SEARCH_LIST_DEFAULT);
    if (status == STATUS_OK)
        status = member_u32(members->search_list, &search->search_list, err);
    if (status == STATUS_OK)
        status = member_float(members->search_ratio, &search->search_ratio, err);
    if (status == STATUS_OK)
        status = member_u32(members->beam_width, &search->beam_width, err);
    if (status == STATUS_OK)
        status = member_u32(members->timeout_ms, &search->timeout_ms, err);
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
    if (!array || !cJSON_IsArray(array))
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

static enum status query_count_read(const struct members *members,
                                    const struct protocol_shape *shape, struct http_search *search,
                                    struct error *err)
{
    const cJSON *many = members->vectors ? members->vectors : members->keys;
    search->query_count = 1;
    if (many) {
        if (!cJSON_IsArray(many))
            return error_set(err, STATUS_INVALID, "%s: want an array%s", many->string,
                             members->vectors ? " of arrays" : "");
        search->query_count = (uint32_t)cJSON_GetArraySize(many);
    }
    if (search->query_count < 1 || search->query_count > shape->queries_max)
        return error_set(err, STATUS_INVALID, "%u queries in a request, wanted 1..%u",
                         search->query_count, shape->queries_max);
    if (search->query_count * search->k > HTTP_SEARCH_HITS_MAX)
        return error_set(err, STATUS_INVALID, "%u queries with k %u, at most %d hits are given",
                         search->query_count, search->k, HTTP_SEARCH_HITS_MAX);
    return STATUS_OK;
}

static enum status vectors_read(const struct members *members, const struct protocol_shape *shape,
                                struct http_search *search, struct error *err)
{
    size_t vector_bytes = element_vector_bytes(shape->type, shape->dim);
    enum status status = STATUS_OK;
    search->vectors = malloc(search->query_count * vector_bytes);
    if (!search->vectors)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", search->query_count);
    const cJSON *array = members->vectors ? members->vectors->child : members->vector;
    for (uint32_t q = 0; status == STATUS_OK && q < search->query_count; q++) {
        status = vector_read(array, q, shape, (uint8_t *)search->vectors + q * vector_bytes, err);
        array = array ? array->next : NULL;
    }
    return status;
}

static enum status keys_read(const struct members *members, struct http_search *search,
                             struct error *err)
{
    enum status status = STATUS_OK;
    search->keys = calloc(search->query_count, sizeof(*search->keys));
    if (!search->keys)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u queries", search->query_count);
    const cJSON *item = members->keys ? members->keys->child : members->key;
    for (uint32_t q = 0; status == STATUS_OK && item && q < search->query_count; q++) {
        status = member_key(item, &search->keys[q], err);
        item = item->next;
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
    enum status status = member_key(key, &out->key, err);
    if (status == STATUS_OK)
        status = member_float(distance, &out->distance, err);
    if (status == STATUS_OK)
        status = member_u32(rank, &out->rank, err);
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
    enum status status = query_count_read(members, shape, search, err);
    if (status == STATUS_OK && (members->key || members->keys))
        status = keys_read(members, search, err);
    else if (status == STATUS_OK)
        status = vectors_read(members, shape, search, err);
    if (status == STATUS_OK)
        status = cursors_read(members, search, err);
    return status;
}

/* ---- requests ---- */

/* Where the parser stopped; what follows the value is at fault, too. */
static cJSON *parse(const char *text, size_t length, struct error *err)
{
    const char *end = text;
    cJSON *root = cJSON_ParseWithLengthOpts(text, length, &end, false);
    size_t at = (size_t)(end - text);
    while (root && at < length && strchr(" \t\r\n", text[at]) && text[at] != '\0')
        at++;
    if (root && at == length)
        return root;
    (void)error_set(err, STATUS_INVALID, "no JSON from byte %zu on", at);
    cJSON_Delete(root);
    return NULL;
}

enum status http_search_parse(const char *text, size_t length, const struct protocol_shape *shape,
                              struct http_search *out, struct error *err)
{
    struct http_search search = {.k = HTTP_SEARCH_K_DEFAULT};
    struct members members = {0};
    enum status status = scan(text, length, err);
    if (status != STATUS_OK)
        return status;
    cJSON *root = parse(text, length, err);
    if (!root)
        return STATUS_INVALID;
    status = members_find(root, &members, err);
    if (status == STATUS_OK)
        status = parameters_read(&members, &search, err);
    if (status == STATUS_OK)
        status = queries_read(&members, shape, &search, err);
    cJSON_Delete(root);
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

/* Finite vectors may be farther apart than a float can say, and JSON has no infinity. */
static void put_float(FILE *out, float value)
{
    if (isfinite(value))
        fprintf(out, "%.9g", (double)value);
    else
        fputs("null", out);
}

static void put_bool(FILE *out, const char *name, bool value)
{
    fprintf(out, ",\"%s\":%s", name, value ? "true" : "false");
}

/* Where the next page begins, unless this is the last. */
static void put_next(FILE *out, const struct search_query *query)
{
    bool last = query->hit_count < query->k;
    put_bool(out, "last", last);
    if (last)
        return;
    const struct search_hit *hit = &query->hits[query->hit_count - 1];
    fprintf(out, ",\"next\":{\"key\":%" PRIu64 ",\"distance\":", hit->key);
    put_float(out, hit->distance);
    fprintf(out, ",\"rank\":%" PRIu32 "}", query->after.rank + query->hit_count);
}

static void put_result(FILE *out, struct search_query *query, const struct http_search *asked)
{
    bool known = !asked || !asked->keys || question_settle(query);
    fputs("{\"hits\":[", out);
    for (uint32_t i = 0; i < query->hit_count; i++) {
        fprintf(out, "%s{\"key\":%" PRIu64 ",\"distance\":", i ? "," : "", query->hits[i].key);
        put_float(out, query->hits[i].distance);
        fputc('}', out);
    }
    fputc(']', out);
    put_bool(out, "degraded", (query->flags & SEARCH_DEGRADED) != 0);
    if (asked && asked->keys)
        put_bool(out, "unknown_key", !known);
    if (asked && asked->within_radius)
        put_bool(out, "truncated", (query->flags & SEARCH_TRUNCATED) != 0);
    if (asked && asked->after)
        put_next(out, query);
    fprintf(out, ",\"reads\":%" PRIu32 "}", query->stats.reads);
}

/* What was chosen for a filter or a recall target. */
static void put_chosen(FILE *out, const struct http_search_origin *origin,
                       enum search_filter_plan plan)
{
    const struct question *question = origin->question;
    const struct http_search *asked = origin->asked;
    if (!asked || !question)
        return;
    if (asked->recall_target != 0.0f) {
        fprintf(out,
                ",\"search_list\":%" PRIu32 ",\"search_ratio\":", question->common.search_list);
        put_float(out, question->common.search_ratio);
        fputs(",\"expected_recall\":", out);
        put_float(out, question->expected_recall);
    }
    if (asked->filter)
        fprintf(out, ",\"filter_plan\":\"%s\",\"match_estimate\":%" PRIu64,
                question_plan_name(plan), question->match_estimate);
}

/* Of a stream of open_memstream(): whether all that was written is there. */
static bool finish(FILE *out)
{
    bool complete = !ferror(out);
    return fclose(out) == 0 && complete;
}

enum status http_search_format(const struct http_search_origin *origin,
                               struct search_query *queries, uint32_t count, char **text,
                               struct error *err)
{
    char *bytes = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&bytes, &length);
    if (!out)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an answer");
    fprintf(out,
            "{\"generation\":\"%016" PRIx64 "%016" PRIx64 "\",\"trace_id\":\"%016" PRIx64
            "\",\"results\":[",
            origin->generation_high, origin->generation_low, origin->trace_id);
    for (uint32_t q = 0; q < count; q++) {
        if (q > 0)
            fputc(',', out);
        put_result(out, &queries[q], origin->asked);
    }
    fputc(']', out);
    put_chosen(out, origin, question_plan(queries, count));
    fputs("}\n", out);
    if (!finish(out)) {
        free(bytes);
        return error_set(err, STATUS_NO_MEMORY, "no memory for an answer");
    }
    *text = bytes;
    return STATUS_OK;
}

/* Texts may quote what a client sent: what is no ASCII becomes '?', as it need not be UTF-8. */
static void put_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fputc('\\', out);
        fputc(c < 0x20 || c > 0x7e ? '?' : c, out);
    }
    fputc('"', out);
}

char *http_error_format(enum status status, const char *text)
{
    char *bytes = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&bytes, &length);
    if (!out)
        return NULL;
    fputs("{\"error\":", out);
    put_string(out, text);
    fprintf(out, ",\"status\":\"%s\"}\n", status_name(status));
    if (finish(out))
        return bytes;
    free(bytes);
    return NULL;
}
