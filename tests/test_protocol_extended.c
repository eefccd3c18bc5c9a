/*
 * test_protocol_extended.c - what came to the protocol with the feature extended: SEARCH with an
 * extension, its cursors and what was chosen for it, and FETCH.
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

static const struct protocol_shape l2_shape = {
    .type = ELEMENT_F32, .dim = 4, .queries_max = PROTOCOL_QUERIES_MAX, .metric = METRIC_L2};
static const struct protocol_shape ip_shape = {
    .type = ELEMENT_F32, .dim = 4, .queries_max = PROTOCOL_QUERIES_MAX, .metric = METRIC_IP};

/* Two queries by key, within a radius, paged and filtered: all there is. */
static struct protocol_search_head good_head(void)
{
    return (struct protocol_search_head){
        .fixed = {.query_count = 2,
                  .k = 10,
                  .search_list = 40,
                  .element_type = ELEMENT_F32,
                  .dim = 4,
                  .flags = PROTOCOL_SEARCH_EXTENDED},
        .extension = {.form = PROTOCOL_FORM_KEYS,
                      .mode = PROTOCOL_MODE_RADIUS,
                      .radius = 2.5f,
                      .filter_bytes = 9,
                      .pages = 1},
    };
}
enum { GOOD_PAYLOAD = 104 + 2 * 8 + 2 * 16 + 9 };

static void expect_head(struct protocol_search_head head, const struct protocol_shape *shape,
                        enum status wanted, const char *words)
{
    struct protocol_search_head out, untouched;
    struct error err;
    uint32_t length = 104 + (uint32_t)protocol_search_body(&head).total;
    memset(&untouched, 0xa5, sizeof(untouched));
    out = untouched;
    assert_int_equal(protocol_search_decode(&head, length, shape, &out, &err), wanted);
    if (wanted == STATUS_OK) {
        assert_memory_equal(&out, &head, sizeof(out));
        return;
    }
    if (!strstr(err.text, words))
        fail_msg("\"%s\" does not say \"%s\"", err.text, words);
    assert_memory_equal(&out, &untouched, sizeof(out));
}

static void an_extended_search_survives_a_round_trip(void **state)
{
    (void)state;
    struct protocol_search_head head = good_head();
    uint8_t bytes[sizeof(head)];
    assert_int_equal(protocol_search_encode(bytes, &head), 104);
    assert_memory_equal(bytes, &head, sizeof(head));
    struct protocol_body body = protocol_search_body(&head);
    assert_int_equal(body.queries, 0);
    assert_int_equal(body.cursors, 2 * 8);
    assert_int_equal(body.filter, 2 * 8 + 2 * 16);
    assert_int_equal(104 + body.total, GOOD_PAYLOAD);
    expect_head(head, &l2_shape, STATUS_OK, "");
    head.extension = (struct protocol_extension){0};
    assert_int_equal(protocol_search_body(&head).total, 2 * 4 * 4);
    expect_head(head, &l2_shape, STATUS_OK, "");
    head.fixed.flags = 0;
    assert_int_equal(protocol_search_encode(bytes, &head), 40);
}

static void as_much_of_a_head_is_asked_for_as_its_flags_say(void **state)
{
    (void)state;
    struct protocol_search_head head = good_head();
    assert_int_equal(protocol_search_head_bytes(&head, GOOD_PAYLOAD, 0), 40);
    assert_int_equal(protocol_search_head_bytes(&head, GOOD_PAYLOAD, 39), 40);
    assert_int_equal(protocol_search_head_bytes(&head, GOOD_PAYLOAD, 40), 104);
    assert_int_equal(protocol_search_head_bytes(&head, 70, 40), 70);
    assert_int_equal(protocol_search_head_bytes(&head, 7, 7), 7);
    head.fixed.flags = PROTOCOL_SEARCH_EXPLAIN;
    assert_int_equal(protocol_search_head_bytes(&head, GOOD_PAYLOAD, 40), 40);
}

