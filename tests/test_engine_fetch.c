/*
 * test_engine_fetch.c - vectors by their keys: every one is found with its bytes whatever is in
 * memory, none that is not there; a fault that passes is not seen, one that stays is an error of
 * the queries that met it and of nobody else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/random.h"
#include "layout/keys_lookup.h"
#include "tests/engine_fixture.h"

enum {
    SEED = 4711,
    SMALL = 3000, /* vectors of 24 bytes: nine pages of keys */
    LARGE = 700,  /* of 4200: blocks are longer than pages, which tells their reads apart */
    LARGE_DIM = 4200,
    NS_PER_MS = 1000000,
    HOUR_MS = 3600 * 1000,
};

struct set {
    struct collection *c;
    uint64_t *keys; /* by row */
    struct index *cold, *cached, *resident;
};

struct fixture {
    void *directory;
    struct set small, large;
    uint32_t io_kind_count;
};

/* Random keys, so that there is room below, above and between. */
static void set_make(struct set *set, void *directory, const char *name,
                     const struct collection_spec *spec)
{
    set->keys = calloc(spec->count, sizeof(*set->keys));
    assert_non_null(set->keys);
    for (uint32_t row = 0; row < spec->count; row++)
        set->keys[row] = random_at(SEED, row) >> 1 | 1;
    set->c = collection_create_keyed(directory, name, spec, set->keys);
    set->cold = collection_open(set->c, 0);
    set->cached = collection_open(set->c, collection_budget(set->c, 20));
    set->resident = collection_open(set->c, 1 << 28);
    assert_true(index_memory_of(set->cached).cached_blocks > 0);
    assert_false(index_memory_of(set->cached).resident);
    assert_true(index_memory_of(set->resident).resident);
}

static void set_free(struct set *set)
{
    index_release(set->cold);
    index_release(set->cached);
    index_release(set->resident);
    collection_destroy(set->c);
    free(set->keys);
}

static int group_setup(void **state)
{
    static const struct collection_spec small = {.type = ELEMENT_F32,
                                                 .metric = METRIC_L2,
                                                 .count = SMALL,
                                                 .dim = 6,
                                                 .query_count = FIXTURE_QUERIES,
                                                 .code_bytes = 6};
    static const struct collection_spec large = {.type = ELEMENT_U8,
                                                 .metric = METRIC_L2,
                                                 .count = LARGE,
                                                 .dim = LARGE_DIM,
                                                 .query_count = FIXTURE_QUERIES};
    struct fixture *f = calloc(1, sizeof(*f));
    if (!f || fixture_directory_setup(&f->directory) != 0)
        return -1;
    *state = f;
    set_make(&f->small, f->directory, "small", &small);
    set_make(&f->large, f->directory, "large", &large);
    assert_true(index_manifest(f->large.cold)->geometry.block_bytes > KEYS_PAGE_BYTES);
    struct block_io *io = NULL;
    uint8_t *buffer = aligned_alloc(4096, 4096);
    const struct block_io_params params = {
        .kind = BLOCK_IO_URING, .depth = 1, .buffers = buffer, .buffers_bytes = 4096, .file = -1};
    f->io_kind_count = block_io_create(&params, &io, NULL) == STATUS_OK ? 2 : 1;
    block_io_destroy(io);
    free(buffer);
    return 0;
}

static int group_teardown(void **state)
{
    struct fixture *f = *state;
    set_free(&f->small);
    set_free(&f->large);
    int removed = fixture_directory_teardown(&f->directory);
    free(f);
    return removed;
}

/* ---- asking ---- */

/* A fetch of each of `count` keys. */
struct fetches {
    struct search_query *queries;
    uint8_t *vectors;
    size_t vector_bytes;
    uint32_t count;
};

