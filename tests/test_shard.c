/*
 * test_shard.c - a shard's rows out of the partition piece, and its graph on the way to disk: each
 * piece against what it is made from, read by a plain reader; and pieces that are not what they
 * should be though their checksums hold.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/shard_graph.h"
#include "tests/shard_fixture.h"

static const struct work_piece partition_piece = {BUILD_STAGE_PARTITION, WORK_WHOLE};

/* ---- rows ---- */

static void rows_check(const struct shard_fixture *fixture, uint32_t shard, uint32_t spare)
{
    const struct shard_plan *plan = &fixture->plan;
    size_t row_bytes = fixture->all.dim * element_bytes(fixture->all.type);
    struct shard_rows rows;
    struct error err = {0};
    if (shard_rows_load(plan, shard, spare, &rows, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    uint32_t count = rows.own_count + rows.borrowed_count;
    assert_int_equal(rows.own_count, shard_own_count(plan, shard));
    assert_int_equal(rows.borrowed_count, plan->borrowed_counts[shard]);
    assert_int_equal(rows.set.count, count + spare);
    for (uint32_t id = 0; id < count; id++) {
        uint32_t position = shard_position(&rows, id);
        bool own = position >= plan->starts[shard] && position < plan->starts[shard + 1];
        assert_true(own == (id < rows.own_count));
        assert_true(id == 0 || id == rows.own_count || position > shard_position(&rows, id - 1));
        assert_int_equal(shard_local(&rows, position), id);
        assert_memory_equal(vector_set_row(&rows.set, id), vector_set_row(&fixture->all, position),
                            row_bytes);
    }
    uint32_t locals = 0;
    for (uint32_t position = 0; position < shard_fixture_rows(fixture); position++) {
        uint32_t id = shard_local(&rows, position);
        if (id == UINT32_MAX)
            continue;
        assert_in_range(id, 0, count - 1);
        assert_int_equal(shard_position(&rows, id), position);
        locals++;
    }
    assert_int_equal(locals, count);
    for (uint32_t id = count; id < count + spare; id++)
        for (size_t i = 0; i < rows.set.stride_bytes; i++)
            assert_int_equal(((const uint8_t *)vector_set_row(&rows.set, id))[i], 0);
    shard_rows_destroy(&rows);
    shard_rows_destroy(&rows);
}

/* Borrowed rows come in order of row, which is another one than that of positions. */
static void rows_are_loaded_in_order_of_position(void **state)
{
    static const struct {
        enum element_type type;
        enum metric metric;
        uint32_t dim, shards;
        bool keys, strewn;
    } cases[] = {
        {ELEMENT_F32, METRIC_L2, 12, 4, false, false},
        {ELEMENT_U8, METRIC_L2, 7, 3, true, true},
        {ELEMENT_I8, METRIC_IP, 64, 5, true, true},
        {ELEMENT_F16, METRIC_COSINE, 33, 2, false, true},
        {ELEMENT_F32, METRIC_L2, 1, 1, true, false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct shard_spec spec = shard_fixture_spec(400, cases[i].shards);
        struct shard_fixture *fixture = *state;
        spec.vectors.type = cases[i].type;
        spec.vectors.metric = cases[i].metric;
        spec.vectors.dim = cases[i].dim;
        spec.keys = cases[i].keys;
        spec.strewn = cases[i].strewn;
        shard_fixture_create(fixture, &spec);
        for (uint32_t s = 0; s < cases[i].shards; s++) {
            assert_true(cases[i].shards == 1 || fixture->plan.borrowed_counts[s] > 0);
            rows_check(fixture, s, s * 5);
        }
    }
}

static void own_rows_have_their_vectors_and_keys(void **state)
{
    for (int keys = 0; keys < 2; keys++) {
        struct shard_spec spec = shard_fixture_spec(300, 3);
        struct shard_fixture *fixture = *state;
        spec.keys = keys;
        shard_fixture_create(fixture, &spec);
        for (uint32_t s = 0; s < 3; s++) {
            struct shard_own own;
            struct error err;
            uint32_t first = fixture->plan.starts[s];
            assert_int_equal(shard_own_load(&fixture->plan, s, &own, &err), STATUS_OK);
            assert_int_equal(own.count, shard_own_count(&fixture->plan, s));
            assert_int_equal(own.row_bytes, 12 * sizeof(float));
            for (uint32_t i = 0; i < own.count; i++) {
                uint32_t row = fixture->row_of_position[first + i];
                assert_int_equal(own.keys[i], keys ? shard_fixture_key(row) : row);
                assert_memory_equal(own.vectors + i * own.row_bytes,
                                    vector_set_row(&fixture->all, first + i), own.row_bytes);
            }
            shard_own_destroy(&own);
            shard_own_destroy(&own);
        }
    }
}

static void plan_gives_each_shard_the_positions_it_owns(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 4, 1, 300, 2, 2, 90};
    struct partition_info *info = calloc(1, sizeof(*info));
    struct shard_plan *plan = calloc(1, sizeof(*plan));
    assert_true(info && plan);
    for (info->shard_count = 1; info->shard_count <= ARRAY_LENGTH(counts); info->shard_count++) {
        for (uint32_t s = 0; s < info->shard_count; s++)
            info->own_counts[s] = counts[s];
        shard_plan_init(plan, info);
        uint32_t position = 0;
        for (uint32_t s = 0; s < info->shard_count; s++) {
            assert_int_equal(plan->starts[s], position);
            assert_int_equal(shard_own_count(plan, s), counts[s]);
            position += counts[s];
        }
        assert_int_equal(plan->starts[info->shard_count], position);
    }
    free(info);
    free(plan);
}

/* A shard count and rows near the limits of 32 bits. */
static void plan_holds_four_billion_rows(void **state)
{
    (void)state;
    struct partition_info *info = calloc(1, sizeof(*info));
    struct shard_plan *plan = calloc(1, sizeof(*plan));
    assert_true(info && plan);
    info->shard_count = PARTITION_SHARDS_MAX;
    for (uint32_t s = 0; s < info->shard_count; s++)
        info->own_counts[s] = 4294967;
    shard_plan_init(plan, info);
    assert_int_equal(plan->starts[info->shard_count], 4294967000u);
    uint64_t queries = 0;
    for (uint32_t s = 0; s < info->shard_count; s++)
        queries += shard_query_count(plan, s);
    assert_int_equal(queries, HOT_QUERIES_MAX);
    free(info);
    free(plan);
}

static void sample_queries_are_shared_out_by_rows(void **state)
{
    (void)state;
    static const uint32_t counts[][3] = {{1, 1, 1}, {100, 200, 5}, {1, 5000, 70000}, {30000, 1, 1}};
    struct partition_info *info = calloc(1, sizeof(*info));
    struct shard_plan *plan = calloc(1, sizeof(*plan));
    assert_true(info && plan);
    info->shard_count = 3;
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        uint32_t sum = 0;
        uint32_t rows = counts[i][0] + counts[i][1] + counts[i][2];
        for (uint32_t s = 0; s < 3; s++)
            info->own_counts[s] = counts[i][s];
        shard_plan_init(plan, info);
        for (uint32_t s = 0; s < 3; s++) {
            uint32_t queries = shard_query_count(plan, s);
            assert_in_range(queries, 0, counts[i][s]);
            sum += queries;
        }
        assert_int_equal(sum, MIN(rows, (uint32_t)HOT_QUERIES_MAX));
    }
    free(info);
    free(plan);
}

/* ---- lists ---- */

static void list_heads_keep_both_numbers(void **state)
{
    (void)state;
    for (uint32_t degree = 0; degree <= BLOCK_DEGREE_MAX; degree++)
        for (uint32_t kept = 0; kept <= degree; kept += 7) {
            uint32_t head = list_head(degree, kept);
            assert_int_equal(list_head_degree(head), degree);
            assert_int_equal(list_head_kept(head), kept);
        }
}

/* ---- the graph stage ---- */

/* The graphs of all shards as they were in RAM. */
struct built {
    uint32_t count;
    struct graph graphs[20];
};

static void on_placed(void *context, const struct vector_set *set, const struct graph *graph,
                      struct shard_graph_info *info)
{
    struct built *built = context;
    struct graph *copy = &built->graphs[built->count++];
    struct error err;
    assert_int_equal(graph->count, set->count);
    assert_int_equal(graph_create(copy, graph->count, graph->stride - 1, &err), STATUS_OK);
    memcpy(copy->slots, graph->slots, (size_t)graph->count * graph->stride * sizeof(*graph->slots));
    info->numa_node = 3;
    info->pages_asked = 9;
    info->pages_on_node = 8;
}

static void built_create(struct shard_fixture *fixture, struct built *built)
{
    struct shard_graph_hooks hooks = {.placed = on_placed, .context = built};
    built->count = 0;
    shard_fixture_graphs(fixture, &hooks);
    assert_int_equal(built->count, fixture->plan.shard_count);
}

static void built_destroy(struct built *built)
{
    for (uint32_t s = 0; s < built->count; s++)
        graph_destroy(&built->graphs[s]);
}

/* One shard of it. */
struct part {
    struct shard_rows rows;
    const struct graph *graph;
};

static struct part part_of(const struct shard_fixture *fixture, const struct built *built,
                           uint32_t shard)
{
    struct part part = {.graph = &built->graphs[shard]};
    struct error err;
    assert_int_equal(shard_rows_load(&fixture->plan, shard, 0, &part.rows, &err), STATUS_OK);
    assert_int_equal(part.graph->count, part.rows.own_count + part.rows.borrowed_count);
    return part;
}

/* Lists are those of the graph, and over kept edges alone the root reaches all own rows. */
static void own_lists_check(const struct shard_fixture *fixture, const struct part *part,
                            uint32_t root)
{
    size_t bytes;
    size_t at = 0;
    struct graph tree;
    struct error err;
    uint8_t *data =
        shard_fixture_section(fixture, shard_graph_piece(part->rows.shard), "own", 0, &bytes);
    assert_int_equal(graph_create(&tree, part->rows.own_count, fixture->spec.degree, &err),
                     STATUS_OK);
    for (uint32_t id = 0; id < part->rows.own_count; id++) {
        uint32_t degree = graph_degree(part->graph, id);
        uint32_t kept = list_head_kept(shard_piece_u32(data, at));
        assert_int_equal(list_head_degree(shard_piece_u32(data, at)), degree);
        assert_in_range(kept, 0, MIN(degree, fixture->spec.degree - 1));
        assert_memory_equal(data + at + 4, graph_neighbors(part->graph, id),
                            degree * sizeof(uint32_t));
        memcpy(graph_neighbors(&tree, id), data + at + 4, kept * sizeof(uint32_t));
        graph_set_degree(&tree, id, kept);
        at += 4 + degree * sizeof(uint32_t);
    }
    assert_int_equal(at, bytes);
    assert_int_equal(graph_check(&tree, fixture->spec.degree, &err), STATUS_OK);
    assert_int_equal(graph_fixture_reached(&tree, shard_local(&part->rows, root)), tree.count);
    graph_destroy(&tree);
    free(data);
}

/* One list of a lent section against the graph: its ids are those neighbours, in their order, that
 * `owner` owns or the halo has. Returns the bytes read. */
static size_t lent_list_check(const struct part *part, uint32_t owner, uint32_t id,
                              const uint8_t *data, const uint8_t *halo, uint32_t halo_count)
{
    const struct shard_plan *plan = part->rows.plan;
    const uint32_t *ids = graph_neighbors(part->graph, id);
    uint32_t start = plan->starts[owner];
    uint32_t degree = list_head_degree(shard_piece_u32(data, 4));
    uint32_t at = 0;
    assert_int_equal(shard_piece_u32(data, 0), shard_position(&part->rows, id) - start);
    assert_int_equal(list_head_kept(shard_piece_u32(data, 4)), 0);
    for (uint32_t i = 0; i < graph_degree(part->graph, id); i++) {
        uint32_t position = shard_position(&part->rows, ids[i]);
        uint32_t place = 0;
        if (shard_fixture_owner(plan, position) == owner) {
            assert_int_equal(shard_piece_u32(data, 8 + 4 * (size_t)at++), position - start);
            continue;
        }
        while (place < halo_count && shard_piece_u32(halo, 4 * (size_t)place) != position)
            place++;
        if (place < halo_count)
            assert_int_equal(shard_piece_u32(data, 8 + 4 * (size_t)at++), place | SHARD_GRAPH_HALO);
    }
    assert_int_equal(at, degree);
    return 8 + 4 * (size_t)degree;
}

/* Returns how many neighbours the halo left out. */
static uint32_t lent_section_check(const struct shard_fixture *fixture, const struct part *part,
                                   uint32_t owner)
{
    size_t row_bytes = fixture->all.dim * element_bytes(fixture->all.type);
    const struct shard_plan *plan = &fixture->plan;
    uint32_t id = part->rows.own_count;
    uint32_t id_end = part->rows.own_count + part->rows.borrowed_count;
    uint32_t left_out = 0;
    size_t bytes;
    uint8_t *data =
        shard_fixture_section(fixture, shard_graph_piece(part->rows.shard), "lent", owner, &bytes);
    while (id < id_end && shard_fixture_owner(plan, shard_position(&part->rows, id)) < owner)
        id++;
    if (bytes == 0) { /* nothing borrowed from it */
        assert_true(id == id_end ||
                    shard_fixture_owner(plan, shard_position(&part->rows, id)) > owner);
        free(data);
        return 0;
    }
    uint32_t rows = shard_piece_u32(data, 0);
    uint32_t halo_count = shard_piece_u32(data, 4);
    const uint8_t *halo = data + 8;
    assert_in_range(halo_count, 0, rows * SHARD_GRAPH_HALO_PER_ROW);
    for (uint32_t i = 0; i < halo_count; i++) {
        uint32_t position = shard_piece_u32(halo, 4 * (size_t)i);
        assert_true(i == 0 || position > shard_piece_u32(halo, 4 * (size_t)(i - 1)));
        assert_int_not_equal(shard_fixture_owner(plan, position), owner);
        assert_memory_equal(halo + 4 * (size_t)halo_count + i * row_bytes,
                            vector_set_row(&fixture->all, position), row_bytes);
    }
    size_t at = 8 + halo_count * (4 + row_bytes);
    for (uint32_t i = 0; i < rows; i++, id++) {
        assert_int_equal(shard_fixture_owner(plan, shard_position(&part->rows, id)), owner);
        left_out += graph_degree(part->graph, id) - list_head_degree(shard_piece_u32(data, at + 4));
        at += lent_list_check(part, owner, id, data + at, halo, halo_count);
    }
    assert_true(id == id_end || shard_fixture_owner(plan, shard_position(&part->rows, id)) > owner);
    assert_int_equal(at, bytes);
    free(data);
    return left_out;
}

/* Returns the root's position. */
static uint32_t root_check(const struct shard_fixture *fixture, uint32_t shard)
{
    float vector[VECTOR_FIXTURE_DIM_MAX];
    uint32_t position;
    struct shard_graph_info info;
    struct build_stage_record cost;
    struct error err;
    assert_int_equal(shard_root_load(&fixture->plan, shard, &position, vector, &err), STATUS_OK);
    assert_int_equal(shard_fixture_owner(&fixture->plan, position), shard);
    assert_memory_equal(vector, vector_set_row(&fixture->all, position),
                        fixture->all.dim * element_bytes(fixture->all.type));
    assert_int_equal(
        work_piece_read(fixture->work, shard_graph_piece(shard), &info, sizeof(info), &cost, &err),
        STATUS_OK);
    assert_int_equal(info.root, position);
    assert_int_equal(info.reserved, 0);
    assert_int_equal(info.query_count, shard_query_count(&fixture->plan, shard));
    assert_int_equal(info.numa_node, 3);
    assert_int_equal(info.pages_asked, 9);
    assert_int_equal(info.pages_on_node, 8);
    assert_true(cost.written_bytes > 0);
    return position;
}

/* With many small shards, rows have more neighbours elsewhere than a halo holds. */
static void graph_piece_tells_what_was_built(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 4, 20};
    struct shard_fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        struct shard_spec spec = shard_fixture_spec(counts[i] == 20 ? 300 : 900, counts[i]);
        struct built built;
        uint32_t left_out = 0;
        spec.strewn = counts[i] == 3 || counts[i] == 20;
        shard_fixture_create(fixture, &spec);
        built_create(fixture, &built);
        for (uint32_t s = 0; s < counts[i]; s++) {
            struct part part = part_of(fixture, &built, s);
            own_lists_check(fixture, &part, root_check(fixture, s));
            for (uint32_t owner = 0; owner < counts[i]; owner++)
                left_out += lent_section_check(fixture, &part, owner);
            shard_rows_destroy(&part.rows);
        }
        assert_true(counts[i] < 20 || left_out > 0);
        built_destroy(&built);
    }
}

