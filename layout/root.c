/*
 * root.c - what is in a root directory, and going back. See root.h.
 *
 * Whether a generation is in use is asked by trying for the exclusive lock of its directory, which
 * all who have it open share. It is held for an instant only; generation_open() waits that long.
 *
 * Thread rules: of root.h.
 */
#include "layout/root.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/file_io.h"
#include "layout/root_internal.h"

/* ---- one entry ---- */

bool root_entry_claim(int directory_fd)
{
    int locked;
    do {
        locked = flock(directory_fd, LOCK_EX | LOCK_NB);
    } while (locked != 0 && errno == EINTR);
    return locked == 0 || errno != EWOULDBLOCK;
}

/* Another who asks the same holds the lock for an instant, and so does who only looks. */
static bool entry_in_use(int directory_fd)
{
    enum { TRIES = 5, PAUSE_NS = 1000000 };
    for (int i = 0; i < TRIES; i++) {
        if (root_entry_claim(directory_fd)) {
            flock(directory_fd, LOCK_UN);
            return false;
        }
        const struct timespec pause = {.tv_nsec = PAUSE_NS};
        nanosleep(&pause, NULL);
    }
    return true;
}

/* The files of a directory, in sum. */
struct survey {
    int fd;
    uint64_t bytes;
    int64_t manifest_ns; /* 0: there is none */
    bool data;           /* a data file of a generation */
};

