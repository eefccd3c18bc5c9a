/*
 * encode.h - the codec: trained on a sample of rows, then applied to every row in node order.
 */
#ifndef NIGHTJAR_BUILDER_ENCODE_H
#define NIGHTJAR_BUILDER_ENCODE_H

#include <stdint.h>

#include "builder/build_monitor.h"
#include "builder/vector_set.h"
#include "common/codec.h"
#include "common/error.h"

enum {
    ENCODE_SAMPLE_MAX = 65536, /* 256 rows a centroid: more changes recall by less than its noise */
};

/* Rows a codec for `count` rows is trained on. */
uint32_t encode_sample_rows(uint32_t count);

/* Trains a codec of `params` on a seeded sample of the set. On success *codec is the caller's. */
NODISCARD enum status encode_train(const struct vector_set *set, const struct codec_params *params,
                                   struct codec **codec, struct error *err);

/* Codes of all nodes: bulk_alloc'd [node_limit * code_bytes], node i's from row row_of_node[i],
 * zeros where that is UINT32_MAX. On success *codes is the caller's to bulk_free(codes, node_limit,
 * code_bytes). Uses the caller's OpenMP team. */
NODISCARD enum status encode_nodes(const struct vector_set *set, const struct codec *codec,
                                   const uint32_t *row_of_node, uint32_t node_limit,
                                   const struct build_monitor *monitor, uint8_t **codes,
                                   struct error *err);

#endif
