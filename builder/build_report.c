/*
 * build_report.c - clocks and the text of build-report.json. No state; any thread.
 *
 * The text is written by hand: it is flat, all its names are ours, and only one file of the project
 * knows the JSON library.
 */
#include "builder/build_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <time.h>

#include "common/clock.h"
#include "common/cpu.h"
#include "common/memory.h"
#include "common/version.h"

const char *build_stage_name(enum build_stage stage)
{
    static const char *const names[BUILD_STAGE_COUNT] = {
        [BUILD_STAGE_INGEST] = "ingest",
        [BUILD_STAGE_TRAIN] = "train",
        [BUILD_STAGE_SAMPLE] = "sample",
        [BUILD_STAGE_PARTITION] = "partition",
        [BUILD_STAGE_GRAPH] = "graph",
        [BUILD_STAGE_MERGE] = "merge",
        [BUILD_STAGE_GEOMETRY] = "geometry",
        [BUILD_STAGE_PACK] = "pack",
        [BUILD_STAGE_NAVIGATION] = "navigation",
        [BUILD_STAGE_WRITE] = "write",
        [BUILD_STAGE_KEYS] = "keys",
        [BUILD_STAGE_CHECK] = "check",
    };
    return (unsigned)stage < BUILD_STAGE_COUNT ? names[stage] : "unknown";
}

struct build_clock build_clock_now(void)
{
    struct timespec cpu;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (struct build_clock){.wall_ns = clock_monotonic_ns(),
                                .cpu_s = (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9};
}

void build_clock_measure(const struct build_clock *since, struct build_stage_record *record)
{
    struct build_clock now = build_clock_now();

    record->wall_s = (double)(now.wall_ns - since->wall_ns) * 1e-9;
    record->cpu_s = now.cpu_s - since->cpu_s;
    record->peak_rss_bytes = memory_peak_rss();
}

/* The kernel's and CPU's names are not ours: nothing of them may end the string. */
static void string_print(FILE *out, const char *name, const char *value)
{
    fprintf(out, "  \"%s\": \"", name);
    for (const char *c = value; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\')
            fputc('\\', out);
        fputc((unsigned char)*c < 0x20 ? ' ' : *c, out);
    }
    fputs("\",\n", out);
}

static void record_print(FILE *out, const struct build_stage_record *record)
{
    fprintf(
        out,
        "{\"wall_s\": %.3f, \"cpu_s\": %.3f, \"peak_rss_bytes\": %llu, \"written_bytes\": %llu}",
        record->wall_s, record->cpu_s, (unsigned long long)record->peak_rss_bytes,
        (unsigned long long)record->written_bytes);
}

static void shard_print(FILE *out, uint32_t shard, const struct build_shard_record *record)
{
    fprintf(out, "    {\"shard\": %u, \"own\": %llu, \"borrowed\": %llu, ", shard,
            (unsigned long long)record->own_count, (unsigned long long)record->borrowed_count);
    if (record->numa_node == UINT32_MAX)
        fputs("\"numa_node\": null, ", out);
    else
        fprintf(out, "\"numa_node\": %u, ", record->numa_node);
    fprintf(out, "\"strict\": %s, \"pages_sampled\": %llu, \"pages_on_node\": %llu}",
            record->strict ? "true" : "false", (unsigned long long)record->pages_sampled,
            (unsigned long long)record->pages_on_node);
}

static void codec_print(FILE *out, const struct codec_choice *choice)
{
    fprintf(out, "  \"codec\": {\"kind\": \"%s\", \"measured_rows\": %u, \"recall\": {",
            codec_kind_name((enum codec_kind)choice->kind), choice->rows);
    const char *separator = "";
    for (uint32_t c = 0; choice->queries > 0 && c < CODEC_CHOICE_COUNT; c++) {
        if (choice->recall[c] < 0)
            continue;
        fprintf(out, "%s\"%s\": %.4f", separator, codec_candidate_name(c),
                (double)choice->recall[c]);
        separator = ", ";
    }
    fputs("}},\n", out);
}

static void report_print(FILE *out, const struct build_report *report,
                         const struct manifest *manifest)
{
    struct utsname host;
    struct timespec now = {0};
    struct tm utc = {0};
    char date[32] = "";

    clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &utc) != NULL)
        (void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &utc);
    fputs("{\n", out);
    string_print(out, "tool_version", NIGHTJAR_VERSION);
    fprintf(out, "  \"generation_id\": \"%016llx%016llx\",\n",
            (unsigned long long)manifest->generation_id.high,
            (unsigned long long)manifest->generation_id.low);
    string_print(out, "written_at", date);
    if (uname(&host) == 0) {
        string_print(out, "host", host.nodename);
        string_print(out, "kernel", host.release);
    }
    string_print(out, "cpu_features", cpu_features_name(cpu_features()));
    fprintf(out, "  \"threads\": %u,\n", report->threads);
    fprintf(out, "  \"vector_count\": %llu,\n", (unsigned long long)manifest->vector_count);
    fprintf(out, "  \"points_per_second_core\": %.1f,\n", report->points_per_second_core);
    fprintf(out, "  \"memory_planned_bytes\": %llu,\n",
            (unsigned long long)report->memory_planned_bytes);
    codec_print(out, &report->codec);
    fprintf(out, "  \"replication\": %.4f,\n  \"reached_nodes\": %llu,\n  \"walk_passes\": %u,\n",
            report->replication, (unsigned long long)report->reached_nodes, report->walk_passes);
    fputs("  \"total\": ", out);
    record_print(out, &report->total);
    fputs(",\n  \"stages\": {\n", out);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        fprintf(out, "    \"%s\": ", build_stage_name((enum build_stage)stage));
        record_print(out, &report->stages[stage]);
        fputs(stage + 1 < BUILD_STAGE_COUNT ? ",\n" : "\n", out);
    }
    fputs("  },\n  \"shards\": [\n", out);
    for (uint32_t s = 0; s < report->shard_count; s++) {
        shard_print(out, s, &report->shards[s]);
        fputs(s + 1 < report->shard_count ? ",\n" : "\n", out);
    }
    fputs("  ]\n}\n", out);
}

enum status build_report_format(const struct build_report *report, const struct manifest *manifest,
                                char **json, struct error *err)
{
    char *text = NULL;
    size_t length = 0;

    FILE *out = open_memstream(&text, &length);
    if (out == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the build report");
    report_print(out, report, manifest);
    if (fclose(out) != 0) {
        free(text);
        return error_set(err, STATUS_NO_MEMORY, "no memory for the build report");
    }
    *json = text;
    return STATUS_OK;
}
