/*
 * cmd_root.c - `nightjar list` and `prune`: what is in a root, and removing what is old.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "layout/root.h"
#include "tools/cmd.h"

static const char *state_name(enum root_state state)
{
    static const char *const names[] = {
        [ROOT_COMPLETE] = "complete", [ROOT_INCOMPLETE] = "incomplete", [ROOT_DAMAGED] = "damaged"};
    return names[state];
}

/* ---- list ---- */

enum { CELL_BYTES = 32 };

/* "3.2 h"; "-" when there is no manifest. */
static void format_age(int64_t modified_ns, int64_t now_s, char text[CELL_BYTES])
{
    double age = (double)now_s - (double)modified_ns / 1e9;
    if (modified_ns == 0)
        snprintf(text, CELL_BYTES, "-");
    else if (age < 120)
        snprintf(text, CELL_BYTES, "%.0f s", age > 0 ? age : 0);
    else if (age < 7200)
        snprintf(text, CELL_BYTES, "%.1f min", age / 60);
    else if (age < 172800)
        snprintf(text, CELL_BYTES, "%.1f h", age / 3600);
    else
        snprintf(text, CELL_BYTES, "%.1f d", age / 86400);
}

/* What it is to the root, or why it is not complete. */
static void print_notes(const struct root_entry *entry)
{
    const char *const notes[] = {entry->live ? "live" : NULL, entry->previous ? "previous" : NULL,
                                 entry->in_use ? "in use" : NULL,
                                 entry->reason[0] != '\0' ? entry->reason : NULL};
    const char *separator = "  ";
    for (size_t i = 0; i < ARRAY_LENGTH(notes); i++) {
        if (notes[i] == NULL)
            continue;
        printf("%s%s", separator, notes[i]);
        separator = ", ";
    }
    printf("\n");
}

static void print_entry(const struct root_entry *entry, int width, int64_t now_s)
{
    char age[CELL_BYTES], vectors[CELL_BYTES] = "-", recall[CELL_BYTES] = "-";
    format_age(entry->modified_ns, now_s, age);
    if (entry->state == ROOT_COMPLETE)
        snprintf(vectors, sizeof(vectors), "%" PRIu64, entry->vector_count);
    if (entry->recall >= 0)
        snprintf(recall, sizeof(recall), "%.4f", entry->recall);
    printf("%-*s  %-10s %9s %12.1f %12s %7s", width, entry->name, state_name(entry->state), age,
           (double)entry->bytes / 0x1p20, vectors, recall);
    print_notes(entry);
}

static void print_table(const struct root_listing *listing)
{
    size_t width = strlen("name");
    for (size_t i = 0; i < listing->count; i++)
        width = MAX(width, strlen(listing->entries[i].name));
    printf("%-*s  %-10s %9s %12s %12s %7s\n", (int)width, "name", "state", "age", "MiB", "vectors",
           "recall");
    const int64_t now_s = (int64_t)time(NULL);
    for (size_t i = 0; i < listing->count; i++)
        print_entry(&listing->entries[i], (int)width, now_s);
}

static const char *word(bool value)
{
    return value ? "true" : "false";
}

static void print_entry_json(const struct root_entry *entry)
{
    char id[CMD_DIGEST_BYTES];
    printf("{\"name\":");
    cmd_json_string(stdout, entry->name);
    printf(",\"state\":\"%s\",\"live\":%s,\"previous\":%s,\"in_use\":%s,\"bytes\":%" PRIu64
           ",\"modified\":%" PRId64,
           state_name(entry->state), word(entry->live), word(entry->previous), word(entry->in_use),
           entry->bytes, entry->modified_ns / 1000000000);
    if (entry->state == ROOT_COMPLETE) {
        cmd_digest_format(&entry->id, id);
        printf(",\"id\":\"%s\",\"vector_count\":%" PRIu64, id, entry->vector_count);
    } else {
        printf(",\"reason\":");
        cmd_json_string(stdout, entry->reason);
    }
    if (entry->published > 0)
        printf(",\"published\":%u", entry->published);
    if (entry->published_at > 0)
        printf(",\"published_at\":%" PRId64, entry->published_at);
    if (entry->recall >= 0)
        printf(",\"recall\":%.4f", entry->recall);
    printf("}");
}

