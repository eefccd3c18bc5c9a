/*
 * machine.c - see machine.h. Thread-safe: no state of its own.
 */
#include "common/machine.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CGROUP_DEPTH_MAX = 64 };

bool machine_text(const char *root, const char *path, char *text, size_t capacity)
{
    char name[MACHINE_PATH_BYTES];
    int length = snprintf(name, sizeof(name), "%s%s", root, path);
    if (length < 0 || (size_t)length >= sizeof(name))
        return false;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t used = 0;
    ssize_t got = 0;
    while (used < capacity - 1) {
        got = read(fd, text + used, capacity - 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    close(fd);
    text[used] = '\0';
    return got == 0;
}

bool machine_number(const char *root, const char *path, uint64_t *value)
{
    char text[64];
    return machine_text(root, path, text, sizeof(text)) && isdigit((unsigned char)text[0]) &&
           sscanf(text, "%" SCNu64, value) == 1;
}

const char *machine_field(const char *text, const char *key)
{
    size_t key_length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n')
            line++;
        if (strncmp(line, key, key_length) == 0)
            return line + key_length;
    }
    return NULL;
}

bool machine_field_number(const char *text, const char *key, uint64_t *value)
{
    const char *field = machine_field(text, key);
    return field && sscanf(field, " %" SCNu64, value) == 1;
}

/* ---- cgroups ---- */

/* Is `word` one of a comma-separated list? */
static bool list_has(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

static void visit_upwards(bool v2, const char *mount, char *group,
                          void (*visit)(void *, const struct machine_cgroup *), void *context)
{
    char path[MACHINE_PATH_BYTES];
    for (int depth = 0; depth < CGROUP_DEPTH_MAX; depth++) {
        size_t length = strlen(group);
        while (length > 0 && group[length - 1] == '/')
            group[--length] = '\0';
        snprintf(path, sizeof(path), "%s%.3000s", mount, group);
        visit(context, &(struct machine_cgroup){.v2 = v2, .path = path});
        char *slash = strrchr(group, '/');
        if (!slash)
            break;
        *slash = '\0';
    }
}

/* /proc/self/cgroup has a line "0::/path" (v2) or "9:cpu,cpuacct:/path" (v1, which is mounted by
 * the name of each controller too). */
void machine_cgroups(const char *root, const char *controller,
                     void (*visit)(void *context, const struct machine_cgroup *group),
                     void *context)
{
    char text[MACHINE_TEXT_BYTES], mount[64];
    if (!machine_text(root, "/proc/self/cgroup", text, sizeof(text)))
        return;
    snprintf(mount, sizeof(mount), "/sys/fs/cgroup/%s", controller);
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        if (*++controllers == '\0')
            visit_upwards(true, "/sys/fs/cgroup", group, visit, context);
        else if (list_has(controllers, controller))
            visit_upwards(false, mount, group, visit, context);
    }
}