static struct fetches fetches_make(const struct set *set, const uint64_t *keys, uint32_t count)
{
    struct fetches f = {.count = count,
                        .vector_bytes = index_manifest(set->cold)->geometry.vector_bytes};
    f.queries = calloc(count, sizeof(*f.queries));
    f.vectors = calloc(count, f.vector_bytes);
    assert_true(f.queries && f.vectors);
    for (uint32_t i = 0; i < count; i++)
        f.queries[i] = (struct search_query){.kind = SEARCH_FETCH,
                                             .key = keys[i],
                                             .fetched = f.vectors + i * f.vector_bytes,
                                             .found = true,
                                             .node = 99};
    return f;
}

static void fetches_free(struct fetches *f)
{
    free(f->queries);
    free(f->vectors);
}

static struct fetches fetch_all(const struct set *set, struct engine *engine)
{
    struct fetches f = fetches_make(set, set->keys, set->c->spec.count);
    struct error err;
    ASSERT_STATUS_OK(engine_query_check(engine, &f.queries[0], &err), err);
    engine_search_all(engine, f.queries, f.count, 0);
    return f;
}

static bool vector_is_of_row(const struct set *set, const void *vector, uint32_t row)
{
    const struct collection_spec *spec = &set->c->spec;
    float values[LARGE_DIM];
    element_to_f32(spec->type, vector, spec->dim, values);
    return memcmp(values, set->c->rows_f32 + (size_t)row * spec->dim,
                  spec->dim * sizeof(*values)) == 0;
}

static void expect_found(const struct set *set, const struct search_query *query, uint32_t row)
{
    assert_int_equal(query->status, STATUS_OK);
    assert_true(query->found);
    assert_true(query->node < index_manifest(set->cold)->geometry.node_limit);
    assert_true(vector_is_of_row(set, query->fetched, row));
    assert_int_equal(query->stats.failed_blocks, 0);
}

static struct engine *start(const struct index *index, enum block_io_kind kind,
                            const struct block_io_faults *faults, uint32_t read_timeout_ms)
{
    const struct engine_params params = {.threads = 2,
                                         .slots_per_thread = 4,
                                         .io_kind = kind,
                                         .read_timeout_ms = read_timeout_ms,
                                         .faults = faults};
    return engine_start((struct index *)index, &params);
}

/* ---- what is there, and what is not ---- */

static void every_key_is_found_whatever_is_in_memory(void **state)
{
    const struct fixture *f = *state;
    const struct set *const sets[] = {&f->small, &f->large};
    for (size_t s = 0; s < 2; s++) {
        const struct set *set = sets[s];
        const struct index *const tiers[] = {set->cold, set->cached, set->resident};
        const uint32_t block_bytes = index_manifest(set->cold)->geometry.block_bytes;
        for (size_t tier = 0; tier < ARRAY_LENGTH(tiers); tier++)
            for (uint32_t kind = 0; kind < f->io_kind_count; kind++) {
                struct engine *engine = start(tiers[tier], io_kinds[kind], NULL, HOUR_MS);
                struct fetches got = fetch_all(set, engine);
                uint64_t hits = 0, reads = 0;
                for (uint32_t i = 0; i < got.count; i++) {
                    const struct search_stats *stats = &got.queries[i].stats;
                    expect_found(set, &got.queries[i], i);
                    assert_int_equal(stats->reads + stats->cache_hits, 2);
                    assert_int_equal(stats->read_bytes,
                                     KEYS_PAGE_BYTES + (stats->reads - 1) * block_bytes);
                    hits += stats->cache_hits;
                    reads += stats->reads;
                }
                assert_in_range(hits, tier == 0 ? 0 : 1, tier == 0 ? 0 : got.count);
                assert_true(tier < 2 || hits == got.count);
                const struct engine_stats stats = stats_of(engine);
                assert_int_equal(stats.queries, got.count);
                assert_int_equal(stats.fetches, got.count);
                assert_int_equal(stats.reads, reads);
                assert_int_equal(stats.latency.count, 0); /* of searches */
                fetches_free(&got);
                engine_destroy(engine);
            }
    }
}

