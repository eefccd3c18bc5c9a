/*
 * test_topology.c - made-up machines of one to eight NUMA nodes, and binding on the machine at
 * hand. Plans are tested in test_topology_plan.c. What needs two real nodes is skipped, and said
 * so, where there is one; `make numa-test` runs this program where there are two.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/topology_internal.h"

#define GIB (1ull << 30)

enum { PAGE = 4096, NODE_MASK_BITS = 4096 };

/* ---- fixtures ---- */

static int environment_clear(void **state)
{
    (void)state;
    unsetenv("HWLOC_SYNTHETIC");
    unsetenv("HWLOC_XMLFILE");
    unsetenv("HWLOC_THISSYSTEM");
    return 0;
}

static struct topology *load(void)
{
    struct topology *t = NULL;
    struct error err = {0};
    if (topology_load(&t, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return t;
}

static struct topology *load_synthetic(const char *description)
{
    setenv("HWLOC_SYNTHETIC", description, 1);
    struct topology *t = load();
    unsetenv("HWLOC_SYNTHETIC");
    assert_false(topology_is_real(t));
    return t;
}

/* A NUMA node of a machine that synthetic descriptions cannot make. CPUs are cores of one thread.
 */
struct made_node {
    uint32_t os_index;
    uint64_t memory_bytes;
    uint32_t huge_pages;
    uint64_t cpus; /* mask; nodes with the same one are beside each other in the table */
};

/* Opens an element of hwloc's XML up to, but without, its closing bracket. */
static void write_object(FILE *file, const char *type, unsigned os_index, uint64_t cpus,
                         uint64_t numas)
{
    static unsigned id;
    unsigned long long c = cpus, n = numas;
    fprintf(file,
            "<object type=\"%s\" os_index=\"%u\" gp_index=\"%u\" cpuset=\"0x%llx\" "
            "complete_cpuset=\"0x%llx\" nodeset=\"0x%llx\" complete_nodeset=\"0x%llx\"",
            type, os_index, ++id, c, c, n, n);
}

static void write_numa(FILE *file, const struct made_node *node)
{
    unsigned long long memory = node->memory_bytes;
    write_object(file, "NUMANode", node->os_index, node->cpus, 1ull << node->os_index);
    fprintf(file,
            " local_memory=\"%llu\"><page_type size=\"4096\" count=\"%llu\"/>"
            "<page_type size=\"2097152\" count=\"%u\"/></object>\n",
            memory, memory / PAGE - node->huge_pages * 512ull, node->huge_pages);
}

/* A package for each distinct mask of CPUs, with its NUMA nodes and cores. */
static void write_xml(FILE *file, const struct made_node *nodes, size_t count)
{
    uint64_t cpus = 0, numas = 0;
    for (size_t i = 0; i < count; i++) {
        cpus |= nodes[i].cpus;
        numas |= 1ull << nodes[i].os_index;
    }
    fprintf(file, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                  "<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology version=\"2.0\">\n");
    write_object(file, "Machine", 0, cpus, numas);
    fprintf(file, " allowed_cpuset=\"0x%llx\" allowed_nodeset=\"0x%llx\">\n",
            (unsigned long long)cpus, (unsigned long long)numas);
    for (size_t first = 0, end; first < count; first = end) {
        uint64_t local = 0;
        for (end = first; end < count && nodes[end].cpus == nodes[first].cpus; end++)
            local |= 1ull << nodes[end].os_index;
        write_object(file, "Package", (unsigned)first, nodes[first].cpus, local);
        fprintf(file, ">\n");
        for (size_t i = first; i < end; i++)
            write_numa(file, &nodes[i]);
        for (unsigned cpu = 0; cpu < 64; cpu++) {
            if ((nodes[first].cpus >> cpu & 1) == 0)
                continue;
            write_object(file, "Core", cpu, 1ull << cpu, local);
            fprintf(file, ">");
            write_object(file, "PU", cpu, 1ull << cpu, local);
            fprintf(file, "/></object>\n");
        }
        fprintf(file, "</object>\n");
    }
    fprintf(file, "</object>\n</topology>\n");
}

static struct topology *load_made(const struct made_node *nodes, size_t count)
{
    const char *directory = getenv("TMPDIR");
    char path[512];
    int length =
        snprintf(path, sizeof(path), "%s/nightjar-topology.XXXXXX", directory ? directory : "/tmp");
    assert_in_range(length, 1, sizeof(path) - 1);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    write_xml(file, nodes, count);
    assert_int_equal(fclose(file), 0);
    setenv("HWLOC_XMLFILE", path, 1);
    struct topology *t = load();
    unsetenv("HWLOC_XMLFILE");
    unlink(path);
    assert_false(topology_is_real(t));
    return t;
}

/* Pages of 4 KB, private and untouched. */
static uint8_t *map_pages(size_t count)
{
    uint8_t *memory =
        mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    assert_int_equal(madvise(memory, count * PAGE, MADV_NOHUGEPAGE), 0);
    return memory;
}

static void touch_pages(uint8_t *memory, size_t count)
{
    for (size_t i = 0; i < count; i++)
        memory[i * PAGE] = 1;
}

struct policy {
    int mode;
    unsigned long nodes[NODE_MASK_BITS / (8 * sizeof(unsigned long))];
};

static bool policy_get(struct policy *policy)
{
    memset(policy, 0, sizeof(*policy));
    return syscall(SYS_get_mempolicy, &policy->mode, policy->nodes, NODE_MASK_BITS, NULL, 0) == 0;
}

static void policy_check(int mode, uint32_t node)
{
    struct policy now, want = {.mode = mode};
    if (mode != MPOL_DEFAULT)
        want.nodes[node / (8 * sizeof(unsigned long))] = 1ul << node % (8 * sizeof(unsigned long));
    assert_true(policy_get(&now));
    assert_int_equal(now.mode, want.mode);
    assert_memory_equal(now.nodes, want.nodes, sizeof(want.nodes));
}

static bool policy_set(int mode, uint32_t node)
{
    struct policy want = {.mode = mode};
    want.nodes[node / (8 * sizeof(unsigned long))] = 1ul << node % (8 * sizeof(unsigned long));
    return syscall(SYS_set_mempolicy, mode, want.nodes, NODE_MASK_BITS) == 0;
}

static cpu_set_t affinity(void)
{
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    return set;
}

/* The real machine; skips where the kernel does not let this process bind. */
static struct topology *load_bindable(void)
{
    struct topology *t = load();
    assert_true(topology_is_real(t));
    struct topology_binding got = topology_bind_thread(t, 0, 0, TOPOLOGY_MEMORY_STRICT);
    topology_unbind_thread(t);
    if (!got.pinned || got.memory != TOPOLOGY_MEMORY_STRICT) {
        print_message("binding is refused here: %s\n", strerror(got.os_error));
        topology_destroy(t);
        skip();
    }
    return t;
}

/* ---- machines ---- */

static void synthetic_machines_are_seen_as_described(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint32_t nodes, cpus;
        uint64_t memory_bytes;
    } cases[] = {
        {"NUMANode:1(memory=4GiB) Core:4 PU:1", 1, 4, 4 * GIB},
        {"NUMANode:2(memory=2GiB) Core:4 PU:2", 2, 8, 2 * GIB},
        {"Package:2 NUMANode:2(memory=1GiB) Core:3 PU:1", 4, 3, GIB},
        {"NUMANode:8(memory=16GiB) Core:16 PU:2", 8, 32, 16 * GIB},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct topology *t = load_synthetic(cases[i].text);
        assert_int_equal(topology_numa_count(t), cases[i].nodes);
        for (uint32_t n = 0; n < cases[i].nodes; n++) {
            const struct topology_numa_node *numa = topology_numa(t, n);
            assert_int_equal(numa->os_index, n);
            assert_int_equal(numa->cpu_count, cases[i].cpus);
            assert_int_equal(numa->memory_bytes, cases[i].memory_bytes);
            assert_int_equal(numa->huge_page_bytes, 0);
            assert_ptr_equal(numa, topology_numa(t, 0) + n);
        }
        topology_destroy(t);
    }
}

static void cores_are_named_before_their_second_threads(void **state)
{
    (void)state;
    static const unsigned want[2][4] = {{0, 2, 1, 3}, {4, 6, 5, 7}};
    struct topology *t = load_synthetic("NUMANode:2 Core:2 PU:2");
    for (uint32_t n = 0; n < 2; n++)
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(topology_cpu(t, n, i), want[n][i % 4]);
    topology_destroy(t);
}

static void nodes_ascend_by_the_kernels_number(void **state)
{
    (void)state;
    static const struct made_node nodes[] = {
        {.os_index = 6, .memory_bytes = 3 * GIB, .cpus = 0x01},
        {.os_index = 1, .memory_bytes = 2 * GIB, .cpus = 0x0e},
        {.os_index = 4, .memory_bytes = 1 * GIB, .cpus = 0x30},
    };
    struct topology *t = load_made(nodes, ARRAY_LENGTH(nodes));
    assert_int_equal(topology_numa_count(t), 3);
    static const struct topology_numa_node want[] = {
        {.os_index = 1, .cpu_count = 3, .memory_bytes = 2 * GIB},
        {.os_index = 4, .cpu_count = 2, .memory_bytes = 1 * GIB},
        {.os_index = 6, .cpu_count = 1, .memory_bytes = 3 * GIB},
    };
    for (uint32_t n = 0; n < 3; n++)
        assert_memory_equal(topology_numa(t, n), &want[n], sizeof(want[n]));
    assert_int_equal(topology_cpu(t, 0, 0), 1);
    assert_int_equal(topology_cpu(t, 1, 1), 5);
    assert_int_equal(topology_cpu(t, 2, 3), 0);
    topology_destroy(t);
}

static void reserved_huge_pages_are_no_normal_memory(void **state)
{
    (void)state;
    static const struct made_node nodes[] = {
        {.os_index = 0, .memory_bytes = 4 * GIB, .huge_pages = 512, .cpus = 0x3},
    };
    struct topology *t = load_made(nodes, ARRAY_LENGTH(nodes));
    assert_int_equal(topology_numa(t, 0)->huge_page_bytes, GIB);
    assert_int_equal(topology_numa(t, 0)->memory_bytes, 3 * GIB);
    topology_destroy(t);
}

/* As HBM and CXL memory: the kernel lists no CPU for it, hwloc those it is near to. */
static void memory_without_cpus_is_left_out(void **state)
{
    (void)state;
    static const struct made_node nodes[] = {
        {.os_index = 2, .memory_bytes = 16 * GIB, .cpus = 0x0f},
        {.os_index = 0, .memory_bytes = 64 * GIB, .cpus = 0x0f},
        {.os_index = 1, .memory_bytes = 64 * GIB, .cpus = 0xf0},
        {.os_index = 3, .memory_bytes = 16 * GIB, .cpus = 0xf0},
    };
    struct topology *t = load_made(nodes, ARRAY_LENGTH(nodes));
    assert_int_equal(topology_numa_count(t), 2);
    for (uint32_t n = 0; n < 2; n++) {
        assert_int_equal(topology_numa(t, n)->os_index, n);
        assert_int_equal(topology_numa(t, n)->cpu_count, 4);
        assert_int_equal(topology_numa(t, n)->memory_bytes, 64 * GIB);
    }
    topology_destroy(t);
}

static void cpus_without_memory_are_lent_to_the_smallest_node(void **state)
{
    (void)state;
    static const struct made_node nodes[] = {
        {.os_index = 0, .memory_bytes = 0, .cpus = 0x007},
        {.os_index = 1, .memory_bytes = GIB, .cpus = 0x078},
        {.os_index = 2, .memory_bytes = GIB, .cpus = 0x180},
    };
    struct topology *t = load_made(nodes, ARRAY_LENGTH(nodes));
    assert_int_equal(topology_numa_count(t), 2);
    assert_int_equal(topology_numa(t, 0)->os_index, 1);
    assert_int_equal(topology_numa(t, 0)->cpu_count, 5);
    assert_int_equal(topology_numa(t, 1)->os_index, 2);
    assert_int_equal(topology_numa(t, 1)->cpu_count, 4);
    topology_destroy(t);
}

static void a_lent_cpu_does_not_bring_back_memory_without_cpus(void **state)
{
    (void)state;
    static const struct made_node nodes[] = {
        {.os_index = 0, .memory_bytes = 0, .cpus = 0x3},
        {.os_index = 1, .memory_bytes = GIB, .cpus = 0xc},
        {.os_index = 2, .memory_bytes = GIB, .cpus = 0xc},
    };
    struct topology *t = load_made(nodes, ARRAY_LENGTH(nodes));
    assert_int_equal(topology_numa_count(t), 1);
    assert_int_equal(topology_numa(t, 0)->os_index, 1);
    assert_int_equal(topology_numa(t, 0)->cpu_count, 4);
    topology_destroy(t);
}

static void machines_of_unknown_memory_keep_their_nodes(void **state)
{
    (void)state;
    static const struct made_node nodes[] = {
        {.os_index = 0, .memory_bytes = 0, .cpus = 0x3},
        {.os_index = 1, .memory_bytes = 0, .cpus = 0xc},
    };
    struct topology *t = load_made(nodes, ARRAY_LENGTH(nodes));
    assert_int_equal(topology_numa_count(t), 2);
    assert_int_equal(topology_numa(t, 1)->cpu_count, 2);
    assert_int_equal(topology_numa(t, 1)->memory_bytes, 0);
    topology_destroy(t);
}

static void machines_that_cannot_be_made_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"HWLOC_SYNTHETIC", "two nodes, please"},
        {"HWLOC_XMLFILE", "/nonexistent/machine.xml"},
        {"HWLOC_XMLFILE", "/dev/null"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct topology *t = (struct topology *)&t;
        struct error err = {0};
        setenv(cases[i][0], cases[i][1], 1);
        enum status status = topology_load(&t, &err);
        unsetenv(cases[i][0]);
        assert_int_equal(status, STATUS_INVALID);
        assert_ptr_equal(t, &t);
        assert_non_null(strstr(err.text, cases[i][0]));
        assert_non_null(strstr(err.text, cases[i][1]));
    }
    topology_destroy(NULL);
}

