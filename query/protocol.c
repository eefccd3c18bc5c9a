/*
 * protocol.c - see protocol.h. Owns the interpretation of every byte of a frame; knows no sockets,
 * so that the fuzzer, the daemon and the client library run the same code.
 *
 * Structs are copied with memcpy: both ends are little-endian (compiler.h) and the structs have no
 * padding (asserted in the header).
 */
#include "query/protocol.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

/* The wire carries enum status by number; PROTOCOL.md lists them. */
_Static_assert(STATUS_OK == 0 && STATUS_INVALID == 1 && STATUS_CORRUPT == 2 && STATUS_IO == 3 &&
                   STATUS_NO_MEMORY == 4 && STATUS_NOT_FOUND == 5 && STATUS_EXISTS == 6 &&
                   STATUS_UNSUPPORTED == 7 && STATUS_BUSY == 8 && STATUS_TIMEOUT == 9 &&
                   STATUS_CANCELLED == 10 && STATUS_DENIED == 11,
               "status numbers are part of the wire format");

void protocol_header_encode(void *bytes, enum protocol_type type, uint64_t request_id,
                            uint32_t payload_bytes)
{
    const struct protocol_header header = {
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .type = (uint8_t)type,
        .request_id = request_id,
        .payload_bytes = payload_bytes,
    };
    memcpy(bytes, &header, sizeof(header));
}

enum status protocol_header_decode(const void *bytes, struct protocol_header *out,
                                   struct error *err)
{
    struct protocol_header header;
    memcpy(&header, bytes, sizeof(header));
    if (header.magic != PROTOCOL_MAGIC)
        return error_set(err, STATUS_CORRUPT, "frame magic is 0x%08x, wanted 0x%08x", header.magic,
                         PROTOCOL_MAGIC);
    if (header.version != PROTOCOL_VERSION)
        return error_set(err, STATUS_UNSUPPORTED, "protocol version %u, this end speaks %u",
                         header.version, PROTOCOL_VERSION);
    if (header.flags != 0 || header.reserved != 0)
        return error_set(err, STATUS_CORRUPT,
                         "frame flags 0x%04x and reserved 0x%08x, both must be 0", header.flags,
                         header.reserved);
    if (header.payload_bytes > PROTOCOL_FRAME_BYTES_MAX - PROTOCOL_HEADER_BYTES)
        return error_set(err, STATUS_CORRUPT, "frame payload of %u bytes, at most %u fit a frame",
                         header.payload_bytes, PROTOCOL_FRAME_BYTES_MAX - PROTOCOL_HEADER_BYTES);
    *out = header;
    return STATUS_OK;
}

enum status protocol_hello_decode(const void *payload, uint32_t payload_bytes,
                                  struct protocol_hello *out, struct error *err)
{
    struct protocol_hello hello;
    if (payload_bytes != sizeof(hello))
        return error_set(err, STATUS_CORRUPT, "HELLO payload is %u bytes, wanted %zu",
                         payload_bytes, sizeof(hello));
    memcpy(&hello, payload, sizeof(hello));
    if ((hello.features & ~(uint32_t)PROTOCOL_FEATURES) != 0)
        return error_set(err, STATUS_UNSUPPORTED, "HELLO requires features 0x%08x, known are 0x%x",
                         hello.features, PROTOCOL_FEATURES);
    if (hello.reserved != 0)
        return error_set(err, STATUS_CORRUPT, "HELLO reserved field is 0x%08x, wanted 0",
                         hello.reserved);
    *out = hello;
    return STATUS_OK;
}

enum status protocol_stats_decode(const void *payload, uint32_t payload_bytes,
                                  enum protocol_stats_format *out, struct error *err)
{
    struct protocol_stats stats = {.format = PROTOCOL_STATS_JSON};
    if (payload_bytes != 0 && payload_bytes != sizeof(stats))
        return error_set(err, STATUS_CORRUPT, "STATS payload is %u bytes, wanted 0 or %zu",
                         payload_bytes, sizeof(stats));
    if (payload_bytes != 0)
        memcpy(&stats, payload, sizeof(stats));
    if (stats.reserved != 0)
        return error_set(err, STATUS_CORRUPT, "STATS reserved field is 0x%08x, wanted 0",
                         stats.reserved);
    if (stats.format > PROTOCOL_STATS_PROMETHEUS)
        return error_set(err, STATUS_UNSUPPORTED, "STATS format %u is not known to this daemon",
                         stats.format);
    *out = (enum protocol_stats_format)stats.format;
    return STATUS_OK;
}

