/*
 * test_topology_plan.c - which NUMA nodes build shards, with how many threads and how much memory:
 * a table of machines, and the stated rules on random ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"
#include "common/topology.h"

#define GIB (1ull << 30)

#define NODE(cpus, gib)                                                                            \
    {                                                                                              \
        .cpu_count = (cpus), .memory_bytes = (gib)*GIB                                             \
    }

struct plan_case {
    const char *claim;
    struct topology_numa_node nodes[8];
    uint32_t node_count;
    struct topology_lane_request request; /* sizes in GiB */
    struct topology_lane lanes[8];        /* as above */
    uint32_t lane_count;
};

static const struct plan_case plan_cases[] = {
    {"one node: one lane with everything", {NODE(8, 64)}, 1, {8, 4, 10, 60, 4}, {{0, 8, 56}}, 1},
    {"two nodes: a lane each",
     {NODE(4, 64), NODE(4, 64)},
     2,
     {8, 4, 10, 100, 20},
     {{0, 4, 40}, {1, 4, 40}},
     2},
    {"one shard needs one lane, which gets all threads",
     {NODE(4, 64), NODE(4, 64)},
     2,
     {8, 1, 10, 100, 0},
     {{0, 8, 64}},
     1},
    {"the budget holds one shard at a time",
     {NODE(4, 64), NODE(4, 64)},
     2,
     {8, 4, 10, 24, 5},
     {{0, 8, 19}},
     1},
    {"the budget holds two shards exactly",
     {NODE(4, 64), NODE(4, 64)},
     2,
     {8, 4, 10, 25, 5},
     {{0, 4, 10}, {1, 4, 10}},
     2},
    {"a budget below one shard still gives a lane",
     {NODE(4, 64), NODE(4, 64)},
     2,
     {8, 4, 10, 9, 0},
     {{0, 8, 9}},
     1},
    {"a budget below what is fixed still gives a lane",
     {NODE(4, 64), NODE(4, 64)},
     2,
     {8, 4, 10, 9, 20},
     {{0, 8, 0}},
     1},
    {"a lane's memory ends with its node's",
     {NODE(4, 16), NODE(4, 64)},
     2,
     {8, 4, 10, 80, 0},
     {{0, 4, 16}, {1, 4, 40}},
     2},
    {"four nodes, three shards",
     {NODE(6, 32), NODE(6, 32), NODE(6, 32), NODE(6, 32)},
     4,
     {24, 3, 8, 96, 0},
     {{0, 8, 32}, {1, 8, 32}, {2, 8, 32}},
     3},
    {"four nodes, two threads",
     {NODE(6, 32), NODE(6, 32), NODE(6, 32), NODE(6, 32)},
     4,
     {2, 9, 8, 64, 0},
     {{0, 1, 32}, {1, 1, 32}},
     2},
    {"most CPUs first, ties by index, threads by CPUs",
     {NODE(2, 32), NODE(8, 32), NODE(2, 32), NODE(4, 32)},
     4,
     {16, 9, 8, 64, 0},
     {{1, 8, 16}, {3, 4, 16}, {0, 2, 16}, {2, 2, 16}},
     4},
    {"every lane has a thread, however small its node",
     {NODE(30, 32), NODE(1, 32)},
     2,
     {4, 9, 8, 64, 0},
     {{0, 3, 32}, {1, 1, 32}},
     2},
    {"nodes that cannot hold a shard build none",
     {NODE(8, 7), NODE(2, 8), NODE(4, 64)},
     3,
     {12, 9, 8, 64, 0},
     {{2, 8, 32}, {1, 4, 8}},
     2},
    {"no node can hold a shard: one lane, not bound",
     {NODE(8, 7), NODE(8, 7)},
     2,
     {16, 9, 8, 20, 2},
     {{TOPOLOGY_ANY, 16, 18}},
     1},
    {"eight nodes, half of them memory alone",
     {NODE(4, 32), NODE(0, 99), NODE(4, 32), NODE(0, 99), NODE(4, 32), NODE(0, 99), NODE(4, 32),
      NODE(0, 99)},
     8,
     {16, 9, 8, 400, 0},
     {{0, 4, 32}, {2, 4, 32}, {4, 4, 32}, {6, 4, 32}},
     4},
    {"eight nodes",
     {NODE(16, 32), NODE(16, 32), NODE(16, 32), NODE(16, 32), NODE(16, 32), NODE(16, 32),
      NODE(16, 32), NODE(16, 32)},
     8,
     {64, 100, 8, 80, 0},
     {{0, 8, 10},
      {1, 8, 10},
      {2, 8, 10},
      {3, 8, 10},
      {4, 8, 10},
      {5, 8, 10},
      {6, 8, 10},
      {7, 8, 10}},
     8},
    {"no nodes at all", {{0}}, 0, {3, 2, 1, 8, 0}, {{TOPOLOGY_ANY, 3, 8}}, 1},
    {"nothing asked for counts as one", {NODE(4, 4), NODE(4, 4)}, 2, {0}, {{0, 1, 0}}, 1},
};

