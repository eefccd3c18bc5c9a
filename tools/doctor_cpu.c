/*
 * doctor_cpu.c - CPUs: how many, a quota on them, instruction sets, frequency governor, NUMA nodes.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cpu.h"
#include "common/machine.h"
#include "common/topology.h"
#include "tools/doctor.h"

/* ---- number ---- */

/* "0-3,8" as the kernel writes it. */
static void cpu_list_parse(const char *text, cpu_set_t *cpus)
{
    CPU_ZERO(cpus);
    while (text) {
        unsigned first, last;
        int fields = sscanf(text, " %u-%u", &first, &last);
        if (fields < 1)
            return;
        if (fields == 1)
            last = first;
        for (unsigned cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
            CPU_SET(cpu, cpus);
        text += strcspn(text, ",\n");
        text = *text == ',' ? text + 1 : NULL;
    }
}

static void cpus_read(const char *root, cpu_set_t *cpus)
{
    char text[MACHINE_TEXT_BYTES];
    CPU_ZERO(cpus);
    if (machine_text(root, "/proc/self/status", text, sizeof(text)))
        cpu_list_parse(machine_field(text, "Cpus_allowed_list:"), cpus);
}

uint32_t doctor_cpus_allowed(const char *root)
{
    cpu_set_t cpus;
    cpus_read(root, &cpus);
    if (CPU_COUNT(&cpus) == 0 && sched_getaffinity(0, sizeof(cpus), &cpus) != 0)
        return 1;
    return (uint32_t)MAX(1, CPU_COUNT(&cpus));
}

/* The least quota of the cgroups visited, in CPUs; 0: none. */
struct quota {
    const char *root;
    double cpus;
};

static void quota_take(struct quota *quota, double time_us, double period_us)
{
    if (time_us <= 0 || period_us <= 0)
        return;
    double cpus = time_us / period_us;
    quota->cpus = quota->cpus > 0 ? MIN(quota->cpus, cpus) : cpus;
}

/* v2: "200000 100000" or "max 100000"; v1: two files, -1 for no quota. */
static void quota_visit(void *context, const struct machine_cgroup *group)
{
    struct quota *quota = context;
    char path[MACHINE_PATH_BYTES], text[64];
    uint64_t time_us, period_us;
    if (group->v2) {
        snprintf(path, sizeof(path), "%.3500s/cpu.max", group->path);
        unsigned long long time, period;
        if (machine_text(quota->root, path, text, sizeof(text)) &&
            sscanf(text, "%llu %llu", &time, &period) == 2)
            quota_take(quota, (double)time, (double)period);
        return;
    }
    snprintf(path, sizeof(path), "%.3500s/cpu.cfs_quota_us", group->path);
    if (!machine_number(quota->root, path, &time_us))
        return;
    snprintf(path, sizeof(path), "%.3500s/cpu.cfs_period_us", group->path);
    if (machine_number(quota->root, path, &period_us))
        quota_take(quota, (double)time_us, (double)period_us);
}

void doctor_cpus(struct doctor_report *report, const struct doctor_question *question)
{
    struct quota quota = {.root = question->root};
    machine_cgroups(question->root, "cpu", quota_visit, &quota);
    uint32_t workers = question->workers;
    if (quota.cpus <= 0) {
        doctor_add(report, "cpus", "%u, no quota", workers);
        return;
    }
    struct doctor_finding *finding =
        doctor_add(report, "cpus", "%u, with a cgroup quota of %.4g", workers, quota.cpus);
    if (quota.cpus < workers)
        doctor_object(finding, DOCTOR_WARN,
                      "nightjard --threads %u, or a larger quota: workers that use it up stand "
                      "still for the rest of a period",
                      MAX(1u, (unsigned)quota.cpus));
}

/* ---- speed ---- */

void doctor_governor(struct doctor_report *report, const struct doctor_question *question)
{
    cpu_set_t cpus;
    cpus_read(question->root, &cpus);
    uint32_t known = 0, slow = 0;
    char governor[32] = "";
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        char path[128], text[64];
        if (!CPU_ISSET(cpu, &cpus))
            continue;
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/cpufreq/scaling_governor", cpu);
        if (!machine_text(question->root, path, text, sizeof(text)))
            continue;
        bool powersave = strncmp(text, "powersave", strlen("powersave")) == 0;
        if (known++ == 0 || powersave)
            (void)sscanf(text, "%31s", governor);
        slow += powersave;
    }
    if (known == 0) {
        doctor_add(report, "governor", "not visible here");
        return;
    }
    struct doctor_finding *finding = doctor_add(report, "governor", "%s", governor);
    if (slow > 0)
        doctor_object(finding, DOCTOR_WARN,
                      "cpupower frequency-set -g performance (%u of %u CPUs have powersave)", slow,
                      known);
}

void doctor_instructions(struct doctor_report *report, unsigned features)
{
    struct doctor_finding *finding =
        doctor_add(report, "instructions", "%s", cpu_features_name(features));
    const char *forced = getenv("NIGHTJAR_CPU");
    if (features & CPU_AVX2)
        return;
    if (forced && *forced)
        doctor_object(finding, DOCTOR_WARN, "unset NIGHTJAR_CPU (it is %.40s)", forced);
    else
        doctor_object(finding, DOCTOR_WARN,
                      "a CPU with AVX2 or AVX-512, or a virtual one that is given them: distances "
                      "take several times as long without");
}

void doctor_numa(struct doctor_report *report)
{
    struct topology *topology = NULL;
    struct error err;
    if (topology_load(&topology, &err) != STATUS_OK) {
        doctor_add(report, "numa", "unknown: %s", err.text);
        return;
    }
    uint32_t count = topology_numa_count(topology);
    doctor_add(report, "numa", "%u node%s%s", count, count == 1 ? "" : "s",
               topology_is_real(topology) ? "" : ", made up by HWLOC_*");
    topology_destroy(topology);
}
