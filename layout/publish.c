/*
 * publish.c - swapping ROOT/current, and the history that tells the way back. See publish.h; the
 * link and the lock are in root_handle.c. Stateless, thread-safe.
 *
 * The history is written before the link is swapped, so that what is live is always in it: a
 * publisher killed between the two leaves the new one in front of the live one, where a rollback
 * does not look, and the next publisher moves it to the end.
 */
#include "layout/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/file_io.h"
#include "layout/root_internal.h"

/* ---- the history ---- */

/* The record of a generation that is being published now. */
static struct root_record record_make(const struct root_history *old, const char *name,
                                      struct digest128 id, double recall)
{
    struct root_record record = {
        .id = id, .id_known = true, .at = (int64_t)time(NULL), .recall = recall};
    snprintf(record.name, sizeof(record.name), "%s", name);
    size_t at = root_history_find(old, name);
    /* What was measured once stays true: a generation never changes. */
    if (recall < 0 && at < old->count && old->records[at].id_known &&
        root_record_matches(&old->records[at], id))
        record.recall = old->records[at].recall;
    return record;
}

/* Appends records [from, to) of `old`, but for the one that is in front already. */
static void history_append(struct root_history *new, const struct root_history *old, size_t from,
                           size_t to)
{
    for (size_t i = from; i < to; i++)
        if (strcmp(old->records[i].name, new->records[0].name) != 0)
            new->records[new->count++] = old->records[i];
}

/* `live`: the name that current has; "" for none. */
static enum status history_put(const struct root_handle *root, const char *live,
                               const struct root_history *old, const struct root_record *record,
                               struct error *err)
{
    struct root_history new = {.records = calloc(old->count + 2, sizeof(*new.records))};
    if (!new.records)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(root->path));
    new.records[new.count++] = *record;
    size_t at = root_history_find(old, live);
    if (at < old->count) {
        history_append(&new, old, at, old->count);
        history_append(&new, old, 0, at);
    } else {
        /* Made live by other means than these, or before there was a history. */
        if (live[0] != '\0' && strcmp(live, record->name) != 0) {
            struct root_record *other = &new.records[new.count++];
            *other = (struct root_record){.recall = ROOT_RECALL_UNKNOWN};
            snprintf(other->name, sizeof(other->name), "%s", live);
        }
        history_append(&new, old, 0, old->count);
    }
    enum status status = root_history_write(root, &new, err);
    root_history_free(&new);
    return status;
}

static enum status history_update(const struct root_handle *root, const char *name,
                                  struct digest128 id, double recall, struct error *err)
{
    char live[NAME_MAX + 2] = "";
    struct root_history old;
    /* A link that leads nowhere is replaced like any other. */
    if (root_link_read(root, live, NULL) != STATUS_OK)
        live[0] = '\0';
    enum status status = root_history_read(root, &old, err);
    if (status != STATUS_OK)
        return status;
    const struct root_record record = record_make(&old, name, id, recall);
    status = history_put(root, live, &old, &record, err);
    root_history_free(&old);
    return status;
}

/* ---- publishing ---- */

static enum status publish_locked(const struct root_handle *root, const char *name,
                                  const struct publish_facts *facts, struct error *err)
{
    struct generation *generation;
    enum status status = root_entry_open(root, name, &generation, err);
    if (status != STATUS_OK)
        return status;
    const struct digest128 id = generation_manifest(generation)->generation_id;
    generation_close(generation); /* nobody removes it under the lock */
    if (facts && (facts->id.low != id.low || facts->id.high != id.high))
        return error_set(err, STATUS_INVALID, "%s/%s: was replaced after it was checked",
                         file_label(root->path), name);
    status = root_link_check(root, err);
    if (status == STATUS_OK)
        status = history_update(root, name, id, facts ? facts->recall : ROOT_RECALL_UNKNOWN, err);
    if (status == STATUS_OK)
        status = root_link_swap(root, name, err);
    return status;
}

static enum status name_check(const char *path, const char *name, struct error *err)
{
    if (root_name_valid(name))
        return STATUS_OK;
    return error_set(err, STATUS_INVALID,
                     "\"%s\" cannot name a generation: want the name of a directory in %s",
                     file_label(name), file_label(path));
}

enum status publish_open(const char *path, const char *name, struct generation **out,
                         struct error *err)
{
    struct root_handle root;
    enum status status = name_check(path, name, err);
    if (status == STATUS_OK)
        status = root_open(path, &root, err);
    if (status != STATUS_OK)
        return status;
    status = root_entry_open(&root, name, out, err);
    root_close(&root);
    return status;
}

enum status publish_generation_checked(const char *path, const char *name,
                                       const struct publish_facts *facts, struct error *err)
{
    struct root_handle root;
    enum status status = name_check(path, name, err);
    if (status == STATUS_OK)
        status = root_open(path, &root, err);
    if (status != STATUS_OK)
        return status;
    status = root_lock(&root, err);
    if (status == STATUS_OK)
        status = publish_locked(&root, name, facts, err);
    root_close(&root);
    return status;
}

enum status publish_generation(const char *root, const char *name, struct error *err)
{
    return publish_generation_checked(root, name, NULL, err);
}

enum status publish_current(const char *root_path, char *path, size_t path_bytes, struct error *err)
{
    struct root_handle root;
    char name[NAME_MAX + 2];
    enum status status = root_open(root_path, &root, err);
    if (status != STATUS_OK)
        return status;
    status = root_link_read(&root, name, err);
    struct stat info;
    if (status == STATUS_OK && fstatat(root.fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        status = error_set(err, STATUS_NOT_FOUND, "%s/%s: points to \"%s\", which does not exist",
                           file_label(root_path), PUBLISH_LINK_NAME, name);
    /* A link to a link could lead anywhere. */
    else if (status == STATUS_OK && !S_ISDIR(info.st_mode))
        status = error_set(err, STATUS_INVALID, "%s/%s: points to \"%s\", which is no directory",
                           file_label(root_path), PUBLISH_LINK_NAME, name);
    root_close(&root);
    if (status != STATUS_OK)
        return status;
    int length = snprintf(NULL, 0, "%s/%s", root_path, name);
    if (length < 0 || (size_t)length >= path_bytes)
        return error_set(err, STATUS_INVALID, "%s/%s: the path is longer than %zu bytes",
                         file_label(root_path), name, path_bytes);
    snprintf(path, path_bytes, "%s/%s", root_path, name);
    return STATUS_OK;
}