static void lanes_follow_the_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(plan_cases); i++) {
        const struct plan_case *c = &plan_cases[i];
        struct topology_lane_request request = c->request;
        request.shard_bytes *= GIB;
        request.memory_bytes *= GIB;
        request.fixed_bytes *= GIB;
        struct topology_lane lanes[9];
        memset(lanes, 0xa5, sizeof(lanes));
        uint32_t count = topology_plan_lanes(c->nodes, c->node_count, &request, lanes);
        if (count != c->lane_count)
            fail_msg("%s: %u lanes, want %u", c->claim, count, c->lane_count);
        for (uint32_t l = 0; l < count; l++) {
            const struct topology_lane *want = &c->lanes[l];
            if (lanes[l].numa != want->numa || lanes[l].threads != want->threads ||
                lanes[l].memory_bytes != want->memory_bytes * GIB)
                fail_msg("%s: lane %u is on node %u, %u threads, %llu bytes", c->claim, l,
                         lanes[l].numa, lanes[l].threads,
                         (unsigned long long)lanes[l].memory_bytes);
        }
        const uint8_t *beyond = (const uint8_t *)&lanes[MAX(c->node_count, 1)];
        assert_int_equal(*beyond, 0xa5);
    }
}

/* The rules as topology.h states them, without a word of how lanes are chosen. */
static void plan_check(const struct topology_numa_node *nodes, uint32_t node_count,
                       const struct topology_lane_request *r, const struct topology_lane *lanes,
                       uint32_t count)
{
    uint32_t threads = 0, able = 0;
    uint64_t cpus = 0, used = 0;
    for (uint32_t n = 0; n < node_count; n++)
        able += nodes[n].cpu_count > 0 && nodes[n].memory_bytes >= r->shard_bytes;
    assert_in_range(count, 1, MAX(able, 1));
    assert_int_equal(lanes[0].numa == TOPOLOGY_ANY, able == 0);
    for (uint32_t l = 0; l < count; l++) {
        threads += lanes[l].threads;
        assert_true(lanes[l].threads >= 1);
        used += lanes[l].memory_bytes;
        if (able == 0)
            continue;
        const struct topology_numa_node *node = &nodes[lanes[l].numa];
        cpus += node->cpu_count;
        assert_true(node->memory_bytes >= r->shard_bytes && node->cpu_count > 0);
        assert_true(lanes[l].memory_bytes <= node->memory_bytes);
        if (r->shard_bytes + r->fixed_bytes <= r->memory_bytes)
            assert_true(lanes[l].memory_bytes >= r->shard_bytes);
        if (l > 0) {
            const struct topology_lane *before = &lanes[l - 1];
            uint32_t more = nodes[before->numa].cpu_count;
            assert_true(more > node->cpu_count ||
                        (more == node->cpu_count && before->numa < lanes[l].numa));
        }
    }
    assert_int_equal(threads, r->threads);
    assert_true(used <= r->memory_bytes - MIN(r->memory_bytes, r->fixed_bytes));
    if (able == 0)
        return;
    if (count > 1)
        assert_true(count * r->shard_bytes + r->fixed_bytes <= r->memory_bytes);
    assert_true(count <= r->shard_count && count <= r->threads);
    bool another = count < able && count < r->shard_count && count < r->threads &&
                   (count + 1) * r->shard_bytes + r->fixed_bytes <= r->memory_bytes;
    assert_false(another);
    for (uint32_t l = 0; l < count; l++)
        if (r->threads <= cpus)
            assert_true(lanes[l].threads <= nodes[lanes[l].numa].cpu_count);
}

enum { SEED = 20240611 };

static uint32_t draw(uint64_t *at, uint64_t bound)
{
    return (uint32_t)random_below(SEED, (*at)++, bound);
}

static void lanes_of_random_machines_keep_the_rules(void **state)
{
    (void)state;
    print_message("seed %d\n", SEED);
    uint64_t at = 0;
    for (unsigned round = 0; round < 20000; round++) {
        struct topology_numa_node nodes[8] = {{0}};
        uint32_t node_count = draw(&at, 9);
        for (uint32_t n = 0; n < node_count; n++) {
            nodes[n].cpu_count = draw(&at, 6);
            nodes[n].memory_bytes = draw(&at, 20);
        }
        struct topology_lane_request request;
        request.threads = 1 + draw(&at, 30);
        request.shard_count = 1 + draw(&at, 10);
        request.shard_bytes = draw(&at, 15);
        request.memory_bytes = draw(&at, 100);
        request.fixed_bytes = draw(&at, 20);
        struct topology_lane lanes[8];
        uint32_t count = topology_plan_lanes(nodes, node_count, &request, lanes);
        plan_check(nodes, node_count, &request, lanes, count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lanes_follow_the_table),
        cmocka_unit_test(lanes_of_random_machines_keep_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
