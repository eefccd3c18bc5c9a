/*
 * encode.h - the codec: trained on a sample of rows, then applied to every row in node order.
 */
#ifndef NIGHTJAR_BUILDER_ENCODE_H
#define NIGHTJAR_BUILDER_ENCODE_H

#include <stdint.h>

#include "common/codec.h"
#include "common/codec_choose.h"
#include "common/error.h"
#include "common/vector_file.h"

enum {
    ENCODE_SAMPLE_MAX = 65536, /* 256 rows a centroid: more changes recall by less than its noise */
};

/* Rows a codec for `count` rows is trained on. */
uint32_t encode_sample_rows(uint32_t count);

/* Trains a codec of `params`, whose kind may be CODEC_AUTO, on a seeded sample of the file's rows.
 * On success *codec is the caller's and *choice tells how it was chosen. */
NODISCARD enum status encode_train(const struct vector_file *file,
                                   const struct codec_params *params, struct codec_choice *choice,
                                   struct codec **codec, struct error *err);

/* Fills codes[node_count * code_bytes]: node i's from packed row row_of_node[i] of `rows`, zeros
 * where that is UINT32_MAX. Uses the caller's OpenMP team. */
NODISCARD enum status encode_nodes(const struct codec *codec, const void *rows,
                                   const uint32_t *row_of_node, uint32_t node_count, uint8_t *codes,
                                   struct error *err);

#endif