uint64_t protocol_search_frame_bytes(uint32_t query_count, uint32_t dim, enum element_type type)
{
    return PROTOCOL_HEADER_BYTES + sizeof(struct protocol_search) +
           (uint64_t)query_count * element_vector_bytes(type, dim);
}

uint64_t protocol_answer_frame_bytes(uint32_t query_count, uint32_t k, uint32_t flags)
{
    uint64_t query_bytes = sizeof(struct protocol_result) + k * sizeof(struct protocol_hit);
    if ((flags & PROTOCOL_SEARCH_EXPLAIN) != 0)
        query_bytes += sizeof(struct protocol_explanation);
    uint64_t bytes =
        PROTOCOL_HEADER_BYTES + sizeof(struct protocol_search_ok) + query_count * query_bytes;
    if ((flags & PROTOCOL_SEARCH_EXTENDED) != 0)
        bytes += sizeof(struct protocol_chosen);
    if ((flags & PROTOCOL_SEARCH_ORIGIN) != 0)
        bytes += sizeof(struct protocol_origin);
    return bytes;
}

enum protocol_type protocol_answer_type(uint32_t flags)
{
    return (flags & PROTOCOL_SEARCH_EXPLAIN) != 0 ? PROTOCOL_EXPLAIN_OK : PROTOCOL_SEARCH_OK;
}

/* The request matches the index and its counts are within limits. */
static enum status search_check_shape(const struct protocol_search *search,
                                      const struct protocol_shape *shape, struct error *err)
{
    if (search->element_type != (uint32_t)shape->type)
        return error_set(
            err, STATUS_INVALID, "query elements are of type %u (%s), the index's are %s",
            search->element_type, element_name((enum element_type)search->element_type),
            element_name(shape->type));
    if (search->dim != shape->dim)
        return error_set(err, STATUS_INVALID, "queries have dim %u, the index has dim %u",
                         search->dim, shape->dim);
    if (search->query_count < 1 || search->query_count > shape->queries_max)
        return error_set(err, STATUS_INVALID, "%u queries in a frame, wanted 1..%u",
                         search->query_count, shape->queries_max);
    if (search->k < 1 || search->k > PROTOCOL_K_MAX)
        return error_set(err, STATUS_INVALID, "k is %u, wanted 1..%u", search->k, PROTOCOL_K_MAX);
    return STATUS_OK;
}

/* What is asked beside vectors. Negated comparisons, so that NaN is at fault. */
static enum status extension_check(const struct protocol_extension *extension,
                                   const struct protocol_shape *shape, struct error *err)
{
    float radius = extension->radius;
    if (extension->form > PROTOCOL_FORM_KEYS)
        return error_set(err, STATUS_UNSUPPORTED, "SEARCH form is %u, known are 0 and 1",
                         extension->form);
    if (extension->mode > PROTOCOL_MODE_RADIUS)
        return error_set(err, STATUS_UNSUPPORTED, "SEARCH mode is %u, known are 0 and 1",
                         extension->mode);
    if (extension->pages > 1)
        return error_set(err, STATUS_UNSUPPORTED, "SEARCH pages is %u, known are 0 and 1",
                         extension->pages);
    for (size_t i = 0; i < ARRAY_LENGTH(extension->reserved); i++)
        if (extension->reserved[i] != 0)
            return error_set(err, STATUS_CORRUPT, "SEARCH reserved field is 0x%08x, wanted 0",
                             extension->reserved[i]);
    if (extension->filter_bytes > PROTOCOL_FILTER_BYTES_MAX)
        return error_set(err, STATUS_INVALID, "a filter of %u bytes, at most %d are taken",
                         extension->filter_bytes, PROTOCOL_FILTER_BYTES_MAX);
    if (extension->mode == PROTOCOL_MODE_NEAREST && !(radius == 0.0f))
        return error_set(err, STATUS_INVALID, "radius %g, but what is asked for is the k nearest",
                         (double)radius);
    if (!isfinite(radius))
        return error_set(err, STATUS_INVALID, "radius %g: a finite distance is wanted",
                         (double)radius);
    if (shape->metric == METRIC_L2 && radius < 0.0f)
        return error_set(err, STATUS_INVALID, "radius %g: no squared distance is below 0",
                         (double)radius);
    return STATUS_OK;
}

