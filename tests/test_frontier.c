/*
 * test_frontier.c - the candidate list against a naive model: an array that is sorted anew after
 * each step. Inputs are drawn from few distances and few nodes, so that ties and nodes met again
 * are the rule.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "common/random.h"
#include "query/frontier.h"

enum { SEED = 20240614, CAPACITY_MAX = 40, GUARD = 0x5a };

/* A frontier with one entry behind its memory that nothing may touch. */
struct list {
    struct frontier frontier;
    uint64_t entries[CAPACITY_MAX + 2];
    uint8_t states[CAPACITY_MAX + 2];
};

static struct frontier *list_init(struct list *list, uint32_t capacity)
{
    list->frontier = (struct frontier){.entries = list->entries, .states = list->states};
    memset(list->entries, GUARD, sizeof(list->entries));
    memset(list->states, GUARD, sizeof(list->states));
    frontier_reset(&list->frontier, capacity);
    return &list->frontier;
}

static void list_check_guard(const struct list *list)
{
    uint64_t guard;
    memset(&guard, GUARD, sizeof(guard));
    assert_true(list->entries[list->frontier.capacity + 1] == guard);
    assert_int_equal(list->states[list->frontier.capacity + 1], GUARD);
}

static uint32_t insert(struct frontier *f, float distance, uint32_t node, uint8_t state)
{
    return frontier_insert(f, frontier_entry(distance, node), state);
}

/* ---- entries ---- */

static void entry_keeps_distance_and_node(void **state)
{
    (void)state;
    static const float distances[] = {0.0f,  -0.0f,  1.0f,     -1.0f,     0x1p-149f,
                                      1e30f, -1e30f, INFINITY, -INFINITY, 0x1.fffffep127f};
    static const uint32_t nodes[] = {0, 1, 0x7fffffff, 0x80000000, UINT32_MAX - 1};
    for (size_t i = 0; i < ARRAY_LENGTH(distances); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(nodes); j++) {
            uint64_t entry = frontier_entry(distances[i], nodes[j]);
            float distance = frontier_distance(entry);
            assert_memory_equal(&distance, &distances[i], sizeof(distance));
            assert_int_equal(frontier_node(entry), nodes[j]);
        }
}

static void entry_order_is_distance_order_for_any_sign(void **state)
{
    (void)state;
    static const float ascending[] = {-INFINITY, -0x1.fffffep127f, -2.5f, -2.0f, -0x1p-149f,
                                      0.0f,      0x1p-149f,        2.0f,  2.5f,  1e30f,
                                      INFINITY};
    for (size_t i = 1; i < ARRAY_LENGTH(ascending); i++)
        assert_true(frontier_entry(ascending[i - 1], UINT32_MAX - 1) <
                    frontier_entry(ascending[i], 0));
    print_message("seed %d\n", SEED);
    for (uint64_t i = 0; i < 100000; i++) {
        uint32_t bits[2] = {(uint32_t)random_at(SEED, 2 * i), (uint32_t)random_at(SEED, 2 * i + 1)};
        float a, b;
        memcpy(&a, &bits[0], sizeof(a));
        memcpy(&b, &bits[1], sizeof(b));
        if (isnan(a) || isnan(b) || a == b)
            continue;
        assert_int_equal(frontier_order(a) < frontier_order(b), a < b);
    }
}

