/*
 * test_reservoir.c - what a row keeps of the candidates it is offered, against a sorted list of
 * them: the least by (key, id), in whatever order they came and however often; the room a row has;
 * and the keys that distances are kept as.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "builder/reservoir.h"
#include "common/compiler.h"
#include "common/random.h"

enum {
    SEED = 20240607,
    ROWS = 3,
    OFFERS_MAX = 2000,
    CAPACITY_MAX = 400, /* of lists of 255 */
};

struct offer {
    uint32_t id;
    uint16_t key;
};

static struct reservoirs reservoirs_of(uint32_t degree)
{
    struct reservoirs reservoirs;
    struct error err;
    assert_int_equal(reservoirs_create(&reservoirs, ROWS, degree, &err), STATUS_OK);
    assert_int_equal(reservoirs.capacity, reservoir_capacity(degree));
    assert_in_range(reservoirs.capacity, 1, CAPACITY_MAX);
    return reservoirs;
}

static int by_key_and_id(const void *a, const void *b)
{
    const struct offer *x = a;
    const struct offer *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* ids[]: what a reservoir of `capacity` keeps of offers[count], ascending; returns how many. */
static uint32_t definition(const struct offer *offers, uint32_t count, uint32_t capacity,
                           uint32_t *ids)
{
    struct offer sorted[OFFERS_MAX];
    uint32_t kept = 0;
    memcpy(sorted, offers, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), by_key_and_id);
    for (uint32_t i = 0; i < count && kept < capacity; i++)
        if (i == 0 || sorted[i].id != sorted[i - 1].id)
            ids[kept++] = sorted[i].id;
    qsort(ids, kept, sizeof(*ids), by_id);
    return kept;
}

/* The row's ids, ascending; it is an empty list then. */
static uint32_t take(struct reservoirs *reservoirs, uint32_t row, uint32_t *ids)
{
    uint32_t count = reservoir_take(reservoirs, row, ids);
    assert_in_range(count, 0, reservoirs->capacity);
    assert_int_equal(graph_degree(&reservoirs->graph, row), 0);
    qsort(ids, count, sizeof(*ids), by_id);
    return count;
}

static void shuffle(struct offer *offers, uint32_t count, uint64_t stream)
{
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = (uint32_t)random_below(SEED + stream, i, i);
        struct offer moved = offers[i - 1];
        offers[i - 1] = offers[j];
        offers[j] = moved;
    }
}

/* ---- content ---- */

/* Offers of ids that are all different, of `keys` different keys. */
static void offers_make(struct offer *offers, uint32_t count, uint32_t keys, uint64_t stream)
{
    for (uint32_t i = 0; i < count; i++)
        offers[i] = (struct offer){
            .id = (i * 7919 + 13) % 1000003,
            .key = (uint16_t)(random_below(SEED + stream, i, keys) * (UINT16_MAX / keys)),
        };
}

/* Makes the offers to the middle row; its neighbours must not notice. */
static void offers_check(struct reservoirs *reservoirs, const struct offer *offers, uint32_t count)
{
    uint32_t found[CAPACITY_MAX];
    uint32_t wanted[CAPACITY_MAX];
    uint32_t kept = definition(offers, count, reservoirs->capacity, wanted);
    for (uint32_t row = 0; row < ROWS; row += ROWS - 1)
        reservoir_offer(reservoirs, row, row + 70, 9);
    for (uint32_t i = 0; i < count; i++) {
        reservoir_prefetch(reservoirs, 1);
        reservoir_offer(reservoirs, 1, offers[i].id, offers[i].key);
    }
    assert_int_equal(take(reservoirs, 1, found), kept);
    assert_memory_equal(found, wanted, kept * sizeof(*found));
    for (uint32_t row = 0; row < ROWS; row += ROWS - 1) {
        assert_int_equal(take(reservoirs, row, found), 1);
        assert_int_equal(found[0], row + 70);
    }
}

static void a_reservoir_keeps_the_least_by_key_then_id(void **state)
{
    (void)state;
    static const uint32_t degrees[] = {4, 32, 64, 255};
    static const uint32_t keys[] = {1, 2, 7, 100, UINT16_MAX};
    struct offer offers[OFFERS_MAX];
    print_message("seed=%d\n", SEED);
    for (size_t d = 0; d < ARRAY_LENGTH(degrees); d++) {
        struct reservoirs reservoirs = reservoirs_of(degrees[d]);
        uint32_t capacity = reservoirs.capacity;
        const uint32_t counts[] = {0, 1, capacity - 1, capacity, capacity + 1, 3 * capacity};
        for (size_t k = 0; k < ARRAY_LENGTH(keys); k++)
            for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
                offers_make(offers, counts[c], keys[k], k);
                offers_check(&reservoirs, offers, counts[c]);
            }
        graph_destroy(&reservoirs.graph);
    }
}

/* Rows meet in many leaves, and so a candidate is offered many times: before it was kept, while it
 * is, and after better ones took its place. */
static void the_order_of_offers_and_repeats_change_nothing(void **state)
{
    (void)state;
    static const uint32_t keys[] = {1, 3, 50, 5000};
    struct offer offers[OFFERS_MAX];
    struct reservoirs reservoirs = reservoirs_of(32);
    for (size_t k = 0; k < ARRAY_LENGTH(keys); k++)
        for (uint32_t copies = 1; copies <= 5; copies++) {
            uint32_t different = 300;
            uint32_t count = different * copies;
            offers_make(offers, different, keys[k], 10 + k);
            for (uint32_t c = 1; c < copies; c++)
                memcpy(offers + (size_t)c * different, offers, different * sizeof(*offers));
            for (uint64_t permutation = 0; permutation < 20; permutation++) {
                offers_check(&reservoirs, offers, count);
                shuffle(offers, count, permutation);
            }
            qsort(offers, count, sizeof(*offers), by_key_and_id);
            offers_check(&reservoirs, offers, count);
            for (uint32_t i = 0; i < count / 2; i++) {
                struct offer moved = offers[i];
                offers[i] = offers[count - 1 - i];
                offers[count - 1 - i] = moved;
            }
            offers_check(&reservoirs, offers, count);
        }
    graph_destroy(&reservoirs.graph);
}