static enum status recall_target_check(const struct protocol_search *search, struct error *err)
{
    float target = search->recall_target;
    if (target == 0.0f)
        return STATUS_OK;
    if (!(target > 0.0f && target < 1.0f))
        return error_set(err, STATUS_INVALID, "recall target %g: above 0 and below 1 is wanted",
                         (double)target);
    if (search->search_list != 0 || search->search_ratio != 0.0f)
        return error_set(err, STATUS_INVALID,
                         "either a search list or a recall target: given are %u (ratio %g) and %g",
                         search->search_list, (double)search->search_ratio, (double)target);
    return STATUS_OK;
}

uint32_t protocol_search_head_bytes(const void *payload, uint32_t payload_bytes, uint32_t held)
{
    struct protocol_search search;
    size_t head = sizeof(search);
    if (held >= sizeof(search)) {
        memcpy(&search, payload, sizeof(search));
        if ((search.flags & PROTOCOL_SEARCH_EXTENDED) != 0)
            head = sizeof(struct protocol_search_head);
    }
    return (uint32_t)MIN((size_t)payload_bytes, head);
}

size_t protocol_search_encode(void *bytes, const struct protocol_search_head *head)
{
    bool extended = (head->fixed.flags & PROTOCOL_SEARCH_EXTENDED) != 0;
    size_t length = extended ? sizeof(*head) : sizeof(head->fixed);
    memcpy(bytes, head, length);
    return length;
}

struct protocol_body protocol_search_body(const struct protocol_search_head *head)
{
    const struct protocol_search *fixed = &head->fixed;
    enum element_type type = (enum element_type)fixed->element_type;
    uint64_t query_bytes = head->extension.form == PROTOCOL_FORM_KEYS
                               ? sizeof(uint64_t)
                               : (uint64_t)fixed->dim * element_bytes(type);
    struct protocol_body body = {.cursors = fixed->query_count * query_bytes};
    body.filter = body.cursors + (uint64_t)fixed->query_count * head->extension.pages *
                                     sizeof(struct protocol_cursor);
    body.total = body.filter + head->extension.filter_bytes;
    return body;
}

/* Head and body make up the payload exactly, and the answer fits a frame. */
static enum status search_check_lengths(const struct protocol_search_head *head,
                                        uint32_t payload_bytes, struct error *err)
{
    const struct protocol_search *fixed = &head->fixed;
    bool extended = (fixed->flags & PROTOCOL_SEARCH_EXTENDED) != 0;
    uint64_t wanted =
        (extended ? sizeof(*head) : sizeof(*fixed)) + protocol_search_body(head).total;
    if (payload_bytes != wanted)
        return error_set(err, STATUS_CORRUPT,
                         "SEARCH payload is %u bytes, %u queries of dim %u (%s) make it %llu",
                         payload_bytes, fixed->query_count, fixed->dim,
                         element_name((enum element_type)fixed->element_type),
                         (unsigned long long)wanted);
    /* Keys stand for vectors, which take memory as if they had been sent. */
    enum element_type type = (enum element_type)fixed->element_type;
    uint64_t vectors = protocol_search_frame_bytes(fixed->query_count, fixed->dim, type);
    if (head->extension.form == PROTOCOL_FORM_KEYS && vectors > PROTOCOL_FRAME_BYTES_MAX)
        return error_set(err, STATUS_INVALID,
                         "the vectors of %u keys are %llu bytes with a header, a frame holds %u",
                         fixed->query_count, (unsigned long long)vectors, PROTOCOL_FRAME_BYTES_MAX);
    uint64_t answer = protocol_answer_frame_bytes(fixed->query_count, fixed->k, fixed->flags);
    if (answer > PROTOCOL_FRAME_BYTES_MAX)
        return error_set(err, STATUS_INVALID,
                         "%u queries with k %u need an answer of %llu bytes, a frame holds %u",
                         fixed->query_count, fixed->k, (unsigned long long)answer,
                         PROTOCOL_FRAME_BYTES_MAX);
    return STATUS_OK;
}

