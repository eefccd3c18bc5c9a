/*
 * root_prune.c - removing old generations. See root.h.
 *
 * In two steps. Under the lock of the root, where `current` and the history stand still, what is to
 * go is renamed to .removing-NAME and the root is fsynced: from then on it is no generation to
 * anybody, also after a power cut. Then, without the lock, the files go, which may take long where
 * they are large. Whoever is killed on the way leaves .removing-NAME to the next prune.
 *
 * Only a flat directory of regular files is removed, by a descriptor of its own: nothing is
 * followed out of it. Its exclusive lock is taken before the rename and again before the first file
 * goes, so that what somebody opened in between stays whole until it is closed.
 *
 * Thread rules: of root.h.
 */
#include "layout/root.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_io.h"
#include "layout/root_internal.h"

enum { REASON_BYTES = 320 };

struct prune {
    struct root_handle root;
    const struct root_prune_options *options;
    struct root_listing listing;
    bool *victims; /* of the listing: renamed, or would be */
    size_t victim_count;
};

static void tell(const struct prune *prune, enum root_action action, const char *name,
                 const char *reason, uint64_t bytes)
{
    const struct root_observer *observer = &prune->options->observer;
    const struct root_event event = {action, name, reason, bytes};
    if (observer->on_event)
        observer->on_event(observer->context, &event);
}

/* A name that was too long with the prefix lost its end: it serves messages only. */
static void removing_name(const char *name, char out[NAME_MAX + 1])
{
    const int room = NAME_MAX - (int)strlen(ROOT_REMOVING_PREFIX);
    snprintf(out, NAME_MAX + 1, ROOT_REMOVING_PREFIX "%.*s", room, name);
}

/* ---- one directory ---- */

struct flat {
    int fd;
    char *other; /* REASON_BYTES; "" while only regular files were seen */
};

static enum status flat_entry(void *context, const struct dirent *entry, struct error *err)
{
    (void)err;
    const struct flat *flat = context;
    struct stat info;
    if (fstatat(flat->fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(info.st_mode))
        snprintf(flat->other, REASON_BYTES, "holds %s, which is not a regular file", entry->d_name);
    return STATUS_OK;
}

/* Opens a directory of the root and claims it. *fd is -1 when it may not be removed, and `reason`
 * (REASON_BYTES) says why; "" when it is gone. */
static enum status directory_claim(const struct prune *prune, const char *name, int *fd,
                                   char *reason, struct error *err)
{
    reason[0] = '\0';
    *fd = openat(prune->root.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0 && errno == ENOENT)
        return STATUS_OK;
    if (*fd < 0)
        return error_set_os(err, errno, "%s/%s: cannot open", file_label(prune->root.path), name);
    enum status status = STATUS_OK;
    if (!root_entry_claim(*fd)) {
        snprintf(reason, REASON_BYTES, "in use");
    } else {
        struct flat flat = {*fd, reason};
        status = root_each_entry(*fd, name, flat_entry, &flat, err);
    }
    if (status != STATUS_OK || reason[0] != '\0') {
        close(*fd);
        *fd = -1;
    }
    return status;
}

struct emptying {
    int fd;
    const char *path;
};

static enum status remove_one(void *context, const struct dirent *entry, struct error *err)
{
    const struct emptying *emptying = context;
    return store_remove_file(emptying->fd, emptying->path, entry->d_name, err);
}

/* Removes .removing-NAME; `reason` (REASON_BYTES) is not "" when it has to stay. */
static enum status removing_finish(const struct prune *prune, const char *removing, char *reason,
                                   struct error *err)
{
    int fd;
    enum status status = directory_claim(prune, removing, &fd, reason, err);
    if (status != STATUS_OK || fd < 0)
        return status;
    struct emptying emptying = {fd, removing};
    status = root_each_entry(fd, removing, remove_one, &emptying, err);
    close(fd);
    if (status == STATUS_OK)
        status = store_remove_directory(prune->root.fd, prune->root.path, removing, err);
    return status;
}

/* ---- what a killed prune left ---- */

struct leftovers {
    char (*names)[NAME_MAX + 1];
    size_t count;
};

static enum status leftover_add(void *context, const struct dirent *entry, struct error *err)
{
    struct leftovers *leftovers = context;
    if (strncmp(entry->d_name, ROOT_REMOVING_PREFIX, strlen(ROOT_REMOVING_PREFIX)) != 0)
        return STATUS_OK;
    void *names = realloc(leftovers->names, (leftovers->count + 1) * sizeof(*leftovers->names));
    if (!names)
        return error_set(err, STATUS_NO_MEMORY, "no memory to list what a prune left");
    leftovers->names = names;
    snprintf(leftovers->names[leftovers->count++], NAME_MAX + 1, "%s", entry->d_name);
    return STATUS_OK;
}

static enum status leftovers_remove(const struct prune *prune, struct error *err)
{
    struct leftovers leftovers = {.names = NULL};
    enum status status =
        root_each_entry(prune->root.fd, prune->root.path, leftover_add, &leftovers, err);
    /* The rename of one that was killed may not be on disk yet. */
    if (status == STATUS_OK && leftovers.count > 0 && !prune->options->dry_run)
        status = store_sync_directory(prune->root.fd, prune->root.path, err);
    for (size_t i = 0; status == STATUS_OK && i < leftovers.count; i++) {
        const char *name = leftovers.names[i];
        char reason[REASON_BYTES] = "";
        if (!prune->options->dry_run)
            status = removing_finish(prune, name, reason, err);
        if (status == STATUS_OK && reason[0] != '\0')
            tell(prune, ROOT_KEPT, name, reason, 0);
        else if (status == STATUS_OK)
            tell(prune, ROOT_REMOVED, name, "left by a prune that did not finish", 0);
    }
    free(leftovers.names);
    return status;
}

/* ---- choosing and renaming ---- */

/* Takes the entry out of the generations, unless it has to stay. */
static enum status entry_retire(struct prune *prune, size_t at, struct error *err)
{
    const struct root_entry *entry = &prune->listing.entries[at];
    const struct root_handle *root = &prune->root;
    char reason[REASON_BYTES];
    char removing[NAME_MAX + 1];
    int fd;
    enum status status = directory_claim(prune, entry->name, &fd, reason, err);
    if (status != STATUS_OK)
        return status;
    if (fd < 0) {
        tell(prune, ROOT_KEPT, entry->name, reason[0] != '\0' ? reason : "gone", entry->bytes);
        return STATUS_OK;
    }
    removing_name(entry->name, removing);
    if (!prune->options->dry_run)
        status = store_rename(root->fd, root->path, entry->name, removing, err);
    close(fd);
    if (status == STATUS_OK) {
        prune->victims[at] = true;
        prune->victim_count++;
    }
    return status;
}

static const char *incomplete_reason(const struct root_entry *entry)
{
    return entry->state == ROOT_INCOMPLETE ? "not complete; not touched" : "damaged; not touched";
}

static enum status choose(struct prune *prune, struct error *err)
{
    const struct root_listing *listing = &prune->listing;
    uint32_t left = prune->options->keep;
    for (size_t i = 0; i < listing->count; i++)
        left -= listing->entries[i].live && listing->entries[i].state == ROOT_COMPLETE;
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < listing->count; i++) {
        const struct root_entry *entry = &listing->entries[i];
        if (entry->live) {
            tell(prune, ROOT_KEPT, entry->name, "live", entry->bytes);
        } else if (entry->state != ROOT_COMPLETE) {
            tell(prune, ROOT_KEPT, entry->name, incomplete_reason(entry), entry->bytes);
        } else if (left > 0) {
            left--;
            tell(prune, ROOT_KEPT, entry->name, "among the newest", entry->bytes);
        } else {
            status = entry_retire(prune, i, err);
        }
    }
    return status;
}

