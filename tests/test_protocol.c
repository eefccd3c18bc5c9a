/*
 * test_protocol.c - frames survive a round trip, and every way of breaking one is named.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "query/protocol.h"
#include "tests/golden_file.h"

static const struct protocol_shape f32_shape = {
    .type = ELEMENT_F32, .dim = 96, .queries_max = PROTOCOL_QUERIES_MAX, .metric = METRIC_L2};

static struct protocol_search good_search(void)
{
    return (struct protocol_search){.query_count = 3,
                                    .k = 10,
                                    .search_list = 40,
                                    .beam_width = 4,
                                    .search_ratio = 1.5f,
                                    .timeout_ms = 100,
                                    .element_type = ELEMENT_F32,
                                    .dim = 96};
}

enum { GOOD_SEARCH_PAYLOAD = 40 + 3 * 96 * 4 };

/* Decodes `search` as a payload of `payload_bytes` and expects `wanted` with `words` in the text.
 */
static void expect_search(struct protocol_search search, uint32_t payload_bytes, enum status wanted,
                          const char *words)
{
    struct protocol_search_head out, untouched;
    struct error err;
    memset(&untouched, 0xa5, sizeof(untouched));
    out = untouched;
    assert_int_equal(protocol_search_decode(&search, payload_bytes, &f32_shape, &out, &err),
                     wanted);
    assert_int_equal(err.status, wanted);
    if (!strstr(err.text, words))
        fail_msg("\"%s\" does not say \"%s\"", err.text, words);
    assert_memory_equal(&out, &untouched, sizeof(out));
}

static void header_survives_a_round_trip(void **state)
{
    (void)state;
    uint8_t bytes[PROTOCOL_HEADER_BYTES];
    struct protocol_header header;
    protocol_header_encode(bytes, PROTOCOL_SEARCH, 0x1122334455667788u, 1234);
    assert_int_equal(protocol_header_decode(bytes, &header, NULL), STATUS_OK);
    assert_int_equal(header.type, PROTOCOL_SEARCH);
    assert_int_equal(header.request_id, 0x1122334455667788u);
    assert_int_equal(header.payload_bytes, 1234);
}

static void header_bytes_are_those_of_the_specification(void **state)
{
    (void)state;
    static const uint8_t wanted[PROTOCOL_HEADER_BYTES] = {
        'N', 'J', 'A', 'R', 1, 3, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0xd2, 4, 0, 0, 0, 0, 0, 0};
    uint8_t bytes[PROTOCOL_HEADER_BYTES];
    protocol_header_encode(bytes, PROTOCOL_SEARCH, 0x0102030405060708u, 1234);
    assert_memory_equal(bytes, wanted, sizeof(wanted));
}

static void header_faults_are_named(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        uint8_t value;
        enum status status;
        const char *words;
    } cases[] = {
        {0, 'X', STATUS_CORRUPT, "magic"},       {3, 0, STATUS_CORRUPT, "magic"},
        {4, 0, STATUS_UNSUPPORTED, "version 0"}, {4, 2, STATUS_UNSUPPORTED, "version 2"},
        {6, 1, STATUS_CORRUPT, "flags"},         {7, 0x80, STATUS_CORRUPT, "flags"},
        {19, 1, STATUS_CORRUPT, "payload"},      {19, 0xff, STATUS_CORRUPT, "payload"},
        {20, 1, STATUS_CORRUPT, "reserved"},     {23, 1, STATUS_CORRUPT, "reserved"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint8_t bytes[PROTOCOL_HEADER_BYTES];
        struct protocol_header header;
        struct error err;
        protocol_header_encode(bytes, PROTOCOL_HELLO, 1, 8);
        bytes[cases[i].offset] = cases[i].value;
        assert_int_equal(protocol_header_decode(bytes, &header, &err), cases[i].status);
        assert_non_null(strstr(err.text, cases[i].words));
    }
}

