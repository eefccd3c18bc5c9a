/*
 * http_json.c - see http_json.h.
 *
 * The parser is cJSON, which allocates a struct for each value and recurses for each level. So the
 * text is scanned first: it may be no deeper than a request is, nor have more values. And its
 * strings end with a NUL, so that none may be within.
 */
#include "query/http_json.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEPTH_MAX = 3,         /* the object, "vectors", a vector */
    NAME_SHOWN_BYTES = 32, /* of a member that is unknown */
};

/* ---- limits, before anything is allocated ---- */

/* Whether the parser's string would end at text[i], within quotes, and what follows be dropped:
 * where it finds a NUL, and where \u is followed by what is no digit, which it takes for 0. An
 * escape that the text cuts off is its to refuse. */
static bool cuts_string(const char *text, size_t length, size_t i)
{
    enum { ESCAPE_BYTES = 6 };
    bool zero = true;
    if (text[i] != '\\' || length - i < ESCAPE_BYTES || text[i + 1] != 'u')
        return text[i] == '\0';
    for (size_t d = i + 2; d < i + ESCAPE_BYTES; d++) {
        if (!isxdigit((unsigned char)text[d]))
            return true;
        zero = zero && text[d] == '0';
    }
    return zero;
}

/* Brackets that do not match are the parser's to refuse. */
static enum status scan(const char *text, size_t length, struct error *err)
{
    size_t values = 1;
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (quoted) {
            if (cuts_string(text, length, i))
                return error_set(err, STATUS_INVALID,
                                 "byte %zu: a string has no NUL, and four digits after \\u", i);
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
    if (values > HTTP_JSON_VALUES_MAX)
        return error_set(err, STATUS_INVALID, "%zu values, at most %d are taken", values,
                         HTTP_JSON_VALUES_MAX);
    return STATUS_OK;
}

/* ---- requests ---- */

/* What follows the value is at fault, too: the place is where the parser stopped. */
enum status http_json_parse(const char *text, size_t length, struct cJSON **root, struct error *err)
{
    enum status status = scan(text, length, err);
    if (status != STATUS_OK)
        return status;
    const char *end = text;
    cJSON *parsed = cJSON_ParseWithLengthOpts(text, length, &end, false);
    size_t at = (size_t)(end - text);
    while (parsed && at < length && strchr(" \t\r\n", text[at]) && text[at] != '\0')
        at++;
    if (parsed && at == length) {
        *root = parsed;
        return STATUS_OK;
    }
    cJSON_Delete(parsed);
    return error_set(err, STATUS_INVALID, "no JSON from byte %zu on", at);
}

void http_json_free(struct cJSON *root)
{
    cJSON_Delete(root);
}

static enum status member_note(const struct http_json_member *known, size_t count,
                               const cJSON *item, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
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

enum status http_json_members(const struct cJSON *root, const struct http_json_member *known,
                              size_t count, struct error *err)
{
    if (!cJSON_IsObject(root))
        return error_set(err, STATUS_INVALID, "a request is a JSON object");
    for (const cJSON *item = root->child; item; item = item->next) {
        enum status status = member_note(known, count, item, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status http_json_one_of(const struct cJSON *const *forms, size_t count, const char *names,
                             struct error *err)
{
    const cJSON *given = NULL;
    for (size_t i = 0; i < count; i++) {
        if (forms[i] && given)
            return error_set(err, STATUS_INVALID, "both %s and %s: give one of them", given->string,
                             forms[i]->string);
        given = forms[i] ? forms[i] : given;
    }
    if (!given)
        return error_set(err, STATUS_INVALID, "neither %s: give one", names);
    return STATUS_OK;
}

enum status http_json_u32(const struct cJSON *item, uint32_t *out, struct error *err)
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

enum status http_json_float(const struct cJSON *item, float *out, struct error *err)
{
    if (!item)
        return STATUS_OK;
    float value = cJSON_IsNumber(item) ? (float)item->valuedouble : NAN;
    if (!isfinite(value))
        return error_set(err, STATUS_INVALID, "%s: want a finite number", item->string);
    *out = value;
    return STATUS_OK;
}

enum status http_json_bool(const struct cJSON *item, bool *out, struct error *err)
{
    if (!item)
        return STATUS_OK;
    if (!cJSON_IsBool(item))
        return error_set(err, STATUS_INVALID, "%s: want true or false", item->string);
    *out = cJSON_IsTrue(item);
    return STATUS_OK;
}

enum status http_json_list(const struct cJSON *one, const struct cJSON *many,
                           struct http_json_list *out, struct error *err)
{
    if (!one && !cJSON_IsArray(many))
        return error_set(err, STATUS_INVALID, "%s: want an array", many->string);
    *out = one ? (struct http_json_list){one, 1}
               : (struct http_json_list){many->child, (uint32_t)cJSON_GetArraySize(many)};
    return STATUS_OK;
}

/* Whole numbers up to the limit are those that no other text of digits is read as. */
enum status http_json_key(const struct cJSON *item, uint64_t *out, struct error *err)
{
    const double most = (double)HTTP_JSON_KEY_NUMBER_MAX;
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
                     "a key is a whole number, at most %" PRIu64 ", or a string of its digits",
                     HTTP_JSON_KEY_NUMBER_MAX);
}

enum status http_json_keys(const struct http_json_list *list, uint64_t **out, struct error *err)
{
    enum status status = STATUS_OK;
    uint64_t *keys = calloc(list->count, sizeof(*keys));
    if (!keys)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u keys", list->count);
    const cJSON *item = list->first;
    for (uint32_t i = 0; status == STATUS_OK && i < list->count; i++) {
        status = http_json_key(item, &keys[i], err);
        item = item->next;
    }
    if (status != STATUS_OK) {
        free(keys);
        return status;
    }
    *out = keys;
    return STATUS_OK;
}

/* ---- answers ---- */

static bool writer_open(struct http_json_writer *writer)
{
    *writer = (struct http_json_writer){0};
    writer->out = open_memstream(&writer->bytes, &writer->length);
    return writer->out != NULL;
}

/* NULL: not all that was written is there. */
static char *writer_close(struct http_json_writer *writer)
{
    bool complete = !ferror(writer->out);
    if (fclose(writer->out) == 0 && complete)
        return writer->bytes;
    free(writer->bytes);
    return NULL;
}

enum status http_json_begin(struct http_json_writer *writer, const struct http_json_origin *origin,
                            struct error *err)
{
    if (!writer_open(writer))
        return error_set(err, STATUS_NO_MEMORY, "no memory for an answer");
    fprintf(writer->out,
            "{\"generation\":\"%016" PRIx64 "%016" PRIx64 "\",\"trace_id\":\"%016" PRIx64
            "\",\"results\":[",
            origin->generation_high, origin->generation_low, origin->trace_id);
    return STATUS_OK;
}

enum status http_json_end(struct http_json_writer *writer, char **text, struct error *err)
{
    char *bytes = writer_close(writer);
    if (!bytes)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an answer");
    *text = bytes;
    return STATUS_OK;
}

void http_json_put_float(FILE *out, float value)
{
    if (isfinite(value))
        fprintf(out, "%.9g", (double)value);
    else
        fputs("null", out);
}

void http_json_put_key(FILE *out, uint64_t key)
{
    fprintf(out, key > HTTP_JSON_KEY_NUMBER_MAX ? "\"%" PRIu64 "\"" : "%" PRIu64, key);
}

void http_json_put_bool(FILE *out, const char *name, bool value)
{
    fprintf(out, ",\"%s\":%s", name, value ? "true" : "false");
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

char *http_json_error(enum status status, const char *text)
{
    struct http_json_writer writer;
    if (!writer_open(&writer))
        return NULL;
    fputs("{\"error\":", writer.out);
    put_string(writer.out, text);
    fprintf(writer.out, ",\"status\":\"%s\"}\n", status_name(status));
    return writer_close(&writer);
}
