/*
 * test_memory.c - checked sizes, bulk memory, memory sizes in words, and what made-up machines have
 * left.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/memory.h"
#include "tests/directory_fixture.h"

static void size_arithmetic_refuses_overflow(void **state)
{
    (void)state;
    size_t out = 7;
    assert_false(size_mul(SIZE_MAX, 2, &out));
    assert_false(size_mul((size_t)1 << 32, (size_t)1 << 32, &out));
    assert_false(size_add(SIZE_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(size_mul(SIZE_MAX, 1, &out));
    assert_int_equal(out, SIZE_MAX);
    assert_true(size_mul(0, SIZE_MAX, &out));
    assert_int_equal(out, 0);
    assert_true(size_add(SIZE_MAX - 1, 1, &out));
    assert_int_equal(out, SIZE_MAX);
    assert_int_equal(size_align(1, 4096), 4096);
    assert_int_equal(size_align(4096, 4096), 4096);
}

static void bulk_memory_is_zeroed_writable_and_aligned(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 4096, 4097, (2u << 20) - 1, 2u << 20, (2u << 20) + 1, 5000001};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        void *memory = NULL;
        struct error err;
        assert_int_equal(bulk_alloc(sizes[i], 1, "test", &memory, &err), STATUS_OK);
        assert_non_null(memory);
        size_t alignment = sizes[i] >= 2u << 20 ? 2u << 20 : 4096;
        assert_int_equal((uintptr_t)memory % alignment, 0);
        uint8_t *bytes = memory;
        for (size_t at = 0; at < sizes[i]; at += 997)
            assert_int_equal(bytes[at], 0);
        if (sizes[i] > 0) {
            assert_int_equal(bytes[sizes[i] - 1], 0);
            memset(bytes, 0xa5, sizes[i]);
        }
        bulk_free(memory, sizes[i], 1);
    }
    bulk_free(NULL, 100, 1);
}

static void impossible_bulk_memory_is_refused_by_name(void **state)
{
    (void)state;
    struct error err;
    void *memory = &err;
    assert_int_equal(bulk_alloc(SIZE_MAX, 8, "graph", &memory, &err), STATUS_NO_MEMORY);
    assert_non_null(strstr(err.text, "graph"));
    assert_int_equal(bulk_alloc(SIZE_MAX / 4, 1, "codes", &memory, &err), STATUS_NO_MEMORY);
    assert_non_null(strstr(err.text, "codes"));
    assert_ptr_equal(memory, &err);
}

static void memory_words_are_parsed(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"0", 0},
        {"1048576", 1048576},
        {"64K", 65536},
        {"512M", 512ull << 20},
        {"4G", 4ull << 30},
        {"4g", 4ull << 30},
        {"1T", 1ull << 40},
        {"1.5G", 3ull << 29},
        {"0.5K", 512},
        {"0.001K", 1},
        {"18446744073709551615", UINT64_MAX},
        {"16777215T", 16777215ull << 40},
        {"007", 7},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint64_t bytes = 99;
        assert_int_equal(memory_parse(cases[i].text, &bytes, NULL), STATUS_OK);
        assert_int_equal(bytes, cases[i].bytes);
    }
}

static void other_memory_words_are_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {"",
                                        "G",
                                        "-1",
                                        "+1",
                                        " 1",
                                        "1 ",
                                        "4GB",
                                        "1.5",
                                        "1.",
                                        ".5G",
                                        "1..5G",
                                        "1.G",
                                        "0x10",
                                        "1e9",
                                        "4X",
                                        "1,5G",
                                        "nan",
                                        "18446744073709551616",
                                        "16777216T",
                                        "99999999999999999999999999999999999999999999",
                                        "1.0000000001G",
                                        "4KK"};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint64_t bytes = 99;
        struct error err;
        if (memory_parse(cases[i], &bytes, &err) != STATUS_INVALID)
            fail_msg("'%s' was taken", cases[i]);
        assert_int_equal(bytes, 99);
        assert_int_equal(strchr(err.text, '\n') == NULL, 1);
    }
}

static void own_memory_is_seen_to_grow(void **state)
{
    (void)state;
    enum { BYTES = 16 << 20 };
    uint64_t before = memory_rss();
    void *memory;
    assert_true(before > 0);
    assert_int_equal(bulk_alloc(BYTES, 1, "test", &memory, NULL), STATUS_OK);
    memset(memory, 1, BYTES);
    uint64_t after = memory_rss();
    bulk_free(memory, BYTES, 1);
    assert_true(after >= before + BYTES / 2);
    assert_true(memory_peak_rss() >= after - BYTES / 2);
    assert_true(memory_available() > 0);
}

/* ---- made-up machines ---- */