enum status protocol_search_decode(const void *payload, uint32_t payload_bytes,
                                   const struct protocol_shape *shape,
                                   struct protocol_search_head *out, struct error *err)
{
    struct protocol_search_head head = {0};
    if (payload_bytes < sizeof(head.fixed))
        return error_set(err, STATUS_CORRUPT, "SEARCH payload is %u bytes, wanted at least %zu",
                         payload_bytes, sizeof(head.fixed));
    memcpy(&head.fixed, payload, sizeof(head.fixed));
    if ((head.fixed.flags & ~(uint32_t)PROTOCOL_SEARCH_FLAGS) != 0)
        return error_set(err, STATUS_UNSUPPORTED, "SEARCH flags are 0x%08x, known are 0x%x",
                         head.fixed.flags, PROTOCOL_SEARCH_FLAGS);
    if ((head.fixed.flags & PROTOCOL_SEARCH_EXTENDED) != 0) {
        if (payload_bytes < sizeof(head))
            return error_set(err, STATUS_CORRUPT,
                             "extended SEARCH payload is %u bytes, wanted at least %zu",
                             payload_bytes, sizeof(head));
        memcpy(&head, payload, sizeof(head));
    }
    enum status status = search_check_shape(&head.fixed, shape, err);
    if (status == STATUS_OK)
        status = extension_check(&head.extension, shape, err);
    if (status == STATUS_OK)
        status = search_check_lengths(&head, payload_bytes, err);
    if (status == STATUS_OK)
        status = recall_target_check(&head.fixed, err);
    if (status == STATUS_OK)
        *out = head;
    return status;
}

enum status protocol_cursor_decode(const void *cursors, uint32_t query, struct protocol_cursor *out,
                                   struct error *err)
{
    struct protocol_cursor cursor;
    memcpy(&cursor, (const uint8_t *)cursors + query * sizeof(cursor), sizeof(cursor));
    if (isnan(cursor.distance))
        return error_set(err, STATUS_INVALID, "query %u: its cursor's distance is NaN", query);
    if (cursor.rank == 0 && (cursor.key != 0 || cursor.distance != 0.0f))
        return error_set(err, STATUS_INVALID,
                         "query %u: a cursor of rank 0 is the first page's, without key (%llu) and "
                         "distance (%g)",
                         query, (unsigned long long)cursor.key, (double)cursor.distance);
    *out = cursor;
    return STATUS_OK;
}

size_t protocol_fetch_vectors_at(uint32_t count)
{
    return PROTOCOL_HEADER_BYTES + sizeof(struct protocol_fetch_ok) +
           ((size_t)count + count % 2) * sizeof(uint32_t);
}

uint64_t protocol_fetch_answer_bytes(const struct protocol_fetch *fetch,
                                     const struct protocol_shape *shape)
{
    uint64_t bytes = protocol_fetch_vectors_at(fetch->count);
    if ((fetch->flags & PROTOCOL_FETCH_VECTORS) != 0)
        bytes += (uint64_t)fetch->count * shape->dim * element_bytes(shape->type);
    return bytes;
}

