/*
 * test_server_questions.c - filters, radii, pages, queries by key, recall targets and FETCH, end to
 * end: a daemon over a generation with attributes, asked by the client library and compared with
 * what its vectors say. QUERIES=1000000 makes the soak at the end as long as that.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/compiler.h"
#include "common/log.h"
#include "common/memory.h"
#include "tests/service.h"

/* A sanitizer keeps what was freed: then memory grows, and leaks are its own to find. */
enum {
    K = 10,
    LIST = SERVICE_VECTORS, /* all of them: answers are exact */
    BATCH = 64,
    DAMAGE_BYTES = 4096, /* a block, or a page of keys.bin */
    SOAK_QUERIES = 100000,
    SOAK_GROWTH_MAX = 16 << 20, /* bytes that memory may grow by over a soak */
};

struct fixture {
    struct service_data *data;
    struct service *service; /* of the running test */
    struct client *client;   /* likewise */
    float queries[BATCH][SERVICE_DIM];
};

static struct fixture fixture;

static int group_setup(void **state)
{
    fixture.data = service_data_create();
    service_attributes_make(fixture.data);
    for (uint32_t q = 0; q < BATCH; q++)
        service_query(q, fixture.queries[q]);
    log_set_level(LOG_LEVEL_NONE); /* refusals are wanted here */
    *state = &fixture;
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    service_data_destroy(fixture.data);
    return 0;
}

static int test_teardown(void **state)
{
    struct fixture *f = *state;
    client_close(f->client);
    if (f->service)
        service_destroy(f->service);
    f->client = NULL;
    f->service = NULL;
    return 0;
}

