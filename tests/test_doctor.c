/*
 * test_doctor.c - what `nightjar doctor` thinks of made-up machines: files of /proc and /sys in a
 * temporary directory, and measurements that were never taken. Then the real thing: reads of a
 * temporary file through a ring.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cpu.h"
#include "layout/publish.h"
#include "tests/directory_fixture.h"
#include "tests/generation_fixture.h"
#include "tools/doctor.h"

/* A machine, the daemon it is to run, and what the last look found. */
struct machine {
    char root[DIRECTORY_FIXTURE_BYTES];
    struct doctor_question question;
    struct doctor_report report;
};

static int machine_setup(void **state)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    if (!machine)
        return -1;
    *state = machine;
    machine->question = (struct doctor_question){.root = machine->root,
                                                 .memory_bytes = 1u << 30,
                                                 .connections = 1024,
                                                 .workers = 4,
                                                 .block_bytes = 4096};
    return directory_fixture_create(machine->root);
}

static int machine_teardown(void **state)
{
    struct machine *machine = *state;
    int result = directory_fixture_remove(machine->root);
    free(machine);
    return result;
}

static void file_put(const struct machine *machine, const char *path, const char *text)
{
    directory_fixture_tree(machine->root, path, text);
}

/* Words wanted in a text; NULL: the text is empty. */
static void expect_words(const char *text, const char *words)
{
    if (words ? strstr(text, words) == NULL : text[0] != '\0')
        fail_msg("'%s' lacks '%s'", text, words ? words : "(nothing)");
}

static void expect_finding(const struct doctor_finding *finding, enum doctor_verdict verdict,
                           const char *found, const char *remedy)
{
    expect_words(finding->found, found);
    if (finding->verdict != verdict)
        fail_msg("%s: %s is %s", finding->topic, finding->found,
                 doctor_verdict_name(finding->verdict));
    expect_words(finding->remedy, remedy);
    assert_true((verdict == DOCTOR_OK) == (finding->remedy[0] == '\0'));
}

/* Looks, and expects one finding. */
static void expect(struct machine *machine,
                   void (*look)(struct doctor_report *, const struct doctor_question *),
                   enum doctor_verdict verdict, const char *found, const char *remedy)
{
    machine->report.count = 0;
    look(&machine->report, &machine->question);
    assert_int_equal(machine->report.count, 1);
    expect_finding(&machine->report.findings[0], verdict, found, remedy);
}

/* ---- report ---- */

static void remedies_add_up_and_the_worst_verdict_stays(void **state)
{
    struct doctor_report *report = &((struct machine *)*state)->report;
    struct doctor_finding *finding = doctor_add(report, "topic", "found %d", 7);
    doctor_object(finding, DOCTOR_FAIL, "first");
    doctor_object(finding, DOCTOR_WARN, "second");
    assert_string_equal(finding->found, "found 7");
    assert_string_equal(finding->remedy, "first; second");
    assert_int_equal(finding->verdict, DOCTOR_FAIL);
    for (int i = 0; i < 100; i++)
        doctor_object(finding, DOCTOR_WARN, "a long remedy");
    assert_int_equal(strlen(finding->remedy), DOCTOR_TEXT_BYTES - 1);
    doctor_add(report, "other", "fine");
    assert_int_equal(doctor_count(report, DOCTOR_FAIL), 1);
    assert_int_equal(doctor_count(report, DOCTOR_WARN), 0);
    assert_int_equal(doctor_count(report, DOCTOR_OK), 1);
}

static void sizes_have_units(void **state)
{
    (void)state;
    char text[DOCTOR_SIZE_BYTES];
    assert_string_equal(doctor_size(0, text), "0 bytes");
    assert_string_equal(doctor_size(1023, text), "1023 bytes");
    assert_string_equal(doctor_size(1536, text), "1.5 KiB");
    assert_string_equal(doctor_size(UINT64_C(3) << 40, text), "3.0 TiB");
    assert_string_equal(doctor_size(UINT64_MAX, text), "16384.0 PiB");
}

/* ---- kernel ---- */

static void old_kernels_are_warned_of(void **state)
{
    struct machine *machine = *state;
    expect(machine, doctor_kernel, DOCTOR_OK, "unknown", NULL);
    static const struct {
        const char *release;
        const char *remedy; /* NULL: ok */
    } cases[] = {
        {"4.19.0-amd64\n", "5.13 or newer"}, {"5.12.19\n", "5.13 or newer"},
        {"5.13.0\n", "best mode"},           {"6.0.3-generic\n", "best mode"},
        {"6.1.0-13-amd64\n", NULL},          {"10.0.0\n", NULL},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        file_put(machine, "/proc/sys/kernel/osrelease", cases[i].release);
        expect(machine, doctor_kernel, cases[i].remedy ? DOCTOR_WARN : DOCTOR_OK, "Linux ",
               cases[i].remedy);
    }
}

