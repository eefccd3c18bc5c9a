/*
 * doctor_index.c - the index that is to be served: opens, who may change it, what the budget buys.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "layout/publish.h"
#include "query/index_plan.h"
#include "tools/doctor.h"

struct generation *doctor_index_open(struct doctor_report *report, const char *index,
                                     const char *root)
{
    char current[PATH_MAX];
    struct error err;
    struct generation *generation = NULL;
    if (root) {
        if (publish_current(root, current, sizeof(current), &err) != STATUS_OK) {
            struct doctor_finding *finding = doctor_add(report, "index", "%.250s", err.text);
            doctor_object(finding, DOCTOR_FAIL, "nightjar publish --root %.80s GEN", root);
            return NULL;
        }
        index = current;
    }
    if (generation_open(index, &generation, &err) != STATUS_OK) {
        struct doctor_finding *finding = doctor_add(report, "index", "%.250s", err.text);
        doctor_object(finding, DOCTOR_FAIL,
                      "a complete generation that this user may read (nightjar verify checks it)");
        return NULL;
    }
    const struct manifest *manifest = generation_manifest(generation);
    doctor_add(report, "index", "%.100s: %" PRIu64 " vectors of %u %s in %" PRIu64 " blocks", index,
               manifest->vector_count, manifest->dim, element_name(manifest->type),
               manifest->block_count);
    return generation;
}

void doctor_permissions(struct doctor_report *report, const char *what, const char *directory)
{
    struct stat info;
    char reason[64];
    if (stat(directory, &info) != 0) {
        struct doctor_finding *finding = doctor_add(report, "permissions", "%.150s: %s", directory,
                                                    strerror_r(errno, reason, sizeof(reason)));
        doctor_object(finding, DOCTOR_FAIL, "a %s that this user may read", what);
        return;
    }
    struct doctor_finding *finding = doctor_add(report, "permissions", "%s %.150s: mode %04o", what,
                                                directory, (unsigned)info.st_mode & 07777);
    if (info.st_mode & S_IWOTH)
        doctor_object(finding, DOCTOR_WARN, "chmod o-w: anyone may change what is served");
}

/* What a plan holds, in words. */
static void plan_words(const struct manifest *manifest, const struct index_plan *plan,
                       char words[DOCTOR_TEXT_BYTES])
{
    int used = snprintf(words, DOCTOR_TEXT_BYTES, "codes of %u bytes%s", plan->code_bytes,
                        plan->lists ? ", lists of all vectors" : "");
    if (used < 0 || used >= DOCTOR_TEXT_BYTES)
        return;
    char *rest = words + used;
    size_t room = DOCTOR_TEXT_BYTES - (size_t)used;
    if (plan->resident)
        snprintf(rest, room, ", all blocks: no reads");
    else if (plan->cached_blocks > 0)
        snprintf(rest, room, ", %.0f %% of the blocks",
                 100.0 * (double)plan->cached_blocks / (double)manifest->block_count);
}

void doctor_budget(struct doctor_report *report, const struct doctor_question *question)
{
    const struct manifest *manifest = question->manifest;
    struct index_step steps[INDEX_STEPS_MAX];
    uint32_t count = index_plan_steps(manifest, steps);
    char budget[DOCTOR_SIZE_BYTES], other[DOCTOR_SIZE_BYTES], words[DOCTOR_TEXT_BYTES];
    struct index_plan plan;
    const uint32_t generations = MAX(question->generations, 1u);
    const uint64_t each = question->memory_bytes / generations;
    const char *share = generations > 1 ? " (half for each of two generations)" : "";
    doctor_size(question->memory_bytes, budget);
    if (index_plan_make(manifest, each, &plan, NULL) != STATUS_OK) {
        struct doctor_finding *finding =
            doctor_add(report, "budget", "--memory %s%s: codes and navigation alone take %s",
                       budget, share, doctor_size(steps[0].budget, other));
        doctor_object(finding, DOCTOR_FAIL, "--memory %" PRIu64 " or more%s",
                      steps[0].budget * generations, generations > 1 ? ", or --swap replace" : "");
        return;
    }
    plan_words(manifest, &plan, words);
    for (uint32_t i = 0; i < count; i++) {
        if (steps[i].budget <= each || i == 0)
            continue;
        char more[DOCTOR_TEXT_BYTES];
        plan_words(manifest, &steps[i].plan, more);
        doctor_add(report, "budget", "--memory %s%s buys %.80s; from %s: %.80s", budget, share,
                   words, doctor_size(steps[i].budget * generations, other), more);
        return;
    }
    doctor_add(report, "budget", "--memory %s%s buys %.80s", budget, share, words);
}