enum status protocol_fetch_decode(const void *payload, uint32_t payload_bytes,
                                  const struct protocol_shape *shape, struct protocol_fetch *out,
                                  struct error *err)
{
    struct protocol_fetch fetch;
    if (payload_bytes < sizeof(fetch))
        return error_set(err, STATUS_CORRUPT, "FETCH payload is %u bytes, wanted at least %zu",
                         payload_bytes, sizeof(fetch));
    memcpy(&fetch, payload, sizeof(fetch));
    if ((fetch.flags & ~(uint32_t)PROTOCOL_FETCH_FLAGS) != 0)
        return error_set(err, STATUS_UNSUPPORTED, "FETCH flags are 0x%08x, known are 0x%x",
                         fetch.flags, PROTOCOL_FETCH_FLAGS);
    uint32_t most = MIN(shape->queries_max, (uint32_t)PROTOCOL_KEYS_MAX);
    if (fetch.count < 1 || fetch.count > most)
        return error_set(err, STATUS_INVALID, "%u keys in a frame, wanted 1..%u", fetch.count,
                         most);
    uint64_t wanted = sizeof(fetch) + fetch.count * sizeof(uint64_t);
    if (payload_bytes != wanted)
        return error_set(err, STATUS_CORRUPT, "FETCH payload is %u bytes, %u keys make it %llu",
                         payload_bytes, fetch.count, (unsigned long long)wanted);
    uint64_t answer = protocol_fetch_answer_bytes(&fetch, shape);
    if (answer > PROTOCOL_FRAME_BYTES_MAX)
        return error_set(err, STATUS_INVALID,
                         "%u vectors need an answer of %llu bytes, a frame holds %u", fetch.count,
                         (unsigned long long)answer, PROTOCOL_FRAME_BYTES_MAX);
    *out = fetch;
    return STATUS_OK;
}

enum status protocol_hello_ok_decode(const void *payload, uint32_t payload_bytes,
                                     struct protocol_hello_ok *out, struct error *err)
{
    struct protocol_hello_ok hello;
    if (payload_bytes != sizeof(hello))
        return error_set(err, STATUS_CORRUPT, "HELLO_OK payload is %u bytes, wanted %zu",
                         payload_bytes, sizeof(hello));
    memcpy(&hello, payload, sizeof(hello));
    if ((hello.features & ~(uint32_t)PROTOCOL_FEATURES) != 0)
        return error_set(err, STATUS_UNSUPPORTED, "the daemon requires features 0x%08x",
                         hello.features);
    if (hello.dim < 1 || hello.dim > VECTOR_DIM_MAX)
        return error_set(err, STATUS_CORRUPT, "HELLO_OK dim is %u, wanted 1..%u", hello.dim,
                         VECTOR_DIM_MAX);
    if (hello.element_type < ELEMENT_U8 || hello.element_type > ELEMENT_F32)
        return error_set(err, STATUS_CORRUPT, "HELLO_OK element type is %u", hello.element_type);
    if (hello.metric < METRIC_L2 || hello.metric > METRIC_COSINE)
        return error_set(err, STATUS_CORRUPT, "HELLO_OK metric is %u", hello.metric);
    if (hello.queries_max < 1 || hello.frame_bytes_max > PROTOCOL_FRAME_BYTES_MAX)
        return error_set(err, STATUS_CORRUPT, "HELLO_OK limits: %u queries, %u bytes a frame",
                         hello.queries_max, hello.frame_bytes_max);
    *out = hello;
    return STATUS_OK;
}

/* What the lengths leave to be checked. */
static enum status answer_check(const struct protocol_answer *answer, struct error *err)
{
    for (uint32_t q = 0; q < answer->query_count; q++)
        if (answer->results[q].hit_count > answer->k || answer->results[q].reserved != 0)
            return error_set(err, STATUS_CORRUPT,
                             "SEARCH_OK query %u has %u hits (k is %u), reserved 0x%08x", q,
                             answer->results[q].hit_count, answer->k, answer->results[q].reserved);
    for (size_t i = 0; i < (size_t)answer->query_count * answer->k; i++)
        if (answer->hits[i].reserved != 0)
            return error_set(err, STATUS_CORRUPT, "SEARCH_OK hit %zu: reserved 0x%08x, wanted 0", i,
                             answer->hits[i].reserved);
    if (answer->chosen &&
        (answer->chosen->reserved != 0 || answer->chosen->filter_plan > PROTOCOL_PLAN_NOTHING))
        return error_set(err, STATUS_CORRUPT,
                         "SEARCH_OK choice: filter plan %u, reserved 0x%llx, wanted 0..3 and 0",
                         answer->chosen->filter_plan, (unsigned long long)answer->chosen->reserved);
    return STATUS_OK;
}