static void ties_are_ordered_by_node(void **state)
{
    (void)state;
    struct list list;
    struct frontier *f = list_init(&list, 3);
    assert_int_equal(insert(f, -1.5f, 30, FRONTIER_NEW), 0);
    assert_int_equal(insert(f, -1.5f, 10, FRONTIER_NEW), 0);
    assert_int_equal(insert(f, -1.5f, 20, FRONTIER_NEW), 1);
    assert_int_equal(insert(f, -1.5f, 40, FRONTIER_NEW), FRONTIER_NONE);
    assert_int_equal(insert(f, -1.5f, 5, FRONTIER_NEW), 0);
    static const uint32_t wanted[] = {5, 10, 20};
    assert_int_equal(f->size, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(frontier_node(f->entries[i]), wanted[i]);
    list_check_guard(&list);
}

/* ---- states ---- */

static void a_node_met_again_is_recognised_and_its_state_only_raised(void **state)
{
    (void)state;
    struct list list;
    struct frontier *f = list_init(&list, 4);
    assert_int_equal(insert(f, 1.0f, 1, FRONTIER_NEW), 0);
    assert_int_equal(insert(f, 2.0f, 2, FRONTIER_NEW), 1);
    assert_int_equal(insert(f, 2.0f, 2, FRONTIER_DONE), 1);
    assert_int_equal(f->size, 2);
    assert_int_equal(f->states[1], FRONTIER_DONE);
    assert_int_equal(insert(f, 2.0f, 2, FRONTIER_NEW), 1);
    assert_int_equal(f->states[1], FRONTIER_DONE);
    assert_int_equal(f->states[0], FRONTIER_NEW);
    assert_int_equal(f->size, 2);
}

static void the_last_entry_of_a_full_list_is_recognised(void **state)
{
    (void)state;
    struct list list;
    struct frontier *f = list_init(&list, 2);
    assert_int_equal(insert(f, 1.0f, 1, FRONTIER_NEW), 0);
    assert_int_equal(insert(f, 2.0f, 2, FRONTIER_NEW), 1);
    assert_int_equal(insert(f, 2.0f, 2, FRONTIER_DONE), 1);
    assert_int_equal(insert(f, 2.0f, 3, FRONTIER_NEW), FRONTIER_NONE);
    assert_int_equal(f->states[1], FRONTIER_DONE);
    list_check_guard(&list);
}

static void next_is_none_when_all_is_done_and_returns_to_what_comes_before(void **state)
{
    (void)state;
    struct list list;
    struct frontier *f = list_init(&list, 2);
    assert_int_equal(frontier_next(f), FRONTIER_NONE);
    insert(f, 3.0f, 3, FRONTIER_DONE);
    insert(f, 4.0f, 4, FRONTIER_DONE);
    assert_int_equal(frontier_next(f), FRONTIER_NONE);
    insert(f, 2.0f, 2, FRONTIER_DONE); /* full: the cursor is behind the end */
    assert_int_equal(frontier_next(f), FRONTIER_NONE);
    insert(f, 1.0f, 1, FRONTIER_NEW);
    assert_int_equal(frontier_next(f), 0);
}

static void what_is_expanded_is_still_to_be_read(void **state)
{
    (void)state;
    struct list list;
    struct frontier *f = list_init(&list, 3);
    assert_int_equal(frontier_next_unread(f), FRONTIER_NONE);
    insert(f, 2.0f, 2, FRONTIER_EXPANDED);
    insert(f, 3.0f, 3, FRONTIER_NEW);
    assert_int_equal(frontier_next(f), 1);
    assert_int_equal(frontier_next_unread(f), 0);
    insert(f, 2.0f, 2, FRONTIER_DONE);
    assert_int_equal(frontier_next_unread(f), 1);
    insert(f, 3.0f, 3, FRONTIER_DONE);
    assert_int_equal(frontier_next_unread(f), FRONTIER_NONE);
    /* What enters before both cursors is found by that which looks for it. */
    insert(f, 1.0f, 1, FRONTIER_EXPANDED);
    assert_int_equal(frontier_next(f), FRONTIER_NONE);
    assert_int_equal(frontier_next_unread(f), 0);
    assert_int_equal(insert(f, 1.0f, 1, FRONTIER_NEW), 0);
    assert_int_equal(f->states[0], FRONTIER_EXPANDED);
    list_check_guard(&list);
}

/* ---- against the model ---- */

struct item {
    float distance;
    uint32_t node;
    uint8_t state;
};

struct model {
    struct item items[CAPACITY_MAX + 1];
    uint32_t size, capacity;
};

static int compare_items(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->node > y->node) - (x->node < y->node);
}

static uint32_t model_place(const struct model *m, uint32_t node)
{
    for (uint32_t i = 0; i < m->size; i++)
        if (m->items[i].node == node)
            return i;
    return FRONTIER_NONE;
}