static void header_takes_the_longest_frame_and_not_one_byte_more(void **state)
{
    (void)state;
    uint8_t bytes[PROTOCOL_HEADER_BYTES];
    struct protocol_header header;
    const uint32_t most = PROTOCOL_FRAME_BYTES_MAX - PROTOCOL_HEADER_BYTES;
    protocol_header_encode(bytes, PROTOCOL_SEARCH, 1, most);
    assert_int_equal(protocol_header_decode(bytes, &header, NULL), STATUS_OK);
    protocol_header_encode(bytes, PROTOCOL_SEARCH, 1, most + 1);
    assert_int_equal(protocol_header_decode(bytes, &header, NULL), STATUS_CORRUPT);
}

static void hello_refuses_length_features_and_reserved(void **state)
{
    (void)state;
    struct protocol_hello hello = {0}, out;
    assert_int_equal(protocol_hello_decode(&hello, 8, &out, NULL), STATUS_OK);
    assert_int_equal(protocol_hello_decode(&hello, 0, &out, NULL), STATUS_CORRUPT);
    assert_int_equal(protocol_hello_decode(&hello, 9, &out, NULL), STATUS_CORRUPT);
    hello.features = PROTOCOL_FEATURE_EXPLAIN;
    assert_int_equal(protocol_hello_decode(&hello, 8, &out, NULL), STATUS_OK);
    assert_int_equal(out.features, PROTOCOL_FEATURE_EXPLAIN);
    for (uint32_t bit = 0; bit < 32; bit++) {
        hello.features = PROTOCOL_FEATURE_EXPLAIN | 1u << bit;
        if ((hello.features & ~(uint32_t)PROTOCOL_FEATURES) == 0)
            continue;
        assert_int_equal(protocol_hello_decode(&hello, 8, &out, NULL), STATUS_UNSUPPORTED);
    }
    hello = (struct protocol_hello){.reserved = 1};
    assert_int_equal(protocol_hello_decode(&hello, 8, &out, NULL), STATUS_CORRUPT);
}

static void search_survives_a_round_trip(void **state)
{
    (void)state;
    const struct protocol_extension none = {0};
    struct protocol_search search = good_search();
    struct protocol_search_head out;
    assert_int_equal(protocol_search_decode(&search, GOOD_SEARCH_PAYLOAD, &f32_shape, &out, NULL),
                     STATUS_OK);
    assert_memory_equal(&search, &out.fixed, sizeof(search));
    assert_memory_equal(&none, &out.extension, sizeof(none));
    assert_int_equal(protocol_search_frame_bytes(3, 96, ELEMENT_F32), 24 + GOOD_SEARCH_PAYLOAD);
}

static void search_lengths_must_add_up(void **state)
{
    (void)state;
    expect_search(good_search(), 0, STATUS_CORRUPT, "at least 40");
    expect_search(good_search(), 39, STATUS_CORRUPT, "at least 40");
    expect_search(good_search(), 40, STATUS_CORRUPT, "make it 1192");
    expect_search(good_search(), GOOD_SEARCH_PAYLOAD - 1, STATUS_CORRUPT, "make it 1192");
    expect_search(good_search(), GOOD_SEARCH_PAYLOAD + 1, STATUS_CORRUPT, "make it 1192");
    expect_search(good_search(), UINT32_MAX, STATUS_CORRUPT, "make it 1192");
}

static void search_counts_that_lie_are_refused(void **state)
{
    (void)state;
    static const uint32_t counts[] = {0, PROTOCOL_QUERIES_MAX + 1, 0x80000000u, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        struct protocol_search search = good_search();
        search.query_count = counts[i];
        expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID, "queries in a frame");
        search = good_search();
        search.k = counts[i] == PROTOCOL_QUERIES_MAX + 1 ? PROTOCOL_K_MAX + 1 : counts[i];
        expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID, "k is");
    }
}