enum status protocol_answer_decode(const void *payload, uint32_t payload_bytes, uint32_t flags,
                                   struct protocol_answer *out, struct error *err)
{
    assert((uintptr_t)payload % _Alignof(struct protocol_hit) == 0);
    struct protocol_search_ok fixed;
    if (payload_bytes < sizeof(fixed))
        return error_set(err, STATUS_CORRUPT, "SEARCH_OK payload is %u bytes, wanted at least %zu",
                         payload_bytes, sizeof(fixed));
    memcpy(&fixed, payload, sizeof(fixed));
    if (fixed.query_count < 1 || fixed.query_count > PROTOCOL_QUERIES_MAX || fixed.k < 1 ||
        fixed.k > PROTOCOL_K_MAX)
        return error_set(err, STATUS_CORRUPT, "SEARCH_OK has %u queries and k %u, wanted 1..%u",
                         fixed.query_count, fixed.k, PROTOCOL_QUERIES_MAX);
    flags &= PROTOCOL_SEARCH_EXPLAIN;
    uint64_t wanted =
        protocol_answer_frame_bytes(fixed.query_count, fixed.k, flags) - PROTOCOL_HEADER_BYTES;
    /* No two of them are of one length. */
    uint64_t more = payload_bytes - wanted;
    bool origin = more == sizeof(struct protocol_origin) ||
                  more == sizeof(struct protocol_origin) + sizeof(struct protocol_chosen);
    bool chosen = more == sizeof(struct protocol_chosen) ||
                  more == sizeof(struct protocol_origin) + sizeof(struct protocol_chosen);
    if (more != 0 && !origin && !chosen)
        return error_set(err, STATUS_CORRUPT,
                         "SEARCH_OK payload is %u bytes, %u queries with k %u make it %llu",
                         payload_bytes, fixed.query_count, fixed.k, (unsigned long long)wanted);

    const uint8_t *at = (const uint8_t *)payload + sizeof(fixed);
    struct protocol_answer answer = {.query_count = fixed.query_count, .k = fixed.k};
    answer.results = (const void *)at;
    at += fixed.query_count * sizeof(struct protocol_result);
    answer.hits = (const void *)at;
    at += (size_t)fixed.query_count * fixed.k * sizeof(struct protocol_hit);
    if ((flags & PROTOCOL_SEARCH_EXPLAIN) != 0) {
        answer.explanations = (const void *)at;
        at += fixed.query_count * sizeof(struct protocol_explanation);
    }
    if (chosen) {
        answer.chosen = (const void *)at;
        at += sizeof(struct protocol_chosen);
    }
    if (origin)
        answer.origin = (const void *)at;
    enum status status = answer_check(&answer, err);
    if (status == STATUS_OK)
        *out = answer;
    return status;
}

enum status protocol_fetch_ok_decode(const void *payload, uint32_t payload_bytes,
                                     struct protocol_fetched *out, struct error *err)
{
    assert((uintptr_t)payload % _Alignof(uint64_t) == 0);
    struct protocol_fetched fetched = {0};
    struct protocol_fetch_ok *fixed = &fetched.fixed;
    if (payload_bytes < sizeof(*fixed))
        return error_set(err, STATUS_CORRUPT, "FETCH_OK payload is %u bytes, wanted at least %zu",
                         payload_bytes, sizeof(*fixed));
    memcpy(fixed, payload, sizeof(*fixed));
    if (fixed->count < 1 || fixed->count > PROTOCOL_KEYS_MAX || fixed->dim < 1 ||
        fixed->dim > VECTOR_DIM_MAX || fixed->element_type < ELEMENT_U8 ||
        fixed->element_type > ELEMENT_F32 || (fixed->flags & ~(uint32_t)PROTOCOL_FETCH_FLAGS) != 0)
        return error_set(err, STATUS_CORRUPT,
                         "FETCH_OK has %u keys, dim %u, element type %u, flags 0x%x", fixed->count,
                         fixed->dim, fixed->element_type, fixed->flags);
    const struct protocol_fetch asked = {fixed->count, fixed->flags};
    const struct protocol_shape shape = {.type = (enum element_type)fixed->element_type,
                                         .dim = fixed->dim};
    uint64_t wanted = protocol_fetch_answer_bytes(&asked, &shape) - PROTOCOL_HEADER_BYTES;
    if (payload_bytes != wanted)
        return error_set(err, STATUS_CORRUPT, "FETCH_OK payload is %u bytes, %u keys make it %llu",
                         payload_bytes, fixed->count, (unsigned long long)wanted);
    const uint8_t *at = payload;
    fetched.found = (const void *)(at + sizeof(*fixed));
    for (uint32_t i = 0; i < fixed->count + fixed->count % 2; i++)
        if (fetched.found[i] > (i < fixed->count ? 1u : 0u))
            return error_set(err, STATUS_CORRUPT, "FETCH_OK key %u: found is %u", i,
                             fetched.found[i]);
    if ((fixed->flags & PROTOCOL_FETCH_VECTORS) != 0)
        fetched.vectors = at + protocol_fetch_vectors_at(fixed->count) - PROTOCOL_HEADER_BYTES;
    *out = fetched;
    return STATUS_OK;
}