static uint32_t model_insert(struct model *m, struct item item)
{
    uint32_t place = model_place(m, item.node);
    if (place != FRONTIER_NONE) {
        m->items[place].state = MAX(m->items[place].state, item.state);
        return place;
    }
    m->items[m->size++] = item;
    qsort(m->items, m->size, sizeof(item), compare_items);
    m->size = MIN(m->size, m->capacity);
    return model_place(m, item.node);
}

/* The first item in a state up to `most`. */
static uint32_t model_first(const struct model *m, uint8_t most)
{
    for (uint32_t i = 0; i < m->size; i++)
        if (m->items[i].state <= most)
            return i;
    return FRONTIER_NONE;
}

static void assert_same(const struct frontier *f, const struct model *m)
{
    assert_int_equal(f->size, m->size);
    for (uint32_t i = 0; i < m->size; i++) {
        assert_true(frontier_distance(f->entries[i]) == m->items[i].distance);
        assert_int_equal(frontier_node(f->entries[i]), m->items[i].node);
        assert_int_equal(f->states[i], m->items[i].state);
        if (i < f->cursor)
            assert_int_not_equal(f->states[i], FRONTIER_NEW);
        if (i < f->unread)
            assert_int_equal(f->states[i], FRONTIER_DONE);
    }
}

/* A node's distance is a function of the node, as code distances are. Few values: ties abound. */
static float distance_of(uint64_t seed, uint32_t node)
{
    return (float)random_below(seed, node, 21) / 4.0f - 2.5f;
}

/* Takes the best by either cursor, as the searches do: to be expanded or read, or to be read. */
static void take_as_model(struct frontier *f, struct model *model, uint64_t draw)
{
    if (draw & 1) {
        uint32_t next = frontier_next(f);
        assert_int_equal(next, model_first(model, FRONTIER_NEW));
        if (next != FRONTIER_NONE)
            f->states[next] = model->items[next].state =
                draw & 2 ? FRONTIER_EXPANDED : FRONTIER_DONE;
        assert_same(f, model);
    }
    if (draw & 4) {
        uint32_t unread = frontier_next_unread(f);
        assert_int_equal(unread, model_first(model, FRONTIER_EXPANDED));
        if (unread != FRONTIER_NONE)
            f->states[unread] = model->items[unread].state = FRONTIER_DONE;
        assert_same(f, model);
    }
}

static void run_against_model(uint64_t seed, uint32_t capacity)
{
    static const uint8_t states[] = {FRONTIER_NEW, FRONTIER_NEW, FRONTIER_EXPANDED, FRONTIER_DONE};
    struct list list;
    struct frontier *f = list_init(&list, capacity);
    struct model model = {.capacity = capacity};
    for (uint64_t step = 0; step < 400; step++) {
        uint64_t draw = random_at(seed + 1, step);
        struct item item = {.node = (uint32_t)(draw % (3 * capacity + 1)),
                            .state = states[draw >> 32 & 3]};
        item.distance = distance_of(seed, item.node);
        uint64_t entry = frontier_entry(item.distance, item.node);
        bool ranks = entry < frontier_bound(f);
        uint32_t wanted = model_insert(&model, item);
        assert_int_equal(wanted != FRONTIER_NONE, ranks);
        assert_int_equal(frontier_insert(f, entry, item.state), wanted);
        assert_same(f, &model);
        list_check_guard(&list);
        take_as_model(f, &model, draw >> 40);
    }
}

static void frontier_equals_a_sorted_array(void **state)
{
    (void)state;
    print_message("seed %d\n", SEED);
    for (uint32_t round = 0; round < 120; round++)
        run_against_model(random_at(SEED, round), 1 + round % CAPACITY_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entry_keeps_distance_and_node),
        cmocka_unit_test(entry_order_is_distance_order_for_any_sign),
        cmocka_unit_test(ties_are_ordered_by_node),
        cmocka_unit_test(a_node_met_again_is_recognised_and_its_state_only_raised),
        cmocka_unit_test(the_last_entry_of_a_full_list_is_recognised),
        cmocka_unit_test(next_is_none_when_all_is_done_and_returns_to_what_comes_before),
        cmocka_unit_test(what_is_expanded_is_still_to_be_read),
        cmocka_unit_test(frontier_equals_a_sorted_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