/* Who prunes a root whose link leads nowhere would remove by guesswork. */
static enum status live_check(const struct root_handle *root, struct error *err)
{
    char live[NAME_MAX + 2];
    struct error inner;
    enum status status = root_link_read(root, live, &inner);
    if (status == STATUS_OK || status == STATUS_NOT_FOUND)
        return STATUS_OK;
    return error_set(err, status, "%s", inner.text);
}

static enum status retire_locked(struct prune *prune, struct error *err)
{
    enum status status = live_check(&prune->root, err);
    if (status == STATUS_OK)
        status = root_listing_read(&prune->root, false, &prune->listing, err);
    if (status != STATUS_OK)
        return status;
    prune->victims = calloc(MAX(prune->listing.count, (size_t)1), sizeof(*prune->victims));
    if (!prune->victims)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(prune->root.path));
    status = choose(prune, err);
    if (status == STATUS_OK && prune->victim_count > 0 && !prune->options->dry_run)
        status = store_sync_directory(prune->root.fd, prune->root.path, err);
    return status;
}

/* ---- the whole ---- */

static enum status victims_remove(const struct prune *prune, struct error *err)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < prune->listing.count; i++) {
        const struct root_entry *entry = &prune->listing.entries[i];
        char reason[REASON_BYTES] = "";
        char removing[NAME_MAX + 1];
        if (!prune->victims[i])
            continue;
        removing_name(entry->name, removing);
        if (!prune->options->dry_run)
            status = removing_finish(prune, removing, reason, err);
        if (status == STATUS_OK && reason[0] != '\0')
            tell(prune, ROOT_KEPT, removing, reason, entry->bytes);
        else if (status == STATUS_OK)
            tell(prune, ROOT_REMOVED, entry->name, "", entry->bytes);
    }
    return status;
}

enum status root_prune(const char *path, const struct root_prune_options *options,
                       struct error *err)
{
    assert(options->keep >= 1);
    struct prune prune = {.options = options};
    enum status status = root_open(path, &prune.root, err);
    if (status != STATUS_OK)
        return status;
    /* First, as their names may be wanted again. */
    status = leftovers_remove(&prune, err);
    if (status == STATUS_OK && !options->dry_run)
        status = root_lock(&prune.root, err);
    if (status == STATUS_OK)
        status = retire_locked(&prune, err);
    root_unlock(&prune.root);
    if (status == STATUS_OK)
        status = victims_remove(&prune, err);
    free(prune.victims);
    root_listing_free(&prune.listing);
    root_close(&prune.root);
    return status;
}
