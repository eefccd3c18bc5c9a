/*
 * proof.h - an opened generation answers queries of its own before anyone else's: that it can be
 * read and searched is seen before it goes live, and what the first queries touch is touched.
 */
#ifndef NIGHTJAR_QUERY_PROOF_H
#define NIGHTJAR_QUERY_PROOF_H

#include "common/error.h"
#include "query/engine.h"

struct proof {
    uint32_t queries;  /* of the generation's sample.bin; 0: it has no neighbours to ask for */
    uint32_t degraded; /* answers that miss blocks */
    double recall;     /* @10, or as many as there are, with a list of 100 */
};

/* Searches for up to 64 vectors of the sample in `engine`, few at a time, as others may need the
 * device. STATUS_CORRUPT: sample.bin is damaged; STATUS_IO: it cannot be read; STATUS_NO_MEMORY.
 * That answers are degraded is not a failure: *out tells. Blocks for some milliseconds, or while a
 * device hangs for some of the engine's read timeouts. Not for the engine's own threads. */
NODISCARD enum status proof_run(struct engine *engine, struct proof *out, struct error *err);

#endif