static void nothing_is_bound_on_made_up_machines(void **state)
{
    (void)state;
    cpu_set_t before = affinity();
    struct topology *t = load_synthetic("NUMANode:2 Core:1 PU:1");
    /* Where policies are refused there is nothing to keep. */
    bool preferring = policy_set(MPOL_PREFERRED, 0);
    struct topology_binding got = topology_bind_thread(t, 1, 0, TOPOLOGY_MEMORY_STRICT);
    assert_false(got.pinned);
    assert_int_equal(got.memory, TOPOLOGY_MEMORY_UNBOUND);
    assert_int_equal(got.os_error, 0);
    topology_unbind_thread(t);
    cpu_set_t after = affinity();
    assert_true(CPU_EQUAL(&before, &after));
    if (preferring) {
        policy_check(MPOL_PREFERRED, 0);
        assert_int_equal(syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0), 0);
    }
    uint8_t *memory = map_pages(4);
    touch_pages(memory, 4);
    struct topology_placement place = topology_place(t, memory, 4 * PAGE, 0);
    assert_int_equal(place.pages_sampled, 0);
    assert_int_equal(place.pages_on_node, 0);
    assert_int_equal(place.os_error, 0);
    munmap(memory, 4 * PAGE);
    topology_destroy(t);
}

