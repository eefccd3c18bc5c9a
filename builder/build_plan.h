/*
 * build_plan.h - what a build would take, before it is started: `nightjar-build --plan`.
 */
#ifndef NIGHTJAR_BUILDER_BUILD_PLAN_H
#define NIGHTJAR_BUILDER_BUILD_PLAN_H

#include <stdint.h>

#include "builder/build.h"
#include "builder/build_size.h"

struct build_plan {
    struct vector_shape shape;
    uint32_t threads;
    struct build_size size;            /* bounds on memory, estimates of disk */
    double stage_s[BUILD_STAGE_COUNT]; /* wall time, within a factor of two or so */
    double total_s;
    uint32_t calibration_rows; /* rows the times were scaled from */
};

/* Runs the stages on a few thousand rows of the input and scales their times (seconds of work);
 * writes nothing. params->output is not looked at. A bad row among those read is reported as by a
 * build. */
NODISCARD enum status build_plan_make(const struct build_params *params, struct build_plan *plan,
                                      struct error *err);

#endif
