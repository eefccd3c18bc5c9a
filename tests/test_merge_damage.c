/*
 * test_merge_damage.c - merging from pieces that are not what they should be though their checksums
 * hold: refused and forgotten, never a crash or a list that leads nowhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "builder/shard_pack.h"
#include "common/random.h"
#include "tests/shard_fixture.h"

static enum status merge_try(struct shard_fixture *fixture, uint32_t shard, struct error *err)
{
    struct build_stage_record cost = {0};
    *err = (struct error){0};
    work_piece_forget(fixture->work, shard_merge_piece(shard));
    return merge_run(&fixture->plan, shard, &fixture->merge, &fixture->monitor, &cost, err);
}

/* A word of the graph piece of one of three shards that is not true. */
struct lie {
    uint32_t piece;
    struct shard_word word;
};

enum { LIARS = 3 };

/* The graph pieces as they should be, and whose is not so at the moment. Each commit flushes files
 * to disk, so there are no more of them than must be. */
struct liars {
    struct shard_fixture *fixture;
    struct shard_piece *pieces[LIARS];
    uint32_t latest;
};

static void liars_create(struct shard_fixture *fixture, const struct shard_spec *spec,
                         struct liars *liars)
{
    shard_fixture_create(fixture, spec);
    shard_fixture_graphs(fixture, NULL);
    liars->fixture = fixture;
    liars->latest = 0;
    for (uint32_t s = 0; s < LIARS; s++)
        liars->pieces[s] = shard_piece_load(fixture, shard_graph_piece(s));
}

static void liars_destroy(struct liars *liars)
{
    for (uint32_t s = 0; s < LIARS; s++)
        shard_piece_free(liars->pieces[s]);
}

/* Merges shard 0 with one lie told. A piece that is not believed is forgotten: the next run must
 * not find it in the same state. */
static enum status merge_with_lie(struct liars *liars, const struct lie *lie, struct error *err)
{
    struct shard_fixture *fixture = liars->fixture;
    if (liars->latest != lie->piece)
        shard_piece_commit(fixture, liars->pieces[liars->latest]);
    liars->latest = lie->piece;
    shard_piece_commit_word(fixture, liars->pieces[lie->piece], &lie->word);
    enum status status = merge_try(fixture, 0, err);
    assert_true((status == STATUS_OK) == work_piece_done(fixture->work, shard_merge_piece(0)));
    for (uint32_t s = 0; s < LIARS; s++)
        assert_true(work_piece_done(fixture->work, shard_graph_piece(s)) ==
                    (status == STATUS_OK || s != lie->piece));
    return status;
}

/* Byte offset of list `row` in a piece's own lists. */
static size_t own_offset(const struct shard_piece *piece, uint32_t row)
{
    size_t bytes;
    size_t at = 0;
    const uint8_t *data = shard_piece_data(piece, "own", 0, &bytes);
    for (uint32_t i = 0; i < row; i++)
        at += 4 + 4 * (size_t)list_head_degree(shard_piece_u32(data, at));
    return at;
}