static void lanes_are_planned_on_loaded_machines(void **state)
{
    (void)state;
    struct topology *t = load_synthetic("NUMANode:8(memory=16GiB) Core:4 PU:2");
    struct topology_lane_request request = {64, 20, 10 * GIB, 200 * GIB, 0};
    struct topology_lane lanes[8];
    assert_int_equal(
        topology_plan_lanes(topology_numa(t, 0), topology_numa_count(t), &request, lanes), 8);
    for (uint32_t l = 0; l < 8; l++) {
        assert_int_equal(lanes[l].numa, l);
        assert_int_equal(lanes[l].threads, 8);
        assert_int_equal(lanes[l].memory_bytes, 16 * GIB);
    }
    topology_destroy(t);
}

/* ---- the machine at hand ---- */

static void the_machine_has_the_cpus_of_the_affinity(void **state)
{
    (void)state;
    cpu_set_t allowed = affinity(), seen;
    struct topology *t = load();
    assert_true(topology_is_real(t));
    CPU_ZERO(&seen);
    for (uint32_t n = 0; n < topology_numa_count(t); n++) {
        assert_true(topology_numa(t, n)->memory_bytes > 0);
        for (uint32_t i = 0; i < topology_numa(t, n)->cpu_count; i++) {
            assert_false(CPU_ISSET(topology_cpu(t, n, i), &seen));
            CPU_SET(topology_cpu(t, n, i), &seen);
        }
    }
    assert_true(CPU_EQUAL(&allowed, &seen));
    topology_destroy(t);
}