static void visits_are_loaded_as_positions(void **state)
{
    enum { COUNT = 600 };
    struct shard_spec spec = shard_fixture_spec(COUNT, 3);
    struct shard_fixture *fixture = *state;
    struct hot_visits visits;
    struct error err;
    uint32_t query = 0;
    uint32_t elsewhere = 0;
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    assert_int_equal(shard_visits_load(&fixture->plan, &visits, &err), STATUS_OK);
    assert_int_equal(visits.query_count, COUNT); /* each row is one, in order of position */
    for (uint32_t s = 0; s < 3; s++) {
        struct shard_rows rows;
        assert_int_equal(shard_rows_load(&fixture->plan, s, 0, &rows, &err), STATUS_OK);
        for (; query < fixture->plan.starts[s + 1]; query++) {
            assert_in_range(visits.counts[query], 1, HOT_VISITS_MAX);
            for (uint32_t i = 0; i < visits.counts[query]; i++) {
                uint32_t position = visits.rows[(size_t)query * HOT_VISITS_MAX + i];
                assert_int_not_equal(position, query);
                assert_int_not_equal(shard_local(&rows, position), UINT32_MAX);
                elsewhere += shard_fixture_owner(&fixture->plan, position) != s;
            }
        }
        shard_rows_destroy(&rows);
    }
    assert_true(elsewhere > 0);
    hot_visits_destroy(&visits);
}

