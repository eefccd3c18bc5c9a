/*
 * publish.h - ROOT/current: the symlink that names the live generation. The root directory as a
 * whole is root.h's.
 */
#ifndef NIGHTJAR_LAYOUT_PUBLISH_H
#define NIGHTJAR_LAYOUT_PUBLISH_H

#include <stddef.h>

#include "common/error.h"
#include "layout/manifest.h"

#define PUBLISH_LINK_NAME "current"

struct generation;

/* Opens ROOT/NAME by the rules of publish_generation(): a name in the root, not a link. */
NODISCARD enum status publish_open(const char *root, const char *name, struct generation **out,
                                   struct error *err);

/* What the caller found out about a generation before. */
struct publish_facts {
    struct digest128 id;
    double recall; /* ROOT_RECALL_UNKNOWN: not measured */
};

/* Points ROOT/current at generation directory `name` (an entry of root, no slash), under the lock
 * of the root: `name` is put in front of ROOT/history, then current swapped (symlink under a
 * temporary name, rename, fsync of root). The generation must open (generation_open), and with
 * `facts` (borrowed; NULL: none) be the one they are about: STATUS_INVALID. STATUS_BUSY: it is
 * being removed. Safe to kill at any point: current is either the old or the new one, and a history
 * that names one more than was published says nothing wrong about the way back.
 *
 * The history is the way back from the new one: behind it come the one that was live, then what was
 * published before that; what was gone back from, or never became live, comes last. Waits for other
 * publishers. */
NODISCARD enum status publish_generation_checked(const char *root, const char *name,
                                                 const struct publish_facts *facts,
                                                 struct error *err);

/* As above, without facts. */
NODISCARD enum status publish_generation(const char *root, const char *name, struct error *err);

/* Resolves ROOT/current to "ROOT/NAME" in path[path_bytes]. STATUS_NOT_FOUND when nothing is
 * published; a link that points outside root is STATUS_INVALID. */
NODISCARD enum status publish_current(const char *root, char *path, size_t path_bytes,
                                      struct error *err);

#endif
