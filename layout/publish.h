/*
 * publish.h - ROOT/current: the symlink that names the live generation.
 */
#ifndef NIGHTJAR_LAYOUT_PUBLISH_H
#define NIGHTJAR_LAYOUT_PUBLISH_H

#include <stddef.h>

#include "common/error.h"

#define PUBLISH_LINK_NAME "current"

/* Points ROOT/current at generation directory `name` (an entry of root, no slash) by symlink under
 * a temporary name, rename, fsync of root. The generation must open (generation_open). Safe to kill
 * at any point: current is either the old or the new one. */
NODISCARD enum status publish_generation(const char *root, const char *name, struct error *err);

/* Resolves ROOT/current to "ROOT/NAME" in path[path_bytes]. STATUS_NOT_FOUND when nothing is
 * published; a link that points outside root is STATUS_INVALID. */
NODISCARD enum status publish_current(const char *root, char *path, size_t path_bytes,
                                      struct error *err);

#endif