static void search_type_and_dim_are_enforced(void **state)
{
    (void)state;
    struct protocol_search search = good_search();
    search.element_type = ELEMENT_U8;
    expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID, "u8");
    search.element_type = 0xffffffffu;
    expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID, "unknown");
    search = good_search();
    search.dim = 128;
    expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID, "dim 128, the index has dim 96");
}

static void search_recall_target_is_a_share_and_stands_alone(void **state)
{
    (void)state;
    static const float targets[] = {1.5f, 1.0f, -1.0f, NAN, INFINITY};
    struct protocol_search search = good_search();
    struct protocol_search_head out;
    search.search_list = 0;
    search.search_ratio = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(targets); i++) {
        search.recall_target = targets[i];
        expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID,
                      ": above 0 and below 1 is wanted");
    }
    search.recall_target = 1.5f;
    expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID, "recall target 1.5: ");
    search.recall_target = 0.95f;
    assert_int_equal(protocol_search_decode(&search, GOOD_SEARCH_PAYLOAD, &f32_shape, &out, NULL),
                     STATUS_OK);
    assert_true(out.fixed.recall_target == 0.95f);
    search.search_list = 40;
    expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID,
                  "either a search list or a recall target");
    search.search_list = 0;
    search.search_ratio = 1.1f;
    expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_INVALID,
                  "either a search list or a recall target");
}

static void search_flags_beyond_those_known_are_unsupported(void **state)
{
    (void)state;
    struct protocol_search search = good_search();
    struct protocol_search_head out;
    search.flags = PROTOCOL_SEARCH_EXPLAIN;
    assert_int_equal(protocol_search_decode(&search, GOOD_SEARCH_PAYLOAD, &f32_shape, &out, NULL),
                     STATUS_OK);
    assert_int_equal(out.fixed.flags, PROTOCOL_SEARCH_EXPLAIN);
    for (uint32_t bit = 0; bit < 32; bit++) {
        search.flags = PROTOCOL_SEARCH_EXPLAIN | 1u << bit;
        if ((search.flags & ~(uint32_t)PROTOCOL_SEARCH_FLAGS) == 0)
            continue;
        expect_search(search, GOOD_SEARCH_PAYLOAD, STATUS_UNSUPPORTED, "flags");
    }
}

static void search_whose_answer_outgrows_a_frame_is_refused(void **state)
{
    (void)state;
    struct protocol_search search = good_search();
    search.query_count = 1024;
    search.k = 1024;
    expect_search(search, 40 + 1024 * 96 * 4, STATUS_INVALID, "answer of");
}

static void search_whose_explanations_outgrow_a_frame_is_refused(void **state)
{
    (void)state;
    struct protocol_search search = good_search();
    struct protocol_search_head out;
    search.query_count = 1024;
    search.k = 1021; /* 16 a hit: 1024 * (1021 * 16 + 24) fit, with 48 more each they do not */
    assert_int_equal(protocol_search_decode(&search, 40 + 1024 * 96 * 4, &f32_shape, &out, NULL),
                     STATUS_OK);
    search.flags = PROTOCOL_SEARCH_EXPLAIN;
    expect_search(search, 40 + 1024 * 96 * 4, STATUS_INVALID, "answer of");
}

