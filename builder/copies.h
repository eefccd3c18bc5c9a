/*
 * copies.h - rows that are copies of one another, so that one can stand for all.
 */
#ifndef NIGHTJAR_BUILDER_COPIES_H
#define NIGHTJAR_BUILDER_COPIES_H

#include <stdint.h>

#include "builder/tile.h"
#include "builder/vector_set.h"
#include "common/error.h"

struct copies {
    uint32_t *distinct; /* [distinct_count] the first of each, ascending; NULL: no row is a copy */
    uint32_t distinct_count;
    uint32_t *next; /* [count] the next copy, of the last the first; NULL as above */
    uint32_t count;
};

/* Finds rows of equal bytes in `rows`, the view of the set, at distance zero in the set. With the
 * caller's team; the same at any number of threads. On success the caller's to copies_destroy().
 * Of rows of equal bytes whose distances are not zero only the first few dozen have copies: finding
 * all of them would take the square of their number. */
NODISCARD enum status copies_find(const struct vector_set *set, const struct byte_rows *rows,
                                  struct copies *copies, struct error *err);
void copies_destroy(struct copies *copies);

/* Bytes that stay, at most. Finding them takes two more u64 a row for a while. */
uint64_t copies_bytes(uint64_t count);

ALWAYS_INLINE uint32_t copies_distinct_row(const struct copies *copies, uint32_t i)
{
    return copies->distinct ? copies->distinct[i] : i;
}

/* The row itself where it has no copies. */
ALWAYS_INLINE uint32_t copies_next(const struct copies *copies, uint32_t row)
{
    return copies->next ? copies->next[row] : row;
}

#endif
