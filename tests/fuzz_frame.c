/*
 * fuzz_frame.c - the wire decoders, fed whatever a peer may send, as daemon and as client.
 *
 * The input is a stream: frames are taken from it as the server and the client take them. What a
 * decoder accepts must lie within the payload (AddressSanitizer watches: each payload is copied to
 * memory of its exact size) and keep the promises of protocol.h.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "query/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The parts of an accepted body are its whole, and all of them can be read. */
static void fuzz_body(const struct protocol_search_head *head, const uint8_t *bytes,
                      uint32_t length)
{
    struct protocol_body body = protocol_search_body(head);
    assert(body.cursors <= body.filter && body.filter <= body.total && body.total == length);
    struct protocol_cursor cursor;
    struct error err;
    uint64_t sum = 0;
    for (uint32_t q = 0; head->extension.pages && q < head->fixed.query_count; q++)
        if (protocol_cursor_decode(bytes + body.cursors, q, &cursor, &err) == STATUS_OK)
            sum += cursor.rank;
    for (uint64_t i = body.filter; i < body.total; i++)
        sum += bytes[i];
    (void)sum;
}

static void fuzz_search(const uint8_t *payload, uint32_t length)
{
    static const struct protocol_shape shapes[] = {
        {ELEMENT_U8, 1, 1, METRIC_COSINE},
        {ELEMENT_F32, 4, PROTOCOL_QUERIES_MAX, METRIC_L2},
        {ELEMENT_F16, VECTOR_DIM_MAX, PROTOCOL_QUERIES_MAX, METRIC_IP},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        struct protocol_search_head head;
        struct error err;
        uint32_t head_bytes = protocol_search_head_bytes(payload, length, length);
        if (protocol_search_decode(payload, length, &shapes[i], &head, &err) != STATUS_OK)
            continue;
        const struct protocol_search *search = &head.fixed;
        assert(search->query_count >= 1 && search->query_count <= shapes[i].queries_max);
        assert((search->flags & ~(uint32_t)PROTOCOL_SEARCH_FLAGS) == 0);
        assert(protocol_answer_frame_bytes(search->query_count, search->k, search->flags) <=
               PROTOCOL_FRAME_BYTES_MAX);
        uint8_t again[sizeof(head)];
        assert(protocol_search_encode(again, &head) == head_bytes);
        assert(memcmp(again, payload, head_bytes) == 0);
        fuzz_body(&head, payload + head_bytes, length - head_bytes);
    }
}

static void fuzz_fetch(const uint8_t *payload, uint32_t length)
{
    const struct protocol_shape shape = {ELEMENT_F32, VECTOR_DIM_MAX, PROTOCOL_QUERIES_MAX,
                                         METRIC_L2};
    struct protocol_fetch fetch;
    struct error err;
    if (protocol_fetch_decode(payload, length, &shape, &fetch, &err) != STATUS_OK)
        return;
    assert(sizeof(fetch) + fetch.count * sizeof(uint64_t) == length);
    assert(protocol_fetch_answer_bytes(&fetch, &shape) <= PROTOCOL_FRAME_BYTES_MAX);
}

static void fuzz_fetch_ok(const uint8_t *payload, uint32_t length)
{
    struct protocol_fetched fetched;
    struct error err;
    if (protocol_fetch_ok_decode(payload, length, &fetched, &err) != STATUS_OK)
        return;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < fetched.fixed.count; i++)
        sum += fetched.found[i];
    for (const uint8_t *at = fetched.vectors; at && at < payload + length; at++)
        sum += *at;
    (void)sum;
}