static void hello_ok_out_of_range_is_refused(void **state)
{
    (void)state;
    const struct protocol_hello_ok good = {.vector_count = 5,
                                           .dim = 3,
                                           .element_type = ELEMENT_U8,
                                           .metric = METRIC_L2,
                                           .frame_bytes_max = PROTOCOL_FRAME_BYTES_MAX,
                                           .queries_max = 10};
    struct protocol_hello_ok out, bad = good;
    assert_int_equal(protocol_hello_ok_decode(&good, 64, &out, NULL), STATUS_OK);
    assert_memory_equal(&good, &out, sizeof(out));
    assert_int_equal(protocol_hello_ok_decode(&good, 63, &out, NULL), STATUS_CORRUPT);
    bad.dim = 0;
    assert_int_equal(protocol_hello_ok_decode(&bad, 64, &out, NULL), STATUS_CORRUPT);
    bad = good, bad.dim = VECTOR_DIM_MAX + 1;
    assert_int_equal(protocol_hello_ok_decode(&bad, 64, &out, NULL), STATUS_CORRUPT);
    bad = good, bad.element_type = ELEMENT_I32;
    assert_int_equal(protocol_hello_ok_decode(&bad, 64, &out, NULL), STATUS_CORRUPT);
    bad = good, bad.metric = 0;
    assert_int_equal(protocol_hello_ok_decode(&bad, 64, &out, NULL), STATUS_CORRUPT);
    bad = good, bad.queries_max = 0;
    assert_int_equal(protocol_hello_ok_decode(&bad, 64, &out, NULL), STATUS_CORRUPT);
    bad = good, bad.frame_bytes_max = UINT32_MAX;
    assert_int_equal(protocol_hello_ok_decode(&bad, 64, &out, NULL), STATUS_CORRUPT);
    bad = good, bad.features = PROTOCOL_FEATURES + 1;
    assert_int_equal(protocol_hello_ok_decode(&bad, 64, &out, NULL), STATUS_UNSUPPORTED);
}

/* A SEARCH_OK payload of 2 queries, k 3. */
struct small_answer {
    struct protocol_search_ok fixed;
    struct protocol_result results[2];
    struct protocol_hit hits[6];
};
_Static_assert(sizeof(struct small_answer) == 8 + 2 * 24 + 6 * 16, "no padding");

static struct small_answer good_answer(void)
{
    struct small_answer answer = {.fixed = {.query_count = 2, .k = 3}};
    answer.results[0] = (struct protocol_result){.hit_count = 3, .reads = 7};
    answer.results[1] = (struct protocol_result){.hit_count = 1, .flags = 1};
    answer.hits[3] = (struct protocol_hit){.key = UINT64_MAX, .distance = 2.5f};
    return answer;
}

static void search_ok_survives_a_round_trip(void **state)
{
    (void)state;
    struct small_answer bytes = good_answer();
    struct protocol_answer answer;
    assert_int_equal(protocol_answer_frame_bytes(2, 3, 0), 24 + sizeof(bytes));
    assert_int_equal(protocol_answer_decode(&bytes, sizeof(bytes), 0, &answer, NULL), STATUS_OK);
    assert_int_equal(answer.query_count, 2);
    assert_int_equal(answer.k, 3);
    assert_int_equal(answer.results[0].reads, 7);
    assert_int_equal(answer.results[1].flags, 1);
    assert_true(answer.hits[3].key == UINT64_MAX);
    assert_true(answer.hits[3].distance == 2.5f);
    assert_null(answer.explanations);
    assert_int_equal(protocol_answer_type(0), PROTOCOL_SEARCH_OK);
}

/* An EXPLAIN_OK payload of 2 queries, k 3. */
struct explained_answer {
    struct small_answer plain;
    struct protocol_explanation explanations[2];
};
_Static_assert(sizeof(struct explained_answer) == 8 + 2 * 72 + 6 * 16, "no padding");

static struct explained_answer good_explained_answer(void)
{
    struct explained_answer answer = {.plain = good_answer()};
    answer.explanations[0] = (struct protocol_explanation){.hops = 31,
                                                           .exact_distances = 140,
                                                           .code_distances = 900,
                                                           .read_bytes = 7 * 4096,
                                                           .queue_ns = 1000,
                                                           .cpu_ns = 50000,
                                                           .total_ns = 600000};
    answer.explanations[1] =
        (struct protocol_explanation){.failed_blocks = 1, .total_ns = UINT64_MAX};
    return answer;
}

