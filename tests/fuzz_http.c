/*
 * fuzz_http.c - the JSON of POST /search and /fetch, for each element type: what the parsers take
 * keeps the promises of http_search.h and http_fetch.h (AddressSanitizer watches the text's and the
 * vectors' ends).
 */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "query/http_fetch.h"
#include "query/http_search.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void refused(const struct error *err)
{
    assert(err->text[0] != '\0');
    char *answer = http_json_error(err->status, err->text);
    assert(!answer || !strchr(answer, '\r'));
    free(answer);
}

static void fuzz_search(const char *text, size_t size, const struct protocol_shape *shape)
{
    struct http_search search;
    struct error err;
    if (http_search_parse(text, size, shape, &search, &err) != STATUS_OK) {
        refused(&err);
        return;
    }
    assert(search.query_count >= 1 && search.query_count <= shape->queries_max);
    assert(search.k >= 1 && search.k <= PROTOCOL_K_MAX);
    assert(isfinite(search.search_ratio));
    assert(isfinite(search.radius) && isfinite(search.recall_target));
    assert(!search.vectors != !search.keys);
    assert(!search.filter || (search.filter[0] != '\0' && strlen(search.filter) < size));
    uint64_t sum = 0;
    for (uint32_t q = 0; q < search.query_count; q++) {
        sum += search.keys ? search.keys[q] : 0;
        sum += search.after ? search.after[q].key + search.after[q].rank : 0;
    }
    (void)sum;
    assert(!search.vectors ||
           element_all_finite(shape->type, search.vectors, (size_t)search.query_count * shape->dim,
                              NULL) ||
           shape->type == ELEMENT_F16); /* a large float; engine_query_check() refuses it */
    http_search_free(&search);
}

static void fuzz_fetch(const char *text, size_t size, const struct protocol_shape *shape)
{
    struct http_fetch fetch;
    struct error err;
    if (http_fetch_parse(text, size, shape, &fetch, &err) != STATUS_OK) {
        refused(&err);
        return;
    }
    assert(fetch.key_count >= 1 && fetch.key_count <= shape->queries_max);
    assert(fetch.key_count <= PROTOCOL_KEYS_MAX);
    assert(!fetch.vectors || (uint64_t)fetch.key_count * shape->dim <= HTTP_FETCH_ELEMENTS_MAX);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < fetch.key_count; i++)
        sum += fetch.keys[i];
    (void)sum;
    http_fetch_free(&fetch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct protocol_shape shapes[] = {
        {ELEMENT_U8, 2, 1, METRIC_L2},
        {ELEMENT_I8, 1, 3, METRIC_COSINE},
        {ELEMENT_F16, 2, PROTOCOL_QUERIES_MAX, METRIC_IP},
        {ELEMENT_F32, 2, 2, METRIC_L2},
        {ELEMENT_U8, HTTP_FETCH_ELEMENTS_MAX / 2, 4, METRIC_L2}, /* of two, vectors can be had */
    };
    /* Memory of its exact size, without a terminator. */
    char *text = malloc(size ? size : 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        fuzz_search(text, size, &shapes[i]);
        fuzz_fetch(text, size, &shapes[i]);
    }
    free(text);
    return 0;
}