static void a_narrowed_process_sees_its_part(void **state)
{
    (void)state;
    struct topology *whole = load_bindable();
    cpu_set_t before = affinity();
    for (uint32_t n = 0; n < topology_numa_count(whole); n++) {
        unsigned cpu = topology_cpu(whole, n, 1);
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
        struct topology *t = load();
        assert_int_equal(topology_numa_count(t), 1);
        assert_int_equal(topology_numa(t, 0)->os_index, topology_numa(whole, n)->os_index);
        assert_int_equal(topology_numa(t, 0)->cpu_count, 1);
        assert_int_equal(topology_cpu(t, 0, 5), cpu);
        /* To restore is to restore what was found, not all there is. */
        assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
        topology_unbind_thread(t);
        cpu_set_t after = affinity();
        assert_true(CPU_EQUAL(&after, &one));
        topology_destroy(t);
        topology_unbind_thread(whole);
    }
    topology_destroy(whole);
}

static void a_process_bound_to_a_node_sees_no_other(void **state)
{
    (void)state;
    struct topology *whole = load_bindable();
    uint32_t cpus = 0;
    for (uint32_t n = 0; n < topology_numa_count(whole); n++)
        cpus += topology_numa(whole, n)->cpu_count;
    for (uint32_t n = 0; n < topology_numa_count(whole); n++) {
        uint32_t os_index = topology_numa(whole, n)->os_index;
        assert_true(policy_set(MPOL_BIND, os_index));
        struct topology *t = load();
        assert_true(policy_set(MPOL_PREFERRED, os_index));
        struct topology *open = load();
        topology_unbind_thread(open);
        policy_check(MPOL_PREFERRED, os_index);
        topology_unbind_thread(t);
        policy_check(MPOL_BIND, os_index);
        topology_unbind_thread(whole);
        policy_check(MPOL_DEFAULT, 0);
        assert_int_equal(topology_numa_count(t), 1);
        assert_int_equal(topology_numa(t, 0)->os_index, os_index);
        assert_int_equal(topology_numa(t, 0)->cpu_count, cpus);
        assert_int_equal(topology_numa_count(open), topology_numa_count(whole));
        topology_destroy(t);
        topology_destroy(open);
    }
    topology_destroy(whole);
}