static void nodes_are_those_of_a_lookup_without_an_engine(void **state)
{
    const struct fixture *f = *state;
    const struct set *set = &f->large;
    struct generation *generation = NULL;
    struct error err = {0};
    ASSERT_STATUS_OK(generation_open(set->c->path, &generation, &err), err);
    struct engine *engine = engine_plain(set->cold);
    struct fetches got = fetch_all(set, engine);
    for (uint32_t i = 0; i < got.count; i++) {
        uint8_t vector[LARGE_DIM];
        uint32_t node;
        bool found;
        ASSERT_STATUS_OK(keys_lookup(generation, set->keys[i], &node, &found, &err), err);
        assert_true(found);
        assert_int_equal(node, got.queries[i].node);
        ASSERT_STATUS_OK(keys_lookup_vector(generation, node, set->keys[i], vector, &err), err);
        assert_memory_equal(vector, got.queries[i].fetched, sizeof(vector));
    }
    fetches_free(&got);
    engine_destroy(engine);
    generation_close(generation);
}

static void existence_takes_one_read(void **state)
{
    const struct fixture *f = *state;
    const struct set *set = &f->small;
    struct engine *engine = engine_plain(set->cold);
    struct fetches got = fetches_make(set, set->keys, SMALL);
    for (uint32_t i = 0; i < got.count; i++)
        got.queries[i].fetched = NULL;
    engine_search_all(engine, got.queries, got.count, 0);
    for (uint32_t i = 0; i < got.count; i++) {
        assert_int_equal(got.queries[i].status, STATUS_OK);
        assert_true(got.queries[i].found);
        assert_int_equal(got.queries[i].stats.reads, 1);
    }
    fetches_free(&got);
    engine_destroy(engine);
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Keys are odd: all even ones are absent. */
static void absent_keys_are_not_found(void **state)
{
    const struct fixture *f = *state;
    const struct set *set = &f->small;
    static uint64_t keys[2 * SMALL + 2];
    memcpy(keys, set->keys, SMALL * sizeof(*keys));
    qsort(keys, SMALL, sizeof(*keys), compare_keys);
    const uint64_t lowest = keys[0];
    for (uint32_t i = 0; i < SMALL; i++) {
        keys[SMALL + i] = keys[i] - 1;
        keys[i] = keys[i] + 1;
    }
    keys[2 * SMALL] = 0;
    keys[2 * SMALL + 1] = UINT64_MAX;
    struct engine *engine = engine_plain(set->cached);
    struct fetches got = fetches_make(set, keys, ARRAY_LENGTH(keys));
    engine_search_all(engine, got.queries, got.count, 0);
    for (uint32_t i = 0; i < got.count; i++) {
        const struct search_query *query = &got.queries[i];
        assert_int_equal(query->status, STATUS_OK);
        assert_false(query->found);
        assert_int_equal(query->node, UINT32_MAX);
        assert_int_equal(query->stats.reads, query->key < lowest ? 0 : 1);
        for (size_t b = 0; b < got.vector_bytes; b++)
            assert_int_equal(((const uint8_t *)query->fetched)[b], 0);
    }
    fetches_free(&got);
    engine_destroy(engine);
}

/* ---- faults ---- */

enum fault { FAULT_EIO, FAULT_SHORT, FAULT_FLIP, FAULT_COUNT };

/* Spoils reads of pages, or of blocks, the first of each or all. */
struct saboteur {
    struct block_io_faults hook;
    enum fault fault;
    bool pages;
    bool always;
    atomic_uint reads[LARGE + 10]; /* of each page or block */
    atomic_uint spoiled;
};

static int saboteur_on_read(void *context, uint64_t offset, void *buffer, uint32_t bytes,
                            int result)
{
    struct saboteur *s = context;
    if ((bytes == KEYS_PAGE_BYTES) != s->pages)
        return result;
    if (atomic_fetch_add(&s->reads[offset / bytes], 1) > 0 && !s->always)
        return result;
    atomic_fetch_add(&s->spoiled, 1);
    if (s->fault == FAULT_EIO)
        return -EIO;
    if (s->fault == FAULT_SHORT)
        return result / 2;
    ((uint8_t *)buffer)[offset / bytes * 37 % bytes] ^= 4;
    return result;
}

static void with_fault(const struct fixture *f, bool pages, bool always,
                       void (*claim)(const struct set *set, const struct fetches *got,
                                     const struct engine_stats *stats))
{
    const struct set *set = &f->large;
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++)
        for (enum fault fault = 0; fault < FAULT_COUNT; fault++) {
            struct saboteur *s = calloc(1, sizeof(*s));
            assert_non_null(s);
            *s = (struct saboteur){.hook = {.on_read = saboteur_on_read, .context = s},
                                   .fault = fault,
                                   .pages = pages,
                                   .always = always};
            struct engine *engine = start(set->cold, io_kinds[kind], &s->hook, HOUR_MS);
            struct fetches got = fetch_all(set, engine);
            const struct engine_stats stats = stats_of(engine);
            assert_true(atomic_load(&s->spoiled) > 0);
            claim(set, &got, &stats);
            fetches_free(&got);
            /* The device is well again, and so is the engine. */
            s->pages = false;
            s->always = false;
            for (size_t i = 0; i < ARRAY_LENGTH(s->reads); i++)
                atomic_store(&s->reads[i], 1);
            got = fetch_all(set, engine);
            for (uint32_t i = 0; i < got.count; i++)
                expect_found(set, &got.queries[i], i);
            fetches_free(&got);
            engine_destroy(engine);
            free(s);
        }
}