static void graph_piece_is_the_same_at_any_thread_count(void **state)
{
    static const char *const parts[] = {"own", "lent", "root", "visits"};
    struct shard_spec spec = shard_fixture_spec(800, 2);
    struct shard_fixture *fixture = *state;
    shard_fixture_create(fixture, &spec);
    for (uint32_t p = 0; p < ARRAY_LENGTH(parts); p++)
        for (uint32_t section = 0; section < (p == 1 ? 2u : 1u); section++) {
            uint8_t *data[2];
            size_t bytes[2];
            for (int i = 0; i < 2; i++) {
                omp_set_num_threads(1 + 2 * i);
                if (p + section == 0 || i == 1)
                    shard_fixture_graphs(fixture, NULL);
                data[i] = shard_fixture_section(fixture, shard_graph_piece(1), parts[p], section,
                                                &bytes[i]);
            }
            assert_int_equal(bytes[0], bytes[1]);
            assert_memory_equal(data[0], data[1], bytes[0]);
            free(data[0]);
            free(data[1]);
        }
}

static void a_wish_to_stop_leaves_no_graph_piece(void **state)
{
    struct shard_spec spec = shard_fixture_spec(300, 2);
    struct shard_fixture *fixture = *state;
    atomic_int cancel = 1;
    struct build_stage_record cost = {0};
    struct error err;
    shard_fixture_create(fixture, &spec);
    fixture->monitor.cancel = &cancel;
    struct shard_graph_params params = shard_fixture_graph_params(fixture);
    assert_int_equal(
        shard_graph_run(&fixture->plan, 0, &params, NULL, &fixture->monitor, &cost, &err),
        STATUS_CANCELLED);
    assert_false(work_piece_done(fixture->work, shard_graph_piece(0)));
}