static void a_bound_thread_stays_and_allocates_on_its_node(void **state)
{
    (void)state;
    enum { PAGES = 256 };
    struct topology *t = load_bindable();
    for (uint32_t n = 0; n < topology_numa_count(t); n++) {
        const struct topology_numa_node *numa = topology_numa(t, n);
        for (uint32_t i = 0; i <= numa->cpu_count && i < 4; i++) {
            struct topology_binding got = topology_bind_thread(t, n, i, TOPOLOGY_MEMORY_STRICT);
            assert_true(got.pinned);
            assert_int_equal(got.memory, TOPOLOGY_MEMORY_STRICT);
            assert_int_equal(got.os_error, 0);
            cpu_set_t now = affinity();
            assert_int_equal(CPU_COUNT(&now), 1);
            assert_true(CPU_ISSET(topology_cpu(t, n, i), &now));
            policy_check(MPOL_BIND, numa->os_index);
            uint8_t *memory = map_pages(PAGES);
            touch_pages(memory, PAGES);
            struct topology_placement place = topology_place(t, memory, PAGES * PAGE, n);
            assert_int_equal(place.os_error, 0);
            assert_int_equal(place.pages_sampled, PAGES);
            assert_int_equal(place.pages_on_node, PAGES);
            munmap(memory, PAGES * PAGE);
        }
    }
    topology_unbind_thread(t);
    topology_destroy(t);
}

