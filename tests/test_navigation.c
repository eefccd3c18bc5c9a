/*
 * test_navigation.c - navigation.bin: what is encoded decodes, and each broken field is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout/navigation.h"

enum { COUNT = 6, DEGREE = 3, NODE_LIMIT = 1000, WORDS = 8 + COUNT + COUNT * DEGREE };

/* Images are of their exact length, so that ASan sees a read past them. */
static uint32_t *image_make(void)
{
    static const uint32_t nodes[COUNT] = {0, 999, 5, 5, 17, 300};
    static const uint32_t neighbors[COUNT * DEGREE] = {
        1,
        2,
        3,
        0,
        NAVIGATION_NONE,
        NAVIGATION_NONE,
        NAVIGATION_NONE,
        NAVIGATION_NONE,
        NAVIGATION_NONE,
        5,
        4,
        NAVIGATION_NONE,
        0,
        1,
        2,
        3,
        4,
        0,
    };
    const struct navigation navigation = {COUNT, DEGREE, 4, nodes, neighbors};
    assert_int_equal(navigation_bytes(COUNT, DEGREE), WORDS * sizeof(uint32_t));
    uint32_t *image = malloc(WORDS * sizeof(uint32_t));
    assert_non_null(image);
    navigation_encode(&navigation, image);
    return image;
}

static void navigation_round_trips(void **state)
{
    (void)state;
    uint32_t *image = image_make();
    struct navigation navigation;
    struct error err;
    assert_int_equal(
        navigation_decode(image, WORDS * sizeof(uint32_t), NODE_LIMIT, &navigation, &err),
        STATUS_OK);
    assert_int_equal(navigation.count, COUNT);
    assert_int_equal(navigation.degree, DEGREE);
    assert_int_equal(navigation.entry, 4);
    assert_int_equal(navigation.nodes[1], 999);
    assert_int_equal(navigation.neighbors[DEGREE * 3], 5);
    assert_memory_equal(image, "NJNV", 4);
    free(image);
}

static void navigation_rejects_each_broken_word(void **state)
{
    (void)state;
    static const struct {
        uint32_t word, value;
        enum status status;
    } cases[] = {
        {0, 1, STATUS_CORRUPT},     /* magic */
        {1, 2, STATUS_UNSUPPORTED}, /* version */
        {2, 0, STATUS_CORRUPT},     /* count */
        {2, COUNT + 1, STATUS_CORRUPT},
        {2, UINT32_MAX, STATUS_CORRUPT},
        {3, 0, STATUS_CORRUPT}, /* degree */
        {3, DEGREE + 1, STATUS_CORRUPT},
        {3, 256, STATUS_CORRUPT},
        {3, UINT32_MAX, STATUS_CORRUPT},
        {4, COUNT, STATUS_CORRUPT}, /* entry */
        {5, 1, STATUS_CORRUPT},     /* reserved */
        {7, 1u << 31, STATUS_CORRUPT},
        {8, NODE_LIMIT, STATUS_CORRUPT},       /* a node */
        {14, COUNT, STATUS_CORRUPT},           /* a neighbour */
        {14, NAVIGATION_NONE, STATUS_CORRUPT}, /* padding before a neighbour */
        {14, NAVIGATION_NONE - 1, STATUS_CORRUPT},
    };
    uint32_t *image = image_make();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const uint32_t before = image[cases[i].word];
        image[cases[i].word] = cases[i].value;
        struct navigation navigation = {.count = 77};
        struct error err = {0};
        assert_int_equal(
            navigation_decode(image, WORDS * sizeof(uint32_t), NODE_LIMIT, &navigation, &err),
            cases[i].status);
        assert_true(strlen(err.text) > 0);
        assert_int_equal(navigation.count, 77);
        image[cases[i].word] = before;
    }
    free(image);
}

static void navigation_rejects_every_other_length(void **state)
{
    (void)state;
    uint32_t *image = image_make();
    struct navigation navigation;
    for (size_t length = 0; length < WORDS * sizeof(uint32_t); length++) {
        uint32_t *exact = malloc(length ? length : 1);
        memcpy(exact, image, length);
        assert_int_equal(navigation_decode(exact, length, NODE_LIMIT, &navigation, NULL),
                         STATUS_CORRUPT);
        free(exact);
    }
    free(image);
}

static void navigation_bytes_do_not_wrap(void **state)
{
    (void)state;
    assert_true(navigation_bytes(UINT32_MAX, 255) == 32 + UINT64_C(4) * UINT32_MAX * 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(navigation_round_trips),
        cmocka_unit_test(navigation_rejects_each_broken_word),
        cmocka_unit_test(navigation_rejects_every_other_length),
        cmocka_unit_test(navigation_bytes_do_not_wrap),
    };
    return cmocka_run_group_tests_name("navigation", tests, NULL, NULL);
}