static void claim_unseen(const struct set *set, const struct fetches *got,
                         const struct engine_stats *stats)
{
    for (uint32_t i = 0; i < got->count; i++)
        expect_found(set, &got->queries[i], i);
    assert_true(stats->read_retries > 0);
    assert_int_equal(stats->failed_blocks, 0);
}

static void claim_failed(const struct set *set, const struct fetches *got,
                         const struct engine_stats *stats)
{
    (void)set;
    for (uint32_t i = 0; i < got->count; i++) {
        assert_int_equal(got->queries[i].status, STATUS_IO);
        assert_false(got->queries[i].found);
        assert_int_equal(got->queries[i].node, UINT32_MAX);
        assert_int_equal(got->queries[i].stats.failed_blocks, 1);
    }
    assert_int_equal(stats->failed_blocks, got->count);
    assert_int_equal(stats->read_retries, got->count);
}

static void a_fault_that_passes_is_not_seen(void **state)
{
    with_fault(*state, true, false, claim_unseen);
    with_fault(*state, false, false, claim_unseen);
}

static void a_fault_that_stays_is_an_error(void **state)
{
    with_fault(*state, true, true, claim_failed);
    with_fault(*state, false, true, claim_failed);
}

/* Reads are kept back while it hangs: of pages, or of blocks. */
struct device {
    struct block_io_faults hook;
    bool pages;
    atomic_bool hangs;
};

static bool device_holds(void *context, uint64_t offset, uint64_t age_ns)
{
    struct device *device = context;
    /* All keys of the test are of the first page, and none of a block that starts where it does. */
    (void)age_ns;
    return (offset == 0) == device->pages && atomic_load(&device->hangs);
}

/* Rows whose keys are on the first page, and whose blocks are not the first. */
static uint32_t rows_of_first_page(const struct set *set, uint64_t *keys, uint32_t most)
{
    struct engine *engine = engine_plain(set->cold);
    struct fetches all = fetch_all(set, engine);
    uint32_t count = 0;
    static uint64_t sorted[LARGE];
    memcpy(sorted, set->keys, sizeof(sorted));
    qsort(sorted, LARGE, sizeof(*sorted), compare_keys);
    const uint32_t first = index_manifest(set->cold)->geometry.nodes_per_block;
    for (uint32_t i = 0; i < all.count && count < most; i++)
        if (all.queries[i].key < sorted[KEYS_PAGE_KEYS] && all.queries[i].node >= first)
            keys[count++] = all.queries[i].key;
    fetches_free(&all);
    engine_destroy(engine);
    return count;
}