struct machine {
    char root[DIRECTORY_FIXTURE_BYTES];
};

static void machine_file(const struct machine *machine, const char *path, const char *text)
{
    directory_fixture_tree(machine->root, path, text);
}

static int machine_setup(void **state)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    if (!machine)
        return -1;
    *state = machine;
    return directory_fixture_create(machine->root);
}

static int machine_teardown(void **state)
{
    struct machine *machine = *state;
    int result = directory_fixture_remove(machine->root);
    free(machine);
    return result;
}

static void a_machine_without_proc_has_no_known_memory(void **state)
{
    const struct machine *machine = *state;
    assert_int_equal(memory_available_at(machine->root), 0);
}

static void a_machine_without_cgroups_offers_memavailable(void **state)
{
    const struct machine *machine = *state;
    machine_file(machine, "/proc/meminfo",
                 "MemTotal: 900 kB\nMemFree: 10 kB\nMemAvailable:    700 kB\nBuffers: 1 kB\n");
    assert_int_equal(memory_available_at(machine->root), 700 * 1024);
}

static void the_tightest_cgroup_v2_ancestor_binds(void **state)
{
    const struct machine *machine = *state;
    machine_file(machine, "/proc/meminfo", "MemAvailable: 1000000 kB\n");
    machine_file(machine, "/proc/self/cgroup", "0::/a/b/c\n");
    machine_file(machine, "/sys/fs/cgroup/a/b/c/memory.max", "max\n");
    machine_file(machine, "/sys/fs/cgroup/a/b/memory.max", "1000000\n");
    machine_file(machine, "/sys/fs/cgroup/a/b/memory.current", "700000\n");
    machine_file(machine, "/sys/fs/cgroup/a/b/memory.stat",
                 "anon 400000\nfile 300000\nactive_file 100000\ninactive_file 150000\n");
    machine_file(machine, "/sys/fs/cgroup/a/memory.max", "900000000\n");
    assert_int_equal(memory_available_at(machine->root), 1000000 - (700000 - 250000));
}

static void a_cgroup_above_its_limit_leaves_nothing(void **state)
{
    const struct machine *machine = *state;
    machine_file(machine, "/proc/meminfo", "MemAvailable: 1000000 kB\n");
    machine_file(machine, "/proc/self/cgroup", "0::/\n");
    machine_file(machine, "/sys/fs/cgroup/memory.max", "5000\n");
    machine_file(machine, "/sys/fs/cgroup/memory.current", "6000\n");
    assert_int_equal(memory_available_at(machine->root), 0);
}

static void cgroup_v1_is_understood(void **state)
{
    const struct machine *machine = *state;
    machine_file(machine, "/proc/meminfo", "MemAvailable: 1000000 kB\n");
    machine_file(machine, "/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n");
    machine_file(machine, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    machine_file(machine, "/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4000000\n");
    machine_file(machine, "/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "3000000\n");
    machine_file(machine, "/sys/fs/cgroup/memory/job/memory.stat",
                 "active_file 1\ntotal_active_file 500000\ntotal_inactive_file 500000\n");
    assert_int_equal(memory_available_at(machine->root), 2000000);
}

static void a_container_whose_path_is_not_mounted_uses_the_root(void **state)
{
    const struct machine *machine = *state;
    machine_file(machine, "/proc/meminfo", "MemAvailable: 1000000 kB\n");
    machine_file(machine, "/proc/self/cgroup", "4:memory:/docker/abc\n");
    machine_file(machine, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n");
    machine_file(machine, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "400000\n");
    assert_int_equal(memory_available_at(machine->root), 600000);
}

#define MACHINE_TEST(name) cmocka_unit_test_setup_teardown(name, machine_setup, machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(size_arithmetic_refuses_overflow),
        cmocka_unit_test(bulk_memory_is_zeroed_writable_and_aligned),
        cmocka_unit_test(impossible_bulk_memory_is_refused_by_name),
        cmocka_unit_test(memory_words_are_parsed),
        cmocka_unit_test(other_memory_words_are_refused),
        cmocka_unit_test(own_memory_is_seen_to_grow),
        MACHINE_TEST(a_machine_without_proc_has_no_known_memory),
        MACHINE_TEST(a_machine_without_cgroups_offers_memavailable),
        MACHINE_TEST(the_tightest_cgroup_v2_ancestor_binds),
        MACHINE_TEST(a_cgroup_above_its_limit_leaves_nothing),
        MACHINE_TEST(cgroup_v1_is_understood),
        MACHINE_TEST(a_container_whose_path_is_not_mounted_uses_the_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
