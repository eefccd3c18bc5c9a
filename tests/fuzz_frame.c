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

static void fuzz_search(const uint8_t *payload, uint32_t length)
{
    static const struct protocol_shape shapes[] = {
        {ELEMENT_U8, 1, 1},
        {ELEMENT_F32, 4, PROTOCOL_QUERIES_MAX},
        {ELEMENT_F16, VECTOR_DIM_MAX, PROTOCOL_QUERIES_MAX},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        struct protocol_search search;
        struct error err;
        if (protocol_search_decode(payload, length, &shapes[i], &search, &err) != STATUS_OK)
            continue;
        assert(search.query_count >= 1 && search.query_count <= shapes[i].queries_max);
        assert(protocol_search_frame_bytes(search.query_count, search.dim, shapes[i].type) ==
               PROTOCOL_HEADER_BYTES + (uint64_t)length);
        assert((search.flags & ~(uint32_t)PROTOCOL_SEARCH_FLAGS) == 0);
        assert(protocol_answer_frame_bytes(search.query_count, search.k, search.flags) <=
               PROTOCOL_FRAME_BYTES_MAX);
    }
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
