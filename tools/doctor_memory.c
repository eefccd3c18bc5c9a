/*
 * doctor_memory.c - memory: what there is for the budget, swap, overcommit, huge pages, limits.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/machine.h"
#include "common/memory.h"
#include "query/engine.h"
#include "query/index_plan.h"
#include "query/server.h"
#include "tools/doctor.h"

enum {
    CAP_IPC_LOCK_BIT = 14,
    /* Mappings: a worker has its ring, buffers, stack and heap; the rest is the index and code. */
    MAPS_A_WORKER = 64,
    MAPS_BESIDE = 4096,
};

static uint64_t buffers_bytes(const struct doctor_question *question)
{
    return (uint64_t)question->workers * ENGINE_READS_DEFAULT * question->block_bytes;
}

/* What the daemon would take: the index may be smaller than the budget. */
static uint64_t index_bytes(const struct doctor_question *question)
{
    struct index_plan plan;
    if (!question->manifest ||
        index_plan_make(question->manifest, question->memory_bytes, &plan, NULL) != STATUS_OK)
        return question->memory_bytes;
    return plan.codes_bytes + plan.navigation_bytes + plan.attributes_bytes + plan.keys_bytes +
           plan.lists_bytes + plan.cache_bytes;
}

void doctor_memory(struct doctor_report *report, const struct doctor_question *question)
{
    char index[DOCTOR_SIZE_BYTES], buffers[DOCTOR_SIZE_BYTES], available[DOCTOR_SIZE_BYTES];
    uint64_t room = memory_available_at(question->root);
    uint64_t needed = index_bytes(question) + buffers_bytes(question);
    doctor_size(index_bytes(question), index);
    doctor_size(buffers_bytes(question), buffers);
    if (room == 0) {
        doctor_add(report, "memory", "%s for the index, %s of read buffers; available: unknown",
                   index, buffers);
        return;
    }
    struct doctor_finding *finding =
        doctor_add(report, "memory", "%s for the index, %s of read buffers; %s available", index,
                   buffers, doctor_size(room, available));
    if (needed > room)
        doctor_object(finding, DOCTOR_FAIL,
                      "a --memory that fits, or more memory (or a larger cgroup limit)");
    else if (needed > room - room / 10)
        doctor_object(finding, DOCTOR_WARN,
                      "a smaller --memory: less than a tenth is left for requests and the rest of "
                      "the machine");
}

/* ---- swap ---- */

struct swap_visit {
    const char *root;
    bool forbidden;
};

static void swap_visit(void *context, const struct machine_cgroup *group)
{
    struct swap_visit *visit = context;
    char path[MACHINE_PATH_BYTES];
    uint64_t most;
    if (!group->v2)
        return;
    snprintf(path, sizeof(path), "%.3500s/memory.swap.max", group->path);
    if (machine_number(visit->root, path, &most) && most == 0)
        visit->forbidden = true;
}

void doctor_swap(struct doctor_report *report, const struct doctor_question *question)
{
    char text[MACHINE_TEXT_BYTES], size[DOCTOR_SIZE_BYTES];
    uint64_t kilobytes, swappiness;
    if (!machine_text(question->root, "/proc/meminfo", text, sizeof(text)) ||
        !machine_field_number(text, "SwapTotal:", &kilobytes) || kilobytes == 0) {
        doctor_add(report, "swap", "none");
        return;
    }
    struct swap_visit visit = {.root = question->root};
    machine_cgroups(question->root, "memory", swap_visit, &visit);
    doctor_size(kilobytes * 1024, size);
    if (visit.forbidden) {
        doctor_add(report, "swap", "%s, but none for this cgroup", size);
        return;
    }
    if (!machine_number(question->root, "/proc/sys/vm/swappiness", &swappiness))
        swappiness = 60; /* the kernel's default */
    struct doctor_finding *finding =
        doctor_add(report, "swap", "%s, swappiness %" PRIu64, size, swappiness);
    if (swappiness > 1)
        doctor_object(finding, DOCTOR_WARN,
                      "swapoff -a, vm.swappiness=1, or MemorySwapMax=0 for the service: codes "
                      "that were swapped out cost a read each");
}

/* ---- the kernel's settings ---- */

void doctor_overcommit(struct doctor_report *report, const struct doctor_question *question)
{
    char text[MACHINE_TEXT_BYTES], size[DOCTOR_SIZE_BYTES];
    uint64_t mode, limit, committed;
    if (!machine_number(question->root, "/proc/sys/vm/overcommit_memory", &mode)) {
        doctor_add(report, "overcommit", "mode unknown");
        return;
    }
    if (mode != 2 || !machine_text(question->root, "/proc/meminfo", text, sizeof(text)) ||
        !machine_field_number(text, "CommitLimit:", &limit) ||
        !machine_field_number(text, "Committed_AS:", &committed)) {
        doctor_add(report, "overcommit", "mode %" PRIu64, mode);
        return;
    }
    uint64_t room = limit > committed ? (limit - committed) * 1024 : 0;
    struct doctor_finding *finding = doctor_add(
        report, "overcommit", "mode 2: %s may still be allocated", doctor_size(room, size));
    if (index_bytes(question) + buffers_bytes(question) > room)
        doctor_object(finding, DOCTOR_FAIL,
                      "a larger vm.overcommit_ratio, vm.overcommit_memory=0, or a smaller "
                      "--memory");
}