static void explain_ok_survives_a_round_trip(void **state)
{
    (void)state;
    const uint32_t flags = PROTOCOL_SEARCH_EXPLAIN;
    struct explained_answer bytes = good_explained_answer();
    struct protocol_answer answer;
    assert_int_equal(protocol_answer_type(flags), PROTOCOL_EXPLAIN_OK);
    assert_int_equal(protocol_answer_frame_bytes(2, 3, flags), 24 + sizeof(bytes));
    assert_int_equal(protocol_answer_decode(&bytes, sizeof(bytes), flags, &answer, NULL),
                     STATUS_OK);
    assert_int_equal(answer.results[0].reads, 7);
    assert_true(answer.hits[3].distance == 2.5f);
    assert_memory_equal(answer.explanations, bytes.explanations, sizeof(bytes.explanations));
}

static void explain_ok_is_no_search_ok_and_neither_may_be_cut(void **state)
{
    (void)state;
    struct explained_answer bytes = good_explained_answer();
    struct protocol_answer answer;
    const uint32_t whole = sizeof(bytes), plain = sizeof(bytes.plain);
    assert_int_equal(protocol_answer_decode(&bytes, whole, 0, &answer, NULL), STATUS_CORRUPT);
    assert_int_equal(protocol_answer_decode(&bytes, plain, PROTOCOL_SEARCH_EXPLAIN, &answer, NULL),
                     STATUS_CORRUPT);
    for (uint32_t length = 0; length < whole; length++)
        assert_int_equal(
            protocol_answer_decode(&bytes, length, PROTOCOL_SEARCH_EXPLAIN, &answer, NULL),
            STATUS_CORRUPT);
}

static const struct protocol_origin good_origin = {
    .generation_low = 0x1111111122222222u,
    .generation_high = 0x3333333344444444u,
    .trace_id = 0x0000000700000003u,
};

static void an_origin_may_end_either_answer(void **state)
{
    (void)state;
    struct {
        struct small_answer plain;
        struct protocol_origin origin;
    } named = {good_answer(), good_origin};
    struct {
        struct explained_answer explained;
        struct protocol_origin origin;
    } both = {good_explained_answer(), good_origin};
    struct protocol_answer answer;
    const uint32_t origin = PROTOCOL_SEARCH_ORIGIN, explain = PROTOCOL_SEARCH_EXPLAIN;
    assert_int_equal(protocol_answer_type(origin), PROTOCOL_SEARCH_OK);
    assert_int_equal(protocol_answer_type(origin | explain), PROTOCOL_EXPLAIN_OK);
    assert_int_equal(protocol_answer_frame_bytes(2, 3, origin), 24 + sizeof(named));
    assert_int_equal(protocol_answer_frame_bytes(2, 3, origin | explain), 24 + sizeof(both));
    assert_int_equal(protocol_answer_decode(&named, sizeof(named), 0, &answer, NULL), STATUS_OK);
    assert_memory_equal(answer.origin, &good_origin, sizeof(good_origin));
    assert_null(answer.explanations);
    assert_int_equal(protocol_answer_decode(&both, sizeof(both), explain, &answer, NULL),
                     STATUS_OK);
    assert_memory_equal(answer.origin, &good_origin, sizeof(good_origin));
    assert_memory_equal(answer.explanations, both.explained.explanations,
                        sizeof(both.explained.explanations));
    assert_int_equal(protocol_answer_decode(&named, sizeof(named.plain), 0, &answer, NULL),
                     STATUS_OK);
    assert_null(answer.origin);
    for (uint32_t cut = 1; cut < sizeof(good_origin); cut++)
        assert_int_equal(protocol_answer_decode(&named, sizeof(named) - cut, 0, &answer, NULL),
                         STATUS_CORRUPT);
}

