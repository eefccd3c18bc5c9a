/*
 * doctor.c - owns the report: a bounded list of findings.
 */
#include "tools/doctor.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct doctor_finding *doctor_add(struct doctor_report *report, const char *topic,
                                  const char *format, ...)
{
    assert(report->count < DOCTOR_FINDINGS_MAX);
    struct doctor_finding *finding = &report->findings[report->count++];
    *finding = (struct doctor_finding){.verdict = DOCTOR_OK, .topic = topic};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->found, sizeof(finding->found), format, arguments);
    va_end(arguments);
    return finding;
}

void doctor_object(struct doctor_finding *finding, enum doctor_verdict verdict, const char *format,
                   ...)
{
    finding->verdict = MAX(finding->verdict, verdict);
    size_t used = strlen(finding->remedy);
    if (used > 0)
        used += (size_t)snprintf(finding->remedy + used, sizeof(finding->remedy) - used, "; ");
    if (used >= sizeof(finding->remedy))
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->remedy + used, sizeof(finding->remedy) - used, format, arguments);
    va_end(arguments);
}

const char *doctor_verdict_name(enum doctor_verdict verdict)
{
    static const char *const names[DOCTOR_VERDICTS] = {"ok", "warn", "fail"};
    return names[verdict];
}

uint32_t doctor_count(const struct doctor_report *report, enum doctor_verdict verdict)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < report->count; i++)
        count += report->findings[i].verdict == verdict;
    return count;
}

const char *doctor_size(uint64_t bytes, char text[DOCTOR_SIZE_BYTES])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < ARRAY_LENGTH(units); unit++)
        value /= 1024;
    snprintf(text, DOCTOR_SIZE_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}