static void pages_on_another_node_are_not_counted(void **state)
{
    (void)state;
    enum { PAGES = 64 };
    struct topology *t = load_bindable();
    if (topology_numa_count(t) < 2) {
        print_message("this machine has one NUMA node\n");
        topology_destroy(t);
        skip();
    }
    uint8_t *memory = map_pages(2 * PAGES);
    for (uint32_t n = 0; n < 2; n++) {
        struct topology_binding got = topology_bind_thread(t, n, 0, TOPOLOGY_MEMORY_STRICT);
        assert_int_equal(got.memory, TOPOLOGY_MEMORY_STRICT);
        touch_pages(memory + n * PAGES * PAGE, PAGES);
    }
    topology_unbind_thread(t);
    for (uint32_t n = 0; n < 2; n++) {
        struct topology_placement all = topology_place(t, memory, 2 * PAGES * PAGE, n);
        struct topology_placement own =
            topology_place(t, memory + n * PAGES * PAGE, PAGES * PAGE, n);
        struct topology_placement other =
            topology_place(t, memory + (1 - n) * PAGES * PAGE, PAGES * PAGE, n);
        assert_int_equal(all.pages_sampled, 2 * PAGES);
        assert_int_equal(all.pages_on_node, PAGES);
        assert_int_equal(own.pages_on_node, PAGES);
        assert_int_equal(other.pages_sampled, PAGES);
        assert_int_equal(other.pages_on_node, 0);
    }
    munmap(memory, 2 * PAGES * PAGE);
    topology_destroy(t);
}

static void unbinding_restores_affinity_and_policy(void **state)
{
    (void)state;
    cpu_set_t before = affinity();
    struct topology *t = load_bindable();
    for (uint32_t n = 0; n < topology_numa_count(t); n++) {
        struct topology_binding got = topology_bind_thread(t, n, n, TOPOLOGY_MEMORY_STRICT);
        assert_true(got.pinned);
        topology_unbind_thread(t);
        cpu_set_t after = affinity();
        assert_true(CPU_EQUAL(&before, &after));
        policy_check(MPOL_DEFAULT, 0);
    }
    topology_destroy(t);
}