/* ---- pieces that lie ---- */

/* A record of `borrowed-1`: owner, index, vector. */
static void borrowed_row_of_nowhere_is_corrupt(void **state)
{
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(300, 3);
    size_t record = 8 + 12 * sizeof(float);
    shard_fixture_create(fixture, &spec);
    struct shard_piece *piece = shard_piece_load(fixture, partition_piece);
    uint32_t last = fixture->plan.borrowed_counts[1] - 1;
    const struct shard_word words[] = {
        {"borrowed-1", 0, 0, 3},
        {"borrowed-1", 0, last * record, UINT32_MAX},
        {"borrowed-1", 0, 4, UINT32_MAX},
        {"borrowed-1", 0, last * record + 4, shard_fixture_rows(fixture)},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++) {
        struct shard_rows rows = {0};
        struct error err = {0};
        shard_piece_commit_word(fixture, piece, &words[i]);
        assert_int_equal(shard_rows_load(&fixture->plan, 1, 0, &rows, &err), STATUS_CORRUPT);
        assert_non_null(strstr(err.text, "names a row that is not there"));
        assert_false(work_piece_done(fixture->work, partition_piece));
        assert_null(rows.set.rows);
    }
    shard_piece_commit(fixture, piece);
    rows_check(fixture, 1, 0);
    shard_piece_free(piece);
}