static void lists_that_lie_are_corrupt(void **state)
{
    enum { R = 12, COUNT = 400 };
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(COUNT, LIARS);
    struct liars liars;
    size_t bytes;
    struct error err;
    liars_create(fixture, &spec, &liars);
    const struct shard_plan *plan = &fixture->plan;
    uint32_t own = shard_own_count(plan, 0);
    uint32_t members = own + plan->borrowed_counts[0];
    size_t last = own_offset(liars.pieces[0], own - 1);
    const uint8_t *lent = shard_piece_data(liars.pieces[1], "lent", 0, &bytes);
    uint32_t rows = shard_piece_u32(lent, 0);
    uint32_t halo = shard_piece_u32(lent, 4);
    size_t lists = 8 + halo * (4 + 12 * sizeof(float));
    uint32_t child = plan->parents[1] == 0 ? 1 : 2;
    assert_true(rows > 1 && halo > 1 && list_head_degree(shard_piece_u32(lent, lists + 4)) > 0);
    const struct lie lies[] = {
        {0, {"own", 0, 0, list_head(R + 1, 0)}},
        {0, {"own", 0, 0, list_head(3, 4)}},
        {0, {"own", 0, 0, list_head(R, R)}}, /* no place for an edge to a root */
        {0, {"own", 0, 0, UINT32_MAX}},
        {0, {"own", 0, 4, members}},
        {0, {"own", 0, 4, UINT32_MAX}},
        {0, {"own", 0, last + 4, members}},
        {0, {"own", 0, last, 1}},
        {1, {"lent", 0, 0, plan->borrowed_counts[1] + 1}},
        {1, {"lent", 0, 0, UINT32_MAX}},
        {1, {"lent", 0, 0, rows - 1}},
        {1, {"lent", 0, 0, rows + 1}},
        {1, {"lent", 0, 0, 0}},
        {1, {"lent", 0, 4, halo - 1}},
        {1, {"lent", 0, 4, halo + 1}},
        {1, {"lent", 0, 4, UINT32_MAX}},
        {1, {"lent", 0, 4, COUNT}},
        {1, {"lent", 0, 8, COUNT}},
        {1, {"lent", 0, 8 + 4 * (size_t)(halo - 1), UINT32_MAX}},
        {1, {"lent", 0, lists, own}},
        {1, {"lent", 0, lists, UINT32_MAX}},
        {1, {"lent", 0, lists, own - 1}}, /* the others come too late then */
        {1, {"lent", 0, lists + 4, list_head(R + 1, 0)}},
        {1, {"lent", 0, lists + 8, own}},
        {1, {"lent", 0, lists + 8, SHARD_GRAPH_HALO | halo}},
        {1, {"lent", 0, lists + 8, UINT32_MAX}},
        {child, {"root", 0, 0, 0}},
        {child, {"root", 0, 0, UINT32_MAX}},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(lies); i++)
        if (merge_with_lie(&liars, &lies[i], &err) != STATUS_CORRUPT)
            fail_msg("lie %zu: %s of %u, %u at %zu: %s", i, lies[i].word.part, lies[i].piece,
                     lies[i].word.value, lies[i].word.offset, err.text);
    shard_piece_commit(fixture, liars.pieces[liars.latest]);
    assert_int_equal(merge_try(fixture, 0, &err), STATUS_OK);
    liars_destroy(&liars);
}

/* Sections that end too early or too late. */
static void sections_of_another_length_are_corrupt(void **state)
{
    static const struct {
        uint32_t piece;
        const char *part;
    } cases[] = {{0, "own"}, {1, "lent"}};
    static const int changes[] = {-4, -1, 1, 4, 400};
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(400, LIARS);
    struct liars liars;
    liars_create(fixture, &spec, &liars);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        for (size_t c = 0; c < ARRAY_LENGTH(changes); c++) {
            const struct shard_piece *piece = liars.pieces[cases[i].piece];
            size_t bytes;
            struct error err;
            const uint8_t *good = shard_piece_data(piece, cases[i].part, 0, &bytes);
            uint8_t *other = calloc(bytes + 400, 1);
            assert_non_null(other);
            memcpy(other, good, bytes);
            shard_piece_commit_with(fixture, piece, cases[i].part, 0, other,
                                    (size_t)((ptrdiff_t)bytes + changes[c]));
            if (merge_try(fixture, 0, &err) != STATUS_CORRUPT)
                fail_msg("%s with %d bytes more was believed", cases[i].part, changes[c]);
            free(other);
        }
        shard_piece_commit(fixture, liars.pieces[cases[i].piece]);
    }
    liars_destroy(&liars);
}