/* With a deadline it is the deadline that ends a query, without one the read is given up. */
static void hang(const struct fixture *f, enum block_io_kind kind, bool pages, bool deadline)
{
    enum { COUNT = 12 };
    const struct set *set = &f->large;
    uint64_t keys[COUNT];
    assert_int_equal(rows_of_first_page(set, keys, COUNT), COUNT);
    struct device device = {.hook = {.holds = device_holds}, .pages = pages};
    device.hook.context = &device;
    atomic_store(&device.hangs, true);
    struct engine *engine = start(set->cold, kind, &device.hook, deadline ? HOUR_MS : 40);
    struct fetches got = fetches_make(set, keys, COUNT);
    for (uint32_t i = 0; deadline && i < COUNT; i++)
        got.queries[i].deadline_ns = clock_monotonic_ns() + UINT64_C(40) * NS_PER_MS;
    engine_search_all(engine, got.queries, COUNT, 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(got.queries[i].status, deadline ? STATUS_TIMEOUT : STATUS_IO);
        assert_false(got.queries[i].found);
    }
    if (!deadline)
        assert_true(stats_of(engine).read_timeouts > 0);
    atomic_store(&device.hangs, false);
    while (stats_of(engine).reads_in_flight > 0)
        sched_yield();
    fetches_free(&got);
    got = fetches_make(set, keys, COUNT);
    for (uint32_t done = 0; done < COUNT;) {
        engine_search_all(engine, got.queries + done, 1, 0);
        done += got.queries[done].status == STATUS_OK && got.queries[done].found;
    }
    fetches_free(&got);
    engine_destroy(engine);
}

static void a_hung_read_is_given_up_or_ended_by_the_deadline(void **state)
{
    const struct fixture *f = *state;
    for (uint32_t kind = 0; kind < f->io_kind_count; kind++)
        for (int pages = 0; pages < 2; pages++) {
            hang(f, io_kinds[kind], pages != 0, false);
            hang(f, io_kinds[kind], pages != 0, true);
        }
}

/* ---- a generation that contradicts itself ---- */

static void page_put(const struct set *set, uint32_t page, const uint8_t *bytes)
{
    int fd = open(fixture_path(set->c->path, "keys.bin"), O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, bytes, KEYS_PAGE_BYTES, (off_t)page * KEYS_PAGE_BYTES),
                     KEYS_PAGE_BYTES);
    close(fd);
}

/* Rewrites the first page, so that the keys in places `a` and `b` have each other's nodes: good in
 * itself, but the blocks tell. */
static void nodes_swap(const struct set *set, uint32_t a, uint32_t b, uint64_t keys[KEYS_PAGE_KEYS])
{
    const char *path = fixture_path(set->c->path, "keys.bin");
    const struct keys_shape shape = keys_shape_of(index_manifest(set->cold));
    uint32_t nodes[KEYS_PAGE_KEYS];
    struct keys_page page;
    size_t length;
    uint8_t *bytes = fixture_read(path, &length);
    assert_int_equal(keys_page_open(&shape, 0, bytes, &page), KEYS_OK);
    memcpy(keys, page.keys, sizeof(page.keys[0]) * KEYS_PAGE_KEYS);
    memcpy(nodes, page.nodes, sizeof(nodes));
    const uint32_t kept = nodes[a];
    nodes[a] = nodes[b];
    nodes[b] = kept;
    keys_page_encode(&shape, 0, keys, nodes, bytes);
    page_put(set, 0, bytes);
    free(bytes);
}