static void weaker_wishes_are_granted_as_such(void **state)
{
    (void)state;
    struct topology *t = load_bindable();
    struct policy policy;
    struct topology_binding got = topology_bind_thread(t, 0, 0, TOPOLOGY_MEMORY_PREFERRED);
    assert_int_equal(got.memory, TOPOLOGY_MEMORY_PREFERRED);
    assert_true(policy_get(&policy));
    assert_int_not_equal(policy.mode, MPOL_BIND);
    assert_int_not_equal(policy.mode, MPOL_DEFAULT);
    topology_unbind_thread(t);
    got = topology_bind_thread(t, 0, 0, TOPOLOGY_MEMORY_UNBOUND);
    assert_true(got.pinned);
    assert_int_equal(got.memory, TOPOLOGY_MEMORY_UNBOUND);
    assert_int_equal(got.os_error, 0);
    policy_check(MPOL_DEFAULT, 0);
    topology_unbind_thread(t);
    cpu_set_t before = affinity();
    got = topology_bind_thread(t, TOPOLOGY_ANY, 0, TOPOLOGY_MEMORY_STRICT);
    assert_false(got.pinned);
    assert_int_equal(got.memory, TOPOLOGY_MEMORY_UNBOUND);
    cpu_set_t after = affinity();
    assert_true(CPU_EQUAL(&before, &after));
    topology_destroy(t);
}

static void only_touched_pages_are_sampled_evenly(void **state)
{
    (void)state;
    enum { PAGES = 4 * TOPOLOGY_SAMPLE_MAX, FEW = 10 };
    struct topology *t = load();
    uint8_t *memory = map_pages(PAGES);
    struct topology_placement place = topology_place(t, memory, (size_t)PAGES * PAGE, 0);
    if (place.os_error != 0) {
        print_message("move_pages is refused here: %s\n", strerror(place.os_error));
        munmap(memory, (size_t)PAGES * PAGE);
        topology_destroy(t);
        skip();
    }
    assert_int_equal(place.pages_sampled, 0);
    touch_pages(memory + (size_t)PAGES / 4 * 3 * PAGE, PAGES / 4);
    place = topology_place(t, memory, (size_t)PAGES * PAGE, 0);
    assert_int_equal(place.pages_sampled, TOPOLOGY_SAMPLE_MAX / 4);
    touch_pages(memory, PAGES);
    place = topology_place(t, memory, (size_t)PAGES * PAGE, 0);
    assert_int_equal(place.pages_sampled, TOPOLOGY_SAMPLE_MAX);
    /* A range is the pages it has a byte of. */
    place = topology_place(t, memory + PAGE - 1, FEW * PAGE + 2, 0);
    assert_int_equal(place.pages_sampled, FEW + 2);
    place = topology_place(t, memory + 1, 0, 0);
    assert_int_equal(place.pages_sampled, 0);
    place = topology_place(t, memory, PAGE, TOPOLOGY_ANY);
    assert_int_equal(place.pages_sampled, 0);
    munmap(memory, (size_t)PAGES * PAGE);
    topology_destroy(t);
}

/* ---- refusals ---- */

/* What a thread gets whose kernel refuses `number` (with this first argument, unless -1). */
struct refusal {
    long number;
    int argument;
    struct topology *t;
    uint8_t *memory;
    bool installed;
    struct topology_binding binding;
    struct topology_placement placement;
};

static bool refuse(long number, int argument)
{
    enum { ERROR = SECCOMP_RET_ERRNO | EPERM };
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)argument, 0, argument == -1 ? 0 : 1),
        BPF_STMT(BPF_RET | BPF_K, ERROR),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_LENGTH(filter), .filter = filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void *refused_thread(void *argument)
{
    struct refusal *r = argument;
    r->installed = refuse(r->number, r->argument);
    if (!r->installed)
        return NULL;
    r->binding = topology_bind_thread(r->t, 0, 0, TOPOLOGY_MEMORY_STRICT);
    topology_unbind_thread(r->t);
    r->placement = topology_place(r->t, r->memory, PAGE, 0);
    return NULL;
}