static void stats_formats_are_told_apart(void **state)
{
    (void)state;
    struct protocol_stats stats = {.format = PROTOCOL_STATS_PROMETHEUS};
    enum protocol_stats_format format = PROTOCOL_STATS_PROMETHEUS;
    assert_int_equal(protocol_stats_decode(&stats, 0, &format, NULL), STATUS_OK);
    assert_int_equal(format, PROTOCOL_STATS_JSON);
    assert_int_equal(protocol_stats_decode(&stats, 8, &format, NULL), STATUS_OK);
    assert_int_equal(format, PROTOCOL_STATS_PROMETHEUS);
    assert_int_equal(protocol_stats_decode(&stats, 4, &format, NULL), STATUS_CORRUPT);
    assert_int_equal(protocol_stats_decode(&stats, 9, &format, NULL), STATUS_CORRUPT);
    stats.format = PROTOCOL_STATS_PROMETHEUS + 1;
    assert_int_equal(protocol_stats_decode(&stats, 8, &format, NULL), STATUS_UNSUPPORTED);
    stats = (struct protocol_stats){.reserved = 1};
    assert_int_equal(protocol_stats_decode(&stats, 8, &format, NULL), STATUS_CORRUPT);
}

struct small_reload_ok {
    struct protocol_reload_ok fixed;
    char name[5];
};
static const struct small_reload_ok good_reload_ok = {
    .fixed = {.generation_low = 1, .generation_high = 2, .swapped = 1, .name_bytes = 5},
    .name = {'g', 'e', 'n', '-', '7'},
};
enum { RELOAD_OK_BYTES = offsetof(struct small_reload_ok, name) + 5 };

static void reload_ok_names_what_is_live(void **state)
{
    (void)state;
    struct small_reload_ok bytes = good_reload_ok;
    struct protocol_reload_ok out;
    const char *name = NULL;
    assert_int_equal(protocol_reload_ok_decode(&bytes, RELOAD_OK_BYTES, &out, &name, NULL),
                     STATUS_OK);
    assert_memory_equal(name, "gen-7", 5);
    assert_memory_equal(&out, &bytes.fixed, sizeof(out));
    for (uint32_t length = 0; length < RELOAD_OK_BYTES; length++)
        assert_int_equal(protocol_reload_ok_decode(&bytes, length, &out, &name, NULL),
                         STATUS_CORRUPT);
    bytes.fixed.name_bytes = UINT32_MAX;
    assert_int_equal(protocol_reload_ok_decode(&bytes, RELOAD_OK_BYTES, &out, &name, NULL),
                     STATUS_CORRUPT);
}

static void frames_of_origins_and_reloads_match_their_golden_files(void **state)
{
    (void)state;
    struct {
        uint8_t stats_header[PROTOCOL_HEADER_BYTES];
        struct protocol_stats stats;
        uint8_t reload_header[PROTOCOL_HEADER_BYTES];
    } client = {.stats = {.format = PROTOCOL_STATS_PROMETHEUS}};
    struct {
        uint8_t answer_header[PROTOCOL_HEADER_BYTES];
        struct small_answer answer;
        struct protocol_origin origin;
        uint8_t reload_header[PROTOCOL_HEADER_BYTES];
        uint8_t reload[RELOAD_OK_BYTES];
        uint8_t fill[3];
    } daemon = {.answer = good_answer(), .origin = good_origin};
    protocol_header_encode(client.stats_header, PROTOCOL_STATS, 1, sizeof(client.stats));
    protocol_header_encode(client.reload_header, PROTOCOL_RELOAD, 2, 0);
    protocol_header_encode(daemon.answer_header, PROTOCOL_SEARCH_OK, 3,
                           sizeof(daemon.answer) + sizeof(daemon.origin));
    protocol_header_encode(daemon.reload_header, PROTOCOL_RELOAD_OK, 2, RELOAD_OK_BYTES);
    memcpy(daemon.reload, &good_reload_ok, RELOAD_OK_BYTES);
    golden_file_compare("frame/reload_client.bin", &client, sizeof(client));
    golden_file_compare("frame/reload_daemon.bin", &daemon, sizeof(daemon) - sizeof(daemon.fill));
}