/* The ends of both ranges. */
static void any_id_and_any_key_can_be_kept(void **state)
{
    (void)state;
    static const uint32_t ids[] = {0, 1, UINT32_MAX - 1, UINT32_MAX};
    static const uint16_t keys[] = {UINT16_MAX, 0, UINT16_MAX, 0};
    struct offer offers[OFFERS_MAX];
    uint32_t found[CAPACITY_MAX];
    struct reservoirs reservoirs = reservoirs_of(4);
    offers_make(offers, 100, 1000, 3);
    for (uint32_t i = 0; i < 4; i++)
        offers[i] = (struct offer){.id = ids[i], .key = keys[i]};
    offers_check(&reservoirs, offers, 4);
    offers_check(&reservoirs, offers, 100);
    for (uint32_t i = 0; i < 4; i++)
        reservoir_offer(&reservoirs, 0, ids[i], keys[i]);
    assert_int_equal(take(&reservoirs, 0, found), 4);
    assert_memory_equal(found, ids, sizeof(ids));
    graph_destroy(&reservoirs.graph);
}

static void a_row_that_was_taken_is_an_empty_list_and_can_be_filled_again(void **state)
{
    (void)state;
    struct offer offers[OFFERS_MAX];
    uint32_t ids[CAPACITY_MAX];
    struct reservoirs reservoirs = reservoirs_of(16);
    for (uint32_t row = 0; row < ROWS; row++)
        assert_int_equal(take(&reservoirs, row, ids), 0);
    offers_make(offers, 200, 30, 4);
    offers_check(&reservoirs, offers, 200);
    assert_int_equal(take(&reservoirs, 1, ids), 0);
    offers_check(&reservoirs, offers + 50, 3);
    graph_destroy(&reservoirs.graph);
}

/* ---- room ---- */

/* A list of `degree` has to fit where the candidates were, and these are more by half a list. */
static void any_degree_has_room_for_its_list_and_its_candidates(void **state)
{
    (void)state;
    for (uint32_t degree = 4; degree <= 255; degree++) {
        size_t bytes = reservoir_row_bytes(degree);
        struct reservoirs reservoirs = reservoirs_of(degree);
        struct graph *graph = &reservoirs.graph;
        struct error err;
        assert_int_equal(bytes % 64, 0);
        assert_int_equal(graph->stride * sizeof(uint32_t), bytes);
        assert_true(graph->stride > degree);
        assert_true(reservoirs.capacity >= degree + degree / 5 * 2);
        assert_true(4 + reservoirs.capacity * 6 <= bytes);
        for (uint32_t i = 0; i < degree; i++)
            graph_neighbors(graph, 1)[i] = UINT32_MAX;
        graph_set_degree(graph, 1, degree);
        assert_int_equal(graph_degree(graph, 0), 0);
        assert_int_equal(graph_degree(graph, 2), 0);
        assert_int_equal(graph_check(graph, degree, &err), STATUS_CORRUPT);
        graph_destroy(graph);
    }
}

/* ---- keys ---- */

/* Keys of all powers of two, their neighbours, and steps between. */
static void keys_ascend_with_distances(void **state)
{
    (void)state;
    uint16_t last = reservoir_key(0);
    assert_int_equal(last, 0);
    for (int64_t distance = 0; distance < INT32_MAX;
         distance += 1 + distance / 5000 + (int64_t)random_below(SEED, (uint64_t)distance, 3)) {
        uint16_t key = reservoir_key((int32_t)distance);
        assert_true(key >= last);
        last = key;
    }
    for (uint32_t bit = 1; bit < 31; bit++) {
        int32_t distance = (int32_t)(1u << bit);
        assert_true(reservoir_key(distance - 1) <= reservoir_key(distance));
        assert_true(reservoir_key(distance) <= reservoir_key(distance + 1));
        assert_true(reservoir_key(distance) > reservoir_key(distance / 2));
    }
    assert_true(reservoir_key((1 << 30) - 1) >= last - (1 << 11));
    assert_true(reservoir_key(INT32_MAX) >= last);
}

/* 11 bits behind the first: distances apart by more than 1 / 2048 are told apart, as are all small
 * ones but 0 and 1. */
static void keys_tell_distances_apart_by_one_part_in_2048(void **state)
{
    (void)state;
    for (int32_t distance = 1; distance < 4096; distance++)
        assert_true(reservoir_key(distance) < reservoir_key(distance + 1));
    for (int64_t distance = 4096; distance < 1 << 30; distance += distance / 100) {
        int32_t further = (int32_t)(distance + distance / 2048 + 1);
        assert_true(reservoir_key((int32_t)distance) < reservoir_key(further));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reservoir_keeps_the_least_by_key_then_id),
        cmocka_unit_test(the_order_of_offers_and_repeats_change_nothing),
        cmocka_unit_test(any_id_and_any_key_can_be_kept),
        cmocka_unit_test(a_row_that_was_taken_is_an_empty_list_and_can_be_filled_again),
        cmocka_unit_test(any_degree_has_room_for_its_list_and_its_candidates),
        cmocka_unit_test(keys_ascend_with_distances),
        cmocka_unit_test(keys_tell_distances_apart_by_one_part_in_2048),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