static void print_listing_json(const char *root, const struct root_listing *listing)
{
    printf("{\"root\":");
    cmd_json_string(stdout, root);
    printf(",\"generations\":[");
    for (size_t i = 0; i < listing->count; i++) {
        if (i > 0)
            printf(",");
        print_entry_json(&listing->entries[i]);
    }
    printf("]}\n");
}

static const char root_help[] = "directory that holds generations and the link 'current'";

enum cmd_outcome cmd_list(int argc, char **argv, struct error *err)
{
    const char *root = NULL;
    bool json = false;
    const struct args_option table[] = {
        {.name = "root",
         .kind = ARGS_STRING,
         .target = &root,
         .value_name = "ROOT",
         .help = root_help,
         .required = true},
        {.name = "json", .kind = ARGS_FLAG, .target = &json, .help = "one object"},
    };
    const struct args_spec spec = {
        .program = "nightjar list",
        .summary =
            "Show the generations of a root: what was published, newest first, then the rest.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "previous: what 'nightjar rollback' would take. in use: a process has it open. "
                  "recall: as it was measured when\n"
                  "it was published. Only manifests and lengths are checked.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    struct root_listing listing;
    enum status status = root_list(root, &listing, err);
    if (status != STATUS_OK)
        return CMD_FAILED;
    if (json)
        print_listing_json(root, &listing);
    else
        print_table(&listing);
    root_listing_free(&listing);
    return CMD_OK;
}

/* ---- prune ---- */

struct prune_report {
    bool dry_run;
    bool json;
    uint32_t count;
};

static void report_event(void *context, const struct root_event *event)
{
    struct prune_report *report = context;
    const bool removed = event->action == ROOT_REMOVED;
    const bool first = report->count++ == 0;
    if (report->json) {
        printf("%s{\"name\":", first ? "" : ",");
        cmd_json_string(stdout, event->name);
        printf(",\"removed\":%s,\"bytes\":%" PRIu64 ",\"reason\":", word(removed), event->bytes);
        cmd_json_string(stdout, event->reason);
        printf("}");
        return;
    }
    const char *action = !removed ? "kept" : report->dry_run ? "would remove" : "removed";
    printf("%-*s %s, %.1f MiB%s%s\n", report->dry_run ? 12 : 7, action, event->name,
           (double)event->bytes / 0x1p20, event->reason[0] != '\0' ? ": " : "", event->reason);
}

static enum status prune_run(const char *root, uint32_t keep, struct prune_report *report,
                             struct error *err)
{
    const struct root_prune_options options = {
        .keep = keep, .dry_run = report->dry_run, .observer = {report_event, report}};
    if (report->json) {
        printf("{\"root\":");
        cmd_json_string(stdout, root);
        printf(",\"dry_run\":%s,\"generations\":[", word(report->dry_run));
    }
    enum status status = root_prune(root, &options, err);
    if (report->json)
        printf("]}\n");
    return status;
}

enum cmd_outcome cmd_prune(int argc, char **argv, struct error *err)
{
    const char *root = NULL;
    uint32_t keep = 0;
    struct prune_report report = {.dry_run = false};
    const struct args_option table[] = {
        {.name = "root",
         .kind = ARGS_STRING,
         .target = &root,
         .value_name = "ROOT",
         .help = root_help,
         .required = true},
        {.name = "keep",
         .kind = ARGS_U32,
         .target = &keep,
         .value_name = "N",
         .help = "complete generations that stay, the live one among them",
         .min = 1,
         .max = UINT32_MAX,
         .required = true},
        {.name = "dry-run",
         .kind = ARGS_FLAG,
         .target = &report.dry_run,
         .help = "change nothing, only say what would be removed"},
        {.name = "json", .kind = ARGS_FLAG, .target = &report.json, .help = "one object"},
    };
    const struct args_spec spec = {
        .program = "nightjar prune",
        .summary = "Remove all but the first N complete generations of 'nightjar list'.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "The live generation and those in use stay, and whatever is not a complete "
                  "generation. What a prune that was killed\n"
                  "left is removed by the next.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    return cmd_outcome_of(prune_run(root, keep, &report, err));
}
