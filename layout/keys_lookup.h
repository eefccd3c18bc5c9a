/*
 * keys_lookup.h - keys.bin of an opened generation, read: its first keys for who looks up many
 * keys, and a single key or vector with nothing loaded.
 *
 * Reads are of whole pages and blocks, around the page cache where the file system allows. Any
 * thread; a call allocates and blocks. STATUS_CORRUPT names the page or block, STATUS_IO the file.
 */
#ifndef NIGHTJAR_LAYOUT_KEYS_LOOKUP_H
#define NIGHTJAR_LAYOUT_KEYS_LOOKUP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "layout/generation.h"
#include "layout/keys.h"

/* Reads and verifies the first key of every key page. *firsts is from bulk_alloc(keys_pages(),
 * sizeof(uint64_t)), the caller's to bulk_free(). */
NODISCARD enum status keys_lookup_firsts(const struct generation *generation, uint64_t **firsts,
                                         struct error *err);

/* The node of `key`. It takes some reads: as many as bisect the directory pages, and one. *node is
 * written only when the key is there (*found). */
NODISCARD enum status keys_lookup(const struct generation *generation, uint64_t key, uint32_t *node,
                                  bool *found, struct error *err);

/* Copies the vector of `node`, `vector_bytes` as they are stored, and compares its key with `key`:
 * another one is STATUS_CORRUPT. */
NODISCARD enum status keys_lookup_vector(const struct generation *generation, uint32_t node,
                                         uint64_t key, void *vector, struct error *err);

#endif
