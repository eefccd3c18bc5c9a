/*
 * cmd_doctor.c - `nightjar doctor`: is this machine ready to serve?
 *
 * What to look at is in doctor.h; here are the options, the order, and the printing. A finding is
 * printed as soon as it is there, because measuring the disk takes seconds.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "common/cpu.h"
#include "query/server.h"
#include "tools/cmd.h"
#include "tools/doctor.h"

enum {
    BLOCK_BYTES = 4096, /* where no index says otherwise */
    DURATION_S_MAX = 600,
    CONNECTIONS_MAX = 1 << 20, /* nightjard's */
};

struct doctor_options {
    const char *index;
    const char *root;
    const char *directory;
    uint64_t memory_bytes;
    uint32_t connections;
    double duration_s;
    bool json;
};

/* All of a run. */
struct examination {
    const struct doctor_options *options;
    struct doctor_question question;
    struct doctor_report report;
    struct doctor_disk disk;
    struct generation *generation; /* NULL: none is asked about, or it does not open */
    uint32_t printed;              /* findings */
};

/* ---- printing ---- */

/* Prints what was found since the last call; with --json all is printed at the end. */
static void print_new(struct examination *self)
{
    for (; !self->options->json && self->printed < self->report.count; self->printed++) {
        const struct doctor_finding *finding = &self->report.findings[self->printed];
        printf("%-5s %-13s %s", doctor_verdict_name(finding->verdict), finding->topic,
               finding->found);
        printf(finding->remedy[0] != '\0' ? "; remedy: %s\n" : "%s\n", finding->remedy);
    }
    fflush(stdout);
}

static void print_json(const struct doctor_report *report, const struct doctor_disk *disk)
{
    printf("{\"ready\":%s,\"ok\":%u,\"warn\":%u,\"fail\":%u,\"findings\":[",
           doctor_count(report, DOCTOR_FAIL) == 0 ? "true" : "false",
           doctor_count(report, DOCTOR_OK), doctor_count(report, DOCTOR_WARN),
           doctor_count(report, DOCTOR_FAIL));
    for (uint32_t i = 0; i < report->count; i++) {
        const struct doctor_finding *finding = &report->findings[i];
        printf("%s{\"verdict\":\"%s\",\"topic\":\"%s\",\"found\":", i > 0 ? "," : "",
               doctor_verdict_name(finding->verdict), finding->topic);
        cmd_json_string(stdout, finding->found);
        printf(",\"remedy\":");
        cmd_json_string(stdout, finding->remedy);
        putchar('}');
    }
    printf("],\"reads\":[");
    for (uint32_t i = 0; i < disk->read_count; i++) {
        const struct doctor_reads *reads = &disk->reads[i];
        printf("%s{\"depth\":%u,\"count\":%" PRIu64 ",\"per_second\":%.1f,\"mean_us\":%.1f,"
               "\"p99_us\":%.1f,\"errno\":%d}",
               i > 0 ? "," : "", reads->depth, reads->count, reads->per_second, reads->mean_us,
               reads->p99_us, reads->os_error);
    }
    printf("]}\n");
}

/* ---- the examination ---- */

static void examine_machine(struct examination *self)
{
    struct doctor_report *report = &self->report;
    const struct doctor_question *question = &self->question;
    doctor_kernel(report, question);
    doctor_clock(report, question);
    doctor_cpus(report, question);
    doctor_instructions(report, cpu_features());
    doctor_governor(report, question);
    doctor_numa(report);
    doctor_memory(report, question);
    doctor_swap(report, question);
    doctor_overcommit(report, question);
    doctor_huge_pages(report, question);
    doctor_maps(report, question);
    doctor_limits(report, question);
    print_new(self);
}

static void examine_index(struct examination *self)
{
    const struct doctor_options *options = self->options;
    self->generation = doctor_index_open(&self->report, options->index, options->root);
    if (options->root)
        doctor_permissions(&self->report, "root", options->root);
    if (self->generation) {
        doctor_permissions(&self->report, "generation", generation_path(self->generation));
        self->question.manifest = generation_manifest(self->generation);
        self->question.block_bytes = self->question.manifest->geometry.block_bytes;
        doctor_budget(&self->report, &self->question);
    }
    print_new(self);
}

static void examine_reads(struct examination *self, const char *directory)
{
    struct doctor_file file = {.fd = -1};
    struct error err;
    if (self->generation) {
        file = doctor_file_index(self->generation);
    } else if (!self->options->directory) {
        doctor_add(&self->report, "reads", "not measured: there is no index to read");
        return;
    } else if (doctor_file_temporary(directory, &file, &err) != STATUS_OK) {
        doctor_object(doctor_add(&self->report, "reads", "%.250s", err.text), DOCTOR_FAIL,
                      "--index, or a --directory with 64 MiB that this user may write");
        return;
    }
    doctor_direct_io(&self->report, file.direct, file.direct ? doctor_alignment(&file) : 0);
    print_new(self);
    doctor_disk_measure(&self->report, &self->question, &file, &self->disk);
    doctor_reads_judge(&self->report, &self->question, &self->disk);
    doctor_file_close(&file);
}