enum status protocol_reload_ok_decode(const void *payload, uint32_t payload_bytes,
                                      struct protocol_reload_ok *out, const char **name,
                                      struct error *err)
{
    struct protocol_reload_ok fixed;
    if (payload_bytes < sizeof(fixed))
        return error_set(err, STATUS_CORRUPT, "RELOAD_OK payload is %u bytes, wanted at least %zu",
                         payload_bytes, sizeof(fixed));
    memcpy(&fixed, payload, sizeof(fixed));
    if (fixed.name_bytes > PROTOCOL_NAME_MAX || payload_bytes != sizeof(fixed) + fixed.name_bytes)
        return error_set(err, STATUS_CORRUPT, "RELOAD_OK payload is %u bytes with a name of %u",
                         payload_bytes, fixed.name_bytes);
    *out = fixed;
    *name = (const char *)payload + sizeof(fixed);
    return STATUS_OK;
}

size_t protocol_error_encode(void *bytes, uint64_t request_id, enum status status, const char *text)
{
    size_t text_bytes = strnlen(text, PROTOCOL_ERROR_TEXT_MAX);
    const struct protocol_error fixed = {.status = (uint32_t)status,
                                         .text_bytes = (uint32_t)text_bytes};
    uint8_t *at = bytes;
    protocol_header_encode(at, PROTOCOL_ERROR, request_id, (uint32_t)(sizeof(fixed) + text_bytes));
    memcpy(at + PROTOCOL_HEADER_BYTES, &fixed, sizeof(fixed));
    memcpy(at + PROTOCOL_HEADER_BYTES + sizeof(fixed), text, text_bytes);
    return PROTOCOL_HEADER_BYTES + sizeof(fixed) + text_bytes;
}

enum status protocol_error_decode(const void *payload, uint32_t payload_bytes, enum status *status,
                                  char *text, struct error *err)
{
    struct protocol_error fixed;
    if (payload_bytes < sizeof(fixed))
        return error_set(err, STATUS_CORRUPT, "ERROR payload is %u bytes, wanted at least %zu",
                         payload_bytes, sizeof(fixed));
    memcpy(&fixed, payload, sizeof(fixed));
    if (fixed.text_bytes > PROTOCOL_ERROR_TEXT_MAX ||
        payload_bytes != sizeof(fixed) + fixed.text_bytes)
        return error_set(err, STATUS_CORRUPT, "ERROR payload is %u bytes with a text of %u",
                         payload_bytes, fixed.text_bytes);
    if (fixed.status < STATUS_INVALID || fixed.status > STATUS_DENIED)
        return error_set(err, STATUS_CORRUPT, "ERROR status is %u, wanted %u..%u", fixed.status,
                         STATUS_INVALID, STATUS_DENIED);
    const uint8_t *from = (const uint8_t *)payload + sizeof(fixed);
    for (uint32_t i = 0; i < fixed.text_bytes; i++)
        text[i] = from[i] < 0x20 || from[i] == 0x7f ? ' ' : (char)from[i];
    text[fixed.text_bytes] = '\0';
    *status = (enum status)fixed.status;
    return STATUS_OK;
}