static void expect_ring(struct machine *machine, const struct doctor_ring *ring,
                        enum doctor_verdict verdict, const char *found, const char *remedy)
{
    machine->report.count = 0;
    doctor_ring_judge(&machine->report, &machine->question, ring);
    assert_int_equal(machine->report.count, 1);
    expect_finding(&machine->report.findings[0], verdict, found, remedy);
}

static void a_refused_ring_has_the_remedy_of_its_cause(void **state)
{
    struct machine *machine = *state;
    static const char disabled[] = "/proc/sys/kernel/io_uring_disabled";
    const struct doctor_ring forbidden = {
        .description = "pread-pool threads=32",
        .refusal = "io_uring refused: Operation not permitted; allow it somewhere"};
    expect_ring(machine, &forbidden, DOCTOR_WARN, "not permitted: reader threads", "seccomp");
    assert_null(strstr(machine->report.findings[0].found, "somewhere"));
    file_put(machine, disabled, "0\n");
    expect_ring(machine, &forbidden, DOCTOR_WARN, "not permitted", "seccomp");
    file_put(machine, disabled, "1\n");
    expect_ring(machine, &forbidden, DOCTOR_WARN, "not permitted", "kernel.io_uring_group");
    file_put(machine, disabled, "2\n");
    expect_ring(machine, &forbidden, DOCTOR_WARN, "not permitted",
                "kernel.io_uring_disabled=0 (it is 2)");
    /* Another reason is not the switch's, wherever that stands. */
    const struct doctor_ring absent = {
        .description = "pread-pool threads=32",
        .refusal = "io_uring refused: Function not implemented; needs Linux 5.13"};
    expect_ring(machine, &absent, DOCTOR_WARN, "not implemented", "needs Linux 5.13");
}

static void a_ring_is_judged_by_its_description(void **state)
{
    struct machine *machine = *state;
    struct doctor_ring ring = {.uring = true,
                               .description = "io_uring single-issuer fixed-buffers fixed-file"};
    expect_ring(machine, &ring, DOCTOR_OK, "single-issuer", NULL);
    ring.description = "io_uring plain plain-buffers (RLIMIT_MEMLOCK 64 KiB too low)";
    expect_ring(machine, &ring, DOCTOR_WARN, "64 KiB", "RLIMIT_MEMLOCK");
    ring = (struct doctor_ring){.description = "pread-pool threads=32"};
    expect_ring(machine, &ring, DOCTOR_WARN, "pread-pool", "NIGHTJAR_IO");
}

static void slow_clocks_are_warned_of(void **state)
{
    struct machine *machine = *state;
    static const char path[] = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    expect(machine, doctor_clock, DOCTOR_OK, "unknown", NULL);
    file_put(machine, path, "tsc\n");
    expect(machine, doctor_clock, DOCTOR_OK, "tsc", NULL);
    file_put(machine, path, "arch_sys_counter\n");
    expect(machine, doctor_clock, DOCTOR_OK, "arch_sys_counter", NULL);
    file_put(machine, path, "hpet\n");
    expect(machine, doctor_clock, DOCTOR_WARN, "hpet", "clocksource=tsc");
    file_put(machine, path, "tsc-early\n");
    expect(machine, doctor_clock, DOCTOR_WARN, "tsc-early", "clocksource=tsc");
}

/* ---- CPUs ---- */

static void allowed_cpus_are_counted(void **state)
{
    struct machine *machine = *state;
    assert_true(doctor_cpus_allowed(machine->root) >= 1);
    static const struct {
        const char *list;
        uint32_t count;
    } cases[] = {{"0", 1}, {"0-3", 4}, {"0-3,8", 5}, {"1,3,5-6", 4}, {"0-4000000000", 1024}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char text[128];
        snprintf(text, sizeof(text), "Name:\tx\nCpus_allowed_list:\t%s\nMems_allowed:\t1\n",
                 cases[i].list);
        file_put(machine, "/proc/self/status", text);
        assert_int_equal(doctor_cpus_allowed(machine->root), cases[i].count);
    }
}