static void partition_with_too_few_rows_is_corrupt(void **state)
{
    static const char *const parts[] = {"own-0", "borrowed-0"};
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(300, 2);
    shard_fixture_create(fixture, &spec);
    struct shard_piece *piece = shard_piece_load(fixture, partition_piece);
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++) {
        struct shard_rows rows = {0};
        struct shard_own own = {0};
        struct error err = {0};
        size_t bytes;
        const uint8_t *data = shard_piece_data(piece, parts[i], 0, &bytes);
        shard_piece_commit_with(fixture, piece, parts[i], 0, data, bytes - 1);
        assert_int_equal(shard_rows_load(&fixture->plan, 0, 0, &rows, &err), STATUS_CORRUPT);
        assert_null(rows.set.rows);
        assert_false(work_piece_done(fixture->work, partition_piece));
        shard_piece_commit_with(fixture, piece, parts[i], 0, data, bytes - 1);
        enum status status = shard_own_load(&fixture->plan, 0, &own, &err);
        assert_int_equal(status, i == 0 ? STATUS_CORRUPT : STATUS_OK);
        assert_true((own.vectors == NULL) == (i == 0));
        shard_own_destroy(&own);
    }
    shard_piece_free(piece);
}

/* A sample query that expands more than there is room for, or a row that there is not. */
static void visits_of_nowhere_are_corrupt(void **state)
{
    static const struct shard_word words[] = {{"visits", 0, 0, HOT_VISITS_MAX + 1},
                                              {"visits", 0, 0, UINT32_MAX},
                                              {"visits", 0, 4, 300},
                                              {"visits", 0, 4, UINT32_MAX}};
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(300, 2);
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    struct shard_piece *piece = shard_piece_load(fixture, shard_graph_piece(1));
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++) {
        struct hot_visits visits;
        struct error err = {0};
        shard_piece_commit_word(fixture, piece, &words[i]);
        assert_int_equal(shard_visits_load(&fixture->plan, &visits, &err), STATUS_CORRUPT);
        assert_null(visits.rows);
        assert_false(work_piece_done(fixture->work, shard_graph_piece(1)));
    }
    shard_piece_free(piece);
}