static void start(struct fixture *f, struct service_options options)
{
    struct error err;
    f->service = service_start(f->data, &options);
    f->client = service_connect(f->service);
    if (client_require(f->client, CLIENT_EXTENDED, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

/* ---- what is true ---- */

typedef bool (*matches)(uint32_t row);

static bool any(uint32_t row)
{
    (void)row;
    return true;
}

static bool recent_english(uint32_t row)
{
    return service_year(row) >= 2010 && strcmp(service_lang(row), "en") == 0;
}
static const char recent_english_filter[] = "year >= 2010 and lang = \"en\"";

static float distance(const struct fixture *f, const float *query, uint32_t row)
{
    float sum = 0;
    for (uint32_t d = 0; d < SERVICE_DIM; d++)
        sum += (query[d] - f->data->vectors[row][d]) * (query[d] - f->data->vectors[row][d]);
    return sum;
}

/* The rows that match, but `without`, by distance; the number of them. */
static uint32_t nearest(const struct fixture *f, const float *query, matches match,
                        uint32_t without, uint32_t rows[SERVICE_VECTORS])
{
    uint32_t count = 0;
    for (uint32_t row = 0; row < SERVICE_VECTORS; row++) {
        if (!match(row) || row == without)
            continue;
        uint32_t at = count++;
        float here = distance(f, query, row);
        for (; at > 0 && distance(f, query, rows[at - 1]) > here; at--)
            rows[at] = rows[at - 1];
        rows[at] = row;
    }
    return count;
}

/* ---- asking ---- */

static struct client_search usual(const struct fixture *f, uint32_t count)
{
    return (struct client_search){
        .vectors = f->queries, .query_count = count, .k = K, .search_list = LIST};
}

static struct client_answer ask(struct fixture *f, const struct client_search *search)
{
    struct client_answer answer;
    struct error err;
    if (client_search(f->client, search, &answer, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return answer;
}

static void expect_refusal(struct fixture *f, const struct client_search *search,
                           enum status wanted, const char *words)
{
    struct client_answer answer;
    struct error err;
    enum status status = client_search(f->client, search, &answer, &err);
    if (status != wanted || !strstr(err.text, words))
        fail_msg("got %s \"%s\", wanted %s \"%s\"", status_name(status), err.text,
                 status_name(wanted), words);
}

static void expect_rows(const struct client_answer *answer, uint32_t q, const uint32_t *rows,
                        uint32_t count)
{
    assert_int_equal(answer->results[q].hit_count, count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(answer->hits[(size_t)q * answer->k + i].key, rows[i]);
}

/* ---- filters ---- */

static void hits_match_the_filter_and_are_the_nearest_that_do(void **state)
{
    struct fixture *f = *state;
    uint32_t rows[SERVICE_VECTORS];
    start(f, (struct service_options){0});
    struct client_search search = usual(f, BATCH);
    search.filter = recent_english_filter;
    const struct client_answer answer = ask(f, &search);
    uint32_t count = 0;
    for (uint32_t q = 0; q < BATCH; q++) {
        count = nearest(f, f->queries[q], recent_english, UINT32_MAX, rows);
        expect_rows(&answer, q, rows, K);
    }
    assert_int_equal(answer.chosen.match_estimate, count);
    assert_int_equal(answer.chosen.search_list, LIST);
    assert_true(answer.chosen.expected_recall == 0);
    assert_int_not_equal(answer.chosen.filter_plan, CLIENT_PLAN_NO_FILTER);
}

static void a_filter_that_nothing_matches_has_no_hits(void **state)
{
    struct fixture *f = *state;
    start(f, (struct service_options){0});
    struct client_search search = usual(f, 2);
    search.filter = "year > 2019";
    struct client_answer answer = ask(f, &search);
    assert_int_equal(answer.results[0].hit_count + answer.results[1].hit_count, 0);
    assert_int_equal(answer.chosen.filter_plan, CLIENT_PLAN_NOTHING);
    assert_int_equal(answer.chosen.match_estimate, 0);
    search.filter = NULL;
    search.recall_target = 0;
    search.within_radius = true;
    search.radius = 100;
    answer = ask(f, &search);
    assert_int_equal(answer.chosen.filter_plan, CLIENT_PLAN_NO_FILTER);
    assert_int_equal(answer.chosen.match_estimate, SERVICE_VECTORS);
}

static void a_plain_request_is_answered_as_it_always_was(void **state)
{
    struct fixture *f = *state;
    uint32_t rows[SERVICE_VECTORS];
    start(f, (struct service_options){0});
    const struct client_search search = usual(f, 3);
    const struct client_answer answer = ask(f, &search);
    assert_int_equal(answer.chosen.search_list, 0);
    nearest(f, f->queries[2], any, UINT32_MAX, rows);
    expect_rows(&answer, 2, rows, K);
}

/* ---- radius ---- */

static void a_radius_is_kept_and_told_when_there_is_more(void **state)
{
    struct fixture *f = *state;
    uint32_t rows[SERVICE_VECTORS];
    start(f, (struct service_options){0});
    nearest(f, f->queries[0], any, UINT32_MAX, rows);
    struct client_search search = usual(f, 1);
    search.within_radius = true;
    /* Between the sixth and the seventh. */
    search.radius = (distance(f, f->queries[0], rows[5]) + distance(f, f->queries[0], rows[6])) / 2;
    struct client_answer answer = ask(f, &search);
    expect_rows(&answer, 0, rows, 6);
    assert_int_equal(answer.results[0].flags, 0);
    search.k = 4;
    answer = ask(f, &search);
    expect_rows(&answer, 0, rows, 4);
    assert_int_equal(answer.results[0].flags, CLIENT_TRUNCATED);
    search.radius = 0;
    answer = ask(f, &search);
    assert_int_equal(answer.results[0].hit_count, 0);
}

/* ---- pages ---- */

static void pages_continue_where_the_one_before_ended(void **state)
{
    struct fixture *f = *state;
    uint32_t rows[SERVICE_VECTORS];
    struct client_cursor cursors[2] = {{0}};
    start(f, (struct service_options){0});
    struct client_search search = usual(f, 2);
    search.cursors = cursors;
    search.filter = "year = 2003 and price < 0"; /* 15 rows */
    for (uint32_t page = 0; page < 3; page++) {
        const struct client_answer answer = ask(f, &search);
        const uint32_t wanted = page == 0 ? K : page == 1 ? 5 : 0;
        for (uint32_t q = 0; q < 2; q++) {
            uint32_t count = 0;
            nearest(f, f->queries[q], any, UINT32_MAX, rows);
            for (uint32_t i = 0; i < SERVICE_VECTORS; i++) /* those that match */
                if (service_year(rows[i]) == 2003 && rows[i] < SERVICE_VECTORS / 2)
                    rows[count++] = rows[i];
            assert_int_equal(count, 15);
            expect_rows(&answer, q, rows + MIN(page * K, count), wanted);
            assert_int_equal(answer.results[q].flags, wanted < K ? CLIENT_LAST : 0);
            cursors[q] = client_cursor_after(&answer, q, cursors[q]);
            assert_int_equal(cursors[q].rank, MIN((page + 1) * K, count));
        }
    }
    search.search_list = 24; /* the page would end at hit 25 */
    expect_refusal(f, &search, STATUS_INVALID, "beyond the search list of 24");
    cursors[1] = (struct client_cursor){.key = 5};
    expect_refusal(f, &search, STATUS_INVALID, "query 1: a cursor of rank 0");
}

/* ---- keys ---- */

static void a_key_finds_its_vectors_neighbours_without_itself(void **state)
{
    struct fixture *f = *state;
    static const uint64_t keys[] = {17, SERVICE_VECTORS, 0, UINT64_MAX, SERVICE_VECTORS - 1};
    uint32_t rows[SERVICE_VECTORS];
    start(f, (struct service_options){0});
    struct client_search search = usual(f, ARRAY_LENGTH(keys));
    search.vectors = NULL;
    search.keys = keys;
    search.explain = true;
    for (int filtered = 0; filtered < 2; filtered++) {
        search.filter = filtered ? recent_english_filter : NULL;
        const struct client_answer answer = ask(f, &search);
        for (uint32_t q = 0; q < ARRAY_LENGTH(keys); q++) {
            if (keys[q] >= SERVICE_VECTORS) {
                expect_rows(&answer, q, NULL, 0);
                assert_int_equal(answer.results[q].flags, CLIENT_UNKNOWN_KEY);
                continue;
            }
            nearest(f, f->data->vectors[keys[q]], filtered ? recent_english : any,
                    (uint32_t)keys[q], rows);
            expect_rows(&answer, q, rows, K);
            assert_int_equal(answer.results[q].flags, 0);
        }
        /* A page of keys for one that is not there; that and a block at least for one that is. */
        assert_int_equal(answer.results[1].reads, 1);
        assert_true(answer.results[0].reads >= 2);
    }
    search.k = 0;
    expect_refusal(f, &search, STATUS_INVALID, "k is 0");
}

static void what_is_stored_is_fetched_by_its_keys(void **state)
{
    struct fixture *f = *state;
    static const uint64_t keys[] = {17, SERVICE_VECTORS, 0};
    struct client_fetch fetch = {.keys = keys, .count = 3, .vectors = true};
    struct client_fetched fetched;
    struct error err;
    start(f, (struct service_options){0});
    for (fetch.count = 1; fetch.count <= 3; fetch.count++) {
        if (client_fetch(f->client, &fetch, &fetched, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        assert_int_equal(fetched.count, fetch.count);
        assert_int_equal(fetched.dim, SERVICE_DIM);
        assert_int_equal(fetched.type, ELEMENT_F32);
        for (uint32_t i = 0; i < fetch.count; i++) {
            static const float zeros[SERVICE_DIM];
            bool there = keys[i] < SERVICE_VECTORS;
            assert_int_equal(fetched.found[i], there);
            assert_memory_equal((const float *)fetched.vectors + (size_t)i * SERVICE_DIM,
                                there ? f->data->vectors[keys[i]] : zeros, sizeof(zeros));
        }
    }
    fetch.count = 3;
    fetch.vectors = false;
    assert_int_equal(client_fetch(f->client, &fetch, &fetched, &err), STATUS_OK);
    assert_null(fetched.vectors);
    assert_true(fetched.found[0] && !fetched.found[1] && fetched.found[2]);
    fetch.count = 0;
    assert_int_equal(client_fetch(f->client, &fetch, &fetched, &err), STATUS_INVALID);
}

static void queries_by_key_that_find_no_room_are_busy_and_leave_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t keys[8];
    uint32_t answered = 0, busy = 0;
    struct error err;
    start(f, (struct service_options){.slots = 1, .queue_limit = 4});
    struct client_search search = usual(f, ARRAY_LENGTH(keys));
    search.keys = keys;
    for (uint32_t i = 0; i < ARRAY_LENGTH(keys); i++)
        keys[i] = i * 7;
    for (uint32_t n = 0; n < 64; n++) {
        uint64_t id;
        if (client_send_search(f->client, &search, &id, &err) != STATUS_OK)
            fail_msg("%s", err.text);
    }
    for (uint32_t n = 0; n < 64; n++) {
        struct client_answer answer;
        if (client_receive(f->client, &answer, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        answered += answer.status == STATUS_OK;
        busy += answer.status == STATUS_BUSY;
    }
    assert_int_equal(answered + busy, 64);
    assert_true(busy > 0);
    search.query_count = 1;
    (void)ask(f, &search);
}

/* Spoils a block in the middle of nodes.blk or the second page of keys.bin of what is served, or
 * puts it back. */
static void damage(const struct fixture *f, const char *name, uint8_t *kept, size_t bytes,
                   bool restore)
{
    char path[2 * SERVICE_PATH_BYTES];
    struct stat file;
    snprintf(path, sizeof(path), "%s/%s", f->data->generation, name);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &file), 0);
    off_t at = strcmp(name, "keys.bin") == 0 ? 4096 : file.st_size / 8192 * 4096;
    assert_true(at + (off_t)bytes <= file.st_size);
    if (restore) {
        assert_int_equal(pwrite(fd, kept, bytes, at), bytes);
    } else {
        uint8_t spoiled[DAMAGE_BYTES];
        assert_int_equal(pread(fd, kept, bytes, at), bytes);
        for (size_t i = 0; i < bytes; i++)
            spoiled[i] = kept[i] ^ 0x5a;
        assert_int_equal(pwrite(fd, spoiled, bytes, at), bytes);
    }
    close(fd);
}

static enum status fetch_some(struct fixture *f, const uint64_t *keys, uint32_t count,
                              struct error *err)
{
    const struct client_fetch fetch = {.keys = keys, .count = count, .vectors = true};
    struct client_fetched fetched;
    return client_fetch(f->client, &fetch, &fetched, err);
}

/* What the daemon logs from here on goes to a file. */
static int log_divert(const struct fixture *f, char path[SERVICE_PATH_BYTES + 8])
{
    snprintf(path, SERVICE_PATH_BYTES + 8, "%s/log", f->data->dir);
    int before = dup(STDERR_FILENO);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    assert_true(before >= 0 && fd >= 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO);
    close(fd);
    log_set_level(LOG_LEVEL_WARN);
    return before;
}

static void log_restore(int before)
{
    log_set_level(LOG_LEVEL_NONE);
    dup2(before, STDERR_FILENO);
    close(before);
}

static void expect_logged(const char *path, const char *words)
{
    char text[4096] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t length = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[length] = '\0';
    if (!strstr(text, "event=degraded ") || !strstr(text, words))
        fail_msg("logged: %s; wanted: %s", text, words);
}

static void what_cannot_be_read_is_named_by_query_and_key(void **state)
{
    struct fixture *f = *state;
    char words[100], log[SERVICE_PATH_BYTES + 8];
    uint64_t keys[4] = {0}, bad = UINT64_MAX;
    uint32_t good = 0;
    uint8_t kept[DAMAGE_BYTES];
    struct error err;
    start(f, (struct service_options){0});
    damage(f, "nodes.blk", kept, DAMAGE_BYTES, false);
    int before = log_divert(f, log);
    for (uint64_t key = SERVICE_VECTORS; key-- > 0;) { /* at last those of the first page */
        if (fetch_some(f, &key, 1, &err) == STATUS_OK)
            keys[good++ % 4] = key;
        else if (bad == UINT64_MAX)
            bad = key;
    }
    log_restore(before);
    assert_true(good > 4 && bad != UINT64_MAX);
    snprintf(words, sizeof(words), "query 0: what is stored of key %llu could not be read",
             (unsigned long long)bad);
    expect_logged(log, words);
    keys[2] = bad;
    words[6] = '2';
    struct client_search search = usual(f, ARRAY_LENGTH(keys));
    search.keys = keys;
    expect_refusal(f, &search, STATUS_IO, words);
    assert_int_equal(fetch_some(f, keys, ARRAY_LENGTH(keys), &err), STATUS_IO);
    assert_non_null(strstr(err.text, words));
    damage(f, "nodes.blk", kept, DAMAGE_BYTES, true);
    assert_int_equal(fetch_some(f, keys, ARRAY_LENGTH(keys), &err), STATUS_OK);
    damage(f, "keys.bin", kept, DAMAGE_BYTES, false);
    keys[2] = SERVICE_VECTORS - 1;
    const enum status of_page = fetch_some(f, keys, ARRAY_LENGTH(keys), &err);
    damage(f, "keys.bin", kept, DAMAGE_BYTES, true);
    assert_int_equal(of_page, STATUS_IO);
    assert_non_null(strstr(err.text, "query 2: what is stored of key 599 could not be read"));
}

/* ---- recall targets ---- */

static void a_recall_target_is_met_by_the_calibration(void **state)
{
    struct fixture *f = *state;
    start(f, (struct service_options){0});
    struct client_search search = usual(f, 2);
    search.search_list = 0;
    search.recall_target = 0.9f;
    const struct client_answer answer = ask(f, &search);
    assert_in_range(answer.chosen.search_list, K, SERVICE_VECTORS);
    assert_true(answer.chosen.expected_recall >= 0.9f);
    search.recall_target = 1.5f;
    expect_refusal(f, &search, STATUS_INVALID, "recall target 1.5: above 0 and below 1 is wanted");
    search.recall_target = 0.9f;
    search.search_list = LIST;
    expect_refusal(f, &search, STATUS_INVALID, "either a search list or a recall target");
}

/* The generation that has neither attributes nor curves. */
static void start_plain(struct fixture *f)
{
    char *with = strdup(f->data->generation), *slash = strrchr(f->data->generation, '/');
    assert_true(with && slash);
    memcpy(slash, "/gen", sizeof("/gen"));
    start(f, (struct service_options){0});
    memcpy(f->data->generation, with, strlen(with) + 1);
    free(with);
}

static void a_recall_target_is_refused_without_calibration(void **state)
{
    struct fixture *f = *state;
    start_plain(f);
    struct client_search search = usual(f, 2);
    search.search_list = 0;
    search.recall_target = 0.9f;
    expect_refusal(f, &search, STATUS_UNSUPPORTED, "no recall curve");
}

/* ---- faults ---- */

static void what_is_wrong_is_named_and_the_connection_goes_on(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *filter, *words;
    } filters[] = {
        {"", "the filter is empty"},
        {" ", "filter: column"},
        {"year >=", "filter: column"},
        {"yeer = 2003", "filter: column 1: unknown column \"yeer\""},
        {"year = \"new\"", "filter: column"},
        {"lang > 3", "filter: column"},
    };
    start(f, (struct service_options){0});
    struct client_search search = usual(f, 3);
    for (size_t i = 0; i < ARRAY_LENGTH(filters); i++) {
        search.filter = filters[i].filter;
        expect_refusal(f, &search, STATUS_INVALID, filters[i].words);
    }
    search = usual(f, 3);
    search.within_radius = true;
    search.radius = -1;
    expect_refusal(f, &search, STATUS_INVALID, "radius -1");
    search.radius = NAN;
    expect_refusal(f, &search, STATUS_INVALID, "radius");
    float far[2][SERVICE_DIM] = {{0}};
    far[1][7] = -1e19f;
    search = usual(f, 2);
    search.vectors = far;
    expect_refusal(f, &search, STATUS_INVALID, "query 1: query is too long a vector");
    char *text = calloc(1, CLIENT_FILTER_BYTES_MAX + 2);
    assert_non_null(text);
    memset(text, ' ', CLIENT_FILTER_BYTES_MAX + 1);
    search = usual(f, 3);
    search.filter = text;
    expect_refusal(f, &search, STATUS_INVALID, "more than 4096 bytes");
    memcpy(text, recent_english_filter, strlen(recent_english_filter));
    text[CLIENT_FILTER_BYTES_MAX] = '\0';
    (void)ask(f, &search);
    free(text);
}

static void a_generation_without_attributes_has_no_filters(void **state)
{
    struct fixture *f = *state;
    start_plain(f);
    struct client_search search = usual(f, 1);
    search.filter = "year = 2003";
    expect_refusal(f, &search, STATUS_INVALID, "filter: this index has no attributes");
    search.filter = NULL;
    (void)ask(f, &search);
}

static void statistics_name_columns_and_curves(void **state)
{
    struct fixture *f = *state;
    struct error err;
    char *text = NULL;
    start(f, (struct service_options){0});
    assert_int_equal(client_stats(f->client, CLIENT_STATS_JSON, &text, &err), STATUS_OK);
    assert_non_null(strstr(text, "\"columns\":[{\"name\":\"year\",\"type\":\"u64\"},{\"name\":"
                                 "\"price\",\"type\":\"i64\"},{\"name\":\"lang\",\"type\":"
                                 "\"labels\",\"labels\":3}]"));
    assert_non_null(strstr(text, "\"calibration\":["));
    assert_non_null(strstr(text, "\"store\":\"f32\""));
    free(text);
}

/* ---- frames in pieces, and broken ones ---- */

/* A search by key for the neighbours of key 17, k 2, with a cursor and a filter. */
static size_t frame_make(uint8_t *frame, uint64_t id)
{
    const struct protocol_search_head head = {
        .fixed = {.query_count = 1,
                  .k = 2,
                  .search_list = LIST,
                  .element_type = ELEMENT_F32,
                  .dim = SERVICE_DIM,
                  .flags = PROTOCOL_SEARCH_EXTENDED},
        .extension = {.form = PROTOCOL_FORM_KEYS, .pages = 1, .filter_bytes = 9},
    };
    const uint64_t key = 17;
    uint8_t *at = frame + PROTOCOL_HEADER_BYTES;
    at += protocol_search_encode(at, &head);
    memcpy(at, &key, sizeof(key));
    memset(at + 8, 0, sizeof(struct protocol_cursor));
    memcpy(at + 24, "price > 0", 9);
    at += 24 + 9;
    size_t length = (size_t)(at - frame);
    protocol_header_encode(frame, PROTOCOL_SEARCH, id, (uint32_t)length - PROTOCOL_HEADER_BYTES);
    return length;
}

static void a_frame_may_come_in_pieces_and_a_broken_one_is_skipped(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[400];
    struct raw_frame got;
    start(f, (struct service_options){0});
    int fd = raw_connect(f->data->socket);
    size_t length = frame_make(frame, 1);
    for (size_t i = 0; i < length; i++)
        raw_send(fd, frame + i, 1);
    assert_true(raw_receive(fd, &got));
    assert_int_equal(got.header.type, PROTOCOL_SEARCH_OK);
    assert_int_equal(got.header.payload_bytes, 8 + 24 + 2 * 16 + 32);
    for (uint64_t id = 2; id < 5; id++) {
        struct protocol_search_head head;
        length = frame_make(frame, id);
        memcpy(&head, frame + PROTOCOL_HEADER_BYTES, sizeof(head));
        if (id == 2)
            head.extension.reserved[10] = 1;
        else if (id == 3)
            head.extension.form = 2;
        else
            head.extension.filter_bytes--;
        memcpy(frame + PROTOCOL_HEADER_BYTES, &head, sizeof(head));
        raw_send(fd, frame, length);
        raw_expect_error(fd, id, id == 3 ? STATUS_UNSUPPORTED : STATUS_CORRUPT,
                         id == 2   ? "reserved"
                         : id == 3 ? "form is 2"
                                   : "make it");
        raw_expect_hello(fd);
    }
    protocol_header_encode(frame, PROTOCOL_FETCH, 9, 8);
    memset(frame + PROTOCOL_HEADER_BYTES, 0, 8);
    raw_send(fd, frame, PROTOCOL_HEADER_BYTES + 8);
    raw_expect_error(fd, 9, STATUS_INVALID, "0 keys in a frame");
    raw_expect_hello(fd);
    close(fd);
}

/* ---- long ---- */

static uint32_t descriptors(void)
{
    uint32_t count = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* Frames of all kinds in turn, until `queries` were asked. */
static void soak(struct fixture *f, uint64_t queries)
{
    uint64_t keys[BATCH];
    char filter[100];
    struct client_cursor cursors[BATCH] = {{0}};
    for (uint64_t done = 0, n = 0; done < queries; done += BATCH, n++) {
        struct client_search search = usual(f, BATCH);
        search.k = 5;
        search.search_list = 10;
        search.filter = filter;
        snprintf(filter, sizeof(filter),
                 "year >= %u or lang in (\"de\", \"%s\") and not price > %d",
                 (unsigned)(2000 + n % 25), n % 7 ? "fr" : "none", (int)(n % 600) - 300);
        for (uint32_t q = 0; q < BATCH; q++)
            keys[q] = (n * BATCH + q) % (SERVICE_VECTORS + 5);
        search.keys = n % 3 == 0 ? keys : NULL;
        search.cursors = n % 5 == 0 ? cursors : NULL;
        search.within_radius = n % 4 == 0;
        search.radius = 1.0f;
        (void)ask(f, &search);
        if (n % 50 == 0) {
            search.filter = "year >";
            expect_refusal(f, &search, STATUS_INVALID, "filter");
        }
    }
}

static void many_filtered_queries_leave_neither_memory_nor_descriptors(void **state)
{
    struct fixture *f = *state;
    const char *asked = getenv("QUERIES");
    uint64_t queries = asked ? strtoull(asked, NULL, 10) : SOAK_QUERIES;
    start(f, (struct service_options){.memory_bytes = SERVICE_RESIDENT_BYTES});
    soak(f, queries / 20); /* what is taken once */
    const uint32_t descriptors_before = descriptors();
    const uint64_t resident_before = memory_rss();
    soak(f, queries);
    const uint64_t resident_after = memory_rss();
    assert_int_equal(descriptors(), descriptors_before);
    if (!SANITIZED && resident_after > resident_before + SOAK_GROWTH_MAX)
        fail_msg("%llu bytes resident after %llu queries, %llu before",
                 (unsigned long long)resident_after, (unsigned long long)queries,
                 (unsigned long long)resident_before);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(hits_match_the_filter_and_are_the_nearest_that_do),
        TEST(a_filter_that_nothing_matches_has_no_hits),
        TEST(a_plain_request_is_answered_as_it_always_was),
        TEST(a_radius_is_kept_and_told_when_there_is_more),
        TEST(pages_continue_where_the_one_before_ended),
        TEST(a_key_finds_its_vectors_neighbours_without_itself),
        TEST(what_is_stored_is_fetched_by_its_keys),
        TEST(queries_by_key_that_find_no_room_are_busy_and_leave_nothing),
        TEST(what_cannot_be_read_is_named_by_query_and_key),
        TEST(a_recall_target_is_met_by_the_calibration),
        TEST(a_recall_target_is_refused_without_calibration),
        TEST(what_is_wrong_is_named_and_the_connection_goes_on),
        TEST(a_generation_without_attributes_has_no_filters),
        TEST(statistics_name_columns_and_curves),
        TEST(a_frame_may_come_in_pieces_and_a_broken_one_is_skipped),
        TEST(many_filtered_queries_leave_neither_memory_nor_descriptors),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