static void explain_frames_match_their_golden_files(void **state)
{
    (void)state;
    struct {
        uint8_t hello_header[PROTOCOL_HEADER_BYTES];
        struct protocol_hello hello;
        uint8_t search_header[PROTOCOL_HEADER_BYTES];
        struct protocol_search search;
        float vector[4];
    } client = {.hello = {.features = PROTOCOL_FEATURE_EXPLAIN},
                .search = good_search(),
                .vector = {1, 2, 3, 4}};
    struct {
        uint8_t header[PROTOCOL_HEADER_BYTES];
        struct explained_answer answer;
    } daemon = {.answer = good_explained_answer()};
    client.search.query_count = 1;
    client.search.dim = 4;
    client.search.flags = PROTOCOL_SEARCH_EXPLAIN;
    protocol_header_encode(client.hello_header, PROTOCOL_HELLO, 1, sizeof(client.hello));
    protocol_header_encode(client.search_header, PROTOCOL_SEARCH, 2,
                           sizeof(client.search) + sizeof(client.vector));
    protocol_header_encode(daemon.header, PROTOCOL_EXPLAIN_OK, 2, sizeof(daemon.answer));
    golden_file_compare("frame/explain_client.bin", &client, sizeof(client));
    golden_file_compare("frame/explain_daemon.bin", &daemon, sizeof(daemon));
}

static void search_ok_faults_are_refused(void **state)
{
    (void)state;
    struct small_answer bytes = good_answer();
    struct protocol_answer answer;
    assert_int_equal(protocol_answer_decode(&bytes, 7, 0, &answer, NULL), STATUS_CORRUPT);
    assert_int_equal(protocol_answer_decode(&bytes, 8, 0, &answer, NULL), STATUS_CORRUPT);
    assert_int_equal(protocol_answer_decode(&bytes, sizeof(bytes) - 1, 0, &answer, NULL),
                     STATUS_CORRUPT);
    bytes.results[1].hit_count = 4;
    assert_int_equal(protocol_answer_decode(&bytes, sizeof(bytes), 0, &answer, NULL),
                     STATUS_CORRUPT);
    bytes = good_answer();
    bytes.results[0].reserved = 1;
    assert_int_equal(protocol_answer_decode(&bytes, sizeof(bytes), 0, &answer, NULL),
                     STATUS_CORRUPT);
    bytes = good_answer();
    bytes.hits[5].reserved = 1;
    assert_int_equal(protocol_answer_decode(&bytes, sizeof(bytes), 0, &answer, NULL),
                     STATUS_CORRUPT);
    bytes = good_answer();
    bytes.fixed.query_count = 0;
    assert_int_equal(protocol_answer_decode(&bytes, sizeof(bytes), 0, &answer, NULL),
                     STATUS_CORRUPT);
    bytes.fixed.query_count = UINT32_MAX;
    bytes.fixed.k = UINT32_MAX;
    assert_int_equal(protocol_answer_decode(&bytes, sizeof(bytes), 0, &answer, NULL),
                     STATUS_CORRUPT);
}

static void error_survives_a_round_trip(void **state)
{
    (void)state;
    uint8_t bytes[PROTOCOL_ERROR_FRAME_MAX];
    struct protocol_header header;
    enum status status = STATUS_OK;
    char text[ERROR_TEXT_BYTES];
    size_t length = protocol_error_encode(bytes, 77, STATUS_BUSY, "queue is full");
    assert_int_equal(length, 24 + 8 + strlen("queue is full"));
    assert_int_equal(protocol_header_decode(bytes, &header, NULL), STATUS_OK);
    assert_int_equal(header.type, PROTOCOL_ERROR);
    assert_int_equal(header.request_id, 77);
    assert_int_equal(protocol_error_decode(bytes + 24, header.payload_bytes, &status, text, NULL),
                     STATUS_OK);
    assert_int_equal(status, STATUS_BUSY);
    assert_string_equal(text, "queue is full");
}