/* A row has at most PARTITION_BORROWERS_MAX lists beside its own. */
static void row_lent_too_often_is_corrupt(void **state)
{
    enum { SHARDS = 5 };
    static const uint32_t lent[] = {1, 0, 9, 1, 7}; /* row 9's list: 7 */
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(400, SHARDS);
    struct error err;
    spec.strewn = true;
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    for (uint32_t lenders = 3; lenders < SHARDS; lenders++) {
        for (uint32_t s = 1; s < SHARDS; s++) {
            struct shard_piece *piece = shard_piece_load(fixture, shard_graph_piece(s));
            shard_piece_commit_with(fixture, piece, "lent", 0, lent,
                                    s <= lenders ? sizeof(lent) : 0);
            shard_piece_free(piece);
        }
        enum status status = merge_try(fixture, 0, &err);
        assert_int_equal(status, lenders == 3 ? STATUS_OK : STATUS_CORRUPT);
    }
    assert_non_null(strstr(err.text, "lends a row too often"));
}

/* Any word of any piece, anything in its place: refused, or lists that can be used. */
static void no_word_of_a_piece_makes_a_bad_merge(void **state)
{
    enum { R = 5, COUNT = 120 };
    static const char *const parts[] = {"own", "lent", "root"};
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(COUNT, LIARS);
    struct liars liars;
    uint32_t refused = 0;
    spec.vectors.dim = 2;
    spec.degree = R;
    liars_create(fixture, &spec, &liars);
    for (uint64_t draw = 0; draw < 60; draw++) {
        const uint32_t values[] = {0,
                                   1,
                                   R,
                                   R + 1,
                                   COUNT,
                                   UINT32_MAX,
                                   SHARD_GRAPH_HALO,
                                   list_head(R, R),
                                   (uint32_t)random_below(1, draw, COUNT + 30)};
        uint64_t part = random_below(2, draw, ARRAY_LENGTH(parts));
        size_t bytes;
        struct error err;
        struct shard_lists lists;
        struct lie lie = {part == 0 ? 0 : 1 + (uint32_t)random_below(3, draw, LIARS - 1),
                          {parts[part], 0, 0, values[random_below(4, draw, ARRAY_LENGTH(values))]}};
        shard_piece_data(liars.pieces[lie.piece], lie.word.part, 0, &bytes);
        lie.word.offset = part == 2 || bytes == 0 ? 0 : 4 * random_below(5, draw, bytes / 4);
        enum status status = bytes == 0 ? STATUS_CORRUPT : merge_with_lie(&liars, &lie, &err);
        refused += status != STATUS_OK;
        if (status != STATUS_OK) {
            assert_int_equal(status, STATUS_CORRUPT);
            continue;
        }
        if (shard_lists_load(&fixture->plan, 0, &lists, &err) != STATUS_OK)
            fail_msg("%s: %u at %zu: %s", lie.word.part, lie.word.value, lie.word.offset, err.text);
        shard_lists_destroy(&lists);
    }
    assert_in_range(refused, 15, 58);
    liars_destroy(&liars);
}

/* The next stage does not take positions on trust either. */
static void merged_list_of_nowhere_is_corrupt(void **state)
{
    static const struct shard_word words[] = {{"lists", 0, 0, 13},
                                              {"lists", 0, 0, 3 | 4u << 16},
                                              {"lists", 0, 4, 300},
                                              {"lists", 0, 4, UINT32_MAX}};
    struct shard_fixture *fixture = *state;
    struct shard_spec spec = shard_fixture_spec(300, 2);
    shard_fixture_create(fixture, &spec);
    shard_fixture_graphs(fixture, NULL);
    shard_fixture_merges(fixture);
    struct shard_piece *piece = shard_piece_load(fixture, shard_merge_piece(1));
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++) {
        struct shard_lists lists = {0};
        struct error err;
        shard_piece_commit_word(fixture, piece, &words[i]);
        assert_int_equal(shard_lists_load(&fixture->plan, 1, &lists, &err), STATUS_CORRUPT);
        assert_null(lists.graph.slots);
        assert_false(work_piece_done(fixture->work, shard_merge_piece(1)));
    }
    shard_piece_free(piece);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SHARD_TEST(lists_that_lie_are_corrupt),
        SHARD_TEST(sections_of_another_length_are_corrupt),
        SHARD_TEST(row_lent_too_often_is_corrupt),
        SHARD_TEST(no_word_of_a_piece_makes_a_bad_merge),
        SHARD_TEST(merged_list_of_nowhere_is_corrupt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