static void extended_lengths_must_add_up(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {
        40, 103, 104, GOOD_PAYLOAD - 16, GOOD_PAYLOAD - 1, GOOD_PAYLOAD + 1, UINT32_MAX};
    struct protocol_search_head head = good_head(), out;
    for (size_t i = 0; i < ARRAY_LENGTH(lengths); i++)
        assert_int_equal(protocol_search_decode(&head, lengths[i], &l2_shape, &out, NULL),
                         STATUS_CORRUPT);
    head.extension.filter_bytes = PROTOCOL_FILTER_BYTES_MAX;
    expect_head(head, &l2_shape, STATUS_OK, "");
    head.extension.filter_bytes = PROTOCOL_FILTER_BYTES_MAX + 1;
    expect_head(head, &l2_shape, STATUS_INVALID, "a filter of 4097 bytes, at most 4096");
    head.extension.filter_bytes = UINT32_MAX;
    expect_head(head, &l2_shape, STATUS_INVALID, "at most 4096");
}

static void unknown_forms_modes_and_reserved_bytes_are_refused(void **state)
{
    (void)state;
    struct protocol_search_head head = good_head();
    head.extension.form = 2;
    expect_head(head, &l2_shape, STATUS_UNSUPPORTED, "form is 2");
    head = good_head();
    head.extension.mode = 2;
    expect_head(head, &l2_shape, STATUS_UNSUPPORTED, "mode is 2");
    head = good_head();
    head.extension.pages = 2;
    expect_head(head, &l2_shape, STATUS_UNSUPPORTED, "pages is 2");
    for (size_t i = 0; i < ARRAY_LENGTH(head.extension.reserved); i++) {
        head = good_head();
        head.extension.reserved[i] = 1u << i;
        expect_head(head, &l2_shape, STATUS_CORRUPT, "reserved");
    }
}

static void a_radius_is_a_distance_of_the_metric(void **state)
{
    (void)state;
    static const float never[] = {NAN, INFINITY, -INFINITY};
    struct protocol_search_head head = good_head();
    for (size_t i = 0; i < ARRAY_LENGTH(never); i++) {
        head.extension.radius = never[i];
        expect_head(head, &l2_shape, STATUS_INVALID, "a finite distance is wanted");
        expect_head(head, &ip_shape, STATUS_INVALID, "a finite distance is wanted");
    }
    head.extension.radius = -1.0f;
    expect_head(head, &l2_shape, STATUS_INVALID, "radius -1: no squared distance is below 0");
    expect_head(head, &ip_shape, STATUS_OK, "");
    head.extension.radius = 0.0f;
    expect_head(head, &l2_shape, STATUS_OK, "");
    head.extension.mode = PROTOCOL_MODE_NEAREST;
    expect_head(head, &l2_shape, STATUS_OK, "");
    head.extension.radius = 1.0f;
    expect_head(head, &l2_shape, STATUS_INVALID, "the k nearest");
    head.extension.radius = NAN;
    expect_head(head, &l2_shape, STATUS_INVALID, "the k nearest");
}

static void keys_are_no_more_than_their_vectors_fit_a_frame(void **state)
{
    (void)state;
    struct protocol_shape wide = l2_shape;
    struct protocol_search_head head = good_head();
    wide.dim = head.fixed.dim = VECTOR_DIM_MAX;
    head.fixed.query_count = 511; /* of 32 KiB each, and there are headers */
    expect_head(head, &wide, STATUS_OK, "");
    head.fixed.query_count = 512;
    expect_head(head, &wide, STATUS_INVALID, "the vectors of 512 keys");
}

static void a_recall_target_goes_with_an_extension(void **state)
{
    (void)state;
    struct protocol_search_head head = good_head();
    head.fixed.recall_target = 0.9f;
    expect_head(head, &l2_shape, STATUS_INVALID, "either a search list or a recall target");
    head.fixed.search_list = 0;
    expect_head(head, &l2_shape, STATUS_OK, "");
}

