/*
 * memory.c - bulk memory from mmap, overflow-checked sizes, and what the machine has left.
 *
 * Thread-safe: no state of its own. The figures of memory_available() are read anew each time from
 * /proc and the cgroup tree; they are a snapshot to plan with, not a promise.
 */
#include "common/memory.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PAGE_BYTES = 4096,
    HUGE_PAGE_BYTES = 2 * 1024 * 1024,
    PROC_TEXT_BYTES = 16384, /* /proc/meminfo and memory.stat take 2 to 6 KB */
    CGROUP_DEPTH_MAX = 64,
};

bool size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

/* Mapped size of a request; false when it cannot exist. The slack for alignment must fit too. */
static bool bulk_bytes(size_t count, size_t item_bytes, size_t *bytes)
{
    size_t product;
    if (!size_mul(count, item_bytes, &product) || product > SIZE_MAX / 2)
        return false;
    *bytes = product == 0 ? PAGE_BYTES : size_align(product, PAGE_BYTES);
    return true;
}

/* Maps more than asked and cuts off both ends, because mmap aligns to 4 KB only. */
static void *map_aligned(size_t bytes)
{
    size_t mapped = bytes + HUGE_PAGE_BYTES;
    uint8_t *start = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return MAP_FAILED;
    size_t head = size_align((uintptr_t)start, HUGE_PAGE_BYTES) - (uintptr_t)start;
    size_t tail = mapped - head - bytes;
    if (head > 0)
        munmap(start, head);
    if (tail > 0)
        munmap(start + head + bytes, tail);
    /* Advice: kernels without transparent huge pages refuse it, and 4 KB pages work as well. */
    (void)madvise(start + head, bytes, MADV_HUGEPAGE);
    return start + head;
}

enum status bulk_alloc(size_t count, size_t item_bytes, const char *what, void **out,
                       struct error *err)
{
    size_t bytes;
    if (!bulk_bytes(count, item_bytes, &bytes))
        return error_set(err, STATUS_NO_MEMORY, "%s: %zu items of %zu bytes exceed address space",
                         what, count, item_bytes);
    void *memory = bytes >= HUGE_PAGE_BYTES ? map_aligned(bytes)
                                            : mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return error_set_os(err, errno == EAGAIN ? ENOMEM : errno, "%s: cannot allocate %zu bytes",
                            what, bytes);
    *out = memory;
    return STATUS_OK;
}

void bulk_free(void *memory, size_t count, size_t item_bytes)
{
    size_t bytes;
    if (memory && bulk_bytes(count, item_bytes, &bytes))
        munmap(memory, bytes);
}

static unsigned unit_shift(char letter)
{
    switch (letter) {
    case 'K':
    case 'k':
        return 10;
    case 'M':
    case 'm':
        return 20;
    case 'G':
    case 'g':
        return 30;
    case 'T':
    case 't':
        return 40;
    default:
        return 0;
    }
}

enum status memory_parse(const char *text, uint64_t *bytes, struct error *err)
{
    enum { FRACTION_DIGITS_MAX = 9 };
    unsigned __int128 whole = 0, fraction = 0, scale = 1;
    const char *p = text;
    bool digits = isdigit((unsigned char)*p), point = false;
    for (; isdigit((unsigned char)*p) && whole <= UINT64_MAX; p++)
        whole = whole * 10 + (unsigned)(*p - '0');
    if (digits && *p == '.') {
        point = true;
        for (p++; isdigit((unsigned char)*p) && scale < 1000000000u; p++) {
            fraction = fraction * 10 + (unsigned)(*p - '0');
            scale *= 10;
        }
        digits = scale > 1;
    }
    unsigned shift = whole <= UINT64_MAX ? unit_shift(*p) : 0;
    if (shift > 0)
        p++;
    if (whole > UINT64_MAX || (digits && *p == '\0' && whole > UINT64_MAX >> shift))
        return error_set(err, STATUS_INVALID, "'%.64s' is more than 64 bits of memory", text);
    /* A fraction of a byte means nothing, so 1.5 wants a unit. */
    if (!digits || *p != '\0' || (point && shift == 0))
        return error_set(err, STATUS_INVALID,
                         "'%.64s' is not a memory size; wanted a number with K, M, G or T, such as "
                         "4G, 1.5G or 512M (at most %d decimals)",
                         text, FRACTION_DIGITS_MAX);
    *bytes = (uint64_t)((whole << shift) + (fraction << shift) / scale);
    return STATUS_OK;
}