/* The root of a shard is a row that it owns. */
static void root_of_nowhere_is_corrupt(void **state)
{
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(300, 2);
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    struct shard_piece *piece = shard_piece_load(fixture, shard_graph_piece(1));
    const uint32_t roots[] = {UINT32_MAX, 300, fixture->plan.starts[1] - 1, 0};
    for (size_t i = 0; i < ARRAY_LENGTH(roots); i++) {
        float vector[12];
        uint32_t position;
        struct error err = {0};
        struct shard_word word = {"root", 0, 0, roots[i]};
        shard_piece_commit_word(fixture, piece, &word);
        assert_int_equal(shard_root_load(&fixture->plan, 1, &position, vector, &err),
                         STATUS_CORRUPT);
    }
    shard_piece_free(piece);
}

/* Lists that do not fit what was made ready for them. */
static void list_that_does_not_fit_is_corrupt(void **state)
{
    static const uint32_t lists[][5] = {{3, 7, 8, 9}, /* fits */
                                        {4, 7, 8, 9, 10},
                                        {0xffff, 1},
                                        {3 | 4u << 16, 7, 8, 9},
                                        {1u << 16}};
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(300, 1);
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    struct shard_piece *piece = shard_piece_load(fixture, shard_graph_piece(0));
    for (size_t i = 0; i < ARRAY_LENGTH(lists); i++) {
        struct work_input *input = NULL;
        struct error err;
        uint32_t ids[3];
        uint32_t degree;
        uint32_t kept;
        shard_piece_commit_with(fixture, piece, "own", 0, lists[i], sizeof(lists[i]));
        assert_int_equal(
            work_input_open(fixture->work, shard_graph_piece(0), "own", 0, 0, &input, &err),
            STATUS_OK);
        enum status status = shard_list_read(input, ids, 3, &degree, &kept, &err);
        assert_int_equal(status, i == 0 ? STATUS_OK : STATUS_CORRUPT);
        if (i == 0) {
            assert_int_equal(degree, 3);
            assert_int_equal(kept, 0);
            assert_memory_equal(ids, lists[0] + 1, sizeof(ids));
        }
        work_input_close(input);
    }
    shard_piece_free(piece);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SHARD_TEST(rows_are_loaded_in_order_of_position),
        SHARD_TEST(own_rows_have_their_vectors_and_keys),
        cmocka_unit_test(plan_gives_each_shard_the_positions_it_owns),
        cmocka_unit_test(plan_holds_four_billion_rows),
        cmocka_unit_test(sample_queries_are_shared_out_by_rows),
        cmocka_unit_test(list_heads_keep_both_numbers),
        SHARD_TEST(graph_piece_tells_what_was_built),
        SHARD_TEST(visits_are_loaded_as_positions),
        SHARD_TEST(graph_piece_is_the_same_at_any_thread_count),
        SHARD_TEST(a_wish_to_stop_leaves_no_graph_piece),
        SHARD_TEST(borrowed_row_of_nowhere_is_corrupt),
        SHARD_TEST(partition_with_too_few_rows_is_corrupt),
        SHARD_TEST(visits_of_nowhere_are_corrupt),
        SHARD_TEST(root_of_nowhere_is_corrupt),
        SHARD_TEST(list_that_does_not_fit_is_corrupt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
