/*
 * byte_view.h - a set's rows as bytes whose squared distance follows the set's build distance
 * (under ip only where lengths are alike): what candidates are found by, whatever the element type
 * and metric. Which of them become edges is decided by true distances.
 *
 * Rows of bytes under l2 are their own view. Of others a copy is made: each value less the middle
 * of its dimension's, in steps of the same size in every dimension, so that squared distances keep
 * their proportions; the step follows the dimension that varies most. Under cosine rows are scaled
 * to length 1; and under ip, where bytes of the reduction (vector_set.h) would tell long rows only.
 * Rows of one direction are what candidates are then taken from, near ones and long ones
 * (promising.h).
 */
#ifndef NIGHTJAR_BUILDER_BYTE_VIEW_H
#define NIGHTJAR_BUILDER_BYTE_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/tile.h"
#include "builder/vector_set.h"
#include "common/error.h"

struct byte_view {
    struct byte_rows rows;
    uint8_t *owned; /* NULL: the rows are the set's own */
    uint32_t count;
};

/* True if the build distance of the set is the squared distance of its bytes; and these then. */
bool byte_view_exact(const struct vector_set *set);
struct byte_rows byte_view_of_set(const struct vector_set *set);
/* Bytes of a row of a view that is a copy; 0 where none is made. */
uint64_t byte_view_row_bytes(enum element_type type, enum metric metric, uint64_t dim);

/* Makes the view of a prepared set with the caller's team. It refers to the set. The same bytes at
 * any number of threads. */
NODISCARD enum status byte_view_create(const struct vector_set *set, struct byte_view *view,
                                       struct error *err);
/* False if neighbours are so near one another that the bytes' steps cannot tell which is nearer:
 * many rows in few dimensions, or one dimension that outweighs the others. Judged by the distances
 * to the nearest in samples of two sizes, from which that in the whole set follows; rows that are
 * their own view are true. */
NODISCARD enum status byte_view_judge(const struct vector_set *set, const struct byte_view *view,
                                      bool *faithful, struct error *err);
void byte_view_destroy(struct byte_view *view);

#endif
