/*
 * codec_choose.h - which codec suits some vectors, found by trying.
 *
 * No codec wins everywhere, and neither spectrum nor squared error foretells recall: at 32 bytes,
 * principal axes take 768-d vectors of a power-law spectrum from 0.44 to 0.77 of the true ten among
 * the first 14, SIFT from 0.865 to 0.869, and SIFT at 16 bytes from 0.671 down to 0.648. So the
 * candidates are trained on a part of the sample and their recall is measured on it.
 */
#ifndef NIGHTJAR_COMMON_CODEC_CHOOSE_H
#define NIGHTJAR_COMMON_CODEC_CHOOSE_H

#include "common/codec.h"

/* In the order in which equals are preferred. A correction comes late: what it gains among the few
 * rows of a sample is often lost among all. */
enum {
    CODEC_CHOICE_PQ,
    CODEC_CHOICE_TURN,      /* opq: principal axes */
    CODEC_CHOICE_BYTE,      /* opq: a correction byte */
    CODEC_CHOICE_TURN_BYTE, /* opq: both */
    CODEC_CHOICE_COUNT,
    CODEC_CHOICE_TEXT_BYTES = 256,
    CODEC_CHOICE_ROWS_MAX = 16384, /* that candidates are measured on */
    CODEC_TURN_DIM_MAX = 2048,     /* above, finding axes takes minutes: they are no candidates */
};

/* Of fixed layout without padding: builds record it. */
struct codec_choice {
    uint32_t kind;                    /* enum codec_kind; 0: nothing was trained */
    uint32_t candidate;               /* CODEC_CHOICE_* if queries > 0 */
    uint32_t rows, queries;           /* that were measured with; 0: nothing was measured */
    float recall[CODEC_CHOICE_COUNT]; /* share of the true 10 nearest among the first 10 by
                                       * code distance; -1: not a candidate */
};

/* codec_train(), but that for CODEC_AUTO and CODEC_OPQ the candidates of either are measured first
 * and the best is trained. Equal within noise: the simplest. A sample too small to measure on gives
 * pq, or opq without measuring. Deterministic as codec_train() is. *choice may be NULL. */
NODISCARD enum status codec_train_chosen(const struct codec_params *params, const void *rows,
                                         size_t count, struct codec_choice *choice,
                                         struct codec **out, struct error *err);

/* "pq", "opq byte", "opq turn", "opq turn+byte" for CODEC_CHOICE_*. Static storage. */
const char *codec_candidate_name(uint32_t candidate);

/* One line without its end: what was chosen and the numbers it was chosen by. */
void codec_choice_describe(const struct codec_choice *choice, char text[CODEC_CHOICE_TEXT_BYTES]);

#endif
