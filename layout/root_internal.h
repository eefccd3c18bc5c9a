/*
 * root_internal.h - what publish.c, root.c and root_prune.c share: a root directory while a command
 * works on it (root_handle.c), and its history (root_history.c). Internal to layout.
 *
 * A handle belongs to one thread. Of several processes, one at a time holds the lock.
 */
#ifndef NIGHTJAR_LAYOUT_ROOT_INTERNAL_H
#define NIGHTJAR_LAYOUT_ROOT_INTERNAL_H

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout/generation.h"
#include "layout/root.h"
#include "layout/store.h"

#define ROOT_LOCK_NAME       ".lock"
#define ROOT_HISTORY_NAME    "history"
#define ROOT_REMOVING_PREFIX ".removing-" /* before the name of what is being removed */

/* ---- the directory ---- */

struct root_handle {
    const char *path; /* borrowed */
    int fd;
    struct store_file lock; /* fd -1: not held */
};

/* STATUS_NOT_FOUND, STATUS_INVALID: no such directory. */
NODISCARD enum status root_open(const char *path, struct root_handle *out, struct error *err);
/* Waits for the lock of all who change the root. It ends with root_unlock() or the process. */
NODISCARD enum status root_lock(struct root_handle *root, struct error *err);
void root_unlock(struct root_handle *root);
/* Unlocks too. */
void root_close(struct root_handle *root);

/* A name that an entry of a root can have and that is not one of ours. */
bool root_name_valid(const char *name);

/* Opens ROOT/NAME, which must be a directory of its own and not a link. */
NODISCARD enum status root_entry_open(const struct root_handle *root, const char *name,
                                      struct generation **out, struct error *err);

/* The name that `current` has for its target, whether or not that is there. STATUS_NOT_FOUND:
 * nothing is published; STATUS_INVALID: not a link to a name in the root. */
NODISCARD enum status root_link_read(const struct root_handle *root, char name[NAME_MAX + 2],
                                     struct error *err);
/* Nothing but a link stands in the way of root_link_swap(), which would destroy it. */
NODISCARD enum status root_link_check(const struct root_handle *root, struct error *err);
/* Points `current` at `name`, under the lock. */
NODISCARD enum status root_link_swap(const struct root_handle *root, const char *name,
                                     struct error *err);

/* Calls on_entry() for each entry of a directory but "." and "..", until it fails. `path` is for
 * messages. */
typedef enum status (*root_entry_fn)(void *context, const struct dirent *entry, struct error *err);
NODISCARD enum status root_each_entry(int directory_fd, const char *path, root_entry_fn on_entry,
                                      void *context, struct error *err);

/* ---- the history ---- */

enum { ROOT_HISTORY_MAX = 1000 };

/* One line: NAME id=HEX at=SECONDS recall=SHARE, of which all but the name may be missing. */
struct root_record {
    char name[NAME_MAX + 1];
    struct digest128 id;
    int64_t at;    /* Unix time of the publishing; 0: unknown */
    double recall; /* measured before it; ROOT_RECALL_UNKNOWN */
    bool id_known;
};

/* In the order in which to go back: the one published last is first. Each name once. */
struct root_history {
    struct root_record *records;
    size_t count;
};

/* A history that is missing or not a file is empty, and lines that are none are left out: it helps
 * to go back, but nothing that is served depends on it. Fails only where the kernel does. */
NODISCARD enum status root_history_read(const struct root_handle *root, struct root_history *out,
                                        struct error *err);
/* Replaces the file, whole or not at all; all but the first ROOT_HISTORY_MAX are dropped. */
NODISCARD enum status root_history_write(const struct root_handle *root,
                                         const struct root_history *history, struct error *err);
void root_history_free(struct root_history *history);

/* Place of a name; history->count when it is not there. */
size_t root_history_find(const struct root_history *history, const char *name);
/* False when the record tells of another generation of the same name. */
bool root_record_matches(const struct root_record *record, struct digest128 id);

/* ---- the entries ---- */

/* All entries, as root_list() gives them; in_use is asked for only where `ask_in_use`. */
NODISCARD enum status root_listing_read(const struct root_handle *root, bool ask_in_use,
                                        struct root_listing *out, struct error *err);

/* Takes the exclusive lock of a generation's directory without waiting; it ends with the
 * descriptor. False: somebody has it open. */
bool root_entry_claim(int directory_fd);

#endif
