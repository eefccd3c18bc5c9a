/*
 * memory.c - bulk memory from mmap, overflow-checked sizes, and what the machine has left.
 *
 * Thread-safe: no state of its own. The figures of memory_available() are read anew each time from
 * /proc and the cgroup tree; they are a snapshot to plan with, not a promise.
 */
#include "common/memory.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/machine.h"

enum {
    PAGE_BYTES = 4096,
    HUGE_PAGE_BYTES = 2 * 1024 * 1024,
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

/* File names of one cgroup version. */
struct cgroup_names {
    const char *limit;
    const char *use;
    const char *active, *inactive; /* in memory.stat: page cache, which yields under pressure */
};

/* The least room of the cgroups visited. */
struct cgroup_room {
    const char *root;
    uint64_t bytes;
};

/* The number in `name` of a cgroup; false where it is "max", or v1's "no limit", close to 2^63. */
static bool cgroup_number(const char *root, const char *group, const char *name, uint64_t *value)
{
    char path[MACHINE_PATH_BYTES];
    snprintf(path, sizeof(path), "%.3500s/%s", group, name);
    return machine_number(root, path, value) && *value < 1ull << 62;
}

/* Limit less use of one cgroup, where it sets a limit. */
static void cgroup_room_visit(void *context, const struct machine_cgroup *group)
{
    static const struct cgroup_names v2 = {"memory.max", "memory.current", "active_file ",
                                           "inactive_file "};
    static const struct cgroup_names v1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                           "total_active_file ", "total_inactive_file "};
    const struct cgroup_names *names = group->v2 ? &v2 : &v1;
    struct cgroup_room *room = context;
    char path[MACHINE_PATH_BYTES], text[MACHINE_TEXT_BYTES];
    uint64_t limit, use = 0, active = 0, inactive = 0;
    if (!cgroup_number(room->root, group->path, names->limit, &limit))
        return;
    if (!cgroup_number(room->root, group->path, names->use, &use))
        use = 0;
    snprintf(path, sizeof(path), "%.3500s/memory.stat", group->path);
    if (machine_text(room->root, path, text, sizeof(text))) {
        if (!machine_field_number(text, names->active, &active))
            active = 0;
        if (!machine_field_number(text, names->inactive, &inactive))
            inactive = 0;
    }
    uint64_t cache = active + inactive;
    use = use > cache ? use - cache : 0;
    room->bytes = MIN(room->bytes, limit > use ? limit - use : 0);
}

uint64_t memory_available_at(const char *root)
{
    char text[MACHINE_TEXT_BYTES];
    uint64_t kilobytes;
    uint64_t machine = UINT64_MAX;
    if (machine_text(root, "/proc/meminfo", text, sizeof(text)) &&
        machine_field_number(text, "MemAvailable:", &kilobytes))
        machine = kilobytes * 1024;
    struct cgroup_room group = {.root = root, .bytes = UINT64_MAX};
    machine_cgroups(root, "memory", cgroup_room_visit, &group);
    uint64_t available = MIN(machine, group.bytes);
    return available == UINT64_MAX ? 0 : available;
}

uint64_t memory_available(void)
{
    return memory_available_at("");
}

static uint64_t status_bytes(const char *key)
{
    char text[MACHINE_TEXT_BYTES];
    uint64_t kilobytes;
    if (!machine_text("", "/proc/self/status", text, sizeof(text)) ||
        !machine_field_number(text, key, &kilobytes))
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