/* The word in brackets of "always [madvise] never"; false if there is none. */
static bool choice_read(const char *root, const char *path, char choice[32])
{
    char text[128];
    if (!machine_text(root, path, text, sizeof(text)))
        return false;
    const char *open = strchr(text, '[');
    return open && sscanf(open, "[%31[^]]", choice) == 1;
}

#define HUGE_PAGES "/sys/kernel/mm/transparent_hugepage/"

void doctor_huge_pages(struct doctor_report *report, const struct doctor_question *question)
{
    char enabled[32], defrag[32] = "unknown";
    uint64_t khugepaged = 1;
    if (!choice_read(question->root, HUGE_PAGES "enabled", enabled)) {
        doctor_add(report, "huge-pages", "the kernel does not say whether it has transparent ones");
        return;
    }
    if (!choice_read(question->root, HUGE_PAGES "defrag", defrag))
        snprintf(defrag, sizeof(defrag), "unknown");
    if (!machine_number(question->root, HUGE_PAGES "khugepaged/defrag", &khugepaged))
        khugepaged = 1;
    struct doctor_finding *finding =
        doctor_add(report, "huge-pages", "transparent: %s; defrag %s, khugepaged %s", enabled,
                   defrag, khugepaged ? "on" : "off");
    if (strcmp(enabled, "never") == 0)
        doctor_object(finding, DOCTOR_WARN, "echo madvise >" HUGE_PAGES "enabled");
    else if (strcmp(defrag, "never") == 0 && khugepaged == 0)
        doctor_object(finding, DOCTOR_WARN,
                      "echo madvise >" HUGE_PAGES "defrag: once memory is fragmented, nothing "
                      "makes huge pages");
}

void doctor_maps(struct doctor_report *report, const struct doctor_question *question)
{
    uint64_t most, wanted = MAPS_BESIDE + (uint64_t)MAPS_A_WORKER * question->workers;
    if (!machine_number(question->root, "/proc/sys/vm/max_map_count", &most)) {
        doctor_add(report, "mappings", "limit unknown");
        return;
    }
    struct doctor_finding *finding =
        doctor_add(report, "mappings", "vm.max_map_count %" PRIu64, most);
    if (most < wanted)
        doctor_object(finding, DOCTOR_WARN, "sysctl vm.max_map_count=%" PRIu64 " or more", wanted);
}

/* ---- limits of the process ---- */

/* "unlimited" or a number. */
static uint64_t limit_value(const char *word)
{
    return strcmp(word, "unlimited") == 0 ? UINT64_MAX : strtoull(word, NULL, 10);
}

static bool limit_read(const char *root, const char *key, uint64_t *soft, uint64_t *hard)
{
    char text[MACHINE_TEXT_BYTES], words[2][32];
    const char *field = machine_text(root, "/proc/self/limits", text, sizeof(text))
                            ? machine_field(text, key)
                            : NULL;
    if (!field || sscanf(field, " %31s %31s", words[0], words[1]) != 2)
        return false;
    *soft = limit_value(words[0]);
    *hard = limit_value(words[1]);
    return true;
}

static bool may_lock_anything(const char *root)
{
    char text[MACHINE_TEXT_BYTES];
    const char *field = machine_text(root, "/proc/self/status", text, sizeof(text))
                            ? machine_field(text, "CapEff:")
                            : NULL;
    return field && (strtoull(field, NULL, 16) >> CAP_IPC_LOCK_BIT & 1) != 0;
}

static void limit_locked(struct doctor_report *report, const struct doctor_question *question)
{
    static const char topic[] = "locked-memory";
    char wanted[DOCTOR_SIZE_BYTES], size[DOCTOR_SIZE_BYTES];
    uint64_t soft, hard, bytes = buffers_bytes(question);
    doctor_size(bytes, wanted);
    if (!limit_read(question->root, "Max locked memory", &soft, &hard)) {
        doctor_add(report, topic, "limit unknown; read buffers take %s", wanted);
    } else if (may_lock_anything(question->root)) {
        doctor_add(report, topic, "no limit (CAP_IPC_LOCK); read buffers take %s", wanted);
    } else if (soft == UINT64_MAX) {
        doctor_add(report, topic, "unlimited; read buffers take %s", wanted);
    } else {
        struct doctor_finding *finding =
            doctor_add(report, topic, "%s; %u workers' read buffers take %s",
                       doctor_size(soft, size), question->workers, wanted);
        if (soft < bytes)
            doctor_object(finding, DOCTOR_WARN,
                          "LimitMEMLOCK=%" PRIu64 " for the service, or ulimit -l %" PRIu64
                          ": some workers' buffers could not be registered",
                          bytes, bytes / 1024);
    }
}

static void limit_descriptors(struct doctor_report *report, const struct doctor_question *question)
{
    static const char topic[] = "descriptors";
    uint64_t soft, hard, wanted = (uint64_t)question->connections + SERVER_DESCRIPTORS_BESIDE;
    if (!limit_read(question->root, "Max open files", &soft, &hard)) {
        doctor_add(report, topic, "limit unknown");
        return;
    }
    /* The daemon raises its soft limit itself. */
    struct doctor_finding *finding =
        hard == UINT64_MAX ? doctor_add(report, topic, "unlimited")
                           : doctor_add(report, topic, "%" PRIu64 " for %u connections", hard,
                                        question->connections);
    if (hard < wanted)
        doctor_object(finding, DOCTOR_WARN,
                      "LimitNOFILE=%" PRIu64 " for the service, or fewer --max-connections",
                      wanted);
}

void doctor_limits(struct doctor_report *report, const struct doctor_question *question)
{
    limit_locked(report, question);
    limit_descriptors(report, question);
}