static void fuzz_answer(const uint8_t *payload, uint32_t length, uint32_t flags)
{
    struct protocol_answer answer;
    struct error err;
    if (protocol_answer_decode(payload, length, flags, &answer, &err) != STATUS_OK)
        return;
    const uint8_t *end = (const uint8_t *)(answer.hits + (size_t)answer.query_count * answer.k);
    assert((answer.explanations != NULL) == (flags != 0));
    uint64_t sum = 0;
    if (answer.explanations) {
        assert(end == (const uint8_t *)answer.explanations);
        end = (const uint8_t *)(answer.explanations + answer.query_count);
        sum += answer.explanations[answer.query_count - 1].total_ns;
    }
    if (answer.chosen) {
        assert(end == (const uint8_t *)answer.chosen);
        end = (const uint8_t *)(answer.chosen + 1);
        sum += answer.chosen->match_estimate;
    }
    if (answer.origin) {
        assert(end == (const uint8_t *)answer.origin);
        end = (const uint8_t *)(answer.origin + 1);
        sum += answer.origin->trace_id;
    }
    assert(end == payload + length);
    for (uint32_t q = 0; q < answer.query_count; q++)
        for (uint32_t i = 0; i < answer.results[q].hit_count; i++)
            sum += answer.hits[(size_t)q * answer.k + i].key;
    (void)sum;
}

static void fuzz_reload_ok(const uint8_t *payload, uint32_t length)
{
    struct protocol_reload_ok reload;
    const char *name;
    struct error err;
    if (protocol_reload_ok_decode(payload, length, &reload, &name, &err) != STATUS_OK)
        return;
    assert((const uint8_t *)name + reload.name_bytes == payload + length);
}

static void fuzz_error(const uint8_t *payload, uint32_t length)
{
    char text[ERROR_TEXT_BYTES];
    uint8_t again[PROTOCOL_ERROR_FRAME_MAX];
    enum status status = STATUS_OK;
    struct error err;
    if (protocol_error_decode(payload, length, &status, text, &err) != STATUS_OK)
        return;
    assert(!strchr(text, '\n'));
    assert(protocol_error_encode(again, 1, status, text) <= sizeof(again));
}

static void fuzz_payload(uint8_t type, const uint8_t *payload, uint32_t length)
{
    struct protocol_hello hello;
    struct protocol_hello_ok hello_ok;
    enum protocol_stats_format format;
    struct error err;
    enum status status = STATUS_OK;
    switch (type) {
    case PROTOCOL_HELLO:
        status = protocol_hello_decode(payload, length, &hello, &err);
        break;
    case PROTOCOL_HELLO_OK:
        status = protocol_hello_ok_decode(payload, length, &hello_ok, &err);
        break;
    case PROTOCOL_SEARCH:
        fuzz_search(payload, length);
        break;
    case PROTOCOL_SEARCH_OK:
        fuzz_answer(payload, length, 0);
        break;
    case PROTOCOL_EXPLAIN_OK:
        fuzz_answer(payload, length, PROTOCOL_SEARCH_EXPLAIN);
        break;
    case PROTOCOL_STATS:
        status = protocol_stats_decode(payload, length, &format, &err);
        break;
    case PROTOCOL_FETCH:
        fuzz_fetch(payload, length);
        break;
    case PROTOCOL_FETCH_OK:
        fuzz_fetch_ok(payload, length);
        break;
    case PROTOCOL_RELOAD_OK:
        fuzz_reload_ok(payload, length);
        break;
    case PROTOCOL_ERROR:
        fuzz_error(payload, length);
        break;
    default:
        break;
    }
    assert(status == STATUS_OK || err.text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    while (size >= PROTOCOL_HEADER_BYTES) {
        struct protocol_header header;
        struct error err;
        if (protocol_header_decode(data, &header, &err) != STATUS_OK)
            break;
        data += PROTOCOL_HEADER_BYTES;
        size -= PROTOCOL_HEADER_BYTES;
        uint32_t length = header.payload_bytes;
        if (length > size)
            break;
        uint8_t *payload = malloc(length ? length : 1);
        if (!payload)
            break;
        memcpy(payload, data, length);
        fuzz_payload(header.type, payload, length);
        free(payload);
        data += length;
        size -= length;
    }
    return 0;
}