static void a_node_of_another_key_is_an_error(void **state)
{
    const struct fixture *f = *state;
    static const struct collection_spec spec = {.type = ELEMENT_F32,
                                                .metric = METRIC_L2,
                                                .count = SMALL,
                                                .dim = 6,
                                                .query_count = 1,
                                                .code_bytes = 6};
    struct set set;
    uint64_t keys[KEYS_PAGE_KEYS];
    set_make(&set, f->directory, "swapped", &spec);
    nodes_swap(&set, 7, 300, keys);
    const struct index *const tiers[] = {set.cold, set.resident};
    for (size_t tier = 0; tier < ARRAY_LENGTH(tiers); tier++) {
        struct engine *engine = start(tiers[tier], BLOCK_IO_AUTO, NULL, HOUR_MS);
        struct fetches got = fetches_make(&set, keys, KEYS_PAGE_KEYS);
        engine_search_all(engine, got.queries, got.count, 0);
        for (uint32_t i = 0; i < got.count; i++) {
            const bool swapped = i == 7 || i == 300;
            assert_int_equal(got.queries[i].status, swapped ? STATUS_IO : STATUS_OK);
            assert_int_equal(got.queries[i].found, !swapped);
            assert_int_equal(got.queries[i].stats.failed_blocks, swapped);
        }
        assert_int_equal(stats_of(engine).failed_blocks, 2);
        fetches_free(&got);
        engine_destroy(engine);
    }
    fixture_expect_fault(set.c->path, "keys.bin: its XXH3-128 is ");
    /* A second page that begins with the first one's keys: sound, but not in order. */
    const struct keys_shape shape = keys_shape_of(index_manifest(set.cold));
    const uint32_t nodes[KEYS_PAGE_KEYS] = {0};
    uint8_t *bytes = aligned_alloc(KEYS_PAGE_BYTES, KEYS_PAGE_BYTES);
    assert_non_null(bytes);
    keys_page_encode(&shape, 1, keys, nodes, bytes);
    page_put(&set, 1, bytes);
    free(bytes);
    fixture_expect_fault(set.c->path, "keys.bin: page 1: keys do not ascend");
    set_free(&set);
}

/* ---- beside searches ---- */

static void fetches_and_searches_do_not_disturb_each_other(void **state)
{
    const struct fixture *f = *state;
    const struct set *set = &f->small;
    enum { COUNT = 20 * FIXTURE_QUERIES };
    struct engine *engine = start(set->cached, BLOCK_IO_AUTO, NULL, HOUR_MS);
    struct answers alone = answers_get(engine, set->c, &ask_usual);
    struct fetches fetches = fetches_make(set, set->keys, COUNT);
    struct search_query *mixed = calloc(COUNT, sizeof(*mixed));
    struct search_hit *hits = calloc((size_t)COUNT * FIXTURE_K, sizeof(*hits));
    assert_true(mixed && hits);
    for (uint32_t i = 0; i < COUNT; i++)
        mixed[i] = i % 2 == 0 ? fetches.queries[i]
                              : query_make(set->c, i % FIXTURE_QUERIES, &ask_usual,
                                           hits + (size_t)i * FIXTURE_K);
    engine_search_all(engine, mixed, COUNT, 0);
    for (uint32_t i = 0; i < COUNT; i++)
        if (i % 2 == 0)
            expect_found(set, &mixed[i], i);
        else
            assert_same_hits(&mixed[i], &alone.queries[i % FIXTURE_QUERIES]);
    free(mixed);
    free(hits);
    fetches_free(&fetches);
    answers_free(&alone);
    engine_destroy(engine);
}

static void count_down(struct search_query *query)
{
    atomic_fetch_sub((atomic_uint *)query->user, 1);
}

static void all_are_answered_when_the_engine_ends(void **state)
{
    const struct fixture *f = *state;
    const struct set *set = &f->small;
    struct engine *engine = start(set->cold, BLOCK_IO_AUTO, NULL, HOUR_MS);
    struct fetches got = fetches_make(set, set->keys, 1000);
    atomic_uint waiting = 0;
    for (uint32_t i = 0; i < got.count; i++) {
        got.queries[i].user = &waiting;
        got.queries[i].complete = count_down;
        atomic_fetch_add(&waiting, 1);
        assert_int_equal(engine_submit(engine, &got.queries[i]), STATUS_OK);
    }
    engine_destroy(engine);
    assert_int_equal(atomic_load(&waiting), 0);
    for (uint32_t i = 0; i < got.count; i++)
        expect_found(set, &got.queries[i], i);
    fetches_free(&got);
}

