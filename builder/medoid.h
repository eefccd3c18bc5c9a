/*
 * medoid.h - the most central row of a set: where searches of its graph begin.
 */
#ifndef NIGHTJAR_BUILDER_MEDOID_H
#define NIGHTJAR_BUILDER_MEDOID_H

#include <stdint.h>

#include "builder/vector_set.h"
#include "common/error.h"

/* The row nearest the centroid (by plain L2, whatever the metric: it only has to be central); of
 * equal ones the first. Uses the caller's team; the same row at any number of threads. */
NODISCARD enum status medoid_find(const struct vector_set *set, uint32_t *medoid,
                                  struct error *err);

#endif
