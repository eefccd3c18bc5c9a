/*
 * doctor_kernel.c - the kernel: its version, io_uring, the clock source.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/machine.h"
#include "tools/doctor.h"

enum { WORD_BYTES = 128 };

/* The first word of a file; false if there is none. */
static bool word_read(const char *root, const char *path, char word[WORD_BYTES])
{
    char text[WORD_BYTES];
    return machine_text(root, path, text, sizeof(text)) && sscanf(text, "%127s", word) == 1;
}

void doctor_kernel(struct doctor_report *report, const struct doctor_question *question)
{
    char release[WORD_BYTES];
    unsigned major = 0, minor = 0;
    if (!word_read(question->root, "/proc/sys/kernel/osrelease", release) ||
        sscanf(release, "%u.%u", &major, &minor) != 2) {
        doctor_add(report, "kernel", "version unknown");
        return;
    }
    struct doctor_finding *finding = doctor_add(report, "kernel", "Linux %s", release);
    if (major < 5 || (major == 5 && minor < 13))
        doctor_object(finding, DOCTOR_WARN,
                      "Linux 5.13 or newer for io_uring, 6.1 for its best mode");
    else if (major < 6 || (major == 6 && minor < 1))
        doctor_object(finding, DOCTOR_WARN, "Linux 6.1 or newer for io_uring's best mode");
}

/* What to do about a refusal. The kernel answers EPERM both for its own switch and for seccomp;
 * only the switch can be looked at. */
static void refusal_object(struct doctor_finding *finding, const struct doctor_question *question,
                           const char *refusal)
{
    uint64_t disabled = 0;
    if (!machine_number(question->root, "/proc/sys/kernel/io_uring_disabled", &disabled))
        disabled = 0;
    char reason[WORD_BYTES];
    bool forbidden = strstr(refusal, strerror_r(EPERM, reason, sizeof(reason))) != NULL;
    const char *remedy = strchr(refusal, ';');
    if (disabled == 1 && forbidden)
        doctor_object(finding, DOCTOR_WARN,
                      "sysctl kernel.io_uring_disabled=0 (it is 1), or run in the group "
                      "kernel.io_uring_group");
    else if (disabled != 0 && forbidden)
        doctor_object(finding, DOCTOR_WARN, "sysctl kernel.io_uring_disabled=0 (it is %u)",
                      (unsigned)disabled);
    else if (forbidden)
        doctor_object(finding, DOCTOR_WARN,
                      "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp "
                      "profile of the container or unit");
    else
        doctor_object(finding, DOCTOR_WARN, "%s", remedy ? remedy + 2 : "Linux 5.13 or newer");
}

void doctor_ring_judge(struct doctor_report *report, const struct doctor_question *question,
                       const struct doctor_ring *ring)
{
    static const char topic[] = "io_uring";
    if (ring->uring) {
        struct doctor_finding *finding = doctor_add(report, topic, "%s", ring->description);
        if (strstr(ring->description, "plain-buffers"))
            doctor_object(finding, DOCTOR_WARN,
                          "a larger RLIMIT_MEMLOCK, so that buffers can be registered");
        return;
    }
    if (!ring->refusal) {
        struct doctor_finding *finding = doctor_add(report, topic, "%s", ring->description);
        doctor_object(finding, DOCTOR_WARN, "unset NIGHTJAR_IO: the kernel grants io_uring");
        return;
    }
    struct doctor_finding *finding =
        doctor_add(report, topic, "%.*s: reader threads take its place",
                   (int)strcspn(ring->refusal, ";"), ring->refusal);
    refusal_object(finding, question, ring->refusal);
}

void doctor_clock(struct doctor_report *report, const struct doctor_question *question)
{
    /* Those that are read without a system call, on x86 and arm. */
    static const char *const fast[] = {"tsc", "kvm-clock", "arch_sys_counter",
                                       "hyperv_clocksource_tsc_page"};
    char source[WORD_BYTES];
    if (!word_read(question->root,
                   "/sys/devices/system/clocksource/clocksource0/current_clocksource", source)) {
        doctor_add(report, "clock", "source unknown");
        return;
    }
    struct doctor_finding *finding = doctor_add(report, "clock", "%s", source);
    for (size_t i = 0; i < ARRAY_LENGTH(fast); i++)
        if (strcmp(source, fast[i]) == 0)
            return;
    doctor_object(finding, DOCTOR_WARN,
                  "clocksource=tsc on the kernel's command line where the machine has a stable "
                  "one: each look at this clock is a system call, several a query");
}