static void a_fetch_that_comes_too_late_is_counted_as_one(void **state)
{
    const struct fixture *f = *state;
    struct engine *engine = engine_plain(f->small.cold);
    struct search_query query = {
        .kind = SEARCH_FETCH, .key = f->small.keys[0], .found = true, .deadline_ns = 1};
    engine_search_all(engine, &query, 1, 0);
    assert_int_equal(query.status, STATUS_TIMEOUT);
    assert_false(query.found);
    assert_int_equal(stats_of(engine).queries, 1);
    assert_int_equal(stats_of(engine).fetches, 1);
    assert_int_equal(stats_of(engine).timeouts, 1);
    engine_destroy(engine);
}

struct follower {
    struct engine *engine;
    atomic_uint *answered;
};

/* What a fetch finds is searched for: submitted by complete(), to a worker that may be another. */
static void follow(struct search_query *query)
{
    const struct follower *follower = query->user;
    if (query->kind == SEARCH_NEAREST) {
        atomic_fetch_add(follower->answered, 1);
        return;
    }
    assert_int_equal(query->status, STATUS_OK);
    assert_true(query->found);
    query->kind = SEARCH_NEAREST;
    query->vector = query->fetched;
    assert_int_equal(engine_submit(follower->engine, query), STATUS_OK);
}

static void what_a_query_leads_to_is_answered_when_the_engine_ends(void **state)
{
    const struct fixture *f = *state;
    const struct set *set = &f->small;
    enum { THREADS = 3, COUNT = 60, ROUNDS = 20 };
    static struct search_hit hits[COUNT][FIXTURE_K];
    const struct engine_params params = {.threads = THREADS};
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct fetches got = fetches_make(set, set->keys, COUNT);
        struct follower followers[COUNT];
        atomic_uint answered = 0;
        struct engine *engine = engine_start(set->cold, &params);
        for (uint32_t i = 0; i < COUNT; i++) {
            struct search_query *query = &got.queries[i];
            followers[i] = (struct follower){engine, &answered};
            query->user = &followers[i];
            query->complete = follow;
            query->k = FIXTURE_K;
            query->search_list = 30;
            query->hits = hits[i];
            assert_int_equal(engine_submit(engine, query), STATUS_OK);
        }
        engine_destroy(engine);
        assert_int_equal(atomic_load(&answered), COUNT);
        for (uint32_t i = 0; i < COUNT; i++) {
            assert_int_equal(got.queries[i].status, STATUS_OK);
            assert_int_equal(got.queries[i].hits[0].key, set->keys[i]);
        }
        fetches_free(&got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_found_whatever_is_in_memory),
        cmocka_unit_test(nodes_are_those_of_a_lookup_without_an_engine),
        cmocka_unit_test(existence_takes_one_read),
        cmocka_unit_test(absent_keys_are_not_found),
        cmocka_unit_test(a_fault_that_passes_is_not_seen),
        cmocka_unit_test(a_fault_that_stays_is_an_error),
        cmocka_unit_test(a_hung_read_is_given_up_or_ended_by_the_deadline),
        cmocka_unit_test(a_node_of_another_key_is_an_error),
        cmocka_unit_test(fetches_and_searches_do_not_disturb_each_other),
        cmocka_unit_test(a_fetch_that_comes_too_late_is_counted_as_one),
        cmocka_unit_test(all_are_answered_when_the_engine_ends),
        cmocka_unit_test(what_a_query_leads_to_is_answered_when_the_engine_ends),
    };
    return cmocka_run_group_tests_name("engine_fetch", tests, group_setup, group_teardown);
}