/* `directory` holds the index, or will. */
static enum status examine_disk(struct examination *self, const char *directory, struct error *err)
{
    struct stat info;
    struct statfs file_system;
    if (stat(directory, &info) != 0 || statfs(directory, &file_system) != 0)
        return error_set_os(err, errno, "%s", directory);
    doctor_file_system(&self->report, (uint32_t)file_system.f_type);
    doctor_device(&self->report, &self->question, info.st_dev);
    print_new(self);
    examine_reads(self, directory);
    print_new(self);
    return STATUS_OK;
}

/* A path that leads nowhere is a slip of the pen, not a finding. */
static enum status directory_check(const char *path, struct error *err)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return error_set_os(err, errno, "%s", path);
    if (!S_ISDIR(info.st_mode))
        return error_set(err, STATUS_INVALID, "%s: not a directory", path);
    return STATUS_OK;
}

static enum status examine(struct examination *self, struct error *err)
{
    const struct doctor_options *options = self->options;
    const char *directory = options->index ? options->index : options->root;
    if (!directory)
        directory = options->directory;
    enum status status = directory_check(directory, err);
    if (status != STATUS_OK)
        return status;
    if (options->index || options->root)
        examine_index(self);
    examine_machine(self);
    /* The generation's own: a root may hold links to other file systems. */
    if (self->generation)
        directory = generation_path(self->generation);
    status = examine_disk(self, directory, err);
    generation_close(self->generation);
    self->generation = NULL;
    return status;
}

/* ---- command ---- */

static bool options_parse(struct doctor_options *options, int argc, char **argv,
                          enum cmd_outcome *outcome, struct error *err)
{
    const struct args_option table[] = {
        {.name = "index",
         .kind = ARGS_STRING,
         .target = &options->index,
         .value_name = "GEN",
         .help = "the generation that is to be served: its blocks are read"},
        {.name = "root",
         .kind = ARGS_STRING,
         .target = &options->root,
         .value_name = "ROOT",
         .help = "or the one that ROOT/current names"},
        {.name = "directory",
         .kind = ARGS_STRING,
         .target = &options->directory,
         .value_name = "DIR",
         .help = "or where an index will be: a temporary file is written, read and removed there; "
                 "default: the current directory"},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &options->memory_bytes,
         .help = "that nightjard will be given"},
        {.name = "connections",
         .kind = ARGS_U32,
         .target = &options->connections,
         .value_name = "N",
         .min = 1,
         .max = CONNECTIONS_MAX,
         .help = "clients at once, nightjard's --max-connections"},
        {.name = "duration",
         .kind = ARGS_DOUBLE,
         .target = &options->duration_s,
         .value_name = "S",
         .min = 0.001,
         .max = DURATION_S_MAX,
         .help = "seconds for which reads are measured at each depth"},
        {.name = "json", .kind = ARGS_FLAG, .target = &options->json, .help = "one object"},
    };
    const struct args_spec spec = {
        .program = "nightjar doctor",
        .summary = "Say whether this machine is ready to serve: kernel, CPUs, memory, limits, "
                   "disk, index.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "A line for each finding: ok, warn or fail, topic, what was found, remedy.\n"
                  "Exit status 1 when something failed; warnings are fine. Nothing is changed.",
    };
    return cmd_parse(&spec, argc, argv, NULL, outcome, err);
}

static enum cmd_outcome conclude(const struct examination *self, struct error *err)
{
    const struct doctor_report *report = &self->report;
    uint32_t failed = doctor_count(report, DOCTOR_FAIL);
    if (self->options->json)
        print_json(report, &self->disk);
    else
        printf("%s: %u ok, %u warn, %u fail\n", failed == 0 ? "ready" : "not ready",
               doctor_count(report, DOCTOR_OK), doctor_count(report, DOCTOR_WARN), failed);
    if (failed == 0)
        return CMD_OK;
    error_set(err, STATUS_UNSUPPORTED, "not ready to serve: %u of %u findings failed", failed,
              report->count);
    return CMD_FAILED;
}

enum cmd_outcome cmd_doctor(int argc, char **argv, struct error *err)
{
    struct doctor_options options = {.memory_bytes = UINT64_C(1) << 30, /* nightjard's default */
                                     .connections = SERVER_CONNECTIONS_DEFAULT,
                                     .duration_s = 1};
    enum cmd_outcome outcome;
    if (!options_parse(&options, argc, argv, &outcome, err))
        return outcome;
    if (!!options.index + !!options.root + !!options.directory > 1)
        return cmd_usage(err, "wanted one of --index, --root and --directory");
    if (!options.index && !options.root && !options.directory)
        options.directory = ".";
    struct examination *self = calloc(1, sizeof(*self));
    if (!self) {
        error_set(err, STATUS_NO_MEMORY, "no memory for a report");
        return CMD_FAILED;
    }
    self->options = &options;
    self->disk.duration_s = options.duration_s;
    self->question = (struct doctor_question){
        .root = "",
        .memory_bytes = options.memory_bytes,
        .generations = options.root != NULL ? 2 : 1,
        .connections = options.connections,
        .workers = doctor_cpus_allowed(""),
        .block_bytes = BLOCK_BYTES,
    };
    outcome = cmd_outcome_of(examine(self, err));
    if (outcome == CMD_OK)
        outcome = conclude(self, err);
    free(self);
    return outcome;
}
