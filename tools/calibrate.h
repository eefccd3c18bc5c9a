/*
 * calibrate.h - what searches of a generation find for how many reads, measured before its manifest
 * is written, so that a client can ask for a recall (query/recall_choice.h).
 *
 * The engine runs the queries of sample.bin, each with its own node left out, and queries to tune
 * to, over a ladder of search lists and stop ratios. Everything is counted in whole numbers and a
 * search's steps do not depend on what is cached, so the curves are the same at any number of
 * threads and memory budget.
 */
#ifndef NIGHTJAR_TOOLS_CALIBRATE_H
#define NIGHTJAR_TOOLS_CALIBRATE_H

#include <stdbool.h>

#include "builder/build.h"
#include "common/error.h"
#include "layout/manifest.h"

/* Fills in manifest->curves and manifest->lid; build_params.calibrate. `context` is not used.
 * STATUS_IO: a block could not be read. STATUS_CANCELLED: *job->cancel was set; it is looked at for
 * each point of a curve. */
NODISCARD enum status calibrate_run(void *context, const struct build_calibration *job,
                                    struct manifest *manifest, struct error *err);

/* Local intrinsic dimension by maximum likelihood (Levina & Bickel 2004) at the sample's queries,
 * put together as their harmonic mean (MacKay & Ghahramani 2005); rounded to hundredths. 0: the
 * metric is ip, whose distances are none of a space, or there are too few distinct neighbours. */
double calibrate_lid(const struct sample *sample);

enum { CALIBRATE_WARNING_BYTES = 320 };

/* Whether an index helps little with such data; then `text` says why, in a line. */
bool calibrate_warning(const struct manifest *manifest, char text[CALIBRATE_WARNING_BYTES]);

#endif