static enum status survey_entry(void *context, const struct dirent *entry, struct error *err)
{
    (void)err;
    struct survey *survey = context;
    struct stat info;
    if (fstatat(survey->fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        return STATUS_OK; /* a build renames its files */
    if (S_ISREG(info.st_mode))
        survey->bytes += (uint64_t)info.st_size;
    if (strcmp(entry->d_name, MANIFEST_FILE_NAME) == 0)
        survey->manifest_ns =
            (int64_t)info.st_mtim.tv_sec * 1000000000 + (int64_t)info.st_mtim.tv_nsec;
    for (int f = 0; f < GENERATION_FILE_COUNT; f++)
        survey->data |= strcmp(entry->d_name, generation_file_names[f]) == 0;
    return STATUS_OK;
}

/* State, id and count; false when it is gone by now, or about to be. */
static bool entry_open(const struct root_handle *root, struct root_entry *entry)
{
    struct generation *generation;
    struct error inner;
    enum status status = root_entry_open(root, entry->name, &generation, &inner);
    if (status == STATUS_OK) {
        entry->state = ROOT_COMPLETE;
        entry->id = generation_manifest(generation)->generation_id;
        entry->vector_count = generation_manifest(generation)->vector_count;
        generation_close(generation);
        return true;
    }
    struct stat info;
    if (status == STATUS_BUSY || fstatat(root->fd, entry->name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    entry->state = entry->modified_ns == 0 ? ROOT_INCOMPLETE : ROOT_DAMAGED;
    snprintf(entry->reason, sizeof(entry->reason), "%s",
             entry->state == ROOT_DAMAGED ? inner.text
                                          : "no " MANIFEST_FILE_NAME
                                            ": its build runs, or did not finish");
    return true;
}

/* False when NAME is no generation and nothing that would become one. */
static bool entry_look(const struct root_handle *root, const char *name, bool ask_in_use,
                       struct root_entry *entry)
{
    *entry = (struct root_entry){.recall = ROOT_RECALL_UNKNOWN};
    snprintf(entry->name, sizeof(entry->name), "%s", name);
    struct survey survey = {
        .fd = openat(root->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
    if (survey.fd < 0)
        return false;
    if (root_each_entry(survey.fd, name, survey_entry, &survey, NULL) != STATUS_OK ||
        (survey.manifest_ns == 0 && !survey.data)) {
        close(survey.fd);
        return false;
    }
    entry->bytes = survey.bytes;
    entry->modified_ns = survey.manifest_ns;
    bool there = entry_open(root, entry);
    if (there && ask_in_use)
        entry->in_use = entry_in_use(survey.fd);
    close(survey.fd);
    return there;
}

/* ---- all entries ---- */

struct lister {
    const struct root_handle *root;
    bool ask_in_use;
    struct root_listing listing;
    size_t room;
};

static enum status lister_add(void *context, const struct dirent *directory_entry,
                              struct error *err)
{
    struct lister *lister = context;
    struct root_listing *listing = &lister->listing;
    if (!root_name_valid(directory_entry->d_name))
        return STATUS_OK;
    if (listing->count == lister->room) {
        size_t room = lister->room == 0 ? 16 : 2 * lister->room;
        struct root_entry *entries = realloc(listing->entries, room * sizeof(*entries));
        if (!entries)
            return error_set(err, STATUS_NO_MEMORY, "%s: no memory to list %zu generations",
                             file_label(lister->root->path), room);
        listing->entries = entries;
        lister->room = room;
    }
    struct root_entry *entry = &listing->entries[listing->count];
    if (entry_look(lister->root, directory_entry->d_name, lister->ask_in_use, entry))
        listing->count++;
    return STATUS_OK;
}

static void entry_annotate(struct root_entry *entry, const struct root_history *history,
                           const char *live)
{
    entry->live = strcmp(entry->name, live) == 0;
    size_t at = root_history_find(history, entry->name);
    if (at >= history->count || entry->state == ROOT_INCOMPLETE)
        return;
    const struct root_record *record = &history->records[at];
    /* Another was built under the name of one that is gone. */
    if (entry->state == ROOT_COMPLETE && !root_record_matches(record, entry->id))
        return;
    entry->published = (uint32_t)at + 1;
    entry->published_at = record->at;
    entry->recall = record->recall;
}

static int compare_entries(const void *a, const void *b)
{
    const struct root_entry *x = a, *y = b;
    /* 0, not in the history, comes last. */
    if (x->published != y->published)
        return x->published - 1 < y->published - 1 ? -1 : 1;
    if (x->modified_ns != y->modified_ns)
        return x->modified_ns > y->modified_ns ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Place in the history, from 1, of the first that could be gone back to. */
static uint32_t first_before(const struct root_history *history, const char *live)
{
    size_t at = root_history_find(history, live);
    return at == history->count ? 1 : (uint32_t)at + 2;
}

static void mark_previous(struct root_listing *listing, uint32_t first)
{
    for (size_t i = 0; i < listing->count; i++) {
        struct root_entry *entry = &listing->entries[i];
        if (entry->state == ROOT_COMPLETE && entry->published >= first && !entry->live) {
            entry->previous = true;
            return;
        }
    }
}

enum status root_listing_read(const struct root_handle *root, bool ask_in_use,
                              struct root_listing *out, struct error *err)
{
    char live[NAME_MAX + 2] = "";
    struct root_history history;
    struct lister lister = {.root = root, .ask_in_use = ask_in_use};
    /* A root whose link or history is broken is the one that somebody has to look at. */
    if (root_link_read(root, live, NULL) != STATUS_OK)
        live[0] = '\0';
    if (root_history_read(root, &history, NULL) != STATUS_OK)
        history = (struct root_history){.records = NULL};
    enum status status = root_each_entry(root->fd, root->path, lister_add, &lister, err);
    if (status == STATUS_OK) {
        struct root_listing *listing = &lister.listing;
        for (size_t i = 0; i < listing->count; i++)
            entry_annotate(&listing->entries[i], &history, live);
        if (listing->count > 0)
            qsort(listing->entries, listing->count, sizeof(*listing->entries), compare_entries);
        if (live[0] != '\0')
            mark_previous(listing, first_before(&history, live));
        *out = *listing;
    } else {
        root_listing_free(&lister.listing);
    }
    root_history_free(&history);
    return status;
}

enum status root_list(const char *path, struct root_listing *out, struct error *err)
{
    struct root_handle root;
    enum status status = root_open(path, &root, err);
    if (status != STATUS_OK)
        return status;
    status = root_listing_read(&root, true, out, err);
    root_close(&root);
    return status;
}

void root_listing_free(struct root_listing *listing)
{
    free(listing->entries);
    *listing = (struct root_listing){.entries = NULL};
}

/* ---- candidates ---- */

/* 0: published before the live one; 1: after it; 2: not in the history. */
static int candidate_class(const struct root_entry *entry, uint32_t first)
{
    if (entry->published == 0)
        return 2;
    return entry->published >= first ? 0 : 1;
}

/* Moves those of a class behind the `count` that are in place already, in their order. */
static size_t candidates_take(const struct root_listing *from, struct root_entry *to, size_t count,
                              int class, uint32_t first)
{
    for (size_t i = 0; i < from->count; i++) {
        const struct root_entry *entry = &from->entries[i];
        if (entry->state == ROOT_COMPLETE && !entry->live && candidate_class(entry, first) == class)
            to[count++] = *entry;
    }
    return count;
}

static enum status candidates_order(const struct root_handle *root, struct root_listing *listing,
                                    struct error *err)
{
    char live[NAME_MAX + 2] = "";
    struct root_history history;
    if (root_link_read(root, live, NULL) != STATUS_OK)
        live[0] = '\0';
    if (root_history_read(root, &history, NULL) != STATUS_OK)
        history = (struct root_history){.records = NULL};
    const uint32_t first = first_before(&history, live);
    root_history_free(&history);
    struct root_entry *ordered = calloc(MAX(listing->count, (size_t)1), sizeof(*ordered));
    if (!ordered)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(root->path));
    size_t count = 0;
    for (int class = 0; class <= 2; class ++)
        count = candidates_take(listing, ordered, count, class, first);
    free(listing->entries);
    *listing = (struct root_listing){ordered, count};
    return STATUS_OK;
}

enum status root_candidates(const char *path, struct root_listing *out, struct error *err)
{
    struct root_handle root;
    enum status status = root_open(path, &root, err);
    if (status != STATUS_OK)
        return status;
    struct root_listing listing;
    status = root_listing_read(&root, false, &listing, err);
    if (status == STATUS_OK) {
        status = candidates_order(&root, &listing, err);
        if (status == STATUS_OK)
            *out = listing;
        else
            root_listing_free(&listing);
    }
    root_close(&root);
    return status;
}

/* ---- rollback ---- */

/* The record's generation opens, and is the one that was published. */
static enum status record_check(const struct root_handle *root, const struct root_record *record,
                                struct error *err)
{
    struct generation *generation;
    enum status status = root_entry_open(root, record->name, &generation, err);
    if (status != STATUS_OK)
        return status;
    if (!root_record_matches(record, generation_manifest(generation)->generation_id))
        status = error_set(err, STATUS_INVALID, "%s: is not the generation that was published",
                           file_label(generation_path(generation)));
    generation_close(generation);
    return status;
}

/* The place of what to go back to; history->count: there is none. */
static size_t rollback_choose(const struct root_handle *root, const struct root_history *history,
                              const char *live, const struct root_observer *observer)
{
    for (size_t i = first_before(history, live) - 1; i < history->count; i++) {
        const struct root_record *record = &history->records[i];
        struct error reason;
        struct stat info;
        if (fstatat(root->fd, record->name, &info, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
            continue; /* pruned */
        if (record_check(root, record, &reason) == STATUS_OK)
            return i;
        const struct root_event event = {ROOT_SKIPPED, record->name, reason.text, 0};
        if (observer)
            observer->on_event(observer->context, &event);
    }
    return history->count;
}

static enum status rollback_locked(const struct root_handle *root,
                                   const struct root_observer *observer, struct root_move *out,
                                   struct error *err)
{
    struct root_history history;
    struct root_move move;
    enum status status = root_link_read(root, move.from, err);
    if (status != STATUS_OK)
        return status;
    status = root_history_read(root, &history, err);
    if (status != STATUS_OK)
        return status;
    size_t to = rollback_choose(root, &history, move.from, observer);
    if (to < history.count) {
        memcpy(move.to, history.records[to].name, sizeof(move.to));
        status = root_link_swap(root, move.to, err);
    } else {
        status = error_set(err, STATUS_NOT_FOUND,
                           "%s: nothing to go back to: no generation that was published before %s "
                           "is there and opens",
                           file_label(root->path), move.from);
    }
    root_history_free(&history);
    if (status == STATUS_OK)
        *out = move;
    return status;
}

enum status root_rollback(const char *path, const struct root_observer *observer,
                          struct root_move *out, struct error *err)
{
    struct root_handle root;
    enum status status = root_open(path, &root, err);
    if (status != STATUS_OK)
        return status;
    status = root_lock(&root, err);
    if (status == STATUS_OK)
        status = rollback_locked(&root, observer, out, err);
    root_close(&root);
    return status;
}
