/*
 * root.h - a root directory as a whole: which generations are in it, going back to an earlier one,
 * removing old ones. Publishing is in publish.h.
 *
 * A root holds generations, the link `current`, `history` (what was published, newest first) and
 * `.lock`, which all who change the root hold meanwhile. Everything here may be killed at any
 * instruction and run beside itself and publish_generation(): `current` always names a whole
 * generation, and what was left half done is finished by the next call.
 *
 * Thread rules: stateless; any thread.
 */
#ifndef NIGHTJAR_LAYOUT_ROOT_H
#define NIGHTJAR_LAYOUT_ROOT_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/manifest.h"

#define ROOT_RECALL_UNKNOWN (-1.0)

/* ---- what is there ---- */

enum root_state {
    ROOT_COMPLETE,   /* opens: the manifest is right, every file there, of the right length */
    ROOT_INCOMPLETE, /* data files without a manifest: a build that runs or did not finish */
    ROOT_DAMAGED,    /* a manifest that does not open */
};

struct root_entry {
    char name[NAME_MAX + 1];
    enum root_state state;
    bool live;          /* `current` names it */
    bool previous;      /* root_rollback() would take it */
    bool in_use;        /* a process has it open; always false where the file system cannot lock */
    uint32_t published; /* place in the history from 1; 0: not there */
    int64_t published_at; /* Unix time; 0: unknown */
    double recall;        /* measured before publishing; ROOT_RECALL_UNKNOWN */
    uint64_t bytes;       /* of all its files */
    int64_t modified_ns;  /* Unix time of the manifest; 0: it has none */
    /* of a complete one: */
    struct digest128 id;
    uint64_t vector_count;
    char reason[ERROR_TEXT_BYTES]; /* why it is not complete; else "" */
};

struct root_listing {
    struct root_entry *entries;
    size_t count;
};

/* Every directory of the root that is a generation or would become one: those of the history in its
 * order, then the rest, newest manifest first. Reads manifests and lengths; takes no lock of the
 * root, so that a root that cannot be written is listed too. */
NODISCARD enum status root_list(const char *root, struct root_listing *out, struct error *err);

/* What a daemon may serve when the live generation does not open, best first: complete ones without
 * the live one; those of the history that were published before the live one, newest first, then
 * those that were published after it, then the rest, newest manifest first. */
NODISCARD enum status root_candidates(const char *root, struct root_listing *out,
                                      struct error *err);

void root_listing_free(struct root_listing *listing);

/* ---- changing it ---- */

enum root_action {
    ROOT_SKIPPED, /* a rollback passed over it */
    ROOT_KEPT,
    ROOT_REMOVED, /* or would be, in a dry run */
};

struct root_event {
    enum root_action action;
    const char *name;
    const char *reason; /* for which it was skipped or kept, or removed out of turn; may be "" */
    uint64_t bytes;     /* of all its files; 0 for a skipped one */
};

/* Told of each generation as it is dealt with. */
struct root_observer {
    void (*on_event)(void *context, const struct root_event *event);
    void *context;
};

/* A generation by which `current` was replaced, and that one. */
struct root_move {
    char from[NAME_MAX + 2];
    char to[NAME_MAX + 1];
};

/* Points `current` at the generation that the history names after the live one and that opens;
 * where the history does not name the live one, at its first. The history stays, so that another
 * rollback goes one further back. What is passed over because it does not open is told.
 * STATUS_NOT_FOUND: nothing is published, or nothing is left to go back to. */
NODISCARD enum status root_rollback(const char *root, const struct root_observer *observer,
                                    struct root_move *out, struct error *err);

struct root_prune_options {
    uint32_t keep; /* complete generations, >= 1 */
    bool dry_run;  /* change nothing, tell what would be removed */
    struct root_observer observer;
};

/* Removes complete generations but the first `keep` in the order of root_list(), of which the live
 * one is always one. One that is in use stays, one that holds anything but files, and whatever is
 * not a complete generation. A generation is renamed to a name that nothing opens before its first
 * file goes; the files go without the lock, so that a publisher does not wait for them. */
NODISCARD enum status root_prune(const char *root, const struct root_prune_options *options,
                                 struct error *err);

#endif
