/*
 * doctor_device.c - what lies under the index: file system, O_DIRECT, block device.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "common/machine.h"
#include "tools/doctor.h"

enum {
    BLOCK_ALIGNMENT = 4096, /* of blocks in nodes.blk, and of read buffers */
    NAME_BYTES = 64,
};

/* ---- file system ---- */

static const struct file_system {
    uint64_t magic; /* statfs(2), linux/magic.h */
    const char *name;
    const char *objection; /* NULL: none */
} file_systems[] = {
    {0xef53, "ext4", NULL},
    {0x58465342, "xfs", NULL},
    {0x9123683e, "btrfs", NULL},
    {0xf2f52010, "f2fs", NULL},
    {0x2fc12fc1, "zfs", "reads go through its own cache before 2.3"},
    {0x794c7630, "overlay", "a layer of a container: mount a volume"},
    {0x6969, "nfs", "each read crosses a network"},
    {0xff534d42, "cifs", "each read crosses a network"},
    {0xfe534d42, "smb", "each read crosses a network"},
    {0x00c36400, "ceph", "each read crosses a network"},
    {0x01021997, "9p", "each read crosses to another process"},
    {0x65735546, "fuse", "each read crosses to another process"},
    {0x01021994, "tmpfs", "it is memory: --memory holds blocks better"},
    {0x858458f6, "ramfs", "it is memory: --memory holds blocks better"},
};

void doctor_file_system(struct doctor_report *report, uint64_t magic)
{
    for (size_t i = 0; i < ARRAY_LENGTH(file_systems); i++) {
        if (file_systems[i].magic != magic)
            continue;
        struct doctor_finding *finding =
            doctor_add(report, "file-system", "%s", file_systems[i].name);
        if (file_systems[i].objection)
            doctor_object(finding, DOCTOR_WARN, "ext4 or xfs on a local NVMe disk (%s)",
                          file_systems[i].objection);
        return;
    }
    doctor_add(report, "file-system", "unknown, type %#" PRIx64, magic);
}

void doctor_direct_io(struct doctor_report *report, bool direct, uint32_t alignment)
{
    if (!direct) {
        struct doctor_finding *finding =
            doctor_add(report, "direct-io", "the file system has no O_DIRECT");
        doctor_object(finding, DOCTOR_WARN,
                      "ext4 or xfs: reads through the page cache are slower, and it takes memory "
                      "beside --memory");
        return;
    }
    if (alignment > 0 && alignment <= BLOCK_ALIGNMENT) {
        doctor_add(report, "direct-io", "O_DIRECT, aligned to %u bytes", alignment);
        return;
    }
    struct doctor_finding *finding =
        doctor_add(report, "direct-io", "O_DIRECT wants more than the %d bytes that blocks have",
                   BLOCK_ALIGNMENT);
    doctor_object(finding, DOCTOR_FAIL, "a device with sectors of 4096 bytes or less");
}

/* ---- block device ---- */

/* Reads "queue/NAME" of the device; of its disk, where it is a partition, whose directory is in the
 * disk's. */
static bool queue_text(const char *root, dev_t device, const char *name, char text[NAME_BYTES])
{
    static const char *const places[] = {"", "/.."};
    for (size_t i = 0; i < ARRAY_LENGTH(places); i++) {
        char path[MACHINE_PATH_BYTES];
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u%s/queue/%s", major(device),
                 minor(device), places[i], name);
        if (machine_text(root, path, text, NAME_BYTES)) {
            text[strcspn(text, "\n")] = '\0';
            return true;
        }
    }
    return false;
}

static void device_name(const char *root, dev_t device, char name[NAME_BYTES])
{
    char path[MACHINE_PATH_BYTES], text[1024];
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/uevent", major(device), minor(device));
    const char *field =
        machine_text(root, path, text, sizeof(text)) ? machine_field(text, "DEVNAME=") : NULL;
    if (!field || sscanf(field, "%63s", name) != 1)
        snprintf(name, NAME_BYTES, "%u:%u", major(device), minor(device));
}

/* "mq-deadline kyber [none]": the word in brackets, or all there is. */
static void scheduler_of(const char *text, char name[NAME_BYTES])
{
    const char *open = strchr(text, '[');
    if (!open || sscanf(open, "[%63[^]]", name) != 1)
        snprintf(name, NAME_BYTES, "%.63s", text);
}

void doctor_device(struct doctor_report *report, const struct doctor_question *question,
                   dev_t device)
{
    const char *root = question->root;
    char name[NAME_BYTES], text[NAME_BYTES], scheduler[NAME_BYTES] = "unknown";
    char requests[NAME_BYTES] = "unknown";
    /* Not there: an overlay, btrfs, a network (major 0, no device of their own), a container. */
    if (!queue_text(root, device, "rotational", text)) {
        doctor_add(report, "device", "unknown: %u:%u is not in /sys/dev/block", major(device),
                   minor(device));
        return;
    }
    bool rotational = text[0] == '1';
    device_name(root, device, name);
    if (queue_text(root, device, "scheduler", text))
        scheduler_of(text, scheduler);
    if (!queue_text(root, device, "nr_requests", requests))
        snprintf(requests, sizeof(requests), "unknown");
    struct doctor_finding *finding =
        doctor_add(report, "device", "%s, %s; scheduler %s, nr_requests %s", name,
                   rotational ? "rotational" : "not rotational", scheduler, requests);
    if (rotational)
        doctor_object(finding, DOCTOR_WARN,
                      "an NVMe disk (0 in the disk's queue/rotational if a virtual one says so "
                      "wrongly)");
    if (strcmp(scheduler, "bfq") == 0 || strcmp(scheduler, "cfq") == 0)
        doctor_object(finding, DOCTOR_WARN, "none or mq-deadline in the disk's queue/scheduler");
}
