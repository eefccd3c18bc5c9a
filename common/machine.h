/*
 * machine.h - what /proc, /sys and the cgroup tree say of this machine.
 *
 * Every function takes a `root` that is put before paths: "" is this machine; tests name a
 * directory with files of a made-up one. Nothing is kept: each call reads anew. Any thread.
 */
#ifndef NIGHTJAR_COMMON_MACHINE_H
#define NIGHTJAR_COMMON_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/compiler.h"

enum {
    MACHINE_PATH_BYTES = 4096,
    MACHINE_TEXT_BYTES = 16384, /* /proc/meminfo and memory.stat take 2 to 6 KB */
};

/* Reads the file `path` under `root` whole into text[capacity], NUL-terminated; false (text
 * undefined) if it is absent, unreadable or longer. */
NODISCARD bool machine_text(const char *root, const char *path, char *text, size_t capacity);

/* The number that the file begins with; false (and *value untouched) without one ("max"). */
NODISCARD bool machine_number(const char *root, const char *path, uint64_t *value);

/* What follows `key` at the start of a line ("MemAvailable:"); NULL if no line has it. */
const char *machine_field(const char *text, const char *key);

/* The number there; false (and *value untouched) if there is none. */
NODISCARD bool machine_field_number(const char *text, const char *key, uint64_t *value);

/* A directory of the cgroup tree. `path` is without the root and valid during the visit. */
struct machine_cgroup {
    bool v2;
    const char *path; /* "/sys/fs/cgroup/job", with v1 "/sys/fs/cgroup/memory/job" */
};

/* Visits the cgroups that bind this process, from its own up to the root of the mount, since a
 * parent's limit binds its children: those of version 2, and of version 1 those of `controller`.
 * Inside a container the path of the process may name directories that are not mounted; walking up
 * to the root of the mount covers that. */
void machine_cgroups(const char *root, const char *controller,
                     void (*visit)(void *context, const struct machine_cgroup *group),
                     void *context);

#endif