static void cursors_are_read_wherever_they_begin(void **state)
{
    (void)state;
    static const struct protocol_cursor cursors[] = {
        {0, 0.0f, 0}, {UINT64_MAX, 1.5f, 10}, {7, INFINITY, 1}, {7, -3.0f, 1}};
    uint8_t bytes[1 + sizeof(cursors)];
    struct protocol_cursor out;
    memcpy(bytes + 1, cursors, sizeof(cursors));
    for (uint32_t q = 0; q < ARRAY_LENGTH(cursors); q++) {
        assert_int_equal(protocol_cursor_decode(bytes + 1, q, &out, NULL), STATUS_OK);
        assert_memory_equal(&out, &cursors[q], sizeof(out));
    }
    static const struct {
        struct protocol_cursor cursor;
        const char *words;
    } bad[] = {
        {{1, 0.0f, 0}, "query 0: a cursor of rank 0"},
        {{0, 2.0f, 0}, "query 0: a cursor of rank 0"},
        {{1, NAN, 5}, "query 0: its cursor's distance is NaN"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct error err;
        assert_int_equal(protocol_cursor_decode(&bad[i].cursor, 0, &out, &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, bad[i].words));
    }
}

/* ---- answers ---- */

/* An answer to one query with k 2, explained, with all that may end it. */
struct full_answer {
    struct protocol_search_ok fixed;
    struct protocol_result result;
    struct protocol_hit hits[2];
    struct protocol_explanation explanation;
    struct protocol_chosen chosen;
    struct protocol_origin origin;
};
_Static_assert(sizeof(struct full_answer) == 8 + 24 + 2 * 16 + 48 + 32 + 24, "no padding");

static struct full_answer good_answer(void)
{
    return (struct full_answer){
        .fixed = {.query_count = 1, .k = 2},
        .result = {.hit_count = 1, .flags = PROTOCOL_RESULT_TRUNCATED | PROTOCOL_RESULT_LAST},
        .hits = {{.key = 99, .distance = 0.5f}},
        .explanation = {.hops = 3},
        .chosen = {.search_list = 60,
                   .search_ratio = 1.1f,
                   .expected_recall = 0.97f,
                   .filter_plan = PROTOCOL_PLAN_SCAN,
                   .match_estimate = 1234567890123},
        .origin = {.trace_id = 5},
    };
}

static void what_was_chosen_comes_before_the_origin(void **state)
{
    (void)state;
    const uint32_t explain = PROTOCOL_SEARCH_EXPLAIN, extended = PROTOCOL_SEARCH_EXTENDED;
    struct full_answer bytes = good_answer();
    struct protocol_answer answer;
    const uint32_t whole = sizeof(bytes);
    assert_int_equal(protocol_answer_frame_bytes(1, 2, explain | extended | PROTOCOL_SEARCH_ORIGIN),
                     24 + whole);
    assert_int_equal(protocol_answer_frame_bytes(1, 2, explain | extended), 24 + whole - 24);
    assert_int_equal(protocol_answer_type(extended), PROTOCOL_SEARCH_OK);
    assert_int_equal(protocol_answer_decode(&bytes, whole, explain, &answer, NULL), STATUS_OK);
    assert_memory_equal(answer.chosen, &bytes.chosen, sizeof(bytes.chosen));
    assert_memory_equal(answer.origin, &bytes.origin, sizeof(bytes.origin));
    assert_int_equal(protocol_answer_decode(&bytes, whole - 24, explain, &answer, NULL), STATUS_OK);
    assert_memory_equal(answer.chosen, &bytes.chosen, sizeof(bytes.chosen));
    assert_null(answer.origin);
    assert_int_equal(protocol_answer_decode(&bytes, whole - 56, explain, &answer, NULL), STATUS_OK);
    assert_null(answer.chosen);
    for (uint32_t length = 0; length < whole; length++)
        if (length != whole - 24 && length != whole - 32 && length != whole - 56)
            assert_int_equal(protocol_answer_decode(&bytes, length, explain, &answer, NULL),
                             STATUS_CORRUPT);
    bytes.chosen.reserved = 1;
    assert_int_equal(protocol_answer_decode(&bytes, whole, explain, &answer, NULL), STATUS_CORRUPT);
    bytes = good_answer();
    bytes.chosen.filter_plan = PROTOCOL_PLAN_NOTHING + 1;
    assert_int_equal(protocol_answer_decode(&bytes, whole, explain, &answer, NULL), STATUS_CORRUPT);
}

/* ---- FETCH ---- */

struct small_fetch {
    struct protocol_fetch fixed;
    uint64_t keys[3];
};

static void fetch_lengths_counts_and_flags_are_checked(void **state)
{
    (void)state;
    struct small_fetch bytes = {.fixed = {3, PROTOCOL_FETCH_VECTORS}, .keys = {1, 2, 3}};
    struct protocol_shape shape = l2_shape;
    struct protocol_fetch out;
    struct error err;
    assert_int_equal(protocol_fetch_decode(&bytes, 32, &shape, &out, NULL), STATUS_OK);
    assert_memory_equal(&out, &bytes.fixed, sizeof(out));
    for (uint32_t length = 0; length < 32; length++)
        assert_int_equal(protocol_fetch_decode(&bytes, length, &shape, &out, NULL), STATUS_CORRUPT);
    assert_int_equal(protocol_fetch_decode(&bytes, 33, &shape, &out, NULL), STATUS_CORRUPT);
    static const uint32_t counts[] = {0, PROTOCOL_KEYS_MAX + 1, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        bytes.fixed.count = counts[i];
        assert_int_equal(protocol_fetch_decode(&bytes, 32, &shape, &out, &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, "wanted 1..1024"));
    }
    shape.queries_max = 2;
    bytes.fixed.count = 3;
    assert_int_equal(protocol_fetch_decode(&bytes, 32, &shape, &out, NULL), STATUS_INVALID);
    bytes.fixed.flags = 2;
    assert_int_equal(protocol_fetch_decode(&bytes, 32, &l2_shape, &out, NULL), STATUS_UNSUPPORTED);
}

static void fetch_whose_answer_outgrows_a_frame_is_refused(void **state)
{
    (void)state;
    const struct protocol_shape wide = {
        .type = ELEMENT_F32, .dim = VECTOR_DIM_MAX, .queries_max = PROTOCOL_QUERIES_MAX};
    struct protocol_fetch fetch = {.count = 1024, .flags = PROTOCOL_FETCH_VECTORS}, out;
    struct error err;
    assert_true(protocol_fetch_answer_bytes(&fetch, &wide) > PROTOCOL_FRAME_BYTES_MAX);
    assert_int_equal(protocol_fetch_decode(&fetch, 8 + 1024 * 8, &wide, &out, &err),
                     STATUS_INVALID);
    assert_non_null(strstr(err.text, "a frame holds"));
    fetch.flags = 0;
    assert_int_equal(protocol_fetch_decode(&fetch, 8 + 1024 * 8, &wide, &out, NULL), STATUS_OK);
}

struct small_fetch_ok {
    struct protocol_fetch_ok fixed;
    uint32_t found[3];
    uint32_t reserved;
    float vectors[3][4];
};
_Static_assert(sizeof(struct small_fetch_ok) == 16 + 16 + 48, "no padding");

static struct small_fetch_ok good_fetch_ok(void)
{
    return (struct small_fetch_ok){.fixed = {3, 4, ELEMENT_F32, PROTOCOL_FETCH_VECTORS},
                                   .found = {1, 0, 1},
                                   .vectors = {{1, 2, 3, 4}, {0}, {5, 6, 7, 8}}};
}

static void fetch_ok_survives_a_round_trip(void **state)
{
    (void)state;
    struct small_fetch_ok bytes = good_fetch_ok();
    struct protocol_fetched fetched;
    const struct protocol_fetch asked = {3, PROTOCOL_FETCH_VECTORS};
    assert_int_equal(protocol_fetch_answer_bytes(&asked, &l2_shape), 24 + sizeof(bytes));
    assert_int_equal(protocol_fetch_vectors_at(3), 24 + offsetof(struct small_fetch_ok, vectors));
    assert_int_equal(protocol_fetch_vectors_at(2), 24 + 16 + 8);
    assert_int_equal(protocol_fetch_ok_decode(&bytes, sizeof(bytes), &fetched, NULL), STATUS_OK);
    assert_int_equal(fetched.found[0] + fetched.found[2], 2);
    assert_memory_equal(fetched.vectors, bytes.vectors, sizeof(bytes.vectors));
    bytes.fixed.flags = 0;
    assert_int_equal(protocol_fetch_ok_decode(&bytes, 32, &fetched, NULL), STATUS_OK);
    assert_null(fetched.vectors);
}

static void fetch_ok_faults_are_refused(void **state)
{
    (void)state;
    struct protocol_fetched fetched;
    struct small_fetch_ok bytes = good_fetch_ok();
    for (uint32_t length = 0; length < sizeof(bytes); length++)
        assert_int_equal(protocol_fetch_ok_decode(&bytes, length, &fetched, NULL), STATUS_CORRUPT);
    bytes.reserved = 1;
    assert_int_equal(protocol_fetch_ok_decode(&bytes, sizeof(bytes), &fetched, NULL),
                     STATUS_CORRUPT);
    bytes = good_fetch_ok(), bytes.found[1] = 2;
    assert_int_equal(protocol_fetch_ok_decode(&bytes, sizeof(bytes), &fetched, NULL),
                     STATUS_CORRUPT);
    bytes = good_fetch_ok(), bytes.fixed.flags = 3;
    assert_int_equal(protocol_fetch_ok_decode(&bytes, sizeof(bytes), &fetched, NULL),
                     STATUS_CORRUPT);
    bytes = good_fetch_ok(), bytes.fixed.count = UINT32_MAX;
    assert_int_equal(protocol_fetch_ok_decode(&bytes, sizeof(bytes), &fetched, NULL),
                     STATUS_CORRUPT);
    bytes = good_fetch_ok(), bytes.fixed.dim = UINT32_MAX;
    assert_int_equal(protocol_fetch_ok_decode(&bytes, sizeof(bytes), &fetched, NULL),
                     STATUS_CORRUPT);
    bytes = good_fetch_ok(), bytes.fixed.element_type = 0;
    assert_int_equal(protocol_fetch_ok_decode(&bytes, sizeof(bytes), &fetched, NULL),
                     STATUS_CORRUPT);
}

static void extended_frames_match_their_golden_files(void **state)
{
    (void)state;
    struct {
        uint8_t search_header[PROTOCOL_HEADER_BYTES];
        struct protocol_search_head head;
        uint64_t keys[2];
        struct protocol_cursor cursors[2];
        char filter[9];
        uint8_t fetch_header[PROTOCOL_HEADER_BYTES];
        uint8_t fetch[sizeof(struct small_fetch)];
        uint8_t fill[7];
    } client = {.head = good_head(),
                .keys = {17, UINT64_MAX},
                .cursors = {{0, 0.0f, 0}, {42, 1.25f, 10}},
                .filter = {'y', 'e', 'a', 'r', ' ', '>', ' ', '9', '9'}};
    const struct small_fetch fetch = {.fixed = {3, PROTOCOL_FETCH_VECTORS}, .keys = {1, 2, 3}};
    struct {
        uint8_t answer_header[PROTOCOL_HEADER_BYTES];
        struct full_answer answer;
        uint8_t fetch_header[PROTOCOL_HEADER_BYTES];
        struct small_fetch_ok fetch;
    } daemon = {.answer = good_answer(), .fetch = good_fetch_ok()};
    protocol_header_encode(client.search_header, PROTOCOL_SEARCH, 1, GOOD_PAYLOAD);
    protocol_header_encode(client.fetch_header, PROTOCOL_FETCH, 2, sizeof(fetch));
    memcpy(client.fetch, &fetch, sizeof(fetch));
    protocol_header_encode(daemon.answer_header, PROTOCOL_EXPLAIN_OK, 1, sizeof(daemon.answer));
    protocol_header_encode(daemon.fetch_header, PROTOCOL_FETCH_OK, 2, sizeof(daemon.fetch));
    golden_file_compare("frame/extended_client.bin", &client, sizeof(client) - sizeof(client.fill));
    golden_file_compare("frame/extended_daemon.bin", &daemon, sizeof(daemon));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_extended_search_survives_a_round_trip),
        cmocka_unit_test(as_much_of_a_head_is_asked_for_as_its_flags_say),
        cmocka_unit_test(extended_lengths_must_add_up),
        cmocka_unit_test(unknown_forms_modes_and_reserved_bytes_are_refused),
        cmocka_unit_test(a_radius_is_a_distance_of_the_metric),
        cmocka_unit_test(keys_are_no_more_than_their_vectors_fit_a_frame),
        cmocka_unit_test(a_recall_target_goes_with_an_extension),
        cmocka_unit_test(cursors_are_read_wherever_they_begin),
        cmocka_unit_test(what_was_chosen_comes_before_the_origin),
        cmocka_unit_test(fetch_lengths_counts_and_flags_are_checked),
        cmocka_unit_test(fetch_whose_answer_outgrows_a_frame_is_refused),
        cmocka_unit_test(fetch_ok_survives_a_round_trip),
        cmocka_unit_test(fetch_ok_faults_are_refused),
        cmocka_unit_test(extended_frames_match_their_golden_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