static void what_the_kernel_refuses_is_reported(void **state)
{
    (void)state;
    static const struct {
        long number;
        int argument;
        bool pinned;
        enum topology_memory memory;
        int bind_error, place_error;
    } cases[] = {
        {SYS_set_mempolicy, MPOL_BIND, true, TOPOLOGY_MEMORY_PREFERRED, EPERM, 0},
        {SYS_set_mempolicy, -1, true, TOPOLOGY_MEMORY_UNBOUND, EPERM, 0},
        {SYS_sched_setaffinity, -1, false, TOPOLOGY_MEMORY_STRICT, EPERM, 0},
        {SYS_move_pages, -1, true, TOPOLOGY_MEMORY_STRICT, 0, EPERM},
    };
    struct topology *t = load_bindable();
    uint8_t *memory = map_pages(1);
    touch_pages(memory, 1);
    bool installed = true;
    for (size_t i = 0; i < ARRAY_LENGTH(cases) && installed; i++) {
        struct refusal r = {cases[i].number, cases[i].argument, .t = t, .memory = memory};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, refused_thread, &r), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        installed = r.installed;
        if (!installed)
            break;
        assert_int_equal(r.binding.pinned, cases[i].pinned);
        assert_int_equal(r.binding.memory, cases[i].memory);
        assert_int_equal(r.binding.os_error, cases[i].bind_error);
        assert_int_equal(r.placement.os_error, cases[i].place_error);
        assert_int_equal(r.placement.pages_sampled, cases[i].place_error == 0 ? 1 : 0);
    }
    munmap(memory, PAGE);
    topology_destroy(t);
    if (!installed) {
        print_message("this kernel has no seccomp filters\n");
        skip();
    }
}

static void *unpoliced_thread(void *argument)
{
    struct refusal *r = argument;
    r->installed = refuse(SYS_get_mempolicy, -1);
    struct error err;
    if (!r->installed || topology_load(&r->t, &err) != STATUS_OK)
        return NULL;
    r->binding = topology_bind_thread(r->t, 0, 0, TOPOLOGY_MEMORY_STRICT);
    topology_unbind_thread(r->t);
    return NULL;
}

static void a_policy_that_cannot_be_asked_for_is_taken_for_the_default(void **state)
{
    (void)state;
    topology_destroy(load_bindable());
    struct refusal r = {0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, unpoliced_thread, &r), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (!r.installed) {
        print_message("this kernel has no seccomp filters\n");
        skip();
    }
    assert_non_null(r.t);
    assert_int_equal(r.binding.memory, TOPOLOGY_MEMORY_STRICT);
    topology_destroy(r.t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(synthetic_machines_are_seen_as_described),
        cmocka_unit_test(cores_are_named_before_their_second_threads),
        cmocka_unit_test(nodes_ascend_by_the_kernels_number),
        cmocka_unit_test(reserved_huge_pages_are_no_normal_memory),
        cmocka_unit_test(memory_without_cpus_is_left_out),
        cmocka_unit_test(cpus_without_memory_are_lent_to_the_smallest_node),
        cmocka_unit_test(a_lent_cpu_does_not_bring_back_memory_without_cpus),
        cmocka_unit_test(machines_of_unknown_memory_keep_their_nodes),
        cmocka_unit_test(machines_that_cannot_be_made_are_refused_by_name),
        cmocka_unit_test(nothing_is_bound_on_made_up_machines),
        cmocka_unit_test(lanes_are_planned_on_loaded_machines),
        cmocka_unit_test(the_machine_has_the_cpus_of_the_affinity),
        cmocka_unit_test(a_narrowed_process_sees_its_part),
        cmocka_unit_test(a_process_bound_to_a_node_sees_no_other),
        cmocka_unit_test(a_bound_thread_stays_and_allocates_on_its_node),
        cmocka_unit_test(pages_on_another_node_are_not_counted),
        cmocka_unit_test(unbinding_restores_affinity_and_policy),
        cmocka_unit_test(weaker_wishes_are_granted_as_such),
        cmocka_unit_test(only_touched_pages_are_sampled_evenly),
        cmocka_unit_test(what_the_kernel_refuses_is_reported),
        cmocka_unit_test(a_policy_that_cannot_be_asked_for_is_taken_for_the_default),
    };
    return cmocka_run_group_tests(tests, environment_clear, NULL);
}