static void a_quota_below_the_cpus_is_warned_of(void **state)
{
    struct machine *machine = *state;
    expect(machine, doctor_cpus, DOCTOR_OK, "4, no quota", NULL);
    file_put(machine, "/proc/self/cgroup", "0::/a/b\n");
    file_put(machine, "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    expect(machine, doctor_cpus, DOCTOR_OK, "no quota", NULL);
    file_put(machine, "/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
    expect(machine, doctor_cpus, DOCTOR_OK, "quota of 4", NULL);
    file_put(machine, "/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    expect(machine, doctor_cpus, DOCTOR_WARN, "quota of 2.5", "--threads 2,");
    file_put(machine, "/sys/fs/cgroup/cpu.max", "300000 100000\n");
    expect(machine, doctor_cpus, DOCTOR_WARN, "quota of 2.5", "--threads 2,");
    file_put(machine, "/sys/fs/cgroup/a/cpu.max", "50000 100000\n");
    expect(machine, doctor_cpus, DOCTOR_WARN, "quota of 0.5", "--threads 1,");
}

static void a_quota_of_cgroup_v1_is_understood(void **state)
{
    struct machine *machine = *state;
    file_put(machine, "/proc/self/cgroup", "5:cpuset:/x\n4:cpuacct,cpu:/job\n");
    file_put(machine, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    file_put(machine, "/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    expect(machine, doctor_cpus, DOCTOR_OK, "no quota", NULL);
    file_put(machine, "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "300000\n");
    file_put(machine, "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
    expect(machine, doctor_cpus, DOCTOR_WARN, "quota of 3", "--threads 3,");
}

static void a_powersave_governor_is_warned_of(void **state)
{
    struct machine *machine = *state;
    file_put(machine, "/proc/self/status", "Cpus_allowed_list:\t0-1\n");
    expect(machine, doctor_governor, DOCTOR_OK, "not visible", NULL);
    file_put(machine, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
    file_put(machine, "/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n");
    expect(machine, doctor_governor, DOCTOR_OK, "performance", NULL);
    file_put(machine, "/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
    expect(machine, doctor_governor, DOCTOR_WARN, "powersave", "1 of 2 CPUs");
}

static void missing_instructions_are_warned_of(void **state)
{
    struct machine *machine = *state;
    doctor_instructions(&machine->report, CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI);
    doctor_instructions(&machine->report, CPU_AVX2);
    unsetenv("NIGHTJAR_CPU");
    doctor_instructions(&machine->report, 0);
    setenv("NIGHTJAR_CPU", "scalar", 1);
    doctor_instructions(&machine->report, 0);
    unsetenv("NIGHTJAR_CPU");
    expect_finding(&machine->report.findings[0], DOCTOR_OK, "avx512-vnni", NULL);
    expect_finding(&machine->report.findings[1], DOCTOR_OK, "avx2", NULL);
    expect_finding(&machine->report.findings[2], DOCTOR_WARN, "scalar", "a CPU with AVX2");
    expect_finding(&machine->report.findings[3], DOCTOR_WARN, "scalar", "unset NIGHTJAR_CPU");
}

/* ---- memory ---- */

static void a_budget_has_to_fit_the_memory(void **state)
{
    struct machine *machine = *state;
    expect(machine, doctor_memory, DOCTOR_OK, "available: unknown", NULL);
    file_put(machine, "/proc/meminfo", "MemAvailable: 2097152 kB\n");
    expect(machine, doctor_memory, DOCTOR_OK, "1.0 GiB for the index, 3.0 MiB of read buffers; 2.0",
           NULL);
    file_put(machine, "/proc/meminfo", "MemAvailable: 1100000 kB\n");
    expect(machine, doctor_memory, DOCTOR_WARN, "1.0 GiB available", "smaller --memory");
    /* Enough for the index, not for the buffers beside it. */
    file_put(machine, "/proc/meminfo", "MemAvailable: 1048600 kB\n");
    expect(machine, doctor_memory, DOCTOR_FAIL, "1.0 GiB available", "--memory that fits");
    file_put(machine, "/proc/meminfo", "MemAvailable: 8388608 kB\n");
    file_put(machine, "/proc/self/cgroup", "0::/\n");
    file_put(machine, "/sys/fs/cgroup/memory.max", "536870912\n");
    expect(machine, doctor_memory, DOCTOR_FAIL, "512.0 MiB available", "cgroup");
}

static void swap_is_warned_of_unless_it_is_not_for_us(void **state)
{
    struct machine *machine = *state;
    expect(machine, doctor_swap, DOCTOR_OK, "none", NULL);
    file_put(machine, "/proc/meminfo", "SwapTotal: 0 kB\n");
    expect(machine, doctor_swap, DOCTOR_OK, "none", NULL);
    file_put(machine, "/proc/meminfo", "MemTotal: 9 kB\nSwapTotal: 2097152 kB\n");
    expect(machine, doctor_swap, DOCTOR_WARN, "2.0 GiB, swappiness 60", "MemorySwapMax=0");
    file_put(machine, "/proc/sys/vm/swappiness", "10\n");
    expect(machine, doctor_swap, DOCTOR_WARN, "swappiness 10", "swapoff");
    file_put(machine, "/proc/sys/vm/swappiness", "1\n");
    expect(machine, doctor_swap, DOCTOR_OK, "swappiness 1", NULL);
    file_put(machine, "/proc/sys/vm/swappiness", "60\n");
    file_put(machine, "/proc/self/cgroup", "0::/job\n");
    file_put(machine, "/sys/fs/cgroup/job/memory.swap.max", "max\n");
    expect(machine, doctor_swap, DOCTOR_WARN, "swappiness 60", "swapoff");
    file_put(machine, "/sys/fs/cgroup/job/memory.swap.max", "0\n");
    expect(machine, doctor_swap, DOCTOR_OK, "none for this cgroup", NULL);
}

static void strict_overcommit_has_to_leave_room(void **state)
{
    struct machine *machine = *state;
    expect(machine, doctor_overcommit, DOCTOR_OK, "unknown", NULL);
    file_put(machine, "/proc/meminfo", "CommitLimit: 2000000 kB\nCommitted_AS: 1500000 kB\n");
    file_put(machine, "/proc/sys/vm/overcommit_memory", "1\n");
    expect(machine, doctor_overcommit, DOCTOR_OK, "mode 1", NULL);
    file_put(machine, "/proc/sys/vm/overcommit_memory", "2\n");
    expect(machine, doctor_overcommit, DOCTOR_FAIL, "488.3 MiB", "overcommit_ratio");
    file_put(machine, "/proc/meminfo", "CommitLimit: 2000000 kB\nCommitted_AS: 3000000 kB\n");
    expect(machine, doctor_overcommit, DOCTOR_FAIL, "0 bytes", "overcommit_ratio");
    file_put(machine, "/proc/meminfo", "CommitLimit: 4000000 kB\nCommitted_AS: 1500000 kB\n");
    expect(machine, doctor_overcommit, DOCTOR_OK, "2.4 GiB", NULL);
}

static void huge_pages_have_to_be_had(void **state)
{
    struct machine *machine = *state;
#define THP "/sys/kernel/mm/transparent_hugepage/"
    expect(machine, doctor_huge_pages, DOCTOR_OK, "does not say", NULL);
    file_put(machine, THP "enabled", "always madvise [never]\n");
    expect(machine, doctor_huge_pages, DOCTOR_WARN, "never", "echo madvise >" THP "enabled");
    file_put(machine, THP "enabled", "[always] madvise never\n");
    expect(machine, doctor_huge_pages, DOCTOR_OK, "always", NULL);
    file_put(machine, THP "enabled", "always [madvise] never\n");
    file_put(machine, THP "defrag", "always defer defer+madvise madvise [never]\n");
    file_put(machine, THP "khugepaged/defrag", "1\n");
    expect(machine, doctor_huge_pages, DOCTOR_OK, "defrag never, khugepaged on", NULL);
    file_put(machine, THP "khugepaged/defrag", "0\n");
    expect(machine, doctor_huge_pages, DOCTOR_WARN, "khugepaged off", THP "defrag");
    file_put(machine, THP "defrag", "always defer defer+madvise [madvise] never\n");
    expect(machine, doctor_huge_pages, DOCTOR_OK, "defrag madvise, khugepaged off", NULL);
}

static void mappings_grow_with_workers(void **state)
{
    struct machine *machine = *state;
    expect(machine, doctor_maps, DOCTOR_OK, "unknown", NULL);
    file_put(machine, "/proc/sys/vm/max_map_count", "4352\n");
    expect(machine, doctor_maps, DOCTOR_OK, "4352", NULL);
    machine->question.workers = 5;
    expect(machine, doctor_maps, DOCTOR_WARN, "4352", "max_map_count=4416");
}

/* ---- limits ---- */

static void limits_put(const struct machine *machine, const char *locked, const char *files)
{
    char text[512];
    snprintf(text, sizeof(text),
             "Limit                     Soft Limit           Hard Limit           Units     \n"
             "Max open files            %-41s files     \n"
             "Max locked memory         %-41s bytes     \n",
             files, locked);
    file_put(machine, "/proc/self/limits", text);
}

static void expect_limits(struct machine *machine, enum doctor_verdict locked,
                          enum doctor_verdict files, const char *words)
{
    machine->report.count = 0;
    doctor_limits(&machine->report, &machine->question);
    assert_int_equal(machine->report.count, 2);
    const struct doctor_finding *findings = machine->report.findings;
    expect_finding(&findings[0], locked, locked == DOCTOR_OK ? words : "",
                   locked == DOCTOR_OK ? NULL : words);
    expect_finding(&findings[1], files, "", files == DOCTOR_OK ? NULL : words);
}

static void buffers_have_to_fit_the_locked_memory(void **state)
{
    struct machine *machine = *state;
    expect_limits(machine, DOCTOR_OK, DOCTOR_OK, "limit unknown");
    file_put(machine, "/proc/self/status", "CapEff:\t0000000000000000\n");
    /* 4 workers of 192 blocks. */
    limits_put(machine, "3145728 3145728", "4096 524288");
    expect_limits(machine, DOCTOR_OK, DOCTOR_OK, "3.0 MiB; 4 workers");
    limits_put(machine, "3145727 unlimited", "4096 524288");
    expect_limits(machine, DOCTOR_WARN, DOCTOR_OK, "LimitMEMLOCK=3145728");
    machine->question.block_bytes = 8192;
    expect_limits(machine, DOCTOR_WARN, DOCTOR_OK, "LimitMEMLOCK=6291456");
    limits_put(machine, "unlimited unlimited", "4096 524288");
    expect_limits(machine, DOCTOR_OK, DOCTOR_OK, "unlimited");
    limits_put(machine, "65536 65536", "4096 524288");
    file_put(machine, "/proc/self/status", "CapEff:\t0000000000004000\n");
    expect_limits(machine, DOCTOR_OK, DOCTOR_OK, "CAP_IPC_LOCK");
}

static void connections_have_to_fit_the_descriptors(void **state)
{
    struct machine *machine = *state;
    limits_put(machine, "unlimited unlimited", "64 1280"); /* the daemon raises the soft one */
    expect_limits(machine, DOCTOR_OK, DOCTOR_OK, "");
    limits_put(machine, "unlimited unlimited", "64 1279");
    machine->report.count = 0;
    doctor_limits(&machine->report, &machine->question);
    expect_finding(&machine->report.findings[1], DOCTOR_WARN, "1279 for 1024 connections",
                   "LimitNOFILE=1280");
    limits_put(machine, "unlimited unlimited", "unlimited unlimited");
    expect_limits(machine, DOCTOR_OK, DOCTOR_OK, "");
}

/* ---- file system and device ---- */

static void file_systems_are_known_by_number(void **state)
{
    struct doctor_report *report = &((struct machine *)*state)->report;
    doctor_file_system(report, 0xef53);
    doctor_file_system(report, 0x794c7630);
    doctor_file_system(report, 0x6969);
    doctor_file_system(report, 0x65735546);
    doctor_file_system(report, 0x01021994);
    doctor_file_system(report, 0x1234);
    expect_finding(&report->findings[0], DOCTOR_OK, "ext4", NULL);
    expect_finding(&report->findings[1], DOCTOR_WARN, "overlay", "mount a volume");
    expect_finding(&report->findings[2], DOCTOR_WARN, "nfs", "network");
    expect_finding(&report->findings[3], DOCTOR_WARN, "fuse", "ext4 or xfs");
    expect_finding(&report->findings[4], DOCTOR_WARN, "tmpfs", "memory");
    expect_finding(&report->findings[5], DOCTOR_OK, "0x1234", NULL);
}

static void alignment_has_to_be_that_of_blocks(void **state)
{
    struct doctor_report *report = &((struct machine *)*state)->report;
    doctor_direct_io(report, true, 512);
    doctor_direct_io(report, true, 4096);
    doctor_direct_io(report, true, 8192);
    doctor_direct_io(report, true, 0);
    doctor_direct_io(report, false, 0);
    expect_finding(&report->findings[0], DOCTOR_OK, "512", NULL);
    expect_finding(&report->findings[1], DOCTOR_OK, "4096", NULL);
    expect_finding(&report->findings[2], DOCTOR_FAIL, "more than", "4096 bytes or less");
    expect_finding(&report->findings[3], DOCTOR_FAIL, "more than", "4096 bytes or less");
    expect_finding(&report->findings[4], DOCTOR_WARN, "no O_DIRECT", "page cache");
}

static void expect_device(struct machine *machine, unsigned minor_number,
                          enum doctor_verdict verdict, const char *found, const char *remedy)
{
    machine->report.count = 0;
    doctor_device(&machine->report, &machine->question, makedev(259, minor_number));
    assert_int_equal(machine->report.count, 1);
    expect_finding(&machine->report.findings[0], verdict, found, remedy);
}

/* Number 1 is a partition of number 0, and /sys/dev/block has links, as a real one. */
static void a_partition_is_judged_by_its_disk(void **state)
{
    struct machine *machine = *state;
    char target[256], name[256];
    file_put(machine, "/sys/dev/block/none", "");
    file_put(machine, "/sys/devices/nvme0n1/uevent", "MAJOR=259\nDEVNAME=nvme0n1\nDEVTYPE=disk\n");
    file_put(machine, "/sys/devices/nvme0n1/queue/rotational", "0\n");
    file_put(machine, "/sys/devices/nvme0n1/queue/scheduler", "[none] mq-deadline bfq\n");
    file_put(machine, "/sys/devices/nvme0n1/queue/nr_requests", "1023\n");
    file_put(machine, "/sys/devices/nvme0n1/p1/uevent", "MAJOR=259\nDEVNAME=nvme0n1p1\n");
    for (unsigned i = 0; i < 2; i++) {
        snprintf(target, sizeof(target), "../../devices/nvme0n1%s", i == 0 ? "" : "/p1");
        snprintf(name, sizeof(name), "%s/sys/dev/block/259:%u", machine->root, i);
        assert_int_equal(symlink(target, name), 0);
    }
    expect_device(machine, 0, DOCTOR_OK,
                  "nvme0n1, not rotational; scheduler none, nr_requests 1023", NULL);
    expect_device(machine, 1, DOCTOR_OK,
                  "nvme0n1p1, not rotational; scheduler none, nr_requests 1023", NULL);
    file_put(machine, "/sys/devices/nvme0n1/queue/scheduler", "none mq-deadline [bfq]\n");
    expect_device(machine, 1, DOCTOR_WARN, "scheduler bfq", "none or mq-deadline");
    file_put(machine, "/sys/devices/nvme0n1/queue/scheduler", "none [mq-deadline] bfq\n");
    expect_device(machine, 1, DOCTOR_OK, "scheduler mq-deadline", NULL);
    file_put(machine, "/sys/devices/nvme0n1/queue/rotational", "1\n");
    expect_device(machine, 1, DOCTOR_WARN, "nvme0n1p1, rotational", "NVMe");
    expect_device(machine, 7, DOCTOR_OK, "unknown: 259:7", NULL);
}

static void a_directory_without_a_device_is_no_fault(void **state)
{
    struct machine *machine = *state;
    doctor_device(&machine->report, &machine->question, makedev(0, 42));
    expect_finding(&machine->report.findings[0], DOCTOR_OK, "unknown: 0:42", NULL);
}

/* ---- index ---- */

static void an_index_has_to_open(void **state)
{
    struct machine *machine = *state;
    struct doctor_report *report = &machine->report;
    struct error err;
    char path[DIRECTORY_FIXTURE_BYTES + 16];
    snprintf(path, sizeof(path), "%s/gen", machine->root);
    assert_null(doctor_index_open(report, path, NULL));
    expect_finding(&report->findings[0], DOCTOR_FAIL, "gen", "complete generation");
    fixture_must_write(path, 1);
    assert_null(doctor_index_open(report, NULL, machine->root));
    expect_finding(&report->findings[1], DOCTOR_FAIL, "current", "nightjar publish");
    fixture_must(publish_generation(machine->root, "gen", &err), &err);
    struct generation *generation = doctor_index_open(report, NULL, machine->root);
    assert_non_null(generation);
    expect_finding(&report->findings[2], DOCTOR_OK, "97 vectors of 8 u8 in 10 blocks", NULL);
    generation_close(generation);
    generation = doctor_index_open(report, path, NULL);
    assert_non_null(generation);
    generation_close(generation);
    assert_int_equal(report->count, 4);
}

static void a_directory_that_anyone_may_write_is_warned_of(void **state)
{
    struct machine *machine = *state;
    struct doctor_report *report = &machine->report;
    doctor_permissions(report, "root", machine->root);
    expect_finding(&report->findings[0], DOCTOR_OK, "0700", NULL);
    assert_int_equal(chmod(machine->root, 0702), 0);
    doctor_permissions(report, "root", machine->root);
    expect_finding(&report->findings[1], DOCTOR_WARN, "0702", "chmod o-w");
    assert_int_equal(chmod(machine->root, 0775), 0);
    doctor_permissions(report, "root", machine->root);
    expect_finding(&report->findings[2], DOCTOR_OK, "0775", NULL);
    doctor_permissions(report, "root", "/nowhere/at/all");
    expect_finding(&report->findings[3], DOCTOR_FAIL, "No such file", "may read");
}

/* Of a plan by index_plan.h for the fixture's generation: what it takes at least, and whole. */
static void a_budget_is_held_against_the_index(void **state)
{
    struct machine *machine = *state;
    struct manifest manifest;
    fixture_manifest(1, &manifest);
    fixture_manifest_lengths(&manifest);
    machine->question.manifest = &manifest;
    machine->question.memory_bytes = 10;
    expect(machine, doctor_budget, DOCTOR_FAIL, "--memory 10 bytes: codes and navigation",
           "or more");
    machine->question.memory_bytes = 0;
    expect(machine, doctor_budget, DOCTOR_OK, "buys codes of 4 bytes; from", NULL);
    machine->question.memory_bytes = 1u << 30;
    expect(machine, doctor_budget, DOCTOR_OK, "all blocks: no reads", NULL);
    /* An index that is smaller than its budget takes no more than it is. */
    file_put(machine, "/proc/meminfo", "MemAvailable: 100000 kB\n");
    expect(machine, doctor_memory, DOCTOR_OK, "97.7 MiB available", NULL);
}

/* ---- reads ---- */

static struct doctor_disk disk_made_up(double mean_us, double per_second)
{
    struct doctor_disk disk = {.read_count = DOCTOR_DEPTHS};
    static const uint32_t depths[DOCTOR_DEPTHS] = {1, 8, 32, 128};
    for (uint32_t i = 0; i < DOCTOR_DEPTHS; i++)
        disk.reads[i] = (struct doctor_reads){.depth = depths[i],
                                              .count = 1000,
                                              .per_second = per_second * (i + 1) / DOCTOR_DEPTHS,
                                              .mean_us = mean_us * (i + 1),
                                              .p99_us = mean_us * (i + 1)};
    return disk;
}

static void judge(struct machine *machine, struct doctor_disk disk)
{
    machine->report.count = 0;
    doctor_reads_judge(&machine->report, &machine->question, &disk);
}

static void slow_and_few_reads_are_warned_of(void **state)
{
    struct machine *machine = *state;
    const struct doctor_finding *findings = machine->report.findings;
    judge(machine, disk_made_up(500, 20000));
    assert_int_equal(machine->report.count, 5);
    assert_int_equal(doctor_count(&machine->report, DOCTOR_OK), 5);
    expect_finding(&findings[0], DOCTOR_OK, "depth 1: 5000 reads/s, mean 500 us", NULL);
    expect_finding(&findings[4], DOCTOR_OK, "1176 queries/s at most; 8.5 ms", NULL);
    judge(machine, disk_made_up(501, 20000));
    assert_int_equal(doctor_count(&machine->report, DOCTOR_OK), 4);
    expect_finding(&findings[0], DOCTOR_WARN, "mean 501 us", "NVMe");
    judge(machine, disk_made_up(500, 19999));
    assert_int_equal(doctor_count(&machine->report, DOCTOR_OK), 4);
    expect_finding(&findings[3], DOCTOR_WARN, "depth 128: 19999", "20000 reads/s");
}

static void a_slow_disk_does_not_matter_to_a_resident_index(void **state)
{
    struct machine *machine = *state;
    struct manifest manifest;
    fixture_manifest(1, &manifest);
    fixture_manifest_lengths(&manifest);
    machine->question.manifest = &manifest;
    judge(machine, disk_made_up(5000, 100));
    assert_int_equal(doctor_count(&machine->report, DOCTOR_OK), 5);
    expect_finding(&machine->report.findings[4], DOCTOR_OK, "read nothing", NULL);
    machine->question.memory_bytes = 0;
    judge(machine, disk_made_up(5000, 100));
    assert_int_equal(doctor_count(&machine->report, DOCTOR_WARN), 2);
}

static void a_failed_read_is_a_failure(void **state)
{
    struct machine *machine = *state;
    struct doctor_disk disk = disk_made_up(100, 100000);
    disk.read_count = 2;
    disk.reads[1].os_error = EIO;
    disk.reads[1].failed_offset = 8192;
    judge(machine, disk);
    assert_int_equal(machine->report.count, 2);
    expect_finding(&machine->report.findings[1], DOCTOR_FAIL,
                   "depth 8: at byte 8192: Input/output error", "smartctl");
}

static void measure(struct machine *machine, const struct doctor_file *file,
                    struct doctor_disk *disk)
{
    machine->report.count = 0;
    disk->duration_s = 0.005;
    doctor_disk_measure(&machine->report, &machine->question, file, disk);
    /* Whatever the kernel grants, a ring or threads have read. */
    assert_int_equal(machine->report.count, 1);
    assert_string_equal(machine->report.findings[0].topic, "io_uring");
    assert_int_equal(doctor_count(&machine->report, DOCTOR_FAIL), 0);
}

static void a_temporary_file_is_read_at_each_depth_and_leaves_nothing(void **state)
{
    struct machine *machine = *state;
    struct doctor_file file;
    struct doctor_disk disk;
    struct error err;
    fixture_must(doctor_file_temporary(machine->root, &file, &err), &err);
    struct stat info;
    assert_int_equal(fstat(file.fd, &info), 0);
    assert_int_equal(info.st_size, DOCTOR_FILE_BYTES);
    assert_int_equal(info.st_nlink, 0);
    uint32_t alignment = doctor_alignment(&file);
    assert_true(alignment <= 4096 && (alignment & (alignment - 1)) == 0);
    measure(machine, &file, &disk);
    assert_int_equal(disk.read_count, DOCTOR_DEPTHS);
    for (uint32_t i = 0; i < DOCTOR_DEPTHS; i++) {
        assert_int_equal(disk.reads[i].os_error, 0);
        assert_true(disk.reads[i].count >= disk.reads[i].depth);
        assert_true(disk.reads[i].per_second > 0 && disk.reads[i].mean_us > 0);
        assert_true(disk.reads[i].p99_us > 0);
    }
    assert_int_equal(disk.reads[3].depth, 128);
    doctor_file_close(&file);
    assert_int_equal(directory_fixture_entries(machine->root), 0);
}

/* Reads beyond the end of a file give nothing, as those of one that was cut. */
static void a_file_that_ends_early_is_noticed(void **state)
{
    struct machine *machine = *state;
    struct doctor_file file;
    struct doctor_disk disk;
    struct error err;
    fixture_must(doctor_file_temporary(machine->root, &file, &err), &err);
    assert_int_equal(ftruncate(file.fd, 0), 0);
    measure(machine, &file, &disk);
    assert_int_equal(disk.read_count, 1);
    assert_int_equal(disk.reads[0].os_error, ENODATA);
    assert_int_equal(disk.reads[0].failed_offset % 4096, 0);
    doctor_reads_judge(&machine->report, &machine->question, &disk);
    assert_int_equal(doctor_count(&machine->report, DOCTOR_FAIL), 1);
    doctor_file_close(&file);
}

static void no_temporary_file_without_a_directory(void **state)
{
    struct machine *machine = *state;
    struct doctor_file file;
    struct error err;
    char path[DIRECTORY_FIXTURE_BYTES + 16];
    snprintf(path, sizeof(path), "%s/absent", machine->root);
    assert_int_equal(doctor_file_temporary(path, &file, &err), STATUS_IO);
    expect_words(err.text, "absent: cannot make a temporary file: No such file");
}

static void the_machine_has_numa_nodes(void **state)
{
    struct machine *machine = *state;
    doctor_numa(&machine->report);
    expect_finding(&machine->report.findings[0], DOCTOR_OK, "node", NULL);
}

#define MACHINE_TEST(name) cmocka_unit_test_setup_teardown(name, machine_setup, machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(remedies_add_up_and_the_worst_verdict_stays),
        cmocka_unit_test(sizes_have_units),
        MACHINE_TEST(old_kernels_are_warned_of),
        MACHINE_TEST(a_refused_ring_has_the_remedy_of_its_cause),
        MACHINE_TEST(a_ring_is_judged_by_its_description),
        MACHINE_TEST(slow_clocks_are_warned_of),
        MACHINE_TEST(allowed_cpus_are_counted),
        MACHINE_TEST(a_quota_below_the_cpus_is_warned_of),
        MACHINE_TEST(a_quota_of_cgroup_v1_is_understood),
        MACHINE_TEST(a_powersave_governor_is_warned_of),
        MACHINE_TEST(missing_instructions_are_warned_of),
        MACHINE_TEST(a_budget_has_to_fit_the_memory),
        MACHINE_TEST(swap_is_warned_of_unless_it_is_not_for_us),
        MACHINE_TEST(strict_overcommit_has_to_leave_room),
        MACHINE_TEST(huge_pages_have_to_be_had),
        MACHINE_TEST(mappings_grow_with_workers),
        MACHINE_TEST(buffers_have_to_fit_the_locked_memory),
        MACHINE_TEST(connections_have_to_fit_the_descriptors),
        MACHINE_TEST(file_systems_are_known_by_number),
        MACHINE_TEST(alignment_has_to_be_that_of_blocks),
        MACHINE_TEST(a_partition_is_judged_by_its_disk),
        MACHINE_TEST(a_directory_without_a_device_is_no_fault),
        MACHINE_TEST(an_index_has_to_open),
        MACHINE_TEST(a_directory_that_anyone_may_write_is_warned_of),
        MACHINE_TEST(a_budget_is_held_against_the_index),
        MACHINE_TEST(slow_and_few_reads_are_warned_of),
        MACHINE_TEST(a_slow_disk_does_not_matter_to_a_resident_index),
        MACHINE_TEST(a_failed_read_is_a_failure),
        MACHINE_TEST(a_temporary_file_is_read_at_each_depth_and_leaves_nothing),
        MACHINE_TEST(a_file_that_ends_early_is_noticed),
        MACHINE_TEST(no_temporary_file_without_a_directory),
        MACHINE_TEST(the_machine_has_numa_nodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
