/*
 * http_json.h - what the JSON of all POSTs has in common: bounded parsing, members by name, keys;
 * how answers and errors are written. Pure: no state, any thread.
 *
 * A member that a request does not name is refused, so that a misspelt one is not silently ignored;
 * so is one that is given twice. A key above 2^53 - 1 is a string, as numbers of JSON are doubles
 * to many, our parser included.
 */
#ifndef NIGHTJAR_QUERY_HTTP_JSON_H
#define NIGHTJAR_QUERY_HTTP_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

enum {
    /* The parser makes 64 bytes of each value, whose text may be two. Bulk goes by frames. */
    HTTP_JSON_VALUES_MAX = 1 << 20,
};

/* Doubles above it stand for several whole numbers. */
#define HTTP_JSON_KEY_NUMBER_MAX UINT64_C(9007199254740991)

/* ---- requests ---- */

struct cJSON; /* of cJSON.h, which only who looks inside includes */

/* Parses `length` bytes, which need no terminator and are one value. *root is for
 * http_json_free(). STATUS_INVALID: none, nested too deep, or of too many values. */
NODISCARD enum status http_json_parse(const char *text, size_t length, struct cJSON **root,
                                      struct error *err);
void http_json_free(struct cJSON *root);

struct http_json_member {
    const char *name;
    const struct cJSON **slot; /* NULL at first; borrowed from the root */
};
/* Fills the slots of what is given. STATUS_INVALID: the root is no object, or has a member that is
 * unknown or there twice. */
NODISCARD enum status http_json_members(const struct cJSON *root,
                                        const struct http_json_member *known, size_t count,
                                        struct error *err);
/* Of `count` forms, NULL where absent, one is given. `names` lists them: "key nor keys". */
NODISCARD enum status http_json_one_of(const struct cJSON *const *forms, size_t count,
                                       const char *names, struct error *err);

/* An absent item, NULL, leaves *out as it is; another type or value is STATUS_INVALID. */
NODISCARD enum status http_json_u32(const struct cJSON *item, uint32_t *out, struct error *err);
NODISCARD enum status http_json_float(const struct cJSON *item, float *out, struct error *err);
NODISCARD enum status http_json_bool(const struct cJSON *item, bool *out, struct error *err);

/* One item, or those of an array; borrowed from the root. */
struct http_json_list {
    const struct cJSON *first;
    uint32_t count;
};
/* Of the item `one` or, where that is NULL, of the array `many`. */
NODISCARD enum status http_json_list(const struct cJSON *one, const struct cJSON *many,
                                     struct http_json_list *out, struct error *err);

NODISCARD enum status http_json_key(const struct cJSON *item, uint64_t *out, struct error *err);
/* *out: list->count keys, malloc'd, the caller's. STATUS_INVALID or STATUS_NO_MEMORY. */
NODISCARD enum status http_json_keys(const struct http_json_list *list, uint64_t **out,
                                     struct error *err);

/* ---- answers ---- */

/* What an answer says of where it is from. */
struct http_json_origin {
    uint64_t generation_low, generation_high;
    uint64_t trace_id;
};

/* A text in the making. */
struct http_json_writer {
    FILE *out;
    char *bytes;
    size_t length;
};

/* Writes up to the first result. The caller writes results, and the brackets that are open. Once it
 * succeeded, http_json_end() must follow. STATUS_NO_MEMORY. */
NODISCARD enum status http_json_begin(struct http_json_writer *writer,
                                      const struct http_json_origin *origin, struct error *err);
/* *text: malloc'd, the caller's. STATUS_NO_MEMORY. */
NODISCARD enum status http_json_end(struct http_json_writer *writer, char **text,
                                    struct error *err);

/* So that it reads back exactly. Finite vectors may be farther apart than a float can say, and JSON
 * has no infinity: null. */
void http_json_put_float(FILE *out, float value);
/* So that http_json_key() takes it: a string, where a number would not do. */
void http_json_put_key(FILE *out, uint64_t key);
/* ,"NAME":true */
void http_json_put_bool(FILE *out, const char *name, bool value);

/* {"error":"...","status":"busy"}, malloc'd; NULL when out of memory. */
char *http_json_error(enum status status, const char *text);

#endif