/* Reads root + path whole as text; false if it is absent or longer than the buffer. */
static bool read_text(const char *root, const char *path, char *text, size_t capacity)
{
    char name[PATH_MAX];
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

/* The number after `key` at the start of a line ("MemAvailable:", "active_file"); false if none. */
static bool field_value(const char *text, const char *key, uint64_t *value)
{
    size_t key_length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n')
            line++;
        if (strncmp(line, key, key_length) != 0)
            continue;
        return sscanf(line + key_length, " %" SCNu64, value) == 1;
    }
    return false;
}

/* A cgroup file with one number; false for "max" and for v1's "no limit" (close to 2^63). */
static bool read_number(const char *root, const char *path, uint64_t *value)
{
    char text[64];
    return read_text(root, path, text, sizeof(text)) && isdigit((unsigned char)text[0]) &&
           sscanf(text, "%" SCNu64, value) == 1 && *value < 1ull << 62;
}

/* File names of one cgroup version. */
struct cgroup_names {
    const char *mount;
    const char *limit;
    const char *use;
    const char *active, *inactive; /* in memory.stat: page cache, which yields under pressure */
};

/* Limit less use of one cgroup directory; UINT64_MAX when it sets no limit. */
static uint64_t cgroup_room(const char *root, const struct cgroup_names *names, const char *group)
{
    char path[PATH_MAX], text[PROC_TEXT_BYTES];
    uint64_t limit, use;
    snprintf(path, sizeof(path), "%s%.3000s/%s", names->mount, group, names->limit);
    if (!read_number(root, path, &limit))
        return UINT64_MAX;
    snprintf(path, sizeof(path), "%s%.3000s/%s", names->mount, group, names->use);
    if (!read_number(root, path, &use))
        return limit;
    uint64_t active = 0, inactive = 0;
    snprintf(path, sizeof(path), "%s%.3000s/memory.stat", names->mount, group);
    if (read_text(root, path, text, sizeof(text))) {
        if (!field_value(text, names->active, &active))
            active = 0;
        if (!field_value(text, names->inactive, &inactive))
            inactive = 0;
    }
    uint64_t cache = active + inactive;
    use = use > cache ? use - cache : 0;
    return limit > use ? limit - use : 0;
}

/* The smallest room from `group` up to the mount's root: a parent's limit binds its children. */
static uint64_t cgroup_room_upwards(const char *root, const struct cgroup_names *names, char *group)
{
    uint64_t room = UINT64_MAX;
    for (int depth = 0; depth < CGROUP_DEPTH_MAX; depth++) {
        size_t length = strlen(group);
        while (length > 0 && group[length - 1] == '/')
            group[--length] = '\0';
        uint64_t here = cgroup_room(root, names, group);
        room = MIN(room, here);
        char *slash = strrchr(group, '/');
        if (!slash)
            break;
        *slash = '\0';
    }
    return room;
}

/* /proc/self/cgroup has a line "0::/path" (v2) or "9:memory:/path" (v1). Inside a container the
 * path may name a directory that is not mounted; walking up to the root of the mount covers that.
 */
static uint64_t cgroup_available(const char *root)
{
    static const struct cgroup_names v2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                           "active_file ", "inactive_file "};
    static const struct cgroup_names v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                           "memory.usage_in_bytes", "total_active_file ",
                                           "total_inactive_file "};
    char text[PROC_TEXT_BYTES];
    uint64_t room = UINT64_MAX;
    if (!read_text(root, "/proc/self/cgroup", text, sizeof(text)))
        return room;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        uint64_t here = UINT64_MAX;
        if (strcmp(controllers, ":") == 0)
            here = cgroup_room_upwards(root, &v2, group);
        else if (strcmp(controllers, ":memory") == 0)
            here = cgroup_room_upwards(root, &v1, group);
        room = MIN(room, here);
    }
    return room;
}

uint64_t memory_available_at(const char *root)
{
    char text[PROC_TEXT_BYTES];
    uint64_t kilobytes;
    uint64_t machine = UINT64_MAX;
    if (read_text(root, "/proc/meminfo", text, sizeof(text)) &&
        field_value(text, "MemAvailable:", &kilobytes))
        machine = kilobytes * 1024;
    uint64_t group = cgroup_available(root);
    uint64_t available = MIN(machine, group);
    return available == UINT64_MAX ? 0 : available;
}

uint64_t memory_available(void)
{
    return memory_available_at("");
}

static uint64_t status_bytes(const char *key)
{
    char text[PROC_TEXT_BYTES];
    uint64_t kilobytes;
    if (!read_text("", "/proc/self/status", text, sizeof(text)) ||
        !field_value(text, key, &kilobytes))
        return 0;
    return kilobytes * 1024;
}

uint64_t memory_peak_rss(void)
{
    return status_bytes("VmHWM:");
}

uint64_t memory_rss(void)
{
    return status_bytes("VmRSS:");
}
