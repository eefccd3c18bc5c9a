/*
 * digest.h - XXH3-128 from the library's type to ours, for files that hash. Apart from manifest.h,
 * so that whoever only passes digests on does not see xxhash.h.
 */
#ifndef NIGHTJAR_LAYOUT_DIGEST_H
#define NIGHTJAR_LAYOUT_DIGEST_H

#include <xxhash.h>

#include "common/compiler.h"
#include "layout/manifest.h"

ALWAYS_INLINE struct digest128 digest_of(XXH128_hash_t hash)
{
    return (struct digest128){.low = hash.low64, .high = hash.high64};
}

#endif