static void error_text_is_cut_and_stays_one_line(void **state)
{
    (void)state;
    uint8_t bytes[PROTOCOL_ERROR_FRAME_MAX];
    char longest[2 * PROTOCOL_ERROR_TEXT_MAX];
    char text[ERROR_TEXT_BYTES];
    enum status status = STATUS_OK;
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    longest[3] = '\n';
    size_t length = protocol_error_encode(bytes, 1, STATUS_IO, longest);
    assert_int_equal(length, sizeof(bytes));
    assert_int_equal(
        protocol_error_decode(bytes + 24, (uint32_t)(length - 24), &status, text, NULL), STATUS_OK);
    assert_int_equal(strlen(text), PROTOCOL_ERROR_TEXT_MAX);
    assert_int_equal(text[3], ' ');
}

static void error_faults_are_refused(void **state)
{
    (void)state;
    struct {
        struct protocol_error fixed;
        char text[1024];
    } bytes = {.fixed = {.status = STATUS_BUSY, .text_bytes = 4}};
    enum status status = STATUS_OK;
    char text[ERROR_TEXT_BYTES];
    assert_int_equal(protocol_error_decode(&bytes, 12, &status, text, NULL), STATUS_OK);
    assert_int_equal(protocol_error_decode(&bytes, 7, &status, text, NULL), STATUS_CORRUPT);
    assert_int_equal(protocol_error_decode(&bytes, 11, &status, text, NULL), STATUS_CORRUPT);
    assert_int_equal(protocol_error_decode(&bytes, 13, &status, text, NULL), STATUS_CORRUPT);
    bytes.fixed.text_bytes = PROTOCOL_ERROR_TEXT_MAX + 1;
    assert_int_equal(
        protocol_error_decode(&bytes, 8 + PROTOCOL_ERROR_TEXT_MAX + 1, &status, text, NULL),
        STATUS_CORRUPT);
    bytes.fixed = (struct protocol_error){.status = STATUS_OK};
    assert_int_equal(protocol_error_decode(&bytes, 8, &status, text, NULL), STATUS_CORRUPT);
    bytes.fixed.status = STATUS_DENIED + 1;
    assert_int_equal(protocol_error_decode(&bytes, 8, &status, text, NULL), STATUS_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_survives_a_round_trip),
        cmocka_unit_test(header_bytes_are_those_of_the_specification),
        cmocka_unit_test(header_faults_are_named),
        cmocka_unit_test(header_takes_the_longest_frame_and_not_one_byte_more),
        cmocka_unit_test(hello_refuses_length_features_and_reserved),
        cmocka_unit_test(search_survives_a_round_trip),
        cmocka_unit_test(search_lengths_must_add_up),
        cmocka_unit_test(search_counts_that_lie_are_refused),
        cmocka_unit_test(search_type_and_dim_are_enforced),
        cmocka_unit_test(search_recall_target_is_a_share_and_stands_alone),
        cmocka_unit_test(search_flags_beyond_those_known_are_unsupported),
        cmocka_unit_test(search_whose_answer_outgrows_a_frame_is_refused),
        cmocka_unit_test(search_whose_explanations_outgrow_a_frame_is_refused),
        cmocka_unit_test(hello_ok_out_of_range_is_refused),
        cmocka_unit_test(search_ok_survives_a_round_trip),
        cmocka_unit_test(search_ok_faults_are_refused),
        cmocka_unit_test(explain_ok_survives_a_round_trip),
        cmocka_unit_test(explain_ok_is_no_search_ok_and_neither_may_be_cut),
        cmocka_unit_test(explain_frames_match_their_golden_files),
        cmocka_unit_test(an_origin_may_end_either_answer),
        cmocka_unit_test(stats_formats_are_told_apart),
        cmocka_unit_test(reload_ok_names_what_is_live),
        cmocka_unit_test(frames_of_origins_and_reloads_match_their_golden_files),
        cmocka_unit_test(error_survives_a_round_trip),
        cmocka_unit_test(error_text_is_cut_and_stays_one_line),
        cmocka_unit_test(error_faults_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
